//! `daymend snapshot list` and `show`.

use std::process::ExitCode;

use clap::Args;

use super::{Exit, Global, StoreArgs, bytes, explained, find, print_json, usage};
use crate::{
    error::chain,
    output::table::{table, time},
};

/// Options of `daymend snapshot show`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Options {
    /// The snapshot's name, such as 2026-11-21T040000Z, or `latest`
    name: String,

    #[command(flatten)]
    store: StoreArgs,
}

pub(super) async fn list(global: &Global, options: &StoreArgs) -> anyhow::Result<ExitCode> {
    let store = options.store()?;
    let listed = store.list().await.map_err(explained)?;
    if let Some(dir) = store.missing_dir() {
        return Err(usage(format!("there is no directory {}: see --store", dir.display())));
    }
    let exit = if listed.iter().any(|(_, manifest)| manifest.is_err()) { Exit::Failed } else { Exit::Ok };
    if global.json {
        let list: Vec<_> = listed
            .iter()
            .map(|(name, manifest)| match manifest {
                Ok(manifest) => serde_json::json!({
                    "name": name, "taken_at": manifest.taken_at, "tables": manifest.tables.len(),
                    "rows": manifest.rows(), "size": manifest.size, "took_ms": manifest.took_ms,
                    "server": manifest.server,
                }),
                Err(error) => serde_json::json!({ "name": name, "error": chain(error) }),
            })
            .collect();
        print_json(&list)?;
        return Ok(exit.into());
    }
    if listed.is_empty() {
        println!("no snapshot yet in {}", options.place.as_deref().unwrap_or_default());
        return Ok(exit.into());
    }
    let mut table = table(&["snapshot", "taken (UTC)", ">tables", ">rows", ">size", ">took", "~database"]);
    for (name, manifest) in &listed {
        match manifest {
            Ok(manifest) => table.add_row([
                name.to_string(),
                time(manifest.taken_at),
                manifest.tables.len().to_string(),
                manifest.rows().to_string(),
                bytes(manifest.size),
                format!("{:.1} s", manifest.took_ms as f64 / 1000.0),
                manifest.server.database.clone(),
            ]),
            Err(error) => {
                let dashes = ["-"; 5].map(ToOwned::to_owned);
                table.add_row([&[name.to_string()][..], &dashes, &[chain(error)]].concat())
            }
        };
    }
    println!("{table}");
    Ok(exit.into())
}

impl Options {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let store = self.store.store()?;
        let name = find(global, &store, &self.name).await?;
        let manifest = store.manifest(name).await.map_err(explained)?;
        if global.json {
            print_json(&manifest)?;
            return Ok(Exit::Ok.into());
        }
        println!("snapshot {name}");
        println!("  taken     {} UTC, in {:.1} s", time(manifest.taken_at), manifest.took_ms as f64 / 1000.0);
        println!("  database  {} ({} {})", manifest.server.database, manifest.server.kind, manifest.server.version);
        println!("  size      {}, {} unpacked", bytes(manifest.size), bytes(manifest.sqlite_size));
        println!("  file      {}", name.data());
        println!("  sha256    {}", manifest.sha256);
        let mut table = table(&["table", ">rows", ">columns", "~key", "~points to"]);
        for copy in &manifest.tables {
            let mut parents: Vec<&str> = copy.table.foreign_keys.iter().map(|key| key.parent.as_str()).collect();
            parents.sort_unstable();
            parents.dedup();
            table.add_row([
                copy.table.name.clone(),
                copy.rows.to_string(),
                copy.table.columns.len().to_string(),
                copy.key.join(", "),
                parents.join(", "),
            ]);
        }
        println!("{table}");
        Ok(Exit::Ok.into())
    }
}
