//! Values that a driver or another session does not accept as they are.

use super::{Scene, differences, inserts};
use crate::support::{Engine, server};

/// Deletes some rows, restores them, and reverts the restore; checks that each step leaves everything as it was.
async fn come_and_go(scene: &Scene, delete: &[String]) {
    let full = scene.dump().await;
    let name = scene.take().await.to_string();
    scene.run(0, &["diff", &name]);
    scene.execute_all(delete).await;
    let some = scene.dump().await;
    let gone = full.rows.values().map(Vec::len).sum::<usize>() - some.rows.values().map(Vec::len).sum::<usize>();
    let diff = scene.json(3, &["diff", &name]);
    let counts = differences(&diff[0]).into_values().fold([0; 4], |sum, of| [0, 1, 2, 3].map(|at| sum[at] + of[at]));
    assert_eq!(counts, [i64::try_from(gone).unwrap(), 0, 0, 0], "{diff}");
    let report = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(report["applied"]["inserted"], gone, "{report}");
    assert!(scene.dump().await == full);
    scene.run(0, &["diff", &name]);
    let undo = scene.path("undo.jsonl").display().to_string();
    let undone = scene.json(0, &["undo", &undo]);
    assert_eq!(undone["removed"], gone, "{undone}");
    assert!(scene.dump().await == some);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_comes_back_as_nothing_whatever_its_type() {
    let table = "CREATE TABLE one (id INT NOT NULL PRIMARY KEY, u UUID NULL, six INET6 NULL, four INET4 NULL,
                 at POINT NULL, up INT NULL REFERENCES one (id))";
    let scene = Scene::new(Engine::MariaDb, &[table]).await;
    let rows = [
        "(1, NULL, '::1', '1.1.1.1', ST_GeomFromText('POINT(1 2)'), 2)",
        "(2, UUID(), NULL, '1.1.1.1', NULL, 1)",
        "(3, UUID(), '::2', NULL, NULL, NULL)",
        "(4, NULL, NULL, NULL, NULL, 4)",
    ];
    let sql =
        format!("SET foreign_key_checks = 0; USE {}; INSERT INTO one VALUES {}", scene.db.name(), rows.join(", "));
    server::run(server::port(&scene.url), &sql).await;
    come_and_go(
        &scene,
        &["UPDATE one SET up = NULL WHERE id > 2".to_owned(), "DELETE FROM one WHERE id > 2".to_owned()],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dates_that_another_mode_let_in_come_back() {
    let tables = [
        "CREATE TABLE dates (id INT NOT NULL PRIMARY KEY, d DATE NULL, at DATETIME(3) NULL)",
        "CREATE TABLE days (d DATE NOT NULL PRIMARY KEY, v INT NULL)",
    ];
    let scene = Scene::new(Engine::MariaDb, &tables).await;
    let sql = format!(
        "SET SESSION sql_mode = 'ALLOW_INVALID_DATES'; USE {};
         INSERT INTO dates VALUES (1, '2026-02-30', '2026-04-31 10:00:00'), (2, '2026-00-00', '0000-00-00'), (3, NULL, NULL);
         INSERT INTO days VALUES ('2026-02-27', 1), ('2026-02-30', 2), ('2026-04-31', 3), ('0000-00-00', 4)",
        scene.db.name()
    );
    server::run(server::port(&scene.url), &sql).await;
    come_and_go(&scene, &["DELETE FROM dates".to_owned(), "DELETE FROM days WHERE v < 4".to_owned()]).await;
}

/// Several pages of rows, next to keys of other types.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_text_that_is_not_utf8_are_found_again() {
    let tables = [
        "CREATE TABLE texts (k TEXT NOT NULL PRIMARY KEY, v)",
        "CREATE TABLE any (k NOT NULL PRIMARY KEY, v)",
        "CREATE TABLE pairs (k TEXT NOT NULL, n INT NOT NULL, v, PRIMARY KEY (k, n))",
        "CREATE TABLE kids (id INTEGER PRIMARY KEY, owner TEXT REFERENCES texts (k))",
    ];
    let scene = Scene::new(Engine::Sqlite, &tables).await;
    // Keys that sort before all digits and after them.
    let text = |n: usize| {
        let begin = if n.is_multiple_of(2) { "20ff" } else { "fe" };
        format!("CAST(X'{begin}{}' AS TEXT)", hex::encode(format!("{n:03}")))
    };
    let rows = |row: &dyn Fn(usize) -> String| (0..450).map(row).collect::<Vec<_>>();
    let mut sql = inserts("texts", &rows(&|n| format!("({}, {n})", text(n))));
    sql.extend(inserts("any", &rows(&|n| format!("({}, {n})", text(n)))));
    sql.extend(inserts("any", &rows(&|n| format!("({n}, {n})"))));
    sql.extend(inserts("any", &rows(&|n| format!("(CAST({} AS BLOB), {n})", text(n)))));
    sql.extend(inserts("pairs", &rows(&|n| format!("({}, {}, {n})", text(n / 3), n % 3))));
    sql.extend(inserts("kids", &rows(&|n| format!("({n}, {})", text(n)))));
    scene.execute_all(&sql).await;
    let mut delete = vec!["DELETE FROM kids WHERE id % 3 = 0".to_owned()];
    delete.extend(["texts", "any", "pairs"].map(|table| format!("DELETE FROM {table} WHERE v % 3 = 0")));
    come_and_go(&scene, &delete).await;
}
