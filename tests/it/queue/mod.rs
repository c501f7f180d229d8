//! The queue's state machine: which worker gets a job, and how attempts end.

mod changes;
mod claims;
mod pauses;
mod prunes;
mod settlements;

use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, Utc};
use daymend::{
    args,
    db::Mode,
    queue::{
        Job, JobKind, claim, lease,
        settle::{self, Failure},
    },
    rollup::HISTORICAL_SUMMARY,
    runs::{self, JobLimits, NewRun},
};

use crate::support::TestDb;

const ATTEMPTS_MAX: u32 = 2;
const LONG: Duration = Duration::from_secs(3600);
/// Less than all retries of a statement that waits for somebody else's lock take together.
const LIMIT: Duration = Duration::from_secs(60);

fn now() -> DateTime<Utc> {
    "2026-06-15T12:00:00Z".parse().unwrap()
}

/// Returns the `number`-th day of the test's calendar, from 0.
fn day(number: u64) -> NaiveDate {
    "2026-01-01".parse::<NaiveDate>().unwrap() + Days::new(number)
}

fn days(count: u64) -> Vec<NaiveDate> {
    (0..count).map(day).collect()
}

async fn new_run(db: &TestDb, kind: JobKind, labs: &[(i64, Vec<NaiveDate>)]) -> i64 {
    let limits = JobLimits::any_shrink(ATTEMPTS_MAX);
    let run = NewRun::new(kind, HISTORICAL_SUMMARY, now(), labs.to_vec(), limits);
    let mut tx = db.db.begin(Mode::Write).await.unwrap();
    let id = runs::create(&mut tx, &run).await.unwrap();
    tx.commit().await.unwrap();
    id
}

async fn worker(db: &TestDb, lease: Duration) -> i64 {
    lease::register(&db.db, "a test", lease).await.unwrap()
}

/// Makes the worker's lease expire.
async fn end_lease(db: &TestDb, worker: i64) {
    db.execute("UPDATE daymend_workers SET lease_until_us = 0 WHERE id = ?", args![worker]).await;
}

async fn take(db: &TestDb, worker: i64, limit: usize) -> Vec<Job> {
    claim::claim(&db.db, worker, limit).await.unwrap()
}

async fn take_one(db: &TestDb, worker: i64) -> Job {
    let mut jobs = take(db, worker, 1).await;
    assert_eq!(jobs.len(), 1, "one job waits");
    jobs.remove(0)
}

/// A stored job: all columns that a settlement may change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stored {
    state: String,
    attempt: i64,
    sort_key: i64,
    worker_id: Option<i64>,
    lapses: i64,
    error: Option<String>,
}

async fn stored(db: &TestDb, job: i64) -> Stored {
    let sql = "SELECT state, attempt, sort_key, worker_id, lapses, error FROM daymend_jobs WHERE id = ?";
    let row = db.rows(sql, args![job]).await.pop().unwrap();
    Stored {
        state: row.text(0).unwrap(),
        attempt: row.int(1).unwrap(),
        sort_key: row.int(2).unwrap(),
        worker_id: row.int_or_null(3).unwrap(),
        lapses: row.int(4).unwrap(),
        error: row.text_or_null(5).unwrap(),
    }
}

/// Returns the recorded outcomes of a job's attempts that did not complete it, in order.
async fn outcomes(db: &TestDb, job: i64) -> Vec<String> {
    let rows = db.rows("SELECT outcome FROM daymend_attempts WHERE job_id = ? ORDER BY ended_at", args![job]).await;
    rows.iter().map(|row| row.text(0).unwrap()).collect()
}

/// Counts the jobs in a state.
async fn count(db: &TestDb, state: &str) -> i64 {
    db.number(&format!("SELECT COUNT(*) FROM daymend_jobs WHERE state = '{state}'")).await
}

async fn complete(db: &TestDb, worker: i64, job: &Job) -> u64 {
    settle::complete_unchanged(&db.db, worker, std::slice::from_ref(job)).await.unwrap().found
}

fn failure(backoff: Duration) -> Failure {
    Failure { error: "the reason".to_owned(), permanent: false, backoff }
}
