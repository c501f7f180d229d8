//! What a person in a hurry does to a restore: runs parts of it, again and again, with edits in between.

use std::{io::Write as _, os::unix::fs::PermissionsExt as _};

use daymend::{
    args,
    db::{Mode, Query},
};
use sqlx::{Connection as _, Executor as _, MySqlConnection};

use super::{Scene, cases::people, rows};
use crate::{
    on_both,
    support::{
        Engine, TestDb,
        process::{command, run_fails},
        server::{self, Product, Server},
        wait_until,
    },
};

on_both! {
    one_table_alone_is_not_restored_blindly;
    a_reference_that_somebody_has_emptied_stays_empty;
    a_row_that_somebody_has_changed_is_not_taken_out;
    an_undo_that_is_through_is_no_error;
    a_row_that_was_restored_twice_is_named_once;
    a_line_that_a_crash_has_torn_spoils_no_other;
    what_a_trigger_writes_meanwhile_keeps_no_reference_empty;
    a_reference_that_a_trigger_has_filled_in_stays_so;
    the_undo_file_of_another_snapshot_is_not_written_on;
    nobody_else_may_read_what_is_written_down;
    what_the_database_refuses_at_first_is_tried_again;
    a_circle_that_has_no_beginning_is_set_aside;
}

async fn one_table_alone_is_not_restored_blindly(engine: Engine) {
    let scene = Scene::new(
        engine,
        &[
            "CREATE TABLE people (id BIGINT NOT NULL PRIMARY KEY, code VARCHAR(20) NULL UNIQUE)",
            "CREATE TABLE pets (id BIGINT NOT NULL PRIMARY KEY, owner BIGINT NULL)",
        ],
    )
    .await;
    let relations = scene.file("r.toml", "[[reference]]\ntable = 'pets'\ncolumns = 'owner'\nparent = 'people'\n");
    let sql =
        ["INSERT INTO people VALUES (1, 'a'), (2, 'b'), (3, 'c')", "INSERT INTO pets VALUES (1, 1), (2, 2), (3, 3)"];
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    // The second owner was entered again, and another person has got the old id.
    let sql =
        ["DELETE FROM pets", "DELETE FROM people WHERE id < 3", "INSERT INTO people VALUES (12, 'b'), (2, 'new')"];
    scene.execute_all(&sql).await;
    let code = scene.file("code.toml", "[[identity]]\ntable = 'people'\ncolumns = 'code'\n");
    let args =
        ["restore", &name, "--missing", "--apply", "--table", "pets", "--relations", &relations, "--relations", &code];
    let report = scene.json(3, &args);
    assert_eq!(scene.db.number("SELECT owner FROM pets WHERE id = 2").await, 12, "not the other person's: {report}");
    assert_eq!(scene.db.number("SELECT owner FROM pets WHERE id = 3").await, 3);
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM pets WHERE id = 1").await, 0, "its owner does not exist");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM people WHERE id = 1").await, 0, "people were not asked for");
    assert_eq!(rows(&report, "deferred")["pets"], 1, "{report}");
    assert_eq!(
        report["report"]["groups"].as_array().unwrap().iter().filter(|group| group["table"] == "people").count(),
        0
    );
    // The next run restores the rest with the same undo file; one undo reverts both runs.
    let report =
        scene.json(0, &["restore", &name, "--missing", "--apply", "--relations", &relations, "--relations", &code]);
    assert_eq!(report["applied"]["inserted"], 2, "{report}");
    assert_eq!(scene.db.number("SELECT owner FROM pets WHERE id = 1").await, 1);
    let undo = scene.path("undo.jsonl").display().to_string();
    scene.json(0, &["undo", &undo, "--relations", &relations]);
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM pets").await, 0);
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM people").await, 3);
}

/// Creates a circle of three members, all of them deleted after the snapshot.
async fn circle(engine: Engine) -> (Scene, String) {
    let table = "CREATE TABLE members (id BIGINT NOT NULL PRIMARY KEY, next BIGINT NULL, name VARCHAR(20) NULL,
        FOREIGN KEY (next) REFERENCES members (id))";
    let scene = Scene::new(engine, &[table]).await;
    let sql = [
        "INSERT INTO members VALUES (1, NULL, 'a'), (2, NULL, 'b'), (3, NULL, 'c')",
        "UPDATE members SET next = id % 3 + 1",
    ];
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["UPDATE members SET next = NULL", "DELETE FROM members"]).await;
    (scene, name)
}

async fn a_reference_that_somebody_has_emptied_stays_empty(engine: Engine) {
    let (scene, name) = circle(engine).await;
    let report = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(report["applied"]["inserted"], 3, "{report}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM members WHERE next = id % 3 + 1").await, 3);
    // A week later somebody breaks the circle, and the restore is run again for another reason.
    scene.db.execute("UPDATE members SET next = NULL", args![]).await;
    let report = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(report["applied"]["filled"], 0, "{report}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM members WHERE next IS NULL").await, 3, "{report}");
}

/// A member is inserted with its reference left empty, and is kept because others refer to it. Then somebody edits it,
/// and later nothing refers to it any more.
async fn a_row_that_somebody_has_changed_is_not_taken_out(engine: Engine) {
    let case = super::taken_out::Case::new(engine, true).await;
    case.restore(3);
    let scene = &case.scene;
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM members WHERE id = 2 AND leads IS NULL").await, 1);
    let sql = ["UPDATE members SET name = 'married' WHERE id = 2", "DELETE FROM badges"];
    scene.execute_all(&sql).await;
    let again =
        ["restore", &case.name, "--missing", "--apply", "--relations", &case.relations, "--exclude", "badges:7"];
    let report = scene.json(3, &again);
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM members WHERE id = 2 AND name = 'married'").await, 1, "{report}");
    // The obstacle is removed. The reference stays empty, because somebody has edited the row since.
    scene.db.execute("DELETE FROM teams WHERE id = 99", args![]).await;
    let report = scene.json(3, &again);
    assert_eq!((&report["applied"]["filled"], &report["applied"]["changed"]), (&0.into(), &1.into()), "{report}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM members WHERE id = 2 AND leads IS NULL").await, 1);
}

/// A user has locked the row that has to be taken out: the restore tries again until it succeeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cannot_be_taken_out_yet_is_tried_again() {
    let case = super::taken_out::Case::new(Engine::MariaDb, false).await;
    let scene = &case.scene;
    // The gate leaves time to lock the row, between the transaction that inserts it and the next one.
    let gate = format!("'gate of {}'", scene.db.name());
    let slow = format!(
        "CREATE TRIGGER slow BEFORE INSERT ON teams FOR EACH ROW
         IF NEW.id = 20 THEN DO GET_LOCK({gate}, 600); DO RELEASE_LOCK({gate}); END IF"
    );
    scene.db.execute(&slow, args![]).await;
    let mut closed = MySqlConnection::connect(&scene.db.triggers_url).await.unwrap();
    closed.execute(format!("DO GET_LOCK({gate}, 0)").as_str()).await.unwrap();
    let args = scene.args(&["restore", &case.name, "--missing", "--apply", "--relations", &case.relations]);
    let mut restore = command(&scene.db, &args.iter().map(String::as_str).collect::<Vec<_>>());
    let restore = tokio::task::spawn_blocking(move || restore.output().expect("daymend runs"));
    wait_until("the member to be in", std::time::Duration::from_secs(60), async || {
        scene.db.number("SELECT COUNT(*) FROM members WHERE id = 2").await == 1
    })
    .await;
    // A shared lock: the reference can be checked, but the row cannot be deleted.
    let mut held = scene.db.admin.begin(Mode::Write).await.unwrap();
    let read = "SELECT id FROM members WHERE id = 2 LOCK IN SHARE MODE";
    assert_eq!(held.fetch_all(Query::new("test", read), args![], Ok).await.unwrap().len(), 1);
    closed.close().await.unwrap();
    // Longer than a statement waits for a lock.
    tokio::time::sleep(std::time::Duration::from_secs(9)).await;
    assert!(!restore.is_finished(), "it has not tried again: {:?}", restore.await);
    held.commit().await.unwrap();
    let output = restore.await.unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM members WHERE id = 2").await, 0);
}

/// As if an undo had been killed between its last step and its end, and were run again.
async fn an_undo_that_is_through_is_no_error(engine: Engine) {
    let (scene, name) = circle(engine).await;
    scene.json(0, &["restore", &name, "--missing", "--apply"]);
    let undo = scene.path("undo.jsonl").display().to_string();
    assert_eq!(scene.json(0, &["undo", &undo])["removed"], 3);
    assert_eq!(scene.json(0, &["undo", &undo])["removed"], 0);
    assert!(scene.run(0, &["undo", &undo]).contains("has already been undone"));
    std::fs::remove_file(scene.path("undo.jsonl.undone")).unwrap();
    assert!(scene.run(2, &["undo", &undo]).contains("cannot be read"), "a file that never existed");
}

async fn a_row_that_was_restored_twice_is_named_once(engine: Engine) {
    let scene = people(engine).await;
    let name = scene.take().await.to_string();
    for _ in 0..2 {
        scene.db.execute("DELETE FROM pets WHERE id < 3", args![]).await;
        assert_eq!(scene.json(0, &["restore", &name, "--missing", "--apply"])["applied"]["inserted"], 2);
    }
    scene.db.execute("UPDATE pets SET name = 'renamed' WHERE id = 1", args![]).await;
    let undo = scene.path("undo.jsonl").display().to_string();
    for undo in [["undo", &undo, "--dry-run"].as_slice(), &["undo", &undo]] {
        let undone = scene.json(3, undo);
        let told = (&undone["removed"], &undone["gone"], &undone["left"][0]["keys"]);
        assert_eq!(told, (&1.into(), &1.into(), &serde_json::json!(["1"])), "{undone}");
    }
}

/// The last line of the undo file is incomplete, and its transaction never committed.
async fn a_line_that_a_crash_has_torn_spoils_no_other(engine: Engine) {
    let scene = people(engine).await;
    let name = scene.take().await.to_string();
    let before = scene.dump().await;
    let undo = scene.path("undo.jsonl").display().to_string();
    for pet in [1, 2] {
        scene.db.execute(&format!("DELETE FROM pets WHERE id = {pet}"), args![]).await;
        assert_eq!(scene.json(0, &["restore", &name, "--missing", "--apply"])["applied"]["inserted"], 1);
        let mut file = std::fs::File::options().append(true).open(&undo).unwrap();
        file.write_all(b"{\"op\":\"insert\",\"table\":\"pe").unwrap();
    }
    assert!(scene.dump().await == before);
    assert_eq!(scene.json(0, &["undo", &undo])["removed"], 2);
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM pets").await, 7);
}

/// A statement that is killed says nothing about its row, so the row must not be deferred.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_whose_statement_is_killed_is_not_deferred() {
    let scene = people(Engine::MariaDb).await;
    let name = scene.take().await.to_string();
    scene.db.execute("DELETE FROM pets WHERE id = 1", args![]).await;
    let slow = "CREATE TRIGGER slow BEFORE INSERT ON pets FOR EACH ROW DO SLEEP(600)";
    scene.db.execute(slow, args![]).await;
    let args = scene.args(&["restore", &name, "--missing", "--apply", "--json"]);
    let mut restore = command(&scene.db, &args.iter().map(String::as_str).collect::<Vec<_>>());
    let restore = tokio::task::spawn_blocking(move || restore.output().expect("daymend runs"));
    let sleeping = "SELECT CAST(COALESCE(MAX(id), 0) AS SIGNED) FROM information_schema.processlist
                    WHERE db = DATABASE() AND state = 'User sleep'";
    let limit = std::time::Duration::from_secs(30);
    wait_until("the insert", limit, async || scene.db.number(sleeping).await > 0).await;
    let id = scene.db.number(sleeping).await;
    scene.db.execute(&format!("KILL QUERY {id}"), args![]).await;
    let output = restore.await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM pets").await, 8);
}

/// A full table says nothing about the row that is inserted, so no row is deferred.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_finds_no_room_is_not_deferred() {
    let scene = people(Engine::MariaDb).await;
    let name = scene.take().await.to_string();
    scene.db.execute("DELETE FROM pets WHERE id IN (1, 2)", args![]).await;
    let full = "CREATE TRIGGER full BEFORE INSERT ON pets FOR EACH ROW
                SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1114, MESSAGE_TEXT = 'The table is full'";
    scene.db.execute(full, args![]).await;
    let args = scene.args(&["restore", &name, "--missing", "--apply"]);
    let error = run_fails(&scene.db, 1, &args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(error.contains("The table is full"), "{error}");
}

/// Somebody has turned the server's checks off for all new sessions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_refers_to_nothing_is_refused_whatever_the_server_leaves_unchecked() {
    let server = Server::start("unchecked").unwrap();
    let product = Product::tested();
    server::run(server.port, "SET GLOBAL foreign_key_checks = 0, GLOBAL unique_checks = 0").await;
    if product == Product::MariaDb {
        server::run(server.port, "SET GLOBAL check_constraint_checks = 0").await;
    }
    let tables = [
        "CREATE TABLE regions (id BIGINT NOT NULL PRIMARY KEY)",
        "CREATE TABLE clients (id BIGINT NOT NULL PRIMARY KEY, region BIGINT NOT NULL,
            FOREIGN KEY (region) REFERENCES regions (id))",
        "CREATE TABLE prices (id BIGINT NOT NULL PRIMARY KEY, price BIGINT NOT NULL)",
    ];
    let mut scene = Scene::on(TestDb::on_server(server.port).await, &tables).await;
    scene.tables.remove(0);
    let rows = [
        "INSERT INTO regions VALUES (1), (2)",
        "INSERT INTO clients VALUES (1, 1), (2, 2)",
        "INSERT INTO prices VALUES (1, 10), (2, -1)",
    ];
    scene.execute_all(&rows).await;
    let name = scene.take().await.to_string();
    let gone = [
        "DELETE FROM clients",
        "DELETE FROM regions WHERE id = 2",
        "DELETE FROM prices",
        "ALTER TABLE prices ADD CHECK (price >= 0)",
    ];
    scene.execute_all(&gone).await;
    let report = scene.json(3, &["restore", &name, "--missing", "--apply"]);
    let deferred = super::rows(&report, "deferred");
    assert_eq!((deferred["clients"], deferred["prices"]), (1, 1), "{report}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM clients WHERE region = 2").await, 0, "{report}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM prices WHERE price < 0").await, 0, "{report}");
}

/// A user begins to refer to a row that is about to be deleted, by a foreign key that cascades. The undo tries again
/// until that transaction has ended, and sees the new reference.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_begins_to_refer_to_a_row_loses_nothing() {
    let scene = people(Engine::MariaDb).await;
    let name = scene.take().await.to_string();
    let lose = ["DELETE FROM pets WHERE id = 1", "DELETE FROM people WHERE id = 1"];
    scene.execute_all(&lose).await;
    scene.json(0, &["restore", &name, "--missing", "--apply"]);
    let toys = "CREATE TABLE toys (id BIGINT NOT NULL PRIMARY KEY, pet BIGINT NOT NULL,
                FOREIGN KEY (pet) REFERENCES pets (id) ON DELETE CASCADE)";
    scene.db.execute(toys, args![]).await;
    let mut user = scene.db.admin.begin(Mode::Write).await.unwrap();
    user.execute(Query::new("test", "INSERT INTO toys VALUES (1, 1)"), args![]).await.unwrap();
    let args = scene.args(&["undo", &scene.path("undo.jsonl").display().to_string()]);
    let mut undo = command(&scene.db, &args.iter().map(String::as_str).collect::<Vec<_>>());
    let undo = tokio::task::spawn_blocking(move || undo.output().expect("daymend runs"));
    // The undo tries again and again. If it waited in its DELETE instead, this would be long enough to get there.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert!(!undo.is_finished(), "{:?}", undo.await);
    user.commit().await.unwrap();
    let output = undo.await.unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM toys JOIN pets ON pets.id = toys.pet").await, 1, "{output:?}");
}

async fn what_a_trigger_writes_meanwhile_keeps_no_reference_empty(engine: Engine) {
    let case = super::taken_out::Case::new(engine, false).await;
    let scene = &case.scene;
    let write = "UPDATE members SET name = 'has a team' WHERE id = NEW.first_member";
    let trigger = match engine {
        Engine::Sqlite => format!("CREATE TRIGGER counts AFTER INSERT ON teams BEGIN {write}; END"),
        Engine::MariaDb => format!("CREATE TRIGGER counts AFTER INSERT ON teams FOR EACH ROW {write}"),
    };
    scene.execute_all(&[trigger, "DELETE FROM teams".to_owned()]).await;
    let report = case.restore(0);
    assert_eq!((&report["applied"]["filled"], &report["applied"]["changed"]), (&2.into(), &0.into()), "{report}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM members WHERE leads = id * 10").await, 2);
}

async fn a_reference_that_a_trigger_has_filled_in_stays_so(engine: Engine) {
    let case = super::taken_out::Case::new(engine, false).await;
    let scene = &case.scene;
    let write = "UPDATE members SET leads = 10 WHERE id = 2";
    let trigger = match engine {
        Engine::Sqlite => format!("CREATE TRIGGER leads AFTER INSERT ON teams WHEN NEW.id = 20 BEGIN {write}; END"),
        Engine::MariaDb => {
            format!("CREATE TRIGGER leads AFTER INSERT ON teams FOR EACH ROW IF NEW.id = 20 THEN {write}; END IF")
        }
    };
    scene.execute_all(&["DELETE FROM teams".to_owned(), trigger]).await;
    let report = case.restore(0);
    assert_eq!(report["applied"]["filled"], 1, "{report}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM members WHERE leads = 10").await, 2, "{report}");
}

async fn the_undo_file_of_another_snapshot_is_not_written_on(engine: Engine) {
    let scene = people(engine).await;
    let [first, second] = [scene.take().await.to_string(), scene.take().await.to_string()];
    let mut written = Vec::new();
    for (pet, name, code) in [(1, &first, 0), (2, &second, 1)] {
        scene.db.execute(&format!("DELETE FROM pets WHERE id = {pet}"), args![]).await;
        assert_eq!(scene.run_any(&["restore", name, "--missing", "--apply"]), Some(code));
        written.push(std::fs::read(scene.path("undo.jsonl")).unwrap());
    }
    assert!(written[0] == written[1]);
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM pets").await, 8, "the second is not restored");
}

async fn nobody_else_may_read_what_is_written_down(engine: Engine) {
    let case = super::taken_out::Case::new(engine, false).await;
    // A team was entered again, so that there is a map.
    case.scene.execute_all(&["DELETE FROM teams"]).await;
    let code = case.scene.file("code.toml", "[[identity]]\ntable = 'teams'\ncolumns = 'code'\n");
    case.scene.execute_all(&["INSERT INTO teams VALUES (98, 3, 'b')"]).await;
    case.scene.run_any(&["restore", &case.name, "--missing", "--apply", "--relations", &code]);
    for file in ["undo.jsonl", "map.csv"] {
        let mode = std::fs::metadata(case.scene.path(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

/// Only a trigger knows which row has to exist before another.
async fn what_the_database_refuses_at_first_is_tried_again(engine: Engine) {
    let tables = ["appointments", "bookings"];
    let tables = tables.map(|table| format!("CREATE TABLE {table} (id BIGINT NOT NULL PRIMARY KEY)"));
    let scene = Scene::new(engine, &[&tables[0], &tables[1]]).await;
    scene.execute_all(&["INSERT INTO appointments VALUES (1), (2)", "INSERT INTO bookings VALUES (1)"]).await;
    let name = scene.take().await.to_string();
    let none = "NOT EXISTS (SELECT 1 FROM bookings WHERE id = NEW.id)";
    let on = "CREATE TRIGGER booked BEFORE INSERT ON appointments";
    let trigger = match engine {
        Engine::Sqlite => format!("{on} WHEN {none} BEGIN SELECT RAISE(ABORT, 'not booked'); END"),
        Engine::MariaDb => {
            format!("{on} FOR EACH ROW IF {none} THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not booked'; END IF")
        }
    };
    scene.execute_all(&["DELETE FROM appointments", "DELETE FROM bookings", &trigger]).await;
    let report = scene.json(3, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(report["applied"]["inserted"], 2, "{report}");
    assert_eq!(scene.db.number("SELECT id FROM appointments").await, 1, "{report}");
    assert_eq!(rows(&report, "deferred")["appointments"], 1, "{report}");
}

/// Each of the two rows has to exist before the other.
async fn a_circle_that_has_no_beginning_is_set_aside(engine: Engine) {
    let tables = [("chickens", "egg"), ("eggs", "chicken")].map(|(table, other)| {
        format!("CREATE TABLE {table} (id BIGINT NOT NULL PRIMARY KEY, {other} BIGINT NOT NULL)")
    });
    let scene = Scene::new(engine, &[&tables[0], &tables[1]]).await;
    scene.execute_all(&["INSERT INTO chickens VALUES (1, 10)", "INSERT INTO eggs VALUES (10, 1)"]).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM chickens", "DELETE FROM eggs"]).await;
    let relations = scene.file(
        "r.toml",
        "[[reference]]\ntable = 'chickens'\ncolumns = 'egg'\nparent = 'eggs'\n
         [[reference]]\ntable = 'eggs'\ncolumns = 'chicken'\nparent = 'chickens'\n",
    );
    let report = scene.json(3, &["restore", &name, "--missing", "--apply", "--relations", &relations]);
    let deferred = rows(&report, "deferred");
    assert_eq!((deferred["chickens"], deferred["eggs"], &report["applied"]["inserted"]), (1, 1, &0.into()), "{report}");
    assert_eq!(report["report"]["groups"][0]["reason"], "a row that it refers to cannot be restored", "{report}");
}
