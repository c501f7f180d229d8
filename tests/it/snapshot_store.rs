//! Where snapshots are kept: what is listed is complete, damage is found, and old snapshots are removed.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use daymend::{
    clock::Clock,
    snapshot::{self, Name, SnapshotError, Store, retention, verify},
};
use sha2::{Digest as _, Sha256};

use crate::{
    on_both,
    snapshot::{open_latest, rows},
    support::{
        Engine, TestDb,
        process::{self, Process, run, run_fails, run_ok},
        s3,
    },
};

on_both! {
    every_sort_of_damage_is_found;
    a_file_made_anew_around_other_rows_is_found;
    a_file_that_its_manifest_does_not_mean_is_not_opened;
    commands_list_show_and_prune;
    a_snapshot_of_some_tables_stands_for_no_full_one;
    a_snapshot_of_a_moment_to_come_stands_for_none;
    of_two_that_are_taken_in_one_second_one_is_there;
}

const FAILED: i32 = 1;
const USAGE: i32 = 2;

async fn some_rows(engine: Engine) -> TestDb {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.fill_lab(1, "2026-03-01".parse().unwrap(), 2, 30).await;
    db
}

async fn take_at(db: &TestDb, store: &Store, at: &str) -> Name {
    let clock = Clock::Fixed(at.parse().unwrap());
    let tables = ["billing".to_owned()];
    snapshot::take(&db.admin, store, Some(&tables), clock, &|_| ()).await.unwrap().name
}

async fn every_sort_of_damage_is_found(engine: Engine) {
    let db = some_rows(engine).await;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let store = Store::dir(dir.path());
    let name = take_at(&db, &store, "2026-11-21T04:00:00Z").await;
    assert!(run_ok(&db, &["snapshot", "verify", "latest", "--store", place]).contains("whole (60 rows of 1 tables)"));
    let (data, manifest) = (dir.path().join(name.data()), dir.path().join(name.manifest()));
    let (packed, said) = (fs::read(&data).unwrap(), fs::read_to_string(&manifest).unwrap());
    let damages: [(&str, &Path, Vec<u8>); 6] = [
        ("a byte in the middle", &data, flipped(&packed, packed.len() / 2)),
        ("the last byte", &data, flipped(&packed, packed.len() - 1)),
        ("cut off", &data, packed[..packed.len() - 100].to_vec()),
        ("something behind it", &data, [packed.as_slice(), b"more"].concat()),
        ("another count", &manifest, said.replace("\"rows\": 60", "\"rows\": 61").into_bytes()),
        ("half a manifest", &manifest, said.as_bytes()[..said.len() / 2].to_vec()),
    ];
    for (what, path, bytes) in damages {
        let good = fs::read(path).unwrap();
        assert_ne!(good, bytes, "{what}");
        fs::write(path, bytes).unwrap();
        let report = verify::verify(&store, name, |_| ()).await.unwrap();
        assert!(!report.is_whole(), "{what}");
        assert!(matches!(snapshot::open(&store, name).await, Err(SnapshotError::Damaged { .. })), "{what}");
        let output = run(&db, &["snapshot", "verify", "--all", "--store", place]);
        assert_eq!(output.status.code(), Some(FAILED), "{what}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("DAMAGED"), "{what}");
        fs::write(path, good).unwrap();
    }
    fs::remove_file(&data).unwrap();
    let report = verify::verify(&store, name, |_| ()).await.unwrap();
    assert!(report.problems[0].contains("is missing"), "{report:?}");
    fs::write(&data, &packed).unwrap();
    assert!(verify::verify(&store, name, |_| ()).await.unwrap().is_whole());
    assert!(
        run_fails(&db, USAGE, &["snapshot", "verify", "2020-01-01T000000Z", "--store", place])
            .contains("does not exist")
    );
}

/// The hashes of the rows find more than the hash of the file.
async fn a_file_made_anew_around_other_rows_is_found(engine: Engine) {
    let db = some_rows(engine).await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::dir(dir.path());
    let name = take_at(&db, &store, "2026-11-21T04:00:00Z").await;
    let (data, said) = (dir.path().join(name.data()), dir.path().join(name.manifest()));
    let (packed, manifest) = (fs::read(&data).unwrap(), store.manifest(name).await.unwrap());
    for (sql, problem) in [
        ("SELECT 1", None),
        ("DELETE FROM billing WHERE id IN (SELECT MAX(id) FROM billing)", Some("table billing has 59 rows, not 60")),
        (
            "UPDATE billing SET id = id + 1000 WHERE id IN (SELECT MAX(id) FROM billing)",
            Some("do not match their hash"),
        ),
        ("UPDATE _daymend_tables SET json = '{}'", Some("and the manifest describe table billing differently")),
        (
            "INSERT INTO _daymend_tables SELECT 'more', json FROM _daymend_tables",
            Some("names 2 tables, the manifest 1"),
        ),
        (
            "CREATE INDEX odd ON billing (id); PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = 'CREATE INDEX odd ON billing (lab_id)' WHERE name = 'odd'",
            Some("SQLite's integrity check reports: "),
        ),
        ("DROP TABLE billing", Some("table billing cannot be read")),
    ] {
        let file = dir.path().join("unpacked");
        fs::write(&file, zstd::decode_all(packed.as_slice()).unwrap()).unwrap();
        let connection = rusqlite::Connection::open(&file).unwrap();
        connection.execute_batch(sql).unwrap();
        connection.close().unwrap();
        // Everything except the rows is consistent.
        let bytes = fs::read(&file).unwrap();
        let anew = zstd::encode_all(bytes.as_slice(), 1).unwrap();
        let mut other = manifest.clone();
        (other.sqlite_size, other.size) = (bytes.len() as u64, anew.len() as u64);
        other.sha256 = hex::encode(Sha256::digest(&anew));
        other.checksum = other.checksum().unwrap();
        fs::write(&data, anew).unwrap();
        fs::write(&said, serde_json::to_vec_pretty(&other).unwrap()).unwrap();
        let problems = verify::verify(&store, name, |_| ()).await.unwrap().problems;
        match problem {
            None => assert!(problems.is_empty(), "{problems:?}"),
            Some(problem) => assert!(problems.iter().any(|found| found.contains(problem)), "{sql}: {problems:?}"),
        }
    }
}

/// A restore does not verify a snapshot, so opening has to notice another file, or one that unpacks to too many bytes.
async fn a_file_that_its_manifest_does_not_mean_is_not_opened(engine: Engine) {
    let db = some_rows(engine).await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::dir(dir.path());
    let name = take_at(&db, &store, "2026-11-21T04:00:00Z").await;
    let manifest = store.manifest(name).await.unwrap();
    let mut others = [manifest.clone(), manifest.clone(), manifest.clone()];
    others[0].sha256 = hex::encode(Sha256::digest("another file"));
    others[1].sqlite_size -= 1;
    for (other, why) in
        others.iter_mut().zip([Some("does not match its hash"), Some("more bytes than were packed"), None])
    {
        other.checksum = other.checksum().unwrap();
        fs::write(dir.path().join(name.manifest()), serde_json::to_vec_pretty(other).unwrap()).unwrap();
        let error = snapshot::open(&store, name).await.err().map(|error| error.to_string());
        assert_eq!(error.is_some(), why.is_some(), "{error:?}");
        assert!(error.unwrap_or_default().contains(why.unwrap_or_default()), "{why:?}");
    }
}

/// What is listed is complete: the manifest is removed first and written last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_can_only_half_be_removed_or_added_is_not_listed() {
    let db = some_rows(Engine::Sqlite).await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::dir(dir.path());
    for day in 1..=2 {
        take_at(&db, &store, &format!("2026-11-{day:02}T02:00:00Z")).await;
    }
    // A directory in place of the data file can neither be removed nor replaced.
    let in_the_way = |name: &str| {
        let data = dir.path().join(format!("{name}.sqlite.zst"));
        let _ = fs::remove_file(&data);
        fs::create_dir(&data).unwrap();
        fs::write(data.join("x"), "x").unwrap();
    };
    in_the_way("2026-11-01T020000Z");
    let keep = "1 daily".parse().unwrap();
    assert!(retention::prune(&store, &keep, None, Clock::System.now(), false).await.is_err());
    let names = async || store.names().await.unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names().await, ["2026-11-02T020000Z"]);
    in_the_way("2026-11-03T020000Z");
    let clock = Clock::Fixed("2026-11-03T02:00:00Z".parse().unwrap());
    assert!(snapshot::take(&db.admin, &store, Some(&["labs".to_owned()]), clock, &|_| ()).await.is_err());
    assert_eq!(names().await, ["2026-11-02T020000Z"]);
}

/// A daily prune may come between two reads of a snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pruned_while_it_is_verified_is_gone_and_not_damaged() {
    let db = some_rows(Engine::Sqlite).await;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let store = Store::dir(dir.path());
    let name = take_at(&db, &store, "2026-11-21T04:00:00Z").await;
    let files = [dir.path().join(name.manifest()), dir.path().join(name.data())];
    let bytes = files.each_ref().map(|file| fs::read(file).unwrap());
    let mut whole = Duration::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        assert!(verify::verify(&store, name, |_| ()).await.unwrap().is_whole());
        whole = whole.min(begun.elapsed());
    }
    let (mut verified, mut gone) = (0, 0);
    for round in 0..300 {
        for (file, bytes) in files.iter().zip(&bytes) {
            fs::write(file, bytes).unwrap();
        }
        let pruned = files.clone();
        let pruning = std::thread::spawn(move || {
            // At first before the verification begins, in the end after it would have ended twice.
            std::thread::sleep(whole.mul_f64(f64::from(round) / 100.0));
            pruned.iter().for_each(|file| fs::remove_file(file).unwrap());
        });
        match verify::verify(&store, name, |_| ()).await {
            Ok(report) => {
                assert!(report.is_whole(), "{:?}", report.problems);
                verified += 1;
            }
            Err(error) => {
                assert!(matches!(error, SnapshotError::NoSnapshot(_)), "{error}");
                gone += 1;
            }
        }
        pruning.join().unwrap();
    }
    assert!(verified > 0 && gone > 0, "{verified} times it was verified before it was pruned, {gone} times not");
    // It is listed, but gone when its turn comes.
    std::os::unix::fs::symlink("nowhere", &files[0]).unwrap();
    take_at(&db, &store, "2026-11-22T04:00:00Z").await;
    let output = run(&db, &["snapshot", "verify", "--all", "--store", place]);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("2026-11-22T040000Z: whole") && text.contains("2026-11-21T040000Z was removed"), "{text}");
}

/// A snapshot that an earlier daymend has written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_the_first_format_is_read() {
    let store = Store::dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/snapshot-format-1"));
    let name = store.names().await.unwrap()[0];
    let report = verify::verify(&store, name, |_| ()).await.unwrap();
    assert!(report.is_whole() && report.rows == 4, "{report:?}");
    let opened = open_latest(&store).await;
    assert_eq!((opened.manifest.format, rows(&opened, "labs").await.len()), (1, 2));
    assert!(opened.manifest.table("bills").unwrap().table.unique_keys[0].partial);
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 0x10;
    bytes
}

/// Opening a pipe for reading may block for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_file_is_no_snapshot() {
    let db = some_rows(Engine::Sqlite).await;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let store = Store::dir(dir.path());
    let good = take_at(&db, &store, "2026-11-01T02:00:00Z").await.to_string();
    let bad = take_at(&db, &store, "2026-11-02T02:00:00Z").await;
    fs::remove_file(dir.path().join(bad.data())).unwrap();
    for file in ["2026-04-04T000000Z.json", &bad.data()] {
        assert!(Command::new("mkfifo").arg(dir.path().join(file)).status().unwrap().success());
    }
    let bad = bad.to_string();
    for command in [vec!["list"], vec!["verify", "--all"], vec!["diff", &bad]] {
        let args = [&["snapshot"], &command[..], &["--store", place]].concat();
        assert_eq!(Process::start(&db, &args).wait(Duration::from_secs(60)), Some(FAILED), "{command:?}");
    }
    let listed = run(&db, &["snapshot", "list", "--store", place]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains(&good) && listed.contains("it is not a regular file"), "{listed}");
}

async fn commands_list_show_and_prune(engine: Engine) {
    let db = some_rows(engine).await;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let store = Store::dir(dir.path());
    let nothing = run_ok(&db, &["snapshot", "list", "--store", place]);
    assert_eq!(nothing, format!("no snapshot yet in {place}\n"));
    let nowhere = dir.path().join("nowhere").display().to_string();
    for more in [&[][..], &["--json"]] {
        let error = run_fails(&db, USAGE, &[&["snapshot", "list", "--store", &nowhere], more].concat());
        assert!(error.contains(&format!("there is no directory {nowhere}")), "{error}");
    }
    for day in 1..=12 {
        take_at(&db, &store, &format!("2026-11-{day:02}T02:00:00Z")).await;
    }
    let again = ["--now", "2026-11-12T02:00:00Z", "snapshot", "take", "--to", place];
    assert!(run_fails(&db, USAGE, &again).contains("exists already"));
    let listed: serde_json::Value =
        serde_json::from_str(&run_ok(&db, &["snapshot", "list", "--store", place, "--json"])).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 12);
    assert_eq!(listed[0]["rows"], 60);
    assert!(run_ok(&db, &["snapshot", "show", "latest", "--store", place]).contains("billing"));
    // One that was taken by a clock ahead is not the latest.
    let ahead = take_at(&db, &store, "2999-01-01T02:00:00Z").await;
    let shown = run(&db, &["snapshot", "show", "latest", "--store", place]);
    let (shown, warning) = (String::from_utf8(shown.stdout).unwrap(), String::from_utf8(shown.stderr).unwrap());
    assert!(shown.starts_with("snapshot 2026-11-12T020000Z\n"), "{shown}");
    assert!(warning.contains(&format!("passes over {ahead}")), "{warning}");
    store.remove(ahead).await.unwrap();
    // What an interrupted take left behind is removed with them.
    let left = dir.path().join("2026-11-20T020000Z.sqlite.zst");
    fs::write(&left, "half").unwrap();
    let prune = ["snapshot", "prune", "--keep", "3 daily, 2 weekly", "--store", place];
    let planned = run_ok(&db, &[&prune[..], &["--dry-run"]].concat());
    assert!(planned.contains("8 snapshot(s) would be removed, 4 kept"), "{planned}");
    assert!(planned.contains("1 leftover(s) of interrupted snapshots would be removed"), "{planned}");
    assert_eq!((store.names().await.unwrap().len(), left.exists()), (12, true));
    assert_eq!(run_ok(&db, &prune), planned.replace("would be removed", "removed"));
    let names: Vec<String> = store.names().await.unwrap().iter().map(ToString::to_string).collect();
    let kept = ["08", "10", "11", "12"].map(|day| format!("2026-11-{day}T020000Z"));
    assert_eq!(names, kept);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4 * 2 + 1);
    assert!(run_fails(&db, USAGE, &["snapshot", "prune", "--keep", "all", "--store", place]).contains("--keep"));
    assert!(run_fails(&db, USAGE, &["snapshot", "take", "--to", "ftp://x"]).contains("not a place for snapshots"));
    for secret in ["s3://key:secret@bucket/lab", "s3://bucket/lab?secret=x", "s3://"] {
        let error = run_fails(&db, USAGE, &["snapshot", "take", "--to", secret]);
        assert!(
            error.contains("BUCKET/PREFIX alone") && !error.contains("secret@") && !error.contains("=secret"),
            "{error}"
        );
    }
}

async fn a_snapshot_of_some_tables_stands_for_no_full_one(engine: Engine) {
    let db = some_rows(engine).await;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let store = Store::dir(dir.path());
    let take = |at: &'static str, more: &'static [&'static str]| {
        run_ok(&db, &[&["--now", at, "snapshot", "take", "--to", place][..], more].concat());
    };
    take("2026-11-20T02:00:00Z", &[]);
    take("2026-11-20T09:00:00Z", &["--table", "labs"]);
    take("2026-11-20T10:00:00Z", &["--table", "labs"]);
    take("2026-11-21T02:00:00Z", &[]);
    take("2026-11-21T09:00:00Z", &[]);
    // If a manifest cannot be read, its snapshot is neither removed nor counted in place of another one.
    take("2026-11-21T12:00:00Z", &[]);
    fs::write(dir.path().join("2026-11-21T120000Z.json"), "{").unwrap();
    let prune = ["snapshot", "prune", "--keep", "2 daily", "--store", place];
    let said = run_ok(&db, &prune);
    assert!(said.contains("2026-11-21T120000Z is kept") && said.contains("2 snapshot(s) removed, 4 kept"), "{said}");
    let left: Vec<String> = store.names().await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(left, ["2026-11-20T020000Z", "2026-11-20T100000Z", "2026-11-21T090000Z", "2026-11-21T120000Z"]);
    let again: serde_json::Value = serde_json::from_str(&run_ok(&db, &[&prune[..], &["--json"]].concat())).unwrap();
    let expected = serde_json::json!({ "removed": [], "kept": 4, "unread": ["2026-11-21T120000Z"], "leftovers": 0, "dry_run": false });
    assert_eq!(again, expected);
}

/// A minute ahead is not the future: clocks that are right differ by that.
async fn a_snapshot_of_a_moment_to_come_stands_for_none(engine: Engine) {
    let db = some_rows(engine).await;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let store = Store::dir(dir.path());
    let soon = (Clock::System.now() + chrono::TimeDelta::seconds(100)).to_rfc3339();
    let mut taken = Vec::new();
    for at in ["2026-11-01T02:00:00Z", "2026-11-02T02:00:00Z", &soon, "2999-01-01T02:00:00Z"] {
        taken.push(take_at(&db, &store, at).await);
    }
    let [_, second, soon, ahead] = taken[..] else { panic!() };
    let warned = |args: &[&str]| {
        let output = run(&db, &[&["snapshot"], args, &["--store", place]].concat());
        let (out, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(error.contains(&ahead.to_string()) && !error.contains(&soon.to_string()), "{args:?}: {out} {error}");
        out
    };
    assert!(warned(&["show", "latest"]).starts_with(&format!("snapshot {soon}\n")));
    // The run-time user of MariaDB may not read whole tables.
    if engine == Engine::Sqlite {
        let diffs = warned(&["diff", "--since", &second.to_string(), "--json"]);
        let diffs: serde_json::Value = serde_json::from_str(&diffs).unwrap();
        let sides =
            diffs.as_array().unwrap().iter().map(|diff| ["from", "to"].map(|side| diff[side].as_str().unwrap()));
        let (second, soon) = (second.to_string(), soon.to_string());
        assert_eq!(sides.collect::<Vec<_>>(), [[&*second, &*soon], [&*soon, "live"]]);
    }
    let pruned: serde_json::Value = serde_json::from_str(&warned(&["prune", "--keep", "1 last", "--json"])).unwrap();
    assert_eq!((&pruned["removed"].as_array().unwrap().len(), &pruned["kept"]), (&2, &2.into()), "{pruned}");
    let left: Vec<String> = store.names().await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(left, [soon, ahead].map(|name| name.to_string()));
}

async fn of_two_that_are_taken_in_one_second_one_is_there(engine: Engine) {
    let db = some_rows(engine).await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::dir(dir.path());
    let clock = Clock::Fixed("2026-11-21T04:00:00Z".parse().unwrap());
    let (billing, labs) = (["billing".to_owned()], ["labs".to_owned()]);
    let take = |tables| snapshot::take(&db.admin, &store, Some(tables), clock, &|_| ());
    let (one, other) = tokio::join!(take(&billing[..]), take(&labs[..]));
    let (taken, refused) = match (one, other) {
        (Ok(taken), Err(refused)) | (Err(refused), Ok(taken)) => (taken, refused),
        both => panic!("{both:?}"),
    };
    assert!(matches!(refused, SnapshotError::Exists(_)), "{refused}");
    assert!(verify::verify(&store, taken.name, |_| ()).await.unwrap().is_whole());
    assert_eq!(store.manifest(taken.name).await.unwrap(), taken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_in_memory_are_a_store_as_well() {
    let db = some_rows(Engine::Sqlite).await;
    let objects = Arc::new(object_store::memory::InMemory::new());
    let store = Store::objects(Arc::clone(&objects) as _, "lab/daily");
    for day in 1..=3 {
        take_at(&db, &store, &format!("2026-11-{day:02}T02:00:00Z")).await;
    }
    let clock = Clock::Fixed("2026-11-03T02:00:00Z".parse().unwrap());
    let again = snapshot::take(&db.admin, &store, Some(&["labs".to_owned()]), clock, &|_| ()).await;
    assert!(matches!(again, Err(SnapshotError::Exists(_))));
    for (name, _) in store.list().await.unwrap() {
        assert!(verify::verify(&store, name, |_| ()).await.unwrap().is_whole());
    }
    // The snapshot that was just taken stays, whatever else there is of its day.
    let (keep, oldest) = ("1 daily".parse().unwrap(), store.list().await.unwrap().remove(0).1.unwrap());
    let pruned = retention::prune(&store, &keep, Some(&oldest), Clock::System.now(), true).await.unwrap();
    assert!(pruned.removed.len() == 1 && pruned.removed[0] != oldest.name, "{pruned:?}");
    let pruned = retention::prune(&store, &keep, None, Clock::System.now(), false).await.unwrap();
    assert_eq!((pruned.removed.len(), store.names().await.unwrap().len()), (2, 1));
    assert_eq!(rows(&open_latest(&store).await, "billing").await.len(), 60);
}

/// The binary over HTTP, with the secrets in its environment: requests are signed, uploads in parts, manifests last.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bucket_is_written_and_read_over_http() {
    let db = some_rows(Engine::Sqlite).await;
    let (address, bucket) = s3::serve().await;
    let daymend = |args: &[&str]| {
        let mut command = process::command(&db, args);
        s3::use_store(&mut command, address, "s3://backups/lab", ("test-key", "test-secret"));
        let output = tokio::task::block_in_place(|| command.output()).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    daymend(&["snapshot", "take", "--now", "2026-11-20T02:00:00Z"]);
    assert!(daymend(&["snapshot", "take", "--now", "2026-11-21T02:00:00Z"]).contains("8 tables"));
    assert!(daymend(&["snapshot", "verify", "--all"]).contains("whole"));
    // Data of a take that died long ago, and of one that is under way. What is kept may be as old.
    {
        let mut bucket = bucket.lock().unwrap();
        for died in ["lab/2026-11-18T020000Z.sqlite.zst", "lab/2026-11-19T020000Z.sqlite.zst"] {
            bucket.objects.insert(died.to_owned(), b"half".to_vec());
        }
        let old = ["lab/2026-11-18T020000Z.sqlite.zst", "lab/2026-11-21T020000Z.sqlite.zst"];
        bucket.old.extend(old.map(str::to_owned));
    }
    assert!(daymend(&["snapshot", "prune", "--keep", "1 daily"]).contains("1 snapshot(s) removed, 1 kept"));
    let keys: Vec<String> = bucket.lock().unwrap().objects.keys().cloned().collect();
    let under_way = "lab/2026-11-19T020000Z.sqlite.zst";
    assert_eq!(keys, [under_way, "lab/2026-11-21T020000Z.json", "lab/2026-11-21T020000Z.sqlite.zst"]);
    assert_eq!(bucket.lock().unwrap().unsigned, 0);
}
