//! Rows that were deleted on purpose and must not be restored: `--exclude`, and tombstones.
//!
//! Both are lines `TABLE:KEY` (a composite key as `KEY1,KEY2`); a list in a file survives when the database is
//! restored from a backup. `#` begins a comment, at the start of a line or after a space.
//!
//! A misread line would let a row come back. So a table that neither the snapshot nor the database has is rejected,
//! whole numbers are compared as numbers, and lines that match no row are counted.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use super::{Context, LINES_SHOWN, candidates::State};
use crate::{
    db::{Arg, Mode},
    error::examples,
    snapshot::{
        SnapshotError, cells,
        schema::{self, Table},
        side::Side,
    },
};

/// The rows not to restore.
#[derive(Debug, Clone, Default)]
pub struct Exclusions {
    lines: Vec<Line>,
    /// The line numbers, by table and key.
    rows: HashMap<String, HashMap<String, Vec<usize>>>,
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

    /// Parses the keys according to the snapshot's tables.
    ///
    /// # Errors
    /// If neither side has the table. A table that only the database has is fine: a list is meant for all snapshots.
    pub async fn fit(&mut self, snapshot: &Side, live: &Side) -> Result<(), ExclusionError> {
        let mut tx = live.db.begin(Mode::Snapshot).await.map_err(SnapshotError::from)?;
        let known = schema::table_names(&mut tx).await.map_err(SnapshotError::from)?;
        tx.commit().await.map_err(SnapshotError::from)?;
        for (number, Line { place, table, key }) in self.lines.iter().enumerate() {
            let Some(of) = snapshot.tables.get(table) else {
                if known.contains(table) {
                    continue;
                }
                let (place, table, snapshot) = (place.clone(), table.clone(), snapshot.label.clone());
                return Err(ExclusionError::Table { place, table, snapshot });
            };
            let key = normal(of, key);
            self.rows.entry(table.clone()).or_default().entry(key).or_default().push(number);
        }
        Ok(())
    }

    /// Whether the row with that key must not be restored.
    #[must_use]
    pub fn has(&self, table: &str, key: &[Arg]) -> bool {
        self.rows.get(table).is_some_and(|keys| lines(keys, key).next().is_some())
    }

    /// A remark after planning: how many lines match a missing row, and how many do not.
    pub async fn remark(&self, context: &Context) -> Result<Option<String>, SnapshotError> {
        let mut used: HashSet<usize> = HashSet::new();
        for (table, shape) in context.shapes.iter().enumerate() {
            let Some(keys) = self.rows.get(&shape.table) else { continue };
            let mut after = 0;
            loop {
                let page = context.work.page(table, State::Excluded, after).await?;
                let Some(last) = page.last() else { break };
                after = last.place;
                used.extend(page.iter().flat_map(|row| lines(keys, &row.key)));
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

/// A line without its comment. A `#` inside a key does not begin one.
fn without_comment(line: &str) -> &str {
    let begins = |at: &usize| line[..*at].chars().next_back().is_none_or(char::is_whitespace);
    let comment = line.match_indices('#').map(|(at, _)| at).find(begins);
    &line[..comment.unwrap_or(line.len())]
}

/// A key as rows show it: whole numbers without redundant zeros and signs, bytes in small letters.
fn normal(table: &Table, key: &str) -> String {
    let parts = if table.primary_key.len() == 1 { vec![key.to_owned()] } else { cells::split_key(key) };
    if parts.len() != table.primary_key.len() {
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
    cells::write_key(&parts.iter().zip(&table.primary_key).map(part).collect::<Vec<_>>())
}

/// The lines that name a key: with quotes, as in a map, or without.
fn lines<'a>(keys: &'a HashMap<String, Vec<usize>>, key: &[Arg]) -> impl Iterator<Item = &'a usize> {
    keys.get(&cells::write_key(key)).or_else(|| keys.get(&cells::show_key(key))).into_iter().flatten()
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
        let member = [Arg::Int(5), Arg::Text("a:b".to_owned())];
        assert!(exclusions.has("partners", &[Arg::Int(4011)]) && exclusions.has("members", &member));
        assert!(exclusions.has("notes", &[Arg::Int(9)]));
        let sample = |key: &str| [Arg::Text(key.to_owned())];
        assert!(exclusions.has("samples", &sample("S#12")) && !exclusions.has("samples", &sample("S")));
        assert!(!exclusions.has("partners", &[Arg::Int(401)]) && !exclusions.has("clients", &[Arg::Int(4011)]));
        let error = exclusions.add("partners").unwrap_err().to_string();
        assert_eq!(error, "--exclude: expected TABLE:KEY, such as partners:4011, found \"partners\"");
    }
}
