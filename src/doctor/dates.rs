//! Invalid dates: `2025-00-00`, which MariaDB accepts unless told not to, `0000-00-00`, or any text on SQLite. Rows
//! with such a date belong to no day, so they are never counted and never corrected: only the doctor reports them.
//!
//! Only the latest rows are checked, by primary key.

use super::{
    COUNT_MAX, Check, Findings, Severity, Site, counted, examples, look,
    summary::{WINDOW, first_of_window},
};
use crate::{
    args,
    db::{DbError, Dialect, Query},
};

pub(super) const CHECKS: &[Check] = &[
    Check::new("dates.bills", Severity::Warning, "the times of bills", look!(bills)),
    Check::new("dates.summary", Severity::Warning, "the days of summary rows", look!(summary)),
];

/// How many ids the advice lists.
const LISTED_MAX: usize = 20;

/// A table with a column of dates.
struct Dates<'a> {
    table: &'a str,
    id: &'a str,
    lab: &'a str,
    date: &'a str,
    /// The condition that matches rows with an invalid date.
    condition: String,
}

/// Rows with an invalid date: their ids, and their descriptions.
struct Astray {
    ids: Vec<i64>,
    rows: Vec<String>,
    among: &'static str,
}

async fn bills(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    for bill in site.rollups.iter().filter_map(|rollup| rollup.watch.as_ref()).map(|watch| &watch.bill) {
        let condition = is_none(site.db.dialect(), &bill.time, "%Y-%m-%d %H:%M:%S", "1000-01-01");
        let dates = Dates { table: &bill.table, id: &bill.key, lab: &bill.lab, date: &bill.time, condition };
        let astray = astray(site, &dates).await?;
        if !astray.ids.is_empty() {
            let count = counted(astray.ids.len(), "row");
            let what =
                format!("{count}{} with an invalid date, and never counted ({})", astray.among, examples(&astray.rows));
            let advice =
                format!("correct {} in these rows; the triggers or the next audit then find their days", bill.time);
            findings.add(bill.table.clone(), what, advice);
        }
    }
    Ok(())
}

async fn summary(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    for rollup in site.rollups.iter() {
        let s = &rollup.summary;
        let condition = is_none(site.db.dialect(), &s.day, "%Y-%m-%d", "0001-01-01");
        let dates = Dates { table: &s.table, id: &s.id, lab: &s.lab, date: &s.day, condition };
        let astray = astray(site, &dates).await?;
        if !astray.ids.is_empty() {
            let count = counted(astray.ids.len(), "row");
            let what = format!(
                "{count}{} with an invalid date, which no recompute and no audit reads ({})",
                astray.among,
                examples(&astray.rows)
            );
            let ids: Vec<String> = astray.ids.iter().take(LISTED_MAX).map(ToString::to_string).collect();
            let advice = format!("DELETE FROM {} WHERE {} IN ({})", s.table, s.id, ids.join(", "));
            findings.add(s.table.clone(), what, advice);
        }
    }
    Ok(())
}

/// The condition for an invalid date: before the first day; with month or day 0, or a day that its month does not have;
/// on SQLite, also any text that differs from the date it is parsed as.
fn is_none(dialect: Dialect, date: &str, format: &str, first: &str) -> String {
    match dialect {
        Dialect::MySql => format!(
            "NOT ({date} >= '{first}' AND DAYOFMONTH({date}) BETWEEN 1 AND COALESCE(DAYOFMONTH(LAST_DAY({date})), 0))"
        ),
        Dialect::Sqlite => {
            let length = if format.len() > 8 { 19 } else { 10 };
            // Without the fraction: strftime rounds the last microsecond of a day up to the next one.
            let to_second = format!("substr({date}, 1, {length})");
            format!(
                "({date} < '{first}' OR {date} GLOB '*[^-0-9 :.]*'
                  OR {date} IS NOT NULL AND strftime('{format}', {date}) IS NULL
                  OR {date} IS NOT NULL AND strftime('{format}', {to_second}) IS NOT {to_second})"
            )
        }
    }
}

/// The rows with an invalid date, among the latest.
async fn astray(site: &Site<'_>, dates: &Dates<'_>) -> Result<Astray, DbError> {
    let Dates { table, id, lab, date, condition } = dates;
    let (first, is_partial) = first_of_window(site, table, id, WINDOW).await?;
    let sql = format!(
        "SELECT {id}, {lab}, CAST({date} AS CHAR) FROM {table}
         WHERE {id} >= ? AND {condition} ORDER BY {id} LIMIT ?"
    );
    let rows = site
        .read(Query::new("doctor dates", sql), args![first, COUNT_MAX + 1], |row| {
            let (id, lab) = (row.int(0)?, row.int_or_null(1)?.unwrap_or_default());
            Ok((id, format!("{id} of lab {lab}: {}", row.text_or_null(2)?.unwrap_or_default())))
        })
        .await?;
    let (ids, rows) = rows.into_iter().unzip();
    Ok(Astray { ids, rows, among: if is_partial { " among the latest" } else { "" } })
}
