//! What a diff of snapshots reports, and which snapshots it compares.

use daymend::args;

use super::{cases::people, differences};
use crate::{
    on_both,
    support::{Engine, process::run},
};

on_both! {
    a_filter_and_a_row_of_snapshots_say_when_rows_vanished;
    a_snapshot_that_cannot_be_read_is_passed_over;
    tables_that_cannot_be_compared_differ;
    what_a_snapshot_between_lacks_is_compared_with_the_next_that_has_it;
}

async fn a_filter_and_a_row_of_snapshots_say_when_rows_vanished(engine: Engine) {
    let scene = people(engine).await;
    let first = scene.take().await.to_string();
    assert!(differences(&scene.json(0, &["diff", &first])[0]).is_empty());
    scene.execute_all(&["DELETE FROM pets WHERE id IN (1, 2)"]).await;
    let second = scene.take().await.to_string();
    scene
        .execute_all(&[
            "DELETE FROM pets WHERE id = 3",
            "UPDATE pets SET name = 'new' WHERE id = 4",
            "INSERT INTO pets VALUES (20, NULL, NULL)",
        ])
        .await;
    let diff = scene.json(3, &["diff", "--since", &first]);
    assert_eq!((&diff[0]["to"], &diff[1]["to"]), (&second.as_str().into(), &"live".into()));
    assert_eq!(differences(&diff[0])["pets"], [2, 0, 0, 0]);
    assert_eq!(differences(&diff[1])["pets"], [1, 1, 1, 0]);
    let diff = scene.json(3, &["diff", &first, &second, "live", "--where", "owner=3"]);
    assert!(differences(&diff[0]).is_empty());
    assert_eq!(differences(&diff[1])["pets"], [1, 0, 0, 0]);
    // A row that fits the condition on one side only has changed.
    for condition in ["name=new", "name!=new"] {
        let diff = scene.json(3, &["diff", &second, "--table", "pets", "--where", "id=4", "--where", condition]);
        assert_eq!(differences(&diff[0])["pets"], [0, 0, 1, 0], "{condition}: {diff}");
    }
    // A typo must not look like "nothing lost", and a value is never SQL.
    for condition in ["owner=12345", "owner=abc", "owner=1 or 1=1", "name=x' OR '1'='1"] {
        let error = scene.run(2, &["diff", "--since", &first, "--where", condition]);
        assert_eq!(error, format!("error: --where: no row matches {condition}\n"));
    }
    let same = scene.run(0, &["diff", &first, &second, "--where", "owner=3"]);
    assert!(same.contains("rows compared, 1 match --where"), "{same}");
    scene.json(0, &["diff", &first, &second, "--table", "people"]);
}

/// The rows that vanished before it and after it are found all the same.
async fn a_snapshot_that_cannot_be_read_is_passed_over(engine: Engine) {
    let scene = people(engine).await;
    let first = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM pets WHERE id = 1"]).await;
    let second = scene.take().await;
    scene.execute_all(&["DELETE FROM pets WHERE id = 2"]).await;
    let manifest = scene.path("snapshots").join(format!("{second}.json"));
    std::fs::write(manifest, "{}").unwrap();
    let args = scene.args(&["diff", "--since", &first, "--json"]);
    let output = run(&scene.db, &args.iter().map(String::as_str).collect::<Vec<_>>());
    let (out, warning) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(3), "{warning}");
    let diff: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(differences(&diff[0])["pets"], [2, 0, 0, 0], "{diff}");
    assert_eq!(diff.as_array().unwrap().len(), 1, "{diff}");
    assert!(warning.contains(&format!("snapshot {second} is passed over: ")), "{warning}");
}

async fn tables_that_cannot_be_compared_differ(engine: Engine) {
    let mut scene = people(engine).await;
    let both = scene.take().await.to_string();
    scene.tables.truncate(1);
    let one = scene.take().await.to_string();
    scene.tables.push("pets".to_owned());
    let again = scene.take().await.to_string();
    let missing = format!("table pets: {one} does not have it");
    for sides in [[&both, &one], [&one, &again]] {
        let diff = &scene.json(3, &["diff", sides[0], sides[1]])[0];
        assert_eq!(diff["uncompared"], serde_json::json!([missing]), "{diff}");
        assert!(differences(diff).is_empty());
    }
    assert!(scene.run(3, &["diff", &both, &one]).contains(&format!("not compared: {missing}")));
    scene.json(0, &["diff", &both, &one, "--table", "people"]);
    scene.json(0, &["diff", &both, &again]);
    scene.db.execute("ALTER TABLE pets RENAME COLUMN id TO number", args![]).await;
    let diff = &scene.json(3, &["diff", &both])[0];
    assert_eq!(diff["uncompared"], serde_json::json!(["table pets: live has lost its key (id)"]), "{diff}");
}

async fn what_a_snapshot_between_lacks_is_compared_with_the_next_that_has_it(engine: Engine) {
    let mut scene = people(engine).await;
    let mut names = Vec::new();
    for (tables, loss) in [(2, "pets WHERE id < 3"), (1, "pets WHERE id = 3"), (1, "people WHERE id = 1"), (2, "pets")]
    {
        scene.tables = ["people", "pets"][..tables].iter().map(|table| (*table).to_owned()).collect();
        names.push(scene.take().await.to_string());
        scene.db.execute(&format!("DELETE FROM {loss}"), args![]).await;
    }
    let vanished = |diff: &serde_json::Value| {
        let diffs = diff.as_array().unwrap().iter();
        let lost = diffs.filter_map(|diff| Some((diff, differences(diff).get("pets")?[0])));
        lost.map(|(diff, rows)| format!("{} to {}: {rows}", diff["from"], diff["to"]).replace('"', ""))
            .collect::<Vec<_>>()
    };
    let expected = [format!("{} to {}: 3", names[0], names[3]), format!("{} to live: 6", names[3])];
    assert_eq!(vanished(&scene.json(3, &["diff", "--since", &names[0]])), expected);
    assert_eq!(vanished(&scene.json(3, &["diff", "--since", &names[0], "--table", "pets"])), expected);
    let diff = scene.json(3, &["diff", &names[0], &names[1], "live"]);
    assert_eq!(vanished(&diff), [format!("{} to live: 9", names[0])]);
    assert!(vanished(&scene.json(3, &["diff", "--since", &names[0], "--table", "people"])).is_empty());
}
