//! How far each lab's days have been enqueued or rebuilt: the nightly run goes on from there.

use chrono::NaiveDate;

use crate::{
    args,
    db::{DbError, Tx},
    statement,
};

statement!(LABS_ADD, "add labs", "{insert_ignore} INTO daymend_labs (rollup, lab_id) VALUES {rows}", "(?, ?)");

// Never moves backwards: another scheduler, whose clock is ahead, may have come first. The zone stays the one that the
// history was built with, so that the doctor reports a change until a rebuild has followed.
statement!(
    LABS_RECORD,
    "record labs",
    "UPDATE daymend_labs SET enqueued_through = ?, time_zone = COALESCE(time_zone, ?)
     WHERE rollup = ? AND lab_id IN ({list}) AND (enqueued_through IS NULL OR enqueued_through < ?)"
);

/// Adds the labs that are not known yet.
pub(crate) async fn add(tx: &mut Tx, rollup: &str, labs: &[i64]) -> Result<(), DbError> {
    let rows = labs.iter().flat_map(|lab| args![rollup, *lab]).collect();
    tx.execute(LABS_ADD.with_rows(labs.len()), rows).await.map(drop)
}

/// Records that the labs' days through that one are covered, in their zone of now.
pub(crate) async fn record(
    tx: &mut Tx,
    rollup: &str,
    labs: &[i64],
    through: NaiveDate,
    zone: &str,
) -> Result<(), DbError> {
    let mut args = args![through, zone, rollup; labs];
    args.push(through.into());
    tx.execute(LABS_RECORD.with_list(labs.len()), args).await.map(drop)
}
