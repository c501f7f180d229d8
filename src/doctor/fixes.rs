//! The DDL that keeps faults from coming back. It is printed for a DBA, never executed.
//!
//! Run as it is, the script neither fails half-way nor breaks the lab system: a statement that today's rows would
//! violate, or that could make the lab system's own triggers fail in the middle of a user's transaction, is commented
//! out, below what has to be done first.

use super::{
    Site, catalogue,
    catalogue::quoted,
    examples, grants, replaced,
    summary::{self, Fault, Faulty},
    tables,
};
use crate::{
    args,
    db::{DbError, clipped},
    output::page::one_line,
    rollup::{Rollup, Summary},
    statement,
};

statement!(
    Doctor: DEPENDENTS,
    "doctor dependents",
    sqlite only:
    "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND type IN ('index', 'trigger') AND sql IS NOT NULL ORDER BY name"
);

/// The maximum length of an index name in characters.
const NAME_LENGTH_MAX: usize = 64;

/// A recommended change of the schema.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Fix {
    /// Its id, which names what it prevents.
    pub id: &'static str,
    /// The table.
    pub table: String,
    /// Why.
    pub why: String,
    /// The statements; empty if the database has none for this.
    pub sql: String,
    /// Which of today's rows it would reject, with some of their keys.
    pub rejects: Option<String>,
    /// Whether only the latest rows were checked: older ones may be rejected too.
    pub is_partial: bool,
    /// What has to be done before it can be applied.
    pub first: Vec<String>,
}

/// What is recommended for this database.
pub async fn fixes(site: &Site<'_>) -> Result<Vec<Fix>, DbError> {
    let mut fixes = Vec::new();
    let writers = writers(site).await?;
    for rollup in site.rollups.iter() {
        if catalogue::columns(site, &rollup.summary.table).await?.is_empty() {
            continue;
        }
        if site.is_mysql() {
            fixes.extend(not_null(site, rollup, &writers).await?);
            fixes.extend(unique(site, rollup, &writers).await?);
            fixes.extend(check(site, rollup, &writers).await?);
        } else {
            fixes.extend(unique(site, rollup, &writers).await?);
            fixes.extend(rewritten(site, rollup, &writers).await?);
        }
    }
    for missing in tables::missing_indexes(site).await? {
        let name = format!("daymend_{}_{}", missing.table, missing.columns.join("_"));
        let name = clipped(&name, NAME_LENGTH_MAX);
        let columns: Vec<String> = missing.columns.iter().map(|column| quoted(column)).collect();
        let (name, table, columns) = (quoted(&name), quoted(&missing.table), columns.join(", "));
        let sql = if site.is_mysql() {
            format!("ALTER TABLE {table} ADD INDEX {name} ({columns}), ALGORITHM = INPLACE, LOCK = NONE;")
        } else {
            format!("CREATE INDEX IF NOT EXISTS {name} ON {table} ({columns});")
        };
        let why = format!("{} {}", missing.file, missing.how);
        fixes.push(Fix {
            id: "indexes.facts",
            table: missing.table,
            why,
            sql,
            rejects: None,
            is_partial: false,
            first: Vec::new(),
        });
    }
    Ok(fixes)
}

/// Why a constraint has to wait for the lab system: a delta trigger that violates it makes the user's own transaction
/// fail.
async fn writers(site: &Site<'_>) -> Result<Vec<String>, DbError> {
    let triggers = replaced::delta_triggers(site).await?;
    if !triggers.is_empty() {
        let names = examples(triggers.iter().map(|trigger| trigger.name.as_str()));
        return Ok(vec![format!(
            "drop or change the triggers that write to this table ({names}): if one violates the constraint, the \
             user's own transaction fails"
        )]);
    }
    if grants::blind_to(site).await?.contains(&"triggers") {
        return Ok(vec!["this user may not see triggers: make sure that none writes to this table".to_owned()]);
    }
    Ok(Vec::new())
}

fn fix(id: &'static str, summary: &Summary, why: impl Into<String>, sql: String, writers: &[String]) -> Fix {
    let (table, why) = (summary.table.clone(), why.into());
    Fix { id, table, why, sql, rejects: None, is_partial: false, first: writers.to_vec() }
}

impl Fix {
    /// Records which of today's rows the fix would reject.
    fn refusing(mut self, faulty: &Faulty, fault: Fault) -> Self {
        self.is_partial |= faulty.is_partial;
        if faulty.count > 0 {
            let rows = faulty.describe(fault);
            self.rejects = Some(self.rejects.map_or(rows.clone(), |known| format!("{known}; {rows}")));
            if !self.first.contains(&faulty.repair) {
                self.first.insert(0, faulty.repair.clone());
            }
        }
        self
    }

    /// Its part of the script.
    fn script(&self) -> String {
        let mut text = format!("\n{}", comment(&format!("{}: {}.", self.id, self.why)));
        let rejects = self.rejects.as_deref().unwrap_or("nothing");
        let partial = if self.is_partial { " Older rows were not checked: run daymend audit." } else { "" };
        text += &comment(&format!("Would reject today: {rejects}.{partial}"));
        for first in &self.first {
            text += &comment(&format!("First: {first}"));
        }
        if self.first.is_empty() {
            text += &self.sql;
            text.push('\n');
        } else {
            for line in self.sql.lines() {
                text += &comment(line);
            }
        }
        text
    }
}

/// A one-line comment, whatever data it contains.
fn comment(text: &str) -> String {
    format!("-- {}\n", one_line(text).trim_end())
}

/// The script for a client of the database.
#[must_use]
pub fn script(fixes: &[Fix]) -> String {
    let mut text = comment("From daymend doctor --print-fixes. daymend itself applies none of this.");
    text += &comment(
        "A statement below \"First:\" is commented out: do what that line says, then print this script again.",
    );
    text += &comment(
        "Each statement may rewrite its table: choose a quiet hour, or use gh-ost or pt-online-schema-change.",
    );
    for fix in fixes {
        text += &fix.script();
    }
    if fixes.is_empty() {
        text += &comment("Nothing is recommended.");
    }
    text
}

async fn not_null(site: &Site<'_>, rollup: &Rollup, writers: &[String]) -> Result<Option<Fix>, DbError> {
    let s = &rollup.summary;
    let columns = summary::nullable_dimensions(site, s).await?;
    if columns.is_empty() {
        return Ok(None);
    }
    let parts: Vec<String> = columns
        .iter()
        .map(|column| {
            let comment = match column.comment.as_str() {
                "" => String::new(),
                text => format!(" COMMENT '{}'", text.replace('\\', "\\\\").replace('\'', "''")),
            };
            let default = column.default.unwrap_or(0);
            format!("  MODIFY {} {} NOT NULL DEFAULT {default}{comment}", quoted(&column.name), column.column_type)
        })
        .collect();
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let sql = format!("ALTER TABLE {}\n{};", quoted(&s.table), parts.join(",\n"));
    let why = format!("{} may be NULL, and a unique key does not reject duplicates with NULL", names.join(" and "));
    let faulty = summary::faulty(site, rollup, Fault::NullDimension).await?;
    Ok(Some(fix("summary.nullable", s, why, sql, writers).refusing(&faulty, Fault::NullDimension)))
}

async fn unique(site: &Site<'_>, rollup: &Rollup, writers: &[String]) -> Result<Option<Fix>, DbError> {
    let s = &rollup.summary;
    if summary::has_unique_key(site, s).await? {
        return Ok(None);
    }
    let columns: Vec<String> = summary::key(s).iter().map(|column| quoted(column)).collect();
    let taken = catalogue::indexes(site, &s.table).await?.iter().any(|index| index.name == "summary_key");
    let name = quoted(if taken { "daymend_summary_key" } else { "summary_key" });
    let (table, columns) = (quoted(&s.table), columns.join(", "));
    let sql = if site.is_mysql() {
        format!("ALTER TABLE {table} ADD UNIQUE KEY {name} ({columns});")
    } else {
        format!("CREATE UNIQUE INDEX {name} ON {table} ({columns});")
    };
    let faulty = summary::faulty(site, rollup, Fault::Duplicate).await?;
    let why = "no unique key prevents duplicate rows";
    Ok(Some(fix("summary.unique", s, why, sql, writers).refusing(&faulty, Fault::Duplicate)))
}

async fn check(site: &Site<'_>, rollup: &Rollup, writers: &[String]) -> Result<Option<Fix>, DbError> {
    let s = &rollup.summary;
    if catalogue::has_check(site, &s.table, &s.count).await? {
        return Ok(None);
    }
    let (table, count) = (quoted(&s.table), quoted(&s.count));
    let name = quoted(&clipped(&format!("daymend_{}_not_negative", s.count), NAME_LENGTH_MAX));
    let sql = format!("ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({count} >= 0);");
    let faulty = summary::faulty(site, rollup, Fault::Negative).await?;
    let why = format!("no CHECK keeps {} from becoming negative", s.count);
    Ok(Some(fix("summary.negative", s, why, sql, writers).refusing(&faulty, Fault::Negative)))
}

/// SQLite cannot change a column or add a CHECK, so the table is rebuilt under its own name.
async fn rewritten(site: &Site<'_>, rollup: &Rollup, writers: &[String]) -> Result<Option<Fix>, DbError> {
    let s = &rollup.summary;
    let is_nullable = !summary::nullable_dimensions(site, s).await?.is_empty();
    let is_checked = catalogue::has_check(site, &s.table, &s.count).await?;
    if !is_nullable && is_checked {
        return Ok(None);
    }
    let mut why = Vec::new();
    if is_nullable {
        why.push("a dimension may be NULL, and a unique key does not reject duplicates with NULL".to_owned());
    }
    if !is_checked {
        why.push(format!("no CHECK keeps {} from becoming negative", s.count));
    }
    why.push("SQLite cannot alter a column, so the table is rebuilt".to_owned());
    let known =
        [&s.id, &s.lab, &s.day, &s.dimension_a, &s.dimension_b, &s.event, &s.count, &s.created_at, &s.modified_at];
    let columns = catalogue::columns(site, &s.table).await?;
    let is_ours = columns.len() == known.len()
        && columns.iter().all(|column| known.iter().any(|name| name.eq_ignore_ascii_case(&column.name)));
    let mut writers = writers.to_vec();
    if !is_ours {
        writers.push("the table has columns that daymend does not know: add them to both lists below".to_owned());
    }
    let dependents = site.read(&DEPENDENTS, args![s.table.as_str()], |row| row.text(0)).await?;
    let id = if is_nullable { "summary.nullable" } else { "summary.negative" };
    let mut fix = fix(id, s, why.join("; "), rewrite_sql(s, &dependents), &writers);
    for fault in [Fault::NullDimension, Fault::Duplicate, Fault::Negative] {
        fix = fix.refusing(&summary::faulty(site, rollup, fault).await?, fault);
    }
    Ok(Some(fix))
}

/// If a row is rejected after all, `OR ROLLBACK` undoes everything, including the renaming, and the statements after it
/// find nothing to do: a client that continues after an error destroys nothing.
fn rewrite_sql(s: &Summary, dependents: &[String]) -> String {
    let [id, lab, day, a, b, event, count, created, modified] =
        [&s.id, &s.lab, &s.day, &s.dimension_a, &s.dimension_b, &s.event, &s.count, &s.created_at, &s.modified_at]
            .map(|name| quoted(name));
    let (table, old) = (quoted(&s.table), quoted(&format!("{}_before", s.table)));
    let columns = [&id, &lab, &day, &a, &b, &event, &count, &created, &modified].map(String::as_str).join(", ");
    let mut sql = format!(
        "PRAGMA legacy_alter_table = ON;
BEGIN IMMEDIATE;
ALTER TABLE {table} RENAME TO {old};
CREATE TABLE {table} (
    {id} INTEGER PRIMARY KEY AUTOINCREMENT,
    {lab} INTEGER NOT NULL,
    {day} TEXT NOT NULL,
    {a} INTEGER NOT NULL DEFAULT 0,
    {b} INTEGER NOT NULL DEFAULT 0,
    {event} TEXT NOT NULL,
    {count} INTEGER NOT NULL CHECK ({count} >= 0),
    {created} TEXT NOT NULL,
    {modified} TEXT NOT NULL,
    UNIQUE ({lab}, {day}, {a}, {b}, {event})
);
INSERT OR ROLLBACK INTO {table} ({columns})
SELECT {columns} FROM {old};
DROP TABLE {old};
"
    );
    for dependent in dependents {
        sql += dependent.trim_end_matches(';');
        sql += ";\n";
    }
    sql + "COMMIT;\nPRAGMA legacy_alter_table = OFF;"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(first: &[&str], rejects: Option<&str>) -> Fix {
        Fix {
            id: "summary.unique",
            table: "t".to_owned(),
            why: "because".to_owned(),
            sql: "ALTER TABLE t\n  ADD x;".to_owned(),
            rejects: rejects.map(str::to_owned),
            is_partial: false,
            first: first.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    fn statements(script: &str) -> Vec<&str> {
        script.lines().filter(|line| !line.is_empty() && !line.starts_with("-- ")).collect()
    }

    #[test]
    fn what_has_to_wait_is_a_comment() {
        assert_eq!(statements(&script(&[example(&[], None)])), ["ALTER TABLE t", "  ADD x;"]);
        let held = script(&[example(&["daymend rebuild --lab 1"], Some("3 rows"))]);
        assert_eq!(statements(&held), Vec::<&str>::new());
        assert!(held.contains("-- First: daymend rebuild --lab 1\n-- ALTER TABLE t\n--   ADD x;\n"), "{held}");
        assert!(script(&[]).contains("Nothing is recommended"));
    }

    #[test]
    fn data_cannot_end_a_comment() {
        let script = script(&[example(&["x"], Some("branch\r\nDROP TABLE labs;\u{2028}"))]);
        assert_eq!(statements(&script), Vec::<&str>::new());
        assert!(script.contains("branch  DROP TABLE labs;"), "{script}");
    }
}
