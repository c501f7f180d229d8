//! Which rows of an undo file cannot be removed, decided before any reference is emptied.
//!
//! In tables that refer to each other, a row can only be removed once references have been emptied. A row that stays
//! must keep its references, and so the rows that it refers to stay as well.

use std::{
    collections::{HashMap, HashSet, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
};

use super::{
    super::{
        apply::{Failures, SEVERAL, is_refusal, update},
        undo_file::{Reader, Record},
    },
    Before, CHANGED, Look, Undo, has_unknown, refused,
};
use crate::{
    db::{Arg, Tx},
    snapshot::{
        SnapshotError,
        cells::{self, Cells},
    },
};

/// What an undo knows about the rows of its file, in a few bytes per row.
#[derive(Debug, Default)]
pub(super) struct Fate {
    /// The rows that were inserted.
    inserted: HashSet<u64>,
    /// The rows whose references were left empty, each with the rows that already referred to it when it was inserted.
    referred: HashSet<(u64, u64)>,
    /// How daymend itself left rows when it emptied some of their references.
    emptied: HashMap<u64, u64>,
    /// How daymend itself left rows with references to be filled in: before and after the last `Fill`, which may never
    /// have been committed.
    written: HashMap<u64, [u64; 2]>,
    /// The rows that somebody had changed before their references were filled in.
    changed: HashSet<u64>,
    /// The rows that stay: how to name them, and why.
    pub(super) stays: HashMap<u64, (String, String)>,
    has_fills: bool,
}

/// A number that identifies a row by its table and key.
pub(super) fn id(table: &str, key: &[Arg]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (table, cells::encode(key)).hash(&mut hasher);
    hasher.finish()
}

/// The same, by the key as it is shown.
fn shown(table: &str, key: &str) -> u64 {
    id(table, &[Arg::from(key)])
}

impl Fate {
    /// Whether a row is as daymend itself left it.
    pub(super) fn is_own(&self, id: u64, row: &[Arg]) -> bool {
        self.emptied.get(&id).is_some_and(|own| *own == self::id("", row))
    }

    /// Records how daymend left a row.
    pub(super) fn left(&mut self, id: u64, row: &[Arg]) {
        self.emptied.insert(id, self::id("", row));
    }
}

impl Undo {
    /// Reads the file, and decides about rows whose references were filled in; with `Look::Read`, about all rows.
    pub(super) async fn fate(&self, reader: &mut Reader, look: Look) -> anyhow::Result<Fate> {
        let mut fate = Fate::default();
        for page in reader.pages() {
            for record in reader.read(page)? {
                match record {
                    Record::Insert { table, row, later, referred } => {
                        let (_, shape) = self.shape(&table)?;
                        let (row, hash) = (id(&table, &shape.key_of(&row.0)), id("", &row.0));
                        fate.inserted.insert(row);
                        fate.changed.remove(&row);
                        if !later.is_empty() {
                            fate.written.insert(row, [hash; 2]);
                        }
                        // A later `Fill` does not repeat these.
                        let referred = referred.iter().filter(|_| !later.is_empty());
                        fate.referred.extend(referred.map(|(table, key)| (row, shown(table, key))));
                    }
                    Record::Empty { table, row, .. } => {
                        let (_, shape) = self.shape(&table)?;
                        let id = id(&table, &shape.key_of(&row.0));
                        fate.left(id, &row.0);
                        fate.written.insert(id, [self::id("", &row.0); 2]);
                    }
                    Record::Fill { table, before, after } => {
                        fate.has_fills = true;
                        let (_, shape) = self.shape(&table)?;
                        let id = id(&table, &shape.key_of(&before.0));
                        let hashes = [&before, &after].map(|row| self::id("", &row.0));
                        // What it says of the row before is what somebody else has written.
                        if fate.written.insert(id, hashes).is_some_and(|known| !known.contains(&hashes[0])) {
                            fate.changed.insert(id);
                        }
                    }
                    Record::Days { .. } | Record::End => {}
                }
            }
        }
        let mut judged = HashSet::new();
        let pages = if fate.has_fills || look == Look::Read { reader.pages() } else { Vec::new() };
        for page in pages.into_iter().rev() {
            let records = reader.read(page)?;
            let mut failures = Failures::default();
            while let Err(error) = self.decide(&records, look, &mut judged, &mut fate).await {
                failures.wait_or_return(error).await?;
            }
        }
        Ok(fate)
    }

    /// Judges each row by its last record, in a transaction that changes nothing.
    async fn decide(
        &self,
        records: &[Record],
        look: Look,
        judged: &mut HashSet<u64>,
        fate: &mut Fate,
    ) -> anyhow::Result<()> {
        let mut tx = self.begin(look).await?;
        let asked = self.referrers(&mut tx, records, fate, look).await?;
        let mut seen = Vec::new();
        for record in records.iter().rev() {
            let (table, before, after, referred) = match record {
                Record::Insert { table, row, referred, .. } => (table, row, row, referred.as_slice()),
                Record::Fill { table, before, after } => (table, before, after, [].as_slice()),
                _ => continue,
            };
            let (number, shape) = self.shape(table)?;
            let id = id(table, &shape.key_of(&before.0));
            if judged.contains(&id) || seen.contains(&id) {
                continue;
            }
            seen.push(id);
            let mut found = self.live_rows(&mut tx, shape, &before.0, look).await?.into_iter();
            let Some(live) = found.next() else { continue };
            let (now, unknown) = live.split_at(before.0.len());
            let key = cells::show_key(&shape.key_of(&live));
            let is_child_known = |table: &str, key: &[Arg]| {
                fate.inserted.contains(&self::id(table, key))
                    || fate.referred.contains(&(id, shown(table, &cells::show_key(key))))
            };
            let is_known = now == before.0 || now == after.0 || fate.is_own(id, now);
            let why = if !is_known || fate.changed.contains(&id) {
                Some((key, CHANGED.to_owned()))
            } else if let Some(why) = has_unknown(shape, unknown) {
                Some((key, why))
            } else if found.next().is_some() {
                Some((key, SEVERAL.to_owned()))
            } else if let Some(why) = self
                .referred_by(&mut tx, number, &live, Before { referred, asked: &asked }, look, &is_child_known)
                .await?
            {
                Some(why)
            } else if now == after.0 && after != before && look == Look::Hold {
                self.try_to_empty(&mut tx, number, &live, &before.0).await?.map(|why| (key, why))
            } else {
                None
            };
            if let Some(why) = why {
                fate.stays.insert(id, why);
                self.keep_parents(&mut tx, number, live, fate).await?;
            }
        }
        tx.rollback().await?;
        judged.extend(seen);
        Ok(())
    }

    /// Why the database does not let the references of a row be emptied; `None` if it does. Nothing is changed.
    async fn try_to_empty(
        &self,
        tx: &mut Tx,
        table: usize,
        live: &[Arg],
        before: &[Arg],
    ) -> anyhow::Result<Option<String>> {
        let mut row = live.to_vec();
        row[..before.len()].clone_from_slice(before);
        tx.savepoint().await?;
        let refusal = match update(&self.live, tx, &self.shapes[table], &row).await {
            Ok(_) => None,
            Err(error) if is_refusal(&error) => Some(refused(&error)),
            Err(error) => return Err(error.into()),
        };
        if tx.is_open() {
            tx.rollback_to_savepoint().await?;
        } else {
            // The transaction had written nothing.
            *tx = self.begin(Look::Hold).await?;
        }
        Ok(refusal)
    }

    /// Keeps the inserted rows that a row which stays refers to.
    async fn keep_parents(&self, tx: &mut Tx, table: usize, row: Cells, fate: &mut Fate) -> Result<(), SnapshotError> {
        let mut above = vec![(table, row)];
        while let Some((table, row)) = above.pop() {
            let child = &self.shapes[table];
            for link in self.links.iter().filter(|link| link.child == table) {
                let Some(target) = link.target(&row) else { continue };
                let parent = &self.shapes[link.parent];
                let found = self.live.lookup(tx, parent, &link.parent_columns, &[target], false).await?;
                for found in found.into_iter().flatten() {
                    let key = parent.key_of(&found);
                    let id = id(&parent.table, &key);
                    if fate.inserted.contains(&id) && !fate.stays.contains_key(&id) {
                        let name = format!(
                            "{} ({} {})",
                            cells::show_key(&key),
                            child.table,
                            cells::show_key(&child.key_of(&row))
                        );
                        fate.stays
                            .insert(id, (name, format!("a row of {} refers to it and is not removed", child.table)));
                        above.push((link.parent, found));
                    }
                }
            }
        }
        Ok(())
    }
}
