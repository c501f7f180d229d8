//! `daymend worker`.

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use strum::IntoEnumIterator as _;

use super::{CONNECTIONS_SPARE, time};
use crate::{
    cli::{
        Exit, Global,
        connect::pool_to,
        historical_summary,
        process::{HttpArgs, once_reachable, shutdown_on_signal},
        usage,
    },
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
    runs::{close, held::Held},
    worker::{self, throttle::Limits},
};

/// The server stores a statement's time limit in 32 bits, as milliseconds.
const JOB_TIMEOUT_MAX: Duration = Duration::from_secs(40 * 24 * 3600);

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
    /// Logs the settings in force.
    pub(super) fn log(&self) {
        tracing::info!(
            concurrency = self.concurrency,
            lease = time(self.lease),
            heartbeat = time(self.heartbeat),
            grace = time(self.grace),
            job_timeout = time(self.job_timeout),
            backoff = time(self.backoff),
            throttle_threads = self.throttle_threads,
            throttle_query = self.throttle_query.is_some(),
            replicas = self.replica_url.len(),
            "settings of the worker"
        );
    }

    pub(super) fn config(&self, drain: bool) -> anyhow::Result<worker::Config> {
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

    pub(super) fn connect(&self) -> ConnectOptions {
        let connections = self.concurrency + CONNECTIONS_SPARE;
        ConnectOptions { statement_max: self.job_timeout, idle_max: self.lease, ..ConnectOptions::new(connections) }
    }
}

/// Options of `daymend worker`.
#[derive(Debug, Args)]
pub(in crate::cli) struct WorkerOptions {
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
    pub(in crate::cli) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let config = self.worker.config(self.drain)?;
        let health = Arc::new(Health::default());
        let pulse = health.part("worker", config.lease);
        let shutdown = shutdown_on_signal(&health)?;
        self.http.serve(global, "worker", &health).await?;
        let rollups = global.rollups()?;
        // A worker that does not know it would discard every job.
        historical_summary(&rollups)?;
        metrics::worker_starts(&rollups);
        self.worker.log();
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
        let lease_db = db.reopened(ConnectOptions::new(1));
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
            let (mut report, mut held) = (close::Report::default(), Held::default());
            let closed = close::close_runs(&db, &mut report, &mut held).await;
            held.warn("not done");
            report.warn_of_unclosed();
            closed?;
            if !held.left.is_empty() || !report.unclosed.is_empty() {
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
        let kind = JobKind::iter().find(|kind| Target::Kind(*kind).name() == pause.what);
        let labs: Vec<i64> = pause.lab_id.into_iter().collect();
        let target = labs.first().map(|lab| format!("--lab {lab}")).or(kind.map(|kind| kind.to_string()));
        let filter = Filter { labs, kind, state: Some(JobState::Available), ..Filter::default() };
        let jobs = change::plan(db, Change::Cancel, &filter).await?.iter().map(|(_, jobs)| jobs).sum();
        left.extend(target.filter(|_| jobs > 0).map(|target| (jobs, target)));
    }
    Ok(left)
}
