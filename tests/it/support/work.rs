//! The scheduler and the worker, inside the test process and at a fixed time.

use std::{fs, path::Path, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use daymend::{
    clock::Clock,
    db::Mode,
    recompute::shrink::MaxShrink,
    rollup::{HISTORICAL_SUMMARY, Rollups},
    runs::{self, Progress, Run, records},
    scheduler::{self, Report, nightly::NightlyAt},
    worker::{self, throttle::Limits},
};
use tokio_util::sync::CancellationToken;

use super::TestDb;

/// The compiled-in rollups.
pub fn rollups() -> Arc<Rollups> {
    Arc::new(Rollups::load(None).expect("the compiled-in rollups"))
}

/// Definitions whose `bills.sql` has one more condition.
pub fn jobs_with(condition: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let rollup = dir.path().join("historical_summary");
    fs::create_dir(&rollup).unwrap();
    for entry in fs::read_dir(Path::new("jobs/historical_summary")).unwrap() {
        let entry = entry.unwrap();
        let mut text = fs::read_to_string(entry.path()).unwrap();
        if entry.file_name() == "bills.sql" {
            text += &format!("  AND {condition}\n");
        }
        fs::write(rollup.join(entry.file_name()), text).unwrap();
    }
    dir
}

/// The scheduler's defaults, with few attempts.
pub const SCHEDULER: scheduler::Config = scheduler::Config {
    nightly_at: NightlyAt::DEFAULT,
    catch_up_days: 7,
    lookback_days: 0,
    attempts_max: 3,
    max_shrink: MaxShrink::OFF,
    max_shrink_rebuild: MaxShrink::OFF,
    retention: None,
    audit: None,
};

/// A worker that ends when nothing is left to do.
pub fn draining() -> worker::Config {
    worker::Config {
        name: "drain".to_owned(),
        concurrency: 2,
        lease: Duration::from_secs(60),
        heartbeat: Duration::from_secs(15),
        grace: Duration::from_secs(25),
        job_timeout: Duration::from_secs(60),
        backoff: Duration::from_secs(1),
        drain: true,
        limits: Limits::default(),
    }
}

impl TestDb {
    /// One whole tick of the scheduler, which has to succeed.
    pub async fn tick(&self, now: DateTime<Utc>) -> Report {
        let rollups = rollups();
        let rollup = rollups.get(HISTORICAL_SUMMARY).expect("the rollup");
        let report = scheduler::tick(&self.db, rollup, &SCHEDULER, Clock::Fixed(now)).await;
        report.unwrap_or_else(|error| panic!("tick: {}", daymend::error::chain(&error)))
    }

    /// Works the queue off, and waits for the end.
    pub async fn drain(&self, now: DateTime<Utc>) {
        let config = draining();
        let token = CancellationToken::new();
        let pulse = Arc::default();
        let work = worker::run(&self.db, &self.db, rollups(), &config, Clock::Fixed(now), &pulse, &token);
        tokio::time::timeout(Duration::from_secs(600), work).await.expect("the queue drains");
    }

    /// A run and its progress.
    pub async fn run(&self, id: i64) -> (Run, Progress) {
        let mut tx = self.db.begin(Mode::Snapshot).await.expect("begin");
        let run = runs::get(&mut tx, id).await.expect("a run").expect("the run exists");
        (run, runs::progress(&mut tx, id).await.expect("its progress"))
    }

    /// Asks for a rebuild as the Support Dashboard does; the record's id.
    pub async fn request_rebuild(&self, lab_id: i64) -> i64 {
        let mut tx = self.db.begin(Mode::Write).await.expect("begin");
        let id = records::request(&mut tx, lab_id, 7).await.expect("a record");
        tx.commit().await.expect("commit");
        id
    }

    /// What a migration record says.
    pub async fn record_status(&self, id: i64) -> String {
        self.text(&format!("SELECT job_status FROM crelio_data_migrations WHERE id = {id}")).await
    }
}
