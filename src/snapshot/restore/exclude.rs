//! Rows that were deleted on purpose and must not be restored: `--exclude`, and tombstones.
//!
//! Both are lines `TABLE:KEY` (a composite key as `KEY1,KEY2`); a list in a file survives when the database is
//! restored from a backup. `#` begins a comment, at the start of a line or after a space.
//!
//! A misread line would let a row come back. So a table that neither the snapshot nor the database has is rejected,
//! whole numbers are compared as numbers, and lines that match no row are counted.
//!
//! A row also stays away if a line names the row of another table whose key is a reference to it: the client is the
//! partner. That needs no such row in the snapshot, nor that table: it may have been erased before, or be left out.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use super::{
    Context, LINES_SHOWN, Link,
    candidates::{Candidate, State},
    parents::Parent,
    plan,
};
use crate::{
    db::{Arg, Mode, Tx},
    error::examples,
    snapshot::{
        SnapshotError,
        cells::{self, Cells},
        schema::{self, ForeignKey, Table},
        side::{Shape, Side},
    },
};

/// The reason for a row that a line names.
const ON_PURPOSE: &str = "deleted on purpose";

/// The rows not to restore.
#[derive(Debug, Clone, Default)]
pub struct Exclusions {
    lines: Vec<Line>,
    /// The line numbers, by table and key.
    rows: HashMap<String, HashMap<String, Vec<usize>>>,
    /// The tables that are not on both sides, of those that lines name and those above them.
    elsewhere: BTreeMap<String, Table>,
}

/// The rows of a context's tables not to restore.
#[derive(Debug)]
pub(super) struct Excluded<'a> {
    exclusions: &'a Exclusions,
    /// By table, the tables whose lines are about its rows, and the reason to give.
    by: Vec<Vec<(String, String)>>,
}

#[derive(Debug, Clone)]
struct Line {
    /// The line's location.
    place: String,
    table: String,
    key: String,
}

/// Why a list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExclusionError {
    /// The file cannot be read.
    #[error("{0}: cannot be read")]
    Read(String, #[source] std::io::Error),
    /// A line is not a valid row.
    #[error("{place}: expected TABLE:KEY, such as partners:4011, found {found:?}")]
    Line {
        /// The line's location.
        place: String,
        /// The text of the line.
        found: String,
    },
    /// The table does not exist.
    #[error("{place}: table {table} is not in snapshot {snapshot}, and the database has none of that name")]
    Table {
        /// The line's location.
        place: String,
        /// The table named there.
        table: String,
        /// The snapshot.
        snapshot: String,
    },
    /// The table cannot be compared.
    #[error(
        "{place}: the rows of {table} cannot be told apart by their key in the snapshot any more, so that what refers \
        to them would come back: use a newer snapshot, or leave out such lines"
    )]
    Incomparable {
        /// The line's location.
        place: String,
        /// The table named there.
        table: String,
    },
    /// The database could not be asked for its tables.
    #[error(transparent)]
    Database(#[from] SnapshotError),
}

impl Exclusions {
    /// Adds the value of an `--exclude`: one row, or all rows of a file.
    pub fn add(&mut self, text: &str) -> Result<(), ExclusionError> {
        if Path::new(text).is_file() { self.read(Path::new(text)) } else { self.add_line("--exclude", text) }
    }

    /// Adds all rows of a file.
    pub fn read(&mut self, file: &Path) -> Result<(), ExclusionError> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| ExclusionError::Read(name.clone(), error))?;
        // Editors may put a byte order mark at the beginning.
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = without_comment(line).trim();
            if !line.is_empty() {
                self.add_line(&format!("{name}:{}", number + 1), line)?;
            }
        }
        Ok(())
    }

    fn add_line(&mut self, place: &str, line: &str) -> Result<(), ExclusionError> {
        let row = line.split_once(':').map(|(table, key)| (table.trim(), key.trim()));
        let Some((table, key)) = row.filter(|(table, key)| !table.is_empty() && !key.is_empty()) else {
            return Err(ExclusionError::Line { place: place.to_owned(), found: line.to_owned() });
        };
        self.rows.entry(table.to_owned()).or_default().entry(key.to_owned()).or_default().push(self.lines.len());
        self.lines.push(Line { place: place.to_owned(), table: table.to_owned(), key: key.to_owned() });
        Ok(())
    }

    /// Parses the keys according to the snapshot's tables, or else the database's, and reads the tables that it takes to
    /// know whose keys they share.
    ///
    /// # Errors
    /// If neither side has the table, or both have it with keys that differ. A table that only the database has is fine: a
    /// list is meant for all snapshots.
    pub async fn fit(&mut self, snapshot: &Side, live: &Side) -> Result<(), ExclusionError> {
        let mut tx = live.db.begin(Mode::Snapshot).await.map_err(SnapshotError::from)?;
        let known = schema::table_names(&mut tx).await.map_err(SnapshotError::from)?;
        for Line { place, table, .. } in &self.lines {
            if !snapshot.tables.contains_key(table) && !known.contains(table) {
                let (place, table, snapshot) = (place.clone(), table.clone(), snapshot.label.clone());
                return Err(ExclusionError::Table { place, table, snapshot });
            }
            let both = snapshot.tables.get(table).zip(live.tables.get(table));
            if both.is_some_and(|(old, new)| Shape::new(old, new).is_none()) {
                return Err(ExclusionError::Incomparable { place: place.clone(), table: table.clone() });
            }
        }
        let mut seen: HashSet<String> = self.rows.keys().cloned().collect();
        let mut above: Vec<String> = seen.iter().cloned().collect();
        while let Some(name) = above.pop() {
            let of = match (snapshot.tables.get(&name), live.tables.get(&name)) {
                (_, Some(of)) => of.clone(),
                (Some(of), None) => of.clone(),
                (None, None) => match schema::read(&mut tx, &name).await? {
                    Some(of) => of,
                    None => continue,
                },
            };
            let parents = of.foreign_keys.iter().filter(|key| is_key_of(key, &of)).map(|key| key.parent.clone());
            above.extend(parents.filter(|parent| seen.insert(parent.clone())));
            if !(snapshot.tables.contains_key(&name) && live.tables.contains_key(&name)) {
                self.elsewhere.insert(name, of);
            }
        }
        tx.commit().await.map_err(SnapshotError::from)?;
        for (number, Line { table, key, .. }) in self.lines.iter().enumerate() {
            let Some(of) = snapshot.tables.get(table).or_else(|| self.elsewhere.get(table)) else { continue };
            let key = normal(of, key);
            self.rows.entry(table.clone()).or_default().entry(key).or_default().push(number);
        }
        Ok(())
    }

    /// The rows of a context's tables that lines are about.
    pub(super) fn within<'a>(&'a self, context: &Context) -> Excluded<'a> {
        let mut by = vec![Vec::new(); context.shapes.len()];
        for name in self.rows.keys() {
            let mut seen = HashSet::from([name.clone()]);
            let mut above = vec![(name.clone(), ON_PURPOSE.to_owned())];
            while let Some((table, why)) = above.pop() {
                for parent in self.above(context, &table) {
                    if seen.insert(parent.clone()) {
                        above.push((parent, format!("as its {table}: {why}")));
                    }
                }
                if let Some(number) = context.number(&table) {
                    by[number].push((name.clone(), why));
                }
            }
        }
        for by in &mut by {
            // A line for the row itself comes first.
            by.sort_by(|(one, why), (other, why_other)| (why.len(), one).cmp(&(why_other.len(), other)));
        }
        Excluded { exclusions: self, by }
    }

    /// The tables whose key is that of the rows that the keys of a table's rows refer to.
    fn above(&self, context: &Context, table: &str) -> Vec<String> {
        let describe = |name: &str| context.live.tables.get(name).or_else(|| self.elsewhere.get(name));
        let links = context.number(table).into_iter().flat_map(|number| context.links_of(number));
        let linked = links.filter(|link| link.shares_key(context)).map(|link| &context.shapes[link.parent].table);
        let own = describe(table).into_iter().flat_map(|of| of.foreign_keys.iter().filter(|key| is_key_of(key, of)));
        let is_to_key = |key: &&ForeignKey| {
            let parent = describe(&key.parent).and_then(Table::key);
            parent.is_some_and(|parent| key.parent_columns.is_empty() || key.parent_columns == parent)
        };
        linked.chain(own.filter(is_to_key).map(|key| &key.parent)).cloned().collect()
    }

    /// The numbers of the lines that name a row: with quotes, as in a map, or without.
    fn lines_of(&self, table: &str, key: &[Arg]) -> impl Iterator<Item = usize> {
        let lines = |keys: &'_ HashMap<String, Vec<usize>>| {
            keys.get(&cells::write_key(key)).or_else(|| keys.get(&cells::show_key(key))).cloned()
        };
        self.rows.get(table).and_then(lines).into_iter().flatten()
    }

    /// A remark after planning: how many lines match a missing row, and how many do not.
    pub async fn remark(&self, context: &Context) -> Result<Option<String>, SnapshotError> {
        let mut used: HashSet<usize> = HashSet::new();
        let excluded = self.within(context);
        for table in 0..context.shapes.len() {
            let mut after = 0;
            loop {
                let page = context.work.page(table, State::Excluded, after).await?;
                let Some(last) = page.last() else { break };
                after = last.place;
                used.extend(page.iter().flat_map(|row| excluded.lines(table, &row.key)));
            }
        }
        if self.lines.is_empty() {
            return Ok(None);
        }
        let mut remark =
            format!("deleted on purpose: {} of {} line(s) match missing rows", used.len(), self.lines.len());
        let unused = self.lines.iter().enumerate().filter(|(number, _)| !used.contains(number));
        let unused: Vec<String> =
            unused.map(|(_, line)| format!("{} {}:{}", line.place, line.table, line.key)).collect();
        if !unused.is_empty() {
            remark += &format!(", {} match none: {}", unused.len(), examples(unused, LINES_SHOWN));
        }
        Ok(Some(remark))
    }
}

impl Excluded<'_> {
    /// Adds the rows that lines are about, that missing rows refer to, and that the snapshot does not have: they were
    /// erased before. So what refers to them stays away as well.
    pub(super) async fn add_erased(&self, context: &Context, snapshot: &mut Tx) -> Result<(), SnapshotError> {
        let is_named =
            |link: &&Link| link.parent_columns == context.shapes[link.parent].key && !self.by[link.parent].is_empty();
        for link in context.links.iter().filter(is_named) {
            let mut after = 0;
            loop {
                let page = context.work.page(link.child, State::Missing, after).await?;
                let Some(last) = page.last() else { break };
                after = last.place;
                let (_, rows) = plan::rows_of(context, snapshot, link.child, page).await?;
                let parents = context.parents(snapshot, link, &rows).await?;
                let others = rows.iter().zip(parents).filter(|(_, parent)| *parent == Parent::Other);
                let mut named = BTreeMap::new();
                for key in others.filter_map(|(row, _)| link.target(row)) {
                    if let Some(why) = self.why(link.parent, &key) {
                        named.insert(cells::encode(&key), (key, why.to_owned()));
                    }
                }
                let keys: Vec<Cells> = named.values().map(|(key, _)| key.clone()).collect();
                let shape = &context.shapes[link.parent];
                let known = context.snapshot.keys(snapshot, shape, &shape.key, &keys, false).await?;
                let erased = named.into_values().zip(known).filter(|(_, known)| known.is_empty());
                let excluded = |((key, reason), _)| Candidate {
                    place: 0,
                    key,
                    size: 0,
                    state: State::Excluded,
                    reason,
                    detail: String::new(),
                    holder: None,
                };
                context.work.add(link.parent, &erased.map(excluded).collect::<Vec<_>>()).await?;
            }
        }
        Ok(())
    }

    /// Why the row with that key must not be restored; `None` if it may be.
    pub(super) fn why(&self, table: usize, key: &[Arg]) -> Option<&str> {
        let is_named = |name: &String| self.exclusions.lines_of(name, key).next().is_some();
        self.by[table].iter().find(|(name, _)| is_named(name)).map(|(_, why)| why.as_str())
    }

    /// The numbers of the lines about the row with that key.
    fn lines(&self, table: usize, key: &[Arg]) -> impl Iterator<Item = usize> {
        self.by[table].iter().flat_map(|(name, _)| self.exclusions.lines_of(name, key))
    }
}

/// Whether a foreign key has the columns of its table's key, and refers to another table.
fn is_key_of(key: &ForeignKey, of: &Table) -> bool {
    of.key().as_ref() == Some(&key.columns) && key.parent != of.name
}

/// A line without its comment. A `#` inside a key does not begin one.
fn without_comment(line: &str) -> &str {
    let begins = |at: &usize| line[..*at].chars().next_back().is_none_or(char::is_whitespace);
    let comment = line.match_indices('#').map(|(at, _)| at).find(begins);
    &line[..comment.unwrap_or(line.len())]
}

/// A key as rows show it: whole numbers without redundant zeros and signs, bytes in small letters.
pub(super) fn normal(table: &Table, key: &str) -> String {
    let columns = table.key().unwrap_or_default();
    let parts = if columns.len() == 1 { vec![key.to_owned()] } else { cells::split_key(key) };
    if parts.len() != columns.len() {
        return key.to_owned();
    }
    let part = |(part, name): (&String, &String)| {
        let column = table.position(name).map(|at| &table.columns[at]);
        match (part.trim().parse::<i128>(), column) {
            (Ok(number), Some(column)) if column.is_whole() => Arg::Text(number.to_string()),
            (_, Some(column)) => cells::parse(part, column),
            (_, None) => Arg::Text(part.clone()),
        }
    };
    cells::write_key(&parts.iter().zip(&columns).map(part).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_files_of_rows_are_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "# erased 2026-11-03, request 17\npartners:4011\n\nmembers: 5,a:b # twice\nsamples:S#12\n",
        )
        .unwrap();
        let mut exclusions = Exclusions::default();
        exclusions.add(&file.path().display().to_string()).unwrap();
        exclusions.add("notes:9").unwrap();
        let has = |table: &str, key: &[Arg]| exclusions.lines_of(table, key).next().is_some();
        let member = [Arg::Int(5), Arg::Text("a:b".to_owned())];
        assert!(has("partners", &[Arg::Int(4011)]) && has("members", &member));
        assert!(has("notes", &[Arg::Int(9)]));
        let sample = |key: &str| [Arg::Text(key.to_owned())];
        assert!(has("samples", &sample("S#12")) && !has("samples", &sample("S")));
        assert!(!has("partners", &[Arg::Int(401)]) && !has("clients", &[Arg::Int(4011)]));
        let error = exclusions.add("partners").unwrap_err().to_string();
        assert_eq!(error, "--exclude: expected TABLE:KEY, such as partners:4011, found \"partners\"");
    }
}
