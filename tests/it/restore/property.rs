//! Takes a snapshot, deletes a random subset of rows, and restores it: nothing differs.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{Scene, differences};
use crate::{on_both, support::Engine};

on_both! {
    whatever_is_deleted_comes_back;
}

const ROUNDS: u64 = 6;

/// Every type that both databases have a name for, and references of every kind, with cascades so that any row can be
/// deleted.
const TABLES: [&str; 5] = [
    "CREATE TABLE a (id BIGINT NOT NULL PRIMARY KEY, up BIGINT NULL, d DECIMAL(20, 6) NULL, at DATETIME(6) NULL,
        t VARCHAR(60) NULL, b BLOB NULL, f DOUBLE NULL, j TEXT NULL,
        FOREIGN KEY (up) REFERENCES a (id) ON DELETE CASCADE)",
    "CREATE TABLE b (code VARCHAR(20) NOT NULL, part INTEGER NOT NULL, a BIGINT NULL, PRIMARY KEY (code, part),
        FOREIGN KEY (a) REFERENCES a (id) ON DELETE CASCADE)",
    "CREATE TABLE c (id INTEGER NOT NULL PRIMARY KEY, code VARCHAR(20) NULL, part INTEGER NULL, UNIQUE (code, part),
        FOREIGN KEY (code, part) REFERENCES b (code, part) ON DELETE CASCADE)",
    "CREATE TABLE e (id BIGINT NOT NULL PRIMARY KEY, kind VARCHAR(5) NULL, target VARCHAR(20) NULL)",
    "CREATE TABLE g (id BIGINT NOT NULL PRIMARY KEY, big BIGINT NULL, word VARCHAR(20) NULL UNIQUE,
        FOREIGN KEY (id) REFERENCES a (id) ON DELETE CASCADE)",
];

const RELATIONS: &str =
    "[[reference]]\ntable = 'e'\ncolumns = 'target'\ntype_column = 'kind'\nparents = { a = 'a', c = 'c' }\n";

async fn whatever_is_deleted_comes_back(engine: Engine) {
    let mut random = StdRng::seed_from_u64(20_150_620);
    let scene = Scene::new(engine, &TABLES).await;
    let relations = scene.file("r.toml", RELATIONS);
    for round in 0..ROUNDS {
        let mut sql: Vec<String> =
            ["e", "g", "c", "b"].map(|table| format!("DELETE FROM {table}")).into_iter().collect();
        sql.push("UPDATE a SET up = NULL".to_owned());
        sql.push("DELETE FROM a".to_owned());
        let text = |random: &mut StdRng| match random.random_range(0..5) {
            0 => "NULL".to_owned(),
            1 => "''".to_owned(),
            2 => "'O''Brien, \"x\"'".to_owned(),
            3 => "'\u{1F600} ä '".to_owned(),
            _ => format!("'{}'", random.random_range(0..1000)),
        };
        for id in 1..=60_i64 {
            let up = if id > 1 && random.random_bool(0.5) {
                random.random_range(1..id).to_string()
            } else {
                "NULL".to_owned()
            };
            let (t, j) = (text(&mut random), text(&mut random));
            let blob = if random.random_bool(0.3) { "NULL".to_owned() } else { format!("x'00ff{id:02x}'") };
            let real = f64::from(random.random_range(-1000..1000)) / 7.0;
            sql.push(format!("INSERT INTO a VALUES ({}, {}, '{}.123456', '2026-0{}-01 10:00:00.00000{}', {t}, {blob}, {real:e}, {j})", id - 1, if up == "NULL" { up } else { format!("{up} - 1") }, id * 1_000_003, 1 + id % 9, id % 10));
        }
        // Circles.
        sql.push("UPDATE a SET up = 59 WHERE id IN (0, 7)".to_owned());
        for id in 0..60_i64 {
            sql.push(format!("INSERT INTO b VALUES ('k{}', {id}, {})", id % 7, random.random_range(0..60)));
            sql.push(format!("INSERT INTO c VALUES ({id}, 'k{}', {id})", id % 7));
            sql.push(format!(
                "INSERT INTO e VALUES ({id}, {}, '{}')",
                ["'a'", "'c'", "'x'", "NULL"][random.random_range(0..4)],
                random.random_range(0..80)
            ));
            if random.random_bool(0.5) {
                sql.push(format!("INSERT INTO g VALUES ({id}, {}, 'w{id}')", i64::MAX - id));
            }
        }
        scene.execute_all(&sql).await;
        let full = scene.dump().await;
        let name = scene.take().await.to_string();
        scene.json(0, &["diff", &name]);
        let share: f64 = random.random_range(0.02..1.0);
        let mut sql = Vec::new();
        for table in ["a", "c", "e", "g"] {
            let ids: Vec<String> =
                (0..60).filter(|_| random.random_bool(share)).map(|id: i64| id.to_string()).collect();
            if !ids.is_empty() {
                sql.push(format!("DELETE FROM {table} WHERE id IN ({})", ids.join(", ")));
            }
        }
        scene.execute_all(&sql).await;
        let some = scene.dump().await;
        scene.run(0, &["restore", &name, "--missing", "--apply", "--relations", &relations]);
        assert!(scene.dump().await == full, "round {round}");
        assert!(differences(&scene.json(0, &["diff", &name])[0]).is_empty());
        let undo = scene.path("undo.jsonl").display().to_string();
        scene.run(0, &["undo", &undo, "--relations", &relations]);
        assert!(scene.dump().await == some, "round {round}: undo");
    }
}
