//! What whoever restores may get wrong, and what must not come of it.

use super::{
    Scene,
    cases::{PEOPLE, people},
};
use crate::{on_both, support::Engine};

on_both! {
    another_database_is_named_and_not_written_to;
}

async fn another_database_is_named_and_not_written_to(engine: Engine) {
    let scene = people(engine).await;
    let name = scene.take().await.to_string();
    let mut other = Scene::new(engine, &PEOPLE).await;
    std::fs::rename(scene.path("snapshots"), other.path("snapshots")).unwrap();
    let database = |scene: &Scene| scene.db.admin.name();
    // SQLite's files of the tests are all called the same.
    if engine == Engine::Sqlite {
        other.url = copied(&other, "other.db");
    }
    let remark = format!("{name} is of database {}, and live of ", database(&scene));
    assert!(other.run(3, &["diff", &name]).contains(&remark));
    assert!(other.run(3, &["restore", &name, "--missing"]).contains(&remark));
    let error = other.run(2, &["restore", &name, "--missing", "--apply"]);
    assert!(error.contains(&remark) && error.contains("--into-other-database"), "{error}");
    let done = other.json(0, &["restore", &name, "--missing", "--apply", "--into-other-database"]);
    assert_eq!(done["applied"]["inserted"], 18, "{done}");
    assert!(done["report"]["remarks"][0].as_str().unwrap().starts_with(&remark));
}

/// The URL of a copy of the file, and of what is not in it yet.
fn copied(scene: &Scene, to: &str) -> String {
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
    scene.execute_all(&["DELETE FROM pets".to_owned()]).await;
    scene.url = copied(&scene, "lab.db");
    assert!(!scene.run(3, &["diff", &name]).contains("is of database"));
    assert_eq!(scene.json(0, &["restore", &name, "--missing", "--apply"])["applied"]["inserted"], 9);
}
