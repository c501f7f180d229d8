//! Snapshots: taking consistent copies of tables, and reading them back.
//!
//! A snapshot is two objects in a [`Store`]: `NAME.sqlite.zst`, a SQLite database that any tool can open, and
//! `NAME.json`, its [`Manifest`], which is written last: without it there is no snapshot, whatever else a crash has
//! left behind.
//!
//! - [`schema`]: how a database describes its tables.
//! - [`mod@format`]: values, rows and their hash; writing and reading the file.
//! - [`store`]: a directory or an S3-compatible bucket.
//! - [`side`], [`shape`], [`cells`]: one way to read both snapshots and the live database.
//! - [`diff`], [`restore`]: what differs between them, and restoring rows that have vanished.
//! - [`take()`], [`verify`], [`retention`]: taking, verifying and pruning snapshots.

pub mod cells;
mod create_sql;
pub mod diff;
pub mod format;
pub mod restore;
pub mod retention;
pub mod schema;
mod scratch;
pub mod shape;
pub mod side;
pub mod store;
pub mod take;
pub mod verify;

use crate::{
    db::DbError,
    error::{chain, usage},
};

pub use format::{
    manifest::{Manifest, Name, TableCopy},
    open::{Opened, open},
    value::{Decoder, Value},
};
pub use store::Store;
pub use take::{Progress, take};

impl SnapshotError {
    /// The error for a store that failed to do `what`.
    pub(crate) fn store(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Store { what: what.into(), source: source.into() }
    }

    pub(crate) fn damaged(name: Name, what: impl Into<String>) -> Self {
        Self::Damaged { name: name.to_string(), what: what.into() }
    }
}

/// What a user who may not read the tables to copy has to do.
pub(crate) const READER: &str =
    "give the --snapshot-database-url of the user daymend_snapshot of deploy/mysql/grants.sql";

/// The error, with `advice` if it is that this user may not read the tables.
pub(crate) fn advised(error: SnapshotError, advice: &str) -> anyhow::Error {
    match error {
        SnapshotError::Hidden { .. } => usage(format!("{}: {advice}", chain(&error))),
        SnapshotError::Database(error) if error.is_denied() => {
            anyhow::Error::from(error).context(format!("SELECT on the whole table is needed: {advice}"))
        }
        SnapshotError::Database(error) => error.into(),
        error => error.into(),
    }
}

/// The database error among an error's causes, snapshots' errors included, if there is one.
#[must_use]
pub(crate) fn database_error(error: &anyhow::Error) -> Option<&DbError> {
    error.chain().find_map(|cause| {
        cause.downcast_ref::<DbError>().or_else(|| match cause.downcast_ref::<SnapshotError>() {
            Some(SnapshotError::Database(error)) => Some(error),
            _ => None,
        })
    })
}

/// Why an operation on a snapshot failed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The database did not answer, or rejected a statement.
    #[error(transparent)]
    Database(#[from] DbError),
    /// There is no such table, or this user may not see it.
    #[error("table {0} does not exist, or this user has no right on it")]
    NoTable(String),
    /// The user may not read all columns.
    #[error("column {column} of table {table} cannot be read: SELECT on the whole table is needed")]
    Hidden {
        /// The table.
        table: String,
        /// The column that the user may not read.
        column: String,
    },
    /// A table that cannot be copied faithfully.
    #[error("table {table} cannot be copied: {why}")]
    NotCopyable {
        /// The table.
        table: String,
        /// Why not.
        why: String,
    },
    /// The table was altered while it was being copied.
    #[error("table {0} was altered while it was copied")]
    Altered(String),
    /// There is no such snapshot.
    #[error("snapshot {0} does not exist (see `daymend snapshot list`)")]
    NoSnapshot(String),
    /// The snapshot already exists.
    #[error("snapshot {0} exists already")]
    Exists(String),
    /// The stored data is not what was written.
    #[error("snapshot {name} is damaged: {what}")]
    Damaged {
        /// The snapshot.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// The store failed.
    #[error("{what}")]
    Store {
        /// What it was asked to do.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The SQLite file could not be written or read.
    #[error("cannot read or write the snapshot's SQLite file")]
    File(#[from] rusqlite::Error),
    /// The store's location cannot be parsed.
    #[error("{0}")]
    Target(String),
}
