//! Which worker gets which job.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::NaiveDate;
use daymend::{
    db::DbClock,
    queue::{
        Job, JobKind,
        claim::{self, Claimer},
        run_of, settle,
    },
    rollup::HISTORICAL_SUMMARY,
};
use strum::IntoEnumIterator as _;

use super::{ATTEMPTS_MAX, LIMIT, LONG, complete, count, day, days, new_run, now, stored, take, take_one, worker};
use crate::{
    on_both,
    support::{Engine, TestDb, wait_until},
};

on_both! {
    nightly_jobs_are_claimed_before_repairs_before_rebuilds;
    labs_of_a_rebuild_take_turns_and_a_later_run_joins_at_the_turn_that_is_up;
    a_run_whose_turns_begin_anew_is_claimed_by_who_claimed_later_turns;
    claims_at_once_share_no_job;
    a_claim_stamps_its_jobs_with_worker_and_attempt;
    a_lab_and_day_never_runs_twice_at_once;
    a_job_whose_day_is_running_is_postponed_and_runs_later;
    of_two_jobs_for_one_day_in_one_claim_one_is_postponed;
    what_has_been_due_again_for_longest_comes_first;
}

async fn nightly_jobs_are_claimed_before_repairs_before_rebuilds(engine: Engine) {
    let db = TestDb::new(engine).await;
    for kind in [JobKind::Rebuild, JobKind::Repair, JobKind::Nightly] {
        let lab = kind as i64 + 1;
        new_run(&db, kind, &[(lab, days(3))]).await;
    }
    let worker = worker(&db, LONG).await;
    let mut order: Vec<_> = take(&db, worker, 5).await.iter().map(|job| (job.kind, job.day)).collect();
    // Days are claimed oldest first; the next claim takes what the first one left.
    order.extend(take(&db, worker, 5).await.iter().map(|job| (job.kind, job.day)));
    let kinds = [JobKind::Nightly, JobKind::Repair, JobKind::Rebuild];
    let expected: Vec<_> = kinds.into_iter().flat_map(|kind| days(3).into_iter().map(move |day| (kind, day))).collect();
    assert_eq!(order, expected);
    assert_eq!(take(&db, worker, 5).await, []);
}

async fn labs_of_a_rebuild_take_turns_and_a_later_run_joins_at_the_turn_that_is_up(engine: Engine) {
    let db = TestDb::new(engine).await;
    let worker = worker(&db, LONG).await;
    new_run(&db, JobKind::Rebuild, &[(1, days(28))]).await;
    new_run(&db, JobKind::Rebuild, &[(2, days(28)), (3, days(7))]).await;
    let turn = |jobs: &[Job]| -> BTreeMap<i64, BTreeSet<NaiveDate>> {
        let mut labs: BTreeMap<i64, BTreeSet<_>> = BTreeMap::new();
        for job in jobs {
            labs.entry(job.lab_id).or_default().insert(job.day);
        }
        labs
    };
    let of = |days: std::ops::Range<u64>| -> BTreeSet<NaiveDate> { days.map(day).collect() };
    assert_eq!(turn(&take(&db, worker, 21).await), [(1, of(0..7)), (2, of(0..7)), (3, of(0..7))].into());
    assert_eq!(turn(&take(&db, worker, 14).await), [(1, of(7..14)), (2, of(7..14))].into());
    // The current turn is the third: lab 4 neither waits until the others are done nor goes before them.
    new_run(&db, JobKind::Rebuild, &[(4, days(14))]).await;
    assert_eq!(turn(&take(&db, worker, 21).await), [(1, of(14..21)), (2, of(14..21)), (4, of(0..7))].into());
    assert_eq!(turn(&take(&db, worker, 21).await), [(1, of(21..28)), (2, of(21..28)), (4, of(7..14))].into());
}

/// A claimer forgets the turn that it remembers when nothing is left to claim from that turn on.
async fn a_run_whose_turns_begin_anew_is_claimed_by_who_claimed_later_turns(engine: Engine) {
    let db = TestDb::new(engine).await;
    let worker = worker(&db, LONG).await;
    let mut claimer = Claimer::default();
    for labs in [[(1, days(21))], [(2, days(7))]] {
        new_run(&db, JobKind::Rebuild, &labs).await;
        let mut claimed = 0;
        while claimed < labs[0].1.len() {
            let jobs = claimer.claim(&db.db, worker, 7).await.unwrap().unwrap().jobs;
            assert_eq!(jobs.len(), 7, "{claimed} jobs of lab {} were claimed", labs[0].0);
            claimed += jobs.len();
        }
        assert!(claimer.claim(&db.db, worker, 7).await.unwrap().unwrap().jobs.is_empty());
    }
}

async fn claims_at_once_share_no_job(engine: Engine) {
    let db = Arc::new(TestDb::new(engine).await);
    let run = new_run(&db, JobKind::Rebuild, &[(1, days(60)), (2, days(60))]).await;
    let claimers = (0..4).map(|_| {
        let db = Arc::clone(&db);
        tokio::spawn(async move {
            let worker = worker(&db, LONG).await;
            let mut mine = Vec::new();
            while count(&db, "available").await > 0 {
                mine.extend(take(&db, worker, 7).await.iter().map(|job| job.id));
            }
            mine
        })
    });
    let mut claimed = Vec::new();
    for mine in futures::future::join_all(claimers).await {
        claimed.extend(mine.unwrap());
    }
    claimed.sort_unstable();
    let (first, _) = daymend::queue::ids_of(run);
    assert_eq!(claimed, (first..first + 120).collect::<Vec<_>>());
}

async fn a_claim_stamps_its_jobs_with_worker_and_attempt(engine: Engine) {
    let db = TestDb::new(engine).await;
    let run = new_run(&db, JobKind::Repair, &[(-5, days(1))]).await;
    let worker = worker(&db, LONG).await;
    let job = take_one(&db, worker).await;
    assert_eq!(run_of(job.id), run);
    let expected = Job {
        id: job.id,
        kind: JobKind::Repair,
        rollup: HISTORICAL_SUMMARY.to_owned(),
        lab_id: -5,
        day: day(0),
        attempt: 1,
        attempts_max: i64::from(ATTEMPTS_MAX),
    };
    assert_eq!(job, expected);
    let stored = stored(&db, job.id).await;
    assert_eq!((stored.state.as_str(), stored.attempt, stored.worker_id), ("running", 1, Some(worker)));
    assert_eq!(stored.sort_key, worker, "a rescue finds it by its worker's id");
}

async fn a_lab_and_day_never_runs_twice_at_once(engine: Engine) {
    let db = Arc::new(TestDb::new(engine).await);
    for kind in JobKind::iter() {
        new_run(&db, kind, &[(1, days(5))]).await;
    }
    let running = Arc::new(Mutex::new(BTreeSet::new()));
    let workers = (0..3).map(|_| {
        let (db, running) = (Arc::clone(&db), Arc::clone(&running));
        tokio::spawn(async move {
            let worker = worker(&db, LONG).await;
            let work = || async {
                let jobs = take(&db, worker, 4).await;
                for job in &jobs {
                    assert!(running.lock().unwrap().insert(job.day), "{} runs twice at once", job.day);
                }
                for job in jobs {
                    assert!(running.lock().unwrap().remove(&job.day));
                    assert_eq!(complete(&db, worker, &job).await, 1);
                }
                !claim::any_open(&db.db).await.unwrap()
            };
            wait_until("every job has run", LIMIT, work).await;
        })
    });
    for worker in futures::future::join_all(workers).await {
        worker.unwrap();
    }
    assert_eq!(count(&db, "completed").await, 15);
}

async fn a_job_whose_day_is_running_is_postponed_and_runs_later(engine: Engine) {
    let db = TestDb::new(engine).await;
    let (holder, other) = (worker(&db, LONG).await, worker(&db, LONG).await);
    new_run(&db, JobKind::Repair, &[(1, days(1))]).await;
    let held = take_one(&db, holder).await;
    // A second run, with the same day and one that is free.
    let second = new_run(&db, JobKind::Nightly, &[(1, days(2))]).await;
    let (same_day, _) = daymend::queue::ids_of(second);
    let before = db.db.database_now().await.unwrap().timestamp_micros();
    let claimed = take(&db, other, 10).await;
    assert_eq!(claimed.iter().map(|job| job.day).collect::<Vec<_>>(), [day(1)], "only the free day");
    let postponed = stored(&db, same_day).await;
    assert_eq!((postponed.state.as_str(), postponed.attempt), ("available", 0));
    assert!(postponed.sort_key >= before + 1_000_000, "it comes back in a second");
    assert_eq!(complete(&db, holder, &held).await, 1);
    wait_until("the postponed job is due", LIMIT, || async {
        take(&db, other, 10).await.iter().any(|job| job.id == same_day && job.attempt == 1)
    })
    .await;
    assert_eq!(stored(&db, same_day).await.state, "running");
}

async fn of_two_jobs_for_one_day_in_one_claim_one_is_postponed(engine: Engine) {
    let mut db = TestDb::new(engine).await;
    let clock = Arc::new(AtomicI64::new(now().timestamp_micros()));
    db.db = db.db.with_clock(DbClock::Driven(Arc::clone(&clock)));
    let worker = worker(&db, LONG).await;
    new_run(&db, JobKind::Repair, &[(1, days(2))]).await;
    new_run(&db, JobKind::Repair, &[(1, days(2))]).await;
    let claimed = take(&db, worker, 10).await;
    assert_eq!(claimed.iter().map(|job| job.day).collect::<BTreeSet<_>>(), days(2).into_iter().collect());
    assert_eq!((claimed.len(), count(&db, "running").await, count(&db, "available").await), (2, 2, 2));
    clock.fetch_add(999_999, Ordering::SeqCst);
    assert_eq!(take(&db, worker, 10).await, [], "nothing is due before the second is over");
    for job in &claimed {
        assert_eq!(complete(&db, worker, job).await, 1);
    }
    clock.fetch_add(1, Ordering::SeqCst);
    let again = take(&db, worker, 10).await;
    assert_eq!(again.iter().map(|job| job.day).collect::<BTreeSet<_>>(), days(2).into_iter().collect());
    assert_eq!((again.len(), count(&db, "completed").await), (2, 2), "the second is over");
}

/// Not the one with the lowest id: each that comes back again and again would keep those behind it from their turn.
async fn what_has_been_due_again_for_longest_comes_first(engine: Engine) {
    let mut db = TestDb::new(engine).await;
    let clock = Arc::new(AtomicI64::new(now().timestamp_micros()));
    db.db = db.db.with_clock(DbClock::Driven(Arc::clone(&clock)));
    let worker = worker(&db, LONG).await;
    new_run(&db, JobKind::Repair, &[(1, days(3))]).await;
    let jobs = take(&db, worker, 3).await;
    for (job, rest) in jobs.iter().zip([30, 10, 20]) {
        assert!(settle::release(&db.db, worker, job, Duration::from_secs(rest)).await.unwrap());
    }
    clock.fetch_add(60_000_000, Ordering::SeqCst);
    for day_of in [1, 2, 0] {
        assert_eq!(take_one(&db, worker).await.day, day(day_of));
    }
}
