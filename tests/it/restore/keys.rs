//! Keys of types that the server compares in its own way.

use daymend::args;

use super::{Scene, rows};
use crate::{on_both, support::Engine};

on_both! {
    who_is_written_in_other_letters_is_the_same;
    a_key_that_is_written_in_other_letters_is_changed_and_no_other;
    a_row_that_does_not_stay_where_it_is_put_is_deferred;
    a_map_and_a_list_name_bytes_as_they_are_shown;
    a_map_names_a_row_however_its_key_is_written;
}

/// Several pages of rows for each type of key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_every_type_are_found_again() {
    let tables = [
        "CREATE TABLE bits (k BIT(12) NOT NULL PRIMARY KEY, v INT NULL)",
        "CREATE TABLE wide (k DECIMAL(45,2) NOT NULL PRIMARY KEY, v INT NULL)",
        "CREATE TABLE enums (n INT NOT NULL, k ENUM('z','A','a','b''c','m,n') COLLATE utf8mb4_bin NOT NULL, v INT NULL,
            PRIMARY KEY (k, n))",
        "CREATE TABLE sets (n INT NOT NULL, k SET('z','b''c','a') NOT NULL, v INT NULL, PRIMARY KEY (k, n))",
    ];
    let scene = Scene::new(Engine::MariaDb, &tables).await;
    let rows = |row: &dyn Fn(usize) -> String| (0..700).map(row).collect::<Vec<_>>();
    let members = ["z", "A", "a", "b''c", "m,n"];
    let sets = ["", "z", "z,a", "z,b''c,a", "b''c"];
    let mut sql = super::inserts("bits", &rows(&|n| format!("({n}, {n})")));
    sql.extend(super::inserts(
        "wide",
        &rows(&|n| format!("('1234567890123456789012345678901234567890{n:03}.25', {n})")),
    ));
    sql.extend(super::inserts("enums", &rows(&|n| format!("({n}, '{}', {n})", members[n % 5]))));
    sql.extend(super::inserts("sets", &rows(&|n| format!("({n}, '{}', {n})", sets[n % 5]))));
    scene.execute_all(&sql).await;
    let full = scene.dump().await;
    let name = scene.take().await.to_string();
    scene.run(0, &["diff", &name]);
    let tables = ["bits", "wide", "enums", "sets"];
    scene.execute_all(&tables.map(|table| format!("DELETE FROM {table} WHERE v % 3 = 0"))).await;
    let diff = scene.json(3, &["diff", &name]);
    for (_, counts) in super::differences(&diff[0]) {
        assert_eq!(counts, [234, 0, 0, 0], "{diff}");
    }
    let report = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(report["applied"]["inserted"], 4 * 234, "{report}");
    assert!(scene.dump().await == full);
    let undo = scene.path("undo.jsonl").display().to_string();
    assert_eq!(scene.json(0, &["undo", &undo])["removed"], 4 * 234);
}

async fn a_row_that_does_not_stay_where_it_is_put_is_deferred(engine: Engine) {
    let scene = Scene::new(engine, &["CREATE TABLE t (id BIGINT NOT NULL PRIMARY KEY)"]).await;
    scene.execute_all(&["INSERT INTO t VALUES (1), (2), (3)"]).await;
    let name = scene.take().await.to_string();
    let trigger = match engine {
        Engine::Sqlite => {
            "CREATE TRIGGER moves AFTER INSERT ON t WHEN NEW.id = 2 BEGIN UPDATE t SET id = 1002 WHERE id = 2; END"
        }
        Engine::MariaDb => {
            "CREATE TRIGGER moves BEFORE INSERT ON t FOR EACH ROW SET NEW.id = IF(NEW.id = 2, 1002, NEW.id)"
        }
    };
    scene.execute_all(&["DELETE FROM t", trigger]).await;
    let report = scene.json(3, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(report["applied"]["inserted"], 2, "{report}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM t WHERE id IN (1, 3)").await, 2, "{report}");
    let groups = report["report"]["groups"].as_array().unwrap();
    assert!(groups.iter().any(|group| group["reason"] == "its key changes when it is inserted"), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_on_a_price_is_one_on_a_number() {
    let table = "CREATE TABLE bills (id INT NOT NULL PRIMARY KEY, price DECIMAL(10,2) NULL)";
    let scene = Scene::new(Engine::MariaDb, &[table]).await;
    scene.execute_all(&["INSERT INTO bills VALUES (1, 99.50), (2, 100.50), (3, 1000), (4, NULL)"]).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM bills"]).await;
    for (condition, rows) in [("price>100", 2), ("price<=99.5", 1), ("price=1000", 1), ("price=NULL", 1)] {
        let diff = scene.json(3, &["diff", &name, "--where", condition]);
        assert_eq!(super::differences(&diff[0])["bills"], [rows, 0, 0, 0], "{condition}: {diff}");
    }
}

/// As the database compares: its unique key would not accept both.
async fn who_is_written_in_other_letters_is_the_same(engine: Engine) {
    let letters = if engine == Engine::Sqlite { "COLLATE NOCASE" } else { "COLLATE utf8mb4_general_ci" };
    let people = format!(
        "CREATE TABLE people (id BIGINT NOT NULL PRIMARY KEY, code VARCHAR(20) CHARACTER SET utf8mb4 {letters} UNIQUE)"
    );
    let people = if engine == Engine::Sqlite { people.replace("CHARACTER SET utf8mb4 ", "") } else { people };
    let pets = "CREATE TABLE pets (id BIGINT NOT NULL PRIMARY KEY, owner BIGINT NULL, FOREIGN KEY (owner) REFERENCES people (id))";
    let scene = Scene::new(engine, &[&people, pets]).await;
    let sql = ["INSERT INTO people VALUES (1, 'ann'), (2, 'bob')", "INSERT INTO pets VALUES (1, 1), (2, 2)"];
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    let sql = ["DELETE FROM pets", "DELETE FROM people", "INSERT INTO people VALUES (10, 'Ann')"];
    scene.execute_all(&sql).await;
    let report = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!((rows(&report, "mapped")["people"], rows(&report, "restored")["people"]), (1, 1), "{report}");
    assert_eq!(scene.db.number("SELECT owner FROM pets WHERE id = 1").await, 10);
}

/// Several pages of rows, one of which really is new.
async fn a_key_that_is_written_in_other_letters_is_changed_and_no_other(engine: Engine) {
    let letters =
        if engine == Engine::Sqlite { "COLLATE NOCASE" } else { "CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci" };
    let table = format!("CREATE TABLE words (k VARCHAR(20) {letters} NOT NULL PRIMARY KEY, v INT NULL)");
    let scene = Scene::new(engine, &[&table]).await;
    let words: Vec<String> = (0..450).map(|n| format!("('word{n}', {n})")).collect();
    scene.execute_all(&super::inserts("words", &words)).await;
    let name = scene.take().await.to_string();
    let sql = [
        "UPDATE words SET k = UPPER(k) WHERE v % 3 = 0",
        "DELETE FROM words WHERE v = 3",
        "INSERT INTO words VALUES ('another', 1000)",
    ];
    scene.execute_all(&sql).await;
    let diff = scene.json(3, &["diff", &name]);
    assert_eq!(super::differences(&diff[0])["words"], [1, 1, 149, 0], "{diff}");
    let diff = scene.json(3, &["diff", &name, "--where", "v=6"]);
    assert_eq!(super::differences(&diff[0])["words"], [0, 0, 1, 0], "{diff}");
    let report = scene.json(3, &["restore", &name, "--missing"]);
    assert_eq!(rows(&report, "missing")["words"], 1, "{report}");
}

async fn a_map_and_a_list_name_bytes_as_they_are_shown(engine: Engine) {
    let types = match engine {
        Engine::Sqlite => ["BINARY(2)", "", "BLOB"],
        Engine::MariaDb => ["BINARY(2)", "VARBINARY(9)", "BIT(12)"],
    };
    for of in types {
        let people = format!("CREATE TABLE people (id {of} NOT NULL PRIMARY KEY, code VARCHAR(20) UNIQUE)");
        let pets = format!(
            "CREATE TABLE pets (id BIGINT NOT NULL PRIMARY KEY, owner {of} NOT NULL,
            FOREIGN KEY (owner) REFERENCES people (id))"
        );
        let scene = Scene::new(engine, &[&people, &pets]).await;
        let sql = [
            "INSERT INTO people VALUES (X'0A01', 'c1'), (X'0A02', 'c2'), (X'0A03', 'c3')",
            "INSERT INTO pets VALUES (1, X'0A01'), (2, X'0A02'), (3, X'0A03')",
        ];
        scene.execute_all(&sql).await;
        let name = scene.take().await.to_string();
        let sql = ["DELETE FROM pets", "DELETE FROM people", "INSERT INTO people VALUES (X'0B01', 'c1')"];
        scene.execute_all(&sql).await;
        let lines = scene.file("tombstones", "people:0x0A02\n");
        let restore = ["restore", &name, "--missing", "--tombstones", &lines];
        scene.json(3, &restore);
        let map = scene.path("map.csv").display().to_string();
        let written = std::fs::read_to_string(&map).unwrap();
        assert_eq!(written, "table,old,new,why\npeople,0x0a01,0x0b01,code is the same\n", "{of}");
        let report = scene.json(3, &[&restore[..], &["--apply", "--remap", &map]].concat());
        assert_eq!((rows(&report, "mapped")["people"], rows(&report, "excluded")["people"]), (1, 1), "{of}: {report}");
        assert_eq!(rows(&report, "restored")["pets"], 2, "{of}: {report}");
        let hers = "SELECT COUNT(*) FROM pets JOIN people ON people.id = owner WHERE pets.id = 1 AND code = 'c1'";
        assert_eq!(scene.db.number(hers).await, 1, "{of}");
    }
}

/// MySQL's HEX() writes capital letters, and a spreadsheet adds zeros. The database cannot tell that they are the same.
async fn a_map_names_a_row_however_its_key_is_written(engine: Engine) {
    for (of, [old, new], lines) in [
        ("BINARY(2)", ["X'0A01'", "X'0B01'"], ["0x0A01,0x0B01", "0x0a01,"]),
        ("BIGINT", ["4011", "5011"], ["04011,05011", "+4011,"]),
    ] {
        let people = format!("CREATE TABLE people (id {of} NOT NULL PRIMARY KEY, code VARCHAR(20) UNIQUE)");
        let scene = Scene::new(engine, &[&people]).await;
        scene.execute_all(&[format!("INSERT INTO people VALUES ({old}, 'c1')")]).await;
        let name = scene.take().await.to_string();
        scene.execute_all(&["DELETE FROM people", &format!("INSERT INTO people VALUES ({new}, 'c2')")]).await;
        let restore = ["restore", &name, "--missing", "--apply", "--remap"];
        let both = scene.file("both.csv", &format!("table,old,new\npeople,{}\npeople,{}\n", lines[0], lines[1]));
        scene.run(1, &[&restore[..], &[&both]].concat());
        let one = scene.file("one.csv", &format!("table,old,new\npeople,{}\n", lines[0]));
        let report = scene.json(0, &[&restore[..], &[&one]].concat());
        assert_eq!(rows(&report, "mapped").get("people"), Some(&1), "{report}");
        assert_eq!(report["report"]["remarks"], serde_json::json!([]), "{report}");
        assert_eq!(scene.db.number("SELECT COUNT(*) FROM people").await, 1, "{report}");
    }
}

/// A unique index on some of the rows identifies nothing: neither live rows for vanished ones, nor rows of a snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_some_rows_is_nobodys_identity() {
    let tables = [
        "CREATE TABLE people (id BIGINT NOT NULL PRIMARY KEY, code TEXT NOT NULL, gone INT NOT NULL)",
        "CREATE TABLE visits (code TEXT NOT NULL, gone INT NOT NULL, at TEXT NOT NULL)",
    ];
    let scene = Scene::new(Engine::Sqlite, &tables).await;
    for table in ["people", "visits"] {
        let unique = format!("CREATE UNIQUE INDEX {table}_code ON {table} (code) WHERE gone = 0");
        scene.db.execute(&unique, args![]).await;
    }
    let sql =
        ["INSERT INTO people VALUES (1, 'a', 1)", "INSERT INTO visits VALUES ('a', 1, 'noon'), ('a', 1, 'night')"];
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    let sql = ["DELETE FROM people", "DELETE FROM visits", "INSERT INTO people VALUES (10, 'a', 0)"];
    scene.execute_all(&sql).await;
    let report = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(report["applied"]["inserted"], 3, "{report}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM people WHERE code = 'a'").await, 2);
    assert_eq!(scene.db.number("SELECT COUNT(DISTINCT at) FROM visits").await, 2);
}

/// If rows are equal in all columns, it is unknown which of them was restored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_there_twice_is_not_taken_back() {
    let scene = Scene::new(Engine::Sqlite, &["CREATE TABLE visits (code TEXT NOT NULL, at TEXT NOT NULL)"]).await;
    scene.execute_all(&["INSERT INTO visits VALUES ('a', 'noon'), ('b', 'night'), ('c', 'noon')"]).await;
    let name = scene.take().await.to_string();
    let twice = "CREATE TRIGGER twice AFTER INSERT ON visits WHEN NEW.code = 'c'
        BEGIN INSERT INTO visits VALUES (NEW.code, NEW.at); END";
    scene.execute_all(&["DELETE FROM visits", twice]).await;
    let report = scene.json(3, &["restore", &name, "--missing", "--apply"]);
    assert_eq!((&report["applied"]["inserted"], rows(&report, "deferred")["visits"]), (&2.into(), 1), "{report}");
    assert!(report["report"].to_string().contains("\"several rows have the same key\""), "{report}");
    scene.execute_all(&["INSERT INTO visits VALUES ('a', 'noon')"]).await;
    let undo = scene.path("undo.jsonl").display().to_string();
    for more in [["--dry-run"].as_slice(), &[]] {
        let undone = scene.json(3, &[&["undo", &undo], more].concat());
        assert_eq!(undone["removed"], 1, "{undone}");
        assert_eq!(undone["left"][0]["why"], "several rows have the same key", "{undone}");
    }
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM visits WHERE code = 'a'").await, 2);
    scene.execute_all(&["DELETE FROM visits WHERE rowid = (SELECT MAX(rowid) FROM visits)"]).await;
    assert_eq!(scene.json(0, &["undo", &undo])["removed"], 1);
}
