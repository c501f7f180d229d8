//! Following runs to their end: a bar on a terminal, plain lines otherwise.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use super::{Exit, Global, print_json};
use crate::{
    db::{Backoff, Db, DbError, Kind, Mode},
    error::chain,
    output::{bar::Bar, say},
    queue::lease,
    runs::{self, Progress, RunState},
    scheduler,
};

/// How often a run is looked at.
const POLL: Duration = Duration::from_millis(200);

/// Follows a run until it has ended, closing it where no scheduler does; how it ended.
pub(super) async fn follow(db: &Db, run_id: i64) -> anyhow::Result<(RunState, Progress)> {
    let mut bar = Bar::new(format!("run {run_id}"));
    let begun = Instant::now();
    let mut warned = false;
    let mut failures = 0;
    loop {
        match look(db, run_id).await {
            Ok((RunState::Running, progress)) => {
                failures = 0;
                bar.update(progress.ended(), progress.total(), progress.discarded);
                if progress.open() > 0
                    && !warned
                    && begun.elapsed() > POLL * 10
                    && lease::workers_alive(db).await.is_ok_and(|alive| alive == 0)
                {
                    warned = true;
                    say!("no worker is alive: start `daymend worker` or `daymend serve`");
                }
            }
            Ok((state, progress)) => {
                bar.finish();
                return Ok((state, progress));
            }
            Err(error) if error.kind == Kind::Unavailable => {
                failures += 1;
                let wait = Backoff::UNAVAILABLE.wait(failures);
                tracing::warn!(error = %chain(&error), ?wait, "the database does not answer, waiting");
                tokio::time::sleep(wait).await;
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Where a run stands; one whose jobs have all ended is closed.
async fn look(db: &Db, run_id: i64) -> Result<(RunState, Progress), DbError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let state = runs::get(&mut tx, run_id).await?.map_or(RunState::Cancelled, |run| run.state);
    let progress = runs::progress(&mut tx, run_id).await?;
    tx.commit().await?;
    if state == RunState::Running && progress.open() == 0 {
        scheduler::close_runs(db, &mut scheduler::Report::default()).await?;
    }
    Ok((state, progress))
}

/// Follows runs one after the other, and prints how each ended.
pub(super) async fn follow_all(global: &Global, db: &Db, run_ids: &[i64]) -> anyhow::Result<ExitCode> {
    let mut exit = Exit::Ok;
    let mut ended = Vec::new();
    for run_id in run_ids {
        let (state, progress) = follow(db, *run_id).await?;
        if state != RunState::Completed {
            exit = Exit::Failed;
        }
        if global.json {
            ended.push(serde_json::json!({ "run": run_id, "state": state, "progress": progress }));
        } else {
            println!("{}", summary(*run_id, state, &progress));
        }
    }
    if global.json {
        print_json(&ended)?;
    }
    Ok(exit.into())
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
