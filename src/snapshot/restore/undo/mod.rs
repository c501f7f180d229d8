//! Undoing a restore, by reading its undo file from the end.
//!
//! A row is removed only if it is still as it was restored, and nothing refers to it by now: rows that somebody has
//! changed since are kept and reported, and so are the rows that they refer to. References that were filled in are
//! emptied again first, on rows that can be removed. If interrupted at any point, it can be run again: rows that are
//! already gone are skipped.

mod fate;
mod foretell;
mod referred;

use std::collections::{BTreeMap, HashSet};

use super::{
    Link, add_foreign_keys,
    apply::{Failures, SEVERAL, begin, delete, is_refusal, update, why},
    children::Children,
    links,
    relations::{Facts, Relations},
    undo_file::{Reader, Record, Writer},
};
use fate::Fate;
use referred::Before;

use crate::{
    db::{Arg, Db, DbError, Mode, Tx},
    snapshot::{
        SnapshotError,
        cells::{self, Cells},
        schema,
        side::{Shape, Side},
    },
};

const CHANGED: &str = "it has been changed since";

/// A rejected statement has ended the transaction, as a SQLite trigger can.
#[derive(Debug, thiserror::Error)]
#[error("the database has ended the transaction")]
struct Ended;

/// The result of an undo.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Undone {
    /// Rows removed.
    pub removed: u64,
    /// Rows that were already gone.
    pub gone: u64,
    /// References emptied.
    pub emptied: u64,
    /// Rows that were kept, by table and reason, with their keys.
    pub left: BTreeMap<(String, String), Vec<String>>,
}

impl Undone {
    fn add(&mut self, batch: Self) {
        self.removed += batch.removed;
        self.gone += batch.gone;
        self.emptied += batch.emptied;
        for (why, keys) in batch.left {
            self.left.entry(why).or_default().extend(keys);
        }
    }

    /// Names each row once: one that was restored twice is in the file twice.
    fn name_once(&mut self) {
        for keys in self.left.values_mut() {
            let mut seen = HashSet::new();
            keys.retain(|key| seen.insert(key.clone()));
        }
    }
}

/// How rows are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Locked, because they are about to be changed.
    Hold,
    /// As they are, without a lock.
    Read,
}

/// The live database, as far as an undo needs it.
#[derive(Debug)]
pub struct Undo {
    live: Side,
    shapes: Vec<Shape>,
    links: Vec<Link>,
    children: Children,
    facts: Option<Facts>,
}

impl Undo {
    /// Reads the current schema of the file's tables, and what refers to them.
    pub async fn new(db: &Db, reader: &Reader, relations: Relations) -> anyhow::Result<Self> {
        let mut tx = db.begin(Mode::Snapshot).await?;
        let children = Children::read(&mut tx).await?;
        let is_needed = |name: &str| {
            reader.header.tables.contains_key(name)
                || relations.references.iter().any(|reference| reference.table == name)
        };
        let mut tables = BTreeMap::new();
        for name in schema::table_names(&mut tx).await? {
            match schema::read(&mut tx, &name).await {
                Ok(table) => tables.extend(table.map(|table| (name, table))),
                // Of a table that this user may not read in full, only the foreign keys matter.
                Err(error) if !is_needed(&name) && is_hidden(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        tx.commit().await?;
        // A pool of its own, because its sessions accept values that others must not.
        let live = Side { label: "live".to_owned(), db: db.renewed(), tables };
        Self::with(live, reader, relations, children)
    }

    fn with(live: Side, reader: &Reader, mut relations: Relations, children: Children) -> anyhow::Result<Self> {
        let mut shapes = Vec::new();
        for (name, table) in &live.tables {
            let Some(mut shape) = Shape::new(table, table) else { continue };
            if let Some((columns, key)) = reader.header.tables.get(name) {
                let missing = columns.iter().find(|column| !shape.columns.contains(column));
                if let Some(column) = missing {
                    if reader.tables.contains(name) {
                        anyhow::bail!("table {name} has no column {column} any more: its rows cannot be compared");
                    }
                    shapes.push(shape);
                    continue;
                }
                shape.columns.clone_from(columns);
                // Other rows may refer to it by a column that was added later, and users may have filled it in.
                shape.columns.extend(
                    table
                        .columns
                        .iter()
                        .filter(|column| !column.generated && !columns.contains(&column.name))
                        .map(|column| column.name.clone()),
                );
                shape.key.clone_from(key);
            }
            shapes.push(shape);
        }
        for name in &reader.tables {
            if !live.tables.contains_key(name) {
                anyhow::bail!("table {name} does not exist any more");
            }
        }
        for table in live.tables.values() {
            add_foreign_keys(&mut relations, table);
        }
        let links = links(&relations, &shapes, &live, &mut Vec::new()).map_err(anyhow::Error::msg)?;
        let facts = relations.facts.filter(|facts| live.tables.contains_key(&facts.table));
        Ok(Self { live, shapes, links, children, facts })
    }

    /// Undoes everything.
    pub async fn run(&self, reader: &mut Reader, progress: &mut (dyn FnMut(u64) + Send)) -> anyhow::Result<Undone> {
        let mut undone = Undone::default();
        let mut fate = self.fate(reader, Look::Hold).await?;
        let mut writer = reader.writer()?;
        for page in reader.pages().into_iter().rev() {
            let records = reader.read(page)?;
            let mut failures = Failures::default();
            let batch = loop {
                match self.transaction(&records, &mut fate, &mut writer).await {
                    Ok(batch) => break batch,
                    // The row is known now, and stays; try the others again.
                    Err(error) if error.is::<Ended>() => {}
                    Err(error) => failures.wait_or_return(error).await?,
                }
            };
            undone.add(batch);
            progress(undone.removed);
        }
        undone.name_once();
        Ok(undone)
    }

    async fn begin(&self, look: Look) -> Result<Tx, DbError> {
        match look {
            Look::Hold => begin(&self.live).await,
            Look::Read => self.live.db.begin(Mode::Snapshot).await,
        }
    }

    async fn transaction(&self, records: &[Record], fate: &mut Fate, writer: &mut Writer) -> anyhow::Result<Undone> {
        let mut tx = begin(&self.live).await?;
        let (done, written) = self.batch(&mut tx, records, fate).await?;
        writer.append(&written)?;
        tx.commit().await?;
        Ok(done)
    }

    /// Undoes records; returns what was done, and what has to be recorded about it.
    async fn batch(&self, tx: &mut Tx, records: &[Record], fate: &mut Fate) -> anyhow::Result<(Undone, Vec<Record>)> {
        let mut done = Undone::default();
        let mut written = Vec::new();
        let asked = self.referrers(tx, records, fate, Look::Hold).await?;
        for record in records.iter().rev() {
            match record {
                Record::Insert { table, row, referred, .. } => {
                    let referred = Before { referred, asked: &asked };
                    if let Some((key, why)) = self.remove(tx, table, &row.0, referred, fate, &mut done).await? {
                        done.left.entry((table.clone(), why)).or_default().push(key);
                    }
                }
                Record::Fill { table, before, after } => {
                    written.extend(self.empty(tx, table, &before.0, &after.0, fate, &mut done).await?);
                }
                Record::Empty { .. } | Record::Days { .. } | Record::End => {}
            }
        }
        Ok((done, written))
    }

    /// Where the days come from, if the database has that table.
    #[must_use]
    pub fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    /// The live database, its tables, and the references between them.
    #[must_use]
    pub fn parts(&self) -> (&Side, &[Shape], &[Link]) {
        (&self.live, &self.shapes, &self.links)
    }

    fn shape(&self, table: &str) -> anyhow::Result<(usize, &Shape)> {
        let number = self.shapes.iter().position(|shape| shape.table == table);
        number
            .map(|number| (number, &self.shapes[number]))
            .ok_or_else(|| anyhow::anyhow!("table {table} does not exist"))
    }

    /// The live rows with the key of a row; there may be several if the table has no key.
    async fn live_rows(
        &self,
        tx: &mut Tx,
        shape: &Shape,
        row: &[Arg],
        look: Look,
    ) -> Result<Vec<Cells>, SnapshotError> {
        let key = shape.key_of(row);
        let found = self.live.lookup(tx, shape, &shape.key, &[key], look == Look::Hold).await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn live_row(
        &self,
        tx: &mut Tx,
        shape: &Shape,
        row: &[Arg],
        look: Look,
    ) -> Result<Option<Cells>, SnapshotError> {
        Ok(self.live_rows(tx, shape, row, look).await?.into_iter().next())
    }

    /// Removes a row; returns its key and the reason if it stays.
    async fn remove(
        &self,
        tx: &mut Tx,
        table: &str,
        row: &[Arg],
        referred: Before<'_>,
        fate: &mut Fate,
        done: &mut Undone,
    ) -> anyhow::Result<Option<(String, String)>> {
        let (number, shape) = self.shape(table)?;
        let mut found = self.live_rows(tx, shape, row, Look::Hold).await?.into_iter();
        let Some(live) = found.next() else {
            done.gone += 1;
            return Ok(None);
        };
        let id = fate::id(table, &shape.key_of(row));
        if let Some(why) = fate.stays.get(&id) {
            return Ok(Some(why.clone()));
        }
        let key = cells::show_key(&shape.key_of(row));
        if found.next().is_some() {
            return Ok(Some((key, SEVERAL.to_owned())));
        }
        let (now, unknown) = live.split_at(row.len());
        if now != row && !fate.is_own(id, now) {
            return Ok(Some((key, CHANGED.to_owned())));
        }
        if let Some(why) = has_unknown(shape, unknown) {
            return Ok(Some((key, why)));
        }
        let stays = self.referred_by(tx, number, &live, referred, Look::Hold, &|_, _| false).await?;
        if stays.is_some() {
            return Ok(stays);
        }
        // InnoDB does not delete a row that refers to itself.
        let mut alone = live.clone();
        for link in self.links.iter().filter(|link| link.parent == number && link.child == number) {
            if link.target(&live).is_some_and(|target| target == shape.values(&live, &link.parent_columns)) {
                link.nullable.iter().for_each(|place| alone[*place] = Arg::Null);
            }
        }
        // If the database rejects the deletion, the row must stay as it was.
        if alone != live {
            tx.savepoint().await?;
        }
        match self.delete(tx, shape, &live, &alone).await {
            Ok(()) => done.removed += 1,
            Err(error) if is_refusal(&error) => {
                let why = (key, refused(&error));
                if !tx.is_open() {
                    fate.stays.insert(id, why);
                    return Err(Ended.into());
                }
                if alone != live {
                    tx.rollback_to_savepoint().await?;
                }
                return Ok(Some(why));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(None)
    }

    async fn delete(&self, tx: &mut Tx, shape: &Shape, live: &[Arg], alone: &[Arg]) -> Result<(), DbError> {
        if alone != live {
            update(&self.live, tx, shape, alone).await?;
        }
        delete(&self.live, tx, shape, shape.key_of(live)).await.map(drop)
    }

    /// Empties the references of a row that were filled in; returns the record of it. The row stays if the database
    /// does not let them be emptied.
    async fn empty(
        &self,
        tx: &mut Tx,
        table: &str,
        before: &[Arg],
        after: &[Arg],
        fate: &mut Fate,
        done: &mut Undone,
    ) -> anyhow::Result<Option<Record>> {
        let (_, shape) = self.shape(table)?;
        let key = shape.key_of(after);
        let id = fate::id(table, &key);
        let Some(live) = self.live_row(tx, shape, after, Look::Hold).await? else { return Ok(None) };
        let (now, unknown) = live.split_at(before.len());
        if fate.stays.contains_key(&id) || now == before || fate.is_own(id, now) {
            return Ok(None);
        }
        let mut stays = |why: String| {
            fate.stays.insert(id, (cells::show_key(&key), why));
            Ok(None)
        };
        if now != after {
            return stays(CHANGED.to_owned());
        }
        if let Some(why) = has_unknown(shape, unknown) {
            return stays(why);
        }
        let mut row = live;
        row[..before.len()].clone_from_slice(before);
        match update(&self.live, tx, shape, &row).await {
            Ok(_) => done.emptied += 1,
            Err(error) if is_refusal(&error) => {
                stays(refused(&error))?;
                return if tx.is_open() { Ok(None) } else { Err(Ended.into()) };
            }
            Err(error) => return Err(error.into()),
        }
        // Triggers may have changed the row.
        let Some(row) = self.live_row(tx, shape, after, Look::Hold).await? else { return Ok(None) };
        let row = row[..before.len()].to_vec();
        fate.left(id, &row);
        // The next restore has to fill them in again.
        Ok(Some(Record::empty(table, before, after, row)))
    }
}

/// Why a row stays that has values in columns that the undo file does not have: they may be entered by users, or be the
/// columns' defaults.
fn has_unknown(shape: &Shape, unknown: &[Arg]) -> Option<String> {
    let names = &shape.columns[shape.columns.len() - unknown.len()..];
    let (column, _) = names.iter().zip(unknown).find(|(_, value)| **value != Arg::Null)?;
    Some(format!("it has a value in {column}, a column that the undo file does not have"))
}

fn refused(error: &DbError) -> String {
    let (reason, words) = why(error);
    format!("{reason}: {words}")
}

/// Whether a table cannot be described because this user may not read all of it.
fn is_hidden(error: &SnapshotError) -> bool {
    match error {
        SnapshotError::Hidden { .. } => true,
        SnapshotError::Database(error) => error.is_denied(),
        _ => false,
    }
}
