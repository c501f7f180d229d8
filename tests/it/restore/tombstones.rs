//! `DAYMEND_TOMBSTONES`: requests for erasure hold for every restore of a service that has the variable.

use crate::{
    on_both,
    restore::{Scene, rows},
    support::{Engine, process::command},
};

const USAGE: i32 = 2;

on_both! {
    erased_rows_named_by_the_environment_stay_away;
    what_an_erased_row_left_behind_stays_away;
    a_line_for_a_row_keeps_away_the_row_that_it_is_whatever_tables_are_restored;
}

/// A client is a person who is a partner, all with the same key. The client of a line is gone with her person: before
/// the snapshot, or her table is not asked for, or the snapshot does not have it.
async fn a_line_for_a_row_keeps_away_the_row_that_it_is_whatever_tables_are_restored(engine: Engine) {
    let tables = [
        "CREATE TABLE partners (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(20) NOT NULL)",
        "CREATE TABLE persons (id BIGINT NOT NULL PRIMARY KEY, FOREIGN KEY (id) REFERENCES partners (id))",
        "CREATE TABLE clients (id BIGINT NOT NULL PRIMARY KEY, FOREIGN KEY (id) REFERENCES persons (id))",
    ];
    for (is_erased_before, are_taken, more) in
        [(false, 3, &["--table", "partners"][..]), (false, 2, &[]), (false, 1, &[]), (true, 3, &[])]
    {
        let mut scene = Scene::new(engine, &tables).await;
        scene
            .execute_all(&["INSERT INTO partners VALUES (1, 'a'), (2, 'b')", "INSERT INTO persons VALUES (1), (2)"])
            .await;
        scene.execute_all(&["INSERT INTO clients VALUES (1), (2)"]).await;
        if is_erased_before {
            scene.execute_all(&["DELETE FROM clients WHERE id = 1", "DELETE FROM persons WHERE id = 1"]).await;
        }
        scene.tables.truncate(are_taken);
        let name = scene.take().await.to_string();
        scene.execute_all(&["DELETE FROM clients", "DELETE FROM persons", "DELETE FROM partners"]).await;
        let list = scene.file("erased", "clients: 01\nclients:7\n");
        let restore = ["restore", &name, "--missing", "--tombstones", &list, "--apply"];
        let report = scene.json(0, &[&restore[..], more].concat());
        assert_eq!(rows(&report, "excluded")["partners"], 1, "{report}");
        assert_eq!(scene.db.number("SELECT CAST(SUM(id) AS SIGNED) FROM partners").await, 2, "{report}");
        let said = report["report"].to_string();
        assert!(said.contains("\"as its persons: as its clients: deleted on purpose\""), "{report}");
        let expected =
            format!("deleted on purpose: 1 of 2 line(s) match missing rows, 1 match none: {list}:2 clients:7");
        assert!(said.contains(&expected), "{report}");
    }
}

/// No foreign key took the remarks about a patient along when she was erased, before the snapshot was taken. A line for
/// a patient who is still there fits nobody.
async fn what_an_erased_row_left_behind_stays_away(engine: Engine) {
    let tables = [
        "CREATE TABLE patients (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(20) NOT NULL)",
        "CREATE TABLE remarks (id BIGINT NOT NULL PRIMARY KEY, of_type VARCHAR(9) NOT NULL, of_id VARCHAR(20) NOT NULL)",
        "CREATE TABLE replies (id BIGINT NOT NULL PRIMARY KEY, remark BIGINT NOT NULL,
            FOREIGN KEY (remark) REFERENCES remarks (id))",
    ];
    let scene = Scene::new(engine, &tables).await;
    scene
        .execute_all(&[
            "INSERT INTO patients VALUES (1, 'a'), (2, 'b')",
            "INSERT INTO remarks VALUES (1, 'patient', '1'), (2, 'patient', '3'), (3, 'patient', '3'), (4, 'lab', '3'), \
             (5, 'patient', '2')",
            "INSERT INTO replies VALUES (1, 1), (2, 2), (4, 4)",
        ])
        .await;
    let name = scene.take().await.to_string();
    // Somebody else has got her key since.
    let since = ["DELETE FROM replies", "DELETE FROM remarks", "INSERT INTO patients VALUES (3, 'c')"];
    scene.execute_all(&since).await;
    let relations = "[[reference]]\ntable = 'remarks'\ncolumns = 'of_id'\ntype_column = 'of_type'\n\
                     parents = { patient = 'patients' }\n";
    let (relations, list) = (scene.file("r.toml", relations), scene.file("erased", "patients:3\npatients:2\n"));
    let restore = ["restore", &name, "--missing", "--relations", &relations, "--apply"];
    for _ in 0..2 {
        let report = scene.json(3, &[&restore[..], &["--tombstones", &list]].concat());
        let deferred = rows(&report, "deferred");
        assert_eq!((deferred["remarks"], deferred["replies"]), (2, 1), "{report}");
        let said = report["report"].to_string();
        assert!(said.contains("\"the row of patients that it refers to was deleted on purpose\""), "{report}");
        assert!(said.contains("deleted on purpose: 1 of 2 line(s) match missing rows, 1 match none"), "{report}");
        assert_eq!(scene.db.number("SELECT CAST(SUM(id) AS SIGNED) FROM remarks").await, 1 + 4 + 5, "{report}");
    }
    // Nobody says so.
    scene.json(0, &restore);
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM remarks").await, 5);
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
