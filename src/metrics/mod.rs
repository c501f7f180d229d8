//! Every metric, in one place.
//!
//! [`catalogue`] defines them: name, labels and help, as data. The rest of the program updates metrics through those
//! constants, so that no name is written twice; `docs/metrics.md`, the alert rules and the dashboard are tested
//! against the same list. Names follow Prometheus' conventions: base units, `_total` on counters. No label takes a
//! value per lab, except in the metrics named `daymend_lab_…`, which `--lab-metrics` turns on.

pub mod catalogue;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use metrics::{Label, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;
use strum::{EnumIter, IntoEnumIterator as _, IntoStaticStr};

use crate::{
    audit::cause::Cause,
    clock::Clock,
    db::{Db, DbError, code},
    queue::JobKind,
    recompute::{diff::Difference, stored::StoredEvent},
    rollup::{Rollup, Rollups},
    runs::RunState,
    scheduler::dirty,
};
use catalogue::*;

/// A gauge that has not been set for this long disappears: for a zone without labs, or a run that has ended.
const GAUGES_LAST: Duration = Duration::from_secs(300);

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Type {
    /// Only grows, and starts at zero with the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by size; holds the upper bounds of the buckets.
    Histogram(&'static [f64]),
}

impl Type {
    /// The name in Prometheus.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// Which processes export a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Source {
    /// Every process.
    All,
    /// The scheduler: what it reads from the database is the same in every replica, so queries take the `max`.
    Scheduler,
    /// The worker: queries take the `sum` over replicas.
    Worker,
}

impl Source {
    /// The name in the documentation.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// One metric, independent of its number of labels.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Type,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// Which processes export it.
    pub source: Source,
    /// What it means, in one sentence.
    pub help: &'static str,
}

/// A metric with `LABELS` labels, whose values are given in the order of their names.
#[derive(Debug)]
pub struct Labelled<const LABELS: usize>(Metric);

impl<const LABELS: usize> Labelled<LABELS> {
    fn labels(&self, values: [&str; LABELS]) -> Vec<Label> {
        let names = self.0.labels.iter().copied();
        names.zip(values).map(|(name, value)| Label::new(name, value.to_owned())).collect()
    }

    /// Adds to a counter.
    pub fn add(&self, values: [&str; LABELS], more: u64) {
        debug_assert_eq!(self.0.kind, Type::Counter);
        counter!(self.0.name, self.labels(values)).increment(more);
    }

    /// Sets a gauge.
    pub fn set(&self, values: [&str; LABELS], value: f64) {
        debug_assert_eq!(self.0.kind, Type::Gauge);
        gauge!(self.0.name, self.labels(values)).set(value);
    }

    /// Records how long something took, `count` times.
    pub fn record(&self, values: [&str; LABELS], value: Duration, count: usize) {
        debug_assert!(matches!(self.0.kind, Type::Histogram(_)));
        histogram!(self.0.name, self.labels(values)).record_many(value.as_secs_f64(), count);
    }
}

static IS_PER_LAB: AtomicBool = AtomicBool::new(false);

/// Installs this process's recorder; before that, updating a metric does nothing.
///
/// # Errors
/// If one is already installed.
pub fn install(is_per_lab: bool) -> Result<PrometheusHandle, BuildError> {
    IS_PER_LAB.store(is_per_lab, Ordering::Relaxed);
    let mut builder = PrometheusBuilder::new().idle_timeout(MetricKindMask::GAUGE, Some(GAUGES_LAST));
    for metric in ALL {
        if let Type::Histogram(buckets) = metric.kind {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)?;
        }
    }
    let handle = builder.install_recorder()?;
    for metric in ALL {
        match metric.kind {
            Type::Counter => metrics::describe_counter!(metric.name, metric.help),
            Type::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Type::Histogram(_) => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
    Ok(handle)
}

/// The current time as seconds since 1970, for gauges that hold a time.
#[must_use]
pub fn now_seconds() -> f64 {
    Clock::System.now().timestamp_micros() as f64 / 1e6
}

/// Whether metrics with a value per lab are turned on.
#[must_use]
pub fn is_per_lab() -> bool {
    IS_PER_LAB.load(Ordering::Relaxed)
}

/// Initialises counters to zero: a rate does not see an increase from nothing. This happens before the database
/// answers, because alerts use these counters to detect a worker that is waiting for it.
pub fn worker_starts(rollups: &Rollups) {
    for kind in JobKind::iter().map(JobKind::name) {
        JOBS_CLAIMED.add([kind], 0);
        JOBS_DISCARDED.add([kind], 0);
        DRIFT_FOUND.add([kind], 0);
        for outcome in Outcome::iter() {
            ATTEMPTS.add([kind, outcome.name()], 0);
        }
    }
    for event in rollups.iter().flat_map(|rollup| &rollup.events) {
        for change in CHANGES {
            ROWS_CORRECTED.add([change, &event.name], 0);
        }
    }
    LEASES_RESCUED.add([], 0);
    LEASES_LOST.add([], 0);
    ACKS_REFUSED.add([], 0);
}

/// Like [`worker_starts`], for the scheduler.
pub fn scheduler_starts() {
    for kind in JobKind::iter().map(JobKind::name) {
        JOBS_ENQUEUED.add([kind], 0);
        for result in [RunState::Completed, RunState::Failed, RunState::Cancelled] {
            RUNS_ENDED.add([kind, result.name()], 0);
        }
    }
    for outcome in dirty::OUTCOMES {
        DIRTY_MARKS.add([outcome], 0);
    }
    DIRTY_JOBS_ENQUEUED.add([], 0);
    DAYS_SKIPPED.add([], 0);
    for result in ["ok", "failed"] {
        SCHEDULER_TICKS.add([result], 0);
    }
    AUDIT_CHECKED.add([], 0);
    AUDIT_DRIFTED.add([], 0);
    for cause in Cause::iter() {
        AUDIT_DIFFERENCES.add([cause.name()], 0);
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// Rows were written.
    Corrected,
    /// The day was already right.
    Unchanged,
    /// An error.
    Failed,
    /// It took longer than `--job-timeout`.
    TimedOut,
    /// The code panicked.
    Panicked,
    /// Conflicts outlasted their retries: the job rests, and no attempt is used up.
    Released,
    /// The fence rejected it: the job belongs to another worker.
    Refused,
}

impl Outcome {
    /// The label's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// What is done to rows, as values of a label.
const CHANGES: [&str; 3] = ["inserted", "updated", "deleted"];

/// Counts corrected summary rows.
pub fn corrected(rollup: &Rollup, lab_id: i64, difference: &Difference) {
    let mut counts = vec![[0; CHANGES.len()]; rollup.events.len()];
    difference.insert.iter().for_each(|(key, _)| counts[key.event][0] += 1);
    difference.update.iter().for_each(|update| counts[update.key.event][1] += 1);
    // A row that is no longer expected may be of an event type that the rollup no longer has.
    let mut unknown = 0;
    for row in &difference.delete {
        match row.event {
            StoredEvent::Known(event) => counts[event][2] += 1,
            StoredEvent::Other(_) => unknown += 1,
        }
    }
    for (event, counts) in rollup.events.iter().zip(&counts) {
        for (change, count) in CHANGES.into_iter().zip(counts) {
            if *count > 0 {
                ROWS_CORRECTED.add([change, &event.name], *count);
            }
        }
    }
    if unknown > 0 {
        ROWS_CORRECTED.add(["deleted", "unknown"], unknown);
    }
    if is_per_lab() {
        let (insert, update, delete) = (difference.insert.len(), difference.update.len(), difference.delete.len());
        for (change, count) in CHANGES.into_iter().zip([insert, update, delete]) {
            LAB_ROWS_CORRECTED.add([&lab_id.to_string(), change], count as u64);
        }
    }
}

/// Counts a statement that failed for good, from its caller's point of view.
pub fn database_error(error: &DbError) {
    DATABASE_ERRORS.add([error.kind.name(), &code(&error.source).to_string()], 1);
}

/// Sets the gauges of a pool's connections.
pub fn pool(name: &str, db: &Db) {
    let (open, idle) = db.pool_size();
    POOL_CONNECTIONS.set([name, "idle"], idle as f64);
    POOL_CONNECTIONS.set([name, "used"], f64::from(open) - idle as f64);
    POOL_CONNECTIONS_MAX.set([name], f64::from(db.pool_max()));
}

/// The table of `docs/metrics.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = "| metric | type | labels | of | meaning |\n|---|---|---|---|---|\n".to_owned();
    for metric in ALL {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        text += &format!(
            "| `{}` | {} | {} | {} | {} |\n",
            metric.name,
            metric.kind.name(),
            labels.join(", "),
            metric.source.name(),
            metric.help
        );
    }
    text
}
