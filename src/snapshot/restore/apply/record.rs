//! The undo file's records of inserted rows.

use super::{Apply, ready::Ready};
use crate::{
    db::{Arg, Tx},
    snapshot::{
        SnapshotError,
        cells::{self, Cells},
        restore::{
            candidates::State,
            plan,
            undo_file::{Record, Value, Values},
        },
    },
};

/// The reason for leaving a row alone if its key does not distinguish it from others; in a table without a key, the key
/// is all columns.
pub(in crate::snapshot::restore) const SEVERAL: &str = "several rows have the same key";

/// How many referring rows are recorded per row and reference. If there were more, an undo leaves the row in place.
const REFERRED_MAX: usize = 1000;

/// An inserted row cannot be found by its key: its batch is rolled back, because it could not be undone.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfound {
    #[error("row {0} cannot be found after its insert: a trigger must have changed its key")]
    Moved(String),
    #[error("row {0} exists more than once after its insert, and the copies cannot be told apart")]
    Several(String),
}

impl Unfound {
    /// The reason, in a few words.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Moved(_) => "its key changes when it is inserted",
            Self::Several(_) => SEVERAL,
        }
    }
}

impl Apply<'_> {
    /// Reads back the inserted rows: triggers and types may have changed them.
    pub(super) async fn read_back(
        &self,
        tx: &mut Tx,
        table: usize,
        inserted: &mut [Ready],
    ) -> anyhow::Result<Vec<Record>> {
        let shape = &self.shapes[table];
        let keys: Vec<Cells> = inserted.iter().map(|one| shape.key_of(&one.row)).collect();
        let found = self.context.live.lookup(tx, shape, &shape.key, &keys, false).await?;
        let (mut rows, mut laters) = (Vec::new(), Vec::new());
        for (one, found) in inserted.iter_mut().zip(found) {
            let key = || cells::show_key(&shape.key_of(&one.row));
            let row = match <[Cells; 1]>::try_from(found) {
                Ok([row]) => row,
                Err(found) if found.is_empty() => return Err(Unfound::Moved(key()).into()),
                Err(_) => return Err(Unfound::Several(key()).into()),
            };
            let differ: Vec<usize> = (0..one.row.len()).filter(|place| row[*place] != one.row[*place]).collect();
            let key = shape.key_of(&row);
            one.candidate.state = State::Restored;
            one.candidate.holder = Some(key).filter(|_| one.is_redirected);
            one.candidate.detail = String::new();
            one.candidate.reason = if differ.is_empty() {
                String::new()
            } else {
                format!("the database changed {} on insert", plan::names(shape, &differ))
            };
            let later = one.later.iter().map(|(place, value)| (*place, Value(value.clone()))).collect();
            rows.push(row);
            laters.push(later);
        }
        let referred = self.referred(tx, table, &rows).await?;
        let records = rows.into_iter().zip(laters).zip(referred);
        let record =
            |((row, later), referred)| Record::Insert { table: shape.table.clone(), row: Values(row), later, referred };
        Ok(records.map(record).collect())
    }

    /// For each row, the live rows that already refer to it when it is inserted.
    async fn referred(
        &self,
        tx: &mut Tx,
        table: usize,
        rows: &[Cells],
    ) -> Result<Vec<Vec<(String, String)>>, SnapshotError> {
        let context = self.context;
        let rows: Vec<&[Arg]> = rows.iter().map(Vec::as_slice).collect();
        let mut referred = vec![Vec::new(); rows.len()];
        for link in context.links.iter().filter(|link| link.parent == table && !link.reference.is_enforced) {
            let child = &context.shapes[link.child].table;
            let found = link.referrers_of_each(tx, &context.live, &context.shapes, &rows, REFERRED_MAX).await?;
            for (referred, keys) in referred.iter_mut().zip(found) {
                referred.extend(keys.iter().map(|key| (child.clone(), cells::show_key(key))));
            }
        }
        Ok(referred)
    }
}
