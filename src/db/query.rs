//! A statement in the form that transactions run.

use std::{borrow::Cow, fmt};

use super::Statement;

/// A statement's text, with the name used in errors.
#[derive(Debug)]
pub struct Query<'a> {
    pub(super) name: &'a str,
    pub(super) sql: Cow<'a, str>,
    /// Whether it is kept prepared.
    pub(super) is_kept: bool,
}

/// A statement whose text depends on the number of items is only kept prepared up to this many: each number makes
/// another text, and a server limits the prepared statements of all its clients together (`max_prepared_stmt_count`).
const ITEMS_KEPT_MAX: usize = 16;

impl<'a> Query<'a> {
    /// A statement that is not a constant, such as a rollup's SELECT.
    #[must_use]
    pub fn new(name: &'a str, sql: impl Into<Cow<'a, str>>) -> Self {
        Self { name, sql: sql.into(), is_kept: true }
    }

    /// A statement that is composed at run time; the comment that names it is prepended.
    #[must_use]
    pub fn named(name: &'a str, sql: impl fmt::Display) -> Self {
        Self::new(name, format!("-- daymend: {name}\n{sql}"))
    }

    /// A statement whose text depends on the number of items. It is only kept prepared if they are few, because most
    /// calls have other numbers.
    #[must_use]
    pub(super) fn of_items(name: &'a str, sql: impl Into<Cow<'a, str>>, count: usize) -> Self {
        Self { is_kept: count <= ITEMS_KEPT_MAX, ..Self::new(name, sql) }
    }

    /// The text.
    #[must_use]
    pub fn sql(&self) -> &str {
        &self.sql
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
        Self::new(statement.name, statement.sql)
    }
}
