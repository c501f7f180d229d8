//! The scheduler prunes once an hour, so that the admin log, which nobody prunes, grows by a row an hour at most.

use std::time::Duration;

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
    what_ends_after_a_round_is_left_to_the_next_one;
}

/// Returns how often a scheduler has looked for work.
fn ticks(address: &str) -> u32 {
    let page = get(address, "/metrics").unwrap().body;
    let ticks = page.lines().find_map(|line| line.strip_prefix("daymend_scheduler_ticks_total{result=\"ok\"} "));
    ticks.map_or(0, |ticks| ticks.parse().unwrap())
}

async fn what_ends_after_a_round_is_left_to_the_next_one(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.fill_lab(1, "2026-06-10".parse().unwrap(), 2, 3).await;
    let repair = || {
        run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-10", "--to", "2026-06-11"]);
        run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    };
    repair();
    let (scheduler, address) = Process::start_with_pages(&db, &SCHEDULER);
    wait_until("the first round", LIMIT, async || db.number(LOGGED).await == 1).await;
    assert_eq!(db.number(JOBS).await, 0);
    repair();
    let begun = ticks(&address);
    wait_until("some ticks", LIMIT, async || ticks(&address) > begun + 3).await;
    assert_eq!((db.number(JOBS).await, db.number(LOGGED).await), (2, 1));
    drop(scheduler);
    // A round begins with the process.
    let _scheduler = Process::start(&db, &SCHEDULER);
    wait_until("the next round", LIMIT, async || db.number(LOGGED).await == 2).await;
    assert_eq!(db.number(JOBS).await, 0);
}
