//! What the metrics say is true: an alert on a gauge that never moves does not fire.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use daymend::{
    args,
    db::instant_text,
    queue::{PAUSED, claim, lease},
};

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        doctor::{NOW, now},
        http::get,
        process::{Process, run_fails, run_ok},
        proxy::{Proxy, Weather},
        server, wait_until,
    },
};

/// Gauges are read every 15 seconds, or, after a reading that took long, at most two minutes later.
const LIMIT: Duration = Duration::from_secs(180);

/// The exit code of bad input, such as an address that is taken.
const USAGE: i32 = 2;

/// How much older than planted something may appear, in seconds.
const SLACK: f64 = 600.0;

on_both! {
    gauges_say_what_is_there;
    days_that_cannot_be_enqueued_are_overdue;
    counters_of_the_scheduler_count_what_it_does;
    counters_of_the_worker_count_what_it_does;
    a_job_whose_attempts_are_used_up_is_counted_as_discarded;
    counters_of_the_audit_count_what_it_finds;
    a_snapshot_that_fails_is_counted;
    each_start_of_a_process_has_its_own_moment;
}

/// Returns the samples of a process' page, by name and labels.
fn samples(address: &str) -> BTreeMap<String, f64> {
    let page = get(address, "/metrics").unwrap().body;
    let lines = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    lines.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// Waits until a process reports all of these values.
async fn wait_for(address: &str, expected: &[(&str, f64)]) -> BTreeMap<String, f64> {
    let begun = Instant::now();
    loop {
        let found = samples(address);
        let wrong = expected.iter().filter(|(name, value)| found.get(*name) != Some(value));
        let wrong: Vec<_> = wrong.map(|(name, value)| (name, value, found.get(*name))).collect();
        if wrong.is_empty() {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "(metric, expected, found): {wrong:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn seconds(moment: &str) -> f64 {
    moment.parse::<DateTime<Utc>>().unwrap().timestamp() as f64
}

/// Returns a moment some hours before the database's time, as it is stored.
async fn ago(db: &TestDb, hours: i64) -> String {
    instant_text(db.db.database_now().await.unwrap() - TimeDelta::hours(hours))
}

/// Creates four labs, one of which cannot be scheduled, with yesterday in the summary.
async fn labs(engine: Engine) -> TestDb {
    let db = TestDb::new(engine).await;
    for (lab, zone) in [(1, "Asia/Kolkata"), (2, "Asia/Kolkata"), (3, "Africa/Cairo"), (4, "Mars/Base")] {
        db.add_lab(lab, Some(zone)).await;
        db.fill_lab(lab, "2026-06-05".parse().unwrap(), 10, 2).await;
    }
    db.settle(now()).await;
    db
}

async fn gauges_say_what_is_there(engine: Engine) {
    let db = labs(engine).await;
    // A nightly run that completed at five, one of the same zone that failed at six, and discarded jobs: of a lab that
    // is still in its zone, and of one that has moved since.
    let sql = [
        "UPDATE daymend_runs SET finished_at = '2026-06-15 05:00:00' WHERE kind = 'nightly'",
        "INSERT INTO daymend_runs (rollup, kind, state, reason, requested_by, time_zone, as_of, event_name, created_at, finished_at)
         SELECT rollup, kind, 'failed', reason, requested_by, time_zone, as_of, event_name, created_at, '2026-06-15 06:00:00'
         FROM daymend_runs WHERE time_zone = 'Asia/Kolkata'",
        "UPDATE daymend_jobs SET state = 'discarded' WHERE lab_id IN (2, 3)",
        "UPDATE labs SET labTimeZone = 'Europe/Berlin' WHERE id = 3",
    ];
    for sql in sql {
        db.execute(sql, vec![]).await;
    }
    // A repair that is under way, with jobs in several states.
    let repair = ["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-09", "--to", "2026-06-13"];
    run_ok(&db, &repair);
    let run = db.number("SELECT MAX(id) FROM daymend_runs").await;
    let later = (db.db.database_now().await.unwrap() + TimeDelta::days(1)).timestamp_micros();
    for (day, change, args) in [
        ("2026-06-09", "state = 'running', sort_key = ?", args![1_i64]),
        ("2026-06-10", "state = 'completed', sort_key = ?", args![1_i64]),
        ("2026-06-11", "sort_key = ?", args![PAUSED]),
        ("2026-06-12", "sort_key = ?", args![later]),
    ] {
        let sql = format!("UPDATE daymend_jobs SET {change} WHERE day = '{day}' AND id >= {run} * 100000000");
        assert_eq!(db.execute(&sql, args).await, 1);
    }
    let hour = args![ago(&db, 1).await, run];
    db.execute("UPDATE daymend_runs SET created_at = ? WHERE id = ?", hour).await;
    run_ok(&db, &["queue", "pause", "rebuild"]);
    run_ok(&db, &["queue", "pause", "--lab", "1"]);
    // Marks that have to wait: their day is not over, but has been enqueued already.
    db.execute("UPDATE daymend_labs SET enqueued_through = '2026-06-15' WHERE lab_id = 2", vec![]).await;
    for hours in [2, 0] {
        let mark = "INSERT INTO daymend_dirty (lab_id, bill_time, marked_at) VALUES (2, '2026-06-15 10:00:00', ?)";
        db.execute(mark, args![ago(&db, hours).await]).await;
    }
    // Tonight's audit and today's snapshot are done.
    let sql = [
        "INSERT INTO daymend_audits (rollup, night, state, started_at, finished_at)
         VALUES ('historical_summary', '2026-06-15', 'completed', '2026-06-15 04:30:00', '2026-06-15 04:31:00')",
        "INSERT INTO daymend_audit_labs (rollup, lab_id, audited_at, round_at)
         VALUES ('historical_summary', 1, '2026-06-11 00:00:00', '2026-06-14 00:00:00'),
                ('historical_summary', 2, '2026-06-10 00:00:00', '2026-06-08 00:00:00'),
                ('historical_summary', 3, NULL, '2026-06-09 00:00:00'), ('historical_summary', 4, NULL, NULL)",
        "INSERT INTO daymend_snapshots (day, state, attempt, due_us, size, took_ms, finished_at)
         VALUES ('2026-06-15', 'done', 1, 0, 12345, 1500, '2026-06-15 02:05:00')",
    ];
    for sql in sql {
        db.execute(sql, vec![]).await;
    }
    let store = tempfile::tempdir().unwrap();
    let store = store.path().to_str().unwrap();
    // No retention: by the database's clock these runs are old, and would be pruned before they are counted.
    let arguments = ["--now", NOW, "scheduler", "--lab-metrics", "--snapshot-to", store, "--retention", "0s"];
    let (_scheduler, address) = Process::start_with_pages(&db, &arguments);
    let expected = [
        ("daymend_jobs{kind=\"nightly\",state=\"discarded\"}", 2.0),
        ("daymend_jobs{kind=\"repair\",state=\"available\"}", 1.0),
        ("daymend_jobs{kind=\"repair\",state=\"backing_off\"}", 1.0),
        ("daymend_jobs{kind=\"repair\",state=\"paused\"}", 1.0),
        ("daymend_jobs{kind=\"repair\",state=\"running\"}", 1.0),
        ("daymend_jobs{kind=\"repair\",state=\"discarded\"}", 0.0),
        ("daymend_running_run_jobs{kind=\"repair\"}", 5.0),
        ("daymend_running_run_jobs_ended{kind=\"repair\"}", 1.0),
        ("daymend_runs{kind=\"repair\",state=\"running\"}", 1.0),
        ("daymend_runs{kind=\"repair\",state=\"failed\"}", 0.0),
        ("daymend_runs{kind=\"nightly\",state=\"failed\"}", 1.0),
        ("daymend_oldest_waiting_job_age_seconds{kind=\"nightly\"}", 0.0),
        ("daymend_paused{kind=\"rebuild\"}", 1.0),
        ("daymend_paused{kind=\"repair\"}", 0.0),
        ("daymend_labs_paused", 1.0),
        ("daymend_workers_alive", 0.0),
        ("daymend_labs{time_zone=\"Asia/Kolkata\"}", 2.0),
        ("daymend_labs{time_zone=\"Europe/Berlin\"}", 1.0),
        ("daymend_labs_unusable", 1.0),
        ("daymend_lab_unusable{lab=\"4\"}", 1.0),
        ("daymend_nightly_overdue{time_zone=\"Asia/Kolkata\"}", 1.0),
        ("daymend_nightly_overdue{time_zone=\"Africa/Cairo\"}", 1.0),
        ("daymend_nightly_overdue{time_zone=\"Europe/Berlin\"}", 0.0),
        ("daymend_lab_nightly_overdue{lab=\"1\"}", 0.0),
        ("daymend_lab_nightly_overdue{lab=\"2\"}", 1.0),
        ("daymend_lab_jobs{lab=\"1\",state=\"backing_off\"}", 1.0),
        ("daymend_nightly_completed_timestamp_seconds{time_zone=\"Asia/Kolkata\"}", seconds("2026-06-15T05:00:00Z")),
        ("daymend_audit_last_end_timestamp_seconds", seconds("2026-06-15T04:31:00Z")),
        ("daymend_audit_oldest_timestamp_seconds", seconds("2026-06-09T00:00:00Z")),
        ("daymend_audit_labs_pending", 2.0),
        ("daymend_snapshot_completed_timestamp_seconds", seconds("2026-06-15T02:05:00Z")),
        ("daymend_snapshot_size_bytes", 12345.0),
        ("daymend_snapshot_duration_seconds", 1.5),
    ];
    let found = wait_for(&address, &expected).await;
    for (name, age) in [
        ("daymend_oldest_waiting_job_age_seconds{kind=\"repair\"}", 3600.0),
        ("daymend_dirty_oldest_mark_age_seconds", 7200.0),
    ] {
        assert!((age..age + SLACK).contains(&found[name]), "{name} {}", found[name]);
    }
    let _worker = lease::register(&db.db, "a test", LIMIT * 4).await.unwrap();
    lease::register(&db.db, "dead", Duration::ZERO).await.unwrap();
    // Gauges of what was there at the last reading, and is gone, are reset.
    db.execute("UPDATE daymend_jobs SET state = 'completed' WHERE sort_key = ?", args![later]).await;
    db.execute("UPDATE labs SET labTimeZone = 'Asia/Kolkata' WHERE id = 4", vec![]).await;
    let expected = [
        ("daymend_workers_alive", 1.0),
        ("daymend_lab_jobs{lab=\"1\",state=\"backing_off\"}", 0.0),
        ("daymend_lab_unusable{lab=\"4\"}", 0.0),
    ];
    wait_for(&address, &expected).await;
}

/// A tick that fails is not reported as one that succeeded, and its days are overdue.
async fn days_that_cannot_be_enqueued_are_overdue(engine: Engine) {
    let db = labs(engine).await;
    db.execute("UPDATE daymend_labs SET enqueued_through = '2026-06-12' WHERE lab_id = 2", vec![]).await;
    db.refuse("UPDATE", "daymend_labs", "1 = 1").await;
    let (_scheduler, address) = Process::start_with_pages(&db, &["--now", NOW, "scheduler", "--lab-metrics"]);
    let overdue =
        [("daymend_nightly_overdue{time_zone=\"Asia/Kolkata\"}", 2.0), ("daymend_lab_nightly_overdue{lab=\"2\"}", 2.0)];
    wait_for(&address, &overdue).await;
    let failed = "daymend_scheduler_ticks_total{result=\"failed\"}";
    wait_until("a tick to fail", LIMIT, async || samples(&address)[failed] > 0.0).await;
    let found = samples(&address);
    assert_eq!(found["daymend_scheduler_ticks_total{result=\"ok\"}"], 0.0);
    assert_eq!(found.get("daymend_scheduler_last_tick_timestamp_seconds"), None);
    assert!(get(&address, "/readyz").unwrap().body.contains("scheduler: has not begun yet"));
    db.execute("DROP TRIGGER refuse", vec![]).await;
    wait_for(&address, &[("daymend_jobs_enqueued_total{kind=\"nightly\"}", 2.0)]).await;
    wait_until("a tick to succeed", LIMIT, async || {
        samples(&address).contains_key("daymend_scheduler_last_tick_timestamp_seconds")
    })
    .await;
}

async fn counters_of_the_scheduler_count_what_it_does(engine: Engine) {
    let db = labs(engine).await;
    // A rebuild is requested, and its record is deleted.
    let record = db.request_rebuild(1).await;
    db.tick(now()).await;
    db.execute("DELETE FROM crelio_data_migrations WHERE id = ?", args![record]).await;
    // Runs that are closed as completed, failed and cancelled by the first tick.
    for (lab, state) in [("1", "completed"), ("2", "discarded"), ("3", "cancelled")] {
        run_ok(&db, &["--now", NOW, "repair", "--lab", lab, "--day", "2026-06-10", "--to", "2026-06-11"]);
        let sql = format!("UPDATE daymend_jobs SET state = '{state}' WHERE lab_id = {lab} AND kind = 'repair'");
        assert_eq!(db.execute(&sql, vec![]).await, 2);
    }
    for bill_time in ["2026-06-12 06:00:00", "2026-06-12 07:00:00", "2026-06-15 10:00:00"] {
        let mark = "INSERT INTO daymend_dirty (lab_id, bill_time, marked_at) VALUES (1, ?, '2026-06-15 11:00:00')";
        db.execute(mark, args![bill_time]).await;
    }
    db.execute("UPDATE daymend_labs SET enqueued_through = '2026-06-12' WHERE lab_id = 1", vec![]).await;
    let (_scheduler, address) = Process::start_with_pages(&db, &["--now", NOW, "scheduler"]);
    let expected = [
        ("daymend_runs_ended_total{kind=\"repair\",result=\"completed\"}", 1.0),
        ("daymend_runs_ended_total{kind=\"repair\",result=\"failed\"}", 1.0),
        ("daymend_runs_ended_total{kind=\"repair\",result=\"cancelled\"}", 1.0),
        ("daymend_runs_ended_total{kind=\"rebuild\",result=\"cancelled\"}", 1.0),
        ("daymend_jobs_enqueued_total{kind=\"nightly\"}", 2.0),
        ("daymend_jobs_enqueued_total{kind=\"repair\"}", 1.0),
        ("daymend_dirty_jobs_enqueued_total", 1.0),
        ("daymend_dirty_marks_total{outcome=\"repaired\"}", 2.0),
        ("daymend_dirty_marks_total{outcome=\"not_over\"}", 1.0),
    ];
    wait_for(&address, &expected).await;
}

async fn counters_of_the_worker_count_what_it_does(engine: Engine) {
    let db = TestDb::new(engine).await;
    for lab in 1..=2 {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
        db.fill_lab(lab, "2026-06-05".parse().unwrap(), 8, 5).await;
    }
    let repair = ["--now", NOW, "repair", "--day", "2026-06-08", "--to", "2026-06-10", "--attempts", "1"];
    run_ok(&db, &repair);
    db.execute("UPDATE daymend_runs SET created_at = ?", args![ago(&db, 1).await]).await;
    db.add_summary_row(1, "2026-06-09", 999, 0, "organization_bill", 3).await;
    // The worker that held two days of the first lab is dead, and one of these jobs has lapsed too often already.
    let dead = lease::register(&db.db, "dead", LIMIT).await.unwrap();
    let held = claim::claim(&db.db, dead, 2).await.unwrap();
    assert!(held.iter().all(|job| job.lab_id == 1), "{held:?}");
    db.execute("UPDATE daymend_jobs SET lapses = 100 WHERE id = ?", args![held[0].id]).await;
    db.execute("UPDATE daymend_workers SET lease_until_us = 0", vec![]).await;
    db.execute("UPDATE labs SET labTimeZone = NULL WHERE id = 2", vec![]).await;
    let worker = ["--now", NOW, "worker", "--lab-metrics", "--heartbeat", "1s"];
    let begun = Instant::now();
    let (_worker, address) = Process::start_with_pages(&db, &worker);
    let expected = [
        ("daymend_leases_rescued_total", 2.0),
        ("daymend_jobs_discarded_total{kind=\"repair\"}", 4.0),
        // Without the one that had lapsed too often.
        ("daymend_jobs_claimed_total{kind=\"repair\"}", 5.0),
        ("daymend_queue_latency_seconds_count{kind=\"repair\"}", 5.0),
        // Three days are a group that fails, and then each fails on its own.
        ("daymend_job_duration_seconds_count{kind=\"repair\"}", 2.0 + 3.0 + 3.0),
        ("daymend_attempts_total{kind=\"repair\",outcome=\"failed\"}", 3.0),
        ("daymend_attempts_total{kind=\"repair\",outcome=\"corrected\"}", 2.0),
        ("daymend_drift_found_total{kind=\"repair\"}", 1.0),
        ("daymend_leases_lost_total", 0.0),
    ];
    let found = wait_for(&address, &expected).await;
    let rows = db.number("SELECT COUNT(*) FROM operation_historical_summary").await as f64;
    let inserted =
        found.iter().filter(|(name, _)| name.starts_with("daymend_rows_corrected_total{change=\"inserted\""));
    assert_eq!(inserted.map(|(_, rows)| rows).sum::<f64>(), rows, "{found:?}");
    assert_eq!(found["daymend_rows_corrected_total{change=\"deleted\",event_type=\"organization_bill\"}"], 1.0);
    assert_eq!(found["daymend_lab_rows_corrected_total{lab=\"1\",change=\"inserted\"}"], rows);
    let waited = found["daymend_queue_latency_seconds_sum{kind=\"repair\"}"];
    assert!((4.0 * 3600.0..4.0 * 3600.0 + SLACK).contains(&waited), "four have waited for an hour each: {waited}");
    let worked = found["daymend_job_duration_seconds_sum{kind=\"repair\"}"];
    let most = begun.elapsed().as_secs_f64() * found["daymend_worker_slots"];
    assert!(worked > 0.0 && worked < most, "{worked} s of work in {most} s of all slots");
    db.execute("UPDATE daymend_workers SET lease_until_us = 0", vec![]).await;
    wait_for(&address, &[("daymend_leases_lost_total", 1.0)]).await;
    run_fails(&db, USAGE, &["--now", NOW, "worker", "--http-addr", &address]);
}

async fn a_job_whose_attempts_are_used_up_is_counted_as_discarded(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.fill_lab(1, "2026-06-10".parse().unwrap(), 1, 5).await;
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-10", "--attempts", "1"]);
    db.refuse("INSERT", "operation_historical_summary", "1 = 1").await;
    let (_worker, address) = Process::start_with_pages(&db, &["--now", NOW, "worker"]);
    let expected = [
        ("daymend_attempts_total{kind=\"repair\",outcome=\"failed\"}", 1.0),
        ("daymend_jobs_discarded_total{kind=\"repair\"}", 1.0),
    ];
    wait_for(&address, &expected).await;
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'discarded'").await, 1);
}

/// Beside a slow network, a duration is between one answer's delay and what would be milliseconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durations_and_moments_are_in_seconds() {
    const DELAY: Duration = Duration::from_millis(20);
    let db = TestDb::new(Engine::MariaDb).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.fill_lab(1, "2026-06-08".parse().unwrap(), 5, 1).await;
    let proxy = Proxy::start(server::shared_port()).await;
    proxy.set(Weather::Slow(DELAY));
    let far = db.through(&proxy);
    let begun = db.db.database_now().await.unwrap().timestamp() as f64;
    let (_scheduler, scheduler) = Process::start_with_pages(&far, &["--now", NOW, "scheduler"]);
    let (_worker, worker) = Process::start_with_pages(&far, &["--now", NOW, "worker"]);
    for (address, name) in [
        (&scheduler, "daymend_scheduler_tick_duration_seconds"),
        (&scheduler, "daymend_stats_duration_seconds"),
        (&worker, "daymend_claim_duration_seconds"),
    ] {
        let of = |found: &BTreeMap<String, f64>, part| found.get(&format!("{name}_{part}")).copied().unwrap_or(0.0);
        wait_until(name, LIMIT, async || of(&samples(address), "count") > 0.0).await;
        let found = samples(address);
        let mean = of(&found, "sum") / of(&found, "count");
        assert!((DELAY.as_secs_f64()..DELAY.as_secs_f64() * 1000.0).contains(&mean), "{name}: {mean} s");
    }
    let heartbeat = samples(&worker)["daymend_worker_heartbeat_timestamp_seconds"];
    let ended = db.db.database_now().await.unwrap().timestamp() as f64;
    assert!((begun - 1.0..=ended + 1.0).contains(&heartbeat), "{begun} {heartbeat} {ended}");
}

/// The run is cancelled while the worker is looking at the day.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settlement_that_is_refused_is_counted() {
    let db = TestDb::new(Engine::MariaDb).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.fill_lab(1, "2026-06-08".parse().unwrap(), 5, 1).await;
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-10"]);
    run_ok(&db, &["queue", "pause", "repair"]);
    let (_worker, address) = Process::start_with_pages(&db, &["--now", NOW, "worker"]);
    wait_until("the worker to be ready", LIMIT, async || get(&address, "/readyz").unwrap().status == 200).await;
    let somebody = db.lock(&["operation_historical_summary"]).await;
    run_ok(&db, &["queue", "resume", "repair"]);
    wait_until("the job to run", LIMIT, async || {
        db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'running'").await == 1
    })
    .await;
    wait_for(&address, &[("daymend_worker_jobs_held", 1.0)]).await;
    run_ok(&db, &["runs", "cancel", &db.number("SELECT id FROM daymend_runs").await.to_string()]);
    drop(somebody);
    let refused = [
        ("daymend_acks_refused_total", 1.0),
        ("daymend_attempts_total{kind=\"repair\",outcome=\"refused\"}", 1.0),
        ("daymend_attempts_total{kind=\"repair\",outcome=\"corrected\"}", 0.0),
        ("daymend_worker_jobs_held", 0.0),
    ];
    wait_for(&address, &refused).await;
    assert_eq!(db.number("SELECT COUNT(*) FROM operation_historical_summary").await, 0);
}

async fn counters_of_the_audit_count_what_it_finds(engine: Engine) {
    let db = labs(engine).await;
    for lab in 1..=3 {
        db.request_rebuild(lab).await;
    }
    db.settle(now()).await;
    for (day, a) in [("2026-06-09", 998), ("2026-06-09", 999), ("2026-06-10", 999)] {
        db.add_summary_row(1, day, a, 0, "organization_bill", 3).await;
    }
    let (_scheduler, address) = Process::start_with_pages(&db, &["--now", NOW, "scheduler"]);
    let expected = [
        ("daymend_audit_drifted_total", 2.0),
        ("daymend_audit_differences_total{cause=\"ghost\"}", 3.0),
        ("daymend_audit_differences_total{cause=\"missing\"}", 0.0),
    ];
    let found = wait_for(&address, &expected).await;
    let audited = db.number("SELECT CAST(SUM(days_audited) AS SIGNED) FROM daymend_audits").await;
    assert!(audited >= 3 * 6, "six days of three labs: {audited}");
    assert_eq!(found["daymend_audit_checked_total"], audited as f64);
}

async fn a_snapshot_that_fails_is_counted(engine: Engine) {
    let db = TestDb::new(engine).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let store = file.path().join("no directory");
    let arguments = ["--now", NOW, "scheduler", "--snapshot-to", store.to_str().unwrap()];
    let (_scheduler, address) = Process::start_with_pages(&db, &arguments);
    let failed = [
        ("daymend_snapshots_total{result=\"failed\"}", 1.0),
        ("daymend_snapshots_total{result=\"ok\"}", 0.0),
        ("daymend_snapshot_completed_timestamp_seconds", 0.0),
    ];
    wait_for(&address, &failed).await;
}

async fn each_start_of_a_process_has_its_own_moment(engine: Engine) {
    let db = TestDb::new(engine).await;
    let mut last = daymend::metrics::now_seconds();
    for command in ["scheduler", "worker", "serve", "scheduler"] {
        let (_process, address) = Process::start_with_pages(&db, &[command]);
        let started = samples(&address)["daymend_process_start_time_seconds"];
        assert!(started > last && started < last + LIMIT.as_secs_f64(), "{command}: {last} and {started}");
        assert_eq!(samples(&address)["daymend_process_start_time_seconds"], started, "it stays");
        last = started;
    }
}
