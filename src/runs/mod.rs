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
mod ends;
pub(crate) mod enqueued;
pub mod held;
mod labs;
mod progress;
pub mod records;
pub mod repair;

use chrono::{DateTime, NaiveDate, Utc};
use strum::{EnumString, IntoStaticStr};

pub(crate) use ends::{end_cancelled, hold_running, lock_running};
pub use ends::{lock, reopen, try_close};
pub(crate) use labs::labs_as_objects;
pub use labs::{LabDays, count_days, describe};
pub use progress::{Discarded, Progress, discarded, progress};

use crate::{
    args,
    db::{Arg, Db, DbError, Query, Row, Tx, clipped},
    queue::{
        JOBS_A_RUN_MAX, JobKind, UnknownName,
        enqueue::{self, Batch},
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

statement!(RUNS_OPEN, "open runs", run_select!("WHERE state = 'running' ORDER BY id"));

statement!(RUNS_OPEN_NEXT, "next open runs", run_select!("WHERE state = 'running' AND id > ? ORDER BY id LIMIT ?"));

/// The state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[derive(EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase", parse_err_ty = UnknownName, parse_err_fn = UnknownName::of)]
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
        self.into()
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
    /// The time zone of a nightly run and of its lookback run, and that of a rebuild's days.
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
            state: row.text(3)?.parse()?,
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

/// What the events of runs for late changes are called: not like those of nightly runs and of repairs that somebody
/// asked for, which monitoring looks for among the latest, because there may be a run every few seconds.
pub(crate) const LATE_CHANGES: &str = "Late-Changes";

/// The LIKE pattern of the event names of runs for late changes.
pub(crate) fn late_changes() -> String {
    format!("{LATE_CHANGES} run %")
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
    /// The time zone of a nightly run and of its lookback run, and that of a rebuild's days.
    pub time_zone: Option<String>,
    /// The lab of a rebuild.
    pub lab_id: Option<i64>,
    /// The moment taken as the present.
    pub as_of: DateTime<Utc>,
    /// What its events in `operation_event_log` are called, before its number and its reason.
    pub event: &'static str,
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
            event: match kind {
                JobKind::Nightly => "Nightly-Operation-Summary",
                JobKind::Repair => "Nightly-Operation-Summary-Repair",
                JobKind::Rebuild => "Historical-Summary-Rebuild",
            },
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
        clipped(&format!("{} run {id}: {}", self.event, self.reason), NAME_CHARACTERS_MAX)
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

/// Runs that match every field that is set; if none is, all runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::Args)]
pub struct Which {
    /// Only runs of this kind
    #[arg(long, value_name = "KIND")]
    pub kind: Option<JobKind>,
    /// Only runs in this state
    #[arg(long, value_name = "STATE")]
    pub state: Option<RunState>,
    /// No runs for late changes, of which there may be one every few seconds
    #[arg(long)]
    pub no_late_changes: bool,
}

/// The latest of these runs, newest first.
pub async fn list(db: &Db, which: Which, limit: u32) -> Result<Vec<Run>, DbError> {
    let conditions = [
        which.kind.map(|kind| ("kind = ?", kind.name().into())),
        which.state.map(|state| ("state = ?", state.name().into())),
        which.no_late_changes.then(|| ("event_name NOT LIKE ?", late_changes().into())),
    ];
    let (mut sql, mut args) = (run_select!("WHERE 1 = 1").to_owned(), Vec::<Arg>::new());
    for (condition, arg) in conditions.into_iter().flatten() {
        sql.push_str(" AND ");
        sql.push_str(condition);
        args.push(arg);
    }
    sql.push_str(" ORDER BY id DESC LIMIT ?");
    args.push(limit.into());
    db.fetch_all(Query::new("list runs", sql).once(), args, |row| Run::from_row(&row)).await
}

/// The runs that are still open, oldest first.
pub async fn open(tx: &mut Tx) -> Result<Vec<Run>, DbError> {
    tx.fetch_all(&RUNS_OPEN, args![], |row| Run::from_row(&row)).await
}

/// At most `limit` open runs with ids after `id`.
pub async fn open_behind(tx: &mut Tx, id: i64, limit: usize) -> Result<Vec<Run>, DbError> {
    tx.fetch_all(&RUNS_OPEN_NEXT, args![id, limit], |row| Run::from_row(&row)).await
}
