//! The connection and the server: latency, TLS, version, clocks.

use std::time::Instant;

use super::{Check, Findings, Severity, Site, look};
use crate::{args, clock::Clock, db::DbError, statement};

pub(super) const CHECKS: &[Check] = &[
    Check::new("connection.latency", Severity::Note, "how long a statement takes", look!(latency)),
    Check::new("connection.tls", Severity::Note, "whether the connection is encrypted", look!(tls)).mysql(),
    Check::new("server.version", Severity::Error, "the server's version", look!(version)),
    Check::new("server.clock", Severity::Warning, "the clocks of this host and of the database", look!(clock)),
];

statement!(
    Doctor: SERVER,
    "doctor server",
    mysql only: "SELECT VERSION(), COALESCE(DATABASE(), ''), CURRENT_USER(), USER()"
);

statement!(Doctor: SQLITE_VERSION, "doctor version", sqlite only: "SELECT sqlite_version()");

statement!(Doctor: CIPHER, "doctor cipher", mysql only: "SHOW SESSION STATUS LIKE 'Ssl_cipher'");

/// A recompute, which is a dozen statements, is slow if each takes longer than this.
const LATENCY_MAX_MS: f64 = 25.0;

/// The maximum difference between the clocks, in seconds.
const SKEW_MAX_S: f64 = 5.0;

/// How often latency and clock are measured; the best result counts.
const TRIES: usize = 5;

/// The user and the server of a MySQL session.
#[derive(Debug, Clone)]
pub(super) struct Session {
    /// `VERSION()`.
    pub(super) version: String,
    /// The database's name.
    pub(super) database: String,
    /// The account that the privileges belong to, as `user@host`.
    pub(super) account: String,
    /// The user and the host that the server sees.
    pub(super) user: String,
}

/// Reads the session's user and server.
pub(super) async fn session(site: &Site<'_>) -> Result<Session, DbError> {
    let rows = site.read(&SERVER, args![], |row| {
        Ok(Session { version: row.text(0)?, database: row.text(1)?, account: row.text(2)?, user: row.text(3)? })
    });
    rows.await?.pop().ok_or_else(|| DbError::new(SERVER.name, sqlx::Error::RowNotFound))
}

async fn latency(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        let mut tx = site.db.begin(crate::db::Mode::Snapshot).await?;
        let begun = Instant::now();
        tx.database_now().await?;
        best = best.min(begun.elapsed().as_secs_f64() * 1000.0);
        tx.rollback().await?;
    }
    findings.fact("latency", format!("{best:.1} ms a statement"));
    if best > LATENCY_MAX_MS {
        findings.add(
            "connection",
            format!("a statement takes {best:.0} ms at best"),
            "run workers nearer to the database",
        );
    }
    Ok(())
}

async fn tls(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let session = session(site).await?;
    let cipher = site.read(&CIPHER, args![], |row| row.text_or_null(1)).await?;
    let cipher = cipher.into_iter().flatten().next().unwrap_or_default();
    findings.fact("database", format!("{} as {}", session.database, session.account));
    findings.fact("encryption", if cipher.is_empty() { "none" } else { cipher.as_str() });
    if cipher.is_empty() && !is_local(&session.user) {
        findings.add(
            session.user,
            "what daymend reads and writes crosses the network unencrypted",
            "add ?ssl-mode=VERIFY_IDENTITY&ssl-ca=FILE to the database URL",
        );
    }
    Ok(())
}

/// Whether the server sees the client as being on its own host.
fn is_local(user: &str) -> bool {
    let host = user.rsplit_once('@').map_or("", |(_, host)| host);
    matches!(host, "localhost" | "127.0.0.1" | "::1")
}

async fn version(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let version = if site.is_mysql() {
        session(site).await?.version
    } else {
        let found = site.read(&SQLITE_VERSION, args![], |row| row.text(0)).await?;
        format!("{}-SQLite", found.into_iter().next().unwrap_or_default())
    };
    let (product, is_fit) = judge_version(&version);
    findings.fact("server", format!("{product} {version}"));
    if !is_fit {
        findings.add(
            format!("{product} {version}"),
            "daymend needs MySQL 8.0, MariaDB 10.6 or SQLite 3.42, or a later one",
            "upgrade the server",
        );
    }
    Ok(())
}

/// Which product a version belongs to, and whether it is recent enough.
fn judge_version(version: &str) -> (&'static str, bool) {
    let (product, wanted) = if version.contains("MariaDB") {
        ("MariaDB", (10, 6))
    } else if version.contains("SQLite") {
        ("SQLite", (3, 42))
    } else {
        ("MySQL", (8, 0))
    };
    (product, number(version) >= wanted)
}

/// The first two numbers of a version. Some MariaDB servers put `5.5.5-` before their own.
pub(super) fn number(version: &str) -> (u32, u32) {
    let version = if version.contains("MariaDB") { version.strip_prefix("5.5.5-").unwrap_or(version) } else { version };
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

async fn clock(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    // The fastest measurement has the smallest error.
    let (mut best, mut skew) = (f64::INFINITY, 0.0);
    for _ in 0..TRIES {
        let mut tx = site.db.begin(crate::db::Mode::Snapshot).await?;
        let before = Clock::System.now();
        let begun = Instant::now();
        let theirs = tx.database_now().await?;
        let took = begun.elapsed().as_secs_f64();
        tx.rollback().await?;
        if took < best {
            best = took;
            skew = (theirs - before).as_seconds_f64() - took / 2.0;
        }
    }
    if skew.abs() > SKEW_MAX_S {
        let which = if skew > 0.0 { "ahead of" } else { "behind" };
        findings.add(
            "clock",
            format!("the database's clock is {:.0} s {which} this host's", skew.abs()),
            "synchronise both with NTP (chronyc tracking): days end by the clock that is behind, leases by the database's",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart() {
        for version in [
            "8.0.11",
            "8.0.36-28",
            "8.4.2",
            "9.1.0",
            "10.6.0-MariaDB",
            "10.11.6-MariaDB-0+deb12u1",
            "11.4.2-MariaDB",
            "5.5.5-10.6.12-MariaDB-log",
            "3.42.0-SQLite",
        ] {
            assert!(judge_version(version).1, "{version}");
        }
        for version in ["5.7.44-log", "5.6.10", "10.5.23-MariaDB", "5.5.5-10.3.39-MariaDB", "3.41.2-SQLite", ""] {
            assert!(!judge_version(version).1, "{version}");
        }
        assert_eq!(judge_version("10.11.6-MariaDB").0, "MariaDB");
    }

    #[test]
    fn only_this_host_is_local() {
        assert!(is_local("daymend@localhost") && is_local("da@y@127.0.0.1") && is_local("daymend@::1"));
        assert!(!is_local("daymend@10.0.0.7") && !is_local("daymend@db.example"));
    }
}
