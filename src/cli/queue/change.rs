//! `daymend queue retry`, `cancel`, `pause`, `resume`, `prune`.

use std::{process::ExitCode, time::Duration};

use clap::Args;

use super::{ByArgs, FilterArgs};
use crate::{
    cli::{Exit, Global, historical_summary, print_json, usage},
    db::{Db, Mode},
    output::bar::Bar,
    queue::{
        JobKind,
        admin::{
            change::{self, Change},
            pause::{self, Target},
            prune,
        },
    },
    rollup::source,
};

/// How many runs are named at most.
const RUNS_SHOWN: usize = 50;

/// Which jobs to change.
#[derive(Debug, Args)]
pub(in crate::cli) struct ChangeArgs {
    #[command(flatten)]
    filter: FilterArgs,

    /// All jobs that the command applies to; required if no filter is given
    #[arg(long)]
    all: bool,

    /// Only print how many jobs of which runs would be changed
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    by: ByArgs,
}

impl ChangeArgs {
    pub(super) async fn run(self, global: &Global, db: &Db, change: Change) -> anyhow::Result<ExitCode> {
        let who = self.by.who();
        let filter = self.filter.filter(db).await?;
        if filter.is_empty() && !self.all && !self.dry_run {
            return Err(usage("no filter given: select jobs (--run, --lab, --error …), or use --all"));
        }
        let runs = if self.dry_run {
            change::plan(db, change, &filter).await?
        } else {
            let mut bar = Bar::new("queue", "jobs");
            let changed = change::apply(db, change, &filter, &who, |jobs, total| bar.update(jobs, total)).await;
            bar.finish();
            changed?
        };
        let verb = match (change, self.dry_run) {
            (Change::Retry { .. }, true) => "would be retried",
            (Change::Retry { .. }, false) => "will be tried again",
            (Change::Cancel, true) => "would be cancelled",
            (Change::Cancel, false) => "cancelled",
        };
        print_touched(global, &runs, verb, self.dry_run)
    }
}

fn print_touched(global: &Global, runs: &[(i64, u64)], verb: &str, dry_run: bool) -> anyhow::Result<ExitCode> {
    let total: u64 = runs.iter().map(|(_, jobs)| jobs).sum();
    if global.json {
        let list: Vec<_> = runs.iter().map(|(run, jobs)| serde_json::json!({ "run": run, "jobs": jobs })).collect();
        print_json(&serde_json::json!({ "jobs": total, "runs": list, "dry_run": dry_run }))?;
        return Ok(Exit::Ok.into());
    }
    for (run, jobs) in runs.iter().take(RUNS_SHOWN) {
        println!("run {run}: {jobs} job(s) {verb}");
    }
    if runs.len() > RUNS_SHOWN {
        println!("… and {} more run(s); --json lists all", runs.len() - RUNS_SHOWN);
    }
    println!("{total} job(s) of {} run(s) {verb}", runs.len());
    Ok(Exit::Ok.into())
}

/// What to pause or resume.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub(in crate::cli) struct PauseArgs {
    /// All jobs of this kind
    #[arg(group = "what", value_name = "KIND")]
    kind: Option<JobKind>,

    /// All jobs of this lab
    #[arg(long, group = "what", value_name = "ID")]
    lab: Option<i64>,

    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    by: ByArgs,
}

impl PauseArgs {
    fn target(&self) -> anyhow::Result<(Target, String)> {
        match (self.kind, self.lab) {
            (Some(kind), _) => Ok((Target::Kind(kind), format!("{kind} jobs"))),
            (None, Some(lab)) => Ok((Target::Lab(lab), format!("lab {lab}"))),
            (None, None) => Err(usage("a kind or --lab is needed")),
        }
    }

    pub(super) async fn pause(self, global: &Global, db: &Db) -> anyhow::Result<ExitCode> {
        let (target, name) = self.target()?;
        let was = pause::is_paused(db, target).await?;
        if let (Target::Lab(lab), false) = (target, was) {
            require_lab(global, db, lab).await?;
        }
        let text = match (was, self.dry_run) {
            (true, _) => format!("{name}: paused already"),
            (false, true) => format!("{name}: would be paused"),
            (false, false) => {
                pause::pause(db, target, &self.by.who()).await?;
                format!("{name}: paused; jobs that are running finish")
            }
        };
        print_message(global, &text, !was, self.dry_run)
    }

    pub(super) async fn resume(self, global: &Global, db: &Db) -> anyhow::Result<ExitCode> {
        let (target, name) = self.target()?;
        // Jobs may be set aside even if the target is not paused: only trying to resume it tells.
        let (text, changes) = if self.dry_run {
            let is_paused = pause::is_paused(db, target).await?;
            (if is_paused { "would be resumed" } else { "not paused" }, is_paused)
        } else {
            let resumed = pause::resume(db, target, &self.by.who()).await?.is_some();
            (if resumed { "resumed" } else { "not paused" }, resumed)
        };
        print_message(global, &format!("{name}: {text}"), changes, self.dry_run)
    }
}

/// Rejects a lab that does not exist. A lab that is gone can still be resumed.
async fn require_lab(global: &Global, db: &Db, lab: i64) -> anyhow::Result<()> {
    let rollups = global.rollups()?;
    let mut tx = db.begin(Mode::Snapshot).await?;
    let found = source::lab(&mut tx, historical_summary(&rollups)?, lab).await?;
    tx.commit().await?;
    found.map(drop).ok_or_else(|| usage(format!("lab {lab} does not exist")))
}

/// Prints what was done, or, in a dry run, what would be done.
fn print_message(global: &Global, text: &str, changed: bool, dry_run: bool) -> anyhow::Result<ExitCode> {
    if global.json {
        print_json(&serde_json::json!({ "message": text, "changed": changed, "dry_run": dry_run }))?;
    } else {
        println!("{text}");
    }
    Ok(Exit::Ok.into())
}

/// What to delete.
#[derive(Debug, Args)]
pub(in crate::cli) struct PruneArgs {
    /// Delete jobs of runs that closed longer ago than this, such as 30d
    #[arg(long, required = true, value_name = "TIME", value_parser = humantime::parse_duration)]
    older_than: Duration,

    #[command(flatten)]
    filter: FilterArgs,

    /// Only print how many jobs of which runs would be deleted
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    by: ByArgs,
}

impl PruneArgs {
    pub(super) async fn run(self, global: &Global, db: &Db) -> anyhow::Result<ExitCode> {
        let who = self.by.who();
        let filter = self.filter.filter(db).await?;
        let planned = prune::plan(db, &filter, self.older_than).await?;
        if self.dry_run {
            return print_touched(global, &planned, "would be deleted", true);
        }
        let total = planned.iter().map(|(_, jobs)| jobs).sum();
        let mut bar = Bar::new("queue", "jobs");
        let pruned = prune::prune(db, &filter, self.older_than, &who, |jobs| bar.update(jobs, total)).await;
        bar.finish();
        print_touched(global, &pruned?, "deleted", false)
    }
}
