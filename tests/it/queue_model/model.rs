//! The queue's rules as its documents state them, implemented on plain data and without any of its code.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use daymend::queue::{JobKind, JobState, admin::filter::Filter};

use super::tables::{Job, Place, Run, Tables, Worker};

/// How many neighbouring days of a lab share a turn.
const DAYS_A_TURN: usize = 7;
/// How many lapses discard a job.
const LAPSES_MAX: i64 = 20;
/// How long a job is postponed while another job for its lab and day is running.
const POSTPONED_US: i64 = 1_000_000;
const KINDS: [JobKind; 3] = [JobKind::Nightly, JobKind::Repair, JobKind::Rebuild];

#[derive(Debug, Default)]
pub struct Model {
    pub now: i64,
    pub tables: Tables,
}

/// Identifies a claim; every settlement is fenced by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    pub job: i64,
    pub attempt: i64,
    pub worker: i64,
}

pub fn run_of(job: i64) -> i64 {
    job / 100_000_000
}

impl Model {
    fn jobs_of(&self, run: i64) -> impl Iterator<Item = &Job> {
        self.tables.jobs.iter().filter(move |(id, _)| run_of(**id) == run).map(|(_, job)| job)
    }

    /// Returns the lowest turn of the waiting jobs of a kind, or 0.
    fn front(&self, kind: JobKind) -> i64 {
        let turns = self.tables.jobs.values().filter(|job| job.kind == kind).filter_map(|job| match job.place {
            Place::Turn(turn) => Some(turn),
            _ => None,
        });
        turns.min().unwrap_or(0)
    }

    pub fn enqueue(&mut self, run: i64, kind: JobKind, labs: &[(i64, Vec<NaiveDate>)], attempts_max: i64) {
        let front = self.front(kind);
        self.tables.runs.insert(run, Run { state: "running", finished_at: None });
        self.tables.events.push("STARTED".to_owned());
        let days = labs.iter().flat_map(|(lab, days)| days.iter().enumerate().map(|(place, day)| (*lab, place, *day)));
        // The first days of every lab come first, then the next ones: the sort is stable.
        let mut days: Vec<_> = days.collect();
        days.sort_by_key(|(_, place, _)| place / DAYS_A_TURN);
        for (number, (lab, place, day)) in (0_i64..).zip(days) {
            let place = Place::Turn(front + (place / DAYS_A_TURN) as i64);
            let (attempt, lapses, worker, error) = (0, 0, None, None);
            let job = Job { kind, lab, day, place, attempt, attempts_max, lapses, worker, error };
            self.tables.jobs.insert(run * 100_000_000 + number, job);
        }
    }

    /// Returns the waiting jobs of a kind: those that are due, by their moment, and those with a turn, by their turn.
    fn waiting(&self, kind: JobKind) -> [Vec<i64>; 2] {
        let (mut due, mut turns) = (Vec::new(), Vec::new());
        for (id, job) in self.tables.jobs.iter().filter(|(_, job)| job.kind == kind) {
            match job.place {
                Place::Due(at) if at <= self.now => due.push((at, *id)),
                Place::Turn(turn) => turns.push((turn, *id)),
                _ => {}
            }
        }
        [due, turns].map(|mut jobs| {
            jobs.sort_unstable();
            jobs.into_iter().map(|(_, id)| id).collect()
        })
    }

    /// Picks the jobs of a claim: kind by kind those that are due again, then those by their turn. Those that are due
    /// again get half of the claim, rounded up, and more only where room is left.
    fn picked(&self, kinds: &[JobKind], limit: usize) -> Vec<i64> {
        let mut picked = Vec::new();
        let mut share = limit.div_ceil(2);
        for kind in kinds {
            let [due, turns] = self.waiting(*kind);
            let count = due.len().min(share).min(limit - picked.len());
            share -= count;
            picked.extend(&due[..count]);
            let room = limit - picked.len();
            picked.extend(turns.iter().take(room));
        }
        for kind in kinds {
            let [due, _] = self.waiting(*kind);
            let (room, more) = (limit - picked.len(), due.into_iter().filter(|id| !picked.contains(id)));
            let more: Vec<i64> = more.take(room).collect();
            picked.extend(more);
        }
        picked
    }

    /// Rescues, and then claims; a worker whose lease has expired gets nothing.
    pub fn claim(&mut self, worker: i64, limit: usize) -> Vec<i64> {
        if limit > 0 {
            self.rescue();
        }
        if !self.is_alive(worker) {
            return Vec::new();
        }
        loop {
            let is_paused = |kind: &JobKind| self.tables.pauses.contains(&format!("kind:{kind}"));
            let kinds: Vec<JobKind> = KINDS.into_iter().filter(|kind| !is_paused(kind)).collect();
            let seen = self.picked(&kinds, limit);
            if seen.is_empty() {
                return seen;
            }
            let is_paused = |id: &i64| self.tables.pauses.contains(&format!("lab:{}", self.tables.jobs[id].lab));
            let (parked, taken): (Vec<i64>, Vec<i64>) = seen.into_iter().partition(is_paused);
            for id in &parked {
                self.job(*id).place = Place::Parked;
            }
            let claimed: Vec<i64> = taken.into_iter().filter(|id| self.start(*id, worker)).collect();
            if parked.is_empty() || !claimed.is_empty() {
                return claimed;
            }
        }
    }

    /// Starts a job, or postpones it if its lab and day are already running.
    fn start(&mut self, id: i64, worker: i64) -> bool {
        let (lab, day) = (self.tables.jobs[&id].lab, self.tables.jobs[&id].day);
        let is_running = |job: &Job| matches!(job.place, Place::Running(_)) && (job.lab, job.day) == (lab, day);
        if self.tables.jobs.values().any(is_running) {
            self.job(id).place = Place::Due(self.now + POSTPONED_US);
            return false;
        }
        let job = self.job(id);
        job.place = Place::Running(worker);
        job.worker = Some(worker);
        job.attempt += 1;
        true
    }

    fn job(&mut self, id: i64) -> &mut Job {
        self.tables.jobs.get_mut(&id).expect("the job exists")
    }

    /// Returns whether the fence lets a settlement through.
    pub fn holds(&self, fence: Fence) -> bool {
        let job = self.tables.jobs.get(&fence.job);
        job.is_some_and(|job| job.place == Place::Running(fence.worker) && job.attempt == fence.attempt)
    }

    pub fn is_with_a_worker(&self, job: i64) -> bool {
        self.tables.jobs.get(&job).is_some_and(|job| matches!(job.place, Place::Running(_)))
    }

    pub fn complete(&mut self, fence: Fence) -> bool {
        let (holds, now) = (self.holds(fence), self.now);
        if holds {
            let job = self.job(fence.job);
            job.place = Place::Ended(JobState::Completed, now);
            job.error = None;
        }
        holds
    }

    pub fn fail(&mut self, fence: Fence, error: &str, permanent: bool, backoff: i64) -> bool {
        let (holds, now) = (self.holds(fence), self.now);
        if holds {
            self.record(fence, "failed");
            let job = self.job(fence.job);
            let is_last = permanent || job.attempt == job.attempts_max;
            job.place = if is_last { Place::Ended(JobState::Discarded, now) } else { Place::Due(now + backoff) };
            job.error = Some(error.to_owned());
        }
        holds
    }

    pub fn release(&mut self, fence: Fence, wait: i64) -> bool {
        let (holds, now) = (self.holds(fence), self.now);
        if holds {
            let job = self.job(fence.job);
            job.place = Place::Due(now + wait);
            job.attempt -= 1;
        }
        holds
    }

    pub fn hand_back(&mut self, worker: i64) -> u64 {
        let held: Vec<Fence> = self.running().into_iter().filter(|fence| fence.worker == worker).collect();
        for fence in &held {
            self.record(*fence, "handed_back");
            self.release(*fence, 0);
        }
        held.len() as u64
    }

    fn running(&self) -> Vec<Fence> {
        let running = self.tables.jobs.iter().filter_map(|(id, job)| match job.place {
            Place::Running(worker) => Some(Fence { job: *id, attempt: job.attempt, worker }),
            _ => None,
        });
        running.collect()
    }

    fn record(&mut self, fence: Fence, outcome: &str) {
        self.tables.attempts.push((fence.job, fence.attempt, fence.worker, outcome.to_owned()));
        self.tables.attempts.sort();
    }

    pub fn register(&mut self, worker: i64, lease: i64) {
        let worker_row = Worker { lease_until: self.now + lease, heartbeat_at: self.now, stopped_at: None };
        self.tables.workers.insert(worker, worker_row);
    }

    fn is_alive(&self, worker: i64) -> bool {
        self.tables.workers.get(&worker).is_some_and(|worker| worker.lease_until > self.now)
    }

    pub fn heartbeat(&mut self, worker: i64, lease: i64) -> bool {
        let (is_alive, now) = (self.is_alive(worker), self.now);
        if let Some(worker) = self.tables.workers.get_mut(&worker).filter(|_| is_alive) {
            (worker.lease_until, worker.heartbeat_at) = (now + lease, now);
        }
        is_alive
    }

    pub fn sign_off(&mut self, worker: i64) {
        let now = self.now;
        if let Some(worker) = self.tables.workers.get_mut(&worker) {
            (worker.lease_until, worker.stopped_at) = (now, Some(now));
        }
    }

    pub fn workers_alive(&self) -> i64 {
        self.tables.workers.keys().filter(|worker| self.is_alive(**worker)).count() as i64
    }

    pub fn rescue(&mut self) -> u64 {
        let lapsed: Vec<Fence> = self.running().into_iter().filter(|fence| !self.is_alive(fence.worker)).collect();
        for fence in &lapsed {
            self.record(*fence, "lapsed");
            if let Some(worker) = self.tables.workers.get_mut(&fence.worker) {
                worker.lease_until = 0;
            }
            let now = self.now;
            let job = self.job(fence.job);
            let apart = if job.lapses == 0 { 0 } else { 1_000_000 * (fence.job % 16) };
            job.attempt -= 1;
            job.lapses += 1;
            job.place = Place::Due(now + apart);
            if job.lapses >= LAPSES_MAX {
                job.place = Place::Ended(JobState::Discarded, now);
                job.error = Some("its workers died while they held it, again and again".to_owned());
            }
        }
        lapsed.len() as u64
    }

    /// Returns whether any job is left to run: running, or waiting and not paused.
    pub fn any_open(&self) -> bool {
        self.tables.jobs.values().any(|job| match job.place {
            Place::Running(_) => true,
            Place::Turn(_) | Place::Due(_) => !self.tables.pauses.contains(&format!("kind:{}", job.kind)),
            Place::Parked | Place::Ended(..) => false,
        })
    }

    fn fitting(&self, filter: &Filter, applies: impl Fn(&Job) -> bool) -> Vec<i64> {
        let fits = |id: i64, job: &Job| {
            filter.run.is_none_or(|run| run == run_of(id))
                && (filter.labs.is_empty() || filter.labs.contains(&job.lab))
                && filter.from.is_none_or(|from| job.day >= from)
                && filter.to.is_none_or(|to| job.day <= to)
                && filter.state.is_none_or(|state| state == job.place.state())
                && filter.kind.is_none_or(|kind| kind == job.kind)
                && filter.error.as_ref().is_none_or(|part| {
                    job.error.as_ref().is_some_and(|error| error.to_lowercase().contains(&part.to_lowercase()))
                })
        };
        let jobs = self.tables.jobs.iter().filter(|(id, job)| applies(job) && fits(**id, job));
        jobs.map(|(id, _)| *id).collect()
    }

    /// Retries the jobs that match, and returns their number by run.
    pub fn retry(&mut self, filter: &Filter, backing_off: bool) -> Vec<(i64, u64)> {
        let now = self.now;
        let by_run = by_run(self.fitting(filter, |job| match job.place {
            Place::Ended(JobState::Discarded, _) => true,
            Place::Due(at) => backing_off && at > now,
            _ => false,
        }));
        for (run, jobs) in &by_run {
            for id in jobs {
                let job = self.job(*id);
                (job.attempt, job.lapses, job.place) = (0, 0, Place::Due(now));
            }
            let run = self.tables.runs.get_mut(run).expect("the run of a job");
            if run.state != "running" {
                *run = Run { state: "running", finished_at: None };
                self.tables.events.push("STARTED".to_owned());
            }
        }
        self.log_by_run("retry", &by_run)
    }

    /// Cancels the jobs that match, and returns their number by run.
    pub fn cancel(&mut self, filter: &Filter) -> Vec<(i64, u64)> {
        let by_run = by_run(self.fitting(filter, |job| job.place.is_open()));
        for id in by_run.values().flatten() {
            self.job(*id).place = Place::Ended(JobState::Cancelled, self.now);
        }
        self.log_by_run("cancel", &by_run)
    }

    fn log_by_run(&mut self, action: &str, by_run: &BTreeMap<i64, Vec<i64>>) -> Vec<(i64, u64)> {
        let counts: Vec<_> = by_run.iter().map(|(run, jobs)| (*run, jobs.len() as u64)).collect();
        self.tables.log.extend(counts.iter().map(|(_, jobs)| (action.to_owned(), *jobs)));
        counts
    }

    /// Counts the jobs of a run in a state.
    pub fn count(&self, run: i64, state: JobState) -> u64 {
        self.jobs_of(run).filter(|job| job.place.state() == state).count() as u64
    }

    fn is_running(&self, run: i64) -> bool {
        self.tables.runs.get(&run).is_some_and(|run| run.state == "running")
    }

    fn end(&mut self, run: i64, state: &'static str) {
        self.tables.runs.insert(run, Run { state, finished_at: Some(self.now) });
        self.tables.events.push(state.to_uppercase());
    }

    pub fn cancel_run(&mut self, run: i64) -> Option<u64> {
        if !self.is_running(run) {
            return None;
        }
        let filter = Filter { run: Some(run), ..Filter::default() };
        let jobs = self.fitting(&filter, |job| job.place.is_open());
        for id in &jobs {
            self.job(*id).place = Place::Ended(JobState::Cancelled, self.now);
        }
        self.end(run, "cancelled");
        let jobs = jobs.len() as u64;
        self.tables.log.push(("cancel run".to_owned(), jobs));
        Some(jobs)
    }

    /// Closes the run if none of its jobs is open, and returns its state.
    pub fn close(&mut self, run: i64) -> Option<&'static str> {
        if !self.is_running(run) || self.jobs_of(run).any(|job| job.place.is_open()) {
            return None;
        }
        let state = match () {
            () if self.count(run, JobState::Discarded) > 0 => "failed",
            () if self.count(run, JobState::Cancelled) > 0 => "cancelled",
            () => "completed",
        };
        self.end(run, state);
        Some(state)
    }

    pub fn pause(&mut self, what: &str) -> bool {
        let is_new = self.tables.pauses.insert(what.to_owned());
        if is_new {
            self.tables.log.push(("pause".to_owned(), 0));
        }
        is_new
    }

    /// Resumes; parked jobs get turns as if they were enqueued now, run by run.
    pub fn resume(&mut self, what: &str) -> Option<u64> {
        if !self.tables.pauses.remove(what) {
            return None;
        }
        let fronts = KINDS.map(|kind| (kind, self.front(kind)));
        let lab: Option<i64> = what.strip_prefix("lab:").and_then(|lab| lab.parse().ok());
        let parked = by_run(self.fitting(&Filter::default(), |job| job.place == Place::Parked && Some(job.lab) == lab));
        for jobs in parked.values() {
            for (number, id) in jobs.iter().enumerate() {
                let job = self.job(*id);
                let front = fronts.iter().find(|(kind, _)| *kind == job.kind).map_or(0, |(_, front)| *front);
                job.place = Place::Turn(front + (number / DAYS_A_TURN) as i64);
            }
        }
        let jobs = parked.values().map(|jobs| jobs.len() as u64).sum();
        self.tables.log.push(("resume".to_owned(), jobs));
        Some(jobs)
    }

    /// Returns the jobs that would be pruned: ended ones of runs that closed longer ago than that, except those of the
    /// last completed nightly run (the model's runs have no time zone).
    pub fn prunable(&self, filter: &Filter, older_than: i64) -> BTreeMap<i64, Vec<i64>> {
        let mut jobs = by_run(self.fitting(filter, |job| !job.place.is_open()));
        jobs.retain(|run, _| self.closed_before(*run, self.now - older_than));
        jobs
    }

    fn closed_before(&self, run: i64, cutoff: i64) -> bool {
        let is_nightly = |run: i64| self.jobs_of(run).any(|job| job.kind == JobKind::Nightly);
        let completed = self.tables.runs.iter().filter(|(_, run)| run.state == "completed").map(|(id, _)| *id);
        if completed.filter(|run| is_nightly(*run)).max() == Some(run) {
            return false;
        }
        self.tables.runs.get(&run).and_then(|run| run.finished_at).is_some_and(|at| at < cutoff)
    }

    /// Prunes jobs with their attempts, and runs of which nothing is left: with a filter, only runs that lost jobs, or
    /// that it names by nothing else than their id. Without one, workers of which nothing is left as well.
    pub fn prune(&mut self, filter: &Filter, older_than: i64) -> u64 {
        let pruned: Vec<i64> = self.prunable(filter, older_than).into_values().flatten().collect();
        let (now, cutoff) = (self.now, self.now - older_than);
        let closed: Vec<i64> =
            self.tables.runs.keys().copied().filter(|run| self.closed_before(*run, cutoff)).collect();
        self.tables.jobs.retain(|id, _| !pruned.contains(id));
        self.tables.attempts.retain(|attempt| !pruned.contains(&attempt.0));
        for batch in pruned.chunks(1000) {
            self.tables.log.push(("prune".to_owned(), batch.len() as u64));
        }
        let is_all = *filter == Filter::default();
        let touched = by_run(pruned.clone());
        let is_whole = |run| Filter { run: Some(run), ..Filter::default() } == *filter;
        let is_meant = |run: &i64| is_all || touched.contains_key(run) || is_whole(*run);
        let empty = |run: &i64| self.jobs_of(*run).next().is_none();
        let gone: Vec<i64> = closed.into_iter().filter(|run| is_meant(run) && empty(run)).collect();
        self.tables.runs.retain(|run, _| !gone.contains(run));
        if !is_all {
            return pruned.len() as u64;
        }
        let attempts = &self.tables.attempts;
        self.tables.workers.retain(|id, worker| {
            worker.heartbeat_at >= cutoff
                || worker.lease_until >= now
                || attempts.iter().any(|attempt| attempt.2 == *id)
        });
        pruned.len() as u64
    }
}

fn by_run(jobs: Vec<i64>) -> BTreeMap<i64, Vec<i64>> {
    let mut runs: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for id in jobs {
        runs.entry(run_of(id)).or_default().push(id);
    }
    runs
}
