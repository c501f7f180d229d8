//! `daymend repair`.

use std::process::ExitCode;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use clap::Args;

use super::{
    Global, calendar_day, check_order, follow, historical_summary, in_range, print_json, service::LimitArgs, usage, who,
};
use crate::{
    calendar::span,
    cli::Exit,
    error::examples,
    runs::{
        LabDays, count_days,
        repair::{self, Clipped, Days, LeftOut, Plan, PlanError},
    },
};

/// How many labs to name that begin later, or end earlier, than asked for.
const CLIPPED_SHOWN: usize = 5;

/// Options of `daymend repair`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub(super) struct Options {
    /// The calendar day to recompute in each lab, such as 2026-03-15
    #[arg(long, group = "which", value_name = "DAY", value_parser = calendar_day)]
    day: Option<NaiveDate>,

    /// With --day: the last day of a range
    #[arg(long, requires = "day", conflicts_with = "as_of", value_name = "DAY", value_parser = calendar_day)]
    to: Option<NaiveDate>,

    /// Recompute what was yesterday in each lab at this UTC time, such as '2026-03-16 04:00:00'
    #[arg(long, group = "which", value_name = "TIME", value_parser = utc_moment)]
    as_of: Option<DateTime<Utc>>,

    /// Only these labs, such as 1,2 (may be repeated); all enabled labs by default
    #[arg(long, value_delimiter = ',', value_name = "ID")]
    lab: Vec<i64>,

    /// Follow the run and exit with its result, or with 3 if labs were left out whose zone or bills cannot be used
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,

    /// Only print what would be enqueued
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    limits: LimitArgs,
}

impl Options {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let days = match (self.day, self.as_of) {
            (Some(day), _) => {
                check_order("--day", self.day, self.to)?;
                Days::Range(day, self.to.unwrap_or(day))
            }
            (None, Some(at)) => Days::YesterdayAt(at),
            (None, None) => return Err(usage("--day or --as-of is needed")),
        };
        let (db, rollups) = global.connect_checked(4).await?;
        let rollup = historical_summary(&rollups)?;
        let now = db.now(global.clock()).await?;
        let plan = match repair::plan(&db, rollup, &self.lab, days, now).await {
            Ok(plan) => plan,
            Err(PlanError::Database(error)) => return Err(error.into()),
            Err(error) => return Err(usage(error.to_string())),
        };
        for LeftOut { lab, why } in &plan.left_out {
            global.warn(format_args!("lab {lab} is left out: {why}"));
        }
        warn_of_clipped(global, &plan, "begin later", "the first bill or row", |lab| lab.first_day);
        warn_of_clipped(global, &plan, "end earlier", "the last day that is over there", |lab| lab.last_day);
        for lab in &plan.disabled {
            global.warn(view_is_off(*lab));
        }
        if self.dry_run {
            if global.json {
                let mut json = serde_json::json!(plan);
                json["dry_run"] = true.into();
                print_json(&json)?;
            } else {
                would_enqueue(&plan.labs);
            }
            return Ok(Exit::Ok.into());
        }
        global.warn_of_future(&db).await?;
        let run = repair::enqueue(&db, rollup, &plan, &who(), now, self.limits.limits()).await?;
        if self.wait {
            let also = serde_json::json!({ "left_out": plan.left_out, "clipped": plan.clipped });
            let exit = follow::follow_all(global, &db, &[run], also).await?;
            return Ok(if exit == Exit::Ok && plan.has_unusable { Exit::Drift } else { exit }.into());
        }
        follow::warn_of_no_worker(global, &db).await?;
        let jobs = count_days(&plan.labs);
        if global.json {
            print_json(&serde_json::json!({
                "run": run, "jobs": jobs, "left_out": plan.left_out, "clipped": plan.clipped, "dry_run": false
            }))?;
        } else {
            println!("run {run}: {jobs} job(s) enqueued; follow it with `daymend runs watch {run}`");
        }
        Ok(Exit::Ok.into())
    }
}

/// Warns of labs whose days are not all repaired.
fn warn_of_clipped(global: &Global, plan: &Plan, what: &str, why: &str, day: fn(&Clipped) -> Option<NaiveDate>) {
    let labs = plan.clipped.iter().filter_map(|lab| Some(format!("lab {} on {}", lab.lab, day(lab)?)));
    let labs: Vec<String> = labs.collect();
    if !labs.is_empty() {
        global.warn(format_args!("{} lab(s) {what}: {} ({why})", labs.len(), examples(&labs, CLIPPED_SHOWN)));
    }
}

/// The remark on a lab whose summary nobody sees.
pub(super) fn view_is_off(lab: i64) -> String {
    format!("the Historical View of lab {lab} is off: no nightly run keeps the repaired days up to date")
}

/// Prints what a repair would enqueue.
pub(super) fn would_enqueue(labs: &LabDays) {
    for (lab, days) in labs {
        if let (Some(first), Some(last)) = (days.first(), days.last()) {
            println!("would enqueue lab {lab}: {} job(s), {}", days.len(), span(*first, *last));
        }
    }
    let jobs = count_days(labs);
    println!("would enqueue {jobs} job(s) in one run");
}

/// A time in UTC: `2026-03-16 04:00:00`, or RFC 3339.
fn utc_moment(text: &str) -> Result<DateTime<Utc>, String> {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S")
        .map(|at| at.and_utc())
        .or_else(|_| text.parse())
        .ok()
        .and_then(in_range)
        .ok_or_else(|| "expected a UTC moment such as '2026-03-16 04:00:00'".to_owned())
}
