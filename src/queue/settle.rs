//! Ending an attempt: completed, failed, or handed back.
//!
//! Every settlement is fenced by (job, attempt, worker), except handing back, which is a worker's last step and is
//! fenced by (job, worker). Each checks how many jobs it matched: a worker that lost its lease changes nothing, and
//! finds out.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::Job;
use crate::{
    args,
    db::{Db, DbError, ErrorKind, Mode, Tx, clipped, retry},
    recompute::Changes,
    statement,
};

/// The maximum length of an error message that is stored.
const ERROR_CHARACTERS_MAX: usize = 2000;

// A transaction that corrects rows runs this last, while it holds locks on rows of the summary. So it must not wait for
// whoever has locked the job, who may in turn be waiting for a user's transaction that needs those rows. MySQL has no
// syntax for that: there it may wait for a second.
statement!(
    COMPLETE,
    "complete",
    "{waiting_for_nobody} UPDATE daymend_jobs
     SET state = 'completed', sort_key = {now_us}, error = NULL,
         rows_inserted = ?, rows_updated = ?, rows_deleted = ?
     WHERE state = 'running' AND worker_id = ? AND attempt = ? AND id IN ({list})"
);

// MySQL assigns from left to right: sort_key is computed before state changes.
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
     WHERE state = 'running' AND worker_id = ? AND attempt = ? AND id IN ({list})"
);

statement!(
    ATTEMPT_RECORD,
    "record attempt",
    "INSERT INTO daymend_attempts (job_id, attempt, worker_id, started_at, ended_at, outcome, error)
     SELECT id, attempt, worker_id, claimed_at, {now}, ?, ? FROM daymend_jobs
     WHERE state = 'running' AND worker_id = ? AND attempt = ? AND id = ?"
);

statement!(
    OWN_LOCK,
    "lock own jobs",
    "SELECT id FROM daymend_jobs WHERE state = 'running' AND worker_id = ? AND id IN ({list}) {skip_locked}"
);

statement!(OWN, "own jobs", "SELECT id FROM daymend_jobs WHERE state = 'running' AND worker_id = ? AND id IN ({list})");

statement!(
    HAND_BACK_LOCK,
    "lock for hand-back",
    "SELECT id FROM daymend_jobs {force_claim}
     WHERE kind IN ('nightly', 'repair', 'rebuild') AND state = 'running' AND sort_key = ? {skip_locked}"
);

statement!(
    HAND_BACK_RECORD,
    "record hand-back",
    "INSERT INTO daymend_attempts (job_id, attempt, worker_id, started_at, ended_at, outcome, error)
     SELECT id, attempt, worker_id, claimed_at, {now}, 'handed_back', NULL FROM daymend_jobs
     WHERE state = 'running' AND worker_id = ? AND id IN ({list})"
);

statement!(
    HAND_BACK,
    "hand back",
    "UPDATE daymend_jobs
     SET state = 'available', sort_key = {now_us}, attempt = attempt - 1
     WHERE state = 'running' AND worker_id = ? AND id IN ({list})"
);

statement!(
    HELD,
    "jobs of worker",
    "SELECT COUNT(*) FROM daymend_jobs {force_claim}
     WHERE kind IN ('nightly', 'repair', 'rebuild') AND state = 'running' AND sort_key = ?"
);

/// How many jobs one statement hands back.
const JOBS_A_STATEMENT: usize = 500;

/// How to settle a failed attempt.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The error, in one line for operators.
    pub error: String,
    /// Whether no further attempt can succeed.
    pub permanent: bool,
    /// How long to wait before the next attempt.
    pub backoff: Duration,
}

/// Marks jobs completed inside the caller's transaction; returns how many the fence let through.
///
/// `changes` applies to each of them: use it for one job, or for jobs that changed nothing.
pub async fn complete(tx: &mut Tx, worker_id: i64, jobs: &[&Job], changes: Changes) -> Result<u64, DbError> {
    let mut found = 0;
    for (attempt, ids) in by_attempt(jobs) {
        let args = args![changes.inserted, changes.updated, changes.deleted, worker_id, attempt; &ids];
        found += tx.execute(COMPLETE.with_list(ids.len()), args).await?;
    }
    Ok(found)
}

/// The ids of jobs by their attempt, which is part of the fence.
fn by_attempt(jobs: &[&Job]) -> BTreeMap<i64, Vec<i64>> {
    let mut by_attempt: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for job in jobs {
        by_attempt.entry(job.attempt).or_default().push(job.id);
    }
    by_attempt
}

/// The result of completing jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Completed {
    /// How many the fence let through.
    pub found: u64,
    /// Jobs that are still running, with rows that somebody else keeps locked: try them again.
    pub locked: Vec<i64>,
}

/// Completes jobs that found nothing to change, in a transaction of their own: all of them, or, if some rows are
/// locked, those that nobody else keeps locked.
pub async fn complete_unchanged(db: &Db, worker_id: i64, jobs: &[Job]) -> Result<Completed, DbError> {
    let all: Vec<&Job> = jobs.iter().collect();
    let is_contended = AtomicBool::new(false);
    retry("complete", || async {
        if is_contended.swap(true, Ordering::Relaxed) {
            return complete_those_free(db, worker_id, jobs).await;
        }
        let mut tx = db.begin(Mode::Write).await?;
        match complete(&mut tx, worker_id, &all, Changes::default()).await {
            Ok(found) => {
                tx.commit().await?;
                Ok(Completed { found, locked: Vec::new() })
            }
            Err(error) => {
                // Its locks must not block the next try.
                if error.kind == ErrorKind::Conflict {
                    tx.rollback().await?;
                }
                Err(error)
            }
        }
    })
    .await
}

/// Completes those of the jobs whose rows nobody else keeps locked.
pub async fn complete_unlocked(db: &Db, worker_id: i64, jobs: &[Job]) -> Result<Completed, DbError> {
    retry("complete", || complete_those_free(db, worker_id, jobs)).await
}

async fn complete_those_free(db: &Db, worker_id: i64, jobs: &[Job]) -> Result<Completed, DbError> {
    let mut tx = db.begin(Mode::Write).await?;
    let (free, locked) = lock_own(&mut tx, worker_id, &jobs.iter().collect::<Vec<_>>()).await?;
    let jobs: Vec<&Job> = jobs.iter().filter(|job| free.contains(&job.id)).collect();
    let found = complete(&mut tx, worker_id, &jobs, Changes::default()).await?;
    tx.commit().await?;
    Ok(Completed { found, locked })
}

/// Locks the jobs that are still the worker's; returns them, and those that somebody else keeps locked.
async fn lock_own(tx: &mut Tx, worker_id: i64, jobs: &[&Job]) -> Result<(Vec<i64>, Vec<i64>), DbError> {
    let args = || args![worker_id; jobs.iter().map(|job| &job.id)];
    let free = tx.fetch_all(OWN_LOCK.with_list(jobs.len()), args(), |row| row.int(0)).await?;
    let mut locked = Vec::new();
    if free.len() < jobs.len() {
        locked = tx.fetch_all(OWN.with_list(jobs.len()), args(), |row| row.int(0)).await?;
        locked.retain(|id| !free.contains(id));
    }
    Ok((free, locked))
}

/// Ends an attempt in failure; returns whether the fence let it through.
///
/// The job becomes available again after the backoff, or is discarded if the failure is permanent or its attempts are
/// used up.
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
        // If the fence rejected it, no attempt was recorded either.
        if found == 1 { tx.commit().await } else { tx.rollback().await }?;
        Ok(found == 1)
    })
    .await
}

/// Gives one job back without using up its attempt; it is due again after `wait`.
///
/// Do not repeat this if the COMMIT fails, except after a conflict: the worker may have the job again by then, in the
/// same attempt.
pub async fn release(db: &Db, worker_id: i64, job: &Job, wait: Duration) -> Result<bool, DbError> {
    let found = retry("release", || async {
        let mut tx = db.begin(Mode::Write).await?;
        let found = release_in(&mut tx, worker_id, &[job], wait).await?;
        tx.commit().await?;
        Ok::<_, DbError>(found)
    });
    Ok(found.await? == 1)
}

/// Gives jobs back that have not been begun, without using up their attempts, except groups with a job that somebody
/// else keeps locked; returns for each group whether it was given back. As for [`release`], do not repeat it.
pub async fn give_back(db: &Db, worker_id: i64, groups: &[&[Job]]) -> Result<Vec<bool>, DbError> {
    let mut tx = db.begin(Mode::Write).await?;
    let jobs: Vec<&Job> = groups.iter().copied().flatten().collect();
    let (_, locked) = lock_own(&mut tx, worker_id, &jobs).await?;
    let is_free = |group: &&[Job]| group.iter().all(|job| !locked.contains(&job.id));
    let jobs: Vec<&Job> = groups.iter().copied().filter(is_free).flatten().collect();
    release_in(&mut tx, worker_id, &jobs, Duration::ZERO).await?;
    tx.commit().await?;
    Ok(groups.iter().map(is_free).collect())
}

/// Makes jobs available again; returns how many the fence let through.
async fn release_in(tx: &mut Tx, worker_id: i64, jobs: &[&Job], wait: Duration) -> Result<u64, DbError> {
    let mut found = 0;
    for (attempt, ids) in by_attempt(jobs) {
        found += tx.execute(RELEASE.with_list(ids.len()), args![wait.as_micros(), worker_id, attempt; &ids]).await?;
    }
    Ok(found)
}

/// Hands back the jobs that a worker still holds, without using up their attempts, except jobs that somebody keeps
/// locked; returns how many.
pub async fn hand_back(db: &Db, worker_id: i64) -> Result<u64, DbError> {
    retry("hand back", || async {
        let mut tx = db.begin(Mode::Write).await?;
        let ids = tx.fetch_all(&HAND_BACK_LOCK, args![worker_id], |row| row.int(0)).await?;
        let mut jobs = 0;
        for ids in ids.chunks(JOBS_A_STATEMENT) {
            let recorded = tx.execute(HAND_BACK_RECORD.with_list(ids.len()), args![worker_id; ids]).await?;
            let handed_back = tx.execute(HAND_BACK.with_list(ids.len()), args![worker_id; ids]).await?;
            if recorded != handed_back {
                return Err(DbError::changed(HAND_BACK.name));
            }
            jobs += handed_back;
        }
        tx.commit().await?;
        Ok(jobs)
    })
    .await
}

/// How many jobs a worker holds.
pub async fn held(db: &Db, worker_id: i64) -> Result<i64, DbError> {
    db.fetch_one(&HELD, args![worker_id], |row| row.int(0)).await
}
