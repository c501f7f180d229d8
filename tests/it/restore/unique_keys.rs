//! What unique keys say of a row: nothing where they are empty.

use super::{Scene, rows};
use crate::{on_both, support::Engine};

on_both! {
    who_has_nothing_that_identifies_is_nobody_else;
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
