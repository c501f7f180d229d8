//! The summary's faults, the indexes of the fact queries, and the DDL of `daymend doctor --print-fixes` against them:
//! applied as it is, it prevents what was found.

use daymend::args;

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        doctor::{NOW, arguments, examine, examine_as_admin, healthy, now},
        process::run_ok,
    },
};

on_both! {
    a_summary_whose_rows_cannot_be_looked_up_by_id_is_found;
    a_summary_without_constraints_is_found_repaired_and_constrained;
    missing_indexes_of_the_fact_queries_are_named_and_printed;
    constraints_wait_for_the_delta_triggers;
    a_table_that_is_as_it_should_be_needs_nothing_but_the_check;
    the_counts_of_a_large_fault_stop_at_a_thousand;
    each_lab_with_faulty_rows_has_its_own_advice;
    rows_are_named_by_their_day_whatever_it_is;
    a_check_of_something_else_hides_no_negative_count;
}

/// Returns the lines of a script that are not comments.
fn statements(script: &str) -> String {
    script.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n").trim().to_owned()
}

fn print_fixes(db: &TestDb) -> String {
    run_ok(db, &["--now", NOW, "doctor", "--print-fixes", "--database-url", &db.admin_url()])
}

/// Drops the unique key and the dimensions' NOT NULL.
async fn loosen(db: &TestDb) {
    match db.engine {
        Engine::MariaDb => {
            db.apply(
                "ALTER TABLE operation_historical_summary DROP KEY summary_key, ADD KEY by_lab (lab_id, ordered_at),
                 MODIFY dimension_a_id BIGINT NULL COMMENT 'it''s a \\\\ dimension', MODIFY dimension_b_id BIGINT NULL DEFAULT 0",
            )
            .await;
        }
        Engine::Sqlite => {
            db.apply(
                "ALTER TABLE operation_historical_summary RENAME TO tight;
                 CREATE TABLE operation_historical_summary (
                     id INTEGER PRIMARY KEY AUTOINCREMENT, lab_id INTEGER NOT NULL, ordered_at TEXT NOT NULL,
                     dimension_a_id INTEGER NULL, dimension_b_id INTEGER NULL DEFAULT 0, event_type TEXT NOT NULL,
                     event_count INTEGER NOT NULL, created_at TEXT NOT NULL, modified_at TEXT NOT NULL);
                 INSERT INTO operation_historical_summary SELECT * FROM tight;
                 DROP TABLE tight;
                 CREATE INDEX by_lab ON operation_historical_summary (lab_id, ordered_at);
                 CREATE VIEW recent AS SELECT lab_id, event_count FROM operation_historical_summary;",
            )
            .await;
        }
    }
}

async fn a_summary_whose_rows_cannot_be_looked_up_by_id_is_found(engine: Engine) {
    let db = healthy(engine).await;
    let sql = match engine {
        Engine::MariaDb => {
            "ALTER TABLE operation_historical_summary DROP PRIMARY KEY, ADD PRIMARY KEY (lab_id, id), ADD KEY by_id (id)"
        }
        Engine::Sqlite => {
            "DROP TABLE operation_historical_summary;
             CREATE TABLE operation_historical_summary (
                 id INTEGER NOT NULL, lab_id INTEGER NOT NULL, ordered_at TEXT NOT NULL, dimension_a_id INTEGER NOT NULL,
                 dimension_b_id INTEGER NOT NULL, event_type TEXT NOT NULL, event_count INTEGER NOT NULL,
                 created_at TEXT NOT NULL, modified_at TEXT NOT NULL, PRIMARY KEY (lab_id, id),
                 UNIQUE (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type));"
        }
    };
    db.apply(sql).await;
    let found = examine(&db);
    assert_eq!((found.ids(), found.code), (vec!["summary.id"], 3));
    assert!(found.what("summary.id").contains("no primary key begins with id"), "{}", found.what("summary.id"));
}

async fn a_summary_without_constraints_is_found_repaired_and_constrained(engine: Engine) {
    let db = healthy(engine).await;
    loosen(&db).await;
    let loose = examine(&db);
    assert_eq!(loose.ids(), ["summary.nullable", "summary.unique"]);
    assert!(loose.what("summary.nullable").contains("dimension_a_id and dimension_b_id may be NULL"));
    assert_eq!(loose.advice("summary.nullable", "warning"), "daymend doctor --print-fixes");
    assert_eq!(loose.advice("summary.unique", "warning"), "daymend doctor --print-fixes");

    let insert = "INSERT INTO operation_historical_summary
                      (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at)
                  VALUES (1, ?, ?, ?, ?, ?, '2026-01-01 00:00:00', '2026-01-01 00:00:00')";
    for _ in 0..2 {
        db.execute(insert, args!["2026-06-10", None::<i64>, 0_i64, "branch_bill", 1_i64]).await;
        db.execute(insert, args!["2026-06-11", 4_i64, 0_i64, "branch_bill", 2_i64]).await;
    }
    db.execute(insert, args!["2026-06-12", 5_i64, 6_i64, "referral_test", -3_i64]).await;
    // A newline in the value must not end a comment of the script.
    db.execute(insert, args!["2026-06-12", 5_i64, 6_i64, "branch_bill\nDROP TABLE labs;", -3_i64]).await;
    let found = examine(&db);
    assert_eq!(found.code, 3);
    for (id, expected) in [
        ("summary.null_rows", "2 rows with a NULL dimension"),
        ("summary.duplicates", "2 keys with more than one row"),
        ("summary.negative", "2 rows with a negative count"),
    ] {
        assert!(found.what(id).contains(expected), "{}", found.what(id));
        assert_eq!(found.advice(id, "warning"), "daymend rebuild --lab 1");
    }
    assert!(found.what("summary.null_rows").contains("lab 1 2026-06-10 branch_bill NULL/0"));

    // DDL that today's rows would violate is commented out, with these rows and what has to be done first.
    let script = print_fixes(&db);
    println!("{script}");
    assert_eq!(statements(&script), "", "{script}");
    assert!(script.contains("Would reject today: 2 rows with a NULL dimension"), "{script}");
    assert!(script.contains("lab 1 2026-06-11 branch_bill 4/0"), "{script}");
    assert!(script.contains("-- First: daymend rebuild --lab 1\n"), "{script}");
    db.apply(&script).await;
    assert_eq!(db.number("SELECT COUNT(*) FROM labs").await, 1);
    assert_eq!(examine(&db).ids(), found.ids());

    // The rebuild leaves rows of event types that are not daymend's, so this one is deleted; it removes the others.
    db.execute("DELETE FROM operation_historical_summary WHERE event_type LIKE '%DROP%'", args![]).await;
    let advice = found.advice("summary.null_rows", "warning");
    run_ok(&db, &[&arguments(&advice)[..], &["--now", NOW]].concat());
    db.settle(now()).await;
    assert_eq!(examine(&db).ids(), ["summary.nullable", "summary.unique"]);
    let rows = "SELECT COUNT(*) FROM operation_historical_summary";
    let before = db.number(rows).await;
    let script = print_fixes(&db);
    println!("{script}");
    assert!(!script.contains("First: "), "{script}");
    db.apply(&script).await;
    examine(&db).assert_well();
    assert!(print_fixes(&db).contains("Nothing is recommended"));
    assert_eq!(db.number(rows).await, before);

    // The constraints hold.
    for row in
        [args!["2026-06-10", None::<i64>, 0_i64, "branch_bill", 1_i64], args!["2026-06-12", 5_i64, 6_i64, "x", -1_i64]]
    {
        let mut tx = db.admin.begin(daymend::db::Mode::Write).await.unwrap();
        let refused = tx.execute(daymend::db::Query::new("refused", insert), row).await;
        assert!(refused.is_err());
        tx.rollback().await.unwrap();
    }
    if engine == Engine::MariaDb {
        let kept = "SELECT column_comment FROM information_schema.columns WHERE table_schema = DATABASE()
                    AND table_name = 'operation_historical_summary' AND column_name = 'dimension_a_id'";
        assert_eq!(db.text(kept).await, "it's a \\ dimension");
    } else {
        assert_eq!(db.number("SELECT COUNT(*) FROM sqlite_master WHERE name = 'by_lab'").await, 1);
        assert_eq!(db.number("SELECT COUNT(*) FROM recent").await, before);
    }
    db.execute("DELETE FROM operation_historical_summary", args![]).await;
    run_ok(&db, &["rebuild", "--lab", "1", "--now", NOW]);
    db.settle(now()).await;
    assert_eq!(db.number(rows).await, before, "daymend works under the constraints");
}

async fn missing_indexes_of_the_fact_queries_are_named_and_printed(engine: Engine) {
    let db = healthy(engine).await;
    for (table, index, expected, file) in [
        ("billing", "billing_lab_time", "no index on (lab_id, billTime)", "bills.sql"),
        ("labReportRelation", "report_billing", "no index on (billing_id)", "tests.sql"),
        ("collectedSample", "sample_billing", "no index on (billing_id)", "samples.sql"),
    ] {
        let on = if engine == Engine::MariaDb { format!(" ON {table}") } else { String::new() };
        db.execute(&format!("DROP INDEX {index}{on}"), args![]).await;
        let found = examine(&db);
        assert_eq!(found.ids(), ["indexes.facts"], "{:#}", found.json);
        let what = found.what("indexes.facts");
        assert!(what.starts_with(&format!("{table}: {file} ")) && what.ends_with(expected), "{what}");
        assert_eq!(found.advice("indexes.facts", "warning"), "daymend doctor --print-fixes");
        db.apply(&print_fixes(&db)).await;
        examine(&db).assert_well();
    }
    // An index that begins with other columns does not serve.
    let on = if engine == Engine::MariaDb { " ON billing" } else { "" };
    db.execute(&format!("DROP INDEX daymend_billing_lab_id_billTime{on}"), args![]).await;
    db.execute("CREATE INDEX by_lab_only ON billing (lab_id, isCancelled)", args![]).await;
    assert!(examine_as_admin(&db).what("indexes.facts").ends_with("no index on (lab_id, billTime)"));
    db.execute("CREATE INDEX wider ON billing (lab_id, billTime, isCancelled)", args![]).await;
    examine(&db).assert_well();
}

async fn constraints_wait_for_the_delta_triggers(engine: Engine) {
    let db = healthy(engine).await;
    loosen(&db).await;
    db.install_delta_triggers().await;
    let script = print_fixes(&db);
    assert_eq!(statements(&script), "", "{script}");
    assert!(
        script.contains("-- First: drop or change the triggers that write to this table (billing_delta)"),
        "{script}"
    );
    db.execute("DROP TRIGGER billing_delta", args![]).await;
    assert_ne!(statements(&print_fixes(&db)), "");
    // A quote before the statement does not hide it.
    let quote = match engine {
        Engine::MariaDb => "SET @x = 'it\\'s'",
        Engine::Sqlite => "UPDATE labs SET labName = 'C:\\' WHERE id = 0",
    };
    let trigger = format!(
        "CREATE TRIGGER quoting AFTER UPDATE ON billing FOR EACH ROW BEGIN {quote};
         UPDATE operation_historical_summary SET event_count = event_count + 1 WHERE lab_id = NEW.lab_id; END"
    );
    db.apply(&trigger).await;
    assert!(examine_as_admin(&db).what("triggers.delta").contains("quoting on billing"));
    let script = print_fixes(&db);
    assert_eq!(statements(&script), "", "{script}");
    assert!(script.contains("-- First: drop or change the triggers that write to this table (quoting)"), "{script}");
}

async fn each_lab_with_faulty_rows_has_its_own_advice(engine: Engine) {
    let db = healthy(engine).await;
    loosen(&db).await;
    for (lab, zone, is_on) in [(60, "Asia/Kolkata", false), (61, "Mars/X", true)] {
        db.add_lab(lab, Some(zone)).await;
        db.execute("UPDATE labs SET historicalViewEnabled = ? WHERE id = ?", args![is_on, lab]).await;
        db.fill_lab(lab, "2026-06-08".parse().unwrap(), 7, 1).await;
    }
    for lab in [1_i64, 60, 61, 99] {
        let insert = "INSERT INTO operation_historical_summary
             (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at)
             VALUES (?, '2026-06-10', NULL, 0, 'branch_bill', 1, '2026-01-01 00:00:00', '2026-01-01 00:00:00')";
        db.execute(insert, args![lab]).await;
    }
    let advice = examine(&db).advice("summary.null_rows", "warning");
    let parts: Vec<_> = advice.split("; ").collect();
    assert_eq!(parts[0], "daymend rebuild --lab 1 --lab 60", "{advice}");
    assert_eq!(parts[1], "set labTimeZone to an IANA name for lab 61 first, then daymend rebuild --lab 61", "{advice}");
    let (_, delete) = parts[2].split_once(": ").unwrap();
    assert_eq!(delete, "DELETE FROM operation_historical_summary WHERE lab_id IN (99)");
    // All of the advice can be followed.
    run_ok(&db, &[&arguments(parts[0])[..], &["--now", NOW]].concat());
    db.execute("UPDATE labs SET labTimeZone = 'Asia/Kolkata' WHERE id = 61", args![]).await;
    run_ok(&db, &[&arguments(parts[1])[..], &["--now", NOW]].concat());
    db.execute(delete, args![]).await;
    db.settle(now()).await;
    assert!(!examine(&db).has("summary.null_rows"));
}

async fn rows_are_named_by_their_day_whatever_it_is(engine: Engine) {
    let db = healthy(engine).await;
    loosen(&db).await;
    for day in ["1900-01-01", "2050-01-01", "2026-06-10"] {
        let insert = "INSERT INTO operation_historical_summary
             (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at)
             VALUES (1, ?, NULL, 0, 'branch_bill', 1, '2026-01-01 00:00:00', '2026-01-01 00:00:00')";
        db.execute(insert, args![day]).await;
        let found = examine(&db).what("summary.null_rows");
        assert!(found.contains(&format!("lab 1 {day} branch_bill NULL/0")), "{found:?}");
    }
}

async fn a_check_of_something_else_hides_no_negative_count(engine: Engine) {
    let db = healthy(engine).await;
    let check = "CHECK (length(event_type) > 0 AND event_count < 1000000)";
    let summary = "operation_historical_summary";
    match engine {
        Engine::MariaDb => db.apply(&format!("ALTER TABLE {summary} ADD CONSTRAINT small {check}")).await,
        Engine::Sqlite => {
            let sql = db.text(&format!("SELECT sql FROM sqlite_master WHERE name = '{summary}'")).await;
            let checked = format!("{}, {check})", sql.trim_end().strip_suffix(')').unwrap());
            db.apply(&format!(
                "ALTER TABLE {summary} RENAME TO tight; {checked};
                 INSERT INTO {summary} SELECT * FROM tight; DROP TABLE tight;"
            ))
            .await;
        }
    }
    examine(&db).assert_well();
    let row = db.row("event_type = 'branch_bill'").await;
    db.execute(&format!("UPDATE {summary} SET event_count = -3 WHERE id = {row}"), args![]).await;
    // On MariaDB, the user of grants.sql cannot see constraints.
    let found = examine_as_admin(&db);
    assert_eq!(found.ids(), ["summary.negative"]);
    assert!(found.what("summary.negative").contains("1 row with a negative count"), "{:#}", found.json);
    // daymend recommends no second CHECK on the count.
    assert!(print_fixes(&db).contains("Nothing is recommended"));
}

/// SQLite lists the columns of a primary key in the table's order, each with its position in the key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_key_serves_by_its_own_order() {
    let db = healthy(Engine::Sqlite).await;
    let anew = |key: &str| {
        format!(
            "ALTER TABLE collectedSample RENAME TO before;
             CREATE TABLE collectedSample (billing_id INTEGER NOT NULL, id INTEGER NOT NULL,
                 sampleType_id INTEGER NOT NULL, isAccessed INTEGER NOT NULL DEFAULT 0, PRIMARY KEY ({key}));
             INSERT INTO collectedSample SELECT billing_id, id, sampleType_id, isAccessed FROM before;
             DROP TABLE before;"
        )
    };
    db.apply(&anew("id, billing_id")).await;
    assert!(examine(&db).what("indexes.facts").ends_with("no index on (billing_id)"));
    db.apply(&anew("billing_id, id")).await;
    examine(&db).assert_well();
}

async fn a_table_that_is_as_it_should_be_needs_nothing_but_the_check(engine: Engine) {
    let db = healthy(engine).await;
    examine(&db).assert_well();
    let json = run_ok(&db, &["doctor", "--print-fixes", "--json", "--database-url", &db.admin_url()]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 1, "{json:#}");
    assert_eq!(json[0]["id"], "summary.negative");
    assert_eq!(json[0]["rejects"], serde_json::Value::Null);
    db.apply(json[0]["sql"].as_str().unwrap()).await;
    assert!(print_fixes(&db).contains("Nothing is recommended"));
    examine(&db).assert_well();
}

async fn the_counts_of_a_large_fault_stop_at_a_thousand(engine: Engine) {
    let db = healthy(engine).await;
    loosen(&db).await;
    let mut script = "INSERT INTO operation_historical_summary
         (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at) VALUES "
        .to_owned();
    for number in 0..1100 {
        let comma = if number == 0 { "" } else { ", " };
        script += &format!(
            "{comma}({}, '2026-06-10', NULL, {number}, 'branch_bill', -1, '2026-01-01', '2026-01-01')",
            number % 30
        );
    }
    db.apply(&script).await;
    let found = examine(&db);
    for id in ["summary.null_rows", "summary.negative"] {
        assert!(found.what(id).contains("more than 1000 rows"), "{}", found.what(id));
        assert_eq!(found.advice(id, "warning"), "daymend audit --repair");
    }
}
