//! The limit that keeps a recompute from trusting a source that has lost rows.

use std::process::Output;

use daymend::args;

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        doctor::arguments,
        process::{run, run_ok},
    },
};

const NOW: &str = "2026-06-15T12:00:00Z";

on_both! {
    a_day_that_would_vanish_is_discarded_with_the_reason;
    a_day_whose_run_is_unknown_may_not_vanish;
    the_advice_of_a_discarded_day_can_be_followed;
    what_one_run_may_take_away_another_may_not;
    cancelled_and_moved_bills_may_take_rows_away;
    merged_dimensions_may_take_rows_away;
    a_single_bill_may_be_all_that_a_day_had;
    a_rebuild_takes_away_what_it_finds_gone;
    a_rebuild_of_a_lab_whose_source_has_lost_rows_says_what_to_look_at;
}

/// Creates a lab with some days of bills, the last four of them in the summary.
pub(crate) async fn lab(engine: Engine, days: u32) -> TestDb {
    let db = TestDb::new(engine).await;
    for test in 1..=5 {
        db.add_test(test, Some(test)).await;
    }
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.fill_lab(1, daymend::calendar::days_before("2026-06-15".parse().unwrap(), days), days, 8).await;
    run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-11", "--to", "2026-06-14"]);
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    db
}

async fn rows_of(db: &TestDb, day: &str) -> i64 {
    let sql = "SELECT COUNT(*) FROM operation_historical_summary WHERE ordered_at = ?";
    db.rows(sql, args![day]).await[0].int(0).unwrap()
}

/// Repairs two days, and returns the exit code of the worker and the errors of discarded jobs.
async fn repair(db: &TestDb, more: &[&str]) -> (Option<i32>, Vec<String>) {
    let repair = ["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-12", "--to", "2026-06-13"];
    run_ok(db, &[&repair[..], more].concat());
    let code = run(db, &["--now", NOW, "worker", "--drain"]).status.code();
    let errors = db.rows("SELECT error FROM daymend_jobs WHERE state = 'discarded' ORDER BY id", vec![]).await;
    (code, errors.iter().map(|row| row.text(0).unwrap()).collect())
}

const BILLS_OF_THE_DAY: &str = "lab_id = 1 AND billTime >= '2026-06-11 18:30:00' AND billTime < '2026-06-12 18:30:00'";

async fn a_day_that_would_vanish_is_discarded_with_the_reason(engine: Engine) {
    let db = lab(engine, 6).await;
    let rows = rows_of(&db, "2026-06-12").await;
    assert!(rows > 20, "{rows}");
    db.execute(&format!("DELETE FROM billing WHERE {BILLS_OF_THE_DAY}"), vec![]).await;
    // Something is wrong on the neighbouring day, and must be corrected regardless.
    db.execute("UPDATE operation_historical_summary SET event_count = 99 WHERE ordered_at = '2026-06-13'", vec![])
        .await;
    let (code, errors) = repair(&db, &[]).await;
    assert_eq!((code, errors.len()), (Some(1), 1), "{errors:?}");
    let expected = format!("lab 1, 2026-06-12: {rows} of {rows} rows would vanish, more than --max-shrink 50%");
    assert!(errors[0].starts_with(&expected), "{errors:?}");
    assert_eq!(db.number("SELECT attempt FROM daymend_jobs WHERE state = 'discarded'").await, 1, "retrying is useless");
    assert_eq!(rows_of(&db, "2026-06-12").await, rows, "nothing is deleted");
    assert_eq!(db.number("SELECT COUNT(*) FROM operation_historical_summary WHERE event_count = 99").await, 0);
    // An operator has checked that the bills are really gone.
    let (code, _) = repair(&db, &["--max-shrink", "off"]).await;
    assert_eq!(code, Some(0));
    assert_eq!(rows_of(&db, "2026-06-12").await, 0);
}

/// Its run may have allowed it, but nobody can tell.
async fn a_day_whose_run_is_unknown_may_not_vanish(engine: Engine) {
    let db = lab(engine, 6).await;
    let rows = rows_of(&db, "2026-06-12").await;
    db.execute(&format!("DELETE FROM billing WHERE {BILLS_OF_THE_DAY}"), vec![]).await;
    run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-12", "--max-shrink", "off"]);
    db.execute("DELETE FROM daymend_runs", vec![]).await;
    assert_eq!(run(&db, &["--now", NOW, "worker", "--drain"]).status.code(), Some(1));
    assert_eq!(rows_of(&db, "2026-06-12").await, rows);
}

async fn the_advice_of_a_discarded_day_can_be_followed(engine: Engine) {
    for (day, bills) in [("2020-01-01", "id < 0"), ("2026-06-12", "lab_id = 1")] {
        let db = lab(engine, 6).await;
        db.add_summary_row(1, "2020-01-01", 999, 0, "organization_bill", 5).await;
        db.execute(&format!("DELETE FROM billing WHERE {bills}"), vec![]).await;
        let code = run(&db, &["--now", NOW, "audit", "--from", day, "--to", day, "--repair"]).status.code();
        assert_eq!((code, run(&db, &["--now", NOW, "worker", "--drain"]).status.code()), (Some(3), Some(1)));
        let error = db.text("SELECT error FROM daymend_jobs WHERE state = 'discarded'").await;
        let advised = arguments(&error);
        assert_eq!(advised, ["repair", "--lab", "1", "--day", day, "--max-shrink", "off"], "{error}");
        run_ok(&db, &[&["--now", NOW], &advised[..]].concat());
        run_ok(&db, &["--now", NOW, "worker", "--drain"]);
        assert_eq!(rows_of(&db, day).await, 0);
    }
}

/// The days are neighbours, which a worker looks at together if it can.
async fn what_one_run_may_take_away_another_may_not(engine: Engine) {
    for (kept, gone) in [("2026-06-12", "2026-06-13"), ("2026-06-13", "2026-06-12")] {
        let db = lab(engine, 6).await;
        let rows = rows_of(&db, kept).await;
        for (day, more) in [(kept, "50%"), (gone, "off")] {
            run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--day", day, "--max-shrink", more]);
        }
        db.execute("DELETE FROM billing", vec![]).await;
        let code = run(&db, &["--now", NOW, "worker", "--drain"]).status.code();
        assert_eq!((code, rows_of(&db, kept).await, rows_of(&db, gone).await), (Some(1), rows, 0), "{kept}");
    }
}

async fn cancelled_and_moved_bills_may_take_rows_away(engine: Engine) {
    let db = lab(engine, 6).await;
    db.execute(&format!("UPDATE billing SET isCancelled = 1 WHERE {BILLS_OF_THE_DAY}"), vec![]).await;
    let moved = "UPDATE billingInfo SET organization_id = organization_id + 1000, referral_id = referral_id + 1000,
                        branch_id = branch_id + 1000
                 WHERE billing_id IN (SELECT id FROM billing WHERE billTime >= '2026-06-12 18:30:00')";
    db.execute(moved, vec![]).await;
    assert_eq!(repair(&db, &[]).await, (Some(0), vec![]));
    assert_eq!(rows_of(&db, "2026-06-12").await, 0);
    let new = "SELECT COUNT(*) FROM operation_historical_summary
               WHERE ordered_at = '2026-06-13' AND dimension_a_id < 1000 AND event_type <> 'department_test'";
    assert_eq!(db.number(new).await, 0, "all of them have moved");
}

/// What was counted in many rows is now counted in one existing row: nothing has vanished.
async fn merged_dimensions_may_take_rows_away(engine: Engine) {
    let db = lab(engine, 6).await;
    let of_the_day = format!("WHERE billing_id IN (SELECT id FROM billing WHERE {BILLS_OF_THE_DAY})");
    // A bill without tests and samples gives one row for each of its owners.
    for table in ["labReportRelation", "collectedSample"] {
        db.execute(&format!("DELETE FROM {table} {of_the_day}"), vec![]).await;
    }
    db.execute(
        &format!(
            "UPDATE billingInfo SET organization_id = billing_id, referral_id = billing_id, branch_id = billing_id \
             {of_the_day}"
        ),
        vec![],
    )
    .await;
    assert_eq!(repair(&db, &["--max-shrink", "off"]).await, (Some(0), vec![]));
    let before = rows_of(&db, "2026-06-12").await;
    let first = db.number(&format!("SELECT MIN(id) FROM billing WHERE {BILLS_OF_THE_DAY}")).await;
    db.execute(
        &format!("UPDATE billingInfo SET organization_id = ?, referral_id = ?, branch_id = ? {of_the_day}"),
        args![first, first, first],
    )
    .await;
    assert_eq!(repair(&db, &[]).await, (Some(0), vec![]));
    let after = rows_of(&db, "2026-06-12").await;
    assert!(2 * after < before, "{after} of {before}");
}

async fn a_single_bill_may_be_all_that_a_day_had(engine: Engine) {
    let db = lab(engine, 6).await;
    let one = db.number(&format!("SELECT MIN(id) FROM billing WHERE {BILLS_OF_THE_DAY}")).await;
    db.execute(&format!("DELETE FROM billing WHERE {BILLS_OF_THE_DAY} AND id <> ?"), args![one]).await;
    assert_eq!(repair(&db, &["--max-shrink", "off"]).await, (Some(0), vec![]));
    let rows = rows_of(&db, "2026-06-12").await;
    assert!(rows > 6, "a bill gives many rows: {rows}");
    db.execute(&format!("UPDATE billing SET billTime = '2026-06-13 06:00:00' WHERE {BILLS_OF_THE_DAY}"), vec![]).await;
    assert_eq!(repair(&db, &[]).await, (Some(0), vec![]));
    assert_eq!(rows_of(&db, "2026-06-12").await, 0);
}

async fn a_rebuild_takes_away_what_it_finds_gone(engine: Engine) {
    let db = lab(engine, 6).await;
    db.execute(&format!("DELETE FROM billing WHERE {BILLS_OF_THE_DAY}"), vec![]).await;
    run_ok(&db, &["--now", NOW, "rebuild", "--lab", "1"]);
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    assert_eq!(rows_of(&db, "2026-06-12").await, 0);
    assert!(rows_of(&db, "2026-06-13").await > 20);
}

async fn a_rebuild_of_a_lab_whose_source_has_lost_rows_says_what_to_look_at(engine: Engine) {
    let db = lab(engine, 6).await;
    let rebuild = |more: &[&str]| run(&db, &[&["--now", NOW, "rebuild", "--lab", "1"], more].concat());
    let warned = |output: Output| {
        assert!(output.status.success(), "{output:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        error.lines().filter(|line| line.contains("would vanish")).map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(warned(rebuild(&["--dry-run"])), Vec::<String>::new());
    db.execute(&format!("DELETE FROM billing WHERE {BILLS_OF_THE_DAY}"), vec![]).await;
    assert_eq!(repair(&db, &[]).await.0, Some(1));
    for more in [&["--dry-run"][..], &[]] {
        let lines = warned(rebuild(more));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].starts_with("warning: lab 1 has 1 job(s) that were discarded because rows would vanish"),
            "{lines:?}"
        );
        assert!(lines[0].contains("`daymend queue list --lab 1 --state discarded`"), "{lines:?}");
        assert!(lines[0].contains("docs/recovery.md"), "{lines:?}");
    }
    db.execute("UPDATE daymend_jobs SET error = 'something else' WHERE state = 'discarded'", vec![]).await;
    assert_eq!(warned(rebuild(&["--dry-run"])), Vec::<String>::new());
}
