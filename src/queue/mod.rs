//! The job queue: a state machine in SQL.
//!
//! A job is one (rollup, lab, day). States: `available`, `running`, `completed`, `discarded`
//! (out of attempts), `cancelled`. Waiting for a retry is `available` with a later due time.
//!
//! - [`enqueue`] inserts a run's jobs, inside its caller's transaction.
//! - [`claim`] hands jobs to a worker in one short transaction.
//! - [`settle`] ends an attempt: completed, failed, or handed back.
//! - [`lease`] keeps a worker's claims alive, and rescues those of workers that died.
//!
//! Invariants: every job is in one of the five states until it is pruned; one (lab, day) never runs twice at once (a
//! unique key is held while a job runs); every settlement is fenced by (job, attempt, worker) and returns how many
//! jobs it matched; times are the database's, never a worker's.
//!
//! How it fails: conflicts between transactions are retried where they occur; a worker that is gone loses its lease,
//! and the process that rescues its jobs makes them available again.

pub mod admin;
pub mod claim;
pub mod enqueue;
pub mod lease;
pub mod settle;

use chrono::NaiveDate;
use strum::{Display, EnumCount, EnumIter, EnumString, IntoStaticStr};

/// Maximum number of jobs per run; a job's id is its run's id times this, plus its position.
pub const JOBS_A_RUN_MAX: i64 = 100_000_000;

/// Sort keys from here on are moments (microseconds since 1970); smaller ones are turns. This is a moment in 2001,
/// before any job was due.
pub const FIRST_DUE_US: i64 = 1_000_000_000_000_000;

/// The sort key of an available job whose lab is paused.
pub const PAUSED: i64 = 9_000_000_000_000_000_000;

/// What a job is for; also its priority: nightly before repair before rebuild, the order of the variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[derive(Display, EnumCount, EnumIter, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase", parse_err_ty = UnknownName, parse_err_fn = UnknownName::of)]
pub enum JobKind {
    /// Enqueued by the scheduler for days that have closed.
    Nightly,
    /// Requested for particular days.
    Repair,
    /// Requested for a lab's whole history.
    Rebuild,
}

impl JobKind {
    /// The name in the database.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[derive(EnumIter, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase", parse_err_ty = UnknownName, parse_err_fn = UnknownName::of)]
pub enum JobState {
    /// Waiting for a worker, or for its next attempt.
    Available,
    /// Claimed by a worker.
    Running,
    /// Done.
    Completed,
    /// Out of attempts, or cannot succeed; kept until it is retried or pruned.
    Discarded,
    /// Cancelled.
    Cancelled,
}

impl JobState {
    /// The name in the database.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether a job stays in this state until an operator changes it.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Discarded | Self::Cancelled)
    }
}

/// A name in the database that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown name {0:?}")]
pub struct UnknownName(String);

impl UnknownName {
    pub(crate) fn of(name: &str) -> Self {
        Self(name.to_owned())
    }
}

/// A row that contains an unknown name cannot be read.
impl From<UnknownName> for sqlx::Error {
    fn from(unknown: UnknownName) -> Self {
        Self::Decode(Box::new(unknown))
    }
}

/// The run that a job belongs to.
#[must_use]
pub fn run_of(job_id: i64) -> i64 {
    job_id / JOBS_A_RUN_MAX
}

/// The range of ids for the jobs of a run, both ends included.
#[must_use]
pub fn ids_of(run_id: i64) -> (i64, i64) {
    (run_id * JOBS_A_RUN_MAX, run_id * JOBS_A_RUN_MAX + JOBS_A_RUN_MAX - 1)
}

/// A claimed job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub id: i64,
    /// What it is for.
    pub kind: JobKind,
    /// The name of its rollup.
    pub rollup: String,
    /// The lab.
    pub lab_id: i64,
    /// The calendar day.
    pub day: NaiveDate,
    /// Which attempt this is, from 1.
    pub attempt: i64,
    /// How many it may have.
    pub attempts_max: i64,
}
