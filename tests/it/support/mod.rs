//! What the tests share: a private database of either kind, the lab system's data in it, the
//! `daymend` binary, and an independent calculation of the summary.
//!
//! A missing server fails a test with a sentence that says how to get one; nothing is skipped.
//! Servers and processes carry a parent-death signal (`setpriv --pdeathsig`), so that they end
//! with the test process however it ends.

pub mod delta_triggers;
pub mod doctor;
pub mod lab_system;
pub mod oracle;
pub mod process;
pub mod proxy;
pub mod server;
pub mod work;

use std::{
    future::Future,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use daymend::db::{Arg, ConnectOptions, Db, Mode, Query, Row, connect, migrate};

/// Which database a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    MariaDb,
    Sqlite,
}

/// A database of its own, with the lab system's tables and daymend's.
#[derive(Debug)]
pub struct TestDb {
    pub engine: Engine,
    pub url: String,
    pub db: Db,
    /// Holds the SQLite file.
    _dir: Option<tempfile::TempDir>,
}

static NEXT_DATABASE: AtomicU32 = AtomicU32::new(1);

impl TestDb {
    /// The lab system's source tables, and nothing of daymend's.
    pub async fn source_only(engine: Engine) -> Self {
        let (url, dir) = match engine {
            Engine::MariaDb => (database_on(server::shared_port()).await, None),
            Engine::Sqlite => {
                let dir = tempfile::tempdir().expect("a temporary directory");
                (format!("sqlite:{}", dir.path().join("lab.db").display()), Some(dir))
            }
        };
        Self::with_source_tables(engine, url, dir).await
    }

    /// The lab system's tables and daymend's, on a MariaDB server of the test's own.
    pub async fn on_server(port: u16) -> Self {
        let this = Self::with_source_tables(Engine::MariaDb, database_on(port).await, None).await;
        migrate::migrate(&this.db).await.expect("daymend migrate");
        this
    }

    async fn with_source_tables(engine: Engine, url: String, dir: Option<tempfile::TempDir>) -> Self {
        let db = connect(&url, ConnectOptions { create: true, ..ConnectOptions::new(20) }).expect("a database URL");
        let this = Self { engine, url, db, _dir: dir };
        let schema = match engine {
            Engine::MariaDb => include_str!("../../fixtures/source-schema.mysql.sql"),
            Engine::Sqlite => include_str!("../../../src/demo/source-schema.sqlite.sql"),
        };
        let schema: String =
            schema.lines().map(|line| line.split("--").next().unwrap_or_default().to_owned() + "\n").collect();
        for statement in schema.split(';').map(str::trim).filter(|sql| !sql.is_empty()) {
            this.execute(statement, vec![]).await;
        }
        this
    }

    /// The lab system's tables and daymend's.
    pub async fn new(engine: Engine) -> Self {
        let this = Self::source_only(engine).await;
        migrate::migrate(&this.db).await.expect("daymend migrate");
        this
    }

    /// Runs a statement; the number of rows it found.
    pub async fn execute(&self, sql: &str, args: Vec<Arg>) -> u64 {
        daymend::db::retry("test", || async {
            let mut tx = self.db.begin(Mode::Write).await?;
            let found = tx.execute(Query::new("test", sql), args.clone()).await?;
            tx.commit().await?;
            Ok::<_, daymend::db::DbError>(found)
        })
        .await
        .unwrap_or_else(|error| panic!("{sql}: {}", daymend::error::chain(&error)))
    }

    /// Reads rows.
    pub async fn rows(&self, sql: &str, args: Vec<Arg>) -> Vec<Row> {
        let mut tx = self.db.begin(Mode::Snapshot).await.expect("begin");
        let rows = tx.fetch_all(Query::new("test", sql), args).await;
        let rows = rows.unwrap_or_else(|error| panic!("{sql}: {}", daymend::error::chain(&error)));
        tx.commit().await.expect("commit");
        rows
    }

    /// Reads one number.
    pub async fn number(&self, sql: &str) -> i64 {
        self.rows(sql, vec![]).await[0].int(0).expect("a number")
    }

    /// Reads one text.
    pub async fn text(&self, sql: &str) -> String {
        self.rows(sql, vec![]).await[0].text(0).expect("a text")
    }
}

/// A new database on the server on that port; its URL.
async fn database_on(port: u16) -> String {
    let name = format!("t{}", NEXT_DATABASE.fetch_add(1, Ordering::Relaxed));
    server::create_database(port, &name).await;
    server::url(port, &name)
}

/// Waits until `condition` holds, at most `limit`.
pub async fn wait_until<F>(what: &str, limit: Duration, mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < limit, "waited {limit:?} for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Makes one test for each database out of an `async fn(Engine)`.
#[macro_export]
macro_rules! on_both {
    ($($(#[$meta:meta])* $name:ident;)*) => {
        $(mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mariadb() {
                super::$name($crate::support::Engine::MariaDb).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                super::$name($crate::support::Engine::Sqlite).await;
            }
        })*
    };
}
