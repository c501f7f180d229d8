//! The recompute of a lab's days: compares them with the source, and writes only the difference.
//!
//! It has two steps, so that a day that is right (at night, nearly all of them) costs only a read:
//!
//! 1. **Look.** In one consistent snapshot, without locks, it reads the lab's zone, the facts, the digests of the
//!    stored days ([`digest`]), and, where digests differ, the stored rows. If everything is equal, it is done.
//! 2. **Correct.** In new transactions, one per correction: missing rows are inserted, and rows to change are locked;
//!    if each still holds what the look saw, they are written. If not, the transaction is rolled back, and the
//!    remaining days are looked at again. If rows were inserted, the facts of their day are read again under shared
//!    locks, and have to give the same rows. A correction ends with the first day that has missing rows: while users
//!    change facts, a longer one would hardly ever succeed, and would keep them waiting.
//!
//! Why this is correct alongside the lab system's delta triggers, which add +1 and -1 to the summary inside the user's
//! own transaction: such a transaction changes a fact and a row together, so a snapshot sees both or neither. If it
//! is seen, both sides include it. If it is not seen and commits before the row is locked, the row has changed, and
//! the correction notices. If it comes later, its delta applies to the corrected row. So changing a row needs no lock
//! on facts. Inserting one does: a trigger that only updates rows finds none before the insert, and leaves no trace.
//!
//! It never waits for a row: if somebody else has locked one, it starts over. If it waited while holding row locks,
//! for a row of a user's transaction that then needs another of these rows, there would be a deadlock, and the victim
//! would be the user's transaction, which has done less. The one lock that cannot be requested without waiting is the
//! table's AUTO-INC lock, which a delta trigger's `INSERT … SELECT` keeps until its statement ends
//! (`innodb_autoinc_lock_mode` 1, MariaDB's default). That is why rows are inserted first, while nothing is locked.
//!
//! The queue's fence runs inside the correcting transaction (`settle`), so a worker that lost its lease writes
//! nothing.
//!
//! Nothing is inserted for a day that is not over: it should be empty, and rows on it are removed.

mod compare;
pub mod diff;
pub mod digest;
pub mod shrink;
pub mod stored;

use std::{
    future::Future,
    ops::RangeInclusive,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use chrono::{DateTime, NaiveDate, Utc};

use crate::{
    calendar::{self, ZoneError},
    db::{Db, DbError, Mode, Tx, retry::AsDbError},
    rollup::Rollup,
};
pub use compare::{Sides, read};
use diff::Difference;
use shrink::{MaxShrink, Shrinking};

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
    /// The share of a day's rows that may vanish at once.
    pub max_shrink: MaxShrink,
}

/// Why a recompute did not happen.
#[derive(Debug, thiserror::Error)]
pub enum RecomputeError {
    /// labs.sql does not return the lab.
    #[error("lab {0} does not exist")]
    NoSuchLab(i64),
    /// The lab's time zone is unusable.
    #[error("lab {lab_id}")]
    Zone {
        /// The lab.
        lab_id: i64,
        /// What is wrong with its zone.
        #[source]
        source: ZoneError,
    },
    /// There are more facts than the count column can hold.
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
         them: is the source complete? If it is: daymend repair --lab {lab_id} --day {} --max-shrink off",
        shrinking.day, shrinking.vanishing, shrinking.stored, shrinking.day
    )]
    Shrinks {
        /// The lab.
        lab_id: i64,
        /// The day, and how many of its rows.
        shrinking: Shrinking,
        /// The share that may vanish.
        max: MaxShrink,
    },
    /// The queue has given the job to another worker.
    #[error("the lease was lost")]
    LostLease,
    /// A database error.
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
    /// Rows that the source does not support.
    pub deleted: u32,
}

/// Days that one transaction has corrected.
#[derive(Debug)]
pub struct Correction {
    /// The days: those after the previous correction, up to one that was wrong.
    pub days: RangeInclusive<NaiveDate>,
    /// What was wrong.
    pub difference: Difference,
}

/// Progress of a recompute: the last day of the corrections it has committed, which stay, however it ends.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Option<NaiveDate>>);

impl Progress {
    /// The last day that is done.
    #[must_use]
    pub fn last(&self) -> Option<NaiveDate> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, last: NaiveDate) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
    }

    /// The days of `target` that are still to be done.
    fn rest_of(&self, target: Target) -> Target {
        Target { first: self.last().map_or(target.first, calendar::next), ..target }
    }
}

/// Recomputes those days of `target` that are not in `progress` yet.
///
/// The days are looked at together, and corrected one after the other: each [`Correction`] ends with a day that has
/// missing rows. `settle` runs inside its transaction, just before it commits, with what was written, and `committed`
/// as soon as it has committed; neither is called for the days after the last that differs.
pub async fn recompute<'a, F, S, C>(
    db: &'a Db,
    rollup: &'a Rollup,
    target: Target,
    streak: &'a Streak,
    progress: &'a Progress,
    settle: S,
    committed: C,
) -> Result<(), RecomputeError>
where
    S: Fn(Tx, Correction) -> F + Send + Sync + 'a,
    F: Future<Output = Result<(Tx, Correction), RecomputeError>> + Send + 'a,
    C: Fn(Correction) + Send + Sync + 'a,
{
    let correct = async |target: Target, correction: Correction| {
        let mut tx = db.begin(Mode::Write).await?;
        stored::write(&mut tx, rollup, target.lab_id, &correction.difference).await?;
        compare::hold_facts(&mut tx, rollup, target, &correction.difference).await?;
        let (tx, correction) = settle(tx, correction).await?;
        tx.commit().await?;
        progress.advance(*correction.days.end());
        committed(correction);
        Ok::<_, RecomputeError>(())
    };
    let look_and_correct = async || {
        let begun = progress.last();
        let mut target = progress.rest_of(target);
        let mut look = db.begin(Mode::Snapshot).await?;
        let mut found = compare::look(&mut look, rollup, target, streak).await?;
        look.commit().await?;
        while let Some(last) = found.last_of_correction() {
            let correction = Correction { days: target.first..=last, difference: found.take_until(last) };
            match correct(target, correction).await {
                Ok(()) => target = progress.rest_of(target),
                // A conflict after a successful correction starts a new count of retries.
                Err(error) if progress.last() != begun && error.conflict().is_some() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    };
    while !crate::db::retry("correct", &look_and_correct).await? {}
    Ok(())
}

/// Whether the latest days had wrong rows, which makes it likely that the next have some too: their rows are then
/// read at once, without asking for digests first. Shared by all recomputes of a worker.
#[derive(Debug, Default)]
pub struct Streak(AtomicBool);

impl Streak {
    fn is_wrong(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn goes_on(&self, found: &Difference) {
        self.0.store(!found.update.is_empty() || !found.delete.is_empty(), Ordering::Relaxed);
    }
}

/// The part of a difference that falls on `day`.
#[must_use]
pub fn changes_of(difference: &Difference, day: NaiveDate) -> Changes {
    let count = |found: usize| u32::try_from(found).unwrap_or(u32::MAX);
    Changes {
        inserted: count(difference.insert.iter().filter(|(key, _)| key.day == day).count()),
        updated: count(difference.update.iter().filter(|update| update.key.day == day).count()),
        deleted: count(difference.delete.iter().filter(|row| row.day == day).count()),
    }
}
