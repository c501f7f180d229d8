//! Recomputes beside the lab system's delta triggers: exact, whatever comes between.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, NaiveDate, Utc};
use daymend::{
    args,
    clock::Clock,
    db::{Kind, Mode, Query},
    recompute::shrink::MaxShrink,
    rollup::{HISTORICAL_SUMMARY, Rollups},
    scheduler::adhoc::{self, Days},
    worker,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio_util::sync::CancellationToken;

use crate::{
    on_both,
    support::{Engine, TestDb, lab_system::Bill, oracle, work::draining},
};

const LAB: i64 = 1;
const BILLS: i64 = 60;
const WRITERS: u64 = 4;

/// How long the storm blows; `DAYMEND_STORM_SECONDS` makes it longer.
fn duration() -> Duration {
    let seconds = std::env::var("DAYMEND_STORM_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(6))
}

on_both! {
    deltas_of_cancellations_survive_recomputes_of_the_same_days;
}

async fn deltas_of_cancellations_survive_recomputes_of_the_same_days(engine: Engine) {
    let db = Arc::new(TestDb::new(engine).await);
    let now: DateTime<Utc> = "2026-06-15T12:00:00Z".parse().unwrap();
    let (first, last): (NaiveDate, NaiveDate) = ("2026-06-10".parse().unwrap(), "2026-06-12".parse().unwrap());
    let mut random = StdRng::seed_from_u64(7);
    db.add_lab(LAB, Some("Asia/Kolkata")).await;
    for test in 1..=6 {
        db.add_test(test, (test != 6).then_some(test % 2)).await;
    }
    for id in 1..=BILLS {
        let at = first.and_hms_opt(0, 0, 0).unwrap().and_utc()
            + chrono::Duration::minutes(random.random_range(0..3 * 1440 - 330));
        let bill = Bill {
            at,
            cancelled: random.random_bool(0.3),
            info: Some((Some(random.random_range(1..4)), random.random_bool(0.8).then_some(2), Some(1))),
            tests: (0..3).map(|_| (random.random_range(1..7), random.random_bool(0.1))).collect(),
            samples: (0..2).map(|_| (random.random_range(1..4), random.random_bool(0.5))).collect(),
        };
        db.add_bill(id, LAB, &bill).await;
    }
    let rollups = Arc::new(Rollups::load(None).unwrap());
    recompute(&db, &rollups, (first, last), now).await;
    db.install_delta_triggers().await;

    let writing = Arc::new(AtomicBool::new(true));
    let (writes, aborted) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..WRITERS)
        .map(|seed| {
            let (db, writing) = (Arc::clone(&db), Arc::clone(&writing));
            let (writes, aborted) = (Arc::clone(&writes), Arc::clone(&aborted));
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed);
                while writing.load(Ordering::SeqCst) {
                    if toggle(&db, random.random_range(1..=BILLS)).await {
                        writes.fetch_add(1, Ordering::SeqCst);
                    } else {
                        aborted.fetch_add(1, Ordering::SeqCst);
                    }
                    tokio::time::sleep(Duration::from_millis(random.random_range(0..8))).await;
                }
            })
        })
        .collect();

    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < duration() {
        // Without damage a recompute has nothing to correct, and never takes a lock.
        db.execute(
            "UPDATE operation_historical_summary SET event_count = event_count + 100
             WHERE event_type IN ('organization_bill', 'branch_test', 'referral_sample') AND event_count < 50",
            args![],
        )
        .await;
        recompute(&db, &rollups, (first, last), now).await;
        rounds += 1;
    }
    // The writers go on after the last recompute: its counts must carry their deltas too.
    tokio::time::sleep(Duration::from_millis(200)).await;
    writing.store(false, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    let (writes, aborted) = (writes.load(Ordering::SeqCst), aborted.load(Ordering::SeqCst));
    println!("{engine:?}: {rounds} rounds beside {writes} writes, {aborted} of them aborted");
    assert!(rounds >= 3 && writes >= 100, "{rounds} rounds, {writes} writes: that was no storm");

    let expected = oracle::expected(&db, &[(LAB, chrono_tz::Asia::Kolkata)], now).await;
    let mut stored: BTreeMap<_, _> = oracle::stored(&db).await;
    // The old triggers leave rows at zero behind; to a reader they say the same as no row.
    stored.retain(|_, count| *count != 0);
    oracle::assert_equal(&stored, &expected);
}

/// Cancels or restores a bill, as a user would; false where the database chose it as a victim.
async fn toggle(db: &TestDb, bill: i64) -> bool {
    let sql = "UPDATE billing SET isCancelled = 1 - isCancelled WHERE id = ?";
    let result = async {
        let mut tx = db.admin.begin(Mode::Write).await?;
        tx.execute(Query::new("toggle", sql), args![bill]).await?;
        tx.commit().await
    }
    .await;
    match result {
        Ok(()) => true,
        Err(error) if error.kind == Kind::Conflict => false,
        Err(error) => panic!("{}", daymend::error::chain(&error)),
    }
}

/// Repairs the days with two workers, and waits for the end.
async fn recompute(db: &TestDb, rollups: &Arc<Rollups>, (first, last): (NaiveDate, NaiveDate), now: DateTime<Utc>) {
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let plan = adhoc::plan(&db.db, rollup, &[LAB], Days::Range(first, last), now).await.unwrap();
    adhoc::enqueue(&db.db, rollup, &plan, "storm", now, 5, MaxShrink::OFF).await.unwrap();
    let config = draining();
    let token = CancellationToken::new();
    let pulse = Arc::default();
    let work = || worker::run(&db.db, &db.db, Arc::clone(rollups), &config, Clock::Fixed(now), &pulse, &token);
    tokio::join!(work(), work());
}
