//! What commands print: the plan of a repair, machine-readable results, help and colours.

use std::process::Stdio;

use serde_json::{Value, json};

use super::{NOW, USAGE, labs, written};
use crate::{
    on_both,
    support::{
        Engine,
        process::{run, run_fails, run_ok, without_settings},
    },
};

on_both! {
    a_repair_begins_with_the_first_bill_or_row_of_each_lab;
    a_repair_ends_with_the_last_day_that_is_over_in_each_lab;
    results_for_machines_are_objects_with_names;
    a_rebuild_takes_several_labs_and_says_which_records_it_inserted;
}

async fn a_repair_begins_with_the_first_bill_or_row_of_each_lab(engine: Engine) {
    let db = labs(engine).await;
    // Lab 1 has bills from 8 June on, lab 2 from 7 June on, lab 4 none. Earlier rows are wrong.
    db.add_lab(4, Some("Asia/Kolkata")).await;
    db.add_summary_row(4, "2026-06-05", 1, 1, "branch_bill", 3).await;
    db.add_summary_row(2, "2026-06-06", 1, 1, "branch_bill", 3).await;
    let span = ["--now", NOW, "repair", "--day", "2026-06-01", "--to", "2026-06-10"];
    let planned = run(&db, &[&span[..], &["--dry-run", "--json"]].concat());
    let plan: Value = serde_json::from_slice(&planned.stdout).unwrap();
    let first_days = [(1, "2026-06-08"), (2, "2026-06-06"), (4, "2026-06-05")];
    let clipped: Vec<Value> = first_days.iter().map(|(lab, day)| json!({ "lab": lab, "first_day": day })).collect();
    assert_eq!((&plan["clipped"], &plan["left_out"][0]["lab"]), (&clipped.into(), &3.into()), "{plan}");
    let days: Vec<usize> =
        plan["labs"].as_array().unwrap().iter().map(|lab| lab["days"].as_array().unwrap().len()).collect();
    assert_eq!((days, &plan["labs"][0]["days"][0]), (vec![3, 5, 6], &"2026-06-08".into()), "{plan}");
    let said = String::from_utf8_lossy(&planned.stderr).into_owned();
    let begin = "3 lab(s) begin later: lab 1 on 2026-06-08, lab 2 on 2026-06-06, lab 4 on 2026-06-05";
    assert!(said.contains(begin), "{said}");
    // A lab given by `--lab` begins no earlier.
    let named = run(&db, &[&span[..], &["--lab", "1", "--dry-run"]].concat());
    assert_eq!(
        String::from_utf8_lossy(&named.stdout).lines().next(),
        Some("would enqueue lab 1: 3 job(s), 2026-06-08 to 2026-06-10")
    );
    let said = String::from_utf8_lossy(&named.stderr).into_owned();
    assert!(said.contains("1 lab(s) begin later: lab 1 on 2026-06-08 ("), "{said}");
    // A lab whose first bill or row is not after `--day` is not clipped.
    let exact = ["--now", NOW, "repair", "--day", "2026-06-08", "--to", "2026-06-10", "--lab", "1", "--lab", "2"];
    let exact: Value = serde_json::from_str(&run_ok(&db, &[&exact[..], &["--dry-run", "--json"]].concat())).unwrap();
    assert_eq!((&exact["clipped"], &exact["labs"][1]["days"][2]), (&json!([]), &"2026-06-10".into()), "{exact}");
    assert_eq!(written(&db).await, [0, 0, 0]);
    let enqueued: Value = serde_json::from_str(&run_ok(&db, &[&span[..], &["--json"]].concat())).unwrap();
    assert_eq!((&enqueued["jobs"], &enqueued["clipped"][2]["lab"]), (&14.into(), &4.into()), "{enqueued}");
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    assert_eq!(db.number("SELECT COUNT(*) FROM operation_historical_summary WHERE ordered_at < '2026-06-07'").await, 0);
}

async fn a_repair_ends_with_the_last_day_that_is_over_in_each_lab(engine: Engine) {
    let db = labs(engine).await;
    // In lab 1 (Kolkata) it is the 10th already, in lab 2 (New York) still the 9th.
    let now = "2026-06-09T20:00:00Z";
    let span = ["--now", now, "repair", "--day", "2026-06-08", "--to", "2026-06-09", "--dry-run"];
    let planned = run(&db, &[&span[..], &["--json"]].concat());
    let plan: Value = serde_json::from_slice(&planned.stdout).unwrap();
    assert_eq!(plan["clipped"], json!([{ "lab": 2, "last_day": "2026-06-08" }]), "{plan}");
    let days = json!([{ "lab": 1, "days": ["2026-06-08", "2026-06-09"] }, { "lab": 2, "days": ["2026-06-08"] }]);
    assert_eq!(plan["labs"], days, "{plan}");
    let said = String::from_utf8_lossy(&planned.stderr).into_owned();
    assert!(said.contains("1 lab(s) end earlier: lab 2 on 2026-06-08 (the last day that is over there)"), "{said}");
    assert!(!said.contains("begin later"), "{said}");
    // A last day that is over in none of the labs is an error; so is a single day that is not over in each of them.
    let later = ["--now", now, "repair", "--day", "2026-06-08", "--to", "2026-06-10", "--dry-run"];
    let alone = [&span[..], &["--lab", "2"]].concat();
    let day = ["--now", now, "repair", "--day", "2026-06-09", "--lab", "1", "--lab", "2", "--dry-run"];
    for (arguments, why) in [
        (&later[..], "lab 1: 2026-06-10 is not over yet"),
        (&alone, "lab 2: 2026-06-09 is not over yet"),
        (&day, "lab 2: 2026-06-09 is not over yet"),
    ] {
        let error = run_fails(&db, USAGE, arguments);
        assert!(error.contains(why), "{arguments:?}: {error}");
    }
}

async fn results_for_machines_are_objects_with_names(engine: Engine) {
    let db = labs(engine).await;
    let tick: Value = serde_json::from_str(&run_ok(&db, &["--now", NOW, "scheduler", "--once", "--json"])).unwrap();
    assert_eq!(tick["unusable"][0]["lab"], 3, "{tick}");
    assert!(tick["unusable"][0]["why"].as_str().unwrap().contains("Mars/Base"), "{tick}");
    assert_eq!((&tick["held"], &tick["unusable"][1]), (&json!([]), &Value::Null), "{tick}");
    let stats: Value = serde_json::from_str(&run_ok(&db, &["queue", "stats", "--json"])).unwrap();
    let jobs = db.number("SELECT COUNT(*) FROM daymend_jobs").await;
    assert_eq!(stats["counts"], json!([{ "kind": "nightly", "state": "available", "jobs": jobs }]));
    run_ok(&db, &["--now", NOW, "worker", "--drain"]);
    let list: Value = serde_json::from_str(&run_ok(&db, &["queue", "list", "--json"])).unwrap();
    let first = run(&db, &["queue", "list", "--json", "--limit", &(jobs - 1).to_string()]);
    let said = String::from_utf8(first.stderr).unwrap();
    assert_eq!(said, format!("warning: only the first {} jobs are listed (--limit)\n", jobs - 1));
    assert_eq!(serde_json::from_slice::<Value>(&first.stdout).unwrap().as_array().unwrap().len() as i64, jobs - 1);
    let all = run(&db, &["queue", "list", "--json", "--limit", &jobs.to_string()]);
    assert_eq!(
        (String::from_utf8(all.stderr).unwrap().as_str(), serde_json::from_slice(&all.stdout).unwrap()),
        ("", list.clone())
    );
    let sum = |what| list.as_array().unwrap().iter().map(|job| job["rows"][what].as_i64().unwrap()).sum::<i64>();
    let rows = db.number("SELECT COUNT(*) FROM operation_historical_summary").await;
    assert_eq!(["inserted", "updated", "deleted"].map(sum), [rows, 0, 0], "{list}");
}

async fn a_rebuild_takes_several_labs_and_says_which_records_it_inserted(engine: Engine) {
    let db = labs(engine).await;
    let rebuild = |labs: &[&str]| {
        let json = run_ok(&db, &[&["--now", NOW, "--json", "rebuild"], labs].concat());
        let records: Value = serde_json::from_str(&json).unwrap();
        let records = records.as_array().unwrap().clone().into_iter();
        records.map(|record| (record["lab"].as_i64(), record["inserted"].as_bool())).collect::<Vec<_>>()
    };
    assert_eq!(rebuild(&["--lab", "2"]), [(Some(2), Some(true))]);
    assert_eq!(rebuild(&["--lab", "1", "2"]), [(Some(1), Some(true)), (Some(2), Some(false))]);
    assert_eq!(rebuild(&["--lab", "1", "--lab", "2"]), [(Some(1), Some(false)), (Some(2), Some(false))]);
}

#[test]
fn options_of_every_command_stand_apart_from_its_own() {
    for command in [&["repair"][..], &["queue", "retry"], &["snapshot", "restore"], &["worker"], &["runs", "list"]] {
        let help = without_settings(env!("CARGO_BIN_EXE_daymend")).args(command).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let (own, global) = help.split_once("\nGlobal options:\n").unwrap();
        let options = ["--database-url", "--jobs-dir", "--now ", "--json", "--log-format", "--log "];
        for option in options {
            assert!(global.contains(&format!("      {option}")), "{command:?} {option}: {help}");
        }
        let listed = |text: &str| text.lines().filter(|line| line.starts_with("      --")).count();
        assert_eq!(listed(global), options.len(), "{command:?}: {help}");
        assert!(own.contains("Options:\n") && own.contains("--help"), "{command:?}: {help}");
    }
}

/// Runs on a pseudo-terminal, which `script` creates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn colours_are_for_terminals_that_have_them_and_for_who_wants_them() {
    let db = labs(Engine::Sqlite).await;
    let daymend = env!("CARGO_BIN_EXE_daymend");
    let is_coloured = |(line, said): (&str, &str), term: &str, no_colour: &str| {
        let mut script = without_settings("script");
        script.args(["-qec", &format!("{daymend} --now {NOW} {line}"), "/dev/null"]).stdin(Stdio::null());
        script.env("DAYMEND_DATABASE_URL", &db.url).env("TERM", term).env("NO_COLOR", no_colour);
        script.env("DAYMEND_HTTP_ADDR", "127.0.0.1:0");
        let shown = String::from_utf8(script.output().unwrap().stdout).unwrap();
        assert!(shown.contains(said), "{shown}");
        shown.contains('\u{1b}')
    };
    // The doctor writes to standard output, the log to standard error.
    for line in [("doctor", "Mars/Base"), ("worker --drain >/dev/null", "worker stopped")] {
        assert!(is_coloured(line, "xterm", ""), "{line:?}");
        assert!(!is_coloured(line, "dumb", ""), "{line:?}");
        assert!(!is_coloured(line, "xterm", "1"), "{line:?}");
    }
}
