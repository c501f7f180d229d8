//! The statements of the scheduler's loops, which run every second: their cost does not grow with the history.

use chrono::DateTime;
use daymend::{
    args,
    db::{Arg, ConnectOptions, Db, Mode, connect},
    queue::{JobKind, ids_of},
    rollup::HISTORICAL_SUMMARY,
    runs::JobLimits,
    scheduler::{
        Report,
        migrations::{Rebuilds, Walk},
    },
};

use super::{add_many, analyze, enqueue, explain, faults, pruning::add_old_runs, rows_read, statement};
use crate::{
    on_both,
    support::{Engine, TestDb, work::rollups},
};

on_both! {
    statements_of_every_tick_walk_an_index_and_do_not_sort;
    a_look_for_records_reads_no_more_of_many_than_of_few;
    a_day_that_was_repaired_often_is_looked_at_like_any_other;
}

/// Returns every statement of the scheduler's loops, with arguments and the index that it should use.
fn statements_of_every_tick(run: i64, record: i64) -> Vec<(&'static str, Vec<Arg>, &'static str)> {
    const PRIMARY: &str = "PRIMARY";
    let (first, last) = ids_of(run);
    vec![
        ("open runs", args![], "daymend_runs_state"),
        ("next open runs", args![0_i64, 201_i64], "daymend_runs_state"),
        ("run progress", args![first, last], PRIMARY),
        ("linked migrations", args![run], PRIMARY),
        ("hold run", args![run], PRIMARY),
        ("lock run", args![run], PRIMARY),
        ("records of run", args![run], PRIMARY),
        ("refresh migrations", args!["Running", 1_i64, record, "Running"], PRIMARY),
        ("ends of migrations", args![1_i64], PRIMARY),
        ("pending migrations", args![1_i64, 1000_i64, "HISTORICAL_SUMMARY"], PRIMARY),
        ("take migration", args!["Running", Arg::Null, Arg::Null, record, "HISTORICAL_SUMMARY"], PRIMARY),
        ("any marks", args![10_i64], PRIMARY),
        ("read marks", args![10_i64, 100_i64], PRIMARY),
        ("marked tests", args![10_i64, 100_i64], PRIMARY),
    ]
}

/// Adds records that were completed long ago.
async fn add_old_records(db: &TestDb, ids: std::ops::Range<i64>) {
    let insert = "INSERT INTO crelio_data_migrations
                      (id, lab_id, is_scheduled, job_status, initiated_by_id, migration_type, created_at, modified_at)";
    let row = "(?, 1, 0, 'Completed', 7, 'HISTORICAL_SUMMARY', '2001-01-01 00:00:00', '2001-01-01 00:00:00')";
    add_many(db, insert, row, ids).await;
}

async fn statements_of_every_tick_walk_an_index_and_do_not_sort(engine: Engine) {
    let db = TestDb::new(engine).await;
    let run = enqueue(&db, JobKind::Rebuild, 1..=2, 100).await;
    add_old_runs(&db, 1_000).await;
    add_old_records(&db, 1..3_000).await;
    add_many(&db, "INSERT INTO daymend_migrations (migration_id, run_id)", "(?, 1000)", 1..3_000).await;
    db.execute("UPDATE daymend_migrations SET run_id = ? WHERE migration_id = 2999", args![run]).await;
    db.execute("UPDATE daymend_migrations SET run_id = migration_id + 5000 WHERE migration_id < 2999", args![]).await;
    let marks = "INSERT INTO daymend_dirty (id, lab_id, bill_time, marked_at)";
    add_many(&db, marks, "(?, 1, '2026-01-01 00:00:00', '2026-01-01 00:00:00')", 1..3_000).await;
    analyze(&db).await;
    let mut tx = db.db.begin(Mode::Write).await.unwrap();
    let mut faulty = Vec::new();
    for (name, args, index) in statements_of_every_tick(run, 2_999) {
        let steps = explain(&mut tx, engine, statement(name).sql(db.db.dialect()), args).await;
        faulty.extend(faults(&steps, index).into_iter().map(|fault| format!("{name}: {fault}")));
    }
    tx.rollback().await.unwrap();
    assert!(faulty.is_empty(), "{}", faulty.join("\n"));
}

/// Looks for pending records once, and returns the labs that were refused and the number of rows read.
async fn first_look(db: &Db) -> (Vec<i64>, i64) {
    let rollups = rollups();
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let rebuilds = Rebuilds { db, rollup, limits: JobLimits::any_shrink(3), now: DateTime::UNIX_EPOCH };
    let mut report = Report::default();
    let before = rows_read(db).await;
    rebuilds.take_pending(Walk::default(), &mut report).await.unwrap();
    (report.refused.into_keys().collect(), rows_read(db).await - before)
}

async fn a_look_for_records_reads_no_more_of_many_than_of_few(engine: Engine) {
    let db = TestDb::new(engine).await;
    let one = connect(&db.url, ConnectOptions::new(1)).unwrap();
    add_old_records(&db, 1..3_001).await;
    // The first time, tables have to be opened.
    first_look(&one).await;
    let (_, few) = first_look(&one).await;
    add_old_records(&db, 3_001..9_001).await;
    let (_, many) = first_look(&one).await;
    assert!(many <= few + 10, "{many} rows read, and {few} of few records");
    // A new record is found at once, and an old one that was requested again is found in the end. Neither lab exists.
    db.request_rebuild(77).await;
    db.execute("UPDATE crelio_data_migrations SET job_status = 'Pending', is_scheduled = 1 WHERE id = 4444", args![])
        .await;
    assert_eq!(first_look(&one).await.0, [77]);
    let report = db.tick(DateTime::UNIX_EPOCH).await;
    assert_eq!(report.refused.into_keys().collect::<Vec<_>>(), [1]);
    assert!(db.record_status(4_444).await.starts_with("Failed"));
}

async fn a_day_that_was_repaired_often_is_looked_at_like_any_other(engine: Engine) {
    let db = TestDb::new(engine).await;
    let one = connect(&db.url, ConnectOptions::new(1)).unwrap();
    // Three thousand runs that have ended, each of which has repaired 1 January 1990 of lab 1.
    add_old_runs(&db, 1_000).await;
    // Two of late changes, and somebody's of the same days.
    for (lab, name) in [(1, "Late-Changes run 1"), (2, "Late-Changes run 2"), (3, "Somebody's run 3")] {
        let run = enqueue(&db, JobKind::Repair, lab..=lab, 5).await;
        db.execute("UPDATE daymend_runs SET event_name = ? WHERE id = ?", args![name, run]).await;
    }
    analyze(&db).await;
    let args = || args!["Late-Changes run %", HISTORICAL_SUMMARY];
    let waiting = statement("jobs waiting for marked days");
    let mut read = 0;
    // The first time, tables have to be opened.
    for _ in 0..2 {
        let before = rows_read(&one).await;
        let mut tx = one.begin(Mode::Write).await.unwrap();
        let labs: Vec<i64> = tx.fetch_all(waiting, args(), |row| row.int(0)).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(labs, [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]);
        read = rows_read(&one).await - before;
    }
    // SQLite does not say how many rows it reads.
    assert_eq!(read > 0, engine == Engine::MariaDb);
    assert!(read < 40, "{read} rows read");
    let mut tx = db.db.begin(Mode::Write).await.unwrap();
    let steps = explain(&mut tx, engine, waiting.sql(db.db.dialect()), args()).await;
    tx.rollback().await.unwrap();
    if engine == Engine::Sqlite {
        assert!(steps.iter().all(|step| step.access == "SEARCH"), "{steps:?}");
    }
}
