//! A private MariaDB server for the test process, on a temporary directory.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use sqlx::{Connection, Executor, MySqlConnection};

const PASSWORD: &str = "daymend-test";

/// How long the server may take to answer.
const START_MAX: Duration = Duration::from_secs(60);

/// A running server.
#[derive(Debug)]
pub struct Server {
    port: u16,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    // The parent-death signal follows the thread that started the server: one that stays.
    let (ready, started) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let server = start();
        let _ = ready.send(server.as_ref().map(|(server, _)| server.port).map_err(Clone::clone));
        loop {
            std::thread::park();
        }
    });
    match started.recv() {
        Ok(Ok(port)) => Server { port },
        Ok(Err(why)) => panic!("{why}"),
        Err(_) => panic!("the thread of the MariaDB server panicked"),
    }
});

/// The server, started on first use.
pub fn get() -> &'static Server {
    &SERVER
}

impl Server {
    /// The URL of one of its databases.
    pub fn url(&self, database: &str) -> String {
        format!("mysql://daymend:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// Creates an empty database.
    pub async fn create_database(&self, name: &str) {
        let mut connection = MySqlConnection::connect(&self.url("")).await.expect("a connection to MariaDB");
        let sql = format!("CREATE DATABASE {name} CHARACTER SET utf8mb4");
        connection.execute(sql.as_str()).await.expect("CREATE DATABASE");
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

fn start() -> Result<(Server, std::process::Child), String> {
    let (install, server) = (program("mariadb-install-db")?, program("mariadbd")?);
    let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    remove_stale(&root);
    let dir = root.join(format!("mariadb-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let data = dir.join("data");
    // Servers refuse to run as root unless told to; in a container there may be nobody else.
    let user = String::from_utf8(Command::new("id").arg("-un").output().expect("id").stdout).expect("a user name");
    let user = format!("--user={}", user.trim());
    let installed = Command::new(install)
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", &user])
        .arg(format!("--datadir={}", data.display()))
        .output()
        .map_err(|error| format!("mariadb-install-db: {error}"))?;
    if !installed.status.success() {
        return Err(format!("mariadb-install-db failed: {}", String::from_utf8_lossy(&installed.stderr)));
    }
    let init = dir.join("init.sql");
    let grant = format!(
        "CREATE USER daymend@'%' IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO daymend@'%' WITH GRANT OPTION;\n"
    );
    fs::write(&init, grant).map_err(|error| error.to_string())?;
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(|e| e.to_string())?.port();
    let log = dir.join("log");
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .arg(server)
        .args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve", "--skip-log-bin", &user])
        .args(["--innodb-buffer-pool-size=256M", "--innodb-flush-log-at-trx-commit=2", "--max-connections=500"])
        // A small stack of open tables keeps hundreds of test databases within the default limits.
        .args(["--table-open-cache=2000", "--innodb-print-all-deadlocks=ON"])
        // As on servers that replicate: every table needs a primary key.
        .arg("--innodb-force-primary-key=ON")
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--socket={}", dir.join("socket").display()))
        .arg(format!("--pid-file={}", dir.join("pid").display()))
        .arg(format!("--init-file={}", init.display()))
        .arg(format!("--port={port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).map_err(|error| error.to_string())?)
        .spawn()
        .map_err(|error| format!("mariadbd: {error}"))?;
    let begun = Instant::now();
    loop {
        let text = fs::read_to_string(&log).unwrap_or_default();
        if text.contains("ready for connections") {
            return Ok((Server { port }, child));
        }
        if begun.elapsed() > START_MAX {
            return Err(format!("MariaDB did not start within {START_MAX:?}: {text}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Removes the directories of test processes that are gone.
fn remove_stale(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_string_lossy().strip_prefix("mariadb-").map(ToOwned::to_owned);
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
