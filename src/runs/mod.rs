//! Runs: requests to recompute days, and their jobs.
//!
//! A run owns its jobs, says who asked and why, and closes when none of them is open: `completed`, `failed` (some
//! were discarded) or `cancelled`. Its progress is always counted from the states of its jobs, at one moment, and
//! never stored, so that no retry and no crash can make it wrong. `operation_event_log` gets a row when a run starts
//! and one when it ends, in the transactions that start and end it.
//!
//! [`close`] looks at all open runs, whoever enqueued them; [`repair`] plans the runs that operators ask for;
//! [`records`] are the lab system's requests for rebuilds; and what [`held`] rows keep from being done is left for
//! later.

pub mod close;
pub mod held;
mod labs;
pub mod records;
pub mod repair;

use chrono::{DateTime, NaiveDate, Utc};

pub(crate) use labs::labs_as_objects;
pub use labs::{LabDays, count_days, describe};
use records::Records;

use crate::{
    args,
    db::{Db, DbError, Mode, Row, Statement, Tx, clipped},
    queue::{
        JOBS_A_RUN_MAX, JobKind, UnknownName, by_name,
        enqueue::{self, Batch},
        ids_of,
    },
    recompute::shrink::MaxShrink,
    rollup::misfit::Misfit,
    statement,
};

/// The maximum lengths in characters of a run's reason, and of its name in the lab system's event log: the widths of
/// their columns.
const REASON_CHARACTERS_MAX: usize = 255;
const NAME_CHARACTERS_MAX: usize = 255;

/// The maximum length of a requester's name; the width of every such column.
pub(crate) const WHO_CHARACTERS_MAX: usize = 100;

statement!(
    RUN_INSERT,
    "insert run",
    "INSERT INTO daymend_runs (rollup, kind, state, reason, requested_by, time_zone, lab_id,
                               first_day, last_day, as_of, max_shrink, event_name, created_at)
     VALUES (?, ?, 'running', ?, ?, ?, ?, ?, ?, ?, ?, '', {now})"
);

statement!(RUN_NAME, "name run", "UPDATE daymend_runs SET event_name = ? WHERE id = ?");

statement!(
    EVENT_LOG,
    "event log",
    "INSERT INTO operation_event_log (event_name, status, created_at) VALUES (?, ?, {now})"
);

/// Selects the columns that [`Run::from_row`] reads, in its order, for the runs given by a clause.
macro_rules! run_select {
    ($which:literal) => {
        concat!(
            "SELECT id, rollup, kind, state, reason, requested_by, time_zone, lab_id, first_day, last_day, as_of,
            event_name, created_at, finished_at, max_shrink
     FROM daymend_runs ",
            $which
        )
    };
}

statement!(RUN_SHOW, "show run", run_select!("WHERE id = ?"));

statement!(RUNS_LIST, "list runs", run_select!("ORDER BY id DESC LIMIT ?"));

statement!(RUNS_OPEN, "open runs", run_select!("WHERE state = 'running' ORDER BY id"));

statement!(RUNS_OPEN_NEXT, "next open runs", run_select!("WHERE state = 'running' AND id > ? ORDER BY id LIMIT ?"));

statement!(RUN_LOCK, "lock run", "SELECT state FROM daymend_runs WHERE id = ? {for_update}");

statement!(RUN_HOLD, "hold run", "SELECT state FROM daymend_runs WHERE id = ? {skip_locked}");

statement!(
    RUN_END,
    "end run",
    "UPDATE daymend_runs SET state = ?, finished_at = {now} WHERE id = ? AND state = 'running'"
);

statement!(
    RUN_REOPEN,
    "reopen run",
    "UPDATE daymend_runs SET state = 'running', finished_at = NULL WHERE id = ? AND state <> 'running'"
);

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

/// The state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Some of its jobs are open.
    Running,
    /// All of its jobs completed.
    Completed,
    /// Some of its jobs were discarded.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl RunState {
    /// The name in the database.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    fn parse(name: &str) -> Result<Self, UnknownName> {
        let all = [Self::Running, Self::Completed, Self::Failed, Self::Cancelled];
        by_name(&all, Self::name, name, "run state")
    }
}

/// A run.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Run {
    /// Its id.
    pub id: i64,
    /// The rollup it recomputes.
    pub rollup: String,
    /// What it is for.
    pub kind: JobKind,
    /// Its state.
    pub state: RunState,
    /// Why it was requested, for operators.
    pub reason: String,
    /// Who asked for it.
    pub requested_by: String,
    /// The time zone of a nightly run, or of its lookback run.
    pub time_zone: Option<String>,
    /// The lab of a rebuild.
    pub lab_id: Option<i64>,
    /// The earliest day of its jobs.
    pub first_day: Option<NaiveDate>,
    /// The latest day of its jobs.
    pub last_day: Option<NaiveDate>,
    /// The moment that its requester took as the present.
    pub as_of: DateTime<Utc>,
    /// Its name in `operation_event_log`.
    pub event_name: String,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// The share of a day's rows that its jobs may remove.
    pub max_shrink: MaxShrink,
}

impl Run {
    fn from_row(row: &Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.int(0)?,
            rollup: row.text(1)?,
            kind: row.text(2)?.parse()?,
            state: RunState::parse(&row.text(3)?)?,
            reason: row.text(4)?,
            requested_by: row.text(5)?,
            time_zone: row.text_or_null(6)?,
            lab_id: row.int_or_null(7)?,
            first_day: row.date_or_null(8)?,
            last_day: row.date_or_null(9)?,
            as_of: row.instant(10)?,
            event_name: row.text(11)?,
            created_at: row.instant(12)?,
            finished_at: row.instant_or_null(13)?,
            max_shrink: MaxShrink(row.int_or_null(14)?.and_then(|percent| u8::try_from(percent).ok())),
        })
    }
}

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

/// Limits for the jobs of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobLimits {
    /// How many attempts each job may have.
    pub attempts_max: u32,
    /// The share of a day's rows that a job may remove.
    pub max_shrink: MaxShrink,
}

impl JobLimits {
    /// So many attempts, and each job may remove any share of its day's rows.
    #[must_use]
    pub const fn any_shrink(attempts_max: u32) -> Self {
        Self { attempts_max, max_shrink: MaxShrink::OFF }
    }
}

/// A run to be created.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// The rollup.
    pub rollup: String,
    /// What it is for.
    pub kind: JobKind,
    /// Why, for operators; at most 255 characters.
    pub reason: String,
    /// Who asks; at most 100 characters.
    pub requested_by: String,
    /// The time zone of a nightly run, or of its lookback run.
    pub time_zone: Option<String>,
    /// The lab of a rebuild.
    pub lab_id: Option<i64>,
    /// The moment taken as the present.
    pub as_of: DateTime<Utc>,
    /// Each lab with its days, oldest first.
    pub labs: LabDays,
    /// The limits of its jobs.
    pub limits: JobLimits,
}

impl NewRun {
    /// A run of these days, as of this moment; the reason and the requester are for the caller to set, like the zone
    /// or the lab, if it is of one.
    #[must_use]
    pub fn new(kind: JobKind, rollup: &str, as_of: DateTime<Utc>, labs: LabDays, limits: JobLimits) -> Self {
        Self {
            rollup: rollup.to_owned(),
            kind,
            reason: String::new(),
            requested_by: String::new(),
            time_zone: None,
            lab_id: None,
            as_of,
            labs,
            limits,
        }
    }

    /// How many jobs it would have.
    #[must_use]
    pub fn jobs(&self) -> usize {
        count_days(&self.labs)
    }

    fn event_name(&self, id: i64) -> String {
        let name = match self.kind {
            JobKind::Nightly => "Nightly-Operation-Summary",
            JobKind::Repair => "Nightly-Operation-Summary-Repair",
            JobKind::Rebuild => "Historical-Summary-Rebuild",
        };
        clipped(&format!("{name} run {id}: {}", self.reason), NAME_CHARACTERS_MAX)
    }
}

/// Checks that the lab system's tables that a run writes to exist, and that this user may write to them; returns the
/// first misfit of each.
pub async fn check(db: &Db) -> Result<Vec<Misfit>, DbError> {
    let mut misfits = Vec::new();
    for (table, statements) in [("operation_event_log", &[EVENT_LOG][..]), (records::TABLE, records::EVERY_TICK)] {
        for statement in statements {
            if let Err(error) = db.columns(statement.into()).await {
                let is_absent = error.is_absent();
                let mut misfit = Misfit::refused(table, error)?;
                if is_absent {
                    misfit.what.push_str(" (`daymend migrate` creates it)");
                }
                misfits.push(misfit);
                break;
            }
        }
    }
    Ok(misfits)
}

/// Inserts a run with its jobs and its STARTED event, inside the caller's transaction; returns its id.
pub async fn create(tx: &mut Tx, new: &NewRun) -> Result<i64, DbError> {
    if new.jobs() as i64 > JOBS_A_RUN_MAX {
        let why = format!("{} jobs are too many for one run, which has room for {JOBS_A_RUN_MAX}", new.jobs());
        return Err(DbError::new(RUN_INSERT.name, sqlx::Error::Configuration(why.into())));
    }
    let days = || new.labs.iter().flat_map(|(_, days)| days);
    let id = tx
        .insert(
            &RUN_INSERT,
            args![
                new.rollup.as_str(),
                new.kind.name(),
                clipped(&new.reason, REASON_CHARACTERS_MAX),
                clipped(&new.requested_by, WHO_CHARACTERS_MAX),
                new.time_zone.as_deref(),
                new.lab_id,
                days().min().copied(),
                days().max().copied(),
                new.as_of,
                new.limits.max_shrink.0.map(i64::from),
            ],
        )
        .await?;
    let event_name = new.event_name(id);
    tx.execute(&RUN_NAME, args![event_name.as_str(), id]).await?;
    tx.execute(&EVENT_LOG, args![event_name, "STARTED"]).await?;
    let attempts_max = new.limits.attempts_max;
    let batch = Batch { run_id: id, kind: new.kind, rollup: &new.rollup, labs: &new.labs, attempts_max };
    enqueue::enqueue(tx, &batch).await?;
    Ok(id)
}

/// One run; `None` if there is no such run.
pub async fn get(tx: &mut Tx, id: i64) -> Result<Option<Run>, DbError> {
    tx.fetch_optional(&RUN_SHOW, args![id], |row| Run::from_row(&row)).await
}

/// The latest runs, newest first.
pub async fn list(db: &Db, limit: u32) -> Result<Vec<Run>, DbError> {
    db.fetch_all(&RUNS_LIST, args![limit], |row| Run::from_row(&row)).await
}

/// The runs that are still open, oldest first.
pub async fn open(tx: &mut Tx) -> Result<Vec<Run>, DbError> {
    tx.fetch_all(&RUNS_OPEN, args![], |row| Run::from_row(&row)).await
}

/// At most `limit` open runs with ids after `id`.
pub async fn open_behind(tx: &mut Tx, id: i64, limit: usize) -> Result<Vec<Run>, DbError> {
    tx.fetch_all(&RUNS_OPEN_NEXT, args![id, limit], |row| Run::from_row(&row)).await
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

/// Closes a run whose jobs have all ended, once; returns its final state if this call closed it.
///
/// The run's row is locked before its jobs are counted, so that a retry that re-opens some of them comes either
/// before the count or after the close. The migration records that it carries out are updated in the same
/// transaction.
pub async fn try_close(db: &Db, id: i64) -> Result<Option<(RunState, Progress)>, DbError> {
    let mut tx = db.begin(Mode::Write).await?;
    let Some(run) = lock_running(&mut tx, id).await? else {
        return Ok(None);
    };
    let progress = progress(&mut tx, id).await?;
    if progress.open() > 0 {
        return Ok(None);
    }
    let state = match progress {
        Progress { discarded: 1.., .. } => RunState::Failed,
        Progress { cancelled: 1.., .. } => RunState::Cancelled,
        _ => RunState::Completed,
    };
    end(&mut tx, &run, state, &progress).await?;
    tx.commit().await?;
    Ok(Some((state, progress)))
}

/// Ends a run as cancelled, unless some of its jobs are open; returns whether it did. The run must be locked.
pub(crate) async fn end_cancelled(tx: &mut Tx, run: &Run) -> Result<bool, DbError> {
    let progress = progress(tx, run.id).await?;
    if progress.open() > 0 {
        return Ok(false);
    }
    end(tx, run, RunState::Cancelled, &progress).await?;
    Ok(true)
}

/// Locks a run against closing, cancelling and re-opening until the transaction ends.
pub async fn lock(tx: &mut Tx, id: i64) -> Result<(), DbError> {
    tx.fetch_optional(&RUN_LOCK, args![id], |_| Ok(())).await.map(drop)
}

/// Re-opens an ended run some of whose jobs are open again; does nothing if it is running.
///
/// The run must be locked. Its records read `Running (…)` again, and the event log gets another STARTED. A run
/// normally ends up cancelled when its records have disappeared; one that is re-opened goes on without them.
pub async fn reopen(tx: &mut Tx, id: i64) -> Result<(), DbError> {
    if tx.execute(&RUN_REOPEN, args![id]).await? == 1
        && let Some(run) = get(tx, id).await?
    {
        tx.execute(&EVENT_LOG, args![run.event_name.as_str(), "STARTED"]).await?;
        if records::of_run(tx, id).await? == Records::Disappeared {
            tracing::warn!(run = id, "its migration record has disappeared: it goes on without one");
            records::unlink(tx, id).await?;
        }
        let progress = progress(tx, id).await?;
        records::refresh(tx, &run, &progress).await?;
    }
    Ok(())
}

/// Locks a run that is running, unless somebody else has it locked; returns whether it did.
pub(crate) async fn hold_running(tx: &mut Tx, id: i64) -> Result<bool, DbError> {
    is_running(tx, &RUN_HOLD, id).await
}

/// Locks a run that is running; `None` if it is not.
pub(crate) async fn lock_running(tx: &mut Tx, id: i64) -> Result<Option<Run>, DbError> {
    if is_running(tx, &RUN_LOCK, id).await? { get(tx, id).await } else { Ok(None) }
}

async fn is_running(tx: &mut Tx, lock: &Statement, id: i64) -> Result<bool, DbError> {
    let state = tx.fetch_optional(lock, args![id], |row| Ok(RunState::parse(&row.text(0)?)?)).await?;
    Ok(state == Some(RunState::Running))
}

async fn end(tx: &mut Tx, run: &Run, state: RunState, progress: &Progress) -> Result<(), DbError> {
    tx.execute(&RUN_END, args![state.name(), run.id]).await?;
    tx.execute(&EVENT_LOG, args![run.event_name.as_str(), state.name().to_uppercase()]).await?;
    records::run_ended(tx, run, state, progress).await
}
