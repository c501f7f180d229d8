//! A restore of the lab system's own tables: their days are recomputed and audited.

use std::collections::BTreeSet;

use daymend::{args, queue::ids_of};
use serde_json::Value as Json;

use super::Scene;
use crate::{
    on_both,
    support::{
        Engine, oracle,
        process::{Process, run_ok},
        server,
        work::{fails, jobs_with},
    },
};

on_both! {
    days_of_restored_facts_are_repaired_and_audited;
    an_audit_that_finds_drift_is_heard;
    a_repair_that_fails_is_heard;
    a_schema_of_a_later_version_keeps_a_restore_from_writing;
    whatever_fails_behind_the_last_row_what_was_done_is_said;
    a_copy_of_all_tables_brings_back_no_run_and_no_record;
    days_that_a_given_reference_leads_to_are_recomputed_by_the_undo_too;
    a_day_that_is_not_over_is_left_to_the_nightly_run;
    an_undo_that_is_run_again_knows_the_days_of_rows_that_are_gone;
    without_wait_the_run_is_left_to_the_workers;
    the_days_of_one_table_alone_are_repaired_too;
    days_are_found_whatever_tables_the_snapshot_has;
    a_bill_whose_time_nobody_can_read_keeps_no_other_day_waiting;
    dry_runs_of_a_restore_and_of_its_undo_enqueue_and_write_down_nothing;
}

const NOW: &str = "2026-06-15T12:00:00Z";

/// Creates a lab with its summary, and a snapshot of the default tables. Returns the snapshot's name.
async fn lab(engine: Engine) -> (Scene, String) {
    let scene = Scene::new(engine, &[]).await;
    for test in 1..=10 {
        scene.db.add_test(test, Some(test % 3)).await;
    }
    scene.db.add_lab(1, Some("Asia/Kolkata")).await;
    scene.db.fill_lab(1, "2026-06-01".parse().unwrap(), 10, 5).await;
    repair(&scene).await;
    // The day after the last bill has a row that no fact supports.
    scene.db.add_summary_row(1, "2026-06-12", 1, 0, "branch_bill", 7).await;
    let name = take(&scene, &[]);
    (scene, name)
}

/// Takes a snapshot of the default tables, or of others. Returns its name.
fn take(scene: &Scene, more: &[&str]) -> String {
    let store = scene.path("snapshots").display().to_string();
    let now = scene.next_time().format("%FT%TZ").to_string();
    let taken = run_ok(&scene.db, &[&["--now", &now, "snapshot", "take", "--store", &store, "--json"], more].concat());
    let taken: Json = serde_json::from_str(&taken).unwrap();
    taken["name"].as_str().unwrap().to_owned()
}

/// Allows the snapshot user to read every table.
async fn grant_all(scene: &Scene) {
    if scene.db.engine == Engine::MariaDb {
        let grant = format!("GRANT SELECT ON {0}.* TO {0}_snapshot@'%'", scene.db.name());
        server::run(server::port(&scene.url), &grant).await;
    }
}

/// Recomputes all days.
async fn repair(scene: &Scene) {
    run_ok(
        &scene.db,
        &["--now", NOW, "repair", "--day", "2026-06-01", "--to", "2026-06-14", "--lab", "1", "--max-shrink", "off"],
    );
    scene.db.drain(NOW.parse().unwrap()).await;
}

/// Deletes facts of five days, and recomputes the summary.
async fn lose(scene: &Scene) {
    let sql = [
        "DELETE FROM labReportRelation WHERE billing_id IN (SELECT id FROM billing WHERE billTime < '2026-06-04')",
        "DELETE FROM collectedSample WHERE billing_id IN (SELECT id FROM billing WHERE billTime < '2026-06-06')",
        "DELETE FROM billing WHERE billTime >= '2026-06-02' AND billTime < '2026-06-03'",
    ];
    scene.execute_all(&sql).await;
    repair(scene).await;
}

async fn assert_true(scene: &Scene) {
    let labs = [(1, chrono_tz::Asia::Kolkata)];
    let expected = oracle::expected(&scene.db, &labs, NOW.parse().unwrap()).await;
    oracle::assert_equal(&oracle::stored(&scene.db).await, &expected);
}

fn command(command: &[&'static str], more: &[&str]) -> Vec<String> {
    command.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

async fn days_of_restored_facts_are_repaired_and_audited(engine: Engine) {
    let (scene, name) = lab(engine).await;
    let full = oracle::stored(&scene.db).await;
    lose(&scene).await;
    let lost = oracle::stored(&scene.db).await;
    assert!(lost.len() < full.len());
    let facts = scene.db.number("SELECT COUNT(*) FROM billing").await;
    let worker = Process::start(&scene.db, &["--now", NOW, "worker"]);
    let args = command(&["restore"], &[&name, "--missing", "--apply", "--wait", "--now", NOW]);
    let done = scene.json(0, &strs(&args));
    assert_eq!(done["state"], "completed", "{done}");
    assert!(scene.db.number("SELECT COUNT(*) FROM billing").await > facts);
    let touched = done["days"]["labs"][0]["days"].as_array().unwrap();
    assert!(touched.len() >= 5 && touched.contains(&"2026-06-02".into()), "{touched:?}");
    assert_eq!(done["audit"]["days_audited"], touched.len(), "{}", done["audit"]);
    assert_eq!(done["audit"]["differences"], 0);
    // A row that the summary lost rightly is not restored.
    assert_eq!(
        scene.db.number("SELECT COUNT(*) FROM operation_historical_summary WHERE ordered_at = '2026-06-12'").await,
        0
    );
    assert!(done["report"]["remarks"][0].as_str().unwrap().contains("it is recomputed"), "{done}");
    assert_true(&scene).await;

    // The undo removes more than half of a day, because a person has decided so.
    let undo = scene.path("undo.jsonl").display().to_string();
    let args = command(&["undo"], &[&undo, "--wait", "--now", NOW]);
    let out = scene.run(0, &strs(&args));
    assert!(out.contains("completed") && out.contains("clean: every row of"), "{out}");
    drop(worker);
    oracle::assert_equal(&oracle::stored(&scene.db).await, &lost);
    assert_true(&scene).await;
}

async fn an_audit_that_finds_drift_is_heard(engine: Engine) {
    let (scene, name) = lab(engine).await;
    lose(&scene).await;
    // The worker uses other definitions than the command.
    let jobs = jobs_with("billing.id % 2 = 0");
    let jobs = jobs.path().display().to_string();
    let _worker = Process::start(&scene.db, &["--now", NOW, "--jobs-dir", &jobs, "worker"]);
    let args = command(&["restore"], &[&name, "--missing", "--apply", "--wait", "--now", NOW, "--max-shrink", "off"]);
    let out = scene.run(3, &strs(&args));
    assert!(out.contains("completed") && out.contains("\ndrift: "), "{out}");
}

/// The worker uses definitions that the database cannot evaluate.
async fn a_repair_that_fails_is_heard(engine: Engine) {
    let (scene, name) = lab(engine).await;
    lose(&scene).await;
    let jobs = jobs_with(fails(engine));
    let jobs = jobs.path().display().to_string();
    let _worker = Process::start(&scene.db, &["--now", NOW, "--jobs-dir", &jobs, "worker"]);
    let args = command(&["restore"], &[&name, "--missing", "--apply", "--wait", "--now", NOW, "--attempts", "1"]);
    let done = scene.json(1, &strs(&args));
    assert_eq!((&done["state"], &done["audit"]), (&"failed".into(), &Json::Null), "{done}");
}

/// Its days could not be enqueued afterwards.
async fn a_schema_of_a_later_version_keeps_a_restore_from_writing(engine: Engine) {
    let (scene, name) = lab(engine).await;
    lose(&scene).await;
    let lost = scene.db.number("SELECT COUNT(*) FROM billing").await;
    scene.db.execute("INSERT INTO daymend_schema VALUES (999, 'later', '2026-01-01 00:00:00')", vec![]).await;
    let args = command(&["restore"], &[&name, "--missing", "--apply", "--now", NOW]);
    scene.run(5, &strs(&args));
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM billing").await, lost);
}

/// The rows are restored, or removed again, and the output says how to go on.
async fn whatever_fails_behind_the_last_row_what_was_done_is_said(engine: Engine) {
    const RUNS: [&str; 2] = ["daymend_runs RENAME TO mislaid", "mislaid RENAME TO daymend_runs"];
    const LABS: [&str; 2] = ["labs RENAME COLUMN labTimeZone TO mislaid", "labs RENAME COLUMN mislaid TO labTimeZone"];
    let (scene, name) = lab(engine).await;
    let lost = "DELETE FROM collectedSample";
    // A SQLite session that has not read the schema since does not know that a column was renamed.
    let look = "DELETE FROM labs WHERE id < 0";
    for [break_it, mend_it] in [RUNS, LABS] {
        scene.execute_all(&[lost.to_owned(), format!("ALTER TABLE {break_it}")]).await;
        let printed = scene.run(1, &strs(&command(&["restore"], &[&name, "--missing", "--apply", "--now", NOW])));
        assert!(printed.contains("row(s) restored by this run"), "{printed}");
        assert!(scene.db.number("SELECT COUNT(*) FROM collectedSample").await > 0);
        let undo = Scene::hint(&printed);
        let undo = [&undo[..], &["--now", NOW]].concat();
        if break_it == RUNS[0] {
            let printed = scene.run(1, &undo);
            assert!(printed.contains("row(s) removed") && !printed.contains(".undone"), "{printed}");
            scene.execute_all(&[look, &format!("ALTER TABLE {mend_it}")]).await;
            // No rows are left to remove, but the days are enqueued.
            let undone = scene.json(0, &undo);
            assert!(undone["run"].is_number() && undone["removed"] == 0, "{undone}");
        } else {
            // Rows whose days are unknown stay.
            assert!(scene.run_any(&undo).is_some_and(|code| code != 0));
            scene.execute_all(&[look, &format!("ALTER TABLE {mend_it}")]).await;
            let undone = scene.json(0, &undo);
            assert!(undone["run"].is_number(), "{undone}");
        }
        assert_eq!(scene.db.number("SELECT COUNT(*) FROM collectedSample").await, 0);
    }
}

/// Since the snapshot, runs were pruned, a pause was lifted, and a record was deleted so that nothing is rebuilt.
async fn a_copy_of_all_tables_brings_back_no_run_and_no_record(engine: Engine) {
    let (scene, _) = lab(engine).await;
    grant_all(&scene).await;
    let sql = [
        "INSERT INTO daymend_pauses (what, lab_id, paused_at, paused_by) VALUES ('all', NULL, '2026-06-14 10:00:00', 'a')",
        "INSERT INTO crelio_data_migrations (id, lab_id, is_scheduled, job_status, initiated_by_id, migration_type,
            created_at, modified_at) VALUES (77, 1, 1, 'Pending', 1, 'HISTORICAL_SUMMARY', '2026-06-14 10:00:00',
            '2026-06-14 10:00:00')",
    ];
    scene.execute_all(&sql).await;
    let all = take(&scene, &["--all"]);
    let default = take(&scene, &[]);
    let records = take(&scene, &["--table", "crelio_data_migrations"]);
    let sql = [
        "DELETE FROM daymend_pauses",
        "DELETE FROM daymend_jobs",
        "DELETE FROM daymend_runs",
        "DELETE FROM crelio_data_migrations",
        "DELETE FROM collectedSample",
    ];
    scene.execute_all(&sql).await;
    for (name, apply) in [(&all, "--dry-run"), (&default, "--dry-run"), (&all, "--apply")] {
        let report =
            scene.json(if apply == "--apply" { 0 } else { 3 }, &["restore", name, "--missing", apply, "--now", NOW]);
        let groups = report["report"]["groups"].as_array().unwrap();
        assert!(groups.iter().all(|group| group["table"] == "collectedSample"), "{report}");
        let remarks = report["report"]["remarks"].to_string();
        assert!(remarks.contains("not restored: crelio_data_migrations") && remarks.contains("--table"), "{remarks}");
        assert_eq!(remarks.contains("daymend_pauses"), name == &all, "{remarks}");
    }
    assert!(scene.db.number("SELECT COUNT(*) FROM collectedSample").await > 0);
    for table in ["daymend_pauses", "crelio_data_migrations"] {
        assert_eq!(scene.db.number(&format!("SELECT COUNT(*) FROM {table}")).await, 0, "{table}");
    }
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM daymend_runs").await, 1, "the repair's run");
    // A table that is named is restored.
    let plan = scene.json(3, &["restore", &all, "--missing", "--table", "daymend_pauses", "--now", NOW]);
    assert_eq!(super::rows(&plan, "missing")["daymend_pauses"], 1, "{plan}");
    let error = scene.run(2, &["restore", &records, "--missing"]);
    assert!(
        error.contains(
            "has only tables that are not restored by default (crelio_data_migrations): name them with --table"
        ),
        "{error}"
    );
}

/// A table of marks refers to bills, which only the restore was told.
async fn days_that_a_given_reference_leads_to_are_recomputed_by_the_undo_too(engine: Engine) {
    let (scene, _) = lab(engine).await;
    let marks = "CREATE TABLE marks (id BIGINT NOT NULL PRIMARY KEY, bill BIGINT NOT NULL)";
    scene.db.execute(marks, vec![]).await;
    scene.execute_all(&["INSERT INTO marks SELECT id, id FROM billing"]).await;
    grant_all(&scene).await;
    let name = take(&scene, &["--table", "marks", "--table", "billing"]);
    scene.execute_all(&["DELETE FROM marks"]).await;
    let relations = scene.file("r.toml", "[[reference]]\ntable = 'marks'\ncolumns = 'bill'\nparent = 'billing'\n");
    let restore = ["restore", &name, "--missing", "--apply", "--now", NOW, "--relations", &relations];
    let printed = scene.run(0, &restore);
    assert!(printed.contains("day(s) of 1 lab(s) are recomputed"), "{printed}");
    let undone = scene.json(0, &[&Scene::hint(&printed)[..], &["--now", NOW]].concat());
    assert!(undone["run"].is_number(), "{undone}");
}

async fn a_day_that_is_not_over_is_left_to_the_nightly_run(engine: Engine) {
    let (scene, _) = lab(engine).await;
    let insert = "INSERT INTO billing (id, lab_id, billTime, isCancelled, modified_at) VALUES";
    let bill = |id: i64, at: &str| format!("{insert} ({id}, 1, '{at} 10:00:00', 0, '{at} 10:00:00')");
    scene.execute_all(&[bill(77, "2026-06-15"), bill(76, "2026-06-14")]).await;
    let name = take(&scene, &[]);
    scene.execute_all(&["DELETE FROM billing WHERE id = 77"]).await;
    let args = command(&["restore"], &[&name, "--missing", "--apply", "--now", NOW]);
    let done = scene.json(0, &strs(&args));
    assert_eq!((&done["applied"]["inserted"], &done["run"]), (&1.into(), &Json::Null), "{done}");
    assert_eq!(done["days"]["labs"], serde_json::json!([]), "{done}");
    // The last day that is over is recomputed.
    scene.execute_all(&["DELETE FROM billing WHERE id = 76"]).await;
    let done = scene.json(0, &strs(&args));
    assert_eq!(done["days"]["labs"][0]["days"], serde_json::json!(["2026-06-14"]), "{done}");
    assert!(done["run"].is_number(), "{done}");
}

async fn an_undo_that_is_run_again_knows_the_days_of_rows_that_are_gone(engine: Engine) {
    let (scene, name) = lab(engine).await;
    lose(&scene).await;
    scene.json(0, &strs(&command(&["restore"], &[&name, "--missing", "--apply", "--now", NOW])));
    // A row that somebody has changed is not removed, and the file stays.
    let change = "UPDATE collectedSample SET isAccessed = 1 - isAccessed WHERE id = (SELECT id FROM
                  (SELECT MIN(collectedSample.id) AS id FROM collectedSample JOIN billing ON billing.id = billing_id
                   WHERE billTime >= '2026-06-05' AND billTime < '2026-06-06') AS one)";
    assert_eq!(scene.db.execute(change, vec![]).await, 1);
    let undo = scene.path("undo.jsonl").display().to_string();
    let mut days = Vec::new();
    for _ in 0..2 {
        let undone = scene.json(3, &strs(&command(&["undo"], &[&undo, "--now", NOW])));
        let (first, last) = ids_of(undone["run"].as_i64().unwrap());
        let jobs = scene.db.rows("SELECT day FROM daymend_jobs WHERE id BETWEEN ? AND ?", args![first, last]).await;
        days.push(jobs.iter().map(|job| job.date(0).unwrap().to_string()).collect::<BTreeSet<_>>());
    }
    assert!(days[0].len() >= 5 && days[0].contains("2026-06-02"), "{days:?}");
    assert_eq!(days[0], days[1]);
}

async fn without_wait_the_run_is_left_to_the_workers(engine: Engine) {
    let (scene, name) = lab(engine).await;
    lose(&scene).await;
    let args = command(&["restore"], &[&name, "--missing", "--apply", "--now", NOW, "--max-shrink", "30%"]);
    let out = scene.run(0, &strs(&args));
    assert_eq!(scene.db.number("SELECT max_shrink FROM daymend_runs ORDER BY id DESC LIMIT 1").await, 30);
    assert!(out.contains("follow it with `daymend runs watch") && out.contains("`daymend audit`"), "{out}");
    scene.db.drain(NOW.parse().unwrap()).await;
    assert_true(&scene).await;
    // If the summary is asked for, its rows are restored like any others.
    let args = command(&["restore"], &[&name, "--missing", "--table", "operation_historical_summary", "--now", NOW]);
    let plan = scene.json(3, &strs(&args));
    assert_eq!(super::rows(&plan, "missing")["operation_historical_summary"], 1, "{plan}");
}

/// Only tests of bills were deleted: the days are those of the bills, a table that was not asked for.
async fn the_days_of_one_table_alone_are_repaired_too(engine: Engine) {
    let (scene, name) = lab(engine).await;
    let sql =
        "DELETE FROM labReportRelation WHERE billing_id IN (SELECT id FROM billing WHERE billTime < '2026-06-04')";
    scene.execute_all(&[sql.to_owned()]).await;
    repair(&scene).await;
    let args = command(&["restore"], &[&name, "--missing", "--table", "labReportRelation", "--apply", "--now", NOW]);
    let done = scene.json(0, &strs(&args));
    assert!(done["days"]["labs"][0]["days"].as_array().is_some_and(|days| days.len() >= 2), "{done}");
    scene.db.drain(NOW.parse().unwrap()).await;
    assert_true(&scene).await;
}

/// The bills are in the live database only.
async fn days_are_found_whatever_tables_the_snapshot_has(engine: Engine) {
    let (scene, _) = lab(engine).await;
    let name = take(&scene, &["--table", "collectedSample"]);
    scene.execute_all(&["DELETE FROM collectedSample"]).await;
    repair(&scene).await;
    let done = scene.json(0, &["restore", &name, "--missing", "--apply", "--now", NOW]);
    assert!(done["days"]["labs"][0]["days"].as_array().is_some_and(|days| days.len() >= 9), "{done}");
    scene.db.drain(NOW.parse().unwrap()).await;
    assert_true(&scene).await;
}

async fn a_bill_whose_time_nobody_can_read_keeps_no_other_day_waiting(engine: Engine) {
    let (scene, _) = lab(engine).await;
    let insert = "INSERT INTO billing (id, lab_id, billTime, isCancelled, modified_at) VALUES (77, 1,";
    match engine {
        Engine::Sqlite => {
            let insert = format!("{insert} '2026-06-05T10:00:00', 0, '2026-06-05 10:00:00')");
            scene.execute_all(&[insert]).await;
        }
        Engine::MariaDb => {
            let (port, name) = (server::port(&scene.url), scene.db.name());
            let insert = format!("{insert} '2026-00-10 10:00:00', 0, '2026-06-05 10:00:00')");
            server::run(port, &format!("USE {name}; SET SESSION sql_mode = ''; {insert}")).await;
        }
    }
    let name = take(&scene, &[]);
    scene.execute_all(&["DELETE FROM billing WHERE id = 77"]).await;
    lose(&scene).await;
    let args = command(&["restore"], &[&name, "--missing", "--apply", "--now", NOW]);
    let done = scene.json(3, &strs(&args));
    assert!(done["run"].is_number() && done["days"]["labs"][0]["days"].as_array().unwrap().len() >= 5, "{done}");
    assert!(done["days"]["unknown"][0].as_str().unwrap().starts_with("lab 1, billTime: "), "{done}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM billing WHERE id = 77").await, 1);
    let undo = scene.path("undo.jsonl").display().to_string();
    let undone = scene.json(3, &strs(&command(&["undo"], &[&undo, "--now", NOW])));
    assert!(undone["run"].is_number(), "{undone}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM billing WHERE id = 77").await, 0);
    scene.db.drain(NOW.parse().unwrap()).await;
    assert_true(&scene).await;
}

async fn dry_runs_of_a_restore_and_of_its_undo_enqueue_and_write_down_nothing(engine: Engine) {
    let (scene, name) = lab(engine).await;
    lose(&scene).await;
    let runs = async || scene.db.number("SELECT COUNT(*) FROM daymend_runs").await;
    let before = (scene.db.number("SELECT COUNT(*) FROM billing").await, runs().await);
    scene.json(3, &["restore", &name, "--missing", "--now", NOW]);
    let undo = scene.path("undo.jsonl");
    assert!(!undo.exists());
    assert_eq!((scene.db.number("SELECT COUNT(*) FROM billing").await, runs().await), before);
    scene.json(0, &["restore", &name, "--missing", "--apply", "--now", NOW]);
    let restored = (scene.db.number("SELECT COUNT(*) FROM billing").await, runs().await);
    let written = std::fs::read(&undo).unwrap();
    let told = scene.json(0, &["undo", &undo.display().to_string(), "--dry-run", "--now", NOW]);
    assert!(told["removed"].as_i64() > Some(0) && told["run"] == Json::Null, "{told}");
    assert!(std::fs::read(&undo).unwrap() == written, "the undo file is unchanged");
    assert_eq!((scene.db.number("SELECT COUNT(*) FROM billing").await, runs().await), restored);
}

/// Such keys are looked up one by one: MariaDB misses some rows if many are looked up at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_days_of_rows_with_an_enum_in_their_key_are_all_found() {
    let marks = "CREATE TABLE marks (n INT NOT NULL, k SET('z','b''c','a') NOT NULL,
        billing_id BIGINT NOT NULL, PRIMARY KEY (k, n), FOREIGN KEY (billing_id) REFERENCES billing (id))";
    let scene = Scene::new(Engine::MariaDb, &[marks]).await;
    scene.db.add_test(1, Some(1)).await;
    scene.db.add_lab(1, Some("Asia/Kolkata")).await;
    scene.db.fill_lab(1, "2025-06-01".parse().unwrap(), 234, 1).await;
    scene.execute_all(&["UPDATE billing SET billTime = '2025-06-01 06:00:00' + INTERVAL id % 1000 DAY"]).await;
    let members = ["", "z", "z,a", "z,b''c,a", "b''c"];
    let mark = |n: usize| format!("({n}, '{}', {})", members[n % 5], 1_000_000 + n / 3);
    scene.execute_all(&super::inserts("marks", &(0..700).map(mark).collect::<Vec<_>>())).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM marks WHERE n % 3 = 0"]).await;
    let done = scene.json(0, &["restore", &name, "--missing", "--apply", "--now", NOW]);
    assert_eq!(done["days"]["labs"][0]["days"].as_array().unwrap().len(), 234, "{done}");
}
