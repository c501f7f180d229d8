//! Unusual sites: data that cannot be read, and unique keys of their own. Each stops as little as possible, and is
//! reported.

use std::{collections::BTreeSet, time::Duration};

use chrono::TimeDelta;
use daymend::{
    args,
    audit::{cause::Cause, cursors},
    clock::Clock,
    db::Mode,
    recompute::{digest, stored},
    rollup::{HISTORICAL_SUMMARY, Rollups},
    runs::repair::{self, Days, LeftOut},
    scheduler::{
        self, Scheduler,
        audits::{self, AuditConfig},
    },
};
use tokio_util::sync::CancellationToken;

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        doctor::examine,
        drifting::{LABS, causes, now},
        lab_system::Bill,
        oracle,
        process::{Process, run, run_ok},
        server::Product,
        work::{SCHEDULER, jobs_changed, rollups},
    },
};

on_both! {
    a_bill_of_the_last_microsecond_is_on_its_day;
    a_bill_on_no_day_costs_its_lab_nothing;
    rows_on_days_before_all_others_are_found_and_removed;
    a_unique_key_of_the_sites_own_fails_the_job_instead_of_keeping_it_for_ever;
    a_row_without_an_event_type_is_somebody_elses;
}

const NOW: &str = "2026-06-15T12:00:00Z";

// Only on SQLite: its columns take any text; MySQL's DATETIME does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bill_time_of_another_form_is_on_no_day_and_named() {
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
    let left_out = |lab| LeftOut { lab, why: "it has no bills".to_owned() };
    assert_eq!(plan.left_out, [left_out(1), left_out(3)]);
    let found = examine(&db).what("dates.bills");
    assert!(
        found.contains("2 rows with an invalid date") && found.contains("1 of lab 1: 2026-06-13T10:00:00"),
        "{found}"
    );
}

/// SQLite's columns take any value: a lab whose row cannot be read stops no other lab, and is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lab_that_cannot_be_read_stops_no_other() {
    let db = TestDb::new(Engine::Sqlite).await;
    for lab in 1..=3 {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
        db.fill_lab(lab, "2026-06-12".parse().unwrap(), 3, 2).await;
    }
    db.execute("UPDATE labs SET historicalViewEnabled = 'yes' WHERE id = 1", args![]).await;
    db.execute("UPDATE labs SET labTimeZone = x'ff' WHERE id = 2", args![]).await;
    db.execute(
        "INSERT INTO daymend_dirty (lab_id, bill_time, marked_at) VALUES (3, '2026-06-12 10:00:00', '2026-06-15 11:00:00')",
        args![],
    )
    .await;
    let records = [db.request_rebuild(1).await, db.request_rebuild(3).await];
    let now = NOW.parse().unwrap();
    let report = db.tick(now).await;
    let unusable: Vec<_> = report.unusable.iter().map(|(lab, why)| (*lab, why.contains("cannot be read"))).collect();
    assert_eq!(unusable, [(1, true), (2, true)], "{:?}", report.unusable);
    let days = "SELECT COUNT(*) FROM daymend_jobs WHERE kind = ";
    for (kind, jobs) in [("'nightly' AND lab_id = 3", 1), ("'repair' AND lab_id = 3", 1)] {
        assert_eq!(db.number(&format!("{days}{kind}")).await, jobs, "{kind}");
    }
    db.settle(now).await;
    let refused = db.record_status(records[0]).await;
    assert!(refused.starts_with("Failed") && refused.contains("cannot be read"), "{refused}");
    assert_eq!(db.record_status(records[1]).await, "Completed");
    let found = examine(&db);
    let named = found.of("labs.zone_unusable").into_iter().map(|found| found["where"].as_str().unwrap());
    assert_eq!(named.collect::<BTreeSet<_>>(), BTreeSet::from(["lab 1", "lab 2"]), "{:#}", found.json);
    // The jobs of such a lab fail permanently, and their error names it.
    run_ok(&db, &["--now", NOW, "repair", "--lab", "3", "--day", "2026-06-12"]);
    db.execute("UPDATE labs SET historicalViewEnabled = 'yes' WHERE id = 3", args![]).await;
    db.drain(now).await;
    let error = db.text("SELECT error FROM daymend_jobs WHERE state = 'discarded'").await;
    assert!(error.starts_with("lab 3") && error.contains("cannot be read"), "{error}");
}

/// A lab's days that cannot be read do not count as audited, and keep no other lab waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn days_that_cannot_be_read_are_not_audited() {
    let db = two_labs(Engine::Sqlite).await;
    let number = "CASE WHEN :lab_id = 1 THEN 5 ELSE MIN(billing.billTime) END";
    let jobs = jobs_changed(|file, text| match file {
        "days.sql" => text.replace("MIN(billing.billTime)", number),
        _ => text,
    });
    let wrong = Rollups::load(Some(jobs.path())).unwrap();
    let audit = Some(AuditConfig { budget: Duration::from_secs(600), repair: false });
    let config = scheduler::Config { audit, ..SCHEDULER };
    for (night, rollups, completed) in [(0, &wrong, 1), (1, &wrong, 1), (2, &*rollups(), 2)] {
        let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
        let clock = Clock::Fixed(now() + TimeDelta::days(night));
        let scheduler = Scheduler { db: &db.db, rollup, config: &config, clock };
        let reports = audits::audit_tonight(&scheduler, &CancellationToken::new()).await.unwrap();
        let counts: Vec<_> = reports.iter().map(|report| report.counts.labs_completed).collect();
        assert_eq!(counts, [completed], "night {night}");
        let mut tx = db.db.begin(Mode::Snapshot).await.unwrap();
        let cursors = cursors::read(&mut tx, HISTORICAL_SUMMARY).await.unwrap();
        tx.commit().await.unwrap();
        let is_wrong = night < 2;
        let of_1 = (cursors[&1].audited_at.is_none(), cursors[&1].problem.is_some());
        assert_eq!(of_1, (is_wrong, is_wrong), "night {night}: {cursors:?}");
        assert!(cursors[&2].audited_at.is_some() && cursors[&2].problem.is_none(), "{cursors:?}");
    }
}

/// A bill that cannot be read costs its lab the day that it is on, and affects nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bill_that_cannot_be_read_costs_its_day_and_no_other() {
    let db = TestDb::new(Engine::Sqlite).await;
    for lab in 1..=2 {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
        db.fill_lab(lab, "2026-06-12".parse().unwrap(), 3, 2).await;
    }
    let bill = "INSERT INTO billing (lab_id, billTime, isCancelled, modified_at)
                VALUES (1, '2026-06-14 06:00:00', 'yes', '2026-06-14 06:00:00')";
    db.execute(bill, args![]).await;
    let now = NOW.parse().unwrap();
    let records = [db.request_rebuild(1).await, db.request_rebuild(2).await];
    db.settle(now).await;
    let discarded = "SELECT COUNT(*) FROM daymend_jobs WHERE state = 'discarded' AND kind = ";
    for kind in ["'nightly'", "'rebuild'"] {
        assert_eq!(db.number(&format!("{discarded}{kind}")).await, 1, "{kind}");
    }
    let others =
        "SELECT COUNT(*) FROM daymend_jobs WHERE state <> 'completed' AND (lab_id <> 1 OR day <> '2026-06-14')";
    assert_eq!(db.number(others).await, 0);
    let error = db.text("SELECT error FROM daymend_jobs WHERE state = 'discarded' LIMIT 1").await;
    assert!(error.contains("bills.sql") && error.contains("expected a whole number"), "{error}");
    let days = db.number("SELECT COUNT(*) FROM daymend_jobs WHERE kind = 'rebuild' AND lab_id = 1").await;
    assert_eq!(db.record_status(records[0]).await, format!("Failed (1 of {days} days)"));
    assert_eq!(db.record_status(records[1]).await, "Completed");
    let audit = run(&db, &["--now", NOW, "--json", "audit"]);
    let report: serde_json::Value = serde_json::from_slice(&audit.stdout).unwrap();
    assert_eq!(audit.status.code(), Some(1), "a day could not be audited");
    let labs = [1, 2].map(|lab| report["labs"].as_array().unwrap().iter().find(|of| of["lab"] == lab));
    let [bad, good] = labs.map(|lab| lab.unwrap());
    let problems = bad["problems"].as_array().unwrap();
    assert_eq!(
        (problems.len(), &problems[0]["first"], &problems[0]["last"]),
        (1, &"2026-06-14".into(), &"2026-06-14".into())
    );
    assert_eq!(
        (&bad["days_audited"], &good["days_audited"], &report["is_clean"]),
        (&2.into(), &3.into(), &true.into())
    );
}

async fn a_bill_of_the_last_microsecond_is_on_its_day(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    // SQLite's date functions use binary fractions, which come out above a second on some days and below it on others.
    for day in 1..=30 {
        let at = format!("2025-11-{day:02}T23:59:59.999999Z").parse().unwrap();
        db.add_bill(day, 1, &Bill { at, ..Bill::default() }).await;
    }
    assert!(db.text("SELECT CAST(MIN(billTime) AS CHAR) FROM billing").await.ends_with(":59.999999"));
    let found = examine(&db);
    assert!(!found.has("dates.bills"), "{:#}", found.json);
}

/// Runs a statement in a mode in which the database accepts an invalid date.
async fn insert_leniently(db: &TestDb, sql: &str) {
    let sql = match db.engine {
        Engine::MariaDb => Product::tested().in_sql_mode("ALLOW_INVALID_DATES", sql),
        Engine::Sqlite => sql.to_owned(),
    };
    db.execute(&sql, vec![]).await;
}

/// Creates two labs whose summary is correct.
async fn two_labs(engine: Engine) -> TestDb {
    let db = TestDb::new(engine).await;
    for (lab, zone) in LABS {
        db.add_lab(lab, Some(zone.name())).await;
        db.fill_lab(lab, "2026-02-24".parse().unwrap(), 10, 4).await;
    }
    db.store(&oracle::expected(&db, &LABS, now()).await).await;
    db
}

async fn a_bill_on_no_day_costs_its_lab_nothing(engine: Engine) {
    let db = two_labs(engine).await;
    let nowhere = [
        "2025-00-00 00:00:00",
        "2026-02-00 10:00:00",
        "2026-02-31 10:00:00",
        "0000-00-00 00:00:00",
        "2026-02-30 23:59:59.5",
    ];
    for (number, time) in nowhere.iter().enumerate() {
        let bill = 900 + number;
        let cancelled = number % 2;
        insert_leniently(&db, &format!("INSERT INTO billing VALUES ({bill}, 1, '{time}', {cancelled}, '2026-06-01')"))
            .await;
        db.execute("INSERT INTO billingInfo VALUES (?, 1, 2, 3)", args![bill]).await;
    }
    let clean = db.audit().await;
    assert!(clean.is_clean() && clean.is_complete(), "{:?}", causes(&clean));

    // Wrong rows are found, repaired and rebuilt as if these bills did not exist, on the neighbouring days too.
    let right = oracle::stored(&db).await;
    for day in ["2026-02-28", "2026-03-01"] {
        db.add_summary_row(1, day, 999, 0, "organization_bill", 3).await;
    }
    assert_eq!(db.audit().await.days_drifted(), 2);
    run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-02-28"]);
    db.drain(now()).await;
    assert_eq!(db.audit().await.days_drifted(), 1);
    let record = db.request_rebuild(1).await;
    db.settle(now()).await;
    assert_eq!(db.record_status(record).await, "Completed");
    oracle::assert_equal(&oracle::stored(&db).await, &right);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'discarded'").await, 0);

    let found = examine(&db);
    assert!(
        found.what("dates.bills").starts_with("billing: 5 rows with an invalid date"),
        "{}",
        found.what("dates.bills")
    );
    assert!(found.what("dates.bills").contains("900 of lab 1: 2025-00-00 00:00:00"), "{}", found.what("dates.bills"));
    assert!(found.advice("dates.bills", "warning").contains("correct billTime"));
}

async fn rows_on_days_before_all_others_are_found_and_removed(engine: Engine) {
    let db = two_labs(engine).await;
    let right = oracle::stored(&db).await;
    for day in ["0900-05-05", "0000-00-00", "2025-00-00", "2026-02-31", "2027-00-00"] {
        insert_leniently(
            &db,
            &format!(
                "INSERT INTO operation_historical_summary (lab_id, ordered_at, dimension_a_id, dimension_b_id,
                     event_type, event_count, created_at, modified_at)
                 VALUES (1, '{day}', 1, 0, 'organization_bill', 7, '2026-06-01', '2026-06-01')"
            ),
        )
        .await;
    }
    // They do not prevent the days around them from being read together.
    let days = ("2026-02-24".parse().unwrap(), "2026-03-06".parse().unwrap());
    let rollups = rollups();
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let mut tx = db.db.begin(Mode::Snapshot).await.unwrap();
    let of_lab = right.keys().filter(|key| key.0 == 1).count();
    assert_eq!(stored::read(&mut tx, rollup, 1, days, of_lab).await.unwrap().len(), of_lab);
    digest::stored(&mut tx, rollup, 1, days).await.unwrap();
    tx.commit().await.unwrap();

    let report = db.audit().await;
    assert!(report.is_complete());
    assert_eq!(causes(&report), [(1, "0900-05-05".to_owned(), Cause::OutOfRange)].into());
    let record = db.request_rebuild(1).await;
    db.settle(now()).await;
    assert_eq!(db.record_status(record).await, "Completed");
    assert!(db.audit().await.is_clean());
    // Neither an audit nor a rebuild handles rows on no day; the doctor's advice removes them.
    let found = examine(&db);
    assert!(found.what("dates.summary").contains("4 rows with an invalid date"), "{}", found.what("dates.summary"));
    db.execute(&found.advice("dates.summary", "warning"), args![]).await;
    assert!(!examine(&db).has("dates.summary"));
    oracle::assert_equal(&oracle::stored(&db).await, &right);
}

async fn a_row_without_an_event_type_is_somebody_elses(engine: Engine) {
    let db = two_labs(engine).await;
    db.loosen_summary(true).await;
    let right = oracle::stored(&db).await;
    // Beside right rows, beside a wrong one, in the place of a right one, and on days of their own.
    for day in ["2026-02-24", "2026-02-26", "2026-02-26", "2026-02-28", "2026-01-01", "2027-01-01"] {
        db.execute(
            "INSERT INTO operation_historical_summary
                 (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at)
             VALUES (1, ?, 1, 0, NULL, 7, '2026-06-01 00:00:00', '2026-06-01 00:00:00')",
            args![day],
        )
        .await;
    }
    assert!(db.audit().await.is_clean() && db.audit().await.is_complete());
    db.add_summary_row(1, "2026-02-26", 999, 0, "organization_bill", 3).await;
    let id =
        db.number("SELECT MIN(id) FROM operation_historical_summary WHERE lab_id = 1 AND ordered_at = '2026-02-28'");
    let id = id.await;
    db.execute("DELETE FROM operation_historical_summary WHERE id = ?", args![id]).await;
    let report = db.audit().await;
    assert!(report.is_complete());
    let wrong = [("2026-02-26", Cause::Ghost), ("2026-02-28", Cause::Missing)];
    assert_eq!(causes(&report), wrong.map(|(day, cause)| (1, day.to_owned(), cause)).into());
    let record = db.request_rebuild(1).await;
    db.settle(now()).await;
    assert_eq!(db.record_status(record).await, "Completed");
    assert!(db.audit().await.is_clean());
    let without = "operation_historical_summary WHERE event_type IS NULL";
    assert_eq!(db.number(&format!("SELECT COUNT(*) FROM {without}")).await, 6, "they are kept");
    examine(&db);
    db.execute(&format!("DELETE FROM {without}"), args![]).await;
    oracle::assert_equal(&oracle::stored(&db).await, &right);
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
