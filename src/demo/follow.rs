//! Showing how far runs are while a worker works them off.

#![expect(clippy::print_stderr, reason = "progress goes to standard error")]

use std::{
    fmt::Write,
    future::Future,
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::{
    db::{Db, DbError, Mode},
    runs,
    scheduler::{self, Report},
};

/// How often the runs are looked at, and how often a plain line says how far they are.
const LOOK: Duration = Duration::from_millis(100);
const LINE: Duration = Duration::from_secs(1);

/// Says what is being done now.
pub(super) fn note(what: &str) {
    eprintln!("{what} ...");
}

/// Shows a bar (a line now and then where there is no terminal) until `work` has ended, closes
/// the runs, and returns what became of them.
pub(super) async fn follow(
    db: &Db,
    title: &'static str,
    run_ids: &[i64],
    work: impl Future<Output = ()>,
) -> Result<Report, DbError> {
    let is_terminal = std::io::stderr().is_terminal();
    let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target).with_prefix(title);
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} jobs  {rate}  {eta} left") {
        let rate = |state: &ProgressState, text: &mut dyn Write| {
            let _ = write!(text, "{:.0}/s", state.per_sec());
        };
        bar.set_style(style.with_key("rate", rate));
    }
    let begun = Instant::now();
    let mut said = begun;
    tokio::pin!(work);
    loop {
        let is_done = tokio::select! {
            () = &mut work => true,
            () = tokio::time::sleep(LOOK) => false,
        };
        let (ended, total) = count(db, run_ids).await?;
        bar.set_length(total);
        bar.set_position(ended);
        if is_done {
            break;
        }
        if !is_terminal && said.elapsed() >= LINE {
            said = Instant::now();
            eprintln!("{title}: {ended} of {total} jobs");
        }
    }
    bar.finish_and_clear();
    let mut report = Report::default();
    scheduler::close_runs(db, &mut report).await?;
    eprintln!("{title}: {} jobs in {:.1} s", bar.position(), begun.elapsed().as_secs_f64());
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
