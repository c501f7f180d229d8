//! A private Prometheus that scrapes the processes of one test every second.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    http::{encoded, get},
    rules::RULES,
    server::free_port,
};

/// How long Prometheus may take to start.
const START_MAX: Duration = Duration::from_secs(120);

/// A running Prometheus, which ends with the calling thread or when it is dropped.
#[derive(Debug)]
pub struct Prometheus {
    address: String,
    child: Child,
    _dir: tempfile::TempDir,
}

/// Returns the path of a program of the distribution's package `prometheus`.
fn program(name: &str) -> String {
    let path = format!("/usr/bin/{name}");
    assert!(
        std::path::Path::new(&path).is_file(),
        "{path} is not installed: the tests need Prometheus (`apt-get install prometheus`, or run tests/run)"
    );
    path
}

/// Returns a `promtool` command without arguments.
pub fn promtool() -> Command {
    Command::new(program("promtool"))
}

impl Prometheus {
    /// Starts a server that scrapes these addresses and evaluates the rules once a second. Alerts fire without delay: a
    /// test would be over before most of them.
    pub fn start(targets: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = serde_json::json!({
            "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s" },
            "rule_files": ["rules.yml"],
            "scrape_configs": [{ "job_name": "daymend", "static_configs": [{ "targets": targets }] }],
        });
        let text = fs::read_to_string(RULES).unwrap_or_else(|error| panic!("{RULES}: {error}"));
        let at_once: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("for: ")).collect();
        assert!(at_once.len() + 20 < text.lines().count(), "most alerts have a delay");
        fs::write(dir.path().join("rules.yml"), at_once.join("\n")).expect("the rules");
        // JSON is YAML.
        let file = dir.path().join("prometheus.yml");
        fs::write(&file, config.to_string()).expect("a configuration");
        let log = dir.path().join("log");
        let address = format!("127.0.0.1:{}", free_port());
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", &program("prometheus")])
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("prometheus starts");
        let mut this = Self { address, child, _dir: dir };
        let begun = Instant::now();
        while !get(&this.address, "/-/ready").is_ok_and(|page| page.status == 200) {
            let has_ended = this.child.try_wait().is_ok_and(|status| status.is_some());
            assert!(
                begun.elapsed() < START_MAX && !has_ended,
                "Prometheus did not start: {}",
                fs::read_to_string(&log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        this
    }

    /// Returns the current values of a query's series.
    pub fn query(&self, expr: &str) -> Vec<f64> {
        let found = self.ask(&format!("/api/v1/query?query={}", encoded(expr)));
        let values = found["result"].as_array().map(Vec::as_slice).unwrap_or_default().iter();
        values.filter_map(|series| series["value"][1].as_str()?.parse().ok()).collect()
    }

    /// Returns the rules with their health and the state of the alerts.
    pub fn rules(&self) -> Vec<Value> {
        let found = self.ask("/api/v1/rules");
        let groups = found["groups"].as_array().map(Vec::as_slice).unwrap_or_default().iter();
        groups.flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect()
    }

    fn ask(&self, path: &str) -> Value {
        let page = get(&self.address, path).expect("Prometheus answers");
        let mut answer: Value = serde_json::from_str(&page.body).unwrap_or_default();
        assert_eq!(answer["status"], "success", "{path}: {}", page.body);
        answer["data"].take()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
