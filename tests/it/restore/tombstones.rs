//! `DAYMEND_TOMBSTONES`: requests for erasure hold for every restore of a service that has the variable.

use crate::{
    on_both,
    restore::{Scene, rows},
    support::{Engine, process::command},
};

const USAGE: i32 = 2;

on_both! {
    erased_rows_named_by_the_environment_stay_away;
}

async fn erased_rows_named_by_the_environment_stay_away(engine: Engine) {
    let people = "CREATE TABLE people (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(20) NOT NULL)";
    let scene = Scene::new(engine, &[people]).await;
    scene.execute_all(&["INSERT INTO people VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')"]).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM people WHERE id < 4"]).await;
    let (list, other) = (scene.file("erased", "people:2\n"), scene.file("other", "people:1\n"));
    let nowhere = scene.path("nowhere").display().to_string();
    let restore = |file: &str, more: &[&str]| {
        let args = scene.args(&[&["restore", &name, "--missing", "--json"], more].concat());
        let mut restore = command(&scene.db, &args.iter().map(String::as_str).collect::<Vec<_>>());
        restore.env("DAYMEND_TOMBSTONES", file).output().unwrap()
    };
    // A list that cannot be read is not taken for an empty one.
    let refused = restore(&nowhere, &["--apply"]);
    assert_eq!(refused.status.code(), Some(USAGE), "{refused:?}");
    assert!(String::from_utf8(refused.stderr).unwrap().contains(&nowhere));
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM people").await, 1);
    let excluded = |file: &str, more: &[&str]| {
        let output = restore(file, more);
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        rows(&report, "excluded").get("people").copied().unwrap_or_default()
    };
    assert_eq!(excluded("", &[]), 0, "an empty variable counts as unset");
    assert_eq!(excluded(&list, &[]), 1);
    assert_eq!(excluded(&list, &["--exclude", "people:3"]), 2);
    assert_eq!(excluded(&list, &["--apply"]), 1);
    assert_eq!(scene.db.number("SELECT CAST(SUM(id) AS SIGNED) FROM people").await, 1 + 3 + 4);
    assert_eq!(excluded(&list, &["--tombstones", &other, "--apply"]), 0, "the option goes before the variable");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM people").await, 4);
}
