//! Correct histories, and what the audit finds in them after they have been damaged.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use daymend::{
    args,
    audit::{
        self, Scope,
        cause::{Cause, Finding},
        report::Report,
    },
    db::Mode,
    rollup::HISTORICAL_SUMMARY,
};

use super::{Engine, TestDb, lab_system::Bill, oracle, work::rollups};

/// Noon of an ordinary day.
pub const NOW: &str = "2026-06-15T12:00:00Z";

pub const KOLKATA: i64 = 1;
pub const NEW_YORK: i64 = 2;

/// The labs of [`histories`], in the form that the oracle takes.
pub const LABS: [(i64, Tz); 2] = [(KOLKATA, Tz::Asia__Kolkata), (NEW_YORK, Tz::America__New_York)];

pub fn now() -> DateTime<Utc> {
    NOW.parse().unwrap()
}

pub fn date(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

/// Creates two labs with bills on every day from 1 to 14 June, and a summary that equals them.
pub async fn histories(engine: Engine) -> TestDb {
    let db = TestDb::new(engine).await;
    for test in 1..10 {
        db.add_test(test, Some(test % 3)).await;
    }
    for (lab, zone) in LABS {
        db.add_lab(lab, Some(zone.name())).await;
        db.fill_lab(lab, date("2026-06-01"), 14, 5).await;
        // A lab's days are not UTC's: ensures that no bill lies before the 1st or after the 14th, and one lies on each.
        let outside = "DELETE FROM billing WHERE billTime < '2026-06-01 06:00:00' OR billTime >= '2026-06-14 18:00:00'";
        db.execute(outside, args![]).await;
        for (bill, at) in [(1, "2026-06-01T12:00:00Z"), (2, "2026-06-14T12:00:00Z")] {
            let at = at.parse().unwrap();
            db.add_bill(lab * 1000 + bill, lab, &Bill { at, info: Some((Some(1), None, None)), ..Bill::default() })
                .await;
        }
    }
    db.store(&oracle::expected(&db, &LABS, now()).await).await;
    db
}

impl TestDb {
    /// Writes summary rows.
    pub async fn store(&self, rows: &BTreeMap<oracle::Key, i64>) {
        let mut tx = self.db.begin(Mode::Write).await.expect("begin");
        for ((lab, day, a, b, event), count) in rows {
            let sql = "INSERT INTO operation_historical_summary
                 (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at)
                 VALUES (?, ?, ?, ?, ?, ?, '2026-01-01 00:00:00', '2026-01-01 00:00:00')";
            let row = args![*lab, *day, *a, *b, event.as_str(), *count];
            tx.execute(daymend::db::Query::new("store", sql), row).await.expect("a row");
        }
        tx.commit().await.expect("commit");
    }

    /// Recreates the summary table with nullable dimensions and event types, and with or without its unique key; the rows
    /// are kept.
    pub async fn loosen_summary(&self, has_key: bool) {
        let rows = oracle::stored(self).await;
        self.execute("DROP TABLE operation_historical_summary", vec![]).await;
        let (id, text, moment) = match self.engine {
            Engine::MariaDb => ("BIGINT AUTO_INCREMENT PRIMARY KEY", "VARCHAR(64)", "DATETIME(6)"),
            Engine::Sqlite => ("INTEGER PRIMARY KEY AUTOINCREMENT", "TEXT", "TEXT"),
        };
        let day = if self.engine == Engine::MariaDb { "DATE" } else { "TEXT" };
        let key =
            if has_key { ", UNIQUE (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type)" } else { "" };
        let sql = format!(
            "CREATE TABLE operation_historical_summary (
                 id {id}, lab_id BIGINT NOT NULL, ordered_at {day} NOT NULL, dimension_a_id BIGINT NULL,
                 dimension_b_id BIGINT NULL, event_type {text} NULL, event_count INT NOT NULL,
                 created_at {moment} NOT NULL, modified_at {moment} NOT NULL{key})"
        );
        self.execute(&sql, vec![]).await;
        self.store(&rows).await;
    }

    /// Audits everything.
    pub async fn audit(&self) -> Report {
        self.audit_of(&Scope::default()).await
    }

    /// Audits `scope`, and reports every row that differs.
    pub async fn audit_of(&self, scope: &Scope) -> Report {
        let rollups = rollups();
        let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
        let plan = audit::plan(&self.db, rollup, scope, now()).await.unwrap();
        let options = audit::Options { as_of: now(), except: BTreeSet::new(), rows_max: usize::MAX };
        let mut behind = 0;
        let report = audit::run(&self.db, rollup, &plan, &options, |done, _| behind = done).await.unwrap();
        assert_eq!(behind, plan.days(), "the audit reports every day as done");
        report
    }

    /// Returns the id of the first stored row, by key, that meets the condition.
    pub async fn row(&self, condition: &str) -> i64 {
        let sql = format!(
            "SELECT id FROM operation_historical_summary WHERE {condition}
             ORDER BY lab_id, ordered_at, event_type, dimension_a_id, dimension_b_id LIMIT 1"
        );
        self.number(&sql).await
    }
}

/// Returns every row that differs, with its lab.
pub fn findings(report: &Report) -> Vec<(i64, Finding)> {
    let rows = |lab: &audit::report::LabReport| {
        let id = lab.lab;
        lab.days.iter().flat_map(|day| day.rows.clone()).map(move |row| (id, row)).collect::<Vec<_>>()
    };
    report.labs.iter().flat_map(rows).collect()
}

/// Returns every (lab, day, cause) that was found.
pub fn causes(report: &Report) -> BTreeSet<(i64, String, Cause)> {
    findings(report).into_iter().map(|(lab, row)| (lab, row.day.to_string(), row.cause)).collect()
}
