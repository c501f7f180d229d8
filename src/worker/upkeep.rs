//! What a session does beside its work: heartbeats, and grouped acks.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{Session, wait_after};
use crate::{
    db::{Backoff, Db},
    error::chain,
    metrics,
    queue::{Job, lease, settle},
};

/// How many acks go into one statement, and how long the first waits for others.
const ACKS_MAX: usize = 500;
const ACKS_WAIT: Duration = Duration::from_millis(20);

/// Extends the session's lease until it is lost, on a connection of its own.
pub(super) async fn keep_lease(session: Arc<Session>, db: Db) {
    let mut beat = tokio::time::interval(session.config.heartbeat);
    let mut failures = 0;
    while !session.lost.is_cancelled() {
        beat.tick().await;
        match lease::heartbeat(&db, session.worker_id, session.config.lease).await {
            Ok(true) => failures = 0,
            Ok(false) => session.lost.cancel(),
            Err(error) => {
                failures += 1;
                beat.reset_immediately();
                wait_after(&error, "heartbeat", failures, &session.lost).await;
            }
        }
    }
}

/// Where jobs that found nothing to change are acked, and the task that does it.
///
/// The task ends when every sender is gone and the last ack is written.
pub(super) fn acker(session: Arc<Session>) -> (mpsc::UnboundedSender<Vec<Job>>, impl Future<Output = ()> + Send) {
    let (acks, mut received) = mpsc::unbounded_channel::<Vec<Job>>();
    let task = async move {
        while let Some(first) = received.recv().await {
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
                metrics::attempts("completed", found);
                refused(session, jobs.len() as u64 - found);
                return;
            }
            Err(error) => {
                failures += 1;
                let wait = Backoff::UNAVAILABLE.wait(failures);
                tracing::warn!(error = %chain(&error), ?wait, "ack failed, trying again");
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Notes settlements that the fence refused.
pub(super) fn refused(session: &Session, jobs: u64) {
    if jobs > 0 {
        tracing::warn!(worker = session.worker_id, jobs, "the jobs belong to somebody else now: result dropped");
        metrics::refused(jobs);
    }
}
