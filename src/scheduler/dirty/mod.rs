//! Late changes: turning marks of dirty days into repairs.
//!
//! The triggers of [`crate::triggers`] append a mark to `daymend_dirty` inside the user's own transaction. A pass
//! reads the committed marks, merges those of the same day, and enqueues one repair run; in that same transaction it
//! deletes exactly the marks that it has read, by id. It never deletes all marks up to some id: a lower id may belong
//! to a transaction that has not committed yet.
//!
//! Why this is exact: a mark that can be read has been committed, and the change with it. The job enqueued for it
//! starts later and sees the change. So does a job of an earlier pass that was still waiting when it was looked for,
//! after the marks had been read; in that case nothing more is enqueued, and a day that changes all the time has at
//! most one waiting job. Jobs of other runs do not count, because they may be cancelled.
//!
//! What needs no job:
//!
//! - a day that is not over: the nightly run will cover it. Its marks are deleted only if that day has not been
//!   enqueued yet; if it has, by a scheduler whose clock is ahead, they stay until the day is over by this clock too;
//! - a lab that is unknown or not enabled: the nightly run leaves it out as well, and once it is switched on its history
//!   has to be rebuilt anyway;
//! - a bill that is gone (its deletion left a mark of its own), and a time outside the range of DATETIME.
//!
//! Marks of an enabled lab without a usable zone stay until its zone is set right.
//!
//! A mark of a test of the catalogue stands for every bill with that test: [`expand`] finds them little by little,
//! alongside the other work, and marks their days.
//!
//! How it fails: nothing is lost if a pass is cut off, because its transaction is rolled back; the search for bills
//! of tests continues where it was, and another scheduler starts it over.

mod expand;
mod marks;

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{
    Report, Scheduler, Tick,
    pace::{Pace, REST_MAX, RESTS},
};
use crate::{
    db::{Backoff, DbError, retry},
    metrics::catalogue::{DIRTY_JOBS_ENQUEUED, DIRTY_MARKS},
    queue::JobKind,
    rollup::watch::Watch,
};
use expand::Expansion;
pub(crate) use marks::oldest_us;

/// How often marks are looked for.
const TICK: Duration = Duration::from_secs(1);

/// How long to wait after a pass that enqueued a run: a steady flow of changes then causes a run every few seconds, not
/// one per change.
const SPACING: Duration = Duration::from_secs(4);

/// How long to wait after a pass that failed.
const AGAIN: Backoff = Backoff { base: TICK, max: Duration::from_secs(10) };

/// For how long to search for the bills of tests before it is the marks' turn again.
const EXPAND_FOR: Duration = Duration::from_millis(200);

/// How many ids before the last mark that was read a pass starts to look, except for one pass every
/// [`LOOK_ALL_EVERY`]: marks may have to stay for long, and InnoDB keeps deleted ones for as long as any snapshot is
/// open; each pass would scan all of them.
const LOOK_BACK_IDS: i64 = 10_000;
const LOOK_ALL_EVERY: Duration = Duration::from_secs(30);

/// The outcomes of marks, as label values.
pub(crate) const OUTCOMES: [&str; 4] = ["repaired", "not_over", "dropped", "expanded"];

/// What a scheduler remembers from one pass to the next; all of it can be lost.
#[derive(Debug, Default)]
struct Watcher {
    /// Marks up to this id are checked only occasionally.
    floor: i64,
    /// The id above which the last pass looked for marks.
    looked_above: i64,
    /// When all marks were last checked.
    looked_at_all: Option<Instant>,
    /// The tests whose bills are being searched for.
    expansion: Option<Expansion>,
}

/// Enqueues repairs of all marked days, including those of marked tests.
pub async fn repair_marked_days(tick: &Tick<'_>, report: &mut Report) -> Result<(), DbError> {
    let Some(watch) = &tick.rollup.watch else { return Ok(()) };
    let mut watcher = Watcher::default();
    watcher.pass(tick, watch, report).await?;
    while watcher.expand(tick, watch, Duration::MAX).await? {}
    watcher.pass(tick, watch, report).await
}

/// Runs passes until `shutdown`.
pub(super) async fn watch_until(scheduler: &Scheduler<'_>, shutdown: &CancellationToken) {
    let Some(watch) = &scheduler.rollup.watch else { return };
    let mut watcher = Watcher::default();
    let mut pace =
        Pace::new("marks of late changes cannot be read, trying again", "marks of late changes are read again", AGAIN);
    while !shutdown.is_cancelled() {
        let pass = async {
            let begun = Instant::now();
            let mut report = Report::default();
            let tick = scheduler.tick_now().await?;
            watcher.pass(&tick, watch, &mut report).await?;
            watcher.expand(&tick, watch, EXPAND_FOR).await?;
            Ok(rest_after(begun.elapsed(), if report.enqueued.is_empty() { TICK } else { SPACING }))
        };
        let Some(passed) = shutdown.run_until_cancelled(pass).await else { return };
        pace.rest_after(passed, shutdown).await;
    }
}

/// How long to rest after a pass that took this long: at least `spacing`.
fn rest_after(took: Duration, spacing: Duration) -> Duration {
    (took * RESTS).min(REST_MAX).max(spacing)
}

impl Watcher {
    /// Turns every committed mark into a repair, with one run per few thousand marks.
    async fn pass(&mut self, tick: &Tick<'_>, watch: &Watch, report: &mut Report) -> Result<(), DbError> {
        if self.looked_at_all.is_none_or(|at| at.elapsed() > LOOK_ALL_EVERY) {
            self.floor = 0;
            self.looked_at_all = Some(Instant::now());
        }
        self.looked_above = self.floor;
        let mut next = Some(self.floor);
        while let Some(after) = next
            && marks::any(tick.db, after).await?
        {
            let batch = retry("dirty days", || marks::enqueue(tick, watch, after)).await?;
            for (outcome, count) in OUTCOMES.into_iter().zip(batch.outcomes) {
                DIRTY_MARKS.add([outcome], count);
            }
            if let Some(enqueued) = batch.run {
                // Where bills change all the time, there is one every few seconds.
                tracing::debug!(run = enqueued.run, jobs = enqueued.jobs, "enqueued: {}", enqueued.reason);
                DIRTY_JOBS_ENQUEUED.add([], enqueued.jobs as u64);
                report.count(JobKind::Repair, enqueued);
            }
            if let Some(last) = batch.last_read {
                self.floor = self.floor.max(last - LOOK_BACK_IDS);
            }
            next = batch.more_after;
        }
        Ok(())
    }

    /// Searches for the bills of marked tests, for about `time`; returns whether there is more to do.
    async fn expand(&mut self, tick: &Tick<'_>, watch: &Watch, time: Duration) -> Result<bool, DbError> {
        let Some(catalogue) = &watch.catalogue else { return Ok(false) };
        let begun = Instant::now();
        if self.expansion.is_none() {
            // Not from `floor`, which the pass has just advanced: marks of tests may lie below it.
            if !marks::any(tick.db, self.looked_above).await? {
                return Ok(false);
            }
            self.expansion = expand::begin(tick, watch, catalogue, self.looked_above).await?;
        }
        while let Some(expansion) = &mut self.expansion {
            if !expansion.step(tick.db).await? {
                let marks = retry("marks of tests", || expansion.end(tick.db)).await?;
                self.expansion = None;
                DIRTY_MARKS.add(["expanded"], marks);
                return Ok(true);
            }
            if begun.elapsed() > time {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_that_took_long_is_followed_by_a_rest_with_a_limit() {
        let rest = |took: u64, spacing| rest_after(Duration::from_secs(took), spacing).as_secs();
        assert_eq!([rest(0, TICK), rest(0, SPACING), rest(5, SPACING)], [1, 4, 20]);
        assert_eq!([rest(300, TICK), rest(300, SPACING)], [30, 30]);
    }
}
