//! Bad input, and what is missing or cannot be reached: one clear line and an exit code, and nothing is half done.

use std::fs;

use daymend::args;
use serde_json::Value;

use super::{NOW, USAGE, assert_one_line, labs, written};
use crate::{
    on_both,
    support::{
        Engine, TestDb,
        doctor::examine,
        process::{command, run, run_fails, run_ok, run_says},
        work::jobs_changed,
    },
};

const UNAVAILABLE: i32 = 4;

on_both! {
    bad_input_is_one_line_and_changes_nothing;
    a_worker_without_the_rollup_of_the_queue_does_not_start;
    a_missing_table_or_column_is_named;
    a_database_without_any_source_table_is_taken_for_another_one;
    options_that_would_do_nothing_are_not_taken_in_silence;
    a_day_that_fits_no_lab_is_refused_in_few_words;
}

async fn bad_input_is_one_line_and_changes_nothing(engine: Engine) {
    let db = labs(engine).await;
    let broken = jobs_changed(|_, text| text.replacen("counts = \"bills\"", "counts = \"bils\"", 1));
    let jobs_dir = broken.path().to_str().unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["repair", "--day", "2026-06-14", "--lab", "9"], "lab 9 does not exist"),
        (&["repair", "--day", "2026-06-14", "--lab", "1", "--lab", "9"], "lab 9 does not exist"),
        (&["repair", "--day", "2026-06-15", "--lab", "1"], "2026-06-15 is not over yet"),
        (&["repair", "--day", "2027-01-01"], "2027-01-01 is not over yet"),
        (&["repair", "--day", "2026-06-01", "--lab", "1"], "2026-06-01 is before its first bill"),
        (&["repair", "--day", "2026-06-14", "--to", "2026-06-10"], "--to 2026-06-10 is before --day 2026-06-14"),
        (&["repair", "--day", "2026-06-14", "--lab", "3"], "time zone \"Mars/Base\" is unknown"),
        (&["rebuild", "--lab", "1", "--lab", "9"], "lab 9 does not exist"),
        (&["rebuild", "--lab", "1,9"], "lab 9 does not exist"),
        (&["repair", "--day", "2026-06-14", "--lab", "1,9"], "lab 9 does not exist"),
        (&["rebuild", "--lab", "3"], "time zone \"Mars/Base\" is unknown"),
        (&["runs", "show", "77"], "run 77 does not exist"),
        (&["audit", "--lab", "1", "--from", "2027-03-15"], "no day to compare"),
        (&["runs", "cancel", "77"], "run 77 does not exist"),
        (&["worker", "--lease", "10s", "--heartbeat", "8s"], "at least twice --heartbeat"),
        (&["worker", "--heartbeat", "0s"], "--heartbeat (0s) must be more than 0s"),
        (&["worker", "--job-timeout", "0s"], "--job-timeout"),
        (&["demo"], "demo takes no --now"),
        (&["--jobs-dir", jobs_dir, "scheduler", "--once"], "rollup.toml:39: \"bils\" is not one of [facts]"),
        (&["--jobs-dir", "/nowhere", "scheduler", "--once"], "/nowhere:1: cannot be read"),
    ];
    for (arguments, expected) in cases {
        let mut all = vec!["--now", NOW];
        all.extend(*arguments);
        let error = run_fails(&db, USAGE, &all);
        assert_one_line(&error);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    for (arguments, option) in
        [(&["demo", "--json"][..], "--json"), (&["--database-url", "sqlite:x", "demo"], "--database-url")]
    {
        let error = run_fails(&db, USAGE, arguments);
        assert_one_line(&error);
        assert!(error.contains(&format!("demo takes no {option}")), "{error}");
    }
    // clap's own messages, which span lines, name the flag and the value.
    for (arguments, expected) in [
        (&["repair", "--day", "2026-02-30"][..], "2026-02-30"),
        (&["repair"], "--day"),
        (&["repair", "--day", "2026-06-14", "--as-of", "2026-06-14 04:00:00"], "--as-of"),
        (&["repair", "--as-of", "2026-06-14 04:00:00", "--to", "2026-06-14"], "--to"),
        (&["repair", "--as-of", "yesterday"], "expected a UTC moment"),
        (&["scheduler", "--once", "--nightly-at", "4 o'clock"], "04:00 UTC"),
        (&["worker", "--concurrency", "0"], "--concurrency"),
        (&["worker", "--lease", "soon"], "--lease"),
        (&["--now", "noon", "runs", "list"], "--now"),
        (&["--now", "+262142-12-31T23:59:59Z", "scheduler", "--once"], "--now"),
        (&["repair", "--as-of", "+262142-12-31 23:59:59"], "expected a UTC moment"),
        (&["queue", "cancel", "--from", "+10000-01-01"], "its year is not between 1 and 9999"),
        (&["runs", "list", "--limit", "0"], "--limit"),
        (&["queue", "list", "--limit", "0"], "--limit"),
        (&["queue", "log", "--limit", "0"], "--limit"),
        (&["audit", "history", "--limit", "0"], "--limit"),
        (&["mend"], "mend"),
    ] {
        let error = run_fails(&db, USAGE, arguments);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    for several in [&["queue", "list", "--lab", "1,2"][..], &["audit", "--lab", "1,2", "--except", "missing"]] {
        run_ok(&db, several);
    }
    assert_eq!(written(&db).await, [0, 0, 0]);

    let check = run(&db, &["--jobs-dir", jobs_dir, "rollups", "check"]);
    assert_eq!(check.status.code(), Some(USAGE));
    let (lines, error) = (String::from_utf8(check.stdout).unwrap(), String::from_utf8(check.stderr).unwrap());
    assert_eq!((lines.lines().count(), error.as_str()), (1, ""), "{lines}");
    assert!(lines.contains("historical_summary/rollup.toml:39:"), "{lines}");
    let check = run(&db, &["--jobs-dir", jobs_dir, "rollups", "check", "--json"]);
    let json: Value = serde_json::from_slice(&check.stdout).unwrap();
    assert_eq!((check.status.code(), json["problems"].as_array().unwrap().len()), (Some(USAGE), 1), "{json}");
}

/// It would discard every job that it claims.
async fn a_worker_without_the_rollup_of_the_queue_does_not_start(engine: Engine) {
    let db = labs(engine).await;
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-14"]);
    let other = jobs_changed(|_, text| text.replacen("name = \"historical_summary\"", "name = \"site_summary\"", 1));
    fs::rename(other.path().join("historical_summary"), other.path().join("site_summary")).unwrap();
    let jobs_dir = other.path().to_str().unwrap();
    for service in [&["worker"][..], &["worker", "--drain"], &["scheduler"], &["serve"]] {
        let error = run_fails(&db, USAGE, &[&["--jobs-dir", jobs_dir][..], service].concat());
        assert!(error.contains("no rollup is named historical_summary"), "{service:?}: {error}");
    }
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state <> 'available'").await, 0);
}

async fn a_missing_table_or_column_is_named(engine: Engine) {
    let db = labs(engine).await;
    db.execute("ALTER TABLE billingInfo RENAME COLUMN branch_id TO site_id", args![]).await;
    let error = run_fails(&db, USAGE, &["--now", NOW, "repair", "--day", "2026-06-14"]);
    assert_one_line(&error);
    assert!(error.contains("bills.sql") && error.contains("branch_id"), "{error}");
    db.execute("DROP TABLE collectedSample", args![]).await;
    for arguments in [&["scheduler", "--once"][..], &["worker", "--drain"], &["rebuild", "--lab", "1"]] {
        let error = run_fails(&db, USAGE, arguments);
        assert_one_line(&error);
        assert!(error.contains("samples.sql") && error.contains("collectedSample"), "{error}");
    }
    let check = run_says(&db, USAGE, &["rollups", "check"]);
    let lines: Vec<&str> = check.lines().collect();
    assert_eq!(lines.len(), 2, "{check}");
    // The line numbers are those of the files in jobs/.
    assert!(lines[0].contains("historical_summary/bills.sql:6: ") && lines[0].contains("branch_id"), "{check}");
    assert!(lines[1].contains("historical_summary/samples.sql:2: ") && lines[1].contains("collectedSample"), "{check}");
    db.execute("ALTER TABLE operation_historical_summary RENAME COLUMN event_count TO total", args![]).await;
    let check = run_says(&db, USAGE, &["rollups", "check"]);
    let summary = check.lines().nth(2).unwrap();
    let place = "historical_summary/rollup.toml [summary]: statement \"read summary\": ";
    assert!(summary.contains(place) && summary.contains("event_count"), "{check}");
    assert_eq!(written(&db).await, [0, 0, 0]);
    // One of daymend's own tables, which is read without a check that it exists.
    db.execute("DROP TABLE daymend_pauses", args![]).await;
    let error = run_fails(&db, USAGE, &["queue", "stats"]);
    assert_one_line(&error);
    assert!(error.contains("daymend_pauses"), "{error}");
}

/// Nobody is told to rename tables: not while all of them are missing.
async fn a_database_without_any_source_table_is_taken_for_another_one(engine: Engine) {
    let db = TestDb::new(engine).await;
    let another = "historical_summary: no table that it reads is here; is this the lab system's database? Check the";
    for table in ["collectedSample", "labReportRelation", "allTests", "billingInfo", "billing"] {
        db.execute(&format!("DROP TABLE {table}"), args![]).await;
    }
    assert!(run_says(&db, USAGE, &["rollups", "check"]).contains("bills.sql"), "one table is left");
    db.execute("DROP TABLE labs", args![]).await;
    let check = run_says(&db, USAGE, &["rollups", "check"]);
    assert!(check.starts_with(another) && check.lines().count() == 1, "{check}");
    for arguments in
        [&["scheduler", "--once"][..], &["worker", "--drain"], &["repair", "--day", "2026-06-14"], &["audit"]]
    {
        let error = run_fails(&db, USAGE, arguments);
        assert_one_line(&error);
        assert!(error.contains(another), "{error}");
    }
    let advice = examine(&db).advice("tables.source", "error");
    assert!(advice.starts_with("Check the database's URL") && !advice.contains("export"), "{advice}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_reached_is_said_so_without_its_password() {
    let mut db = TestDb::source_only(Engine::Sqlite).await;
    let far = "mysql://daymend:verysecret@127.0.0.1:1/lab";
    let error = run_fails(&db, UNAVAILABLE, &["audit", "--read-url", far]);
    assert!(error.starts_with("error: --read-url: the database 127.0.0.1:1/lab cannot be reached: "), "{error}");
    let error = run_fails(&db, USAGE, &["audit", "--read-url", "postgres://x"]);
    assert!(error.starts_with("error: --read-url: the database URL must begin"), "{error}");
    for (url, place) in [(far, "127.0.0.1:1/lab"), ("sqlite:/nowhere/lab.db", "/nowhere/lab.db")] {
        db.url = url.to_owned();
        let error = run_fails(&db, UNAVAILABLE, &["runs", "list"]);
        assert_one_line(&error);
        assert!(error.contains(&format!("the database {place} cannot be reached")), "{error}");
        assert!(!error.contains("verysecret"), "{error}");
        // The cause is named, not only the pool's timeout.
        assert!(error.contains("refused") || error.contains("unable to open database file"), "{error}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "a letter to somebody").unwrap();
    db.url = format!("sqlite:{}", file.path().display());
    let error = run_fails(&db, USAGE, &["runs", "list"]);
    assert!(error.contains(&format!("the database {} is not a SQLite database", file.path().display())), "{error}");
    db.url = "mysql:/daymend:verysecret@127.0.0.1/lab".to_owned();
    let error = run_fails(&db, USAGE, &["runs", "list"]);
    assert!(error.contains("must begin with mysql://") && !error.contains("verysecret"), "{error}");
    db.url = "postgres://daymend:verysecret@127.0.0.1/lab".to_owned();
    let error = run_fails(&db, USAGE, &["runs", "list"]);
    assert!(error.contains("must begin with mysql:// or sqlite:") && !error.contains("verysecret"), "{error}");
}

#[tokio::test]
async fn with_logs_as_json_the_error_that_ends_a_command_is_json_too() {
    let db = TestDb::new(Engine::Sqlite).await;
    let output = command(&db, &["worker", "--lease", "1s"]).env("DAYMEND_LOG_FORMAT", "json").output().unwrap();
    assert_eq!(output.status.code(), Some(USAGE));
    let text = String::from_utf8(output.stderr).unwrap();
    let line: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(line["level"], "ERROR", "{text}");
    assert!(line["message"].as_str().unwrap().contains("--lease"), "{text}");
    // So is an error about the arguments. `--log-format` overrides the variable; `--help` still prints help.
    for (args, json) in [
        (&["repair", "--day", "2026-02-30", "--log-format", "json"][..], true),
        (&["--log-format=json", "repair", "--day", "2026-02-30"], true),
        (&["--log-format=text", "repair", "--day", "2026-02-30"], false),
    ] {
        let output = command(&db, args).env("DAYMEND_LOG_FORMAT", "json").output().unwrap();
        assert_eq!(output.status.code(), Some(USAGE), "{args:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        let expected = "invalid value '2026-02-30' for '--day <DAY>': expected a day such as 2026-03-15";
        match serde_json::from_str::<Value>(&text) {
            Ok(line) => assert_eq!((&line["level"], &line["message"], json), (&"ERROR".into(), &expected.into(), true)),
            Err(_) => assert!(!json && text.starts_with(&format!("error: {expected}\n\n")), "{text}"),
        }
    }
    let missing = run_fails(&db, USAGE, &["repair", "--log-format", "json"]);
    let missing: Value = serde_json::from_str(&missing).unwrap();
    let expected = "the following required arguments were not provided: <--day <DAY>|--as-of <TIME>>";
    assert_eq!(missing["message"], expected);
    let help = run_ok(&db, &["repair", "--help", "--log-format", "json"]);
    assert!(help.contains("Usage: daymend repair"), "{help}");
    // And so is a result that cannot be written.
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = command(&db, &["runs", "list", "--log-format", "json"]).stdout(full).output().unwrap();
    let line: Value = serde_json::from_slice(&output.stderr).unwrap();
    let message = line["message"].as_str().unwrap();
    assert!(message.starts_with("cannot write the result: No space left"), "{line}");
}

#[tokio::test]
async fn switches_in_the_environment_take_the_usual_words_and_empty_variables_count_for_nothing() {
    let db = TestDb::new(Engine::Sqlite).await;
    let once = ["--now", NOW, "scheduler", "--once"];
    for value in ["1", "0", "yes", "no", "true", "false", "on", "off", ""] {
        for name in ["DAYMEND_LAB_METRICS", "DAYMEND_AUDIT_REPAIR"] {
            let output = command(&db, &once).env(name, value).output().unwrap();
            assert!(output.status.success(), "{name}={value}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    for name in ["DAYMEND_LAB_METRICS", "DAYMEND_AUDIT_REPAIR"] {
        let output = command(&db, &once).env(name, "x").output().unwrap();
        assert_eq!(output.status.code(), Some(USAGE), "{name}=x");
    }
    for name in ["DAYMEND_SNAPSHOT_STORE", "DAYMEND_JOBS_DIR", "DAYMEND_RETENTION", "DAYMEND_LOG_FORMAT"] {
        let output = command(&db, &once).env(name, "").output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let error =
        String::from_utf8(command(&db, &once).env("DAYMEND_DATABASE_URL", "").output().unwrap().stderr).unwrap();
    assert!(error.contains("no database is given"), "{error}");
}

async fn options_that_would_do_nothing_are_not_taken_in_silence(engine: Engine) {
    let db = labs(engine).await;
    let once = ["--now", NOW, "scheduler", "--once"];
    let error = run_fails(&db, USAGE, &[&once[..], &["--snapshot-to", "/tmp"]].concat());
    assert_one_line(&error);
    assert!(error.contains("takes no snapshot: leave --snapshot-to out"), "{error}");
    assert_eq!(written(&db).await, [0, 0, 0]);
    // A variable in the environment may be meant for other commands.
    let ended = command(&db, &once).env("DAYMEND_SNAPSHOT_STORE", "/tmp").output().unwrap();
    assert!(ended.status.success(), "{ended:?}");

    // A lab without bills: nothing is to be waited for.
    db.add_lab(4, Some("Asia/Kolkata")).await;
    let said = |args: &[&str]| {
        let mut rebuild = command(&db, &[&["--now", NOW, "rebuild", "--lab", "4"], args].concat());
        let output = rebuild.env("DAYMEND_ATTEMPTS", "3").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for (option, value) in [("--attempts", "2"), ("--max-shrink", "30%")] {
        let warning = format!("warning: {option} has no effect without --wait: the scheduler's setting applies\n");
        assert_eq!(said(&[option, value, "--dry-run"]), warning);
        assert_eq!(said(&[option, value, "--wait"]), "");
    }
    assert_eq!(said(&["--dry-run"]), "");

    let before = written(&db).await;
    for (args, option) in [
        (&["repair", "--day", "2026-06-14", "--dry-run", "--wait"][..], "--dry-run"),
        (&["rebuild", "--lab", "1", "--dry-run", "--wait"], "--dry-run"),
        (&["snapshot", "undo", "x.undo.jsonl", "--dry-run", "--wait"], "--dry-run"),
        (&["snapshot", "restore", "latest", "--missing", "--wait"], "--apply"),
        (&["snapshot", "restore", "latest", "--missing", "--undo-file", "x.undo.jsonl"], "--apply"),
    ] {
        let error = run_fails(&db, USAGE, &[&["--now", NOW], args].concat());
        assert!(error.contains(option) && error.contains("Usage:"), "{args:?}: {error}");
    }
    assert_eq!(written(&db).await, before);
}

async fn a_day_that_fits_no_lab_is_refused_in_few_words(engine: Engine) {
    let db = labs(engine).await;
    for lab in 4..=60 {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
    }
    let error = run_fails(&db, USAGE, &["--now", NOW, "repair", "--day", "2020-01-01"]);
    assert_one_line(&error);
    assert!(error.contains("lab 1: 2020-01-01 is before its first bill") && error.contains("and 57 more labs"));
    assert!(error.len() < 500, "{error}");
}
