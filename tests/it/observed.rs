//! The metrics end to end: real processes at work, a real Prometheus that scrapes them and has loaded the rules, and
//! every query of the dashboard. An empty panel, a failing rule, a firing alert, and a metric of the catalogue that no
//! process has are faults.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::Stdio,
    time::{Duration, Instant},
};

use daymend::{
    args,
    db::{Mode, Query, Tx},
    metrics::{Metric, Source, catalogue::ALL},
};
use serde_json::Value;

use crate::support::{
    Engine, TestDb,
    dashboard::{self, filled_in, panels, queries},
    http::get,
    process::{Process, run_ok},
    prometheus::{Prometheus, promtool},
    proxy::{Proxy, Weather},
    rules, server, wait_until,
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LIMIT: Duration = Duration::from_secs(180);

/// The alert that what was planted sets off, a lab of an unknown zone; and the one that it may set off, if the audit
/// comes to the damaged days before the repairs do.
const FIRES: &str = "DaymendLabUnusable";
const MAY_FIRE: &str = "DaymendAuditDrift";

/// No process has it until the database is unreachable.
const DATABASE_ERRORS: &str = "daymend_database_errors_total";

/// The numbers from 1 to 10,000.
const NUMBERS: &str = "WITH digits AS (SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL
                       SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL
                       SELECT 9)
     SELECT 1 + a.d + 10 * b.d + 100 * c.d + 1000 * d.d AS seq
     FROM digits AS a, digits AS b, digits AS c, digits AS d";

/// A bill a day for one lab, with its parts: enough for the database to find a day by its index, without touching the
/// bills of other labs, which may be locked.
const YEARS: &[&str] = &[
    "INSERT INTO billing (id, lab_id, billTime, isCancelled, modified_at)
     SELECT seq, 1, '2026-06-14 12:00:00' - INTERVAL seq DAY, 0, '2026-06-14' FROM numbers",
    "INSERT INTO billingInfo (billing_id, organization_id, branch_id) SELECT seq, 1, seq % 3 FROM numbers",
    "INSERT INTO labReportRelation (billing_id, test_id, isCancelled)
     SELECT seq, 1, 0 FROM numbers UNION ALL SELECT seq, 2, 0 FROM numbers",
    "INSERT INTO collectedSample (billing_id, sampleType_id, isAccessed)
     SELECT seq, 1, 0 FROM numbers UNION ALL SELECT seq, 2, 1 FROM numbers",
    "ANALYZE TABLE billing, billingInfo, labReportRelation, collectedSample",
];

/// Creates two labs of two zones that are done up to yesterday and then damaged, a third whose rows a user is about to
/// lock, and one that cannot be scheduled. Repairs are waiting.
async fn busy_installation() -> TestDb {
    let db = TestDb::new(Engine::MariaDb).await;
    db.add_test(1, Some(1)).await;
    for (lab, zone) in [(1, "Asia/Kolkata"), (2, "Africa/Cairo"), (3, "Asia/Kolkata"), (4, "Mars/Base")] {
        db.add_lab(lab, Some(zone)).await;
        db.fill_lab(lab, "2026-06-08".parse().unwrap(), 7, 5).await;
    }
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    let repair = ["--now", NOW, "repair", "--lab", "1", "--lab", "2", "--lab", "3", "--day", "2026-06-10", "--to"];
    run_ok(&db, &[&repair[..], &["2026-06-12"]].concat());
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    db.execute("UPDATE operation_historical_summary SET event_count = event_count + 1", args![]).await;
    run_ok(&db, &[&repair[..], &["2026-06-13"]].concat());
    db.execute(&format!("CREATE TABLE numbers (seq INT PRIMARY KEY) {NUMBERS}"), args![]).await;
    for sql in YEARS {
        db.execute(sql, args![]).await;
    }
    db
}

/// Begins a transaction that locks a lab's wrong rows, as a delta trigger would, so that workers conflict with it.
async fn lock_rows(db: &TestDb) -> Tx {
    let mut user = db.admin.begin(Mode::Write).await.unwrap();
    let sql =
        Query::new("user", "UPDATE operation_historical_summary SET event_count = event_count + 1 WHERE lab_id = 3");
    user.execute(sql, args![]).await.unwrap();
    user
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_panel_and_rule_finds_data_and_no_alert_fires_beside_a_rebuild() {
    let db = busy_installation().await;
    let user = lock_rows(&db).await;
    // Slow enough for the rebuild to outlast the test.
    let proxy = Proxy::start(server::shared_port()).await;
    proxy.set(Weather::Slow(Duration::from_millis(20)));
    let far = db.through(&proxy);
    let snapshots = tempfile::tempdir().unwrap();
    let snapshots = snapshots.path().to_str().unwrap();
    let started = [
        Process::start_with_pages(&db, &["--now", NOW, "scheduler", "--lab-metrics", "--snapshot-to", snapshots]),
        Process::start_with_pages(&far, &["--now", NOW, "worker", "--lab-metrics", "--throttle-query", "SELECT 0"]),
        Process::start_with_pages(&db, &["--now", NOW, "scheduler"]),
        Process::start_with_pages(&far, &["--now", NOW, "worker"]),
    ];
    let addresses: Vec<&str> = started.iter().map(|(_, address)| address.as_str()).collect();
    let prometheus = Prometheus::start(&addresses);
    // Prometheus sees the rebuild from its first job on: what happened before the first scrape is in no rate.
    run_ok(&db, &["--now", NOW, "rebuild", "--lab", "1"]);

    wait_for_panels(&prometheus).await;
    wait_for_values(&prometheus).await;
    wait_until("the damage to be seen", LIMIT, async || {
        let drift = prometheus.query("sum(last_over_time(daymend_drift_found_total[1h]))");
        drift.first().is_some_and(|drift| *drift > 0.0)
    })
    .await;
    let pages = || -> Vec<String> { addresses.iter().map(|address| get(address, "/metrics").unwrap().body).collect() };
    wait_until("a conflict with the user", LIMIT, async || {
        pages().iter().any(|page| page.contains("daymend_database_retries_total{"))
    })
    .await;
    user.rollback().await.unwrap();
    wait_until("the rules to be evaluated again and again", LIMIT, async || {
        let times = prometheus.query("count_over_time(daymend:workers_alive:max[1h])");
        times.first().is_some_and(|times| *times >= 5.0)
    })
    .await;
    assert_rules_are_well(&prometheus);
    // A missed scrape may let others fire for a moment.
    wait_for_none("these alerts fire, or should", || wrong_alerts(&prometheus)).await;
    let open = "SELECT COUNT(*) FROM daymend_runs WHERE kind = 'rebuild' AND state = 'running'";
    assert_eq!(db.number(open).await, 1, "the rebuild is still open");

    wait_for_none("these metrics are missing", || {
        let missing = missing_metrics(&pages()).into_iter();
        missing.filter(|metric| *metric != DATABASE_ERRORS).map(str::to_owned).collect()
    })
    .await;
    // The last metric, which needs an unreachable database.
    proxy.set(Weather::Cut);
    wait_for_none("no statement failed", || missing_metrics(&pages()).into_iter().map(str::to_owned).collect()).await;
    for page in pages() {
        assert_promtool_takes(&page);
        assert_is_in_the_catalogue(&page);
    }
    assert!(pages()[2..].iter().all(|page| !page.contains("lab=\"")), "a value per lab, without --lab-metrics");
}

/// Waits until `wrong` returns nothing, at most [`LIMIT`].
async fn wait_for_none(what: &str, mut wrong: impl FnMut() -> Vec<String>) {
    let begun = Instant::now();
    loop {
        let wrong = wrong();
        if wrong.is_empty() {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "{what}:\n{}", wrong.join("\n"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until every query of the dashboard has found something.
async fn wait_for_panels(prometheus: &Prometheus) {
    let dashboard = dashboard::read();
    let mut empty: Vec<_> = panels(&dashboard).into_iter().flat_map(queries).collect();
    assert!(empty.len() > 50, "{} queries", empty.len());
    wait_for_none("these find nothing", || {
        empty.retain(|query| {
            let values = prometheus.query(&filled_in(&query.expr, "10s", "1h"));
            values.iter().all(|value| value.is_nan())
        });
        empty.iter().map(|query| format!("{}: {}", query.name, query.expr)).collect()
    })
    .await;
}

/// Waits for every label value that a query names: one that no process has makes the query silently wrong.
async fn wait_for_values(prometheus: &Prometheus) {
    let vocabulary = rules::vocabulary();
    let dashboard = dashboard::read();
    let of_panels = panels(&dashboard).into_iter().flat_map(queries).map(|query| filled_in(&query.expr, "10s", "1h"));
    let of_rules = rules::read().into_iter().map(|rule| rule.expr);
    let checked = of_panels.chain(of_rules).map(|query| vocabulary.check(&query).unwrap());
    let values: BTreeSet<_> = checked.flat_map(|checked| checked.values).collect();
    assert!(values.len() > 10, "{values:?}");
    let series = values.iter().map(|(metric, label, value)| format!("{metric}{{{label}=\"{value}\"}}"));
    let mut never: Vec<String> = series.collect();
    wait_for_none("nobody has these", || {
        never.retain(|series| prometheus.query(&format!("count(present_over_time({series}[1h]))")).is_empty());
        never.clone()
    })
    .await;
}

fn assert_rules_are_well(prometheus: &Prometheus) {
    let rules = prometheus.rules();
    assert_eq!(rules.len(), rules::read().len());
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{}: {}", rule["name"], rule["lastError"]);
    }
}

/// Returns the alerts that fire although they should not, or the other way around, with what they say.
fn wrong_alerts(prometheus: &Prometheus) -> Vec<String> {
    let is_wrong = |rule: &Value| (rule["state"] == "firing") != (rule["name"] == FIRES);
    let alerts = prometheus.rules().into_iter().filter(|rule| rule["type"] == "alerting" && rule["name"] != MAY_FIRE);
    alerts.filter(is_wrong).map(|rule| format!("{}: {}", rule["name"], rule["alerts"])).collect()
}

/// Asserts that `promtool` accepts a page without a remark.
fn assert_promtool_takes(page: &str) {
    let mut command = promtool();
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}\n{page}", String::from_utf8_lossy(&said));
}

/// Returns the metrics that are missing on the page of a process that should have them: of a scheduler and a worker
/// with `--lab-metrics`.
fn missing_metrics(pages: &[String]) -> Vec<&'static str> {
    let [scheduler, worker, ..] = pages else { panic!("a scheduler and a worker") };
    let is_there = |metric: &&Metric| match metric.source {
        Source::Scheduler => has(scheduler, metric),
        Source::Worker => has(worker, metric),
        // Any of the workers may have met the user's locks.
        Source::All => pages.iter().any(|page| has(page, metric)),
    };
    ALL.iter().filter(|metric| !is_there(metric)).map(|metric| metric.name).collect()
}

fn assert_is_in_the_catalogue(page: &str) {
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let known = ALL.iter().any(|metric| line == format!("{} {}", metric.name, metric.kind.name()));
        assert!(known, "not in the catalogue: {line}");
    }
}

/// Returns whether a page has a sample of a metric, with the labels of the catalogue.
fn has(page: &str, metric: &Metric) -> bool {
    page.lines().filter_map(|line| line.strip_prefix(metric.name)).any(|rest| {
        let Some(rest) = ["_bucket", "_sum", "_count", ""]
            .iter()
            .find_map(|part| rest.strip_prefix(part).filter(|rest| rest.starts_with(['{', ' '])))
        else {
            return false;
        };
        let labels = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(labels, _)| labels);
        let names = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)).filter(|name| *name != "le");
        names.collect::<BTreeSet<_>>() == metric.labels.iter().copied().collect()
    })
}
