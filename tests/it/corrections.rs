//! Days are looked at together and corrected one after the other: a committed correction stays, however the rest ends.

use std::{
    ops::RangeInclusive,
    sync::Mutex,
    time::{Duration, Instant},
};

use chrono::NaiveDate;
use daymend::{
    args,
    db::{ConnectOptions, ErrorKind, Mode, Query, Tx, connect},
    recompute::{self, Progress, RecomputeError, Streak, Target, shrink::MaxShrink},
    rollup::HISTORICAL_SUMMARY,
};

use crate::{
    on_both,
    support::{
        Engine, TestDb, oracle,
        process::{Process, run_fails, run_ok},
        server::{Product, Server},
        wait_until,
        work::rollups,
    },
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LAB: (i64, chrono_tz::Tz) = (1, chrono_tz::Asia::Kolkata);
const LIMIT: Duration = Duration::from_secs(60);
const DAYS: [&str; 4] = ["2026-06-10", "2026-06-11", "2026-06-12", "2026-06-13"];

on_both! {
    a_day_without_rows_is_corrected_alone;
    days_with_wrong_counts_are_corrected_together;
    a_correction_that_fails_takes_no_other_with_it;
    a_day_is_over_by_the_clock_of_whoever_asked_for_it;
    rows_of_a_day_to_come_may_all_go;
    a_change_of_other_rows_keeps_no_missing_row_waiting;
    a_change_of_a_missing_row_is_not_lost;
}

fn day(place: usize) -> NaiveDate {
    DAYS[place].parse().unwrap()
}

async fn lab(engine: Engine) -> TestDb {
    let db = TestDb::new(engine).await;
    db.add_lab(LAB.0, Some(LAB.1.name())).await;
    db.fill_lab(LAB.0, day(0), 4, 20).await;
    db
}

/// Recomputes the four days, and returns the days of the committed corrections; the one that ends with `refused`
/// loses its lease.
async fn corrections(
    db: &TestDb,
    refused: Option<NaiveDate>,
) -> (Vec<RangeInclusive<NaiveDate>>, Result<(), RecomputeError>) {
    let rollups = rollups();
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let target =
        Target { lab_id: LAB.0, first: day(0), last: day(3), as_of: NOW.parse().unwrap(), max_shrink: MaxShrink::OFF };
    let (streak, progress) = (Streak::default(), Progress::default());
    let done = Mutex::new(Vec::new());
    let settle = |tx, correction: recompute::Correction| async move {
        if refused == Some(*correction.days.end()) { Err(RecomputeError::LostLease) } else { Ok((tx, correction)) }
    };
    let result = recompute::recompute(&db.db, rollup, target, &streak, &progress, settle, |correction| {
        done.lock().unwrap().push(correction.days);
    })
    .await;
    let done = done.into_inner().unwrap();
    assert_eq!(progress.last(), done.last().map(|days| *days.end()));
    (done, result)
}

/// Asserts that the stored rows are those of the source from `first` to `last`, and no others.
async fn assert_right(db: &TestDb, first: NaiveDate, last: NaiveDate) {
    let mut expected = oracle::expected(db, &[LAB], NOW.parse().unwrap()).await;
    expected.retain(|key, _| (first..=last).contains(&key.1));
    assert!(expected.len() > 50, "too few rows for a test");
    oracle::assert_equal(&oracle::stored(db).await, &expected);
}

async fn a_day_without_rows_is_corrected_alone(engine: Engine) {
    let db = lab(engine).await;
    let (corrections, result) = corrections(&db, None).await;
    result.unwrap();
    assert_eq!(corrections, [0, 1, 2, 3].map(|place| day(place)..=day(place)));
    assert_right(&db, day(0), day(3)).await;
}

async fn days_with_wrong_counts_are_corrected_together(engine: Engine) {
    let db = lab(engine).await;
    corrections(&db, None).await.1.unwrap();
    for wrong in [1, 2] {
        let sql = format!(
            "UPDATE operation_historical_summary SET event_count = event_count + 1 WHERE ordered_at = '{}'",
            DAYS[wrong]
        );
        db.execute(&sql, vec![]).await;
    }
    let (corrections, result) = corrections(&db, None).await;
    result.unwrap();
    assert_eq!(corrections, [day(0)..=day(2)], "the last day is correct, and in no correction");
    assert_right(&db, day(0), day(3)).await;
}

async fn a_correction_that_fails_takes_no_other_with_it(engine: Engine) {
    let db = lab(engine).await;
    let (done, result) = corrections(&db, Some(day(1))).await;
    assert!(matches!(result, Err(RecomputeError::LostLease)), "{result:?}");
    assert_eq!(done, [day(0)..=day(0)]);
    assert_right(&db, day(0), day(0)).await;
    corrections(&db, None).await.1.unwrap();
    assert_right(&db, day(0), day(3)).await;
}

/// Repairs neighbouring days of two runs with a worker whose own clock is behind those of both.
async fn a_day_is_over_by_the_clock_of_whoever_asked_for_it(engine: Engine) {
    let db = lab(engine).await;
    for (now, day) in [("2026-06-13T12:00:00Z", "2026-06-12"), ("2026-06-14T12:00:00Z", "2026-06-13")] {
        run_ok(&db, &["--now", now, "repair", "--day", day]);
    }
    run_ok(&db, &["--now", "2026-06-01T12:00:00Z", "worker", "--drain"]);
    let mut expected = oracle::expected(&db, &[LAB], NOW.parse().unwrap()).await;
    expected.retain(|key, _| key.1 == day(2) || key.1 == day(3));
    assert!([2, 3].iter().all(|place| expected.keys().any(|key| key.1 == day(*place))));
    oracle::assert_equal(&oracle::stored(&db).await, &expected);
}

/// Deletes one of the second day's rows of `branch_test`, and returns a test that it counts.
async fn lose_a_row(db: &TestDb) -> i64 {
    corrections(db, None).await.1.unwrap();
    let of_the_day = "SELECT MIN(id) FROM operation_historical_summary WHERE event_type = 'branch_test' AND ordered_at";
    let row = db.number(&format!("{of_the_day} = '{}'", DAYS[1])).await;
    let test = "SELECT MIN(labReportRelation.id) FROM labReportRelation
                JOIN billing ON billing.id = billing_id AND billing.isCancelled = 0 AND labReportRelation.isCancelled = 0
                WHERE billTime >= '2026-06-10 18:30:00' AND billTime < '2026-06-11 18:30:00' AND test_id =";
    let row_of = format!("(SELECT dimension_b_id FROM operation_historical_summary WHERE id = {row})");
    let test = db.number(&format!("{test} {row_of}")).await;
    db.execute("DELETE FROM operation_historical_summary WHERE id = ?", args![row]).await;
    test
}

/// Creates a trigger that changes facts whenever a row is inserted, which is after the look.
async fn meddle(db: &TestDb, statements: &str) {
    let create = format!(
        "CREATE TRIGGER meddler AFTER INSERT ON operation_historical_summary FOR EACH ROW BEGIN {statements}; END"
    );
    change_triggers(db, &create).await;
}

async fn leave_in_peace(db: &TestDb) {
    change_triggers(db, "DROP TRIGGER meddler").await;
}

/// A SQLite connection notices others' changes of triggers only after it has run a statement.
async fn change_triggers(db: &TestDb, sql: &str) {
    let mut tx = db.admin.begin(Mode::Write).await.unwrap();
    for sql in ["DELETE FROM billing WHERE 1 = 0", sql] {
        tx.execute_text("change triggers", sql).await.unwrap();
    }
    tx.commit().await.unwrap();
}

/// `--max-shrink` does not stop them: the source cannot have lost facts of a future day.
async fn rows_of_a_day_to_come_may_all_go(engine: Engine) {
    let db = lab(engine).await;
    for a in 1..=10 {
        db.add_summary_row(LAB.0, "2026-06-20", a, 0, "organization_bill", 3).await;
    }
    run_fails(&db, 3, &["--now", NOW, "audit", "--repair", "--max-shrink", "50%"]);
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    oracle::assert_equal(&oracle::stored(&db).await, &oracle::expected(&db, &[LAB], NOW.parse().unwrap()).await);
}

async fn a_change_of_other_rows_keeps_no_missing_row_waiting(engine: Engine) {
    let db = lab(engine).await;
    let test = lose_a_row(&db).await;
    // One more fact of a row that is stored, and a fact of a new row.
    let again = format!(
        "INSERT INTO collectedSample (billing_id, sampleType_id, isAccessed)
             SELECT collectedSample.billing_id, sampleType_id, isAccessed FROM collectedSample
             JOIN labReportRelation ON labReportRelation.id = {test}
                  AND labReportRelation.billing_id = collectedSample.billing_id;
         INSERT INTO labReportRelation (billing_id, test_id, isCancelled)
             SELECT billing_id, 999, 0 FROM labReportRelation WHERE id = {test}"
    );
    meddle(&db, &again).await;
    let facts = "SELECT (SELECT COUNT(*) FROM collectedSample) + (SELECT COUNT(*) FROM labReportRelation)";
    let before = db.number(facts).await;
    let (done, result) = corrections(&db, None).await;
    result.unwrap();
    assert_eq!(done, [day(0)..=day(1)]);
    assert_eq!(db.number(facts).await, before + 2);
    // As if the facts had changed afterwards, unnoticed.
    leave_in_peace(&db).await;
    corrections(&db, None).await.1.unwrap();
    assert_right(&db, day(0), day(3)).await;
}

async fn a_change_of_a_missing_row_is_not_lost(engine: Engine) {
    let db = lab(engine).await;
    let test = lose_a_row(&db).await;
    let stored = oracle::stored(&db).await;
    // One more fact of the missing row, and none.
    let again = "INSERT INTO labReportRelation (billing_id, test_id, isCancelled)
                 SELECT billing_id, test_id, 0 FROM labReportRelation WHERE id =";
    let none = "UPDATE labReportRelation SET isCancelled = 1 WHERE test_id = (SELECT test_id FROM (SELECT test_id FROM labReportRelation WHERE id =";
    for change in [format!("{again} {test}"), format!("{none} {test}) AS t)")] {
        meddle(&db, &change).await;
        let (done, result) = corrections(&db, None).await;
        let error = result.unwrap_err();
        assert!(error.to_string().contains("facts of inserted rows"), "{error}");
        assert_eq!(done, []);
        oracle::assert_equal(&oracle::stored(&db).await, &stored);
        leave_in_peace(&db).await;
    }
    corrections(&db, None).await.1.unwrap();
    assert_right(&db, day(0), day(3)).await;
}

/// Opens a user's transaction that has changed the last fact of the third day. Not the first one: InnoDB also locks
/// the first row after a range.
async fn change_the_third_day(db: &TestDb) -> Tx {
    let mut user = db.admin.begin(Mode::Write).await.unwrap();
    let last = "SELECT id FROM billing WHERE billTime < '2026-06-12 18:30:00' ORDER BY billTime DESC LIMIT 1";
    let last = db.number(last).await;
    let sql = "UPDATE billing SET isCancelled = 1 - isCancelled WHERE id = ?";
    assert_eq!(user.execute(Query::new("user", sql), args![last]).await.unwrap(), 1);
    user
}

/// A user is changing a fact of the third day; the days before it do not wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_whose_facts_are_held_keeps_no_earlier_day_waiting() {
    let db = lab(Engine::MariaDb).await;
    let user = change_the_third_day(&db).await;
    let (done, result) = corrections(&db, None).await;
    assert!(matches!(result, Err(RecomputeError::Database(_))), "{result:?}");
    assert_eq!(done, [day(0)..=day(0), day(1)..=day(1)]);
    user.rollback().await.unwrap();
    corrections(&db, None).await.1.unwrap();
    assert_right(&db, day(0), day(3)).await;
}

/// The same with a worker: the group ends at the third day, and the fourth is done by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_settles_each_day_of_a_group_once() {
    let db = lab(Engine::MariaDb).await;
    run_ok(&db, &["--now", NOW, "repair", "--day", DAYS[0], "--to", DAYS[3], "--lab", "1"]);
    let user = change_the_third_day(&db).await;
    let _worker = Process::start(&db, &["--now", NOW, "worker"]);
    let completed = async || db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'completed'").await;
    wait_until("the other days to be done", LIMIT, async || completed().await == 3).await;
    let waiting = db.text("SELECT CAST(MIN(day) AS CHAR) FROM daymend_jobs WHERE state <> 'completed'").await;
    assert_eq!(waiting, DAYS[2]);
    user.commit().await.unwrap();
    wait_until("the day to be done", LIMIT, async || completed().await == 4).await;
    assert_right(&db, day(0), day(3)).await;
    let (rows, stored) =
        ("SELECT SUM(rows_inserted) FROM daymend_jobs", "SELECT COUNT(*) FROM operation_historical_summary");
    assert_eq!(db.number(&format!("SELECT CAST(({rows}) AS SIGNED)")).await, db.number(stored).await);
    assert_eq!(db.number("SELECT MAX(attempt) FROM daymend_jobs").await, 1);
}

/// The number of rows of a day varies. If the statement for each number were kept prepared, each would cost the server
/// a megabyte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_for_many_rows_are_not_kept_prepared() {
    let server = Server::start("prepared").expect("MariaDB starts");
    let mut db = TestDb::on_server(server.port).await;
    // The count is for the whole server, so there must be no other connections.
    db.db = connect(&db.url, ConnectOptions::new(1)).unwrap();
    db.admin = connect(&db.triggers_url, ConnectOptions::new(1)).unwrap();
    db.add_lab(LAB.0, Some(LAB.1.name())).await;
    db.fill_lab(LAB.0, day(0), 4, 40).await;
    let mut kept = Vec::new();
    for round in 2..6_i64 {
        db.execute("DELETE FROM operation_historical_summary", vec![]).await;
        db.execute("UPDATE labReportRelation SET isCancelled = (id % ? = 0)", args![round]).await;
        corrections(&db, None).await.1.unwrap();
        assert_right(&db, day(0), day(3)).await;
        let status = db.rows("SHOW STATUS LIKE 'Prepared_stmt_count'", vec![]).await;
        kept.push(status[0].text(1).unwrap().parse::<i64>().unwrap());
    }
    // The test's own statements are included, and are the same each time.
    assert_eq!(kept[3], kept[1], "{kept:?}");
}

/// A user's transaction that needs another of the rows would be in a deadlock with it. Twenty tries that each waited for
/// a second would take longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_correction_waits_for_no_row_that_somebody_holds() {
    const COLUMNS: &str = "dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at";
    let db = lab(Engine::MariaDb).await;
    corrections(&db, None).await.1.unwrap();
    let [wrong, missing] = ["event_count = event_count + 1", "ordered_at = '2000-01-01'"]
        .map(|set| format!("UPDATE operation_historical_summary SET {set} WHERE ordered_at = '{}'", day(1)));
    let inserted = format!(
        "INSERT INTO operation_historical_summary (lab_id, ordered_at, {COLUMNS})
         SELECT lab_id, '{}', {COLUMNS} FROM operation_historical_summary WHERE ordered_at = '2000-01-01'",
        day(1)
    );
    // MySQL has no shorter wait for an INSERT than a second.
    let seconds = if Product::tested() == Product::MariaDb { 12 } else { 40 };
    for (before, change, limit) in [(&wrong, &wrong, 12), (&missing, &inserted, seconds)] {
        db.execute(before, args![]).await;
        let mut user = db.admin.begin(Mode::Write).await.unwrap();
        assert!(user.execute(Query::new("user", change.as_str()), args![]).await.unwrap() > 0);
        let begun = Instant::now();
        let error = corrections(&db, None).await.1.unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(limit), "{:?}: {error:?}", begun.elapsed());
        assert!(matches!(&error, RecomputeError::Database(error) if error.kind == ErrorKind::Conflict), "{error:?}");
        user.rollback().await.unwrap();
        corrections(&db, None).await.1.unwrap();
    }
}
