//! The users of `deploy/mysql` can do their work, which all other tests show, and nothing else; they need
//! each of their privileges.

use std::{os::unix::fs::symlink, path::Path, process::Command};

use daymend::{
    args,
    db::{ConnectOptions, Db, Dialect, Mode, Owner, Query, Statement, code, connect, migrate},
    recompute::stored::{self, Access},
    rollup::source,
};

use crate::{
    runbooks::pages::{blocks, read},
    support::{
        Engine, TestDb,
        grants::{self, PLACEHOLDER},
        process::{run, run_fails, run_ok},
        server,
        work::rollups,
    },
};

const USAGE: i32 = 2;

/// The client's options to log in as an administrator of the test server.
const ADMIN: &str = "--user=admin --password=admin-test";

/// Runs the commands of deploy/mysql/README.md through the client, as they are written there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readmes_commands_make_three_users_that_work() {
    let mut db = TestDb::source_only(Engine::MariaDb).await;
    let (port, dir) = (server::port(&db.url), tempfile::tempdir().unwrap());
    symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy"), dir.path().join("deploy")).unwrap();
    let client =
        format!("mariadb() {{ command mariadb --no-defaults --host=127.0.0.1 --port={port} {ADMIN} \"$@\"; }}\n");
    let script = &blocks(&read("deploy/mysql/README.md"))[0];
    assert_eq!(script.language, "console");
    // With the test's database instead of the example's, and an editor that puts in passwords as odd as people's.
    let script = script.text.replace("$ ", "").replace("mariadb crelio", &format!("mariadb {}", db.name()));
    let edits = ["one&pass/word", "another-one", "a-third"].map(|password| {
        format!("-e '0,/{PLACEHOLDER}/s//\\x27{}\\x27/'", password.replace('&', "\\&").replace('/', "\\/"))
    });
    let editor = format!("edit() {{ sed -i {} \"$1\"; }}\nEDITOR=edit\n", edits.join(" "));
    let output =
        Command::new("bash").args(["-euc", &(client + &editor + &script)]).current_dir(dir.path()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("GRANT SELECT, INSERT, UPDATE, DELETE ON"), "SHOW GRANTS: {said}");
    assert!(!dir.path().join("users.crelio.sql").exists(), "the copy holds passwords");
    db.migrate_url = format!("mysql://daymend_migrate:one%26pass%2Fword@127.0.0.1:{port}/{}", db.name());
    db.url = format!("mysql://daymend:another-one@127.0.0.1:{port}/{}", db.name());
    db.snapshot_url = format!("mysql://daymend_snapshot:a-third@127.0.0.1:{port}/{}", db.name());
    assert!(run_ok(&db, &["migrate"]).contains("applied version 1"));
    assert!(run_ok(&db, &["rollups", "check"]).contains("no problem found"));
    run_ok(&db, &["scheduler", "--once"]);
    run_ok(&db, &["snapshot", "take", "--to", dir.path().join("snapshots").to_str().unwrap()]);
}

/// Runs one of the files as it stands, after `first`, for users and a database that nobody has.
fn as_it_stands(port: u16, first: &str, file: &str) -> (bool, String) {
    let sql = format!("{first};\n{}", read(file).replace("daymend", "nobody_has"));
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "--host=127.0.0.1", &format!("--port={port}")]).args(ADMIN.split(' '));
    let output = client.args(["--execute", &sql]).output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

/// Nobody gets a password that can be read here, and an upgrade creates no user: not even where the server's mode lets
/// GRANT do so, with an empty password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_files_create_nobody_as_they_stand() {
    let db = TestDb::source_only(Engine::MariaDb).await;
    let (port, name) = (server::port(&db.url), db.name());
    let users = as_it_stands(port, "DO 0", "deploy/mysql/users.sql");
    assert!(!users.0 && users.1.contains(PLACEHOLDER), "{users:?}");
    for mode in ["@@GLOBAL.sql_mode", "''"] {
        let grants =
            as_it_stands(port, &format!("USE {name}; SET SESSION sql_mode = {mode}"), "deploy/mysql/grants.sql");
        let is_refused = ["ERROR 1133", "ERROR 1410"].iter().any(|code| grants.1.contains(code));
        assert!(!grants.0 && is_refused, "{mode}: {grants:?}");
    }
    let (_, error) = as_it_stands(port, "DO 0", "deploy/mysql/grants.sql");
    assert!(error.contains("No database selected"), "{error}");
    let created = db.rows("SELECT user FROM mysql.user WHERE user LIKE 'nobody%'", args![]).await;
    assert_eq!(created.len(), 0);
}

/// Codes of denied access: to a database, for a user, to a table, to a column, and for want of a global privilege.
const DENIED: [u32; 5] = [1044, 1045, 1142, 1143, 1227];

/// A privilege on a table, or on some of its columns.
#[derive(Debug)]
struct Right {
    table: String,
    /// As in GRANT and REVOKE: `DELETE`, or `SELECT (id)`.
    what: String,
}

/// Returns what a user has been granted.
async fn rights(db: &TestDb, user: &str) -> Vec<Right> {
    grants::rights(db, user).await.into_iter().map(|(table, what)| Right { table, what }).collect()
}

/// Revokes a privilege while `work` runs.
async fn without<T>(db: &TestDb, user: &str, right: &Right, work: impl AsyncFnOnce() -> T) -> T {
    let Right { table, what } = right;
    db.execute(&format!("REVOKE {what} ON {}.{table} FROM {user}@'%'", db.name()), args![]).await;
    let done = work().await;
    db.execute(&format!("GRANT {what} ON {}.{table} TO {user}@'%'", db.name()), args![]).await;
    done
}

/// Returns the statements that daymend may not run: registered ones that name the table, and a rollup's.
async fn refused(db: &Db, table: &str) -> Vec<String> {
    // A connection caches what it has prepared.
    let db = &db.renewed();
    let mut refused = Vec::new();
    let of_table = |statement: &&Statement| {
        // `bench` measures on a scratch database, so its statements do not justify a privilege.
        let is_ours = matches!(statement.owner, Owner::Service | Owner::Doctor) && statement.runs_on(Dialect::MySql);
        is_ours && statement.sql(Dialect::MySql).contains(table)
    };
    for statement in Statement::all().filter(of_table) {
        if let Err(error) = db.columns(statement.written_out(3)).await {
            assert!(DENIED.contains(&code(&error.source)), "{}", daymend::error::chain(&error));
            refused.push(statement.name.to_owned());
        }
    }
    // Statements that are built at run time (scheduler/dirty): the walk that expands a mark of the catalogue, and the
    // deletion of the marks that were read.
    let together = [
        ("labReportRelation", "SELECT id FROM labReportRelation WHERE id > ? ORDER BY id LIMIT 1"),
        ("daymend_dirty", "DELETE FROM daymend_dirty WHERE id = ?"),
    ];
    for (_, sql) in together.iter().filter(|(of, _)| table == *of || *of == "daymend_dirty" && table == "daymend") {
        refused.extend(db.columns(Query::new("marks", *sql)).await.err().map(|_| (*sql).to_owned()));
    }
    for rollup in rollups().iter() {
        refused.extend(source::check(db, rollup).await.unwrap().iter().map(ToString::to_string));
        refused.extend(stored::check(db, rollup, Access::Write).await.unwrap().iter().map(ToString::to_string));
    }
    db.close().await;
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_right_of_the_run_time_user_is_needed() {
    let db = TestDb::new(Engine::MariaDb).await;
    let rights = rights(&db, db.name()).await;
    assert!(rights.len() > 50, "{rights:#?}");
    let mut needless = Vec::new();
    for right in &rights {
        if without(&db, db.name(), right, async || refused(&db.db, &right.table).await).await.is_empty() {
            needless.push(right);
        }
    }
    assert!(needless.is_empty(), "no statement needs {needless:#?}");
    assert_eq!(refused(&db.db, "daymend").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_right_of_the_migrating_user_is_needed() {
    let db = TestDb::new(Engine::MariaDb).await;
    let user = format!("{}_migrate", db.name());
    let rights = rights(&db, &user).await;
    assert!(rights.len() > 10, "{rights:#?}");
    let migrating = connect(&db.migrate_url, ConnectOptions::new(1)).unwrap();
    for right in &rights {
        // Every statement of a migration can be repeated: begin as if none had been applied.
        db.execute("DELETE FROM daymend_schema", args![]).await;
        let migrated = without(&db, &user, right, async || migrate::migrate(&migrating).await).await;
        let error = migrated.map(drop).expect_err(&format!("migrate does not need {right:?}"));
        assert!(DENIED.contains(&code(&error.source)), "{right:?}: {}", daymend::error::chain(&error));
    }
    assert!(!migrate::migrate(&migrating).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_right_of_the_user_of_snapshots_is_needed() {
    let db = TestDb::new(Engine::MariaDb).await;
    let user = format!("{}_snapshot", db.name());
    let rights = rights(&db, &user).await;
    assert_eq!(rights.len(), 8, "{rights:#?}");
    let dir = tempfile::tempdir().unwrap();
    let take = ["snapshot", "take", "--to", dir.path().to_str().unwrap()];
    run_ok(&db, &take);
    for right in &rights {
        assert_eq!(right.what, "SELECT");
        let error = without(&db, &user, right, async || run_fails(&db, USAGE, &take)).await;
        assert!(error.contains(&right.table), "{error}");
    }
    // Some columns are not the whole table: no partial copy is made.
    let whole = Right { table: "billing".to_owned(), what: "SELECT".to_owned() };
    without(&db, &user, &whole, async || {
        let some = format!("SELECT (id) ON {}.billing", db.name());
        db.execute(&format!("GRANT {some} TO {user}@'%'"), args![]).await;
        let error = run_fails(&db, USAGE, &take);
        assert!(error.contains("billing"), "{error}");
        db.execute(&format!("REVOKE {some} FROM {user}@'%'"), args![]).await;
    })
    .await;
    let snapshots = connect(&db.snapshot_url, ConnectOptions::new(1)).unwrap();
    for sql in ["SELECT id FROM daymend_jobs", "DELETE FROM billing", "UPDATE labs SET labTimeZone = NULL"] {
        assert_denied(&snapshots, sql).await;
    }
}

/// Asserts that a statement is denied.
async fn assert_denied(db: &Db, sql: &str) {
    let mut tx = db.begin(Mode::Write).await.unwrap();
    // Sent as text: MySQL cannot prepare all of these statements.
    match tx.execute_text("not allowed", sql).await {
        Ok(()) => panic!("allowed: {sql}"),
        Err(error) => assert!(DENIED.contains(&code(&error.source)), "{sql}: {}", daymend::error::chain(&error)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_run_time_user_can_do_nothing_else() {
    let db = TestDb::new(Engine::MariaDb).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    for sql in [
        // The lab system's data can only be read, and only the columns that daymend needs.
        "DELETE FROM billing",
        "UPDATE billing SET isCancelled = 0",
        "INSERT INTO billing (lab_id, billTime, modified_at) VALUES (1, '2026-01-01', '2026-01-01')",
        "UPDATE labs SET labTimeZone = NULL",
        "REPLACE INTO allTests (id, lab_id, testName) VALUES (1, 1, '')",
        "TRUNCATE TABLE collectedSample",
        "SELECT labName FROM labs",
        "SELECT * FROM billing",
        "SELECT testName FROM allTests",
        // Of its output tables, it can change only what it has to.
        "UPDATE operation_historical_summary SET lab_id = 2",
        "TRUNCATE TABLE operation_historical_summary",
        "UPDATE operation_event_log SET status = ''",
        "DELETE FROM operation_event_log",
        "UPDATE crelio_data_migrations SET lab_id = 2",
        "DELETE FROM crelio_data_migrations",
        "SELECT * FROM crelio_data_migrations",
        // It cannot change the definitions of its own tables, nor the entries of the admin log.
        "ALTER TABLE daymend_jobs ADD COLUMN more INT",
        "CREATE INDEX more ON daymend_jobs (day)",
        "DROP TABLE daymend_jobs",
        "TRUNCATE TABLE daymend_attempts",
        "CREATE TABLE daymend_more (id INT PRIMARY KEY)",
        "INSERT INTO daymend_schema VALUES (999, 'later', '2026-01-01')",
        "UPDATE daymend_admin_log SET who = 'nobody'",
        "DELETE FROM daymend_admin_log",
        "CREATE TRIGGER more AFTER INSERT ON daymend_jobs FOR EACH ROW SET @more = 1",
        "CREATE VIEW more AS SELECT id FROM daymend_jobs",
        "LOCK TABLES daymend_jobs WRITE",
        // It has no privileges on the server.
        "SELECT user FROM mysql.user",
        "CREATE USER more@'%'",
        "CREATE DATABASE more",
        "SET GLOBAL max_connections = 1",
        "SELECT id FROM daymend_jobs INTO OUTFILE '/tmp/more'",
    ] {
        assert_denied(&db.db, sql).await;
    }
    let grant = format!("GRANT SELECT ON {}.daymend_jobs TO {}_migrate@'%'", db.name(), db.name());
    assert_denied(&db.db, &grant).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_migrating_user_sees_no_data() {
    let db = TestDb::new(Engine::MariaDb).await;
    let migrating = connect(&db.migrate_url, ConnectOptions::new(1)).unwrap();
    for sql in [
        "SELECT id FROM labs",
        "SELECT id FROM daymend_jobs",
        "SELECT id FROM operation_historical_summary",
        "INSERT INTO operation_event_log (event_name, status, created_at) VALUES ('', '', '2026-01-01')",
        "DROP TABLE daymend_jobs",
        "DELETE FROM daymend_schema",
        "CREATE TABLE more (id INT PRIMARY KEY)",
        "SELECT user FROM mysql.user",
    ] {
        assert_denied(&migrating, sql).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_right_is_named_before_anything_is_begun() {
    let db = TestDb::new(Engine::MariaDb).await;
    for (table, what) in [("operation_historical_summary", "DELETE"), ("collectedSample", "SELECT (isAccessed)")] {
        let right = Right { table: table.to_owned(), what: what.to_owned() };
        without(&db, db.name(), &right, async || {
            for command in [&["rollups", "check"][..], &["worker", "--drain"], &["scheduler", "--once"]] {
                let output = run(&db, command);
                assert_eq!(output.status.code(), Some(USAGE), "{output:?}");
                // What a check finds is its result.
                let error = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
                let verb = what.split(' ').next().unwrap();
                assert!(error.contains(&format!("{verb} command denied")) && error.contains(table), "{error}");
            }
        })
        .await;
    }
    assert!(run_ok(&db, &["rollups", "check"]).contains("no problem found"));
}
