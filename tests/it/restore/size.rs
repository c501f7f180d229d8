//! Many vanished rows: memory stays what it is.

use std::time::Duration;

use super::{Scene, inserts};
use crate::{
    on_both,
    support::{Engine, process::Process},
};

on_both! {
    memory_does_not_grow_with_the_rows_that_come_back;
    memory_does_not_grow_with_the_rows_that_refer_to_one;
    nor_with_the_rows_that_lost_their_reference;
}

/// Who was entered again, of those who vanished: one in so many.
const AGAIN: i64 = 20;

fn size(engine: Engine) -> i64 {
    match engine {
        Engine::Sqlite => 200_000,
        // The same code; a row takes longer there.
        Engine::MariaDb => 40_000,
    }
}

/// Runs a command that ends with this code and takes no more memory than any other.
async fn run_small(scene: &Scene, args: &[String], code: i32) {
    let begun = std::time::Instant::now();
    let mut process = Process::start(&scene.db, &args.iter().map(String::as_str).collect::<Vec<_>>());
    let mut peak_kib = 0;
    while process.is_running() {
        peak_kib = process.memory_peak_kib().unwrap_or(0).max(peak_kib);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(process.wait(Duration::from_secs(1)), Some(code));
    println!("{:?}: {peak_kib} KiB, {:?}", scene.db.engine, begun.elapsed());
    assert!(peak_kib > 1024 && peak_kib < 64 * 1024, "{peak_kib} KiB");
}

async fn memory_does_not_grow_with_the_rows_that_come_back(engine: Engine) {
    let scene = Scene::new(
        engine,
        &[
            "CREATE TABLE people (id BIGINT NOT NULL PRIMARY KEY, code VARCHAR(20) NULL UNIQUE, name VARCHAR(60) NULL)",
            "CREATE TABLE notes (id BIGINT NOT NULL PRIMARY KEY, person BIGINT NOT NULL, body VARCHAR(60) NULL,
                FOREIGN KEY (person) REFERENCES people (id))",
        ],
    )
    .await;
    let people = size(engine) / 4;
    let notes = size(engine) - people;
    let rows: Vec<String> =
        (1..=people).map(|id| format!("({id}, 'code {id}', 'the person of number {id}')")).collect();
    let mut sql = inserts("people", &rows);
    let rows: Vec<String> =
        (1..=notes).map(|id| format!("({id}, {}, 'what was said in note {id}')", 1 + id % people)).collect();
    sql.extend(inserts("notes", &rows));
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM notes", "DELETE FROM people"]).await;
    let again: Vec<String> =
        (1..=people / AGAIN).map(|id| format!("({}, 'code {id}', 'again')", id + 1_000_000)).collect();
    scene.execute_all(&inserts("people", &again)).await;

    let args = scene.args(&["restore", &name, "--missing", "--apply", "--samples", "1"]);
    run_small(&scene, &args, 0).await;
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM notes").await, notes);
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM people").await, people);
    let rewritten = "SELECT COUNT(*) FROM notes WHERE person > 1000000";
    assert!(scene.db.number(rewritten).await >= notes / AGAIN - 1);
}

/// A snapshot of one row, and of 4,000 rows that refer to it, 80 MB in all; the one has vanished since.
async fn one_of_many(engine: Engine, reference: &str) -> (Scene, String) {
    let many =
        format!("CREATE TABLE many (id BIGINT NOT NULL PRIMARY KEY, body TEXT NOT NULL, one BIGINT {reference})");
    let scene = Scene::new(engine, &["CREATE TABLE one (id BIGINT NOT NULL PRIMARY KEY)", &many]).await;
    let body = if engine == Engine::Sqlite { "hex(zeroblob(10000))" } else { "REPEAT('0', 20000)" };
    let rows: Vec<String> = (1..=4000).map(|id| format!("({id}, {body}, 7)")).collect();
    scene.execute_all(&["INSERT INTO one VALUES (7)"]).await;
    scene.execute_all(&inserts("many", &rows)).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM one"]).await;
    (scene, name)
}

/// The bills of a lab stay when their lab vanishes: no foreign key says whose they are.
async fn memory_does_not_grow_with_the_rows_that_refer_to_one(engine: Engine) {
    let (scene, name) = one_of_many(engine, "NOT NULL").await;
    let relations = scene.file("r.toml", "[[reference]]\ntable = 'many'\ncolumns = 'one'\nparent = 'one'\n");
    let args = scene.args(&["restore", &name, "--missing", "--apply", "--relations", &relations]);
    run_small(&scene, &args, 0).await;
    let undo = scene.path("undo.jsonl").display().to_string();
    let referred = std::fs::read_to_string(&undo).unwrap().matches("\"many\",\"").count();
    assert_eq!(referred, 1000, "so many are written down");
    // More than that: nobody can say which of them are new.
    run_small(&scene, &scene.args(&["undo", &undo, "--relations", &relations]), 3).await;
    scene.execute_all(&["DELETE FROM many WHERE id > 1000"]).await;
    run_small(&scene, &scene.args(&["undo", &undo, "--relations", &relations]), 0).await;
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM one").await, 0);
}

async fn nor_with_the_rows_that_lost_their_reference(engine: Engine) {
    let (scene, name) = one_of_many(engine, "NULL, FOREIGN KEY (one) REFERENCES one (id) ON DELETE SET NULL").await;
    let planned = scene.json(3, &["restore", &name, "--missing"]);
    assert_eq!(planned["report"]["emptied"][0]["rows"], 4000, "{planned}");
    run_small(&scene, &scene.args(&["restore", &name, "--missing", "--apply"]), 3).await;
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM one").await, 1);
}
