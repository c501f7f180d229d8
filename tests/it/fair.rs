//! No lab waits until another lab's long rebuild is done.

use chrono::{DateTime, NaiveDate, Utc};
use daymend::{
    db::Mode,
    queue::{JobKind, claim, lease, settle},
    recompute::Changes,
    runs::{self, JobLimits, NewRun},
};

use crate::{
    on_both,
    support::{Engine, TestDb},
};

/// How many jobs a worker with two slots claims at once.
const CLAIM: usize = 28;
const DAYS: u32 = 3000;

on_both! {
    a_nightly_run_starts_within_one_claim_of_a_long_rebuild;
    a_second_rebuild_advances_at_the_pace_of_the_first;
    jobs_that_come_back_again_and_again_leave_half_of_a_claim_to_others;
}

async fn enqueue(db: &TestDb, kind: JobKind, labs: std::ops::RangeInclusive<i64>, days: u32) {
    let last: NaiveDate = "2026-06-14".parse().unwrap();
    let days: Vec<NaiveDate> = daymend::calendar::dates(daymend::calendar::days_before(last, days - 1), last).collect();
    let as_of: DateTime<Utc> = "2026-06-15T12:00:00Z".parse().unwrap();
    let labs = labs.map(|lab| (lab, days.clone())).collect();
    let run = NewRun::new(kind, "historical_summary", as_of, labs, JobLimits::any_shrink(5));
    let mut tx = db.db.begin(Mode::Write).await.unwrap();
    runs::create(&mut tx, &run).await.unwrap();
    tx.commit().await.unwrap();
}

async fn worker(db: &TestDb) -> i64 {
    lease::register(&db.db, "fair", std::time::Duration::from_secs(600)).await.unwrap()
}

/// Makes one claim, completes its jobs, and returns their kinds and labs.
async fn work(db: &TestDb, worker: i64) -> Vec<(JobKind, i64)> {
    let jobs = claim::claim(&db.db, worker, CLAIM).await.unwrap();
    let mut tx = db.db.begin(Mode::Write).await.unwrap();
    let all: Vec<_> = jobs.iter().collect();
    let found = settle::complete(&mut tx, worker, &all, Changes::default()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(found, jobs.len() as u64);
    jobs.iter().map(|job| (job.kind, job.lab_id)).collect()
}

async fn a_nightly_run_starts_within_one_claim_of_a_long_rebuild(engine: Engine) {
    let db = TestDb::new(engine).await;
    let worker = worker(&db).await;
    enqueue(&db, JobKind::Rebuild, 1..=1, DAYS).await;
    for _ in 0..3 {
        assert_eq!(work(&db, worker).await, [(JobKind::Rebuild, 1); CLAIM]);
    }
    enqueue(&db, JobKind::Nightly, 1..=50, 1).await;
    let first = work(&db, worker).await;
    assert!(first.iter().all(|(kind, _)| *kind == JobKind::Nightly), "{first:?}");
    let second = work(&db, worker).await;
    assert_eq!(second.iter().filter(|(kind, _)| *kind == JobKind::Nightly).count(), 50 - CLAIM);
}

async fn a_second_rebuild_advances_at_the_pace_of_the_first(engine: Engine) {
    let db = TestDb::new(engine).await;
    let worker = worker(&db).await;
    enqueue(&db, JobKind::Rebuild, 1..=1, DAYS).await;
    for _ in 0..20 {
        work(&db, worker).await;
    }
    enqueue(&db, JobKind::Rebuild, 2..=2, DAYS).await;
    let mut done = [0_i64; 3];
    for _ in 0..40 {
        for (_, lab) in work(&db, worker).await {
            done[usize::try_from(lab).unwrap()] += 1;
        }
        assert!((done[1] - done[2]).abs() <= 14, "lab 1 did {} days, lab 2 did {}", done[1], done[2]);
    }
    assert!(done[2] > 500, "{done:?}");
}

async fn jobs_that_come_back_again_and_again_leave_half_of_a_claim_to_others(engine: Engine) {
    let db = TestDb::new(engine).await;
    let worker = worker(&db).await;
    // More than a claim takes, released each time, as jobs are whose rows somebody keeps locked.
    enqueue(&db, JobKind::Nightly, 1..=40, 1).await;
    for _ in 0..2 {
        for job in claim::claim(&db.db, worker, CLAIM).await.unwrap() {
            assert!(settle::release(&db.db, worker, &job, std::time::Duration::ZERO).await.unwrap());
        }
    }
    let due = "SELECT COUNT(*) FROM daymend_jobs WHERE sort_key > 1000000000";
    assert_eq!(db.number(due).await, 40);
    // Other jobs of the same kind, and of a lower one.
    enqueue(&db, JobKind::Nightly, 100..=102, 1).await;
    enqueue(&db, JobKind::Repair, 200..=240, 1).await;
    let claimed = work(&db, worker).await;
    let of = |labs: std::ops::RangeInclusive<i64>| claimed.iter().filter(|(_, lab)| labs.contains(lab)).count();
    assert_eq!([of(1..=40), of(100..=102), of(200..=240)], [CLAIM / 2, 3, CLAIM / 2 - 3]);
    // If nothing else waits, they get the whole claim.
    db.execute("UPDATE daymend_jobs SET state = 'cancelled' WHERE kind = 'repair' AND state = 'available'", vec![])
        .await;
    assert_eq!(work(&db, worker).await.len(), 40 - CLAIM / 2);
}
