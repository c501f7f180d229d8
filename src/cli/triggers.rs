//! `daymend triggers`: the triggers that mark days whose source changes.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::{Exit, Global, historical_summary, print_json, usage};
use crate::{
    db::Dialect,
    doctor::is_blind_to_triggers,
    recompute::stored::Access,
    rollup::{Rollup, watch::Watch},
    triggers::{self, InstallError},
};

/// Manages the triggers on the source tables that mark late changes, so that these are repaired within seconds.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create the triggers, or bring them up to date
    Install(Change),
    /// Drop daymend's triggers, and no others
    Remove(Change),
    /// Print the SQL that installs the triggers, for a DBA to read and apply
    Show(Show),
}

/// Options of `daymend triggers install` and `remove`.
#[derive(Debug, Args)]
pub(super) struct Change {
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Options of `daymend triggers show`.
#[derive(Debug, Args)]
pub(super) struct Show {
    /// The database to print for; by default that of --database-url, or else mysql (which covers MariaDB)
    #[arg(long = "for", value_enum, value_name = "DATABASE")]
    database: Option<Database>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Database {
    #[value(alias = "mariadb")]
    Mysql,
    Sqlite,
}

impl Command {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            Self::Install(options) => install(global, options.dry_run).await,
            Self::Remove(options) => remove(global, options.dry_run).await,
            Self::Show(options) => show(global, options.database),
        }
    }
}

fn watch_of(rollup: &Rollup) -> anyhow::Result<&Watch> {
    rollup.watch.as_ref().ok_or_else(|| {
        usage(format!("{} has no watch.toml, which says what to watch; see the one in jobs/", rollup.name))
    })
}

fn show(global: &Global, database: Option<Database>) -> anyhow::Result<ExitCode> {
    let rollups = global.rollups()?;
    let watch = watch_of(historical_summary(&rollups)?)?;
    let is_sqlite = || global.database_url.as_deref().is_some_and(|url| url.starts_with("sqlite:"));
    let dialect = match database {
        Some(Database::Mysql) => Dialect::MySql,
        Some(Database::Sqlite) => Dialect::Sqlite,
        None if is_sqlite() => Dialect::Sqlite,
        None => Dialect::MySql,
    };
    if global.json {
        let list: Vec<_> = triggers::sql::triggers(watch, dialect)
            .iter()
            .map(|trigger| {
                let sql = trigger.create(dialect);
                serde_json::json!({ "name": trigger.name, "table": trigger.table, "sql": sql })
            })
            .collect();
        print_json(&list)?;
    } else {
        print!("{}", triggers::script(watch, dialect));
    }
    Ok(Exit::Ok.into())
}

async fn install(global: &Global, dry_run: bool) -> anyhow::Result<ExitCode> {
    let (db, rollups) = global.connect_checked_for(Access::Read, 2).await?;
    let rollup = historical_summary(&rollups)?;
    let watch = watch_of(rollup)?;
    let tables: Vec<&str> = watch.tables().iter().map(|watched| watched.table).collect();
    if dry_run && is_blind_to_triggers(&db, &tables).await? {
        return Err(refused(InstallError::Rights(None)));
    }
    let installed = triggers::install(&db, watch, &rollup.summary.table, dry_run).await.map_err(refused)?;
    if global.json {
        print_json(&serde_json::json!({ "dry_run": dry_run, "triggers": installed }))?;
        return Ok(Exit::Ok.into());
    }
    let verb = |done: &str, would: &str| if dry_run { would.to_owned() } else { done.to_owned() };
    for name in &installed.created {
        println!("{} {name}", verb("created", "would create"));
    }
    for name in &installed.replaced {
        println!("{} {name}", verb("replaced", "would replace"));
    }
    if installed.created.is_empty() && installed.replaced.is_empty() {
        println!("all {} triggers exist and are up to date: nothing to do", installed.kept.len());
    } else if !dry_run {
        println!(
            "late changes are marked from now on, and repaired within seconds by a scheduler; for earlier changes use \
             `daymend repair` or `daymend rebuild`"
        );
        if !installed.replaced.is_empty() {
            println!("changes made while a trigger was being replaced are not marked: repair the last few days");
        }
    }
    for name in &installed.deltas {
        println!("the trigger {name} also writes to {}: it is no longer needed", rollup.summary.table);
    }
    Ok(Exit::Ok.into())
}

async fn remove(global: &Global, dry_run: bool) -> anyhow::Result<ExitCode> {
    let db = global.connect(2).await?;
    let removed = triggers::remove(&db, dry_run).await.map_err(refused)?;
    if global.json {
        print_json(&serde_json::json!({ "dry_run": dry_run, "removed": removed }))?;
        return Ok(Exit::Ok.into());
    }
    for name in &removed {
        println!("{} {name}", if dry_run { "would drop" } else { "dropped" });
    }
    if removed.is_empty() {
        println!("nothing to do: no daymend trigger exists, or the account lacks TRIGGER and cannot see them");
    }
    Ok(Exit::Ok.into())
}

/// A missing prerequisite is for the operator to provide; what the database lacks or refuses is a database error.
fn refused(error: InstallError) -> anyhow::Error {
    match &error {
        InstallError::Rights(_) | InstallError::BinaryLog(_) | InstallError::NameTaken(_) => {
            usage(crate::error::chain(&error))
        }
        InstallError::InUse(..) | InstallError::Database(_) => error.into(),
    }
}
