//! `--max-shrink-rebuild`: rebuilds are checked like other runs where the scheduler says so.

use std::time::Duration;

use daymend::args;

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        process::{Process, run, run_ok},
        wait_until,
    },
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LIMIT: Duration = Duration::from_secs(90);
const FAILED: i32 = 1;

on_both! {
    a_rebuild_takes_nothing_away_if_the_scheduler_says_so;
    a_service_reads_the_limit_from_its_environment;
}

/// Creates a lab that is right, and whose source then loses all of its bills of 12 June.
async fn lab_that_lost_a_day(engine: Engine) -> (TestDb, i64) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.fill_lab(1, "2026-06-10".parse().unwrap(), 5, 8).await;
    run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-10", "--to", "2026-06-14"]);
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    let lost = "DELETE FROM billing WHERE billTime >= '2026-06-11 18:30:00' AND billTime < '2026-06-12 18:30:00'";
    assert!(db.execute(lost, args![]).await >= 5);
    let rows = rows_of(&db).await;
    assert!(rows > 20, "{rows}");
    // A day beside it that has to be corrected.
    let wrong = "UPDATE operation_historical_summary SET event_count = 99 WHERE ordered_at = '2026-06-13'";
    db.execute(wrong, args![]).await;
    run_ok(&db, &["--now", NOW, "rebuild", "--lab", "1"]);
    (db, rows)
}

async fn rows_of(db: &TestDb) -> i64 {
    db.number("SELECT COUNT(*) FROM operation_historical_summary WHERE ordered_at = '2026-06-12'").await
}

/// Asserts that the lost day was left as it was, with the reason, and the others were corrected.
async fn assert_kept(db: &TestDb, rows: i64, share: &str) {
    assert_eq!(rows_of(db).await, rows, "nothing is deleted");
    let discarded = db.rows("SELECT error FROM daymend_jobs WHERE state = 'discarded'", args![]).await;
    assert_eq!(discarded.len(), 1);
    let expected = format!("lab 1, 2026-06-12: {rows} of {rows} rows would vanish, more than --max-shrink {share}");
    let error = discarded[0].text(0).unwrap();
    assert!(error.starts_with(&expected), "{error}");
    assert_eq!(db.number("SELECT COUNT(*) FROM operation_historical_summary WHERE event_count = 99").await, 0);
    assert_eq!(db.record_status(1).await, "Failed (1 of 5 days)");
}

async fn a_rebuild_takes_nothing_away_if_the_scheduler_says_so(engine: Engine) {
    let (db, rows) = lab_that_lost_a_day(engine).await;
    let once = |share: &str| run_ok(&db, &["--now", NOW, "scheduler", "--once", "--max-shrink-rebuild", share]);
    once("40%");
    assert_eq!(run(&db, &["--now", NOW, "worker", "--drain"]).status.code(), Some(FAILED));
    assert_kept(&db, rows, "40%").await;
    // The limit is that of the run's own scheduler: the next rebuild may take away what the last one kept.
    run_ok(&db, &["--now", NOW, "rebuild", "--lab", "1"]);
    once("100%");
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    assert_eq!((rows_of(&db).await, db.record_status(2).await.as_str()), (0, "Completed"));
}

async fn a_service_reads_the_limit_from_its_environment(engine: Engine) {
    let (db, rows) = lab_that_lost_a_day(engine).await;
    let serve = ["--now", NOW, "serve", "--audit-budget", "0s"];
    let _serve = Process::start_with(&db, &serve, ("DAYMEND_MAX_SHRINK_REBUILD", "50%"));
    wait_until("the rebuild to end", LIMIT, async || db.record_status(1).await.starts_with("Failed")).await;
    assert_kept(&db, rows, "50%").await;
}
