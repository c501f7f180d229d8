//! Turning migration records into rebuild runs.
//!
//! The lab system's table of records has no index for pending ones, and it grows: a tick reads the newest records,
//! which include any just inserted, and the next slice of the older ones, because an old record may have been set to
//! Pending again.
//!
//! A pending record is taken by compare-and-set, in the transaction that enqueues its run, so of two schedulers one
//! finds it taken. All pending records of a lab that a tick sees share one run. A record that cannot be carried out
//! is closed with the reason, and one that cannot be taken is reported; neither stops the others.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};

use super::{Enqueued, Report, Tick};
use crate::{
    args,
    db::{Db, DbError, ErrorKind, Mode, Tx, clipped},
    error::chain,
    metrics,
    queue::JobKind,
    recompute::stored,
    rollup::{Rollup, source},
    runs::{
        JobLimits, NewRun, Progress,
        held::Held,
        records::{self, Pending},
    },
    statement,
};

/// How many labs' records one tick takes: however many labs are switched on at once, runs are closed and days are
/// enqueued in between.
const LABS_A_TICK: usize = 20;

/// How many ids one tick scans: this many of the newest records, and as many of the older ones.
const IDS_A_TICK: i64 = 1000;

// If the time zone has changed, the last day that was enqueued may not be over in the new zone. If it has not, a day
// behind the history means that this clock is behind another scheduler's.
statement!(
    LAB_MOVED,
    "lab moved",
    "UPDATE daymend_labs SET enqueued_through = ?
     WHERE rollup = ? AND lab_id = ? AND time_zone <> ? AND enqueued_through > ?"
);

/// The days that a rebuild recomputes, and the history that they make up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The day of the lab's earliest bill.
    pub first: Option<NaiveDate>,
    /// The lab's yesterday.
    pub last: NaiveDate,
    /// Every day with facts or stored rows; stored rows may lie outside the history, and a recompute then removes
    /// them.
    pub days: Vec<NaiveDate>,
    /// The time zone of these days.
    pub zone: &'static str,
}

/// The position of a walk through the records, which goes round and round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walk {
    /// The id at which its slice begins.
    first: i64,
    /// The lab after which it continues within the slice.
    after: Option<i64>,
}

impl Walk {
    /// Whether a round has ended and the next begins.
    #[must_use]
    pub fn is_at_start(self) -> bool {
        self == Self::default()
    }
}

/// What rebuilds are enqueued with.
#[derive(Debug, Clone, Copy)]
pub struct Rebuilds<'a> {
    /// The database.
    pub db: &'a Db,
    /// The rollup.
    pub rollup: &'a Rollup,
    /// The limits of their jobs.
    pub limits: JobLimits,
    /// The moment taken as the present.
    pub now: DateTime<Utc>,
}

impl<'a> Tick<'a> {
    pub(super) fn rebuilds(&self) -> Rebuilds<'a> {
        Rebuilds { db: self.db, rollup: self.rollup, limits: self.config.rebuild_limits, now: self.now }
    }
}

impl Rebuilds<'_> {
    /// Takes all pending records, and enqueues one rebuild run per lab.
    pub(super) async fn take_all_pending(&self, report: &mut Report) -> Result<(), DbError> {
        let mut walk = Walk::default();
        loop {
            walk = self.take_pending(walk, report).await?;
            if walk.is_at_start() {
                return Ok(());
            }
        }
    }

    /// Takes the pending records of the next few labs in the walk, and enqueues one rebuild run per lab. Returns where
    /// the walk continues.
    ///
    /// An error for one lab is noted, and its records stay pending.
    pub async fn take_pending(&self, walk: Walk, report: &mut Report) -> Result<Walk, DbError> {
        let mut tx = self.db.begin(Mode::Snapshot).await?;
        let (pending, next) = look(&mut tx, walk.first).await?;
        tx.commit().await?;
        let mut last = None;
        let behind = |lab_id: &i64| walk.after.is_none_or(|after| *lab_id > after);
        let mut by_lab = by_lab(pending).into_iter().filter(|(lab_id, _)| behind(lab_id));
        for (lab_id, records) in by_lab.by_ref().take(LABS_A_TICK) {
            match self.take_lab(lab_id, &records, report).await {
                // A statement that is killed because it takes long would be killed at every tick, and no other lab
                // would get its turn.
                Err(error) if is_of_the_lab(&error, self.db).await => {
                    metrics::database_error(&error);
                    report.untaken.insert(lab_id, chain(&error));
                    // One such wait per tick is enough: there is other work.
                    if error.is_cut_off() {
                        return Ok(Walk { after: Some(lab_id), ..walk });
                    }
                }
                taken => taken?,
            }
            last = Some(lab_id);
        }
        let is_more = by_lab.next().is_some();
        Ok(if is_more { Walk { after: last, ..walk } } else { Walk { first: next, after: None } })
    }

    async fn take_lab(&self, lab_id: i64, records: &[Pending], report: &mut Report) -> Result<(), DbError> {
        let history = match self.history(lab_id).await {
            Err(error) if error.is_bad_data() => Err(chain(&error)),
            history => history?,
        };
        match history {
            Ok(history) => self.take(records, &history, report).await,
            Err(why) => {
                let refuse = || refuse(self.db, records, &why);
                if report.held.unless_held(self.db, &name_of(lab_id), "refuse migration", refuse).await?.is_some() {
                    report.refused.insert(lab_id, why);
                }
                Ok(())
            }
        }
    }

    /// The days to rebuild of a lab, or why it cannot be rebuilt.
    pub async fn history(&self, lab_id: i64) -> Result<Result<History, String>, DbError> {
        let mut tx = self.db.begin(Mode::Snapshot).await?;
        let Some(lab) = source::lab(&mut tx, self.rollup, lab_id).await? else {
            return Ok(Err(format!("lab {lab_id} does not exist")));
        };
        let zone = match lab.zone() {
            Ok(zone) => zone,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let last = zone.yesterday(self.now);
        let with_facts = source::days_with_facts(&mut tx, self.rollup, lab_id, zone, last).await?;
        let with_rows = stored::days(&mut tx, self.rollup, lab_id).await?;
        tx.commit().await?;
        let first = with_facts.first().copied();
        let days: BTreeSet<NaiveDate> = with_facts.into_iter().chain(with_rows).collect();
        Ok(Ok(History { first, last, days: days.into_iter().collect(), zone: zone.name() }))
    }

    /// Enqueues the rebuild of a lab whose history is known; `None` if somebody else has locked a record of the lab.
    ///
    /// The lab's pending records are taken. If there is none, or a scheduler is faster, one is inserted and taken in
    /// one transaction: no scheduler sees it pending, and enqueues it with limits of its own.
    pub async fn request(
        &self,
        lab_id: i64,
        history: &History,
        initiated_by: i64,
        held: &mut Held,
    ) -> Result<Option<Enqueued>, DbError> {
        let enqueue = || self.enqueue_requested(lab_id, history, initiated_by);
        held.unless_held(self.db, &name_of(lab_id), "take migration", enqueue).await
    }

    async fn enqueue_requested(&self, lab_id: i64, history: &History, initiated_by: i64) -> Result<Enqueued, DbError> {
        let mut tx = self.db.begin(Mode::Write).await?;
        let mut pending = records::pending(&mut tx, records::ALL).await?;
        pending.retain(|record| record.lab_id == lab_id);
        let mut taken = take(&mut tx, &pending, history).await?;
        if taken.is_empty() {
            let id = records::request(&mut tx, lab_id, initiated_by).await?;
            taken = take(&mut tx, &[Pending { id, lab_id, initiated_by }], history).await?;
        }
        let enqueued = self.enqueue_taken(&mut tx, &taken, history).await?;
        let enqueued = enqueued.ok_or_else(|| DbError::new("take migration", sqlx::Error::RowNotFound))?;
        tx.commit().await?;
        Ok(enqueued)
    }

    /// Takes the records of a lab, unless they are locked by somebody else.
    async fn take(&self, records: &[Pending], history: &History, report: &mut Report) -> Result<(), DbError> {
        let Some(first) = records.first() else { return Ok(()) };
        let enqueue = || self.enqueue(records, history);
        let enqueued = report.held.unless_held(self.db, &name_of(first.lab_id), "take migration", enqueue).await?;
        if let Some(enqueued) = enqueued.flatten() {
            report.note(JobKind::Rebuild, enqueued);
        }
        Ok(())
    }

    async fn enqueue(&self, records: &[Pending], history: &History) -> Result<Option<Enqueued>, DbError> {
        let mut tx = self.db.begin(Mode::Write).await?;
        let taken = take(&mut tx, records, history).await?;
        let enqueued = self.enqueue_taken(&mut tx, &taken, history).await?;
        tx.commit().await?;
        Ok(enqueued)
    }

    /// Enqueues the run of records that have been taken; `None` if there are none.
    async fn enqueue_taken(
        &self,
        tx: &mut Tx,
        taken: &[Pending],
        history: &History,
    ) -> Result<Option<Enqueued>, DbError> {
        let Some(first) = taken.first() else { return Ok(None) };
        let lab_id = first.lab_id;
        let labs = vec![(lab_id, history.days.clone())];
        let run = NewRun {
            reason: format!("rebuild of lab {lab_id}"),
            requested_by: format!("migration {} by {}", first.id, first.initiated_by),
            time_zone: Some(history.zone.to_owned()),
            lab_id: Some(lab_id),
            ..NewRun::new(JobKind::Rebuild, &self.rollup.name, self.now, labs, self.limits)
        };
        let enqueued = Enqueued::create(tx, run).await?;
        for record in taken {
            records::link(tx, record.id, enqueued.run).await?;
        }
        let lab = args![history.last, self.rollup.name.as_str(), lab_id, history.zone, history.last];
        tx.execute(&LAB_MOVED, lab).await?;
        Ok(Some(enqueued))
    }
}

/// Takes those records that nobody else has taken meanwhile.
async fn take(tx: &mut Tx, records: &[Pending], history: &History) -> Result<Vec<Pending>, DbError> {
    let progress = Progress { available: history.days.len() as u64, ..Progress::default() };
    let status = records::running_status(&progress);
    let mut taken = Vec::new();
    for record in records {
        if records::take(tx, record.id, &status, (history.first, Some(history.last))).await? {
            taken.push(*record);
        }
    }
    Ok(taken)
}

/// Logs that the records of a lab could not be taken.
pub(super) fn say_untaken(lab: i64, why: &str) {
    tracing::warn!(lab, "lab {lab} has migration records that cannot be taken: {why}");
}

/// Whether an error concerns one lab, and not the database as a whole.
async fn is_of_the_lab(error: &DbError, db: &Db) -> bool {
    matches!(error.kind, ErrorKind::Definition | ErrorKind::Other) || db.answers_others(error).await
}

/// The pending records of the slice that begins at the id `first`, and those among the newest; and where the next slice
/// begins.
async fn look(tx: &mut Tx, first: i64) -> Result<(Vec<Pending>, i64), DbError> {
    let Some((first, newest)) = records::ends(tx, first).await? else { return Ok((Vec::new(), 0)) };
    let next = first.saturating_add(IDS_A_TICK);
    let mut pending = records::pending(tx, first..=next - 1).await?;
    if next > newest {
        return Ok((pending, 0));
    }
    pending.extend(records::pending(tx, next.max(newest - IDS_A_TICK + 1)..=newest).await?);
    Ok((pending, next))
}

fn by_lab(pending: Vec<Pending>) -> BTreeMap<i64, Vec<Pending>> {
    let mut by_lab: BTreeMap<i64, Vec<Pending>> = BTreeMap::new();
    for record in pending {
        by_lab.entry(record.lab_id).or_default().push(record);
    }
    by_lab
}

/// The name of a lab's records in reports.
fn name_of(lab_id: i64) -> String {
    format!("migration records of lab {lab_id}")
}

/// The maximum length of a record's status in characters: the width of the lab system's column.
const STATUS_CHARACTERS_MAX: usize = 100;

/// Closes records that cannot be carried out.
async fn refuse(db: &Db, records: &[Pending], why: &str) -> Result<(), DbError> {
    let status = clipped(&format!("Failed ({why})"), STATUS_CHARACTERS_MAX);
    let (mut tx, mut refused) = (db.begin(Mode::Write).await?, Vec::new());
    for record in records {
        if records::take(&mut tx, record.id, &status, (None, None)).await? {
            refused.push(record);
        }
    }
    tx.commit().await?;
    for record in refused {
        tracing::warn!(migration = record.id, lab = record.lab_id, "migration record refused: {why}");
    }
    Ok(())
}
