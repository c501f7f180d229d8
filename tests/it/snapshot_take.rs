//! Taking a snapshot while others write, alter tables, and kill the process.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use daymend::{
    args,
    clock::Clock,
    db::{Mode, Query},
    snapshot::{self, SnapshotError, Store, verify},
};
use rand::RngExt as _;

use crate::{
    on_both,
    snapshot::{open_latest, rows, take},
    support::{
        Engine, TestDb,
        process::{Process, run_fails, run_ok},
        server, wait_until,
    },
};

const USAGE: i32 = 2;

/// The number of rows in tables that take a moment to copy.
const MANY: u32 = 60_000;

on_both! {
    foreign_keys_hold_inside_while_others_write;
    a_take_that_is_killed_leaves_nothing_that_looks_whole;
    memory_does_not_grow_with_the_rows;
    memory_is_that_of_some_long_rows;
    a_copy_of_all_tables_leaves_none_out;
}

/// Creates a table of this many rows, each of about 100 bytes.
async fn fill(db: &TestDb, table: &str, rows: u32) {
    let columns = "id INTEGER NOT NULL PRIMARY KEY, number BIGINT NOT NULL, words VARCHAR(200) NULL";
    db.execute(&format!("CREATE TABLE {table} ({columns})"), vec![]).await;
    let mut tx = db.admin.begin(Mode::Write).await.unwrap();
    let places = vec!["(?, ?, ?)"; 1000].join(", ");
    let insert = format!("INSERT INTO {table} VALUES {places}");
    for first in (0..rows).step_by(1000) {
        let values = (first..first + 1000).flat_map(|id| {
            args![
                id,
                i64::from(id) * 7919,
                format!("some words about row {id}, and then some more: {:x}", u64::from(id) << 32)
            ]
        });
        tx.execute(Query::new("test", insert.as_str()), values.collect()).await.unwrap();
    }
    tx.commit().await.unwrap();
}

async fn foreign_keys_hold_inside_while_others_write(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.execute("CREATE TABLE parents (id INTEGER NOT NULL PRIMARY KEY, children INT NOT NULL)", vec![]).await;
    db.execute(
        "CREATE TABLE children (id INTEGER NOT NULL PRIMARY KEY, parent INTEGER NOT NULL, FOREIGN KEY (parent) REFERENCES parents (id))",
        vec![],
    )
    .await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::dir(dir.path());
    let (stop, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
    let writing = async {
        for round in 0_i64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let mut tx = db.admin.begin(Mode::Write).await.unwrap();
            let mut run = async |sql: &'static str, values| {
                tx.execute(Query::new("test", sql), values).await.unwrap();
            };
            run("INSERT INTO parents VALUES (?, ?)", args![round, round % 4]).await;
            for child in 0..round % 4 {
                run("INSERT INTO children VALUES (?, ?)", args![round * 10 + child, round]).await;
            }
            let gone = round - 50;
            run("DELETE FROM children WHERE parent = ?", args![gone]).await;
            run("DELETE FROM parents WHERE id = ?", args![gone]).await;
            tx.commit().await.unwrap();
            rounds.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    };
    let taking = async {
        let is_written = async || rounds.load(Ordering::Relaxed) > 0;
        wait_until("somebody to commit", Duration::from_secs(120), is_written).await;
        // Four takes during which somebody commits.
        let (mut takes, mut beside, mut newest) = (0, 0, BTreeSet::new());
        while beside < 4 {
            takes += 1;
            assert!(takes <= 60, "somebody committed during only {beside} takes");
            let before = rounds.load(Ordering::Relaxed);
            take(&db, &store, &["children", "parents"]).await;
            beside += u32::from(rounds.load(Ordering::Relaxed) > before);
            let opened = open_latest(&store).await;
            let mut tx = opened.db.begin(Mode::Snapshot).await.unwrap();
            let wrong = "SELECT (SELECT COUNT(*) FROM children WHERE parent NOT IN (SELECT id FROM parents))
                 + (SELECT COUNT(*) FROM parents
                    WHERE children <> (SELECT COUNT(*) FROM children WHERE parent = parents.id))";
            let wrong = tx.fetch_one(Query::new("test", wrong), vec![], Ok).await.unwrap().int(0).unwrap();
            assert_eq!(wrong, 0);
            let parents = tx.fetch_one(Query::new("test", "SELECT MAX(id) FROM parents"), vec![], Ok).await.unwrap();
            newest.insert(parents.int(0).expect("parents"));
            let foreign = &opened.manifest.table("children").unwrap().table.foreign_keys;
            assert_eq!((foreign[0].parent.as_str(), foreign[0].parent_columns[0].as_str()), ("parents", "id"));
        }
        stop.store(true, Ordering::Relaxed);
        assert!(newest.len() > 1, "all snapshots have the same rows: {newest:?}");
        takes
    };
    let ((), takes) = tokio::join!(writing, taking);
    assert_eq!(store.names().await.unwrap().len(), takes);
}

async fn a_take_that_is_killed_leaves_nothing_that_looks_whole(engine: Engine) {
    let db = TestDb::new(engine).await;
    fill(&db, "billing2", MANY).await;
    let url = [("DAYMEND_SNAPSHOT_DATABASE_URL", db.url.as_str())];
    let admin = admin_url(&db);
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let store = Store::dir(dir.path());
    let arguments = ["snapshot", "take", "--to", place, "--table", "billing2"];
    let variable = (url[0].0, admin.as_str());
    let begun = std::time::Instant::now();
    Process::start_with(&db, &arguments, variable).wait(Duration::from_secs(120));
    let mut whole = begun.elapsed();
    let before = store.names().await.unwrap().len();
    assert_eq!(before, 1);
    let (mut takes, mut killed) = (0, 0);
    while takes < 12 || killed < 4 {
        takes += 1;
        assert!(takes <= 60, "only {killed} takes were killed");
        let begun = std::time::Instant::now();
        let mut process = Process::start_with(&db, &arguments, variable);
        tokio::time::sleep(whole.mul_f64(rand::rng().random_range(0.0..1.1))).await;
        if process.is_running() {
            killed += 1;
        } else if process.wait(Duration::from_secs(120)) == Some(0) {
            // The first take may have been slower than the others.
            whole = whole.min(begun.elapsed());
        }
        drop(process);
        for (name, manifest) in store.list().await.unwrap() {
            let manifest = manifest.unwrap();
            assert_eq!(manifest.rows(), u64::from(MANY), "{name}");
            assert!(dir.path().join(name.data()).exists());
        }
    }
    let mut last = Process::start_with(&db, &arguments, variable);
    assert_eq!(last.wait(Duration::from_secs(120)), Some(0));
    let names = store.names().await.unwrap();
    for name in &names {
        assert!(verify::verify(&store, *name, |_| ()).await.unwrap().is_whole());
    }
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, names.len() * 2 + 1, "leftovers of killed takes are gone");
}

/// Returns the URL of an administrator, for tables that no user of daymend may read.
fn admin_url(db: &TestDb) -> String {
    match db.engine {
        Engine::Sqlite => db.url.clone(),
        Engine::MariaDb => server::url(server::port(&db.url), db.name()),
    }
}

async fn memory_does_not_grow_with_the_rows(engine: Engine) {
    let db = TestDb::new(engine).await;
    fill(&db, "billing2", MANY * 4).await;
    let once_kib = peak_of_take(&db, "billing2").await;
    // With fewer rows, caches and buffers are not full yet.
    let double = format!("INSERT INTO billing2 SELECT id + {}, number, words FROM billing2", MANY * 4);
    db.execute(&double, vec![]).await;
    let twice_kib = peak_of_take(&db, "billing2").await;
    println!("{engine:?}: {once_kib} KiB, then {twice_kib} KiB");
    assert!(once_kib > 1024 && twice_kib < 64 * 1024, "{once_kib} KiB, then {twice_kib} KiB");
    assert!(twice_kib < once_kib + 8 * 1024, "twice as many rows: {once_kib} KiB, then {twice_kib} KiB");
}

/// Only a few rows are in memory at a time, not a page: these are 160 MB. From SQLite, the driver reads fifty rows ahead.
async fn memory_is_that_of_some_long_rows(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.execute("CREATE TABLE reports (id BIGINT NOT NULL PRIMARY KEY, body LONGTEXT NOT NULL)", vec![]).await;
    let (rows, body, rows_at_once) = match engine {
        Engine::MariaDb => (20, "REPEAT('0', 8000000)", 10 * 8),
        Engine::Sqlite => (160, "hex(zeroblob(500000))", 50),
    };
    for id in 1..=rows {
        db.execute(&format!("INSERT INTO reports VALUES ({id}, {body})"), vec![]).await;
    }
    let peak_kib = peak_of_take(&db, "reports").await;
    println!("{engine:?}: {peak_kib} KiB");
    assert!(peak_kib > 1024 && peak_kib < (64 + rows_at_once) * 1024, "{peak_kib} KiB");
}

/// Takes a snapshot of a table in a process, and returns the peak of its memory in KiB.
async fn peak_of_take(db: &TestDb, table: &str) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let admin = admin_url(db);
    let arguments = ["snapshot", "take", "--to", dir.path().to_str().unwrap(), "--table", table];
    let mut process = Process::start_with(db, &arguments, ("DAYMEND_SNAPSHOT_DATABASE_URL", &admin));
    let mut peak_kib = 0;
    while process.is_running() {
        peak_kib = process.memory_peak_kib().unwrap_or(0).max(peak_kib);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(process.wait(Duration::from_secs(1)), Some(0));
    peak_kib
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_table_that_is_altered_meanwhile_is_copied_anew() {
    let db = TestDb::new(Engine::MariaDb).await;
    for table in ["first", "second"] {
        db.execute(&format!("CREATE TABLE {table} (id INT PRIMARY KEY, a INT)"), vec![]).await;
        db.execute(&format!("INSERT INTO {table} VALUES (1, 1), (2, 2)"), vec![]).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::dir(dir.path());
    let tables = ["first".to_owned(), "second".to_owned()];
    // When it is the second table's turn, somebody alters that table, at most this many times.
    let altering = |most: u32| {
        let times = AtomicU32::new(0);
        let db = &db;
        move |progress: &snapshot::Progress, sql: &dyn Fn(u32) -> Vec<String>| {
            let time = times.load(Ordering::Relaxed);
            if progress.table != "second" || time >= most {
                return;
            }
            times.store(time + 1, Ordering::Relaxed);
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(async {
                    for sql in sql(time) {
                        db.execute(&sql, vec![]).await;
                    }
                });
            });
        }
    };
    let add = |time: u32| vec![format!("ALTER TABLE second ADD COLUMN more_{time} INT DEFAULT 5")];
    let (once, always) = (altering(1), altering(u32::MAX));
    let progress = |progress: &snapshot::Progress| once(progress, &add);
    let manifest = snapshot::take(&db.admin, &store, Some(&tables), Clock::System, &progress).await.unwrap();
    assert_eq!(manifest.table("second").unwrap().table.columns.last().unwrap().name, "more_0");
    // A column that is gone when the table's turn comes.
    let drop = |_| vec!["ALTER TABLE second DROP COLUMN more_0".to_owned()];
    let dropping = altering(1);
    let progress = |progress: &snapshot::Progress| dropping(progress, &drop);
    let manifest = snapshot::take(&db.admin, &store, Some(&tables), Clock::System, &progress).await.unwrap();
    assert_eq!(manifest.table("second").unwrap().table.columns.last().unwrap().name, "a");
    // Another table in its place, as at the end of an online schema change.
    db.execute("CREATE TABLE ghost LIKE second", vec![]).await;
    db.execute("INSERT INTO ghost SELECT * FROM second", vec![]).await;
    let swap = |_| vec!["RENAME TABLE second TO old, ghost TO second".to_owned()];
    let swapped = altering(1);
    let progress = |progress: &snapshot::Progress| swapped(progress, &swap);
    take_with(&db, &store, &tables, &progress).await.unwrap();
    let opened = open_latest(&store).await;
    assert_eq!(rows(&opened, "second").await.len(), 2);
    let add = |time: u32| vec![format!("ALTER TABLE second ADD COLUMN again_{time} INT")];
    let progress = |progress: &snapshot::Progress| always(progress, &add);
    let error = take_with(&db, &store, &tables, &progress).await.unwrap_err();
    assert!(matches!(&error, SnapshotError::Altered(table) if table == "second"), "{error}");
}

/// SQLite's read view covers definitions, but begins after they were read.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_table_of_sqlite_that_is_altered_before_its_copy_begins_is_copied_anew() {
    let db = TestDb::new(Engine::Sqlite).await;
    db.execute("CREATE TABLE first (id INTEGER NOT NULL PRIMARY KEY, a INT)", vec![]).await;
    db.execute("INSERT INTO first VALUES (1, 1)", vec![]).await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::dir(dir.path());
    for (alter, expected) in [("ADD COLUMN b INT DEFAULT 5", 3), ("DROP COLUMN a", 2)] {
        let altered = AtomicBool::new(false);
        let progress = |_: &snapshot::Progress| {
            if !altered.swap(true, Ordering::Relaxed) {
                tokio::task::block_in_place(|| {
                    let alter = format!("ALTER TABLE first {alter}");
                    tokio::runtime::Handle::current().block_on(db.execute(&alter, vec![]));
                });
            }
        };
        let manifest = take_with(&db, &store, &["first".to_owned()], &progress).await.unwrap();
        assert_eq!(manifest.table("first").unwrap().table.columns.len(), expected, "{alter}");
        assert_eq!(rows(&open_latest(&store).await, "first").await[0].len(), expected);
    }
}

async fn take_with(
    db: &TestDb,
    store: &Store,
    tables: &[String],
    progress: &(dyn Fn(&snapshot::Progress) + Send + Sync),
) -> Result<snapshot::Manifest, SnapshotError> {
    snapshot::take(&db.admin, store, Some(tables), Clock::System, progress).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_who_alters_or_writes_waits_for_the_end() {
    let db = TestDb::new(Engine::MariaDb).await;
    fill(&db, "first", 2000).await;
    fill(&db, "second", 2000).await;
    let mut tx = db.admin.begin(Mode::Write).await.unwrap();
    tx.execute(Query::new("test", "UPDATE first SET number = 0 WHERE id = 5"), vec![]).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::dir(dir.path());
    // A row that somebody has locked is read as it was.
    take(&db, &store, &["first", "second"]).await;
    tx.commit().await.unwrap();
    let row = &rows(&open_latest(&store).await, "first").await[5];
    assert_eq!(row[1], snapshot::Value::Int(5 * 7919));
    // While a table is copied, the one before it is altered by a session that waits for a second at most.
    let altered = std::sync::Mutex::new(None);
    let progress = |progress: &snapshot::Progress| {
        let mut altered = altered.lock().unwrap();
        if progress.table == "second" && altered.is_none() {
            let alter = async {
                let mut tx = db.admin.begin(Mode::Write).await.unwrap();
                tx.execute_text("test", "SET SESSION lock_wait_timeout = 1").await.unwrap();
                let altered = tx.execute_text("test", "ALTER TABLE first ADD COLUMN more INT").await;
                tx.discard();
                altered
            };
            *altered = Some(tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(alter)));
        }
    };
    take_with(&db, &store, &["first".to_owned(), "second".to_owned()], &progress).await.unwrap();
    altered.into_inner().unwrap().expect("it was tried").expect("it did not have to wait");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_on_all_tables_may_come_by_a_role() {
    let db = TestDb::new(Engine::MariaDb).await;
    let (name, port) = (db.name(), server::port(&db.url));
    let user = format!(
        "CREATE ROLE {name}_reads;
         GRANT SELECT ON {name}.* TO {name}_reads;
         CREATE USER {name}_roled@'%' IDENTIFIED BY 'roled';
         GRANT SELECT ON {name}.labs TO {name}_roled@'%';
         GRANT {name}_reads TO {name}_roled@'%'"
    );
    server::run(port, &user).await;
    let url = format!("mysql://{name}_roled:roled@127.0.0.1:{port}/{name}");
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("store");
    let take =
        ["snapshot", "take", "--all", "--json", "--snapshot-database-url", &url, "--to", place.to_str().unwrap()];
    // A role that is not enabled gives no privilege.
    let error = run_fails(&db, USAGE, &take);
    assert!(error.contains("SELECT on the whole database"), "{error}");
    let to = server::Product::tested().word_before_who_has_a_role();
    server::run(port, &format!("SET DEFAULT ROLE {name}_reads {to} {name}_roled@'%'")).await;
    let manifest: serde_json::Value = serde_json::from_str(&run_ok(&db, &take)).unwrap();
    let tables = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE()";
    assert_eq!(manifest["tables"].as_array().unwrap().len() as i64, db.number(tables).await);
}

/// The user of deploy/mysql/grants.sql only sees the tables on which it has a privilege.
async fn a_copy_of_all_tables_leaves_none_out(engine: Engine) {
    let db = TestDb::new(engine).await;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("store");
    let all = ["snapshot", "take", "--all", "--json", "--to", place.to_str().unwrap()];
    for table in ["nowhere", "daymend_dirty"] {
        if engine == Engine::Sqlite && table == "daymend_dirty" {
            continue;
        }
        let error = run_fails(&db, USAGE, &["snapshot", "take", "--table", table, "--to", place.to_str().unwrap()]);
        assert!(error.contains(&format!("table {table} does not exist, or this user has no right on it")), "{error}");
    }
    let tables = match engine {
        Engine::Sqlite => "SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
        Engine::MariaDb => {
            let error = run_fails(&db, USAGE, &all);
            assert!(
                error.contains("--all would leave out") && error.contains("SELECT on the whole database"),
                "{error}"
            );
            assert!(Store::dir(&place).names().await.unwrap().is_empty());
            db.execute(&format!("GRANT SELECT ON {0}.* TO {0}_snapshot@'%'", db.name()), vec![]).await;
            "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE()"
        }
    };
    let manifest: serde_json::Value = serde_json::from_str(&run_ok(&db, &all)).unwrap();
    let taken = i64::try_from(manifest["tables"].as_array().unwrap().len()).unwrap();
    assert_eq!(taken, db.number(tables).await);
    // A database without tables has nothing to copy.
    let empty = dir.path().join("empty.db");
    std::fs::write(&empty, "").unwrap();
    let url = format!("sqlite:{}", empty.display());
    let error = run_fails(&db, USAGE, &[&all[..], &["--snapshot-database-url", &url]].concat());
    assert!(error.contains("has no table to copy"), "{error}");
}
