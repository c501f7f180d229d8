//! The queue: jobs that nobody runs, that were discarded, or that should have been deleted; workers and schedulers.

use std::collections::BTreeSet;

use chrono::Duration;
use strum::IntoEnumIterator as _;

use super::{COUNT_MAX, Check, Findings, Severity, Site, counted, lab_list, look};
use crate::{
    args,
    db::{DbError, Mode},
    queue::{
        JobKind,
        admin::pause::{self, Pause},
        claim, lease,
    },
    recompute::shrink::WOULD_VANISH,
    statement,
};

pub(super) const CHECKS: &[Check] = &[
    Check::new("queue.workers", Severity::Error, "workers", look!(workers)).of_daymend(),
    Check::new("queue.scheduler", Severity::Error, "schedulers", look!(scheduler)).of_daymend(),
    Check::new("queue.discarded", Severity::Warning, "discarded jobs", look!(discarded)).of_daymend(),
    Check::new("queue.paused", Severity::Note, "what is paused", look!(paused)).of_daymend(),
    Check::new("queue.unpruned", Severity::Warning, "runs that should have been pruned", look!(unpruned)).of_daymend(),
];

statement!(
    Doctor: WAITING,
    "doctor waiting jobs",
    "SELECT lab_id FROM daymend_jobs {force_claim}
     WHERE kind = ? AND state = 'available' AND sort_key <= {now_us} LIMIT ?"
);

statement!(
    Doctor: DISCARDED,
    "doctor discarded jobs",
    "SELECT id, lab_id, error FROM daymend_jobs {force_claim}
     WHERE kind IN ('nightly', 'repair', 'rebuild') AND state = 'discarded' LIMIT ?"
);

// Asking for the open jobs of each run would read the whole index for each: no server makes a range of a run's ids.
statement!(
    Doctor: ENDED,
    "doctor ended runs",
    "SELECT id, reason FROM daymend_runs
     WHERE state = 'running' AND created_at < ?
       AND id NOT IN (SELECT run_id FROM daymend_jobs {force_claim}
                      WHERE kind IN ('nightly', 'repair', 'rebuild') AND state IN ('available', 'running'))
     ORDER BY id LIMIT 100"
);

statement!(
    Doctor: ACTIVITY,
    "doctor scheduler activity",
    "SELECT requested_by, created_at, finished_at FROM daymend_runs ORDER BY id DESC LIMIT 200"
);

// The last completed nightly run of each zone is never pruned.
statement!(
    Doctor: UNPRUNED,
    "doctor old runs",
    "SELECT id, finished_at FROM daymend_runs
     WHERE state IN ('completed', 'failed', 'cancelled') AND finished_at < ?
       AND id NOT IN (SELECT MAX(id) FROM daymend_runs WHERE state = 'completed' AND kind = 'nightly' GROUP BY time_zone)
     ORDER BY id LIMIT ?"
);

/// How old an open run may be whose jobs have all ended: a scheduler closes it within a second or two.
const CLOSING_MAX: Duration = Duration::minutes(5);

/// How much longer than the retention a run may stay: runs are pruned every hour.
const PRUNING_MAX: Duration = Duration::days(1);

/// The advice for jobs that were discarded because rows would vanish: no retry helps while those rows are gone.
const ROWS_LOST: &str = "the source may have lost rows: find out why before you rebuild or use --max-shrink off \
     (docs/recovery.md); when the rows are back: daymend queue retry --error 'would vanish'";

/// The advice for other discarded jobs.
const CAUSE_GONE: &str = "daymend queue list --state discarded; when the cause is gone: daymend queue retry --all";

async fn pauses(site: &Site<'_>) -> Result<Vec<Pause>, DbError> {
    let mut tx = site.db.begin(Mode::Snapshot).await?;
    let pauses = pause::list(&mut tx).await?;
    tx.rollback().await?;
    Ok(pauses)
}

async fn workers(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let alive = lease::workers_alive(site.db).await?;
    findings.fact("workers", format!("{alive} alive"));
    if alive > 0 {
        return Ok(());
    }
    let pauses = pauses(site).await?;
    let mut waiting = 0;
    for kind in JobKind::iter() {
        if !pauses.iter().any(|pause| pause.what == claim::pause_name(kind)) {
            let args = args![kind.name(), COUNT_MAX + 1];
            waiting += site.read(&WAITING, args, |row| row.int(0)).await?.len();
        }
    }
    if waiting > 0 {
        findings.add(
            "workers",
            format!("none is alive to run {}", counted(waiting, "job")),
            "start daymend worker (or serve)",
        );
    }
    Ok(())
}

async fn scheduler(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let runs = site.read(&ACTIVITY, args![], |row| {
        let created = if row.text(0)? == "scheduler" { Some(row.instant(1)?) } else { None };
        Ok(created.max(row.instant_or_null(2)?))
    });
    let latest = runs.await?.into_iter().flatten().max();
    let shown =
        latest.map_or("never, as far as known".to_owned(), |at| format!("{} UTC", at.format("%Y-%m-%d %H:%M:%S")));
    findings.fact("scheduler", format!("last enqueued or closed a run: {shown}"));
    let before = site.db.database_now().await? - CLOSING_MAX;
    let ended = site.read(&ENDED, args![before], |row| Ok((row.int(0)?, row.text(1)?))).await?;
    if let Some((id, reason)) = ended.first() {
        let what = format!(
            "all its jobs have ended, but no scheduler closes it ({} in all): {reason}",
            counted(ended.len(), "run")
        );
        findings.add(format!("run {id}"), what, "start daymend scheduler (or serve)");
    }
    Ok(())
}

async fn discarded(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let read = |row: &crate::db::Row| Ok((row.int(0)?, row.int(1)?, row.text_or_null(2)?.unwrap_or_default()));
    let jobs = site.read(&DISCARDED, args![COUNT_MAX + 1], read).await?;
    let at_least = if jobs.len() > COUNT_MAX { "at least " } else { "" };
    let (lost, others): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|(_, _, error)| error.contains(WOULD_VANISH));
    for (jobs, advice) in [(lost, ROWS_LOST), (others, CAUSE_GONE)] {
        if let Some((id, _, error)) = jobs.last() {
            let labs: BTreeSet<i64> = jobs.iter().map(|(_, lab, _)| *lab).collect();
            let count = counted(jobs.len().min(COUNT_MAX), "job");
            let what = format!("{at_least}{count} discarded, such as job {id}: {error}");
            findings.add(lab_list(&labs), what, advice);
        }
    }
    Ok(())
}

async fn paused(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    for pause in pauses(site).await?.iter().take(20) {
        let what =
            format!("has been paused since {} UTC by {}", pause.paused_at.format("%Y-%m-%d %H:%M"), pause.paused_by);
        let target = match pause.lab_id {
            Some(lab) => format!("--lab {lab}"),
            None => pause.what.trim_start_matches("kind:").to_owned(),
        };
        findings.add(pause.what.clone(), what, format!("daymend queue resume {target}"));
    }
    Ok(())
}

async fn unpruned(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let Some(retention) = site.retention else { return Ok(()) };
    let age = Duration::from_std(retention).unwrap_or(Duration::MAX);
    let Some(before) = site.db.database_now().await?.checked_sub_signed(age.checked_add(&PRUNING_MAX).unwrap_or(age))
    else {
        return Ok(());
    };
    let old = site.read(&UNPRUNED, args![before, COUNT_MAX + 1], |row| row.instant(1)).await?;
    if let Some(oldest) = old.iter().min() {
        // `90 days`, and not months, days and hours.
        let retention = match (retention.as_secs() / 86400, retention.as_secs() % 86400) {
            (days, 0) => format!("{days} days"),
            _ => humantime::format_duration(retention).to_string(),
        };
        let what = format!(
            "{} kept for longer than {retention}, the oldest since {}",
            counted(old.len(), "run"),
            oldest.date_naive()
        );
        let advice =
            format!("daymend queue prune --older-than \"{retention}\"; a scheduler with --retention does it by itself");
        findings.add("daymend_runs", what, advice);
    }
    Ok(())
}
