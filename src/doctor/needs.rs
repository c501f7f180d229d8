//! Which privileges daymend needs: derived from its own statements, so that no list goes out of date.

use std::collections::{BTreeMap, BTreeSet};

use super::Site;
use crate::db::{Dialect, Owner, Statement, scan::tokens};

pub(super) const ALL_FOUR: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];

pub(super) const SCHEMA_TABLE: &str = "daymend_schema";

/// The table that the triggers insert marks into.
const MARKS_TABLE: &str = "daymend_dirty";

/// The lab system's tables that daymend's statements name, besides those of `jobs/`.
pub(super) const OUTPUT_TABLES: [&str; 2] = ["operation_event_log", "crelio_data_migrations"];

/// Tables, each with the privileges that are needed on it.
pub(super) type Needed = BTreeMap<String, BTreeSet<&'static str>>;

/// Each table that daymend uses, with the privileges that its statements need.
pub(super) fn needed(site: &Site<'_>) -> Needed {
    let mut needed = Needed::new();
    for rollup in site.rollups.iter() {
        for table in rollup.source_tables() {
            needed.entry(table).or_default().insert("SELECT");
        }
        needed.entry(rollup.summary.table.clone()).or_default().extend(ALL_FOUR);
    }
    for statement in own_statements() {
        for (table, right) in rights_of(statement) {
            needed.entry(table).or_default().insert(right);
        }
    }
    // Marks are deleted by key, for which each database has its own syntax, so it is not among the statements.
    needed.entry(MARKS_TABLE.to_owned()).or_default().insert("DELETE");
    needed
}

/// The statements that daymend runs on a server in normal operation.
pub(super) fn own_statements() -> impl Iterator<Item = &'static Statement> {
    Statement::all().filter(|statement| statement.owner == Owner::Service && statement.runs_on(Dialect::MySql))
}

/// The privileges that a statement needs, as far as its text tells, on tables that daymend may use.
pub(super) fn rights_of(statement: &Statement) -> BTreeSet<(String, &'static str)> {
    let text = statement.sql(Dialect::MySql).replace("{insert_ignore}", "INSERT IGNORE");
    let tokens = tokens(&text, Some(Dialect::MySql));
    let mut rights = BTreeSet::new();
    for (at, table) in tokens.iter().enumerate() {
        let is_ours = table.starts_with("daymend_") || OUTPUT_TABLES.contains(&table.as_str());
        let before = |back: usize| at.checked_sub(back).map_or("", |at| tokens[at].as_str()).to_uppercase();
        // Not if it qualifies a column: `daymend_jobs.id`.
        if !is_ours || tokens.get(at + 1).is_some_and(|next| next == ".") {
            continue;
        }
        let asked: &[&'static str] = match (before(2).as_str(), before(1).as_str()) {
            (_, "UPDATE") => &["UPDATE"],
            ("DELETE", "FROM") => &["DELETE"],
            ("REPLACE", "INTO") => &["INSERT", "DELETE"],
            (_, "INTO") => &["INSERT"],
            (_, "FROM" | "JOIN") => &["SELECT"],
            _ => &[],
        };
        rights.extend(asked.iter().map(|right| (table.clone(), *right)));
    }
    // What a WHERE compares has to be readable.
    let read: Vec<String> = rights
        .iter()
        .filter(|(_, right)| ["UPDATE", "DELETE"].contains(right))
        .map(|(table, _)| table.clone())
        .collect();
    rights.extend(read.into_iter().map(|table| (table, "SELECT")));
    rights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rights_that_are_needed_follow_from_the_statements() {
        let mut needed: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for (table, right) in own_statements().flat_map(rights_of) {
            needed.entry(table).or_default().insert(right);
        }
        // No statement changes or deletes entries of the admin log.
        assert_eq!(needed["daymend_admin_log"], BTreeSet::from(["INSERT", "SELECT"]));
        assert_eq!(needed["daymend_attempts"], BTreeSet::from(["DELETE", "INSERT", "SELECT"]));
        assert_eq!(needed["daymend_migrations"], BTreeSet::from(["DELETE", "INSERT", "SELECT"]));
        assert_eq!(needed["daymend_labs"], BTreeSet::from(["INSERT", "SELECT", "UPDATE"]));
        assert_eq!(needed["daymend_jobs"], BTreeSet::from(ALL_FOUR));
        assert_eq!(needed["daymend_schema"], BTreeSet::from(["SELECT"]));
        assert_eq!(needed["operation_event_log"], BTreeSet::from(["INSERT"]));
        assert_eq!(needed["crelio_data_migrations"], BTreeSet::from(["INSERT", "SELECT", "UPDATE"]));
    }
}
