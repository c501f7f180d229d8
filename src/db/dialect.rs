//! The differences between the two databases, in one table.
//!
//! Statements are written once, with a token in braces where the databases differ. `daymend` speaks two dialects:
//! MySQL (which covers MariaDB: only SQL that both understand is used) and SQLite.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use chrono::DateTime;

/// What `{now}` and `{now_us}` stand for.
#[derive(Debug, Clone, Default)]
pub enum DbClock {
    /// The database's clock.
    #[default]
    Database,
    /// Microseconds since 1970, advanced by hand in tests.
    Driven(Arc<AtomicI64>),
}

/// Which SQL the database understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// MySQL 8.0+ and MariaDB 10.6+.
    MySql,
    /// SQLite, embedded.
    Sqlite,
}

/// Each token, and what it stands for on MySQL and on SQLite.
///
/// - `{now}`: the database's clock as a DATETIME(6) in UTC.
/// - `{now_us}`: the same, as microseconds since 1970-01-01.
/// - `{as_us}`: converts the DATETIME in the parentheses that follow to microseconds since 1970 (whole seconds on
///   SQLite).
/// - `{for_update}`, `{skip_locked}`: row locks. SQLite has none and needs none: its writing transactions exclude each
///   other (`BEGIN IMMEDIATE`).
/// - `{share_nowait}`, `{for_update_nowait}`: row locks that fail if they are not available at once. A transaction that
///   never waits while it holds locks cannot deadlock, so no user's transaction becomes the victim of a deadlock. The
///   two servers share no spelling of the shared lock with NOWAIT: each reads its own from the comments.
/// - `{waiting_for_nobody}`: the same for an INSERT, which may meet a row that a user's transaction has inserted under
///   the same key and not committed; for a DELETE, which locks the row's entries in other indexes after the row itself,
///   while an upsert begins with them; and for an UPDATE by keys. MySQL has no such clause: there they wait for up to a
///   second.
/// - `{force_claim}`: the claim must walk its index in order; without the hint the optimizer may prefer another index
///   and sort (measured: a claim that sorts locks every waiting row).
/// - `{ids}`: a table with the column `id`, from a list of ids that is bound as JSON. It is a SELECT of its own,
///   because MySQL allows no locking clause beside a JSON_TABLE (error 3569).
/// - `{insert_ignore}`: inserts what does not exist yet.
const TOKENS: &[(&str, &str, &str)] = &[
    ("{now}", "UTC_TIMESTAMP(6)", "strftime('%Y-%m-%d %H:%M:%f', 'now')"),
    ("{now_us}", "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)", "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"),
    ("{as_us}", "1000000 * UNIX_TIMESTAMP", "1000000 * unixepoch"),
    ("{for_update}", "FOR UPDATE", ""),
    ("{share_nowait}", "/*M! LOCK IN SHARE MODE NOWAIT */ /*!80000 FOR SHARE NOWAIT */", ""),
    ("{for_update_nowait}", "FOR UPDATE NOWAIT", ""),
    ("{waiting_for_nobody}", "/*M! SET STATEMENT innodb_lock_wait_timeout = 0 FOR */", ""),
    ("{skip_locked}", "FOR UPDATE SKIP LOCKED", ""),
    ("{force_claim}", "FORCE INDEX (daymend_jobs_claim)", ""),
    (
        "{ids}",
        "(SELECT id FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) AS list)",
        "(SELECT value AS id FROM json_each(?))",
    ),
    ("{insert_ignore}", "INSERT IGNORE", "INSERT OR IGNORE"),
];

impl Dialect {
    /// A statement that deletes the rows of `table` whose `key` is in a list, bound as JSON.
    ///
    /// Each row is looked up by its key. With `IN (…)` the servers prefer to scan a small table, and no hint stops
    /// MariaDB from doing so; a scan waits for locks on unrelated rows.
    #[must_use]
    pub(crate) fn delete_by_key(self, table: &str, key: &str) -> String {
        match self {
            Self::MySql => {
                format!("DELETE {table} FROM {{ids}} AS ids STRAIGHT_JOIN {table} ON {table}.{key} = ids.id")
            }
            Self::Sqlite => format!("DELETE FROM {table} WHERE {key} IN {{ids}}"),
        }
    }

    /// A statement that returns `key` and `column` of the rows of `table` whose `key` is in such a list, locked for
    /// writing without waiting; not locked on SQLite, where writers exclude each other.
    ///
    /// Rows are locked by their keys: a range would be locked to its end and one row beyond, and somebody else may just
    /// have inserted that row.
    #[must_use]
    pub(crate) fn lock_by_key(self, table: &str, key: &str, column: &str) -> String {
        match self {
            Self::MySql => format!(
                "SELECT {table}.{key}, {table}.{column}
                 FROM {{ids}} AS ids STRAIGHT_JOIN {table} ON {table}.{key} = ids.id {{for_update_nowait}}"
            ),
            Self::Sqlite => {
                format!("SELECT {key}, {column} FROM {table} WHERE {key} IN {{ids}}")
            }
        }
    }

    /// `sql` with every token replaced.
    #[must_use]
    pub(super) fn render<'a>(self, sql: &'a str, clock: &DbClock) -> Cow<'a, str> {
        let mut sql = Cow::Borrowed(sql);
        if let DbClock::Driven(now_us) = clock
            && sql.contains("{now")
        {
            let now_us = now_us.load(Ordering::SeqCst);
            let now = DateTime::from_timestamp_micros(now_us).unwrap_or_default();
            // A DATETIME wherever it is used, including as a column of a SELECT.
            let literal = if self == Self::MySql { "TIMESTAMP" } else { "" };
            let now = format!("{literal}'{}'", super::instant_text(now));
            sql = Cow::Owned(sql.replace("{now_us}", &now_us.to_string()).replace("{now}", &now));
        }
        for (token, mysql, sqlite) in TOKENS {
            if sql.contains(token) {
                let text = match self {
                    Self::MySql => mysql,
                    Self::Sqlite => sqlite,
                };
                sql = Cow::Owned(sql.replace(token, text));
            }
        }
        sql
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MariaDB, on which most tests run, would take it.
    #[test]
    fn a_list_of_ids_that_is_locked_is_a_select_of_its_own() {
        let select = |sql: &str| Dialect::MySql.render(sql, &DbClock::Database).into_owned();
        let locked = select(&Dialect::MySql.lock_by_key("rows", "id", "count"));
        let parts = select("SELECT id FROM {ids} AS bills {share_nowait}");
        for sql in [locked, parts] {
            assert!(sql.contains(" LOCK ") || sql.contains(" FOR UPDATE "), "{sql}");
            assert_eq!(sql.matches("(SELECT id FROM JSON_TABLE(").count(), 1, "{sql}");
        }
    }
}
