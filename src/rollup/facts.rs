//! Reading facts, and counting them.
//!
//! A kind of facts is one SELECT. Facts that are part of another fact, as a test is part of a bill, are read by the
//! ids of those already read, and take their time and columns from them: reading each bill again for every kind took
//! a third of the time.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use foldhash::fast::RandomState;

use super::{
    FactKind, Rollup,
    aggregate::{Counts, DaySpan},
    source::{position, query},
};
use crate::{
    args,
    db::{Dated, DbError, Query, Row, Tx, json_list},
};

/// The column of a SELECT that holds a fact's time.
pub(super) const BILL_TIME: &str = "bill_time";

/// The column of a fact's id, needed if facts of another kind are part of it.
pub(super) const ID: &str = "id";

/// The column with the id of the fact that a row is part of; NULL in a row that is not a fact.
pub(super) const PART_OF: &str = "part_of";

/// For how many facts one statement reads the parts.
const IDS_A_STATEMENT: usize = 10_000;

/// Whether facts are locked against change until the transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locking {
    /// No locks.
    None,
    /// A shared lock on every row that is read, counted or not; a conflict if one is not available at once.
    Shared,
}

impl Locking {
    fn query(self, fact: &FactKind) -> Query<'_> {
        match self {
            Self::None => query(&fact.sql),
            Self::Shared => Query::new(&fact.sql.file, format!("{}\n{{share_nowait}}", fact.sql.text)),
        }
    }
}

/// Counts all facts of a lab's days. A fact with an invalid time belongs to no day; the doctor reports it.
pub async fn count<'a>(
    tx: &mut Tx,
    rollup: &'a Rollup,
    lab_id: i64,
    days: &'a DaySpan,
    locking: Locking,
) -> Result<Counts<'a>, DbError> {
    let mut counts = Counts::new(rollup, days);
    let mut wholes = Vec::new();
    for (kind, fact) in rollup.facts.iter().enumerate() {
        wholes.push(match fact.part_of {
            Some(of) => {
                count_parts(tx, kind, fact, &wholes[of], locking, &mut counts).await?;
                Wholes::default()
            }
            None => count_wholes(tx, rollup, (kind, lab_id), days, locking, &mut counts).await?,
        });
    }
    Ok(counts)
}

/// The facts of one kind, kept for the facts that are part of them.
#[derive(Debug, Default)]
struct Wholes {
    /// The columns kept for each fact.
    columns: Vec<String>,
    /// The ids, in the order they were read.
    ids: Vec<i64>,
    /// The position of each id in `times`; `values` has one entry per column for each.
    places: HashMap<i64, usize, RandomState>,
    times: Vec<DateTime<Utc>>,
    values: Vec<Option<i64>>,
}

/// Counts the facts of a kind that is part of no other; returns what its parts need to know about them.
async fn count_wholes(
    tx: &mut Tx,
    rollup: &Rollup,
    (kind, lab_id): (usize, i64),
    days: &DaySpan,
    locking: Locking,
    counts: &mut Counts<'_>,
) -> Result<Wholes, DbError> {
    let fact = &rollup.facts[kind];
    let mut wholes = Wholes::default();
    let interval = days.interval();
    if interval.is_empty() {
        return Ok(wholes);
    }
    let args = fact.sql.bind(|name| match name {
        "lab_id" => lab_id.into(),
        "from" => interval.from.into(),
        _ => interval.until.into(),
    });
    let has_parts = rollup.has_parts(kind);
    let mut at: Option<Columns> = None;
    let mut values = Vec::new();
    tx.for_each(locking.query(fact), args, |row| {
        let at = match &at {
            Some(at) => at,
            None => at.insert(wholes.columns_of(&row, rollup, kind)?),
        };
        let Dated::At(time) = row.moment(at.time)? else { return Ok(()) };
        values.clear();
        for column in &at.values {
            values.push(row.int_or_null(*column)?);
        }
        counts.add(kind, time, &values);
        if has_parts {
            let id = row.int(at.id)?;
            wholes.places.insert(id, wholes.times.len());
            wholes.ids.push(id);
            wholes.times.push(time);
            wholes.values.extend_from_slice(&values);
        }
        Ok(())
    })
    .await?;
    Ok(wholes)
}

/// The positions of the columns that are read from a row.
struct Columns {
    time: usize,
    /// Only read if the kind has parts.
    id: usize,
    values: Vec<usize>,
}

impl Wholes {
    /// Finds the columns of a kind in its first row: its own, and what its parts use and it returns.
    fn columns_of(&mut self, row: &Row, rollup: &Rollup, kind: usize) -> Result<Columns, sqlx::Error> {
        self.columns.clone_from(&rollup.facts[kind].columns);
        for name in rollup.columns_of_parts(kind) {
            if row.position(name).is_some() && !self.columns.iter().any(|known| known == name) {
                self.columns.push(name.to_owned());
            }
        }
        Ok(Columns {
            time: position(row, BILL_TIME)?,
            id: if rollup.has_parts(kind) { position(row, ID)? } else { 0 },
            values: self.columns.iter().map(|name| position(row, name)).collect::<Result<_, _>>()?,
        })
    }
}

/// Counts the facts that are part of others.
async fn count_parts(
    tx: &mut Tx,
    kind: usize,
    fact: &FactKind,
    wholes: &Wholes,
    locking: Locking,
    counts: &mut Counts<'_>,
) -> Result<(), DbError> {
    /// Where the value of a column is.
    enum At {
        Own(usize),
        Whole(usize),
    }
    let mut columns: Option<(usize, Vec<At>)> = None;
    let mut values = Vec::new();
    for ids in wholes.ids.chunks(IDS_A_STATEMENT) {
        tx.for_each(locking.query(fact), args![json_list(ids)], |row| {
            let (part_of, at) = match &mut columns {
                Some(columns) => columns,
                none => {
                    let at = |name: &String| match wholes.columns.iter().position(|known| known == name) {
                        Some(place) if row.position(name).is_none() => Ok(At::Whole(place)),
                        _ => position(&row, name).map(At::Own),
                    };
                    let at = fact.columns.iter().map(at).collect::<Result<_, _>>()?;
                    none.insert((position(&row, PART_OF)?, at))
                }
            };
            let Some(id) = row.int_or_null(*part_of)? else { return Ok(()) };
            let Some(&place) = wholes.places.get(&id) else {
                let what = format!("{} returns {PART_OF} = {id}, which was not asked for", fact.sql.file);
                return Err(sqlx::Error::Decode(what.into()));
            };
            let whole = &wholes.values[place * wholes.columns.len()..];
            values.clear();
            for at in at.iter() {
                values.push(match at {
                    At::Own(column) => row.int_or_null(*column)?,
                    At::Whole(column) => whole[*column],
                });
            }
            counts.add(kind, wholes.times[place], &values);
            Ok(())
        })
        .await?;
    }
    Ok(())
}
