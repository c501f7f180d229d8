//! Migration records, many of them and bad ones: none blocks another, or the rest of the scheduler.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    time::Duration,
};

use chrono::TimeDelta;
use daymend::{
    args,
    clock::Clock,
    queue::JobKind,
    rollup::{HISTORICAL_SUMMARY, Rollups},
    runs::{JobLimits, RunState},
    scheduler::{
        Report, Scheduler,
        migrations::{Rebuilds, Walk},
    },
};

use crate::{
    held::{change_of, hold, requested},
    on_both,
    scheduler::{bill_at, days, enqueued, now},
    support::{
        Engine, TestDb,
        process::{command, run, run_ok},
        wait_until,
        work::{SCHEDULER, jobs_with_slow_lab, rollups},
    },
};

on_both! {
    a_record_that_cannot_be_taken_stops_no_other;
    a_history_that_takes_too_long_to_read_stops_no_other;
    runs_are_closed_before_records_are_taken;
    many_records_are_taken_in_turns;
    a_lab_that_was_rebuilt_while_it_was_off_goes_on_from_there;
    a_rebuild_that_was_cancelled_covers_nothing;
    a_rebuild_that_ends_late_takes_no_nightly_day_back;
    a_rebuild_that_is_retried_after_a_later_one_says_nothing_of_the_zone;
}

async fn a_record_that_cannot_be_taken_stops_no_other(engine: Engine) {
    let db = TestDb::new(engine).await;
    let records = requested(&db, 1..=3).await;
    db.refuse("UPDATE", "crelio_data_migrations", "NEW.lab_id = 2").await;
    let report = db.tick(now()).await;
    assert!(report.untaken[&2].contains("not now") && report.untaken.len() == 1, "{report:?}");
    let statuses = async || {
        let mut statuses = Vec::new();
        for record in &records {
            statuses.push(db.record_status(*record).await);
        }
        statuses
    };
    assert_eq!(statuses().await, ["Running (0/1)", "Pending", "Running (0/1)"]);
    let once = run(&db, &["--now", &now().to_rfc3339(), "scheduler", "--once"]);
    let (said, log) = (String::from_utf8_lossy(&once.stdout), String::from_utf8_lossy(&once.stderr));
    assert_eq!((once.status.code(), said.contains("nothing is due")), (Some(1), false), "{said}");
    assert!(log.contains("lab 2 has migration records that cannot be taken"), "{log}");
    db.execute("DROP TRIGGER refuse", args![]).await;
    assert!(db.tick(now()).await.untaken.is_empty());
    assert_eq!(statuses().await, ["Running (0/1)"; 3]);
}

/// It times out at every try, yet the database answers: that is the lab's fault, so that the others get their turn.
async fn a_history_that_takes_too_long_to_read_stops_no_other(engine: Engine) {
    let db = TestDb::new(engine).await;
    let records = requested(&db, 1..=3).await;
    let jobs = jobs_with_slow_lab(engine, 2);
    let rollups = Rollups::load(Some(jobs.path())).unwrap();
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let (impatient, mut report) = (db.db.with_limit(Duration::from_secs(3)), Report::default());
    let rebuilds = Rebuilds { db: &impatient, rollup, limits: JobLimits::any_shrink(5), now: now() };
    let walk = rebuilds.take_pending(Walk::default(), &mut report).await.unwrap();
    assert!(!walk.is_at_start() && report.untaken[&2].contains("no answer within 3s"), "{report:?}");
    // The next tick begins with the next lab.
    let walk = rebuilds.take_pending(walk, &mut report).await.unwrap();
    assert!(walk.is_at_start(), "{report:?}");
    let statuses = [records[0], records[1], records[2]].map(|record| db.record_status(record));
    assert_eq!(futures::future::join_all(statuses).await, ["Running (0/1)", "Pending", "Running (0/1)"]);
}

/// The step after closing fails: the records cannot even be read.
async fn runs_are_closed_before_records_are_taken(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    let run = db.tick(now()).await.enqueued[0].run;
    db.request_rebuild(1).await;
    db.execute("UPDATE daymend_jobs SET state = 'completed'", args![]).await;
    db.execute("ALTER TABLE crelio_data_migrations RENAME COLUMN is_scheduled TO scheduled", args![]).await;
    let rollups = rollups();
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let mut report = Report::default();
    let scheduler = Scheduler { db: &db.db, rollup, config: &SCHEDULER, clock: Clock::Fixed(now()) };
    scheduler.tick(&mut report).await.unwrap_err();
    assert_eq!(db.run(run).await.0.state, RunState::Completed);
    assert_eq!(report.runs.closed.len(), 1, "what was done is known: {report:?}");
}

async fn many_records_are_taken_in_turns(engine: Engine) {
    let db = TestDb::new(engine).await;
    requested(&db, 1..=45).await;
    let rollups = rollups();
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let rebuilds = Rebuilds { db: &db.db, rollup, limits: JobLimits::any_shrink(5), now: now() };
    let mut report = Report::default();
    let walk = rebuilds.take_pending(Walk::default(), &mut report).await.unwrap();
    assert_eq!((walk.is_at_start(), report.enqueued.len()), (false, 20));
    // A record that is added meanwhile, before the walk's position, waits for the next round.
    db.request_rebuild(1).await;
    let walk = rebuilds.take_pending(walk, &mut report).await.unwrap();
    assert_eq!((walk.is_at_start(), report.enqueued.len()), (false, 40));
    let walk = rebuilds.take_pending(walk, &mut report).await.unwrap();
    assert_eq!((walk.is_at_start(), report.enqueued.len()), (true, 45));
    // A single tick takes all records.
    requested(&db, 101..=125).await;
    let rebuilds = db.tick(now()).await.enqueued;
    let rebuilds = rebuilds.iter().filter(|enqueued| enqueued.reason.starts_with("rebuild")).count();
    assert_eq!(rebuilds, 26);
}

async fn a_lab_that_was_rebuilt_while_it_was_off_goes_on_from_there(engine: Engine) {
    let db = TestDb::new(engine).await;
    // Lab 2 has had nightly runs until May; lab 1 has never been on.
    for lab in [1, 2] {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
        bill_at(&db, lab, lab, "2026-05-01T10:00:00Z").await;
    }
    db.execute("UPDATE labs SET historicalViewEnabled = 0 WHERE id = 1", args![]).await;
    db.tick(now() - TimeDelta::days(30)).await;
    db.execute("UPDATE labs SET historicalViewEnabled = 0", args![]).await;
    let records = [db.request_rebuild(1).await, db.request_rebuild(2).await];
    let five_days_ago = now() - TimeDelta::days(5);
    db.tick(five_days_ago).await;
    db.drain(five_days_ago).await;
    db.tick(five_days_ago).await;
    for record in records {
        assert_eq!(db.record_status(record).await, "Completed");
    }
    db.execute("UPDATE labs SET historicalViewEnabled = 1", args![]).await;
    let once = run(&db, &["--now", &now().to_rfc3339(), "scheduler", "--once"]);
    let log = String::from_utf8_lossy(&once.stderr);
    assert!(once.status.success() && !log.contains("were not enqueued"), "{log}");
    let rebuilt_and_since = days("2026-06-09", "2026-06-14");
    assert_eq!(enqueued(&db, JobKind::Nightly, 1).await, rebuilt_and_since);
    assert_eq!(
        enqueued(&db, JobKind::Nightly, 2).await,
        [days("2026-05-15", "2026-05-15"), rebuilt_and_since].concat()
    );
}

async fn a_rebuild_that_was_cancelled_covers_nothing(engine: Engine) {
    let db = TestDb::new(engine).await;
    // The days of lab 2 begin at another moment since it was switched off.
    for lab in [1, 2] {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
        bill_at(&db, lab, lab, "2026-05-01T10:00:00Z").await;
    }
    db.tick(now() - TimeDelta::days(5)).await;
    db.execute("UPDATE labs SET historicalViewEnabled = 0", args![]).await;
    db.execute("UPDATE labs SET labTimeZone = 'Asia/Karachi' WHERE id = 2", args![]).await;
    let records = [db.request_rebuild(1).await, db.request_rebuild(2).await];
    db.tick(now()).await;
    for run in db.rows("SELECT id FROM daymend_runs WHERE kind = 'rebuild'", args![]).await {
        run_ok(&db, &["runs", "cancel", &run.int(0).unwrap().to_string()]);
    }
    db.tick(now()).await;
    for record in records {
        assert_eq!(db.record_status(record).await, "Cancelled");
    }
    db.execute("UPDATE labs SET historicalViewEnabled = 1", args![]).await;
    db.tick(now()).await;
    for lab in [1, 2] {
        assert_eq!(enqueued(&db, JobKind::Nightly, lab).await, days("2026-06-09", "2026-06-14"), "lab {lab}");
    }
}

/// Two nights have passed since it was asked for.
async fn a_rebuild_that_ends_late_takes_no_nightly_day_back(engine: Engine) {
    let db = TestDb::new(engine).await;
    let record = requested(&db, 1..=1).await[0];
    db.tick(now()).await;
    let later = now() + TimeDelta::days(2);
    db.tick(later).await;
    db.drain(later).await;
    for _ in 0..2 {
        db.tick(later).await;
    }
    assert_eq!(db.record_status(record).await, "Completed");
    assert_eq!(enqueued(&db, JobKind::Nightly, 1).await, days("2026-06-14", "2026-06-16"), "each once");
}

async fn a_rebuild_that_is_retried_after_a_later_one_says_nothing_of_the_zone(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    bill_at(&db, 1, 1, "2026-06-01T10:00:00Z").await;
    db.settle(now()).await;
    let rebuild_in = async |zone: &str| {
        db.execute("UPDATE labs SET labTimeZone = ?", args![zone]).await;
        db.request_rebuild(1).await;
        db.tick(now()).await;
        db.number("SELECT MAX(id) FROM daymend_runs").await
    };
    let first = rebuild_in("Europe/Berlin").await;
    db.execute("UPDATE daymend_jobs SET state = 'discarded' WHERE kind = 'rebuild'", args![]).await;
    db.settle(now()).await;
    rebuild_in("America/New_York").await;
    db.settle(now()).await;
    let zone = "SELECT time_zone FROM daymend_labs";
    assert_eq!(db.text(zone).await, "America/New_York");
    run_ok(&db, &["queue", "retry", "--run", &first.to_string()]);
    db.settle(now()).await;
    assert_eq!(db.run(first).await.0.state, RunState::Completed);
    assert_eq!(db.text(zone).await, "America/New_York", "the history's since");
}

/// What there is to rebuild has been read already, and is not read again each time the record is tried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_that_waits_for_its_record_knows_what_to_do() {
    let db = TestDb::new(Engine::MariaDb).await;
    let record = requested(&db, 1..=1).await[0];
    let held = hold(&db, &change_of(record)).await;
    let mut waiting = command(&db, &["--now", "2026-06-15T12:00:00Z", "rebuild", "--lab", "1", "--wait"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(waiting.stderr.take().unwrap()).lines().map_while(Result::ok);
    let is_waiting = |line: &String| line.contains("locked by another transaction, waiting");
    assert!(tokio::task::block_in_place(|| log.any(|line| is_waiting(&line))), "it ended");
    db.execute("UPDATE labs SET labTimeZone = 'Nowhere' WHERE id = 1", args![]).await;
    held.commit().await.unwrap();
    let is_taken = async || db.record_status(record).await != "Pending";
    wait_until("the record to be taken", Duration::from_secs(60), is_taken).await;
    assert_eq!(db.record_status(record).await, "Running (0/1)");
    waiting.kill().unwrap();
    waiting.wait().unwrap();
}
