//! After a restore or an undo: the days that it touched are recomputed and audited.
//!
//! They are enqueued before anything is printed: the reader of the output may close it at any time.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Exit, Global, audit, follow, historical_summary};
use crate::{
    audit as audits,
    db::{Db, migrate},
    error::chain,
    runs::{
        JobLimits, RunState, count_days,
        repair::{self, LeftOut},
    },
};

/// How many differing rows the audit keeps individually.
const ROWS_MAX: usize = 1000;

/// How many labs to name whose days are left out.
const SHOWN: usize = 5;

/// How the touched days are repaired.
#[derive(Debug)]
pub(super) struct FollowUp {
    /// Who asked for the repair, and why.
    pub(super) requested_by: String,
    /// The limits of its jobs.
    pub(super) limits: JobLimits,
    /// Whether to wait until the repair is done, and then audit the days.
    pub(super) wait: bool,
}

/// The result of the follow-up.
#[derive(Debug, Default)]
pub(super) struct After {
    /// The run, or `None` if there was nothing to recompute.
    run: Option<i64>,
    /// Why days could not be enqueued, or are unknown.
    left: Option<String>,
    /// Whether there are facts whose days are unknown: those days are not recomputed.
    is_unknown: bool,
    /// The labs that are left out, and why: their days are not recomputed.
    left_out: Vec<LeftOut>,
    /// Whether the caller wants to know that every day is correct.
    wait: bool,
    /// How the run ended, if it was followed.
    ended: Option<RunState>,
    /// What the audit found, if the run has completed.
    audit: Option<audits::report::Report>,
}

impl FollowUp {
    /// Enqueues the repair of the days, and prints nothing: whatever the outcome, the restore itself has been done.
    pub(super) async fn enqueue(&self, global: &Global, db: &Db, days: &repair::Plan) -> After {
        let (is_unknown, left_out) = (!days.unknown.is_empty(), days.left_out.clone());
        let after = After { is_unknown, left_out, wait: self.wait, ..After::default() };
        if days.labs.is_empty() {
            return after;
        }
        match self.repair(global, db, days).await {
            Ok(run) => After { run: Some(run), ..after },
            Err(error) => {
                let (jobs, why) = (count_days(&days.labs), chain(error.as_ref()));
                After {
                    left: Some(format!("{jobs} day(s) have to be recomputed, but cannot be enqueued: {why}")),
                    ..after
                }
            }
        }
    }

    /// Enqueues the run that recomputes the days; returns its id.
    async fn repair(&self, global: &Global, db: &Db, days: &repair::Plan) -> anyhow::Result<i64> {
        migrate::check(db).await?;
        let rollups = global.rollups()?;
        let rollup = historical_summary(&rollups)?;
        let now = db.now(global.clock()).await?;
        global.warn_of_future(db).await?;
        Ok(repair::enqueue(db, rollup, days, &self.requested_by, now, self.limits).await?)
    }

    /// Prints what was enqueued; with `wait`, follows it, then audits the days.
    pub(super) async fn finish(
        &self,
        global: &Global,
        db: &Db,
        days: &repair::Plan,
        mut after: After,
    ) -> anyhow::Result<After> {
        if !global.json && !days.left_out.is_empty() {
            let labs = days.left_out.iter().take(SHOWN).map(|LeftOut { lab, why }| format!("lab {lab}: {why}"));
            let more = if days.left_out.len() > SHOWN { "; …" } else { "" };
            let labs = labs.collect::<Vec<_>>().join("; ");
            println!("the days of {} lab(s) are not recomputed ({labs}{more})", days.left_out.len());
        }
        for why in &days.unknown {
            global.warn(format_args!("a row's day cannot be determined, so it is not recomputed: {why}"));
        }
        if let Some(left) = &after.left {
            global.warn(left);
        }
        let Some(run) = after.run else { return Ok(after) };
        if !global.json {
            println!("run {run}: {} day(s) of {} lab(s) are recomputed", count_days(&days.labs), days.labs.len());
        }
        if !self.wait {
            if !global.json {
                println!("follow it with `daymend runs watch {run}`; then check the result with `daymend audit`");
            }
            return Ok(after);
        }
        let (state, progress) = follow::follow(global, db, run).await?;
        after.ended = Some(state);
        if !global.json {
            println!("{}", follow::summary(run, state, &progress));
        }
        if state == RunState::Completed {
            let rollups = global.rollups()?;
            let rollup = historical_summary(&rollups)?;
            let days = days.labs.iter().map(|(lab, days)| (*lab, days.iter().copied().collect())).collect();
            let as_of = db.now(global.clock()).await?;
            let options = audits::Options { as_of, except: BTreeSet::new(), rows_max: ROWS_MAX };
            after.audit = Some(audit::again(global, db, rollup, &days, &options).await?);
        }
        Ok(after)
    }
}

impl After {
    /// The result when the touched days could not be determined.
    pub(super) fn of_unknown_days(why: &anyhow::Error) -> Self {
        let left = format!("the days to recompute cannot be determined: {}", chain(why.as_ref()));
        Self { left: Some(left), ..Self::default() }
    }

    /// Whether every day known to be touched is recomputed, or will be.
    pub(super) fn is_enqueued(&self) -> bool {
        self.left.is_none()
    }

    /// The overall exit code; `before` is that of the restore or undo.
    pub(super) fn exit(&self, before: Exit) -> Exit {
        if self.left.is_some() || self.ended.is_some_and(|state| state != RunState::Completed) {
            return Exit::Failed;
        }
        let is_open = self.is_unknown || (self.wait && !self.left_out.is_empty());
        match self.audit.as_ref().map_or(Exit::Ok, |report| audit::exit(report, None)) {
            Exit::Ok if is_open && before == Exit::Ok => Exit::Drift,
            Exit::Ok => before,
            exit => exit,
        }
    }

    /// Adds the result, as JSON, to that of the restore or undo.
    pub(super) fn add_to(&self, mut json: Value) -> Value {
        json["run"] = json!(self.run);
        json["state"] = json!(self.ended);
        json["not_enqueued"] = json!(self.left);
        json["left_out"] = json!(self.left_out);
        json["audit"] = json!(self.audit.as_ref().map(audit::report_json));
        json
    }
}
