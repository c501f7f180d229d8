//! Walking over a lab's days: a few at a time, each few read from one consistent snapshot.
//!
//! Days on which neither the source nor the table has anything are skipped by index, so a bill from 1970 costs
//! nothing. Memory holds at most the rows of [`DAYS_A_SPAN`] days, or, if they differ, of those and of [`MARGIN`]
//! days on either side.
//!
//! How it fails: rows that cannot be read (a count that does not fit, an invalid flag) are a problem of their day,
//! which is found by continuing one day at a time; the other days are compared.

use std::ops::RangeInclusive;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

use super::{
    cause::{self, Finding},
    scope::{self, Standing, Subject},
    window::Window,
};
use crate::{
    args,
    calendar::{self, Zone},
    db::{Db, DbError, ErrorKind, Mode, Tx, retry},
    error::chain,
    recompute::{self, RecomputeError, Sides, Target, diff, shrink::MaxShrink, stored},
    rollup::{
        Rollup,
        aggregate::DaySpan,
        facts::{self, Locking},
    },
    statement,
};

statement!(ZONE_BUILT, "zone of history", "SELECT time_zone FROM daymend_labs WHERE rollup = ? AND lab_id = ?");

/// How many neighbouring days share one read; the same as in a recompute.
pub const DAYS_A_SPAN: u32 = 7;

/// How many days on either side of differing days are read to find the cause.
const MARGIN: u32 = 3;

/// The days of one lab, as they are compared.
#[derive(Debug)]
pub struct Walk<'a> {
    db: &'a Db,
    rollup: &'a Rollup,
    subject: &'a Subject,
    as_of: DateTime<Utc>,
    /// The ranges still to be compared, the next one last.
    ranges: Vec<(NaiveDate, NaiveDate)>,
    /// Up to this day, days are compared one at a time.
    narrow_until: Option<NaiveDate>,
}

/// The result of comparing some days.
#[derive(Debug)]
pub struct Step {
    /// The days that are done, including those with nothing to compare.
    pub days: RangeInclusive<NaiveDate>,
    /// What differs on them, or why they could not be compared.
    pub outcome: Result<Vec<Finding>, String>,
    /// How many days were read, not counting skipped ones.
    pub days_read: u64,
    /// How many stored rows were held in memory at once.
    pub rows_held: usize,
}

/// The result of comparing some days, and how many rows that took.
#[derive(Debug, Default)]
struct Compared {
    findings: Vec<Finding>,
    rows_held: usize,
}

impl<'a> Walk<'a> {
    /// Walks over the days of these ranges, which must be in order and not overlap, as of that moment.
    #[must_use]
    pub fn new(
        db: &'a Db,
        rollup: &'a Rollup,
        subject: &'a Subject,
        mut ranges: Vec<(NaiveDate, NaiveDate)>,
        as_of: DateTime<Utc>,
    ) -> Self {
        ranges.reverse();
        Self { db, rollup, subject, as_of, ranges, narrow_until: None }
    }

    /// Compares the next days; `None` at the end.
    ///
    /// # Errors
    /// If the database is unreachable, or the lab as a whole cannot be read ([`is_of_the_lab`]): the walk of this lab
    /// is then over.
    pub async fn next(&mut self) -> Result<Option<Step>, DbError> {
        while let Some((from, last)) = self.ranges.pop() {
            let span = retry("audit next days", || self.next_span(from, last)).await?;
            let Some((first, end)) = span else {
                return Ok(Some(Step { days: from..=last, outcome: Ok(Vec::new()), days_read: 0, rows_held: 0 }));
            };
            let compared = match retry("audit", || self.compare(first, end)).await {
                Err(error) if is_of_these_days(&error, self.db).await => Err(chain(&error)),
                Err(RecomputeError::Database(error)) => return Err(error),
                Err(error) => Err(chain(&error)),
                Ok(compared) => Ok(compared),
            };
            if compared.is_err() && first < end {
                self.narrow_until = Some(end);
                self.ranges.push((from, last));
                continue;
            }
            if compared.is_err() && from < first {
                // The days before have nothing to compare, and nothing to do with the problem of this one.
                self.ranges.push((first, last));
                let days = from..=calendar::previous(first);
                return Ok(Some(Step { days, outcome: Ok(Vec::new()), days_read: 0, rows_held: 0 }));
            }
            if end < last {
                self.ranges.push((calendar::next(end), last));
            }
            let rows_held = compared.as_ref().map_or(0, |compared| compared.rows_held);
            let outcome = compared.map(|compared| compared.findings);
            let days_read = super::plan::length(&(first, end));
            return Ok(Some(Step { days: from..=end, outcome, days_read, rows_held }));
        }
        Ok(None)
    }

    /// The next few days from `from` on that have facts or stored rows.
    async fn next_span(&self, from: NaiveDate, last: NaiveDate) -> Result<Option<(NaiveDate, NaiveDate)>, DbError> {
        let mut tx = self.db.begin(Mode::Snapshot).await?;
        let first = scope::next_day(&mut tx, self.rollup, self.subject, from, self.as_of).await?;
        tx.commit().await?;
        let first = first.filter(|first| *first <= last);
        let days = |first: NaiveDate| match self.narrow_until {
            Some(until) if first <= until => 1,
            _ => DAYS_A_SPAN,
        };
        Ok(first.map(|first| (first, calendar::days_after(first, days(first) - 1).min(last))))
    }

    async fn compare(&self, first: NaiveDate, last: NaiveDate) -> Result<Compared, RecomputeError> {
        let mut tx = self.db.begin(Mode::Snapshot).await?;
        let compared = match (&self.subject.standing, self.subject.standing.superfluous()) {
            (_, Some(cause)) => {
                let days = (first, last);
                let rows = stored::read(&mut tx, self.rollup, self.subject.lab_id, days, 0).await?;
                let rows_held = rows.len();
                Compared { findings: cause::all_superfluous(self.rollup, rows, cause), rows_held }
            }
            (Standing::Kept(_), None) => self.compare_with_source(&mut tx, first, last).await?,
            (_, None) => Compared::default(),
        };
        tx.commit().await?;
        Ok(compared)
    }

    async fn compare_with_source(
        &self,
        tx: &mut Tx,
        first: NaiveDate,
        last: NaiveDate,
    ) -> Result<Compared, RecomputeError> {
        let lab_id = self.subject.lab_id;
        let target = Target { lab_id, first, last, as_of: self.as_of, max_shrink: MaxShrink::OFF };
        let Sides { expected, stored, .. } = recompute::read(tx, self.rollup, target).await?;
        let rows_held = stored.len();
        if diff::difference(self.rollup, &expected, stored).is_empty() {
            return Ok(Compared { findings: Vec::new(), rows_held });
        }
        // Read again from the same snapshot, with the days around: the differences stay the same.
        let (from, until) = (calendar::days_before(first, MARGIN), calendar::days_after(last, MARGIN));
        let around = (from.max(calendar::FIRST_DAY), until.min(calendar::LAST_DAY));
        match self.explain(tx, target, around).await {
            Err(error) if is_bad_data(&error) => {}
            Ok(compared) if compared.findings.is_empty() => {}
            explained => return explained,
        }
        self.explain(tx, target, (first, last)).await
    }

    /// What differs on the days of `target`, and why, as far as the days from `from` to `until` can tell.
    async fn explain(
        &self,
        tx: &mut Tx,
        target: Target,
        (from, until): (NaiveDate, NaiveDate),
    ) -> Result<Compared, RecomputeError> {
        let Target { lab_id, first, last, .. } = target;
        let Sides { zone, expected, stored } =
            recompute::read(tx, self.rollup, Target { first: from, last: until, ..target }).await?;
        let limits = scope::limits(tx, self.rollup, lab_id, zone, self.as_of).await?;
        let rows_held = stored.len();
        let mut window = Window::new(self.rollup, limits, &expected, stored);
        let built = self.zone_built(tx).await?.filter(|built| *built != zone);
        let built = built.map(|built| DaySpan::new(built, from, until));
        for days in built.into_iter().chain(other_bounds(zone, from, until)) {
            if !window.is_unexplained(first, last) {
                break;
            }
            match facts::count(tx, self.rollup, lab_id, &days, Locking::None).await {
                Err(error) if error.is_bad_data() => {}
                otherwise => window.suppose(&otherwise?.into_rows()),
            }
        }
        Ok(Compared { findings: window.findings(first, last), rows_held })
    }

    /// The zone that the history was built with, if it is known; the lab may have left it since. It is unknown before
    /// `daymend migrate`, and to a user who may only read the source and the summary.
    async fn zone_built(&self, tx: &mut Tx) -> Result<Option<Zone>, DbError> {
        let args = args![self.rollup.name.as_str(), self.subject.lab_id];
        let name = match tx.fetch_optional(&ZONE_BUILT, args, |row| row.text_or_null(0)).await {
            Err(error) if error.kind == ErrorKind::Definition || error.is_denied() => None,
            name => name?.flatten(),
        };
        Ok(name.and_then(|name| Zone::parse(Some(&name)).ok()))
    }
}

/// The usual mistakes about where days begin: in UTC, at one of the zone's two offsets all year round, or an hour off.
fn other_bounds(zone: Zone, first: NaiveDate, last: NaiveDate) -> Vec<DaySpan> {
    let utc = Zone::UTC;
    let behind_utc = |day| zone.first_instant(day) - utc.first_instant(day);
    let (before, after) = (behind_utc(first), behind_utc(last));
    let mut bounds = vec![DaySpan::new(utc, first, last)];
    if before != after {
        bounds.extend([before, after].map(|offset| DaySpan::new(utc, first, last).shifted(offset)));
    }
    bounds.extend([1, -1].map(|hours| DaySpan::new(zone, first, last).shifted(TimeDelta::hours(hours))));
    bounds
}

/// Whether an error concerns only these days, and not the database as a whole.
async fn is_of_these_days(error: &RecomputeError, db: &Db) -> bool {
    match error {
        RecomputeError::Database(error) => is_of_the_lab(error, db).await,
        _ => true,
    }
}

/// Whether an error concerns the data of one lab, and not the database as a whole. A statement that takes too long
/// concerns the lab if the database still answers others.
pub async fn is_of_the_lab(error: &DbError, db: &Db) -> bool {
    error.kind == ErrorKind::Other || db.answers_others(error).await
}

fn is_bad_data(error: &RecomputeError) -> bool {
    match error {
        RecomputeError::Database(error) => error.is_bad_data(),
        RecomputeError::Overflow { .. } => true,
        _ => false,
    }
}
