//! The scheduler takes one snapshot a day, however many schedulers there are.

use std::{
    os::unix::fs::OpenOptionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use daymend::{
    args,
    clock::Clock,
    db::{Db, DbClock, retry},
    scheduler::snapshots::{Daily, Look, look},
    snapshot::{self, Store},
};
use object_store::{ObjectStoreExt as _, PutPayload, memory::InMemory, path::Path};
use tokio_util::sync::CancellationToken;

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        http::get,
        process::{Process, run_fails},
        server, wait_until,
    },
};

on_both! {
    many_schedulers_take_one_a_day;
    two_processes_take_one;
    one_whose_taker_died_is_taken_by_another;
    one_that_fails_is_tried_again;
    work_does_not_wait_for_the_log_in_that_snapshots_need;
    one_whose_second_is_somebody_elses_is_taken_later;
    who_was_not_heard_of_says_nothing_of_what_others_take;
    a_snapshot_of_some_tables_pushes_no_full_one_out;
    databases_that_share_a_store_have_one_each;
    a_clock_that_is_ahead_takes_no_later_day;
}

const USAGE: i32 = 2;

/// Linux's flag for opening a pipe without waiting for anybody.
const O_NONBLOCK: i32 = 0o4000;

fn daily(db: &TestDb, dir: &std::path::Path, holder: &str) -> Daily {
    Daily {
        at: "02:00 UTC".parse().unwrap(),
        store: Store::dir(dir),
        source: db.admin.clone(),
        tables: vec!["labs".to_owned()],
        keep: "2 daily".parse().unwrap(),
        holder: holder.to_owned(),
    }
}

/// Makes a take wait in the middle: the lock file of a process that died is a pipe, and opening it waits for a reader.
/// Returns its path.
fn slow_file(store: &std::path::Path) -> std::path::PathBuf {
    let pipe = store.join(".daymend-snapshot-1-2.lock");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    pipe
}

fn at(text: &str) -> Clock {
    Clock::Fixed(text.parse().unwrap())
}

async fn many_schedulers_take_one_a_day(engine: Engine) {
    let db = TestDb::new(engine).await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::dir(dir.path());
    let shutdown = CancellationToken::new();
    for (now, is_due, names) in [
        ("2026-11-20T23:00:00Z", true, &["2026-11-20T230000Z"][..]),
        ("2026-11-21T01:59:59Z", false, &["2026-11-20T230000Z"]),
        ("2026-11-21T02:00:00Z", true, &["2026-11-20T230000Z", "2026-11-21T020000Z"]),
        ("2026-11-21T23:00:00Z", false, &["2026-11-20T230000Z", "2026-11-21T020000Z"]),
        ("2026-11-22T02:00:09Z", true, &["2026-11-21T020000Z", "2026-11-22T020009Z"]),
    ] {
        let schedulers = (0..6).map(|number| daily(&db, dir.path(), &format!("scheduler {number}")));
        let schedulers: Vec<Daily> = schedulers.collect();
        // On SQLite, six of them may wait for one another for longer than a writer waits.
        let looks = schedulers.iter().map(|daily| retry("test", || look(&db.db, daily, at(now), &shutdown)));
        let looked = futures::future::try_join_all(looks).await.unwrap();
        let taken = looked.iter().filter(|look| **look == Look::Taken).count();
        assert_eq!(taken, usize::from(is_due), "{now}: {looked:?}");
        assert!(!looked.contains(&Look::Failed));
        let found: Vec<String> = store.names().await.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(found, names, "{now}");
    }
    assert_eq!(db.number("SELECT CAST(SUM(attempt) AS SIGNED) FROM daymend_snapshots WHERE state = 'done'").await, 3);
}

async fn two_processes_take_one(engine: Engine) {
    let db = TestDb::new(engine).await;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    // On a fixed day, whenever the test runs.
    let now = "2026-11-21T12:00:00Z";
    let arguments = ["--now", now, "scheduler", "--snapshot-to", place, "--snapshot-at", "02:00 UTC"];
    let processes = [Process::start(&db, &arguments), Process::start(&db, &arguments)];
    // A snapshot that fails is tried again after a minute.
    wait_until("a snapshot", Duration::from_secs(200), || async {
        db.number("SELECT COUNT(*) FROM daymend_snapshots WHERE state = 'done'").await == 1
    })
    .await;
    let store = Store::dir(dir.path());
    let name = store.names().await.unwrap()[0];
    assert_eq!(store.manifest(name).await.unwrap().tables.len(), 8);
    for mut process in processes {
        process.terminate();
        assert_eq!(process.wait(Duration::from_secs(30)), Some(0));
    }
    assert_eq!(store.names().await.unwrap(), [name]);
    assert_eq!(db.number("SELECT attempt FROM daymend_snapshots").await, 1);
    let error = run_fails(&db, USAGE, &["scheduler", "--snapshot-to", place, "--snapshot-at", "02:00 local"]);
    assert!(error.contains("02:00 UTC"), "{error}");
}

async fn one_whose_taker_died_is_taken_by_another(engine: Engine) {
    let db = TestDb::new(engine).await;
    let dir = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    let now = at("2026-11-21T02:00:00Z");
    let mine = daily(&db, dir.path(), "mine");
    // Another process takes it, and is alive.
    let held = "INSERT INTO daymend_snapshots (day, state, attempt, due_us, holder) VALUES ('2026-11-21', 'running', 1, ?, 'gone')";
    db.execute(held, args![i64::MAX]).await;
    assert_eq!(look(&db.db, &mine, now, &shutdown).await.unwrap(), Look::Nothing);
    // That process has died.
    db.execute("UPDATE daymend_snapshots SET due_us = 1", vec![]).await;
    assert_eq!(look(&db.db, &mine, now, &shutdown).await.unwrap(), Look::Taken);
    assert_eq!(db.text("SELECT state FROM daymend_snapshots WHERE attempt = 2 AND holder = 'mine'").await, "done");
    // If it died when the snapshot was complete already, the snapshot is not taken again.
    db.execute("UPDATE daymend_snapshots SET state = 'running', due_us = 1, name = NULL", vec![]).await;
    let later = at("2026-11-21T05:00:00Z");
    assert_eq!(look(&db.db, &mine, later, &shutdown).await.unwrap(), Look::Taken);
    assert_eq!(Store::dir(dir.path()).names().await.unwrap().len(), 1);
    assert_eq!(db.text("SELECT name FROM daymend_snapshots").await, "2026-11-21T020000Z");
}

/// Another process takes over while a file is slow.
async fn who_was_not_heard_of_says_nothing_of_what_others_take(engine: Engine) {
    let db = TestDb::new(engine).await;
    for table in ["labs", "nowhere"] {
        let dir = tempfile::tempdir().unwrap();
        let pipe = slow_file(dir.path());
        let (source, mut mine) = (db.db.clone(), daily(&db, dir.path(), "mine"));
        mine.tables = vec![table.to_owned()];
        let taking = tokio::spawn(async move {
            look(&source, &mine, at("2026-11-21T02:00:00Z"), &CancellationToken::new()).await.unwrap()
        });
        let held = "SELECT COUNT(*) FROM daymend_snapshots WHERE state = 'running' AND holder = 'mine'";
        wait_until("it to be taken", Duration::from_secs(30), async || db.number(held).await == 1).await;
        db.execute("UPDATE daymend_snapshots SET holder = 'other'", vec![]).await;
        tokio::task::block_in_place(|| drop(std::fs::File::open(&pipe).unwrap()));
        taking.await.unwrap();
        let others =
            "SELECT COUNT(*) FROM daymend_snapshots WHERE state = 'running' AND holder = 'other' AND name IS NULL";
        assert_eq!(db.number(others).await, 1, "{table}");
        db.execute("DELETE FROM daymend_snapshots", vec![]).await;
    }
}

async fn one_that_fails_is_tried_again(engine: Engine) {
    let db = TestDb::new(engine).await;
    let dir = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    let now = at("2026-11-21T02:00:00Z");
    let mut mine = daily(&db, dir.path(), "mine");
    mine.tables = vec!["nowhere".to_owned()];
    assert_eq!(look(&db.db, &mine, now, &shutdown).await.unwrap(), Look::Failed);
    assert!(db.text("SELECT error FROM daymend_snapshots").await.contains("nowhere"));
    // Not immediately.
    assert_eq!(look(&db.db, &mine, now, &shutdown).await.unwrap(), Look::Nothing);
    db.execute("UPDATE daymend_snapshots SET due_us = 1", vec![]).await;
    mine.tables = vec!["labs".to_owned()];
    assert_eq!(look(&db.db, &mine, now, &shutdown).await.unwrap(), Look::Taken);
    // A shutdown in the middle makes it due again at once.
    let pipe = slow_file(dir.path());
    let tomorrow = at("2026-11-22T02:00:00Z");
    let looked = tokio::spawn({
        let (source, mine, shutdown) = (db.db.clone(), daily(&db, dir.path(), "mine"), shutdown.clone());
        async move { look(&source, &mine, tomorrow, &shutdown).await.unwrap() }
    });
    let running = "SELECT COUNT(*) FROM daymend_snapshots WHERE state = 'running' AND day = '2026-11-22'";
    wait_until("it to be taken", Duration::from_secs(30), async || db.number(running).await == 1).await;
    shutdown.cancel();
    // A reader, whether or not somebody waits for one already. The shutdown is heard once the file answers.
    let _reader = std::fs::File::options().read(true).custom_flags(O_NONBLOCK).open(&pipe).unwrap();
    let looked = tokio::time::timeout(Duration::from_secs(60), looked).await;
    assert_eq!(looked.expect("the shutdown is heard").unwrap(), Look::Failed);
    assert_eq!(look(&db.db, &mine, tomorrow, &CancellationToken::new()).await.unwrap(), Look::Taken);
}

async fn work_does_not_wait_for_the_log_in_that_snapshots_need(engine: Engine) {
    let db = TestDb::new(engine).await;
    let dir = tempfile::tempdir().unwrap();
    let (place, link) = (dir.path().join("store"), dir.path().join("link.db"));
    let user = format!("late_{}", db.name().replace(['/', '.'], ""));
    let url = match engine {
        Engine::MariaDb => format!("mysql://{user}:late@127.0.0.1:{}/{}", server::port(&db.url), db.name()),
        Engine::Sqlite => format!("sqlite:{}", link.display()),
    };
    let snapshots = ["--snapshot-to", place.to_str().unwrap(), "--snapshot-database-url", &url];
    let arguments = [&["--now", "2026-11-21T12:00:00Z", "serve"][..], &snapshots[..]].concat();
    let (mut process, address) = Process::start_with_pages(&db, &arguments);
    let limit = Duration::from_secs(60);
    wait_until("a worker", limit, async || db.number("SELECT COUNT(*) FROM daymend_workers").await == 1).await;
    let failed = "SELECT COUNT(*) FROM daymend_snapshots WHERE state = 'waiting' AND attempt = 1 AND error IS NOT NULL";
    wait_until("a snapshot that failed", limit, async || db.number(failed).await == 1).await;
    let error = db.text("SELECT error FROM daymend_snapshots").await;
    let why = if engine == Engine::MariaDb { "refuses" } else { "cannot be reached" };
    assert!(error.contains(why), "{error}");
    let metrics = get(&address, "/metrics").unwrap().body;
    assert!(metrics.contains("daymend_snapshots_total{result=\"failed\"} 1"), "{metrics}");
    // It connects by itself once it can.
    match engine {
        Engine::MariaDb => {
            db.execute(&format!("CREATE USER {user}@'%' IDENTIFIED BY 'late'"), args![]).await;
            let grant = format!("GRANT SELECT ON {}.* TO {user}@'%'", db.name());
            db.execute(&grant, vec![]).await;
        }
        Engine::Sqlite => std::os::unix::fs::symlink(db.db.name(), &link).unwrap(),
    }
    db.execute("UPDATE daymend_snapshots SET due_us = 1", vec![]).await;
    let done = "SELECT COUNT(*) FROM daymend_snapshots WHERE state = 'done'";
    wait_until("a snapshot", limit, async || db.number(done).await == 1).await;
    process.terminate();
    assert_eq!(process.wait(Duration::from_secs(30)), Some(0));
    // Errors that show without a connection are reported at the start.
    for (store, url) in [("gs://bucket", url.as_str()), ("store", "postgres://x:secret@127.0.0.1/lab")] {
        let error = run_fails(&db, USAGE, &["serve", "--snapshot-to", store, "--snapshot-database-url", url]);
        assert!(!error.contains("secret"), "{error}");
    }
}

/// Another database's daily snapshot is due in the same second, in the same bucket.
async fn one_whose_second_is_somebody_elses_is_taken_later(engine: Engine) {
    let db = TestDb::new(engine).await;
    let objects = Arc::new(InMemory::new());
    objects.put(&Path::from("lab/2026-11-21T020000Z.claim"), PutPayload::new()).await.unwrap();
    let store = Store::objects(objects, "lab");
    let daily = Daily { store: store.clone(), ..daily(&db, std::path::Path::new(""), "mine") };
    let shutdown = CancellationToken::new();
    assert_eq!(look(&db.db, &daily, at("2026-11-21T02:00:00Z"), &shutdown).await.unwrap(), Look::Failed);
    assert!(db.text("SELECT error FROM daymend_snapshots").await.contains("exists already"));
    db.execute("UPDATE daymend_snapshots SET due_us = 1", vec![]).await;
    assert_eq!(look(&db.db, &daily, at("2026-11-21T02:01:00Z"), &shutdown).await.unwrap(), Look::Taken);
    assert_eq!(store.names().await.unwrap(), ["2026-11-21T020100Z".parse().unwrap()]);
}

async fn a_snapshot_of_some_tables_pushes_no_full_one_out(engine: Engine) {
    let db = TestDb::new(engine).await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::dir(dir.path());
    let shutdown = CancellationToken::new();
    let take = async |tables: &[&str], now: &str| {
        let tables: Vec<String> = tables.iter().map(|table| (*table).to_owned()).collect();
        snapshot::take(&db.admin, &store, Some(&tables), at(now), &|_| ()).await.unwrap();
    };
    let full = &["billing", "labs"];
    take(full, "2026-11-19T02:00:00Z").await;
    take(&["labs"], "2026-11-19T09:00:00Z").await;
    // Taken by hand after it was due, and followed by one of a single table.
    take(full, "2026-11-20T02:00:00Z").await;
    let mut daily = daily(&db, dir.path(), "mine");
    daily.tables = full.map(str::to_owned).to_vec();
    take(&["labs"], "2026-11-20T12:00:00Z").await;
    assert_eq!(look(&db.db, &daily, at("2026-11-20T13:00:00Z"), &shutdown).await.unwrap(), Look::Taken);
    let names = async || store.names().await.unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names().await, ["2026-11-19T020000Z", "2026-11-19T090000Z", "2026-11-20T020000Z", "2026-11-20T120000Z"]);
    assert_eq!(db.text("SELECT name FROM daymend_snapshots").await, "2026-11-20T020000Z");
    // The one taken by hand has more tables, and counts for both sets.
    take(&["allTests", "billing", "labs"], "2026-11-21T09:00:00Z").await;
    assert_eq!(look(&db.db, &daily, at("2026-11-21T10:00:00Z"), &shutdown).await.unwrap(), Look::Taken);
    assert_eq!(names().await, ["2026-11-20T020000Z", "2026-11-20T120000Z", "2026-11-21T090000Z"]);
}

async fn databases_that_share_a_store_have_one_each(engine: Engine) {
    let dbs = [TestDb::new(engine).await, TestDb::new(engine).await];
    let dir = tempfile::tempdir().unwrap();
    let store = Store::dir(dir.path());
    let shutdown = CancellationToken::new();
    let mut kept = daily(&dbs[1], dir.path(), "of the second");
    kept.keep = "9 daily".parse().unwrap();
    for (day, count) in [(20, 2), (21, 4), (22, 5), (23, 6)] {
        let now = |second: u32| at(&format!("2026-11-{day}T02:00:0{second}Z"));
        let first = daily(&dbs[0], dir.path(), "of the first");
        assert_eq!(look(&dbs[0].db, &first, now(0), &shutdown).await.unwrap(), Look::Taken);
        assert_eq!(look(&dbs[1].db, &kept, now(1), &shutdown).await.unwrap(), Look::Taken);
        assert_eq!(store.names().await.unwrap().len(), count, "2 of the first, all of the second");
    }
    for (db, kept) in [(&dbs[0], 2), (&dbs[1], 4)] {
        let listed = store.list().await.unwrap().into_iter().map(|(_, manifest)| manifest.unwrap().server);
        assert_eq!(listed.filter(|server| server.database == db.db.name()).count(), kept);
    }
}

#[test]
fn slow_files_keep_no_heartbeat_waiting() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let db = runtime.block_on(TestDb::new(Engine::Sqlite));
    let dir = tempfile::tempdir().unwrap();
    let pipe = slow_file(dir.path());
    let (sender, receiver) = std::sync::mpsc::channel();
    let (begun, source, store) = (sender.clone(), db.admin.clone(), Store::dir(dir.path()));
    let taken = runtime.spawn(async move {
        begun.send("begun").unwrap();
        snapshot::take(&source, &store, Some(&["labs".to_owned()]), Clock::System, &|_| ()).await
    });
    assert_eq!(receiver.recv(), Ok("begun"));
    runtime.spawn(async move { sender.send("heartbeat") });
    let heartbeat = receiver.recv_timeout(Duration::from_secs(10));
    assert!(!taken.is_finished());
    drop(std::fs::File::open(&pipe).unwrap());
    runtime.block_on(taken).unwrap().unwrap();
    assert_eq!(heartbeat, Ok("heartbeat"));
    assert!(!pipe.exists());
    runtime.block_on(async { drop(db) });
}

/// The day and the name are of the earlier of two clocks: this machine's is years ahead of the database's.
async fn a_clock_that_is_ahead_takes_no_later_day(engine: Engine) {
    let db = TestDb::new(engine).await;
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicI64::new(0));
    let is_at = |now: &str| clock.store(now.parse::<DateTime<Utc>>().unwrap().timestamp_micros(), Relaxed);
    let behind = |db: &Db| db.with_clock(DbClock::Driven(Arc::clone(&clock)));
    let mut mine = daily(&db, dir.path(), "mine");
    // One that was taken by a clock ahead stands for no day.
    snapshot::take(&db.admin, &mine.store, Some(&mine.tables), at("2021-01-01T02:00:00Z"), &|_| ()).await.unwrap();
    (mine.source, mine.keep) = (behind(&db.admin), "9 last".parse().unwrap());
    for (now, day) in [("2020-05-02T01:59:59Z", "2020-05-01"), ("2020-05-02T02:00:00Z", "2020-05-02")] {
        is_at(now);
        let looked = look(&behind(&db.db), &mine, Clock::System, &CancellationToken::new()).await.unwrap();
        assert_eq!(looked, Look::Taken);
        let name = db.text(&format!("SELECT name FROM daymend_snapshots WHERE day = '{day}'")).await;
        assert_eq!(name, now.replace(':', ""));
    }
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_snapshots").await, 2);
    let names = mine.store.names().await.unwrap();
    assert_eq!(names.len(), 3);
    assert_eq!(mine.store.manifest(names[0]).await.unwrap().taken_at, names[0].time());
}

/// SQLite has no users.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_user_may_not_read_the_tables_says_which_user_may() {
    let db = TestDb::new(Engine::MariaDb).await;
    let dir = tempfile::tempdir().unwrap();
    let daily = Daily { source: db.db.clone(), ..daily(&db, dir.path(), "mine") };
    let shutdown = CancellationToken::new();
    assert_eq!(look(&db.db, &daily, at("2026-11-21T02:00:00Z"), &shutdown).await.unwrap(), Look::Failed);
    let logged = db.text("SELECT error FROM daymend_snapshots").await;
    let place = dir.path().join("other");
    let take = ["snapshot", "take", "--table", "labs", "--to", place.to_str().unwrap()];
    let said = run_fails(&db, USAGE, &[&take[..], &["--snapshot-database-url", &db.url]].concat());
    for text in [logged, said] {
        assert!(
            text.contains("--snapshot-database-url of the user daymend_snapshot of deploy/mysql/grants.sql"),
            "{text}"
        );
    }
}
