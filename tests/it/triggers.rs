//! `daymend triggers`: installed once, removed without a trace, and without effect on a user's statement.

use std::{
    cell::Cell,
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use daymend::{
    args,
    db::{Mode, Query},
};

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        lab_system::Bill,
        process::{run_fails, run_ok, run_says},
        server::{self, ADMIN, PASSWORD, Product, Server},
    },
};

const USAGE: i32 = 2;

on_both! {
    triggers_are_installed_once_and_removed_without_a_trace;
    triggers_of_a_table_that_was_renamed_are_found_and_moved;
    an_older_trigger_is_replaced_and_one_of_somebody_else_is_not;
    what_show_prints_does_the_same_as_install;
    a_users_statement_does_not_notice_the_triggers;
    only_triggers_that_write_to_the_summary_are_named;
}

async fn names(db: &TestDb) -> Vec<String> {
    let sql = match db.engine {
        Engine::MariaDb => {
            "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = DATABASE() ORDER BY 1"
        }
        Engine::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'trigger' ORDER BY 1",
    };
    db.rows(sql, vec![]).await.iter().map(|row| row.text(0).unwrap()).collect()
}

fn expected(engine: Engine) -> usize {
    // SQLite has two more for each table, because of REPLACE.
    if engine == Engine::MariaDb { 15 } else { 25 }
}

async fn triggers_are_installed_once_and_removed_without_a_trace(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.install_delta_triggers().await;
    assert!(run_ok(&db, &["triggers", "install", "--dry-run"]).contains("would create daymend_billing_insert"));
    assert_eq!(names(&db).await, ["billing_delta"]);
    let first = run_ok(&db, &["triggers", "install"]);
    assert_eq!(first.matches("created daymend_").count(), expected(engine), "{first}");
    assert!(first.contains("billing_delta also writes to operation_historical_summary"), "{first}");
    assert_eq!(names(&db).await.len(), expected(engine) + 1);
    let again = run_ok(&db, &["triggers", "install"]);
    assert!(again.contains("nothing to do") && !again.contains("created"), "{again}");
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.add_bill(1, 1, &Bill { at: "2026-06-10T06:00:00Z".parse().unwrap(), ..Bill::default() }).await;
    assert_eq!(db.marks().await, 1, "and none from the test of the privilege at the install");
    assert!(run_ok(&db, &["triggers", "remove", "--dry-run"]).contains("would drop daymend_allTests_insert"));
    let removed = run_ok(&db, &["triggers", "remove"]);
    assert_eq!(removed.matches("dropped daymend_").count(), expected(engine), "{removed}");
    assert_eq!(names(&db).await, ["billing_delta"]);
    assert!(run_ok(&db, &["triggers", "remove"]).contains("nothing to do"));
}

/// Replaces `billing` as an online schema change does: another table takes its name; the triggers stay with the old.
async fn put_another_in_the_place_of_billing(db: &TestDb, old: &str) {
    let steps = match db.engine {
        Engine::MariaDb => [
            "CREATE TABLE billing_new LIKE billing".to_owned(),
            format!("RENAME TABLE billing TO {old}, billing_new TO billing"),
        ],
        Engine::Sqlite => {
            [format!("ALTER TABLE billing RENAME TO {old}"), format!("CREATE TABLE billing AS SELECT * FROM {old}")]
        }
    };
    for step in steps {
        db.execute(&step, vec![]).await;
    }
}

async fn triggers_of_a_table_that_was_renamed_are_found_and_moved(engine: Engine) {
    let db = TestDb::new(engine).await;
    run_ok(&db, &["triggers", "install"]);
    put_another_in_the_place_of_billing(&db, "billing_old").await;
    let said = run_ok(&db, &["triggers", "install"]);
    assert!(said.contains("replaced daymend_billing_insert") && !said.contains("billingInfo"), "{said}");
    assert_eq!(names(&db).await.len(), expected(engine));
    let bill = "INSERT INTO billing (id, lab_id, billTime, modified_at, isCancelled) VALUES (1, 1, '2026-06-10', '2026-06-10', 0)";
    db.execute(bill, vec![]).await;
    assert_eq!(db.marks().await, 1, "the triggers are on the new table");
    db.execute(&bill.replace("billing", "billing_old"), vec![]).await;
    assert_eq!(db.marks().await, 1, "and only there");
    // Triggers that are left on a renamed table are removed as well.
    put_another_in_the_place_of_billing(&db, "billing_older").await;
    run_ok(&db, &["triggers", "remove"]);
    assert_eq!(names(&db).await, Vec::<String>::new());
}

async fn an_older_trigger_is_replaced_and_one_of_somebody_else_is_not(engine: Engine) {
    let db = TestDb::new(engine).await;
    let older = "CREATE TRIGGER daymend_billing_update AFTER UPDATE ON billing FOR EACH ROW
                 BEGIN INSERT INTO daymend_dirty (lab_id, marked_at) VALUES (NEW.lab_id, '2026-01-01'); END";
    db.execute(older, vec![]).await;
    let said = run_ok(&db, &["triggers", "install"]);
    assert!(said.contains("replaced daymend_billing_update") && said.contains("repair the last few days"), "{said}");
    assert!(run_ok(&db, &["triggers", "install"]).contains("nothing to do"));
    run_ok(&db, &["triggers", "remove"]);
    let foreign = "CREATE TRIGGER daymend_billing_insert AFTER INSERT ON billing FOR EACH ROW
                   BEGIN INSERT INTO operation_event_log (event_name, status, created_at) VALUES ('x', 'y', '2026-01-01'); END";
    db.execute(foreign, vec![]).await;
    let error = run_fails(&db, USAGE, &["triggers", "install"]);
    assert!(error.contains("a trigger named daymend_billing_insert exists, but is not daymend's"), "{error}");
    assert_eq!(names(&db).await, ["daymend_billing_insert"]);
    run_ok(&db, &["triggers", "remove"]);
    assert_eq!(names(&db).await, ["daymend_billing_insert"], "not ours to drop");
}

async fn only_triggers_that_write_to_the_summary_are_named(engine: Engine) {
    let db = TestDb::new(engine).await;
    for (name, what) in [
        ("reader", "INSERT INTO operation_event_log (event_name, status, created_at)
                    SELECT 'UPDATE operation_historical_summary', COUNT(*), '2026-01-01' FROM operation_historical_summary"),
        ("writer", "DELETE FROM operation_historical_summary WHERE lab_id = OLD.lab_id"),
    ] {
        db.execute(&format!("CREATE TRIGGER {name} AFTER DELETE ON billing FOR EACH ROW BEGIN {what}; END"), vec![]).await;
    }
    let said = run_ok(&db, &["triggers", "install"]);
    assert!(said.contains("writer also writes to operation_historical_summary") && !said.contains("reader"), "{said}");
}

/// On MariaDB there is no moment without the trigger, so that no change goes unmarked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_that_is_replaced_is_never_missing() {
    let db = TestDb::new(Engine::MariaDb).await;
    let rollups = crate::support::work::rollups();
    let rollup = rollups.get(daymend::rollup::HISTORICAL_SUMMARY).unwrap();
    let watch = rollup.watch.as_ref().unwrap();
    let install = async || daymend::triggers::install(&db.admin, watch, &rollup.summary.table, false).await.unwrap();
    install().await;
    let looking = tokio_util::sync::CancellationToken::new();
    let looks = Cell::new(0);
    let look = async {
        while !looking.is_cancelled() {
            assert_eq!(names(&db).await.len(), 15);
            looks.set(looks.get() + 1);
        }
    };
    let replace = async {
        let mut rounds = 0;
        while rounds < 20 || looks.get() < 100 {
            rounds += 1;
            for older in names(&db).await {
                let (table, event) = older.strip_prefix("daymend_").unwrap().rsplit_once('_').unwrap();
                let sql = format!(
                    "CREATE OR REPLACE TRIGGER {older} AFTER {event} ON {table} FOR EACH ROW
                     INSERT INTO daymend_dirty (marked_at) VALUES ('2026-01-01')"
                );
                db.execute(&sql, vec![]).await;
            }
            assert_eq!(install().await.replaced.len(), 15);
        }
        looking.cancel();
    };
    tokio::join!(look, replace);
}

/// Runs a script in the database's own client.
fn apply(db: &TestDb, script: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), script).unwrap();
    let mut client = match db.engine {
        Engine::MariaDb => {
            let rest = db.triggers_url.strip_prefix("mysql://admin:").unwrap();
            let (password, rest) = rest.split_once("@127.0.0.1:").unwrap();
            let (port, name) = rest.split_once('/').unwrap();
            let mut client = Command::new("mariadb");
            client.args([
                "--no-defaults",
                "-h127.0.0.1",
                "-uadmin",
                &format!("-p{password}"),
                &format!("-P{port}"),
                name,
            ]);
            client
        }
        Engine::Sqlite => {
            let mut client = Command::new("sqlite3");
            client.args(["-bail", db.url.strip_prefix("sqlite:").unwrap()]);
            client
        }
    };
    let output = client.stdin(Stdio::from(fs::File::open(file.path()).unwrap())).output();
    let output =
        output.expect("the clients are installed (`apt-get install mariadb-client sqlite3`, or run tests/run)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn what_show_prints_does_the_same_as_install(engine: Engine) {
    let db = TestDb::new(engine).await;
    let script = run_ok(&db, &["triggers", "show"]);
    apply(&db, &script);
    apply(&db, &script);
    assert_eq!(names(&db).await.len(), expected(engine));
    assert!(run_ok(&db, &["triggers", "install"]).contains("nothing to do"), "both give the same triggers");
    db.execute("UPDATE billing SET isCancelled = 1", vec![]).await;
    let other =
        run_ok(&db, &["triggers", "show", "--for", if engine == Engine::MariaDb { "sqlite" } else { "mariadb" }]);
    assert_ne!(other, script);
    assert!(run_ok(&db, &["--json", "triggers", "show"]).contains("\"daymend_billing_delete\""));
}

async fn a_users_statement_does_not_notice_the_triggers(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.install_dirty_triggers().await;
    // Marks have ids of their own, which must not become the last insert id of the user's statement.
    db.execute("INSERT INTO daymend_dirty (id, marked_at) VALUES (5000, '2026-01-01 00:00:00')", vec![]).await;
    let mut tx = db.admin.begin(Mode::Write).await.unwrap();
    let insert = "INSERT INTO billing (lab_id, billTime, isCancelled, modified_at) VALUES (1, '2026-06-10 06:00:00', 0, '2026-06-10 06:00:00')";
    for id in 1..=3 {
        assert_eq!(tx.insert(Query::new("bill", insert), args![]).await.unwrap(), id);
    }
    let cancel = "UPDATE billing SET isCancelled = 1";
    assert_eq!(tx.execute(Query::new("cancel", cancel), args![]).await.unwrap(), 3);
    tx.rollback().await.unwrap();
    assert_eq!(db.marks().await, 1, "what is rolled back leaves no mark");
}

/// A failure inside a trigger costs the mark, not the user's statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_that_fails_does_not_fail_the_users_statement() {
    let db = TestDb::new(Engine::MariaDb).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.add_test(1, Some(1)).await;
    db.add_bill(1, 1, &Bill { at: "2026-06-10T06:00:00Z".parse().unwrap(), ..Bill::default() }).await;
    db.install_dirty_triggers().await;
    let all = [
        "UPDATE billing SET isCancelled = 1 - isCancelled, billTime = billTime + INTERVAL 1 DAY",
        "INSERT INTO labReportRelation (billing_id, test_id) VALUES (1, 1)",
        "UPDATE allTests SET department_id = department_id + 1",
        "DELETE FROM labReportRelation",
    ];
    for broken in [
        "ALTER TABLE daymend_dirty MODIFY marked_at DATE NOT NULL, ADD CHECK (lab_id <> 1), ADD CHECK (bill_id <> 1)",
        "ALTER TABLE daymend_dirty DROP COLUMN bill_time",
        "RENAME TABLE daymend_dirty TO somewhere_else",
    ] {
        db.execute(broken, vec![]).await;
        for sql in all {
            assert_eq!(db.execute(sql, vec![]).await, 1, "{broken}; {sql}");
        }
    }
    assert_eq!(db.number("SELECT DAY(billTime) FROM billing").await, 13, "each statement was carried out");
}

/// A dump holds the triggers as the server shows them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn triggers_that_a_dump_brings_back_are_right() {
    let db = TestDb::new(Engine::MariaDb).await;
    db.install_dirty_triggers().await;
    let name = db.name();
    for more in ["", "--skip-comments"] {
        let script = format!(
            "client='--host=127.0.0.1 --port={} --user={ADMIN} --password={PASSWORD}'
             tables='billing billingInfo labReportRelation collectedSample allTests'
             mariadb-dump --no-defaults $client {name} $tables >{name}.sql
             mariadb --no-defaults $client {more} {name} <{name}.sql",
            server::port(&db.url)
        );
        let dir = tempfile::tempdir().unwrap();
        let output = Command::new("bash").args(["-euxc", &script]).current_dir(&dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let again = run_ok(&db, &["triggers", "install", "--dry-run"]);
        assert!(again.contains("nothing to do"), "{again}");
        assert_eq!(names(&db).await.len(), 15);
    }
}

/// With its checks off, as loaders of dumps have them, MariaDB inserts into an empty table in bulk: it locks the whole
/// table, and a statement that fails takes the earlier ones of its transaction along.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_without_checks_keeps_nobody_waiting_and_loses_no_row() {
    let db = TestDb::new(Engine::MariaDb).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.add_bill(1, 1, &Bill { at: "2026-06-10T06:00:00Z".parse().unwrap(), ..Bill::default() }).await;
    db.install_dirty_triggers().await;
    let bill = |id: i64| {
        let values = format!("({id}, 1, '2026-06-10 06:00:00', 0, '2026-06-10 06:00:00')");
        format!("INSERT INTO billing (id, lab_id, billTime, isCancelled, modified_at) VALUES {values}")
    };
    let mut loader = db.admin.begin(Mode::Write).await.unwrap();
    let mut load = async |sql: &str| loader.execute(Query::new("load", sql), args![]).await;
    load("SET SESSION unique_checks = 0, foreign_key_checks = 0").await.unwrap();
    load(&bill(11)).await.unwrap();
    // Another user's bill is not kept waiting by the first mark.
    tokio::time::timeout(Duration::from_secs(4), db.execute(&bill(12), args![])).await.expect("a free table of marks");
    load(&bill(1)).await.expect_err("a bill that exists");
    load(&bill(13)).await.unwrap();
    loader.commit().await.unwrap();
    assert_eq!(db.number("SELECT COUNT(*) FROM billing").await, 4, "11 is there although a later one failed");
    assert_eq!(db.marks().await, 3);
}

/// MariaDB lets no trigger write marks while the user holds a table: the statement goes on without them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_locks_tables_is_not_disturbed() {
    let db = TestDb::new(Engine::MariaDb).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.add_bill(1, 1, &Bill { at: "2026-06-10T06:00:00Z".parse().unwrap(), ..Bill::default() }).await;
    db.install_dirty_triggers().await;
    let mut session = db.admin.begin(Mode::Write).await.unwrap();
    session.execute_text("lock", "LOCK TABLES billing WRITE").await.unwrap();
    let changed = session.execute(Query::new("locked", "UPDATE billing SET isCancelled = 1"), args![]).await.unwrap();
    session.execute_text("unlock", "UNLOCK TABLES").await.unwrap();
    session.commit().await.unwrap();
    assert_eq!(changed, 1);
    assert_eq!(db.marks().await, if Product::tested() == Product::MariaDb { 0 } else { 1 });
    assert_eq!(db.number("SELECT isCancelled FROM billing").await, 1);
}

/// An account that lacks a privilege is told which one, and no triggers are left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_rights_are_named_and_nothing_is_half_done() {
    let mut db = TestDb::new(Engine::MariaDb).await;
    let name = db.text("SELECT DATABASE()").await;
    let all = db.triggers_url.clone();
    let (_, place) = all.split_once('@').unwrap();
    let url = format!("mysql://{name}_op:secret@{place}");
    db.execute(&format!("CREATE USER {name}_op@'%' IDENTIFIED BY 'secret'"), vec![]).await;
    db.execute(&format!("GRANT SELECT, UPDATE, DELETE ON {name}.* TO {name}_op@'%'"), vec![]).await;
    db.triggers_url.clone_from(&url);
    let refused = |db: &TestDb| {
        for more in [&["--dry-run"][..], &[]] {
            let error = run_fails(db, USAGE, &[&["triggers", "install"], more].concat());
            assert!(error.contains("needs TRIGGER on the watched tables and INSERT on daymend_dirty"), "{error}");
        }
    };
    refused(&db);
    db.execute(&format!("GRANT INSERT ON {name}.daymend_dirty TO {name}_op@'%'"), vec![]).await;
    refused(&db);
    // With TRIGGER on some of the tables only, the triggers that were created are dropped again.
    for table in ["billing", "billingInfo", "labReportRelation"] {
        db.execute(&format!("GRANT TRIGGER ON {name}.{table} TO {name}_op@'%'"), vec![]).await;
    }
    refused(&db);
    assert_eq!(names(&db).await, Vec::<String>::new());
    for table in ["collectedSample", "allTests"] {
        db.execute(&format!("GRANT TRIGGER ON {name}.{table} TO {name}_op@'%'"), vec![]).await;
    }
    // The triggers could be created, but would silently fail to mark anything.
    db.execute(&format!("REVOKE INSERT ON {name}.daymend_dirty FROM {name}_op@'%'"), vec![]).await;
    refused(&db);
    assert_eq!(names(&db).await, Vec::<String>::new());
    db.execute(&format!("GRANT INSERT ON {name}.daymend_dirty TO {name}_op@'%'"), vec![]).await;
    assert!(run_ok(&db, &["triggers", "install", "--dry-run"]).contains("would create daymend_billing_insert"));
    run_ok(&db, &["triggers", "install"]);
    // Triggers have the privileges of their definer: an application needs none on daymend_dirty.
    db.execute(&format!("CREATE USER {name}_app@'%' IDENTIFIED BY 'secret'"), vec![]).await;
    db.execute(&format!("GRANT SELECT, INSERT ON {name}.billing TO {name}_app@'%'"), vec![]).await;
    let app = daymend::db::connect(&format!("mysql://{name}_app:secret@{place}"), 1.into()).unwrap();
    let mut tx = app.begin(Mode::Write).await.unwrap();
    let insert =
        "INSERT INTO billing (lab_id, billTime, modified_at) VALUES (1, '2026-06-10 06:00:00', '2026-06-10 06:00:00')";
    tx.execute(Query::new("bill", insert), args![]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(db.marks().await, 1);
    run_ok(&db, &["triggers", "remove"]);
}

/// Its table has been renamed, and the trigger has to be dropped there before it can be created on the current table,
/// on which this account may not create triggers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_that_cannot_be_moved_stays_where_it_was() {
    let mut db = TestDb::new(Engine::MariaDb).await;
    run_ok(&db, &["triggers", "install"]);
    put_another_in_the_place_of_billing(&db, "billing_old").await;
    let name = db.text("SELECT DATABASE()").await;
    db.execute(&format!("CREATE USER {name}_op@'%' IDENTIFIED BY 'secret'"), vec![]).await;
    db.execute(&format!("GRANT SELECT, INSERT ON {name}.* TO {name}_op@'%'"), vec![]).await;
    for table in ["billing_old", "billingInfo", "labReportRelation", "collectedSample", "allTests"] {
        db.execute(&format!("GRANT TRIGGER ON {name}.{table} TO {name}_op@'%'"), vec![]).await;
    }
    let url = format!("mysql://{name}_op:secret@{}", db.triggers_url.split_once('@').unwrap().1);
    let all = std::mem::replace(&mut db.triggers_url, url);
    let tables = "SELECT GROUP_CONCAT(CONCAT(trigger_name, ' ', event_object_table, ' ', action_statement)
        ORDER BY trigger_name) FROM information_schema.triggers WHERE trigger_schema = DATABASE()";
    let before = db.text(tables).await;
    let error = run_fails(&db, USAGE, &["triggers", "install"]);
    assert!(error.contains("needs TRIGGER on the watched tables"), "{error}");
    assert_eq!(names(&db).await.len(), 15);
    assert_eq!(db.text(tables).await, before);
    db.triggers_url = all;
    assert!(run_ok(&db, &["triggers", "install"]).contains("replaced daymend_billing_insert"));
}

/// A trigger that fires before the row is inserted does not know the id that the row will get.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_that_fires_at_another_moment_is_replaced() {
    let db = TestDb::new(Engine::MariaDb).await;
    run_ok(&db, &["triggers", "install"]);
    let text = "SELECT action_statement FROM information_schema.triggers
                WHERE trigger_schema = DATABASE() AND trigger_name = 'daymend_billing_insert'";
    let does = db.text(text).await;
    db.execute("DROP TRIGGER daymend_billing_insert", vec![]).await;
    let before = format!("CREATE TRIGGER daymend_billing_insert BEFORE INSERT ON billing FOR EACH ROW {does}");
    db.execute(&before, vec![]).await;
    let said = run_ok(&db, &["triggers", "install"]);
    assert!(said.contains("replaced daymend_billing_insert") && !said.contains("created"), "{said}");
    assert!(run_ok(&db, &["triggers", "install"]).contains("nothing to do"));
}

/// A transaction that uses a table ends within seconds, so the install waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_in_use_for_a_moment_is_waited_for() {
    let db = TestDb::new(Engine::MariaDb).await;
    let mut user = db.admin.begin(Mode::Write).await.unwrap();
    user.fetch_all(Query::new("test", "SELECT id FROM billing"), args![], |_| Ok(())).await.unwrap();
    let mut install = crate::support::process::command(&db, &["triggers", "install"]);
    let install = tokio::task::spawn_blocking(move || install.output().unwrap());
    // Longer than one attempt.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!install.is_finished(), "{:?}", install.await);
    user.rollback().await.unwrap();
    let output = install.await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(names(&db).await.len(), 15);
}

/// With binary logging on, servers require more than TRIGGER.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_logging_without_super_is_explained() {
    let server = Server::start_with("binlog", &["--log-bin=binlog", "--binlog-format=ROW", "--server-id=1"]).unwrap();
    let mut db = TestDb::on_server(server.port).await;
    let name = db.text("SELECT DATABASE()").await;
    db.execute("CREATE USER op@'%' IDENTIFIED BY 'secret'", vec![]).await;
    db.execute(&format!("GRANT ALL ON {name}.* TO op@'%'"), vec![]).await;
    db.triggers_url = format!("mysql://op:secret@{}", db.url.split_once('@').unwrap().1);
    let error = run_fails(&db, USAGE, &["triggers", "install"]);
    assert!(error.contains("log_bin_trust_function_creators = 1") && error.contains("1419"), "{error}");
    assert_eq!(names(&db).await, Vec::<String>::new());
    db.execute("SET GLOBAL log_bin_trust_function_creators = 1", vec![]).await;
    run_ok(&db, &["triggers", "install"]);
    assert_eq!(names(&db).await.len(), 15);
}

/// A custom definition without watch.toml works, and has no triggers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_without_watch_toml_has_no_triggers() {
    let db = TestDb::new(Engine::Sqlite).await;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("historical_summary");
    fs::create_dir(&folder).unwrap();
    for file in ["labs.sql", "days.sql", "bills.sql", "tests.sql", "samples.sql", "rollup.toml"] {
        fs::copy(format!("jobs/historical_summary/{file}"), folder.join(file)).unwrap();
    }
    let jobs_dir = ["--jobs-dir", dir.path().to_str().unwrap()];
    let error = run_fails(&db, USAGE, &[&jobs_dir[..], &["triggers", "install"]].concat());
    assert!(error.contains("historical_summary has no watch.toml"), "{error}");
    run_ok(&db, &[&jobs_dir[..], &["scheduler", "--once"]].concat());
    let text = fs::read_to_string("jobs/historical_summary/watch.toml").unwrap();
    fs::write(folder.join("watch.toml"), text.replace("columns = [\"isCancelled\"]", "columns = []")).unwrap();
    let lines = run_says(&db, USAGE, &[&jobs_dir[..], &["rollups", "check"]].concat());
    assert!(lines.contains("watch.toml:9: bills.sql reads billing.isCancelled, which is not watched"), "{lines}");
}
