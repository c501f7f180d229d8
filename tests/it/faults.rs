//! Poisoned jobs, which fail every time, panic or never end: they are discarded after their attempts with a readable
//! error, and delay no other lab. And workers one of whose tasks dies.

use std::time::Duration;

use chrono::TimeDelta;
use daymend::args;

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        http::get,
        process::{Process, run, run_ok},
        wait_until,
        work::{endless, fails, jobs_with},
    },
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LIMIT: Duration = Duration::from_secs(180);
const POISONED: i64 = 2;

on_both! {
    a_job_that_fails_every_time_is_discarded_and_delays_no_other_lab;
    a_job_that_panics_is_discarded_with_its_message;
    a_job_that_never_ends_is_ended_by_the_job_timeout;
    one_bad_day_of_a_group_fails_alone;
    a_worker_that_does_not_keep_its_lease_registers_anew;
    a_worker_that_does_not_claim_registers_anew;
    a_worker_that_does_not_ack_registers_anew;
    a_worker_that_does_not_settle_registers_anew;
    a_job_of_a_rollup_that_nobody_knows_is_discarded_at_once;
    a_worker_that_cannot_settle_says_so_and_gives_up_what_it_holds;
    a_worker_that_ends_while_it_registers_anew_signs_off;
}

async fn labs(engine: Engine) -> TestDb {
    let db = TestDb::new(engine).await;
    for lab in 1..=3 {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
        db.fill_lab(lab, "2026-06-01".parse().unwrap(), 10, 5).await;
    }
    db
}

/// Enqueues a repair of two days of each lab, with two attempts per job.
async fn enqueue(db: &TestDb) {
    run_ok(db, &["--now", NOW, "repair", "--day", "2026-06-08", "--to", "2026-06-09", "--attempts", "2"]);
}

const WORKER: [&str; 7] = ["--now", NOW, "worker", "--backoff", "100ms", "--concurrency", "2"];

/// Waits until the other labs are done and the poisoned jobs are discarded, and returns an error of theirs.
async fn discarded(db: &TestDb) -> String {
    let others = format!("SELECT COUNT(*) FROM daymend_jobs WHERE lab_id <> {POISONED} AND state = 'completed'");
    wait_until("the other labs to be done", LIMIT, async || db.number(&others).await == 4).await;
    wait_until("the poisoned jobs to be discarded", LIMIT, async || {
        db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'discarded'").await == 2
    })
    .await;
    let wrong = format!(
        "SELECT COUNT(*) FROM daymend_jobs WHERE state = 'discarded' AND (lab_id <> {POISONED} OR attempt <> 2)"
    );
    assert_eq!(db.number(&wrong).await, 0);
    assert_eq!(failed(db, POISONED..=POISONED).await.len(), 4);
    db.text("SELECT error FROM daymend_jobs WHERE state = 'discarded' ORDER BY id").await
}

/// Returns the duration and the error of each failed attempt of these labs.
async fn failed(db: &TestDb, labs: std::ops::RangeInclusive<i64>) -> Vec<(TimeDelta, String)> {
    let sql = "SELECT attempts.started_at, attempts.ended_at, attempts.error FROM daymend_attempts AS attempts
               JOIN daymend_jobs AS jobs ON jobs.id = attempts.job_id
               WHERE attempts.outcome = 'failed' AND jobs.lab_id BETWEEN ? AND ?";
    let rows = db.rows(sql, args![*labs.start(), *labs.end()]).await;
    rows.iter().map(|row| (row.instant(1).unwrap() - row.instant(0).unwrap(), row.text(2).unwrap())).collect()
}

async fn a_job_that_fails_every_time_is_discarded_and_delays_no_other_lab(engine: Engine) {
    let db = labs(engine).await;
    // Out of range on both databases: the statement fails, for this lab only.
    let poison = format!("(billing.lab_id <> {POISONED} OR {})", fails(engine));
    let jobs = jobs_with(&poison);
    enqueue(&db).await;
    let mut arguments = vec!["--jobs-dir", jobs.path().to_str().unwrap()];
    arguments.extend(WORKER);
    let _worker = Process::start(&db, &arguments);
    let error = discarded(&db).await;
    assert!(error.contains("bills.sql"), "{error}");
    assert_eq!(failed(&db, 1..=3).await.len(), 4, "no other lab's");
}

async fn a_job_that_panics_is_discarded_with_its_message(engine: Engine) {
    let db = labs(engine).await;
    enqueue(&db).await;
    let mut worker = Process::start_with(&db, &WORKER, ("DAYMEND_FAULT", "panic:2"));
    let error = discarded(&db).await;
    assert_eq!(error, "the recompute panicked: injected for lab 2");
    assert_eq!(failed(&db, 1..=3).await.len(), 4, "no other lab's");
    assert!(worker.is_running());
}

async fn a_job_that_never_ends_is_ended_by_the_job_timeout(engine: Engine) {
    let db = labs(engine).await;
    let poison = format!("(billing.lab_id <> {POISONED} OR {})", endless(engine));
    let jobs = jobs_with(&poison);
    enqueue(&db).await;
    let mut arguments = vec!["--jobs-dir", jobs.path().to_str().unwrap()];
    arguments.extend(WORKER);
    arguments.extend(["--job-timeout", "5s"]);
    let _worker = Process::start(&db, &arguments);
    discarded(&db).await;
    for (took, error) in failed(&db, POISONED..=POISONED).await {
        // The databases' clocks round. The two days of the group share ten seconds, then each has five.
        let in_time = TimeDelta::milliseconds(4_990)..TimeDelta::seconds(20 + 10);
        assert!(in_time.contains(&took), "{took}: {error}");
        // The job timeout and the database's own limit end the statement at about the same time.
        let ended = ["longer than --job-timeout (5s)", "max_statement_time", "interrupted"];
        assert!(ended.iter().any(|text| error.contains(text)), "{error}");
    }
    // The abandoned statement does not delay the worker.
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-07", "--lab", "1", "--wait"]);
    if engine == Engine::MariaDb {
        wait_until("the server to have given up too", LIMIT, async || {
            db.number(
                "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND state = 'User sleep'",
            )
            .await
                == 0
        })
        .await;
    }
}

async fn one_bad_day_of_a_group_fails_alone(engine: Engine) {
    let db = labs(engine).await;
    // On one day of lab 2, the SELECT of bills fails.
    db.execute("UPDATE billing SET isCancelled = 0 WHERE lab_id = 2", args![]).await;
    let poison = format!(
        "(billing.lab_id <> 2 OR billing.billTime < '2026-06-04 18:30:00' OR billing.billTime >= '2026-06-05 18:30:00'
          OR {})",
        fails(engine)
    );
    let jobs = jobs_with(&poison);
    run_ok(
        &db,
        &["--now", NOW, "repair", "--day", "2026-06-02", "--to", "2026-06-08", "--lab", "2", "--attempts", "1"],
    );
    let mut arguments = vec!["--jobs-dir", jobs.path().to_str().unwrap()];
    arguments.extend(WORKER);
    let _worker = Process::start(&db, &arguments);
    wait_until("every day to end", LIMIT, async || {
        db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state IN ('completed', 'discarded')").await == 7
    })
    .await;
    let bad = db.rows("SELECT day FROM daymend_jobs WHERE state = 'discarded'", args![]).await;
    let bad: Vec<String> = bad.iter().map(|row| row.date(0).unwrap().to_string()).collect();
    assert_eq!(bad, ["2026-06-05"]);
}

/// This test and the next three: without the task that keeps the lease, claims, acks or settles, a worker is useless.
async fn a_worker_that_does_not_keep_its_lease_registers_anew(engine: Engine) {
    a_part_dies(engine, "lease").await;
}

async fn a_worker_that_does_not_claim_registers_anew(engine: Engine) {
    a_part_dies(engine, "fetcher").await;
}

async fn a_worker_that_does_not_ack_registers_anew(engine: Engine) {
    a_part_dies(engine, "acker").await;
}

async fn a_worker_that_does_not_settle_registers_anew(engine: Engine) {
    a_part_dies(engine, "handler").await;
}

/// Makes one task of a worker panic once; the worker still completes all jobs, and ends.
async fn a_part_dies(engine: Engine, part: &str) {
    let db = labs(engine).await;
    // Some days have nothing to change, and are acked; others are written.
    let repair = |day, to| run_ok(&db, &["--now", NOW, "repair", "--day", day, "--to", to]);
    repair("2026-06-02", "2026-06-03");
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    repair("2026-06-02", "2026-06-03");
    repair("2026-06-08", "2026-06-09");
    let fault = format!("once:{part}");
    let mut worker = Process::start_with(&db, &["--now", NOW, "worker", "--drain"], ("DAYMEND_FAULT", fault.as_str()));
    assert_eq!(worker.wait(LIMIT), Some(0));
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'completed'").await, 18);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_workers").await, 3, "it registered again");
}

async fn a_job_of_a_rollup_that_nobody_knows_is_discarded_at_once(engine: Engine) {
    let db = labs(engine).await;
    enqueue(&db).await;
    db.execute(&format!("UPDATE daymend_jobs SET rollup = 'later' WHERE lab_id = {POISONED}"), vec![]).await;
    let worker = run(&db, &["--now", NOW, "worker", "--drain"]);
    assert_eq!(worker.status.code(), Some(1));
    let sql = "SELECT COUNT(*) FROM daymend_jobs WHERE state = 'discarded' AND lab_id = 2 AND attempt = 1";
    assert_eq!(db.number(sql).await, 2);
    let error = db.text("SELECT error FROM daymend_jobs WHERE state = 'discarded' ORDER BY id").await;
    assert_eq!(error, "the rollup \"later\" is not known to this worker (see --jobs-dir)");
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'completed'").await, 4);
}

/// The cause may be a missing privilege or an altered table.
async fn a_worker_that_cannot_settle_says_so_and_gives_up_what_it_holds(engine: Engine) {
    let db = labs(engine).await;
    enqueue(&db).await;
    db.execute(&format!("UPDATE daymend_jobs SET rollup = 'later' WHERE lab_id = {POISONED}"), vec![]).await;
    db.refuse("INSERT", "daymend_attempts", "NEW.outcome = 'failed'").await;
    let (mut worker, address) = Process::start_with_pages(&db, &WORKER);
    let ready = || get(&address, "/readyz").unwrap();
    wait_until("readiness to be denied", LIMIT, async || {
        let page = ready();
        page.status == 503 && page.body.contains("worker: cannot settle: ") && page.body.contains("not now")
    })
    .await;
    let lapsed = "SELECT COUNT(*) FROM daymend_attempts WHERE outcome = 'lapsed'";
    wait_until("the session to end", LIMIT, async || db.number(lapsed).await > 0).await;
    assert!(db.number("SELECT COUNT(*) FROM daymend_workers").await > 1, "it registered again");
    db.execute_script("DROP TRIGGER refuse").await;
    discarded_at_once(&db).await;
    wait_until("readiness", LIMIT, async || ready().status == 200).await;
    assert!(worker.is_running());
}

async fn discarded_at_once(db: &TestDb) {
    let sql = "SELECT COUNT(*) FROM daymend_jobs WHERE state = 'discarded' AND lab_id = 2 AND attempt = 1";
    wait_until("the poisoned jobs to be discarded", LIMIT, async || db.number(sql).await == 2).await;
    wait_until("the others to be done", LIMIT, async || {
        db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'completed'").await == 4
    })
    .await;
}

async fn a_worker_that_ends_while_it_registers_anew_signs_off(engine: Engine) {
    let db = labs(engine).await;
    let (mut worker, address) = Process::start_with_pages(&db, &WORKER);
    wait_until("the worker", LIMIT, async || db.number("SELECT COUNT(*) FROM daymend_workers").await == 1).await;
    db.refuse("INSERT", "daymend_workers", "1 = 1").await;
    db.execute("UPDATE daymend_workers SET lease_until_us = 0", args![]).await;
    let is_lost = |line: &str| line == "daymend_leases_lost_total 1";
    wait_until("the lease to be lost", LIMIT, async || {
        get(&address, "/metrics").is_ok_and(|page| page.body.lines().any(is_lost))
    })
    .await;
    worker.terminate();
    assert_eq!(worker.wait(LIMIT), Some(0));
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_workers WHERE stopped_at IS NULL").await, 0);
}
