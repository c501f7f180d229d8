//! The digests of days: for a right day the database computes the same digest as daymend, for each wrong one another,
//! and it reads the rows in the order of the unique key.

use chrono::{DateTime, NaiveDate, Utc};
use daymend::{
    args,
    db::{Dialect, Mode},
    recompute::{self, Target, digest, shrink::MaxShrink},
    rollup::HISTORICAL_SUMMARY,
};

use crate::{
    on_both,
    support::{Engine, TestDb, work::rollups},
};

const NOW: &str = "2026-06-15T12:00:00Z";
const DAYS: [&str; 3] = ["2026-06-10", "2026-06-11", "2026-06-12"];

on_both! {
    one_wrong_row_among_many_right_days_is_all_that_is_written;
}

fn day(place: usize) -> NaiveDate {
    DAYS[place].parse().unwrap()
}

fn now() -> DateTime<Utc> {
    NOW.parse().unwrap()
}

/// Creates a lab with three recomputed days.
async fn lab(engine: Engine) -> TestDb {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    for test in 1..=6 {
        db.add_test(test, Some(test % 2)).await;
    }
    db.fill_lab(1, day(0), 3, 30).await;
    db.request_rebuild(1).await;
    db.tick(now()).await;
    db.drain(now()).await;
    db
}

/// Returns the days whose digests differ.
async fn differing(db: &TestDb) -> Vec<NaiveDate> {
    let rollups = rollups();
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let (first, last) = (day(0), day(2));
    let target = Target { lab_id: 1, first, last, as_of: now(), max_shrink: MaxShrink::OFF };
    let mut tx = db.db.begin(Mode::Snapshot).await.unwrap();
    let expected = recompute::read(&mut tx, rollup, target).await.unwrap().expected;
    assert!(expected.len() > 100, "the summary has too few rows for this test");
    let stored = digest::stored(&mut tx, rollup, 1, (first, last)).await.unwrap().expect("digests");
    tx.rollback().await.unwrap();
    let expected = digest::expected(rollup, &expected);
    [0, 1, 2].map(day).into_iter().filter(|day| stored.get(day) != expected.get(day)).collect()
}

#[test]
fn sqlite_computes_no_digests() {
    let rollups = rollups();
    assert_eq!(digest::sql(&rollups.get(HISTORICAL_SUMMARY).unwrap().summary, Dialect::Sqlite), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn right_days_have_the_digests_of_what_is_expected_and_wrong_days_have_not() {
    let db = lab(Engine::MariaDb).await;
    assert!(differing(&db).await.is_empty());
    let of_the_second = format!("lab_id = 1 AND ordered_at = '{}'", DAYS[1]);
    let first =
        format!("(SELECT id FROM (SELECT MIN(id) AS id FROM operation_historical_summary WHERE {of_the_second}) AS i)");
    let last = first.replace("MIN", "MAX");
    let changes = [
        format!("UPDATE operation_historical_summary SET event_count = event_count + 1 WHERE id = {first}"),
        // The same total, and the same change in two rows: sums and XORs would miss these.
        format!(
            "UPDATE operation_historical_summary SET event_count = event_count + IF(id = {first}, 1, -1) WHERE id IN ({first}, {last})"
        ),
        format!("UPDATE operation_historical_summary SET event_count = event_count + 1 WHERE id IN ({first}, {last})"),
        format!("UPDATE operation_historical_summary SET dimension_b_id = dimension_b_id + 1000 WHERE id = {first}"),
        format!(
            "UPDATE operation_historical_summary SET event_type = 'Branch_Bill' WHERE {of_the_second} AND event_type = 'branch_bill'"
        ),
        format!("DELETE FROM operation_historical_summary WHERE id = {last}"),
        format!("DELETE FROM operation_historical_summary WHERE {of_the_second}"),
    ];
    db.execute("CREATE TABLE kept LIKE operation_historical_summary", args![]).await;
    db.execute("INSERT INTO kept SELECT * FROM operation_historical_summary", args![]).await;
    for change in changes {
        assert!(db.execute(&change, args![]).await > 0, "{change}");
        assert_eq!(differing(&db).await, [day(1)], "{change}");
        db.execute("DELETE FROM operation_historical_summary", args![]).await;
        db.execute("INSERT INTO operation_historical_summary SELECT * FROM kept", args![]).await;
        assert!(differing(&db).await.is_empty());
    }
    db.add_summary_row(1, DAYS[1], 7, 7, "branch_test", 1).await;
    assert_eq!(differing(&db).await, [day(1)], "a ghost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_is_read_by_the_unique_key_without_a_sort() {
    let db = lab(Engine::MariaDb).await;
    let rollups = rollups();
    let sql = digest::sql(&rollups.get(HISTORICAL_SUMMARY).unwrap().summary, db.db.dialect()).expect("digests");
    // Rows of other labs, without which the server prefers to scan the table.
    for lab in 2_i64..40 {
        let sql = "INSERT INTO operation_historical_summary
                       (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at)
                   SELECT ?, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at
                   FROM operation_historical_summary WHERE lab_id = 1";
        db.execute(sql, args![lab]).await;
    }
    db.rows("ANALYZE TABLE operation_historical_summary", args![]).await;
    let plan = db.rows(&format!("EXPLAIN {sql}"), args![1_i64, DAYS[0], DAYS[2]]).await;
    assert_eq!(plan.len(), 1);
    let text = |name| plan[0].text_or_null(plan[0].position(name).unwrap()).unwrap().unwrap_or_default();
    assert_eq!((text("type").as_str(), text("key").as_str()), ("range", "summary_key"));
    let remarks = text("Extra");
    assert!(!remarks.contains("filesort") && !remarks.contains("temporary"), "{remarks}");
}

async fn one_wrong_row_among_many_right_days_is_all_that_is_written(engine: Engine) {
    let db = lab(engine).await;
    let some =
        format!("SELECT MIN(id) FROM operation_historical_summary WHERE lab_id = 1 AND ordered_at = '{}'", DAYS[1]);
    let id = db.number(&some).await;
    db.execute("UPDATE operation_historical_summary SET event_count = event_count + 5 WHERE id = ?", args![id]).await;
    let before = db.number("SELECT CAST(SUM(event_count) AS SIGNED) FROM operation_historical_summary").await;
    // Twice: as the first run finds a difference, the second reads the rows at once.
    for (written, sum) in [(1, before - 5), (0, before - 5)] {
        db.execute("DELETE FROM daymend_jobs", args![]).await;
        db.request_rebuild(1).await;
        db.tick(now()).await;
        db.drain(now()).await;
        let total = "SELECT CAST(SUM(rows_inserted + rows_updated + rows_deleted) AS SIGNED) FROM daymend_jobs";
        assert_eq!(db.number(total).await, written);
        assert_eq!(db.number("SELECT CAST(SUM(event_count) AS SIGNED) FROM operation_historical_summary").await, sum);
    }
}
