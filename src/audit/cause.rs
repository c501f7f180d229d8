//! Why a stored row differs from its source: the causes that can be told apart. Pure.

use std::fmt;

use chrono::NaiveDate;
use strum::{EnumIter, EnumString, IntoStaticStr};

use crate::{
    recompute::{diff::difference, stored::StoredRow},
    rollup::Rollup,
};

/// Why a row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[derive(EnumIter, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Cause {
    /// A row that nothing in the source supports.
    Ghost,
    /// A row that the source supports but that is not stored.
    Missing,
    /// A row whose count differs from the source.
    WrongCount,
    /// Counts that a neighbouring day lacks: a fault of the time zone, or of where a day ends.
    WrongDay,
    /// A row with a NULL dimension, which no unique key keeps from being inserted again.
    NullDimension,
    /// A row whose key is stored twice, because no unique key forbids it.
    Duplicate,
    /// A row of a day before the lab's first bill, or of today or later.
    OutOfRange,
    /// A row of a lab whose Historical View is off: nobody maintains it.
    LabDisabled,
    /// A row of a lab that does not exist.
    UnknownLab,
}

impl Cause {
    /// The name in the database, in JSON and as a label of metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The name for people.
    #[must_use]
    pub fn title(self) -> String {
        title(self.name())
    }

    /// Whether a recompute of the day corrects it. A recompute ignores whether the Historical View is on, so it would
    /// only maintain the rows of a lab where it is off; and it refuses a lab that does not exist.
    #[must_use]
    pub fn is_repairable(self) -> bool {
        !matches!(self, Self::LabDisabled | Self::UnknownLab)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.title())
    }
}

/// The name for people of a cause, which may be one of a newer daymend.
#[must_use]
pub fn title(name: &str) -> String {
    let words = name.split('_').map(|word| if word == "null" { "NULL" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// One row that differs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Finding {
    /// The calendar day.
    pub day: NaiveDate,
    /// The event type, as it is stored.
    pub event_type: String,
    /// The first dimension.
    pub dimension_a: Option<i64>,
    /// The second dimension.
    pub dimension_b: Option<i64>,
    /// The stored count; `None` if the row is missing.
    pub stored: Option<i64>,
    /// The count that the source supports; `None` if it supports no row.
    pub expected: Option<u32>,
    /// Why, as far as the data can tell.
    pub cause: Cause,
}

impl Finding {
    /// A stored row that should not be there.
    pub(super) fn superfluous(rollup: &Rollup, row: &StoredRow, cause: Cause) -> Self {
        Self {
            day: row.day,
            event_type: row.event.name(rollup).to_owned(),
            dimension_a: row.a,
            dimension_b: row.b,
            stored: Some(row.count),
            expected: None,
            cause,
        }
    }
}

/// The findings for a lab that should have no rows: every stored row of the rollup's event types.
#[must_use]
pub fn all_superfluous(rollup: &Rollup, stored: Vec<StoredRow>, cause: Cause) -> Vec<Finding> {
    difference(rollup, &[], stored).delete.iter().map(|row| Finding::superfluous(rollup, row, cause)).collect()
}

/// The days for which a lab can have rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The day of its first bill; `None` if it has no bills.
    pub first: Option<NaiveDate>,
    /// Yesterday, by the lab's time zone.
    pub last: NaiveDate,
}

impl Limits {
    /// Always false for a lab without bills: its rows are ghosts, not rows before its first bill.
    pub(super) fn is_outside(&self, day: NaiveDate) -> bool {
        day > self.last || self.first.is_some_and(|first| day < first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_day_of_a_lab_are_not_out_of_range() {
        let day = |day| NaiveDate::from_ymd_opt(2026, 3, day).unwrap();
        let outside = |first| {
            let limits = Limits { first, last: day(14) };
            (9..=15).filter(|number| limits.is_outside(day(*number))).collect::<Vec<_>>()
        };
        assert_eq!(outside(Some(day(10))), [9, 15]);
        assert_eq!(outside(None), [15], "a lab without bills");
    }

    #[test]
    fn causes_are_titled_by_their_names() {
        let titles = [Cause::WrongCount, Cause::WrongDay, Cause::NullDimension].map(Cause::title);
        assert_eq!(titles, ["wrong count", "wrong day", "NULL dimension"]);
        assert_eq!(title("of_a_newer_daymend"), "of a newer daymend");
        assert_eq!(format!("{:>6}|", Cause::Ghost), " ghost|");
    }
}
