//! Scheduling by reconciliation.
//!
//! A tick takes no input: it compares what should have been enqueued with what is recorded, and enqueues the
//! difference in the same transaction that records it. Ticks may be late, doubled, or run by two schedulers at once;
//! the result is the same, because each writing step begins by locking, or comparing and setting, the rows that say
//! what has been done.
//!
//! - [`nightly`]: days that have closed, one run per time zone.
//! - [`migrations`]: records of the Support Dashboard, one rebuild run per lab.
//! - [`dirty`]: days whose source changed after they had closed, in the background.
//! - [`close`]: runs whose jobs have all ended.
//! - [`retention`]: prunes runs that have outlived their retention, in the background.
//! - [`audits`]: audits a slice of the history every night, in the background.
//! - [`snapshots`]: takes the daily snapshot, in the background.
//! - [`observe`]: gauges of the queue and of what is due, in the background.
//!
//! How it fails: a step that fails is logged and repeated at a later tick, and stops no other step. A lab that cannot
//! be scheduled is reported, and stops no other. The same goes for a record, a run or a zone whose rows are locked by
//! somebody else: it is done at a later tick. On shutdown a step is dropped wherever it is: each is a transaction,
//! which rolls back. The audit and the snapshot, which are held under a lease, have a few seconds to hand over.

pub mod audits;
pub mod dirty;
pub mod migrations;
pub mod nightly;
mod nightly_at;
mod observe;
mod pace;
mod retention;
pub mod snapshots;
mod tick;

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    db::{Db, DbError, Tx},
    health::Pulse,
    metrics::catalogue::JOBS_ENQUEUED,
    queue::JobKind,
    rollup::Rollup,
    runs::{self, JobLimits, LabDays, NewRun, close, held::Held},
};
use audits::AuditConfig;
use nightly::NightlyAt;

/// Configuration of the scheduler.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// When yesterday should be in the summary.
    pub nightly_at: NightlyAt,
    /// Maximum number of past days that a lab is caught up on.
    pub catch_up_days: u32,
    /// How many closed days before the due one to check again every night.
    pub lookback_days: u32,
    /// The limits of nightly jobs and repairs.
    pub limits: JobLimits,
    /// Those of rebuilds.
    pub rebuild_limits: JobLimits,
    /// How long runs and their jobs are kept after the run has closed; `None` means for ever.
    pub retention: Option<Duration>,
    /// The standing audit; `None` if it is off.
    pub audit: Option<AuditConfig>,
}

/// What a scheduler works on, and how.
#[derive(Debug, Clone, Copy)]
pub struct Scheduler<'a> {
    /// The database.
    pub db: &'a Db,
    /// The rollup that it keeps up to date.
    pub rollup: &'a Rollup,
    /// Its configuration.
    pub config: &'a Config,
    /// Its clock.
    pub clock: Clock,
}

/// What the steps of a tick work on: the same, at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Tick<'a> {
    /// The database.
    pub db: &'a Db,
    /// The rollup.
    pub rollup: &'a Rollup,
    /// The scheduler's configuration.
    pub config: &'a Config,
    /// The moment taken as the present.
    pub now: DateTime<Utc>,
}

impl<'a> Scheduler<'a> {
    /// Ticks until `shutdown`. If the database is unreachable, it waits, and never exits.
    pub async fn run(&self, pulse: &Pulse, shutdown: &CancellationToken) {
        tokio::join!(
            tick::tick_until(self, pulse, shutdown),
            dirty::watch_until(self, shutdown),
            retention::prune_until(self, shutdown),
            observe::observe_until(self, shutdown),
            audits::audit_until(self, shutdown)
        );
    }

    async fn now(&self) -> Result<DateTime<Utc>, DbError> {
        self.db.now(self.clock).await
    }

    /// A tick that begins now.
    async fn tick_now(&self) -> Result<Tick<'a>, DbError> {
        Ok(Tick { db: self.db, rollup: self.rollup, config: self.config, now: self.now().await? })
    }
}

impl Tick<'_> {
    /// A run of these days, whose reason and requester are still to be set.
    fn new_run(&self, kind: JobKind, labs: LabDays) -> NewRun {
        NewRun::new(kind, &self.rollup.name, self.now, labs, self.config.limits)
    }
}

/// A run that was enqueued.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Enqueued {
    /// Its id.
    pub run: i64,
    /// Why it was enqueued.
    pub reason: String,
    /// How many jobs it has.
    pub jobs: usize,
    /// Of how many labs.
    #[serde(skip)]
    pub labs: usize,
}

impl Enqueued {
    /// Enqueues a run, inside the caller's transaction.
    async fn create(tx: &mut Tx, run: NewRun) -> Result<Self, DbError> {
        Ok(Self { run: runs::create(tx, &run).await?, jobs: run.jobs(), labs: run.labs.len(), reason: run.reason })
    }
}

/// What a tick did.
#[derive(Debug, Default)]
pub struct Report {
    /// Runs that it enqueued.
    pub enqueued: Vec<Enqueued>,
    /// Runs that it closed or left open.
    pub runs: close::Report,
    /// Labs that it could not schedule, and why.
    pub unusable: BTreeMap<i64, String>,
    /// Labs whose migration records it closed as failed, because they cannot be rebuilt, and why.
    pub refused: BTreeMap<i64, String>,
    /// Labs whose migration records it could not take, which stay pending, and why.
    pub untaken: BTreeMap<i64, String>,
    /// What it left for the next tick because of locked rows.
    pub held: Held,
}

impl Report {
    /// Logs and records a run that was enqueued.
    fn note(&mut self, kind: JobKind, enqueued: Enqueued) {
        let Enqueued { run, jobs, labs, reason } = &enqueued;
        tracing::info!(run, kind = kind.name(), jobs, labs, "enqueued: {reason}");
        self.count(kind, enqueued);
    }

    /// Records a run that was enqueued, and counts its jobs.
    fn count(&mut self, kind: JobKind, enqueued: Enqueued) {
        JOBS_ENQUEUED.add([kind.name()], enqueued.jobs as u64);
        self.enqueued.push(enqueued);
    }

    /// Whether everything that was due has been done, except for labs that cannot be scheduled.
    #[must_use]
    pub fn is_all_done(&self) -> bool {
        self.held.left.is_empty() && self.runs.unclosed.is_empty() && self.untaken.is_empty()
    }

    /// Whether nothing was done, and nothing left undone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.enqueued.is_empty() && self.runs.closed.is_empty() && self.refused.is_empty() && self.is_all_done()
    }

    /// Logs what is left undone, where no later tick will do it.
    pub fn warn_of_undone(&self) {
        self.held.warn("not done");
        self.runs.warn_of_unclosed();
        for (lab, why) in &self.untaken {
            migrations::say_untaken(*lab, why);
        }
    }
}
