//! Counts that one day has in excess and its neighbours lack. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::NaiveDate;

use crate::{calendar, rollup::aggregate::Key};

/// By how much a stored row is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delta {
    /// Stored minus expected; never 0.
    pub(super) by: i64,
    /// Whether the whole row is missing, or should not exist at all.
    pub(super) is_whole: bool,
}

/// The days that are off, for each (event, a, b).
pub(super) type Deltas = HashMap<(usize, i64, i64), BTreeMap<NaiveDate, Delta>>;

/// The rows whose counts are stored on a neighbouring day.
///
/// A whole row that is missing on one day and stored on the next counts as moved. Counts that are off by the same
/// amount in opposite directions may be coincidence: they count as moved if that explains at least half of the
/// differences on each of their days.
pub(super) fn moved(deltas: &Deltas) -> HashSet<Key> {
    let mut off: HashMap<NaiveDate, usize> = HashMap::new();
    let mut explained: HashMap<NaiveDate, usize> = HashMap::new();
    let mut chains = Vec::new();
    for ((event, a, b), days) in deltas {
        for day in days.keys() {
            *off.entry(*day).or_default() += 1;
        }
        for chain in chains_of(days) {
            let is_whole = chain.iter().all(|day| days[day].is_whole);
            for day in &chain {
                *explained.entry(*day).or_default() += 1;
            }
            let keys: Vec<_> = chain.iter().map(|day| Key { day: *day, a: *a, b: *b, event: *event }).collect();
            chains.push((keys, is_whole));
        }
    }
    let is_likely = |key: &Key| explained[&key.day] * 2 >= off[&key.day];
    let believed = chains.into_iter().filter(|(keys, is_whole)| *is_whole || keys.iter().all(is_likely));
    believed.flat_map(|(keys, _)| keys).collect()
}

/// Chains of neighbouring days whose deltas add up to zero: the surplus of the first day is passed on in one direction,
/// until the last day takes it up.
fn chains_of(days: &BTreeMap<NaiveDate, Delta>) -> Vec<Vec<NaiveDate>> {
    let days: Vec<(NaiveDate, i64)> = days.iter().map(|(day, delta)| (*day, delta.by)).collect();
    let mut chains = Vec::new();
    let mut first = 0;
    while first < days.len() {
        match chain_from(&days[first..]) {
            Some(length) => {
                chains.push(days[first..first + length].iter().map(|(day, _)| *day).collect());
                first += length;
            }
            None => first += 1,
        }
    }
    chains
}

fn chain_from(days: &[(NaiveDate, i64)]) -> Option<usize> {
    let (mut last, handed_on) = *days.first()?;
    let mut sum = handed_on;
    for (place, (day, by)) in days.iter().enumerate().skip(1) {
        if *day != calendar::next(last) {
            return None;
        }
        sum = sum.checked_add(*by)?;
        if sum == 0 {
            return Some(place + 1);
        }
        if sum.signum() != handed_on.signum() {
            return None;
        }
        last = *day;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(day: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 3, day).unwrap()
    }

    /// The days of the one key, each with its delta, that count as moved.
    fn moved_days(of_key: &[(u32, i64)], is_whole: bool, others_off: &[u32]) -> Vec<NaiveDate> {
        let delta = |by| Delta { by, is_whole };
        let days = of_key.iter().map(|(on, by)| (day(*on), delta(*by))).collect();
        let mut deltas = Deltas::from([((0, 1, 0), days)]);
        for (a, on) in others_off.iter().enumerate() {
            deltas.insert((1, a as i64, 0), BTreeMap::from([(day(*on), delta(5))]));
        }
        let mut days: Vec<_> = moved(&deltas).iter().map(|key| key.day).collect();
        days.sort_unstable();
        days
    }

    #[test]
    fn neighbours_that_are_off_by_nothing_together_are_found() {
        assert_eq!(moved_days(&[(5, 3), (6, -3)], false, &[]), [day(5), day(6)]);
        assert_eq!(moved_days(&[(5, 3), (6, -1), (7, -2)], false, &[]), [day(5), day(6), day(7)]);
        assert_eq!(moved_days(&[(5, 9), (6, 3), (7, -3)], false, &[]), [day(6), day(7)]);
        assert_eq!(moved_days(&[(5, 3), (7, -3)], false, &[]), []);
        assert_eq!(moved_days(&[(5, 3), (6, -4), (7, 1)], false, &[]), []);
        assert_eq!(moved_days(&[(5, 3)], false, &[]), []);
    }

    #[test]
    fn a_part_of_a_count_has_to_explain_most_of_its_days() {
        let pair = [(5, 3), (6, -3)];
        assert_eq!(moved_days(&pair, false, &[5]).len(), 2);
        assert_eq!(moved_days(&pair, false, &[5, 5]).len(), 0);
        assert_eq!(moved_days(&pair, true, &[5, 5]).len(), 2, "a whole row is believed anyway");
    }
}
