//! daymend's own tables: creating them, and checking that they are up to date.
//!
//! The files of `migrations/` are compiled in, one per version. Each statement in them is idempotent, because DDL is
//! not transactional in MySQL: a migration that was interrupted is simply run again, and two at once do no harm. A
//! statement that has to wait for a transaction gives up after several short waits, so that no heartbeat queues behind
//! it for long. Only tables whose name begins with `daymend_` are ever altered; the lab system's three output tables are
//! created if they do not exist, whatever the version.

use std::collections::BTreeSet;

use super::{Db, DbError, Dialect, Mode, Query, code, ddl};
use crate::{args, statement};

/// One version of the schema.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Its number; versions start at 1 and have no gaps.
    pub version: u32,
    /// What it is about.
    pub name: &'static str,
    mysql: &'static str,
    sqlite: &'static str,
}

impl Migration {
    fn text(&self, dialect: Dialect) -> &'static str {
        match dialect {
            Dialect::MySql => self.mysql,
            Dialect::Sqlite => self.sqlite,
        }
    }
}

macro_rules! migration {
    ($version:literal, $name:literal, $file:literal) => {
        Migration {
            version: $version,
            name: $name,
            mysql: include_str!(concat!("../../migrations/mysql/", $file)),
            sqlite: include_str!(concat!("../../migrations/sqlite/", $file)),
        }
    };
}

/// MySQL's error number for a column that exists already.
const DUPLICATE_COLUMN: u32 = 1060;

/// Every version, oldest first.
pub const MIGRATIONS: &[Migration] = &[
    migration!(1, "queue", "0001_queue.sql"),
    migration!(2, "admin", "0002_admin.sql"),
    migration!(3, "audits", "0003_audits.sql"),
    migration!(4, "dirty", "0004_dirty.sql"),
    migration!(5, "limits", "0005_limits.sql"),
    migration!(6, "snapshots", "0006_snapshots.sql"),
];

/// Why the schema does not fit this binary.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The schema is missing, or older than this binary expects.
    #[error("the database has daymend schema version {found}, this binary needs {wanted}: run `daymend migrate`")]
    Behind {
        /// The version in the database; 0 if there is none.
        found: u32,
        /// The version of this binary.
        wanted: u32,
    },
    /// The schema was migrated by a newer binary.
    #[error("the database has daymend schema version {found}, newer than this binary's {wanted}: use a newer daymend")]
    Ahead {
        /// The version in the database.
        found: u32,
        /// The version of this binary.
        wanted: u32,
    },
    /// The database did not answer.
    #[error("cannot read the schema version")]
    Database(#[from] DbError),
}

/// Tables of versions that have been applied are missing.
#[derive(Debug, thiserror::Error)]
#[error("the database has daymend schema version {found}, but no {}, or this user has no right on it: {REDO}", tables.join(", "))]
pub struct Incomplete {
    /// The version in the database.
    pub found: u32,
    /// The tables.
    pub tables: Vec<&'static str>,
}

/// What to do where a table is missing whose version has been applied.
pub const REDO: &str =
    "every migration may be run again: DELETE FROM daymend_schema WHERE version >= 1; then daymend migrate";

statement!(
    SCHEMA_TABLE,
    "schema table",
    mysql: "SELECT COUNT(*) FROM information_schema.tables
         WHERE table_schema = DATABASE() AND table_name = 'daymend_schema'",
    sqlite: "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'daymend_schema'"
);

statement!(
    TABLES,
    "tables",
    mysql: "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()",
    sqlite: "SELECT name FROM sqlite_master WHERE type = 'table'"
);

statement!(SCHEMA_VERSION, "schema version", "SELECT COALESCE(MAX(version), 0) FROM daymend_schema");

statement!(
    Migrate: SCHEMA_RECORD,
    "schema record",
    "{insert_ignore} INTO daymend_schema (version, name, applied_at) VALUES (?, ?, {now})"
);

const SCHEMA_CREATE: &str = "CREATE TABLE IF NOT EXISTS daymend_schema (
    version    INT         NOT NULL PRIMARY KEY,
    name       VARCHAR(64) NOT NULL,
    applied_at DATETIME(6) NOT NULL
)";

/// The version this binary works with.
#[must_use]
pub fn wanted() -> u32 {
    MIGRATIONS.last().map_or(0, |last| last.version)
}

/// The version in the database; 0 if daymend has no tables yet.
pub async fn version(db: &Db) -> Result<u32, DbError> {
    // Not in one transaction: InnoDB refuses to read a table that is newer than the read view (1412), and somebody else
    // may be creating this one.
    if !db.fetch_one(&SCHEMA_TABLE, args![], |row| row.flag(0)).await? {
        return Ok(0);
    }
    let version = db.fetch_one(&SCHEMA_VERSION, args![], |row| row.int(0)).await?;
    Ok(u32::try_from(version).unwrap_or(u32::MAX))
}

/// Checks that the schema is the one this binary works with.
pub async fn check(db: &Db) -> Result<(), SchemaError> {
    fits(version(db).await?)
}

/// Like [`check`], for an account that may have no rights on daymend's tables: to it, the server hides that they exist.
pub async fn check_unless_hidden(db: &Db) -> Result<(), SchemaError> {
    match db.fetch_one(&SCHEMA_VERSION, args![], |row| row.int(0)).await {
        Err(error) if error.is_denied() => Ok(()),
        _ => check(db).await,
    }
}

/// Whether a version is the one this binary works with.
pub fn fits(found: u32) -> Result<(), SchemaError> {
    let wanted = wanted();
    match found.cmp(&wanted) {
        std::cmp::Ordering::Less => Err(SchemaError::Behind { found, wanted }),
        std::cmp::Ordering::Greater => Err(SchemaError::Ahead { found, wanted }),
        std::cmp::Ordering::Equal => Ok(()),
    }
}

/// daymend's own tables of all versions up to `found` that do not exist, or that this user may not see.
pub async fn missing_tables(db: &Db, found: u32) -> Result<Vec<&'static str>, DbError> {
    let there = table_names(db).await?;
    let applied = MIGRATIONS.iter().filter(|migration| migration.version <= found);
    Ok(own(applied).filter(|table| !there.contains(*table)).collect())
}

/// The tables that this user may see, in lower case.
async fn table_names(db: &Db) -> Result<BTreeSet<String>, DbError> {
    let names = db.fetch_all(&TABLES, args![], |row| row.text(0).map(|name| name.to_lowercase())).await?;
    Ok(names.into_iter().collect())
}

/// The lab system's output tables that do not exist, or that this user may not see.
pub async fn missing_outputs(db: &Db) -> Result<Vec<&'static str>, DbError> {
    let there = table_names(db).await?;
    Ok(outputs(db.dialect()).map(|(table, _)| table).filter(|table| !there.contains(*table)).collect())
}

/// Creates the lab system's output tables that are missing, even if their version was applied long ago.
async fn create_outputs(db: &Db) -> Result<(), DbError> {
    let missing = missing_outputs(db).await?;
    for (table, sql) in outputs(db.dialect()).filter(|(table, _)| missing.contains(table)) {
        let mut tx = db.begin(Mode::Write).await?;
        tx.execute(Query::new(&format!("create {table}"), sql), args![]).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// Brings the schema up to this binary's version, and creates missing output tables of the lab system; returns the
/// versions that this call applied, without those that another process applied meanwhile.
pub async fn migrate(db: &Db) -> Result<Vec<&'static Migration>, DbError> {
    let found = version(db).await?;
    let mut applied = Vec::new();
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > found) {
        let mut tx = ddl::begin(db).await?;
        ddl::patiently(&mut tx, "create daymend_schema", SCHEMA_CREATE).await?;
        for sql in statements(migration.text(db.dialect())) {
            let name = sql.lines().find(|line| !line.starts_with("--")).unwrap_or("migrate");
            match ddl::patiently(&mut tx, name.trim_end_matches(" ("), sql).await {
                // An interrupted migration has added it already: MySQL has no ADD COLUMN IF NOT EXISTS.
                Err(error) if is_duplicate_column(&error) => {}
                result => result?,
            }
        }
        let recorded = tx.execute(&SCHEMA_RECORD, args![migration.version, migration.name]).await?;
        ddl::end(tx).await?;
        // Somebody else may have recorded it first.
        applied.extend((recorded > 0).then_some(migration));
    }
    create_outputs(db).await?;
    Ok(applied)
}

/// Whether an error says that a column exists already; SQLite has no error code of its own for that.
fn is_duplicate_column(error: &DbError) -> bool {
    match code(&error.source) {
        DUPLICATE_COLUMN => true,
        1 => error.source.to_string().contains("duplicate column name"),
        _ => false,
    }
}

/// daymend's own tables, across all versions.
pub fn tables() -> impl Iterator<Item = &'static str> {
    own(MIGRATIONS)
}

/// Those that these migrations create.
fn own<'a>(migrations: impl IntoIterator<Item = &'a Migration>) -> impl Iterator<Item = &'static str> {
    created(migrations, Dialect::MySql).map(|(table, _)| table).filter(|table| table.starts_with(OWN))
}

/// The lab system's output tables, and the statements that create them.
fn outputs(dialect: Dialect) -> impl Iterator<Item = (&'static str, &'static str)> {
    created(MIGRATIONS, dialect).filter(|(table, _)| !table.starts_with(OWN))
}

/// The prefix of the names of daymend's own tables.
pub const OWN: &str = "daymend_";

/// Every table that these migrations create, with the statement, in their order.
fn created<'a>(
    migrations: impl IntoIterator<Item = &'a Migration>,
    dialect: Dialect,
) -> impl Iterator<Item = (&'static str, &'static str)> {
    let statements = migrations.into_iter().flat_map(move |migration| statements(migration.text(dialect)));
    statements.filter_map(|sql| {
        let (_, rest) = sql.split_once("CREATE TABLE IF NOT EXISTS ")?;
        Some((rest.split([' ', '(']).next()?, sql))
    })
}

/// The statements of a file: each ends with a semicolon at the end of a line.
fn statements(text: &str) -> impl Iterator<Item = &str> {
    text.split(";\n")
        .map(str::trim)
        .filter(|sql| sql.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with("--")))
}
