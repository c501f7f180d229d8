//! Paused jobs are not claimed, and resuming leaves none of them behind.

use daymend::{
    args,
    db::{Mode, Query},
    queue::{
        JobKind, PAUSED,
        admin::pause::{self, Target},
        claim,
    },
};

use super::{LIMIT, LONG, count, days, new_run, take, worker};
use crate::{
    on_both,
    support::{Engine, TestDb, process::run_ok, wait_until},
};

const LAB: Target = Target::Lab(1);

on_both! {
    resuming_a_lab_finds_jobs_that_were_set_aside_without_a_pause;
    a_dry_run_of_a_resume_lifts_no_pause;
}

async fn parked(db: &TestDb) -> i64 {
    db.number(&format!("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'available' AND sort_key = {PAUSED}")).await
}

async fn resuming_a_lab_finds_jobs_that_were_set_aside_without_a_pause(engine: Engine) {
    let db = TestDb::new(engine).await;
    let worker = worker(&db, LONG).await;
    new_run(&db, JobKind::Repair, &[(1, days(3)), (2, days(1))]).await;
    assert!(pause::pause(&db.db, LAB, "a test").await.unwrap());
    assert_eq!(take(&db, worker, 10).await.len(), 1, "the lab that is not paused");
    assert_eq!(parked(&db).await, 3);
    // An earlier version could lose the pause and leave the jobs set aside.
    db.execute("DELETE FROM daymend_pauses", args![]).await;
    assert_eq!(take(&db, worker, 10).await, []);
    assert_eq!(pause::resume(&db.db, Target::Lab(2), "a test").await.unwrap(), None);
    assert_eq!(pause::resume(&db.db, LAB, "a test").await.unwrap(), Some(3));
    assert_eq!(pause::resume(&db.db, LAB, "a test").await.unwrap(), None, "once");
    assert_eq!(take(&db, worker, 10).await.len(), 3);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_admin_log WHERE action = 'resume' AND jobs = 3").await, 1);
}

async fn a_dry_run_of_a_resume_lifts_no_pause(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    for what in [&["rebuild"][..], &["--lab", "1"]] {
        run_ok(&db, &[&["queue", "pause"], what].concat());
        let dry = run_ok(&db, &[&["queue", "resume", "--dry-run"], what].concat());
        assert!(dry.contains(": would be resumed"), "{dry}");
        let again = run_ok(&db, &[&["queue", "pause"], what].concat());
        assert!(again.contains("paused already"), "{again}");
    }
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_admin_log WHERE action = 'resume'").await, 0);
}

// On SQLite, writers exclude each other, so nothing can come in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_sets_nothing_aside_for_a_pause_that_is_being_deleted() {
    let db = TestDb::new(Engine::MariaDb).await;
    let worker = worker(&db, LONG).await;
    new_run(&db, JobKind::Repair, &[(1, days(3))]).await;
    assert!(pause::pause(&db.db, LAB, "a test").await.unwrap());
    // Somebody resumes the lab: the pause is deleted, and no jobs had been set aside yet.
    let mut resuming = db.admin.begin(Mode::Write).await.unwrap();
    resuming.execute(Query::new("resume", "DELETE FROM daymend_pauses"), args![]).await.unwrap();
    let claimed = tokio::time::timeout(LIMIT, take(&db, worker, 10)).await.expect("the claim waits for no lock");
    resuming.commit().await.unwrap();
    assert_eq!((claimed.len(), parked(&db).await), (3, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resuming_a_lab_waits_for_a_claim_that_sets_its_jobs_aside() {
    let db = TestDb::new(Engine::MariaDb).await;
    let worker = worker(&db, LONG).await;
    new_run(&db, JobKind::Repair, &[(1, days(3))]).await;
    assert!(pause::pause(&db.db, LAB, "a test").await.unwrap());
    // A gap lock on the index range where the jobs would be set aside: the claim waits there, after it has read the
    // pauses.
    let mut gap = db.admin.begin(Mode::Write).await.unwrap();
    let begin = "ROLLBACK; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION";
    gap.execute_text("begin", begin).await.unwrap();
    let sql = "SELECT id FROM daymend_jobs FORCE INDEX (daymend_jobs_claim)
               WHERE kind = 'repair' AND state = 'available' AND sort_key > 1000000000000000 FOR UPDATE";
    assert_eq!(gap.fetch_all(Query::new("gap", sql), args![], Ok).await.unwrap().len(), 0);
    let waiting = "SELECT COUNT(*) FROM information_schema.processlist
                   WHERE db = DATABASE() AND info LIKE '-- daymend: claim park%' AND command = 'Execute'";
    let claim = tokio::spawn({
        let db = db.db.clone();
        async move { claim::claim(&db, worker, 10).await.unwrap() }
    });
    wait_until("the claim to set jobs aside", LIMIT, || async { db.number(waiting).await == 1 }).await;
    let resume = tokio::spawn({
        let db = db.db.clone();
        async move { pause::resume(&db, LAB, "a test").await.unwrap() }
    });
    let deleting = "SELECT COUNT(*) FROM information_schema.processlist
                    WHERE db = DATABASE() AND info LIKE '-- daymend: resume%' AND command = 'Execute'";
    let is_waiting = || async { resume.is_finished() || db.number(deleting).await == 1 };
    wait_until("the resume to wait for the claim", LIMIT, is_waiting).await;
    gap.rollback().await.unwrap();
    let (claimed, resumed) = (claim.await.unwrap(), resume.await.unwrap());
    assert_eq!((resumed.is_some(), parked(&db).await), (true, 0));
    // On a machine that stalls, the claim may time out, and find the lab resumed when it tries again.
    assert_eq!(claimed.len() + take(&db, worker, 10).await.len(), 3);
    assert_eq!(count(&db, "running").await, 3);
}
