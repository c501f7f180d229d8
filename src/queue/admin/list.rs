//! Reading jobs, and one job with every attempt.

use chrono::{DateTime, NaiveDate, Utc};

use super::filter::Filter;
use crate::{
    args,
    db::{Arg, Db, DbError, Mode, Query, Row, Tx},
    queue::{FIRST_DUE_US, JobKind, JobState, PAUSED, run_of},
    statement,
};

const COLUMNS: &str = "id, kind, state, sort_key, rollup, lab_id, day, attempt, attempts_max, lapses, worker_id,
     claimed_at, rows_inserted, rows_updated, rows_deleted, error";

statement!(
    ATTEMPTS,
    "attempts of job",
    "SELECT attempts.attempt, attempts.outcome, attempts.worker_id, workers.name,
            attempts.started_at, attempts.ended_at, attempts.error
     FROM daymend_attempts AS attempts LEFT JOIN daymend_workers AS workers ON workers.id = attempts.worker_id
     WHERE attempts.job_id = ? ORDER BY attempts.ended_at"
);

/// A job as operators see it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct JobRow {
    /// Its id.
    pub id: i64,
    /// Its run.
    pub run: i64,
    /// What it is for.
    pub kind: JobKind,
    /// Where it stands.
    pub state: JobState,
    /// Whether it waits because its lab is paused.
    pub paused: bool,
    /// When it is due again, if it is waiting for another attempt.
    pub due_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// The rollup.
    pub rollup: String,
    /// The lab.
    pub lab_id: i64,
    /// The day.
    pub day: NaiveDate,
    /// How many attempts it has had.
    pub attempt: i64,
    /// How many it may have.
    pub attempts_max: i64,
    /// How often its worker died while holding it.
    pub lapses: i64,
    /// The worker that holds it, or held it last.
    pub worker_id: Option<i64>,
    /// When that worker claimed it.
    pub claimed_at: Option<DateTime<Utc>>,
    /// Rows written, if it completed.
    pub rows: Option<RowsWritten>,
    /// The last error.
    pub error: Option<String>,
}

/// How many rows a job has written.
#[derive(Debug, Clone, Copy, serde::Serialize)]
#[allow(missing_docs, reason = "each field says it")]
pub struct RowsWritten {
    pub inserted: i64,
    pub updated: i64,
    pub deleted: i64,
}

impl RowsWritten {
    /// All of them.
    #[must_use]
    pub fn sum(&self) -> i64 {
        self.inserted + self.updated + self.deleted
    }
}

impl JobRow {
    fn from_row(row: &Row) -> Result<Self, sqlx::Error> {
        let id = row.int(0)?;
        let state: JobState = row.text(2)?.parse()?;
        let key = row.int(3)?;
        let moment = || DateTime::from_timestamp_micros(key);
        let counts = [row.int_or_null(12)?, row.int_or_null(13)?, row.int_or_null(14)?];
        Ok(Self {
            id,
            run: run_of(id),
            kind: row.text(1)?.parse()?,
            state,
            paused: state == JobState::Available && key >= PAUSED,
            due_at: (state == JobState::Available && (FIRST_DUE_US..PAUSED).contains(&key)).then(moment).flatten(),
            ended_at: state.is_end().then(moment).flatten(),
            rollup: row.text(4)?,
            lab_id: row.int(5)?,
            day: row.date(6)?,
            attempt: row.int(7)?,
            attempts_max: row.int(8)?,
            lapses: row.int(9)?,
            worker_id: row.int_or_null(10)?,
            claimed_at: row.instant_or_null(11)?,
            rows: match counts {
                [Some(inserted), Some(updated), Some(deleted)] => Some(RowsWritten { inserted, updated, deleted }),
                _ => None,
            },
            error: row.text_or_null(15)?,
        })
    }
}

/// An attempt that did not complete its job.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Attempt {
    /// Which one, from 1.
    pub attempt: i64,
    /// How it ended: failed, lapsed or handed_back.
    pub outcome: String,
    /// The worker.
    pub worker_id: i64,
    /// The worker's name, unless the worker has been deleted.
    pub worker: Option<String>,
    /// When it was claimed.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: DateTime<Utc>,
    /// What failed.
    pub error: Option<String>,
}

/// The first matching jobs, by id.
pub async fn list(db: &Db, filter: &Filter, limit: u32) -> Result<Vec<JobRow>, DbError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    read(&mut tx, filter, None, limit).await
}

async fn read(tx: &mut Tx, filter: &Filter, id: Option<i64>, limit: u32) -> Result<Vec<JobRow>, DbError> {
    let (mut condition, mut args) = filter.condition();
    if let Some(id) = id {
        condition.push_str(" AND id = ?");
        args.push(Arg::Int(id));
    }
    args.push(limit.into());
    // The server expects to find enough jobs of a state among the first by id, and reads all if there are none.
    let by_state = match filter.state {
        Some(JobState::Available | JobState::Running | JobState::Discarded)
            if filter.run.is_none() && filter.labs.is_empty() =>
        {
            condition.push_str(" AND kind IN ('nightly', 'repair', 'rebuild')");
            "{force_claim}"
        }
        _ => "",
    };
    let sql = format!("SELECT {COLUMNS} FROM daymend_jobs {by_state} WHERE {condition} ORDER BY id LIMIT ?");
    tx.fetch_all(Query::new("list jobs", sql), args, |row| JobRow::from_row(&row)).await
}

/// One job with its attempts, oldest first; `None` if there is no such job.
pub async fn show(db: &Db, id: i64) -> Result<Option<(JobRow, Vec<Attempt>)>, DbError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let Some(job) = read(&mut tx, &Filter::default(), Some(id), 1).await?.pop() else {
        return Ok(None);
    };
    let attempts = tx.fetch_all(&ATTEMPTS, args![id], |row| {
        Ok(Attempt {
            attempt: row.int(0)?,
            outcome: row.text(1)?,
            worker_id: row.int(2)?,
            worker: row.text_or_null(3)?,
            started_at: row.instant_or_null(4)?,
            ended_at: row.instant(5)?,
            error: row.text_or_null(6)?,
        })
    });
    Ok(Some((job, attempts.await?)))
}
