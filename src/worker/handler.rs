//! Running one unit: its days are recomputed together, or one at a time if that fails.
//!
//! Each recompute runs in a task of its own under the job timeout, so that a panic is treated like any other error,
//! and a recompute that hangs is dropped and its transaction rolled back. A conflict that outlasts its retries, an
//! unreachable database, or a definition that does not fit it ([`misfit`](super::misfit)) uses up no attempt; a
//! connection that is repeatedly killed while the database answers does.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::UnboundedSender;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::{
    NOTHING_TO_DO, Session, fault,
    fetch::Unit,
    misfit::Misfits,
    recurring::Recurring,
    room::Room,
    upkeep::{Acks, refused},
    wait_after,
    waiting::Ticket,
};
use crate::{
    db::{Backoff, DbError, ErrorKind, Failures},
    error::chain,
    metrics::{
        self, Outcome,
        catalogue::{ATTEMPTS, DRIFT_FOUND, JOB_DURATION, JOBS_DISCARDED},
    },
    queue::{
        Job, run_of,
        settle::{self, Failure},
    },
    recompute::{self, Correction, Progress, RecomputeError, Target},
    rollup::Rollup,
};

/// The maximum wait between attempts of a job that failed.
const BACKOFF_MAX: Duration = Duration::from_secs(600);

/// How long an aborted recompute may take to report its progress, and how much later than the job timeout its
/// statements are given up.
const ABORT_WAIT: Duration = Duration::from_secs(1);

/// Why an attempt did not complete.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Recompute(#[from] RecomputeError),
    #[error("the rollup {0:?} is not known to this worker (see --jobs-dir)")]
    UnknownRollup(String),
    #[error("it took longer than --job-timeout ({})", humantime::format_duration(*.0))]
    TimedOut(Duration),
    #[error("the recompute panicked: {0}")]
    Panicked(String),
    #[error(
        "its connection ended {0} times in a row while the database answered others: is something killing long-running queries?"
    )]
    CutOff(u32, #[source] RecomputeError),
}

impl AttemptError {
    fn database(&self) -> Option<&DbError> {
        match self {
            Self::Recompute(RecomputeError::Database(error)) => Some(error),
            _ => None,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::TimedOut(_) => Outcome::TimedOut,
            Self::Panicked(_) => Outcome::Panicked,
            Self::Recompute(_) | Self::UnknownRollup(_) | Self::CutOff(..) => Outcome::Failed,
        }
    }

    /// Whether no other attempt can succeed until somebody changes something.
    fn is_permanent(&self) -> bool {
        match self {
            Self::UnknownRollup(_) => true,
            Self::Recompute(error) => matches!(
                error,
                RecomputeError::NoSuchLab(_)
                    | RecomputeError::Zone { .. }
                    | RecomputeError::Overflow { .. }
                    | RecomputeError::Shrinks { .. }
            ),
            Self::TimedOut(_) | Self::Panicked(_) | Self::CutOff(..) => false,
        }
    }
}

/// Runs a unit to its end, unless it has been given back. Every failure is settled here; apalis never sees one.
pub(super) async fn handle(session: Arc<Session>, acks: UnboundedSender<Acks>, ticket: Ticket) {
    // A unit that is not started is handed back at the end of the session.
    if !session.may_begin().await {
        return;
    }
    // There are as many as apalis runs concurrently, so this waits for nobody but the fetcher, for a moment.
    let _slot = session.slots.acquire().await;
    let Some(unit) = ticket.lock().await.take() else { return };
    // A panic here, outside the recompute, leaves jobs that nobody settles: only the end of this session gives them
    // back.
    session.vital("settle", handle_unit(&session, &acks, unit)).await;
}

async fn handle_unit(session: &Arc<Session>, acks: &UnboundedSender<Acks>, mut unit: Unit) {
    fault::inject_once("handler");
    let mut room = unit.room.split(unit.jobs.len());
    let released = settle_unit(session, acks, &unit, &mut room).await;
    session.release_backoff.forget(unit.jobs.iter().map(|job| job.id).filter(|id| !released.contains(id)));
}

/// Settles the jobs of a unit or sends them to be acked; returns those that were released.
async fn settle_unit(session: &Arc<Session>, acks: &UnboundedSender<Acks>, unit: &Unit, room: &mut Room) -> Vec<i64> {
    let mut released = Vec::new();
    let mut jobs = unit.jobs.as_slice();
    if let [first, .., last] = jobs {
        let span = tracing::info_span!(
            "jobs",
            run = run_of(first.id),
            job = first.id,
            lab = first.lab_id,
            day = %first.day,
            to = %last.day,
            attempt = first.attempt
        );
        let result;
        (jobs, result) = attempt(session, unit, jobs).instrument(span.clone()).await;
        match result {
            Ok(()) => {
                unchanged(acks, room, jobs);
                return released;
            }
            Err(AttemptError::Recompute(RecomputeError::LostLease)) => {
                // One of the jobs was cancelled or rescued, but the others may still be ours.
                tracing::debug!(parent: &span, "a group lost a job, going on one day at a time");
            }
            Err(error) => {
                tracing::debug!(parent: &span, error = %chain(&error), "a group failed, going on one day at a time");
            }
        }
    }
    for job in jobs {
        let span = tracing::info_span!(
            "job",
            run = run_of(job.id),
            job = job.id,
            lab = job.lab_id,
            day = %job.day,
            attempt = job.attempt
        );
        if run_one(session, acks, unit, job, room).instrument(span).await {
            released.push(job.id);
        }
    }
    released
}

/// Runs one job to its end; returns whether it was released.
async fn run_one(
    session: &Arc<Session>,
    acks: &UnboundedSender<Acks>,
    unit: &Unit,
    job: &Job,
    room: &mut Room,
) -> bool {
    let mut failures = Failures::default();
    let mut cuts = Recurring::default();
    let mut misfits = Misfits::new(session);
    while !session.over.is_cancelled() {
        let mut error = match attempt(session, unit, std::slice::from_ref(job)).await {
            (rest, Ok(())) => {
                failures.end("recompute works again");
                unchanged(acks, room, rest);
                return false;
            }
            ([], Err(_)) => return false,
            (_, Err(AttemptError::Recompute(RecomputeError::LostLease))) => {
                refused(session, std::slice::from_ref(job));
                return false;
            }
            (_, Err(AttemptError::Recompute(RecomputeError::Database(error)))) => {
                match misfits.wait(job, error, &mut failures).await {
                    Ok(()) => continue,
                    Err(error) => RecomputeError::from(error).into(),
                }
            }
            (_, Err(error)) => error,
        };
        if let Some(database) = error.database()
            && database.kind == ErrorKind::Unavailable
        {
            let failures = failures.add();
            if !is_cut_off_for_good(&mut cuts, session, database).await {
                wait_after(database, "recompute", failures, &session.over).await;
                continue;
            }
            error = match error {
                AttemptError::Recompute(error) => AttemptError::CutOff(cuts.times, error),
                other => other,
            };
        }
        match error.database() {
            // A duplicate key that outlasts all retries is not a race: the site has a unique key that daymend does not
            // know. It has to count as a failure, or the job would be retried for ever.
            Some(database) if database.is_passing() => {
                let rest = session.release_backoff.next(job.id);
                tracing::warn!(error = %chain(&error), ?rest, "conflicts outlasted the retries, resting");
                let release = || async {
                    let released = settle::release(&session.db, session.worker_id, job, rest).await;
                    released.inspect_err(|error| session.end_if_in_doubt(error))
                };
                settle(session, job, Outcome::Released, release).await;
                return true;
            }
            _ => {
                let backoff = Backoff { base: session.config.backoff, max: BACKOFF_MAX };
                let failure = Failure {
                    error: chain(&error),
                    permanent: error.is_permanent(),
                    backoff: backoff.wait(u32::try_from(job.attempt).unwrap_or(1)),
                };
                tracing::warn!(error = failure.error, permanent = failure.permanent, "attempt failed");
                let is_settled = settle(session, job, error.outcome(), || {
                    settle::fail(&session.db, session.worker_id, job, &failure)
                })
                .await;
                if is_settled && (failure.permanent || job.attempt >= job.attempts_max) {
                    JOBS_DISCARDED.add([job.kind.name()], 1);
                }
                return false;
            }
        }
    }
    false
}

/// Counts that a job's connection was cut off, or starts over if the database does not answer; returns whether this is
/// no longer an outage. Something that kills long-running queries would kill this one again, for ever. An unreliable
/// network may also cut it off a few times, but not for seconds on end and always in the middle of the same job.
async fn is_cut_off_for_good(cuts: &mut Recurring, session: &Session, error: &DbError) -> bool {
    if session.over.run_until_cancelled(session.db.answers_others(error)).await != Some(true) {
        *cuts = Recurring::default();
        return false;
    }
    cuts.add()
}

/// Settles a job; returns whether it still belonged to this worker.
async fn settle<F>(session: &Session, job: &Job, outcome: Outcome, settle: impl FnMut() -> F) -> bool
where
    F: Future<Output = Result<bool, DbError>>,
{
    match session.insist("settle", settle).await {
        Some(true) => {
            ATTEMPTS.add([job.kind.name(), outcome.name()], 1);
            true
        }
        Some(false) => {
            refused(session, std::slice::from_ref(job));
            false
        }
        None => false,
    }
}

/// Acks jobs that found nothing to change.
fn unchanged(acks: &UnboundedSender<Acks>, room: &mut Room, jobs: &[Job]) {
    if !jobs.is_empty() {
        // This fails only when the session is over: the acker outlives every unit.
        let _ = acks.send(Acks { jobs: jobs.to_vec(), room: room.split(jobs.len()) });
    }
}

/// Recomputes the days of `jobs`, which are neighbours, under the job timeout; returns the jobs that were not settled.
async fn attempt<'a>(session: &Arc<Session>, unit: &Unit, jobs: &'a [Job]) -> (&'a [Job], Result<(), AttemptError>) {
    let (Some(first), Some(last)) = (jobs.first(), jobs.last()) else {
        return (jobs, Ok(()));
    };
    let target = Target {
        lab_id: first.lab_id,
        first: first.day,
        last: last.day,
        as_of: unit.as_of,
        max_shrink: unit.max_shrink,
    };
    let timeout = session.config.job_timeout;
    let begun = Instant::now();
    let progress = Arc::new(Progress::default());
    let mut task = AbortOnDropHandle::new(tokio::spawn(
        recompute_and_settle(Arc::clone(session), first.rollup.clone(), target, jobs.to_vec(), Arc::clone(&progress))
            .in_current_span(),
    ));
    let result = tokio::time::timeout(timeout, &mut task).await;
    if result.is_err() {
        // Wait for it to end: it may be just about to learn that a correction was committed.
        task.abort();
        let _ = tokio::time::timeout(ABORT_WAIT, &mut task).await;
    }
    let took = begun.elapsed();
    let jobs_count = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
    JOB_DURATION.record([first.kind.name()], took / jobs_count, jobs.len());
    let rest = &jobs[jobs.partition_point(|job| progress.last().is_some_and(|last| job.day <= last))..];
    let result = match result {
        Err(_) => Err(AttemptError::TimedOut(timeout)),
        Ok(Ok(result)) => result
            .inspect(|()| tracing::debug!(corrected = jobs.len() - rest.len(), unchanged = rest.len(), ?took, "done")),
        Ok(Err(join)) => Err(AttemptError::Panicked(match join.try_into_panic() {
            Ok(panic) => panic
                .downcast_ref::<&str>()
                .map(ToString::to_string)
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "without a message".to_owned()),
            Err(_) => "aborted".to_owned(),
        })),
    };
    (rest, result)
}

/// The jobs of a correction.
fn jobs_of<'a>(correction: &Correction, jobs: &'a [Job]) -> impl Iterator<Item = &'a Job> + use<'a> {
    let days = correction.days.clone();
    jobs.iter().filter(move |job| days.contains(&job.day))
}

/// Counts and logs a correction.
fn corrected(rollup: &Rollup, jobs: &[Job], correction: &Correction) {
    let difference = &correction.difference;
    // All jobs of a unit have the same kind and lab.
    if let Some(Job { kind, lab_id, .. }) = jobs.first() {
        ATTEMPTS.add([kind.name(), Outcome::Corrected.name()], jobs_of(correction, jobs).count() as u64);
        DRIFT_FOUND.add([kind.name()], difference.drifted().len() as u64);
        metrics::corrected(rollup, *lab_id, difference);
    }
    tracing::debug!(
        from = %correction.days.start(),
        until = %correction.days.end(),
        inserted = difference.insert.len(),
        updated = difference.update.len(),
        deleted = difference.delete.len(),
        "corrected"
    );
}

async fn recompute_and_settle(
    session: Arc<Session>,
    rollup: String,
    target: Target,
    jobs: Vec<Job>,
    progress: Arc<Progress>,
) -> Result<(), AttemptError> {
    if rollup == NOTHING_TO_DO {
        return Ok(());
    }
    let Some(rollup) = session.rollups.get(&rollup) else {
        return Err(AttemptError::UnknownRollup(rollup));
    };
    fault::inject(target.lab_id).await;
    let worker_id = session.worker_id;
    let jobs = &jobs;
    // The job timeout comes before the limit of a statement, so that its name is in the attempt's error.
    let db = session.db.with_limit(session.config.job_timeout + ABORT_WAIT);
    let settle = |mut tx, correction: Correction| async move {
        for job in jobs_of(&correction, jobs) {
            let changes = recompute::changes_of(&correction.difference, job.day);
            if settle::complete(&mut tx, worker_id, &[job], changes).await? != 1 {
                tx.rollback().await?;
                return Err(RecomputeError::LostLease);
            }
        }
        Ok((tx, correction))
    };
    let committed = |correction| corrected(rollup, jobs, &correction);
    recompute::recompute(&db, rollup, target, &session.streak, &progress, settle, committed).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        calendar::ZoneError,
        recompute::shrink::{MaxShrink, Shrinking},
    };

    #[test]
    fn what_somebody_has_to_change_first_is_not_tried_again() {
        let (lab_id, day) = (7, chrono::NaiveDate::default());
        let shrinking = Shrinking { day, vanishing: 51, stored: 100 };
        for error in [
            RecomputeError::NoSuchLab(lab_id),
            RecomputeError::Zone { lab_id, source: ZoneError::Missing },
            RecomputeError::Overflow { lab_id, day, count: u32::MAX },
            shrinking.error(lab_id, MaxShrink(Some(50))),
        ] {
            let error = AttemptError::from(error);
            assert!(error.is_permanent(), "{error}");
        }
        assert!(AttemptError::UnknownRollup("other".to_owned()).is_permanent());
        for error in [
            AttemptError::from(RecomputeError::from(DbError::changed("rows"))),
            AttemptError::TimedOut(Duration::ZERO),
            AttemptError::Panicked("oh".to_owned()),
            AttemptError::CutOff(3, RecomputeError::LostLease),
        ] {
            assert!(!error.is_permanent(), "{error}");
        }
    }
}
