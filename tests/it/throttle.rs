//! The limits that keep a worker from working while the database is overloaded.

use std::time::Duration;

use daymend::{args, db::Mode};
use sqlx::{Connection as _, Executor as _, MySqlConnection};

use crate::{
    on_both,
    shrink::lab,
    support::{
        Engine, TestDb,
        process::{Process, run_fails, run_ok},
        server::{self, Product, Server},
        wait_until,
    },
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LIMIT: Duration = Duration::from_secs(180);
const USAGE: i32 = 2;

on_both! {
    a_query_of_the_operators_own_holds_workers_back;
    a_number_of_any_kind_holds_workers_back_and_none_at_all_does;
    a_worker_that_holds_back_ends_at_once_on_sigterm;
    a_worker_whom_nobody_lets_write_ends_soon_on_sigterm;
    a_drain_that_a_signal_ends_has_failed;
    a_reason_that_cannot_be_recorded_is_recorded_later;
    limits_that_cannot_be_read_are_bad_input;
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
pub(crate) async fn suffering_worker(db: &TestDb, much: i64, more: &[&str]) -> (Process, String) {
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
