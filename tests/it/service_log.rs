//! What the services log besides errors: their settings, what they enqueue, and that what failed works again.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use daymend::args;

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        process::{command, run_ok},
        wait_until,
    },
};

const LIMIT: Duration = Duration::from_secs(120);
const NOW: &str = "2026-06-15T12:00:00Z";

on_both! {
    the_log_says_when_what_failed_works_again;
    runs_that_a_service_enqueues_are_logged_except_those_of_late_changes;
    a_service_begins_with_its_settings_and_with_what_nobody_reads;
}

/// A service that is running, with its log; killed when dropped.
struct Service {
    child: Child,
    lines: Receiver<String>,
}

impl Service {
    fn start(db: &TestDb, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = command(db, &[&["--now", NOW], args].concat());
        command.envs(variables.iter().copied()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    /// Reads on up to a line with this text; returns the lines.
    fn read_to(&self, text: &str) -> Vec<String> {
        let begun = Instant::now();
        let mut read = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(LIMIT.saturating_sub(begun.elapsed())) {
            let is_found = line.contains(text);
            read.push(line);
            if is_found {
                return read;
            }
        }
        panic!("no {text:?} in {read:#?}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn the_log_says_when_what_failed_works_again(engine: Engine) {
    let db = TestDb::new(engine).await;
    for (service, table, failed, works) in [
        ("worker", "daymend_jobs", "claim failed, trying again", "claims work again"),
        ("scheduler", "daymend_runs", "tick failed, trying again", "ticks work again"),
        ("scheduler", "daymend_dirty", "marks of late changes cannot be read", "marks of late changes are read again"),
    ] {
        let running = Service::start(&db, &[service], &[]);
        let started = if service == "worker" { "worker registered" } else { "settings of the scheduler" };
        running.read_to(started);
        db.execute(&format!("ALTER TABLE {table} RENAME TO {table}_gone"), args![]).await;
        running.read_to(failed);
        db.execute(&format!("ALTER TABLE {table}_gone RENAME TO {table}"), args![]).await;
        let read = running.read_to(works);
        let line = read.last().unwrap();
        assert!(line.contains("INFO") && line.contains("failures=") && line.contains("after="), "{line}");
        assert_eq!(read.iter().filter(|line| line.contains(works)).count(), 1);
    }
}

async fn runs_that_a_service_enqueues_are_logged_except_those_of_late_changes(engine: Engine) {
    let db = TestDb::new(engine).await;
    for lab in [1, 2] {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
        db.fill_lab(lab, "2026-06-08".parse().unwrap(), 7, 2).await;
    }
    let scheduler = Service::start(&db, &["scheduler"], &[]);
    let read = scheduler.read_to("enqueued: nightly Asia/Kolkata");
    let line = read.last().unwrap();
    for part in ["INFO", "run=1", "kind=\"nightly\"", "jobs=2", "labs=2"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let mark = "INSERT INTO daymend_dirty (lab_id, bill_time, marked_at) VALUES (1, '2026-06-10 08:00:00', ?)";
    db.execute(mark, args!["2026-06-15 12:00:00"]).await;
    let runs = "SELECT COUNT(*) FROM daymend_runs WHERE kind = 'repair'";
    wait_until("the late change to be enqueued", LIMIT, async || db.number(runs).await == 1).await;
    run_ok(&db, &["--now", NOW, "rebuild", "--lab", "2"]);
    let read = scheduler.read_to("enqueued: rebuild of lab 2");
    assert!(!read.iter().any(|line| line.contains("late changes")), "{read:#?}");
}

async fn a_service_begins_with_its_settings_and_with_what_nobody_reads(engine: Engine) {
    let db = TestDb::new(engine).await;
    let variables = [
        ("DAYMEND_CONCURENCY", "a-secret-1"),
        ("DAYMEND_METRICS_PORT", "a-secret-2"),
        ("DAYMEND_BACKOF", ""),
        ("DAYMEND_CONCURRENCY", "3"),
        ("DAYMEND_THROTTLE_QUERY", "SELECT 0"),
        ("DAYMEND_AUDIT_BUDGET", "10m"),
    ];
    for (service, settings) in [
        ("worker", &["settings of the worker", "concurrency=3", "lease=\"1m\"", "throttle_query=true"][..]),
        (
            "scheduler",
            &[
                "settings of the scheduler",
                "nightly_at=04:00 UTC",
                "catch_up_days=7",
                "retention=\"90d\"",
                "audit_budget=\"10m\"",
                "snapshots=false",
            ],
        ),
        ("serve", &["settings of the worker", "concurrency=3"]),
    ] {
        let running = Service::start(&db, &[service], &variables);
        let read = running.read_to(settings[0]);
        let line = read.last().unwrap();
        assert!(settings.iter().all(|setting| line.contains(setting)), "{line}");
        let warned: Vec<_> = read.iter().filter(|line| line.contains("WARN")).collect();
        let [warned] = warned.as_slice() else { panic!("{service}: {read:#?}") };
        assert!(warned.contains("DAYMEND_CONCURENCY of the environment"), "{warned}");
        assert!(!read.iter().any(|line| line.contains("a-secret") || line.contains("SELECT 0")), "{read:#?}");
        assert_eq!(read.iter().any(|line| line.contains("settings of the scheduler")), service != "worker");
    }
}
