//! `daymend audit`.

mod history;
mod print;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
};

use chrono::{DateTime, NaiveDate, Utc};
use clap::{Args, Subcommand};
use rand::RngExt as _;
use serde_json::{Value, json};

pub(super) use print::json as report_json;

use super::{
    Exit, Global, calendar_day, check_order,
    connect::{connect_to, require_fit},
    follow, historical_summary, print_json, repair,
    service::LimitArgs,
    usage, who,
};
use crate::{
    audit::{
        self, Plan, PlanError, Sample, Scope,
        cause::Cause,
        report::Report,
        scope::{Standing, Subject},
    },
    db::Db,
    output::bar::Bar,
    recompute::stored::Access,
    rollup::Rollup,
    runs::{self, LabDays, RunState},
};

/// Generated seeds stay below this, so that they are short enough to type.
const SEEDS: u64 = 1_000_000;

/// Options of `daymend audit`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Options {
    #[command(flatten)]
    audit: AuditArgs,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what the scheduler's nightly audit has found
    History(history::Options),
}

#[derive(Debug, Args)]
struct AuditArgs {
    /// Only these labs, such as 1,2 (may be repeated). By default: all labs, and the rows of labs that do not exist
    #[arg(long, value_delimiter = ',', value_name = "ID")]
    lab: Vec<i64>,

    /// Only from this day on
    #[arg(long, value_name = "DAY", value_parser = calendar_day)]
    from: Option<NaiveDate>,

    /// Only up to this day
    #[arg(long, value_name = "DAY", value_parser = calendar_day)]
    to: Option<NaiveDate>,

    /// Only this many days, drawn at random from all days of all labs that have bills or rows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sample: Option<u32>,

    /// With --sample: seed of the random draw; the same seed draws the same days again
    #[arg(long, requires = "sample", value_name = "SEED")]
    seed: Option<u64>,

    /// Ignore rows that differ for this cause (may be repeated)
    #[arg(long, value_name = "CAUSE", value_enum)]
    except: Vec<Cause>,

    /// How many differing rows to show individually; the others are only counted
    #[arg(long, value_name = "N", default_value_t = 1000)]
    rows: usize,

    /// Read from this database, such as a replica; repairs still go to --database-url
    #[arg(long, env = "DAYMEND_READ_URL", hide_env_values = true, value_name = "URL")]
    read_url: Option<String>,

    /// Enqueue a repair of exactly the days that differ, as a single run
    #[arg(long)]
    repair: bool,

    /// With --repair: follow the run, audit the repaired days again, and exit with that result
    #[arg(long, requires = "repair")]
    wait: bool,

    /// With --repair: only print what would be enqueued
    #[arg(long, requires = "repair", conflicts_with = "wait")]
    dry_run: bool,

    #[command(flatten)]
    limits: LimitArgs,
}

impl Options {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self.command {
            Some(Command::History(options)) => options.run(global).await,
            None => self.audit.run(global).await,
        }
    }
}

/// The repair of what an audit found.
struct Repair {
    /// The days of each lab.
    days: BTreeMap<i64, BTreeSet<NaiveDate>>,
    /// The run, or `None` if nothing was enqueued.
    run: Option<i64>,
    /// How the run ended, if it was followed.
    ended: Option<RunState>,
}

impl Repair {
    fn jobs(&self) -> usize {
        self.days.values().map(BTreeSet::len).sum()
    }

    fn labs(&self) -> LabDays {
        self.days.iter().map(|(lab, days)| (*lab, days.iter().copied().collect())).collect()
    }
}

impl AuditArgs {
    async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let scope = self.scope()?;
        let rollups = global.rollups()?;
        let rollup = historical_summary(&rollups)?;
        // Report what is missing for a repair before an audit that may take hours, not after it.
        let writing = if self.repair { Some(global.connect(4).await?) } else { None };
        let reading = match &self.read_url {
            Some(url) => connect_to("--read-url", url, 2).await?,
            None => global.connect_bare(2).await?,
        };
        require_fit(&reading, &rollups, Access::Read).await?;
        let now = reading.now(global.clock()).await?;
        let plan = match audit::plan(&reading, rollup, &scope, now).await {
            Err(PlanError::Database(error)) => return Err(error.into()),
            Err(error) => return Err(usage(error.to_string())),
            Ok(plan) => plan,
        };
        let is_unusable = |lab: &Subject| matches!(lab.standing, Standing::Unusable(_));
        if plan.days() == 0 && !plan.labs.iter().any(|(lab, _)| is_unusable(lab)) {
            let between = if (scope.from, scope.to) == (None, None) { "" } else { "between --from and --to " };
            return Err(usage(format!("no day to compare: {between}no lab has a closed day with bills or rows")));
        }
        let report = watched(&reading, rollup, &plan, &self.options(now)).await?;
        // Enqueue before anything is printed: a reader that closes the output early has asked for the repair as well.
        let mut repair = match &writing {
            Some(db) => Some(self.enqueue(global, db, rollup, &report).await?),
            None => None,
        };
        if !global.json {
            print::report(global, &report, scope.sample);
        }
        let mut after = None;
        if let (Some(db), Some(repair)) = (&writing, &mut repair) {
            self.follow(global, db, rollup, &report, repair).await?;
            if repair.ended.is_some() {
                // Not from the replica, which may lag behind.
                let options = self.options(db.now(global.clock()).await?);
                after = Some(again(global, db, rollup, &repair.days, &options).await?);
            }
        }
        if global.json {
            print_json(&self.as_json(&scope, &report, repair.as_ref(), after.as_ref()))?;
        }
        Ok(exit(&report, after.as_ref()).into())
    }

    fn scope(&self) -> anyhow::Result<Scope> {
        check_order("--from", self.from, self.to)?;
        let seed = || self.seed.unwrap_or_else(|| rand::rng().random_range(0..SEEDS));
        let sample = self.sample.map(|days| Sample { days: usize::try_from(days).unwrap_or(usize::MAX), seed: seed() });
        Ok(Scope { labs: self.lab.clone(), from: self.from, to: self.to, sample })
    }

    fn options(&self, as_of: DateTime<Utc>) -> audit::Options {
        audit::Options { as_of, except: self.except.iter().copied().collect(), rows_max: self.rows }
    }

    /// Enqueues the days that differ and that a recompute can correct.
    async fn enqueue(&self, global: &Global, db: &Db, rollup: &Rollup, report: &Report) -> anyhow::Result<Repair> {
        let mut repair = Repair { days: report.repairable(), run: None, ended: None };
        if !self.dry_run && !repair.days.is_empty() {
            global.warn_of_future(db).await?;
            let plan = runs::repair::Plan { labs: repair.labs(), ..runs::repair::Plan::default() };
            let (by, now) = (format!("audit by {}", who()), db.now(global.clock()).await?);
            repair.run = Some(runs::repair::enqueue(db, rollup, &plan, &by, now, self.limits.limits()).await?);
        }
        Ok(repair)
    }

    /// Reports what the repair does, and follows its run if asked to.
    async fn follow(
        &self,
        global: &Global,
        db: &Db,
        rollup: &Rollup,
        report: &Report,
        repair: &mut Repair,
    ) -> anyhow::Result<()> {
        for (lab, cause, rows, days) in report.beyond_repair() {
            global.warn(print::beyond_repair(rollup, lab, cause, rows, days));
        }
        let said = match repair.run {
            None if self.dry_run => {
                if !global.json {
                    repair::would_enqueue(&repair.labs());
                }
                return Ok(());
            }
            None => "nothing to repair".to_owned(),
            Some(run) if self.wait => {
                let (state, progress) = follow::follow(global, db, run).await?;
                repair.ended = Some(state);
                follow::summary(run, state, &progress)
            }
            Some(run) => {
                format!("run {run}: {} job(s) enqueued; follow it with `daymend runs watch {run}`", repair.jobs())
            }
        };
        if !global.json {
            println!("{said}");
        }
        Ok(())
    }

    fn as_json(&self, scope: &Scope, report: &Report, repair: Option<&Repair>, after: Option<&Report>) -> Value {
        let mut json = print::json(report);
        json["from"] = json!(scope.from);
        json["to"] = json!(scope.to);
        json["sample"] = json!(scope.sample);
        json["repair"] = json!(repair.map(|repair| json!({
            "run": repair.run,
            "dry_run": self.dry_run,
            "state": repair.ended,
            "jobs": repair.jobs(),
            "labs": repair.days.iter().map(|(lab, days)| json!({ "lab": lab, "days": days })).collect::<Vec<_>>(),
            "beyond_repair": report.beyond_repair().into_iter().map(|(lab, cause, rows, days)| {
                json!({ "lab": lab, "cause": cause, "differences": rows, "days": days })
            }).collect::<Vec<_>>(),
        })));
        json["after"] = json!(after.map(print::json));
        json
    }
}

/// Audits days that have been repaired, and prints what is left.
pub(super) async fn again(
    global: &Global,
    db: &Db,
    rollup: &Rollup,
    days: &BTreeMap<i64, BTreeSet<NaiveDate>>,
    options: &audit::Options,
) -> anyhow::Result<Report> {
    let plan = audit::again(db, rollup, days).await?;
    let report = watched(db, rollup, &plan, options).await?;
    if !global.json {
        println!("\nThe repaired days, audited again:");
        print::report(global, &report, None);
    }
    Ok(report)
}

/// Runs an audit with a progress bar.
async fn watched(db: &Db, rollup: &Rollup, plan: &Plan, options: &audit::Options) -> anyhow::Result<Report> {
    let total = plan.days();
    let mut bar = Bar::new("audit", "days");
    let progress = |done, drifted| bar.update_noting(done, total, drifted, "drifted");
    let report = audit::run(db, rollup, plan, options, progress).await;
    bar.finish();
    Ok(report?)
}

/// `Ok` if nothing differed to begin with, or if nothing differs after the repair and nothing is left that no repair
/// can correct.
pub(super) fn exit(report: &Report, after: Option<&Report>) -> Exit {
    let is_clean = match after {
        Some(after) => after.is_clean() && report.beyond_repair().is_empty(),
        None => report.is_clean(),
    };
    if !is_clean {
        Exit::Drift
    } else if report.is_complete() && after.is_none_or(Report::is_complete) {
        Exit::Ok
    } else {
        Exit::Failed
    }
}
