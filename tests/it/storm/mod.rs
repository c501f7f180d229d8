//! A storm: users change bills of the same days that two workers recompute in a loop.
//!
//! Afterwards the summary must equal its source, and users must have seen no errors that they would not have seen
//! without daymend. `DAYMEND_STORM_SECONDS` sets the duration. At the end the latencies of the users' transactions are
//! printed, without and with recomputes.

mod writers;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Asia::Kolkata;
use daymend::{
    args,
    rollup::HISTORICAL_SUMMARY,
    runs::{JobLimits, repair},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        lab_system::Bill,
        oracle,
        process::Process,
        server::{self, Product},
        wait_until,
        work::rollups,
    },
};
use writers::{Tally, Users, Work, moment};

const NOW: &str = "2026-06-15T12:00:00Z";
const FIRST: &str = "2026-06-10";
const DAYS: u32 = 3;
const LABS: i64 = 2;
const BILLS: i64 = 60;
const TESTS: i64 = 6;

/// A lab that nobody changes.
const OTHERS: i64 = 99;

/// How many runs are open at a time.
const RUNS_AT_ONCE: usize = 4;

/// How long anything may take before it is considered stuck.
const LIMIT: Duration = Duration::from_secs(300);

on_both! {
    delta_triggers_survive_recomputes_of_the_same_days;
    dirty_days_are_right_without_any_nightly_run;
}

/// Returns the duration of the storm.
fn duration() -> Duration {
    let seconds = std::env::var("DAYMEND_STORM_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(6))
}

fn now() -> DateTime<Utc> {
    NOW.parse().unwrap()
}

fn first() -> NaiveDate {
    FIRST.parse().unwrap()
}

fn last() -> NaiveDate {
    first() + chrono::Days::new(u64::from(DAYS) - 1)
}

/// Creates two labs with bills on three days, starts two workers, and waits for a first recompute of all days.
async fn labs(engine: Engine) -> (Arc<TestDb>, [Process; 2]) {
    let db = Arc::new(TestDb::new(engine).await);
    let mut random = StdRng::seed_from_u64(7);
    for lab in 1..=LABS {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
    }
    for test in 1..=TESTS {
        db.add_test(test, (test != TESTS).then_some(test % 2)).await;
    }
    for id in 1..=BILLS {
        let bill = Bill {
            at: moment(&mut random, first()),
            cancelled: random.random_bool(0.3),
            info: Some((Some(random.random_range(1..4)), random.random_bool(0.8).then_some(2), Some(1))),
            tests: (0..3).map(|_| (random.random_range(1..=TESTS), random.random_bool(0.1))).collect(),
            samples: (0..2).map(|_| (random.random_range(1..4), random.random_bool(0.5))).collect(),
        };
        db.add_bill(id, id % LABS + 1, &bill).await;
    }
    others(&db).await;
    let workers = [(); 2].map(|()| Process::start(&db, &["--now", NOW, "worker"]));
    let run = enqueue(&db).await;
    wait_for(&db, run).await;
    (db, workers)
}

/// Adds rows of another lab, as a real summary has: servers scan a small table whatever its indexes are, so that
/// everybody would wait for everybody.
async fn others(db: &TestDb) {
    db.add_summary_row(OTHERS, "2020-01-01", 1, 1, "branch_test", 1).await;
    for doubling in 0..14 {
        let sql = "INSERT INTO operation_historical_summary
                       (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at)
                   SELECT lab_id, ordered_at, dimension_a_id + ?, dimension_b_id, event_type, event_count, created_at, modified_at
                   FROM operation_historical_summary WHERE lab_id = ?";
        db.execute(sql, args![1_i64 << doubling, OTHERS]).await;
    }
    if db.engine == Engine::MariaDb {
        db.execute_script("ANALYZE TABLE operation_historical_summary").await;
    }
}

/// Enqueues all days of the storm as one run, and returns its id.
async fn enqueue(db: &TestDb) -> i64 {
    let rollups = rollups();
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let labs = (1..=LABS).map(|lab| (lab, first().iter_days().take(DAYS as usize).collect())).collect();
    let plan = repair::Plan { labs, ..repair::Plan::default() };
    repair::enqueue(&db.db, rollup, &plan, "storm", now(), JobLimits::any_shrink(5)).await.unwrap()
}

async fn wait_for(db: &TestDb, run: i64) {
    wait_until("the recomputes", LIMIT, || async {
        let (_, progress) = db.run(run).await;
        assert_eq!(progress.discarded, 0);
        progress.open() == 0
    })
    .await;
}

/// Corrupts some rows: otherwise a recompute has little to correct, and seldom takes a lock. Each row has its own
/// transaction, so that this causes no deadlocks with users, which would count as their errors.
async fn damage(db: &TestDb) {
    let some = "SELECT id FROM operation_historical_summary WHERE lab_id <> 99 AND event_count BETWEEN 1 AND 50 ORDER BY event_count, id DESC LIMIT 20";
    for row in db.rows(some, vec![]).await {
        let sql = "UPDATE operation_historical_summary SET event_count = event_count + 100 WHERE id = ?";
        db.execute(sql, args![row.int(0).unwrap()]).await;
    }
}

/// Recomputes in a loop for at least `time`, and returns the number of rounds. A few runs are open at once so that no
/// worker is idle. On a slow machine it takes longer, until there were enough rounds and writes.
async fn recompute_for(db: &TestDb, users: &Users, time: Duration) -> u32 {
    let (begun, mut rounds, mut open) = (Instant::now(), 0, VecDeque::new());
    while begun.elapsed() < time || rounds < 3 || users.writes() < 100 {
        assert!(begun.elapsed() < LIMIT, "too little for a storm: {rounds} rounds beside {} writes", users.writes());
        damage(db).await;
        open.push_back(enqueue(db).await);
        rounds += 1;
        if open.len() > RUNS_AT_ONCE
            && let Some(run) = open.pop_front()
        {
            wait_for(db, run).await;
        }
    }
    for run in open {
        wait_for(db, run).await;
    }
    rounds
}

async fn assert_no_drift(db: &TestDb) {
    let labs: Vec<_> = (1..=LABS).map(|lab| (lab, Kolkata)).collect();
    let expected = oracle::expected(db, &labs, now()).await;
    let mut stored: BTreeMap<_, _> = oracle::stored(db).await;
    // The delta triggers leave rows with a count of zero, which mean the same to a reader as no row.
    stored.retain(|(lab, ..), count| *lab != OTHERS && *count != 0);
    oracle::assert_equal(&stored, &expected);
}

/// Asserts that users saw no errors that they do not have without daymend.
async fn compare(name: &str, db: &TestDb, rounds: u32, without: &Tally, with: &Tally) {
    let engine = db.engine;
    println!("{name}, {engine:?}: without recomputes {without}");
    println!("{name}, {engine:?}: beside {rounds} rounds of them {with}");
    let product = Product::tested();
    // Delta triggers cause deadlocks between users without daymend; marks cause none.
    let share = |tally: &Tally| tally.aborted() as f64 / tally.writes().max(1) as f64;
    let aborted_max = match (engine, product) {
        _ if name == "dirty days" => Some(0.0),
        // Its log says below which deadlocks are those.
        (Engine::MariaDb, Product::MariaDb) => None,
        // A few writes are too few for a share.
        (Engine::MariaDb, Product::MySql) => Some(((share(without) + 0.001) * with.writes() as f64).max(2.0)),
        (Engine::Sqlite, _) => Some((share(without) + 0.001) * with.writes() as f64),
    };
    let is_allowed = aborted_max.is_none_or(|most| with.aborted() as f64 <= most);
    assert!(is_allowed, "users saw errors that they do not see without daymend");
    if engine == Engine::MariaDb {
        let deadlocks = server::deadlocks(server::port(&db.url), db.name()).await;
        let ours: Vec<_> = deadlocks.iter().filter(|text| is_of_daymend(text, product)).collect();
        assert!(ours.is_empty(), "daymend was in deadlocks: {}", ours[0]);
    }
}

/// Returns whether a deadlock is one that must not be: of a recompute that corrects rows, or, on MariaDB, of any
/// statement of daymend's and a user's. (Workers that claim at once may be in one of their own; it costs no user
/// anything.)
fn is_of_daymend(deadlock: &str, product: Product) -> bool {
    let names: Vec<&str> = deadlock.split("-- daymend: ").skip(1).filter_map(|text| text.lines().next()).collect();
    let is_user = |name: &&str| *name == "a user";
    let beside_a_user = names.iter().any(is_user) && names.iter().any(|name| !is_user(name) && *name != "test");
    names.iter().any(|name| name.contains("summary rows")) || product == Product::MariaDb && beside_a_user
}

async fn delta_triggers_survive_recomputes_of_the_same_days(engine: Engine) {
    let (db, _workers) = labs(engine).await;
    db.install_delta_triggers().await;
    let users = Users::start(&db, first(), Work::All);
    tokio::time::sleep(duration() / 3).await;
    let without = users.stop().await;

    let users = Users::start(&db, first(), Work::All);
    let rounds = recompute_for(&db, &users, duration()).await;
    let with = users.stop().await;
    // The triggers handle only cancellations; the last recompute has to find all other changes. Users cancel bills
    // during and after it, so its counts must include these deltas as well.
    let users = Users::start(&db, first(), Work::Cancelling);
    recompute_for(&db, &users, duration() / 3).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    users.stop().await;
    compare("delta triggers", &db, rounds, &without, &with).await;
    assert_no_drift(&db).await;
}

async fn dirty_days_are_right_without_any_nightly_run(engine: Engine) {
    let (db, _workers) = labs(engine).await;
    db.install_dirty_triggers().await;
    let users = Users::start(&db, first(), Work::All);
    tokio::time::sleep(duration() / 3).await;
    let without = users.stop().await;

    // The users may move most of a day's bills away.
    let _scheduler = Process::start(&db, &["--now", NOW, "scheduler", "--max-shrink", "off"]);
    let users = Users::start(&db, first(), Work::All);
    let rounds = recompute_for(&db, &users, duration()).await;
    // From here on only marks lead to recomputes.
    tokio::time::sleep(duration() / 3).await;
    let with = users.stop().await;
    wait_until("the marks to be repaired", LIMIT, || async {
        let open = "SELECT COUNT(*) FROM daymend_jobs WHERE state IN ('available', 'running')";
        db.marks().await == 0 && db.number(open).await == 0
    })
    .await;
    compare("dirty days", &db, rounds, &without, &with).await;
    let nightly = format!("SELECT COUNT(*) FROM daymend_jobs WHERE kind = 'nightly' AND day <= '{}'", last());
    assert_eq!(db.number(&nightly).await, 0);
    assert_no_drift(&db).await;
}
