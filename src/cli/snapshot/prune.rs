//! `daymend snapshot prune`.

use std::process::ExitCode;

use clap::Args;

use super::{Exit, Global, StoreArgs, explained, print_json};
use crate::{
    error::chain,
    snapshot::retention::{self, Keep},
};

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
    /// last), in UTC; one goes only where a kept one of the same database has all of its tables
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
        let pruned = retention::prune(&store, &self.keep.keep, None, self.dry_run).await.map_err(explained)?;
        let removed = pruned.removed;
        let left = store.names().await.map_err(explained)?.len() - if self.dry_run { removed.len() } else { 0 };
        if global.json {
            let unread: Vec<_> = pruned.unread.iter().map(|(name, _)| name).collect();
            let dry_run = self.dry_run;
            print_json(&serde_json::json!({ "removed": removed, "kept": left, "unread": unread, "dry_run": dry_run }))?;
            return Ok(Exit::Ok.into());
        }
        let verb = if self.dry_run { "would be removed" } else { "removed" };
        for (name, error) in &pruned.unread {
            println!("snapshot {name} stays, and stands for no other: {}", chain(error));
        }
        for name in &removed {
            println!("snapshot {name} {verb}");
        }
        println!("{} snapshot(s) {verb}, {left} kept ({})", removed.len(), self.keep.keep);
        Ok(Exit::Ok.into())
    }
}
