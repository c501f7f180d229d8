//! The lab system's migration records, kept in step with the runs that carry them out.
//!
//! Through `crelio_data_migrations` the Support Dashboard requests a rebuild and follows it. A record is only written
//! while it is ours (`is_scheduled = 0`): once set to Pending again, it is a new request. A record locked by a
//! transaction of the lab system is an immediate conflict, if the database can tell: whoever writes it holds its
//! run's lock.

use std::ops::RangeInclusive;

use chrono::NaiveDate;

use super::{Progress, Run, RunState};
use crate::{
    args,
    db::{DbError, Statement, Tx},
    statement,
};

/// The table of the records.
pub const TABLE: &str = "crelio_data_migrations";

/// The `migration_type` of records that request a rebuild.
pub const MIGRATION_TYPE: &str = "HISTORICAL_SUMMARY";

statement!(
    PENDING,
    "pending migrations",
    "SELECT id, lab_id, initiated_by_id FROM crelio_data_migrations
     WHERE id BETWEEN ? AND ? AND migration_type = ? AND is_scheduled = 1 AND job_status = 'Pending' ORDER BY id"
);

statement!(
    ENDS,
    "ends of migrations",
    "SELECT (SELECT MIN(id) FROM crelio_data_migrations WHERE id >= ?), (SELECT MAX(id) FROM crelio_data_migrations)"
);

statement!(
    TAKE,
    "take migration",
    "{waiting_for_nobody} UPDATE crelio_data_migrations
     SET is_scheduled = 0, job_status = ?, start_date = ?, end_date = ?, time_taken = 0, modified_at = {now}
     WHERE id = ? AND migration_type = ? AND is_scheduled = 1 AND job_status = 'Pending'"
);

statement!(LINK, "link migration", "REPLACE INTO daymend_migrations (migration_id, run_id) VALUES (?, ?)");

statement!(UNLINK, "unlink migrations", "DELETE FROM daymend_migrations WHERE run_id = ?");

statement!(
    REFRESH,
    "refresh migrations",
    "{waiting_for_nobody} UPDATE crelio_data_migrations SET job_status = ?, time_taken = ?, modified_at = {now}
     WHERE id = ? AND is_scheduled = 0 AND job_status <> ?"
);

statement!(IDS, "records of run", "SELECT migration_id FROM daymend_migrations WHERE run_id = ? ORDER BY migration_id");

statement!(
    LINKED,
    "linked migrations",
    "SELECT COUNT(*), COUNT(records.id)
     FROM daymend_migrations AS links LEFT JOIN crelio_data_migrations AS records ON records.id = links.migration_id
     WHERE links.run_id = ?"
);

statement!(
    REQUEST,
    "request migration",
    "INSERT INTO crelio_data_migrations
         (lab_id, is_scheduled, job_status, initiated_by_id, migration_type, created_at, modified_at)
     VALUES (?, 1, 'Pending', ?, ?, {now}, {now})"
);

/// The statements that the scheduler runs on the table, for every user.
pub(super) const EVERY_TICK: &[Statement] = &[ENDS, PENDING, TAKE, REFRESH];

/// A record that has not been taken yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Its id.
    pub id: i64,
    /// The lab to rebuild.
    pub lab_id: i64,
    /// Who asked, as an id of the lab system.
    pub initiated_by: i64,
}

/// The first record with at least the id `from`, and the last record; `None` if there is no such record.
pub async fn ends(tx: &mut Tx, from: i64) -> Result<Option<(i64, i64)>, DbError> {
    let ends = tx.fetch_one(&ENDS, args![from], |row| Ok((row.int_or_null(0)?, row.int_or_null(1)?))).await?;
    Ok(match ends {
        (Some(first), Some(last)) => Some((first, last)),
        _ => None,
    })
}

/// All possible ids of records.
pub const ALL: RangeInclusive<i64> = 0..=i64::MAX;

/// The records with these ids that request a rebuild, oldest first.
pub async fn pending(tx: &mut Tx, ids: RangeInclusive<i64>) -> Result<Vec<Pending>, DbError> {
    tx.fetch_all(&PENDING, args![*ids.start(), *ids.end(), MIGRATION_TYPE], |row| {
        Ok(Pending { id: row.int(0)?, lab_id: row.int(1)?, initiated_by: row.int(2)? })
    })
    .await
}

/// Inserts a record that requests a rebuild of a lab; returns its id.
pub async fn request(tx: &mut Tx, lab_id: i64, initiated_by: i64) -> Result<i64, DbError> {
    tx.insert(&REQUEST, args![lab_id, initiated_by, MIGRATION_TYPE]).await
}

/// Takes a pending record by compare-and-set; returns false if somebody else was faster.
pub async fn take(
    tx: &mut Tx,
    id: i64,
    status: &str,
    (first, last): (Option<NaiveDate>, Option<NaiveDate>),
) -> Result<bool, DbError> {
    let found = tx.execute(&TAKE, args![status, first, last, id, MIGRATION_TYPE]).await?;
    Ok(found == 1)
}

/// Stores that `run_id` carries out the record.
pub async fn link(tx: &mut Tx, id: i64, run_id: i64) -> Result<(), DbError> {
    tx.execute(&LINK, args![id, run_id]).await.map(drop)
}

/// Removes the link to the records that a run carried out.
pub async fn unlink(tx: &mut Tx, run_id: i64) -> Result<(), DbError> {
    tx.execute(&UNLINK, args![run_id]).await.map(drop)
}

/// Whether the records that a run carries out still exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Records {
    /// It never had any.
    None,
    /// Some still exist.
    There,
    /// All have disappeared.
    Disappeared,
}

/// The records that a run carries out.
pub async fn of_run(tx: &mut Tx, run_id: i64) -> Result<Records, DbError> {
    Ok(match tx.fetch_one(&LINKED, args![run_id], |row| Ok((row.int(0)?, row.int(1)?))).await? {
        (0, _) => Records::None,
        (_, 0) => Records::Disappeared,
        _ => Records::There,
    })
}

/// The status of a record while its run is running.
#[must_use]
pub fn running_status(progress: &Progress) -> String {
    format!("Running ({}/{})", progress.ended(), progress.total())
}

/// Updates the records of a running run.
pub async fn refresh(tx: &mut Tx, run: &Run, progress: &Progress) -> Result<(), DbError> {
    set_status(tx, run, &running_status(progress)).await
}

/// Closes the records of a run that has ended.
pub async fn run_ended(tx: &mut Tx, run: &Run, state: RunState, progress: &Progress) -> Result<(), DbError> {
    let status = match state {
        RunState::Running => running_status(progress),
        RunState::Completed => "Completed".to_owned(),
        RunState::Failed => format!("Failed ({} of {} days)", progress.discarded, progress.total()),
        RunState::Cancelled => "Cancelled".to_owned(),
    };
    set_status(tx, run, &status).await
}

/// Updates each record by its primary key: with any other condition, the servers would lock other records on the way.
async fn set_status(tx: &mut Tx, run: &Run, status: &str) -> Result<(), DbError> {
    let seconds = (tx.database_now().await? - run.created_at).num_seconds().max(0);
    for id in tx.fetch_all(&IDS, args![run.id], |row| row.int(0)).await? {
        tx.execute(&REFRESH, args![status, seconds, id, status]).await?;
    }
    Ok(())
}
