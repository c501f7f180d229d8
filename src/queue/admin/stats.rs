//! The queue at a glance.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use strum::IntoEnumIterator as _;

use super::pause::{self, Pause, Target};
use crate::{
    args,
    db::{Db, DbError, Mode, Tx},
    queue::{FIRST_DUE_US, JobKind, JobState, ids_of, run_of},
    runs::{self, Run},
    statement,
};

/// The periods, in minutes, over which the rate of completed jobs is counted.
pub const RATE_MINUTES: [i64; 3] = [1, 5, 15];

statement!(COUNTS, "job counts", "SELECT kind, state, COUNT(*) FROM daymend_jobs GROUP BY kind, state");

statement!(
    COMPLETED_SINCE,
    "completed since",
    "SELECT COUNT(*) FROM daymend_jobs
     WHERE kind IN ('nightly', 'repair', 'rebuild') AND state = 'completed' AND sort_key >= {now_us} - ?"
);

statement!(
    DISCARDED_SINCE,
    "discarded since",
    "SELECT COUNT(*) FROM daymend_jobs
     WHERE kind IN ('nightly', 'repair', 'rebuild') AND state = 'discarded' AND sort_key >= ?"
);

statement!(
    WAITING_IN_RUN,
    "waiting in run",
    "SELECT EXISTS (SELECT 1 FROM daymend_jobs WHERE id BETWEEN ? AND ? AND state = 'available' AND sort_key < ?)"
);

statement!(
    WAITING_LABS,
    "waiting labs of run",
    "SELECT lab_id FROM daymend_jobs
     WHERE id BETWEEN ? AND ? AND state = 'available' AND sort_key < ? GROUP BY lab_id"
);

statement!(
    OLDEST_DUE,
    "oldest due",
    "SELECT id, sort_key FROM daymend_jobs {force_claim}
     WHERE kind = ? AND state = 'available' AND sort_key >= ? AND sort_key <= {now_us}
     ORDER BY sort_key LIMIT 1"
);

// Only recent log entries are read: jobs resumed longer ago count from when they were enqueued.
statement!(
    RESUMES,
    "last resumes",
    "SELECT filter, MAX(at) FROM daymend_admin_log
     WHERE id > (SELECT COALESCE(MAX(id), 0) FROM daymend_admin_log) - 10000 AND action = 'resume'
     GROUP BY filter"
);

statement!(
    WORKERS,
    "workers",
    "SELECT workers.id, workers.name, workers.version, workers.started_at, workers.heartbeat_at, workers.throttled,
            (SELECT COUNT(*) FROM daymend_jobs AS jobs
             WHERE jobs.kind IN ('nightly', 'repair', 'rebuild') AND jobs.state = 'running'
               AND jobs.sort_key = workers.id)
     FROM daymend_workers AS workers WHERE workers.lease_until_us > {now_us} ORDER BY workers.id"
);

/// Everything that `daymend queue stats` shows.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Stats {
    /// Jobs by kind and state; missing combinations are zero.
    pub counts: Vec<Count>,
    /// The job that has waited longest, of any kind.
    pub oldest_waiting: Option<OldestWaiting>,
    /// Jobs completed in recent minutes.
    pub completed: Vec<Completed>,
    /// Workers whose lease has not expired.
    pub workers: Vec<WorkerRow>,
    /// What is paused.
    pub paused: Vec<Pause>,
}

/// How many jobs of a kind are in a state.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Count {
    /// The kind.
    pub kind: JobKind,
    /// The state.
    pub state: JobState,
    /// How many.
    pub jobs: u64,
}

/// How many jobs were completed in the last `minutes`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Completed {
    /// How many minutes.
    pub minutes: i64,
    /// How many jobs.
    pub jobs: u64,
}

/// The job that has waited longest.
#[derive(Debug, Clone, serde::Serialize)]
pub struct OldestWaiting {
    /// Its run.
    pub run: i64,
    /// When it was enqueued, became due again, or had its kind or lab resumed.
    pub since: DateTime<Utc>,
    /// For how long, by the database's clock.
    pub seconds: i64,
}

/// A worker that is alive.
#[derive(Debug, Clone, serde::Serialize)]
pub struct WorkerRow {
    /// Its id, unique to each start.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its version of daymend.
    pub version: String,
    /// Since when.
    pub started_at: DateTime<Utc>,
    /// When it last sent a heartbeat.
    pub heartbeat_at: DateTime<Utc>,
    /// Why it currently starts no new work.
    pub throttled: Option<String>,
    /// How many jobs it holds.
    pub jobs: i64,
}

/// Reads everything from one snapshot.
pub async fn stats(db: &Db) -> Result<Stats, DbError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let open = runs::open(&mut tx).await?;
    let counts = tx.fetch_all(&COUNTS, args![], |row| {
        Ok(Count { kind: row.text(0)?.parse()?, state: row.text(1)?.parse()?, jobs: row.int(2)?.unsigned_abs() })
    });
    let counts = counts.await?;
    let mut completed = Vec::new();
    for minutes in RATE_MINUTES {
        let jobs = tx.fetch_one(&COMPLETED_SINCE, args![minutes * 60_000_000], |row| row.int(0)).await?;
        completed.push(Completed { minutes, jobs: jobs.unsigned_abs() });
    }
    let oldest_waiting = oldest_waiting(&mut tx, &open).await?.into_values().min_by_key(|oldest| oldest.since);
    let workers = tx.fetch_all(&WORKERS, args![], |row| {
        Ok(WorkerRow {
            id: row.int(0)?,
            name: row.text(1)?,
            version: row.text(2)?,
            started_at: row.instant(3)?,
            heartbeat_at: row.instant(4)?,
            throttled: row.text_or_null(5)?,
            jobs: row.int(6)?,
        })
    });
    let workers = workers.await?;
    let paused = pause::list(&mut tx).await?;
    tx.commit().await?;
    Ok(Stats { counts, oldest_waiting, completed, workers, paused })
}

/// For each kind, the job that has waited longest among those that are due, or whose turn it may be. This leaves out
/// jobs of a paused lab once they are set aside, but includes those of a paused kind.
///
/// A job that is due again (after a failed attempt, a retry, or being handed back by a worker) has waited since it
/// was due. A job waiting for its turn has waited since it was enqueued, or since its kind or its lab was resumed:
/// the age of its run does not tell whether there are too few workers.
pub(crate) async fn oldest_waiting(tx: &mut Tx, open: &[Run]) -> Result<BTreeMap<JobKind, OldestWaiting>, DbError> {
    let now = tx.database_now().await?;
    let resumed = tx.fetch_all(&RESUMES, args![], |row| Ok((row.text(0)?, row.instant(1)?))).await?;
    let resumed: HashMap<String, DateTime<Utc>> = resumed.into_iter().collect();
    let mut oldest = BTreeMap::new();
    for kind in JobKind::iter() {
        let due = tx.fetch_optional(&OLDEST_DUE, args![kind.name(), FIRST_DUE_US], |row| {
            Ok((DateTime::from_timestamp_micros(row.int(1)?).unwrap_or(now), run_of(row.int(0)?)))
        });
        let mut first = due.await?;
        for run in open.iter().filter(|run| run.kind == kind) {
            if first.is_none_or(|(since, _)| run.created_at < since)
                && let Some(since) = waiting_since(tx, run, &resumed).await?
                && first.is_none_or(|(earliest, _)| since < earliest)
            {
                first = Some((since, run.id));
            }
        }
        if let Some((since, run)) = first {
            oldest.insert(kind, OldestWaiting { run, since, seconds: (now - since).num_seconds().max(0) });
        }
    }
    Ok(oldest)
}

/// How many jobs were discarded since `since`, a time of the database's clock.
pub async fn discarded_since(db: &Db, since: DateTime<Utc>) -> Result<i64, DbError> {
    db.fetch_one(&DISCARDED_SINCE, args![since.timestamp_micros()], |row| row.int(0)).await
}

/// Since when the longest-waiting job of a run has waited for its turn; `None` if none is waiting.
async fn waiting_since(
    tx: &mut Tx,
    run: &Run,
    resumed: &HashMap<String, DateTime<Utc>>,
) -> Result<Option<DateTime<Utc>>, DbError> {
    let is_any_later = resumed.values().any(|at| *at > run.created_at);
    let resumed = |what: Target| resumed.get(&what.name()).copied().unwrap_or_default();
    let enqueued = run.created_at.max(resumed(Target::Kind(run.kind)));
    let (first, last) = ids_of(run.id);
    if !tx.fetch_one(&WAITING_IN_RUN, args![first, last, FIRST_DUE_US], |row| row.flag(0)).await? {
        return Ok(None);
    }
    if !is_any_later {
        return Ok(Some(enqueued));
    }
    let labs = tx.fetch_all(&WAITING_LABS, args![first, last, FIRST_DUE_US], |row| row.int(0)).await?;
    Ok(labs.into_iter().map(|lab| enqueued.max(resumed(Target::Lab(lab)))).min())
}
