//! Which days an audit compares: all, a random sample, or given days.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    scope::{self, Standing, Subject},
    walk::is_of_the_lab,
};
use crate::{
    calendar,
    db::{Db, DbError, Mode, Tx},
    error::chain,
    rollup::Rollup,
};

/// What to audit.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Only these labs; all if empty.
    pub labs: Vec<i64>,
    /// Only from this day on.
    pub from: Option<NaiveDate>,
    /// Only up to this day.
    pub to: Option<NaiveDate>,
    /// Only a random sample of days.
    pub sample: Option<Sample>,
}

/// A random sample of days; the same seed and data give the same days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Sample {
    /// How many days.
    pub days: usize,
    /// The seed.
    pub seed: u64,
}

/// Neighbouring days, first and last included.
pub(super) type Range = (NaiveDate, NaiveDate);

/// Labs, and the days to compare of each, in order.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Each lab with its days; empty for a lab that has nothing to compare.
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
    /// A named lab has neither an entry nor rows.
    #[error("lab {0} does not exist, and no row of it is stored")]
    NoSuchLab(i64),
    /// A database error.
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
            Err(error) if is_of_the_lab(&error, db).await => {
                subject.standing = Standing::Unusable(chain(&error));
                // The connection may have been lost with the statement.
                tx = db.begin(Mode::Snapshot).await?;
                None
            }
            bounds => bounds?,
        };
        let ranges = bounds.map(|(first, last)| {
            (scope.from.map_or(first, |from| from.max(first)), scope.to.map_or(last, |to| to.min(last)))
        });
        plan.labs.push((subject, ranges.into_iter().filter(|(first, last)| first <= last).collect()));
    }
    if let Some(sample) = scope.sample {
        draw(db, &mut tx, rollup, &mut plan, sample, as_of).await?;
    }
    tx.commit().await?;
    Ok(plan)
}

/// The plan for auditing these days again.
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

/// Reduces a plan to a sample of the days that have facts or rows, each of them equally likely.
async fn draw(
    db: &Db,
    tx: &mut Tx,
    rollup: &Rollup,
    plan: &mut Plan,
    sample: Sample,
    as_of: DateTime<Utc>,
) -> Result<(), DbError> {
    let mut random = StdRng::seed_from_u64(sample.seed);
    let mut urn = Urn::new(plan);
    let mut drawn: Vec<BTreeSet<NaiveDate>> = vec![BTreeSet::new(); plan.labs.len()];
    let mut left = sample.days;
    while left > 0
        && let Some(lot) = urn.draw(&mut random)
    {
        let subject = &mut plan.labs[lot.lab].0;
        match scope::next_day(tx, rollup, subject, lot.day, as_of).await {
            Err(error) if is_of_the_lab(&error, db).await => {
                subject.standing = Standing::Unusable(chain(&error));
                *tx = db.begin(Mode::Snapshot).await?;
                urn.forget(lot.lab);
                left += drawn[lot.lab].len();
                drawn[lot.lab].clear();
            }
            day => {
                let day = day?;
                if urn.put_back(&lot, day) {
                    drawn[lot.lab].insert(lot.day);
                    left -= 1;
                }
            }
        }
    }
    for ((_, lab), days) in plan.labs.iter_mut().zip(drawn) {
        *lab = ranges(days.into_iter());
    }
    plan.labs.retain(|(subject, ranges)| !ranges.is_empty() || matches!(subject.standing, Standing::Unusable(_)));
    Ok(())
}

/// The days that may still be drawn. Whether a day has anything is only known once it is drawn. One that has nothing is
/// taken out together with the days after it, up to the next one that has something, so that years without anything
/// cost only a few draws.
#[derive(Debug)]
struct Urn {
    /// Each lab's index in the plan, with a range of its days.
    ranges: Vec<(usize, Range)>,
}

/// A day that was drawn, and taken out of its range.
#[derive(Debug)]
struct Lot {
    lab: usize,
    day: NaiveDate,
    /// The last day of the range that it was drawn from.
    last: NaiveDate,
}

impl Urn {
    fn new(plan: &Plan) -> Self {
        let ranges = plan.labs.iter().enumerate();
        Self { ranges: ranges.flat_map(|(lab, (_, ranges))| ranges.iter().map(move |range| (lab, *range))).collect() }
    }

    /// Draws a day, and takes it and the days after it out of its range.
    fn draw(&mut self, random: &mut StdRng) -> Option<Lot> {
        let total: u64 = self.ranges.iter().map(|(_, range)| length(range)).sum();
        let mut place = (total > 0).then(|| random.random_range(0..total))?;
        let is_here = |(_, range): &(usize, Range)| {
            let is_here = place < length(range);
            place -= if is_here { 0 } else { length(range) };
            is_here
        };
        let at = self.ranges.iter().position(is_here)?;
        let (lab, (first, last)) = self.ranges[at];
        let day = calendar::days_after(first, u32::try_from(place).unwrap_or(u32::MAX));
        if first < day {
            self.ranges[at].1.1 = calendar::previous(day);
        } else {
            self.ranges.swap_remove(at);
        }
        Some(Lot { lab, day, last })
    }

    /// Puts back the days of `lot` that may still have something, where `next` is the first day from the drawn one on
    /// that does. Returns whether that is the drawn day itself.
    fn put_back(&mut self, lot: &Lot, next: Option<NaiveDate>) -> bool {
        let is_hit = next == Some(lot.day);
        let from = if is_hit { Some(calendar::next(lot.day)) } else { next };
        let rest = from.filter(|from| *from <= lot.last).map(|from| (lot.lab, (from, lot.last)));
        self.ranges.extend(rest);
        is_hit
    }

    /// Removes all days of a lab.
    fn forget(&mut self, lab: usize) {
        self.ranges.retain(|(of, _)| *of != lab);
    }
}

/// How many days a range has.
pub(super) fn length((first, last): &Range) -> u64 {
    u64::try_from((*last - *first).num_days() + 1).unwrap_or(0)
}

/// Merges neighbouring days; `days` must be in order.
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
        Plan { labs: vec![lab(1, "1970-01-01", "2026-01-31"), lab(2, "2026-03-05", "2026-03-05")] }
    }

    /// Draws all days of the plan, if only those of `kept` have anything; returns them, and how many draws it took.
    fn drawn(seed: u64, kept: &[(usize, &str)]) -> (Vec<(usize, NaiveDate)>, usize) {
        let (mut random, mut urn) = (StdRng::seed_from_u64(seed), Urn::new(&plan()));
        let kept: BTreeSet<(usize, NaiveDate)> = kept.iter().map(|(lab, day)| (*lab, date(day))).collect();
        let (mut days, mut draws) = (Vec::new(), 0);
        while let Some(lot) = urn.draw(&mut random) {
            let next = kept.range((lot.lab, lot.day)..).next().filter(|(lab, _)| *lab == lot.lab);
            if urn.put_back(&lot, next.map(|(_, day)| *day)) {
                days.push((lot.lab, lot.day));
            }
            draws += 1;
        }
        (days, draws)
    }

    const KEPT: [(usize, &str); 4] = [(0, "1970-01-01"), (0, "2026-01-30"), (0, "2026-01-31"), (1, "2026-03-05")];

    #[test]
    fn only_days_that_have_something_are_drawn_each_once_and_the_same_for_a_seed() {
        let (days, draws) = drawn(7, &KEPT);
        assert_eq!((days.clone(), draws), drawn(7, &KEPT));
        assert_ne!(days, drawn(8, &KEPT).0);
        let all: BTreeSet<_> = days.iter().copied().collect();
        assert_eq!(all, KEPT.map(|(lab, day)| (lab, date(day))).into());
        assert_eq!(days.len(), KEPT.len());
        assert!(draws < 100, "{draws} draws for fifty years");
        assert_eq!(drawn(7, &[]).0, []);
    }

    #[test]
    fn each_day_is_as_likely_as_every_other() {
        let first = (0..4000).map(|seed| drawn(seed, &KEPT).0[0]);
        let mut times = BTreeMap::<_, u32>::new();
        first.for_each(|day| *times.entry(day).or_default() += 1);
        assert!(times.len() == 4 && times.values().all(|times| (850..1150).contains(times)), "{times:?}");
    }

    #[test]
    fn neighbouring_days_are_put_together() {
        let days = ["2026-02-28", "2026-03-01", "2026-03-03"].map(date);
        let expected = [(date("2026-02-28"), date("2026-03-01")), (date("2026-03-03"), date("2026-03-03"))];
        assert_eq!(ranges(days.into_iter()), expected);
    }
}
