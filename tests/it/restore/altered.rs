//! Tables that have been altered since the snapshot.

use super::{Scene, rows};
use crate::{on_both, support::Engine};

on_both! {
    foreign_keys_of_other_columns_than_before_are_no_hindrance;
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
    scene.execute_all(&sql.map(str::to_owned)).await;
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
    scene.execute_all(&sql.map(str::to_owned)).await;
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
    // What a person has declared has to hold.
    let relations = scene.file("r.toml", "[[reference]]\ntable = 'pets'\ncolumns = 'owner'\nparent = 'people'\n");
    let error = scene.run(2, &["restore", &name, "--missing", "--relations", &relations]);
    assert!(error.contains("pets(owner) -> people: a column of pets does not exist"), "{error}");
}
