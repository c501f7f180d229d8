//! `deploy/runbooks/`: every command of every page works, on a database in which most things are wrong, and the pages
//! agree with the rules, the catalogue and the manifests.

pub mod pages;
mod wreck;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use daymend::{
    args,
    db::{Mode, Query},
    metrics::catalogue::ALL,
    recompute::shrink::WOULD_VANISH,
};
use tempfile::TempDir;

use crate::{
    on_both,
    support::{Engine, TestDb, process::Process, server, wait_until},
};
use pages::{Block, Page, alerts, pages, read};
use wreck::{NOW, Wreck};

/// Pages that belong to no alert.
const WITHOUT_ALERT: [&str; 2] = ["README", "numbers-look-wrong"];

const SECTIONS: [&str; 8] =
    ["Symptoms", "Detection", "Diagnosis", "Causes", "Resolution", "Verification", "Prevention", "Escalation"];

#[test]
fn every_alert_has_its_page_and_every_page_its_alert() {
    let (alerts, pages) = (alerts(), pages());
    assert!(alerts.len() > 15, "{:?}", alerts.keys());
    let named: Vec<&str> =
        pages.iter().map(|page| page.name.as_str()).filter(|name| !WITHOUT_ALERT.contains(name)).collect();
    assert_eq!(named, alerts.keys().map(String::as_str).collect::<Vec<_>>());
    let index = &pages.iter().find(|page| page.name == "README").unwrap().text;
    for (name, alert) in &alerts {
        let row = format!("| [{name}]({name}.md) | {} |", alert.severity);
        assert!(index.contains(&row), "the index has no {row}");
    }
}

#[test]
fn pages_have_one_shape_and_say_what_the_rules_say() {
    let alerts = alerts();
    for page in pages().iter().filter(|page| page.name != "README") {
        let (name, text) = (&page.name, &page.text);
        let sections: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(sections, SECTIONS, "{name}");
        for part in ["**Owner:**", "**Expected time:**", "| cause | likelihood | how to confirm |", "- [ ] "] {
            assert!(text.contains(part), "{name} has no {part}");
        }
        let Some(alert) = alerts.get(name) else { continue };
        assert!(text.starts_with(&format!("# {name}\n")), "{name}");
        let line = format!("**Severity:** {}. **Fires after:** {}. **Owner:**", alert.severity, alert.fires_after);
        assert!(text.contains(&line), "{name} does not say {line}");
        for threshold in thresholds(&alert.rule) {
            assert!(text.contains(&threshold), "{name} does not name the threshold of {threshold}");
        }
    }
}

/// A rebuild would carry the loss on, so this has to be read before anything else.
#[test]
fn pages_about_discarded_jobs_begin_with_a_source_that_has_lost_rows() {
    for name in ["DaymendJobsDiscarded", "DaymendRunFailed"] {
        let pages = pages();
        let text = &pages.iter().find(|page| page.name == name).unwrap().text;
        let causes = text.split_once("| cause | likelihood | how to confirm |\n").unwrap().1;
        assert!(causes.lines().nth(1).unwrap().starts_with(&format!("| `{WOULD_VANISH}`")), "{name}");
        assert!(text.contains("(../../docs/recovery.md)"), "{name}");
    }
}

/// The limits in a rule's expression, as a page writes them.
fn thresholds(rule: &str) -> Vec<String> {
    let words: Vec<&str> = rule.split_whitespace().collect();
    let of = |words: &[&str]| match words {
        [">", hours, "*", "3600", ..] => Some(format!("{hours} hours")),
        [">", minutes, "*", "60", ..] => Some(format!("{minutes} minutes")),
        ["<", hours, "*", "3600", ..] => Some(format!("{hours} hours")),
        ["<", seconds, ..] if seconds.parse::<u32>().is_ok() => Some(format!("{seconds} s")),
        _ => None,
    };
    (0..words.len()).filter_map(|at| of(&words[at..])).collect()
}

#[test]
fn every_name_in_a_page_exists() {
    let migrations = read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/mysql"));
    let tables = migrations.split("CREATE TABLE IF NOT EXISTS ").skip(1);
    let tables: Vec<&str> = tables.filter_map(|rest| rest.split_whitespace().next()).collect();
    assert!(["daymend_jobs", "daymend_dirty"].iter().all(|table| tables.contains(table)), "{tables:?}");
    let source = read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let manifests = read("deploy/kubernetes/base/scheduler.yaml") + &read("deploy/kubernetes/base/worker.yaml");
    for page in pages() {
        for name in names(&page.text) {
            // A grep pattern may be the beginning of a name, and a histogram has more series.
            let name = name.trim_end_matches("_sum").trim_end_matches("_count");
            let is_metric = ALL.iter().any(|metric| metric.name.starts_with(name));
            assert!(is_metric || tables.contains(&name), "{}: nothing is named {name}", page.name);
        }
        let flat = page.text.split_whitespace().collect::<Vec<_>>().join(" ");
        for said in flat.split("log says `").skip(1).map(|rest| rest.split('`').next().unwrap()) {
            let is_step = said.strip_suffix(" failed").is_some_and(|step| source.contains(&format!("\"{step}\"")));
            assert!(is_step || source.contains(said), "{}: daymend never logs {said:?}", page.name);
        }
        for deployment in page.text.split("deployment/").skip(1) {
            let name = deployment.split(|c: char| !c.is_alphanumeric() && c != '-').next().unwrap();
            assert!(manifests.contains(&format!("name: {name}\n")), "{}: no deployment {name}", page.name);
        }
        for link in page.text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/runbooks").join(link);
            assert!(target.exists(), "{}: {link} does not exist", page.name);
        }
    }
}

/// Finds the names that begin with `daymend_`. `daymend_(a|b)_total`, as written for grep, is two of them.
fn names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in text.match_indices("daymend_") {
        let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_(|)".contains(c);
        let name: String = text[at..].chars().take_while(|c| is_part(*c)).collect();
        names.extend(expand(name.trim_end_matches(['|', ')'])));
    }
    names
}

/// Expands a pattern of groups and alternatives.
fn expand(pattern: &str) -> Vec<String> {
    let Some((before, rest)) = pattern.split_once('(') else { return vec![pattern.to_owned()] };
    let mut depth = 1;
    let end = rest.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    });
    let (inside, after) = end.map_or((rest, ""), |end| (&rest[..end], &rest[end + 1..]));
    let mut choices = vec![String::new()];
    for c in inside.chars() {
        let last = choices.last_mut().unwrap();
        let is_nested = last.matches('(').count() > last.matches(')').count();
        if c == '|' && !is_nested { choices.push(String::new()) } else { last.push(c) }
    }
    choices.iter().flat_map(|choice| expand(&format!("{before}{choice}{after}"))).collect()
}

/// Reads every file in a folder.
fn read_all(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        text += &if path.is_dir() { read_all(&path) } else { fs::read_to_string(&path).unwrap() };
    }
    text
}

on_both! {
    every_command_of_every_page_works;
}

async fn every_command_of_every_page_works(engine: Engine) {
    let wreck = Wreck::new(engine).await;
    let mut commands = 0;
    for page in pages().iter().filter(|page| page.name != "README") {
        wreck.restore().await;
        let shell = Shell::new(&wreck, page).await;
        for block in &page.blocks {
            match block.language.as_str() {
                "console" => commands += shell.run_all(block, page),
                "sql" => query(&wreck.db, block, page).await,
                "sql admin" if engine == Engine::MariaDb => {
                    for sql in server::statements(&block.text) {
                        wreck.db.execute(&sql, args![]).await;
                    }
                }
                "sql admin" => {}
                "bash" => shell.check(block, page),
                other => panic!("{}: {other:?} is not a known kind of block", page.name),
            }
        }
    }
    assert!(commands > 100, "only {commands} commands");
}

/// Runs statements as daymend's user, in a read-only transaction.
async fn query(db: &TestDb, block: &Block, page: &Page) {
    for sql in server::statements(&block.text) {
        let mut tx = db.db.begin(Mode::Snapshot).await.unwrap();
        let rows = tx.fetch_all(Query::new("runbook", sql.as_str()), args![], Ok).await;
        rows.unwrap_or_else(|error| panic!("{}: {sql}: {}", page.name, daymend::error::chain(&error)));
    }
}

/// The environment in which the commands of a page run.
#[derive(Debug)]
struct Shell {
    bin: TempDir,
    variables: Vec<(String, String)>,
    _processes: Vec<Process>,
}

impl Shell {
    /// Starts a scheduler and a worker, too, if the page looks at them or waits for them.
    async fn new(wreck: &Wreck, page: &Page) -> Self {
        let bin = tempfile::tempdir().unwrap();
        // The time is that of the wreck, unless a command sets it.
        let script = format!(
            "#!/bin/sh\ncase \" $* \" in *' --now '*) exec {0} \"$@\";; esac\nexec {0} --now {NOW} \"$@\"\n",
            env!("CARGO_BIN_EXE_daymend")
        );
        let daymend = bin.path().join("daymend");
        fs::write(&daymend, script).unwrap();
        fs::set_permissions(&daymend, fs::Permissions::from_mode(0o755)).unwrap();
        let mut variables: Vec<(String, String)> =
            wreck.variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let store = bin.path().join("snapshots");
        fs::create_dir(&store).unwrap();
        let store = store.display().to_string();
        for (name, value) in [
            ("DAYMEND_DATABASE_URL", &wreck.db.url),
            ("DAYMEND_SNAPSHOT_DATABASE_URL", &wreck.db.snapshot_url),
            ("DAYMEND_SNAPSHOT_STORE", &store),
        ] {
            variables.push((name.to_owned(), value.clone()));
        }
        let mut processes = Vec::new();
        if ["curl ", "--wait", "runs watch"].iter().any(|waits| page.text.contains(waits)) {
            let ready = [
                ("SCHEDULER", "scheduler", "daymend_stats_timestamp_seconds "),
                ("WORKER", "worker", "daymend_pool_connections_max"),
            ];
            for (variable, command, metric) in ready {
                let (process, address) = Process::start_with_pages(&wreck.db, &["--now", NOW, command]);
                processes.push(process);
                wait_until("a metrics page", Duration::from_secs(120), async || {
                    let page = Command::new("curl").args(["-s", &format!("http://{address}/metrics")]).output();
                    String::from_utf8(page.expect("curl is installed").stdout).unwrap().contains(metric)
                })
                .await;
                variables.push((variable.to_owned(), address));
            }
        }
        Self { bin, variables, _processes: processes }
    }

    /// Runs the commands of a block, and returns how many. Each has to succeed, or to exit as it says.
    fn run_all(&self, block: &Block, page: &Page) -> usize {
        let commands: Vec<&str> = block.text.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
        assert_eq!(commands.len(), block.text.lines().count(), "{}: {}", page.name, block.text);
        for command in &commands {
            let output = self.run(&["-c", &format!("set -uo pipefail\n{command}")]);
            let expected = command.rsplit_once("# exits ").map_or(0, |(_, code)| code.trim().parse().unwrap());
            assert_eq!(output.status.code(), Some(expected), "{}: {command}\n{}", page.name, said(&output));
        }
        commands.len()
    }

    /// Checks the syntax of commands that cannot be run here.
    fn check(&self, block: &Block, page: &Page) {
        let output = self.run(&["-n", "-c", &block.text]);
        assert!(output.status.success(), "{}: {}\n{}", page.name, block.text, said(&output));
        let is_known = |line: &str| line.starts_with("kubectl -n daymend ");
        assert!(block.text.lines().all(is_known), "{}: {}", page.name, block.text);
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.bin.path().display());
        Command::new("timeout")
            .args(["60", "bash"])
            .args(arguments)
            .env_clear()
            .env("PATH", path)
            .current_dir(self.bin.path())
            .env("HOME", self.bin.path())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output()
            .expect("bash")
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
