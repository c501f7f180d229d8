//! While somebody else holds rows that the scheduler needs, it does everything else.

use std::time::Duration;

use chrono::TimeDelta;
use daymend::{
    args,
    db::{Mode, Query, Tx},
    queue::{claim, lease, settle},
    runs::{RunState, close, held::Held},
    scheduler::Report,
};

use crate::{
    scheduler::{bill_at, now},
    support::{
        Engine, TestDb,
        http::get,
        process::{Process, run},
        wait_until,
    },
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LONG: Duration = Duration::from_secs(600);
const LIMIT: Duration = Duration::from_secs(60);

/// Opens a transaction that has changed rows, as somebody else's.
pub(crate) async fn hold(db: &TestDb, sql: &str) -> Tx {
    let mut tx = db.admin.begin(Mode::Write).await.unwrap();
    assert!(tx.execute(Query::new("hold", sql), args![]).await.unwrap() > 0);
    tx
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_that_waits_keeps_no_tick_waiting() {
    let db = TestDb::new(Engine::MariaDb).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.tick(now()).await;
    let worker = lease::register(&db.db, "a test", LONG).await.unwrap();
    let job = claim::claim(&db.db, worker, 1).await.unwrap().remove(0);
    let failure = settle::Failure { error: "the reason".to_owned(), permanent: true, backoff: LONG };
    assert!(settle::fail(&db.db, worker, &job, &failure).await.unwrap());
    db.tick(now()).await;
    let _held = hold(&db, "UPDATE daymend_attempts SET error = NULL").await;
    let (_scheduler, address) = Process::start_with_pages(&db, &["--now", NOW, "scheduler", "--retention", "1ms"]);
    let ready = async || get(&address, "/readyz").is_ok_and(|page| page.status == 200);
    wait_until("the scheduler to be ready", LIMIT, ready).await;
    let record = db.request_rebuild(1).await;
    wait_until("the record to be taken", LIMIT, async || db.record_status(record).await != "Pending").await;
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_attempts").await, 1, "the prune is still waiting");
}

/// Creates labs with one bill and one pending record each, and returns the records.
pub(crate) async fn requested(db: &TestDb, labs: std::ops::RangeInclusive<i64>) -> Vec<i64> {
    let mut records = Vec::new();
    for lab in labs {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
        bill_at(db, lab, lab, "2026-06-01T10:00:00Z").await;
        records.push(db.request_rebuild(lab).await);
    }
    records
}

pub(crate) fn change_of(record: i64) -> String {
    format!("UPDATE crelio_data_migrations SET time_taken = 7 WHERE id = {record}")
}

/// Runs a tick, which must end while somebody holds rows.
async fn tick(db: &TestDb) -> Report {
    tokio::time::timeout(LIMIT, db.tick(now())).await.expect("a tick")
}

/// Returns what a tick left for the next one.
fn left(report: &Report) -> Vec<&str> {
    report.held.left.keys().map(String::as_str).collect()
}

/// The labs are held, for example, by a scheduler that was stopped in a transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_whose_labs_are_held_keeps_no_other_waiting() {
    let db = TestDb::new(Engine::MariaDb).await;
    for (lab, zone) in [(1, "America/New_York"), (2, "Asia/Kolkata")] {
        db.add_lab(lab, Some(zone)).await;
    }
    assert_eq!(tick(&db).await.enqueued.len(), 2);
    let held = hold(&db, "UPDATE daymend_labs SET time_zone = NULL WHERE lab_id = 1").await;
    let tomorrow = now() + TimeDelta::days(1);
    let report = tokio::time::timeout(LIMIT, db.tick(tomorrow)).await.expect("a tick");
    assert_eq!(left(&report), ["nightly run of America/New_York"]);
    let reasons = |report: &Report| report.enqueued.iter().map(|run| run.reason.clone()).collect::<Vec<_>>();
    assert_eq!(reasons(&report), ["nightly Asia/Kolkata 2026-06-15"]);
    held.rollback().await.unwrap();
    assert_eq!(reasons(&db.tick(tomorrow).await), ["nightly America/New_York 2026-06-15"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pending_record_that_is_held_keeps_no_other_waiting() {
    let db = TestDb::new(Engine::MariaDb).await;
    let records = requested(&db, 1..=3).await;
    db.execute("DELETE FROM labs WHERE id = 2", args![]).await;
    let held = hold(&db, &change_of(records[0])).await;
    let refused = hold(&db, &change_of(records[1])).await;
    let report = tick(&db).await;
    assert_eq!(left(&report), ["migration records of lab 1", "migration records of lab 2"]);
    assert!(report.held.waited > Duration::ZERO);
    assert_eq!(db.record_status(records[2]).await, "Running (0/1)");
    held.commit().await.unwrap();
    refused.commit().await.unwrap();
    let report = tick(&db).await;
    assert_eq!((report.held.left.len(), report.enqueued.len()), (0, 1));
    assert_eq!(db.record_status(records[0]).await, "Running (0/1)");
    assert_eq!(db.record_status(records[1]).await, "Failed (lab 2 does not exist)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_are_held_only_the_first_is_waited_for() {
    let db = TestDb::new(Engine::MariaDb).await;
    requested(&db, 1..=20).await;
    let held = hold(&db, "UPDATE crelio_data_migrations SET time_taken = 7").await;
    let report = tick(&db).await;
    assert_eq!(report.held.left.len(), 20);
    assert!(report.held.waited < Duration::from_secs(10), "more than one wait: {:?}", report.held.waited);
    held.commit().await.unwrap();
}

/// The exit code tells scripts that something is left to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tick_by_hand_that_leaves_something_exits_with_1() {
    let db = TestDb::new(Engine::MariaDb).await;
    let record = requested(&db, 1..=1).await[0];
    let held = hold(&db, &change_of(record)).await;
    let once = || tokio::task::block_in_place(|| run(&db, &["--now", NOW, "scheduler", "--once"]));
    assert_eq!(once().status.code(), Some(1));
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE kind = 'nightly'").await, 1, "the rest is done");
    held.commit().await.unwrap();
    assert_eq!(once().status.code(), Some(0));
    assert_eq!(db.record_status(record).await, "Running (0/1)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_a_run_that_is_held_keeps_no_other_run_open() {
    let db = TestDb::new(Engine::MariaDb).await;
    let records = requested(&db, 1..=3).await;
    bill_at(&db, 11, 1, "2026-06-02T10:00:00Z").await;
    let rebuilds: Vec<i64> = {
        let mut enqueued = tick(&db).await.enqueued;
        enqueued.retain(|enqueued| enqueued.reason.starts_with("rebuild"));
        enqueued.iter().map(|enqueued| enqueued.run).collect()
    };
    // One run is still open, and its record needs a new status; two have ended.
    db.execute("UPDATE daymend_jobs SET state = 'completed' WHERE lab_id > 1 OR day = '2026-06-01'", args![]).await;
    let open = hold(&db, &change_of(records[0])).await;
    let ended = hold(&db, &change_of(records[1])).await;
    let report = tick(&db).await;
    assert_eq!(left(&report), [format!("run {}", rebuilds[0]), format!("run {}", rebuilds[1])]);
    assert_eq!(db.record_status(records[2]).await, "Completed");
    open.commit().await.unwrap();
    ended.commit().await.unwrap();
    assert_eq!(left(&tick(&db).await), [""; 0]);
    assert_eq!(db.record_status(records[0]).await, "Running (1/2)");
    assert_eq!(db.record_status(records[1]).await, "Completed");
    assert_eq!(db.run(rebuilds[1]).await.0.state, RunState::Completed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_somebody_else_closes_is_not_said_to_run() {
    let db = TestDb::new(Engine::MariaDb).await;
    let record = requested(&db, 1..=1).await[0];
    let report = tick(&db).await;
    let run = report.enqueued.iter().find(|enqueued| enqueued.reason.starts_with("rebuild")).unwrap().run;
    db.execute("UPDATE crelio_data_migrations SET job_status = 'Running'", args![]).await;
    let run = db.run(run).await.0;
    // Another scheduler closes the run after this one has counted, and before it has the run's lock.
    let mut closing = db.admin.begin(Mode::Write).await.unwrap();
    closing.execute_text("lock", "LOCK TABLES daymend_runs WRITE").await.unwrap();
    let looking = tokio::spawn({
        let (db, run) = (db.db.clone(), run.clone());
        async move { close::close_run(&db, &run, &mut close::Report::default(), &mut Held::default()).await.unwrap() }
    });
    let refreshing = "SELECT COUNT(*) FROM information_schema.processlist
                      WHERE db = DATABASE() AND info LIKE '-- daymend: hold run%' AND command = 'Execute'";
    wait_until("the scheduler to have counted", LIMIT, || async { db.number(refreshing).await == 1 }).await;
    for sql in
        ["UPDATE daymend_jobs SET state = 'completed'", "UPDATE crelio_data_migrations SET job_status = 'Completed'"]
    {
        db.execute(sql, args![]).await;
    }
    let close = format!("UPDATE daymend_runs SET state = 'completed' WHERE id = {}", run.id);
    closing.execute_text("close", &close).await.unwrap();
    closing.discard();
    looking.await.unwrap();
    assert_eq!(db.record_status(record).await, "Completed");
}

/// The tables that a tick, the gauges and the marks of late changes read are locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_that_waits_for_the_database_ends_at_once_on_sigterm() {
    let db = TestDb::new(Engine::MariaDb).await;
    let arguments = ["--now", NOW, "scheduler", "--audit-budget", "0s"];
    let (mut scheduler, _) = Process::start_with_pages(&db, &arguments);
    let held = db.lock(&["labs", "daymend_dirty"]).await;
    let waiting = "SELECT COUNT(*) FROM information_schema.processlist
                   WHERE db = DATABASE() AND state LIKE 'Waiting for table%lock'";
    // The gauges are read every 15 seconds, or, after a reading that took long, at most two minutes later.
    wait_until("all of them to wait", LIMIT * 3, async || db.number(waiting).await == 3).await;
    scheduler.terminate();
    assert_eq!(scheduler.wait(Duration::from_secs(10)), Some(0));
    drop(held);
}

/// The audit and the daily snapshot wait as well; a statement of each shows that it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_whose_audit_and_snapshot_wait_for_the_database_ends_soon_on_sigterm() {
    let db = TestDb::new(Engine::MariaDb).await;
    let dir = tempfile::tempdir().unwrap();
    let held = db.lock(&["daymend_audits", "daymend_snapshots"]).await;
    let arguments = ["--now", NOW, "scheduler", "--snapshot-to", dir.path().to_str().unwrap()];
    let mut scheduler = Process::start(&db, &arguments);
    for statement in ["audit slice of night", "snapshot last"] {
        let waiting = format!(
            "SELECT COUNT(*) FROM information_schema.processlist
             WHERE db = DATABASE() AND state LIKE 'Waiting for table%lock' AND info LIKE '%daymend: {statement}%'"
        );
        wait_until(statement, LIMIT * 2, async || db.number(&waiting).await == 1).await;
    }
    scheduler.terminate();
    assert_eq!(scheduler.wait(Duration::from_secs(20)), Some(0));
    drop(held);
}
