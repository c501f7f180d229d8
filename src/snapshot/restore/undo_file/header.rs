//! The header of an undo file.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    db::{Db, DbError, Dialect},
    snapshot::{format::manifest::is_same_name, restore::relations::Relations},
    statement,
};

// Databases on two servers often have the same name, as in a rehearsal. MariaDB has no id of a server.
statement!(
    SERVER,
    "undo file server",
    mysql only: "SELECT /*M! CONCAT(@@hostname, ':', @@port, ' ', @@datadir) */ /*!80000 @@server_uuid */"
);

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
    /// Whether a file of a database of the same name on another server may be continued: somebody says that it has moved.
    #[serde(skip)]
    pub may_have_moved: bool,
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
    pub async fn new(snapshot: &str, db: &Db, tables: Tables) -> Result<Self, DbError> {
        let database = Some(Database::of(db).await?);
        let relations = Relations::default();
        Ok(Self {
            daymend_undo: VERSION,
            snapshot: snapshot.to_owned(),
            database,
            may_have_moved: false,
            relations,
            tables,
        })
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
        let may_be =
            |(one, live): (&Database, &Database)| one.is_same(live) || other.may_have_moved && one.has_same_name(live);
        self.database.iter().zip(&other.database).all(may_be)
    }
}

/// A database, identified by its name and by where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Whether it is a SQLite file.
    pub(super) sqlite: bool,
    /// Its name; for SQLite, the file.
    pub name: String,
    /// Its server. Older files lack this, and SQLite has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) server: Option<String>,
}

impl Database {
    /// The identity of `db`.
    pub async fn of(db: &Db) -> Result<Self, DbError> {
        let (name, sqlite) = (db.name(), db.dialect() == Dialect::Sqlite);
        if sqlite {
            let absolute = std::path::absolute(&name).map_or(name, |path| path.display().to_string());
            return Ok(Self { sqlite, name: absolute, server: None });
        }
        let server = db.fetch_one(&SERVER, vec![], |row| row.text(0)).await?;
        Ok(Self { sqlite, name, server: Some(server) })
    }

    /// Whether the other one is the same, as far as is known. A SQLite file may have been moved to another directory; a
    /// copy beside the original is another database.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.has_same_name(other)
            && self.server.iter().zip(&other.server).all(|(one, other)| one == other)
            && !(self.sqlite && are_two_files(&self.name, &other.name))
    }

    fn has_same_name(&self, other: &Self) -> bool {
        let dialect = if self.sqlite { Dialect::Sqlite } else { Dialect::MySql };
        self.sqlite == other.sqlite && is_same_name(dialect, &self.name, &other.name)
    }

    /// How to name it where both are named: with its server, if they differ by nothing else.
    #[must_use]
    pub fn named_beside(&self, other: &Self) -> String {
        match &self.server {
            Some(server) if self.has_same_name(other) => format!("{} on server {server}", self.name),
            _ => self.name.clone(),
        }
    }
}

/// Whether both files exist, and are not the same one. Older undo files may have a relative path, which says nothing.
fn are_two_files(one: &str, other: &str) -> bool {
    let real = |path| fs::canonicalize(path).ok().filter(|_| Path::new(path).is_absolute());
    real(one).zip(real(other)).is_some_and(|(one, other)| one != other)
}
