//! `daymend runs`.

use std::process::ExitCode;

use clap::Subcommand;

use super::{Exit, Global, follow, print_json, queue::ByArgs, usage};
use crate::{
    db::{Db, Mode},
    output::{
        bar::Bar,
        table::{or_dash, table, time},
    },
    queue::admin::change,
    runs::{self, Discarded, Progress, Run, RunState, Which},
};

/// How many discarded jobs `show` lists.
const DISCARDED_SHOWN: u32 = 20;

/// Shows, follows and cancels runs.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the latest runs
    List {
        /// How many runs to list
        #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        #[command(flatten)]
        which: Which,
    },
    /// Show one run, its progress and its discarded jobs
    Show {
        /// The run's id
        id: i64,
    },
    /// Follow a run until it ends, and exit with its result
    Watch {
        /// The run's id
        id: i64,
    },
    /// Cancel a run: its open jobs will not run
    Cancel {
        /// The run's id
        id: i64,
        /// Only print how many jobs would be cancelled
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        by: ByArgs,
    },
}

impl Command {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let db = global.connect(4).await?;
        match self {
            Self::List { limit, which } => list(global, &db, which, limit).await,
            Self::Show { id } => show(global, &db, id).await,
            Self::Watch { id } => {
                read(&db, id).await?;
                Ok(follow::follow_all(global, &db, &[id], serde_json::json!({})).await?.into())
            }
            Self::Cancel { id, dry_run, by } => cancel(global, &db, id, (!dry_run).then(|| by.who())).await,
        }
    }
}

/// The error for a run that does not exist.
pub(super) fn no_such_run(id: i64) -> anyhow::Error {
    usage(format!("run {id} does not exist: see `daymend runs list`"))
}

async fn read(db: &Db, id: i64) -> anyhow::Result<(Run, Progress, Vec<Discarded>)> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let run = runs::get(&mut tx, id).await?.ok_or_else(|| no_such_run(id))?;
    let progress = runs::progress(&mut tx, id).await?;
    let discarded = runs::discarded(&mut tx, id, DISCARDED_SHOWN).await?;
    tx.commit().await?;
    Ok((run, progress, discarded))
}

async fn list(global: &Global, db: &Db, which: Which, limit: u32) -> anyhow::Result<ExitCode> {
    let runs = runs::list(db, which, limit).await?;
    let mut tx = db.begin(Mode::Snapshot).await?;
    let mut with_progress = Vec::new();
    for run in runs {
        let progress = runs::progress(&mut tx, run.id).await?;
        with_progress.push((run, progress));
    }
    tx.commit().await?;
    if global.json {
        let list: Vec<_> = with_progress
            .iter()
            .map(|(run, progress)| serde_json::json!({ "run": run, "progress": progress }))
            .collect();
        print_json(&list)?;
        return Ok(Exit::Ok.into());
    }
    let mut table = table(&[">run", "state", ">days", ">failed", ">rows written", "started (UTC)", ">took", "~reason"]);
    for (run, progress) in &with_progress {
        table.add_row([
            run.id.to_string(),
            run.state.name().to_owned(),
            format!("{}/{}", progress.completed, progress.total()),
            progress.discarded.to_string(),
            progress.rows().to_string(),
            time(run.created_at),
            took(run),
            run.reason.clone(),
        ]);
    }
    if with_progress.is_empty() {
        println!("{}", if which == Which::default() { "no run yet" } else { "no such run" });
    } else {
        println!("{table}");
    }
    Ok(Exit::Ok.into())
}

fn took(run: &Run) -> String {
    or_dash(run.finished_at.map(|end| {
        let seconds = (end - run.created_at).num_milliseconds().max(0) as f64 / 1000.0;
        format!("{seconds:.1} s")
    }))
}

async fn show(global: &Global, db: &Db, id: i64) -> anyhow::Result<ExitCode> {
    let (run, progress, discarded) = read(db, id).await?;
    if global.json {
        print_json(&serde_json::json!({ "run": run, "progress": progress, "discarded": discarded }))?;
        return Ok(Exit::Ok.into());
    }
    let days = match (run.first_day, run.last_day) {
        (Some(first), Some(last)) => crate::calendar::span(first, last),
        _ => "-".to_owned(),
    };
    println!("run {}: {}", run.id, run.reason);
    println!("  state         {}", run.state.name());
    println!("  kind          {}", run.kind);
    println!("  requested by  {}", run.requested_by);
    println!("  days          {days}");
    println!("  started       {} UTC", time(run.created_at));
    println!("  took          {}", took(&run));
    println!(
        "  jobs          {} waiting, {} running, {} completed, {} discarded, {} cancelled",
        progress.available, progress.running, progress.completed, progress.discarded, progress.cancelled
    );
    println!(
        "  rows written  {} ({} inserted, {} updated, {} deleted)",
        progress.rows(),
        progress.rows_inserted,
        progress.rows_updated,
        progress.rows_deleted
    );
    if !discarded.is_empty() {
        let mut table = table(&[">job", ">lab", "day", "~error"]);
        for job in &discarded {
            table.add_row([
                job.job_id.to_string(),
                job.lab_id.to_string(),
                job.day.to_string(),
                or_dash(job.error.as_ref()),
            ]);
        }
        println!("discarded jobs (the first {DISCARDED_SHOWN} at most):\n{table}");
    }
    Ok(Exit::Ok.into())
}

/// Cancels a run on behalf of `who`; with `None`, only reports how many jobs would be cancelled.
async fn cancel(global: &Global, db: &Db, id: i64, who: Option<String>) -> anyhow::Result<ExitCode> {
    let (run, progress, _) = read(db, id).await?;
    let (jobs, state, verb) = match &who {
        None => (progress.open(), run.state, "would be cancelled"),
        Some(who) => {
            let mut bar = Bar::new(format!("run {id}"), "jobs");
            let cancelled = change::cancel_run(db, id, who, |jobs| bar.update(jobs, progress.open())).await;
            bar.finish();
            match cancelled? {
                Some(jobs) => (jobs, RunState::Cancelled, "cancelled"),
                None => {
                    // It may have ended since it was read.
                    let (run, ..) = read(db, id).await?;
                    if !global.json {
                        println!("run {id} is {} already: nothing to cancel", run.state.name());
                        return Ok(Exit::Ok.into());
                    }
                    (0, run.state, "cancelled")
                }
            }
        }
    };
    if global.json {
        print_json(&serde_json::json!({ "run": id, "jobs": jobs, "state": state, "dry_run": who.is_none() }))?;
    } else {
        println!("run {id}: {jobs} open job(s) {verb}");
    }
    Ok(Exit::Ok.into())
}
