//! Tables with columns of any types: deleted rows are restored exactly.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::Scene;
use crate::{
    snapshot::{TABLES, any_classes, any_types, dump},
    support::{Engine, TestDb},
};

/// Deletes some rows, chosen by the order of a key so that no literal is needed. Returns how many.
async fn delete_some(db: &TestDb, key: &str, random: &mut StdRng) -> i64 {
    let (step, rest) = (random.random_range(1..4), random.random_range(0..4));
    let keys = format!("SELECT {key} AS k, ROW_NUMBER() OVER (ORDER BY {key}) AS n FROM one");
    let gone = format!("SELECT k FROM ({keys}) AS numbered WHERE n % {step} = {rest} % {step}");
    let before = db.number("SELECT COUNT(*) FROM one").await;
    db.execute(&format!("DELETE FROM one WHERE {key} IN (SELECT k FROM ({gone}) AS gone)"), vec![]).await;
    before - db.number("SELECT COUNT(*) FROM one").await
}

/// Compares dumps that the server's own tool makes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_any_types_come_back_as_the_server_dumped_them() {
    for seed in 0..TABLES {
        let mut random = StdRng::seed_from_u64(seed);
        let mut scene = Scene::new(Engine::MariaDb, &[]).await;
        any_types(&scene.db, seed).await;
        scene.tables = vec!["one".to_owned()];
        let full = dump(&scene.db, "one");
        let name = scene.take().await.to_string();
        scene.run(0, &["diff", &name]);
        let gone = delete_some(&scene.db, "`the``key`", &mut random).await;
        assert!(gone > 0, "seed {seed}");
        let some = dump(&scene.db, "one");
        let restored = scene.json(0, &["restore", &name, "--missing", "--apply"]);
        assert_eq!(restored["applied"]["inserted"], gone, "seed {seed}: {restored}");
        assert_eq!(dump(&scene.db, "one"), full, "seed {seed}");
        scene.run(0, &["diff", &name]);
        let undo = scene.path("undo.jsonl").display().to_string();
        let undone = scene.json(0, &["undo", &undo]);
        assert_eq!(undone["removed"], gone, "seed {seed}: {undone}");
        assert_eq!(dump(&scene.db, "one"), some, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_every_storage_class_come_back() {
    for seed in 0..4 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut scene = Scene::new(Engine::Sqlite, &[]).await;
        any_classes(&scene.db).await;
        scene.tables = vec!["one".to_owned()];
        let full = scene.dump().await;
        let name = scene.take().await.to_string();
        scene.run(0, &["diff", &name]);
        let gone = delete_some(&scene.db, "id", &mut random).await;
        let some = scene.dump().await;
        let restored = scene.json(0, &["restore", &name, "--missing", "--apply"]);
        assert_eq!(restored["applied"]["inserted"], gone, "seed {seed}: {restored}");
        assert!(scene.dump().await == full, "seed {seed}");
        scene.run(0, &["diff", &name]);
        let undo = scene.path("undo.jsonl").display().to_string();
        assert_eq!(scene.json(0, &["undo", &undo])["removed"], gone, "seed {seed}");
        assert!(scene.dump().await == some, "seed {seed}");
    }
}

/// The name POINT ends with INT, but the type is not an integer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_found_by_places() {
    for kind in ["POINT", "MULTIPOINT"] {
        let tables = [
            format!("CREATE TABLE places (id INT NOT NULL PRIMARY KEY, at {kind} NOT NULL)"),
            "CREATE TABLE visits (id INT NOT NULL PRIMARY KEY, place INT NOT NULL)".to_owned(),
        ];
        let scene = Scene::new(Engine::MariaDb, &tables.each_ref().map(String::as_str)).await;
        let at = |x: i32| format!("ST_GeomFromText('{kind}({x} 2)')");
        let places: Vec<String> = (1..=3).map(|id| format!("({id}, {})", at(id))).collect();
        let sql = [
            format!("INSERT INTO places VALUES {}", places.join(", ")),
            "INSERT INTO visits VALUES (1, 1), (2, 2), (3, 3)".to_owned(),
        ];
        scene.execute_all(&sql).await;
        let name = scene.take().await.to_string();
        let sql = ["DELETE FROM places WHERE id < 3".to_owned(), "DELETE FROM visits WHERE id < 3".to_owned()];
        scene.execute_all(&sql).await;
        scene.execute_all(&[format!("INSERT INTO places VALUES (11, {})", at(1))]).await;
        let relations = "[[identity]]\ntable = 'places'\ncolumns = 'at'\n\n\
                         [[reference]]\ntable = 'visits'\ncolumns = 'place'\nparent = 'places'\n";
        let relations = scene.file("r.toml", relations);
        let report = scene.json(0, &["restore", &name, "--missing", "--apply", "--relations", &relations]);
        assert_eq!(super::rows(&report, "mapped")["places"], 1, "{kind}: {report}");
        assert_eq!(scene.db.number("SELECT place FROM visits WHERE id = 1").await, 11, "{kind}");
        assert_eq!(scene.db.number("SELECT COUNT(*) FROM places WHERE id = 2").await, 1, "{kind}");
    }
}
