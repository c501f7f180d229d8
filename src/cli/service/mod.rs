//! `daymend serve`, `scheduler` and `worker`: the long-running processes.

mod scheduler;
mod serve;
mod worker;

use std::time::Duration;

use clap::Args;

use crate::{recompute::shrink::MaxShrink, runs::JobLimits};
pub(in crate::cli) use scheduler::SchedulerOptions;
pub(in crate::cli) use serve::ServeOptions;
pub(in crate::cli) use worker::WorkerOptions;

/// How many connections a process needs besides those of its worker's slots.
const CONNECTIONS_SPARE: u32 = 4;

/// How long a scheduler tick counts as a sign of life: enqueueing millions of jobs takes a while.
const TICK_FRESH: Duration = Duration::from_secs(300);

/// A setting as people write it: a retention of `90d` rather than `2months 29days …`.
fn time(setting: Duration) -> String {
    const DAY: u64 = 24 * 3600;
    match setting.as_secs() {
        seconds if seconds > 0 && seconds % DAY == 0 => format!("{}d", seconds / DAY),
        _ => humantime::format_duration(setting).to_string(),
    }
}

/// The limits of jobs.
#[derive(Debug, Args)]
pub(in crate::cli) struct LimitArgs {
    #[command(flatten)]
    attempts: AttemptsArgs,

    /// Discard a job that would remove more than this share of its day's rows, because the source may have lost data;
    /// rows that cancelled facts explain do not count. A percentage, or off
    #[arg(long, env = "DAYMEND_MAX_SHRINK", default_value = "50%", value_name = "SHARE")]
    max_shrink: MaxShrink,
}

impl LimitArgs {
    pub(in crate::cli) fn limits(&self) -> JobLimits {
        self.attempts.with(self.max_shrink)
    }
}

/// How often a job is tried.
#[derive(Debug, Args)]
pub(in crate::cli) struct AttemptsArgs {
    /// How many attempts a job has before it is discarded
    #[arg(long, env = "DAYMEND_ATTEMPTS", default_value_t = 5, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
}

impl AttemptsArgs {
    /// The limits of jobs that may remove this share of their day's rows.
    pub(in crate::cli) fn with(&self, max_shrink: MaxShrink) -> JobLimits {
        JobLimits { attempts_max: self.attempts, max_shrink }
    }
}
