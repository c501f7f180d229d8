//! What a worker has claimed and cannot begin does not stay with it: others can have it.

use std::time::{Duration, Instant};

use daymend::args;

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        process::{Process, run_ok},
        wait_until,
    },
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LIMIT: Duration = Duration::from_secs(120);
/// The first worker has one slot, in which the only job of lab 1 hangs; the days of lab 2 wait behind it.
const HANGS: (&str, &str) = ("DAYMEND_FAULT", "hang:1");
const WORKER: [&str; 5] = ["--now", NOW, "worker", "--concurrency", "1"];
const DAYS: i64 = 7;

on_both! {
    what_waits_at_a_worker_that_holds_back_is_given_back;
    what_waits_behind_a_job_that_hangs_is_given_back_once;
}

/// Creates the two labs, and enqueues repairs of their days.
async fn labs(engine: Engine) -> TestDb {
    let db = TestDb::new(engine).await;
    for (lab, days) in [(1, 1), (2, DAYS)] {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
        db.fill_lab(lab, "2026-06-01".parse().unwrap(), days as u32, 5).await;
        let (lab, last) = (lab.to_string(), format!("2026-06-{days:02}"));
        run_ok(&db, &["--now", NOW, "repair", "--lab", &lab, "--day", "2026-06-01", "--to", &last]);
    }
    db
}

async fn jobs(db: &TestDb, state: &str) -> i64 {
    db.rows("SELECT COUNT(*) FROM daymend_jobs WHERE state = ?", args![state]).await[0].int(0).unwrap()
}

async fn until_all_are_claimed(db: &TestDb) {
    wait_until("the claim", LIMIT, async || jobs(db, "running").await == 1 + DAYS).await;
}

/// For example because only the route from its own machine to a replica is gone: others go on.
async fn what_waits_at_a_worker_that_holds_back_is_given_back(engine: Engine) {
    let db = labs(engine).await;
    // From some seconds after its claim on, it holds back.
    let seconds = match engine {
        Engine::MariaDb => "UNIX_TIMESTAMP()",
        Engine::Sqlite => "CAST(strftime('%s', 'now') AS INTEGER)",
    };
    let until = db.number(&format!("SELECT {seconds}")).await + 10;
    let query = format!("SELECT {seconds} > {until}");
    let more = ["--throttle-query", &query, "--job-timeout", "20s", "--backoff", "1ms"];
    let _held_back = Process::start_with(&db, &[&WORKER[..], &more].concat(), HANGS);
    until_all_are_claimed(&db).await;
    // As the runbook says.
    let mut drain = Process::start(&db, &[&WORKER[..], &["--drain"]].concat());
    assert_eq!(drain.wait(LIMIT), Some(0));
    assert_eq!(jobs(&db, "completed").await, 1 + DAYS);
    let by_the_second = "SELECT COUNT(*) FROM daymend_jobs WHERE worker_id = 2";
    assert_eq!(db.number(by_the_second).await, 1 + DAYS);
    assert_eq!(db.number("SELECT MAX(attempt) FROM daymend_jobs WHERE lab_id = 2").await, 1, "no attempt is used up");
}

async fn what_waits_behind_a_job_that_hangs_is_given_back_once(engine: Engine) {
    let db = labs(engine).await;
    let begun = Instant::now();
    let _worker = Process::start_with(&db, &[&WORKER[..], &["--job-timeout", "50s"]].concat(), HANGS);
    until_all_are_claimed(&db).await;
    wait_until("its jobs to be given back", LIMIT, async || jobs(&db, "available").await == DAYS).await;
    // It would have to wait with them again.
    while begun.elapsed() < Duration::from_secs(45) {
        assert_eq!(jobs(&db, "available").await, DAYS);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    wait_until("the hanging job to end", LIMIT, async || jobs(&db, "completed").await == DAYS).await;
    assert_eq!(db.number("SELECT MAX(attempt) FROM daymend_jobs WHERE lab_id = 2").await, 1, "no attempt is used up");
    let outcomes = db
        .rows(
            "SELECT outcome FROM daymend_attempts WHERE job_id IN \
                            (SELECT id FROM daymend_jobs WHERE lab_id = 2)",
            args![],
        )
        .await;
    assert_eq!(outcomes.len(), 0, "nor recorded");
}
