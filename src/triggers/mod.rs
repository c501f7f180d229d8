//! Triggers on the source tables that mark the days whose facts change.
//!
//! [`sql`] generates them from a rollup's `watch.toml`; this module installs and removes them. They are the only part
//! of daymend that runs inside the lab system's own transactions, so only an operator installs them, and a DBA can
//! apply the same text by hand. daymend works without them too, and then finds late changes in the nightly lookback,
//! or in an audit.
//!
//! Invariants: only triggers that are named and shaped like ours are ever replaced or dropped; installing twice
//! changes nothing; an installation that fails removes what it has created.
//!
//! How it fails: with an error that says what is missing, and what to do about it ([`InstallError`]).

pub mod sql;

use crate::{
    args,
    db::{
        Db, DbError, Dialect, Mode, Tx, code, ddl,
        scan::{tokens, writes},
    },
    rollup::watch::Watch,
    statement,
};
use sql::drop_trigger;
pub use sql::{Trigger, script};

statement!(
    TRIGGERS,
    "list triggers",
    mysql: "SELECT trigger_name, event_object_table, CONCAT(action_timing, ' ', event_manipulation), action_statement,
            VERSION() LIKE '%MariaDB%'
         FROM information_schema.triggers WHERE trigger_schema = DATABASE()",
    sqlite: "SELECT name, tbl_name, '', sql, FALSE FROM sqlite_master WHERE type = 'trigger'"
);

statement!(
    MARK_NOTHING,
    "mark nothing",
    "INSERT INTO daymend_dirty (lab_id, bill_time, bill_id, test_id, marked_at) VALUES (NULL, NULL, NULL, NULL, {now})"
);

/// A mark has to accept any value that the source has.
const SESSION_MYSQL: &str = "SET SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION'";

/// A trigger, as the database describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Existing {
    /// Its name.
    pub name: String,
    /// The table that it is on.
    pub table: String,
    /// When it fires; empty on SQLite, where the text contains it.
    when: String,
    /// What it does; on SQLite, the whole statement.
    text: String,
    /// Whether it is on MariaDB, and not on MySQL.
    on_mariadb: bool,
}

impl Existing {
    /// Whether daymend created it: its name has daymend's form, and it writes marks. Its table may have been renamed
    /// since, as by `RENAME TABLE billing TO billing_old, billing_new TO billing`.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        let is_named = self.name.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("daymend_"));
        let event = self.name.get(8..).and_then(|rest| rest.rsplit_once('_')).map(|(_, event)| event);
        is_named && event.is_some_and(|event| sql::EVENTS.contains(&event)) && self.text.contains("daymend_dirty")
    }

    /// The tokens of its text.
    pub(crate) fn tokens(&self) -> Vec<String> {
        let dialect = if self.when.is_empty() { Dialect::Sqlite } else { Dialect::MySql };
        tokens(&self.text, Some(dialect))
    }

    /// `INSERT`, `UPDATE` or `DELETE`.
    pub(crate) fn event(&self) -> String {
        let words = if self.when.is_empty() { self.tokens() } else { tokens(&self.when, None) };
        let mut words = words.into_iter().map(|word| word.to_uppercase());
        words.find(|word| ["INSERT", "UPDATE", "DELETE"].contains(&word.as_str())).unwrap_or_default()
    }

    /// The statement that creates it as it is; for MySQL.
    fn create(&self) -> String {
        format!("CREATE TRIGGER {} {} ON {} FOR EACH ROW {}", self.name, self.when, self.table, self.text)
    }

    /// Whether it does what `trigger` would.
    fn is(&self, trigger: &Trigger, dialect: Dialect) -> bool {
        let (wanted, when) = match dialect {
            Dialect::MySql => (trigger.body.clone(), trigger.when),
            Dialect::Sqlite => (trigger.create(dialect), ""),
        };
        // What is for MariaDB alone it keeps without the marks of the comment; a dump that MySQL's client has loaded
        // lacks it.
        let words = |text: &str| {
            let text = if self.on_mariadb { text.to_owned() } else { text.replace(sql::CHECKED, "") };
            let words = text.split_whitespace().filter(|word| !["/*M!", "*/"].contains(word));
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        self.table.eq_ignore_ascii_case(&trigger.table)
            && self.when == when
            && words(self.text.trim_end_matches(';')) == words(&wanted)
    }
}

/// The result of an installation.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Installed {
    /// Triggers that did not exist.
    pub created: Vec<String>,
    /// Triggers that differed, such as those of an older daymend.
    pub replaced: Vec<String>,
    /// Triggers that were right already.
    pub kept: Vec<String>,
    /// Other triggers on the same tables that write to the summary.
    pub deltas: Vec<String>,
}

/// Why triggers cannot be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A privilege is missing: the server says so, or the account's grants do.
    #[error(
        "this account lacks rights: it needs TRIGGER on the watched tables and INSERT on daymend_dirty for as long as \
         the triggers exist; grant them, or have a DBA apply `daymend triggers show`"
    )]
    Rights(#[source] Option<DbError>),
    /// Binary logging is on, and the server does not let this user create triggers.
    #[error(
        "binary logging is on, and the account has no SUPER: have a DBA apply `daymend triggers show`, or run SET \
         GLOBAL log_bin_trust_function_creators = 1 for the time of the installation (MySQL error 1419)"
    )]
    BinaryLog(#[source] DbError),
    /// A table stayed in use.
    #[error("{0} is locked by a long-running transaction: try again when it has ended")]
    InUse(String, #[source] DbError),
    /// Something else already has that name.
    #[error("a trigger named {0} exists, but is not daymend's: rename or drop it first")]
    NameTaken(String),
    /// A database error.
    #[error("cannot install the triggers")]
    Database(#[from] DbError),
}

impl InstallError {
    /// Sorts an error by what to do about it.
    fn of(table: &str, error: DbError) -> Self {
        match code(&error.source) {
            _ if error.is_denied() => Self::Rights(Some(error)),
            1419 => Self::BinaryLog(error),
            1205 => Self::InUse(table.to_owned(), error),
            _ => Self::Database(error),
        }
    }
}

/// Every trigger of the database that this account can see.
pub async fn list(tx: &mut Tx) -> Result<Vec<Existing>, DbError> {
    let mut triggers = Vec::new();
    tx.for_each(&TRIGGERS, args![], |row| {
        let [name, table, when, text] = [row.text(0)?, row.text(1)?, row.text(2)?, row.text(3)?];
        triggers.push(Existing { name, table, when, text, on_mariadb: row.flag(4)? });
        Ok(())
    })
    .await?;
    triggers.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(triggers)
}

/// If some triggers are installed: those that are missing or differ. Empty if none is installed.
pub async fn wanting(tx: &mut Tx, watch: &Watch) -> Result<Vec<String>, DbError> {
    let existing: Vec<Existing> = list(tx).await?.into_iter().filter(Existing::is_ours).collect();
    if existing.is_empty() {
        return Ok(Vec::new());
    }
    let is_wanting = |trigger: &Trigger| {
        !existing.iter().any(|known| known.name.eq_ignore_ascii_case(&trigger.name) && known.is(trigger, tx.dialect()))
    };
    Ok(sql::triggers(watch, tx.dialect()).into_iter().filter(is_wanting).map(|trigger| trigger.name).collect())
}

/// Installs missing triggers and replaces those that differ; with `dry_run`, only reports it. Triggers that the account
/// may not see count as missing: whoever only wants the report has to know that it sees them all.
pub async fn install(db: &Db, watch: &Watch, summary: &str, dry_run: bool) -> Result<Installed, InstallError> {
    let mut tx = db.begin(Mode::Write).await?;
    let existing = list(&mut tx).await?;
    let wanted = sql::triggers(watch, tx.dialect());
    let is_watched = |trigger: &Existing| wanted.iter().any(|ours| ours.table.eq_ignore_ascii_case(&trigger.table));
    let deltas = existing.iter().filter(|trigger| is_watched(trigger) && writes(&trigger.tokens(), summary));
    let mut installed =
        Installed { deltas: deltas.map(|trigger| trigger.name.clone()).collect(), ..Default::default() };
    let mut todo = Vec::new();
    for trigger in wanted {
        match existing.iter().find(|known| known.name.eq_ignore_ascii_case(&trigger.name)) {
            Some(known) if known.is(&trigger, tx.dialect()) => installed.kept.push(trigger.name),
            Some(known) if !known.is_ours() => return Err(InstallError::NameTaken(trigger.name)),
            known => {
                let done = if known.is_some() { &mut installed.replaced } else { &mut installed.created };
                done.push(trigger.name.clone());
                todo.push((trigger, known.cloned()));
            }
        }
    }
    if !todo.is_empty() {
        // Triggers run with the privileges of the account that creates them, and hide errors: check now that it may
        // write marks.
        tx.execute(&MARK_NOTHING, args![]).await.map_err(|error| InstallError::of("daymend_dirty", error))?;
    }
    tx.rollback().await?;
    if todo.is_empty() || dry_run {
        return Ok(installed);
    }
    match create(db, &todo).await {
        Ok(()) => Ok(installed),
        Err(error) => {
            // SQLite has rolled everything back by itself.
            if db.dialect() == Dialect::MySql {
                take_back(db, &todo).await;
            }
            Err(error)
        }
    }
}

/// Creates triggers, replacing those that exist.
async fn create(db: &Db, triggers: &[(Trigger, Option<Existing>)]) -> Result<(), InstallError> {
    let mut tx = begin(db).await?;
    let dialect = tx.dialect();
    for (trigger, known) in triggers {
        let mut result = Ok(());
        // CREATE OR REPLACE cannot take a name from another table.
        if known.as_ref().is_some_and(|known| !known.table.eq_ignore_ascii_case(&trigger.table)) {
            result = patiently(&mut tx, &drop_trigger(&trigger.name)).await;
        }
        // A SQLite connection remembers triggers that somebody else has dropped, until it runs a statement.
        if result.is_ok() && (known.is_some() || dialect == Dialect::Sqlite) {
            result = patiently(&mut tx, &trigger.make_room(dialect)).await;
        }
        if result.is_ok() {
            result = patiently(&mut tx, &trigger.create(dialect)).await;
        }
        if let Err(error) = result {
            tx.discard();
            return Err(InstallError::of(&trigger.table, error));
        }
    }
    Ok(ddl::end(tx).await?)
}

/// Begins changing triggers.
async fn begin(db: &Db) -> Result<Tx, DbError> {
    let mut tx = ddl::begin(db).await?;
    if tx.dialect() == Dialect::MySql {
        tx.execute_text("change triggers", SESSION_MYSQL).await?;
    }
    Ok(tx)
}

/// Changes a trigger; its table may be in use.
async fn patiently(tx: &mut Tx, sql: &str) -> Result<(), DbError> {
    ddl::patiently(tx, "install triggers", sql).await
}

/// Undoes a failed installation as far as possible: drops the triggers that were not there before, and recreates those
/// that were and are gone.
async fn take_back(db: &Db, triggers: &[(Trigger, Option<Existing>)]) {
    let Ok(mut tx) = begin(db).await else { return };
    let there = list(&mut tx).await.unwrap_or_default();
    for (trigger, known) in triggers {
        let is_there = there.iter().any(|existing| existing.name.eq_ignore_ascii_case(&trigger.name));
        let sql = match known {
            None if is_there => drop_trigger(&trigger.name),
            Some(known) if !is_there => known.create(),
            _ => continue,
        };
        if let Err(error) = patiently(&mut tx, &sql).await {
            tracing::warn!(trigger = trigger.name, error = %crate::error::chain(&error), "cannot undo a trigger's change");
        }
    }
    tx.discard();
}

/// Drops all of daymend's triggers that this account can see; returns their names.
pub async fn remove(db: &Db, dry_run: bool) -> Result<Vec<String>, InstallError> {
    let mut tx = begin(db).await?;
    let ours: Vec<Existing> = list(&mut tx).await?.into_iter().filter(Existing::is_ours).collect();
    for trigger in ours.iter().filter(|_| !dry_run) {
        if let Err(error) = patiently(&mut tx, &drop_trigger(&trigger.name)).await {
            tx.discard();
            return Err(InstallError::of(&trigger.table, error));
        }
    }
    ddl::end(tx).await?;
    Ok(ours.into_iter().map(|trigger| trigger.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_named_like_ours_and_mark() {
        let is_ours = |name: &str, table: &str, text: &str| {
            let [name, table, text] = [name, table, text].map(str::to_owned);
            Existing { name, table, when: String::new(), text, on_mariadb: false }.is_ours()
        };
        let marks = "INSERT INTO daymend_dirty (lab_id) VALUES (1)";
        assert!(is_ours("daymend_billing_insert", "billing", marks));
        assert!(is_ours("daymend_allTests_update", "alltests", marks));
        assert!(!is_ours("daymend_billing_insert", "billing", "SET @x = 1"), "it does not mark");
        assert!(is_ours("daymend_billing_insert", "billing_old", marks), "its table was renamed");
        assert!(!is_ours("daymend_billing_audit", "billing", marks), "no event");
        assert!(!is_ours("billing_delta", "billing", marks));
        assert!(!is_ours("x", "y", marks) && !is_ours("daymend_", "", marks));
    }

    /// As each server shows a trigger, and as it is after a dump was loaded.
    #[test]
    fn a_trigger_is_right_without_what_is_for_the_other_server() {
        let body = format!("BEGIN\n    {} INSERT INTO daymend_dirty (lab_id) VALUES (1);\nEND", sql::CHECKED);
        let trigger = Trigger { name: "t".into(), table: "billing".into(), when: "AFTER INSERT", body };
        let is = |text: &str, on_mariadb: bool| {
            let (name, table, when) = ("t".into(), "billing".into(), "AFTER INSERT".into());
            Existing { name, table, when, text: text.into(), on_mariadb }.is(&trigger, Dialect::MySql)
        };
        let (without_marks, without_all) =
            (trigger.body.replace("/*M! ", "").replace("*/", ""), trigger.body.replace(sql::CHECKED, ""));
        assert!(is(&without_marks, true) && is(&trigger.body, false) && is(&without_all, false));
        assert!(!is(&without_all, true), "an older one");
        assert!(!is(&trigger.body.replace('1', "2"), false) && !is(&without_marks.replace('1', "2"), true));
    }
}
