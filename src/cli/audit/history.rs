//! `daymend audit history`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{Exit, Global, print_json, usage};
use crate::{
    audit::{
        cause::title,
        cursors::{self, Coverage, Cursor},
        slices::{self, Found, Slice},
    },
    db::{Db, Mode},
    output::table::{or_dash, table, time},
    rollup::HISTORICAL_SUMMARY,
};

/// Options of `daymend audit history`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Show what the audit with this id found, by lab and day
    id: Option<i64>,

    /// Show how far the audit has come with each lab
    #[arg(long, conflicts_with = "id")]
    labs: bool,

    /// How many nights to list
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

impl Options {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let db = global.connect(2).await?;
        match self.id {
            Some(id) => show(global, &db, id).await?,
            None if self.labs => labs(global, &db).await?,
            None => list(global, &db, self.limit).await?,
        }
        Ok(Exit::Ok.into())
    }
}

async fn list(global: &Global, db: &Db, limit: u32) -> anyhow::Result<()> {
    let slices = slices::list(db, HISTORICAL_SUMMARY, limit).await?;
    let coverage = cursors::coverage(db, HISTORICAL_SUMMARY).await?;
    if global.json {
        return print_json(&json!({ "audits": slices, "coverage": coverage }));
    }
    if slices.is_empty() {
        println!("no audit yet: a scheduler audits a slice of the history every night (--audit-budget)");
        return Ok(());
    }
    let headings =
        [">audit", "night", "state", ">took", ">labs done", ">days", ">drifted", ">rows", ">repair", "started (UTC)"];
    let mut table = table(&headings);
    for slice in &slices {
        table.add_row(line(slice));
    }
    println!("{table}");
    println!("{}", since(&coverage));
    Ok(())
}

fn line(slice: &Slice) -> [String; 10] {
    [
        slice.id.to_string(),
        slice.night.to_string(),
        slice.state.clone(),
        format!("{:.1} s", slice.spent_ms as f64 / 1000.0),
        slice.labs_completed.to_string(),
        slice.days_audited.to_string(),
        slice.days_drifted.to_string(),
        slice.differences.to_string(),
        or_dash(slice.run.map(|run| format!("run {run}"))),
        time(slice.started_at),
    ]
}

fn since(coverage: &Coverage) -> String {
    let audited = coverage.labs - coverage.labs_unaudited;
    match coverage.audited_since {
        Some(at) => {
            format!("{audited} of {} lab(s): every day has been audited since {} UTC", coverage.labs, time(at))
        }
        None => format!("no lab of {} has been audited from end to end yet", coverage.labs),
    }
}

async fn show(global: &Global, db: &Db, id: i64) -> anyhow::Result<()> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let slice = slices::get(&mut tx, HISTORICAL_SUMMARY, id).await?;
    let found = slices::found(&mut tx, id).await?;
    tx.commit().await?;
    let slice = slice.ok_or_else(|| usage(format!("audit {id} does not exist: see `daymend audit history`")))?;
    if global.json {
        return print_json(&json!({ "audit": slice, "found": found }));
    }
    println!("audit {id}, night of {}: {}", slice.night, slice.state);
    println!("  days audited  {}, of which {} had drifted", slice.days_audited, slice.days_drifted);
    println!("  took          {:.1} s", slice.spent_ms as f64 / 1000.0);
    println!("  repair        {}", or_dash(slice.run.map(|run| format!("run {run}"))));
    let mut table = table(&[">lab", "day", "cause", ">rows"]);
    for Found { lab, day, cause, differences } in &found {
        table.add_row([lab.to_string(), day.to_string(), title(cause), differences.to_string()]);
    }
    if !found.is_empty() {
        println!("{table}\nthe rows themselves: daymend audit --lab LAB --from DAY --to DAY --json");
    }
    Ok(())
}

async fn labs(global: &Global, db: &Db) -> anyhow::Result<()> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let cursors = cursors::read(&mut tx, HISTORICAL_SUMMARY).await?;
    tx.commit().await?;
    if global.json {
        let line = |(lab, cursor): (&i64, &Cursor)| json!({ "lab": lab, "cursor": cursor });
        return print_json(&cursors.iter().map(line).collect::<Vec<_>>());
    }
    let mut table = table(&[">lab", "every day audited since (UTC)", "continues at", "~problem"]);
    for (lab, cursor) in &cursors {
        table.add_row([
            lab.to_string(),
            or_dash(cursor.audited_at.map(time)),
            or_dash(cursor.next_day),
            or_dash(cursor.problem.as_ref()),
        ]);
    }
    println!("{table}");
    Ok(())
}
