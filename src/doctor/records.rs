//! The lab system's records: `operation_event_log`, and the migration records.

use std::collections::{BTreeMap, HashSet, VecDeque};

use chrono::{DateTime, Duration, Utc};

use super::{COUNT_MAX, Check, Findings, Severity, Site, counted, examples, look};
use crate::{
    args,
    db::{DbError, Mode, Row},
    runs::{self, records::MIGRATION_TYPE},
    statement,
};

pub(super) const CHECKS: &[Check] = &[
    Check::new("records.event_log", Severity::Warning, "operation_event_log", look!(event_log)).of_daymend(),
    Check::new("records.stuck", Severity::Warning, "migration records", look!(stuck)).of_daymend(),
    Check::new("records.waiting", Severity::Warning, "migration records", look!(waiting)).of_daymend(),
    Check::new("records.doubled", Severity::Note, "migration records", look!(doubled)).of_daymend(),
];

statement!(
    Doctor: EVENT_LOG,
    "doctor event log",
    "SELECT event_name, status, created_at FROM operation_event_log
     WHERE id > (SELECT CAST(MAX(id) AS SIGNED) FROM operation_event_log) - ? AND event_name NOT LIKE ?
     ORDER BY id DESC LIMIT 10000"
);

statement!(
    Doctor: STUCK,
    "doctor stuck records",
    "SELECT records.id, records.lab_id, records.job_status
     FROM crelio_data_migrations AS records
     LEFT JOIN daymend_migrations AS links ON links.migration_id = records.id
     LEFT JOIN daymend_runs AS runs ON runs.id = links.run_id AND runs.state = 'running'
     WHERE records.migration_type = ? AND records.job_status LIKE 'Running%' AND runs.id IS NULL
     ORDER BY records.id LIMIT ?"
);

statement!(
    Doctor: WAITING,
    "doctor waiting records",
    "SELECT id, lab_id FROM crelio_data_migrations
     WHERE migration_type = ? AND is_scheduled = 1 AND job_status = 'Pending' AND modified_at < ? ORDER BY id LIMIT ?"
);

statement!(
    Doctor: DOUBLED,
    "doctor doubled records",
    "SELECT lab_id, COUNT(*) FROM crelio_data_migrations
     WHERE migration_type = ? AND is_scheduled = 1 AND job_status = 'Pending'
     GROUP BY lab_id HAVING COUNT(*) > 1 ORDER BY lab_id LIMIT ?"
);

/// How long something may take after its STARTED entry; the old nightly event took hours at most.
const STARTED_MAX: Duration = Duration::hours(6);

/// How many of the latest entries are looked through. Late changes, which are left out, add one every two seconds at
/// most: that is five days, or more.
const ENTRIES_MAX: i64 = 500_000;

/// How long a pending record may wait for a scheduler, which looks every second.
const PENDING_MAX: Duration = Duration::minutes(10);

/// An entry of the event log.
struct Entry {
    name: String,
    status: String,
    at: DateTime<Utc>,
}

/// What has STARTED and not ended, by name, oldest first; `entries` are newest first.
fn unfinished(entries: &[Entry]) -> Vec<(&str, DateTime<Utc>)> {
    let mut open: BTreeMap<&str, VecDeque<DateTime<Utc>>> = BTreeMap::new();
    for entry in entries.iter().rev() {
        let started = open.entry(entry.name.as_str()).or_default();
        if entry.status.eq_ignore_ascii_case("STARTED") {
            started.push_back(entry.at);
        } else {
            // An end belongs to the latest start before it: any earlier start never ended.
            started.pop_back();
        }
    }
    let mut unfinished: Vec<_> =
        open.into_iter().flat_map(|(name, at)| at.into_iter().map(move |at| (name, at))).collect();
    unfinished.sort_unstable_by_key(|(_, at)| *at);
    unfinished
}

async fn event_log(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let read = |row: &Row| Ok(Entry { name: row.text(0)?, status: row.text(1)?, at: row.instant(2)? });
    let entries = site.read(&EVENT_LOG, args![ENTRIES_MAX, runs::late_changes()], read).await?;
    let mut tx = site.db.begin(Mode::Snapshot).await?;
    let open: HashSet<String> = runs::open(&mut tx).await?.into_iter().map(|run| run.event_name).collect();
    tx.commit().await?;
    let before = site.db.database_now().await? - STARTED_MAX;
    let unfinished = unfinished(&entries);
    let old: Vec<_> = unfinished.iter().filter(|(name, at)| *at < before && !open.contains(*name)).collect();
    for (name, at) in old.iter().take(20) {
        let day = (*at - Duration::days(1)).date_naive();
        let advice = format!(
            "daymend repair --day {day}; then record its end: INSERT INTO operation_event_log (event_name, status, \
             created_at) VALUES ('{}', 'FAILED', '{}');",
            name.replace('\\', "\\\\").replace('\'', "''"),
            at.format("%Y-%m-%d %H:%M:%S")
        );
        let what = format!("{name} STARTED at {} UTC and never ended", at.format("%Y-%m-%d %H:%M"));
        findings.add("operation_event_log", what, advice);
    }
    if old.len() > 20 {
        findings.add("operation_event_log", format!("{} more never ended", old.len() - 20), "daymend audit");
    }
    Ok(())
}

async fn stuck(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let read = |row: &Row| Ok((row.int(0)?, row.int(1)?, row.text(2)?));
    let stuck = site.read(&STUCK, args![MIGRATION_TYPE, COUNT_MAX + 1], read).await?;
    let more = stuck.len().saturating_sub(20);
    for (id, lab, status) in stuck.into_iter().take(20) {
        let ask_again = format!(
            "UPDATE crelio_data_migrations SET job_status = 'Pending', is_scheduled = 1 WHERE id = {id}; (rebuilds lab {lab})"
        );
        findings.add(
            format!("record {id}"),
            format!("of lab {lab} has status {status:?}, but no run carries it out"),
            ask_again,
        );
    }
    if more > 0 {
        findings.add("crelio_data_migrations", format!("{more} more like these"), "daymend runs list");
    }
    Ok(())
}

async fn waiting(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let before = site.db.database_now().await? - PENDING_MAX;
    let args = args![MIGRATION_TYPE, before, COUNT_MAX + 1];
    let waiting = site.read(&WAITING, args, |row| Ok((row.int(0)?, row.int(1)?))).await?;
    if !waiting.is_empty() {
        let what = format!("{} not taken for more than ten minutes", counted(waiting.len(), "migration record"));
        let records = waiting.iter().map(|(id, lab)| format!("record {id} of lab {lab}"));
        findings.add(examples(records), what, "start daymend scheduler (or serve)");
    }
    Ok(())
}

async fn doubled(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let args = args![MIGRATION_TYPE, COUNT_MAX + 1];
    let doubled = site.read(&DOUBLED, args, |row| Ok((row.int(0)?, row.int(1)?))).await?;
    if !doubled.is_empty() {
        let labs = doubled.iter().map(|(lab, records)| format!("lab {lab} ({records} records)"));
        findings.add(
            examples(labs),
            "have several pending migration records",
            "nothing to do: one rebuild carries out all of them",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_belongs_to_the_start_before_it() {
        let entry = |name: &str, status: &str, hour: u32| Entry {
            name: name.to_owned(),
            status: status.to_owned(),
            at: format!("2026-03-15T{hour:02}:00:00Z").parse().unwrap(),
        };
        // Newest first, as when they are read.
        let entries = [
            entry("nightly", "COMPLETED", 9),
            entry("nightly", "STARTED", 8),
            entry("other", "FAILED", 7),
            entry("other", "STARTED", 6),
            entry("nightly", "STARTED", 4),
            entry("cut off", "COMPLETED", 3),
        ];
        let hours: Vec<String> =
            unfinished(&entries).iter().map(|(name, at)| format!("{name} {}", at.format("%H"))).collect();
        assert_eq!(hours, ["nightly 04"]);
    }
}
