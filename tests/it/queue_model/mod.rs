//! The queue as a state machine: after any sequence of operations, the database must be in the state that the rules,
//! implemented on plain data, give.
//!
//! After every operation all tables are compared, and so is the value that the operation returned. A failing sequence
//! is shrunk to the shortest one that still fails, and printed. `DAYMEND_MODEL_CASES` sets the number of sequences and
//! `PROPTEST_RNG_SEED` their seed. Without a seed they are the same in every run, unless `DAYMEND_MODEL_RANDOM` is set.

mod driver;
mod model;
mod tables;

use daymend::queue::{JobKind, JobState};
use driver::Driver;
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{Index, select, subsequence},
    test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner},
};
use strum::IntoEnumIterator as _;

use crate::{
    on_both,
    support::{Engine, TestDb},
};

const CASES: u32 = 150;
const SEED: u64 = 12;
const OPERATIONS_MAX: usize = 60;
const LEASE_US: i64 = 60_000_000;
const BACKOFF_US: i64 = 10_000_000;
const LABS: i64 = 3;
const SLOTS: usize = 2;

on_both! {
    any_sequence_of_operations_leaves_the_queue_where_its_rules_say;
    a_resumed_lab_takes_the_turn_that_is_up_week_by_week;
}

/// An operation on the queue.
#[derive(Debug, Clone)]
enum Op {
    /// Enqueues a run: each lab with its first day and the number of days.
    Enqueue {
        kind: JobKind,
        labs: Vec<(i64, u64, u64)>,
    },
    Claim {
        slot: usize,
        limit: usize,
    },
    Heartbeat {
        slot: usize,
    },
    /// The process ends, signing off or not, and a new one takes its place.
    Restart {
        slot: usize,
        signs_off: bool,
    },
    Advance {
        us: i64,
    },
    Rescue,
    /// A worker claims jobs, its lease expires, and the jobs are rescued, this many times.
    Outlive {
        slot: usize,
        jobs: usize,
        times: usize,
    },
    /// A worker claims jobs and loses them, and then it or another worker claims.
    Lose {
        slot: usize,
        next: usize,
        jobs: usize,
        how: Loss,
    },
    /// Runs all jobs that are due, and closes the runs that have ended.
    Drain {
        slot: usize,
        fails: bool,
    },
    Complete {
        slot: usize,
        pick: Pick,
        jobs: usize,
    },
    Fail {
        slot: usize,
        pick: Pick,
        jobs: usize,
        permanent: bool,
        backoff_us: i64,
    },
    Release {
        slot: usize,
        pick: Pick,
        jobs: usize,
        wait_us: i64,
    },
    HandBack {
        slot: usize,
    },
    Retry {
        which: Which,
        backing_off: bool,
    },
    Cancel {
        which: Which,
    },
    CancelRun {
        run: Index,
    },
    Close,
    PauseKind {
        kind: JobKind,
    },
    PauseLab {
        lab: i64,
    },
    ResumeKind {
        kind: JobKind,
    },
    ResumeLab {
        lab: i64,
    },
    Prune {
        which: Which,
        older_us: i64,
    },
}

/// How a worker loses its jobs without completing them.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Lapse,
    HandBack,
    Fail,
}

/// A choice among a worker's claims.
#[derive(Debug, Clone, Copy)]
enum Pick {
    /// One that it has not settled, as far as it knows.
    Held(Index),
    /// One that it has lost and whose job is running again, with this worker or another; a held one if there is none.
    Lost(Index),
    /// Any claim that it ever made.
    Any(Index),
}

/// A filter, before it is known which runs exist.
#[derive(Debug, Clone)]
struct Which {
    run: Option<Index>,
    labs: Vec<i64>,
    from: Option<u64>,
    to: Option<u64>,
    state: Option<JobState>,
    kind: Option<JobKind>,
    error: Option<&'static str>,
}

fn kinds() -> impl Strategy<Value = JobKind> {
    select(JobKind::iter().collect::<Vec<_>>())
}

fn labs() -> impl Strategy<Value = i64> {
    1..=LABS
}

fn slots() -> impl Strategy<Value = usize> {
    0..SLOTS
}

fn picks() -> impl Strategy<Value = Pick> {
    prop_oneof![
        4 => any::<Index>().prop_map(Pick::Held),
        3 => any::<Index>().prop_map(Pick::Lost),
        1 => any::<Index>().prop_map(Pick::Any),
    ]
}

fn waits() -> impl Strategy<Value = i64> {
    select(&[0, 0, 1, 1_000_000, BACKOFF_US, LEASE_US, 20 * LEASE_US])
}

/// Mostly wide filters: one with every part set matches nothing.
fn whichs() -> impl Strategy<Value = Which> {
    (
        option::weighted(0.3, any::<Index>()),
        prop_oneof![3 => Just(Vec::new()), 1 => vec(labs(), 1..3)],
        option::weighted(0.15, 0..30_u64),
        option::weighted(0.15, 0..30_u64),
        option::weighted(0.15, select(JobState::iter().collect::<Vec<_>>())),
        option::weighted(0.15, kinds()),
        option::weighted(0.15, select(&["OUT of", "lab 1", "100%", "1_0", "again and again", "nothing has it"])),
    )
        .prop_map(|(run, labs, from, to, state, kind, error)| Which { run, labs, from, to, state, kind, error })
}

fn operations() -> impl Strategy<Value = Op> {
    let run_of_labs = subsequence((1..=LABS).collect::<Vec<_>>(), 1..=3)
        .prop_flat_map(|labs| labs.into_iter().map(|lab| (Just(lab), 0..10_u64, 1..=20_u64)).collect::<Vec<_>>());
    prop_oneof![
           6 => (kinds(), run_of_labs).prop_map(|(kind, labs)| Op::Enqueue { kind, labs }),
           12 => (slots(), 0..=12_usize).prop_map(|(slot, limit)| Op::Claim { slot, limit }),
           4 => slots().prop_map(|slot| Op::Heartbeat { slot }),
           2 => (slots(), any::<bool>()).prop_map(|(slot, signs_off)| Op::Restart { slot, signs_off }),
           6 => waits().prop_map(|us| Op::Advance { us }),
           5 => Just(Op::Rescue),
           1 => (slots(), 1..=3_usize, 1..=20_usize).prop_map(|(slot, jobs, times)| Op::Outlive { slot, jobs, times }),
           6 => (slots(), slots(), 1..=6_usize, select(&[Loss::Lapse, Loss::HandBack, Loss::Fail, Loss::Fail]))
               .prop_map(|(slot, next, jobs, how)| Op::Lose { slot, next, jobs, how }),
           2 => (slots(), any::<bool>()).prop_map(|(slot, fails)| Op::Drain { slot, fails }),
           8 => (slots(), picks(), 1..=6_usize).prop_map(|(slot, pick, jobs)| Op::Complete { slot, pick, jobs }),
           8 => (slots(), picks(), 1..=3_usize, prop::bool::weighted(0.2), waits())
               .prop_map(|(slot, pick, jobs, permanent, backoff_us)| Op::Fail { slot, pick, jobs, permanent, backoff_us }),
           5 => (slots(), picks(), 1..=3_usize, waits())
    .prop_map(|(slot, pick, jobs, wait_us)| Op::Release { slot, pick, jobs, wait_us }),
           2 => slots().prop_map(|slot| Op::HandBack { slot }),
           4 => (whichs(), any::<bool>()).prop_map(|(which, backing_off)| Op::Retry { which, backing_off }),
           1 => whichs().prop_map(|which| Op::Cancel { which }),
           1 => any::<Index>().prop_map(|run| Op::CancelRun { run }),
           4 => Just(Op::Close),
           1 => kinds().prop_map(|kind| Op::PauseKind { kind }),
           3 => labs().prop_map(|lab| Op::PauseLab { lab }),
           2 => kinds().prop_map(|kind| Op::ResumeKind { kind }),
           4 => labs().prop_map(|lab| Op::ResumeLab { lab }),
           3 => (whichs(), waits()).prop_map(|(which, older_us)| Op::Prune { which, older_us }),
       ]
}

async fn case(db: &TestDb, ops: &[Op]) -> Result<(), TestCaseError> {
    let fail = |at: String, error: anyhow::Error| TestCaseError::fail(format!("{at}: {error:#}"));
    let mut driver = Driver::new(db).await.map_err(|error| fail("at the start".to_owned(), error))?;
    for (number, op) in ops.iter().enumerate() {
        driver.step(op).await.map_err(|error| fail(format!("operation {number}, {op:?}"), error))?;
    }
    Ok(())
}

async fn any_sequence_of_operations_leaves_the_queue_where_its_rules_say(engine: Engine) {
    let db = TestDb::new(engine).await;
    let cases = std::env::var("DAYMEND_MODEL_CASES").map_or(CASES, |cases| cases.parse().expect("a number of cases"));
    let mut config = Config { cases, failure_persistence: None, max_shrink_time: 120_000, ..Config::default() };
    if config.rng_seed == RngSeed::Random && std::env::var_os("DAYMEND_MODEL_RANDOM").is_none() {
        config.rng_seed = RngSeed::Fixed(SEED);
    }
    let runtime = tokio::runtime::Handle::current();
    let result = tokio::task::block_in_place(|| {
        TestRunner::new(config).run(&vec(operations(), 1..=OPERATIONS_MAX), |ops| runtime.block_on(case(&db, &ops)))
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, ops)) => {
            let ops: Vec<String> = ops.iter().enumerate().map(|(number, op)| format!("  {number}: {op:?}")).collect();
            panic!("{why}\nthe shortest sequence that fails:\n{}", ops.join("\n"));
        }
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

/// The lab is the second of its run: its place in the run must not put it behind all others.
async fn a_resumed_lab_takes_the_turn_that_is_up_week_by_week(engine: Engine) {
    let db = TestDb::new(engine).await;
    let mut ops =
        vec![Op::Enqueue { kind: JobKind::Rebuild, labs: vec![(1, 0, 20), (2, 0, 20)] }, Op::PauseLab { lab: 2 }];
    ops.extend(vec![Op::Claim { slot: 0, limit: 12 }; 3]);
    ops.push(Op::Enqueue { kind: JobKind::Rebuild, labs: vec![(3, 0, 20)] });
    ops.extend([Op::ResumeLab { lab: 2 }, Op::Drain { slot: 0, fails: false }]);
    case(&db, &ops).await.unwrap();
}
