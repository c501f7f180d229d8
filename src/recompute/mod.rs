//! The recompute of a lab's days: compare with the source, write only the difference.
//!
//! In two steps, so that days that are right (nearly all of them, at night) cost a read:
//!
//! 1. **Look without locks.** In one consistent snapshot: the lab's zone, the facts, the
//!    stored rows. Equal: done; nothing was locked, nothing is written.
//! 2. **Correct.** In a new transaction at READ COMMITTED: the rows that were found missing are
//!    inserted; then the facts are read again, now under shared locks, then the stored rows; then
//!    whatever still differs is locked and written.
//!
//! Why the locks: the lab system's delta triggers add +1 and -1 to the summary inside the
//! user's own transaction. Read before that transaction commits and written after it, a
//! recomputed count would lose the delta for good. Under the shared locks either the user's
//! change is read, or it waits and its trigger applies to the corrected row. The facts that
//! do not count (cancelled bills) are read and locked as well: at READ COMMITTED MySQL lets
//! go of rows that a WHERE has turned away, and a bill restored just then would slip through.
//!
//! No row is waited for: one that somebody else has locked starts the correction over. A recompute
//! that waited with all its locks for a row of a user's transaction, which then wants another of that
//! bill's rows, would be a deadlock, and the user's transaction, which has done less, the victim. The
//! one lock that cannot be asked for without waiting is the table's AUTO-INC lock, which a delta
//! trigger's `INSERT … SELECT` keeps until its statement ends (`innodb_autoinc_lock_mode` 1, MariaDB's
//! default). That is why rows are inserted first, while nothing is locked.
//!
//! The queue's fence runs inside the correcting transaction (`settle`): a worker that lost
//! its lease has written nothing.
//!
//! Nothing is written for a day that is not over: such a day is expected to be empty.

pub mod diff;
pub mod shrink;
pub mod stored;

use std::future::Future;

use chrono::{DateTime, NaiveDate, Utc};

use crate::{
    calendar::{self, Zone, ZoneError},
    db::{Db, DbError, Mode, Tx, retry::AsDbError},
    rollup::{
        Rollup,
        aggregate::{DaySpan, Key},
        source::{self, Locking},
    },
};
use diff::{Correction, Difference};
use shrink::{MaxShrink, Shrinking, shrinking};
use stored::StoredRow;

/// Neighbouring days of one lab that are recomputed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The lab.
    pub lab_id: i64,
    /// The first day.
    pub first: NaiveDate,
    /// The last day, included.
    pub last: NaiveDate,
    /// The moment by which a day must be over to have rows.
    pub as_of: DateTime<Utc>,
    /// How much of a day may vanish at once.
    pub max_shrink: MaxShrink,
}

/// Why a recompute did not happen.
#[derive(Debug, thiserror::Error)]
pub enum RecomputeError {
    /// labs.sql does not return the lab.
    #[error("lab {0} does not exist")]
    NoSuchLab(i64),
    /// The lab's time zone cannot be used.
    #[error("lab {lab_id}")]
    Zone {
        /// The lab.
        lab_id: i64,
        /// What is wrong with its zone.
        #[source]
        source: ZoneError,
    },
    /// More facts than the count column can hold.
    #[error("lab {lab_id}, {day}: a count of {count} does not fit the summary table")]
    Overflow {
        /// The lab.
        lab_id: i64,
        /// The day.
        day: NaiveDate,
        /// The count.
        count: u32,
    },
    /// Too much of a day would vanish at once.
    #[error(
        "lab {lab_id}, {}: {} of {} rows would vanish, more than --max-shrink {max}, and no cancelled fact explains \
         them: is the source complete? If it is: daymend repair --max-shrink off",
        shrinking.day, shrinking.vanishing, shrinking.stored
    )]
    Shrinks {
        /// The lab.
        lab_id: i64,
        /// The day, and how much of it.
        shrinking: Shrinking,
        /// How much may.
        max: MaxShrink,
    },
    /// The queue has given the job to somebody else.
    #[error("the lease was lost")]
    LostLease,
    /// The database.
    #[error(transparent)]
    Database(#[from] DbError),
}

impl AsDbError for RecomputeError {
    fn as_db_error(&self) -> Option<&DbError> {
        match self {
            Self::Database(error) => Some(error),
            _ => None,
        }
    }
}

/// What a recompute changed on one day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Rows that were missing.
    pub inserted: u32,
    /// Rows with a wrong count.
    pub updated: u32,
    /// Rows without support in the source.
    pub deleted: u32,
}

impl Changes {
    /// Whether nothing was written.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Recomputes the days of `target`; what changed.
///
/// `settle` runs inside the correcting transaction, just before it commits, with the
/// difference that was written; it is not called where nothing differs.
pub async fn recompute<'a, F, S>(
    db: &'a Db,
    rollup: &'a Rollup,
    target: Target,
    settle: S,
) -> Result<Difference, RecomputeError>
where
    S: Fn(Tx, Difference) -> F + Send + Sync + 'a,
    F: Future<Output = Result<(Tx, Difference), RecomputeError>> + Send + 'a,
{
    crate::db::retry("correct", || async {
        let mut looks = 0;
        loop {
            looks += 1;
            let mut look = db.begin(Mode::Snapshot).await?;
            let found = compare(&mut look, rollup, target, Locking::None, &[]).await?.difference;
            look.commit().await?;
            if found.is_empty() {
                return Ok(found);
            }
            let mut tx = db.begin(Mode::Write).await?;
            let inserted = found.insertable(rollup);
            stored::insert(&mut tx, rollup, target.lab_id, &inserted).await?;
            let correction = compare(&mut tx, rollup, target, Locking::Shared, &inserted).await?;
            let is_late = correction.left.insert.iter().any(|row| !found.insert.contains(row));
            if correction.difference.is_empty() || is_late && looks < LOOKS_MAX {
                // What differed was somebody's work in progress: it is right by now, or differs otherwise.
                tx.rollback().await?;
                if correction.difference.is_empty() {
                    return Ok(correction.difference);
                }
                continue;
            }
            stored::write(&mut tx, rollup, target.lab_id, &correction).await?;
            let (tx, difference) = settle(tx, correction.difference).await?;
            tx.commit().await?;
            return Ok(difference);
        }
    })
    .await
}

/// How often to look again where the source has got new rows to insert since the last look, before
/// they are inserted with locks held.
const LOOKS_MAX: u32 = 5;

/// Reads facts and stored rows, and compares; `inserted` are rows that this transaction has inserted.
async fn compare(
    tx: &mut Tx,
    rollup: &Rollup,
    target: Target,
    locking: Locking,
    inserted: &[(Key, u32)],
) -> Result<Correction, RecomputeError> {
    let Sides { zone, expected, stored } = read(tx, rollup, target, locking).await?;
    let correction = Correction::new(rollup, &expected, stored, inserted);
    check_shrink(tx, rollup, target, zone, locking, &expected, &correction.difference).await?;
    Ok(correction)
}

/// What a comparison compares.
#[derive(Debug)]
pub struct Sides {
    /// The lab's time zone.
    pub zone: Zone,
    /// The rows that the source supports, in key order.
    pub expected: Vec<(Key, u32)>,
    /// The rows that are there.
    pub stored: Vec<StoredRow>,
}

/// Reads both sides of the comparison.
pub async fn read(tx: &mut Tx, rollup: &Rollup, target: Target, locking: Locking) -> Result<Sides, RecomputeError> {
    let lab_id = target.lab_id;
    let lab = source::lab(tx, rollup, lab_id).await?.ok_or(RecomputeError::NoSuchLab(lab_id))?;
    let zone = lab.zone().map_err(|source| RecomputeError::Zone { lab_id, source })?;
    let expected = expected(tx, rollup, target, zone, locking).await?;
    let stored = stored::read(tx, rollup, lab_id, (target.first, target.last)).await?;
    Ok(Sides { zone, expected, stored })
}

/// Refuses a difference that takes too much of a day away.
async fn check_shrink(
    tx: &mut Tx,
    rollup: &Rollup,
    target: Target,
    zone: Zone,
    locking: Locking,
    expected: &[(Key, u32)],
    difference: &Difference,
) -> Result<(), RecomputeError> {
    // Days that are not over are expected to be empty.
    let last = zone.yesterday(target.as_of);
    if shrinking(expected, difference, last, target.max_shrink, |_| false).is_none() {
        return Ok(());
    }
    let explained = self::expected(tx, &rollup.without_conditions(), target, zone, locking).await?;
    let is_explained = |row: &StoredRow| {
        let event = rollup.events.iter().position(|event| event.name == row.event);
        let key = event.zip(row.a).zip(row.b).map(|((event, a), b)| Key { day: row.day, a, b, event });
        key.is_none_or(|key| explained.binary_search_by_key(&key, |(key, _)| *key).is_ok())
    };
    match shrinking(expected, difference, last, target.max_shrink, is_explained) {
        Some(shrinking) => Err(shrinking.error(target.lab_id, target.max_shrink)),
        None => Ok(()),
    }
}

/// The rows that the source supports, in key order.
async fn expected(
    tx: &mut Tx,
    rollup: &Rollup,
    target: Target,
    zone: Zone,
    locking: Locking,
) -> Result<Vec<(Key, u32)>, RecomputeError> {
    let lab_id = target.lab_id;
    let last = target.last.min(zone.yesterday(target.as_of));
    if last < target.first {
        return Ok(Vec::new());
    }
    let days = DaySpan::new(zone, target.first, last);
    let rows = source::count_facts(tx, rollup, lab_id, &days, locking).await?.into_rows();
    match rows.iter().find(|(_, count)| i32::try_from(*count).is_err()) {
        Some((key, count)) => Err(RecomputeError::Overflow { lab_id, day: key.day, count: *count }),
        None => Ok(rows),
    }
}

/// The part of a difference that falls on `day`.
#[must_use]
pub fn changes_of(difference: &Difference, day: NaiveDate) -> Changes {
    let count = |found: usize| u32::try_from(found).unwrap_or(u32::MAX);
    Changes {
        inserted: count(difference.insert.iter().filter(|(key, _)| key.day == day).count()),
        updated: count(difference.update.iter().filter(|(_, key, _)| key.day == day).count()),
        deleted: count(difference.delete.iter().filter(|row| row.day == day).count()),
    }
}

/// Whether `next` is the date after `day`, so that both can share their reads.
#[must_use]
pub fn are_neighbours(day: NaiveDate, next: NaiveDate) -> bool {
    calendar::next(day) == next
}
