//! The standing audit: one slice a night, until every day of every lab has been audited.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use daymend::{
    args,
    audit::{
        cursors::{self, Cursor},
        slices::{self, Counts, Found},
    },
    calendar::dates,
    clock::Clock,
    db::{Db, DbClock, Mode, Query},
    rollup::{HISTORICAL_SUMMARY, Rollups},
    runs::RunState,
    scheduler::{
        self, Scheduler,
        audits::{self, AuditConfig, SliceReport},
    },
};
use tokio_util::sync::CancellationToken;

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        drifting::{KOLKATA, LABS, NEW_YORK, NOW, date, histories, now},
        http::get,
        oracle,
        process::{Process, run_fails, run_ok},
        wait_until,
        work::{SCHEDULER, jobs_with_slow_lab, rollups},
    },
};

const LONG: Duration = Duration::from_secs(600);
/// A budget so small that only a few days are audited, on any machine.
const LITTLE: Duration = Duration::from_nanos(1);

on_both! {
    every_day_of_every_lab_comes_round_the_longest_unaudited_first;
    a_night_has_one_slice_within_its_budget;
    rows_of_today_are_left_to_the_night_that_comes;
    two_schedulers_do_the_work_of_one;
    a_slice_whose_holder_died_is_gone_on_with;
    a_shutdown_hands_the_slice_back;
    labs_that_cannot_be_audited_keep_nobody_waiting;
    a_lab_that_takes_too_long_to_read_keeps_no_other_waiting;
    what_is_found_is_repaired_where_that_is_wanted;
    results_are_kept_shown_and_pruned;
    serve_finds_and_repairs_by_itself;
    an_audit_that_fails_again_and_again_is_seen;
    a_scheduler_says_what_another_found_last;
}

fn config(budget: Duration, repair: bool) -> scheduler::Config {
    scheduler::Config { audit: Some(AuditConfig { budget, repair }), ..SCHEDULER }
}

async fn audit_on(db: &Db, config: &scheduler::Config, now: DateTime<Utc>) -> Vec<SliceReport> {
    let rollups = rollups();
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let scheduler = Scheduler { db, rollup, config, clock: Clock::Fixed(now) };
    audits::audit_tonight(&scheduler, &CancellationToken::new()).await.unwrap()
}

/// Runs a night's audit, and returns its slice, of which there is at most one.
async fn night(db: &TestDb, config: &scheduler::Config, number: i64) -> Option<SliceReport> {
    let mut reports = audit_on(&db.db, config, now() + TimeDelta::days(number)).await;
    assert!(reports.len() <= 1, "{reports:?}");
    reports.pop()
}

async fn cursors(db: &TestDb) -> BTreeMap<i64, Cursor> {
    let mut tx = db.db.begin(Mode::Snapshot).await.unwrap();
    cursors::read(&mut tx, HISTORICAL_SUMMARY).await.unwrap()
}

async fn found(db: &TestDb) -> Vec<Found> {
    let mut tx = db.db.begin(Mode::Snapshot).await.unwrap();
    let mut all = Vec::new();
    for slice in slices::list(&db.db, HISTORICAL_SUMMARY, 1000).await.unwrap().iter().rev() {
        all.extend(slices::found(&mut tx, slice.id).await.unwrap());
    }
    all
}

/// Adds a wrong row to every day of these labs, and returns the days.
async fn ghosts_everywhere(db: &TestDb, labs: &[i64]) -> BTreeSet<(i64, NaiveDate)> {
    let mut planted = BTreeSet::new();
    for lab in labs {
        for day in dates(date("2026-06-01"), date("2026-06-13")) {
            db.add_summary_row(*lab, &day.to_string(), 999, 0, "organization_bill", 3).await;
            planted.insert((*lab, day));
        }
    }
    planted
}

async fn every_day_of_every_lab_comes_round_the_longest_unaudited_first(engine: Engine) {
    let db = histories(engine).await;
    let planted = ghosts_everywhere(&db, &[KOLKATA, NEW_YORK]).await;
    // A lab that does not exist, one whose view is off, and a row of the year 2030.
    db.add_lab(3, Some("Europe/Berlin")).await;
    db.execute("UPDATE labs SET historicalViewEnabled = 0 WHERE id = 3", args![]).await;
    let mut more = BTreeSet::new();
    for (lab, day) in [(99, "2026-06-05"), (3, "2026-06-05"), (KOLKATA, "2030-01-01")] {
        db.add_summary_row(lab, day, 999, 0, "organization_bill", 3).await;
        more.insert((lab, date(day)));
    }
    let all: BTreeSet<_> = planted.union(&more).copied().collect();
    let little = config(LITTLE, false);
    let mut nights = 0;
    while nights == 0 || cursors(&db).await.values().any(|cursor| cursor.audited_at.is_none()) {
        let report = night(&db, &little, nights).await.unwrap();
        // A few days, and a look past the end of the history.
        assert!(report.counts.days_audited <= 14, "{report:?}");
        nights += 1;
        assert!(nights < 40, "some lab is never audited: {:?}", cursors(&db).await);
    }
    assert!(nights >= 5, "{nights} nights");
    let seen: Vec<_> = found(&db).await.iter().map(|found| (found.lab, found.day)).collect();
    let first: BTreeSet<_> = seen.iter().take(all.len()).copied().collect();
    assert_eq!(first, all, "no day is audited twice before all have been audited once: {seen:?}");
    // The next round begins with the lab whose last round began first.
    let before = cursors(&db).await;
    let oldest = before.iter().min_by_key(|(lab, cursor)| (cursor.audited_at, **lab)).map(|(lab, _)| *lab).unwrap();
    night(&db, &little, nights).await.unwrap();
    let after = cursors(&db).await;
    let moved: Vec<_> = after.iter().filter(|(lab, cursor)| before[lab] != **cursor).map(|(lab, _)| *lab).collect();
    assert_eq!(moved, [oldest]);
}

/// Delta triggers write rows for the day that is not over, and its nightly run corrects them.
async fn rows_of_today_are_left_to_the_night_that_comes(engine: Engine) {
    let db = histories(engine).await;
    for (day, count) in [("2026-06-15", -1), ("2026-06-16", 1)] {
        db.add_summary_row(KOLKATA, day, 999, 0, "organization_bill", count).await;
    }
    assert_eq!(now().with_timezone(&chrono_tz::Asia::Kolkata).date_naive(), date("2026-06-15"));
    night(&db, &config(LONG, false), 0).await.unwrap();
    let days: Vec<_> = found(&db).await.iter().map(|found| found.day).collect();
    assert_eq!(days, [date("2026-06-16")]);
}

async fn a_night_has_one_slice_within_its_budget(engine: Engine) {
    let db = histories(engine).await;
    let little = config(LITTLE, false);
    let first = night(&db, &little, 0).await.unwrap();
    assert_eq!(first.counts, Counts { days_audited: 7, ..Counts::default() });
    assert_eq!(night(&db, &little, 0).await, None, "the night has had its slice");
    let second = night(&db, &little, 1).await.unwrap();
    assert!((1..=7).contains(&second.counts.days_audited), "{second:?}");
    // The rest of the first lab, and all of the second, up to the day before the latest nightly run's.
    let rest = night(&db, &config(LONG, false), 2).await.unwrap();
    assert!(rest.counts.labs_completed >= 1, "{rest:?}");
    assert!(cursors(&db).await.values().all(|cursor| cursor.audited_at.is_some() || cursor.next_day.is_some()));
    // With enough time, each night audits everything once.
    let again = night(&db, &config(LONG, false), 3).await.unwrap();
    assert_eq!(again.counts.labs_completed, 2);
    assert_eq!(again.counts.days_audited, 28);
    assert_eq!(again.counts.differences, 0);
}

async fn two_schedulers_do_the_work_of_one(engine: Engine) {
    let db = histories(engine).await;
    ghosts_everywhere(&db, &[KOLKATA, NEW_YORK]).await;
    let config = config(LONG, true);
    let (mut slices, mut days) = (0, 0);
    let reports = futures::future::join_all((0..4).map(|_| audit_on(&db.db, &config, now()))).await;
    for report in reports.into_iter().flatten() {
        slices += 1;
        days += report.counts.days_audited;
    }
    assert_eq!((slices, days), (1, 26));
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_audits").await, 1);
    assert_eq!(db.number("SELECT days_audited FROM daymend_audits").await, 26);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs").await, 1);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs").await, 26);
}

async fn a_slice_whose_holder_died_is_gone_on_with(engine: Engine) {
    let mut db = histories(engine).await;
    let clock = Arc::new(AtomicI64::new(now().timestamp_micros()));
    db.db = db.db.with_clock(DbClock::Driven(Arc::clone(&clock)));
    ghosts_everywhere(&db, &[KOLKATA, NEW_YORK]).await;
    // A scheduler takes the slice, records a day, and dies.
    let lease = Duration::from_secs(300);
    slices::open(&db.db, HISTORICAL_SUMMARY, date("2026-06-15")).await.unwrap();
    let dead = slices::take(&db.db, HISTORICAL_SUMMARY, lease).await.unwrap().unwrap();
    let record = async |counts: &Counts| {
        let mut tx = db.db.begin(Mode::Write).await.unwrap();
        let spent = Duration::from_secs(1);
        let is_ours = slices::step(&mut tx, &dead, lease, spent, counts, &[]).await.unwrap();
        tx.commit().await.unwrap();
        is_ours
    };
    assert!(record(&Counts { days_audited: 1, ..Counts::default() }).await);
    let config = config(LONG, true);
    assert_eq!(night(&db, &config, 0).await, None, "it is taken");
    clock.fetch_add(299_000_000, Ordering::SeqCst);
    assert_eq!(night(&db, &config, 0).await, None, "it is still taken");
    clock.fetch_add(2_000_000, Ordering::SeqCst);
    // If it was only suspended, it cannot record anything while another holds the slice.
    let other = slices::take(&db.db, HISTORICAL_SUMMARY, lease).await.unwrap().unwrap();
    assert!(!record(&Counts { days_audited: 5, ..Counts::default() }).await);
    slices::release(&db.db, &dead).await.unwrap();
    let mut tx = db.db.begin(Mode::Write).await.unwrap();
    assert!(!slices::end(&mut tx, &dead, None).await.unwrap(), "nor end it");
    tx.rollback().await.unwrap();
    assert_eq!(night(&db, &config, 0).await, None, "only its holder releases it");
    slices::release(&db.db, &other).await.unwrap();
    let report = night(&db, &config, 0).await.unwrap();
    assert_eq!(report.counts.days_audited, 26);
    assert_eq!(db.number("SELECT days_audited FROM daymend_audits").await, 27, "what was recorded is kept");
    assert!(!record(&Counts { days_audited: 5, ..Counts::default() }).await);
    assert_eq!(db.number("SELECT days_audited FROM daymend_audits").await, 27);
    // A scheduler that resumes the slice does not audit again what has been audited in it.
    db.execute("UPDATE daymend_audits SET state = 'running', run_id = NULL", args![]).await;
    assert_eq!(night(&db, &config, 0).await.unwrap().counts, Counts::default());
    // A slice of an earlier night is only ended, with a repair of what it found, however much of it is left.
    db.execute("UPDATE daymend_audits SET state = 'running', run_id = NULL", args![]).await;
    db.execute("UPDATE daymend_audit_labs SET audited_at = '2020-01-01 00:00:00'", args![]).await;
    let reports = audit_on(&db.db, &config, now() + TimeDelta::days(1)).await;
    assert_eq!(reports.len(), 2);
    assert_eq!(reports[0].counts, Counts::default());
    assert!(reports[0].run_id.is_some());
}

// SQLite has one writer: no lock can be held between the slice and its first lab.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_midnight_during_a_slice_makes_no_right_row_wrong() {
    let mut db = histories(Engine::MariaDb).await;
    // The 14th is not over in either lab.
    let clock = Arc::new(AtomicI64::new((now() - TimeDelta::hours(18)).timestamp_micros()));
    db.db = db.db.with_clock(DbClock::Driven(Arc::clone(&clock)));
    let mut held = db.admin.begin(Mode::Write).await.unwrap();
    let cursor = "INSERT INTO daymend_audit_labs (rollup, lab_id) VALUES ('historical_summary', 1)";
    held.execute(Query::new("hold", cursor), args![]).await.unwrap();
    let rollups = rollups();
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let (config, shutdown) = (config(LONG, true), CancellationToken::new());
    let scheduler = Scheduler { db: &db.db, rollup, config: &config, clock: Clock::System };
    let audit = audits::audit_tonight(&scheduler, &shutdown);
    let midnight = async {
        wait_until("the slice to be taken", Duration::from_secs(60), async || {
            db.number("SELECT COUNT(*) FROM daymend_audits WHERE taken_until_us > 0").await > 0
        })
        .await;
        // By the time the first lab is visited, the nightly run has written the rows of the 14th.
        clock.store(now().timestamp_micros(), Ordering::SeqCst);
        held.rollback().await.unwrap();
    };
    let (reports, ()) = tokio::join!(audit, midnight);
    let reports = reports.unwrap();
    assert_eq!(reports.iter().map(|report| report.counts.labs_completed).collect::<Vec<_>>(), [2]);
    assert_eq!(found(&db).await, []);
}

async fn a_shutdown_hands_the_slice_back(engine: Engine) {
    let db = histories(engine).await;
    let (rollups, config) = (rollups(), config(LONG, false));
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let working = "SELECT COUNT(*) FROM daymend_audits
                   WHERE state = 'running' AND taken_until_us > 0 AND days_audited = 0";
    let ended = "SELECT COUNT(*) FROM daymend_audits WHERE state = 'completed'";
    for number in 0..20 {
        // It is told to stop before it records anything: it has to wait for a row, or for SQLite's write lock.
        let mut held = db.admin.begin(Mode::Write).await.unwrap();
        if engine == Engine::MariaDb {
            let cursor = "INSERT INTO daymend_audit_labs (rollup, lab_id) VALUES ('historical_summary', 1)";
            held.execute(Query::new("hold", cursor), args![]).await.unwrap();
        }
        let shutdown = CancellationToken::new();
        let clock = Clock::Fixed(now() + TimeDelta::days(number));
        let scheduler = Scheduler { db: &db.db, rollup, config: &config, clock };
        let audit = audits::audit_tonight(&scheduler, &shutdown);
        let stop = async {
            while db.number(working).await == 0 && db.number(ended).await == number {
                if engine == Engine::Sqlite {
                    held.rollback().await.unwrap();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    held = db.admin.begin(Mode::Write).await.unwrap();
                }
            }
            shutdown.cancel();
            held.rollback().await.unwrap();
        };
        let (reports, ()) = tokio::join!(audit, stop);
        if reports.unwrap().is_empty() {
            assert_eq!(db.number("SELECT MAX(taken_until_us) FROM daymend_audits WHERE state = 'running'").await, 0);
            assert!(night(&db, &config, number).await.is_some(), "another scheduler resumes it at once");
            let days = db.number("SELECT days_audited FROM daymend_audits ORDER BY id DESC LIMIT 1").await;
            assert_eq!(days, if number == 0 { 26 } else { 28 }, "and audits no day twice");
            return;
        }
        // On SQLite nothing delays the audit until the test has the write lock, so it may have ended already.
        assert_eq!(engine, Engine::Sqlite);
    }
    panic!("it was never told to stop in the middle of its work");
}

async fn labs_that_cannot_be_audited_keep_nobody_waiting(engine: Engine) {
    let db = histories(engine).await;
    // By their ids these come first, every night.
    for (lab, zone, enabled) in
        [(-5_i64, Some("Mars/Base"), true), (-4, None, true), (-3, Some("UTC"), false), (-2, None, false)]
    {
        db.execute(
            "INSERT INTO labs (id, labName, labTimeZone, historicalViewEnabled) VALUES (?, '', ?, ?)",
            args![lab, zone, enabled],
        )
        .await;
    }
    if engine == Engine::Sqlite {
        db.add_lab(-1, Some("Asia/Kolkata")).await;
        let sql = "INSERT INTO billing (lab_id, billTime, isCancelled, modified_at)
                   VALUES (-1, '2026-06-03 06:00:00', 'perhaps', '')";
        db.execute(sql, args![]).await;
    }
    let little = config(LITTLE, false);
    let mut nights = 0;
    let is_audited = async |lab: i64| cursors(&db).await.get(&lab).is_some_and(|cursor| cursor.audited_at.is_some());
    while !is_audited(KOLKATA).await || !is_audited(NEW_YORK).await {
        night(&db, &little, nights).await.unwrap();
        nights += 1;
        assert!(nights < 30, "{:?}", cursors(&db).await);
    }
    let cursors = cursors(&db).await;
    assert!(cursors[&-5].problem.as_ref().unwrap().contains("Mars/Base"), "{cursors:?}");
    assert!(cursors[&-4].problem.as_ref().unwrap().contains("no time zone"), "{cursors:?}");
    assert!(!cursors.contains_key(&-3), "no cursor is stored for a lab that needs no audit");
    if engine == Engine::Sqlite {
        assert!(cursors[&-1].problem.as_ref().unwrap().contains("2026-06-03"), "{cursors:?}");
    }
    // A lab that is deleted is forgotten.
    db.execute("DELETE FROM labs WHERE id = -5", args![]).await;
    night(&db, &little, nights).await.unwrap();
    assert!(!self::cursors(&db).await.contains_key(&-5));
}

async fn a_lab_that_takes_too_long_to_read_keeps_no_other_waiting(engine: Engine) {
    let db = histories(engine).await;
    let jobs = jobs_with_slow_lab(engine, KOLKATA);
    let rollups = Rollups::load(Some(jobs.path())).unwrap();
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let (config, token) = (config(LONG, false), CancellationToken::new());
    let impatient = db.db.with_limit(Duration::from_secs(3));
    let scheduler = Scheduler { db: &impatient, rollup, config: &config, clock: Clock::Fixed(now()) };
    let reports = audits::audit_tonight(&scheduler, &token).await.unwrap();
    assert_eq!(reports.iter().map(|report| report.counts.labs_completed).collect::<Vec<_>>(), [1]);
    let after = cursors(&db).await;
    let problem = after[&KOLKATA].problem.as_ref().unwrap();
    assert!(after[&KOLKATA].audited_at.is_none() && problem.contains("no answer within 3s"), "{after:?}");
    assert!(after[&NEW_YORK].audited_at.is_some(), "{after:?}");
    assert_eq!(night(&db, &config, 1).await.unwrap().counts.labs_completed, 2);
    let after = cursors(&db).await;
    assert!(after[&KOLKATA].audited_at.is_some() && after[&KOLKATA].problem.is_none(), "{after:?}");
}

// SQLite's columns accept any text; MySQL's DATETIME does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_days_before_a_bad_one_are_no_part_of_its_problem() {
    let db = histories(Engine::Sqlite).await;
    db.execute("DELETE FROM operation_historical_summary WHERE lab_id = 1 AND ordered_at < '2026-06-06'", args![])
        .await;
    db.execute("DELETE FROM billing WHERE lab_id = 1 AND billTime < '2026-06-05 19'", args![]).await;
    let sql = "INSERT INTO billing (lab_id, billTime, isCancelled, modified_at) VALUES (1, ?, ?, '')";
    for (at, is_cancelled) in [("2026-06-05 19:00:00", "0"), ("2026-06-05 20:00:00", "perhaps")] {
        db.execute(sql, args![at, is_cancelled]).await;
    }
    night(&db, &config(LONG, false), 0).await.unwrap();
    let problem = cursors(&db).await[&KOLKATA].problem.clone().unwrap();
    assert!(problem.starts_with("2026-06-06: ") && problem.contains("expected a whole number"), "{problem}");
}

async fn what_is_found_is_repaired_where_that_is_wanted(engine: Engine) {
    let db = histories(engine).await;
    ghosts_everywhere(&db, &[KOLKATA]).await;
    db.add_summary_row(99, "2026-06-05", 999, 0, "organization_bill", 3).await;
    assert_eq!(night(&db, &config(LONG, false), 0).await.unwrap().run_id, None);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs").await, 0);
    let found_first = night(&db, &config(LONG, true), 1).await.unwrap();
    let (run, progress) = db.run(found_first.run_id.unwrap()).await;
    assert_eq!(
        (run.reason.as_str(), run.requested_by.as_str()),
        ("repair of what the audit of 2026-06-16 found", "scheduler (audit)")
    );
    assert_eq!(progress.total(), 13, "a job for the unknown lab would only be discarded");
    db.drain(now()).await;
    db.tick(now()).await;
    assert_eq!(db.run(run.id).await.0.state, RunState::Completed);
    let expected = oracle::expected(&db, &LABS, now()).await;
    db.execute("DELETE FROM operation_historical_summary WHERE lab_id = 99", args![]).await;
    db.drain(now()).await;
    let mut stored = oracle::stored(&db).await;
    stored.retain(|key, _| key.0 == KOLKATA && key.1 < date("2026-06-14"));
    let mut expected = expected;
    expected.retain(|key, _| key.0 == KOLKATA && key.1 < date("2026-06-14"));
    oracle::assert_equal(&stored, &expected);
    let after = night(&db, &config(LONG, true), 2).await.unwrap();
    assert_eq!((after.counts.differences, after.run_id), (0, None));
}

async fn results_are_kept_shown_and_pruned(engine: Engine) {
    let db = histories(engine).await;
    assert!(run_ok(&db, &["audit", "history"]).contains("no audit yet"));
    db.add_summary_row(NEW_YORK, "2026-06-05", 999, 0, "organization_bill", 3).await;
    night(&db, &config(LONG, false), 0).await.unwrap();
    let list = run_ok(&db, &["audit", "history"]);
    assert!(list.contains("2026-06-15") && list.contains("2 of 2 lab(s): every day has been audited since"), "{list}");
    let json: serde_json::Value = serde_json::from_str(&run_ok(&db, &["--json", "audit", "history"])).unwrap();
    assert_eq!(json["audits"][0]["days_drifted"], 1, "{json}");
    assert_eq!(json["coverage"]["labs_unaudited"], 0);
    let id = json["audits"][0]["id"].to_string();
    let shown = run_ok(&db, &["audit", "history", &id]);
    assert!(shown.contains("ghost") && shown.contains("2026-06-05"), "{shown}");
    assert!(run_fails(&db, 2, &["audit", "history", "999"]).contains("audit 999 does not exist"));
    let shown: serde_json::Value = serde_json::from_str(&run_ok(&db, &["--json", "audit", "history", &id])).unwrap();
    let expected = serde_json::json!([{ "lab": 2, "day": "2026-06-05", "cause": "ghost", "differences": 1 }]);
    assert_eq!(shown["found"], expected);
    assert!(run_ok(&db, &["audit", "history", "--labs"]).contains("every day audited since"));
    // The next slice prunes audits older than the retention.
    db.execute("UPDATE daymend_audits SET finished_at = '2020-01-01 00:00:00'", args![]).await;
    let retaining = scheduler::Config { retention: Some(Duration::from_secs(90 * 86400)), ..config(LONG, false) };
    night(&db, &retaining, 1).await.unwrap();
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_audits").await, 1);
    assert_eq!(db.number("SELECT COUNT(DISTINCT audit_id) FROM daymend_audit_days").await, 1);
}

async fn serve_finds_and_repairs_by_itself(engine: Engine) {
    let db = histories(engine).await;
    ghosts_everywhere(&db, &[KOLKATA, NEW_YORK]).await;
    let _serve = Process::start(&db, &["--now", NOW, "serve", "--audit-repair"]);
    // An audit that is interrupted is resumed after a minute.
    wait_until("the ghosts to be gone", Duration::from_secs(200), async || {
        db.number("SELECT COUNT(*) FROM operation_historical_summary WHERE dimension_a_id = 999").await == 0
    })
    .await;
    oracle::assert_equal(&oracle::stored(&db).await, &oracle::expected(&db, &LABS, now()).await);
}

/// The gauges of the last audit stay on the page, so that an alert sees how long ago it ended.
async fn an_audit_that_fails_again_and_again_is_seen(engine: Engine) {
    let db = histories(engine).await;
    assert!(night(&db, &config(LONG, false), 0).await.is_some());
    ghosts_everywhere(&db, &[KOLKATA]).await;
    db.execute("ALTER TABLE daymend_audit_days RENAME COLUMN lab_id TO lab", args![]).await;
    let tomorrow = (now() + TimeDelta::days(1)).to_rfc3339();
    // The code of an unknown column, which no other statement asks for.
    let failed = match engine {
        Engine::MariaDb => "code=\"1054\"} ",
        Engine::Sqlite => "code=\"1\"} ",
    };
    // The second scheduler has seen no audit end, and resumes the slice that the first one left.
    for turn in 1..=2 {
        let (scheduler, address) = Process::start_with_pages(&db, &["--now", &tomorrow, "scheduler"]);
        let page = || get(&address, "/metrics").unwrap().body;
        wait_until("the audit to fail", Duration::from_secs(180), async || {
            let page = page();
            let errors: Vec<_> =
                page.lines().filter(|line| line.starts_with("daymend_database_errors_total{")).collect();
            errors.iter().any(|line| line.contains(failed)) && page.contains("\ndaymend_stats_timestamp_seconds ")
        })
        .await;
        for gauge in ["last_end_timestamp_seconds", "oldest_timestamp_seconds", "labs_pending"] {
            let page = page();
            assert!(page.contains(&format!("\ndaymend_audit_{gauge} ")), "{gauge} is missing:\n{page}");
        }
        let unfinished = format!(
            "SELECT COUNT(*) FROM daymend_audits
             WHERE state = 'running' AND turn = {turn} AND finished_at IS NULL AND days_audited = 0"
        );
        assert_eq!(db.number(&unfinished).await, 1, "it has failed {turn} time(s)");
        drop(scheduler);
        db.execute("UPDATE daymend_audits SET taken_until_us = 0 WHERE state = 'running'", args![]).await;
    }
}

/// Counters start at zero in each process; what the last slice found does not.
async fn a_scheduler_says_what_another_found_last(engine: Engine) {
    let db = histories(engine).await;
    ghosts_everywhere(&db, &[KOLKATA]).await;
    night(&db, &config(LONG, false), 0).await.unwrap();
    let says = async |now: &str| {
        let (_scheduler, address) = Process::start_with_pages(&db, &["--now", now, "scheduler"]);
        let page = || get(&address, "/metrics").unwrap().body;
        wait_until("the gauges", Duration::from_secs(60), async || {
            page().contains("\ndaymend_stats_timestamp_seconds ")
        })
        .await;
        page()
    };
    let page = says(NOW).await;
    assert!(page.contains("\ndaymend_audit_last_differences{cause=\"ghost\"} 13\n"), "{page}");
    assert!(page.contains("\ndaymend_audit_last_differences{cause=\"missing\"} 0\n"), "{page}");
    assert!(page.contains("\ndaymend_audit_differences_total{cause=\"ghost\"} 0\n"), "{page}");
    // The last audit is kept, even past its retention.
    assert_eq!(slices::prune(&db.db, "2200-01-01T00:00:00Z".parse().unwrap()).await.unwrap(), 0);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_audit_days").await, 13);
    // The next night replaces it, once its slice has ended.
    db.execute("DELETE FROM operation_historical_summary WHERE dimension_a_id = 999", args![]).await;
    slices::open(&db.db, HISTORICAL_SUMMARY, date("2026-06-16")).await.unwrap();
    assert_eq!(slices::found_last(&db.db, HISTORICAL_SUMMARY).await.unwrap(), [("ghost".to_owned(), 13)]);
    night(&db, &config(LONG, false), 1).await.unwrap();
    assert_eq!(slices::prune(&db.db, "2200-01-01T00:00:00Z".parse().unwrap()).await.unwrap(), 1);
    let page = says("2026-06-16T12:00:00Z").await;
    assert!(page.contains("\ndaymend_audit_last_differences{cause=\"ghost\"} 0\n"), "{page}");
}
