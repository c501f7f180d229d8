//! What a person or a script sees of the commands: bad input gets one clear line and an exit
//! code, with nothing half done; doing things twice changes nothing the second time.

use std::{
    fs::{self, Permissions},
    io::{BufRead as _, BufReader},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use daymend::args;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, MySqlConnection};

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        http::get,
        process::{Process, command, run, run_fails, run_ok},
        server, wait_until,
        work::jobs_changed,
    },
};

pub const NOW: &str = "2026-06-15T12:00:00Z";
pub const LIMIT: Duration = Duration::from_secs(180);
pub const USAGE: i32 = 2;
const UNAVAILABLE: i32 = 4;

on_both! {
    bad_input_is_one_line_and_changes_nothing;
    a_missing_table_or_column_is_named;
    definitions_are_written_out_to_be_changed;
    every_command_twice_changes_nothing_the_second_time;
    dry_runs_change_nothing;
    repair_as_of_does_yesterday_of_each_lab;
    a_repair_begins_with_the_first_bill_or_row_of_each_lab;
    results_for_machines_are_objects_with_names;
    wait_follows_a_run_and_ends_with_its_result;
    a_rebuild_that_waits_takes_its_own_labs_alone;
    whoever_stops_waiting_is_told_how_to_go_on;
    a_moment_that_is_ahead_of_the_databases_clock_is_warned_of;
    a_repair_of_a_lab_that_is_off_says_so;
    a_day_that_fits_no_lab_is_refused_in_few_words;
    a_bench_whose_workers_could_not_run_enqueues_nothing;
    a_standard_error_that_is_full_stops_nobody;
    runs_can_be_listed_shown_and_cancelled;
}

/// Two labs with a week of bills up to 14 June, and one with an unknown zone.
pub async fn labs(engine: Engine) -> TestDb {
    let db = TestDb::new(engine).await;
    for (lab, zone) in [(1, "Asia/Kolkata"), (2, "America/New_York"), (3, "Mars/Base")] {
        db.add_lab(lab, Some(zone)).await;
        db.fill_lab(lab, "2026-06-08".parse().unwrap(), 7, 4).await;
    }
    db
}

async fn written(db: &TestDb) -> [i64; 3] {
    [
        db.number("SELECT COUNT(*) FROM daymend_runs").await,
        db.number("SELECT COUNT(*) FROM daymend_jobs").await,
        db.number("SELECT COUNT(*) FROM crelio_data_migrations").await,
    ]
}

/// An error is one line that begins with `error:`; what was left out may stand before it.
pub fn assert_one_line(error: &str) {
    let lines: Vec<&str> = error.lines().filter(|line| line.starts_with("error:")).collect();
    assert_eq!(lines.len(), 1, "{error}");
    assert_eq!(error.lines().last(), lines.first().copied(), "{error}");
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
    assert_eq!(written(&db).await, [0, 0, 0]);

    let check = run(&db, &["--jobs-dir", jobs_dir, "rollups", "check"]);
    assert_eq!(check.status.code(), Some(USAGE));
    let lines = String::from_utf8(check.stderr).unwrap();
    assert_eq!(lines.lines().count(), 1, "{lines}");
    assert!(lines.contains("historical_summary/rollup.toml:39:"), "{lines}");
    let check = run(&db, &["--jobs-dir", jobs_dir, "rollups", "check", "--json"]);
    let json: Value = serde_json::from_slice(&check.stdout).unwrap();
    assert_eq!((check.status.code(), json["problems"].as_array().unwrap().len()), (Some(USAGE), 1), "{json}");
}

async fn definitions_are_written_out_to_be_changed(engine: Engine) {
    let db = labs(engine).await;
    let dir = tempfile::tempdir().unwrap();
    let jobs = dir.path().join("new/jobs");
    let jobs = jobs.to_str().unwrap();
    assert!(run_ok(&db, &["rollups", "export", jobs]).contains("--jobs-dir"));
    let mut files = 0;
    for entry in fs::read_dir("jobs/historical_summary").unwrap() {
        let entry = entry.unwrap();
        let written = format!("{jobs}/historical_summary/{}", entry.file_name().to_str().unwrap());
        assert_eq!(fs::read_to_string(&written).unwrap(), fs::read_to_string(entry.path()).unwrap(), "{written}");
        files += 1;
    }
    assert_eq!(fs::read_dir(format!("{jobs}/historical_summary")).unwrap().count(), files);
    assert!(run_ok(&db, &["--jobs-dir", jobs, "rollups", "check"]).contains("no problem found"));
    // What somebody has changed is not written over, nor is what is missing put beside it.
    let changed = format!("{jobs}/historical_summary/tests.sql");
    fs::write(&changed, "SELECT 1").unwrap();
    fs::remove_file(format!("{jobs}/historical_summary/bills.sql")).unwrap();
    let error = run_fails(&db, USAGE, &["rollups", "export", jobs]);
    assert!(error.contains("is there already: nothing was written"), "{error}");
    assert_eq!(fs::read_to_string(&changed).unwrap(), "SELECT 1");
    assert!(!fs::exists(format!("{jobs}/historical_summary/bills.sql")).unwrap());
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
    let check = run_fails(&db, USAGE, &["rollups", "check"]);
    let lines: Vec<&str> = check.lines().collect();
    assert_eq!(lines.len(), 2, "{check}");
    // By the lines of the files in jobs/.
    assert!(lines[0].contains("historical_summary/bills.sql:6: ") && lines[0].contains("branch_id"), "{check}");
    assert!(lines[1].contains("historical_summary/samples.sql:2: ") && lines[1].contains("collectedSample"), "{check}");
    db.execute("ALTER TABLE operation_historical_summary RENAME COLUMN event_count TO total", args![]).await;
    let check = run_fails(&db, USAGE, &["rollups", "check"]);
    let summary = check.lines().nth(2).unwrap();
    let place = "historical_summary/rollup.toml [summary]: statement \"read summary\": ";
    assert!(summary.contains(place) && summary.contains("event_count"), "{check}");
    assert_eq!(written(&db).await, [0, 0, 0]);
    // One of daymend's own, which is read without a look at it before.
    db.execute("DROP TABLE daymend_pauses", args![]).await;
    let error = run_fails(&db, USAGE, &["queue", "stats"]);
    assert_one_line(&error);
    assert!(error.contains("daymend_pauses"), "{error}");
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
        // Why, too, and not only that a pool has waited.
        assert!(error.contains("refused") || error.contains("unable to open database file"), "{error}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "a letter to somebody").unwrap();
    db.url = format!("sqlite:{}", file.path().display());
    let error = run_fails(&db, USAGE, &["runs", "list"]);
    assert!(error.contains(&format!("the database {} is no SQLite database", file.path().display())), "{error}");
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
    // So is what cannot be understood at all, whoever asks for JSON; what asks for help is answered with help.
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

/// Process 1 of a container dies of no signal that it has not asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_waits_ends_when_it_is_told_to() {
    let db = TestDb::new(Engine::MariaDb).await;
    let mut somebody = MySqlConnection::connect(&server::url(server::shared_port(), db.name())).await.unwrap();
    somebody.execute("LOCK TABLES daymend_runs WRITE").await.unwrap();
    let waiting = "SELECT COUNT(*) FROM information_schema.processlist
                   WHERE db = DATABASE() AND state LIKE 'Waiting for table%'";
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        // The server does not notice that who waits has ended.
        let before = db.number(waiting).await;
        let mut list = Process::start(&db, &["runs", "list"]);
        wait_until("the command to wait", LIMIT, async || db.number(waiting).await > before).await;
        list.signal(signal);
        assert_eq!(list.wait(LIMIT), Some(code));
    }
}

/// A worker in the middle of a job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_worker_at_once() {
    let db = labs(Engine::MariaDb).await;
    for (day, signal, code) in [("2026-06-12", "TERM", 143), ("2026-06-13", "INT", 130)] {
        run_ok(&db, &["queue", "pause", "repair"]);
        run_ok(&db, &["--now", NOW, "repair", "--day", day, "--lab", "1"]);
        let workers = "SELECT COUNT(*) FROM daymend_workers";
        let before = db.number(workers).await;
        let (mut worker, address) = Process::start_with_pages(&db, &["--now", NOW, "worker"]);
        wait_until("the worker to register", LIMIT, async || db.number(workers).await > before).await;
        let mut somebody = MySqlConnection::connect(&server::url(server::shared_port(), db.name())).await.unwrap();
        somebody.execute("LOCK TABLES operation_historical_summary WRITE").await.unwrap();
        run_ok(&db, &["queue", "resume", "repair"]);
        let held = "SELECT COUNT(*) FROM information_schema.processlist
                    WHERE db = DATABASE() AND state LIKE 'Waiting for table%'";
        wait_until("the job to run", LIMIT, async || db.number(held).await > 0).await;
        worker.signal(signal);
        // Two that come before it looks are one to it.
        wait_until("the worker to hear it", Duration::from_secs(20), async || {
            get(&address, "/readyz").unwrap().body.contains("process: shutting down")
        })
        .await;
        assert!(worker.is_running(), "it finishes what has begun");
        worker.signal(signal);
        assert_eq!(worker.wait(Duration::from_secs(20)), Some(code));
        db.execute("DELETE FROM daymend_jobs", args![]).await;
    }
}

async fn every_command_twice_changes_nothing_the_second_time(engine: Engine) {
    let db = labs(engine).await;
    let once = || run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    let drain = || run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    assert!(once().contains("1 job(s) enqueued"));
    let before = written(&db).await;
    assert!(once().contains("nothing is due"));
    assert_eq!(written(&db).await, before);
    drain();
    drain();
    // Workers in the background carry the runs out that the commands wait for.
    let _serve = Process::start(&db, &["--now", NOW, "serve"]);
    let summary = "SELECT COUNT(*) FROM operation_historical_summary";
    for command in [
        &["rebuild", "--lab", "1", "--wait"][..],
        &["repair", "--day", "2026-06-12", "--to", "2026-06-14", "--lab", "2", "--wait"],
    ] {
        let mut arguments = vec!["--now", NOW];
        arguments.extend(command);
        let first = run_ok(&db, &arguments);
        assert!(first.contains("completed") && !first.contains("0 rows written:"), "{first}");
        let rows = db.number(summary).await;
        let second = run_ok(&db, &arguments);
        assert!(second.contains("0 rows written: everything was right"), "{second}");
        assert_eq!(db.number(summary).await, rows);
    }
}

async fn dry_runs_change_nothing(engine: Engine) {
    let db = labs(engine).await;
    db.add_lab(9, Some("Asia/Kolkata")).await;
    let nothing = run_ok(&db, &["--now", NOW, "rebuild", "--lab", "9", "--dry-run"]);
    assert_eq!(nothing, "lab 9: nothing to do, it has no bills and no rows up to 2026-06-14\n");
    let repair = run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-12", "--to", "2026-06-14", "--dry-run"]);
    assert!(repair.contains("would enqueue lab 1: 3 job(s), 2026-06-12 to 2026-06-14"), "{repair}");
    assert!(repair.contains("would enqueue 6 job(s) in one run"), "{repair}");
    let rebuild = run_ok(&db, &["--now", NOW, "rebuild", "--lab", "1", "--dry-run"]);
    assert!(rebuild.contains("would enqueue lab 1:"), "{rebuild}");
    let json = run_ok(&db, &["--now", NOW, "--json", "rebuild", "--lab", "1", "--dry-run"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json[0]["days"].as_array().unwrap().len() >= 7, "{json}");
    assert_eq!(written(&db).await, [0, 0, 0]);
}

async fn a_repair_begins_with_the_first_bill_or_row_of_each_lab(engine: Engine) {
    let db = labs(engine).await;
    // Lab 1 has bills from 8 June on, lab 2 from 7 June on, lab 4 none; rows before that are wrong.
    db.add_lab(4, Some("Asia/Kolkata")).await;
    db.add_summary_row(4, "2026-06-05", 1, 1, "branch_bill", 3).await;
    db.add_summary_row(2, "2026-06-06", 1, 1, "branch_bill", 3).await;
    let span = ["--now", NOW, "repair", "--day", "2026-06-01", "--to", "2026-06-10"];
    let planned = run(&db, &[&span[..], &["--dry-run", "--json"]].concat());
    let plan: Value = serde_json::from_slice(&planned.stdout).unwrap();
    let first_days = [(1, "2026-06-08"), (2, "2026-06-06"), (4, "2026-06-05")];
    let clipped: Vec<Value> = first_days.iter().map(|(lab, day)| json!({ "lab": lab, "first_day": day })).collect();
    assert_eq!((&plan["clipped"], &plan["left_out"][0]["lab"]), (&clipped.into(), &3.into()), "{plan}");
    let days: Vec<usize> =
        plan["labs"].as_array().unwrap().iter().map(|lab| lab["days"].as_array().unwrap().len()).collect();
    assert_eq!((days, &plan["labs"][0]["days"][0]), (vec![3, 5, 6], &"2026-06-08".into()), "{plan}");
    let said = String::from_utf8_lossy(&planned.stderr).into_owned();
    let begin = "3 lab(s) begin later: lab 1 on 2026-06-08, lab 2 on 2026-06-06, lab 4 on 2026-06-05";
    assert!(said.contains(begin), "{said}");
    // A lab that is named begins no sooner.
    let named = run(&db, &[&span[..], &["--lab", "1", "--dry-run"]].concat());
    assert_eq!(
        String::from_utf8_lossy(&named.stdout).lines().next(),
        Some("would enqueue lab 1: 3 job(s), 2026-06-08 to 2026-06-10")
    );
    let said = String::from_utf8_lossy(&named.stderr).into_owned();
    assert!(said.contains("1 lab(s) begin later: lab 1 on 2026-06-08 ("), "{said}");
    // Whoever has rows or bills from the first day on is no such lab.
    let exact = ["--now", NOW, "repair", "--day", "2026-06-08", "--to", "2026-06-10", "--lab", "1", "--lab", "2"];
    let exact: Value = serde_json::from_str(&run_ok(&db, &[&exact[..], &["--dry-run", "--json"]].concat())).unwrap();
    assert_eq!((&exact["clipped"], &exact["labs"][1]["days"][2]), (&json!([]), &"2026-06-10".into()), "{exact}");
    assert_eq!(written(&db).await, [0, 0, 0]);
    let enqueued: Value = serde_json::from_str(&run_ok(&db, &[&span[..], &["--json"]].concat())).unwrap();
    assert_eq!((&enqueued["jobs"], &enqueued["clipped"][2]["lab"]), (&14.into(), &4.into()), "{enqueued}");
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    assert_eq!(db.number("SELECT COUNT(*) FROM operation_historical_summary WHERE ordered_at < '2026-06-07'").await, 0);
}

async fn results_for_machines_are_objects_with_names(engine: Engine) {
    let db = labs(engine).await;
    let tick: Value = serde_json::from_str(&run_ok(&db, &["--now", NOW, "scheduler", "--once", "--json"])).unwrap();
    assert_eq!(tick["unusable"][0]["lab"], 3, "{tick}");
    assert!(tick["unusable"][0]["why"].as_str().unwrap().contains("Mars/Base"), "{tick}");
    assert_eq!((&tick["held"], &tick["unusable"][1]), (&json!([]), &Value::Null), "{tick}");
    let stats: Value = serde_json::from_str(&run_ok(&db, &["queue", "stats", "--json"])).unwrap();
    let jobs = db.number("SELECT COUNT(*) FROM daymend_jobs").await;
    assert_eq!(stats["counts"], json!([{ "kind": "nightly", "state": "available", "jobs": jobs }]));
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    let list: Value = serde_json::from_str(&run_ok(&db, &["queue", "list", "--json"])).unwrap();
    let sum = |what| list.as_array().unwrap().iter().map(|job| job["rows"][what].as_i64().unwrap()).sum::<i64>();
    let rows = db.number("SELECT COUNT(*) FROM operation_historical_summary").await;
    assert_eq!(["inserted", "updated", "deleted"].map(sum), [rows, 0, 0], "{list}");
}

async fn repair_as_of_does_yesterday_of_each_lab(engine: Engine) {
    let db = labs(engine).await;
    // At 03:00 UTC it is 13 June in Kolkata, but still the evening of 12 June in New York.
    run_ok(&db, &["--now", NOW, "repair", "--as-of", "2026-06-13 03:00:00"]);
    let days = db.rows("SELECT lab_id, day FROM daymend_jobs ORDER BY lab_id", args![]).await;
    let days: Vec<_> = days.iter().map(|row| (row.int(0).unwrap(), row.date(1).unwrap().to_string())).collect();
    assert_eq!(days, [(1, "2026-06-12".to_owned()), (2, "2026-06-11".to_owned())]);
}

async fn wait_follows_a_run_and_ends_with_its_result(engine: Engine) {
    let db = labs(engine).await;
    db.execute("UPDATE labs SET labTimeZone = 'Europe/Berlin' WHERE id = 3", args![]).await;
    let mut waiting = Process::start(&db, &["--now", NOW, "repair", "--day", "2026-06-13", "--wait"]);
    wait_until("the run to be enqueued", LIMIT, || async { db.number("SELECT COUNT(*) FROM daymend_jobs").await == 3 })
        .await;
    db.execute("UPDATE labs SET labTimeZone = NULL WHERE id = 3", args![]).await;
    assert!(waiting.is_running());
    let _worker = Process::start(&db, &["--now", NOW, "worker"]);
    assert_eq!(waiting.wait(LIMIT), Some(1), "a failed run is an exit code of 1");
    let error = db.text("SELECT error FROM daymend_jobs WHERE state = 'discarded'").await;
    assert!(error.contains("lab 3") && error.contains("no time zone is set"), "{error}");
}

async fn a_rebuild_that_waits_takes_its_own_labs_alone(engine: Engine) {
    let db = labs(engine).await;
    let other = db.request_rebuild(2).await;
    let args = ["--now", NOW, "rebuild", "--lab", "1", "--wait", "--max-shrink", "30%", "--attempts", "2"];
    let mut rebuild = Process::start(&db, &args);
    wait_until("the run to be enqueued", LIMIT, || async { db.number("SELECT COUNT(*) FROM daymend_runs").await == 1 })
        .await;
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    assert_eq!(rebuild.wait(LIMIT), Some(0));
    assert_eq!(db.number("SELECT MIN(max_shrink) FROM daymend_runs WHERE lab_id = 1").await, 30);
    assert_eq!(db.number("SELECT MAX(attempts_max) FROM daymend_jobs WHERE lab_id = 1 AND kind = 'rebuild'").await, 2);
    // Of lab 2 the scheduler has taken the record, with its own limits.
    let sql = "SELECT attempts_max FROM daymend_jobs WHERE lab_id = 2 AND kind = 'rebuild' LIMIT 1";
    assert_eq!(db.number(sql).await, 5);
    assert!(db.record_status(other).await.starts_with("Running"));
}

async fn whoever_stops_waiting_is_told_how_to_go_on(engine: Engine) {
    let db = labs(engine).await;
    for (run, args, signal, code) in
        [(1, &["repair", "--day", "2026-06-12", "--wait"][..], "INT", 130), (1, &["runs", "watch", "1"], "TERM", 143)]
    {
        let mut waits = command(&db, &[&["--now", NOW], args].concat());
        let mut waits = waits.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(waits.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("no worker is alive")), "{args:?}");
        let id = waits.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &id]).status().unwrap().success());
        let rest: Vec<String> = lines.collect();
        assert_eq!(rest, [format!("run {run} goes on: daymend runs watch {run}")]);
        assert_eq!(waits.wait().unwrap().code(), Some(code));
    }
    // Whoever waits to the end is told nothing of the kind.
    let _worker = Process::start(&db, &["worker"]);
    let watched = run(&db, &["runs", "watch", "1"]);
    assert!(watched.status.success() && !String::from_utf8_lossy(&watched.stderr).contains("goes on"), "{watched:?}");
}

async fn a_moment_that_is_ahead_of_the_databases_clock_is_warned_of(engine: Engine) {
    let db = labs(engine).await;
    let far = "2099-01-01T12:00:00Z";
    for (now, args, is_warned) in [
        (far, &["repair", "--day", "2098-12-31", "--lab", "1", "--dry-run"][..], false),
        (far, &["runs", "list"], false),
        (NOW, &["scheduler", "--once"], false),
        (far, &["scheduler", "--once"], true),
        (far, &["repair", "--day", "2098-12-31", "--lab", "1"], true),
        (far, &["rebuild", "--lab", "1"], true),
    ] {
        let output = run(&db, &[&["--now", now], args].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {error}");
        assert_eq!(error.contains("ahead of the database's clock"), is_warned, "{args:?}: {error}");
    }
}

async fn a_repair_of_a_lab_that_is_off_says_so(engine: Engine) {
    let db = labs(engine).await;
    db.execute("UPDATE labs SET historicalViewEnabled = 0 WHERE id = 2", args![]).await;
    for (lab, is_said) in [("1", false), ("2", true)] {
        let repaired = run(&db, &["--now", NOW, "repair", "--day", "2026-06-12", "--lab", lab]);
        assert_eq!(repaired.status.code(), Some(0));
        let said = String::from_utf8_lossy(&repaired.stderr).contains("the Historical View of lab 2 is off");
        assert_eq!(said, is_said, "{repaired:?}");
        for dry_run in [&["--dry-run"][..], &[]] {
            let rebuilt = run(&db, &[&["--now", NOW, "rebuild", "--lab", lab][..], dry_run].concat());
            assert_eq!(rebuilt.status.code(), Some(0));
            let said = String::from_utf8_lossy(&rebuilt.stderr).contains("the Historical View of lab 2 is off");
            assert_eq!(said, is_said, "{rebuilt:?}");
        }
    }
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

async fn a_bench_whose_workers_could_not_run_enqueues_nothing(engine: Engine) {
    let db = labs(engine).await;
    db.execute("DROP TABLE collectedSample", args![]).await;
    let error = run_fails(&db, USAGE, &["bench", "queue", "--jobs", "1000", "--rounds", "1", "--backlogs", "1000"]);
    assert_one_line(&error);
    assert!(error.contains("collectedSample"), "{error}");
    assert_eq!(written(&db).await, [0, 0, 0]);
}

async fn a_standard_error_that_is_full_stops_nobody(engine: Engine) {
    let db = labs(engine).await;
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let quietly = |args: &[&str]| command(&db, args).stderr(full()).output().unwrap();
    // Each of them has something to say: lab 3 has no zone.
    let tick = quietly(&["--now", NOW, "scheduler", "--once"]);
    assert_eq!(tick.status.code(), Some(0), "{tick:?}");
    let repair = quietly(&["--now", NOW, "repair", "--day", "2026-06-12"]);
    assert_eq!(repair.status.code(), Some(0), "{repair:?}");
    let drain = quietly(&["--now", NOW, "--log", "info", "worker", "--drain", "--http-addr", "127.0.0.1:0"]);
    assert_eq!(drain.status.code(), Some(0), "{drain:?}");
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state <> 'completed'").await, 0);
    // A result that cannot be written is an error, and no panic.
    let listed = command(&db, &["runs", "list"]).stdout(full()).output().unwrap();
    assert_eq!(listed.status.code(), Some(1));
    let error = String::from_utf8_lossy(&listed.stderr).into_owned();
    assert_one_line(&error);
    assert!(error.starts_with("error: cannot write the result: No space left"), "{error}");
}

async fn runs_can_be_listed_shown_and_cancelled(engine: Engine) {
    let db = labs(engine).await;
    assert!(run_ok(&db, &["runs", "list"]).contains("no run yet"));
    run_ok(&db, &["--now", NOW, "rebuild", "--lab", "1"]);
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    let list = run_ok(&db, &["runs", "list"]);
    assert!(list.contains("rebuild of lab 1") && list.contains("nightly Asia/Kolkata 2026-06-14"), "{list}");
    let json: Value = serde_json::from_str(&run_ok(&db, &["runs", "list", "--json"])).unwrap();
    let rebuild = json.as_array().unwrap().iter().find(|run| run["run"]["kind"] == "rebuild").unwrap();
    let id = rebuild["run"]["id"].to_string();
    let open = rebuild["progress"]["available"].as_i64().unwrap();
    assert!(open >= 7, "{json}");

    assert!(run_ok(&db, &["runs", "cancel", &id, "--dry-run"]).contains("would be cancelled"));
    assert!(run_ok(&db, &["runs", "show", &id]).contains("running"));
    assert!(run_ok(&db, &["runs", "cancel", &id, "--by", "Ada"]).contains(&format!("{open} open job(s) cancelled")));
    assert!(run_ok(&db, &["runs", "show", &id]).contains("cancelled"));
    assert!(run_ok(&db, &["runs", "cancel", &id]).contains("nothing to cancel"));
    // Nobody has looked at its days: nothing says that they are right, or done.
    let watched = run(&db, &["runs", "watch", &id]);
    let said = String::from_utf8_lossy(&watched.stdout).into_owned();
    let expected = format!("run {id} cancelled: 0 days, 0 rows written; {open} cancelled\n");
    assert_eq!((watched.status.code(), said), (Some(1), expected));
    let list = run_ok(&db, &["runs", "list"]);
    assert!(list.contains(&format!(" 0/{open} ")), "{list}");
    let log: Value = serde_json::from_str(&run_ok(&db, &["queue", "log", "--json"])).unwrap();
    let said = ["who", "action", "filter"].map(|column| log[0][column].as_str().unwrap());
    assert_eq!((said, &log[0]["jobs"]), (["Ada", "cancel run", &format!("--run {id}")], &open.into()), "{log}");
    assert_eq!(log.as_array().unwrap().len(), 1);
    assert_eq!(db.text("SELECT job_status FROM crelio_data_migrations").await, "Cancelled");
    let events = "SELECT COUNT(*) FROM operation_event_log WHERE status = 'CANCELLED'";
    assert_eq!(db.number(events).await, 1);
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    let cancelled = "SELECT COUNT(*) FROM daymend_jobs WHERE kind = 'rebuild' AND state <> 'cancelled'";
    assert_eq!(db.number(cancelled).await, 0, "no cancelled job has run");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_has_seen_enough_is_no_error_to_report() {
    let db = TestDb::new(Engine::Sqlite).await;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command(&db, &["queue", "stats"]).stdout(writer).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(1));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command(&db, &["completions", "bash"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(1), 0), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_repairs_what_it_damaged_and_replaces_only_its_own_file() {
    let db = TestDb::source_only(Engine::Sqlite).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("demo.db");
    let file = file.to_str().unwrap();
    for _ in 0..2 {
        let story = run_ok(&db, &["demo", "--file", file]);
        assert!(story.contains("Everything that was wrong is right"), "{story}");
        assert!(story.contains("Lab 6 was reported") && story.contains("Completed"), "{story}");
    }
    let mine = dir.path().join("mine.txt");
    fs::write(&mine, "not a database").unwrap();
    let error = run_fails(&db, USAGE, &["demo", "--file", mine.to_str().unwrap()]);
    assert_one_line(&error);
    assert_eq!(fs::read_to_string(&mine).unwrap(), "not a database");
}

#[test]
fn options_of_every_command_stand_apart_from_its_own() {
    for command in [&["repair"][..], &["queue", "retry"], &["snapshot", "restore"], &["worker"], &["runs", "list"]] {
        let help = Command::new(env!("CARGO_BIN_EXE_daymend")).args(command).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let (own, global) = help.split_once("\nGlobal options:\n").unwrap();
        let options = ["--database-url", "--jobs-dir", "--now ", "--json", "--log-format", "--log "];
        for option in options {
            assert!(global.contains(&format!("      {option}")), "{command:?} {option}: {help}");
        }
        let listed = |text: &str| text.lines().filter(|line| line.starts_with("      --")).count();
        assert_eq!(listed(global), options.len(), "{command:?}: {help}");
        assert!(own.contains("Options:\n") && own.contains("--help"), "{command:?}: {help}");
    }
}

/// On a terminal of its own, which `script` makes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn colours_are_for_terminals_that_have_them_and_for_who_wants_them() {
    let db = labs(Engine::Sqlite).await;
    let daymend = env!("CARGO_BIN_EXE_daymend");
    let is_coloured = |(line, said): (&str, &str), term: &str, no_colour: &str| {
        let mut script = Command::new("script");
        script.args(["-qec", &format!("{daymend} --now {NOW} {line}"), "/dev/null"]).stdin(Stdio::null());
        script.env("DAYMEND_DATABASE_URL", &db.url).env("TERM", term).env("NO_COLOR", no_colour);
        script.env("DAYMEND_HTTP_ADDR", "127.0.0.1:0");
        let shown = String::from_utf8(script.output().unwrap().stdout).unwrap();
        assert!(shown.contains(said), "{shown}");
        shown.contains('\u{1b}')
    };
    // The doctor writes to standard output, the log to standard error.
    for line in [("doctor", "Mars/Base"), ("worker --drain >/dev/null", "worker stopped")] {
        assert!(is_coloured(line, "xterm", ""), "{line:?}");
        assert!(!is_coloured(line, "dumb", ""), "{line:?}");
        assert!(!is_coloured(line, "xterm", "1"), "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_may_not_be_written_is_one_line_that_says_what_to_do() {
    let db = labs(Engine::Sqlite).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lab.db");
    let open = |file: &Path| rusqlite::Connection::open(file).unwrap();
    open(Path::new(&db.admin.name())).execute("VACUUM INTO ?", [file.to_str()]).unwrap();
    let url = format!("sqlite:{}", file.display());
    // As root without its power to write everything.
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let drop = ["--bounding-set=-all", "--inh-caps=-all"];
    let daymend = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(drop.iter().filter(|_| is_root)).arg(env!("CARGO_BIN_EXE_daymend")).args(args);
        let output = command.env("DAYMEND_DATABASE_URL", &url).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let allow = |file_mode, dir_mode| {
        // Whoever closes it last puts into the file what is beside it, and takes that away.
        if fs::metadata(&file).unwrap().permissions().mode() & 0o600 == 0o600 {
            open(&file).execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        }
        fs::set_permissions(&file, Permissions::from_mode(file_mode)).unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(dir_mode)).unwrap();
    };
    assert_eq!(daymend(&["queue", "pause", "repair"]), (Some(0), String::new()));
    let what = format!("error: the database {} is read-only: this user has to be allowed to write", file.display());
    for (file_mode, dir_mode) in [(0o444, 0o755), (0o644, 0o555), (0o444, 0o555)] {
        for args in [&["queue", "resume", "repair"][..], &["--now", NOW, "scheduler", "--once"]] {
            allow(file_mode, dir_mode);
            let (code, error) = daymend(args);
            allow(0o644, 0o755);
            assert_eq!((code, error.lines().count()), (Some(USAGE), 1), "{file_mode:o} {dir_mode:o} {args:?}: {error}");
            assert!(error.starts_with(&what), "{file_mode:o} {dir_mode:o} {args:?}: {error}");
        }
    }
    // Who only reads needs no more than the directory.
    allow(0o444, 0o755);
    assert_eq!(daymend(&["queue", "stats"]), (Some(0), String::new()));
    allow(0o000, 0o755);
    let (code, error) = daymend(&["queue", "stats"]);
    assert_eq!((code, error.lines().count()), (Some(UNAVAILABLE), 1), "{error}");
    assert!(error.contains("cannot be opened: is it a file that this user may read and write?"), "{error}");
}
