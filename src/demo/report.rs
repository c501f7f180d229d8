//! The demo's output: its story, in tables.

#![expect(clippy::print_stdout, reason = "the tables are the demo's result")]

use std::{collections::BTreeMap, path::Path, time::Duration};

use chrono::{DateTime, NaiveDate, Utc};

use super::{
    check::{Comparison, Record},
    data::{LABS, Lab},
    drift::Wrong,
    file::shell_word,
    stage::Made,
};
use crate::{
    output::table::table,
    runs::{Progress, RunState},
};

/// One run: the lab it was for, what was wrong there, and what it corrected.
#[derive(Debug)]
pub(super) struct Corrected {
    pub(super) run_id: i64,
    pub(super) lab: &'static Lab,
    pub(super) state: RunState,
    pub(super) planted: Wrong,
    pub(super) progress: Progress,
}

impl Corrected {
    /// Whether it completed, and wrote exactly what was wrong.
    pub(super) fn is_exact(&self) -> bool {
        let written = Wrong {
            counts: self.progress.rows_updated,
            missing: self.progress.rows_inserted,
            ghosts: self.progress.rows_deleted,
        };
        self.state == RunState::Completed && written == self.planted
    }
}

/// Prints the heading of an act.
pub(super) fn heading(text: &str) {
    println!("\n{text}\n");
}

/// The labs, with how many bills and summary rows each has.
pub(super) fn labs(made: &Made, now: DateTime<Utc>) {
    let mut table = table(&["Lab", "Name", "Time zone", "First day", "Last day", ">Bills", ">Summary rows"]);
    for lab in &LABS {
        let (first, last) = lab.history(now);
        table.add_row([
            lab.id.to_string(),
            lab.name.to_owned(),
            lab.time_zone.to_owned(),
            first.to_string(),
            last.to_string(),
            made.bills.get(&lab.id).copied().unwrap_or_default().to_string(),
            made.rows.get(&lab.id).copied().unwrap_or_default().to_string(),
        ]);
    }
    println!("{table}");
}

/// What each run corrected, next to what was wrong.
pub(super) fn corrected(runs: &[Corrected]) {
    let mut table =
        table(&["Lab", "Run", ">Days", ">Wrong counts updated", ">Missing inserted", ">Ghosts deleted", "State"]);
    for run in runs {
        let of = |written: u64, planted: u64| format!("{written} of {planted}");
        table.add_row([
            format!("{} {}", run.lab.id, run.lab.name),
            run.run_id.to_string(),
            run.progress.completed.to_string(),
            of(run.progress.rows_updated, run.planted.counts),
            of(run.progress.rows_inserted, run.planted.missing),
            of(run.progress.rows_deleted, run.planted.ghosts),
            run.state.name().to_owned(),
        ]);
    }
    println!("{table}");
}

/// The migration record, as the Support Dashboard shows it.
pub(super) fn record(record: &Record) {
    let mut table = table(&["Record", "Lab", "job_status", "start_date", "end_date", ">time_taken (s)"]);
    let date = |date: Option<NaiveDate>| date.map_or_else(|| "-".to_owned(), |date| date.to_string());
    table.add_row([
        record.id.to_string(),
        record.lab_id.to_string(),
        record.status.clone(),
        date(record.start),
        date(record.end),
        record.seconds.to_string(),
    ]);
    println!("{table}");
}

/// The summary against the source.
pub(super) fn comparisons(comparisons: &[Comparison]) {
    let mut table = table(&["Lab", ">Rows compared", ">Differing"]);
    for comparison in comparisons {
        table.add_row([
            format!("{} {}", comparison.lab.id, comparison.lab.name),
            comparison.compared.to_string(),
            comparison.differing.to_string(),
        ]);
    }
    println!("{table}");
}

/// The labs that could not be scheduled.
pub(super) fn unusable(labs: &BTreeMap<i64, String>) {
    for (lab, why) in labs {
        println!("Lab {lab} was reported, and stopped no other: {why}");
    }
}

/// How the demo ended.
pub(super) fn verdict(wrong: &[&str], took: Duration) {
    let seconds = took.as_secs_f64();
    if wrong.is_empty() {
        println!("\nEverything that was wrong is right, and nothing else was written: {seconds:.1} s in all.");
    } else {
        println!("\nFAILED after {seconds:.1} s: {}.", wrong.join("; "));
    }
}

/// What to try next with the file.
pub(super) fn next_steps(file: &Path, url: &str, day: NaiveDate) {
    let daymend = shell_word(&std::env::args().next().unwrap_or_else(|| "daymend".to_owned()));
    let file = shell_word(&file.display().to_string());
    println!(
        "
To try next, on the same file:

  export DAYMEND_DATABASE_URL={url}
  {daymend} runs list
  {daymend} runs show 1
  {daymend} rollups check

With a scheduler and a worker in this terminal:

  {daymend} serve

and the rest in another (sqlite3 is SQLite's own client, from the package of that name):

  export DAYMEND_DATABASE_URL={url}
  sqlite3 {file} \"DELETE FROM operation_historical_summary WHERE lab_id = 1 AND ordered_at = '{day}'\"
  {daymend} repair --day {day} --lab 1 --wait
  {daymend} rebuild --lab 2 --wait
  sqlite3 {file} \"UPDATE labs SET labTimeZone = 'Asia/Kolkata' WHERE id = 6\"
  {daymend} runs list"
    );
}
