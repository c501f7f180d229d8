//! Labs: their zones, and whether their closed days are in the summary.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{Duration, NaiveDate};

use super::{COUNT_MAX, Check, Findings, LAB_OPTIONS_MAX, Severity, Site, counted, lab_list, lab_options, look};
use crate::{
    args,
    calendar::{self, Zone, ZoneError},
    db::{DbError, Mode},
    queue::PAUSED,
    rollup::{HISTORICAL_SUMMARY, source, source::Lab},
    statement,
};

/// How many days are enqueued again after a clock was ahead: as many as a scheduler catches up on by default.
const AHEAD_BACK: u32 = 7;

pub(super) const CHECKS: &[Check] = &[
    Check::new("labs.none", Severity::Warning, "whether there are labs to maintain", look!(none)),
    Check::new("labs.zone_unusable", Severity::Warning, "the labs' time zones", look!(zones)),
    Check::new("labs.zone_changed", Severity::Warning, "the time zones that histories were built in", look!(moved))
        .of_daymend(),
    Check::new("labs.overdue", Severity::Warning, "days that should be in the summary", look!(overdue)).of_daymend(),
    Check::new("labs.ahead", Severity::Error, "days that were enqueued too early", look!(ahead)).of_daymend(),
    Check::new("labs.late", Severity::Warning, "nightly runs", look!(late)).of_daymend(),
];

statement!(
    Doctor: KNOWN,
    "doctor labs",
    "SELECT lab_id, enqueued_through, time_zone FROM daymend_labs WHERE rollup = ?"
);

statement!(
    Doctor: LATE,
    "doctor late runs",
    "SELECT id, reason FROM daymend_runs
     WHERE state = 'running' AND kind = 'nightly' AND created_at < ?
       AND NOT EXISTS (SELECT 1 FROM daymend_pauses WHERE what = 'kind:nightly')
       AND EXISTS (SELECT 1 FROM daymend_jobs
                   WHERE daymend_jobs.id BETWEEN daymend_runs.id * 100000000 AND daymend_runs.id * 100000000 + 99999999
                     AND (daymend_jobs.state = 'running' OR daymend_jobs.state = 'available' AND daymend_jobs.sort_key < ?))
     ORDER BY id LIMIT ?"
);

statement!(
    Doctor: REBUILT_NOW,
    "doctor open rebuilds",
    "SELECT lab_id FROM daymend_runs WHERE state = 'running' AND kind = 'rebuild'"
);

/// How long a nightly run may take before it counts as late.
const GRACE: Duration = Duration::hours(1);

/// How many days of history are compared to see whether a change of zone matters.
const HISTORY_DAYS: u32 = 3660;

/// The enabled labs, by id.
async fn enabled(site: &Site<'_>) -> Result<Vec<Lab>, DbError> {
    let Some(rollup) = site.rollups.get(HISTORICAL_SUMMARY) else { return Ok(Vec::new()) };
    let mut tx = site.db.begin(Mode::Snapshot).await?;
    let mut labs = source::labs(&mut tx, rollup).await?;
    tx.rollback().await?;
    labs.retain(|lab| lab.enabled);
    Ok(labs)
}

/// For each lab, the day up to which it has been enqueued, and the zone that its history was built with.
async fn known(site: &Site<'_>) -> Result<BTreeMap<i64, (Option<NaiveDate>, Option<String>)>, DbError> {
    let rows = site
        .read(&KNOWN, args![HISTORICAL_SUMMARY], |row| Ok((row.int(0)?, (row.date_or_null(1)?, row.text_or_null(2)?))));
    Ok(rows.await?.into_iter().collect())
}

/// If no lab is enabled, nothing is ever due, and everything else looks well.
async fn none(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let Some(rollup) = site.rollups.get(HISTORICAL_SUMMARY) else { return Ok(()) };
    if enabled(site).await?.is_empty() {
        let advice = "is this the right database? If so, set historicalViewEnabled of the labs that have the \
                      Historical View";
        findings.add(&rollup.labs.file, "no lab is enabled: no day is recomputed", advice);
    }
    Ok(())
}

async fn zones(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let labs = enabled(site).await?;
    let mut names = BTreeSet::new();
    // One finding per reason: a hundred labs without a zone are a single task.
    let mut unusable: BTreeMap<(String, &str), Vec<i64>> = BTreeMap::new();
    for lab in &labs {
        match lab.zone() {
            Ok(zone) => {
                names.insert(zone.name());
            }
            Err(error) => {
                let is_unreadable = matches!(error, ZoneError::Unreadable(_));
                let remedy = if is_unreadable { "correct the row" } else { "set labTimeZone to an IANA name" };
                unusable.entry((error.to_string(), remedy)).or_default().push(lab.id);
            }
        }
    }
    findings.fact("labs", format!("{} enabled, in {}", labs.len(), counted(names.len(), "time zone")));
    for ((why, remedy), labs) in unusable.iter().take(20) {
        let advice =
            format!("{remedy} for lab {}: the next tick catches up", crate::error::examples(labs, LAB_OPTIONS_MAX));
        findings.add(lab_list(labs), format!("cannot be recomputed: {why}"), advice);
    }
    Ok(())
}

async fn moved(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let known = known(site).await?;
    let rebuilt_now: BTreeSet<i64> = site.read(&REBUILT_NOW, args![], |row| row.int(0)).await?.into_iter().collect();
    let mut changed: BTreeMap<(String, &str), Vec<i64>> = BTreeMap::new();
    for lab in enabled(site).await?.into_iter().filter(|lab| !rebuilt_now.contains(&lab.id)) {
        let (Ok(zone), Some((through, Some(built)))) = (lab.zone(), known.get(&lab.id)) else { continue };
        let through = through.unwrap_or_else(|| zone.yesterday(site.now));
        if days_differ(built, zone, through) {
            changed.entry((built.clone(), zone.name())).or_default().push(lab.id);
        }
    }
    for ((built, zone), labs) in changed.into_iter().take(20) {
        let what = format!("history was built in {built}, but the lab is now in {zone}: its days begin at other times");
        findings.add(lab_list(&labs), what, format!("daymend rebuild {}", lab_options(labs)));
    }
    Ok(())
}

/// Whether the days of a history begin at different moments in another zone. They do not if it is an alias of the same
/// zone (Asia/Calcutta).
fn days_differ(built: &str, zone: Zone, through: NaiveDate) -> bool {
    if built == zone.name() {
        return false;
    }
    let Ok(built) = Zone::parse(Some(built)) else { return true };
    let first = calendar::days_before(through, HISTORY_DAYS);
    calendar::dates(first, calendar::next(through)).any(|date| built.first_instant(date) != zone.first_instant(date))
}

async fn overdue(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let known = known(site).await?;
    // By the last day that was enqueued: its labs, and the last day that is due in any of them.
    let mut behind: BTreeMap<NaiveDate, (Vec<i64>, NaiveDate)> = BTreeMap::new();
    let mut unknown = Vec::new();
    for lab in enabled(site).await? {
        let Ok(zone) = lab.zone() else { continue };
        let due = site.nightly_at.due_day(zone, site.now - GRACE);
        match known.get(&lab.id).and_then(|(through, _)| *through) {
            Some(through) if through < due => {
                let (labs, last) = behind.entry(through).or_insert_with(|| (Vec::new(), due));
                labs.push(lab.id);
                *last = due.max(*last);
            }
            Some(_) => {}
            None => unknown.push(lab.id),
        }
    }
    let advice = "start daymend scheduler (or serve)";
    if !unknown.is_empty() {
        findings.add(lab_list(&unknown), "no day has been enqueued yet", advice);
    }
    for (through, (labs, last)) in behind.iter().take(20) {
        // For many labs, suggest repairing all labs: a day that is right costs only a read.
        let of_labs = if labs.len() > LAB_OPTIONS_MAX {
            String::new()
        } else {
            format!("{} ", lab_options(labs.iter().copied()))
        };
        let advice = format!(
            "{advice}; for days older than its --catch-up-days: daymend repair {of_labs}--day {} --to {last}",
            calendar::next(*through)
        );
        findings.add(lab_list(labs), format!("overdue: no day after {through} has been enqueued"), advice);
    }
    Ok(())
}

async fn ahead(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let known = known(site).await?;
    let mut ahead: BTreeMap<(NaiveDate, NaiveDate), Vec<i64>> = BTreeMap::new();
    for lab in enabled(site).await? {
        let (Ok(zone), Some((Some(through), _))) = (lab.zone(), known.get(&lab.id)) else { continue };
        let yesterday = zone.yesterday(site.now);
        if *through > yesterday {
            ahead.entry((*through, yesterday)).or_default().push(lab.id);
        }
    }
    for ((through, yesterday), labs) in ahead.into_iter().take(20) {
        let ids: Vec<String> = labs.iter().map(ToString::to_string).collect();
        let back = calendar::days_before(yesterday, AHEAD_BACK);
        let what = format!("enqueued through {through}, which is not over yet: no nightly run is enqueued until then");
        let advice = format!(
            "a scheduler's clock, or its --now, was ahead: UPDATE daymend_labs SET enqueued_through = '{back}' WHERE \
             rollup = '{HISTORICAL_SUMMARY}' AND lab_id IN ({}); -- enqueues the days after it again, as some may have \
             been computed before they were over; for days up to {back}, or older than --catch-up-days: daymend repair",
            ids.join(", ")
        );
        findings.add(lab_list(&labs), what, advice);
    }
    Ok(())
}

async fn late(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let before = site.db.database_now().await? - GRACE;
    let late = site.read(&LATE, args![before, PAUSED, COUNT_MAX + 1], |row| Ok((row.int(0)?, row.text(1)?))).await?;
    if let Some((first, reason)) = late.first() {
        let what = format!("open for more than an hour ({} in all): {reason}", counted(late.len(), "nightly run"));
        findings.add(
            format!("run {first}"),
            what,
            format!("daymend runs show {first}; daymend queue stats; start more workers"),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_name_of_a_zone_moves_no_day() {
        let through: NaiveDate = "2026-06-14".parse().unwrap();
        let zone = |name| Zone::parse(Some(name)).unwrap();
        assert!(!days_differ("Asia/Calcutta", zone("Asia/Kolkata"), through));
        assert!(!days_differ("Asia/Kolkata", zone("Asia/Kolkata"), through));
        assert!(days_differ("Asia/Kolkata", zone("Asia/Karachi"), through));
        assert!(days_differ("Mars/Base", zone("Asia/Karachi"), through));
        // The same in winter, but not in summer.
        assert!(days_differ("Europe/Berlin", zone("Africa/Lagos"), through));
    }
}
