//! Digests of days, by which the database can show that a day is right without sending its rows.
//!
//! A day's digest is the SHA-256 of its rows as text, in the order of the summary's unique key, computed where the
//! rows are; it is compared with one computed from the expected rows. If digests and row counts are equal, the day is
//! right. A wrong day never looks right: a text that the server cut off (`group_concat_max_len`,
//! `max_allowed_packet`), rows in another order (another collation, a missing index) or rows of other event types
//! give a different digest, and then the rows themselves are read. SQLite has no such function and does not need one:
//! its rows are not sent over a network.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use sha2::{Digest as _, Sha256};

use crate::{
    args,
    db::{Dated, DbError, Dialect, Query, Tx},
    rollup::{Rollup, Summary, aggregate::Key},
};

/// The digest of a day's rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Digest {
    /// The number of rows.
    pub rows: u64,
    /// The SHA-256 of their text in lower-case hexadecimal; empty if there are no rows.
    pub sha256: String,
}

/// The name of the statement.
pub(super) const NAME: &str = "digest summary";

/// The digests of a lab's days from `first` to `last` that have stored rows; `None` if the database cannot compute
/// them.
pub async fn stored(
    tx: &mut Tx,
    rollup: &Rollup,
    lab_id: i64,
    (first, last): (NaiveDate, NaiveDate),
) -> Result<Option<BTreeMap<NaiveDate, Digest>>, DbError> {
    let Some(sql) = sql(&rollup.summary, tx.dialect()) else { return Ok(None) };
    let mut digests = BTreeMap::new();
    tx.for_each(Query::new(NAME, sql), args![lab_id, first, last], |row| {
        let Dated::At(day) = row.day(0)? else { return Ok(()) };
        let rows = u64::try_from(row.int(1)?).unwrap_or_default();
        digests.insert(day, Digest { rows, sha256: row.text_or_null(2)?.unwrap_or_default() });
        Ok(())
    })
    .await?;
    Ok(Some(digests))
}

/// The digests of the days covered by `rows`, the expected rows in key order.
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

/// The statement, if the database supports it.
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
