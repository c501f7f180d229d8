//! The dry run of an undo.

use std::collections::{HashMap, HashSet};

use super::{
    super::undo_file::{Reader, Record},
    Look, Undo, Undone, fate,
};

impl Undo {
    /// Reports what an undo would do: rows are read, and nothing is locked. What the database itself would reject, by
    /// a trigger or a constraint, does not show.
    pub async fn foretell(
        &self,
        reader: &mut Reader,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> anyhow::Result<Undone> {
        let mut undone = Undone::default();
        let fate = self.fate(reader, Look::Read).await?;
        // The rows that would be gone by then, and how others would be after some of their references were emptied.
        let (mut removed, mut emptied) = (HashSet::new(), HashMap::new());
        for page in reader.pages().into_iter().rev() {
            let records = reader.read(page)?;
            let mut tx = self.begin(Look::Read).await?;
            for record in records.iter().rev() {
                let (table, row) = match record {
                    Record::Insert { table, row, .. } | Record::Fill { table, after: row, .. } => (table, &row.0),
                    Record::Empty { .. } | Record::Days { .. } | Record::End => continue,
                };
                let (_, shape) = self.shape(table)?;
                let id = fate::id(table, &shape.key_of(row));
                let live = self.live_row(&mut tx, shape, row, Look::Read).await?;
                match (record, live) {
                    (Record::Fill { before, .. }, Some(live)) if !fate.stays.contains_key(&id) => {
                        let now = emptied.get(&id).copied().unwrap_or_else(|| fate::id("", &live[..row.len()]));
                        if now == fate::id("", row) && before.0 != *row {
                            emptied.insert(id, fate::id("", &before.0));
                            undone.emptied += 1;
                        }
                    }
                    (Record::Insert { .. }, Some(_)) => match fate.stays.get(&id) {
                        Some((key, why)) => {
                            undone.left.entry((table.clone(), why.clone())).or_default().push(key.clone());
                        }
                        None if removed.insert(id) => undone.removed += 1,
                        None => undone.gone += 1,
                    },
                    (Record::Insert { .. }, None) => undone.gone += 1,
                    _ => {}
                }
            }
            tx.commit().await?;
            progress(undone.removed);
        }
        undone.name_once();
        Ok(undone)
    }
}
