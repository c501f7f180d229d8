//! `daymend rebuild`.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args;

use super::{Exit, Global, follow, historical_summary, print_json, repair, service::AttemptsArgs, usage};
use crate::{
    db::{Arg, Backoff, Db, DbError, Mode, retry},
    recompute::shrink::{MaxShrink, WOULD_VANISH},
    rollup::{Rollup, source},
    runs::{held::Held, records},
    scheduler::migrations::{History, Rebuilds},
    statement,
};

statement!(
    ROWS_LOST,
    "jobs discarded for what would vanish",
    "SELECT lab_id, COUNT(*) FROM daymend_jobs {force_claim}
     WHERE kind IN ('nightly', 'repair', 'rebuild') AND state = 'discarded'
       AND lab_id IN ({list}) AND error LIKE ?
     GROUP BY lab_id ORDER BY lab_id"
);

/// How long to wait for a record that is locked by somebody else.
const HELD: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(30) };

/// Options of `daymend rebuild`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The labs to rebuild, such as 1,2 (may be repeated)
    #[arg(long, required = true, num_args = 1.., value_delimiter = ',', value_name = "ID")]
    lab: Vec<i64>,

    /// Account manager's id, stored in the record as the requester
    #[arg(long, default_value_t = 0, value_name = "ID")]
    initiated_by: i64,

    /// Follow the runs and exit with their result. The runs then use this command's --attempts and --max-shrink,
    /// otherwise the scheduler's
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,

    /// Only print what would be enqueued
    #[arg(long)]
    dry_run: bool,

    /// With --wait: discard a job that would remove more than this share of its day's rows; rows that cancelled facts
    /// explain do not count. A percentage, or off
    #[arg(long, env = "DAYMEND_MAX_SHRINK_REBUILD", default_value = "off", value_name = "SHARE")]
    max_shrink: MaxShrink,

    #[command(flatten)]
    attempts: AttemptsArgs,
}

impl Options {
    pub(super) async fn run(mut self, global: &Global) -> anyhow::Result<ExitCode> {
        let (db, rollups) = global.connect_checked(4).await?;
        let rollup = historical_summary(&rollups)?;
        let now = db.now(global.clock()).await?;
        self.lab.sort_unstable();
        self.lab.dedup();
        // All labs are checked before any record is written.
        let rebuilds = Rebuilds { db: &db, rollup, limits: self.attempts.with(self.max_shrink), now };
        let mut histories = Vec::new();
        for lab in &self.lab {
            let history = rebuilds.history(*lab).await?;
            histories.push((*lab, history.map_err(|why| usage(format!("lab {lab} cannot be rebuilt: {why}")))?));
        }
        for lab in disabled(&db, rollup, &self.lab).await? {
            global.warn(repair::view_is_off(lab));
        }
        for (lab, jobs) in rows_lost(&db, &self.lab).await? {
            global.warn(format_args!(
                "lab {lab} has {jobs} job(s) that were discarded because rows {WOULD_VANISH}: a rebuild deletes these \
                 rows. Check the source first (`daymend queue list --lab {lab} --state discarded`, docs/recovery.md)"
            ));
        }
        if self.dry_run && global.json {
            let list: Vec<_> = histories
                .iter()
                .map(|(lab, history)| serde_json::json!({ "lab": lab, "days": history.days, "last": history.last }))
                .collect();
            print_json(&list)?;
            return Ok(Exit::Ok.into());
        }
        if self.dry_run {
            for (lab, history) in &histories {
                let last = history.last;
                match history.days.first() {
                    Some(first) => {
                        println!("would enqueue lab {lab}: {} job(s), from {first} to {last}", history.days.len());
                    }
                    None => println!("lab {lab}: nothing to do, it has no bills and no rows up to {last}"),
                }
            }
            return Ok(Exit::Ok.into());
        }
        global.warn_of_future(&db).await?;
        if self.wait {
            let runs = enqueue(&rebuilds, &histories, self.initiated_by).await?;
            return Ok(follow::follow_all(global, &db, &runs, serde_json::json!({})).await?.into());
        }
        let records = request(&db, &self.lab, self.initiated_by).await?;
        follow::warn_of_no_worker(global, &db).await?;
        if global.json {
            let list: Vec<_> = records
                .iter()
                .map(|(lab, id, was_pending)| serde_json::json!({ "lab": lab, "record": id, "inserted": !was_pending }))
                .collect();
            print_json(&list)?;
            return Ok(Exit::Ok.into());
        }
        for (lab, id, was_pending) in records {
            let what = if was_pending { "is pending already" } else { "inserted" };
            println!("lab {lab}: migration record {id} {what}; a scheduler takes it within seconds");
        }
        Ok(Exit::Ok.into())
    }
}

/// Enqueues the rebuilds, and returns their runs. If one cannot be enqueued, those before it go on.
async fn enqueue(rebuilds: &Rebuilds<'_>, histories: &[(i64, History)], initiated_by: i64) -> anyhow::Result<Vec<i64>> {
    let mut runs = BTreeMap::new();
    // Records locked by somebody else are waited for, like the runs themselves.
    let mut warned = Vec::new();
    for round in 1.. {
        let mut held = Held::default();
        for (lab, history) in histories {
            if runs.contains_key(lab) {
                continue;
            }
            let enqueued = rebuilds.request(*lab, history, initiated_by, &mut held).await;
            let enqueued = enqueued.with_context(|| not_enqueued(*lab, runs.values()))?;
            runs.extend(enqueued.map(|enqueued| (*lab, enqueued.run)));
        }
        if held.left.is_empty() {
            break;
        }
        let names: Vec<String> = held.left.keys().cloned().collect();
        if names != warned {
            held.warn("waiting");
            warned = names;
        }
        tokio::time::sleep(HELD.wait(round)).await;
    }
    Ok(runs.into_values().collect())
}

/// The message when a lab's rebuild cannot be enqueued, but these runs have been.
fn not_enqueued<'a>(lab: i64, runs: impl Iterator<Item = &'a i64>) -> String {
    let runs = runs.map(|run| format!("run {run} goes on: daymend runs watch {run}; "));
    format!("{}lab {lab} cannot be enqueued", runs.collect::<String>())
}

/// Which of the labs have their Historical View off.
async fn disabled(db: &Db, rollup: &Rollup, labs: &[i64]) -> anyhow::Result<Vec<i64>> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let mut disabled = Vec::new();
    for lab in labs {
        disabled.extend(source::lab(&mut tx, rollup, *lab).await?.filter(|lab| !lab.enabled).map(|lab| lab.id));
    }
    tx.commit().await?;
    Ok(disabled)
}

/// Which of the labs have jobs that were discarded because too many rows would vanish, and how many: the source may
/// have lost rows.
async fn rows_lost(db: &Db, labs: &[i64]) -> Result<Vec<(i64, i64)>, DbError> {
    let ids = labs.iter().map(|lab| Arg::Int(*lab));
    let args = ids.chain([Arg::Text(format!("%{WOULD_VANISH}%"))]).collect();
    db.fetch_all(ROWS_LOST.with_list(labs.len()), args, |row| Ok((row.int(0)?, row.int(1)?))).await
}

/// Inserts a pending record for each lab that has none; returns (lab, record, whether it already had one).
async fn request(db: &Db, labs: &[i64], initiated_by: i64) -> anyhow::Result<Vec<(i64, i64, bool)>> {
    let records = retry("request rebuild", || async {
        let mut tx = db.begin(Mode::Write).await?;
        let pending = records::pending(&mut tx, records::ALL).await?;
        let mut records = Vec::new();
        for lab in labs {
            let known = pending.iter().find(|record| record.lab_id == *lab);
            let id = match known {
                Some(record) => record.id,
                None => records::request(&mut tx, *lab, initiated_by).await?,
            };
            records.push((*lab, id, known.is_some()));
        }
        tx.commit().await?;
        Ok::<_, DbError>(records)
    })
    .await?;
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_stays_held_is_tried_for_less_and_less_often() {
        let seconds = |failures| HELD.wait(failures).as_secs_f64();
        for (round, most) in [(1, 1.0), (2, 2.0), (3, 4.0), (5, 16.0), (6, 30.0), (1000, 30.0)] {
            assert!((most / 2.0..=most).contains(&seconds(round)), "round {round}: {} s", seconds(round));
        }
    }
}
