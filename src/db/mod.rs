//! The two databases behind one small interface.
//!
//! [`Db`] is a pool of either MySQL (MariaDB included) or SQLite; [`Tx`] is a transaction.
//! Leaf functions take a `&mut Tx` and run named [`Statement`]s; only their callers begin
//! and commit. A `Tx` that is dropped rolls back, also when its task is aborted.
//!
//! Sessions set what they rely on themselves: READ COMMITTED, UTC, a strict sql_mode and
//! a short lock timeout; WAL, full durability and a busy timeout on SQLite.

mod connect;
mod dialect;
mod error;
pub mod migrate;
pub mod retry;
mod statement;
mod value;

use std::borrow::Cow;

use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use sqlx::{MySql, MySqlPool, Sqlite, SqlitePool, Transaction};

pub use connect::connect;
pub use dialect::{DbClock, Dialect};
pub use error::{DbError, Kind, code};
pub use retry::{Backoff, RETRIES_MAX, retry};
pub use statement::{Statement, repeat};
pub use value::{Arg, Row, instant_text};

/// A pool of connections to the database.
#[derive(Debug, Clone)]
pub struct Db {
    pool: Pool,
    clock: DbClock,
}

#[derive(Debug, Clone)]
enum Pool {
    MySql(MySqlPool),
    Sqlite(SqlitePool),
}

/// What a transaction is for, which decides how it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Reads only, all of them from one consistent snapshot, without a lock.
    Snapshot,
    /// Reads and writes at READ COMMITTED; `BEGIN IMMEDIATE` on SQLite.
    Write,
}

/// A transaction on one connection.
#[derive(Debug)]
pub struct Tx {
    inner: TxInner,
    clock: DbClock,
}

#[derive(Debug)]
enum TxInner {
    MySql(Transaction<'static, MySql>),
    Sqlite(Transaction<'static, Sqlite>),
}

const BEGIN_SNAPSHOT_MYSQL: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; \
     START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";

/// Builds a sqlx query with its arguments bound.
macro_rules! bound {
    ($sql:expr, $args:expr) => {{
        let mut query = sqlx::query($sql);
        for arg in $args {
            query = match arg {
                Arg::Null => query.bind(None::<i64>),
                Arg::Int(value) => query.bind(value),
                Arg::Text(value) => query.bind(value),
            };
        }
        query
    }};
}

impl Db {
    /// The same pool with another clock, for tests.
    #[must_use]
    pub fn with_clock(&self, clock: DbClock) -> Self {
        Self { pool: self.pool.clone(), clock }
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
        let named = |error| DbError::new("begin", error);
        let inner = match &self.pool {
            Pool::MySql(pool) => {
                let sql = match mode {
                    Mode::Snapshot => BEGIN_SNAPSHOT_MYSQL,
                    Mode::Write => "START TRANSACTION",
                };
                pool.begin_with(sql).await.map(TxInner::MySql)
            }
            Pool::Sqlite(pool) => {
                let sql = match mode {
                    Mode::Snapshot => "BEGIN",
                    Mode::Write => "BEGIN IMMEDIATE",
                };
                pool.begin_with(sql).await.map(TxInner::Sqlite)
            }
        };
        inner.map(|inner| Tx { inner, clock: self.clock.clone() }).map_err(named)
    }

    /// Runs one statement that stands alone; the number of rows it found.
    pub async fn execute(&self, statement: &Statement, args: Vec<Arg>) -> Result<u64, DbError> {
        let sql = self.dialect().render(statement.sql, &self.clock);
        match &self.pool {
            Pool::MySql(pool) => bound!(&sql, args).execute(pool).await.map(|done| done.rows_affected()),
            Pool::Sqlite(pool) => bound!(&sql, args).execute(pool).await.map(|done| done.rows_affected()),
        }
        .map_err(|error| DbError::new(statement.name, error))
    }

    /// The rows of one reading statement that stands alone.
    pub async fn fetch_all(&self, statement: &Statement, args: Vec<Arg>) -> Result<Vec<Row>, DbError> {
        let sql = self.dialect().render(statement.sql, &self.clock);
        match &self.pool {
            Pool::MySql(pool) => {
                bound!(&sql, args).fetch_all(pool).await.map(|rows| rows.into_iter().map(Row::MySql).collect())
            }
            Pool::Sqlite(pool) => {
                bound!(&sql, args).fetch_all(pool).await.map(|rows| rows.into_iter().map(Row::Sqlite).collect())
            }
        }
        .map_err(|error| DbError::new(statement.name, error))
    }

    /// Closes every connection.
    pub async fn close(&self) {
        match &self.pool {
            Pool::MySql(pool) => pool.close().await,
            Pool::Sqlite(pool) => pool.close().await,
        }
    }
}

/// A statement's text, named for its errors.
#[derive(Debug)]
pub struct Query<'a> {
    name: &'a str,
    sql: Cow<'a, str>,
}

impl<'a> Query<'a> {
    /// A statement that is not a constant, such as one of a rollup's SELECTs.
    #[must_use]
    pub fn new(name: &'a str, sql: impl Into<Cow<'a, str>>) -> Self {
        Self { name, sql: sql.into() }
    }
}

impl<'a> From<&'a Statement> for Query<'a> {
    fn from(statement: &'a Statement) -> Self {
        Self::new(statement.name, statement.sql)
    }
}

impl Tx {
    /// Which SQL this database understands.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match &self.inner {
            TxInner::MySql(_) => Dialect::MySql,
            TxInner::Sqlite(_) => Dialect::Sqlite,
        }
    }

    /// Runs a statement; the number of rows it found (MySQL: matched, not changed).
    pub async fn execute<'q>(&mut self, query: impl Into<Query<'q>>, args: Vec<Arg>) -> Result<u64, DbError> {
        let query = query.into();
        let sql = self.dialect().render(&query.sql, &self.clock).into_owned();
        match &mut self.inner {
            TxInner::MySql(tx) => bound!(&sql, args).execute(&mut **tx).await.map(|done| done.rows_affected()),
            TxInner::Sqlite(tx) => bound!(&sql, args).execute(&mut **tx).await.map(|done| done.rows_affected()),
        }
        .map_err(|error| DbError::new(query.name, error))
    }

    /// Inserts a row; the id that the database gave it.
    pub async fn insert<'q>(&mut self, query: impl Into<Query<'q>>, args: Vec<Arg>) -> Result<i64, DbError> {
        let query = query.into();
        let sql = self.dialect().render(&query.sql, &self.clock).into_owned();
        match &mut self.inner {
            TxInner::MySql(tx) => bound!(&sql, args)
                .execute(&mut **tx)
                .await
                .map(|done| i64::try_from(done.last_insert_id()).unwrap_or(i64::MAX)),
            TxInner::Sqlite(tx) => bound!(&sql, args).execute(&mut **tx).await.map(|done| done.last_insert_rowid()),
        }
        .map_err(|error| DbError::new(query.name, error))
    }

    /// All rows of a statement.
    pub async fn fetch_all<'q>(&mut self, query: impl Into<Query<'q>>, args: Vec<Arg>) -> Result<Vec<Row>, DbError> {
        let mut rows = Vec::new();
        self.for_each(query, args, |row| {
            rows.push(row);
            Ok(())
        })
        .await?;
        Ok(rows)
    }

    /// The first row of a statement.
    pub async fn fetch_optional<'q>(
        &mut self,
        query: impl Into<Query<'q>>,
        args: Vec<Arg>,
    ) -> Result<Option<Row>, DbError> {
        Ok(self.fetch_all(query, args).await?.into_iter().next())
    }

    /// The first row of a statement that always has one.
    pub async fn fetch_one<'q>(&mut self, query: impl Into<Query<'q>>, args: Vec<Arg>) -> Result<Row, DbError> {
        let query = query.into();
        let name = query.name;
        self.fetch_optional(query, args).await?.ok_or_else(|| DbError::new(name, sqlx::Error::RowNotFound))
    }

    /// Hands every row to `each` as it arrives, without keeping them.
    pub async fn for_each<'q>(
        &mut self,
        query: impl Into<Query<'q>>,
        args: Vec<Arg>,
        mut each: impl FnMut(Row) -> Result<(), sqlx::Error> + Send,
    ) -> Result<(), DbError> {
        let query = query.into();
        let sql = self.dialect().render(&query.sql, &self.clock).into_owned();
        let mut rows: BoxStream<'_, Result<Row, sqlx::Error>> = match &mut self.inner {
            TxInner::MySql(tx) => bound!(&sql, args).fetch(&mut **tx).map_ok(Row::MySql).boxed(),
            TxInner::Sqlite(tx) => bound!(&sql, args).fetch(&mut **tx).map_ok(Row::Sqlite).boxed(),
        };
        while let Some(row) = rows.next().await {
            row.and_then(&mut each).map_err(|error| DbError::new(query.name, error))?;
        }
        Ok(())
    }

    /// The names of the columns that a statement returns; prepares it and does not run it.
    pub async fn columns<'q>(&mut self, query: impl Into<Query<'q>>) -> Result<Vec<String>, DbError> {
        use sqlx::{Column as _, Executor as _, Statement as _};
        let query = query.into();
        let sql = self.dialect().render(&query.sql, &self.clock).into_owned();
        match &mut self.inner {
            TxInner::MySql(tx) => (&mut **tx)
                .prepare(&sql)
                .await
                .map(|statement| statement.columns().iter().map(|c| c.name().to_owned()).collect()),
            TxInner::Sqlite(tx) => (&mut **tx)
                .prepare(&sql)
                .await
                .map(|statement| statement.columns().iter().map(|c| c.name().to_owned()).collect()),
        }
        .map_err(|error| DbError::new(query.name, error))
    }

    /// Commits.
    pub async fn commit(self) -> Result<(), DbError> {
        match self.inner {
            TxInner::MySql(tx) => tx.commit().await,
            TxInner::Sqlite(tx) => tx.commit().await,
        }
        .map_err(|error| DbError::new("commit", error))
    }

    /// Rolls back, and waits until that is done.
    pub async fn rollback(self) -> Result<(), DbError> {
        match self.inner {
            TxInner::MySql(tx) => tx.rollback().await,
            TxInner::Sqlite(tx) => tx.rollback().await,
        }
        .map_err(|error| DbError::new("rollback", error))
    }
}
