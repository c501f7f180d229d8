//! Many vanished rows: memory stays the same.

use std::time::Duration;

use super::{Scene, inserts};
use crate::{
    on_both,
    support::{Engine, TestDb, process::Process, server::Server},
};

on_both! {
    memory_does_not_grow_with_the_rows_that_come_back;
    memory_does_not_grow_with_the_rows_that_refer_to_one;
    nor_with_the_rows_that_lost_their_reference;
    nor_with_the_rows_whose_key_is_a_strangers;
    nor_with_the_length_of_the_rows;
    nor_with_the_rows_that_share_an_identity;
}

/// Of the vanished people, one in this many is entered again.
const AGAIN: i64 = 20;

fn size(engine: Engine) -> i64 {
    match engine {
        Engine::Sqlite => 200_000,
        // The code is the same, but a row takes longer there.
        Engine::MariaDb => 40_000,
    }
}

/// Runs a command that has to end with this code and within the memory limit.
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

/// Takes a snapshot of one row and of 4,000 rows that refer to it, 80 MB in all. Deletes the one row.
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

/// As with the bills of a lab that vanishes: no foreign key keeps them from staying.
async fn memory_does_not_grow_with_the_rows_that_refer_to_one(engine: Engine) {
    let (scene, name) = one_of_many(engine, "NOT NULL").await;
    let relations = scene.file("r.toml", "[[reference]]\ntable = 'many'\ncolumns = 'one'\nparent = 'one'\n");
    let args = scene.args(&["restore", &name, "--missing", "--apply", "--relations", &relations]);
    run_small(&scene, &args, 0).await;
    let undo = scene.path("undo.jsonl").display().to_string();
    // Without the header, which contains the relations.
    let undo_file = std::fs::read_to_string(&undo).unwrap();
    let referred = undo_file.lines().skip(1).map(|line| line.matches("\"many\",\"").count()).sum::<usize>();
    assert_eq!(referred, 1000, "the limit of what is written down");
    // There are more than that, so it is unknown which of them are new.
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

/// A person's key is a stranger's now. So are the keys of 1,500 readings that contain it, 30 MB in all.
async fn nor_with_the_rows_whose_key_is_a_strangers(engine: Engine) {
    let tables = [
        "CREATE TABLE people (id BIGINT NOT NULL PRIMARY KEY, nid VARCHAR(20) NULL UNIQUE)",
        "CREATE TABLE readings (pid BIGINT NOT NULL, no BIGINT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (pid, no),
            FOREIGN KEY (pid) REFERENCES people (id))",
    ];
    let scene = Scene::new(engine, &tables).await;
    let body = if engine == Engine::Sqlite { "hex(zeroblob(10000))" } else { "REPEAT('0', 20000)" };
    let rows: Vec<String> = (1..=1500).map(|no| format!("(4, {no}, {body})")).collect();
    scene.execute_all(&["INSERT INTO people VALUES (4, 'N4')"]).await;
    scene.execute_all(&inserts("readings", &rows)).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["UPDATE people SET nid = 'STRANGER'"]).await;
    let relations = scene.file("r.toml", "[[identity]]\ntable = 'people'\ncolumns = 'nid'\n");
    let restore = ["restore", &name, "--missing", "--relations", &relations];
    run_small(&scene, &scene.args(&restore), 3).await;
    let plan = scene.json(3, &restore);
    assert_eq!(
        super::rows(&plan, "reused"),
        [("people".to_owned(), 1), ("readings".to_owned(), 1500)].into(),
        "{plan}"
    );
}

/// A page is limited by its bytes, not only by its rows: 300 of these rows are 90 MB, more than a process may take.
async fn nor_with_the_length_of_the_rows(engine: Engine) {
    let scene =
        Scene::new(engine, &["CREATE TABLE reports (id BIGINT NOT NULL PRIMARY KEY, body LONGTEXT NOT NULL)"]).await;
    let body = if engine == Engine::Sqlite { "hex(zeroblob(150000))" } else { "REPEAT('0', 300000)" };
    for first in [1, 101, 201] {
        let rows: Vec<String> = (first..first + 100).map(|id| format!("({id}, {body})")).collect();
        scene.execute_all(&inserts("reports", &rows)).await;
    }
    let name = scene.take().await.to_string();
    run_small(&scene, &scene.args(&["diff", &name]), 0).await;
    scene.execute_all(&["DELETE FROM reports WHERE id > 10"]).await;
    run_small(&scene, &scene.args(&["restore", &name, "--missing", "--apply"]), 0).await;
    assert_eq!(scene.db.number("SELECT CAST(SUM(LENGTH(body)) AS SIGNED) FROM reports").await, 300 * 300_000);
    run_small(&scene, &scene.args(&["undo", &scene.path("undo.jsonl").display().to_string()]), 0).await;
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM reports").await, 10);
}

/// An identity that identifies nobody, because many rows have the same. Comparing all 300 live rows with each of
/// the 300 vanished ones would read 900 MB.
async fn nor_with_the_rows_that_share_an_identity(engine: Engine) {
    let people = "CREATE TABLE people (id BIGINT NOT NULL PRIMARY KEY, phone VARCHAR(20) NOT NULL, body TEXT NOT NULL)";
    let scene = Scene::new(engine, &[people]).await;
    let body = if engine == Engine::Sqlite { "hex(zeroblob(5000))" } else { "REPEAT('0', 10000)" };
    let entered = |first: i64| (first..first + 300).map(|id| format!("({id}, 'none', {body})")).collect::<Vec<_>>();
    scene.execute_all(&inserts("people", &entered(1))).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM people"]).await;
    scene.execute_all(&inserts("people", &entered(1001))).await;
    let relations = scene.file("r.toml", "[[identity]]\ntable = 'people'\ncolumns = 'phone'\n");
    let restore = ["restore", &name, "--missing", "--relations", &relations];
    run_small(&scene, &scene.args(&restore), 3).await;
    assert_eq!(super::rows(&scene.json(3, &restore), "ambiguous")["people"], 300);
}

/// A row whose values were written one by one may be longer than the server accepts in one statement. It would close
/// the connection, and every restore would end there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_longer_than_a_statement_may_be_keeps_no_other() {
    let server = Server::start("packet").expect("MariaDB starts");
    let db = TestDb::on_server(server.port).await;
    db.execute("CREATE TABLE reports (id BIGINT NOT NULL PRIMARY KEY, body LONGTEXT NOT NULL)", vec![]).await;
    db.execute(
        "INSERT INTO reports SELECT id, 'short' FROM (SELECT 1 AS id UNION SELECT 2 UNION SELECT 3) AS ids",
        vec![],
    )
    .await;
    db.execute("UPDATE reports SET body = REPEAT('0', 3000000) WHERE id = 2", vec![]).await;
    let scene = Scene::of(db, vec!["reports".to_owned()]).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM reports", "SET GLOBAL max_allowed_packet = 1048576"]).await;
    let done = scene.json(3, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(done["applied"]["inserted"], 2, "{done:#}");
    assert!(done.to_string().contains("a value is too long"), "{done:#}");
    assert!(done.to_string().contains("max_allowed_packet is 1048576"), "{done:#}");
}
