//! Reading a snapshot back, and verifying all of its hashes.

use serde::Serialize;

use super::{
    Manifest, Name, SnapshotError, Store, TableCopy,
    format::{TABLES, open, write},
};

/// The result of a verification.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The snapshot.
    pub name: Name,
    /// What is wrong with it; empty if it is intact.
    pub problems: Vec<String>,
    /// How many tables were read.
    pub tables: usize,
    /// How many rows were read.
    pub rows: u64,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Reads a whole snapshot and verifies it: the manifest by its checksum, the packed file by its hash, the unpacked
/// file by SQLite's own integrity check, and each table by its hash, row count and description. `progress` is called
/// with the number of rows read.
///
/// # Errors
/// If the snapshot does not exist, or cannot be reached. A damaged snapshot is not an error, but reported as
/// problems.
pub async fn verify(
    store: &Store,
    name: Name,
    progress: impl Fn(u64) + Send + 'static,
) -> Result<Report, SnapshotError> {
    let mut report = Report { name, problems: Vec::new(), tables: 0, rows: 0 };
    let checked = async {
        let manifest = store.manifest(name).await?;
        let (scratch, path) = open::unpack(store, &manifest).await?;
        let read = tokio::task::spawn_blocking(move || {
            let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = rusqlite::Connection::open_with_flags(&path, flags)?;
            let _scratch = scratch;
            check(&connection, &manifest, &progress)
        });
        let read = read
            .await
            .unwrap_or_else(|panic| Err(SnapshotError::store("read the snapshot", std::io::Error::other(panic))));
        read.map_err(|error| match error {
            SnapshotError::File(error) => SnapshotError::damaged(name, format!("its SQLite file: {error}")),
            error => error,
        })
    };
    let checked = checked.await;
    // A snapshot that was removed while it was read lacks parts, but is not damaged: it no longer exists.
    if !matches!(&checked, Ok((_, _, problems)) if problems.is_empty())
        && let Err(gone @ SnapshotError::NoSnapshot(_)) = store.manifest(name).await
    {
        return Err(gone);
    }
    match checked {
        Ok((tables, rows, problems)) => {
            report.tables = tables;
            report.rows = rows;
            report.problems = problems;
        }
        Err(SnapshotError::Damaged { what, .. }) => report.problems.push(what),
        Err(error) => return Err(error),
    }
    Ok(report)
}

type Checked = (usize, u64, Vec<String>);

fn check(
    connection: &rusqlite::Connection,
    manifest: &Manifest,
    progress: &dyn Fn(u64),
) -> Result<Checked, SnapshotError> {
    let mut problems = Vec::new();
    let integrity: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if integrity != "ok" {
        problems.push(format!("SQLite's integrity check reports: {integrity}"));
    }
    let said = descriptions(connection)?;
    let mut rows = 0;
    for copy in &manifest.tables {
        let table = &copy.table.name;
        if said.iter().find(|said| said.table.name == *table) != Some(copy) {
            problems.push(format!("{TABLES} and the manifest describe table {table} differently"));
        }
        match write::hash(connection, &copy.table, &copy.key, |more| progress(rows + more)) {
            Ok((count, sha256)) => {
                rows += count;
                if count != copy.rows {
                    problems.push(format!("table {table} has {count} rows, not {}", copy.rows));
                } else if sha256 != copy.sha256 {
                    problems.push(format!("the rows of table {table} do not match their hash"));
                }
            }
            Err(error) => problems.push(format!("table {table} cannot be read: {error}")),
        }
    }
    if said.len() != manifest.tables.len() {
        problems.push(format!("{TABLES} names {} tables, the manifest {}", said.len(), manifest.tables.len()));
    }
    Ok((manifest.tables.len(), rows, problems))
}

fn descriptions(connection: &rusqlite::Connection) -> Result<Vec<TableCopy>, rusqlite::Error> {
    let mut statement = connection.prepare(&format!("SELECT json FROM {TABLES}"))?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    let texts: Vec<String> = rows.collect::<Result<_, _>>()?;
    Ok(texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect())
}
