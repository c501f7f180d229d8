//! `kill -9` at any point of a restore and of an undo: when run again, it ends right.

use std::time::Duration;

use super::{Scene, inserts};
use crate::{
    on_both,
    support::{
        Engine,
        process::{Process, command, without_settings},
    },
};

on_both! {
    a_killed_restore_is_run_again_and_so_is_a_killed_undo;
    what_could_not_be_written_down_has_not_been_done;
}

const LIMIT: Duration = Duration::from_secs(60);

const TABLES: [&str; 5] = [
    "CREATE TABLE nodes (id BIGINT NOT NULL PRIMARY KEY, next_id BIGINT NULL, v VARCHAR(40) NULL,
        FOREIGN KEY (next_id) REFERENCES nodes (id))",
    "CREATE TABLE leaves (id BIGINT NOT NULL PRIMARY KEY, node BIGINT NOT NULL, v VARCHAR(40) NULL,
        FOREIGN KEY (node) REFERENCES nodes (id))",
    "CREATE TABLE people (id BIGINT NOT NULL PRIMARY KEY, code VARCHAR(20) NOT NULL UNIQUE)",
    // Identified by owner and name; here the name is the owner's code.
    "CREATE TABLE animals (id BIGINT NOT NULL PRIMARY KEY, owner BIGINT NOT NULL, name VARCHAR(20) NOT NULL,
        FOREIGN KEY (owner) REFERENCES people (id))",
    "CREATE TABLE shots (id BIGINT NOT NULL PRIMARY KEY, animal BIGINT NOT NULL)",
];

const RELATIONS: &str = "
[[identity]]
table = 'people'
columns = 'code'

[[identity]]
table = 'animals'
columns = ['owner', 'name']

[[reference]]
table = 'shots'
columns = 'animal'
parent = 'animals'
";

/// Creates a large circle with leaves, and people with animals; deletes them, and enters every third person again.
async fn gone(engine: Engine) -> (Scene, String) {
    let scene = Scene::new(engine, &TABLES).await;
    let rows = |count: i64, row: fn(i64) -> String| (1..=count).map(row).collect::<Vec<_>>();
    let mut sql = inserts("nodes", &rows(800, |id| format!("({id}, NULL, 'n{id}')")));
    sql.extend(inserts("leaves", &rows(1600, |id| format!("({id}, {}, 'l{id}')", 1 + id % 800))));
    sql.extend(inserts("people", &rows(300, |id| format!("({id}, 'c{id}')"))));
    sql.extend(inserts("animals", &rows(300, |id| format!("({id}, {id}, 'c{id}')"))));
    sql.extend(inserts("shots", &rows(900, |id| format!("({id}, {})", 1 + id % 300))));
    // Every fourth node refers to nothing.
    sql.push("UPDATE nodes SET next_id = id % 800 + 1 WHERE id % 4 <> 0".to_owned());
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    let sql = [
        "UPDATE nodes SET next_id = NULL",
        "DELETE FROM leaves",
        "DELETE FROM nodes",
        "DELETE FROM shots",
        "DELETE FROM animals",
        // Every third person comes back under another id.
        "DELETE FROM people WHERE id % 3 <> 0",
        "UPDATE people SET id = 1000 + id",
    ];
    scene.execute_all(&sql).await;
    (scene, name)
}

async fn a_killed_restore_is_run_again_and_so_is_a_killed_undo(engine: Engine) {
    let (scene, name) = gone(engine).await;
    let relations = scene.file("r.toml", RELATIONS);
    let undo = scene.path("undo.jsonl").display().to_string();
    let restore = vec!["restore", name.as_str(), "--missing", "--apply", "--relations", &relations];
    let empty = scene.dump().await;
    // The result without any kill.
    scene.json(0, &restore);
    for (whole, rows) in [
        ("nodes WHERE next_id = id % 800 + 1", 600),
        ("leaves JOIN nodes ON nodes.id = node", 1600),
        ("people", 300),
        ("animals JOIN people ON people.id = owner AND code = name", 300),
        ("shots JOIN animals ON animals.id = animal", 900),
    ] {
        assert_eq!(scene.db.number(&format!("SELECT COUNT(*) FROM {whole}")).await, rows, "{whole}");
    }
    let full = scene.dump().await;
    scene.json(0, &["undo", &undo]);
    assert!(scene.dump().await == empty);
    let (mut kills, mut wait) = (0, Duration::from_millis(60));
    for round in 0..2 {
        for command in [restore.clone(), vec!["undo", undo.as_str()]] {
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
            assert!(now == *expected, "round {round}: {command:?} did not end right");
            wait = Duration::from_millis(60 + 40 * round);
        }
    }
    println!("{engine:?}: {kills} kills");
    assert!(kills >= 8, "only {kills} kills");
}

/// Runs a command that may write files of this length, and is killed when it tries to write more.
fn killed_at(scene: &Scene, length: usize, arguments: &[&str]) {
    let args = scene.args(arguments);
    let daymend = command(&scene.db, &args.iter().map(String::as_str).collect::<Vec<_>>());
    let mut limited = without_settings("prlimit");
    limited.arg(format!("--fsize={length}")).arg(daymend.get_program()).args(daymend.get_args());
    limited.envs(daymend.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = limited.output().expect("prlimit runs");
    assert!(!output.status.success(), "{arguments:?}: {output:?}");
}

/// A row is in the undo file before the transaction that inserts it commits. So is a reference that is filled in or
/// emptied again.
async fn what_could_not_be_written_down_has_not_been_done(engine: Engine) {
    let table = "CREATE TABLE members (id BIGINT NOT NULL PRIMARY KEY, next BIGINT NULL,
        FOREIGN KEY (next) REFERENCES members (id))";
    let scene = Scene::new(engine, &[table]).await;
    let sql = ["INSERT INTO members VALUES (1, NULL), (2, NULL), (3, NULL)", "UPDATE members SET next = id % 3 + 1"];
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    let lose = ["UPDATE members SET next = NULL", "DELETE FROM members"];
    scene.execute_all(&lose).await;
    let path = scene.path("undo.jsonl");
    let undo = path.display().to_string();
    let restore = ["restore", name.as_str(), "--missing", "--apply"];
    scene.json(0, &restore);
    // The same again, with an undo file that is already longer than any other file of this restore.
    let written = std::fs::read_to_string(&path).unwrap();
    let (header, records) = written.split_once('\n').unwrap();
    let long = format!("{header}\n{{\"op\":\"end\"{}}}\n", " ".repeat(16 << 20));
    std::fs::write(&path, &long).unwrap();
    scene.execute_all(&lose).await;
    let members = async |on: &str| scene.db.number(&format!("SELECT COUNT(*) FROM members {on}")).await;
    killed_at(&scene, long.len() + 20, &restore);
    assert_eq!(members("").await, 0, "no row is inserted before it is written down");
    let fill = records.find("{\"op\":\"fill\"").unwrap();
    killed_at(&scene, long.len() + fill + 20, &restore);
    assert_eq!((members("").await, members("WHERE next IS NOT NULL").await), (3, 0), "no reference is filled in yet");
    scene.json(0, &restore);
    let whole = "WHERE next = id % 3 + 1";
    assert_eq!(members(whole).await, 3);
    let full = std::fs::metadata(&path).unwrap().len();
    killed_at(&scene, usize::try_from(full).unwrap() + 20, &["undo", &undo]);
    assert_eq!(members(whole).await, 3, "no reference is emptied yet");
    assert_eq!(scene.json(0, &["undo", &undo])["removed"], 3);
}
