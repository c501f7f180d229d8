//! `daymend migrate`.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args;

use super::{Exit, Global, print_json};
use crate::db::{
    ConnectOptions,
    migrate::{self, Incomplete, Migration, SchemaError},
};

/// How long the server may take for a statement: an ALTER that is nearly done should not have to start over.
const STATEMENT_MAX: Duration = Duration::from_secs(3600);

/// Options of `daymend migrate`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
}

impl Options {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let options = ConnectOptions { create: !self.dry_run, statement_max: STATEMENT_MAX, ..ConnectOptions::new(2) };
        let db = global.connect_bare(options).await?;
        let found = migrate::version(&db).await?;
        if let Err(ahead @ SchemaError::Ahead { .. }) = migrate::fits(found) {
            return Err(ahead.into());
        }
        let tables = migrate::missing_tables(&db, found).await?;
        if !tables.is_empty() {
            return Err(Incomplete { found, tables }.into());
        }
        let missing = migrate::missing_outputs(&db).await?;
        let migrations: Vec<&Migration> = if self.dry_run {
            migrate::MIGRATIONS.iter().filter(|migration| migration.version > found).collect()
        } else {
            migrate::migrate(&db).await.context("cannot migrate")?
        };
        if global.json {
            let list: Vec<_> = migrations
                .iter()
                .map(|migration| serde_json::json!({ "version": migration.version, "name": migration.name }))
                .collect();
            print_json(
                &serde_json::json!({ "found": found, "applied": list, "created": missing, "dry_run": self.dry_run }),
            )?;
            return Ok(Exit::Ok.into());
        }
        let verb = if self.dry_run { "would apply" } else { "applied" };
        for migration in &migrations {
            println!("{verb} version {} ({})", migration.version, migration.name);
        }
        let verb = if self.dry_run { "would create" } else { "created" };
        for table in &missing {
            println!("{verb} {table}");
        }
        if migrations.is_empty() && missing.is_empty() {
            println!("schema version {} is current: nothing to do", migrate::wanted());
        }
        Ok(Exit::Ok.into())
    }
}
