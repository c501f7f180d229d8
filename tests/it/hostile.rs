//! Sites are not all alike: data that cannot be read, keys of their own, rights that are few. Each
//! stops the least it can, and says so.

use daymend::{
    args,
    rollup::HISTORICAL_SUMMARY,
    scheduler::adhoc::{self, Days},
};

use crate::support::{Engine, TestDb, work::rollups};

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
    let plan = adhoc::plan(&db.db, rollup, &[], Days::YesterdayAt(now), now).await.unwrap();
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
