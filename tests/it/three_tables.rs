//! daymend writes to three tables of the lab system and to no others, and there only what it has to: nothing else
//! differs after a `serve` that rebuilt, repaired, audited and took a snapshot.

use std::{collections::BTreeMap, time::Duration};

use chrono_tz::{America::New_York, Asia::Kolkata};
use daymend::args;

use crate::{
    on_both,
    support::{
        Engine, TestDb, oracle,
        process::{Process, run_ok},
        wait_until,
    },
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LIMIT: Duration = Duration::from_secs(90);
const OUTPUTS: [&str; 3] = ["operation_historical_summary", "operation_event_log", "crelio_data_migrations"];

on_both! {
    serve_writes_to_three_tables_and_to_no_others;
}

/// Reads every table that is neither daymend's own nor one of the three.
async fn others(db: &TestDb) -> BTreeMap<String, Vec<String>> {
    let mut others = BTreeMap::new();
    for table in db.tables().await {
        if !table.starts_with("daymend_") && !OUTPUTS.contains(&table.as_str()) {
            let rows = db.dump(&table).await;
            assert!(!rows.is_empty(), "{table} has no rows that could change");
            others.insert(table, rows);
        }
    }
    others
}

/// Reads the definitions of all tables and triggers of the lab system.
async fn definitions(db: &TestDb) -> Vec<String> {
    let sql = match db.engine {
        Engine::MariaDb => {
            "SELECT CONCAT_WS(' ', table_name, ordinal_position, column_name, column_type, is_nullable)
             FROM information_schema.columns
             WHERE table_schema = DATABASE() AND table_name NOT LIKE 'daymend\\_%'
             UNION ALL
             SELECT CONCAT_WS(' ', trigger_name, action_statement) FROM information_schema.triggers
             WHERE trigger_schema = DATABASE()"
        }
        Engine::Sqlite => {
            "SELECT name || ' ' || COALESCE(sql, '') FROM sqlite_master WHERE tbl_name NOT LIKE 'daymend%'"
        }
    };
    let mut lines: Vec<String> = db.rows(sql, args![]).await.iter().map(|row| row.text(0).unwrap()).collect();
    lines.sort_unstable();
    lines
}

async fn serve_writes_to_three_tables_and_to_no_others(engine: Engine) {
    let db = TestDb::new(engine).await;
    for test in 1..=10 {
        db.add_test(test, (test % 5 != 0).then_some(test % 3)).await;
    }
    let labs = [(1, Kolkata), (2, New_York)];
    for (lab, zone) in labs {
        db.add_lab(lab, Some(zone.name())).await;
        db.fill_lab(lab, "2026-06-01".parse().unwrap(), 14, 6).await;
    }
    db.execute("CREATE TABLE visitors (id INT NOT NULL PRIMARY KEY, said VARCHAR(20) NOT NULL)", args![]).await;
    db.execute("INSERT INTO visitors VALUES (1, 'good morning'), (2, '')", args![]).await;
    // The rows of somebody else in the three tables.
    let theirs = "INSERT INTO operation_event_log (event_name, status, created_at)
                  VALUES ('Invoices', 'STARTED', '2026-06-01 00:00:00')";
    db.execute(theirs, args![]).await;
    let theirs = "INSERT INTO crelio_data_migrations
                      (id, lab_id, is_scheduled, job_status, initiated_by_id, migration_type, created_at, modified_at)
                  VALUES (50, 1, 1, 'Pending', 9, 'INVOICES', '2026-06-01 00:00:00', '2026-06-01 00:00:00')";
    db.execute(theirs, args![]).await;
    // The first lab has wrong counts up to 3 June and no rows from 7 June on; the second is right.
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-05-31", "--to", "2026-06-06", "--lab", "1"]);
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-05-31", "--to", "2026-06-14", "--lab", "2"]);
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    let wrong = "UPDATE operation_historical_summary SET event_count = event_count + 5
                 WHERE lab_id = 1 AND ordered_at < '2026-06-04'";
    assert!(db.execute(wrong, args![]).await > 20);
    run_ok(&db, &["triggers", "install"]);
    // A late change, which serve repairs, and a rebuild of the first lab.
    let late = "UPDATE billing SET isCancelled = 1 WHERE lab_id = 2 AND isCancelled = 0
                AND billTime BETWEEN '2026-06-05 12:00:00' AND '2026-06-05 23:00:00'";
    assert!(db.execute(late, args![]).await > 0);
    let record = db.request_rebuild(1).await;

    let (before, defined) = (others(&db).await, definitions(&db).await);
    assert_eq!(before.len(), 7, "six source tables and the visitors");
    let right =
        "lab_id = 2 AND ordered_at <> '2026-06-05' OR lab_id = 1 AND ordered_at BETWEEN '2026-06-04' AND '2026-06-06'";
    let right_rows = db.dump_of(OUTPUTS[0], &db.columns(OUTPUTS[0]).await, right).await;
    let fixed = ["id", "lab_id", "ordered_at", "dimension_a_id", "dimension_b_id", "event_type", "created_at"];
    let fixed = fixed.map(str::to_owned);
    let corrected = "lab_id = 1 AND ordered_at < '2026-06-04'";
    let corrected_rows = db.dump_of(OUTPUTS[0], &fixed, corrected).await;
    let requested = ["id", "lab_id", "initiated_by_id", "migration_type", "created_at"].map(str::to_owned);
    let requests = db.dump_of(OUTPUTS[2], &requested, "1 = 1").await;
    let (events, records) = (db.columns(OUTPUTS[1]).await, db.columns(OUTPUTS[2]).await);
    let theirs = [
        db.dump_of(OUTPUTS[1], &events, "event_name = 'Invoices'").await,
        db.dump_of(OUTPUTS[2], &records, "id = 50").await,
    ];

    let snapshots = tempfile::tempdir().unwrap();
    let place = snapshots.path().to_str().unwrap();
    let serve = ["--now", NOW, "serve", "--lookback-days", "3", "--audit-repair", "--snapshot-to", place];
    let serve = Process::start(&db, &serve);
    wait_until("all of its work", LIMIT, async || {
        db.record_status(record).await == "Completed"
            && db.marks().await == 0
            && db.number("SELECT COUNT(*) FROM daymend_audits WHERE state = 'completed'").await == 1
            && db.number("SELECT COUNT(*) FROM daymend_snapshots WHERE state = 'done'").await == 1
            && db.number("SELECT COUNT(*) FROM daymend_runs WHERE reason LIKE 'late changes%'").await == 1
            && db.number("SELECT COUNT(*) FROM daymend_runs WHERE state = 'running'").await == 0
    })
    .await;
    drop(serve);
    oracle::assert_equal(&oracle::stored(&db).await, &oracle::expected(&db, &labs, NOW.parse().unwrap()).await);

    assert_eq!(others(&db).await, before);
    assert_eq!(definitions(&db).await, defined);
    assert_eq!(
        db.dump_of(OUTPUTS[0], &db.columns(OUTPUTS[0]).await, right).await,
        right_rows,
        "right rows are only read"
    );
    assert_eq!(db.dump_of(OUTPUTS[0], &fixed, corrected).await, corrected_rows, "counts are corrected in place");
    assert_eq!(db.dump_of(OUTPUTS[2], &requested, "1 = 1").await, requests);
    let now = [
        db.dump_of(OUTPUTS[1], &events, "event_name = 'Invoices'").await,
        db.dump_of(OUTPUTS[2], &records, "id = 50").await,
    ];
    assert_eq!(now, theirs);
}
