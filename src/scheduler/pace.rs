//! Repeated work: how long to rest in between, and what to log if it fails.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    db::{Backoff, DbError, ErrorKind, Failures},
    error::chain,
    metrics,
};

/// How long the audit and the snapshot may take to hand over what they hold, after a signal.
const HAND_ON_MAX: Duration = Duration::from_secs(5);

/// A task that took long rests for this many times as long, up to a maximum: it stays a small part of the time.
pub(super) const RESTS: u32 = 4;
pub(super) const REST_MAX: Duration = Duration::from_secs(30);

/// The pace of repeated work.
#[derive(Debug)]
pub(super) struct Pace {
    failed: &'static str,
    works: &'static str,
    again: Backoff,
    failures: Failures,
}

impl Pace {
    /// For work whose failure is logged as `failed`, and which is then tried again; once it succeeds, that is logged as
    /// `works`.
    pub fn new(failed: &'static str, works: &'static str, again: Backoff) -> Self {
        Self { failed, works, again, failures: Failures::default() }
    }

    /// Rests, at most until `shutdown`: for the time that the work asks for, or, after failures, for longer the more
    /// there have been.
    pub async fn rest_after(&mut self, done: Result<Duration, DbError>, shutdown: &CancellationToken) {
        let rest = match done {
            Ok(rest) => {
                self.failures.end(self.works);
                rest
            }
            Err(error) => {
                metrics::database_error(&error);
                let wait = self.again.wait(self.failures.add());
                if error.kind == ErrorKind::Unavailable {
                    tracing::warn!(error = %chain(&error), ?wait, "{}", self.failed);
                } else {
                    tracing::error!(error = %chain(&error), ?wait, "{}", self.failed);
                }
                wait
            }
        };
        shutdown.run_until_cancelled(tokio::time::sleep(rest)).await;
    }
}

/// Runs `work`, which ends by itself after `shutdown`; `None` if the database keeps it waiting for too long then.
/// What it holds is freed when its lease expires.
pub(super) async fn until_soon_after<T>(shutdown: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    let too_late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(HAND_ON_MAX).await;
    };
    tokio::select! {
        done = work => Some(done),
        () = too_late => None,
    }
}
