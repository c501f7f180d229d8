//! `daymend scheduler`.

use std::{collections::BTreeMap, process::ExitCode, sync::Arc, time::Duration};

use clap::{Args, builder::BoolishValueParser};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{CONNECTIONS_SPARE, LimitArgs, TICK_FRESH, time};
use crate::{
    cli::{
        Exit, Global, historical_summary, print_json,
        process::{HttpArgs, once_reachable, shutdown_on_signal},
        snapshot::{self, SourceArgs, prune::KeepArgs},
    },
    clock::Clock,
    db::Db,
    health::Health,
    metrics,
    recompute::shrink::MaxShrink,
    runs::JobLimits,
    scheduler::{
        self, Scheduler,
        audits::AuditConfig,
        nightly::NightlyAt,
        snapshots::{self, Daily, SnapshotAt},
    },
};

/// Options of the scheduler.
#[derive(Debug, Args)]
pub(super) struct SchedulerArgs {
    /// When yesterday should be in the summary: a time in UTC ("04:00 UTC") or on each lab's own clock ("01:30
    /// local")
    #[arg(long, env = "DAYMEND_NIGHTLY_AT", default_value = "04:00 UTC", value_name = "TIME")]
    nightly_at: NightlyAt,

    /// Catch a lab up on at most this many past days
    #[arg(long, env = "DAYMEND_CATCH_UP_DAYS", default_value_t = 7, value_name = "DAYS",
          value_parser = clap::value_parser!(u32).range(1..=3660))]
    catch_up_days: u32,

    /// How many closed days before the due one to check again every night, for late changes
    #[arg(long, env = "DAYMEND_LOOKBACK_DAYS", default_value_t = 0, value_name = "DAYS",
          value_parser = clap::value_parser!(u32).range(0..=3660))]
    lookback_days: u32,

    /// How long to keep runs and their jobs after the run has closed (completed runs of late changes: a week at most);
    /// 0s for ever
    #[arg(long, env = "DAYMEND_RETENTION", default_value = "90d", value_name = "TIME", value_parser = humantime::parse_duration)]
    retention: Duration,

    /// Time budget of the nightly audit, which covers a slice of the history; 0s turns it off
    #[arg(long, env = "DAYMEND_AUDIT_BUDGET", default_value = "5m", value_name = "TIME", value_parser = humantime::parse_duration)]
    audit_budget: Duration,

    /// Repair what the nightly audit finds
    #[arg(long, env = "DAYMEND_AUDIT_REPAIR", value_parser = BoolishValueParser::new())]
    audit_repair: bool,

    #[command(flatten)]
    limits: LimitArgs,

    /// Like --max-shrink, for the jobs of rebuilds
    #[arg(long, env = "DAYMEND_MAX_SHRINK_REBUILD", default_value = "off", value_name = "SHARE")]
    max_shrink_rebuild: MaxShrink,
}

/// Options of the daily snapshot.
#[derive(Debug, Args)]
pub(super) struct SnapshotArgs {
    /// Take a daily snapshot, to a directory or s3://BUCKET/PREFIX (endpoint, region and credentials as AWS_… in the
    /// environment)
    #[arg(long = "snapshot-to", env = "DAYMEND_SNAPSHOT_STORE", value_name = "PLACE")]
    to: Option<String>,

    /// When the daily snapshot is due, with --snapshot-to
    #[arg(long = "snapshot-at", env = "DAYMEND_SNAPSHOT_AT", default_value = "02:00 UTC", value_name = "TIME")]
    at: SnapshotAt,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    keep: KeepArgs,
}

impl SnapshotArgs {
    /// The daily snapshot, if `--snapshot-to` is set. Mistakes that show without a connection are errors.
    pub(super) fn daily(&self, global: &Global) -> anyhow::Result<Option<Daily>> {
        let Some(place) = &self.to else { return Ok(None) };
        Ok(Some(Daily {
            at: self.at,
            store: snapshot::store(place)?,
            source: self.source.pool(global)?,
            tables: snapshot::default_tables(historical_summary(&global.rollups()?)?),
            keep: self.keep.keep.clone(),
            holder: format!("pid {} {:016x}", std::process::id(), rand::random::<u64>()),
        }))
    }
}

/// Takes snapshots in a task of its own until `shutdown`, if there are any to take. The task connects by itself, so
/// that no other work waits for a log-in that only snapshots need.
pub(super) fn take_daily(
    daily: &Option<Daily>,
    db: &Db,
    clock: Clock,
    shutdown: &CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let Some(daily) = daily.clone() else { return tokio::spawn(async {}) };
    let (db, shutdown) = (db.clone(), shutdown.clone());
    tokio::spawn(async move { snapshots::run(&db, &daily, clock, &shutdown).await })
}

impl SchedulerArgs {
    /// Logs the settings in force.
    pub(super) fn log(&self, daily: Option<&Daily>) {
        tracing::info!(
            nightly_at = %self.nightly_at,
            catch_up_days = self.catch_up_days,
            lookback_days = self.lookback_days,
            retention = time(self.retention),
            audit_budget = time(self.audit_budget),
            audit_repair = self.audit_repair,
            snapshots = daily.is_some(),
            "settings of the scheduler"
        );
    }

    pub(super) fn config(&self) -> scheduler::Config {
        scheduler::Config {
            nightly_at: self.nightly_at,
            catch_up_days: self.catch_up_days,
            lookback_days: self.lookback_days,
            limits: self.limits.limits(),
            rebuild_limits: JobLimits { max_shrink: self.max_shrink_rebuild, ..self.limits.limits() },
            retention: (!self.retention.is_zero()).then_some(self.retention),
            audit: (!self.audit_budget.is_zero())
                .then_some(AuditConfig { budget: self.audit_budget, repair: self.audit_repair }),
        }
    }
}

/// Options of `daymend scheduler`.
#[derive(Debug, Args)]
pub(in crate::cli) struct SchedulerOptions {
    /// Enqueue what is due now, then exit; audits nothing, and takes no snapshot
    #[arg(long)]
    once: bool,

    #[command(flatten)]
    scheduler: SchedulerArgs,

    #[command(flatten)]
    snapshot: SnapshotArgs,

    #[command(flatten)]
    http: HttpArgs,
}

impl SchedulerOptions {
    pub(in crate::cli) fn is_once(&self) -> bool {
        self.once
    }

    pub(in crate::cli) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let config = self.scheduler.config();
        if self.once {
            let (db, rollups) = global.connect_checked(CONNECTIONS_SPARE).await?;
            global.warn_of_future(&db).await?;
            let (rollup, mut report) = (historical_summary(&rollups)?, scheduler::Report::default());
            let done = Scheduler { db: &db, rollup, config: &config, clock: global.clock() }.tick(&mut report).await;
            // What was done is said also if a step failed.
            let exit =
                if done.is_ok() || !report.is_empty() { print_report(global, &report)? } else { Exit::Failed.into() };
            return Ok(done.map(|()| exit)?);
        }
        let daily = self.snapshot.daily(global)?;
        let health = Arc::new(Health::default());
        let pulse = health.part("scheduler", TICK_FRESH);
        let shutdown = shutdown_on_signal(&health)?;
        self.http.serve(global, "scheduler", &health).await?;
        self.scheduler.log(daily.as_ref());
        metrics::scheduler_starts();
        let connect = async || {
            let (db, rollups) = global.connect_checked(CONNECTIONS_SPARE).await?;
            global.warn_of_future(&db).await?;
            Ok((db, rollups))
        };
        let Some((db, rollups)) = once_reachable(&shutdown, connect).await? else {
            return Ok(Exit::Ok.into());
        };
        let (rollup, clock) = (historical_summary(&rollups)?, global.clock());
        let snapshots = take_daily(&daily, &db, clock, &shutdown);
        Scheduler { db: &db, rollup, config: &config, clock }.run(&pulse, &shutdown).await;
        let _ = snapshots.await;
        db.close().await;
        Ok(Exit::Ok.into())
    }
}

/// Labs, runs or the like, each with the reason why it is listed.
fn reasons<K: Serialize>(name: &str, found: &BTreeMap<K, String>) -> Vec<serde_json::Value> {
    found.iter().map(|(item, why)| serde_json::json!({ name: item, "why": why })).collect()
}

fn print_report(global: &Global, report: &scheduler::Report) -> anyhow::Result<ExitCode> {
    let exit = if report.is_all_done() { Exit::Ok } else { Exit::Failed };
    report.warn_of_undone();
    if global.json {
        let closed: Vec<_> = report
            .runs
            .closed
            .iter()
            .map(|(run, state, _)| serde_json::json!({ "run": run, "state": state }))
            .collect();
        print_json(&serde_json::json!({
            "enqueued": report.enqueued, "closed": closed, "unusable": reasons("lab", &report.unusable),
            "unclosed": reasons("run", &report.runs.unclosed), "refused": reasons("lab", &report.refused),
            "untaken": reasons("lab", &report.untaken), "held": reasons("what", &report.held.left)
        }))?;
        return Ok(exit.into());
    }
    for scheduler::Enqueued { run, reason, jobs, .. } in &report.enqueued {
        println!("run {run}: {reason}: {jobs} job(s) enqueued");
    }
    for (run, state, progress) in &report.runs.closed {
        println!("run {run}: {}: {} row(s) written", state.name(), progress.rows());
    }
    for (lab, why) in &report.unusable {
        global.warn(format_args!("lab {lab} cannot be scheduled: {why}"));
    }
    if report.is_empty() {
        println!("nothing is due");
    }
    Ok(exit.into())
}
