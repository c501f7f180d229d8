//! Scheduling is reconciliation: whether ticks come late, twice or concurrently, each closed day is enqueued once and
//! each migration record is carried out once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use daymend::{
    args,
    calendar::dates,
    clock::Clock,
    db::{DbClock, Mode},
    queue::{JobKind, admin::change, claim, lease, run_of, settle},
    rollup::HISTORICAL_SUMMARY,
    runs::{
        self, JobLimits, RunState, close,
        held::Held,
        repair::{self, Days},
    },
    scheduler::{Enqueued, Report, Scheduler, Tick, nightly},
};

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        http::get,
        lab_system::Bill,
        process::Process,
        wait_until,
        work::{SCHEDULER, rollups},
    },
};

on_both! {
    a_lab_seen_for_the_first_time_starts_at_yesterday;
    a_lab_is_caught_up_so_many_days_and_no_more;
    labs_that_are_not_enabled_are_left_alone;
    labs_of_one_zone_share_a_run;
    schedulers_side_by_side_enqueue_what_one_would;
    a_scheduler_whose_clock_is_behind_takes_nothing_back;
    a_clock_that_is_ahead_closes_no_day;
    a_record_that_cannot_be_carried_out_ends_as_failed_with_the_reason;
    a_record_that_is_set_to_pending_while_its_run_is_open_is_a_new_request;
    records_that_do_not_ask_for_a_rebuild_now_are_left_alone;
    a_record_tells_how_far_its_run_is;
    a_record_of_a_lab_without_bills_completes;
    a_record_that_is_deleted_cancels_its_run;
    a_run_goes_on_while_one_of_its_records_is_left;
    a_record_of_a_run_that_failed_says_how_many_days_did;
    the_event_log_pairs_started_with_how_the_run_ended;
    a_step_that_fails_stops_no_other;
}

pub(crate) fn date(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

pub(crate) fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// Noon of an ordinary day.
pub(crate) fn now() -> DateTime<Utc> {
    at("2026-06-15T12:00:00Z")
}

/// Runs the nightly part of a tick.
pub(crate) async fn nightly(db: &TestDb, now: DateTime<Utc>) -> Report {
    let (rollups, mut report) = (rollups(), Report::default());
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let tick = Tick { db: &db.db, rollup, config: &SCHEDULER, now };
    nightly::enqueue_closed_days(&tick, &mut report).await.unwrap();
    report
}

/// Returns the days enqueued for a lab, oldest first; a day that is enqueued twice appears twice.
pub(crate) async fn enqueued(db: &TestDb, kind: JobKind, lab: i64) -> Vec<NaiveDate> {
    let sql = "SELECT day FROM daymend_jobs WHERE kind = ? AND lab_id = ? ORDER BY day";
    db.rows(sql, args![kind.name(), lab]).await.iter().map(|row| row.date(0).unwrap()).collect()
}

pub(crate) fn days(first: &str, last: &str) -> Vec<NaiveDate> {
    dates(date(first), date(last)).collect()
}

pub(crate) async fn bill_at(db: &TestDb, id: i64, lab: i64, moment: &str) {
    let info = Some((Some(1), Some(2), None));
    db.add_bill(id, lab, &Bill { at: at(moment), info, ..Bill::default() }).await;
}

/// Returns every event, in order: name, status.
pub(crate) async fn events(db: &TestDb) -> Vec<(String, String)> {
    let rows = db.rows("SELECT event_name, status FROM operation_event_log ORDER BY id", vec![]).await;
    rows.iter().map(|row| (row.text(0).unwrap(), row.text(1).unwrap())).collect()
}

async fn a_lab_seen_for_the_first_time_starts_at_yesterday(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    bill_at(&db, 1, 1, "2020-01-01T00:00:00Z").await;
    nightly(&db, now()).await;
    assert_eq!(enqueued(&db, JobKind::Nightly, 1).await, days("2026-06-14", "2026-06-14"));
    // A lab that is enabled later starts later, while the other one continues.
    db.add_lab(2, Some("Asia/Kolkata")).await;
    nightly(&db, now() + TimeDelta::days(1)).await;
    assert_eq!(enqueued(&db, JobKind::Nightly, 1).await, days("2026-06-14", "2026-06-15"));
    assert_eq!(enqueued(&db, JobKind::Nightly, 2).await, days("2026-06-15", "2026-06-15"));
}

async fn a_lab_is_caught_up_so_many_days_and_no_more(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.add_lab(2, Some("Asia/Kolkata")).await;
    nightly(&db, now()).await;
    // After a week without a scheduler every day is caught up; after longer, the last seven.
    db.execute("UPDATE labs SET historicalViewEnabled = 0 WHERE id = 2", args![]).await;
    nightly(&db, now() + TimeDelta::days(7)).await;
    db.execute("UPDATE labs SET historicalViewEnabled = 1 WHERE id = 2", args![]).await;
    let report = nightly(&db, now() + TimeDelta::days(20)).await;
    assert_eq!(
        report.enqueued.iter().map(|enqueued| enqueued.jobs).collect::<Vec<_>>(),
        [14],
        "seven days of each lab"
    );
    let mut expected = days("2026-06-14", "2026-06-21");
    expected.extend(days("2026-06-28", "2026-07-04"));
    assert_eq!(enqueued(&db, JobKind::Nightly, 1).await, expected);
    let mut expected = days("2026-06-14", "2026-06-14");
    expected.extend(days("2026-06-28", "2026-07-04"));
    assert_eq!(enqueued(&db, JobKind::Nightly, 2).await, expected);
}

async fn labs_that_are_not_enabled_are_left_alone(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.add_lab(2, None).await;
    db.execute("UPDATE labs SET historicalViewEnabled = 0", args![]).await;
    let report = db.tick(now()).await;
    assert!(report.enqueued.is_empty() && report.unusable.is_empty(), "{report:?}");
    for table in ["daymend_jobs", "daymend_runs", "daymend_labs", "operation_event_log"] {
        assert_eq!(db.number(&format!("SELECT COUNT(*) FROM {table}")).await, 0, "{table}");
    }
}

async fn labs_of_one_zone_share_a_run(engine: Engine) {
    let db = TestDb::new(engine).await;
    for (lab, zone) in [(1, "Asia/Kolkata"), (2, "Pacific/Honolulu"), (3, "Asia/Kolkata")] {
        db.add_lab(lab, Some(zone)).await;
    }
    let report = db.tick(now()).await;
    let reasons: Vec<_> = report.enqueued.iter().map(|enqueued| (enqueued.reason.as_str(), enqueued.jobs)).collect();
    assert_eq!(
        reasons,
        [("nightly Asia/Kolkata 2026-06-14", 2), ("nightly Pacific/Honolulu 2026-06-13", 1)],
        "each zone has its own yesterday at 04:00 UTC"
    );
    let (run, progress) = db.run(report.enqueued[0].run).await;
    assert_eq!((run.kind, run.time_zone.as_deref()), (JobKind::Nightly, Some("Asia/Kolkata")));
    assert_eq!((run.first_day, run.last_day), (Some(date("2026-06-14")), Some(date("2026-06-14"))));
    assert_eq!((run.state, run.as_of, progress.available), (RunState::Running, now(), 2));
}

async fn schedulers_side_by_side_enqueue_what_one_would(engine: Engine) {
    const SCHEDULERS: usize = 4;
    const ROUNDS: i64 = 6;
    const LABS: i64 = 2 * ROUNDS;
    let db = TestDb::new(engine).await;
    let zones = ["Asia/Kolkata", "America/New_York", "Pacific/Apia"];
    // Yesterday of each, at the time of the first round.
    let firsts = ["2026-06-14", "2026-06-14", "2026-06-14"];
    for lab in 1..=LABS {
        db.add_lab(lab, Some(zones[lab as usize % 3])).await;
        bill_at(&db, lab, lab, "2026-06-01T00:00:00Z").await;
    }
    let mut records = Vec::new();
    for round in 0..ROUNDS {
        for lab in [2 * round + 1, 2 * round + 2] {
            records.push((round, lab, db.request_rebuild(lab).await));
        }
        let now = now() + TimeDelta::days(round);
        let ticks = (0..SCHEDULERS).map(|_| db.tick(now));
        let mut enqueued = Vec::new();
        for report in futures::future::join_all(ticks).await {
            enqueued.extend(report.enqueued);
        }
        assert_eq!(enqueued.len(), 3 + 2, "round {round}: a run per zone, and one per record: {enqueued:?}");
    }
    for lab in 1..=LABS {
        let days = enqueued(&db, JobKind::Nightly, lab).await;
        let first = date(firsts[lab as usize % 3]);
        assert_eq!(days, dates(first, first + TimeDelta::days(ROUNDS - 1)).collect::<Vec<_>>(), "lab {lab}");
    }
    let sql = "SELECT migration_id, run_id, lab_id FROM daymend_migrations
               JOIN daymend_runs ON daymend_runs.id = run_id ORDER BY migration_id";
    let rows = db.rows(sql, vec![]).await;
    let carried: BTreeMap<i64, (i64, i64)> =
        rows.iter().map(|row| (row.int(0).unwrap(), (row.int(1).unwrap(), row.int(2).unwrap()))).collect();
    let runs: BTreeSet<_> = carried.values().map(|(run, _)| *run).collect();
    assert_eq!(runs.len(), records.len(), "each record has a run of its own");
    for (round, lab, record) in &records {
        assert_eq!(carried[record].1, *lab, "round {round}");
    }
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs WHERE kind = 'rebuild'").await, records.len() as i64);
    // Drain the queue, and let the schedulers close the runs concurrently as well: each run is closed once.
    let end = now() + TimeDelta::days(ROUNDS - 1);
    db.drain(end).await;
    let ticks = (0..SCHEDULERS).map(|_| db.tick(end));
    let mut closed = Vec::new();
    for report in futures::future::join_all(ticks).await {
        closed.extend(report.runs.closed.iter().map(|(run, state, _)| (*run, *state)));
    }
    let runs: BTreeSet<_> = closed.iter().map(|(run, _)| *run).collect();
    let expected = (ROUNDS * 5) as usize;
    assert_eq!((runs.len(), closed.len()), (expected, expected), "each run is closed once");
    assert!(closed.iter().all(|(_, state)| *state == RunState::Completed), "{closed:?}");
    for (_, _, record) in records {
        assert_eq!(db.record_status(record).await, "Completed");
    }
    let ended = "SELECT COUNT(*) FROM operation_event_log WHERE status = 'COMPLETED'";
    assert_eq!(db.number(ended).await, ROUNDS * 5);
}

async fn a_clock_that_is_ahead_closes_no_day(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    let rollups = rollups();
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    // The machine's clock is forty days ahead of the database's.
    let theirs = Clock::System.now() - TimeDelta::days(40);
    let driven = Arc::new(AtomicI64::new(theirs.timestamp_micros()));
    let behind = db.db.with_clock(DbClock::Driven(driven));
    let scheduler = Scheduler { db: &behind, rollup, config: &SCHEDULER, clock: Clock::System };
    scheduler.tick(&mut Report::default()).await.unwrap();
    let through = db.rows("SELECT enqueued_through FROM daymend_labs", args![]).await[0].date(0).unwrap();
    assert!(through < theirs.date_naive(), "{through} was not over at {theirs}");
    // If the database's clock is the one that is ahead, the machine's counts.
    let driven = Arc::new(AtomicI64::new((theirs + TimeDelta::days(80)).timestamp_micros()));
    let ahead = db.db.with_clock(DbClock::Driven(driven));
    assert!(ahead.now(Clock::System).await.unwrap() <= Clock::System.now());
    assert_eq!(ahead.now(Clock::Fixed(now())).await.unwrap(), now());
}

async fn a_scheduler_whose_clock_is_behind_takes_nothing_back(engine: Engine) {
    const ROUNDS: i64 = 8;
    let db = TestDb::new(engine).await;
    let tick = at("2026-06-15T04:00:00Z");
    for round in 0..ROUNDS {
        // A new lab each round, because that is where the schedulers disagree the most.
        db.add_lab(round + 1, Some("Asia/Kolkata")).await;
        let ticks = (0..4).map(|place| nightly(&db, tick + TimeDelta::days(round) - TimeDelta::seconds(place % 2)));
        futures::future::join_all(ticks).await;
        nightly(&db, tick + TimeDelta::days(round)).await;
    }
    for lab in 1..=ROUNDS {
        let days = enqueued(&db, JobKind::Nightly, lab).await;
        let last = date("2026-06-14") + TimeDelta::days(ROUNDS - 1);
        assert_eq!(days, dates(days[0], last).collect::<Vec<_>>(), "lab {lab}: each day once");
    }
    // Nor does a rebuild of a lab that has not moved.
    bill_at(&db, 1, 3, "2026-06-01T00:00:00Z").await;
    db.request_rebuild(1).await;
    let through =
        async || db.rows("SELECT enqueued_through FROM daymend_labs WHERE lab_id = 1", args![]).await[0].date(0);
    let before = through().await.unwrap();
    assert_eq!(db.tick(tick - TimeDelta::days(3)).await.enqueued.len(), 1);
    assert_eq!(through().await.unwrap(), before);
}

async fn a_record_that_cannot_be_carried_out_ends_as_failed_with_the_reason(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Mars/Olympus_Mons")).await;
    db.add_lab(2, None).await;
    db.add_lab(3, Some("Asia/Kolkata")).await;
    bill_at(&db, 1, 3, "2026-06-01T00:00:00Z").await;
    let mut records = Vec::new();
    for lab in [99, 1, 2, 3] {
        records.push(db.request_rebuild(lab).await);
    }
    let report = db.tick(now()).await;
    let mut statuses = Vec::new();
    for record in &records {
        statuses.push(db.record_status(*record).await);
    }
    assert_eq!(statuses[0], "Failed (lab 99 does not exist)");
    assert!(statuses[1].starts_with("Failed (time zone \"Mars/Olympus_Mons\" is unknown"), "{}", statuses[1]);
    assert_eq!(statuses[2], "Failed (no time zone is set)");
    assert_eq!(statuses[3], "Running (0/1)");
    assert_eq!(report.unusable.keys().collect::<Vec<_>>(), [&1, &2]);
    assert_eq!(report.refused.keys().collect::<Vec<_>>(), [&1, &2, &99]);
    let scheduled = "SELECT COUNT(*) FROM crelio_data_migrations WHERE is_scheduled = 1";
    assert_eq!(db.number(scheduled).await, 0);
    db.tick(now()).await;
    assert_eq!(db.record_status(records[0]).await, statuses[0], "it is not taken again");
}

async fn records_that_do_not_ask_for_a_rebuild_now_are_left_alone(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    let insert = "INSERT INTO crelio_data_migrations
                      (lab_id, is_scheduled, job_status, initiated_by_id, migration_type, created_at, modified_at)
                  VALUES (1, ?, ?, 7, ?, '2026-01-01 00:00:00', '2026-01-01 00:00:00')";
    db.execute(insert, args![0_i64, "Pending", "HISTORICAL_SUMMARY"]).await;
    db.execute(insert, args![1_i64, "Pending", "SOMETHING_ELSE"]).await;
    db.execute(insert, args![1_i64, "Paused", "HISTORICAL_SUMMARY"]).await;
    db.execute(insert, args![0_i64, "Completed", "HISTORICAL_SUMMARY"]).await;
    let all = "SELECT id, is_scheduled, job_status, modified_at FROM crelio_data_migrations ORDER BY id";
    let read = || async {
        let rows = db.rows(all, vec![]).await;
        rows.iter()
            .map(|row| (row.int(0).unwrap(), row.int(1).unwrap(), row.text(2).unwrap(), row.instant(3).unwrap()))
            .collect::<Vec<_>>()
    };
    let before = read().await;
    db.tick(now()).await;
    assert_eq!(read().await, before);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs WHERE kind = 'rebuild'").await, 0);
}

async fn a_record_tells_how_far_its_run_is(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    for (id, day) in [(1, "2026-06-01"), (2, "2026-06-03"), (3, "2026-06-10")] {
        bill_at(&db, id, 1, &format!("{day}T10:00:00Z")).await;
    }
    let record = db.request_rebuild(1).await;
    db.tick(now()).await;
    let row = db.rows("SELECT start_date, end_date, is_scheduled FROM crelio_data_migrations", vec![]).await.remove(0);
    let span = (row.date(0).unwrap(), row.date(1).unwrap(), row.int(2).unwrap());
    assert_eq!(span, (date("2026-06-01"), date("2026-06-14"), 0), "from the first bill through yesterday");
    // A record whose run has made no progress is not written.
    db.execute("UPDATE crelio_data_migrations SET modified_at = '2026-01-01 00:00:00'", vec![]).await;
    db.tick(now()).await;
    let untouched = "SELECT COUNT(*) FROM crelio_data_migrations WHERE modified_at = '2026-01-01 00:00:00'";
    assert_eq!(db.number(untouched).await, 1);
    let worker = lease::register(&db.db, "a test", Duration::from_secs(600)).await.unwrap();
    let jobs = claim::claim(&db.db, worker, 10).await.unwrap();
    for (ended, job) in jobs.iter().filter(|job| job.kind == JobKind::Rebuild).enumerate() {
        assert_eq!(db.record_status(record).await, format!("Running ({ended}/3)"));
        settle::complete_unchanged(&db.db, worker, std::slice::from_ref(job)).await.unwrap();
        db.tick(now()).await;
    }
    assert_eq!(db.record_status(record).await, "Completed");
}

async fn a_record_of_a_lab_without_bills_completes(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    let record = db.request_rebuild(1).await;
    db.tick(now()).await;
    db.drain(now()).await;
    db.tick(now()).await;
    assert_eq!(db.record_status(record).await, "Completed");
}

/// Creates a lab with bills on three days and a rebuild that has been taken; returns its records and its run.
async fn rebuild_under_way(db: &TestDb, records: usize) -> (Vec<i64>, i64) {
    db.add_lab(1, Some("Asia/Kolkata")).await;
    for (id, day) in [(1, "2026-06-01"), (2, "2026-06-02"), (3, "2026-06-03")] {
        bill_at(db, id, 1, &format!("{day}T10:00:00Z")).await;
    }
    let mut ids = Vec::new();
    for _ in 0..records {
        ids.push(db.request_rebuild(1).await);
    }
    let report = db.tick(now()).await;
    let rebuild = report.enqueued.iter().find(|enqueued| enqueued.reason == "rebuild of lab 1");
    (ids, rebuild.expect("a rebuild").run)
}

async fn a_record_that_is_deleted_cancels_its_run(engine: Engine) {
    let db = TestDb::new(engine).await;
    let (records, run) = rebuild_under_way(&db, 2).await;
    // The nightly job is claimed first, then one of the rebuild's jobs.
    let worker = lease::register(&db.db, "a test", Duration::from_secs(600)).await.unwrap();
    let jobs = claim::claim(&db.db, worker, 2).await.unwrap();
    let held = jobs.iter().find(|job| run_of(job.id) == run).unwrap();
    db.execute("UPDATE daymend_jobs SET rows_inserted = 453 WHERE id = ?", args![held.id]).await;
    for record in records {
        db.execute("DELETE FROM crelio_data_migrations WHERE id = ?", args![record]).await;
    }
    let report = db.tick(now()).await;
    assert_eq!(
        report
            .runs
            .closed
            .iter()
            .map(|(run, state, done)| (*run, *state, done.rows(), done.cancelled))
            .collect::<Vec<_>>(),
        [(run, RunState::Cancelled, 453, 3)]
    );
    let (cancelled, progress) = db.run(run).await;
    assert_eq!((cancelled.state, progress.cancelled, progress.total()), (RunState::Cancelled, 3, 3));
    assert!(cancelled.finished_at.is_some());
    let settled = settle::complete_unchanged(&db.db, worker, std::slice::from_ref(held)).await.unwrap().found;
    assert_eq!(settled, 0, "a running job of a cancelled run cannot complete");
    let of_run: Vec<_> = events(&db).await.into_iter().filter(|(name, _)| *name == cancelled.event_name).collect();
    assert_eq!(of_run.iter().map(|(_, status)| status.as_str()).collect::<Vec<_>>(), ["STARTED", "CANCELLED"]);
    assert_eq!(db.tick(now()).await.runs.closed.len(), 0, "it is not closed again");
}

async fn a_run_goes_on_while_one_of_its_records_is_left(engine: Engine) {
    let db = TestDb::new(engine).await;
    let (records, run) = rebuild_under_way(&db, 2).await;
    db.execute("DELETE FROM crelio_data_migrations WHERE id = ?", args![records[0]]).await;
    assert_eq!(db.tick(now()).await.runs.closed.len(), 0);
    db.drain(now()).await;
    db.tick(now()).await;
    assert_eq!(db.run(run).await.0.state, RunState::Completed);
    assert_eq!(db.record_status(records[1]).await, "Completed");
}

async fn a_record_that_is_set_to_pending_while_its_run_is_open_is_a_new_request(engine: Engine) {
    let db = TestDb::new(engine).await;
    let (records, first) = rebuild_under_way(&db, 1).await;
    let again = "UPDATE crelio_data_migrations SET is_scheduled = 1, job_status = 'Pending' WHERE id = ?";
    db.execute(again, args![records[0]]).await;
    close::close_runs(&db.db, &mut close::Report::default(), &mut Held::default()).await.unwrap();
    assert_eq!(db.record_status(records[0]).await, "Pending", "the open run does not write over the request");
    // The request outlives that run, and gets a run of its own.
    change::cancel_run(&db.db, first, "a test", |_| ()).await.unwrap();
    assert_eq!(db.record_status(records[0]).await, "Pending", "nor does the run that ends");
    let report = db.tick(now()).await;
    let Enqueued { run: second, jobs, .. } = &report.enqueued[0];
    assert_eq!((*second > first, *jobs), (true, 3));
    db.drain(now()).await;
    db.tick(now()).await;
    assert_eq!(db.record_status(records[0]).await, "Completed");
    assert_eq!(db.run(*second).await.0.state, RunState::Completed);
}

async fn a_record_of_a_run_that_failed_says_how_many_days_did(engine: Engine) {
    let db = TestDb::new(engine).await;
    let (records, run) = rebuild_under_way(&db, 1).await;
    // The lab's zone becomes invalid meanwhile: no attempt can succeed.
    db.execute("UPDATE labs SET labTimeZone = 'Nowhere'", args![]).await;
    db.drain(now()).await;
    db.tick(now()).await;
    let (failed, progress) = db.run(run).await;
    assert_eq!((failed.state, progress.discarded), (RunState::Failed, 3));
    assert_eq!(db.record_status(records[0]).await, "Failed (3 of 3 days)");
    let mut tx = db.db.begin(Mode::Snapshot).await.unwrap();
    let discarded = runs::discarded(&mut tx, run, 10).await.unwrap();
    tx.commit().await.unwrap();
    let error = discarded[0].error.as_deref().unwrap();
    assert!(error.contains("lab 1") && error.contains("\"Nowhere\" is unknown"), "{error}");
    let statuses: Vec<_> = events(&db).await.into_iter().filter(|(name, _)| *name == failed.event_name).collect();
    assert_eq!(statuses.iter().map(|(_, status)| status.as_str()).collect::<Vec<_>>(), ["STARTED", "FAILED"]);
}

async fn the_event_log_pairs_started_with_how_the_run_ended(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    bill_at(&db, 1, 1, "2026-06-01T10:00:00Z").await;
    db.tick(now()).await;
    let rollups = rollups();
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let range = Days::Range(date("2026-06-01"), date("2026-06-03"));
    let plan = repair::plan(&db.db, rollup, &[1], range, now()).await.unwrap();
    let repair = repair::enqueue(&db.db, rollup, &plan, "a test", now(), JobLimits::any_shrink(3)).await.unwrap();
    db.drain(now()).await;
    let started = events(&db).await;
    assert_eq!(started.iter().map(|(_, status)| status.as_str()).collect::<Vec<_>>(), ["STARTED", "STARTED"]);
    assert_ne!(started[0].0, started[1].0, "a run's events are told apart by its name");
    assert!(started[1].0.contains(&format!("run {repair}: repair of lab 1, 2026-06-01 to 2026-06-03")), "{started:?}");
    db.tick(now()).await;
    db.tick(now()).await;
    let events = events(&db).await;
    assert!(events.iter().all(|(name, _)| name.starts_with("Nightly-Operation-Summary")), "{events:?}");
    let ended = started.iter().map(|(name, _)| (name.clone(), "COMPLETED".to_owned()));
    assert_eq!(events, started.iter().cloned().chain(ended).collect::<Vec<_>>(), "each once");
}

/// The labs cannot be read.
async fn a_step_that_fails_stops_no_other(engine: Engine) {
    const LIMIT: Duration = Duration::from_secs(60);
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    let run = db.tick(now()).await.enqueued[0].run;
    let arguments = ["--now", "2026-06-15T12:00:00Z", "scheduler", "--audit-budget", "0s"];
    let (_scheduler, address) = Process::start_with_pages(&db, &arguments);
    let ready = async || get(&address, "/readyz").is_ok_and(|page| page.status == 200);
    wait_until("the scheduler to be ready", LIMIT, ready).await;
    db.execute("ALTER TABLE labs RENAME COLUMN labTimeZone TO zone", args![]).await;
    let failed = "daymend_scheduler_ticks_total{result=\"failed\"} ";
    let has_failed = |line: &str| line.strip_prefix(failed).is_some_and(|ticks| ticks != "0");
    wait_until("a tick to fail", LIMIT, async || {
        get(&address, "/metrics").is_ok_and(|page| page.body.lines().any(has_failed))
    })
    .await;
    db.execute("UPDATE daymend_jobs SET state = 'completed'", args![]).await;
    wait_until("the run to be closed", LIMIT, async || db.run(run).await.0.state == RunState::Completed).await;
}
