//! A statement in the form that transactions run.

use std::borrow::Cow;

use super::{DbClock, Dialect, Statement};

/// A statement's text and its name: in errors, and in the comment that the server's slow-query log and process list
/// show.
#[derive(Debug)]
pub struct Query<'a> {
    pub(super) name: &'a str,
    sql: Cow<'a, str>,
    /// SQLite's text, where it differs.
    on_sqlite: Option<Cow<'a, str>>,
    /// Whether it is kept prepared.
    pub(super) is_kept: bool,
}

/// A statement whose text depends on the number of items is only kept prepared up to this many: each number makes
/// another text, and a server limits the prepared statements of all its clients together (`max_prepared_stmt_count`).
const ITEMS_KEPT_MAX: usize = 16;

impl<'a> Query<'a> {
    /// A statement under a name; the text is sent with a comment that has the name.
    #[must_use]
    pub fn new(name: &'a str, sql: impl Into<Cow<'a, str>>) -> Self {
        Self { name, sql: sql.into(), on_sqlite: None, is_kept: true }
    }

    /// A statement whose text depends on the number of items, which `fill` puts in. It is only kept prepared if they are
    /// few, because most calls have other numbers.
    #[must_use]
    pub(super) fn of_items(statement: &Statement, count: usize, fill: impl Fn(&str) -> String) -> Self {
        let on_sqlite = statement.on_sqlite.map(|text| fill(text).into());
        Self { name: statement.name, sql: fill(statement.text).into(), on_sqlite, is_kept: count <= ITEMS_KEPT_MAX }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The text on a database, without the comment and with the tokens of [`Dialect`].
    #[must_use]
    pub fn sql(&self, dialect: Dialect) -> &str {
        match (dialect, &self.on_sqlite) {
            (Dialect::Sqlite, Some(text)) => text,
            _ => &self.sql,
        }
    }

    /// The text as it is sent.
    pub(super) fn render(&self, dialect: Dialect, clock: &DbClock) -> String {
        // The name may be that of a file, and a line break in it would end the comment.
        let name = self.name.replace(char::is_control, " ");
        format!("-- daymend: {name}\n{}", dialect.render(self.sql(dialect), clock))
    }

    /// The same query, kept prepared: this exact text is run often.
    #[must_use]
    pub fn kept(self) -> Self {
        Self { is_kept: true, ..self }
    }

    /// The same query, not kept prepared, neither here nor in the server: this exact text is hardly ever run again.
    #[must_use]
    pub fn once(self) -> Self {
        Self { is_kept: false, ..self }
    }
}

impl<'a> From<&'a Statement> for Query<'a> {
    fn from(statement: &'a Statement) -> Self {
        let on_sqlite = Some(statement.sql(Dialect::Sqlite).into());
        Self { on_sqlite, ..Self::new(statement.name, statement.sql(Dialect::MySql)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_ends_the_comment_that_it_is_in() {
        let sent = |name: &str, sql: &str| Query::new(name, sql).render(Dialect::MySql, &DbClock::Database);
        assert_eq!(sent("claim", "SELECT {now}"), "-- daymend: claim\nSELECT UTC_TIMESTAMP(6)");
        assert_eq!(sent("a\nDROP\r\0{now}.sql", "SELECT 1"), "-- daymend: a DROP  {now}.sql\nSELECT 1");
        assert_eq!(sent("*/ b", "-- c\nWITH d"), "-- daymend: */ b\n-- c\nWITH d");
    }
}
