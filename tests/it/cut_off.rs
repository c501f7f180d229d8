//! A worker is stopped, or cut off from the server, in the middle of a correction: the server frees the rows that it
//! has locked, another worker does its jobs, and what it sends afterwards is refused.
//!
//! Only MariaDB: SQLite has no server, and no network in between.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use daymend::{
    args,
    db::{Mode, Query, Tx},
};

use crate::{
    outages::with_labs,
    support::{
        Engine, TestDb,
        http::get,
        oracle,
        process::{Process, run_ok},
        proxy::{Proxy, Weather},
        server, wait_until,
    },
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LAB: (i64, chrono_tz::Tz) = (1, chrono_tz::Asia::Kolkata);
const LIMIT: Duration = Duration::from_secs(90);
const LEASE: Duration = Duration::from_secs(4);
const FIRST: [&str; 9] = ["--now", NOW, "worker", "--lease", "4s", "--heartbeat", "1s", "--name", "first"];
/// With the default lease, it keeps its jobs however slow the machine is.
const SECOND: [&str; 7] = ["--now", NOW, "worker", "--heartbeat", "400ms", "--name", "second"];

/// Creates a lab with two days whose counts are wrong, and a job for each of them. Whoever corrects a row waits in the
/// middle of it while the gate is closed.
async fn lab() -> TestDb {
    let db = with_labs(TestDb::new(Engine::MariaDb).await, 1).await;
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-01", "--to", "2026-06-06", "--lab", "1"]);
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    let wrong = "UPDATE operation_historical_summary SET event_count = event_count + 5
                 WHERE ordered_at IN ('2026-06-02', '2026-06-03')";
    assert!(db.execute(wrong, args![]).await > 20);
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-02", "--to", "2026-06-03", "--lab", "1"]);
    let gate = gate(&db);
    let trigger = format!(
        "CREATE TRIGGER gate AFTER UPDATE ON operation_historical_summary FOR EACH ROW
         SET @passed = GET_LOCK({gate}, 600) + RELEASE_LOCK({gate})"
    );
    db.execute(&trigger, args![]).await;
    db
}

fn gate(db: &TestDb) -> String {
    format!("'gate of {}'", db.name())
}

/// Closes the gate; discarding the transaction opens it.
async fn closed(db: &TestDb) -> Tx {
    let mut session = db.admin.begin(Mode::Snapshot).await.unwrap();
    let close = Query::new("gate", format!("SELECT GET_LOCK({}, 0)", gate(db)));
    assert_eq!(session.fetch_one(close, args![], |row| row.int(0)).await.unwrap(), 1);
    session
}

/// Waits until a worker is in the middle of a correction.
async fn wait_for_a_correction(db: &TestDb) {
    let waiting = "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND state = 'User lock'";
    wait_until("the worker to be in the middle of a correction", LIMIT, async || db.number(waiting).await == 1).await;
}

/// Whether somebody else can lock the wrong rows at once.
async fn are_free(db: &TestDb) -> bool {
    let rows = "SELECT id FROM operation_historical_summary WHERE ordered_at = '2026-06-02' FOR UPDATE NOWAIT";
    let mut tx = db.admin.begin(Mode::Write).await.unwrap();
    let locked = tx.fetch_all(Query::new("user", rows), args![], Ok).await;
    tx.discard();
    locked.is_ok_and(|rows| !rows.is_empty())
}

/// Lets the second worker take over and finish, and then changes the source, so that a recompute of any day would write
/// something; returns the summary.
async fn finished_by_another(db: &TestDb) -> BTreeMap<oracle::Key, i64> {
    let _second = Process::start(db, &SECOND);
    wait_until("the second worker to take over and finish", LIMIT, async || {
        db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state <> 'completed'").await == 0
    })
    .await;
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_attempts WHERE outcome = 'lapsed'").await, 2);
    let stored = oracle::stored(db).await;
    oracle::assert_equal(&stored, &oracle::expected(db, &[LAB], NOW.parse().unwrap()).await);
    db.execute("UPDATE billing SET isCancelled = 1 - isCancelled", args![]).await;
    stored
}

async fn jobs(db: &TestDb) -> Vec<[i64; 4]> {
    let rows = db.rows("SELECT id, attempt, worker_id, sort_key FROM daymend_jobs ORDER BY id", args![]).await;
    rows.iter().map(|row| [0, 1, 2, 3].map(|column| row.int(column).unwrap())).collect()
}

const FIRST_REGISTERED: &str = "SELECT COUNT(*) FROM daymend_workers WHERE name LIKE 'first%'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_frees_the_rows_of_a_stopped_worker_after_its_lease() {
    let db = lab().await;
    let gate = closed(&db).await;
    let first = Process::start(&db, &FIRST);
    wait_for_a_correction(&db).await;
    first.signal("STOP");
    assert!(!are_free(&db).await);
    let begun = Instant::now();
    gate.discard();
    wait_until("the server to free the rows", LEASE + Duration::from_secs(10), || are_free(&db)).await;
    println!("the rows were free {:?} after the worker was stopped", begun.elapsed());
    let summary = finished_by_another(&db).await;
    let jobs_before = jobs(&db).await;
    first.signal("CONT");
    let is_back = async || db.number(FIRST_REGISTERED).await == 2;
    wait_until("the first worker to register anew", LIMIT, is_back).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(jobs(&db).await, jobs_before, "the later attempt stands");
    oracle::assert_equal(&oracle::stored(&db).await, &summary);
}

/// Cuts the first worker off in the middle of its correction, until the second has done its jobs.
async fn cut_off(weather: Weather) {
    let db = lab().await;
    let proxy = Proxy::start(server::shared_port()).await;
    let gate = closed(&db).await;
    let arguments = [&FIRST[..], &["--job-timeout", "5s"]].concat();
    let (_first, address) = Process::start_with_pages(&db.through(&proxy), &arguments);
    wait_for_a_correction(&db).await;
    proxy.set(weather);
    gate.discard();
    let summary = finished_by_another(&db).await;
    assert!(proxy.struck() > 0, "the weather affected no connection");
    let jobs_before = jobs(&db).await;
    // No heartbeat is answered, so it does not know that its lease is lost.
    let mut held = db.admin.begin(Mode::Write).await.unwrap();
    let lease = Query::new("hold", "SELECT id FROM daymend_workers WHERE name LIKE 'first%' FOR UPDATE");
    assert_eq!(held.fetch_all(lease, args![], Ok).await.unwrap().len(), 1);
    proxy.set(Weather::Fair);
    let page = || get(&address, "/metrics").unwrap().body;
    let refused = || page().lines().any(|line| line == "daymend_acks_refused_total 2");
    wait_until("what it sends to be refused", LIMIT, async || refused()).await;
    held.discard();
    let is_back = async || db.number(FIRST_REGISTERED).await == 2;
    wait_until("the first worker to register anew", LIMIT, is_back).await;
    assert_eq!(jobs(&db).await, jobs_before, "the later attempt stands");
    oracle::assert_equal(&oracle::stored(&db).await, &summary);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_connections_were_cut_writes_nothing_when_the_network_returns() {
    cut_off(Weather::Cut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_connections_stalled_writes_nothing_when_the_network_returns() {
    cut_off(Weather::Stalled).await;
}
