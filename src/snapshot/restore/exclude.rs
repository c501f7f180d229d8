//! Rows that were deleted on purpose and must not come back: `--exclude`, and tombstones.
//!
//! Both are lines `TABLE:KEY` (a composite key as `KEY1,KEY2`); a list is a file that a database
//! restored from a backup cannot lose. `#` begins a comment.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

/// Which rows stay away.
#[derive(Debug, Clone, Default)]
pub struct Exclusions {
    rows: HashMap<String, HashSet<String>>,
}

/// Why a list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExclusionError {
    /// The file cannot be read.
    #[error("{0}: cannot be read")]
    Read(String, #[source] std::io::Error),
    /// A line is no row.
    #[error("{place}: expected TABLE:KEY, such as partners:4011, found {found:?}")]
    Line {
        /// Where it stands.
        place: String,
        /// What stands there.
        found: String,
    },
}

impl Exclusions {
    /// Adds one row, or all of a file: what `--exclude` was given.
    pub fn add(&mut self, text: &str) -> Result<(), ExclusionError> {
        if Path::new(text).is_file() { self.read(Path::new(text)) } else { self.add_line("--exclude", text) }
    }

    /// Adds all rows of a file.
    pub fn read(&mut self, file: &Path) -> Result<(), ExclusionError> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| ExclusionError::Read(name.clone(), error))?;
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
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
        self.rows.entry(table.to_owned()).or_default().insert(key.to_owned());
        Ok(())
    }

    /// Whether the row with that key, as text, stays away.
    #[must_use]
    pub fn has(&self, table: &str, key_text: &str) -> bool {
        self.rows.get(table).is_some_and(|keys| keys.contains(key_text))
    }

    /// The tables that are named.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.rows.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_files_of_rows_are_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# erased 2026-11-03, request 17\npartners:4011\n\nmembers: 5,a:b # twice\n")
            .unwrap();
        let mut exclusions = Exclusions::default();
        exclusions.add(&file.path().display().to_string()).unwrap();
        exclusions.add("notes:9").unwrap();
        assert!(
            exclusions.has("partners", "4011") && exclusions.has("members", "5,a:b") && exclusions.has("notes", "9")
        );
        assert!(!exclusions.has("partners", "401") && !exclusions.has("clients", "4011"));
        let error = exclusions.add("partners").unwrap_err().to_string();
        assert_eq!(error, "--exclude: expected TABLE:KEY, such as partners:4011, found \"partners\"");
    }
}
