//! Scheduling by reconciliation.
//!
//! A tick takes no input: it compares what should have been enqueued with what is recorded, and enqueues the
//! difference in the same transaction that records it. Ticks may be late, doubled, or run by two schedulers at once;
//! the result is the same, because each writing step begins by locking, or comparing and setting, the rows that say
//! what has been done.
//!
//! - [`nightly`]: days that have closed, one run per time zone.
//! - [`migrations`]: records of the Support Dashboard, one rebuild run per lab.
//! - [`repair`]: days that an operator asks for.
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
mod close;
pub mod dirty;
mod held;
pub mod migrations;
pub mod nightly;
mod nightly_at;
mod observe;
mod pace;
pub mod repair;
mod retention;
pub mod snapshots;
mod tick;

use std::{collections::BTreeMap, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    db::Db,
    health::Pulse,
    metrics::catalogue::JOBS_ENQUEUED,
    queue::JobKind,
    rollup::Rollup,
    runs::{JobLimits, Progress, RunState},
};
use audits::AuditConfig;
pub use close::{Slice, close_next_runs, close_run, close_runs};
use nightly::NightlyAt;
pub use tick::tick;

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

/// A run that was enqueued.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Enqueued {
    /// Its id.
    pub run: i64,
    /// Why it was enqueued.
    pub reason: String,
    /// How many jobs it has.
    pub jobs: usize,
}

/// What a tick did.
#[derive(Debug, Default)]
pub struct Report {
    /// Runs that it enqueued.
    pub enqueued: Vec<Enqueued>,
    /// Runs that it closed.
    pub closed: Vec<(i64, RunState, Progress)>,
    /// Labs that it could not schedule, and why.
    pub unusable: BTreeMap<i64, String>,
    /// Labs whose migration records it closed as failed, because they cannot be rebuilt, and why.
    pub refused: BTreeMap<i64, String>,
    /// Labs whose migration records it could not take, which stay pending, and why.
    pub untaken: BTreeMap<i64, String>,
    /// Runs that it could not close, or whose records it could not update, and why.
    pub unclosed: BTreeMap<i64, String>,
    /// The runs that it left open, and their progress.
    pub open: Vec<(JobKind, Progress)>,
    /// What it left for the next tick because of locked rows, with the database's message.
    pub held: BTreeMap<String, String>,
    /// How long it waited for locked rows, whether it got them or not.
    pub waited: Duration,
}

impl Report {
    /// Records a run that was enqueued, and counts its jobs.
    fn note(&mut self, kind: JobKind, enqueued: Enqueued) {
        JOBS_ENQUEUED.add([kind.name()], enqueued.jobs as u64);
        self.enqueued.push(enqueued);
    }

    /// Whether everything that was due has been done, except for labs that cannot be scheduled.
    #[must_use]
    pub fn is_all_done(&self) -> bool {
        self.held.is_empty() && self.unclosed.is_empty() && self.untaken.is_empty()
    }

    /// Whether nothing was done, and nothing left undone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.enqueued.is_empty() && self.closed.is_empty() && self.refused.is_empty() && self.is_all_done()
    }

    /// Logs what is left undone, where no later tick will do it.
    pub fn warn_of_undone(&self) {
        self.warn_of_held("not done");
        for (run, why) in &self.unclosed {
            close::say_unclosed(*run, why);
        }
        for (lab, why) in &self.untaken {
            migrations::say_untaken(*lab, why);
        }
    }
}

/// Ticks until `shutdown`. If the database is unreachable, it waits, and never exits.
pub async fn run(db: &Db, rollup: &Rollup, config: &Config, clock: Clock, pulse: &Pulse, shutdown: &CancellationToken) {
    tokio::join!(
        tick::tick_until(db, rollup, config, clock, pulse, shutdown),
        dirty::watch_until(db, rollup, config, clock, shutdown),
        retention::prune_until(db, config, shutdown),
        observe::observe_until(db, rollup, config, clock, shutdown),
        audits::audit_until(db, rollup, config, clock, shutdown)
    );
}
