//! Which rows refer to a row by a foreign key: deleting it would delete them too, or empty their references.
//!
//! The foreign keys are read from the database, including those of tables that daymend otherwise ignores: tables
//! without a key, of other schemas, or that this user may not read. If a table cannot be checked, the row counts as
//! referred to.

use crate::{
    args,
    db::{Arg, DbError, Query, Tx},
    snapshot::{
        cells::{self, Cells},
        schema::{self, quote},
        side::{PAGE, Shape, Side},
    },
    statement,
};

// In SQLite, a reference that names no columns means the parent's primary key.
statement!(
    CHILDREN,
    "restore children",
    mysql:
    "SELECT table_schema, table_name, constraint_name, column_name, referenced_table_name, referenced_column_name,
            table_schema = DATABASE()
     FROM information_schema.key_column_usage WHERE referenced_table_schema = DATABASE()
     ORDER BY table_schema, table_name, constraint_name, ordinal_position",
    sqlite: "SELECT 'main', tables.name, CAST(keys.id AS TEXT), keys.\"from\", parents.name, COALESCE(keys.\"to\",
                (SELECT name FROM pragma_table_info(parents.name) WHERE pk = keys.seq + 1)), 1
         FROM sqlite_schema AS tables JOIN pragma_foreign_key_list(tables.name) AS keys
         JOIN sqlite_schema AS parents ON parents.type = 'table' AND parents.name = keys.\"table\" COLLATE NOCASE
         WHERE tables.type = 'table' ORDER BY tables.name, keys.id, keys.seq"
);

/// A foreign key of any table.
#[derive(Debug)]
struct ForeignKey {
    schema: String,
    table: String,
    name: String,
    /// Whether its table is in the current database.
    is_here: bool,
    parent: String,
    /// Its columns, each with the parent's column.
    columns: Vec<(String, String)>,
}

/// All foreign keys that refer to tables of the database.
#[derive(Debug)]
pub struct Children {
    keys: Vec<ForeignKey>,
    /// Whether this user only sees tables on which it has individual privileges.
    is_partial: bool,
}

/// Why a row must not be deleted: another row refers to it, or that cannot be ruled out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referred {
    /// The reason.
    pub why: String,
    /// The referring row, if it can be named.
    pub child: Option<String>,
}

/// Locks a row until the transaction ends, so that no new reference to it can appear; a conflict if the lock is not
/// available at once.
pub async fn lock_row(tx: &mut Tx, live: &Side, parent: &Shape, row: &[Arg]) -> Result<(), DbError> {
    let key = parent.key_of(row);
    let table = quote(live.db.dialect(), &parent.table);
    let condition = live.has_key(parent, "p.", &key);
    let sql = format!("SELECT 1 FROM {table} AS p WHERE {condition} {{for_update_nowait}}");
    tx.fetch_all(Query::new("restore hold", sql), key, |_| Ok(())).await.map(drop)
}

impl Children {
    /// Reads the foreign keys.
    pub async fn read(tx: &mut Tx) -> Result<Self, DbError> {
        let mut keys: Vec<ForeignKey> = Vec::new();
        tx.for_each(&CHILDREN, args![], |row| {
            let (schema, table, name, columns) =
                (row.text(0)?, row.text(1)?, row.text(2)?, (row.text(3)?, row.text(5)?));
            match keys.last_mut() {
                Some(key) if key.schema == schema && key.table == table && key.name == name => {
                    key.columns.push(columns);
                }
                _ => {
                    let (parent, is_here) = (row.text(4)?, row.flag(6)?);
                    keys.push(ForeignKey { schema, table, name, is_here, parent, columns: vec![columns] });
                }
            }
            Ok(())
        })
        .await?;
        let is_partial = !schema::may_read_all(tx).await?;
        Ok(Self { keys, is_partial })
    }

    /// A row that refers to this one and is not known; `None` if the row may be deleted while it is locked.
    pub async fn first(
        &self,
        tx: &mut Tx,
        live: &Side,
        shapes: &[Shape],
        parent: &Shape,
        row: &[Arg],
        is_known: &(dyn Fn(&str, &[Arg]) -> bool + Sync),
    ) -> Result<Option<Referred>, DbError> {
        let refuse = |why: String| Ok(Some(Referred { why, child: None }));
        if self.is_partial {
            return refuse("which tables refer to it is unknown: SELECT on the whole database is needed".to_owned());
        }
        let dialect = live.db.dialect();
        let key = parent.key_of(row);
        let condition = live.has_key(parent, "p.", &key);
        let table = quote(dialect, &parent.table);
        for foreign in self.keys.iter().filter(|foreign| foreign.parent == parent.table) {
            let shape = shapes.iter().find(|shape| foreign.is_here && shape.table == foreign.table);
            // If the table's key is known, select only the key.
            let keys = shape.map(|shape| shape.lean(&[]));
            let columns = match &keys {
                Some(keys) => keys.columns.iter().map(|name| format!("c.{}", quote(dialect, name))).collect(),
                None => vec!["1".to_owned()],
            };
            // Joined, so that the database compares them by its own rules.
            let joined = foreign.columns.iter().map(|(column, parent_column)| {
                format!("p.{} = c.{}", quote(dialect, parent_column), quote(dialect, column))
            });
            let mut sql = format!(
                "SELECT {} FROM {}.{} AS c JOIN {table} AS p ON {} WHERE {condition}",
                columns.join(", "),
                quote(dialect, &foreign.schema),
                quote(dialect, &foreign.table),
                joined.collect::<Vec<_>>().join(" AND "),
            );
            if foreign.is_here && foreign.table == parent.table {
                let names = parent.key.iter().map(|place| quote(dialect, &parent.columns[*place]));
                let same: Vec<String> = names.map(|name| format!("c.{name} = p.{name}")).collect();
                sql += &format!(" AND NOT ({})", same.join(" AND "));
            }
            let why = format!("a row of {} refers to it now", foreign.table);
            let mut limit = PAGE;
            loop {
                let query = Query::new("restore child", format!("{sql} LIMIT {limit}"));
                let found: Result<Vec<Cells>, DbError> = match &keys {
                    Some(keys) => live.rows(tx, query, keys, key.clone()).await,
                    None => tx.fetch_all(query, key.clone(), |_| Ok(Vec::new())).await,
                };
                let found = match found {
                    Err(error) if error.is_denied() => {
                        return refuse(format!(
                            "whether a row of {} refers to it is unknown: this user may not read that table",
                            foreign.table
                        ));
                    }
                    found => found?,
                };
                let unknown = match &keys {
                    Some(keys) => found.iter().find(|key| !is_known(&keys.table, key)),
                    None => found.first(),
                };
                if let Some(key) = unknown {
                    let child = keys.as_ref().map(|keys| format!("{} {}", keys.table, cells::show_key(key)));
                    return Ok(Some(Referred { why, child }));
                }
                if found.len() < limit {
                    break;
                }
                // All of these are known: an unknown one may come after them.
                limit *= 4;
            }
        }
        Ok(None)
    }
}
