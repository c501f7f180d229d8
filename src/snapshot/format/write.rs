//! Writing a snapshot's SQLite file, in a thread of its own.
//!
//! Rows arrive in batches, encoded as in [`super::row`]. Each table is stored by its key only, so that rows can be
//! looked up by it and read in its order. Nothing is synced here: the file is packed afterwards, and after a crash
//! before that the copy starts over.

use std::{io, path::Path};

use rusqlite::{
    Connection, OpenFlags, ToSql, ffi, params,
    types::{ToSqlOutput, ValueRef},
};
use tokio::sync::mpsc;

use super::{
    TABLES,
    manifest::TableCopy,
    row::{self, Hasher},
};
use crate::{
    db::Dialect,
    snapshot::{
        SnapshotError,
        schema::{Column, Table, quote, quote_all},
    },
};

/// Sets the size of a page and of the cache (8 MiB), and turns off the protection against crashes: the file is not kept
/// if writing fails.
const PRAGMAS: &str = "PRAGMA page_size = 16384; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
     PRAGMA locking_mode = EXCLUSIVE; PRAGMA cache_size = -8192; PRAGMA temp_store = FILE; BEGIN";

/// A message to the writer.
pub(crate) enum Message {
    /// The rows that follow belong to this table, with this key, from a database of this kind.
    Table(Box<Table>, Vec<String>, Dialect),
    /// Complete rows.
    Rows(Vec<u8>),
}

/// Writes what arrives until all senders are gone; returns the tables, with their hashes.
pub(crate) fn write(path: &Path, mut messages: mpsc::Receiver<Message>) -> Result<Vec<TableCopy>, SnapshotError> {
    // Only one thread uses it: SQLite need not lock for each value.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.execute_batch(PRAGMAS)?;
    connection
        .execute_batch(&format!("CREATE TABLE {TABLES} (name TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID"))?;
    let mut copies = Vec::new();
    let mut next = messages.blocking_recv();
    while let Some(Message::Table(table, key, dialect)) = next {
        let mut writer = Writer::new(&connection, *table, key, dialect)?;
        next = loop {
            match messages.blocking_recv() {
                Some(Message::Rows(rows)) => writer.rows(&rows)?,
                other => break other,
            }
        };
        let copy = writer.finish()?;
        let json = serde_json::to_string(&copy).map_err(|error| SnapshotError::store("describe a table", error))?;
        connection.execute(&format!("INSERT INTO {TABLES} VALUES (?, ?)"), params![copy.table.name, json])?;
        copies.push(copy);
    }
    connection.execute_batch("COMMIT")?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(copies)
}

/// The statement that creates a table in the snapshot.
fn create(table: &Table, key: &[String], dialect: Dialect) -> String {
    let names = || table.columns.iter().map(|column| column.name.as_str());
    // A key that is a single whole number becomes the rowid, the smallest key that SQLite has. One that may be too
    // large is stored as text, which a rowid does not accept. The columns of a SQLite database may hold anything, even
    // if declared as numbers.
    let id = match key {
        [only] if dialect == Dialect::MySql => {
            table.columns.iter().find(|column| column.name == *only).filter(|column| is_id(column))
        }
        _ => None,
    };
    let sqlite = |name: &str| quote(Dialect::Sqlite, name);
    let columns: Vec<String> = names()
        .map(|name| match id {
            Some(id) if id.name == name => format!("{} INTEGER PRIMARY KEY", sqlite(name)),
            _ => sqlite(name),
        })
        .collect();
    let columns = columns.join(", ");
    match id {
        Some(_) => format!("CREATE TABLE {} ({columns})", sqlite(&table.name)),
        None => format!(
            "CREATE TABLE {} ({columns}, PRIMARY KEY ({})) WITHOUT ROWID",
            sqlite(&table.name),
            quote_all(Dialect::Sqlite, key.iter().map(String::as_str))
        ),
    }
}

/// Whether every value of a MySQL column is a whole number that fits SQLite's integers.
fn is_id(column: &Column) -> bool {
    column.is_whole() && !(column.type_word() == "bigint" && column.is_unsigned())
}

/// A SELECT of all columns of a table, in key order.
pub(crate) fn select(table: &Table, key: &[String]) -> String {
    let names = table.columns.iter().map(|column| column.name.as_str());
    format!(
        "SELECT {} FROM {} ORDER BY {}",
        quote_all(Dialect::Sqlite, names),
        quote(Dialect::Sqlite, &table.name),
        quote_all(Dialect::Sqlite, key.iter().map(String::as_str))
    )
}

/// Hashes a table as stored in the file, row by row; returns the number of rows and their hash.
pub(crate) fn hash(
    connection: &Connection,
    table: &Table,
    key: &[String],
    mut each: impl FnMut(u64),
) -> Result<(u64, String), rusqlite::Error> {
    let mut statement = connection.prepare(&select(table, key))?;
    let mut hasher = Hasher::default();
    let mut bytes = Vec::new();
    let mut count = 0;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        bytes.clear();
        for index in 0..table.columns.len() {
            row::put(&mut bytes, row.get_ref(index)?);
        }
        hasher.rows(&bytes);
        count += 1;
        if count % 10_000 == 0 {
            each(count);
        }
    }
    Ok((count, hasher.finish()))
}

/// Binds a borrowed value.
struct Bound<'a>(ValueRef<'a>);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.0))
    }
}

struct Writer<'c> {
    connection: &'c Connection,
    statement: rusqlite::Statement<'c>,
    table: Table,
    key: Vec<String>,
    /// The positions of the key's columns.
    key_at: Vec<usize>,
    rows: u64,
    hasher: Hasher,
    /// Whether the rows have arrived in SQLite's order so far; the database sorts text by its own rules.
    is_sorted: bool,
    /// The key of the previous row.
    before: Vec<u8>,
}

impl<'c> Writer<'c> {
    fn new(
        connection: &'c Connection,
        table: Table,
        key: Vec<String>,
        dialect: Dialect,
    ) -> Result<Self, SnapshotError> {
        connection.execute_batch(&create(&table, &key, dialect))?;
        let places = crate::db::repeat("?", table.columns.len());
        let insert = format!("INSERT INTO {} VALUES ({places})", quote(Dialect::Sqlite, &table.name));
        Ok(Self {
            connection,
            statement: connection.prepare(&insert)?,
            key_at: key.iter().filter_map(|name| table.position(name)).collect(),
            table,
            key,
            rows: 0,
            hasher: Hasher::default(),
            is_sorted: true,
            before: Vec::new(),
        })
    }

    fn rows(&mut self, mut bytes: &[u8]) -> Result<(), SnapshotError> {
        if self.is_sorted {
            self.hasher.rows(bytes);
        }
        let mut values = vec![ValueRef::Null; self.table.columns.len()];
        while !bytes.is_empty() {
            for (index, value) in values.iter_mut().enumerate() {
                *value = row::take(&mut bytes).ok_or_else(|| self.is_cut_off())?;
                self.statement.raw_bind_parameter(index + 1, Bound(*value))?;
            }
            self.statement.raw_execute().map_err(|error| self.refused(error))?;
            self.rows += 1;
            if self.is_sorted {
                self.is_sorted = self.is_behind(&values);
            }
        }
        Ok(())
    }

    /// Whether the row sorts after the previous one, whose place it takes.
    fn is_behind(&mut self, values: &[ValueRef<'_>]) -> bool {
        let mut before = self.before.as_slice();
        let order = self.key_at.iter().map(|at| row::take(&mut before).map(|key| row::compare(key, values[*at])));
        let is_behind = order.flatten().find(|order| order.is_ne()).is_none_or(std::cmp::Ordering::is_lt);
        self.before.clear();
        self.key_at.iter().for_each(|at| row::put(&mut self.before, values[*at]));
        is_behind
    }

    fn is_cut_off(&self) -> SnapshotError {
        let why = format!("a row of {} has arrived cut off", self.table.name);
        SnapshotError::store("write", io::Error::new(io::ErrorKind::UnexpectedEof, why))
    }

    fn refused(&self, error: rusqlite::Error) -> SnapshotError {
        let extended = error.sqlite_error().map(|error| error.extended_code);
        let is_constraint = error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation);
        let why = if extended == Some(ffi::SQLITE_CONSTRAINT_NOTNULL) {
            let key = self.key.join(", ");
            format!("its key, {key}, is NULL in some rows (give them one, or name the other tables with --table)")
        } else if is_constraint && self.table.primary_key.is_empty() {
            "it has no primary key, and some of its rows are identical".to_owned()
        } else {
            return error.into();
        };
        SnapshotError::NotCopyable { table: self.table.name.clone(), why }
    }

    fn finish(self) -> Result<TableCopy, SnapshotError> {
        drop(self.statement);
        let sha256 = if self.is_sorted {
            self.hasher.finish()
        } else {
            hash(self.connection, &self.table, &self.key, |_| ())?.1
        };
        Ok(TableCopy { table: self.table, rows: self.rows, sha256, key: self.key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_cut_off_is_not_written() {
        let column =
            |name: &str| Column { name: name.to_owned(), sql_type: "int".to_owned(), nullable: true, generated: false };
        let table = Table {
            name: "t".to_owned(),
            columns: vec![column("id"), column("v")],
            primary_key: vec!["id".to_owned()],
            unique_keys: Vec::new(),
            foreign_keys: Vec::new(),
            create_sql: String::new(),
        };
        let mut rows = Vec::new();
        (1..=2).for_each(|id| {
            row::put_int(&mut rows, id);
            row::put_text(&mut rows, b"words");
        });
        for (length, is_whole) in [(rows.len(), true), (rows.len() - 1, false), (rows.len() - 10, false)] {
            let dir = tempfile::tempdir().unwrap();
            let (sender, receiver) = mpsc::channel(2);
            let begin = Message::Table(Box::new(table.clone()), table.primary_key.clone(), Dialect::MySql);
            sender.try_send(begin).ok().unwrap();
            sender.try_send(Message::Rows(rows[..length].to_vec())).ok().unwrap();
            drop(sender);
            let written = write(&dir.path().join("file"), receiver);
            assert_eq!(written.is_ok(), is_whole, "{length}: {written:?}");
        }
    }
}
