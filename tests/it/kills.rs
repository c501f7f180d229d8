//! Workers and schedulers are killed and stopped at any point: nothing is lost, and work that another worker has taken
//! over is not overwritten.

use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDate};
use daymend::{
    args,
    db::Mode,
    queue::{claim, lease},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    on_both,
    support::{
        Engine, TestDb, oracle,
        process::{Process, run, run_ok},
        wait_until,
    },
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LABS: [(i64, chrono_tz::Tz); 2] = [(1, chrono_tz::Asia::Kolkata), (2, chrono_tz::America::New_York)];
const LIMIT: Duration = Duration::from_secs(120);
const DAYS: u32 = 60;
const WORKER: [&str; 7] = ["--now", NOW, "worker", "--lease", "1500ms", "--heartbeat", "400ms"];
const SCHEDULER: [&str; 3] = ["--now", NOW, "scheduler"];

/// How long processes are killed for; `DAYMEND_KILL_SECONDS` overrides it.
fn duration() -> Duration {
    let seconds = std::env::var("DAYMEND_KILL_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

on_both! {
    processes_killed_at_random_lose_nothing;
    a_worker_stopped_past_its_lease_can_write_nothing;
    a_drain_says_once_whose_jobs_it_waits_for;
}

async fn labs(engine: Engine) -> TestDb {
    let db = TestDb::new(engine).await;
    let first: NaiveDate = daymend::calendar::days_before("2026-06-15".parse().unwrap(), DAYS);
    for test in 1..=10 {
        db.add_test(test, (test % 5 != 0).then_some(test % 3)).await;
    }
    for (lab, zone) in LABS {
        db.add_lab(lab, Some(zone.name())).await;
        db.fill_lab(lab, first, DAYS, 10).await;
    }
    db
}

async fn processes_killed_at_random_lose_nothing(engine: Engine) {
    let db = labs(engine).await;
    let mut random = StdRng::seed_from_u64(11);
    let mut workers: Vec<Process> = (0..3).map(|_| Process::start(&db, &WORKER)).collect();
    let mut schedulers: Vec<Process> = (0..2).map(|_| Process::start(&db, &SCHEDULER)).collect();
    let (mut kills, mut rebuilds) = (0, 0);
    let begun = Instant::now();
    // On a slow machine it may take a while until a kill hits a worker that holds jobs.
    let lapsed = "SELECT COUNT(*) FROM daymend_attempts WHERE outcome = 'lapsed'";
    while begun.elapsed() < duration() || kills < 10 || begun.elapsed() < duration() * 6 && db.number(lapsed).await == 0
    {
        if db.number("SELECT COUNT(*) FROM daymend_runs WHERE state = 'running'").await == 0
            && db.number("SELECT COUNT(*) FROM crelio_data_migrations WHERE job_status = 'Pending'").await == 0
        {
            // Every day gets something to correct, and one day a row that no fact supports.
            db.execute("DELETE FROM operation_historical_summary WHERE dimension_b_id IN (1, 4)", args![]).await;
            db.add_summary_row(1, "2026-06-01", 5000 + rebuilds, 0, "branch_bill", 3).await;
            for (lab, _) in LABS {
                run_ok(&db, &["--now", NOW, "rebuild", "--lab", &lab.to_string()]);
            }
            rebuilds += 1;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(50..400))).await;
        let (pool, arguments): (_, &[&str]) =
            if random.random_bool(0.1) { (&mut schedulers, &SCHEDULER) } else { (&mut workers, &WORKER) };
        let victim = random.random_range(0..pool.len());
        pool[victim] = {
            pool[victim].signal("KILL");
            pool[victim].wait(LIMIT);
            Process::start(&db, arguments)
        };
        kills += 1;
    }
    wait_until("every run to end", LIMIT, async || {
        db.number("SELECT COUNT(*) FROM daymend_runs WHERE state = 'running'").await == 0
            && db.number("SELECT COUNT(*) FROM crelio_data_migrations WHERE job_status = 'Pending'").await == 0
    })
    .await;
    let jobs = db.number("SELECT COUNT(*) FROM daymend_jobs").await;
    let completed = db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'completed'").await;
    let rescued = db.number(lapsed).await;
    println!(
        "{engine:?}: {kills} kills, {rebuilds} rounds of rebuilds, {rescued} rescues, {completed} of {jobs} jobs completed"
    );
    assert_eq!(completed, jobs, "every job has completed");
    assert!(kills >= 10 && rebuilds >= 1, "{kills} kills, {rebuilds} rebuilds: too few for a test");
    assert!(rescued > 0, "no kill ever hit a worker that held jobs");
    let records = "SELECT COUNT(*) FROM crelio_data_migrations WHERE job_status <> 'Completed'";
    assert_eq!(db.number(records).await, 0);
    let expected = oracle::expected(&db, &LABS, NOW.parse().unwrap()).await;
    oracle::assert_equal(&oracle::stored(&db).await, &expected);
}

async fn a_worker_stopped_past_its_lease_can_write_nothing(engine: Engine) {
    let db = labs(engine).await;
    run_ok(&db, &["--now", NOW, "rebuild", "--lab", "1"]);
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    // It is the only worker. If a stop has outlasted its lease unintentionally, it registers again, and what it held
    // before is held by nobody until it is taken over.
    let held = "SELECT COUNT(*) FROM daymend_jobs
                WHERE state = 'running' AND worker_id = (SELECT MAX(id) FROM daymend_workers)";
    let registrations = "SELECT COUNT(*) FROM daymend_workers WHERE name LIKE 'first%'";
    let stopped = Process::start(&db, &[&WORKER[..], &["--name", "first"]].concat());
    // It must be stopped while it holds jobs, and not while it holds SQLite's only write lock.
    loop {
        wait_until("the first worker to hold jobs", LIMIT, async || {
            // If the worker has already completed all jobs, they are made available again.
            let again = "UPDATE daymend_jobs SET state = 'available', sort_key = 0 WHERE state = 'completed'";
            if db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state <> 'completed'").await == 0 {
                db.execute(again, args![]).await;
            }
            db.number(held).await > 0
        })
        .await;
        stopped.signal("STOP");
        let write = db.db.begin(Mode::Write).await;
        if write.is_ok() && db.number(held).await > 0 {
            break;
        }
        stopped.signal("CONT");
    }
    let registered = db.number(registrations).await;
    // With the default lease, it keeps it however slow the machine is.
    let _second = Process::start(&db, &["--now", NOW, "worker", "--heartbeat", "400ms", "--name", "second"]);
    wait_until("the second worker to take over and finish", LIMIT, async || {
        db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state <> 'completed'").await == 0
    })
    .await;
    assert!(db.number("SELECT COUNT(*) FROM daymend_attempts WHERE outcome = 'lapsed'").await > 0);

    // The source changes, so that a recompute of any day would now write something.
    db.execute("UPDATE billing SET isCancelled = 1 - isCancelled WHERE lab_id = 1", args![]).await;
    let summary = oracle::stored(&db).await;
    let jobs = "SELECT id, attempt, worker_id, sort_key FROM daymend_jobs ORDER BY id";
    let read = async || -> Vec<[i64; 4]> {
        let rows = db.rows(jobs, args![]).await;
        rows.iter().map(|row| [0, 1, 2, 3].map(|column| row.int(column).unwrap())).collect()
    };
    let before = read().await;
    stopped.signal("CONT");
    // It notices that its lease is lost, and registers again.
    let is_back = async || db.number(registrations).await > registered;
    wait_until("the first worker to register anew", LIMIT, is_back).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(read().await, before, "the later attempt stands");
    oracle::assert_equal(&oracle::stored(&db).await, &summary);
}

async fn a_drain_says_once_whose_jobs_it_waits_for(engine: Engine) {
    let db = labs(engine).await;
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-10", "--to", "2026-06-12", "--lab", "1"]);
    // A worker that claims jobs and then sends nothing more.
    let dead = lease::register(&db.db, "pod-7", Duration::from_secs(4)).await.unwrap();
    assert_eq!(claim::claim(&db.db, dead, 2).await.unwrap().len(), 2);
    let until = db.number("SELECT lease_until_us FROM daymend_workers").await;
    let until = DateTime::from_timestamp_micros(until).unwrap().format("%Y-%m-%d %H:%M:%S UTC");
    let drain = run(&db, &["--now", NOW, "worker", "--drain"]);
    let log = String::from_utf8(drain.stderr).unwrap();
    assert_eq!(drain.status.code(), Some(0), "{log}");
    let said: Vec<&str> = log.lines().filter(|line| line.contains("nothing is left to claim")).collect();
    assert_eq!(said.len(), 1, "{log}");
    assert!(
        said[0].contains(&format!("2 job(s) of worker {dead} (pod-7), whose lease ends at {until} unless it is alive")),
        "{log}"
    );
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state <> 'completed'").await, 0);
}

/// Jobs are otherwise rescued by claims, and this worker makes none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_has_no_room_rescues_the_jobs_of_one_that_died() {
    let db = labs(Engine::MariaDb).await;
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-05-01", "--to", "2026-06-10", "--lab", "1"]);
    let other = lease::register(&db.db, "pod-7", LIMIT).await.unwrap();
    assert_eq!(claim::claim(&db.db, other, 2).await.unwrap().len(), 2);
    // Everything that the worker claims waits in the middle of its look.
    let held = db.lock(&["billing"]).await;
    let _worker = Process::start(&db, &["--now", NOW, "worker", "--concurrency", "1"]);
    let running = "SELECT COUNT(*) FROM daymend_jobs WHERE state = 'running'";
    wait_until("the worker to hold what it has room for", LIMIT, async || db.number(running).await == 2 + 14).await;
    db.execute("UPDATE daymend_workers SET lease_until_us = 0 WHERE id = ?", args![other]).await;
    let rescued = "SELECT COUNT(*) FROM daymend_jobs WHERE state = 'available' AND lapses = 1";
    wait_until("the jobs to be rescued", Duration::from_secs(40), async || db.number(rescued).await == 2).await;
    drop(held);
}
