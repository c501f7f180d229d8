//! How a definition's SELECT finds its rows, as far as its text tells: which columns of its tables are compared.
//! Pure.
//!
//! This is not a SQL parser: it understands only comparisons of columns qualified with their table. It ignores
//! everything else, and the doctor then says nothing about it.

use crate::{
    db::scan::tokens,
    rollup::{NamedSql, Table, definition::is_identifier},
};

/// How a column is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    /// With one given value.
    Given,
    /// With a given range.
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
    /// The columns of an index that would find a table's rows: those compared with given values, then one range; if
    /// there are none, those that join the table. Empty if the text does not tell.
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

/// Parses a SELECT.
pub(super) fn read(sql: &NamedSql) -> Reading {
    let tokens = tokens(&sql.text, None);
    let mut reading = Reading { tables: sql.tables(), ..Reading::default() };
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
            // The later table is found through the earlier one.
            (Some(left), Some(right)) if token == "=" => {
                let place =
                    |(alias, _): &(String, String)| reading.tables.iter().position(|table| table.alias == *alias);
                let (alias, name) = match (place(&left), place(&right)) {
                    (Some(left_at), Some(right_at)) if left_at > right_at => left,
                    (Some(left_at), Some(right_at)) if left_at < right_at => right,
                    // An alias that is not a table stands for the facts that these rows are part of, which come first.
                    (Some(_), None) => left,
                    (None, Some(_)) => right,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rollup::{HISTORICAL_SUMMARY, Rollups};

    fn sql(text: &str) -> NamedSql {
        NamedSql { file: "x.sql".to_owned(), text: text.to_owned(), parameters: Vec::new() }
    }

    #[test]
    fn the_builtin_definition_reads_six_tables() {
        let rollups = Rollups::load(None).unwrap();
        let tables = rollups.get(HISTORICAL_SUMMARY).unwrap().source_tables();
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
