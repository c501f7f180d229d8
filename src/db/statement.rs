//! Named statements.
//!
//! `statement!` declares a constant with the name and the text of a statement, and registers it, so that a test can
//! prepare every statement on both databases.

use super::Query;

/// A statement: its name and its text, with the tokens of [`crate::db::Dialect`].
///
/// `{list}` stands for a list of placeholders and `{rows}` for a list of rows of
/// placeholders; [`Statement::with_list`] and [`Statement::with_rows`] fill them in.
#[derive(Debug, Clone, Copy)]
pub struct Statement {
    /// Its name, in errors and in the comment that it is sent with.
    pub name: &'static str,
    /// The text.
    pub sql: &'static str,
    /// The text of one row of `{rows}`, such as `(?, ?)`.
    pub row: &'static str,
}

inventory::collect!(Statement);

impl Statement {
    /// The statement with `count` placeholders for `{list}`.
    #[must_use]
    pub fn with_list(&self, count: usize) -> Query<'static> {
        Query::of_items(self.name, self.sql.replace("{list}", &repeat("?", count)), count)
    }

    /// The statement with `count` rows for `{rows}`.
    #[must_use]
    pub fn with_rows(&self, count: usize) -> Query<'static> {
        Query::of_items(self.name, self.sql.replace("{rows}", &repeat(self.row, count)), count)
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
#[macro_export]
macro_rules! statement {
    ($visibility:vis $name:ident, $label:literal, $sql:expr) => {
        $crate::statement!($visibility $name, $label, $sql, "");
    };
    ($visibility:vis $name:ident, $label:literal, $sql:expr, $row:literal) => {
        $visibility const $name: $crate::db::Statement = $crate::db::Statement {
            name: $label,
            sql: $sql,
            row: $row,
        };
        inventory::submit! { $name }
    };
}
