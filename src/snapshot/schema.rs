//! How a database describes its tables: columns, keys, foreign keys.
//!
//! Names of tables and columns only come from here, and are put into SQL through [`quote`]. A user who may read only
//! some columns of a table sees only those in `information_schema`; so [`read`] also queries the whole table, to make
//! sure that no column is left out silently.

use serde::{Deserialize, Serialize};

use super::{SnapshotError, create_sql::without_counter};
use crate::{
    args,
    db::{DbError, Dialect, Query, Row, Tx},
    statement,
};

/// A table, as its database describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its columns, in their order.
    pub columns: Vec<Column>,
    /// The columns of its primary key, in key order; empty if it has none.
    pub primary_key: Vec<String>,
    /// Its other unique keys.
    pub unique_keys: Vec<UniqueKey>,
    /// Its foreign keys.
    pub foreign_keys: Vec<ForeignKey>,
    /// Its CREATE statement, as the database prints it.
    pub create_sql: String,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type as declared, such as `bigint(20) unsigned`.
    #[serde(rename = "type")]
    pub sql_type: String,
    /// Whether it may be NULL.
    pub nullable: bool,
    /// Whether the database computes it: such a column is read, but never written.
    #[serde(default)]
    pub generated: bool,
}

/// A unique key other than the primary key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UniqueKey {
    /// Its name.
    pub name: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// Whether equal columns do not always violate the key: it covers only a prefix of a text (MySQL), or only some
    /// rows (a partial index in SQLite).
    #[serde(default)]
    pub partial: bool,
}

/// A foreign key of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKey {
    /// Its name; SQLite's have none, and are numbered.
    pub name: String,
    /// The referring columns.
    pub columns: Vec<String>,
    /// The table that they refer to.
    pub parent: String,
    /// Its columns.
    pub parent_columns: Vec<String>,
    /// What happens to a row when its parent is deleted: `CASCADE`, `SET NULL`, `RESTRICT`, `NO ACTION`.
    pub on_delete: String,
}

/// MySQL's types of whole numbers.
const WHOLE: [&str; 8] = ["tinyint", "smallint", "mediumint", "int", "integer", "bigint", "bool", "boolean"];

impl Column {
    /// The first word of its type, such as `bigint`.
    #[must_use]
    pub fn type_word(&self) -> String {
        let word = self.sql_type.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        word.to_ascii_lowercase()
    }

    /// Whether it holds whole numbers, judging by its type.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        WHOLE.contains(&self.type_word().as_str())
    }

    /// Whether it may hold bytes, judging by its type; in SQLite, a column may have none.
    #[must_use]
    pub fn is_binary(&self) -> bool {
        let word = self.type_word();
        word.is_empty() || word == "bit" || word.contains("blob") || word.contains("binary")
    }

    /// Whether its numbers are never negative.
    #[must_use]
    pub fn is_unsigned(&self) -> bool {
        let text = self.sql_type.to_ascii_lowercase();
        text.contains("unsigned") || text.contains("zerofill")
    }
}

impl Table {
    /// The columns that identify a row: the primary key, or else a unique key of columns that are never NULL, or else
    /// all columns together; `None` if one of them may be NULL.
    #[must_use]
    pub fn key(&self) -> Option<Vec<String>> {
        if !self.primary_key.is_empty() {
            return Some(self.primary_key.clone());
        }
        let unique = self.unique_keys.iter().find(|key| self.is_strict(key));
        let all = || self.columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
        let is_never_null = |name: &String| self.is_never_null(name);
        unique.map(|key| key.columns.clone()).or_else(|| Some(all()).filter(|all| all.iter().all(is_never_null)))
    }

    /// The columns of [`key`](Self::key), for display.
    #[must_use]
    pub fn shown_key(&self) -> String {
        self.key().unwrap_or_default().join(", ")
    }

    /// Whether no two rows can have the same values in these columns: they include the primary key, or a unique key of
    /// columns that are never NULL.
    #[must_use]
    pub fn are_apart_by(&self, columns: &[String]) -> bool {
        let strict = self.unique_keys.iter().filter(|key| self.is_strict(key)).map(|key| &key.columns);
        let mut keys = strict.chain([&self.primary_key].into_iter().filter(|key| !key.is_empty()));
        keys.any(|key| key.iter().all(|name| columns.contains(name)))
    }

    /// Whether no two rows can have the same values in a unique key.
    fn is_strict(&self, key: &UniqueKey) -> bool {
        !key.partial && key.columns.iter().all(|name| self.is_never_null(name))
    }

    fn is_never_null(&self, column: &str) -> bool {
        self.columns.iter().any(|of| of.name == column && !of.nullable)
    }

    /// The position of a column.
    #[must_use]
    pub fn position(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|of| of.name == column)
    }
}

/// An identifier, quoted for the database.
#[must_use]
pub fn quote(dialect: Dialect, identifier: &str) -> String {
    match dialect {
        Dialect::MySql => format!("`{}`", identifier.replace('`', "``")),
        Dialect::Sqlite => format!("\"{}\"", identifier.replace('"', "\"\"")),
    }
}

/// Identifiers, quoted and separated by commas.
#[must_use]
pub fn quote_all<'a>(dialect: Dialect, identifiers: impl IntoIterator<Item = &'a str>) -> String {
    identifiers.into_iter().map(|name| quote(dialect, name)).collect::<Vec<_>>().join(", ")
}

// For a system-versioned table (MariaDB), only the current rows are read, as by any SELECT.
statement!(
    TABLES,
    "snapshot tables",
    mysql: "SELECT table_name FROM information_schema.tables
         WHERE table_schema = DATABASE() AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') ORDER BY table_name",
    sqlite: "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY name"
);

// In SQLite, a column of a primary key may be NULL unless it is declared NOT NULL.
statement!(
    COLUMNS,
    "snapshot columns",
    mysql: "SELECT column_name, column_type, is_nullable = 'YES',
                extra LIKE '%GENERATED%' AND extra NOT LIKE '%DEFAULT_GENERATED%'
         FROM information_schema.columns
         WHERE table_schema = DATABASE() AND table_name = ? ORDER BY ordinal_position",
    sqlite:
    "SELECT name, type, \"notnull\" = 0, hidden IN (2, 3), pk FROM pragma_table_xinfo(?) WHERE hidden <> 1 ORDER BY cid"
);

statement!(
    KEYS,
    "snapshot keys",
    mysql: "SELECT index_name, column_name, sub_part IS NOT NULL FROM information_schema.statistics
         WHERE table_schema = DATABASE() AND table_name = ? AND non_unique = 0 ORDER BY index_name, seq_in_index",
    sqlite: "SELECT list.name, info.name, list.partial FROM pragma_index_list(?) AS list
         JOIN pragma_index_info(list.name) AS info WHERE list.\"unique\" = 1 AND list.origin <> 'pk'
         ORDER BY list.name, info.seqno"
);

// SQLite ignores the case of the names in a reference.
statement!(
    FOREIGN_KEYS,
    "snapshot foreign keys",
    mysql: "SELECT columns.constraint_name, columns.column_name, columns.referenced_table_name,
                columns.referenced_column_name, rules.delete_rule
         FROM information_schema.key_column_usage AS columns
         JOIN information_schema.referential_constraints AS rules
           ON rules.constraint_schema = columns.constraint_schema AND rules.table_name = columns.table_name
          AND rules.constraint_name = columns.constraint_name
         WHERE columns.table_schema = DATABASE() AND columns.table_name = ?
           AND columns.referenced_table_schema = columns.table_schema
         ORDER BY columns.constraint_name, columns.ordinal_position",
    sqlite: "SELECT CAST(keys.id AS TEXT), keys.\"from\", COALESCE(parents.name, keys.\"table\"),
                COALESCE((SELECT name FROM pragma_table_info(parents.name) WHERE name = keys.\"to\" COLLATE NOCASE),
                         keys.\"to\"), keys.on_delete
         FROM pragma_foreign_key_list(?) AS keys
         LEFT JOIN sqlite_schema AS parents ON parents.type = 'table' AND parents.name = keys.\"table\" COLLATE NOCASE
         ORDER BY keys.id, keys.seq"
);

statement!(CREATE, "snapshot create", sqlite only: "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?");

/// The names of the database's tables, without views.
pub async fn table_names(tx: &mut Tx) -> Result<Vec<String>, DbError> {
    tx.fetch_all(&TABLES, args![], |row| row.text(0)).await
}

/// Whether the user may read every table of the database. Lists leave out tables on which it has no privilege; but
/// only to a user who may read all of them does the server say that a table does not exist.
pub async fn may_read_all(tx: &mut Tx) -> Result<bool, DbError> {
    if tx.dialect() == Dialect::Sqlite {
        return Ok(true);
    }
    match tx.columns(Query::new("snapshot rights", "SELECT 1 FROM daymend_there_is_no_such_table")).await {
        Err(error) if error.is_denied() => Ok(false),
        Err(error) if !error.is_absent() => Err(error),
        _ => Ok(true),
    }
}

/// Reads the description of a table; `None` if there is no such table.
///
/// # Errors
/// If the database does not answer, or its user may not read the whole table.
pub async fn read(tx: &mut Tx, name: &str) -> Result<Option<Table>, SnapshotError> {
    let dialect = tx.dialect();
    let Some(name) = table_names(tx).await?.into_iter().find(|of| of == name) else { return Ok(None) };
    let (columns, primary_key) = read_columns(tx, &name).await?;
    let mut table = Table {
        create_sql: create_sql(tx, &name).await?,
        columns,
        primary_key,
        unique_keys: Vec::new(),
        foreign_keys: Vec::new(),
        name,
    };
    read_keys(tx, &mut table).await?;
    read_foreign_keys(tx, &mut table).await?;
    // All columns, including those that information_schema hides from this user.
    let all = format!("SELECT * FROM {} LIMIT 0", quote(dialect, &table.name));
    for name in tx.columns(Query::new("snapshot columns", all)).await? {
        if table.position(&name).is_none() {
            return Err(SnapshotError::Hidden { table: table.name, column: name });
        }
    }
    Ok(Some(table))
}

async fn read_columns(tx: &mut Tx, table: &str) -> Result<(Vec<Column>, Vec<String>), DbError> {
    let is_sqlite = tx.dialect() == Dialect::Sqlite;
    let mut key = Vec::new();
    let columns = tx.fetch_all(&COLUMNS, args![table], |row| {
        let column = column(&row)?;
        let place = if is_sqlite { row.int(4)? } else { 0 };
        if place > 0 {
            key.push((place, column.name.clone()));
        }
        Ok(column)
    });
    let mut columns = columns.await?;
    key.sort();
    // The rowid is never NULL, and neither is the column that is an alias of it.
    if let [(_, only)] = key.as_slice()
        && let Some(column) = columns.iter_mut().find(|column| column.name == *only)
        && column.sql_type.eq_ignore_ascii_case("integer")
    {
        column.nullable = false;
    }
    Ok((columns, key.into_iter().map(|(_, name)| name).collect()))
}

fn column(row: &Row) -> Result<Column, sqlx::Error> {
    Ok(Column { name: row.text(0)?, sql_type: row.text(1)?, nullable: row.int(2)? != 0, generated: row.int(3)? != 0 })
}

async fn read_keys(tx: &mut Tx, table: &mut Table) -> Result<(), DbError> {
    let mut keys: Vec<UniqueKey> = Vec::new();
    let mut of_expressions = Vec::new();
    let parts =
        tx.fetch_all(&KEYS, args![table.name.as_str()], |row| Ok((row.text(0)?, row.text_or_null(1)?, row.flag(2)?)));
    for (name, column, partial) in parts.await? {
        // An indexed expression has no column.
        let Some(column) = column else {
            of_expressions.push(name);
            continue;
        };
        match keys.last_mut() {
            Some(key) if key.name == name => {
                key.columns.push(column);
                key.partial |= partial;
            }
            _ => keys.push(UniqueKey { name, columns: vec![column], partial }),
        }
    }
    keys.retain(|key| !of_expressions.contains(&key.name));
    // MariaDB adds the end of the row's period to each key of a system-versioned table: in current rows it is always
    // the same.
    let is_end = |name: &String| {
        let mut lines = table.create_sql.lines().map(str::trim_start);
        let begin = quote(Dialect::MySql, name);
        lines.any(|line| line.starts_with(&begin) && line.contains(" GENERATED ALWAYS AS ROW END"))
    };
    let ends: Vec<&String> = table
        .columns
        .iter()
        .filter(|column| column.generated)
        .map(|column| &column.name)
        .filter(|name| is_end(name))
        .collect();
    keys.iter_mut().for_each(|key| key.columns.retain(|name| !ends.contains(&name)));
    if tx.dialect() == Dialect::MySql
        && let Some(primary) = keys.iter().position(|key| key.name == "PRIMARY")
    {
        table.primary_key = keys.remove(primary).columns;
    }
    table.unique_keys = keys;
    Ok(())
}

async fn read_foreign_keys(tx: &mut Tx, table: &mut Table) -> Result<(), SnapshotError> {
    let mut keys: Vec<ForeignKey> = Vec::new();
    let parts = tx.fetch_all(&FOREIGN_KEYS, args![table.name.as_str()], |row| {
        Ok((row.text(0)?, row.text(1)?, row.text(2)?, row.text_or_null(3)?, row.text(4)?))
    });
    for (name, column, parent, parent_column, on_delete) in parts.await? {
        match keys.last_mut() {
            Some(key) if key.name == name => {
                key.columns.push(column);
                key.parent_columns.extend(parent_column);
            }
            _ => keys.push(ForeignKey {
                name,
                columns: vec![column],
                parent,
                parent_columns: parent_column.into_iter().collect(),
                on_delete,
            }),
        }
    }
    // SQLite: a reference that names no columns means the parent's primary key.
    for key in keys.iter_mut().filter(|key| key.parent_columns.is_empty()) {
        key.parent_columns = read_columns(tx, &key.parent).await?.1;
    }
    table.foreign_keys = keys;
    Ok(())
}

async fn create_sql(tx: &mut Tx, table: &str) -> Result<String, DbError> {
    match tx.dialect() {
        Dialect::Sqlite => tx.fetch_one(&CREATE, args![table], |row| row.text(0)).await,
        Dialect::MySql => {
            let show = format!("SHOW CREATE TABLE {}", quote(Dialect::MySql, table));
            let sql = tx.fetch_one(Query::new("snapshot create", show), args![], |row| row.text(1)).await?;
            Ok(without_counter(&sql))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_quoted_whatever_is_in_them() {
        assert_eq!(quote(Dialect::MySql, "a`b"), "`a``b`");
        assert_eq!(quote(Dialect::Sqlite, "a\"b"), "\"a\"\"b\"");
    }
}
