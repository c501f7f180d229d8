//! What the doctor reports about the labs: their zones, and days that have not been enqueued.

use daymend::args;

use crate::{
    on_both,
    support::{
        Engine,
        doctor::{arguments, examine, examine_with, healthy, now},
        process::{run, run_ok},
    },
};

on_both! {
    a_site_without_an_enabled_lab_is_not_well;
    labs_without_a_usable_zone_are_named;
    a_lab_that_moved_to_another_zone_is_found_until_it_is_rebuilt;
    overdue_labs_and_late_runs_are_found;
    of_many_overdue_labs_none_is_left_out_of_the_repair;
}

async fn a_site_without_an_enabled_lab_is_not_well(engine: Engine) {
    let db = healthy(engine).await;
    db.execute("UPDATE labs SET historicalViewEnabled = 0", args![]).await;
    let found = examine(&db);
    assert!(found.what("labs.none").contains("no lab is enabled"), "{:#}", found.json);
    let advice = found.advice("labs.none", "warning");
    assert!(advice.contains("right database") && advice.contains("historicalViewEnabled"), "{advice}");
    assert_eq!(found.code, 3);
    // As in a copy of the database without its rows.
    db.execute("DELETE FROM labs", args![]).await;
    assert!(examine(&db).has("labs.none"));
    // One whose zone is unknown is reported as such.
    db.add_lab(8, None).await;
    let found = examine(&db);
    assert!(!found.has("labs.none") && found.has("labs.zone_unusable"), "{:#}", found.json);
}

async fn labs_without_a_usable_zone_are_named(engine: Engine) {
    let db = healthy(engine).await;
    for (lab, zone) in [(7, Some("Mars/Base")), (8, None), (9, None), (10, Some("evil\nzone\u{1b}[31m"))] {
        db.add_lab(lab, zone).await;
    }
    let found = examine(&db);
    let zones = found.of("labs.zone_unusable");
    assert_eq!(zones.len(), 3, "{zones:#?}");
    assert_eq!(found.code, 3);
    let missing = zones.iter().find(|finding| finding["what"].as_str().unwrap().contains("no time zone")).unwrap();
    assert_eq!(missing["where"], "labs 8, 9");
    assert_eq!(missing["severity"], "warning");
    // Text from the database cannot break the page.
    let page = String::from_utf8(run(&db, &["doctor"]).stdout).unwrap();
    assert!(!page.contains('\u{1b}') && page.contains("evil"), "{page}");
    db.execute("UPDATE labs SET labTimeZone = 'Europe/Berlin'", args![]).await;
    assert!(!examine(&db).has("labs.zone_unusable"));
    // A disabled lab is not reported.
    db.execute("UPDATE labs SET labTimeZone = NULL, historicalViewEnabled = 0 WHERE id > 1", args![]).await;
    assert!(!examine(&db).has("labs.zone_unusable"));
}

async fn a_lab_that_moved_to_another_zone_is_found_until_it_is_rebuilt(engine: Engine) {
    let db = healthy(engine).await;
    db.execute("UPDATE labs SET labTimeZone = 'Asia/Calcutta'", args![]).await;
    examine(&db).assert_well();
    db.execute("UPDATE labs SET labTimeZone = 'America/New_York'", args![]).await;
    let found = examine(&db);
    let advice = found.advice("labs.zone_changed", "warning");
    assert_eq!(advice, "daymend rebuild --lab 1");
    let what = found.what("labs.zone_changed");
    assert!(what.contains("Asia/Kolkata") && what.contains("America/New_York"), "{what}");
    // A nightly run does not clear the finding: the older days are as they were.
    let later = now() + chrono::Duration::days(1);
    db.settle(later).await;
    let next = ["--now", "2026-06-16T12:00:00Z"];
    assert!(examine_with(&db, &next).has("labs.zone_changed"));
    // Nor does a rebuild that does not complete.
    let rebuild = [&arguments(&advice)[..], &next].concat();
    run_ok(&db, &rebuild);
    db.tick(later).await;
    assert!(!examine_with(&db, &next).has("labs.zone_changed"), "it is being rebuilt");
    run_ok(&db, &["runs", "cancel", &db.number("SELECT MAX(id) FROM daymend_runs").await.to_string()]);
    db.settle(later).await;
    assert!(examine_with(&db, &next).has("labs.zone_changed"));
    run_ok(&db, &rebuild);
    db.settle(later).await;
    examine_with(&db, &next).assert_well();
}

async fn overdue_labs_and_late_runs_are_found(engine: Engine) {
    let db = healthy(engine).await;
    db.add_lab(2, Some("Asia/Kolkata")).await;
    db.fill_lab(2, "2026-06-08".parse().unwrap(), 7, 4).await;
    let found = examine(&db);
    assert!(found.what("labs.overdue").starts_with("lab 2: no day has been enqueued yet"));
    assert!(found.advice("labs.overdue", "warning").contains("start daymend scheduler"));
    db.settle(now()).await;
    examine(&db).assert_well();

    // As if a scheduler's clock had been two days ahead.
    let earlier = ["--now", "2026-06-13T12:00:00Z"];
    let advice = examine_with(&db, &earlier).advice("labs.ahead", "error");
    let (_, sql) = advice.split_once(": ").unwrap();
    assert_eq!(db.execute(sql, args![]).await, 2);
    assert!(!examine_with(&db, &earlier).has("labs.ahead"));
    // The days that were enqueued, and computed, two days early are computed again.
    assert!(examine(&db).what("labs.overdue").contains("labs 1, 2: overdue: no day after 2026-06-05"));
    db.settle(now()).await;
    let again = "SELECT COUNT(*) FROM daymend_jobs WHERE lab_id = 1 AND day = '2026-06-14'";
    assert_eq!(db.number(again).await, 2);

    let later = ["--now", "2026-06-18T12:00:00Z"];
    let found = examine_with(&db, &later);
    assert!(found.what("labs.overdue").contains("labs 1, 2: overdue: no day after 2026-06-14"), "{:#}", found.json);
    let advice = found.advice("labs.overdue", "warning");
    let (_, repair) = advice.split_once("--catch-up-days: ").unwrap();
    assert_eq!(repair, "daymend repair --lab 1 --lab 2 --day 2026-06-15 --to 2026-06-17");
    run_ok(&db, &[&arguments(repair)[..], &later, &["--dry-run"]].concat());
    let then = now() + chrono::Duration::days(3);
    db.tick(then).await;
    assert!(!examine_with(&db, &later).has("labs.overdue"));
    // The days are enqueued, but not done.
    assert!(!examine_with(&db, &later).has("labs.late"));
    db.execute("UPDATE daymend_runs SET created_at = '2026-01-01 00:00:00' WHERE state = 'running'", args![]).await;
    assert!(examine_with(&db, &later).what("labs.late").contains("nightly Asia/Kolkata"));
    // Nobody waits for days that somebody has paused. Of labs, the jobs are set aside when a worker comes to them.
    run_ok(&db, &["queue", "pause", "nightly"]);
    assert!(!examine_with(&db, &later).has("labs.late"));
    run_ok(&db, &["queue", "resume", "nightly"]);
    assert!(examine_with(&db, &later).has("labs.late"));
    run_ok(&db, &["queue", "pause", "--lab", "1"]);
    run_ok(&db, &["queue", "pause", "--lab", "2"]);
    db.settle(then).await;
    assert!(!examine_with(&db, &later).has("labs.late"));
    run_ok(&db, &["queue", "resume", "--lab", "1"]);
    run_ok(&db, &["queue", "resume", "--lab", "2"]);
    db.settle(then).await;
    examine_with(&db, &later).assert_well();
    // Nothing is overdue until the hour is up.
    examine_with(&db, &["--now", "2026-06-19T04:59:00Z"]).assert_well();
    assert!(examine_with(&db, &["--now", "2026-06-19T05:01:00Z"]).has("labs.overdue"));
    examine_with(&db, &["--now", "2026-06-19T05:01:00Z", "--nightly-at", "05:00 UTC"]).assert_well();
}

async fn of_many_overdue_labs_none_is_left_out_of_the_repair(engine: Engine) {
    let db = healthy(engine).await;
    for lab in 2..=12 {
        db.add_lab(lab, Some("Asia/Kolkata")).await;
    }
    db.settle(now()).await;
    let later = ["--now", "2026-06-18T12:00:00Z"];
    let advice = examine_with(&db, &later).advice("labs.overdue", "warning");
    let (_, repair) = advice.split_once("--catch-up-days: ").unwrap();
    assert_eq!(repair, "daymend repair --day 2026-06-15 --to 2026-06-17");
    run_ok(&db, &[&arguments(repair)[..], &later].concat());
    // The other labs have no bills.
    let jobs = "SELECT COUNT(*) FROM daymend_jobs WHERE kind = 'repair' AND day >= '2026-06-15'";
    assert!(db.number(jobs).await >= 3, "lab 1 at least");
}
