//! Concurrent users who cancel, restore, move, delete and create bills, add tests and accession samples, and record
//! how long each transaction took and how it ended.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, NaiveDate, Utc};
use daymend::{
    args,
    db::{Arg, DbError, ErrorKind, Mode, Query, Tx, code, instant_text},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinHandle;

use super::{BILLS, DAYS, LABS, TESTS};
use crate::support::TestDb;

/// How many users there are.
const USERS: u64 = 4;

/// How long a user waits for SQLite's write lock.
const TURN_MAX: Duration = Duration::from_secs(120);

/// What users do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Cancel and restore bills: all that the delta triggers handle.
    Cancelling,
    /// All of their changes.
    All,
}

/// The results of the users' transactions.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    latencies: Vec<Duration>,
    /// The number of transactions that the database aborted, by its error code.
    aborted: BTreeMap<u32, u64>,
}

impl Tally {
    /// Returns the number of committed transactions.
    pub fn writes(&self) -> usize {
        self.latencies.len()
    }

    /// Returns the number of transactions that the database aborted.
    pub fn aborted(&self) -> u64 {
        self.aborted.values().sum()
    }

    /// Returns a percentile of the latencies.
    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |percent| self.percentile(percent).as_secs_f64() * 1000.0;
        write!(f, "{} writes, p50 {:.1} ms, p99 {:.1} ms, aborted {:?}", self.writes(), ms(50), ms(99), self.aborted)
    }
}

/// Running users.
pub struct Users {
    goes_on: Arc<AtomicBool>,
    writes: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<Tally>>,
}

impl Users {
    /// Starts the users.
    pub fn start(db: &Arc<TestDb>, first: NaiveDate, work: Work) -> Self {
        let (goes_on, writes) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicUsize>::default());
        let tasks = (0..USERS)
            .map(|seed| {
                let (db, goes_on, writes) = (Arc::clone(db), Arc::clone(&goes_on), Arc::clone(&writes));
                tokio::spawn(async move {
                    let mut random = StdRng::seed_from_u64(seed);
                    let mut tally = Tally::default();
                    while goes_on.load(Ordering::SeqCst) {
                        let begun = Instant::now();
                        match transact(&db, &mut random, first, work).await {
                            Ok(()) => {
                                tally.latencies.push(begun.elapsed());
                                writes.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(error) if error.kind == ErrorKind::Conflict => {
                                *tally.aborted.entry(code(&error.source)).or_default() += 1;
                            }
                            Err(error) => panic!("{}", daymend::error::chain(&error)),
                        }
                        tokio::time::sleep(Duration::from_millis(random.random_range(0..8))).await;
                    }
                    tally
                })
            })
            .collect();
        Self { goes_on, writes, tasks }
    }

    /// Returns the number of transactions committed so far.
    pub fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    /// Stops the users after their current transactions, and returns the results.
    pub async fn stop(self) -> Tally {
        self.goes_on.store(false, Ordering::SeqCst);
        let mut all = Tally::default();
        for task in self.tasks {
            let tally = task.await.unwrap();
            all.latencies.extend(tally.latencies);
            for (code, count) in tally.aborted {
                *all.aborted.entry(code).or_default() += count;
            }
        }
        all
    }
}

/// Returns a random moment on one of the days of the storm, in Kolkata.
pub fn moment(random: &mut StdRng, first: NaiveDate) -> DateTime<Utc> {
    let midnight = first.and_hms_opt(0, 0, 0).unwrap().and_utc() - chrono::Duration::minutes(330);
    midnight + chrono::Duration::seconds(random.random_range(0..i64::from(DAYS) * 86400))
}

/// Runs one transaction of a user.
async fn transact(db: &TestDb, random: &mut StdRng, first: NaiveDate, work: Work) -> Result<(), DbError> {
    let bill = random.random_range(1..=BILLS);
    // On SQLite, a user waits for the write lock: the driver's five seconds may pass through nobody's fault.
    let begun = Instant::now();
    let mut tx = loop {
        match db.admin.begin(Mode::Write).await {
            Err(error) if error.kind == ErrorKind::Conflict && begun.elapsed() < TURN_MAX => {}
            begun => break begun?,
        }
    };
    let acts: &[u32] = match (work, random.random_range(0..10)) {
        (Work::Cancelling, _) | (Work::All, 0..=2) => &[0],
        (Work::All, 3 | 4) => &[1],
        (Work::All, 5) => &[2],
        (Work::All, 6) => &[3],
        (Work::All, 7) => &[4],
        // Several changes of a bill in one transaction.
        (Work::All, 8) => &[3, 4, 0],
        (Work::All, _) => &[0, 5, 1],
    };
    for act in acts {
        let acted = act_on(&mut tx, random, first, bill, *act).await;
        if let Err(error) = acted {
            let _ = tx.rollback().await;
            return Err(error);
        }
    }
    tx.commit().await
}

async fn act_on(tx: &mut Tx, random: &mut StdRng, first: NaiveDate, bill: i64, act: u32) -> Result<(), DbError> {
    async fn run(tx: &mut Tx, sql: &str, args: Vec<Arg>) -> Result<u64, DbError> {
        tx.execute(Query::new("a user", sql), args).await
    }
    let at = instant_text(moment(random, first));
    let lab = random.random_range(1..=LABS);
    match act {
        0 => run(tx, "UPDATE billing SET isCancelled = 1 - isCancelled WHERE id = ?", args![bill]).await?,
        1 => run(tx, "UPDATE billing SET billTime = ?, lab_id = ? WHERE id = ?", args![at, lab, bill]).await?,
        2 => {
            let deleted = run(tx, "DELETE FROM billing WHERE id = ?", args![bill]).await?;
            if deleted == 0 {
                // Another user may insert it at the same time.
                let sql = "{insert_ignore} INTO billing (id, lab_id, billTime, isCancelled, modified_at) VALUES (?, ?, ?, 0, ?)";
                run(tx, sql, args![bill, lab, at.as_str(), at.as_str()]).await?;
            }
            deleted
        }
        3 => {
            let sql = "INSERT INTO labReportRelation (billing_id, test_id, isCancelled) VALUES (?, ?, 0)";
            run(tx, sql, args![bill, random.random_range(1..=TESTS)]).await?
        }
        4 => {
            run(tx, "UPDATE collectedSample SET isAccessed = 1 - isAccessed WHERE billing_id = ?", args![bill]).await?
        }
        _ => {
            let sql = "UPDATE billingInfo SET organization_id = ? WHERE billing_id = ?";
            run(tx, sql, args![random.random_range(1..4_i64), bill]).await?
        }
    };
    Ok(())
}
