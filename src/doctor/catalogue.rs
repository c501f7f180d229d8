//! The schema as the database itself describes it.
//!
//! MySQL returns the columns of `information_schema` under upper-case names, and some of them as binary strings: they
//! are read by position, and as text.

use super::{Site, is_missing_name};
use crate::{
    args,
    db::{DbError, Dialect, scan::tokens},
    statement,
};

statement!(
    Doctor: COLUMNS,
    "doctor columns",
    mysql:
    "SELECT column_name, is_nullable, column_type, column_default, column_comment, 0 FROM information_schema.columns
     WHERE table_schema = DATABASE() AND table_name = ? ORDER BY ordinal_position",
    sqlite:
    "SELECT name, CASE WHEN \"notnull\" THEN 'NO' ELSE 'YES' END, type, dflt_value, '', pk FROM pragma_table_info(?)"
);

statement!(
    Doctor: INDEXES,
    "doctor indexes",
    mysql:
    "SELECT index_name, 1 - non_unique, CASE WHEN sub_part IS NULL THEN column_name END FROM information_schema.statistics
     WHERE table_schema = DATABASE() AND table_name = ? ORDER BY index_name, seq_in_index",
    sqlite: "SELECT indexes.name, indexes.\"unique\", columns.name
         FROM pragma_index_list(?) AS indexes, pragma_index_info(indexes.name) AS columns
         WHERE indexes.partial = 0 ORDER BY indexes.name, columns.seqno"
);

// Constraint names are unique per database in MySQL, but only per table in MariaDB: there, a clause of another table
// may be returned as well, which is about another column.
statement!(
    Doctor: CHECKS,
    "doctor checks",
    mysql only: "SELECT checks.check_clause
         FROM information_schema.table_constraints AS named
         JOIN information_schema.check_constraints AS checks
           ON checks.constraint_schema = named.constraint_schema AND checks.constraint_name = named.constraint_name
         WHERE named.table_schema = DATABASE() AND named.table_name = ? AND named.constraint_type = 'CHECK' LIMIT 1000"
);

statement!(
    Doctor: TABLE_SQL,
    "doctor table",
    sqlite only: "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?"
);

statement!(
    Doctor: ROUTINES,
    "doctor routines",
    mysql only: "SELECT routine_name, COALESCE(routine_definition, '') FROM information_schema.routines
         WHERE routine_schema = DATABASE() AND LOCATE(?, routine_definition) > 0 LIMIT 1000"
);

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    /// Its name.
    pub(super) name: String,
    /// Whether it may be NULL.
    pub(super) is_nullable: bool,
    /// Its type, as in DDL.
    pub(super) column_type: String,
    /// Its default, if that is a number.
    pub(super) default: Option<i64>,
    /// Its comment.
    pub(super) comment: String,
}

/// An index of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    /// Its name.
    pub(super) name: String,
    /// Whether it is unique.
    pub(super) is_unique: bool,
    /// Its columns, in order; an empty string for an expression or a column prefix.
    pub(super) columns: Vec<String>,
}

impl Index {
    /// Whether the rows with given values of these columns, the last of which may be a range, are contiguous in the
    /// index.
    pub(super) fn serves(&self, wanted: &[String]) -> bool {
        let Some((last, given)) = wanted.split_last() else { return true };
        let leads = |count: usize, column: &String| {
            self.columns.iter().take(count).any(|known| known.eq_ignore_ascii_case(column))
        };
        given.iter().all(|column| leads(given.len(), column)) && leads(wanted.len(), last)
    }

    /// Whether it makes exactly these columns unique.
    pub(super) fn is_unique_key_of(&self, wanted: &[&str]) -> bool {
        let has = |wanted: &&str| self.columns.iter().any(|known| known.eq_ignore_ascii_case(wanted));
        self.is_unique && self.columns.len() == wanted.len() && wanted.iter().all(has)
    }
}

/// A name quoted for use in a statement; both databases accept backticks.
pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// The columns of a table, in order.
pub(super) async fn columns(site: &Site<'_>, table: &str) -> Result<Vec<Column>, DbError> {
    Ok(columns_and_keys(site, table).await?.into_iter().map(|(column, _)| column).collect())
}

/// The columns of a table, each with its position in the primary key, from 1; 0 if it is not part of it, and always 0
/// on MySQL.
async fn columns_and_keys(site: &Site<'_>, table: &str) -> Result<Vec<(Column, i64)>, DbError> {
    site.read(&COLUMNS, args![table], |row| {
        let column = Column {
            name: row.text(0)?,
            is_nullable: row.text(1)?.eq_ignore_ascii_case("YES"),
            column_type: row.text(2)?,
            default: row.text_or_null(3)?.and_then(|text| text.trim_matches('\'').parse().ok()),
            comment: row.text(4)?,
        };
        Ok((column, row.int(5)?))
    })
    .await
}

/// The indexes of a table; the primary key is one of them.
pub(super) async fn indexes(site: &Site<'_>, table: &str) -> Result<Vec<Index>, DbError> {
    let parts = site
        .read(&INDEXES, args![table], |row| {
            Ok((row.text(0)?, row.int(1)? != 0, row.text_or_null(2)?.unwrap_or_default()))
        })
        .await?;
    let mut indexes: Vec<Index> = Vec::new();
    for (name, is_unique, column) in parts {
        match indexes.last_mut() {
            Some(index) if index.name == name => index.columns.push(column),
            _ => indexes.push(Index { name, is_unique, columns: vec![column] }),
        }
    }
    if !site.is_mysql() {
        // A primary key that is the rowid has no index of its own.
        let mut keys = columns_and_keys(site, table).await?;
        keys.retain(|(_, place)| *place > 0);
        keys.sort_unstable_by_key(|(_, place)| *place);
        let columns = keys.into_iter().map(|(column, _)| column.name).collect();
        indexes.push(Index { name: "PRIMARY".to_owned(), is_unique: true, columns });
    }
    Ok(indexes)
}

/// Whether a CHECK constraint of the table mentions a column.
pub(super) async fn has_check(site: &Site<'_>, table: &str, column: &str) -> Result<bool, DbError> {
    if site.is_mysql() {
        let clauses = match site.read(&CHECKS, args![table], |row| row.text(0)).await {
            // MySQL before 8.0.16 has no such view, and enforces no CHECK.
            Err(error) if is_missing_name(&error) => Vec::new(),
            clauses => clauses?,
        };
        let mentions = |clause: &String| mentions(&tokens(&unescaped(clause), Some(Dialect::MySql)), column);
        return Ok(clauses.iter().any(mentions));
    }
    let definition = site.read(&TABLE_SQL, args![table], |row| row.text(0)).await?.pop().unwrap_or_default();
    Ok(checks(&tokens(&definition, Some(Dialect::Sqlite))).into_iter().any(|clause| mentions(clause, column)))
}

/// Undoes the escaping of MySQL's catalogue, which puts a backslash before quotes and backslashes (`_utf8mb4\'text\'`).
/// MariaDB's clauses are as they were written, and have no backslash before the first quote.
fn unescaped(clause: &str) -> String {
    let is_escaped = clause.split_once('\'').is_some_and(|(before, _)| before.ends_with('\\'));
    let mut chars = clause.chars();
    let mut next = || chars.next().map(|c| if is_escaped && c == '\\' { chars.next().unwrap_or(c) } else { c });
    std::iter::from_fn(&mut next).collect()
}

/// The tokens between the parentheses of each CHECK in a `CREATE TABLE`.
fn checks(definition: &[String]) -> Vec<&[String]> {
    let mut checks = Vec::new();
    for (at, words) in definition.windows(2).enumerate() {
        if words[0].eq_ignore_ascii_case("CHECK") && words[1] == "(" {
            let mut depth = 0_u32;
            let is_inside = |token: &&String| {
                match token.as_str() {
                    "(" => depth += 1,
                    ")" => depth -= 1,
                    _ => {}
                }
                depth > 0
            };
            let length = definition[at + 1..].iter().take_while(is_inside).count();
            checks.push(&definition[at + 2..=at + length]);
        }
    }
    checks
}

fn mentions(tokens: &[String], name: &str) -> bool {
    tokens.iter().any(|token| token.eq_ignore_ascii_case(name))
}

/// The stored procedures whose text contains a word: name and text.
pub(super) async fn routines(site: &Site<'_>, word: &str) -> Result<Vec<(String, String)>, DbError> {
    if !site.is_mysql() {
        return Ok(Vec::new());
    }
    site.read(&ROUTINES, args![word], |row| Ok((row.text(0)?, row.text(1)?))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(columns: &[&str]) -> Index {
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        Index { name: "i".to_owned(), is_unique: true, columns }
    }

    #[test]
    fn an_index_serves_what_its_first_columns_find() {
        let wanted = ["lab_id".to_owned(), "billTime".to_owned()];
        assert!(index(&["lab_id", "billTime"]).serves(&wanted));
        assert!(index(&["lab_id", "billtime", "isCancelled"]).serves(&wanted));
        assert!(!index(&["lab_id"]).serves(&wanted));
        assert!(!index(&["billTime", "lab_id"]).serves(&wanted));
        assert!(!index(&["lab_id", "isCancelled", "billTime"]).serves(&wanted));
        assert!(!index(&["lab_id", ""]).serves(&wanted));
    }

    #[test]
    fn a_unique_key_has_exactly_its_columns() {
        assert!(index(&["b", "a"]).is_unique_key_of(&["a", "b"]));
        assert!(!index(&["a"]).is_unique_key_of(&["a", "b"]));
        assert!(!index(&["a", "b", "c"]).is_unique_key_of(&["a", "b"]));
    }

    #[test]
    fn a_check_ends_with_its_own_parenthesis() {
        let mentioned =
            |sql: &str| checks(&tokens(sql, Some(Dialect::Sqlite))).into_iter().any(|clause| mentions(clause, "n"));
        assert!(mentioned("CREATE TABLE t (a TEXT, n INT, CHECK (length(a) > 0 AND n >= 0))"));
        assert!(mentioned("CREATE TABLE t (a TEXT CHECK (a <> ')'), n INT CHECK (((n)) >= 0), \"check\" INT)"));
        assert!(!mentioned("CREATE TABLE t (a TEXT CHECK (length(a) > 0), n INT)"));
        assert!(!mentioned("CREATE TABLE t (\"check\" INT, n INT CHECK (a <> 'n'"));
        assert_eq!(checks(&tokens("CHECK (", None)), [[""; 0]]);
    }

    #[test]
    fn mysql_escapes_the_clauses_of_its_catalogue() {
        let clause = r"((`a` <> _utf8mb4\'it\\\'s\') and (`n` >= 0))";
        assert_eq!(unescaped(clause), r"((`a` <> _utf8mb4'it\'s') and (`n` >= 0))");
        assert!(mentions(&tokens(&unescaped(clause), Some(Dialect::MySql)), "n"));
        let clause = r"`a` <> 'it\'s' and `n` >= 0";
        assert_eq!(unescaped(clause), clause);
    }

    #[test]
    fn names_are_quoted_so_that_they_cannot_end() {
        assert_eq!(quoted("labs"), "`labs`");
        assert_eq!(quoted("a`; DROP TABLE labs"), "`a``; DROP TABLE labs`");
    }
}
