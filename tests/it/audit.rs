//! The audit finds exactly the rows that differ from their source, and names the cause.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use daymend::{
    args,
    audit::{self, Options, Sample, Scope, cause::Cause},
    calendar,
    rollup::{HISTORICAL_SUMMARY, Rollups},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        drifting::{KOLKATA, LABS, NEW_YORK, NOW, causes, date, findings, histories, now},
        lab_system::Bill,
        oracle,
        process::{run, run_ok},
        work::{jobs_with_slow_lab, rollups},
    },
};

on_both! {
    what_differs_is_found_exactly;
    each_cause_is_found_named_repaired_and_gone;
    a_null_dimension_doubles_rows_under_a_unique_key_and_is_found;
    a_row_that_is_there_twice_is_found;
    a_history_built_without_daylight_saving_is_on_the_wrong_day;
    a_history_built_on_days_in_utc_is_on_the_wrong_day;
    a_history_built_before_the_lab_moved_is_on_the_wrong_day;
    rows_of_a_lab_whose_view_is_off_are_found_and_not_repaired;
    rows_of_a_lab_that_does_not_exist_are_found_and_not_repaired;
    a_lab_that_cannot_be_audited_is_reported_and_stops_no_other;
    a_lab_that_takes_too_long_to_read_is_reported_and_stops_no_other;
    what_is_held_at_once_does_not_grow_with_the_history;
    a_bill_from_1970_costs_nothing;
    rows_of_the_first_and_the_last_days_of_all_are_found;
    a_sample_draws_days_that_can_be_drawn_again;
    a_sample_is_of_days_that_have_something;
}

type Off = BTreeMap<oracle::Key, (Option<i64>, Option<i64>)>;

/// Returns the differences according to the oracle: for each key, the stored and the expected value.
async fn off(db: &TestDb) -> Off {
    let (expected, stored) = (oracle::expected(db, &LABS, now()).await, oracle::stored(db).await);
    let keys: BTreeSet<_> = expected.keys().chain(stored.keys()).cloned().collect();
    let sides = keys.into_iter().map(|key| (stored.get(&key).copied(), expected.get(&key).copied(), key));
    sides.filter(|(is, should, _)| is != should).map(|(is, should, key)| (key, (is, should))).collect()
}

async fn what_differs_is_found_exactly(engine: Engine) {
    let db = histories(engine).await;
    assert!(db.audit().await.is_clean());
    let mut random = StdRng::seed_from_u64(5);
    let rows = db.rows("SELECT id FROM operation_historical_summary ORDER BY id", vec![]).await;
    for row in rows {
        let id = row.int(0).unwrap();
        let table = "operation_historical_summary";
        let sql = match random.random_range(0..12) {
            0 => format!("DELETE FROM {table} WHERE id = {id}"),
            1 => format!("UPDATE {table} SET event_count = event_count + 1 WHERE id = {id}"),
            2 => format!("UPDATE {table} SET event_count = 0 WHERE id = {id}"),
            3 => format!("UPDATE {table} SET dimension_a_id = dimension_a_id + 1000 WHERE id = {id}"),
            4 => format!("UPDATE {table} SET ordered_at = '2026-06-20', dimension_a_id = {id} + 5000 WHERE id = {id}"),
            5 => format!("UPDATE {table} SET ordered_at = '2025-12-31', dimension_a_id = {id} + 5000 WHERE id = {id}"),
            _ => continue,
        };
        db.execute(&sql, vec![]).await;
    }
    db.add_summary_row(KOLKATA, "2026-06-05", 1, 1, "somebody_elses", 7).await;
    // Rows of another event type belong to somebody else: the audit and a recompute ignore them.
    let mut expected = off(&db).await;
    expected.retain(|key, _| key.4 != "somebody_elses");
    assert!(expected.len() > 200, "{}", expected.len());
    let report = db.audit().await;
    let found: Off = findings(&report)
        .into_iter()
        .map(|(lab, row)| {
            let key = (lab, row.day, row.dimension_a.unwrap(), row.dimension_b.unwrap(), row.event_type);
            (key, (row.stored, row.expected.map(i64::from)))
        })
        .collect();
    assert_eq!(found, expected);
    assert_eq!(report.differences(), expected.len() as u64);
    let days: BTreeSet<_> = expected.keys().map(|key| (key.0, key.1)).collect();
    assert_eq!(report.days_drifted(), days.len() as u64);
    // An audit of a part finds the differences of that part.
    let scope =
        Scope { labs: vec![NEW_YORK], from: Some(date("2026-06-03")), to: Some(date("2026-06-09")), sample: None };
    let part = db.audit_of(&scope).await;
    let fits = |key: &&oracle::Key| key.0 == NEW_YORK && (date("2026-06-03")..=date("2026-06-09")).contains(&key.1);
    assert_eq!(part.differences(), expected.keys().filter(fits).count() as u64);
    assert_eq!(part.days_audited(), 7);
}

/// A description, the statements that make rows wrong, and what the audit reports: lab, day, cause.
type Case = (&'static str, Vec<String>, Vec<(i64, &'static str, Cause)>);

async fn cases(db: &TestDb) -> Vec<Case> {
    let table = "operation_historical_summary";
    let row = async |condition: &str| db.row(condition).await;
    let of = |lab: i64, day: &str| format!("lab_id = {lab} AND ordered_at = '{day}'");
    let insert = |lab: i64, day: &str, a: i64| {
        format!(
            "INSERT INTO {table} (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count,
                                  created_at, modified_at)
             VALUES ({lab}, '{day}', {a}, 0, 'organization_bill', 3, '2026-01-01 00:00:00', '2026-01-01 00:00:00')"
        )
    };
    let missing = row(&of(KOLKATA, "2026-06-06")).await;
    let miscounted = row(&of(NEW_YORK, "2026-06-07")).await;
    // A row whose key the day before does not have.
    let moved = row(&format!("{} AND dimension_a_id = 77", of(KOLKATA, "2026-06-09"))).await;
    vec![
        ("a ghost", vec![insert(KOLKATA, "2026-06-05", 999)], vec![(KOLKATA, "2026-06-05", Cause::Ghost)]),
        (
            "a row is missing",
            vec![format!("DELETE FROM {table} WHERE id = {missing}")],
            vec![(KOLKATA, "2026-06-06", Cause::Missing)],
        ),
        (
            "a whole day is missing",
            vec![format!("DELETE FROM {table} WHERE {}", of(NEW_YORK, "2026-06-14"))],
            vec![(NEW_YORK, "2026-06-14", Cause::Missing)],
        ),
        (
            "a count is wrong",
            vec![format!("UPDATE {table} SET event_count = event_count + 4 WHERE id = {miscounted}")],
            vec![(NEW_YORK, "2026-06-07", Cause::WrongCount)],
        ),
        (
            "a row stands on the day before",
            vec![format!("UPDATE {table} SET ordered_at = '2026-06-08' WHERE id = {moved}")],
            vec![(KOLKATA, "2026-06-08", Cause::WrongDay), (KOLKATA, "2026-06-09", Cause::WrongDay)],
        ),
        (
            "rows before the first bill, today and later",
            vec![
                insert(KOLKATA, "1999-12-31", 1),
                insert(KOLKATA, "2026-05-31", 1),
                insert(NEW_YORK, "2026-06-15", 1),
                insert(NEW_YORK, "2030-01-01", 1),
            ],
            vec![
                (KOLKATA, "1999-12-31", Cause::OutOfRange),
                (KOLKATA, "2026-05-31", Cause::OutOfRange),
                (NEW_YORK, "2026-06-15", Cause::OutOfRange),
                (NEW_YORK, "2030-01-01", Cause::OutOfRange),
            ],
        ),
    ]
}

async fn each_cause_is_found_named_repaired_and_gone(engine: Engine) {
    let db = histories(engine).await;
    let at = "2026-06-09T06:00:00Z".parse().unwrap();
    db.add_bill(77, KOLKATA, &Bill { at, info: Some((Some(77), None, None)), ..Bill::default() }).await;
    db.add_summary_row(KOLKATA, "2026-06-09", 77, 0, "organization_bill", 1).await;
    assert!(db.audit().await.is_clean());
    let right = oracle::stored(&db).await;
    for (what, plant, expected) in cases(&db).await {
        for sql in plant {
            db.execute(&sql, vec![]).await;
        }
        let report = db.audit().await;
        let wanted: BTreeSet<_> = expected.iter().map(|(lab, day, why)| (*lab, (*day).to_owned(), *why)).collect();
        assert_eq!(causes(&report), wanted, "{what}");
        // One run is enqueued, with a job for exactly these days.
        let runs = db.number("SELECT COUNT(*) FROM daymend_runs").await;
        let output = run(&db, &["--now", NOW, "audit", "--repair"]);
        assert_eq!(output.status.code(), Some(3), "{what}");
        assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs").await, runs + 1, "{what}");
        let jobs = db.rows("SELECT lab_id, day FROM daymend_jobs WHERE state = 'available'", vec![]).await;
        let jobs: BTreeSet<_> =
            jobs.iter().map(|row| (row.int(0).unwrap(), row.date(1).unwrap().to_string())).collect();
        assert_eq!(jobs, expected.iter().map(|(lab, day, _)| (*lab, (*day).to_owned())).collect(), "{what}");
        assert_eq!(db.text("SELECT kind FROM daymend_runs ORDER BY id DESC LIMIT 1").await, "repair");
        db.drain(now()).await;
        assert!(db.audit().await.is_clean(), "{what}: {:?}", causes(&db.audit().await));
        oracle::assert_equal(&oracle::stored(&db).await, &right);
    }
}

async fn a_null_dimension_doubles_rows_under_a_unique_key_and_is_found(engine: Engine) {
    let db = histories(engine).await;
    db.loosen_summary(true).await;
    assert!(db.audit().await.is_clean());
    let sql = "INSERT INTO operation_historical_summary
                   (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at)
               VALUES (1, '2026-06-05', NULL, 0, 'referral_bill', 3, '2026-01-01 00:00:00', '2026-01-01 00:00:00')";
    for _ in 0..2 {
        db.execute(sql, args![]).await;
    }
    let report = db.audit().await;
    let expected = BTreeSet::from([(KOLKATA, "2026-06-05".to_owned(), Cause::NullDimension)]);
    assert_eq!(causes(&report), expected);
    assert_eq!(report.differences(), 2);
    repair_and_look_again(&db).await;
}

async fn a_row_that_is_there_twice_is_found(engine: Engine) {
    let db = histories(engine).await;
    db.loosen_summary(false).await;
    let id = db.row("lab_id = 2 AND ordered_at = '2026-06-05'").await;
    for _ in 0..3 {
        db.execute(
            &format!(
                "INSERT INTO operation_historical_summary
                     (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at)
                 SELECT lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at
                 FROM operation_historical_summary WHERE id = {id}"
            ),
            args![],
        )
        .await;
    }
    let report = db.audit().await;
    assert_eq!(causes(&report), BTreeSet::from([(NEW_YORK, "2026-06-05".to_owned(), Cause::Duplicate)]));
    assert_eq!(report.differences(), 3);
    repair_and_look_again(&db).await;
}

/// Repairs what the audit finds, and asserts that a second audit finds nothing.
async fn repair_and_look_again(db: &TestDb) {
    run(db, &["--now", NOW, "audit", "--repair"]);
    db.drain(now()).await;
    assert!(db.audit().await.is_clean());
    oracle::assert_equal(&oracle::stored(db).await, &oracle::expected(db, &LABS, now()).await);
}

/// Creates a lab in New York with about a bill an hour for five weeks, across its clock change on 8 March.
async fn across_the_change(engine: Engine) -> TestDb {
    let db = TestDb::new(engine).await;
    db.add_lab(NEW_YORK, Some("America/New_York")).await;
    let mut bills = Vec::new();
    let begin: DateTime<Utc> = "2026-02-20T15:00:00Z".parse().unwrap();
    for number in 0..24 * 35 {
        let at = begin + TimeDelta::hours(number) + TimeDelta::minutes(number * 7 % 60);
        let info = Some((Some(number % 7), Some(number % 11), Some(1)));
        bills.push((number + 1, NEW_YORK, Bill { at, info, tests: vec![(1, false)], ..Bill::default() }));
    }
    db.add_bills(&bills).await;
    db
}

/// Asserts that the audit reports exactly the days with a wrong row, at least `days_at_least`, each as a wrong day.
async fn assert_all_on_the_wrong_day(db: &TestDb, labs: &[(i64, Tz)], days_at_least: usize) {
    let (expected, stored) = (oracle::expected(db, labs, now()).await, oracle::stored(db).await);
    let keys: BTreeSet<_> = expected.keys().chain(stored.keys()).collect();
    let wrong: BTreeSet<(i64, String)> = keys
        .into_iter()
        .filter(|key| expected.get(*key) != stored.get(*key))
        .map(|key| (key.0, key.1.to_string()))
        .collect();
    assert!(wrong.len() >= days_at_least, "{wrong:?}");
    let found = causes(&db.audit().await);
    let expected = wrong.into_iter().map(|(lab, day)| (lab, day, Cause::WrongDay)).collect();
    assert_eq!(found, expected);
}

async fn a_history_built_without_daylight_saving_is_on_the_wrong_day(engine: Engine) {
    let db = across_the_change(engine).await;
    // It was built by subtracting five hours from UTC all year round.
    db.store(&oracle::expected(&db, &[(NEW_YORK, Tz::EST5EDT)], now()).await).await;
    assert!(db.audit().await.is_clean(), "EST5EDT has daylight saving");
    db.execute("DELETE FROM operation_historical_summary", args![]).await;
    db.store(&oracle::expected(&db, &[(NEW_YORK, Tz::Etc__GMTPlus5)], now()).await).await;
    let labs = [(NEW_YORK, Tz::America__New_York)];
    assert_all_on_the_wrong_day(&db, &labs, 15).await;
    let found = causes(&db.audit().await);
    assert!(found.iter().all(|(_, day, _)| date(day) >= date("2026-03-08")), "the winter is right: {found:?}");
    run(&db, &["--now", NOW, "audit", "--repair"]);
    db.drain(now()).await;
    oracle::assert_equal(&oracle::stored(&db).await, &oracle::expected(&db, &labs, now()).await);
}

async fn a_history_built_on_days_in_utc_is_on_the_wrong_day(engine: Engine) {
    let db = across_the_change(engine).await;
    db.execute("UPDATE labs SET labTimeZone = 'Asia/Kolkata'", args![]).await;
    db.store(&oracle::expected(&db, &[(NEW_YORK, Tz::UTC)], now()).await).await;
    assert_all_on_the_wrong_day(&db, &[(NEW_YORK, Tz::Asia__Kolkata)], 30).await;
}

async fn a_history_built_before_the_lab_moved_is_on_the_wrong_day(engine: Engine) {
    let db = across_the_change(engine).await;
    db.store(&oracle::expected(&db, &[(NEW_YORK, Tz::Asia__Kolkata)], now()).await).await;
    let built = "INSERT INTO daymend_labs (rollup, lab_id, time_zone) VALUES ('historical_summary', 2, 'Asia/Kolkata')";
    db.execute(built, args![]).await;
    assert_all_on_the_wrong_day(&db, &[(NEW_YORK, Tz::America__New_York)], 30).await;
}

async fn rows_of_a_lab_whose_view_is_off_are_found_and_not_repaired(engine: Engine) {
    let db = histories(engine).await;
    db.execute("UPDATE labs SET historicalViewEnabled = 0 WHERE id = 2", args![]).await;
    let report = db.audit().await;
    let found = causes(&report);
    assert!(found.iter().all(|(lab, _, cause)| (*lab, *cause) == (NEW_YORK, Cause::LabDisabled)), "{found:?}");
    let rows = db.number("SELECT COUNT(*) FROM operation_historical_summary WHERE lab_id = 2").await;
    assert_eq!(report.differences(), rows as u64);
    assert_eq!(report.repairable(), BTreeMap::new());
    // Once the view is on again, the rows are compared again.
    db.execute("UPDATE labs SET historicalViewEnabled = 1 WHERE id = 2", args![]).await;
    assert!(db.audit().await.is_clean());
    // A lab whose view is off and that has no rows is clean.
    db.execute("UPDATE labs SET historicalViewEnabled = 0 WHERE id = 2", args![]).await;
    db.execute("DELETE FROM operation_historical_summary WHERE lab_id = 2", args![]).await;
    assert!(db.audit().await.is_clean());
}

async fn rows_of_a_lab_that_does_not_exist_are_found_and_not_repaired(engine: Engine) {
    let db = histories(engine).await;
    for lab in [-3, 0, 99] {
        db.add_summary_row(lab, "2026-06-05", 1, 0, "organization_bill", 3).await;
    }
    let report = db.audit().await;
    let expected = [-3, 0, 99].map(|lab| (lab, "2026-06-05".to_owned(), Cause::UnknownLab));
    assert_eq!(causes(&report), BTreeSet::from(expected));
    assert_eq!(report.repairable(), BTreeMap::new());
    assert_eq!(report.beyond_repair().len(), 3);
}

async fn a_lab_that_cannot_be_audited_is_reported_and_stops_no_other(engine: Engine) {
    let db = histories(engine).await;
    db.execute("UPDATE labs SET labTimeZone = 'Mars/Base' WHERE id = 1", args![]).await;
    db.add_summary_row(NEW_YORK, "2026-06-05", 999, 0, "organization_bill", 3).await;
    let report = db.audit().await;
    assert_eq!(causes(&report), BTreeSet::from([(NEW_YORK, "2026-06-05".to_owned(), Cause::Ghost)]));
    assert!(!report.is_complete());
    let problems: Vec<_> = report.labs.iter().flat_map(|lab| &lab.problems).collect();
    assert!(problems.len() == 1 && problems[0].why.contains("\"Mars/Base\" is unknown"), "{problems:?}");
}

// SQLite's columns accept any text; MySQL's numeric columns do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cannot_be_read_is_the_problem_of_its_day() {
    let db = histories(Engine::Sqlite).await;
    db.execute(
        "UPDATE billing SET isCancelled = 'perhaps' WHERE id = (SELECT MIN(id) FROM billing
                WHERE lab_id = 1 AND billTime BETWEEN '2026-06-05 18:30:00' AND '2026-06-06 18:29:59')",
        args![],
    )
    .await;
    for day in ["2026-06-04", "2026-06-06"] {
        db.add_summary_row(KOLKATA, day, 999, 0, "organization_bill", 3).await;
    }
    let report = db.audit().await;
    let lab = &report.labs[0];
    let problems: Vec<_> = lab.problems.iter().map(|problem| problem.first.zip(problem.last)).collect();
    let day = date("2026-06-06");
    assert_eq!(problems, [Some((day, day))], "{:?}", lab.problems);
    assert!(lab.problems[0].why.contains("whole number"), "{:?}", lab.problems);
    assert_eq!(lab.days_audited, 13);
    assert_eq!(causes(&report), BTreeSet::from([(KOLKATA, "2026-06-04".to_owned(), Cause::Ghost)]));

    // Empty days before it are not part of the problem.
    let empty = "BETWEEN '2026-06-02 18:30:00' AND '2026-06-05 19:00:00'";
    db.execute(&format!("DELETE FROM billing WHERE lab_id = 1 AND billTime {empty}"), args![]).await;
    let rows = "DELETE FROM operation_historical_summary WHERE lab_id = 1 AND ordered_at BETWEEN '2026-06-03' AND '2026-06-06'";
    db.execute(rows, args![]).await;
    let at = "2026-06-05T19:30:00Z".parse().unwrap();
    db.add_bill(7, KOLKATA, &Bill { at, ..Bill::default() }).await;
    let report = db.audit().await;
    let lab = &report.labs[0];
    let problems: Vec<_> = lab.problems.iter().map(|problem| problem.first.zip(problem.last)).collect();
    assert_eq!(problems, [Some((day, day))], "{:?}", lab.problems);
    assert_eq!(lab.days_audited, 13);
}

async fn what_is_held_at_once_does_not_grow_with_the_history(engine: Engine) {
    let db = TestDb::new(engine).await;
    let mut held = Vec::new();
    for (lab, days) in [(1, 30), (2, 300)] {
        db.add_lab(lab, Some("UTC")).await;
        db.fill_lab(lab, calendar::days_before(date("2026-06-15"), days), days, 3).await;
        let labs = [(lab, Tz::UTC)];
        db.store(&oracle::expected(&db, &labs, now()).await).await;
        let scope = Scope { labs: vec![lab], ..Scope::default() };
        let report = db.audit_of(&scope).await;
        assert!(report.is_clean());
        assert_eq!(report.days_audited(), u64::from(days));
        let most = "SELECT MAX(rows_a_day) FROM (SELECT COUNT(*) AS rows_a_day FROM operation_historical_summary
                    GROUP BY lab_id, ordered_at) AS days";
        assert!(report.rows_held_max as i64 <= 7 * db.number(most).await, "{}", report.rows_held_max);
        held.push(report.rows_held_max);
    }
    let rows = db.number("SELECT COUNT(*) FROM operation_historical_summary WHERE lab_id = 2").await;
    assert!(held[1] as i64 * 20 < rows && held[1] < held[0] * 2, "{held:?} of {rows}");
    // With drift on every day, only the neighbouring days are held in addition.
    db.execute(
        "UPDATE operation_historical_summary SET event_count = event_count + 1 WHERE dimension_a_id = 1",
        args![],
    )
    .await;
    let report = db.audit_of(&Scope { labs: vec![2], ..Scope::default() }).await;
    assert!(report.days_drifted() > 200 && report.rows_held_max <= held[1] * 3, "{}", report.rows_held_max);
}

async fn a_bill_from_1970_costs_nothing(engine: Engine) {
    let db = histories(engine).await;
    let at = "1970-01-02T06:00:00Z".parse().unwrap();
    db.add_bill(7, KOLKATA, &Bill { at, info: Some((Some(4), None, None)), ..Bill::default() }).await;
    let report = db.audit().await;
    assert_eq!(causes(&report), BTreeSet::from([(KOLKATA, "1970-01-02".to_owned(), Cause::Missing)]));
    assert!(report.labs[0].days_audited > 20_000);
}

async fn rows_of_the_first_and_the_last_days_of_all_are_found(engine: Engine) {
    let db = histories(engine).await;
    db.add_lab(3, Some("America/New_York")).await;
    let mut planted = BTreeSet::new();
    for lab in [KOLKATA, NEW_YORK, 3] {
        for day in ["0001-01-01", "0001-01-03", "9999-12-28", "9999-12-29", "9999-12-30", "9999-12-31"] {
            db.add_summary_row(lab, day, 999, 0, "organization_bill", 3).await;
            // A lab without bills has no first day, so no row is before it.
            let cause = if lab == 3 && day < "2000" { Cause::Ghost } else { Cause::OutOfRange };
            planted.insert((lab, day.to_owned(), cause));
        }
    }
    assert_eq!(causes(&db.audit().await), planted);
}

async fn a_sample_is_of_days_that_have_something(engine: Engine) {
    let db = histories(engine).await;
    db.execute("UPDATE operation_historical_summary SET event_count = event_count + 1", args![]).await;
    // Neither a cancelled bill nor a stray row adds the years between it and the history to the days that are drawn.
    let at = "1970-01-02T06:00:00Z".parse().unwrap();
    db.add_bill(7, KOLKATA, &Bill { at, cancelled: true, ..Bill::default() }).await;
    db.add_summary_row(NEW_YORK, "9999-12-31", 999, 0, "organization_bill", 3).await;
    for (days, expected) in [(1, 1), (10, 10), (1000, 30)] {
        for seed in 0..5 {
            let report = db.audit_of(&Scope { sample: Some(Sample { days, seed }), ..Scope::default() }).await;
            assert_eq!(report.days_audited(), expected);
            assert!(report.days_drifted() >= expected - 1, "{days} {seed}: {}", report.days_drifted());
        }
    }
}

async fn a_sample_draws_days_that_can_be_drawn_again(engine: Engine) {
    let db = histories(engine).await;
    db.execute("UPDATE operation_historical_summary SET event_count = event_count + 1", args![]).await;
    let days_of = async |days, seed| -> BTreeSet<(i64, NaiveDate)> {
        let report = db.audit_of(&Scope { sample: Some(Sample { days, seed }), ..Scope::default() }).await;
        assert_eq!(report.days_audited(), days.min(28) as u64);
        findings(&report).into_iter().map(|(lab, row)| (lab, row.day)).collect()
    };
    let drawn = days_of(6, 1).await;
    assert_eq!(drawn.len(), 6);
    assert_eq!(days_of(6, 1).await, drawn);
    assert_ne!(days_of(6, 2).await, drawn);
    assert_eq!(days_of(100, 1).await.len(), 28);
    let arguments = ["--now", NOW, "audit", "--sample", "6", "--seed", "1"];
    let output = run(&db, &arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("to choose the same ones again: --sample 6 --seed 1"), "{text}");
    run_ok(&db, &["--now", NOW, "audit", "--sample", "6", "--except", "wrong_count"]);
}

/// The lab is too slow while the audit is planned, or while its days are walked.
async fn a_lab_that_takes_too_long_to_read_is_reported_and_stops_no_other(engine: Engine) {
    let db = histories(engine).await;
    let jobs = jobs_with_slow_lab(engine, KOLKATA);
    let slow = Rollups::load(Some(jobs.path())).unwrap();
    let (slow, rollups) = (slow.get(HISTORICAL_SUMMARY).unwrap(), rollups());
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let impatient = db.db.with_limit(Duration::from_secs(3));
    let sample = Scope { sample: Some(Sample { days: 5, seed: 1 }), ..Scope::default() };
    let options = Options { as_of: now(), except: BTreeSet::new(), rows_max: 10 };
    for (planned_by, scope) in [(slow, Scope::default()), (slow, sample), (rollup, Scope::default())] {
        let plan = audit::plan(&impatient, planned_by, &scope, now()).await.unwrap();
        let report = audit::run(&impatient, slow, &plan, &options, |_, _| ()).await.unwrap();
        let problems: Vec<_> =
            report.labs.iter().flat_map(|lab| lab.problems.iter().map(|problem| (lab.lab, &problem.why))).collect();
        assert!(matches!(problems[..], [(KOLKATA, why)] if why.contains("no answer within 3s")), "{problems:?}");
        let audited = report.labs.iter().find(|lab| lab.lab == NEW_YORK).unwrap().days_audited;
        assert_eq!(audited, if scope.sample.is_some() { 5 } else { 14 }, "{report:?}");
    }
}
