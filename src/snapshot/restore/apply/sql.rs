//! The statements of a restore, and the database's errors.

use std::time::{Duration, Instant};

use crate::{
    db::{self, Arg, Backoff, DbError, Dialect, ErrorKind, Mode, Query, Tx},
    snapshot::{
        cells, database_error,
        schema::{quote, quote_all},
        side::{Shape, Side},
    },
};

/// A SQLite table may declare its own conflict handling (`ON CONFLICT REPLACE` deletes the conflicting row): this
/// overrides it. It also overrides the conflict handling of the table's triggers, so it is only used for such tables.
fn or_abort(live: &Side, shape: &Shape) -> &'static str {
    let has_rule = |sql: &str| sql.to_ascii_uppercase().contains("CONFLICT");
    let is_sqlite = live.db.dialect() == Dialect::Sqlite;
    let table = live.tables.get(&shape.table).filter(|table| is_sqlite && has_rule(&table.create_sql));
    table.map_or("", |_| " OR ABORT")
}

/// The maximum size of a statement with its values; `None` if the database has no such limit.
pub(super) async fn packet_max(live: &Side) -> Result<Option<usize>, DbError> {
    if live.db.dialect() == Dialect::Sqlite {
        return Ok(None);
    }
    let mut tx = live.db.begin(Mode::Snapshot).await?;
    let sql = "SELECT CAST(@@max_allowed_packet AS SIGNED)";
    let bytes = tx.fetch_optional(Query::new("restore packet", sql), vec![], |row| row.int(0)).await?;
    tx.commit().await?;
    Ok(bytes.and_then(|bytes| usize::try_from(bytes).ok()))
}

/// The reason, in the form of [`why`], for a row that is too large for the database to accept: it would close the
/// connection.
pub(super) fn is_too_long(row: &[Arg], packet_max: Option<usize>) -> Option<(String, String)> {
    /// Room for everything that is not a value.
    const BESIDES: usize = 4096;
    let size = cells::size(row) + BESIDES;
    let max = packet_max.filter(|max| size > *max)?;
    Some((TOO_LONG.to_owned(), format!("the row has {size} bytes, and max_allowed_packet is {max}")))
}

/// The reason for a row with a value that is too long, or that is too long as a whole.
const TOO_LONG: &str = "a value is too long";

/// Inserts a row.
pub(super) async fn insert(live: &Side, tx: &mut Tx, shape: &Shape, row: &[Arg]) -> Result<u64, DbError> {
    let dialect = live.db.dialect();
    let marks: Vec<&str> =
        shape.columns.iter().zip(row).map(|(column, value)| live.written(&shape.table, column, value)).collect();
    let sql = format!(
        "INSERT{} INTO {} ({}) VALUES ({})",
        or_abort(live, shape),
        quote(dialect, &shape.table),
        quote_all(dialect, shape.columns.iter().map(String::as_str)),
        marks.join(", ")
    );
    tx.execute_whole(Query::new("restore insert", sql), row.to_vec()).await
}

/// Settings with which MySQL accepts values as they were: an id of 0 does not ask for a new one, and a date that
/// another mode let in is not an error. Values that are too long, out of range or not a number are still errors.
/// Foreign keys, unique keys and CHECKs are checked, whatever the server's default is.
const SESSION_MYSQL: &str = "SET SESSION
     sql_mode = 'STRICT_TRANS_TABLES,ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO',
     foreign_key_checks = 1, unique_checks = 1 /*M! , check_constraint_checks = 1 */";

/// A transaction that may write any row that existed before. The session keeps its settings, so the pool must not be
/// used for anything else.
pub(in crate::snapshot::restore) async fn begin(live: &Side) -> Result<Tx, DbError> {
    let mut tx = live.db.begin(Mode::Write).await?;
    if tx.dialect() == Dialect::MySql {
        tx.execute(Query::new("restore session", SESSION_MYSQL), vec![]).await?;
    }
    Ok(tx)
}

/// Writes every column of a row except its key: a column that was left out might change by itself (ON UPDATE
/// CURRENT_TIMESTAMP).
pub(in crate::snapshot::restore) async fn update(
    live: &Side,
    tx: &mut Tx,
    shape: &Shape,
    row: &[Arg],
) -> Result<u64, DbError> {
    let dialect = live.db.dialect();
    let places = (0..shape.columns.len()).filter(|place| !shape.key.contains(place));
    let (names, mut args): (Vec<String>, Vec<Arg>) = places
        .map(|place| {
            let (column, value) = (&shape.columns[place], &row[place]);
            (format!("{} = {}", quote(dialect, column), live.written(&shape.table, column, value)), value.clone())
        })
        .unzip();
    let key = shape.key_of(row);
    let condition = live.has_key(shape, "", &key);
    args.extend(key);
    let (or_abort, table) = (or_abort(live, shape), quote(dialect, &shape.table));
    let sql = format!("UPDATE{or_abort} {table} SET {} WHERE {condition}", names.join(", "));
    tx.execute_whole(Query::new("restore update", sql), args).await
}

/// Deletes the row with a key; returns how many there were.
pub(in crate::snapshot::restore) async fn delete(
    live: &Side,
    tx: &mut Tx,
    shape: &Shape,
    key: Vec<Arg>,
) -> Result<u64, DbError> {
    let sql = format!("DELETE FROM {} WHERE {}", quote(live.db.dialect(), &shape.table), live.has_key(shape, "", &key));
    tx.execute_whole(Query::new("restore delete", sql), key).await
}

/// How long conflicts are retried: users' own transactions may take a while.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long to wait between two tries.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(5), max: Duration::from_millis(600) };

/// How often something has failed, and since when.
#[derive(Debug, Default)]
pub(in crate::snapshot::restore) struct Failures {
    count: u32,
    since: Option<Instant>,
}

impl Failures {
    /// Waits before the next try if the error is transient; returns the error if there should be no next try.
    pub(in crate::snapshot::restore) async fn wait_or_return(&mut self, error: anyhow::Error) -> anyhow::Result<()> {
        self.count += 1;
        let is_passing = database_error(&error).is_some_and(DbError::is_passing);
        if !is_passing || self.since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            return Err(error);
        }
        tokio::time::sleep(BACKOFF.wait(self.count)).await;
        Ok(())
    }
}

/// Whether the database rejects this particular row: others may still be inserted.
pub(in crate::snapshot::restore) fn is_refusal(error: &DbError) -> bool {
    // That a statement was killed, or ran out of time, says nothing about the row.
    const KILLED: [u32; 3] = [1317, 1969, 3024];
    !error.is_passing()
        && !matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Definition)
        && !error.is_of_storage()
        && !KILLED.contains(&db::code(&error.source))
}

/// Why the database rejects a row: one of a few short reasons, and its own message.
pub(in crate::snapshot::restore) fn why(error: &DbError) -> (String, String) {
    let reason = match db::code(&error.source) {
        1062 | 1586 | 2067 | 1555 | 2579 => "a unique key is taken",
        1452 | 1216 | 787 => "what it refers to is gone",
        3819 | 4025 | 275 => "a CHECK does not hold",
        1406 | 1162 => TOO_LONG,
        1264 | 1365 | 1366 | 1292 | 1265 | 3140 | 1416 | 3091 => "a value does not fit its column",
        1048 | 1364 | 1299 => "a value is missing",
        1644 | 1811 => "a trigger refuses it",
        _ => "the database refuses it",
    };
    let words = match &error.source {
        sqlx::Error::Database(error) => error.message().to_owned(),
        other => other.to_string(),
    };
    (reason.to_owned(), words.replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::{ConnectOptions, connect};

    #[tokio::test]
    async fn a_full_database_refuses_no_row() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("full.db").display());
        let db = connect(&url, ConnectOptions { create: true, ..ConnectOptions::new(1) }).unwrap();
        let execute = async |sql: &'static str| db.execute(Query::new("test", sql), vec![]).await;
        execute("CREATE TABLE t (body BLOB NOT NULL)").await.unwrap();
        execute("PRAGMA max_page_count = 10").await.unwrap();
        let full = execute("INSERT INTO t VALUES (zeroblob(1000000))").await.unwrap_err();
        assert_eq!(db::code(&full.source), 13, "{full:?}");
        assert!(!is_refusal(&full));
        assert!(is_refusal(&execute("INSERT INTO t VALUES (NULL)").await.unwrap_err()));
    }
}
