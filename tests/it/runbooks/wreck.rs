//! A database in which most things are wrong, on which the runbooks are tried again and again.

use std::time::Duration;

use chrono::NaiveDate;
use daymend::{
    args,
    queue::{
        claim, lease,
        settle::{self, Failure},
    },
};

use crate::support::{
    Engine, TestDb,
    process::{run, run_ok},
};

/// The time at which the commands run.
pub const NOW: &str = "2026-06-15T12:00:00Z";

/// The tables that are restored. The lab system's facts stay as they are.
const TABLES: [&str; 12] = [
    "daymend_jobs",
    "daymend_runs",
    "daymend_attempts",
    "daymend_workers",
    "daymend_labs",
    "daymend_migrations",
    "daymend_admin_log",
    "daymend_pauses",
    "labs",
    "operation_historical_summary",
    "operation_event_log",
    "crelio_data_migrations",
];

/// The columns of `daymend_jobs` that are not generated.
const JOB_COLUMNS: &str = "id, kind, state, sort_key, rollup, lab_id, day, attempt, attempts_max, lapses, worker_id, \
     claimed_at, rows_inserted, rows_updated, rows_deleted, error";

/// The database, and the values of the variables in the pages' commands.
#[derive(Debug)]
pub struct Wreck {
    pub db: TestDb,
    /// A failed run, one of its discarded jobs, a usable lab, and a day.
    pub variables: [(&'static str, String); 4],
}

impl Wreck {
    /// Lab 1 is fine except for drift, lab 2 has discarded jobs, lab 3 has an unknown zone, lab 4 is paused, as are
    /// rebuilds. A worker died holding a job, and one job waits after a failure.
    pub async fn new(engine: Engine) -> Self {
        let db = TestDb::new(engine).await;
        let first: NaiveDate = "2026-06-08".parse().unwrap();
        for (lab, zone) in [(1, "Asia/Kolkata"), (2, "America/New_York"), (3, "Mars/Base"), (4, "Asia/Kolkata")] {
            db.add_lab(lab, Some(zone)).await;
            db.fill_lab(lab, first, 7, 4).await;
        }
        let daymend = |arguments: &[&str]| run_ok(&db, &[&["--now", NOW], arguments].concat());
        daymend(&["queue", "pause", "--lab", "4"]);
        daymend(&["rebuild", "--lab", "1"]);
        daymend(&["scheduler", "--once"]);
        daymend(&["repair", "--day", "2026-06-10", "--to", "2026-06-12", "--lab", "2"]);
        db.execute("UPDATE labs SET labTimeZone = 'Pluto/Base' WHERE id = 2", args![]).await;
        run(&db, &["--now", NOW, "worker", "--drain"]);
        db.execute("UPDATE labs SET labTimeZone = 'America/New_York' WHERE id = 2", args![]).await;
        db.execute("UPDATE operation_historical_summary SET event_count = event_count + 1 WHERE lab_id = 1", args![])
            .await;
        daymend(&["queue", "pause", "rebuild"]);
        daymend(&["rebuild", "--lab", "1"]);
        daymend(&["scheduler", "--once"]);
        daymend(&["repair", "--day", "2026-06-08", "--to", "2026-06-13", "--lab", "1"]);
        lose_and_fail_jobs(&db).await;
        save(&db).await;
        let number = async |sql: &str| db.number(sql).await.to_string();
        let failed = "SELECT MIN(id) FROM daymend_runs WHERE state = 'failed' AND kind = 'repair'";
        let discarded = "SELECT MIN(id) FROM daymend_jobs WHERE state = 'discarded' AND kind = 'repair'";
        let (run, job) = (number(failed).await, number(discarded).await);
        let variables = [("RUN", run), ("JOB", job), ("LAB", "1".to_owned()), ("DAY", "2026-06-10".to_owned())];
        Self { db, variables }
    }

    /// Makes everything wrong again.
    pub async fn restore(&self) {
        for table in TABLES {
            self.db.execute(&format!("DELETE FROM {table}"), args![]).await;
            self.db.execute(&copy(&format!("saved_{table}"), table), args![]).await;
        }
    }
}

/// One worker dies holding a job that is rescued, another one holding a job that is not. A third fails a job that is
/// retried soon.
async fn lose_and_fail_jobs(db: &TestDb) {
    let lease = Duration::from_secs(600);
    let end = "UPDATE daymend_workers SET lease_until_us = 0 WHERE id = ?";
    let failing = lease::register(&db.db, "failing", lease).await.unwrap();
    let job = claim::claim(&db.db, failing, 1).await.unwrap().remove(0);
    let error = "bills.sql: Unknown column 'billing.billTime'".to_owned();
    let failure = Failure { error, permanent: false, backoff: Duration::from_secs(2) };
    assert!(settle::fail(&db.db, failing, &job, &failure).await.unwrap());
    lease::sign_off(&db.db, failing).await.unwrap();
    for name in ["dead", "dying"] {
        let worker = lease::register(&db.db, name, lease).await.unwrap();
        assert_eq!(claim::claim(&db.db, worker, 1).await.unwrap().len(), 1);
        db.execute(end, args![worker]).await;
        if name == "dead" {
            assert_eq!(lease::rescue(&db.db).await.unwrap(), 1);
        }
    }
}

/// Saves a copy of the tables.
async fn save(db: &TestDb) {
    for table in TABLES {
        let create = match db.engine {
            Engine::MariaDb => format!("CREATE TABLE saved_{table} LIKE {table}"),
            Engine::Sqlite => format!("CREATE TABLE saved_{table} AS SELECT * FROM {table} WHERE 1 = 0"),
        };
        db.execute(&create, args![]).await;
        db.execute(&copy(table, &format!("saved_{table}")), args![]).await;
    }
}

fn copy(from: &str, to: &str) -> String {
    if from.ends_with("daymend_jobs") {
        format!("INSERT INTO {to} ({JOB_COLUMNS}) SELECT {JOB_COLUMNS} FROM {from}")
    } else {
        format!("INSERT INTO {to} SELECT * FROM {from}")
    }
}
