//! Carries out each operation on the database and on the model, and compares them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use chrono::{DateTime, Days, NaiveDate};
use daymend::{
    db::{Db, DbClock, Mode},
    queue::{
        Job, JobKind, JobState,
        admin::{
            change::{self, Change},
            filter::Filter,
            pause::{self, Target},
            prune,
        },
        claim, lease,
        settle::{self, Failure},
    },
    rollup::HISTORICAL_SUMMARY,
    runs::{self, JobLimits, NewRun},
};
use proptest::sample::Index;
use strum::IntoEnumIterator as _;

use super::{
    LEASE_US, Loss, Op, Pick, SLOTS, Which,
    model::{Fence, Model, run_of},
    tables::{Tables, equal},
};
use crate::support::TestDb;

const START_US: i64 = 1_780_000_000_000_000;
const ATTEMPTS_MAX: u32 = 3;
const DRAIN_JOBS: usize = 20;

/// The place of a worker: its current process, and all claims that it and its predecessors made.
#[derive(Debug)]
struct Slot {
    worker: i64,
    claims: Vec<Claim>,
}

#[derive(Debug, Clone)]
struct Claim {
    worker: i64,
    job: Job,
    /// Whether the worker has settled it, as far as it knows.
    is_settled: bool,
}

pub struct Driver {
    /// The connection that the queue uses.
    db: Db,
    /// The connection that its tables are read with.
    admin: Db,
    clock: Arc<AtomicI64>,
    model: Model,
    slots: Vec<Slot>,
    enqueued: u64,
    pruned: u64,
}

impl Driver {
    /// Creates an empty queue, and workers without jobs.
    pub async fn new(test: &TestDb) -> Result<Self> {
        Tables::clear(&test.admin).await?;
        let clock = Arc::new(AtomicI64::new(START_US));
        let db = test.db.with_clock(DbClock::Driven(Arc::clone(&clock)));
        let model = Model { now: START_US, ..Model::default() };
        let mut this = Self { db, admin: test.admin.clone(), clock, model, slots: Vec::new(), enqueued: 0, pruned: 0 };
        for _ in 0..SLOTS {
            let worker = this.register().await?;
            this.slots.push(Slot { worker, claims: Vec::new() });
        }
        Ok(this)
    }

    /// Carries out one operation, and compares everything.
    pub async fn step(&mut self, op: &Op) -> Result<()> {
        self.run(op).await?;
        let stored = Tables::read(&self.admin).await?;
        stored.check()?;
        equal("jobs enqueued and not pruned", &(self.enqueued - self.pruned), &(stored.jobs.len() as u64))?;
        self.model.tables.compare(&stored)?;
        equal("whether any job is open", &self.model.any_open(), &claim::any_open(&self.db).await?)?;
        equal("workers alive", &self.model.workers_alive(), &lease::workers_alive(&self.db).await?)
    }

    async fn run(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::Enqueue { kind, labs } => self.enqueue(*kind, labs).await,
            Op::Claim { slot, limit } => self.claim(*slot, *limit).await,
            Op::Heartbeat { slot } => self.heartbeat(*slot).await,
            Op::Restart { slot, signs_off } => self.restart(*slot, *signs_off).await,
            Op::Advance { us } => {
                self.advance(*us);
                Ok(())
            }
            Op::Rescue => self.rescue().await,
            Op::Outlive { slot, jobs, times } => {
                for _ in 0..*times {
                    self.claim(*slot, *jobs).await?;
                    self.advance(LEASE_US);
                    self.rescue().await?;
                }
                Ok(())
            }
            Op::Lose { slot, next, jobs, how } => {
                let before = self.slots[*slot].claims.len();
                self.claim(*slot, *jobs).await?;
                match how {
                    Loss::Lapse => {
                        self.advance(LEASE_US);
                        self.rescue().await?;
                    }
                    Loss::HandBack => self.hand_back(*slot).await?,
                    Loss::Fail => {
                        let claimed = self.slots[*slot].claims.split_off(before);
                        for claim in &claimed {
                            self.fail_one(claim, false, 0).await?;
                        }
                        self.slots[*slot].claims.extend(claimed);
                    }
                }
                self.claim(*next, *jobs).await
            }
            Op::Drain { slot, fails } => self.drain(*slot, *fails).await,
            Op::Complete { slot, pick, jobs } => self.complete(*slot, *pick, *jobs).await,
            Op::Fail { slot, pick, jobs, permanent, backoff_us } => {
                self.fail(*slot, *pick, *jobs, *permanent, *backoff_us).await
            }
            Op::Release { slot, pick, jobs, wait_us } => self.release(*slot, *pick, *jobs, *wait_us).await,
            Op::HandBack { slot } => self.hand_back(*slot).await,
            Op::Retry { which, backing_off } => {
                self.change(Change::Retry { backing_off: *backing_off }, &self.filter(which)).await
            }
            Op::Cancel { which } => self.change(Change::Cancel, &self.filter(which)).await,
            Op::CancelRun { run } => {
                let Some(run) = self.any_run(*run) else { return Ok(()) };
                let stored = change::cancel_run(&self.db, run, "a test", |_| ()).await?;
                equal("jobs cancelled with their run", &self.model.cancel_run(run), &stored)
            }
            Op::Close => self.close().await,
            Op::PauseKind { kind } => self.pause(Target::Kind(*kind), &format!("kind:{kind}")).await,
            Op::PauseLab { lab } => self.pause(Target::Lab(*lab), &format!("lab:{lab}")).await,
            Op::ResumeKind { kind } => self.resume(Target::Kind(*kind), &format!("kind:{kind}")).await,
            Op::ResumeLab { lab } => self.resume(Target::Lab(*lab), &format!("lab:{lab}")).await,
            Op::Prune { which, older_us } => self.prune(&self.filter(which), *older_us).await,
        }
    }

    async fn enqueue(&mut self, kind: JobKind, labs: &[(i64, u64, u64)]) -> Result<()> {
        let labs: Vec<(i64, Vec<NaiveDate>)> =
            labs.iter().map(|(lab, first, days)| (*lab, (*first..first + days).map(day).collect())).collect();
        let as_of = DateTime::from_timestamp_micros(START_US).unwrap_or_default();
        let new = NewRun::new(kind, HISTORICAL_SUMMARY, as_of, labs, JobLimits::any_shrink(ATTEMPTS_MAX));
        let mut tx = self.db.begin(Mode::Write).await?;
        let run = runs::create(&mut tx, &new).await?;
        tx.commit().await?;
        self.model.enqueue(run, kind, &new.labs, i64::from(ATTEMPTS_MAX));
        self.enqueued += new.jobs() as u64;
        Ok(())
    }

    async fn claim(&mut self, slot: usize, limit: usize) -> Result<()> {
        let worker = self.slots[slot].worker;
        let stored = claim::claim(&self.db, worker, limit).await?;
        let claimed = self.model.claim(worker, limit);
        let model: Vec<Job> = claimed.into_iter().map(|id| self.as_claimed(id)).collect();
        equal("jobs claimed", &model, &stored)?;
        let claims = stored.into_iter().map(|job| Claim { worker, job, is_settled: false });
        self.slots[slot].claims.extend(claims);
        Ok(())
    }

    fn as_claimed(&self, id: i64) -> Job {
        let job = &self.model.tables.jobs[&id];
        Job {
            id,
            kind: job.kind,
            rollup: HISTORICAL_SUMMARY.to_owned(),
            lab_id: job.lab,
            day: job.day,
            attempt: job.attempt,
            attempts_max: job.attempts_max,
        }
    }

    async fn register(&mut self) -> Result<i64> {
        let worker = lease::register(&self.db, "the model's", micros(LEASE_US)).await?;
        self.model.register(worker, LEASE_US);
        Ok(worker)
    }

    /// A worker whose lease is lost registers again, as the process does.
    async fn heartbeat(&mut self, slot: usize) -> Result<()> {
        let worker = self.slots[slot].worker;
        let stored = lease::heartbeat(&self.db, worker, micros(LEASE_US)).await?;
        equal("whether the lease was extended", &self.model.heartbeat(worker, LEASE_US), &stored)?;
        if !stored {
            self.slots[slot].worker = self.register().await?;
        }
        Ok(())
    }

    async fn restart(&mut self, slot: usize, signs_off: bool) -> Result<()> {
        if signs_off {
            let worker = self.slots[slot].worker;
            lease::sign_off(&self.db, worker).await?;
            self.model.sign_off(worker);
        }
        self.slots[slot].worker = self.register().await?;
        Ok(())
    }

    fn advance(&mut self, us: i64) {
        self.model.now += us;
        self.clock.store(self.model.now, Ordering::SeqCst);
    }

    async fn rescue(&mut self) -> Result<()> {
        equal("jobs rescued", &self.model.rescue(), &lease::rescue(&self.db).await?)
    }

    /// Picks some of the slot's claims by what the worker knows of them; it may have lost any of them.
    fn pick(&mut self, slot: usize, pick: Pick, count: usize) -> Vec<Claim> {
        let model = &self.model;
        let is_lost =
            |claim: &Claim| !model.holds(fence(claim.worker, &claim.job)) && model.is_with_a_worker(claim.job.id);
        let is_any_lost = self.slots[slot].claims.iter().any(is_lost);
        let claims = self.slots[slot].claims.iter_mut();
        let (at, mut claims): (Index, Vec<&mut Claim>) = match pick {
            Pick::Lost(at) if is_any_lost => (at, claims.filter(|claim| is_lost(claim)).collect()),
            Pick::Held(at) | Pick::Lost(at) => (at, claims.filter(|claim| !claim.is_settled).collect()),
            Pick::Any(at) => (at, claims.collect()),
        };
        if claims.is_empty() {
            return Vec::new();
        }
        let first = at.index(claims.len());
        let picked = claims.iter_mut().skip(first).take(count);
        picked
            .map(|claim| {
                claim.is_settled = true;
                claim.clone()
            })
            .collect()
    }

    /// Runs all jobs that are due, and closes the runs that have ended; fails a third of the jobs if `fails`.
    async fn drain(&mut self, slot: usize, fails: bool) -> Result<()> {
        loop {
            let before = self.slots[slot].claims.len();
            self.claim(slot, DRAIN_JOBS).await?;
            let mut claimed = self.slots[slot].claims.split_off(before);
            if claimed.is_empty() {
                return self.close().await;
            }
            claimed.iter_mut().for_each(|claim| claim.is_settled = true);
            self.slots[slot].claims.extend(claimed.iter().cloned());
            let thirds = if fails { claimed.len() / 3 } else { 0 };
            for claim in claimed.drain(..thirds) {
                self.fail_one(&claim, true, 0).await?;
            }
            self.complete_all(claimed).await?;
        }
    }

    async fn complete(&mut self, slot: usize, pick: Pick, count: usize) -> Result<()> {
        let claims = self.pick(slot, pick, count);
        self.complete_all(claims).await
    }

    async fn complete_all(&mut self, mut claims: Vec<Claim>) -> Result<()> {
        // A statement settles jobs of one worker; claims of earlier processes of the slot are settled separately.
        while let Some(worker) = claims.first().map(|claim| claim.worker) {
            let (now, later) = claims.into_iter().partition(|claim| claim.worker == worker);
            claims = later;
            let jobs: Vec<Job> = Vec::into_iter(now).map(|claim: Claim| claim.job).collect();
            let fences = jobs.iter().map(|job| fence(worker, job));
            let model = fences.map(|fence| self.model.complete(fence)).filter(|found| *found).count();
            let stored = settle::complete_unchanged(&self.db, worker, &jobs).await?;
            equal("completions let through", &(model as u64), &stored.found)?;
        }
        Ok(())
    }

    async fn fail(&mut self, slot: usize, pick: Pick, count: usize, permanent: bool, backoff_us: i64) -> Result<()> {
        for claim in self.pick(slot, pick, count) {
            self.fail_one(&claim, permanent, backoff_us).await?;
        }
        Ok(())
    }

    async fn fail_one(&mut self, Claim { worker, job, .. }: &Claim, permanent: bool, backoff_us: i64) -> Result<()> {
        let error = format!("Lab {} is Out of reach, 100%", job.lab_id);
        let model = self.model.fail(fence(*worker, job), &error, permanent, backoff_us);
        let failure = Failure { error, permanent, backoff: micros(backoff_us) };
        equal("failure let through", &model, &settle::fail(&self.db, *worker, job, &failure).await?)
    }

    async fn hand_back(&mut self, slot: usize) -> Result<()> {
        let worker = self.slots[slot].worker;
        let stored = settle::hand_back(&self.db, worker).await?;
        equal("jobs handed back", &self.model.hand_back(worker), &stored)
    }

    async fn release(&mut self, slot: usize, pick: Pick, count: usize, wait_us: i64) -> Result<()> {
        for Claim { worker, job, .. } in self.pick(slot, pick, count) {
            let model = self.model.release(fence(worker, &job), wait_us);
            if wait_us == 0 {
                // What is not this worker's any more is not locked either.
                let given_back = settle::give_back(&self.db, worker, &[std::slice::from_ref(&job)]).await?;
                equal("given back", &vec![true], &given_back)?;
            } else {
                let stored = settle::release(&self.db, worker, &job, micros(wait_us)).await?;
                equal("release let through", &model, &stored)?;
            }
        }
        Ok(())
    }

    async fn change(&mut self, change: Change, filter: &Filter) -> Result<()> {
        let plan = change::plan(&self.db, change, filter).await?;
        let stored = change::apply(&self.db, change, filter, "the model", |_, _| ()).await?;
        let model = match change {
            Change::Retry { backing_off } => self.model.retry(filter, backing_off),
            Change::Cancel => self.model.cancel(filter),
        };
        equal("jobs changed", &model, &stored)?;
        equal("jobs that would be changed", &model, &plan)
    }

    async fn close(&mut self) -> Result<()> {
        let ids: Vec<i64> = self.model.tables.runs.keys().copied().collect();
        for id in ids {
            let closed = runs::try_close(&self.db, id).await?;
            let stored = closed.map(|(state, _)| state.name());
            equal(&format!("how run {id} closed"), &self.model.close(id), &stored)?;
            let mut tx = self.db.begin(Mode::Snapshot).await?;
            let progress = runs::progress(&mut tx, id).await?;
            tx.commit().await?;
            let counted =
                vec![progress.available, progress.running, progress.completed, progress.discarded, progress.cancelled];
            let model = JobState::iter().map(|state| self.model.count(id, state)).collect::<Vec<_>>();
            equal(&format!("progress of run {id}"), &model, &counted)?;
            equal("progress when it closed", &closed.map(|_| progress), &closed.map(|(_, progress)| progress))?;
        }
        Ok(())
    }

    async fn pause(&mut self, target: Target, what: &str) -> Result<()> {
        let stored = pause::pause(&self.db, target, "the model").await?;
        equal(&format!("whether {what} was not paused"), &self.model.pause(what), &stored)
    }

    async fn resume(&mut self, target: Target, what: &str) -> Result<()> {
        let stored = pause::resume(&self.db, target, "the model").await?;
        equal(&format!("jobs of {what} resumed"), &self.model.resume(what), &stored)
    }

    async fn prune(&mut self, filter: &Filter, older_us: i64) -> Result<()> {
        let planned = prune::plan(&self.db, filter, micros(older_us)).await?;
        let prunable = self.model.prunable(filter, older_us);
        let model: Vec<_> = prunable.iter().map(|(run, jobs)| (*run, jobs.len() as u64)).collect();
        equal("jobs that would be pruned", &model, &planned)?;
        let stored = prune::prune(&self.db, filter, micros(older_us), "the model", |_| {}).await?;
        let jobs: u64 = stored.iter().map(|(_, jobs)| jobs).sum();
        self.pruned += jobs;
        equal("jobs pruned by run", &model, &stored)?;
        equal("jobs pruned", &self.model.prune(filter, older_us), &jobs)
    }

    /// Picks one of the runs that have jobs.
    fn any_run(&self, index: Index) -> Option<i64> {
        let mut runs: Vec<i64> = self.model.tables.jobs.keys().map(|id| run_of(*id)).collect();
        runs.dedup();
        (!runs.is_empty()).then(|| runs[index.index(runs.len())])
    }

    fn filter(&self, which: &Which) -> Filter {
        Filter {
            run: which.run.and_then(|run| self.any_run(run)),
            labs: which.labs.clone(),
            from: which.from.map(day),
            to: which.to.map(day),
            state: which.state,
            kind: which.kind,
            error: which.error.map(str::to_owned),
        }
    }
}

fn fence(worker: i64, job: &Job) -> Fence {
    Fence { job: job.id, attempt: job.attempt, worker }
}

/// Returns the `number`-th day of the test's calendar, from 0.
fn day(number: u64) -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 1, 1).unwrap_or_default() + Days::new(number)
}

fn micros(us: i64) -> Duration {
    Duration::from_micros(us.unsigned_abs())
}
