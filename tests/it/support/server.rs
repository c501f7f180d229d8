//! A private server for the test process, in a temporary directory: Debian's MariaDB, or the MySQL server program that
//! `DAYMEND_TEST_MYSQLD` names (tests/mysql).

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{Connection, Executor, MySqlConnection};

pub const ADMIN: &str = "admin";
pub const PASSWORD: &str = "admin-test";

/// How long the server may take to start.
const START_MAX: Duration = Duration::from_secs(180);

/// The servers that speak MySQL's dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    MariaDb,
    MySql,
}

impl Product {
    /// Returns the product that this test process runs on.
    pub fn tested() -> Self {
        if std::env::var_os(MYSQLD).is_some() { Self::MySql } else { Self::MariaDb }
    }

    fn program(self) -> Result<PathBuf, String> {
        match self {
            Self::MariaDb => program("mariadbd"),
            Self::MySql => std::env::var_os(MYSQLD).map(PathBuf::from).ok_or_else(|| format!("{MYSQLD} is not set")),
        }
    }

    /// Returns the command that creates an empty data directory.
    fn installer(self) -> Result<Command, String> {
        match self {
            Self::MariaDb => {
                let mut command = Command::new(program("mariadb-install-db")?);
                command.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
                Ok(command)
            }
            Self::MySql => {
                let mut command = Command::new(self.program()?);
                command.args(["--no-defaults", "--initialize-insecure", "--secure-file-priv="]);
                Ok(command)
            }
        }
    }

    /// Returns the options that only this product has.
    fn options(self) -> &'static [&'static str] {
        match self {
            // Every table needs a primary key, as on servers that replicate.
            Self::MariaDb => &["--innodb-force-primary-key=ON"],
            Self::MySql => {
                &["--sql-require-primary-key=ON", "--mysqlx=OFF", "--secure-file-priv=", "--explain-format=TRADITIONAL"]
            }
        }
    }

    /// Returns a form of the statement that runs in this SQL mode.
    pub fn in_sql_mode(self, mode: &str, sql: &str) -> String {
        match (self, sql.split_once(' ')) {
            (Self::MySql, Some((verb, rest))) => format!("{verb} /*+ SET_VAR(sql_mode = '{mode}') */ {rest}"),
            _ => format!("SET STATEMENT sql_mode = '{mode}' FOR {sql}"),
        }
    }

    /// Returns the keyword before the user in SET DEFAULT ROLE.
    pub fn word_before_who_has_a_role(self) -> &'static str {
        if self == Self::MySql { "TO" } else { "FOR" }
    }
}

/// The variable that names MySQL's server program, to test with it.
const MYSQLD: &str = "DAYMEND_TEST_MYSQLD";

/// A running server.
#[derive(Debug)]
pub struct Server {
    pub port: u16,
    dir: PathBuf,
    options: Vec<String>,
    child: Child,
}

static SHARED: LazyLock<u16> = LazyLock::new(|| {
    // The parent-death signal is sent when the thread that started the server ends, so this thread never ends.
    let (ready, started) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let server = Server::start("shared");
        let _ = ready.send(server.as_ref().map(|server| server.port).map_err(Clone::clone));
        loop {
            std::thread::park();
        }
    });
    match started.recv() {
        Ok(Ok(port)) => port,
        Ok(Err(why)) => panic!("{why}"),
        Err(_) => panic!("the thread of the server panicked"),
    }
});

/// Returns the port of the shared server, which is started on first use.
pub fn shared_port() -> u16 {
    *SHARED
}

/// Returns the administrator's URL of a database on the server on that port.
pub fn url(port: u16, database: &str) -> String {
    format!("mysql://{ADMIN}:{PASSWORD}@127.0.0.1:{port}/{database}")
}

/// Returns the port in a database's URL.
pub fn port(url: &str) -> u16 {
    let address = url.rsplit_once('/').and_then(|(address, _)| address.rsplit_once(':'));
    address.and_then(|(_, port)| port.parse().ok()).expect("a URL with a port")
}

/// Returns the same URL with another port.
pub fn at_port(database_url: &str, other: u16) -> String {
    database_url.replace(&format!(":{}/", port(database_url)), &format!(":{other}/"))
}

/// Returns a free port below the range from which the kernel assigns ports (32768 and up), so that nobody else gets it
/// before a server listens on it or while that server is down.
pub fn free_port() -> u16 {
    const FIRST: u32 = 20_000;
    const PORTS: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Other test processes may be looking for ports too.
    let seed = std::process::id().wrapping_mul(97);
    let mut ports = (0..PORTS).map(|_| {
        let number = seed.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        u16::try_from(FIRST + number % PORTS).expect("a port")
    });
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
}

/// Creates an empty database on the server on that port.
pub async fn create_database(port: u16, name: &str) {
    run(port, &format!("CREATE DATABASE {name} CHARACTER SET utf8mb4")).await;
}

/// Runs statements as an administrator, all in one message.
pub async fn run(port: u16, sql: &str) {
    let mut connection = MySqlConnection::connect(&url(port, "")).await.expect("a connection to the server");
    connection.execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    connection.close().await.expect("the end of a connection");
}

/// Like [`run`], while tables need no primary key; one test at a time.
pub async fn run_without_keys(port: u16, sql: &str) {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _turn = TURN.lock().await;
    let sql = match Product::tested() {
        Product::MariaDb => {
            format!("SET GLOBAL innodb_force_primary_key = 0; {sql}; SET GLOBAL innodb_force_primary_key = 1")
        }
        Product::MySql => format!("SET SESSION sql_require_primary_key = 0; {sql}"),
    };
    run(port, &sql).await;
}

/// Reads the deadlocks on tables of `database` that the server on that port has logged, one text each.
pub async fn deadlocks(port: u16, database: &str) -> Vec<String> {
    let mut connection = MySqlConnection::connect(&url(port, "")).await.expect("a connection to the server");
    let dir: String = sqlx::query_scalar("SELECT @@tmpdir").fetch_one(&mut connection).await.expect("a directory");
    connection.close().await.expect("the end of a connection");
    let log = fs::read(Path::new(&dir).join("log")).expect("the server's log");
    let log = String::from_utf8_lossy(&log);
    let deadlocks = log.split("Transactions deadlock detected").skip(1);
    deadlocks
        .filter_map(|text| text.split("WE ROLL BACK").next())
        .filter(|text| text.contains(&format!("`{database}`.")))
        .map(str::to_owned)
        .collect()
}

/// Splits a file into statements, without its comments.
pub fn statements(text: &str) -> Vec<String> {
    let text: String = text.lines().map(|line| line.split("--").next().unwrap_or_default().to_owned() + "\n").collect();
    text.split(';').map(|sql| sql.trim().to_owned()).filter(|sql| !sql.is_empty()).collect()
}

impl Server {
    /// Starts a server, which ends with the calling thread or when it is dropped.
    pub fn start(name: &str) -> Result<Self, String> {
        Self::start_with(name, &[])
    }

    /// Like [`Server::start`], with more options.
    pub fn start_with(name: &str, options: &[&str]) -> Result<Self, String> {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        remove_stale(&root);
        let dir = root.join(format!("mariadb-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        install(&dir)?;
        let port = free_port();
        let child = launch(&dir, port, &options)?;
        Ok(Self { port, dir, options, child })
    }

    /// Kills the server with SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Starts the server again, with the same data and port.
    pub fn restart(&mut self) {
        self.child = launch(&self.dir, self.port, &self.options).expect("the server starts again");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn program(name: &str) -> Result<PathBuf, String> {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            format!(
                "{name} is not installed: the tests need MariaDB (`apt-get install mariadb-server`, or run tests/run)"
            )
        })
}

/// Servers refuse to run as root unless told to; in a container there may be no other user.
fn user() -> String {
    let user = String::from_utf8(Command::new("id").arg("-un").output().expect("id").stdout).expect("a user name");
    format!("--user={}", user.trim())
}

fn install(dir: &Path) -> Result<(), String> {
    let mut installer = Product::tested().installer()?;
    let installed = installer
        .arg(user())
        .arg(format!("--datadir={}", dir.join("data").display()))
        // A starting server deletes the temporary tables in its tmpdir, so each needs its own.
        .arg(format!("--tmpdir={}", dir.display()))
        .output()
        .map_err(|error| format!("{installer:?}: {error}"))?;
    if !installed.status.success() {
        return Err(format!("{installer:?} failed: {}", String::from_utf8_lossy(&installed.stderr)));
    }
    let grant = format!(
        "CREATE USER IF NOT EXISTS {ADMIN}@'%' IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO {ADMIN}@'%' WITH GRANT OPTION;\n"
    );
    fs::write(dir.join("init.sql"), grant).map_err(|error| error.to_string())
}

fn launch(dir: &Path, port: u16, options: &[String]) -> Result<Child, String> {
    let log = dir.join("log");
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(Product::tested().program()?)
        .args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve", "--skip-log-bin", &user()])
        .args(["--innodb-buffer-pool-size=256M", "--innodb-flush-log-at-trx-commit=2", "--max-connections=500"])
        // Keeps hundreds of test databases within the default limit of open files.
        .args(["--table-open-cache=2000", "--innodb-print-all-deadlocks=ON"])
        .args(Product::tested().options())
        .arg(format!("--datadir={}", dir.join("data").display()))
        .arg(format!("--tmpdir={}", dir.display()))
        .arg(format!("--socket={}", dir.join("socket").display()))
        .arg(format!("--pid-file={}", dir.join("pid").display()))
        .arg(format!("--init-file={}", dir.join("init.sql").display()))
        .arg(format!("--port={port}"))
        .arg("--port-open-timeout=60")
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).map_err(|error| error.to_string())?)
        .spawn()
        .map_err(|error| format!("the server: {error}"))?;
    let begun = Instant::now();
    loop {
        let text = fs::read_to_string(&log).unwrap_or_default();
        if text.contains("ready for connections") {
            return Ok(child);
        }
        if begun.elapsed() > START_MAX || child.try_wait().is_ok_and(|status| status.is_some()) {
            let _ = child.kill();
            return Err(format!("the server did not start: {text}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Creates a directory for a SQLite database: if this test process is killed, a later one removes it.
pub fn scratch() -> tempfile::TempDir {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        remove_stale(&root);
        let own = root.join(format!("sqlite-{}", std::process::id()));
        fs::create_dir_all(&own).unwrap_or_else(|error| panic!("{}: {error}", own.display()));
        own
    });
    tempfile::tempdir_in(&*ROOT).expect("a temporary directory")
}

/// Removes the directories of test processes that have ended.
fn remove_stale(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let rest = ["mariadb-", "sqlite-"].iter().find_map(|prefix| name.strip_prefix(prefix));
        let pid = rest.and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
