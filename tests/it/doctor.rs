//! The doctor finds each planted fault, says how bad it is and what to do, and no longer finds it once that has been
//! done. On a healthy site it finds nothing, and it never writes.

use chrono::TimeDelta;
use daymend::{
    args,
    db::{instant_text, migrate},
};
use serde_json::Value;
use sqlx::{Connection as _, Row as _, SqliteConnection};

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        doctor::{NOW, arguments, examine, examine_as_admin, examine_with, healthy, now},
        process::{run, run_ok},
        server::Product,
    },
};

on_both! {
    a_site_that_is_well_has_no_finding;
    a_missing_or_newer_schema_is_an_exit_code_of_its_own;
    missing_tables_and_columns_are_named;
    jobs_that_nobody_works_off_and_runs_that_nobody_closes_are_found;
    discarded_jobs_pauses_and_old_runs_are_found;
    jobs_that_were_discarded_for_what_would_vanish_are_not_just_retried;
    what_started_and_never_ended_is_found;
    stuck_waiting_and_doubled_records_are_found;
    delta_triggers_are_found_and_daymends_own_are_not;
    incomplete_triggers_and_marks_that_nobody_takes_are_found;
    what_may_take_a_while_is_found_when_it_takes_longer;
    what_has_its_reasons_is_not_found;
    every_kind_of_job_that_gave_up_is_found;
    the_doctor_writes_nothing;
    the_page_has_a_line_for_each_finding_and_ends_with_a_verdict;
}

async fn a_site_that_is_well_has_no_finding(engine: Engine) {
    let db = healthy(engine).await;
    let well = examine(&db);
    well.assert_well();
    let checked = well.json["checked"].as_array().unwrap();
    assert!(checked.len() >= 25, "{checked:?}");
    // The user of grants.sql cannot see triggers.
    let unseen = if engine == Engine::MariaDb { vec!["triggers.own"] } else { vec![] };
    assert_eq!(well.json["skipped"], serde_json::json!(unseen));
    assert_eq!(well.json["exit_code"], well.code);
    for fact in ["server", "schema", "labs", "workers", "scheduler"] {
        assert!(well.json["facts"].as_array().unwrap().iter().any(|known| known["name"] == fact), "{fact}");
    }
    // Notes do not affect the exit code.
    assert_eq!(well.code, 0);
    assert!(well.json["verdict"].as_str().unwrap().starts_with("All well"));
}

async fn a_missing_or_newer_schema_is_an_exit_code_of_its_own(engine: Engine) {
    let db = TestDb::source_only(engine).await;
    let none = examine(&db);
    assert_eq!(none.advice("schema.version", "error"), "daymend migrate");
    assert_eq!(none.code, 5);
    assert!(!none.json["skipped"].as_array().unwrap().is_empty());
    run_ok(&db, &["migrate"]);
    assert_eq!(examine(&db).ids(), ["labs.none"]);
    // All of the lab system's tables exist, and none of daymend's.
    for table in migrate::tables().chain(["daymend_schema"]) {
        db.execute(&format!("DROP TABLE {table}"), args![]).await;
    }
    let none = examine(&db);
    assert_eq!(none.ids(), ["schema.version", "labs.none"], "{:#}", none.json);
    run_ok(&db, &["migrate"]);
    db.execute("INSERT INTO daymend_schema VALUES (999, 'later', '2026-01-01 00:00:00')", args![]).await;
    let newer = examine(&db);
    assert!(newer.what("schema.version").contains("newer"));
    assert_eq!(newer.code, 5);
}

async fn missing_tables_and_columns_are_named(engine: Engine) {
    let db = healthy(engine).await;
    db.execute("ALTER TABLE billingInfo RENAME COLUMN branch_id TO site_id", args![]).await;
    for (found, is_narrow) in [(examine_as_admin(&db), false), (examine(&db), true)] {
        // MySQL hides which columns exist from a user who may not read all of them.
        let is_denied = is_narrow && engine == Engine::MariaDb && Product::tested() == Product::MySql;
        let id = if is_denied { "grants.narrow" } else { "tables.source" };
        assert_eq!(found.code, 1);
        let findings = found.of(id);
        assert_eq!(findings.len(), 1, "{id}: {:#}", found.json);
        assert!(findings.iter().all(|finding| finding["severity"] == "error"));
        assert!(
            findings[0]["where"] == "historical_summary/bills.sql"
                && findings[0]["what"].as_str().unwrap().contains("branch_id")
        );
        // The other checks that read the column are skipped, or give a note.
        let others = found.findings().into_iter().filter(|finding| finding["id"] != id);
        assert!(others.into_iter().all(|finding| finding["severity"] == "note"), "{:#}", found.json);
    }
    db.apply("ALTER TABLE billingInfo RENAME COLUMN site_id TO branch_id").await;

    db.execute("ALTER TABLE operation_event_log RENAME COLUMN status TO state", args![]).await;
    db.execute("DROP TABLE daymend_pauses", args![]).await;
    let found = examine_as_admin(&db);
    assert!(found.what("tables.output").starts_with("operation_event_log:"));
    let advice = found.advice("tables.daymend", "error");
    assert!(found.what("tables.daymend").starts_with("daymend_pauses:"));
    db.apply("ALTER TABLE operation_event_log RENAME COLUMN state TO status").await;
    assert!(advice.contains("DELETE FROM daymend_schema WHERE version >= 1; then daymend migrate"), "{advice}");
    db.execute("DELETE FROM daymend_schema WHERE version >= 1", args![]).await;
    run_ok(&db, &["migrate"]);
    examine(&db).assert_well();
}

async fn jobs_that_nobody_works_off_and_runs_that_nobody_closes_are_found(engine: Engine) {
    let db = healthy(engine).await;
    run_ok(
        &db,
        &["--now", "2026-06-15T12:00:00Z", "repair", "--lab", "1", "--day", "2026-06-10", "--to", "2026-06-12"],
    );
    let found = examine(&db);
    assert_eq!(found.code, 1);
    assert!(found.what("queue.workers").contains("none is alive to run 3 jobs"));
    assert!(found.advice("queue.workers", "error").contains("start daymend worker"));
    // Jobs of a paused kind need no worker.
    run_ok(&db, &["queue", "pause", "repair"]);
    assert!(!examine(&db).has("queue.workers"));
    run_ok(&db, &["queue", "resume", "repair"]);
    db.drain(now()).await;
    examine(&db).assert_well();
    db.execute("UPDATE daymend_runs SET created_at = '2026-01-01 00:00:00' WHERE state = 'running'", args![]).await;
    let found = examine(&db);
    assert!(found.advice("queue.scheduler", "error").contains("start daymend scheduler"));
    db.tick(now()).await;
    examine(&db).assert_well();
}

async fn discarded_jobs_pauses_and_old_runs_are_found(engine: Engine) {
    let db = healthy(engine).await;
    db.execute("UPDATE daymend_jobs SET state = 'discarded', error = 'lab 1: the reason'", args![]).await;
    let found = examine(&db);
    assert!(found.what("queue.discarded").contains("lab 1: 1 job discarded"));
    assert!(found.what("queue.discarded").contains("the reason"));
    let advice = found.advice("queue.discarded", "warning");
    let retry = arguments(advice.split_once("; ").unwrap().1);
    assert_eq!(retry, ["queue", "retry", "--all"]);
    run_ok(&db, &retry);
    db.settle(now()).await;
    examine(&db).assert_well();

    for (target, advice) in [("rebuild", "daymend queue resume rebuild"), ("--lab 1", "daymend queue resume --lab 1")] {
        run_ok(&db, &[&["queue", "pause"], &target.split(' ').collect::<Vec<_>>()[..]].concat());
        let found = examine(&db);
        assert_eq!(found.advice("queue.paused", "note"), advice);
        assert_eq!(found.ids(), ["queue.paused"]);
        run_ok(&db, &arguments(advice));
        examine(&db).assert_well();
    }

    let now_text = now().to_rfc3339();
    run_ok(&db, &["--now", &now_text, "repair", "--day", "2026-06-12"]);
    db.settle(now()).await;
    // The nightly run is the last of its zone, and is kept.
    db.execute("UPDATE daymend_runs SET finished_at = '2020-01-01 00:00:00'", args![]).await;
    let found = examine(&db);
    assert!(found.what("queue.unpruned").contains("1 run kept for longer than 90 days, the oldest since 2020-01-01"));
    examine_with(&db, &["--retention", "0s"]).assert_well();
    let advice = found.advice("queue.unpruned", "warning");
    let quoted: Vec<&str> = advice.split('"').collect();
    run_ok(&db, &["queue", "prune", "--older-than", quoted[1]]);
    examine(&db).assert_well();
}

async fn jobs_that_were_discarded_for_what_would_vanish_are_not_just_retried(engine: Engine) {
    let db = healthy(engine).await;
    let error = "lab 1, 2026-06-14: 20 of 20 rows would vanish, more than --max-shrink 50%";
    db.execute("UPDATE daymend_jobs SET state = 'discarded', error = ?", args![error]).await;
    let found = examine(&db);
    assert!(found.what("queue.discarded").starts_with("lab 1: 1 job discarded, such as job"), "{:#}", found.json);
    let advice = found.advice("queue.discarded", "warning");
    assert!(advice.contains("docs/recovery.md") && !advice.contains("--all"), "{advice}");
    // Jobs that were discarded for another reason have their own advice.
    run_ok(&db, &["--now", NOW, "repair", "--day", "2026-06-12"]);
    db.settle(now()).await;
    db.execute("UPDATE daymend_jobs SET state = 'discarded', error = 'the reason' WHERE state = 'completed'", args![])
        .await;
    let found = examine(&db);
    let advice = |finding: &&Value| finding["advice"].as_str().unwrap().contains("queue retry --all");
    assert_eq!(found.of("queue.discarded").iter().map(advice).collect::<Vec<_>>(), [false, true]);
}

async fn what_started_and_never_ended_is_found(engine: Engine) {
    let db = healthy(engine).await;
    let insert = "INSERT INTO operation_event_log (event_name, status, created_at) VALUES (?, ?, ?)";
    let name = "Nightly-Operation-Summary of O'Brien";
    for (status, at) in [
        ("STARTED", "2026-03-14 04:00:00"),
        ("COMPLETED", "2026-03-14 04:10:00"),
        ("STARTED", "2026-03-15 04:00:00"),
        ("STARTED", "2026-03-16 04:00:00"),
        ("COMPLETED", "2026-03-16 04:10:00"),
    ] {
        db.execute(insert, args![name, status, at]).await;
    }
    let found = examine(&db);
    let advice = found.advice("records.event_log", "warning");
    assert!(found.what("records.event_log").contains("STARTED at 2026-03-15 04:00"));
    assert!(advice.starts_with("daymend repair --day 2026-03-14;"), "{advice}");
    db.apply(&advice[advice.find("INSERT").unwrap()..]).await;
    examine(&db).assert_well();
    // An open run has not failed, however old it is.
    run_ok(&db, &["--now", "2026-06-15T12:00:00Z", "repair", "--lab", "1", "--day", "2026-06-10"]);
    db.execute("UPDATE operation_event_log SET created_at = '2026-06-01 00:00:00'", args![]).await;
    assert!(!examine(&db).has("records.event_log"));
    db.execute("DELETE FROM daymend_runs WHERE state = 'running'", args![]).await;
    assert!(examine(&db).has("records.event_log"));
    // Nor is it out of sight after a day of late changes.
    let (late, row) = ("Late-Changes run 9: late changes of lab 1, 2026-06-10", "(?, ?, '2026-06-02 00:00:00')");
    for status in ["STARTED", "COMPLETED"].repeat(11) {
        let entries = vec![row; 500].join(", ");
        let insert = format!("INSERT INTO operation_event_log (event_name, status, created_at) VALUES {entries}");
        db.execute(&insert, std::iter::repeat_n([late, status], 500).flatten().map(Into::into).collect()).await;
    }
    assert!(examine(&db).what("records.event_log").contains("STARTED at 2026-06-01"));
}

async fn stuck_waiting_and_doubled_records_are_found(engine: Engine) {
    let db = healthy(engine).await;
    let record = db.request_rebuild(1).await;
    db.execute("UPDATE crelio_data_migrations SET job_status = 'Running (3/9)', is_scheduled = 0", args![]).await;
    let found = examine(&db);
    assert!(found.what("records.stuck").contains(&format!("record {record}: of lab 1 has status \"Running (3/9)\"")));
    let advice = found.advice("records.stuck", "warning");
    db.apply(advice.split_once(" (").unwrap().0).await;
    db.tick(now()).await;
    assert!(db.record_status(record).await.starts_with("Running"), "its run is open");
    assert!(!examine(&db).has("records.stuck"));
    db.settle(now()).await;
    assert_eq!(db.record_status(record).await, "Completed");
    examine(&db).assert_well();

    let records = [db.request_rebuild(1).await, db.request_rebuild(1).await];
    let found = examine(&db);
    assert_eq!(found.ids(), ["records.doubled"]);
    assert!(found.what("records.doubled").starts_with("lab 1 (2 records)"));
    assert!(found.advice("records.doubled", "note").starts_with("nothing"));
    db.execute("UPDATE crelio_data_migrations SET modified_at = '2026-01-01 00:00:00'", args![]).await;
    let found = examine(&db);
    assert!(found.advice("records.waiting", "warning").contains("start daymend scheduler"));
    assert!(found.what("records.waiting").contains(&format!("record {} of lab 1", records[0])));
    db.settle(now()).await;
    examine(&db).assert_well();
}

async fn delta_triggers_are_found_and_daymends_own_are_not(engine: Engine) {
    let db = healthy(engine).await;
    let own = "CREATE TRIGGER daymend_billing_update AFTER UPDATE ON billing FOR EACH ROW
               BEGIN INSERT INTO daymend_admin_log (at, who, action, filter, jobs)
                     VALUES ('2026-01-01 00:00:00', 'operation_historical_summary', '', '', NEW.id); END";
    db.execute(own, args![]).await;
    examine_as_admin(&db).assert_well();
    db.install_delta_triggers().await;
    let found = examine_as_admin(&db);
    assert_eq!(found.ids(), ["triggers.delta"]);
    assert!(found.what("triggers.delta").contains("billing_delta on billing"));
    assert!(found.advice("triggers.delta", "note").contains("may stay"));

    let write = "UPDATE operation_historical_summary SET event_count = event_count + 1 WHERE lab_id = NEW.lab_id";
    let body = if engine == Engine::MariaDb {
        let procedure = format!("CREATE PROCEDURE bump(lab BIGINT) BEGIN {}; END", write.replace("NEW.lab_id", "lab"));
        db.apply(&procedure).await;
        "CALL bump(NEW.lab_id)".to_owned()
    } else {
        write.to_owned()
    };
    db.execute(&format!("CREATE TRIGGER late_bills AFTER INSERT ON billing FOR EACH ROW BEGIN {body}; END"), args![])
        .await;
    let advice = examine_as_admin(&db).advice("triggers.delta_insert", "warning");
    db.apply(advice.split_once(" (").unwrap().0).await;
    assert_eq!(examine_as_admin(&db).ids(), ["triggers.delta"]);
    db.execute("DROP TRIGGER billing_delta", args![]).await;
    examine_as_admin(&db).assert_well();
}

/// Returns a value that changes whenever anything is written.
async fn fingerprint(db: &TestDb, sqlite: &mut Option<SqliteConnection>) -> String {
    if db.engine == Engine::Sqlite {
        let connection = match sqlite {
            Some(connection) => connection,
            None => sqlite.insert(SqliteConnection::connect(&db.url).await.unwrap()),
        };
        // This changes with every commit of another connection.
        let row = sqlx::query("PRAGMA data_version").fetch_one(connection).await.unwrap();
        return row.get::<i64, _>(0).to_string();
    }
    // The checksum of a table with virtual columns is not stable.
    let tables = "SELECT GROUP_CONCAT(table_name ORDER BY table_name) FROM information_schema.tables
                  WHERE table_schema = DATABASE() AND table_name <> 'daymend_jobs'";
    let jobs = "SELECT COALESCE(GROUP_CONCAT(CONCAT_WS(' ', id, state, sort_key, attempt, worker_id, claimed_at)), '')
                FROM daymend_jobs";
    let jobs = db.text(jobs).await;
    let tables = db.text(tables).await;
    let rows = db.rows(&format!("CHECKSUM TABLE {tables}"), args![]).await;
    let sums = rows.iter().map(|row| format!("{} {}", row.text(0).unwrap(), row.int(1).unwrap()));
    sums.collect::<Vec<_>>().join("\n") + &jobs
}

async fn incomplete_triggers_and_marks_that_nobody_takes_are_found(engine: Engine) {
    let db = healthy(engine).await;
    db.install_dirty_triggers().await;
    examine_as_admin(&db).assert_well();
    // One trigger is missing, and one was installed by an older daymend.
    db.execute("DROP TRIGGER daymend_billing_delete", args![]).await;
    let older = "DROP TRIGGER daymend_allTests_update;
                 CREATE TRIGGER daymend_allTests_update AFTER UPDATE ON allTests FOR EACH ROW
                 BEGIN INSERT INTO daymend_dirty (test_id, marked_at) VALUES (NEW.id, '2026-01-01 00:00:00'); END;";
    db.execute_script(older).await;
    let found = examine_as_admin(&db);
    assert_eq!(found.ids(), ["triggers.own"]);
    assert!(found.what("triggers.own").contains("2 of"), "{:#}", found.json);
    assert_eq!(found.advice("triggers.own", "warning"), "daymend triggers install");
    db.install_dirty_triggers().await;
    examine_as_admin(&db).assert_well();

    let mark = "INSERT INTO daymend_dirty (lab_id, bill_time, marked_at) VALUES (1, '2026-06-10 06:00:00', ";
    db.execute(&format!("{mark}'2026-06-10 07:00:00')"), args![]).await;
    let found = examine(&db);
    assert_eq!(found.ids(), ["queue.marks"]);
    assert!(found.advice("queue.marks", "warning").starts_with("start daymend scheduler"));
    db.repair_marked(now()).await;
    assert!(!examine(&db).has("queue.marks"));
}

/// Each finding is absent just before its time limit, and present just after it.
async fn what_may_take_a_while_is_found_when_it_takes_longer(engine: Engine) {
    let db = healthy(engine).await;
    let nightly = "UPDATE daymend_runs SET state = 'running', created_at = ? WHERE kind = 'nightly'";
    let ended = "UPDATE daymend_runs SET state = 'failed', finished_at = ? WHERE kind = 'nightly'";
    let old_runs =
        [("queue.scheduler", 5, nightly), ("labs.late", 60, nightly), ("queue.unpruned", 91 * 24 * 60, ended)];
    for (table, sql) in [
        (
            "operation_event_log",
            "INSERT INTO operation_event_log (event_name, status, created_at) VALUES ('nightly', 'STARTED', ?)",
        ),
        (
            "daymend_dirty",
            "INSERT INTO daymend_dirty (lab_id, bill_time, marked_at) VALUES (1, '2026-06-12 10:00:00', ?)",
        ),
    ] {
        db.execute(&format!("DELETE FROM {table}"), args![]).await;
        db.execute(sql, args!["2026-06-12 00:00:00"]).await;
    }
    let record = db.request_rebuild(1).await;
    let others = [
        (
            "records.event_log",
            6 * 60,
            "UPDATE operation_event_log SET created_at = ? WHERE event_name = 'nightly'".to_owned(),
        ),
        ("queue.marks", 15, "UPDATE daymend_dirty SET marked_at = ?".to_owned()),
        ("records.waiting", 10, format!("UPDATE crelio_data_migrations SET modified_at = ? WHERE id = {record}")),
    ];
    let old_runs = old_runs.map(|(id, minutes, sql)| (id, minutes, sql.to_owned()));
    for (id, minutes, sql) in old_runs.into_iter().chain(others) {
        if id == "labs.late" {
            // A run without open jobs waits for the scheduler alone.
            db.execute("UPDATE daymend_jobs SET state = 'available', sort_key = 1", args![]).await;
        }
        for (more, is_found) in [(-1, false), (1, true)] {
            let at = db.db.database_now().await.unwrap() - TimeDelta::minutes(minutes + more);
            assert!(db.execute(&sql, args![instant_text(at)]).await > 0);
            let found = examine(&db);
            assert_eq!(found.has(id), is_found, "{id} after {} minutes: {:#}", minutes + more, found.json);
        }
    }
}

async fn what_has_its_reasons_is_not_found(engine: Engine) {
    let db = healthy(engine).await;
    // The last job of a rebuild, which may take days, is running.
    let rebuild = "UPDATE daymend_runs SET kind = 'rebuild', state = 'running', created_at = '2026-01-01 00:00:00',
                          finished_at = NULL, requested_by = 'somebody'";
    db.execute(rebuild, args![]).await;
    db.execute("UPDATE daymend_jobs SET kind = 'rebuild', state = 'running'", args![]).await;
    let found = examine(&db);
    assert!(!found.has("queue.scheduler") && !found.has("labs.late"), "{:#}", found.json);
    let facts = found.json["facts"].to_string();
    assert!(facts.contains("last enqueued or closed a run: never, as far as known"), "not by somebody: {facts}");
    // It failed, and waits for its next attempt.
    let later = (db.db.database_now().await.unwrap() + TimeDelta::hours(1)).timestamp_micros();
    db.execute("UPDATE daymend_jobs SET state = 'available', sort_key = ?", args![later]).await;
    assert!(!examine(&db).has("queue.workers"));
    // A record that no longer asks for a rebuild is not waiting.
    db.request_rebuild(1).await;
    let taken = "UPDATE crelio_data_migrations SET is_scheduled = 0, modified_at = '2026-01-01 00:00:00'";
    db.execute(taken, args![]).await;
    assert!(!examine(&db).has("records.waiting"));
    // Once its run has closed, a record that still says Running is stuck.
    let record = db.number("SELECT id FROM crelio_data_migrations").await;
    db.execute("UPDATE crelio_data_migrations SET job_status = 'Running (1/2)'", args![]).await;
    let link = "INSERT INTO daymend_migrations (migration_id, run_id) SELECT ?, id FROM daymend_runs";
    db.execute(link, args![record]).await;
    assert!(!examine(&db).has("records.stuck"));
    db.execute("UPDATE daymend_runs SET state = 'cancelled'", args![]).await;
    assert!(examine(&db).what("records.stuck").starts_with(&format!("record {record}:")));
}

async fn every_kind_of_job_that_gave_up_is_found(engine: Engine) {
    let db = healthy(engine).await;
    for kind in ["nightly", "repair", "rebuild"] {
        let sql = format!("UPDATE daymend_jobs SET kind = '{kind}', state = 'discarded', error = 'a {kind}'");
        assert_eq!(db.execute(&sql, args![]).await, 1);
        let found = examine(&db);
        assert!(found.what("queue.discarded").ends_with(&format!("a {kind}")), "{:#}", found.json);
        assert_eq!(found.code, 3);
    }
}

async fn the_doctor_writes_nothing(engine: Engine) {
    let db = healthy(engine).await;
    db.request_rebuild(1).await;
    db.tick(now()).await;
    let mut connection = None;
    let before = fingerprint(&db, &mut connection).await;
    for more in [&[][..], &["--print-fixes"]] {
        examine_with(&db, more);
        assert_eq!(fingerprint(&db, &mut connection).await, before, "{more:?}");
    }
    db.tick(now() + chrono::Duration::days(1)).await;
    assert_ne!(fingerprint(&db, &mut connection).await, before, "the fingerprint changes with a write");
}

async fn the_page_has_a_line_for_each_finding_and_ends_with_a_verdict(engine: Engine) {
    let db = healthy(engine).await;
    db.add_lab(7, Some("Mars/Base")).await;
    run_ok(&db, &["queue", "pause", "rebuild", "--by", "Ann"]);
    let findings = examine(&db);
    let output = run(&db, &["doctor", "--now", "2026-06-15T12:00:00Z"]);
    assert_eq!(output.status.code(), Some(3));
    let page = String::from_utf8(output.stdout).unwrap();
    println!("{page}");
    let lines: Vec<&str> = page.lines().collect();
    for finding in findings.findings() {
        let id = format!("[{}]", finding["id"].as_str().unwrap());
        let line = lines.iter().find(|line| line.ends_with(&id)).unwrap_or_else(|| panic!("{id} in {page}"));
        for part in ["severity", "where", "what", "advice"] {
            assert!(line.contains(finding[part].as_str().unwrap()), "{part} in {line}");
        }
    }
    assert!(lines.contains(&"Tables: ok"), "{page}");
    let verdict = lines.last().unwrap();
    assert!(verdict.contains("warning") && verdict.contains("Begin with "), "{verdict}");
    assert_eq!(findings.json["verdict"], **verdict);
}
