//! A change of the catalogue, or a deletion that takes other rows along, makes days dirty without touching their bills.

use std::{collections::BTreeSet, time::Duration};

use chrono_tz::Asia::Kolkata;
use daymend::args;

use crate::{
    dirty::{labs, now},
    on_both,
    support::{Engine, http::get, oracle, process::Process, wait_until},
};

on_both! {
    a_change_of_the_catalogue_marks_the_days_of_its_bills;
    a_test_that_takes_its_rows_along_marks_their_days;
    a_bill_that_takes_its_rows_along_marks_its_day;
    a_change_of_the_catalogue_reaches_labs_without_a_zone_once_they_have_one;
    days_that_could_not_be_marked_are_marked_later;
    what_was_marked_before_an_error_is_not_looked_for_again;
    a_test_whose_mark_is_far_below_the_others_is_not_overlooked;
}

async fn a_change_of_the_catalogue_marks_the_days_of_its_bills(engine: Engine) {
    let db = labs(engine).await;
    // Enough rows of no bill for several steps of the walk, then one far beyond a gap in the ids.
    for _ in 0..14 {
        let double =
            "INSERT INTO labReportRelation (billing_id, test_id, isCancelled) SELECT 999, 5, 0 FROM labReportRelation";
        db.execute(double, vec![]).await;
    }
    assert!(db.number("SELECT COUNT(*) FROM labReportRelation").await > 60_000);
    let far = "INSERT INTO labReportRelation (id, billing_id, test_id, isCancelled) VALUES (9000000000, 14, 3, 1)";
    db.execute(far, vec![]).await;
    // The last row of the first step, and the first of the next.
    let ends = db.rows("SELECT id FROM labReportRelation ORDER BY id LIMIT 2 OFFSET 19999", vec![]).await;
    for (row, bill) in ends.iter().zip([12_i64, 13]) {
        let sql = "UPDATE labReportRelation SET billing_id = ?, test_id = 3, isCancelled = 1 WHERE id = ?";
        db.execute(sql, args![bill, row.int(0).unwrap()]).await;
    }
    db.install_dirty_triggers().await;
    let days = |days: &[(i64, &str)]| days.iter().map(|(lab, day)| (*lab, (*day).to_owned())).collect::<BTreeSet<_>>();
    // Test 1 is on bills of even days, test 2 on those of odd days, test 3 (cancelled) on three bills.
    let of_1 = days(&[(1, "2026-06-10"), (1, "2026-06-12"), (2, "2026-06-10")]);
    let of_2 = days(&[(1, "2026-06-11"), (1, "2026-06-13")]);
    let of_3 = days(&[(1, "2026-06-11"), (1, "2026-06-12"), (1, "2026-06-13")]);
    for (sql, expected) in [
        ("UPDATE allTests SET department_id = 30 WHERE id = 1", &of_1),
        ("UPDATE allTests SET department_id = NULL WHERE id = 2", &of_2),
        ("UPDATE allTests SET department_id = 1 WHERE id = 3", &of_3),
        ("UPDATE allTests SET department_id = 5 WHERE id IN (1, 2)", &of_1.union(&of_2).cloned().collect()),
        ("UPDATE allTests SET testName = 'x', department_id = 5 WHERE id = 1", &days(&[])),
        ("DELETE FROM allTests WHERE id = 2", &of_2),
        ("INSERT INTO allTests (id, lab_id, testName, department_id) VALUES (2, 1, 'again', 6)", &of_2),
        ("UPDATE allTests SET id = 77 WHERE id = 2", &of_2),
        ("INSERT INTO allTests (lab_id, testName, department_id) VALUES (1, 'new', 6)", &days(&[])),
    ] {
        db.execute(sql, vec![]).await;
        assert!(db.marks().await <= 4, "{sql}: the user's statement leaves at most one mark per test");
        assert_eq!(db.marked_days(now()).await, *expected, "{sql}");
        assert_eq!(db.marks().await, 0, "{sql}");
    }
}

async fn a_test_that_takes_its_rows_along_marks_their_days(engine: Engine) {
    let db = labs(engine).await;
    if engine == Engine::MariaDb {
        let cascade =
            "ALTER TABLE labReportRelation ADD FOREIGN KEY (test_id) REFERENCES allTests (id) ON DELETE CASCADE";
        db.execute(cascade, vec![]).await;
    }
    for record in [db.request_rebuild(1).await, db.request_rebuild(2).await] {
        db.tick(now()).await;
        db.drain(now()).await;
        db.tick(now()).await;
        assert_eq!(db.record_status(record).await, "Completed");
    }
    db.install_dirty_triggers().await;
    // Without a foreign key, the user deletes the rows that a cascade would delete.
    if engine == Engine::Sqlite {
        db.execute("DELETE FROM labReportRelation WHERE test_id = 2", vec![]).await;
    }
    db.execute("DELETE FROM allTests WHERE id = 2", vec![]).await;
    assert_eq!(db.number("SELECT COUNT(*) FROM labReportRelation WHERE test_id = 2").await, 0);
    db.repair_marked(now()).await;
    db.drain(now()).await;
    let expected = oracle::expected(&db, &[(1, Kolkata), (2, Kolkata)], now()).await;
    oracle::assert_equal(&oracle::stored(&db).await, &expected);
}

async fn a_bill_that_takes_its_rows_along_marks_its_day(engine: Engine) {
    let db = labs(engine).await;
    match engine {
        Engine::MariaDb => {
            for table in ["billingInfo", "labReportRelation", "collectedSample"] {
                let sql = format!(
                    "ALTER TABLE {table} ADD FOREIGN KEY (billing_id) REFERENCES billing (id) ON DELETE CASCADE"
                );
                db.execute(&sql, vec![]).await;
            }
        }
        Engine::Sqlite => {
            db.execute("DROP TABLE collectedSample", vec![]).await;
            db.execute(
                "CREATE TABLE collectedSample (id INTEGER PRIMARY KEY, billing_id INTEGER NOT NULL
                     REFERENCES billing (id) ON DELETE CASCADE, sampleType_id INTEGER, isAccessed INTEGER)",
                vec![],
            )
            .await;
            db.execute("INSERT INTO collectedSample VALUES (1, 11, 1, 0)", vec![]).await;
        }
    }
    db.install_dirty_triggers().await;
    db.execute("DELETE FROM billing WHERE id = 11", vec![]).await;
    assert_eq!(db.number("SELECT COUNT(*) FROM collectedSample WHERE billing_id = 11").await, 0);
    assert_eq!(db.marked_days(now()).await, BTreeSet::from([(1, "2026-06-10".to_owned())]));
}

async fn a_change_of_the_catalogue_reaches_labs_without_a_zone_once_they_have_one(engine: Engine) {
    // Where 06:00 and midnight UTC are of the same day, of the day before, and of the day after.
    for (zone, day_of_bill) in [("Asia/Kolkata", 10), ("America/Los_Angeles", 9), ("Pacific/Kiritimati", 10)] {
        let db = labs(engine).await;
        db.add_summary_row(2, "2026-06-05", 10, 1, "department_test", 1).await;
        db.install_dirty_triggers().await;
        db.execute("UPDATE labs SET labTimeZone = 'Mars/Base' WHERE id = 2", vec![]).await;
        db.execute("UPDATE allTests SET department_id = 30 WHERE id = 1", vec![]).await;
        let of_lab_1 = ["2026-06-10", "2026-06-12"].map(|day| (1, day.to_owned()));
        assert_eq!(db.marked_days(now()).await, BTreeSet::from(of_lab_1));
        db.execute(&format!("UPDATE labs SET labTimeZone = '{zone}' WHERE id = 2"), vec![]).await;
        let of_lab_2 = db.marked_days(now()).await;
        // The day of the bill, and the day of the stored row.
        for day in [format!("2026-06-{day_of_bill:02}"), "2026-06-05".to_owned()] {
            assert!(of_lab_2.contains(&(2, day.clone())), "{zone} {day}: {of_lab_2:?}");
        }
        assert_eq!(db.marks().await, 0);
    }
}

/// After taking marks, a pass looks back no farther than 10,000 ids; the search for marked tests has to look farther.
async fn a_test_whose_mark_is_far_below_the_others_is_not_overlooked(engine: Engine) {
    let db = labs(engine).await;
    for mark in ["(1, NULL, NULL, 2", "(20000, 1, '2026-06-12 06:00:00', NULL"] {
        let sql = "INSERT INTO daymend_dirty (id, lab_id, bill_time, test_id, marked_at) VALUES";
        db.execute(&format!("{sql} {mark}, '2026-06-15 11:00:00')"), vec![]).await;
    }
    // Test 2 is on the bills of odd days.
    let days = ["2026-06-11", "2026-06-12", "2026-06-13"].map(|day| (1, day.to_owned()));
    assert_eq!(db.marked_days(now()).await, BTreeSet::from(days));
    assert_eq!(db.marks().await, 0);
}

/// The walk does not advance past rows whose days could not be marked.
async fn days_that_could_not_be_marked_are_marked_later(engine: Engine) {
    let limit = Duration::from_secs(30);
    let db = labs(engine).await;
    db.install_dirty_triggers().await;
    db.refuse("INSERT", "daymend_dirty", "NEW.test_id IS NULL").await;
    db.execute("UPDATE allTests SET department_id = 30 WHERE id = 2", vec![]).await;
    let (_scheduler, address) = Process::start_with_pages(&db, &["--now", "2026-06-15T12:00:00Z", "scheduler"]);
    wait_until("the marks to fail", limit, async || errors(&address) > 0).await;
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE kind = 'repair'").await, 0);
    db.execute_script("DROP TRIGGER refuse").await;
    let marked = "SELECT COUNT(*) FROM daymend_jobs
                  WHERE kind = 'repair' AND lab_id = 1 AND day IN ('2026-06-11', '2026-06-13')";
    wait_until("the days to be enqueued", limit, async || db.number(marked).await == 2).await;
    wait_until("the mark of the test to go", limit, async || db.marks().await == 0).await;
}

/// Returns the sum of a metric's samples.
fn sum_of(address: &str, metric: &str) -> u64 {
    let page = get(address, "/metrics").map(|page| page.body).unwrap_or_default();
    let samples = page.lines().filter(|line| line.starts_with(metric));
    samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

fn errors(address: &str) -> u64 {
    sum_of(address, "daymend_database_errors_total")
}

async fn what_was_marked_before_an_error_is_not_looked_for_again(engine: Engine) {
    let limit = Duration::from_secs(60);
    let db = labs(engine).await;
    // Enough rows for several steps, with bills of test 1 in the first and in the last.
    for _ in 0..14 {
        let double =
            "INSERT INTO labReportRelation (billing_id, test_id, isCancelled) SELECT 999, 5, 0 FROM labReportRelation";
        db.execute(double, vec![]).await;
    }
    let far = "INSERT INTO labReportRelation (id, billing_id, test_id, isCancelled) VALUES (9000000000, 12, 1, 0)";
    db.execute(far, vec![]).await;
    db.install_dirty_triggers().await;
    db.refuse("INSERT", "daymend_dirty", "NEW.bill_time LIKE '2026-06-11%'").await;
    db.execute("UPDATE allTests SET department_id = 30 WHERE id = 1", vec![]).await;
    let (_scheduler, address) = Process::start_with_pages(&db, &["--now", "2026-06-15T12:00:00Z", "scheduler"]);
    wait_until("the marks to fail", limit, async || errors(&address) > 3).await;
    let repaired = || sum_of(&address, "daymend_dirty_marks_total{outcome=\"repaired\"}");
    assert_eq!(repaired(), 3, "each day once");
    db.execute_script("DROP TRIGGER refuse").await;
    wait_until("the mark of the test to go", limit, async || db.marks().await == 0).await;
    wait_until("the last day", limit, async || repaired() == 4).await;
}
