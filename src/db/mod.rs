//! One small interface to both databases.
//!
//! [`Db`] is a pool of either MySQL (MariaDB included) or SQLite; [`Tx`] is a transaction on
//! one of its connections. Leaf functions take a `&mut Tx` and run named [`Statement`]s; only
//! their callers begin and commit.
//!
//! Sessions set everything they rely on: READ COMMITTED, UTC, a strict sql_mode and a short lock timeout; on SQLite,
//! full durability and a busy timeout, and new files use WAL mode.

mod connect;
pub(crate) mod ddl;
mod dialect;
mod error;
pub mod migrate;
mod query;
pub mod retry;
pub(crate) mod scan;
mod statement;
mod tx;
mod value;

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{MySqlPool, SqlitePool};

use crate::clock::Clock;

use connect::Demoted;
pub use connect::{ConnectOptions, connect, explain_read_only};
pub(crate) use connect::{STATEMENTS_KEPT_MAX, open_file};
pub use dialect::{DbClock, Dialect};
pub use error::{DbError, ErrorKind, code};
pub use query::Query;
pub use retry::{Backoff, Failures, RETRIES_MAX, retry};
pub use statement::{Owner, Statement, repeat};
pub(crate) use tx::COMMIT;
pub use tx::Tx;
pub use value::{Arg, Cell, Dated, Row, instant_text};
pub(crate) use value::{clipped, json_list};

/// How long a statement may go without an answer, by default.
const LIMIT: Duration = Duration::from_secs(60);

/// A pool of connections to the database.
#[derive(Debug, Clone)]
pub struct Db {
    pool: Pool,
    /// How the pool was opened, to open another like it.
    opened: ConnectOptions,
    clock: DbClock,
    limit: Duration,
    demoted: Demoted,
}

#[derive(Debug, Clone)]
enum Pool {
    MySql(MySqlPool),
    Sqlite(SqlitePool),
}

/// What a transaction is for, which decides how it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Reads only, all from one consistent snapshot, without locks.
    Snapshot,
    /// Reads and writes at READ COMMITTED; `BEGIN IMMEDIATE` on SQLite.
    Write,
}

impl Db {
    fn new(pool: Pool, opened: ConnectOptions, demoted: Demoted) -> Self {
        Self { pool, opened, clock: DbClock::Database, limit: LIMIT, demoted }
    }

    /// Another pool to the same database, with no connection yet.
    ///
    /// After a network outage a pool may hold connections that will never answer again; a new pool has none.
    #[must_use]
    pub fn renewed(&self) -> Self {
        Self { pool: self.pool.reopened(self.opened, &self.demoted), ..self.clone() }
    }

    /// Another pool to the same database, with other options. If one of the two meets a server that has become
    /// read-only, neither keeps its connections.
    #[must_use]
    pub(crate) fn reopened(&self, options: ConnectOptions) -> Self {
        Self { pool: self.pool.reopened(options, &self.demoted), opened: options, ..self.clone() }
    }

    /// The same pool with another clock, for tests.
    #[must_use]
    pub fn with_clock(&self, clock: DbClock) -> Self {
        Self { clock, ..self.clone() }
    }

    /// The same pool with another limit on how long a statement may go without an answer. After that its connection
    /// counts as dead and is closed.
    #[must_use]
    pub fn with_limit(&self, limit: Duration) -> Self {
        Self { limit, ..self.clone() }
    }

    /// Which SQL this database understands.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match &self.pool {
            Pool::MySql(_) => Dialect::MySql,
            Pool::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// Begins a transaction.
    pub async fn begin(&self, mode: Mode) -> Result<Tx, DbError> {
        let mut tx = Tx::acquire(self).await?;
        tx.begin(mode).await?;
        Ok(tx)
    }

    /// Runs one statement on its own; returns the number of rows it found.
    pub async fn execute<'q>(&self, query: impl Into<Query<'q>>, args: Vec<Arg>) -> Result<u64, DbError> {
        Tx::acquire(self).await?.execute(query, args).await
    }

    /// Runs one statement on its own, and maps every row with `read`.
    pub async fn fetch_all<'q, T: Send>(
        &self,
        query: impl Into<Query<'q>>,
        args: Vec<Arg>,
        read: impl FnMut(Row) -> Result<T, sqlx::Error> + Send,
    ) -> Result<Vec<T>, DbError> {
        Tx::acquire(self).await?.fetch_all(query, args, read).await
    }

    /// Runs one statement on its own, and maps its first row with `read`; `None` if there is no row.
    pub async fn fetch_optional<'q, T: Send>(
        &self,
        query: impl Into<Query<'q>>,
        args: Vec<Arg>,
        read: impl FnMut(Row) -> Result<T, sqlx::Error> + Send,
    ) -> Result<Option<T>, DbError> {
        Tx::acquire(self).await?.fetch_optional(query, args, read).await
    }

    /// Runs one statement on its own that always returns a row, and maps the first with `read`.
    pub async fn fetch_one<'q, T: Send>(
        &self,
        query: impl Into<Query<'q>>,
        args: Vec<Arg>,
        read: impl FnMut(Row) -> Result<T, sqlx::Error> + Send,
    ) -> Result<T, DbError> {
        Tx::acquire(self).await?.fetch_one(query, args, read).await
    }

    /// The database's clock.
    pub async fn database_now(&self) -> Result<DateTime<Utc>, DbError> {
        Tx::acquire(self).await?.database_now().await
    }

    /// The moment that decides which days are over: a fixed one, or the earlier of this machine's clock and the
    /// database's. A clock that is ahead would close days that are not over.
    pub async fn now(&self, clock: Clock) -> Result<DateTime<Utc>, DbError> {
        Ok(clock.at_most(self.database_now().await?))
    }

    /// A connection without an open transaction.
    pub(crate) async fn connection(&self) -> Result<Tx, DbError> {
        Tx::acquire(self).await
    }

    /// The names of the columns that a statement returns; prepares it but does not run it. Not in a transaction,
    /// because a read-only one cannot prepare a statement that writes.
    pub async fn columns(&self, query: Query<'_>) -> Result<Vec<String>, DbError> {
        self.connection().await?.columns(query).await
    }

    /// How many connections are open, and how many of them are idle.
    #[must_use]
    pub fn pool_size(&self) -> (u32, usize) {
        match &self.pool {
            Pool::MySql(pool) => (pool.size(), pool.num_idle()),
            Pool::Sqlite(pool) => (pool.size(), pool.num_idle()),
        }
    }

    /// The maximum number of connections.
    #[must_use]
    pub fn pool_max(&self) -> u32 {
        self.opened.connections
    }

    /// The name of the database: the server's schema, or SQLite's file.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.pool {
            Pool::MySql(pool) => pool.connect_options().get_database().unwrap_or_default().to_owned(),
            Pool::Sqlite(pool) => pool.connect_options().get_filename().display().to_string(),
        }
    }

    /// Closes every connection.
    pub async fn close(&self) {
        match &self.pool {
            Pool::MySql(pool) => pool.close().await,
            Pool::Sqlite(pool) => pool.close().await,
        }
    }
}
