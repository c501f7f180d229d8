//! The worker: the apalis runtime around the queue. Nothing else uses apalis.
//!
//! A worker process runs in sessions. A session registers with the database and gets an id that is unique to it;
//! everything it claims, extends and settles carries that id. When its lease is lost (the process was suspended, or
//! disconnected for longer than the lease), the whole session is dropped, including the tasks in flight, and a new
//! one begins. The same happens if an essential task, such as the one that claims, panics.
//!
//! - [`fetch`] claims jobs while there is room, rescues those of dead workers, and groups
//!   neighbouring days of a lab.
//! - [`backend`] hands them to apalis, which runs them concurrently and drains them at the end; [`waiting`] gives back
//!   what nobody begins.
//! - [`handler`] recomputes them, one day at a time if a group fails, and waits while a definition does not fit the
//!   database ([`misfit`]).
//! - [`upkeep`] sends heartbeats on a connection of its own, and groups the acks of jobs that found nothing to
//!   change.
//! - [`room`] counts the jobs that are held, until they are settled, and [`release_backoff`] how often they were
//!   released.
//!
//! On SIGTERM it stops claiming, finishes what it can within the grace period, and hands the rest back without using
//! up their attempts: a deploy is not a failure. If the database is unreachable it waits, with jitter, and continues.

mod backend;
mod fault;
mod fetch;
mod handler;
mod misfit;
mod recurring;
mod release_backoff;
mod room;
pub mod throttle;
mod upkeep;
mod waiting;

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use apalis::prelude::{ParallelizeExt as _, WorkerBuilder, WorkerBuilderExt as _};
use futures::FutureExt as _;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use recurring::Recurring;
use release_backoff::ReleaseBackoff;
use room::Held;
use throttle::{Gate, Limits};

use crate::{
    clock::Clock,
    db::{Backoff, COMMIT, Db, DbError, ErrorKind, Failures},
    error::chain,
    health::Pulse,
    metrics::{self, catalogue::LEASES_LOST},
    queue::{lease, settle},
    recompute::Streak,
    rollup::Rollups,
};

/// How long a worker waits before it registers again after an essential task died, as that may happen again.
const BROKEN_REST: Duration = Duration::from_secs(1);

/// How often handing back is tried while some jobs are locked (for example by a transaction of this worker that the
/// server has not rolled back yet), and how long it waits in between.
const HAND_BACK_TRIES: u32 = 10;
const HAND_BACK_WAIT: Duration = Duration::from_millis(100);

/// How long a worker that is stopping tries to hand its jobs back: it is likely to be killed soon after the grace
/// period.
const HAND_BACK_MAX: Duration = Duration::from_secs(15);

/// How long claims and settlements wait for an answer before their connection counts as dead.
const QUEUE_LIMIT: Duration = Duration::from_secs(30);

/// The name of the rollup whose jobs never find anything to change, without reading anything: `daymend bench`
/// measures the queue with it.
pub const NOTHING_TO_DO: &str = "bench:nothing";

/// Configuration of a worker.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name for operators, such as that of the host or the pod.
    pub name: String,
    /// How many groups of days it recomputes concurrently.
    pub concurrency: usize,
    /// How long its claims last without a heartbeat.
    pub lease: Duration,
    /// How often it sends a heartbeat.
    pub heartbeat: Duration,
    /// How long it keeps finishing running jobs after a signal.
    pub grace: Duration,
    /// How long one attempt may take.
    pub job_timeout: Duration,
    /// How long a job waits after its first failure; doubles with each failure.
    pub backoff: Duration,
    /// Whether it ends when no job is left to run.
    pub drain: bool,
    /// What makes it start no new work.
    pub limits: Limits,
}

/// What the parts of a session share.
#[derive(Debug)]
struct Session {
    db: Db,
    rollups: Arc<Rollups>,
    config: Config,
    clock: Clock,
    worker_id: i64,
    pulse: Arc<Pulse>,
    /// Why it is over, if it is.
    end: Mutex<Option<End>>,
    /// Cancelled when the session is over: nothing it does counts any more.
    over: CancellationToken,
    /// Cancelled when no new work should be started.
    stopping: CancellationToken,
    /// Closed while the database is overloaded.
    gate: Gate,
    /// How many jobs are held.
    held: Held,
    /// A place for each unit that is being worked on.
    slots: Semaphore,
    streak: Streak,
    release_backoff: ReleaseBackoff,
}

impl Session {
    /// Retries an essential step, such as settling jobs, while the database is unreachable or rows are locked by
    /// somebody else. After any other error it is tried a few times, and then the session ends, as only that gives back
    /// what it holds. `None` if the session is over.
    async fn insist<T, F>(&self, what: &'static str, mut once: impl FnMut() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, DbError>>,
    {
        let (mut failures, mut refusals) = (Failures::default(), Recurring::default());
        while !self.over.is_cancelled() {
            let error = match once().await {
                Ok(done) => {
                    self.pulse.set_trouble(what, None);
                    failures.end(format_args!("{what} works again"));
                    return Some(done);
                }
                Err(error) => error,
            };
            let failures = failures.add();
            let is_refused = is_refusal(&error);
            if is_refused {
                self.pulse.set_trouble(what, Some(format!("cannot {what}: {}", chain(&error))));
            }
            if is_refused && refusals.add() {
                metrics::database_error(&error);
                tracing::error!(worker = self.worker_id, error = %chain(&error), "cannot {what}");
                self.refuse(error);
            } else {
                wait_after(&error, what, failures, &self.over).await;
            }
        }
        None
    }

    /// Ends the session because of an error that will not go away by itself. A worker that drains the queue ends with
    /// it, as nobody would notice that it is not ready.
    fn refuse(&self, error: DbError) {
        self.end(if self.config.drain { End::Refused(error) } else { End::Broken });
    }

    /// Ends the session after an error that may have left jobs in a state that nobody here knows.
    fn end_if_in_doubt(&self, error: &DbError) {
        if is_in_doubt(error) {
            self.end(End::Lost);
        }
    }

    /// Ends the session; the first reason counts.
    fn end(&self, why: End) {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.over.cancel();
    }

    /// Runs an essential task, and ends the session if it panics. Nobody would notice otherwise: claims or acks would
    /// stop while the lease is still extended.
    async fn vital<T>(&self, what: &str, part: impl Future<Output = T>) {
        if AssertUnwindSafe(part).catch_unwind().await.is_err() {
            tracing::error!(worker = self.worker_id, "the {what} task panicked: this is a bug");
            self.end(End::Broken);
        }
    }

    /// Why the session ended: it is over, or the runtime has ended.
    async fn ended(&self, shutdown: &CancellationToken) -> End {
        // A task that died may not have said so yet.
        let is_over = shutdown.is_cancelled() || tokio::time::timeout(BROKEN_REST, self.over.cancelled()).await.is_ok();
        if !is_over {
            tracing::error!(worker = self.worker_id, "the worker runtime ended by itself");
        }
        let why = self.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        why.unwrap_or(if is_over { End::Shutdown } else { End::Broken })
    }

    /// Waits until the gate is open; returns false if no new work should be started.
    async fn may_begin(&self) -> bool {
        let mut gate = self.gate.clone();
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => false,
            // If its keeper is gone, a gate stays as it is.
            open = gate.wait_for(Option::is_none) => open.is_ok(),
        }
    }
}

/// Spawns an essential task; dropping the handle aborts it.
fn spawn_vital<F>(session: &Arc<Session>, what: &'static str, part: F) -> AbortOnDropHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let session = Arc::clone(session);
    AbortOnDropHandle::new(tokio::spawn(async move { session.vital(what, part).await }))
}

/// Why a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop; there may be jobs left.
    Shutdown,
    /// No job was left to run.
    Drained,
}

/// Why a session ended.
#[derive(Debug)]
enum End {
    /// The worker was told to stop.
    Shutdown,
    /// The queue has been drained.
    Drained,
    /// The lease was lost, or nobody knows what the session holds.
    Lost,
    /// The worker drains the queue, and the database refuses what that needs.
    Refused(DbError),
    /// An essential task died, or cannot do its work.
    Broken,
}

/// Runs until `shutdown`, or, with `drain`, until the queue is drained; returns which it was.
///
/// `lease_db` is a separate pool for heartbeats, so that they never wait behind work.
///
/// # Errors
///
/// Only with `drain`: an error that the database returns again and again, such as a missing privilege. Otherwise the
/// worker waits until that is fixed, and is not ready meanwhile.
pub async fn run(
    db: &Db,
    lease_db: &Db,
    rollups: Arc<Rollups>,
    config: &Config,
    clock: Clock,
    pulse: &Arc<Pulse>,
    shutdown: &CancellationToken,
) -> Result<Ended, DbError> {
    let (mut db, mut lease_db) = (db.with_limit(QUEUE_LIMIT), lease_db.with_limit(config.lease / 4));
    let mut last_session = None;
    loop {
        let registered = register(&lease_db, config, shutdown).await;
        // Hand back what the last session held, instead of waiting for its lease to expire.
        if let Some(last) = last_session {
            sign_off(&lease_db, last).await;
        }
        let Some(worker_id) = registered? else { return Ok(Ended::Shutdown) };
        last_session = Some(worker_id);
        let (gate_keeper, gate) = config.limits.gate();
        let session = Arc::new(Session {
            db: db.clone(),
            rollups: Arc::clone(&rollups),
            config: config.clone(),
            clock,
            worker_id,
            pulse: Arc::clone(pulse),
            end: Mutex::default(),
            over: CancellationToken::new(),
            stopping: shutdown.child_token(),
            gate,
            held: Held::default(),
            slots: Semaphore::new(config.concurrency),
            streak: Streak::default(),
            release_backoff: ReleaseBackoff::default(),
        });
        tracing::info!(worker = worker_id, name = config.name, "worker registered");
        pulse.beat();
        let _throttle = (!config.limits.is_empty())
            .then(|| spawn_vital(&session, "throttle", throttle::watch(Arc::clone(&session), gate_keeper)));
        match run_session(&session, &lease_db, shutdown).await {
            End::Shutdown => return Ok(Ended::Shutdown),
            End::Drained => return Ok(Ended::Drained),
            End::Refused(error) => {
                let _ = tokio::time::timeout(HAND_BACK_MAX, settle::hand_back(&lease_db, worker_id)).await;
                sign_off(&lease_db, worker_id).await;
                return Err(error);
            }
            End::Lost => {
                LEASES_LOST.add([], 1);
                tracing::warn!(worker = worker_id, "lease lost: dropping its work and registering anew");
            }
            End::Broken => {
                LEASES_LOST.add([], 1);
                tracing::error!(worker = worker_id, "giving up its lease: dropping its work and registering anew");
                shutdown.run_until_cancelled(tokio::time::sleep(BROKEN_REST)).await;
            }
        }
        // Whatever ended this session may have left dead connections behind.
        (db, lease_db) = (db.renewed(), lease_db.renewed());
    }
}

/// Registers with the database, waiting while it is unreachable; `None` on shutdown.
async fn register(db: &Db, config: &Config, shutdown: &CancellationToken) -> Result<Option<i64>, DbError> {
    let (mut failures, mut refusals) = (Failures::default(), Recurring::default());
    while !shutdown.is_cancelled() {
        match lease::register(db, &config.name, config.lease).await {
            Ok(id) => {
                failures.end("register works again");
                return Ok(Some(id));
            }
            Err(error) => {
                let failures = failures.add();
                if is_refusal(&error) && refusals.add() && config.drain {
                    return Err(error);
                }
                wait_after(&error, "register", failures, shutdown).await;
            }
        }
    }
    Ok(None)
}

/// Gives back what a session that is over still holds, if the database allows it.
async fn sign_off(db: &Db, worker_id: i64) {
    let signed_off = tokio::time::timeout(HAND_BACK_MAX, lease::sign_off(db, worker_id)).await;
    if !matches!(signed_off, Ok(Ok(()))) {
        tracing::warn!(worker = worker_id, "its jobs are rescued when its lease runs out");
    }
}

/// Whether an error is neither an outage nor a conflict, so that it recurs until somebody fixes the cause.
fn is_refusal(error: &DbError) -> bool {
    !matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Conflict)
}

/// Whether a transaction may have been carried out all the same: its COMMIT got no answer, or an error other than a
/// conflict, which undoes it.
fn is_in_doubt(error: &DbError) -> bool {
    error.statement == COMMIT && error.kind != ErrorKind::Conflict
}

async fn run_session(session: &Arc<Session>, lease_db: &Db, shutdown: &CancellationToken) -> End {
    let config = &session.config;
    let keeping = upkeep::keep_lease(Arc::clone(session), lease_db.clone());
    let lease_task = spawn_vital(session, "lease", keeping);
    let _gauges = AbortOnDropHandle::new(tokio::spawn(upkeep::show_gauges(Arc::clone(session), lease_db.clone())));
    let (acks, acker) = upkeep::acker(Arc::clone(session));
    let acker = spawn_vital(session, "ack", acker);

    let (backend, fetcher) = fetch::start(Arc::clone(session), session.stopping.clone());
    let fetcher = spawn_vital(session, "claim", fetcher);
    let state = Arc::clone(session);
    let worker = WorkerBuilder::new(config.name.as_str())
        .backend(backend)
        .concurrency(config.concurrency)
        .parallelize(|task| AbortOnDropHandle::new(tokio::spawn(task)))
        .build(apalis::prelude::task_fn(move |ticket: waiting::Ticket| {
            handler::handle(Arc::clone(&state), acks.clone(), ticket)
        }));
    let mut worker = Box::pin(worker.run());

    let ended = tokio::select! {
        result = &mut worker => {
            if let Err(error) = result {
                tracing::error!(%error, "the worker runtime failed");
            }
            session.ended(shutdown).await
        }
        () = session.over.cancelled() => session.ended(shutdown).await,
        () = async {
            shutdown.cancelled().await;
            tokio::time::sleep(config.grace).await;
        } => End::Shutdown,
    };
    if !matches!(ended, End::Shutdown | End::Drained) {
        return ended;
    }
    // Everything in flight ends here: what did not finish within the grace period is aborted, and its transactions are
    // rolled back.
    fetcher.abort();
    drop(fetcher);
    finish(session, worker, acker).await;
    drop(lease_task);
    ended
}

/// Sends the last acks, and hands back what is left.
async fn finish<W>(session: &Session, worker: W, acker: AbortOnDropHandle<()>) {
    drop(worker);
    let _ = tokio::time::timeout(Duration::from_secs(5), acker).await;
    let handed_back = async {
        let (mut jobs, mut left) = (0, 0);
        for _ in 0..HAND_BACK_TRIES {
            jobs += settle::hand_back(&session.db, session.worker_id).await?;
            left = settle::held(&session.db, session.worker_id).await?;
            if left == 0 {
                break;
            }
            tokio::time::sleep(HAND_BACK_WAIT).await;
        }
        lease::sign_off(&session.db, session.worker_id).await?;
        Ok::<_, DbError>((jobs, left))
    };
    let Ok(handed_back) = tokio::time::timeout(HAND_BACK_MAX, handed_back).await else {
        tracing::warn!(
            worker = session.worker_id,
            "worker stopped without handing its jobs back, as no write succeeded within {} s: they are rescued when \
             its lease runs out",
            HAND_BACK_MAX.as_secs()
        );
        return;
    };
    match handed_back {
        Ok((jobs, 0)) => {
            tracing::info!(worker = session.worker_id, jobs, "worker stopped, unfinished jobs handed back");
        }
        Ok((jobs, left)) => tracing::warn!(
            worker = session.worker_id,
            jobs,
            left,
            "worker stopped, unfinished jobs handed back; what somebody else keeps locked is rescued afterwards"
        ),
        Err(error) => tracing::warn!(
            worker = session.worker_id,
            error = %chain(&error),
            "worker stopped; what it held is rescued when its lease runs out"
        ),
    }
}

/// Logs a database error and waits, longer after each failure in a row.
async fn wait_after(error: &DbError, what: &str, failures: u32, until: &CancellationToken) {
    wait_for(Backoff::UNAVAILABLE.wait(failures), error, what, until).await;
}

/// Logs a database error and waits for that long.
async fn wait_for(wait: Duration, error: &DbError, what: &str, until: &CancellationToken) {
    metrics::database_error(error);
    tracing::warn!(error = %chain(error), ?wait, "{what} failed, trying again");
    until.run_until_cancelled(tokio::time::sleep(wait)).await;
}
