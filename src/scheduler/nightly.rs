//! The nightly run: which closed days of a lab have not been enqueued yet.
//!
//! The old event took "yesterday" from the wall clock at 04:00 UTC, which loses one day
//! every spring where 04:00 UTC is 23:00 in winter and midnight in summer, and repeats one
//! every autumn. This asks for the last day that should be in the summary by now, and
//! enqueues what lies between it and what is recorded in `daymend_labs`. The rows are locked
//! before they are compared, so that a second scheduler finds nothing left to do.

use std::{collections::BTreeMap, fmt, str::FromStr};

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};

use super::{Config, Report};
use crate::{
    args,
    calendar::{self, Zone},
    db::{Arg, Db, DbError, Mode, Query, Tx, retry},
    metrics::catalogue::JOBS_ENQUEUED,
    queue::JobKind,
    rollup::{Rollup, source},
    runs::{self, NewRun},
    statement,
};

/// How many labs one statement names.
const LABS_A_STATEMENT: usize = 500;

statement!(LABS_KNOWN, "enqueued labs", "SELECT lab_id, enqueued_through FROM daymend_labs WHERE rollup = ?");

statement!(LABS_ADD, "add labs", "{insert_ignore} INTO daymend_labs (rollup, lab_id) VALUES {rows}", "(?, ?)");

statement!(
    LABS_LOCK,
    "lock labs",
    "SELECT lab_id, enqueued_through FROM daymend_labs
     WHERE rollup = ? AND lab_id IN ({list}) ORDER BY lab_id {for_update}"
);

// Never backwards: another scheduler, whose clock is ahead, may have come first. The zone stays the one
// by which the history was built, so that the doctor sees a change until a rebuild has followed it.
statement!(
    LABS_RECORD,
    "record labs",
    "UPDATE daymend_labs SET enqueued_through = ?, time_zone = COALESCE(time_zone, ?)
     WHERE rollup = ? AND lab_id IN ({list}) AND (enqueued_through IS NULL OR enqueued_through < ?)"
);

/// When a day should be in the summary: `04:00 UTC`, or `01:30 local`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NightlyAt {
    /// At this time UTC, every day, for what is then yesterday in each zone.
    Utc(NaiveTime),
    /// At this time of the lab's own clock.
    Local(NaiveTime),
}

impl FromStr for NightlyAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?} is not a time such as \"04:00 UTC\" or \"01:30 local\"");
        let (time, zone) = text.trim().split_once(' ').ok_or_else(expected)?;
        let time = NaiveTime::parse_from_str(time, "%H:%M").map_err(|_| expected())?;
        match zone.trim() {
            zone if zone.eq_ignore_ascii_case("utc") => Ok(Self::Utc(time)),
            zone if zone.eq_ignore_ascii_case("local") => Ok(Self::Local(time)),
            _ => Err(expected()),
        }
    }
}

impl fmt::Display for NightlyAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Utc(time) => write!(f, "{} UTC", time.format("%H:%M")),
            Self::Local(time) => write!(f, "{} local", time.format("%H:%M")),
        }
    }
}

impl NightlyAt {
    /// When the old nightly event ran.
    pub const DEFAULT: Self = Self::Utc(match NaiveTime::from_hms_opt(4, 0, 0) {
        Some(time) => time,
        None => NaiveTime::MIN,
    });

    /// The last day of `zone` that should be in the summary at `now`.
    #[must_use]
    pub fn due_day(&self, zone: Zone, now: DateTime<Utc>) -> NaiveDate {
        match self {
            Self::Utc(time) => {
                let today = now.date_naive().and_time(*time).and_utc();
                let tick = if today <= now { today } else { today - Days::new(1) };
                zone.yesterday(tick)
            }
            Self::Local(time) => {
                let today = zone.date_of(now);
                let at = zone.first_instant_at(today, *time);
                if at <= now {
                    zone.yesterday(now)
                } else {
                    zone.yesterday(zone.first_instant(today) - chrono::Duration::nanoseconds(1))
                }
            }
        }
    }
}

/// Enqueues every closed day that has not been enqueued, one run a time zone.
pub async fn enqueue_closed_days(
    db: &Db,
    rollup: &Rollup,
    config: &Config,
    now: DateTime<Utc>,
    report: &mut Report,
) -> Result<(), DbError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let outlook = look_at_labs(&mut tx, rollup).await?;
    tx.commit().await?;
    report.unusable = outlook.unusable;
    for (zone, labs) in outlook.zones {
        let due = config.nightly_at.due_day(zone, now);
        let behind = labs.into_iter().filter(|(_, through)| through.is_none_or(|through| through < due));
        let behind: Vec<i64> = behind.map(|(lab, _)| lab).collect();
        if !behind.is_empty() {
            let enqueued = retry("nightly", || enqueue_zone(db, rollup, config, now, zone, due, &behind)).await?;
            if let Some((_, _, jobs)) = &enqueued {
                JOBS_ENQUEUED.add([JobKind::Nightly.name()], *jobs as u64);
            }
            report.enqueued.extend(enqueued);
        }
    }
    Ok(())
}

/// A lab, and through which day it has been enqueued.
type Enqueued = (i64, Option<NaiveDate>);

/// The labs, as far as nightly runs are concerned.
#[derive(Debug)]
pub(super) struct Outlook {
    /// Each zone with its labs.
    pub(super) zones: Vec<(Zone, Vec<Enqueued>)>,
    /// Labs without a usable zone, and why.
    pub(super) unusable: BTreeMap<i64, String>,
}

/// Reads which labs there are, in which zones, and how far they have come.
pub(super) async fn look_at_labs(tx: &mut Tx, rollup: &Rollup) -> Result<Outlook, DbError> {
    let labs = source::labs(tx, rollup).await?;
    let known = read_enqueued(&tx.fetch_all(&LABS_KNOWN, args![rollup.name.as_str()]).await?)?;
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

async fn enqueue_zone(
    db: &Db,
    rollup: &Rollup,
    config: &Config,
    now: DateTime<Utc>,
    zone: Zone,
    due: NaiveDate,
    labs: &[i64],
) -> Result<Option<(i64, String, usize)>, DbError> {
    let mut tx = db.begin(Mode::Write).await?;
    let mut days = Vec::new();
    for labs in labs.chunks(LABS_A_STATEMENT) {
        let rows = labs.iter().flat_map(|lab| args![rollup.name.as_str(), *lab]).collect();
        tx.execute(Query::new(LABS_ADD.name, LABS_ADD.with_rows(labs.len())), rows).await?;
        let locked = Query::new(LABS_LOCK.name, LABS_LOCK.with_list(labs.len()));
        let locked = read_enqueued(&tx.fetch_all(locked, named(rollup, labs)).await?)?;
        for (lab, through) in locked {
            let missing = missing_days(zone, through, due, config.catch_up_days);
            if let (Some(through), Some(first)) = (through, missing.first())
                && calendar::next(through) < *first
            {
                tracing::warn!(
                    lab,
                    "days before {first} are older than --catch-up-days and were not enqueued; to repair them: \
                     daymend repair --lab {lab} --day {} --to {}",
                    calendar::next(through),
                    calendar::previous(*first)
                );
            }
            if !missing.is_empty() {
                days.push((lab, missing));
            }
        }
        let mut args = args![due, zone.name(), rollup.name.as_str()];
        args.extend(labs.iter().map(|lab| Arg::Int(*lab)));
        args.push(due.into());
        tx.execute(Query::new(LABS_RECORD.name, LABS_RECORD.with_list(labs.len())), args).await?;
    }
    let enqueued =
        if days.is_empty() { None } else { Some(create_run(&mut tx, rollup, config, now, zone, due, days).await?) };
    tx.commit().await?;
    Ok(enqueued)
}

async fn create_run(
    tx: &mut Tx,
    rollup: &Rollup,
    config: &Config,
    now: DateTime<Utc>,
    zone: Zone,
    due: NaiveDate,
    labs: Vec<(i64, Vec<NaiveDate>)>,
) -> Result<(i64, String, usize), DbError> {
    let first = labs.iter().filter_map(|(_, days)| days.first()).min().copied().unwrap_or(due);
    let run = NewRun {
        rollup: rollup.name.clone(),
        kind: JobKind::Nightly,
        reason: format!("nightly {} {}", zone.name(), super::adhoc::span(first, due)),
        requested_by: "scheduler".to_owned(),
        time_zone: Some(zone.name().to_owned()),
        lab_id: None,
        as_of: now,
        labs,
        attempts_max: config.attempts_max,
        max_shrink: config.max_shrink,
    };
    let id = runs::create(tx, &run).await?;
    Ok((id, run.reason.clone(), run.jobs()))
}

/// The days to enqueue: all that closed since `through`, but not older than the catch-up; a
/// lab seen for the first time starts at the due day.
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

fn named(rollup: &Rollup, labs: &[i64]) -> Vec<Arg> {
    let mut args = args![rollup.name.as_str()];
    args.extend(labs.iter().map(|lab| Arg::Int(*lab)));
    args
}

fn read_enqueued(rows: &[crate::db::Row]) -> Result<BTreeMap<i64, Option<NaiveDate>>, DbError> {
    rows.iter()
        .map(|row| Ok((row.int(0)?, row.date_or_null(1)?)))
        .collect::<Result<_, _>>()
        .map_err(|error| DbError::new(LABS_KNOWN.name, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// Enqueues at every tick of four in the morning UTC from 1 March to 30 April.
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
    fn a_bad_policy_is_refused() {
        for text in ["4", "04:00", "25:00 UTC", "04:00 CET", ""] {
            assert!(text.parse::<NightlyAt>().is_err(), "{text:?}");
        }
    }
}
