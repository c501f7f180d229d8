//! `daymend doctor`: what is wrong with a site, and what to do about it.
//!
//! Every check is a row of a table ([`GROUPS`]): its id, how bad its finding is, what it needs, what it looks at, and
//! the function that looks. The functions only read, in read-only snapshots, so that the server itself would reject a
//! write.
//!
//! - [`server`], [`settings`]: whether it can be reached, whether daymend works with it, and how it is configured.
//! - [`grants`], [`grants_file`], [`needs`], [`privileges`]: the privileges of daymend's user, too few or too many.
//! - [`tables`], [`summary`]: tables, columns, indexes; rows that violate the summary's own rules.
//! - [`dates`]: invalid dates, of bills and of summary rows.
//! - [`replaced`]: what daymend replaces but is still there.
//! - [`late`]: daymend's own triggers, and their marks.
//! - [`labs`], [`queue`], [`records`]: the work itself.
//! - [`report`]: the findings.
//! - [`fixes`]: the DDL that keeps faults from coming back; printed, never executed.
//! - [`catalogue`], [`sql_text`]: the schema, from the database and from a definition's SELECTs.
//!
//! Invariants: a check that fails becomes a finding and does not stop the others; none takes longer than
//! [`LOOK_MAX`], however large the tables: they read by an index, or only the latest rows, and say "more than"
//! instead of counting everything.

pub mod fixes;

mod catalogue;
mod dates;
mod grants;
mod grants_file;
mod labs;
mod late;
mod needs;
mod privileges;
mod queue;
mod records;
mod replaced;
mod report;
mod server;
mod settings;
mod sql_text;
mod summary;
mod tables;

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;

use crate::{
    db::{
        Arg, ConnectOptions, Db, DbError, Dialect, ErrorKind, Mode, Query, Row, code,
        migrate::{self, SchemaError},
    },
    error::{self, chain},
    rollup::Rollups,
    scheduler::nightly::NightlyAt,
};

pub use grants::is_blind_to_triggers;
pub use report::{Fact, Finding, Report, Severity};

/// How long one check may take. The server cancels its statements a little earlier, with a more helpful error.
const LOOK_MAX: Duration = Duration::from_secs(20);

/// How long all checks together may take: if every table is locked, the last ones are skipped.
const ALL_MAX: Duration = Duration::from_secs(120);

/// The maximum number of rows that are counted per fault.
const COUNT_MAX: usize = 1000;

/// The maximum number of examples per fault.
const EXAMPLES_MAX: usize = 3;

/// What a check found.
#[derive(Debug, Default)]
struct Findings {
    /// Place, finding and advice of each.
    found: Vec<(String, String, String)>,
    facts: Vec<Fact>,
    /// Whether the server hides what should have been checked from this user.
    is_blind: bool,
}

impl Findings {
    fn add(&mut self, place: impl Into<String>, what: impl Into<String>, advice: impl Into<String>) {
        self.found.push((place.into(), what.into(), advice.into()));
    }

    fn fact(&mut self, name: &'static str, value: impl Into<String>) {
        self.facts.push(Fact { name, value: value.into() });
    }
}

/// The database to examine, and what is expected of it.
#[derive(Debug)]
pub struct Site<'a> {
    /// The database.
    pub db: &'a Db,
    /// The rollups that are maintained in it.
    pub rollups: &'a Rollups,
    /// The moment that the scheduler takes as the present.
    pub now: DateTime<Utc>,
    /// When yesterday should be in the summary.
    pub nightly_at: NightlyAt,
    /// How long runs are kept; `None` means for ever.
    pub retention: Option<Duration>,
}

impl Site<'_> {
    /// Reads all rows of a statement with `each`, in a read-only snapshot.
    async fn read<'q, T: Send>(
        &self,
        query: impl Into<Query<'q>>,
        args: Vec<Arg>,
        mut each: impl FnMut(&Row) -> Result<T, sqlx::Error> + Send,
    ) -> Result<Vec<T>, DbError> {
        let mut tx = self.db.begin(Mode::Snapshot).await?;
        let mut rows = Vec::new();
        tx.for_each(query, args, |row| {
            rows.push(each(&row)?);
            Ok(())
        })
        .await?;
        tx.rollback().await?;
        Ok(rows)
    }

    fn is_mysql(&self) -> bool {
        self.db.dialect() == Dialect::MySql
    }
}

/// What has to exist before a check can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Only the connection.
    Database,
    /// daymend's own tables, in this binary's version.
    Schema,
}

type Look = for<'a> fn(&'a Site<'a>, &'a mut Findings) -> BoxFuture<'a, Result<(), DbError>>;

/// The [`Look`] of an async function that takes the site, more arguments if there are any, and where its findings go.
macro_rules! look {
    ($look:ident $(, $more:expr)*) => {
        |site, findings| Box::pin($look(site, $($more,)* findings))
    };
}
use look;

/// A check: one row of the table.
struct Check {
    id: &'static str,
    severity: Severity,
    needs: Needs,
    /// The only database that it applies to; `None` means both.
    only: Option<Dialect>,
    /// What it looks at, for the finding if the check itself fails.
    looks_at: &'static str,
    look: Look,
}

impl Check {
    const fn new(id: &'static str, severity: Severity, looks_at: &'static str, look: Look) -> Self {
        Self { id, severity, needs: Needs::Database, only: None, looks_at, look }
    }

    /// The same check, but one that reads daymend's own tables.
    const fn of_daymend(self) -> Self {
        Self { needs: Needs::Schema, ..self }
    }

    /// The same check, but for MySQL and MariaDB only.
    const fn mysql(self) -> Self {
        Self { only: Some(Dialect::MySql), ..self }
    }

    /// The same check, but for SQLite only.
    const fn sqlite(self) -> Self {
        Self { only: Some(Dialect::Sqlite), ..self }
    }

    fn applies_to(&self, dialect: Dialect) -> bool {
        self.only.is_none_or(|only| only == dialect)
    }
}

/// Every check, by group, in the order of the report.
const GROUPS: &[(&str, &[Check])] = &[
    ("Server", server::CHECKS),
    ("Settings", settings::CHECKS),
    ("Rights", grants::CHECKS),
    ("Tables", tables::CHECKS),
    ("Summary", summary::CHECKS),
    ("Dates", dates::CHECKS),
    ("What daymend replaces", replaced::CHECKS),
    ("Late changes", late::CHECKS),
    ("Labs", labs::CHECKS),
    ("Queue", queue::CHECKS),
    ("Records", records::CHECKS),
];

/// The id of the check for the connection itself.
pub const REACHABLE: &str = "connection.reachable";

/// The id of the check for daymend's schema version.
pub const SCHEMA: &str = "schema.version";

/// Pool options for an examination: none of its statements runs for long.
#[must_use]
pub fn connect_options() -> ConnectOptions {
    ConnectOptions { statement_max: LOOK_MAX - Duration::from_secs(5), ..ConnectOptions::new(2) }
}

/// Runs all checks.
pub async fn examine(site: &Site<'_>) -> Report {
    let db = site.db.with_limit(LOOK_MAX);
    let site = &Site { db: &db, ..*site };
    let begun = Instant::now();
    // If the version cannot be read, each check reports what it could not read.
    let has_schema = !matches!(migrate::check(&db).await, Err(SchemaError::Behind { .. } | SchemaError::Ahead { .. }));
    let mut report = Report::default();
    let mut is_time_up = false;
    for (group, checks) in GROUPS {
        for check in checks.iter().filter(|check| check.applies_to(db.dialect())) {
            let has_its_tables = check.needs == Needs::Database || has_schema;
            let finding =
                |severity, (place, what, advice)| Finding { id: check.id, group, severity, place, what, advice };
            let time = LOOK_MAX.min(ALL_MAX.saturating_sub(begun.elapsed()));
            if !has_its_tables || report.has(REACHABLE) || time.is_zero() {
                report.skipped.push((group, check.id));
                if time.is_zero() && !is_time_up {
                    is_time_up = true;
                    let why = format!(
                        "all checks together may take {}; the rest is skipped",
                        humantime::format_duration(ALL_MAX)
                    );
                    report.findings.push(finding(Severity::Warning, could_not(check, &why, SLOW)));
                }
                continue;
            }
            let mut findings = Findings::default();
            let looked = tokio::time::timeout(time, (check.look)(site, &mut findings)).await;
            match looked {
                Ok(Ok(())) if findings.is_blind => report.skipped.push((group, check.id)),
                Ok(Ok(())) => {
                    report.checked.push((group, check.id));
                    report.findings.extend(findings.found.into_iter().map(|found| finding(check.severity, found)));
                    report.facts.extend(findings.facts);
                }
                // The table checks report which table is missing; that is enough.
                Ok(Err(error)) if is_missing_name(&error) && report.has_missing_tables() => {
                    report.skipped.push((group, check.id));
                }
                Ok(Err(error)) if error.kind == ErrorKind::Unavailable && db.ping().await.is_err() => {
                    report.findings.extend(Report::unreachable(&chain(&error), error.is_refused()).findings);
                    report.skipped.push((group, check.id));
                }
                Ok(Err(error)) => {
                    let (severity, why) = why_not(&error);
                    report.checked.push((group, check.id));
                    report.findings.push(finding(severity, could_not(check, &why, advice_for(&error))));
                }
                Err(_) => {
                    let why = format!("it took longer than {} s", time.as_secs());
                    report.checked.push((group, check.id));
                    report.findings.push(finding(Severity::Warning, could_not(check, &why, SLOW)));
                }
            }
        }
    }
    report
}

const SLOW: &str = "try again when the database is less busy";

/// The finding for a check that could not run.
fn could_not(check: &Check, why: &str, advice: &str) -> (String, String, String) {
    (check.looks_at.to_owned(), format!("could not be checked: {why}"), advice.to_owned())
}

/// How bad it is that a check could not run. A missing privilege that only the doctor needs is worth a note; those that
/// daymend itself needs have a check of their own.
fn why_not(error: &DbError) -> (Severity, String) {
    let severity = if error.is_denied() { Severity::Note } else { Severity::Warning };
    (severity, chain(error))
}

fn advice_for(error: &DbError) -> &'static str {
    if error.is_denied() { "run daymend doctor once as a user who may read it" } else { SLOW }
}

/// Whether a table or a column is missing.
fn is_missing_name(error: &DbError) -> bool {
    matches!(code(&error.source), 1054 | 1109 | 1146)
        || (code(&error.source) == 1
            && ["no such", "has no column"].iter().any(|words| error.source.to_string().contains(words)))
}

/// A count with its noun, for a list that was cut off after [`COUNT_MAX`]: `1 row`, `more than 1000 rows`.
fn counted(found: usize, what: &str) -> String {
    match found {
        1 => format!("1 {what}"),
        found if found > COUNT_MAX => format!("more than {COUNT_MAX} {what}s"),
        found => format!("{found} {what}s"),
    }
}

/// The first few items of a list, with an ellipsis if there are more.
fn examples<T: ToString>(list: impl IntoIterator<Item = T>) -> String {
    error::examples(list, EXAMPLES_MAX)
}

/// Labs by their ids: `labs 1, 2, 3, …`.
fn lab_list<'a>(labs: impl IntoIterator<Item = &'a i64>) -> String {
    let ids: Vec<&i64> = labs.into_iter().collect();
    format!("{} {}", if ids.len() == 1 { "lab" } else { "labs" }, examples(ids))
}

/// The maximum number of labs that an advice names.
const LAB_OPTIONS_MAX: usize = 10;

/// Options that name labs: `--lab 1 --lab 2`; if there are many, the first few, and how many more there are.
fn lab_options(labs: impl IntoIterator<Item = i64>) -> String {
    let labs: std::collections::BTreeSet<i64> = labs.into_iter().collect();
    let mut options: Vec<String> = labs.iter().take(LAB_OPTIONS_MAX).map(|lab| format!("--lab {lab}")).collect();
    if labs.len() > LAB_OPTIONS_MAX {
        options.push(format!("(and {} more labs)", labs.len() - LAB_OPTIONS_MAX));
    }
    options.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_begin_with_their_subject() {
        let mut ids: Vec<&str> = GROUPS.iter().flat_map(|(_, checks)| checks.iter().map(|check| check.id)).collect();
        ids.push(REACHABLE);
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
        assert!(ids.iter().all(|id| id.split('.').count() == 2), "{ids:?}");
    }

    #[test]
    fn long_lists_say_that_they_go_on() {
        assert_eq!(counted(1, "row"), "1 row");
        assert_eq!(counted(1000, "row"), "1000 rows");
        assert_eq!(counted(1001, "row"), "more than 1000 rows");
        assert_eq!(examples([1, 2, 3]), "1, 2, 3");
        assert_eq!(examples([1, 2, 3, 4]), "1, 2, 3, …");
        assert_eq!(lab_options([7, 3, 7]), "--lab 3 --lab 7");
        assert!(lab_options(1..=12).ends_with("--lab 10 (and 2 more labs)"));
    }
}
