//! `daymend snapshot`.

mod diff;
mod restore;
mod undo;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Exit, Global, follow, historical_summary, print_json, service::AttemptsArgs, usage, who};
use crate::snapshot::{Name, SnapshotError, Store};

/// Takes snapshots, compares them, and brings back what has vanished.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say which rows vanished, were added or changed between snapshots, or since one
    Diff(diff::Options),
    /// Bring back rows that have vanished, and no others
    Restore(restore::Options),
    /// Take a restore back
    Undo(undo::Options),
}

/// Where snapshots live.
#[derive(Debug, Args)]
struct StoreArgs {
    /// Where the snapshots are: a directory, or s3://BUCKET/PREFIX
    #[arg(long, env = "DAYMEND_SNAPSHOTS", value_name = "PLACE")]
    store: String,
}

impl StoreArgs {
    fn open(&self) -> anyhow::Result<Store> {
        Store::parse(&self.store).map_err(|error| usage(error.to_string()))
    }
}

impl Command {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            Self::Diff(options) => options.run(global).await,
            Self::Restore(options) => options.run(global).await,
            Self::Undo(options) => options.run(global).await,
        }
    }
}

/// The name of a snapshot; `latest` is the last one.
async fn name(store: &Store, text: &str) -> anyhow::Result<Name> {
    if text == "latest" {
        return store.names().await?.pop().ok_or_else(|| usage("there is no snapshot"));
    }
    text.parse().map_err(|error: SnapshotError| usage(error.to_string()))
}
