//! A definition that stops fitting the database while a worker runs: the jobs wait, and keep their attempts.

use std::time::Duration;

use daymend::args;

use crate::{
    on_both,
    shrink::lab,
    support::{Engine, TestDb, http::get, process::run_ok, wait_until},
    throttle::suffering_worker,
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LIMIT: Duration = Duration::from_secs(60);
const AVAILABLE: &str = "SELECT COUNT(*) FROM daymend_jobs WHERE state = 'available' AND attempt = 0";
const FAILED: &str = "SELECT COUNT(*) FROM daymend_attempts";

on_both! {
    jobs_wait_until_the_definition_fits_again;
    a_drain_ends_with_the_error;
    a_summary_without_a_column_is_no_fault_of_the_jobs_either;
}

async fn repair(db: &TestDb) {
    run_ok(db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-11", "--to", "2026-06-14", "--attempts", "1"]);
}

/// Renames a column while a worker holds back, lets it begin, waits until it says what is wrong, and names the column
/// back.
async fn work_with_renamed(db: &TestDb, table: &str, column: &str, place: &str) {
    let (_worker, address) = suffering_worker(db, 7, &["--backoff", "100ms"]).await;
    repair(db).await;
    db.execute(&format!("ALTER TABLE {table} RENAME COLUMN {column} TO renamed"), vec![]).await;
    db.execute("UPDATE suffering SET much = 0", vec![]).await;
    wait_until("readiness to be denied", LIMIT, async || {
        let page = get(&address, "/readyz").unwrap();
        page.status == 503 && page.body.contains("worker: cannot recompute: ") && page.body.contains(place)
    })
    .await;
    assert_eq!(db.number(FAILED).await, 0);
    db.execute(&format!("ALTER TABLE {table} RENAME COLUMN renamed TO {column}"), vec![]).await;
    let done = "SELECT COUNT(*) FROM daymend_jobs WHERE state = 'completed' AND attempt = 1";
    let before = 4;
    wait_until("the jobs to be done", LIMIT, async || db.number(done).await == before + 4).await;
    wait_until("readiness", LIMIT, async || get(&address, "/readyz").unwrap().status == 200).await;
    assert_eq!(db.number(FAILED).await, 0);
}

async fn jobs_wait_until_the_definition_fits_again(engine: Engine) {
    let db = lab(engine, 6).await;
    work_with_renamed(&db, "billingInfo", "branch_id", "bills.sql").await;
}

async fn a_summary_without_a_column_is_no_fault_of_the_jobs_either(engine: Engine) {
    let db = lab(engine, 6).await;
    work_with_renamed(&db, "operation_historical_summary", "event_count", "rollup.toml").await;
}

async fn a_drain_ends_with_the_error(engine: Engine) {
    let db = lab(engine, 6).await;
    let (mut worker, _) = suffering_worker(&db, 7, &["--drain"]).await;
    repair(&db).await;
    db.execute("ALTER TABLE billingInfo RENAME COLUMN branch_id TO renamed", vec![]).await;
    db.execute("UPDATE suffering SET much = 0", args![]).await;
    assert_eq!(worker.wait(LIMIT), Some(2));
    assert_eq!(db.number(AVAILABLE).await, 4, "the jobs are handed back");
}
