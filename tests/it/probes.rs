//! The probes of an orchestrator: `/livez`, `/readyz` and `/startupz`.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        http::{Page, get},
        lab_system::Bill,
        process::{Process, run_ok},
        proxy::{Proxy, Weather},
        server, wait_until,
    },
};

on_both! {
    a_worker_whose_claims_fail_is_not_ready;
    a_drain_that_is_refused_what_it_needs_ends_and_says_so;
}

const NOW: &str = "2026-06-15T12:00:00Z";
const LIMIT: Duration = Duration::from_secs(60);

fn page(address: &str, path: &str) -> Page {
    get(address, path).unwrap_or_else(|error| panic!("http://{address}{path}: {error}"))
}

async fn wait_for(address: &str, path: &str, status: u16) {
    wait_until(&format!("{status} from {path}"), LIMIT, async || page(address, path).status == status).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_is_no_reason_to_restart_anything() {
    let db = TestDb::new(Engine::MariaDb).await;
    let proxy = Proxy::start(server::shared_port()).await;
    let far = db.through(&proxy);
    let started = [
        Process::start_with_pages(&far, &["--now", NOW, "scheduler"]),
        Process::start_with_pages(&far, &["--now", NOW, "worker", "--lease", "4s", "--heartbeat", "1s"]),
        Process::start_with_pages(&far, &["--now", NOW, "serve", "--lease", "4s", "--heartbeat", "1s"]),
    ];
    for (_, address) in &started {
        wait_for(address, "/readyz", 200).await;
        assert_eq!(page(address, "/startupz").status, 200);
    }
    // Connections that are refused, and connections that carry nothing.
    for weather in [Weather::Cut, Weather::Stalled] {
        proxy.set(weather);
        for (_, address) in &started {
            wait_until("readiness to be denied", LIMIT, async || {
                let ready = page(address, "/readyz");
                assert_eq!(page(address, "/livez").status, 200);
                ready.status == 503 && ready.body.contains("database: ")
            })
            .await;
            assert_eq!(page(address, "/startupz").status, 200, "a process that has started stays started");
        }
        proxy.set(Weather::Fair);
        for (_, address) in &started {
            wait_for(address, "/readyz", 200).await;
        }
    }
}

/// More connections than are allowed: some are closed at once, the others after a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_keep_no_probe_waiting() {
    let db = TestDb::new(Engine::Sqlite).await;
    let (_worker, address) = Process::start_with_pages(&db, &["--now", NOW, "worker"]);
    let mut stalled: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(&address).unwrap()).collect();
    for stream in &mut stalled {
        // The first ones may be closed already.
        let _ = write!(stream, "GET /livez HT");
        stream.set_read_timeout(Some(LIMIT)).unwrap();
    }
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(page(&address, "/livez").status, 200);
    }
    // Silent connections are closed after ten seconds.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    for stream in &mut stalled {
        let end = stream.read(&mut [0; 100]);
        assert!(end.as_ref().is_ok_and(|bytes| *bytes == 0) || is_reset(&end), "{end:?}");
    }
}

fn is_reset(end: &std::io::Result<usize>) -> bool {
    end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_shuts_down_is_alive_and_not_ready() {
    let db = TestDb::new(Engine::MariaDb).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    let bill =
        Bill { at: "2026-06-13T12:00:00Z".parse().unwrap(), info: Some((Some(1), None, None)), ..Bill::default() };
    db.add_bill(1, 1, &bill).await;
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-13"]);
    run_ok(&db, &["queue", "pause", "repair"]);
    let (mut worker, address) = Process::start_with_pages(&db, &["--now", NOW, "worker", "--grace", "600s"]);
    wait_for(&address, "/readyz", 200).await;
    // The job lasts until the lock on the summary is released.
    let somebody = db.lock(&["operation_historical_summary"]).await;
    run_ok(&db, &["queue", "resume", "repair"]);
    let busy = "\ndaymend_worker_slots_busy 1\n";
    wait_until("the job to begin", LIMIT, async || page(&address, "/metrics").body.contains(busy)).await;
    worker.terminate();
    wait_for(&address, "/readyz", 503).await;
    assert!(page(&address, "/readyz").body.contains("process: shutting down"));
    assert_eq!(page(&address, "/livez").status, 200, "it must not be killed while it finishes");
    assert!(page(&address, "/metrics").body.contains("\ndaymend_shutting_down 1\n"));
    drop(somebody);
    assert_eq!(worker.wait(LIMIT), Some(0));
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'completed'").await, 1, "it did finish");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_cannot_register_waits_and_is_not_ready() {
    let db = TestDb::new(Engine::MariaDb).await;
    // A lock, such as an ALTER's, keeps it from registering. Restarting it would not help.
    let somebody = db.lock(&["daymend_workers"]).await;
    let (_worker, address) = Process::start_with_pages(&db, &["--now", NOW, "worker"]);
    let ready = page(&address, "/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("worker: has not begun yet"), "{}", ready.body);
    for path in ["/startupz", "/livez"] {
        assert_eq!(page(&address, path).status, 200, "{path}");
    }
    drop(somebody);
    wait_for(&address, "/readyz", 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_starts_while_the_database_is_away_waits_for_it() {
    let db = TestDb::new(Engine::MariaDb).await;
    let proxy = Proxy::start(server::shared_port()).await;
    let far = db.through(&proxy);
    proxy.set(Weather::Cut);
    let services = ["scheduler", "worker", "serve", "worker"];
    let mut started = services.map(|service| Process::start_with_pages(&far, &["--now", NOW, service]));
    // Longer than a command keeps trying to connect.
    tokio::time::sleep(Duration::from_secs(12)).await;
    for (process, address) in &mut started {
        assert!(process.is_running());
        assert_eq!(page(address, "/startupz").status, 200);
        assert_eq!(page(address, "/readyz").status, 503);
    }
    // Their metrics, on which the alerts depend, show the errors.
    for (service, (_, address)) in services.into_iter().zip(&started) {
        let errors = "\ndaymend_database_errors_total{kind=\"unavailable\",";
        wait_until("an error to be counted", LIMIT, async || page(address, "/metrics").body.contains(errors)).await;
        let metrics = page(address, "/metrics").body;
        assert_eq!(metrics.contains("\ndaymend_leases_lost_total 0\n"), service != "scheduler", "{metrics}");
        let ticks = "\ndaymend_scheduler_ticks_total{result=\"ok\"} 0\n";
        assert_eq!(metrics.contains(ticks), service != "worker", "{metrics}");
    }
    let [others @ .., (one, _)] = &mut started;
    one.terminate();
    assert_eq!(one.wait(LIMIT), Some(0), "it stops while it waits");
    proxy.set(Weather::Fair);
    for (_, address) in others {
        wait_for(address, "/readyz", 200).await;
    }
}

async fn a_worker_whose_claims_fail_is_not_ready(engine: Engine) {
    let db = TestDb::new(engine).await;
    let (_worker, address) = Process::start_with_pages(&db, &["--now", NOW, "worker", "--heartbeat", "1s"]);
    wait_for(&address, "/readyz", 200).await;
    db.execute("ALTER TABLE daymend_pauses RENAME TO gone", vec![]).await;
    wait_for(&address, "/readyz", 503).await;
    // Its heartbeats continue.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let ready = page(&address, "/readyz");
    assert!(ready.body.contains("worker: cannot claim: ") && ready.body.contains("daymend_pauses"), "{}", ready.body);
    db.execute("ALTER TABLE gone RENAME TO daymend_pauses", vec![]).await;
    wait_for(&address, "/readyz", 200).await;
}

/// A service waits until the fault is fixed; a drain in a script would wait forever.
async fn a_drain_that_is_refused_what_it_needs_ends_and_says_so(engine: Engine) {
    let db = TestDb::new(engine).await;
    for table in ["daymend_pauses", "daymend_workers"] {
        db.execute(&format!("ALTER TABLE {table} RENAME TO gone_{table}"), vec![]).await;
        let mut worker = Process::start(&db, &["worker", "--drain"]);
        assert_eq!(worker.wait(LIMIT), Some(2), "{table}");
        db.execute(&format!("ALTER TABLE gone_{table} RENAME TO {table}"), vec![]).await;
    }
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_workers WHERE stopped_at IS NULL").await, 0);
}
