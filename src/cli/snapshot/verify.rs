//! `daymend snapshot verify`.

use std::{process::ExitCode, sync::Mutex};

use clap::Args;

use super::{Exit, Global, StoreArgs, explained, find, print_json, usage};
use crate::{
    output::bar::Rows,
    snapshot::{SnapshotError, verify},
};

/// Options of `daymend snapshot verify`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Options {
    /// The snapshots' names, or `latest`
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    names: Vec<String>,

    /// Verify every snapshot
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    store: StoreArgs,
}

impl Options {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let store = self.store.store()?;
        let mut names = Vec::new();
        for name in &self.names {
            names.push(find(global, &store, name).await?);
        }
        if self.all {
            names = store.names().await.map_err(explained)?;
            if names.is_empty() {
                return Err(usage("there is no snapshot yet: see `daymend snapshot take`"));
            }
        }
        let mut reports = Vec::new();
        for name in names {
            let expected = store.manifest(name).await.map_or(0, |manifest| manifest.rows());
            let bar = std::sync::Arc::new(Mutex::new(Rows::new("verify")));
            let shown = std::sync::Arc::clone(&bar);
            let progress = move |rows| {
                if let Ok(mut bar) = shown.lock() {
                    bar.update(rows, expected, "");
                }
            };
            let report = verify::verify(&store, name, progress).await;
            if let Ok(bar) = bar.lock() {
                bar.finish();
            }
            let report = match report {
                Err(SnapshotError::NoSnapshot(_)) if self.all => {
                    global.warn(format_args!("snapshot {name} was removed meanwhile"));
                    continue;
                }
                report => report.map_err(explained)?,
            };
            if !global.json {
                if report.is_whole() {
                    println!("snapshot {name}: whole ({} rows of {} tables)", report.rows, report.tables);
                }
                for problem in &report.problems {
                    println!("snapshot {name}: DAMAGED: {problem}");
                }
            }
            reports.push(report);
        }
        if global.json {
            print_json(&reports)?;
        }
        let is_whole = reports.iter().all(verify::Report::is_whole);
        Ok(if is_whole { Exit::Ok } else { Exit::Failed }.into())
    }
}
