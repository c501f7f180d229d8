//! What an orchestrator asks of a process: `/livez`, `/readyz` and `/startupz`.

use std::time::Duration;

use sqlx::{Connection as _, Executor as _, MySqlConnection};

use crate::support::{
    Engine, TestDb,
    http::{Page, get},
    lab_system::Bill,
    process::{Process, run_ok},
    proxy::{Proxy, Weather},
    server, wait_until,
    work::jobs_with,
};

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
    // Refused connections, and ones that carry nothing.
    for weather in [Weather::Cut, Weather::Stalled] {
        proxy.set(weather);
        for (_, address) in &started {
            wait_until("readiness to be denied", LIMIT, async || {
                let ready = page(address, "/readyz");
                assert_eq!(page(address, "/livez").status, 200);
                ready.status == 503 && ready.body.contains("database: ")
            })
            .await;
            assert_eq!(page(address, "/startupz").status, 200, "what has started stays so");
        }
        proxy.set(Weather::Fair);
        for (_, address) in &started {
            wait_for(address, "/readyz", 200).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_shuts_down_is_alive_and_not_ready() {
    let db = TestDb::new(Engine::MariaDb).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    let bill =
        Bill { at: "2026-06-13T12:00:00Z".parse().unwrap(), info: Some((Some(1), None, None)), ..Bill::default() };
    db.add_bill(1, 1, &bill).await;
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-13"]);
    let jobs = jobs_with("SLEEP(2) = 0");
    let (mut worker, address) =
        Process::start_with_pages(&db, &["--now", NOW, "--jobs-dir", jobs.path().to_str().unwrap(), "worker"]);
    let busy = "\ndaymend_worker_slots_busy 1\n";
    wait_until("the job to begin", LIMIT, async || page(&address, "/metrics").body.contains(busy)).await;
    worker.terminate();
    wait_for(&address, "/readyz", 503).await;
    assert!(page(&address, "/readyz").body.contains("process: shutting down"));
    assert_eq!(page(&address, "/livez").status, 200, "it is not to be killed while it finishes");
    assert!(page(&address, "/metrics").body.contains("\ndaymend_shutting_down 1\n"));
    assert_eq!(worker.wait(LIMIT), Some(0));
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'completed'").await, 1, "it did finish");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_has_started_once_it_is_registered() {
    let db = TestDb::new(Engine::MariaDb).await;
    // Somebody's ALTER, say, keeps it from registering.
    let mut somebody = MySqlConnection::connect(&server::url(server::shared_port(), db.name())).await.unwrap();
    somebody.execute("LOCK TABLES daymend_workers WRITE").await.unwrap();
    let (_worker, address) = Process::start_with_pages(&db, &["--now", NOW, "worker"]);
    for path in ["/startupz", "/readyz"] {
        let page = page(&address, path);
        assert_eq!(page.status, 503, "{path}: {}", page.body);
    }
    assert!(page(&address, "/readyz").body.contains("worker: has not begun yet"));
    assert_eq!(page(&address, "/livez").status, 200);
    somebody.execute("UNLOCK TABLES").await.unwrap();
    wait_for(&address, "/startupz", 200).await;
    wait_for(&address, "/readyz", 200).await;
}
