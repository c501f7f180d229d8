//! The stored rows of a day as one text, which the database makes of them.
//!
//! MySQL takes longer to send rows than to read them, and a worker as long to receive them as to compare
//! them: 2,600 rows are 2,600 messages. As a text of a day they are one.
//!
//! Nothing is taken from a text that is not whole: each row ends with `;`, and there have to be as many as
//! the day has rows. So a text that the server has cut short (`group_concat_max_len`,
//! `max_allowed_packet`), rows with a NULL, which are not in it, and event types with a `;` make it unread,
//! and then the rows themselves are asked for. SQLite reads rows where they are, and has no use for this.

use chrono::NaiveDate;

use super::stored::StoredRow;
use crate::{
    args,
    db::{Dated, DbError, Dialect, Query, Tx},
    rollup::{Rollup, Summary},
};

/// The stored rows of a lab from `first` to `last`; none where they do not fit into texts.
pub async fn read(
    tx: &mut Tx,
    rollup: &Rollup,
    lab_id: i64,
    (first, last): (NaiveDate, NaiveDate),
) -> Result<Option<Vec<StoredRow>>, DbError> {
    let Some(sql) = sql(&rollup.summary, tx.dialect()) else { return Ok(None) };
    let mut rows = Vec::new();
    let mut is_whole = true;
    tx.for_each(Query::new("read summary days", sql), args![lab_id, first, last], |row| {
        let Dated::At(day) = row.day(0)? else { return Ok(()) };
        let expected = rows.len() + usize::try_from(row.int(1)?).unwrap_or_default();
        let text = row.text_or_null(2).ok().flatten().unwrap_or_default();
        rows.reserve(expected - rows.len());
        is_whole &= unpack(day, &text, &mut rows).is_some() && rows.len() == expected;
        Ok(())
    })
    .await?;
    Ok(is_whole.then_some(rows))
}

/// The rows of a day's text; none where it is not whole.
fn unpack(day: NaiveDate, text: &str, rows: &mut Vec<StoredRow>) -> Option<()> {
    for row in text.split_terminator(';') {
        let mut columns = row.splitn(5, ' ');
        let mut number = || columns.next()?.parse().ok();
        let (id, a, b, count) = (number()?, number()?, number()?, number()?);
        rows.push(StoredRow { id, day, a: Some(a), b: Some(b), event: columns.next()?.to_owned(), count });
    }
    (text.is_empty() || text.ends_with(';')).then_some(())
}

/// The statement, where the database can do it.
#[must_use]
pub fn sql(s: &Summary, dialect: Dialect) -> Option<String> {
    (dialect == Dialect::MySql).then(|| {
        format!(
            "-- daymend: read summary days\n\
             SELECT {day}, COUNT(*), GROUP_CONCAT({id}, ' ', {a}, ' ', {b}, ' ', {count}, ' ', {event}, ';' SEPARATOR '') \
             FROM {table} WHERE {lab} = ? AND {day} BETWEEN ? AND ? GROUP BY {day}",
            day = s.day,
            id = s.id,
            a = s.dimension_a,
            b = s.dimension_b,
            count = s.count,
            event = s.event,
            table = s.table,
            lab = s.lab,
        )
    })
}
