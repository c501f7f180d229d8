//! Units that are claimed and wait for a slot.
//!
//! What has waited for long is given back, so that other workers can have it: this one holds back, or something hangs
//! in its slots. Whoever takes a unit out of its [`Ticket`] has it: the slot that begins it, or the one who gives it
//! back.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{Session, fetch::Unit};
use crate::{
    db::DbError,
    queue::{Job, settle},
};

/// How long a unit may wait.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// How many jobs are given back at once.
const JOBS_AT_ONCE: usize = 500;

/// A unit on its way to a slot; empty once somebody has it.
pub(super) type Ticket = Arc<Mutex<Option<Unit>>>;

/// The units that wait, oldest first, and since when.
#[derive(Debug, Default)]
pub(super) struct Waiting(VecDeque<(Instant, Ticket)>);

impl Waiting {
    /// Adds a unit, and forgets those that have begun.
    pub(super) fn add(&mut self, unit: Unit) -> Ticket {
        while self.0.front().is_some_and(|(_, ticket)| ticket.try_lock().is_ok_and(|unit| unit.is_none())) {
            self.0.pop_front();
        }
        let ticket = Arc::new(Mutex::new(Some(unit)));
        self.0.push_back((Instant::now(), Arc::clone(&ticket)));
        ticket
    }

    /// Gives back units that have waited for long, except those with a job that somebody keeps locked; returns how many
    /// jobs that were.
    pub(super) async fn give_back(&self, session: &Session) -> Result<usize, DbError> {
        let (mut units, mut jobs): (Vec<OwnedMutexGuard<Option<Unit>>>, _) = (Vec::new(), 0);
        for (_, ticket) in self.0.iter().take_while(|(since, _)| since.elapsed() > WAIT_MAX) {
            // What is locked is beginning just now.
            let Ok(unit) = Arc::clone(ticket).try_lock_owned() else { continue };
            let Some(size) = unit.as_ref().map(|unit| unit.jobs.len()) else { continue };
            if jobs + size > JOBS_AT_ONCE {
                break;
            }
            jobs += size;
            units.push(unit);
        }
        if units.is_empty() {
            return Ok(0);
        }
        // The units stay locked until this is done: a slot that becomes free meanwhile waits for it.
        let of_units: Vec<&[Job]> = units.iter().flat_map(|unit| unit.as_ref()).map(|unit| &unit.jobs[..]).collect();
        let given_back = settle::give_back(&session.db, session.worker_id, &of_units).await;
        // Before another claim, or a slot, can have them.
        let given_back = given_back.inspect_err(|error| session.end_if_in_doubt(error))?;
        let mut jobs = 0;
        for (unit, is_given_back) in units.iter_mut().zip(given_back) {
            if let Some(unit) = unit.take_if(|_| is_given_back) {
                jobs += unit.jobs.len();
            }
        }
        if jobs > 0 {
            tracing::info!(worker = session.worker_id, jobs, "given back: they waited here for too long");
        }
        Ok(jobs)
    }
}
