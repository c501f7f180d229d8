//! References that ON DELETE SET NULL has emptied, in rows that still exist.

use serde_json::{Value as Json, json};

use super::Scene;
use crate::{on_both, support::Engine};

const CLINICS: &str = "CREATE TABLE clinics (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(20) NOT NULL)";
const VISITS: &str = "CREATE TABLE visits (id BIGINT NOT NULL PRIMARY KEY, clinic BIGINT NULL, seen BIGINT NOT NULL,
    FOREIGN KEY (clinic) REFERENCES clinics (id) ON DELETE SET NULL)";

on_both! {
    what_was_emptied_when_a_row_vanished_is_said_and_left;
    what_a_restore_fills_in_itself_is_not_said;
    a_row_that_is_another_by_now_has_lost_nothing;
    what_tells_rows_apart_may_be_what_was_emptied;
    where_the_database_empties_nothing_somebody_has_decided;
}

async fn what_was_emptied_when_a_row_vanished_is_said_and_left(engine: Engine) {
    let scene = Scene::new(engine, &[CLINICS, VISITS]).await;
    scene
        .execute_all(&[
            "INSERT INTO clinics VALUES (1, 'north'), (2, 'south'), (3, 'east')",
            "INSERT INTO visits VALUES (1, 1, 0), (2, 1, 0), (3, 2, 0), (4, 1, 0), (5, 1, 0), (6, NULL, 0), (7, 3, 0)",
        ])
        .await;
    // More than one page.
    scene
        .execute_all(&(100..600).map(|id| format!("INSERT INTO visits VALUES ({id}, 1, 0)")).collect::<Vec<_>>())
        .await;
    let name = scene.take().await.to_string();
    scene
        .execute_all(&[
            "DELETE FROM visits WHERE id = 5",
            "DELETE FROM clinics WHERE id IN (1, 3)",
            // Another clinic was entered since, and a reference to a clinic that exists was removed.
            "UPDATE visits SET clinic = 2 WHERE id = 4",
            "UPDATE visits SET clinic = NULL WHERE id = 3",
        ])
        .await;
    // A declared reference that equals the foreign key is the same. An excluded clinic is not reported.
    let declared =
        scene.file("more.toml", "[[reference]]\ntable = \"visits\"\ncolumns = \"clinic\"\nparent = \"clinics\"\n");
    let restore = ["restore", &name, "--missing", "--exclude", "clinics:3", "--relations", &declared];
    let emptied = json!([{
        "table": "visits", "columns": "clinic", "parent": "clinics", "rows": 502, "first": "1", "referred_to": "1"
    }]);
    let planned = scene.json(3, &restore);
    assert_eq!(planned["report"]["emptied"], emptied, "{planned}");
    // Rows that refer to a table are reported even if only that table is asked for.
    let clinics = scene.json(3, &[&restore[..], &["--table", "clinics"]].concat());
    assert_eq!(clinics["report"]["emptied"], emptied, "{clinics}");
    let visits = scene.json(3, &[&restore[..], &["--table", "visits"]].concat());
    assert_eq!(visits["report"]["emptied"], Json::Null, "{visits}");
    let printed = scene.run(3, &restore);
    let said = "502 row(s) of visits have an empty reference, because their row of clinics vanished: a restore fills in only \
                references that it has left empty itself (the first is 1, whose clinic was 1)";
    assert!(printed.contains(said), "{printed}");
    // All rows are restored, but a person has to decide something. It is reported once: afterwards nothing is missing.
    let applied = scene.json(3, &[&restore[..], &["--apply"]].concat());
    assert_eq!(applied["report"]["emptied"], emptied, "{applied}");
    for (visit, clinic) in [(1, "-"), (2, "-"), (3, "-"), (4, "2"), (5, "1"), (6, "-"), (7, "-"), (599, "-")] {
        let sql = format!("SELECT COALESCE(CAST(clinic AS CHAR), '-') FROM visits WHERE id = {visit}");
        assert_eq!(scene.db.text(&sql).await, clinic, "visit {visit}");
    }
    let again = scene.json(0, &[&restore[..], &["--apply"]].concat());
    assert_eq!(again["report"]["emptied"], Json::Null, "{again}");
}

/// If a whole tree is gone, its rows go in with empty references, which the restore fills in.
async fn what_a_restore_fills_in_itself_is_not_said(engine: Engine) {
    let staff = "CREATE TABLE staff (id BIGINT NOT NULL PRIMARY KEY, boss BIGINT NULL, name VARCHAR(20) NOT NULL,
        FOREIGN KEY (boss) REFERENCES staff (id) ON DELETE SET NULL)";
    let scene = Scene::new(engine, &[staff]).await;
    // Each is the boss of the one with the next lower id.
    scene.execute_all(&["INSERT INTO staff VALUES (3, NULL, 'c'), (2, 3, 'b'), (1, 2, 'a')"]).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM staff WHERE id IN (1, 2, 3)"]).await;
    let applied = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(applied["report"]["emptied"], Json::Null, "{applied}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM staff WHERE boss = id + 1").await, 2);
    // This time a row that still exists has lost its boss.
    scene.execute_all(&["DELETE FROM staff WHERE id = 3"]).await;
    let emptied = json!([{
        "table": "staff", "columns": "boss", "parent": "staff", "rows": 1, "first": "2", "referred_to": "3"
    }]);
    let planned = scene.json(3, &["restore", &name, "--missing"]);
    assert_eq!(planned["report"]["emptied"], emptied, "{planned}");
}

async fn a_row_that_is_another_by_now_has_lost_nothing(engine: Engine) {
    let scene = Scene::new(engine, &[CLINICS, VISITS]).await;
    scene
        .execute_all(&["INSERT INTO clinics VALUES (1, 'north')", "INSERT INTO visits VALUES (1, 1, 10), (2, 1, 20)"])
        .await;
    let name = scene.take().await.to_string();
    scene
        .execute_all(&[
            "DELETE FROM clinics",
            "DELETE FROM visits WHERE id = 2",
            "INSERT INTO visits VALUES (2, NULL, 99)",
        ])
        .await;
    let identity = scene.file("identity.toml", "[[identity]]\ntable = \"visits\"\ncolumns = [\"seen\"]\n");
    for (relations, rows) in [(&[][..], 2), (&["--relations", &identity][..], 1)] {
        let planned = scene.json(3, &[&["restore", &name, "--missing"], relations].concat());
        assert_eq!(planned["report"]["emptied"][0]["rows"], rows, "{planned}");
    }
}

/// A row whose identity includes the emptied reference still exists: the loss of its reference is reported, and no map
/// says that the row replaces itself, which would be wrong after an undo.
async fn what_tells_rows_apart_may_be_what_was_emptied(engine: Engine) {
    let scene = Scene::new(engine, &[CLINICS, VISITS]).await;
    let identity = scene.file("identity.toml", "[[identity]]\ntable = 'visits'\ncolumns = ['clinic', 'seen']\n");
    scene
        .execute_all(&["INSERT INTO clinics VALUES (1, 'north')", "INSERT INTO visits VALUES (1, 1, 7), (2, 1, 8)"])
        .await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM clinics"]).await;
    let restore = ["restore", &name, "--missing", "--relations", &identity, "--apply"];
    let applied = scene.json(3, &restore);
    assert_eq!(applied["applied"]["inserted"], 1, "{applied}");
    assert_eq!(applied["report"]["emptied"][0]["rows"], 2, "{applied}");
    assert_eq!(applied["report"]["emptied"][0]["table"], "visits", "{applied}");
    let map = std::fs::read_to_string(scene.path("map.csv")).unwrap_or_default();
    assert!(!map.contains("visits"), "{map}");
}

/// A clinic can only be deleted once nothing refers to it, so somebody emptied the reference on purpose.
async fn where_the_database_empties_nothing_somebody_has_decided(engine: Engine) {
    let visits = VISITS.replace(" ON DELETE SET NULL", "");
    let scene = Scene::new(engine, &[CLINICS, &visits]).await;
    scene.execute_all(&["INSERT INTO clinics VALUES (1, 'north')", "INSERT INTO visits VALUES (1, 1, 0)"]).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["UPDATE visits SET clinic = NULL", "DELETE FROM clinics"]).await;
    let report = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!((&report["report"]["emptied"], &report["applied"]["inserted"]), (&Json::Null, &1.into()), "{report}");
}
