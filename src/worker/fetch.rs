//! Claiming jobs while there is room for them, and grouping neighbouring days of a lab.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    End, Session,
    backend::QueueBackend,
    fault, is_in_doubt, is_refusal,
    recurring::Recurring,
    room::Room,
    wait_after,
    waiting::{Ticket, Waiting},
};
use crate::{
    calendar,
    db::{Backoff, Db, DbError, Failures, Mode},
    error::{chain, examples},
    metrics::catalogue::{CLAIM_DURATION, JOBS_CLAIMED, QUEUE_LATENCY},
    queue::{
        FIRST_DUE_US, Job, claim,
        claim::{Claimed, Claimer},
        enqueue::DAYS_A_TURN,
        lease::{self, Holder},
        run_of,
    },
    recompute::shrink::MaxShrink,
    runs,
};

/// How long an idle worker waits before it looks again.
const POLL: Duration = Duration::from_secs(1);

/// How long a worker that drains the queue waits while others hold the rest of the jobs: they may be done at any
/// moment, or leave a job that is due again later.
const DRAIN_POLL: Backoff = Backoff { base: Duration::from_millis(10), max: Duration::from_millis(200) };

/// How often a worker with no room left looks for jobs of dead workers, and one that claims nothing for units that have
/// waited for long.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The minimum number of turns that a worker holds per slot: the one it is working on, and the next. With long jobs it
/// stays at the minimum, so that few jobs wait here that other workers could do.
const TURNS_A_SLOT: usize = 2;

/// The maximum number of jobs a worker holds, however short they are.
const ROOM_MAX: usize = 1000;

/// If room frees up sooner than this, a worker aims to hold twice as many jobs. Kept small so that, when the queue runs
/// dry, the others do not wait long for what this worker still holds...
const TOO_SOON: Duration = Duration::from_millis(100);

/// ... and if it takes longer than this, half as many.
const TOO_LATE: Duration = Duration::from_secs(1);

/// How many of the workers that a drain waits for are named.
const HOLDERS_SHOWN: usize = 3;

/// Neighbouring days of one lab, claimed together.
#[derive(Debug)]
pub(super) struct Unit {
    /// One job per day, oldest first, all of the same rollup and lab.
    pub(super) jobs: Vec<Job>,
    /// The moment by which a day must be over to have rows.
    pub(super) as_of: DateTime<Utc>,
    /// The share of a day's rows that may vanish.
    pub(super) max_shrink: MaxShrink,
    /// The room that its jobs occupy.
    pub(super) room: Room,
}

/// The backend that apalis polls, and the task that feeds it.
pub(super) fn start(
    session: Arc<Session>,
    stopping: CancellationToken,
) -> (QueueBackend, impl Future<Output = ()> + Send + 'static) {
    let (sender, units) = mpsc::unbounded_channel();
    let backend = QueueBackend { units, stopping: stopping.clone() };
    let room_min = (session.config.concurrency * TURNS_A_SLOT * DAYS_A_TURN).min(ROOM_MAX);
    (backend, async move {
        let mut fetcher = Fetcher {
            room_min,
            room_wanted: room_min,
            is_full: false,
            session,
            units: sender,
            waiting: Waiting::default(),
            is_stuck: false,
            claimer: Claimer::default(),
            runs: HashMap::new(),
            dry_polls: 0,
            waits_for: BTreeSet::new(),
        };
        stopping.run_until_cancelled(fetcher.run(&stopping)).await;
    })
}

/// What jobs need to know of their run.
#[derive(Debug, Clone, Copy)]
struct Seen {
    as_of: DateTime<Utc>,
    created_at: DateTime<Utc>,
    max_shrink: MaxShrink,
}

struct Fetcher {
    session: Arc<Session>,
    units: mpsc::UnboundedSender<Ticket>,
    /// The units that it has sent.
    waiting: Waiting,
    /// Whether it has given back what it claimed: it claims again when a slot is free.
    is_stuck: bool,
    claimer: Claimer,
    room_min: usize,
    /// How many jobs it aims to hold, between `room_min` and [`ROOM_MAX`].
    room_wanted: usize,
    /// Whether the last claim filled more than half of the room, so that there are probably more jobs.
    is_full: bool,
    /// The constant properties of the runs in the last claim. Others are not needed: the next claim is mostly of the
    /// same runs, and jobs already held carry what they need.
    runs: HashMap<i64, Seen>,
    /// How often in a row a drain has found no work while others were busy.
    dry_polls: u32,
    /// The workers that the drain has reported waiting for.
    waits_for: BTreeSet<i64>,
}

impl Fetcher {
    /// Claims until the queue is drained if configured to drain it, otherwise for ever.
    async fn run(&mut self, stopping: &CancellationToken) {
        let (mut failures, mut refusals) = (Failures::default(), Recurring::default());
        loop {
            self.wait_for_room(stopping).await;
            if !self.may_claim(stopping).await {
                return;
            }
            if self.is_stuck {
                continue;
            }
            let claimed = self.claim().await;
            self.show(&claimed);
            let is_drained = match claimed {
                Ok(0) if self.session.config.drain => self.is_drained().await,
                Ok(claimed) => {
                    self.dry_polls = 0;
                    if claimed == 0 {
                        tokio::time::sleep(POLL).await;
                    }
                    Ok(false)
                }
                // The jobs may be claimed without anybody here knowing which: only the end of this session gives them
                // back. An error before the COMMIT means that nothing was claimed, and the rest of the session can go
                // on.
                Err(error) if is_in_doubt(&error) => {
                    wait_after(&error, "claim", 1, stopping).await;
                    self.session.end(End::Lost);
                    return;
                }
                Err(error) => Err(error),
            };
            match is_drained {
                Ok(true) => {
                    self.session.end(End::Drained);
                    return;
                }
                Ok(false) => {
                    failures.end("claims work again");
                    refusals = Recurring::default();
                }
                Err(error) => {
                    let failures = failures.add();
                    if is_refusal(&error) && refusals.add() && self.session.config.drain {
                        return self.session.refuse(error);
                    }
                    wait_after(&error, "claim", failures, stopping).await;
                }
            }
        }
    }

    /// Waits until half of the room is free, so that claims stay few and large.
    async fn wait_for_room(&mut self, stopping: &CancellationToken) {
        let begun = Instant::now();
        loop {
            self.give_back(stopping).await;
            let room = async {
                self.session.held.fall_to(self.room_wanted / 2).await;
                if self.is_stuck {
                    // Nobody closes the semaphore.
                    let _ = self.session.slots.acquire().await;
                }
            };
            if tokio::time::timeout(LOOK_EVERY, room).await.is_ok() {
                break;
            }
            // Every claim rescues, but without room there are no claims.
            if let Err(error) = lease::rescue(&self.session.db).await {
                wait_after(&error, "rescue", 1, stopping).await;
            }
        }
        self.is_stuck = false;
        if self.is_full && begun.elapsed() < TOO_SOON {
            self.room_wanted = (self.room_wanted * 2).min(ROOM_MAX);
        } else if begun.elapsed() > TOO_LATE {
            self.room_wanted = (self.room_wanted / 2).max(self.room_min);
        }
    }

    /// Waits while the worker holds back; returns false if no new work should be started.
    async fn may_claim(&mut self, stopping: &CancellationToken) -> bool {
        loop {
            if let Ok(may_claim) = tokio::time::timeout(LOOK_EVERY, self.session.may_begin()).await {
                return may_claim;
            }
            self.give_back(stopping).await;
        }
    }

    /// Gives back units that have waited for a slot for long. Until there is one, this worker claims nothing: it would
    /// have to give that back as well.
    async fn give_back(&mut self, stopping: &CancellationToken) {
        match self.waiting.give_back(&self.session).await {
            Ok(jobs) => self.is_stuck |= jobs > 0,
            Err(error) => wait_after(&error, "give back", 1, stopping).await,
        }
    }

    /// Reports what keeps the worker from claiming, if anything.
    fn show(&self, claimed: &Result<usize, DbError>) {
        let trouble = claimed.as_ref().err().map(|error| format!("cannot claim: {}", chain(error)));
        self.session.pulse.set_trouble("claim", trouble);
        if matches!(claimed, Ok(0)) && self.session.held.count() == 0 && !self.session.over.is_cancelled() {
            // Nothing is held that still has to be settled.
            self.session.pulse.set_no_trouble();
        }
    }

    /// Called when nothing could be claimed: whether no job is left to run. If some are, waits a little, for the jobs
    /// that this worker holds or else for those of others.
    async fn is_drained(&mut self) -> Result<bool, DbError> {
        if self.session.held.count() > 0 {
            self.dry_polls = 0;
            let _ = tokio::time::timeout(DRAIN_POLL.max, self.session.held.fall_to(0)).await;
            return Ok(false);
        }
        if !claim::any_open(&self.session.db).await? {
            return Ok(true);
        }
        self.say_who_holds(&lease::holders(&self.session.db).await?);
        self.dry_polls += 1;
        tokio::time::sleep(DRAIN_POLL.wait(self.dry_polls)).await;
        Ok(false)
    }

    /// Logs once which workers the drain waits for: a worker that died keeps its jobs until its lease expires.
    fn say_who_holds(&mut self, holders: &[Holder]) {
        let workers = holders.iter().map(|holder| holder.worker).collect();
        if workers == self.waits_for {
            return;
        }
        self.waits_for = workers;
        let held = holders.iter().map(|Holder { worker, name, lease_until, jobs }| {
            let lease = if *lease_until == DateTime::UNIX_EPOCH {
                "has run out".to_owned()
            } else {
                format!("ends at {} UTC unless it is alive", lease_until.format("%Y-%m-%d %H:%M:%S"))
            };
            format!("{jobs} job(s) of worker {worker} ({name}), whose lease {lease}")
        });
        if !holders.is_empty() {
            let held = examples(held, HOLDERS_SHOWN);
            tracing::info!(worker = self.session.worker_id, "nothing is left to claim, waiting for {held}");
        }
    }

    /// Claims as many jobs as there is room for; returns how many.
    async fn claim(&mut self) -> Result<usize, DbError> {
        let limit = self.room_wanted.saturating_sub(self.session.held.count());
        let begun = Instant::now();
        self.is_full = false;
        let Some(claim) = self.claimer.claim(&self.session.db, self.session.worker_id, limit).await? else {
            self.session.end(End::Lost);
            return Ok(0);
        };
        let claimed = claim.jobs.len();
        self.is_full = claimed * 2 > limit;
        if claimed == 0 {
            return Ok(0);
        }
        fault::inject_once("fetcher");
        CLAIM_DURATION.record([], begun.elapsed(), 1);
        let unknown = only_those_of(&mut self.runs, claim.jobs.iter().map(|(job, _)| run_of(job.id)));
        let Some(seen) = self.session.insist("read runs", || read_runs(&self.session.db, &unknown)).await else {
            return Ok(claimed);
        };
        self.runs.extend(seen);
        self.count(&claim);
        for unit in self.units_of(claim) {
            if self.units.send(self.waiting.add(unit)).is_err() {
                break;
            }
        }
        Ok(claimed)
    }

    /// Groups claimed jobs: neighbouring days of a lab are together, and the groups in the order of their turns.
    fn units_of(&self, claim: Claimed) -> Vec<Unit> {
        // The earlier of the two clocks, as everywhere.
        let now = self.session.clock.at_most(DateTime::from_timestamp_micros(claim.at_us).unwrap_or_default());
        let mut jobs: Vec<(usize, Job)> = claim.jobs.into_iter().map(|(job, _)| job).enumerate().collect();
        jobs.sort_by(|(_, a), (_, b)| (a.kind, &a.rollup, a.lab_id, a.day).cmp(&(b.kind, &b.rollup, b.lab_id, b.day)));
        // Somebody may have removed the row of a run.
        let max_shrink = |job: &Job| self.runs.get(&run_of(job.id)).map_or(MaxShrink::GUARD, |run| run.max_shrink);
        let groups = jobs.chunk_by(|(_, a), (_, b)| {
            max_shrink(a) == max_shrink(b)
                && (a.kind, &a.rollup, a.lab_id) == (b.kind, &b.rollup, b.lab_id)
                && calendar::next(a.day) == b.day
        });
        let mut units: Vec<&[(usize, Job)]> = groups.flat_map(|jobs| jobs.chunks(DAYS_A_TURN)).collect();
        // Kinds keep their order of priority: what comes last may be given back.
        units.sort_by_key(|jobs| (jobs[0].1.kind, jobs.iter().map(|(place, _)| *place).min()));
        let unit = |jobs: &[(usize, Job)]| {
            let jobs: Vec<Job> = jobs.iter().map(|(_, job)| job.clone()).collect();
            let as_of = jobs.iter().filter_map(|job| self.runs.get(&run_of(job.id))).map(|run| run.as_of).max();
            Unit {
                as_of: as_of.map_or(now, |as_of| now.max(as_of)),
                max_shrink: max_shrink(&jobs[0]),
                room: self.session.held.add(jobs.len()),
                jobs,
            }
        };
        units.into_iter().map(unit).collect()
    }

    /// Counts a claim, and how long its jobs have waited.
    fn count(&self, claim: &Claimed) {
        for (job, turn) in &claim.jobs {
            let due_us = if *turn < FIRST_DUE_US {
                self.runs.get(&run_of(job.id)).map_or(claim.at_us, |run| run.created_at.timestamp_micros())
            } else {
                *turn
            };
            let waited = Duration::from_micros(u64::try_from(claim.at_us - due_us).unwrap_or(0));
            QUEUE_LATENCY.record([job.kind.name()], waited, 1);
            JOBS_CLAIMED.add([job.kind.name()], 1);
        }
    }
}

async fn read_runs(db: &Db, unknown: &BTreeSet<i64>) -> Result<Vec<(i64, Seen)>, DbError> {
    let mut seen = Vec::new();
    if unknown.is_empty() {
        return Ok(seen);
    }
    let mut tx = db.begin(Mode::Snapshot).await?;
    for run in unknown {
        if let Some(run) = runs::get(&mut tx, *run).await? {
            let run_seen = Seen { as_of: run.as_of, created_at: run.created_at, max_shrink: run.max_shrink };
            seen.push((run.id, run_seen));
        }
    }
    tx.commit().await?;
    Ok(seen)
}

/// Forgets all runs but these, or a worker would remember more every day; returns those not known yet.
fn only_those_of<T>(known: &mut HashMap<i64, T>, runs: impl Iterator<Item = i64>) -> BTreeSet<i64> {
    let mut runs: BTreeSet<i64> = runs.collect();
    known.retain(|run, _| runs.remove(run));
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_runs_of_the_last_claim_are_remembered() {
        let mut known = HashMap::from([(1, ()), (2, ())]);
        assert_eq!(only_those_of(&mut known, [2, 3, 2, 4].into_iter()), BTreeSet::from([3, 4]));
        assert_eq!(known, HashMap::from([(2, ())]));
    }
}
