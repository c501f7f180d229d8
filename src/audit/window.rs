//! The cause of each differing row, as far as it and the days around it can tell. Pure.
//!
//! What differs is decided by [`difference`] alone, the same that a recompute writes; this module only names the
//! cause. A cause is a finding, not a proof: a row that is missing on one day and superfluous on the next is called a
//! wrong day, whatever the reason.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::NaiveDate;

use super::{
    cause::{Cause, Finding, Limits},
    moved::{self, Deltas},
};
use crate::{
    calendar,
    recompute::{
        diff::{Difference, difference},
        stored::StoredRow,
    },
    rollup::{Rollup, aggregate::Key},
};

/// Neighbouring days of a lab, some of which differ.
#[derive(Debug)]
pub struct Window<'a> {
    rollup: &'a Rollup,
    limits: Limits,
    difference: Difference,
    /// The ids of stored rows whose key has occurred before.
    duplicates: HashSet<i64>,
    /// The stored rows without duplicates, and without rows that have a NULL dimension.
    plain: Vec<StoredRow>,
    /// Rows whose counts are stored on a neighbouring day.
    moved: HashSet<Key>,
    /// Days whose rows would all be right if days began at another moment.
    moved_days: BTreeSet<NaiveDate>,
}

impl<'a> Window<'a> {
    /// Compares, and looks for counts that are stored on a neighbouring day.
    #[must_use]
    pub fn new(rollup: &'a Rollup, limits: Limits, expected: &[(Key, u32)], stored: Vec<StoredRow>) -> Self {
        let duplicates = duplicates(&stored);
        let is_plain = |row: &&StoredRow| row.a.is_some() && row.b.is_some() && !duplicates.contains(&row.id);
        let plain = stored.iter().filter(is_plain).cloned().collect();
        let difference = difference(rollup, expected, stored);
        let (moved, moved_days) = (HashSet::new(), BTreeSet::new());
        let mut window = Self { rollup, limits, difference, duplicates, plain, moved, moved_days };
        window.moved = moved::moved(&window.deltas());
        for neighbour in [calendar::next, calendar::previous] {
            let otherwise: Vec<_> =
                expected.iter().map(|(key, count)| (Key { day: neighbour(key.day), ..*key }, *count)).collect();
            window.suppose(&otherwise);
        }
        window
    }

    /// Tries other expected rows, such as those of days in UTC: a day that has exactly these, next to another day
    /// that differs too, is a wrong day as a whole.
    pub fn suppose(&mut self, otherwise: &[(Key, u32)]) {
        let wrong = differing(&difference(self.rollup, otherwise, self.plain.clone()));
        let drifted: BTreeSet<NaiveDate> = self.deltas().into_values().flat_map(BTreeMap::into_keys).collect();
        let stored: BTreeSet<NaiveDate> = self.plain.iter().map(|row| row.day).collect();
        let beside = |day| drifted.contains(&calendar::next(day)) || drifted.contains(&calendar::previous(day));
        let fits = |day: &&NaiveDate| stored.contains(day) && !wrong.contains(day) && beside(**day);
        self.moved_days.extend(drifted.iter().filter(fits));
    }

    /// Whether anything between `first` and `last` differs that a time zone fault might explain.
    #[must_use]
    pub fn is_unexplained(&self, first: NaiveDate, last: NaiveDate) -> bool {
        let is_open = |cause| matches!(cause, Cause::Ghost | Cause::Missing | Cause::WrongCount);
        self.findings(first, last).iter().any(|finding| is_open(finding.cause))
    }

    /// What differs from `first` to `last`, by day.
    #[must_use]
    pub fn findings(&self, first: NaiveDate, last: NaiveDate) -> Vec<Finding> {
        let supported = |key: &Key, stored, expected, cause| Finding {
            day: key.day,
            event_type: self.rollup.events[key.event].name.clone(),
            dimension_a: Some(key.a),
            dimension_b: Some(key.b),
            stored,
            expected: Some(expected),
            cause: if self.is_moved(key) { Cause::WrongDay } else { cause },
        };
        let difference = &self.difference;
        let missing = difference.insert.iter().map(|(key, count)| supported(key, None, *count, Cause::Missing));
        let wrong = difference.update.iter();
        let wrong = wrong.map(|row| supported(&row.key, Some(row.from), row.to, Cause::WrongCount));
        let superfluous =
            difference.delete.iter().map(|row| Finding::superfluous(self.rollup, row, self.cause_of(row)));
        let all = missing.chain(wrong).chain(superfluous);
        let mut findings: Vec<_> = all.filter(|finding| (first..=last).contains(&finding.day)).collect();
        findings.sort_unstable();
        findings
    }

    fn cause_of(&self, row: &StoredRow) -> Cause {
        if row.a.is_none() || row.b.is_none() {
            Cause::NullDimension
        } else if self.duplicates.contains(&row.id) {
            Cause::Duplicate
        } else if row.key().is_some_and(|key| self.is_moved(&key)) {
            Cause::WrongDay
        } else if self.limits.is_outside(row.day) {
            Cause::OutOfRange
        } else {
            Cause::Ghost
        }
    }

    fn is_moved(&self, key: &Key) -> bool {
        self.moved.contains(key) || self.moved_days.contains(&key.day)
    }

    /// By how much each row is off; not for duplicates and rows without a key.
    fn deltas(&self) -> Deltas {
        let mut deltas = Deltas::new();
        let mut add = |key: Key, delta: i64, is_whole| {
            if delta != 0 {
                let days = deltas.entry((key.event, key.a, key.b)).or_default();
                days.insert(key.day, moved::Delta { by: delta, is_whole });
            }
        };
        for row in self.difference.delete.iter().filter(|row| !self.duplicates.contains(&row.id)) {
            if let Some(key) = row.key() {
                add(key, row.count, true);
            }
        }
        for row in &self.difference.update {
            add(row.key, row.from - i64::from(row.to), false);
        }
        for (key, count) in &self.difference.insert {
            add(*key, -i64::from(*count), true);
        }
        deltas
    }
}

/// The ids of rows whose key is that of an earlier row.
fn duplicates(stored: &[StoredRow]) -> HashSet<i64> {
    let mut seen = HashSet::new();
    let mut duplicates = HashSet::new();
    for row in stored {
        if !seen.insert((row.day, row.a, row.b, &row.event)) {
            duplicates.insert(row.id);
        }
    }
    duplicates
}

/// The days on which something differs.
fn differing(difference: &Difference) -> BTreeSet<NaiveDate> {
    let missing = difference.insert.iter().map(|(key, _)| key.day);
    let wrong = difference.update.iter().map(|row| row.key.day);
    missing.chain(wrong).chain(difference.delete.iter().map(|row| row.day)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        recompute::stored::StoredEvent,
        rollup::{HISTORICAL_SUMMARY, Rollups},
    };

    /// A day of March 2026. The lab's first bill is on the 2nd, and its yesterday is the 20th.
    fn day(day: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 3, day).unwrap()
    }

    const EVENT: usize = 0;
    const OTHER_EVENT: usize = 1;

    type Wanted = (u32, usize, i64, u32);
    type Stored = (u32, Option<usize>, Option<i64>, i64);
    type Case<'a> = (&'a [Wanted], &'a [Stored], &'a [(u32, Cause)]);

    /// The causes found for these expected and stored rows (day, event, dimension, count), by day.
    fn causes(expected: &[Wanted], stored: &[Stored]) -> Vec<(u32, Cause)> {
        causes_supposing(expected, stored, &[])
    }

    fn causes_supposing(expected: &[Wanted], stored: &[Stored], otherwise: &[Wanted]) -> Vec<(u32, Cause)> {
        use chrono::Datelike as _;
        let rollups = Rollups::load(None).unwrap();
        let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
        let rows = |wanted: &[Wanted]| {
            let key = |(on, event, a, count): &Wanted| (Key { day: day(*on), a: *a, b: 0, event: *event }, *count);
            let mut rows: Vec<_> = wanted.iter().map(key).collect();
            rows.sort_unstable();
            rows
        };
        let stored = stored.iter().enumerate().map(|(id, (on, event, a, count))| StoredRow {
            id: id as i64,
            day: day(*on),
            a: *a,
            b: Some(0),
            event: event.map_or_else(|| StoredEvent::new(rollup, "Branch_Bill"), StoredEvent::Known),
            count: *count,
        });
        let limits = Limits { first: Some(day(2)), last: day(20) };
        let mut window = Window::new(rollup, limits, &rows(expected), stored.collect());
        window.suppose(&rows(otherwise));
        let findings = window.findings(day(1), day(31));
        findings.iter().map(|finding| (finding.day.day(), finding.cause)).collect()
    }

    fn has(on: u32, a: i64, count: i64) -> Stored {
        (on, Some(EVENT), Some(a), count)
    }

    fn wants(on: u32, a: i64, count: u32) -> Wanted {
        (on, EVENT, a, count)
    }

    #[test]
    fn each_cause_has_its_name() {
        use Cause::*;
        let cases: &[Case<'_>] = &[
            (&[wants(5, 1, 3)], &[has(5, 1, 3)], &[]),
            (&[], &[has(5, 1, 3)], &[(5, Ghost)]),
            (&[wants(5, 1, 3)], &[], &[(5, Missing)]),
            (&[wants(5, 1, 3)], &[has(5, 1, 4)], &[(5, WrongCount)]),
            // The whole row on the next day, on the day before, and a part of it.
            (&[wants(5, 1, 3)], &[has(6, 1, 3)], &[(5, WrongDay), (6, WrongDay)]),
            (&[wants(5, 1, 3)], &[has(4, 1, 3)], &[(4, WrongDay), (5, WrongDay)]),
            (&[wants(5, 1, 3), wants(6, 1, 3)], &[has(5, 1, 1), has(6, 1, 5)], &[(5, WrongDay), (6, WrongDay)]),
            // Another count, not a neighbouring day, another dimension.
            (&[wants(5, 1, 3)], &[has(6, 1, 4)], &[(5, Missing), (6, Ghost)]),
            (&[wants(5, 1, 3)], &[has(7, 1, 3)], &[(5, Missing), (7, Ghost)]),
            (&[wants(5, 1, 3)], &[has(6, 2, 3)], &[(5, Missing), (6, Ghost)]),
            // Before the first bill, or today; but a wrong day takes precedence.
            (&[wants(2, 1, 3)], &[has(2, 1, 3), has(1, 1, 3)], &[(1, OutOfRange)]),
            (&[], &[has(21, 1, 3)], &[(21, OutOfRange)]),
            (&[wants(2, 1, 3)], &[has(1, 1, 3)], &[(1, WrongDay), (2, WrongDay)]),
            // A NULL dimension, even if there is no other row; a key that is stored twice.
            (&[], &[(5, Some(EVENT), None, 3)], &[(5, NullDimension)]),
            (&[wants(5, 1, 3)], &[has(5, 1, 3), has(5, 1, 3)], &[(5, Duplicate)]),
            (&[], &[has(5, 1, 3), has(5, 1, 3)], &[(5, Ghost), (5, Duplicate)]),
            // Another spelling instead of the right one.
            (&[wants(5, 1, 3)], &[(5, None, Some(1), 3)], &[(5, Ghost), (5, Missing)]),
        ];
        for (expected, stored, causes_wanted) in cases {
            assert_eq!(causes(expected, stored), *causes_wanted, "{expected:?} {stored:?}");
        }
    }

    #[test]
    fn a_day_that_is_right_by_other_bounds_is_a_wrong_day_as_a_whole() {
        use Cause::*;
        let expected = [wants(5, 1, 9), wants(5, 2, 4), wants(6, 1, 9), (6, OTHER_EVENT, 7, 2)];
        let stored = [has(5, 1, 7), has(5, 2, 5), has(6, 1, 8), has(6, 3, 3), (6, Some(OTHER_EVENT), Some(7), 2)];
        let in_utc = [wants(5, 1, 7), wants(5, 2, 5), wants(6, 1, 8), wants(6, 3, 3), (6, OTHER_EVENT, 7, 2)];
        let wrong_day = [(5, WrongDay), (5, WrongDay), (6, WrongDay), (6, WrongDay)];
        assert_eq!(causes_supposing(&expected, &stored, &in_utc), wrong_day);
        let mut almost = stored;
        almost[3].3 = 4;
        let found = causes_supposing(&expected, &almost, &in_utc);
        assert_eq!(found, [(5, WrongDay), (5, WrongDay), (6, WrongCount), (6, Ghost)]);
        // A single day may look like its neighbour by chance.
        let lonely = causes_supposing(&[wants(5, 1, 9), wants(5, 2, 4)], &[has(5, 1, 9)], &[wants(5, 1, 9)]);
        assert_eq!(lonely, [(5, Missing)]);
    }

    #[test]
    fn a_history_that_is_one_day_off_is_on_the_wrong_day() {
        let expected: Vec<_> = (5..10).flat_map(|on| [wants(on, 1, on), wants(on, 2, 30 - 2 * on)]).collect();
        let stored: Vec<_> = expected.iter().map(|(on, _, a, count)| has(on + 1, *a, i64::from(*count))).collect();
        let found = causes(&expected, &stored);
        assert_eq!(found.len(), 12);
        assert!(found.iter().all(|(_, cause)| *cause == Cause::WrongDay), "{found:?}");
    }
}
