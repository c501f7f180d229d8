//! References in a circle that the database refuses to fill in or to empty, or changes on the way.

use super::{Scene, taken_out::Case};
use crate::{
    on_both,
    support::{Engine, server},
};

on_both! {
    a_reference_that_cannot_be_filled_in_is_reported;
    what_a_trigger_changes_is_taken_back_all_the_same;
    a_circle_stays_whole_where_one_of_it_stays;
    what_cannot_be_emptied_stays_and_the_rest_goes;
    one_newcomer_among_many_who_refer_to_a_row_keeps_it_whole;
    what_an_undo_has_emptied_the_next_restore_fills_in;
    what_was_written_down_and_never_committed_is_filled_in_by_any_later_run;
    what_was_committed_last_may_be_emptied_for_good;
    days_that_an_undo_has_written_down_say_nothing_of_what_was_committed;
    what_somebody_wrote_before_a_reference_was_filled_in_stays;
    a_reference_that_was_written_down_twice_is_taken_back;
}

const MEMBERS: &str = "CREATE TABLE members (id BIGINT NOT NULL PRIMARY KEY, next BIGINT NULL, version BIGINT NOT NULL,
    born DATE NULL, FOREIGN KEY (next) REFERENCES members (id))";

const WHOLE: &str = "SELECT COUNT(*) FROM members WHERE next = id % 3 + 1";

/// Creates three members in a circle, and one that refers to nobody. All are gone.
async fn circle(engine: Engine) -> (Scene, String) {
    let pets = "CREATE TABLE pets (id BIGINT NOT NULL PRIMARY KEY, owner BIGINT NULL,
        FOREIGN KEY (owner) REFERENCES members (id))";
    let scene = Scene::new(engine, &[MEMBERS, pets]).await;
    let sql = [
        "INSERT INTO members VALUES (1, NULL, 0, NULL), (2, NULL, 0, NULL), (3, NULL, 0, NULL), (4, NULL, 0, NULL)",
        "UPDATE members SET next = id % 3 + 1 WHERE id < 4",
    ];
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["UPDATE members SET next = NULL", "DELETE FROM members"]).await;
    (scene, name)
}

/// Rejects updates of the row with this id.
async fn refuse(scene: &Scene, id: i64) {
    let trigger = match scene.db.engine {
        Engine::Sqlite => {
            format!(
                "CREATE TRIGGER no BEFORE UPDATE ON members WHEN NEW.id = {id} BEGIN SELECT RAISE(ABORT, 'never'); END"
            )
        }
        Engine::MariaDb => format!(
            "CREATE TRIGGER no BEFORE UPDATE ON members FOR EACH ROW
             IF NEW.id = {id} THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'never'; END IF"
        ),
    };
    scene.execute_all(&[trigger]).await;
}

async fn count_versions(scene: &Scene) {
    let trigger = match scene.db.engine {
        Engine::Sqlite => {
            "CREATE TRIGGER counts AFTER UPDATE ON members
             BEGIN UPDATE members SET version = OLD.version + 1 WHERE id = NEW.id; END"
        }
        Engine::MariaDb => {
            "CREATE TRIGGER counts BEFORE UPDATE ON members FOR EACH ROW SET NEW.version = OLD.version + 1"
        }
    };
    scene.execute_all(&[trigger.to_owned()]).await;
}

fn left(undone: &serde_json::Value) -> Vec<String> {
    let left = undone["left"].as_array().unwrap().iter();
    left.map(|left| format!("{}: {}", left["why"].as_str().unwrap(), left["keys"])).collect()
}

async fn a_reference_that_cannot_be_filled_in_is_reported(engine: Engine) {
    let (scene, name) = circle(engine).await;
    refuse(&scene, 2).await;
    // Others refer to it by then, so it stays. The next run finds it as it is.
    for inserted in [4, 0] {
        let report = scene.json(3, &["restore", &name, "--missing", "--apply"]);
        assert_eq!((&report["applied"]["inserted"], &report["applied"]["incomplete"]), (&inserted.into(), &1.into()));
        let groups = report["report"]["groups"].as_array().unwrap();
        let group = groups.iter().find(|group| group["reason"] != "").unwrap();
        assert_eq!(group["reason"], "one of its references cannot be filled in: a trigger refuses it", "{report}");
        assert_eq!((&group["samples"][0]["key"], &group["rows"]), (&"2".into(), &1.into()), "{report}");
        assert!(group["samples"][0]["detail"].as_str().unwrap().contains("never"), "{report}");
    }
    assert_eq!(scene.db.number(WHOLE).await, 2);
    scene.execute_all(&["DROP TRIGGER no"]).await;
    let report = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(report["applied"]["filled"], 1, "{report}");
    assert_eq!(scene.db.number(WHOLE).await, 3);
    let undo = scene.path("undo.jsonl").display().to_string();
    assert_eq!(scene.json(0, &["undo", &undo])["removed"], 4);
}

async fn what_a_trigger_changes_is_taken_back_all_the_same(engine: Engine) {
    let (scene, name) = circle(engine).await;
    count_versions(&scene).await;
    scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(scene.db.number(WHOLE).await, 3);
    let undo = scene.path("undo.jsonl").display().to_string();
    assert_eq!(scene.json(0, &["undo", &undo, "--dry-run"])["removed"], 4);
    // The undo gets halfway, as if killed then: what it has emptied is written down.
    let file = std::fs::read_to_string(&undo).unwrap();
    let refused = "CREATE TRIGGER stop BEFORE DELETE ON members";
    let refused = match engine {
        Engine::Sqlite => format!("{refused} BEGIN SELECT RAISE(ABORT, 'not today'); END"),
        Engine::MariaDb => format!("{refused} FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not today'"),
    };
    scene.execute_all(&[refused]).await;
    let undone = scene.json(3, &["undo", &undo]);
    assert_eq!(undone["emptied"], 3, "{undone}");
    assert_eq!(left(&undone).len(), 1, "{undone}");
    assert!(std::fs::read_to_string(&undo).unwrap().len() > file.len());
    scene.execute_all(&["DROP TRIGGER stop"]).await;
    let undone = scene.json(0, &["undo", &undo]);
    assert_eq!(undone["removed"], 4, "{undone}");
}

async fn a_circle_stays_whole_where_one_of_it_stays(engine: Engine) {
    let (scene, name) = circle(engine).await;
    count_versions(&scene).await;
    scene.json(0, &["restore", &name, "--missing", "--apply"]);
    scene.execute_all(&["INSERT INTO pets VALUES (7, 2)"]).await;
    let undo = scene.path("undo.jsonl").display().to_string();
    for removed in [1, 0] {
        let undone = scene.json(3, &["undo", &undo]);
        assert_eq!((&undone["removed"], &undone["emptied"]), (&removed.into(), &0.into()), "{undone}");
        let expected = [
            "a row of members refers to it and is not removed: [\"3 (members 2)\",\"1 (members 3)\"]",
            "a row of pets refers to it now: [\"2 (pets 7)\"]",
        ];
        assert_eq!(left(&undone), expected.map(str::to_owned));
        assert_eq!(scene.db.number(WHOLE).await, 3);
    }
    scene.execute_all(&["DELETE FROM pets"]).await;
    assert_eq!(scene.json(0, &["undo", &undo])["removed"], 3);
}

async fn what_cannot_be_emptied_stays_and_the_rest_goes(engine: Engine) {
    let (scene, name) = circle(engine).await;
    scene.json(0, &["restore", &name, "--missing", "--apply"]);
    refuse(&scene, 2).await;
    let undo = scene.path("undo.jsonl").display().to_string();
    let undone = scene.json(3, &["undo", &undo]);
    assert_eq!(undone["removed"], 1, "{undone}");
    assert!(left(&undone)[1].starts_with("a trigger refuses it: "), "{undone}");
    assert_eq!(scene.db.number(WHOLE).await, 3);
    scene.execute_all(&["DROP TRIGGER no"]).await;
    assert_eq!(scene.json(0, &["undo", &undo])["removed"], 3);
}

/// A date that another SQL mode has accepted is restored with its row, and removed with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_date_without_a_month_keeps_no_reference_empty() {
    let scene = Scene::new(Engine::MariaDb, &[MEMBERS]).await;
    let members = format!("{}.members", scene.db.name());
    let sql = format!(
        "SET SESSION sql_mode = ''; INSERT INTO {members} VALUES (1, NULL, 0, '2026-00-00'), (2, 1, 0, '2026-00-00'),
            (3, 2, 0, '2026-11-00'); UPDATE {members} SET next = 3 WHERE id = 1; UPDATE {members} SET next = id % 3 + 1"
    );
    server::run(server::port(&scene.url), &sql).await;
    let name = scene.take().await.to_string();
    let sql = format!("SET SESSION sql_mode = ''; UPDATE {members} SET next = NULL; DELETE FROM {members}");
    server::run(server::port(&scene.url), &sql).await;
    let report = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!((&report["applied"]["inserted"], &report["applied"]["filled"]), (&3.into(), &3.into()), "{report}");
    scene.run(0, &["diff", &name]);
    let undo = scene.path("undo.jsonl").display().to_string();
    assert_eq!(scene.json(0, &["undo", &undo])["removed"], 3);
}

/// The newcomer comes after more rows than are read at once.
async fn one_newcomer_among_many_who_refer_to_a_row_keeps_it_whole(engine: Engine) {
    for is_declared in [false, true] {
        let foreign = if is_declared { "" } else { ", FOREIGN KEY (team) REFERENCES teams (id)" };
        // SQLite accepts a reference to a table that does not exist yet, but cannot add one later.
        let boss = "FOREIGN KEY (boss) REFERENCES members (id)";
        let inline = if engine == Engine::Sqlite { format!(", {boss}") } else { String::new() };
        let scene = Scene::new(
            engine,
            &[
                &format!("CREATE TABLE teams (id BIGINT NOT NULL PRIMARY KEY, boss BIGINT NULL{inline})"),
                &format!("CREATE TABLE members (id BIGINT NOT NULL PRIMARY KEY, team BIGINT NOT NULL{foreign})"),
            ],
        )
        .await;
        if engine == Engine::MariaDb {
            scene.db.execute(&format!("ALTER TABLE teams ADD {boss}"), vec![]).await;
        }
        let declared = "[[reference]]\ntable = 'members'\ncolumns = 'team'\nparent = 'teams'\n";
        let relations = scene.file("r.toml", if is_declared { declared } else { "" });
        let members: Vec<String> = (1..=450).map(|id| format!("({id}, 1)")).collect();
        let sql = [
            "INSERT INTO teams VALUES (1, NULL)",
            &format!("INSERT INTO members VALUES {}", members.join(", ")),
            "UPDATE teams SET boss = 1",
        ];
        scene.execute_all(&sql).await;
        let name = scene.take().await.to_string();
        let sql = ["UPDATE teams SET boss = NULL", "DELETE FROM members", "DELETE FROM teams"];
        scene.execute_all(&sql).await;
        let printed = scene.run(0, &["restore", &name, "--missing", "--apply", "--relations", &relations]);
        let boss = "SELECT COUNT(*) FROM teams JOIN members ON members.id = teams.boss";
        assert_eq!(scene.db.number(boss).await, 1);
        scene.execute_all(&["INSERT INTO members VALUES (1000, 1)"]).await;
        let undone = scene.json(3, &Scene::hint(&printed));
        assert_eq!(scene.db.number(boss).await, 1, "the team that stays has its boss: {undone}");
        assert_eq!(scene.db.number("SELECT COUNT(*) FROM members").await, 2);
    }
}

/// An undo has emptied all references, and then got no further.
async fn what_an_undo_has_emptied_the_next_restore_fills_in(engine: Engine) {
    let (scene, name) = circle(engine).await;
    scene.json(0, &["restore", &name, "--missing", "--apply"]);
    let stop = "CREATE TRIGGER stop BEFORE DELETE ON members";
    let stop = match engine {
        Engine::Sqlite => format!("{stop} BEGIN SELECT RAISE(ABORT, 'not today'); END"),
        Engine::MariaDb => format!("{stop} FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not today'"),
    };
    scene.execute_all(&[stop]).await;
    let undo = scene.path("undo.jsonl").display().to_string();
    assert_eq!(scene.json(3, &["undo", &undo])["emptied"], 3);
    assert_eq!(scene.db.number(WHOLE).await, 0);
    scene.execute_all(&["DROP TRIGGER stop"]).await;
    let report = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!((&report["applied"]["inserted"], &report["applied"]["filled"]), (&0.into(), &3.into()), "{report}");
    assert_eq!(scene.db.number(WHOLE).await, 3);
    assert_eq!(scene.json(0, &["undo", &undo])["removed"], 4);
}

/// Cuts the undo file as if the run had been killed after it wrote down the last reference that it filled in.
fn killed_behind_the_last_fill(scene: &Scene) {
    let undo = scene.path("undo.jsonl");
    let written = std::fs::read_to_string(&undo).unwrap();
    let end = written.rfind("\"op\":\"fill\"").unwrap();
    let end = end + written[end..].find('\n').unwrap() + 1;
    std::fs::write(&undo, &written[..end]).unwrap();
}

async fn what_was_written_down_and_never_committed_is_filled_in_by_any_later_run(engine: Engine) {
    let (scene, name) = circle(engine).await;
    scene.json(0, &["restore", &name, "--missing", "--apply"]);
    // As if the last reference had been written down, and its commit had failed.
    killed_behind_the_last_fill(&scene);
    let sql = ["UPDATE members SET next = NULL WHERE id = 3", "DELETE FROM members WHERE id = 4"];
    scene.execute_all(&sql).await;
    // The next run restores another row, and cannot fill in the reference either.
    refuse(&scene, 3).await;
    let report = scene.json(3, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(report["applied"]["inserted"], 1, "{report}");
    scene.execute_all(&["DROP TRIGGER no"]).await;
    let report = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(report["applied"]["filled"], 1, "{report}");
    assert_eq!(scene.db.number(WHOLE).await, 3);
}

/// A run was killed after its last commit. What somebody empties after the next run stays empty.
async fn what_was_committed_last_may_be_emptied_for_good(engine: Engine) {
    let (scene, name) = circle(engine).await;
    scene.json(0, &["restore", &name, "--missing", "--apply"]);
    killed_behind_the_last_fill(&scene);
    scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(scene.db.number(WHOLE).await, 3);
    scene.execute_all(&["UPDATE members SET next = NULL"]).await;
    let report = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(report["applied"]["filled"], 0, "{report}");
    assert_eq!(scene.db.number(WHOLE).await, 0, "{report}");
}

/// The last reference was written down, but its commit failed. An undo was killed after it wrote down its days.
async fn days_that_an_undo_has_written_down_say_nothing_of_what_was_committed(engine: Engine) {
    let (scene, name) = circle(engine).await;
    scene.json(0, &["restore", &name, "--missing", "--apply"]);
    killed_behind_the_last_fill(&scene);
    let undo = scene.path("undo.jsonl");
    let written = std::fs::read_to_string(&undo).unwrap();
    std::fs::write(&undo, written + "{\"op\":\"days\",\"labs\":[[1,[\"2026-06-01\"]]]}\n").unwrap();
    scene.execute_all(&["UPDATE members SET next = NULL WHERE id = 3"]).await;
    let report = scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(report["applied"]["filled"], 1, "{report}");
    assert_eq!(scene.db.number(WHOLE).await, 3, "{report}");
}

/// A member is written when its team comes, as by a user: after it was inserted, and before it refers to the team.
async fn what_somebody_wrote_before_a_reference_was_filled_in_stays(engine: Engine) {
    let case = Case::new(engine, false).await;
    let scene = &case.scene;
    let write = "UPDATE members SET name = 'edited' WHERE id = NEW.first_member;";
    let each = if engine == Engine::Sqlite { "" } else { "FOR EACH ROW" };
    scene.execute_all(&[format!("CREATE TRIGGER edits AFTER INSERT ON teams {each} BEGIN {write} END")]).await;
    assert_eq!(case.restore(3)["applied"]["filled"], 1);
    scene.execute_all(&["DROP TRIGGER edits"]).await;
    let undo = scene.path("undo.jsonl").display().to_string();
    let whole =
        "SELECT COUNT(*) FROM members JOIN teams ON teams.id = leads WHERE first_member = 1 AND name = 'edited'";
    for more in [&["--dry-run"][..], &[]] {
        let undone = scene.json(3, &[&["undo", &undo, "--relations", &case.relations], more].concat());
        assert_eq!((&undone["removed"], &undone["emptied"]), (&0.into(), &0.into()), "{undone}");
        let stay = left(&undone);
        assert!(stay.iter().any(|left| left == "it has been changed since: [\"1\"]"), "{stay:?}");
        assert!(stay.iter().any(|left| left.ends_with("is not removed: [\"10 (members 1)\"]")), "{stay:?}");
        assert_eq!(scene.db.number(whole).await, 1);
    }
}

/// The commit of the first try has failed.
async fn a_reference_that_was_written_down_twice_is_taken_back(engine: Engine) {
    let (scene, name) = circle(engine).await;
    scene.json(0, &["restore", &name, "--missing", "--apply"]);
    let undo = scene.path("undo.jsonl").display().to_string();
    let written = std::fs::read_to_string(&undo).unwrap();
    let twice = |line: &str| format!("{line}\n").repeat(if line.contains("\"op\":\"fill\"") { 2 } else { 1 });
    std::fs::write(&undo, written.lines().map(twice).collect::<String>()).unwrap();
    assert_eq!(scene.json(0, &["undo", &undo, "--dry-run"])["removed"], 4);
    assert_eq!(scene.json(0, &["undo", &undo])["removed"], 4);
}
