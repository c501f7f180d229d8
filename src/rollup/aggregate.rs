//! Counting facts into summary rows. Pure.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use foldhash::fast::RandomState;

use super::{Dimension, Rollup};
use crate::calendar::{self, Interval, Zone};

/// The key of a summary row within one lab. Keys are ordered like the table's unique key, the order in which rows are
/// written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The calendar day.
    pub day: NaiveDate,
    /// The first dimension.
    pub a: i64,
    /// The second dimension.
    pub b: i64,
    /// The event type, by its index in [`Rollup::events`].
    pub event: usize,
}

/// Neighbouring days of one zone, and the instants that separate them.
#[derive(Debug, Clone)]
pub struct DaySpan {
    first: NaiveDate,
    /// The first instant of each day, then the first instant after the last day.
    bounds: Vec<DateTime<Utc>>,
}

impl DaySpan {
    /// The days from `first` to `last`, both included.
    #[must_use]
    pub fn new(zone: Zone, first: NaiveDate, last: NaiveDate) -> Self {
        let mut bounds: Vec<_> = calendar::dates(first, last).map(|date| zone.first_instant(date)).collect();
        bounds.push(zone.first_instant(calendar::next(last)));
        Self { first, bounds }
    }

    /// The same days, all shifted by `by`.
    #[must_use]
    pub fn shifted(mut self, by: TimeDelta) -> Self {
        self.bounds.iter_mut().for_each(|bound| *bound += by);
        self
    }

    /// From the first instant of the first day to the end of the last.
    #[must_use]
    pub fn interval(&self) -> Interval {
        Interval { from: self.bounds[0], until: self.bounds[self.bounds.len() - 1] }
    }

    /// The day that `at` belongs to; `None` if it is outside.
    #[must_use]
    pub fn day_of(&self, at: DateTime<Utc>) -> Option<NaiveDate> {
        let after = self.bounds.partition_point(|bound| *bound <= at);
        if after == 0 || after == self.bounds.len() {
            return None;
        }
        self.first.checked_add_days(chrono::Days::new(after as u64 - 1))
    }
}

/// The expected summary rows of some days of one lab, built up fact by fact.
#[derive(Debug)]
pub struct Counts<'a> {
    rollup: &'a Rollup,
    days: &'a DaySpan,
    counts: HashMap<Key, u32, RandomState>,
}

impl<'a> Counts<'a> {
    /// Starts without facts.
    #[must_use]
    pub fn new(rollup: &'a Rollup, days: &'a DaySpan) -> Self {
        Self { rollup, days, counts: HashMap::default() }
    }

    /// Counts one fact of kind `fact`: its time, and its columns in the order of [`super::FactKind::columns`].
    pub fn add(&mut self, fact: usize, bill_time: DateTime<Utc>, columns: &[Option<i64>]) {
        let Some(day) = self.days.day_of(bill_time) else { return };
        for (event, rule) in self.rollup.events.iter().enumerate() {
            if rule.fact != fact || !rule.conditions.iter().all(|(column, value)| columns[*column] == Some(*value)) {
                continue;
            }
            let value = |dimension| match dimension {
                Dimension::Column(column) => columns[column],
                Dimension::Constant(value) => Some(value),
            };
            // A fact whose dimension is NULL is not counted for this event type; other event types are unaffected.
            if let (Some(a), Some(b)) = (value(rule.a), value(rule.b)) {
                *self.counts.entry(Key { day, a, b, event }).or_default() += 1;
            }
        }
    }

    /// The expected rows, in key order.
    #[must_use]
    pub fn into_rows(self) -> Vec<(Key, u32)> {
        let mut rows: Vec<_> = self.counts.into_iter().collect();
        rows.sort_unstable();
        rows
    }
}
