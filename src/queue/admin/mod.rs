//! Inspecting and changing the queue, for operators.
//!
//! [`filter`] selects jobs, the same way everywhere; [`stats`] and [`list`] read; [`change`] retries and cancels;
//! [`pause`] and [`prune`] do what they say. Every change is recorded in `daymend_admin_log` in the transaction that
//! makes it: who, when, the filter, how many jobs. Only the scheduler's pruning is recorded once per round.

pub mod change;
pub mod filter;
pub mod list;
pub mod pause;
pub mod prune;
pub mod stats;

use chrono::{DateTime, Utc};

use crate::{
    args,
    db::{Arg, Db, DbError, Query, Tx, clipped},
    runs::WHO_CHARACTERS_MAX,
    statement,
};

statement!(
    LOG_WRITE,
    "write admin log",
    "INSERT INTO daymend_admin_log (at, who, action, filter, jobs) VALUES ({now}, ?, ?, ?, ?)"
);

statement!(
    LOG_READ,
    "read admin log",
    "SELECT at, who, action, filter, jobs FROM daymend_admin_log ORDER BY id DESC LIMIT ?"
);

/// One line of the admin log.
#[derive(Debug, Clone, serde::Serialize)]
pub struct LogEntry {
    /// When, by the database's clock.
    pub at: DateTime<Utc>,
    /// Who: the OS user, or the value of `--by`.
    pub who: String,
    /// What was done.
    pub action: String,
    /// To which jobs.
    pub filter: String,
    /// How many.
    pub jobs: i64,
}

/// The latest changes, newest first.
pub async fn log(db: &Db, limit: u32) -> Result<Vec<LogEntry>, DbError> {
    db.fetch_all(&LOG_READ, args![limit], |row| {
        Ok(LogEntry {
            at: row.instant(0)?,
            who: row.text(1)?,
            action: row.text(2)?,
            filter: row.text(3)?,
            jobs: row.int(4)?,
        })
    })
    .await
}

/// How many characters of a filter the log keeps; the width of its column.
const FILTER_CHARACTERS_MAX: usize = 1000;

/// Records a change in the log, in the transaction that makes it.
async fn write_log(tx: &mut Tx, who: &str, action: &str, filter: &str, jobs: u64) -> Result<(), DbError> {
    let (who, filter) = (clipped(who, WHO_CHARACTERS_MAX), clipped(filter, FILTER_CHARACTERS_MAX));
    tx.execute(&LOG_WRITE, args![who, action, filter, jobs]).await.map(drop)
}

/// How many jobs match a condition made of fixed fragments, by run.
async fn jobs_by_run(db: &Db, condition: &str, args: Vec<Arg>) -> Result<Vec<(i64, u64)>, DbError> {
    // Listing all kinds lets it find jobs by state through the queue's index.
    let sql = format!(
        "SELECT run_id, COUNT(*) FROM daymend_jobs
         WHERE kind IN ('nightly', 'repair', 'rebuild') AND {condition} GROUP BY run_id ORDER BY 1"
    );
    db.fetch_all(Query::new("jobs by run", sql), args, |row| Ok((row.int(0)?, row.int(1)?.unsigned_abs()))).await
}
