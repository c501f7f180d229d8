//! How the rows of a lab's days are read: one after the other where they were written together.

use chrono::NaiveDate;
use daymend::{
    args,
    db::{Arg, ConnectOptions, Db, Mode, connect, repeat},
    recompute::stored::{self, Access},
    rollup::HISTORICAL_SUMMARY,
};

use super::{Step, explain, rows_read};
use crate::{
    on_both,
    support::{Engine, TestDb, work::rollups},
};

const DAY: &str = "2026-03-14";
/// How many rows each lab has.
const ROWS: usize = 1_000;

on_both! {
    rows_that_were_written_together_are_read_one_after_the_other;
}

/// Gives a lab a row of each id, whose places in the unique key are in another order.
async fn add_rows(db: &TestDb, lab: i64, ids: impl Iterator<Item = i64>) {
    let ids: Vec<i64> = ids.collect();
    let row = format!("(?, {lab}, '{DAY}', ?, 0, 'branch_bill', 1, '{DAY}', '{DAY}')");
    let insert = "INSERT INTO operation_historical_summary (id, lab_id, ordered_at, dimension_a_id, dimension_b_id,
                      event_type, event_count, created_at, modified_at)";
    let sql = format!("{insert} VALUES {}", repeat(&row, ids.len()));
    db.execute(&sql, ids.into_iter().flat_map(|id| [id, id * 7_919 % 1_000_003].map(Arg::Int)).collect()).await;
}

/// The ids of a lab's rows in order, and how many rows and index entries it took to find them.
async fn read(one: &Db, lab: i64) -> (Vec<i64>, usize) {
    let day: NaiveDate = DAY.parse().unwrap();
    let rollups = rollups();
    let before = rows_read(one).await;
    let mut tx = one.begin(Mode::Snapshot).await.unwrap();
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let rows = stored::read(&mut tx, rollup, lab, (day, day), ROWS).await.unwrap();
    tx.commit().await.unwrap();
    let mut ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    ids.sort_unstable();
    (ids, usize::try_from(rows_read(one).await - before).unwrap())
}

async fn rows_that_were_written_together_are_read_one_after_the_other(engine: Engine) {
    let db = TestDb::new(engine).await;
    let one = connect(&db.url, ConnectOptions::new(1)).unwrap();
    // By itself; by turns with another; one of five, as triggers would; and by itself but for its last row.
    add_rows(&db, 1, 1..=1_000).await;
    add_rows(&db, 2, (2_000..4_000).step_by(2)).await;
    add_rows(&db, 3, (2_001..4_000).step_by(2)).await;
    for lab in 4..9 {
        add_rows(&db, lab, (10_000 + lab..15_000 + lab).step_by(5)).await;
    }
    add_rows(&db, 9, (20_000..20_999).chain([900_000])).await;
    add_rows(&db, 10, 30_000..31_000).await;
    // Each row is read by the index of days, and, where they lie together, by their ids as well.
    for (lab, times_read) in [(1, 2), (2, 3), (4, 1), (8, 1), (9, 2), (10, 2)] {
        let ids = db.rows("SELECT id FROM operation_historical_summary WHERE lab_id = ? ORDER BY id", args![lab]).await;
        let ids: Vec<i64> = ids.iter().map(|row| row.int(0).unwrap()).collect();
        read(&one, lab).await;
        let (found, reads) = read(&one, lab).await;
        assert_eq!((found.len(), found == ids), (ROWS, true), "lab {lab}");
        if engine == Engine::MariaDb {
            let expected = times_read * ROWS;
            assert!(
                (expected..expected + ROWS / 2).contains(&reads),
                "lab {lab}: {reads} rows read, and not {expected}"
            );
        }
    }

    let rollups = rollups();
    let summary = &rollups.get(HISTORICAL_SUMMARY).unwrap().summary;
    let mut tx = db.db.begin(Mode::Write).await.unwrap();
    let mut steps = Vec::new();
    for (name, sql) in stored::statements(summary, Access::Read, db.db.dialect()) {
        let of_days = args![1_i64, DAY, DAY];
        let args =
            if name == "read summary between ids" { [args![1_i64, 1_000_i64], of_days].concat() } else { of_days };
        steps.extend(explain(&mut tx, engine, &sql, args).await.into_iter().map(|step| (name, step)));
    }
    tx.rollback().await.unwrap();
    let by = |name: &str, index: &str, access: &[&str]| {
        let is_so = |step: &Step| step.index.as_deref() == Some(index) && access.contains(&step.access.as_str());
        assert!(steps.iter().any(|(of, step)| *of == name && is_so(step)), "{name} by {index}: {steps:?}");
    };
    match engine {
        Engine::MariaDb => {
            by("read summary", "summary_key", &["range", "ref"]);
            by("read summary between ids", "PRIMARY", &["range"]);
            for name in ["sample of summary ids", "ends of summary ids"] {
                by(name, "summary_key", &["range", "ref"]);
                let is_covered = |(of, step): &(&str, Step)| *of == name && step.remarks.contains("Using index");
                assert!(steps.iter().any(is_covered), "{name}: {steps:?}");
            }
        }
        Engine::Sqlite => by("read summary", "sqlite_autoindex_operation_historical_summary_1", &["SEARCH"]),
    }
}
