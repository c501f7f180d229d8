//! Taking a snapshot: all tables are read from one consistent read view.
//!
//! The database sends rows in the order of each table's key; a few batches at a time are passed to the thread that
//! writes the SQLite file, so that memory is bounded however many rows there are. No row is locked and nobody has to
//! wait. A table that is altered meanwhile would be read in its new form: MySQL's read view does not cover
//! definitions, and SQLite's begins after they are read. So definitions are read before and after, and if one has
//! changed, the whole copy starts over.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{
    Decoder, Manifest, Name, SnapshotError, Store,
    format::{
        TABLES,
        manifest::{FORMAT, Server, TableCopy},
        pack, write,
    },
    schema::{self, Table, quote, quote_all},
    scratch::Scratch,
};
use crate::{
    args,
    clock::Clock,
    db::{ConnectOptions, Db, DbError, Dialect, Mode, Query, Tx, code},
    statement,
};

/// How many bytes of rows are sent together, and how many such batches wait for the writer; a batch ends with the row
/// that fills it.
const BATCH: usize = 256 * 1024;
const BATCHES: usize = 1;

/// How many times a copy is attempted if tables are altered meanwhile.
const TRIES: u32 = 3;

/// How long the server may work on one SELECT.
const SELECT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long either side may wait for the other.
const SILENCE_MAX: Duration = Duration::from_secs(600);

statement!(
    STATUS,
    "snapshot status",
    mysql only: "SELECT CAST(tables.create_time AS CHAR), CAST(COALESCE(tables.table_rows, 0) AS SIGNED), tables.engine,
                COALESCE(engines.transactions, 'NO')
         FROM information_schema.tables AS tables
         LEFT JOIN information_schema.engines AS engines ON engines.engine = tables.engine
         WHERE tables.table_schema = DATABASE() AND tables.table_name = ?"
);

statement!(VERSION, "snapshot version", mysql: "SELECT VERSION()", sqlite: "SELECT sqlite_version()");

/// Progress of a copy.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// The table being copied; empty while the file is packed.
    pub table: String,
    /// How many rows have been copied, in all tables.
    pub rows: u64,
    /// Approximate total number of rows; 0 if unknown.
    pub rows_expected: u64,
}

/// Copies tables, either the named ones or all, into a new snapshot of `store`. `progress` is called now and then.
///
/// # Errors
/// If the database or the store fails, or a table cannot be copied. There is then no snapshot.
pub async fn take(
    db: &Db,
    store: &Store,
    tables: Option<&[String]>,
    clock: Clock,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<Manifest, SnapshotError> {
    let options = ConnectOptions { statement_max: SELECT_MAX, idle_max: SELECT_MAX, ..ConnectOptions::new(1) };
    let db = db.reopened(options).with_limit(SILENCE_MAX);
    let mut tries = 0;
    let taken = loop {
        tries += 1;
        match take_once(&db, store, tables, clock, progress).await {
            Err(SnapshotError::Altered(table)) if tries < TRIES => {
                tracing::warn!(table, "a table was altered while it was copied: starting over");
            }
            taken => break taken,
        }
    };
    db.close().await;
    taken
}

async fn take_once(
    db: &Db,
    store: &Store,
    tables: Option<&[String]>,
    clock: Clock,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<Manifest, SnapshotError> {
    let scratch = store.scratch()?;
    let name = claim_name(db, store, clock).await?;
    let taken = take_as(name, db, store, &scratch, tables, clock, progress).await;
    store.release(name).await;
    taken
}

async fn take_as(
    name: Name,
    db: &Db,
    store: &Store,
    scratch: &Scratch,
    tables: Option<&[String]>,
    clock: Clock,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<Manifest, SnapshotError> {
    let sqlite = scratch.file("snapshot.sqlite");
    let begun = Instant::now();
    let mut tx = db.begin(Mode::Snapshot).await?;
    let (described, rows_expected) = describe(&mut tx, tables).await?;
    let server = server(&mut tx, db).await?;
    tx.commit().await?;
    let taken_at = name.time().max(db.now(clock).await?);
    let (sender, receiver) = mpsc::channel(BATCHES);
    let path = sqlite.clone();
    let writer = tokio::task::spawn_blocking(move || write::write(&path, receiver));
    let copied = copy(db, &described, rows_expected, tables, sender, progress).await;
    let written = writer.await.map_err(|panic| SnapshotError::store("write", std::io::Error::other(panic)))?;
    // If the writer has failed, nothing more could be sent to it: report the writer's error.
    let copies = match (copied, written) {
        (Err(SnapshotError::Database(_)), Err(error)) | (Ok(()), Err(error)) => return Err(error),
        (Err(error), _) => return Err(error),
        (Ok(()), Ok(copies)) => copies,
    };
    progress(&Progress { rows: copies.iter().map(|copy| copy.rows).sum(), ..Progress::default() });
    let packed = scratch.file(&name.data());
    let (from, to) = (sqlite.clone(), packed.clone());
    let (sqlite_size, packing) = tokio::task::spawn_blocking(move || {
        Ok::<_, std::io::Error>((std::fs::metadata(&from)?.len(), pack::pack(&from, &to)?))
    })
    .await
    .unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
    .map_err(|error| SnapshotError::store("pack the snapshot", error))?;
    let mut manifest = Manifest {
        format: FORMAT,
        name,
        daymend: env!("CARGO_PKG_VERSION").to_owned(),
        taken_at,
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        server,
        tables: sorted(copies),
        size: packing.size,
        sqlite_size,
        sha256: packing.sha256,
        checksum: String::new(),
    };
    manifest.checksum = manifest.checksum()?;
    store.publish(scratch, packed, &manifest).await?;
    Ok(manifest)
}

fn sorted(mut copies: Vec<TableCopy>) -> Vec<TableCopy> {
    copies.sort_by(|a, b| a.table.name.cmp(&b.table.name));
    copies
}

/// A name that no other snapshot has, finished or in progress: names differ by the second. It is of the earlier of two
/// clocks, because a snapshot whose name is in the future would stay the newest until then.
async fn claim_name(db: &Db, store: &Store, clock: Clock) -> Result<Name, SnapshotError> {
    for _ in 0..TRIES {
        let name = Name::at(db.now(clock).await?);
        if store.claim(name).await? {
            return Ok(name);
        }
        if matches!(clock, Clock::System) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    Err(SnapshotError::Exists(Name::at(db.now(clock).await?).to_string()))
}

/// A table as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Described {
    table: Table,
    key: Vec<String>,
    /// When the table was created or last replaced by another; unknown for SQLite.
    created_at: Option<String>,
}

/// The tables, and about how many rows they have together.
async fn describe(tx: &mut Tx, names: Option<&[String]>) -> Result<(Vec<Described>, u64), SnapshotError> {
    let names = match names {
        Some(names) => names.to_vec(),
        None => schema::table_names(tx).await?,
    };
    let mut described: Vec<Described> = Vec::new();
    let mut rows = 0;
    for name in names {
        let table = schema::read(tx, &name).await?.ok_or(SnapshotError::NoTable(name))?;
        let refuse = |why: String| SnapshotError::NotCopyable { table: table.name.clone(), why };
        if let Some(why) = why_no_name(&table.name, described.iter().map(|other| other.table.name.as_str())) {
            return Err(refuse(why));
        }
        let key = table.key().ok_or_else(|| {
            refuse("it has no primary key, and columns that may be NULL cannot serve as one".to_owned())
        })?;
        let mut created_at = None;
        if tx.dialect() == Dialect::MySql {
            let status = tx.fetch_one(&STATUS, args![table.name.as_str()], |row| {
                let (created, rows) = (row.text_or_null(0)?, row.int(1)?.unsigned_abs());
                Ok((created, rows, row.text_or_null(2)?.unwrap_or_default(), row.text(3)? == "YES"))
            });
            let (created, about, engine, has_moments) = status.await?;
            if !has_moments {
                return Err(refuse(format!("its engine, {engine}, does not support consistent reads")));
            }
            created_at = created;
            rows += about;
        }
        described.push(Described { table, key, created_at });
    }
    Ok((described, rows))
}

/// Why a SQLite file with these tables cannot have another one with that name. SQLite does not distinguish `Labs` and
/// `labs`.
fn why_no_name<'a>(name: &str, mut others: impl Iterator<Item = &'a str>) -> Option<String> {
    if name.to_ascii_lowercase().starts_with("sqlite_") {
        return Some("snapshots are SQLite files, and SQLite reserves names that begin with sqlite_".to_owned());
    }
    if name.eq_ignore_ascii_case(TABLES) {
        return Some("every snapshot has a table of that name already".to_owned());
    }
    let other = others.find(|other| other.eq_ignore_ascii_case(name))?;
    Some(format!("snapshots are SQLite files, and SQLite cannot distinguish it from {other}: take each of them alone"))
}

async fn server(tx: &mut Tx, db: &Db) -> Result<Server, DbError> {
    let version = tx.fetch_one(&VERSION, args![], |row| row.text(0)).await?;
    let kind = match tx.dialect() {
        Dialect::Sqlite => "sqlite",
        Dialect::MySql if version.contains("MariaDB") => "mariadb",
        Dialect::MySql => "mysql",
    };
    Ok(Server { kind: kind.to_owned(), version, database: db.name() })
}

/// Sends every row of every table to the writer, all of them from one read view.
async fn copy(
    db: &Db,
    described: &[Described],
    rows_expected: u64,
    names: Option<&[String]>,
    sender: mpsc::Sender<write::Message>,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<(), SnapshotError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let is_mysql = tx.dialect() == Dialect::MySql;
    if is_mysql {
        let patience = format!("SET SESSION net_write_timeout = {}", SILENCE_MAX.as_secs());
        tx.execute(Query::new("snapshot patience", patience), args![]).await?;
        tx.savepoint().await?;
    }
    let mut so_far = Progress { rows_expected, ..Progress::default() };
    for Described { table, key, .. } in described {
        so_far.table.clone_from(&table.name);
        progress(&so_far);
        let begin = write::Message::Table(Box::new(table.clone()), key.clone(), tx.dialect());
        // If the writer has died, its own error says why.
        let _ = sender.send(begin).await;
        copy_table(&mut tx, table, key, &sender, &mut so_far, progress).await.map_err(|error| altered(table, error))?;
        if is_mysql {
            tx.rollback_to_savepoint().await?;
        }
    }
    if is_mysql {
        // MySQL 8 reads information_schema in the read view of the transaction, in which no table has changed: open a
        // new one.
        tx.commit().await?;
        tx = db.begin(Mode::Snapshot).await?;
    }
    let (now, _) = describe(&mut tx, names).await?;
    if now != described {
        let changed = described.iter().zip(&now).find(|(before, now)| before != now);
        let name = changed.map_or_else(|| "(the list of tables)".to_owned(), |(before, _)| before.table.name.clone());
        return Err(SnapshotError::Altered(name));
    }
    tx.commit().await?;
    Ok(())
}

/// The codes of a table definition that has changed: the read view is older than the table; no such table; no such
/// column; the statement has to be prepared again.
fn altered(table: &Table, error: DbError) -> SnapshotError {
    match code(&error.source) {
        1412 | 1146 | 1054 | 1615 => SnapshotError::Altered(table.name.clone()),
        _ => error.into(),
    }
}

/// The SELECT of all rows of a table, in the order of an index, so that nothing is sorted.
fn select(dialect: Dialect, table: &Table, key: &[String]) -> String {
    let columns = quote_all(dialect, table.columns.iter().map(|column| column.name.as_str()));
    let index = match dialect {
        Dialect::Sqlite => None,
        Dialect::MySql if key == table.primary_key => Some("PRIMARY"),
        Dialect::MySql => table.unique_keys.iter().find(|unique| unique.columns == key).map(|key| key.name.as_str()),
    };
    let mut sql = format!("SELECT {columns} FROM {}", quote(dialect, &table.name));
    if let Some(index) = index {
        sql.push_str(&format!(" FORCE INDEX ({})", quote(dialect, index)));
    }
    // If all columns together are the key, there is no index to follow, and the writer sorts.
    if index.is_some() || key == table.primary_key {
        sql.push_str(&format!(" ORDER BY {}", quote_all(dialect, key.iter().map(String::as_str))));
    }
    sql
}

async fn copy_table(
    tx: &mut Tx,
    table: &Table,
    key: &[String],
    sender: &mpsc::Sender<write::Message>,
    so_far: &mut Progress,
    progress: &(dyn Fn(&Progress) + Send + Sync),
) -> Result<(), DbError> {
    let decoder = Decoder::new(&table.columns);
    let select = select(tx.dialect(), table, key);
    let mut batch = Vec::with_capacity(BATCH + BATCH / 4);
    tx.stream(Query::new("snapshot rows", select), args![], sender, |row| {
        decoder.encode(&row, &mut batch)?;
        so_far.rows += 1;
        if batch.len() < BATCH {
            return Ok(None);
        }
        progress(so_far);
        let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH + BATCH / 4));
        Ok(Some(write::Message::Rows(full)))
    })
    .await?;
    let sent = sender.send(write::Message::Rows(batch)).await;
    sent.map_err(|_| DbError::new("snapshot rows", sqlx::Error::WorkerCrashed))
}
