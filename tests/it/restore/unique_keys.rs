//! What unique keys say of a row: whose it is without a declared identity, and nothing where they are empty.

use super::{Scene, differences, rows};
use crate::{on_both, support::Engine};

on_both! {
    who_has_nothing_that_identifies_is_nobody_else;
    a_key_that_another_person_got_is_a_strangers_without_a_declaration;
    who_was_corrected_is_not_taken_for_the_new_holder_of_the_old_number;
    what_refers_to_who_was_entered_again_is_itself;
}

const BILLS: &str = "CREATE TABLE bills (id BIGINT NOT NULL PRIMARY KEY, patient BIGINT NOT NULL,
    FOREIGN KEY (patient) REFERENCES patients (id))";

async fn bill_of(scene: &Scene, bill: i64) -> String {
    scene.db.text(&format!("SELECT COALESCE(MAX(CAST(patient AS CHAR)), '-') FROM bills WHERE id = {bill}")).await
}

/// Most patients have no number, and none of them is another one because of that.
async fn who_has_nothing_that_identifies_is_nobody_else(engine: Engine) {
    let patients = "CREATE TABLE patients (id BIGINT NOT NULL PRIMARY KEY, nid VARCHAR(20) NOT NULL DEFAULT '',
        name VARCHAR(20) NOT NULL)";
    let scene = Scene::new(engine, &[patients, BILLS]).await;
    scene
        .execute_all(&[
            "INSERT INTO patients VALUES (1, 'N1', 'Ann'), (2, '', 'Bob'), (4, '', 'Dan'), (5, '', 'Eve')",
            "INSERT INTO bills VALUES (1, 1), (2, 2), (4, 4), (5, 5)",
        ])
        .await;
    let name = scene.take().await.to_string();
    scene
        .execute_all(&[
            "DELETE FROM bills",
            "DELETE FROM patients WHERE id < 3",
            "INSERT INTO patients VALUES (3, '', 'Cid'), (6, 'N1', 'Ann')",
            // The number was found out since. Or it is another patient's.
            "UPDATE patients SET nid = 'N4' WHERE id = 4",
            "UPDATE patients SET nid = 'N5', name = 'Zed' WHERE id = 5",
        ])
        .await;
    let relations = scene.file("r.toml", "[[identity]]\ntable = 'patients'\ncolumns = 'nid'\n");
    let report = scene.json(3, &["restore", &name, "--missing", "--relations", &relations, "--apply"]);
    let patients = ["restored", "mapped", "reused"].map(|state| rows(&report, state)["patients"]);
    assert_eq!(patients, [1, 1, 1], "{report}");
    for (bill, patient) in [(1, "6"), (2, "2"), (4, "4"), (5, "-")] {
        assert_eq!(bill_of(&scene, bill).await, patient, "bill {bill}: {report}");
    }
}

async fn a_key_that_another_person_got_is_a_strangers_without_a_declaration(engine: Engine) {
    let patients = "CREATE TABLE patients (id BIGINT NOT NULL PRIMARY KEY, nid VARCHAR(20) NULL UNIQUE,
        card VARCHAR(20) NULL UNIQUE, name VARCHAR(20) NOT NULL)";
    let scene = Scene::new(engine, &[patients, BILLS]).await;
    scene
        .execute_all(&[
            "INSERT INTO patients VALUES (1, 'N1', 'C1', 'Ann'), (2, 'N2', 'C2', 'Bob'), (3, 'N3', NULL, 'Cid'),
                (4, 'N4', 'C4', 'Dan'), (5, NULL, NULL, 'Eve'), (6, 'N6', NULL, 'Fay')",
            "INSERT INTO bills VALUES (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6)",
        ])
        .await;
    let name = scene.take().await.to_string();
    scene
        .execute_all(&[
            "DELETE FROM bills",
            "DELETE FROM patients WHERE id = 2",
            "INSERT INTO patients VALUES (2, 'N9', 'C9', 'Zed')",
            // Nobody can tell whether this is another patient, or the same one, corrected.
            "UPDATE patients SET nid = 'N33', name = 'Sid' WHERE id = 3",
            // These have kept one of their numbers, or have got their first, or only the number was corrected.
            "UPDATE patients SET nid = 'N44', name = 'Dad' WHERE id = 4",
            "UPDATE patients SET nid = 'N5', name = 'Eva' WHERE id = 5",
            "UPDATE patients SET nid = 'N66' WHERE id = 6",
        ])
        .await;
    let diff = scene.json(3, &["diff", &name]);
    assert_eq!(differences(&diff[0])["patients"], [0, 0, 3, 2], "{diff}");
    // A declaration that nothing identifies them is believed.
    let nothing = scene.file("nothing.toml", "[[identity]]\ntable = 'patients'\ncolumns = []\n");
    let plan = scene.json(3, &["restore", &name, "--missing", "--relations", &nothing]);
    assert!(rows(&plan, "reused").is_empty(), "{plan}");

    let restore = ["restore", &name, "--missing", "--apply"];
    let report = scene.json(3, &restore);
    assert_eq!((rows(&report, "reused")["patients"], rows(&report, "deferred")["bills"]), (2, 2), "{report}");
    for (bill, patient) in [(1, "1"), (2, "-"), (3, "-"), (4, "4"), (5, "5"), (6, "6")] {
        assert_eq!(bill_of(&scene, bill).await, patient, "bill {bill}: {report}");
    }
    let map = std::fs::read_to_string(scene.path("map.csv")).unwrap();
    let expected = "table,old,new,why\n\
                    patients,2,,\"id reused: nid, card differs (live: 2)\"\n\
                    patients,3,,id reused: nid differs (live: 3)\n";
    assert_eq!(map, expected);
    // A person knows that 3 is the same patient, whose number and name were corrected.
    let edited = scene.file("edited.csv", &map.replace("patients,3,,", "patients,3,3,"));
    let report = scene.json(3, &[&restore[..], &["--remap", &edited]].concat());
    assert_eq!((rows(&report, "reused")["patients"], rows(&report, "deferred")["bills"]), (1, 1), "{report}");
    assert_eq!((bill_of(&scene, 3).await, bill_of(&scene, 2).await), ("3".to_owned(), "-".to_owned()), "{report}");
    // By now, the other one was entered again.
    scene.execute_all(&["INSERT INTO patients VALUES (10, 'N2', 'C2', 'Bob')"]).await;
    let report = scene.json(3, &restore);
    assert_eq!((rows(&report, "reused")["patients"], rows(&report, "mapped")["patients"]), (1, 1), "{report}");
    assert_eq!(bill_of(&scene, 2).await, "10", "{report}");
}

/// Any change of a row changes `updated`, so that a correction looks like another person.
async fn who_was_corrected_is_not_taken_for_the_new_holder_of_the_old_number(engine: Engine) {
    let patients = "CREATE TABLE patients (id BIGINT NOT NULL PRIMARY KEY, nid VARCHAR(20) NOT NULL UNIQUE,
        updated VARCHAR(20) NOT NULL)";
    let scene = Scene::new(engine, &[patients, BILLS]).await;
    scene
        .execute_all(&[
            "INSERT INTO patients VALUES (3, 'N3', 'may'), (4, 'dan@x', 'may')",
            "INSERT INTO bills VALUES (3, 3), (4, 4)",
        ])
        .await;
    let name = scene.take().await.to_string();
    scene
        .execute_all(&[
            "DELETE FROM bills",
            "UPDATE patients SET nid = 'N33', updated = 'june' WHERE id = 3",
            "INSERT INTO patients VALUES (50, 'N3', 'june')",
            "UPDATE patients SET nid = 'Dan@x', updated = 'june' WHERE id = 4",
        ])
        .await;
    let report = scene.json(3, &["restore", &name, "--missing", "--apply"]);
    assert_eq!(rows(&report, "ambiguous")["patients"], 1, "{report}");
    assert!(rows(&report, "mapped").is_empty(), "{report}");
    for (bill, patient) in [(3, "-"), (4, "4")] {
        assert_eq!(bill_of(&scene, bill).await, patient, "bill {bill}: {report}");
    }
}

/// A unique key may be a reference, and is the same once that is rewritten.
async fn what_refers_to_who_was_entered_again_is_itself(engine: Engine) {
    let tables = [
        "CREATE TABLE people (id BIGINT NOT NULL PRIMARY KEY, code VARCHAR(20) NOT NULL UNIQUE)",
        "CREATE TABLE members (id BIGINT NOT NULL PRIMARY KEY, person BIGINT NOT NULL UNIQUE)",
        "CREATE TABLE visits (id BIGINT NOT NULL PRIMARY KEY, member BIGINT NOT NULL,
            FOREIGN KEY (member) REFERENCES members (id))",
    ];
    let scene = Scene::new(engine, &tables).await;
    scene
        .execute_all(&[
            "INSERT INTO people VALUES (1, 'c1'), (2, 'c2')",
            "INSERT INTO members VALUES (7, 1), (8, 2)",
            "INSERT INTO visits VALUES (1, 7), (2, 8)",
        ])
        .await;
    let name = scene.take().await.to_string();
    scene
        .execute_all(&[
            "DELETE FROM visits",
            "DELETE FROM people WHERE id = 1",
            "INSERT INTO people VALUES (10, 'c1')",
            "UPDATE members SET person = 10 WHERE id = 7",
        ])
        .await;
    let relations = scene.file("r.toml", "[[reference]]\ntable = 'members'\ncolumns = 'person'\nparent = 'people'\n");
    let report = scene.json(0, &["restore", &name, "--missing", "--relations", &relations, "--apply"]);
    assert_eq!((rows(&report, "mapped")["members"], rows(&report, "restored")["visits"]), (1, 2), "{report}");
    let map = std::fs::read_to_string(scene.path("map.csv")).unwrap();
    assert_eq!(map, "table,old,new,why\npeople,1,10,code is the same\n");
}
