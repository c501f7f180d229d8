//! What an undo file is about.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    db::{Db, Dialect},
    snapshot::{format::manifest::is_same_name, restore::relations::Relations},
};

/// The version of the format.
pub(super) const VERSION: u32 = 1;

/// What the file is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of the format.
    pub daymend_undo: u32,
    /// The snapshot whose rows were restored.
    pub snapshot: String,
    /// The database that they were put into. Older files do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<Database>,
    /// What the restore went by besides foreign keys and jobs/: an undo does as well.
    #[serde(default, skip_serializing_if = "Relations::is_empty")]
    pub relations: Relations,
    /// By table, the columns of the rows that follow, and the places of the key's.
    pub tables: Tables,
}

/// By table, the columns of its rows, and the places of the key's.
pub type Tables = BTreeMap<String, (Vec<String>, Vec<usize>)>;

impl Header {
    /// What a file is about that is begun now.
    #[must_use]
    pub fn new(snapshot: &str, db: &Db, tables: Tables) -> Self {
        let database = Some(Database::of(db));
        let relations = Relations::default();
        Self { daymend_undo: VERSION, snapshot: snapshot.to_owned(), database, relations, tables }
    }

    /// Whether whoever goes by this file goes by all that is given.
    #[must_use]
    pub fn knows(&self, given: &Relations) -> bool {
        let mut both = self.relations.clone();
        both.extend(given.clone());
        both == self.relations
    }

    /// Whether what the other says is not known to be of another database.
    pub(super) fn may_be_of(&self, other: &Self) -> bool {
        self.database.iter().zip(&other.database).all(|(one, other)| one.is_same(other))
    }
}

/// A database, as far as one is told from another: by its name, as the manifest of a snapshot does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Whether it is a file of SQLite's.
    pub(super) sqlite: bool,
    /// Its name; of SQLite's, the file.
    pub name: String,
}

impl Database {
    /// That one.
    #[must_use]
    pub fn of(db: &Db) -> Self {
        Self { sqlite: db.dialect() == Dialect::Sqlite, name: db.name() }
    }

    /// Whether the other has its name.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let dialect = if self.sqlite { Dialect::Sqlite } else { Dialect::MySql };
        self.sqlite == other.sqlite && is_same_name(dialect, &self.name, &other.name)
    }
}
