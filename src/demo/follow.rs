//! Showing the progress of runs while a worker processes them.

use std::{future::Future, time::Duration};

use crate::{
    db::{Db, DbError, Mode},
    output::{bar::Bar, tell},
    runs::{
        self,
        close::{self, Report},
        held::Held,
    },
};

/// How often the progress of the runs is read.
const LOOK: Duration = Duration::from_millis(100);

/// Prints what is being done now.
pub(super) fn note(what: &str) {
    tell(format_args!("{what} ..."));
}

/// Shows a progress bar (or a line now and then, without a terminal) until `work` has ended, closes the runs, and
/// returns how they ended.
pub(super) async fn follow<T>(
    db: &Db,
    title: &'static str,
    run_ids: &[i64],
    work: impl Future<Output = Result<T, DbError>>,
) -> Result<Report, DbError> {
    let mut bar = Bar::new(title, "days");
    tokio::pin!(work);
    loop {
        let is_done = tokio::select! {
            worked = &mut work => worked.map(|_| true)?,
            () = tokio::time::sleep(LOOK) => false,
        };
        let (ended, total) = count(db, run_ids).await?;
        bar.update(ended, total);
        if is_done {
            break;
        }
    }
    let mut report = Report::default();
    close::close_runs(db, &mut report, &mut Held::default()).await?;
    let (days, took) = bar.finish();
    tell(format_args!("{title}: {days} days in {:.1} s", took.as_secs_f64()));
    Ok(report)
}

/// How many jobs of the runs have ended, and how many there are.
async fn count(db: &Db, run_ids: &[i64]) -> Result<(u64, u64), DbError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let (mut ended, mut total) = (0, 0);
    for run in run_ids {
        let progress = runs::progress(&mut tx, *run).await?;
        ended += progress.ended();
        total += progress.total();
    }
    tx.commit().await?;
    Ok((ended, total))
}
