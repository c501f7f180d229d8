//! `daymend doctor` as scripts see it, and a site that is well.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{Connection as _, Executor as _, MySqlConnection, SqliteConnection};

use super::{Engine, TestDb, process::run, server};

/// What the tests of the doctor take for the present.
pub const NOW: &str = "2026-06-15T12:00:00Z";

/// What is the matter with the tests' shared server itself, which is not durable and may be slow, and with
/// its users: the one of `deploy/mysql/grants.sql` sees no triggers, the administrator may do everything.
const OF_THE_SERVER: &[&str] = &["settings.durability", "connection.latency", "grants.unseen", "grants.administrator"];

pub fn now() -> DateTime<Utc> {
    NOW.parse().unwrap()
}

/// A lab with a week of bills, whose yesterday is in the summary.
pub async fn healthy(engine: Engine) -> TestDb {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.fill_lab(1, "2026-06-08".parse().unwrap(), 7, 4).await;
    db.settle(now()).await;
    db
}

/// What the doctor said: its JSON, and its exit code.
#[derive(Debug)]
pub struct Diagnosis {
    pub json: Value,
    pub code: i32,
}

/// Runs the doctor, with more arguments.
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
    /// All findings.
    pub fn findings(&self) -> Vec<&Value> {
        self.json["findings"].as_array().unwrap().iter().collect()
    }

    /// The ids of what was found, without what is the matter with the tests' own server.
    pub fn ids(&self) -> Vec<&str> {
        let ids = self.findings().into_iter().map(|finding| finding["id"].as_str().unwrap());
        ids.filter(|id| !OF_THE_SERVER.contains(id)).collect()
    }

    /// The findings of a check.
    pub fn of(&self, id: &str) -> Vec<&Value> {
        self.findings().into_iter().filter(|finding| finding["id"] == id).collect()
    }

    /// Whether a check found something.
    pub fn has(&self, id: &str) -> bool {
        !self.of(id).is_empty()
    }

    /// The advice of the only finding of a check, which has to be that bad.
    #[track_caller]
    pub fn advice(&self, id: &str, severity: &str) -> String {
        let findings = self.of(id);
        assert_eq!(findings.len(), 1, "{id} in {:#}", self.json);
        assert_eq!(findings[0]["severity"], severity, "{:#}", findings[0]);
        findings[0]["advice"].as_str().unwrap().to_owned()
    }

    /// What the only finding of a check says, and where.
    #[track_caller]
    pub fn what(&self, id: &str) -> String {
        let findings = self.of(id);
        assert_eq!(findings.len(), 1, "{id} in {:#}", self.json);
        format!("{}: {}", findings[0]["where"].as_str().unwrap(), findings[0]["what"].as_str().unwrap())
    }

    /// Nothing was found but what is the matter with the tests' own server.
    #[track_caller]
    pub fn assert_well(&self) {
        assert_eq!(self.ids(), Vec::<&str>::new(), "{:#}", self.json);
    }
}

impl TestDb {
    /// The URL for an administrator.
    pub fn admin_url(&self) -> String {
        match self.engine {
            Engine::MariaDb => server::url(server::port(&self.url), self.name()),
            Engine::Sqlite => self.url.clone(),
        }
    }

    /// Enqueues, works off, and closes.
    pub async fn settle(&self, now: DateTime<Utc>) {
        self.tick(now).await;
        self.drain(now).await;
        self.tick(now).await;
    }

    /// Applies a script as an administrator's client does: all of it, in one go.
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

/// The arguments of a `daymend …` command in an advice.
pub fn arguments(advice: &str) -> Vec<&str> {
    let command = advice.split("daymend ").nth(1).unwrap_or_else(|| panic!("no command in {advice:?}"));
    command.split(';').next().unwrap().split(' ').map(|word| word.trim_matches('"')).collect()
}
