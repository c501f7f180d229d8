//! The queue's tables as plain data: both the model's state and the contents of the database.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, NaiveDate, Utc};
use daymend::{
    args,
    db::{Db, Mode, Query, Row, Tx},
    queue::{JobKind, JobState},
};

/// Sort keys from here on are moments. Defined here as well, so that a change of the value in the code is noticed.
const FIRST_MOMENT: i64 = 1_000_000_000_000_000;
const PARKED: i64 = 9_000_000_000_000_000_000;

/// A job's state and sort key in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Available, with this turn.
    Turn(i64),
    /// Available from this moment on.
    Due(i64),
    /// Available, and set aside as its lab is paused.
    Parked,
    /// Running on this worker.
    Running(i64),
    /// Completed, discarded or cancelled, at this moment.
    Ended(JobState, i64),
}

impl Place {
    pub fn state(self) -> JobState {
        match self {
            Self::Turn(_) | Self::Due(_) | Self::Parked => JobState::Available,
            Self::Running(_) => JobState::Running,
            Self::Ended(state, _) => state,
        }
    }

    pub fn is_open(self) -> bool {
        !matches!(self, Self::Ended(..))
    }

    fn read(state: JobState, key: i64) -> Self {
        match (state, key) {
            (JobState::Available, PARKED) => Self::Parked,
            (JobState::Available, FIRST_MOMENT..) => Self::Due(key),
            (JobState::Available, _) => Self::Turn(key),
            (JobState::Running, _) => Self::Running(key),
            _ => Self::Ended(state, key),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub kind: JobKind,
    pub lab: i64,
    pub day: NaiveDate,
    pub place: Place,
    pub attempt: i64,
    pub attempts_max: i64,
    pub lapses: i64,
    /// The worker that has it, or had it last.
    pub worker: Option<i64>,
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// running, completed, failed or cancelled.
    pub state: &'static str,
    pub finished_at: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    pub lease_until: i64,
    pub heartbeat_at: i64,
    pub stopped_at: Option<i64>,
}

/// An attempt that did not complete its job: job, attempt, worker, outcome.
pub type Attempt = (i64, i64, i64, String);

/// The contents of all tables of the queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    pub jobs: BTreeMap<i64, Job>,
    pub runs: BTreeMap<i64, Run>,
    pub workers: BTreeMap<i64, Worker>,
    /// Sorted.
    pub attempts: Vec<Attempt>,
    pub pauses: BTreeSet<String>,
    /// The statuses of the event log, oldest first.
    pub events: Vec<String>,
    /// Action and number of jobs of each entry of the admin log, oldest first.
    pub log: Vec<(String, u64)>,
}

const TABLES: [&str; 7] = [
    "daymend_jobs",
    "daymend_runs",
    "daymend_workers",
    "daymend_attempts",
    "daymend_pauses",
    "operation_event_log",
    "daymend_admin_log",
];

impl Tables {
    /// Empties the tables in the database; their ids continue.
    pub async fn clear(db: &Db) -> Result<()> {
        let mut tx = db.begin(Mode::Write).await?;
        for table in TABLES {
            tx.execute(Query::new("clear", format!("DELETE FROM {table}")), args![]).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Reads the tables in one snapshot.
    pub async fn read(db: &Db) -> Result<Self> {
        let mut tx = db.begin(Mode::Snapshot).await?;
        let mut tables = Self::default();
        let jobs = "SELECT id, kind, state, sort_key, lab_id, day, attempt, attempts_max, lapses, worker_id, error
                    FROM daymend_jobs";
        for row in rows(&mut tx, jobs).await? {
            tables.jobs.insert(row.int(0)?, job(&row)?);
        }
        for row in rows(&mut tx, "SELECT id, state, finished_at FROM daymend_runs").await? {
            let name = row.text(1)?;
            let states = ["running", "completed", "failed", "cancelled"];
            let state = states.into_iter().find(|state| *state == name).context("a run's state")?;
            tables.runs.insert(row.int(0)?, Run { state, finished_at: row.instant_or_null(2)?.map(micros) });
        }
        let workers = "SELECT id, lease_until_us, heartbeat_at, stopped_at FROM daymend_workers";
        for row in rows(&mut tx, workers).await? {
            let (heartbeat_at, stopped_at) = (micros(row.instant(2)?), row.instant_or_null(3)?.map(micros));
            tables.workers.insert(row.int(0)?, Worker { lease_until: row.int(1)?, heartbeat_at, stopped_at });
        }
        for row in rows(&mut tx, "SELECT job_id, attempt, worker_id, outcome FROM daymend_attempts").await? {
            tables.attempts.push((row.int(0)?, row.int(1)?, row.int(2)?, row.text(3)?));
        }
        tables.attempts.sort();
        for row in rows(&mut tx, "SELECT what FROM daymend_pauses").await? {
            tables.pauses.insert(row.text(0)?);
        }
        for row in rows(&mut tx, "SELECT status FROM operation_event_log ORDER BY id").await? {
            tables.events.push(row.text(0)?);
        }
        for row in rows(&mut tx, "SELECT action, jobs FROM daymend_admin_log ORDER BY id").await? {
            tables.log.push((row.text(0)?, row.int(1)?.unsigned_abs()));
        }
        tx.commit().await?;
        Ok(tables)
    }

    /// Compares the tables with those of the database; the error names the first difference.
    pub fn compare(&self, stored: &Self) -> Result<()> {
        compare_maps("job", &self.jobs, &stored.jobs)?;
        compare_maps("run", &self.runs, &stored.runs)?;
        compare_maps("worker", &self.workers, &stored.workers)?;
        equal("attempts", &self.attempts, &stored.attempts)?;
        equal("pauses", &self.pauses, &stored.pauses)?;
        equal("event log", &self.events, &stored.events)?;
        equal("admin log", &self.log, &stored.log)
    }

    /// Checks the invariants of the tables of the database.
    pub fn check(&self) -> Result<()> {
        let mut running = BTreeSet::new();
        for (id, job) in &self.jobs {
            let in_bounds = (0..=job.attempts_max).contains(&job.attempt);
            ensure!(in_bounds, "job {id} is at attempt {} of {}", job.attempt, job.attempts_max);
            if let Place::Running(holder) = job.place {
                ensure!(job.attempt > 0, "job {id} runs without an attempt");
                ensure!(job.worker == Some(holder), "job {id} is held by {holder} and says {:?}", job.worker);
                ensure!(running.insert((job.lab, job.day)), "lab {} day {} runs twice at once", job.lab, job.day);
            }
            let run = self.runs.get(&(id / 100_000_000)).with_context(|| format!("job {id} has no run"))?;
            ensure!(run.state == "running" || !job.place.is_open(), "job {id} is open in a run that ended");
        }
        Ok(())
    }
}

async fn rows(tx: &mut Tx, sql: &'static str) -> Result<Vec<Row>> {
    Ok(tx.fetch_all(Query::new("read tables", sql), args![], Ok).await?)
}

fn job(row: &Row) -> Result<Job> {
    Ok(Job {
        kind: row.text(1)?.parse()?,
        place: Place::read(row.text(2)?.parse()?, row.int(3)?),
        lab: row.int(4)?,
        day: row.date(5)?,
        attempt: row.int(6)?,
        attempts_max: row.int(7)?,
        lapses: row.int(8)?,
        worker: row.int_or_null(9)?,
        error: row.text_or_null(10)?,
    })
}

fn micros(at: DateTime<Utc>) -> i64 {
    at.timestamp_micros()
}

/// Fails with both values if they differ.
pub fn equal<T: PartialEq + Debug>(what: &str, model: &T, stored: &T) -> Result<()> {
    ensure!(model == stored, "{what}:\n  model    {model:?}\n  database {stored:?}");
    Ok(())
}

fn compare_maps<T: PartialEq + Debug>(what: &str, model: &BTreeMap<i64, T>, stored: &BTreeMap<i64, T>) -> Result<()> {
    let ids: BTreeSet<_> = model.keys().chain(stored.keys()).collect();
    ids.into_iter().try_for_each(|id| equal(&format!("{what} {id}"), &model.get(id), &stored.get(id)))
}
