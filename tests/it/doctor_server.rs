//! What the doctor reports about the server, its settings and the privileges of daymend's user.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use daymend::{
    args,
    db::{DbClock, Query},
    doctor::{Site, examine as examine_all},
    scheduler::nightly::NightlyAt,
};

use crate::{
    on_both,
    support::{
        Engine, TestDb,
        doctor::{Diagnosis, NOW, examine, examine_as_admin, examine_with, healthy, now},
        grants,
        process::{run, run_ok},
        proxy::{Proxy, Weather},
        server::{self, Product, Server},
        wait_until, work,
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_there_is_bad_input_as_for_other_commands() {
    let mut db = TestDb::source_only(Engine::Sqlite).await;
    let no_database = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(no_database.path(), "no database".repeat(100)).unwrap();
    for url in [format!("sqlite:{}", no_database.path().display()), server::url(server::shared_port(), "nowhere")] {
        db.url = url;
        let found = examine(&db);
        assert_eq!((found.ids(), found.code), (vec!["connection.reachable"], 2), "{:#}", found.json);
        assert_eq!(found.json["exit_code"], 2);
        assert_eq!(run(&db, &["queue", "stats"]).status.code(), Some(2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_connection_is_worth_a_note() {
    let db = healthy(Engine::MariaDb).await;
    let proxy = Proxy::start(server::port(&db.url)).await;
    let url = server::at_port(&db.url, proxy.port);
    // A busy machine may be slow for a while, and a shared server may give cause for another finding.
    wait_until("a connection that is not slow, and no other finding", Duration::from_secs(60), async || {
        let found = tokio::task::block_in_place(|| examine_as(&db, &url));
        found.ids().is_empty() && !found.has("connection.latency")
    })
    .await;
    proxy.set(Weather::Slow(Duration::from_millis(20)));
    // A slow connection is not a failure. Another finding may be one, for a moment.
    wait_until("a slow connection and nothing worse", Duration::from_secs(60), async || {
        let found = tokio::task::block_in_place(|| examine_as(&db, &url));
        assert!(found.advice("connection.latency", "note").contains("nearer"));
        found.code == 0
    })
    .await;
}

async fn clocks_that_disagree_are_found(engine: Engine) {
    let db = healthy(engine).await;
    let rollups = work::rollups();
    let clock = std::sync::Arc::new(AtomicI64::new(0));
    let driven = db.db.with_clock(DbClock::Driven(std::sync::Arc::clone(&clock)));
    let site = Site { db: &driven, rollups: &rollups, now: now(), nightly_at: NightlyAt::DEFAULT, retention: None };
    let system = daymend::clock::Clock::System;
    for (off_s, expected) in [(0, None), (2, None), (-60, Some("60 s behind")), (90, Some("90 s ahead of"))] {
        let at = (system.now() + chrono::Duration::seconds(off_s)).timestamp_micros();
        clock.store(at, Ordering::SeqCst);
        let report = examine_all(&site).await;
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

/// Which days are over is decided by the database's clock, since this machine's may be the wrong one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn days_are_over_by_the_databases_clock() {
    let set_clock = format!("--init-connect=SET timestamp = {}", now().timestamp());
    let server = Server::start_with("clock", &[&set_clock]).unwrap();
    let db = TestDb::on_server(server.port).await;
    assert_eq!(db.db.database_now().await.unwrap(), now(), "init_connect is not run for administrators");
    db.add_lab(1, Some("Asia/Kolkata")).await;
    db.fill_lab(1, "2026-06-08".parse().unwrap(), 7, 4).await;
    db.settle(now()).await;
    let output = run(&db, &["doctor", "--json"]);
    let found =
        Diagnosis { json: serde_json::from_slice(&output.stdout).unwrap(), code: output.status.code().unwrap() };
    assert_eq!(found.ids(), ["server.clock"], "{:#}", found.json);
}

/// Creates a user with the privileges `grants` (`@` stands for the database), and returns the user's URL.
async fn user(db: &TestDb, name: &str, grants: &[&str]) -> String {
    let database = db.name();
    db.apply(&format!("CREATE USER {name}_{database}@`%` IDENTIFIED BY '{PASSWORD}'")).await;
    for grant in grants {
        db.apply(&format!("GRANT {} TO {name}_{database}@`%`", grant.replace('@', database))).await;
    }
    format!("mysql://{name}_{database}:{PASSWORD}@127.0.0.1:{}/{database}", server::port(&db.url))
}

/// Returns a user's privileges on tables and on columns.
async fn rights(db: &TestDb, user: &str) -> BTreeSet<(String, String)> {
    grants::rights(db, user).await.into_iter().collect()
}

/// Runs the doctor as another user.
fn examine_as(db: &TestDb, url: &str) -> Diagnosis {
    examine_with(db, &["--database-url", url])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_narrow_user_is_told_exactly_what_to_grant() {
    let db = healthy(Engine::MariaDb).await;
    let database = db.name();
    let url = user(&db, "narrow", &["SELECT ON `@`.labs", "SELECT, INSERT ON `@`.operation_historical_summary"]).await;
    let found = examine_as(&db, &url);
    let narrow = found.of("grants.narrow");
    let advice_for = |table: &str| {
        let finding = narrow.iter().find(|finding| finding["where"] == table).unwrap_or_else(|| panic!("{table}"));
        assert_eq!(finding["severity"], "error");
        finding["advice"].as_str().unwrap().to_owned()
    };
    let on = |table: &str| format!("ON `{database}`.`{table}` TO `narrow_{database}`@`%`;");
    let columns = "SELECT (`id`, `lab_id`, `billTime`, `isCancelled`)";
    assert_eq!(advice_for("billing"), format!("GRANT {columns} {}", on("billing")));
    let summary = "operation_historical_summary";
    let columns = "UPDATE (`event_count`, `modified_at`)";
    assert_eq!(advice_for(summary), format!("GRANT DELETE, {columns} {}", on(summary)));
    assert_eq!(advice_for("daymend_jobs"), format!("GRANT DELETE, INSERT, SELECT, UPDATE {}", on("daymend_jobs")));
    assert_eq!(advice_for("daymend_dirty"), format!("GRANT DELETE, INSERT, SELECT {}", on("daymend_dirty")));
    assert_eq!(advice_for("daymend_admin_log"), format!("GRANT INSERT, SELECT {}", on("daymend_admin_log")));
    let columns = "INSERT (`event_name`, `status`, `created_at`)";
    assert_eq!(advice_for("operation_event_log"), format!("GRANT {columns} {}", on("operation_event_log")));
    assert!(!narrow.iter().any(|finding| finding["where"] == "labs"));
    assert!(!found.has("grants.wide"), "{:#}", found.json);

    // Granting everything it names is enough for all of daymend, and no more than deploy/mysql/grants.sql.
    let before = rights(&db, &format!("narrow_{database}")).await;
    for finding in &narrow {
        db.apply(finding["advice"].as_str().unwrap()).await;
    }
    let of_the_file = rights(&db, database).await;
    let after = rights(&db, &format!("narrow_{database}")).await;
    let wider: Vec<_> = after.difference(&before).filter(|right| !of_the_file.contains(*right)).collect();
    assert!(wider.is_empty() && after.len() > before.len() + 50, "{wider:#?}");
    let found = examine_as(&db, &url);
    // A privilege that only the doctor would use is a note.
    assert_eq!(found.ids(), ["records.event_log"], "{:#}", found.json);
    assert_eq!(found.code, 0);
    assert!(!found.has("grants.wide") && !found.has("grants.narrow"));
    assert!(found.advice("grants.unseen", "note").contains("as an administrator"));
    assert!(found.what("records.event_log").contains("could not be checked"));
    let later = "2026-06-16T12:00:00Z";
    let commands =
        [&["rebuild", "--lab", "1"][..], &["scheduler", "--once"], &["worker", "--drain"], &["scheduler", "--once"]];
    for command in commands {
        run_ok(&db, &[command, &["--now", later, "--database-url", &url]].concat());
    }
    // The DDL of constraints stays commented out, as triggers cannot be seen.
    let fixes = run_ok(&db, &["doctor", "--print-fixes", "--database-url", &url]);
    assert!(fixes.contains("-- First: this user may not see triggers"), "{fixes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_on_columns_and_from_roles_count() {
    let db = healthy(Engine::MariaDb).await;
    let database = db.name();
    // Everything through a role, except billingInfo: granted by columns, one of which is missing.
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
    let to = Product::tested().word_before_who_has_a_role();
    db.apply(&format!(
        "GRANT role_{database} TO roled_{database}; SET DEFAULT ROLE role_{database} {to} roled_{database}"
    ))
    .await;
    let found = examine_as(&db, &url);
    let narrow = found.of("grants.narrow");
    assert_eq!(narrow.len(), 1, "{:#}", found.json);
    assert!(narrow[0]["what"].as_str().unwrap().contains("branch_id"), "{narrow:#?}");
    assert!(narrow[0]["advice"].as_str().unwrap().contains("GRANT SELECT (`branch_id`) ON"), "{narrow:#?}");
    assert!(narrow[0]["advice"].as_str().unwrap().contains("`.`billingInfo` TO"), "{narrow:#?}");
    assert!(found.advice("grants.roles", "note").contains("USING"));
    db.apply(&format!("GRANT SELECT (branch_id) ON billingInfo TO roled_{database}")).await;
    let found = examine_as(&db, &url);
    assert_eq!(found.ids(), ["grants.roles"], "{:#}", found.json);
    // A column of a table that daymend writes to.
    db.apply(&format!("REVOKE SELECT, INSERT, UPDATE, DELETE ON crelio_data_migrations FROM role_{database}")).await;
    db.apply(&format!("GRANT SELECT, INSERT, UPDATE (job_status) ON crelio_data_migrations TO roled_{database}")).await;
    let found = examine_as(&db, &url);
    let narrow = found.of("grants.narrow");
    assert!(!narrow.is_empty(), "{:#}", found.json);
    assert!(
        narrow.iter().all(|finding| finding["advice"].as_str().unwrap().contains("GRANT UPDATE (`is_scheduled`, ")),
        "{narrow:#?}"
    );
    for finding in &narrow {
        db.apply(finding["advice"].as_str().unwrap().trim_start_matches("if the column exists: ")).await;
    }
    assert!(!examine_as(&db, &url).has("grants.narrow"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_a_column_no_more_than_the_column_is_asked_for() {
    let db = healthy(Engine::MariaDb).await;
    let database = db.name();
    let on = |table: &str| format!("ON `{database}`.`{table}` TO `{database}`@`%`;");
    db.apply(&format!("REVOKE SELECT (isAccessed) ON collectedSample FROM {database}")).await;
    let advice = format!("if the column exists: GRANT SELECT (`isAccessed`) {}", on("collectedSample"));
    assert_eq!(examine(&db).advice("grants.narrow", "error"), advice);
    // A privilege that is missing on another table does not postpone this finding.
    db.apply(&format!("REVOKE INSERT ON operation_event_log FROM {database}")).await;
    let found = examine(&db);
    let advised: Vec<_> = found.of("grants.narrow").iter().map(|found| found["advice"].as_str().unwrap()).collect();
    let insert = "INSERT (`event_name`, `status`, `created_at`)";
    assert_eq!(advised, [format!("GRANT {insert} {}", on("operation_event_log")), advice], "{:#}", found.json);
    for advice in advised {
        db.apply(advice.trim_start_matches("if the column exists: ")).await;
    }
    assert!(!examine(&db).has("grants.narrow"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wide_user_is_told_what_to_revoke() {
    let db = healthy(Engine::MariaDb).await;
    for (name, grants, expected) in [
        ("all", &["ALL ON `@`.*"][..], "ALL PRIVILEGES on the whole database"),
        ("reloader", &["RELOAD ON *.*", "ALL ON `@`.*"], "RELOAD on the whole server"),
        ("giver", &["SELECT ON `@`.*", "ALL ON `@`.*", "GRANT OPTION ON `@`.*"], "GRANT OPTION on the whole database"),
        ("writer", &["SELECT ON `@`.*", "UPDATE, DELETE ON `@`.billing"], "DELETE, UPDATE on billing"),
        ("table", &["SELECT ON `@`.*", "ALL ON `@`.billing"], "on billing"),
        ("columns", &["SELECT ON `@`.*", "UPDATE (labName) ON `@`.labs"], "UPDATE on labs"),
        ("reader", &["SELECT ON `@`.*", "SELECT ON `@`.labs", "PROCESS ON *.*"], ""),
    ] {
        let url = user(&db, name, grants).await;
        let found = examine_as(&db, &url);
        let wide: Vec<_> = found.of("grants.wide");
        if expected.is_empty() {
            assert!(wide.is_empty(), "{:#}", found.json);
            continue;
        }
        let finding = wide.iter().find(|finding| finding["what"].as_str().unwrap().contains(expected));
        let finding = finding.unwrap_or_else(|| panic!("{name}: {wide:#?}"));
        assert_eq!(finding["severity"], "warning");
        assert!(finding["where"].as_str().unwrap().starts_with(name));
        // Once the advice is followed, the user is not too wide, and what is then missing is reported.
        for finding in &wide {
            let advice = finding["advice"].as_str().unwrap();
            db.apply(&advice[advice.find("REVOKE").unwrap()..advice.find(" and grant what").unwrap()]).await;
        }
        db.apply(&format!("GRANT SELECT ON labs TO {name}_{}", db.name())).await;
        let found = examine_as(&db, &url);
        assert!(!found.has("grants.wide"), "{name}: {:#}", found.json);
        assert!(found.has("grants.narrow"), "{name}: {:#}", found.json);
    }
}

/// The advice says to run the doctor as an administrator, who is not told to give up privileges.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_keeps_the_rights() {
    let db = healthy(Engine::MariaDb).await;
    let mut urls = vec![db.admin_url()];
    for (name, grant) in [("super", "SUPER ON *.*"), ("lender", "GRANT OPTION ON *.*")] {
        urls.push(user(&db, name, &[grant, "ALL ON `@`.*"]).await);
    }
    for url in urls {
        let found = examine_as(&db, &url);
        found.assert_well();
        assert!(!found.has("grants.wide"), "{:#}", found.json);
        let advice = found.advice("grants.administrator", "note");
        assert_eq!(advice, "daymend itself should run as the user `daymend` of deploy/mysql/users.sql");
    }
    assert!(!examine(&db).has("grants.administrator"));
}

/// Triggers that the server does not show may be missing or changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_triggers_that_the_user_may_not_see_are_not_called_well() {
    let db = healthy(Engine::MariaDb).await;
    db.install_dirty_triggers().await;
    db.execute("DROP TRIGGER daymend_billing_update", args![]).await;
    let names = |found: &Diagnosis, list: &str| found.json[list].as_array().unwrap().contains(&"triggers.own".into());
    let blind = examine(&db);
    assert!(!names(&blind, "checked") && names(&blind, "skipped"), "{:#}", blind.json);
    assert!(blind.what("grants.unseen").contains("daymend's own"), "{:#}", blind.json);
    let page = String::from_utf8(run(&db, &["--now", NOW, "doctor"]).stdout).unwrap();
    assert!(page.contains("Late changes: ok, 1 not looked at"), "{page}");
    assert!(examine_as_admin(&db).has("triggers.own"));
}

/// Triggers run with the privileges of the account that installed them: without these, nobody can write to the tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wide_user_keeps_what_its_triggers_need() {
    let db = healthy(Engine::MariaDb).await;
    let name = db.name();
    for (rights, place) in [("ALL", "*"), ("SELECT, INSERT, TRIGGER", "*"), ("ALL", "billing")] {
        db.apply(&format!("GRANT {rights} ON {name}.{place} TO {name}@`%`")).await;
        if place != "*" {
            for table in ["billingInfo", "labReportRelation", "collectedSample", "allTests"] {
                db.apply(&format!("GRANT TRIGGER ON {name}.{table} TO {name}@`%`")).await;
            }
        }
        run_ok(&db, &["--database-url", &db.url, "triggers", "install"]);
        // `healthy` has run grants.sql, which the advice names first.
        let advice = examine(&db).advice("grants.wide", "warning");
        let (first, after) = (advice.find("grants.sql, ").unwrap() + 12, advice.find(" and grant what").unwrap());
        db.apply(&advice[first..after].replace("then ", "")).await;
        let found = examine(&db);
        assert!(!found.has("grants.wide") && !found.has("grants.narrow"), "{:#}", found.json);
        let write = "UPDATE billing SET billTime = billTime + INTERVAL 1 SECOND";
        db.execute(write, args![]).await;
        assert!(db.marks().await > 0);
        db.apply(&format!("REVOKE TRIGGER ON billing FROM {name}")).await;
        let error = db.admin.execute(Query::new("write", write), args![]).await.unwrap_err();
        assert!(error.source.to_string().contains("TRIGGER command denied"), "what the advice is about: {error:?}");
        db.apply(&format!("GRANT TRIGGER ON billing TO {name}")).await;
        run_ok(&db, &["--database-url", &db.admin_url(), "triggers", "remove"]);
        let wide = examine(&db);
        let tables: Vec<_> = wide.of("grants.wide").iter().map(|found| found["what"].as_str().unwrap()).collect();
        assert_eq!(tables.len(), 5, "without the triggers nothing needs it: {tables:?}");
        for finding in wide.of("grants.wide") {
            let advice = finding["advice"].as_str().unwrap();
            db.apply(&advice[advice.find("REVOKE").unwrap()..advice.find(" and grant what").unwrap()]).await;
        }
        db.execute("DELETE FROM daymend_dirty", args![]).await;
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
        let advice = examine_as_admin(&db).advice(id, severity);
        assert_eq!(advice, format!("ALTER EVENT `{}`.`{name}` DISABLE;", db.name()));
        // A user who cannot see events is told so.
        let found = examine(&db);
        assert!(!found.has(id) && found.what("grants.unseen").contains("triggers and events"));
        db.apply(&advice).await;
        examine_as_admin(&db).assert_well();
    }
}

/// Uses a server of its own, because it changes global settings.
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

    let rebuild = || {
        run_ok(&db, &["--now", "2026-06-15T12:00:00Z", "rebuild", "--lab", "1"]);
        run_ok(&db, &["--now", "2026-06-15T12:00:00Z", "scheduler", "--once"]);
        run_ok(&db, &["worker", "--drain"]);
    };
    rebuild();
    let stored = "SELECT COUNT(*) FROM operation_historical_summary";
    let right = db.number(stored).await;
    // Defaults that daymend's own sessions override.
    let is_mysql = Product::tested() == Product::MySql;
    for (name, value) in [
        (if is_mysql { "transaction_isolation" } else { "tx_isolation" }, "'SERIALIZABLE'"),
        ("time_zone", "'+05:30'"),
        ("innodb_lock_wait_timeout", "50"),
        ("event_scheduler", "0"),
        ("autocommit", "0"),
        (if is_mysql { "transaction_read_only" } else { "tx_read_only" }, "1"),
        // A rebuild would not see rows beyond the limit.
        ("sql_select_limit", "5"),
        ("sql_safe_updates", "1"),
        ("completion_type", "'CHAIN'"),
        ("max_join_size", "1"),
        ("sql_big_selects", "0"),
    ] {
        set(name, value).await;
    }
    let found = examine(&db);
    found.assert_well();
    rebuild();
    assert_eq!(db.number(stored).await, right);
    assert_eq!(db.number("SELECT COUNT(*) FROM daymend_jobs WHERE rows_deleted > 0").await, 0);
    let fact = |name: &str| {
        let facts = found.json["facts"].as_array().unwrap();
        facts.iter().find(|fact| fact["name"] == name).unwrap()["value"].as_str().unwrap().to_owned()
    };
    assert!(fact("sessions").contains("isolation READ-COMMITTED, time zone +00:00, sql_mode strict, lock wait "));
    assert!(fact("defaults").contains("isolation SERIALIZABLE, time zone +05:30"), "{}", fact("defaults"));

    for (name, value, id, severity) in [
        ("read_only", "1", "settings.read_only", "error"),
        ("max_allowed_packet", "65536", "settings.packet", "warning"),
        ("sql_mode", "''", "settings.sql_mode", "note"),
        ("max_connections", "10", "settings.connections", "warning"),
        ("max_prepared_stmt_count", "2401", "settings.prepared", "warning"),
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
