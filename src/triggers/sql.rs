//! The triggers as text, for each database. Pure.
//!
//! A trigger only appends marks to `daymend_dirty`: it reads no table, so it waits for nobody, and it writes no row
//! that another session writes, so nobody waits for it.
//!
//! On MySQL every error inside is swallowed (`CONTINUE HANDLER FOR SQLEXCEPTION`): a full disk or a revoked privilege
//! costs the mark, never the user's statement. It uses `INSERT … VALUES` rather than `INSERT … SELECT`, because the
//! latter holds InnoDB's auto-increment lock until the user's statement ends. And it checks unique keys even if the
//! user's session does not: otherwise MariaDB inserts into an empty table in bulk, locks all of it, and undoes more
//! than the statement that fails (MariaDB's manual, "InnoDB Bulk Insert"). SQLite has no handlers; there the table has
//! no constraint that a mark could violate.

use std::fmt::Write as _;

use crate::{
    db::Dialect,
    rollup::watch::{Mark, Watch, Watched},
};

/// The suffixes of trigger names.
pub(super) const EVENTS: [&str; 5] = ["insert", "update", "delete", "replace", "displace"];

/// One trigger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// `daymend_<table>_<what>`.
    pub name: String,
    /// The table it belongs to.
    pub table: String,
    /// `AFTER UPDATE`, and so on.
    pub when: &'static str,
    /// What it does: everything after `FOR EACH ROW`.
    pub body: String,
}

impl Trigger {
    /// The statement that creates it; on MariaDB it replaces an existing one, so that no change goes unmarked in
    /// between.
    #[must_use]
    pub fn create(&self, dialect: Dialect) -> String {
        let or_replace = if dialect == Dialect::MySql { "/*M! OR REPLACE */ " } else { "" };
        let Self { name, table, when, body } = self;
        format!("CREATE {or_replace}TRIGGER {name} {when} ON {table} FOR EACH ROW\n{body}")
    }

    /// The statement that first drops an existing one; does nothing on MariaDB, which replaces it. Each server
    /// executes its own part of the comments.
    #[must_use]
    pub fn make_room(&self, dialect: Dialect) -> String {
        match dialect {
            Dialect::MySql => format!("/*!80000 DROP TRIGGER IF EXISTS {} */ /*M! DO 0 */", self.name),
            Dialect::Sqlite => drop_trigger(&self.name),
        }
    }
}

/// The statement that drops a trigger.
#[must_use]
pub(super) fn drop_trigger(name: &str) -> String {
    format!("DROP TRIGGER IF EXISTS {name}")
}

/// The triggers that a definition needs.
#[must_use]
pub fn triggers(watch: &Watch, dialect: Dialect) -> Vec<Trigger> {
    let mut triggers = Vec::new();
    for table in watch.tables() {
        let mut add = |what: &str, when, body| {
            let name = format!("daymend_{}_{what}", table.table);
            triggers.push(Trigger { name, table: table.table.to_owned(), when, body });
        };
        match dialect {
            Dialect::MySql => {
                add("insert", "AFTER INSERT", mysql_body(&format!("    {}\n", mysql_mark(&table, "NEW"))));
                add("update", "AFTER UPDATE", mysql_body(&mysql_update(&table)));
                add("delete", "AFTER DELETE", mysql_body(&format!("    {}\n", mysql_mark(&table, "OLD"))));
            }
            Dialect::Sqlite => {
                add("insert", "AFTER INSERT", sqlite_body(&[sqlite_mark(&table, "NEW", "")]));
                add("update", "AFTER UPDATE", sqlite_update(&table));
                add("delete", "AFTER DELETE", sqlite_body(&[sqlite_mark(&table, "OLD", "")]));
                // In SQLite, REPLACE fires no DELETE trigger, unless a session enables that.
                add("replace", "BEFORE INSERT", sqlite_body(&[sqlite_replaced(&table)]));
                // Nor does UPDATE OR REPLACE for the row that it displaces.
                add("displace", "BEFORE UPDATE", sqlite_displaced(&table));
            }
        }
    }
    triggers
}

/// The columns of `daymend_dirty` that a mark fills.
fn mark_columns(mark: Mark) -> &'static str {
    match mark {
        Mark::Moment => "lab_id, bill_time",
        Mark::Bill => "bill_id",
        Mark::Test => "test_id",
    }
}

/// `NEW.a, NEW.b`.
fn row(prefix: &str, columns: &[&str]) -> String {
    columns.iter().map(|column| format!("{prefix}.{column}")).collect::<Vec<_>>().join(", ")
}

fn mysql_body(statements: &str) -> String {
    format!("BEGIN\n    DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END;\n{statements}END")
}

/// Opens a statement for which MariaDB checks unique keys.
pub(super) const CHECKED: &str = "/*M! SET STATEMENT unique_checks = 1 FOR */";

fn mysql_mark(table: &Watched<'_>, prefix: &str) -> String {
    let values = row(prefix, &table.marked);
    let columns = mark_columns(table.mark);
    format!("{CHECKED} INSERT INTO daymend_dirty ({columns}, marked_at) VALUES ({values}, UTC_TIMESTAMP(6));")
}

/// `OLD.a <=> NEW.a AND …`
fn mysql_same(columns: &[&str]) -> String {
    columns.iter().map(|column| format!("OLD.{column} <=> NEW.{column}")).collect::<Vec<_>>().join(" AND ")
}

fn mysql_update(table: &Watched<'_>) -> String {
    format!(
        "    IF NOT ({}) THEN\n        {}\n        IF NOT ({}) THEN\n            {}\n        END IF;\n    END IF;\n",
        mysql_same(&table.columns),
        mysql_mark(table, "OLD"),
        mysql_same(&table.marked),
        mysql_mark(table, "NEW"),
    )
}

const SQLITE_NOW: &str = "strftime('%Y-%m-%d %H:%M:%f', 'now')";

fn sqlite_body(statements: &[String]) -> String {
    format!("BEGIN\n    {}\nEND", statements.join("\n    "))
}

fn sqlite_mark(table: &Watched<'_>, prefix: &str, condition: &str) -> String {
    let columns = mark_columns(table.mark);
    let values = row(prefix, &table.marked);
    format!("INSERT INTO daymend_dirty ({columns}, marked_at) SELECT {values}, {SQLITE_NOW}{condition};")
}

/// `OLD.a IS NOT NEW.a OR …`
fn sqlite_differs(columns: &[&str]) -> String {
    columns.iter().map(|column| format!("OLD.{column} IS NOT NEW.{column}")).collect::<Vec<_>>().join(" OR ")
}

fn sqlite_update(table: &Watched<'_>) -> String {
    let moved = format!(" WHERE {}", sqlite_differs(&table.marked));
    let marks = [sqlite_mark(table, "OLD", ""), sqlite_mark(table, "NEW", &moved)];
    format!("WHEN {}\n{}", sqlite_differs(&table.columns), sqlite_body(&marks))
}

fn sqlite_replaced(table: &Watched<'_>) -> String {
    let columns = mark_columns(table.mark);
    let (name, key) = (table.table, table.key);
    let values = row(name, &table.marked);
    format!(
        "INSERT INTO daymend_dirty ({columns}, marked_at) SELECT {values}, {SQLITE_NOW} FROM {name} WHERE {name}.{key} = NEW.{key};"
    )
}

fn sqlite_displaced(table: &Watched<'_>) -> String {
    let key = table.key;
    format!("WHEN OLD.{key} IS NOT NEW.{key}\n{}", sqlite_body(&[sqlite_replaced(table)]))
}

/// A script that installs the triggers, for a database client (`mariadb`, `mysql`, `sqlite3`).
#[must_use]
pub fn script(watch: &Watch, dialect: Dialect) -> String {
    let triggers = triggers(watch, dialect);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match dialect {
        Dialect::MySql => mysql_script(&mut text, &triggers),
        Dialect::Sqlite => sqlite_script(&mut text, &triggers),
    };
    text
}

fn mysql_script(text: &mut String, triggers: &[Trigger]) -> std::fmt::Result {
    text.push_str(
        "-- The triggers of daymend: they mark the days whose source changes, in daymend_dirty, and do
-- nothing else. To apply, where daymend has its tables (`daymend migrate`):
--     mariadb DATABASE < FILE        (or: mysql --comments DATABASE < FILE)
--
-- A trigger runs with the rights of its definer, which is the account that runs this script. That
-- account needs TRIGGER on the tables below, SELECT on their columns that are named below, and INSERT on
-- daymend_dirty, when it runs this and for as long as the triggers are there: without SELECT or INSERT no
-- change is marked, and without the account itself, or without its TRIGGER, every write to these tables
-- fails. So apply it as an account that will not be dropped.
-- If binary logging is on, the account needs SUPER as well, or, while this runs:
--     SET GLOBAL log_bin_trust_function_creators = 1;
--
-- Creating a trigger waits for the transactions that use its table, and later ones wait behind it: after
-- two seconds it gives up (error 1205). Then apply this again; applying it twice does no harm.

SET SESSION lock_wait_timeout = 2;
SET SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION';

",
    );
    for trigger in triggers {
        writeln!(text, "{};", trigger.make_room(Dialect::MySql))?;
        writeln!(text, "DELIMITER ;;\n{};;\nDELIMITER ;\n", trigger.create(Dialect::MySql))?;
    }
    Ok(())
}

fn sqlite_script(text: &mut String, triggers: &[Trigger]) -> std::fmt::Result {
    text.push_str(
        "-- The triggers of daymend: they mark the days whose source changes, in daymend_dirty, and do
-- nothing else. To apply, where daymend has its tables (`daymend migrate`): sqlite3 FILE < THIS
--
-- SQLite has no handlers: while the triggers are there, daymend_dirty has to be there too. Run
-- `daymend triggers remove` before you drop it.

BEGIN IMMEDIATE;

",
    );
    for trigger in triggers {
        let [make_room, create] = [trigger.make_room(Dialect::Sqlite), trigger.create(Dialect::Sqlite)];
        writeln!(text, "{make_room};\n{create};\n")?;
    }
    text.push_str("COMMIT;\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollup::{HISTORICAL_SUMMARY, Rollups};

    #[test]
    fn each_table_has_a_trigger_for_each_event() {
        let rollups = Rollups::load(None).unwrap();
        let watch = rollups.get(HISTORICAL_SUMMARY).unwrap().watch.as_ref().unwrap();
        for (dialect, count) in [(Dialect::MySql, 15), (Dialect::Sqlite, 25)] {
            let triggers = triggers(watch, dialect);
            assert_eq!(triggers.len(), count);
            let update = triggers.iter().find(|trigger| trigger.name == "daymend_billing_update").unwrap();
            assert_eq!((update.table.as_str(), update.when), ("billing", "AFTER UPDATE"));
            assert_eq!(update.body.matches("INSERT INTO daymend_dirty").count(), 2, "where it left, where it came to");
            for trigger in &triggers {
                assert!(!trigger.body.contains(";;"), "the delimiter of the script: {}", trigger.body);
                assert!(dialect == Dialect::Sqlite || trigger.body.contains("HANDLER FOR SQLEXCEPTION"));
            }
        }
    }
}
