//! The plans of statements that run all the time: by an index, without a sort, and at a cost that does not grow with
//! the backlog.

mod pruning;
mod summary;
mod ticks;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use chrono::{DateTime, Days, NaiveDate};
use daymend::{
    args,
    db::{Arg, Db, Dialect, Mode, Query, Statement, Tx, repeat},
    queue::{FIRST_DUE_US, JobKind, claim, ids_of, lease, settle},
    rollup::HISTORICAL_SUMMARY,
    runs::{self, JobLimits, NewRun},
};
use strum::IntoEnumIterator as _;

use crate::{
    on_both,
    support::{Engine, TestDb},
};

const LONG: Duration = Duration::from_secs(3600);
/// How many jobs a claim asks for, and how many one statement settles.
const BATCH: usize = 100;

on_both! {
    statements_that_run_all_the_time_walk_an_index_and_do_not_sort;
    a_claim_reads_no_more_of_a_large_backlog_than_of_a_small_one;
}

async fn enqueue(db: &TestDb, kind: JobKind, labs: std::ops::RangeInclusive<i64>, days: u64) -> i64 {
    let first = NaiveDate::from_ymd_opt(1990, 1, 1).unwrap();
    let days: Vec<NaiveDate> = (0..days).map(|day| first + Days::new(day)).collect();
    let labs = labs.map(|lab| (lab, days.clone())).collect();
    let new = NewRun::new(kind, HISTORICAL_SUMMARY, DateTime::UNIX_EPOCH, labs, JobLimits::any_shrink(3));
    let mut tx = db.db.begin(Mode::Write).await.unwrap();
    let run = runs::create(&mut tx, &new).await.unwrap();
    tx.commit().await.unwrap();
    run
}

async fn analyze(db: &TestDb) {
    match db.engine {
        Engine::MariaDb => {
            db.rows(
                "ANALYZE TABLE daymend_jobs, daymend_workers, daymend_runs, daymend_pauses, daymend_attempts,
                     daymend_migrations, daymend_dirty, crelio_data_migrations",
                vec![],
            )
            .await;
        }
        Engine::Sqlite => {
            db.execute("ANALYZE", vec![]).await;
        }
    }
}

fn statement(name: &str) -> &'static Statement {
    Statement::all().find(|statement| statement.name == name).unwrap_or_else(|| panic!("no statement {name:?}"))
}

/// The line of a plan for one table.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    table: String,
    /// MariaDB's join type; SEARCH or SCAN on SQLite.
    access: String,
    index: Option<String>,
    /// Everything else that the database says about it.
    remarks: String,
}

async fn explain(tx: &mut Tx, engine: Engine, sql: &str, args: Vec<Arg>) -> Vec<Step> {
    // Every statement is prepared anew: MariaDB explains a reused prepared statement with the arguments of its first
    // execution folded in (it runs the statement itself correctly).
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let explain = match engine {
        Engine::MariaDb => "EXPLAIN",
        Engine::Sqlite => "EXPLAIN QUERY PLAN",
    };
    // A statement cannot be explained together with SET STATEMENT.
    let sql = sql.replace("{waiting_for_nobody}", "");
    let rows = tx.fetch_all(Query::new("explain", format!("{explain} {sql}\n-- {count}")), args, Ok).await;
    let rows = rows.unwrap_or_else(|error| panic!("{sql}: {}", daymend::error::chain(&error)));
    let named = |row: &daymend::db::Row, name| row.text_or_null(row.position(name).unwrap()).unwrap();
    // MySQL also has a line for the table that rows are inserted into.
    let is_read = |row: &&daymend::db::Row| {
        engine == Engine::Sqlite || named(row, "select_type").is_none_or(|kind| kind != "INSERT" && kind != "REPLACE")
    };
    let steps = rows.iter().filter(is_read).map(|row| match engine {
        Engine::MariaDb => Step {
            table: named(row, "table").unwrap_or_default(),
            access: named(row, "type").unwrap_or_default(),
            index: named(row, "key"),
            remarks: named(row, "Extra").unwrap_or_default(),
        },
        // "SEARCH daymend_jobs USING COVERING INDEX daymend_jobs_claim (kind=? AND …)"
        Engine::Sqlite => {
            let detail = row.text(3).unwrap();
            let words: Vec<&str> = detail.split(' ').collect();
            let is_access = matches!(words[0], "SEARCH" | "SCAN") && words.get(1) != Some(&"CONSTANT");
            let after = |word| words.iter().position(|found| *found == word).and_then(|at| words.get(at + 1));
            // A search for the first or last key names no index.
            let is_by_key = detail.contains("INTEGER PRIMARY KEY") || words.len() == 2 && words[0] == "SEARCH";
            let index = if is_by_key { Some(&"PRIMARY") } else { after("INDEX") };
            Step {
                table: if is_access { words[1].to_owned() } else { String::new() },
                access: if is_access { words[0].to_owned() } else { String::new() },
                index: index.filter(|_| is_access).map(|index| (*index).to_owned()),
                remarks: detail,
            }
        }
    });
    steps.collect()
}

/// Returns what is wrong with a plan that should read daymend's tables by this index.
fn faults(steps: &[Step], index: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let tables = [
        ("daymend_jobs", index),
        ("jobs", index),
        ("daymend_workers", "PRIMARY"),
        ("workers", "PRIMARY"),
        ("daymend_runs", if index.starts_with("daymend_runs") { index } else { "PRIMARY" }),
        ("daymend_migrations", "daymend_migrations_run"),
        ("links", "daymend_migrations_run"),
        ("crelio_data_migrations", "PRIMARY"),
        ("records", "PRIMARY"),
        ("daymend_dirty", "PRIMARY"),
        ("daymend_attempts", "daymend_attempts_job"),
    ];
    for step in steps {
        // Pauses are not checked: there are few.
        if let Some((_, index)) = tables.iter().find(|(table, _)| *table == step.table) {
            if step.index.as_deref() != Some(index) {
                faults.push(format!("not by {index}: {step:?}"));
            }
            if matches!(step.access.as_str(), "ALL" | "index" | "SCAN") {
                faults.push(format!("a scan: {step:?}"));
            }
        }
        if ["filesort", "temporary", "TEMP B-TREE"].iter().any(|bad| step.remarks.contains(bad)) {
            faults.push(format!("a sort or a copy: {step:?}"));
        }
    }
    // MariaDB reads the ends of an index during optimization.
    let is_read =
        |step: &Step| step.remarks.contains("optimized away") || tables.iter().any(|(table, _)| *table == step.table);
    if !steps.iter().any(is_read) {
        faults.push(format!("no table of the queue is read: {steps:?}"));
    }
    faults
}

/// Returns every hot statement with arguments (the worker holds `jobs`), and the index that finds its jobs or workers.
fn hot_statements(run: i64, worker: i64, jobs: &[i64]) -> Vec<(Query<'static>, Vec<Arg>, &'static str)> {
    const CLAIM: &str = "daymend_jobs_claim";
    const PRIMARY: &str = "PRIMARY";
    let (first, last) = ids_of(run);
    let with_ids = |mut args: Vec<Arg>| {
        args.extend(jobs[..BATCH].iter().copied().map(Arg::Int));
        args
    };
    let mut hot = vec![
        ("complete", with_ids(args![0_i64, 0_i64, 0_i64, worker, 1_i64]), PRIMARY),
        ("claim", with_ids(args![worker, worker]), PRIMARY),
        ("claim park", with_ids(args![FIRST_DUE_US]), PRIMARY),
        ("claim postpone", args![jobs[0]], PRIMARY),
        ("fail", args![false, 1_i64, "the reason", false, worker, 1_i64, jobs[0]], PRIMARY),
        ("record attempt", args!["failed", "the reason", worker, 1_i64, jobs[0]], PRIMARY),
        ("release", with_ids(args![1_i64, worker, 1_i64]), PRIMARY),
        ("lock lapsed jobs", with_ids(args![]), PRIMARY),
        ("record lapse", with_ids(args![]), PRIMARY),
        ("rescue", with_ids(args![10_i64, 10_i64, 10_i64]), PRIMARY),
        ("lock own jobs", with_ids(args![worker]), PRIMARY),
        ("own jobs", with_ids(args![worker]), PRIMARY),
        ("lock for hand-back", args![worker], CLAIM),
        ("record hand-back", with_ids(args![worker]), PRIMARY),
        ("hand back", with_ids(args![worker]), PRIMARY),
        ("jobs of worker", args![worker], CLAIM),
        ("run progress", args![first, last], PRIMARY),
        ("waiting in run", args![first, last, FIRST_DUE_US], PRIMARY),
        ("done of nightly run", args![FIRST_DUE_US, first, last], PRIMARY),
        ("heartbeat", args![1_i64, worker], PRIMARY),
        ("jobs waiting", args![], CLAIM),
        ("doctor discarded jobs", args![1001_i64], CLAIM),
    ];
    for kind in JobKind::iter().map(JobKind::name) {
        hot.extend([
            ("claim due", args![kind, FIRST_DUE_US, BATCH], CLAIM),
            ("claim turn", args![kind, 0_i64, FIRST_DUE_US, BATCH], CLAIM),
            ("oldest due", args![kind, FIRST_DUE_US], CLAIM),
            ("jobs front", args![kind, FIRST_DUE_US], CLAIM),
            ("jobs open", args![kind, kind, FIRST_DUE_US, "kind:repair"], CLAIM),
            ("lapsed jobs", args![500_i64], CLAIM),
            ("doctor waiting jobs", args![kind, 1001_i64], CLAIM),
        ]);
    }
    let alive = (statement("lapsed workers alive").with_list(1), args![worker], PRIMARY);
    let many = hot.into_iter().map(|(name, args, index)| (statement(name).with_list(BATCH), args, index));
    many.chain([alive]).collect()
}

async fn statements_that_run_all_the_time_walk_an_index_and_do_not_sort(engine: Engine) {
    let db = TestDb::new(engine).await;
    let run = enqueue(&db, JobKind::Rebuild, 1..=2, 11_000).await;
    enqueue(&db, JobKind::Nightly, 3..=200, 1).await;
    enqueue(&db, JobKind::Repair, 201..=204, 300).await;
    // Jobs in every state: held by two workers, backing off, completed, discarded.
    let worker = lease::register(&db.db, "explain", LONG).await.unwrap();
    let other = lease::register(&db.db, "explain", LONG).await.unwrap();
    // Databases rightly scan a table of two rows.
    for _ in 0..100 {
        lease::register(&db.db, "explain", LONG).await.unwrap();
    }
    let jobs = claim::claim(&db.db, worker, 900).await.unwrap();
    for job in &jobs[..20] {
        let failure = settle::Failure { error: "the reason".to_owned(), permanent: job.id % 2 == 0, backoff: LONG };
        assert!(settle::fail(&db.db, worker, job, &failure).await.unwrap());
    }
    settle::complete_unchanged(&db.db, worker, &jobs[20..600]).await.unwrap();
    claim::claim(&db.db, other, 300).await.unwrap();
    let held: Vec<i64> = jobs[600..].iter().map(|job| job.id).collect();
    assert!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'available'").await > 20_000);
    // SQLite plans without statistics until somebody runs ANALYZE; the plans must be good either way.
    let mut faulty = BTreeMap::new();
    for is_analyzed in [false, true] {
        if is_analyzed {
            analyze(&db).await;
        } else if engine == Engine::MariaDb {
            continue;
        }
        let mut tx = db.db.begin(Mode::Write).await.unwrap();
        for (query, args, index) in hot_statements(run, worker, &held) {
            let steps = explain(&mut tx, engine, query.sql(db.db.dialect()), args).await;
            let faults = faults(&steps, index);
            if !faults.is_empty() {
                faulty.insert(query.name(), faults);
            }
        }
        tx.rollback().await.unwrap();
    }
    let count = faulty.len();
    let list: Vec<String> =
        faulty.iter().map(|(sql, faults)| format!("{sql}\n    {}", faults.join("\n    "))).collect();
    assert!(faulty.is_empty(), "{count} statements:\n{}", list.join("\n"));
}

/// Returns the statements of a claim of rebuild jobs, with their arguments.
fn claim_statements(run: i64, worker: i64) -> Vec<(Query<'static>, Vec<Arg>)> {
    let jobs: Vec<i64> = (ids_of(run).0..).take(BATCH).collect();
    let statements = hot_statements(run, worker, &jobs);
    let is_of_claim = |query: &Query<'_>, args: &[Arg]| match query.name() {
        "jobs waiting" | "claim" => true,
        "claim due" | "claim turn" => args[0] == Arg::from("rebuild"),
        _ => false,
    };
    let of_claim: Vec<_> = statements.into_iter().filter(|(query, args, _)| is_of_claim(query, args)).collect();
    assert_eq!(of_claim.len(), 4);
    of_claim.into_iter().map(|(query, args, _)| (query, args)).collect()
}

/// Returns how many rows and index entries the connection has read so far.
async fn reads(tx: &mut Tx) -> i64 {
    let rows =
        tx.fetch_all(Query::new("reads", "SHOW SESSION STATUS LIKE 'Handler_read%'"), args![], Ok).await.unwrap();
    rows.iter().map(|row| row.text(1).unwrap().parse::<i64>().unwrap()).sum()
}

/// Returns the cost of a claim: the rows read on MariaDB, and the plan on SQLite, which does not report them.
async fn cost_of_claim(db: &TestDb, run: i64, worker: i64) -> (i64, Vec<Step>) {
    analyze(db).await;
    let mut tx = db.db.begin(Mode::Write).await.unwrap();
    let (mut read, mut plan) = (0, Vec::new());
    for (query, args) in claim_statements(run, worker) {
        match db.engine {
            Engine::MariaDb => {
                // Reading the counters is counted, too.
                let looking = -reads(&mut tx).await + reads(&mut tx).await;
                let before = reads(&mut tx).await;
                let found = tx.fetch_all(query, args, Ok).await.unwrap();
                assert!(found.len() <= BATCH);
                read += reads(&mut tx).await - before - looking;
            }
            // There are so few workers that their plan means nothing.
            Engine::Sqlite => {
                let steps = explain(&mut tx, db.engine, query.sql(db.db.dialect()), args).await;
                plan.extend(steps.into_iter().filter(|step| step.table.ends_with("jobs")));
            }
        }
    }
    tx.rollback().await.unwrap();
    (read, plan)
}

async fn a_claim_reads_no_more_of_a_large_backlog_than_of_a_small_one(engine: Engine) {
    let db = TestDb::new(engine).await;
    let worker = lease::register(&db.db, "explain", LONG).await.unwrap();
    let run = enqueue(&db, JobKind::Rebuild, 1..=1, 1_000).await;
    spread(&db).await;
    // The first time, tables have to be opened.
    cost_of_claim(&db, run, worker).await;
    let small = cost_of_claim(&db, run, worker).await;
    enqueue(&db, JobKind::Rebuild, 2..=8, 7_000).await;
    spread(&db).await;
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE state = 'available'").await, 50_000);
    let large = cost_of_claim(&db, run, worker).await;
    assert!(large.0 <= small.0 && large.1 == small.1, "{large:?} with many, {small:?} with few");
    // Jobs that are due again, jobs by their turn, and each job once more to update it; a few to look first.
    assert!(small.0 <= 4 * BATCH as i64 + 20, "{} rows read", small.0);
}

/// Makes a quarter of the jobs due again now, and a quarter later; the other half waits for its turn.
async fn spread(db: &TestDb) {
    let later = DateTime::from_timestamp(4_000_000_000, 0).unwrap().timestamp_micros();
    let sql = "UPDATE daymend_jobs SET sort_key = CASE id % 4 WHEN 0 THEN ? ELSE ? END WHERE id % 4 < 2";
    db.execute(sql, args![later, FIRST_DUE_US]).await;
}

/// Returns how many rows and index entries the one connection has read so far; 0 on SQLite, which does not report it.
async fn rows_read(one: &Db) -> i64 {
    let mut tx = one.begin(Mode::Write).await.unwrap();
    let read = match one.dialect() {
        Dialect::MySql => reads(&mut tx).await,
        Dialect::Sqlite => 0,
    };
    tx.commit().await.unwrap();
    read
}

/// Inserts a row for each id.
async fn add_many(db: &TestDb, insert: &str, row: &str, ids: std::ops::Range<i64>) {
    let ids: Vec<i64> = ids.collect();
    for ids in ids.chunks(500) {
        let sql = format!("{insert} VALUES {}", repeat(row, ids.len()));
        db.execute(&sql, ids.iter().copied().map(Arg::Int).collect()).await;
    }
}
