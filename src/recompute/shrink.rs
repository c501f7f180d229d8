//! Guarding against days that would lose too many rows at once.
//!
//! A source that has lost rows, or a replica that lags behind, looks like a day on which little happened. Correcting
//! the summary would spread the loss. So if more than a given share of a day's rows would vanish, the facts are read
//! again without their conditions: rows explained by facts that no longer count (cancelled bills) may vanish; if too
//! many others remain, the job is discarded, with the reason, for a person to decide. Only the net loss counts: a
//! bill that moved to another organisation removes some rows and adds others, or is counted in others. A handful of
//! bills is no lost source, but may be all that a day has, and one bill with its tests and samples makes many rows:
//! fewer than five lost facts of a kind never stop a job.

use std::{collections::HashMap, fmt, str::FromStr};

use chrono::NaiveDate;

use super::{
    RecomputeError,
    diff::Difference,
    stored::{StoredEvent, StoredRow},
};
use crate::rollup::{Rollup, aggregate::Key};

/// The share of a day's rows, in percent, that may vanish at once; `None` for any share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct MaxShrink(pub Option<u8>);

impl MaxShrink {
    /// All rows may vanish.
    pub const OFF: Self = Self(None);

    /// What holds where nobody has said anything else.
    pub const GUARD: Self = Self(Some(50));
}

impl FromStr for MaxShrink {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::OFF);
        }
        let percent = text.strip_suffix('%').and_then(|number| number.parse().ok()).filter(|percent| *percent <= 100);
        percent.map(|percent| Self(Some(percent))).ok_or_else(|| "expected a share such as 50%, or off".to_owned())
    }
}

impl fmt::Display for MaxShrink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(percent) => write!(f, "{percent}%"),
            None => f.write_str("off"),
        }
    }
}

/// The minimum number of facts of a kind (bills, say) that a day has to lose to be refused.
const FACTS_MIN: i64 = 5;

/// Text that only the error of a job discarded for this reason contains.
pub const WOULD_VANISH: &str = "would vanish";

/// A day that would lose too many rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shrinking {
    /// The day.
    pub day: NaiveDate,
    /// How many rows it would lose, net of those it would gain.
    pub vanishing: usize,
    /// How many stored rows it has.
    pub stored: usize,
}

impl Shrinking {
    /// The error that ends the job.
    #[must_use]
    pub fn error(self, lab_id: i64, max: MaxShrink) -> RecomputeError {
        RecomputeError::Shrinks { lab_id, shrinking: self, max }
    }
}

/// The first day up to `last` that would lose more than `max` of its rows; rows for which `is_explained` holds do not
/// count as lost.
#[must_use]
pub fn shrinking(
    rollup: &Rollup,
    expected: &[(Key, u32)],
    difference: &Difference,
    last: NaiveDate,
    max: MaxShrink,
    is_explained: impl Fn(&StoredRow) -> bool,
) -> Option<Shrinking> {
    let percent = i64::from(max.0?);
    let mut days: Vec<NaiveDate> = difference.delete.iter().map(|row| row.day).filter(|day| *day <= last).collect();
    days.sort_unstable();
    days.dedup();
    days.into_iter().find_map(|day| {
        let losses = losses(expected, difference, day, &is_explained);
        let (vanishing, stored) = losses
            .values()
            .fold((0, 0), |(vanishing, stored), loss| (vanishing + loss.vanishing, stored + loss.stored));
        let is_shrinking = vanishing * 100 > percent * stored && facts_lost(rollup, &losses, percent) >= FACTS_MIN;
        let count = |rows: i64| usize::try_from(rows).unwrap_or(0);
        is_shrinking.then(|| Shrinking { day, vanishing: count(vanishing), stored: count(stored) })
    })
}

/// What a day would lose of one event type, net of what it would gain.
#[derive(Debug, Default)]
struct Loss {
    /// Rows to be deleted, minus those to be inserted.
    vanishing: i64,
    /// Stored rows.
    stored: i64,
    /// The counts of the rows to be deleted, minus the counts of new rows and the increases of others.
    facts: i64,
}

/// What a day would lose of each event type.
fn losses(
    expected: &[(Key, u32)],
    difference: &Difference,
    day: NaiveDate,
    is_explained: impl Fn(&StoredRow) -> bool,
) -> HashMap<StoredEvent, Loss> {
    let mut losses: HashMap<StoredEvent, Loss> = HashMap::new();
    // Expected rows that are not to be inserted are already stored.
    for (key, _) in expected.iter().filter(|(key, _)| key.day == day) {
        losses.entry(StoredEvent::Known(key.event)).or_default().stored += 1;
    }
    for (key, count) in difference.insert.iter().filter(|(key, _)| key.day == day) {
        let loss = losses.entry(StoredEvent::Known(key.event)).or_default();
        loss.stored -= 1;
        loss.vanishing -= 1;
        loss.facts -= i64::from(*count);
    }
    // By how much the counts of other rows would grow, net of those that would shrink.
    let mut more: HashMap<usize, i64> = HashMap::new();
    for update in difference.update.iter().filter(|update| update.key.day == day) {
        *more.entry(update.key.event).or_default() += i64::from(update.to) - update.from.clamp(0, i64::from(u32::MAX));
    }
    for (event, more) in more {
        losses.entry(StoredEvent::Known(event)).or_default().facts -= more.max(0);
    }
    for row in difference.delete.iter().filter(|row| row.day == day) {
        let loss = losses.entry(row.event.clone()).or_default();
        loss.stored += 1;
        if !is_explained(row) {
            loss.vanishing += 1;
            loss.facts += row.count.max(0);
        }
    }
    losses
}

/// How many facts the day would lose, of the kind that loses least. A kind counts only if one of its event types loses
/// more than the allowed share, and if it loses any facts at all. Bills that vanish take their tests with them; tests
/// that vanish leave their bills behind.
fn facts_lost(rollup: &Rollup, losses: &HashMap<StoredEvent, Loss>, percent: i64) -> i64 {
    let mut kinds: HashMap<usize, i64> = HashMap::new();
    for (event, loss) in losses.iter().filter(|(_, loss)| loss.vanishing * 100 > percent * loss.stored) {
        // Rows of an unknown event type belong to no kind of fact.
        let StoredEvent::Known(event) = event else { continue };
        let most = kinds.entry(rollup.events[*event].fact).or_default();
        *most = (*most).max(loss.facts);
    }
    kinds.into_values().filter(|lost| *lost > 0).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        recompute::diff,
        rollup::{HISTORICAL_SUMMARY, Rollups},
    };

    fn day() -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 3, 15).unwrap()
    }

    fn key(a: i64) -> Key {
        Key { day: day(), a, b: 0, event: 0 }
    }

    /// The stored row with that key.
    fn row(a: i64, count: i64) -> StoredRow {
        StoredRow { id: a, day: day(), a: Some(a), b: Some(0), event: StoredEvent::Known(0), count }
    }

    /// Checks a day that has `stored` rows and should have `expected`, of which the first are the same.
    fn found(stored: i64, expected: i64, max: &str) -> Option<Shrinking> {
        let rollups = Rollups::load(None).unwrap();
        let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
        let expected: Vec<_> = (0..expected).map(|a| (key(a), 1)).collect();
        let difference = diff::difference(rollup, &expected, (0..stored).map(|a| row(a, 1)).collect());
        shrinking(rollup, &expected, &difference, day(), max.parse().unwrap(), |_| false)
    }

    /// Checks a day that would lose all its rows, those of `bills` bills and `tests` tests.
    fn lost(bills: i64, tests: i64) -> bool {
        let rollups = Rollups::load(None).unwrap();
        let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
        let rows = |event: &str, count: i64| {
            let event = StoredEvent::new(rollup, event);
            (0..count).map(move |b| StoredRow {
                id: b,
                day: day(),
                a: Some(1),
                b: Some(b),
                event: event.clone(),
                count: 1,
            })
        };
        let stored = rows("organization_bill", bills).chain(rows("organization_test", tests));
        let difference = diff::difference(rollup, &[], stored.collect());
        shrinking(rollup, &[], &difference, day(), "50%".parse().unwrap(), |_| false).is_some()
    }

    #[test]
    fn a_bill_with_many_tests_is_one_bill() {
        assert!(!lost(1, 40));
        assert!(!lost(4, 100));
        assert!(lost(5, 40));
        assert!(lost(0, 40), "tests without their bills");
        assert!(!lost(0, 4));
    }

    /// Checks a day with one bill for each of `stored` organizations, of which only the first would be left, with
    /// `count`.
    fn merged(stored: i64, count: u32) -> bool {
        let rollups = Rollups::load(None).unwrap();
        let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
        let expected = [(key(0), count)];
        let difference = diff::difference(rollup, &expected, (0..stored).map(|a| row(a, 1)).collect());
        shrinking(rollup, &expected, &difference, day(), "50%".parse().unwrap(), |_| false).is_some()
    }

    #[test]
    fn what_is_counted_in_another_row_has_not_vanished() {
        assert!(!merged(50, 50));
        assert!(!merged(50, 46), "a handful");
        assert!(merged(50, 45));
        assert!(merged(50, 1));
    }

    #[test]
    fn what_moves_between_rows_that_stay_makes_up_for_nothing() {
        let rollups = Rollups::load(None).unwrap();
        let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
        let expected = [(key(0), 10), (key(1), 60)];
        let lost = |from: [i64; 2]| {
            let stored = [row(0, from[0]), row(1, from[1])].into_iter().chain((2..52).map(|a| row(a, 1)));
            let difference = diff::difference(rollup, &expected, stored.collect());
            shrinking(rollup, &expected, &difference, day(), "50%".parse().unwrap(), |_| false).is_some()
        };
        assert!(lost([60, 10]), "as many as in the other");
        assert!(lost([10, 40]), "20 of 50");
        assert!(lost([-500, 60]), "fewer than none are none");
        assert!(!lost([10, 10]));
    }

    #[test]
    fn a_share_is_met_or_exceeded() {
        assert_eq!(found(100, 50, "50%"), None);
        assert_eq!(found(100, 49, "50%"), Some(Shrinking { day: day(), vanishing: 51, stored: 100 }));
        assert_eq!(found(100, 0, "off"), None);
        assert_eq!(found(100, 0, "100%"), None);
        assert_eq!(found(100, 95, "0%"), Some(Shrinking { day: day(), vanishing: 5, stored: 100 }));
        assert_eq!(found(100, 96, "0%"), None, "a handful");
        assert_eq!(found(0, 100, "0%"), None);
        assert_eq!(found(100, 200, "0%"), None);
    }

    #[test]
    fn the_error_of_a_shrinking_day_is_known_by_its_words() {
        let shrinking = Shrinking { day: day(), vanishing: 51, stored: 100 };
        assert!(shrinking.error(7, MaxShrink(Some(50))).to_string().contains(WOULD_VANISH));
    }

    #[test]
    fn a_share_is_a_percentage_or_off() {
        for text in ["0%", "50%", "100%", "off"] {
            assert_eq!(text.parse::<MaxShrink>().unwrap().to_string(), text);
        }
        for text in ["50", "101%", "-1%", "half", ""] {
            assert!(text.parse::<MaxShrink>().is_err(), "{text}");
        }
    }
}
