//! `daymend rollups`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Subcommand;

use super::{Exit, Global, connect::check_rollups, print_json, usage};
use crate::{
    output::table::table,
    recompute::stored::Access,
    rollup::{self, Rollups},
};

/// Shows and checks rollup definitions.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the definitions and their event types
    List,
    /// Report what is wrong with the definitions, one line per problem; if a database is given, check them against
    /// its tables too
    Check,
    /// Write the built-in definitions to a directory, to be edited and used with --jobs-dir
    Export {
        /// Directory to write to; created if missing, and must not contain definitions of the same names
        directory: PathBuf,
    },
}

impl Command {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            Self::List => list(global),
            Self::Check => check(global).await,
            Self::Export { directory } => export(global, &directory),
        }
    }
}

/// Writes the built-in definitions. Overwrites nothing, as somebody may have edited it.
fn export(global: &Global, directory: &Path) -> anyhow::Result<ExitCode> {
    let files: Vec<_> = rollup::builtin_files().map(|(file, text)| (directory.join(file), text)).collect();
    if let Some((file, _)) = files.iter().find(|(file, _)| file.exists()) {
        return Err(usage(format!("{} exists already: nothing was written", file.display())));
    }
    for (file, text) in &files {
        let written = match file.parent() {
            Some(folder) => fs::create_dir_all(folder).and_then(|()| fs::write(file, text)),
            None => fs::write(file, text),
        };
        written.with_context(|| format!("{} cannot be written", file.display()))?;
    }
    if global.json {
        print_json(&files.iter().map(|(file, _)| file).collect::<Vec<_>>())?;
    } else {
        println!(
            "{} files are in {dir}: change them, then `daymend --jobs-dir {dir} rollups check`",
            files.len(),
            dir = directory.display()
        );
    }
    Ok(Exit::Ok.into())
}

fn list(global: &Global) -> anyhow::Result<ExitCode> {
    let rollups = global.rollups()?;
    if global.json {
        let list: Vec<_> = rollups
            .iter()
            .map(|rollup| {
                let events: Vec<&str> = rollup.events.iter().map(|event| event.name.as_str()).collect();
                serde_json::json!({ "name": rollup.name, "table": rollup.summary.table, "event_types": events })
            })
            .collect();
        print_json(&list)?;
        return Ok(Exit::Ok.into());
    }
    for rollup in rollups.iter() {
        println!("{} maintains {}", rollup.name, rollup.summary.table);
        let mut table = table(&["event type", "~counts", "~SELECT"]);
        for event in &rollup.events {
            let fact = &rollup.facts[event.fact];
            table.add_row([&event.name, &fact.name, &fact.sql.file]);
        }
        println!("{table}");
    }
    Ok(Exit::Ok.into())
}

async fn check(global: &Global) -> anyhow::Result<ExitCode> {
    let (mut count, mut with_database) = (0, false);
    let problems: Vec<String> = match Rollups::load(global.jobs_dir.as_deref()) {
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
        Ok(rollups) => {
            count = rollups.iter().count();
            with_database = global.database_url.is_some();
            if with_database {
                check_rollups(&global.connect_bare(1).await?, &rollups, Access::Write).await?
            } else {
                Vec::new()
            }
        }
    };
    if global.json {
        print_json(&serde_json::json!({ "read": count, "with_database": with_database, "problems": problems }))?;
    } else if !problems.is_empty() {
        problems.iter().for_each(|problem| println!("{problem}"));
    } else if with_database {
        println!("{count} definition(s) read and checked against the database, no problem found");
    } else {
        println!("{count} definition(s) read, no problem found; not checked against a database (--database-url)");
    }
    Ok(if problems.is_empty() { Exit::Ok } else { Exit::Usage }.into())
}
