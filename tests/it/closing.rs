//! Runs that have ended are closed, however many there are, and none prevents another from being closed.

use std::time::Duration;

use daymend::{
    args,
    clock::Clock,
    db::Mode,
    queue::JobKind,
    rollup::HISTORICAL_SUMMARY,
    runs::{self, JobLimits, NewRun, close, held::Held},
    scheduler::{Report, Scheduler},
};

use crate::{
    held::requested,
    on_both,
    scheduler::{date, now},
    support::{
        Engine, TestDb,
        process::{run_fails, run_ok},
        work::{SCHEDULER, rollups},
    },
};

on_both! {
    many_open_runs_are_looked_at_in_turns;
    a_run_that_cannot_be_closed_stops_no_other;
}

async fn many_open_runs_are_looked_at_in_turns(engine: Engine) {
    const RUNS: usize = 450;
    let db = TestDb::new(engine).await;
    let mut tx = db.db.begin(Mode::Write).await.unwrap();
    let labs = vec![(1, vec![date("2026-06-01")])];
    let run = NewRun::new(JobKind::Repair, HISTORICAL_SUMMARY, now(), labs, JobLimits::any_shrink(1));
    for _ in 0..RUNS {
        runs::create(&mut tx, &run).await.unwrap();
    }
    tx.commit().await.unwrap();
    let (mut next, mut turns) = (None, Vec::new());
    loop {
        let mut report = close::Report::default();
        next = close::close_next_runs(&db.db, next, &mut report, &mut Held::default()).await.unwrap().next;
        turns.push(report.open.len());
        if next.is_none() {
            break;
        }
    }
    assert_eq!(turns, [200, 200, 50]);
    // The last run is closed in its turn, and one call of `close_runs` looks at all of them.
    db.execute("UPDATE daymend_jobs SET state = 'completed' WHERE id >= (SELECT MAX(run_id) * 100000000 FROM (SELECT * FROM daymend_jobs) AS jobs)", args![]).await;
    let mut report = close::Report::default();
    close::close_runs(&db.db, &mut report, &mut Held::default()).await.unwrap();
    assert_eq!((report.closed.len(), report.open.len()), (1, RUNS - 1));
    // The error of a run in the first turn is still returned after the other turns, and does not stop them.
    db.execute("UPDATE daymend_jobs SET state = 'completed'", args![]).await;
    let first = db.number("SELECT MIN(id) FROM daymend_runs").await;
    db.refuse("UPDATE", "daymend_runs", &format!("NEW.id = {first}")).await;
    let mut report = close::Report::default();
    close::close_runs(&db.db, &mut report, &mut Held::default()).await.unwrap_err();
    assert_eq!((report.closed.len(), report.unclosed.into_keys().collect::<Vec<_>>()), (RUNS - 2, vec![first]));
}

/// Three runs have ended, and the records of the first cannot be updated.
async fn a_run_that_cannot_be_closed_stops_no_other(engine: Engine) {
    let db = TestDb::new(engine).await;
    let records = requested(&db, 1..=3).await;
    db.tick(now()).await;
    db.execute("UPDATE daymend_jobs SET state = 'completed'", args![]).await;
    db.refuse("UPDATE", "crelio_data_migrations", "NEW.lab_id = 1").await;
    let run = |lab: i64| format!("SELECT id FROM daymend_runs WHERE kind = 'rebuild' AND lab_id = {lab}");
    let runs = [db.number(&run(1)).await, db.number(&run(2)).await, db.number(&run(3)).await];
    // Watching one run does not report errors of another.
    run_ok(&db, &["runs", "watch", &runs[1].to_string()]);
    let (rollups, mut report) = (rollups(), Report::default());
    let rollup = rollups.get(HISTORICAL_SUMMARY).unwrap();
    let scheduler = Scheduler { db: &db.db, rollup, config: &SCHEDULER, clock: Clock::Fixed(now()) };
    scheduler.tick(&mut report).await.unwrap_err();
    assert!(report.runs.unclosed[&runs[0]].contains("not now") && report.runs.unclosed.len() == 1, "{report:?}");
    assert_eq!(db.record_status(records[2]).await, "Completed");
    let said = run_fails(&db, 1, &["scheduler", "--once"]);
    assert!(said.contains(&format!("run {} cannot be closed", runs[0])), "{said}");
    db.execute("DROP TRIGGER refuse", args![]).await;
    assert!(db.tick(now()).await.runs.unclosed.is_empty());
    for record in records {
        assert_eq!(db.record_status(record).await, "Completed");
    }
}

/// A table that somebody has locked is waited for once, not once per run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_whose_records_cannot_be_read_in_time_are_not_waited_for_one_by_one() {
    let db = TestDb::new(Engine::MariaDb).await;
    requested(&db, 1..=3).await;
    db.tick(now()).await;
    let somebody = db.lock(&["crelio_data_migrations"]).await;
    let (impatient, mut report) = (db.db.with_limit(Duration::from_secs(1)), close::Report::default());
    let begun = std::time::Instant::now();
    let error = close::close_runs(&impatient, &mut report, &mut Held::default()).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(error.to_string().contains("linked migrations") && report.unclosed.len() == 1, "{error} {report:?}");
    // The next slice begins with the run after it.
    let first = *report.unclosed.keys().next().unwrap();
    let slice = close::close_next_runs(&impatient, Some(first), &mut report, &mut Held::default()).await.unwrap();
    assert!(slice.next > Some(first) && report.unclosed.len() == 2, "{slice:?}");
    drop(somebody);
    close::close_runs(&db.db, &mut close::Report::default(), &mut Held::default()).await.unwrap();
}
