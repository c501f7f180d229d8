//! Closes runs whose jobs have all ended, and keeps the migration records of the others current.

use std::collections::BTreeMap;

use super::{
    Progress, Run, RunState,
    held::Held,
    records::{self, Records},
};
use crate::{
    db::{Db, DbError, ErrorKind, Mode},
    error::chain,
    metrics::{self, catalogue::RUNS_ENDED},
    queue::{JobKind, admin::change, ids_of},
};

/// How many open runs a slice has: each takes a transaction or two, and late changes may have left thousands of runs
/// that a pause keeps open.
const RUNS_A_SLICE: usize = 200;

/// What became of open runs.
#[derive(Debug, Default)]
pub struct Report {
    /// Runs that were closed.
    pub closed: Vec<(i64, RunState, Progress)>,
    /// Runs that could not be closed, or whose records could not be updated, and why.
    pub unclosed: BTreeMap<i64, String>,
    /// The runs that are still open, and their progress.
    pub open: Vec<(JobKind, Progress)>,
}

impl Report {
    /// Logs which runs stay open although their jobs have all ended, or keep records that are not up to date.
    pub fn warn_of_unclosed(&self) {
        for (run, why) in &self.unclosed {
            say_unclosed(*run, why);
        }
    }
}

/// Where a look at the next open runs ended.
#[derive(Debug)]
pub struct Slice {
    /// After which run to continue; `None` if there are no more.
    pub next: Option<i64>,
    /// The last error of a run; the others were looked at all the same, unless the database did not answer in time.
    pub failed: Option<DbError>,
}

/// Closes runs whose jobs have all ended, and updates the migration records of the others.
///
/// A run that cannot be closed is noted and stays open; the others are closed nevertheless, and then the error is
/// returned.
pub async fn close_runs(db: &Db, report: &mut Report, held: &mut Held) -> Result<(), DbError> {
    let (mut after, mut failed) = (None, None);
    loop {
        let slice = close_next_runs(db, after, report, held).await?;
        // One wait for an answer that does not come is enough.
        let is_over = slice.next.is_none() || slice.failed.as_ref().is_some_and(DbError::is_cut_off);
        failed = failed.or(slice.failed);
        if is_over {
            return failed.map_or(Ok(()), Err);
        }
        after = slice.next;
    }
}

/// Does the same for the next open runs after `after`, up to the first that the database does not answer in time.
pub async fn close_next_runs(
    db: &Db,
    after: Option<i64>,
    report: &mut Report,
    held: &mut Held,
) -> Result<Slice, DbError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let mut open = super::open_behind(&mut tx, after.unwrap_or(0), RUNS_A_SLICE + 1).await?;
    tx.commit().await?;
    let next = (open.len() > RUNS_A_SLICE).then(|| open[RUNS_A_SLICE - 1].id);
    open.truncate(RUNS_A_SLICE);
    let mut failed = None;
    for (index, run) in open.iter().enumerate() {
        let Err(error) = close_run(db, run, report, held).await else { continue };
        // An error of one run, such as a trigger that rejects its record, must not keep the runs after it open.
        let is_cut_off = db.answers_others(&error).await;
        if error.is_passing() || (error.kind == ErrorKind::Unavailable && !is_cut_off) {
            return Err(error);
        }
        report.unclosed.insert(run.id, chain(&error));
        // The last error is returned, and counted there.
        if let Some(earlier) = failed.replace(error) {
            metrics::database_error(&earlier);
        }
        if is_cut_off {
            let is_more = next.is_some() || index + 1 < open.len();
            return Ok(Slice { next: is_more.then_some(run.id), failed });
        }
    }
    Ok(Slice { next, failed })
}

/// Does the same for one run.
pub async fn close_run(db: &Db, run: &Run, report: &mut Report, held: &mut Held) -> Result<(), DbError> {
    let what = format!("run {}", run.id);
    let (progress, records) = look_at(db, run).await?;
    if records == Records::Disappeared {
        if cancel(db, run, &what, held).await? {
            tracing::warn!(run = run.id, "run cancelled, because its migration record has disappeared");
            RUNS_ENDED.add([run.kind.name(), RunState::Cancelled.name()], 1);
            let (progress, _) = look_at(db, run).await?;
            report.closed.push((run.id, RunState::Cancelled, progress));
        }
        return Ok(());
    }
    if progress.open() > 0 {
        report.open.push((run.kind, progress));
        if records == Records::There {
            held.unless_held(db, &what, "refresh records", || refresh(db, run, &progress)).await?;
        }
        return Ok(());
    }
    let closed = held.unless_held(db, &what, "close run", || super::try_close(db, run.id));
    if let Some((state, progress)) = closed.await?.flatten() {
        tracing::info!(
            run = run.id,
            kind = run.kind.name(),
            state = state.name(),
            jobs = progress.total(),
            discarded = progress.discarded,
            rows_inserted = progress.rows_inserted,
            rows_updated = progress.rows_updated,
            rows_deleted = progress.rows_deleted,
            "run ended: {}",
            run.reason
        );
        RUNS_ENDED.add([run.kind.name(), state.name()], 1);
        report.closed.push((run.id, state, progress));
    }
    Ok(())
}

/// Cancels a run; returns false if it is not running, or is locked by somebody else.
async fn cancel(db: &Db, run: &Run, what: &str, held: &mut Held) -> Result<bool, DbError> {
    let mut next = Some(ids_of(run.id).0);
    while let Some(first) = next {
        let cancel = || change::cancel_batch(db, run.id, first, "scheduler");
        let batch = held.unless_held(db, what, "cancel run", cancel);
        let Some(batch) = batch.await?.flatten() else { return Ok(false) };
        next = batch.next;
    }
    Ok(true)
}

/// Looks at a run without locking it: its progress, and what has become of its records.
async fn look_at(db: &Db, run: &Run) -> Result<(Progress, Records), DbError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let looked = (super::progress(&mut tx, run.id).await?, records::of_run(&mut tx, run.id).await?);
    tx.commit().await?;
    Ok(looked)
}

/// Updates the migration records of a run if it is still running: another scheduler may have closed it since its jobs
/// were counted, and nobody would correct the records afterwards. A run locked by somebody else is left for later.
async fn refresh(db: &Db, run: &Run, progress: &Progress) -> Result<(), DbError> {
    let mut tx = db.begin(Mode::Write).await?;
    if super::hold_running(&mut tx, run.id).await? {
        records::refresh(&mut tx, run, progress).await?;
    }
    tx.commit().await
}

/// Logs that a run stays open, and why.
pub(crate) fn say_unclosed(run: i64, why: &str) {
    tracing::warn!(run, "run {run} cannot be closed, or its records cannot be refreshed: {why}");
}
