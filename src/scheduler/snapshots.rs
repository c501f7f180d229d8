//! The daily snapshot: one per day, however many schedulers there are.
//!
//! `daymend_snapshots` has a row for each day. The process that turns it from `waiting` to `running` takes the
//! snapshot and keeps renewing its claim; if the claim has not been renewed for a while, another process may take
//! over. This runs in a task of its own: the ticks go on whatever it does.
//!
//! How it fails: a snapshot that cannot be taken is tried again, first after a minute and then at growing intervals;
//! if its taker died after completing the snapshot but before recording that, it is found in the store and not taken
//! again.

use std::{
    ops::RangeInclusive,
    str::FromStr,
    time::{Duration, Instant},
};

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use tokio_util::sync::CancellationToken;

use super::{
    nightly::NightlyAt,
    pace::{Pace, until_soon_after},
};
use crate::{
    args,
    clock::Clock,
    db::{Backoff, Db, DbError, clipped},
    error::chain,
    metrics::{
        self,
        catalogue::{SNAPSHOT_COMPLETED, SNAPSHOT_DURATION, SNAPSHOT_SIZE, SNAPSHOTS},
    },
    snapshot::{self, Manifest, Store, retention},
    statement,
};

/// How often to check whether a snapshot is due.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long a claim lasts without being renewed, and how often it is renewed.
const LEASE: Duration = Duration::from_secs(60);
const HOLD_EVERY: Duration = Duration::from_secs(15);

/// How long to wait after the first failure; doubles with each failure.
const RETRY: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(1800);

/// The width of the error column.
const ERROR_LENGTH_MAX: usize = 1000;

statement!(STATE, "snapshot state", "SELECT state FROM daymend_snapshots WHERE day = ?");

statement!(
    ADD,
    "snapshot add",
    "{insert_ignore} INTO daymend_snapshots (day, state, attempt, due_us) VALUES (?, 'waiting', 0, 0)"
);

statement!(
    TAKE,
    "snapshot take",
    "UPDATE daymend_snapshots SET state = 'running', attempt = attempt + 1, due_us = {now_us} + ?, holder = ?
     WHERE day = ? AND state IN ('waiting', 'running') AND due_us <= {now_us}"
);

statement!(
    HOLD,
    "snapshot hold",
    "UPDATE daymend_snapshots SET due_us = {now_us} + ? WHERE day = ? AND holder = ? AND state = 'running'"
);

statement!(
    DONE,
    "snapshot done",
    "UPDATE daymend_snapshots SET state = 'done', name = ?, size = ?, row_count = ?, took_ms = ?, finished_at = {now},
            error = NULL
     WHERE day = ? AND holder = ? AND state = 'running'"
);

statement!(
    FAILED,
    "snapshot failed",
    "UPDATE daymend_snapshots SET state = 'waiting', due_us = {now_us} + ?, error = ?
     WHERE day = ? AND holder = ? AND state = 'running'"
);

statement!(ATTEMPT, "snapshot attempt", "SELECT attempt FROM daymend_snapshots WHERE day = ?");

statement!(
    LAST,
    "snapshot last",
    "SELECT finished_at, size, took_ms FROM daymend_snapshots WHERE state = 'done' ORDER BY day DESC LIMIT 1"
);

/// When the daily snapshot is due: a time in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotAt(NaiveTime);

impl FromStr for SnapshotAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(NightlyAt::Utc(time)) => Ok(Self(time)),
            _ => Err(format!("{text:?} is not a time such as \"02:00 UTC\"")),
        }
    }
}

impl SnapshotAt {
    /// The latest day whose snapshot is due, and the moment since which it is.
    fn due(self, now: DateTime<Utc>) -> (NaiveDate, DateTime<Utc>) {
        let today = now.date_naive();
        let day = if now.time() < self.0 { today.checked_sub_days(Days::new(1)).unwrap_or(today) } else { today };
        (day, day.and_time(self.0).and_utc())
    }
}

/// Configuration of the daily snapshot.
#[derive(Debug, Clone)]
pub struct Daily {
    /// When it is due.
    pub at: SnapshotAt,
    /// Where to store it.
    pub store: Store,
    /// The database, as a user who may read all of the tables.
    pub source: Db,
    /// Which tables to copy.
    pub tables: Vec<String>,
    /// Which snapshots to keep.
    pub keep: retention::Keep,
    /// Identifies this process among all that might take it.
    pub holder: String,
}

/// The result of one check.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing is due, or another process is taking it.
    Nothing,
    /// It was taken.
    Taken,
    /// It could not be taken, and will be tried again.
    Failed,
}

/// Takes daily snapshots when due, until `shutdown`.
pub async fn run(db: &Db, daily: &Daily, clock: Clock, shutdown: &CancellationToken) {
    for result in ["ok", "failed"] {
        SNAPSHOTS.add([result], 0);
    }
    let again = Backoff { base: LOOK_EVERY, max: LOOK_EVERY };
    let mut pace = Pace::new(
        "the state of the daily snapshot cannot be read, trying again",
        "the state of the daily snapshot is read again",
        again,
    );
    while !shutdown.is_cancelled() {
        let look = look(db, daily, clock, shutdown);
        let Some(looked) = until_soon_after(shutdown, look).await else { return };
        pace.rest_after(looked.map(|_| LOOK_EVERY), shutdown).await;
    }
}

/// Takes the daily snapshot if it is due and no other process is taking it.
///
/// # Errors
/// If the database cannot tell.
pub async fn look(db: &Db, daily: &Daily, clock: Clock, shutdown: &CancellationToken) -> Result<Look, DbError> {
    show(db).await?;
    let now = db.now(clock).await?;
    let (day, due_at) = daily.at.due(now);
    match db.fetch_optional(&STATE, args![day], |row| row.text(0)).await?.as_deref() {
        Some("done") => return Ok(Look::Nothing),
        Some(_) => {}
        None => {
            db.execute(&ADD, args![day]).await?;
        }
    }
    if db.execute(&TAKE, args![LEASE.as_micros(), daily.holder.as_str(), day]).await? == 0 {
        return Ok(Look::Nothing);
    }
    let begun = Instant::now();
    let result = tokio::select! {
        result = take(daily, due_at..=now, clock) => result,
        () = hold(db, daily, day) => {
            tracing::warn!("this process lost its claim on the daily snapshot: another one may take it over");
            return Ok(Look::Failed);
        }
        () = shutdown.cancelled() => {
            db.execute(&FAILED, args![0_i64, "shut down", day, daily.holder.as_str()]).await?;
            return Ok(Look::Failed);
        }
    };
    let took = begun.elapsed();
    match result {
        Ok(manifest) => {
            let (name, size, rows) = (manifest.name.to_string(), manifest.size, manifest.rows());
            db.execute(&DONE, args![name, size, rows, manifest.took_ms, day, daily.holder.as_str()]).await?;
            SNAPSHOTS.add(["ok"], 1);
            tracing::info!(snapshot = %manifest.name, rows, size, ?took, "daily snapshot");
            prune(daily, &manifest).await;
            show(db).await?;
            Ok(Look::Taken)
        }
        Err(error) => {
            SNAPSHOTS.add(["failed"], 1);
            let why = chain(error.as_ref());
            let attempt = db.fetch_optional(&ATTEMPT, args![day], |row| row.int(0)).await?.unwrap_or(1);
            let wait = RETRY.saturating_mul(1 << (attempt.clamp(1, 10) - 1)).min(RETRY_MAX);
            tracing::error!(error = why, attempt, ?wait, "the daily snapshot failed, trying again");
            let why = clipped(&why, ERROR_LENGTH_MAX);
            db.execute(&FAILED, args![wait.as_micros(), why, day, daily.holder.as_str()]).await?;
            Ok(Look::Failed)
        }
    }
}

/// Takes a snapshot, unless the store already has one of this database with these tables, taken since it was due. One
/// whose name is in the future (its taker's clock was ahead) does not count: it would do so every day.
async fn take(daily: &Daily, since_due: RangeInclusive<DateTime<Utc>>, clock: Clock) -> anyhow::Result<Manifest> {
    let database = daily.source.name();
    for name in daily.store.names().await?.into_iter().rev().filter(|name| since_due.contains(&name.time())) {
        if let Ok(manifest) = daily.store.manifest(name).await
            && manifest.server.database == database
            && daily.tables.iter().all(|table| manifest.table(table).is_some())
        {
            return Ok(manifest);
        }
    }
    // If the database is unreachable, this error says which one it is, and why.
    daily.source.ping().await?;
    let taken = snapshot::take(&daily.source, &daily.store, Some(&daily.tables), clock, &|_| ()).await;
    taken.map_err(|error| snapshot::advised(error, snapshot::READER))
}

/// Keeps renewing the claim on the snapshot; ends when it is lost.
async fn hold(db: &Db, daily: &Daily, day: NaiveDate) {
    let mut held = Instant::now();
    while held.elapsed() < LEASE {
        tokio::time::sleep(HOLD_EVERY).await;
        match db.execute(&HOLD, args![LEASE.as_micros(), day, daily.holder.as_str()]).await {
            Ok(0) => return,
            Ok(_) => held = Instant::now(),
            Err(error) => metrics::database_error(&error),
        }
        let _ = show(db).await;
    }
}

/// Prunes old snapshots. An error is only logged: the new snapshot is worth more than the room that old ones take.
async fn prune(daily: &Daily, taken: &Manifest) {
    match retention::prune(&daily.store, &daily.keep, Some(taken), Clock::System.now(), false).await {
        Ok(pruned) => {
            for (name, error) in &pruned.unread {
                tracing::warn!(snapshot = %name, error = %chain(error), "a snapshot that cannot be read is kept");
            }
            for name in &pruned.ahead {
                tracing::warn!(snapshot = %name, "a snapshot whose name is in the future is kept");
            }
            if !pruned.removed.is_empty() {
                tracing::info!(snapshots = pruned.removed.len(), "pruned old snapshots");
            }
        }
        Err(error) => tracing::warn!(error = %chain(&error), "old snapshots cannot be pruned"),
    }
}

/// Sets the gauges, to zero if there is no snapshot yet.
async fn show(db: &Db) -> Result<(), DbError> {
    let last = db.fetch_optional(&LAST, args![], |row| {
        let at = row.instant_or_null(0)?.map_or(0.0, |at| at.timestamp() as f64);
        Ok((at, row.int_or_null(1)?.unwrap_or(0), row.int_or_null(2)?.unwrap_or(0)))
    });
    let (at, size, took_ms) = last.await?.unwrap_or_default();
    SNAPSHOT_COMPLETED.set([], at);
    SNAPSHOT_SIZE.set([], size as f64);
    SNAPSHOT_DURATION.set([], took_ms as f64 / 1000.0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_is_due_when_its_time_has_come() {
        let at: SnapshotAt = "02:00 UTC".parse().unwrap();
        for (now, day) in [
            ("2026-11-21T02:00:00Z", "2026-11-21"),
            ("2026-11-21T01:59:59Z", "2026-11-20"),
            ("2026-11-21T23:59:59Z", "2026-11-21"),
            ("2026-01-01T00:00:00Z", "2025-12-31"),
        ] {
            let (due, moment) = at.due(now.parse().unwrap());
            assert_eq!(due.to_string(), day, "{now}");
            assert_eq!(moment.to_rfc3339(), format!("{day}T02:00:00+00:00"));
        }
        assert!("02:00 local".parse::<SnapshotAt>().is_err());
        assert!("2".parse::<SnapshotAt>().is_err());
    }
}
