//! daymend's schema, the lab system's tables and columns, and the indexes of the fact queries.

use chrono::Duration;

use super::{
    Check, Findings, Severity, Site, catalogue, is_missing_name, look,
    needs::{OUTPUT_TABLES, own_statements},
    sql_text,
};
use crate::{
    args,
    db::{Arg, DbError, Dialect, Mode, Query, Row, Statement, migrate, migrate::SchemaError, scan::tokens},
    recompute::stored,
    rollup::{
        NamedSql, Rollup,
        misfit::{CHECK_URL, Misfit},
        source,
    },
    statement,
};

pub(super) const CHECKS: &[Check] = &[
    Check::new(super::SCHEMA, Severity::Error, "daymend's schema version", look!(schema)),
    Check::new("tables.daymend", Severity::Error, "daymend's own tables", look!(own)).of_daymend(),
    Check::new("tables.source", Severity::Error, "the tables and columns that jobs/ reads", look!(source_tables)),
    Check::new("tables.output", Severity::Error, "the tables that daymend writes to", look!(output)),
    Check::new("indexes.facts", Severity::Warning, "how the fact queries find their rows", look!(indexes)),
];

statement!(Doctor: SCHEMA_READABLE, "doctor schema readable", "SELECT version FROM daymend_schema LIMIT 1");

async fn schema(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    match migrate::check(site.db).await {
        Ok(()) => findings.fact("schema", format!("version {}", migrate::wanted())),
        Err(SchemaError::Database(error)) => return Err(error),
        Err(SchemaError::Behind { found: 0, .. }) => {
            // information_schema leaves out tables that the user has no privilege on.
            let readable = site.db.fetch_all(&SCHEMA_READABLE, args![], |_| Ok(())).await;
            if readable.as_ref().is_err_and(DbError::is_denied) {
                let what = "cannot be read, or does not exist yet";
                findings.add(
                    "daymend_schema",
                    what,
                    "grant what grants.narrow asks for; then daymend migrate --dry-run",
                );
            } else {
                findings.add("daymend_schema", "daymend has no tables here yet", "daymend migrate");
            }
        }
        Err(error @ SchemaError::Behind { .. }) => findings.add("daymend_schema", error.to_string(), "daymend migrate"),
        Err(error @ SchemaError::Ahead { .. }) => {
            findings.add("daymend_schema", error.to_string(), "use the daymend that migrated this database");
        }
    }
    Ok(())
}

async fn own(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    for table in migrate::tables() {
        if is_missing(site, Query::new(table, format!("SELECT 1 FROM {table}"))).await?.is_some() {
            findings.add(table, "is missing", migrate::REDO);
        }
    }
    Ok(())
}

/// What is missing for a statement, in the database's words; `None` if nothing is, or only a privilege.
async fn is_missing(site: &Site<'_>, query: Query<'_>) -> Result<Option<String>, DbError> {
    match site.db.columns(query).await {
        Err(error) if is_missing_name(&error) => Ok(Some(error.source.to_string())),
        Err(error) if !error.is_denied() => Err(error),
        _ => Ok(None),
    }
}

async fn source_tables(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    for rollup in site.rollups.iter() {
        let mut problems = source::check(site.db, rollup).await?;
        problems.extend(stored::check(site.db, rollup, stored::Access::Write).await?);
        // Privileges have a check of their own.
        for problem in problems.into_iter().filter(|problem| !problem.is_denied) {
            let Misfit { place, what, is_elsewhere, .. } = problem;
            let rename = "daymend rollups export jobs, change";
            let advice = if is_elsewhere {
                format!("{CHECK_URL} (DAYMEND_DATABASE_URL). To try daymend without a lab system: daymend demo")
            } else {
                format!("{rename} {place} to this site's names, give --jobs-dir jobs, and daymend rollups check")
            };
            findings.add(place, what, advice);
        }
    }
    Ok(())
}

async fn output(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    // A statement that also reads a missing table of daymend's tells nothing about the other tables.
    let mut absent = Vec::new();
    for table in migrate::tables() {
        if is_missing(site, Query::new(table, format!("SELECT 1 FROM {table}"))).await?.is_some() {
            absent.push(table);
        }
    }
    for table in OUTPUT_TABLES {
        let names = |statement: &&Statement| {
            let tokens = tokens(statement.sql(Dialect::MySql), None);
            tokens.iter().any(|token| token == table) && !tokens.iter().any(|token| absent.iter().any(|of| token == of))
        };
        for statement in own_statements().filter(names) {
            if let Some(what) = is_missing(site, statement.written_out(1)).await? {
                let advice = "add the column; a missing table is created by daymend migrate";
                findings.add(table, what, advice);
                break;
            }
        }
    }
    Ok(())
}

async fn indexes(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    for missing in missing_indexes(site).await? {
        let what = format!("{} {}: no index on ({})", missing.file, missing.how, missing.columns.join(", "));
        findings.add(missing.table, what, "daymend doctor --print-fixes");
    }
    Ok(())
}

/// An index that a rollup's SELECT lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MissingIndex {
    /// The table.
    pub(super) table: String,
    /// Its columns.
    pub(super) columns: Vec<String>,
    /// The SELECT's file.
    pub(super) file: String,
    /// How the database finds the rows instead.
    pub(super) how: String,
}

/// The indexes that the rollups' SELECTs lack, each once.
pub(super) async fn missing_indexes(site: &Site<'_>) -> Result<Vec<MissingIndex>, DbError> {
    let mut missing: Vec<MissingIndex> = Vec::new();
    for rollup in site.rollups.iter() {
        let facts = rollup.facts.iter().map(|fact| &fact.sql);
        for sql in facts.chain([&rollup.days]) {
            for lacking in missing_of(site, rollup, sql).await? {
                if !missing.iter().any(|known| known.table == lacking.table && known.columns == lacking.columns) {
                    missing.push(lacking);
                }
            }
        }
    }
    Ok(missing)
}

/// The tables that the plan does not read by key, and for whose comparisons the schema has no suitable index.
///
/// The plan alone is not conclusive: the database may prefer to read all of a small table, index or not.
async fn missing_of(site: &Site<'_>, rollup: &Rollup, sql: &NamedSql) -> Result<Vec<MissingIndex>, DbError> {
    let steps = explain(site, rollup, sql).await?;
    let mut missing = Vec::new();
    let reading = sql_text::read(sql);
    for table in &reading.tables {
        let columns = reading.index_columns(table);
        let step = steps.iter().find(|step| step.table == table.alias && !step.is_by_key);
        let (false, Some(step)) = (columns.is_empty(), step) else { continue };
        let indexes = catalogue::indexes(site, &table.name).await?;
        // The database hides a table's indexes from users who have privileges on only some of its columns: then the
        // plan has to do. (A view has no indexes either, and appears in the plan as another table.)
        let is_served =
            if indexes.is_empty() { !step.has_no_choice } else { indexes.iter().any(|index| index.serves(&columns)) };
        if is_served {
            continue;
        }
        let (file, how) = (sql.file.clone(), step.how.clone());
        missing.push(MissingIndex { table: table.name.clone(), columns, file, how });
    }
    Ok(missing)
}

/// How the database would read one table.
#[derive(Debug)]
struct Step {
    table: String,
    /// It finds rows by a primary or unique key.
    is_by_key: bool,
    /// It reads the whole table, because no index could be used.
    has_no_choice: bool,
    how: String,
}

/// The plan of a SELECT for one day of one lab.
async fn explain(site: &Site<'_>, rollup: &Rollup, sql: &NamedSql) -> Result<Vec<Step>, DbError> {
    let mut tx = site.db.begin(Mode::Snapshot).await?;
    let lab = source::labs(&mut tx, rollup).await?.first().map_or(1, |lab| lab.id);
    tx.rollback().await?;
    let args = sql.bind(|name| match name {
        "lab_id" => Arg::Int(lab),
        "from" => (site.now - Duration::days(2)).into(),
        "until" => (site.now - Duration::days(1)).into(),
        // The ids of the facts that it is part of.
        _ => Arg::from("[1]"),
    });
    let verb = if site.is_mysql() { "EXPLAIN FORMAT=TRADITIONAL" } else { "EXPLAIN QUERY PLAN" };
    let query = Query::new(&sql.file, format!("{verb} {}", sql.text));
    let read = if site.is_mysql() { mysql_step } else { sqlite_step };
    Ok(site.read(query, args, read).await?.into_iter().flatten().collect())
}

fn mysql_step(row: &Row) -> Result<Option<Step>, sqlx::Error> {
    let text = |name: &str| row.position(name).map_or(Ok(None), |at| row.text_or_null(at));
    let (Some(table), Some(access)) = (text("table")?, text("type")?) else { return Ok(None) };
    // A number on MySQL, text on MariaDB.
    let rows = match row.position("rows") {
        Some(at) => row.int_or_null(at).or_else(|_| row.text_or_null(at).map(|text| text?.parse().ok()))?.unwrap_or(0),
        None => 0,
    };
    let how = match (access.as_str(), text("key")?) {
        ("ALL" | "index", _) | (_, None) => format!("reads all of {table} (about {rows} rows)"),
        (_, Some(key)) => format!("reads about {rows} rows of {table} by {key}"),
    };
    let is_by_key = matches!(access.as_str(), "const" | "eq_ref" | "system");
    let has_no_choice = matches!(access.as_str(), "ALL" | "index") && text("possible_keys")?.is_none();
    Ok(Some(Step { table, is_by_key, has_no_choice, how }))
}

/// `SEARCH billing USING INDEX billing_lab_time (lab_id=? AND billTime>?)`, or `SCAN billing`.
fn sqlite_step(row: &Row) -> Result<Option<Step>, sqlx::Error> {
    let detail = row.text(3)?;
    let mut words = detail.split(' ');
    let (verb, table) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !matches!(verb, "SEARCH" | "SCAN") {
        return Ok(None);
    }
    let has_no_choice = verb == "SCAN" || detail.contains("AUTOMATIC");
    let how = if has_no_choice {
        format!("reads all of {table}")
    } else {
        format!("finds its rows of {table} by an index on too few columns")
    };
    let is_by_key = detail.contains("INTEGER PRIMARY KEY");
    Ok(Some(Step { table: table.to_owned(), is_by_key, has_no_choice, how }))
}
