//! Gauges of the queue and of what is due.
//!
//! They are read from the database, so that every scheduler shows the same; workers do not set them. They are read in
//! the background and never delay a tick. Counting millions of waiting jobs takes seconds: after a slow reading, the
//! next one is further away.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use strum::IntoEnumIterator as _;
use tokio_util::sync::CancellationToken;

use super::{Scheduler, Tick, audits, dirty, nightly, pace::Pace};
use crate::{
    args,
    db::{Arg, Backoff, DbError, Mode, Statement, Tx},
    metrics::{
        self,
        catalogue::{
            DIRTY_OLDEST, JOBS, LAB_JOBS, LAB_NIGHTLY_OVERDUE, LAB_UNUSABLE, LABS, LABS_PAUSED, LABS_UNUSABLE,
            NIGHTLY_COMPLETED, NIGHTLY_OVERDUE, OLDEST_WAITING, PAUSED, RUNS, STATS_DURATION, STATS_TAKEN,
            WORKERS_ALIVE,
        },
    },
    queue::{
        self, JobKind,
        admin::{pause, stats},
        lease,
    },
    runs, statement,
};

/// How often the gauges are read. After a slow reading they rest for [`RESTS`] times as long as it took, but not until
/// they count as stale.
const EVERY: Duration = Duration::from_secs(15);
const RESTS: u32 = 20;
const REST_MAX: Duration = Duration::from_secs(120);

/// How long to wait after they could not be read.
const AGAIN: Backoff = Backoff { base: EVERY, max: REST_MAX };

/// Counts the jobs that are open or were discarded, by a given expression and by the label `state`.
macro_rules! open_counts {
    ($by:literal, $column:literal) => {
        concat!(
            "SELECT ",
            $by,
            ",
            CASE WHEN state <> 'available' THEN state WHEN sort_key >= ? THEN 'paused'
                 WHEN sort_key > {now_us} THEN 'backing_off' ELSE 'available' END AS phase,
            COUNT(*)
     FROM daymend_jobs {force_claim}
     WHERE kind IN ('nightly', 'repair', 'rebuild') AND state IN ('available', 'running', 'discarded')
     GROUP BY ",
            $column,
            ", phase"
        )
    };
}

statement!(OPEN_COUNTS, "open job counts", open_counts!("kind", "kind"));

statement!(OPEN_COUNTS_BY_LAB, "open job counts by lab", open_counts!("CAST(lab_id AS CHAR)", "lab_id"));

statement!(
    RUN_COUNTS,
    "run counts",
    "SELECT kind, state, COUNT(*) FROM daymend_runs WHERE state IN ('running', 'failed') GROUP BY kind, state"
);

statement!(
    NIGHTLY_LAST,
    "last nightly runs",
    "SELECT time_zone, MAX(finished_at), MAX(id) FROM daymend_runs
     WHERE state = 'completed' AND kind = 'nightly' GROUP BY time_zone"
);

statement!(
    NIGHTLY_INCOMPLETE,
    "incomplete nightly runs",
    "SELECT id, time_zone, created_at, finished_at FROM daymend_runs
     WHERE state IN ('running', 'failed', 'cancelled') AND kind = 'nightly' ORDER BY id DESC"
);

// How many jobs are open and not set aside, how many were discarded, and when the last one was completed.
statement!(
    NIGHTLY_DONE,
    "done of nightly run",
    "SELECT COUNT(CASE WHEN state = 'running' OR state = 'available' AND sort_key < ? THEN 1 END),
            COUNT(CASE WHEN state = 'discarded' THEN 1 END), MAX(CASE WHEN state = 'completed' THEN sort_key END)
     FROM daymend_jobs WHERE id BETWEEN ? AND ?"
);

statement!(
    NIGHTLY_OPEN,
    "open nightly jobs",
    "SELECT runs.time_zone, jobs.lab_id, COUNT(*)
     FROM daymend_jobs AS jobs {force_claim} JOIN daymend_runs AS runs ON runs.id = jobs.run_id
     WHERE jobs.kind = 'nightly' AND jobs.state IN ('available', 'running', 'discarded')
       AND (jobs.state <> 'available' OR jobs.sort_key < ?)
     GROUP BY runs.time_zone, jobs.lab_id"
);

/// The values of the `state` label of job gauges.
const STATES: [&str; 5] = ["available", "backing_off", "paused", "running", "discarded"];

/// Reads the gauges regularly until `shutdown`.
pub(super) async fn observe_until(scheduler: &Scheduler<'_>, shutdown: &CancellationToken) {
    let mut shown = Shown::default();
    let mut pace = Pace::new("the gauges cannot be read, trying again", "the gauges are read again", AGAIN);
    while !shutdown.is_cancelled() {
        let reading = async {
            let begun = Instant::now();
            observe(&scheduler.tick_now().await?, &mut shown).await?;
            STATS_DURATION.record([], begun.elapsed(), 1);
            STATS_TAKEN.set([], metrics::now_seconds());
            Ok((begun.elapsed() * RESTS).clamp(EVERY, REST_MAX))
        };
        let Some(read) = shutdown.run_until_cancelled(reading).await else { return };
        pace.rest_after(read, shutdown).await;
    }
}

/// The labs for which the last reading showed something. If the next one does not find them, their gauges are set to
/// zero, or they would keep the old value for minutes.
#[derive(Debug, Default)]
struct Shown {
    unusable: BTreeSet<String>,
    jobs: BTreeSet<(String, String)>,
}

async fn observe(tick: &Tick<'_>, shown: &mut Shown) -> Result<(), DbError> {
    let mut tx = tick.db.begin(Mode::Snapshot).await?;
    let open = runs::open(&mut tx).await?;
    let counts = count(&mut tx, &OPEN_COUNTS, args![queue::PAUSED]).await?;
    let run_counts = count(&mut tx, &RUN_COUNTS, args![]).await?;
    let pauses = pause::list(&mut tx).await?;
    let oldest = stats::oldest_waiting(&mut tx, &open).await?;
    for kind in JobKind::iter() {
        for state in STATES {
            JOBS.set([kind.name(), state], counted(&counts, kind.name(), state));
        }
        for state in ["running", "failed"] {
            RUNS.set([kind.name(), state], counted(&run_counts, kind.name(), state));
        }
        OLDEST_WAITING.set([kind.name()], oldest.get(&kind).map_or(0.0, |oldest| oldest.seconds as f64));
        let is_paused = pauses.iter().any(|pause| pause.what == queue::claim::pause_name(kind));
        PAUSED.set([kind.name()], f64::from(u8::from(is_paused)));
    }
    LABS_PAUSED.set([], pauses.iter().filter(|pause| pause.lab_id.is_some()).count() as f64);
    let oldest = dirty::oldest_us(&mut tx).await?;
    DIRTY_OLDEST.set([], oldest.unwrap_or(0).max(0) as f64 / 1e6);
    observe_labs(&mut tx, tick, shown).await?;
    tx.commit().await?;
    if tick.config.audit.is_some() {
        audits::observe(tick.db, &tick.rollup.name).await?;
    }
    WORKERS_ALIVE.set([], lease::workers_alive(tick.db).await? as f64);
    Ok(())
}

/// Reads what is due, by zone and lab.
async fn observe_labs(tx: &mut Tx, tick: &Tick<'_>, shown: &mut Shown) -> Result<(), DbError> {
    let outlook = nightly::look_at_labs(tx, tick.rollup).await?;
    let done = nightly_done(tx).await?;
    let (mut open_by_zone, mut open_by_lab) = (BTreeMap::new(), BTreeMap::new());
    tx.for_each(&NIGHTLY_OPEN, args![queue::PAUSED], |row| {
        let (zone, lab, jobs) = (row.text_or_null(0)?.unwrap_or_default(), row.int(1)?, row.int(2)?);
        *open_by_zone.entry(zone).or_insert(0) += jobs;
        *open_by_lab.entry(lab).or_insert(0) += jobs;
        Ok(())
    })
    .await?;
    for (zone, labs) in &outlook.zones {
        let due = tick.config.nightly_at.due_day(*zone, tick.now);
        let missing = |through| nightly::missing_days(*zone, through, due, tick.config.catch_up_days).len() as i64;
        let not_enqueued = |through: Option<_>| if through >= Some(due) { 0 } else { missing(through) };
        let overdue: i64 = labs.iter().map(|(_, through)| not_enqueued(*through)).sum();
        let open = open_by_zone.remove(zone.name()).unwrap_or(0);
        NIGHTLY_OVERDUE.set([zone.name()], (overdue + open) as f64);
        LABS.set([zone.name()], labs.len() as f64);
        if let Some(at) = done.get(zone.name()) {
            NIGHTLY_COMPLETED.set([zone.name()], at.timestamp() as f64);
        }
        if metrics::is_per_lab() {
            for (lab, through) in labs {
                let open = open_by_lab.get(lab).copied().unwrap_or(0);
                LAB_NIGHTLY_OVERDUE.set([&lab.to_string()], (not_enqueued(*through) + open) as f64);
            }
        }
    }
    // Jobs of labs that have since moved to another zone, or are gone.
    for (zone, open) in open_by_zone {
        NIGHTLY_OVERDUE.set([&zone], open as f64);
    }
    LABS_UNUSABLE.set([], outlook.unusable.len() as f64);
    if metrics::is_per_lab() {
        let unusable: BTreeSet<String> = outlook.unusable.keys().map(ToString::to_string).collect();
        for lab in shown.unusable.union(&unusable) {
            LAB_UNUSABLE.set([lab], f64::from(u8::from(unusable.contains(lab))));
        }
        shown.unusable = unusable;
        let counts = count(tx, &OPEN_COUNTS_BY_LAB, args![queue::PAUSED]).await?;
        let found = counts.keys().cloned().collect();
        for (lab, state) in shown.jobs.union(&found) {
            LAB_JOBS.set([lab, state], counted(&counts, lab, state));
        }
        shown.jobs = found;
    }
    Ok(())
}

/// When each zone's last nightly run was through: it completed, or failed or was cancelled with some of its days done, or
/// everything it still waits for is set aside with paused labs. Single labs of a zone are reported elsewhere, and
/// whoever cancels a job knows.
async fn nightly_done(tx: &mut Tx) -> Result<BTreeMap<String, DateTime<Utc>>, DbError> {
    let mut done: BTreeMap<String, (DateTime<Utc>, i64)> = BTreeMap::new();
    tx.for_each(&NIGHTLY_LAST, args![], |row| {
        if let (Some(zone), Some(at)) = (row.text_or_null(0)?, row.instant_or_null(1)?) {
            done.insert(zone, (at, row.int(2)?));
        }
        Ok(())
    })
    .await?;
    let runs = tx.fetch_all(&NIGHTLY_INCOMPLETE, args![], |row| {
        Ok((row.int(0)?, row.text_or_null(1)?.unwrap_or_default(), row.instant(2)?, row.instant_or_null(3)?))
    });
    // Newest first: runs older than one that was through need not be counted.
    for (run, zone, created, ended) in runs.await? {
        if done.get(&zone).is_some_and(|(_, newest)| *newest > run) {
            continue;
        }
        let (first, last) = queue::ids_of(run);
        let counts = tx.fetch_one(&NIGHTLY_DONE, args![queue::PAUSED, first, last], |row| {
            Ok((row.int(0)?, row.int(1)?, row.int_or_null(2)?))
        });
        let (open, discarded, completed_us) = counts.await?;
        let completed = completed_us.and_then(DateTime::from_timestamp_micros);
        let through = match completed {
            _ if open > 0 => None,
            Some(at) => Some(ended.unwrap_or(at)),
            // Every lab of the zone is paused.
            None => (ended.is_none() && discarded == 0).then_some(created),
        };
        if let Some(at) = through {
            let at = done.get(&zone).map_or(at, |(earlier, _)| at.max(*earlier));
            done.insert(zone, (at, run));
        }
    }
    Ok(done.into_iter().map(|(zone, (at, _))| (zone, at)).collect())
}

type Counts = BTreeMap<(String, String), i64>;

/// Reads the rows of a statement that returns two names and a number.
async fn count(tx: &mut Tx, statement: &Statement, args: Vec<Arg>) -> Result<Counts, DbError> {
    let mut counts = BTreeMap::new();
    tx.for_each(statement, args, |row| {
        counts.insert((row.text(0)?, row.text(1)?), row.int(2)?);
        Ok(())
    })
    .await?;
    Ok(counts)
}

fn counted(counts: &Counts, first: &str, second: &str) -> f64 {
    counts.get(&(first.to_owned(), second.to_owned())).map_or(0.0, |count| *count as f64)
}
