//! The manifest, which describes a snapshot.

use std::{fmt, path::Path, str::FromStr};

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use sha2::{Digest as _, Sha256};

use crate::{
    db::{Db, Dialect},
    snapshot::{SnapshotError, schema::Table},
};

/// The version of the format that this binary writes; it reads this and all earlier versions.
///
/// Version 1 also stored the CHECKs of each table separately from its `CREATE TABLE`; nothing ever read them.
pub const FORMAT: u32 = 2;

/// The format of a name: names that are sorted as text are sorted by time.
const NAME: &str = "%Y-%m-%dT%H%M%SZ";

/// How far two clocks may be apart that both count as right.
const SLACK: TimeDelta = TimeDelta::minutes(5);

/// The name of a snapshot: the UTC second at which it was taken, such as `2026-11-21T040000Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(DateTime<Utc>);

impl Name {
    /// The name of a snapshot taken at that moment.
    #[must_use]
    pub fn at(time: DateTime<Utc>) -> Self {
        use chrono::SubsecRound as _;
        Self(time.trunc_subsecs(0))
    }

    /// The moment in the name.
    #[must_use]
    pub fn time(self) -> DateTime<Utc> {
        self.0
    }

    /// Whether the moment in the name is still to come: the clock of its taker was ahead, or this one is behind.
    #[must_use]
    pub fn is_ahead(self, now: DateTime<Utc>) -> bool {
        self.0 > now + SLACK
    }

    /// The object that holds the rows.
    #[must_use]
    pub fn data(self) -> String {
        format!("{self}{DATA}")
    }

    /// The object whose presence says that the snapshot is complete.
    #[must_use]
    pub fn manifest(self) -> String {
        format!("{self}{MANIFEST}")
    }
}

/// The suffixes of the two objects' names.
pub(crate) const DATA: &str = ".sqlite.zst";
pub(crate) const MANIFEST: &str = ".json";

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.format(NAME).fmt(f)
    }
}

impl FromStr for Name {
    type Err = SnapshotError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time = NaiveDateTime::parse_from_str(text, NAME).map(|time| Self(time.and_utc())).ok();
        time.filter(|name| name.to_string() == text).ok_or_else(|| SnapshotError::NoSnapshot(text.to_owned()))
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The description of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the format.
    pub format: u32,
    /// The snapshot's name.
    pub name: Name,
    /// The version of the daymend that took it.
    pub daymend: String,
    /// The moment whose rows it contains.
    pub taken_at: DateTime<Utc>,
    /// How long it took to copy, in milliseconds.
    pub took_ms: u64,
    /// What it is a copy of.
    pub server: Server,
    /// Its tables, in the order of their names.
    pub tables: Vec<TableCopy>,
    /// How many bytes the compressed file has.
    pub size: u64,
    /// How many bytes the SQLite file has.
    pub sqlite_size: u64,
    /// The SHA-256 of the compressed file.
    pub sha256: String,
    /// The SHA-256 of the manifest as JSON without white space, with this field empty.
    pub checksum: String,
}

/// The database that was copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// `mysql`, `mariadb` or `sqlite`.
    pub kind: String,
    /// Its version, as it reports it.
    pub version: String,
    /// The name of the database; for SQLite, its file.
    pub database: String,
}

/// A table of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableCopy {
    /// Its schema.
    #[serde(flatten)]
    pub table: Table,
    /// How many rows it has.
    pub rows: u64,
    /// The SHA-256 of its rows in key order (see [`super::row`]).
    pub sha256: String,
    /// The columns that identify its rows, and sort them.
    pub key: Vec<String>,
}

impl Server {
    /// Whether the database has the name of the one that was copied.
    #[must_use]
    pub fn is_of(&self, db: &Db) -> bool {
        let dialect = if self.kind == "sqlite" { Dialect::Sqlite } else { Dialect::MySql };
        dialect == db.dialect() && is_same_name(dialect, &self.database, &db.name())
    }
}

/// Whether two names are of the same database. A SQLite file may have been moved to another directory: only its file
/// name is compared.
#[must_use]
pub fn is_same_name(dialect: Dialect, one: &str, other: &str) -> bool {
    match dialect {
        Dialect::Sqlite => Path::new(one).file_name() == Path::new(other).file_name(),
        Dialect::MySql => one == other,
    }
}

impl Manifest {
    /// The SHA-256 of the whole manifest, except the checksum itself.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn checksum(&self) -> Result<String, SnapshotError> {
        let document = serde_json::to_vec(self).map_err(|error| SnapshotError::store("write the manifest", error))?;
        Ok(Self::checksum_of(&document, &self.checksum))
    }

    /// The checksum of a document as received. It also covers what this binary does not know, or no longer knows.
    fn checksum_of(document: &[u8], checksum: &str) -> String {
        let said = without_white_space(document);
        let own = format!("\"checksum\":\"{checksum}\"");
        // Inside a string, each of these quotes would follow a backslash.
        let Some(at) = said.windows(own.len()).rposition(|part| part == own.as_bytes()) else { return String::new() };
        let mut hash = Sha256::new();
        hash.update(&said[..at]);
        hash.update("\"checksum\":\"\"");
        hash.update(&said[at + own.len()..]);
        hex::encode(hash.finalize())
    }

    /// Parses a manifest.
    ///
    /// # Errors
    /// If it is damaged, belongs to another snapshot, or has a format that this binary does not know.
    pub fn parse(name: Name, bytes: &[u8]) -> Result<Self, SnapshotError> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let unreadable =
            |error: serde_json::Error| SnapshotError::damaged(name, format!("its manifest cannot be read: {error}"));
        let version: Version = serde_json::from_slice(bytes).map_err(unreadable)?;
        if version.format > FORMAT {
            return Err(SnapshotError::damaged(
                name,
                format!("format {} is newer than this daymend, which reads up to {FORMAT}", version.format),
            ));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(unreadable)?;
        if manifest.name != name {
            return Err(SnapshotError::damaged(name, format!("its manifest is that of {}", manifest.name)));
        }
        if manifest.checksum != Self::checksum_of(bytes, &manifest.checksum) {
            return Err(SnapshotError::damaged(name, "its manifest does not match its own checksum"));
        }
        Ok(manifest)
    }

    /// The table with this name.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<&TableCopy> {
        self.tables.iter().find(|copy| copy.table.name == name)
    }

    /// The number of rows in all tables.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|copy| copy.rows).sum()
    }
}

/// JSON without the white space between its tokens.
fn without_white_space(json: &[u8]) -> Vec<u8> {
    let (mut in_text, mut is_escaped) = (false, false);
    let is_said = |byte: &u8| {
        let is_quote = *byte == b'"' && !is_escaped;
        is_escaped = in_text && *byte == b'\\' && !is_escaped;
        in_text ^= is_quote;
        in_text || !byte.is_ascii_whitespace()
    };
    json.iter().copied().filter(is_said).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manifest as it was written when format 1 was the latest.
    fn format_1() -> String {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/snapshot-format-1/2026-11-21T040000Z.json");
        std::fs::read_to_string(file).unwrap()
    }

    fn parse(text: &str) -> Result<Manifest, String> {
        Manifest::parse("2026-11-21T040000Z".parse().unwrap(), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_said_beside_what_is_known_counts_as_well() {
        assert_eq!(parse(&format_1()).unwrap().format, 1);
        let gone = format_1().replace("(price >= 0)\"\n", "(price >= 1)\"\n");
        assert!(gone != format_1() && parse(&gone).unwrap_err().contains("does not match its own checksum"));
        // Fields that later versions may add.
        let before = parse(&format_1()).unwrap().checksum;
        let more = format_1().replace("\"took_ms\"", "\"mood\": \"\\\\ \\\" {\",\n\"took_ms\"");
        assert!(parse(&more).unwrap_err().contains("does not match its own checksum"));
        let more = more.replace(&before, &Manifest::checksum_of(more.as_bytes(), &before));
        assert_eq!(parse(&more).unwrap().rows(), 4);
        // The layout does not matter, and a field that has a default may be left out.
        let flat = String::from_utf8(without_white_space(format_1().as_bytes())).unwrap();
        assert!(!flat.contains('\n') && flat.contains("NOT NULL REFERENCES"));
        assert_eq!(parse(&flat).unwrap(), parse(&format_1()).unwrap());
        let less = flat.replace(",\"generated\":false", "");
        let less = less.replace(&before, &Manifest::checksum_of(less.as_bytes(), &before));
        assert_eq!(parse(&less).unwrap().tables, parse(&format_1()).unwrap().tables);
    }

    #[test]
    fn a_later_format_is_named() {
        let later = format_1().replace("\"format\": 1", "\"format\": 3");
        assert!(parse(&later).unwrap_err().contains("format 3 is newer than this daymend, which reads up to 2"));
    }
}
