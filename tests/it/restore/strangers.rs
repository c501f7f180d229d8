//! Rows whose key contains that of a row whose key is now used by another row, or that has another key now.

use super::{Scene, rows};
use crate::{on_both, support::Engine};

on_both! {
    nothing_hangs_on_what_is_a_strangers_by_its_key;
    who_was_entered_again_gets_what_hung_on_the_old_key;
    what_hangs_on_rows_with_another_key_comes_back_at_once;
    a_person_who_knows_better_is_believed;
    an_identity_that_says_nothing_of_the_stranger_is_believed_too;
    what_shares_a_strangers_key_is_found_on_either_side;
    what_is_new_at_the_rewritten_key_stands_for_nobody;
    the_card_of_who_was_entered_again_is_hers_unless_its_identity_says_otherwise;
    what_goes_in_with_another_key_says_nothing_of_what_it_extends;
    what_hangs_on_a_row_that_goes_in_with_another_key_is_not_the_strangers;
    who_was_deleted_on_purpose_does_not_come_back_as_another_table_knows_her;
}

/// The keys of orders and cards contain their person's key. Items and stamps refer to these.
const TABLES: [&str; 7] = [
    "CREATE TABLE people (id BIGINT NOT NULL PRIMARY KEY, nid VARCHAR(20) NULL UNIQUE)",
    "CREATE TABLE orders (pid BIGINT NOT NULL, no BIGINT NOT NULL, what VARCHAR(20) NULL, PRIMARY KEY (pid, no),
        FOREIGN KEY (pid) REFERENCES people (id))",
    "CREATE TABLE items (id BIGINT NOT NULL PRIMARY KEY, pid BIGINT NULL, no BIGINT NULL,
        FOREIGN KEY (pid, no) REFERENCES orders (pid, no))",
    "CREATE TABLE cards (id BIGINT NOT NULL PRIMARY KEY, card VARCHAR(20) NULL, FOREIGN KEY (id) REFERENCES people (id))",
    "CREATE TABLE stamps (id BIGINT NOT NULL PRIMARY KEY, card BIGINT NULL, FOREIGN KEY (card) REFERENCES cards (id))",
    // It has an id of its own, but is referred to by its other key.
    "CREATE TABLE visits (id BIGINT NOT NULL PRIMARY KEY, pid BIGINT NOT NULL, no BIGINT NOT NULL, UNIQUE (pid, no),
        FOREIGN KEY (pid) REFERENCES people (id))",
    "CREATE TABLE notes (id BIGINT NOT NULL PRIMARY KEY, pid BIGINT NULL, no BIGINT NULL,
        FOREIGN KEY (pid, no) REFERENCES visits (pid, no))",
];

const CHILDREN: [&str; 6] = ["stamps", "cards", "items", "orders", "notes", "visits"];

struct Case {
    scene: Scene,
    name: String,
    relations: String,
}

impl Case {
    /// Creates persons 4 and 5, deletes them with all that they have after the snapshot, then runs `since`.
    async fn new(engine: Engine, since: &[&str]) -> Self {
        let scene = Scene::new(engine, &TABLES).await;
        let sql = [
            "INSERT INTO people VALUES (4, 'N4'), (5, 'N5')",
            "INSERT INTO orders VALUES (4, 1, 'old'), (4, 2, 'old'), (5, 1, 'old')",
            "INSERT INTO items VALUES (41, 4, 1), (42, 4, 2), (51, 5, 1)",
            "INSERT INTO cards VALUES (4, 'c4'), (5, 'c5')",
            "INSERT INTO stamps VALUES (1, 4), (2, 5)",
            "INSERT INTO visits VALUES (1, 4, 1), (2, 5, 1)",
            "INSERT INTO notes VALUES (1, 4, 1), (2, 5, 1)",
        ];
        scene.execute_all(&sql).await;
        let name = scene.take().await.to_string();
        let mut sql = CHILDREN.map(|table| format!("DELETE FROM {table}")).to_vec();
        sql.push("DELETE FROM people".to_owned());
        sql.extend(since.iter().map(|sql| (*sql).to_owned()));
        scene.execute_all(&sql).await;
        let relations = scene.file("r.toml", "[[identity]]\ntable = 'people'\ncolumns = 'nid'\n");
        Self { scene, name, relations }
    }

    fn restore(&self, code: i32, more: &[&str]) -> serde_json::Value {
        let command = ["restore", &self.name, "--missing", "--relations", &self.relations];
        self.scene.json(code, &[&command[..], more].concat())
    }

    /// Counts the rows that match a condition.
    async fn count(&self, rows: &str) -> i64 {
        self.scene.db.number(&format!("SELECT COUNT(*) FROM {rows}")).await
    }
}

const STRANGER: [&str; 3] = [
    "INSERT INTO people VALUES (4, 'STRANGER')",
    "INSERT INTO orders VALUES (4, 1, 'strangers')",
    "INSERT INTO cards VALUES (4, 'strg')",
];

async fn nothing_hangs_on_what_is_a_strangers_by_its_key(engine: Engine) {
    let case = Case::new(engine, &STRANGER).await;
    for more in [[].as_slice(), &["--apply"], &["--apply"]] {
        let report = case.restore(3, more);
        let reused = rows(&report, "reused");
        assert_eq!((reused["people"], reused["orders"], reused["cards"]), (1, 1, 1), "{report}");
        let deferred = rows(&report, "deferred");
        assert_eq!((deferred["orders"], deferred["items"], deferred["stamps"]), (1, 2, 1), "{report}");
        let why = "the key of the row of people that it refers to is now used by another row";
        let groups = report["report"]["groups"].as_array().unwrap();
        assert!(groups.iter().any(|group| group["table"] == "orders" && group["reason"] == why), "{report}");
    }
    // Rows whose keys are free are restored.
    for whole in ["items WHERE pid = 5", "stamps WHERE card = 5", "orders WHERE pid = 5", "notes WHERE pid = 5"] {
        assert_eq!(case.count(whole).await, 1, "{whole}");
    }
    for nothing in ["items WHERE pid = 4", "stamps WHERE card = 4", "orders WHERE pid = 4 AND what = 'old'"] {
        assert_eq!(case.count(nothing).await, 0, "{nothing}");
    }
}

async fn who_was_entered_again_gets_what_hung_on_the_old_key(engine: Engine) {
    let again = "INSERT INTO people VALUES (104, 'N4')";
    let case = Case::new(engine, &[&[again][..], &STRANGER].concat()).await;
    let before = case.scene.dump().await;
    let plan = case.restore(3, &[]);
    assert_eq!((rows(&plan, "missing")["orders"], rows(&plan, "missing")["cards"]), (3, 2), "{plan}");
    let report = case.restore(0, &["--apply"]);
    assert_eq!(rows(&report, "mapped")["people"], 1, "{report}");
    for hers in ["items WHERE pid = 104", "orders WHERE pid = 104 AND what = 'old'"] {
        assert_eq!(case.count(hers).await, 2, "{hers}");
    }
    for hers in ["stamps WHERE card = 104", "cards WHERE id = 104 AND card = 'c4'", "notes WHERE pid = 104"] {
        assert_eq!(case.count(hers).await, 1, "{hers}");
    }
    for strangers in ["items WHERE pid = 4", "stamps WHERE card = 4", "orders WHERE pid = 4 AND what = 'old'"] {
        assert_eq!(case.count(strangers).await, 0, "{strangers}");
    }
    // Everything is restored. Later runs recognize it, even with a map: nobody was entered again since.
    let full = case.scene.dump().await;
    let map = case.scene.file("given.csv", "table,old,new\npeople,4,104\n");
    for more in [[].as_slice(), &["--remap", &map]] {
        let report = case.restore(0, &[&["--apply"][..], more].concat());
        assert_eq!(report["applied"]["inserted"], 0, "{report}");
    }
    assert!(case.scene.dump().await == full);
    let undo = case.scene.path("undo.jsonl").display().to_string();
    case.scene.json(0, &["undo", &undo]);
    assert!(case.scene.dump().await == before);
}

async fn what_hangs_on_rows_with_another_key_comes_back_at_once(engine: Engine) {
    let again = ["INSERT INTO people VALUES (104, 'N4')"];
    let case = Case::new(engine, &again).await;
    let plan = case.restore(3, &[]);
    assert!(rows(&plan, "deferred").is_empty(), "{plan}");
    let report = case.restore(0, &["--apply"]);
    for table in CHILDREN {
        assert_eq!(rows(&report, "restored")[table], rows(&plan, "missing")[table], "{table}: {report}");
    }
    let whole = case.scene.dump().await;
    // Several runs come to the same result.
    let case = Case::new(engine, &again).await;
    for table in ["people", "orders", "cards"] {
        case.restore(0, &["--apply", "--table", table]);
    }
    case.restore(0, &["--apply"]);
    assert!(case.scene.dump().await == whole);
}

async fn a_person_who_knows_better_is_believed(engine: Engine) {
    // Her number was mistyped: it is the same person.
    let case = Case::new(engine, &STRANGER).await;
    let map = case.scene.file("given.csv", "table,old,new\npeople,4,4\n");
    let report = case.restore(0, &["--apply", "--remap", &map]);
    assert_eq!(rows(&report, "mapped")["people"], 1, "{report}");
    for hers in ["items WHERE pid = 4", "orders WHERE pid = 4"] {
        assert_eq!(case.count(hers).await, 2, "{hers}");
    }
    assert_eq!(case.count("stamps WHERE card = 4").await, 1);
}

/// Each of the two tables refers to the other by its key, so none of them comes first.
async fn what_shares_a_strangers_key_is_found_on_either_side(engine: Engine) {
    let tables = ["profiles", "users"];
    let sql =
        tables.map(|table| format!("CREATE TABLE {table} (id BIGINT NOT NULL PRIMARY KEY, nid VARCHAR(20) NULL)"));
    let reference =
        |[table, parent]: [&str; 2]| format!("[[reference]]\ntable = '{table}'\ncolumns = 'id'\nparent = '{parent}'\n");
    for taken in tables {
        let scene = Scene::new(engine, &[&sql[0], &sql[1]]).await;
        scene.execute_all(&tables.map(|table| format!("INSERT INTO {table} VALUES (4, 'N4'), (5, 'N5')"))).await;
        let name = scene.take().await.to_string();
        scene.execute_all(&[format!("UPDATE {taken} SET nid = 'STRANGER' WHERE id = 4")]).await;
        let identity = format!("[[identity]]\ntable = '{taken}'\ncolumns = 'nid'\n");
        let relations = [identity, reference(tables), reference([tables[1], tables[0]])].concat();
        let relations = scene.file("r.toml", &relations);
        let plan = scene.json(3, &["restore", &name, "--missing", "--relations", &relations]);
        let reused = rows(&plan, "reused").into_iter().collect::<Vec<_>>();
        assert_eq!(reused, tables.map(|table| (table.to_owned(), 1)), "{taken}: {plan}");
    }
}

/// By its own number, the card under the stranger's key is the one that was there.
async fn an_identity_that_says_nothing_of_the_stranger_is_believed_too(engine: Engine) {
    let case = Case::new(engine, &[STRANGER[0], "INSERT INTO cards VALUES (4, 'c4')"]).await;
    let cards = case.scene.file("cards.toml", "[[identity]]\ntable = 'cards'\ncolumns = 'card'\n");
    let report = case.restore(3, &["--apply", "--relations", &cards]);
    let reused = rows(&report, "reused");
    assert_eq!((reused.get("people"), reused.get("cards")), (Some(&1), None), "{report}");
    assert_eq!(case.count("stamps WHERE card IN (4, 5)").await, 2, "{report}");
}

/// A new order has the key that the vanished order would get.
async fn what_is_new_at_the_rewritten_key_stands_for_nobody(engine: Engine) {
    for identity in
        ["[[identity]]\ntable = 'orders'\ncolumns = 'order_no'\n", "[[identity]]\ntable = 'orders'\ncolumns = []\n", ""]
    {
        let orders = "CREATE TABLE orders (pid BIGINT NOT NULL, no BIGINT NOT NULL, order_no BIGINT NOT NULL UNIQUE,
            PRIMARY KEY (pid, no), FOREIGN KEY (pid) REFERENCES people (id))";
        let scene = Scene::new(engine, &[TABLES[0], orders, TABLES[2]]).await;
        let sql = [
            "INSERT INTO people VALUES (4, 'N4')",
            "INSERT INTO orders VALUES (4, 1, 5)",
            "INSERT INTO items VALUES (41, 4, 1)",
        ];
        scene.execute_all(&sql).await;
        let name = scene.take().await.to_string();
        let sql = [
            "DELETE FROM items",
            "DELETE FROM orders",
            "DELETE FROM people",
            "INSERT INTO people VALUES (104, 'N4')",
            "INSERT INTO orders VALUES (104, 1, 900)",
        ];
        scene.execute_all(&sql).await;
        let people = "[[identity]]\ntable = 'people'\ncolumns = 'nid'\n";
        let relations = scene.file("r.toml", &format!("{people}{identity}"));
        let restore = ["restore", &name, "--missing", "--apply", "--relations", &relations];
        let report = scene.json(3, &restore);
        assert_eq!((rows(&report, "ambiguous")["orders"], rows(&report, "deferred")["items"]), (1, 1), "{report}");
        assert_eq!(scene.db.number("SELECT COUNT(*) FROM items").await, 0, "{identity}");
        // Once that key is free, the order is restored, and recognized later.
        scene.execute_all(&["DELETE FROM orders"]).await;
        for inserted in [2, 0] {
            let report = scene.json(0, &restore);
            assert_eq!(report["applied"]["inserted"], inserted, "{report}");
        }
        assert_eq!(scene.db.number("SELECT order_no FROM items JOIN orders USING (pid, no)").await, 5, "{identity}");
    }
}

async fn the_card_of_who_was_entered_again_is_hers_unless_its_identity_says_otherwise(engine: Engine) {
    for (columns, state) in [("[]", "mapped"), ("'card'", "ambiguous")] {
        let again = ["INSERT INTO people VALUES (104, 'N4')", "INSERT INTO cards VALUES (104, 'new')"];
        let case = Case::new(engine, &again).await;
        let cards = format!("[[identity]]\ntable = 'cards'\ncolumns = {columns}\n");
        let plan = case.restore(3, &["--relations", &case.scene.file("cards.toml", &cards)]);
        assert_eq!(rows(&plan, state)["cards"], 1, "{plan}");
    }
}

async fn what_goes_in_with_another_key_says_nothing_of_what_it_extends(engine: Engine) {
    let badges = "CREATE TABLE badges (id BIGINT NOT NULL PRIMARY KEY, FOREIGN KEY (id) REFERENCES cards (id))";
    let scene = Scene::new(engine, &[TABLES[0], TABLES[3], badges]).await;
    let sql =
        ["INSERT INTO people VALUES (4, 'N4')", "INSERT INTO cards VALUES (4, 'c4')", "INSERT INTO badges VALUES (4)"];
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    let sql =
        ["DELETE FROM badges", "DELETE FROM cards", "DELETE FROM people", "INSERT INTO people VALUES (104, 'N4')"];
    scene.execute_all(&sql).await;
    let plan = scene.json(3, &["restore", &name, "--missing"]);
    let groups = plan["report"]["groups"].as_array().unwrap();
    let missing: Vec<_> = groups.iter().filter(|group| group["state"] == "missing").collect();
    assert_eq!(missing.len(), 2, "{plan}");
    assert!(missing.iter().all(|group| group["reason"] == ""), "{plan}");
}

/// The stranger has a part with the same key as well, and no column says whose it is.
async fn what_hangs_on_a_row_that_goes_in_with_another_key_is_not_the_strangers(engine: Engine) {
    let lines = "CREATE TABLE parts (pid BIGINT NOT NULL, no BIGINT NOT NULL, part BIGINT NOT NULL,
        PRIMARY KEY (pid, no, part), FOREIGN KEY (pid, no) REFERENCES orders (pid, no))";
    let scene = Scene::new(engine, &[TABLES[0], TABLES[1], lines]).await;
    let sql = [
        "INSERT INTO people VALUES (4, 'N4')",
        "INSERT INTO orders VALUES (4, 1, 'same')",
        "INSERT INTO parts VALUES (4, 1, 1)",
    ];
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    // All of it is somebody else's by now, and the person was entered again.
    scene.execute_all(&["UPDATE people SET nid = 'STRANGER'", "INSERT INTO people VALUES (104, 'N4')"]).await;
    let relations = scene.file("r.toml", "[[identity]]\ntable = 'people'\ncolumns = 'nid'\n");
    for inserted in [2, 0] {
        let report = scene.json(0, &["restore", &name, "--missing", "--apply", "--relations", &relations]);
        assert_eq!(report["applied"]["inserted"], inserted, "{report}");
        for pid in [4, 104] {
            let parts = format!("SELECT COUNT(*) FROM parts WHERE pid = {pid}");
            assert_eq!(scene.db.number(&parts).await, 1, "{report}");
        }
    }
}

/// A client is a partner, with the same key: a line for one of them is a line for both. No claim on another row takes
/// that back.
async fn who_was_deleted_on_purpose_does_not_come_back_as_another_table_knows_her(engine: Engine) {
    let tables = [
        "CREATE TABLE partners (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(20) NOT NULL)",
        "CREATE TABLE clients (id BIGINT NOT NULL PRIMARY KEY, card VARCHAR(20) NULL,
            FOREIGN KEY (id) REFERENCES partners (id))",
        "CREATE TABLE patients (id BIGINT NOT NULL PRIMARY KEY, FOREIGN KEY (id) REFERENCES clients (id))",
        "CREATE TABLE events (id BIGINT NOT NULL PRIMARY KEY, partner BIGINT NOT NULL,
            FOREIGN KEY (partner) REFERENCES partners (id))",
    ];
    let scene = Scene::new(engine, &tables).await;
    let sql = [
        "INSERT INTO partners VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd'), (5, 'e')",
        "INSERT INTO clients VALUES (1, 'x'), (2, 'x'), (3, 'y'), (4, 'z'), (5, 'v')",
        "INSERT INTO patients VALUES (4)",
        "INSERT INTO events VALUES (1, 1), (3, 3), (4, 4), (5, 5)",
    ];
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    let sql = [
        "DELETE FROM events",
        "DELETE FROM patients",
        "DELETE FROM clients",
        "DELETE FROM partners",
        // Two clients claim this row.
        "INSERT INTO partners VALUES (50, 'x')",
        "INSERT INTO clients VALUES (50, 'x')",
    ];
    scene.execute_all(&sql).await;
    let relations = scene.file("r.toml", "[[identity]]\ntable = 'clients'\ncolumns = 'card'\n");
    let lines = scene.file("tombstones", "clients:3\npatients:4\n");
    let restore = ["restore", &name, "--missing", "--relations", &relations, "--tombstones", &lines];
    for more in [&[][..], &["--apply"]] {
        let report = scene.json(3, &[&restore[..], more].concat());
        let excluded = rows(&report, "excluded");
        assert_eq!((excluded["partners"], excluded["clients"], excluded["patients"]), (2, 2, 1), "{report}");
        assert_eq!((rows(&report, "ambiguous")["clients"], rows(&report, "deferred")["events"]), (2, 3), "{report}");
        let said = report["report"].to_string();
        assert!(said.contains("\"as its clients: as its patients: deleted on purpose\""), "{report}");
        assert!(said.contains("deleted on purpose: 2 of 2 line(s) match missing rows"), "{report}");
    }
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM partners").await, 2);
}
