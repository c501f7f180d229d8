//! Reading and writing the summary table.
//!
//! Table and column names come from the rollup's checked definition; every value is bound. Rows on a day that
//! is none (`0000-00-00`, `2025-00-00`) are on no day, so that nothing here returns them; the doctor names them.

use std::collections::HashMap;

use chrono::NaiveDate;

use super::{diff::Difference, digest};
use crate::{
    args, calendar,
    db::{Arg, Dated, Db, DbError, Dialect, Query, Tx, json_list, repeat},
    rollup::{Rollup, Summary, aggregate::Key, misfit::Misfit},
};

/// How many rows one statement updates or deletes at most.
const ROWS_A_STATEMENT_MAX: usize = 500;

/// How many rows one statement inserts at most: 6 parameters a row stay below the limits of 65,535
/// (MySQL) and 32,766 (SQLite). As many as nearly all days have: each statement but the first asks for the
/// AUTO-INC lock while rows are locked.
const ROWS_AN_INSERT_MAX: usize = 2_000;

/// How many rows a statement inserts where there are more of them: what is left over, of which every number is
/// a statement of its own, has to be prepared anew each time (BENCHMARKS.md).
const ROWS_OF_MANY: usize = 500;

/// Up to how many rows a statement is kept prepared. Each number of rows is a statement of its own, of which
/// one for a thousand rows takes 60 KiB here and a megabyte in the server.
const ROWS_KEPT_MAX: usize = 50;

/// What stands for a count of NULL, which a site's table may allow: wrong, whatever is expected.
const NO_COUNT: i64 = -1;

/// The names of the statements.
const READ: &str = "read summary";
const LOCK: &str = "lock summary rows";
const DELETE: &str = "delete summary rows";
const UPDATE: &str = "update summary rows";
const INSERT: &str = "insert summary rows";

/// A row of the summary table, of one lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRow {
    /// Its primary key.
    pub id: i64,
    /// The calendar day.
    pub day: NaiveDate,
    /// The first dimension; NULL only where a site's table allows it.
    pub a: Option<i64>,
    /// The second dimension; NULL only where a site's table allows it.
    pub b: Option<i64>,
    /// The event type.
    pub event: StoredEvent,
    /// The count.
    pub count: i64,
}

impl StoredRow {
    /// The key that a row could be expected under; none where a dimension is NULL, or the event type not the
    /// rollup's.
    #[must_use]
    pub fn key(&self) -> Option<Key> {
        match self.event {
            StoredEvent::Known(event) => Some(Key { day: self.day, a: self.a?, b: self.b?, event }),
            StoredEvent::Other(_) => None,
        }
    }
}

/// The event type of a stored row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StoredEvent {
    /// One of the rollup's, by its place in [`Rollup::events`].
    Known(usize),
    /// Somebody else's, or one of the rollup's in another spelling.
    Other(String),
}

impl StoredEvent {
    /// What a row's event column says.
    #[must_use]
    pub fn new(rollup: &Rollup, name: &str) -> Self {
        rollup.event(name).map_or_else(|| Self::Other(name.to_owned()), Self::Known)
    }

    /// What the row's event column says.
    #[must_use]
    pub fn name<'a>(&'a self, rollup: &'a Rollup) -> &'a str {
        match self {
            Self::Known(event) => &rollup.events[*event].name,
            Self::Other(name) => name,
        }
    }
}

/// The stored rows of a lab from `first` to `last`.
pub async fn read(
    tx: &mut Tx,
    rollup: &Rollup,
    lab_id: i64,
    (first, last): (NaiveDate, NaiveDate),
) -> Result<Vec<StoredRow>, DbError> {
    let sql = read_sql(&rollup.summary);
    let mut rows = Vec::new();
    tx.for_each(Query::new(READ, sql), args![lab_id, first, last], |row| {
        let Dated::At(day) = row.day(1)? else { return Ok(()) };
        rows.push(StoredRow {
            id: row.int(0)?,
            day,
            a: row.int_or_null(2)?,
            b: row.int_or_null(3)?,
            event: StoredEvent::new(rollup, row.str(4)?),
            count: row.int_or_null(5)?.unwrap_or(NO_COUNT),
        });
        Ok(())
    })
    .await?;
    Ok(rows)
}

/// The days on which a lab has stored rows, oldest first.
pub async fn days(tx: &mut Tx, rollup: &Rollup, lab_id: i64) -> Result<Vec<NaiveDate>, DbError> {
    let s = &rollup.summary;
    let sql = format!("SELECT DISTINCT {} FROM {} WHERE {} = ? ORDER BY 1", s.day, s.table, s.lab);
    let mut days = Vec::new();
    tx.for_each(Query::named("summary days", sql), args![lab_id], |row| {
        if let Dated::At(day) = row.day(0)? {
            days.push(day);
        }
        Ok(())
    })
    .await?;
    Ok(days)
}

/// The first day from `from` on that a lab has stored rows of.
pub async fn next_day(
    tx: &mut Tx,
    rollup: &Rollup,
    lab_id: i64,
    mut from: NaiveDate,
) -> Result<Option<NaiveDate>, DbError> {
    let s = &rollup.summary;
    let sql = format!("SELECT MIN({}) FROM {} WHERE {} = ? AND {} >= ?", s.day, s.table, s.lab, s.day);
    loop {
        let query = Query::named("next summary day", &sql);
        match tx.fetch_one(query, args![lab_id, from], |row| row.day(0)).await? {
            Dated::At(day) => return Ok(Some(day)),
            Dated::Null => return Ok(None),
            Dated::NoDate(text) => match calendar::first_behind(&text).filter(|at| at.date_naive() > from) {
                Some(at) => from = at.date_naive(),
                None => return Ok(None),
            },
        }
    }
}

/// The last day that a lab has stored rows of.
pub async fn last_day(tx: &mut Tx, rollup: &Rollup, lab_id: i64) -> Result<Option<NaiveDate>, DbError> {
    let s = &rollup.summary;
    let sql = format!("SELECT MAX({}) FROM {} WHERE {} = ? AND {} <= ?", s.day, s.table, s.lab, s.day);
    let mut until = calendar::LAST_DAY;
    loop {
        let query = Query::named("last summary day", &sql);
        match tx.fetch_one(query, args![lab_id, until], |row| row.day(0)).await? {
            Dated::At(day) => return Ok(Some(day)),
            Dated::Null => return Ok(None),
            Dated::NoDate(text) => match calendar::first_behind(&text).map(|at| calendar::previous(at.date_naive())) {
                Some(day) if day < until => until = day,
                _ => return Ok(None),
            },
        }
    }
}

/// Every lab that has stored rows, whether or not it exists, by id.
///
/// Jumps from lab to lab: a DISTINCT would walk the whole index on SQLite.
pub async fn labs(tx: &mut Tx, rollup: &Rollup) -> Result<Vec<i64>, DbError> {
    let s = &rollup.summary;
    let sql = format!("SELECT MIN({}) FROM {} WHERE {} > ?", s.lab, s.table, s.lab);
    let mut labs = Vec::new();
    let mut after = i64::MIN;
    loop {
        match tx.fetch_one(Query::named("next summary lab", &sql), args![after], |row| row.int_or_null(0)).await? {
            Some(lab) => labs.push(lab),
            None => return Ok(labs),
        }
        after = labs.last().copied().unwrap_or(i64::MAX);
    }
}

/// What is done with the summary table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading it.
    Read,
    /// Correcting it as well.
    Write,
}

/// Checks that every statement of `access` fits the summary table, and that this user may run it; the first
/// that does not.
pub async fn check(db: &Db, rollup: &Rollup, access: Access) -> Result<Option<Misfit>, DbError> {
    let s = &rollup.summary;
    let digest = digest::sql(s, db.dialect()).map(|sql| (digest::NAME, sql));
    let reading = [(READ, read_sql(s))].into_iter().chain(digest);
    let writing = [
        (LOCK, lock_sql(s, db.dialect())),
        (DELETE, delete_sql(s, db.dialect())),
        (UPDATE, update_sql(s, 1)),
        (INSERT, insert_sql(s, 1)),
    ];
    let writing = writing.into_iter().filter(|_| access == Access::Write);
    for (name, sql) in reading.chain(writing) {
        if let Err(error) = db.columns(Query::new(name, sql)).await {
            return Misfit::refused(&format!("{} [summary]", rollup.path("rollup.toml")), error).map(Some);
        }
    }
    Ok(None)
}

/// Carries a difference out; a conflict where a row has changed since it was read.
///
/// Inserts come first, in key order and while nothing is locked; then the other rows are locked, in the order
/// of their ids; deletes before updates. Each is few statements of many rows.
pub(super) async fn write(tx: &mut Tx, rollup: &Rollup, lab_id: i64, difference: &Difference) -> Result<(), DbError> {
    let s = &rollup.summary;
    let [insert_first, insert_last] = difference.insertable(rollup);
    insert(tx, rollup, lab_id, &insert_first).await?;
    lock(tx, s, difference).await?;
    for rows in difference.delete.chunks(ROWS_A_STATEMENT_MAX) {
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        let sql = delete_sql(s, tx.dialect());
        tx.execute(Query::new(DELETE, sql), args![json_list(&ids)]).await?;
    }
    for rows in difference.update.chunks(ROWS_A_STATEMENT_MAX) {
        let cases = rows.iter().flat_map(|update| [Arg::Int(update.id), Arg::from(update.to)]);
        let ids = rows.iter().map(|update| Arg::Int(update.id));
        let query = Query::new(UPDATE, update_sql(s, rows.len()));
        tx.execute(kept(query, rows.len(), ROWS_A_STATEMENT_MAX), cases.chain(ids).collect()).await?;
    }
    insert(tx, rollup, lab_id, &insert_last).await
}

/// Locks the rows that are to be changed, and checks that they hold what was read.
async fn lock(tx: &mut Tx, s: &Summary, difference: &Difference) -> Result<(), DbError> {
    let mut seen: HashMap<i64, i64> = difference.delete.iter().map(|row| (row.id, row.count)).collect();
    seen.extend(difference.update.iter().map(|update| (update.id, update.from)));
    if seen.is_empty() {
        return Ok(());
    }
    let mut ids: Vec<i64> = seen.keys().copied().collect();
    ids.sort_unstable();
    let query = Query::new(LOCK, lock_sql(s, tx.dialect()));
    tx.for_each(query, args![json_list(&ids)], |row| {
        let (id, count) = (row.int(0)?, row.int_or_null(1)?.unwrap_or(NO_COUNT));
        if seen.get(&id) == Some(&count) {
            seen.remove(&id);
        }
        Ok(())
    })
    .await?;
    if seen.is_empty() { Ok(()) } else { Err(DbError::changed(LOCK)) }
}

/// Inserts rows, in key order.
async fn insert(tx: &mut Tx, rollup: &Rollup, lab_id: i64, rows: &[(Key, u32)]) -> Result<(), DbError> {
    let rows_max = if rows.len() > ROWS_AN_INSERT_MAX { ROWS_OF_MANY } else { ROWS_AN_INSERT_MAX };
    for rows in rows.chunks(rows_max) {
        let args = rows
            .iter()
            .flat_map(|(key, count)| {
                args![lab_id, key.day, key.a, key.b, rollup.events[key.event].name.as_str(), *count]
            })
            .collect();
        let query = Query::new(INSERT, insert_sql(&rollup.summary, rows.len()));
        tx.execute(kept(query, rows.len(), rows_max), args).await?;
    }
    Ok(())
}

/// Keeps a statement of so many rows prepared if their number comes again: a few, or the most.
fn kept(query: Query<'_>, rows: usize, rows_max: usize) -> Query<'_> {
    if rows <= ROWS_KEPT_MAX || rows == rows_max { query } else { query.once() }
}

fn read_sql(s: &Summary) -> String {
    format!(
        "-- daymend: read summary\nSELECT {}, {}, {}, {}, {}, {} FROM {} WHERE {} = ? AND {} BETWEEN ? AND ?",
        s.id, s.day, s.dimension_a, s.dimension_b, s.event, s.count, s.table, s.lab, s.day,
    )
}

fn lock_sql(s: &Summary, dialect: Dialect) -> String {
    format!("-- daymend: lock summary rows\n{}", dialect.lock_by_key(&s.table, &s.id, &s.count))
}

fn delete_sql(s: &Summary, dialect: Dialect) -> String {
    format!("-- daymend: delete summary rows\n{{waiting_for_nobody}} {}", dialect.delete_by_key(&s.table, &s.id))
}

fn update_sql(s: &Summary, rows: usize) -> String {
    format!(
        "-- daymend: update summary rows\nUPDATE {} SET {} = CASE {}{} END, {} = {{now}} WHERE {} IN ({})",
        s.table,
        s.count,
        s.id,
        " WHEN ? THEN ?".repeat(rows),
        s.modified_at,
        s.id,
        repeat("?", rows),
    )
}

fn insert_sql(s: &Summary, rows: usize) -> String {
    format!(
        "-- daymend: insert summary rows\n{{waiting_for_nobody}} INSERT INTO {} ({}, {}, {}, {}, {}, {}, {}, {}) VALUES {}",
        s.table,
        s.lab,
        s.day,
        s.dimension_a,
        s.dimension_b,
        s.event,
        s.count,
        s.created_at,
        s.modified_at,
        repeat("(?, ?, ?, ?, ?, ?, {now}, {now})", rows),
    )
}
