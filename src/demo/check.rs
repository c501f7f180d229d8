//! Checking the result: the whole summary against the source, and the migration record.

use chrono::NaiveDate;

use super::data::Lab;
use crate::{
    args,
    db::{DbError, Query, Tx},
};

/// Every expected row next to its stored row; either may be missing. Stacked and grouped instead of joined: SQLite may
/// run a full join by comparing all rows with all.
const COMPARE: &str = concat!(
    include_str!("expected.sqlite.sql"),
    "SELECT COUNT(*), COALESCE(SUM(expected_count IS NOT stored_count), 0)
     FROM (SELECT SUM(expected_count) AS expected_count, SUM(stored_count) AS stored_count
           FROM (SELECT *, event_count AS expected_count, NULL AS stored_count FROM expected
                 UNION ALL
                 SELECT lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, NULL, event_count
                 FROM operation_historical_summary WHERE lab_id = ?)
           GROUP BY ordered_at, dimension_a_id, dimension_b_id, event_type)"
);

const RECORD: &str = "SELECT id, lab_id, job_status, start_date, end_date, COALESCE(time_taken, 0)
     FROM crelio_data_migrations WHERE id = ?";

/// The comparison of one lab's whole summary with its source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Comparison {
    pub(super) lab: &'static Lab,
    /// Rows on either side.
    pub(super) compared: i64,
    /// Rows whose count differs, or that are on one side only.
    pub(super) differing: i64,
}

/// A record of the lab system's migration queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) id: i64,
    pub(super) lab_id: i64,
    pub(super) status: String,
    pub(super) start: Option<NaiveDate>,
    pub(super) end: Option<NaiveDate>,
    pub(super) seconds: i64,
}

/// Compares a lab's whole summary with a GROUP BY over the source.
pub(super) async fn compare(tx: &mut Tx, lab: &'static Lab) -> Result<Comparison, DbError> {
    tx.fetch_one(Query::new("compare", COMPARE), args![lab.id, lab.id], |row| {
        Ok(Comparison { lab, compared: row.int(0)?, differing: row.int(1)? })
    })
    .await
}

/// Reads a migration record.
pub(super) async fn record(tx: &mut Tx, id: i64) -> Result<Record, DbError> {
    tx.fetch_one(Query::new("read record", RECORD), args![id], |row| {
        Ok(Record {
            id: row.int(0)?,
            lab_id: row.int(1)?,
            status: row.text(2)?,
            start: row.date_or_null(3)?,
            end: row.date_or_null(4)?,
            seconds: row.int(5)?,
        })
    })
    .await
}
