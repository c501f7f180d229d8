//! Reading a lab's rows.
//!
//! Rows are read by the unique key, which covers a lab's days but not the counts: the server looks up each row by its
//! id. If the rows of these days were written together, only they lie between their first and last id, and the server
//! reads them sequentially instead, for two thirds of the CPU (BENCHMARKS.md). Rows that delta triggers wrote are
//! interleaved with those of all labs.

use chrono::NaiveDate;

use super::{NO_COUNT, StoredEvent, StoredRow};
use crate::{
    args,
    db::{Arg, Dated, DbError, Dialect, Query, Tx},
    rollup::{Rollup, Summary},
};

/// The names of the statements.
const READ: &str = "read summary";
const READ_BETWEEN: &str = "read summary between ids";
const SAMPLE: &str = "sample of summary ids";
const ENDS: &str = "ends of summary ids";

/// How many rows are sampled to find out whether the rows lie together.
const SAMPLE_ROWS: u32 = 32;

/// Rows are read by their ids if at least one in this many rows between the first and the last id is theirs: counting a
/// row and skipping two takes about as long as looking one up.
const PASSED_MAX: i64 = 2;

/// How many rows have to be expected: for fewer, the extra queries do not pay off.
const ROWS_MIN: usize = 200;

/// Each statement, with its name.
pub(super) fn statements(s: &Summary, dialect: Dialect) -> Vec<(&'static str, String)> {
    let by_ids = [(READ_BETWEEN, read_between_sql(s)), (SAMPLE, sample_sql(s)), (ENDS, ends_sql(s))];
    let by_ids = by_ids.into_iter().filter(|_| dialect == Dialect::MySql);
    [(READ, read_sql(s))].into_iter().chain(by_ids).collect()
}

/// All stored rows of a lab from `first` to `last`; the number of `expected` rows only decides how to read them.
pub async fn read(
    tx: &mut Tx,
    rollup: &Rollup,
    lab_id: i64,
    (first, last): (NaiveDate, NaiveDate),
    expected: usize,
) -> Result<Vec<StoredRow>, DbError> {
    let s = &rollup.summary;
    let of_days = || args![lab_id, first, last];
    let days = usize::try_from((last - first).num_days()).unwrap_or_default() + 1;
    let ids = if expected < ROWS_MIN { None } else { ids(tx, s, of_days, expected / days).await? };
    let (query, args) = match ids {
        Some((low, high)) => (Query::new(READ_BETWEEN, read_between_sql(s)), args![low, high, lab_id, first, last]),
        None => (Query::new(READ, read_sql(s)), of_days()),
    };
    let mut rows = Vec::new();
    tx.for_each(query, args, |row| {
        let Dated::At(day) = row.day(1)? else { return Ok(()) };
        rows.push(StoredRow {
            id: row.int(0)?,
            day,
            a: row.int_or_null(2)?,
            b: row.int_or_null(3)?,
            event: StoredEvent::new(rollup, row.str_or_null(4)?.unwrap_or_default()),
            count: row.int_or_null(5)?.unwrap_or(NO_COUNT),
        });
        Ok(())
    })
    .await?;
    Ok(rows)
}

/// The first and the last id of the rows `of_days`, if the rows between them are mostly theirs.
///
/// Counting all of them takes a fifth of the time of reading them, and is in vain if triggers wrote them. A small
/// sample, which comes from one day, shows that beforehand.
async fn ids(
    tx: &mut Tx,
    s: &Summary,
    of_days: impl Fn() -> Vec<Arg>,
    expected_a_day: usize,
) -> Result<Option<(i64, i64)>, DbError> {
    if tx.dialect() == Dialect::Sqlite {
        return Ok(None);
    }
    let mut sample = Vec::new();
    tx.for_each(Query::new(SAMPLE, sample_sql(s)), of_days(), |row| {
        sample.push(row.int(0)?);
        Ok(())
    })
    .await?;
    let ends = sample.iter().min().copied().zip(sample.iter().max().copied());
    let rows = i64::try_from(expected_a_day).unwrap_or(i64::MAX);
    if !ends.is_some_and(|ends| lie_together(rows, ends)) {
        return Ok(None);
    }
    let (rows, ends) = tx
        .fetch_one(Query::new(ENDS, ends_sql(s)), of_days(), |row| {
            Ok((row.int(0)?, row.int_or_null(1)?.zip(row.int_or_null(2)?)))
        })
        .await?;
    Ok(ends.filter(|ends| lie_together(rows, *ends)))
}

/// Whether this many rows, with these first and last ids, lie together.
fn lie_together(rows: i64, (low, high): (i64, i64)) -> bool {
    high.saturating_sub(low) < rows.saturating_mul(PASSED_MAX)
}

/// The columns that are read.
fn columns(s: &Summary) -> String {
    [&s.id, &s.day, &s.dimension_a, &s.dimension_b, &s.event, &s.count].map(String::as_str).join(", ")
}

fn of_days(s: &Summary) -> String {
    format!("FROM {} WHERE {} = ? AND {} BETWEEN ? AND ?", s.table, s.lab, s.day)
}

fn read_sql(s: &Summary) -> String {
    format!("SELECT {} {}", columns(s), of_days(s))
}

/// COALESCE keeps the server from using the unique key, which begins with the lab.
fn read_between_sql(s: &Summary) -> String {
    format!(
        "SELECT {} FROM {} WHERE {} BETWEEN ? AND ? AND COALESCE({}) = ? AND {} BETWEEN ? AND ?",
        columns(s),
        s.table,
        s.id,
        s.lab,
        s.day,
    )
}

fn sample_sql(s: &Summary) -> String {
    format!("SELECT {} {} LIMIT {SAMPLE_ROWS}", s.id, of_days(s))
}

fn ends_sql(s: &Summary) -> String {
    format!("SELECT COUNT(*), MIN({id}), MAX({id}) {}", of_days(s), id = s.id)
}
