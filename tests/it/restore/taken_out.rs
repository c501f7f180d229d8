//! A row that was inserted with a reference left empty, for a row that cannot be restored.

use daymend::args;

use super::{Scene, rows};
use crate::{on_both, support::Engine};

on_both! {
    what_went_in_for_a_row_that_never_came_is_taken_out_again;
    what_others_refer_to_by_then_stays_and_is_reported;
    what_a_killed_run_has_put_in_is_none_of_this_ones;
    what_a_run_has_left_knowingly_the_next_one_leaves;
    what_is_taken_out_stands_for_nobody;
    what_was_written_since_it_went_in_is_not_taken_out;
    what_is_declared_to_refer_to_a_row_keeps_it_too;
    what_was_entered_in_a_new_column_is_not_taken_out;
}

/// Every member leads a team or none, and each team has a first member: a circle with one nullable side.
const TABLES: [&str; 3] = [
    "CREATE TABLE members (id BIGINT NOT NULL PRIMARY KEY, leads BIGINT NULL, name VARCHAR(20) NULL)",
    "CREATE TABLE teams (id BIGINT NOT NULL PRIMARY KEY, first_member BIGINT NOT NULL, code VARCHAR(20) NULL UNIQUE,
        FOREIGN KEY (first_member) REFERENCES members (id))",
    "CREATE TABLE badges (id BIGINT NOT NULL PRIMARY KEY, member BIGINT NOT NULL,
        FOREIGN KEY (member) REFERENCES members (id))",
];

/// A code is not declared to identify a team: a team with the same code is in the way.
const RELATIONS: &str = "
[[identity]]
table = 'teams'
columns = []

[[reference]]
table = 'members'
columns = 'leads'
parent = 'teams'
";

pub(super) struct Case {
    pub(super) scene: Scene,
    pub(super) name: String,
    pub(super) relations: String,
}

impl Case {
    /// Creates two circles that are gone, and another team that holds the code of the second.
    pub(super) async fn new(engine: Engine, badges: bool) -> Self {
        Self::of(engine, badges, &TABLES, RELATIONS).await
    }

    async fn of(engine: Engine, badges: bool, tables: &[&str], relations: &str) -> Self {
        let scene = Scene::new(engine, tables).await;
        let mut sql = vec![
            "INSERT INTO members VALUES (1, NULL, 'one'), (2, NULL, 'two'), (3, NULL, 'three')".to_owned(),
            "INSERT INTO teams VALUES (10, 1, 'a'), (20, 2, 'b')".to_owned(),
            "UPDATE members SET leads = id * 10 WHERE id < 3".to_owned(),
        ];
        if badges {
            sql.push("INSERT INTO badges VALUES (7, 2)".to_owned());
        }
        scene.execute_all(&sql).await;
        let name = scene.take().await.to_string();
        let sql = [
            "DELETE FROM badges",
            "UPDATE members SET leads = NULL",
            "DELETE FROM teams",
            "DELETE FROM members WHERE id < 3",
            "INSERT INTO teams VALUES (99, 3, 'b')",
        ];
        scene.execute_all(&sql).await;
        let relations = scene.file("r.toml", relations);
        Self { scene, name, relations }
    }

    pub(super) fn restore(&self, code: i32) -> serde_json::Value {
        self.scene.json(code, &["restore", &self.name, "--missing", "--apply", "--relations", &self.relations])
    }
}

async fn what_went_in_for_a_row_that_never_came_is_taken_out_again(engine: Engine) {
    let case = Case::new(engine, false).await;
    let before = case.scene.dump().await;
    let report = case.restore(3);
    assert_eq!(report["applied"]["inserted"], 2, "the first circle: {report}");
    assert_eq!(
        rows(&report, "restored").into_iter().collect::<Vec<_>>(),
        [("members".to_owned(), 1), ("teams".to_owned(), 1)]
    );
    assert_eq!(
        rows(&report, "deferred").into_iter().collect::<Vec<_>>(),
        [("members".to_owned(), 1), ("teams".to_owned(), 1)]
    );
    assert_eq!(
        case.scene.db.number("SELECT COUNT(*) FROM members WHERE id = 2").await,
        0,
        "not left with its reference empty"
    );
    assert_eq!(case.scene.db.number("SELECT leads FROM members WHERE id = 1").await, 10);
    // Once the obstacle is gone, the rest is restored, with its reference.
    case.scene.db.execute("DELETE FROM teams WHERE id = 99", args![]).await;
    let report = case.restore(0);
    assert_eq!(report["applied"]["inserted"], 2, "{report}");
    assert_eq!(case.scene.db.number("SELECT leads FROM members WHERE id = 2").await, 20);
    // One undo reverts both runs, although one of the rows was taken out before.
    case.scene.db.execute("INSERT INTO teams VALUES (99, 3, NULL)", args![]).await;
    let undo = case.scene.path("undo.jsonl").display().to_string();
    case.scene.json(0, &["undo", &undo, "--relations", &case.relations]);
    case.scene.db.execute("UPDATE teams SET code = 'b' WHERE id = 99", args![]).await;
    assert!(case.scene.dump().await == before);
}

async fn what_others_refer_to_by_then_stays_and_is_reported(engine: Engine) {
    let case = Case::new(engine, true).await;
    let report = case.restore(3);
    assert_eq!(case.scene.db.number("SELECT member FROM badges WHERE id = 7").await, 2, "{report}");
    assert_eq!(case.scene.db.number("SELECT COUNT(*) FROM members WHERE id = 2 AND leads IS NULL").await, 1);
    let groups = report["report"]["groups"].as_array().unwrap();
    let left = groups.iter().find(|group| group["table"] == "members" && group["reason"] != "").unwrap();
    assert_eq!(
        left["reason"], "one of its references is left empty: the row that it refers to cannot be restored",
        "{report}"
    );
    assert_eq!(left["samples"][0]["key"], "2");
    // The next run restores the team, and fills in the reference.
    case.scene.db.execute("DELETE FROM teams WHERE id = 99", args![]).await;
    let report = case.restore(0);
    assert_eq!((&report["applied"]["inserted"], &report["applied"]["filled"]), (&1.into(), &1.into()), "{report}");
    assert_eq!(case.scene.db.number("SELECT leads FROM members WHERE id = 2").await, 20);
}

/// Cuts the undo file as if the run had been killed after it inserted the row with this text and nothing else.
fn killed_after(scene: &Scene, row: &str) {
    let undo = scene.path("undo.jsonl");
    let written = std::fs::read_to_string(&undo).unwrap();
    let is_insert = |line: &&str| line.contains("\"op\":\"insert\"") && line.contains(row);
    let (header, insert) = (written.lines().next().unwrap(), written.lines().find(is_insert).unwrap());
    std::fs::write(&undo, format!("{header}\n{insert}\n")).unwrap();
}

async fn what_a_killed_run_has_put_in_is_none_of_this_ones(engine: Engine) {
    let case = Case::new(engine, false).await;
    case.restore(3);
    // The member whose team cannot be restored.
    killed_after(&case.scene, "\"two\"");
    let sql = [
        "UPDATE members SET leads = NULL WHERE id = 1",
        "DELETE FROM teams WHERE id = 10",
        "DELETE FROM members WHERE id = 1",
        "INSERT INTO members VALUES (2, NULL, 'two')",
    ];
    case.scene.execute_all(&sql).await;
    let report = case.restore(3);
    assert_eq!(case.scene.db.number("SELECT COUNT(*) FROM members WHERE id = 2").await, 0, "{report}");
    assert_eq!(report["applied"]["inserted"], 2, "the first circle: {report}");
}

/// Nothing refers to it any more, but nobody asked for it to be removed.
async fn what_a_run_has_left_knowingly_the_next_one_leaves(engine: Engine) {
    let case = Case::new(engine, true).await;
    case.restore(3);
    case.scene.db.execute("DELETE FROM badges", args![]).await;
    let again = ["restore", &case.name, "--missing", "--apply", "--relations", &case.relations];
    let report = case.scene.json(3, &[again.as_slice(), &["--exclude", "badges:7"]].concat());
    let left = case.scene.db.number("SELECT COUNT(*) FROM members WHERE id = 2 AND leads IS NULL").await;
    assert_eq!(left, 1, "{report}");
}

/// A killed run inserted a row under another key, because its person was entered again. Its team cannot be restored.
async fn what_is_taken_out_stands_for_nobody(engine: Engine) {
    for nobody in ["", "[[identity]]\ntable = 'heads'\ncolumns = []\n"] {
        taken_out_with_another_key(engine, nobody).await;
    }
}

/// Even if nothing identifies the heads, the one that a killed run inserted is recognized.
async fn taken_out_with_another_key(engine: Engine, identity: &str) {
    let scene = Scene::new(
        engine,
        &[
            "CREATE TABLE people (id BIGINT NOT NULL PRIMARY KEY, nid VARCHAR(20) NULL UNIQUE)",
            "CREATE TABLE heads (pid BIGINT NOT NULL, no BIGINT NOT NULL, leads BIGINT NULL, PRIMARY KEY (pid, no),
                FOREIGN KEY (pid) REFERENCES people (id))",
            "CREATE TABLE teams (id BIGINT NOT NULL PRIMARY KEY, pid BIGINT NULL, no BIGINT NULL, code VARCHAR(20) UNIQUE,
                FOREIGN KEY (pid, no) REFERENCES heads (pid, no))",
        ],
    )
    .await;
    let sql = [
        "INSERT INTO people VALUES (4, 'N4'), (5, 'N5')",
        "INSERT INTO heads VALUES (4, 1, 20), (5, 1, 10)",
        "INSERT INTO teams VALUES (20, 4, 1, 'b'), (10, 5, 1, 'a')",
    ];
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    let sql = [
        "DELETE FROM teams",
        "DELETE FROM heads",
        "UPDATE people SET id = 104 WHERE id = 4",
        "INSERT INTO teams VALUES (99, NULL, NULL, 'b')",
    ];
    scene.execute_all(&sql).await;
    let reference = "[[reference]]\ntable = 'heads'\ncolumns = 'leads'\nparent = 'teams'\n";
    let teams = "[[identity]]\ntable = 'teams'\ncolumns = []\n";
    let relations = scene.file("r.toml", &format!("{identity}{teams}{reference}"));
    let restore = ["restore", &name, "--missing", "--apply", "--relations", &relations];
    let report = scene.json(3, &restore);
    assert_eq!(report["applied"]["inserted"], 2, "the first circle: {report}");
    killed_after(&scene, "[104,1,null]");
    let sql = [
        "UPDATE heads SET leads = NULL",
        "DELETE FROM teams WHERE id = 10",
        "DELETE FROM heads",
        "INSERT INTO heads VALUES (104, 1, NULL)",
    ];
    scene.execute_all(&sql).await;
    let report = scene.json(3, &restore);
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM heads WHERE pid = 104").await, 0, "{report}");
    assert_eq!(rows(&report, "mapped").into_iter().collect::<Vec<_>>(), [("people".to_owned(), 1)], "{report}");
    assert_eq!((rows(&report, "deferred")["heads"], rows(&report, "restored")["heads"]), (1, 1), "{report}");
    let map = std::fs::read_to_string(report["map"].as_str().unwrap()).unwrap();
    assert!(!map.contains("heads"), "{map}");
    assert_eq!(scene.db.number("SELECT leads FROM heads WHERE pid = 5").await, 10);
}

/// Its team cannot be restored, but a trigger has changed it: it is no longer the row that this run inserted.
async fn what_was_written_since_it_went_in_is_not_taken_out(engine: Engine) {
    let case = Case::new(engine, false).await;
    let write = "UPDATE members SET name = 'counted' WHERE id = 2";
    let trigger = match engine {
        Engine::Sqlite => format!("CREATE TRIGGER counts AFTER INSERT ON teams BEGIN {write}; END"),
        Engine::MariaDb => format!("CREATE TRIGGER counts AFTER INSERT ON teams FOR EACH ROW {write}"),
    };
    case.scene.execute_all(&[trigger]).await;
    let report = case.restore(3);
    let left = "SELECT COUNT(*) FROM members WHERE id = 2 AND leads IS NULL AND name = 'counted'";
    assert_eq!(case.scene.db.number(left).await, 1, "{report}");
    assert_eq!((&report["applied"]["inserted"], &report["applied"]["incomplete"]), (&3.into(), &1.into()), "{report}");
}

/// The snapshot does not have the column: what is entered there is a change of the row all the same.
async fn what_was_entered_in_a_new_column_is_not_taken_out(engine: Engine) {
    let write = "UPDATE members SET phone = '555' WHERE id = 2";
    let trigger = match engine {
        Engine::Sqlite => format!("CREATE TRIGGER calls AFTER INSERT ON teams BEGIN {write}; END"),
        Engine::MariaDb => format!("CREATE TRIGGER calls AFTER INSERT ON teams FOR EACH ROW {write}"),
    };
    let left = "SELECT COUNT(*) FROM members WHERE id = 2 AND leads IS NULL AND phone = '555'";
    let case = Case::new(engine, false).await;
    case.scene.execute_all(&["ALTER TABLE members ADD phone VARCHAR(20) NULL".to_owned(), trigger]).await;
    let report = case.restore(3);
    assert_eq!((case.scene.db.number(left).await, &report["applied"]["incomplete"]), (1, &1.into()), "{report}");
    // A killed run has inserted the row, and a user has been there since.
    killed_after(&case.scene, "\"two\"");
    let sql = [
        "DROP TRIGGER calls",
        "UPDATE members SET leads = NULL WHERE id = 1",
        "DELETE FROM teams WHERE id = 10",
        "DELETE FROM members WHERE id = 1",
    ];
    case.scene.execute_all(&sql).await;
    let report = case.restore(3);
    assert_eq!((case.scene.db.number(left).await, &report["applied"]["changed"]), (1, &1.into()), "{report}");
}

/// The database does not know what a badge refers to.
async fn what_is_declared_to_refer_to_a_row_keeps_it_too(engine: Engine) {
    let badges = "CREATE TABLE badges (id BIGINT NOT NULL PRIMARY KEY, member BIGINT NOT NULL)";
    let relations = format!("{RELATIONS}\n[[reference]]\ntable = 'badges'\ncolumns = 'member'\nparent = 'members'\n");
    let case = Case::of(engine, true, &[TABLES[0], TABLES[1], badges], &relations).await;
    let report = case.restore(3);
    let whole = "SELECT COUNT(*) FROM badges JOIN members ON members.id = badges.member WHERE leads IS NULL";
    assert_eq!(case.scene.db.number(whole).await, 1, "{report}");
    assert_eq!(report["applied"]["incomplete"], 1, "{report}");
}
