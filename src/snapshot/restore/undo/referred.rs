//! Whether a row is referred to by now: then it stays.

use std::collections::HashMap;

use super::{
    super::{
        Link,
        children::{Referred, lock_row},
        undo_file::Record,
    },
    Look, Undo,
    fate::{self, Fate},
};
use crate::{
    db::{Arg, Tx},
    snapshot::{
        SnapshotError,
        cells::{self, Cells},
        side::PAGE,
    },
};

/// By the number of a reference and the values that it refers by, the keys of rows that refer by them.
pub(super) type Referrers = HashMap<(usize, String), Vec<Cells>>;

/// What is known of who refers to a row before it is asked about.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    /// The rows, as table and key, that already referred to it when it was inserted.
    pub(super) referred: &'a [(String, String)],
    /// Who refers to the rows of its page.
    pub(super) asked: &'a Referrers,
}

impl Undo {
    /// The key of a row and why it cannot be deleted: rows refer to it that are unknown, and did not when it was
    /// inserted.
    pub(super) async fn referred_by(
        &self,
        tx: &mut Tx,
        number: usize,
        live: &[Arg],
        referred: Before<'_>,
        look: Look,
        is_known: &(dyn Fn(&str, &[Arg]) -> bool + Sync),
    ) -> Result<Option<(String, String)>, SnapshotError> {
        let shape = &self.shapes[number];
        let key = cells::show_key(&shape.key_of(live));
        if look == Look::Hold {
            lock_row(tx, &self.live, shape, live).await?;
        }
        let first = self.children.first(tx, &self.live, &self.shapes, shape, live, is_known).await?;
        if let Some(Referred { why, child }) = first {
            return Ok(Some((child.map_or(key.clone(), |child| format!("{key} ({child})")), why)));
        }
        for (at, link) in self.loose_links().filter(|(_, link)| link.parent == number) {
            if let Some(child) = self.child(tx, at, live, referred, is_known).await? {
                let why = format!("a row of {} refers to it now", self.shapes[link.child].table);
                return Ok(Some((format!("{key} ({child})"), why)));
            }
        }
        Ok(None)
    }

    /// The references that the database does not check, with their numbers.
    fn loose_links(&self) -> impl Iterator<Item = (usize, &Link)> {
        self.links.iter().enumerate().filter(|(_, link)| !link.reference.is_enforced)
    }

    /// Which rows refer to those of some records by references that the database does not check; at most a page each.
    /// From then on the rows are held, unless they stay anyway.
    pub(super) async fn referrers(
        &self,
        tx: &mut Tx,
        records: &[Record],
        fate: &Fate,
        look: Look,
    ) -> anyhow::Result<Referrers> {
        let mut rows = Vec::new();
        for record in records {
            let (Record::Insert { table, row, .. } | Record::Fill { table, before: row, .. }) = record else {
                continue;
            };
            let (number, shape) = self.shape(table)?;
            let stays = fate.stays.contains_key(&fate::id(table, &shape.key_of(&row.0)));
            if stays || !self.loose_links().any(|(_, link)| link.parent == number) {
                continue;
            }
            if look == Look::Hold {
                lock_row(tx, &self.live, shape, &row.0).await?;
            }
            rows.push((number, row.0.as_slice()));
        }
        let mut known = Referrers::new();
        for (at, link) in self.loose_links() {
            // A column that was added later is not in the file.
            let has_all = |row: &[Arg]| link.parent_columns.iter().all(|place| *place < row.len());
            let rows = rows.iter().filter(|(table, row)| *table == link.parent && has_all(row));
            let rows: Vec<&[Arg]> = rows.map(|(_, row)| *row).collect();
            let found = link.referrers_of_each(tx, &self.live, &self.shapes, &rows, PAGE).await?;
            let sought = rows.iter().map(|row| link.sought(row).map(|sought| (at, cells::encode(&sought))));
            known.extend(sought.zip(found).filter_map(|(sought, keys)| Some((sought?, keys))));
        }
        Ok(known)
    }

    /// The key of an unknown row that refers to this one, and did not when it was inserted.
    async fn child(
        &self,
        tx: &mut Tx,
        at: usize,
        row: &[Arg],
        Before { referred, asked }: Before<'_>,
        is_known: &(dyn Fn(&str, &[Arg]) -> bool + Sync),
    ) -> Result<Option<String>, SnapshotError> {
        let link = &self.links[at];
        let Some(sought) = link.sought(row) else { return Ok(None) };
        let child = &self.shapes[link.child];
        let own = self.shapes[link.parent].key_of(row);
        let unknown = |key: &Cells| {
            let is_itself = link.child == link.parent && *key == own;
            let known = (child.table.clone(), cells::show_key(key));
            let is_unknown = !is_itself && !referred.contains(&known) && !is_known(&child.table, key);
            is_unknown.then(|| format!("{} {}", known.0, known.1))
        };
        // Most rows need no question of their own: nothing referred to them when all of the page were asked about.
        let found = asked.get(&(at, cells::encode(&sought)));
        if found.is_some_and(|keys| keys.len() < PAGE && keys.iter().all(|key| unknown(key).is_none())) {
            return Ok(None);
        }
        // Ask for more rows than are known, to find one that is not.
        let mut limit = referred.len() + PAGE;
        loop {
            let keys = link.referrers(tx, &self.live, &self.shapes, row, limit).await?;
            let found = keys.iter().find_map(unknown);
            if found.is_some() || keys.len() < limit {
                return Ok(found);
            }
            limit *= 4;
        }
    }
}
