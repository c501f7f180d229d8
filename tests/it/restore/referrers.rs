//! Which rows refer to others, and how often the database is asked.

use daymend::{
    args,
    db::{Arg, Mode},
    snapshot::restore::relations::Relations,
};

use super::{Scene, inserts, plans::Restore};
use crate::{
    on_both,
    support::{Engine, TestDb, server::Server},
};

on_both! {
    many_rows_asked_about_at_once_are_referred_to_as_each_by_itself;
}

const OWNERS: &str = "CREATE TABLE owners (id BIGINT NOT NULL PRIMARY KEY, code VARCHAR(20) NULL)";

const PARTS: &str = "CREATE TABLE parts (id BIGINT NOT NULL PRIMARY KEY, owner BIGINT NULL, code VARCHAR(20) NULL,
    whose VARCHAR(20) NULL, whose_id VARCHAR(20) NULL)";

/// A whole number, a text that databases compare in their own ways, and a number stored as text if another column says
/// so.
const RELATIONS: &str = "
[[reference]]
table = 'parts'
columns = 'owner'
parent = 'owners'

[[reference]]
table = 'parts'
columns = 'code'
parent = 'owners'
parent_columns = 'code'

[[reference]]
table = 'parts'
columns = 'whose_id'
type_column = 'whose'
parents = { owner = 'owners' }
";

/// One owner has more parts than are read at once, several have a code in common, and some have none.
async fn many_rows_asked_about_at_once_are_referred_to_as_each_by_itself(engine: Engine) {
    let scene = Scene::new(engine, &[OWNERS, PARTS]).await;
    let codes = ["NULL", "'a'", "'A'", "'a '", "'b'", "''", "'\u{e4}'"];
    let owner = |id: usize| format!("({id}, {})", codes[id % 15 % 7]);
    let part = |id: usize| match id % 5 {
        0 => format!("({id}, {}, {}, NULL, NULL)", 1 + id % 311, codes[id % 7]),
        1 => format!("({id}, NULL, NULL, 'owner', '{}')", 1 + id % 253),
        2 => format!("({id}, NULL, NULL, 'house', '{}')", 1 + id % 253),
        _ => format!("({id}, 77, NULL, NULL, NULL)"),
    };
    scene.execute_all(&inserts("owners", &(1..=300).map(owner).collect::<Vec<_>>())).await;
    scene.execute_all(&inserts("parts", &(1..=30_000).map(part).collect::<Vec<_>>())).await;
    let name = scene.take().await;
    let relations = Relations::parse("r.toml", RELATIONS).unwrap();
    let restore = Restore::by(&scene, name, &scene.db.admin, &[], relations).await;
    let context = &restore.context;
    let mut tx = context.live.db.begin(Mode::Snapshot).await.unwrap();
    let owners = context.number("owners").unwrap();
    let shape = &context.shapes[owners];
    let rows = context.live.pages(shape).next(&mut tx).await.unwrap().unwrap();
    let last: Vec<Vec<Arg>> = (60..=300).map(|id| vec![Arg::Int(id)]).collect();
    let rest = context.live.lookup(&mut tx, shape, &shape.key, &last, false).await.unwrap();
    let rows: Vec<&[Arg]> = rows.iter().chain(rest.iter().flatten()).map(Vec::as_slice).collect();
    assert!(rows.len() > 240);
    let mut all = 0;
    for link in &context.links {
        for limit in [3, 1000] {
            let found = link.referrers_of_each(&mut tx, &context.live, &context.shapes, &rows, limit).await.unwrap();
            assert_eq!(found.len(), rows.len());
            for (row, mut found) in rows.iter().zip(found) {
                let mut one = link.referrers(&mut tx, &context.live, &context.shapes, row, limit).await.unwrap();
                assert_eq!(found.len(), one.len(), "{}: {row:?}", link.reference.text());
                // Where there are more than that, they may be others.
                if found.len() < limit {
                    let key = |key: &Vec<Arg>| format!("{key:?}");
                    found.sort_by_key(key);
                    one.sort_by_key(key);
                    assert_eq!(found, one, "{}: {row:?}", link.reference.text());
                    all += found.len();
                }
            }
        }
    }
    assert!(all > 5_000, "{all}");
}

/// How often a statement was sent.
async fn sent(db: &TestDb, name: &str) -> i64 {
    db.number(&format!(
        "SELECT COUNT(*) FROM mysql.general_log WHERE command_type = 'Execute'
            AND CONVERT(argument USING utf8mb4) LIKE '-- daymend: {name}%'"
    ))
    .await
}

/// A server that writes down every statement.
async fn logging(name: &str, tables: &[&str]) -> (Server, Scene) {
    let server = Server::start(name).expect("MariaDB starts");
    let scene = Scene::on(TestDb::on_server(server.port).await, tables).await;
    for sql in ["SET GLOBAL log_output = 'TABLE'", "SET GLOBAL general_log = 1"] {
        scene.db.execute(sql, args![]).await;
    }
    (server, scene)
}

/// Without an index, each question reads the whole table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_refers_to_a_page_of_rows_is_one_question() {
    let (_server, scene) = logging("referrers", &[OWNERS, PARTS]).await;
    let rows = |count: i64, row: fn(i64) -> String| (1..=count).map(row).collect::<Vec<_>>();
    let mut sql = inserts("owners", &rows(600, |id| format!("({id}, 'c{id}')")));
    sql.extend(inserts("parts", &rows(1200, |id| format!("({id}, {}, NULL, NULL, NULL)", 1 + id % 600))));
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    // The parts of the first hundred owners stay, and refer to nobody.
    scene.execute_all(&["DELETE FROM parts WHERE owner > 100", "DELETE FROM owners"]).await;
    let reference = "[[reference]]\ntable = 'parts'\ncolumns = 'owner'\nparent = 'owners'\n";
    let nobody = "[[identity]]\ntable = 'owners'\ncolumns = 'code'\n";
    let relations = scene.file("r.toml", &format!("{reference}{nobody}"));
    let asked = async || sent(&scene.db, "restore referrers").await;
    let restore = ["restore", &name, "--missing", "--apply", "--relations", &relations];
    assert_eq!(scene.json(0, &restore)["applied"]["inserted"], 1600);
    let restored = asked().await;
    assert!((3..=8).contains(&restored), "{restored} for 600 owners");
    let undo = scene.path("undo.jsonl").display().to_string();
    assert_eq!(scene.json(0, &["undo", &undo])["removed"], 1600);
    let undone = asked().await - restored;
    assert!((3..=16).contains(&undone), "{undone} for 600 owners");
    // They are entered again under other keys.
    scene
        .execute_all(&["INSERT INTO owners SELECT id + 1000, CONCAT('c', id) FROM (SELECT id FROM parts
        UNION SELECT id + 1200 FROM parts) AS ids WHERE id <= 600"])
        .await;
    let planned = scene.json(3, &["restore", &name, "--missing", "--relations", &relations]);
    assert!(planned["report"]["stale"][0]["rows"].as_i64() > Some(0), "{planned}");
    let stale = asked().await - restored - undone;
    assert!((1..=8).contains(&stale), "{stale}");
}

/// What a trigger has removed by then may be entered by somebody else the next moment: nothing is locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_when_it_should_be_taken_out_is_not_deleted() {
    let tables = [
        "CREATE TABLE guests (id BIGINT NOT NULL PRIMARY KEY, leads BIGINT NULL)",
        "CREATE TABLE members (id BIGINT NOT NULL PRIMARY KEY, leads BIGINT NULL)",
        "CREATE TABLE teams (id BIGINT NOT NULL PRIMARY KEY, guest BIGINT NOT NULL, member BIGINT NOT NULL,
            code VARCHAR(20) NULL UNIQUE)",
    ];
    let (_server, scene) = logging("gone", &tables).await;
    let sql = [
        "INSERT INTO guests VALUES (2, 20)",
        "INSERT INTO members VALUES (2, 20)",
        "INSERT INTO teams VALUES (20, 2, 2, 'b')",
    ];
    scene.execute_all(&sql).await;
    let name = scene.take().await.to_string();
    let sql = [
        "DELETE FROM teams",
        "DELETE FROM guests",
        "DELETE FROM members",
        "INSERT INTO teams VALUES (99, 1, 1, 'b')",
        "CREATE TRIGGER follow AFTER DELETE ON guests FOR EACH ROW DELETE FROM members WHERE id = OLD.id",
    ];
    scene.execute_all(&sql).await;
    let reference = |table: &str, column: &str, parent: &str| {
        format!("[[reference]]\ntable = '{table}'\ncolumns = '{column}'\nparent = '{parent}'\n")
    };
    let references = [
        ("guests", "leads", "teams"),
        ("members", "leads", "teams"),
        ("teams", "guest", "guests"),
        ("teams", "member", "members"),
    ];
    let references: String = references.map(|(table, column, parent)| reference(table, column, parent)).concat();
    let relations = scene.file("r.toml", &format!("{references}[[identity]]\ntable = 'teams'\ncolumns = []\n"));
    let report = scene.json(3, &["restore", &name, "--missing", "--apply", "--relations", &relations]);
    assert_eq!(sent(&scene.db, "restore insert").await, 3, "{report}");
    let left = "SELECT (SELECT COUNT(*) FROM guests) + (SELECT COUNT(*) FROM members)";
    assert_eq!(scene.db.number(left).await, 0, "{report}");
    assert_eq!(sent(&scene.db, "restore delete").await, 1, "{report}");
}
