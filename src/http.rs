//! The HTTP endpoints of a long-running process: metrics and probes.
//!
//! - `/livez`: the process answers. It never touches the database: an unreachable database is no reason to restart
//!   anything.
//! - `/readyz`: the database answers, its schema is current, heartbeats and ticks are fresh, and claims succeed;
//!   fails while shutting down.
//! - `/startupz`: the process answers, like `/livez`. Whatever it is waiting for, a restart would not help.
//! - `/metrics`: for Prometheus.
//!
//! The probes answer 200 or 503, with one line per check. A connection serves one page, and is closed soon.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
    serve::Listener,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::TcpListener,
    sync::{Mutex, Notify, Semaphore},
    time::{Instant, timeout},
};

use crate::{
    db::{Db, migrate},
    error::chain,
    health::Health,
    metrics::catalogue::{BUILD_INFO, PROCESS_START, SCHEMA_VERSION, SHUTTING_DOWN},
};

/// How long the database may take to answer a probe.
const DATABASE_MAX: Duration = Duration::from_secs(2);

/// How long the database's answer is reused, so that probes cost it next to nothing.
const DATABASE_FRESH: Duration = Duration::from_secs(1);

/// How often histograms are drained if nobody scrapes them.
const UPKEEP: Duration = Duration::from_secs(5);

/// How long a connection may take to send its request and read the answer.
const CONNECTION_MAX: Duration = Duration::from_secs(10);

/// The maximum number of connections: one more closes the oldest.
const CONNECTIONS_MAX: usize = 64;

/// What the endpoints need.
#[derive(Debug)]
pub struct Site {
    /// The parts of this process.
    pub health: Arc<Health>,
    /// A pool for the probes only: one connection, so that they never wait behind work.
    pub db: Db,
    /// The metrics to render.
    pub metrics: PrometheusHandle,
    /// The name of the running command.
    pub command: &'static str,
    /// When the process started, in seconds since 1970.
    pub started_at: f64,
}

/// The last answer of the database, and when it came.
type Answer = Mutex<Option<(Instant, Result<(), String>)>>;

/// Serves the pages until the runtime ends; returns the address, with its port.
///
/// # Errors
/// If the address cannot be bound.
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
    tokio::spawn(answer_all(listener, pages));
    Ok(addr)
}

/// Answers one request per connection. A client that sends nothing, or reads nothing, must not keep a probe waiting,
/// because the process would be restarted for it.
async fn answer_all(mut listener: TcpListener, pages: Router) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let crowd = Arc::new(Notify::new());
    loop {
        let (stream, _) = Listener::accept(&mut listener).await;
        if free.available_permits() == 0 {
            // Closes the oldest connection: `notify_one` wakes the task that has waited longest.
            crowd.notify_one();
        }
        let Ok(place) = Arc::clone(&free).acquire_owned().await else { return };
        let (pages, crowd) = (TowerToHyperService::new(pages.clone()), Arc::clone(&crowd));
        tokio::spawn(async move {
            let mut builder = Builder::new(TokioExecutor::new()).http1_only();
            builder.http1().keep_alive(false);
            let connection = builder.serve_connection(TokioIo::new(stream), pages);
            // How a connection ends only matters to its client.
            tokio::select! {
                _ = timeout(CONNECTION_MAX, connection) => {}
                () = crowd.notified() => {}
            }
            drop(place);
        });
    }
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
    PROCESS_START.set([], site.started_at);
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
    let result = match timeout(DATABASE_MAX, migrate::check(db)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer within {} s", DATABASE_MAX.as_secs())),
    };
    *last = Some((Instant::now(), result.clone()));
    result
}
