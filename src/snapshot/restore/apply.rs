//! Inserting what is to be restored.
//!
//! Tables go parents first, in transactions of [`PAGE`] rows at most. A row that the database does not
//! take is deferred; deferred rows are tried again until a pass changes nothing. In tables that refer to
//! each other a row goes in with the references empty whose rows are still to come, where the columns may
//! be NULL; they are filled in when the group is through.

use std::collections::BTreeMap;

use super::{
    Context, Link,
    parents::Parent,
    plan,
    undo_file::{Reader, Record, Value, Values, Writer},
    work::{Candidate, Fill, State},
};
use crate::{
    db::{self, Arg, Backoff, DbError, Dialect, Kind, Mode, Query, RETRIES_MAX, Tx},
    snapshot::{
        SnapshotError,
        cells::{self, Cells},
        schema::{quote, quote_all},
        side::{PAGE, Shape, Side},
    },
};

/// What MySQL needs to take values as they were: an id of 0 is not a request for a new one, and a date
/// that another mode let in is no error now. Too long, out of range and no number stay errors.
const SESSION_MYSQL: &str = "SET SESSION sql_mode = 'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO'";

/// How many rows of a table that referred to a row are written down: where there were more, an undo leaves it.
const REFERRED_MAX: usize = 1000;

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Applied {
    /// Rows inserted by this run.
    pub inserted: u64,
    /// Rows whose references were filled in afterwards.
    pub filled: u64,
    /// How often deferred rows were tried.
    pub passes: u32,
}

/// A row on its way.
struct Ready {
    candidate: Candidate,
    row: Cells,
    later: Vec<(usize, Arg)>,
}

/// Restores what the plan says.
pub struct Apply<'a> {
    context: &'a Context,
    undo: Writer,
    done: Applied,
    /// Told after each transaction how many rows have been inserted.
    progress: &'a mut (dyn FnMut(u64) + Send),
}

impl<'a> Apply<'a> {
    /// Goes on from where the undo file says that another run has ended.
    pub async fn new(
        context: &'a Context,
        undo: Writer,
        known: &mut Reader,
        progress: &'a mut (dyn FnMut(u64) + Send),
    ) -> anyhow::Result<Self> {
        // The rows whose references were never filled in.
        for start in (0..known.len()).step_by(PAGE) {
            for record in known.read(start..known.len().min(start + PAGE))? {
                let Record::Insert { table, row, later, .. } = record else { continue };
                let Some(number) = context.number(&table).filter(|_| !later.is_empty()) else { continue };
                let key = context.shapes[number].key_of(&row.0);
                let values = later.into_iter().map(|(place, value)| (place, value.0)).collect();
                context.work.add_fills(&[Fill { table: number, key, values }]).await?;
            }
        }
        Ok(Self { context, undo, done: Applied::default(), progress })
    }

    /// Until a pass changes nothing.
    pub async fn run(mut self) -> anyhow::Result<Applied> {
        loop {
            let mut changed = 0;
            for group in &self.context.groups {
                // Rows of a group may wait for each other.
                loop {
                    let mut restored = 0;
                    for table in &group.tables {
                        restored += self.table(*table).await?;
                    }
                    changed += restored;
                    if restored == 0 || !group.is_cyclic {
                        break;
                    }
                }
                self.fill().await?;
            }
            self.done.passes += 1;
            // Rows whose references stay empty are not what they were: their next try may be better.
            let out = self.take_out().await?;
            if changed <= out {
                break;
            }
            self.context.work.retry().await?;
            plan::settle(self.context).await?;
        }
        for table in 0..self.context.shapes.len() {
            self.give_up(table).await?;
        }
        Ok(self.done)
    }

    /// Defers what still waits.
    async fn give_up(&self, table: usize) -> Result<(), SnapshotError> {
        loop {
            let mut page = self.context.work.page(table, State::Missing, 0).await?;
            if page.is_empty() {
                return Ok(());
            }
            for candidate in &mut page {
                candidate.state = State::Deferred;
                candidate.reason = "a row that it refers to cannot be restored".to_owned();
            }
            self.context.work.set(table, &page).await?;
        }
    }

    /// Takes out again what went in for a row that never came; how many rows.
    async fn take_out(&mut self) -> anyhow::Result<u64> {
        let context = self.context;
        let (mut after, mut out) = (0, 0);
        loop {
            let page = context.work.fills(after).await?;
            let Some((last, _)) = page.last() else { return Ok(out) };
            after = *last;
            for (id, fill) in page {
                let shape = &context.shapes[fill.table];
                let mut tx = context.live.db.begin(Mode::Write).await?;
                let is_referred = self.is_referred(&mut tx, &fill).await?;
                let (condition, args) = key_condition(&context.live, shape, &fill.key);
                let table = quote(context.live.db.dialect(), &shape.table);
                let sql = format!("-- daymend: restore take out\nDELETE FROM {table} WHERE {condition}");
                let is_out = !is_referred && tx.execute(Query::new("restore take out", sql), args).await.is_ok();
                if is_out {
                    tx.commit().await?;
                } else {
                    tx.rollback().await?;
                }
                let known = context.work.find(fill.table, std::slice::from_ref(&fill.key)).await?.pop().flatten();
                if let Some(mut candidate) = known {
                    if is_out {
                        out += 1;
                        self.done.inserted = self.done.inserted.saturating_sub(1);
                        candidate.state = State::Deferred;
                        candidate.reason = "a row that it refers to cannot be restored".to_owned();
                    } else {
                        candidate.reason = "a reference of it is left empty, whose row cannot be restored".to_owned();
                    }
                    context.work.set(fill.table, &[candidate]).await?;
                }
                context.work.filled(id).await?;
            }
        }
    }

    async fn is_referred(&self, tx: &mut Tx, fill: &Fill) -> Result<bool, SnapshotError> {
        let context = self.context;
        let shape = &context.shapes[fill.table];
        let found = context.live.lookup(tx, shape, &shape.key, std::slice::from_ref(&fill.key), true).await?;
        let Some(row) = found.into_iter().flatten().next() else { return Ok(false) };
        // Somebody has written it since.
        if fill.values.iter().any(|(place, _)| row[*place] != Arg::Null) {
            return Ok(true);
        }
        for link in context.links.iter().filter(|link| link.parent == fill.table) {
            let Some(sought) = link.sought(&row) else { continue };
            let child = &context.shapes[link.child];
            let found = context.live.lookup(tx, child, &link.columns, &[sought], false).await?;
            if found.iter().flatten().any(|found| link.target(found).is_some()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// One pass over the missing rows of a table; how many are restored now.
    async fn table(&mut self, table: usize) -> anyhow::Result<u64> {
        let mut restored = 0;
        let mut after = 0;
        loop {
            let page = self.context.work.page(table, State::Missing, after).await?;
            let Some(last) = page.last() else { return Ok(restored) };
            after = last.place;
            restored += self.batch(table, page).await?;
            (self.progress)(self.done.inserted);
        }
    }

    /// Restores some rows in one transaction; one by one where that fails at its commit.
    async fn batch(&mut self, table: usize, candidates: Vec<Candidate>) -> anyhow::Result<u64> {
        let mut waiting = vec![candidates];
        let mut restored = 0;
        let mut failures = 0;
        while let Some(candidates) = waiting.pop() {
            match self.transaction(table, candidates.clone()).await {
                Ok(count) => restored += count,
                Err(error) => {
                    let Some(database) = database_error(&error) else { return Err(error) };
                    failures += 1;
                    if is_passing(database) && failures <= RETRIES_MAX {
                        tokio::time::sleep(Backoff::CONFLICT.wait(failures)).await;
                        waiting.push(candidates);
                    } else if matches!(database.kind, Kind::Unavailable | Kind::Definition) || is_passing(database) {
                        return Err(error);
                    } else if candidates.len() > 1 {
                        // A constraint that is checked at the commit: find out whose it is.
                        waiting.extend(candidates.into_iter().rev().map(|candidate| vec![candidate]));
                    } else {
                        let (reason, detail) = why(database);
                        let deferred = |candidate| Candidate {
                            state: State::Deferred,
                            reason: reason.clone(),
                            detail: detail.clone(),
                            ..candidate
                        };
                        let candidates: Vec<Candidate> = candidates.into_iter().map(deferred).collect();
                        self.context.work.set(table, &candidates).await?;
                    }
                }
            }
        }
        self.done.inserted += restored;
        Ok(restored)
    }

    async fn transaction(&mut self, table: usize, candidates: Vec<Candidate>) -> anyhow::Result<u64> {
        let context = self.context;
        let shape = &context.shapes[table];
        let mut tx = context.live.db.begin(Mode::Write).await?;
        if tx.dialect() == Dialect::MySql {
            tx.execute(Query::new("restore session", SESSION_MYSQL), vec![]).await?;
        }
        let (ready, mut settled) = ready(context, &mut tx, table, candidates).await?;
        let insert = insert_sql(&context.live, shape);
        let mut inserted = Vec::new();
        for mut one in ready {
            match tx.execute(Query::new("restore insert", insert.as_str()), one.row.clone()).await {
                Ok(_) => inserted.push(one),
                Err(error) if is_passing(&error) || matches!(error.kind, Kind::Unavailable | Kind::Definition) => {
                    return Err(error.into());
                }
                Err(error) => {
                    (one.candidate.reason, one.candidate.detail) = why(&error);
                    one.candidate.state = State::Deferred;
                    settled.push(one.candidate);
                }
            }
        }
        let records = self.read_back(&mut tx, table, &mut inserted).await?;
        self.undo.append(&records)?;
        tx.commit().await?;
        let count = inserted.len() as u64;
        let mut fills = Vec::new();
        for one in inserted {
            if !one.later.is_empty() {
                fills.push(Fill { table, key: shape.key_of(&one.row), values: one.later });
            }
            settled.push(one.candidate);
        }
        context.work.add_fills(&fills).await?;
        context.work.set(table, &settled).await?;
        Ok(count)
    }

    /// Reads what was inserted as it is now: triggers and types may have changed it.
    async fn read_back(&self, tx: &mut Tx, table: usize, inserted: &mut [Ready]) -> anyhow::Result<Vec<Record>> {
        let shape = &self.context.shapes[table];
        let keys: Vec<Cells> = inserted.iter().map(|one| shape.key_of(&one.row)).collect();
        let found = self.context.live.lookup(tx, shape, &shape.key, &keys, false).await?;
        let mut records = Vec::new();
        for (one, found) in inserted.iter_mut().zip(found) {
            let Some(row) = found.into_iter().next() else {
                anyhow::bail!(
                    "{} {}: was inserted and is not there: a trigger must have moved it; nothing of its batch is kept",
                    shape.table,
                    cells::show_key(&one.candidate.key)
                );
            };
            let differ: Vec<usize> = (0..row.len()).filter(|place| row[*place] != one.row[*place]).collect();
            one.candidate.state = State::Restored;
            one.candidate.detail = String::new();
            one.candidate.reason = if differ.is_empty() {
                String::new()
            } else {
                format!("the database changed {} as it went in", plan::names(shape, &differ))
            };
            let later = one.later.iter().map(|(place, value)| (*place, Value(value.clone()))).collect();
            let referred = self.referred(tx, table, &row).await?;
            records.push(Record::Insert { table: shape.table.clone(), row: Values(row), later, referred });
        }
        Ok(records)
    }

    /// The live rows that referred to a row all the while it was away.
    async fn referred(&self, tx: &mut Tx, table: usize, row: &[Arg]) -> Result<Vec<(String, String)>, SnapshotError> {
        let mut referred = Vec::new();
        let links = self.context.links.iter().filter(|link| link.parent == table && !link.reference.is_enforced);
        for link in links {
            let Some(sought) = link.sought(row) else { continue };
            let child = &self.context.shapes[link.child];
            let found = self.context.live.lookup(tx, child, &link.columns, &[sought], false).await?;
            let keys = found.iter().flatten().filter(|found| link.target(found).is_some());
            referred.extend(
                keys.take(REFERRED_MAX).map(|found| (child.table.clone(), cells::show_key(&child.key_of(found)))),
            );
        }
        Ok(referred)
    }

    /// Fills in the references whose rows are there now.
    async fn fill(&mut self) -> anyhow::Result<()> {
        let mut after = 0;
        loop {
            let page = self.context.work.fills(after).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = *last;
            for (id, fill) in page {
                let mut failures = 0;
                loop {
                    match self.fill_one(&fill).await {
                        Ok(true) => {
                            self.context.work.filled(id).await?;
                            break;
                        }
                        Ok(false) => break,
                        Err(error) => {
                            failures += 1;
                            let passing = database_error(&error).is_some_and(is_passing);
                            if !passing || failures > RETRIES_MAX {
                                return Err(error);
                            }
                            tokio::time::sleep(Backoff::CONFLICT.wait(failures)).await;
                        }
                    }
                }
            }
        }
    }

    /// Fills in the references of one row; whether that is done with.
    async fn fill_one(&mut self, fill: &Fill) -> anyhow::Result<bool> {
        let context = self.context;
        let shape = &context.shapes[fill.table];
        let mut tx = context.live.db.begin(Mode::Write).await?;
        let found = context.live.lookup(&mut tx, shape, &shape.key, std::slice::from_ref(&fill.key), true).await?;
        let Some(before) = found.into_iter().flatten().next() else { return Ok(true) };
        // Somebody has written it since.
        if fill.values.iter().any(|(place, _)| before[*place] != Arg::Null) {
            return Ok(true);
        }
        let mut after = before.clone();
        for (place, value) in &fill.values {
            after[*place] = value.clone();
        }
        for link in context.links_of(fill.table) {
            if !fill.values.iter().any(|(place, _)| link.columns.contains(place)) {
                continue;
            }
            let Some(target) = link.target(&after) else { continue };
            let parent = &context.shapes[link.parent];
            if context.live.lookup(&mut tx, parent, &link.parent_columns, &[target], true).await?[0].is_empty() {
                return Ok(false);
            }
        }
        match update(&context.live, &mut tx, shape, &after).await {
            Ok(_) => {}
            Err(error) if is_passing(&error) || matches!(error.kind, Kind::Unavailable | Kind::Definition) => {
                return Err(error.into());
            }
            Err(_) => return Ok(false),
        }
        let found = context.live.lookup(&mut tx, shape, &shape.key, std::slice::from_ref(&fill.key), false).await?;
        let after = found.into_iter().flatten().next().unwrap_or(after);
        self.undo.append(&[Record::Fill {
            table: shape.table.clone(),
            before: Values(before),
            after: Values(after),
        }])?;
        tx.commit().await?;
        self.done.filled += 1;
        Ok(true)
    }
}

/// Rows with their references rewritten, and the candidates that have to wait.
async fn ready(
    context: &Context,
    tx: &mut Tx,
    table: usize,
    candidates: Vec<Candidate>,
) -> Result<(Vec<Ready>, Vec<Candidate>), SnapshotError> {
    let shape = &context.shapes[table];
    let mut snapshot = context.snapshot.db.begin(Mode::Snapshot).await?;
    let keys: Vec<Cells> = candidates.iter().map(|candidate| candidate.key.clone()).collect();
    let rows = context.snapshot.lookup(&mut snapshot, shape, &shape.key, &keys, false).await?;
    let rows: Vec<Cells> = rows.into_iter().filter_map(|rows| rows.into_iter().next()).collect();
    let mut written = rows.clone();
    let mut later: Vec<Vec<(usize, Arg)>> = vec![Vec::new(); rows.len()];
    let mut waits: Vec<Option<(String, String)>> = vec![None; rows.len()];
    // What they refer to is still to come: they stay as they are.
    let mut is_early = vec![false; rows.len()];
    for link in context.links_of(table) {
        let parents = context.parents(&mut snapshot, link, &rows).await?;
        context.redirect(tx, link, &mut written, &parents).await?;
        let is_live = live_parents(context, &mut snapshot, tx, link, &rows, &written, &parents).await?;
        for index in 0..rows.len() {
            let is_itself = link.parent == table
                && link.target(&written[index]) == Some(shape.values(&written[index], &link.parent_columns));
            if is_itself || waits[index].is_some() {
                continue;
            }
            if let Parent::Candidate(parent) = &parents[index] {
                if let Some(why) = plan::why_not(context, link.parent, parent) {
                    waits[index] = Some(why);
                    continue;
                }
                if parent.state == State::Missing && !is_live[index] {
                    if link.nullable.is_empty() {
                        is_early[index] = true;
                        continue;
                    }
                    let values = link.nullable.iter().map(|place| (*place, written[index][*place].clone()));
                    later[index].extend(values);
                    continue;
                }
            }
            if !is_live[index] {
                let target = link.target(&written[index]).unwrap_or_default();
                let parent = &context.shapes[link.parent].table;
                waits[index] =
                    Some((format!("its row of {parent} is gone"), format!("{parent} {}", cells::show_key(&target))));
            }
        }
    }
    let (mut ready, mut waiting) = (Vec::new(), Vec::new());
    for ((((candidate, mut row), later), wait), is_early) in
        candidates.into_iter().zip(written).zip(later).zip(waits).zip(is_early)
    {
        match wait {
            None if is_early => {}
            Some((reason, detail)) => waiting.push(Candidate { state: State::Deferred, reason, detail, ..candidate }),
            None => {
                let mut unique: BTreeMap<usize, Arg> = BTreeMap::new();
                for (place, value) in later {
                    row[place] = Arg::Null;
                    unique.insert(place, value);
                }
                ready.push(Ready { candidate, row, later: unique.into_iter().collect() });
            }
        }
    }
    Ok((ready, waiting))
}

/// Whether what each row refers to is there, and stays there until the transaction ends. A declared
/// reference that led nowhere in the snapshot may lead nowhere again.
async fn live_parents(
    context: &Context,
    snapshot: &mut Tx,
    tx: &mut Tx,
    link: &Link,
    rows: &[Cells],
    written: &[Cells],
    parents: &[Parent],
) -> Result<Vec<bool>, SnapshotError> {
    let shape = &context.shapes[link.parent];
    let mut is_live = vec![true; written.len()];
    let mut asked = Vec::new();
    for (index, row) in written.iter().enumerate() {
        if let (Some(target), true) = (link.target(row), parents[index] != Parent::None) {
            asked.push((index, target));
        }
    }
    let targets: Vec<Cells> = asked.iter().map(|(_, target)| target.clone()).collect();
    let found = context.live.lookup(tx, shape, &link.parent_columns, &targets, true).await?;
    let gone: Vec<usize> =
        asked.iter().zip(found).filter(|(_, found)| found.is_empty()).map(|((index, _), _)| *index).collect();
    let before: Vec<Cells> = gone.iter().map(|index| link.target(&rows[*index]).unwrap_or_default()).collect();
    let dangled = if link.reference.is_enforced {
        vec![Vec::new(); gone.len()]
    } else {
        context.snapshot.lookup(snapshot, shape, &link.parent_columns, &before, false).await?
    };
    for (index, before) in gone.into_iter().zip(dangled) {
        is_live[index] = before.is_empty() && !link.reference.is_enforced;
    }
    Ok(is_live)
}

fn insert_sql(live: &Side, shape: &Shape) -> String {
    let dialect = live.db.dialect();
    format!(
        "-- daymend: restore insert\nINSERT INTO {} ({}) VALUES ({})",
        quote(dialect, &shape.table),
        quote_all(dialect, shape.columns.iter().map(String::as_str)),
        db::repeat("?", shape.columns.len())
    )
}

/// The condition that a row has a key, and its arguments.
pub(super) fn key_condition(live: &Side, shape: &Shape, key: &[Arg]) -> (String, Vec<Arg>) {
    let terms: Vec<String> = shape
        .key
        .iter()
        .map(|place| {
            let name = &shape.columns[*place];
            format!("{} = {}", quote(live.db.dialect(), name), live.placeholder(&shape.table, name))
        })
        .collect();
    (terms.join(" AND "), key.to_vec())
}

/// Writes every column of a row but its key: one that was left out might write itself (ON UPDATE
/// CURRENT_TIMESTAMP).
pub(super) async fn update(live: &Side, tx: &mut Tx, shape: &Shape, row: &[Arg]) -> Result<u64, DbError> {
    let dialect = live.db.dialect();
    let places = (0..shape.columns.len()).filter(|place| !shape.key.contains(place));
    let (names, mut args): (Vec<String>, Vec<Arg>) =
        places.map(|place| (format!("{} = ?", quote(dialect, &shape.columns[place])), row[place].clone())).unzip();
    let (condition, key) = key_condition(live, shape, &shape.key_of(row));
    args.extend(key);
    let sql = format!(
        "-- daymend: restore update\nUPDATE {} SET {} WHERE {condition}",
        quote(dialect, &shape.table),
        names.join(", ")
    );
    tx.execute(Query::new("restore update", sql), args).await
}

/// The database's error in an error, where it is one.
#[must_use]
pub fn database_error(error: &anyhow::Error) -> Option<&DbError> {
    error.chain().find_map(|cause| {
        cause.downcast_ref::<DbError>().or_else(|| match cause.downcast_ref::<SnapshotError>() {
            Some(SnapshotError::Database(error)) => Some(error),
            _ => None,
        })
    })
}

/// Whether it passes by itself: a conflict with another transaction, but not a key that is taken.
pub(super) fn is_passing(error: &DbError) -> bool {
    error.kind == Kind::Conflict && !error.is_duplicate()
}

/// Why the database does not take a row, in one of a few words, and its own.
fn why(error: &DbError) -> (String, String) {
    let reason = match db::code(&error.source) {
        1062 | 1586 | 2067 | 1555 | 2579 => "a unique key is taken",
        1452 | 1216 | 787 => "what it refers to is gone",
        3819 | 4025 | 275 => "a CHECK does not hold",
        1406 | 1162 => "a value is too long",
        1264 | 1365 | 1366 | 1292 | 1265 | 3140 | 1416 | 3091 => "a value does not fit its column",
        1048 | 1364 | 1299 => "a value is missing",
        1644 | 1811 => "a trigger refuses it",
        _ => "the database refuses it",
    };
    let words = match &error.source {
        sqlx::Error::Database(error) => error.message().to_owned(),
        other => other.to_string(),
    };
    (reason.to_owned(), words.replace('\n', " "))
}
