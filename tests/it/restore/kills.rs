//! `kill -9` at any point of a restore and of an undo: run again, and it ends right.

use std::time::Duration;

use super::{Scene, inserts};
use crate::{
    on_both,
    support::{Engine, process::Process},
};

on_both! {
    a_killed_restore_is_run_again_and_so_is_a_killed_undo;
}

const LIMIT: Duration = Duration::from_secs(60);

async fn a_killed_restore_is_run_again_and_so_is_a_killed_undo(engine: Engine) {
    let scene = Scene::new(
        engine,
        &[
            "CREATE TABLE nodes (id BIGINT NOT NULL PRIMARY KEY, next_id BIGINT NULL, v VARCHAR(40) NULL,
                FOREIGN KEY (next_id) REFERENCES nodes (id))",
            "CREATE TABLE leaves (id BIGINT NOT NULL PRIMARY KEY, node BIGINT NOT NULL, v VARCHAR(40) NULL,
                FOREIGN KEY (node) REFERENCES nodes (id))",
        ],
    )
    .await;
    let nodes: Vec<String> = (1..=800).map(|id| format!("({id}, NULL, 'n{id}')")).collect();
    let leaves: Vec<String> = (1..=1600).map(|id| format!("({id}, {}, 'l{id}')", 1 + id % 800)).collect();
    let mut sql = inserts("nodes", &nodes);
    sql.extend(inserts("leaves", &leaves));
    // One big circle, every fourth node of it in the middle of nowhere.
    sql.push("UPDATE nodes SET next_id = id % 800 + 1 WHERE id % 4 <> 0".to_owned());
    scene.execute_all(&sql).await;
    let full = scene.dump().await;
    let name = scene.take().await.to_string();
    scene
        .execute_all(&["DELETE FROM leaves WHERE id % 10 <> 0", "UPDATE nodes SET next_id = NULL WHERE id % 4 = 3"])
        .await;
    scene.execute_all(&["UPDATE nodes SET next_id = NULL", "DELETE FROM leaves", "DELETE FROM nodes"]).await;
    let empty = scene.dump().await;
    let undo = scene.path("undo.jsonl").display().to_string();
    let (mut kills, mut wait) = (0, Duration::from_millis(60));
    for round in 0..2 {
        for command in [vec!["restore", name.as_str(), "--missing", "--apply"], vec!["undo", undo.as_str()]] {
            loop {
                let args = scene.args(&command);
                let mut process = Process::start(&scene.db, &args.iter().map(String::as_str).collect::<Vec<_>>());
                tokio::time::sleep(wait).await;
                wait = wait.mul_f64(1.13).min(LIMIT);
                if !process.is_running() {
                    assert_eq!(process.wait(LIMIT), Some(0), "{command:?}");
                    break;
                }
                process.signal("KILL");
                process.wait(LIMIT);
                kills += 1;
            }
            let now = scene.dump().await;
            let expected = if command[0] == "undo" { &empty } else { &full };
            assert!(now == *expected, "round {round}: {command:?} has not ended right");
            wait = Duration::from_millis(60 + 40 * round);
        }
    }
    println!("{engine:?}: {kills} kills");
    assert!(kills >= 8, "{kills} kills: that was no test");
}
