//! `daymend snapshot prune`.

use std::process::ExitCode;

use clap::Args;

use super::{Exit, Global, StoreArgs, explained, now, print_json, warn_of_ahead};
use crate::{
    error::chain,
    snapshot::{
        Name,
        retention::{self, Keep},
    },
};

/// Options of `daymend snapshot prune`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    keep: KeepArgs,

    /// Only print what would be removed
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    store: StoreArgs,
}

/// Which snapshots are kept.
#[derive(Debug, Args)]
pub(in crate::cli) struct KeepArgs {
    /// What to keep: the newest snapshot of each of the last N days, weeks, months (also: yearly, last), in UTC; a
    /// snapshot is removed only if one that is kept, of the same database, has all of its tables
    #[arg(
        long = "keep",
        env = "DAYMEND_SNAPSHOT_KEEP",
        default_value = "7 daily, 4 weekly, 12 monthly",
        value_name = "LIST"
    )]
    pub(in crate::cli) keep: Keep,
}

impl Options {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let store = self.store.store()?;
        let pruned = retention::prune(&store, &self.keep.keep, None, now(global), self.dry_run).await;
        let pruned = pruned.map_err(explained)?;
        warn_of_ahead(global, "kept, and ignored when choosing which to remove:", pruned.ahead);
        let removed = pruned.removed;
        let names = store.names().await.map_err(explained)?;
        let left = left(&names, &removed);
        if global.json {
            let unread: Vec<_> = pruned.unread.iter().map(|(name, _)| name).collect();
            print_json(&serde_json::json!({
                "removed": removed, "kept": left, "unread": unread, "leftovers": pruned.leftovers,
                "dry_run": self.dry_run,
            }))?;
            return Ok(Exit::Ok.into());
        }
        let verb = if self.dry_run { "would be removed" } else { "removed" };
        for (name, error) in &pruned.unread {
            println!("snapshot {name} is kept, and ignored when choosing which to remove: {}", chain(error));
        }
        for name in &removed {
            println!("snapshot {name} {verb}");
        }
        if pruned.leftovers > 0 {
            println!("{} leftover(s) of interrupted snapshots {verb}", pruned.leftovers);
        }
        println!("{} snapshot(s) {verb}, {left} kept ({})", removed.len(), self.keep.keep);
        Ok(Exit::Ok.into())
    }
}

/// How many snapshots remain. Somebody else may be pruning at the same time, so some of `removed` may be gone
/// already.
fn left(names: &[Name], removed: &[Name]) -> usize {
    names.iter().filter(|name| !removed.contains(name)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_has_removed_meanwhile_is_counted_once() {
        let name = |day: u32| format!("2026-11-{day:02}T020000Z").parse::<Name>().unwrap();
        assert_eq!(left(&[name(1), name(2), name(3)], &[name(1), name(2)]), 1, "a dry run");
        assert_eq!(left(&[name(3)], &[name(1), name(2)]), 1, "they have been removed");
        assert_eq!(left(&[name(2)], &[name(1), name(2)]), 0, "some by another");
    }
}
