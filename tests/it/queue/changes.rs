//! Changes of large runs are made in batches, and a change that was interrupted is completed later.

use daymend::{
    args,
    db::{Mode, Query},
    queue::{
        JobKind,
        admin::{
            change::{self, Change},
            filter::Filter,
        },
        ids_of,
    },
    runs::{self, RunState},
};
use tokio::{runtime::Handle, sync::Notify};

use super::{LIMIT, count, days, new_run};
use crate::{
    on_both,
    support::{Engine, TestDb, wait_until},
};

on_both! {
    a_large_run_is_cancelled_batch_by_batch;
    an_interrupted_cancel_is_done_again;
    an_interrupted_retry_is_done_again_and_its_run_stays_open;
    a_change_of_a_large_run_leaves_what_does_not_fit;
    what_is_retried_while_its_run_is_cancelled_is_cancelled_too;
    a_run_some_of_whose_jobs_were_discarded_and_some_cancelled_has_failed;
}

const RETRY: Change = Change::Retry { backing_off: false };
const JOBS: i64 = 21_000;

async fn large_run(db: &TestDb) -> i64 {
    let labs: Vec<_> = (1..=21).map(|lab| (lab, days(1000))).collect();
    new_run(db, JobKind::Rebuild, &labs).await
}

/// Returns the number of jobs in each entry of the admin log, oldest first.
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

async fn what_is_retried_while_its_run_is_cancelled_is_cancelled_too(engine: Engine) {
    let db = TestDb::new(engine).await;
    let run = large_run(&db).await;
    let first = "SELECT MIN(id) AS id FROM (SELECT id FROM daymend_jobs) AS jobs";
    db.execute(&format!("UPDATE daymend_jobs SET state = 'discarded' WHERE id = ({first})"), args![]).await;
    let (all, mut retried) = (Filter::default(), Vec::new());
    // After the first batch, somebody retries a job that this batch left alone.
    let progress = |_| {
        if retried.is_empty() {
            let retry = change::apply(&db.db, RETRY, &all, "somebody", |_, _| ());
            retried = tokio::task::block_in_place(|| Handle::current().block_on(retry)).unwrap();
        }
    };
    assert_eq!(change::cancel_run(&db.db, run, "a test", progress).await.unwrap(), Some(21_000));
    assert_eq!(retried, [(run, 1)]);
    assert_eq!((count(&db, "cancelled").await, state(&db).await.as_str()), (JOBS, "cancelled"));
}

/// The state `failed` shows operators that there are discarded jobs to retry.
async fn a_run_some_of_whose_jobs_were_discarded_and_some_cancelled_has_failed(engine: Engine) {
    let db = TestDb::new(engine).await;
    let run = new_run(&db, JobKind::Repair, &[(1, days(3))]).await;
    let [first, second, _] = [0, 1, 2].map(|place| ids_of(run).0 + place);
    db.execute("UPDATE daymend_jobs SET state = 'completed'", args![]).await;
    db.execute("UPDATE daymend_jobs SET state = 'cancelled' WHERE id = ?", args![first]).await;
    db.execute("UPDATE daymend_jobs SET state = 'discarded' WHERE id = ?", args![second]).await;
    assert_eq!(runs::try_close(&db.db, run).await.unwrap().unwrap().0, RunState::Failed);
}

// On SQLite, writers exclude each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_closed_before_or_after_a_retry_of_its_jobs_and_not_in_between() {
    let db = TestDb::new(Engine::MariaDb).await;
    let run = new_run(&db, JobKind::Repair, &[(1, days(1))]).await;
    db.execute("UPDATE daymend_jobs SET state = 'discarded'", args![]).await;
    // A gate at which the retry waits after it has changed the job and found that its run is still open.
    db.execute("CREATE TABLE gate (id INT PRIMARY KEY) ENGINE = InnoDB", args![]).await;
    db.execute("INSERT INTO gate VALUES (1)", args![]).await;
    let trigger = "CREATE TRIGGER gate BEFORE INSERT ON daymend_admin_log FOR EACH ROW
                   SET @passed = (SELECT id FROM gate FOR UPDATE)";
    db.execute(trigger, args![]).await;
    let mut gate = db.admin.begin(Mode::Write).await.unwrap();
    gate.execute(Query::new("close gate", "UPDATE gate SET id = 2"), args![]).await.unwrap();
    let retry = tokio::spawn({
        let db = db.db.clone();
        async move { change::apply(&db, RETRY, &Filter::default(), "a test", |_, _| ()).await.unwrap() }
    });
    let waiting = |name: &str| {
        format!(
            "SELECT COUNT(*) FROM information_schema.processlist
             WHERE db = DATABASE() AND info LIKE '%{name}%' AND id <> CONNECTION_ID()"
        )
    };
    let (stopped, locking) = (waiting("gate FOR UPDATE"), waiting("-- daymend: lock run"));
    wait_until("the retry to stop", LIMIT, async || db.number(&stopped).await == 1).await;
    let close = tokio::spawn({
        let db = db.db.clone();
        async move { runs::try_close(&db, run).await.unwrap() }
    });
    wait_until("the close to wait", LIMIT, async || close.is_finished() || db.number(&locking).await == 1).await;
    gate.rollback().await.unwrap();
    assert_eq!(retry.await.unwrap(), [(run, 1)]);
    assert_eq!(close.await.unwrap(), None, "a job is open");
    assert_eq!((count(&db, "available").await, state(&db).await.as_str()), (1, "running"));
}
