//! Sites are not all alike: data that cannot be read, keys of their own. Each stops the least it can, and says so.

use std::time::Duration;

use daymend::{
    args,
    rollup::HISTORICAL_SUMMARY,
    scheduler::repair::{self, Days},
};

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        process::{Process, run_ok},
        work::rollups,
    },
};

on_both! {
    a_unique_key_of_the_sites_own_fails_the_job_instead_of_keeping_it_for_ever;
}

const NOW: &str = "2026-06-15T12:00:00Z";

// SQLite's columns take any text; MySQL's DATETIME does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lab_with_a_bill_time_that_cannot_be_read_stops_no_other() {
    let db = TestDb::new(Engine::Sqlite).await;
    for (lab, time) in [(1, "2026-06-13T10:00:00"), (2, "2026-06-13 10:00:00"), (3, "2026-06-13 10:00:00+00:00")] {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
        db.execute(
            "INSERT INTO billing (lab_id, billTime, isCancelled, modified_at) VALUES (?, ?, 0, '2026-06-13 10:00:00')",
            args![lab, time],
        )
        .await;
    }
    let now = "2026-06-15T12:00:00Z".parse().unwrap();
    let rollups = rollups();
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let plan = repair::plan(&db.db, rollup, &[], Days::YesterdayAt(now), now).await.unwrap();
    assert_eq!(plan.labs.iter().map(|(lab, _)| *lab).collect::<Vec<_>>(), [2]);
    assert_eq!(plan.left_out.iter().map(|(lab, _)| *lab).collect::<Vec<_>>(), [1, 3]);

    let mut records = Vec::new();
    for lab in 1..=3 {
        records.push(db.request_rebuild(lab).await);
    }
    db.tick(now).await;
    assert!(db.record_status(records[0]).await.starts_with("Failed (database: days.sql"));
    assert_eq!(db.record_status(records[1]).await, "Running (0/1)");
    assert!(db.record_status(records[2]).await.starts_with("Failed (database: days.sql"));
}

async fn a_unique_key_of_the_sites_own_fails_the_job_instead_of_keeping_it_for_ever(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.fill_lab(1, "2026-06-12".parse().unwrap(), 3, 20).await;
    db.execute(
        "CREATE UNIQUE INDEX too_narrow ON operation_historical_summary (lab_id, ordered_at, event_type)",
        args![],
    )
    .await;
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-13", "--attempts", "1"]);
    let mut worker = Process::start(&db, &["--now", NOW, "worker", "--drain"]);
    assert_eq!(worker.wait(Duration::from_secs(60)), Some(1));
    let error = db.text("SELECT error FROM daymend_jobs WHERE state = 'discarded'").await;
    assert!(error.contains("insert summary rows"), "{error}");
}
