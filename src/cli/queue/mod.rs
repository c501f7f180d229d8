//! `daymend queue`: inspecting and changing the queue.

mod change;
mod show;

use std::process::ExitCode;

use chrono::NaiveDate;
use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use super::{Global, calendar_day, check_order, runs::no_such_run, who};
use crate::{
    db::{Db, Mode},
    queue::{JobKind, JobState, admin::filter::Filter},
    runs,
};

/// Inspects and changes the queue.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show jobs by kind and state, the rate, workers, and what is paused
    Stats,
    /// List jobs
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// How many jobs to list at most
        #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show one job with every attempt
    Show {
        /// The job's id
        id: i64,
    },
    /// Make discarded jobs available again, with fresh attempts; their runs re-open. With --now and no time, also
    /// retry jobs that are waiting for another attempt
    Retry(change::ChangeArgs),
    /// Cancel open jobs
    Cancel(change::ChangeArgs),
    /// Stop claiming jobs of a kind, or of a lab, until they are resumed
    Pause(change::PauseArgs),
    /// Claim jobs of a paused kind or lab again
    Resume(change::PauseArgs),
    /// Delete jobs that ended long ago, and the remains of their runs
    Prune(change::PruneArgs),
    /// Show what was done to the queue, and by whom
    Log {
        /// How many entries to show at most
        #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
}

impl Command {
    /// Whether this is the one command that accepts `--now` without a time.
    pub(super) fn takes_bare_now(&self) -> bool {
        matches!(self, Self::Retry(_))
    }

    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        if self.takes_bare_now() && global.now.is_some() && !global.is_bare_now() {
            global.warn("queue retry uses the database's clock: to retry at once, give --now without a time");
        }
        let db = global.connect(4).await?;
        match self {
            Self::Stats => show::stats(global, &db).await,
            Self::List { filter, limit } => show::list(global, &db, &filter.filter(&db).await?, limit).await,
            Self::Show { id } => show::show(global, &db, id).await,
            Self::Retry(args) => {
                let change = crate::queue::admin::change::Change::Retry { backing_off: global.is_bare_now() };
                args.run(global, &db, change).await
            }
            Self::Cancel(args) => args.run(global, &db, crate::queue::admin::change::Change::Cancel).await,
            Self::Pause(args) => args.pause(global, &db).await,
            Self::Resume(args) => args.resume(global, &db).await,
            Self::Prune(args) => args.run(global, &db).await,
            Self::Log { limit } => show::log(global, &db, limit).await,
        }
    }
}

/// Selects jobs; a job has to match every filter that is given.
#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// Jobs of this run
    #[arg(long, value_name = "ID")]
    run: Option<i64>,

    /// Jobs of these labs, such as 1,2 (may be repeated)
    #[arg(long, value_delimiter = ',', value_name = "ID")]
    lab: Vec<i64>,

    /// Jobs for this day or a later one
    #[arg(long, value_name = "DAY", value_parser = calendar_day)]
    from: Option<NaiveDate>,

    /// Jobs for this day or an earlier one
    #[arg(long, value_name = "DAY", value_parser = calendar_day)]
    to: Option<NaiveDate>,

    /// Jobs in this state
    #[arg(long, value_name = "STATE")]
    state: Option<JobState>,

    /// Jobs of this kind
    #[arg(long, value_name = "KIND")]
    kind: Option<JobKind>,

    /// Jobs whose error contains this text
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    error: Option<String>,
}

impl FilterArgs {
    /// The filter; a run that it names has to exist.
    async fn filter(self, db: &Db) -> anyhow::Result<Filter> {
        check_order("--from", self.from, self.to)?;
        if let Some(run) = self.run {
            let mut tx = db.begin(Mode::Snapshot).await?;
            let found = runs::get(&mut tx, run).await?;
            tx.commit().await?;
            found.ok_or_else(|| no_such_run(run))?;
        }
        let Self { run, lab: labs, from, to, state, kind, error } = self;
        Ok(Filter { run, labs, from, to, state, kind, error })
    }
}

/// Who makes the change, for the admin log.
#[derive(Debug, Args)]
pub(super) struct ByArgs {
    /// Who makes the change, for the admin log; the OS user by default
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl ByArgs {
    pub(super) fn who(&self) -> String {
        self.by.clone().unwrap_or_else(who)
    }
}
