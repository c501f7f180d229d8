//! Every metric, in one place. Names follow Prometheus' conventions.

use metrics::{counter, gauge};

use crate::{
    db::{DbError, code},
    queue::JobKind,
    recompute::diff::Difference,
    rollup::Rollup,
    runs::RunState,
};

/// Jobs were claimed.
pub fn claimed(jobs: usize) {
    counter!("daymend_jobs_claimed_total").increment(jobs as u64);
}

/// Attempts ended.
pub fn attempts(outcome: &'static str, jobs: u64) {
    counter!("daymend_attempts_total", "outcome" => outcome).increment(jobs);
}

/// Jobs of dead workers were made available again.
pub fn rescued(jobs: u64) {
    counter!("daymend_leases_rescued_total").increment(jobs);
}

/// The fence refused settlements.
pub fn refused(jobs: u64) {
    counter!("daymend_acks_refused_total").increment(jobs);
}

/// Summary rows were corrected, by what was wrong and by event type.
pub fn corrected(rollup: &Rollup, difference: &Difference) {
    let event = |event: usize| rollup.events[event].name.clone();
    let count = |kind: &'static str, event: String| {
        counter!("daymend_rows_corrected_total", "kind" => kind, "event_type" => event).increment(1);
    };
    difference.insert.iter().for_each(|(key, _)| count("inserted", event(key.event)));
    difference.update.iter().for_each(|(_, key, _)| count("updated", event(key.event)));
    difference.delete.iter().for_each(|row| count("deleted", row.event.clone()));
}

/// A run ended.
pub fn run_ended(kind: JobKind, state: RunState) {
    counter!("daymend_runs_ended_total", "kind" => kind.name(), "result" => state.name()).increment(1);
}

/// How many labs cannot be scheduled for want of a usable time zone.
pub fn labs_unusable(labs: usize) {
    gauge!("daymend_labs_unusable").set(labs as f64);
}

/// A statement failed.
pub fn database_error(error: &DbError) {
    counter!("daymend_database_errors_total", "kind" => error.kind.name(), "code" => code(&error.source).to_string())
        .increment(1);
}

/// A transaction started over after a conflict.
pub fn database_retry(transaction: &'static str, code: u32) {
    counter!("daymend_database_retries_total", "transaction" => transaction, "code" => code.to_string()).increment(1);
}
