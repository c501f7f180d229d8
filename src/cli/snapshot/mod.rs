//! `daymend snapshot`: consistent copies of tables, what differs from them, and getting rows back.

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

use clap::{Args, Subcommand};

use super::{
    Exit, Global, audit,
    connect::{connect_to, pool_to},
    follow, historical_summary, print_json,
    service::{AttemptsArgs, ShrinkArgs},
    usage, who,
};
use crate::{
    db::Db,
    error::{chain, examples},
    rollup::Rollup,
    runs::records,
    snapshot::{Name, SnapshotError, Store},
};

/// Takes, shows, checks, prunes and compares snapshots of tables, and brings back what has vanished.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Copy tables as they are at one moment; nobody has to wait
    Take(take::Options),
    /// List the snapshots, oldest first
    List(StoreArgs),
    /// Show one snapshot and its tables
    Show(list::Options),
    /// Read snapshots back, against every hash that they have; 1 if one is damaged
    Verify(verify::Options),
    /// Remove the snapshots that are not kept, and what takes that died have left behind
    Prune(prune::Options),
    /// Say which rows vanished, were added or changed between snapshots, or since one
    Diff(diff::Options),
    /// Bring back rows that have vanished, and no others
    Restore(restore::Options),
    /// Take a restore back
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

/// Where snapshots are.
#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    /// Where snapshots are: a directory, or s3://BUCKET/PREFIX (endpoint, region and secrets as AWS_…
    /// in the environment)
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

/// The store at a place.
pub(super) fn store(place: &str) -> anyhow::Result<Store> {
    Store::parse(place).map_err(|error| usage(chain(&error)))
}

/// Whose eyes the tables are read with.
#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// The database as a user who may read whole tables (default: --database-url)
    #[arg(long, env = "DAYMEND_SNAPSHOT_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    snapshot_database_url: Option<String>,
}

/// The option that says so.
const SOURCE: &str = "--snapshot-database-url";

impl SourceArgs {
    /// A pool to the database that is copied, which answers.
    pub(super) async fn connect(&self, global: &Global) -> anyhow::Result<Db> {
        let Some(url) = &self.snapshot_database_url else { return global.connect_bare(1).await };
        connect_to(SOURCE, url, 1).await
    }

    /// A pool to the database that is copied, which may not be there yet.
    pub(super) fn pool(&self, global: &Global) -> anyhow::Result<Db> {
        let Some(url) = &self.snapshot_database_url else { return global.pool(1) };
        pool_to(SOURCE, url, 1)
    }
}

/// The tables that a snapshot has if nobody says otherwise: what the rollup reads and writes, and the
/// migration records.
pub(super) fn default_tables(rollup: &Rollup) -> Vec<String> {
    let mut tables = rollup.tables();
    tables.push(records::TABLE.to_owned());
    tables.sort();
    tables.dedup();
    tables
}

/// Input that cannot be carried out, where that is what the error says.
pub(super) fn explained(error: SnapshotError) -> anyhow::Error {
    explained_to("give the --database-url of an operator who has it", error)
}

/// The same, with a word to whoever may not read the tables.
fn explained_to(reader: &str, error: SnapshotError) -> anyhow::Error {
    match error {
        SnapshotError::Hidden { .. } => usage(format!("{}: {reader}", chain(&error))),
        SnapshotError::NoTable(_)
        | SnapshotError::NotCopyable { .. }
        | SnapshotError::NoSnapshot(_)
        | SnapshotError::Exists(_)
        | SnapshotError::Target(_) => usage(chain(&error)),
        SnapshotError::Database(error) if error.is_denied() => {
            anyhow::Error::from(error).context(format!("SELECT on the whole table is needed: {reader}"))
        }
        SnapshotError::Database(error) => error.into(),
        error => error.into(),
    }
}

/// One snapshot, by its name; `latest` for the newest.
pub(super) async fn find(store: &Store, name: &str) -> anyhow::Result<Name> {
    if name != "latest" {
        return name.parse().map_err(explained);
    }
    let newest = store.names().await.map_err(explained)?.pop();
    newest.ok_or_else(|| usage("there is no snapshot yet: see `daymend snapshot take`"))
}

/// Says where a snapshot lacks tables that the one of its database before it has, of those that are `wanted` (all where
/// none is named): nobody looks for their rows in it.
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
                "{name} has no {}, which {} before it has: their rows are not looked for",
                examples(lacking, 3),
                before.name
            ));
            break;
        }
    }
    Ok(())
}

/// What is half done. Where a signal or an error ends it, it says so, and how to go on.
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

/// A number of bytes for people.
pub(super) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}
