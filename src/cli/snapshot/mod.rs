//! `daymend snapshot`: taking consistent copies of tables, comparing them, and restoring rows from them.

mod diff;
mod follow_up;
mod list;
pub(super) mod prune;
mod restore;
mod take;
mod undo;
mod verify;

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};

use super::{
    Exit, Global, audit,
    connect::{connect_to, pool_to},
    follow, historical_summary, print_json,
    service::{AttemptsArgs, LimitArgs},
    usage, who,
};
use crate::{
    clock::Clock,
    db::Db,
    error::{chain, examples},
    rollup::Rollup,
    runs::records,
    snapshot::{self, Name, SnapshotError, Store},
};

/// Takes, shows, compares, verifies and prunes snapshots of tables, and restores rows from them.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Copy tables as they are at one moment, without blocking anyone
    Take(take::Options),
    /// List the snapshots, oldest first
    List(StoreArgs),
    /// Show one snapshot and its tables
    Show(list::Options),
    /// Read snapshots back and check every hash; exits with 1 if one is damaged
    Verify(verify::Options),
    /// Remove snapshots that are not to be kept, and what interrupted takes left behind
    Prune(prune::Options),
    /// Report which rows vanished, were added or changed between snapshots, or since one
    ///
    /// Given several snapshots, each is compared with the next, which shows between which two of them a row vanished.
    /// A table that the next snapshot does not have is compared with the first one that has it. Exits with 3 if
    /// anything differs.
    Diff(diff::Options),
    /// Restore rows that have vanished, and no others
    ///
    /// Without --apply it only reports what it would do, and saves the map of re-created rows. Exits with 3 if
    /// something would be done, or was left for a person to decide.
    ///
    /// daymend's run-time user must not write the lab system's tables, and cannot run this: use the --database-url of
    /// an operator who may SELECT, INSERT, UPDATE and DELETE in them.
    Restore(restore::Options),
    /// Undo a restore: remove the rows that it inserted
    ///
    /// A row that has been changed since, or that other rows refer to by now, stays and is reported; the command then
    /// exits with 3. Once every row has been removed, FILE is renamed to FILE.undone. Needs the same user as the
    /// restore did.
    Undo(undo::Options),
}

impl Command {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            Self::Take(options) => options.run(global).await,
            Self::List(options) => list::list(global, &options).await,
            Self::Show(options) => options.run(global).await,
            Self::Verify(options) => options.run(global).await,
            Self::Prune(options) => options.run(global).await,
            Self::Diff(options) => options.run(global).await,
            Self::Restore(options) => options.run(global).await,
            Self::Undo(options) => options.run(global).await,
        }
    }
}

/// Where snapshots are stored.
#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    /// Where snapshots are stored: a directory, or s3://BUCKET/PREFIX (endpoint, region and credentials as AWS_… in
    /// the environment)
    #[arg(long = "store", visible_alias = "to", env = "DAYMEND_SNAPSHOT_STORE", value_name = "PLACE")]
    place: Option<String>,
}

impl StoreArgs {
    pub(super) fn store(&self) -> anyhow::Result<Store> {
        let place = self
            .place
            .as_deref()
            .ok_or_else(|| usage("no place for snapshots is given: use --to or --store, or DAYMEND_SNAPSHOT_STORE"))?;
        store(place)
    }
}

/// The store at `place`.
pub(super) fn store(place: &str) -> anyhow::Result<Store> {
    Store::parse(place).map_err(|error| usage(chain(&error)))
}

/// Which user reads the tables.
#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// The database URL of a user who may read whole tables (default: --database-url)
    #[arg(long, env = "DAYMEND_SNAPSHOT_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    snapshot_database_url: Option<String>,
}

/// The option above, for messages.
const SOURCE: &str = "--snapshot-database-url";

impl SourceArgs {
    /// A pool to the database to copy, once it has answered.
    pub(super) async fn connect(&self, global: &Global) -> anyhow::Result<Db> {
        let Some(url) = &self.snapshot_database_url else { return global.connect_bare(1).await };
        connect_to(SOURCE, url, 1).await
    }

    /// A pool to the database to copy, which may not be reachable yet.
    pub(super) fn pool(&self, global: &Global) -> anyhow::Result<Db> {
        let Some(url) = &self.snapshot_database_url else { return global.pool(1) };
        pool_to(SOURCE, url, 1)
    }
}

/// The tables that a snapshot has by default: those that the rollup reads and writes, and the migration records.
pub(super) fn default_tables(rollup: &Rollup) -> Vec<String> {
    let mut tables = rollup.tables();
    tables.push(records::TABLE.to_owned());
    tables.sort();
    tables.dedup();
    tables
}

/// Turns an error that says so into a usage error.
pub(super) fn explained(error: SnapshotError) -> anyhow::Error {
    explained_to("give the --database-url of an operator who has it", error)
}

/// Like [`explained`], with advice for a user who may not read the tables.
fn explained_to(reader: &str, error: SnapshotError) -> anyhow::Error {
    match error {
        SnapshotError::NoTable(_)
        | SnapshotError::NotCopyable { .. }
        | SnapshotError::NoSnapshot(_)
        | SnapshotError::Exists(_)
        | SnapshotError::Target(_) => usage(chain(&error)),
        error => snapshot::advised(error, reader),
    }
}

/// The snapshot of this name; `latest` for the newest whose name is not in the future (its taker's clock was ahead, and
/// newer ones have lower names). If all names are, it is this machine's clock that is behind.
pub(super) async fn find(global: &Global, store: &Store, name: &str) -> anyhow::Result<Name> {
    if name != "latest" {
        return name.parse().map_err(explained);
    }
    let mut names = store.names().await.map_err(explained)?;
    let now = now(global);
    let past = names.partition_point(|name| !name.is_ahead(now));
    if past > 0 && past < names.len() {
        warn_of_ahead(global, "`latest` passes over", names.split_off(past));
    }
    names.pop().ok_or_else(|| usage("there is no snapshot yet: see `daymend snapshot take`"))
}

/// The time after which a snapshot's name is in the future.
fn now(global: &Global) -> DateTime<Utc> {
    global.clock().now().max(Clock::System.now())
}

/// Warns of snapshots whose name is in the future, and of what is done with them.
fn warn_of_ahead(global: &Global, what: &str, names: Vec<Name>) {
    if !names.is_empty() {
        let names = examples(names, 3);
        global.warn(format_args!(
            "{what} {names}, whose name is in the future: its taker's clock was ahead, or this machine's is behind"
        ));
    }
}

/// Warns if a snapshot lacks tables that the previous one of its database has (only those `wanted`, if any are named):
/// their rows would not be looked for in it.
async fn warn_of_fewer_tables(global: &Global, store: &Store, name: Name, wanted: &[String]) -> anyhow::Result<()> {
    let newest = store.manifest(name).await.map_err(explained)?;
    for before in store.names().await.map_err(explained)?.into_iter().filter(|before| *before < name).rev() {
        let Ok(before) = store.manifest(before).await else { continue };
        if before.server.database != newest.server.database {
            continue;
        }
        let names = before.tables.iter().map(|copy| &copy.table.name);
        let is_lacking =
            |table: &&String| newest.table(table).is_none() && (wanted.is_empty() || wanted.contains(table));
        let lacking: Vec<&String> = names.filter(is_lacking).collect();
        if !lacking.is_empty() {
            global.warn(format_args!(
                "{name} lacks {}, which the snapshot before it ({}) has: rows that vanished from them are not found",
                examples(lacking, 3),
                before.name
            ));
            break;
        }
    }
    Ok(())
}

/// Work that is half done. If a signal or an error ends it, says so, and how to continue.
struct HalfDone<'a> {
    global: &'a Global,
    rows: AtomicU64,
    how: String,
}

impl<'a> HalfDone<'a> {
    fn new(global: &'a Global, how: impl Into<String>) -> Self {
        Self { global, rows: AtomicU64::new(0), how: how.into() }
    }

    fn is_at(&self, rows: u64) {
        self.rows.store(rows, Relaxed);
    }

    fn done(self) {
        self.is_at(0);
    }
}

impl Drop for HalfDone<'_> {
    fn drop(&mut self) {
        let rows = self.rows.load(Relaxed);
        if rows > 0 {
            self.global.warn(format_args!("stopped after {rows} rows; {}; no day has been recomputed yet", self.how));
        }
    }
}

/// A number of bytes in human-readable form.
pub(super) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}
