//! Comparing the days of a lab with the source.

use std::collections::BTreeSet;

use chrono::NaiveDate;

use super::{
    RecomputeError, Streak, Target,
    diff::{Difference, difference},
    digest,
    shrink::shrinking,
    stored::{self, StoredRow},
};
use crate::{
    calendar::Zone,
    db::{DbError, Tx},
    rollup::{
        Rollup,
        aggregate::{DaySpan, Key},
        facts::{self, Locking},
        source,
    },
};

/// The two sides of a comparison.
#[derive(Debug)]
pub struct Sides {
    /// The lab's time zone.
    pub zone: Zone,
    /// The rows that the source supports, in key order.
    pub expected: Vec<(Key, u32)>,
    /// The stored rows.
    pub stored: Vec<StoredRow>,
}

/// Reads both sides of the comparison.
pub async fn read(tx: &mut Tx, rollup: &Rollup, target: Target) -> Result<Sides, RecomputeError> {
    let zone = zone(tx, rollup, target.lab_id).await?;
    let expected = expected(tx, rollup, target, zone, Locking::None).await?;
    let stored = stored::read(tx, rollup, target.lab_id, (target.first, target.last), expected.len()).await?;
    Ok(Sides { zone, expected, stored })
}

/// What has to change on the days of `target`.
pub(super) async fn look(
    tx: &mut Tx,
    rollup: &Rollup,
    target: Target,
    streak: &Streak,
) -> Result<Difference, RecomputeError> {
    let lab_id = target.lab_id;
    let zone = zone(tx, rollup, lab_id).await?;
    let expected = expected(tx, rollup, target, zone, Locking::None).await?;
    let suspect =
        if streak.is_wrong() { Some(Suspect::all(target)) } else { suspect(tx, rollup, target, &expected).await? };
    let Some(suspect) = suspect else {
        return Ok(Difference::default());
    };
    let days = (suspect.first, suspect.last);
    let expected_of_days = of_days(&expected, days);
    let stored = match suspect.is_stored {
        true => stored::read(tx, rollup, lab_id, days, expected_of_days.len()).await?,
        false => Vec::new(),
    };
    let found = difference(rollup, expected_of_days, stored);
    streak.goes_on(&found);
    check_shrink(tx, rollup, target, zone, &expected, &found).await?;
    Ok(found)
}

/// Checks that the facts of the day on which rows were inserted, which is one day per correction, still give those
/// rows, and locks the facts; a conflict if they do not, or if somebody is changing them.
///
/// Only inserted rows are checked: concurrent changes of facts affect the other rows as if made after the correction.
pub(super) async fn hold_facts(
    tx: &mut Tx,
    rollup: &Rollup,
    target: Target,
    written: &Difference,
) -> Result<(), RecomputeError> {
    let Some(&(Key { day, .. }, _)) = written.insert.first() else { return Ok(()) };
    let target = Target { first: day, last: day, ..target };
    let zone = zone(tx, rollup, target.lab_id).await?;
    let expected = expected(tx, rollup, target, zone, Locking::Shared).await?;
    // Both are in key order, so one pass is enough.
    let mut expected = expected.iter();
    let is_held = written.insert.iter().all(|row| expected.any(|held| held == row));
    if is_held { Ok(()) } else { Err(DbError::changed("facts of inserted rows").into()) }
}

/// The days from the first to the last that may be wrong.
struct Suspect {
    first: NaiveDate,
    last: NaiveDate,
    /// Whether any of these days may have stored rows.
    is_stored: bool,
}

impl Suspect {
    fn all(target: Target) -> Self {
        Self { first: target.first, last: target.last, is_stored: true }
    }
}

/// Which days may be wrong, judging by their digests; `None` if all are right.
async fn suspect(
    tx: &mut Tx,
    rollup: &Rollup,
    target: Target,
    expected: &[(Key, u32)],
) -> Result<Option<Suspect>, RecomputeError> {
    let Some(stored) = digest::stored(tx, rollup, target.lab_id, (target.first, target.last)).await? else {
        return Ok(Some(Suspect::all(target)));
    };
    let expected = digest::expected(rollup, expected);
    let days: BTreeSet<NaiveDate> = expected.keys().chain(stored.keys()).copied().collect();
    let mut wrong = days.into_iter().filter(|day| expected.get(day) != stored.get(day));
    let Some(first) = wrong.next() else { return Ok(None) };
    let last = wrong.next_back().unwrap_or(first);
    Ok(Some(Suspect { first, last, is_stored: stored.range(first..=last).next().is_some() }))
}

/// The part of `rows`, which are in key order, from the day `first` to the day `last`.
fn of_days(rows: &[(Key, u32)], (first, last): (NaiveDate, NaiveDate)) -> &[(Key, u32)] {
    let from = rows.partition_point(|(key, _)| key.day < first);
    let until = rows.partition_point(|(key, _)| key.day <= last);
    &rows[from..until]
}

async fn zone(tx: &mut Tx, rollup: &Rollup, lab_id: i64) -> Result<Zone, RecomputeError> {
    let lab = source::lab(tx, rollup, lab_id).await?.ok_or(RecomputeError::NoSuchLab(lab_id))?;
    lab.zone().map_err(|source| RecomputeError::Zone { lab_id, source })
}

/// Refuses a difference that would remove too much of a day.
async fn check_shrink(
    tx: &mut Tx,
    rollup: &Rollup,
    target: Target,
    zone: Zone,
    expected: &[(Key, u32)],
    difference: &Difference,
) -> Result<(), RecomputeError> {
    // Days that are not over are expected to be empty.
    let last = zone.yesterday(target.as_of);
    if shrinking(rollup, expected, difference, last, target.max_shrink, |_| false).is_none() {
        return Ok(());
    }
    let explained = self::expected(tx, &rollup.without_conditions(), target, zone, Locking::None).await?;
    let is_explained =
        |row: &StoredRow| row.key().is_none_or(|key| explained.binary_search_by_key(&key, |(key, _)| *key).is_ok());
    match shrinking(rollup, expected, difference, last, target.max_shrink, is_explained) {
        Some(shrinking) => Err(shrinking.error(target.lab_id, target.max_shrink)),
        None => Ok(()),
    }
}

/// The rows that the source supports, in key order.
async fn expected(
    tx: &mut Tx,
    rollup: &Rollup,
    target: Target,
    zone: Zone,
    locking: Locking,
) -> Result<Vec<(Key, u32)>, RecomputeError> {
    let lab_id = target.lab_id;
    let last = target.last.min(zone.yesterday(target.as_of));
    if last < target.first {
        return Ok(Vec::new());
    }
    let days = DaySpan::new(zone, target.first, last);
    let rows = facts::count(tx, rollup, lab_id, &days, locking).await?.into_rows();
    match rows.iter().find(|(_, count)| i32::try_from(*count).is_err()) {
        Some((key, count)) => Err(RecomputeError::Overflow { lab_id, day: key.day, count: *count }),
        None => Ok(rows),
    }
}
