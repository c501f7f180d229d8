//! How a run ends, and is opened again. Whoever does either holds the lock of its row.

use super::{
    EVENT_LOG, Progress, Run, RunState, enqueued, get, progress,
    records::{self, Records},
};
use crate::{
    args,
    calendar::{self, Zone},
    db::{Db, DbError, Mode, Statement, Tx},
    queue::JobKind,
    statement,
};

statement!(RUN_LOCK, "lock run", "SELECT state FROM daymend_runs WHERE id = ? {for_update}");

statement!(RUN_HOLD, "hold run", "SELECT state FROM daymend_runs WHERE id = ? {skip_locked}");

statement!(
    RUN_END,
    "end run",
    "UPDATE daymend_runs SET state = ?, finished_at = {now} WHERE id = ? AND state = 'running'"
);

statement!(
    RUN_REOPEN,
    "reopen run",
    "UPDATE daymend_runs SET state = 'running', finished_at = NULL WHERE id = ? AND state <> 'running'"
);

statement!(
    REBUILD_LATER,
    "later rebuild",
    "SELECT id FROM daymend_runs WHERE id > ? AND rollup = ? AND kind = 'rebuild' AND lab_id = ? LIMIT 1"
);

// Until its last day is rebuilt, the doctor reports that a lab has moved.
statement!(LAB_REBUILT, "record rebuild", "UPDATE daymend_labs SET time_zone = ? WHERE rollup = ? AND lab_id = ?");

/// Closes a run whose jobs have all ended, once; returns its final state if this call closed it.
///
/// The run's row is locked before its jobs are counted, so that a retry that re-opens some of them comes either
/// before the count or after the close. The migration records that it carries out are updated in the same
/// transaction.
pub async fn try_close(db: &Db, id: i64) -> Result<Option<(RunState, Progress)>, DbError> {
    let mut tx = db.begin(Mode::Write).await?;
    let Some(run) = lock_running(&mut tx, id).await? else {
        return Ok(None);
    };
    let progress = progress(&mut tx, id).await?;
    if progress.open() > 0 {
        return Ok(None);
    }
    let state = match progress {
        Progress { discarded: 1.., .. } => RunState::Failed,
        Progress { cancelled: 1.., .. } => RunState::Cancelled,
        _ => RunState::Completed,
    };
    end(&mut tx, &run, state, &progress).await?;
    tx.commit().await?;
    Ok(Some((state, progress)))
}

/// Ends a run as cancelled, unless some of its jobs are open; returns whether it did. The run must be locked.
pub(crate) async fn end_cancelled(tx: &mut Tx, run: &Run) -> Result<bool, DbError> {
    let progress = progress(tx, run.id).await?;
    if progress.open() > 0 {
        return Ok(false);
    }
    end(tx, run, RunState::Cancelled, &progress).await?;
    Ok(true)
}

/// Locks a run against closing, cancelling and re-opening until the transaction ends.
pub async fn lock(tx: &mut Tx, id: i64) -> Result<(), DbError> {
    tx.fetch_optional(&RUN_LOCK, args![id], |_| Ok(())).await.map(drop)
}

/// Re-opens an ended run some of whose jobs are open again; does nothing if it is running.
///
/// The run must be locked. Its records read `Running (…)` again, and the event log gets another STARTED. A run
/// normally ends up cancelled when its records have disappeared; one that is re-opened goes on without them.
pub async fn reopen(tx: &mut Tx, id: i64) -> Result<(), DbError> {
    if tx.execute(&RUN_REOPEN, args![id]).await? == 1
        && let Some(run) = get(tx, id).await?
    {
        tx.execute(&EVENT_LOG, args![run.event_name.as_str(), "STARTED"]).await?;
        if records::of_run(tx, id).await? == Records::Disappeared {
            tracing::warn!(run = id, "its migration record has disappeared: it goes on without one");
            records::unlink(tx, id).await?;
        }
        let progress = progress(tx, id).await?;
        records::refresh(tx, &run, &progress).await?;
    }
    Ok(())
}

/// Locks a run that is running, unless somebody else has it locked; returns whether it did.
pub(crate) async fn hold_running(tx: &mut Tx, id: i64) -> Result<bool, DbError> {
    is_running(tx, &RUN_HOLD, id).await
}

/// Locks a run that is running; `None` if it is not.
pub(crate) async fn lock_running(tx: &mut Tx, id: i64) -> Result<Option<Run>, DbError> {
    if is_running(tx, &RUN_LOCK, id).await? { get(tx, id).await } else { Ok(None) }
}

async fn is_running(tx: &mut Tx, lock: &Statement, id: i64) -> Result<bool, DbError> {
    let state = tx.fetch_optional(lock, args![id], |row| Ok(row.text(0)?.parse::<RunState>()?)).await?;
    Ok(state == Some(RunState::Running))
}

async fn end(tx: &mut Tx, run: &Run, state: RunState, progress: &Progress) -> Result<(), DbError> {
    tx.execute(&RUN_END, args![state.name(), run.id]).await?;
    tx.execute(&EVENT_LOG, args![run.event_name.as_str(), state.name().to_uppercase()]).await?;
    if let (JobKind::Rebuild, RunState::Completed, Some(zone)) = (run.kind, state, &run.time_zone) {
        // One that was retried after the lab has moved again, and was rebuilt, says nothing of the history.
        let later = args![run.id, run.rollup.as_str(), run.lab_id];
        if tx.fetch_optional(&REBUILD_LATER, later, |_| Ok(())).await?.is_none() {
            if let (Some(lab), Ok(known)) = (run.lab_id, Zone::parse(Some(zone))) {
                // A lab may be rebuilt before it is switched on. The last day stays with the nightly run: it may not
                // have been due yet.
                let through = calendar::previous(known.yesterday(run.as_of));
                enqueued::add(tx, &run.rollup, &[lab]).await?;
                enqueued::record(tx, &run.rollup, &[lab], through, zone).await?;
            }
            tx.execute(&LAB_REBUILT, args![zone.as_str(), run.rollup.as_str(), run.lab_id]).await?;
        }
    }
    records::run_ended(tx, run, state, progress).await
}
