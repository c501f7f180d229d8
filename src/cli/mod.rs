//! The commands, one file each: a command reads its arguments, calls the library, and prints.
//!
//! Results go to standard output, everything else to standard error. An error is one line that says what went wrong,
//! where, and what to do; the exit code tells its kind ([`Exit`]).

#![expect(clippy::print_stdout, reason = "commands print")]

mod audit;
mod bench;
mod completions;
mod connect;
mod demo;
mod doctor;
mod environment;
mod follow;
mod migrate;
mod process;
mod queue;
mod rebuild;
mod refused;
mod repair;
mod rollups;
mod runs;
mod service;
mod snapshot;
mod triggers;
mod who;

use std::{ffi::OsStr, fmt::Display, path::PathBuf, process::ExitCode};

use chrono::{DateTime, Datelike as _, NaiveDate, TimeDelta, Utc};
use clap::{
    ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum, parser::ValueSource,
};

use crate::{
    clock::Clock,
    db::{
        Db, DbError, ErrorKind,
        migrate::{Incomplete, SchemaError},
    },
    error::{UsageError, chain, usage},
    output::{self, page::has_colour, say},
    rollup::{HISTORICAL_SUMMARY, Rollup, Rollups},
    snapshot::database_error,
};
use who::who;

/// Meaning of a command's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The command did what was asked.
    Ok = 0,
    /// A run failed or was cancelled, jobs were discarded, or something unexpected happened.
    Failed = 1,
    /// The input was wrong (an option, a lab, a day), and nothing was done; or the database lacks a table, a column
    /// or a privilege, which may only show half-way.
    Usage = 2,
    /// Something that is stored is wrong, or will be: an audit found drift, the doctor warns, a snapshot differs, a
    /// restore leaves rows for a person to decide, or a repair left out labs.
    Drift = 3,
    /// The database cannot be reached.
    Unavailable = 4,
    /// The database schema does not match this binary: run `daymend migrate`.
    Schema = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Keeps the lab system's historical summary true: one retriable job per lab and day.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options common to all commands.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// The database: mysql://user:password@host/database (add ?ssl-mode=VERIFY_IDENTITY&ssl-ca=FILE
    /// for TLS), or sqlite:FILE
    #[arg(long, global = true, env = "DAYMEND_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,

    /// Read rollup definitions from this directory instead of the built-in ones
    #[arg(long, global = true, env = "DAYMEND_JOBS_DIR", value_name = "DIR")]
    jobs_dir: Option<PathBuf>,

    /// Time that the scheduler and the ad-hoc commands take as the present (RFC 3339): for tests, dry runs and
    /// post-mortems
    #[arg(long, global = true, value_name = "TIME", num_args = 0..=1, require_equals = false,
          default_missing_value = "", value_parser = now)]
    now: Option<Now>,

    /// Print results as JSON
    #[arg(long, global = true)]
    json: bool,

    /// Format of log lines on standard error
    #[arg(long, global = true, env = "DAYMEND_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    log_format: LogFormat,

    /// What to log, such as warn, debug, or daymend=debug,sqlx=info
    #[arg(long, global = true, env = "RUST_LOG", value_name = "FILTER")]
    log: Option<String>,
}

/// How far `--now` may be ahead of the database's clock without a warning.
const AHEAD_MAX: TimeDelta = TimeDelta::days(1);

/// The value of `--now`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Now {
    /// The time to take as the present.
    At(DateTime<Utc>),
    /// No time given: for `queue retry`, at once.
    Bare,
}

fn now(text: &str) -> Result<Now, String> {
    match text {
        "" => Ok(Now::Bare),
        text => text
            .parse()
            .ok()
            .and_then(in_range)
            .map(Now::At)
            .ok_or_else(|| "expected an RFC 3339 time such as 2026-03-16T04:00:00Z".to_owned()),
    }
}

/// A moment that a DATETIME can hold in every time zone: chrono's own range is larger, and panics at its ends.
fn in_range(at: DateTime<Utc>) -> Option<DateTime<Utc>> {
    (1970..9999).contains(&at.year()).then_some(at)
}

/// A day as people write it. The databases accept only years 1 to 9999.
fn calendar_day(text: &str) -> Result<NaiveDate, String> {
    let day: NaiveDate = text.parse().map_err(|_| "expected a day such as 2026-03-15".to_owned())?;
    if (1..=9999).contains(&day.year()) { Ok(day) } else { Err("its year is not between 1 and 9999".to_owned()) }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    /// Human-readable text.
    Text,
    /// JSON, one object per line.
    Json,
}

impl LogFormat {
    /// Reports why the command ends: on a line of its own, or in the log if that is JSON.
    fn error(self, what: impl Display) {
        match self {
            Self::Text => say!("error: {what}"),
            Self::Json => tracing::error!("{what}"),
        }
    }

    /// Reports a problem next to the result.
    fn warn(self, what: impl Display) {
        match self {
            Self::Text => say!("warning: {what}"),
            Self::Json => tracing::warn!("{what}"),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create or update daymend's own tables
    ///
    /// Only tables named daymend_… are created or altered; the lab system's three output tables are created if they
    /// do not exist. A missing SQLite file is created.
    Migrate(migrate::Options),
    /// Run the scheduler and a worker in one process
    Serve(service::ServeOptions),
    /// Enqueue what is due (nightly runs, migration records) and close runs
    Scheduler(service::SchedulerOptions),
    /// Run jobs from the queue
    Worker(service::WorkerOptions),
    /// Report which stored rows differ from their source, and why; write nothing
    ///
    /// Exit codes: 0 every row equals its source; 3 some differ; 1 none differs, but some labs or days could not be
    /// compared; 2 there was no day to compare, and no lab that could not be.
    Audit(audit::Options),
    /// Recompute selected calendar days of labs
    Repair(repair::Options),
    /// Recompute the whole history of labs, through the migration queue
    ///
    /// Inserts a record into crelio_data_migrations for each lab, as the Support Dashboard does; the scheduler takes
    /// it within seconds. No day is emptied along the way.
    Rebuild(rebuild::Options),
    /// Show, follow and cancel runs
    #[command(subcommand)]
    Runs(runs::Command),
    /// Inspect the queue; retry, cancel, pause and prune jobs
    #[command(subcommand)]
    Queue(queue::Command),
    /// Report what is wrong with this site, and what to do about it
    ///
    /// Checks the server, its settings, the privileges of daymend's user, tables and indexes, the summary, labs, the
    /// queue and the lab system's records. It only reads, and finishes quickly even on a large database. Each finding
    /// is one line: how bad, where, what, and what to do.
    ///
    /// Exit codes: 0 nothing found, or notes only; 3 warnings; 1 errors; 2 the server has no such database, or the
    /// SQLite file is not a database or is read-only; 4 the database cannot be reached; 5 its schema does not match.
    /// 1 takes precedence over 3, and 5 over both.
    Doctor(doctor::Options),
    /// Take, compare, verify and prune snapshots of tables, and restore rows from them
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    /// Show and check rollup definitions
    #[command(subcommand)]
    Rollups(rollups::Command),
    /// Manage the triggers that mark late changes, so that these are repaired within seconds
    #[command(subcommand)]
    Triggers(triggers::Command),
    /// Measure the queue on a scratch database
    #[command(subcommand)]
    Bench(bench::Command),
    /// Repair and rebuild made-up labs in a fresh SQLite file, as a demonstration
    Demo(demo::Options),
    /// Print a completion script for a shell
    Completions(completions::Options),
}

impl Command {
    /// Whether the command finishes what it has begun when a signal arrives; all others just end.
    fn hears_signals(&self) -> bool {
        match self {
            Self::Serve(_) | Self::Worker(_) => true,
            Self::Scheduler(options) => !options.is_once(),
            _ => false,
        }
    }
}

/// Parses the arguments and runs the command.
#[must_use]
pub fn main() -> ExitCode {
    let matches =
        without_empty_variables(Cli::command()).try_get_matches().unwrap_or_else(|error| refused::end(&error));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| refused::end(&error));
    let is_service = matches!(cli.command, Command::Serve(_) | Command::Scheduler(_) | Command::Worker(_));
    init_log(cli.global.log_format, cli.global.log.as_deref(), is_service);
    if cli.global.is_bare_now() && !matches!(&cli.command, Command::Queue(command) if command.takes_bare_now()) {
        cli.global.log_format.error("--now needs a time, such as 2026-03-16T04:00:00Z");
        return Exit::Usage.into();
    }
    if let Some(why) = refused_option(&matches) {
        cli.global.log_format.error(why);
        return Exit::Usage.into();
    }
    if let Some(option) = idle_option(&matches) {
        cli.global.warn(format_args!("{option} has no effect without --wait: the scheduler's setting applies"));
    }
    if is_service {
        environment::warn_of_unknown(&Cli::command());
    }
    log_panics(cli.global.log_format);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            cli.global.log_format.error(format_args!("cannot start: {error}"));
            return Exit::Failed.into();
        }
    };
    let exit = runtime.block_on(async {
        let (global, hears_signals) = (&cli.global, cli.command.hears_signals());
        let run = run(cli.command, global);
        if hears_signals {
            return run.await;
        }
        tokio::select! {
            exit = run => exit,
            exit = process::signalled() => exit,
        }
    });
    // A recompute that hangs must not keep the process from ending.
    runtime.shutdown_background();
    exit.unwrap_or_else(|error| {
        let error = cli.global.explained(error);
        cli.global.log_format.error(chain(error.as_ref()));
        exit_of(&error).into()
    })
}

async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    match command {
        Command::Migrate(options) => options.run(global).await,
        Command::Serve(options) => options.run(global).await,
        Command::Scheduler(options) => options.run(global).await,
        Command::Worker(options) => options.run(global).await,
        Command::Audit(options) => options.run(global).await,
        Command::Repair(options) => options.run(global).await,
        Command::Rebuild(options) => options.run(global).await,
        Command::Runs(command) => command.run(global).await,
        Command::Queue(command) => command.run(global).await,
        Command::Doctor(options) => options.run(global).await,
        Command::Snapshot(command) => command.run(global).await,
        Command::Rollups(command) => command.run(global).await,
        Command::Triggers(command) => command.run(global).await,
        Command::Bench(command) => command.run(global).await,
        Command::Demo(options) => options.run().await,
        Command::Completions(options) => options.run(),
    }
}

/// The first of these options, given as (id, name), that is on the command line. Environment variables do not count:
/// they may be meant for other commands.
fn given(matches: &ArgMatches, options: &[(&str, &'static str)]) -> Option<&'static str> {
    let is_given = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
    options.iter().find(|(id, _)| is_given(id)).map(|(_, option)| *option)
}

/// Why an option is refused: its command would ignore it.
fn refused_option(matches: &ArgMatches) -> Option<String> {
    match matches.subcommand()? {
        ("demo", demo) => {
            let options =
                [("database_url", "--database-url"), ("jobs_dir", "--jobs-dir"), ("now", "--now"), ("json", "--json")];
            let option = given(demo, &options)?;
            Some(format!("demo takes no {option}: it makes a SQLite file of its own (--file), and prints a story"))
        }
        ("scheduler", scheduler) if scheduler.get_flag("once") => {
            let option = given(scheduler, &[("to", "--snapshot-to")])?;
            Some(format!("scheduler --once takes no snapshot: leave {option} out, and use `daymend snapshot take`"))
        }
        _ => None,
    }
}

/// An option of `rebuild` that has no effect without `--wait`.
fn idle_option(matches: &ArgMatches) -> Option<&'static str> {
    let (_, rebuild) = matches.subcommand().filter(|(name, _)| *name == "rebuild")?;
    let options = [("max_shrink", "--max-shrink"), ("attempts", "--attempts")];
    given(rebuild, &options).filter(|_| !rebuild.get_flag("wait"))
}

/// The command, with empty environment variables treated as unset.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(
            |arg| if arg.get_env().is_some_and(is_empty) { arg.env(clap::builder::Resettable::Reset) } else { arg },
        )
        .mut_subcommands(without_empty_variables)
}

fn exit_of(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if cause.is::<UsageError>() {
            return Exit::Usage;
        }
        let is_misfit = matches!(cause.downcast_ref(), Some(SchemaError::Behind { .. } | SchemaError::Ahead { .. }));
        if is_misfit || cause.is::<Incomplete>() {
            return Exit::Schema;
        }
    }
    match database_error(error).map(|error| error.kind) {
        Some(ErrorKind::Unavailable) => Exit::Unavailable,
        Some(ErrorKind::Definition) => Exit::Usage,
        Some(ErrorKind::Conflict | ErrorKind::Other) | None => Exit::Failed,
    }
}

fn init_log(format: LogFormat, wanted: Option<&str>, is_service: bool) {
    use tracing_subscriber::{EnvFilter, fmt};
    let default = if is_service { "info,apalis_core=warn" } else { "warn" };
    let filter = EnvFilter::try_new(wanted.unwrap_or(default));
    let wrong = filter.as_ref().err().map(ToString::to_string);
    let filter = filter.unwrap_or_else(|_| EnvFilter::new(default));
    // If a log line cannot be written, there is nowhere to report that either.
    let log = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).log_internal_errors(false);
    match format {
        LogFormat::Text => log.with_ansi(has_colour(&std::io::stderr())).init(),
        LogFormat::Json => {
            output::log_is_json();
            log.json().flatten_event(true).init();
        }
    }
    if let Some(wrong) = wrong {
        format.warn(format_args!("--log: {wrong}; logging {default}"));
    }
}

/// Logs a panic as one line, like other errors; the code that catches it reports the consequences. `print!` panics if
/// it cannot write: the command then exits with 1, and says why unless the reader has just closed the pipe (`daymend
/// queue list | head`).
fn log_panics(format: LogFormat) {
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.to_string().replace('\n', " ");
        if let Some((_, why)) = text.split_once("failed printing to stdout: ") {
            if !why.starts_with("Broken pipe") {
                format.error(format_args!("cannot write the result: {why}"));
            }
            std::process::exit(i32::from(Exit::Failed as u8));
        }
        tracing::error!("{text}");
    }));
}

impl Global {
    fn clock(&self) -> Clock {
        match self.now {
            Some(Now::At(at)) => Clock::Fixed(at),
            Some(Now::Bare) | None => Clock::System,
        }
    }

    /// Reports a problem next to the result: on a line of its own, or in the log if that is JSON.
    fn warn(&self, what: impl Display) {
        self.log_format.warn(what);
    }

    /// Warns, before anything is changed, that days which are not over yet may count as closed.
    async fn warn_of_future(&self, db: &Db) -> Result<(), DbError> {
        let Clock::Fixed(at) = self.clock() else { return Ok(()) };
        let ahead = at - db.database_now().await?;
        if ahead > AHEAD_MAX {
            let days = ahead.num_days();
            self.warn(format_args!(
                "--now is {days} day(s) ahead of the database's clock: days that are not over yet count as closed"
            ));
        }
        Ok(())
    }

    fn is_bare_now(&self) -> bool {
        self.now == Some(Now::Bare)
    }
}

/// Rejects a range of days that ends before it begins; `begin` is the option that gives its first day.
fn check_order(begin: &str, from: Option<NaiveDate>, to: Option<NaiveDate>) -> anyhow::Result<()> {
    match (from, to) {
        (Some(from), Some(to)) if to < from => Err(usage(format!("--to {to} is before {begin} {from}"))),
        _ => Ok(()),
    }
}

/// The rollup that nightly runs, repairs and migration records are about.
fn historical_summary(rollups: &Rollups) -> anyhow::Result<&Rollup> {
    rollups
        .get(HISTORICAL_SUMMARY)
        .ok_or_else(|| usage(format!("no rollup is named {HISTORICAL_SUMMARY}: see `daymend rollups list`")))
}

/// Prints a value for machines.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::SnapshotError;

    #[test]
    fn the_exit_code_is_that_of_the_database_error_wherever_it_is() {
        for (source, exit) in [
            (sqlx::Error::PoolTimedOut, Exit::Unavailable),
            (sqlx::Error::ColumnNotFound("id".to_owned()), Exit::Usage),
            (sqlx::Error::RowNotFound, Exit::Failed),
        ] {
            let error = DbError::new("a test", source);
            assert_eq!(exit_of(&anyhow::Error::from(SnapshotError::Database(error)).context("restoring")), exit);
        }
        assert_eq!(exit_of(&anyhow::anyhow!("something else")), Exit::Failed);
    }
}
