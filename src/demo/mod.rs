//! `daymend demo`: a story in one SQLite file, from drift to a summary that equals its source.
//!
//! Six labs get a year of bills each. Their summary is filled in correctly and then made wrong in ways that are
//! counted as they are planted. The nightly repair and one rebuild run as they would in production: the scheduler's
//! tick enqueues, a worker drains the queue, the runs close. Their corrections are compared with what was planted,
//! and the whole summary with a GROUP BY over the source. Any difference makes the demo fail.
//!
//! - `file`: replaces the file of an earlier demo, but no other file.
//! - `data`, `drift`: the source, and the drifted summary.
//! - `stage`: the acts in order; `follow` shows their progress.
//! - `check`, `report`: the comparison, and everything printed.

mod check;
mod data;
mod drift;
mod file;
mod follow;
mod report;
mod stage;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::Context as _;

use data::LABS;
use report::Corrected;
use stage::{REBUILT, Stage};

/// Options of the demo.
#[derive(Debug, Clone)]
pub struct Options {
    /// The SQLite file to create; the file of an earlier demo is replaced.
    pub file: PathBuf,
}

/// Runs the demo; fails if the result is not as expected.
pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let url = file::url(&options.file);
    file::remove_earlier(&options.file).await?;
    let stage = Stage::set(&url).await.with_context(|| format!("cannot make {}", options.file.display()))?;

    let made = stage.make_data().await?;
    report::heading("Six labs, a year of bills each, and a summary that was right once");
    report::labs(&made, stage.now);

    let (nightly, tick) = stage.nightly(&made).await?;
    report::heading("The nightly repair: the last three days of each lab, one run a time zone");
    report::corrected(&nightly);
    report::unusable(&tick.unusable);

    let (rebuild, record) = stage.rebuild(&made).await?;
    report::heading(&format!("The rebuild of {}, asked for by a record of the Support Dashboard", REBUILT.name));
    report::corrected(&rebuild);
    report::record(&record);

    let comparisons = stage.compare().await?;
    report::heading("The whole summary against its source, by a GROUP BY that shares nothing with daymend");
    report::comparisons(&comparisons);
    stage.clear().await;

    let without_zone = LABS.iter().filter(|lab| lab.clock.is_none()).map(|lab| lab.id);
    let findings = [
        (nightly.len() == made.nights.len() && rebuild.len() == 1, "not every run ended"),
        (nightly.iter().chain(&rebuild).all(Corrected::is_exact), "a run corrected something else than was wrong"),
        (tick.unusable.keys().copied().eq(without_zone), "the lab without a zone, and only it, should be reported"),
        (record.status == "Completed", "the record does not say Completed"),
        (comparisons.iter().all(|lab| lab.differing == 0), "the summary differs from its source"),
    ];
    let wrong: Vec<&str> = findings.iter().filter(|(is_right, _)| !is_right).map(|(_, what)| *what).collect();
    report::verdict(&wrong, begun.elapsed());
    if !wrong.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    report::next_steps(&options.file, &url, LABS[0].history(stage.now).1);
    Ok(ExitCode::SUCCESS)
}
