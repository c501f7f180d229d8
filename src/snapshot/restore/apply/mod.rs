//! Inserting the rows to be restored.
//!
//! Parent tables come first; each page of rows is inserted in its own transaction. A row that the database rejects is
//! deferred; deferred rows are tried again until a pass changes nothing. In tables that refer to each other,
//! references to rows that are still to come are left empty when a row is inserted, if the columns may be NULL; they
//! are filled in when the group is done.

mod fill;
mod ready;
mod record;
mod sql;

use super::{
    Context,
    candidates::{Candidate, Fill, State},
    plan,
    undo_file::{Reader, Record, Values, Writer},
};
use crate::{
    db::{DbError, Mode},
    snapshot::{SnapshotError, database_error, side::Shape},
};
use ready::ready;
pub(super) use record::SEVERAL;
use record::Unfound;
use sql::insert;
pub(super) use sql::{Failures, begin, delete, is_refusal, update, why};

/// The result of a restore.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Applied {
    /// Rows inserted by this run.
    pub inserted: u64,
    /// Rows whose references were filled in afterwards.
    pub filled: u64,
    /// How many passes over deferred rows were made.
    pub passes: u32,
    /// Rows with references still to be filled in that somebody has changed since they were inserted: left alone.
    pub changed: u64,
    /// Rows that are in the database with references left empty.
    pub incomplete: u64,
}

/// A committed transaction, to be recorded in the working file.
struct Batch {
    /// How many rows were inserted.
    count: u64,
    /// Those of them that have references to be filled in.
    fills: Vec<Fill>,
    /// The new state of each candidate.
    settled: Vec<Candidate>,
}

/// Carries out a plan.
pub struct Apply<'a> {
    context: &'a Context,
    /// The tables with all of their live columns, as rows are recorded: what users enter in a column that the snapshot
    /// does not have is a change of the row too.
    shapes: Vec<Shape>,
    undo: Writer,
    /// The maximum size of a statement, if there is a limit.
    packet_max: Option<usize>,
    done: Applied,
    /// Called after each transaction with the number of rows inserted so far.
    progress: &'a mut (dyn FnMut(u64) + Send),
}

impl<'a> Apply<'a> {
    /// Continues from where the undo file says that an earlier run ended.
    pub async fn new(
        context: &'a Context,
        mut undo: Writer,
        known: &mut Reader,
        progress: &'a mut (dyn FnMut(u64) + Send),
    ) -> anyhow::Result<Self> {
        let shapes: Vec<Shape> = context.shapes.iter().map(Shape::whole).collect();
        // Find the rows whose references were never filled in. Only the last record may be of a transaction that was
        // not committed; a reference that was filled in earlier and is empty now was emptied by somebody.
        let mut last_filled: Option<(usize, Values, Values)> = None;
        for page in known.pages() {
            for record in known.read(page)? {
                // A `Days` record does not show that the one before was committed: an undo writes it before it does
                // anything.
                let is_later = !matches!(record, Record::Days { .. });
                if let Some((table, row, _)) = last_filled.take_if(|_| is_later) {
                    context.work.forget_fill(table, &context.shapes[table].key_of(&row.0)).await?;
                }
                match record {
                    Record::Insert { table, row, later, .. } | Record::Empty { table, row, later } => {
                        let Some(table) = context.number(&table).filter(|_| !later.is_empty()) else { continue };
                        let values = later.into_iter().map(|(place, value)| (place, value.0)).collect();
                        let key = context.shapes[table].key_of(&row.0);
                        let fill =
                            Fill { table, key, row: row.0, values, is_known: false, refused: Default::default() };
                        context.work.add_fills(&[fill]).await?;
                    }
                    Record::Fill { table, before, after } => {
                        last_filled = context.number(&table).map(|table| (table, before, after));
                    }
                    Record::End => context.work.all_fills_known().await?,
                    Record::Days { .. } => {}
                }
            }
        }
        // This run appends more records, so it must write down now if the last one was not committed.
        if let Some((table, Values(before), Values(after))) = last_filled {
            let shape = &shapes[table];
            let mut tx = context.live.db.begin(Mode::Snapshot).await?;
            let found = context.live.lookup(&mut tx, shape, &shape.key, &[shape.key_of(&before)], false).await?;
            tx.commit().await?;
            if found.into_iter().flatten().next().is_some_and(|row| row == before) {
                undo.append(&[Record::empty(&shape.table, &before, &after, before.clone())])?;
            }
        }
        let packet_max = sql::packet_max(&context.live).await?;
        Ok(Self { context, shapes, undo, packet_max, done: Applied::default(), progress })
    }

    /// Makes passes until one changes nothing.
    ///
    /// # Errors
    /// Whatever stops it half-way. The error then says that rows have been inserted, and what can be done about them.
    pub async fn run(mut self) -> anyhow::Result<Applied> {
        let Err(error) = self.passes().await else { return Ok(self.done) };
        let rows = self.done.inserted;
        if rows == 0 {
            return Err(error);
        }
        Err(error.context(format!(
            "the restore stopped half-way: {rows} row(s) were committed before. Run it again to continue, or undo it \
             with `daymend snapshot undo {}`",
            self.undo.path().display()
        )))
    }

    async fn passes(&mut self) -> anyhow::Result<()> {
        loop {
            let mut changed = 0;
            for group in &self.context.groups {
                // Rows of a cyclic group may wait for each other.
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
            // Rows whose references stay empty are incomplete: remove them, because the next try may be better.
            let out = self.take_out().await?;
            if changed <= out {
                break;
            }
            self.context.work.retry().await?;
            plan::settle(self.context).await?;
        }
        self.report_refused().await?;
        for table in 0..self.context.shapes.len() {
            self.give_up(table).await?;
        }
        self.undo.append(&[Record::End])
    }

    /// Defers the rows that are still missing.
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

    /// One pass over the missing rows of a table; returns how many were restored.
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

    /// Restores some rows in one transaction, or one by one if that is rejected as a whole.
    async fn batch(&mut self, table: usize, candidates: Vec<Candidate>) -> anyhow::Result<u64> {
        let mut waiting = vec![candidates];
        let mut restored = 0;
        let mut failures = Failures::default();
        while let Some(candidates) = waiting.pop() {
            match self.transaction(table, candidates.clone()).await {
                // The rows are committed, so a failure of the working file is no reason to defer them: it ends the run.
                Ok(Batch { count, fills, settled }) => {
                    restored += count;
                    self.done.inserted += count;
                    self.context.work.add_fills(&fills).await?;
                    self.context.work.set(table, &settled).await?;
                }
                Err(error) if database_error(&error).is_some_and(DbError::is_passing) => {
                    failures.wait_or_return(error).await?;
                    waiting.push(candidates);
                }
                Err(error) => {
                    let (reason, detail) = match (database_error(&error), error.downcast_ref::<Unfound>()) {
                        (Some(database), _) if is_refusal(database) => why(database),
                        (None, Some(unfound)) => (unfound.reason().to_owned(), unfound.to_string()),
                        _ => return Err(error),
                    };
                    if candidates.len() > 1 {
                        // A constraint that is checked at the commit, or an error that ended the transaction: find out
                        // which row it is.
                        waiting.extend(candidates.into_iter().rev().map(|candidate| vec![candidate]));
                        continue;
                    }
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
        Ok(restored)
    }

    /// Inserts the rows that can be inserted, and commits; returns what has to be recorded.
    async fn transaction(&mut self, table: usize, candidates: Vec<Candidate>) -> anyhow::Result<Batch> {
        let context = self.context;
        let shape = &context.shapes[table];
        let mut tx = begin(&context.live).await?;
        let (ready, mut settled) = ready(context, &mut tx, table, candidates).await?;
        let mut inserted = Vec::new();
        for mut one in ready {
            if let Some(why) = sql::is_too_long(&one.row, self.packet_max) {
                (one.candidate.reason, one.candidate.detail) = why;
                one.candidate.state = State::Deferred;
                settled.push(one.candidate);
                continue;
            }
            match insert(&context.live, &mut tx, shape, &one.row).await {
                Ok(_) => inserted.push(one),
                // If the transaction has ended, its rows are gone, and nothing more may be written.
                Err(error) if !is_refusal(&error) || !tx.is_open() => return Err(error.into()),
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
        for (one, record) in inserted.into_iter().zip(records) {
            if let (false, Record::Insert { row, .. }) = (one.later.is_empty(), record) {
                let key = shape.key_of(&row.0);
                let refused = Default::default();
                fills.push(Fill { table, key, row: row.0, values: one.later, is_known: false, refused });
            }
            settled.push(one.candidate);
        }
        Ok(Batch { count, fills, settled })
    }
}
