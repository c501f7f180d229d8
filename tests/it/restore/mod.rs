//! Rows that vanish and are restored: snapshots compared with the live database, and restores.

mod altered;
mod any_types;
mod cases;
mod children;
mod conflict_rules;
mod diffs;
mod emptied;
mod hostile;
mod identity;
mod keys;
mod kills;
mod kinds;
mod lab;
mod mistakes;
mod odd_values;
mod plans;
mod property;
mod referrers;
mod size;
mod stale;
mod story;
mod strangers;
mod taken_out;
mod tombstones;
mod triggers;
mod undo_files;
mod unique_keys;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::atomic::{AtomicI64, Ordering},
};

use chrono::{DateTime, TimeDelta, Utc};
use daymend::{
    args,
    clock::Clock,
    db::{Mode, Query},
    snapshot::{self, Decoder, Name, Store, Value, schema},
};
use serde_json::Value as Json;

use crate::support::{
    Engine, TestDb,
    process::{run, run_ok},
    server,
};

/// The rows of every table, by its name.
#[derive(Debug, Default, PartialEq)]
pub struct Dump {
    pub rows: BTreeMap<String, Vec<Vec<Value>>>,
    printed: BTreeMap<String, String>,
}

/// A database, a user who may write all of its rows, and a directory for snapshots and files.
pub struct Scene {
    pub db: TestDb,
    pub url: String,
    pub dir: tempfile::TempDir,
    tables: Vec<String>,
    takes: AtomicI64,
}

impl Scene {
    /// Creates a database with these tables.
    pub async fn new(engine: Engine, tables: &[&str]) -> Self {
        Self::on(TestDb::new(engine).await, tables).await
    }

    /// Creates these tables in a database.
    pub async fn on(db: TestDb, tables: &[&str]) -> Self {
        let mut names = Vec::new();
        for sql in tables {
            db.execute(sql, vec![]).await;
            names.push(sql.split_whitespace().nth(2).unwrap().to_owned());
        }
        Self::of(db, names).await
    }

    /// Creates a scene of a database that has these tables.
    async fn of(db: TestDb, tables: Vec<String>) -> Self {
        let url = operator(&db).await;
        Self { db, url, dir: tempfile::tempdir().unwrap(), tables, takes: AtomicI64::new(0) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn file(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }

    /// Takes a snapshot of the tables.
    pub async fn take(&self) -> Name {
        let store = Store::dir(self.path("snapshots"));
        let clock = Clock::Fixed(self.next_time());
        let manifest = snapshot::take(&self.db.admin, &store, Some(&self.tables), clock, &|_| {}).await;
        manifest.unwrap_or_else(|error| panic!("{}", daymend::error::chain(&error))).name
    }

    /// Returns a time for a snapshot, a second after the last one: its name is its second.
    fn next_time(&self) -> DateTime<Utc> {
        let first: DateTime<Utc> = "2026-11-22T04:00:00Z".parse().unwrap();
        first + TimeDelta::seconds(self.takes.fetch_add(1, Ordering::Relaxed))
    }

    /// Builds the arguments of a snapshot command, with the operator's URL and the files of this scene.
    pub fn args<'a>(&'a self, command: &[&'a str]) -> Vec<String> {
        let mut args = vec!["--database-url".to_owned(), self.url.clone(), "snapshot".to_owned()];
        args.extend(command.iter().map(|arg| (*arg).to_owned()));
        if command[0] != "undo" {
            args.extend(["--store".to_owned(), self.path("snapshots").display().to_string()]);
        }
        if command[0] == "restore" {
            args.extend(["--map".to_owned(), self.path("map.csv").display().to_string()]);
        }
        if command.contains(&"--apply") {
            args.extend(["--undo-file".to_owned(), self.path("undo.jsonl").display().to_string()]);
        }
        args
    }

    /// Runs a snapshot command that has to end with this exit code, and returns what it printed.
    pub fn run(&self, code: i32, command: &[&str]) -> String {
        let args = self.args(command);
        let output = run(&self.db, &args.iter().map(String::as_str).collect::<Vec<_>>());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, error) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{command:?}\n{out}\n{error}");
        if code == 2 { error } else { out }
    }

    /// Runs a snapshot command, and returns its exit code.
    pub fn run_any(&self, command: &[&str]) -> Option<i32> {
        let args = self.args(command);
        run(&self.db, &args.iter().map(String::as_str).collect::<Vec<_>>()).status.code()
    }

    /// Extracts the arguments of the undo command that a restore has printed.
    pub fn hint(printed: &str) -> Vec<&str> {
        let (_, hint) = printed.split_once("`daymend snapshot undo ").unwrap_or_else(|| panic!("{printed}"));
        let (hint, _) = hint.split_once('`').unwrap();
        [&["undo"][..], &hint.split(' ').collect::<Vec<_>>()].concat()
    }

    /// Like `run`, and parses the output as JSON.
    pub fn json(&self, code: i32, command: &[&str]) -> Json {
        let mut command = command.to_vec();
        command.push("--json");
        serde_json::from_str(&self.run(code, &command)).unwrap()
    }

    /// Reads every row of every table, in key order: once as daymend decodes it, and once without daymend's help, as the
    /// database prints it. (MariaDB's tool does not print every digit of a FLOAT or a DOUBLE.)
    pub async fn dump(&self) -> Dump {
        let mut tx = self.db.admin.begin(Mode::Snapshot).await.unwrap();
        let mut dump = Dump::default();
        for name in &self.tables {
            let table = schema::read(&mut tx, name).await.unwrap().unwrap();
            let order = table.primary_key.join(", ");
            let sql = format!("SELECT * FROM {name} ORDER BY {order}");
            let rows = tx.fetch_all(Query::new("dump", sql), vec![], Ok).await.unwrap();
            let decoder = Decoder::new(&table.columns);
            let decoded = rows.iter().map(|row| decoder.values(row).unwrap()).collect();
            let printed = match self.db.engine {
                Engine::MariaDb => crate::snapshot::dump(&self.db, name),
                Engine::Sqlite => {
                    let columns = Query::new("columns", "SELECT name FROM pragma_table_info(?)");
                    let columns = tx.fetch_all(columns, args![name.as_str()], |row| row.text(0)).await.unwrap();
                    let columns = columns.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\"")));
                    // Not every text is UTF-8. Only `quote` prints every digit of a number.
                    let number = |c: &str| format!("iif(typeof({c}) IN ('integer', 'real'), quote({c}), hex({c}))");
                    let columns: Vec<_> = columns.map(|c| format!("typeof({c}) || ' ' || {}", number(&c))).collect();
                    let sql = format!("SELECT {} FROM {name} ORDER BY {order}", columns.join(" || ', ' || "));
                    tx.fetch_all(Query::new("dump", sql), vec![], |row| row.text(0)).await.unwrap().join("\n")
                }
            };
            dump.rows.insert(name.clone(), decoded);
            dump.printed.insert(name.clone(), printed);
        }
        dump
    }

    /// Runs statements in one transaction.
    pub async fn execute_all(&self, statements: &[impl AsRef<str>]) {
        let mut tx = self.db.admin.begin(Mode::Write).await.unwrap();
        for sql in statements.iter().map(AsRef::as_ref) {
            // MySQL cannot prepare all of them.
            if let Err(error) = tx.execute_text("test", sql).await {
                panic!("{sql}: {}", daymend::error::chain(&error));
            }
        }
        tx.commit().await.unwrap();
    }
}

/// Creates a user who may read and write rows but alter no tables, and returns the URL.
async fn operator(db: &TestDb) -> String {
    if db.engine == Engine::Sqlite {
        return db.url.clone();
    }
    let (name, port) = (db.name(), server::port(&db.url));
    let grants = format!(
        "CREATE USER {name}_operator@'%' IDENTIFIED BY 'operator';
         GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.* TO {name}_operator@'%'"
    );
    server::run(port, &grants).await;
    format!("mysql://{name}_operator:operator@127.0.0.1:{port}/{name}")
}

/// Counts the rows of a report in a given state, by table.
pub fn rows(report: &Json, state: &str) -> BTreeMap<String, i64> {
    let mut rows = BTreeMap::new();
    for group in report["report"]["groups"].as_array().unwrap() {
        if group["state"] == state {
            *rows.entry(group["table"].as_str().unwrap().to_owned()).or_default() += group["rows"].as_i64().unwrap();
        }
    }
    rows
}

/// Counts the rows of one pair in a `diff`, by table: vanished, added, changed, and reused keys.
pub fn differences(diff: &Json) -> BTreeMap<String, [i64; 4]> {
    let count = |table: &Json, kind: &str| table[kind]["rows"].as_i64().unwrap();
    let table = |table: &Json| {
        let counts = ["vanished", "added", "changed", "reused"].map(|kind| count(table, kind));
        (table["table"].as_str().unwrap().to_owned(), counts)
    };
    diff["tables"].as_array().unwrap().iter().map(table).collect()
}

/// Builds `INSERT` statements of 500 rows each.
pub fn inserts(table: &str, rows: &[String]) -> Vec<String> {
    rows.chunks(500).map(|rows| format!("INSERT INTO {table} VALUES {}", rows.join(", "))).collect()
}

/// Runs any command, which has to succeed, and returns its output.
pub fn ok(db: &TestDb, args: &[&str]) -> String {
    run_ok(db, args)
}
