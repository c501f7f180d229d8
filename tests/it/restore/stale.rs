//! Rows that exist, and refer to a vanished row by a key that it does not have any more.

use serde_json::{Value as Json, json};

use super::{Scene, rows};
use crate::{on_both, support::Engine};

on_both! {
    who_refers_to_the_old_key_of_who_was_entered_again_is_said_and_left;
    a_key_that_is_a_strangers_now_is_not_theirs_who_referred_to_it_before;
    what_goes_in_under_another_key_is_missed_under_its_old_one;
}

const TABLES: [&str; 4] = [
    "CREATE TABLE clients (id BIGINT NOT NULL PRIMARY KEY, card VARCHAR(20) NOT NULL UNIQUE)",
    "CREATE TABLE contacts (id BIGINT NOT NULL PRIMARY KEY, client_id BIGINT NULL, phone VARCHAR(20) NULL)",
    // A client's id as text, if the type says so.
    "CREATE TABLE remarks (id BIGINT NOT NULL PRIMARY KEY, whose VARCHAR(20) NOT NULL, owner_id VARCHAR(20) NOT NULL)",
    "CREATE TABLE scans (id BIGINT NOT NULL PRIMARY KEY, card VARCHAR(20) NOT NULL)",
];

const RELATIONS: &str = "
[[reference]]
table = 'contacts'
columns = 'client_id'
parent = 'clients'

[[reference]]
table = 'remarks'
columns = 'owner_id'
type_column = 'whose'
parents = { client = 'clients' }

[[reference]]
table = 'scans'
columns = 'card'
parent = 'clients'
parent_columns = 'card'
";

/// Three clients, the first with many contacts; then the clients vanish, and nothing else.
async fn clients(engine: Engine) -> (Scene, String, String) {
    let scene = Scene::new(engine, &TABLES).await;
    let sql = [
        "INSERT INTO clients VALUES (1, 'c1'), (2, 'c2'), (3, 'c3')",
        "INSERT INTO contacts VALUES (7, 1, '5'), (8, 1, '5'), (9, 2, '5'), (10, NULL, '5')",
        "INSERT INTO remarks VALUES (1, 'client', '1'), (2, 'client', '3'), (3, 'house', '1')",
        "INSERT INTO scans VALUES (1, 'c1')",
    ];
    scene.execute_all(&sql).await;
    let contacts: Vec<String> = (100..500).map(|id| format!("({id}, 1, '5')")).collect();
    scene.execute_all(&super::inserts("contacts", &contacts)).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM clients", "DELETE FROM contacts WHERE id = 8"]).await;
    let relations = scene.file("r.toml", RELATIONS);
    (scene, name, relations)
}

async fn who_refers_to_the_old_key_of_who_was_entered_again_is_said_and_left(engine: Engine) {
    let (scene, name, relations) = clients(engine).await;
    let sql = [
        "INSERT INTO clients VALUES (11, 'c1'), (30, 'c3')",
        // It was entered since the snapshot, and before the client vanished.
        "INSERT INTO contacts VALUES (500, 1, '6')",
    ];
    scene.execute_all(&sql).await;
    let restore = ["restore", &name, "--missing", "--relations", &relations];
    let stale = |table: &str, columns: &str, rows: i64, first: &str| {
        json!({ "table": table, "columns": columns, "parent": "clients", "rows": rows, "first": first,
                "refers_to": "1", "is_now": "11" })
    };
    // The scan refers to the card, which is the same. The second client is restored under its own key.
    let expected = json!([stale("contacts", "client_id", 402, "7"), stale("remarks", "owner_id", 2, "1")]);
    for more in [&[][..], &["--apply"], &["--apply"]] {
        let report = scene.json(3, &[&restore[..], more].concat());
        assert_eq!(report["report"]["stale"], expected, "{report}");
        assert_eq!(rows(&report, "mapped")["clients"], 2, "{report}");
    }
    // The row that vanished too has been restored with her new key.
    assert_eq!(scene.db.number("SELECT client_id FROM contacts WHERE id = 8").await, 11);
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM contacts WHERE client_id = 1").await, 402);
    let printed = scene.run(3, &restore);
    let said = "402 row(s) of contacts still refer to rows of clients that have another key now: a restore leaves rows \
                alone that exist (the first is 7, whose client_id is 1: that is clients 11 now)";
    assert!(printed.contains(said), "{printed}");
    // Tables that have nothing to do with it, and a person who has dealt with it.
    let scans = scene.json(0, &[&restore[..], &["--table", "scans"]].concat());
    assert_eq!(scans["report"]["stale"], Json::Null, "{scans}");
    let sql =
        ["UPDATE contacts SET client_id = 11 WHERE client_id = 1", "UPDATE remarks SET owner_id = '11' WHERE id = 1"];
    scene.execute_all(&sql).await;
    let report = scene.json(3, &restore);
    assert_eq!(report["report"]["stale"].as_array().unwrap().len(), 1, "{report}");
    scene.execute_all(&["UPDATE remarks SET owner_id = '30' WHERE id = 2"]).await;
    let report = scene.json(0, &restore);
    assert_eq!(report["report"]["stale"], Json::Null, "{report}");
}

/// Whatever refers to the key since then may mean the stranger.
async fn a_key_that_is_a_strangers_now_is_not_theirs_who_referred_to_it_before(engine: Engine) {
    let (scene, name, relations) = clients(engine).await;
    let sql = [
        "INSERT INTO clients VALUES (1, 'STRANGER'), (11, 'c1')",
        "INSERT INTO contacts VALUES (500, 1, '6')",
        "DELETE FROM contacts WHERE id BETWEEN 100 AND 499",
    ];
    scene.execute_all(&sql).await;
    let identity = format!("{RELATIONS}\n[[identity]]\ntable = 'clients'\ncolumns = 'card'\n");
    std::fs::write(&relations, identity).unwrap();
    let report = scene.json(3, &["restore", &name, "--missing", "--relations", &relations, "--apply"]);
    let stale = report["report"]["stale"].as_array().unwrap();
    assert_eq!((&stale[0]["rows"], &stale[0]["first"]), (&1.into(), &"7".into()), "{report}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM contacts WHERE client_id = 11").await, 401, "{report}");
}

/// An order's key contains that of its client.
async fn what_goes_in_under_another_key_is_missed_under_its_old_one(engine: Engine) {
    let tables = [
        TABLES[0],
        "CREATE TABLE orders (client BIGINT NOT NULL, no BIGINT NOT NULL, PRIMARY KEY (client, no),
            FOREIGN KEY (client) REFERENCES clients (id))",
        "CREATE TABLE items (id BIGINT NOT NULL PRIMARY KEY, client BIGINT NOT NULL, no BIGINT NOT NULL)",
    ];
    let scene = Scene::new(engine, &tables).await;
    let sql = [
        "INSERT INTO clients VALUES (1, 'c1')",
        "INSERT INTO orders VALUES (1, 1), (1, 2)",
        "INSERT INTO items VALUES (1, 1, 1), (2, 1, 1), (3, 1, 2)",
    ];
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM orders", "DELETE FROM clients", "INSERT INTO clients VALUES (11, 'c1')"]).await;
    let reference = "[[reference]]\ntable = 'items'\ncolumns = ['client', 'no']\nparent = 'orders'\n";
    let relations = scene.file("r.toml", reference);
    let expected = json!([{
        "table": "items", "columns": "client, no", "parent": "orders", "rows": 3, "first": "1", "refers_to": "1,1",
        "is_now": "11,1"
    }]);
    for more in [&[][..], &["--apply"], &["--apply"]] {
        let report = scene.json(3, &[&["restore", &name, "--missing", "--relations", &relations], more].concat());
        assert_eq!(report["report"]["stale"], expected, "{report}");
    }
    scene.execute_all(&["UPDATE items SET client = 11"]).await;
    scene.json(0, &["restore", &name, "--missing", "--relations", &relations]);
}
