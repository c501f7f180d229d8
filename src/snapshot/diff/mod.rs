//! Differences between two snapshots, or between a snapshot and the live database.
//!
//! Every page of one side is looked up in the other by its key, in both directions: memory is bounded by a page,
//! whatever the tables' size, and nothing depends on how either side sorts. Only keys that are spelled differently,
//! but are equal to the newer side, are remembered. With several snapshots, each is compared with the next, which
//! shows between which two of them a row vanished.

pub mod filter;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::Serialize;

use self::filter::{Condition, Filter};
use super::{
    SnapshotError,
    cells::{self, Cells},
    restore::{self, Link, relations::Relations},
    side::{Shape, Side},
};
use crate::db::{Mode, Tx};

/// What to compare.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Only these tables.
    pub tables: Vec<String>,
    /// Only rows that match all of these.
    pub conditions: Vec<Condition>,
    /// How many rows of each kind to show.
    pub samples: usize,
    /// References besides foreign keys, and the columns that identify rows.
    pub relations: Relations,
}

/// What differs between two sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// The older side.
    pub from: String,
    /// The newer side.
    pub to: String,
    /// The tables in which rows differ.
    pub tables: Vec<TableDiff>,
    /// How many rows were compared.
    pub compared: u64,
    /// How many rows match `--where`, on either side.
    pub fitting: u64,
    /// Tables that cannot be compared, and why: they count as differing, although no row is shown.
    pub uncompared: Vec<String>,
    /// Columns that only one side has, and tables that `--where` leaves out.
    pub remarks: Vec<String>,
    /// Whether that applies to all tables, so that nothing was compared.
    #[serde(skip)]
    pub is_all_left_out: bool,
}

/// The differences in a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableDiff {
    /// The table.
    pub table: String,
    /// Rows whose key the newer side does not have.
    pub vanished: Rows,
    /// Rows whose key the older side does not have.
    pub added: Rows,
    /// Rows with the same key but other values.
    pub changed: Rows,
    /// Rows with the same key that stand for something else: the columns that identify them differ.
    pub reused: Rows,
    /// How many vanished rows referred to rows that vanished too, by reference.
    pub with: BTreeMap<String, u64>,
    /// How many rows match `--where`.
    #[serde(skip)]
    pub fitting: u64,
}

/// A number of rows, with some of them as samples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rows {
    /// How many.
    pub rows: u64,
    /// The first of them.
    pub samples: Vec<String>,
}

impl Rows {
    fn add(&mut self, limit: usize, text: impl FnOnce() -> String) {
        self.rows += 1;
        if self.samples.len() < limit {
            self.samples.push(text());
        }
    }
}

impl Diff {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.uncompared.is_empty()
    }
}

impl TableDiff {
    fn is_empty(&self) -> bool {
        [&self.vanished, &self.added, &self.changed, &self.reused].iter().all(|rows| rows.rows == 0)
    }
}

struct Views {
    old: Tx,
    new: Tx,
}

/// Compares two sides; `progress` is called with the number of rows compared.
pub async fn compare(
    old: &Side,
    new: &Side,
    options: &Options,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Diff, SnapshotError> {
    let mut diff = Diff {
        from: old.label.clone(),
        to: new.label.clone(),
        tables: Vec::new(),
        compared: 0,
        fitting: 0,
        uncompared: Vec::new(),
        remarks: Vec::new(),
        is_all_left_out: false,
    };
    let shapes = shapes(old, new, options, &mut diff);
    diff.is_all_left_out = !shapes.is_empty();
    let mut relations = options.relations.clone();
    for shape in &shapes {
        restore::add_foreign_keys(&mut relations, &old.tables[&shape.table]);
    }
    let links = restore::links(&relations, &shapes, old, &mut diff.remarks).map_err(SnapshotError::Target)?;
    let mut views = Views { old: old.db.begin(Mode::Snapshot).await?, new: new.db.begin(Mode::Snapshot).await? };
    for (number, shape) in shapes.iter().enumerate() {
        let Some(filter) = Filter::new(&options.conditions, shape, &old.tables[&shape.table]) else {
            diff.remarks.push(format!("table {} is left out: it does not have the columns of --where", shape.table));
            continue;
        };
        diff.is_all_left_out = false;
        let compare = Compare { old, new, shapes: &shapes, links: &links, number, filter, options };
        let table = compare.run(&mut views, &mut diff.compared, progress).await?;
        diff.fitting += table.fitting;
        if !table.is_empty() {
            diff.tables.push(table);
        }
    }
    views.old.commit().await?;
    views.new.commit().await?;
    Ok(diff)
}

/// The tables that can be compared; for the others, the reason is added to `diff`.
fn shapes(old: &Side, new: &Side, options: &Options, diff: &mut Diff) -> Vec<Shape> {
    let mut shapes = Vec::new();
    let names: BTreeSet<&String> = old.tables.keys().chain(new.tables.keys()).collect();
    for name in names.into_iter().filter(|name| options.tables.is_empty() || options.tables.contains(name)) {
        let shape = match (old.tables.get(name), new.tables.get(name)) {
            (Some(table), Some(other)) => {
                let lost = || format!("{} has lost its key ({})", new.label, table.shown_key());
                Shape::new(table, other).ok_or_else(lost)
            }
            (None, _) => Err(format!("{} does not have it", old.label)),
            (_, None) => Err(format!("{} does not have it", new.label)),
        };
        match shape {
            Ok(shape) => {
                for (side, columns) in [(new, &shape.lost), (old, &shape.new)] {
                    if !columns.is_empty() {
                        let columns = columns.join(", ");
                        diff.remarks.push(format!("table {name}: {} has no column {columns}", side.label));
                    }
                }
                shapes.push(shape);
            }
            Err(why) => diff.uncompared.push(format!("table {name}: {why}")),
        }
    }
    shapes
}

struct Compare<'a> {
    old: &'a Side,
    new: &'a Side,
    shapes: &'a [Shape],
    links: &'a [Link],
    number: usize,
    filter: Filter<'a>,
    options: &'a Options,
}

impl Compare<'_> {
    async fn run(
        &self,
        views: &mut Views,
        compared: &mut u64,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<TableDiff, SnapshotError> {
        let shape = &self.shapes[self.number];
        let mut diff = TableDiff {
            table: shape.table.clone(),
            vanished: Rows::default(),
            added: Rows::default(),
            changed: Rows::default(),
            reused: Rows::default(),
            with: BTreeMap::new(),
            fitting: 0,
        };
        let mut rewritten = HashSet::new();
        let mut pages = self.old.pages(shape);
        while let Some(page) = pages.next(&mut views.old).await? {
            *compared += page.len() as u64;
            self.old_page(views, &page, &mut diff, &mut rewritten).await?;
            progress(*compared);
        }
        let mut pages = self.new.pages(shape);
        while let Some(page) = pages.next(&mut views.new).await? {
            let keys: Vec<Cells> = page.iter().map(|row| shape.key_of(row)).collect();
            let known = self.old.keys(&mut views.old, shape, &shape.key, &keys, false).await?;
            for ((row, key), known) in page.iter().zip(&keys).zip(known) {
                if known.is_empty() && self.filter.takes(row) && !rewritten.contains(&cells::encode(key)) {
                    diff.fitting += 1;
                    diff.added.add(self.options.samples, || cells::show_key(key));
                }
            }
        }
        Ok(diff)
    }

    /// Compares a page of the older side. The newer side may find a row whose key differs in case or trailing spaces.
    /// The older side compares bytes and would not find that key, so that the row would count as added: the key is
    /// noted in `rewritten`.
    async fn old_page(
        &self,
        views: &mut Views,
        page: &[Cells],
        diff: &mut TableDiff,
        rewritten: &mut HashSet<String>,
    ) -> Result<(), SnapshotError> {
        let shape = &self.shapes[self.number];
        let identity = self.options.relations.identities.get(&shape.table);
        let identity = identity.map(|columns| shape.places(columns).unwrap_or_default());
        let samples = self.options.samples;
        let keys: Vec<Cells> = page.iter().map(|row| shape.key_of(row)).collect();
        let found = self.new.lookup(&mut views.new, shape, &shape.key, &keys, false).await?;
        let mut vanished = Vec::new();
        for ((row, key), found) in page.iter().zip(&keys).zip(found) {
            let others = found.iter().map(|found| shape.key_of(found)).filter(|found| found != key);
            rewritten.extend(others.map(|found| cells::encode(&found)));
            let fits = self.filter.takes(row) || found.first().is_some_and(|found| self.filter.takes(found));
            diff.fitting += u64::from(fits);
            match found.first() {
                None if fits => {
                    diff.vanished.add(samples, || cells::show_key(key));
                    vanished.push(row.clone());
                }
                Some(found) if found != row && fits => {
                    let is_other = shape.other_by(identity.as_deref(), row, found).is_some();
                    let rows = if is_other { &mut diff.reused } else { &mut diff.changed };
                    rows.add(samples, || format!("{}: {}", cells::show_key(key), changes(shape, row, found)));
                }
                _ => {}
            }
        }
        for link in self.links.iter().filter(|link| link.child == self.number) {
            let rows = self.gone_parents(views, link, &vanished).await?;
            if rows > 0 {
                *diff.with.entry(link.reference.text()).or_default() += rows;
            }
        }
        Ok(())
    }

    /// How many rows refer to rows that are in the older side but not in the newer one.
    async fn gone_parents(&self, views: &mut Views, link: &Link, rows: &[Cells]) -> Result<u64, SnapshotError> {
        let parent = &self.shapes[link.parent];
        let targets: Vec<Cells> = rows.iter().filter_map(|row| link.target(row)).collect();
        let (by, share) = (link.parent_columns.as_slice(), false);
        let there = self.new.keys(&mut views.new, parent, by, &targets, share).await?;
        let gone: Vec<Cells> =
            targets.into_iter().zip(there).filter(|(_, keys)| keys.is_empty()).map(|(target, _)| target).collect();
        let before = self.old.keys(&mut views.old, parent, by, &gone, share).await?;
        Ok(before.iter().filter(|keys| !keys.is_empty()).count() as u64)
    }
}

/// What differs between two rows: `name: a -> b`.
fn changes(shape: &Shape, old: &[crate::db::Arg], new: &[crate::db::Arg]) -> String {
    let differing = (0..old.len()).filter(|place| old[*place] != new[*place]);
    let texts = differing.map(|place| {
        format!("{} {} -> {}", shape.columns[place], cells::show_short(&old[place]), cells::show_short(&new[place]))
    });
    texts.collect::<Vec<_>>().join(", ")
}
