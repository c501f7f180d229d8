//! Rows that refer to restored rows, in tables that no snapshot can contain: a DELETE would cascade to them.

use std::collections::BTreeSet;

use daymend::db::{Mode, Query};

use super::{Scene, cases::people};
use crate::{
    on_both,
    support::{Engine, server},
};

on_both! {
    rows_of_a_table_without_a_key_are_not_deleted;
    nor_by_what_is_taken_out_again;
    a_dry_run_of_an_undo_says_what_comes_of_it_and_waits_for_nobody;
}

const PEOPLE: &str = "CREATE TABLE people (id BIGINT NOT NULL PRIMARY KEY, boss BIGINT NULL,
    FOREIGN KEY (boss) REFERENCES people (id))";

/// Creates two people who were deleted and restored. Returns the path of the undo file, too.
async fn restored(engine: Engine) -> (Scene, String) {
    let scene = Scene::new(engine, &[PEOPLE]).await;
    scene.execute_all(&["INSERT INTO people VALUES (1, 1), (2, NULL)"]).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["UPDATE people SET boss = NULL", "DELETE FROM people"]).await;
    scene.json(0, &["restore", &name, "--missing", "--apply"]);
    let undo = scene.path("undo.jsonl").display().to_string();
    (scene, undo)
}

fn logins(name: &str, people: &str, more: &str) -> String {
    format!(
        "CREATE TABLE {name} (person BIGINT NULL, at DATETIME NULL,
            FOREIGN KEY (person) REFERENCES {people} (id) ON DELETE CASCADE) {more}"
    )
}

fn left(undone: &serde_json::Value) -> (String, String) {
    let left = &undone["left"][0];
    (left["why"].as_str().unwrap().to_owned(), left["keys"].to_string())
}

async fn rows_of_a_table_without_a_key_are_not_deleted(engine: Engine) {
    let (scene, undo) = restored(engine).await;
    scene.db.create_without_keys(&[&logins("logins", "people", "")]).await;
    scene.execute_all(&["INSERT INTO logins (person) VALUES (1), (1)"]).await;
    let undone = scene.json(3, &["undo", &undo]);
    assert_eq!(undone["removed"], 1, "{undone}");
    assert_eq!(left(&undone), ("a row of logins refers to it now".to_owned(), "[\"1\"]".to_owned()));
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM logins").await, 2);
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM people WHERE boss = id").await, 1);
}

async fn nor_by_what_is_taken_out_again(engine: Engine) {
    let case = super::taken_out::Case::new(engine, false).await;
    let trigger = match engine {
        Engine::Sqlite => "BEGIN INSERT INTO logins (person) VALUES (NEW.id); END",
        Engine::MariaDb => "FOR EACH ROW INSERT INTO logins (person) VALUES (NEW.id)",
    };
    case.scene.db.create_without_keys(&[&logins("logins", "members", "")]).await;
    case.scene.execute_all(&[format!("CREATE TRIGGER counts AFTER INSERT ON members {trigger}")]).await;
    case.restore(3);
    assert_eq!(case.scene.db.number("SELECT COUNT(*) FROM logins").await, 2);
    assert_eq!(case.scene.db.number("SELECT COUNT(*) FROM members WHERE id = 2 AND leads IS NULL").await, 1);
}

/// The tables are system-versioned, or in another database, or this user may write but not read them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_tables_that_are_elsewhere_are_not_deleted() {
    let (scene, undo) = restored(Engine::MariaDb).await;
    let (port, name) = (server::port(&scene.url), scene.db.name().to_owned());
    let people = format!("{name}.people");
    for (table, more, rights) in [
        (format!("{name}.logins"), "WITH SYSTEM VERSIONING", None),
        (format!("{name}_other.logins"), "", Some("SELECT")),
        (format!("{name}_other.logins"), "", Some("INSERT")),
    ] {
        let (schema, _) = table.split_once('.').unwrap();
        let create = logins(&table, &people, more);
        let grant =
            rights.map_or_else(String::new, |rights| format!("; GRANT {rights} ON {table} TO {name}_operator@'%'"));
        let sql = format!(
            "CREATE DATABASE IF NOT EXISTS {schema}; {create}; INSERT INTO {table} (person) VALUES (1), (2) {grant}"
        );
        server::run_without_keys(port, &sql).await;
        let undone = scene.json(3, &["undo", &undo]);
        let (why, keys) = left(&undone);
        let expected = match rights {
            Some("INSERT") => {
                "whether a row of logins refers to it is unknown: this user may not read that table".to_owned()
            }
            _ => "a row of logins refers to it now".to_owned(),
        };
        assert_eq!((why, keys), (expected, "[\"2\",\"1\"]".to_owned()), "{undone}");
        assert_eq!(scene.db.number(&format!("SELECT COUNT(*) FROM {table}")).await, 2);
        let revoke =
            rights.map_or_else(String::new, |rights| format!("; REVOKE {rights} ON {table} FROM {name}_operator@'%'"));
        server::run(port, &format!("DROP TABLE {table} {revoke}")).await;
    }
    scene.json(0, &["undo", &undo]);
    server::run(port, &format!("DROP DATABASE {name}_other")).await;
}

/// A user with privileges on single tables sees neither other tables nor their foreign keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_goes_where_other_tables_are_kept_from_sight() {
    let (scene, undo) = restored(Engine::MariaDb).await;
    let (port, name) = (server::port(&scene.url), scene.db.name().to_owned());
    scene.db.create_without_keys(&[&logins("logins", "people", "")]).await;
    scene.execute_all(&["INSERT INTO logins (person) VALUES (1), (2)"]).await;
    let rights = "SELECT, INSERT, UPDATE, DELETE";
    let sql = format!(
        "REVOKE {rights} ON {name}.* FROM {name}_operator@'%'; GRANT {rights} ON {name}.people TO {name}_operator@'%'"
    );
    server::run(port, &sql).await;
    let undone = scene.json(3, &["undo", &undo]);
    assert!(
        left(&undone).0.starts_with("which tables refer to it is unknown: SELECT on the whole database"),
        "{undone}"
    );
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM logins").await, 2);
}

/// One row was changed since, a new row refers to another, and a user has locked a third.
async fn a_dry_run_of_an_undo_says_what_comes_of_it_and_waits_for_nobody(engine: Engine) {
    let scene = people(engine).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM pets", "DELETE FROM people WHERE id < 5"]).await;
    scene.json(0, &["restore", &name, "--missing", "--apply"]);
    scene
        .execute_all(&["UPDATE pets SET name = 'other' WHERE id = 1", "INSERT INTO pets VALUES (100, 2, 'new')"])
        .await;
    let before = scene.dump().await;
    let undo = scene.path("undo.jsonl").display().to_string();
    let mut somebody = scene.db.admin.begin(Mode::Write).await.unwrap();
    somebody.execute(Query::new("hold", "UPDATE people SET name = 'held' WHERE id = 3"), vec![]).await.unwrap();
    let told = scene.json(3, &["undo", &undo, "--dry-run"]);
    somebody.rollback().await.unwrap();
    assert!(scene.dump().await == before);
    let done = scene.json(3, &["undo", &undo]);
    for what in ["removed", "gone", "emptied"] {
        assert_eq!(told[what], done[what], "{what}: {told} {done}");
    }
    let left = |undone: &serde_json::Value| {
        let left = undone["left"].as_array().unwrap().iter();
        let keys = left.flat_map(|left| left["keys"].as_array().unwrap().iter());
        keys.map(|key| key.as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(left(&done), BTreeSet::from(["1", "1 (pets 1)", "2 (pets 100)"].map(str::to_owned)));
    assert_eq!(left(&told), left(&done));
}
