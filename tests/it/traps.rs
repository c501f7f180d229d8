//! The traps of the old design, one test each: what went wrong, and what happens instead.
//!
//! The audit's tests cover NULL dimensions, which double rows under a unique key. Deltas that race the recompute also
//! have a storm: `storm::delta_triggers_survive_recomputes_of_the_same_days`.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use daymend::{
    args,
    clock::Clock,
    db::{Mode, Query},
    queue::JobKind,
    rollup::{HISTORICAL_SUMMARY, Rollups},
    runs::{JobLimits, repair},
    worker,
};
use tokio_util::sync::CancellationToken;

use crate::{
    on_both,
    scheduler::{at, bill_at, date, days, enqueued, nightly, now},
    support::{
        Engine, TestDb,
        lab_system::Bill,
        oracle, wait_until,
        work::{draining, jobs_with, rollups},
    },
};

on_both! {
    the_tick_at_04_00_utc_takes_each_closed_day_once;
    bills_after_23_59_59_are_counted;
    a_doubled_or_missing_midnight_makes_one_day_each_and_no_gap;
    convert_tz_is_not_used_and_a_bad_zone_is_reported;
    group_concat_is_not_used_and_a_thousand_labs_of_one_zone_all_run;
    rows_of_an_organisation_that_the_bill_has_left_are_removed;
    a_bill_moved_to_another_day_or_lab_repairs_both;
    a_lab_that_moves_west_and_is_rebuilt_misses_no_day;
    a_delta_races_the_recompute_and_loses_nothing;
    no_count_goes_below_zero_and_aborts_the_users_cancellation;
    three_tests_and_two_samples_are_counted_apart;
    two_pending_records_for_one_lab_are_one_rebuild_and_both_are_closed;
    a_bill_from_1970_makes_jobs_only_for_days_with_facts_or_stored_rows;
}

/// Repairs these days of all labs, and compares the result with the contract.
async fn repair(db: &TestDb, labs: &[(i64, chrono_tz::Tz)], first: NaiveDate, last: NaiveDate, now: DateTime<Utc>) {
    let rollups = rollups();
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let plan = repair::Plan {
        labs: labs.iter().map(|(lab, _)| (*lab, days_of(first, last))).collect(),
        ..repair::Plan::default()
    };
    repair::enqueue(&db.db, rollup, &plan, "a test", now, JobLimits::any_shrink(3)).await.unwrap();
    db.drain(now).await;
    oracle::assert_equal(&oracle::stored(db).await, &oracle::expected(db, labs, now).await);
}

fn days_of(first: NaiveDate, last: NaiveDate) -> Vec<NaiveDate> {
    daymend::calendar::dates(first, last).collect()
}

/// Returns the count of an event type on a day of lab 1, or 0 without a row.
async fn count(db: &TestDb, day: &str, event: &str) -> i64 {
    let sql = "SELECT CAST(COALESCE(SUM(event_count), 0) AS SIGNED) FROM operation_historical_summary
               WHERE lab_id = 1 AND ordered_at = ? AND event_type = ?";
    db.rows(sql, args![day, event]).await[0].int(0).unwrap()
}

async fn the_tick_at_04_00_utc_takes_each_closed_day_once(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("America/New_York")).await;
    // 04:00 UTC is 23:00 in New York until 8 March, and midnight from the 9th on.
    for day in days("2026-03-01", "2026-03-15") {
        let tick = day.and_hms_opt(4, 0, 0).unwrap().and_utc();
        let report = nightly(&db, tick).await;
        // At the tick of the 9th both the 7th and the 8th are over; the old event lost the 7th.
        let expected = if day == date("2026-03-09") { 2 } else { 1 };
        assert_eq!(report.enqueued.iter().map(|enqueued| enqueued.jobs).collect::<Vec<_>>(), [expected], "{tick}");
        // Ticks in between find nothing to do.
        for later in [TimeDelta::seconds(1), TimeDelta::hours(1), TimeDelta::hours(23)] {
            assert_eq!(nightly(&db, tick + later).await.enqueued, [], "{tick} + {later}");
        }
    }
    assert_eq!(enqueued(&db, JobKind::Nightly, 1).await, days("2026-02-27", "2026-03-14"));
}

async fn bills_after_23_59_59_are_counted(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    // The last second of 10 June in Kolkata, of which BETWEEN … AND '23:59:59' includes only the start.
    for (id, moment) in ["18:29:59", "18:29:59.000001", "18:29:59.5", "18:29:59.999999", "18:30:00"].iter().enumerate()
    {
        bill_at(&db, id as i64 + 1, 1, &format!("2026-06-10T{moment}Z")).await;
    }
    repair(&db, &[(1, chrono_tz::Asia::Kolkata)], date("2026-06-10"), date("2026-06-11"), now()).await;
    assert_eq!(count(&db, "2026-06-10", "organization_bill").await, 4);
    assert_eq!(count(&db, "2026-06-11", "organization_bill").await, 1);
}

async fn a_doubled_or_missing_midnight_makes_one_day_each_and_no_gap(engine: Engine) {
    let db = TestDb::new(engine).await;
    // Havana has two midnights on 2026-11-01; Cairo has none on 2026-04-24.
    let labs = [(1, chrono_tz::America::Havana), (2, chrono_tz::Africa::Cairo)];
    for ((lab, zone), around) in labs.into_iter().zip(["2026-11-01T05:00:00Z", "2026-04-23T22:00:00Z"]) {
        db.add_lab(lab, Some(zone.name())).await;
        for quarter in -12 * 4..12 * 4 {
            let at = at(around) + TimeDelta::minutes(15 * quarter);
            let id = lab * 1000 + quarter;
            db.add_bill(id, lab, &Bill { at, info: Some((Some(1), None, None)), ..Bill::default() }).await;
        }
    }
    let now = at("2026-11-15T12:00:00Z");
    repair(&db, &labs[..1], date("2026-10-31"), date("2026-11-02"), now).await;
    repair(&db, &labs, date("2026-04-23"), date("2026-04-25"), now).await;
    let all = "SELECT CAST(SUM(event_count) AS SIGNED) FROM operation_historical_summary WHERE event_type = 'organization_bill'";
    assert_eq!(db.number(all).await, 2 * 24 * 4, "each bill on one day");
}

async fn convert_tz_is_not_used_and_a_bad_zone_is_reported(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Mars/Olympus_Mons")).await;
    db.add_lab(2, None).await;
    db.add_lab(3, Some("  ")).await;
    db.add_lab(4, Some("Asia/Calcutta")).await;
    let report = db.tick(now()).await;
    let unknown = "time zone \"Mars/Olympus_Mons\" is unknown (expected an IANA name such as Asia/Kolkata)";
    let unusable = [(1, unknown), (2, "no time zone is set"), (3, "no time zone is set")];
    assert_eq!(report.unusable, unusable.map(|(lab, why)| (lab, why.to_owned())).into());
    assert_eq!(enqueued(&db, JobKind::Nightly, 4).await, days("2026-06-14", "2026-06-14"));
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs").await, 1);
    // Once its zone is corrected, a lab is scheduled like a new one.
    db.execute("UPDATE labs SET labTimeZone = 'Asia/Kolkata' WHERE id = 1", args![]).await;
    let report = db.tick(now() + TimeDelta::days(1)).await;
    assert_eq!(report.unusable.keys().collect::<Vec<_>>(), [&2, &3]);
    assert_eq!(enqueued(&db, JobKind::Nightly, 1).await, days("2026-06-15", "2026-06-15"));
}

async fn group_concat_is_not_used_and_a_thousand_labs_of_one_zone_all_run(engine: Engine) {
    const LABS: i64 = 1000;
    let db = TestDb::new(engine).await;
    // Their ids take 7 kB; group_concat cuts the list off after 1 kB, in the middle of an id.
    let rows = |from: i64| {
        (from..from + 100).map(|lab| format!("({}, 'L', 'Asia/Kolkata', 1)", 100_000 + lab)).collect::<Vec<_>>()
    };
    for from in (0..LABS).step_by(100) {
        let sql = format!(
            "INSERT INTO labs (id, labName, labTimeZone, historicalViewEnabled) VALUES {}",
            rows(from).join(", ")
        );
        db.execute(&sql, vec![]).await;
    }
    for lab in [100_000, 100_500, 100_000 + LABS - 1] {
        bill_at(&db, lab, lab, "2026-06-14T10:00:00Z").await;
    }
    let report = nightly(&db, now()).await;
    let jobs: Vec<_> = report.enqueued.iter().map(|enqueued| enqueued.jobs).collect();
    assert_eq!(jobs, [LABS as usize], "one run");
    db.drain(now()).await;
    let done = "SELECT COUNT(DISTINCT lab_id) FROM daymend_jobs WHERE state = 'completed' AND day = '2026-06-14'";
    assert_eq!(db.number(done).await, LABS);
    let with_rows = "SELECT COUNT(DISTINCT lab_id) FROM operation_historical_summary";
    assert_eq!(db.number(with_rows).await, 3);
}

async fn rows_of_an_organisation_that_the_bill_has_left_are_removed(engine: Engine) {
    let db = TestDb::new(engine).await;
    let kolkata = [(1, chrono_tz::Asia::Kolkata)];
    db.add_lab(1, Some("Asia/Kolkata")).await;
    bill_at(&db, 1, 1, "2026-06-10T10:00:00Z").await;
    let day = date("2026-06-10");
    repair(&db, &kolkata, day, day, now()).await;
    db.execute("UPDATE billingInfo SET organization_id = 77", vec![]).await;
    repair(&db, &kolkata, day, day, now()).await;
    let organizations = db
        .rows("SELECT dimension_a_id FROM operation_historical_summary WHERE event_type = 'organization_bill'", vec![])
        .await;
    assert_eq!(organizations.iter().map(|row| row.int(0).unwrap()).collect::<Vec<_>>(), [77]);
}

async fn a_bill_moved_to_another_day_or_lab_repairs_both(engine: Engine) {
    let db = TestDb::new(engine).await;
    let labs = [1, 2].map(|lab| (lab, chrono_tz::Asia::Kolkata));
    for (lab, _) in labs {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
    }
    bill_at(&db, 1, 1, "2026-06-10T10:00:00Z").await;
    repair(&db, &labs, date("2026-06-10"), date("2026-06-10"), now()).await;
    db.install_dirty_triggers().await;
    for change in ["billTime = '2026-06-08 10:00:00'", "lab_id = 2", "lab_id = 1, billTime = '2026-06-09 10:00:00'"] {
        db.execute(&format!("UPDATE billing SET {change}"), vec![]).await;
        assert_eq!(db.repair_marked(now()).await.len(), 2, "{change}");
        db.drain(now()).await;
        oracle::assert_equal(&oracle::stored(&db).await, &oracle::expected(&db, &labs, now()).await);
    }
}

async fn a_lab_that_moves_west_and_is_rebuilt_misses_no_day(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    for hour in 0..72 {
        let moment = at("2026-06-09T00:00:00Z") + TimeDelta::hours(hour);
        bill_at(&db, hour + 1, 1, &moment.to_rfc3339()).await;
    }
    db.tick(at("2026-06-11T04:00:00Z")).await;
    assert_eq!(enqueued(&db, JobKind::Nightly, 1).await, days("2026-06-10", "2026-06-10"));
    db.drain(at("2026-06-11T04:00:00Z")).await;
    // The morning of the 11th in Kolkata is the evening of the 10th in Los Angeles, where that day is not over.
    db.execute("UPDATE labs SET labTimeZone = 'America/Los_Angeles' WHERE id = 1", args![]).await;
    let record = db.request_rebuild(1).await;
    for now in ["2026-06-11T06:00:00Z", "2026-06-12T04:30:00Z"].map(at) {
        db.tick(now).await;
        db.drain(now).await;
        let labs = [(1, chrono_tz::America::Los_Angeles)];
        oracle::assert_equal(&oracle::stored(&db).await, &oracle::expected(&db, &labs, now).await);
    }
    db.tick(at("2026-06-12T04:30:00Z")).await;
    assert_eq!(db.record_status(record).await, "Completed");
}

/// One round of what the storm does many times, at a chosen moment: the user's transaction commits when the recompute
/// has begun its look, and has written nothing.
async fn a_delta_races_the_recompute_and_loses_nothing(engine: Engine) {
    let mut numbers = 1_000_000_u64;
    // A faster machine has to count further to be slow enough.
    for _ in 0..7 {
        if has_raced(engine, numbers).await {
            return;
        }
        numbers *= 3;
    }
    panic!("the user was never in time");
}

/// Runs one race, and returns whether the user was in time. On SQLite the look lasts as long as counting to `numbers`.
async fn has_raced(engine: Engine, numbers: u64) -> bool {
    let db = TestDb::new(engine).await;
    let kolkata = [(1, chrono_tz::Asia::Kolkata)];
    db.add_lab(1, Some("Asia/Kolkata")).await;
    for id in 1..=3 {
        bill_at(&db, id, 1, "2026-06-10T10:00:00Z").await;
    }
    let day = date("2026-06-10");
    repair(&db, &kolkata, day, day, now()).await;
    db.install_delta_triggers().await;
    db.execute("UPDATE operation_historical_summary SET event_count = event_count + 5", vec![]).await;
    let gate = format!("'gate of {}'", db.name());
    let jobs = jobs_with(&match engine {
        Engine::MariaDb => format!("GET_LOCK({gate}, 600) + RELEASE_LOCK({gate}) = 2"),
        Engine::Sqlite => format!(
            "(WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {numbers})
              SELECT COUNT(*) FROM c) > 0"
        ),
    });
    let rollups = Arc::new(Rollups::load(Some(jobs.path())).unwrap());
    let plan = repair::Plan { labs: vec![(1, vec![day])], ..repair::Plan::default() };
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    repair::enqueue(&db.db, rollup, &plan, "a test", now(), JobLimits::any_shrink(3)).await.unwrap();
    let user = async {
        let cancel = || db.execute("UPDATE billing SET isCancelled = 1 WHERE id = 2", args![]);
        let limit = Duration::from_secs(60);
        match engine {
            Engine::MariaDb => {
                let looks = "SELECT COUNT(*) FROM information_schema.processlist
                             WHERE db = DATABASE() AND state = 'User lock'";
                wait_until("the look", limit, async || db.number(looks).await == 1).await;
                cancel().await;
                true
            }
            Engine::Sqlite => {
                let running = "SELECT COUNT(*) FROM daymend_jobs WHERE state = 'running'";
                wait_until("the job to run", limit, async || db.number(running).await == 1).await;
                // Wait until it looks.
                tokio::time::sleep(Duration::from_millis(200)).await;
                cancel().await;
                db.number(running).await == 1 && count(&db, "2026-06-10", "organization_bill").await == 7
            }
        }
    };
    let mut closed = None;
    if engine == Engine::MariaDb {
        let mut session = db.admin.begin(Mode::Snapshot).await.unwrap();
        let close = Query::new("gate", format!("SELECT GET_LOCK({gate}, 0)"));
        assert_eq!(session.fetch_one(close, args![], |row| row.int(0)).await.unwrap(), 1);
        closed = Some(session);
    }
    let (token, pulse, config) = (CancellationToken::new(), Arc::default(), draining());
    let work = worker::run(&db.db, &db.db, rollups.clone(), &config, Clock::Fixed(now()), &pulse, &token);
    let (worked, has_raced) = tokio::join!(work, async {
        let has_raced = user.await;
        if let Some(session) = closed {
            session.discard();
        }
        has_raced
    });
    worked.expect("nothing is refused");
    assert_eq!(count(&db, "2026-06-10", "organization_bill").await, 2);
    db.execute("UPDATE billing SET isCancelled = 1 WHERE id = 3", vec![]).await;
    assert_eq!(count(&db, "2026-06-10", "organization_bill").await, 1, "and the next delta applies to it");
    has_raced
}

async fn no_count_goes_below_zero_and_aborts_the_users_cancellation(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    bill_at(&db, 1, 1, "2026-06-10T10:00:00Z").await;
    if engine == Engine::MariaDb {
        db.execute("ALTER TABLE operation_historical_summary MODIFY event_count INT UNSIGNED NOT NULL", vec![]).await;
    } else {
        let strict = "CREATE TRIGGER not_negative BEFORE UPDATE ON operation_historical_summary FOR EACH ROW
                      WHEN NEW.event_count < 0 BEGIN SELECT RAISE(ABORT, 'out of range'); END";
        db.execute(strict, vec![]).await;
    }
    // The summary has lost a count: the old trigger's `count - 1` is out of range, so the bill cannot be cancelled.
    db.add_summary_row(1, "2026-06-10", 1, 0, "organization_bill", 0).await;
    let cancel = "UPDATE billing SET isCancelled = 1";
    let old = match engine {
        Engine::MariaDb => {
            "CREATE TRIGGER old AFTER UPDATE ON billing FOR EACH ROW UPDATE operation_historical_summary SET event_count = event_count - 1"
        }
        Engine::Sqlite => {
            "CREATE TRIGGER old AFTER UPDATE ON billing FOR EACH ROW BEGIN UPDATE operation_historical_summary SET event_count = event_count - 1; END"
        }
    };
    db.execute(old, vec![]).await;
    let mut user = db.admin.begin(Mode::Write).await.unwrap();
    assert!(user.execute(Query::new("cancel", cancel), args![]).await.is_err(), "the old trigger fails");
    user.rollback().await.unwrap();
    db.execute("DROP TRIGGER old", vec![]).await;
    db.install_dirty_triggers().await;
    db.execute(cancel, vec![]).await;
    assert_eq!(db.repair_marked(now()).await.len(), 1);
    db.drain(now()).await;
    assert_eq!(db.number("SELECT COUNT(*) FROM operation_historical_summary").await, 0);
}

async fn three_tests_and_two_samples_are_counted_apart(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.add_test(5, Some(50)).await;
    let bill = Bill {
        at: at("2026-06-10T10:00:00Z"),
        info: Some((Some(1), Some(2), Some(3))),
        tests: vec![(5, false); 3],
        samples: vec![(7, true), (7, false)],
        ..Bill::default()
    };
    db.add_bill(1, 1, &bill).await;
    repair(&db, &[(1, chrono_tz::Asia::Kolkata)], date("2026-06-10"), date("2026-06-10"), now()).await;
    for (event, expected) in [
        ("organization_bill", 1),
        ("organization_test", 3),
        ("department_test", 3),
        ("branch_sample", 2),
        ("referral_sample_accessed", 1),
        ("referral_sample_not_accessed", 1),
    ] {
        assert_eq!(count(&db, "2026-06-10", event).await, expected, "{event}");
    }
}

async fn two_pending_records_for_one_lab_are_one_rebuild_and_both_are_closed(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    bill_at(&db, 1, 1, "2026-06-01T00:00:00Z").await;
    let records = [db.request_rebuild(1).await, db.request_rebuild(1).await];
    db.tick(now()).await;
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs WHERE kind = 'rebuild'").await, 1);
    for record in records {
        assert_eq!(db.record_status(record).await, "Running (0/1)");
    }
    db.drain(now()).await;
    db.tick(now()).await;
    for record in records {
        assert_eq!(db.record_status(record).await, "Completed");
    }
    // A record that is set to Pending again is a new request.
    let again = "UPDATE crelio_data_migrations SET is_scheduled = 1, job_status = 'Pending' WHERE id = ?";
    db.execute(again, args![records[0]]).await;
    db.tick(now()).await;
    assert_eq!(db.record_status(records[0]).await, "Running (0/1)");
    assert_eq!(db.record_status(records[1]).await, "Completed");
    db.drain(now()).await;
    db.tick(now()).await;
    assert_eq!(db.record_status(records[0]).await, "Completed");
}

async fn a_bill_from_1970_makes_jobs_only_for_days_with_facts_or_stored_rows(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    // The first moment of 1970, in UTC; then the last microsecond of a day and the first of the next.
    bill_at(&db, 1, 1, "1970-01-01T00:00:00Z").await;
    bill_at(&db, 2, 1, "2026-06-02T18:29:59.999999Z").await;
    bill_at(&db, 3, 1, "2026-06-02T18:30:00Z").await;
    bill_at(&db, 4, 1, "2026-06-14T18:30:00Z").await;
    // A ghost on a day without bills also needs a job, wherever it is.
    db.add_summary_row(1, "1999-12-31", 1, 0, "branch_bill", 5).await;
    db.add_summary_row(1, "2026-07-01", 1, 0, "branch_bill", 5).await;
    let record = db.request_rebuild(1).await;
    db.tick(now()).await;
    let expected = ["1970-01-01", "1999-12-31", "2026-06-02", "2026-06-03", "2026-07-01"].map(date);
    assert_eq!(enqueued(&db, JobKind::Rebuild, 1).await, expected, "and none for today's bill");
    db.drain(now()).await;
    db.tick(now()).await;
    assert_eq!(db.record_status(record).await, "Completed");
    let stored = db.rows("SELECT DISTINCT ordered_at FROM operation_historical_summary ORDER BY 1", vec![]).await;
    let stored: Vec<_> = stored.iter().map(|row| row.date(0).unwrap()).collect();
    assert_eq!(stored, ["1970-01-01", "2026-06-02", "2026-06-03"].map(date));
}
