//! Every change that makes a closed day wrong leads to a repair of that day within seconds, and nothing else does.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Asia::Kolkata;
use daymend::{
    args,
    db::{Mode, Query},
    queue::{claim, lease},
};

use crate::{
    on_both,
    scheduler::events,
    support::{
        Engine, TestDb,
        lab_system::Bill,
        oracle,
        process::{Process, run_ok},
        server::Product,
        wait_until,
    },
};

on_both! {
    each_change_marks_the_days_that_it_makes_wrong;
    marks_of_one_day_share_a_job_and_a_waiting_job_takes_more;
    late_changes_do_not_show_among_nightly_runs;
    a_day_that_is_not_over_is_left_to_the_nightly_run;
    labs_that_the_nightly_run_leaves_out_get_no_job;
    marks_that_mean_no_day_are_dropped;
    marks_of_years_that_no_calendar_has_get_no_job;
    schedulers_side_by_side_repair_each_day_once;
    a_change_is_repaired_within_seconds;
    without_triggers_nothing_happens;
    marks_that_have_to_wait_keep_no_others_waiting;
}

const LIMIT: Duration = Duration::from_secs(60);

/// How long a repair may take at most, from the change on.
const SECONDS: Duration = Duration::from_secs(15);

pub(crate) fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// Noon of an ordinary day.
pub(crate) fn now() -> DateTime<Utc> {
    at("2026-06-15T12:00:00Z")
}

/// Creates three labs, with bills 11 to 14 (10 to 13 June, lab 1) and bill 21 (10 June, lab 2).
pub(crate) async fn labs(engine: Engine) -> TestDb {
    let db = TestDb::new(engine).await;
    for lab in 1..=3 {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
    }
    for (test, department) in [(1, Some(10)), (2, Some(20)), (3, None)] {
        db.add_test(test, department).await;
    }
    let bill = |day: u32| Bill {
        at: at(&format!("2026-06-{day}T06:00:00Z")),
        info: Some((Some(1), Some(2), None)),
        tests: vec![(i64::from(day % 2) + 1, false)],
        samples: vec![(1, false)],
        ..Bill::default()
    };
    for day in 10..=13 {
        db.add_bill(i64::from(day) + 1, 1, &bill(day)).await;
    }
    db.add_bill(21, 2, &bill(10)).await;
    db
}

async fn each_change_marks_the_days_that_it_makes_wrong(engine: Engine) {
    let db = labs(engine).await;
    db.install_dirty_triggers().await;
    let first_row = |table: &str, bill: i64| {
        format!("(SELECT MIN(id) FROM (SELECT * FROM {table}) AS t WHERE billing_id = {bill})")
    };
    let insert_bill = "INSERT INTO billing (id, lab_id, billTime, isCancelled, modified_at)";
    // Bill 11 is of 10 June, 12 of the 11th, 13 of the 12th, 14 of the 13th.
    let mut cases: Vec<(String, &[(i64, &str)])> = vec![
        // Bills.
        (format!("{insert_bill} VALUES (31, 1, '2026-06-01 20:00:00', 0, '2026-06-15 00:00:00')"), &[(1, "2026-06-02")]),
        (format!("{insert_bill} VALUES (32, 2, '2026-06-01 18:29:59.999999', 1, '2026-06-15 00:00:00')"), &[(2, "2026-06-01")]),
        ("UPDATE billing SET isCancelled = 1 WHERE id = 11".into(), &[(1, "2026-06-10")]),
        ("UPDATE billing SET isCancelled = 1, modified_at = '2026-06-15 00:00:01' WHERE id = 11".into(), &[]),
        ("UPDATE billing SET modified_at = '2026-06-15 00:00:02' WHERE id = 11".into(), &[]),
        ("UPDATE billing SET isCancelled = 0 WHERE id = 11".into(), &[(1, "2026-06-10")]),
        ("UPDATE billing SET billTime = '2026-06-05 06:00:00' WHERE id = 31".into(), &[(1, "2026-06-02"), (1, "2026-06-05")]),
        ("UPDATE billing SET lab_id = 2 WHERE id = 31".into(), &[(1, "2026-06-05"), (2, "2026-06-05")]),
        ("UPDATE billing SET lab_id = 3, billTime = '2026-06-06 06:00:00' WHERE id = 31".into(), &[(2, "2026-06-05"), (3, "2026-06-06")]),
        ("UPDATE billing SET id = 33 WHERE id = 31".into(), &[(3, "2026-06-06")]),
        ("DELETE FROM billing WHERE id = 33".into(), &[(3, "2026-06-06")]),
        ("REPLACE INTO billing (id, lab_id, billTime, isCancelled, modified_at) VALUES (32, 3, '2026-06-03 06:00:00', 0, '2026-06-15 00:00:00')".into(), &[(2, "2026-06-01"), (3, "2026-06-03")]),
        // Their info.
        ("UPDATE billingInfo SET organization_id = 9 WHERE billing_id = 11".into(), &[(1, "2026-06-10")]),
        ("UPDATE billingInfo SET branch_id = 4 WHERE billing_id = 11".into(), &[(1, "2026-06-10")]),
        ("UPDATE billingInfo SET branch_id = 4, referral_id = 2 WHERE billing_id = 11".into(), &[]),
        ("UPDATE billingInfo SET branch_id = NULL WHERE billing_id = 11".into(), &[(1, "2026-06-10")]),
        ("DELETE FROM billingInfo WHERE billing_id = 11".into(), &[(1, "2026-06-10")]),
        ("INSERT INTO billingInfo (billing_id, organization_id, referral_id, branch_id) VALUES (11, 1, 2, NULL)".into(), &[(1, "2026-06-10")]),
        ("UPDATE billingInfo SET billing_id = 32 WHERE billing_id = 12".into(), &[(1, "2026-06-11"), (3, "2026-06-03")]),
        // Their tests.
        ("INSERT INTO labReportRelation (billing_id, test_id, isCancelled) VALUES (13, 1, 0)".into(), &[(1, "2026-06-12")]),
        (format!("UPDATE labReportRelation SET isCancelled = 1 WHERE id = {}", first_row("labReportRelation", 13)), &[(1, "2026-06-12")]),
        (format!("UPDATE labReportRelation SET test_id = 3 WHERE id = {}", first_row("labReportRelation", 13)), &[(1, "2026-06-12")]),
        (format!("UPDATE labReportRelation SET billing_id = 21 WHERE id = {}", first_row("labReportRelation", 13)), &[(1, "2026-06-12"), (2, "2026-06-10")]),
        ("DELETE FROM labReportRelation WHERE billing_id = 13".into(), &[(1, "2026-06-12")]),
        ("REPLACE INTO labReportRelation (id, billing_id, test_id, isCancelled) SELECT id, 11, test_id, 0 FROM (SELECT * FROM labReportRelation) AS t WHERE billing_id = 14".into(), &[(1, "2026-06-13"), (1, "2026-06-10")]),
        ("INSERT INTO labReportRelation (billing_id, test_id, isCancelled) VALUES (999, 1, 0)".into(), &[]),
        // Their samples.
        ("UPDATE collectedSample SET isAccessed = 1 WHERE billing_id = 13".into(), &[(1, "2026-06-12")]),
        ("UPDATE collectedSample SET isAccessed = 1 WHERE billing_id IN (13, 14)".into(), &[(1, "2026-06-13")]),
        ("UPDATE collectedSample SET sampleType_id = 7 WHERE billing_id = 13".into(), &[(1, "2026-06-12")]),
        ("INSERT INTO collectedSample (billing_id, sampleType_id, isAccessed) VALUES (21, 1, 0)".into(), &[(2, "2026-06-10")]),
        ("DELETE FROM collectedSample WHERE billing_id IN (21, 14)".into(), &[(2, "2026-06-10"), (1, "2026-06-13")]),
        // Changes that affect no count.
        ("UPDATE labs SET labName = 'renamed'".into(), &[]),
        ("UPDATE allTests SET testName = 'renamed'".into(), &[]),
        ("UPDATE billing SET isCancelled = isCancelled".into(), &[]),
    ];
    if engine == Engine::Sqlite {
        // The row whose key another row takes is deleted, and fires no trigger of its own.
        cases.push((
            "UPDATE OR REPLACE billing SET id = 12 WHERE id = 13".into(),
            &[(1, "2026-06-11"), (1, "2026-06-12")],
        ));
    }
    for (sql, expected) in cases {
        db.execute(&sql, vec![]).await;
        let expected: BTreeSet<_> = expected.iter().map(|(lab, day)| (*lab, (*day).to_owned())).collect();
        assert_eq!(db.marked_days(now()).await, expected, "{sql}");
        assert_eq!(db.marks().await, 0, "{sql}");
    }
}

async fn marks_of_one_day_share_a_job_and_a_waiting_job_takes_more(engine: Engine) {
    let db = labs(engine).await;
    db.install_dirty_triggers().await;
    let toggle = || db.execute("UPDATE billing SET isCancelled = 1 - isCancelled WHERE id IN (11, 12, 21)", vec![]);
    for _ in 0..5 {
        toggle().await;
    }
    assert_eq!(db.marks().await, 15);
    assert_eq!(db.repair_marked(now()).await.len(), 3);
    // The jobs are still waiting: no others are added, and the marks are deleted.
    toggle().await;
    assert_eq!(db.repair_marked(now()).await, []);
    assert_eq!(db.marks().await, 0);
    // A job that a worker has claimed may have read its day already.
    let worker = lease::register(&db.db, "a test", Duration::from_secs(600)).await.unwrap();
    assert_eq!(claim::claim(&db.db, worker, 1).await.unwrap().len(), 1);
    toggle().await;
    assert_eq!(db.repair_marked(now()).await.len(), 1, "only the day that runs gets another job");
    // A job that somebody else requested does not count: it may be cancelled.
    db.execute("DELETE FROM daymend_jobs", vec![]).await;
    let somebodys = "UPDATE daymend_runs SET event_name = 'Nightly-Operation-Summary-Repair run 1: late changes'";
    db.execute(somebodys, vec![]).await;
    toggle().await;
    assert_eq!(db.repair_marked(now()).await.len(), 3);
    db.execute(somebodys, vec![]).await;
    toggle().await;
    assert_eq!(db.repair_marked(now()).await.len(), 3);
}

/// The SQL with which labs watch their nightly runs shows the latest entries of that name.
async fn late_changes_do_not_show_among_nightly_runs(engine: Engine) {
    let db = labs(engine).await;
    db.install_dirty_triggers().await;
    db.execute("UPDATE billing SET isCancelled = 1 WHERE id IN (11, 12, 21)", vec![]).await;
    assert_eq!(db.repair_marked(now()).await.len(), 3);
    db.settle(now()).await;
    let events = events(&db).await;
    let late: Vec<_> = events.iter().filter(|(name, _)| name.contains(": late changes of ")).collect();
    assert_eq!(late.iter().map(|(_, status)| status.as_str()).collect::<Vec<_>>(), ["STARTED", "COMPLETED"]);
    assert!(late.iter().all(|(name, _)| name.starts_with("Late-Changes run ")), "{events:?}");
    assert!(late[0].0 == late[1].0, "a run's entries have one name: {events:?}");
    // The nightly run that the scheduler has enqueued, and the late changes.
    let list = |args: &[&str]| {
        let runs = run_ok(&db, &[&["--json", "runs", "list"], args].concat());
        let runs: Vec<serde_json::Value> = serde_json::from_str(&runs).unwrap();
        runs.iter().map(|run| run["run"]["kind"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list(&[]), ["nightly", "repair"]);
    assert_eq!(list(&["--no-late-changes"]), ["nightly"]);
    assert_eq!(list(&["--kind", "repair"]), ["repair"]);
    assert_eq!(list(&["--kind", "repair", "--no-late-changes"]), [""; 0]);
    assert_eq!(list(&["--state", "completed", "--limit", "1"]), ["nightly"]);
    assert_eq!(run_ok(&db, &["runs", "list", "--state", "failed"]), "no such run\n");
}

async fn a_day_that_is_not_over_is_left_to_the_nightly_run(engine: Engine) {
    let db = labs(engine).await;
    db.install_dirty_triggers().await;
    // The 15th in Kolkata ends at 18:30 UTC.
    let change = || {
        db.execute(
            "UPDATE billing SET billTime = '2026-06-15 10:00:00', isCancelled = 1 - isCancelled WHERE id = 11",
            vec![],
        )
    };
    change().await;
    db.repair_marked(now()).await;
    let before_midnight = at("2026-06-15T18:29:59Z");
    change().await;
    assert_eq!(db.repair_marked(before_midnight).await, []);
    assert_eq!(db.marks().await, 0, "the nightly run will do it");
    // A scheduler whose clock is ahead has enqueued the day already: the mark waits until midnight by this one's clock.
    db.execute(
        "INSERT INTO daymend_labs (rollup, lab_id, enqueued_through) VALUES ('historical_summary', 1, '2026-06-15')",
        vec![],
    )
    .await;
    change().await;
    assert_eq!(db.repair_marked(before_midnight).await, []);
    assert_eq!(db.marks().await, 1);
    assert_eq!(db.repair_marked(before_midnight + TimeDelta::seconds(1)).await.len(), 1);
    assert_eq!(db.marks().await, 0);
}

async fn labs_that_the_nightly_run_leaves_out_get_no_job(engine: Engine) {
    let db = labs(engine).await;
    db.install_dirty_triggers().await;
    db.execute("UPDATE labs SET historicalViewEnabled = 0 WHERE id = 1", vec![]).await;
    db.execute("UPDATE labs SET labTimeZone = 'Mars/Base' WHERE id = 2", vec![]).await;
    db.add_bill(31, 99, &Bill { at: at("2026-06-10T06:00:00Z"), ..Bill::default() }).await;
    db.add_bill(32, 3, &Bill { at: at("2026-06-10T06:00:00Z"), ..Bill::default() }).await;
    db.execute("UPDATE billing SET isCancelled = 1", vec![]).await;
    assert_eq!(db.marked_days(now()).await, BTreeSet::from([(3, "2026-06-10".to_owned())]));
    // Only those of the enabled lab stay, until it has a zone again.
    assert_eq!(db.marks().await, 1);
    db.execute("UPDATE labs SET labTimeZone = 'Asia/Kolkata' WHERE id = 2", vec![]).await;
    assert_eq!(db.marked_days(now()).await, BTreeSet::from([(2, "2026-06-10".to_owned())]));
    assert_eq!(db.marks().await, 0);
}

async fn marks_that_mean_no_day_are_dropped(engine: Engine) {
    let db = labs(engine).await;
    db.install_dirty_triggers().await;
    if engine == Engine::MariaDb {
        // A session without strict mode can store these.
        for bill_time in ["0000-00-00 00:00:00", "9999-12-31 23:59:59.999999", "1000-01-01 00:00:00"] {
            let sql = format!("UPDATE billing SET billTime = '{bill_time}' WHERE id = 12");
            db.execute(&Product::tested().in_sql_mode("", &sql), vec![]).await;
        }
    } else {
        for bill_time in ["'yesterday'", "'2026-06-12T04:00'", "12345", "'9999-12-31 23:59:59'", "x'00ff'"] {
            db.execute(&format!("UPDATE billing SET billTime = {bill_time}, lab_id = 1 WHERE id = 12"), vec![]).await;
        }
        db.execute("UPDATE billing SET lab_id = 'one' WHERE id = 14", vec![]).await;
        db.execute("UPDATE labReportRelation SET billing_id = 'none' WHERE billing_id = 13", vec![]).await;
    }
    db.execute("UPDATE billing SET isCancelled = 1 WHERE id = 13", vec![]).await;
    // The days that the bills left, one with a changed bill, and one that calendars have.
    let days = match engine {
        Engine::MariaDb => ["1000-01-01", "2026-06-11", "2026-06-12"],
        Engine::Sqlite => ["2026-06-11", "2026-06-12", "2026-06-13"],
    };
    assert_eq!(db.marked_days(now()).await, days.map(|day| (1, day.to_owned())).into());
    assert_eq!(db.marks().await, 0);
}

async fn marks_of_years_that_no_calendar_has_get_no_job(engine: Engine) {
    let db = labs(engine).await;
    db.execute("UPDATE billing SET billTime = '0999-12-31 12:00:00' WHERE id = 12", vec![]).await;
    // Marks of the moment, of the bill, and of its test, which bill 14 of 13 June has too.
    for (column, value) in [("lab_id, bill_time", "1, '0999-12-31 12:00:00'"), ("bill_id", "12"), ("test_id", "2")] {
        let mark = format!("INSERT INTO daymend_dirty ({column}, marked_at) VALUES ({value}, '2026-06-15 11:00:00')");
        db.execute(&mark, vec![]).await;
    }
    assert_eq!(db.repair_marked(now()).await, [(1, "2026-06-13".parse().unwrap())]);
    assert_eq!(db.marks().await, 0);
}

async fn schedulers_side_by_side_repair_each_day_once(engine: Engine) {
    let db = labs(engine).await;
    db.install_dirty_triggers().await;
    for round in 0..5 {
        db.execute("UPDATE billing SET isCancelled = 1 - isCancelled", vec![]).await;
        let passes = (0..4).map(|_| db.repair_marked(now()));
        let jobs: Vec<_> = futures::future::join_all(passes).await.into_iter().flatten().collect();
        let days: BTreeSet<_> = jobs.iter().collect();
        assert_eq!((jobs.len(), days.len(), db.marks().await), (5, 5, 0), "round {round}: {jobs:?}");
        db.execute("DELETE FROM daymend_jobs", vec![]).await;
    }
}

async fn a_change_is_repaired_within_seconds(engine: Engine) {
    let db = labs(engine).await;
    db.install_dirty_triggers().await;
    let _serve = Process::start(&db, &["--now", "2026-06-15T12:00:00Z", "serve"]);
    let record = db.request_rebuild(1).await;
    wait_until("the rebuild", LIMIT, || async { db.record_status(record).await == "Completed" }).await;
    // A shared machine may add delays, but not in each of three rounds.
    let mut slowest = Vec::new();
    for round in 0..3 {
        let mut took = Duration::ZERO;
        let (from, to) = (["12", "03", "04"][round], ["03", "04", "05"][round]);
        for (change, days) in [
            ("UPDATE billing SET isCancelled = 1 - isCancelled WHERE id = 11".to_owned(), vec!["10"]),
            (format!("UPDATE billing SET billTime = '2026-06-{to} 06:00:00' WHERE id = 13"), vec![from, to]),
            ("UPDATE allTests SET department_id = department_id + 1 WHERE id = 2".to_owned(), vec!["11", "13"]),
        ] {
            let list = days.iter().map(|day| format!("'2026-06-{day}'")).collect::<Vec<_>>().join(", ");
            let done = format!(
                "SELECT COUNT(DISTINCT day) FROM daymend_jobs WHERE state = 'completed' AND lab_id = 1 AND day IN ({list})"
            );
            db.execute("UPDATE daymend_jobs SET state = 'cancelled' WHERE state = 'completed'", vec![]).await;
            let begun = Instant::now();
            db.execute(&change, vec![]).await;
            wait_until(&change, LIMIT, || async { db.number(&done).await == days.len() as i64 }).await;
            took = took.max(begun.elapsed());
        }
        slowest.push(took);
        if took < SECONDS {
            break;
        }
    }
    assert!(slowest.last().is_some_and(|took| *took < SECONDS), "{slowest:?}");
    let closed = "SELECT COUNT(*) FROM daymend_runs WHERE state = 'running'";
    wait_until("the runs to close", LIMIT, || async { db.number(closed).await == 0 }).await;
    let expected = oracle::expected(&db, &[(1, Kolkata)], now()).await;
    oracle::assert_equal(&oracle::stored(&db).await, &expected);
}

async fn without_triggers_nothing_happens(engine: Engine) {
    let db = labs(engine).await;
    db.execute("UPDATE billing SET isCancelled = 1", vec![]).await;
    assert_eq!(db.marks().await, 0);
    assert_eq!(db.repair_marked(now()).await, []);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs").await, 0);
}

/// A mark gets its id when it is made, but becomes visible when its transaction commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_with_a_lower_id_that_commits_later_is_not_lost() {
    let db = labs(Engine::MariaDb).await;
    db.install_dirty_triggers().await;
    let mut slow = db.admin.begin(Mode::Write).await.unwrap();
    let cancel = |bill: i64| Query::new("cancel", format!("UPDATE billing SET isCancelled = 1 WHERE id = {bill}"));
    slow.execute(cancel(11), args![]).await.unwrap();
    for _ in 0..21 {
        db.execute("UPDATE billing SET isCancelled = 1 - isCancelled WHERE id = 12", vec![]).await;
    }
    let day = |text: &str| vec![(1, text.parse().unwrap())];
    assert_eq!(db.repair_marked(now()).await, day("2026-06-11"));
    // Nobody waits for the open transaction, which only ends below: that would have been a lock timeout.
    assert_eq!(db.marks().await, 0, "no mark is visible");
    slow.commit().await.unwrap();
    assert_eq!(db.repair_marked(now()).await, day("2026-06-10"));
}

/// Its transaction was open for so long that its id is far below all that were taken since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_far_below_the_others_is_found_in_the_end() {
    let db = labs(Engine::Sqlite).await;
    let _scheduler = Process::start(&db, &["--now", "2026-06-15T12:00:00Z", "scheduler"]);
    for (id, day) in [(100_000, "2026-06-12"), (7, "2026-06-11")] {
        let mark =
            "INSERT INTO daymend_dirty (id, lab_id, bill_time, marked_at) VALUES (?, 1, ?, '2026-06-15 11:00:00')";
        db.execute(mark, args![i64::from(id), format!("{day} 06:00:00")]).await;
        let enqueued =
            format!("SELECT COUNT(*) FROM daymend_jobs WHERE kind = 'repair' AND lab_id = 1 AND day = '{day}'");
        wait_until(day, LIMIT, async || db.number(&enqueued).await == 1).await;
        assert_eq!(db.marks().await, 0);
    }
}

/// Its transaction was open while a few thousand others were made: it need not wait until all marks are looked at again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_a_little_below_the_others_is_found_within_seconds() {
    let db = labs(Engine::Sqlite).await;
    let _scheduler = Process::start(&db, &["--now", "2026-06-15T12:00:00Z", "scheduler"]);
    for (id, day, limit) in [(100_000, "2026-06-12", LIMIT), (95_000, "2026-06-11", SECONDS)] {
        let mark =
            "INSERT INTO daymend_dirty (id, lab_id, bill_time, marked_at) VALUES (?, 1, ?, '2026-06-15 11:00:00')";
        db.execute(mark, args![i64::from(id), format!("{day} 06:00:00")]).await;
        wait_until(day, limit, async || db.marks().await == 0).await;
    }
}

/// The trigger cannot see where the bill is moved to, so the bill is looked up when the mark is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_added_while_its_bill_is_moved_counts_where_the_bill_has_gone() {
    let db = labs(Engine::MariaDb).await;
    db.install_dirty_triggers().await;
    for lab in [1, 2] {
        db.request_rebuild(lab).await;
    }
    db.tick(now()).await;
    db.drain(now()).await;
    let mut adding = db.admin.begin(Mode::Write).await.unwrap();
    let add = "INSERT INTO labReportRelation (billing_id, test_id, isCancelled) VALUES (11, 2, 0)";
    adding.execute(Query::new("add", add), args![]).await.unwrap();
    db.execute("UPDATE billing SET billTime = '2026-06-05 06:00:00', lab_id = 2 WHERE id = 11", vec![]).await;
    // The marks of the move are taken, and their jobs have ended, before the addition commits.
    assert_eq!(db.repair_marked(now()).await.len(), 2);
    db.execute("UPDATE daymend_jobs SET state = 'cancelled' WHERE state = 'available'", vec![]).await;
    adding.commit().await.unwrap();
    let jobs: BTreeSet<_> = db.repair_marked(now()).await.into_iter().collect();
    assert_eq!(jobs, BTreeSet::from([(2, "2026-06-05".parse().unwrap())]), "not the day that the bill has left");
    db.drain(now()).await;
    let stored = oracle::stored(&db).await;
    let added = (2, "2026-06-05".parse().unwrap(), 1, 2, "organization_test".to_owned());
    assert_eq!(stored.get(&added), Some(&1), "{stored:?}");
}

/// More than one batch of such marks, of a lab that moved to a zone farther west: its current day has been enqueued. And
/// as many of a lab without a zone.
async fn marks_that_have_to_wait_keep_no_others_waiting(engine: Engine) {
    let db = labs(engine).await;
    db.execute(
        "INSERT INTO daymend_labs (rollup, lab_id, enqueued_through) VALUES ('historical_summary', 1, '2026-06-15')",
        vec![],
    )
    .await;
    let numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 80)";
    let today = format!(
        "INSERT INTO daymend_dirty (lab_id, bill_time, marked_at)
         {numbers} SELECT 1, '2026-06-15 10:00:00', '2026-06-15 10:00:00' FROM n CROSS JOIN n AS m"
    );
    db.execute(&today, vec![]).await;
    db.execute(&today.replace("SELECT 1, '2026-06-15", "SELECT 3, '2026-06-10"), vec![]).await;
    db.execute("UPDATE labs SET labTimeZone = NULL WHERE id = 3", vec![]).await;
    db.execute(
        "INSERT INTO daymend_dirty (lab_id, bill_time, marked_at) VALUES (2, '2026-06-10 06:00:00', '2026-06-15 11:00:00')",
        vec![],
    )
    .await;
    assert_eq!(db.repair_marked(now()).await, [(2, "2026-06-10".parse().unwrap())]);
    assert_eq!(db.marks().await, 2 * 80 * 80);
}
