//! The lookback: the days before the due one are checked again every night, and a nightly run is complete when its due
//! jobs are, whatever the lookback finds.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Asia::Kolkata;
use daymend::{
    args,
    calendar::dates,
    clock::Clock,
    queue::{JobKind, claim, lease, settle},
    rollup::HISTORICAL_SUMMARY,
    runs::RunState,
    scheduler::{self, Enqueued, Report, Scheduler},
};

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        lab_system::Bill,
        oracle,
        process::run_ok,
        work::{SCHEDULER, rollups},
    },
};

on_both! {
    a_late_change_within_the_lookback_is_repaired_by_the_next_night;
    the_lookback_is_enqueued_once_for_each_due_day;
    a_nightly_run_completes_without_the_lookback;
    a_lab_that_is_new_or_broken_breaks_no_lookback;
    the_option_reaches_the_scheduler;
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn date(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

fn now() -> DateTime<Utc> {
    at("2026-06-15T12:00:00Z")
}

async fn tick(db: &TestDb, lookback_days: u32, now: DateTime<Utc>) -> Report {
    let (rollups, config) = (rollups(), scheduler::Config { lookback_days, ..SCHEDULER });
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let mut report = Report::default();
    let scheduler = Scheduler { db: &db.db, rollup, config: &config, clock: Clock::Fixed(now) };
    scheduler.tick(&mut report).await.unwrap();
    report
}

async fn enqueued(db: &TestDb, kind: JobKind, lab: i64) -> Vec<NaiveDate> {
    let sql = "SELECT day FROM daymend_jobs WHERE kind = ? AND lab_id = ? ORDER BY id";
    db.rows(sql, args![kind.name(), lab]).await.iter().map(|row| row.date(0).unwrap()).collect()
}

async fn fill(db: &TestDb) {
    for day in 1..=14 {
        let at = at(&format!("2026-06-{day:02}T06:00:00Z"));
        db.add_bill(day, 1, &Bill { at, info: Some((Some(1), None, None)), ..Bill::default() }).await;
    }
}

async fn a_late_change_within_the_lookback_is_repaired_by_the_next_night(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    fill(&db).await;
    db.request_rebuild(1).await;
    tick(&db, 3, now()).await;
    db.drain(now()).await;
    tick(&db, 3, now()).await;
    // A nightly run for the 15th looks back three days, to the 12th: bill 13 is on one of them, bill 11 is not.
    db.execute("UPDATE billing SET isCancelled = 1 WHERE id IN (11, 13)", vec![]).await;
    let tomorrow = now() + TimeDelta::days(1);
    let report = tick(&db, 3, tomorrow).await;
    let reasons: Vec<_> = report.enqueued.iter().map(|enqueued| (enqueued.reason.as_str(), enqueued.jobs)).collect();
    let expected = [("nightly Asia/Kolkata 2026-06-15", 1), ("lookback Asia/Kolkata 2026-06-12 to 2026-06-14", 3)];
    assert_eq!(reasons, expected);
    db.drain(tomorrow).await;
    let (_, progress) = db.run(report.enqueued[1].run).await;
    assert_eq!(
        (progress.completed, progress.rows_deleted, progress.rows()),
        (3, 1, 1),
        "correct days only cost a read"
    );
    let expected = oracle::expected(&db, &[(1, Kolkata)], tomorrow).await;
    let stored = oracle::stored(&db).await;
    let wrong: Vec<_> = stored.keys().filter(|key| !expected.contains_key(key)).map(|key| key.1).collect();
    assert_eq!(wrong, [date("2026-06-11")], "older than the lookback");
}

async fn the_lookback_is_enqueued_once_for_each_due_day(engine: Engine) {
    let db = TestDb::new(engine).await;
    for lab in 1..=3 {
        db.add_lab(lab, Some(if lab == 3 { "America/New_York" } else { "Asia/Kolkata" })).await;
    }
    for day in 0..4 {
        let now = now() + TimeDelta::days(day);
        let ticks = (0..4).map(|_| tick(&db, 2, now));
        let runs: usize = futures::future::join_all(ticks).await.iter().map(|report| report.enqueued.len()).sum();
        assert_eq!(runs, 4, "a nightly run and a lookback for each zone");
        assert_eq!(tick(&db, 2, now + TimeDelta::hours(1)).await.enqueued, []);
    }
    let last = date("2026-06-17");
    for lab in 1..=3 {
        let nightly = enqueued(&db, JobKind::Nightly, lab).await;
        assert_eq!(nightly, dates(last - TimeDelta::days(3), last).collect::<Vec<_>>(), "lab {lab}");
        let again = enqueued(&db, JobKind::Repair, lab).await;
        let expected = nightly.iter().flat_map(|due| [*due - TimeDelta::days(2), *due - TimeDelta::days(1)]);
        assert_eq!(again, expected.collect::<Vec<_>>(), "lab {lab}");
    }
    // After three nights without a scheduler: days that are caught up are not enqueued by the lookback as well.
    let report = tick(&db, 5, now() + TimeDelta::days(6)).await;
    let jobs: Vec<_> = report.enqueued.iter().map(|enqueued| enqueued.jobs).collect();
    assert_eq!(jobs, [3, 3, 6, 6], "two of the five days before are due themselves");
}

async fn a_nightly_run_completes_without_the_lookback(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    fill(&db).await;
    let report = tick(&db, 7, now()).await;
    let [Enqueued { run: nightly, .. }, Enqueued { run: lookback, .. }] = report.enqueued.as_slice() else {
        panic!("{report:?}")
    };
    let worker = lease::register(&db.db, "a test", std::time::Duration::from_secs(600)).await.unwrap();
    let jobs = claim::claim(&db.db, worker, 1).await.unwrap();
    assert_eq!((jobs[0].kind, jobs[0].day), (JobKind::Nightly, date("2026-06-14")), "due days go first");
    settle::complete_unchanged(&db.db, worker, &jobs).await.unwrap();
    tick(&db, 7, now()).await;
    let completed = "SELECT time_zone FROM daymend_runs WHERE kind = 'nightly' AND state = 'completed'";
    assert_eq!(db.text(completed).await, "Asia/Kolkata");
    assert_eq!(db.run(*nightly).await.0.state, RunState::Completed);
    assert_eq!(db.run(*lookback).await.0.state, RunState::Running);
    let log = "SELECT COUNT(*) FROM operation_event_log WHERE status = 'COMPLETED'";
    assert_eq!(db.number(log).await, 1);
    // If a day of the lookback fails permanently, the nightly run does not fail.
    db.execute("UPDATE daymend_jobs SET state = 'discarded' WHERE state = 'available'", vec![]).await;
    tick(&db, 7, now()).await;
    assert_eq!(db.run(*lookback).await.0.state, RunState::Failed);
    assert_eq!(db.run(*nightly).await.0.state, RunState::Completed);
}

async fn a_lab_that_is_new_or_broken_breaks_no_lookback(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.add_lab(2, Some("Mars/Base")).await;
    tick(&db, 2, now()).await;
    db.add_lab(3, Some("Asia/Kolkata")).await;
    let tomorrow = now() + TimeDelta::days(1);
    let report = tick(&db, 2, tomorrow).await;
    assert_eq!(report.unusable.len(), 1);
    db.drain(tomorrow).await;
    assert!(tick(&db, 2, tomorrow).await.enqueued.is_empty());
    assert_eq!(enqueued(&db, JobKind::Nightly, 3).await, [date("2026-06-15")]);
    assert_eq!(enqueued(&db, JobKind::Repair, 3).await, [date("2026-06-13"), date("2026-06-14")]);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state <> 'completed'").await, 0);
    assert_eq!(db.number("SELECT COUNT(*) FROM operation_historical_summary").await, 0, "there are no bills");
}

async fn the_option_reaches_the_scheduler(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    let said = run_ok(&db, &["--now", "2026-06-15T12:00:00Z", "scheduler", "--once", "--lookback-days", "4"]);
    assert!(said.contains("lookback Asia/Kolkata 2026-06-10 to 2026-06-13: 4 job(s) enqueued"), "{said}");
}
