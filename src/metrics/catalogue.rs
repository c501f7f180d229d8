//! The metrics themselves. The sentence above each is its HELP text.

use super::{Labelled, Metric, Source, Type};

/// Claims, ticks and statistics: from a millisecond to a minute.
const SHORT: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Recomputes: from a millisecond a day to the job timeout.
const JOB: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

/// Waiting: from under the idle poll to a day.
const WAIT: &[f64] = &[0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0];

macro_rules! catalogue {
    ($($(#[doc = $help:literal])+ $constant:ident = $source:ident $kind:expr, $name:literal, [$($label:literal),*];)*) => {
        $(
            $(#[doc = $help])+
            pub const $constant: Labelled<{ <[&str]>::len(&[$($label),*]) }> = Labelled(Metric {
                name: $name,
                kind: $kind,
                labels: &[$($label),*],
                source: Source::$source,
                help: concat!($($help),+).trim_ascii(),
            });
        )*

        /// Every metric, in the order of the documentation.
        pub const ALL: &[Metric] = &[$($constant.0),*];
    };
}

catalogue! {
    /// Jobs by what they are for and state: available, backing_off, paused, running or discarded.
    JOBS = Scheduler Type::Gauge, "daymend_jobs", ["kind", "state"];

    /// Age of the oldest due job, of paused kinds as well, since it was enqueued, became due again, or its kind or lab
    /// was resumed; 0 if none waits.
    OLDEST_WAITING = Scheduler Type::Gauge, "daymend_oldest_waiting_job_age_seconds", ["kind"];

    /// Whether jobs of this kind are paused.
    PAUSED = Scheduler Type::Gauge, "daymend_paused", ["kind"];

    /// Labs whose jobs are paused.
    LABS_PAUSED = Scheduler Type::Gauge, "daymend_labs_paused", [];

    /// Workers whose lease has not run out.
    WORKERS_ALIVE = Scheduler Type::Gauge, "daymend_workers_alive", [];

    /// Runs that are running, and runs that failed and were not retried, by what they are for.
    RUNS = Scheduler Type::Gauge, "daymend_runs", ["kind", "state"];

    /// Runs that the scheduler ended, by result: completed, failed or cancelled; what `runs cancel` ends is not
    /// counted here.
    RUNS_ENDED = Scheduler Type::Counter, "daymend_runs_ended_total", ["kind", "result"];

    /// Jobs of the runs that are running.
    RUN_JOBS = Scheduler Type::Gauge, "daymend_running_run_jobs", ["kind"];

    /// Those of them that have ended.
    RUN_JOBS_ENDED = Scheduler Type::Gauge, "daymend_running_run_jobs_ended", ["kind"];

    /// Jobs that the scheduler enqueued; what commands enqueue is not counted here.
    JOBS_ENQUEUED = Scheduler Type::Counter, "daymend_jobs_enqueued_total", ["kind"];

    /// When the zone's last nightly run was through, by the database's clock: it completed, or failed with some
    /// of its days done; jobs of paused labs are not waited for.
    NIGHTLY_COMPLETED = Scheduler Type::Gauge, "daymend_nightly_completed_timestamp_seconds", ["time_zone"];

    /// Days of labs that should be in the summary by now, and are not: not enqueued, not done, or discarded;
    /// jobs of paused labs do not count.
    NIGHTLY_OVERDUE = Scheduler Type::Gauge, "daymend_nightly_overdue", ["time_zone"];

    /// Days that were older than --catch-up-days and were never enqueued: each lab's count, as it was caught up.
    DAYS_SKIPPED = Scheduler Type::Counter, "daymend_nightly_skipped_total", [];

    /// Labs that have the Historical View and a usable time zone.
    LABS = Scheduler Type::Gauge, "daymend_labs", ["time_zone"];

    /// Labs that cannot be scheduled, because their time zone is missing or unknown.
    LABS_UNUSABLE = Scheduler Type::Gauge, "daymend_labs_unusable", [];

    /// Marks of late changes, by outcome: repaired, not_over (the nightly run will do that day), dropped or expanded.
    DIRTY_MARKS = Scheduler Type::Counter, "daymend_dirty_marks_total", ["outcome"];

    /// Jobs that marks of late changes led to; marks of one day share a job.
    DIRTY_JOBS_ENQUEUED = Scheduler Type::Counter, "daymend_dirty_jobs_enqueued_total", [];

    /// How long ago the oldest mark of a late change was made that nobody has taken; 0 where there is none.
    DIRTY_OLDEST = Scheduler Type::Gauge, "daymend_dirty_oldest_mark_age_seconds", [];

    /// Scheduler ticks, by result: ok or failed.
    SCHEDULER_TICKS = Scheduler Type::Counter, "daymend_scheduler_ticks_total", ["result"];

    /// How long scheduler ticks took.
    SCHEDULER_TICK_DURATION = Scheduler Type::Histogram(SHORT), "daymend_scheduler_tick_duration_seconds", [];

    /// When the scheduler last finished a tick without an error.
    SCHEDULER_LAST_TICK = Scheduler Type::Gauge, "daymend_scheduler_last_tick_timestamp_seconds", [];

    /// When the scheduler last read what its gauges say; it rests longer after a reading that took long.
    STATS_TAKEN = Scheduler Type::Gauge, "daymend_stats_timestamp_seconds", [];

    /// How long that reading took.
    STATS_DURATION = Scheduler Type::Histogram(SHORT), "daymend_stats_duration_seconds", [];

    /// Days of labs that the nightly audit has compared with their source.
    AUDIT_CHECKED = Scheduler Type::Counter, "daymend_audit_checked_total", [];

    /// Those of them whose stored rows were wrong.
    AUDIT_DRIFTED = Scheduler Type::Counter, "daymend_audit_drifted_total", [];

    /// Rows that the nightly audit found to differ from their source, by cause.
    AUDIT_DIFFERENCES = Scheduler Type::Counter, "daymend_audit_differences_total", ["cause"];

    /// Rows that the last nightly audit that has ended found to differ from their source, by cause.
    AUDIT_LAST_DIFFERENCES = Scheduler Type::Gauge, "daymend_audit_last_differences", ["cause"];

    /// When the nightly audit last ended, by the database's clock.
    AUDIT_LAST = Scheduler Type::Gauge, "daymend_audit_last_end_timestamp_seconds", [];

    /// Since when every day of every lab has been audited; of a lab whose first round goes on, when that began.
    AUDIT_OLDEST = Scheduler Type::Gauge, "daymend_audit_oldest_timestamp_seconds", [];

    /// Labs whose history the nightly audit has not been through yet, those it cannot read included.
    AUDIT_LABS_PENDING = Scheduler Type::Gauge, "daymend_audit_labs_pending", [];

    /// When the last daily snapshot was taken, by the database's clock; 0 where there is none yet.
    SNAPSHOT_COMPLETED = Scheduler Type::Gauge, "daymend_snapshot_completed_timestamp_seconds", [];

    /// How many bytes that snapshot has, compressed.
    SNAPSHOT_SIZE = Scheduler Type::Gauge, "daymend_snapshot_size_bytes", [];

    /// How long it took to take.
    SNAPSHOT_DURATION = Scheduler Type::Gauge, "daymend_snapshot_duration_seconds", [];

    /// Daily snapshots that this scheduler took, by result: ok or failed.
    SNAPSHOTS = Scheduler Type::Counter, "daymend_snapshots_total", ["result"];

    /// Jobs claimed by workers.
    JOBS_CLAIMED = Worker Type::Counter, "daymend_jobs_claimed_total", ["kind"];

    /// How long claims took that found jobs; its count is the number of claims.
    CLAIM_DURATION = Worker Type::Histogram(SHORT), "daymend_claim_duration_seconds", [];

    /// How long jobs waited between being due and being claimed, by the database's clock.
    QUEUE_LATENCY = Worker Type::Histogram(WAIT), "daymend_queue_latency_seconds", ["kind"];

    /// Attempts by outcome: corrected, unchanged, failed, timed_out, panicked, released or refused.
    ATTEMPTS = Worker Type::Counter, "daymend_attempts_total", ["kind", "outcome"];

    /// How long a job took; neighbouring days that were recomputed together share the time.
    JOB_DURATION = Worker Type::Histogram(JOB), "daymend_job_duration_seconds", ["kind"];

    /// Jobs that used up their attempts, or failed in a way that no attempt can mend.
    JOBS_DISCARDED = Worker Type::Counter, "daymend_jobs_discarded_total", ["kind"];

    /// Jobs taken back from workers whose lease had run out.
    LEASES_RESCUED = Worker Type::Counter, "daymend_leases_rescued_total", [];

    /// How often this worker lost its own lease, dropped its work and registered anew.
    LEASES_LOST = Worker Type::Counter, "daymend_leases_lost_total", [];

    /// Results that the fence refused, because the job belongs to somebody else.
    ACKS_REFUSED = Worker Type::Counter, "daymend_acks_refused_total", [];

    /// Rows of the summary that were inserted, updated or deleted, by event type.
    ROWS_CORRECTED = Worker Type::Counter, "daymend_rows_corrected_total", ["change", "event_type"];

    /// Days whose stored rows were wrong; a day of which nothing was stored yet does not count.
    DRIFT_FOUND = Worker Type::Counter, "daymend_drift_found_total", ["kind"];

    /// How many groups of days the worker recomputes at once.
    SLOTS = Worker Type::Gauge, "daymend_worker_slots", [];

    /// How many of them are busy.
    SLOTS_BUSY = Worker Type::Gauge, "daymend_worker_slots_busy", [];

    /// Jobs that the worker holds: those it works on, and those that wait in it.
    JOBS_HELD = Worker Type::Gauge, "daymend_worker_jobs_held", [];

    /// Whether the worker holds back, by reason: threads, lag or query; 0 where it need not.
    THROTTLED = Worker Type::Gauge, "daymend_worker_throttled", ["reason"];

    /// When the worker's lease was last extended.
    HEARTBEAT = Worker Type::Gauge, "daymend_worker_heartbeat_timestamp_seconds", [];

    /// Statements that failed, by kind (conflict, unavailable, definition, other) and the database's code.
    DATABASE_ERRORS = All Type::Counter, "daymend_database_errors_total", ["kind", "code"];

    /// Transactions that started over after a conflict, by transaction and the database's code.
    DATABASE_RETRIES = All Type::Counter, "daymend_database_retries_total", ["transaction", "code"];

    /// Connections to the database by pool (work, lease, scheduler) and state (idle, used).
    POOL_CONNECTIONS = All Type::Gauge, "daymend_pool_connections", ["pool", "state"];

    /// How many connections a pool may have.
    POOL_CONNECTIONS_MAX = All Type::Gauge, "daymend_pool_connections_max", ["pool"];

    /// When the process started.
    PROCESS_START = All Type::Gauge, "daymend_process_start_time_seconds", [];

    /// Whether the process is shutting down.
    SHUTTING_DOWN = All Type::Gauge, "daymend_shutting_down", [];

    /// 1, with the version, the command, and the kind of database.
    BUILD_INFO = All Type::Gauge, "daymend_build_info", ["version", "command", "database"];

    /// The schema version that this binary works with.
    SCHEMA_VERSION = All Type::Gauge, "daymend_schema_version", [];

    /// With --lab-metrics: jobs of a lab by state: available, backing_off, paused, running or discarded.
    LAB_JOBS = Scheduler Type::Gauge, "daymend_lab_jobs", ["lab", "state"];

    /// With --lab-metrics: days of the lab that should be in the summary by now, and are not, unless it is paused.
    LAB_NIGHTLY_OVERDUE = Scheduler Type::Gauge, "daymend_lab_nightly_overdue", ["lab"];

    /// With --lab-metrics: 1 for each lab that cannot be scheduled.
    LAB_UNUSABLE = Scheduler Type::Gauge, "daymend_lab_unusable", ["lab"];

    /// With --lab-metrics: rows of the lab's summary that were inserted, updated or deleted.
    LAB_ROWS_CORRECTED = Worker Type::Counter, "daymend_lab_rows_corrected_total", ["lab", "change"];
}
