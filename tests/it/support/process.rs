//! The `daymend` binary as a process.

use std::{
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use super::TestDb;

/// A running `daymend`, killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

fn command(db: &TestDb, args: &[&str]) -> Command {
    let url = if args.contains(&"migrate") { &db.migrate_url } else { &db.url };
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_daymend")])
        .args(args)
        .env("DAYMEND_DATABASE_URL", url)
        .env("DAYMEND_SNAPSHOT_DATABASE_URL", &db.snapshot_url)
        .env("DAYMEND_HTTP_ADDR", "127.0.0.1:0")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub fn run(db: &TestDb, args: &[&str]) -> Output {
    command(db, args).output().expect("daymend runs")
}

/// Runs a command that has to succeed; what it printed.
pub fn run_ok(db: &TestDb, args: &[&str]) -> String {
    let output = run(db, args);
    assert!(output.status.success(), "daymend {}: {}", args.join(" "), describe(&output));
    String::from_utf8(output.stdout).expect("text")
}

/// Runs a command that has to fail with this exit code; its one line of error.
pub fn run_fails(db: &TestDb, code: i32, args: &[&str]) -> String {
    let output = run(db, args);
    assert_eq!(output.status.code(), Some(code), "daymend {}: {}", args.join(" "), describe(&output));
    String::from_utf8(output.stderr).expect("text")
}

fn describe(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl Process {
    /// Starts a command; its log goes to the test's standard error.
    pub fn start(db: &TestDb, args: &[&str]) -> Self {
        Self { child: command(db, args).stdout(Stdio::null()).spawn().expect("daymend starts") }
    }

    /// Starts a command with a variable in its environment.
    pub fn start_with(db: &TestDb, args: &[&str], variable: (&str, &str)) -> Self {
        let child = command(db, args).env(variable.0, variable.1).stdout(Stdio::null()).spawn();
        Self { child: child.expect("daymend starts") }
    }

    /// The most memory that it has had up to now, in KiB; none when it has ended.
    pub fn memory_peak_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Waits for its end, at most `limit`; its exit code.
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
