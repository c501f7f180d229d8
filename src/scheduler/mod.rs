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
//! - [`close_runs`]: runs whose jobs have all ended.
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
mod held;
pub mod migrations;
pub mod nightly;
mod nightly_at;
mod observe;
mod pace;
pub mod repair;
mod retention;
pub mod snapshots;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    db::{Backoff, Db, DbError, Kind, Mode},
    error::chain,
    health::Pulse,
    metrics::{
        self,
        catalogue::{
            JOBS_ENQUEUED, RUN_JOBS, RUN_JOBS_ENDED, RUNS_ENDED, SCHEDULER_LAST_TICK, SCHEDULER_TICK_DURATION,
            SCHEDULER_TICKS,
        },
    },
    queue::{JobKind, admin::change, ids_of},
    recompute::shrink::MaxShrink,
    rollup::Rollup,
    runs::{
        self, Progress, Run, RunState,
        records::{self, Records},
    },
};
use audits::AuditConfig;
use held::{report_held, unless_held};
use migrations::Walk;
use nightly::NightlyAt;
use pace::Pace;

/// How often records and runs are looked at.
const TICK: Duration = Duration::from_secs(1);

/// After a tick that took long the scheduler rests for that many times as long, at most so long.
const TICK_RESTS: u32 = 4;
const TICK_REST_MAX: Duration = Duration::from_secs(30);

/// How long to wait after a tick that failed.
const AGAIN: Backoff = Backoff { base: TICK, max: Duration::from_secs(10) };

/// How many open runs a tick looks at: each is a transaction or two, and changes of closed days may have made
/// thousands of them that a pause keeps open.
const RUNS_A_TICK: usize = 200;

/// How often the labs are read to see which days have closed.
const NIGHTLY_EVERY: Duration = Duration::from_secs(10);

/// Configuration of the scheduler.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// When yesterday should be in the summary.
    pub nightly_at: NightlyAt,
    /// Maximum number of past days that a lab is caught up on.
    pub catch_up_days: u32,
    /// How many closed days before the due one to check again every night.
    pub lookback_days: u32,
    /// How many attempts each job may have.
    pub attempts_max: u32,
    /// The share of a day's rows that nightly jobs and repairs may remove at once.
    pub max_shrink: MaxShrink,
    /// The same for rebuilds.
    pub max_shrink_rebuild: MaxShrink,
    /// How long runs and their jobs are kept after the run has closed; `None` means for ever.
    pub retention: Option<Duration>,
    /// The standing audit; `None` if it is off.
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
    /// Labs whose migration records it could not take, and why.
    pub untaken: BTreeMap<i64, String>,
    /// The runs that it left open, and their progress.
    pub open: Vec<(JobKind, Progress)>,
    /// What it left for the next tick because of locked rows, with the database's message.
    pub held: BTreeMap<String, String>,
    /// How long it waited for locked rows, whether it got them or not.
    pub waited: Duration,
}

impl Report {
    /// Notes a run that was enqueued, and counts its jobs.
    fn note(&mut self, kind: JobKind, enqueued: Enqueued) {
        JOBS_ENQUEUED.add([kind.name()], enqueued.jobs as u64);
        self.enqueued.push(enqueued);
    }
}

/// Runs one whole tick.
pub async fn tick(db: &Db, rollup: &Rollup, config: &Config, clock: Clock) -> Result<Report, DbError> {
    let mut report = Report::default();
    let now = db.now(clock).await?;
    nightly::enqueue_closed_days(db, rollup, config, now, &mut report).await?;
    close_runs(db, &mut report).await?;
    let mut walk = Walk::default();
    loop {
        walk = migrations::take_pending(db, rollup, config.rebuilds(), walk, now, &mut report).await?;
        if walk.is_at_start() {
            break;
        }
    }
    dirty::repair_marked_days(db, rollup, config, now, &mut report).await?;
    Ok(report)
}

/// Closes runs whose jobs have all ended, and updates the migration records of the others.
pub async fn close_runs(db: &Db, report: &mut Report) -> Result<(), DbError> {
    let mut after = None;
    loop {
        after = close_next_runs(db, after, report).await?;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Does the same for the next open runs after `after`; returns where to continue, or `None` if there are no more.
pub async fn close_next_runs(db: &Db, after: Option<i64>, report: &mut Report) -> Result<Option<i64>, DbError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let mut open = runs::open_behind(&mut tx, after.unwrap_or(0), RUNS_A_TICK + 1).await?;
    tx.commit().await?;
    let is_more = open.len() > RUNS_A_TICK;
    open.truncate(RUNS_A_TICK);
    for run in &open {
        close_run(db, run, report).await?;
    }
    Ok(open.last().filter(|_| is_more).map(|run| run.id))
}

async fn close_run(db: &Db, run: &Run, report: &mut Report) -> Result<(), DbError> {
    let what = format!("run {}", run.id);
    let (progress, records) = look_at(db, run).await?;
    if records == Records::Disappeared {
        if cancel(db, run, &what, report).await? {
            tracing::warn!(run = run.id, "cancelled, as its migration record has disappeared");
            RUNS_ENDED.add([run.kind.name(), RunState::Cancelled.name()], 1);
            let (progress, _) = look_at(db, run).await?;
            report.closed.push((run.id, RunState::Cancelled, progress));
        }
        return Ok(());
    }
    if progress.open() > 0 {
        if records == Records::There {
            unless_held(db, &what, "refresh records", report, || refresh(db, run, &progress)).await?;
        }
        report.open.push((run.kind, progress));
        return Ok(());
    }
    let closed = unless_held(db, &what, "close run", report, || runs::try_close(db, run.id));
    if let Some((state, progress)) = closed.await?.flatten() {
        tracing::info!(
            run = run.id,
            kind = run.kind.name(),
            state = state.name(),
            jobs = progress.total(),
            discarded = progress.discarded,
            rows_inserted = progress.rows_inserted,
            rows_updated = progress.rows_updated,
            rows_deleted = progress.rows_deleted,
            "run ended: {}",
            run.reason
        );
        RUNS_ENDED.add([run.kind.name(), state.name()], 1);
        report.closed.push((run.id, state, progress));
    }
    Ok(())
}

/// Cancels a run; false where it is not running, or somebody else is in the way.
async fn cancel(db: &Db, run: &Run, what: &str, report: &mut Report) -> Result<bool, DbError> {
    let mut next = Some(ids_of(run.id).0);
    while let Some(first) = next {
        let batch =
            unless_held(db, what, "cancel run", report, || change::cancel_batch(db, run.id, first, "scheduler"));
        let Some(batch) = batch.await?.flatten() else { return Ok(false) };
        next = batch.next;
    }
    Ok(true)
}

/// Looks at a run without a lock: how far it is, and what has become of its records.
async fn look_at(db: &Db, run: &Run) -> Result<(Progress, Records), DbError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let looked = (runs::progress(&mut tx, run.id).await?, records::of_run(&mut tx, run.id).await?);
    tx.commit().await?;
    Ok(looked)
}

/// Brings the migration records of a run up to date, where it runs still: another scheduler may have
/// closed it since it was counted, and nobody would set the records right again. One that somebody
/// does something with just now is left for the next tick.
async fn refresh(db: &Db, run: &Run, progress: &Progress) -> Result<(), DbError> {
    let mut tx = db.begin(Mode::Write).await?;
    if runs::hold_running(&mut tx, run.id).await? {
        records::refresh(&mut tx, run, progress).await?;
    }
    tx.commit().await
}

/// Ticks until `shutdown`. If the database is unreachable, it waits, and never exits.
pub async fn run(db: &Db, rollup: &Rollup, config: &Config, clock: Clock, pulse: &Pulse, shutdown: &CancellationToken) {
    tokio::join!(
        tick_until(db, rollup, config, clock, pulse, shutdown),
        dirty::watch_until(db, rollup, config, clock, shutdown),
        retention::prune_until(db, config, shutdown),
        observe::observe_until(db, rollup, config, clock, shutdown),
        audits::audit_until(db, rollup, config, clock, shutdown)
    );
}

async fn tick_until(
    db: &Db,
    rollup: &Rollup,
    config: &Config,
    clock: Clock,
    pulse: &Pulse,
    shutdown: &CancellationToken,
) {
    let (mut reported, mut reported_held) = (BTreeMap::new(), BTreeMap::new());
    let mut labs_read: Option<Instant> = None;
    // Behind which run the next ones are looked at, and how far those are that are open, since the round began.
    let (mut looked_at, mut open) = (None, Vec::new());
    // Which records are taken next, and the labs whose records could not be, since the walk began its round.
    let (mut walk, mut untaken, mut reported_untaken) = (Walk::default(), BTreeMap::new(), BTreeMap::new());
    let mut pace = Pace::new("tick failed, trying again", AGAIN);
    while !shutdown.is_cancelled() {
        let begun = Instant::now();
        let mut report = Report::default();
        let step = async {
            let now = db.now(clock).await?;
            // What one of them fails of need not be of the others.
            let mut done = Ok(());
            if labs_read.is_none_or(|at| at.elapsed() >= NIGHTLY_EVERY) {
                done = nightly::enqueue_closed_days(db, rollup, config, now, &mut report).await;
                if done.is_ok() {
                    let unusable = std::mem::take(&mut report.unusable);
                    report_labs("cannot be scheduled", unusable, &mut reported);
                    // What somebody holds is tried again at once.
                    labs_read = report.held.is_empty().then(Instant::now);
                }
            }
            if is_away(&done) {
                return done;
            }
            match close_next_runs(db, looked_at, &mut report).await {
                Ok(next) => {
                    looked_at = next;
                    open.append(&mut report.open);
                    if looked_at.is_none() {
                        show_progress(&std::mem::take(&mut open));
                    }
                }
                Err(error) => done = also(done, error),
            }
            if is_away(&done) {
                return done;
            }
            match migrations::take_pending(db, rollup, config.rebuilds(), walk, now, &mut report).await {
                Ok(next) => {
                    walk = next;
                    untaken.append(&mut report.untaken);
                    if walk.is_at_start() {
                        let untaken = std::mem::take(&mut untaken);
                        report_labs("has migration records that cannot be taken", untaken, &mut reported_untaken);
                    }
                }
                Err(error) => done = also(done, error),
            }
            done
        };
        let Some(done) = shutdown.run_until_cancelled(step).await else { return };
        report_held(&report.held, &mut reported_held);
        let took = begun.elapsed();
        SCHEDULER_TICK_DURATION.record([], took, 1);
        SCHEDULER_TICKS.add([if done.is_ok() { "ok" } else { "failed" }], 1);
        metrics::pool("scheduler", db);
        if done.is_ok() {
            pulse.beat();
            SCHEDULER_LAST_TICK.set([], metrics::now_seconds());
        }
        // Counting runs of millions of jobs takes a while: it stays a small part of the time.
        let rest = (took.saturating_sub(report.waited) * TICK_RESTS).clamp(TICK, TICK_REST_MAX);
        pace.rest_after(done.map(|()| rest), shutdown).await;
    }
}

/// Whether a step has found no database: the next one would wait for it just as long.
fn is_away(done: &Result<(), DbError>) -> bool {
    matches!(done, Err(error) if error.kind == Kind::Unavailable && !error.is_cut_off())
}

/// The first error of a tick ends it as failed; another one is said beside it.
fn also(done: Result<(), DbError>, error: DbError) -> Result<(), DbError> {
    if done.is_ok() {
        return Err(error);
    }
    metrics::database_error(&error);
    tracing::error!(error = %chain(&error), "another step of the tick failed");
    done
}

/// How far the runs are that are open.
fn show_progress(open: &[(JobKind, Progress)]) {
    for kind in JobKind::ALL {
        let runs = || open.iter().filter(|(of, _)| *of == kind).map(|(_, progress)| progress);
        RUN_JOBS.set([kind.name()], runs().map(Progress::total).sum::<u64>() as f64);
        RUN_JOBS_ENDED.set([kind.name()], runs().map(Progress::ended).sum::<u64>() as f64);
    }
}

/// Logs what is the matter with labs, once each until that changes.
fn report_labs(what: &str, labs: BTreeMap<i64, String>, reported: &mut BTreeMap<i64, String>) {
    for (lab, why) in &labs {
        if reported.get(lab) != Some(why) {
            tracing::warn!(lab, "lab {lab} {what}: {why}");
        }
    }
    *reported = labs;
}
