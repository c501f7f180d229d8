//! Writing a difference: few statements of many rows each.

use std::collections::HashMap;

use super::NO_COUNT;
use crate::{
    args,
    db::{Arg, DbError, Dialect, Query, Tx, json_list, repeat},
    recompute::diff::Difference,
    rollup::{Rollup, Summary, aggregate::Key},
};

/// How many rows one statement updates or deletes at most.
const ROWS_A_STATEMENT_MAX: usize = 500;

/// How many rows one statement inserts at most. With 6 parameters per row this stays below the limits of 65,535 (MySQL)
/// and 32,766 (SQLite). It covers nearly every day in one statement, because each one after the first requests the
/// AUTO-INC lock while rows are locked.
const ROWS_AN_INSERT_MAX: usize = 2_000;

/// How many rows one statement inserts if there are more than that. Smaller, because each number of leftover rows is a
/// different statement, which has to be prepared each time (BENCHMARKS.md).
const ROWS_OF_MANY: usize = 500;

/// Up to how many rows a statement is kept prepared. Each number of rows is a different statement, and one for a
/// thousand rows takes 60 KiB here and a megabyte in the server.
const ROWS_KEPT_MAX: usize = 50;

/// The names of the statements.
const LOCK: &str = "lock summary rows";
const DELETE: &str = "delete summary rows";
const UPDATE: &str = "update summary rows";
const INSERT: &str = "insert summary rows";

/// One of each statement, with its name.
pub(super) fn statements(s: &Summary, dialect: Dialect) -> [(&'static str, String); 4] {
    [
        (LOCK, lock_sql(s, dialect)),
        (DELETE, delete_sql(s, dialect)),
        (UPDATE, update_sql(s, 1)),
        (INSERT, insert_sql(s, 1)),
    ]
}

/// Writes a difference; a conflict if a row has changed since it was read.
///
/// Inserts come first, in key order and while nothing is locked; then the other rows are locked, in the order of
/// their ids; deletes come before updates. Each step takes few statements of many rows.
pub(in crate::recompute) async fn write(
    tx: &mut Tx,
    rollup: &Rollup,
    lab_id: i64,
    difference: &Difference,
) -> Result<(), DbError> {
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

/// Locks the rows to be changed, and checks that they still hold what was read.
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

/// Keeps the statement prepared if its number of rows is likely to come again: a small number, or the maximum.
fn kept(query: Query<'_>, rows: usize, rows_max: usize) -> Query<'_> {
    if rows <= ROWS_KEPT_MAX || rows == rows_max { query } else { query.once() }
}

fn lock_sql(s: &Summary, dialect: Dialect) -> String {
    dialect.lock_by_key(&s.table, &s.id, &s.count)
}

fn delete_sql(s: &Summary, dialect: Dialect) -> String {
    format!("{{waiting_for_nobody}} {}", dialect.delete_by_key(&s.table, &s.id))
}

fn update_sql(s: &Summary, rows: usize) -> String {
    format!(
        "UPDATE {} SET {} = CASE {}{} END, {} = {{now}} WHERE {} IN ({})",
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
        "{{waiting_for_nobody}} INSERT INTO {} ({}, {}, {}, {}, {}, {}, {}, {}) VALUES {}",
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
