//! Rows that still exist but lost a reference because the row they referred to has vanished: emptied by `ON DELETE
//! SET NULL`, or by hand.
//!
//! A restore only fills in references that it left empty itself, so these rows are only counted, and the first is
//! named.

use serde::Serialize;

use super::{
    Context, Link,
    parents::Parent,
    plan::{names, same_identity},
};
use crate::{
    db::Mode,
    snapshot::{
        SnapshotError,
        cells::{self, Cells},
    },
};

/// Rows whose reference by one foreign key is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Emptied {
    /// Their table.
    pub table: String,
    /// The columns that are NULL.
    pub columns: String,
    /// The table whose rows have vanished.
    pub parent: String,
    /// How many rows.
    pub rows: u64,
    /// The key of the first.
    pub first: String,
    /// The key that the first one referred to.
    pub referred_to: String,
}

impl Emptied {
    /// The message for people.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { table, columns, parent, rows, first, referred_to } = self;
        format!(
            "{rows} row(s) of {table} have an empty reference, because their row of {parent} vanished: a restore fills \
             in only references that it has left empty itself (the first is {first}, whose {columns} was {referred_to})"
        )
    }
}

/// Finds such rows, by foreign key, in one pass over each table of the snapshot that could have any.
pub async fn find(context: &Context) -> Result<Vec<Emptied>, SnapshotError> {
    let counts = context.work.counts().await?;
    let has_vanished = |table| counts.iter().any(|count| count.table == table && count.state.is_wanted());
    let mut found = Vec::new();
    for link in context.links.iter().filter(|link| has_vanished(link.parent) && link.is_set_null(context)) {
        found.extend(of_link(context, link).await?);
    }
    Ok(found)
}

impl Link {
    /// Whether it is a foreign key that the database sets to NULL when the row that it refers to is deleted.
    fn is_set_null(&self, context: &Context) -> bool {
        let reference = &self.reference;
        let table = context.live.tables.get(&reference.table).filter(|_| reference.is_enforced && self.when.is_none());
        let mut keys = table.iter().flat_map(|table| &table.foreign_keys);
        keys.any(|key| {
            (&key.columns, &key.parent) == (&reference.columns, &reference.parent)
                && key.on_delete.eq_ignore_ascii_case("SET NULL")
        })
    }
}

async fn of_link(context: &Context, link: &Link) -> Result<Option<Emptied>, SnapshotError> {
    let child = &context.shapes[link.child];
    let mut snapshot = context.snapshot.db.begin(Mode::Snapshot).await?;
    let mut found: Option<Emptied> = None;
    let mut pages = context.snapshot.pages(child);
    while let Some(page) = pages.next(&mut snapshot).await? {
        let parents = context.parents(&mut snapshot, link, &page).await?;
        let has_lost = |parent: &Parent| matches!(parent, Parent::Candidate(parent) if parent.state.is_wanted());
        let referring = page.into_iter().zip(parents).filter(|(_, parent)| has_lost(parent)).map(|(row, _)| row);
        for row in empty_now(context, link, referring.collect()).await? {
            let found = found.get_or_insert_with(|| Emptied {
                table: child.table.clone(),
                columns: names(child, &link.columns),
                parent: context.shapes[link.parent].table.clone(),
                rows: 0,
                first: cells::show_key(&child.key_of(&row)),
                referred_to: link.target(&row).map(|key| cells::show_key(&key)).unwrap_or_default(),
            });
            found.rows += 1;
        }
    }
    snapshot.commit().await?;
    Ok(found)
}

/// Those rows of the snapshot that still exist, as the same row, but refer to nothing now.
async fn empty_now(context: &Context, link: &Link, mut rows: Vec<Cells>) -> Result<Vec<Cells>, SnapshotError> {
    if rows.is_empty() {
        return Ok(rows);
    }
    let child = &context.shapes[link.child];
    let keys: Vec<Cells> = rows.iter().map(|row| child.key_of(row)).collect();
    // A read view per page: the pass over the snapshot may take longer than the server lets a session be idle.
    let mut live = context.live.db.begin(Mode::Snapshot).await?;
    let now = context.live.lookup(&mut live, child, &child.key, &keys, false).await?;
    live.commit().await?;
    // The identity may include the emptied reference itself: the plan still knows that it is the same row.
    let known = context.work.find(link.child, &keys).await?;
    let mut now = now.into_iter().zip(known);
    rows.retain(|row| {
        let Some((now, known)) = now.next() else { return false };
        let is_itself = known.is_some_and(|known| known.is_itself());
        now.first().is_some_and(|now| {
            link.target(now).is_none() && (is_itself || same_identity(context, link.child, row, now))
        })
    });
    Ok(rows)
}
