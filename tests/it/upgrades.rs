//! `daymend migrate` on a database of an earlier version that is in use: it keeps every row, leaves the schema of a new
//! database, and what was under way goes on.

use std::{collections::BTreeMap, fs, time::Duration};

use chrono_tz::Asia::Kolkata;
use daymend::{
    args,
    db::{Mode, Query},
};

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        lab_system::Bill,
        oracle,
        process::{Process, command, run_fails, run_ok},
        wait_until,
    },
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LIMIT: Duration = Duration::from_secs(90);
const SCHEMA: i32 = 5;

/// The versions, oldest first.
const VERSIONS: [&str; 6] = ["queue", "admin", "audits", "dirty", "limits", "snapshots"];

on_both! {
    an_earlier_schema_becomes_the_schema_of_a_new_database;
    whatever_was_under_way_before_an_upgrade_is_completed_after_it;
}

/// What each version's own tables hold: a repair of 10 and 11 June, whose first job was running when its worker died, a
/// rebuild of 12 and 13 June with its migration record, yesterday's nightly run, and a mark of lab 2.
const ROWS: [&[&str]; 5] = [
    &[
        "INSERT INTO daymend_workers (id, name, version, started_at, heartbeat_at, lease_until_us)
         VALUES (1, 'old pod', '0.0.9', '2026-06-15 08:00:00', '2026-06-15 08:00:30', 1000000)",
        "INSERT INTO daymend_runs (id, rollup, kind, state, reason, requested_by, time_zone, lab_id, first_day,
                                   last_day, as_of, event_name, created_at, finished_at)
         VALUES (1, 'historical_summary', 'repair', 'running', 'by hand', 'somebody', NULL, NULL, '2026-06-10',
                 '2026-06-11', '2026-06-15 08:00:00', 'Nightly-Operation-Summary by hand', '2026-06-15 08:00:00', NULL),
                (2, 'historical_summary', 'rebuild', 'running', 'record 1', 'user 7', NULL, 1, '2026-06-12',
                 '2026-06-13', '2026-06-15 08:00:00', 'Rebuild of lab 1', '2026-06-15 08:00:00', NULL),
                (3, 'historical_summary', 'nightly', 'completed', 'Asia/Kolkata', 'daymend', 'Asia/Kolkata', NULL,
                 '2026-06-13', '2026-06-13', '2026-06-14 04:00:00', 'Nightly-Operation-Summary Kolkata',
                 '2026-06-14 04:00:00', '2026-06-14 04:00:01')",
        "INSERT INTO daymend_jobs (id, kind, state, sort_key, rollup, lab_id, day, attempt, attempts_max, worker_id,
                                   claimed_at, rows_inserted, rows_updated, rows_deleted, error)
         VALUES (100000000, 'repair', 'running', 1, 'historical_summary', 1, '2026-06-10', 1, 5, 1,
                 '2026-06-15 08:00:01', NULL, NULL, NULL, NULL),
                (100000001, 'repair', 'available', 2, 'historical_summary', 1, '2026-06-11', 2, 5, 1,
                 '2026-06-15 08:00:02', NULL, NULL, NULL, 'the disk was full'),
                (200000000, 'rebuild', 'available', 1, 'historical_summary', 1, '2026-06-12', 0, 5, NULL, NULL, NULL,
                 NULL, NULL, NULL),
                (200000001, 'rebuild', 'available', 2, 'historical_summary', 1, '2026-06-13', 0, 5, NULL, NULL, NULL,
                 NULL, NULL, NULL),
                (300000000, 'nightly', 'completed', 1781409601000000, 'historical_summary', 1, '2026-06-13', 1, 5, 1,
                 '2026-06-14 04:00:00', 3, 2, 1, NULL)",
        "INSERT INTO daymend_attempts (id, job_id, attempt, worker_id, started_at, ended_at, outcome, error)
         VALUES (1, 100000001, 1, 1, '2026-06-15 08:00:02', '2026-06-15 08:00:03', 'failed', 'the disk was full')",
        "INSERT INTO daymend_labs VALUES ('historical_summary', 1, '2026-06-13', 'Asia/Kolkata'),
                                         ('historical_summary', 2, '2026-06-13', 'Asia/Kolkata')",
        "INSERT INTO crelio_data_migrations (id, lab_id, is_scheduled, start_date, end_date, job_status,
                                             initiated_by_id, migration_type, created_at, modified_at)
         VALUES (1, 1, 0, '2026-06-12', '2026-06-13', 'Running (0/2)', 7, 'HISTORICAL_SUMMARY', '2026-06-15 07:59:00',
                 '2026-06-15 08:00:00')",
        "INSERT INTO daymend_migrations (migration_id, run_id) VALUES (1, 2)",
        "INSERT INTO operation_event_log (event_name, status, created_at)
         VALUES ('Nightly-Operation-Summary by hand', 'STARTED', '2026-06-15 08:00:00'),
                ('Rebuild of lab 1', 'STARTED', '2026-06-15 08:00:00')",
    ],
    &[
        "INSERT INTO daymend_pauses VALUES ('lab:99', 99, '2026-06-01 00:00:00', 'somebody')",
        "INSERT INTO daymend_admin_log (id, at, who, action, filter, jobs)
         VALUES (1, '2026-06-01 00:00:00', 'somebody', 'pause', '--lab 99', 0)",
    ],
    &[
        "INSERT INTO daymend_audits (id, rollup, night, state, turn, spent_ms, days_audited, days_drifted, differences,
                                     started_at, finished_at)
         VALUES (1, 'historical_summary', '2026-06-14', 'completed', 1, 1500, 30, 1, 2, '2026-06-14 04:30:00',
                 '2026-06-14 04:31:00')",
        "INSERT INTO daymend_audit_days VALUES (1, 2, '2026-06-01', 'ghost', 2)",
        "INSERT INTO daymend_audit_labs
         VALUES ('historical_summary', 2, '2026-06-05', '2026-06-13 04:30:00', '2026-06-12 04:30:00', NULL)",
    ],
    &["INSERT INTO daymend_dirty (id, lab_id, bill_time, bill_id, test_id, marked_at)
       VALUES (1, 2, '2026-06-10 06:00:00', NULL, NULL, '2026-06-15 08:00:00')"],
    &[
        "UPDATE daymend_runs SET max_shrink = 30 WHERE id = 1",
        "UPDATE daymend_workers SET throttled = 'a replica lags' WHERE id = 1",
    ],
];

/// Creates the schema of an earlier version, as its `migrate` did.
async fn at_version(engine: Engine, version: usize) -> TestDb {
    let db = TestDb::source_only(engine).await;
    let kind = if engine == Engine::MariaDb { "mysql" } else { "sqlite" };
    let record = "CREATE TABLE daymend_schema (version INT NOT NULL PRIMARY KEY, name VARCHAR(64) NOT NULL,
                                               applied_at DATETIME(6) NOT NULL)";
    db.execute(record, args![]).await;
    for (number, name) in (1_i64..).zip(VERSIONS).take(version) {
        let file = fs::read_to_string(format!("migrations/{kind}/{number:04}_{name}.sql")).unwrap();
        db.execute_script(&file).await;
        let applied = "INSERT INTO daymend_schema VALUES (?, ?, '2026-05-01 00:00:00')";
        db.execute(applied, args![number, name]).await;
    }
    db
}

/// Creates a database in use: bills of two labs, of which nothing is in the summary yet, and the version's own rows.
async fn in_use(engine: Engine, version: usize) -> TestDb {
    let db = at_version(engine, version).await;
    for lab in [1, 2] {
        db.add_lab(lab, Some(Kolkata.name())).await;
    }
    db.fill_lab(1, "2026-06-10".parse().unwrap(), 5, 5).await;
    let at = "2026-06-10T06:00:00Z".parse().unwrap();
    db.add_bill(1, 2, &Bill { at, info: Some((Some(1), Some(2), None)), ..Bill::default() }).await;
    for sql in ROWS.iter().take(version).copied().flatten() {
        db.execute(sql, args![]).await;
    }
    db
}

/// Reads the columns and the indexes of daymend's own tables.
async fn schema(db: &TestDb) -> Vec<String> {
    let sql = match db.engine {
        Engine::MariaDb => {
            "SELECT CONCAT_WS(' ', table_name, column_name, column_type, is_nullable, collation_name, extra)
             FROM information_schema.columns
             WHERE table_schema = DATABASE() AND table_name LIKE 'daymend\\_%'
             UNION ALL
             SELECT CONCAT_WS(' ', table_name, index_name, seq_in_index, column_name, non_unique)
             FROM information_schema.statistics
             WHERE table_schema = DATABASE() AND table_name LIKE 'daymend\\_%'"
        }
        Engine::Sqlite => {
            "SELECT tables.name || ' ' || info.name || ' ' || info.type || ' ' || info.\"notnull\" || ' ' || info.pk
             FROM sqlite_master AS tables JOIN pragma_table_xinfo(tables.name) AS info
             WHERE tables.type = 'table' AND tables.name LIKE 'daymend%'
             UNION ALL
             SELECT name || ' ' || COALESCE(sql, '') FROM sqlite_master
             WHERE type = 'index' AND tbl_name LIKE 'daymend%'"
        }
    };
    let mut lines: Vec<String> = db.rows(sql, args![]).await.iter().map(|row| row.text(0).unwrap()).collect();
    lines.sort_unstable();
    lines
}

async fn an_earlier_schema_becomes_the_schema_of_a_new_database(engine: Engine) {
    let new = schema(&TestDb::new(engine).await).await;
    assert!(new.iter().any(|line| line.starts_with("daymend_snapshots ")), "{new:?}");
    for version in 1..VERSIONS.len() {
        let db = in_use(engine, version).await;
        let error = run_fails(&db, SCHEMA, &["runs", "list"]);
        let expected = format!("schema version {version}, this binary needs 6: run `daymend migrate`");
        assert!(error.contains(&expected), "{error}");
        let mut before = BTreeMap::new();
        for table in db.tables().await.into_iter().filter(|table| table != "daymend_schema") {
            let columns = db.columns(&table).await;
            let rows = db.dump_of(&table, &columns, "1 = 1").await;
            assert!(!table.starts_with("daymend") || !rows.is_empty(), "{table} holds nothing");
            before.insert(table, (columns, rows));
        }
        let applied: String = (version + 1..)
            .zip(&VERSIONS[version..])
            .map(|(number, name)| format!("applied version {number} ({name})\n"))
            .collect();
        assert_eq!(run_ok(&db, &["migrate"]), applied);
        for (table, (columns, rows)) in before {
            assert_eq!(db.dump_of(&table, &columns, "1 = 1").await, rows, "version {version}: {table}");
        }
        assert_eq!(schema(&db).await, new, "version {version}");
        // The new columns say nothing about old rows.
        let of_version_5 = i64::from(version >= 5);
        let said =
            "SELECT (SELECT COUNT(max_shrink) FROM daymend_runs) + (SELECT COUNT(throttled) FROM daymend_workers)";
        assert_eq!(db.number(said).await, 2 * of_version_5, "version {version}");
    }
}

/// While somebody else's transaction keeps an ALTER waiting, heartbeats pass it, and it succeeds in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_has_to_wait_keeps_no_heartbeat_waiting() {
    let db = in_use(Engine::MariaDb, 4).await;
    let mut user = db.admin.begin(Mode::Write).await.unwrap();
    user.fetch_all(Query::new("test", "SELECT id FROM daymend_runs"), args![], |_| Ok(())).await.unwrap();
    let mut migrate = command(&db, &["migrate"]);
    let migrate = tokio::task::spawn_blocking(move || migrate.output().unwrap());
    let waiting = "SELECT COUNT(*) FROM information_schema.processlist
                   WHERE info LIKE '%ALTER TABLE daymend_runs%' AND state = 'Waiting for table metadata lock'";
    wait_until("the ALTER to wait", LIMIT, async || db.number(waiting).await == 1).await;
    tokio::time::timeout(LIMIT, db.number("SELECT COUNT(*) FROM daymend_runs")).await.expect("it passes the ALTER");
    assert!(!migrate.is_finished(), "{:?}", migrate.await);
    user.rollback().await.unwrap();
    let output = migrate.await.unwrap();
    assert!(output.status.success(), "{output:?}");
}

async fn whatever_was_under_way_before_an_upgrade_is_completed_after_it(engine: Engine) {
    for version in [1, 4, 5] {
        let db = in_use(engine, version).await;
        run_ok(&db, &["migrate"]);
        let _serve = Process::start(&db, &["--now", NOW, "serve", "--audit-budget", "0s"]);
        // Yesterday's nightly run is new, and so is the repair of the mark, if there is one.
        let runs = 4 + i64::from(version >= 4);
        wait_until("every run to end", LIMIT, async || {
            db.number("SELECT COUNT(*) FROM daymend_runs WHERE state = 'completed'").await == runs
        })
        .await;
        assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs").await, runs, "version {version}");
        assert_eq!(db.marks().await, 0);
        assert_eq!(db.record_status(1).await, "Completed");
        let ended = "SELECT COUNT(*) FROM operation_event_log WHERE status = 'COMPLETED'
                     AND event_name IN ('Nightly-Operation-Summary by hand', 'Rebuild of lab 1')";
        assert_eq!(db.number(ended).await, 2);
        // The job whose worker died is tried again, with the attempt that it had begun.
        let jobs = db.rows("SELECT attempt, lapses FROM daymend_jobs WHERE id < 200000000 ORDER BY id", args![]).await;
        let jobs: Vec<_> = jobs.iter().map(|row| (row.int(0).unwrap(), row.int(1).unwrap())).collect();
        assert_eq!(jobs, [(1, 1), (3, 0)]);
        let labs = [(1, Kolkata), (2, Kolkata)];
        let labs = if version >= 4 { &labs[..] } else { &labs[..1] };
        let expected = oracle::expected(&db, labs, NOW.parse().unwrap()).await;
        oracle::assert_equal(&oracle::stored(&db).await, &expected);
    }
}
