//! The privileges of daymend's user: which are missing, and which it should not have.
//!
//! Privileges that SHOW GRANTS lists directly are taken from there. For the others the server is asked: it checks
//! privileges when a statement is prepared, and none of these statements is ever executed. This way, privileges from
//! roles and on columns count too.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Check, Findings, Severity, Site, catalogue,
    grants_file::GrantsFile,
    look,
    needs::{ALL_FOUR, SCHEMA_TABLE, needed, own_statements, rights_of},
    privileges::{Grants, Scope},
    server,
};
use crate::{
    args,
    db::{Db, DbError, Dialect, Query, Tx, code, migrate},
    recompute::stored,
    rollup::{NamedSql, Rollup, misfit::Misfit, source},
    statement,
};

pub(super) const CHECKS: &[Check] = &[
    Check::new("grants.narrow", Severity::Error, "the rights that daymend needs", look!(narrow)).mysql(),
    Check::new("grants.wide", Severity::Warning, "rights that daymend does not need", look!(wide)).mysql(),
    Check::new(
        "grants.administrator",
        Severity::Note,
        "whether this is an administrator's account",
        look!(administrator),
    )
    .mysql(),
    Check::new("grants.roles", Severity::Note, "roles", look!(roles)).mysql(),
    Check::new("grants.unseen", Severity::Note, "the rights to see triggers and events", look!(unseen)).mysql(),
];

statement!(Doctor: GRANTS, "doctor grants", mysql only: "SHOW GRANTS FOR CURRENT_USER");

statement!(
    Doctor: TRIGGERS_OF_ACCOUNT,
    "doctor triggers of this account",
    mysql only: "SELECT DISTINCT event_object_table FROM information_schema.triggers
         WHERE trigger_schema = DATABASE() AND definer = CURRENT_USER()"
);

/// Server-wide privileges that do no harm: they only allow watching the server.
const HARMLESS: &[&str] = &["PROCESS", "REPLICATION CLIENT", "BINLOG MONITOR", "SLAVE MONITOR", "REPLICA MONITOR"];

/// Every privilege on a table, except the harmless ones.
const ALL_ON_TABLE: &[&str] =
    &["ALTER", "CREATE", "CREATE VIEW", "DELETE", "DROP", "INDEX", "INSERT", "REFERENCES", "TRIGGER", "UPDATE"];

/// Privileges on the lab system's tables that do no harm.
const HARMLESS_ON_SOURCE: &[&str] = &["SELECT", "SHOW VIEW", "LOCK TABLES"];

/// What SHOW GRANTS says.
pub(super) async fn grants(site: &Site<'_>) -> Result<Grants, DbError> {
    let lines = site.read(&GRANTS, args![], |row| row.text(0)).await?;
    Ok(Grants::parse(lines.iter().map(String::as_str)))
}

/// An account as written in a statement: `daymend@%` is `` `daymend`@`%` ``.
fn quoted_account(account: &str) -> String {
    let (user, host) = account.rsplit_once('@').unwrap_or((account, "%"));
    format!("{}@{}", catalogue::quoted(user), catalogue::quoted(host))
}

async fn narrow(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let session = server::session(site).await?;
    let grants = grants(site).await?;
    let grant = |rights: &str, table: &str| {
        let (database, table) = (catalogue::quoted(&session.database), catalogue::quoted(table));
        format!("GRANT {rights} ON {database}.{table} TO {};", quoted_account(&session.account))
    };
    let grants_file = GrantsFile::of(site);
    // One connection for all: there are hundreds of statements.
    let mut connection = site.db.connection().await?;
    // Privileges on daymend's tables are only checked once `daymend migrate` has created them.
    let is_behind =
        migrate::check(site.db).await.is_err() && !is_refused(&mut connection, "SELECT", SCHEMA_TABLE).await?;
    for (table, rights) in needed(site) {
        if is_behind && table.starts_with("daymend_") {
            continue;
        }
        let mut missing = Vec::new();
        for right in rights {
            if !grants.covers(right, &session.database, &table) && is_refused(&mut connection, right, &table).await? {
                missing.push(right);
            }
        }
        if !missing.is_empty() {
            let rights: Vec<String> = missing.iter().map(|right| grants_file.right(right, &table)).collect();
            let advice = grant(&rights.join(", "), &table);
            findings.add(table, format!("{} is not granted", missing.join(", ")), advice);
        }
    }
    columns(site, &mut connection, findings, (&grants, &session.database), &grants_file, &grant).await;
    // MySQL before 8.0.22 requires LOCK TABLES for a shared lock on rows that are only read.
    let needs_lock = !session.version.contains("MariaDB") && patch(&session.version) < (8, 0, 22);
    if needs_lock && !grants.has_roles && !grants.covers_database("LOCK TABLES", &session.database) {
        let what = "LOCK TABLES is not granted, which MySQL before 8.0.22 requires for shared locks";
        let on = format!("{}.*", catalogue::quoted(&session.database));
        let advice = format!("GRANT LOCK TABLES ON {on} TO {};", quoted_account(&session.account));
        findings.add(session.database.clone(), what, advice);
    }
    Ok(())
}

fn patch(version: &str) -> (u32, u32, u32) {
    let (major, minor) = server::number(version);
    let third = version.split(|c: char| !c.is_ascii_digit()).nth(2).and_then(|part| part.parse().ok());
    (major, minor, third.unwrap_or(0))
}

/// A table, and a privilege on it.
type Right = (String, &'static str);

/// If privileges are granted on columns only: checks that they cover the columns that daymend's statements name. Tables
/// on which whole privileges are missing have already been reported.
async fn columns(
    site: &Site<'_>,
    connection: &mut Tx,
    findings: &mut Findings,
    (grants, database): (&Grants, &str),
    grants_file: &GrantsFile,
    grant: &impl Fn(&str, &str) -> String,
) {
    let is_first = findings.found.is_empty();
    let whole = |rights: BTreeSet<Right>| {
        let uncovered = rights.iter().filter(|(table, right)| !grants.covers(right, database, table));
        uncovered.map(|(table, right)| grant(&grants_file.right(right, table), table)).collect::<Vec<_>>().join(" ")
    };
    // By file or statement: the database's message, and the privileges that would be sufficient.
    let mut refused: BTreeMap<String, (String, String)> = BTreeMap::new();
    for rollup in site.rollups.iter() {
        let problems = source::check(site.db, rollup)
            .await
            .unwrap_or_default()
            .into_iter()
            .chain(stored::check(site.db, rollup, stored::Access::Write).await.unwrap_or_default());
        for Misfit { place, what, .. } in problems.filter(|problem| problem.is_denied) {
            let selects = rollup.selects().filter(|sql| rollup.path(&sql.file) == place);
            let tables: Vec<_> = selects.flat_map(NamedSql::tables).collect();
            let column = column_denied(&what).and_then(|(column, of)| {
                let is_it = |name: &str| name.eq_ignore_ascii_case(of);
                let table = tables.iter().find(|table| is_it(&table.alias) || is_it(&table.name))?;
                // On the lab system's tables, only this column is granted: others may hold patients' data.
                Some(grant(&format!("SELECT ({})", catalogue::quoted(column)), &table.name))
            });
            let advice = match column {
                Some(advice) => advice,
                None if !is_first => continue,
                None if tables.is_empty() => whole(ALL_FOUR.map(|right| (rollup.summary.table.clone(), right)).into()),
                None => whole(tables.into_iter().map(|table| (table.name, "SELECT")).collect()),
            };
            refused.insert(place, (what, advice));
        }
    }
    for statement in own_statements().filter(|_| is_first) {
        if let Err(error) = connection.columns(statement.written_out(1)).await
            && error.is_denied()
        {
            let advice = whole(rights_of(statement));
            refused.insert(format!("statement {:?}", statement.name), (error.source.to_string(), advice));
        }
    }
    for (place, (what, advice)) in refused {
        findings.add(place, what, format!("if the column exists: {advice}"));
    }
}

/// The column that a SELECT may not read, and its table, from the server's message.
fn column_denied(what: &str) -> Option<(&str, &str)> {
    let (_, named) = what.split_once("SELECT command denied")?.1.split_once(" for column '")?;
    let (column, table) = named.split_once("' in table '")?;
    Some((column, table.split('\'').next()?))
}

/// Asks the server whether it would refuse a statement because of missing privileges on the table. The column does not
/// exist, so the statement could not run anyway; but privileges are checked first.
async fn is_refused(connection: &mut Tx, right: &str, table: &str) -> Result<bool, DbError> {
    let table = catalogue::quoted(table);
    let sql = match right {
        "SELECT" => format!("SELECT 1 FROM {table} WHERE 1 = 0"),
        "INSERT" => format!("INSERT INTO {table} (daymend_doctor) VALUES (1)"),
        "UPDATE" => format!("UPDATE {table} SET daymend_doctor = 1 WHERE 1 = 0"),
        _ => format!("DELETE FROM {table} WHERE 1 = 0"),
    };
    match connection.columns(Query::new("doctor rights", sql)).await {
        Ok(_) => Ok(false),
        Err(error) => match code(&error.source) {
            1044 | 1142 => Ok(true),
            // No such column, or privileges on other columns: it may. A missing table, and a server that accepts no
            // writes at all, are reported by other checks.
            1054 | 1143 | 1146 | 1290 | 1792 | 1836 => Ok(false),
            _ => Err(error),
        },
    }
}

/// An administrator may run the doctor: that is only noted, and no privilege is reported as too wide.
async fn administrator(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    if grants(site).await?.is_administrator() {
        let what = "is an administrator's account: the rights of daymend's own account were not checked";
        let advice = "daymend itself should run as the user `daymend` of deploy/mysql/users.sql";
        findings.add(server::session(site).await?.account, what, advice);
    }
    Ok(())
}

async fn wide(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let grants = grants(site).await?;
    if grants.is_administrator() {
        return Ok(());
    }
    let session = server::session(site).await?;
    let account = quoted_account(&session.account);
    let source: BTreeSet<String> = site.rollups.iter().flat_map(Rollup::source_tables).collect();
    // Triggers run with the privileges of the account that created them: without TRIGGER, every write to their tables
    // would fail.
    let triggered = site.read(&TRIGGERS_OF_ACCOUNT, args![], |row| row.text(0)).await?;
    let needs_trigger = |table: &str| triggered.iter().any(|name| name.eq_ignore_ascii_case(table));
    for grant in grants.grants.iter().filter(|grant| !grant.is_revoke) {
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
        let is_needed =
            |right: &str| right == "TRIGGER" && matches!(&grant.scope, Scope::Table(_, table) if needs_trigger(table));
        let all = grant.rights.iter().chain(&grant.on_columns).map(String::as_str);
        let mut wide: BTreeSet<&str> = all.filter(|right| !harmless.contains(right) && !is_needed(right)).collect();
        // Revoking ALL would also revoke the columns that grants.sql grants, and what triggers need.
        if matches!(grant.scope, Scope::Table(..)) && wide.remove("ALL PRIVILEGES") {
            wide.extend(ALL_ON_TABLE.iter().filter(|right| !is_needed(right)));
            wide.extend(session.version.contains("MariaDB").then_some("DELETE HISTORY"));
        }
        if wide.is_empty() {
            continue;
        }
        let shown = if wide.contains("ALL PRIVILEGES") || wide.len() <= 5 {
            wide.iter().copied().collect::<Vec<_>>().join(", ")
        } else {
            let first: Vec<&str> = wide.iter().copied().take(4).collect();
            format!("{} and {} more", first.join(", "), wide.len() - 4)
        };
        // Revoking either of these on the whole database also revokes TRIGGER on its tables.
        let goes = ["ALL PRIVILEGES", "TRIGGER"].iter().any(|right| wide.contains(right));
        let kept = triggered.iter().filter(|_| goes && grant.scope.includes(&session.database, "*"));
        let keep: String = kept.map(|table| keep_trigger(&session.database, table, &account)).collect();
        // GRANT OPTION has to be revoked by a statement of its own, not together with ALL PRIVILEGES ON something.
        let revoke: Vec<String> = if wide.contains("ALL PRIVILEGES") && wide.contains("GRANT OPTION") {
            ["ALL PRIVILEGES", "GRANT OPTION"].map(|right| format!("REVOKE {right} ON {on} FROM {account};")).into()
        } else {
            vec![format!("REVOKE {} ON {on} FROM {account};", wide.into_iter().collect::<Vec<_>>().join(", "))]
        };
        let advice = format!(
            "if daymend runs as this user: first apply deploy/mysql/grants.sql, {keep}then {} and grant what daymend \
             doctor then asks for{}",
            revoke.join(" "),
            if keep.is_empty() {
                ""
            } else {
                "; beforehand, also grant what this user's own triggers, other than daymend's, read and write"
            }
        );
        findings.add(session.account.clone(), format!("{shown} on {place}: more than daymend needs"), advice);
    }
    Ok(())
}

/// The statement that lets an account keep TRIGGER on a table, without which its triggers there fail.
fn keep_trigger(database: &str, table: &str, account: &str) -> String {
    format!("GRANT TRIGGER ON {}.{} TO {account}; ", catalogue::quoted(database), catalogue::quoted(table))
}

async fn roles(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let grants = grants(site).await?;
    // An account that may do everything gains nothing from a role.
    if grants.has_roles && !grants.is_almighty() {
        findings.add(
            server::session(site).await?.account,
            "has roles, whose rights SHOW GRANTS may not list: whether they are too wide is unknown",
            "SHOW GRANTS FOR … USING …; or check the roles' own grants",
        );
    }
    Ok(())
}

/// Whether the user may see the triggers on these tables; the server silently leaves out those on others.
pub(super) async fn sees_triggers(site: &Site<'_>, tables: &[&str]) -> Result<bool, DbError> {
    if !site.is_mysql() {
        return Ok(true);
    }
    let session = server::session(site).await?;
    let grants = grants(site).await?;
    Ok(tables.iter().all(|table| grants.covers("TRIGGER", &session.database, table)))
}

/// Whether the account's grants say that it may neither see nor create triggers on all of these tables. What its roles
/// may do is not known.
pub async fn is_blind_to_triggers(db: &Db, tables: &[&str]) -> Result<bool, DbError> {
    if db.dialect() == Dialect::Sqlite {
        return Ok(false);
    }
    let lines = db.fetch_all(&GRANTS, args![], |row| row.text(0)).await?;
    let grants = Grants::parse(lines.iter().map(String::as_str));
    Ok(!grants.has_roles && !tables.iter().all(|table| grants.covers("TRIGGER", &db.name(), table)))
}

/// Which of triggers and events the user may not see all of; the server silently leaves them out.
pub(super) async fn blind_to(site: &Site<'_>) -> Result<Vec<&'static str>, DbError> {
    if !site.is_mysql() {
        return Ok(Vec::new());
    }
    let session = server::session(site).await?;
    let grants = grants(site).await?;
    let mut tables = site.rollups.iter().flat_map(Rollup::source_tables);
    let mut blind = Vec::new();
    if !tables.all(|table| grants.covers("TRIGGER", &session.database, &table)) {
        blind.push("triggers");
    }
    if !grants.covers_database("EVENT", &session.database) {
        blind.push("events");
    }
    Ok(blind)
}

async fn unseen(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let blind = blind_to(site).await?;
    if !blind.is_empty() {
        findings.add(
            server::session(site).await?.account,
            format!(
                "may not see all {}: whether the old ones, and daymend's own, exist is unknown",
                blind.join(" and ")
            ),
            "daymend itself does not need to see them; to check, run daymend doctor once as an administrator",
        );
    }
    Ok(())
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
    fn the_column_that_is_denied_is_read() {
        let denied = "1143 (42000): SELECT command denied to user 'a'@'b' for column 'isAccessed' in table 'sample'";
        assert_eq!(column_denied(denied), Some(("isAccessed", "sample")));
        assert_eq!(column_denied("SELECT command denied to user 'a'@'b' for table `lab`.`sample`"), None);
        assert_eq!(column_denied("UPDATE command denied to user 'a'@'b' for column 'x' in table 'sample'"), None);
    }

    #[test]
    fn the_patch_level_of_a_version_is_read() {
        assert_eq!(patch("8.0.21-log"), (8, 0, 21));
        assert!(patch("8.0.36-28") > (8, 0, 22) && patch("8.4.0") > (8, 0, 22));
    }
}
