//! Which rows refer to others.
//!
//! The columns of a reference that the schema does not know may have no index, and then every question reads the whole
//! table, often while rows are locked: a page of rows is one question.

use std::collections::HashMap;

use super::Link;
use crate::{
    db::{Arg, DbError, Dialect, Query, Tx},
    snapshot::{
        cells::{self, Cells},
        schema::{quote, quote_all},
        side::{PAGE, Shape, Side},
    },
};

/// How many referring rows are read at once. If there are more, fewer rows are asked about at a time.
const READ_MAX: usize = 10_000;

impl Link {
    /// The keys of rows that refer to a row, up to a maximum number.
    pub async fn referrers(
        &self,
        tx: &mut Tx,
        live: &Side,
        shapes: &[Shape],
        row: &[Arg],
        limit: usize,
    ) -> Result<Vec<Cells>, DbError> {
        let Some(sought) = self.sought(row) else { return Ok(Vec::new()) };
        let condition = live.equal(&shapes[self.child], &self.columns, "", &sought);
        let found = self.referring(tx, live, shapes, condition, sought, limit).await?;
        Ok(found.into_iter().map(|(_, key)| key).collect())
    }

    /// For each row, the keys of rows that refer to it, up to a maximum number.
    pub async fn referrers_of_each(
        &self,
        tx: &mut Tx,
        live: &Side,
        shapes: &[Shape],
        rows: &[&[Arg]],
        limit: usize,
    ) -> Result<Vec<Vec<Cells>>, DbError> {
        let mut found = vec![Vec::new(); rows.len()];
        let mut waiting: Vec<_> =
            (0..rows.len()).step_by(PAGE).map(|start| start..rows.len().min(start + PAGE)).collect();
        while let Some(places) = waiting.pop() {
            if places.len() == 1 {
                found[places.start] = self.referrers(tx, live, shapes, rows[places.start], limit).await?;
            } else if let Some(each) = self.referrers_at_once(tx, live, shapes, &rows[places.clone()]).await? {
                for (place, mut keys) in places.zip(each) {
                    keys.truncate(limit);
                    found[place] = keys;
                }
            } else {
                let middle = places.start + places.len() / 2;
                waiting.extend([places.start..middle, middle..places.end]);
            }
        }
        Ok(found)
    }

    /// The same for a few rows by one statement; `None` if fewer of them have to be asked about.
    async fn referrers_at_once(
        &self,
        tx: &mut Tx,
        live: &Side,
        shapes: &[Shape],
        rows: &[&[Arg]],
    ) -> Result<Option<Vec<Vec<Cells>>>, DbError> {
        let child = &shapes[self.child];
        let [column] = self.columns[..] else { return Ok(None) };
        // Of two texts that only the database considers equal, each is referred to by whatever refers to the other.
        if !self.is_whole || live.lookups_max(child, &self.columns) == 1 {
            return Ok(None);
        }
        let mut wanted: HashMap<String, Vec<usize>> = HashMap::new();
        let mut args = Vec::new();
        for (place, row) in rows.iter().enumerate() {
            let Some(sought) = self.sought(row) else { continue };
            let places = wanted.entry(cells::encode(&sought)).or_default();
            if places.is_empty() {
                args.extend(sought);
            }
            places.push(place);
        }
        let mut found = vec![Vec::new(); rows.len()];
        if args.is_empty() {
            return Ok(Some(found));
        }
        let name = &child.columns[column];
        let placeholder = live.placeholder(&child.table, name);
        let marks: Vec<&str> = args.iter().map(|value| cells::mark(&placeholder, value)).collect();
        let condition = format!("{} IN ({})", quote(live.db.dialect(), name), marks.join(", "));
        let referring = self.referring(tx, live, shapes, condition, args, READ_MAX).await?;
        if referring.len() == READ_MAX {
            return Ok(None);
        }
        for (values, key) in referring {
            // A number that is stored as a text in another way: only the database knows which row it refers to.
            let Some(places) = wanted.get(&cells::encode(&values)) else { return Ok(None) };
            places.iter().for_each(|place| found[*place].push(key.clone()));
        }
        Ok(Some(found))
    }

    /// The rows of the child that meet a condition, up to a maximum number: the values by which they refer, and their
    /// keys.
    async fn referring(
        &self,
        tx: &mut Tx,
        live: &Side,
        shapes: &[Shape],
        mut condition: String,
        mut args: Vec<Arg>,
        limit: usize,
    ) -> Result<Vec<(Cells, Cells)>, DbError> {
        let (dialect, child) = (live.db.dialect(), &shapes[self.child]);
        let lean = child.lean(&self.columns);
        if let Some((place, value)) = &self.when {
            let text = if dialect == Dialect::MySql { "CHAR" } else { "TEXT" };
            condition += &format!(" AND CAST({} AS {text}) = ?", quote(dialect, &child.columns[*place]));
            args.push(Arg::from(value.as_str()));
        }
        let sql = format!(
            "SELECT {} FROM {} WHERE {condition} LIMIT {limit}",
            quote_all(dialect, lean.columns.iter().map(String::as_str)),
            quote(dialect, &child.table)
        );
        let rows = live.rows(tx, Query::new("restore referrers", sql), &lean, args).await?;
        Ok(rows.iter().map(|row| (row[..self.columns.len()].to_vec(), lean.key_of(row))).collect())
    }
}
