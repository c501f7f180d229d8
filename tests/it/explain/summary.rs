//! How the stored rows of a lab's days are read: sequentially if they were written together.

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

on_both! {
    rows_that_were_written_together_are_read_one_after_the_other;
}

/// Adds a row per id to a lab's day; their order in the unique key is another.
async fn add_rows(db: &TestDb, lab: i64, day: &str, ids: impl Iterator<Item = i64>) {
    let ids: Vec<i64> = ids.collect();
    let row = format!("(?, {lab}, '{day}', ?, 0, 'branch_bill', 1, '{day}', '{day}')");
    let insert = "INSERT INTO operation_historical_summary (id, lab_id, ordered_at, dimension_a_id, dimension_b_id,
                      event_type, event_count, created_at, modified_at)";
    let sql = format!("{insert} VALUES {}", repeat(&row, ids.len()));
    db.execute(&sql, ids.into_iter().flat_map(|id| [id, id * 7_919 % 1_000_003].map(Arg::Int)).collect()).await;
}

/// Returns the ids of a lab's rows in order, and how many rows and index entries were read to find them.
async fn read(one: &Db, lab: i64, days: (&str, &str), expected: usize) -> (Vec<i64>, usize) {
    let days: (NaiveDate, NaiveDate) = (days.0.parse().unwrap(), days.1.parse().unwrap());
    let rollups = rollups();
    let before = rows_read(one).await;
    let mut tx = one.begin(Mode::Snapshot).await.unwrap();
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let rows = stored::read(&mut tx, rollup, lab, days, expected).await.unwrap();
    tx.commit().await.unwrap();
    let mut ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    ids.sort_unstable();
    (ids, usize::try_from(rows_read(one).await - before).unwrap())
}

async fn rows_that_were_written_together_are_read_one_after_the_other(engine: Engine) {
    const DAYS: (&str, &str) = (DAY, DAY);
    const WEEK: (&str, &str) = (DAY, "2026-03-20");
    let db = TestDb::new(engine).await;
    let one = connect(&db.url, ConnectOptions::new(1)).unwrap();
    // Lab 1 alone; 2 and 3 alternating; 4 to 8 one row of five, as triggers would; 9 alone except for its last row.
    add_rows(&db, 1, DAY, 1..=1_000).await;
    add_rows(&db, 2, DAY, (2_000..4_000).step_by(2)).await;
    add_rows(&db, 3, DAY, (2_001..4_000).step_by(2)).await;
    for lab in 4..9 {
        add_rows(&db, lab, DAY, (10_000 + lab..15_000 + lab).step_by(5)).await;
    }
    add_rows(&db, 9, DAY, (20_000..20_999).chain([900_000])).await;
    // Lab 10 with two alternating days; 11 with a week, each day interleaved with lab 12's, one id of three.
    add_rows(&db, 10, DAY, (30_000..32_000).step_by(2)).await;
    add_rows(&db, 10, "2026-03-15", (30_001..32_000).step_by(2)).await;
    for day in 14..21 {
        let first = 10_000 * day;
        add_rows(&db, 11, &format!("2026-03-{day}"), (first..first + 600).step_by(3)).await;
        add_rows(&db, 12, &format!("2026-03-{day}"), (first + 1..first + 600).step_by(3)).await;
    }
    // (lab, days, stored rows, expected rows, reads at least). Every row is found by the index of days. Rows that lie
    // together are also read by their range of ids, with the rows in between; if a sample shows that they do not, they
    // are not read twice.
    let cases = [
        (1, DAYS, 1_000, 1_000, 2_000),
        (1, DAYS, 1_000, 900, 2_000),
        (1, DAYS, 1_000, 100, 1_000),
        (1, DAYS, 1_000, 0, 1_000),
        (2, DAYS, 1_000, 1_000, 3_000),
        (4, DAYS, 1_000, 1_000, 1_000),
        (8, DAYS, 1_000, 1_000, 1_000),
        (9, DAYS, 1_000, 1_000, 2_000),
        (10, DAYS, 1_000, 1_000, 3_000),
        (10, (DAY, "2026-03-15"), 2_000, 2_000, 4_000),
        (11, WEEK, 1_400, 1_400, 1_400),
    ];
    for (lab, days, rows, expected, read_at_least) in cases {
        let sql =
            "SELECT id FROM operation_historical_summary WHERE lab_id = ? AND ordered_at BETWEEN ? AND ? ORDER BY id";
        let ids = db.rows(sql, args![lab, days.0, days.1]).await;
        let ids: Vec<i64> = ids.iter().map(|row| row.int(0).unwrap()).collect();
        read(&one, lab, days, expected).await;
        let (found, reads) = read(&one, lab, days, expected).await;
        assert_eq!((found.len(), found == ids), (rows, true), "lab {lab}");
        if engine == Engine::MariaDb {
            let bounds = read_at_least..read_at_least + 150;
            assert!(
                bounds.contains(&reads),
                "lab {lab}, {expected} of {rows} expected: {reads} rows read, not in {bounds:?}"
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
