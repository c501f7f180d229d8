//! Stored rows as a text a day: the same rows as one by one, and none where the text is not whole.

use std::collections::BTreeSet;

use chrono::NaiveDate;
use daymend::{
    args,
    db::{ConnectOptions, Mode, Query, Tx, connect},
    recompute::{
        packed,
        stored::{self, StoredRow},
    },
    rollup::HISTORICAL_SUMMARY,
};

use crate::{
    on_both,
    support::{Engine, TestDb, work::rollups},
};

on_both! {
    a_text_has_the_rows_of_its_days;
    rows_that_no_text_can_hold_are_read_one_by_one;
}

const DAYS: [&str; 2] = ["2026-06-10", "2026-06-11"];

type Cells = (i64, NaiveDate, Option<i64>, Option<i64>, String, i64);

fn days() -> (NaiveDate, NaiveDate) {
    (DAYS[0].parse().unwrap(), DAYS[1].parse().unwrap())
}

fn cells(rows: Vec<StoredRow>) -> BTreeSet<Cells> {
    rows.into_iter().map(|row| (row.id, row.day, row.a, row.b, row.event, row.count)).collect()
}

/// What the table holds of lab 1 on the days, asked for here.
async fn in_the_table(db: &TestDb) -> BTreeSet<Cells> {
    let sql = "SELECT id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count
               FROM operation_historical_summary WHERE lab_id = 1 AND ordered_at IN (?, ?)";
    let rows = db.rows(sql, args![DAYS[0], DAYS[1]]).await;
    let cells = rows.iter().map(|row| {
        (
            row.int(0).unwrap(),
            row.date(1).unwrap(),
            row.int_or_null(2).unwrap(),
            row.int_or_null(3).unwrap(),
            row.text(4).unwrap(),
            row.int(5).unwrap(),
        )
    });
    cells.collect()
}

/// The rows as texts, and by whatever way a recompute reads them.
async fn read(tx: &mut Tx) -> (Option<BTreeSet<Cells>>, BTreeSet<Cells>) {
    let rollups = rollups();
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let texts = packed::read(tx, rollup, 1, days()).await.unwrap();
    (texts.map(cells), cells(stored::read(tx, rollup, 1, days()).await.unwrap()))
}

/// Two days of rows, beside rows of another lab and of other days.
async fn two_days(engine: Engine) -> TestDb {
    let db = TestDb::new(engine).await;
    for (lab, day) in [(1, DAYS[0]), (1, DAYS[1]), (1, "2026-06-09"), (1, "2026-06-12"), (2, DAYS[0])] {
        for a in 1..=200 {
            db.add_summary_row(lab, day, a, 1000 * a, "organization_test", 3 * a).await;
            db.add_summary_row(lab, day, a, -1, "branch_bill", a).await;
        }
    }
    db
}

async fn a_text_has_the_rows_of_its_days(engine: Engine) {
    let db = two_days(engine).await;
    for (event, count) in [("Somebody else's", 5), ("größer", -7), ("a b", 0), ("", 1)] {
        db.add_summary_row(1, DAYS[1], i64::MAX, i64::MIN, event, count).await;
    }
    let right = in_the_table(&db).await;
    assert_eq!(right.len(), 804);
    let mut tx = db.db.begin(Mode::Snapshot).await.unwrap();
    let (texts, rows) = read(&mut tx).await;
    assert!(rows == right && texts == (engine == Engine::MariaDb).then_some(right));
    tx.commit().await.unwrap();
    db.execute("DELETE FROM operation_historical_summary", args![]).await;
    let mut tx = db.db.begin(Mode::Snapshot).await.unwrap();
    let (texts, rows) = read(&mut tx).await;
    assert_eq!((texts, rows), ((engine == Engine::MariaDb).then(BTreeSet::new), BTreeSet::new()));
    tx.commit().await.unwrap();
}

async fn rows_that_no_text_can_hold_are_read_one_by_one(engine: Engine) {
    let db = two_days(engine).await;
    let right = in_the_table(&db).await;
    if engine == Engine::MariaDb {
        // Cut short between two rows, and within the last of them.
        let longest = "SELECT CAST(MAX(text) AS SIGNED) FROM (SELECT SUM(CHAR_LENGTH(CONCAT_WS(' ', id, dimension_a_id,
                           dimension_b_id, event_count, event_type, ''))) AS text
                       FROM operation_historical_summary WHERE lab_id = 1 AND ordered_at BETWEEN '2026-06-10' AND '2026-06-11'
                       GROUP BY ordered_at) AS texts";
        let longest = db.number(longest).await;
        for (length, is_whole) in [(longest, true), (longest - 1, false), (longest / 2, false), (4, false)] {
            // A connection of its own: what is prepared keeps the limit that it was prepared with.
            let one = connect(&db.url, ConnectOptions::new(1)).unwrap();
            let mut tx = one.begin(Mode::Snapshot).await.unwrap();
            let cut = format!("SET SESSION group_concat_max_len = {length}");
            tx.execute(Query::new("cut", cut), args![]).await.unwrap();
            let (texts, rows) = read(&mut tx).await;
            assert!(texts.as_ref() == is_whole.then_some(&right), "{length} of {longest}");
            assert!(rows == right, "{length} of {longest}");
            tx.commit().await.unwrap();
            one.close().await;
        }
    }
    let of_nobody = [("9 9 9;1 1 1 1 branch_bill", 1), (";", 2)];
    for (event, a) in of_nobody {
        db.add_summary_row(1, DAYS[0], a, 5, event, 9).await;
        let right = in_the_table(&db).await;
        let mut tx = db.db.begin(Mode::Snapshot).await.unwrap();
        let (texts, rows) = read(&mut tx).await;
        assert!(texts.is_none() && rows == right, "{event}");
        tx.commit().await.unwrap();
        db.execute("DELETE FROM operation_historical_summary WHERE event_count = 9 AND dimension_b_id = 5", args![])
            .await;
    }
    if engine == Engine::MariaDb {
        for column in ["dimension_a_id BIGINT", "dimension_b_id BIGINT", "event_count INT"] {
            db.execute(&format!("ALTER TABLE operation_historical_summary MODIFY {column} NULL"), args![]).await;
            let name = column.split(' ').next().unwrap();
            let some = format!("UPDATE operation_historical_summary SET {name} = NULL WHERE dimension_a_id = 7");
            assert!(db.execute(&some, args![]).await > 0);
            let mut tx = db.db.begin(Mode::Snapshot).await.unwrap();
            let (texts, rows) = read(&mut tx).await;
            assert_eq!((texts, rows.len()), (None, right.len()), "{name}");
            tx.commit().await.unwrap();
            db.execute(&format!("UPDATE operation_historical_summary SET {name} = 7 WHERE {name} IS NULL"), args![])
                .await;
        }
    }
}
