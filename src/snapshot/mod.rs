//! Snapshots: consistent copies of tables, and reading them back.
//!
//! A snapshot is two objects of a [`Store`]: `NAME.sqlite.zst`, a SQLite database that any tool
//! opens, and `NAME.json`, its [`Manifest`], which is written last: without it there is no
//! snapshot, whatever else a crash has left behind.
//!
//! - [`schema`]: what a database says of its tables.
//! - [`mod@format`]: values, rows and their hash; writing and reading the file.
//! - [`store`]: a directory or an S3-compatible bucket.
//! - [`side`], [`cells`]: a snapshot and the live database, read in the same way.
//! - [`diff`], [`restore`]: what differs between them, and putting back what has vanished.
//! - [`take()`], [`verify`], [`retention`]: making them, checking them, letting go of old ones.

pub mod cells;
mod create_sql;
pub mod diff;
pub mod format;
pub mod restore;
pub mod retention;
pub mod schema;
mod scratch;
pub mod side;
pub mod store;
pub mod take;
pub mod verify;

use crate::db::DbError;

pub use format::{
    manifest::{Manifest, Name, TableCopy},
    open::{Opened, open},
    value::{Decoder, Value},
};
pub use store::Store;
pub use take::{Progress, take};

impl SnapshotError {
    /// The place of snapshots failed to do `what`.
    pub(crate) fn store(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Store { what: what.into(), source: source.into() }
    }

    pub(crate) fn damaged(name: Name, what: impl Into<String>) -> Self {
        Self::Damaged { name: name.to_string(), what: what.into() }
    }
}

/// Why something could not be done with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The database did not answer, or refused.
    #[error(transparent)]
    Database(#[from] DbError),
    /// There is no such table, or the database keeps it from this user.
    #[error("table {0} does not exist, or this user has no right on it")]
    NoTable(String),
    /// The user may not read all columns.
    #[error("column {column} of table {table} cannot be read: SELECT on the whole table is needed")]
    Hidden {
        /// The table.
        table: String,
        /// The column that was kept from the user.
        column: String,
    },
    /// A table that no faithful copy can be made of.
    #[error("table {table} cannot be copied: {why}")]
    NotCopyable {
        /// The table.
        table: String,
        /// Why not.
        why: String,
    },
    /// The table was altered while it was copied.
    #[error("table {0} was altered while it was copied")]
    Altered(String),
    /// There is no such snapshot.
    #[error("snapshot {0} does not exist (see `daymend snapshot list`)")]
    NoSnapshot(String),
    /// There is one already.
    #[error("snapshot {0} exists already")]
    Exists(String),
    /// What is stored is not what was written.
    #[error("snapshot {name} is damaged: {what}")]
    Damaged {
        /// The snapshot.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// The place of snapshots did not do what it was asked.
    #[error("{what}")]
    Store {
        /// What was asked.
        what: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The SQLite file could not be written or read.
    #[error("the snapshot's SQLite file")]
    File(#[from] rusqlite::Error),
    /// The place of snapshots cannot be understood.
    #[error("{0}")]
    Target(String),
}
