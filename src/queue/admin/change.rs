//! Retrying and cancelling jobs, run by run, in batches.
//!
//! Each batch is one transaction: the run's row is locked, up to some thousand jobs change, the run re-opens if
//! needed, its migration records are updated, and the admin log gets an entry. No transaction grows with the run;
//! only the plan counts all matching jobs. If interrupted, run the command again: jobs that have changed no longer
//! match. A cancelled run ends together with the last of its jobs.

use std::time::Duration;

use super::{FILTER_CHARACTERS_MAX, filter::Filter, jobs_by_run, write_log};
use crate::{
    args,
    db::{Arg, Db, DbError, Mode, Query, Tx, clipped, retry},
    queue::{FIRST_DUE_US, PAUSED, ids_of},
    runs,
};

/// How many jobs one transaction changes.
const JOBS_A_BATCH: usize = 10_000;

/// How long to leave the database alone between two batches.
const REST: Duration = Duration::from_millis(10);

/// What to do with the matching jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Discarded jobs become available again, with fresh attempts.
    Retry {
        /// Also retry jobs that are waiting for another attempt.
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

    /// The condition that selects the jobs it can apply to, with its arguments.
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

/// How many jobs a change would affect, by run.
pub async fn plan(db: &Db, change: Change, filter: &Filter) -> Result<Vec<(i64, u64)>, DbError> {
    let (condition, args) = condition(change, filter);
    jobs_by_run(db, &condition, args).await
}

/// Makes the change; returns how many jobs it changed, by run. After each batch, `progress` is called with the number
/// of jobs changed so far and the total.
pub async fn apply(
    db: &Db,
    change: Change,
    filter: &Filter,
    who: &str,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<(i64, u64)>, DbError> {
    let plan = plan(db, change, filter).await?;
    let planned = plan.iter().map(|(_, jobs)| jobs).sum();
    let mut total = 0;
    let mut done = Vec::new();
    for (run, _) in plan {
        let mut jobs = 0;
        let mut next = Some(ids_of(run).0);
        while let Some(first) = next {
            let batch = retry("change jobs", || apply_batch(db, change, (run, filter), first, who)).await?;
            jobs += batch.jobs;
            progress(total + jobs, planned);
            next = batch.next_after_rest().await;
        }
        if jobs > 0 {
            done.push((run, jobs));
        }
        total += jobs;
    }
    Ok(done)
}

async fn apply_batch(
    db: &Db,
    change: Change,
    (run, filter): (i64, &Filter),
    first: i64,
    who: &str,
) -> Result<Batch, DbError> {
    let mut tx = db.begin(Mode::Write).await?;
    runs::lock(&mut tx, run).await?;
    let batch = change_batch(&mut tx, change, (run, filter), first).await?;
    if batch.jobs > 0 {
        if matches!(change, Change::Retry { .. }) {
            runs::reopen(&mut tx, run).await?;
        }
        write_log(&mut tx, who, change.name(), &as_given(filter, run), batch.jobs).await?;
    }
    tx.commit().await?;
    Ok(batch)
}

/// The result of a batch.
#[derive(Debug)]
pub(crate) struct Batch {
    jobs: u64,
    /// The job to continue from; `None` if all are done.
    pub(crate) next: Option<i64>,
}

impl Batch {
    async fn next_after_rest(&self) -> Option<i64> {
        if self.next.is_some() {
            tokio::time::sleep(REST).await;
        }
        self.next
    }
}

/// Applies the change to the next batch of matching jobs of a run, from job `first` on. The caller must have locked the
/// run.
async fn change_batch(
    tx: &mut Tx,
    change: Change,
    (run, filter): (i64, &Filter),
    first: i64,
) -> Result<Batch, DbError> {
    let last_of_run = ids_of(run).1;
    let (condition, args) = condition(change, &Filter { run: None, ..filter.clone() });
    let within = |last: i64| {
        let mut all = args![first, last];
        all.extend(args.iter().cloned());
        all
    };
    let sql =
        format!("SELECT id FROM daymend_jobs WHERE id BETWEEN ? AND ? AND {condition} ORDER BY id LIMIT 1 OFFSET ?");
    let mut args = within(last_of_run);
    args.push(JOBS_A_BATCH.into());
    let next = tx.fetch_optional(Query::new("jobs to change", sql), args, |row| row.int(0)).await?;
    let sql = format!("UPDATE daymend_jobs SET {} WHERE id BETWEEN ? AND ? AND {condition}", change.assignment());
    let last = next.map_or(last_of_run, |next| next - 1);
    let jobs = tx.execute(Query::new("change jobs", sql), within(last)).await?;
    Ok(Batch { jobs, next })
}

/// The filter as given, with the run whose jobs it matched added if it names none.
fn as_given(filter: &Filter, run: i64) -> String {
    match filter.run {
        Some(_) => filter.to_string(),
        None => {
            let run = format!(" (run {run})");
            clipped(&filter.to_string(), FILTER_CHARACTERS_MAX - run.len()) + &run
        }
    }
}

/// Cancels a whole run and ends it; returns how many of its jobs were open, or `None` if it is not running. After
/// each batch, `progress` is called with the number of jobs cancelled so far.
pub async fn cancel_run(db: &Db, run: i64, who: &str, mut progress: impl FnMut(u64)) -> Result<Option<u64>, DbError> {
    let mut cancelled = None;
    let mut next = Some(ids_of(run).0);
    while let Some(first) = next {
        let Some(batch) = retry("cancel run", || cancel_batch(db, run, first, who)).await? else { break };
        let jobs = cancelled.unwrap_or(0) + batch.jobs;
        progress(jobs);
        cancelled = Some(jobs);
        next = batch.next_after_rest().await;
    }
    Ok(cancelled)
}

/// Cancels the next open jobs of a run, from the job `first` on, and the run itself with the last of them. `None` if
/// the run is not running.
pub(crate) async fn cancel_batch(db: &Db, run: i64, first: i64, who: &str) -> Result<Option<Batch>, DbError> {
    let mut tx = db.begin(Mode::Write).await?;
    let Some(locked) = runs::lock_running(&mut tx, run).await? else { return Ok(None) };
    let whole = Filter::default().of_run(run);
    let mut batch = change_batch(&mut tx, Change::Cancel, (run, &whole), first).await?;
    // If somebody has meanwhile retried earlier jobs, they are open again: start over.
    if batch.next.is_none() && !runs::end_cancelled(&mut tx, &locked).await? {
        batch.next = Some(ids_of(run).0);
    }
    write_log(&mut tx, who, "cancel run", &whole.to_string(), batch.jobs).await?;
    tx.commit().await?;
    Ok(Some(batch))
}

fn condition(change: Change, filter: &Filter) -> (String, Vec<Arg>) {
    let (applies, mut args) = change.applies();
    let (fits, more) = filter.condition();
    args.extend(more);
    (format!("{applies} AND {fits}"), args)
}
