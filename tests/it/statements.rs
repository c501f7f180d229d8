//! Every statement of the program can be prepared on both databases; on MariaDB with the privileges of the user that
//! runs it. The server sees each with its name.

use std::{collections::BTreeSet, fs, path::Path};

use daymend::{
    args,
    db::{ConnectOptions, Owner, Statement, connect},
    recompute::stored::{self, Access},
    rollup::{Rollups, source},
};

use crate::{
    on_both,
    support::{Engine, TestDb, process::run_ok, server::Server},
};

/// Counts the statements that the source declares: those that the registry loses would not be prepared.
fn declared(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let in_file = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        text.lines().filter(|line| line.trim_start().starts_with("statement!(")).count()
    };
    entries.map(|path| if path.is_dir() { declared(&path) } else { in_file(&path) }).sum()
}

on_both! {
    every_statement_prepares;
}

async fn every_statement_prepares(engine: Engine) {
    let db = TestDb::new(engine).await;
    let migrating = connect(&db.migrate_url, ConnectOptions::new(1)).unwrap();
    assert_eq!(Statement::all().count(), declared(Path::new("src")));
    for statement in Statement::all().filter(|statement| statement.runs_on(db.db.dialect())) {
        let user = if statement.owner == Owner::Migrate { &migrating } else { &db.db };
        user.columns(statement.written_out(3))
            .await
            .unwrap_or_else(|error| panic!("{}", daymend::error::chain(&error)));
    }
    for rollup in Rollups::load(None).unwrap().iter() {
        assert_eq!(source::check(&db.db, rollup).await.unwrap(), []);
        assert_eq!(stored::check(&db.db, rollup, Access::Write).await.unwrap(), None);
    }
}

/// The slow-query log and the process list show what the general log shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_sees_every_statement_with_its_name() {
    const NOW: &str = "2026-06-15T12:00:00Z";
    // What begins and ends transactions, and what a session begins with.
    const NO_STATEMENTS: [&str; 4] = ["SET ", "START TRANSACTION", "COMMIT", "ROLLBACK"];
    let server = Server::start("log").expect("MariaDB starts");
    let db = TestDb::on_server(server.port).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.add_test(1, Some(1)).await;
    db.fill_lab(1, "2026-06-08".parse().unwrap(), 6, 4).await;
    for sql in ["SET GLOBAL log_output = 'TABLE'", "SET GLOBAL general_log = 1"] {
        db.execute(sql, args![]).await;
    }
    let work = |throttle: &str| {
        run_ok(&db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-08", "--to", "2026-06-13"]);
        run_ok(&db, &["--now", NOW, "worker", "--drain", &format!("--throttle-query={throttle}")]);
    };
    work("-- the operator's\nSELECT 0");
    db.execute("UPDATE operation_historical_summary SET event_count = event_count + 1 WHERE id % 2 = 0", args![]).await;
    db.execute("DELETE FROM operation_historical_summary WHERE id % 5 = 0", args![]).await;
    db.execute("UPDATE collectedSample SET isAccessed = 1 WHERE id % 3 = 0", args![]).await;
    work("WITH load_now AS (SELECT 0 AS of_it) SELECT of_it FROM load_now");
    run_ok(&db, &["--now", NOW, "scheduler", "--once"]);
    db.execute("SET GLOBAL general_log = 0", args![]).await;
    let log = "SELECT command_type, CONVERT(argument USING utf8mb4) FROM mysql.general_log
               WHERE command_type IN ('Prepare', 'Execute', 'Query') AND user_host LIKE ?";
    let log = db.rows(log, args![format!("{}[%", db.name())]).await;
    let mut names = BTreeSet::new();
    for (command, sql) in log.iter().map(|row| (row.text(0).unwrap(), row.text(1).unwrap())) {
        let name = sql.lines().next().and_then(|line| line.strip_prefix("-- daymend: "));
        assert!(
            name.is_some() || command == "Query" && NO_STATEMENTS.iter().any(|begin| sql.starts_with(begin)),
            "{sql}"
        );
        names.extend(name.map(str::to_owned));
    }
    let rollups = Rollups::load(None).unwrap();
    let of_the_rollup = rollups.iter().flat_map(|rollup| rollup.facts.iter().map(|fact| fact.sql.file.as_str()));
    for name in ["claim", "complete", "throttle query", "labs.sql", "days.sql"].into_iter().chain(of_the_rollup) {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
}
