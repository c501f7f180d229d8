//! Retrying and cancelling jobs, run by run.
//!
//! Each run is one transaction: its row is locked, its jobs change, it re-opens where that is
//! needed, its migration records say so, and the admin log has it.

use super::{FILTER_CHARACTERS_MAX, filter::Filter, jobs_by_run, write_log};
use crate::{
    args,
    db::{Arg, Db, DbError, Mode, Query, Tx, clipped, retry},
    queue::{FIRST_DUE_US, PAUSED},
    runs,
};

/// What to do with the jobs that fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Discarded jobs become available with fresh attempts.
    Retry {
        /// Those that wait for another attempt as well.
        backing_off: bool,
    },
    /// Open jobs will not run.
    Cancel,
}

impl Change {
    fn name(self) -> &'static str {
        match self {
            Self::Retry { .. } => "retry",
            Self::Cancel => "cancel",
        }
    }

    /// The jobs it applies to at all, with its arguments.
    fn applies(self) -> (&'static str, Vec<Arg>) {
        match self {
            Self::Retry { backing_off: false } => ("state = 'discarded'", args![]),
            Self::Retry { backing_off: true } => (
                "(state = 'discarded' OR state = 'available' AND sort_key >= ? AND sort_key < ? AND sort_key > {now_us})",
                args![FIRST_DUE_US, PAUSED],
            ),
            Self::Cancel => ("state IN ('available', 'running')", args![]),
        }
    }

    fn assignment(self) -> &'static str {
        match self {
            Self::Retry { .. } => "attempt = 0, lapses = 0, sort_key = {now_us}, state = 'available'",
            Self::Cancel => "sort_key = {now_us}, state = 'cancelled'",
        }
    }
}

/// How many jobs of which runs a change would touch.
pub async fn plan(db: &Db, change: Change, filter: &Filter) -> Result<Vec<(i64, u64)>, DbError> {
    let (condition, args) = condition(change, filter);
    jobs_by_run(db, &condition, args).await
}

/// Makes the change; how many jobs of which runs.
pub async fn apply(db: &Db, change: Change, filter: &Filter, who: &str) -> Result<Vec<(i64, u64)>, DbError> {
    let mut done = Vec::new();
    for (run, _) in plan(db, change, filter).await? {
        let jobs = retry("change jobs", || async {
            let mut tx = db.begin(Mode::Write).await?;
            let jobs = apply_to_run(&mut tx, change, run, filter, who).await?;
            tx.commit().await?;
            Ok::<_, DbError>(jobs)
        })
        .await?;
        if jobs > 0 {
            done.push((run, jobs));
        }
    }
    Ok(done)
}

async fn apply_to_run(tx: &mut Tx, change: Change, run: i64, filter: &Filter, who: &str) -> Result<u64, DbError> {
    runs::lock(tx, run).await?;
    let (condition, args) = condition(change, &filter.of_run(run));
    let sql = format!("UPDATE daymend_jobs SET {} WHERE {condition}", change.assignment());
    let jobs = tx.execute(Query::named("change jobs", sql), args).await?;
    if jobs > 0 {
        if matches!(change, Change::Retry { .. }) {
            runs::reopen(tx, run).await?;
        }
        write_log(tx, who, change.name(), &as_given(filter, run), jobs).await?;
    }
    Ok(jobs)
}

/// The filter as somebody gave it, and the run whose jobs it found where that does not say so itself.
fn as_given(filter: &Filter, run: i64) -> String {
    match filter.run {
        Some(_) => filter.to_string(),
        None => {
            let run = format!(" (run {run})");
            clipped(&filter.to_string(), FILTER_CHARACTERS_MAX - run.len()) + &run
        }
    }
}

/// Cancels a whole run, which ends; how many of its jobs were open. None where it is not running.
pub async fn cancel_run(db: &Db, run: i64, who: &str) -> Result<Option<u64>, DbError> {
    retry("cancel run", || try_cancel_run(db, run, who)).await
}

/// As [`cancel_run`], once.
pub(crate) async fn try_cancel_run(db: &Db, run: i64, who: &str) -> Result<Option<u64>, DbError> {
    let mut tx = db.begin(Mode::Write).await?;
    let Some(jobs) = runs::cancel(&mut tx, run).await? else { return Ok(None) };
    write_log(&mut tx, who, "cancel run", &Filter::default().of_run(run).to_string(), jobs).await?;
    tx.commit().await?;
    Ok(Some(jobs))
}

fn condition(change: Change, filter: &Filter) -> (String, Vec<Arg>) {
    let (applies, mut args) = change.applies();
    let (fits, more) = filter.condition();
    args.extend(more);
    (format!("{applies} AND {fits}"), args)
}
