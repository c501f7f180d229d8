//! A session's background work: heartbeats, and grouped acks.
//!
//! A job that somebody keeps locked does not delay the acks of others: it is left out, and tried again.

use std::{sync::Arc, time::Duration};

use strum::IntoEnumIterator as _;
use tokio::sync::mpsc;

use super::{End, Session, fault, room::Room, throttle, wait_for};
use crate::{
    db::{Backoff, Db, Failures},
    metrics::{
        self, Outcome,
        catalogue::{ACKS_REFUSED, ATTEMPTS, HEARTBEAT, JOBS_HELD, SLOTS, SLOTS_BUSY},
    },
    queue::{Job, JobKind, lease, settle},
};

/// How many acks go into one statement, and how long the first one waits for others.
const ACKS_MAX: usize = 500;
const ACKS_WAIT: Duration = Duration::from_millis(20);

/// How often jobs locked by somebody else are tried again.
const LOCKED_EVERY: Duration = Duration::from_secs(1);

/// How often the gauges are set.
const GAUGES_EVERY: Duration = Duration::from_secs(1);

/// Extends the session's lease until it is lost, on a connection of its own.
pub(super) async fn keep_lease(session: Arc<Session>, db: Db) {
    let mut beat = tokio::time::interval(session.config.heartbeat);
    let mut failures = Failures::default();
    while !session.over.is_cancelled() {
        beat.tick().await;
        match lease::heartbeat(&db, session.worker_id, session.config.lease).await {
            Ok(true) => {
                fault::inject_once("lease");
                failures.end("heartbeats work again");
                session.pulse.beat();
                HEARTBEAT.set([], metrics::now_seconds());
            }
            Ok(false) => session.end(End::Lost),
            Err(error) => {
                beat.reset_immediately();
                let wait = again(session.config.heartbeat).wait(failures.add());
                wait_for(wait, &error, "heartbeat", &session.over).await;
            }
        }
    }
}

/// How long to wait after a failed heartbeat: not so long that the next one is missed, as a lease spans only a few
/// heartbeats.
fn again(heartbeat: Duration) -> Backoff {
    Backoff { max: Backoff::UNAVAILABLE.max.min(heartbeat), ..Backoff::UNAVAILABLE }
}

/// Sets the gauges of what the worker is busy with.
pub(super) async fn show_gauges(session: Arc<Session>, lease_db: Db) {
    loop {
        SLOTS.set([], session.config.concurrency as f64);
        SLOTS_BUSY.set([], session.config.concurrency.saturating_sub(session.slots.available_permits()) as f64);
        JOBS_HELD.set([], session.held.count() as f64);
        if session.config.limits.is_empty() {
            throttle::show_none();
        }
        metrics::pool("work", &session.db);
        metrics::pool("lease", &lease_db);
        tokio::time::sleep(GAUGES_EVERY).await;
    }
}

/// Jobs that found nothing to change, with the room that they occupy until their ack is written.
#[derive(Debug)]
pub(super) struct Acks {
    pub(super) jobs: Vec<Job>,
    pub(super) room: Room,
}

impl Acks {
    fn join(&mut self, more: Self) {
        self.jobs.extend(more.jobs);
        self.room.join(more.room);
    }
}

/// A sender for jobs that found nothing to change, and the task that acks them.
///
/// The task ends when every sender is gone and the last ack is written, except for jobs that somebody keeps locked.
pub(super) fn acker(session: Arc<Session>) -> (mpsc::UnboundedSender<Acks>, impl Future<Output = ()> + Send) {
    let (sender, mut received) = mpsc::unbounded_channel::<Acks>();
    let task = async move {
        let mut locked = Acks { jobs: Vec::new(), room: session.held.add(0) };
        let mut locked_again = tokio::time::Instant::now();
        loop {
            let first = tokio::select! {
                first = received.recv() => first,
                () = tokio::time::sleep_until(locked_again), if !locked.jobs.is_empty() => {
                    let acks = std::mem::replace(&mut locked, Acks { jobs: Vec::new(), room: session.held.add(0) });
                    ack(&session, acks, Locked::LeftOut, &mut locked).await;
                    locked_again = tokio::time::Instant::now() + LOCKED_EVERY;
                    continue;
                }
            };
            let Some(mut acks) = first else { return };
            fault::inject_once("acker");
            let deadline = tokio::time::Instant::now() + ACKS_WAIT;
            while acks.jobs.len() < ACKS_MAX
                && let Ok(Some(more)) = tokio::time::timeout_at(deadline, received.recv()).await
            {
                acks.join(more);
            }
            ack(&session, acks, Locked::Tried, &mut locked).await;
        }
    };
    (sender, task)
}

/// Whether jobs locked by somebody else are left out from the start, or only once they get in the way.
#[derive(Debug, Clone, Copy)]
enum Locked {
    Tried,
    LeftOut,
}

/// Acks jobs; those locked by somebody else are added to `locked`.
async fn ack(session: &Session, mut acks: Acks, how: Locked, locked: &mut Acks) {
    let (db, worker_id) = (&session.db, session.worker_id);
    while !acks.jobs.is_empty() {
        let jobs: Vec<Job> = acks.jobs.drain(..acks.jobs.len().min(ACKS_MAX)).collect();
        let completed = session.insist("settle", || async {
            match how {
                Locked::Tried => settle::complete_unchanged(db, worker_id, &jobs).await,
                Locked::LeftOut => settle::complete_unlocked(db, worker_id, &jobs).await,
            }
        });
        let Some(completed) = completed.await else { return };
        let mut room = acks.room.split(jobs.len());
        let (still_locked, jobs): (Vec<Job>, Vec<Job>) =
            jobs.into_iter().partition(|job| completed.locked.contains(&job.id));
        locked.join(Acks { room: room.split(still_locked.len()), jobs: still_locked });
        // The fence tells how many were refused, but not which. That is rare, and only their kinds are needed, so any
        // will do.
        let refused_jobs = jobs.len() - usize::try_from(completed.found).unwrap_or(0).min(jobs.len());
        let (refused_jobs, acked) = jobs.split_at(refused_jobs);
        for kind in JobKind::iter() {
            let count = acked.iter().filter(|job| job.kind == kind).count();
            if count > 0 {
                ATTEMPTS.add([kind.name(), Outcome::Unchanged.name()], count as u64);
            }
        }
        refused(session, refused_jobs);
    }
}

/// Counts settlements that the fence rejected.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_that_failed_again_and_again_is_tried_before_the_next_is_due() {
        let wait = |heartbeat: u64| again(Duration::from_secs(heartbeat)).wait(100).as_secs_f64();
        assert!((1.0..=2.0).contains(&wait(2)), "{}", wait(2));
        assert!((5.0..=10.0).contains(&wait(60)), "{}", wait(60));
    }
}
