//! What a person who restores may get wrong, and what must not result from it.

use daymend::snapshot::restore::undo_file::LockedFile;

use super::{
    Scene,
    cases::{NOW, PEOPLE, lab, people},
    rows,
};
use crate::{
    on_both,
    support::{Engine, process::command},
};

on_both! {
    another_database_is_named_and_not_written_to;
    a_tombstone_is_understood_or_refused;
    a_sign_inside_of_a_key_begins_no_comment;
    the_undo_that_is_printed_goes_by_what_the_restore_was_given;
    days_are_enqueued_whoever_reads_along;
    an_edited_map_is_never_written_over;
    days_of_labs_whose_view_is_off_are_left_alone;
    days_that_are_left_out_are_no_success_to_whoever_waits;
    a_restore_of_nothing_offers_nothing_to_take_back;
    nobody_else_writes_an_undo_file_that_is_written;
    a_map_that_names_half_a_key_names_nobody;
    a_map_that_fits_nobody_is_heard;
    a_map_that_cannot_be_saved_is_named_as_it_was_given;
    a_table_that_is_gone_is_no_success;
    a_plan_of_which_nothing_is_left_says_so;
    a_key_with_commas_and_quotes_is_read_as_it_is_written;
}

async fn another_database_is_named_and_not_written_to(engine: Engine) {
    let scene = people(engine).await;
    let name = scene.take().await.to_string();
    let mut other = Scene::new(engine, &PEOPLE).await;
    std::fs::rename(scene.path("snapshots"), other.path("snapshots")).unwrap();
    let database = |scene: &Scene| scene.db.admin.name();
    // All SQLite files of the tests have the same name.
    if engine == Engine::Sqlite {
        other.url = copied(&other, "other.db");
    }
    let remark = format!("{name} is of database {}, and live of ", database(&scene));
    assert!(other.run(3, &["diff", &name]).contains(&remark));
    // The second of the first snapshot is taken.
    other.next_time();
    let own = other.take().await.to_string();
    assert!(
        other
            .run(3, &["diff", &name, &own])
            .contains(&format!("{name} is of database {}, and {own} of ", database(&scene)))
    );
    assert_eq!(other.json(3, &["diff", "--since", &name]).as_array().unwrap().len(), 1, "{own} is left out");
    assert!(other.run(3, &["restore", &name, "--missing"]).contains(&remark));
    let error = other.run(2, &["restore", &name, "--missing", "--apply"]);
    assert!(error.contains(&remark) && error.contains("--into-other-database"), "{error}");
    let done = other.json(0, &["restore", &name, "--missing", "--apply", "--into-other-database"]);
    assert_eq!(done["applied"]["inserted"], 18, "{done}");
    assert!(done["report"]["remarks"][0].as_str().unwrap().starts_with(&remark));
}

/// Copies the database file with its WAL, and returns the copy's URL.
pub(super) fn copied(scene: &Scene, to: &str) -> String {
    let (file, to) = (scene.db.admin.name(), scene.path(to).display().to_string());
    std::fs::copy(&file, &to).unwrap();
    std::fs::copy(format!("{file}-wal"), format!("{to}-wal")).unwrap();
    format!("sqlite:{to}")
}

/// A file that was moved, as backups are, is the same database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_moved_is_the_same_database() {
    let mut scene = people(Engine::Sqlite).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM pets"]).await;
    scene.url = copied(&scene, "lab.db");
    assert!(!scene.run(3, &["diff", &name]).contains("is of database"));
    assert_eq!(scene.json(0, &["restore", &name, "--missing", "--apply"])["applied"]["inserted"], 9);
}

async fn a_tombstone_is_understood_or_refused(engine: Engine) {
    let scene = people(engine).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM pets", "DELETE FROM people WHERE id < 5"]).await;
    for line in ["People:4", "peple:4", " person : 4"] {
        let list = scene.file("list", &format!("# erased\n\n{line}\n"));
        let table = line.split(':').next().unwrap().trim();
        let expected = format!("{list}:3: table {table} is not in snapshot {name}");
        let error = scene.run(2, &["restore", &name, "--missing", "--tombstones", &list]);
        assert!(error.contains(&expected), "{error}");
        let error = scene.run(2, &["restore", &name, "--missing", "--exclude", line.trim()]);
        assert!(error.contains(&format!("--exclude: table {table} is not in snapshot")), "{error}");
    }
    // A byte order mark, leading zeros and signs, a table that this snapshot does not have, and rows that still exist
    // or never did.
    let lines = "\u{feff}people:1\r\npeople:0002\nlabs:7\npeople: +3\npeople:8\npets:99\npeople:two\n";
    let list = scene.file("list", lines);
    let report = scene.json(3, &["restore", &name, "--missing", "--apply", "--tombstones", &list]);
    assert_eq!(rows(&report, "excluded")["people"], 3);
    assert_eq!(scene.db.number("SELECT MIN(id) FROM people").await, 4);
    let expected = format!(
        "deleted on purpose: 3 of 7 line(s) match missing rows, 4 match none: \
         {list}:3 labs:7, {list}:5 people:8, {list}:6 pets:99, {list}:7 people:two"
    );
    assert_eq!(report["report"]["remarks"], serde_json::json!([expected]));
}

async fn a_sign_inside_of_a_key_begins_no_comment(engine: Engine) {
    let samples = "CREATE TABLE samples (code VARCHAR(20) NOT NULL PRIMARY KEY)";
    let scene = Scene::new(engine, &[samples]).await;
    scene.execute_all(&["INSERT INTO samples VALUES ('S#12'), ('S'), ('T')"]).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM samples"]).await;
    let list = scene.file("list", "#erased\nsamples:S#12 # on request\nsamples:T\t#1\n");
    let report = scene.json(0, &["restore", &name, "--missing", "--apply", "--tombstones", &list]);
    assert_eq!(rows(&report, "excluded")["samples"], 2, "{report}");
    assert_eq!(scene.db.text("SELECT MAX(code) FROM samples").await, "S");
}

/// A file of relations declares a reference that the schema does not have.
async fn the_undo_that_is_printed_goes_by_what_the_restore_was_given(engine: Engine) {
    let notes = "CREATE TABLE notes (id BIGINT NOT NULL PRIMARY KEY, kind VARCHAR(9) NULL, owner VARCHAR(20) NULL)";
    let scene = Scene::new(engine, &[PEOPLE[0], notes]).await;
    scene.execute_all(&["INSERT INTO people VALUES (1, 'c1', 'a'), (2, 'c2', 'b'), (3, 'c3', 'c')"]).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM people WHERE id = 1"]).await;
    let references = "[[reference]]\ntable = 'notes'\ncolumns = 'owner'\ntype_column = 'kind'\n";
    let relations = scene.file("r.toml", &format!("{references}parents = {{ person = 'people' }}\n"));
    let restore = ["restore", &name, "--missing", "--apply", "--relations", &relations];
    let printed = scene.run(0, &restore);
    assert!(!printed.contains("--relations"), "{printed}");
    scene.execute_all(&["INSERT INTO notes VALUES (7, 'person', '1')"]).await;
    let undone = scene.json(3, &Scene::hint(&printed));
    assert_eq!(undone["left"][0]["keys"], serde_json::json!(["1 (notes 7)"]), "{undone}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM people").await, 3);
    scene.execute_all(&["DELETE FROM notes"]).await;
    scene.json(0, &Scene::hint(&printed));
    // An undo file that was begun without these relations is continued, with a remark.
    scene.execute_all(&["DELETE FROM people WHERE id = 2"]).await;
    scene.run(0, &["restore", &name, "--missing", "--apply"]);
    scene.execute_all(&["DELETE FROM people WHERE id = 3"]).await;
    let printed = scene.run(0, &restore);
    assert!(printed.contains("was begun with other --relations: give these to `snapshot undo` as well"), "{printed}");
}

/// As with `| head -5`: nobody reads the output.
async fn days_are_enqueued_whoever_reads_along(engine: Engine) {
    let scene = lab(engine).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM collectedSample"]).await;
    let undo = scene.path("undo.jsonl").display().to_string();
    for (runs, args) in [(1, vec!["restore", &name, "--missing", "--apply"]), (2, vec!["undo", &undo])] {
        let args = scene.args(&args);
        let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
        args.splice(0..0, ["--now", NOW]);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = command(&scene.db, &args).stdout(writer).status().unwrap();
        assert!(!status.success(), "{status}");
        assert_eq!(scene.db.number("SELECT COUNT(*) FROM daymend_runs").await, runs, "{args:?}");
    }
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM collectedSample").await, 0);
    assert!(scene.path("undo.jsonl.undone").exists());
}

async fn an_edited_map_is_never_written_over(engine: Engine) {
    let scene = people(engine).await;
    let name = scene.take().await.to_string();
    let sql = [
        "DELETE FROM pets WHERE id IN (1, 2)",
        "DELETE FROM people WHERE id IN (1, 2)",
        "INSERT INTO people VALUES (11, 'c1', 'again'), (12, 'c2', 'somebody else')",
    ];
    scene.execute_all(&sql).await;
    let read = |file: &str| std::fs::read_to_string(scene.path(file)).unwrap();
    let map = scene.path("map.csv");
    let plan = ["restore", &name, "--missing"];
    assert_eq!(scene.json(3, &plan)["map"], map.to_str().unwrap());
    let planned = read("map.csv");
    // A map with the same content is left as it is.
    assert_eq!(scene.json(3, &plan)["map"], map.to_str().unwrap());
    let edited = "table,old,new,why\npeople,1,11,\npeople,2,,somebody else\n";
    std::fs::write(&map, edited).unwrap();
    for _ in 0..2 {
        let said = scene.run(3, &plan);
        assert!(said.contains(&format!("{} already holds another map, and was not changed", map.display())), "{said}");
        assert!(said.contains("map.2.csv: edit it"), "{said}");
        assert_eq!((read("map.csv").as_str(), read("map.2.csv")), (edited, planned.clone()));
    }
    assert!(!scene.path("map.3.csv").exists());
    // The same file by another path.
    let given = scene.path("snapshots/../map.csv").display().to_string();
    let done = scene.json(3, &["restore", &name, "--missing", "--apply", "--remap", &given]);
    assert_eq!((&done["map"], rows(&done, "mapped")["people"]), (&serde_json::Value::Null, 1), "{done}");
    assert_eq!(read("map.csv"), edited);
    // With nothing left to map.
    scene.execute_all(&["DELETE FROM pets", "DELETE FROM people WHERE id > 9"]).await;
    let done = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!((&done["map"], read("map.csv").as_str()), (&serde_json::Value::Null, edited));
    let mut files: Vec<String> = std::fs::read_dir(scene.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("map"))
        .collect();
    files.sort();
    assert_eq!(files, ["map.2.csv", "map.csv"]);
}

async fn a_map_that_cannot_be_saved_is_named_as_it_was_given(engine: Engine) {
    let scene = people(engine).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM pets"]).await;
    let map = scene.path("map.csv").display().to_string();
    // Not even root can write to the second.
    for given in ["/nonexistent/map.csv", "/proc/map.csv"] {
        let args = scene.args(&["restore", &name, "--missing"]);
        let args: Vec<&str> = args.iter().map(|arg| if *arg == map { given } else { arg }).collect();
        let output = command(&scene.db, &args).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert_eq!(error, format!("error: {given}: cannot be written: No such file or directory (os error 2)\n"));
    }
}

async fn days_of_labs_whose_view_is_off_are_left_alone(engine: Engine) {
    let scene = lab(engine).await;
    for lab in [2, 3] {
        scene.db.add_lab(lab, Some("Europe/Brussels")).await;
        scene.db.fill_lab(lab, "2026-06-01".parse().unwrap(), 3, 5).await;
    }
    let off = "UPDATE labs SET historicalViewEnabled = 0 WHERE id = 2";
    let nowhere = "UPDATE labs SET labTimeZone = 'Nowhere' WHERE id = 3";
    scene.execute_all(&[off, nowhere]).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM collectedSample WHERE billing_id % 2 = 0"]).await;
    let undo = scene.path("undo.jsonl").display().to_string();
    let labs = "SELECT COUNT(*) FROM daymend_jobs WHERE lab_id <> 1";
    for args in [vec!["restore", &name, "--missing", "--apply"], vec!["undo", &undo]] {
        let args = scene.args(&args);
        let said =
            super::ok(&scene.db, &[&["--now", NOW][..], &args.iter().map(String::as_str).collect::<Vec<_>>()].concat());
        assert!(
            said.contains("the days of 2 lab(s) are not recomputed (lab 2: its Historical View is off; lab 3: "),
            "{said}"
        );
        assert!(said.contains("day(s) of 1 lab(s) are recomputed"), "{said}");
        assert_eq!(scene.db.number(labs).await, 0);
    }
}

async fn days_that_are_left_out_are_no_success_to_whoever_waits(engine: Engine) {
    let scene = lab(engine).await;
    scene.db.add_lab(3, Some("Europe/Brussels")).await;
    scene.db.fill_lab(3, "2026-06-01".parse().unwrap(), 3, 5).await;
    scene.execute_all(&["UPDATE labs SET labTimeZone = 'Nowhere' WHERE id = 3"]).await;
    let name = scene.take().await.to_string();
    scene
        .execute_all(&["DELETE FROM collectedSample WHERE billing_id IN (SELECT id FROM billing WHERE lab_id = 3)"])
        .await;
    let undo = scene.path("undo.jsonl").display().to_string();
    let restore = ["restore", &name, "--missing", "--apply", "--now", NOW];
    for (code, wait) in [(3, &["--wait"][..]), (0, &[])] {
        for command in [&restore[..], &["undo", &undo, "--now", NOW]] {
            let said = scene.json(code, &[command, wait].concat());
            assert_eq!((&said["left_out"][0]["lab"], &said["run"]), (&3.into(), &serde_json::Value::Null), "{said}");
            let renamed = if command[0] == "undo" { Some(format!("{undo}.undone")) } else { None };
            assert_eq!(said["renamed_to"].as_str(), renamed.as_deref(), "{said}");
        }
        std::fs::remove_file(format!("{undo}.undone")).unwrap();
    }
}

async fn a_restore_of_nothing_offers_nothing_to_take_back(engine: Engine) {
    let scene = people(engine).await;
    let name = scene.take().await.to_string();
    let undo = scene.path("undo.jsonl").display().to_string();
    let restore = ["restore", &name, "--missing", "--apply"];
    let said = scene.run(0, &restore);
    assert!(said.contains("no rows to restore") && !said.contains("to undo it"), "{said}");
    scene.execute_all(&["DELETE FROM pets"]).await;
    assert!(scene.run(0, &restore).contains("to undo it"));
    // What an earlier run restored can still be reverted.
    let said = scene.run(0, &restore);
    assert!(said.contains("0 row(s) restored by this run") && said.contains("to undo it"), "{said}");
    assert!(!scene.run(0, &["undo", &undo, "--dry-run"]).contains("is now"));
    let said = scene.run(0, &["undo", &undo]);
    assert!(said.contains(&format!("{undo} is now {undo}.undone")), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_in_keys_are_numbers_and_texts_are_texts() {
    let table = "CREATE TABLE t (code VARCHAR(20) NOT NULL, n INT UNSIGNED NOT NULL, PRIMARY KEY (code, n))";
    let scene = Scene::new(Engine::MariaDb, &[table]).await;
    scene.execute_all(&["INSERT INTO t VALUES ('007', 7), ('7', 7)"]).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM t"]).await;
    let report = scene.json(0, &["restore", &name, "--missing", "--apply", "--exclude", "t:007, 07"]);
    assert_eq!(rows(&report, "excluded")["t"], 1);
    assert_eq!(scene.db.text("SELECT code FROM t").await, "7");
}

/// The directory's name has characters with a meaning in URLs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn temporary_files_may_be_anywhere() {
    let scene = people(Engine::Sqlite).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM pets"]).await;
    let temporary = scene.path("100%20?mode=ro#x");
    std::fs::create_dir(&temporary).unwrap();
    let args = scene.args(&["restore", &name, "--missing", "--apply"]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = command(&scene.db, &args).env("TMPDIR", &temporary).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM pets").await, 9);
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
}

async fn nobody_else_writes_an_undo_file_that_is_written(engine: Engine) {
    let scene = people(engine).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM pets WHERE id < 4"]).await;
    scene.run(0, &["restore", &name, "--missing", "--apply"]);
    scene.execute_all(&["DELETE FROM pets WHERE id > 6"]).await;
    // Another run is in the middle of a line.
    let (path, undo) = (scene.path("undo.jsonl"), scene.path("undo.jsonl").display().to_string());
    let locked = LockedFile::create(&path).unwrap();
    let written = std::fs::read_to_string(&path).unwrap() + "{\"op\":\"ins";
    std::fs::write(&path, &written).unwrap();
    for command in [
        ["restore", name.as_str(), "--missing", "--apply"].as_slice(),
        ["undo", undo.as_str()].as_slice(),
        ["undo", undo.as_str(), "--dry-run"].as_slice(),
    ] {
        let args = scene.args(command);
        let output = command_output(&scene, &args);
        assert!(output.contains(&format!("{undo} is in use by another run")), "{command:?}: {output}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), written, "{command:?}");
        assert_eq!(scene.db.number("SELECT COUNT(*) FROM pets").await, 6, "{command:?}");
    }
    drop(locked);
    scene.run(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(scene.json(0, &["undo", &undo])["removed"], 6);
}

/// Runs a command that fails, and returns its error.
pub(super) fn command_output(scene: &Scene, args: &[String]) -> String {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = command(&scene.db, &args).output().unwrap();
    assert!(!output.status.success(), "{args:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn a_map_that_names_half_a_key_names_nobody(engine: Engine) {
    let table = "CREATE TABLE seats (shelf BIGINT NOT NULL, place BIGINT NOT NULL, name VARCHAR(20) NULL,
        PRIMARY KEY (shelf, place))";
    let scene = Scene::new(engine, &[table]).await;
    scene.execute_all(&["INSERT INTO seats VALUES (1, 1, 'a'), (1, 2, 'b'), (2, 1, 'c')"]).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM seats WHERE shelf = 1"]).await;
    for (new, values) in [("2", 1), ("\"2,1,7\"", 3)] {
        let map = scene.file("given.csv", &format!("table,old,new\nseats,\"1,1\",{new}\nseats,\"1,2\",\"2, 1\"\n"));
        let report = scene.json(3, &["restore", &name, "--missing", "--remap", &map]);
        assert_eq!(rows(&report, "mapped")["seats"], 1, "{report}");
        let groups = report["report"]["groups"].as_array().unwrap();
        let why = format!("the map names it by {values} value(s), but its key is shelf, place");
        assert!(groups.iter().any(|group| group["state"] == "ambiguous" && group["reason"] == why), "{report}");
    }
}

async fn a_map_that_fits_nobody_is_heard(engine: Engine) {
    let scene = people(engine).await;
    let name = scene.take().await.to_string();
    let sql = [
        "DELETE FROM pets WHERE id IN (1, 2)",
        "DELETE FROM people WHERE id IN (1, 2)",
        "INSERT INTO people VALUES (11, 'c1', 'again')",
    ];
    scene.execute_all(&sql).await;
    // A row that never existed, one that still exists, and a key that no row can have.
    let map = "table,old,new\npeople,1,11\npeople,2,\npeople,77,11\npeople,4,11\npets,abc,1\n";
    let map = scene.file("given.csv", map);
    for more in [[].as_slice(), &["--apply"]] {
        let report = scene.json(3, &[&["restore", &name, "--missing", "--remap", &map], more].concat());
        let expected = "the map: 3 of 5 line(s) match no missing row: people:4, people:77, pets:abc";
        assert_eq!(report["report"]["remarks"], serde_json::json!([expected]));
    }
}

async fn a_table_that_is_gone_is_no_success(engine: Engine) {
    let scene = people(engine).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DROP TABLE pets"]).await;
    scene.run(3, &["diff", &name]);
    let said = scene.run(3, &["restore", &name, "--missing"]);
    assert!(said.contains("table pets does not exist any more: none of its rows can be restored"), "{said}");
    assert!(said.contains("no row of the other tables is missing"), "{said}");
    scene.json(3, &["restore", &name, "--missing", "--apply"]);
    let said = scene.run(0, &["restore", &name, "--missing", "--table", "people"]);
    assert_eq!(said, "no row is missing\n");
}

/// One person was entered again, and one pet was deleted on purpose.
async fn a_plan_of_which_nothing_is_left_says_so(engine: Engine) {
    let scene = people(engine).await;
    let name = scene.take().await.to_string();
    let sql = [
        "DELETE FROM pets WHERE id < 3",
        "DELETE FROM people WHERE id = 1",
        "INSERT INTO people VALUES (11, 'c1', 'again')",
    ];
    scene.execute_all(&sql).await;
    let plan = ["restore", &name, "--missing", "--exclude", "pets:2"];
    assert!(scene.run(3, &plan).contains("nothing was written: use --apply to restore the rows"));
    scene.json(0, &[&plan[..], &["--apply"]].concat());
    let said = scene.run(0, &plan);
    assert!(said.ends_with("nothing is left to restore\n"), "{said}");
}

async fn a_key_with_commas_and_quotes_is_read_as_it_is_written(engine: Engine) {
    let tables = [
        "CREATE TABLE seats (hall VARCHAR(20) NOT NULL, place BIGINT NOT NULL, code VARCHAR(20) NULL UNIQUE,
            PRIMARY KEY (hall, place))",
        "CREATE TABLE guests (id BIGINT NOT NULL PRIMARY KEY, hall VARCHAR(20) NULL, place BIGINT NULL,
            FOREIGN KEY (hall, place) REFERENCES seats (hall, place))",
    ];
    let scene = Scene::new(engine, &tables).await;
    let sql = [
        "INSERT INTO seats VALUES ('x,y', 1, 'a'), ('q\"z', 2, 'b')",
        "INSERT INTO guests VALUES (1, 'x,y', 1), (2, 'q\"z', 2)",
    ];
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    let sql = ["DELETE FROM guests", "DELETE FROM seats", "INSERT INTO seats VALUES ('new,\"k\"', 9, 'a')"];
    scene.execute_all(&sql).await;
    for line in ["seats:x,y,1", "seats:\"x,y\",1", "seats: \"x,y\", 01"] {
        let report = scene.json(3, &["restore", &name, "--missing", "--exclude", line]);
        assert_eq!(rows(&report, "excluded").get("seats"), Some(&1), "{line}: {report}");
    }
    std::fs::remove_file(scene.path("map.csv")).unwrap_or_default();
    scene.json(3, &["restore", &name, "--missing"]);
    let map = scene.path("map.csv").display().to_string();
    // A map of an older daymend is understood as well: only its new keys need quotes.
    let written = std::fs::read_to_string(&map).unwrap();
    let old = scene.file("old.csv", &written.replace("\"\"\"x,y\"\",1\"", "\"x,y,1\""));
    assert_ne!(std::fs::read_to_string(&old).unwrap(), written);
    for map in [&old, &map] {
        let report = scene.json(3, &["restore", &name, "--missing", "--remap", map]);
        assert_eq!(rows(&report, "mapped").get("seats"), Some(&1), "{report}");
        assert_eq!(report["report"]["remarks"], serde_json::json!([]));
    }
    scene.json(0, &["restore", &name, "--missing", "--apply", "--remap", &map]);
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM guests WHERE hall = 'new,\"k\"' AND place = 9").await, 1);
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM guests WHERE hall = 'q\"z'").await, 1);
}
