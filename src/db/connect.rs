//! Opening a pool from a URL.

use std::{
    path::Path,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use log::LevelFilter;
use sqlx::{
    ConnectOptions as _, Connection as _, Executor, MySqlConnection, MySqlPool, SqlitePool,
    mysql::{MySqlConnectOptions, MySqlPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use url::Url;

use super::{Db, DbError, ErrorKind, LIMIT, Pool, Tx, code, error::CONNECT};

/// How long to wait for a connection before the database counts as unreachable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection is used. After a switchover, connections that only read get no error from the old server, which
/// does not follow the new one.
const LIFETIME_MAX: Duration = Duration::from_secs(300);

/// How the pool logs slow connections: an outage is reported once, by daymend itself and in one line.
const SLOW: LevelFilter = LevelFilter::Debug;

/// How long a connection that was idle, or is being returned, may take to answer a ping.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a SQLite file cannot be written.
const READ_ONLY: &str = "is read-only: this user has to be allowed to write the file, and its directory";

/// Why a SQLite file in WAL mode cannot even be opened for reading: readers write to files beside it.
const NOT_EVEN_READ: &str = "is read-only: this user has to be allowed to write the file, and its directory; to only \
     read it, while nobody writes it, give sqlite:FILE?immutable=1";

/// How to open a pool.
#[derive(Debug, Clone, Copy)]
pub struct ConnectOptions {
    /// Maximum number of connections.
    pub connections: u32,
    /// Whether to create a missing SQLite file, and to switch it to WAL, which is permanent. All other callers leave
    /// a file as it is, so that a copy that nobody may write can be read.
    pub create: bool,
    /// How long the server lets one statement run, so that a statement whose client has given up does not run forever.
    /// SQLite's statements are interrupted by their client.
    pub statement_max: Duration,
    /// How long a MySQL session may be idle before the server ends it. This frees the locks of a process that was
    /// stopped, or cut off, in the middle of a transaction.
    pub idle_max: Duration,
}

impl ConnectOptions {
    /// Options for this many connections to an existing database; a statement ends soon after its client has given
    /// up.
    #[must_use]
    pub fn new(connections: u32) -> Self {
        Self { connections, create: false, statement_max: 2 * LIMIT, idle_max: Duration::from_secs(300) }
    }
}

impl From<u32> for ConnectOptions {
    fn from(connections: u32) -> Self {
        Self::new(connections)
    }
}

/// Settings that every MySQL session relies on, set explicitly because the server's defaults differ from site to site.
/// READ COMMITTED avoids the gap locks that make neighbouring empty days deadlock. No statement ends early
/// (`sql_select_limit` would cut facts and snapshots short without an error), or is refused for its estimated cost. A
/// lock that is not granted within five seconds is held by somebody else for long, and starting over is better than
/// waiting with locks of our own; within one second on MySQL, where no statement can say that it does not wait
/// (`{waiting_for_nobody}`). Digests concatenate the rows of a day, and a server's default of 1,024 bytes holds only a
/// few. Without its checks, MariaDB locks a whole table to insert into an empty one.
const SESSION_MYSQL: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE; \
     SET SESSION time_zone = '+00:00', innodb_lock_wait_timeout = 5 /*!80000 - 4 */, autocommit = 1, \
     group_concat_max_len = 67108864, \
     sql_select_limit = 18446744073709551615, sql_safe_updates = 0, sql_big_selects = 1, completion_type = 0, \
     unique_checks = 1, foreign_key_checks = 1, \
     sql_mode = 'STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'";

/// How many statements a connection keeps prepared; the server limits the total over all connections.
pub(crate) const STATEMENTS_KEPT_MAX: usize = 200;

/// Opens a pool to `url`: `mysql://…` or `sqlite:…`. Error messages never contain the URL, because it holds the
/// password.
pub fn connect(url: &str, pool: ConnectOptions) -> anyhow::Result<Db> {
    let scheme = url.split(':').next().unwrap_or_default();
    let demoted = Demoted::default();
    let opened = match scheme {
        "mysql" | "mariadb" if has_host(url) => {
            if is_split(url) {
                bail!(
                    "the database URL cannot be read: there is an @ after its first /, ? or #; in a password, write \
                     these as %40, %2F, %3F and %23"
                );
            }
            if let Some(name) = unknown_parameter(url) {
                bail!("unknown parameter {name:?} in the database URL (known: {})", MYSQL_PARAMETERS.join(", "));
            }
            let options = MySqlConnectOptions::from_str(url)
                .map_err(|error| anyhow::anyhow!("the database URL cannot be read: {error}"))?;
            if options.get_database().is_none_or(str::is_empty) {
                bail!("the database URL names no database: mysql://USER:PASSWORD@HOST:PORT/DATABASE");
            }
            let options = options
                .pipes_as_concat(false)
                .no_engine_substitution(false)
                .timezone(None)
                // With any other charset, the server silently replaces characters that it lacks with question marks.
                .charset("utf8mb4")
                .statement_cache_capacity(STATEMENTS_KEPT_MAX)
                .disable_statement_logging();
            Pool::MySql(mysql_pool(options, pool, &demoted))
        }
        "sqlite" => {
            let mut options = SqliteConnectOptions::from_str(url)
                .map_err(|error| anyhow::anyhow!("the database URL cannot be read: {error}"))?
                .create_if_missing(pool.create)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(Duration::from_secs(5))
                .foreign_keys(true)
                .statement_cache_capacity(STATEMENTS_KEPT_MAX)
                .disable_statement_logging();
            if pool.create {
                options = options.journal_mode(SqliteJournalMode::Wal);
            }
            Pool::Sqlite(sqlite_pool(options, pool))
        }
        _ => bail!("the database URL must begin with mysql:// or sqlite: (see --database-url)"),
    };
    Ok(Db::new(opened, pool, demoted))
}

/// Whether a host follows the scheme. Without one, the driver takes all of `mysql:/USER:PASSWORD@HOST/DATABASE` for the
/// name of a database, which servers repeat in their errors.
fn has_host(url: &str) -> bool {
    url.split_once(':').is_some_and(|(_, rest)| rest.starts_with("//"))
}

/// Whether the password contains a character that ends the host part of a URL: the driver would take the rest for the
/// name of a database or of a parameter.
fn is_split(url: &str) -> bool {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    rest.split_once(['/', '?', '#']).is_some_and(|(_, rest)| rest.contains('@'))
}

/// The parameters that a URL may have. The driver silently ignores others, such as `ssl_mode`: the connection would not
/// be encrypted.
const MYSQL_PARAMETERS: [&str; 10] = [
    "ssl-mode",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "charset",
    "collation",
    "socket",
    "timezone",
    "time-zone",
    "statement-cache-capacity",
];

/// The first parameter of a URL that the driver does not know. Those about TLS are also known without their hyphen.
fn unknown_parameter(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    let is_known =
        |name: &str| [name, &name.replacen("ssl", "ssl-", 1)].iter().any(|name| MYSQL_PARAMETERS.contains(name));
    url.query_pairs().map(|(name, _)| name.into_owned()).find(|name| !is_known(name))
}

/// Opens a SQLite file that nobody writes to any more, for reading only.
#[must_use]
pub(crate) fn open_file(path: &Path) -> Db {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .immutable(true)
        .statement_cache_capacity(STATEMENTS_KEPT_MAX)
        .disable_statement_logging();
    let pool = ConnectOptions::new(4);
    Db::new(Pool::Sqlite(sqlite_pool(options, pool)), pool, Demoted::default())
}

/// When a server was last found to be read-only: a switchover is under way. Connections that were open by then may lead
/// to the old primary for as long as they live, and what they read there grows old, so none of them is used again.
#[derive(Debug, Clone, Default)]
pub(super) struct Demoted(Arc<Mutex<Option<Instant>>>);

impl Demoted {
    /// Notes an error that says so: read-only by an option of the server (1290), or as a whole (1836).
    pub(super) fn note(&self, error: &DbError) {
        if matches!(code(&error.source), 1290 | 1836) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }

    /// Whether a connection of this age was open by then.
    fn has_met(&self, age: Duration) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() <= age)
    }
}

fn mysql_pool(options: MySqlConnectOptions, pool: ConnectOptions, demoted: &Demoted) -> MySqlPool {
    let demoted = demoted.clone();
    // Each server reads its own variable from the comments: MariaDB's is in seconds and limits every statement, MySQL's
    // is in milliseconds and limits SELECTs.
    let session = format!(
        "{SESSION_MYSQL}; SET SESSION wait_timeout = {}, \
         /*M! max_statement_time = {} */ /*!80000 max_execution_time = {} */",
        pool.idle_max.as_secs().max(1),
        pool.statement_max.as_secs_f64(),
        pool.statement_max.as_millis()
    );
    MySqlPoolOptions::new()
        .max_connections(pool.connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .acquire_slow_level(SLOW)
        .idle_timeout(pool.idle_max / 2)
        .max_lifetime(LIFETIME_MAX)
        // The pool's own test would wait for an answer forever.
        .test_before_acquire(false)
        .before_acquire(move |connection, metadata| {
            let is_old = demoted.has_met(metadata.age);
            Box::pin(async move {
                if is_old {
                    return Ok(false);
                }
                let answer = tokio::time::timeout(PING_TIMEOUT, connection.ping()).await;
                Ok(answer.is_ok_and(|answer| answer.is_ok()))
            })
        })
        .after_connect(move |connection, _| {
            let session = session.clone();
            Box::pin(async move {
                connection.execute(session.as_str()).await?;
                Ok(())
            })
        })
        .connect_lazy_with(options)
}

fn sqlite_pool(options: SqliteConnectOptions, pool: ConnectOptions) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(pool.connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .acquire_slow_level(SLOW)
        .after_release(|connection, _| {
            // The handler belongs to the transaction that set it.
            Box::pin(async move {
                connection.lock_handle().await?.remove_progress_handler();
                Ok(true)
            })
        })
        .connect_lazy_with(options)
}

/// Advice for a statement that SQLite refused because it may not write to the database at `url`.
#[must_use]
pub fn explain_read_only(url: &str, error: &DbError) -> Option<String> {
    let options = SqliteConnectOptions::from_str(url).ok().filter(|_| error.is_read_only())?;
    // A connection error says this already.
    (error.statement != CONNECT).then(|| format!("the database {} {READ_ONLY}", options.get_filename().display()))
}

impl Pool {
    /// The location of the database, without the user: `HOST:PORT/DATABASE`, or a file.
    fn place(&self) -> String {
        match self {
            Self::MySql(pool) => {
                let options = pool.connect_options();
                let host = match options.get_socket() {
                    Some(socket) => socket.display().to_string(),
                    None => format!("{}:{}", options.get_host(), options.get_port()),
                };
                format!("{host}/{}", options.get_database().unwrap_or_default())
            }
            Self::Sqlite(pool) => pool.connect_options().get_filename().display().to_string(),
        }
    }

    /// Why a SQLite file cannot be opened.
    fn why_no_file(&self) -> &'static str {
        let place = self.place();
        let file = Path::new(&place);
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match (directory.is_dir(), file.exists()) {
            (false, _) => "cannot be reached: its directory does not exist",
            (true, false) => "cannot be reached: no such file: `daymend migrate` creates it",
            (true, true) => "cannot be opened: is it a file that this user may read and write?",
        }
    }

    /// Another pool to the same database.
    pub(super) fn reopened(&self, options: ConnectOptions, demoted: &Demoted) -> Self {
        match self {
            Self::MySql(pool) => Self::MySql(mysql_pool((*pool.connect_options()).clone(), options, demoted)),
            Self::Sqlite(pool) => Self::Sqlite(sqlite_pool((*pool.connect_options()).clone(), options)),
        }
    }
}

impl Db {
    /// Whether an error concerns one statement, which took too long or was killed, while the database still answers
    /// others.
    pub(crate) async fn answers_others(&self, error: &DbError) -> bool {
        error.is_cut_off() && self.ping().await.is_ok()
    }

    /// Checks that the database answers.
    pub async fn ping(&self) -> anyhow::Result<()> {
        let mut answer = Tx::acquire(self).await.map(drop);
        // A pool that has timed out does not say why: connect once without it.
        if let Pool::MySql(pool) = &self.pool
            && answer.as_ref().is_err_and(DbError::is_timeout)
        {
            let options = pool.connect_options();
            let once = tokio::time::timeout(ACQUIRE_TIMEOUT / 5, MySqlConnection::connect_with(&options)).await;
            let once = once.map_or(Ok(()), |once| once.map(drop));
            answer = once.map_err(|error| DbError::new(CONNECT, error)).and(answer);
        }
        // SQLite has no server that could refuse: its errors are about the file.
        let has_server = matches!(self.pool, Pool::MySql(_));
        let what = match &answer {
            Err(error) if has_server && matches!(code(&error.source), 1045 | 1698) => {
                "refuses the login (check user and password, and from which hosts the user may log in)"
            }
            Err(error) if has_server && matches!(error.source, sqlx::Error::Database(_)) => "refuses",
            Err(error) if error.is_read_only() => NOT_EVEN_READ,
            Err(error) if !has_server && error.kind == ErrorKind::Definition => "is not a SQLite database",
            Err(error) if !has_server && error.kind == ErrorKind::Conflict => {
                "is in use by other processes: end them, and try again"
            }
            Err(_) if !has_server => self.pool.why_no_file(),
            _ => "cannot be reached",
        };
        answer.with_context(|| format!("the database {} {what}", self.pool.place()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_that_nobody_knows_are_refused() {
        let url = |query: &str| format!("mysql://somebody:secret@127.0.0.1/lab?{query}");
        for known in ["ssl-mode=REQUIRED", "sslmode=REQUIRED&sslca=ca.pem&ssl-key=k", "charset=utf8mb4&socket=/s"] {
            assert_eq!(unknown_parameter(&url(known)), None);
        }
        for unknown in ["ssl_mode=VERIFY_IDENTITY", "ssl-mod=REQUIRED", "charset=utf8mb4&SSL-MODE=REQUIRED", "ssl=1"] {
            let name = unknown_parameter(&url(unknown)).unwrap();
            assert!(unknown.contains(&name), "{name}");
            let error = connect(&url(unknown), ConnectOptions::new(1)).unwrap_err().to_string();
            assert!(error.contains(&name) && !error.contains("secret") && !error.contains("REQUIRED"), "{error}");
        }
    }

    #[test]
    fn no_message_repeats_a_password() {
        for url in [
            "mysql://somebody:verysecret@127.0.0.1:port/lab",
            "mysql://somebody:verysecret@127.0.0.1",
            "mysql://somebody:verysecret@127.0.0.1/",
            "mysql://somebody:verysecret@[127.0.0.1/lab",
            "postgres://somebody:verysecret@127.0.0.1/lab",
            "somebody:verysecret@127.0.0.1/lab",
            "mysql:/somebody:verysecret@127.0.0.1/lab",
            "mysql:/somebody:verysecret@127.0.0.1/lab?socket=/run/s",
            "mysql:///somebody:verysecret@127.0.0.1/lab?socket=/run/s",
            "mysql:somebody:verysecret@127.0.0.1/lab",
            "mysql://somebody:verysecret#2@127.0.0.1/lab",
            "mysql://somebody:very/verysecret@127.0.0.1/lab",
            "mysql://somebody:very@verysecret/2@127.0.0.1/lab",
            "mysql://somebody:12?verysecret@127.0.0.1/lab",
            "mysql://somebody:12?charset=verysecret&verysecret=@127.0.0.1/lab",
        ] {
            let error = connect(url, ConnectOptions::new(1)).unwrap_err();
            assert!(!format!("{error:?} {error:#}").contains("verysecret"), "{error:#}");
        }
    }
}
