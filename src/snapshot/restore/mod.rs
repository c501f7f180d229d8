//! Restoring rows that have vanished from the live database, and no others.
//!
//! [`plan`] finds the rows of a snapshot that the live database does not have (*candidates*), and judges each: it
//! will be restored, or a live row replaces it under another key (*mapped*), or a person has to decide about its
//! identity (*quarantined*), or it was deleted on purpose (*excluded*). [`apply`] inserts the rows to be restored,
//! parents before children, and sets aside those that the database rejects (*deferred*). [`undo`] reverts a restore.
//!
//! Invariants:
//! - the only writes are INSERTs of vanished rows, UPDATEs that fill in their own references, and DELETEs of rows
//!   that this or an interrupted run inserted for a row that cannot be restored, provided that they are unchanged and
//!   nothing refers to them;
//! - foreign key checks and CHECK constraints are never turned off;
//! - a row is in the undo file, synced, before the transaction that inserts it commits;
//! - two rows are considered the same only if an identity says so, and the live one is not in the snapshot.
//!
//! An interrupted run can be repeated: the rows it restored are no longer missing, and the references that it left
//! empty are in the undo file.

pub mod apply;
pub mod candidates;
pub mod children;
pub mod emptied;
pub mod exclude;
pub mod graph;
mod judge;
pub mod parents;
pub mod plan;
mod referrers;
pub mod relations;
pub mod remap;
pub mod report;
pub mod stale;
pub mod state;
mod strangers;
pub mod touched;
pub mod undo;
pub mod undo_file;

use candidates::Candidates;
use graph::Group;
use relations::{Reference, Relations};
use undo_file::Tables;

use std::collections::BTreeSet;

use super::{
    SnapshotError,
    schema::{Column, Table, quote, quote_all},
    side::{Shape, Side},
};
use crate::db::Dialect;

/// How many of the lines that match no row are named.
const LINES_SHOWN: usize = 5;

/// A reference between two tables that are restored, with the positions of its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The reference.
    pub reference: Reference,
    /// The number of the referring table.
    pub child: usize,
    /// The positions of its columns.
    pub columns: Vec<usize>,
    /// The number of the table referred to.
    pub parent: usize,
    /// The positions of its columns.
    pub parent_columns: Vec<usize>,
    /// Only applies if the column at this position has this value.
    pub when: Option<(usize, String)>,
    /// Which of its columns may be NULL.
    pub nullable: Vec<usize>,
    /// Whether the parent's columns are whole numbers, which the child may store as text.
    pub is_whole: bool,
    /// Whether the child's columns are whole numbers too.
    pub is_child_whole: bool,
}

/// Everything that a restore is based on.
#[derive(Debug)]
pub struct Context {
    /// The side that rows are taken from.
    pub snapshot: Side,
    /// The side that they are inserted into.
    pub live: Side,
    /// The tables that both sides have, by number.
    pub shapes: Vec<Shape>,
    /// The tables whose rows are restored. For the others, only the fate of rows that these refer to matters.
    pub chosen: Vec<bool>,
    /// The references between the tables.
    pub links: Vec<Link>,
    /// By table, the columns that identify its rows, if declared.
    pub identities: Vec<Option<Vec<usize>>>,
    /// The order in which tables are restored.
    pub groups: Vec<Group>,
    /// The working file with the candidates.
    pub work: Candidates,
    /// Further remarks: tables and columns that cannot be restored.
    pub remarks: Vec<String>,
    /// How many requested tables the database does not have, or has without their key.
    pub tables_lost: usize,
}

impl Context {
    /// The context for restoring those tables, or, if none is named, all tables of the snapshot. `live` needs a pool
    /// of its own, because the restore changes the settings of its sessions.
    pub fn new(
        snapshot: Side,
        live: Side,
        tables: &[String],
        mut relations: Relations,
        work: Candidates,
    ) -> Result<Self, String> {
        let mut remarks = Vec::new();
        let mut shapes = Vec::new();
        let mut chosen = Vec::new();
        let mut tables_lost = 0;
        for (name, old) in &snapshot.tables {
            let is_chosen = tables.is_empty() || tables.contains(name);
            let mut remark = |text: String| {
                if is_chosen {
                    remarks.push(format!("table {name} {text}"));
                }
            };
            let Some(new) = live.tables.get(name) else {
                remark("does not exist any more: none of its rows can be restored".to_owned());
                tables_lost += usize::from(is_chosen);
                continue;
            };
            let Some(shape) = Shape::new(old, new) else {
                remark(format!("has lost its key ({}): none of its rows can be restored", old.shown_key()));
                tables_lost += usize::from(is_chosen);
                continue;
            };
            if !shape.lost.is_empty() {
                remark(format!("has no column {} any more: its values are not restored", shape.lost.join(", ")));
            }
            shapes.push(shape);
            chosen.push(is_chosen);
        }
        for shape in &shapes {
            add_foreign_keys(&mut relations, &live.tables[&shape.table]);
        }
        let links = links(&relations, &shapes, &live, &mut remarks)?;
        let mut identities = Vec::new();
        for shape in &shapes {
            identities.push(match relations.identities.get(&shape.table) {
                None => None,
                Some(columns) => {
                    Some(shape.places(columns).ok_or_else(|| {
                        format!("the identity of {} names a column that it does not have", shape.table)
                    })?)
                }
            });
        }
        let names: Vec<String> = shapes.iter().map(|shape| shape.table.clone()).collect();
        let references: Vec<Reference> = links.iter().map(|link| link.reference.clone()).collect();
        let groups = graph::order(&names, &references);
        let live = Side { db: live.db.renewed(), ..live };
        Ok(Self { snapshot, live, shapes, chosen, links, identities, groups, work, remarks, tables_lost })
    }

    /// Makes the snapshot's rows quick to find by every column that references name instead of the key, which is all
    /// that its file has an index of. The file is an unpacked copy that is written to only here.
    pub async fn index(&mut self) -> Result<(), SnapshotError> {
        let judged = self.judged();
        let links = self.links.iter().filter(|link| judged[link.child]);
        let sought = links.map(|link| (&self.shapes[link.parent], &link.parent_columns));
        let indexes: BTreeSet<String> = sought
            .filter(|(shape, columns)| **columns != shape.key)
            .map(|(shape, columns)| {
                let names = columns.iter().map(|place| shape.columns[*place].as_str());
                format!("{} ({})", quote(Dialect::Sqlite, &shape.table), quote_all(Dialect::Sqlite, names))
            })
            .collect();
        if indexes.is_empty() {
            return Ok(());
        }
        let file = self.snapshot.db.name();
        let made = tokio::task::spawn_blocking(move || {
            let connection = rusqlite::Connection::open(file)?;
            connection.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")?;
            for (number, of) in indexes.iter().enumerate() {
                connection.execute_batch(&format!("CREATE INDEX \"daymend's index {number}\" ON {of}"))?;
            }
            connection.close().map_err(|(_, error)| error)
        });
        made.await.map_err(|panic| SnapshotError::store("index the snapshot", std::io::Error::other(panic)))??;
        // Connections that are open take the file for one that never changes.
        self.snapshot.db = self.snapshot.db.renewed();
        Ok(())
    }

    /// The tables whose rows are restored, and all tables that they refer to, directly or indirectly.
    #[must_use]
    pub fn judged(&self) -> Vec<bool> {
        let mut judged = self.chosen.clone();
        loop {
            let found = self.links.iter().find(|link| judged[link.child] && !judged[link.parent]);
            let Some(link) = found else { return judged };
            judged[link.parent] = true;
        }
    }

    /// The columns and keys of all tables, for the header of an undo file.
    #[must_use]
    pub fn recorded(&self) -> Tables {
        let shapes = self.shapes.iter().map(Shape::whole);
        shapes.map(|shape| (shape.table, (shape.columns, shape.key))).collect()
    }

    /// The links of a table to its parents.
    pub fn links_of(&self, table: usize) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(move |link| link.child == table)
    }

    /// The number of a table.
    #[must_use]
    pub fn number(&self, table: &str) -> Option<usize> {
        self.shapes.iter().position(|shape| shape.table == table)
    }
}

/// Adds a table's foreign keys.
pub(super) fn add_foreign_keys(relations: &mut Relations, table: &Table) {
    for key in &table.foreign_keys {
        relations.add(Reference {
            table: table.name.clone(),
            columns: key.columns.clone(),
            parent: key.parent.clone(),
            parent_columns: key.parent_columns.clone(),
            when: None,
            is_enforced: true,
            is_declared: false,
        });
    }
}

/// The references between those tables. If one names a column that is not stored on both sides, that is an error if a
/// person declared the reference; one from the schema is left to the database to check.
pub(super) fn links(
    relations: &Relations,
    shapes: &[Shape],
    side: &Side,
    remarks: &mut Vec<String>,
) -> Result<Vec<Link>, String> {
    let number = |name: &str| shapes.iter().position(|shape| shape.table == name);
    let mut links = Vec::new();
    for reference in &relations.references {
        let (Some(child), Some(parent)) = (number(&reference.table), number(&reference.parent)) else { continue };
        match link(reference, shapes, side, child, parent) {
            Ok(link) => links.push(link),
            Err(why) if !reference.is_declared => remarks.push(format!("foreign key {why}: it is not followed")),
            Err(why) => return Err(why),
        }
    }
    Ok(links)
}

fn link(reference: &Reference, shapes: &[Shape], side: &Side, child: usize, parent: usize) -> Result<Link, String> {
    let unknown = |of: &str| format!("{}: a column of {of} does not exist, or is computed", reference.text());
    let columns = shapes[child].places(&reference.columns).ok_or_else(|| unknown(&reference.table))?;
    let parent_columns = if reference.parent_columns.is_empty() {
        shapes[parent].key.clone()
    } else {
        shapes[parent].places(&reference.parent_columns).ok_or_else(|| unknown(&reference.parent))?
    };
    if columns.len() != parent_columns.len() {
        return Err(format!("{}: the key of {} has another number of columns", reference.text(), reference.parent));
    }
    let when = match &reference.when {
        None => None,
        Some((column, value)) => {
            let place = shapes[child].places(std::slice::from_ref(column)).ok_or_else(|| unknown(&reference.table))?;
            Some((place[0], value.clone()))
        }
    };
    let column = |table: usize, place: usize| {
        let name = &shapes[table].columns[place];
        side.tables.get(&shapes[table].table)?.columns.iter().find(|column| column.name == *name)
    };
    let nullable =
        columns.iter().copied().filter(|place| column(child, *place).is_some_and(|column| column.nullable)).collect();
    let is_whole = parent_columns.iter().all(|place| column(parent, *place).is_some_and(Column::is_whole));
    let is_child_whole = columns.iter().all(|place| column(child, *place).is_some_and(Column::is_whole));
    Ok(Link {
        reference: reference.clone(),
        child,
        columns,
        parent,
        parent_columns,
        when,
        nullable,
        is_whole,
        is_child_whole,
    })
}
