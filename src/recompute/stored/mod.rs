//! Reading and writing the summary table.
//!
//! Table and column names come from the rollup's checked definition; every value is bound. Rows with an invalid date
//! (`0000-00-00`, `2025-00-00`) belong to no day, so nothing here returns them; the doctor reports them.

mod days;
mod read;
mod write;

use chrono::NaiveDate;

use super::digest;
use crate::{
    db::{Db, DbError, Dialect, Query},
    rollup::{Rollup, Summary, aggregate::Key, misfit::Misfit},
};
pub use days::{days, labs, last_day, next_day};
pub use read::read;
pub(super) use write::write;

/// Stands for a NULL count, which a site's table may allow: it is wrong whatever is expected.
const NO_COUNT: i64 = -1;

/// A row of the summary table, of one lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRow {
    /// Its primary key.
    pub id: i64,
    /// The calendar day.
    pub day: NaiveDate,
    /// The first dimension; NULL only where a site's table allows it.
    pub a: Option<i64>,
    /// The second dimension; NULL only where a site's table allows it.
    pub b: Option<i64>,
    /// The event type.
    pub event: StoredEvent,
    /// The count.
    pub count: i64,
}

impl StoredRow {
    /// The key under which the row could be expected; `None` if a dimension is NULL, or the event type is not one of
    /// the rollup's.
    #[must_use]
    pub fn key(&self) -> Option<Key> {
        match self.event {
            StoredEvent::Known(event) => Some(Key { day: self.day, a: self.a?, b: self.b?, event }),
            StoredEvent::Other(_) => None,
        }
    }
}

/// The event type of a stored row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StoredEvent {
    /// One of the rollup's, by its index in [`Rollup::events`].
    Known(usize),
    /// Another's, or one of the rollup's spelled differently; empty for NULL, which a site's table may allow.
    Other(String),
}

impl StoredEvent {
    /// The event type named in a row's event column.
    #[must_use]
    pub fn new(rollup: &Rollup, name: &str) -> Self {
        rollup.event(name).map_or_else(|| Self::Other(name.to_owned()), Self::Known)
    }

    /// The text of the row's event column.
    #[must_use]
    pub fn name<'a>(&'a self, rollup: &'a Rollup) -> &'a str {
        match self {
            Self::Known(event) => &rollup.events[*event].name,
            Self::Other(name) => name,
        }
    }
}

/// How the summary table is accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It is read.
    Read,
    /// It is read and corrected.
    Write,
}

/// Every statement of `access`, by name, with placeholders for one row.
#[must_use]
pub fn statements(s: &Summary, access: Access, dialect: Dialect) -> Vec<(&'static str, String)> {
    let mut statements = read::statements(s, dialect);
    statements.extend(digest::sql(s, dialect).map(|sql| (digest::NAME, sql)));
    if access == Access::Write {
        statements.extend(write::statements(s, dialect));
    }
    statements
}

/// Checks that every statement of `access` fits the summary table, and that this user may run it; returns the first
/// misfit.
pub async fn check(db: &Db, rollup: &Rollup, access: Access) -> Result<Option<Misfit>, DbError> {
    for (name, sql) in statements(&rollup.summary, access, db.dialect()) {
        if let Err(error) = db.columns(Query::new(name, sql)).await {
            return Misfit::refused(&format!("{} [summary]", rollup.path("rollup.toml")), error).map(Some);
        }
    }
    Ok(None)
}
