//! The slices of the standing audit: one per night, with what it found.
//!
//! A slice is a row of `daymend_audits` that a process takes by compare-and-set, under a lease by the database's
//! clock. The holder extends the lease with everything it records, fenced by the turn in which it took the row: a
//! holder that was slow, or cut off, can record nothing more.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};

use super::cause::Cause;
use crate::{
    args,
    db::{Arg, Db, DbError, Mode, Row, Tx, retry},
    statement,
};

/// How many rows one statement writes.
const ROWS_A_STATEMENT: usize = 500;

statement!(SLICE_OF_NIGHT, "audit slice of night", "SELECT id FROM daymend_audits WHERE rollup = ? AND night = ?");

statement!(
    SLICE_ADD,
    "add audit slice",
    "{insert_ignore} INTO daymend_audits (rollup, night, state, started_at) VALUES (?, ?, 'running', {now})"
);

statement!(
    SLICE_FREE,
    "free audit slice",
    "SELECT id, night, turn, spent_ms, started_at FROM daymend_audits
     WHERE rollup = ? AND state = 'running' AND taken_until_us < {now_us} ORDER BY id LIMIT 1"
);

statement!(
    SLICE_TAKE,
    "take audit slice",
    "UPDATE daymend_audits SET turn = turn + 1, taken_until_us = {now_us} + ?
     WHERE id = ? AND turn = ? AND state = 'running' AND taken_until_us < {now_us}"
);

statement!(
    SLICE_STEP,
    "step of audit slice",
    "UPDATE daymend_audits
     SET taken_until_us = {now_us} + ?, spent_ms = ?, labs_completed = labs_completed + ?,
         days_audited = days_audited + ?, days_drifted = days_drifted + ?, differences = differences + ?
     WHERE id = ? AND turn = ? AND state = 'running'"
);

statement!(
    SLICE_RELEASE,
    "release audit slice",
    "UPDATE daymend_audits SET taken_until_us = 0 WHERE id = ? AND turn = ? AND state = 'running'"
);

statement!(
    SLICE_END,
    "end audit slice",
    "UPDATE daymend_audits SET state = 'completed', finished_at = {now}, taken_until_us = 0, run_id = ?
     WHERE id = ? AND turn = ? AND state = 'running'"
);

statement!(
    FOUND_ADD,
    "add audit findings",
    "REPLACE INTO daymend_audit_days (audit_id, lab_id, day, cause, differences) VALUES {rows}",
    "(?, ?, ?, ?, ?)"
);

statement!(
    FOUND,
    "audit findings",
    "SELECT lab_id, day, cause, differences FROM daymend_audit_days WHERE audit_id = ? ORDER BY lab_id, day, cause"
);

statement!(
    SLICES,
    "list audit slices",
    "SELECT id, night, state, spent_ms, labs_completed, days_audited, days_drifted, differences, run_id,
            started_at, finished_at
     FROM daymend_audits WHERE rollup = ? ORDER BY id DESC LIMIT ?"
);

statement!(
    SLICE,
    "audit slice",
    "SELECT id, night, state, spent_ms, labs_completed, days_audited, days_drifted, differences, run_id,
            started_at, finished_at
     FROM daymend_audits WHERE rollup = ? AND id = ?"
);

statement!(
    SLICE_LAST,
    "last audit slice",
    "SELECT MAX(finished_at) FROM daymend_audits WHERE rollup = ? AND state = 'completed'"
);

statement!(
    FOUND_LAST,
    "last audit findings",
    "SELECT cause, CAST(SUM(differences) AS SIGNED) FROM daymend_audit_days
     WHERE audit_id = (SELECT MAX(id) FROM daymend_audits WHERE rollup = ? AND state = 'completed')
     GROUP BY cause"
);

// The last completed slice of each rollup is kept: the gauges are read from it.
statement!(
    PRUNABLE,
    "prunable audits",
    "SELECT id FROM daymend_audits
     WHERE state = 'completed' AND finished_at < ?
       AND id NOT IN (SELECT MAX(id) FROM daymend_audits WHERE state = 'completed' GROUP BY rollup)"
);

statement!(PRUNE_FOUND, "prune audit findings", "DELETE FROM daymend_audit_days WHERE audit_id = ?");

statement!(PRUNE_SLICE, "prune audit slice", "DELETE FROM daymend_audits WHERE id = ?");

/// A slice that this process has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Its id.
    pub id: i64,
    /// The night it is for.
    pub night: NaiveDate,
    /// The number of times it has been taken, which fences what this process records.
    turn: i64,
    /// How much of the budget earlier holders have spent.
    pub spent: Duration,
    /// When it was created, by the database's clock.
    pub started_at: DateTime<Utc>,
}

/// Counts to add to a slice since they were last recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Labs that completed a round.
    pub labs_completed: u64,
    /// Days that were compared.
    pub days_audited: u64,
    /// How many of those days have drifted.
    pub days_drifted: u64,
    /// Rows that differ.
    pub differences: u64,
}

impl Counts {
    /// Adds further counts.
    pub(crate) fn add(&mut self, more: &Self) {
        self.labs_completed += more.labs_completed;
        self.days_audited += more.days_audited;
        self.days_drifted += more.days_drifted;
        self.differences += more.differences;
    }
}

/// A day that has drifted: lab, day, cause, and how many rows.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Found {
    /// The lab.
    pub lab: i64,
    /// The day.
    pub day: NaiveDate,
    /// The cause; as text, because a newer daymend may know other causes.
    pub cause: String,
    /// How many rows differ.
    pub differences: i64,
}

/// A slice, as operators see it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Slice {
    /// Its id.
    pub id: i64,
    /// The night it is for.
    pub night: NaiveDate,
    /// `running` or `completed`.
    pub state: String,
    /// How long it took, in milliseconds.
    pub spent_ms: i64,
    /// Labs that completed a round.
    pub labs_completed: i64,
    /// Days that were compared.
    pub days_audited: i64,
    /// How many of those days have drifted.
    pub days_drifted: i64,
    /// Rows that differ.
    pub differences: i64,
    /// The run that repairs what it found.
    pub run: Option<i64>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Creates the slice of a night, unless it exists.
pub async fn open(db: &Db, rollup: &str, night: NaiveDate) -> Result<(), DbError> {
    // Checked first, because an INSERT that finds the row uses up an id all the same.
    if db.fetch_optional(&SLICE_OF_NIGHT, args![rollup, night], |_| Ok(())).await?.is_none() {
        retry("open audit slice", || db.execute(&SLICE_ADD, args![rollup, night])).await?;
    }
    Ok(())
}

/// Takes the oldest unfinished slice that nobody holds, if there is one.
pub async fn take(db: &Db, rollup: &str, lease: Duration) -> Result<Option<Taken>, DbError> {
    let free = db.fetch_optional(&SLICE_FREE, args![rollup], |row| {
        let spent = Duration::from_millis(row.int(3)?.unsigned_abs());
        let (id, night, turn, started_at) = (row.int(0)?, row.date(1)?, row.int(2)?, row.instant(4)?);
        Ok(Taken { id, night, turn, spent, started_at })
    });
    let Some(free) = free.await? else { return Ok(None) };
    let lease = args![lease.as_micros(), free.id, free.turn];
    let found = retry("take audit slice", || db.execute(&SLICE_TAKE, lease.clone())).await?;
    Ok((found == 1).then_some(Taken { turn: free.turn + 1, ..free }))
}

/// Records progress inside the caller's transaction, and extends the lease; returns false if another process has
/// taken the slice.
pub async fn step(
    tx: &mut Tx,
    taken: &Taken,
    lease: Duration,
    spent: Duration,
    counts: &Counts,
    found: &[Found],
) -> Result<bool, DbError> {
    let args = args![
        lease.as_micros(),
        spent.as_millis(),
        counts.labs_completed,
        counts.days_audited,
        counts.days_drifted,
        counts.differences,
        taken.id,
        taken.turn,
    ];
    if tx.execute(&SLICE_STEP, args).await? != 1 {
        return Ok(false);
    }
    for rows in found.chunks(ROWS_A_STATEMENT) {
        let values: Vec<Arg> = rows
            .iter()
            .flat_map(|found| args![taken.id, found.lab, found.day, found.cause.as_str(), found.differences])
            .collect();
        tx.execute(FOUND_ADD.with_rows(rows.len()), values).await?;
    }
    Ok(true)
}

/// Gives a slice back, so that another process can continue it at once.
pub async fn release(db: &Db, taken: &Taken) -> Result<(), DbError> {
    retry("release audit slice", || db.execute(&SLICE_RELEASE, args![taken.id, taken.turn])).await.map(drop)
}

/// Ends a slice inside the caller's transaction, which has enqueued `run_id`; returns false if another process has
/// taken the slice.
pub async fn end(tx: &mut Tx, taken: &Taken, run_id: Option<i64>) -> Result<bool, DbError> {
    Ok(tx.execute(&SLICE_END, args![run_id, taken.id, taken.turn]).await? == 1)
}

/// What a slice has found so far, by lab and day.
pub async fn found(tx: &mut Tx, id: i64) -> Result<Vec<Found>, DbError> {
    tx.fetch_all(&FOUND, args![id], |row| {
        Ok(Found { lab: row.int(0)?, day: row.date(1)?, cause: row.text(2)?, differences: row.int(3)? })
    })
    .await
}

impl Found {
    /// Whether a recompute corrects it.
    #[must_use]
    pub fn is_repairable(&self) -> bool {
        self.cause.parse().is_ok_and(Cause::is_repairable)
    }
}

/// The latest slices, newest first.
pub async fn list(db: &Db, rollup: &str, limit: u32) -> Result<Vec<Slice>, DbError> {
    db.fetch_all(&SLICES, args![rollup, limit], |row| slice(&row)).await
}

/// One slice, if it exists.
pub async fn get(tx: &mut Tx, rollup: &str, id: i64) -> Result<Option<Slice>, DbError> {
    tx.fetch_optional(&SLICE, args![rollup, id], |row| slice(&row)).await
}

fn slice(row: &Row) -> Result<Slice, sqlx::Error> {
    Ok(Slice {
        id: row.int(0)?,
        night: row.date(1)?,
        state: row.text(2)?,
        spent_ms: row.int(3)?,
        labs_completed: row.int(4)?,
        days_audited: row.int(5)?,
        days_drifted: row.int(6)?,
        differences: row.int(7)?,
        run: row.int_or_null(8)?,
        started_at: row.instant(9)?,
        finished_at: row.instant_or_null(10)?,
    })
}

/// When the latest completed slice ended.
pub async fn last_ended(db: &Db, rollup: &str) -> Result<Option<DateTime<Utc>>, DbError> {
    Ok(db.fetch_optional(&SLICE_LAST, args![rollup], |row| row.instant_or_null(0)).await?.flatten())
}

/// How many rows differed in the latest completed slice, by cause.
pub async fn found_last(db: &Db, rollup: &str) -> Result<Vec<(String, i64)>, DbError> {
    db.fetch_all(&FOUND_LAST, args![rollup], |row| Ok((row.text(0)?, row.int(1)?))).await
}

/// Deletes slices that ended before the cutoff, with their findings, except the latest; returns how many.
pub async fn prune(db: &Db, cutoff: DateTime<Utc>) -> Result<u64, DbError> {
    retry("prune audits", || async {
        let mut tx = db.begin(Mode::Write).await?;
        let mut slices = 0;
        for slice in tx.fetch_all(&PRUNABLE, args![cutoff], |row| row.int(0)).await? {
            tx.execute(&PRUNE_FOUND, args![slice]).await?;
            slices += tx.execute(&PRUNE_SLICE, args![slice]).await?;
        }
        tx.commit().await?;
        Ok(slices)
    })
    .await
}
