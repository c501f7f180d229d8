//! An undo file belongs to one database.

use daymend::db::{ConnectOptions, Mode, Query, connect};

use super::{
    Scene,
    cases::people,
    mistakes::{command_output, copied},
    rows,
};
use crate::{
    on_both,
    support::{Engine, process::command},
};

on_both! {
    an_undo_file_is_of_one_database;
    what_a_rehearsal_has_written_down_is_not_taken_for_this_database;
}

/// The other database has rows of the same keys that were never restored there, as in a rehearsal of a restore.
async fn an_undo_file_is_of_one_database(engine: Engine) {
    let [scene, mut other] = [people(engine).await, people(engine).await];
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM pets"]).await;
    scene.run(0, &["restore", &name, "--missing", "--apply"]);
    std::fs::rename(scene.path("snapshots"), other.path("snapshots")).unwrap();
    std::fs::rename(scene.path("undo.jsonl"), other.path("undo.jsonl")).unwrap();
    if engine == Engine::Sqlite {
        other.url = copied(&other, "other.db");
    }
    let live = connect(&other.url, ConnectOptions::new(1)).unwrap();
    let pets = async || {
        let mut tx = live.begin(Mode::Snapshot).await.unwrap();
        tx.fetch_one(Query::new("test", "SELECT COUNT(*) FROM pets"), vec![], |row| row.int(0)).await.unwrap()
    };
    let (path, database) = (other.path("undo.jsonl"), scene.db.admin.name());
    let undo = path.display().to_string();
    for more in ["--dry-run", "--json"] {
        let error = other.run(2, &["undo", &undo, more]);
        let expected =
            format!("{undo} was written for database {database}, but this is {}: if that is intended", live.name());
        assert!(error.contains(&expected) && error.contains("--into-other-database"), "{error}");
    }
    assert_eq!(pets().await, 9);
    let restore = other.args(&["restore", &name, "--missing", "--apply", "--into-other-database"]);
    let error = command_output(&other, &restore);
    let expected = format!("is of database {database}, and this is {}: give another one with --undo-file", live.name());
    assert!(error.contains(&expected), "{error}");
    // A file of an older daymend does not name its database.
    let written = std::fs::read_to_string(&path).unwrap();
    let (start, end) = (written.find("\"database\"").unwrap(), written.find("\"tables\"").unwrap());
    std::fs::write(&path, format!("{}{}", &written[..start], &written[end..])).unwrap();
    let dry_run = other.args(&["undo", &undo, "--dry-run"]);
    let dry_run: Vec<&str> = dry_run.iter().map(String::as_str).collect();
    let output = command(&other.db, &dry_run).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("does not name its database"), "{output:?}");
    let done = other.json(0, &["restore", &name, "--missing", "--apply", "--into-other-database"]);
    assert!(done["report"]["remarks"].to_string().contains("does not name its database"), "{done}");
    std::fs::write(&path, written).unwrap();
    assert_eq!(other.json(0, &["undo", &undo, "--into-other-database"])["removed"], 9);
    assert_eq!(pets().await, 0);
}

/// Makes the database another one of the same name than the one that the undo file is of: on SQLite a copy in another
/// directory, on MariaDB one of another server.
fn elsewhere(scene: &mut Scene) {
    match scene.db.engine {
        Engine::Sqlite => {
            std::fs::create_dir(scene.path("try")).unwrap();
            scene.url = copied(scene, "try/lab.db");
        }
        Engine::MariaDb => {
            let written = std::fs::read_to_string(scene.path("undo.jsonl")).unwrap();
            let (before, after) = written.split_once("\"server\":\"").unwrap();
            assert!(after.starts_with(|first| first != '"'), "{written}");
            std::fs::write(scene.path("undo.jsonl"), format!("{before}\"server\":\"trial {after}")).unwrap();
        }
    }
}

/// Both have the same name, and a restore was rehearsed in one of them. The other has these rows for other reasons.
async fn what_a_rehearsal_has_written_down_is_not_taken_for_this_database(engine: Engine) {
    let mut scene = people(engine).await;
    let name = scene.take().await.to_string();
    let undo = scene.path("undo.jsonl").display().to_string();
    scene.execute_all(&["DELETE FROM pets WHERE id < 4"]).await;
    scene.json(0, &["restore", &name, "--missing", "--apply"]);
    let rehearsed = std::fs::read_to_string(&undo).unwrap();
    elsewhere(&mut scene);
    let error = command_output(&scene, &scene.args(&["restore", &name, "--missing", "--apply"]));
    let expected = [": give another one with --undo-file.", "as after a failover, use --into-other-database"];
    assert!(expected.iter().all(|expected| error.contains(expected)) && error.lines().count() == 1, "{error}");
    for more in ["--dry-run", "--json"] {
        let error = scene.run(2, &["undo", &undo, more]);
        assert!(error.contains("if that is intended, use --into-other-database"), "{error}");
    }
    // Whoever says that it is the same one goes on.
    let told = scene.json(0, &["undo", &undo, "--dry-run", "--into-other-database"]);
    assert_eq!(told["removed"], 3, "{told}");
    let gone_on = scene.json(0, &["restore", &name, "--missing", "--apply", "--into-other-database"]);
    assert!(rows(&gone_on, "restored").is_empty(), "{gone_on}");
    if engine == Engine::Sqlite {
        // The file was moved: the other one is not there any more.
        let (file, away) = (scene.db.admin.name(), scene.path("away.db"));
        std::fs::rename(&file, &away).unwrap();
        assert_eq!(scene.json(0, &["undo", &undo, "--dry-run"])["removed"], 3);
        std::fs::rename(&away, &file).unwrap();
    } else {
        // An older daymend does not say which server it is.
        let (before, after) = rehearsed.split_once(",\"server\":\"").unwrap();
        let (_, after) = after.split_once('"').unwrap();
        std::fs::write(&undo, format!("{before}{after}")).unwrap();
        scene.json(0, &["restore", &name, "--missing", "--apply"]);
        assert_eq!(scene.json(0, &["undo", &undo])["removed"], 3);
    }
}
