//! Helpers for dirty days: daymend's triggers, and the jobs that their marks lead to.

use std::collections::BTreeSet;

use chrono::{DateTime, NaiveDate, Utc};
use daymend::{
    args,
    db::Mode,
    queue::ids_of,
    rollup::HISTORICAL_SUMMARY,
    scheduler::{Enqueued, Report, Tick, dirty},
    triggers::{self, Installed},
};

use super::{
    TestDb,
    work::{SCHEDULER, rollups},
};

impl TestDb {
    /// Installs the triggers, as `daymend triggers install` does.
    pub async fn install_dirty_triggers(&self) -> Installed {
        let rollups = rollups();
        let rollup = rollups.get(HISTORICAL_SUMMARY).expect("the rollup");
        let watch = rollup.watch.as_ref().expect("what to watch");
        let installed = triggers::install(&self.admin, watch, &rollup.summary.table, false).await;
        installed.unwrap_or_else(|error| panic!("install: {}", daymend::error::chain(&error)))
    }

    /// Runs a script of several statements.
    pub async fn execute_script(&self, sql: &str) {
        let mut tx = self.admin.begin(Mode::Snapshot).await.expect("begin");
        tx.execute_text("end the transaction", "COMMIT").await.expect("commit");
        tx.execute_text("script", sql).await.unwrap_or_else(|error| panic!("{}", daymend::error::chain(&error)));
        tx.discard();
    }

    /// Counts the marks.
    pub async fn marks(&self) -> i64 {
        self.number("SELECT COUNT(*) FROM daymend_dirty").await
    }

    /// Turns marks into jobs, and returns the lab and the day of each.
    pub async fn repair_marked(&self, now: DateTime<Utc>) -> Vec<(i64, NaiveDate)> {
        let (rollups, mut report) = (rollups(), Report::default());
        let rollup = rollups.get(HISTORICAL_SUMMARY).expect("the rollup");
        let tick = Tick { db: &self.db, rollup, config: &SCHEDULER, now };
        let repaired = dirty::repair_marked_days(&tick, &mut report).await;
        repaired.unwrap_or_else(|error| panic!("dirty days: {}", daymend::error::chain(&error)));
        let mut jobs = Vec::new();
        for Enqueued { run, .. } in report.enqueued {
            let (first, last) = ids_of(run);
            let sql = "SELECT lab_id, day FROM daymend_jobs WHERE id BETWEEN ? AND ? ORDER BY id";
            for row in self.rows(sql, args![first, last]).await {
                jobs.push((row.int(0).expect("a lab"), row.date(1).expect("a day")));
            }
        }
        jobs
    }

    /// Like [`TestDb::repair_marked`], but deletes the jobs, so that later marks get jobs again, and asserts that no
    /// day has two.
    pub async fn marked_days(&self, now: DateTime<Utc>) -> BTreeSet<(i64, String)> {
        let jobs = self.repair_marked(now).await;
        self.execute("DELETE FROM daymend_jobs", vec![]).await;
        let days: BTreeSet<_> = jobs.iter().map(|(lab, day)| (*lab, day.to_string())).collect();
        assert_eq!(days.len(), jobs.len(), "a day has two jobs: {jobs:?}");
        days
    }
}
