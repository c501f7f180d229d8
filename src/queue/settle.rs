//! Ending an attempt: completed, failed, or handed back.
//!
//! Every statement is fenced by (job, attempt, worker) and checks how many jobs it found: a
//! worker that lost its lease changes nothing, and learns so.

use std::{collections::BTreeMap, time::Duration};

use super::{Job, JobKind};
use crate::{
    args,
    db::{Db, DbError, Mode, Tx, clipped, retry},
    recompute::Changes,
    statement,
};

/// The longest error message that is kept.
const ERROR_CHARACTERS_MAX: usize = 2000;

// In a correcting transaction it runs last, while rows of the summary are locked: it must not wait for whoever
// holds a job, who may be waiting for a user with that row. MySQL has no word for it, where it may wait.
statement!(
    COMPLETE,
    "complete",
    "{waiting_for_nobody} UPDATE daymend_jobs
     SET state = 'completed', sort_key = {now_us}, error = NULL,
         rows_inserted = ?, rows_updated = ?, rows_deleted = ?
     WHERE state = 'running' AND worker_id = ? AND attempt = ? AND id IN ({list})"
);

// MySQL assigns from left to right: sort_key is decided before state changes.
statement!(
    FAIL,
    "fail",
    "UPDATE daymend_jobs
     SET sort_key = CASE WHEN ? OR attempt >= attempts_max THEN {now_us} ELSE {now_us} + ? END,
         error = ?,
         state = CASE WHEN ? OR attempt >= attempts_max THEN 'discarded' ELSE 'available' END
     WHERE state = 'running' AND worker_id = ? AND attempt = ? AND id = ?"
);

statement!(
    RELEASE,
    "release",
    "UPDATE daymend_jobs
     SET state = 'available', sort_key = {now_us} + ?, attempt = attempt - 1
     WHERE state = 'running' AND worker_id = ? AND attempt = ? AND id = ?"
);

statement!(
    ATTEMPT_RECORD,
    "record attempt",
    "INSERT INTO daymend_attempts (job_id, attempt, worker_id, started_at, ended_at, outcome, error)
     SELECT id, attempt, worker_id, claimed_at, {now}, ?, ? FROM daymend_jobs
     WHERE state = 'running' AND worker_id = ? AND attempt = ? AND id = ?"
);

statement!(
    HAND_BACK_RECORD,
    "record hand-back",
    "INSERT INTO daymend_attempts (job_id, attempt, worker_id, started_at, ended_at, outcome, error)
     SELECT id, attempt, worker_id, claimed_at, {now}, 'handed_back', NULL FROM daymend_jobs
     WHERE kind = ? AND state = 'running' AND sort_key = ?"
);

statement!(
    HAND_BACK,
    "hand back",
    "UPDATE daymend_jobs
     SET state = 'available', sort_key = {now_us}, attempt = attempt - 1
     WHERE kind = ? AND state = 'running' AND sort_key = ?"
);

/// How a failed attempt goes on.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What failed, in one line for an operator.
    pub error: String,
    /// Whether no other attempt can succeed.
    pub permanent: bool,
    /// How long to wait before the next attempt.
    pub backoff: Duration,
}

/// Marks jobs completed inside the caller's transaction; how many the fence let through.
///
/// `changes` holds for each of them: use it for one job, or for jobs that changed nothing.
pub async fn complete(tx: &mut Tx, worker_id: i64, jobs: &[&Job], changes: Changes) -> Result<u64, DbError> {
    let mut by_attempt: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for job in jobs {
        by_attempt.entry(job.attempt).or_default().push(job.id);
    }
    let mut found = 0;
    for (attempt, ids) in by_attempt {
        let args = args![changes.inserted, changes.updated, changes.deleted, worker_id, attempt; &ids];
        found += tx.execute(COMPLETE.with_list(ids.len()), args).await?;
    }
    Ok(found)
}

/// Completes jobs that found nothing to change, in a transaction of their own.
pub async fn complete_unchanged(db: &Db, worker_id: i64, jobs: &[Job]) -> Result<u64, DbError> {
    let jobs: Vec<&Job> = jobs.iter().collect();
    retry("complete", || async {
        let mut tx = db.begin(Mode::Write).await?;
        let found = complete(&mut tx, worker_id, &jobs, Changes::default()).await?;
        tx.commit().await?;
        Ok(found)
    })
    .await
}

/// Ends an attempt in failure; whether the fence let it through.
///
/// The job is available again after the backoff, or discarded where the failure is permanent
/// or its attempts are used up.
pub async fn fail(db: &Db, worker_id: i64, job: &Job, failure: &Failure) -> Result<bool, DbError> {
    let error = clipped(&failure.error, ERROR_CHARACTERS_MAX);
    retry("fail", || async {
        let mut tx = db.begin(Mode::Write).await?;
        let fence = args![worker_id, job.attempt, job.id];
        let mut record = args!["failed", error.as_str()];
        record.extend(fence.clone());
        tx.execute(&ATTEMPT_RECORD, record).await?;
        let mut args = args![failure.permanent, failure.backoff.as_micros(), error.as_str(), failure.permanent];
        args.extend(fence);
        let found = tx.execute(&FAIL, args).await?;
        // Refused: then there was no attempt to record, either.
        if found == 1 { tx.commit().await } else { tx.rollback().await }?;
        Ok(found == 1)
    })
    .await
}

/// Gives one job back without using up its attempt; it is due again after `wait`.
pub async fn release(db: &Db, worker_id: i64, job: &Job, wait: Duration) -> Result<bool, DbError> {
    let args = args![wait.as_micros(), worker_id, job.attempt, job.id];
    let found = retry("release", || db.execute(&RELEASE, args.clone())).await?;
    Ok(found == 1)
}

/// Gives back everything that a worker still holds, with the attempts restored; how many jobs.
pub async fn hand_back(db: &Db, worker_id: i64) -> Result<u64, DbError> {
    retry("hand back", || async {
        let mut tx = db.begin(Mode::Write).await?;
        let mut jobs = 0;
        for kind in JobKind::ALL {
            let recorded = tx.execute(&HAND_BACK_RECORD, args![kind.name(), worker_id]).await?;
            let handed_back = tx.execute(&HAND_BACK, args![kind.name(), worker_id]).await?;
            if recorded != handed_back {
                // Some were rescued or cancelled in between.
                return Err(DbError::changed(HAND_BACK.name));
            }
            jobs += handed_back;
        }
        tx.commit().await?;
        Ok(jobs)
    })
    .await
}
