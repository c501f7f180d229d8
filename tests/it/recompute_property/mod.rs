//! For any source and any damage to the summary, a repair and a rebuild make the summary what the contract says it is,
//! and repeating them writes nothing.
//!
//! A case is a few labs in zones with irregular days, with bills around their midnights, and a summary with missing
//! rows, wrong counts, rows on wrong days and rows without any facts. The case is repaired, then the source changes and
//! the summary is damaged further, then it is rebuilt. `support::oracle` gives the correct result, from the text of the
//! contract. A failing case is shrunk and printed. `DAYMEND_PROPERTY_CASES` sets the number of cases,
//! `DAYMEND_PROPERTY_FIRST` the number of the first one, which is its seed.
//!
//! The oracle takes an instant's day from the local clock. Where clocks go back across midnight that is not the rule
//! (see `calendar`), so the test has no such zone.

mod case;
mod lab;

use std::panic::AssertUnwindSafe;

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use daymend::{
    args,
    calendar::{dates, days_before},
    db::Arg,
    rollup::{HISTORICAL_SUMMARY, Rollups},
    runs::{
        JobLimits, RunState,
        repair::{self, Days as PlanDays, PlanError},
    },
};
use futures::FutureExt as _;
use proptest::{
    strategy::{Strategy as _, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use self::{
    case::{FOREIGN, LabCase, TESTS, labs},
    lab::{Lab, Table},
};
use crate::{
    on_both,
    support::{
        Engine, TestDb,
        lab_system::Bill,
        oracle::{self, Key},
        work::rollups,
    },
};

on_both! {
    repairs_and_rebuilds_make_the_summary_true_and_write_nothing_twice;
    rows_with_a_null_dimension_and_rows_stored_twice_are_removed;
}
const CASES_AT_A_TIME: usize = 12;

fn now() -> DateTime<Utc> {
    "2026-06-15T12:00:00Z".parse().unwrap()
}

fn date(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

/// Reads the stored rows of these labs, except the foreign ones, which must be unchanged.
async fn stored(db: &TestDb, labs: &[Lab<'_>]) -> Table {
    let mut table = oracle::stored(db).await;
    for lab in labs {
        let foreign = (lab.id, days_before(lab.today(), 1), 1, 0, FOREIGN.to_owned());
        assert_eq!(table.remove(&foreign), Some(5), "the foreign row is unchanged");
    }
    table.retain(|(lab, ..), _| labs.iter().any(|known| known.id == *lab));
    table
}

async fn expected(db: &TestDb, labs: &[Lab<'_>]) -> Table {
    let zones: Vec<_> = labs.iter().map(|lab| (lab.id, lab.tz)).collect();
    oracle::expected(db, &zones, now()).await
}

/// Repairs every closed day near the anchors, and returns the runs and the days they covered.
async fn repair(db: &TestDb, rollups: &Rollups, labs: &[Lab<'_>]) -> (Vec<i64>, Vec<(i64, NaiveDate)>) {
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let (mut runs, mut covered) = (Vec::new(), Vec::new());
    for lab in labs {
        let sql = "SELECT MIN(billTime) FROM billing WHERE lab_id = ?";
        let first = db.rows(sql, args![lab.id]).await[0].instant_or_null(0).unwrap();
        let Some(first) = first.map(|at| at.with_timezone(&lab.tz).date_naive()) else {
            // The lab has a foreign row yesterday, but nothing on this day.
            let day = PlanDays::Range(date("1971-01-01"), date("1971-01-01"));
            let refused = repair::plan(&db.db, rollup, &[lab.id], day, now()).await;
            assert!(matches!(refused, Err(PlanError::Refused(why)) if why.ends_with("it has no bills")));
            continue;
        };
        for (first, last) in lab.ranges(first) {
            let plan = repair::plan(&db.db, rollup, &[lab.id], PlanDays::Range(first, last), now()).await.unwrap();
            // A date that does not exist in the zone has no job.
            let existing: Vec<_> = dates(first, last)
                .filter(|date| !(lab.tz == Tz::Pacific__Apia && *date == self::date("2011-12-30")))
                .filter(|date| !(lab.tz == Tz::Pacific__Kiritimati && *date == self::date("1994-12-31")))
                .collect();
            assert_eq!(plan.labs, [(lab.id, existing.clone())]);
            runs.push(
                repair::enqueue(&db.db, rollup, &plan, "a property", now(), JobLimits::any_shrink(3)).await.unwrap(),
            );
            covered.extend(existing.into_iter().map(|day| (lab.id, day)));
        }
    }
    db.drain(now()).await;
    (runs, covered)
}

/// Requests a rebuild of every lab, waits until all are completed, and returns the runs.
async fn rebuild(db: &TestDb, labs: &[Lab<'_>]) -> Vec<i64> {
    let mut ids = Vec::new();
    for lab in labs {
        ids.push(db.request_rebuild(lab.id).await);
    }
    db.tick(now()).await;
    db.drain(now()).await;
    db.tick(now()).await;
    let mut runs = Vec::new();
    for id in ids {
        assert_eq!(db.record_status(id).await, "Completed");
        runs.push(db.number(&format!("SELECT run_id FROM daymend_migrations WHERE migration_id = {id}")).await);
    }
    runs
}

/// Returns the number of rows that the runs wrote, and asserts that all of their jobs are completed.
async fn rows_written(db: &TestDb, runs: &[i64]) -> u64 {
    let mut rows = 0;
    for run in runs {
        let (run, progress) = db.run(*run).await;
        assert!(matches!(run.state, RunState::Running | RunState::Completed), "{run:?}");
        assert_eq!(progress.completed, progress.total(), "{run:?} {progress:?}");
        rows += progress.rows();
    }
    rows
}

/// Counts the rows that differ; one that is missing on either side counts once.
fn differences(before: &Table, after: &Table) -> u64 {
    let changed = before.iter().filter(|(key, count)| after.get(*key) != Some(*count)).count();
    (changed + after.keys().filter(|key| !before.contains_key(*key)).count()) as u64
}

/// Checks one case, with labs whose ids begin at `number`.
async fn holds(db: &TestDb, rollups: &Rollups, number: i64, case: &[LabCase]) {
    let labs: Vec<_> = case.iter().zip(number..).map(|(case, number)| Lab::new(number, case)).collect();
    for lab in &labs {
        lab.insert(db).await;
    }
    let right = expected(db, &labs).await;
    for lab in &labs {
        lab.damage(db, &right).await;
        lab.haunt(db, &lab.case.ghosts[0]).await;
    }

    let damaged = stored(db, &labs).await;
    let (runs, covered) = repair(db, rollups, &labs).await;
    let is_covered = |key: &Key| covered.contains(&(key.0, key.1));
    assert!(right.keys().all(is_covered), "every bill is on a day that was repaired");
    let repaired = stored(db, &labs).await;
    // Correct where it was repaired, and unchanged everywhere else.
    let mut should_be = right;
    should_be.extend(damaged.clone().into_iter().filter(|(key, _)| !is_covered(key)));
    oracle::assert_equal(&repaired, &should_be);
    assert_eq!(rows_written(db, &runs).await, differences(&damaged, &repaired), "only the difference is written");
    let (runs, _) = repair(db, rollups, &labs).await;
    assert_eq!(rows_written(db, &runs).await, 0, "a second repair writes nothing");
    assert_eq!(stored(db, &labs).await, repaired);

    for lab in &labs {
        lab.edit(db).await;
        lab.haunt(db, &lab.case.ghosts[1]).await;
    }
    let before = stored(db, &labs).await;
    let runs = rebuild(db, &labs).await;
    let rebuilt = stored(db, &labs).await;
    oracle::assert_equal(&rebuilt, &expected(db, &labs).await);
    assert_eq!(rows_written(db, &runs).await, differences(&before, &rebuilt), "only the difference is written");
    let runs = rebuild(db, &labs).await;
    assert_eq!(rows_written(db, &runs).await, 0, "a second rebuild writes nothing");
    assert_eq!(stored(db, &labs).await, rebuilt);
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Returns whether a case holds, with labs whose ids begin at `number`, and advances `number` past them.
async fn try_case(db: &TestDb, rollups: &Rollups, number: &mut i64, case: &[LabCase]) -> bool {
    let first = *number;
    *number += case.len() as i64;
    AssertUnwindSafe(holds(db, rollups, first, case)).catch_unwind().await.is_ok()
}

async fn repairs_and_rebuilds_make_the_summary_true_and_write_nothing_twice(engine: Engine) {
    let db = TestDb::new(engine).await;
    let rollups = rollups();
    for (id, department) in TESTS {
        db.add_test(*id, *department).await;
    }
    let mut number = 1;
    let first = setting("DAYMEND_PROPERTY_FIRST", 1);
    let cases: Vec<u64> = (first..first + setting("DAYMEND_PROPERTY_CASES", 48)).collect();
    // A few cases at a time share the runs of the scheduler and the worker, which is faster.
    for cases in cases.chunks(CASES_AT_A_TIME) {
        let trees = cases.iter().map(|case| {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&case.to_le_bytes());
            seed[8] = u8::from(engine == Engine::Sqlite);
            let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
            labs().new_tree(&mut TestRunner::new_with_rng(Config::default(), random)).unwrap()
        });
        let trees: Vec<_> = trees.collect();
        let together: Vec<_> = trees.iter().flat_map(ValueTree::current).collect();
        if try_case(&db, &rollups, &mut number, &together).await {
            continue;
        }
        for (case, mut tree) in cases.iter().zip(trees) {
            let mut failing = None;
            // Shrinks a case that has failed, as long as the smaller ones fail too.
            for _ in 0..60 {
                let labs = tree.current();
                let goes_on = if try_case(&db, &rollups, &mut number, &labs).await {
                    failing.is_some() && tree.complicate()
                } else {
                    failing = Some(labs);
                    tree.simplify()
                };
                if !goes_on {
                    break;
                }
            }
            assert!(failing.is_none(), "{engine:?}, case {case}, shrunk: {failing:#?}");
        }
        panic!("{engine:?}: the cases {cases:?} fail together, and hold one by one: {together:#?}");
    }
}

async fn rows_with_a_null_dimension_and_rows_stored_twice_are_removed(engine: Engine) {
    let db = TestDb::source_only(engine).await;
    let id = match engine {
        Engine::MariaDb => {
            db.execute("DROP TABLE operation_historical_summary", args![]).await;
            "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY"
        }
        Engine::Sqlite => "INTEGER PRIMARY KEY AUTOINCREMENT",
    };
    // A table as a site may have it: nullable dimensions, and no unique key.
    let sql = format!(
        "CREATE TABLE operation_historical_summary (
             id {id}, lab_id BIGINT NOT NULL, ordered_at DATE NOT NULL, dimension_a_id BIGINT NULL,
             dimension_b_id BIGINT NULL, event_type VARCHAR(64) NOT NULL, event_count INT NULL,
             created_at DATETIME(6) NOT NULL, modified_at DATETIME(6) NOT NULL)"
    );
    db.execute(&sql, args![]).await;
    db.migrate().await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    let at = "2026-06-10T10:00:00Z".parse().unwrap();
    db.add_bill(1, 1, &Bill { at, info: Some((Some(1), Some(2), None)), ..Bill::default() }).await;

    let insert = "INSERT INTO operation_historical_summary
                      (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at)
                  VALUES (1, '2026-06-10', ?, ?, ?, ?, '2026-01-01 00:00:00', '2026-01-01 00:00:00')";
    let (null, one) = (Arg::Null, Arg::Int(1));
    let rows: [(Arg, Arg, &str, Arg); 8] = [
        (one.clone(), Arg::Int(0), "organization_bill", one.clone()),
        (one.clone(), Arg::Int(0), "organization_bill", one.clone()),
        (one.clone(), Arg::Int(0), "organization_bill", Arg::Int(7)),
        (null.clone(), Arg::Int(0), "branch_bill", one.clone()),
        (null.clone(), Arg::Int(0), "branch_bill", one.clone()),
        (one.clone(), null.clone(), "organization_bill", one.clone()),
        (null.clone(), null.clone(), "department_test", one.clone()),
        (Arg::Int(2), Arg::Int(0), "referral_bill", null.clone()),
    ];
    for (a, b, event, count) in rows {
        db.execute(insert, vec![a, b, event.into(), count]).await;
    }
    let rollups = rollups();
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let day = PlanDays::Range(date("2026-06-10"), date("2026-06-10"));
    for expected in [(0, 1, 6), (0, 0, 0)] {
        let plan = repair::plan(&db.db, rollup, &[1], day, now()).await.unwrap();
        let run = repair::enqueue(&db.db, rollup, &plan, "a test", now(), JobLimits::any_shrink(3)).await.unwrap();
        db.drain(now()).await;
        let (_, progress) = db.run(run).await;
        let written = (progress.rows_inserted, progress.rows_updated, progress.rows_deleted);
        assert_eq!((written, progress.completed), (expected, 1));
        let right = oracle::expected(&db, &[(1, Tz::Asia__Kolkata)], now()).await;
        assert_eq!(right.len(), 2);
        oracle::assert_equal(&oracle::stored(&db).await, &right);
    }
}
