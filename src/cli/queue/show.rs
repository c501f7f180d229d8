//! `daymend queue stats`, `list`, `show`, `log`.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use strum::IntoEnumIterator as _;

use crate::{
    cli::{Exit, Global, print_json, usage},
    db::Db,
    output::{
        page::one_line,
        table::{or_dash, table, time},
    },
    queue::{
        JobKind, JobState,
        admin::{
            self,
            filter::Filter,
            list::{self, JobRow, RowsWritten},
            stats::{self, Completed},
        },
    },
};

pub(super) async fn stats(global: &Global, db: &Db) -> anyhow::Result<ExitCode> {
    let stats = stats::stats(db).await?;
    if global.json {
        print_json(&stats)?;
        return Ok(Exit::Ok.into());
    }
    let mut jobs = table(&["kind", ">available", ">running", ">completed", ">discarded", ">cancelled"]);
    for kind in JobKind::iter() {
        let count = |state| {
            let found = stats.counts.iter().find(|count| (count.kind, count.state) == (kind, state));
            found.map_or(0, |count| count.jobs).to_string()
        };
        let mut row = vec![kind.to_string()];
        row.extend(JobState::iter().map(count));
        jobs.add_row(row);
    }
    println!("{jobs}");
    let rate = stats.completed.iter().map(|Completed { minutes, jobs }| format!("{jobs} in {minutes} min"));
    let rate: Vec<String> = rate.collect();
    println!("completed       {}", rate.join(", "));
    match &stats.oldest_waiting {
        Some(oldest) => println!(
            "oldest waiting  {} (run {}, since {})",
            humantime::format_duration(std::time::Duration::from_secs(oldest.seconds.unsigned_abs())),
            oldest.run,
            utc(oldest.since)
        ),
        None => println!("oldest waiting  none"),
    }
    if stats.paused.is_empty() {
        println!("paused          nothing");
    }
    for pause in &stats.paused {
        println!("paused          {} since {} by {}", pause.what, utc(pause.paused_at), one_line(&pause.paused_by));
    }
    if stats.workers.is_empty() {
        println!("workers         none is alive");
        return Ok(Exit::Ok.into());
    }
    let mut workers = table(&[">worker", "~name", "version", "started (UTC)", "heartbeat (UTC)", ">holds"]);
    for worker in &stats.workers {
        workers.add_row([
            worker.id.to_string(),
            worker.name.clone(),
            worker.version.clone(),
            time(worker.started_at),
            time(worker.heartbeat_at),
            worker.jobs.to_string(),
        ]);
    }
    println!("{workers}");
    for worker in &stats.workers {
        if let Some(why) = &worker.throttled {
            println!("worker {} holds back: {why}", worker.id);
        }
    }
    Ok(Exit::Ok.into())
}

pub(super) async fn list(global: &Global, db: &Db, filter: &Filter, limit: u32) -> anyhow::Result<ExitCode> {
    let mut jobs = list::list(db, filter, limit.saturating_add(1)).await?;
    let is_cut_off = jobs.len() > limit as usize;
    jobs.truncate(limit as usize);
    if global.json {
        if is_cut_off {
            global.warn(format_args!("only the first {limit} jobs are listed (--limit)"));
        }
        print_json(&jobs)?;
        return Ok(Exit::Ok.into());
    }
    let mut table = table(&[">job", ">run", "kind", ">lab", "day", "state", ">attempts", ">rows", "~error"]);
    for job in &jobs {
        table.add_row([
            job.id.to_string(),
            job.run.to_string(),
            job.kind.to_string(),
            job.lab_id.to_string(),
            job.day.to_string(),
            state(job),
            format!("{}/{}", job.attempt, job.attempts_max),
            or_dash(job.rows.map(|rows| rows.sum())),
            or_dash(job.error.as_ref()),
        ]);
    }
    if jobs.is_empty() {
        println!("no job matches");
    } else {
        println!("{table}");
        if is_cut_off {
            println!("only the first {limit} are shown (--limit)");
        }
    }
    Ok(Exit::Ok.into())
}

/// A moment, where no column's heading says that it is in UTC.
fn utc(at: DateTime<Utc>) -> String {
    format!("{} UTC", time(at))
}

fn state(job: &JobRow) -> String {
    let name = job.state.name();
    match job.due_at {
        _ if job.paused => format!("{name} (paused)"),
        Some(due) => format!("{name} (due {})", utc(due)),
        None => name.to_owned(),
    }
}

pub(super) async fn show(global: &Global, db: &Db, id: i64) -> anyhow::Result<ExitCode> {
    let (job, attempts) =
        list::show(db, id).await?.ok_or_else(|| usage(format!("job {id} does not exist: see `daymend queue list`")))?;
    if global.json {
        print_json(&serde_json::json!({ "job": job, "attempts": attempts }))?;
        return Ok(Exit::Ok.into());
    }
    println!("job {}: {} of lab {}, {}", job.id, job.rollup, job.lab_id, job.day);
    println!("  run         {} ({})", job.run, job.kind);
    println!("  state       {}", state(&job));
    println!("  attempts    {} of {}, {} lapsed", job.attempt, job.attempts_max, job.lapses);
    println!("  worker      {}", or_dash(job.worker_id));
    println!("  claimed     {}", or_dash(job.claimed_at.map(utc)));
    println!("  ended       {}", or_dash(job.ended_at.map(utc)));
    if let Some(RowsWritten { inserted, updated, deleted }) = job.rows {
        println!("  rows        {inserted} inserted, {updated} updated, {deleted} deleted");
    }
    println!("  last error  {}", or_dash(job.error.as_ref()));
    if !attempts.is_empty() {
        let mut table = table(&[">attempt", "outcome", ">worker", "name", "claimed (UTC)", "ended (UTC)", "~error"]);
        for attempt in &attempts {
            table.add_row([
                attempt.attempt.to_string(),
                attempt.outcome.clone(),
                attempt.worker_id.to_string(),
                or_dash(attempt.worker.as_ref()),
                or_dash(attempt.started_at.map(time)),
                time(attempt.ended_at),
                or_dash(attempt.error.as_ref()),
            ]);
        }
        println!("attempts that did not complete it:\n{table}");
    }
    Ok(Exit::Ok.into())
}

pub(super) async fn log(global: &Global, db: &Db, limit: u32) -> anyhow::Result<ExitCode> {
    let entries = admin::log(db, limit).await?;
    if global.json {
        print_json(&entries)?;
        return Ok(Exit::Ok.into());
    }
    let mut table = table(&["at (UTC)", "who", "action", ">jobs", "~filter"]);
    for entry in &entries {
        table.add_row([
            time(entry.at),
            one_line(&entry.who),
            entry.action.clone(),
            entry.jobs.to_string(),
            one_line(&entry.filter),
        ]);
    }
    if entries.is_empty() {
        println!("nothing has been logged yet");
    } else {
        println!("{table}");
    }
    Ok(Exit::Ok.into())
}
