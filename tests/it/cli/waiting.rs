//! Commands that wait for a run, and signals to commands that wait or work.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use daymend::args;
use serde_json::{Value, json};

use super::{LIMIT, NOW, assert_one_line, labs};
use crate::{
    on_both,
    support::{
        Engine, TestDb,
        http::get,
        process::{Process, command, run, run_fails, run_ok, run_says},
        wait_until,
    },
};

on_both! {
    wait_follows_a_run_and_ends_with_its_result;
    a_lab_that_cannot_be_repaired_is_no_success_to_whoever_waits;
    a_rebuild_that_waits_takes_its_own_labs_alone;
    a_rebuild_that_cannot_be_enqueued_leaves_the_runs_of_others;
    whoever_stops_waiting_is_told_how_to_go_on;
}

/// A signal without a handler does not end process 1 of a container.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_waits_ends_when_it_is_told_to() {
    let db = TestDb::new(Engine::MariaDb).await;
    let _somebody = db.lock(&["daymend_runs"]).await;
    let waiting = "SELECT COUNT(*) FROM information_schema.processlist
                   WHERE db = DATABASE() AND state LIKE 'Waiting for table%'";
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        // The server does not notice that a waiting client has ended.
        let before = db.number(waiting).await;
        let mut list = Process::start(&db, &["runs", "list"]);
        wait_until("the command to wait", LIMIT, async || db.number(waiting).await > before).await;
        list.signal(signal);
        assert_eq!(list.wait(LIMIT), Some(code));
    }
}

/// The worker is in the middle of a job.
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
        let _somebody = db.lock(&["operation_historical_summary"]).await;
        run_ok(&db, &["queue", "resume", "repair"]);
        let held = "SELECT COUNT(*) FROM information_schema.processlist
                    WHERE db = DATABASE() AND state LIKE 'Waiting for table%'";
        wait_until("the job to run", LIMIT, async || db.number(held).await > 0).await;
        worker.signal(signal);
        // Two signals count as one if both arrive before the worker handles the first.
        wait_until("the worker to hear it", Duration::from_secs(20), async || {
            get(&address, "/readyz").unwrap().body.contains("process: shutting down")
        })
        .await;
        assert!(worker.is_running(), "it finishes the running job");
        worker.signal(signal);
        assert_eq!(worker.wait(Duration::from_secs(20)), Some(code));
        db.execute("DELETE FROM daymend_jobs", args![]).await;
    }
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

/// Lab 3 has no usable zone until it is set right. Lab 4 has no bills, so nothing of it could be wrong.
async fn a_lab_that_cannot_be_repaired_is_no_success_to_whoever_waits(engine: Engine) {
    let db = labs(engine).await;
    db.add_lab(4, Some("Asia/Kolkata")).await;
    let _worker = Process::start(&db, &["--now", NOW, "worker"]);
    let repair = ["--now", NOW, "repair", "--day", "2026-06-13", "--wait", "--json"];
    for (code, labs_left_out) in [(3, vec![3, 4]), (0, vec![4])] {
        let said: Value = serde_json::from_str(&run_says(&db, code, &repair)).unwrap();
        let left_out = said[0]["left_out"].as_array().unwrap();
        assert_eq!(
            left_out.iter().map(|lab| lab["lab"].as_i64().unwrap()).collect::<Vec<_>>(),
            labs_left_out,
            "{said}"
        );
        assert_eq!((&said[0]["state"], &said[0]["clipped"]), (&"completed".into(), &json!([])), "{said}");
        db.execute("UPDATE labs SET labTimeZone = 'Europe/Berlin' WHERE id = 3", args![]).await;
    }
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
    // The scheduler takes the record of lab 2, with its own limits.
    let sql = "SELECT attempts_max FROM daymend_jobs WHERE lab_id = 2 AND kind = 'rebuild' LIMIT 1";
    assert_eq!(db.number(sql).await, 5);
    assert!(db.record_status(other).await.starts_with("Running"));
}

async fn a_rebuild_that_cannot_be_enqueued_leaves_the_runs_of_others(engine: Engine) {
    let db = labs(engine).await;
    let refuse = match engine {
        Engine::MariaDb => {
            "FOR EACH ROW BEGIN IF NEW.lab_id = 2 THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END IF; END"
        }
        Engine::Sqlite => "WHEN NEW.lab_id = 2 BEGIN SELECT RAISE(ABORT, 'no'); END",
    };
    db.execute(&format!("CREATE TRIGGER somebody BEFORE INSERT ON crelio_data_migrations {refuse}"), args![]).await;
    let error = run_fails(&db, 1, &["--now", NOW, "rebuild", "--lab", "1", "--lab", "2", "--wait"]);
    assert_one_line(&error);
    assert!(error.contains("error: run 1 goes on: daymend runs watch 1; lab 2 cannot be enqueued: "), "{error}");
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs WHERE lab_id = 1 AND state = 'running'").await, 1);
    assert_eq!(db.number("SELECT COUNT(*) FROM crelio_data_migrations").await, 1);
}

/// A scheduler looks for pending records every second. It leaves one that is locked for longer than its patience of a
/// second, and takes those of the labs after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rebuilds_that_are_waited_for_have_the_commands_limits_beside_a_scheduler() {
    let db = TestDb::new(Engine::MariaDb).await;
    let labs: Vec<String> = (1..=4_i64).map(|lab| lab.to_string()).collect();
    for lab in 1..=4 {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
        db.fill_lab(lab, "2026-06-12".parse().unwrap(), 1, 1).await;
    }
    let slow = "CREATE TRIGGER slow AFTER INSERT ON daymend_runs FOR EACH ROW
                BEGIN IF NEW.kind = 'rebuild' THEN DO SLEEP(1.5); END IF; END";
    db.execute(slow, args![]).await;
    let (_serve, _) = Process::start_with_pages(&db, &["--now", NOW, "serve"]);
    let mut rebuild = vec!["--now", NOW, "rebuild", "--wait", "--max-shrink", "30%", "--attempts", "2", "--lab"];
    rebuild.extend(labs.iter().map(String::as_str));
    run_ok(&db, &rebuild);
    let limits = "SELECT COUNT(*) FROM daymend_runs AS runs JOIN daymend_jobs AS jobs ON jobs.run_id = runs.id
                  WHERE runs.kind = 'rebuild' AND runs.max_shrink = 30 AND jobs.attempts_max = 2";
    assert_eq!(db.number(limits).await, 4);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs WHERE kind = 'rebuild'").await, 4);
    assert_eq!(db.number("SELECT COUNT(*) FROM crelio_data_migrations").await, 4);
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
    // A command that waits to the end prints no such line.
    let _worker = Process::start(&db, &["worker"]);
    let watched = run(&db, &["runs", "watch", "1"]);
    assert!(watched.status.success() && !String::from_utf8_lossy(&watched.stderr).contains("goes on"), "{watched:?}");
}
