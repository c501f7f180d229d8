//! Changes of large runs: batch by batch, and whoever is interrupted does the rest later.

use daymend::{
    args,
    queue::{
        JobKind,
        admin::{
            change::{self, Change},
            filter::Filter,
        },
    },
    runs::{self, RunState},
};
use tokio::sync::Notify;

use super::{count, days, new_run};
use crate::{
    on_both,
    support::{Engine, TestDb},
};

on_both! {
    a_large_run_is_cancelled_batch_by_batch;
    an_interrupted_cancel_is_done_again;
    an_interrupted_retry_is_done_again_and_its_run_stays_open;
    a_change_of_a_large_run_leaves_what_does_not_fit;
}

const RETRY: Change = Change::Retry { backing_off: false };
const JOBS: i64 = 21_000;

async fn large_run(db: &TestDb) -> i64 {
    let labs: Vec<_> = (1..=21).map(|lab| (lab, days(1000))).collect();
    new_run(db, JobKind::Rebuild, &labs).await
}

/// How many jobs each entry of the admin log is about, oldest first.
async fn logged(db: &TestDb) -> Vec<i64> {
    let rows = db.rows("SELECT jobs FROM daymend_admin_log ORDER BY id", args![]).await;
    rows.iter().map(|row| row.int(0).unwrap()).collect()
}

async fn state(db: &TestDb) -> String {
    db.text("SELECT state FROM daymend_runs").await
}

async fn a_large_run_is_cancelled_batch_by_batch(engine: Engine) {
    let db = TestDb::new(engine).await;
    let run = large_run(&db).await;
    let mut seen = Vec::new();
    let cancelled = change::cancel_run(&db.db, run, "a test", |jobs| seen.push(jobs)).await.unwrap();
    assert_eq!((cancelled, seen), (Some(21_000), vec![10_000, 20_000, 21_000]));
    assert_eq!(logged(&db).await, [10_000, 10_000, 1_000]);
    assert_eq!((count(&db, "cancelled").await, state(&db).await.as_str()), (JOBS, "cancelled"));
    assert_eq!(db.number("SELECT COUNT(*) FROM operation_event_log").await, 2, "STARTED and CANCELLED");
}

async fn an_interrupted_cancel_is_done_again(engine: Engine) {
    let db = TestDb::new(engine).await;
    let run = large_run(&db).await;
    let batch = Notify::new();
    tokio::select! {
        biased;
        () = batch.notified() => {}
        _ = change::cancel_run(&db.db, run, "a test", |_| batch.notify_one()) => panic!("one batch is not all"),
    }
    assert_eq!((count(&db, "cancelled").await, state(&db).await.as_str()), (10_000, "running"));
    assert_eq!(runs::try_close(&db.db, run).await.unwrap(), None, "jobs are open");
    let rest = change::cancel_run(&db.db, run, "a test", |_| ()).await.unwrap();
    assert_eq!((rest, count(&db, "cancelled").await, state(&db).await.as_str()), (Some(11_000), JOBS, "cancelled"));
    assert_eq!(change::cancel_run(&db.db, run, "a test", |_| ()).await.unwrap(), None, "once");
}

async fn an_interrupted_retry_is_done_again_and_its_run_stays_open(engine: Engine) {
    let db = TestDb::new(engine).await;
    let run = large_run(&db).await;
    db.execute("UPDATE daymend_jobs SET state = 'discarded'", args![]).await;
    assert_eq!(runs::try_close(&db.db, run).await.unwrap().unwrap().0, RunState::Failed);
    let all = Filter::default();
    let batch = Notify::new();
    tokio::select! {
        biased;
        () = batch.notified() => {}
        _ = change::apply(&db.db, RETRY, &all, "a test", |_, _| batch.notify_one()) => panic!("one batch is not all"),
    }
    assert_eq!((count(&db, "available").await, state(&db).await.as_str()), (10_000, "running"));
    assert_eq!(runs::try_close(&db.db, run).await.unwrap(), None, "jobs are open");
    let rest = change::apply(&db.db, RETRY, &all, "a test", |_, of| assert_eq!(of, 11_000)).await.unwrap();
    assert_eq!(rest, [(run, 11_000)]);
    assert_eq!((count(&db, "available").await, logged(&db).await), (JOBS, vec![10_000, 10_000, 1_000]));
    assert_eq!(db.number("SELECT COUNT(*) FROM operation_event_log").await, 3, "STARTED, FAILED, STARTED");
}

async fn a_change_of_a_large_run_leaves_what_does_not_fit(engine: Engine) {
    let db = TestDb::new(engine).await;
    let run = large_run(&db).await;
    new_run(&db, JobKind::Repair, &[(2, days(3))]).await;
    db.execute("UPDATE daymend_jobs SET state = 'completed' WHERE lab_id = 2 AND kind = 'rebuild'", args![]).await;
    let filter = Filter { labs: (2..=20).collect(), kind: Some(JobKind::Rebuild), ..Filter::default() };
    let done = change::apply(&db.db, Change::Cancel, &filter, "a test", |_, _| ()).await.unwrap();
    assert_eq!(done, [(run, 18_000)]);
    let outside = "SELECT COUNT(*) FROM daymend_jobs WHERE state = 'cancelled' AND lab_id IN (1, 2, 21)";
    assert_eq!((db.number(outside).await, count(&db, "completed").await), (0, 1_000));
    let repair = "SELECT COUNT(*) FROM daymend_jobs WHERE kind = 'repair' AND state = 'available'";
    assert_eq!(db.number(repair).await, 3);
}
