//! Outages in the middle of a run, of all the kinds that networks and servers have: processes stay up, back off and
//! continue, and nothing is lost.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use chrono::NaiveDate;
use daymend::{
    args,
    db::{ConnectOptions, ErrorKind, Mode, Query, code, connect},
    error::chain,
};

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        doctor::examine_with,
        grants, http, oracle,
        process::{Process, command, run, run_fails, run_ok},
        proxy::{Proxy, Weather},
        server::{self, Server},
        wait_until,
        work::jobs_with,
    },
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LAB: (i64, chrono_tz::Tz) = (1, chrono_tz::Asia::Kolkata);
const LIMIT: Duration = Duration::from_secs(180);
const DAYS: u32 = 120;
const WORKER: [&str; 9] = ["--now", NOW, "worker", "--lease", "2s", "--heartbeat", "500ms", "--job-timeout", "20s"];

on_both! {
    a_row_that_somebody_else_holds_uses_up_no_attempt;
    missing_rows_wait_for_who_changes_their_facts;
}

/// Creates a lab with bills, and enqueues its rebuild.
async fn with_rebuild(db: TestDb) -> TestDb {
    let first: NaiveDate = daymend::calendar::days_before("2026-06-15".parse().unwrap(), DAYS);
    db.add_lab(LAB.0, Some(LAB.1.name())).await;
    db.fill_lab(LAB.0, first, DAYS, 12).await;
    run_ok(&db, &["--now", NOW, "rebuild", "--lab", "1"]);
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    db
}

/// Creates labs with bills on five days.
pub(crate) async fn with_labs(db: TestDb, labs: i64) -> TestDb {
    for lab in 1..=labs {
        db.add_lab(lab, Some(LAB.1.name())).await;
        db.fill_lab(lab, "2026-06-01".parse().unwrap(), 5, 5).await;
    }
    db
}

pub(crate) async fn completed(db: &TestDb) -> i64 {
    db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'completed'").await
}

async fn open(db: &TestDb) -> i64 {
    db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state IN ('available', 'running')").await
}

async fn wait_for_the_end(db: &TestDb) {
    wait_until("every run to end", LIMIT, async || {
        db.number("SELECT COUNT(*) FROM daymend_runs WHERE state <> 'completed'").await == 0
    })
    .await;
    let failed = "SELECT COUNT(*) FROM daymend_attempts WHERE outcome = 'failed'";
    assert_eq!(db.number(failed).await, 0, "an outage uses up no attempt");
    let expected = oracle::expected(db, &[LAB], NOW.parse().unwrap()).await;
    oracle::assert_equal(&oracle::stored(db).await, &expected);
}

/// Enqueues a repair of all days.
fn ask_for_more(db: &TestDb) {
    let first = daymend::calendar::days_before("2026-06-15".parse().unwrap(), DAYS).to_string();
    run_ok(db, &["--now", NOW, "repair", "--lab", "1", "--day", &first, "--to", "2026-06-14"]);
}

/// Runs a rebuild through a proxy, changes the weather while it runs, and returns the number of refused connections.
async fn through(worker: &[&str], storm: &[(Weather, Duration)]) -> usize {
    let direct = with_rebuild(TestDb::new(Engine::MariaDb).await).await;
    let proxy = Proxy::start(server::shared_port()).await;
    let db = direct.through(&proxy);
    proxy.set(Weather::Slow(Duration::from_millis(2)));
    let mut processes = [Process::start(&db, worker), Process::start(&db, &["--now", NOW, "scheduler"])];
    wait_until("some days to be done", LIMIT, async || completed(&db).await > 5).await;
    for (weather, time) in storm {
        proxy.set(*weather);
        // If the worker is done already, it gets more jobs, so that some are left to run in this weather.
        while open(&db).await == 0 {
            proxy.set(Weather::Fair);
            ask_for_more(&direct);
            proxy.set(*weather);
        }
        tokio::time::sleep(*time).await;
        assert!(processes.iter_mut().all(Process::is_running), "a process ended: {weather:?}");
    }
    assert!(proxy.struck() > 0, "the weather affected no connection");
    proxy.set(Weather::Fair);
    wait_for_the_end(&db).await;
    assert!(processes.iter_mut().all(Process::is_running));
    proxy.refused()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_are_waited_for_without_spinning() {
    // The outage is longer than the lease, so the session is lost as well.
    let refused = through(&WORKER, &[(Weather::Cut, Duration::from_secs(4))]).await;
    assert!(refused > 0, "nobody tried to connect");
    assert!(refused < 200, "no backoff: {refused} connections in four seconds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_stall_for_good_are_given_up() {
    through(&WORKER, &[(Weather::Stalled, Duration::from_secs(3))]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_closed_and_slow_connections_are_survived() {
    let blink = Duration::from_millis(300);
    through(
        &WORKER,
        &[
            (Weather::HalfClosed, blink),
            (Weather::Slow(Duration::from_millis(30)), Duration::from_secs(1)),
            (Weather::HalfClosed, blink),
            (Weather::Cut, blink),
            (Weather::Fair, blink),
            (Weather::HalfClosed, blink),
        ],
    )
    .await;
}

/// Uses a long lease: a job that the worker has forgotten, such as one of a claim whose answer was lost, would not be
/// rescued before the test times out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_short_outages_leave_no_job_behind() {
    let blink = |number: u64| {
        let weather = if number.is_multiple_of(2) { Weather::HalfClosed } else { Weather::Cut };
        [(weather, Duration::from_millis(30)), (Weather::Fair, Duration::from_millis(100 + 37 * number))]
    };
    let storm: Vec<_> = (0..10).flat_map(blink).collect();
    through(&["--now", NOW, "worker", "--lease", "600s", "--heartbeat", "10s"], &storm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_and_comes_back_loses_nothing_and_idles_quietly() {
    let mut server = Server::start("restart").unwrap();
    let db = with_rebuild(TestDb::on_server(server.port).await).await;
    let mut worker = Process::start(&db, &WORKER);
    let mut scheduler = Process::start(&db, &["--now", NOW, "scheduler"]);
    for _ in 0..2 {
        let before = completed(&db).await;
        wait_until("some days to be done", LIMIT, async || completed(&db).await > before + 5).await;
        server.kill();
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.restart();
    }
    wait_for_the_end(&db).await;
    assert!(worker.is_running() && scheduler.is_running());

    // When nothing is left to do, a worker with the default settings polls once a second.
    drop((worker, scheduler));
    let _idle = Process::start(&db, &["--now", NOW, "worker"]);
    wait_until("the worker to register", LIMIT, async || {
        db.number("SELECT COUNT(*) FROM daymend_workers WHERE stopped_at IS NULL AND lease_until_us > 1000000 * UNIX_TIMESTAMP() + 30000000").await == 1
    })
    .await;
    let questions = async || -> i64 {
        let rows = db.rows("SHOW GLOBAL STATUS LIKE 'Questions'", args![]).await;
        rows[0].text(1).unwrap().parse().unwrap()
    };
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Reading the counter takes four statements itself: two to begin, the query, and the commit.
    // A window may include a heartbeat, or a moment in which the machine was busy.
    let is_quiet = |&(sent, seconds): &(i64, f64)| (0.5 * seconds..=1.25 * seconds + 2.0).contains(&(sent as f64));
    let mut windows = Vec::new();
    while !windows.last().is_some_and(is_quiet) {
        assert!(windows.len() < 3, "(statements of an idle worker, seconds): {windows:?}");
        let (begun, before) = (Instant::now(), questions().await);
        tokio::time::sleep(Duration::from_secs(8)).await;
        let sent = questions().await - before - 4;
        windows.push((sent, begun.elapsed().as_secs_f64()));
    }
}

/// A connection that is lost during the check of the definitions says nothing about them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_during_the_check_at_the_start_is_an_outage() {
    let db = with_labs(TestDb::new(Engine::MariaDb).await, 1).await;
    // The connection is lost in a SELECT of the source, and in a statement on the summary.
    for text in ["bill_cancelled", "event_count"] {
        let cutting = async || Proxy::cutting_at(server::shared_port(), text).await;
        let proxy = cutting().await;
        let through = db.through(&proxy);
        let error = run_fails(&through, 4, &["--now", NOW, "repair", "--day", "2026-06-02"]);
        assert!(error.contains("cannot check whether the database fits"), "{error}");
        for service in [&WORKER[..], &["--now", NOW, "serve"]] {
            let workers = "SELECT COUNT(*) FROM daymend_workers";
            let before = db.number(workers).await;
            let proxy = cutting().await;
            let through = db.through(&proxy);
            let mut process = Process::start(&through, service);
            wait_until("a worker to register", LIMIT, async || db.number(workers).await > before).await;
            assert!(process.is_running(), "{service:?} ended");
        }
    }
}

/// A refused log-in is handled like any other outage: here the account is locked for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_is_refused_for_a_while_uses_up_no_attempt() {
    let db = with_rebuild(TestDb::new(Engine::MariaDb).await).await;
    let proxy = Proxy::start(server::shared_port()).await;
    proxy.set(Weather::Slow(Duration::from_millis(2)));
    let through = db.through(&proxy);
    let mut processes = vec![Process::start(&through, &WORKER), Process::start(&through, &["--now", NOW, "scheduler"])];
    wait_until("some days to be done", LIMIT, async || completed(&db).await > 5).await;
    let user = db.name();
    db.apply(&format!("ALTER USER {user}@'%' ACCOUNT LOCK")).await;
    let connections = format!("SELECT id FROM information_schema.processlist WHERE user = '{user}'");
    for row in db.rows(&connections, args![]).await {
        // It may have ended by itself.
        let mut tx = db.admin.begin(Mode::Write).await.unwrap();
        let _ = tx.execute_text("kill", &format!("KILL {}", row.int(0).unwrap())).await;
    }
    // A worker that starts now waits as well.
    processes.push(Process::start(&through, &WORKER));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(processes.iter_mut().all(Process::is_running), "a process ended");
    db.apply(&format!("ALTER USER {user}@'%' ACCOUNT UNLOCK")).await;
    wait_for_the_end(&db).await;
    assert!(processes.iter_mut().all(Process::is_running));
}

/// The driver's own words for this ("pool timed out") do not say that the database may be away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_without_a_connection_names_the_database() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let db = connect(&format!("mysql://nobody:nothing@127.0.0.1:{closed}/lab"), ConnectOptions::new(1)).unwrap();
    let error = db.begin(Mode::Write).await.unwrap_err();
    assert!(chain(&error).contains("no connection: the database does not answer"), "{}", chain(&error));
}

/// With a wrong password, the advice is about the password, not the network.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_is_refused_is_called_one() {
    let db = TestDb::new(Engine::MariaDb).await;
    let url = db.url.replace(grants::RUN_TIME_PASSWORD, "wrong");
    let mut worker = command(&db, &["worker"]);
    let mut worker = worker.env("DAYMEND_DATABASE_URL", &url).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(worker.stderr.take().unwrap()).lines().map_while(Result::ok);
    let waiting = log.find(|line| line.contains("waiting")).unwrap();
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert!(waiting.contains("the database refuses the log-in, waiting"), "{waiting}");
    assert!(waiting.contains("(check user and password, and from which hosts the user may log in)"), "{waiting}");
    let doctor = examine_with(&db, &["--database-url", &url]);
    let advice = doctor.advice("connection.reachable", "error");
    assert!(advice.contains("password") && advice.contains("from which hosts"), "{advice}");
    assert!(!advice.contains("network"), "{advice}");
    assert_eq!(doctor.code, 4);
}

/// Only a commit without an answer may have claimed jobs. After any other failure the claim is tried again, and the
/// worker's running jobs continue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_is_cut_off_drops_no_work() {
    let db = with_labs(TestDb::new(Engine::MariaDb).await, 1).await;
    run_ok(&db, &["queue", "pause", "repair"]);
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-02"]);
    // A second job for the same day: the claim has to postpone it, and loses its connection in that statement.
    let copy = "INSERT INTO daymend_jobs (id, kind, state, sort_key, rollup, lab_id, day, attempts_max)
                SELECT id + 1, kind, state, sort_key + 1, rollup, lab_id, day, attempts_max FROM daymend_jobs";
    db.execute(copy, args![]).await;
    let proxy = Proxy::cutting_at(server::shared_port(), "claim postpone").await;
    let _worker = Process::start(&db.through(&proxy), &["--now", NOW, "worker"]);
    let workers = "SELECT COUNT(*) FROM daymend_workers";
    wait_until("the worker to register", LIMIT, async || db.number(workers).await == 1).await;
    // The first job waits in the middle of its look.
    let held = db.lock(&["billing"]).await;
    db.execute("DELETE FROM daymend_pauses", args![]).await;
    let postponed = "SELECT COUNT(*) FROM daymend_jobs WHERE state = 'available' AND sort_key > 1000000000";
    wait_until("the second to be postponed", LIMIT, async || db.number(postponed).await == 1).await;
    drop(held);
    wait_until("both to be done", LIMIT, async || completed(&db).await == 2).await;
    assert_eq!(db.number(workers).await, 1, "the worker keeps its session");
    assert_eq!(db.number("SELECT MAX(attempt) FROM daymend_jobs").await, 1);
}

/// An operator holds a running job whose day the worker has corrected, except for settling the job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_somebody_holds_keeps_no_user_waiting() {
    let db = with_labs(TestDb::new(Engine::MariaDb).await, 1).await;
    db.add_summary_row(1, "2026-06-02", 1, 0, "branch_bill", 77).await;
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-02"]);
    // A user holds the row until the operator holds the job.
    let mut user = db.admin.begin(Mode::Write).await.unwrap();
    let rows = Query::new("user", "SELECT id FROM operation_historical_summary FOR UPDATE");
    assert_eq!(user.fetch_all(rows, args![], Ok).await.unwrap().len(), 1);
    let _worker = Process::start(&db, &["--now", NOW, "worker"]);
    let begun = Instant::now();
    let operator = loop {
        let mut tx = db.admin.begin(Mode::Write).await.unwrap();
        let sql = "UPDATE daymend_jobs SET error = 'looked at' WHERE state = 'running'";
        if tx.execute(Query::new("operator", sql), args![]).await.unwrap() == 1 {
            break tx;
        }
        tx.rollback().await.unwrap();
        assert!(begun.elapsed() < LIMIT, "the job does not run");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    user.commit().await.unwrap();
    // For longer than the lock wait timeout.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(6) {
        let asked = Instant::now();
        db.execute("UPDATE operation_historical_summary SET modified_at = modified_at WHERE lab_id = 1", args![]).await;
        assert!(asked.elapsed() < Duration::from_secs(3), "a user waited for {:?}", asked.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(completed(&db).await, 0);
    operator.rollback().await.unwrap();
    wait_until("the day to be done", LIMIT, async || completed(&db).await == 1).await;
    assert_eq!(db.number("SELECT MAX(attempt) FROM daymend_jobs").await, 1);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_attempts WHERE outcome = 'failed'").await, 0);
}

async fn a_row_that_somebody_else_holds_uses_up_no_attempt(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_summary_row(1, "2026-06-02", 1, 0, "branch_bill", 77).await;
    beside(db, "UPDATE operation_historical_summary SET event_count = event_count + 1 WHERE lab_id = 1").await;
}

/// A trigger that only updates rows leaves no trace where a row is missing: the row must not be inserted with the count
/// from before the change.
async fn missing_rows_wait_for_who_changes_their_facts(engine: Engine) {
    beside(TestDb::new(engine).await, "UPDATE billing SET isCancelled = 1 - isCancelled WHERE lab_id = 1").await;
}

/// Repairs two days while a transaction is open that has run `sql`, which concerns the first day.
async fn beside(db: TestDb, sql: &str) {
    let db = with_labs(db, 1).await;
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-02", "--to", "2026-06-03", "--lab", "1"]);
    // The transaction stays open for longer than a lock is waited for (MySQL's error 1205, SQLite's BUSY).
    let mut user = db.admin.begin(Mode::Write).await.unwrap();
    user.execute(Query::new("user", sql), args![]).await.unwrap();
    let (_worker, address) = Process::start_with_pages(&db, &["--now", NOW, "worker"]);
    // The worker has met the transaction, and will again; on SQLite it meets it when it registers, before it begins.
    let conflicts = ["\ndaymend_database_retries_total{", "\ndaymend_database_errors_total{kind=\"conflict\""];
    wait_until("the worker to meet the transaction", LIMIT, async || {
        let page = http::get(&address, "/metrics").unwrap().body;
        conflicts.iter().any(|conflict| page.contains(conflict))
    })
    .await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let done = "SELECT COUNT(*) FROM daymend_jobs WHERE state = 'completed' AND day = '2026-06-02'";
    assert_eq!(db.number(done).await, 0, "the day waits for the row");
    user.commit().await.unwrap();
    wait_until("the days to be done", LIMIT, async || completed(&db).await == 2).await;
    assert_eq!(db.number("SELECT MAX(attempt) FROM daymend_jobs").await, 1);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_attempts WHERE outcome = 'failed'").await, 0);
    let mut expected = oracle::expected(&db, &[LAB], NOW.parse().unwrap()).await;
    let days: [NaiveDate; 2] = ["2026-06-02".parse().unwrap(), "2026-06-03".parse().unwrap()];
    expected.retain(|key, _| days.contains(&key.1));
    oracle::assert_equal(&oracle::stored(&db).await, &expected);
}

/// As when a trigger inserts a row between the recompute's read and its write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicate_key_is_a_conflict_and_starts_over() {
    for engine in [Engine::MariaDb, Engine::Sqlite] {
        let db = TestDb::new(engine).await;
        db.add_summary_row(1, "2026-06-01", 1, 0, "branch_bill", 1).await;
        let tries = AtomicU32::new(0);
        let again = daymend::db::retry("test", || async {
            let a = i64::from(tries.fetch_add(1, Ordering::SeqCst)) + 1;
            let mut tx = db.admin.begin(Mode::Write).await?;
            let sql = "INSERT INTO operation_historical_summary
                 (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at)
                 VALUES (1, '2026-06-01', ?, 0, 'branch_bill', 2, '2026-06-01', '2026-06-01')";
            tx.execute(Query::new("trigger", sql), args![a]).await?;
            tx.commit().await
        });
        again.await.unwrap();
        assert_eq!(tries.into_inner(), 2, "{engine:?}");
        assert_eq!(db.number("SELECT COUNT(*) FROM operation_historical_summary").await, 2);
    }
}

/// A watchdog that kills long statements would kill it every time, and the worker would retry it forever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_somebody_kills_is_no_outage() {
    let db = TestDb::new(Engine::MariaDb).await;
    let mut tx = db.db.begin(Mode::Snapshot).await.unwrap();
    let id = tx.fetch_one(Query::new("id", "SELECT CONNECTION_ID()"), args![], Ok).await.unwrap().int(0).unwrap();
    // On MySQL a SLEEP alone ends without an error.
    let long = "SELECT COUNT(*) FROM information_schema.columns AS a, information_schema.columns AS b,
                information_schema.columns AS c WHERE SLEEP(0.01) = 0";
    let running = tx.fetch_all(Query::new("long", long), args![], Ok);
    let killing = async {
        let is_running = format!(
            "SELECT COUNT(*) FROM information_schema.processlist WHERE id = {id} AND info LIKE '%SLEEP(0.01)%'"
        );
        wait_until("the statement to run", LIMIT, async || db.number(&is_running).await == 1).await;
        db.apply(&format!("KILL QUERY {id}")).await;
    };
    let (result, ()) = tokio::join!(running, killing);
    let error = result.unwrap_err();
    assert_eq!((code(&error.source), error.kind), (1317, ErrorKind::Other), "{}", chain(&error));
}

/// A watchdog that kills the connections of long statements would do so every time, and the worker would retry forever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_connection_is_killed_every_time_uses_up_its_attempts() {
    let db = with_labs(TestDb::new(Engine::MariaDb).await, 2).await;
    let jobs = jobs_with("(billing.lab_id <> 2 OR SLEEP(600) = 0)");
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-02", "--attempts", "2"]);
    let worker = ["--jobs-dir", jobs.path().to_str().unwrap(), "--now", NOW, "worker", "--backoff", "100ms"];
    let mut worker = Process::start(&db, &worker);
    let slow = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND state = 'User sleep'";
    let killed = AtomicU32::new(0);
    wait_until("the slow job to be discarded", LIMIT, async || {
        for row in db.rows(slow, args![]).await {
            db.apply(&format!("KILL CONNECTION {}", row.int(0).unwrap())).await;
            killed.fetch_add(1, Ordering::SeqCst);
        }
        db.number("SELECT COUNT(*) FROM daymend_jobs WHERE lab_id = 2 AND state = 'discarded' AND attempt = 2").await
            == 1
    })
    .await;
    let error = db.text("SELECT error FROM daymend_jobs WHERE state = 'discarded'").await;
    assert!(error.contains("times in a row while the database answered others"), "{error}");
    assert!((6..40).contains(&killed.into_inner()));
    wait_until("the other lab to be done", LIMIT, async || completed(&db).await == 1).await;
    assert!(worker.is_running());
}

/// An operator holds running jobs that have nothing to change: the other jobs are acked, the worker claims no more than
/// it has room for, and its shutdown waits for nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_somebody_holds_keep_no_others_from_being_acked() {
    let db = with_labs(TestDb::new(Engine::MariaDb).await, 3).await;
    let repair = || run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-02", "--to", "2026-06-05"]);
    repair();
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    repair();
    // All of them wait in the middle of their first look.
    let facts = db.lock(&["billing"]).await;
    let mut worker = Process::start(&db, &["--now", NOW, "worker", "--grace", "1s"]);
    let running = "SELECT COUNT(*) FROM daymend_jobs WHERE state = 'running'";
    wait_until("the jobs to be claimed", LIMIT, async || db.number(running).await == 12).await;
    let mut operator = db.admin.begin(Mode::Write).await.unwrap();
    let sql = "SELECT id FROM daymend_jobs WHERE state = 'running' AND lab_id < 3 FOR UPDATE";
    assert_eq!(operator.fetch_all(Query::new("operator", sql), args![], Ok).await.unwrap().len(), 8);
    drop(facts);
    wait_until("the others to be acked", Duration::from_secs(20), async || completed(&db).await == 12 + 4).await;
    // Half of its room is taken by jobs that wait for the operator, so it claims no more.
    repair();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(db.number(running).await, 8, "no more are claimed");
    worker.terminate();
    assert_eq!(worker.wait(Duration::from_secs(20)), Some(0));
    assert_eq!(db.number(running).await, 8, "the held jobs are left for a rescue");
    operator.rollback().await.unwrap();
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    assert_eq!(completed(&db).await, 12 + 12 + 12);
    assert_eq!(db.number("SELECT MAX(attempt) FROM daymend_jobs").await, 1);
}

/// daymend reports slow connections itself; the pool's own message is only for those who ask for debug messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_takes_long_is_no_line_of_its_own() {
    let proxy = Proxy::start(server::shared_port()).await;
    let db = TestDb::new(Engine::MariaDb).await.through(&proxy);
    proxy.set(Weather::Slow(Duration::from_millis(500)));
    for (log, is_said) in [("warn", false), ("debug", true)] {
        let output = tokio::task::block_in_place(|| run(&db, &["--log", log, "runs", "list"]));
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{error}");
        assert_eq!(error.contains("slow_acquire_threshold_secs"), is_said, "{log}: {error}");
        assert!(is_said || error.is_empty(), "{error}");
    }
}
