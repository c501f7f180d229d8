//! After a restore, or an undo: the days that it touched are recomputed, and audited.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Exit, Global, audit, follow, historical_summary};
use crate::{
    audit as audits,
    db::{Db, migrate},
    error::chain,
    recompute::shrink::MaxShrink,
    runs::RunState,
    scheduler::adhoc,
};

/// How many differing rows the audit keeps one by one.
const ROWS_MAX: usize = 1000;

/// How the days that were touched are put right.
#[derive(Debug)]
pub(super) struct FollowUp {
    /// Who wants that, and for what.
    pub(super) requested_by: String,
    /// How often each day is tried.
    pub(super) attempts_max: u32,
    /// How much of a day may vanish.
    pub(super) max_shrink: MaxShrink,
    /// Whether to stay until it is done, and audit those days.
    pub(super) wait: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct After {
    /// The run; none where there was nothing to recompute.
    run: Option<i64>,
    /// Days that are to be recomputed, and could not be enqueued.
    is_left: bool,
    /// How the run ended, where it was followed.
    ended: Option<RunState>,
    /// What the audit found, where the run has completed.
    audit: Option<audits::report::Report>,
}

impl FollowUp {
    /// Enqueues the repair of the days; with `wait` follows it, then audits them.
    pub(super) async fn run(&self, global: &Global, db: &Db, days: &adhoc::Plan) -> anyhow::Result<After> {
        for (lab, why) in &days.left_out {
            tracing::debug!(lab, why, "left out");
        }
        let jobs: usize = days.labs.iter().map(|(_, days)| days.len()).sum();
        if jobs == 0 {
            return Ok(After::default());
        }
        if let Err(error) = migrate::check(db).await {
            eprintln!("{jobs} day(s) are to be recomputed and cannot be enqueued: {}", chain(&error));
            return Ok(After { is_left: true, ..After::default() });
        }
        let rollups = global.rollups()?;
        let rollup = historical_summary(&rollups)?;
        let now = global.clock().now();
        let run = adhoc::enqueue(db, rollup, days, &self.requested_by, now, self.attempts_max, self.max_shrink).await?;
        if !global.json {
            println!("run {run}: {jobs} day(s) of {} lab(s) are recomputed", days.labs.len());
        }
        let mut after = After { run: Some(run), ..After::default() };
        if !self.wait {
            if !global.json {
                println!("follow it with `daymend runs watch {run}`; then `daymend audit` says whether all is well");
            }
            return Ok(after);
        }
        let (state, progress) = follow::follow(db, run).await?;
        after.ended = Some(state);
        if !global.json {
            println!("{}", follow::summary(run, state, &progress));
        }
        if state == RunState::Completed {
            let days = days.labs.iter().map(|(lab, days)| (*lab, days.iter().copied().collect())).collect();
            let options = audits::Options { as_of: global.clock().now(), except: BTreeSet::new(), rows_max: ROWS_MAX };
            after.audit = Some(audit::again(global, db, rollup, &days, &options).await?);
        }
        Ok(after)
    }
}

impl After {
    /// How it all ended, where what came before ended like that.
    pub(super) fn exit(&self, before: Exit) -> Exit {
        if self.is_left || self.ended.is_some_and(|state| state != RunState::Completed) {
            return Exit::Failed;
        }
        match self.audit.as_ref().map_or(Exit::Ok, |report| audit::exit(report, None)) {
            Exit::Ok => before,
            exit => exit,
        }
    }

    /// The same as JSON, beside what came before.
    pub(super) fn add_to(&self, mut json: Value) -> Value {
        json["run"] = json!(self.run);
        json["state"] = json!(self.ended);
        json["audit"] = json!(self.audit.as_ref().map(audit::report_json));
        json
    }
}
