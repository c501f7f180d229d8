//! Deleting jobs and runs that ended long ago, in small batches.
//!
//! Runs are visited by their ids, some at a time, and each batch locks its runs: a retry that re-opens one of them
//! comes either before, and the run is left alone, or after, and finds nothing. A run that is locked by somebody else
//! is left for the next time.
//!
//! Pruning by hand is recorded in the admin log with every batch, in its transaction. The scheduler's hourly pruning
//! is recorded in one entry, written when the round is over or has failed; a round that is cut off by a shutdown has
//! none. The log itself is never pruned, so that those who change the queue cannot delete the record of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};

use super::{filter::Filter, jobs_by_run, write_log};
use crate::{
    args,
    db::{Arg, Db, DbError, Mode, Query, Tx, retry},
    queue::ids_of,
    runs, statement,
};

/// How many jobs one transaction deletes.
const JOBS_A_BATCH: usize = 1000;

/// How many run ids one transaction covers.
const RUNS_A_BATCH: i64 = 1000;

/// How many workers one statement deletes, and how many attempt ids one scans.
const WORKERS_A_BATCH: usize = 1000;
const ATTEMPTS_A_LOOK: i64 = 10_000;

/// How long the scheduler keeps completed runs of late changes, of which there may be one every few seconds.
const LATE_CHANGES_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long to leave the database alone between two batches.
const REST: Duration = Duration::from_millis(10);

statement!(NEXT_RUN, "next run", "SELECT MIN(id) FROM daymend_runs WHERE id >= ?");

statement!(
    RUNS,
    "prunable runs",
    "SELECT id FROM daymend_runs
     WHERE id BETWEEN ? AND ? AND state <> 'running'
       AND finished_at < CASE WHEN state = 'completed' AND event_name LIKE ? THEN ? ELSE ? END
     ORDER BY id {skip_locked}"
);

// The gauge of each zone's last completed nightly run is read from these.
statement!(
    LAST_NIGHTLY,
    "last completed nightly runs",
    "SELECT MAX(id) FROM daymend_runs WHERE state = 'completed' AND kind = 'nightly' GROUP BY time_zone"
);

statement!(ANY_JOB, "any job of run", "SELECT id FROM daymend_jobs WHERE id BETWEEN ? AND ? LIMIT 1");

statement!(ATTEMPTS, "prune attempts", "DELETE FROM daymend_attempts WHERE job_id IN ({list})");

statement!(JOBS, "prune jobs", "DELETE FROM daymend_jobs WHERE id IN ({list})");

statement!(LINKS, "prune links", "DELETE FROM daymend_migrations WHERE run_id = ?");

statement!(RUN, "prune run", "DELETE FROM daymend_runs WHERE id = ?");

statement!(
    WORKERS_GONE,
    "workers gone",
    "SELECT id FROM daymend_workers WHERE heartbeat_at < ? AND lease_until_us < {now_us}"
);

statement!(NEXT_ATTEMPT, "next attempt", "SELECT MIN(id) FROM daymend_attempts WHERE id >= ?");

statement!(
    WORKERS_OF_ATTEMPTS,
    "workers of attempts",
    "SELECT DISTINCT worker_id FROM daymend_attempts WHERE id BETWEEN ? AND ?"
);

statement!(WORKERS, "prune workers", "DELETE FROM daymend_workers WHERE id IN ({list}) AND lease_until_us < {now_us}");

/// Selects jobs that may be deleted...
const ENDED: &str = "state IN ('completed', 'discarded', 'cancelled')";

/// ... if their run closed before the cutoff.
const OF_OLD_RUN: &str = "EXISTS (SELECT 1 FROM daymend_runs
                 WHERE daymend_runs.id = daymend_jobs.run_id
                   AND daymend_runs.state <> 'running' AND daymend_runs.finished_at < ?)";

/// The moments before which runs must have closed to be pruned.
#[derive(Debug, Clone, Copy)]
struct Cutoff {
    /// Completed runs of late changes.
    late_changes: DateTime<Utc>,
    /// All others.
    others: DateTime<Utc>,
}

/// The moment before which a run must have closed to be pruned, by the database's clock.
pub async fn cutoff(db: &Db, older_than: Duration) -> Result<DateTime<Utc>, DbError> {
    let now = db.database_now().await?;
    let cutoff = TimeDelta::from_std(older_than).ok().and_then(|older| now.checked_sub_signed(older));
    Ok(cutoff.unwrap_or(DateTime::UNIX_EPOCH))
}

/// How many jobs would be deleted, by run.
pub async fn plan(db: &Db, filter: &Filter, older_than: Duration) -> Result<Vec<(i64, u64)>, DbError> {
    let (fits, more) = filter.condition();
    let mut args = args![cutoff(db, older_than).await?];
    args.extend(more);
    let kept = kept(db).await?;
    let mut planned = jobs_by_run(db, &format!("{ENDED} AND {OF_OLD_RUN} AND {fits}"), args).await?;
    planned.retain(|(run, _)| !kept.contains(run));
    Ok(planned)
}

/// The runs that are kept however old they are: each zone's last completed nightly run.
async fn kept(db: &Db) -> Result<Vec<i64>, DbError> {
    db.fetch_all(&LAST_NIGHTLY, args![], |row| row.int(0)).await
}

/// Deletes ended jobs of runs that closed longer ago than `older_than`, with their attempts, and then runs without
/// jobs and workers without attempts; returns how many jobs were deleted, by run. Each zone's last completed nightly
/// run is kept. With a filter, only runs go that this empties, or that it names, and no workers. After each batch,
/// `progress` is called with the number of jobs deleted so far.
pub async fn prune(
    db: &Db,
    filter: &Filter,
    older_than: Duration,
    who: &str,
    progress: impl FnMut(u64),
) -> Result<Vec<(i64, u64)>, DbError> {
    let cutoff = cutoff(db, older_than).await?;
    let mut pruned = BTreeMap::new();
    let runs = Cutoff { late_changes: cutoff, others: cutoff };
    prune_runs(db, filter, runs, Some(who), &mut pruned, progress).await?;
    if filter.is_empty() {
        prune_workers(db, cutoff).await?;
    }
    Ok(pruned.into_iter().collect())
}

/// Deletes what has outlived its retention, for the scheduler; returns how many jobs. Completed runs of late changes
/// are kept for a week at most.
pub async fn prune_outlived(db: &Db, retention: Duration) -> Result<u64, DbError> {
    let late_changes = cutoff(db, retention.min(LATE_CHANGES_KEPT)).await?;
    let cutoff = cutoff(db, retention).await?;
    let all = Filter::default();
    let mut pruned = BTreeMap::new();
    let runs = Cutoff { late_changes, others: cutoff };
    let result = prune_runs(db, &all, runs, None, &mut pruned, |_| {}).await;
    let pruned = pruned.values().sum();
    if pruned > 0 {
        let mut tx = db.begin(Mode::Write).await?;
        write_log(&mut tx, "scheduler", "prune", &described(&all, cutoff), pruned).await?;
        tx.commit().await?;
    }
    result?;
    prune_workers(db, cutoff).await?;
    Ok(pruned)
}

/// Prunes batch by batch, and adds up the jobs deleted from each run. Each batch is logged if `who` is given.
async fn prune_runs(
    db: &Db,
    filter: &Filter,
    cutoff: Cutoff,
    who: Option<&str>,
    pruned: &mut BTreeMap<i64, u64>,
    mut progress: impl FnMut(u64),
) -> Result<(), DbError> {
    let kept = kept(db).await?;
    let mut next = Some(filter.run.unwrap_or(0));
    while let Some(first) = next {
        let emptied = &*pruned;
        let batch = retry("prune jobs", || prune_batch(db, filter, (cutoff, &kept), first, emptied, who)).await?;
        next = batch.next;
        if !batch.jobs.is_empty() || batch.runs > 0 {
            tokio::time::sleep(REST).await;
        }
        for (run, jobs) in batch.jobs {
            *pruned.entry(run).or_default() += jobs;
        }
        progress(pruned.values().sum());
    }
    Ok(())
}

/// Deletes workers whose last heartbeat was before the cutoff and that have no attempts left.
///
/// Attempts have no index on their worker, as it would slow down every failure and every hand-back. Instead they are
/// scanned by primary key, and only if there are workers to look for.
async fn prune_workers(db: &Db, cutoff: DateTime<Utc>) -> Result<(), DbError> {
    let gone = db.fetch_all(&WORKERS_GONE, args![cutoff], |row| row.int(0)).await?;
    let mut gone: BTreeSet<i64> = gone.into_iter().collect();
    let mut next = 0;
    while !gone.is_empty()
        && let Some(first) = db.fetch_one(&NEXT_ATTEMPT, args![next], |row| row.int_or_null(0)).await?
    {
        next = first + ATTEMPTS_A_LOOK;
        for worker in db.fetch_all(&WORKERS_OF_ATTEMPTS, args![first, next - 1], |row| row.int(0)).await? {
            gone.remove(&worker);
        }
    }
    let gone: Vec<i64> = gone.into_iter().collect();
    for ids in gone.chunks(WORKERS_A_BATCH) {
        retry("prune workers", || db.execute(WORKERS.with_list(ids.len()), args![; ids])).await?;
    }
    Ok(())
}

/// What is pruned, for the admin log.
fn described(filter: &Filter, cutoff: DateTime<Utc>) -> String {
    format!("{filter} older than {cutoff}")
}

/// The result of pruning one batch.
#[derive(Debug, Default)]
struct Pruned {
    /// How many jobs were deleted, by run.
    jobs: Vec<(i64, u64)>,
    runs: u64,
    /// The run to continue from; `None` after the last one.
    next: Option<i64>,
}

/// Whether a run goes, whoever has deleted its jobs: without a filter, or with one that names it and nothing else.
fn selects_whole(filter: &Filter, run: i64) -> bool {
    filter.is_empty() || *filter == Filter::default().of_run(run)
}

/// Prunes one batch of runs, from `first` on. `earlier` are the jobs that earlier batches deleted, by run.
async fn prune_batch(
    db: &Db,
    filter: &Filter,
    (cutoff, kept): (Cutoff, &[i64]),
    first: i64,
    earlier: &BTreeMap<i64, u64>,
    who: Option<&str>,
) -> Result<Pruned, DbError> {
    let mut tx = db.begin(Mode::Write).await?;
    let next = tx.fetch_one(&NEXT_RUN, args![first], |row| row.int_or_null(0)).await?;
    let Some(first) = next.filter(|next| filter.run.is_none_or(|run| *next <= run)) else {
        return Ok(Pruned::default());
    };
    let last = filter.run.unwrap_or(first + RUNS_A_BATCH - 1);
    let closed_before = args![first, last, runs::late_changes(), cutoff.late_changes, cutoff.others];
    let runs = tx.fetch_all(&RUNS, closed_before, |row| row.int(0)).await?;
    let mut jobs: Vec<Arg> = Vec::new();
    let mut jobs_of_runs = Vec::new();
    let mut done = Vec::new();
    let mut next = last + 1;
    for run in runs.into_iter().filter(|run| !kept.contains(run)) {
        let room = JOBS_A_BATCH - jobs.len();
        let found = ended_jobs(&mut tx, filter, run, room).await?;
        jobs.extend(found.iter().copied().map(Arg::Int));
        if !found.is_empty() {
            jobs_of_runs.push((run, found.len() as u64));
        }
        if found.len() == room {
            next = run;
            break;
        }
        if !found.is_empty() || earlier.contains_key(&run) || selects_whole(filter, run) {
            done.push(run);
        }
    }
    if !jobs.is_empty() {
        for statement in [&ATTEMPTS, &JOBS] {
            tx.execute(statement.with_list(jobs.len()), jobs.clone()).await?;
        }
        if let Some(who) = who {
            write_log(&mut tx, who, "prune", &described(filter, cutoff.others), jobs.len() as u64).await?;
        }
    }
    let mut pruned = Pruned { jobs: jobs_of_runs, runs: 0, next: Some(next) };
    for run in done {
        let (first, last) = ids_of(run);
        if tx.fetch_optional(&ANY_JOB, args![first, last], |_| Ok(())).await?.is_none() {
            tx.execute(&LINKS, args![run]).await?;
            pruned.runs += tx.execute(&RUN, args![run]).await?;
        }
    }
    tx.commit().await?;
    Ok(pruned)
}

/// The first ended jobs of a run that match the filter.
async fn ended_jobs(tx: &mut Tx, filter: &Filter, run: i64, limit: usize) -> Result<Vec<i64>, DbError> {
    let (fits, more) = filter.condition();
    let (first, last) = ids_of(run);
    let sql = format!(
        "SELECT id FROM daymend_jobs
         WHERE id BETWEEN ? AND ? AND {ENDED} AND {fits} ORDER BY id LIMIT ?"
    );
    let mut args = args![first, last];
    args.extend(more);
    args.push(limit.into());
    tx.fetch_all(Query::new("prunable jobs", sql), args, |row| row.int(0)).await
}
