//! Why a stored row differs from its source: the names of what can be told. Pure.

use std::fmt;

use chrono::NaiveDate;

use crate::{
    recompute::{diff::difference, stored::StoredRow},
    rollup::Rollup,
};

/// Why a row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Cause {
    /// A row of which the source has nothing.
    Ghost,
    /// A row that the source supports, and that is not there.
    Missing,
    /// A row that counts something else than the source has.
    WrongCount,
    /// What a neighbouring day lacks: a fault of the time zone, or of where a day ends.
    WrongDay,
    /// A row with a NULL dimension: unique keys let it in again and again.
    NullDimension,
    /// A row whose key is there twice, because no unique key forbids it.
    Duplicate,
    /// A row of a day before the lab's first bill, or of today or later.
    OutOfRange,
    /// A row of a lab whose Historical View is off: nobody keeps it.
    LabDisabled,
    /// A row of a lab that does not exist.
    UnknownLab,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Ghost,
        Self::Missing,
        Self::WrongCount,
        Self::WrongDay,
        Self::NullDimension,
        Self::Duplicate,
        Self::OutOfRange,
        Self::LabDisabled,
        Self::UnknownLab,
    ];

    /// The name in the database, in JSON and as a label of metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ghost => "ghost",
            Self::Missing => "missing",
            Self::WrongCount => "wrong_count",
            Self::WrongDay => "wrong_day",
            Self::NullDimension => "null_dimension",
            Self::Duplicate => "duplicate",
            Self::OutOfRange => "out_of_range",
            Self::LabDisabled => "lab_disabled",
            Self::UnknownLab => "unknown_lab",
        }
    }

    /// For people.
    #[must_use]
    pub fn title(self) -> String {
        title(self.name())
    }

    /// Whether a recompute of the day puts it right. It does not look at whether the Historical
    /// View is on, so that rows of a lab where it is off would only be kept; and it refuses a lab
    /// that does not exist.
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

/// The name of a cause for people, such as one of a newer daymend.
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
    /// The count that is stored; none where the row is missing.
    pub stored: Option<i64>,
    /// The count that the source supports; none where it supports no row.
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

/// The rows of a lab that has no business to have any: every one of the rollup's event types.
#[must_use]
pub fn all_superfluous(rollup: &Rollup, stored: Vec<StoredRow>, cause: Cause) -> Vec<Finding> {
    difference(rollup, &[], stored).delete.iter().map(|row| Finding::superfluous(rollup, row, cause)).collect()
}

/// The days that a lab can have rows of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The day of its first bill; none where it has none.
    pub first: Option<NaiveDate>,
    /// Its yesterday.
    pub last: NaiveDate,
}

impl Limits {
    /// A lab without bills has ghosts, not rows before its first one.
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
        let titles = Cause::ALL.map(Cause::title);
        assert_eq!(titles[2..5], ["wrong count", "wrong day", "NULL dimension"]);
        assert_eq!(title("of_a_newer_daymend"), "of a newer daymend");
        assert_eq!(format!("{:>6}|", Cause::Ghost), " ghost|");
    }
}
