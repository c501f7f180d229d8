//! Days of which too much would vanish at once.
//!
//! A source that has lost rows, or that a replica has not caught up with, looks like a day on which
//! little happened. Correcting the summary would spread the loss. So where more than a share of a
//! day's rows would go, the facts are asked again without their conditions: rows that facts which do
//! not count any more explain (cancelled bills) may go; if the others are still too many, the job
//! is discarded, with the reason, for somebody to decide. Only the net loss counts: a bill that has
//! moved to another organisation takes rows away and brings others.

use std::{collections::BTreeMap, fmt, str::FromStr};

use chrono::NaiveDate;

use super::{RecomputeError, diff::Difference};
use crate::rollup::aggregate::Key;

/// The share of a day's rows, in percent, that may vanish at once; any share where it is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct MaxShrink(pub Option<u8>);

impl MaxShrink {
    /// Everything may vanish.
    pub const OFF: Self = Self(None);
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

/// A day that would lose too many rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shrinking {
    /// The day.
    pub day: NaiveDate,
    /// How many rows it would lose, beyond what it would gain.
    pub vanishing: usize,
    /// How many it has.
    pub stored: usize,
}

impl Shrinking {
    /// As the error that ends the job.
    #[must_use]
    pub fn error(self, lab_id: i64, max: MaxShrink) -> RecomputeError {
        RecomputeError::Shrinks { lab_id, shrinking: self, max }
    }
}

/// The first day up to `last` that would lose more than `max` of its rows, where rows whose key
/// `is_explained` do not count as lost.
#[must_use]
pub fn shrinking(
    expected: &[(Key, u32)],
    difference: &Difference,
    last: NaiveDate,
    max: MaxShrink,
    is_explained: impl Fn(&super::stored::StoredRow) -> bool,
) -> Option<Shrinking> {
    let percent = usize::from(max.0?);
    let mut lost: BTreeMap<NaiveDate, usize> = BTreeMap::new();
    for row in difference.delete.iter().filter(|row| row.day <= last && !is_explained(row)) {
        *lost.entry(row.day).or_default() += 1;
    }
    lost.into_iter().find_map(|(day, lost)| {
        let gained = difference.insert.iter().filter(|(key, _)| key.day == day).count();
        let deleted = difference.delete.iter().filter(|row| row.day == day).count();
        let expected = expected.iter().filter(|(key, _)| key.day == day).count();
        // What is expected and not inserted is stored already.
        let stored = expected - gained + deleted;
        let vanishing = lost.saturating_sub(gained);
        (vanishing * 100 > percent * stored).then_some(Shrinking { day, vanishing, stored })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        recompute::{diff, stored::StoredRow},
        rollup::{HISTORICAL_SUMMARY, Rollups},
    };

    fn day() -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 3, 15).unwrap()
    }

    /// A day that has `stored` rows and should have `expected`, the first ones of both the same.
    fn found(stored: i64, expected: i64, max: &str) -> Option<Shrinking> {
        let rollups = Rollups::load(None).unwrap();
        let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
        let key = |a| Key { day: day(), a, b: 0, event: 0 };
        let row = |a: i64| {
            let event = rollup.events[0].name.clone();
            StoredRow { id: a, day: day(), a: Some(a), b: Some(0), event, count: 1 }
        };
        let expected: Vec<_> = (0..expected).map(|a| (key(a), 1)).collect();
        let difference = diff::difference(rollup, &expected, (0..stored).map(row).collect());
        shrinking(&expected, &difference, day(), max.parse().unwrap(), |_| false)
    }

    #[test]
    fn a_share_is_met_or_exceeded() {
        assert_eq!(found(10, 5, "50%"), None);
        assert_eq!(found(10, 4, "50%"), Some(Shrinking { day: day(), vanishing: 6, stored: 10 }));
        assert_eq!(found(10, 0, "off"), None);
        assert_eq!(found(10, 0, "100%"), None);
        assert_eq!(found(10, 9, "0%"), Some(Shrinking { day: day(), vanishing: 1, stored: 10 }));
        assert_eq!(found(0, 10, "0%"), None);
        assert_eq!(found(10, 20, "0%"), None);
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
