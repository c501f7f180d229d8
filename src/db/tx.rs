//! A transaction on one connection, which is never left half done.
//!
//! However a [`Tx`] ends without a commit, its changes are undone: dropped between two statements, it is rolled back
//! before its connection returns to the pool; dropped while a statement is running (a timeout, an aborted task), its
//! connection is closed, because its state is unknown, and a statement that SQLite is still running is interrupted. A
//! statement that gets no answer within the limit is treated the same way, so that a network failure costs one
//! connection and nothing else.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::{FutureExt as _, StreamExt, TryStreamExt, stream::BoxStream};
use sqlx::{Column as _, Executor as _, MySql, Sqlite, Statement as _, pool::PoolConnection};
use tokio::sync::mpsc;

use super::{
    Arg, Db, DbClock, DbError, Dialect, Mode, Pool, Query, Row,
    connect::{Demoted, PING_TIMEOUT},
    error::CONNECT,
};
use crate::statement;

statement!(NOW, "database now", "SELECT {now_us}");

/// The statement name of errors that occur while committing.
pub(crate) const COMMIT: &str = "commit";

const BEGIN_SNAPSHOT_MYSQL: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; \
     START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";

/// How many of SQLite's virtual machine instructions run between two checks for an abandoned statement.
const SQLITE_INSTRUCTIONS: i32 = 10_000;

/// A transaction on one connection.
#[derive(Debug)]
pub struct Tx {
    /// `Some` until the transaction is dropped.
    connection: Option<Connection>,
    demoted: Demoted,
    clock: DbClock,
    limit: Duration,
    /// Whether a transaction is open.
    is_open: bool,
    /// Whether a statement is running; stays true if it was abandoned.
    is_busy: bool,
    /// Tells SQLite that its statement has been abandoned.
    interrupt: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Connection {
    MySql(PoolConnection<MySql>),
    Sqlite(PoolConnection<Sqlite>),
}

/// Builds a sqlx query with its arguments bound.
macro_rules! bound {
    ($sql:expr, $args:expr, $is_kept:expr) => {{
        let mut query = sqlx::query($sql).persistent($is_kept);
        for arg in $args {
            query = match arg {
                Arg::Null => query.bind(None::<i64>),
                Arg::Int(value) => query.bind(value),
                Arg::Real(value) => query.bind(value),
                Arg::Text(value) => query.bind(value),
                Arg::Bytes(value) | Arg::RawText(value) => query.bind(value),
            };
        }
        query
    }};
}

/// Awaits `$body` on the connection to either database, bound to `$connection`, within the time limit.
macro_rules! on_connection {
    ($tx:expr, $name:expr, |$connection:ident| $body:expr) => {{
        let limit = $tx.limit;
        let Some(connection) = &mut $tx.connection else {
            unreachable!("a transaction has its connection until it is dropped")
        };
        $tx.is_busy = true;
        let result = match connection {
            Connection::MySql($connection) => within(limit, $body).await,
            Connection::Sqlite($connection) => within(limit, $body).await,
        };
        $tx.is_busy = matches!(&result, Err(Failure::NoAnswer));
        let result = result.map_err(|failure| DbError::new($name, failure.into_error(limit)));
        result.inspect_err(|error| $tx.demoted.note(error))
    }};
}

impl Tx {
    /// A connection without an open transaction.
    pub(super) async fn acquire(db: &Db) -> Result<Self, DbError> {
        let named = |error| DbError::new(CONNECT, error);
        let interrupt = Arc::new(AtomicBool::new(false));
        let timed_out = |failure: Failure| named(failure.into_error(db.limit));
        let connection = match &db.pool {
            Pool::MySql(pool) => Connection::MySql(within(db.limit, pool.acquire()).await.map_err(timed_out)?),
            Pool::Sqlite(pool) => {
                let mut connection = within(db.limit, pool.acquire()).await.map_err(timed_out)?;
                let given_up = Arc::clone(&interrupt);
                let mut handle = connection.lock_handle().await.map_err(named)?;
                handle.set_progress_handler(SQLITE_INSTRUCTIONS, move || !given_up.load(Ordering::Relaxed));
                drop(handle);
                Connection::Sqlite(connection)
            }
        };
        Ok(Self {
            connection: Some(connection),
            demoted: db.demoted.clone(),
            clock: db.clock.clone(),
            limit: db.limit,
            is_open: false,
            is_busy: false,
            interrupt,
        })
    }

    pub(super) async fn begin(&mut self, mode: Mode) -> Result<(), DbError> {
        let sql = match (self.dialect(), mode) {
            (Dialect::MySql, Mode::Snapshot) => BEGIN_SNAPSHOT_MYSQL,
            (Dialect::MySql, Mode::Write) => "START TRANSACTION",
            (Dialect::Sqlite, Mode::Snapshot) => "BEGIN",
            (Dialect::Sqlite, Mode::Write) => "BEGIN IMMEDIATE",
        };
        self.control("begin", sql).await?;
        self.is_open = true;
        Ok(())
    }

    /// Commits.
    pub async fn commit(mut self) -> Result<(), DbError> {
        self.control(COMMIT, "COMMIT").await?;
        self.is_open = false;
        Ok(())
    }

    /// Rolls back, and waits for that to finish.
    pub async fn rollback(mut self) -> Result<(), DbError> {
        self.control("rollback", "ROLLBACK").await?;
        self.is_open = false;
        Ok(())
    }

    /// Runs a statement without preparing it: MySQL cannot prepare the DDL of triggers.
    pub async fn execute_text(&mut self, name: &str, sql: &str) -> Result<(), DbError> {
        self.control(name, sql).await
    }

    /// Ends the transaction by closing its connection, because its session was changed.
    pub fn discard(mut self) {
        self.is_busy = true;
    }

    /// Runs a statement that begins or ends a transaction; those are not prepared.
    async fn control(&mut self, name: &str, sql: &str) -> Result<(), DbError> {
        on_connection!(self, name, |connection| async { connection.execute(sql).await.map(drop) })
    }

    /// Which SQL this database understands.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match &self.connection {
            Some(Connection::Sqlite(_)) => Dialect::Sqlite,
            _ => Dialect::MySql,
        }
    }

    fn render(&self, query: &Query<'_>) -> String {
        query.render(self.dialect(), &self.clock)
    }

    /// Runs a statement; returns the number of rows it found (MySQL: matched, not changed).
    pub async fn execute<'q>(&mut self, query: impl Into<Query<'q>>, args: Vec<Arg>) -> Result<u64, DbError> {
        let query = query.into();
        let sql = self.render(&query);
        on_connection!(self, query.name, |connection| async {
            bound!(&sql, args, query.is_kept).execute(&mut **connection).await.map(|done| done.rows_affected())
        })
    }

    /// Inserts a row; returns the id that the database assigned.
    pub async fn insert<'q>(&mut self, query: impl Into<Query<'q>>, args: Vec<Arg>) -> Result<i64, DbError> {
        let query = query.into();
        let sql = self.render(&query);
        on_connection!(self, query.name, |connection| async {
            bound!(&sql, args, query.is_kept).execute(&mut **connection).await.map(|done| done.last_id())
        })
    }

    /// Runs a statement, and maps every row with `read`.
    pub async fn fetch_all<'q, T: Send>(
        &mut self,
        query: impl Into<Query<'q>>,
        args: Vec<Arg>,
        mut read: impl FnMut(Row) -> Result<T, sqlx::Error> + Send,
    ) -> Result<Vec<T>, DbError> {
        let mut all = Vec::new();
        self.for_each(query, args, |row| {
            all.push(read(row)?);
            Ok(())
        })
        .await?;
        Ok(all)
    }

    /// Runs a statement, and maps its first row with `read`; `None` if there is no row.
    pub async fn fetch_optional<'q, T: Send>(
        &mut self,
        query: impl Into<Query<'q>>,
        args: Vec<Arg>,
        mut read: impl FnMut(Row) -> Result<T, sqlx::Error> + Send,
    ) -> Result<Option<T>, DbError> {
        let mut first = None;
        self.for_each(query, args, |row| {
            if first.is_none() {
                first = Some(read(row)?);
            }
            Ok(())
        })
        .await?;
        Ok(first)
    }

    /// Runs a statement that always returns a row, and maps the first with `read`.
    pub async fn fetch_one<'q, T: Send>(
        &mut self,
        query: impl Into<Query<'q>>,
        args: Vec<Arg>,
        read: impl FnMut(Row) -> Result<T, sqlx::Error> + Send,
    ) -> Result<T, DbError> {
        let query = query.into();
        let name = query.name;
        self.fetch_optional(query, args, read).await?.ok_or_else(|| DbError::new(name, sqlx::Error::RowNotFound))
    }

    /// Passes every row to `each` as it arrives, without keeping it.
    pub async fn for_each<'q>(
        &mut self,
        query: impl Into<Query<'q>>,
        args: Vec<Arg>,
        mut each: impl FnMut(Row) -> Result<(), sqlx::Error> + Send,
    ) -> Result<(), DbError> {
        self.rows(query.into(), args, &mut each).await
    }

    /// Like [`for_each`](Self::for_each), compiled once for all statements.
    async fn rows(
        &mut self,
        query: Query<'_>,
        args: Vec<Arg>,
        each: &mut (dyn FnMut(Row) -> Result<(), sqlx::Error> + Send),
    ) -> Result<(), DbError> {
        let sql = self.render(&query);
        on_connection!(self, query.name, |connection| async {
            let mut rows: BoxStream<'_, Result<Row, sqlx::Error>> =
                bound!(&sql, args, query.is_kept).fetch(&mut **connection).map_ok(Row::from).boxed();
            while let Some(row) = rows.next().await {
                each(row?)?;
            }
            Ok(())
        })
    }

    /// Passes every row to `each` as it arrives, sends on the result, and waits if the receiver is slower. The time
    /// limit applies to the wait for each row, not to all of them together.
    pub(crate) async fn stream<'q, M: Send>(
        &mut self,
        query: impl Into<Query<'q>>,
        args: Vec<Arg>,
        sender: &mpsc::Sender<M>,
        mut each: impl FnMut(Row) -> Result<Option<M>, sqlx::Error> + Send,
    ) -> Result<(), DbError> {
        let query = query.into();
        let sql = self.render(&query);
        let limit = self.limit;
        let Some(connection) = &mut self.connection else {
            unreachable!("a transaction has its connection until it is dropped")
        };
        self.is_busy = true;
        let mut rows: BoxStream<'_, Result<Row, sqlx::Error>> = match connection {
            Connection::MySql(connection) => {
                bound!(&sql, args, query.is_kept).fetch(&mut **connection).map_ok(Row::from).boxed()
            }
            Connection::Sqlite(connection) => {
                bound!(&sql, args, query.is_kept).fetch(&mut **connection).map_ok(Row::from).boxed()
            }
        };
        loop {
            // Rows that have already arrived need no timer.
            let next = match rows.try_next().now_or_never() {
                Some(next) => next.map_err(Failure::Error),
                None => within(limit, rows.try_next()).await,
            };
            let row = match next {
                Ok(Some(row)) => row,
                Ok(None) => break,
                Err(failure) => return Err(DbError::new(query.name, failure.into_error(limit))),
            };
            // An early return leaves `is_busy` set: rows are still arriving on the connection.
            if let Some(message) = each(row).map_err(|error| DbError::new(query.name, error))? {
                let sent = sender.send(message).await;
                sent.map_err(|_| DbError::new(query.name, sqlx::Error::WorkerCrashed))?;
            }
        }
        drop(rows);
        self.is_busy = false;
        Ok(())
    }

    /// The database's clock.
    pub async fn database_now(&mut self) -> Result<DateTime<Utc>, DbError> {
        self.fetch_one(&NOW, Vec::new(), |row| {
            DateTime::from_timestamp_micros(row.int(0)?).ok_or_else(|| sqlx::Error::Decode("out of range".into()))
        })
        .await
    }

    /// Sets the savepoint for [`rollback_to_savepoint`](Self::rollback_to_savepoint), which can be used any number of
    /// times; a second call moves it.
    pub(crate) async fn savepoint(&mut self) -> Result<(), DbError> {
        self.control("savepoint", "SAVEPOINT daymend").await
    }

    /// Runs a statement that leaves no changes behind if it fails. On SQLite a trigger or a constraint may keep what
    /// was written so far (FAIL), or end the transaction: [`is_open`](Self::is_open) is then false.
    pub(crate) async fn execute_whole(&mut self, query: Query<'_>, args: Vec<Arg>) -> Result<u64, DbError> {
        if self.dialect() == Dialect::MySql {
            return self.execute(query, args).await;
        }
        self.savepoint().await?;
        let result = self.execute(query, args).await;
        match &result {
            Ok(_) => self.control("release savepoint", "RELEASE daymend").await?,
            Err(_) if self.is_busy => {}
            Err(_) => {
                let back = self.control("rollback to savepoint", "ROLLBACK TO daymend; RELEASE daymend").await;
                self.is_open = back.is_ok();
            }
        }
        result
    }

    /// Whether the transaction is still open: ended neither by us nor by a failed statement.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Undoes what was written since the savepoint; the transaction and its read view stay open. MySQL also releases
    /// metadata locks on tables first used since then, so that an ALTER of one of them need not wait for the end of
    /// the transaction.
    pub(crate) async fn rollback_to_savepoint(&mut self) -> Result<(), DbError> {
        self.control("rollback to savepoint", "ROLLBACK TO SAVEPOINT daymend").await
    }

    /// The names of the columns that a statement returns; prepares it but does not run it. It is always prepared
    /// again: a statement prepared before a table was altered has the old columns.
    pub(crate) async fn columns(&mut self, query: Query<'_>) -> Result<Vec<String>, DbError> {
        let sql = self.render(&query);
        on_connection!(self, query.name, |connection| async {
            sqlx::Connection::clear_cached_statements(&mut **connection).await?;
            let statement = connection.prepare(&sql).await?;
            Ok(statement.columns().iter().map(|column| column.name().to_owned()).collect())
        })
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if self.is_busy {
            self.interrupt.store(true, Ordering::Relaxed);
            connection.close_on_drop();
        } else if self.is_open {
            roll_back_later(connection, self.limit);
        } else {
            give_back_later(connection);
        }
    }
}

/// Rolls back in a task, because a drop cannot wait; a connection that does not answer is closed.
fn roll_back_later(mut connection: Connection, limit: Duration) {
    // Outside of a runtime, at the very end of a process, the connection is just dropped.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(async move {
        let is_answered = match &mut connection {
            Connection::MySql(connection) => within(limit, connection.execute("ROLLBACK")).await.is_ok(),
            Connection::Sqlite(connection) => within(limit, connection.execute("ROLLBACK")).await.is_ok(),
        };
        if is_answered {
            give_back(connection).await;
        } else {
            connection.close_on_drop();
        }
    });
}

/// Gives a connection back in a task, because a drop cannot wait.
fn give_back_later(connection: Connection) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(give_back(connection));
}

/// Gives a connection back to its pool. The pool by itself would ping the connection without a time limit: if the
/// network stalls just then, the pool would lose a place for good.
async fn give_back(mut connection: Connection) {
    let asked = match &mut connection {
        Connection::MySql(connection) => tokio::time::timeout(PING_TIMEOUT, connection.return_to_pool()).await,
        Connection::Sqlite(connection) => tokio::time::timeout(PING_TIMEOUT, connection.return_to_pool()).await,
    };
    if asked.is_err() {
        tracing::debug!("a connection that was given back does not answer: closed");
    }
}

impl Connection {
    fn close_on_drop(&mut self) {
        match self {
            Self::MySql(connection) => connection.close_on_drop(),
            Self::Sqlite(connection) => connection.close_on_drop(),
        }
    }
}

/// Why a pool has no connection: it tries for a while, and does not tell what went wrong.
const NO_CONNECTION: &str = "no connection: the database does not answer, or all connections are in use";

/// Why a statement has no result.
enum Failure {
    NoAnswer,
    Error(sqlx::Error),
}

impl Failure {
    fn into_error(self, limit: Duration) -> sqlx::Error {
        let why = match self {
            Self::Error(sqlx::Error::PoolTimedOut) => NO_CONNECTION.to_owned(),
            Self::Error(error) => return error,
            Self::NoAnswer => format!("no answer within {}", humantime::format_duration(limit)),
        };
        sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, why))
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Failure> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result.map_err(Failure::Error),
        Err(_) => Err(Failure::NoAnswer),
    }
}

/// The id that an INSERT was given.
trait LastId {
    fn last_id(&self) -> i64;
}

impl LastId for sqlx::mysql::MySqlQueryResult {
    fn last_id(&self) -> i64 {
        i64::try_from(self.last_insert_id()).unwrap_or(i64::MAX)
    }
}

impl LastId for sqlx::sqlite::SqliteQueryResult {
    fn last_id(&self) -> i64 {
        self.last_insert_rowid()
    }
}
