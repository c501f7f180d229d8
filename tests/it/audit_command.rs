//! `daymend audit` as used by a person or a script.

use daymend::args;
use serde_json::{Value, json};

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        drifting::{KOLKATA, NEW_YORK, NOW, histories},
        process::{Process, run, run_fails},
    },
};

const CLEAN: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const DRIFT: i32 = 3;
const SCHEMA: i32 = 5;

on_both! {
    the_exit_code_says_whether_it_is_true;
    an_audit_of_nothing_is_not_called_clean;
    a_person_sees_a_calendar_and_tables;
    labs_that_have_no_room_are_counted;
    json_has_every_row;
    drift_is_told_before_migrate;
    nothing_is_written_and_no_right_to_write_is_needed;
    it_reads_from_a_replica_where_one_is_given;
    a_dry_run_enqueues_nothing;
    waiting_for_the_repair_ends_clean;
    what_no_recompute_mends_is_said_and_not_enqueued;
    with_logs_as_json_every_line_beside_the_report_is_an_object;
    bad_input_is_refused;
}

/// Runs the audit, and returns its exit code, stdout and stderr.
fn audit(db: &TestDb, arguments: &[&str]) -> (i32, String, String) {
    let mut all = vec!["--now", NOW, "audit"];
    all.extend(arguments);
    let output = run(db, &all);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn audit_json(db: &TestDb, arguments: &[&str]) -> (i32, Value) {
    let mut all = vec!["--json"];
    all.extend(arguments);
    let (code, out, err) = audit(db, &all);
    (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}")))
}

async fn plant_ghost(db: &TestDb, lab: i64, day: &str) {
    db.add_summary_row(lab, day, 999, 0, "organization_bill", 3).await;
}

/// Returns a checksum of the summary, and the row counts of the event log and of daymend's tables.
async fn everything(db: &TestDb) -> Vec<i64> {
    let mut counts = vec![
        db.number("SELECT CAST(SUM(id * event_count) AS SIGNED) FROM operation_historical_summary").await,
        db.number("SELECT COUNT(*) FROM operation_event_log").await,
    ];
    for table in ["runs", "jobs", "attempts", "workers", "labs", "admin_log", "audits", "audit_days", "audit_labs"] {
        counts.push(db.number(&format!("SELECT COUNT(*) FROM daymend_{table}")).await);
    }
    counts
}

async fn the_exit_code_says_whether_it_is_true(engine: Engine) {
    let db = histories(engine).await;
    let (code, out, _) = audit(&db, &[]);
    assert_eq!((code, out.trim()), (CLEAN, "clean: every row of 28 day(s) of 2 lab(s) equals its source"));
    plant_ghost(&db, NEW_YORK, "2026-06-05").await;
    assert_eq!(audit(&db, &[]).0, DRIFT);
    assert_eq!(audit(&db, &["--lab", "1"]).0, CLEAN);
    assert_eq!(audit(&db, &["--from", "2026-06-06"]).0, CLEAN);
    assert_eq!(audit(&db, &["--to", "2026-06-04"]).0, CLEAN);
    assert_eq!(audit(&db, &["--except", "ghost"]).0, CLEAN);
    // An audit that could not compare everything is not clean.
    db.execute("UPDATE labs SET labTimeZone = NULL WHERE id = 1", args![]).await;
    let (code, _, err) = audit(&db, &["--except", "ghost"]);
    assert_eq!(code, FAILED);
    assert!(err.contains("lab 1 cannot be audited: no time zone is set"), "{err}");
    assert_eq!(audit(&db, &[]).0, DRIFT, "drift takes precedence");
}

async fn an_audit_of_nothing_is_not_called_clean(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    for arguments in [&[][..], &["--lab", "1"], &["--sample", "10"], &["--json"]] {
        let (code, out, err) = audit(&db, arguments);
        assert_eq!((code, out.as_str()), (USAGE, ""), "{arguments:?}");
        assert_eq!(err, "error: no day to compare: no lab has a closed day with bills or rows\n", "{arguments:?}");
    }
    db.execute("UPDATE labs SET labTimeZone = 'Mars/Base'", args![]).await;
    let (code, out, _) = audit(&db, &[]);
    assert_eq!((code, out.trim()), (FAILED, "nothing was compared: no day of any lab could be audited"));
}

async fn a_person_sees_a_calendar_and_tables(engine: Engine) {
    let db = histories(engine).await;
    plant_ghost(&db, NEW_YORK, "2026-06-05").await;
    let wrong = db.row("lab_id = 2 AND ordered_at = '2026-06-10'").await;
    db.execute(&format!("DELETE FROM operation_historical_summary WHERE id = {wrong}"), args![]).await;
    plant_ghost(&db, NEW_YORK, "2026-06-16").await;
    let (_, out, _) = audit(&db, &[]);
    let calendar = out.lines().find(|line| line.trim_start().starts_with("2026-06  ")).unwrap();
    assert_eq!(calendar.trim(), "2026-06  ····g····m·····o", "{out}");
    assert!(out.contains("lab 2 (America/New_York): 3 day(s) drifted"), "{out}");
    assert!(!out.contains("lab 1 ("), "{out}");
    assert!(out.contains("organization_bill 999/0: 3, should not be there"), "{out}");
    assert!(out.contains("drift: 3 row(s) on 3 of 30 day(s), in 1 of 2 lab(s)"), "{out}");
    assert!(out.contains("g ghost") && out.contains("o out of range"), "the legend: {out}");
}

async fn labs_that_have_no_room_are_counted(engine: Engine) {
    let db = TestDb::new(engine).await;
    for lab in 1..=42 {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
        plant_ghost(&db, lab, "2026-06-05").await;
    }
    let (code, out, _) = audit(&db, &[]);
    assert_eq!(code, DRIFT);
    assert!(out.contains("\nand 2 more lab(s) (--json has all of them)\ndrift: "), "{out}");
}

async fn json_has_every_row(engine: Engine) {
    let db = histories(engine).await;
    plant_ghost(&db, NEW_YORK, "2026-06-05").await;
    let (code, json) = audit_json(&db, &["--from", "2026-06-01"]);
    assert_eq!(code, DRIFT);
    assert_eq!(json["is_clean"], false);
    assert_eq!(json["is_complete"], true);
    assert_eq!(json["from"], "2026-06-01");
    assert_eq!(json["to"], Value::Null);
    assert_eq!(json["days_audited"], 28);
    assert_eq!(json["days_drifted"], 1);
    assert_eq!(json["differences"], 1);
    assert_eq!(json["causes"], json!({ "ghost": 1 }));
    assert_eq!(json["repair"], Value::Null);
    assert_eq!(json["after"], Value::Null);
    let labs = json["labs"].as_array().unwrap();
    assert_eq!(labs.len(), 2);
    assert_eq!(
        labs[0],
        json!({
            "lab": 1, "standing": "kept", "time_zone": "Asia/Kolkata", "days_audited": 14, "days_drifted": 0,
            "differences": 0, "problems": [], "days": [],
        })
    );
    assert_eq!(
        labs[1]["days"],
        json!([{
            "day": "2026-06-05", "differences": 1, "causes": { "ghost": 1 }, "event_types": { "organization_bill": 1 },
            "rows": [{
                "day": "2026-06-05", "event_type": "organization_bill", "dimension_a": 999, "dimension_b": 0,
                "stored": 3, "expected": null, "cause": "ghost",
            }],
        }])
    );
    let (_, few) = audit_json(&db, &["--rows", "0"]);
    assert_eq!(few["labs"][1]["days"][0]["rows"], json!([]));
    assert_eq!(few["differences"], 1);
    let (_, sample) = audit_json(&db, &["--sample", "3"]);
    assert!(sample["sample"]["seed"].is_u64(), "{sample}");
    assert_eq!(sample["days_audited"], 3);
}

/// Returns a read-only URL of the same database.
async fn read_only(db: &TestDb) -> String {
    match db.engine {
        Engine::Sqlite => format!("{}?mode=ro", db.url),
        Engine::MariaDb => reader(db, "reads", &["*"]).await,
    }
}

/// Creates a user of a MariaDB who may read only these tables, and returns the user's URL.
async fn reader(db: &TestDb, user: &str, tables: &[&str]) -> String {
    let (server, name) = db.url.rsplit_once('/').unwrap();
    let user = format!("{user}_{name}");
    db.execute(&format!("CREATE USER {user}@'%' IDENTIFIED BY 'secret'"), args![]).await;
    for table in tables {
        db.execute(&format!("GRANT SELECT ON {name}.{table} TO {user}@'%'"), args![]).await;
    }
    let host = server.rsplit_once('@').unwrap().1;
    format!("mysql://{user}:secret@{host}/{name}")
}

async fn drift_is_told_before_migrate(engine: Engine) {
    let db = histories(engine).await;
    plant_ghost(&db, NEW_YORK, "2026-06-05").await;
    for table in ["labs", "schema"] {
        db.execute(&format!("DROP TABLE daymend_{table}"), args![]).await;
    }
    let (code, json) = audit_json(&db, &[]);
    assert_eq!((code, &json["causes"]), (DRIFT, &json!({ "ghost": 1 })), "{json}");
}

// SQLite has no users.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_to_read_the_sources_and_the_summary_are_enough() {
    let mut db = histories(Engine::MariaDb).await;
    plant_ghost(&db, NEW_YORK, "2026-06-05").await;
    let source = ["labs", "billing", "billingInfo", "labReportRelation", "collectedSample", "allTests"];
    db.url = reader(&db, "sources", &[&source[..], &["operation_historical_summary"]].concat()).await;
    let (code, json) = audit_json(&db, &[]);
    assert_eq!((code, &json["causes"]), (DRIFT, &json!({ "ghost": 1 })), "{json}");
}

async fn nothing_is_written_and_no_right_to_write_is_needed(engine: Engine) {
    let mut db = histories(engine).await;
    plant_ghost(&db, NEW_YORK, "2026-06-05").await;
    let before = everything(&db).await;
    let all = db.url.clone();
    db.url = read_only(&db).await;
    // A sample may miss the ghost.
    for (arguments, codes) in
        [(&[][..], &[DRIFT][..]), (&["--sample", "9"], &[CLEAN, DRIFT]), (&["--lab", "2", "--json"], &[DRIFT])]
    {
        let (code, _, err) = audit(&db, arguments);
        assert!(codes.contains(&code), "{arguments:?}: {code} {err}");
    }
    db.url = all;
    assert_eq!(audit(&db, &[]).0, DRIFT);
    assert_eq!(everything(&db).await, before);
}

async fn it_reads_from_a_replica_where_one_is_given(engine: Engine) {
    let (db, replica) = (histories(engine).await, histories(engine).await);
    plant_ghost(&replica, NEW_YORK, "2026-06-05").await;
    let url = read_only(&replica).await;
    assert_eq!(audit(&db, &[]).0, CLEAN);
    assert_eq!(audit(&db, &["--read-url", &url]).0, DRIFT);
    // The repair, and the audit after it, use the database itself: the replica may lag.
    let _worker = Process::start(&db, &["--now", NOW, "worker"]);
    let (code, out, err) = audit(&db, &["--read-url", &url, "--repair", "--wait"]);
    assert_eq!(code, CLEAN, "{out}{err}");
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'completed'").await, 1);
    assert_eq!(replica.number("SELECT COUNT(*) FROM daymend_jobs").await, 0);
    let (code, _, err) = audit(&db, &["--read-url", "nonsense:"]);
    assert_eq!(code, USAGE, "{err}");
}

async fn a_dry_run_enqueues_nothing(engine: Engine) {
    let db = histories(engine).await;
    for day in ["2026-06-05", "2026-06-09"] {
        plant_ghost(&db, NEW_YORK, day).await;
    }
    let before = everything(&db).await;
    let (code, out, _) = audit(&db, &["--repair", "--dry-run"]);
    assert_eq!(code, DRIFT);
    assert!(out.contains("would enqueue lab 2: 2 job(s), 2026-06-05 to 2026-06-09"), "{out}");
    assert!(out.contains("would enqueue 2 job(s) in one run"), "{out}");
    let (_, json) = audit_json(&db, &["--repair", "--dry-run"]);
    assert_eq!(json["repair"]["jobs"], 2);
    assert_eq!(json["repair"]["run"], Value::Null);
    assert_eq!(json["repair"]["labs"], json!([{ "lab": 2, "days": ["2026-06-05", "2026-06-09"] }]));
    assert_eq!(everything(&db).await, before);
}

async fn waiting_for_the_repair_ends_clean(engine: Engine) {
    let db = histories(engine).await;
    plant_ghost(&db, NEW_YORK, "2026-06-05").await;
    db.execute("UPDATE operation_historical_summary SET event_count = event_count + 1 WHERE lab_id = 1", args![]).await;
    let _worker = Process::start(&db, &["--now", NOW, "worker"]);
    let (code, out, err) = audit(&db, &["--repair", "--wait"]);
    assert_eq!(code, CLEAN, "{out}{err}");
    assert!(out.contains("completed: 15 days"), "{out}");
    assert!(out.trim_end().ends_with("clean: every row of 15 day(s) of 2 lab(s) equals its source"), "{out}");
    let by = db.text("SELECT requested_by FROM daymend_runs").await;
    assert!(by.starts_with("audit by "), "{by}");
    // The second time there is nothing to repair.
    let (code, json) = audit_json(&db, &["--repair", "--wait"]);
    assert_eq!((code, &json["repair"]["run"]), (CLEAN, &Value::Null));
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs").await, 1);
    plant_ghost(&db, KOLKATA, "2026-06-07").await;
    let (code, json) = audit_json(&db, &["--repair", "--wait"]);
    assert_eq!(code, CLEAN, "{json}");
    assert_eq!(json["repair"]["state"], "completed");
    assert_eq!(json["after"]["is_clean"], true);
}

async fn what_no_recompute_mends_is_said_and_not_enqueued(engine: Engine) {
    let db = histories(engine).await;
    db.execute("UPDATE labs SET historicalViewEnabled = 0 WHERE id = 2", args![]).await;
    plant_ghost(&db, 99, "2026-06-05").await;
    plant_ghost(&db, KOLKATA, "2026-06-05").await;
    let _worker = Process::start(&db, &["--now", NOW, "worker"]);
    let (code, _, err) = audit(&db, &["--repair", "--wait"]);
    assert_eq!(code, DRIFT, "some drift is left");
    assert!(err.contains("lab 99: 1 row(s) on 1 day(s) are not repaired: there is no such lab"), "{err}");
    assert!(err.contains("lab 2:") && err.contains("its Historical View is off"), "{err}");
    assert!(err.contains("DELETE FROM operation_historical_summary WHERE lab_id = 99"), "{err}");
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs").await, 1);
    let (code, json) = audit_json(&db, &["--repair", "--wait"]);
    assert_eq!(code, DRIFT);
    assert_eq!(json["repair"]["run"], Value::Null, "nothing is left that a recompute can correct");
    assert_eq!(json["repair"]["beyond_repair"].as_array().unwrap().len(), 2);
    // Following the advice is enough.
    for lab in [NEW_YORK, 99] {
        db.execute("DELETE FROM operation_historical_summary WHERE lab_id = ?", args![lab]).await;
    }
    assert_eq!(audit(&db, &[]).0, CLEAN);
}

async fn with_logs_as_json_every_line_beside_the_report_is_an_object(engine: Engine) {
    let db = histories(engine).await;
    db.execute("UPDATE labs SET labTimeZone = 'Mars/X' WHERE id = 2", args![]).await;
    plant_ghost(&db, 99, "2026-06-05").await;
    let (code, _, err) = audit(&db, &["--log-format", "json", "--repair"]);
    assert_eq!(code, DRIFT);
    let lines: Vec<Value> = err.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let said: Vec<&str> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert!(said[0].starts_with("lab 2 cannot be audited: "), "{err}");
    assert!(said[1].starts_with("lab 99: 1 row(s) on 1 day(s) are not repaired"), "{err}");
    assert!(lines.iter().all(|line| line["level"] == "WARN"), "{err}");
    let repair = ["--now", NOW, "--log-format", "json", "repair", "--day", "2026-06-05", "--dry-run"];
    let err = String::from_utf8(run(&db, &repair).stderr).unwrap();
    let line: Value = serde_json::from_str(err.trim()).expect(&err);
    assert_eq!(line["level"], "WARN");
    assert!(line["message"].as_str().unwrap().starts_with("lab 2 is left out: "), "{err}");
}

async fn bad_input_is_refused(engine: Engine) {
    let db = histories(engine).await;
    for (arguments, expected) in [
        (&["--lab", "7"][..], "lab 7 does not exist"),
        (&["--from", "2026-06-09", "--to", "2026-06-01"], "--to 2026-06-01 is before --from 2026-06-09"),
        (&["--wait"], "--repair"),
        (&["--dry-run"], "--repair"),
        (&["--seed", "7"], "--sample"),
        (&["--sample", "0"], "--sample <N>"),
        (&["--except", "nonsense"], "wrong_count"),
        (&["history", "7"], "audit 7 does not exist"),
    ] {
        let mut all = vec!["--now", NOW, "audit"];
        all.extend(arguments);
        let error = run_fails(&db, USAGE, &all);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    // Before `daymend migrate`, everything works except the repair and the history.
    let bare = TestDb::source_only(engine).await;
    bare.add_lab(1, Some("Asia/Kolkata")).await;
    bare.fill_lab(1, "2026-06-08".parse().unwrap(), 2, 1).await;
    if engine == Engine::MariaDb {
        run_fails(&bare, DRIFT, &["--now", NOW, "audit"]);
    }
    run_fails(&bare, SCHEMA, &["--now", NOW, "audit", "--repair"]);
    run_fails(&bare, SCHEMA, &["--now", NOW, "audit", "history"]);
}
