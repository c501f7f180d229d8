//! Pausing a kind of job, or a lab.
//!
//! A claim skips a paused kind, and sets aside the jobs of a paused lab when their turn comes. Running jobs go on.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use strum::IntoEnumIterator as _;

use super::write_log;
use crate::{
    args,
    db::{Db, DbError, Mode, Tx, clipped, retry},
    queue::{JobKind, PAUSED, claim, enqueue, run_of},
    runs::WHO_CHARACTERS_MAX,
    statement,
};

/// How many parked jobs of a lab one statement gives turns to.
const JOBS_A_STATEMENT: u32 = 500;

statement!(
    PAUSE,
    "pause",
    "{insert_ignore} INTO daymend_pauses (what, lab_id, paused_at, paused_by) VALUES (?, ?, {now}, ?)"
);

statement!(RESUME, "resume", "DELETE FROM daymend_pauses WHERE what = ?");

statement!(PAUSES, "pauses", "SELECT what, lab_id, paused_at, paused_by FROM daymend_pauses ORDER BY what");

statement!(
    PARKED,
    "parked jobs",
    "SELECT id, kind FROM daymend_jobs WHERE lab_id = ? AND state = 'available' AND sort_key = ? ORDER BY id LIMIT ?"
);

statement!(
    UNPARK,
    "unpark",
    "UPDATE daymend_jobs SET sort_key = ? WHERE state = 'available' AND sort_key = ? AND id IN ({list})"
);

/// What can be paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// All jobs of a kind.
    Kind(JobKind),
    /// All jobs of a lab.
    Lab(i64),
}

impl Target {
    /// The name in the table of pauses, and in the admin log.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Kind(kind) => claim::pause_name(kind),
            Self::Lab(lab) => format!("lab:{lab}"),
        }
    }
}

/// Something that is paused.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Pause {
    /// `kind:rebuild` or `lab:7`.
    pub what: String,
    /// The lab, if a lab is paused.
    pub lab_id: Option<i64>,
    /// Since when.
    pub paused_at: DateTime<Utc>,
    /// By whom.
    pub paused_by: String,
}

/// What is paused.
pub(crate) async fn list(tx: &mut Tx) -> Result<Vec<Pause>, DbError> {
    tx.fetch_all(&PAUSES, args![], |row| {
        Ok(Pause {
            what: row.text(0)?,
            lab_id: row.int_or_null(1)?,
            paused_at: row.instant(2)?,
            paused_by: row.text(3)?,
        })
    })
    .await
}

/// Whether it is paused.
pub async fn is_paused(db: &Db, target: Target) -> Result<bool, DbError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    Ok(list(&mut tx).await?.iter().any(|pause| pause.what == target.name()))
}

/// Pauses; returns false if it was already paused.
pub async fn pause(db: &Db, target: Target, who: &str) -> Result<bool, DbError> {
    let lab = match target {
        Target::Kind(_) => None,
        Target::Lab(lab) => Some(lab),
    };
    let by = clipped(who, WHO_CHARACTERS_MAX);
    retry("pause", || async {
        let mut tx = db.begin(Mode::Write).await?;
        let paused = tx.execute(&PAUSE, args![target.name(), lab, by.as_str()]).await? > 0;
        if paused {
            write_log(&mut tx, who, "pause", &target.name(), 0).await?;
        }
        tx.commit().await?;
        Ok(paused)
    })
    .await
}

/// Resumes; returns how many jobs had been set aside, or `None` if it was not paused and no job had been set aside.
///
/// Jobs that were set aside get turns from the current one on, in the order of their days. This includes those of a
/// lab that is no longer paused; otherwise nobody would ever claim them.
pub async fn resume(db: &Db, target: Target, who: &str) -> Result<Option<u64>, DbError> {
    retry("resume", || async {
        let mut tx = db.begin(Mode::Write).await?;
        let was_paused = tx.execute(&RESUME, args![target.name()]).await? > 0;
        let jobs = match target {
            Target::Kind(_) => 0,
            Target::Lab(lab) => unpark(&mut tx, lab).await?,
        };
        if !was_paused && jobs == 0 {
            return Ok(None);
        }
        write_log(&mut tx, who, "resume", &target.name(), jobs).await?;
        tx.commit().await?;
        Ok(Some(jobs))
    })
    .await
}

/// Gives parked jobs turns as if their runs had just enqueued them.
async fn unpark(tx: &mut Tx, lab: i64) -> Result<u64, DbError> {
    // Read once, so that all parked jobs get turns counted from the same front.
    let mut fronts = HashMap::new();
    for kind in JobKind::iter() {
        fronts.insert(kind, enqueue::front(tx, kind).await?);
    }
    // How many jobs of each run already have a turn.
    let mut places: HashMap<i64, usize> = HashMap::new();
    let mut unparked = 0;
    loop {
        let mut turns: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        tx.for_each(&PARKED, args![lab, PAUSED, JOBS_A_STATEMENT], |row| {
            let (id, kind): (i64, JobKind) = (row.int(0)?, row.text(1)?.parse()?);
            let place = places.entry(run_of(id)).or_default();
            turns.entry(fronts[&kind] + (*place / enqueue::DAYS_A_TURN) as i64).or_default().push(id);
            *place += 1;
            Ok(())
        })
        .await?;
        if turns.is_empty() {
            return Ok(unparked);
        }
        for (turn, ids) in turns {
            unparked += tx.execute(UNPARK.with_list(ids.len()), args![turn, PAUSED; ids]).await?;
        }
    }
}
