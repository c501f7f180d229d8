//! The commands: one file each, which reads its arguments, calls the library, and prints.
//!
//! Results go to standard output, everything else to standard error. An error is one line
//! that says what, where and what to do; the exit code says which kind it is ([`Exit`]).

#![expect(clippy::print_stdout, reason = "commands print")]

mod audit;
mod bench;
mod completions;
mod connect;
mod demo;
mod doctor;
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

use std::{ffi::OsStr, fmt::Display, os::unix::fs::MetadataExt as _, path::PathBuf, process::ExitCode};

use chrono::{DateTime, Datelike as _, NaiveDate, TimeDelta, Utc};
use clap::{
    ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum, parser::ValueSource,
};

use crate::{
    clock::Clock,
    db::{Db, DbError, Kind, migrate::SchemaError},
    error::{UsageError, chain, database_error, usage},
    output::{self, page::has_colour, say},
    rollup::{HISTORICAL_SUMMARY, Rollup, Rollups},
};

/// What the exit code of a command means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked.
    Ok = 0,
    /// A run failed or was cancelled, jobs were discarded, or something unexpected happened.
    Failed = 1,
    /// The input was wrong (an option, a lab, a day), and nothing was done; or the database lacks a table, a column
    /// or a right, which may show half-way.
    Usage = 2,
    /// Something is wrong with what is stored, or will be: an audit found drift, the doctor warns, a
    /// snapshot differs, or a restore leaves rows for a person to decide.
    Drift = 3,
    /// The database cannot be reached.
    Unavailable = 4,
    /// The database's schema does not fit this binary: run `daymend migrate`.
    Schema = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Keeps the lab system's historical summary true: one retriable job a lab and day.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// The database: mysql://user:password@host/database (add ?ssl-mode=VERIFY_IDENTITY&ssl-ca=FILE
    /// for TLS), or sqlite:FILE
    #[arg(long, global = true, env = "DAYMEND_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,

    /// Read rollup definitions from this directory instead of the compiled-in ones
    #[arg(long, global = true, env = "DAYMEND_JOBS_DIR", value_name = "DIR")]
    jobs_dir: Option<PathBuf>,

    /// What the scheduler and the ad-hoc commands take for the present (RFC 3339), for tests, dry
    /// runs and post-mortems
    #[arg(long, global = true, value_name = "TIME", num_args = 0..=1, require_equals = false,
          default_missing_value = "", value_parser = now)]
    now: Option<Now>,

    /// Print results as JSON
    #[arg(long, global = true)]
    json: bool,

    /// How log lines on standard error look
    #[arg(long, global = true, env = "DAYMEND_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    log_format: LogFormat,

    /// What to log, such as warn, debug, or daymend=debug,sqlx=info
    #[arg(long, global = true, env = "RUST_LOG", value_name = "FILTER")]
    log: Option<String>,
}

/// How far `--now` may be ahead of the database's clock before that is worth a word.
const AHEAD_MAX: TimeDelta = TimeDelta::days(1);

/// What `--now` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Now {
    /// A moment to take for the present.
    At(DateTime<Utc>),
    /// No moment: for `queue retry`, at once.
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
            .ok_or_else(|| "expected a moment as RFC 3339 has it, such as 2026-03-16T04:00:00Z".to_owned()),
    }
}

/// A moment that a DATETIME can hold in every time zone: chrono's own range goes further, and
/// panics at its ends.
fn in_range(at: DateTime<Utc>) -> Option<DateTime<Utc>> {
    (1970..9999).contains(&at.year()).then_some(at)
}

/// A day as people write it. The databases know none before the year 1 or after 9999.
fn calendar_day(text: &str) -> Result<NaiveDate, String> {
    let day: NaiveDate = text.parse().map_err(|_| "expected a day such as 2026-03-15".to_owned())?;
    if (1..=9999).contains(&day.year()) { Ok(day) } else { Err("its year is not between 1 and 9999".to_owned()) }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// For machines: one object a line.
    Json,
}

impl LogFormat {
    /// Says why a command ends: on a line of its own, or in the log where that is JSON.
    fn error(self, what: impl Display) {
        match self {
            Self::Text => say!("error: {what}"),
            Self::Json => tracing::error!("{what}"),
        }
    }

    /// Says beside the result what is not as it should be.
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
    Migrate(migrate::Options),
    /// Run the scheduler and a worker in one process
    Serve(service::ServeOptions),
    /// Enqueue what is due: nightly runs, migration records; close runs
    Scheduler(service::SchedulerOptions),
    /// Work the queue off
    Worker(service::WorkerOptions),
    /// Say which stored rows differ from their source, and why; write nothing
    Audit(audit::Options),
    /// Recompute some calendar days of labs
    Repair(repair::Options),
    /// Recompute the whole history of labs, through the migration queue
    Rebuild(rebuild::Options),
    /// Show, follow and cancel runs
    #[command(subcommand)]
    Runs(runs::Command),
    /// Look at the queue, retry, cancel, pause and prune jobs
    #[command(subcommand)]
    Queue(queue::Command),
    /// Say what is wrong with this site, and what to do about it
    Doctor(doctor::Options),
    /// Take, show, check and prune snapshots of the source's tables
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    /// Show and check rollup definitions
    #[command(subcommand)]
    Rollups(rollups::Command),
    /// Mark late changes by triggers, so that they are repaired within seconds
    #[command(subcommand)]
    Triggers(triggers::Command),
    /// Measure the queue on a scratch database
    #[command(subcommand)]
    Bench(bench::Command),
    /// Watch it repair and rebuild made-up labs in a fresh SQLite file
    Demo(demo::Options),
    /// Print a completion script for a shell
    Completions(completions::Options),
}

impl Command {
    /// Whether it finishes what has begun when a signal comes; all others just end.
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
        cli.global.warn(format_args!("{option} does nothing without --wait: the scheduler's own decides"));
    }
    log_panics();
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

/// The first of some options, (id, name), that is on the command line. What is in the environment is for other
/// commands.
fn given(matches: &ArgMatches, options: &[(&str, &'static str)]) -> Option<&'static str> {
    let is_given = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
    options.iter().find(|(id, _)| is_given(id)).map(|(_, option)| *option)
}

/// Why an option is refused: its command would take no notice of it.
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

/// An option of `rebuild` that is for those who wait.
fn idle_option(matches: &ArgMatches) -> Option<&'static str> {
    let (_, rebuild) = matches.subcommand().filter(|(name, _)| *name == "rebuild")?;
    let options = [("max_shrink", "--max-shrink"), ("attempts", "--attempts")];
    given(rebuild, &options).filter(|_| !rebuild.get_flag("wait"))
}

/// The same, where an environment variable that is empty counts as one that is not set.
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
        if let Some(SchemaError::Behind { .. } | SchemaError::Ahead { .. }) = cause.downcast_ref() {
            return Exit::Schema;
        }
    }
    match database_error(error).map(|error| error.kind) {
        Some(Kind::Unavailable) => Exit::Unavailable,
        Some(Kind::Definition) => Exit::Usage,
        Some(Kind::Conflict | Kind::Other) | None => Exit::Failed,
    }
}

fn init_log(format: LogFormat, wanted: Option<&str>, is_service: bool) {
    use tracing_subscriber::{EnvFilter, fmt};
    let default = if is_service { "info,apalis_core=warn" } else { "warn" };
    let filter = EnvFilter::try_new(wanted.unwrap_or(default));
    let wrong = filter.as_ref().err().map(ToString::to_string);
    let filter = filter.unwrap_or_else(|_| EnvFilter::new(default));
    // Where a line cannot be written there is nowhere to complain about it, either.
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

/// A panic is one line of the log like other errors; whoever catches it says what follows. But print
/// panics where it cannot write: then the command ends with 1, and says why unless the reader has just
/// seen enough (`daymend queue list | head`).
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.to_string().replace('\n', " ");
        if let Some((_, why)) = text.split_once("failed printing to stdout: ") {
            if !why.starts_with("Broken pipe") {
                say!("error: cannot write the result: {why}");
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

    /// Says beside the result what is not as it should be: on a line of its own, or in the log where that is JSON.
    fn warn(&self, what: impl Display) {
        self.log_format.warn(what);
    }

    /// Says before something is changed that days may count as closed that go on.
    async fn warn_of_future(&self, db: &Db) -> Result<(), DbError> {
        let Clock::Fixed(at) = self.clock() else { return Ok(()) };
        let ahead = at - db.database_now().await?;
        if ahead > AHEAD_MAX {
            let days = ahead.num_days();
            self.warn(format_args!(
                "--now is {days} day(s) ahead of the database's clock: days that go on count as over"
            ));
        }
        Ok(())
    }

    fn is_bare_now(&self) -> bool {
        self.now == Some(Now::Bare)
    }
}

/// Refuses a range of days that ends before it begins; `begin` is the option that begins it.
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

/// Who runs this command, for the audit trail.
fn who() -> String {
    let variable = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let name = ["DAYMEND_USER", "SUDO_USER", "USER", "LOGNAME"].iter().find_map(variable);
    name.or_else(os_user).unwrap_or_else(|| "unknown".to_owned())
}

/// The OS user, whom containers and cron name in no variable: by name, or as `uid 1000`. None where there is
/// no /proc.
fn os_user() -> Option<String> {
    let uid = std::fs::metadata("/proc/self").ok()?.uid();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    Some(user_name(&users, uid).map_or_else(|| format!("uid {uid}"), ToOwned::to_owned))
}

/// The name of a user in /etc/passwd (`name:password:uid:…`).
fn user_name(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
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
    fn a_user_is_found_by_the_uid_and_by_no_other_number() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\n:x:7:7::/:/bin/sh\nlab:x:1000:0::/home/lab:/bin/sh\n";
        assert_eq!([0, 1000, 7, 10].map(|uid| user_name(users, uid)), [Some("root"), Some("lab"), None, None]);
    }

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
