//! The days, and the labs, that have stored rows.

use chrono::NaiveDate;

use crate::{
    args, calendar,
    db::{Dated, DbError, Query, Tx},
    rollup::Rollup,
};

/// The days on which a lab has stored rows, oldest first.
pub async fn days(tx: &mut Tx, rollup: &Rollup, lab_id: i64) -> Result<Vec<NaiveDate>, DbError> {
    let s = &rollup.summary;
    let sql = format!("SELECT DISTINCT {} FROM {} WHERE {} = ? ORDER BY 1", s.day, s.table, s.lab);
    let mut days = Vec::new();
    tx.for_each(Query::new("summary days", sql), args![lab_id], |row| {
        if let Dated::At(day) = row.day(0)? {
            days.push(day);
        }
        Ok(())
    })
    .await?;
    Ok(days)
}

/// The first day from `from` on for which a lab has stored rows.
pub async fn next_day(
    tx: &mut Tx,
    rollup: &Rollup,
    lab_id: i64,
    mut from: NaiveDate,
) -> Result<Option<NaiveDate>, DbError> {
    let s = &rollup.summary;
    let sql = format!("SELECT MIN({}) FROM {} WHERE {} = ? AND {} >= ?", s.day, s.table, s.lab, s.day);
    loop {
        let query = Query::new("next summary day", &sql);
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

/// The last day for which a lab has stored rows.
pub async fn last_day(tx: &mut Tx, rollup: &Rollup, lab_id: i64) -> Result<Option<NaiveDate>, DbError> {
    let s = &rollup.summary;
    let sql = format!("SELECT MAX({}) FROM {} WHERE {} = ? AND {} <= ?", s.day, s.table, s.lab, s.day);
    let mut until = calendar::LAST_DAY;
    loop {
        let query = Query::new("last summary day", &sql);
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

/// Every lab that has stored rows, by id, whether or not the lab exists.
///
/// Skips from lab to lab: a DISTINCT would scan the whole index on SQLite.
pub async fn labs(tx: &mut Tx, rollup: &Rollup) -> Result<Vec<i64>, DbError> {
    let s = &rollup.summary;
    let sql = format!("SELECT MIN({}) FROM {} WHERE {} > ?", s.lab, s.table, s.lab);
    let mut labs = Vec::new();
    let mut after = i64::MIN;
    loop {
        match tx.fetch_one(Query::new("next summary lab", &sql), args![after], |row| row.int_or_null(0)).await? {
            Some(lab) => labs.push(lab),
            None => return Ok(labs),
        }
        after = labs.last().copied().unwrap_or(i64::MAX);
    }
}
