//! A take into a bucket that is killed: its claim is left, nothing is listed, and the next take succeeds.

use std::process::{Command, Stdio};

use crate::{
    on_both,
    support::{Engine, TestDb, process::command, s3},
};

on_both! {
    a_take_that_was_killed_leaves_a_claim_and_nothing_that_is_listed;
}

const TAKE: [&str; 4] = ["snapshot", "take", "--table", "billing"];

fn run_ok(mut command: Command) -> String {
    let output = tokio::task::block_in_place(|| command.output()).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the keys of the bucket's objects that end like this.
fn keys(bucket: &s3::Shared, end: &str) -> Vec<String> {
    bucket.lock().unwrap().objects.keys().filter(|key| key.ends_with(end)).cloned().collect()
}

/// Starts a take and kills it after its claim: no request is answered while the bucket is held. Returns false if the
/// take was too fast.
fn is_killed(mut take: Command, bucket: &s3::Shared) -> bool {
    let mut take = take.stdout(Stdio::null()).spawn().unwrap();
    while take.try_wait().unwrap().is_none() {
        let held = bucket.lock().unwrap();
        let is_there = |end: &str| held.objects.keys().any(|key| key.ends_with(end));
        if is_there(".claim") && !is_there(".sqlite.zst") {
            take.kill().unwrap();
            take.wait().unwrap();
            return true;
        }
        drop(held);
        std::thread::yield_now();
    }
    false
}

async fn a_take_that_was_killed_leaves_a_claim_and_nothing_that_is_listed(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.fill_lab(1, "2026-03-01".parse().unwrap(), 2, 30).await;
    let (address, bucket) = s3::serve().await;
    let daymend = |args: &[&str]| {
        let mut command = command(&db, args);
        s3::use_store(&mut command, address, "s3://backups/lab", ("test-key", "test-secret"));
        command
    };
    let killed = (0..100).any(|_| {
        bucket.lock().unwrap().objects.clear();
        is_killed(daymend(&TAKE), &bucket)
    });
    assert!(killed, "every take was too fast");
    let claims = keys(&bucket, ".claim");
    assert_eq!((claims.len(), keys(&bucket, ".json").len()), (1, 0));
    assert!(run_ok(daymend(&["snapshot", "list"])).contains("no snapshot yet"));

    assert!(run_ok(daymend(&TAKE)).contains("60 rows of 1 tables"));
    assert!(run_ok(daymend(&["snapshot", "verify", "--all"])).contains("whole (60 rows of 1 tables)"));
    // The claim stays for a day, as whoever made it may only be slow.
    run_ok(daymend(&["snapshot", "prune"]));
    assert_eq!(keys(&bucket, ".claim"), claims);
    bucket.lock().unwrap().old.extend(claims);
    run_ok(daymend(&["snapshot", "prune"]));
    assert_eq!((keys(&bucket, ".claim").len(), keys(&bucket, ".json").len()), (0, 1));
}
