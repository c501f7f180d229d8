//! Facts that are part of other facts: read by the ids of those, and counted as if each were read with its bill.

use std::fs;

use chrono::NaiveDate;
use daymend::{
    args,
    calendar::Zone,
    db::Mode,
    rollup::{
        HISTORICAL_SUMMARY, Rollups,
        aggregate::{Counts, DaySpan, Key},
        facts::{self, Locking},
    },
};

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        lab_system::Bill,
        oracle,
        process::{run, run_says},
        work::{jobs_changed, rollups},
    },
};

on_both! {
    parts_of_more_facts_than_one_statement_asks_for_are_all_counted;
    a_definition_whose_facts_are_part_of_nothing_counts_the_same;
    what_a_part_lacks_is_named;
}

const DAY: &str = "2026-06-10";
const NOW: &str = "2026-06-15T12:00:00Z";

fn day() -> NaiveDate {
    DAY.parse().unwrap()
}

/// Creates a copy of the built-in definition, with some of its text replaced.
fn definition(replace: &[(&str, &str, &str)]) -> tempfile::TempDir {
    jobs_changed(|file, mut text| {
        for (_, from, to) in replace.iter().filter(|(changed, ..)| *changed == file) {
            assert!(text.contains(from), "{from:?} is not in {file}");
            text = text.replacen(from, to, 1);
        }
        text
    })
}

/// Returns what a definition counts on the day and its neighbours.
async fn counted(db: &TestDb, rollups: &Rollups, locking: Locking) -> Result<Vec<(Key, u32)>, String> {
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let zone = Zone::parse(Some("Asia/Kolkata")).unwrap();
    let days = DaySpan::new(zone, day().pred_opt().unwrap(), day().succ_opt().unwrap());
    let mut tx = db.db.begin(Mode::Write).await.unwrap();
    let counts = facts::count(&mut tx, rollup, 1, &days, locking).await;
    let counts = counts.map(Counts::into_rows).map_err(|error| format!("{error}: {}", error.source));
    tx.rollback().await.unwrap();
    counts
}

async fn parts_of_more_facts_than_one_statement_asks_for_are_all_counted(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.add_test(1, Some(7)).await;
    for id in 1..=4 {
        let bill = Bill {
            at: day().and_hms_opt(6, 0, 0).unwrap().and_utc(),
            cancelled: id == 4,
            info: (id < 3).then_some((Some(id), None, Some(2))),
            tests: vec![(1, false), (id, id == 2)],
            samples: vec![(id, id == 1)],
        };
        db.add_bill(id, 1, &bill).await;
    }
    // Doubles them until there are 16,384 bills.
    for count in (2..14).map(|power| 1_i64 << power) {
        for doubling in [
            "INSERT INTO billing (id, lab_id, billTime, isCancelled, modified_at)
             SELECT id + ?, lab_id, billTime, isCancelled, modified_at FROM billing",
            "INSERT INTO billingInfo (billing_id, organization_id, referral_id, branch_id)
             SELECT billing_id + ?, organization_id, referral_id, branch_id FROM billingInfo",
            "INSERT INTO labReportRelation (billing_id, test_id, isCancelled)
             SELECT billing_id + ?, test_id, isCancelled FROM labReportRelation",
            "INSERT INTO collectedSample (billing_id, sampleType_id, isAccessed)
             SELECT billing_id + ?, sampleType_id, isAccessed FROM collectedSample",
        ] {
            db.execute(doubling, args![count]).await;
        }
    }
    assert_eq!(db.number("SELECT COUNT(*) FROM billing").await, 16_384);
    let now = NOW.parse().unwrap();
    db.request_rebuild(1).await;
    db.tick(now).await;
    db.drain(now).await;
    let expected = oracle::expected(&db, &[(1, chrono_tz::Asia::Kolkata)], now).await;
    assert_eq!(expected.values().max(), Some(&16_384), "one test, on the three of four bills that count");
    oracle::assert_equal(&oracle::stored(&db).await, &expected);
}

async fn a_definition_whose_facts_are_part_of_nothing_counts_the_same(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    for test in 1..=6 {
        db.add_test(test, Some(test % 2)).await;
    }
    db.fill_lab(1, day().pred_opt().unwrap(), 3, 40).await;
    let dir = definition(&[("rollup.toml", "[parts]\nsamples = \"bills\"\ntests = \"bills\"\n", "")]);
    for (file, columns, part) in [
        (
            "tests.sql",
            "labReportRelation.test_id, allTests.department_id, labReportRelation.isCancelled AS test_cancelled",
            "JOIN labReportRelation ON labReportRelation.billing_id = billing.id
             LEFT JOIN allTests ON allTests.id = labReportRelation.test_id",
        ),
        (
            "samples.sql",
            "collectedSample.sampleType_id AS sample_type_id, collectedSample.isAccessed AS accessed",
            "JOIN collectedSample ON collectedSample.billing_id = billing.id",
        ),
    ] {
        let sql = format!(
            "SELECT billing.billTime AS bill_time, billing.isCancelled AS bill_cancelled, billingInfo.organization_id,
                    billingInfo.referral_id, billingInfo.branch_id, {columns}
             FROM billing {part} LEFT JOIN billingInfo ON billingInfo.billing_id = billing.id
             WHERE billing.lab_id = :lab_id AND billing.billTime >= :from AND billing.billTime < :until"
        );
        fs::write(dir.path().join(HISTORICAL_SUMMARY).join(file), sql).unwrap();
    }
    let others = Rollups::load(Some(dir.path())).unwrap();
    assert!(others.get(HISTORICAL_SUMMARY).unwrap().facts.iter().all(|fact| fact.part_of.is_none()));
    for locking in [Locking::None, Locking::Shared] {
        let counts = counted(&db, &rollups(), locking).await.unwrap();
        assert!(counts.len() > 100, "{}", counts.len());
        assert_eq!(counted(&db, &others, locking).await.unwrap(), counts);
    }
}

async fn what_a_part_lacks_is_named(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.fill_lab(1, day(), 1, 10).await;
    for (file, from, to, column) in [
        ("tests.sql", "AS part_of", "AS bill", "part_of"),
        ("samples.sql", "AS part_of", "AS bill", "part_of"),
        ("bills.sql", "AS id", "AS bill", "id"),
        ("bills.sql", "AS branch_id", "AS branch", "branch_id"),
        ("samples.sql", "AS accessed", "AS is_accessed", "accessed"),
    ] {
        let dir = definition(&[(file, from, to)]);
        let check = run_says(&db, 2, &["--jobs-dir", dir.path().to_str().unwrap(), "rollups", "check"]);
        assert!(check.contains(&format!("{file}: the column {column} is missing from its result")), "{check}");
    }
    // A column that both have is the part's.
    let dir = definition(&[("bills.sql", "AS branch_id", "AS branch_id, 99 AS test_id")]);
    let both = Rollups::load(Some(dir.path())).unwrap();
    let counts = counted(&db, &rollups(), Locking::None).await.unwrap();
    assert_eq!(counted(&db, &both, Locking::None).await.unwrap(), counts);
    let check = run(&db, &["--jobs-dir", dir.path().to_str().unwrap(), "rollups", "check"]);
    assert_eq!(check.status.code(), Some(0), "{}", String::from_utf8_lossy(&check.stderr));
    // A part of a fact that was not asked for.
    let dir = definition(&[("tests.sql", "labReportRelation.billing_id ", "labReportRelation.billing_id + 5000000 ")]);
    let wrong = Rollups::load(Some(dir.path())).unwrap();
    let error = counted(&db, &wrong, Locking::None).await.unwrap_err();
    assert!(error.contains("tests.sql returns part_of = 6000"), "{error}");
}
