//! The standing audit: every night a slice of the history is compared with its source.
//!
//! A night has one slice, a row that one scheduler takes by compare-and-set; another finds it
//! taken, or done. Its holder goes from lab to lab, the longest unaudited first, as far as the
//! budget goes, and records every few seconds, in one transaction, how far each lab has come and
//! what was found, which extends its lease too.
//!
//! How it fails: a scheduler that dies loses the few seconds since it last recorded; when its
//! lease has run out, another goes on from there with what is left of the budget. Labs and days
//! that cannot be compared are noted with their lab, and keep nobody else waiting. It runs beside
//! the ticks and never delays one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use tokio_util::sync::CancellationToken;

use super::{Config, nightly::NightlyAt};
use crate::{
    audit::{
        cursors::{self, Cursor},
        report::by_day,
        scope::{self, Standing, Subject},
        slices::{self, Counts, Found, Taken},
        walk::{Step, Walk},
    },
    calendar,
    clock::Clock,
    db::{Db, DbError, Mode, retry},
    error::chain,
    metrics::{
        self,
        catalogue::{
            AUDIT_CHECKED, AUDIT_DIFFERENCES, AUDIT_DRIFTED, AUDIT_LABS_PENDING, AUDIT_LAST, AUDIT_OLDEST,
            JOBS_ENQUEUED,
        },
    },
    queue::{JobKind, admin::prune, settle},
    rollup::Rollup,
    runs::{self, NewRun},
};

/// How often it is looked whether a slice is due.
const EVERY: Duration = Duration::from_secs(60);

/// How long after the nightly run a slice begins: the days that have just closed come first.
const AFTER_NIGHTLY: chrono::Duration = chrono::Duration::minutes(30);

/// How long a slice is held without a sign of life.
const LEASE: Duration = Duration::from_secs(300);

/// How often progress is recorded.
const RECORD_EVERY: Duration = Duration::from_secs(5);

/// How many drifted (lab, day, cause)s a slice keeps before it ends: what is as wrong as that
/// wants a rebuild, and a look at what breaks it.
const FOUND_MAX: usize = 10_000;

/// How the standing audit goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditConfig {
    /// How long a night's slice may take.
    pub budget: Duration,
    /// Whether what has drifted is repaired.
    pub repair: bool,
}

/// What a slice came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SliceReport {
    /// What this process did of it.
    pub counts: Counts,
    /// The repair of what it found, where one was asked for and something can be repaired.
    pub run_id: Option<i64>,
}

/// Looks again and again whether a slice is due, until `shutdown`.
pub(super) async fn audit_until(db: &Db, rollup: &Rollup, config: &Config, clock: Clock, shutdown: &CancellationToken) {
    while config.audit.is_some() && !shutdown.is_cancelled() {
        let result = async {
            audit_tonight(db, rollup, config, clock.now(), shutdown).await?;
            observe(db, &rollup.name).await
        };
        if let Err(error) = result.await {
            metrics::database_error(&error);
            tracing::warn!(error = %chain(&error), "the audit was interrupted, going on later");
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

async fn observe(db: &Db, rollup: &str) -> Result<(), DbError> {
    if let Some(at) = slices::last_ended(db, rollup).await? {
        AUDIT_LAST.set([], at.timestamp() as f64);
    }
    let coverage = cursors::coverage(db, rollup).await?;
    AUDIT_LABS_PENDING.set([], coverage.labs_unaudited as f64);
    if let Some(since) = coverage.audited_since {
        AUDIT_OLDEST.set([], since.timestamp() as f64);
    }
    Ok(())
}

/// Does the slice of the night, and what others have left undone of earlier ones; what came of
/// each, none where nothing is left to do or somebody else does it.
pub async fn audit_tonight(
    db: &Db,
    rollup: &Rollup,
    config: &Config,
    now: DateTime<Utc>,
    shutdown: &CancellationToken,
) -> Result<Vec<SliceReport>, DbError> {
    let mut reports = Vec::new();
    let Some(audit) = config.audit else { return Ok(reports) };
    let night = night_of(config.nightly_at, now);
    slices::open(db, &rollup.name, night).await?;
    while !shutdown.is_cancelled()
        && let Some(taken) = slices::take(db, &rollup.name, LEASE).await?
    {
        // Of an earlier night only the end is missing: this night has a budget of its own.
        let budget = if taken.night == night { audit.budget } else { Duration::ZERO };
        let unrecorded = Unrecorded::begin(db).await?;
        let (begun, done) = (Instant::now(), Counts::default());
        let mut slice = Slice { db, rollup, config, now, taken, begun, budget, shutdown, done, kept: 0, unrecorded };
        if !slice.work().await? {
            break;
        }
        if shutdown.is_cancelled() {
            slices::release(db, &taken).await?;
            break;
        }
        let Some(run_id) = slice.end(audit.repair).await? else { break };
        let counts = slice.done;
        tracing::info!(
            labs_completed = counts.labs_completed,
            days = counts.days_audited,
            days_drifted = counts.days_drifted,
            differences = counts.differences,
            repair = run_id,
            "audited a slice of the history"
        );
        reports.push(SliceReport { counts, run_id });
        if let Some(retention) = config.retention {
            slices::prune(db, prune::cutoff(db, retention).await?).await?;
        }
    }
    Ok(reports)
}

/// The night that a moment belongs to.
fn night_of(nightly_at: NightlyAt, now: DateTime<Utc>) -> NaiveDate {
    let time = match nightly_at {
        NightlyAt::Utc(time) => time,
        NightlyAt::Local(_) => NaiveTime::MIN,
    };
    (now - (time - NaiveTime::MIN) - AFTER_NIGHTLY).date_naive()
}

/// A slice, while this process works at it.
struct Slice<'a> {
    db: &'a Db,
    rollup: &'a Rollup,
    config: &'a Config,
    now: DateTime<Utc>,
    taken: Taken,
    begun: Instant,
    budget: Duration,
    shutdown: &'a CancellationToken,
    /// What has been recorded, and how many findings.
    done: Counts,
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
    /// Its round has ended.
    Behind,
    /// The slice has.
    Over,
    /// The slice is somebody else's by now.
    Lost,
}

impl Slice<'_> {
    fn spent(&self) -> Duration {
        self.taken.spent + self.begun.elapsed()
    }

    /// Whether the slice has come to its end. Something is read in every slice: labs that cost
    /// nothing must not use up a small budget.
    fn is_over(&self) -> bool {
        let has_read = self.done.days_audited + self.unrecorded.counts.days_audited > 0;
        (has_read && self.spent() >= self.budget)
            || self.shutdown.is_cancelled()
            || self.kept + self.unrecorded.found.len() >= FOUND_MAX
    }

    /// Goes from lab to lab; false where the slice is somebody else's by now.
    async fn work(&mut self) -> Result<bool, DbError> {
        if self.taken.spent >= self.budget {
            return Ok(true);
        }
        let mut tx = self.db.begin(Mode::Snapshot).await?;
        let mut subjects = scope::subjects(&mut tx, self.rollup).await?;
        tx.commit().await?;
        subjects.retain(|subject| subject.has_rows || subject.standing != Standing::Disabled);
        let subjects: BTreeMap<i64, Subject> = subjects.into_iter().map(|subject| (subject.lab_id, subject)).collect();
        let labs: BTreeSet<i64> = subjects.keys().copied().collect();
        let mut cursors = cursors::reconcile(self.db, &self.rollup.name, &labs).await?;
        // Once a night is enough, whoever did it.
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
            tracing::warn!("the audit ends early: so much has drifted that it wants a look at why, and a rebuild");
        }
        self.record().await
    }

    /// Goes on with a lab's round.
    async fn visit(&mut self, subject: &Subject, mut cursor: Cursor) -> Result<Visit, DbError> {
        if cursor.next_day.is_none() {
            cursor = Cursor { round_at: Some(self.unrecorded.at), audited_at: cursor.audited_at, ..Cursor::default() };
        }
        let mut walk = Walk::new(self.db, self.rollup, subject, self.ranges(subject, cursor.next_day), self.now);
        loop {
            let is_behind = match walk.next().await {
                Ok(Some(step)) => {
                    self.unrecorded.add(subject.lab_id, &mut cursor, step);
                    false
                }
                Ok(None) => true,
                Err(error) if error.is_bad_data() => {
                    cursor.problem = Some(chain(&error));
                    true
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
            // What is left after the last closed day is a glance. It is taken at once, or a lab to
            // which every night adds a day would never come to the end of its round.
            let is_at_end = self.history_end(subject).is_some_and(|end| cursor.next_day > Some(end));
            if self.is_over() && !is_at_end {
                return Ok(Visit::Over);
            }
            if self.unrecorded.since.elapsed() >= RECORD_EVERY && !self.record().await? {
                return Ok(Visit::Lost);
            }
        }
    }

    /// The last day of a lab's history that the audit judges: not those that the nightly run has
    /// just seen to, or will tonight. They are in the next round.
    fn history_end(&self, subject: &Subject) -> Option<NaiveDate> {
        match subject.standing {
            Standing::Kept(zone) => Some(calendar::previous(self.config.nightly_at.due_day(zone, self.now))),
            _ => None,
        }
    }

    /// The days of a lab that are left of its round. Days that are not over have no rows: what is
    /// stored there is out of range.
    fn ranges(&self, subject: &Subject, next_day: Option<NaiveDate>) -> Vec<(NaiveDate, NaiveDate)> {
        let from = next_day.unwrap_or(calendar::EARLIEST.date());
        let end_of_time = calendar::days_after(calendar::EARLIEST.date(), 8900 * 365);
        let ranges = match (&subject.standing, self.history_end(subject)) {
            (Standing::Kept(zone), Some(end)) => {
                let today = calendar::next(zone.yesterday(self.now));
                vec![(from, end), (today.max(from), end_of_time)]
            }
            (Standing::Unusable(_), _) => Vec::new(),
            _ => vec![(from, end_of_time)],
        };
        ranges.into_iter().filter(|(first, last)| first <= last).collect()
    }

    /// Records what has been done, in one transaction; false where the slice is somebody else's.
    async fn record(&mut self) -> Result<bool, DbError> {
        let (taken, spent, unrecorded) = (self.taken, self.spent(), &self.unrecorded);
        let is_ours = retry("record audit", || async {
            let mut tx = self.db.begin(Mode::Write).await?;
            if !slices::step(&mut tx, &taken, LEASE, spent, &unrecorded.counts, &unrecorded.found).await? {
                tx.rollback().await?;
                return Ok::<_, DbError>(false);
            }
            for (lab, cursor) in &unrecorded.cursors {
                cursors::set(&mut tx, &self.rollup.name, *lab, cursor).await?;
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
        self.unrecorded = Unrecorded::begin(self.db).await?;
        Ok(true)
    }

    /// Ends the slice, together with the repair of what it has found; none where it is somebody
    /// else's by now.
    async fn end(&self, is_repaired: bool) -> Result<Option<Option<i64>>, DbError> {
        let ended = retry("end audit", || async {
            let mut tx = self.db.begin(Mode::Write).await?;
            let mut days: BTreeMap<i64, BTreeSet<NaiveDate>> = BTreeMap::new();
            if is_repaired {
                for found in slices::found(&mut tx, self.taken.id).await?.iter().filter(|found| found.is_repairable()) {
                    days.entry(found.lab).or_default().insert(found.day);
                }
            }
            let run = self.repair(days);
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

    fn repair(&self, days: BTreeMap<i64, BTreeSet<NaiveDate>>) -> NewRun {
        NewRun {
            rollup: self.rollup.name.clone(),
            kind: JobKind::Repair,
            reason: format!("repair of what the audit of {} found", self.taken.night),
            requested_by: "scheduler (audit)".to_owned(),
            time_zone: None,
            lab_id: None,
            as_of: self.now,
            labs: days.into_iter().map(|(lab, days)| (lab, days.into_iter().collect())).collect(),
            attempts_max: self.config.attempts_max,
        }
    }
}

impl Unrecorded {
    async fn begin(db: &Db) -> Result<Self, DbError> {
        let now_us = settle::database_now_us(db).await?;
        Ok(Self {
            since: Instant::now(),
            at: DateTime::from_timestamp_micros(now_us).unwrap_or_default(),
            counts: Counts::default(),
            found: Vec::new(),
            cursors: BTreeMap::new(),
        })
    }

    fn add(&mut self, lab: i64, cursor: &mut Cursor, step: Step) {
        cursor.next_day = Some(calendar::next(*step.days.end()));
        self.counts.days_audited += step.days_read;
        let findings = match step.outcome {
            Ok(findings) => findings,
            Err(why) => {
                cursor.problem = Some(format!("{}: {why}", super::adhoc::span(*step.days.start(), *step.days.end())));
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

    /// The lab's round has ended; of a lab that could not be looked at none has.
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
    fn a_night_begins_half_an_hour_after_the_nightly_run() {
        let night = |policy: &str, now: &str| night_of(policy.parse().unwrap(), now.parse().unwrap()).to_string();
        assert_eq!(night("04:00 UTC", "2026-03-10T04:29:59Z"), "2026-03-09");
        assert_eq!(night("04:00 UTC", "2026-03-10T04:30:00Z"), "2026-03-10");
        assert_eq!(night("04:00 UTC", "2026-03-11T04:29:59Z"), "2026-03-10");
        assert_eq!(night("01:30 local", "2026-03-10T00:29:59Z"), "2026-03-09");
        assert_eq!(night("01:30 local", "2026-03-10T00:30:00Z"), "2026-03-10");
    }
}
