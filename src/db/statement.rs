//! Named statements.
//!
//! `statement!` declares a constant with the name and the text of a statement, and registers it, so that a test can
//! prepare every statement on both databases.

use super::{Dialect, Query};

/// A statement: its name, and its text with the tokens of [`crate::db::Dialect`].
///
/// `{list}` stands for a list of placeholders and `{rows}` for a list of rows of
/// placeholders; [`Statement::with_list`] and [`Statement::with_rows`] fill them in.
#[derive(Debug, Clone, Copy)]
pub struct Statement {
    /// Its name, in errors and in the comment that it is sent with.
    pub name: &'static str,
    /// Who runs it.
    pub owner: Owner,
    pub(super) text: &'static str,
    /// SQLite's text, where it differs.
    pub(super) on_sqlite: Option<&'static str>,
    /// The only database that it is for; `None` means both.
    only: Option<Dialect>,
    /// The text of one row of `{rows}`, such as `(?, ?)`.
    row: &'static str,
}

/// Who runs a statement, which decides whose privileges it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// daymend in normal operation, with the privileges of its own user.
    Service,
    /// `daymend migrate`.
    Migrate,
    /// `daymend doctor`, which notes what it may not see.
    Doctor,
    /// `daymend bench`, on a scratch database.
    Bench,
}

inventory::collect!(Statement);

impl Statement {
    /// A statement for both databases; only for `statement!`, which registers it.
    #[doc(hidden)]
    #[must_use]
    pub const fn new(name: &'static str, owner: Owner, text: &'static str) -> Self {
        Self { name, owner, text, on_sqlite: None, only: None, row: "" }
    }

    /// The same with another text on SQLite.
    #[doc(hidden)]
    #[must_use]
    pub const fn on_sqlite(self, text: &'static str) -> Self {
        Self { on_sqlite: Some(text), ..self }
    }

    /// The same, for one of the databases only.
    #[doc(hidden)]
    #[must_use]
    pub const fn only(self, dialect: Dialect) -> Self {
        Self { only: Some(dialect), ..self }
    }

    /// The same with the text of one row.
    #[doc(hidden)]
    #[must_use]
    pub const fn of_rows(self, row: &'static str) -> Self {
        Self { row, ..self }
    }

    /// Whether it is for a database.
    #[must_use]
    pub fn runs_on(&self, dialect: Dialect) -> bool {
        self.only.is_none_or(|only| only == dialect)
    }

    /// Its text on a database.
    #[must_use]
    pub fn sql(&self, dialect: Dialect) -> &'static str {
        match (dialect, self.on_sqlite) {
            (Dialect::Sqlite, Some(text)) => text,
            _ => self.text,
        }
    }

    /// The statement with `count` placeholders for `{list}`.
    #[must_use]
    pub fn with_list(&self, count: usize) -> Query<'static> {
        Query::of_items(self, count, |text| text.replace("{list}", &repeat("?", count)))
    }

    /// The statement with `count` rows for `{rows}`.
    #[must_use]
    pub fn with_rows(&self, count: usize) -> Query<'static> {
        Query::of_items(self, count, |text| text.replace("{rows}", &repeat(self.row, count)))
    }

    /// The statement with `count` of whatever it has, to be prepared by those who do not know it.
    #[must_use]
    pub fn written_out(&self, count: usize) -> Query<'static> {
        Query::of_items(self, count, |text| {
            text.replace("{list}", &repeat("?", count)).replace("{rows}", &repeat(self.row, count))
        })
    }

    /// Every statement of the program, in no particular order.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        inventory::iter::<Self>()
    }
}

/// `item` repeated `count` times, separated by commas.
#[must_use]
pub fn repeat(item: &str, count: usize) -> String {
    vec![item; count].join(", ")
}

/// Declares a [`Statement`]: `statement!(CLAIM, "claim", "SELECT …")`, with the text of one row as a fourth argument if
/// it has `{rows}`. The text is one literal, or several in a `concat!`.
///
/// Where the databases differ there are two texts, `mysql: "…", sqlite: "…"`; a statement for one of them is
/// `mysql only: "…"` or `sqlite only: "…"`. Another [`Owner`] than the service stands first: `Doctor: LABS, …`.
#[macro_export]
macro_rules! statement {
    (@ $owner:ident, $label:literal, mysql: $mysql:expr, sqlite: $sqlite:expr) => {
        $crate::statement!(@ $owner, $label, $mysql).on_sqlite($sqlite)
    };
    (@ $owner:ident, $label:literal, mysql only: $sql:expr) => {
        $crate::statement!(@ $owner, $label, $sql).only($crate::db::Dialect::MySql)
    };
    (@ $owner:ident, $label:literal, sqlite only: $sql:expr) => {
        $crate::statement!(@ $owner, $label, $sql).only($crate::db::Dialect::Sqlite)
    };
    (@ $owner:ident, $label:literal, $sql:expr) => {
        $crate::db::Statement::new($label, $crate::db::Owner::$owner, $sql)
    };
    (@ $owner:ident, $label:literal, $sql:expr, $row:literal) => {
        $crate::statement!(@ $owner, $label, $sql).of_rows($row)
    };
    ($owner:ident: $visibility:vis $name:ident, $($rest:tt)+) => {
        $visibility const $name: $crate::db::Statement = $crate::statement!(@ $owner, $($rest)+);
        inventory::submit! { $name }
    };
    ($visibility:vis $name:ident, $($rest:tt)+) => {
        $crate::statement!(Service: $visibility $name, $($rest)+);
    };
}
