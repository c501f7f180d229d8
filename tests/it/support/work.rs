//! Runs the scheduler and the worker inside the test process, at a fixed time.

use std::{fs, path::Path, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use daymend::{
    clock::Clock,
    db::Mode,
    rollup::{HISTORICAL_SUMMARY, Rollups},
    runs::{self, JobLimits, Progress, Run, records},
    scheduler::{self, Report, Scheduler, nightly::NightlyAt},
    worker::{self, throttle::Limits},
};
use tokio_util::sync::CancellationToken;

use super::{Engine, TestDb};

/// Loads the compiled-in rollups.
pub fn rollups() -> Arc<Rollups> {
    Arc::new(Rollups::load(None).expect("the compiled-in rollups"))
}

/// Copies the built-in definition to a directory, with the text of each file changed by `change`.
pub fn jobs_changed(change: impl Fn(&str, String) -> String) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let rollup = dir.path().join(HISTORICAL_SUMMARY);
    fs::create_dir(&rollup).unwrap();
    for entry in fs::read_dir(Path::new("jobs").join(HISTORICAL_SUMMARY)).unwrap() {
        let entry = entry.unwrap();
        let text = fs::read_to_string(entry.path()).unwrap();
        let file = entry.file_name().into_string().unwrap();
        fs::write(rollup.join(&file), change(&file, text)).unwrap();
    }
    dir
}

/// Creates definitions whose `bills.sql` has one more condition.
pub fn jobs_with(condition: &str) -> tempfile::TempDir {
    jobs_changed(|file, text| if file == "bills.sql" { format!("{text}  AND {condition}\n") } else { text })
}

/// Returns a condition on `billing` that the database cannot evaluate.
pub fn fails(engine: Engine) -> &'static str {
    match engine {
        Engine::MariaDb => "POW(10, 400 + billing.id) > 0",
        Engine::Sqlite => "abs(-9223372036854775807 - 1) > 0",
    }
}

/// Returns a condition whose evaluation takes forever.
pub fn endless(engine: Engine) -> &'static str {
    match engine {
        Engine::MariaDb => "SLEEP(600) = 0",
        Engine::Sqlite => {
            "(WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT COUNT(*) FROM r) = 0"
        }
    }
}

/// Creates definitions with which finding the days on which `lab` has bills takes forever.
pub fn jobs_with_slow_lab(engine: Engine, lab: i64) -> tempfile::TempDir {
    let slow = endless(engine);
    let of_lab = "billing.lab_id = :lab_id";
    jobs_changed(|file, sql| match file {
        "days.sql" => sql.replace(of_lab, &format!("{of_lab} AND (billing.lab_id <> {lab} OR {slow})")),
        _ => sql,
    })
}

/// The scheduler's defaults, with few attempts.
pub const SCHEDULER: scheduler::Config = scheduler::Config {
    nightly_at: NightlyAt::DEFAULT,
    catch_up_days: 7,
    lookback_days: 0,
    limits: JobLimits::any_shrink(3),
    rebuild_limits: JobLimits::any_shrink(3),
    retention: None,
    audit: None,
};

/// Returns the configuration of a worker that ends when no job is left.
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
    /// Runs one complete tick of the scheduler, which must succeed.
    pub async fn tick(&self, now: DateTime<Utc>) -> Report {
        let rollups = rollups();
        let rollup = rollups.get(HISTORICAL_SUMMARY).expect("the rollup");
        let mut report = Report::default();
        let scheduler = Scheduler { db: &self.db, rollup, config: &SCHEDULER, clock: Clock::Fixed(now) };
        let done = scheduler.tick(&mut report).await;
        done.unwrap_or_else(|error| panic!("tick: {}", daymend::error::chain(&error)));
        report
    }

    /// Runs a worker until the queue is empty.
    pub async fn drain(&self, now: DateTime<Utc>) {
        let config = draining();
        let token = CancellationToken::new();
        let pulse = Arc::default();
        let work = worker::run(&self.db, &self.db, rollups(), &config, Clock::Fixed(now), &pulse, &token);
        tokio::time::timeout(Duration::from_secs(600), work)
            .await
            .expect("the queue drains")
            .expect("nothing is refused");
    }

    /// Reads a run and its progress.
    pub async fn run(&self, id: i64) -> (Run, Progress) {
        let mut tx = self.db.begin(Mode::Snapshot).await.expect("begin");
        let run = runs::get(&mut tx, id).await.expect("a run").expect("the run exists");
        (run, runs::progress(&mut tx, id).await.expect("its progress"))
    }

    /// Requests a rebuild as the Support Dashboard does, and returns the record's id.
    pub async fn request_rebuild(&self, lab_id: i64) -> i64 {
        let mut tx = self.db.begin(Mode::Write).await.expect("begin");
        let id = records::request(&mut tx, lab_id, 7).await.expect("a record");
        tx.commit().await.expect("commit");
        id
    }

    /// Reads the status of a migration record.
    pub async fn record_status(&self, id: i64) -> String {
        self.text(&format!("SELECT job_status FROM crelio_data_migrations WHERE id = {id}")).await
    }
}
