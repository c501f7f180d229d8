//! References with a type column: the same number refers to a person or to an order.

use super::{Scene, rows};
use crate::{on_both, support::Engine};

on_both! {
    the_number_of_another_kind_is_somebody_else;
    what_refers_to_another_kind_keeps_nobody_from_being_taken_back;
}

const TABLES: [&str; 3] = [
    "CREATE TABLE people (id BIGINT NOT NULL PRIMARY KEY, code VARCHAR(20) NULL UNIQUE)",
    "CREATE TABLE orders (id BIGINT NOT NULL PRIMARY KEY)",
    "CREATE TABLE remarks (id BIGINT NOT NULL PRIMARY KEY, kind VARCHAR(20) NOT NULL, owner BIGINT NOT NULL)",
];

const RELATIONS: &str = "
[[reference]]
table = 'remarks'
columns = 'owner'
type_column = 'kind'
parents = { person = 'people', order = 'orders' }
";

/// Creates three people, three orders, and a remark on each. They are in the snapshot.
async fn remarked(engine: Engine) -> (Scene, String, String) {
    let scene = Scene::new(engine, &TABLES).await;
    let sql = [
        "INSERT INTO people VALUES (1, 'c1'), (2, 'c2'), (3, 'c3')",
        "INSERT INTO orders VALUES (1), (2), (3)",
        "INSERT INTO remarks VALUES (11, 'person', 1), (12, 'person', 2), (13, 'person', 3),
            (21, 'order', 1), (22, 'order', 2), (23, 'order', 3)",
    ];
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    let relations = scene.file("r.toml", RELATIONS);
    (scene, name, relations)
}

/// The first person was entered again, and the second was deleted on purpose. Neither concerns the orders.
async fn the_number_of_another_kind_is_somebody_else(engine: Engine) {
    let (scene, name, relations) = remarked(engine).await;
    let sql = ["DELETE FROM remarks", "DELETE FROM people WHERE id < 3", "INSERT INTO people VALUES (101, 'c1')"];
    scene.execute_all(&sql).await;
    let restore = ["restore", &name, "--missing", "--apply", "--relations", &relations, "--exclude", "people:2"];
    let report = scene.json(3, &restore);
    assert_eq!((rows(&report, "mapped")["people"], rows(&report, "excluded")["people"]), (1, 1), "{report}");
    let remarks = async |on: &str| scene.db.number(&format!("SELECT COUNT(*) FROM remarks WHERE {on}")).await;
    assert_eq!(remarks("id = 11 AND owner = 101").await, 1, "{report}");
    assert_eq!(remarks("id = 12").await, 0, "{report}");
    assert_eq!(remarks("kind = 'order' AND owner = id - 20").await, 3, "{report}");
    assert_eq!(rows(&report, "deferred")["remarks"], 1, "{report}");
}

/// A new remark refers to the order of the same number.
async fn what_refers_to_another_kind_keeps_nobody_from_being_taken_back(engine: Engine) {
    let (scene, name, relations) = remarked(engine).await;
    scene.execute_all(&["DELETE FROM remarks WHERE owner = 3", "DELETE FROM people WHERE id = 3"]).await;
    scene.json(0, &["restore", &name, "--missing", "--apply", "--relations", &relations]);
    scene.execute_all(&["INSERT INTO remarks VALUES (33, 'order', 3)"]).await;
    let undo = scene.path("undo.jsonl").display().to_string();
    let undone = scene.json(0, &["undo", &undo]);
    assert_eq!(undone["removed"], 3, "{undone}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM people WHERE id = 3").await, 0, "{undone}");
}
