//! The queue at a glance.

use chrono::{DateTime, Utc};

use super::pause::{self, Pause};
use crate::{
    args,
    db::{Db, DbError, Mode, Tx},
    queue::{JobKind, JobState, PAUSED, ids_of},
    runs::{self, Run},
    statement,
};

/// The spans, in minutes, for which the rate of completed jobs is counted.
pub const RATE_MINUTES: [i64; 3] = [1, 5, 15];

statement!(COUNTS, "job counts", "SELECT kind, state, COUNT(*) FROM daymend_jobs GROUP BY kind, state");

statement!(
    COMPLETED_SINCE,
    "completed since",
    "SELECT COUNT(*) FROM daymend_jobs
     WHERE kind IN ('nightly', 'repair', 'rebuild') AND state = 'completed' AND sort_key >= {now_us} - ?"
);

statement!(
    WAITING_IN_RUN,
    "waiting in run",
    "SELECT EXISTS (SELECT 1 FROM daymend_jobs WHERE id BETWEEN ? AND ? AND state = 'available' AND sort_key < ?)"
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
    /// Jobs by kind and state; what is not there is zero.
    pub counts: Vec<(JobKind, JobState, u64)>,
    /// The job that has waited longest, where any waits.
    pub oldest_waiting: Option<OldestWaiting>,
    /// Jobs completed in the last minutes: (minutes, jobs).
    pub completed: Vec<(i64, u64)>,
    /// Workers whose lease has not run out.
    pub workers: Vec<WorkerRow>,
    /// What is paused.
    pub paused: Vec<Pause>,
}

/// The job that has waited longest.
#[derive(Debug, Clone, serde::Serialize)]
pub struct OldestWaiting {
    /// Its run.
    pub run: i64,
    /// When it was enqueued.
    pub since: DateTime<Utc>,
    /// For how long, by the database's clock.
    pub seconds: i64,
}

/// A worker that is alive.
#[derive(Debug, Clone, serde::Serialize)]
pub struct WorkerRow {
    /// Its id, new for every start.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its version of daymend.
    pub version: String,
    /// Since when.
    pub started_at: DateTime<Utc>,
    /// When it was last heard of.
    pub heartbeat_at: DateTime<Utc>,
    /// Why it holds back for now.
    pub throttled: Option<String>,
    /// How many jobs it holds.
    pub jobs: i64,
}

/// Reads it all from one snapshot.
pub async fn stats(db: &Db) -> Result<Stats, DbError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let open = runs::open(&mut tx).await?;
    let counts = tx.fetch_all(&COUNTS, args![], |row| {
        Ok((row.text(0)?.parse()?, row.text(1)?.parse()?, row.int(2)?.unsigned_abs()))
    });
    let counts = counts.await?;
    let mut completed = Vec::new();
    for minutes in RATE_MINUTES {
        let jobs = tx.fetch_one(&COMPLETED_SINCE, args![minutes * 60_000_000], |row| row.int(0)).await?;
        completed.push((minutes, jobs.unsigned_abs()));
    }
    let oldest_waiting = oldest_waiting(&mut tx, &open).await?;
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

/// The first of these runs, oldest first, that has a job waiting.
pub(crate) async fn oldest_waiting<'a>(
    tx: &mut Tx,
    runs: impl IntoIterator<Item = &'a Run>,
) -> Result<Option<OldestWaiting>, DbError> {
    for run in runs {
        let (first, last) = ids_of(run.id);
        if tx.fetch_one(&WAITING_IN_RUN, args![first, last, PAUSED], |row| row.flag(0)).await? {
            let seconds = (tx.database_now().await? - run.created_at).num_seconds().max(0);
            return Ok(Some(OldestWaiting { run: run.id, since: run.created_at, seconds }));
        }
    }
    Ok(None)
}
