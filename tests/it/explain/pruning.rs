//! Pruning reads what it deletes, whatever else is stored.

use chrono::TimeDelta;
use daymend::{
    args,
    db::{Arg, ConnectOptions, Db, Mode, Query, connect, repeat},
    queue::{
        JobKind, JobState,
        admin::{
            change::{self, Change},
            filter::Filter,
            list, prune,
        },
        ids_of,
    },
};

use super::{BATCH, LONG, add_many, analyze, enqueue, explain, faults, rows_read, statement};
use crate::{
    on_both,
    support::{Engine, TestDb},
};

on_both! {
    pruning_reads_what_it_deletes_and_not_the_jobs_of_others;
    pruning_workers_reads_each_attempt_once;
}

/// How many runs that ended long ago are added, each with one job.
const OLD_RUNS: i64 = 3000;

pub(super) async fn add_old_runs(db: &TestDb, first: i64) {
    let runs = "INSERT INTO daymend_runs (id, rollup, kind, state, reason, requested_by, as_of, event_name,
                                          created_at, finished_at)
                VALUES ";
    let jobs = "INSERT INTO daymend_jobs (id, kind, state, sort_key, rollup, lab_id, day, attempts_max) VALUES ";
    const OLD: &str = "'2001-01-01 00:00:00'";
    let run = format!("(?, 'historical_summary', 'repair', 'completed', '', '', {OLD}, '', {OLD}, {OLD})");
    let job = "(?, 'repair', 'completed', 0, 'historical_summary', 1, '1990-01-01', 3)";
    let ids: Vec<i64> = (first..first + OLD_RUNS).collect();
    for ids in ids.chunks(500) {
        let of_jobs = ids.iter().map(|id| Arg::Int(ids_of(*id).0)).collect();
        db.execute(&(runs.to_owned() + &repeat(&run, 500)), ids.iter().copied().map(Arg::Int).collect()).await;
        db.execute(&(jobs.to_owned() + &repeat(job, 500)), of_jobs).await;
    }
    analyze(db).await;
}

/// Prunes everything on the one connection, and returns the number of rows that it read.
async fn cost_of_pruning(one: &Db) -> i64 {
    let before = rows_read(one).await;
    let pruned = prune::prune(one, &Filter::default(), LONG, "explain", |_| {}).await.unwrap();
    assert_eq!(pruned.iter().map(|(_, jobs)| jobs).sum::<u64>(), OLD_RUNS.unsigned_abs());
    rows_read(one).await - before
}

async fn pruning_reads_what_it_deletes_and_not_the_jobs_of_others(engine: Engine) {
    let db = TestDb::new(engine).await;
    let one = connect(&db.url, ConnectOptions::new(1)).unwrap();
    enqueue(&db, JobKind::Rebuild, 1..=1, 1_000).await;
    add_old_runs(&db, 1_000).await;
    let mut tx = db.db.begin(Mode::Write).await.unwrap();
    let (first, last) = ids_of(1_000);
    let closed_before = args![1_000_i64, 1_999_i64, "Late-Changes run %", "2020-01-08 00:00:00", "2020-01-01 00:00:00"];
    for (query, args, index) in [
        (Query::from(statement("prunable runs")), closed_before, "PRIMARY"),
        (statement("any job of run").into(), args![first, last], "PRIMARY"),
        (statement("prune run").into(), args![1_000_i64], "PRIMARY"),
        (statement("prune links").into(), args![1_000_i64], "PRIMARY"),
        (statement("prune jobs").with_list(BATCH), (first..).take(BATCH).map(Arg::Int).collect(), "PRIMARY"),
    ] {
        let steps = explain(&mut tx, engine, query.sql(db.db.dialect()), args).await;
        assert_eq!(faults(&steps, index), [""; 0], "{}", query.name());
    }
    tx.rollback().await.unwrap();
    cost_of_pruning(&one).await;
    // The first time, tables had to be opened.
    add_old_runs(&db, 10_000).await;
    let small = cost_of_pruning(&one).await;
    enqueue(&db, JobKind::Rebuild, 2..=8, 7_000).await;
    add_old_runs(&db, 20_000).await;
    let large = cost_of_pruning(&one).await;
    assert!(large <= small + 100, "{large} rows read, and {small} of a small queue");
    // Each run is read once more to find the last ones of their zones.
    assert!(small <= 11 * OLD_RUNS, "{small} rows read");
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs").await, 2, "the rebuilds");
}

async fn pruning_workers_reads_each_attempt_once(engine: Engine) {
    const ATTEMPTS: i64 = 4_000;
    let db = TestDb::new(engine).await;
    let one = connect(&db.url, ConnectOptions::new(1)).unwrap();
    // Workers that ended long ago; every third has attempts left.
    let workers = "INSERT INTO daymend_workers (id, name, version, started_at, heartbeat_at, lease_until_us)";
    const OLD: &str = "'2001-01-01 00:00:00'";
    add_many(&db, workers, &format!("(?, '', '', {OLD}, {OLD}, 0)"), 1..61).await;
    let attempts = "INSERT INTO daymend_attempts (job_id, attempt, worker_id, ended_at, outcome)";
    add_many(&db, attempts, &format!("(?, 1, 1000, {OLD}, 'failed')"), 1..ATTEMPTS + 1).await;
    db.execute("UPDATE daymend_attempts SET worker_id = 3 * (1 + job_id % 20)", args![]).await;
    let before = rows_read(&one).await;
    assert_eq!(prune::prune(&one, &Filter::default(), LONG, "explain", |_| {}).await.unwrap(), []);
    let read = rows_read(&one).await - before;
    let left = db.rows("SELECT id FROM daymend_workers ORDER BY id", args![]).await;
    let left: Vec<i64> = left.iter().map(|row| row.int(0).unwrap()).collect();
    assert_eq!(left, (1..=20).map(|worker| 3 * worker).collect::<Vec<_>>());
    assert!(read < 2 * ATTEMPTS, "{read} rows read of {ATTEMPTS} attempts");
}

/// There are few jobs in a state, whatever the queue's history. SQLite does not report how many rows it reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_change_would_touch_is_found_without_the_jobs_that_it_would_not() {
    let db = TestDb::new(Engine::MariaDb).await;
    let one = connect(&db.url, ConnectOptions::new(1)).unwrap();
    add_old_runs(&db, 1_000).await;
    enqueue(&db, JobKind::Rebuild, 1..=1, 3).await;
    db.execute("UPDATE daymend_jobs SET state = 'discarded' WHERE kind = 'rebuild' AND day = '1990-01-02'", args![])
        .await;
    analyze(&db).await;
    for (change, jobs) in
        [(Change::Retry { backing_off: false }, 1), (Change::Retry { backing_off: true }, 1), (Change::Cancel, 2)]
    {
        let before = rows_read(&one).await;
        let planned = change::plan(&one, change, &Filter::default()).await.unwrap();
        assert_eq!(planned.iter().map(|(_, jobs)| *jobs).collect::<Vec<_>>(), [jobs], "{change:?}");
        let read = rows_read(&one).await - before;
        assert!(read < 100, "{change:?}: {read} rows read");
    }
    for (state, jobs) in [(JobState::Discarded, 1), (JobState::Available, 2), (JobState::Running, 0)] {
        let before = rows_read(&one).await;
        let filter = Filter { state: Some(state), ..Filter::default() };
        assert_eq!(list::list(&one, &filter, 50).await.unwrap().len(), jobs, "{state:?}");
        let read = rows_read(&one).await - before;
        assert!(read < 100, "{state:?}: {read} rows read");
    }
    // The doctor asks for open runs without open jobs.
    let before = rows_read(&one).await;
    let soon = one.database_now().await.unwrap() + TimeDelta::days(1);
    let ended = one.fetch_all(statement("doctor ended runs"), args![soon], |row| row.int(0)).await.unwrap();
    assert_eq!(ended, [0_i64; 0]);
    let read = rows_read(&one).await - before;
    assert!(read < 100, "{read} rows read");
}
