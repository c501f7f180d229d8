//! How far the standing audit has come with each lab: one row per lab, however long its history.
//!
//! A round is one pass over a lab's history, oldest day first, over as many nights as it takes. The lab whose last
//! complete round began longest ago is served first, so the days audited next are those that have gone unaudited the
//! longest.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};

use crate::{
    args,
    db::{Db, DbError, Mode, Tx, clipped, retry},
    statement,
};

/// How many labs one statement names.
const LABS_A_STATEMENT: usize = 500;

/// The maximum length of a recorded problem in characters.
const PROBLEM_LENGTH_MAX: usize = 500;

statement!(
    CURSORS,
    "audit cursors",
    "SELECT lab_id, next_day, round_at, audited_at, problem FROM daymend_audit_labs WHERE rollup = ?"
);

statement!(
    CURSORS_ADD,
    "add audit cursors",
    "{insert_ignore} INTO daymend_audit_labs (rollup, lab_id) VALUES {rows}",
    "(?, ?)"
);

statement!(
    CURSORS_DROP,
    "drop audit cursors",
    "DELETE FROM daymend_audit_labs WHERE rollup = ? AND lab_id IN ({list})"
);

statement!(
    CURSOR_SET,
    "set audit cursor",
    "UPDATE daymend_audit_labs SET next_day = ?, round_at = ?, audited_at = ?, problem = ?
     WHERE rollup = ? AND lab_id = ?"
);

statement!(
    COVERAGE,
    "audit coverage",
    "SELECT COUNT(*), COUNT(audited_at), MIN(audited_at), MIN(COALESCE(audited_at, round_at))
     FROM daymend_audit_labs WHERE rollup = ?"
);

/// How far the standing audit has come with a lab.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Cursor {
    /// The day at which its round continues; `None` if a round has yet to begin.
    pub next_day: Option<NaiveDate>,
    /// When the current or the latest round began.
    pub round_at: Option<DateTime<Utc>>,
    /// When the last completed round began: every day has been audited since.
    pub audited_at: Option<DateTime<Utc>>,
    /// What could not be compared in that round.
    pub problem: Option<String>,
}

/// How much of everything has been audited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Coverage {
    /// Labs that are audited.
    pub labs: i64,
    /// Labs that have had no complete round yet.
    pub labs_unaudited: i64,
    /// The time since which every day of the other labs has been audited.
    pub audited_since: Option<DateTime<Utc>>,
    /// When the oldest relevant round began: each lab's last completed one, or its first, if that is still under way.
    pub oldest_round_at: Option<DateTime<Utc>>,
}

/// Every lab's cursor.
pub async fn read(tx: &mut Tx, rollup: &str) -> Result<BTreeMap<i64, Cursor>, DbError> {
    let mut cursors = BTreeMap::new();
    tx.for_each(&CURSORS, args![rollup], |row| {
        let cursor = Cursor {
            next_day: row.date_or_null(1)?,
            round_at: row.instant_or_null(2)?,
            audited_at: row.instant_or_null(3)?,
            problem: row.text_or_null(4)?,
        };
        cursors.insert(row.int(0)?, cursor);
        Ok(())
    })
    .await?;
    Ok(cursors)
}

/// The cursors of exactly these labs: adds missing ones, and drops those of labs that are gone.
pub async fn reconcile(db: &Db, rollup: &str, labs: &BTreeSet<i64>) -> Result<BTreeMap<i64, Cursor>, DbError> {
    retry("audit cursors", || async {
        let mut tx = db.begin(Mode::Write).await?;
        let mut cursors = read(&mut tx, rollup).await?;
        let new: Vec<i64> = labs.iter().filter(|lab| !cursors.contains_key(lab)).copied().collect();
        for labs in new.chunks(LABS_A_STATEMENT) {
            let rows = labs.iter().flat_map(|lab| args![rollup, *lab]).collect();
            tx.execute(CURSORS_ADD.with_rows(labs.len()), rows).await?;
        }
        let gone: Vec<i64> = cursors.keys().filter(|lab| !labs.contains(lab)).copied().collect();
        for labs in gone.chunks(LABS_A_STATEMENT) {
            tx.execute(CURSORS_DROP.with_list(labs.len()), args![rollup; labs]).await?;
        }
        tx.commit().await?;
        cursors.retain(|lab, _| labs.contains(lab));
        cursors.extend(new.into_iter().map(|lab| (lab, Cursor::default())));
        Ok(cursors)
    })
    .await
}

/// Records a lab's progress, inside the caller's transaction.
pub async fn set(tx: &mut Tx, rollup: &str, lab: i64, cursor: &Cursor) -> Result<(), DbError> {
    let problem = cursor.problem.as_ref().map(|why| clipped(why, PROBLEM_LENGTH_MAX));
    let args = args![cursor.next_day, cursor.round_at, cursor.audited_at, problem, rollup, lab];
    tx.execute(&CURSOR_SET, args).await.map(drop)
}

/// How much of everything has been audited.
pub async fn coverage(db: &Db, rollup: &str) -> Result<Coverage, DbError> {
    db.fetch_one(&COVERAGE, args![rollup], |row| {
        let (labs, audited) = (row.int(0)?, row.int(1)?);
        Ok(Coverage {
            labs,
            labs_unaudited: labs - audited,
            audited_since: row.instant_or_null(2)?,
            oldest_round_at: row.instant_or_null(3)?,
        })
    })
    .await
}

/// The order in which labs are served: the longest unaudited first, and among equals those whose round has begun.
#[must_use]
pub fn order(cursors: &BTreeMap<i64, Cursor>) -> Vec<i64> {
    let mut labs: Vec<(&i64, &Cursor)> = cursors.iter().collect();
    labs.sort_by_key(|(lab, cursor)| (cursor.audited_at, cursor.next_day.is_none(), **lab));
    labs.into_iter().map(|(lab, _)| *lab).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unaudited_lab_comes_first_and_a_round_is_finished_before_the_next_begins() {
        let cursor = |audited: Option<&str>, next_day: Option<&str>| Cursor {
            next_day: next_day.map(|day| day.parse().unwrap()),
            audited_at: audited.map(|at| at.parse().unwrap()),
            ..Cursor::default()
        };
        let cursors = BTreeMap::from([
            (1, cursor(Some("2026-03-02T00:00:00Z"), None)),
            (2, cursor(None, None)),
            (3, cursor(None, Some("2025-01-01"))),
            (4, cursor(Some("2026-03-01T00:00:00Z"), None)),
            (5, cursor(Some("2026-03-01T00:00:00Z"), Some("2025-01-01"))),
        ]);
        assert_eq!(order(&cursors), [3, 2, 5, 4, 1]);
    }
}
