//! One tick, and what a scheduler that goes on ticking remembers from one to the next.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use strum::IntoEnumIterator as _;
use tokio_util::sync::CancellationToken;

use super::{
    Report, Scheduler, dirty,
    migrations::{self, Walk},
    nightly,
    pace::{Pace, REST_MAX, RESTS},
};
use crate::{
    db::{Backoff, Db, DbError, ErrorKind},
    error::chain,
    health::Pulse,
    metrics::{
        self,
        catalogue::{RUN_JOBS, RUN_JOBS_ENDED, SCHEDULER_LAST_TICK, SCHEDULER_TICK_DURATION, SCHEDULER_TICKS},
    },
    queue::JobKind,
    runs::{Progress, close},
};

/// How often to look at records and runs.
const TICK: Duration = Duration::from_secs(1);

/// How long to wait after a tick that failed.
const AGAIN: Backoff = Backoff { base: TICK, max: Duration::from_secs(10) };

/// How often to read the labs to see which days have closed.
const NIGHTLY_EVERY: Duration = Duration::from_secs(10);

impl Scheduler<'_> {
    /// Runs one whole tick. `report` has what was done even if a step failed.
    pub async fn tick(&self, report: &mut Report) -> Result<(), DbError> {
        let tick = self.tick_now().await?;
        let mut done = nightly::enqueue_closed_days(&tick, report).await;
        if !is_away(&done) {
            done = also(done, close::close_runs(self.db, &mut report.runs, &mut report.held).await);
        }
        if !is_away(&done) {
            done = also(done, tick.rebuilds().take_all_pending(report).await);
        }
        if !is_away(&done) {
            done = also(done, dirty::repair_marked_days(&tick, report).await);
        }
        done
    }
}

/// What is remembered from one tick to the next.
#[derive(Debug, Default)]
struct Ticker {
    /// When the labs were last read.
    labs_read: Option<Instant>,
    /// The run after which the next ones are looked at. For those looked at since the round began: the progress of the
    /// open ones, and which could not be closed.
    looked_at: Option<i64>,
    open: Vec<(JobKind, Progress)>,
    unclosed: BTreeMap<i64, String>,
    /// Where the walk through the records continues, and the labs whose records could not be taken since its round
    /// began.
    walk: Walk,
    untaken: BTreeMap<i64, String>,
    /// What has been logged.
    reported: Reported,
}

/// What has been logged; each is logged once until it changes.
#[derive(Debug, Default)]
struct Reported {
    unusable: BTreeMap<i64, String>,
    unclosed: BTreeMap<i64, String>,
    untaken: BTreeMap<i64, String>,
    held: BTreeMap<String, String>,
}

impl Ticker {
    /// Runs one tick, without the steps that are not due or would take long. A step that fails does not stop the
    /// others, unless the database is unreachable.
    async fn tick(&mut self, scheduler: &Scheduler<'_>, report: &mut Report) -> Result<(), DbError> {
        let tick = scheduler.tick_now().await?;
        let mut done = Ok(());
        if self.labs_read.is_none_or(|at| at.elapsed() >= NIGHTLY_EVERY) {
            done = nightly::enqueue_closed_days(&tick, report).await;
            if done.is_ok() {
                let unusable = std::mem::take(&mut report.unusable);
                report_new(unusable, &mut self.reported.unusable, |lab, why| {
                    tracing::warn!(lab, "lab {lab} cannot be scheduled: {why}");
                });
                // If rows were locked by somebody else, try again at the next tick.
                self.labs_read = report.held.left.is_empty().then(Instant::now);
            }
        }
        if !is_away(&done) {
            done = also(done, self.close_runs(tick.db, report).await);
        }
        if !is_away(&done) {
            let taken = tick.rebuilds().take_pending(self.walk, report).await;
            done = also(done, taken.map(|next| self.walk_on(next, report)));
        }
        done
    }

    async fn close_runs(&mut self, db: &Db, report: &mut Report) -> Result<(), DbError> {
        let slice = close::close_next_runs(db, self.looked_at, &mut report.runs, &mut report.held).await?;
        self.looked_at = slice.next;
        self.open.append(&mut report.runs.open);
        self.unclosed.append(&mut report.runs.unclosed);
        if self.looked_at.is_none() {
            show_progress(&std::mem::take(&mut self.open));
            report_new(std::mem::take(&mut self.unclosed), &mut self.reported.unclosed, close::say_unclosed);
        }
        slice.failed.map_or(Ok(()), Err)
    }

    fn walk_on(&mut self, next: Walk, report: &mut Report) {
        self.walk = next;
        self.untaken.append(&mut report.untaken);
        if next.is_at_start() {
            report_new(std::mem::take(&mut self.untaken), &mut self.reported.untaken, migrations::say_untaken);
        }
    }
}

/// Ticks until `shutdown`.
pub(super) async fn tick_until(scheduler: &Scheduler<'_>, pulse: &Pulse, shutdown: &CancellationToken) {
    let mut ticker = Ticker::default();
    let mut pace = Pace::new("tick failed, trying again", "ticks work again", AGAIN);
    while !shutdown.is_cancelled() {
        let begun = Instant::now();
        let mut report = Report::default();
        let tick = ticker.tick(scheduler, &mut report);
        let Some(done) = shutdown.run_until_cancelled(tick).await else { return };
        report_held(&report.held.left, &mut ticker.reported.held);
        let took = begun.elapsed();
        SCHEDULER_TICK_DURATION.record([], took, 1);
        SCHEDULER_TICKS.add([if done.is_ok() { "ok" } else { "failed" }], 1);
        metrics::pool("scheduler", scheduler.db);
        if done.is_ok() {
            pulse.beat();
            SCHEDULER_LAST_TICK.set([], metrics::now_seconds());
        }
        // Counting runs of millions of jobs is slow: rest, so that it takes only a small part of the time.
        let rest = (took.saturating_sub(report.held.waited) * RESTS).clamp(TICK, REST_MAX);
        pace.rest_after(done.map(|()| rest), shutdown).await;
    }
}

/// Whether a step found the database unreachable: the next step would wait just as long.
fn is_away(done: &Result<(), DbError>) -> bool {
    matches!(done, Err(error) if error.kind == ErrorKind::Unavailable && !error.is_cut_off())
}

/// Returns the first error of a tick; a second one is only logged.
fn also(done: Result<(), DbError>, next: Result<(), DbError>) -> Result<(), DbError> {
    if let (Err(_), Err(error)) = (&done, &next) {
        metrics::database_error(error);
        tracing::error!(error = %chain(error), "another step of the tick failed");
    }
    done.and(next)
}

/// Logs problems of labs or runs, each once until it changes.
fn report_new(found: BTreeMap<i64, String>, reported: &mut BTreeMap<i64, String>, say: impl Fn(i64, &str)) {
    for (id, why) in &found {
        if reported.get(id) != Some(why) {
            say(*id, why);
        }
    }
    *reported = found;
}

/// How far the runs are that are open.
fn show_progress(open: &[(JobKind, Progress)]) {
    for kind in JobKind::iter() {
        let runs = || open.iter().filter(|(of, _)| *of == kind).map(|(_, progress)| progress);
        RUN_JOBS.set([kind.name()], runs().map(Progress::total).sum::<u64>() as f64);
        RUN_JOBS_ENDED.set([kind.name()], runs().map(Progress::ended).sum::<u64>() as f64);
    }
}

/// Logs what has been left for the next tick; once for each, until it is no longer held.
fn report_held(held: &BTreeMap<String, String>, reported: &mut BTreeMap<String, String>) {
    for (what, error) in held {
        if !reported.contains_key(what) {
            tracing::warn!(error, "{what}: locked by another transaction, left for a later tick");
        }
    }
    reported.clone_from(held);
}
