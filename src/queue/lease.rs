//! Leases: keeping a worker's claims alive, and rescuing those of workers that died.
//!
//! A worker process registers once and gets an id that is unique to this start. Its lease is one row: a heartbeat
//! extends it for all jobs that the process holds. An expired lease cannot be extended: the process has to register
//! again, and its jobs can be made available to others. Whoever does so ends the lease for good, whatever the clocks
//! do.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, Utc};

use crate::{
    args,
    db::{Db, DbError, Mode, clipped, retry},
    metrics::catalogue::{JOBS_DISCARDED, LEASES_RESCUED},
    statement,
};

/// How often a job may lose its worker before the job itself is blamed. This is far more than a job's attempts,
/// because most jobs that a dead worker held had not been started.
pub const LAPSES_MAX: u32 = 20;

/// How many jobs one rescue statement takes.
const JOBS_A_STATEMENT: u32 = 500;

statement!(
    REGISTER,
    "register worker",
    "INSERT INTO daymend_workers (name, version, started_at, heartbeat_at, lease_until_us)
     VALUES (?, ?, {now}, {now}, {now_us} + ?)"
);

statement!(
    HEARTBEAT,
    "heartbeat",
    "UPDATE daymend_workers SET lease_until_us = {now_us} + ?, heartbeat_at = {now}
     WHERE id = ? AND stopped_at IS NULL AND lease_until_us > {now_us}"
);

statement!(
    SIGN_OFF,
    "sign off worker",
    "UPDATE daymend_workers SET stopped_at = {now}, lease_until_us = {now_us} WHERE id = ? AND stopped_at IS NULL"
);

statement!(
    LAPSED,
    "lapsed jobs",
    "SELECT jobs.id, jobs.sort_key FROM daymend_jobs AS jobs {force_claim}
     LEFT JOIN daymend_workers AS workers
            ON workers.id = jobs.sort_key AND workers.lease_until_us > {now_us}
     WHERE jobs.kind IN ('nightly', 'repair', 'rebuild') AND jobs.state = 'running' AND workers.id IS NULL
     LIMIT ?"
);

statement!(
    LAPSED_LOCK,
    "lock lapsed jobs",
    "SELECT id, sort_key, kind, lapses FROM daymend_jobs WHERE state = 'running' AND id IN ({list}) {skip_locked}"
);

// Ends the lease for good: otherwise a heartbeat that started in time but reaches the row later, or a clock that is set
// back, would extend a lease whose jobs now belong to another worker. A heartbeat that has not committed yet is waited
// for.
statement!(
    LAPSED_END,
    "end lapsed leases",
    "UPDATE daymend_workers SET lease_until_us = 0 WHERE id IN ({list}) AND lease_until_us <= {now_us}"
);

statement!(
    ALIVE_AFTER_ALL,
    "lapsed workers alive",
    "SELECT id FROM daymend_workers WHERE id IN ({list}) AND lease_until_us > 0 {for_update}"
);

statement!(
    RESCUE_RECORD,
    "record lapse",
    "INSERT INTO daymend_attempts (job_id, attempt, worker_id, started_at, ended_at, outcome, error)
     SELECT id, attempt, worker_id, claimed_at, {now}, 'lapsed', 'the lease of its worker ran out'
     FROM daymend_jobs WHERE id IN ({list})"
);

// MySQL assigns from left to right, so `lapses` changes last. A lapse gives the attempt back, as most of a dead
// worker's jobs had not been started; a job that kills its workers is still discarded after enough lapses. Jobs that
// lapse repeatedly become due some seconds apart: otherwise a job that kills its worker would be claimed together with
// the same others each time, and take them down with it.
statement!(
    RESCUE,
    "rescue",
    "UPDATE daymend_jobs
     SET sort_key = {now_us} + CASE WHEN lapses = 0 OR lapses + 1 >= ? THEN 0 ELSE 1000000 * (id % 16) END,
         attempt = attempt - 1,
         error = CASE WHEN lapses + 1 >= ? THEN 'its workers died while they held it, again and again'
                      ELSE error END,
         state = CASE WHEN lapses + 1 >= ? THEN 'discarded' ELSE 'available' END,
         lapses = lapses + 1
     WHERE state = 'running' AND id IN ({list})"
);

statement!(WORKERS_ALIVE, "workers alive", "SELECT COUNT(*) FROM daymend_workers WHERE lease_until_us > {now_us}");

statement!(
    HOLDERS,
    "workers that hold jobs",
    "SELECT workers.id, workers.name, workers.lease_until_us, COUNT(*)
     FROM daymend_jobs AS jobs {force_claim}
     JOIN daymend_workers AS workers ON workers.id = jobs.sort_key
     WHERE jobs.kind IN ('nightly', 'repair', 'rebuild') AND jobs.state = 'running'
     GROUP BY workers.id, workers.name, workers.lease_until_us ORDER BY workers.id"
);

/// The maximum length of a worker's name in characters: the width of its column.
const NAME_CHARACTERS_MAX: usize = 255;

/// Registers a worker process, and returns its id. `name` tells operators where it runs.
pub async fn register(db: &Db, name: &str, lease: Duration) -> Result<i64, DbError> {
    let name = clipped(name, NAME_CHARACTERS_MAX);
    let mut tx = db.begin(Mode::Write).await?;
    let id = tx.insert(&REGISTER, args![name, env!("CARGO_PKG_VERSION"), lease.as_micros()]).await?;
    tx.commit().await?;
    Ok(id)
}

/// Extends the lease on everything the worker holds; returns false if it had expired.
pub async fn heartbeat(db: &Db, worker_id: i64, lease: Duration) -> Result<bool, DbError> {
    let found = retry("heartbeat", || db.execute(&HEARTBEAT, args![lease.as_micros(), worker_id])).await?;
    Ok(found == 1)
}

/// Ends the lease of a worker that is stopping.
pub async fn sign_off(db: &Db, worker_id: i64) -> Result<(), DbError> {
    retry("sign off", || db.execute(&SIGN_OFF, args![worker_id])).await.map(drop)
}

/// Makes the jobs of workers with an expired lease available again; returns how many.
pub async fn rescue(db: &Db) -> Result<u64, DbError> {
    let mut rescued = 0;
    loop {
        let lapsed = db.fetch_all(&LAPSED, args![JOBS_A_STATEMENT], |row| Ok((row.int(0)?, row.int(1)?))).await?;
        let lapsed: BTreeMap<i64, i64> = lapsed.into_iter().collect();
        if lapsed.is_empty() {
            return Ok(rescued);
        }
        let (jobs, discarded) = retry("rescue", || rescue_once(db, &lapsed)).await?;
        if jobs == 0 {
            // Somebody else is rescuing them.
            return Ok(rescued);
        }
        tracing::warn!(jobs, "rescued jobs of workers whose lease ran out");
        rescued += jobs;
        LEASES_RESCUED.add([], jobs);
        discarded.iter().for_each(|kind| JOBS_DISCARDED.add([kind], 1));
    }
}

/// Rescues the jobs that nobody else is rescuing; `lapsed` maps each job to its worker, whose lease has expired.
/// Returns how many were rescued, and the kinds of those that were discarded.
async fn rescue_once(db: &Db, lapsed: &BTreeMap<i64, i64>) -> Result<(u64, Vec<String>), DbError> {
    let mut tx = db.begin(Mode::Write).await?;
    let jobs = tx.fetch_all(LAPSED_LOCK.with_list(lapsed.len()), args![; lapsed.keys()], |row| {
        Ok((row.int(0)?, row.int(1)?, row.text(2)?, row.int(3)?))
    });
    let jobs = jobs.await?;
    if jobs.is_empty() {
        return Ok((0, Vec::new()));
    }
    let workers: BTreeSet<i64> = lapsed.values().copied().collect();
    tx.execute(LAPSED_END.with_list(workers.len()), args![; &workers]).await?;
    let alive = tx.fetch_all(ALIVE_AFTER_ALL.with_list(workers.len()), args![; workers], |row| row.int(0)).await?;
    let (mut ids, mut discarded) = (Vec::new(), Vec::new());
    for (id, worker, kind, lapses) in jobs {
        // Still held by the same worker, whose lease is over for good.
        if lapsed.get(&id) == Some(&worker) && !alive.contains(&worker) {
            ids.push(id);
            if lapses + 1 >= i64::from(LAPSES_MAX) {
                discarded.push(kind);
            }
        }
    }
    if ids.is_empty() {
        return Ok((0, Vec::new()));
    }
    tx.execute(RESCUE_RECORD.with_list(ids.len()), args![; &ids]).await?;
    let found = tx.execute(RESCUE.with_list(ids.len()), args![LAPSES_MAX, LAPSES_MAX, LAPSES_MAX; &ids]).await?;
    tx.commit().await?;
    Ok((found, discarded))
}

/// A worker that holds jobs, alive or not.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) worker: i64,
    pub(crate) name: String,
    /// When others can take its jobs, unless it sends a heartbeat before.
    pub(crate) lease_until: DateTime<Utc>,
    pub(crate) jobs: i64,
}

/// The workers that hold jobs, by id.
pub(crate) async fn holders(db: &Db) -> Result<Vec<Holder>, DbError> {
    db.fetch_all(&HOLDERS, args![], |row| {
        let lease_until = DateTime::from_timestamp_micros(row.int(2)?).unwrap_or_default();
        Ok(Holder { worker: row.int(0)?, name: row.text(1)?, lease_until, jobs: row.int(3)? })
    })
    .await
}

/// How many workers have a valid lease.
pub async fn workers_alive(db: &Db) -> Result<i64, DbError> {
    db.fetch_one(&WORKERS_ALIVE, args![], |row| row.int(0)).await
}
