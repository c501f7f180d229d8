//! Running a rollup's SELECTs of labs and days, and checking all of its SELECTs.

use chrono::{DateTime, NaiveDate, Utc};

use super::{NamedSql, Rollup, facts, misfit::Misfit};
use crate::{
    calendar::{self, Zone, ZoneError},
    db::{Arg, Dated, Db, DbError, Query, Row, Tx},
};

/// The columns of labs.sql.
const LAB_COLUMNS: [&str; 3] = ["lab_id", "time_zone", "enabled"];

/// A lab, as the source describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lab {
    /// Its id.
    pub id: i64,
    /// Whether the nightly run maintains its summary, or would if its row could be read.
    pub enabled: bool,
    zone: Result<Zone, ZoneError>,
}

impl Lab {
    /// Its time zone.
    pub fn zone(&self) -> Result<Zone, ZoneError> {
        self.zone.clone()
    }

    /// A lab whose values cannot be read has no usable zone, but does not affect the other labs.
    fn from_row(row: &Row, columns: [usize; 3]) -> Result<Self, sqlx::Error> {
        let [id, time_zone, enabled] = columns;
        let unreadable = |error: sqlx::Error| ZoneError::Unreadable(error.to_string());
        let zone = row.text_or_null(time_zone).map_err(unreadable).and_then(|name| Zone::parse(name.as_deref()));
        let (enabled, zone) = match row.int_or_null(enabled) {
            Ok(enabled) => (enabled.unwrap_or(0) != 0, zone),
            Err(error) => (true, Err(unreadable(error))),
        };
        Ok(Self { id: row.int(id)?, enabled, zone })
    }
}

/// All labs, by id.
pub async fn labs(tx: &mut Tx, rollup: &Rollup) -> Result<Vec<Lab>, DbError> {
    read_labs(tx, rollup, rollup.labs.text.clone(), Vec::new()).await
}

/// One lab; `None` if there is no such lab.
pub async fn lab(tx: &mut Tx, rollup: &Rollup, lab_id: i64) -> Result<Option<Lab>, DbError> {
    // Both databases merge labs.sql into this query, and find the lab by its key.
    let sql = format!("SELECT * FROM (\n{}\n) AS labs_sql WHERE lab_id = ?", rollup.labs.text);
    Ok(read_labs(tx, rollup, sql, vec![lab_id.into()]).await?.pop())
}

async fn read_labs(tx: &mut Tx, rollup: &Rollup, sql: String, args: Vec<Arg>) -> Result<Vec<Lab>, DbError> {
    let file = &rollup.labs.file;
    let mut columns = None;
    let labs = tx.fetch_all(Query::new(file, sql), args, |row| {
        let at = match columns {
            Some(at) => at,
            None => {
                let [id, time_zone, enabled] = LAB_COLUMNS.map(|name| position(&row, name));
                *columns.insert([id?, time_zone?, enabled?])
            }
        };
        Lab::from_row(&row, at)
    });
    let mut labs = labs.await?;
    labs.sort_unstable_by_key(|lab| lab.id);
    Ok(labs)
}

/// The time of the lab's first fact.
pub async fn first_fact(tx: &mut Tx, rollup: &Rollup, lab_id: i64) -> Result<Option<DateTime<Utc>>, DbError> {
    next_fact(tx, rollup, lab_id, calendar::EARLIEST.and_utc()).await
}

/// The time of the lab's first fact at or after `from`. Invalid times, such as 2025-00-00, belong to no day and are
/// skipped.
pub async fn next_fact(
    tx: &mut Tx,
    rollup: &Rollup,
    lab_id: i64,
    from: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, DbError> {
    let mut from = from.max(calendar::EARLIEST.and_utc());
    loop {
        let args = rollup.days.bind(|name| if name == "from" { from.into() } else { lab_id.into() });
        match tx.fetch_optional(query(&rollup.days), args, |row| row.moment(0)).await? {
            Some(Dated::At(at)) => return Ok(Some(at)),
            None | Some(Dated::Null) => return Ok(None),
            Some(Dated::NoDate(text)) => match calendar::first_behind(&text).filter(|behind| *behind > from) {
                Some(behind) => from = behind,
                None => return Ok(None),
            },
        }
    }
}

/// The days up to `last` on which the lab has facts, oldest first.
///
/// Skips from day to day, so that the empty years after a bill from 1970 cost nothing.
pub async fn days_with_facts(
    tx: &mut Tx,
    rollup: &Rollup,
    lab_id: i64,
    zone: Zone,
    last: NaiveDate,
) -> Result<Vec<NaiveDate>, DbError> {
    let mut days = Vec::new();
    let mut from = calendar::EARLIEST.and_utc();
    while let Some(at) = next_fact(tx, rollup, lab_id, from).await? {
        let day = zone.date_of(at);
        if day > last {
            break;
        }
        days.push(day);
        from = zone.first_instant(calendar::next(day));
    }
    Ok(days)
}

/// Prepares every SELECT on the database, and checks that it returns the required columns.
pub async fn check(db: &Db, rollup: &Rollup) -> Result<Vec<Misfit>, DbError> {
    let mut problems = Vec::new();
    let mut found: Vec<Option<Vec<String>>> = Vec::new();
    for (kind, fact) in rollup.facts.iter().enumerate() {
        let columns = columns(db, rollup, &fact.sql, &mut problems).await?;
        if let Some(columns) = &columns {
            let first = if fact.part_of.is_some() { facts::PART_OF } else { facts::BILL_TIME };
            let id = rollup.has_parts(kind).then_some(facts::ID);
            // If the database rejected the other SELECT, its columns are unknown.
            let is_inherited =
                |name: &str| fact.part_of.is_some_and(|of| found[of].as_ref().is_none_or(|of| has(of, name)));
            let used = fact.columns.iter().map(String::as_str).filter(|name| !is_inherited(name));
            let lacking = [first].into_iter().chain(id).chain(used).filter(|name| !has(columns, name));
            problems.extend(lacking.map(|name| Misfit::lacking(rollup, &fact.sql, name)));
        }
        found.push(columns);
    }
    if let Some(columns) = columns(db, rollup, &rollup.labs, &mut problems).await? {
        let lacking = LAB_COLUMNS.into_iter().filter(|name| !has(&columns, name));
        problems.extend(lacking.map(|name| Misfit::lacking(rollup, &rollup.labs, name)));
    }
    columns(db, rollup, &rollup.days, &mut problems).await?;
    // One line, not one a SELECT that suggests to rename its tables.
    let selects = rollup.selects().count();
    let is_elsewhere = problems.iter().filter(|problem| problem.is_absent).count() == selects;
    Ok(if is_elsewhere { vec![Misfit::elsewhere(rollup)] } else { problems })
}

/// The columns that a SELECT returns; `None` if the database rejects it, which is added to `problems`.
async fn columns(
    db: &Db,
    rollup: &Rollup,
    sql: &NamedSql,
    problems: &mut Vec<Misfit>,
) -> Result<Option<Vec<String>>, DbError> {
    match db.columns(query(sql)).await {
        Ok(columns) => Ok(Some(columns)),
        Err(error) => {
            problems.push(Misfit::refused_select(rollup, sql, error)?);
            Ok(None)
        }
    }
}

fn has(columns: &[String], name: &str) -> bool {
    columns.iter().any(|known| known == name)
}

pub(super) fn query(sql: &NamedSql) -> Query<'_> {
    Query::new(&sql.file, sql.text.as_str())
}

/// The position of a column that the SELECT must return.
pub(super) fn position(row: &Row, name: &str) -> Result<usize, sqlx::Error> {
    row.position(name).ok_or_else(|| sqlx::Error::ColumnNotFound(name.to_owned()))
}
