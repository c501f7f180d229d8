//! The labs and days of a run. Pure.

use chrono::NaiveDate;
use serde::Serializer;
use serde_json::json;

use crate::calendar;

/// Labs, each with its days, oldest first.
pub type LabDays = Vec<(i64, Vec<NaiveDate>)>;

/// The number of days of all labs together, which is the number of jobs.
#[must_use]
pub fn count_days(labs: &LabDays) -> usize {
    labs.iter().map(|(_, days)| days.len()).sum()
}

/// Serialises each lab with its days as an object, for JSON.
pub(crate) fn labs_as_objects<S: Serializer>(labs: &LabDays, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(labs.iter().map(|(lab, days)| json!({ "lab": lab, "days": days })))
}

/// The labs and the days of a run, as text for its reason: `lab 7` or `3 labs`, and `2026-03-09 to 2026-03-15`.
#[must_use]
pub fn describe(labs: &LabDays) -> (String, String) {
    let days = || labs.iter().flat_map(|(_, days)| days);
    let whose = match labs.as_slice() {
        [(lab, _)] => format!("lab {lab}"),
        labs => format!("{} labs", labs.len()),
    };
    let span = match (days().min(), days().max()) {
        (Some(first), Some(last)) => calendar::span(*first, *last),
        _ => "no day".to_owned(),
    };
    (whose, span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labs_and_their_days_are_described() {
        let day = |day| NaiveDate::from_ymd_opt(2026, 3, day).unwrap();
        let described = |labs: LabDays| {
            let (whose, days) = describe(&labs);
            format!("{whose}, {days}")
        };
        assert_eq!(described(vec![(7, vec![day(15)])]), "lab 7, 2026-03-15");
        let labs = vec![(7, vec![day(12), day(15)]), (3, Vec::new()), (9, vec![day(9)])];
        assert_eq!(described(labs), "3 labs, 2026-03-09 to 2026-03-15");
        assert_eq!(described(Vec::new()), "0 labs, no day");
    }
}
