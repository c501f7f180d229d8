//! The conflict rules of SQLite tables and triggers must not break what a restore promises.

use serde_json::Value as Json;

use super::{Scene, rows};
use crate::support::Engine;

/// The code is not declared as an identity.
const RELATIONS: &str = "[[identity]]\ntable = 't'\ncolumns = []\n";

/// Creates a table with this column next to its id, and five rows that are deleted after the snapshot.
async fn gone(code: &str) -> (Scene, String, String) {
    let table = format!("CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, {code}, next INTEGER NULL)");
    let scene = Scene::new(Engine::Sqlite, &[&table]).await;
    let lost: Vec<String> = (1..=5).map(|id| format!("({id}, 'c{id}', NULL)")).collect();
    scene.execute_all(&super::inserts("t", &lost)).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM t"]).await;
    let relations = scene.file("r.toml", RELATIONS);
    (scene, name, relations)
}

fn restore(scene: &Scene, name: &str, relations: &str, code: i32) -> Json {
    scene.json(code, &["restore", name, "--missing", "--apply", "--relations", relations])
}

fn undo(scene: &Scene, code: i32) -> Json {
    scene.json(code, &["undo", &scene.path("undo.jsonl").display().to_string()])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rule_of_a_table_deletes_nobody() {
    for rule in ["REPLACE", "ROLLBACK", "FAIL", "IGNORE"] {
        let (scene, name, relations) = gone(&format!("code TEXT NOT NULL UNIQUE on\nconflict {rule}")).await;
        scene.execute_all(&["INSERT INTO t VALUES (100, 'c3', NULL)"]).await;
        let report = restore(&scene, &name, &relations, 3);
        assert_eq!(report["applied"]["inserted"], 4, "{rule}: {report}");
        assert_eq!(rows(&report, "deferred")["t"], 1, "{rule}: {report}");
        assert!(report["report"].to_string().contains("a unique key is taken"), "{rule}: {report}");
        assert_eq!(scene.db.number("SELECT COUNT(*) FROM t WHERE id = 100").await, 1, "{rule}");
        assert_eq!(undo(&scene, 0)["removed"], 4, "{rule}");
        assert_eq!(scene.db.number("SELECT COUNT(*) FROM t").await, 1, "{rule}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rule_of_a_table_deletes_nobody_for_a_reference_that_is_filled_in() {
    let table = "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, next INTEGER NULL UNIQUE ON CONFLICT REPLACE)";
    let scene = Scene::new(Engine::Sqlite, &[table]).await;
    scene.execute_all(&["INSERT INTO t VALUES (1, 2), (2, 1)"]).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM t", "INSERT INTO t VALUES (9, 2)"]).await;
    let reference = "[[reference]]\ntable = 't'\ncolumns = 'next'\nparent = 't'\n";
    let relations = scene.file("r.toml", &format!("{RELATIONS}{reference}"));
    let report = restore(&scene, &name, &relations, 3);
    assert!(report["report"].to_string().contains("cannot be filled in: a unique key is taken"), "{report}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM t WHERE id = 9 AND next = 2").await, 1, "{report}");
}

/// Builds a trigger that rejects the row with this id by a `RAISE` of this type.
fn refuse(event: &str, id: i64, how: &str) -> String {
    let row = if event.ends_with("DELETE") { "OLD" } else { "NEW" };
    format!("CREATE TRIGGER no_{id} {event} ON t WHEN {row}.id = {id} BEGIN SELECT RAISE({how}, 'never'); END")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_that_ends_the_transaction_lets_nothing_in_that_is_not_written_down() {
    let (scene, name, relations) = gone("code TEXT NULL").await;
    // FAIL in an AFTER trigger leaves the row in the table.
    let (rollback, fail) = (refuse("BEFORE INSERT", 3, "ROLLBACK"), refuse("AFTER INSERT", 4, "FAIL"));
    scene.execute_all(&[rollback, fail]).await;
    let report = restore(&scene, &name, &relations, 3);
    assert_eq!(report["applied"]["inserted"], 3, "{report}");
    assert_eq!(rows(&report, "deferred")["t"], 2, "{report}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM t WHERE id IN (3, 4)").await, 0);
    assert_eq!(undo(&scene, 0)["removed"], 3);
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM t").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_that_ends_the_transaction_keeps_one_row_from_being_taken_back() {
    let (scene, name, relations) = gone("code TEXT NULL").await;
    restore(&scene, &name, &relations, 0);
    let (rollback, fail) = (refuse("BEFORE DELETE", 3, "ROLLBACK"), refuse("AFTER DELETE", 4, "FAIL"));
    scene.execute_all(&[rollback, fail]).await;
    let undone = undo(&scene, 3);
    assert_eq!(undone["removed"], 3, "{undone}");
    assert_eq!(undone["left"][0]["keys"], serde_json::json!(["4", "3"]), "{undone}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM t WHERE id IN (3, 4)").await, 2);
    scene.execute_all(&["DROP TRIGGER no_3", "DROP TRIGGER no_4"]).await;
    assert_eq!(undo(&scene, 0)["removed"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_that_ends_the_transaction_keeps_a_circle_whole() {
    let table = "CREATE TABLE t (id INTEGER NOT NULL PRIMARY KEY, next INTEGER NULL REFERENCES t (id))";
    let scene = Scene::new(Engine::Sqlite, &[table]).await;
    let sql =
        ["INSERT INTO t VALUES (1, NULL), (2, NULL), (3, NULL), (4, NULL)", "UPDATE t SET next = 3 - id WHERE id < 3"];
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["UPDATE t SET next = NULL", "DELETE FROM t"]).await;
    let relations = scene.file("r.toml", RELATIONS);
    scene.execute_all(&[refuse("BEFORE UPDATE", 1, "ROLLBACK")]).await;
    let report = restore(&scene, &name, &relations, 3);
    assert!(report["report"].to_string().contains("cannot be filled in: a trigger refuses it"), "{report}");
    scene.execute_all(&["DROP TRIGGER no_1"]).await;
    restore(&scene, &name, &relations, 0);
    scene.execute_all(&[refuse("BEFORE UPDATE", 2, "ROLLBACK")]).await;
    let undone = undo(&scene, 3);
    assert_eq!(undone["removed"], 2, "{undone}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM t WHERE next = 3 - id").await, 2, "{undone}");
}
