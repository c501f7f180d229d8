//! The `daymend` binary as a process.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use super::TestDb;

/// How long a service may take to serve its pages or to install its signal handlers.
const PAGES_MAX: Duration = Duration::from_secs(30);

/// A running `daymend`, killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

/// Returns a command without the settings of daymend and of buckets that the shell of the tests may have: those of a real
/// installation, perhaps.
pub fn without_settings(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if ["DAYMEND_", "AWS_"].iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG");
    command
}

/// Returns a command that runs the binary with the database's URL in its environment.
pub fn command(db: &TestDb, args: &[&str]) -> Command {
    let url = match args {
        _ if args.contains(&"migrate") => &db.migrate_url,
        _ if args.contains(&"triggers") => &db.triggers_url,
        _ => &db.url,
    };
    let mut command = without_settings("setpriv");
    command
        .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_daymend")])
        .args(args)
        .env("DAYMEND_DATABASE_URL", url)
        .env("DAYMEND_SNAPSHOT_DATABASE_URL", &db.snapshot_url)
        .env("DAYMEND_HTTP_ADDR", "127.0.0.1:0")
        .stdin(Stdio::null());
    command
}

/// Runs a command, and waits for its end.
pub fn run(db: &TestDb, args: &[&str]) -> Output {
    command(db, args).output().expect("daymend runs")
}

/// Runs a command that must succeed, and returns its output.
pub fn run_ok(db: &TestDb, args: &[&str]) -> String {
    let output = run(db, args);
    assert!(output.status.success(), "daymend {}: {}", args.join(" "), describe(&output));
    String::from_utf8(output.stdout).expect("text")
}

/// Runs a command that must fail with this exit code, and returns its standard error.
pub fn run_fails(db: &TestDb, code: i32, args: &[&str]) -> String {
    let output = run(db, args);
    assert_eq!(output.status.code(), Some(code), "daymend {}: {}", args.join(" "), describe(&output));
    String::from_utf8(output.stderr).expect("text")
}

/// Runs a command that must end with this exit code, and returns its standard output.
pub fn run_says(db: &TestDb, code: i32, args: &[&str]) -> String {
    let output = run(db, args);
    assert_eq!(output.status.code(), Some(code), "daymend {}: {}", args.join(" "), describe(&output));
    String::from_utf8(output.stdout).expect("text")
}

fn describe(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl Process {
    /// Starts a command; its log goes to the test's standard error.
    pub fn start(db: &TestDb, args: &[&str]) -> Self {
        Self { child: command(db, args).stdout(Stdio::null()).spawn().expect("daymend starts") }
    }

    /// Starts a command with one more variable in its environment.
    pub fn start_with(db: &TestDb, args: &[&str], variable: (&str, &str)) -> Self {
        let child = command(db, args).env(variable.0, variable.1).stdout(Stdio::null()).spawn();
        Self { child: child.expect("daymend starts") }
    }

    /// Starts a service, waits until it serves its pages, and returns their address too.
    #[expect(clippy::print_stderr, reason = "its log goes to the test's standard error")]
    pub fn start_with_pages(db: &TestDb, args: &[&str]) -> (Self, String) {
        let started = command(db, args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = started.expect("daymend starts");
        let log = BufReader::new(child.stderr.take().expect("a log"));
        let (sender, address) = mpsc::channel();
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                eprintln!("{line}");
                if let Some((_, address)) = line.split_once("metrics and probes at http://") {
                    let _ = sender.send(address.to_owned());
                }
            }
        });
        let this = Self { child };
        let address = address.recv_timeout(PAGES_MAX).unwrap_or_else(|_| panic!("daymend {args:?} serves no pages"));
        (this, address)
    }

    /// Reads a field of `/proc/PID/status`; `None` if the process has ended.
    fn status(&self, name: &str) -> Option<String> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next().map(ToOwned::to_owned)
    }

    /// Returns the process's peak memory so far, in KiB; `None` if it has ended.
    pub fn memory_peak_kib(&self) -> Option<u64> {
        self.status("VmHWM")?.parse().ok()
    }

    /// Waits until the process has a handler for SIGTERM, which would otherwise end it at once.
    pub fn hears_signals(&self) {
        const SIGTERM: u64 = 1 << 14;
        let begun = Instant::now();
        let caught = || u64::from_str_radix(&self.status("SigCgt").expect("it runs"), 16).expect("a mask");
        while caught() & SIGTERM == 0 {
            assert!(begun.elapsed() < PAGES_MAX, "daymend does not listen to SIGTERM");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends SIGTERM once the process has a handler for it.
    pub fn terminate(&self) {
        self.hears_signals();
        self.signal("TERM");
    }

    /// Sends a signal by name, such as `STOP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Returns whether the process is still running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Waits for the process to end, at most `limit`, and returns its exit code.
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status.code();
            }
            assert!(begun.elapsed() < limit, "daymend did not end within {limit:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
