//! Deletes runs that have outlived their retention, every hour, in the background: however much there is to delete,
//! and even if it fails, no tick waits for it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Scheduler, pace::Pace};
use crate::{db::Backoff, queue::admin::prune};

/// How often to prune.
const EVERY: Duration = Duration::from_secs(3600);

/// How long to wait after a failure.
const AGAIN: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(300) };

/// Prunes regularly until `shutdown`.
pub(super) async fn prune_until(scheduler: &Scheduler<'_>, shutdown: &CancellationToken) {
    let Some(retention) = scheduler.config.retention else { return };
    let mut pace = Pace::new("old runs cannot be pruned, trying again", "old runs are pruned again", AGAIN);
    while !shutdown.is_cancelled() {
        // A batch that is interrupted is rolled back.
        let prune = prune::prune_outlived(scheduler.db, retention);
        let Some(pruned) = shutdown.run_until_cancelled(prune).await else { return };
        if let Ok(jobs @ 1..) = pruned {
            tracing::info!(jobs, "pruned the jobs of old runs");
        }
        pace.rest_after(pruned.map(|_| EVERY), shutdown).await;
    }
}
