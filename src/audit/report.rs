//! What an audit found: by lab, by day, by event type and by cause.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};

use super::cause::{Cause, Finding};

/// What an audit found.
#[derive(Debug)]
pub struct Report {
    /// The moment that the audit took as the present.
    pub as_of: DateTime<Utc>,
    /// Each lab, by id.
    pub labs: Vec<LabReport>,
    /// Causes that were ignored.
    pub except: BTreeSet<Cause>,
    /// The largest number of stored rows held in memory at once.
    pub rows_held_max: usize,
}

/// What was found of one lab.
#[derive(Debug)]
pub struct LabReport {
    /// The lab.
    pub lab: i64,
    /// `kept`, `disabled`, `unusable` or `unknown`.
    pub standing: &'static str,
    /// The time zone, for a lab that is kept.
    pub time_zone: Option<&'static str>,
    /// The days that were to be compared.
    pub ranges: Vec<(NaiveDate, NaiveDate)>,
    /// How many of them were compared.
    pub days_audited: u64,
    /// Those that have drifted, oldest first.
    pub days: Vec<DayReport>,
    /// What could not be compared.
    pub problems: Vec<Problem>,
}

/// One day that has drifted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayReport {
    /// The day.
    pub day: NaiveDate,
    /// How many rows differ, by cause and event type.
    pub counts: BTreeMap<(Cause, String), u64>,
    /// Those that are shown individually.
    pub rows: Vec<Finding>,
}

/// Days that could not be compared; all of the lab's days if `first` and `last` are `None`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The first day.
    pub first: Option<NaiveDate>,
    /// The last day.
    pub last: Option<NaiveDate>,
    /// Why.
    pub why: String,
}

/// The findings of each day, oldest first.
pub fn by_day(findings: impl Iterator<Item = Finding>) -> BTreeMap<NaiveDate, Vec<Finding>> {
    let mut days: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for finding in findings {
        days.entry(finding.day).or_default().push(finding);
    }
    days
}

impl DayReport {
    /// How many rows differ.
    #[must_use]
    pub fn differences(&self) -> u64 {
        self.counts.values().sum()
    }

    /// How many rows differ, by cause.
    #[must_use]
    pub fn causes(&self) -> BTreeMap<Cause, u64> {
        sum(self.counts.iter().map(|((cause, _), count)| (*cause, *count)))
    }

    /// How many rows differ, by event type; only for the cause `of`, if given.
    #[must_use]
    pub fn event_types(&self, of: Option<Cause>) -> BTreeMap<&str, u64> {
        let counts = self.counts.iter().filter(|((cause, _), _)| of.is_none_or(|of| of == *cause));
        sum(counts.map(|((_, event_type), count)| (event_type.as_str(), *count)))
    }

    /// Whether a recompute would correct anything.
    #[must_use]
    pub fn is_repairable(&self) -> bool {
        self.counts.keys().any(|(cause, _)| cause.is_repairable())
    }
}

impl LabReport {
    /// Adds the findings of some days; returns how many of the days have drifted.
    pub(super) fn add(&mut self, findings: impl Iterator<Item = Finding>, rows_left: &mut usize) -> u64 {
        let days = by_day(findings);
        let drifted = days.len() as u64;
        for (day, mut rows) in days {
            let counts = sum(rows.iter().map(|row| ((row.cause, row.event_type.clone()), 1)));
            rows.truncate(*rows_left);
            // Rows that are not shown would keep their memory as long as the report.
            rows.shrink_to_fit();
            *rows_left -= rows.len();
            self.days.push(DayReport { day, counts, rows });
        }
        drifted
    }

    /// How many rows differ.
    #[must_use]
    pub fn differences(&self) -> u64 {
        self.days.iter().map(DayReport::differences).sum()
    }
}

impl Report {
    /// Whether nothing differs, as far as it could be compared.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.labs.iter().all(|lab| lab.days.is_empty())
    }

    /// Whether everything could be compared.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.labs.iter().all(|lab| lab.problems.is_empty())
    }

    /// How many days were compared.
    #[must_use]
    pub fn days_audited(&self) -> u64 {
        self.labs.iter().map(|lab| lab.days_audited).sum()
    }

    /// How many of them have drifted.
    #[must_use]
    pub fn days_drifted(&self) -> u64 {
        self.labs.iter().map(|lab| lab.days.len() as u64).sum()
    }

    /// How many rows differ.
    #[must_use]
    pub fn differences(&self) -> u64 {
        self.labs.iter().map(LabReport::differences).sum()
    }

    /// How many rows differ, by cause and event type.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<(Cause, &str), u64> {
        let counts = self.labs.iter().flat_map(|lab| &lab.days).flat_map(|day| &day.counts);
        sum(counts.map(|((cause, event_type), count)| ((*cause, event_type.as_str()), *count)))
    }

    /// How many rows differ, by cause.
    #[must_use]
    pub fn causes(&self) -> BTreeMap<Cause, u64> {
        sum(self.counts().into_iter().map(|((cause, _), count)| (cause, count)))
    }

    /// The days that a recompute would correct, by lab.
    #[must_use]
    pub fn repairable(&self) -> BTreeMap<i64, BTreeSet<NaiveDate>> {
        let days_of = |lab: &LabReport| -> BTreeSet<NaiveDate> {
            lab.days.iter().filter(|day| day.is_repairable()).map(|day| day.day).collect()
        };
        self.labs.iter().map(|lab| (lab.lab, days_of(lab))).filter(|(_, days)| !days.is_empty()).collect()
    }

    /// What no recompute can correct: for each lab and cause, how many rows on how many days.
    #[must_use]
    pub fn beyond_repair(&self) -> Vec<(i64, Cause, u64, u64)> {
        let mut found = BTreeMap::new();
        for lab in &self.labs {
            for (cause, count) in lab.days.iter().flat_map(DayReport::causes) {
                if !cause.is_repairable() {
                    let (rows, days) = found.entry((lab.lab, cause)).or_insert((0, 0));
                    *rows += count;
                    *days += 1;
                }
            }
        }
        found.into_iter().map(|((lab, cause), (rows, days))| (lab, cause, rows, days)).collect()
    }
}

fn sum<K: Ord>(counts: impl Iterator<Item = (K, u64)>) -> BTreeMap<K, u64> {
    let mut sums = BTreeMap::new();
    for (key, count) in counts {
        *sums.entry(key).or_default() += count;
    }
    sums
}
