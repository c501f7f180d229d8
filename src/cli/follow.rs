//! Following runs until they end: a progress bar on a terminal, plain lines otherwise.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Exit, Global, LogFormat, print_json};
use crate::{
    db::{Backoff, Db, DbError, ErrorKind, Mode},
    error::chain,
    output::{bar::Bar, say},
    queue::{
        admin::{
            change::{self, Change},
            filter::Filter,
            pause::{self, Target},
        },
        lease,
    },
    runs::{self, Progress, Run, RunState, close, held::Held},
};

/// How often a run is polled. Counting a run of a million jobs is slow: polling rests in proportion, so that it takes
/// only a small part of the time.
const POLL: Duration = Duration::from_millis(200);
const RESTS: u32 = 4;
const REST_MAX: Duration = Duration::from_secs(10);

/// How often workers and pauses are polled.
const GLANCE: Duration = Duration::from_secs(2);

/// The warning when something was enqueued and no worker is alive.
const NO_WORKER: &str = "no worker is alive: start `daymend worker` or `daymend serve`";

/// Warns if no worker is alive to run what was enqueued.
pub(super) async fn warn_of_no_worker(global: &Global, db: &Db) -> Result<(), DbError> {
    if lease::workers_alive(db).await? == 0 {
        global.warn(NO_WORKER);
    }
    Ok(())
}

/// The runs being waited for. If a signal or an error ends the wait, it prints that the runs go on.
struct Waiting<'a> {
    global: &'a Global,
    runs: VecDeque<i64>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        for run in &self.runs {
            match self.global.log_format {
                LogFormat::Text => say!("run {run} goes on: daymend runs watch {run}"),
                LogFormat::Json => tracing::warn!("run {run} goes on: daymend runs watch {run}"),
            }
        }
    }
}

/// Follows a run until it has ended, and returns how; closes it if no scheduler does.
pub(super) async fn follow(global: &Global, db: &Db, run_id: i64) -> anyhow::Result<(RunState, Progress)> {
    let mut waiting = Waiting { global, runs: [run_id].into() };
    let ended = until_end(global, db, run_id).await?;
    waiting.runs.clear();
    Ok(ended)
}

async fn until_end(global: &Global, db: &Db, run_id: i64) -> anyhow::Result<(RunState, Progress)> {
    let mut bar = Bar::new(format!("run {run_id}"), "days");
    let (mut warned, mut said_paused) = (false, false);
    let (mut failures, mut glanced) = (0, Instant::now());
    loop {
        let begun = Instant::now();
        match look(db, run_id).await {
            Ok((RunState::Running, progress)) => {
                failures = 0;
                bar.update_noting(progress.ended(), progress.total(), progress.discarded, "discarded");
                if glanced.elapsed() >= GLANCE {
                    glanced = Instant::now();
                    if progress.open() > 0 && !warned && lease::workers_alive(db).await.is_ok_and(|alive| alive == 0) {
                        warned = true;
                        global.warn(NO_WORKER);
                    }
                    if progress.available > 0
                        && !said_paused
                        && let Ok(Some(paused)) = paused(db, run_id).await
                    {
                        said_paused = true;
                        global.warn(paused);
                    }
                }
            }
            Ok((state, progress)) => {
                bar.finish();
                return Ok((state, progress));
            }
            Err(error) if error.kind == ErrorKind::Unavailable => {
                failures += 1;
                let wait = Backoff::UNAVAILABLE.wait(failures);
                tracing::warn!(error = %chain(&error), ?wait, "{}", error.why_waiting());
                tokio::time::sleep(wait).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep((begun.elapsed() * RESTS).clamp(POLL, REST_MAX)).await;
    }
}

/// Which of the run's remaining jobs are paused, and how to resume them.
async fn paused(db: &Db, run_id: i64) -> Result<Option<String>, DbError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let run = runs::get(&mut tx, run_id).await?;
    let pauses = pause::list(&mut tx).await?;
    tx.commit().await?;
    let Some(run) = run else { return Ok(None) };
    for pause in pauses {
        match pause.lab_id {
            None if pause.what == Target::Kind(run.kind).name() => {
                let kind = run.kind;
                return Ok(Some(format!("{kind} jobs are paused: `daymend queue resume {kind}` lets them go on")));
            }
            Some(lab) => {
                let filter = Filter { labs: vec![lab], ..Filter::default() }.of_run(run_id);
                if !change::plan(db, Change::Cancel, &filter).await?.is_empty() {
                    let why = format!("lab {lab} is paused: `daymend queue resume --lab {lab}` lets its jobs go on");
                    return Ok(Some(why));
                }
            }
            None => {}
        }
    }
    Ok(None)
}

/// The state of a run; closes it if its jobs have all ended.
async fn look(db: &Db, run_id: i64) -> Result<(RunState, Progress), DbError> {
    let (mut run, mut progress) = read(db, run_id).await?;
    if let Some(ended) = run.as_ref().filter(|run| run.state == RunState::Running && progress.open() == 0) {
        close::close_run(db, ended, &mut close::Report::default(), &mut Held::default()).await?;
        (run, progress) = read(db, run_id).await?;
    }
    Ok((run.map_or(RunState::Cancelled, |run| run.state), progress))
}

async fn read(db: &Db, run_id: i64) -> Result<(Option<Run>, Progress), DbError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let read = (runs::get(&mut tx, run_id).await?, runs::progress(&mut tx, run_id).await?);
    tx.commit().await?;
    Ok(read)
}

/// Follows runs one after another, and prints how each ended: as JSON, together with the fields of `also`.
pub(super) async fn follow_all(global: &Global, db: &Db, run_ids: &[i64], also: Value) -> anyhow::Result<Exit> {
    let mut exit = Exit::Ok;
    let mut ended = Vec::new();
    let mut waiting = Waiting { global, runs: run_ids.iter().copied().collect() };
    for run_id in run_ids {
        let (state, progress) = until_end(global, db, *run_id).await?;
        waiting.runs.pop_front();
        if state != RunState::Completed {
            exit = Exit::Failed;
        }
        if global.json {
            let mut run = also.clone();
            run["run"] = json!(run_id);
            run["state"] = json!(state);
            run["progress"] = json!(progress);
            ended.push(run);
        } else {
            println!("{}", summary(*run_id, state, &progress));
        }
    }
    if global.json {
        print_json(&ended)?;
    }
    Ok(exit)
}

/// One line that says how a run ended.
pub(super) fn summary(run_id: i64, state: RunState, progress: &Progress) -> String {
    let rows = match progress.rows() {
        0 if state == RunState::Completed => "0 rows written: everything was right".to_owned(),
        0 => "0 rows written".to_owned(),
        rows => format!(
            "{rows} rows written ({} inserted, {} updated, {} deleted)",
            progress.rows_inserted, progress.rows_updated, progress.rows_deleted
        ),
    };
    let failed = match progress.discarded {
        0 => String::new(),
        discarded => format!("; {discarded} discarded, see `daymend runs show {run_id}`"),
    };
    let cancelled = match progress.cancelled {
        0 => String::new(),
        cancelled => format!("; {cancelled} cancelled"),
    };
    format!("run {run_id} {}: {} days, {rows}{failed}{cancelled}", state.name(), progress.completed)
}
