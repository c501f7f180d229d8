//! Rows locked by somebody else: what needs them is left for the next tick, and everything else goes on.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::Report;
use crate::{
    db::{Db, DbError, Dialect, retry},
    error::chain,
    metrics,
};

/// For how long a tick retries the first locked rows that it meets; it tries others only once.
const PATIENCE: Duration = Duration::from_secs(1);

impl Report {
    /// Like [`retry()`], for one of many items, `what`; `None` if the item is left for the next tick.
    ///
    /// SQLite has no row locks: a long write holds up everything else too, and what outlasts [`retry()`] is an error.
    pub(super) async fn unless_held<T, F>(
        &mut self,
        db: &Db,
        what: &str,
        name: &'static str,
        attempt: impl Fn() -> F,
    ) -> Result<Option<T>, DbError>
    where
        F: Future<Output = Result<T, DbError>>,
    {
        let patience = if self.held.is_empty() { PATIENCE } else { Duration::ZERO };
        let begun = Instant::now();
        let (waited, outcome) = retry(name, || async {
            let waited = begun.elapsed();
            match attempt().await {
                Err(error) if error.is_passing() && db.dialect() == Dialect::MySql && begun.elapsed() >= patience => {
                    Ok((begun.elapsed(), Err(error)))
                }
                outcome => outcome.map(|value| (waited, Ok(value))),
            }
        })
        .await?;
        self.waited += waited;
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                metrics::database_error(&error);
                self.held.insert(what.to_owned(), chain(&error));
                Ok(None)
            }
        }
    }

    /// Logs which rows are locked by somebody else, and what happens then.
    pub fn warn_of_held(&self, then: &str) {
        for (what, error) in &self.held {
            tracing::warn!(error, "{what}: locked by another transaction, {then}");
        }
    }
}

/// Logs what has been left for the next tick; once for each, until it is no longer held.
pub(super) fn report_held(held: &BTreeMap<String, String>, reported: &mut BTreeMap<String, String>) {
    for (what, error) in held {
        if !reported.contains_key(what) {
            tracing::warn!(error, "{what}: locked by another transaction, left for a later tick");
        }
    }
    reported.clone_from(held);
}
