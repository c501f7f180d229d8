//! The summary table: what its definition lets through, and rows that violate its rules.
//!
//! Unique keys ignore NULL, so a row with a NULL dimension can exist any number of times; a recompute removes such
//! rows. Only the latest rows are checked, by primary key: a full check of hundreds of millions of rows is left to
//! `daymend audit`.

use super::{
    COUNT_MAX, Check, Findings, LAB_OPTIONS_MAX, Severity, Site, catalogue, counted, examples, lab_options, look,
};
use crate::{
    args,
    db::{DbError, Mode, Query},
    rollup::{
        Rollup, Summary,
        source::{self, Lab},
    },
};

pub(super) const CHECKS: &[Check] = &[
    Check::new("summary.id", Severity::Warning, "the summary's primary key", look!(id)),
    Check::new("summary.nullable", Severity::Warning, "the summary's dimensions", look!(nullable)),
    Check::new("summary.unique", Severity::Warning, "the summary's unique key", look!(unique)),
    Check::new("summary.null_rows", Severity::Warning, "summary rows", look!(rows, Fault::NullDimension)),
    Check::new("summary.duplicates", Severity::Warning, "summary rows", look!(rows, Fault::Duplicate)),
    Check::new("summary.negative", Severity::Warning, "summary rows", look!(rows, Fault::Negative)),
];

/// How many of the latest ids are checked.
pub(super) const WINDOW: i64 = 2_000_000;

/// How many of them are sorted to find duplicates.
const WINDOW_SORTED: i64 = 300_000;

/// What can be wrong with a single row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A dimension is NULL.
    NullDimension,
    /// Another row has the same key.
    Duplicate,
    /// The count is below zero.
    Negative,
}

impl Fault {
    /// What is counted, and what is wrong with it.
    fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::NullDimension => ("row", "with a NULL dimension, which the unique key does not keep unique"),
            Self::Duplicate => ("key", "with more than one row, so that readers count too much"),
            Self::Negative => ("row", "with a negative count"),
        }
    }
}

/// Rows with a fault.
#[derive(Debug, Default)]
pub(super) struct Faulty {
    /// How many; above [`COUNT_MAX`], there are more than this.
    pub(super) count: usize,
    /// Their keys.
    pub(super) keys: Vec<String>,
    /// How to remove them.
    pub(super) repair: String,
    /// Whether only the latest rows were checked.
    pub(super) is_partial: bool,
}

impl Faulty {
    /// How many there are, in words, with some of them.
    pub(super) fn describe(&self, fault: Fault) -> String {
        let (what, matter) = fault.name();
        let among = if self.is_partial { " among the latest" } else { "" };
        format!("{}{among} {matter} ({})", counted(self.count, what), examples(&self.keys))
    }
}

/// How to remove this many faulty rows of these labs. If there are many, the audit finds out which it can repair.
async fn repair(site: &Site<'_>, rollup: &Rollup, count: usize, labs: &[i64]) -> Result<String, DbError> {
    if count == 0 {
        return Ok(String::new());
    }
    if count > COUNT_MAX || labs.len() > LAB_OPTIONS_MAX {
        return Ok("daymend audit --repair".to_owned());
    }
    let mut tx = site.db.begin(Mode::Snapshot).await?;
    let known = source::labs(&mut tx, rollup).await?;
    tx.rollback().await?;
    Ok(advice(labs, &known, &rollup.summary))
}

/// A rebuild for labs that can be rebuilt, after setting a time zone if there is none; a statement for an administrator
/// if the lab does not exist.
fn advice(labs: &[i64], known: &[Lab], summary: &Summary) -> String {
    let lab = |id: &i64| known.iter().find(|lab| lab.id == *id);
    let (usable, others): (Vec<i64>, Vec<i64>) = labs.iter().partition(|id| lab(id).is_some_and(|l| l.zone().is_ok()));
    let (zoneless, unknown): (Vec<i64>, Vec<i64>) = others.iter().partition(|id| lab(id).is_some());
    let list = |ids: &[i64]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut advice = Vec::new();
    if !usable.is_empty() {
        advice.push(format!("daymend rebuild {}", lab_options(usable)));
    }
    if !zoneless.is_empty() {
        let first = format!("set labTimeZone to an IANA name for lab {} first", list(&zoneless));
        advice.push(format!("{first}, then daymend rebuild {}", lab_options(zoneless)));
    }
    if !unknown.is_empty() {
        let Summary { table, lab, .. } = summary;
        advice.push(format!(
            "for labs that do not exist, whose rows no recompute removes: DELETE FROM {table} WHERE {lab} IN ({})",
            list(&unknown)
        ));
    }
    advice.join("; ")
}

/// The columns that should be unique together.
pub(super) fn key(summary: &Summary) -> [&str; 5] {
    [&summary.lab, &summary.day, &summary.dimension_a, &summary.dimension_b, &summary.event].map(String::as_str)
}

/// The dimensions that the table allows to be NULL.
pub(super) async fn nullable_dimensions(site: &Site<'_>, summary: &Summary) -> Result<Vec<catalogue::Column>, DbError> {
    let columns = catalogue::columns(site, &summary.table).await?.into_iter();
    let is_dimension = |column: &catalogue::Column| {
        [&summary.dimension_a, &summary.dimension_b].iter().any(|name| name.eq_ignore_ascii_case(&column.name))
    };
    Ok(columns.filter(|column| column.is_nullable && is_dimension(column)).collect())
}

/// Whether the table has its unique key.
pub(super) async fn has_unique_key(site: &Site<'_>, summary: &Summary) -> Result<bool, DbError> {
    let indexes = catalogue::indexes(site, &summary.table).await?;
    Ok(indexes.iter().any(|index| index.is_unique_key_of(&key(summary))))
}

/// Whether the table exists: if not, that has been reported, and nothing else is said about it.
async fn exists(site: &Site<'_>, summary: &Summary) -> Result<bool, DbError> {
    Ok(!catalogue::columns(site, &summary.table).await?.is_empty())
}

/// Checks the primary key, because rows are locked and changed by id, and many are read by a range of ids.
async fn id(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    for Rollup { summary, .. } in site.rollups.iter() {
        let indexes = catalogue::indexes(site, &summary.table).await?;
        let primary = indexes.iter().find(|index| index.name == "PRIMARY");
        let leads = |index: &catalogue::Index| index.serves(std::slice::from_ref(&summary.id));
        if exists(site, summary).await? && !primary.is_some_and(leads) {
            let what = format!("no primary key begins with {}, by which rows are looked up", summary.id);
            let advice =
                format!("make {} the primary key, or name the actual one in [summary] of rollup.toml", summary.id);
            findings.add(summary.table.clone(), what, advice);
        }
    }
    Ok(())
}

async fn nullable(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    for rollup in site.rollups.iter() {
        let columns = nullable_dimensions(site, &rollup.summary).await?;
        if !columns.is_empty() {
            let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            let what =
                format!("{} may be NULL, and a unique key does not reject duplicates with NULL", names.join(" and "));
            findings.add(rollup.summary.table.clone(), what, "daymend doctor --print-fixes");
        }
    }
    Ok(())
}

async fn unique(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    for rollup in site.rollups.iter() {
        let summary = &rollup.summary;
        if exists(site, summary).await? && !has_unique_key(site, summary).await? {
            let what = format!("no unique key on ({})", key(summary).join(", "));
            findings.add(summary.table.clone(), what, "daymend doctor --print-fixes");
        }
    }
    Ok(())
}

async fn rows(site: &Site<'_>, fault: Fault, findings: &mut Findings) -> Result<(), DbError> {
    for rollup in site.rollups.iter() {
        let faulty = faulty(site, rollup, fault).await?;
        if faulty.count > 0 {
            findings.add(rollup.summary.table.clone(), faulty.describe(fault), faulty.repair);
        }
    }
    Ok(())
}

/// The rows with a fault, among the latest; empty if the table's definition rules the fault out.
pub(super) async fn faulty(site: &Site<'_>, rollup: &Rollup, fault: Fault) -> Result<Faulty, DbError> {
    let s = &rollup.summary;
    let is_excluded = match fault {
        Fault::NullDimension => nullable_dimensions(site, s).await?.is_empty(),
        Fault::Duplicate => has_unique_key(site, s).await? && nullable_dimensions(site, s).await?.is_empty(),
        // It is not known here which numbers a CHECK allows.
        Fault::Negative => false,
    };
    if is_excluded {
        return Ok(Faulty::default());
    }
    let window = if fault == Fault::Duplicate { WINDOW_SORTED } else { WINDOW };
    let (first, is_partial) = first_of_window(site, &s.table, &s.id, window).await?;
    let columns = key(s).join(", ");
    let (id, table, count) = (&s.id, &s.table, &s.count);
    let tail = match fault {
        Fault::NullDimension => format!("AND ({} IS NULL OR {} IS NULL) ORDER BY {id}", s.dimension_a, s.dimension_b),
        Fault::Negative => format!("AND {count} < 0 ORDER BY {id}"),
        Fault::Duplicate => format!("GROUP BY {columns} HAVING COUNT(*) > 1"),
    };
    let sql = format!("SELECT {columns} FROM {table} WHERE {id} >= ? {tail} LIMIT ?");
    let rows = site
        .read(Query::new("doctor summary rows", sql), args![first, COUNT_MAX + 1], |row| {
            let number =
                |column| Ok::<_, sqlx::Error>(row.int_or_null(column)?.map_or("NULL".to_owned(), |n| n.to_string()));
            // MySQL sends a DATE as bytes, which for some days (such as 1900-01-01) are valid text as well.
            let date = if site.is_mysql() { row.date_or_null(1).ok().flatten() } else { None };
            let day = date.map(|day| day.to_string()).or_else(|| row.text_or_null(1).ok().flatten());
            let event = row.text_or_null(4)?.unwrap_or_else(|| "NULL".to_owned());
            let key = format!("lab {} {} {event} {}/{}", number(0)?, day.unwrap_or_default(), number(2)?, number(3)?);
            Ok((row.int_or_null(0)?, key))
        })
        .await?;
    let mut labs: Vec<i64> = rows.iter().filter_map(|(lab, _)| *lab).collect();
    labs.sort_unstable();
    labs.dedup();
    let repair = repair(site, rollup, rows.len(), &labs).await?;
    Ok(Faulty { count: rows.len(), keys: rows.into_iter().map(|(_, key)| key).collect(), repair, is_partial })
}

/// The first id among the latest `window` ids of a table, and whether there are earlier ones.
pub(super) async fn first_of_window(
    site: &Site<'_>,
    table: &str,
    id: &str,
    window: i64,
) -> Result<(i64, bool), DbError> {
    let query = Query::new("doctor latest ids", format!("SELECT MIN({id}), MAX({id}) FROM {table}"));
    let ends = site.read(query, args![], |row| Ok((row.int_or_null(0)?, row.int_or_null(1)?))).await?;
    let Some((Some(min), Some(max))) = ends.first().copied() else { return Ok((0, false)) };
    let first = max.saturating_sub(window).max(min);
    Ok((first, first > min))
}
