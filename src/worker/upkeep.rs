//! What a session does beside its work: heartbeats, and grouped acks.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::sync::mpsc;

use super::{Session, fault, throttle, wait_after};
use crate::{
    db::Db,
    metrics::{
        self, Outcome,
        catalogue::{ACKS_REFUSED, ATTEMPTS, HEARTBEAT, JOBS_HELD, SLOTS, SLOTS_BUSY},
    },
    queue::{Job, JobKind, lease, settle},
};

/// How many acks go into one statement, and how long the first waits for others.
const ACKS_MAX: usize = 500;
const ACKS_WAIT: Duration = Duration::from_millis(20);

/// How often the gauges are set.
const GAUGES_EVERY: Duration = Duration::from_secs(1);

/// Extends the session's lease until it is lost, on a connection of its own.
pub(super) async fn keep_lease(session: Arc<Session>, db: Db) {
    let mut beat = tokio::time::interval(session.config.heartbeat);
    let mut failures = 0;
    while !session.lost.is_cancelled() {
        beat.tick().await;
        match lease::heartbeat(&db, session.worker_id, session.config.lease).await {
            Ok(true) => {
                fault::inject_once("lease");
                failures = 0;
                session.pulse.beat();
                HEARTBEAT.set([], metrics::now_seconds());
            }
            Ok(false) => session.lost.cancel(),
            Err(error) => {
                failures += 1;
                beat.reset_immediately();
                wait_after(&error, "heartbeat", failures, &session.lost).await;
            }
        }
    }
}

/// Shows what the worker is busy with.
pub(super) async fn show_gauges(session: Arc<Session>, lease_db: Db) {
    loop {
        SLOTS.set([], session.config.concurrency as f64);
        SLOTS_BUSY.set([], session.busy.load(Ordering::Relaxed) as f64);
        JOBS_HELD.set([], session.held.load(Ordering::Relaxed) as f64);
        if session.config.limits.is_empty() {
            throttle::show_none();
        }
        metrics::pool("work", &session.db);
        metrics::pool("lease", &lease_db);
        tokio::time::sleep(GAUGES_EVERY).await;
    }
}

/// Where jobs that found nothing to change are acked, and the task that does it.
///
/// The task ends when every sender is gone and the last ack is written.
pub(super) fn acker(session: Arc<Session>) -> (mpsc::UnboundedSender<Vec<Job>>, impl Future<Output = ()> + Send) {
    let (acks, mut received) = mpsc::unbounded_channel::<Vec<Job>>();
    let task = async move {
        while let Some(first) = received.recv().await {
            fault::inject_once("acker");
            let mut jobs = first;
            let deadline = tokio::time::Instant::now() + ACKS_WAIT;
            while jobs.len() < ACKS_MAX
                && let Ok(Some(more)) = tokio::time::timeout_at(deadline, received.recv()).await
            {
                jobs.extend(more);
            }
            for jobs in jobs.chunks(ACKS_MAX) {
                ack(&session, jobs).await;
            }
        }
    };
    (acks, task)
}

async fn ack(session: &Session, jobs: &[Job]) {
    let mut failures = 0;
    while !session.lost.is_cancelled() {
        match settle::complete_unchanged(&session.db, session.worker_id, jobs).await {
            Ok(found) => {
                // Which of them were refused the fence does not say: it is rare, and a kind for all will do.
                let refused_jobs = jobs.len() - usize::try_from(found).unwrap_or(0).min(jobs.len());
                let (refused_jobs, acked) = jobs.split_at(refused_jobs);
                for kind in JobKind::ALL {
                    let count = acked.iter().filter(|job| job.kind == kind).count();
                    if count > 0 {
                        ATTEMPTS.add([kind.name(), Outcome::Unchanged.name()], count as u64);
                    }
                }
                return refused(session, refused_jobs);
            }
            Err(error) => {
                failures += 1;
                wait_after(&error, "ack", failures, &session.lost).await;
            }
        }
    }
}

/// Notes settlements that the fence refused.
pub(super) fn refused(session: &Session, jobs: &[Job]) {
    for job in jobs {
        ATTEMPTS.add([job.kind.name(), Outcome::Refused.name()], 1);
        ACKS_REFUSED.add([], 1);
    }
    if !jobs.is_empty() {
        let jobs = jobs.len();
        tracing::warn!(worker = session.worker_id, jobs, "the jobs belong to somebody else now: result dropped");
    }
}
