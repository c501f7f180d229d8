//! Database errors, classified by what to do about them.

use strum::IntoStaticStr;

use super::migrate::OWN;

/// The statement name of errors that occur while connecting.
pub(super) const CONNECT: &str = "connect";

/// What a database error calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum ErrorKind {
    /// A conflict with another transaction (deadlock, lock timeout, snapshot conflict, SQLite BUSY, a row that a
    /// trigger inserted first): start over at once.
    Conflict,
    /// The database cannot be reached, or is starting or stopping: wait, then continue.
    Unavailable,
    /// A table, a column or a privilege is missing, or a statement is wrong: retrying does not help.
    Definition,
    /// Anything else.
    Other,
}

impl ErrorKind {
    /// The name used in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// A statement that failed: its name, the database's own message, and what kind of error it is.
#[derive(Debug, thiserror::Error)]
#[error("database: {statement}")]
pub struct DbError {
    /// The name in the comment that opens the statement (`-- claim`).
    pub statement: String,
    /// What to do about it.
    pub kind: ErrorKind,
    /// The driver's error.
    #[source]
    pub source: sqlx::Error,
}

impl DbError {
    /// Names the statement that failed.
    #[must_use]
    pub fn new(statement: &str, source: sqlx::Error) -> Self {
        Self { statement: statement.to_owned(), kind: classify(&source), source }
    }
}

impl DbError {
    /// A conflict that the database does not detect: a row has changed since it was read.
    #[must_use]
    pub(crate) fn changed(statement: &str) -> Self {
        let source = sqlx::Error::Protocol("a row has changed since it was read".to_owned());
        Self { kind: ErrorKind::Conflict, ..Self::new(statement, source) }
    }
}

/// The database's own error number, such as 1213; 0 if it has none.
#[must_use]
pub fn code(error: &sqlx::Error) -> u32 {
    match error {
        sqlx::Error::Database(error) => error
            .try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()
            .map(|mysql| u32::from(mysql.number()))
            .or_else(|| error.code().and_then(|code| code.parse().ok()))
            .unwrap_or(0),
        _ => 0,
    }
}

fn classify(error: &sqlx::Error) -> ErrorKind {
    match error {
        sqlx::Error::Database(database) => {
            if database.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>().is_some() {
                mysql_kind(code(error))
            } else {
                sqlite_kind(code(error), database.message())
            }
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => ErrorKind::Unavailable,
        sqlx::Error::Configuration(_) | sqlx::Error::ColumnNotFound(_) => ErrorKind::Definition,
        _ => ErrorKind::Other,
    }
}

/// MySQL and MariaDB error numbers (their reference manuals, "Server Error Message Reference").
fn mysql_kind(number: u32) -> ErrorKind {
    match number {
        // Duplicate key; deadlock; lock wait timeout; record changed since last read (MariaDB's snapshot isolation);
        // auto-increment read failed, which a deadlock's victim may get instead; rolled back at commit (Group
        // Replication; Galera's certification conflict is 1213); a lock that is not available at once (NOWAIT; 1205 on
        // MariaDB); a table that was created or altered after the read view was opened; write conflicts (TiDB).
        1062 | 1205 | 1213 | 1020 | 1412 | 1467 | 3101 | 3572 | 8022 | 9007 => ErrorKind::Conflict,
        // Too many connections, or prepared statements (1461); server shutdown; normal shutdown; aborted connection;
        // read-only (a failover is under way); killed connection; lost or gone; a Galera node that is joining (1047); a
        // connection that was idle for too long (MySQL 8.0.24+, 4031). Not a statement that was killed (1317): whoever
        // kills long statements would kill it again, forever.
        1040 | 1047 | 1053 | 1077 | 1079 | 1152 | 1184 | 1203 | 1226 | 1290 | 1461 | 1836 | 1927 | 2006 | 2013
        | 3169 | 4031 => ErrorKind::Unavailable,
        // A refused log-in is not a job's fault.
        login if is_login_refused(login) => ErrorKind::Unavailable,
        // Access denied (database, table, column, other, routine); unknown database; bad field; syntax; unknown table; no
        // such table; no such routine; a view that is invalid; a definer that does not exist.
        1044 | 1049 | 1054 | 1064 | 1109 | 1142 | 1143 | 1146 | 1227 | 1305 | 1356 | 1370 | 1449 => {
            ErrorKind::Definition
        }
        _ => ErrorKind::Other,
    }
}

/// Whether a MySQL error means that a log-in was refused: the password is being changed (1045, 1698) or has expired
/// (1820, 1862), the host is blocked after network errors (1129) or may not log in (1130), or the account is locked
/// (MySQL 3118, MariaDB 4151), or blocked after wrong passwords (MySQL 3955, MariaDB 4150).
fn is_login_refused(number: u32) -> bool {
    matches!(number, 1045 | 1129 | 1130 | 1698 | 1820 | 1862 | 3118 | 3955 | 4150 | 4151)
}

/// SQLite result codes (sqlite.org/rescode.html); the low byte is the primary code.
fn sqlite_kind(code: u32, message: &str) -> ErrorKind {
    match code & 0xff {
        5 | 6 => ErrorKind::Conflict,
        19 if message.contains("UNIQUE") => ErrorKind::Conflict,
        14 => ErrorKind::Unavailable,
        // An error in a statement, or a missing table; a file that may not be written, or is no database.
        1 | 8 | 26 => ErrorKind::Definition,
        _ => ErrorKind::Other,
    }
}

impl DbError {
    /// Whether a connection was lost while a statement was running, because of an outage or because it was killed.
    #[must_use]
    pub(crate) fn is_cut_off(&self) -> bool {
        self.kind == ErrorKind::Unavailable
            && self.statement != CONNECT
            && match &self.source {
                // Server shutdown, which MySQL also reports for a statement whose connection is killed; aborted
                // connection; killed connection; lost or gone; killed session.
                sqlx::Error::Database(_) => {
                    matches!(code(&self.source), 1053 | 1152 | 1184 | 1927 | 2006 | 2013 | 3169)
                }
                _ => true,
            }
    }

    /// Whether there was no connection, or no answer, in time.
    pub(super) fn is_timeout(&self) -> bool {
        matches!(&self.source, sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut)
    }

    /// Whether a row holds a value that cannot be read: only the row's lab is affected.
    #[must_use]
    pub fn is_bad_data(&self) -> bool {
        matches!(&self.source, sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. })
    }

    /// Whether the error is transient: a conflict with another transaction, but not a duplicate key.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.kind == ErrorKind::Conflict && !self.is_duplicate()
    }

    /// Whether a privilege is missing: access denied to a database, a command, a column, or in general.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(code(&self.source), 1044 | 1142 | 1143 | 1227 | 1370)
    }

    /// Whether SQLite may not write its file, or its directory.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        let sqlx::Error::Database(error) = &self.source else { return false };
        error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() && code(&self.source) & 0xff == 8
    }

    /// Whether the server answers but rejects this user: the log-in, or access to the database.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        let number = code(&self.source);
        is_login_refused(number) || matches!(number, 1044 | 1049)
    }

    /// The log message for a process that is waiting for the database.
    #[must_use]
    pub fn why_waiting(&self) -> &'static str {
        if self.is_refused() {
            "the database refuses the log-in, waiting"
        } else {
            "the database does not answer, waiting"
        }
    }

    /// Whether the database cannot read or write any row, whichever it is: it has no room, no memory, or a file that
    /// fails. On MySQL, a full disk, also that of temporary files (3, 20, 1878); an error when a file is read or written;
    /// no memory; an index or a table that is damaged; an error of the storage engine; a full table.
    #[must_use]
    pub(crate) fn is_of_storage(&self) -> bool {
        let sqlx::Error::Database(error) = &self.source else { return false };
        let number = code(&self.source);
        if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
            // No memory, an error of a file, a damaged file, a full disk.
            return matches!(number & 0xff, 7 | 10 | 11 | 13);
        }
        matches!(
            number,
            3 | 20 | 1021 | 1024 | 1026 | 1030 | 1034 | 1035 | 1037 | 1038 | 1041 | 1114 | 1194 | 1195 | 1878
        )
    }

    /// Whether a table does not exist.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        code(&self.source) == 1146 || self.source.to_string().contains("no such table")
    }

    /// Whether a table of daymend's own does not exist; the lab system's have other names.
    #[must_use]
    pub fn is_own_table_absent(&self) -> bool {
        let text = self.source.to_string();
        self.is_absent() && [".", ": "].iter().any(|before| text.contains(&format!("{before}{OWN}")))
    }

    /// Whether a row with that unique key already existed.
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        matches!(&self.source, sqlx::Error::Database(error) if error.is_unique_violation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_do_at_the_same_time_is_a_conflict_and_what_somebody_does_on_purpose_is_none() {
        for (numbers, kind) in [
            // Deadlock, lock timeout, snapshot isolation, a younger table, NOWAIT, a duplicate key.
            (&[1213, 1205, 1020, 1412, 3572, 1062][..], ErrorKind::Conflict),
            // Full, stopping, lost, killed, idle for too long, read-only; and log-ins that are refused.
            (&[1040, 1053, 2006, 2013, 1927, 4031, 1290, 1836, 1045, 1862, 3118], ErrorKind::Unavailable),
            (&[1044, 1054, 1064, 1142, 1143, 1146, 1356, 1449], ErrorKind::Definition),
            // A statement that was killed, or took too long; values and constraints.
            (&[1317, 1969, 3024, 1264, 1406, 1452, 4025, 0], ErrorKind::Other),
        ] {
            for number in numbers {
                assert_eq!(mysql_kind(*number), kind, "{number}");
            }
        }
        for (code, message, kind) in [
            (5, "database is locked", ErrorKind::Conflict),
            (517, "database is locked", ErrorKind::Conflict),
            (262, "database table is locked", ErrorKind::Conflict),
            (2067, "UNIQUE constraint failed: t.id", ErrorKind::Conflict),
            (787, "FOREIGN KEY constraint failed", ErrorKind::Other),
            (14, "unable to open database file", ErrorKind::Unavailable),
            (1, "no such table: t", ErrorKind::Definition),
            (1032, "attempt to write a readonly database", ErrorKind::Definition),
            (26, "file is not a database", ErrorKind::Definition),
            (13, "database or disk is full", ErrorKind::Other),
        ] {
            assert_eq!(sqlite_kind(code, message), kind, "{code}");
        }
    }
}
