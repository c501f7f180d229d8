//! What the scheduler prunes, and when: once an hour, so that the admin log, which nobody prunes, grows by a row an
//! hour at most.

use std::time::Duration;

use daymend::args;

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        http::get,
        process::{Process, run_ok},
        wait_until,
    },
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LIMIT: Duration = Duration::from_secs(60);
const SCHEDULER: [&str; 5] = ["--now", NOW, "scheduler", "--retention", "1ms"];
const JOBS: &str = "SELECT COUNT(*) FROM daymend_jobs WHERE kind = 'repair'";
const LOGGED: &str = "SELECT COUNT(*) FROM daymend_admin_log";

on_both! {
    what_has_outlived_its_retention_is_pruned;
    without_a_retention_everything_is_kept;
    completed_runs_of_late_changes_are_kept_for_a_week;
    what_ends_after_a_round_is_left_to_the_next_one;
}

/// Returns how often a scheduler has looked for work.
fn ticks(address: &str) -> u32 {
    let page = get(address, "/metrics").unwrap().body;
    let ticks = page.lines().find_map(|line| line.strip_prefix("daymend_scheduler_ticks_total{result=\"ok\"} "));
    ticks.map_or(0, |ticks| ticks.parse().unwrap())
}

/// Runs a repair of two days of lab 1 to its end, without closing it.
fn repair(db: &TestDb) {
    run_ok(db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-10", "--to", "2026-06-11"]);
    run_ok(db, &["--now", NOW, "worker", "--drain"]);
}

async fn with_repairs(engine: Engine, repairs: usize) -> TestDb {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.fill_lab(1, "2026-06-10".parse().unwrap(), 2, 3).await;
    for _ in 0..repairs {
        repair(&db);
    }
    db
}

async fn what_has_outlived_its_retention_is_pruned(engine: Engine) {
    let db = with_repairs(engine, 2).await;
    // Runs this far apart are pruned in two batches.
    db.execute("UPDATE daymend_runs SET id = id + 5000 WHERE id = 2", vec![]).await;
    db.execute("UPDATE daymend_jobs SET id = id + 500000000000 WHERE id >= 200000000", vec![]).await;
    assert_eq!(db.number(JOBS).await, 4);
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    let jobs = db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'completed'").await;
    let _scheduler = Process::start(&db, &SCHEDULER);
    wait_until("the round to end", LIMIT, async || db.number(LOGGED).await > 0).await;
    assert_eq!(db.number(JOBS).await, 0);
    let log: serde_json::Value = serde_json::from_str(&run_ok(&db, &["queue", "log", "--json"])).unwrap();
    assert_eq!(log.as_array().unwrap().len(), 1, "one row per round: {log}");
    assert_eq!((log[0]["who"].as_str(), log[0]["jobs"].as_i64()), (Some("scheduler"), Some(jobs)));
}

async fn without_a_retention_everything_is_kept(engine: Engine) {
    let db = with_repairs(engine, 1).await;
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    db.execute("UPDATE daymend_runs SET finished_at = '2000-01-01 00:00:00'", args![]).await;
    let (_scheduler, address) = Process::start_with_pages(&db, &["--now", NOW, "scheduler", "--retention", "0s"]);
    // Pruning would happen alongside its first ticks.
    wait_until("some ticks", LIMIT, async || ticks(&address) > 2).await;
    assert_eq!(db.number(JOBS).await, 2);
}

async fn completed_runs_of_late_changes_are_kept_for_a_week(engine: Engine) {
    let db = with_repairs(engine, 5).await;
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    let now = db.db.database_now().await.unwrap();
    for (run, state, name, days) in [
        (1_i64, "completed", "Late-Changes run 1: late changes of lab 1", 8),
        (2, "completed", "Late-Changes run 2: late changes of lab 1", 6),
        (3, "failed", "Late-Changes run 3: late changes of lab 1", 8),
        (4, "completed", "Nightly-Operation-Summary run 4: a repair", 8),
        (5, "completed", "Late-Changes run 5: late changes of lab 1", 91),
    ] {
        let at = now - chrono::TimeDelta::days(days);
        let set = "UPDATE daymend_runs SET state = ?, event_name = ?, finished_at = ? WHERE id = ?";
        assert_eq!(db.execute(set, args![state, name, at, run]).await, 1);
    }
    let _scheduler = Process::start(&db, &["--now", NOW, "scheduler"]);
    wait_until("the round to end", LIMIT, async || db.number(LOGGED).await > 0).await;
    let kept = db.rows("SELECT id FROM daymend_runs WHERE kind = 'repair' ORDER BY id", args![]).await;
    let kept: Vec<i64> = kept.iter().map(|row| row.int(0).unwrap()).collect();
    assert_eq!(kept, [2, 3, 4]);
    assert_eq!(db.number(JOBS).await, 6);
}

async fn what_ends_after_a_round_is_left_to_the_next_one(engine: Engine) {
    let db = with_repairs(engine, 1).await;
    let (scheduler, address) = Process::start_with_pages(&db, &SCHEDULER);
    wait_until("the first round", LIMIT, async || db.number(LOGGED).await == 1).await;
    assert_eq!(db.number(JOBS).await, 0);
    repair(&db);
    let begun = ticks(&address);
    wait_until("some ticks", LIMIT, async || ticks(&address) > begun + 3).await;
    assert_eq!((db.number(JOBS).await, db.number(LOGGED).await), (2, 1));
    drop(scheduler);
    // A round begins with the process.
    let _scheduler = Process::start(&db, &SCHEDULER);
    wait_until("the next round", LIMIT, async || db.number(LOGGED).await == 2).await;
    assert_eq!(db.number(JOBS).await, 0);
}
