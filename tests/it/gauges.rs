//! What the metrics of a scheduler and a worker say about a database. The alerts depend on it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use daymend::args;

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        http::get,
        process::{Process, run, run_ok},
        wait_until,
    },
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LIMIT: Duration = Duration::from_secs(60);

on_both! {
    a_lab_that_fails_or_is_paused_leaves_its_zone_done;
    a_lab_that_fails_night_after_night_leaves_its_zone_done;
    a_cancelled_job_leaves_its_zone_done;
    a_tick_that_fails_is_no_sign_of_life;
    the_first_round_of_a_lab_that_is_never_audited_grows_older;
    pruning_leaves_the_last_completed_run_of_each_zone;
    a_worker_without_limits_says_that_it_need_not_hold_back;
    days_that_are_left_out_are_counted_from_the_first_page_on;
    of_two_schedulers_one_counts_what_was_done_and_both_show_what_there_is;
}

/// A page of metrics.
struct Page(String);

impl Page {
    /// Starts a scheduler, and returns its page once it has read its gauges.
    async fn of_scheduler(db: &TestDb, now: &str, more: &[&str]) -> Self {
        let (_scheduler, address) = Process::start_with_pages(db, &[&["--now", now, "scheduler"], more].concat());
        Self::with(&address, "daymend_stats_timestamp_seconds ").await
    }

    /// Waits until the page has a line that begins like this, and returns the page.
    async fn with(address: &str, line: &str) -> Self {
        let page = || get(address, "/metrics").unwrap().body;
        let is_there = || async { page().lines().any(|found| found.starts_with(line)) };
        wait_until(line, LIMIT, is_there).await;
        Self(page())
    }

    /// Returns the value of a series, or `None` if it is missing.
    fn value(&self, series: &str) -> Option<f64> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        Some(line.parse().unwrap())
    }

    fn of_zone(&self, metric: &str, zone: &str) -> Option<f64> {
        self.value(&format!("daymend_{metric}{{time_zone=\"{zone}\"}}"))
    }
}

async fn a_lab_that_fails_or_is_paused_leaves_its_zone_done(engine: Engine) {
    let db = TestDb::new(engine).await;
    let labs = [
        (1, "Asia/Kolkata"),
        (2, "Asia/Kolkata"),
        (3, "Africa/Cairo"),
        (4, "Africa/Cairo"),
        (5, "Asia/Dubai"),
        (6, "Asia/Tokyo"),
        (7, "Asia/Baku"),
        (8, "Asia/Baku"),
    ];
    for (lab, zone) in labs {
        db.add_lab(lab, Some(zone)).await;
    }
    for paused in ["4", "6", "8"] {
        run_ok(&db, &["queue", "pause", "--lab", paused]);
    }
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    // Labs that fail: one with a neighbour, one alone, and one beside a paused lab.
    db.execute("UPDATE labs SET labTimeZone = 'Mars/Base' WHERE id IN (2, 5, 7)", args![]).await;
    assert_eq!(run(&db, &["--now", NOW, "worker", "--drain"]).status.code(), Some(1));
    for (lab, zone) in labs {
        db.execute("UPDATE labs SET labTimeZone = ? WHERE id = ?", args![zone, lab]).await;
    }
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    let states = "SELECT COUNT(*) FROM daymend_runs WHERE state = ";
    assert_eq!(db.number(&format!("{states}'failed'")).await, 2);
    assert_eq!(db.number(&format!("{states}'running'")).await, 3, "those of paused labs");

    let page = Page::of_scheduler(&db, NOW, &["--lab-metrics"]).await;
    let done = |zone| page.of_zone("nightly_completed_timestamp_seconds", zone).is_some();
    assert!(done("Asia/Kolkata"), "one of two labs failed\n{}", page.0);
    assert!(done("Africa/Cairo"), "one of two labs is paused\n{}", page.0);
    assert!(done("Asia/Tokyo"), "its only lab is paused\n{}", page.0);
    assert!(!done("Asia/Dubai"), "nothing was done\n{}", page.0);
    assert!(!done("Asia/Baku"), "nothing was done, and not only because of a pause\n{}", page.0);
    let overdue = |zone| page.of_zone("nightly_overdue", zone);
    assert_eq!(["Asia/Kolkata", "Asia/Dubai", "Asia/Baku"].map(overdue), [Some(1.0); 3]);
    assert_eq!(["Africa/Cairo", "Asia/Tokyo"].map(overdue), [Some(0.0); 2], "a pause has a metric of its own");
    let of_lab = |lab: i64| page.value(&format!("daymend_lab_nightly_overdue{{lab=\"{lab}\"}}"));
    assert_eq!([2, 4].map(of_lab), [Some(1.0), Some(0.0)]);

    // A lab that is resumed and waits does not leave its zone done.
    run_ok(&db, &["queue", "resume", "--lab", "4"]);
    let page = Page::of_scheduler(&db, NOW, &[]).await;
    assert_eq!(page.of_zone("nightly_completed_timestamp_seconds", "Africa/Cairo"), None);
    assert_eq!(page.of_zone("nightly_overdue", "Africa/Cairo"), Some(1.0));
}

async fn a_lab_that_fails_night_after_night_leaves_its_zone_done(engine: Engine) {
    let db = TestDb::new(engine).await;
    for lab in 1..=2 {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
    }
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    // All of its labs were last done long ago; since then one of them has failed.
    db.execute("UPDATE daymend_runs SET finished_at = '2020-01-01 00:00:00' WHERE state = 'completed'", args![]).await;
    let next = "2026-06-16T12:00:00Z";
    run_ok(&db, &["--now", next, "scheduler", "--once"]);
    db.execute("UPDATE labs SET labTimeZone = 'Mars/Base' WHERE id = 2", args![]).await;
    assert_eq!(run(&db, &["--now", next, "worker", "--drain"]).status.code(), Some(1));
    db.execute("UPDATE labs SET labTimeZone = 'Asia/Kolkata' WHERE id = 2", args![]).await;
    run_ok(&db, &["--now", next, "scheduler", "--once"]);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs WHERE state = 'failed'").await, 1);
    let page = Page::of_scheduler(&db, next, &[]).await;
    let done = page.of_zone("nightly_completed_timestamp_seconds", "Asia/Kolkata").unwrap();
    let long_ago: DateTime<Utc> = "2020-01-02T00:00:00Z".parse().unwrap();
    assert!(done > long_ago.timestamp() as f64, "{done}");
}

async fn a_cancelled_job_leaves_its_zone_done(engine: Engine) {
    let db = TestDb::new(engine).await;
    for (lab, zone) in [(1, "Asia/Kolkata"), (2, "Asia/Kolkata"), (3, "Asia/Dubai")] {
        db.add_lab(lab, Some(zone)).await;
    }
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    // A job of one lab, and the only job of another zone.
    for lab in ["2", "3"] {
        run_ok(&db, &["queue", "cancel", "--lab", lab]);
    }
    let page = Page::of_scheduler(&db, NOW, &[]).await;
    assert_eq!(page.of_zone("nightly_completed_timestamp_seconds", "Asia/Kolkata"), None, "lab 1 is not done");
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs WHERE state = 'cancelled'").await, 2);
    let page = Page::of_scheduler(&db, NOW, &[]).await;
    let done = |zone| page.of_zone("nightly_completed_timestamp_seconds", zone).is_some();
    assert!(done("Asia/Kolkata"), "one of two jobs was cancelled\n{}", page.0);
    assert!(!done("Asia/Dubai"), "nothing was done\n{}", page.0);
}

async fn a_tick_that_fails_is_no_sign_of_life(engine: Engine) {
    let db = TestDb::new(engine).await;
    let (_scheduler, address) = Process::start_with_pages(&db, &["--now", NOW, "scheduler"]);
    let last = "daymend_scheduler_last_tick_timestamp_seconds";
    let failed = "daymend_scheduler_ticks_total{result=\"failed\"}";
    let page = || Page(get(&address, "/metrics").unwrap().body);
    wait_until("a tick", LIMIT, async || page().value(last).is_some()).await;
    db.execute("ALTER TABLE crelio_data_migrations RENAME TO gone", args![]).await;
    wait_until("a tick that fails", LIMIT, async || page().value(failed) > Some(0.0)).await;
    let before = page();
    wait_until("another one", LIMIT, async || page().value(failed) > before.value(failed)).await;
    assert_eq!(page().value(last), before.value(last));
}

/// The age of its first round shows that the audit never completes it.
async fn the_first_round_of_a_lab_that_is_never_audited_grows_older(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Mars/Base")).await;
    for (night, now) in [(1, NOW), (2, "2026-06-16T12:00:00Z")] {
        let _scheduler = Process::start(&db, &["--now", now, "scheduler"]);
        let ended = "SELECT COUNT(*) FROM daymend_audits WHERE state = 'completed'";
        wait_until("the slice to end", LIMIT, async || db.number(ended).await == night).await;
        if night == 1 {
            db.execute("UPDATE daymend_audit_labs SET round_at = '2020-01-01 00:00:00'", args![]).await;
        }
    }
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_audit_labs WHERE problem IS NOT NULL").await, 1);
    let page = Page::of_scheduler(&db, "2026-06-16T12:00:00Z", &[]).await;
    let first: DateTime<Utc> = "2020-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(page.value("daymend_audit_oldest_timestamp_seconds"), Some(first.timestamp() as f64));
}

async fn pruning_leaves_the_last_completed_run_of_each_zone(engine: Engine) {
    let db = TestDb::new(engine).await;
    for (lab, zone) in [(1, "Asia/Kolkata"), (2, "Africa/Cairo")] {
        db.add_lab(lab, Some(zone)).await;
        db.fill_lab(lab, "2026-06-08".parse().unwrap(), 7, 2).await;
    }
    for now in [NOW, "2026-06-16T12:00:00Z"] {
        run_ok(&db, &["--now", now, "scheduler", "--once"]);
        run_ok(&db, &["--now", now, "worker", "--drain"]);
    }
    run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-10"]);
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs WHERE state = 'completed'").await, 5);
    let prune = ["queue", "prune", "--older-than", "0s"];
    assert!(run_ok(&db, &[&prune[..], &["--dry-run"]].concat()).contains("3 job(s) of 3 run(s)"));
    assert!(run_ok(&db, &prune).contains("3 job(s) of 3 run(s) deleted"));
    let kept = "SELECT COUNT(*) FROM daymend_runs WHERE kind = 'nightly' AND first_day = '2026-06-15'";
    assert_eq!(db.number(kept).await, 2);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_runs").await, 2);
    let page = Page::of_scheduler(&db, "2026-06-16T12:00:00Z", &["--retention", "1ms"]).await;
    for zone in ["Asia/Kolkata", "Africa/Cairo"] {
        assert!(page.of_zone("nightly_completed_timestamp_seconds", zone).is_some(), "{zone}\n{}", page.0);
    }
}

async fn a_worker_without_limits_says_that_it_need_not_hold_back(engine: Engine) {
    let db = TestDb::new(engine).await;
    let (_worker, address) = Process::start_with_pages(&db, &["--now", NOW, "worker"]);
    let page = Page::with(&address, "daymend_worker_slots ").await;
    for reason in ["threads", "lag", "query"] {
        let series = format!("daymend_worker_throttled{{reason=\"{reason}\"}}");
        assert_eq!(page.value(&series), Some(0.0), "{series}\n{}", page.0);
    }
}

async fn days_that_are_left_out_are_counted_from_the_first_page_on(engine: Engine) {
    let db = TestDb::new(engine).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    run_ok(&db, &["--now", "2026-05-01T12:00:00Z", "scheduler", "--once"]);
    let page = Page::of_scheduler(&db, "2026-05-01T12:00:00Z", &[]).await;
    assert_eq!(page.value("daymend_nightly_skipped_total"), Some(0.0));
    let (_scheduler, address) = Process::start_with_pages(&db, &["--now", NOW, "scheduler"]);
    wait_until("the days to be enqueued", LIMIT, || async {
        db.number("SELECT COUNT(*) FROM daymend_jobs WHERE day >= '2026-06-08'").await == 7
    })
    .await;
    // The days from 1 May to 7 June.
    Page::with(&address, "daymend_nightly_skipped_total 38").await;
}

async fn of_two_schedulers_one_counts_what_was_done_and_both_show_what_there_is(engine: Engine) {
    const LABS: i64 = 12;
    let db = TestDb::new(engine).await;
    for lab in 1..=LABS {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
        db.fill_lab(lab, "2026-06-12".parse().unwrap(), 2, 2).await;
    }
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-12"]);
    db.execute("UPDATE daymend_jobs SET state = 'discarded' WHERE lab_id <= 5", args![]).await;
    run(&db, &["--now", NOW, "worker", "--drain"]);
    let start = || Process::start_with_pages(&db, &["--now", NOW, "scheduler"]);
    let schedulers = [start(), start()];
    let mut pages = Vec::new();
    for (_, address) in &schedulers {
        pages.push(Page::with(address, "daymend_stats_timestamp_seconds ").await);
    }
    let discarded = db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'discarded'").await as f64;
    assert!(discarded > 0.0);
    for page in &pages {
        assert_eq!(page.value("daymend_jobs{kind=\"repair\",state=\"discarded\"}"), Some(discarded));
    }
    for lab in 1..=LABS {
        db.request_rebuild(lab).await;
    }
    let rebuilds = "SELECT COUNT(*) FROM daymend_runs WHERE kind = 'rebuild'";
    wait_until("the records to be taken", LIMIT, async || db.number(rebuilds).await == LABS).await;
    let _worker = Process::start(&db, &["--now", NOW, "worker"]);
    let open = "SELECT COUNT(*) FROM daymend_runs WHERE state = 'running'";
    wait_until("the runs to be closed", LIMIT, async || db.number(open).await == 0).await;
    let jobs = db.number("SELECT COUNT(*) FROM daymend_jobs WHERE kind = 'rebuild'").await as f64;
    let sum = |series: &str| -> f64 {
        let of = |address: &str| Page(get(address, "/metrics").unwrap().body).value(series).unwrap_or(0.0);
        schedulers.iter().map(|(_, address)| of(address)).sum()
    };
    for (series, expected) in [
        ("daymend_jobs_enqueued_total{kind=\"rebuild\"}", jobs),
        ("daymend_runs_ended_total{kind=\"rebuild\",result=\"completed\"}", LABS as f64),
    ] {
        // What was counted is on the page a moment after the commit.
        wait_until(series, LIMIT, async || sum(series) >= expected).await;
        assert_eq!(sum(series), expected, "{series}");
    }
}
