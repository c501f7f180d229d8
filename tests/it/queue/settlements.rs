//! How attempts end.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::TimeDelta;
use daymend::{
    args,
    db::{ConnectOptions, DbClock, Mode, Query, connect},
    queue::{
        Job, JobKind,
        admin::{change, list, stats},
        claim,
        lease::{self, LAPSES_MAX},
        settle::{self, Failure},
    },
    recompute::Changes,
    runs::{self, RunState},
};
use strum::IntoEnumIterator as _;

use super::{
    ATTEMPTS_MAX, LIMIT, LONG, complete, count, day, days, end_lease, failure, new_run, now, outcomes, stored, take,
    take_one, worker,
};
use crate::{
    on_both,
    support::{Engine, TestDb, server::Server, wait_until},
};

on_both! {
    a_failed_attempt_waits_for_its_backoff_and_keeps_its_error;
    a_job_without_attempts_left_is_discarded_with_its_error;
    a_permanent_failure_is_discarded_at_once;
    a_released_job_keeps_its_attempt_and_rests;
    handing_back_restores_the_attempts_of_that_worker_alone;
    a_lease_that_ran_out_frees_its_jobs_and_cannot_be_extended;
    rescues_at_once_count_and_record_each_lapse_once;
    a_lease_that_has_been_rescued_from_is_over_even_if_the_clock_is_set_back;
    a_heartbeat_keeps_the_jobs_past_the_first_lease;
    a_worker_that_lost_its_lease_settles_nothing;
    a_settlement_for_another_attempt_finds_nothing;
    a_job_that_outlives_its_workers_again_and_again_is_discarded;
    a_cancelled_run_takes_running_jobs_from_their_worker;
    what_completed_is_counted_from_the_moment_it_did;
    a_worker_that_signed_off_is_gone_even_if_the_clock_is_set_back;
}

async fn a_failed_attempt_waits_for_its_backoff_and_keeps_its_error(engine: Engine) {
    let db = TestDb::new(engine).await;
    let worker = worker(&db, LONG).await;
    new_run(&db, JobKind::Rebuild, &[(1, days(1))]).await;
    let job = take_one(&db, worker).await;
    let before = db.db.database_now().await.unwrap().timestamp_micros();
    assert!(settle::fail(&db.db, worker, &job, &failure(LONG)).await.unwrap());
    let after = db.db.database_now().await.unwrap().timestamp_micros();
    let waiting = stored(&db, job.id).await;
    assert_eq!((waiting.state.as_str(), waiting.attempt), ("available", 1));
    assert_eq!(waiting.error.as_deref(), Some("the reason"));
    assert!((before + 3_600_000_000..=after + 3_600_000_000).contains(&waiting.sort_key), "{waiting:?}");
    assert_eq!(outcomes(&db, job.id).await, ["failed"]);
    assert_eq!(take(&db, worker, 10).await, [], "it is not due");
    assert!(claim::any_open(&db.db).await.unwrap(), "it is still open");
    db.execute("UPDATE daymend_jobs SET sort_key = sort_key - 3700000000 WHERE id = ?", args![job.id]).await;
    // Jobs that are due again are claimed before jobs that only have a turn.
    new_run(&db, JobKind::Rebuild, &[(2, days(1))]).await;
    let again = take_one(&db, worker).await;
    assert_eq!((again.id, again.attempt), (job.id, 2));
    assert_eq!(complete(&db, worker, &again).await, 1);
    assert_eq!(stored(&db, job.id).await.error, None, "a job that completed has no error");
}

async fn a_job_without_attempts_left_is_discarded_with_its_error(engine: Engine) {
    let db = TestDb::new(engine).await;
    let worker = worker(&db, LONG).await;
    let run = new_run(&db, JobKind::Repair, &[(1, days(2))]).await;
    for attempt in 1..=i64::from(ATTEMPTS_MAX) {
        let job = take_one(&db, worker).await;
        assert_eq!((job.day, job.attempt), (day(0), attempt));
        assert_eq!(runs::try_close(&db.db, run).await.unwrap(), None, "the run is open");
        assert!(settle::fail(&db.db, worker, &job, &failure(Duration::ZERO)).await.unwrap());
    }
    let (id, _) = daymend::queue::ids_of(run);
    let discarded = stored(&db, id).await;
    assert_eq!((discarded.state.as_str(), discarded.error.as_deref()), ("discarded", Some("the reason")));
    assert_eq!(outcomes(&db, id).await, ["failed", "failed"]);
    // The other day is not affected.
    let other = take_one(&db, worker).await;
    assert_eq!(complete(&db, worker, &other).await, 1);
    assert!(!claim::any_open(&db.db).await.unwrap());
    let mut tx = db.db.begin(Mode::Snapshot).await.unwrap();
    let listed = runs::discarded(&mut tx, run, 10).await.unwrap();
    tx.commit().await.unwrap();
    let listed: Vec<_> = listed.iter().map(|job| (job.job_id, job.day, job.error.as_deref())).collect();
    assert_eq!(listed, [(id, day(0), Some("the reason"))]);
    let (state, progress) = runs::try_close(&db.db, run).await.unwrap().unwrap();
    assert_eq!((state, progress.discarded, progress.completed), (RunState::Failed, 1, 1));
}

async fn a_permanent_failure_is_discarded_at_once(engine: Engine) {
    let db = TestDb::new(engine).await;
    let worker = worker(&db, LONG).await;
    new_run(&db, JobKind::Repair, &[(1, days(1))]).await;
    let job = take_one(&db, worker).await;
    let long = "ü".repeat(5000);
    let failure = Failure { error: long.clone(), permanent: true, backoff: LONG };
    assert!(settle::fail(&db.db, worker, &job, &failure).await.unwrap());
    let discarded = stored(&db, job.id).await;
    assert_eq!((discarded.state.as_str(), discarded.attempt), ("discarded", 1));
    let kept = discarded.error.unwrap();
    assert!(long.starts_with(&kept) && kept.chars().count() == 2000, "a long error is truncated");
    assert!(
        discarded.sort_key <= db.db.database_now().await.unwrap().timestamp_micros(),
        "it ended now, not after the backoff"
    );
}

async fn a_released_job_keeps_its_attempt_and_rests(engine: Engine) {
    let db = TestDb::new(engine).await;
    let worker = worker(&db, LONG).await;
    new_run(&db, JobKind::Repair, &[(1, days(1))]).await;
    let job = take_one(&db, worker).await;
    assert!(settle::release(&db.db, worker, &job, LONG).await.unwrap());
    let released = stored(&db, job.id).await;
    assert_eq!((released.state.as_str(), released.attempt), ("available", 0));
    assert_eq!(take(&db, worker, 10).await, [], "it rests");
}

async fn handing_back_restores_the_attempts_of_that_worker_alone(engine: Engine) {
    let db = TestDb::new(engine).await;
    let (leaving, staying) = (worker(&db, LONG).await, worker(&db, LONG).await);
    for kind in JobKind::iter() {
        new_run(&db, kind, &[(kind as i64, days(2))]).await;
    }
    let mine = take(&db, leaving, 4).await;
    let others = take(&db, staying, 2).await;
    assert_eq!((mine.len(), others.len()), (4, 2));
    assert_eq!(complete(&db, leaving, &mine[0]).await, 1);
    assert_eq!(settle::hand_back(&db.db, leaving).await.unwrap(), 3, "what is completed stays so");
    assert_eq!(stored(&db, mine[0].id).await.state, "completed");
    for job in &mine[1..] {
        let back = stored(&db, job.id).await;
        assert_eq!((back.state.as_str(), back.attempt, back.lapses), ("available", 0, 0));
        assert_eq!(outcomes(&db, job.id).await, ["handed_back"]);
    }
    for job in &others {
        let kept = stored(&db, job.id).await;
        assert_eq!((kept.state.as_str(), kept.attempt, kept.worker_id), ("running", 1, Some(staying)));
    }
    let again: BTreeSet<_> = take(&db, staying, 10).await.iter().map(|job| (job.id, job.attempt)).collect();
    assert_eq!(again, mine[1..].iter().map(|job| (job.id, 1)).collect(), "available to others at once");
    assert_eq!(settle::hand_back(&db.db, leaving).await.unwrap(), 0, "nothing is left to hand back");
}

async fn a_lease_that_ran_out_frees_its_jobs_and_cannot_be_extended(engine: Engine) {
    let db = TestDb::new(engine).await;
    let (dying, living) = (worker(&db, LONG).await, worker(&db, LONG).await);
    for kind in JobKind::iter() {
        new_run(&db, kind, &[(kind as i64, days(2))]).await;
    }
    let held = take(&db, dying, 4).await;
    let safe = take(&db, living, 1).await;
    assert_eq!((held.len(), safe.len()), (4, 1));
    let until = db.db.database_now().await.unwrap().timestamp_micros() + 1_000_000;
    db.execute("UPDATE daymend_workers SET lease_until_us = ? WHERE id = ?", args![until, dying]).await;
    let mut rescued = 0;
    while rescued == 0 {
        let before = db.db.database_now().await.unwrap().timestamp_micros();
        rescued = lease::rescue(&db.db).await.unwrap();
        let after = db.db.database_now().await.unwrap().timestamp_micros();
        assert!(rescued == 0 || after >= until, "rescued {} us before the lease ran out", until - after);
        assert!(rescued > 0 || before < until, "not rescued although the lease ran out");
    }
    assert_eq!(count(&db, "running").await, safe.len() as i64);
    for job in &held {
        let freed = stored(&db, job.id).await;
        assert_eq!((freed.state.as_str(), freed.attempt, freed.lapses), ("available", 0, 1));
        assert_eq!(outcomes(&db, job.id).await, ["lapsed"]);
    }
    assert_eq!(stored(&db, safe[0].id).await.state, "running", "a living worker keeps its jobs");
    assert!(!lease::heartbeat(&db.db, dying, LONG).await.unwrap(), "a lease that ran out is lost for good");
    assert_eq!(take(&db, living, 10).await.len(), 5);
}

async fn rescues_at_once_count_and_record_each_lapse_once(engine: Engine) {
    let db = TestDb::new(engine).await;
    for round in 0..5 {
        let dying = worker(&db, LONG).await;
        new_run(&db, JobKind::Rebuild, &[(round, days(400))]).await;
        let held = take(&db, dying, 400).await;
        end_lease(&db, dying).await;
        let rescues = (0..4).map(|_| lease::rescue(&db.db));
        let rescued = futures::future::try_join_all(rescues).await.unwrap();
        assert_eq!(rescued.iter().sum::<u64>(), held.len() as u64, "{rescued:?}");
        let recorded = db.number("SELECT COUNT(*) FROM daymend_attempts WHERE outcome = 'lapsed'").await;
        assert_eq!(recorded, held.len() as i64);
        db.execute("DELETE FROM daymend_attempts", args![]).await;
        db.execute("UPDATE daymend_jobs SET state = 'cancelled'", args![]).await;
    }
}

// On SQLite, writers exclude each other, so nothing can come in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_that_commits_late_keeps_its_jobs() {
    let db = TestDb::new(Engine::MariaDb).await;
    let late = worker(&db, LONG).await;
    new_run(&db, JobKind::Rebuild, &[(1, days(3))]).await;
    let held = take(&db, late, 3).await;
    end_lease(&db, late).await;
    // A heartbeat that began in time and has not committed yet.
    let mut heartbeat = db.admin.begin(Mode::Write).await.unwrap();
    let sql = "UPDATE daymend_workers SET lease_until_us = 9000000000000000 WHERE id = ?";
    heartbeat.execute(Query::new("heartbeat", sql), args![late]).await.unwrap();
    let rescue = tokio::spawn({
        let db = db.db.clone();
        async move { lease::rescue(&db).await.unwrap() }
    });
    let waiting = "SELECT COUNT(*) FROM information_schema.processlist
                   WHERE db = DATABASE() AND info LIKE '-- daymend: end lapsed leases%' AND command = 'Execute'";
    let is_waiting = || async { rescue.is_finished() || db.number(waiting).await == 1 };
    wait_until("the rescue to wait for the heartbeat", LIMIT, is_waiting).await;
    heartbeat.commit().await.unwrap();
    assert_eq!(rescue.await.unwrap(), 0);
    assert_eq!(settle::complete_unchanged(&db.db, late, &held).await.unwrap().found, 3);
}

async fn a_lease_that_has_been_rescued_from_is_over_even_if_the_clock_is_set_back(engine: Engine) {
    let mut db = TestDb::new(engine).await;
    let clock = Arc::new(AtomicI64::new(now().timestamp_micros()));
    db.db = db.db.with_clock(DbClock::Driven(Arc::clone(&clock)));
    let lapsed = worker(&db, Duration::from_secs(10)).await;
    let idle = worker(&db, Duration::from_secs(10)).await;
    new_run(&db, JobKind::Rebuild, &[(1, days(1))]).await;
    let job = take_one(&db, lapsed).await;
    clock.fetch_add(10_000_000, Ordering::SeqCst);
    assert_eq!(lease::rescue(&db.db).await.unwrap(), 1);
    // For example by a failover to another server.
    clock.fetch_sub(5_000_000, Ordering::SeqCst);
    assert!(!lease::heartbeat(&db.db, lapsed, LONG).await.unwrap());
    assert_eq!(take(&db, lapsed, 1).await, []);
    assert_eq!(complete(&db, lapsed, &job).await, 0);
    assert!(lease::heartbeat(&db.db, idle, LONG).await.unwrap(), "nothing was taken from it");
}

async fn a_heartbeat_keeps_the_jobs_past_the_first_lease(engine: Engine) {
    let db = TestDb::new(engine).await;
    const FIRST: Duration = Duration::from_secs(5);
    let worker = worker(&db, FIRST).await;
    let until = db.db.database_now().await.unwrap() + FIRST;
    assert!(lease::heartbeat(&db.db, worker, LONG).await.unwrap());
    new_run(&db, JobKind::Nightly, &[(1, days(1))]).await;
    let job = take_one(&db, worker).await;
    wait_until("the first lease would be over", LIMIT, || async { db.db.database_now().await.unwrap() > until }).await;
    assert_eq!(lease::rescue(&db.db).await.unwrap(), 0);
    assert_eq!(lease::workers_alive(&db.db).await.unwrap(), 1);
    assert_eq!(complete(&db, worker, &job).await, 1);
    lease::sign_off(&db.db, worker).await.unwrap();
    assert!(!lease::heartbeat(&db.db, worker, LONG).await.unwrap(), "a worker that signed off is gone");
    assert_eq!(lease::workers_alive(&db.db).await.unwrap(), 0);
}

/// Tries every way to end an attempt, and returns how many of them found the job.
async fn settle_every_way(db: &TestDb, worker: i64, job: &Job) -> u64 {
    let mut tx = db.db.begin(Mode::Write).await.unwrap();
    let changes = Changes { inserted: 1, updated: 2, deleted: 3 };
    let mut found = settle::complete(&mut tx, worker, &[job], changes).await.unwrap();
    tx.commit().await.unwrap();
    found += complete(db, worker, job).await;
    found += u64::from(settle::fail(&db.db, worker, job, &failure(LONG)).await.unwrap());
    let permanent = Failure { permanent: true, ..failure(LONG) };
    found += u64::from(settle::fail(&db.db, worker, job, &permanent).await.unwrap());
    found + u64::from(settle::release(&db.db, worker, job, LONG).await.unwrap())
}

async fn a_worker_that_lost_its_lease_settles_nothing(engine: Engine) {
    let db = TestDb::new(engine).await;
    new_run(&db, JobKind::Repair, &[(1, days(1))]).await;
    let lost = worker(&db, LONG).await;
    let job = take_one(&db, lost).await;
    end_lease(&db, lost).await;
    assert_eq!(take(&db, lost, 1).await, [], "nor does it claim");
    assert_eq!(stored(&db, job.id).await.state, "available", "others may have it at once");
    let waiting = stored(&db, job.id).await;
    assert_eq!(settle_every_way(&db, lost, &job).await, 0);
    assert_eq!(settle::hand_back(&db.db, lost).await.unwrap(), 0);
    assert_eq!(stored(&db, job.id).await, waiting, "while it waits");

    let next = worker(&db, LONG).await;
    let taken = take_one(&db, next).await;
    assert_eq!((taken.id, taken.attempt), (job.id, job.attempt), "the same attempt, as a lapse restores it");
    let running = stored(&db, job.id).await;
    assert_eq!(settle_every_way(&db, lost, &job).await, 0);
    assert_eq!(settle::hand_back(&db.db, lost).await.unwrap(), 0);
    assert_eq!(stored(&db, job.id).await, running, "while another worker runs it");
    assert_eq!(outcomes(&db, job.id).await, ["lapsed"], "and no attempt is recorded");
    assert_eq!(complete(&db, next, &taken).await, 1);
    assert_eq!(complete(&db, next, &taken).await, 0, "a job completes once");
}

async fn a_settlement_for_another_attempt_finds_nothing(engine: Engine) {
    let db = TestDb::new(engine).await;
    let worker = worker(&db, LONG).await;
    new_run(&db, JobKind::Repair, &[(1, days(1))]).await;
    let first = take_one(&db, worker).await;
    assert!(settle::fail(&db.db, worker, &first, &failure(Duration::ZERO)).await.unwrap());
    let second = take_one(&db, worker).await;
    assert_eq!(second.attempt, 2);
    assert_eq!(settle_every_way(&db, worker, &first).await, 0, "the same worker, an attempt ago");
    assert_eq!(stored(&db, second.id).await.state, "running");
    assert_eq!(complete(&db, worker, &second).await, 1);
}

async fn a_job_that_outlives_its_workers_again_and_again_is_discarded(engine: Engine) {
    let db = TestDb::new(engine).await;
    let run = new_run(&db, JobKind::Nightly, &[(1, days(1))]).await;
    let (id, _) = daymend::queue::ids_of(run);
    for lapse in 1..=LAPSES_MAX {
        let state = stored(&db, id).await;
        assert_eq!((state.state.as_str(), state.attempt, state.error), ("available", 0, None), "before lapse {lapse}");
        let dying = worker(&db, LONG).await;
        take_one(&db, dying).await;
        end_lease(&db, dying).await;
        assert_eq!(lease::rescue(&db.db).await.unwrap(), 1);
    }
    let discarded = stored(&db, id).await;
    assert_eq!((discarded.state.as_str(), discarded.lapses), ("discarded", i64::from(LAPSES_MAX)));
    assert!(discarded.error.unwrap().contains("its workers died while they held it"));
    assert_eq!(outcomes(&db, id).await.len(), LAPSES_MAX as usize);
    let (state, _) = runs::try_close(&db.db, run).await.unwrap().unwrap();
    assert_eq!(state, RunState::Failed);
}

async fn a_cancelled_run_takes_running_jobs_from_their_worker(engine: Engine) {
    let db = TestDb::new(engine).await;
    let worker = worker(&db, LONG).await;
    let run = new_run(&db, JobKind::Rebuild, &[(1, days(3))]).await;
    let jobs = take(&db, worker, 2).await;
    assert_eq!(complete(&db, worker, &jobs[0]).await, 1);
    assert_eq!(change::cancel_run(&db.db, run, "a test", |_| ()).await.unwrap(), Some(2));
    assert_eq!(settle_every_way(&db, worker, &jobs[1]).await, 0);
    assert_eq!((count(&db, "cancelled").await, count(&db, "completed").await), (2, 1));
    assert_eq!(take(&db, worker, 10).await, []);
    assert_eq!(change::cancel_run(&db.db, run, "a test", |_| ()).await.unwrap(), None, "a run is cancelled once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_somebody_keeps_locked_keeps_no_other_from_its_end() {
    let db = TestDb::new(Engine::MariaDb).await;
    let worker = worker(&db, LONG).await;
    new_run(&db, JobKind::Repair, &[(1, days(6))]).await;
    let jobs = take(&db, worker, 6).await;
    let [first, locked, cancelled, ..] = &jobs[..] else { panic!("{jobs:?}") };
    db.execute("UPDATE daymend_jobs SET state = 'cancelled' WHERE id = ?", args![cancelled.id]).await;
    let mut operator = db.admin.begin(Mode::Write).await.unwrap();
    for job in [locked, cancelled] {
        let sql = "SELECT id FROM daymend_jobs WHERE id = ? FOR UPDATE";
        assert_eq!(operator.fetch_all(Query::new("operator", sql), args![job.id], Ok).await.unwrap().len(), 1);
    }
    let completed = settle::complete_unchanged(&db.db, worker, &jobs[..3]).await.unwrap();
    assert_eq!((completed.found, completed.locked), (1, vec![locked.id]), "the cancelled job need not be retried");
    assert_eq!(stored(&db, first.id).await.state, "completed");
    assert_eq!(settle::hand_back(&db.db, worker).await.unwrap(), 3);
    assert_eq!(count(&db, "available").await, 3);
    assert_eq!(settle::held(&db.db, worker).await.unwrap(), 1);
    let completed = settle::complete_unlocked(&db.db, worker, &jobs[1..2]).await.unwrap();
    assert_eq!((completed.found, completed.locked), (0, vec![locked.id]));
    operator.rollback().await.unwrap();
    let completed = settle::complete_unlocked(&db.db, worker, &jobs[..3]).await.unwrap();
    assert_eq!((completed.found, completed.locked), (1, vec![]));
    assert_eq!(settle::held(&db.db, worker).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_with_a_job_that_somebody_keeps_locked_is_not_given_back() {
    let db = TestDb::new(Engine::MariaDb).await;
    let worker = worker(&db, LONG).await;
    new_run(&db, JobKind::Repair, &[(1, days(6))]).await;
    let jobs = take(&db, worker, 6).await;
    let (locked, cancelled) = (&jobs[1], &jobs[4]);
    db.execute("UPDATE daymend_jobs SET state = 'cancelled' WHERE id = ?", args![cancelled.id]).await;
    let mut operator = db.admin.begin(Mode::Write).await.unwrap();
    let sql = "SELECT id FROM daymend_jobs WHERE id = ? FOR UPDATE";
    assert_eq!(operator.fetch_all(Query::new("operator", sql), args![locked.id], Ok).await.unwrap().len(), 1);
    let groups: Vec<&[Job]> = jobs.chunks(3).collect();
    assert_eq!(settle::give_back(&db.db, worker, &groups).await.unwrap(), [false, true]);
    assert_eq!((count(&db, "running").await, count(&db, "available").await, count(&db, "cancelled").await), (3, 2, 1));
    operator.rollback().await.unwrap();
    assert_eq!(settle::give_back(&db.db, worker, &groups[..1]).await.unwrap(), [true]);
    assert_eq!(count(&db, "available").await, 5);
    assert!(take(&db, worker, 6).await.iter().all(|job| job.attempt == 1), "no attempt is used up");
}

/// Claims and acks have varying numbers of jobs. If the statement for each number were kept prepared, on every
/// connection, they would reach the server's limit of prepared statements.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_and_acks_of_many_jobs_are_not_kept_prepared() {
    let server = Server::start("acks").expect("MariaDB starts");
    let mut db = TestDb::on_server(server.port).await;
    // The count is for the whole server, and any other connection would prepare its own: one of each pool.
    db.db = connect(&db.url, ConnectOptions::new(1)).unwrap();
    db.admin = connect(&db.triggers_url, ConnectOptions::new(1)).unwrap();
    let worker = worker(&db, LONG).await;
    new_run(&db, JobKind::Rebuild, &[(1, days(500))]).await;
    let mut kept = Vec::new();
    for size in (20..70).step_by(5) {
        let jobs = take(&db, worker, size).await;
        assert_eq!(jobs.len(), size);
        assert_eq!(settle::complete_unchanged(&db.db, worker, &jobs).await.unwrap().found, size as u64);
        let status = db.rows("SHOW STATUS LIKE 'Prepared_stmt_count'", vec![]).await;
        kept.push(status[0].text(1).unwrap().parse::<i64>().unwrap());
    }
    assert!(kept.iter().all(|count| *count == kept[0]), "{kept:?}");
}

async fn what_completed_is_counted_from_the_moment_it_did(engine: Engine) {
    let mut db = TestDb::new(engine).await;
    let clock = Arc::new(AtomicI64::new(now().timestamp_micros()));
    db.db = db.db.with_clock(DbClock::Driven(Arc::clone(&clock)));
    let worker = worker(&db, LONG).await;
    new_run(&db, JobKind::Repair, &[(1, days(3))]).await;
    let jobs = take(&db, worker, 3).await;
    clock.fetch_add(1_000_000, Ordering::SeqCst);
    assert_eq!(complete(&db, worker, &jobs[0]).await, 1);
    let permanent = Failure { permanent: true, ..failure(LONG) };
    assert!(settle::fail(&db.db, worker, &jobs[1], &permanent).await.unwrap());
    for job in &jobs[..2] {
        let (shown, _) = list::show(&db.db, job.id).await.unwrap().unwrap();
        assert_eq!(shown.ended_at, Some(now() + TimeDelta::seconds(1)), "{shown:?}");
    }
    for (minutes, rates) in [(1, [1, 1, 1]), (1, [0, 1, 1]), (12, [0, 0, 1]), (2, [0, 0, 0])] {
        clock.fetch_add(minutes * 60_000_000, Ordering::SeqCst);
        let completed = stats::stats(&db.db).await.unwrap().completed;
        assert_eq!(completed.iter().map(|rate| rate.jobs).collect::<Vec<_>>(), rates);
    }
}

async fn a_worker_that_signed_off_is_gone_even_if_the_clock_is_set_back(engine: Engine) {
    let mut db = TestDb::new(engine).await;
    let clock = Arc::new(AtomicI64::new(now().timestamp_micros()));
    db.db = db.db.with_clock(DbClock::Driven(Arc::clone(&clock)));
    let worker = worker(&db, LONG).await;
    lease::sign_off(&db.db, worker).await.unwrap();
    clock.fetch_sub(5_000_000, Ordering::SeqCst);
    assert!(!lease::heartbeat(&db.db, worker, LONG).await.unwrap());
}
