//! What became of the rows that a row refers to.

use super::{
    Context, Link,
    candidates::{Candidate, State},
};
use crate::{
    db::{Arg, Tx},
    snapshot::{
        SnapshotError,
        cells::{self, Cells},
    },
};

/// What a row's reference resolves to.
#[derive(Debug, Clone, PartialEq)]
pub enum Parent {
    /// Nothing: it is NULL, or of another type.
    None,
    /// A row that is not a candidate: it never vanished, or never existed.
    Other,
    /// A vanished row, with its state.
    Candidate(Candidate),
}

impl Link {
    /// The values that a row refers to, as the parent stores them; `None` if it refers to nothing.
    #[must_use]
    pub fn target(&self, row: &[Arg]) -> Option<Cells> {
        if let Some((place, value)) = &self.when
            && cells::show(&row[*place]) != *value
        {
            return None;
        }
        let values = self.columns.iter().map(|place| match &row[*place] {
            Arg::Null => None,
            // Polymorphic references store the number as text, whichever table it belongs to.
            Arg::Text(text) if self.is_whole => Some(cells::parse_whole(text)),
            value => Some(value.clone()),
        });
        values.collect()
    }

    /// The values by which rows refer to a row, as the child stores them; `None` if nothing can refer to it.
    #[must_use]
    pub fn sought(&self, parent: &[Arg]) -> Option<Cells> {
        let values = self.parent_columns.iter().map(|place| match &parent[*place] {
            Arg::Null => None,
            value if self.is_whole && !self.is_child_whole => Some(Arg::Text(cells::show(value))),
            value => Some(value.clone()),
        });
        values.collect()
    }

    /// Changes the values that a row refers to.
    pub fn redirect(&self, row: &mut [Arg], target: &[Arg]) {
        for (place, value) in self.columns.iter().zip(target) {
            row[*place] = match (&row[*place], value) {
                (Arg::Text(_), Arg::Int(number)) => Arg::Text(number.to_string()),
                (_, value) => value.clone(),
            };
        }
    }

    /// Whether a row of the child represents the same thing as the row that it refers to: they share their key
    /// (multi-table inheritance, one-to-one extensions).
    #[must_use]
    pub fn shares_key(&self, context: &Context) -> bool {
        self.when.is_none()
            && self.columns == context.shapes[self.child].key
            && self.parent_columns == context.shapes[self.parent].key
            && self.child != self.parent
    }
}

impl Context {
    /// What each row's reference resolves to.
    pub async fn parents(&self, snapshot: &mut Tx, link: &Link, rows: &[Cells]) -> Result<Vec<Parent>, SnapshotError> {
        let targets: Vec<Option<Cells>> = rows.iter().map(|row| link.target(row)).collect();
        let wanted: Vec<Cells> = targets.iter().flatten().cloned().collect();
        let shape = &self.shapes[link.parent];
        let keys: Vec<Option<Cells>> = if link.parent_columns == shape.key {
            wanted.into_iter().map(Some).collect()
        } else {
            let found = self.snapshot.keys(snapshot, shape, &link.parent_columns, &wanted, false).await?;
            found.into_iter().map(|keys| keys.into_iter().next()).collect()
        };
        let known: Vec<Cells> = keys.iter().flatten().cloned().collect();
        let mut candidates = self.work.find(link.parent, &known).await?.into_iter();
        let mut keys = keys.into_iter();
        let parents = targets.iter().map(|target| match target {
            None => Parent::None,
            Some(_) => match keys.next().flatten() {
                None => Parent::Other,
                Some(_) => candidates.next().flatten().map_or(Parent::Other, Parent::Candidate),
            },
        });
        Ok(parents.collect())
    }

    /// Rewrites references to rows that have been entered again, or get another key, to the keys of their live rows.
    pub async fn redirect(
        &self,
        live: &mut Tx,
        link: &Link,
        rows: &mut [Cells],
        parents: &[Parent],
    ) -> Result<(), SnapshotError> {
        let shape = &self.shapes[link.parent];
        let mut mapped: Vec<(usize, Cells)> = Vec::new();
        for (index, parent) in parents.iter().enumerate() {
            if let Parent::Candidate(Candidate { state, key, holder, .. }) = parent {
                let is_followed = matches!(state, State::Mapped | State::Missing | State::Restored);
                let is_same = link.parent_columns == shape.key && holder.as_ref() == Some(key);
                if let Some(holder) = holder.as_ref().filter(|_| is_followed && !is_same) {
                    mapped.push((index, holder.clone()));
                }
            }
        }
        if mapped.is_empty() {
            return Ok(());
        }
        if link.parent_columns == shape.key {
            for (index, holder) in &mapped {
                link.redirect(&mut rows[*index], holder);
            }
            return Ok(());
        }
        let holders: Vec<Cells> = mapped.iter().map(|(_, holder)| holder.clone()).collect();
        let found = self.live.lookup(live, shape, &shape.key, &holders, false).await?;
        for ((index, _), found) in mapped.iter().zip(found) {
            if let Some(row) = found.first() {
                link.redirect(&mut rows[*index], &shape.values(row, &link.parent_columns));
            }
        }
        Ok(())
    }
}
