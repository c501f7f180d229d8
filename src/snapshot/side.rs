//! One side of a comparison: a snapshot, or the live database.
//!
//! Rows are read a page at a time in key order, or looked up by the values of some columns, so that memory holds a
//! page of rows whatever the size of the two sides, and they need not sort text alike.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

pub use super::shape::Shape;
use super::{
    Decoder, Manifest, SnapshotError,
    cells::{self, Cells},
    schema::{self, Column, Table, quote},
};
use crate::db::{Arg, Db, DbError, Dialect, Mode, Query, Row, Tx};

/// How many rows are read at a time.
pub const PAGE: usize = 200;

/// How many rows the first page has, while their length is still unknown.
const FIRST_PAGE: usize = 8;

/// How many bytes of rows a page may hold, in addition to one row; further rows come with the next page.
pub const PAGE_BYTES: usize = 2 << 20;

/// A snapshot or the live database, with the description of its tables.
#[derive(Debug, Clone)]
pub struct Side {
    /// What to call it: a snapshot's name, or `live`.
    pub label: String,
    /// Its database.
    pub db: Db,
    /// Its tables.
    pub tables: BTreeMap<String, Table>,
}

impl Side {
    /// The live database, with the descriptions of those tables; tables that it does not have are left out.
    pub async fn live(db: &Db, tables: impl IntoIterator<Item = &str>) -> Result<Self, SnapshotError> {
        let mut tx = db.begin(Mode::Snapshot).await?;
        let mut known = BTreeMap::new();
        for name in tables {
            if let Some(table) = schema::read(&mut tx, name).await? {
                known.insert(name.to_owned(), table);
            }
        }
        tx.commit().await?;
        Ok(Self { label: "live".to_owned(), db: db.clone(), tables: known })
    }

    /// An opened snapshot.
    #[must_use]
    pub fn snapshot(manifest: &Manifest, db: &Db) -> Self {
        let table = |copy: &super::TableCopy| {
            let mut table = copy.table.clone();
            table.primary_key.clone_from(&copy.key);
            (table.name.clone(), table)
        };
        Self { label: manifest.name.to_string(), db: db.clone(), tables: manifest.tables.iter().map(table).collect() }
    }

    /// A table's rows in key order, a page at a time.
    #[must_use]
    pub fn pages<'a>(&'a self, shape: &'a Shape) -> Pages<'a> {
        Pages { side: self, shape, after: None, rows: FIRST_PAGE }
    }

    async fn page(
        &self,
        tx: &mut Tx,
        shape: &Shape,
        after: Option<&[Arg]>,
        rows_max: usize,
    ) -> Result<Vec<Cells>, DbError> {
        let dialect = self.db.dialect();
        let keys: Vec<(String, Cow<'static, str>)> = shape
            .key
            .iter()
            .map(|place| &shape.columns[*place])
            .map(|name| (quote(dialect, name), self.placeholder(&shape.table, name)))
            .collect();
        let mut args = Vec::new();
        let mut sql = self.select(shape);
        if let Some(after) = after {
            let (behind, after) = behind(dialect, &keys, after);
            sql += &format!(" WHERE {behind}");
            args = after;
        }
        let order = keys.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        sql += &format!(" ORDER BY {order} LIMIT {rows_max}");
        let page = self.fetch(tx, Query::new("snapshot page", sql), shape, args, PAGE_BYTES).await?;
        // If the page ends with the row that it should come after, reading on would never end.
        if let (Some(after), Some(last)) = (after, page.last())
            && shape.key_of(last) == after
        {
            let what =
                format!("{}: reading on after row {} returns the same row again", shape.table, cells::show_key(after));
            return Err(DbError::new("snapshot page", sqlx::Error::Decode(what.into())));
        }
        Ok(page)
    }

    /// For each of `values`, the rows in which the columns `by` (positions in the shape) have these values, as the
    /// database compares them. With `share`, the rows stay locked against change until the transaction ends; a
    /// conflict if a lock is not available at once.
    pub async fn lookup(
        &self,
        tx: &mut Tx,
        shape: &Shape,
        by: &[usize],
        values: &[Cells],
        share: bool,
    ) -> Result<Vec<Vec<Cells>>, DbError> {
        self.lookup_some(tx, shape, by, values, usize::MAX, share).await
    }

    /// Like [`lookup`](Self::lookup), but returns at most `most` rows per value, no matter which: a value that many
    /// rows share, such as an empty text, does not fill the memory.
    pub async fn lookup_some(
        &self,
        tx: &mut Tx,
        shape: &Shape,
        by: &[usize],
        values: &[Cells],
        most: usize,
        share: bool,
    ) -> Result<Vec<Vec<Cells>>, DbError> {
        let mut found: Vec<Vec<Cells>> = vec![Vec::new(); values.len()];
        let lock = if share { " {share_nowait}" } else { "" };
        let one = if most == usize::MAX { lock.to_owned() } else { format!(" LIMIT {most}{lock}") };
        let page = self.lookups_max(shape, by);
        for (chunk, start) in values.chunks(page).zip((0..).step_by(page)) {
            let mut wanted: HashMap<String, Vec<usize>> = HashMap::new();
            for (value, place) in chunk.iter().zip(start..) {
                wanted.entry(cells::encode(value)).or_default().push(place);
            }
            let mut unlike = false;
            let keep = |row: Cells| match wanted.get(&cells::encode(&shape.values(&row, by))) {
                Some(places) => {
                    for place in places {
                        if found[*place].len() < most {
                            found[*place].push(row.clone());
                        }
                    }
                }
                None => unlike = true,
            };
            self.lookup_page(tx, shape, by, chunk, lock, keep).await?;
            // A row that only the database considers equal (case, trailing spaces, 1 and '1'): look the values up one
            // by one.
            if unlike {
                for (value, place) in chunk.iter().zip(start..) {
                    if found[place].is_empty() {
                        let keep = |row| found[place].push(row);
                        self.lookup_page(tx, shape, by, std::slice::from_ref(value), &one, keep).await?;
                    }
                }
            }
        }
        Ok(found)
    }

    /// For each of `values`, the keys of the rows that [`lookup`](Self::lookup) finds.
    pub async fn keys(
        &self,
        tx: &mut Tx,
        shape: &Shape,
        by: &[usize],
        values: &[Cells],
        share: bool,
    ) -> Result<Vec<Vec<Cells>>, DbError> {
        let lean = shape.lean(by);
        let by: Vec<usize> = (0..by.len()).collect();
        let found = self.lookup(tx, &lean, &by, values, share).await?;
        Ok(found.iter().map(|rows| rows.iter().map(|row| lean.key_of(row)).collect()).collect())
    }

    /// How many rows may be looked up together. Only one where databases get longer conditions wrong: MySQL compares
    /// ENUMs and SETs in a list of rows as text, and JSON in any list, and MariaDB misses some rows if conditions are
    /// joined by OR.
    pub(super) fn lookups_max(&self, shape: &Shape, by: &[usize]) -> usize {
        let is_any = |types: &[&str]| {
            let mut columns = by.iter().filter_map(|place| self.column(&shape.table, &shape.columns[*place]));
            columns.any(|column| types.contains(&column.type_word().as_str()))
        };
        let is_alone = by.len() > 1 && is_any(&["enum", "set"]) || is_any(&["json"]);
        if is_alone && self.db.dialect() == Dialect::MySql { 1 } else { PAGE }
    }

    /// Passes the rows that have one of `values` to `keep`; `tail` ends the statement.
    async fn lookup_page(
        &self,
        tx: &mut Tx,
        shape: &Shape,
        by: &[usize],
        values: &[Cells],
        tail: &str,
        mut keep: impl FnMut(Cells) + Send,
    ) -> Result<(), DbError> {
        let dialect = self.db.dialect();
        let names: Vec<&str> = by.iter().map(|place| shape.columns[*place].as_str()).collect();
        let marks: Vec<Cow<'static, str>> = names.iter().map(|name| self.placeholder(&shape.table, name)).collect();
        let columns = schema::quote_all(dialect, names.iter().copied());
        let wanted = values.iter().map(|values| {
            let marks: Vec<&str> = marks.iter().zip(values).map(|(mark, value)| cells::mark(mark, value)).collect();
            if marks.len() == 1 { marks.concat() } else { format!("({})", marks.join(", ")) }
        });
        let wanted = wanted.collect::<Vec<_>>().join(", ");
        let condition = match (marks.len(), dialect) {
            (1, _) => format!("{columns} IN ({wanted})"),
            (_, Dialect::MySql) => format!("({columns}) IN ({wanted})"),
            (_, Dialect::Sqlite) => format!("({columns}) IN (VALUES {wanted})"),
        };
        let sql = format!("{} WHERE {condition}{tail}", self.select(shape));
        let args = values.iter().flatten().cloned().collect();
        let decoder = self.decoder(shape);
        tx.for_each(Query::new("snapshot lookup", sql), args, |row| {
            keep(decode(&decoder, &row)?);
            Ok(())
        })
        .await
    }

    fn select(&self, shape: &Shape) -> String {
        let dialect = self.db.dialect();
        let columns = schema::quote_all(dialect, shape.columns.iter().map(String::as_str));
        format!("SELECT {columns} FROM {}", quote(dialect, &shape.table))
    }

    /// The placeholder for a value to be compared with a column.
    pub(super) fn placeholder(&self, table: &str, column: &str) -> Cow<'static, str> {
        self.column(table, column).map_or("?".into(), |column| cells::placeholder(self.db.dialect(), column))
    }

    /// The condition that a row has a key; `of` is prefixed to the names of its columns.
    pub(super) fn has_key(&self, shape: &Shape, of: &str, key: &[Arg]) -> String {
        self.equal(shape, &shape.key, of, key)
    }

    /// The condition that a row has these values at these positions.
    pub(super) fn equal(&self, shape: &Shape, places: &[usize], of: &str, values: &[Arg]) -> String {
        let terms = places.iter().zip(values).map(|(place, value)| {
            let name = &shape.columns[*place];
            let placeholder = self.placeholder(&shape.table, name);
            format!("{of}{} = {}", quote(self.db.dialect(), name), cells::mark(&placeholder, value))
        });
        terms.collect::<Vec<_>>().join(" AND ")
    }

    /// The placeholder for a value to be written to a column.
    pub(super) fn written(&self, table: &str, column: &str, value: &Arg) -> &'static str {
        self.column(table, column).map_or("?", |column| cells::written(self.db.dialect(), column, value))
    }

    fn column(&self, table: &str, column: &str) -> Option<&Column> {
        self.tables.get(table)?.columns.iter().find(|known| known.name == column)
    }

    /// The rows returned by a statement that selects the columns of a shape.
    pub(super) async fn rows(
        &self,
        tx: &mut Tx,
        query: Query<'_>,
        shape: &Shape,
        args: Vec<Arg>,
    ) -> Result<Vec<Cells>, DbError> {
        self.fetch(tx, query, shape, args, usize::MAX).await
    }

    /// The first of these rows, until they exceed `bytes_max`.
    async fn fetch(
        &self,
        tx: &mut Tx,
        query: Query<'_>,
        shape: &Shape,
        args: Vec<Arg>,
        bytes_max: usize,
    ) -> Result<Vec<Cells>, DbError> {
        let decoder = self.decoder(shape);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        tx.for_each(query, args, |row| {
            if bytes <= bytes_max {
                let row = decode(&decoder, &row)?;
                bytes += cells::size(&row);
                rows.push(row);
            }
            Ok(())
        })
        .await?;
        Ok(rows)
    }

    fn decoder(&self, shape: &Shape) -> Decoder {
        let columns: Vec<Column> =
            shape.columns.iter().filter_map(|column| self.column(&shape.table, column)).cloned().collect();
        Decoder::new(&columns)
    }
}

fn decode(decoder: &Decoder, row: &Row) -> Result<Cells, sqlx::Error> {
    Ok(decoder.values(row)?.into_iter().map(Arg::from).collect())
}

/// Reads a table's rows page by page.
#[derive(Debug)]
pub struct Pages<'a> {
    side: &'a Side,
    shape: &'a Shape,
    after: Option<Cells>,
    /// How many rows to ask for: fewer if they are long, because the database sends rows beyond the page's size as
    /// well.
    rows: usize,
}

impl Pages<'_> {
    /// The next page, which has at least one row; `None` at the end.
    pub async fn next(&mut self, tx: &mut Tx) -> Result<Option<Vec<Cells>>, DbError> {
        let page = self.side.page(tx, self.shape, self.after.as_deref(), self.rows).await?;
        let Some(last) = page.last() else { return Ok(None) };
        self.after = Some(self.shape.key_of(last));
        self.rows = PAGE.min(2 * page.len());
        Ok(Some(page))
    }
}

/// The condition that a row comes after a key, whose columns are given with their placeholders, and its arguments.
fn behind(dialect: Dialect, keys: &[(String, Cow<'static, str>)], after: &[Arg]) -> (String, Vec<Arg>) {
    let of = |place: usize| (keys[place].0.as_str(), cells::mark(&keys[place].1, &after[place]));
    if dialect == Dialect::Sqlite {
        // Otherwise, it would search by the first column alone.
        let (names, marks): (Vec<_>, Vec<_>) = (0..keys.len()).map(of).unzip();
        return (format!("({}) > ({})", names.join(", "), marks.join(", ")), after.to_vec());
    }
    // Written out: MySQL does not use an index for (a, b) > (?, ?).
    let (mut alternatives, mut args) = (Vec::new(), Vec::new());
    for length in 0..keys.len() {
        let term = |place| {
            let (name, mark) = of(place);
            format!("{name} {} {mark}", if place == length { ">" } else { "=" })
        };
        alternatives.push(format!("({})", (0..=length).map(term).collect::<Vec<_>>().join(" AND ")));
        args.extend_from_slice(&after[..=length]);
    }
    (alternatives.join(" OR "), args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_begins_by_all_columns_of_the_key() {
        let keys: Vec<_> = ["a", "b"].map(|name| (format!("\"{name}\""), Cow::from("?"))).into();
        let (sql, args) = behind(Dialect::Sqlite, &keys, &[Arg::Int(1), Arg::Int(2)]);
        assert_eq!(args, [Arg::Int(1), Arg::Int(2)]);
        let db = rusqlite::Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE t (a, b, PRIMARY KEY (a, b)) WITHOUT ROWID").unwrap();
        let explain = format!("EXPLAIN QUERY PLAN SELECT * FROM t WHERE {sql} ORDER BY a, b LIMIT 8");
        let plan: String = db.query_row(&explain, [1, 2], |row| row.get(3)).unwrap();
        assert_eq!(plan, "SEARCH t USING PRIMARY KEY ((a,b)>(?,?))");
        let (sql, args) = behind(Dialect::MySql, &keys, &[Arg::Int(1), Arg::Int(2)]);
        assert_eq!(sql, "(\"a\" > ?) OR (\"a\" = ? AND \"b\" > ?)");
        assert_eq!(args, [1, 1, 2].map(Arg::Int));
    }
}
