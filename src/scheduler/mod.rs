//! Scheduling is reconciliation.
//!
//! A tick takes no input: it looks at what should be and at what is recorded, and enqueues
//! the difference in the same transaction that records it. Ticks may be late, doubled, or run
//! by two schedulers at once; the result is the same, because each writing step begins by
//! locking, or comparing and setting, the rows that say what has been done.
//!
//! - [`nightly`]: days that have closed, one run a time zone.
//! - [`migrations`]: records of the Support Dashboard, one rebuild run a lab.
//! - [`repair`]: what an operator asks for.
//! - [`dirty`]: days whose source changed after they had closed, beside the ticks.
//! - [`close`]: runs whose jobs have all ended.
//! - [`retention`]: runs that have outlived it are pruned, beside the ticks.
//! - [`audits`]: every night a slice of the history is audited, beside the ticks.
//! - [`snapshots`]: the daily snapshot, beside the ticks.
//! - [`observe`]: gauges of the queue and of what is due, beside the ticks.
//!
//! How it fails: a step that fails is logged and done at a later tick, and stops no other step; a
//! lab that cannot be scheduled is reported, and stops no other; so is a record, a run or a zone whose rows
//! somebody else holds, and it is done at a later tick. On shutdown a step is dropped wherever it is: each
//! is a transaction, which rolls back. The audit and the snapshot, which are held by a lease, have a few
//! seconds to hand on what they hold.

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
    clock::Clock, db::Db, health::Pulse, metrics::catalogue::JOBS_ENQUEUED, queue::JobKind,
    recompute::shrink::MaxShrink, rollup::Rollup, runs::Progress, runs::RunState,
};
use audits::AuditConfig;
pub use close::{close_next_runs, close_run, close_runs};
use nightly::NightlyAt;
pub use tick::tick;

/// How the scheduler decides.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// When yesterday should be in the summary.
    pub nightly_at: NightlyAt,
    /// How many days back a lab is caught up, at most.
    pub catch_up_days: u32,
    /// How many closed days before the due one are checked again every night.
    pub lookback_days: u32,
    /// How many attempts each job may have.
    pub attempts_max: u32,
    /// How much of a day nightly jobs and repairs may take away at once.
    pub max_shrink: MaxShrink,
    /// The same of rebuilds.
    pub max_shrink_rebuild: MaxShrink,
    /// How long runs are kept after they have closed, with their jobs; for ever where it is none.
    pub retention: Option<Duration>,
    /// The standing audit; none where it is off.
    pub audit: Option<AuditConfig>,
}

impl Config {
    fn rebuilds(&self) -> migrations::Limits {
        migrations::Limits { attempts_max: self.attempts_max, max_shrink: self.max_shrink_rebuild }
    }
}

/// A run that was enqueued.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Enqueued {
    /// Its id.
    pub run: i64,
    /// What for.
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
    /// Labs whose migration records it could not take, and why.
    pub untaken: BTreeMap<i64, String>,
    /// Runs that it could not close or whose records it could not refresh, and why.
    pub unclosed: BTreeMap<i64, String>,
    /// The runs that it left open, and how far they are.
    pub open: Vec<(JobKind, Progress)>,
    /// What it left for the next tick, as somebody else holds its rows, and the database's words.
    pub held: BTreeMap<String, String>,
    /// For how long it waited for such rows, to have them or not.
    pub waited: Duration,
}

impl Report {
    /// Notes a run that was enqueued, and counts its jobs.
    fn note(&mut self, kind: JobKind, enqueued: Enqueued) {
        JOBS_ENQUEUED.add([kind.name()], enqueued.jobs as u64);
        self.enqueued.push(enqueued);
    }
}

/// Ticks until `shutdown`. A database that is away makes it wait, never exit.
pub async fn run(db: &Db, rollup: &Rollup, config: &Config, clock: Clock, pulse: &Pulse, shutdown: &CancellationToken) {
    tokio::join!(
        tick::tick_until(db, rollup, config, clock, pulse, shutdown),
        dirty::watch_until(db, rollup, config, clock, shutdown),
        retention::prune_until(db, config, shutdown),
        observe::observe_until(db, rollup, config, clock, shutdown),
        audits::audit_until(db, rollup, config, clock, shutdown)
    );
}
