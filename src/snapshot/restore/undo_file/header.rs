//! The header of an undo file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    db::{Db, Dialect},
    snapshot::{format::manifest::is_same_name, restore::relations::Relations},
};

/// The version of the format.
pub(super) const VERSION: u32 = 1;

/// The header of an undo file: which restore it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of the format.
    pub daymend_undo: u32,
    /// The snapshot whose rows were restored.
    pub snapshot: String,
    /// The database that they were inserted into. Older files lack this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<Database>,
    /// The relations that the restore used besides foreign keys and jobs/; an undo uses them too.
    #[serde(default, skip_serializing_if = "Relations::is_empty")]
    pub relations: Relations,
    /// By table, the columns of the rows that follow, and the positions of the key's columns.
    pub tables: Tables,
}

/// By table, the columns of its rows, and the positions of the key's columns.
pub type Tables = BTreeMap<String, (Vec<String>, Vec<usize>)>;

impl Header {
    /// The header of a new file.
    #[must_use]
    pub fn new(snapshot: &str, db: &Db, tables: Tables) -> Self {
        let database = Some(Database::of(db));
        let relations = Relations::default();
        Self { daymend_undo: VERSION, snapshot: snapshot.to_owned(), database, relations, tables }
    }

    /// Whether the file's relations already include all of `given`.
    #[must_use]
    pub fn knows(&self, given: &Relations) -> bool {
        let mut both = self.relations.clone();
        both.extend(given.clone());
        both == self.relations
    }

    /// Whether both headers may be of the same database, as far as is known.
    pub(super) fn may_be_of(&self, other: &Self) -> bool {
        self.database.iter().zip(&other.database).all(|(one, other)| one.is_same(other))
    }
}

/// A database, identified by its name, as in a snapshot's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Whether it is a SQLite file.
    pub(super) sqlite: bool,
    /// Its name; for SQLite, the file.
    pub name: String,
}

impl Database {
    /// The identity of `db`.
    #[must_use]
    pub fn of(db: &Db) -> Self {
        Self { sqlite: db.dialect() == Dialect::Sqlite, name: db.name() }
    }

    /// Whether the other one has the same name.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let dialect = if self.sqlite { Dialect::Sqlite } else { Dialect::MySql };
        self.sqlite == other.sqlite && is_same_name(dialect, &self.name, &other.name)
    }
}
