//! Deleting what ended long ago, in small batches.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{filter::Filter, jobs_by_run, write_log};
use crate::{
    args,
    db::{Arg, Db, DbError, Mode, Query, retry},
    statement,
};

/// How many jobs one transaction deletes.
const JOBS_A_BATCH: u32 = 1000;

/// How long to leave the database alone between two batches.
const REST: Duration = Duration::from_millis(10);

statement!(ATTEMPTS, "prune attempts", "DELETE FROM daymend_attempts WHERE job_id IN ({list})");

statement!(JOBS, "prune jobs", "DELETE FROM daymend_jobs WHERE id IN ({list})");

statement!(
    RUNS_EMPTY,
    "prune runs",
    "DELETE FROM daymend_runs
     WHERE state <> 'running' AND finished_at < ?
       AND NOT EXISTS (SELECT 1 FROM daymend_jobs
                       WHERE daymend_jobs.id BETWEEN daymend_runs.id * 100000000 AND daymend_runs.id * 100000000 + 99999999)"
);

statement!(
    LINKS,
    "prune links",
    "DELETE FROM daymend_migrations
     WHERE NOT EXISTS (SELECT 1 FROM daymend_runs WHERE daymend_runs.id = daymend_migrations.run_id)"
);

statement!(
    WORKERS,
    "prune workers",
    "DELETE FROM daymend_workers
     WHERE heartbeat_at < ? AND lease_until_us < {now_us}
       AND NOT EXISTS (SELECT 1 FROM daymend_attempts WHERE daymend_attempts.worker_id = daymend_workers.id)"
);

/// The jobs that may go: ended, of a run that closed before the cutoff.
const ENDED: &str = "state IN ('completed', 'discarded', 'cancelled')
     AND EXISTS (SELECT 1 FROM daymend_runs
                 WHERE daymend_runs.id = daymend_jobs.run_id
                   AND daymend_runs.state <> 'running' AND daymend_runs.finished_at < ?)";

/// The moment before which a run must have closed, by the database's clock.
pub async fn cutoff(db: &Db, older_than: Duration) -> Result<DateTime<Utc>, DbError> {
    let now = db.database_now().await?;
    let cutoff = TimeDelta::from_std(older_than).ok().and_then(|older| now.checked_sub_signed(older));
    Ok(cutoff.unwrap_or(DateTime::UNIX_EPOCH))
}

/// How many jobs of which runs would be deleted.
pub async fn plan(db: &Db, filter: &Filter, older_than: Duration) -> Result<Vec<(i64, u64)>, DbError> {
    let (fits, more) = filter.condition();
    let mut args = args![cutoff(db, older_than).await?];
    args.extend(more);
    jobs_by_run(db, &format!("{ENDED} AND {fits}"), args).await
}

/// Deletes ended jobs of runs that closed longer ago than `older_than`, their attempts, and
/// runs and workers of which nothing is left; how many jobs.
pub async fn prune(db: &Db, filter: &Filter, older_than: Duration, who: &str) -> Result<u64, DbError> {
    let cutoff = cutoff(db, older_than).await?;
    let (fits, more) = filter.condition();
    let mut args = args![cutoff];
    args.extend(more);
    args.push(JOBS_A_BATCH.into());
    let select =
        format!("-- daymend: prunable jobs\nSELECT id FROM daymend_jobs WHERE {ENDED} AND {fits} ORDER BY id LIMIT ?");
    let mut pruned = 0;
    loop {
        let batch = retry("prune jobs", || async {
            let mut tx = db.begin(Mode::Write).await?;
            let mut ids = Vec::new();
            tx.for_each(Query::new("prunable jobs", select.as_str()), args.clone(), |row| {
                ids.push(Arg::Int(row.int(0)?));
                Ok(())
            })
            .await?;
            if ids.is_empty() {
                return Ok(0);
            }
            for statement in [&ATTEMPTS, &JOBS] {
                tx.execute(Query::new(statement.name, statement.with_list(ids.len())), ids.clone()).await?;
            }
            write_log(&mut tx, who, "prune", &format!("{filter} older than {cutoff}"), ids.len() as u64).await?;
            tx.commit().await?;
            Ok::<_, DbError>(ids.len() as u64)
        })
        .await?;
        if batch == 0 {
            break;
        }
        pruned += batch;
        tokio::time::sleep(REST).await;
    }
    retry("prune runs", || db.execute(&RUNS_EMPTY, args![cutoff])).await?;
    retry("prune links", || db.execute(&LINKS, args![])).await?;
    retry("prune workers", || db.execute(&WORKERS, args![cutoff])).await?;
    Ok(pruned)
}
