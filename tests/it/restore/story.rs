//! The case of the third seed document, at its size: 195 of 15,446 partners vanish with everything that refers to them.
//! Six are entered again from their cards, and one's number is taken over by a partner who already existed.

use std::collections::BTreeMap;

use super::{Scene, differences, inserts, rows};
use crate::{on_both, support::Engine};

on_both! {
    a_long_weekend_takes_four_commands;
}

const TABLES: [&str; 10] = [
    "CREATE TABLE partners (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(80) NOT NULL, balance DECIMAL(12, 2) NULL,
        created_at DATETIME(6) NOT NULL)",
    "CREATE TABLE clients (id BIGINT NOT NULL PRIMARY KEY, national_id VARCHAR(20) NULL UNIQUE,
        FOREIGN KEY (id) REFERENCES partners (id))",
    "CREATE TABLE grantings (id BIGINT NOT NULL PRIMARY KEY, client_id BIGINT NOT NULL, until DATE NULL,
        FOREIGN KEY (client_id) REFERENCES clients (id))",
    "CREATE TABLE confirmations (id BIGINT NOT NULL PRIMARY KEY, granting_id BIGINT NOT NULL, client_id BIGINT NOT NULL,
        FOREIGN KEY (granting_id) REFERENCES grantings (id), FOREIGN KEY (client_id) REFERENCES clients (id))",
    "CREATE TABLE notes (id BIGINT NOT NULL PRIMARY KEY, client_id BIGINT NOT NULL, body VARCHAR(200) NULL,
        FOREIGN KEY (client_id) REFERENCES clients (id))",
    "CREATE TABLE events (id BIGINT NOT NULL PRIMARY KEY, partner_id BIGINT NULL, title VARCHAR(80) NOT NULL,
        FOREIGN KEY (partner_id) REFERENCES partners (id))",
    "CREATE TABLE guests (id BIGINT NOT NULL PRIMARY KEY, event_id BIGINT NOT NULL, partner_id BIGINT NOT NULL,
        UNIQUE (event_id, partner_id),
        FOREIGN KEY (event_id) REFERENCES events (id), FOREIGN KEY (partner_id) REFERENCES partners (id))",
    "CREATE TABLE coachings (id BIGINT NOT NULL PRIMARY KEY, client_id BIGINT NOT NULL, coach_id BIGINT NULL,
        FOREIGN KEY (client_id) REFERENCES clients (id), FOREIGN KEY (coach_id) REFERENCES partners (id))",
    "CREATE TABLE contacts (id BIGINT NOT NULL PRIMARY KEY, client_id BIGINT NOT NULL, phone VARCHAR(30) NULL)",
    "CREATE TABLE words (id BIGINT NOT NULL PRIMARY KEY, owner_type VARCHAR(20) NOT NULL, owner_id VARCHAR(20) NOT NULL,
        word VARCHAR(40) NOT NULL)",
];

const RELATIONS: &str = r#"
[[identity]]
table = "clients"
columns = "national_id"

[[reference]]
table = "contacts"
columns = "client_id"
parent = "clients"

[[reference]]
table = "words"
columns = "owner_id"
type_column = "owner_type"
parents = { client = "clients", partner = "partners" }
"#;

const FIRST: i64 = 3000;
const PARTNERS: i64 = 15_446;
/// Who vanishes and is entered again, and under which id.
const AGAIN: [(i64, i64); 6] =
    [(4011, 30001), (4437, 30002), (5150, 30003), (7264, 30004), (9350, 30005), (11093, 30006)];
/// Whose number is taken over, and by whom.
const TAKEN: (i64, i64) = (6655, 12148);
/// Lists the others who vanish: 188, one in eighty.
fn others() -> Vec<i64> {
    (0..188).map(|n| FIRST + 1 + n * 80).filter(|id| *id != TAKEN.0).collect()
}

fn number_of(id: i64) -> String {
    format!("{:06} {:03}-{:02}", id * 37 % 1_000_000, id % 1000, id % 97)
}

async fn fill(scene: &Scene) {
    let ids = || FIRST..FIRST + PARTNERS;
    let all = |row: &dyn Fn(i64) -> String| ids().map(row).collect::<Vec<String>>();
    let mut sql = inserts(
        "partners",
        &all(&|id| format!("({id}, 'Partner {id}', {}.50, '2015-01-02 03:04:05.000006')", id % 90)),
    );
    sql.extend(inserts("clients", &all(&|id| format!("({id}, '{}')", number_of(id)))));
    sql.extend(inserts("grantings", &all(&|id| format!("({id}, {id}, '2015-05-31')"))));
    sql.extend(inserts("confirmations", &all(&|id| format!("({id}, {id}, {id})"))));
    sql.extend(inserts("notes", &all(&|id| format!("({id}, {id}, 'was here'), ({}, {id}, NULL)", id + 100_000))));
    sql.extend(inserts("events", &all(&|id| format!("({id}, {id}, 'first talk')"))));
    let next = |id: i64| FIRST + (id - FIRST + 1) % PARTNERS;
    sql.extend(inserts("guests", &all(&|id| format!("({id}, {id}, {})", next(id)))));
    sql.extend(inserts(
        "coachings",
        &all(&|id| format!("({id}, {id}, {})", if id % 3 == 0 { next(id).to_string() } else { "NULL".to_owned() })),
    ));
    sql.extend(inserts("contacts", &all(&|id| format!("({id}, {id}, '+32 {id}')"))));
    sql.extend(inserts(
        "words",
        &all(&|id| format!("({id}, '{}', '{id}', 'w')", if id % 2 == 0 { "client" } else { "partner" })),
    ));
    scene.execute_all(&sql).await;
}

/// Deletes the rows with everything that refers to them, then enters some people again.
async fn lose(scene: &Scene) {
    let mut gone: Vec<i64> = others();
    gone.extend(AGAIN.map(|(old, _)| old));
    gone.push(TAKEN.0);
    let list = gone.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
    let mut sql: Vec<String> = [
        "DELETE FROM words WHERE CAST(owner_id AS DECIMAL) IN (LIST)",
        "DELETE FROM contacts WHERE client_id IN (LIST)",
        "DELETE FROM coachings WHERE client_id IN (LIST) OR coach_id IN (LIST)",
        "DELETE FROM guests WHERE partner_id IN (LIST) OR event_id IN (LIST)",
        "DELETE FROM events WHERE partner_id IN (LIST)",
        "DELETE FROM notes WHERE client_id IN (LIST)",
        "DELETE FROM confirmations WHERE client_id IN (LIST)",
        "DELETE FROM grantings WHERE client_id IN (LIST)",
        "DELETE FROM clients WHERE id IN (LIST)",
        "DELETE FROM partners WHERE id IN (LIST)",
    ]
    .map(|sql| sql.replace("LIST", &list))
    .to_vec();
    for (old, new) in AGAIN {
        sql.push(format!("INSERT INTO partners VALUES ({new}, 'Partner {old}, again', NULL, '2015-06-15 08:00:00')"));
        sql.push(format!("INSERT INTO clients VALUES ({new}, '{}')", number_of(old)));
        sql.push(format!("INSERT INTO notes VALUES ({}, {new}, 'read the card again')", 300_000 + new));
    }
    sql.push(format!("UPDATE clients SET national_id = '{}' WHERE id = {}", number_of(TAKEN.0), TAKEN.1));
    sql.push(format!("INSERT INTO notes VALUES (400000, {}, 'has another number now')", TAKEN.1));
    scene.execute_all(&sql).await;
}

/// Counts references of every kind to rows that do not exist.
async fn orphans(scene: &Scene) -> i64 {
    let mut found = 0;
    for (table, column, parent) in [
        ("clients", "id", "partners"),
        ("grantings", "client_id", "clients"),
        ("confirmations", "granting_id", "grantings"),
        ("confirmations", "client_id", "clients"),
        ("notes", "client_id", "clients"),
        ("events", "partner_id", "partners"),
        ("guests", "event_id", "events"),
        ("guests", "partner_id", "partners"),
        ("coachings", "client_id", "clients"),
        ("coachings", "coach_id", "partners"),
        ("contacts", "client_id", "clients"),
    ] {
        let sql = format!(
            "SELECT COUNT(*) FROM {table} c LEFT JOIN {parent} p ON p.id = c.{column} WHERE c.{column} IS NOT NULL AND p.id IS NULL"
        );
        found += scene.db.number(&sql).await;
    }
    for (kind, parent) in [("client", "clients"), ("partner", "partners")] {
        let sql = format!(
            "SELECT COUNT(*) FROM words c LEFT JOIN {parent} p ON p.id = CAST(c.owner_id AS DECIMAL) WHERE c.owner_type = '{kind}' AND p.id IS NULL"
        );
        found += scene.db.number(&sql).await;
    }
    found
}

async fn a_long_weekend_takes_four_commands(engine: Engine) {
    let scene = Scene::new(engine, &TABLES).await;
    fill(&scene).await;
    let before = scene.take().await.to_string();
    lose(&scene).await;
    let lost = scene.dump().await;
    let relations = scene.file("relations.toml", RELATIONS);
    let with = |command: &[&'static str]| -> Vec<String> {
        let mut args: Vec<String> = command.iter().map(|arg| arg.replace("SNAP", &before)).collect();
        args.extend(["--relations".to_owned(), relations.clone()]);
        args
    };
    fn refs(args: &[String]) -> Vec<&str> {
        args.iter().map(String::as_str).collect()
    }

    // What is missing, and what vanished with it.
    let diff = scene.json(3, &refs(&with(&["diff", "SNAP"])));
    let counts = differences(&diff[0]);
    assert_eq!(counts["partners"], [195, 6, 0, 0]);
    assert_eq!(counts["clients"], [195, 6, 0, 1], "one is somebody else now");
    assert_eq!(counts["notes"][0], 390);
    let with_clients = diff[0]["tables"].as_array().unwrap().iter().find(|table| table["table"] == "notes").unwrap();
    assert_eq!(with_clients["with"]["notes(client_id) -> clients"], 390);
    println!("$ daymend snapshot diff {before}\n{}", scene.run(3, &refs(&with(&["diff", "SNAP", "--samples", "2"]))));

    // The plan, which writes nothing.
    let plan = scene.json(3, &refs(&with(&["restore", "SNAP", "--missing"])));
    assert_eq!(scene.dump().await, lost, "a plan writes nothing");
    let expected = |pairs: &[(&str, i64)]| -> BTreeMap<String, i64> {
        pairs.iter().map(|(table, rows)| ((*table).to_owned(), *rows)).collect()
    };
    assert_eq!(rows(&plan, "mapped"), expected(&[("partners", 6), ("clients", 6)]));
    assert_eq!(rows(&plan, "taken_over"), expected(&[("partners", 1), ("clients", 1)]));
    assert_eq!(rows(&plan, "reused"), expected(&[("clients", 1)]));
    assert_eq!(rows(&plan, "missing")["partners"], 188);
    println!(
        "$ daymend snapshot restore {before} --missing\n{}",
        scene.run(3, &refs(&with(&["restore", "SNAP", "--missing", "--samples", "3"])))
    );

    // The restore itself.
    let done = scene.run(3, &refs(&with(&["restore", "SNAP", "--missing", "--apply", "--samples", "3"])));
    println!("$ daymend snapshot restore {before} --missing --apply\n{done}");
    assert_eq!(orphans(&scene).await, 0, "no orphan");
    let list = |ids: &[i64]| ids.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
    assert_eq!(scene.db.number(&format!("SELECT COUNT(*) FROM partners WHERE id IN ({})", list(&others()))).await, 188);
    for (old, new) in AGAIN {
        assert_eq!(scene.db.number(&format!("SELECT COUNT(*) FROM partners WHERE id = {old}")).await, 0);
        assert_eq!(
            scene.db.number(&format!("SELECT COUNT(*) FROM notes WHERE client_id = {new}")).await,
            3,
            "two old notes and a new one"
        );
        assert_eq!(scene.db.number(&format!("SELECT client_id FROM grantings WHERE id = {old}")).await, new);
        assert_eq!(scene.db.text(&format!("SELECT owner_id FROM words WHERE id = {old}")).await, new.to_string());
    }
    // Nobody got what belongs to somebody else.
    assert_eq!(scene.db.number(&format!("SELECT COUNT(*) FROM notes WHERE client_id = {}", TAKEN.1)).await, 3);
    assert_eq!(scene.db.number(&format!("SELECT COUNT(*) FROM partners WHERE id = {}", TAKEN.0)).await, 0);
    assert!(done.contains(&number_of(TAKEN.0)), "both sides are shown");

    // What still differs was reported: six have new ids, and one is quarantined with everything that refers to it.
    let rest = scene.json(3, &refs(&with(&["diff", "SNAP"])));
    let rest = differences(&rest[0]);
    assert_eq!((rest["partners"][0], rest["clients"][0], rest["notes"][0], rest["grantings"][0]), (7, 7, 2, 1));
    assert_eq!(rest["grantings"], [1, 0, 6, 0], "references were rewritten, and nothing else");
    let again = scene.json(3, &refs(&with(&["restore", "SNAP", "--missing", "--apply"])));
    assert_eq!(again["applied"]["inserted"], 0, "nothing is restored twice");

    // The undo, exact to the byte.
    let undo = scene.path("undo.jsonl").display().to_string();
    println!(
        "$ daymend snapshot undo\n{}",
        scene.run(
            0,
            &refs(&with(&["undo", "UNDO"]))
                .iter()
                .map(|arg| if *arg == "UNDO" { undo.as_str() } else { arg })
                .collect::<Vec<_>>()
        )
    );
    assert!(scene.dump().await == lost, "undo leaves the database as it was");
}
