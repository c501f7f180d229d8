//! How far a run is: its jobs by their states, counted each time.

use chrono::NaiveDate;

use crate::{
    args,
    db::{DbError, Tx},
    queue::ids_of,
    statement,
};

// One row instead of one per state: grouping would sort the million rows of a large run.
statement!(
    RUN_PROGRESS,
    "run progress",
    "SELECT COUNT(CASE WHEN state = 'available' THEN 1 END), COUNT(CASE WHEN state = 'running' THEN 1 END),
            COUNT(CASE WHEN state = 'completed' THEN 1 END), COUNT(CASE WHEN state = 'discarded' THEN 1 END),
            COUNT(CASE WHEN state = 'cancelled' THEN 1 END), CAST(COALESCE(SUM(rows_inserted), 0) AS SIGNED),
            CAST(COALESCE(SUM(rows_updated), 0) AS SIGNED), CAST(COALESCE(SUM(rows_deleted), 0) AS SIGNED)
     FROM daymend_jobs WHERE id BETWEEN ? AND ?"
);

statement!(
    RUN_DISCARDED,
    "discarded jobs of run",
    "SELECT id, lab_id, day, error FROM daymend_jobs
     WHERE id BETWEEN ? AND ? AND state = 'discarded' ORDER BY id LIMIT ?"
);

/// How many jobs of a run are in each state, and what they wrote, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Progress {
    /// Waiting for a worker, or for another attempt.
    pub available: u64,
    /// Claimed by a worker.
    pub running: u64,
    /// Done.
    pub completed: u64,
    /// Out of attempts.
    pub discarded: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// Summary rows that were missing and have been written.
    pub rows_inserted: u64,
    /// Summary rows whose count was wrong and has been corrected.
    pub rows_updated: u64,
    /// Summary rows that the source did not support and that have been deleted.
    pub rows_deleted: u64,
}

impl Progress {
    /// All jobs.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.available + self.running + self.completed + self.discarded + self.cancelled
    }

    /// Jobs that have not ended.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.available + self.running
    }

    /// Jobs that have ended.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.total() - self.open()
    }

    /// Summary rows written in total.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows_inserted + self.rows_updated + self.rows_deleted
    }
}

/// Counts a run's jobs.
pub async fn progress(tx: &mut Tx, id: i64) -> Result<Progress, DbError> {
    let (first, last) = ids_of(id);
    tx.fetch_one(&RUN_PROGRESS, args![first, last], |row| {
        let number = |column| row.int(column).map(i64::unsigned_abs);
        Ok(Progress {
            available: number(0)?,
            running: number(1)?,
            completed: number(2)?,
            discarded: number(3)?,
            cancelled: number(4)?,
            rows_inserted: number(5)?,
            rows_updated: number(6)?,
            rows_deleted: number(7)?,
        })
    })
    .await
}

/// A job that was discarded.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Discarded {
    /// Its id.
    pub job_id: i64,
    /// The lab.
    pub lab_id: i64,
    /// The day.
    pub day: NaiveDate,
    /// Why.
    pub error: Option<String>,
}

/// The first discarded jobs of a run.
pub async fn discarded(tx: &mut Tx, id: i64, limit: u32) -> Result<Vec<Discarded>, DbError> {
    let (first, last) = ids_of(id);
    tx.fetch_all(&RUN_DISCARDED, args![first, last, limit], |row| {
        Ok(Discarded { job_id: row.int(0)?, lab_id: row.int(1)?, day: row.date(2)?, error: row.text_or_null(3)? })
    })
    .await
}
