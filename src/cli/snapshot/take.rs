//! `daymend snapshot take`.

use std::{process::ExitCode, sync::Mutex};

use clap::Args;

use super::{
    Exit, Global, SourceArgs, StoreArgs, bytes, default_tables, explained_to, historical_summary, print_json, usage,
};
use crate::{
    db::{Db, Mode},
    output::bar::Rows,
    snapshot::{self, Progress, schema},
};

/// Options of `daymend snapshot take`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Options {
    /// Tables to copy, such as a,b, instead of those that daymend reads and writes
    #[arg(long = "table", value_name = "TABLE", value_delimiter = ',', conflicts_with = "all")]
    tables: Vec<String>,

    /// Copy every table of the database; needs SELECT on the whole database
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    store: StoreArgs,

    #[command(flatten)]
    source: SourceArgs,
}

/// Rejects a copy of all tables if the user might not see some, or if there is none.
async fn check_all(db: &Db) -> anyhow::Result<()> {
    let name = db.name();
    let mut tx = db.begin(Mode::Snapshot).await?;
    if !schema::may_read_all(&mut tx).await? {
        return Err(usage(format!(
            "--all would leave out the tables that this user has no right on: it needs SELECT on the whole database \
             {name} (GRANT SELECT ON `{name}`.* TO …); or name the tables with --table"
        )));
    }
    let names = schema::table_names(&mut tx).await?;
    tx.commit().await?;
    if names.is_empty() {
        return Err(usage(format!("database {name} has no table to copy")));
    }
    Ok(())
}

impl Options {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let store = self.store.store()?;
        let tables = if self.all {
            None
        } else if self.tables.is_empty() {
            Some(default_tables(historical_summary(&global.rollups()?)?))
        } else {
            let mut tables = self.tables;
            tables.sort();
            tables.dedup();
            Some(tables)
        };
        let db = self.source.connect(global).await?;
        if tables.is_none() {
            check_all(&db).await?;
        }
        let bar = Mutex::new(Rows::new("snapshot"));
        let show = |progress: &Progress| {
            if let Ok(mut bar) = bar.lock() {
                let what = if progress.table.is_empty() { "packing" } else { &progress.table };
                bar.update(progress.rows, progress.rows_expected, what);
            }
        };
        let taken = snapshot::take(&db, &store, tables.as_deref(), global.clock(), &show).await;
        db.close().await;
        if let Ok(bar) = bar.lock() {
            bar.finish();
        }
        let manifest = taken.map_err(|error| explained_to(snapshot::READER, error))?;
        // Leftovers of interrupted takes use up space, but this snapshot has not failed if they cannot be removed.
        if let Err(error) = store.clean().await {
            tracing::warn!(error = %crate::error::chain(&error), "leftovers of interrupted snapshots cannot be removed");
        }
        if global.json {
            print_json(&manifest)?;
        } else {
            let seconds = manifest.took_ms as f64 / 1000.0;
            println!(
                "snapshot {}: {} rows of {} tables, {} ({} unpacked), in {seconds:.1} s",
                manifest.name,
                manifest.rows(),
                manifest.tables.len(),
                bytes(manifest.size),
                bytes(manifest.sqlite_size)
            );
        }
        Ok(Exit::Ok.into())
    }
}
