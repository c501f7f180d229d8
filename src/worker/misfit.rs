//! Waiting while a rollup's definition does not fit the database.
//!
//! A column that is renamed, a table that is being replaced or a privilege that is revoked fails every job alike. That
//! is not the jobs' fault: they keep their attempts, and the worker waits, not ready, until the definition fits again.
//! At its start, a worker refuses such a database.

use super::{End, Recurring, Session, wait_after};
use crate::{
    db::{Db, DbError, ErrorKind, Failures},
    error::chain,
    queue::Job,
    recompute::stored::{self, Access},
    rollup::{Rollup, misfit::Misfit, source},
};

/// The work that a misfit keeps from being done.
const WHAT: &str = "recompute";

/// How often a job met a definition that does not fit. The worker is not ready until this is dropped, at the end of the
/// job.
#[derive(Debug)]
pub(super) struct Misfits<'a> {
    session: &'a Session,
    recurring: Recurring,
    /// Whether the definition turned out to fit after the last error: what was wrong may have been mended meanwhile.
    is_mended: bool,
}

impl<'a> Misfits<'a> {
    pub(super) fn new(session: &'a Session) -> Self {
        Self { session, recurring: Recurring::default(), is_mended: false }
    }

    /// Waits, if `error` comes from a definition that does not fit, after which the job should be tried again. Gives
    /// the error back if it has another cause. `failures` counts all that the job waited for.
    pub(super) async fn wait(&mut self, job: &Job, error: DbError, failures: &mut Failures) -> Result<(), DbError> {
        let session = self.session;
        let Some(rollup) = session.rollups.get(&job.rollup).filter(|_| error.kind == ErrorKind::Definition) else {
            return Err(error);
        };
        let misfit = match find(&session.db, rollup).await {
            // It may have been mended meanwhile; the fault of somebody else's trigger comes back, and counts.
            Ok(None) if std::mem::replace(&mut self.is_mended, true) => return Err(error),
            Ok(None) => return Ok(()),
            Ok(Some(misfit)) => misfit.to_string(),
            // The database cannot tell at the moment.
            Err(error) => chain(&error),
        };
        self.is_mended = false;
        let is_lasting = self.recurring.add();
        session.pulse.set_trouble(WHAT, Some(format!("cannot {WHAT}: {misfit}")));
        wait_after(&error, WHAT, failures.add(), &session.over).await;
        if is_lasting && session.config.drain {
            session.end(End::Refused(error));
        }
        Ok(())
    }
}

impl Drop for Misfits<'_> {
    fn drop(&mut self) {
        if self.recurring.times > 0 {
            self.session.pulse.set_trouble(WHAT, None);
        }
    }
}

/// What about the rollup does not fit the database at present.
async fn find(db: &Db, rollup: &Rollup) -> Result<Option<Misfit>, DbError> {
    match source::check(db, rollup).await?.into_iter().next() {
        Some(misfit) => Ok(Some(misfit)),
        None => stored::check(db, rollup, Access::Write).await,
    }
}
