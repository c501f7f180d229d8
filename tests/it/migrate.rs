//! What `migrate` creates, alone or side by side with others, and what the other commands say before it has run.

use std::process::Stdio;

use daymend::{
    args,
    db::migrate::{MIGRATIONS, REDO},
};

use crate::{
    cli::{LIMIT, NOW, USAGE, assert_one_line, labs},
    on_both,
    support::{
        Engine, TestDb,
        process::{Process, command, run_fails, run_ok, run_says},
    },
};

const SCHEMA: i32 = 5;
const UNAVAILABLE: i32 = 4;

on_both! {
    migrate_creates_what_is_missing_and_says_so_when_nothing_is;
    migrates_side_by_side_do_what_one_would;
    a_missing_output_table_is_said_before_anything_is_done_and_created_by_migrate;
    other_commands_ask_for_migrate_first;
    a_missing_table_of_daymends_own_is_named_with_what_to_do;
    a_restore_and_its_undo_write_nothing_that_cannot_be_recomputed;
}

async fn migrate_creates_what_is_missing_and_says_so_when_nothing_is(engine: Engine) {
    let db = TestDb::source_only(engine).await;
    let columns = match engine {
        Engine::MariaDb => "SELECT GROUP_CONCAT(CONCAT(table_name, column_name, column_type, is_nullable) ORDER BY 1)
                            FROM information_schema.columns
                            WHERE table_schema = DATABASE() AND table_name NOT LIKE 'daymend%'",
        Engine::Sqlite => "SELECT group_concat(sql) FROM sqlite_master
                           WHERE tbl_name IN ('labs', 'billing', 'billingInfo', 'allTests', 'labReportRelation', 'collectedSample')",
    };
    let before = db.text(columns).await;
    assert!(run_ok(&db, &["migrate", "--dry-run"]).contains("would apply version 1"));
    run_fails(&db, SCHEMA, &["runs", "list"]);
    assert!(run_ok(&db, &["migrate"]).contains("applied version 1"));
    assert_eq!(db.text(columns).await, before, "no table of the lab system was altered");
    assert_eq!(db.number("SELECT COUNT(*) FROM operation_historical_summary").await, 0);
    let again = run_ok(&db, &["migrate"]);
    assert!(again.contains("nothing to do"), "{again}");
}

async fn migrates_side_by_side_do_what_one_would(engine: Engine) {
    for _ in 0..4 {
        let db = TestDb::source_only(engine).await;
        let migrates = (0..4).map(|_| {
            let mut migrate = command(&db, &["migrate"]);
            migrate.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        });
        let migrates: Vec<_> = migrates.collect();
        let mut list = Process::start(&db, &["runs", "list"]);
        let mut applied = Vec::new();
        for migrate in migrates {
            let output = migrate.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let said = String::from_utf8(output.stdout).unwrap();
            applied.extend(said.lines().filter(|line| line.starts_with("applied")).map(ToOwned::to_owned));
        }
        applied.sort();
        let versions: Vec<String> =
            MIGRATIONS.iter().map(|known| format!("applied version {} ({})", known.version, known.name)).collect();
        assert_eq!(applied, versions, "each was applied by one of them");
        // While the migrations are not complete, the schema does not match.
        assert!(matches!(list.wait(LIMIT), Some(0 | SCHEMA)));
        assert!(run_ok(&db, &["migrate"]).contains("nothing to do"));
    }
}

async fn a_missing_output_table_is_said_before_anything_is_done_and_created_by_migrate(engine: Engine) {
    for table in ["operation_historical_summary", "operation_event_log", "crelio_data_migrations"] {
        let db = labs(engine).await;
        db.execute(&format!("DROP TABLE {table}"), args![]).await;
        for args in [
            &["--now", NOW, "scheduler", "--once"][..],
            &["--now", NOW, "worker", "--drain"],
            &["--now", NOW, "rebuild", "--lab", "1"],
        ] {
            let error = run_fails(&db, USAGE, args);
            assert_one_line(&error);
            assert!(error.contains(table), "{error}");
        }
        assert!(run_says(&db, USAGE, &["rollups", "check"]).contains(table));
        assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs").await, 0);
        assert!(run_ok(&db, &["migrate", "--dry-run"]).contains(&format!("would create {table}")));
        let migrated = run_ok(&db, &["migrate"]);
        assert_eq!(migrated, format!("created {table}\n"));
        assert_eq!(db.number(&format!("SELECT COUNT(*) FROM {table}")).await, 0);
        assert!(run_ok(&db, &["--now", NOW, "scheduler", "--once"]).contains("enqueued"));
    }
}

async fn other_commands_ask_for_migrate_first(engine: Engine) {
    let db = TestDb::source_only(engine).await;
    for args in [
        &["scheduler", "--once"][..],
        &["worker", "--drain"],
        &["serve"],
        &["repair", "--day", "2026-06-14"],
        &["rebuild", "--lab", "1"],
        &["audit", "--repair"],
        &["runs", "list"],
        &["runs", "watch", "1"],
        &["queue", "stats"],
        &["queue", "prune", "--older-than", "30d"],
        &["triggers", "install"],
        &["triggers", "remove"],
    ] {
        let error = run_fails(&db, SCHEMA, args);
        assert_one_line(&error);
        assert!(error.contains("run `daymend migrate`"), "{error}");
    }
    db.execute(
        "CREATE TABLE daymend_schema (version INT PRIMARY KEY, name VARCHAR(64), applied_at VARCHAR(30))",
        args![],
    )
    .await;
    db.execute("INSERT INTO daymend_schema VALUES (999, 'later', '')", args![]).await;
    for args in [&["runs", "list"][..], &["migrate"], &["migrate", "--dry-run"]] {
        assert!(run_fails(&db, SCHEMA, args).contains("newer"));
    }
}

/// The days of restored rows are enqueued when the rows have been committed.
async fn a_restore_and_its_undo_write_nothing_that_cannot_be_recomputed(engine: Engine) {
    let mut db = labs(engine).await;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (store, map, undo_file) = (path("snapshots"), path("map.csv"), path("undo.jsonl"));
    run_ok(&db, &["snapshot", "take", "--to", &store]);
    // An administrator of the test server may restore.
    db.url.clone_from(&db.triggers_url);
    let bills = "SELECT COUNT(*) FROM billing WHERE lab_id = 1";
    let all = db.number(bills).await;
    let delete =
        "DELETE FROM billing WHERE lab_id = 1 AND id IN (SELECT id FROM (SELECT MIN(id) AS id FROM billing) x)";
    db.execute(delete, args![]).await;
    let age = "UPDATE daymend_schema SET version = version + 1000";
    let restore = ["snapshot", "restore", "latest", "--missing", "--store", &store, "--map", &map];
    let apply = [&restore[..], &["--apply", "--undo-file", &undo_file]].concat();
    let undo = ["snapshot", "undo", &undo_file];
    for (steps, name) in [(&apply[..], "restore"), (&undo[..], "undo")] {
        let before = db.number(bills).await;
        db.execute(age, args![]).await;
        let error = run_fails(&db, SCHEMA, steps);
        assert_one_line(&error);
        assert_eq!(db.number(bills).await, before, "{name}");
        db.execute(&age.replace('+', "-"), args![]).await;
        run_ok(&db, steps);
        assert_ne!(db.number(bills).await, before, "{name}");
    }
    assert_eq!(db.number(bills).await, all - 1);
}

#[tokio::test]
async fn migrate_makes_a_file_of_sqlites_and_no_other_command_does() {
    let db = TestDb::source_only(Engine::Sqlite).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("new.db");
    let url = format!("sqlite:{}", file.display());
    for args in [&["runs", "list"][..], &["migrate", "--dry-run"], &["worker", "--drain"]] {
        let error = run_fails(&db, UNAVAILABLE, &[args, &["--database-url", &url]].concat());
        assert_one_line(&error);
        assert!(error.contains("no such file: `daymend migrate` creates it"), "{error}");
        assert!(!file.exists(), "{args:?}");
    }
    assert!(run_ok(&db, &["migrate", "--database-url", &url]).contains("applied version 1"));
    assert!(run_ok(&db, &["runs", "list", "--database-url", &url]).contains("no run yet"));
    let nowhere = format!("sqlite:{}", dir.path().join("nowhere/new.db").display());
    let error = run_fails(&db, UNAVAILABLE, &["migrate", "--database-url", &nowhere]);
    assert!(error.contains("its directory does not exist"), "{error}");
}

async fn a_missing_table_of_daymends_own_is_named_with_what_to_do(engine: Engine) {
    let db = labs(engine).await;
    for table in ["daymend_pauses", "daymend_snapshots"] {
        db.execute(&format!("ALTER TABLE {table} RENAME TO {table}_renamed"), args![]).await;
        for args in [&["migrate"][..], &["migrate", "--dry-run"]] {
            let error = run_fails(&db, SCHEMA, args);
            assert_one_line(&error);
            assert!(error.contains(&format!("but no {table}, ")) && error.contains(REDO), "{error}");
        }
        db.execute(&format!("ALTER TABLE {table}_renamed RENAME TO {table}"), args![]).await;
        assert!(run_ok(&db, &["migrate"]).contains("nothing to do"));
    }
    db.execute("DROP TABLE daymend_pauses", args![]).await;
    let error = run_fails(&db, USAGE, &["queue", "stats"]);
    assert!(error.contains("run `daymend doctor`") && error.contains("daymend_pauses"), "{error}");
    // What it says helps.
    let sql = REDO.split_once(": ").and_then(|(_, rest)| rest.split_once(';')).unwrap().0;
    db.execute(sql, args![]).await;
    run_ok(&db, &["migrate"]);
    run_ok(&db, &["queue", "stats"]);
    assert!(run_ok(&db, &["migrate"]).contains("nothing to do"));
    // Of the lab system's tables, the doctor is not the one to ask.
    db.execute("ALTER TABLE billing RENAME TO renamed", args![]).await;
    let error = run_fails(&db, USAGE, &["--now", NOW, "audit"]);
    assert!(!error.contains("a table of daymend's own"), "{error}");
}
