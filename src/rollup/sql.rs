//! SELECTs with named parameters (`:lab_id`, `:from`, `:until`, a kind of facts), and the tables that they read.
//!
//! The databases only support `?`; named parameters are found by scanning the text once, skipping string literals,
//! quoted names and comments, so that a value is always bound and never spliced in.

use super::definition::is_identifier;
use crate::db::{
    Arg, Dialect,
    scan::{Piece, piece, tokens},
};

/// A statement of a definition, ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSql {
    /// The file it came from, for messages.
    pub file: String,
    /// The text with a placeholder for each parameter.
    pub text: String,
    /// The parameter of each placeholder, in order.
    pub parameters: Vec<String>,
}

/// A table that a SELECT reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// Its name.
    pub(crate) name: String,
    /// Its alias in the SELECT.
    pub(crate) alias: String,
}

/// What is wrong with a statement, and on which line (from 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) line: usize,
    pub(super) message: String,
}

impl NamedSql {
    /// The arguments in the order of the placeholders.
    ///
    /// `value` must know every parameter that [`NamedSql::parse`] allowed.
    #[must_use]
    pub fn bind(&self, value: impl Fn(&str) -> Arg) -> Vec<Arg> {
        self.parameters.iter().map(|name| value(name)).collect()
    }

    /// The tables that it reads, as far as its text shows: the names after FROM and JOIN. Anything that is not
    /// understood, and tables of other databases, are left out.
    pub(crate) fn tables(&self) -> Vec<Table> {
        tables(&tokens(&self.text, None))
    }

    /// Parses a SELECT that may use the parameters `allowed`.
    pub(super) fn parse(file: &str, source: &str, allowed: &[&str]) -> Result<Self, Problem> {
        Self::read(file, source, allowed, "?")
    }

    /// Parses a SELECT that starts from facts of the kind `of`: `:of` stands for a table of their ids, under the same
    /// name. Its only parameter is a list of ids as JSON.
    pub(super) fn parse_part(file: &str, source: &str, of: &str) -> Result<Self, Problem> {
        Self::read(file, source, &[of], &format!("{{ids}} AS {of}"))
    }

    fn read(file: &str, source: &str, allowed: &[&str], placeholder: &str) -> Result<Self, Problem> {
        let mut parameters = Vec::new();
        let mut text = String::with_capacity(source.len());
        let mut code = String::new();
        let mut line = 1;
        let mut rest = source;
        while let Some(next) = rest.chars().next() {
            let problem = |message: String| Err(Problem { line, message });
            let Some((this, length)) = piece(rest, None) else { break };
            match (this, next) {
                (Piece::Unclosed, '/') => return problem("a comment is not closed".to_owned()),
                (Piece::Unclosed, _) => return problem(format!("a {next} is not closed")),
                (Piece::Text | Piece::Name, _) if piece(rest, Some(Dialect::MySql)) != Some((this, length)) => {
                    return problem("MySQL and SQLite understand a backslash before a quote differently".to_owned());
                }
                (Piece::Comment | Piece::Text | Piece::Name, _) => {}
                (_, '?') => return problem("use named parameters such as :lab_id, not ?".to_owned()),
                (_, ';') => return problem("one SELECT without a semicolon is expected".to_owned()),
                (_, ':') => {
                    let name: String =
                        rest[1..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                    if !allowed.contains(&name.as_str()) {
                        return problem(format!("unknown parameter :{name} (known: :{})", allowed.join(", :")));
                    }
                    rest = &rest[1 + name.len()..];
                    parameters.push(name);
                    text.push_str(placeholder);
                    code.push('?');
                    continue;
                }
                _ => code.push_str(&rest[..length]),
            }
            line += rest[..length].matches('\n').count();
            text.push_str(&rest[..length]);
            rest = &rest[length..];
        }
        let first_word: String = code.trim_start().chars().take_while(char::is_ascii_alphabetic).collect();
        if !first_word.eq_ignore_ascii_case("select") {
            return Err(Problem { line: 1, message: "a SELECT is expected".to_owned() });
        }
        if let Some(missing) = allowed.iter().find(|name| !parameters.iter().any(|known| known == *name)) {
            return Err(Problem { line: 1, message: format!("the parameter :{missing} is not used") });
        }
        Ok(Self { file: file.to_owned(), text, parameters })
    }
}

/// The tables of a SELECT.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_placeholders_but_not_inside_strings_or_comments() {
        let sql = NamedSql::parse(
            "x.sql",
            "SELECT ':from' -- :from\nFROM t WHERE a = :from AND b = :lab_id",
            &["lab_id", "from"],
        )
        .unwrap();
        assert_eq!(sql.text, "SELECT ':from' -- :from\nFROM t WHERE a = ? AND b = ?");
        assert_eq!(sql.parameters, ["from", "lab_id"]);
    }

    #[test]
    fn a_part_begins_with_a_table_of_ids() {
        let sql = "SELECT tests.bill AS part_of FROM :bills LEFT JOIN tests ON tests.bill = bills.id";
        let sql = NamedSql::parse_part("x.sql", sql, "bills").unwrap();
        assert_eq!(
            sql.text,
            "SELECT tests.bill AS part_of FROM {ids} AS bills LEFT JOIN tests ON tests.bill = bills.id"
        );
        assert_eq!(sql.parameters, ["bills"]);
        assert_eq!(sql.tables().len(), 1, "{:?}", sql.tables());
        let problem = NamedSql::parse_part("x.sql", "SELECT 1 WHERE 1 = :lab_id", "bills").unwrap_err();
        assert_eq!(problem.message, "unknown parameter :lab_id (known: :bills)");
    }

    #[test]
    fn problems_name_their_line() {
        let line = |source| NamedSql::parse("x.sql", source, &["from"]).unwrap_err().line;
        assert_eq!(line("SELECT 1\nWHERE a = :till"), 2);
        assert_eq!(line("SELECT 1\n\nWHERE a = 'open"), 3);
        assert_eq!(line("SELECT :from\n;DROP TABLE labs"), 2);
        assert_eq!(line("DELETE FROM labs WHERE a = :from"), 1);
        assert_eq!(line("SELECT 1"), 1);
    }

    #[test]
    fn what_the_databases_understand_differently_is_refused() {
        let parse = |source| NamedSql::parse("x.sql", source, &["from"]);
        let problem = parse("SELECT 1\nWHERE a <> 'it\\'s' AND b = ':from' AND c = :from").unwrap_err();
        assert!(problem.line == 2 && problem.message.contains("a backslash before a quote"), "{problem:?}");
        let sql = parse("SELECT 'C:\\\\' # it's :till\nWHERE a <> 'it''s :till' AND c = :from").unwrap();
        assert_eq!(sql.text, "SELECT 'C:\\\\' # it's :till\nWHERE a <> 'it''s :till' AND c = ?");
    }

    #[test]
    fn tables_stand_behind_from_and_join() {
        let text = "SELECT 'FROM a', b.t -- FROM nowhere\n/* JOIN never */ FROM bills AS b JOIN `infos` i ON i.bill = b.id
                    LEFT JOIN(SELECT 1 FROM samples) s ON 1 = 1 JOIN other.tests ON 1 = 1 JOIN \"tests\" WHERE b.lab = ?";
        let sql = NamedSql { file: "x.sql".to_owned(), text: text.to_owned(), parameters: Vec::new() };
        let tables: Vec<String> = sql.tables().into_iter().map(|t| format!("{} {}", t.name, t.alias)).collect();
        assert_eq!(tables, ["bills b", "infos i", "samples samples", "tests tests"]);
    }
}
