//! Rows that exist, and refer to a vanished row by a key that it does not have any more: it was entered again under
//! another key, or is restored under another key.
//!
//! A restore rewrites the references of the rows that it inserts, and never those of others; and only a foreign key
//! that is checked keeps a row from staying behind when the row that it refers to vanishes. So these rows are only
//! counted, and the first is named.

use serde::Serialize;

use super::{
    Context, Link,
    plan::{names, rows_of},
};
use crate::{
    db::{Mode, Tx},
    snapshot::{
        SnapshotError,
        cells::{self, Cells},
    },
};

/// How many rows that refer to the same one are counted.
const COUNTED_MAX: usize = 1000;

/// Rows that refer to rows of another table by old keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stale {
    /// Their table.
    pub table: String,
    /// The columns that refer.
    pub columns: String,
    /// The table that they refer to.
    pub parent: String,
    /// How many rows; of the rows that refer to the same one, at most 1000 are counted.
    pub rows: u64,
    /// The key of the first.
    pub first: String,
    /// The key that the first one refers to.
    pub refers_to: String,
    /// The key that this row has now, or will have.
    pub is_now: String,
}

impl Stale {
    /// The message for people.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { table, columns, parent, rows, first, refers_to, is_now } = self;
        format!(
            "{rows} row(s) of {table} still refer to rows of {parent} that have another key now: a restore leaves rows \
             alone that exist (the first is {first}, whose {columns} is {refers_to}: that is {parent} {is_now} now)"
        )
    }
}

/// Finds such rows, by reference. Foreign keys lead nowhere as well, after rows were deleted or loaded while they were
/// not checked.
pub async fn find(context: &Context) -> Result<Vec<Stale>, SnapshotError> {
    let mut found = Vec::new();
    for link in &context.links {
        if context.chosen[link.child] || context.chosen[link.parent] {
            found.extend(of_link(context, link).await?);
        }
    }
    Ok(found)
}

async fn of_link(context: &Context, link: &Link) -> Result<Option<Stale>, SnapshotError> {
    let (parent, child) = (&context.shapes[link.parent], &context.shapes[link.child]);
    let mut snapshot = context.snapshot.db.begin(Mode::Snapshot).await?;
    let mut found: Option<Stale> = None;
    let mut after = 0;
    loop {
        let page = context.work.moved(link.parent, after).await?;
        let Some(last) = page.last() else { break };
        after = last.place;
        let (page, rows) = rows_of(context, &mut snapshot, link.parent, page).await?;
        // A read view per page: the whole may take longer than the server lets a session be idle.
        let mut live = context.live.db.begin(Mode::Snapshot).await?;
        let old: Vec<Cells> = rows.iter().map(|row| parent.values(row, &link.parent_columns)).collect();
        let owners = context.live.keys(&mut live, parent, &link.parent_columns, &old, false).await?;
        let moved =
            page.iter().zip(&rows).zip(old.iter().zip(&owners)).filter_map(|((candidate, row), (old, owners))| {
                // What is referred to is not its key, and it still has it.
                let holder = candidate.holder.as_ref().filter(|holder| !owners.contains(holder))?;
                Some((row.as_slice(), (holder, old, owners)))
            });
        let (rows, moved): (Vec<_>, Vec<_>) = moved.unzip();
        let referring = link.referrers_of_each(&mut live, &context.live, &context.shapes, &rows, COUNTED_MAX).await?;
        for ((holder, old, owners), mut keys) in moved.into_iter().zip(referring) {
            if !owners.is_empty() {
                keys = referred_before(context, &mut snapshot, link, old, keys).await?;
            }
            let Some(first) = keys.first() else { continue };
            let found = found.get_or_insert_with(|| Stale {
                table: child.table.clone(),
                columns: names(child, &link.columns),
                parent: parent.table.clone(),
                rows: 0,
                first: cells::show_key(first),
                refers_to: cells::show_key(old),
                is_now: cells::show_key(holder),
            });
            found.rows += keys.len() as u64;
        }
        live.commit().await?;
    }
    snapshot.commit().await?;
    Ok(found)
}

/// Those of the rows that referred to the same values in the snapshot already: these belong to another row now, which
/// rows that were added since may mean.
async fn referred_before(
    context: &Context,
    snapshot: &mut Tx,
    link: &Link,
    old: &Cells,
    keys: Vec<Cells>,
) -> Result<Vec<Cells>, SnapshotError> {
    let child = &context.shapes[link.child];
    let before = context.snapshot.lookup(snapshot, child, &child.key, &keys, false).await?;
    // A candidate whose key is live is another row by now.
    let known = context.work.find(link.child, &keys).await?;
    let pairs = keys.into_iter().zip(before).zip(known);
    let still = pairs.filter(|((_, before), known)| {
        let is_other = known.as_ref().is_some_and(|known| !known.is_itself());
        !is_other && before.iter().any(|before| link.target(before).as_ref() == Some(old))
    });
    Ok(still.map(|((key, _), _)| key).collect())
}
