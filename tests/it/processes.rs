//! The binary under stress: several schedulers and workers at once, signals, failing jobs, and readers during a
//! rebuild.

use std::{collections::BTreeMap, time::Duration};

use chrono::NaiveDate;
use chrono_tz::Tz;
use daymend::args;

use crate::{
    on_both,
    support::{
        Engine, TestDb, oracle,
        process::{Process, run, run_ok},
        wait_until,
    },
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LABS: [(i64, Tz); 3] =
    [(1, chrono_tz::Asia::Kolkata), (2, chrono_tz::America::New_York), (3, chrono_tz::Africa::Cairo)];
const LIMIT: Duration = Duration::from_secs(90);

on_both! {
    two_schedulers_and_four_workers_do_everything_once;
    sigterm_hands_back_what_has_not_run_with_its_attempt;
    a_reader_beside_a_rebuild_never_sees_less;
    a_worker_that_drained_with_discarded_jobs_exits_with_1;
    serve_rebuilds_what_the_support_dashboard_asks_for;
    a_new_job_starts_within_a_second;
}

/// Creates three labs with `days` days of bills, ending on 14 June.
async fn labs(engine: Engine, days: u32) -> TestDb {
    let db = TestDb::new(engine).await;
    for test in 1..=10 {
        db.add_test(test, (test % 5 != 0).then_some(test % 3)).await;
    }
    for (lab, zone) in LABS {
        db.add_lab(lab, Some(zone.name())).await;
        db.fill_lab(lab, first_day(days), days, 12).await;
    }
    db
}

fn first_day(days: u32) -> NaiveDate {
    daymend::calendar::days_before("2026-06-15".parse().unwrap(), days)
}

async fn assert_equals_source(db: &TestDb) {
    let expected = oracle::expected(db, &LABS, NOW.parse().unwrap()).await;
    assert!(!expected.is_empty());
    oracle::assert_equal(&oracle::stored(db).await, &expected);
}

async fn assert_first_lab_equals_source(db: &TestDb) {
    let expected = oracle::expected(db, &LABS[..1], NOW.parse().unwrap()).await;
    let mut stored = oracle::stored(db).await;
    stored.retain(|key, _| key.0 == LABS[0].0);
    oracle::assert_equal(&stored, &expected);
}

async fn open_runs(db: &TestDb) -> i64 {
    db.number("SELECT COUNT(*) FROM daymend_runs WHERE state = 'running'").await
}

async fn two_schedulers_and_four_workers_do_everything_once(engine: Engine) {
    let db = labs(engine, 30).await;
    // Rows that the nightly run has to correct, and a rebuild for every lab.
    for (lab, _) in LABS {
        db.add_summary_row(lab, "2026-06-14", 77, 7, "organization_test", 7).await;
        run_ok(&db, &["--now", NOW, "rebuild", "--lab", &lab.to_string()]);
    }
    let mut processes: Vec<Process> =
        (0..2).map(|_| Process::start(&db, &["--now", NOW, "scheduler", "--nightly-at", "04:00 UTC"])).collect();
    processes
        .extend((0..4).map(|_| Process::start(&db, &["--now", NOW, "worker", "--lease", "20s", "--heartbeat", "5s"])));
    wait_until("every run to end", LIMIT, || async {
        db.number("SELECT COUNT(*) FROM daymend_runs").await == 6 && open_runs(&db).await == 0
    })
    .await;
    assert!(processes.iter_mut().all(Process::is_running), "a process ended by itself");
    drop(processes);

    let states = "SELECT COUNT(*) FROM daymend_jobs WHERE state <> 'completed'";
    assert_eq!(db.number(states).await, 0, "every job has run");
    let nightly = "SELECT COUNT(*) FROM daymend_jobs WHERE kind = 'nightly'";
    assert_eq!(db.number(nightly).await, 3, "yesterday of each lab is enqueued once");
    let days = "SELECT COUNT(DISTINCT lab_id, day) FROM daymend_jobs WHERE kind = 'rebuild'";
    let days = if engine == Engine::Sqlite { days.replace("lab_id, day", "lab_id || day") } else { days.to_owned() };
    let rebuilt = "SELECT COUNT(*) FROM daymend_jobs WHERE kind = 'rebuild'";
    assert_eq!(db.number(&days).await, db.number(rebuilt).await, "each day of a rebuild is enqueued once");
    let completed = "SELECT COUNT(*) FROM crelio_data_migrations WHERE job_status = 'Completed' AND is_scheduled = 0";
    assert_eq!(db.number(completed).await, 3);
    for status in ["STARTED", "COMPLETED"] {
        let sql = format!("SELECT COUNT(*) FROM operation_event_log WHERE status = '{status}'");
        assert_eq!(db.number(&sql).await, 6, "{status}");
    }
    assert_equals_source(&db).await;
}

async fn sigterm_hands_back_what_has_not_run_with_its_attempt(engine: Engine) {
    let db = labs(engine, 120).await;
    run_ok(&db, &["--now", NOW, "rebuild", "--lab", "1"]);
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    let completed = "SELECT COUNT(*) FROM daymend_jobs WHERE kind = 'rebuild' AND state = 'completed'";
    // If the signal arrives when all claimed jobs have begun, nothing is handed back, and it is tried again.
    let mut handed_back = 0;
    while handed_back == 0 {
        let before = db.number(completed).await;
        let mut worker = Process::start(&db, &["--now", NOW, "worker", "--concurrency", "1"]);
        wait_until("some days to be done", LIMIT, || async { db.number(completed).await > before }).await;
        worker.terminate();
        assert_eq!(worker.wait(LIMIT), Some(0));
        assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'running'").await, 0);
        handed_back = db.number("SELECT COUNT(*) FROM daymend_attempts WHERE outcome = 'handed_back'").await;
    }
    let left = db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'available'").await;
    assert!(left > 0, "it was stopped long before the end");
    let used = "SELECT COUNT(*) FROM daymend_jobs WHERE state = 'available' AND attempt <> 0";
    assert_eq!(db.number(used).await, 0, "jobs that were handed back have their attempt restored");

    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state <> 'completed'").await, 0);
    let record = db.text("SELECT job_status FROM crelio_data_migrations").await;
    assert_eq!(record, "Completed", "a worker that drained closes the run");
}

async fn a_reader_beside_a_rebuild_never_sees_less(engine: Engine) {
    let db = labs(engine, 20).await;
    run_ok(&db, &["--now", NOW, "rebuild", "--lab", "1"]);
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    // Some rows of half of the days are damaged. All others are correct, and must stay so for every reader, those beside
    // the damaged ones as well.
    let right = "SELECT ordered_at, COUNT(*), SUM(event_count) FROM operation_historical_summary
                 WHERE lab_id = 1 AND (ordered_at < '2026-06-05' OR dimension_a_id <= 2)
                 GROUP BY ordered_at ORDER BY ordered_at";
    let read = async || -> BTreeMap<NaiveDate, (i64, String)> {
        let sum = match engine {
            Engine::MariaDb => "CAST(SUM(event_count) AS CHAR)",
            Engine::Sqlite => "CAST(SUM(event_count) AS TEXT)",
        };
        let rows = db.rows(&right.replace("SUM(event_count)", sum), args![]).await;
        rows.iter().map(|row| (row.date(0).unwrap(), (row.int(1).unwrap(), row.text(2).unwrap()))).collect()
    };
    let before = read().await;
    assert!(before.len() >= 19, "{before:?}");
    let damage = "DELETE FROM operation_historical_summary WHERE ordered_at >= '2026-06-05' AND dimension_a_id > 2";
    let mut reads = 0;
    // If the worker ends before a few reads were made, it starts over.
    while reads < 3 {
        db.execute(damage, args![]).await;
        db.add_summary_row(1, "2026-06-10", 99, 9, "branch_bill", 1).await;
        run_ok(&db, &["--now", NOW, "rebuild", "--lab", "1"]);
        run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
        let mut worker = Process::start(&db, &["--now", NOW, "worker", "--drain"]);
        while worker.is_running() {
            assert_eq!(read().await, before, "a reader saw correct rows change");
            reads += 1;
        }
        assert_eq!(worker.wait(LIMIT), Some(0));
        assert_eq!(read().await, before);
        assert_first_lab_equals_source(&db).await;
    }
}

async fn a_worker_that_drained_with_discarded_jobs_exits_with_1(engine: Engine) {
    let db = labs(engine, 3).await;
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-13"]);
    db.execute("UPDATE labs SET labTimeZone = 'Mars/Base' WHERE id = 2", args![]).await;
    let output = run(&db, &["--now", NOW, "worker", "--drain"]);
    assert_eq!(output.status.code(), Some(1));
    let error = db.text("SELECT error FROM daymend_jobs WHERE state = 'discarded'").await;
    assert!(error.contains("lab 2") && error.contains("Mars/Base"), "{error}");
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'completed'").await, 2);
    assert_eq!(db.text("SELECT state FROM daymend_runs").await, "failed");
    let events = "SELECT COUNT(*) FROM operation_event_log WHERE status = 'FAILED'";
    assert_eq!(db.number(events).await, 1);
}

async fn serve_rebuilds_what_the_support_dashboard_asks_for(engine: Engine) {
    let db = labs(engine, 15).await;
    let mut serve = Process::start(&db, &["--now", NOW, "serve"]);
    db.execute(
        "INSERT INTO crelio_data_migrations
             (lab_id, is_scheduled, job_status, migration_type, initiated_by_id, created_at, modified_at)
         VALUES (2, 1, 'Pending', 'HISTORICAL_SUMMARY', 42, '2026-06-15 12:00:00', '2026-06-15 12:00:00')",
        args![],
    )
    .await;
    wait_until("the record to be completed", LIMIT, || async {
        db.text("SELECT job_status FROM crelio_data_migrations").await == "Completed" && open_runs(&db).await == 0
    })
    .await;
    let record =
        &db.rows("SELECT is_scheduled, start_date, end_date, time_taken FROM crelio_data_migrations", args![]).await[0];
    assert_eq!(record.int(0).unwrap(), 0);
    let expected = oracle::expected(&db, &LABS[1..2], NOW.parse().unwrap()).await;
    assert_eq!(record.date(1).unwrap(), expected.keys().map(|key| key.1).min().unwrap());
    assert_eq!(record.date(2).unwrap(), "2026-06-14".parse().unwrap());
    let seconds = u64::try_from(record.int(3).unwrap()).unwrap();
    assert!(seconds <= LIMIT.as_secs(), "{seconds}");
    let pairs = "SELECT COUNT(*) FROM operation_event_log WHERE event_name LIKE 'Historical-Summary-Rebuild%'";
    assert_eq!(db.number(pairs).await, 2, "STARTED and COMPLETED");
    serve.terminate();
    assert_eq!(serve.wait(LIMIT), Some(0));
}

/// Enqueues single jobs at moments unrelated to the worker's poll, which is every second. A shared machine may add
/// delays, but not in each of five rounds.
async fn a_new_job_starts_within_a_second(engine: Engine) {
    let db = labs(engine, 5).await;
    let _worker = Process::start(&db, &["--now", NOW, "worker"]);
    wait_until("the worker", LIMIT, || async { db.number("SELECT COUNT(*) FROM daymend_workers").await == 1 }).await;
    let mut rounds = Vec::new();
    for _ in 0..5 {
        let waits = waits_of_jobs(&db).await;
        let (median, longest) = (waits[waits.len() / 2], waits[waits.len() - 1]);
        rounds.push(waits);
        if median < chrono::TimeDelta::seconds(1) && longest < chrono::TimeDelta::milliseconds(1500) {
            return;
        }
    }
    panic!("{rounds:?}");
}

/// Enqueues a round of jobs, and returns how long each waited until it was claimed, shortest first.
async fn waits_of_jobs(db: &TestDb) -> Vec<chrono::TimeDelta> {
    const JOBS: u64 = 12;
    let mut waits = Vec::new();
    for job in 0..JOBS {
        tokio::time::sleep(Duration::from_millis(job * 370 % 1000)).await;
        run_ok(db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-13"]);
        let open = "SELECT COUNT(*) FROM daymend_jobs WHERE state <> 'completed'";
        wait_until("the job", LIMIT, || async { db.number(open).await == 0 }).await;
        let wait = "SELECT runs.created_at, jobs.claimed_at FROM daymend_jobs AS jobs
                    JOIN daymend_runs AS runs ON runs.id = jobs.run_id ORDER BY jobs.id DESC LIMIT 1";
        let row = &db.rows(wait, args![]).await[0];
        waits.push(row.instant(1).unwrap() - row.instant(0).unwrap());
    }
    waits.sort();
    waits
}

/// The JSON log has one object per line, and every line about a job identifies it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_job_names_its_run_lab_day_and_attempt() {
    let db = labs(Engine::Sqlite, 5).await;
    run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--lab", "2", "--day", "2026-06-12", "--to", "2026-06-13"]);
    db.execute("UPDATE labs SET labTimeZone = 'Mars/Olympus' WHERE id = 2", args![]).await;
    let output = run(&db, &["--now", NOW, "--log", "debug", "--log-format", "json", "worker", "--drain"]);
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let of = |message: &str| -> Vec<&serde_json::Value> {
        let found: Vec<_> = lines.iter().filter(|line| line["message"] == message).map(|line| &line["span"]).collect();
        assert!(!found.is_empty(), "{message}: {log}");
        found
    };
    for span in of("attempt failed") {
        assert_eq!(
            (&span["name"], &span["run"], &span["lab"], &span["attempt"]),
            (&"job".into(), &1.into(), &2.into(), &1.into())
        );
        assert!(["2026-06-12", "2026-06-13"].contains(&span["day"].as_str().unwrap()), "{span}");
    }
    for span in of("a group failed, going on one day at a time") {
        assert_eq!((&span["day"], &span["to"], &span["lab"]), (&"2026-06-12".into(), &"2026-06-13".into(), &2.into()));
    }
    for span in of("corrected").into_iter().chain(of("done")) {
        assert_eq!((&span["run"], &span["lab"], &span["attempt"]), (&1.into(), &1.into(), &1.into()));
    }
    let ended: Vec<_> =
        lines.iter().filter(|line| line["message"].as_str().unwrap_or("").starts_with("run ended")).collect();
    assert_eq!(ended.len(), 1, "one line per run: {log}");
    assert_eq!(
        (&ended[0]["level"], &ended[0]["run"], &ended[0]["state"]),
        (&"INFO".into(), &1.into(), &"failed".into())
    );
}
