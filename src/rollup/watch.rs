//! What to watch for late changes: `watch.toml` in a rollup's folder.
//!
//! The triggers are generated from it ([`crate::triggers`]), and the scheduler uses it to find the days that marks
//! refer to. The file is optional: a definition without it just has no triggers.

use serde::Deserialize;

use super::{FactKind, definition, sql::NamedSql};
use crate::db::scan::tokens;

/// The name of the file.
pub const FILE: &str = "watch.toml";

/// Triggers are named `daymend_<table>_<event>`, in at most 64 characters.
const TABLE_LENGTH_MAX: usize = 48;

/// The source tables whose changes matter; all names are checked identifiers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// The bills.
    pub bill: Bill,
    /// The tables whose rows belong to bills.
    #[serde(default, rename = "part")]
    pub parts: Vec<Part>,
    /// The catalogue that parts refer to.
    pub catalogue: Option<Catalogue>,
}

/// The table of bills.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bill {
    /// Its name.
    pub table: String,
    /// Its primary key.
    pub key: String,
    /// The column of the lab.
    pub lab: String,
    /// The column of the time, in UTC.
    pub time: String,
    /// The other columns that matter.
    pub columns: Vec<String>,
}

/// A table whose rows each belong to a bill.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Its name.
    pub table: String,
    /// Its primary key.
    pub key: String,
    /// The column that refers to the bill.
    pub bill: String,
    /// The other columns that matter.
    pub columns: Vec<String>,
}

/// A table of entries that parts refer to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Its name.
    pub table: String,
    /// Its primary key.
    pub key: String,
    /// The other columns that matter.
    pub columns: Vec<String>,
    /// The part whose rows refer to these entries.
    pub used_in: String,
    /// The column of that part that refers to them.
    pub reference: String,
    /// The fact column that holds an entry's key, for finding stored rows.
    pub dimension: String,
}

/// What a mark says about a changed row, which decides the columns of `daymend_dirty` it fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The lab and the time of a bill.
    Moment,
    /// The bill that the row belongs to. Not the bill's time: the trigger does not see a concurrent transaction that
    /// moves the bill, and the row counts where the bill is when the mark is read.
    Bill,
    /// The entry of the catalogue.
    Test,
}

/// A watched table as its triggers see it.
#[derive(Debug, Clone)]
pub struct Watched<'a> {
    /// Its name.
    pub table: &'a str,
    /// Its primary key.
    pub key: &'a str,
    /// What its marks say.
    pub mark: Mark,
    /// The columns that fill the mark.
    pub marked: Vec<&'a str>,
    /// The columns whose changes matter, including those of the mark and the key.
    pub columns: Vec<&'a str>,
}

impl<'a> Watched<'a> {
    fn new(table: &'a str, key: &'a str, mark: Mark, marked: Vec<&'a str>, others: &'a [String]) -> Self {
        let mut columns = vec![key];
        for column in marked.iter().copied().chain(others.iter().map(String::as_str)) {
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
        Self { table, key, mark, marked, columns }
    }
}

impl Watch {
    /// Every watched table, in the order of the file.
    #[must_use]
    pub fn tables(&self) -> Vec<Watched<'_>> {
        let bill = &self.bill;
        let mut tables =
            vec![Watched::new(&bill.table, &bill.key, Mark::Moment, vec![&bill.lab, &bill.time], &bill.columns)];
        tables.extend(
            self.parts
                .iter()
                .map(|part| Watched::new(&part.table, &part.key, Mark::Bill, vec![&part.bill], &part.columns)),
        );
        tables.extend(self.catalogue.iter().map(|catalogue| {
            Watched::new(&catalogue.table, &catalogue.key, Mark::Test, vec![&catalogue.key], &catalogue.columns)
        }));
        tables
    }

    /// The part whose rows refer to the catalogue.
    #[must_use]
    pub fn users(&self, catalogue: &Catalogue) -> Option<&Part> {
        self.parts.iter().find(|part| part.table == catalogue.used_in)
    }
}

/// Parses the file; on failure, returns every problem with its line, which is the first line that contains the word in
/// question.
pub(super) fn parse(text: &str, facts: &[FactKind]) -> Result<Watch, Vec<(usize, String)>> {
    let watch: Watch = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        vec![(definition::line_of(text, at), error.message().replace('\n', " "))]
    })?;
    let mut problems = Vec::new();
    let mut report = |word: &str, message: String| {
        let at = text.find(&format!("\"{word}\"")).unwrap_or(0);
        problems.push((definition::line_of(text, at), message));
    };
    for table in watch.tables() {
        let names = std::iter::once(&table.table).chain(&table.columns);
        for name in names.filter(|name| !definition::is_identifier(name)) {
            report(name, format!("{name:?} is not a table or column name"));
        }
        if table.table.len() > TABLE_LENGTH_MAX {
            report(table.table, format!("{:?} is too long for the name of a trigger", table.table));
        }
        for fact in facts {
            for column in columns_read(&fact.sql, table.table) {
                if !table.columns.iter().any(|watched| watched.eq_ignore_ascii_case(&column)) {
                    let message = format!("{} reads {}.{column}, which is not watched", fact.sql.file, table.table);
                    report(table.table, message);
                }
            }
        }
    }
    if let Some(catalogue) = &watch.catalogue {
        match watch.users(catalogue) {
            None => report(&catalogue.used_in, format!("{:?} is not the table of a [[part]]", catalogue.used_in)),
            Some(part) if part.bill != catalogue.reference && !part.columns.contains(&catalogue.reference) => {
                report(&catalogue.reference, format!("{:?} is not a column of that part", catalogue.reference));
            }
            Some(_) => {}
        }
        if !facts.iter().any(|fact| fact.columns.contains(&catalogue.dimension)) {
            report(&catalogue.dimension, format!("{:?} is not a column of any fact", catalogue.dimension));
        }
    }
    if problems.is_empty() { Ok(watch) } else { Err(problems) }
}

/// The columns of a table that a SELECT names, qualified by the table's name or by its alias.
fn columns_read(sql: &NamedSql, table: &str) -> Vec<String> {
    let tables = sql.tables().into_iter().filter(|known| known.name.eq_ignore_ascii_case(table));
    let names: Vec<String> = tables.map(|known| known.alias).chain([table.to_owned()]).collect();
    let mut columns = Vec::new();
    for words in tokens(&sql.text, None).windows(3) {
        if let [of, dot, column] = words
            && dot == "."
            && names.iter().any(|name| name.eq_ignore_ascii_case(of))
            && !columns.contains(column)
        {
            columns.push(column.clone());
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollup::{HISTORICAL_SUMMARY, Rollups};

    const TEXT: &str = include_str!("../../jobs/historical_summary/watch.toml");

    fn problems(replace: &str, with: &str) -> Vec<(usize, String)> {
        assert!(TEXT.contains(replace), "{replace:?} is not in {FILE}");
        let rollups = Rollups::load(None).unwrap();
        let facts = &rollups.get(HISTORICAL_SUMMARY).unwrap().facts;
        parse(&TEXT.replacen(replace, with, 1), facts).err().unwrap_or_default()
    }

    #[test]
    fn the_builtin_definition_watches_five_tables() {
        let rollups = Rollups::load(None).unwrap();
        let watch = rollups.get(HISTORICAL_SUMMARY).unwrap().watch.as_ref().unwrap();
        let tables = watch.tables();
        let tables: Vec<_> = tables.iter().map(|table| (table.table, table.columns.join(" "))).collect();
        let expected = [
            ("billing", "id lab_id billTime isCancelled"),
            ("billingInfo", "billing_id organization_id referral_id branch_id"),
            ("labReportRelation", "id billing_id test_id isCancelled"),
            ("collectedSample", "id billing_id sampleType_id isAccessed"),
            ("allTests", "id department_id"),
        ];
        assert_eq!(tables, expected.map(|(table, columns)| (table, columns.to_owned())));
    }

    #[test]
    fn a_column_that_facts_read_and_nobody_watches_is_named() {
        let found = problems("\"test_id\", \"isCancelled\"", "\"test_id\"");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].1.contains("tests.sql reads labReportRelation.isCancelled"), "{found:?}");
    }

    #[test]
    fn a_column_is_read_whatever_the_table_is_called() {
        let text = "SELECT b.Status, `b`.`type`, billing.lab, other.x, 'b.text' FROM Billing AS B -- b.comment
                    JOIN billing parent ON parent.id = B.parent JOIN other ON 1 = 1";
        let sql = NamedSql { file: "x.sql".to_owned(), text: text.to_owned(), parameters: Vec::new() };
        assert_eq!(columns_read(&sql, "billing"), ["Status", "type", "lab", "id", "parent"]);
    }

    #[test]
    fn each_problem_has_its_line() {
        let cases = [
            ("table = \"collectedSample\"", "table = \"a b\"", "\"a b\" is not a table or column name"),
            ("used_in = \"labReportRelation\"", "used_in = \"labReports\"", "\"labReports\" is not the table of a"),
            ("reference = \"test_id\"", "reference = \"testId\"", "\"testId\" is not a column of that part"),
            ("dimension = \"test_id\"", "dimension = \"testId\"", "\"testId\" is not a column of any fact"),
        ];
        for (replace, with, expected) in cases {
            let line = definition::line_of(TEXT, TEXT.find(replace).unwrap());
            let found = problems(replace, with);
            assert!(found.iter().any(|(at, message)| *at == line && message.contains(expected)), "{found:?}");
        }
        assert!(problems("key = \"id\"", "kee = \"id\"")[0].1.contains("kee"));
        let long = |length: usize| problems("collectedSample", &"x".repeat(length));
        assert!(long(49).iter().any(|(_, message)| message.contains("is too long for the name of a trigger")));
        assert_eq!(long(48), []);
    }
}
