//! The standing audit: every night it compares a slice of the history with its source.
//!
//! A night has one slice, a row that one scheduler takes by compare-and-set; others find it taken or done. Its holder
//! goes from lab to lab, the longest unaudited first, as far as the time budget allows. Every few seconds, in one
//! transaction, it records each lab's progress and the findings, which also extends its lease.
//!
//! How it fails: a scheduler that dies loses the few seconds since it last recorded; when its lease has expired,
//! another continues from there with the remaining budget. Labs and days that cannot be compared are noted with their
//! lab, and hold up nothing else. The audit runs in the background and never delays a tick.

mod slice;

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use strum::IntoEnumIterator as _;
use tokio_util::sync::CancellationToken;

use super::{
    Scheduler,
    nightly::NightlyAt,
    pace::{Pace, until_soon_after},
};
use crate::{
    audit::{
        cause::Cause,
        cursors,
        slices::{self, Counts},
    },
    db::{Backoff, Db, DbError},
    metrics::catalogue::{AUDIT_LABS_PENDING, AUDIT_LAST, AUDIT_LAST_DIFFERENCES, AUDIT_OLDEST},
    queue::admin::prune,
};
use slice::{LEASE, Slice};

/// How often to check whether a slice is due.
const EVERY: Duration = Duration::from_secs(60);

/// How long after the nightly run a slice begins: days that have just closed come first.
const AFTER_NIGHTLY: chrono::Duration = chrono::Duration::minutes(30);

/// Configuration of the standing audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditConfig {
    /// How long a night's slice may take.
    pub budget: Duration,
    /// Whether to repair what has drifted.
    pub repair: bool,
}

/// The result of a slice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SliceReport {
    /// What this process did of it.
    pub counts: Counts,
    /// The repair of what it found, if one was asked for and something can be repaired.
    pub run_id: Option<i64>,
}

/// Checks regularly whether a slice is due, until `shutdown`.
pub(super) async fn audit_until(scheduler: &Scheduler<'_>, shutdown: &CancellationToken) {
    let mut pace = Pace::new(
        "the audit was interrupted, continuing later",
        "the audit goes on",
        Backoff { base: EVERY, max: EVERY },
    );
    while scheduler.config.audit.is_some() && !shutdown.is_cancelled() {
        let audit = audit_tonight(scheduler, shutdown);
        let Some(audited) = until_soon_after(shutdown, audit).await else { return };
        pace.rest_after(audited.map(|_| EVERY), shutdown).await;
    }
}

/// Sets the gauges; independent of the slices, which may take long, or keep failing.
pub(super) async fn observe(db: &Db, rollup: &str) -> Result<(), DbError> {
    if let Some(at) = slices::last_ended(db, rollup).await? {
        AUDIT_LAST.set([], at.timestamp() as f64);
        let mut found: BTreeMap<String, i64> = Cause::iter().map(|cause| (cause.name().to_owned(), 0)).collect();
        found.extend(slices::found_last(db, rollup).await?);
        for (cause, rows) in found {
            AUDIT_LAST_DIFFERENCES.set([&cause], rows as f64);
        }
    }
    let coverage = cursors::coverage(db, rollup).await?;
    AUDIT_LABS_PENDING.set([], coverage.labs_unaudited as f64);
    if let Some(at) = coverage.oldest_round_at {
        AUDIT_OLDEST.set([], at.timestamp() as f64);
    }
    Ok(())
}

/// Audits the night's slice, and finishes earlier slices that were left unfinished; returns the result of each, which
/// is empty if nothing is left to do or another scheduler is doing it.
pub async fn audit_tonight(
    scheduler: &Scheduler<'_>,
    shutdown: &CancellationToken,
) -> Result<Vec<SliceReport>, DbError> {
    let Scheduler { db, rollup, config, .. } = scheduler;
    let mut reports = Vec::new();
    let Some(audit) = config.audit else { return Ok(reports) };
    let night = night_of(config.nightly_at, scheduler.now().await?);
    slices::open(db, &rollup.name, night).await?;
    while !shutdown.is_cancelled()
        && let Some(taken) = slices::take(db, &rollup.name, LEASE).await?
    {
        // An earlier night's slice only has to be ended: tonight's has a budget of its own.
        let budget = if taken.night == night { audit.budget } else { Duration::ZERO };
        let mut slice = Slice::begin(*scheduler, taken, budget, shutdown).await?;
        if !slice.work().await? {
            break;
        }
        if shutdown.is_cancelled() {
            slices::release(db, &taken).await?;
            break;
        }
        let Some(run_id) = slice.end(audit.repair).await? else { break };
        let counts = slice.done;
        tracing::info!(
            labs_completed = counts.labs_completed,
            days = counts.days_audited,
            days_drifted = counts.days_drifted,
            differences = counts.differences,
            repair = run_id,
            "audited a slice of the history"
        );
        reports.push(SliceReport { counts, run_id });
        if let Some(retention) = config.retention {
            slices::prune(db, prune::cutoff(db, retention).await?).await?;
        }
    }
    Ok(reports)
}

/// The night that a moment falls in.
fn night_of(nightly_at: NightlyAt, now: DateTime<Utc>) -> NaiveDate {
    let time = match nightly_at {
        NightlyAt::Utc(time) => time,
        NightlyAt::Local(_) => NaiveTime::MIN,
    };
    (now - (time - NaiveTime::MIN) - AFTER_NIGHTLY).date_naive()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_night_begins_half_an_hour_after_the_nightly_run() {
        let night = |policy: &str, now: &str| night_of(policy.parse().unwrap(), now.parse().unwrap()).to_string();
        assert_eq!(night("04:00 UTC", "2026-03-10T04:29:59Z"), "2026-03-09");
        assert_eq!(night("04:00 UTC", "2026-03-10T04:30:00Z"), "2026-03-10");
        assert_eq!(night("04:00 UTC", "2026-03-11T04:29:59Z"), "2026-03-10");
        assert_eq!(night("01:30 local", "2026-03-10T00:29:59Z"), "2026-03-09");
        assert_eq!(night("01:30 local", "2026-03-10T00:30:00Z"), "2026-03-10");
    }
}
