//! The difference between the expected and the stored rows. Pure.

use std::collections::BTreeSet;

use chrono::NaiveDate;

use crate::rollup::{Rollup, aggregate::Key};

use super::stored::{StoredEvent, StoredRow};

/// What has to change so that the stored rows equal the expected ones.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Expected rows that are not stored, in key order.
    pub insert: Vec<(Key, u32)>,
    /// Stored rows with the wrong count, in the order they were read.
    pub update: Vec<Update>,
    /// Stored rows that the source does not support, or duplicates, in the order they were read.
    pub delete: Vec<StoredRow>,
    /// Days with at least one correct stored row; may contain duplicates.
    pub confirmed: Vec<NaiveDate>,
}

/// A stored row with the wrong count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Update {
    /// Its primary key.
    pub id: i64,
    /// Its key.
    pub key: Key,
    /// The count it has.
    pub from: i64,
    /// The right count.
    pub to: u32,
}

impl Difference {
    /// Whether nothing has to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.insert.is_empty() && self.update.is_empty() && self.delete.is_empty()
    }

    /// The day that ends a correction: the first with missing rows, or else the last that differs. A correction
    /// inserts at most one day's rows, because inserting takes long, both for users who want to change the day's
    /// facts and for a rollback.
    pub(super) fn last_of_correction(&self) -> Option<NaiveDate> {
        let changed = self.update.iter().map(|update| update.key.day).chain(self.delete.iter().map(|row| row.day));
        self.insert.first().map(|(key, _)| key.day).or_else(|| changed.max())
    }

    /// Removes and returns the part for the days up to `last`.
    pub(super) fn take_until(&mut self, last: NaiveDate) -> Self {
        Self {
            insert: self.insert.extract_if(.., |(key, _)| key.day <= last).collect(),
            update: self.update.extract_if(.., |update| update.key.day <= last).collect(),
            delete: self.delete.extract_if(.., |row| row.day <= last).collect(),
            confirmed: self.confirmed.extract_if(.., |day| *day <= last).collect(),
        }
    }

    /// The rows to insert, in two parts: those whose unique key is free, and those whose key only becomes free when
    /// another row is deleted (under the usual collations `Branch_Bill` and `branch_bill` are the same key).
    pub(super) fn insertable(&self, rollup: &Rollup) -> [Vec<(Key, u32)>; 2] {
        let takes = |row: &StoredRow, key: &Key| {
            (row.day, row.a, row.b) == (key.day, Some(key.a), Some(key.b))
                && is_spelled(&rollup.events[key.event].name, row.event.name(rollup))
        };
        let spelled: Vec<&StoredRow> =
            self.delete.iter().filter(|row| matches!(row.event, StoredEvent::Other(_))).collect();
        let is_free = |(key, _): &(Key, u32)| !spelled.iter().any(|row| takes(row, key));
        let (free, taken) = self.insert.iter().partition(|row| is_free(row));
        [free, taken]
    }

    /// The days that had rows, and wrong ones: a day without stored rows has not drifted.
    #[must_use]
    pub fn drifted(&self) -> BTreeSet<NaiveDate> {
        let updated = self.update.iter().map(|update| update.key.day);
        let mut drifted: BTreeSet<NaiveDate> = updated.chain(self.delete.iter().map(|row| row.day)).collect();
        let confirmed: BTreeSet<NaiveDate> = self.confirmed.iter().copied().collect();
        drifted.extend(self.insert.iter().map(|(key, _)| key.day).filter(|day| confirmed.contains(day)));
        drifted
    }
}

/// Compares `expected`, which must be in key order and without duplicates, to `stored`.
///
/// Stored rows of event types that the rollup does not define belong to somebody else and are kept. A stored row with
/// a NULL dimension matches nothing, and is deleted.
#[must_use]
pub fn difference(rollup: &Rollup, expected: &[(Key, u32)], stored: Vec<StoredRow>) -> Difference {
    let mut found = vec![false; expected.len()];
    let mut difference = Difference::default();
    let mut next = 0;
    for row in stored {
        if let StoredEvent::Other(event) = &row.event
            && !is_ours(rollup, event)
        {
            continue;
        }
        // Stored rows mostly come in key order too, so try the next expected row first.
        let place = row.key().and_then(|key| match expected.get(next) {
            Some((expected, _)) if *expected == key => Some(next),
            _ => expected.binary_search_by_key(&key, |(key, _)| *key).ok(),
        });
        match place {
            Some(place) if !found[place] => {
                found[place] = true;
                next = place + 1;
                let (key, count) = expected[place];
                if row.count != i64::from(count) {
                    difference.update.push(Update { id: row.id, key, from: row.count, to: count });
                } else if difference.confirmed.last() != Some(&key.day) {
                    difference.confirmed.push(key.day);
                }
            }
            _ => difference.delete.push(row),
        }
    }
    difference.insert = expected.iter().zip(found).filter(|(_, found)| !found).map(|(row, _)| *row).collect();
    difference
}

/// Whether a stored event type is one of the rollup's, even if spelled differently.
fn is_ours(rollup: &Rollup, event: &str) -> bool {
    rollup.events.iter().any(|known| is_spelled(&known.name, event))
}

/// Whether `event` and `name` are the same under the usual collations.
fn is_spelled(name: &str, event: &str) -> bool {
    name.eq_ignore_ascii_case(event.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollup::{HISTORICAL_SUMMARY, Rollups};

    fn day() -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 3, 15).unwrap()
    }

    fn key(a: i64) -> Key {
        Key { day: day(), a, b: 0, event: 0 }
    }

    fn row(rollup: &Rollup, id: i64, a: Option<i64>, event: &str, count: i64) -> StoredRow {
        StoredRow { id, day: day(), a, b: Some(0), event: StoredEvent::new(rollup, event), count }
    }

    #[test]
    fn each_kind_of_difference_is_found() {
        let rollups = Rollups::load(None).unwrap();
        let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
        let expected = [(key(1), 5), (key(2), 6), (key(3), 7)];
        let stored = vec![
            row(rollup, 10, Some(1), "branch_bill", 5),
            row(rollup, 11, Some(2), "branch_bill", 9),
            row(rollup, 12, Some(4), "branch_bill", 1),
            row(rollup, 13, None, "branch_bill", 1),
            row(rollup, 14, Some(1), "branch_bill", 5),
            row(rollup, 15, Some(1), "Branch_Bill", 5),
            row(rollup, 16, Some(1), "somebody_elses", 5),
        ];
        let found = difference(rollup, &expected, stored);
        assert_eq!(found.insert, [(key(3), 7)]);
        assert_eq!(found.update, [Update { id: 11, key: key(2), from: 9, to: 6 }]);
        let deleted: Vec<_> = found.delete.iter().map(|row| row.id).collect();
        assert_eq!(deleted, [12, 13, 14, 15]);
    }

    #[test]
    fn a_day_without_rows_has_not_drifted() {
        let rollups = Rollups::load(None).unwrap();
        let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
        let drifted = |stored| difference(rollup, &[(key(1), 5), (key(2), 6)], stored).drifted();
        let wrong = BTreeSet::from([day()]);
        assert_eq!(drifted(vec![]), BTreeSet::new());
        assert_eq!(drifted(vec![row(rollup, 10, Some(1), "branch_bill", 5)]), wrong, "one is missing beside it");
        assert_eq!(drifted(vec![row(rollup, 10, Some(1), "branch_bill", 4)]), wrong, "a wrong count");
        assert_eq!(drifted(vec![row(rollup, 10, Some(9), "branch_bill", 4)]), wrong, "a ghost");
    }

    #[test]
    fn each_day_that_lacks_a_row_beside_right_ones_has_drifted() {
        let rollups = Rollups::load(None).unwrap();
        let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
        let [one, other, without] = [15, 16, 17].map(|day| NaiveDate::from_ymd_opt(2026, 3, day).unwrap());
        let expected: Vec<_> =
            [one, other, without].into_iter().flat_map(|day| [1, 2].map(|a| (Key { day, ..key(a) }, 5))).collect();
        let right = |id, day| StoredRow { day, ..row(rollup, id, Some(1), "branch_bill", 5) };
        let found = difference(rollup, &expected, vec![right(10, one), right(11, other)]);
        assert_eq!(found.drifted(), BTreeSet::from([one, other]), "of the third nothing was stored");
    }

    #[test]
    fn equal_rows_differ_in_nothing() {
        let rollups = Rollups::load(None).unwrap();
        let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
        let stored = vec![row(rollup, 10, Some(1), "branch_bill", 5)];
        assert!(difference(rollup, &[(key(1), 5)], stored).is_empty());
    }
}
