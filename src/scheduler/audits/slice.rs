//! One slice: from lab to lab, as far as the time budget allows.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use chrono::{DateTime, NaiveDate, Utc};
use tokio_util::sync::CancellationToken;

use crate::{
    audit::{
        cursors::{self, Cursor},
        report::by_day,
        scope::{self, Standing, Subject},
        slices::{self, Counts, Found, Taken},
        walk::{Step, Walk, is_of_the_lab},
    },
    calendar,
    db::{Db, DbError, Mode, retry},
    error::chain,
    metrics::{
        self,
        catalogue::{AUDIT_CHECKED, AUDIT_DIFFERENCES, AUDIT_DRIFTED, JOBS_ENQUEUED},
    },
    queue::JobKind,
    runs::{self, NewRun},
    scheduler::{Scheduler, Tick},
};

/// How long a slice is held without recording anything.
pub(super) const LEASE: Duration = Duration::from_secs(300);

/// How often progress is recorded.
const RECORD_EVERY: Duration = Duration::from_secs(5);

/// How many drifted (lab, day, cause)s a slice records before it ends early: if that much is wrong, it takes a rebuild,
/// and somebody to find the cause.
const FOUND_MAX: usize = 10_000;

/// A slice that this process is working on.
pub(super) struct Slice<'a> {
    scheduler: Scheduler<'a>,
    taken: Taken,
    begun: Instant,
    budget: Duration,
    shutdown: &'a CancellationToken,
    /// What has been recorded; `kept` is the number of findings.
    pub(super) done: Counts,
    kept: usize,
    unrecorded: Unrecorded,
}

/// What has not been recorded yet.
struct Unrecorded {
    since: Instant,
    /// The database's time when it began.
    at: DateTime<Utc>,
    counts: Counts,
    found: Vec<Found>,
    cursors: BTreeMap<i64, Cursor>,
}

/// How a visit to a lab ended.
#[derive(Debug, PartialEq, Eq)]
enum Visit {
    /// The lab's round has ended, or cannot continue tonight.
    Behind,
    /// The slice has ended.
    Over,
    /// Another process has taken the slice.
    Lost,
}

impl<'a> Slice<'a> {
    /// A slice that this process has not started on yet.
    pub(super) async fn begin(
        scheduler: Scheduler<'a>,
        taken: Taken,
        budget: Duration,
        shutdown: &'a CancellationToken,
    ) -> Result<Self, DbError> {
        let (begun, done, unrecorded) = (Instant::now(), Counts::default(), Unrecorded::begin(scheduler.db).await?);
        Ok(Self { scheduler, taken, begun, budget, shutdown, done, kept: 0, unrecorded })
    }

    fn spent(&self) -> Duration {
        self.taken.spent + self.begun.elapsed()
    }

    /// Whether the slice is over. It never is before something has been read: labs with nothing to read must not use up
    /// a small budget.
    fn is_over(&self) -> bool {
        let has_read = self.done.days_audited + self.unrecorded.counts.days_audited > 0;
        (has_read && self.spent() >= self.budget)
            || self.shutdown.is_cancelled()
            || self.kept + self.unrecorded.found.len() >= FOUND_MAX
    }

    /// Goes from lab to lab; returns false if another process has taken the slice.
    pub(super) async fn work(&mut self) -> Result<bool, DbError> {
        if self.taken.spent >= self.budget {
            return Ok(true);
        }
        let mut tx = self.scheduler.db.begin(Mode::Snapshot).await?;
        let mut subjects = scope::subjects(&mut tx, self.scheduler.rollup).await?;
        tx.commit().await?;
        subjects.retain(|subject| subject.has_rows || subject.standing != Standing::Disabled);
        let subjects: BTreeMap<i64, Subject> = subjects.into_iter().map(|subject| (subject.lab_id, subject)).collect();
        let labs: BTreeSet<i64> = subjects.keys().copied().collect();
        let mut cursors = cursors::reconcile(self.scheduler.db, &self.scheduler.rollup.name, &labs).await?;
        // A lab with a complete round since the slice began is done for tonight, whoever audited it.
        cursors.retain(|_, cursor| cursor.next_day.is_some() || cursor.audited_at < Some(self.taken.started_at));
        for lab in cursors::order(&cursors) {
            let (Some(subject), Some(cursor)) = (subjects.get(&lab), cursors.remove(&lab)) else { continue };
            match self.visit(subject, cursor).await? {
                Visit::Behind if !self.is_over() => {}
                Visit::Behind | Visit::Over => break,
                Visit::Lost => return Ok(false),
            }
        }
        if self.kept + self.unrecorded.found.len() >= FOUND_MAX {
            tracing::warn!(
                "the audit stopped early: {FOUND_MAX} findings or more; look for the cause, then rebuild the labs"
            );
        }
        self.record().await
    }

    /// Continues a lab's round: first its history, then any rows stored for days to come. Each part reads the clock
    /// when it begins, as midnight may have passed in the lab since the slice began.
    async fn visit(&mut self, subject: &Subject, mut cursor: Cursor) -> Result<Visit, DbError> {
        if cursor.next_day.is_none() {
            // A lab that has never completed a round is still in its first one, which keeps its start.
            let first = cursor.round_at.filter(|_| cursor.audited_at.is_none());
            let round_at = first.or(Some(self.unrecorded.at));
            cursor = Cursor { round_at, audited_at: cursor.audited_at, ..Cursor::default() };
        }
        let mut now = self.scheduler.now().await?;
        let mut walk = self.walk(subject, self.history(subject, cursor.next_day, now), now);
        let mut is_in_history = true;
        loop {
            let is_behind = match walk.next().await {
                Ok(Some(step)) => {
                    self.unrecorded.add(subject.lab_id, &mut cursor, step);
                    false
                }
                Ok(None) if is_in_history => {
                    is_in_history = false;
                    now = self.scheduler.now().await?;
                    walk = self.walk(subject, days_to_come(subject, cursor.next_day, now), now);
                    continue;
                }
                Ok(None) => true,
                // The next night continues from here, and until then nothing more counts as audited. Recorded at once, as
                // the statement may have used up its time limit.
                Err(error) if error.is_bad_data() || is_of_the_lab(&error, self.scheduler.db).await => {
                    metrics::database_error(&error);
                    tracing::warn!(lab = subject.lab_id, error = %chain(&error), "a lab cannot be audited tonight");
                    cursor.problem = Some(chain(&error));
                    self.unrecorded.cursors.insert(subject.lab_id, cursor);
                    return Ok(if self.record().await? { Visit::Behind } else { Visit::Lost });
                }
                Err(error) => return Err(error),
            };
            if is_behind {
                self.unrecorded.complete(&mut cursor, subject);
            }
            self.unrecorded.cursors.insert(subject.lab_id, cursor.clone());
            if is_behind {
                return Ok(Visit::Behind);
            }
            // What is left after the last closed day takes only a moment. It is read at once: otherwise a lab that
            // gains a day every night would never reach the end of its round.
            let is_at_end = self.history_end(subject, now).is_some_and(|end| cursor.next_day > Some(end));
            if self.is_over() && !is_at_end {
                return Ok(Visit::Over);
            }
            if self.unrecorded.since.elapsed() >= RECORD_EVERY && !self.record().await? {
                return Ok(Visit::Lost);
            }
        }
    }

    fn walk<'s>(&self, subject: &'s Subject, days: Option<(NaiveDate, NaiveDate)>, now: DateTime<Utc>) -> Walk<'s>
    where
        'a: 's,
    {
        let days = days.filter(|(first, last)| first <= last).into_iter().collect();
        Walk::new(self.scheduler.db, self.scheduler.rollup, subject, days, now)
    }

    /// The last day of a lab's history to audit. Days that the nightly run has just done, or will do tonight, are left
    /// to the next round.
    fn history_end(&self, subject: &Subject, now: DateTime<Utc>) -> Option<NaiveDate> {
        match subject.standing {
            Standing::Kept(zone) => Some(calendar::previous(self.scheduler.config.nightly_at.due_day(zone, now))),
            _ => None,
        }
    }

    /// The days of a lab's history that are left in its round; all days for a lab that is not kept.
    fn history(
        &self,
        subject: &Subject,
        next_day: Option<NaiveDate>,
        now: DateTime<Utc>,
    ) -> Option<(NaiveDate, NaiveDate)> {
        let from = next_day.unwrap_or(calendar::FIRST_DAY);
        match subject.standing {
            Standing::Unusable(_) => None,
            _ => Some((from, self.history_end(subject, now).unwrap_or(calendar::LAST_DAY))),
        }
    }

    /// Records what has been done, in one transaction; returns false if another process has taken the slice.
    async fn record(&mut self) -> Result<bool, DbError> {
        let (taken, spent, unrecorded) = (self.taken, self.spent(), &self.unrecorded);
        let is_ours = retry("record audit", || async {
            let mut tx = self.scheduler.db.begin(Mode::Write).await?;
            if !slices::step(&mut tx, &taken, LEASE, spent, &unrecorded.counts, &unrecorded.found).await? {
                tx.rollback().await?;
                return Ok::<_, DbError>(false);
            }
            for (lab, cursor) in &unrecorded.cursors {
                cursors::set(&mut tx, &self.scheduler.rollup.name, *lab, cursor).await?;
            }
            tx.commit().await?;
            Ok(true)
        })
        .await?;
        if !is_ours {
            tracing::warn!(audit = taken.id, "the slice of the audit has been taken over by another scheduler");
            return Ok(false);
        }
        let counts = unrecorded.counts;
        AUDIT_CHECKED.add([], counts.days_audited);
        AUDIT_DRIFTED.add([], counts.days_drifted);
        for found in &unrecorded.found {
            AUDIT_DIFFERENCES.add([&found.cause], found.differences.unsigned_abs());
        }
        self.kept += unrecorded.found.len();
        self.done.add(&counts);
        self.unrecorded = Unrecorded::begin(self.scheduler.db).await?;
        Ok(true)
    }

    /// Ends the slice, together with the repair of what it found; `None` if another process has taken the slice.
    pub(super) async fn end(&self, is_repaired: bool) -> Result<Option<Option<i64>>, DbError> {
        let tick = self.scheduler.tick_now().await?;
        let ended = retry("end audit", || async {
            let mut tx = self.scheduler.db.begin(Mode::Write).await?;
            let mut days: BTreeMap<i64, BTreeSet<NaiveDate>> = BTreeMap::new();
            if is_repaired {
                for found in slices::found(&mut tx, self.taken.id).await?.iter().filter(|found| found.is_repairable()) {
                    days.entry(found.lab).or_default().insert(found.day);
                }
            }
            let run = self.repair(days, &tick);
            let run_id = if run.labs.is_empty() { None } else { Some(runs::create(&mut tx, &run).await?) };
            if !slices::end(&mut tx, &self.taken, run_id).await? {
                tx.rollback().await?;
                return Ok::<_, DbError>(None);
            }
            tx.commit().await?;
            Ok(Some((run_id, run.jobs())))
        })
        .await?;
        if let Some((Some(_), jobs)) = ended {
            JOBS_ENQUEUED.add([JobKind::Repair.name()], jobs as u64);
        }
        Ok(ended.map(|(run_id, _)| run_id))
    }

    fn repair(&self, days: BTreeMap<i64, BTreeSet<NaiveDate>>, tick: &Tick<'_>) -> NewRun {
        let labs = days.into_iter().map(|(lab, days)| (lab, days.into_iter().collect())).collect();
        NewRun {
            reason: format!("repair of what the audit of {} found", self.taken.night),
            requested_by: "scheduler (audit)".to_owned(),
            ..tick.new_run(JobKind::Repair, labs)
        }
    }
}

/// The days of a lab that have not begun and are left in its round. They should have no rows, so any that are stored
/// are out of range. Today is not included: delta triggers may have written rows, and its nightly run is still to come.
fn days_to_come(subject: &Subject, next_day: Option<NaiveDate>, now: DateTime<Utc>) -> Option<(NaiveDate, NaiveDate)> {
    let Standing::Kept(zone) = subject.standing else { return None };
    let tomorrow = calendar::next(calendar::next(zone.yesterday(now)));
    Some((next_day.map_or(tomorrow, |day| day.max(tomorrow)), calendar::LAST_DAY))
}

impl Unrecorded {
    async fn begin(db: &Db) -> Result<Self, DbError> {
        Ok(Self {
            since: Instant::now(),
            at: db.database_now().await?,
            counts: Counts::default(),
            found: Vec::new(),
            cursors: BTreeMap::new(),
        })
    }

    fn add(&mut self, lab: i64, cursor: &mut Cursor, step: Step) {
        // There is no day after the last one that a database can hold; that one is read again if this is recorded.
        cursor.next_day = Some(calendar::next(*step.days.end()).min(calendar::LAST_DAY));
        self.counts.days_audited += step.days_read;
        let findings = match step.outcome {
            Ok(findings) => findings,
            Err(why) => {
                cursor.problem = Some(format!("{}: {why}", calendar::span(*step.days.start(), *step.days.end())));
                return;
            }
        };
        for (day, findings) in by_day(findings.into_iter()) {
            self.counts.days_drifted += 1;
            self.counts.differences += findings.len() as u64;
            let mut causes: BTreeMap<&str, i64> = BTreeMap::new();
            for finding in &findings {
                *causes.entry(finding.cause.name()).or_default() += 1;
            }
            let found = causes.into_iter();
            self.found.extend(found.map(|(cause, differences)| Found {
                lab,
                day,
                cause: cause.to_owned(),
                differences,
            }));
        }
    }

    /// Ends the lab's round. If the lab is unusable, it does not count as audited.
    fn complete(&mut self, cursor: &mut Cursor, subject: &Subject) {
        cursor.next_day = None;
        match &subject.standing {
            Standing::Unusable(why) => cursor.problem = Some(why.clone()),
            _ => {
                cursor.audited_at = cursor.round_at;
                self.counts.labs_completed += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_goes_on_at_a_day_that_a_database_can_hold() {
        let mut unrecorded = Unrecorded {
            since: Instant::now(),
            at: DateTime::UNIX_EPOCH,
            counts: Counts::default(),
            found: Vec::new(),
            cursors: BTreeMap::new(),
        };
        let before = calendar::previous(calendar::LAST_DAY);
        for (last, next) in [(before, calendar::LAST_DAY), (calendar::LAST_DAY, calendar::LAST_DAY)] {
            let mut cursor = Cursor::default();
            let step = Step { days: before..=last, outcome: Ok(Vec::new()), days_read: 0, rows_held: 0 };
            unrecorded.add(1, &mut cursor, step);
            assert_eq!(cursor.next_day, Some(next));
        }
    }
}
