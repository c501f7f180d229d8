//! What the scheduler does while somebody else holds rows that it wants: everything else.

use std::time::Duration;

use daymend::{
    args,
    db::{Mode, Query, Tx},
    queue::{claim, lease, settle},
};

use crate::{
    scheduler::now,
    support::{Engine, TestDb, http::get, process::Process, wait_until},
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LONG: Duration = Duration::from_secs(600);
const LIMIT: Duration = Duration::from_secs(20);

/// Somebody's transaction that has changed rows and goes on.
async fn hold(db: &TestDb, sql: &str) -> Tx {
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
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_attempts").await, 1, "the prune waits still");
}
