//! A snapshot contains what the database contained, whatever the types.

use std::process::Command;

use daymend::{
    clock::Clock,
    db::{Arg, Mode, Query},
    snapshot::{self, Manifest, Opened, Store, Value, schema},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    on_both,
    support::{Engine, TestDb, server},
};

/// The number of random tables that are tried; each has this many rows.
pub const TABLES: u64 = 6;
const ROWS: u32 = 40;

on_both! {
    the_default_tables_are_copied_and_read_back;
    a_table_needs_something_to_tell_its_rows_apart;
    a_table_that_a_file_cannot_have_is_named;
}

/// Takes a snapshot as an administrator.
pub async fn take(db: &TestDb, store: &Store, tables: &[&str]) -> Manifest {
    let tables: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let taken = snapshot::take(&db.admin, store, Some(&tables), Clock::System, &|_| ()).await;
    taken.unwrap_or_else(|error| panic!("{}", daymend::error::chain(&error)))
}

/// Opens the newest snapshot.
pub async fn open_latest(store: &Store) -> Opened {
    let name = store.names().await.unwrap().pop().expect("a snapshot");
    snapshot::open(store, name).await.unwrap_or_else(|error| panic!("{}", daymend::error::chain(&error)))
}

/// Reads all rows of a table of a snapshot, in key order.
pub async fn rows(opened: &Opened, table: &str) -> Vec<Vec<Value>> {
    let copy = opened.manifest.table(table).expect("the table");
    let quote = |name: &str| schema::quote(opened.db.dialect(), name);
    let key: Vec<String> = copy.key.iter().map(|name| quote(name)).collect();
    let sql = format!("SELECT * FROM {} ORDER BY {}", quote(table), key.join(", "));
    let decoder = snapshot::Decoder::new(&copy.table.columns);
    let mut tx = opened.db.begin(Mode::Snapshot).await.unwrap();
    let rows = tx.fetch_all(Query::new("test", sql), vec![], Ok).await.unwrap();
    rows.iter().map(|row| decoder.values(row).unwrap()).collect()
}

async fn the_default_tables_are_copied_and_read_back(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.fill_lab(1, "2026-03-01".parse().unwrap(), 3, 20).await;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let printed = crate::support::process::run_ok(&db, &["snapshot", "take", "--to", place]);
    assert!(printed.contains("8 tables"), "{printed}");
    let opened = open_latest(&Store::dir(dir.path())).await;
    for table in &opened.manifest.tables {
        let live = db.number(&format!("SELECT COUNT(*) FROM {}", table.table.name)).await;
        assert_eq!(i64::try_from(table.rows).unwrap(), live, "{}", table.table.name);
        assert_eq!(rows(&opened, &table.table.name).await.len() as u64, table.rows);
    }
    assert_eq!(opened.manifest.table("billing").unwrap().rows, 60);
    let first = &rows(&opened, "billing").await[0];
    assert_eq!(first[0], Value::Int(1_000_000));
    let mut files: Vec<String> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let name = opened.manifest.name;
    assert_eq!(files, [".daymend-snapshots.lock".to_owned(), name.manifest(), name.data()]);
}

async fn a_table_needs_something_to_tell_its_rows_apart(engine: Engine) {
    let db = TestDb::new(engine).await;
    let store_dir = tempfile::tempdir().unwrap();
    let store = Store::dir(store_dir.path());
    let tables = [
        "CREATE TABLE by_unique (a INT NULL, b INT NOT NULL UNIQUE)",
        "CREATE TABLE by_all (a INT NOT NULL, b VARCHAR(9) NOT NULL)",
        "CREATE TABLE by_nothing (a INT NULL)",
    ];
    db.create_without_keys(&tables).await;
    for sql in ["INSERT INTO by_unique VALUES (1, 3), (NULL, 2)", "INSERT INTO by_all VALUES (2, 'b'), (1, 'c')"] {
        db.execute(sql, vec![]).await;
    }
    take(&db, &store, &["by_unique", "by_all"]).await;
    let opened = open_latest(&store).await;
    assert_eq!(rows(&opened, "by_unique").await, [[Value::Null, Value::Int(2)], [Value::Int(1), Value::Int(3)]]);
    assert_eq!(rows(&opened, "by_all").await[0][0], Value::Int(1));
    let refused = async |table: &str| {
        let tables = [table.to_owned()];
        let taken = snapshot::take(&db.admin, &store, Some(&tables), Clock::System, &|_| ()).await;
        taken.expect_err(table).to_string()
    };
    assert!(refused("by_nothing").await.contains("no primary key"), "{}", refused("by_nothing").await);
    db.execute("INSERT INTO by_all VALUES (2, 'b')", vec![]).await;
    assert!(refused("by_all").await.contains("some of its rows are identical"));
    assert!(refused("nowhere").await.contains("does not exist"));
    assert_eq!(store.names().await.unwrap().len(), 1);
}

/// In SQLite, a primary key may be NULL, in any number of rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_whose_key_is_null_is_named() {
    let db = TestDb::new(Engine::Sqlite).await;
    db.execute("CREATE TABLE codes (code TEXT PRIMARY KEY, v INT)", vec![]).await;
    db.execute("INSERT INTO codes VALUES ('a', 1), (NULL, 2), (NULL, 3)", vec![]).await;
    let dir = tempfile::tempdir().unwrap();
    let tables = ["codes".to_owned()];
    let taken = snapshot::take(&db.admin, &Store::dir(dir.path()), Some(&tables), Clock::System, &|_| ()).await;
    let expected = "table codes cannot be copied: its key, code, is NULL in some rows (give them one, or name the \
                    other tables with --table)";
    assert_eq!(taken.unwrap_err().to_string(), expected);
}

async fn a_table_that_a_file_cannot_have_is_named(engine: Engine) {
    let db = TestDb::new(engine).await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::dir(dir.path());
    let cases: &[(&[&str], &str)] = match engine {
        Engine::Sqlite => &[(&["_Daymend_Tables"], "table _Daymend_Tables cannot be copied: every snapshot has")],
        // SQLite itself cannot have such tables.
        Engine::MariaDb => &[
            (&["Sqlite_x"], "table Sqlite_x cannot be copied: snapshots are SQLite files"),
            (&["_daymend_tables"], "table _daymend_tables cannot be copied: every snapshot has"),
            (&["Twice", "tWICE"], "SQLite cannot distinguish it from"),
        ],
    };
    for (tables, expected) in cases {
        for table in *tables {
            db.execute(&format!("CREATE TABLE {table} (id INT NOT NULL PRIMARY KEY)"), vec![]).await;
        }
        let taken = snapshot::take(&db.admin, &store, None, Clock::System, &|_| ()).await;
        let error = taken.expect_err(tables[0]);
        assert!(error.to_string().contains(expected), "{error}");
        assert!(matches!(error, snapshot::SnapshotError::NotCopyable { .. }), "{error:?}");
        for table in *tables {
            db.execute(&format!("DROP TABLE {table}"), vec![]).await;
        }
    }
    snapshot::take(&db.admin, &store, None, Clock::System, &|_| ()).await.unwrap();
}

/// A MariaDB type, and a function that returns a literal of it.
type Kind = (&'static str, fn(&mut StdRng) -> String);

fn text(random: &mut StdRng, most: usize) -> String {
    const PIECES: [&str; 10] = ["a", "Z", "é", "ß", "🩸", "'", "\\", "\0", " ", "م"];
    let count = random.random_range(0..=most);
    let text: String = (0..count).map(|_| PIECES[random.random_range(0..PIECES.len())]).collect();
    format!("CONVERT(X'{}' USING utf8mb4)", hex::encode(text.as_bytes()))
}

fn bytes(random: &mut StdRng, most: usize) -> String {
    let count = random.random_range(0..=most);
    let bytes: Vec<u8> = (0..count).map(|_| random.random_range(0..4_u8) * 85).collect();
    format!("X'{}'", hex::encode(&bytes))
}

fn pick(random: &mut StdRng, from: &[&str]) -> String {
    from[random.random_range(0..from.len())].to_owned()
}

const KINDS: &[Kind] = &[
    ("TINYINT", |random| pick(random, &["-128", "0", "127"])),
    ("SMALLINT UNSIGNED", |random| pick(random, &["0", "65535"])),
    ("MEDIUMINT", |random| pick(random, &["-8388608", "8388607"])),
    ("INT(10) UNSIGNED ZEROFILL", |random| pick(random, &["7", "4294967295"])),
    ("BIGINT", |random| pick(random, &["-9223372036854775808", "9223372036854775807"])),
    ("BIGINT UNSIGNED", |random| pick(random, &["9223372036854775807", "9223372036854775808", "18446744073709551615"])),
    ("DECIMAL(65,30)", |random| {
        pick(random, &["-99999999999999999999999999999999999.999999999999999999999999999999", "0", "0.1"])
    }),
    ("FLOAT", |random| format!("{:e}", random.random_range(-1e30_f32..1e30))),
    ("DOUBLE", |random| format!("{:e}", random.random_range(-1e300_f64..1e300))),
    ("DATE", |random| pick(random, &["'0000-00-00'", "'1000-01-01'", "'9999-12-31'"])),
    ("DATETIME", |random| pick(random, &["'0000-00-00 00:00:00'", "'2026-11-21 04:00:00'"])),
    ("DATETIME(6)", |random| {
        pick(random, &["'2026-11-21 04:00:00.000001'", "'9999-12-31 23:59:59.999999'", "'2026-01-01'"])
    }),
    ("TIMESTAMP(3) NULL", |random| pick(random, &["'1970-01-01 00:00:01.000'", "'2038-01-19 03:14:07.999'"])),
    ("TIME(6)", |random| pick(random, &["'-838:59:59'", "'00:00:00'", "'-00:00:00.000001'", "'838:59:59'"])),
    ("TIME", |random| pick(random, &["'-01:02:03'", "'100:00:00'"])),
    ("YEAR", |random| pick(random, &["0", "1901", "2155"])),
    ("CHAR(9)", |random| text(random, 9)),
    ("VARCHAR(40)", |random| text(random, 40)),
    ("VARCHAR(20) CHARACTER SET latin1", |random| pick(random, &["''", "'caf\u{e9}'", "' x'"])),
    ("MEDIUMTEXT", |random| text(random, 300)),
    ("BINARY(5)", |random| bytes(random, 5)),
    ("VARBINARY(30)", |random| bytes(random, 30)),
    ("LONGBLOB", |random| bytes(random, 70_000)),
    ("JSON", |random| pick(random, &["'{\"b\": [1, 2.50, null], \"a\": \"\\\\u00e9\"}'", "'[]'", "'\"🩸\"'"])),
    ("ENUM('x','','datetime(6)')", |random| pick(random, &["'x'", "''", "'datetime(6)'"])),
    ("SET('p','q','r')", |random| pick(random, &["''", "'p,r'", "'q'"])),
    ("BIT(12)", |random| pick(random, &["b'0'", "b'111111111111'", "b'1010'"])),
    ("BIT(1)", |random| pick(random, &["b'0'", "b'1'"])),
    ("POINT", |_| "ST_GeomFromText('POINT(1 2)')".to_owned()),
];

/// Types whose values differ often enough for a key.
const KEYS: &[&str] = &["INT", "BIGINT UNSIGNED", "VARCHAR(20)", "VARBINARY(20)", "DECIMAL(20,3)", "DATETIME(6)"];

fn key(kind: &str, number: u32) -> String {
    match kind {
        // Upper and lower case, accents: the server's order is not that of the bytes.
        "VARCHAR(20)" => format!("'{}{number}'", ["b", "A", "é", "Z", "_"][number as usize % 5]),
        "BIGINT UNSIGNED" => format!("{}", u64::MAX / 2 - 20 + u64::from(number)),
        "VARBINARY(20)" => format!("X'{:08X}'", number.wrapping_mul(2_654_435_761)),
        "DECIMAL(20,3)" => format!("{}.5", i64::from(number) - 20),
        "DATETIME(6)" => format!("'2026-11-21 04:00:00.{number:06}'"),
        _ => format!("{}", i64::from(number) - 20),
    }
}

/// Formats a value as a MySQL literal.
fn literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Int(value) => value.to_string(),
        Value::Real(value) => format!("{value:e}"),
        Value::Text(text) => format!("CONVERT(X'{}' USING utf8mb4)", hex::encode(text)),
        Value::Blob(bytes) => format!("X'{}'", hex::encode(bytes)),
    }
}

/// Dumps the rows of a table with the server's own tool.
pub fn dump(db: &TestDb, table: &str) -> String {
    let output = Command::new("mariadb-dump")
        .args(["--no-defaults", "--host=127.0.0.1", "--user=admin", "--password=admin-test", "--hex-blob", "--compact"])
        .args([
            "--single-transaction",
            "--no-create-info",
            "--skip-extended-insert",
            "--order-by-primary",
            "--default-character-set=utf8mb4",
        ])
        .arg(format!("--port={}", server::port(&db.url)))
        .args([db.name(), table])
        .output()
        .expect("mariadb-dump (Debian's package mariadb-client)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Creates two tables of random types, the first with rows. Returns the number of columns besides the key.
pub async fn any_types(db: &TestDb, seed: u64) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let key_kind = KEYS[usize::try_from(seed).unwrap() % KEYS.len()];
    let kinds: Vec<&Kind> = KINDS.iter().filter(|_| random.random_bool(0.7)).collect();
    let mut columns: Vec<String> =
        kinds.iter().enumerate().map(|(index, (kind, _))| format!("`c {index}` {kind}")).collect();
    columns.insert(random.random_range(0..columns.len()), format!("`the``key` {key_kind} NOT NULL PRIMARY KEY"));
    let columns = columns.join(", ");
    for table in ["one", "two"] {
        db.execute(&format!("DROP TABLE IF EXISTS {table}"), vec![]).await;
        db.execute(&format!("CREATE TABLE {table} ({columns})"), vec![]).await;
    }
    for number in 0..ROWS {
        let names: Vec<String> = (0..kinds.len()).map(|index| format!("`c {index}`")).collect();
        let values: Vec<String> = kinds
            .iter()
            .map(|(_, value)| if random.random_bool(0.15) { "NULL".to_owned() } else { value(&mut random) })
            .collect();
        let (names, values) = (names.join(", "), values.join(", "));
        let key = key(key_kind, number);
        db.execute(&format!("INSERT INTO one (`the``key`, {names}) VALUES ({key}, {values})"), vec![]).await;
    }
    kinds.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_any_types_put_back_is_what_the_server_dumped() {
    let db = TestDb::new(Engine::MariaDb).await;
    for seed in 0..TABLES {
        let kinds = any_types(&db, seed).await;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::dir(dir.path());
        let manifest = take(&db, &store, &["one"]).await;
        assert_eq!(manifest.tables[0].rows, u64::from(ROWS));
        let report = snapshot::verify::verify(&store, manifest.name, |_| ()).await.unwrap();
        assert!(report.is_whole(), "seed {seed}: {report:?}");
        let opened = open_latest(&store).await;
        for row in rows(&opened, "one").await {
            let values: Vec<String> = row.iter().map(literal).collect();
            db.execute(&format!("INSERT INTO two VALUES ({})", values.join(", ")), vec![]).await;
        }
        assert_eq!(dump(&db, "two").replace("INTO `two`", "INTO `one`"), dump(&db, "one"), "seed {seed}");
        // The tool does not print every digit of a FLOAT or a DOUBLE.
        for index in 0..kinds {
            let different = format!(
                "SELECT COUNT(*) FROM one JOIN two USING (`the``key`) WHERE NOT (BINARY one.`c {index}` <=> BINARY two.`c {index}`)
                 OR NOT (one.`c {index}` <=> two.`c {index}`)"
            );
            assert_eq!(db.number(&different).await, 0, "seed {seed}, column {index}");
        }
    }
}

/// Creates a SQLite table whose rows have values of every storage class in every column.
pub async fn any_classes(db: &TestDb) {
    db.execute("CREATE TABLE one (id TEXT COLLATE NOCASE PRIMARY KEY, \"a \"\"b\" INT, c, d REAL)", vec![]).await;
    let values = [
        "NULL",
        "0",
        "-9223372036854775808",
        "9223372036854775807",
        "1.5",
        "-0.0",
        "1e308",
        "''",
        "x''",
        "'🩸'",
        "CAST(x'00FF80' AS TEXT)",
        "x'00FF00'",
        "'12'",
        "'1e3'",
    ];
    let mut random = StdRng::seed_from_u64(7);
    for id in 0..200 {
        let any = (0..3).map(|_| pick(&mut random, &values)).collect::<Vec<_>>().join(", ");
        let id = format!("'{}{id}'", ["b", "A", "_"][id % 3]);
        db.execute(&format!("INSERT INTO one VALUES ({id}, {any})"), vec![]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_sqlite_keeps_every_storage_class() {
    let db = TestDb::new(Engine::Sqlite).await;
    any_classes(&db).await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::dir(dir.path());
    let manifest = take(&db, &store, &["one"]).await;
    assert!(snapshot::verify::verify(&store, manifest.name, |_| ()).await.unwrap().is_whole());
    let opened = open_latest(&store).await;
    let sql = "SELECT quote(id) || typeof(\"a \"\"b\") || quote(\"a \"\"b\") || typeof(c) || quote(c) || quote(hex(c))
               || typeof(d) || quote(d) FROM one ORDER BY CAST(id AS BLOB)";
    let live: Vec<String> = db.rows(sql, vec![]).await.iter().map(|row| row.text(0).unwrap()).collect();
    let mut tx = opened.db.begin(Mode::Snapshot).await.unwrap();
    let kept = tx.fetch_all(Query::new("test", sql), Vec::<Arg>::new(), Ok).await.unwrap();
    let kept: Vec<String> = kept.iter().map(|row| row.text(0).unwrap()).collect();
    assert_eq!(live.len(), 200);
    assert_eq!(kept, live);
}

/// Without transactions there is no consistent view of a table: a copy could contain half of a change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_without_transactions_is_not_copied() {
    let db = TestDb::new(Engine::MariaDb).await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::dir(dir.path());
    for engine in ["MyISAM", "MEMORY", "InnoDB"] {
        db.execute(&format!("CREATE TABLE t_{engine} (id BIGINT NOT NULL PRIMARY KEY) ENGINE = {engine}"), vec![])
            .await;
        let tables = [format!("t_{engine}")];
        let taken = snapshot::take(&db.admin, &store, Some(&tables), Clock::System, &|_| ()).await;
        match engine {
            "InnoDB" => assert_eq!(taken.unwrap().tables.len(), 1),
            _ => {
                let error = taken.unwrap_err().to_string();
                assert!(error.contains(&format!("its engine, {engine}, does not support consistent reads")), "{error}");
            }
        }
    }
}
