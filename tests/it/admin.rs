//! `daymend queue`: what operators see and do, through the binary.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::mpsc,
    time::Duration,
};

use daymend::args;
use serde_json::Value;

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        process::{Process, command, run, run_fails, run_ok},
        wait_until,
    },
};

const NOW: &str = "2026-06-15T12:00:00Z";
const USAGE: i32 = 2;
const LIMIT: Duration = Duration::from_secs(30);

on_both! {
    retry_reopens_a_failed_run_and_its_record_ends_completed;
    a_run_whose_record_was_deleted_is_retried_without_it;
    the_log_holds_the_filter_that_was_given;
    a_name_in_the_log_stays_on_its_line;
    a_drain_says_what_it_leaves_paused;
    without_a_variable_the_log_names_the_os_user;
    a_lab_that_does_not_exist_is_resumed_and_not_paused;
    whoever_waits_for_what_is_paused_is_told_so_once;
    filters_mean_the_same_everywhere;
    dry_runs_and_unfiltered_changes_touch_nothing;
    a_paused_kind_or_lab_is_passed_over_until_it_is_resumed;
    cancelled_jobs_do_not_run_and_their_run_ends_cancelled;
    prune_deletes_what_ended_long_ago_and_nothing_else;
    a_bare_now_retries_what_waits_for_another_attempt;
    stats_counts_jobs_and_names_workers;
    a_retry_or_a_resume_begins_the_wait_anew;
    a_run_that_does_not_exist_is_no_filter;
}

async fn labs(engine: Engine) -> TestDb {
    let db = TestDb::new(engine).await;
    for lab in 1..=2 {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
        db.fill_lab(lab, "2026-06-08".parse().unwrap(), 7, 4).await;
    }
    db
}

fn json(db: &TestDb, arguments: &[&str]) -> Value {
    let mut all = vec!["--json"];
    all.extend(arguments);
    serde_json::from_str(&run_ok(db, &all)).unwrap()
}

fn drain(db: &TestDb) {
    run(db, &["--now", NOW, "worker", "--drain", "--backoff", "1h"]);
}

/// Creates a rebuild of lab 1 and a repair of lab 2, all of whose jobs are discarded.
async fn with_discarded(engine: Engine) -> TestDb {
    let db = labs(engine).await;
    run_ok(&db, &["--now", NOW, "rebuild", "--lab", "1", "--initiated-by", "5"]);
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-10", "--to", "2026-06-12", "--lab", "2"]);
    db.execute("UPDATE labs SET labTimeZone = 'Mars/Base'", args![]).await;
    drain(&db);
    db.execute("UPDATE labs SET labTimeZone = 'Asia/Kolkata'", args![]).await;
    db
}

async fn count(db: &TestDb, condition: &str) -> i64 {
    db.number(&format!("SELECT COUNT(*) FROM daymend_jobs WHERE {condition}")).await
}

async fn retry_reopens_a_failed_run_and_its_record_ends_completed(engine: Engine) {
    let db = with_discarded(engine).await;
    let rebuild = db.number("SELECT id FROM daymend_runs WHERE kind = 'rebuild'").await.to_string();
    let days = count(&db, "kind = 'rebuild' AND state = 'discarded'").await;
    assert!(days >= 7);
    let failed = format!("Failed ({days} of {days} days)");
    assert_eq!(db.text("SELECT job_status FROM crelio_data_migrations").await, failed);

    let retried = run_ok(&db, &["queue", "retry", "--run", &rebuild, "--by", "ana"]);
    assert!(retried.contains(&format!("run {rebuild}: {days} job(s) will be tried again")), "{retried}");
    assert_eq!(db.text("SELECT job_status FROM crelio_data_migrations").await, format!("Running (0/{days})"));
    let open = "SELECT COUNT(*) FROM daymend_runs WHERE kind = 'rebuild' AND state = 'running' AND finished_at IS NULL";
    assert_eq!(db.number(open).await, 1);
    assert_eq!(count(&db, "kind = 'rebuild' AND state = 'available' AND attempt = 0").await, days);
    drain(&db);
    assert_eq!(db.text("SELECT job_status FROM crelio_data_migrations").await, "Completed");
    assert_eq!(count(&db, "kind = 'rebuild' AND state = 'completed'").await, days);
    let events = "SELECT COUNT(*) FROM operation_event_log WHERE event_name LIKE 'Historical-Summary-Rebuild%'";
    assert_eq!(db.number(events).await, 4, "STARTED, FAILED, STARTED, COMPLETED");
    let log = json(&db, &["queue", "log"]);
    assert_eq!(log[0]["who"], "ana");
    assert_eq!(log[0]["action"], "retry");
    assert_eq!(log[0]["jobs"], days);
    assert_eq!(log[0]["filter"], format!("--run {rebuild}"));
    // A second retry changes nothing.
    assert!(run_ok(&db, &["queue", "retry", "--run", &rebuild]).contains("0 job(s) of 0 run(s)"));
}

async fn a_run_whose_record_was_deleted_is_retried_without_it(engine: Engine) {
    let db = with_discarded(engine).await;
    let rebuild = db.number("SELECT id FROM daymend_runs WHERE kind = 'rebuild'").await;
    let days = count(&db, "kind = 'rebuild' AND state = 'discarded'").await;
    db.execute("DELETE FROM crelio_data_migrations", args![]).await;
    run_ok(&db, &["queue", "retry", "--run", &rebuild.to_string()]);
    let once = run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    assert!(!once.contains("cancelled"), "{once}");
    assert_eq!(count(&db, "kind = 'rebuild' AND state = 'available'").await, days);
    drain(&db);
    assert_eq!(count(&db, "kind = 'rebuild' AND state = 'completed'").await, days);
    assert_eq!(db.text("SELECT state FROM daymend_runs WHERE kind = 'rebuild'").await, "completed");
    assert_eq!(db.number("SELECT COUNT(*) FROM crelio_data_migrations").await, 0);
}

async fn the_log_holds_the_filter_that_was_given(engine: Engine) {
    let db = with_discarded(engine).await;
    let [rebuild, repair] =
        ["rebuild", "repair"].map(|kind| format!("SELECT id FROM daymend_runs WHERE kind = '{kind}'"));
    let (rebuild, repair) = (db.number(&rebuild).await, db.number(&repair).await);
    run_ok(&db, &["queue", "retry", "--lab", "2", "--error", "MARS/base"]);
    run_ok(&db, &["queue", "cancel", "--all"]);
    run_ok(&db, &["queue", "retry", "--run", &rebuild.to_string(), "--lab", "1"]);
    let log = json(&db, &["queue", "log"]);
    let filters: Vec<&str> = log.as_array().unwrap().iter().map(|entry| entry["filter"].as_str().unwrap()).collect();
    let of_lab = format!("--lab 2 --error \"MARS/base\" (run {repair})");
    assert!(filters.contains(&of_lab.as_str()), "{log}");
    assert!(filters.contains(&format!("--all (run {repair})").as_str()), "{log}");
    assert_eq!(filters[0], format!("--run {rebuild} --lab 1"), "{log}");
}

async fn a_name_in_the_log_stays_on_its_line(engine: Engine) {
    let db = TestDb::new(engine).await;
    run_ok(&db, &["queue", "pause", "repair", "--by", "me\u{1b}[2J\nyou"]);
    for command in ["log", "stats"] {
        let page = run_ok(&db, &["queue", command]);
        assert!(page.contains("me [2J you") && !page.contains('\u{1b}'), "{page:?}");
    }
}

async fn a_drain_says_what_it_leaves_paused(engine: Engine) {
    let db = TestDb::new(engine).await;
    for lab in [1, 2] {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
        db.fill_lab(lab, "2026-06-08".parse().unwrap(), 7, 4).await;
    }
    let drain = || {
        let output = run(&db, &["--now", NOW, "worker", "--drain"]);
        assert!(output.status.success(), "paused jobs are no failure: {output:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        error.lines().filter(|line| line.starts_with("warning:")).map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    run_ok(&db, &["queue", "pause", "rebuild"]);
    run_ok(&db, &["queue", "pause", "--lab", "2"]);
    let repair = ["--now", NOW, "repair", "--day", "2026-06-12", "--to", "2026-06-14", "--lab"];
    run_ok(&db, &[&repair[..], &["1"]].concat());
    assert_eq!(drain(), Vec::<String>::new(), "no paused job is waiting");
    run_ok(&db, &[&repair[..], &["2"]].concat());
    assert_eq!(drain(), ["warning: 3 job(s) are left, paused: `daymend queue resume --lab 2`"]);
    run_ok(&db, &["queue", "resume", "--lab", "2"]);
    run_ok(&db, &["queue", "pause", "repair"]);
    assert_eq!(drain(), ["warning: 3 job(s) are left, paused: `daymend queue resume repair`"]);
    run_ok(&db, &["queue", "resume", "repair"]);
    assert_eq!(drain(), Vec::<String>::new());
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'completed'").await, 6);
}

async fn without_a_variable_the_log_names_the_os_user(engine: Engine) {
    let db = labs(engine).await;
    let mut pause = command(&db, &["queue", "pause", "--lab", "1"]);
    for name in ["DAYMEND_USER", "SUDO_USER", "LOGNAME"] {
        pause.env_remove(name);
    }
    // An empty variable counts as unset.
    assert!(pause.env("USER", "").output().unwrap().status.success());
    let id = std::process::Command::new("id").arg("-un").output().unwrap();
    assert_eq!(json(&db, &["queue", "log"])[0]["who"], String::from_utf8(id.stdout).unwrap().trim());
}

async fn a_lab_that_does_not_exist_is_resumed_and_not_paused(engine: Engine) {
    let db = labs(engine).await;
    for args in [&["queue", "pause", "--lab", "777"][..], &["queue", "pause", "--lab", "777", "--dry-run"]] {
        assert!(run_fails(&db, USAGE, args).contains("lab 777 does not exist"));
    }
    run_ok(&db, &["queue", "pause", "--lab", "2"]);
    db.execute("DELETE FROM labs WHERE id = 2", args![]).await;
    assert!(run_ok(&db, &["queue", "pause", "--lab", "2"]).contains("paused already"));
    assert!(run_ok(&db, &["queue", "resume", "--lab", "2"]).contains("resumed"));
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_pauses").await, 0);
}

async fn whoever_waits_for_what_is_paused_is_told_so_once(engine: Engine) {
    let db = labs(engine).await;
    for (paused, expected) in [
        (&["repair"][..], "repair jobs are paused: `daymend queue resume repair`"),
        (&["--lab", "2"], "lab 2 is paused: `daymend queue resume --lab 2`"),
    ] {
        // A pause that does not concern the run is not reported.
        run_ok(&db, &["queue", "pause", "--lab", "1"]);
        run_ok(&db, &[&["queue", "pause"], paused].concat());
        let mut wait = command(&db, &["--now", NOW, "repair", "--day", "2026-06-10", "--lab", "2", "--wait"]);
        let mut wait = wait.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(wait.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || said.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        while !lines.recv_timeout(LIMIT).expect("a line that says what is paused").contains(expected) {}
        // Long enough for two more polls.
        tokio::time::sleep(Duration::from_secs(5)).await;
        run_ok(&db, &[&["queue", "resume"], paused].concat());
        drain(&db);
        assert!(wait.wait().unwrap().success());
        let more: Vec<String> = lines.iter().filter(|line| line.contains("paused")).collect();
        assert!(more.is_empty(), "{more:?}");
    }
}

async fn filters_mean_the_same_everywhere(engine: Engine) {
    let db = with_discarded(engine).await;
    let repair = db.number("SELECT id FROM daymend_runs WHERE kind = 'repair'").await.to_string();
    let filters: &[(&[&str], &str)] = &[
        (&["--run", &repair], "kind = 'repair' AND state = 'discarded'"),
        (&["--lab", "2"], "lab_id = 2 AND state = 'discarded'"),
        (&["--lab", "1", "--lab", "2"], "state = 'discarded'"),
        (&["--kind", "rebuild"], "kind = 'rebuild' AND state = 'discarded'"),
        (&["--from", "2026-06-11"], "day >= '2026-06-11' AND state = 'discarded'"),
        (&["--to", "2026-06-10", "--lab", "2"], "day <= '2026-06-10' AND lab_id = 2 AND state = 'discarded'"),
        (&["--state", "completed"], "state = 'completed' AND state = 'discarded'"),
        (&["--error", "MARS/base"], "state = 'discarded'"),
        (&["--error", "100%"], "1 = 0"),
    ];
    for (filter, condition) in filters {
        let expected = count(&db, condition).await;
        let mut retry = vec!["queue", "retry", "--dry-run"];
        retry.extend(*filter);
        assert_eq!(json(&db, &retry)["jobs"], expected, "{filter:?}");
        let mut list = vec!["queue", "list"];
        list.extend(*filter);
        let listed = json(&db, &list);
        let discarded = listed.as_array().unwrap().iter().filter(|job| job["state"] == "discarded").count();
        assert_eq!(discarded as i64, expected, "{filter:?}");
        let mut prune = vec!["queue", "prune", "--older-than", "0s", "--dry-run"];
        prune.extend(*filter);
        if !filter.contains(&"--state") {
            let ended =
                count(&db, &condition.replace("state = 'discarded'", "state IN ('completed', 'discarded')")).await;
            assert_eq!(json(&db, &prune)["jobs"], ended, "{filter:?}");
        }
    }
    // For letters outside ASCII, a database may not know the lower case.
    db.execute("UPDATE daymend_jobs SET error = 'Élan VITAL' WHERE state = 'discarded'", vec![]).await;
    let listed = json(&db, &["queue", "list", "--state", "discarded", "--error", "Élan vital"]);
    assert_eq!(listed.as_array().unwrap().len() as i64, count(&db, "state = 'discarded'").await);
}

async fn dry_runs_and_unfiltered_changes_touch_nothing(engine: Engine) {
    let db = with_discarded(engine).await;
    let discarded = count(&db, "state = 'discarded'").await;
    let dry = run_ok(&db, &["queue", "retry", "--dry-run"]);
    assert!(dry.contains(&format!("{discarded} job(s) of 3 run(s) would be retried")), "{dry}");
    for change in ["retry", "cancel"] {
        let error = run_fails(&db, USAGE, &["queue", change]);
        assert!(error.contains("use --all"), "{error}");
    }
    for change in [&["retry"][..], &["cancel"], &["list"], &["prune", "--older-than", "1s"]] {
        let error = run_fails(&db, USAGE, &[&["queue"], change, &["--error", ""]].concat());
        assert!(error.contains("--error"), "{error}");
    }
    run_fails(&db, USAGE, &["queue", "list", "--from", "2026-06-12", "--to", "2026-06-10"]);
    run_fails(&db, USAGE, &["queue", "show", "77"]);
    run_fails(&db, USAGE, &["queue", "pause"]);
    run_fails(&db, USAGE, &["queue", "prune"]);
    assert!(run_ok(&db, &["queue", "pause", "rebuild", "--dry-run"]).contains("would be paused"));
    let pause = json(&db, &["queue", "pause", "rebuild", "--dry-run"]);
    assert_eq!((&pause["changed"], &pause["dry_run"]), (&true.into(), &true.into()), "{pause}");
    let resume = json(&db, &["queue", "resume", "rebuild", "--dry-run"]);
    assert_eq!((&resume["changed"], &resume["dry_run"]), (&false.into(), &true.into()), "{resume}");
    assert_eq!(count(&db, "state = 'discarded'").await, discarded);
    assert_eq!(json(&db, &["queue", "log"]), Value::Array(vec![]));
    assert!(
        run_ok(&db, &["queue", "retry", "--all"])
            .contains(&format!("{discarded} job(s) of 3 run(s) will be tried again"))
    );
}

async fn a_paused_kind_or_lab_is_passed_over_until_it_is_resumed(engine: Engine) {
    let db = labs(engine).await;
    for lab in ["1", "2"] {
        run_ok(&db, &["--now", NOW, "rebuild", "--lab", lab]);
    }
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    run_ok(&db, &["queue", "pause", "rebuild"]);
    assert!(run_ok(&db, &["queue", "pause", "rebuild"]).contains("paused already"));
    drain(&db);
    assert_eq!(count(&db, "state = 'completed' AND kind = 'nightly'").await, 2);
    assert_eq!(count(&db, "state = 'completed' AND kind = 'rebuild'").await, 0);

    run_ok(&db, &["queue", "pause", "--lab", "1"]);
    run_ok(&db, &["queue", "resume", "rebuild"]);
    drain(&db);
    assert_eq!(count(&db, "kind = 'rebuild' AND lab_id = 2 AND state <> 'completed'").await, 0);
    assert_eq!(count(&db, "kind = 'rebuild' AND lab_id = 1 AND state <> 'available'").await, 0);
    let jobs = json(&db, &["queue", "list", "--lab", "1", "--kind", "rebuild"]);
    let paused = jobs.as_array().unwrap().iter().filter(|job| job["paused"] == true).count() as i64;
    assert_eq!(paused, count(&db, "kind = 'rebuild' AND lab_id = 1").await, "{jobs}");
    assert!(paused > 0, "lab 1 has bills");
    assert_eq!(json(&db, &["queue", "stats"])["paused"][0]["what"], "lab:1");

    run_ok(&db, &["queue", "resume", "--lab", "1"]);
    assert!(run_ok(&db, &["queue", "resume", "--lab", "1"]).contains("not paused"));
    drain(&db);
    assert_eq!(count(&db, "state <> 'completed'").await, 0);
    let log = json(&db, &["queue", "log"]);
    let actions: Vec<&str> = log.as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["resume", "resume", "pause", "pause"]);
}

async fn cancelled_jobs_do_not_run_and_their_run_ends_cancelled(engine: Engine) {
    let db = labs(engine).await;
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-09", "--to", "2026-06-12"]);
    let cancelled = run_ok(&db, &["queue", "cancel", "--lab", "1", "--from", "2026-06-11"]);
    assert!(cancelled.contains("2 job(s) of 1 run(s) cancelled"), "{cancelled}");
    drain(&db);
    assert_eq!(count(&db, "state = 'completed'").await, 6);
    assert_eq!(count(&db, "state = 'cancelled' AND lab_id = 1 AND day >= '2026-06-11'").await, 2);
    assert_eq!(db.text("SELECT state FROM daymend_runs").await, "cancelled");
}

async fn prune_deletes_what_ended_long_ago_and_nothing_else(engine: Engine) {
    let db = with_discarded(engine).await;
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-09", "--lab", "1"]);
    let (jobs, open) = (count(&db, "1 = 1").await, count(&db, "state = 'available'").await);
    assert!(run_ok(&db, &["queue", "prune", "--older-than", "30d"]).contains("0 job(s) of 0 run(s) deleted"));
    assert_eq!(count(&db, "1 = 1").await, jobs);
    let pruned = run_ok(&db, &["queue", "prune", "--older-than", "0s", "--lab", "2", "--kind", "repair"]);
    assert!(pruned.contains("3 job(s) of 1 run(s) deleted"), "{pruned}");
    let rest = ["queue", "prune", "--older-than", "0s"];
    let mut planned = json(&db, &[&rest[..], &["--dry-run"]].concat());
    assert_eq!((&planned["dry_run"], planned["jobs"].as_i64()), (&true.into(), Some(jobs - open - 3)), "{planned}");
    planned["dry_run"] = false.into();
    assert_eq!(json(&db, &rest), planned);
    assert_eq!(count(&db, "1 = 1").await, open, "only open jobs are left");
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs").await, 1);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_attempts").await, 0);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_migrations").await, 0);
    drain(&db);
    assert_eq!(count(&db, "state = 'completed'").await, open);
}

async fn a_bare_now_retries_what_waits_for_another_attempt(engine: Engine) {
    let db = labs(engine).await;
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-09", "--lab", "1"]);
    let mut worker =
        Process::start_with(&db, &["--now", NOW, "worker", "--backoff", "1h"], ("DAYMEND_FAULT", "panic:1"));
    wait_until("the first attempt to fail", Duration::from_secs(30), async || {
        count(&db, "state = 'available' AND attempt = 1").await == 1
    })
    .await;
    worker.terminate();
    worker.wait(Duration::from_secs(30));
    let id = db.number("SELECT id FROM daymend_jobs").await.to_string();
    let shown = run_ok(&db, &["queue", "show", &id]);
    assert!(shown.contains("panicked: injected for lab 1"), "{shown}");
    for text in [shown, run_ok(&db, &["queue", "list"])] {
        let (_, due) = text.split_once("available (due ").unwrap();
        assert!(due.split_once(')').unwrap().0.ends_with(" UTC"), "{text}");
    }
    let job = json(&db, &["queue", "show", &id]);
    assert_eq!(job["attempts"][0]["outcome"], "failed");
    assert!(job["job"]["due_at"].is_string(), "{job}");
    assert!(run_ok(&db, &["queue", "retry", "--all"]).contains("0 job(s)"));
    assert!(run_ok(&db, &["queue", "retry", "--all", "--now"]).contains("1 job(s) of 1 run(s)"));
    drain(&db);
    assert_eq!(count(&db, "state = 'completed' AND attempt = 1").await, 1);
    let shown = run_ok(&db, &["queue", "show", &id]);
    for name in ["claimed", "ended"] {
        let line = shown.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
        assert!(line.ends_with(" UTC"), "{shown}");
    }
    for (now, is_said) in [(&["--now", NOW][..], true), (&["--now"], false)] {
        let retried = run(&db, &[&["queue", "retry", "--all"], now].concat());
        assert!(retried.status.success(), "{retried:?}");
        let said = String::from_utf8_lossy(&retried.stderr).contains("to retry at once, give --now without a time");
        assert_eq!(said, is_said, "{retried:?}");
    }
    let error = run_fails(&db, USAGE, &["repair", "--day", "2026-06-09", "--now"]);
    assert!(error.contains("--now needs a time"), "{error}");
}

async fn stats_counts_jobs_and_names_workers(engine: Engine) {
    let db = with_discarded(engine).await;
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-09", "--to", "2026-06-11", "--lab", "1"]);
    run_ok(&db, &["queue", "pause", "repair"]);
    let _worker = Process::start(&db, &["--now", NOW, "worker", "--name", "pod-7"]);
    wait_until("the worker to register", Duration::from_secs(30), async || {
        json(&db, &["queue", "stats"])["workers"].as_array().unwrap().len() == 1
    })
    .await;
    let stats = json(&db, &["queue", "stats"]);
    let counts = stats["counts"].as_array().unwrap();
    let of = |kind: &str, state: &str| {
        let found = counts.iter().find(|count| count["kind"] == kind && count["state"] == state);
        found.map_or(0, |count| count["jobs"].as_i64().unwrap())
    };
    assert_eq!(of("repair", "available"), 3);
    assert_eq!(of("repair", "discarded"), 3);
    assert_eq!(of("rebuild", "discarded"), count(&db, "kind = 'rebuild'").await);
    let minutes: Vec<_> = stats["completed"].as_array().unwrap().iter().map(|rate| &rate["minutes"]).collect();
    assert_eq!((minutes, &stats["completed"][2]["jobs"]), (vec![&1.into(), &5.into(), &15.into()], &0.into()));
    assert!(stats["workers"][0]["name"].as_str().unwrap().starts_with("pod-7"), "{stats}");
    assert_eq!(stats["oldest_waiting"]["run"], db.number("SELECT MAX(id) FROM daymend_runs").await);
    let text = run_ok(&db, &["queue", "stats"]);
    assert!(text.contains("pod-7") && text.contains("kind:repair"), "{text}");
}

async fn a_run_that_does_not_exist_is_no_filter(engine: Engine) {
    let db = with_discarded(engine).await;
    let expected = "error: run 999 does not exist: see `daymend runs list`\n";
    for command in [
        &["queue", "retry"][..],
        &["queue", "retry", "--dry-run"],
        &["queue", "cancel"],
        &["queue", "list"],
        &["queue", "prune", "--older-than", "0s"],
    ] {
        assert_eq!(run_fails(&db, USAGE, &[command, &["--run", "999"]].concat()), expected, "{command:?}");
    }
    for command in ["show", "watch", "cancel"] {
        assert_eq!(run_fails(&db, USAGE, &["runs", command, "999"]), expected);
    }
    // A run that exists but has nothing to retry is not an error.
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-10", "--lab", "2"]);
    let run = db.number("SELECT MAX(id) FROM daymend_runs").await.to_string();
    assert_eq!(json(&db, &["queue", "retry", "--run", &run])["jobs"], 0);
}

/// Returns for how many seconds the oldest job has waited, or `None` if no job is waiting.
fn oldest_waiting(db: &TestDb) -> Option<i64> {
    json(db, &["queue", "stats"])["oldest_waiting"]["seconds"].as_i64()
}

async fn a_retry_or_a_resume_begins_the_wait_anew(engine: Engine) {
    const DAY: i64 = 86_400;
    let db = with_discarded(engine).await;
    let age = async || {
        db.execute("UPDATE daymend_runs SET created_at = '2026-01-01 00:00:00'", args![]).await;
    };
    age().await;
    assert_eq!(oldest_waiting(&db), None);
    run_ok(&db, &["queue", "retry", "--kind", "repair"]);
    assert!(oldest_waiting(&db).unwrap() < DAY, "since it was retried");
    // A job that backs off does not wait for a worker.
    db.execute("UPDATE daymend_jobs SET sort_key = sort_key + 3600000000 WHERE state = 'available'", args![]).await;
    assert_eq!(oldest_waiting(&db), None);
    run_ok(&db, &["queue", "cancel", "--all"]);

    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-10", "--to", "2026-06-11"]);
    age().await;
    assert!(oldest_waiting(&db).unwrap() > DAY, "since it was enqueued");
    for lab in ["1", "2"] {
        run_ok(&db, &["queue", "pause", "--lab", lab]);
    }
    drain(&db);
    assert_eq!(oldest_waiting(&db), None, "set aside");
    run_ok(&db, &["queue", "resume", "--lab", "1"]);
    assert!(oldest_waiting(&db).unwrap() < DAY, "since its lab was resumed");
    drain(&db);

    // The jobs of a lab that was not resumed have waited since they were enqueued.
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-10", "--lab", "1"]);
    age().await;
    assert!(oldest_waiting(&db).unwrap() < DAY, "its lab was resumed since");
    db.add_lab(3, Some("Asia/Kolkata")).await;
    db.fill_lab(3, "2026-06-08".parse().unwrap(), 7, 4).await;
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-10", "--lab", "1", "--lab", "3"]);
    age().await;
    assert!(oldest_waiting(&db).unwrap() > DAY, "lab 3 was not");
    run_ok(&db, &["queue", "pause", "repair"]);
    assert!(oldest_waiting(&db).unwrap() > DAY);
    run_ok(&db, &["queue", "resume", "repair"]);
    assert!(oldest_waiting(&db).unwrap() < DAY, "since its kind was resumed");
}
