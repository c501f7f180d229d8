//! Why a definition cannot be used with a database: where in the definition, and the database's message.

use std::fmt;

use super::{NamedSql, Rollup};
use crate::db::{DbError, ErrorKind};

/// A reason why a definition cannot be used with a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Where in the definition, such as `jobs/historical_summary/bills.sql`.
    pub place: String,
    /// The line there, if known.
    pub line: Option<usize>,
    /// What is wrong; in the database's words, if it said so.
    pub what: String,
    /// Whether a privilege is missing.
    pub is_denied: bool,
    /// Whether a table is missing.
    pub is_absent: bool,
    /// Whether nothing that the definition reads is there.
    pub is_elsewhere: bool,
}

/// What to do if [`Misfit::is_elsewhere`].
pub const CHECK_URL: &str = "Check the database's URL";

impl Misfit {
    /// For a statement of `place` that the database rejects. An error that the database is unreachable or busy says
    /// nothing about the statement, and is returned as it is.
    pub fn refused(place: &str, error: DbError) -> Result<Self, DbError> {
        match error.kind {
            ErrorKind::Unavailable | ErrorKind::Conflict => Err(error),
            ErrorKind::Definition | ErrorKind::Other => {
                let what = format!("statement {:?}: {}", error.statement, error.source);
                let (is_denied, is_absent) = (error.is_denied(), error.is_absent());
                Ok(Self { is_denied, is_absent, ..Self::new(place.to_owned(), what) })
            }
        }
    }

    /// Likewise for a SELECT that the database rejects.
    pub(super) fn refused_select(rollup: &Rollup, sql: &NamedSql, error: DbError) -> Result<Self, DbError> {
        let what = error.source.to_string();
        let line = line_of(&sql.text, &what);
        Ok(Self { line, what, ..Self::refused(&rollup.path(&sql.file), error)? })
    }

    /// For a SELECT whose result lacks a column.
    pub(super) fn lacking(rollup: &Rollup, sql: &NamedSql, column: &str) -> Self {
        let what = format!("the column {column} is missing from its result");
        Self::new(rollup.path(&sql.file), what)
    }

    /// For a definition of whose tables the database has none.
    pub(super) fn elsewhere(rollup: &Rollup) -> Self {
        let what = "no table that it reads is here; is this the lab system's database?".to_owned();
        Self { is_absent: true, is_elsewhere: true, ..Self::new(rollup.folder.display().to_string(), what) }
    }

    fn new(place: String, what: String) -> Self {
        Self { place, line: None, what, is_denied: false, is_absent: false, is_elsewhere: false }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.line.map(|line| format!(":{line}")).unwrap_or_default();
        write!(f, "{}{line}: {}", self.place, self.what)?;
        if self.is_elsewhere { write!(f, " {CHECK_URL}") } else { Ok(()) }
    }
}

/// The line (from 1) that a database's message is about: the first line, outside of comments, with a quoted name of the
/// message, or else with its last word. The message may qualify a name (`billing.isCancelled`) that the text does not.
fn line_of(text: &str, message: &str) -> Option<usize> {
    let quoted = ['\'', '`', '"'].into_iter().flat_map(|quote| message.split(quote).skip(1).step_by(2));
    let named = quoted.chain(message.rsplit([' ', ':']).next());
    named.flat_map(|name| [Some(name), name.rsplit_once('.').map(|(_, last)| last)]).flatten().find_map(|name| {
        let first = name.lines().next().filter(|first| !first.is_empty())?;
        let is_code = |line: &str| !line.trim_start().starts_with("--");
        text.lines().position(|line| is_code(line) && has_word(line, first)).map(|line| line + 1)
    })
}

fn has_word(line: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_word) && !line[at + word.len()..].starts_with(is_word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_is_away_or_busy_says_nothing_of_a_statement() {
        let refused = |source| Misfit::refused("bills.sql", DbError::new("facts", source)).map(|misfit| misfit.what);
        assert!(refused(sqlx::Error::PoolTimedOut).is_err());
        assert!(Misfit::refused("bills.sql", DbError::changed("facts")).is_err());
        assert!(refused(sqlx::Error::ColumnNotFound("id".to_owned())).unwrap().starts_with("statement \"facts\": "));
    }

    #[test]
    fn the_line_is_found_by_what_the_database_names() {
        let text = "-- branch_id FORM labs\nSELECT billing.id AS id,\n  billing.lab_id AS part,\n  b.branch_id\nFORM billing\n";
        for (message, line) in [
            ("1054 (42S22): Unknown column 'b.branch_id' in 'field list'", Some(4)),
            ("error returned from database: (code: 1) no such column: billing.lab_id", Some(3)),
            ("no such column: b.branch_id", Some(4)),
            ("(code: 1) near \"FORM\": syntax error", Some(5)),
            ("1146 (42S02): Table 'site.billing' doesn't exist", Some(2)),
            ("1064 (42000): You have an error, right syntax to use near 'FORM billing\n' at line 5", Some(5)),
            ("SELECT command denied to user 'd'@'h' for column 'branch_id' in table 'billing'", Some(4)),
            ("no such column: branch", None),
        ] {
            assert_eq!(line_of(text, message), line, "{message}");
        }
    }
}
