//! `daymend snapshot prune`.

use std::process::ExitCode;

use clap::Args;

use super::{Exit, Global, StoreArgs, explained, print_json};
use crate::snapshot::retention::{self, Keep};

/// What to keep.
#[derive(Debug, Args)]
pub(in crate::cli) struct PruneOptions {
    #[command(flatten)]
    keep: KeepArgs,

    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    store: StoreArgs,
}

/// Which snapshots are kept.
#[derive(Debug, Args)]
pub(in crate::cli) struct KeepArgs {
    /// What to keep: the newest snapshot of each of the last so many days, weeks, months (also: yearly,
    /// last), in UTC; the newest of all is always kept
    #[arg(
        long = "keep",
        env = "DAYMEND_SNAPSHOT_KEEP",
        default_value = "7 daily, 4 weekly, 12 monthly",
        value_name = "LIST"
    )]
    pub(in crate::cli) keep: Keep,
}

impl PruneOptions {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let store = self.store.store()?;
        let pruned = retention::prune(&store, &self.keep.keep, self.dry_run).await.map_err(explained)?;
        let left = store.names().await.map_err(explained)?.len() - if self.dry_run { pruned.len() } else { 0 };
        if global.json {
            print_json(&serde_json::json!({ "removed": pruned, "kept": left, "dry_run": self.dry_run }))?;
            return Ok(Exit::Ok.into());
        }
        let verb = if self.dry_run { "would be removed" } else { "removed" };
        for name in &pruned {
            println!("snapshot {name} {verb}");
        }
        println!("{} snapshot(s) {verb}, {left} kept ({})", pruned.len(), self.keep.keep);
        Ok(Exit::Ok.into())
    }
}
