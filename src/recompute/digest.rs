//! Digests of days, by which the database tells that a day is right without sending its rows.
//!
//! A day's digest is the SHA-256 of its rows as text, in the order of the summary's unique key, made where
//! the rows are; ours is made of the expected rows. Equal digests and numbers of rows: the day is right.
//! Nothing is taken to be right that is not: a text that the server has cut short
//! (`group_concat_max_len`, `max_allowed_packet`), rows in another order (a collation of its own, an index
//! that is not there) or rows of other event types make another digest, and then the rows themselves are
//! read. SQLite has no such function and needs none: its rows have no way to go.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use sha2::{Digest as _, Sha256};

use crate::{
    args,
    db::{Dated, DbError, Dialect, Query, Tx},
    rollup::{Rollup, Summary, aggregate::Key},
};

/// What stands for the rows of a day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Digest {
    /// How many rows there are.
    pub rows: u64,
    /// The SHA-256 of their text in hexadecimal, lower case; empty where there are none.
    pub sha256: String,
}

/// The name of the statement.
pub(super) const NAME: &str = "digest summary";

/// The digests of a lab's days from `first` to `last` that have stored rows; none where the database
/// cannot make any.
pub async fn stored(
    tx: &mut Tx,
    rollup: &Rollup,
    lab_id: i64,
    (first, last): (NaiveDate, NaiveDate),
) -> Result<Option<BTreeMap<NaiveDate, Digest>>, DbError> {
    let Some(sql) = sql(&rollup.summary, tx.dialect()) else { return Ok(None) };
    let mut digests = BTreeMap::new();
    tx.for_each(Query::named(NAME, sql), args![lab_id, first, last], |row| {
        let Dated::At(day) = row.day(0)? else { return Ok(()) };
        let rows = u64::try_from(row.int(1)?).unwrap_or_default();
        digests.insert(day, Digest { rows, sha256: row.text_or_null(2)?.unwrap_or_default() });
        Ok(())
    })
    .await?;
    Ok(Some(digests))
}

/// The digests of the days that `rows`, in key order, are expected on.
#[must_use]
pub fn expected(rollup: &Rollup, rows: &[(Key, u32)]) -> BTreeMap<NaiveDate, Digest> {
    let digests = rows.chunk_by(|(one, _), (other, _)| one.day == other.day).filter_map(|rows| {
        let (first, _) = rows.first()?;
        Some((first.day, digest(rollup, rows)))
    });
    digests.collect()
}

/// The digest of one day's rows.
fn digest(rollup: &Rollup, rows: &[(Key, u32)]) -> Digest {
    let mut text = String::with_capacity(rows.len() * 40);
    let [mut x, mut y, mut n] = [itoa::Buffer::new(); 3];
    for (key, count) in rows {
        let event = rollup.events[key.event].name.as_str();
        text.extend([x.format(key.a), " ", y.format(key.b), " ", event, " ", n.format(*count), ","]);
    }
    text.pop();
    Digest { rows: rows.len() as u64, sha256: hex::encode(Sha256::digest(text)) }
}

/// The statement, where the database can do it.
#[must_use]
pub fn sql(s: &Summary, dialect: Dialect) -> Option<String> {
    (dialect == Dialect::MySql).then(|| {
        format!(
            "SELECT {day}, COUNT(*), SHA2(GROUP_CONCAT({a}, ' ', {b}, ' ', {event}, ' ', {count}), 256) \
             FROM {table} WHERE {lab} = ? AND {day} BETWEEN ? AND ? GROUP BY {day}",
            day = s.day,
            a = s.dimension_a,
            b = s.dimension_b,
            event = s.event,
            count = s.count,
            table = s.table,
            lab = s.lab,
        )
    })
}
