//! The limits that keep a recompute from trusting a source that has lost rows, and a worker from working while the
//! database is overloaded.

use std::{process::Output, time::Duration};

use daymend::{args, db::Mode};
use sqlx::{Connection as _, Executor as _, MySqlConnection};

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        doctor::arguments,
        process::{Process, run, run_fails, run_ok},
        server::{self, Product, Server},
        wait_until,
    },
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LIMIT: Duration = Duration::from_secs(180);
const USAGE: i32 = 2;

on_both! {
    a_day_that_would_vanish_is_discarded_with_the_reason;
    a_day_whose_run_is_unknown_may_not_vanish;
    the_advice_of_a_discarded_day_can_be_followed;
    what_one_run_may_take_away_another_may_not;
    cancelled_and_moved_bills_may_take_rows_away;
    merged_dimensions_may_take_rows_away;
    a_single_bill_may_be_all_that_a_day_had;
    a_rebuild_takes_away_what_it_finds_gone;
    a_rebuild_of_a_lab_whose_source_has_lost_rows_says_what_to_look_at;
    a_query_of_the_operators_own_holds_workers_back;
    a_number_of_any_kind_holds_workers_back_and_none_at_all_does;
    a_worker_that_holds_back_ends_at_once_on_sigterm;
    a_worker_whom_nobody_lets_write_ends_soon_on_sigterm;
    a_drain_that_a_signal_ends_has_failed;
    a_reason_that_cannot_be_recorded_is_recorded_later;
    limits_that_cannot_be_read_are_bad_input;
}

/// Creates a lab with some days of bills, the last four of them in the summary.
async fn lab(engine: Engine, days: u32) -> TestDb {
    let db = TestDb::new(engine).await;
    for test in 1..=5 {
        db.add_test(test, Some(test)).await;
    }
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.fill_lab(1, daymend::calendar::days_before("2026-06-15".parse().unwrap(), days), days, 8).await;
    run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-11", "--to", "2026-06-14"]);
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    db
}

async fn rows_of(db: &TestDb, day: &str) -> i64 {
    let sql = "SELECT COUNT(*) FROM operation_historical_summary WHERE ordered_at = ?";
    db.rows(sql, args![day]).await[0].int(0).unwrap()
}

/// Repairs two days, and returns the exit code of the worker and the errors of discarded jobs.
async fn repair(db: &TestDb, more: &[&str]) -> (Option<i32>, Vec<String>) {
    let repair = ["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-12", "--to", "2026-06-13"];
    run_ok(db, &[&repair[..], more].concat());
    let code = run(db, &["--now", NOW, "worker", "--drain"]).status.code();
    let errors = db.rows("SELECT error FROM daymend_jobs WHERE state = 'discarded' ORDER BY id", vec![]).await;
    (code, errors.iter().map(|row| row.text(0).unwrap()).collect())
}

const BILLS_OF_THE_DAY: &str = "lab_id = 1 AND billTime >= '2026-06-11 18:30:00' AND billTime < '2026-06-12 18:30:00'";

async fn a_day_that_would_vanish_is_discarded_with_the_reason(engine: Engine) {
    let db = lab(engine, 6).await;
    let rows = rows_of(&db, "2026-06-12").await;
    assert!(rows > 20, "{rows}");
    db.execute(&format!("DELETE FROM billing WHERE {BILLS_OF_THE_DAY}"), vec![]).await;
    // Something is wrong on the neighbouring day, and must be corrected regardless.
    db.execute("UPDATE operation_historical_summary SET event_count = 99 WHERE ordered_at = '2026-06-13'", vec![])
        .await;
    let (code, errors) = repair(&db, &[]).await;
    assert_eq!((code, errors.len()), (Some(1), 1), "{errors:?}");
    let expected = format!("lab 1, 2026-06-12: {rows} of {rows} rows would vanish, more than --max-shrink 50%");
    assert!(errors[0].starts_with(&expected), "{errors:?}");
    assert_eq!(db.number("SELECT attempt FROM daymend_jobs WHERE state = 'discarded'").await, 1, "retrying is useless");
    assert_eq!(rows_of(&db, "2026-06-12").await, rows, "nothing is deleted");
    assert_eq!(db.number("SELECT COUNT(*) FROM operation_historical_summary WHERE event_count = 99").await, 0);
    // An operator has checked that the bills are really gone.
    let (code, _) = repair(&db, &["--max-shrink", "off"]).await;
    assert_eq!(code, Some(0));
    assert_eq!(rows_of(&db, "2026-06-12").await, 0);
}

/// Its run may have allowed it, but nobody can tell.
async fn a_day_whose_run_is_unknown_may_not_vanish(engine: Engine) {
    let db = lab(engine, 6).await;
    let rows = rows_of(&db, "2026-06-12").await;
    db.execute(&format!("DELETE FROM billing WHERE {BILLS_OF_THE_DAY}"), vec![]).await;
    run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-12", "--max-shrink", "off"]);
    db.execute("DELETE FROM daymend_runs", vec![]).await;
    assert_eq!(run(&db, &["--now", NOW, "worker", "--drain"]).status.code(), Some(1));
    assert_eq!(rows_of(&db, "2026-06-12").await, rows);
}

async fn the_advice_of_a_discarded_day_can_be_followed(engine: Engine) {
    for (day, bills) in [("2020-01-01", "id < 0"), ("2026-06-12", "lab_id = 1")] {
        let db = lab(engine, 6).await;
        db.add_summary_row(1, "2020-01-01", 999, 0, "organization_bill", 5).await;
        db.execute(&format!("DELETE FROM billing WHERE {bills}"), vec![]).await;
        let code = run(&db, &["--now", NOW, "audit", "--from", day, "--to", day, "--repair"]).status.code();
        assert_eq!((code, run(&db, &["--now", NOW, "worker", "--drain"]).status.code()), (Some(3), Some(1)));
        let error = db.text("SELECT error FROM daymend_jobs WHERE state = 'discarded'").await;
        let advised = arguments(&error);
        assert_eq!(advised, ["repair", "--lab", "1", "--day", day, "--max-shrink", "off"], "{error}");
        run_ok(&db, &[&["--now", NOW], &advised[..]].concat());
        run_ok(&db, &["--now", NOW, "worker", "--drain"]);
        assert_eq!(rows_of(&db, day).await, 0);
    }
}

/// The days are neighbours, which a worker looks at together if it can.
async fn what_one_run_may_take_away_another_may_not(engine: Engine) {
    for (kept, gone) in [("2026-06-12", "2026-06-13"), ("2026-06-13", "2026-06-12")] {
        let db = lab(engine, 6).await;
        let rows = rows_of(&db, kept).await;
        for (day, more) in [(kept, "50%"), (gone, "off")] {
            run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--day", day, "--max-shrink", more]);
        }
        db.execute("DELETE FROM billing", vec![]).await;
        let code = run(&db, &["--now", NOW, "worker", "--drain"]).status.code();
        assert_eq!((code, rows_of(&db, kept).await, rows_of(&db, gone).await), (Some(1), rows, 0), "{kept}");
    }
}

async fn cancelled_and_moved_bills_may_take_rows_away(engine: Engine) {
    let db = lab(engine, 6).await;
    db.execute(&format!("UPDATE billing SET isCancelled = 1 WHERE {BILLS_OF_THE_DAY}"), vec![]).await;
    let moved = "UPDATE billingInfo SET organization_id = organization_id + 1000, referral_id = referral_id + 1000,
                        branch_id = branch_id + 1000
                 WHERE billing_id IN (SELECT id FROM billing WHERE billTime >= '2026-06-12 18:30:00')";
    db.execute(moved, vec![]).await;
    assert_eq!(repair(&db, &[]).await, (Some(0), vec![]));
    assert_eq!(rows_of(&db, "2026-06-12").await, 0);
    let new = "SELECT COUNT(*) FROM operation_historical_summary
               WHERE ordered_at = '2026-06-13' AND dimension_a_id < 1000 AND event_type <> 'department_test'";
    assert_eq!(db.number(new).await, 0, "all of them have moved");
}

/// What was counted in many rows is now counted in one existing row: nothing has vanished.
async fn merged_dimensions_may_take_rows_away(engine: Engine) {
    let db = lab(engine, 6).await;
    let of_the_day = format!("WHERE billing_id IN (SELECT id FROM billing WHERE {BILLS_OF_THE_DAY})");
    // A bill without tests and samples gives one row for each of its owners.
    for table in ["labReportRelation", "collectedSample"] {
        db.execute(&format!("DELETE FROM {table} {of_the_day}"), vec![]).await;
    }
    db.execute(
        &format!(
            "UPDATE billingInfo SET organization_id = billing_id, referral_id = billing_id, branch_id = billing_id \
             {of_the_day}"
        ),
        vec![],
    )
    .await;
    assert_eq!(repair(&db, &["--max-shrink", "off"]).await, (Some(0), vec![]));
    let before = rows_of(&db, "2026-06-12").await;
    let first = db.number(&format!("SELECT MIN(id) FROM billing WHERE {BILLS_OF_THE_DAY}")).await;
    db.execute(
        &format!("UPDATE billingInfo SET organization_id = ?, referral_id = ?, branch_id = ? {of_the_day}"),
        args![first, first, first],
    )
    .await;
    assert_eq!(repair(&db, &[]).await, (Some(0), vec![]));
    let after = rows_of(&db, "2026-06-12").await;
    assert!(2 * after < before, "{after} of {before}");
}

async fn a_single_bill_may_be_all_that_a_day_had(engine: Engine) {
    let db = lab(engine, 6).await;
    let one = db.number(&format!("SELECT MIN(id) FROM billing WHERE {BILLS_OF_THE_DAY}")).await;
    db.execute(&format!("DELETE FROM billing WHERE {BILLS_OF_THE_DAY} AND id <> ?"), args![one]).await;
    assert_eq!(repair(&db, &["--max-shrink", "off"]).await, (Some(0), vec![]));
    let rows = rows_of(&db, "2026-06-12").await;
    assert!(rows > 6, "a bill gives many rows: {rows}");
    db.execute(&format!("UPDATE billing SET billTime = '2026-06-13 06:00:00' WHERE {BILLS_OF_THE_DAY}"), vec![]).await;
    assert_eq!(repair(&db, &[]).await, (Some(0), vec![]));
    assert_eq!(rows_of(&db, "2026-06-12").await, 0);
}

async fn a_rebuild_takes_away_what_it_finds_gone(engine: Engine) {
    let db = lab(engine, 6).await;
    db.execute(&format!("DELETE FROM billing WHERE {BILLS_OF_THE_DAY}"), vec![]).await;
    run_ok(&db, &["--now", NOW, "rebuild", "--lab", "1"]);
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    assert_eq!(rows_of(&db, "2026-06-12").await, 0);
    assert!(rows_of(&db, "2026-06-13").await > 20);
}

async fn a_rebuild_of_a_lab_whose_source_has_lost_rows_says_what_to_look_at(engine: Engine) {
    let db = lab(engine, 6).await;
    let rebuild = |more: &[&str]| run(&db, &[&["--now", NOW, "rebuild", "--lab", "1"], more].concat());
    let warned = |output: Output| {
        assert!(output.status.success(), "{output:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        error.lines().filter(|line| line.contains("would vanish")).map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(warned(rebuild(&["--dry-run"])), Vec::<String>::new());
    db.execute(&format!("DELETE FROM billing WHERE {BILLS_OF_THE_DAY}"), vec![]).await;
    assert_eq!(repair(&db, &[]).await.0, Some(1));
    for more in [&["--dry-run"][..], &[]] {
        let lines = warned(rebuild(more));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].starts_with("warning: lab 1 has 1 job(s) that were discarded because rows would vanish"),
            "{lines:?}"
        );
        assert!(lines[0].contains("`daymend queue list --lab 1 --state discarded`"), "{lines:?}");
        assert!(lines[0].contains("docs/recovery.md"), "{lines:?}");
    }
    db.execute("UPDATE daymend_jobs SET error = 'something else' WHERE state = 'discarded'", vec![]).await;
    assert_eq!(warned(rebuild(&["--dry-run"])), Vec::<String>::new());
}

async fn completed(db: &TestDb) -> i64 {
    db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'completed'").await
}

/// Starts a worker, and waits until it holds back.
async fn worker_that_is_held_back(db: &TestDb, more: &[&str]) -> Process {
    let (worker, _) = suffering_worker(db, 7, more).await;
    wait_until("the worker to hold back", LIMIT, || async { db.number(HOLDING_BACK).await == 1 }).await;
    worker
}

const HOLDING_BACK: &str = "SELECT COUNT(*) FROM daymend_workers WHERE throttled IS NOT NULL";

/// Starts a worker that holds back according to the table `suffering`, which says how overloaded the database is.
async fn suffering_worker(db: &TestDb, much: i64, more: &[&str]) -> (Process, String) {
    db.execute("CREATE TABLE suffering (id INT PRIMARY KEY, much INT NOT NULL)", vec![]).await;
    db.execute("INSERT INTO suffering VALUES (1, ?)", args![much]).await;
    if db.engine == Engine::MariaDb {
        let name = db.name();
        db.execute(&format!("GRANT SELECT ON {name}.suffering TO {name}@'%'"), vec![]).await;
    }
    let worker = ["--now", NOW, "worker", "--throttle-query", "SELECT MAX(much) FROM suffering"];
    Process::start_with_pages(db, &[&worker, more].concat())
}

async fn a_drain_that_a_signal_ends_has_failed(engine: Engine) {
    let db = lab(engine, 6).await;
    let mut worker = worker_that_is_held_back(&db, &["--drain"]).await;
    run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-12"]);
    worker.terminate();
    assert_eq!(worker.wait(LIMIT), Some(1), "there is work left");
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'available'").await, 1);
}

async fn a_reason_that_cannot_be_recorded_is_recorded_later(engine: Engine) {
    let db = lab(engine, 6).await;
    let _worker = worker_that_is_held_back(&db, &[]).await;
    let before = completed(&db).await;
    run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-12"]);
    db.refuse("UPDATE", "daymend_workers", "NEW.throttled IS NULL AND OLD.throttled IS NOT NULL").await;
    db.execute("UPDATE suffering SET much = 0", vec![]).await;
    wait_until("the work to go on", LIMIT, || async { completed(&db).await > before }).await;
    assert_eq!(db.number(HOLDING_BACK).await, 1);
    db.execute_script("DROP TRIGGER refuse").await;
    wait_until("the reason to go", LIMIT, || async { db.number(HOLDING_BACK).await == 0 }).await;
}

/// Recording the reason waits for the overloaded server; meanwhile no work may be started.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_begun_while_the_reason_is_being_recorded() {
    let db = lab(Engine::MariaDb, 6).await;
    let (_worker, _) = suffering_worker(&db, 0, &[]).await;
    let before = completed(&db).await;
    run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-12"]);
    wait_until("the gate to be open", LIMIT, || async { completed(&db).await > before }).await;
    db.execute_script(
        "CREATE TRIGGER slow BEFORE UPDATE ON daymend_workers FOR EACH ROW
         IF NEW.throttled IS NOT NULL THEN DO SLEEP(600); END IF",
    )
    .await;
    db.execute("UPDATE suffering SET much = 1", vec![]).await;
    let recording =
        "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND state = 'User sleep'";
    wait_until("the record", LIMIT, || async { db.number(recording).await > 0 }).await;
    run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-13"]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(completed(&db).await, before + 1, "an open gate would start it within a second");
}

async fn a_query_of_the_operators_own_holds_workers_back(engine: Engine) {
    let db = lab(engine, 200).await;
    let _worker = worker_that_is_held_back(&db, &[]).await;
    let before = completed(&db).await;
    run_ok(&db, &["--now", NOW, "rebuild", "--lab", "1"]);
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(completed(&db).await, before, "nothing is started");
    assert!(run_ok(&db, &["queue", "stats"]).contains("holds back: --throttle-query says 7"));
    // The load falls for a moment, ...
    db.execute("UPDATE suffering SET much = 0", vec![]).await;
    wait_until("the work to go on", LIMIT, || async { completed(&db).await > before }).await;
    wait_until("the reason to go", LIMIT, || async { db.number(HOLDING_BACK).await == 0 }).await;
    assert!(!run_ok(&db, &["queue", "stats"]).contains("holds back"));
    // ... and rises again while jobs are running.
    db.execute("UPDATE suffering SET much = 1", vec![]).await;
    wait_until("the worker to hold back again", LIMIT, || async { db.number(HOLDING_BACK).await == 1 }).await;
    // The worker finishes the jobs that it has started.
    let still = async || {
        let before = completed(&db).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        completed(&db).await == before
    };
    wait_until("what has begun to end", LIMIT, still).await;
    // There are jobs left, however fast it was.
    run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-12", "--to", "2026-06-13"]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(still().await, "nothing is started");
    assert!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state <> 'completed'").await >= 2);
    db.execute("UPDATE suffering SET much = 0", vec![]).await;
    wait_until("the work to be done", LIMIT, || async {
        db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state IN ('available', 'running')").await == 0
    })
    .await;
}

async fn a_number_of_any_kind_holds_workers_back_and_none_at_all_does(engine: Engine) {
    let db = lab(engine, 6).await;
    db.execute("CREATE TABLE numbers (id INT PRIMARY KEY, much INT NOT NULL)", vec![]).await;
    db.execute("INSERT INTO numbers VALUES (1, 0)", vec![]).await;
    if engine == Engine::MariaDb {
        let name = db.name();
        db.execute(&format!("GRANT SELECT ON {name}.numbers TO {name}@'%'"), args![]).await;
    }
    for go_on in ["SELECT SUM(much) FROM numbers", "SELECT -0.5", "SELECT AVG(much) FROM numbers", "SELECT 0e0"] {
        run_ok(&db, &["--now", NOW, "worker", "--drain", "--throttle-query", go_on]);
    }
    let unreadable = ["worker", "--drain", "--throttle-query", "SELECT MAX(much) FROM numbers WHERE much > 7"];
    let error = run_fails(&db, USAGE, &unreadable);
    assert!(error.contains("--throttle-query"), "{error}");
    let query = ["--now", NOW, "worker", "--throttle-query", "SELECT AVG(much) FROM numbers"];
    let _worker = Process::start(&db, &query);
    let holds_back = async |reason: &str| {
        wait_until(reason, LIMIT, || async {
            db.number(&format!("SELECT COUNT(*) FROM daymend_workers WHERE throttled LIKE '{reason}'")).await == 1
        })
        .await;
    };
    wait_until("the worker", LIMIT, || async { db.number("SELECT COUNT(*) FROM daymend_workers").await > 0 }).await;
    db.execute("INSERT INTO numbers VALUES (2, 1)", vec![]).await;
    holds_back("--throttle-query says 0.5%").await;
    db.execute("DELETE FROM numbers", vec![]).await;
    holds_back("--throttle-query cannot be read%").await;
}

/// A worker is killed some time after the grace period, and jobs that it could not hand back are rescued anyway.
async fn a_worker_whom_nobody_lets_write_ends_soon_on_sigterm(engine: Engine) {
    let db = TestDb::new(engine).await;
    let mut worker = Process::start(&db, &["--now", NOW, "worker", "--grace", "1s"]);
    wait_until("it to register", LIMIT, async || db.number("SELECT COUNT(*) FROM daymend_workers").await == 1).await;
    let mut held = db.admin.begin(Mode::Write).await.unwrap();
    if engine == Engine::MariaDb {
        held.execute_text("hold", "LOCK TABLES daymend_jobs WRITE, daymend_workers WRITE").await.unwrap();
    }
    worker.terminate();
    assert_eq!(worker.wait(Duration::from_secs(40)), Some(0));
    held.discard();
}

async fn a_worker_that_holds_back_ends_at_once_on_sigterm(engine: Engine) {
    let db = lab(engine, 6).await;
    let mut worker = worker_that_is_held_back(&db, &[]).await;
    run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-12"]);
    let begun = std::time::Instant::now();
    worker.terminate();
    assert_eq!(worker.wait(LIMIT), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'available' AND attempt = 0").await, 1);
}

async fn limits_that_cannot_be_read_are_bad_input(engine: Engine) {
    let db = TestDb::new(engine).await;
    let error = run_fails(&db, USAGE, &["worker", "--drain", "--throttle-query", "SELECT nonsense FROM nowhere"]);
    assert!(error.contains("--throttle-query"), "{error}");
    if engine == Engine::Sqlite {
        let error = run_fails(&db, USAGE, &["worker", "--drain", "--throttle-threads", "10"]);
        assert!(error.contains("--throttle-threads"), "{error}");
    }
    if engine == Engine::MariaDb {
        let primary = server::url(server::shared_port(), db.name());
        let error = run_fails(&db, USAGE, &["worker", "--drain", "--replica-url", &primary]);
        assert!(error.contains("--replica-url: server 1 is no replica"), "{error}");
    }
    let error =
        run_fails(&db, USAGE, &["worker", "--drain", "--replica-url", "mysql://daymend:verysecret@127.0.0.1:1/lab"]);
    assert!(error.contains("--replica-url") && !error.contains("verysecret"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_threads_hold_workers_back() {
    let db = lab(Engine::MariaDb, 6).await;
    let before = completed(&db).await;
    run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-12"]);
    let worker = Process::start(&db, &["--now", NOW, "worker", "--throttle-threads", "0"]);
    wait_until("the worker to hold back", LIMIT, || async {
        db.number("SELECT COUNT(*) FROM daymend_workers WHERE throttled LIKE '%threads run, more than 0'").await == 1
    })
    .await;
    assert_eq!(completed(&db).await, before);
    drop(worker);
    run_ok(&db, &["--now", NOW, "worker", "--drain", "--throttle-threads", "5000"]);
    assert_eq!(completed(&db).await, before + 1);
}

/// The statements that make a server a replica, which differ between MariaDB and MySQL.
struct Replication {
    filter: &'static str,
    start: &'static str,
    stop: &'static str,
    status: &'static str,
    behind: &'static str,
    no_delay: &'static str,
    second: &'static str,
    product: Product,
}

impl Replication {
    fn of(product: Product) -> Self {
        match product {
            Product::MariaDb => Self {
                filter: "SET GLOBAL replicate_do_db = 'only_this'",
                start: "START SLAVE",
                stop: "STOP SLAVE",
                status: "SHOW SLAVE STATUS",
                behind: "Seconds_Behind_Master",
                no_delay: "CHANGE MASTER TO MASTER_DELAY = 0",
                second: "CHANGE MASTER 'second' TO MASTER_HOST = '127.0.0.1'",
                product,
            },
            Product::MySql => Self {
                filter: "CHANGE REPLICATION FILTER REPLICATE_DO_DB = (only_this)",
                start: "START REPLICA",
                stop: "STOP REPLICA",
                status: "SHOW REPLICA STATUS",
                behind: "Seconds_Behind_Source",
                no_delay: "CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 0",
                second: "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1' FOR CHANNEL 'second'",
                product,
            },
        }
    }

    /// Returns the statement that sets the source, with a delay of ten minutes.
    fn source(&self, (port, user, password): (u16, &str, &str)) -> String {
        let (to, master, key) = match self.product {
            Product::MariaDb => ("MASTER", "MASTER", ""),
            Product::MySql => ("REPLICATION SOURCE", "SOURCE", ", GET_SOURCE_PUBLIC_KEY = 1"),
        };
        format!(
            "CHANGE {to} TO {master}_HOST = '127.0.0.1', {master}_PORT = {port}, {master}_USER = '{user}',
             {master}_PASSWORD = '{password}', {master}_DELAY = 600, {master}_LOG_FILE = 'log.000001',
             {master}_LOG_POS = 4{key}"
        )
    }
}

/// A primary with the lab's data, a replica that applies everything ten minutes late, and a worker that allows a lag of
/// one second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_behind_holds_workers_back() {
    let primary = Server::start_with("primary", &["--log-bin=log", "--server-id=1", "--binlog-format=ROW"]).unwrap();
    let replica = Server::start_with("replica", &["--server-id=2"]).unwrap();
    let db = TestDb::on_server(primary.port).await;
    let on_replica = TestDb::on_server(replica.port).await;
    let account = (primary.port, server::ADMIN, server::PASSWORD);
    let spelling = Replication::of(Product::tested());
    let source = spelling.source(account);
    // Nothing but the status matters, so nothing is replicated: a statement that fails would stop the replica.
    // The account may read the replica's status.
    let url = server::url(replica.port, on_replica.name());
    let mut replication = MySqlConnection::connect(&url).await.unwrap();
    for sql in [spelling.filter, source.as_str(), spelling.start] {
        replication.execute(sql).await.unwrap();
    }
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.fill_lab(1, "2026-06-10".parse().unwrap(), 4, 3).await;
    run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-12"]);
    wait_until("the replica to be further behind than the worker allows", LIMIT, async || {
        let status = &on_replica.rows(spelling.status, args![]).await[0];
        status.int_or_null(status.position(spelling.behind).unwrap()).unwrap() > Some(1)
    })
    .await;
    let worker = ["--now", NOW, "worker", "--replica-url", url.as_str(), "--max-lag", "1s"];
    let _worker = Process::start(&db, &worker);
    let reason = "SELECT COUNT(*) FROM daymend_workers WHERE throttled LIKE ";
    let behind = format!("{reason}'replica 1 is % behind, more than 1s'");
    wait_until("the replica to be behind", LIMIT, || async { db.number(&behind).await == 1 }).await;
    assert_eq!(completed(&db).await, 0);
    replication.execute(spelling.stop).await.unwrap();
    let stopped = format!("{reason}'replica 1 does not replicate'");
    wait_until("the replica to be stopped", LIMIT, || async { db.number(&stopped).await == 1 }).await;
    // A worker that starts now waits as well.
    let another = Process::start(&db, &worker);
    wait_until("another worker to wait", LIMIT, || async { db.number(&stopped).await == 2 }).await;
    drop(another);
    db.execute("DELETE FROM daymend_workers WHERE id = 2", args![]).await;
    replication.execute(spelling.no_delay).await.unwrap();
    replication.execute(spelling.start).await.unwrap();
    wait_until("the work to be done", LIMIT, || async { completed(&db).await == 1 }).await;
    // A second channel that does not run counts as infinitely far behind.
    replication.execute(spelling.second).await.unwrap();
    wait_until("the second channel to be seen", LIMIT, || async { db.number(&stopped).await == 1 }).await;
}
