//! What a definition's SELECT reads, as far as its text tells: its tables, and which of their
//! columns are compared. Pure.
//!
//! This is no parser of SQL: it knows `FROM` and `JOIN`, names with or without an alias, and
//! comparisons of columns that are written with their table. What it does not understand it
//! leaves out, and the doctor then says nothing about it.

use std::collections::BTreeSet;

use crate::rollup::{NamedSql, Rollup, definition::is_identifier};

/// A table of a SELECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// Its name.
    pub(super) name: String,
    /// What the SELECT calls it.
    pub(super) alias: String,
}

/// How a column is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    /// With one value that is given.
    Given,
    /// With a range that is given.
    Range,
    /// With a column of another table.
    Joined,
}

/// What a SELECT reads.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Its tables, in order.
    pub(super) tables: Vec<Table>,
    /// The alias and the column of each comparison.
    comparisons: Vec<(String, String, Comparison)>,
}

impl Reading {
    /// The columns of an index that serves to find a table's rows: those compared with given values,
    /// then one range; where there are none, those that join it. Empty where the text does not tell.
    pub(super) fn index_columns(&self, table: &Table) -> Vec<String> {
        let of = |kind| {
            let fits = move |(alias, _, how): &&(String, String, Comparison)| *alias == table.alias && *how == kind;
            let mut columns: Vec<String> = Vec::new();
            for (_, column, _) in self.comparisons.iter().filter(fits) {
                if !columns.contains(column) {
                    columns.push(column.clone());
                }
            }
            columns
        };
        let mut columns = of(Comparison::Given);
        columns.extend(of(Comparison::Range).into_iter().take(1));
        if columns.is_empty() { of(Comparison::Joined) } else { columns }
    }
}

/// The tables that a rollup's SELECTs read, each once.
pub(super) fn source_tables(rollup: &Rollup) -> BTreeSet<String> {
    let facts = rollup.facts.iter().map(|fact| &fact.sql);
    let all = facts.chain([&rollup.labs, &rollup.days]);
    all.flat_map(|sql| read(sql).tables).map(|table| table.name).collect()
}

/// Reads a SELECT.
pub(super) fn read(sql: &NamedSql) -> Reading {
    let tokens = tokens(&sql.text);
    let mut reading = Reading { tables: tables(&tokens), ..Reading::default() };
    let from = tokens.iter().position(|token| token.eq_ignore_ascii_case("FROM")).unwrap_or(tokens.len());
    let column = |at: &[String]| match at {
        [alias, dot, column] if dot == "." && is_identifier(alias) && is_identifier(column) => {
            Some((alias.clone(), column.clone()))
        }
        _ => None,
    };
    for (at, token) in tokens.iter().enumerate().skip(from) {
        if !matches!(token.as_str(), "=" | "<" | "<=" | ">" | ">=") {
            continue;
        }
        let left = at.checked_sub(3).and_then(|start| column(&tokens[start..at]));
        let right = tokens.get(at + 1..at + 4).and_then(column);
        let is_given = tokens.get(at + 1).is_some_and(|next| next == "?");
        match (left, right) {
            // The table that comes later is found by the one before it.
            (Some(left), Some(right)) if token == "=" => {
                let place =
                    |(alias, _): &(String, String)| reading.tables.iter().position(|table| table.alias == *alias);
                let (alias, name) = match (place(&left), place(&right)) {
                    (Some(left_at), Some(right_at)) if left_at > right_at => left,
                    (Some(left_at), Some(right_at)) if left_at < right_at => right,
                    _ => continue,
                };
                reading.comparisons.push((alias, name, Comparison::Joined));
            }
            (Some((alias, name)), None) if is_given => {
                let how = if token == "=" { Comparison::Given } else { Comparison::Range };
                reading.comparisons.push((alias, name, how));
            }
            _ => {}
        }
    }
    reading
}

fn tables(tokens: &[String]) -> Vec<Table> {
    const NO_ALIAS: &[&str] = &[
        "WHERE",
        "JOIN",
        "LEFT",
        "RIGHT",
        "INNER",
        "CROSS",
        "OUTER",
        "NATURAL",
        "STRAIGHT_JOIN",
        "ON",
        "USING",
        "GROUP",
        "ORDER",
        "LIMIT",
        "HAVING",
        "UNION",
        "FORCE",
        "USE",
        "IGNORE",
        "INDEXED",
        "WINDOW",
        "PARTITION",
    ];
    let mut tables = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        if !token.eq_ignore_ascii_case("FROM") && !token.eq_ignore_ascii_case("JOIN") {
            continue;
        }
        let Some(name) = tokens.get(at + 1).filter(|name| is_identifier(name)) else { continue };
        // A table of another database is another doctor's.
        let mut next = at + 2;
        if tokens.get(next).is_some_and(|dot| dot == ".") {
            continue;
        }
        if tokens.get(next).is_some_and(|word| word.eq_ignore_ascii_case("AS")) {
            next += 1;
        }
        let alias = tokens.get(next).filter(|word| is_identifier(word));
        let alias = alias.filter(|word| !NO_ALIAS.iter().any(|keyword| word.eq_ignore_ascii_case(keyword)));
        tables.push(Table { name: name.clone(), alias: alias.unwrap_or(name).clone() });
    }
    tables
}

/// Words, quoted names without their quotes, and punctuation; comments and strings are left out.
pub(super) fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let taken = match next {
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '\'' => rest[1..].find('\'').map_or(rest.len(), |end| end + 2),
            '`' | '"' => match rest[1..].find(next) {
                Some(end) => {
                    tokens.push(rest[1..=end].to_owned());
                    end + 2
                }
                None => rest.len(),
            },
            c if c.is_alphanumeric() || c == '_' => {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                tokens.push(rest[..end].to_owned());
                end
            }
            '<' | '>' | '!' if rest[1..].starts_with(['=', '>']) => {
                tokens.push(rest[..2].to_owned());
                2
            }
            c if c.is_whitespace() => c.len_utf8(),
            c => {
                tokens.push(c.to_string());
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollup::{HISTORICAL_SUMMARY, Rollups};

    fn sql(text: &str) -> NamedSql {
        NamedSql { file: "x.sql".to_owned(), text: text.to_owned(), parameters: Vec::new() }
    }

    #[test]
    fn the_builtin_definition_reads_six_tables() {
        let rollups = Rollups::load(None).unwrap();
        let tables = source_tables(rollups.get(HISTORICAL_SUMMARY).unwrap());
        let expected = ["allTests", "billing", "billingInfo", "collectedSample", "labReportRelation", "labs"];
        assert_eq!(tables.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_index_of_a_table_is_what_finds_its_rows() {
        let rollups = Rollups::load(None).unwrap();
        let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
        let mut found = BTreeSet::new();
        for fact in &rollup.facts {
            let reading = read(&fact.sql);
            for table in &reading.tables {
                found.insert(format!("{} ({})", table.name, reading.index_columns(table).join(", ")));
            }
        }
        let expected = [
            "allTests (id)",
            "billing (lab_id, billTime)",
            "billingInfo (billing_id)",
            "collectedSample (billing_id)",
            "labReportRelation (billing_id)",
        ];
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn aliases_comments_and_other_databases_are_understood_or_left_out() {
        let reading = read(&sql(
            "SELECT b.t -- FROM nowhere\n FROM bills AS b JOIN `infos` i ON i.bill = b.id JOIN x.y ON 1 = 1 WHERE b.lab = ? AND b.t >= ? AND b.t < ?",
        ));
        let names: Vec<&str> = reading.tables.iter().map(|table| table.name.as_str()).collect();
        assert_eq!(names, ["bills", "infos"]);
        assert_eq!(reading.index_columns(&reading.tables[0]), ["lab", "t"]);
        assert_eq!(reading.index_columns(&reading.tables[1]), ["bill"]);
        let reading = read(&sql("SELECT bill_time FROM bills WHERE lab_id = ?"));
        assert_eq!(reading.index_columns(&reading.tables[0]), Vec::<String>::new());
    }
}
