//! The summary as an old system would have left it: correct at first, then drifted.

use chrono::{DateTime, Days, NaiveDate, Utc};
use rand::{RngExt as _, rngs::StdRng, seq::SliceRandom as _};

use super::data::Lab;
use crate::{
    args,
    db::{Arg, DbError, Query, Tx},
};

/// How many days the nightly run finds that were not enqueued yet.
pub(super) const NIGHTS: u64 = 3;

const FILL: &str = concat!(
    include_str!("expected.sqlite.sql"),
    "INSERT INTO operation_historical_summary
         (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at)
     SELECT lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, {now}, {now} FROM expected"
);

const ENQUEUED: &str = "INSERT INTO daymend_labs (rollup, lab_id, enqueued_through, time_zone) VALUES (?, ?, ?, ?)";

const DELETE_DAY: &str = "DELETE FROM operation_historical_summary WHERE lab_id = ? AND ordered_at = ?";

const ROWS: &str =
    "SELECT id FROM operation_historical_summary WHERE lab_id = ? AND ordered_at BETWEEN ? AND ? ORDER BY id";

const MISCOUNT: &str = "UPDATE operation_historical_summary SET event_count = event_count + ? WHERE id = ?";

const DELETE: &str = "DELETE FROM operation_historical_summary WHERE id = ?";

/// A ghost is a copy of a real row under an organization, doctor or branch that never existed, on the same day or on
/// another.
const GHOST: &str = "INSERT INTO operation_historical_summary
         (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at)
     SELECT lab_id, COALESCE(?, ordered_at), dimension_a_id + 1000, dimension_b_id, event_type, event_count, {now}, {now}
     FROM operation_historical_summary WHERE id = ?";

/// How many summary rows are wrong, for each of the three kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Rows with a wrong count.
    pub(super) counts: u64,
    /// Rows that are missing.
    pub(super) missing: u64,
    /// Rows that the source does not support.
    pub(super) ghosts: u64,
}

/// Which part of a lab's summary is made wrong.
#[derive(Debug, Clone, Copy)]
struct Place {
    lab: i64,
    first: NaiveDate,
    last: NaiveDate,
}

/// Fills in the lab's summary correctly; returns the number of rows.
pub(super) async fn fill(tx: &mut Tx, lab: &Lab) -> Result<u64, DbError> {
    tx.execute(Query::new("fill summary", FILL), args![lab.id]).await
}

/// Makes the lab's last days wrong, and records that a scheduler has enqueued the days before them.
pub(super) async fn last_nights(
    tx: &mut Tx,
    rng: &mut StdRng,
    lab: &Lab,
    now: DateTime<Utc>,
    day_gone: Option<NaiveDate>,
) -> Result<Wrong, DbError> {
    let (_, last) = lab.history(now);
    let through = last - Days::new(NIGHTS);
    let args = args![crate::rollup::HISTORICAL_SUMMARY, lab.id, through, lab.time_zone];
    tx.execute(Query::new("record enqueued", ENQUEUED), args).await?;
    let place = Place { lab: lab.id, first: through + Days::new(1), last };
    let wanted =
        Wrong { counts: rng.random_range(15..40), missing: rng.random_range(10..25), ghosts: rng.random_range(5..15) };
    place.spoil(tx, rng, wanted, day_gone).await
}

/// Makes the lab's whole history wrong, up to the days that the nightly run covers, and adds rows on days that cannot
/// have any: before its first bill, and today.
pub(super) async fn history(tx: &mut Tx, rng: &mut StdRng, lab: &Lab, now: DateTime<Utc>) -> Result<Wrong, DbError> {
    let (first, last) = lab.history(now);
    let place = Place { lab: lab.id, first, last: last - Days::new(NIGHTS) };
    let wanted = Wrong { counts: 600, missing: 350, ghosts: 140 };
    let mut wrong = place.spoil(tx, rng, wanted, Some(first + Days::new(100))).await?;
    let rows = place.rows(tx).await?;
    for day in [first - Days::new(400), first - Days::new(1), last + Days::new(1)] {
        for row in rows.iter().take(5) {
            wrong.ghosts += tx.execute(Query::new("plant ghost", GHOST), args![day, *row]).await?;
        }
    }
    Ok(wrong)
}

impl Place {
    /// Makes as many rows wrong as `wanted`, and removes all of `day_gone`; returns what became wrong.
    async fn spoil(
        &self,
        tx: &mut Tx,
        rng: &mut StdRng,
        wanted: Wrong,
        day_gone: Option<NaiveDate>,
    ) -> Result<Wrong, DbError> {
        let mut wrong = Wrong::default();
        if let Some(day) = day_gone {
            wrong.missing += tx.execute(Query::new("delete day", DELETE_DAY), args![self.lab, day]).await?;
        }
        let mut rows = self.rows(tx).await?;
        rows.shuffle(rng);
        // Each row is made wrong in only one way, so that what was planted can be counted.
        let mut rows = rows.into_iter().map(Arg::Int);
        for row in rows.by_ref().take(wanted.counts as usize) {
            let off: i64 = if rng.random_bool(0.5) { -1 } else { rng.random_range(1..4) };
            wrong.counts += tx.execute(Query::new("miscount", MISCOUNT), vec![off.into(), row]).await?;
        }
        for row in rows.by_ref().take(wanted.ghosts as usize) {
            wrong.ghosts += tx.execute(Query::new("plant ghost", GHOST), vec![Arg::Null, row]).await?;
        }
        for row in rows.take(wanted.missing as usize) {
            wrong.missing += tx.execute(Query::new("delete row", DELETE), vec![row]).await?;
        }
        Ok(wrong)
    }

    /// The ids of the stored rows, in an order that depends only on the rows.
    async fn rows(&self, tx: &mut Tx) -> Result<Vec<i64>, DbError> {
        let mut ids = Vec::new();
        let range = args![self.lab, self.first, self.last];
        tx.for_each(Query::new("rows to spoil", ROWS), range, |row| {
            ids.push(row.int(0)?);
            Ok(())
        })
        .await?;
        Ok(ids)
    }
}
