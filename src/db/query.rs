//! A statement as a transaction runs it.

use std::{borrow::Cow, fmt};

use super::Statement;

/// A statement's text, named for its errors.
#[derive(Debug)]
pub struct Query<'a> {
    pub(super) name: &'a str,
    pub(super) sql: Cow<'a, str>,
    /// Whether it stays prepared.
    pub(super) is_kept: bool,
}

/// Up to how many items the text of a statement for so many of them is kept prepared: each number is a text of its own,
/// and a server has room for so many of all its clients together (`max_prepared_stmt_count`).
const ITEMS_KEPT_MAX: usize = 16;

impl<'a> Query<'a> {
    /// A statement that is not a constant, such as one of a rollup's SELECTs.
    #[must_use]
    pub fn new(name: &'a str, sql: impl Into<Cow<'a, str>>) -> Self {
        Self { name, sql: sql.into(), is_kept: true }
    }

    /// One that is put together while the program runs, opened by the comment that names it.
    #[must_use]
    pub fn named(name: &'a str, sql: impl fmt::Display) -> Self {
        Self::new(name, format!("-- daymend: {name}\n{sql}"))
    }

    /// One whose text is for so many items: kept prepared where they are few, as others come with other numbers.
    #[must_use]
    pub(super) fn of_items(name: &'a str, sql: impl Into<Cow<'a, str>>, count: usize) -> Self {
        Self { is_kept: count <= ITEMS_KEPT_MAX, ..Self::new(name, sql) }
    }

    /// The text.
    #[must_use]
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The same, where this very text comes again and again.
    #[must_use]
    pub fn kept(self) -> Self {
        Self { is_kept: true, ..self }
    }

    /// The same, where this very text hardly comes again: it is not kept prepared, neither here nor in the
    /// server.
    #[must_use]
    pub fn once(self) -> Self {
        Self { is_kept: false, ..self }
    }
}

impl<'a> From<&'a Statement> for Query<'a> {
    fn from(statement: &'a Statement) -> Self {
        Self::new(statement.name, statement.sql)
    }
}
