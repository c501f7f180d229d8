//! Which days an audit compares: all of them, some that are drawn, or some that are named.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use rand::{SeedableRng as _, rngs::StdRng, seq::index};

use super::scope::{self, Standing, Subject};
use crate::{
    calendar,
    db::{Db, DbError, Mode},
    error::chain,
    rollup::Rollup,
};

/// What somebody wants to have audited.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Only these labs; all where none is named.
    pub labs: Vec<i64>,
    /// Only from this day on.
    pub from: Option<NaiveDate>,
    /// Only up to this day.
    pub to: Option<NaiveDate>,
    /// Only some days, drawn by lot.
    pub sample: Option<Sample>,
}

/// Days drawn by lot; the same ones for the same seed and the same data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Sample {
    /// How many.
    pub days: usize,
    /// What they are drawn by.
    pub seed: u64,
}

/// Neighbouring days, both ends included.
pub(super) type Range = (NaiveDate, NaiveDate);

/// Labs, and the days of each to compare, in order.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Each lab with its days; none of a lab that has nothing to compare.
    pub labs: Vec<(Subject, Vec<Range>)>,
}

impl Plan {
    /// How many days that is.
    #[must_use]
    pub fn days(&self) -> u64 {
        self.labs.iter().flat_map(|(_, ranges)| ranges).map(length).sum()
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A lab was named that has neither an entry nor rows.
    #[error("lab {0} does not exist, and no row of it is stored")]
    NoSuchLab(i64),
    /// The database.
    #[error("cannot plan the audit")]
    Database(#[from] DbError),
}

/// Plans an audit.
pub async fn plan(db: &Db, rollup: &Rollup, scope: &Scope, as_of: DateTime<Utc>) -> Result<Plan, PlanError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let mut subjects = scope::subjects(&mut tx, rollup).await?;
    let knows = |id: &i64| subjects.binary_search_by_key(id, |subject| subject.lab_id).is_ok();
    if let Some(missing) = scope.labs.iter().find(|id| !knows(id)) {
        return Err(PlanError::NoSuchLab(*missing));
    }
    subjects.retain(|subject| scope.labs.is_empty() || scope.labs.contains(&subject.lab_id));
    let mut plan = Plan::default();
    for mut subject in subjects {
        let bounds = match scope::bounds(&mut tx, rollup, &subject, as_of).await {
            Err(error) if error.is_bad_data() => {
                subject.standing = Standing::Unusable(chain(&error));
                None
            }
            bounds => bounds?,
        };
        let ranges = bounds.map(|(first, last)| {
            (scope.from.map_or(first, |from| from.max(first)), scope.to.map_or(last, |to| to.min(last)))
        });
        plan.labs.push((subject, ranges.into_iter().filter(|(first, last)| first <= last).collect()));
    }
    tx.commit().await?;
    if let Some(sample) = scope.sample {
        draw(&mut plan, sample);
    }
    Ok(plan)
}

/// The plan to look once more at these days.
pub async fn again(db: &Db, rollup: &Rollup, days: &BTreeMap<i64, BTreeSet<NaiveDate>>) -> Result<Plan, DbError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let subjects = scope::subjects(&mut tx, rollup).await?;
    tx.commit().await?;
    let chosen = subjects.into_iter().filter_map(|subject| {
        let ranges = ranges(days.get(&subject.lab_id)?.iter().copied());
        Some((subject, ranges))
    });
    Ok(Plan { labs: chosen.collect() })
}

/// Leaves only some days of a plan, each as likely as every other.
fn draw(plan: &mut Plan, sample: Sample) {
    let total = usize::try_from(plan.days()).unwrap_or(usize::MAX);
    let mut random = StdRng::seed_from_u64(sample.seed);
    let mut drawn = index::sample(&mut random, total, sample.days.min(total)).into_vec();
    drawn.sort_unstable();
    let mut drawn = drawn.into_iter().map(|place| place as u64).peekable();
    let mut before = 0;
    for (_, lab) in &mut plan.labs {
        let mut days = Vec::new();
        for range in lab.iter() {
            while let Some(place) = drawn.next_if(|place| *place < before + length(range)) {
                days.push(calendar::days_after(range.0, u32::try_from(place - before).unwrap_or(u32::MAX)));
            }
            before += length(range);
        }
        *lab = ranges(days.into_iter());
    }
    plan.labs.retain(|(subject, ranges)| !ranges.is_empty() || matches!(subject.standing, Standing::Unusable(_)));
}

/// How many days a range has.
pub(super) fn length((first, last): &Range) -> u64 {
    u64::try_from((*last - *first).num_days() + 1).unwrap_or(0)
}

/// Days in order, neighbours put together.
fn ranges(days: impl Iterator<Item = NaiveDate>) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for day in days {
        match ranges.last_mut() {
            Some((_, last)) if calendar::next(*last) == day => *last = day,
            _ => ranges.push((day, day)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    fn plan() -> Plan {
        let lab = |lab_id, first, last| {
            (Subject { lab_id, standing: Standing::Unknown, has_rows: true }, vec![(date(first), date(last))])
        };
        Plan { labs: vec![lab(1, "2026-01-01", "2026-01-31"), lab(2, "2026-03-05", "2026-03-05")] }
    }

    fn drawn(days: usize, seed: u64) -> Vec<(i64, Vec<Range>)> {
        let mut plan = plan();
        draw(&mut plan, Sample { days, seed });
        assert_eq!(plan.days(), days.min(32) as u64);
        plan.labs.into_iter().map(|(subject, ranges)| (subject.lab_id, ranges)).collect()
    }

    #[test]
    fn a_sample_is_of_so_many_days_and_the_same_for_a_seed() {
        assert_eq!(drawn(5, 7), drawn(5, 7));
        assert_ne!(drawn(5, 7), drawn(5, 8));
        assert_eq!(drawn(0, 7), []);
        let all: Vec<_> = plan().labs.into_iter().map(|(subject, ranges)| (subject.lab_id, ranges)).collect();
        assert_eq!(drawn(1000, 7), all, "more than there are is all of them");
    }

    #[test]
    fn each_day_of_each_lab_is_drawn_now_and_then() {
        let mut seen = BTreeSet::new();
        for seed in 0..400 {
            for (lab, ranges) in drawn(1, seed) {
                seen.extend(ranges.into_iter().map(|(first, _)| (lab, first)));
            }
        }
        assert_eq!(seen.len(), 32);
    }

    #[test]
    fn neighbouring_days_are_put_together() {
        let days = ["2026-02-28", "2026-03-01", "2026-03-03"].map(date);
        let expected = [(date("2026-02-28"), date("2026-03-01")), (date("2026-03-03"), date("2026-03-03"))];
        assert_eq!(ranges(days.into_iter()), expected);
    }
}
