//! A switchover to another server: the old primary stays up, read-only, and connections to it stay open.

use std::time::Duration;

use daymend::{
    args,
    db::{ConnectOptions, Db, ErrorKind, Mode, Query, connect},
};

use crate::{
    outages::{completed, with_labs},
    support::{
        TestDb, oracle,
        process::{Process, run_ok},
        proxy::Proxy,
        server::{self, Server},
        wait_until,
    },
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LAB: (i64, chrono_tz::Tz) = (1, chrono_tz::Asia::Kolkata);
const LIMIT: Duration = Duration::from_secs(60);

/// The old primary, the new one, and what leads to one of them.
struct Servers {
    old: Server,
    new: Server,
    proxy: Proxy,
}

impl Servers {
    async fn start(name: &str) -> Self {
        let start = |which| Server::start(&format!("{name}-{which}")).unwrap();
        let (old, new) = (start("old"), start("new"));
        let proxy = Proxy::start(old.port).await;
        Self { old, new, proxy }
    }

    async fn switch(&self) {
        server::run(self.old.port, "SET GLOBAL read_only = ON").await;
        self.proxy.lead_to(self.new.port);
    }
}

/// Begins as many transactions as the pool has connections, and returns to which server each of them leads.
async fn ports(db: &Db) -> Vec<i64> {
    let mut open = Vec::new();
    for _ in 0..db.pool_max() {
        open.push(db.begin(Mode::Snapshot).await.unwrap());
    }
    let mut ports = Vec::new();
    for tx in &mut open {
        ports.push(tx.fetch_one(Query::new("test", "SELECT @@port"), args![], |row| row.int(0)).await.unwrap());
    }
    for tx in open {
        tx.commit().await.unwrap();
    }
    ports
}

/// Otherwise one connection would read on the old server what another one then settles on the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_write_that_is_refused_ends_the_use_of_all_connections() {
    let servers = Servers::start("pool").await;
    let before = TestDb::on_server(servers.old.port).await;
    let _after = before.namesake_on(servers.new.port).await;
    let (old, new) = (i64::from(servers.old.port), i64::from(servers.new.port));
    let db = connect(&before.through(&servers.proxy).url, ConnectOptions::new(3)).unwrap();
    assert_eq!(ports(&db).await, [old; 3]);
    servers.switch().await;
    assert_eq!(ports(&db).await, [old; 3], "nothing tells");
    let write = Query::new("test", "DELETE FROM daymend_pauses");
    let error = db.execute(write, args![]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(ports(&db).await, [new; 3]);
}

/// Its lease is as valid on the new server, so the session goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_worker_follows_to_the_new_server() {
    let servers = Servers::start("worker").await;
    let before = TestDb::on_server(servers.old.port).await;
    let after = with_labs(before.namesake_on(servers.new.port).await, 1).await;
    let _worker = Process::start(&before.through(&servers.proxy), &["--now", NOW, "worker", "--heartbeat", "1s"]);
    let registered = "SELECT COUNT(*) FROM daymend_workers";
    wait_until("the worker", LIMIT, async || before.number(registered).await == 1).await;
    let replicated = "INSERT INTO daymend_workers (id, name, version, started_at, heartbeat_at, lease_until_us)
                      VALUES (1, 'worker', '', UTC_TIMESTAMP(), UTC_TIMESTAMP(), 9000000000000000)";
    after.execute(replicated, args![]).await;
    run_ok(&after, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-01", "--to", "2026-06-05"]);
    servers.switch().await;
    wait_until("the jobs to be done", LIMIT, async || completed(&after).await == 5).await;
    assert_eq!(after.number(registered).await, 1, "the same session");
    let mut expected = oracle::expected(&after, &[LAB], NOW.parse().unwrap()).await;
    expected.retain(|key, _| key.1.to_string().as_str() <= "2026-06-05");
    oracle::assert_equal(&oracle::stored(&after).await, &expected);
}
