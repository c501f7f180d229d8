//! Finding the bills of a test of the catalogue whose department changed.
//!
//! If the trigger marked each of these bills, that would be a million rows inside the user's own statement. So it
//! marks only the test, and this module walks by key, a few thousand rows at a time, over the rows that refer to
//! tests, and marks each day on which it finds one; then over the stored rows that count the test, because the
//! referring rows may have been deleted with it. In the end it deletes the marks of the tests.
//!
//! Rows that are inserted, deleted or moved meanwhile leave marks of their own, and their jobs start later than the
//! test's change: so it does no harm that the walk takes many transactions. Its position is kept in memory only, and
//! survives errors; if a scheduler dies, the marks of the tests remain, and another starts over.

use std::collections::{HashMap, HashSet, VecDeque};

use chrono::{DateTime, NaiveDate, Utc};

use super::{
    Tick,
    marks::{self, Labs},
};
use crate::{
    args,
    db::{Arg, Db, DbError, Mode, Query, repeat},
    rollup::{
        Dimension, Rollup,
        watch::{Catalogue, Watch},
    },
    statement,
};

/// How many rows one step reads.
const ROWS_A_STEP: usize = 20_000;

/// How many marks of tests are expanded together, and how many different tests they may name.
const MARKS_MAX: usize = 5000;
const TESTS_MAX: usize = 500;

/// How many marks one statement inserts.
const MARKS_A_STATEMENT: usize = 500;

statement!(
    TESTS_MARKED,
    "marked tests",
    "SELECT id, test_id FROM daymend_dirty WHERE test_id IS NOT NULL AND id > ? ORDER BY id LIMIT ?"
);

statement!(
    MARKS_ADD,
    "mark days of tests",
    "INSERT INTO daymend_dirty (lab_id, bill_time, marked_at) VALUES {rows}",
    "(?, ?, {now})"
);

/// A table to walk through, by its key.
#[derive(Debug)]
struct Walk {
    /// The statement that finds the key of a step's last row.
    bound: String,
    /// The statement that reads the rows of a step that matter (lab, and time or day), and its name.
    rows: String,
    name: &'static str,
    /// Arguments for further conditions on its rows.
    args: Vec<Arg>,
    is_by_day: bool,
    after: i64,
}

/// Tests whose bills are being searched for.
#[derive(Debug)]
pub(super) struct Expansion {
    marks: Vec<i64>,
    walks: VecDeque<Walk>,
    labs: Labs,
    seen: HashSet<(i64, NaiveDate)>,
}

/// Begins with the first tests marked after that id, if there are any.
pub(super) async fn begin(
    tick: &Tick<'_>,
    watch: &Watch,
    catalogue: &Catalogue,
    floor: i64,
) -> Result<Option<Expansion>, DbError> {
    let Some(part) = watch.users(catalogue) else { return Ok(None) };
    let mut tx = tick.db.begin(Mode::Snapshot).await?;
    let (mut ids, mut tests) = (Vec::new(), HashSet::new());
    tx.for_each(&TESTS_MARKED, args![floor, MARKS_MAX], |row| {
        let (id, test) = (row.int(0)?, row.int_or_null(1).unwrap_or(None));
        if tests.len() < TESTS_MAX || test.is_none_or(|test| tests.contains(&test)) {
            ids.push(id);
            tests.extend(test);
        }
        Ok(())
    })
    .await?;
    if ids.is_empty() {
        tx.rollback().await?;
        return Ok(None);
    }
    let labs = Labs::read(&mut tx, tick.rollup).await?;
    tx.commit().await?;
    let tests: Vec<Arg> = tests.into_iter().map(Arg::Int).collect();
    let list = repeat("?", tests.len());
    let bill = &watch.bill;
    let used = Walk {
        bound: bound(&part.table, &part.key),
        rows: format!(
            "SELECT DISTINCT bill.{lab}, CASE WHEN bill.{time} >= '1000-01-01' THEN bill.{time} END
             FROM {table} AS used JOIN {bills} AS bill ON bill.{bill_key} = used.{bill}
             WHERE used.{key} > ? AND used.{key} <= ? AND used.{reference} IN ({list})",
            lab = bill.lab,
            time = bill.time,
            table = part.table,
            bills = bill.table,
            bill_key = bill.key,
            bill = part.bill,
            key = part.key,
            reference = catalogue.reference,
        ),
        name: "bills of tests",
        args: tests.clone(),
        is_by_day: false,
        after: i64::MIN,
    };
    let mut walks = VecDeque::from([used]);
    walks.extend(["a", "b"].into_iter().filter_map(|place| stored(tick.rollup, catalogue, place, &tests)));
    Ok(Some(Expansion { marks: ids, walks, labs, seen: HashSet::new() }))
}

fn bound(table: &str, key: &str) -> String {
    format!(
        "SELECT MAX({key}) FROM (SELECT {key} FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT {ROWS_A_STEP}) AS step"
    )
}

/// Walks the stored rows that have one of the tests in this dimension; `None` if no event type does.
fn stored(rollup: &Rollup, catalogue: &Catalogue, place: &str, tests: &[Arg]) -> Option<Walk> {
    let s = &rollup.summary;
    let column = if place == "a" { &s.dimension_a } else { &s.dimension_b };
    let events = rollup.events.iter().filter(|event| {
        let dimension = if place == "a" { event.a } else { event.b };
        let columns = &rollup.facts[event.fact].columns;
        matches!(dimension, Dimension::Column(column) if columns[column] == catalogue.dimension)
    });
    let events: Vec<Arg> = events.map(|event| Arg::from(event.name.as_str())).collect();
    (!events.is_empty()).then(|| Walk {
        bound: bound(&s.table, &s.id),
        rows: format!(
            "SELECT DISTINCT {lab}, {day} FROM {table}
             WHERE {id} > ? AND {id} <= ? AND {column} IN ({}) AND {event} IN ({})",
            repeat("?", tests.len()),
            repeat("?", events.len()),
            lab = s.lab,
            day = s.day,
            table = s.table,
            id = s.id,
            event = s.event,
        ),
        name: "stored rows of tests",
        args: tests.iter().cloned().chain(events).collect(),
        is_by_day: true,
        after: i64::MIN,
    })
}

impl Expansion {
    /// Reads a few thousand rows, and marks the days of those that matter; returns false at the end.
    ///
    /// The position only advances with the commit: after an error, the same rows are read again.
    pub(super) async fn step(&mut self, db: &Db) -> Result<bool, DbError> {
        let Some(walk) = self.walks.front_mut() else { return Ok(false) };
        let mut tx = db.begin(Mode::Snapshot).await?;
        let next = Query::new("next rows", &walk.bound);
        let Some(last) = tx.fetch_one(next, args![walk.after], |row| row.int_or_null(0)).await? else {
            tx.commit().await?;
            self.walks.pop_front();
            return Ok(true);
        };
        let mut args = args![walk.after, last];
        args.extend(walk.args.iter().cloned());
        let mut found: HashMap<(i64, NaiveDate), DateTime<Utc>> = HashMap::new();
        tx.for_each(Query::new(walk.name, &walk.rows), args, |row| {
            let labs = &self.labs;
            let Some((lab, zone)) = row.int(0).ok().and_then(|lab| Some((lab, labs.zone(lab)?))) else { return Ok(()) };
            // A value that cannot be read belongs to no day of the summary.
            let at = if walk.is_by_day { row.date(1).map(|day| zone.first_instant(day)) } else { row.instant(1) };
            if let Ok(at) = at
                && !self.seen.contains(&(lab, zone.date_of(at)))
            {
                found.insert((lab, zone.date_of(at)), at);
            }
            Ok(())
        })
        .await?;
        tx.commit().await?;
        let moments = found
            .iter()
            .flat_map(|((lab, day), at)| self.labs.moments(*lab, *day, *at).into_iter().map(|moment| (*lab, moment)));
        mark(db, moments.collect()).await?;
        walk.after = last;
        self.seen.extend(found.into_keys());
        Ok(true)
    }

    /// Deletes the marks of the tests; returns how many were left.
    pub(super) async fn end(&self, db: &Db) -> Result<u64, DbError> {
        let mut tx = db.begin(Mode::Write).await?;
        let deleted = marks::delete(&mut tx, &self.marks).await?;
        tx.commit().await?;
        Ok(deleted)
    }
}

/// Inserts marks of these moments.
async fn mark(db: &Db, moments: Vec<(i64, DateTime<Utc>)>) -> Result<(), DbError> {
    if moments.is_empty() {
        return Ok(());
    }
    let mut tx = db.begin(Mode::Write).await?;
    for moments in moments.chunks(MARKS_A_STATEMENT) {
        let args = moments.iter().flat_map(|(lab, at)| args![*lab, *at]).collect();
        tx.execute(MARKS_ADD.with_rows(moments.len()), args).await?;
    }
    tx.commit().await
}
