//! What long-running processes do besides their work: signals, the pages for probes and metrics, waiting for an
//! unreachable database.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
};

use clap::{Args, builder::BoolishValueParser};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Exit, Global, database_error, exit_of, usage};
use crate::{
    db::{Backoff, DbError, Failures},
    error::chain,
    health::Health,
    http::{self, Site},
    metrics,
};

/// Default address of metrics and probes.
const HTTP_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9187);

/// What a long-running process exposes about itself.
#[derive(Debug, Args)]
pub(super) struct HttpArgs {
    /// Where to serve /metrics, /livez, /readyz and /startupz [default: 127.0.0.1:9187]
    #[arg(long, env = "DAYMEND_HTTP_ADDR", value_name = "ADDR:PORT", hide_default_value = true)]
    http_addr: Option<SocketAddr>,

    /// Also export metrics per lab (named daymend_lab_…)
    #[arg(long, env = "DAYMEND_LAB_METRICS", value_parser = BoolishValueParser::new())]
    lab_metrics: bool,
}

impl HttpArgs {
    /// Installs the metrics and serves the pages, whether or not the database is reachable yet.
    ///
    /// A second process on the same host finds the default port taken: it works without the pages, and logs that. An
    /// address given explicitly has to be free.
    pub(super) async fn serve(
        &self,
        global: &Global,
        command: &'static str,
        health: &Arc<Health>,
    ) -> anyhow::Result<()> {
        let metrics = metrics::install(self.lab_metrics)?;
        let db = global.pool(1)?;
        let addr = self.http_addr.unwrap_or(HTTP_ADDR);
        let site = Site { health: Arc::clone(health), db, metrics, command, started_at: metrics::now_seconds() };
        match http::serve(addr, site).await {
            Ok(addr) => tracing::info!("metrics and probes at http://{addr}"),
            Err(error) if self.http_addr.is_none() && error.kind() == std::io::ErrorKind::AddrInUse => {
                tracing::warn!("{addr} is taken: no metrics and no probes; to have them, use --http-addr");
            }
            Err(error) => return Err(usage(format!("--http-addr {addr} cannot be used: {error}"))),
        }
        Ok(())
    }
}

/// Exit codes of a process ended by SIGINT or SIGTERM, as shells report them.
const INTERRUPTED: u8 = 130;
const TERMINATED: u8 = 143;

/// Waits for a signal, and returns the exit code that shells report for a process ended by it. Needed because PID 1
/// of a container ignores signals that it does not handle.
pub(super) async fn signalled() -> anyhow::Result<ExitCode> {
    let [mut interrupt, mut terminate] = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    tokio::select! {
        _ = interrupt.recv() => Ok(ExitCode::from(INTERRUPTED)),
        _ = terminate.recv() => Ok(ExitCode::from(TERMINATED)),
    }
}

/// Calls `connect` until the database is reachable, however long that takes; `None` if a signal comes first. A
/// process that exited instead would be restarted again and again, at growing intervals.
pub(super) async fn once_reachable<T>(
    shutdown: &CancellationToken,
    connect: impl AsyncFn() -> anyhow::Result<T>,
) -> anyhow::Result<Option<T>> {
    let mut failures = Failures::default();
    while let Some(connected) = shutdown.run_until_cancelled(connect()).await {
        let error = match connected {
            Err(error) if exit_of(&error) == Exit::Unavailable => error,
            Err(error) => return Err(error),
            Ok(connected) => {
                failures.end("the database answers");
                return Ok(Some(connected));
            }
        };
        let wait = Backoff::UNAVAILABLE.wait(failures.add());
        let cause = database_error(&error);
        cause.into_iter().for_each(metrics::database_error);
        let why = cause.map_or("the database does not answer, waiting", DbError::why_waiting);
        tracing::warn!(error = %chain(error.as_ref()), ?wait, "{why}");
        shutdown.run_until_cancelled(tokio::time::sleep(wait)).await;
    }
    Ok(None)
}

/// A token that is cancelled by SIGTERM or Ctrl-C; a second signal ends the process at once.
pub(super) fn shutdown_on_signal(health: &Arc<Health>) -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let health = Arc::clone(health);
    tokio::spawn(async move {
        loop {
            let (name, code) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", TERMINATED),
                _ = interrupt.recv() => ("SIGINT", INTERRUPTED),
            };
            if token.is_cancelled() {
                tracing::warn!("{name} again: ending at once; leases run out by themselves");
                std::process::exit(i32::from(code));
            }
            tracing::info!("{name}: finishing what has begun");
            health.stop();
            token.cancel();
        }
    });
    Ok(shutdown)
}
