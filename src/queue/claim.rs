//! Handing jobs to a worker.
//!
//! One short transaction that ends before any work starts. Each kind is two ranges of one
//! index, neither of which sorts: jobs that are due again, then jobs by their turn. `FOR
//! UPDATE SKIP LOCKED` lets claims run side by side; SQLite's writers exclude each other.

use super::{FIRST_DUE_US, Job, JobKind};
use crate::{
    args,
    db::{Arg, Db, DbError, Mode, Query, Row, Tx, retry},
    statement,
};

statement!(
    CLAIM_DUE,
    "claim due",
    "SELECT id, kind, rollup, lab_id, day, attempt, attempts_max FROM daymend_jobs {force_claim}
     WHERE kind = ? AND state = 'available' AND sort_key >= ? AND sort_key <= {now_us}
     ORDER BY sort_key, id LIMIT ? {skip_locked}"
);

statement!(
    CLAIM_TURN,
    "claim turn",
    "SELECT id, kind, rollup, lab_id, day, attempt, attempts_max FROM daymend_jobs {force_claim}
     WHERE kind = ? AND state = 'available' AND sort_key < ?
     ORDER BY sort_key, id LIMIT ? {skip_locked}"
);

statement!(
    CLAIM,
    "claim",
    "UPDATE daymend_jobs
     SET state = 'running', sort_key = ?, worker_id = ?, attempt = attempt + 1, claimed_at = {now}
     WHERE state = 'available' AND id IN ({list})"
);

// A job whose lab and day another job is running for just now comes back in a second.
statement!(
    CLAIM_POSTPONE,
    "claim postpone",
    "UPDATE daymend_jobs SET sort_key = {now_us} + 1000000 WHERE id = ? AND state = 'available'"
);

statement!(
    WAITING,
    "jobs waiting",
    "SELECT EXISTS (SELECT 1 FROM daymend_jobs
                    WHERE kind = 'nightly' AND state = 'available' AND sort_key <= {now_us})
         OR EXISTS (SELECT 1 FROM daymend_jobs
                    WHERE kind = 'repair' AND state = 'available' AND sort_key <= {now_us})
         OR EXISTS (SELECT 1 FROM daymend_jobs
                    WHERE kind = 'rebuild' AND state = 'available' AND sort_key <= {now_us})"
);

statement!(
    OPEN,
    "jobs open",
    "SELECT EXISTS (SELECT 1 FROM daymend_jobs WHERE kind = 'nightly' AND state IN ('available', 'running'))
         OR EXISTS (SELECT 1 FROM daymend_jobs WHERE kind = 'repair' AND state IN ('available', 'running'))
         OR EXISTS (SELECT 1 FROM daymend_jobs WHERE kind = 'rebuild' AND state IN ('available', 'running'))"
);

/// Claims at most `limit` jobs for `worker_id`: nightly before repairs before rebuilds.
pub async fn claim(db: &Db, worker_id: i64, limit: usize) -> Result<Vec<Job>, DbError> {
    if limit == 0 || !answers_yes(db, &WAITING).await? {
        return Ok(Vec::new());
    }
    retry("claim", || claim_once(db, worker_id, limit)).await
}

/// Whether any job is waiting or running, for any worker.
pub async fn any_open(db: &Db) -> Result<bool, DbError> {
    answers_yes(db, &OPEN).await
}

async fn answers_yes(db: &Db, statement: &crate::db::Statement) -> Result<bool, DbError> {
    let rows = db.fetch_all(statement, args![]).await?;
    let yes = rows.first().map_or(Ok(0), |row| row.int(0));
    yes.map(|yes| yes != 0).map_err(|error| DbError::new(statement.name, error))
}

async fn claim_once(db: &Db, worker_id: i64, limit: usize) -> Result<Vec<Job>, DbError> {
    let mut tx = db.begin(Mode::Write).await?;
    let mut jobs: Vec<Job> = Vec::new();
    for kind in JobKind::ALL {
        for range in [&CLAIM_DUE, &CLAIM_TURN] {
            let room = limit - jobs.len();
            if room > 0 {
                let rows = tx.fetch_all(range, args![kind.name(), FIRST_DUE_US, room]).await?;
                for row in &rows {
                    jobs.push(job(row).map_err(|error| DbError::new(range.name, error))?);
                }
            }
        }
    }
    if jobs.is_empty() {
        tx.commit().await?;
        return Ok(jobs);
    }
    let ids: Vec<i64> = jobs.iter().map(|job| job.id).collect();
    match stamp(&mut tx, worker_id, &ids).await {
        Err(error) if error.is_duplicate() => jobs = stamp_one_by_one(&mut tx, worker_id, jobs).await?,
        stamped => stamped.map(drop)?,
    }
    tx.commit().await?;
    for job in &mut jobs {
        job.attempt += 1;
    }
    Ok(jobs)
}

async fn stamp(tx: &mut Tx, worker_id: i64, ids: &[i64]) -> Result<u64, DbError> {
    let mut args = args![worker_id, worker_id];
    args.extend(ids.iter().map(|id| Arg::Int(*id)));
    tx.execute(Query::new(CLAIM.name, CLAIM.with_list(ids.len())), args).await
}

/// The rare way: some of the jobs are for a (lab, day) that is running, here or elsewhere.
async fn stamp_one_by_one(tx: &mut Tx, worker_id: i64, jobs: Vec<Job>) -> Result<Vec<Job>, DbError> {
    let mut claimed = Vec::new();
    for job in jobs {
        match stamp(tx, worker_id, &[job.id]).await {
            Ok(_) => claimed.push(job),
            Err(error) if error.is_duplicate() => {
                tx.execute(&CLAIM_POSTPONE, args![job.id]).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(claimed)
}

fn job(row: &Row) -> Result<Job, sqlx::Error> {
    Ok(Job {
        id: row.int(0)?,
        kind: row.text(1)?.parse()?,
        rollup: row.text(2)?,
        lab_id: row.int(3)?,
        day: row.date(4)?,
        attempt: row.int(5)?,
        attempts_max: row.int(6)?,
    })
}
