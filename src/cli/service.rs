//! `daymend serve`, `scheduler` and `worker`: the long-running processes.

use std::{collections::BTreeMap, process::ExitCode, sync::Arc, time::Duration};

use clap::{Args, builder::BoolishValueParser};
use tokio_util::sync::CancellationToken;

use super::{
    Exit, Global,
    connect::pool_to,
    historical_summary, print_json,
    process::{HttpArgs, once_reachable, shutdown_on_signal},
    snapshot::{self, SourceArgs, prune::KeepArgs},
    usage,
};
use crate::{
    clock::Clock,
    db::{ConnectOptions, Db, DbError, Mode},
    health::Health,
    metrics,
    queue::{
        JobKind, JobState,
        admin::{
            change::{self, Change},
            filter::Filter,
            pause::{self, Target},
            stats,
        },
    },
    recompute::shrink::MaxShrink,
    scheduler::{
        self,
        audits::AuditConfig,
        nightly::NightlyAt,
        snapshots::{self, Daily, SnapshotAt},
    },
    worker::{self, throttle::Limits},
};

/// How many connections a process needs besides those of its worker's slots.
const CONNECTIONS_SPARE: u32 = 4;

/// How long a scheduler tick counts as a sign of life: enqueueing millions of jobs takes a while.
const TICK_FRESH: Duration = Duration::from_secs(300);

/// The server stores a statement's time limit in 32 bits, as milliseconds.
const JOB_TIMEOUT_MAX: Duration = Duration::from_secs(40 * 24 * 3600);

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

    /// How long to keep runs and their jobs after the run has closed; 0s for ever
    #[arg(long, env = "DAYMEND_RETENTION", default_value = "90d", value_name = "TIME", value_parser = humantime::parse_duration)]
    retention: Duration,

    /// Time budget of the nightly audit, which covers a slice of the history; 0s turns it off
    #[arg(long, env = "DAYMEND_AUDIT_BUDGET", default_value = "5m", value_name = "TIME", value_parser = humantime::parse_duration)]
    audit_budget: Duration,

    /// Repair what the nightly audit finds
    #[arg(long, env = "DAYMEND_AUDIT_REPAIR", value_parser = BoolishValueParser::new())]
    audit_repair: bool,

    #[command(flatten)]
    attempts: AttemptsArgs,

    #[command(flatten)]
    shrink: ShrinkArgs,

    /// Like --max-shrink, for the jobs of rebuilds
    #[arg(long, env = "DAYMEND_MAX_SHRINK_REBUILD", default_value = "off", value_name = "SHARE")]
    max_shrink_rebuild: MaxShrink,
}

/// How many rows may vanish.
#[derive(Debug, Args)]
pub(super) struct ShrinkArgs {
    /// Discard a job that would remove more than this share of its day's rows, because the source may have lost data;
    /// rows that cancelled facts explain do not count. A percentage, or off
    #[arg(long, env = "DAYMEND_MAX_SHRINK", default_value = "50%", value_name = "SHARE")]
    pub(super) max_shrink: MaxShrink,
}

/// How often a job is tried.
#[derive(Debug, Args)]
pub(super) struct AttemptsArgs {
    /// How many attempts a job has before it is discarded
    #[arg(long, env = "DAYMEND_ATTEMPTS", default_value_t = 5, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) attempts: u32,
}

/// Options of the daily snapshot.
#[derive(Debug, Args)]
struct SnapshotArgs {
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
    fn daily(&self, global: &Global) -> anyhow::Result<Option<Daily>> {
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
fn take_daily(
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
    fn config(&self) -> scheduler::Config {
        scheduler::Config {
            nightly_at: self.nightly_at,
            catch_up_days: self.catch_up_days,
            lookback_days: self.lookback_days,
            attempts_max: self.attempts.attempts,
            max_shrink: self.shrink.max_shrink,
            max_shrink_rebuild: self.max_shrink_rebuild,
            retention: (!self.retention.is_zero()).then_some(self.retention),
            audit: (!self.audit_budget.is_zero())
                .then_some(AuditConfig { budget: self.audit_budget, repair: self.audit_repair }),
        }
    }
}

/// Options of the worker.
#[derive(Debug, Args)]
pub(super) struct WorkerArgs {
    /// How many groups of neighbouring days to recompute at once
    #[arg(long, env = "DAYMEND_CONCURRENCY", default_value_t = 1, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=64))]
    concurrency: u32,

    /// How long claims last without a heartbeat; after that, other workers take over the jobs
    #[arg(long, env = "DAYMEND_LEASE", default_value = "60s", value_name = "TIME", value_parser = humantime::parse_duration)]
    lease: Duration,

    /// How often to extend the lease
    #[arg(long, env = "DAYMEND_HEARTBEAT", default_value = "15s", value_name = "TIME", value_parser = humantime::parse_duration)]
    heartbeat: Duration,

    /// How long to keep finishing running jobs after SIGTERM, before handing back the rest
    #[arg(long, env = "DAYMEND_GRACE", default_value = "25s", value_name = "TIME", value_parser = humantime::parse_duration)]
    grace: Duration,

    /// Time limit of one attempt
    #[arg(long, env = "DAYMEND_JOB_TIMEOUT", default_value = "10m", value_name = "TIME", value_parser = humantime::parse_duration)]
    job_timeout: Duration,

    /// How long a job waits after its first failure; the wait doubles with each failure, up to ten minutes
    #[arg(long, env = "DAYMEND_BACKOFF", default_value = "5s", value_name = "TIME", value_parser = humantime::parse_duration)]
    backoff: Duration,

    /// Start no new work while more than this many threads run on the server, this worker's own included
    #[arg(long, env = "DAYMEND_THROTTLE_THREADS", value_name = "N")]
    throttle_threads: Option<u32>,

    /// Start no new work while the first value of this query's result is above zero
    #[arg(long, env = "DAYMEND_THROTTLE_QUERY", value_name = "SQL")]
    throttle_query: Option<String>,

    /// Start no new work while this replica lags by more than --max-lag (may be repeated)
    #[arg(long, env = "DAYMEND_REPLICA_URL", value_name = "URL", value_delimiter = ' ', hide_env_values = true)]
    replica_url: Vec<String>,

    /// How far a replica may lag behind
    #[arg(long, env = "DAYMEND_MAX_LAG", default_value = "10s", value_name = "TIME", value_parser = humantime::parse_duration)]
    max_lag: Duration,

    /// The worker's name, as operators see it; the host name by default
    #[arg(long, env = "DAYMEND_WORKER_NAME", value_name = "NAME")]
    name: Option<String>,
}

impl WorkerArgs {
    fn config(&self, drain: bool) -> anyhow::Result<worker::Config> {
        if self.heartbeat.is_zero() {
            return Err(usage("--heartbeat (0s) must be more than 0s"));
        }
        if self.lease < self.heartbeat * 2 {
            return Err(usage(format!(
                "--lease ({}) must be at least twice --heartbeat ({}), or one late heartbeat loses it",
                humantime::format_duration(self.lease),
                humantime::format_duration(self.heartbeat)
            )));
        }
        if self.job_timeout.is_zero() {
            return Err(usage("--job-timeout must be more than 0s"));
        }
        if self.job_timeout > JOB_TIMEOUT_MAX {
            let [given, max] = [self.job_timeout, JOB_TIMEOUT_MAX].map(humantime::format_duration);
            return Err(usage(format!("--job-timeout ({given}) is longer than the maximum of {max}")));
        }
        let host = || std::env::var("HOSTNAME").ok().or_else(|| std::fs::read_to_string("/etc/hostname").ok());
        let name = self.name.clone().or_else(host).unwrap_or_default();
        let replicas = self.replica_url.iter().map(|url| pool_to("--replica-url", url, 1));
        Ok(worker::Config {
            name: format!("{} (pid {})", name.trim(), std::process::id()),
            concurrency: self.concurrency as usize,
            lease: self.lease,
            heartbeat: self.heartbeat,
            grace: self.grace,
            job_timeout: self.job_timeout,
            backoff: self.backoff,
            drain,
            limits: Limits {
                threads_max: self.throttle_threads,
                lag_max: self.max_lag,
                replicas: replicas.collect::<Result<_, _>>()?,
                query: self.throttle_query.clone(),
            },
        })
    }

    fn connect(&self) -> ConnectOptions {
        let connections = self.concurrency + CONNECTIONS_SPARE;
        ConnectOptions { statement_max: self.job_timeout, idle_max: self.lease, ..ConnectOptions::new(connections) }
    }
}

/// Options of `daymend scheduler`.
#[derive(Debug, Args)]
pub(super) struct SchedulerOptions {
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
    pub(super) fn is_once(&self) -> bool {
        self.once
    }

    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let config = self.scheduler.config();
        if self.once {
            let (db, rollups) = global.connect_checked(CONNECTIONS_SPARE).await?;
            global.warn_of_future(&db).await?;
            let (rollup, mut report) = (historical_summary(&rollups)?, scheduler::Report::default());
            let done = scheduler::tick(&db, rollup, &config, global.clock(), &mut report).await;
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
        metrics::scheduler_starts();
        let connect = async || {
            let (db, rollups) = global.connect_checked(CONNECTIONS_SPARE).await?;
            global.warn_of_future(&db).await?;
            Ok((db, rollups))
        };
        let Some((db, rollups)) = once_reachable(&shutdown, connect).await? else {
            return Ok(Exit::Ok.into());
        };
        let rollup = historical_summary(&rollups)?;
        let snapshots = take_daily(&daily, &db, global.clock(), &shutdown);
        scheduler::run(&db, rollup, &config, global.clock(), &pulse, &shutdown).await;
        let _ = snapshots.await;
        db.close().await;
        Ok(Exit::Ok.into())
    }
}

fn print_report(global: &Global, report: &scheduler::Report) -> anyhow::Result<ExitCode> {
    let exit = if report.is_all_done() { Exit::Ok } else { Exit::Failed };
    report.warn_of_undone();
    if global.json {
        let closed: Vec<_> =
            report.closed.iter().map(|(run, state, _)| serde_json::json!({ "run": run, "state": state })).collect();
        let labs = |labs: &BTreeMap<i64, String>| -> Vec<_> {
            labs.iter().map(|(lab, why)| serde_json::json!({ "lab": lab, "why": why })).collect()
        };
        let unclosed: Vec<_> =
            report.unclosed.iter().map(|(run, why)| serde_json::json!({ "run": run, "why": why })).collect();
        let held: Vec<_> =
            report.held.iter().map(|(what, why)| serde_json::json!({ "what": what, "why": why })).collect();
        print_json(&serde_json::json!({
            "enqueued": report.enqueued, "closed": closed, "unusable": labs(&report.unusable),
            "unclosed": unclosed, "untaken": labs(&report.untaken), "held": held
        }))?;
        return Ok(exit.into());
    }
    for scheduler::Enqueued { run, reason, jobs } in &report.enqueued {
        println!("run {run}: {reason}: {jobs} job(s) enqueued");
    }
    for (run, state, progress) in &report.closed {
        println!("run {run}: {}: {} row(s) written", state.name(), progress.rows());
    }
    for (lab, why) in &report.unusable {
        global.warn(format_args!("lab {lab} cannot be scheduled: {why}"));
    }
    for (lab, why) in &report.untaken {
        global.warn(format_args!("lab {lab} has migration records that cannot be taken: {why}"));
    }
    if report.enqueued.is_empty() && report.closed.is_empty() && report.is_all_done() {
        println!("nothing is due");
    }
    Ok(exit.into())
}

/// Options of `daymend worker`.
#[derive(Debug, Args)]
pub(super) struct WorkerOptions {
    /// Exit when no job is left to run: with 0, or with 1 if jobs were discarded meanwhile or a signal came first.
    /// Also exit if the database keeps refusing what the queue needs. Paused jobs are left in the queue, and counted
    #[arg(long)]
    drain: bool,

    #[command(flatten)]
    worker: WorkerArgs,

    #[command(flatten)]
    http: HttpArgs,
}

impl WorkerOptions {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let config = self.worker.config(self.drain)?;
        let health = Arc::new(Health::default());
        let pulse = health.part("worker", config.lease);
        let shutdown = shutdown_on_signal(&health)?;
        self.http.serve(global, "worker", &health).await?;
        metrics::worker_starts(&global.rollups()?);
        let connect = async || {
            let (db, rollups) = global.connect_checked(self.worker.connect()).await?;
            config.limits.check(&db).await.map_err(usage)?;
            let begun = db.database_now().await?;
            Ok((db, rollups, begun))
        };
        // Whoever drains a queue waits for the result: an unreachable database is an error at once.
        let connected = if self.drain {
            shutdown.run_until_cancelled(connect()).await.transpose()?
        } else {
            once_reachable(&shutdown, connect).await?
        };
        let Some((db, rollups, begun)) = connected else {
            return Ok(if self.drain { Exit::Failed } else { Exit::Ok }.into());
        };
        let lease_db = global.pool(1)?;
        let ended = worker::run(&db, &lease_db, rollups, &config, global.clock(), &pulse, &shutdown).await?;
        let mut exit = Exit::Ok;
        if self.drain {
            if ended != worker::Ended::Drained {
                global.warn("stopped before the queue was drained");
                exit = Exit::Failed;
            }
            if stats::discarded_since(&db, begun).await? > 0 {
                exit = Exit::Failed;
            }
            for (jobs, target) in left_paused(&db).await? {
                global.warn(format_args!("{jobs} job(s) are left, paused: `daymend queue resume {target}`"));
            }
            // There may be no scheduler to close the runs.
            let mut report = scheduler::Report::default();
            let closed = scheduler::close_runs(&db, &mut report).await;
            report.warn_of_undone();
            closed?;
            if !report.is_all_done() {
                exit = Exit::Failed;
            }
        }
        db.close().await;
        Ok(exit.into())
    }
}

/// How many jobs are waiting for a kind or a lab to be resumed, and what to resume.
async fn left_paused(db: &Db) -> Result<Vec<(u64, String)>, DbError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let pauses = pause::list(&mut tx).await?;
    tx.commit().await?;
    let mut left = Vec::new();
    for pause in pauses {
        let kind = JobKind::ALL.into_iter().find(|kind| Target::Kind(*kind).name() == pause.what);
        let labs: Vec<i64> = pause.lab_id.into_iter().collect();
        let target = labs.first().map(|lab| format!("--lab {lab}")).or(kind.map(|kind| kind.to_string()));
        let filter = Filter { labs, kind, state: Some(JobState::Available), ..Filter::default() };
        let jobs = change::plan(db, Change::Cancel, &filter).await?.iter().map(|(_, jobs)| jobs).sum();
        left.extend(target.filter(|_| jobs > 0).map(|target| (jobs, target)));
    }
    Ok(left)
}

/// Options of `daymend serve`.
#[derive(Debug, Args)]
pub(super) struct ServeOptions {
    #[command(flatten)]
    scheduler: SchedulerArgs,

    #[command(flatten)]
    snapshot: SnapshotArgs,

    #[command(flatten)]
    worker: WorkerArgs,

    #[command(flatten)]
    http: HttpArgs,
}

impl ServeOptions {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let (config, daily) = (self.worker.config(false)?, self.snapshot.daily(global)?);
        let health = Arc::new(Health::default());
        let [worker_pulse, scheduler_pulse] =
            [("worker", config.lease), ("scheduler", TICK_FRESH)].map(|(name, fresh)| health.part(name, fresh));
        let shutdown = shutdown_on_signal(&health)?;
        self.http.serve(global, "serve", &health).await?;
        metrics::scheduler_starts();
        metrics::worker_starts(&global.rollups()?);
        let connect = async || {
            let (db, rollups) = global.connect_checked(self.worker.connect()).await?;
            config.limits.check(&db).await.map_err(usage)?;
            global.warn_of_future(&db).await?;
            Ok((db, rollups))
        };
        let Some((db, rollups)) = once_reachable(&shutdown, connect).await? else {
            return Ok(Exit::Ok.into());
        };
        let (rollup, lease_db) = (historical_summary(&rollups)?, global.pool(1)?);
        // A time limit that suits jobs is too long for a tick.
        let ticking_db = global.pool(CONNECTIONS_SPARE)?;
        let (clock, scheduling) = (global.clock(), self.scheduler.config());
        let snapshots = take_daily(&daily, &ticking_db, clock, &shutdown);
        let working = worker::run(&db, &lease_db, rollups.clone(), &config, clock, &worker_pulse, &shutdown);
        let ticking = scheduler::run(&ticking_db, rollup, &scheduling, clock, &scheduler_pulse, &shutdown);
        let (worked, ()) = tokio::join!(working, ticking);
        let _ = snapshots.await;
        close(&[&db, &lease_db, &ticking_db]).await;
        worked?;
        Ok(Exit::Ok.into())
    }
}

async fn close(pools: &[&Db]) {
    for db in pools {
        db.close().await;
    }
}
