//! A COMMIT that gets no answer, whether the server has carried it out or not: nothing is lost, and nothing done twice.

use std::time::Duration;

use daymend::{
    args,
    db::{Mode, Query},
};

use crate::{
    outages::{completed, with_labs},
    support::{
        Engine, TestDb, oracle,
        process::{Process, run, run_fails, run_ok},
        proxy::Proxy,
        server, wait_until,
    },
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LAB: (i64, chrono_tz::Tz) = (1, chrono_tz::Asia::Kolkata);
const LIMIT: Duration = Duration::from_secs(180);
const TICK: [&str; 4] = ["--now", NOW, "scheduler", "--once"];
const DRAIN: [&str; 4] = ["--now", NOW, "worker", "--drain"];

/// Creates a lab with bills on five days.
async fn lab() -> TestDb {
    with_labs(TestDb::new(Engine::MariaDb).await, 1).await
}

/// Waits until this many jobs have completed.
async fn wait_for(db: &TestDb, jobs: i64) {
    wait_until("the jobs to be done", LIMIT, async || completed(db).await == jobs).await;
}

/// Starts a proxy that loses the COMMIT behind the statement with this name, or only its answer.
async fn losing_commit_of(statement: &'static str, is_sent: bool) -> Proxy {
    Proxy::cutting_after(server::shared_port(), statement, "COMMIT", is_sent).await
}

/// Jobs that a worker may have claimed without knowing it are given back when its session ends, long before its lease
/// does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_commit_gets_no_answer_gives_its_jobs_back() {
    for is_sent in [true, false] {
        let db = lab().await;
        run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-02", "--to", "2026-06-04"]);
        let proxy = losing_commit_of("daymend: claim\n", is_sent).await;
        let worker = ["--now", NOW, "worker", "--lease", "600s", "--heartbeat", "10s"];
        let _worker = Process::start(&db.through(&proxy), &worker);
        let sessions = "SELECT COUNT(*) FROM daymend_workers";
        wait_until("a second session", LIMIT, async || db.number(sessions).await == 2).await;
        wait_for(&db, 3).await;
        assert_eq!(db.number("SELECT MAX(attempt) FROM daymend_jobs").await, 1, "{is_sent}: it used up no attempt");
        let of_first = "SELECT COUNT(*) FROM daymend_jobs WHERE worker_id = (SELECT MIN(id) FROM daymend_workers)";
        assert_eq!(db.number(of_first).await, 0);
    }
}

/// A server may carry a COMMIT out and still answer with an error: 1180 ("got an error during COMMIT") or 1317 (a query
/// that was killed).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_commit_gets_an_error_gives_its_jobs_back() {
    for error in [1180, 1317] {
        let db = lab().await;
        run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-02", "--to", "2026-06-04"]);
        let proxy = Proxy::failing_after(server::shared_port(), "daymend: claim\n", "COMMIT", error).await;
        let worker = ["--now", NOW, "worker", "--lease", "600s", "--heartbeat", "10s"];
        let _worker = Process::start(&db.through(&proxy), &worker);
        wait_for(&db, 3).await;
        let of_second = "SELECT COUNT(*) FROM daymend_jobs WHERE worker_id = 2 AND attempt = 1";
        assert_eq!(db.number(of_second).await, 3);
    }
}

/// The worker that released a job may be the one that claims it again. If it then released the job once more, because
/// the first time got no answer, another worker could take the job while this one runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_whose_commit_gets_no_answer_ends_the_session() {
    for is_sent in [true, false] {
        let db = lab().await;
        db.add_summary_row(1, "2026-06-02", 1, 0, "branch_bill", 77).await;
        run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-02"]);
        let mut user = db.admin.begin(Mode::Write).await.unwrap();
        let locks = "UPDATE operation_historical_summary SET event_count = event_count + 1 WHERE lab_id = 1";
        user.execute(Query::new("user", locks), args![]).await.unwrap();
        let proxy = losing_commit_of("daymend: release\n", is_sent).await;
        let worker = ["--now", NOW, "worker", "--lease", "600s", "--heartbeat", "10s"];
        let _worker = Process::start(&db.through(&proxy), &worker);
        let sessions = "SELECT COUNT(*) FROM daymend_workers";
        wait_until("a second session", LIMIT, async || db.number(sessions).await == 2).await;
        user.rollback().await.unwrap();
        wait_for(&db, 1).await;
        assert_eq!(db.number("SELECT attempt FROM daymend_jobs WHERE worker_id = 2").await, 1, "{is_sent}");
    }
}

/// A day is written and its job completed in one transaction: either both have happened, or both are done again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_correction_whose_commit_gets_no_answer_is_done_once() {
    for is_sent in [true, false] {
        let db = lab().await;
        run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-02"]);
        let proxy = losing_commit_of("daymend: complete\n", is_sent).await;
        let worker = run(&db.through(&proxy), &DRAIN);
        let log = String::from_utf8_lossy(&worker.stderr);
        assert!(worker.status.success() && log.contains("error=database: commit: "), "{log}");
        let mut expected = oracle::expected(&db, &[LAB], NOW.parse().unwrap()).await;
        expected.retain(|key, _| key.1.to_string() == "2026-06-02");
        oracle::assert_equal(&oracle::stored(&db).await, &expected);
        let rows =
            db.number("SELECT CAST(SUM(rows_inserted) AS SIGNED) FROM daymend_jobs WHERE state = 'completed'").await;
        assert_eq!(rows, i64::try_from(expected.len()).unwrap(), "{is_sent}");
        assert_eq!(db.number("SELECT COUNT(*) FROM daymend_attempts").await, 0, "{is_sent}: an attempt failed");
    }
}

/// Whether the scheduler's transaction was committed or not, the next tick enqueues each day once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_commit_gets_no_answer_is_enqueued_once() {
    for is_sent in [true, false] {
        let db = lab().await;
        let tick_cut_off = async |code| {
            let proxy = losing_commit_of("daymend: insert run\n", is_sent).await;
            run_fails(&db.through(&proxy), code, &TICK);
            run_ok(&db, &TICK);
            let rows = db.rows("SELECT kind, COUNT(*) FROM daymend_jobs GROUP BY kind ORDER BY kind", args![]).await;
            rows.iter().map(|row| (row.text(0).unwrap(), row.int(1).unwrap())).collect::<Vec<_>>()
        };
        let nightly = ("nightly".to_owned(), 1);
        assert_eq!(tick_cut_off(4).await, std::slice::from_ref(&nightly), "{is_sent}");
        db.request_rebuild(1).await;
        // A connection that is lost while the database answers others is taken for the lab's fault.
        assert_eq!(tick_cut_off(1).await, [nightly, ("rebuild".to_owned(), 6)], "{is_sent}");
        assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs").await, 2);
        let started = "SELECT COUNT(*) FROM operation_event_log WHERE status = 'STARTED'";
        assert_eq!(db.number(started).await, 2);
    }
}

/// The event log of the lab system gets one row when a run ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_closing_gets_no_answer_is_closed_once() {
    for is_sent in [true, false] {
        let db = lab().await;
        run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-02"]);
        let _worker = Process::start(&db, &["--now", NOW, "worker"]);
        wait_for(&db, 1).await;
        run_fails(&db.through(&losing_commit_of("daymend: end run\n", is_sent).await), 4, &TICK);
        run_ok(&db, &TICK);
        assert_eq!(
            db.number("SELECT COUNT(*) FROM daymend_runs WHERE kind = 'repair' AND state = 'completed'").await,
            1
        );
        let ended =
            "SELECT COUNT(*) FROM operation_event_log WHERE status = 'COMPLETED' AND event_name LIKE '%repair%'";
        assert_eq!(db.number(ended).await, 1, "{is_sent}");
    }
}

/// Marks are deleted in the transaction that enqueues their days.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_whose_commit_gets_no_answer_are_not_lost() {
    for is_sent in [true, false] {
        let db = lab().await;
        run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-01", "--to", "2026-06-14"]);
        run_ok(&db, &DRAIN);
        db.install_dirty_triggers().await;
        db.execute("UPDATE billing SET isCancelled = 1 WHERE id = (SELECT MAX(billing_id) FROM billingInfo)", args![])
            .await;
        assert!(db.marks().await > 0);
        run_fails(&db.through(&losing_commit_of("daymend: delete marks\n", is_sent).await), 4, &TICK);
        run_ok(&db, &TICK);
        run_ok(&db, &DRAIN);
        assert_eq!(db.marks().await, 0);
        let expected = oracle::expected(&db, &[LAB], NOW.parse().unwrap()).await;
        oracle::assert_equal(&oracle::stored(&db).await, &expected);
    }
}
