//! Rows locked by somebody else: what needs them is left for later, and everything else goes on.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    db::{Db, DbError, Dialect, retry},
    error::chain,
    metrics,
};

/// For how long the first locked rows are retried; others are tried only once.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is left for later because of locked rows.
#[derive(Debug, Default)]
pub struct Held {
    /// What is left, with the database's message.
    pub left: BTreeMap<String, String>,
    /// How long locked rows were waited for, whether they became free or not.
    pub waited: Duration,
}

impl Held {
    /// Like [`retry()`], for one of many items, `what`; `None` if the item is left for later.
    ///
    /// SQLite has no row locks: a long write holds up everything else too, and what outlasts [`retry()`] is an error.
    pub(crate) async fn unless_held<T, F>(
        &mut self,
        db: &Db,
        what: &str,
        name: &'static str,
        attempt: impl Fn() -> F,
    ) -> Result<Option<T>, DbError>
    where
        F: Future<Output = Result<T, DbError>>,
    {
        let patience = if self.left.is_empty() { PATIENCE } else { Duration::ZERO };
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
                self.left.insert(what.to_owned(), chain(&error));
                Ok(None)
            }
        }
    }

    /// Logs which rows are locked by somebody else, and what happens then.
    pub fn warn(&self, then: &str) {
        for (what, error) in &self.left {
            tracing::warn!(error, "{what}: locked by another transaction, {then}");
        }
    }
}
