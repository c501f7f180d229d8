//! What the doctor says of the server, its settings and the rights of daymend's user.

use std::sync::atomic::{AtomicI64, Ordering};

use daymend::{
    args,
    db::DbClock,
    doctor::{Patient, examine as examine_all},
    scheduler::nightly::NightlyAt,
};

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        doctor::{examine, healthy, now},
        process::{run, run_ok},
        server::Server,
        work,
    },
};

on_both! {
    clocks_that_disagree_are_found;
}

const PASSWORD: &str = "daymend-test";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_reached_is_a_finding() {
    let mut db = TestDb::source_only(Engine::Sqlite).await;
    for url in ["mysql://daymend:verysecret@127.0.0.1:1/lab", "sqlite:/nowhere/lab.db"] {
        db.url = url.to_owned();
        let found = examine(&db);
        assert_eq!(found.code, 4);
        assert_eq!(found.ids(), ["connection.reachable"]);
        assert!(found.advice("connection.reachable", "error").contains("--database-url"));
        assert!(found.json["checked"].as_array().unwrap().is_empty());
        assert!(!found.json.to_string().contains("verysecret"));
        let page = run(&db, &["doctor"]);
        assert_eq!(page.status.code(), Some(4));
        assert!(String::from_utf8(page.stdout).unwrap().contains("cannot be reached"));
    }
    db.url = "postgres://x/y".to_owned();
    assert_eq!(run(&db, &["doctor"]).status.code(), Some(2));
}

async fn clocks_that_disagree_are_found(engine: Engine) {
    let db = healthy(engine).await;
    let rollups = work::rollups();
    let clock = std::sync::Arc::new(AtomicI64::new(0));
    let driven = db.db.with_clock(DbClock::Driven(std::sync::Arc::clone(&clock)));
    let patient =
        Patient { db: &driven, rollups: &rollups, now: now(), nightly_at: NightlyAt::DEFAULT, retention: None };
    let system = daymend::clock::Clock::System;
    for (off_s, expected) in [(0, None), (2, None), (-60, Some("60 s behind")), (90, Some("90 s ahead of"))] {
        let at = (system.now() + chrono::Duration::seconds(off_s)).timestamp_micros();
        clock.store(at, Ordering::SeqCst);
        let report = examine_all(&patient).await;
        let found = report.findings.iter().find(|finding| finding.id == "server.clock");
        match (found, expected) {
            (None, None) => {}
            (Some(finding), Some(_)) => {
                let number: i64 = finding.what.split(' ').nth(4).unwrap().parse().unwrap();
                assert!((number - off_s.abs()).abs() <= 8, "{}", finding.what);
                assert_eq!(finding.what.contains("ahead"), off_s > 0, "{}", finding.what);
                assert!(finding.advice.contains("NTP"));
            }
            _ => panic!("{off_s}: {found:?}"),
        }
    }
}

/// The URL of a user who is made here, with the rights that `grants` give (`@` is the database).
async fn user(db: &TestDb, name: &str, grants: &[&str]) -> String {
    let database = db.text("SELECT DATABASE()").await;
    let name = format!("{name}_{database}");
    db.apply(&format!("CREATE USER `{name}`@`%` IDENTIFIED BY '{PASSWORD}'")).await;
    for grant in grants {
        db.apply(&format!("GRANT {} TO `{name}`@`%`", grant.replace('@', &database))).await;
    }
    db.url.replace("//daymend:", &format!("//{name}:"))
}

/// Runs something as another user.
fn as_user<T>(db: &mut TestDb, url: &str, work: impl FnOnce(&TestDb) -> T) -> T {
    let own = std::mem::replace(&mut db.url, url.to_owned());
    let result = work(db);
    db.url = own;
    result
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_narrow_user_is_told_exactly_what_to_grant() {
    let mut db = healthy(Engine::MariaDb).await;
    let database = db.text("SELECT DATABASE()").await;
    let url = user(&db, "narrow", &["SELECT ON `@`.labs", "SELECT, INSERT ON `@`.operation_historical_summary"]).await;
    let found = as_user(&mut db, &url, examine);
    let narrow = found.of("grants.narrow");
    let advice_for = |table: &str| {
        let finding = narrow.iter().find(|finding| finding["where"] == table).unwrap_or_else(|| panic!("{table}"));
        assert_eq!(finding["severity"], "error");
        finding["advice"].as_str().unwrap().to_owned()
    };
    let on = |table: &str| format!("ON `{database}`.`{table}` TO `narrow_{database}`@`%`;");
    assert_eq!(advice_for("billing"), format!("GRANT SELECT {}", on("billing")));
    let summary = "operation_historical_summary";
    assert_eq!(advice_for(summary), format!("GRANT DELETE, UPDATE {}", on(summary)));
    assert_eq!(advice_for("daymend_jobs"), format!("GRANT DELETE, INSERT, SELECT, UPDATE {}", on("daymend_jobs")));
    assert_eq!(advice_for("operation_event_log"), format!("GRANT INSERT {}", on("operation_event_log")));
    assert!(!narrow.iter().any(|finding| finding["where"] == "labs"));
    assert!(!found.has("grants.wide"), "{:#}", found.json);

    // Everything that it says, granted: enough for all of daymend, and not too much.
    for finding in &narrow {
        db.apply(finding["advice"].as_str().unwrap()).await;
    }
    let found = as_user(&mut db, &url, examine);
    // The server's own faults, and what only the doctor would want to read.
    let allowed = ["grants.unseen", "records.event_log"];
    assert!(found.ids().iter().all(|id| allowed.contains(id)), "{:#}", found.json);
    assert!(found.findings().iter().all(|finding| finding["severity"] == "note"), "{:#}", found.json);
    assert_eq!(found.code, 0);
    assert!(found.advice("grants.unseen", "note").contains("as an administrator"));
    assert!(found.what("records.event_log").contains("could not be looked at"));
    as_user(&mut db, &url, |db| {
        let later = "2026-06-16T12:00:00Z";
        run_ok(db, &["--now", later, "rebuild", "--lab", "1"]);
        run_ok(db, &["--now", later, "scheduler", "--once"]);
        run_ok(db, &["--now", later, "worker", "--drain"]);
        run_ok(db, &["--now", later, "scheduler", "--once"]);
        // Fixes wait, as triggers cannot be seen.
        let fixes = run_ok(db, &["doctor", "--print-fixes"]);
        assert!(fixes.contains("-- First: this user may not see triggers"), "{fixes}");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_on_columns_and_from_roles_count() {
    let mut db = healthy(Engine::MariaDb).await;
    let database = db.text("SELECT DATABASE()").await;
    // Everything through a role, but billingInfo by columns, of which one is missing.
    db.apply(&format!("CREATE ROLE role_{database}")).await;
    for table in ["labs", "billing", "allTests", "labReportRelation", "collectedSample", "daymend_schema"] {
        db.apply(&format!("GRANT SELECT ON {table} TO role_{database}")).await;
    }
    let tables =
        db.rows("SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()", args![]).await;
    for table in tables.iter().map(|row| row.text(0).unwrap()) {
        if table.starts_with("daymend_") || table.starts_with("operation_") || table.starts_with("crelio") {
            db.apply(&format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO role_{database}")).await;
        }
    }
    let columns = "SELECT (billing_id, organization_id, referral_id) ON `@`.billingInfo";
    let url = user(&db, "roled", &[columns]).await;
    db.apply(&format!(
        "GRANT role_{database} TO roled_{database}; SET DEFAULT ROLE role_{database} FOR roled_{database}"
    ))
    .await;
    let found = as_user(&mut db, &url, examine);
    let narrow = found.of("grants.narrow");
    assert_eq!(narrow.len(), 3, "{:#}", found.json);
    assert!(narrow[0]["what"].as_str().unwrap().contains("branch_id"), "{narrow:#?}");
    assert!(narrow[0]["advice"].as_str().unwrap().contains("`.`billingInfo` TO"), "{narrow:#?}");
    assert!(found.advice("grants.roles", "note").contains("USING"));
    db.apply(&format!("GRANT SELECT (branch_id) ON billingInfo TO roled_{database}")).await;
    let found = as_user(&mut db, &url, examine);
    assert!(!found.has("grants.narrow"), "{:#}", found.json);
    assert!(!found.has("tables.source"), "{:#}", found.json);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wide_user_is_told_what_to_revoke() {
    let mut db = healthy(Engine::MariaDb).await;
    let database = db.text("SELECT DATABASE()").await;
    for (name, grants, expected) in [
        ("all", &["ALL ON `@`.*"][..], "ALL PRIVILEGES on the whole database"),
        ("super", &["SUPER ON *.*", "ALL ON `@`.*"], "SUPER on the whole server"),
        ("writer", &["SELECT ON `@`.*", "UPDATE, DELETE ON `@`.billing"], "DELETE, UPDATE on billing"),
        ("column", &["SELECT ON `@`.*", "UPDATE (labName) ON `@`.labs"], "UPDATE on labs"),
        ("giver", &["SELECT ON `@`.*", "SELECT ON `@`.labs"], ""),
    ] {
        let url = user(&db, name, grants).await;
        let found = as_user(&mut db, &url, examine);
        let wide: Vec<_> = found.of("grants.wide");
        if expected.is_empty() {
            assert!(wide.is_empty(), "{:#}", found.json);
            continue;
        }
        let finding = wide.iter().find(|finding| finding["what"].as_str().unwrap().contains(expected));
        let finding = finding.unwrap_or_else(|| panic!("{name}: {wide:#?}"));
        assert_eq!(finding["severity"], "warning");
        assert!(finding["where"].as_str().unwrap().starts_with(name));
        // The advice, followed: no longer too wide. (A right on a column goes with its columns.)
        if name == "column" {
            continue;
        }
        for finding in &wide {
            let revokes = finding["advice"].as_str().unwrap().split(" then ").next().unwrap();
            db.apply(revokes).await;
        }
        db.apply(&format!("GRANT SELECT ON `{database}`.labs TO {name}_{database}")).await;
        let found = as_user(&mut db, &url, examine);
        assert!(!found.has("grants.wide"), "{name}: {:#}", found.json);
        assert!(found.has("grants.narrow"), "{name}: {:#}", found.json);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_events_are_found_while_they_are_enabled() {
    let db = healthy(Engine::MariaDb).await;
    for (name, id, severity) in [
        ("operation_summary_nightly_event", "events.nightly", "warning"),
        ("operation_summary_migration_event", "events.migration", "error"),
    ] {
        db.apply(&format!("CREATE EVENT {name} ON SCHEDULE EVERY 1 DAY DO SELECT 1")).await;
        // Events of the same name in other tests' databases are theirs.
        let database = db.text("SELECT DATABASE()").await;
        let found = examine(&db);
        let mine =
            |finding: &&&serde_json::Value| finding["where"].as_str().unwrap().starts_with(&format!("{database}."));
        let findings = found.of(id);
        let finding = findings.iter().find(mine).unwrap_or_else(|| panic!("{:#}", found.json));
        assert_eq!(finding["severity"], severity);
        db.apply(finding["advice"].as_str().unwrap()).await;
        assert_eq!(examine(&db).of(id).iter().filter(mine).count(), 0);
    }
}

/// On a server of its own, whose settings are nobody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_matter_are_found_and_those_that_do_not_are_told() {
    let server = Server::start("doctor").expect("MariaDB starts");
    let db = TestDb::on_server(server.port).await;
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.fill_lab(1, "2026-06-08".parse().unwrap(), 7, 4).await;
    db.settle(now()).await;
    let set = async |name: &str, value: &str| {
        let before = db.text(&format!("SELECT CAST(@@GLOBAL.{name} AS CHAR)")).await;
        db.apply(&format!("SET GLOBAL {name} = {value}")).await;
        before
    };
    assert!(
        examine(&db)
            .advice("settings.durability", "note")
            .starts_with("SET GLOBAL innodb_flush_log_at_trx_commit = 1;")
    );
    set("innodb_flush_log_at_trx_commit", "1").await;
    examine(&db).assert_well();

    // Defaults that daymend's own sessions override.
    for (name, value) in [
        ("tx_isolation", "'SERIALIZABLE'"),
        ("time_zone", "'+05:30'"),
        ("innodb_lock_wait_timeout", "50"),
        ("event_scheduler", "0"),
        ("autocommit", "0"),
    ] {
        set(name, value).await;
    }
    let found = examine(&db);
    found.assert_well();
    let fact = |name: &str| {
        let facts = found.json["facts"].as_array().unwrap();
        facts.iter().find(|fact| fact["name"] == name).unwrap()["value"].as_str().unwrap().to_owned()
    };
    assert!(fact("sessions").contains("isolation READ-COMMITTED, time zone +00:00, sql_mode strict, lock wait 5 s"));
    assert!(fact("defaults").contains("isolation SERIALIZABLE, time zone +05:30"), "{}", fact("defaults"));

    for (name, value, id, severity) in [
        ("read_only", "1", "settings.read_only", "error"),
        ("max_allowed_packet", "65536", "settings.packet", "warning"),
        ("sql_mode", "''", "settings.sql_mode", "note"),
        ("max_connections", "10", "settings.connections", "warning"),
    ] {
        let before = set(name, value).await;
        let found = examine(&db);
        let advice = found.advice(id, severity);
        assert_eq!(found.ids(), [id], "{name}: {:#}", found.json);
        assert!(!advice.is_empty());
        let quoted = if name == "sql_mode" { format!("'{before}'") } else { before };
        set(name, &quoted).await;
        examine(&db).assert_well();
    }
}
