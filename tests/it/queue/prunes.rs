//! Pruning while somebody retries the same jobs: one of them locks the run, and the other finds it changed. On SQLite,
//! writers exclude each other.

use std::time::Duration;

use daymend::{
    args,
    db::{Mode, Query},
    queue::{
        JobKind,
        admin::{
            change::{self, Change},
            filter::Filter,
            prune,
        },
        lease,
        settle::{self, Failure},
    },
    runs::{self, RunState},
};

use super::{LIMIT, LONG, count, days, end_lease, failure, new_run, take_one, worker};
use crate::{
    on_both,
    support::{Engine, TestDb, wait_until},
};

on_both! {
    workers_that_live_or_have_left_a_trace_stay;
    a_run_of_several_batches_goes_as_a_whole;
    a_filter_takes_no_other_runs_and_no_workers;
}

const RETRY: Change = Change::Retry { backing_off: false };

/// Returns the number of pruned jobs.
fn total(pruned: &[(i64, u64)]) -> u64 {
    pruned.iter().map(|(_, jobs)| jobs).sum()
}

/// Creates a run whose only job was discarded, and closes it.
async fn failed_run(db: &TestDb) -> i64 {
    let worker = worker(db, LONG).await;
    let run = new_run(db, JobKind::Repair, &[(1, days(1))]).await;
    let job = take_one(db, worker).await;
    let failure = Failure { permanent: true, ..failure(LONG) };
    assert!(settle::fail(&db.db, worker, &job, &failure).await.unwrap());
    assert_eq!(runs::try_close(&db.db, run).await.unwrap().unwrap().0, RunState::Failed);
    run
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_comes_before_or_after_a_prune_and_not_in_between() {
    let db = TestDb::new(Engine::MariaDb).await;
    failed_run(&db).await;
    // Locks an attempt, so that the prune waits after it has looked at the jobs, before it deletes them.
    let mut attempt = db.admin.begin(Mode::Write).await.unwrap();
    attempt.execute(Query::new("hold", "UPDATE daymend_attempts SET error = NULL"), args![]).await.unwrap();
    let prune = tokio::spawn({
        let db = db.db.clone();
        async move { total(&prune::prune(&db, &Filter::default(), Duration::ZERO, "a test", |_| {}).await.unwrap()) }
    });
    let waiting = |name: &str| {
        format!(
            "SELECT COUNT(*) FROM information_schema.processlist
             WHERE db = DATABASE() AND info LIKE '-- daymend: {name}%' AND command = 'Execute'"
        )
    };
    let (pruning, locking) = (waiting("prune attempts"), waiting("lock run"));
    wait_until("the prune to wait", LIMIT, || async { db.number(&pruning).await == 1 }).await;
    let retry = tokio::spawn({
        let db = db.db.clone();
        async move { change::apply(&db, RETRY, &Filter::default(), "a test", |_, _| ()).await.unwrap() }
    });
    let is_waiting = || async { retry.is_finished() || db.number(&locking).await == 1 };
    wait_until("the retry to wait", LIMIT, is_waiting).await;
    attempt.rollback().await.unwrap();
    match (prune.await.unwrap(), retry.await.unwrap().as_slice()) {
        (1, []) => assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs").await, 0),
        // On a machine that stalls, the prune may time out, and find the run open when it tries again.
        (0, [(_, 1)]) => {
            assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs WHERE state = 'running'").await, 1);
            assert_eq!(count(&db, "available").await, 1);
        }
        otherwise => panic!("{otherwise:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_leaves_a_run_that_is_being_retried() {
    let db = TestDb::new(Engine::MariaDb).await;
    let run = failed_run(&db).await;
    let mut retrying = db.db.begin(Mode::Write).await.unwrap();
    runs::lock(&mut retrying, run).await.unwrap();
    let all = Filter::default();
    let prune = || prune::prune(&db.db, &all, Duration::ZERO, "a test", |_| {});
    let pruned = tokio::time::timeout(LIMIT, prune()).await.expect("the prune waits for no lock").unwrap();
    assert_eq!((total(&pruned), db.number("SELECT COUNT(*) FROM daymend_jobs").await), (0, 1));
    retrying.rollback().await.unwrap();
    assert_eq!(prune().await.unwrap(), [(run, 1)], "the next time");
}

async fn workers_that_live_or_have_left_a_trace_stay(engine: Engine) {
    let db = TestDb::new(engine).await;
    let [living, failed, gone] = [worker(&db, LONG).await, worker(&db, LONG).await, worker(&db, LONG).await];
    new_run(&db, JobKind::Repair, &[(1, days(1))]).await;
    let job = take_one(&db, failed).await;
    assert!(settle::fail(&db.db, failed, &job, &failure(LONG)).await.unwrap());
    for dead in [failed, gone] {
        end_lease(&db, dead).await;
    }
    // The last heartbeat of all three is older than the given age of zero.
    assert_eq!(prune::prune(&db.db, &Filter::default(), Duration::ZERO, "a test", |_| {}).await.unwrap(), []);
    let left = db.rows("SELECT id FROM daymend_workers ORDER BY id", args![]).await;
    let left: Vec<i64> = left.iter().map(|row| row.int(0).unwrap()).collect();
    assert_eq!(left, [living, failed]);
    assert!(lease::heartbeat(&db.db, living, LONG).await.unwrap());
}

async fn a_run_of_several_batches_goes_as_a_whole(engine: Engine) {
    let db = TestDb::new(engine).await;
    let mut runs = Vec::new();
    for jobs in [2500, 1, 1] {
        let run = new_run(&db, JobKind::Rebuild, &[(1, days(jobs))]).await;
        runs.push((run, jobs));
        assert_eq!(change::cancel_run(&db.db, run, "a test", |_| ()).await.unwrap(), Some(jobs));
    }
    db.execute("INSERT INTO daymend_migrations (migration_id, run_id) SELECT id, id FROM daymend_runs", args![]).await;
    let mut seen = Vec::new();
    let pruned =
        prune::prune(&db.db, &Filter::default(), Duration::ZERO, "a test", |jobs| seen.push(jobs)).await.unwrap();
    assert!(seen.len() > 1 && seen.is_sorted(), "{seen:?}");
    assert_eq!(seen.last(), Some(&total(&pruned)));
    assert_eq!((pruned, count(&db, "cancelled").await), (runs, 0));
    for table in ["daymend_runs", "daymend_migrations"] {
        assert_eq!(db.number(&format!("SELECT COUNT(*) FROM {table}")).await, 0, "{table}");
    }
    let logged = "SELECT CAST(SUM(jobs) AS SIGNED) FROM daymend_admin_log WHERE action = 'prune'";
    assert_eq!(db.number(logged).await, 2502);
}

async fn a_filter_takes_no_other_runs_and_no_workers(engine: Engine) {
    let db = TestDb::new(engine).await;
    let gone = worker(&db, LONG).await;
    end_lease(&db, gone).await;
    let mut runs = Vec::new();
    // The jobs of the second run fill a batch exactly.
    for (lab, jobs) in [(1, 1), (2, 1000), (3, 1), (3, 1)] {
        let run = new_run(&db, JobKind::Repair, &[(lab, days(jobs))]).await;
        change::cancel_run(&db.db, run, "a test", |_| ()).await.unwrap();
        runs.push(run);
    }
    // As a prune leaves them that was killed between the last jobs and their run.
    db.execute("DELETE FROM daymend_jobs WHERE lab_id = 3", args![]).await;
    let runs_left = async || {
        let rows = db.rows("SELECT id FROM daymend_runs ORDER BY id", args![]).await;
        rows.iter().map(|row| row.int(0).unwrap()).collect::<Vec<_>>()
    };
    let workers = "SELECT COUNT(*) FROM daymend_workers";
    let filters = [
        (Filter { labs: vec![2], ..Filter::default() }, vec![(runs[1], 1000)], vec![runs[0], runs[2], runs[3]]),
        (Filter { labs: vec![2], ..Filter::default() }.of_run(runs[2]), vec![], vec![runs[0], runs[2], runs[3]]),
        (Filter::default().of_run(runs[2]), vec![], vec![runs[0], runs[3]]),
    ];
    for (filter, jobs, left) in filters {
        assert_eq!(prune::plan(&db.db, &filter, Duration::ZERO).await.unwrap(), jobs, "{filter}");
        assert_eq!(prune::prune(&db.db, &filter, Duration::ZERO, "a test", |_| {}).await.unwrap(), jobs, "{filter}");
        assert_eq!((runs_left().await, db.number(workers).await), (left, 1), "{filter}");
    }
    assert_eq!(
        prune::prune(&db.db, &Filter::default(), Duration::ZERO, "a test", |_| {}).await.unwrap(),
        [(runs[0], 1)]
    );
    assert_eq!((runs_left().await, db.number(workers).await), (vec![], 0));
}
