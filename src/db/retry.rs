//! Retrying after a conflict, and waiting for an unreachable database.

use std::{
    fmt::Display,
    future::Future,
    time::{Duration, Instant},
};

use rand::RngExt as _;

use super::{DbError, ErrorKind};
use crate::metrics::catalogue::DATABASE_RETRIES;

/// How often a conflict is retried before it is returned to the caller.
pub const RETRIES_MAX: u32 = 20;

/// Exponential backoff with jitter: between half and all of a ceiling that doubles.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The ceiling of the first wait.
    pub base: Duration,
    /// The maximum wait.
    pub max: Duration,
}

impl Backoff {
    /// For conflicts between transactions, which pass in milliseconds.
    pub const CONFLICT: Self = Self { base: Duration::from_millis(5), max: Duration::from_millis(250) };

    /// For a database that cannot be reached.
    pub const UNAVAILABLE: Self = Self { base: Duration::from_millis(200), max: Duration::from_secs(10) };

    /// How long to wait after the `failures`-th failure in a row (counting from 1): between half and all of a ceiling
    /// that doubles.
    #[must_use]
    pub fn wait(&self, failures: u32) -> Duration {
        let ceiling = self.base.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(self.max);
        ceiling.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

/// Failures in a row of something that is tried until it works.
#[derive(Debug, Default)]
pub struct Failures {
    count: u32,
    since: Option<Instant>,
}

impl Failures {
    /// Counts a failure; returns how many there have been in a row.
    pub fn add(&mut self) -> u32 {
        self.count += 1;
        self.since.get_or_insert_with(Instant::now);
        self.count
    }

    /// Logs `works` at the first success after failures: the log would end with them otherwise, though they are over.
    pub fn end(&mut self, works: impl Display) {
        if let Self { count: failures, since: Some(since) } = std::mem::take(self) {
            tracing::info!(failures, after = ?since.elapsed(), "{works}");
        }
    }
}

/// Runs a transaction, retrying it while it ends in a conflict.
///
/// `attempt` begins, works and commits. Deadlocks (1213), lock timeouts (1205), snapshot conflicts (1020), BUSY and
/// duplicate keys are retried with jitter, at most [`RETRIES_MAX`] times; every other error is returned.
pub async fn retry<T, E, F>(name: &'static str, mut attempt: impl FnMut() -> F) -> Result<T, E>
where
    E: AsDbError,
    F: Future<Output = Result<T, E>>,
{
    let mut failures = 0;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => {
                let conflict = error.conflict().map(|error| super::code(&error.source));
                failures += 1;
                match conflict {
                    Some(code) if failures <= RETRIES_MAX => {
                        DATABASE_RETRIES.add([name, &code.to_string()], 1);
                        tracing::debug!(transaction = name, code, failures, "conflict, starting over");
                        tokio::time::sleep(Backoff::CONFLICT.wait(failures)).await;
                    }
                    _ => return Err(error),
                }
            }
        }
    }
}

/// An error that may come from the database.
pub trait AsDbError {
    /// The database's error, if it is one.
    fn as_db_error(&self) -> Option<&DbError>;

    /// The database's error, if it is a conflict.
    fn conflict(&self) -> Option<&DbError> {
        self.as_db_error().filter(|error| error.kind == ErrorKind::Conflict)
    }
}

impl AsDbError for DbError {
    fn as_db_error(&self) -> Option<&DbError> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Of a conflict that does not end the caller hears in the end; of any other error at once.
    #[tokio::test]
    async fn only_conflicts_are_started_over_and_not_for_ever() {
        let tries = Cell::new(0);
        let fail = |error: fn() -> DbError| {
            tries.set(0);
            let tries = &tries;
            retry::<(), DbError, _>("test", move || async move {
                tries.set(tries.get() + 1);
                Err(error())
            })
        };
        assert_eq!(fail(|| DbError::changed("test")).await.unwrap_err().kind, ErrorKind::Conflict);
        assert_eq!(tries.get(), 1 + RETRIES_MAX);
        for other in
            [|| DbError::new("test", sqlx::Error::PoolTimedOut), || DbError::new("test", sqlx::Error::RowNotFound)]
        {
            assert_ne!(fail(other).await.unwrap_err().kind, ErrorKind::Conflict);
            assert_eq!(tries.get(), 1);
        }
    }
}
