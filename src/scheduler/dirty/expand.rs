//! The bills of a test of the catalogue whose department changed.
//!
//! A mark for each of them, made by the trigger, would be a million rows inside the user's own
//! statement. So the trigger marks the test, and this walks by their keys, some thousand rows at a
//! time, through the rows that refer to tests, and leaves a mark of each day on which it finds one;
//! then through the stored rows that count the test, since a deletion may have taken the others
//! along. In the end it deletes the marks of the tests.
//!
//! Rows that come, go or move meanwhile leave marks of their own, and their jobs start later than
//! the test's change: so it does no harm that the walk takes many transactions. How far it has come
//! is kept in memory only; a scheduler that dies leaves the marks of the tests, and another starts over.

use std::collections::{HashSet, VecDeque};

use chrono::{DateTime, NaiveDate, Utc};

use super::marks::{self, Labs};
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

/// How many marks of tests are looked at together, and how many tests they may be of.
const MARKS_MAX: usize = 5000;
const TESTS_MAX: usize = 500;

/// How many marks one statement leaves.
const MARKS_A_STATEMENT: usize = 500;

statement!(
    TESTS_MARKED,
    "marked tests",
    "SELECT id, test_id FROM daymend_dirty WHERE test_id IS NOT NULL ORDER BY id LIMIT ?"
);

statement!(
    MARKS_ADD,
    "mark days of tests",
    "INSERT INTO daymend_dirty (lab_id, bill_time, marked_at) VALUES {rows}",
    "(?, ?, {now})"
);

/// A table on the way, read by its key.
#[derive(Debug)]
struct Walk {
    /// The key of the last row of a step.
    bound: String,
    /// The rows of a step that matter: lab, and moment or day.
    rows: String,
    /// What else its rows have to fit.
    args: Vec<Arg>,
    is_by_day: bool,
    after: i64,
}

/// Tests whose bills are being looked for.
#[derive(Debug)]
pub(super) struct Expansion {
    marks: Vec<i64>,
    walks: VecDeque<Walk>,
    labs: Labs,
    seen: HashSet<(i64, NaiveDate)>,
}

/// Begins with the first marked tests, where there are any.
pub(super) async fn begin(
    db: &Db,
    rollup: &Rollup,
    watch: &Watch,
    catalogue: &Catalogue,
) -> Result<Option<Expansion>, DbError> {
    let Some(part) = watch.users(catalogue) else { return Ok(None) };
    let mut tx = db.begin(Mode::Snapshot).await?;
    let (mut ids, mut tests) = (Vec::new(), HashSet::new());
    tx.for_each(&TESTS_MARKED, args![MARKS_MAX], |row| {
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
    let labs = Labs::read(&mut tx, rollup).await?;
    tx.commit().await?;
    let tests: Vec<Arg> = tests.into_iter().map(Arg::Int).collect();
    let list = repeat("?", tests.len());
    let bill = &watch.bill;
    let used = Walk {
        bound: bound(&part.table, &part.key),
        rows: format!(
            "-- daymend: bills of tests\nSELECT DISTINCT bill.{lab}, CASE WHEN bill.{time} >= '1000-01-01' THEN bill.{time} END
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
        args: tests.clone(),
        is_by_day: false,
        after: i64::MIN,
    };
    let mut walks = VecDeque::from([used]);
    walks.extend(["a", "b"].into_iter().filter_map(|place| stored(rollup, catalogue, place, &tests)));
    Ok(Some(Expansion { marks: ids, walks, labs, seen: HashSet::new() }))
}

fn bound(table: &str, key: &str) -> String {
    format!(
        "-- daymend: next rows\nSELECT MAX({key}) FROM (SELECT {key} FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT {ROWS_A_STEP}) AS step"
    )
}

/// The stored rows that have a test as this dimension; none where no event type has.
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
            "-- daymend: stored rows of tests\nSELECT DISTINCT {lab}, {day} FROM {table}
             WHERE {id} > ? AND {id} <= ? AND {column} IN ({}) AND {event} IN ({})",
            repeat("?", tests.len()),
            repeat("?", events.len()),
            lab = s.lab,
            day = s.day,
            table = s.table,
            id = s.id,
            event = s.event,
        ),
        args: tests.iter().cloned().chain(events).collect(),
        is_by_day: true,
        after: i64::MIN,
    })
}

impl Expansion {
    /// Reads some thousand rows, and marks the days of those that matter; false where it is through.
    ///
    /// Whoever gets an error drops it: days may have been read and not marked.
    pub(super) async fn step(&mut self, db: &Db) -> Result<bool, DbError> {
        let Some(walk) = self.walks.front_mut() else { return Ok(false) };
        let mut tx = db.begin(Mode::Snapshot).await?;
        let next = Query::new("next rows", walk.bound.as_str());
        let Some(last) = tx.fetch_one(next, args![walk.after], |row| row.int_or_null(0)).await? else {
            self.walks.pop_front();
            tx.commit().await?;
            return Ok(true);
        };
        let mut args = args![walk.after, last];
        args.extend(walk.args.iter().cloned());
        let mut found: Vec<(i64, DateTime<Utc>)> = Vec::new();
        let (labs, seen, is_by_day) = (&self.labs, &mut self.seen, walk.is_by_day);
        tx.for_each(Query::new("days of tests", walk.rows.as_str()), args, |row| {
            let Some((lab, zone)) = row.int(0).ok().and_then(|lab| Some((lab, labs.zone(lab)?))) else { return Ok(()) };
            // What cannot be read is on no day that is kept.
            let at = if is_by_day { row.date(1).map(|day| zone.first_instant(day)) } else { row.instant(1) };
            if let Ok(at) = at
                && seen.insert((lab, zone.date_of(at)))
            {
                found.push((lab, at));
            }
            Ok(())
        })
        .await?;
        tx.commit().await?;
        walk.after = last;
        if !found.is_empty() {
            let mut tx = db.begin(Mode::Write).await?;
            for found in found.chunks(MARKS_A_STATEMENT) {
                let args = found.iter().flat_map(|(lab, at)| args![*lab, *at]).collect();
                tx.execute(MARKS_ADD.with_rows(found.len()), args).await?;
            }
            tx.commit().await?;
        }
        Ok(true)
    }

    /// Deletes the marks of the tests; how many were left.
    pub(super) async fn end(&self, db: &Db) -> Result<u64, DbError> {
        let mut tx = db.begin(Mode::Write).await?;
        let deleted = marks::delete(&mut tx, &self.marks).await?;
        tx.commit().await?;
        Ok(deleted)
    }
}
