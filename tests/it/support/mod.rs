//! Shared test support: a private database of either kind, the lab system's data in it, the `daymend` binary, and an
//! independent calculation of the summary.
//!
//! A missing server fails a test with a message that says how to install one; no test is skipped. Servers and
//! processes are started with a parent-death signal (`setpriv --pdeathsig`), so they end with the test process,
//! however it ends.

pub mod dashboard;
pub mod delta_triggers;
pub mod dirty;
pub mod doctor;
pub mod drifting;
pub mod dump;
pub mod grants;
pub mod http;
pub mod lab_system;
pub mod oracle;
pub mod process;
pub mod prometheus;
pub mod promql;
pub mod proxy;
pub mod rules;
pub mod s3;
pub mod server;
pub mod work;

use std::{
    future::Future,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use daymend::db::{Arg, ConnectOptions, Db, Mode, Query, Row, Tx, connect, migrate};

/// Which database a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    MariaDb,
    Sqlite,
}

/// A database of one test, with the lab system's tables and daymend's.
///
/// On MariaDB, the code under test, binary and library, has the privileges of `deploy/mysql/grants.sql` and no others.
/// Only what a test itself prepares, damages and counts is done as an administrator.
#[derive(Debug)]
pub struct TestDb {
    pub engine: Engine,
    /// For the binary, except `daymend migrate`.
    pub url: String,
    /// For `daymend migrate`.
    pub migrate_url: String,
    /// For `daymend triggers`, which an administrator runs.
    pub triggers_url: String,
    /// For `daymend snapshot take`.
    pub snapshot_url: String,
    /// For the library under test.
    pub db: Db,
    /// For the test itself.
    pub admin: Db,
    /// The directory of the SQLite file.
    _dir: Option<tempfile::TempDir>,
}

/// Tables that somebody has locked; free when it is dropped.
#[derive(Debug)]
pub struct Locked(Option<Tx>);

impl Drop for Locked {
    fn drop(&mut self) {
        // The locks are the session's, and end with its connection.
        if let Some(tx) = self.0.take() {
            tx.discard();
        }
    }
}

static NEXT_DATABASE: AtomicU32 = AtomicU32::new(1);

impl TestDb {
    /// Creates a database with the lab system's source tables and none of daymend's.
    pub async fn source_only(engine: Engine) -> Self {
        match engine {
            Engine::MariaDb => Self::source_on_server(server::shared_port()).await,
            Engine::Sqlite => {
                let dir = server::scratch();
                let url = format!("sqlite:{}", dir.path().join("lab.db").display());
                let db = pool(&url);
                let this = Self {
                    engine,
                    migrate_url: url.clone(),
                    triggers_url: url.clone(),
                    snapshot_url: url.clone(),
                    url,
                    admin: db.clone(),
                    db,
                    _dir: Some(dir),
                };
                this.run_script(include_str!("../../../src/demo/source-schema.sqlite.sql")).await;
                this
            }
        }
    }

    async fn source_on_server(port: u16) -> Self {
        Self::source_named(port, &format!("t{}", NEXT_DATABASE.fetch_add(1, Ordering::Relaxed))).await
    }

    async fn source_named(port: u16, name: &str) -> Self {
        server::create_database(port, name).await;
        let (url, migrate_url) = (grants::run_time_url(port, name), grants::migrate_url(port, name));
        let triggers_url = server::url(port, name);
        let (db, admin) = (pool(&url), pool(&triggers_url));
        let snapshot_url = grants::snapshot_url(port, name);
        let this =
            Self { engine: Engine::MariaDb, url, migrate_url, triggers_url, snapshot_url, db, admin, _dir: None };
        this.run_script(include_str!("../../fixtures/source-schema.mysql.sql")).await;
        server::run(port, &grants::statements(name)).await;
        this
    }

    /// Creates a database of the same name, with the same users, on another MariaDB server.
    pub async fn namesake_on(&self, port: u16) -> Self {
        let this = Self::source_named(port, self.name()).await;
        this.migrate().await;
        this
    }

    /// Creates a database with the lab system's tables and daymend's on the MariaDB server on that port.
    pub async fn on_server(port: u16) -> Self {
        let this = Self::source_on_server(port).await;
        this.migrate().await;
        this
    }

    /// Creates a database with the lab system's tables and daymend's.
    pub async fn new(engine: Engine) -> Self {
        let this = Self::source_only(engine).await;
        this.migrate().await;
        this
    }

    /// Creates daymend's tables.
    pub async fn migrate(&self) {
        let db = connect(&self.migrate_url, ConnectOptions::new(1)).expect("a database URL");
        migrate::migrate(&db).await.expect("daymend migrate");
        db.close().await;
    }

    /// Returns the name of the database on its MariaDB server, which is also that of its run-time user.
    pub fn name(&self) -> &str {
        self.url.rsplit_once('/').map_or("", |(_, name)| name)
    }

    /// Returns the same database with the processes' connections going through a proxy.
    pub fn through(&self, proxy: &proxy::Proxy) -> Self {
        Self {
            engine: self.engine,
            url: server::at_port(&self.url, proxy.port) + if proxy.reads { "?ssl-mode=DISABLED" } else { "" },
            migrate_url: self.migrate_url.clone(),
            triggers_url: self.triggers_url.clone(),
            snapshot_url: self.snapshot_url.clone(),
            db: self.db.clone(),
            admin: self.admin.clone(),
            _dir: None,
        }
    }

    async fn run_script(&self, text: &str) {
        for statement in server::statements(text) {
            self.execute(&statement, vec![]).await;
        }
    }

    /// Runs a statement as an administrator, and returns the number of rows it found.
    pub async fn execute(&self, sql: &str, args: Vec<Arg>) -> u64 {
        daymend::db::retry("test", || async {
            let mut tx = self.admin.begin(Mode::Write).await?;
            // MySQL cannot prepare these.
            let found = if sql.starts_with("CREATE TRIGGER") || sql.starts_with("DROP TRIGGER") {
                tx.execute_text("test", sql).await.map(|()| 0)?
            } else {
                tx.execute(Query::new("test", sql), args.clone()).await?
            };
            tx.commit().await?;
            Ok::<_, daymend::db::DbError>(found)
        })
        .await
        .unwrap_or_else(|error| panic!("{sql}: {}", daymend::error::chain(&error)))
    }

    /// Makes the database refuse rows that meet a condition when they are inserted or updated, until the trigger `refuse`
    /// is dropped.
    pub async fn refuse(&self, event: &str, table: &str, condition: &str) {
        let on = format!("CREATE TRIGGER refuse BEFORE {event} ON {table}");
        let sql = match self.engine {
            Engine::MariaDb => {
                format!(
                    "{on} FOR EACH ROW IF {condition} THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not now'; END IF"
                )
            }
            Engine::Sqlite => format!("{on} WHEN {condition} BEGIN SELECT RAISE(ABORT, 'not now'); END"),
        };
        self.execute(&sql, vec![]).await;
    }

    /// Locks tables, on a server, as somebody else.
    pub async fn lock(&self, tables: &[&str]) -> Locked {
        let mut tx = self.admin.begin(Mode::Write).await.expect("begin");
        let tables: Vec<String> = tables.iter().map(|table| format!("{table} WRITE")).collect();
        tx.execute_text("lock", &format!("LOCK TABLES {}", tables.join(", "))).await.expect("the locks");
        Locked(Some(tx))
    }

    /// Creates tables, which may lack a primary key.
    pub async fn create_without_keys(&self, tables: &[&str]) {
        match self.engine {
            Engine::MariaDb => {
                let sql = format!("USE {}; {}", self.name(), tables.join("; "));
                server::run_without_keys(server::port(&self.url), &sql).await;
            }
            Engine::Sqlite => {
                for sql in tables {
                    self.execute(sql, vec![]).await;
                }
            }
        }
    }

    /// Reads rows as an administrator.
    pub async fn rows(&self, sql: &str, args: Vec<Arg>) -> Vec<Row> {
        let mut tx = self.admin.begin(Mode::Snapshot).await.expect("begin");
        let rows = tx.fetch_all(Query::new("test", sql), args, Ok).await;
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

fn pool(url: &str) -> Db {
    connect(url, ConnectOptions { create: true, ..ConnectOptions::new(20) }).expect("a database URL")
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

/// Generates one test per database from an `async fn(Engine)`.
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
