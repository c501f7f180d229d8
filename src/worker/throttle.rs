//! Holding back while the database is overloaded, like pt-table-checksum and gh-ost.
//!
//! Every two seconds a worker checks its limits: the number of threads running on the server, the lag of its
//! replicas, and an operator's own query. While one of them is exceeded, the worker claims nothing and starts
//! nothing; running work continues, and is soon over, because a unit is at most a week of one lab. The reason is
//! shown in the worker's row, for `daymend queue stats`, and in a metric. A value that cannot be read counts as
//! exceeded: an unreachable replica counts as lagging.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::Session;
use crate::{
    args,
    db::{Db, DbError, Mode, Query, clipped},
    error::chain,
    metrics::catalogue::THROTTLED,
    statement,
};

/// How often the limits are checked.
const EVERY: Duration = Duration::from_secs(2);

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);

statement!(THREADS_RUNNING, "threads running", mysql only: "SHOW GLOBAL STATUS LIKE 'Threads_running'");

statement!(THROTTLE_RECORD, "record throttle", "UPDATE daymend_workers SET throttled = ? WHERE id = ?");

/// How many characters of a reason are shown: the width of its column.
const SHOWN_CHARACTERS_MAX: usize = 255;

/// The reasons to hold back, as labels of the metric.
const REASONS: [&str; 3] = ["threads", "lag", "query"];

/// The limits above which a worker holds back.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// The maximum number of threads running on the server, this worker's own included.
    pub threads_max: Option<u32>,
    /// The maximum replication lag...
    pub lag_max: Duration,
    /// ... of these replicas.
    pub replicas: Vec<Db>,
    /// An operator's own query: the worker holds back while the first value of its result is above zero.
    pub query: Option<String>,
}

/// The gate that work waits at; contains the reason while it is closed.
pub(super) type Gate = watch::Receiver<Option<String>>;

impl Limits {
    /// Whether there are no limits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.threads_max.is_none() && self.replicas.is_empty() && self.query.is_none()
    }

    /// The gate, and the sender that controls it: closed until the first check; always open if there are no limits.
    pub(super) fn gate(&self) -> (watch::Sender<Option<String>>, Gate) {
        watch::channel((!self.is_empty()).then(|| "nobody has looked yet".to_owned()))
    }

    /// Checks all limits once; for each, the reason to hold back if it is exceeded.
    async fn look(&self, db: &Db) -> [Option<String>; REASONS.len()] {
        [self.threads(db).await, self.lag().await, self.query(db).await]
    }

    /// Checks that all limits can be read: one that cannot would hold the worker back for ever.
    ///
    /// # Errors
    /// What cannot be read, and why.
    pub async fn check(&self, db: &Db) -> Result<(), String> {
        if let Some(query) = &self.query {
            number(db, query).await.map_err(|error| format!("--throttle-query: {}", chain(&error)))?;
        }
        if self.threads_max.is_some() {
            threads_running(db).await.map_err(|error| format!("--throttle-threads: {}", chain(&error)))?;
        }
        for (place, replica) in self.replicas.iter().enumerate() {
            let channels = channels(replica).await.map_err(|error| format!("--replica-url: {}", chain(&error)))?;
            if channels.is_empty() {
                return Err(format!("--replica-url: server {} is no replica", place + 1));
            }
        }
        Ok(())
    }

    async fn threads(&self, db: &Db) -> Option<String> {
        let max = i64::from(self.threads_max?);
        match threads_running(db).await {
            Ok(running) => (running > max).then(|| format!("{running} threads run, more than {max}")),
            Err(error) => Some(format!("the running threads cannot be counted: {}", chain(&error))),
        }
    }

    async fn lag(&self) -> Option<String> {
        for (place, replica) in self.replicas.iter().enumerate() {
            let place = place + 1;
            let reason = match lag(replica).await {
                Ok(Some(lag)) if lag <= self.lag_max => continue,
                Ok(Some(lag)) => format!(
                    "replica {place} is {} behind, more than {}",
                    humantime::format_duration(lag),
                    humantime::format_duration(self.lag_max)
                ),
                Ok(None) => format!("replica {place} does not replicate"),
                Err(error) => format!("the lag of replica {place} cannot be read: {}", chain(&error)),
            };
            return Some(reason);
        }
        None
    }

    async fn query(&self, db: &Db) -> Option<String> {
        match number(db, self.query.as_deref()?).await {
            Ok(value) => (value > 0.0).then(|| format!("--throttle-query says {value}")),
            Err(error) => Some(format!("--throttle-query cannot be read: {}", chain(&error))),
        }
    }
}

/// Sets the metric to show that nothing holds the worker back: without limits, nothing else sets it.
pub(super) fn show_none() {
    for reason in REASONS {
        THROTTLED.set([reason], 0.0);
    }
}

/// Checks the limits regularly, and opens and closes the gate.
pub(super) async fn watch(session: Arc<Session>, gate: watch::Sender<Option<String>>) {
    let limits = &session.config.limits;
    let (mut last, mut recorded) = (None, None);
    loop {
        let found = limits.look(&session.db).await;
        for (reason, found) in REASONS.into_iter().zip(&found) {
            THROTTLED.set([reason], f64::from(u8::from(found.is_some())));
        }
        let reason = found.into_iter().flatten().next();
        gate.send_if_modified(|gate| {
            let is_changed = *gate != reason;
            gate.clone_from(&reason);
            is_changed
        });
        if last != reason {
            match &reason {
                Some(reason) => tracing::warn!(worker = session.worker_id, "holding back: {reason}"),
                None => tracing::info!(worker = session.worker_id, "going on"),
            }
        }
        // Recorded after the gate has changed: an overloaded database may take long to write it.
        if recorded != reason {
            let shown: Option<String> = reason.as_ref().map(|reason| clipped(reason, SHOWN_CHARACTERS_MAX));
            let db = session.db.with_limit(ANSWER_MAX);
            match db.execute(&THROTTLE_RECORD, args![shown, session.worker_id]).await {
                Ok(_) => recorded.clone_from(&reason),
                Err(error) => tracing::warn!(error = %chain(&error), "whether it holds back cannot be recorded"),
            }
        }
        last = reason;
        tokio::time::sleep(EVERY).await;
    }
}

async fn threads_running(db: &Db) -> Result<i64, DbError> {
    db.with_limit(ANSWER_MAX)
        .fetch_one(&THREADS_RUNNING, args![], |row| {
            row.text(1)?.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
        })
        .await
}

/// The lag of a replica: that of its slowest channel. `None` if a channel does not replicate, or if there is none.
async fn lag(replica: &Db) -> Result<Option<Duration>, DbError> {
    let behind: Option<Vec<i64>> = channels(replica).await?.into_iter().collect();
    let most = behind.and_then(|seconds| seconds.into_iter().max());
    Ok(most.map(|seconds| Duration::from_secs(seconds.unsigned_abs())))
}

/// How many seconds each channel of a replica is behind; `None` for a channel that does not replicate. A server that is
/// not a replica has no channels.
async fn channels(replica: &Db) -> Result<Vec<Option<i64>>, DbError> {
    let replica = replica.with_limit(ANSWER_MAX);
    // For MySQL 8.0.22+ and MariaDB 10.5.1+, which shows one channel unless asked for all; they name the column
    // differently.
    let query = Query::new("replica status", "SHOW /*M! ALL REPLICAS */ /*!80000 REPLICA */ STATUS");
    replica
        .fetch_all(query, args![], |row| {
            let column = row.position("Seconds_Behind_Source").or_else(|| row.position("Seconds_Behind_Master"));
            column.map_or(Ok(None), |column| row.int_or_null(column))
        })
        .await
}

/// The first value of the operator's query. It has to be a number: NULL is not one, and so holds the worker back.
async fn number(db: &Db, query: &str) -> Result<f64, DbError> {
    let mut tx = db.with_limit(ANSWER_MAX).begin(Mode::Snapshot).await?;
    tx.fetch_one(Query::new("throttle query", query), args![], |row| row.real(0)).await
}
