//! Tables that have been altered since the snapshot.

use daymend::{
    clock::Clock,
    snapshot::{self, Store},
};

use super::{Scene, rows};
use crate::{
    on_both,
    support::{Engine, process::command},
};

on_both! {
    foreign_keys_of_other_columns_than_before_are_no_hindrance;
    columns_and_tables_that_are_gone_are_named;
    rows_are_not_looked_for_by_a_part_of_their_key;
    what_users_enter_in_a_new_column_is_not_undone;
    what_users_enter_in_a_column_that_the_undo_file_does_not_have_is_not_undone;
}

async fn foreign_keys_of_other_columns_than_before_are_no_hindrance(engine: Engine) {
    let tables = [
        "CREATE TABLE teams (id BIGINT NOT NULL PRIMARY KEY)",
        "CREATE TABLE people (id BIGINT NOT NULL PRIMARY KEY)",
        "CREATE TABLE pets (id BIGINT NOT NULL PRIMARY KEY, owner BIGINT NULL,
            FOREIGN KEY (owner) REFERENCES people (id))",
        "CREATE TABLE notes (id BIGINT NOT NULL PRIMARY KEY, words BIGINT NULL, person BIGINT AS (words) STORED,
            FOREIGN KEY (person) REFERENCES people (id))",
    ];
    let scene = Scene::new(engine, &tables).await;
    let sql = [
        "INSERT INTO teams VALUES (1)",
        "INSERT INTO people VALUES (1), (2)",
        "INSERT INTO pets VALUES (1, 1), (2, 2)",
        "INSERT INTO notes (id, words) VALUES (1, 1), (2, 2)",
    ];
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    let team = match engine {
        Engine::Sqlite => "ALTER TABLE people ADD team BIGINT NULL REFERENCES teams (id)",
        Engine::MariaDb => "ALTER TABLE people ADD team BIGINT NULL, ADD FOREIGN KEY (team) REFERENCES teams (id)",
    };
    let sql = [
        "DROP TABLE pets",
        "CREATE TABLE pets (id BIGINT NOT NULL PRIMARY KEY)",
        "DELETE FROM notes WHERE id = 2",
        "DELETE FROM people WHERE id = 2",
        team,
    ];
    scene.execute_all(&sql).await;
    let diff = &scene.json(3, &["diff", &name])[0];
    let remarks = diff["remarks"].to_string();
    for reference in ["pets(owner) -> people", "notes(person) -> people"] {
        assert!(remarks.contains(&format!("foreign key {reference}: a column of")), "{diff}");
    }
    let report = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(rows(&report, "restored").values().sum::<i64>(), 4, "{report}");
    let remarks = report["report"]["remarks"].to_string();
    assert!(remarks.contains("people(team) -> teams: a column of people does not exist, or is computed"), "{report}");
    let undo = scene.path("undo.jsonl").display().to_string();
    assert_eq!(scene.json(0, &["undo", &undo])["removed"], 4);
    // A reference that a person declares has to be valid.
    let relations = scene.file("r.toml", "[[reference]]\ntable = 'pets'\ncolumns = 'owner'\nparent = 'people'\n");
    let error = scene.run(2, &["restore", &name, "--missing", "--relations", &relations]);
    assert!(error.contains("pets(owner) -> people: a column of pets does not exist"), "{error}");
}

async fn columns_and_tables_that_are_gone_are_named(engine: Engine) {
    let scene = Scene::new(engine, &["CREATE TABLE t (id BIGINT NOT NULL PRIMARY KEY, a BIGINT, b BIGINT)"]).await;
    scene.execute_all(&["INSERT INTO t VALUES (1, 1, 1), (2, 2, 2)"]).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM t WHERE id = 1", "ALTER TABLE t DROP COLUMN b"]).await;
    let report = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    let lost = serde_json::json!(["table t has no column b any more: its values are not restored"]);
    assert_eq!((&report["report"]["remarks"], &report["applied"]["inserted"]), (&lost, &1.into()), "{report}");
    // Without the column, restored rows cannot be told from rows that somebody has changed.
    let undo = scene.path("undo.jsonl").display().to_string();
    let args = scene.args(&["undo", &undo]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    for (gone, expected) in [
        ("ALTER TABLE t DROP COLUMN a", "table t has no column a any more: its rows cannot be compared"),
        ("DROP TABLE t", "table t does not exist any more"),
    ] {
        scene.execute_all(&[gone]).await;
        for more in [&[][..], &["--dry-run"]] {
            let output = command(&scene.db, &[&args[..], more].concat()).output().unwrap();
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), error), (Some(1), format!("error: {expected}\n")));
        }
    }
    assert!(scene.path("undo.jsonl").exists());
}

/// Each lab has its own results by now: the one of the other lab is not the vanished one.
async fn rows_are_not_looked_for_by_a_part_of_their_key(engine: Engine) {
    let results = "CREATE TABLE results (id BIGINT NOT NULL, lab BIGINT NOT NULL, v BIGINT NULL, PRIMARY KEY (id))";
    let scene = Scene::new(engine, &[results]).await;
    scene.execute_all(&["INSERT INTO results VALUES (1, 1, 1), (2, 1, 1)"]).await;
    let name = scene.take().await.to_string();
    let grown = results.replace("(id))", "(id, lab))");
    scene.execute_all(&["DROP TABLE results", &grown, "INSERT INTO results VALUES (1, 1, 1), (2, 2, 5)"]).await;
    let diff = scene.json(3, &["diff", &name]);
    assert_eq!(diff[0]["uncompared"], serde_json::json!(["table results: live has lost its key (id)"]), "{diff}");
    for more in [&[][..], &["--apply"]] {
        let report = scene.json(3, &[&["restore", &name, "--missing"], more].concat());
        let lost = "table results has lost its key (id): none of its rows can be restored";
        assert_eq!(report["report"]["remarks"], serde_json::json!([lost]), "{report}");
    }
    // What refers to an excluded row could not be kept away.
    let error = scene.run(2, &["restore", &name, "--missing", "--exclude", "results:2"]);
    assert!(error.contains("--exclude: the rows of results cannot be told apart by their key"), "{error}");
    // A longer key than now is enough.
    std::fs::remove_file(scene.path("undo.jsonl")).unwrap();
    let name = scene.take().await.to_string();
    scene.execute_all(&["DROP TABLE results", results, "INSERT INTO results VALUES (1, 1, 1)"]).await;
    let report = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(rows(&report, "restored")["results"], 1, "{report}");
}

/// Patients who refer to each other, and others, all gone since; meanwhile the table got two more columns.
async fn patients(engine: Engine) -> (Scene, String) {
    let table = "CREATE TABLE patients (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(20) NULL, spouse BIGINT NULL,
        FOREIGN KEY (spouse) REFERENCES patients (id))";
    let scene = Scene::new(engine, &[table]).await;
    let sql = [
        "INSERT INTO patients VALUES (1, 'a', NULL), (2, 'b', 1), (3, 'c', NULL), (4, 'd', NULL), (5, 'e', NULL)",
        "UPDATE patients SET spouse = 2 WHERE id = 1",
    ];
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    let sql = [
        "UPDATE patients SET spouse = NULL",
        "DELETE FROM patients",
        "ALTER TABLE patients ADD insurance VARCHAR(20) NULL",
        "ALTER TABLE patients ADD paid BIGINT NOT NULL DEFAULT 7",
    ];
    scene.execute_all(&sql).await;
    (scene, name)
}

/// The rows that an undo leaves: table, reason and keys.
fn left(undone: &serde_json::Value) -> Vec<String> {
    let left = undone["left"].as_array().unwrap();
    left.iter().map(|left| format!("{}: {}", left["why"].as_str().unwrap(), left["keys"])).collect()
}

async fn what_users_enter_in_a_new_column_is_not_undone(engine: Engine) {
    let (scene, name) = patients(engine).await;
    let report = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!((&report["applied"]["inserted"], &report["applied"]["filled"]), (&5.into(), &2.into()), "{report}");
    let sql = ["UPDATE patients SET paid = 8 WHERE id = 1", "UPDATE patients SET insurance = 'A' WHERE id = 3"];
    scene.execute_all(&sql).await;
    let undo = scene.path("undo.jsonl").display().to_string();
    let expected = [
        "a row of patients refers to it and is not removed: [\"2 (patients 1)\"]",
        "it has been changed since: [\"1\",\"3\"]",
    ];
    for (more, removed) in [(&["--dry-run"][..], 2), (&[], 2)] {
        let undone = scene.json(3, &[&["undo", &undo], more].concat());
        let mut left = left(&undone);
        left[1] = left[1].replace("[\"3\",\"1\"]", "[\"1\",\"3\"]");
        assert_eq!((&left[..], &undone["removed"]), (&expected.map(str::to_owned)[..], &removed.into()), "{undone}");
    }
    let entered =
        "SELECT COUNT(*) FROM patients WHERE id = 3 AND insurance = 'A' OR id = 1 AND spouse = 2 AND paid = 8";
    assert_eq!(scene.db.number(entered).await, 2);
    scene.execute_all(&["UPDATE patients SET paid = 7, insurance = NULL"]).await;
    assert_eq!(scene.json(0, &["undo", &undo])["removed"], 3);
}

async fn what_users_enter_in_a_column_that_the_undo_file_does_not_have_is_not_undone(engine: Engine) {
    let (scene, name) = patients(engine).await;
    let restore = ["restore", &name, "--missing", "--apply"];
    scene.json(0, &restore);
    let sql = ["ALTER TABLE patients ADD phone VARCHAR(20) NULL", "UPDATE patients SET phone = '5' WHERE id IN (1, 3)"];
    scene.execute_all(&sql).await;
    let undo = scene.path("undo.jsonl").display().to_string();
    for more in [&["--dry-run"][..], &[]] {
        let undone = scene.json(3, &[&["undo", &undo], more].concat());
        let left = left(&undone);
        assert!(
            left[1].starts_with("it has a value in phone, a column that the undo file does not have: "),
            "{left:?}"
        );
        assert_eq!(undone["removed"], 2, "{undone}");
    }
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM patients WHERE phone = '5' AND COALESCE(spouse, 2) = 2").await, 2);
    // Rows with that column cannot be recorded in this file.
    let args = scene.args(&restore);
    let output = command(&scene.db, &args.iter().map(String::as_str).collect::<Vec<_>>()).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("this undo file was begun when the tables had other columns: take that restore back first"),
        "{error}"
    );
    assert_eq!(output.status.code(), Some(1), "{error}");
    scene.execute_all(&["UPDATE patients SET phone = NULL"]).await;
    assert_eq!(scene.json(0, &["undo", &undo])["removed"], 3);
}

/// Of system-versioned tables, the current rows are copied and restored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_with_a_history_are_copied_as_well() {
    let tables = [
        "CREATE TABLE plain (id BIGINT NOT NULL PRIMARY KEY, v INT NULL) WITH SYSTEM VERSIONING",
        "CREATE TABLE named (id BIGINT NOT NULL PRIMARY KEY, v INT NULL, since TIMESTAMP(6) GENERATED ALWAYS AS ROW START,
            until TIMESTAMP(6) GENERATED ALWAYS AS ROW END, PERIOD FOR SYSTEM_TIME (since, until)) WITH SYSTEM VERSIONING",
    ];
    let scene = Scene::new(Engine::MariaDb, &tables).await;
    let mut sql = Vec::new();
    for table in ["plain", "named"] {
        sql.push(format!("INSERT INTO {table} (id, v) VALUES (1, 1), (2, 2), (3, 3)"));
        sql.push(format!("UPDATE {table} SET v = v + 10"));
        sql.push(format!("DELETE FROM {table} WHERE id = 3"));
    }
    scene.execute_all(&sql).await;
    let store = Store::dir(scene.path("snapshots"));
    let taken = snapshot::take(&scene.db.admin, &store, None, Clock::System, &|_| {}).await.unwrap();
    let name = &taken.name.to_string();
    let of = ["--table", "plain", "--table", "named"];
    scene.run(0, &[["diff", name].as_slice(), of.as_slice()].concat());
    scene.execute_all(&["DELETE FROM plain WHERE id = 1", "DELETE FROM named WHERE id = 1"]).await;
    let restore = [["restore", name, "--missing", "--apply"].as_slice(), of.as_slice()].concat();
    let report = scene.json(0, &restore);
    assert_eq!(report["applied"]["inserted"], 2, "{report}");
    for table in ["plain", "named"] {
        assert_eq!(scene.db.number(&format!("SELECT v FROM {table} WHERE id = 1")).await, 11);
        assert_eq!(scene.db.number(&format!("SELECT COUNT(*) FROM {table}")).await, 2);
    }
    let undo = scene.path("undo.jsonl").display().to_string();
    assert_eq!(scene.json(0, &["undo", &undo])["removed"], 2);
}

/// SQLite ignores the case of the names in a reference; so does a restore.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reference_in_another_case_is_followed() {
    let tables = [
        "CREATE TABLE People (Id INTEGER NOT NULL PRIMARY KEY, code TEXT UNIQUE)",
        "CREATE TABLE pets (id INTEGER NOT NULL PRIMARY KEY, owner INTEGER NOT NULL REFERENCES PEOPLE (ID))",
    ];
    let scene = Scene::new(Engine::Sqlite, &tables).await;
    scene.execute_all(&["INSERT INTO People VALUES (1, 'a')", "INSERT INTO pets VALUES (7, 1)"]).await;
    let name = scene.take().await.to_string();
    let sql = ["DELETE FROM pets", "DELETE FROM People", "INSERT INTO People VALUES (11, 'a')"];
    scene.execute_all(&sql).await;
    let report = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(report["report"]["remarks"], serde_json::json!([]));
    assert_eq!(scene.db.number("SELECT owner FROM pets WHERE id = 7").await, 11, "{report}");
}
