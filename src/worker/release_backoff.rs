//! How long jobs rest after conflicts outlasted their retries because somebody keeps their rows locked.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::db::Backoff;

/// The first rest of a job; doubles each time.
const REST: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) };

/// Above this many remembered jobs, those that were last released longer ago than [`AWAY_MAX`], far longer than they
/// rest, are forgotten: other workers have them.
const PRUNE_ABOVE: usize = 10_000;
const AWAY_MAX: Duration = Duration::from_secs(600);

/// How often each job has been released in a row, and when last.
#[derive(Debug, Default)]
pub(super) struct ReleaseBackoff(Mutex<HashMap<i64, (u32, Instant)>>);

impl ReleaseBackoff {
    /// How long to rest a job that is being released again.
    pub(super) fn next(&self, job: i64) -> Duration {
        let mut released = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if released.len() > PRUNE_ABOVE {
            released.retain(|_, (_, last)| now.duration_since(*last) < AWAY_MAX);
        }
        let (times, last) = released.entry(job).or_insert((0, now));
        (*times, *last) = (*times + 1, now);
        REST.wait(*times)
    }

    /// Forgets jobs that have been settled.
    pub(super) fn forget(&self, jobs: impl Iterator<Item = i64>) {
        let mut released = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !released.is_empty() {
            for job in jobs {
                released.remove(&job);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_rests_longer_each_time_until_it_is_settled() {
        let backoff = ReleaseBackoff::default();
        for ceiling_s in [1, 2, 4, 8] {
            let ceiling = Duration::from_secs(ceiling_s);
            assert!((ceiling / 2..=ceiling).contains(&backoff.next(7)));
        }
        backoff.forget([7].into_iter());
        assert!(backoff.next(7) <= Duration::from_secs(1));
    }

    #[test]
    fn many_jobs_at_once_are_all_remembered() {
        let backoff = ReleaseBackoff::default();
        for job in [7, 7, 7].into_iter().chain(100..=100 + PRUNE_ABOVE as i64) {
            backoff.next(job);
        }
        assert!(backoff.next(7) >= Duration::from_secs(4), "the fourth time");
    }
}
