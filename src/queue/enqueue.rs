//! Inserting a run's jobs.

use chrono::NaiveDate;

use super::{FIRST_DUE_US, JOBS_A_RUN_MAX, JobKind};
use crate::{
    args,
    db::{DbError, Tx},
    statement,
};

/// How many jobs one statement inserts.
const JOBS_A_STATEMENT: usize = 500;

/// How many neighbouring days of a lab share a turn: as many as are read together.
pub const DAYS_A_TURN: usize = 7;

statement!(
    JOBS_FRONT,
    "jobs front",
    "SELECT sort_key FROM daymend_jobs {force_claim}
     WHERE kind = ? AND state = 'available' AND sort_key < ?
     ORDER BY sort_key LIMIT 1"
);

statement!(
    JOBS_INSERT,
    "enqueue",
    "INSERT INTO daymend_jobs (id, kind, state, sort_key, rollup, lab_id, day, attempts_max) VALUES {rows}",
    "(?, ?, 'available', ?, ?, ?, ?, ?)"
);

/// What to enqueue: the days of some labs, for one run.
#[derive(Debug)]
pub struct Batch<'a> {
    /// The run that owns the jobs.
    pub run_id: i64,
    /// What the jobs are for.
    pub kind: JobKind,
    /// The rollup.
    pub rollup: &'a str,
    /// Each lab with its days, oldest first.
    pub labs: &'a [(i64, Vec<NaiveDate>)],
    /// How many attempts each job may have.
    pub attempts_max: u32,
}

/// The current turn: that of the first waiting job, or 0 if there is none.
pub(super) async fn front(tx: &mut Tx, kind: JobKind) -> Result<i64, DbError> {
    let front = tx.fetch_optional(&JOBS_FRONT, args![kind.name(), FIRST_DUE_US], |row| row.int(0)).await?;
    Ok(front.unwrap_or(0))
}

/// Inserts the jobs with multi-row statements, inside the caller's transaction; returns how many.
///
/// Labs take turns: the first days of every lab have the same turn, then the next days. A run that arrives later
/// starts at the current turn, side by side with the others, neither before nor after them.
pub async fn enqueue(tx: &mut Tx, batch: &Batch<'_>) -> Result<u64, DbError> {
    let front = front(tx, batch.kind).await?;
    let turns = batch.labs.iter().map(|(_, days)| days.len().div_ceil(DAYS_A_TURN)).max().unwrap_or(0);
    // Insert in the order in which they will be claimed, so that the jobs of a claim share pages.
    let jobs = (0..turns).flat_map(|turn| {
        batch.labs.iter().flat_map(move |(lab_id, days)| {
            let days = days.chunks(DAYS_A_TURN).nth(turn).unwrap_or_default();
            days.iter().map(move |day| (*lab_id, *day, turn as i64))
        })
    });
    let mut jobs = (batch.run_id * JOBS_A_RUN_MAX..).zip(jobs);
    let mut count = 0;
    loop {
        let rows: Vec<(i64, (i64, NaiveDate, i64))> = jobs.by_ref().take(JOBS_A_STATEMENT).collect();
        if rows.is_empty() {
            return Ok(count);
        }
        let args = rows.iter().flat_map(|(id, (lab_id, day, turn))| {
            args![*id, batch.kind.name(), front + turn, batch.rollup, *lab_id, *day, batch.attempts_max]
        });
        let insert = JOBS_INSERT.with_rows(rows.len());
        let insert = if rows.len() == JOBS_A_STATEMENT { insert.kept() } else { insert };
        tx.execute(insert, args.collect()).await?;
        count += rows.len() as u64;
    }
}
