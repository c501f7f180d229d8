//! The nightly run: enqueues the closed days of each lab that have not been enqueued yet.
//!
//! The old event took "yesterday" from the wall clock at 04:00 UTC, which loses one day every spring where 04:00 UTC
//! is 23:00 in winter and midnight in summer, and repeats one every autumn. This module determines the last day that
//! should be in the summary by now, and enqueues the days between it and what is recorded in `daymend_labs`. The rows
//! are locked before they are compared, so that a second scheduler finds nothing left to do.
//!
//! With `--lookback-days` the same transaction enqueues a second run, of the days before, so that they are checked
//! again once for each due day, by whichever scheduler comes first. It is a repair and not part of the nightly run:
//! the nightly run goes first, and is complete when the due days are done.

use std::collections::BTreeMap;

use chrono::NaiveDate;

pub use super::nightly_at::NightlyAt;
use super::{Enqueued, Report, Tick};
use crate::{
    args,
    calendar::{self, Zone},
    db::{Arg, DbError, Mode, Query, Tx},
    error::examples,
    metrics::catalogue::DAYS_SKIPPED,
    queue::JobKind,
    rollup::{Rollup, source},
    runs::{self, NewRun, enqueued},
    statement,
};

/// How many labs one statement names.
const LABS_A_STATEMENT: usize = 500;

/// How many labs one log message names.
const LABS_SHOWN: usize = 20;

statement!(LABS_KNOWN, "enqueued labs", "SELECT lab_id, enqueued_through FROM daymend_labs WHERE rollup = ?");

statement!(
    LABS_LOCK,
    "lock labs",
    "SELECT lab_id, enqueued_through FROM daymend_labs
     WHERE rollup = ? AND lab_id IN ({list}) ORDER BY lab_id {for_update}"
);

/// Enqueues every closed day that has not been enqueued, one run per time zone.
pub async fn enqueue_closed_days(tick: &Tick<'_>, report: &mut Report) -> Result<(), DbError> {
    let mut tx = tick.db.begin(Mode::Snapshot).await?;
    let outlook = look_at_labs(&mut tx, tick.rollup).await?;
    tx.commit().await?;
    report.unusable = outlook.unusable;
    for (zone, labs) in outlook.zones {
        let due = tick.config.nightly_at.due_day(zone, tick.now);
        let behind = labs.into_iter().filter(|(_, through)| through.is_none_or(|through| through < due));
        let behind: Vec<i64> = behind.map(|(lab, _)| lab).collect();
        if !behind.is_empty() {
            let what = format!("nightly run of {}", zone.name());
            let enqueued =
                report.held.unless_held(tick.db, &what, "nightly", || enqueue_zone(tick, zone, due, &behind));
            let Some((enqueued, skipped)) = enqueued.await? else { continue };
            for (kind, run) in enqueued {
                report.note(kind, run);
            }
            for ((first, last), labs) in skipped {
                say_skipped(zone, first, last, &labs);
            }
        }
    }
    Ok(())
}

/// A lab, and the day up to which it has been enqueued.
type LabThrough = (i64, Option<NaiveDate>);

/// The labs, as seen by nightly runs.
#[derive(Debug)]
pub(super) struct Outlook {
    /// Each zone with its labs.
    pub(super) zones: Vec<(Zone, Vec<LabThrough>)>,
    /// Labs without a usable zone, and why.
    pub(super) unusable: BTreeMap<i64, String>,
}

/// Reads which labs there are, their zones, and the day up to which each has been enqueued.
pub(super) async fn look_at_labs(tx: &mut Tx, rollup: &Rollup) -> Result<Outlook, DbError> {
    let labs = source::labs(tx, rollup).await?;
    let known = enqueued_through(tx, &LABS_KNOWN, args![rollup.name.as_str()]).await?;
    let mut zones = BTreeMap::new();
    let mut unusable = BTreeMap::new();
    for lab in labs.iter().filter(|lab| lab.enabled) {
        match lab.zone() {
            Ok(zone) => {
                let (_, labs) = zones.entry(zone.name()).or_insert_with(|| (zone, Vec::new()));
                labs.push((lab.id, known.get(&lab.id).copied().flatten()));
            }
            Err(error) => {
                unusable.insert(lab.id, error.to_string());
            }
        }
    }
    Ok(Outlook { zones: zones.into_values().collect(), unusable })
}

/// The runs that were enqueued, and the labs with days that were left out for good, by the first and the last such day.
type EnqueuedRuns = (Vec<(JobKind, Enqueued)>, BTreeMap<(NaiveDate, NaiveDate), Vec<i64>>);

/// Counts days that were left out, and logs how to repair them.
fn say_skipped(zone: Zone, first: NaiveDate, last: NaiveDate, labs: &[i64]) {
    DAYS_SKIPPED.add([], (zone.dates(first, last).count() * labs.len()) as u64);
    // For several labs, suggest repairing all labs: a day that is right costs only a read.
    let of_labs = match labs {
        [lab] => format!("--lab {lab} "),
        _ => String::new(),
    };
    tracing::warn!(
        labs = labs.len(),
        %first,
        %last,
        "lab(s) {}: days before {} are older than --catch-up-days and were not enqueued; to repair them: \
         daymend repair {of_labs}--day {first} --to {last}",
        examples(labs, LABS_SHOWN),
        calendar::next(last)
    );
}

async fn enqueue_zone(tick: &Tick<'_>, zone: Zone, due: NaiveDate, labs: &[i64]) -> Result<EnqueuedRuns, DbError> {
    let (rollup, config) = (tick.rollup.name.as_str(), tick.config);
    let mut tx = tick.db.begin(Mode::Write).await?;
    let (mut days, mut again, mut skipped) = (Vec::new(), Vec::new(), BTreeMap::new());
    for labs in labs.chunks(LABS_A_STATEMENT) {
        enqueued::add(&mut tx, rollup, labs).await?;
        let named = args![rollup; labs];
        let locked = enqueued_through(&mut tx, LABS_LOCK.with_list(labs.len()), named).await?;
        for (lab, through) in locked {
            let missing = missing_days(zone, through, due, config.catch_up_days);
            if let (Some(through), Some(first)) = (through, missing.first())
                && calendar::next(through) < *first
            {
                let left_out = (calendar::next(through), calendar::previous(*first));
                skipped.entry(left_out).or_insert_with(Vec::new).push(lab);
            }
            if !missing.is_empty() {
                let before = lookback(zone, &missing, due, config.lookback_days);
                if !before.is_empty() {
                    again.push((lab, before));
                }
                days.push((lab, missing));
            }
        }
        enqueued::record(&mut tx, rollup, labs, due, zone.name()).await?;
    }
    let mut runs_enqueued = Vec::new();
    for (kind, name, labs) in [(JobKind::Nightly, "nightly", days), (JobKind::Repair, "lookback", again)] {
        if !labs.is_empty() {
            let (_, days) = runs::describe(&labs);
            let run = NewRun {
                reason: format!("{name} {} {days}", zone.name()),
                requested_by: "scheduler".to_owned(),
                time_zone: Some(zone.name().to_owned()),
                ..tick.new_run(kind, labs)
            };
            runs_enqueued.push((kind, Enqueued::create(&mut tx, run).await?));
        }
    }
    tx.commit().await?;
    Ok((runs_enqueued, skipped))
}

/// The days to enqueue: all that closed since `through`, but no older than the catch-up limit; a lab seen for the
/// first time starts at the due day.
pub(super) fn missing_days(
    zone: Zone,
    through: Option<NaiveDate>,
    due: NaiveDate,
    catch_up_days: u32,
) -> Vec<NaiveDate> {
    let first = match through {
        None => due,
        Some(through) => calendar::next(through).max(calendar::days_before(due, catch_up_days.saturating_sub(1))),
    };
    zone.dates(first, due).collect()
}

/// The closed days to check again: those of the last `days` before `due` that are not enqueued anyway.
fn lookback(zone: Zone, missing: &[NaiveDate], due: NaiveDate, days: u32) -> Vec<NaiveDate> {
    zone.dates(calendar::days_before(due, days), calendar::previous(due)).filter(|day| !missing.contains(day)).collect()
}

/// The day up to which each lab has been enqueued.
async fn enqueued_through<'q>(
    tx: &mut Tx,
    query: impl Into<Query<'q>>,
    args: Vec<Arg>,
) -> Result<BTreeMap<i64, Option<NaiveDate>>, DbError> {
    let labs = tx.fetch_all(query, args, |row| Ok((row.int(0)?, row.date_or_null(1)?))).await?;
    Ok(labs.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;

    fn date(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// Enqueues at hourly ticks from 1 March to 30 April; returns the days.
    fn enqueued(policy: NightlyAt, zone: &str) -> Vec<NaiveDate> {
        let zone = Zone::parse(Some(zone)).unwrap();
        let mut through = Some(date("2026-02-27"));
        let mut days = Vec::new();
        for hour in 0..24 * 61 {
            let now = at("2026-03-01T04:00:00Z") + chrono::Duration::hours(hour);
            let due = policy.due_day(zone, now);
            assert!(zone.is_closed(due, now), "{due} is not over at {now}");
            let missing = missing_days(zone, through, due, 7);
            through = through.max(missing.last().copied());
            days.extend(missing);
        }
        days
    }

    #[test]
    fn each_day_is_enqueued_once_across_a_change_of_the_clocks() {
        for policy in ["04:00 UTC", "01:30 local", "00:00 local", "02:30 local", "23:59 local"] {
            let policy: NightlyAt = policy.parse().unwrap();
            for zone in ["America/New_York", "Africa/Cairo", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Apia"] {
                let days = enqueued(policy, zone);
                let expected: Vec<_> = calendar::dates(date("2026-02-28"), *days.last().unwrap()).collect();
                assert_eq!(days, expected, "{policy} {zone}");
                assert!(days.len() > 58, "{policy} {zone}");
            }
        }
    }

    #[test]
    fn the_old_tick_lost_the_seventh_of_march_in_new_york() {
        let zone = Zone::parse(Some("America/New_York")).unwrap();
        assert_eq!(zone.yesterday(at("2026-03-08T04:00:00Z")), date("2026-03-06"));
        assert_eq!(zone.yesterday(at("2026-03-09T04:00:00Z")), date("2026-03-08"));
        assert_eq!(
            missing_days(zone, Some(date("2026-03-06")), date("2026-03-08"), 7),
            [date("2026-03-07"), date("2026-03-08")]
        );
    }

    #[test]
    fn catch_up_goes_so_many_days_back_and_a_new_lab_starts_at_yesterday() {
        let zone = Zone::parse(Some("Asia/Kolkata")).unwrap();
        let days = missing_days(zone, Some(date("2026-01-01")), date("2026-03-10"), 3);
        assert_eq!(days, [date("2026-03-08"), date("2026-03-09"), date("2026-03-10")]);
        assert_eq!(missing_days(zone, None, date("2026-03-10"), 3), [date("2026-03-10")]);
        assert_eq!(missing_days(zone, Some(date("2026-03-11")), date("2026-03-10"), 3), []);
    }

    #[test]
    fn the_lookback_leaves_out_what_is_enqueued_anyway_and_days_that_do_not_exist() {
        let zone = Zone::parse(Some("Pacific/Apia")).unwrap();
        let [due, before, long_before] = ["2011-12-31", "2011-12-29", "2011-12-28"].map(date);
        assert_eq!(lookback(zone, &[due], due, 0), []);
        assert_eq!(lookback(zone, &[due], due, 3), [long_before, before], "Samoa had no 30th");
        assert_eq!(lookback(zone, &[before, due], due, 3), [long_before]);
    }
}
