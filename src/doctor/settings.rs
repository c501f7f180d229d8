//! The server's settings, or those of a SQLite file, as far as they matter.
//!
//! daymend's sessions set their own isolation level, time zone, `sql_mode` and lock timeout, so the server's defaults
//! do not matter for them; the check is that sessions really have these settings, which a pooling proxy may prevent.

use std::collections::BTreeMap;

use super::{Check, Findings, Severity, Site, look};
use crate::{
    args,
    db::{DbError, STATEMENTS_KEPT_MAX, Statement},
    statement,
};

pub(super) const CHECKS: &[Check] = &[
    Check::new("settings.session", Severity::Error, "the settings of daymend's sessions", look!(sessions)).mysql(),
    Check::new("settings.read_only", Severity::Error, "read_only", look!(judge, read_only)).mysql(),
    Check::new("settings.binlog", Severity::Error, "binlog_format", look!(judge, binlog)).mysql(),
    Check::new("settings.connections", Severity::Warning, "max_connections", look!(judge, connections)).mysql(),
    Check::new("settings.prepared", Severity::Warning, "max_prepared_stmt_count", look!(judge, prepared)).mysql(),
    Check::new("settings.packet", Severity::Warning, "max_allowed_packet", look!(judge, packet)).mysql(),
    Check::new("settings.durability", Severity::Note, "innodb_flush_log_at_trx_commit", look!(judge, durability))
        .mysql(),
    Check::new("settings.sql_mode", Severity::Note, "the server's sql_mode", look!(judge, strictness)).mysql(),
    Check::new("settings.journal_mode", Severity::Warning, "how a SQLite file is written", look!(journal)).sqlite(),
];

statement!(Doctor: JOURNAL_MODE, "doctor journal mode", sqlite only: "PRAGMA journal_mode");

statement!(
    Doctor: GLOBAL,
    "doctor server settings",
    mysql only:
    "SHOW GLOBAL VARIABLES WHERE Variable_name IN
         ('transaction_isolation', 'tx_isolation', 'time_zone', 'system_time_zone', 'sql_mode', 'innodb_lock_wait_timeout',
          'innodb_flush_log_at_trx_commit', 'log_bin', 'binlog_format', 'max_connections', 'max_allowed_packet',
          'max_prepared_stmt_count', 'event_scheduler', 'read_only', 'super_read_only', 'max_user_connections')"
);

statement!(
    Doctor: SESSION,
    "doctor session settings",
    mysql only:
    "SHOW SESSION VARIABLES WHERE Variable_name IN
         ('transaction_isolation', 'tx_isolation', 'time_zone', 'sql_mode', 'innodb_lock_wait_timeout', 'autocommit',
          'max_user_connections')"
);

statement!(
    Doctor: STATUS,
    "doctor server status",
    mysql only: "SHOW GLOBAL STATUS WHERE Variable_name IN ('Threads_connected', 'Prepared_stmt_count')"
);

/// How many connections one more process of daymend may open: for `daymend serve` with one slot, 5 for the worker, 4
/// for the scheduler, and one each for leases, probes and the server that snapshots are taken from.
const CONNECTIONS_NEEDED: u64 = 12;

/// Far larger than any statement that daymend sends.
const PACKET_MIN: u64 = 1 << 20;

/// Settings by name; names in lower case.
type Variables = BTreeMap<String, String>;

/// A finding: where, what, what to do.
type Found = Option<(String, String, String)>;

fn found(place: &str, what: impl Into<String>, advice: impl Into<String>) -> Found {
    Some((place.to_owned(), what.into(), advice.into()))
}

async fn variables(site: &Site<'_>, statement: &'static Statement) -> Result<Variables, DbError> {
    let pairs = site.db.fetch_all(statement, args![], |row| {
        Ok((row.text(0)?.to_lowercase(), row.text_or_null(1)?.unwrap_or_default()))
    });
    Ok(pairs.await?.into_iter().collect())
}

/// The value of a setting; empty if the server has no such setting.
fn value<'a>(variables: &'a Variables, name: &str) -> &'a str {
    variables.get(name).map_or("", String::as_str)
}

fn is_on(variables: &Variables, name: &str) -> bool {
    matches!(value(variables, name).to_uppercase().as_str(), "ON" | "1" | "YES")
}

/// The isolation level, which has another name in MariaDB before 11.1.
fn isolation(variables: &Variables) -> &str {
    let name = if variables.contains_key("transaction_isolation") { "transaction_isolation" } else { "tx_isolation" };
    value(variables, name)
}

/// Judges the server's settings with a pure function.
async fn judge(site: &Site<'_>, judge: fn(&Variables) -> Found, findings: &mut Findings) -> Result<(), DbError> {
    let mut server = variables(site, &GLOBAL).await?;
    server.extend(variables(site, &STATUS).await?);
    let session = variables(site, &SESSION).await?;
    if let Some(limit) = session.get("max_user_connections") {
        server.insert("max_user_connections".to_owned(), limit.clone());
    }
    findings.found.extend(judge(&server));
    Ok(())
}

/// `daymend migrate` switches a file to WAL, but a copy made by `VACUUM INTO` is in another mode.
async fn journal(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let modes = site.read(&JOURNAL_MODE, args![], |row| row.text(0)).await?;
    if let Some(mode) = modes.into_iter().find(|mode| !["wal", "memory"].contains(&mode.as_str())) {
        let what = format!("its journal mode is {mode}: writers have to wait for all readers");
        findings.add("database", what, "run daymend migrate while nobody else has the file open");
    }
    Ok(())
}

async fn sessions(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let session = variables(site, &SESSION).await?;
    let server = variables(site, &GLOBAL).await?;
    let describe = |of: &Variables| {
        format!(
            "isolation {}, time zone {}, sql_mode {}, lock wait {} s",
            isolation(of),
            value(of, "time_zone"),
            if is_strict(value(of, "sql_mode")) { "strict" } else { "not strict" },
            value(of, "innodb_lock_wait_timeout"),
        )
    };
    findings.fact("sessions", format!("{} (set by daymend itself)", describe(&session)));
    findings.fact("defaults", format!("{} (the server's; they do not matter to daymend)", describe(&server)));
    findings.fact("event scheduler", value(&server, "event_scheduler").to_lowercase());
    let wrong = wrong_in_session(&session);
    if !wrong.is_empty() {
        findings.add(
            "sessions",
            format!("daymend's sessions do not have the settings that they asked for: {}", wrong.join(", ")),
            "connect to the server itself, not through a proxy that shares or resets sessions; set autocommit = ON",
        );
    }
    Ok(())
}

/// Which settings of a session differ from what daymend relies on.
fn wrong_in_session(session: &Variables) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut expect = |name: &str, found: &str, is_right: bool| {
        if !is_right {
            wrong.push(format!("{name} = {found:?}"));
        }
    };
    expect("transaction_isolation", isolation(session), isolation(session) == "READ-COMMITTED");
    expect("time_zone", value(session, "time_zone"), value(session, "time_zone") == "+00:00");
    expect("sql_mode", value(session, "sql_mode"), is_strict(value(session, "sql_mode")));
    let wait = value(session, "innodb_lock_wait_timeout");
    expect("innodb_lock_wait_timeout", wait, ["1", "5"].contains(&wait));
    expect("autocommit", value(session, "autocommit"), is_on(session, "autocommit"));
    wrong
}

fn is_strict(sql_mode: &str) -> bool {
    sql_mode.split(',').any(|mode| matches!(mode, "STRICT_TRANS_TABLES" | "STRICT_ALL_TABLES" | "TRADITIONAL"))
}

fn read_only(server: &Variables) -> Found {
    let name = ["super_read_only", "read_only"].into_iter().find(|name| is_on(server, name))?;
    found(
        name,
        "the server accepts no writes: it is a replica, or a failover is under way",
        "give the primary's URL in --database-url",
    )
}

fn binlog(server: &Variables) -> Found {
    if !is_on(server, "log_bin") || !value(server, "binlog_format").eq_ignore_ascii_case("STATEMENT") {
        return None;
    }
    found(
        "binlog_format",
        "STATEMENT: the server rejects every write at READ COMMITTED, so all of daymend's",
        "SET GLOBAL binlog_format = 'ROW'; and set it in the server's configuration",
    )
}

fn connections(server: &Variables) -> Found {
    let number = |name| value(server, name).parse::<u64>().unwrap_or(0);
    let (max, used, of_user) = (number("max_connections"), number("threads_connected"), number("max_user_connections"));
    if of_user != 0 && of_user < CONNECTIONS_NEEDED {
        return found(
            "max_user_connections",
            format!("{of_user} for daymend's user; one process opens up to {CONNECTIONS_NEEDED}"),
            "ALTER USER … WITH MAX_USER_CONNECTIONS 100;",
        );
    }
    if max == 0 || used + CONNECTIONS_NEEDED <= max {
        return None;
    }
    found(
        "max_connections",
        format!("{used} of {max} connections are in use; one more process of daymend needs {CONNECTIONS_NEEDED}"),
        format!("SET GLOBAL max_connections = {}; and set it in the server's configuration", max * 2),
    )
}

fn prepared(server: &Variables) -> Found {
    let max: u64 = value(server, "max_prepared_stmt_count").parse().ok()?;
    let used: u64 = value(server, "prepared_stmt_count").parse().ok()?;
    let needed = CONNECTIONS_NEEDED * STATEMENTS_KEPT_MAX as u64;
    if used + needed <= max {
        return None;
    }
    found(
        "max_prepared_stmt_count",
        format!(
            "{used} of {max} prepared statements are in use; one more process of daymend keeps up to {needed}; above \
             the maximum the server rejects new ones, the lab system's too"
        ),
        format!(
            "SET GLOBAL max_prepared_stmt_count = {}; and set it in the server's configuration",
            max.max(needed) * 2
        ),
    )
}

fn packet(server: &Variables) -> Found {
    let packet: u64 = value(server, "max_allowed_packet").parse().ok()?;
    if packet >= PACKET_MIN {
        return None;
    }
    found(
        "max_allowed_packet",
        format!("{packet} bytes: the server may reject writes of many rows at once"),
        "SET GLOBAL max_allowed_packet = 16777216; and set it in the server's configuration",
    )
}

fn durability(server: &Variables) -> Found {
    let flush = value(server, "innodb_flush_log_at_trx_commit");
    if flush.is_empty() || flush == "1" {
        return None;
    }
    found(
        "innodb_flush_log_at_trx_commit",
        format!(
            "{flush}: a crash of the host may lose the last second of writes, the lab system's as well as daymend's"
        ),
        "SET GLOBAL innodb_flush_log_at_trx_commit = 1; (jobs and summary stay consistent either way)",
    )
}

fn strictness(server: &Variables) -> Found {
    if is_strict(value(server, "sql_mode")) {
        return None;
    }
    found(
        "sql_mode",
        "the server's default is not strict: values that the lab system and its triggers write may be truncated \
         silently",
        "daymend needs no change, as its own sessions are strict; ask the lab system's owner",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_session_is_right_only_with_every_setting() {
        let right = [
            ("tx_isolation", "READ-COMMITTED"),
            ("time_zone", "+00:00"),
            ("sql_mode", "STRICT_TRANS_TABLES,NO_ZERO_IN_DATE"),
            ("innodb_lock_wait_timeout", "5"),
            ("autocommit", "ON"),
        ];
        assert_eq!(wrong_in_session(&variables(&right)), Vec::<String>::new());
        for (name, _) in right {
            let mut wrong = variables(&right);
            wrong.insert(name.to_owned(), "OFF".to_owned());
            assert_eq!(wrong_in_session(&wrong).len(), 1, "{name}");
        }
    }

    #[test]
    fn only_a_binary_log_of_statements_is_in_the_way() {
        let judged =
            |log: &str, format: &str| binlog(&variables(&[("log_bin", log), ("binlog_format", format)])).is_some();
        assert!(judged("ON", "STATEMENT"));
        assert!(!judged("ON", "ROW") && !judged("ON", "MIXED") && !judged("OFF", "STATEMENT") && !judged("ON", ""));
    }

    #[test]
    fn room_for_one_more_process_is_enough() {
        let judged = |max: &str, used: &str, user: &str| {
            let server = [("max_connections", max), ("threads_connected", used), ("max_user_connections", user)];
            connections(&variables(&server)).map(|(place, _, _)| place)
        };
        assert_eq!(judged("151", "139", "0"), None);
        assert_eq!(judged("151", "140", "0").as_deref(), Some("max_connections"));
        assert_eq!(judged("151", "1", "4").as_deref(), Some("max_user_connections"));
    }

    #[test]
    fn statements_of_one_more_process_have_to_find_room() {
        let judged = |max: &str, used: &str| {
            let (_, _, advice) =
                prepared(&variables(&[("max_prepared_stmt_count", max), ("prepared_stmt_count", used)]))?;
            Some(advice.split(';').next().unwrap_or_default().to_owned())
        };
        assert_eq!(judged("16382", "13982"), None);
        assert_eq!(judged("16382", "13983").as_deref(), Some("SET GLOBAL max_prepared_stmt_count = 32764"));
        assert_eq!(judged("0", "0").as_deref(), Some("SET GLOBAL max_prepared_stmt_count = 4800"));
    }

    #[test]
    fn other_settings_are_judged_by_their_values() {
        assert!(read_only(&variables(&[("read_only", "ON")])).is_some());
        assert!(read_only(&variables(&[("read_only", "OFF"), ("super_read_only", "ON")])).is_some());
        assert!(read_only(&variables(&[("read_only", "OFF")])).is_none());
        assert!(packet(&variables(&[("max_allowed_packet", "1024")])).is_some());
        assert!(packet(&variables(&[("max_allowed_packet", "1048576")])).is_none());
        assert!(durability(&variables(&[("innodb_flush_log_at_trx_commit", "2")])).is_some());
        assert!(durability(&variables(&[("innodb_flush_log_at_trx_commit", "1")])).is_none());
        assert!(strictness(&variables(&[("sql_mode", "NO_ENGINE_SUBSTITUTION")])).is_some());
        assert!(strictness(&variables(&[("sql_mode", "STRICT_ALL_TABLES")])).is_none());
    }
}
