//! The recompute of a lab's days: compare with the source, write only the difference.
//!
//! In two steps, so that days that are right (nearly all of them, at night) cost a read:
//!
//! 1. **Look.** In one consistent snapshot, without a lock: the lab's zone, the facts, the digests of the
//!    stored days ([`digest`]), and the stored rows where digests differ. Equal: done.
//! 2. **Correct.** In new transactions, in turns: the rows that are missing are inserted, the rows to change
//!    are locked; if each still holds what the look has seen, they are written. If not, the turn is rolled
//!    back, and what is left is looked at again. Where rows were inserted, the facts of their day are read
//!    again, under shared locks, and have to make the same of those rows. A turn ends with the first day that
//!    misses rows:
//!    beside users who change facts a longer one would hardly ever end, and keep them waiting.
//!
//! Why that is right beside the lab system's delta triggers, which add +1 and -1 to the summary inside
//! the user's own transaction: such a transaction changes a fact and a row together, so that a snapshot
//! sees both or neither. Seen: both sides hold it. Not seen, and it commits before the row is locked: the
//! row says so. Not seen, and it comes later: its delta applies to the corrected row. So no fact has to
//! be locked to change a row. To insert one, it has: a trigger that only updates rows finds none before
//! the insert, and leaves no trace.
//!
//! No row is waited for: one that somebody else has locked starts it over. A recompute that waited, with
//! rows locked, for a row of a user's transaction which then wants another of them would be a deadlock,
//! and the user's transaction, which has done less, the victim. The one lock that cannot be asked for
//! without waiting is the table's AUTO-INC lock, which a delta trigger's `INSERT … SELECT` keeps until its
//! statement ends (`innodb_autoinc_lock_mode` 1, MariaDB's default). That is why rows are inserted first,
//! while nothing is locked.
//!
//! The queue's fence runs inside the correcting transaction (`settle`): a worker that lost
//! its lease has written nothing.
//!
//! Nothing is inserted for a day that is not over: it is expected to be empty, and rows on it are removed.

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
         them: is the source complete? If it is: daymend repair --lab {lab_id} --day {} --max-shrink off",
        shrinking.day, shrinking.vanishing, shrinking.stored, shrinking.day
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

/// Days that one transaction has made right.
#[derive(Debug)]
pub struct Turn {
    /// The days: those after the turn before, and at the end one that was wrong.
    pub days: RangeInclusive<NaiveDate>,
    /// What was wrong.
    pub difference: Difference,
}

/// How far a recompute has come: the last day of the turns that it has committed. They stand, however it
/// ends.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Option<NaiveDate>>);

impl Progress {
    /// The last day that is settled.
    #[must_use]
    pub fn last(&self) -> Option<NaiveDate> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, last: NaiveDate) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
    }

    /// What of `target` is still to be done.
    fn rest_of(&self, target: Target) -> Target {
        Target { first: self.last().map_or(target.first, calendar::next), ..target }
    }
}

/// Recomputes the days of `target`, none of which is in `progress` yet.
///
/// They are looked at together, and corrected in turns: a turn ends with a day on which rows are missing.
/// `settle` runs inside each turn's transaction, just before it commits, with what was written, and
/// `committed` as soon as it has; neither is called for the days after the last that differs.
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
    S: Fn(Tx, Turn) -> F + Send + Sync + 'a,
    F: Future<Output = Result<(Tx, Turn), RecomputeError>> + Send + 'a,
    C: Fn(Turn) + Send + Sync + 'a,
{
    let correct = async |target: Target, turn: Turn| {
        let mut tx = db.begin(Mode::Write).await?;
        stored::write(&mut tx, rollup, target.lab_id, &turn.difference).await?;
        compare::hold_facts(&mut tx, rollup, target, &turn.difference).await?;
        let (tx, turn) = settle(tx, turn).await?;
        tx.commit().await?;
        progress.advance(*turn.days.end());
        committed(turn);
        Ok::<_, RecomputeError>(())
    };
    let look_and_correct = async || {
        let begun = progress.last();
        let mut target = progress.rest_of(target);
        let mut look = db.begin(Mode::Snapshot).await?;
        let mut found = compare::look(&mut look, rollup, target, streak).await?;
        look.commit().await?;
        while let Some(last) = found.last_of_turn() {
            let turn = Turn { days: target.first..=last, difference: found.take_until(last) };
            match correct(target, turn).await {
                Ok(()) => target = progress.rest_of(target),
                // After a turn that succeeded it is the first of the next.
                Err(error) if progress.last() != begun && error.conflict().is_some() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    };
    while !crate::db::retry("correct", &look_and_correct).await? {}
    Ok(())
}

/// Whether the last days had wrong rows, so that the next are likely to have some as well: then their
/// rows are read at once, without asking for digests first. Shared by the recomputes of a worker.
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
