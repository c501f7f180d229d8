//! `daymend doctor --json`, and a healthy site to run it on.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{Connection as _, Executor as _, MySqlConnection, SqliteConnection};

use super::{Engine, TestDb, process::run, server};

/// The current time in the doctor's tests.
pub const NOW: &str = "2026-06-15T12:00:00Z";

/// The findings that come from the shared server itself, which is not durable and may be slow, and from its users:
/// that of `deploy/mysql/grants.sql` sees no triggers, and the administrator has all privileges.
const OF_THE_SERVER: &[&str] = &["settings.durability", "connection.latency", "grants.unseen", "grants.administrator"];

pub fn now() -> DateTime<Utc> {
    NOW.parse().unwrap()
}

/// Creates a lab with a week of bills whose summary is complete up to yesterday.
pub async fn healthy(engine: Engine) -> TestDb {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.fill_lab(1, "2026-06-08".parse().unwrap(), 7, 4).await;
    db.settle(now()).await;
    db
}

/// The doctor's result: its JSON and its exit code.
#[derive(Debug)]
pub struct Diagnosis {
    pub json: Value,
    pub code: i32,
}

/// Runs the doctor with more arguments.
pub fn examine_with(db: &TestDb, more: &[&str]) -> Diagnosis {
    let mut args = vec!["doctor", "--json"];
    if !more.contains(&"--now") {
        args.extend(["--now", NOW]);
    }
    args.extend(more);
    let output = run(db, &args);
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let json = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text:?} {error}"));
    Diagnosis { json, code: output.status.code().unwrap() }
}

/// Runs the doctor.
pub fn examine(db: &TestDb) -> Diagnosis {
    examine_with(db, &[])
}

/// Runs the doctor as an administrator, who sees triggers and events.
pub fn examine_as_admin(db: &TestDb) -> Diagnosis {
    examine_with(db, &["--database-url", &db.admin_url()])
}

impl Diagnosis {
    /// Returns all findings.
    pub fn findings(&self) -> Vec<&Value> {
        self.json["findings"].as_array().unwrap().iter().collect()
    }

    /// Returns the ids of the findings, except those that come from the shared server.
    pub fn ids(&self) -> Vec<&str> {
        let ids = self.findings().into_iter().map(|finding| finding["id"].as_str().unwrap());
        ids.filter(|id| !OF_THE_SERVER.contains(id)).collect()
    }

    /// Returns the findings of a check.
    pub fn of(&self, id: &str) -> Vec<&Value> {
        self.findings().into_iter().filter(|finding| finding["id"] == id).collect()
    }

    /// Returns whether a check has findings.
    pub fn has(&self, id: &str) -> bool {
        !self.of(id).is_empty()
    }

    /// Returns the advice of the check's only finding, which must have this severity.
    #[track_caller]
    pub fn advice(&self, id: &str, severity: &str) -> String {
        let findings = self.of(id);
        assert_eq!(findings.len(), 1, "{id} in {:#}", self.json);
        assert_eq!(findings[0]["severity"], severity, "{:#}", findings[0]);
        findings[0]["advice"].as_str().unwrap().to_owned()
    }

    /// Returns where the check's only finding is, and what it says.
    #[track_caller]
    pub fn what(&self, id: &str) -> String {
        let findings = self.of(id);
        assert_eq!(findings.len(), 1, "{id} in {:#}", self.json);
        format!("{}: {}", findings[0]["where"].as_str().unwrap(), findings[0]["what"].as_str().unwrap())
    }

    /// Asserts that there are no findings except those that come from the shared server.
    #[track_caller]
    pub fn assert_well(&self) {
        assert_eq!(self.ids(), Vec::<&str>::new(), "{:#}", self.json);
    }
}

impl TestDb {
    /// Returns the administrator's URL.
    pub fn admin_url(&self) -> String {
        match self.engine {
            Engine::MariaDb => server::url(server::port(&self.url), self.name()),
            Engine::Sqlite => self.url.clone(),
        }
    }

    /// Enqueues what is due, runs all jobs, and closes the runs.
    pub async fn settle(&self, now: DateTime<Utc>) {
        self.tick(now).await;
        self.drain(now).await;
        self.tick(now).await;
    }

    /// Sends a whole script in one message, as an administrator's client does.
    pub async fn apply(&self, script: &str) {
        let applied = match self.engine {
            Engine::MariaDb => {
                let mut connection = MySqlConnection::connect(&self.admin_url()).await.unwrap();
                connection.execute(sqlx::raw_sql(script)).await.map(drop)
            }
            Engine::Sqlite => {
                let mut connection = SqliteConnection::connect(&self.url).await.unwrap();
                connection.execute(sqlx::raw_sql(script)).await.map(drop)
            }
        };
        applied.unwrap_or_else(|error| panic!("{error}\n{script}"));
    }
}

/// Returns the arguments of the `daymend …` command in an advice.
pub fn arguments(advice: &str) -> Vec<&str> {
    let command = advice.split("daymend ").nth(1).unwrap_or_else(|| panic!("no command in {advice:?}"));
    command.split(';').next().unwrap().split(' ').map(|word| word.trim_matches('"')).collect()
}
