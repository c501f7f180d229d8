//! Reading and writing the summary table.
//!
//! Table and column names come from the rollup's checked definition; every value is bound.

use chrono::NaiveDate;

use super::diff::Correction;
use crate::{
    args,
    db::{Arg, Db, DbError, Dialect, Query, Tx, json_list, repeat},
    rollup::{Rollup, Summary, aggregate::Key, source::Locking},
};

/// How many rows one statement writes at most: 6 parameters a row stay far below the limits
/// of 65,535 (MySQL) and 32,766 (SQLite).
const ROWS_A_STATEMENT_MAX: usize = 500;

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
    pub event: String,
    /// The count.
    pub count: i64,
}

/// The stored rows of a lab from `first` to `last`.
pub async fn read(
    tx: &mut Tx,
    rollup: &Rollup,
    lab_id: i64,
    (first, last): (NaiveDate, NaiveDate),
) -> Result<Vec<StoredRow>, DbError> {
    let mut rows = Vec::new();
    let sql = read_sql(&rollup.summary);
    tx.for_each(Query::new("read summary", sql), args![lab_id, first, last], |row| {
        rows.push(StoredRow {
            id: row.int(0)?,
            day: row.date(1)?,
            a: row.int_or_null(2)?,
            b: row.int_or_null(3)?,
            event: row.text(4)?,
            count: row.int_or_null(5)?.unwrap_or(-1),
        });
        Ok(())
    })
    .await?;
    Ok(rows)
}

/// The days on which a lab has stored rows, oldest first.
pub async fn days(tx: &mut Tx, rollup: &Rollup, lab_id: i64) -> Result<Vec<NaiveDate>, DbError> {
    let s = &rollup.summary;
    let sql =
        format!("-- daymend: summary days\nSELECT DISTINCT {} FROM {} WHERE {} = ? ORDER BY 1", s.day, s.table, s.lab);
    let mut days = Vec::new();
    tx.for_each(Query::new("summary days", sql), args![lab_id], |row| {
        days.push(row.date(0)?);
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
    from: NaiveDate,
) -> Result<Option<NaiveDate>, DbError> {
    let s = &rollup.summary;
    let sql = format!(
        "-- daymend: next summary day\nSELECT MIN({}) FROM {} WHERE {} = ? AND {} >= ?",
        s.day, s.table, s.lab, s.day
    );
    let row = tx.fetch_one(Query::new("next summary day", sql), args![lab_id, from]).await?;
    row.date_or_null(0).map_err(|error| DbError::new("next summary day", error))
}

/// The last day that a lab has stored rows of.
pub async fn last_day(tx: &mut Tx, rollup: &Rollup, lab_id: i64) -> Result<Option<NaiveDate>, DbError> {
    let s = &rollup.summary;
    let sql = format!("-- daymend: last summary day\nSELECT MAX({}) FROM {} WHERE {} = ?", s.day, s.table, s.lab);
    let row = tx.fetch_one(Query::new("last summary day", sql), args![lab_id]).await?;
    row.date_or_null(0).map_err(|error| DbError::new("last summary day", error))
}

/// Every lab that has stored rows, whether or not it exists, by id.
///
/// Jumps from lab to lab: a DISTINCT would walk the whole index on SQLite.
pub async fn labs(tx: &mut Tx, rollup: &Rollup) -> Result<Vec<i64>, DbError> {
    let s = &rollup.summary;
    let sql = format!("-- daymend: next summary lab\nSELECT MIN({}) FROM {} WHERE {} > ?", s.lab, s.table, s.lab);
    let mut labs = Vec::new();
    let mut after = i64::MIN;
    loop {
        let row = tx.fetch_one(Query::new("next summary lab", sql.as_str()), args![after]).await?;
        match row.int_or_null(0).map_err(|error| DbError::new("next summary lab", error))? {
            Some(lab) => labs.push(lab),
            None => return Ok(labs),
        }
        after = labs.last().copied().unwrap_or(i64::MAX);
    }
}

/// Checks that every statement fits the summary table, and that this user may run it; those that
/// write only where rows are to be locked. One line for the first that does not.
pub async fn check(db: &Db, rollup: &Rollup, locking: Locking) -> Option<String> {
    let s = &rollup.summary;
    let writing =
        [lock_sql(s, db.dialect()), Some(delete_sql(s, db.dialect())), Some(update_sql(s, 1)), Some(insert_sql(s, 1))];
    let writing = writing.into_iter().flatten().filter(|_| locking == Locking::Shared);
    for sql in [read_sql(s)].into_iter().chain(writing) {
        if let Err(error) = db.columns(Query::new(&s.table, sql)).await {
            return Some(format!("rollup.toml [summary]: {}", error.source));
        }
    }
    None
}

/// Carries out what is left of a correction, on rows that are locked first: deletes, then updates, then inserts, each in key order
/// and in few statements of many rows.
pub(super) async fn write(tx: &mut Tx, rollup: &Rollup, lab_id: i64, correction: &Correction) -> Result<(), DbError> {
    let s = &rollup.summary;
    let left = &correction.left;
    let changing: Vec<i64> =
        left.delete.iter().map(|row| row.id).chain(left.update.iter().map(|(id, ..)| *id)).collect();
    if let Some(sql) = lock_sql(s, tx.dialect()).filter(|_| !changing.is_empty()) {
        tx.fetch_all(Query::new("lock summary rows", sql), args![json_list(&changing)]).await?;
    }
    for rows in left.delete.chunks(ROWS_A_STATEMENT_MAX) {
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        let sql = delete_sql(s, tx.dialect());
        tx.execute(Query::new("delete summary rows", sql), args![json_list(&ids)]).await?;
    }
    for rows in left.update.chunks(ROWS_A_STATEMENT_MAX) {
        let cases = rows.iter().flat_map(|(id, _, count)| [Arg::Int(*id), Arg::from(*count)]);
        let ids = rows.iter().map(|(id, _, _)| Arg::Int(*id));
        let sql = update_sql(s, rows.len());
        tx.execute(Query::new("update summary rows", sql), cases.chain(ids).collect()).await?;
    }
    insert(tx, rollup, lab_id, &left.insert).await
}

/// Inserts rows, in key order.
pub(super) async fn insert(tx: &mut Tx, rollup: &Rollup, lab_id: i64, rows: &[(Key, u32)]) -> Result<(), DbError> {
    for rows in rows.chunks(ROWS_A_STATEMENT_MAX) {
        let args = rows
            .iter()
            .flat_map(|(key, count)| {
                args![lab_id, key.day, key.a, key.b, rollup.events[key.event].name.as_str(), *count]
            })
            .collect();
        let sql = insert_sql(&rollup.summary, rows.len());
        tx.execute(Query::new("insert summary rows", sql), args).await?;
    }
    Ok(())
}

fn read_sql(s: &Summary) -> String {
    format!(
        "-- daymend: read summary\nSELECT {}, {}, {}, {}, {}, {} FROM {} WHERE {} = ? AND {} BETWEEN ? AND ?",
        s.id, s.day, s.dimension_a, s.dimension_b, s.event, s.count, s.table, s.lab, s.day,
    )
}

fn lock_sql(s: &Summary, dialect: Dialect) -> Option<String> {
    Some(format!("-- daymend: lock summary rows\n{}", dialect.lock_by_key(&s.table, &s.id)?))
}

fn delete_sql(s: &Summary, dialect: Dialect) -> String {
    format!("-- daymend: delete summary rows\n{}", dialect.delete_by_key(&s.table, &s.id))
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
