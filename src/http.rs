//! What a process that stays shows of itself: metrics, and answers for probes.
//!
//! - `/livez`: the process answers. It never touches the database: a database that is away is no
//!   reason to restart anything.
//! - `/readyz`: the database answers, its schema is the one wanted, heartbeats and ticks are fresh, and
//!   claims succeed; not while shutting down.
//! - `/startupz`: the process answers, as `/livez`. Whatever it waits for then, a restart would not help.
//! - `/metrics`: for Prometheus.
//!
//! The probes answer 200 or 503, with a line for each thing that was looked at.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{net::TcpListener, sync::Mutex, time::Instant};

use crate::{
    db::{Db, migrate},
    error::chain,
    health::Health,
    metrics::catalogue::{BUILD_INFO, SCHEMA_VERSION, SHUTTING_DOWN},
};

/// How long the database may take to answer a probe.
const DATABASE_MAX: Duration = Duration::from_secs(2);

/// For how long an answer of the database holds, so that probes cost it next to nothing.
const DATABASE_FRESH: Duration = Duration::from_secs(1);

/// How often histograms are drained, where nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// What the pages need.
#[derive(Debug)]
pub struct Site {
    /// The parts of this process.
    pub health: Arc<Health>,
    /// A pool that only the probes use: one connection, so that they never wait behind work.
    pub db: Db,
    /// Where the metrics are.
    pub metrics: PrometheusHandle,
    /// The command that runs.
    pub command: &'static str,
}

/// What the database said, and when.
type Answer = Mutex<Option<(Instant, Result<(), String>)>>;

/// Serves the pages, and goes on doing so until the runtime ends; the address, with its port.
///
/// # Errors
/// Where the address cannot be listened at.
pub async fn serve(addr: SocketAddr, site: Site) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(addr).await?;
    let addr = listener.local_addr()?;
    let metrics = site.metrics.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            metrics.run_upkeep();
        }
    });
    let pages = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/livez", get(show_alive))
        .route("/readyz", get(show_ready))
        .route("/startupz", get(show_alive))
        .with_state(Arc::new((site, Answer::default())));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, pages).await {
            tracing::error!(%error, "the HTTP server ended");
        }
    });
    Ok(addr)
}

type Shared = State<Arc<(Site, Answer)>>;

async fn show_alive() -> &'static str {
    "ok\n"
}

async fn show_metrics(State(shared): Shared) -> impl IntoResponse {
    let site = &shared.0;
    let database = format!("{:?}", site.db.dialect()).to_lowercase();
    BUILD_INFO.set([env!("CARGO_PKG_VERSION"), site.command, &database], 1.0);
    SCHEMA_VERSION.set([], f64::from(migrate::wanted()));
    SHUTTING_DOWN.set([], f64::from(u8::from(site.health.is_stopping())));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], site.metrics.render())
}

async fn show_ready(State(shared): Shared) -> impl IntoResponse {
    let (site, answer) = &*shared;
    let mut report = site.health.report();
    report.push(("database", ask_database(&site.db, answer).await));
    if site.health.is_stopping() {
        report.push(("process", Err("shutting down".to_owned())));
    }
    let is_ready = report.iter().all(|(_, result)| result.is_ok());
    let text: String = report
        .into_iter()
        .map(|(what, result)| format!("{what}: {}\n", result.err().unwrap_or_else(|| "ok".to_owned())))
        .collect();
    (if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text)
}

/// Whether the database answers and has the schema that this binary works with.
async fn ask_database(db: &Db, answer: &Answer) -> Result<(), String> {
    let mut last = answer.lock().await;
    if let Some((at, result)) = &*last
        && at.elapsed() < DATABASE_FRESH
    {
        return result.clone();
    }
    let result = match tokio::time::timeout(DATABASE_MAX, migrate::check(db)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer within {} s", DATABASE_MAX.as_secs())),
    };
    *last = Some((Instant::now(), result.clone()));
    result
}
