//! What a person or a script sees of the commands: bad input gets one clear line and an exit code, and nothing is half
//! done; running a command twice changes nothing the second time.

mod files;
mod input;
mod results;
mod waiting;

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use daymend::args;
use serde_json::Value;

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        process::{Process, command, run, run_fails, run_ok},
        server, wait_until,
        work::jobs_changed,
    },
};

pub const NOW: &str = "2026-06-15T12:00:00Z";
pub const LIMIT: Duration = Duration::from_secs(180);
pub const USAGE: i32 = 2;

on_both! {
    definitions_are_written_out_to_be_changed;
    every_command_twice_changes_nothing_the_second_time;
    dry_runs_change_nothing;
    repair_as_of_does_yesterday_of_each_lab;
    a_moment_that_is_ahead_of_the_databases_clock_is_warned_of;
    a_repair_of_a_lab_that_is_off_says_so;
    whoever_enqueues_is_told_that_no_worker_is_alive;
    a_bench_whose_workers_could_not_run_enqueues_nothing;
    a_standard_error_that_is_full_stops_nobody;
    runs_can_be_listed_shown_and_cancelled;
}

/// Creates two labs with a week of bills up to 14 June, and one with an unknown zone.
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

/// Asserts that the last line, and no other, begins with `error:`. Warnings about what was left out may precede it.
pub fn assert_one_line(error: &str) {
    let lines: Vec<&str> = error.lines().filter(|line| line.starts_with("error:")).collect();
    assert_eq!(lines.len(), 1, "{error}");
    assert_eq!(error.lines().last(), lines.first().copied(), "{error}");
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
    // Changed files are not overwritten, and missing files are not added next to them.
    let changed = format!("{jobs}/historical_summary/tests.sql");
    fs::write(&changed, "SELECT 1").unwrap();
    fs::remove_file(format!("{jobs}/historical_summary/bills.sql")).unwrap();
    let error = run_fails(&db, USAGE, &["rollups", "export", jobs]);
    assert!(error.contains("exists already: nothing was written"), "{error}");
    assert_eq!(fs::read_to_string(&changed).unwrap(), "SELECT 1");
    assert!(!fs::exists(format!("{jobs}/historical_summary/bills.sql")).unwrap());
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
    // Workers in the background carry out the runs that the commands wait for.
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

async fn repair_as_of_does_yesterday_of_each_lab(engine: Engine) {
    let db = labs(engine).await;
    // At 03:00 UTC it is 13 June in Kolkata, but still the evening of 12 June in New York.
    run_ok(&db, &["--now", NOW, "repair", "--as-of", "2026-06-13 03:00:00"]);
    let days = db.rows("SELECT lab_id, day FROM daymend_jobs ORDER BY lab_id", args![]).await;
    let days: Vec<_> = days.iter().map(|row| (row.int(0).unwrap(), row.date(1).unwrap().to_string())).collect();
    assert_eq!(days, [(1, "2026-06-12".to_owned()), (2, "2026-06-11".to_owned())]);
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

async fn whoever_enqueues_is_told_that_no_worker_is_alive(engine: Engine) {
    let db = labs(engine).await;
    let warning = "warning: no worker is alive: start `daymend worker` or `daymend serve`";
    let warned = |args: &[&str]| {
        let output = run(&db, &[&["--now", NOW], args].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap().contains(warning)
    };
    let commands = [&["repair", "--day", "2026-06-12", "--lab", "1"][..], &["rebuild", "--lab", "2"]];
    for command in commands {
        assert!(warned(command), "{command:?}");
        assert!(!warned(&[command, &["--dry-run"]].concat()), "{command:?}");
    }
    let _worker = Process::start(&db, &["worker"]);
    let alive = "SELECT COUNT(*) FROM daymend_workers";
    wait_until("the worker to register", LIMIT, async || db.number(alive).await > 0).await;
    for command in commands {
        assert!(!warned(command), "{command:?}");
    }
}

async fn a_bench_whose_workers_could_not_run_enqueues_nothing(engine: Engine) {
    let db = labs(engine).await;
    db.execute("DROP TABLE collectedSample", args![]).await;
    let error = run_fails(&db, USAGE, &["bench", "queue", "--jobs", "1000", "--rounds", "1", "--backlogs", "1000"]);
    assert_one_line(&error);
    assert!(error.contains("collectedSample"), "{error}");
    assert_eq!(written(&db).await, [0, 0, 0]);
}

/// A bench empties the table afterwards. A user without that privilege is told so before anything is enqueued.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bench_that_could_not_clean_up_enqueues_nothing() {
    // A server of its own, because a bench waits until the server has flushed what other tests write.
    let server = server::Server::start("bench").expect("MariaDB starts");
    let db = TestDb::on_server(server.port).await;
    let bench = ["bench", "queue", "--jobs", "1000", "--rounds", "1", "--backlogs", "1000"];
    let error = run_fails(&db, USAGE, &bench);
    assert_one_line(&error);
    assert!(error.contains("DROP on that table"), "{error}");
    assert_eq!(written(&db).await, [0, 0, 0]);
    db.execute(&format!("GRANT DROP ON {}.daymend_jobs TO {}@'%'", db.name(), db.name()), args![]).await;
    let figures = run_ok(&db, &[&bench[..], &["--json"]].concat());
    assert!(figures.contains("\"longest\""), "{figures}");
    assert_eq!(written(&db).await, [0, 0, 0], "it leaves nothing behind");
}

/// On SQLite, because on a server a bench waits until what other tests write is flushed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bench_starts_its_workers_with_its_own_definitions_and_no_address() {
    let db = labs(Engine::Sqlite).await;
    // The compiled-in definitions do not match the schema.
    db.execute("ALTER TABLE allTests RENAME COLUMN department_id TO section_id", args![]).await;
    let jobs = jobs_changed(|_, text| text.replace("department_id", "section_id"));
    let jobs = jobs.path().to_str().unwrap();
    let bench = ["--jobs-dir", jobs, "bench", "queue", "--jobs", "1000", "--rounds", "1", "--backlogs", "1000"];
    let mut bench = command(&db, &bench);
    let output = bench.env("DAYMEND_HTTP_ADDR", format!("127.0.0.1:{}", server::free_port())).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

async fn a_standard_error_that_is_full_stops_nobody(engine: Engine) {
    let db = labs(engine).await;
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let quietly = |args: &[&str]| command(&db, args).stderr(full()).output().unwrap();
    // Each of these commands has a warning to print: lab 3's zone is unknown.
    let tick = quietly(&["--now", NOW, "scheduler", "--once"]);
    assert_eq!(tick.status.code(), Some(0), "{tick:?}");
    let repair = quietly(&["--now", NOW, "repair", "--day", "2026-06-12"]);
    assert_eq!(repair.status.code(), Some(0), "{repair:?}");
    let drain = quietly(&["--now", NOW, "--log", "info", "worker", "--drain", "--http-addr", "127.0.0.1:0"]);
    assert_eq!(drain.status.code(), Some(0), "{drain:?}");
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state <> 'completed'").await, 0);
    // A result that cannot be written is an error, not a panic.
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
    let cancel = |more: &[&str]| -> Value {
        serde_json::from_str(&run_ok(&db, &[&["runs", "cancel", &id, "--json"], more].concat())).unwrap()
    };
    assert_eq!(cancel(&["--dry-run"])["state"], "running");
    assert!(run_ok(&db, &["runs", "show", &id]).contains("running"));
    assert!(run_ok(&db, &["runs", "cancel", &id, "--by", "Ada"]).contains(&format!("{open} open job(s) cancelled")));
    assert!(run_ok(&db, &["runs", "show", &id]).contains("cancelled"));
    assert!(run_ok(&db, &["runs", "cancel", &id]).contains("nothing to cancel"));
    let ended = cancel(&[]);
    assert_eq!((&ended["state"], &ended["jobs"]), (&"cancelled".into(), &0.into()), "{ended}");
    // None of its days was looked at, so nothing may say that they are right or done.
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
    try_next(&run_ok(&db, &["demo", "--file", file]));
    let mine = dir.path().join("mine.txt");
    fs::write(&mine, "not a database").unwrap();
    let error = run_fails(&db, USAGE, &["demo", "--file", mine.to_str().unwrap()]);
    assert_one_line(&error);
    assert_eq!(fs::read_to_string(&mine).unwrap(), "not a database");
}

/// Runs what the demo says to try next: some commands, `serve`, and the others in a terminal of their own.
fn try_next(story: &str) {
    let (_, next) = story.split_once("\nTo try next").unwrap();
    let blocks: Vec<Vec<&str>> = next
        .split("\n\n")
        .map(|block| block.lines().filter_map(|line| line.strip_prefix("  ")).collect())
        .filter(|lines: &Vec<_>| !lines.is_empty())
        .collect();
    let [first, serve, others] = blocks.as_slice() else { panic!("{next}") };
    let in_terminal = |lines: &[&str]| {
        let mut bash = Command::new("setpriv");
        bash.args(["--pdeathsig", "KILL", "bash", "-euc", &lines.join("\n")]);
        bash.env_remove("DAYMEND_DATABASE_URL").env("DAYMEND_HTTP_ADDR", "127.0.0.1:0");
        bash
    };
    let output = in_terminal(first).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("no problem found"), "{output:?}");
    let serve = format!("exec {}", serve[0]);
    let mut serve = in_terminal(&[first[0], &serve]).stdout(Stdio::null()).spawn().unwrap();
    // A machine with SQLite's library may lack its client.
    let has_client = Command::new("sqlite3").arg("--version").output().is_ok();
    let (mut exports, mut said) = (Vec::new(), String::new());
    for line in others {
        if line.starts_with("export ") {
            exports.push(*line);
        } else if let Some(change) = line.strip_prefix("sqlite3 ").filter(|_| !has_client) {
            let (file, sql) = change.split_once(" \"").unwrap();
            rusqlite::Connection::open(file).unwrap().execute_batch(sql.trim_end_matches('"')).unwrap();
        } else {
            let output = in_terminal(&[&exports[..], &[line]].concat()).output().unwrap();
            assert!(output.status.success(), "{line}: {output:?}");
            said.push_str(&String::from_utf8_lossy(&output.stdout));
        }
    }
    serve.kill().unwrap();
    serve.wait().unwrap();
    for expected in ["completed: 1 days", "rebuild of lab 2"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}
