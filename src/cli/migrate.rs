//! `daymend migrate`.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::{Exit, Global};
use crate::db::migrate;

/// Creates or updates daymend's own tables.
///
/// Only tables named daymend_… are created or altered, and the lab system's three output
/// tables created where they do not exist.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

impl Options {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let db = global.connect_bare(2).await?;
        let found = migrate::version(&db).await?;
        if self.dry_run {
            let missing = migrate::MIGRATIONS.iter().filter(|migration| migration.version > found);
            let mut none = true;
            for migration in missing {
                none = false;
                println!("would apply version {} ({})", migration.version, migration.name);
            }
            if none {
                println!("schema version {found} is current: nothing to do");
            }
            return Ok(Exit::Ok.into());
        }
        let applied = migrate::migrate(&db).await.context("cannot migrate")?;
        for migration in &applied {
            println!("applied version {} ({})", migration.version, migration.name);
        }
        if applied.is_empty() {
            println!("schema version {found} is current: nothing to do");
        }
        Ok(Exit::Ok.into())
    }
}
