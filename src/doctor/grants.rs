//! What daymend's user may do: what it needs and lacks, and what it has and should not.
//!
//! Rights that SHOW GRANTS gives outright are taken from there. For the others the server is asked:
//! it checks rights when a statement is prepared, and none of these is ever executed. So
//! rights that come from roles and on columns count too.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Chart, Check, Patient, Severity, catalogue, is_denied, privileges::Grants, privileges::Scope, server, sql_text,
};
use crate::{
    args,
    db::{DbError, Mode, Query, code, migrate},
    statement,
};

pub(super) const CHECKS: &[Check] = &[
    Check::new("grants.narrow", Severity::Error, "the rights that daymend needs", |p| Box::pin(narrow(p))).mysql(),
    Check::new("grants.wide", Severity::Warning, "rights that daymend does not need", |p| Box::pin(wide(p))).mysql(),
    Check::new("grants.roles", Severity::Note, "roles", |p| Box::pin(roles(p))).mysql(),
    Check::new("grants.unseen", Severity::Note, "the rights to see triggers and events", |p| Box::pin(unseen(p)))
        .mysql(),
];

statement!(GRANTS, "doctor grants (mysql)", "SHOW GRANTS FOR CURRENT_USER");

const ALL_FOUR: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE"];

/// Rights on the whole server that do no harm: to watch it.
const HARMLESS: &[&str] = &["PROCESS", "REPLICATION CLIENT", "BINLOG MONITOR", "SLAVE MONITOR", "REPLICA MONITOR"];

/// Rights on the lab system's tables that do no harm.
const HARMLESS_ON_SOURCE: &[&str] = &["SELECT", "SHOW VIEW", "LOCK TABLES"];

/// What SHOW GRANTS says.
pub(super) async fn grants(patient: &Patient<'_>) -> Result<Grants, DbError> {
    let lines = patient.read(&GRANTS, args![], |row| row.text(0)).await?;
    Ok(Grants::parse(lines.iter().map(String::as_str)))
}

/// Each table that daymend uses, with the rights that it needs there.
fn needed(patient: &Patient<'_>) -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut needed: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
    let mut need = |table: &str, rights: &[&'static str]| needed.entry(table.to_owned()).or_default().extend(rights);
    for rollup in patient.rollups.iter() {
        for table in sql_text::source_tables(rollup) {
            need(&table, &["SELECT"]);
        }
        need(&rollup.summary.table, ALL_FOUR);
    }
    need("operation_event_log", &["INSERT"]);
    need("crelio_data_migrations", &["SELECT", "INSERT", "UPDATE"]);
    need("daymend_schema", &["SELECT"]);
    for table in migrate::tables() {
        need(table, ALL_FOUR);
    }
    needed
}

/// How an account is written in a statement: `daymend@%` is `` `daymend`@`%` ``.
fn quoted_account(account: &str) -> String {
    let (user, host) = account.rsplit_once('@').unwrap_or((account, "%"));
    format!("{}@{}", catalogue::quoted(user), catalogue::quoted(host))
}

async fn narrow(patient: &Patient<'_>) -> Result<Chart, DbError> {
    let mut chart = Chart::default();
    let session = server::session(patient).await?;
    let grants = grants(patient).await?;
    let account = quoted_account(&session.account);
    let database = catalogue::quoted(&session.database);
    for (table, rights) in needed(patient) {
        let mut missing = Vec::new();
        for right in rights {
            if !grants.covers(right, &session.database, &table) && is_refused(patient, right, &table).await? {
                missing.push(right);
            }
        }
        if !missing.is_empty() {
            let missing = missing.join(", ");
            let grant = format!("GRANT {missing} ON {database}.{} TO {account};", catalogue::quoted(&table));
            chart.find(table, format!("{missing} is not granted"), grant);
        }
    }
    if chart.found.is_empty() {
        columns(patient, &mut chart, &format!("{database}.%"), &account).await?;
    }
    // Before 8.0.22 MySQL wants another right for a shared lock on rows that are only read.
    let needs_lock = !session.version.contains("MariaDB") && patch(&session.version) < (8, 0, 22);
    if needs_lock && !grants.has_roles && !grants.covers_database("LOCK TABLES", &session.database) {
        let grant = format!("GRANT LOCK TABLES ON {database}.* TO {account};");
        chart.find(
            session.database,
            "LOCK TABLES is not granted, which MySQL before 8.0.22 wants for shared locks",
            grant,
        );
    }
    Ok(chart)
}

fn patch(version: &str) -> (u32, u32, u32) {
    let (major, minor) = server::number(version);
    let third = version.split(|c: char| !c.is_ascii_digit()).nth(2).and_then(|part| part.parse().ok());
    (major, minor, third.unwrap_or(0))
}

/// The SELECTs of the rollups, whose rights may be granted on some columns only.
async fn columns(patient: &Patient<'_>, chart: &mut Chart, on: &str, account: &str) -> Result<(), DbError> {
    for rollup in patient.rollups.iter() {
        for sql in std::iter::once(&rollup.labs).chain([&rollup.days]).chain(rollup.facts.iter().map(|fact| &fact.sql))
        {
            let mut tx = patient.db.begin(Mode::Snapshot).await?;
            let refused = tx.columns(Query::new(&sql.file, sql.text.as_str())).await;
            tx.rollback().await?;
            if let Err(error) = refused
                && is_denied(&error)
            {
                let tables = sql_text::read(sql).tables;
                let grants: Vec<String> = tables
                    .iter()
                    .map(|table| {
                        format!("GRANT SELECT ON {} TO {account};", on.replace('%', &catalogue::quoted(&table.name)))
                    })
                    .collect();
                chart.find(sql.file.clone(), error.source.to_string(), grants.join(" "));
            }
        }
    }
    Ok(())
}

/// Asks the server whether it would refuse a statement. The column does not exist, so that the
/// statement could not run either; but rights are looked at first.
async fn is_refused(patient: &Patient<'_>, right: &str, table: &str) -> Result<bool, DbError> {
    let table = catalogue::quoted(table);
    let sql = match right {
        "SELECT" => format!("SELECT 1 FROM {table} WHERE 1 = 0"),
        "INSERT" => format!("INSERT INTO {table} (daymend_doctor) VALUES (1)"),
        "UPDATE" => format!("UPDATE {table} SET daymend_doctor = 1 WHERE 1 = 0"),
        _ => format!("DELETE FROM {table} WHERE 1 = 0"),
    };
    // In a transaction that is read only, MariaDB refuses a write before it looks at rights.
    let mut tx = patient.db.begin(Mode::Write).await?;
    let prepared = tx.columns(Query::new("doctor rights", format!("-- daymend: doctor rights\n{sql}"))).await;
    tx.rollback().await?;
    match prepared {
        Ok(_) => Ok(false),
        Err(error) if is_denied(&error) => Ok(true),
        // No such column, or the server takes no writes at all: it may. No such table: the checks of
        // tables say so.
        Err(error) if matches!(code(&error.source), 1054 | 1146 | 1290 | 1792 | 1836) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn wide(patient: &Patient<'_>) -> Result<Chart, DbError> {
    let mut chart = Chart::default();
    let session = server::session(patient).await?;
    let account = quoted_account(&session.account);
    let source: BTreeSet<String> = patient.rollups.iter().flat_map(sql_text::source_tables).collect();
    for grant in grants(patient).await?.grants.iter().filter(|grant| !grant.is_revoke) {
        let (place, on, harmless) = match &grant.scope {
            Scope::Server => ("the whole server".to_owned(), "*.*".to_owned(), HARMLESS),
            Scope::Database(name) => {
                (format!("the whole database {name}"), format!("{}.*", catalogue::quoted(name)), HARMLESS_ON_SOURCE)
            }
            Scope::Table(database, table) if source.iter().any(|name| name.eq_ignore_ascii_case(table)) => (
                table.clone(),
                format!("{}.{}", catalogue::quoted(database), catalogue::quoted(table)),
                HARMLESS_ON_SOURCE,
            ),
            Scope::Table(..) => continue,
        };
        let all = grant.rights.iter().chain(&grant.on_columns);
        let wide: BTreeSet<&str> = all.map(String::as_str).filter(|right| !harmless.contains(right)).collect();
        if wide.is_empty() {
            continue;
        }
        let shown = if wide.contains("ALL PRIVILEGES") || wide.len() <= 5 {
            wide.iter().copied().collect::<Vec<_>>().join(", ")
        } else {
            let first: Vec<&str> = wide.iter().copied().take(4).collect();
            format!("{} and {} more", first.join(", "), wide.len() - 4)
        };
        // GRANT OPTION is revoked by itself: not beside ALL PRIVILEGES ON something.
        let revoke: Vec<String> = if wide.contains("ALL PRIVILEGES") && wide.contains("GRANT OPTION") {
            ["ALL PRIVILEGES", "GRANT OPTION"].map(|right| format!("REVOKE {right} ON {on} FROM {account};")).into()
        } else {
            vec![format!("REVOKE {} ON {on} FROM {account};", wide.into_iter().collect::<Vec<_>>().join(", "))]
        };
        let advice = format!("{} then run daymend doctor again, which says what to grant", revoke.join(" "));
        chart.find(session.account.clone(), format!("{shown} on {place}: more than daymend needs"), advice);
    }
    Ok(chart)
}

async fn roles(patient: &Patient<'_>) -> Result<Chart, DbError> {
    let mut chart = Chart::default();
    if grants(patient).await?.has_roles {
        chart.find(
            server::session(patient).await?.account,
            "has roles, of which SHOW GRANTS may not tell the rights: whether they are too wide is not known",
            "SHOW GRANTS FOR … USING …; or look at the roles' own grants",
        );
    }
    Ok(chart)
}

/// Which of triggers and events the user may not see; they are left out silently.
pub(super) async fn blind_to(patient: &Patient<'_>) -> Result<Vec<&'static str>, DbError> {
    if !patient.is_mysql() {
        return Ok(Vec::new());
    }
    let session = server::session(patient).await?;
    let grants = grants(patient).await?;
    let mut tables = patient.rollups.iter().flat_map(sql_text::source_tables);
    let mut blind = Vec::new();
    if !tables.all(|table| grants.covers("TRIGGER", &session.database, &table)) {
        blind.push("triggers");
    }
    if !grants.covers_database("EVENT", &session.database) {
        blind.push("events");
    }
    Ok(blind)
}

async fn unseen(patient: &Patient<'_>) -> Result<Chart, DbError> {
    let mut chart = Chart::default();
    let blind = blind_to(patient).await?;
    if !blind.is_empty() {
        chart.find(
            server::session(patient).await?.account,
            format!("may not see {}: whether the old ones are still there is not known", blind.join(" and ")),
            "nothing for daymend, which does not need to; run daymend doctor once as an administrator",
        );
    }
    Ok(chart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_quoted_in_two_parts() {
        assert_eq!(quoted_account("daymend@%"), "`daymend`@`%`");
        assert_eq!(quoted_account("da@y`m@10.0.0.%"), "`da@y``m`@`10.0.0.%`");
    }

    #[test]
    fn the_patch_level_of_a_version_is_read() {
        assert_eq!(patch("8.0.21-log"), (8, 0, 21));
        assert!(patch("8.0.36-28") > (8, 0, 22) && patch("8.4.0") > (8, 0, 22));
    }
}
