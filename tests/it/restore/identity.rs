//! Which rows count as the same: rows entered again under another key, and keys that now belong to other rows.

use super::{
    Scene,
    cases::{PEOPLE, people},
    inserts, rows,
};
use crate::{on_both, support::Engine};

on_both! {
    the_map_can_be_edited;
    what_the_map_leaves_open_stays_away;
    a_map_of_a_table_that_is_not_there_is_refused;
    who_was_deleted_on_purpose_is_nobody_whatever_the_map_says;
    a_reused_id_is_not_present;
    who_is_claimed_twice_is_nobody;
    claims_are_compared_however_far_apart;
    a_claim_that_comes_late_takes_back_what_the_first_one_led_to;
    what_a_run_has_put_in_is_not_somebody_else;
    keys_that_disagree_say_nothing;
    what_was_written_to_who_was_entered_again_is_itself;
    an_identity_that_was_filled_in_since_is_nobody_elses;
}

/// Takes a snapshot, then runs these statements. Returns the snapshot's name.
async fn taken(scene: &Scene, then: &[&str]) -> String {
    let name = scene.take().await.to_string();
    scene.execute_all(then).await;
    name
}

/// Writes a file of relations in which a column identifies the rows of a table.
fn identified(scene: &Scene, table: &str, column: &str) -> String {
    scene.file("r.toml", &format!("[[identity]]\ntable = '{table}'\ncolumns = '{column}'\n"))
}

async fn the_map_can_be_edited(engine: Engine) {
    let scene = people(engine).await;
    let name = taken(&scene, &[
        "DELETE FROM pets WHERE id IN (1, 2, 3)",
        "DELETE FROM people WHERE id IN (1, 2, 3)",
        "INSERT INTO people VALUES (11, 'c1', 'again'), (12, 'c2', 'another with the same code'), (13, 'other', 'n3')",
    ]).await;
    let plan = scene.json(3, &["restore", &name, "--missing"]);
    assert_eq!(rows(&plan, "mapped")["people"], 2);
    let map = std::fs::read_to_string(scene.path("map.csv")).unwrap();
    assert_eq!(map, "table,old,new,why\npeople,1,11,code is the same\npeople,2,12,code is the same\n");
    // A person knows that 2 is not 12, and that 3 is 13.
    let edited = scene.file("edited.csv", "table,old,new,why\npeople,1,11,\npeople,2,,no\npeople,3,13,she told us\n");
    let report = scene.json(3, &["restore", &name, "--missing", "--apply", "--remap", &edited]);
    assert_eq!(rows(&report, "mapped")["people"], 2);
    assert_eq!(rows(&report, "ambiguous")["people"], 1);
    assert_eq!(rows(&report, "deferred")["pets"], 1);
    assert_eq!(scene.db.number("SELECT owner FROM pets WHERE id = 1").await, 11);
    assert_eq!(scene.db.number("SELECT owner FROM pets WHERE id = 3").await, 13);
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM pets WHERE id = 2").await, 0);
    let nobody = scene.file("nobody.csv", "table,old,new\npeople,2,77\n");
    let plan = scene.json(3, &["restore", &name, "--missing", "--remap", &nobody]);
    let groups = plan["report"]["groups"].as_array().unwrap();
    assert!(groups.iter().any(|group| group["reason"] == "the map names a row that does not exist"), "{plan}");
}

/// Nobody holds their identity, but somebody wants to ask first.
async fn what_the_map_leaves_open_stays_away(engine: Engine) {
    let clients = "CREATE TABLE clients (id BIGINT NOT NULL PRIMARY KEY, FOREIGN KEY (id) REFERENCES people (id))";
    let scene = Scene::new(engine, &[PEOPLE[0], PEOPLE[1], clients]).await;
    let sql = [
        "INSERT INTO people VALUES (1, 'c1', 'n1'), (2, 'c2', 'n2'), (3, 'c3', 'n3')",
        "INSERT INTO pets VALUES (1, 1, 'p1'), (2, 2, 'p2'), (3, 3, 'p3')",
        "INSERT INTO clients VALUES (1), (2), (3)",
    ];
    scene.execute_all(&sql).await;
    let name = taken(&scene, &["DELETE FROM pets", "DELETE FROM clients", "DELETE FROM people"]).await;
    let map = scene.file("given.csv", "table,old,new,why\npets,1,,ask first\nclients,2,,ask first\n");
    for (more, state) in [([].as_slice(), "missing"), (&["--apply"], "restored")] {
        let report = scene.json(3, &[&["restore", &name, "--missing", "--remap", &map], more].concat());
        let (open, rows) = (rows(&report, "ambiguous"), rows(&report, state));
        assert_eq!((open["pets"], open["clients"], open["people"]), (1, 1, 1), "{report}");
        assert_eq!((rows["pets"], rows["clients"], rows["people"]), (1, 2, 2), "{report}");
        assert!(report["report"].to_string().contains("\"as its clients: the map leaves it open\""), "{report}");
        assert_eq!(report["report"]["remarks"], serde_json::json!([]));
    }
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM people WHERE id = 2").await, 0);
    scene.json(0, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM pets").await, 3);
}

async fn who_was_deleted_on_purpose_is_nobody_whatever_the_map_says(engine: Engine) {
    let scene = people(engine).await;
    let then = [
        "DELETE FROM pets WHERE id < 3",
        "DELETE FROM people WHERE id < 3",
        "INSERT INTO people VALUES (11, 'x', 'n1')",
    ];
    let name = taken(&scene, &then).await;
    let map = scene.file("given.csv", "table,old,new\npeople,1,11\n");
    let restore = ["restore", &name, "--missing", "--apply", "--remap", &map, "--exclude", "people:1"];
    let report = scene.json(3, &restore);
    assert_eq!((rows(&report, "excluded")["people"], rows(&report, "mapped").len()), (1, 0), "{report}");
    assert_eq!((rows(&report, "deferred")["pets"], rows(&report, "restored")["pets"]), (1, 1), "{report}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM pets WHERE owner IN (1, 11)").await, 0, "{report}");
}

/// The table's name is mistyped: none of the map's lines would have an effect.
async fn a_map_of_a_table_that_is_not_there_is_refused(engine: Engine) {
    let scene = people(engine).await;
    let name = taken(&scene, &["DELETE FROM pets WHERE id = 1"]).await;
    let map = scene.file("given.csv", "table,old,new\npeple,1,11\n");
    let error = scene.run(2, &["restore", &name, "--missing", "--apply", "--remap", &map]);
    assert_eq!(error, format!("error: --remap: table peple is not in snapshot {name}\n"));
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM pets").await, 8);
}

async fn a_reused_id_is_not_present(engine: Engine) {
    let scene = people(engine).await;
    let name = taken(
        &scene,
        &[
            "DELETE FROM pets WHERE id IN (1, 2)",
            "DELETE FROM people WHERE id IN (1, 2)",
            // Others have got both ids, and the first person was entered again under another id.
            "INSERT INTO people VALUES (1, 'new', 'somebody'), (2, 'also new', 'somebody'), (10, 'c1', 'again')",
        ],
    )
    .await;
    let relations = identified(&scene, "people", "code");
    let report = scene.json(3, &["restore", &name, "--missing", "--apply", "--relations", &relations]);
    assert_eq!(rows(&report, "mapped")["people"], 1);
    assert_eq!(rows(&report, "reused")["people"], 1);
    assert_eq!(scene.db.number("SELECT owner FROM pets WHERE id = 1").await, 10);
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM pets WHERE owner IN (1, 2)").await, 0, "no stranger got a pet");
}

/// Three people of one name have vanished, and one of that name was entered again: it is unknown which of them.
async fn who_is_claimed_twice_is_nobody(engine: Engine) {
    let scene = people(engine).await;
    scene.execute_all(&["UPDATE people SET name = 'Ann' WHERE id < 4"]).await;
    let name = taken(
        &scene,
        &[
            "DELETE FROM pets WHERE id < 4",
            "DELETE FROM people WHERE id < 4",
            // Two of the ids are free, and somebody else has got the third.
            "INSERT INTO people VALUES (3, 'new', 'Bob'), (10, 'again', 'Ann')",
        ],
    )
    .await;
    let relations = identified(&scene, "people", "name");
    let report = scene.json(3, &["restore", &name, "--missing", "--apply", "--relations", &relations]);
    assert_eq!((rows(&report, "mapped").len(), rows(&report, "ambiguous")["people"]), (0, 3), "{report}");
    assert_eq!(rows(&report, "deferred")["pets"], 3);
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM pets WHERE owner IN (3, 10)").await, 0);
    // A person can decide.
    let decided = scene.file("decided.csv", "table,old,new\npeople,1,\npeople,2,10\npeople,3,\n");
    let again = ["restore", &name, "--missing", "--apply", "--relations", &relations, "--remap", &decided];
    let report = scene.json(3, &again);
    assert_eq!((rows(&report, "mapped")["people"], rows(&report, "ambiguous")["people"]), (1, 2), "{report}");
    assert_eq!(scene.db.number("SELECT id FROM pets WHERE owner = 10").await, 2);
}

/// More rows lie between the two claims than are read at once.
async fn claims_are_compared_however_far_apart(engine: Engine) {
    let scene = Scene::new(engine, &PEOPLE).await;
    let name = |id: i64| if id == 1 || id == 500 { "Ann".to_owned() } else { format!("n{id}") };
    let people: Vec<String> = (1..=500).map(|id| format!("({id}, 'c{id}', '{}')", name(id))).collect();
    scene.execute_all(&inserts("people", &people)).await;
    scene.execute_all(&["INSERT INTO pets VALUES (1, 1, 'p'), (2, 500, 'p')"]).await;
    let name =
        taken(&scene, &["DELETE FROM pets", "DELETE FROM people", "INSERT INTO people VALUES (1000, 'again', 'Ann')"])
            .await;
    let relations = identified(&scene, "people", "name");
    for _ in 0..2 {
        let report = scene.json(3, &["restore", &name, "--missing", "--apply", "--relations", &relations]);
        assert_eq!((rows(&report, "mapped").len(), rows(&report, "ambiguous")["people"]), (0, 2), "{report}");
        assert_eq!(rows(&report, "deferred")["pets"], 2, "{report}");
        assert_eq!(scene.db.number("SELECT COUNT(*) FROM people").await, 499);
        assert_eq!(scene.db.number("SELECT COUNT(*) FROM pets").await, 0);
    }
}

/// By the phone the new person is the first one; by the card, which is in another table, the second one.
async fn a_claim_that_comes_late_takes_back_what_the_first_one_led_to(engine: Engine) {
    let tables = [
        "CREATE TABLE people (id BIGINT NOT NULL PRIMARY KEY, phone VARCHAR(20) NULL)",
        "CREATE TABLE animals (id BIGINT NOT NULL PRIMARY KEY, owner BIGINT NULL, name VARCHAR(40) NULL,
            FOREIGN KEY (owner) REFERENCES people (id))",
        "CREATE TABLE members (id BIGINT NOT NULL PRIMARY KEY, card VARCHAR(20) NULL,
            FOREIGN KEY (id) REFERENCES people (id))",
    ];
    let scene = Scene::new(engine, &tables).await;
    let sql = [
        "INSERT INTO people VALUES (1, 'p'), (2, 'q')",
        "INSERT INTO members VALUES (2, 'k')",
        "INSERT INTO animals VALUES (1, 1, 'Rex'), (2, 1, 'Tom')",
    ];
    scene.execute_all(&sql).await;
    let name = taken(
        &scene,
        &[
            "DELETE FROM animals",
            "DELETE FROM members",
            "DELETE FROM people",
            "INSERT INTO people VALUES (10, 'p')",
            "INSERT INTO members VALUES (10, 'k')",
            "INSERT INTO animals VALUES (100, 10, 'Rex')",
        ],
    )
    .await;
    let relations = "[[identity]]\ntable = 'people'\ncolumns = 'phone'\n
                     [[identity]]\ntable = 'members'\ncolumns = 'card'\n
                     [[identity]]\ntable = 'animals'\ncolumns = ['owner', 'name']\n";
    let relations = scene.file("r.toml", relations);
    let report = scene.json(3, &["restore", &name, "--missing", "--apply", "--relations", &relations]);
    assert!(rows(&report, "mapped").is_empty(), "{report}");
    let ambiguous = rows(&report, "ambiguous");
    assert_eq!((ambiguous["people"], ambiguous["members"]), (2, 1), "{report}");
    assert_eq!(rows(&report, "deferred")["animals"], 2, "{report}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM animals").await, 1);
}

/// An earlier run inserted a member under another key. That row stands for the member, even though others have the same
/// phone.
async fn what_a_run_has_put_in_is_not_somebody_else(engine: Engine) {
    let tables = [
        PEOPLE[0],
        "CREATE TABLE members (id BIGINT NOT NULL PRIMARY KEY, phone VARCHAR(20) NULL,
            FOREIGN KEY (id) REFERENCES people (id))",
        "CREATE TABLE visits (id BIGINT NOT NULL PRIMARY KEY, member BIGINT NOT NULL,
            FOREIGN KEY (member) REFERENCES members (id))",
    ];
    let scene = Scene::new(engine, &tables).await;
    let sql = [
        "INSERT INTO people VALUES (1, 'c1', 'a'), (2, 'c2', 'b'), (3, 'c3', 'c')",
        "INSERT INTO members VALUES (1, 'p'), (2, 'p'), (3, 'p')",
        "INSERT INTO visits VALUES (1, 1), (2, 2), (3, 3)",
    ];
    scene.execute_all(&sql).await;
    let name = taken(
        &scene,
        &[
            "DELETE FROM visits",
            "DELETE FROM members",
            "DELETE FROM people WHERE id = 2",
            // The second person was entered again, but the membership was not: it is inserted under the new key.
            "INSERT INTO people VALUES (10, 'c2', 'b')",
        ],
    )
    .await;
    let relations = identified(&scene, "members", "phone");
    let restore = ["restore", &name, "--missing", "--apply", "--relations", &relations];
    scene.json(0, &restore);
    assert_eq!(scene.db.number("SELECT member FROM visits WHERE id = 2").await, 10);
    // As if that run had been killed before it inserted the others.
    scene.execute_all(&["DELETE FROM visits", "DELETE FROM members WHERE id <> 10"]).await;
    let report = scene.json(3, &restore);
    assert_eq!((rows(&report, "mapped")["members"], rows(&report, "ambiguous")["members"]), (1, 2), "{report}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM visits").await, 1, "{report}");
    assert_eq!(scene.db.number("SELECT member FROM visits WHERE id = 2").await, 10, "{report}");
}

/// It is not declared which of two unique keys identifies a person.
async fn keys_that_disagree_say_nothing(engine: Engine) {
    let table = "CREATE TABLE people (id BIGINT NOT NULL PRIMARY KEY, code VARCHAR(20) NULL UNIQUE, card VARCHAR(20) NULL UNIQUE)";
    let scene = Scene::new(engine, &[table, PEOPLE[1]]).await;
    let sql = [
        "INSERT INTO people VALUES (1, 'a', 'x'), (2, 'b', 'y'), (3, 'c', 'z')",
        "INSERT INTO pets VALUES (1, 1, 'p'), (2, 2, 'p'), (3, 3, 'p')",
    ];
    scene.execute_all(&sql).await;
    let name = taken(
        &scene,
        &[
            "DELETE FROM pets",
            "DELETE FROM people",
            // The two keys of the first person are in two rows. One key of the second is in a row with another card.
            "INSERT INTO people VALUES (10, 'a', 'new'), (11, 'new', 'x'), (12, 'b', 'other'), (13, 'c', 'z')",
        ],
    )
    .await;
    // What a person has to decide is reason enough for exit code 3.
    let report = scene.json(3, &["restore", &name, "--missing", "--apply", "--table", "people"]);
    assert!(rows(&report, "deferred").is_empty(), "{report}");
    let report = scene.json(3, &["restore", &name, "--missing", "--apply"]);
    assert_eq!((rows(&report, "ambiguous")["people"], rows(&report, "mapped")["people"]), (2, 1), "{report}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM pets").await, 1, "{report}");
    assert_eq!(scene.db.number("SELECT owner FROM pets WHERE id = 3").await, 13);
}

/// An animal's identity includes its owner: under the owner's new key it is the same animal, whoever wrote that key.
async fn what_was_written_to_who_was_entered_again_is_itself(engine: Engine) {
    let tables = [
        PEOPLE[0],
        "CREATE TABLE animals (id BIGINT NOT NULL PRIMARY KEY, owner BIGINT NULL, name VARCHAR(40) NULL,
            FOREIGN KEY (owner) REFERENCES people (id))",
        "CREATE TABLE shots (animal BIGINT NOT NULL, no BIGINT NOT NULL, what VARCHAR(20) NULL,
            PRIMARY KEY (animal, no), FOREIGN KEY (animal) REFERENCES animals (id))",
        "CREATE TABLE visits (id BIGINT NOT NULL PRIMARY KEY, animal BIGINT NULL)",
    ];
    let scene = Scene::new(engine, &tables).await;
    let sql = [
        "INSERT INTO people VALUES (1, 'c1', 'a'), (2, 'c2', 'b')",
        "INSERT INTO animals VALUES (7, 1, 'Rex'), (8, 1, 'Tom'), (9, 2, 'Kim')",
        "INSERT INTO shots VALUES (7, 1, 'x'), (7, 2, 'x'), (8, 1, 'x'), (9, 1, 'x')",
        "INSERT INTO visits VALUES (1, 7), (2, 8), (3, 9)",
    ];
    scene.execute_all(&sql).await;
    let name = taken(
        &scene,
        &[
            "DELETE FROM visits",
            "DELETE FROM shots WHERE animal <> 8",
            "DELETE FROM animals WHERE id = 7",
            "UPDATE people SET code = NULL WHERE id = 1",
            "INSERT INTO people VALUES (10, 'c1', 'a')",
            // One of the first owner's animals was given to the new row already. Animal 9 is another one by now.
            "UPDATE animals SET owner = 10 WHERE id = 8",
            "UPDATE animals SET owner = 10 WHERE id = 9",
            "DELETE FROM people WHERE id = 1",
        ],
    )
    .await;
    let relations = scene.file(
        "r.toml",
        "[[identity]]\ntable = 'people'\ncolumns = 'code'\n
         [[identity]]\ntable = 'animals'\ncolumns = ['owner', 'name']\n
         [[reference]]\ntable = 'visits'\ncolumns = 'animal'\nparent = 'animals'\n",
    );
    let restore = ["restore", &name, "--missing", "--apply", "--relations", &relations];
    // As it is, then as if that run had been killed after the animals, and once more with nothing to do.
    for then in [vec![], vec!["DELETE FROM visits", "DELETE FROM shots WHERE animal = 7"], vec![]] {
        scene.execute_all(&then).await;
        let report = scene.json(3, &restore);
        let reused = rows(&report, "reused");
        assert_eq!((reused.len(), reused["animals"]), (1, 1), "{report}");
        assert_eq!(
            rows(&report, "deferred"),
            [("shots", 1), ("visits", 1)].map(|(table, rows)| (table.to_owned(), rows)).into(),
            "{report}"
        );
        assert_eq!(scene.db.number("SELECT COUNT(*) FROM shots").await, 3, "{report}");
        assert_eq!(scene.db.number("SELECT COUNT(*) FROM visits").await, 2, "{report}");
    }
    // Animal 9 is itself again: nothing is left to ask about.
    scene.execute_all(&["UPDATE animals SET owner = 2 WHERE id = 9"]).await;
    for inserted in [2, 0] {
        let report =
            scene.json(0, &[&restore[..], &["--remap", &scene.file("m.csv", "table,old,new\npeople,1,10\n")]].concat());
        assert_eq!(report["applied"]["inserted"], inserted, "{report}");
    }
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM animals WHERE owner = 10").await, 2);
}

/// A card that somebody has entered since makes nobody another person. A card that is another one does, and so does one
/// that is gone.
async fn an_identity_that_was_filled_in_since_is_nobody_elses(engine: Engine) {
    let scene = Scene::new(engine, &PEOPLE).await;
    let sql = [
        "INSERT INTO people VALUES (1, NULL, 'n1'), (2, NULL, 'n2'), (3, 'c3', 'n3'), (4, 'c4', 'n4')",
        "INSERT INTO pets VALUES (1, 1, 'p1'), (2, 2, 'p2'), (3, 3, 'p3'), (4, 4, 'p4')",
    ];
    scene.execute_all(&sql).await;
    let name = taken(
        &scene,
        &[
            "DELETE FROM pets",
            "UPDATE people SET code = 'c1' WHERE id = 1",
            "UPDATE people SET code = 'c2', name = 'another' WHERE id = 2",
            "UPDATE people SET code = 'other' WHERE id = 3",
            "UPDATE people SET code = NULL WHERE id = 4",
        ],
    )
    .await;
    for (columns, reused) in [("'code'", 3), ("['code', 'name']", 3)] {
        let identity = format!("[[identity]]\ntable = 'people'\ncolumns = {columns}\n");
        let relations = scene.file("r.toml", &identity);
        let diff = scene.json(3, &["diff", &name, "--relations", &relations]);
        assert_eq!(super::differences(&diff[0])["people"], [0, 0, 4 - reused, reused], "{columns}: {diff}");
        let plan = scene.json(3, &["restore", &name, "--missing", "--relations", &relations]);
        let (people, deferred) = (rows(&plan, "reused")["people"], rows(&plan, "deferred")["pets"]);
        assert_eq!((people, deferred), (reused, reused), "{columns}: {plan}");
    }
}
