//! Runs that have outlived their retention are deleted every hour, beside the ticks: however much there
//! is to delete, and whatever becomes of it, no tick waits for it or fails by it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Config;
use crate::{
    db::{Backoff, Db},
    error::chain,
    metrics,
    queue::admin::prune,
};

/// How often.
const EVERY: Duration = Duration::from_secs(3600);

/// How long to wait where it failed.
const AGAIN: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(300) };

/// Prunes again and again, until `shutdown`.
pub(super) async fn prune_until(db: &Db, config: &Config, shutdown: &CancellationToken) {
    let Some(retention) = config.retention else { return };
    let mut failures = 0;
    while !shutdown.is_cancelled() {
        // What a batch has begun is taken back.
        let Some(pruned) = shutdown.run_until_cancelled(prune::prune_outlived(db, retention)).await else { return };
        let wait = match pruned {
            Ok(jobs) => {
                failures = 0;
                if jobs > 0 {
                    tracing::info!(jobs, "pruned what has outlived its retention");
                }
                EVERY
            }
            Err(error) => {
                failures += 1;
                metrics::database_error(&error);
                let wait = AGAIN.wait(failures);
                tracing::warn!(error = %chain(&error), ?wait, "what has outlived its retention cannot be pruned, trying again");
                wait
            }
        };
        shutdown.run_until_cancelled(tokio::time::sleep(wait)).await;
    }
}
