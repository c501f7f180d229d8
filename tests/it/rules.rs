//! The rules for Prometheus, checked without a server: `promtool` accepts them, their own tests pass, and every query
//! fits the catalogue. `observed` loads them into a real one.

use std::{collections::BTreeMap, path::Path, process::Command};

use serde::Deserialize;

use crate::support::{
    prometheus::promtool,
    promql::Vocabulary,
    rules::{self, RULES},
};

fn assert_passes(mut command: Command) {
    let output = command.output().expect("promtool");
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{command:?}\n{text}");
}

#[test]
fn promtool_takes_the_rules() {
    let mut command = promtool();
    command.args(["check", "rules", "--lint-fatal", RULES]);
    assert_passes(command);
}

#[test]
fn the_rules_pass_their_tests() {
    let tests = Path::new(RULES).with_file_name("rules.test.yml");
    assert!(tests.is_file(), "{} is missing", tests.display());
    let mut command = promtool();
    command.args(["test", "rules"]).arg(tests);
    assert_passes(command);
}

/// What `rules.test.yml` expects of alerts.
#[derive(Debug, Deserialize)]
struct Tests {
    tests: Vec<Case>,
}

#[derive(Debug, Deserialize)]
struct Case {
    #[serde(default)]
    alert_rule_test: Vec<Expected>,
}

#[derive(Debug, Deserialize)]
struct Expected {
    alertname: String,
    exp_alerts: Vec<serde_norway::Value>,
}

#[test]
fn every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_is_quiet() {
    let text = std::fs::read_to_string(Path::new(RULES).with_file_name("rules.test.yml")).unwrap();
    let tests: Tests = serde_norway::from_str(&text).unwrap();
    let mut tested: BTreeMap<String, [bool; 2]> = BTreeMap::new();
    for expected in tests.tests.into_iter().flat_map(|case| case.alert_rule_test) {
        tested.entry(expected.alertname).or_default()[usize::from(expected.exp_alerts.is_empty())] = true;
    }
    let alerts: Vec<String> = rules::read().into_iter().filter_map(|rule| rule.alert).collect();
    assert!(alerts.len() > 25, "{alerts:?}");
    for alert in alerts {
        assert_eq!(tested.remove(&alert), Some([true; 2]), "{alert}: whether a test has it firing, and quiet");
    }
    assert_eq!(tested, BTreeMap::new(), "tests of no alert");
}

#[test]
fn promtool_takes_the_example_of_a_configuration() {
    let mut command = promtool();
    command.args(["check", "config"]).arg(Path::new(RULES).with_file_name("prometheus.yml"));
    assert_passes(command);
}

#[test]
fn every_rule_fits_the_catalogue() {
    let mut vocabulary = Vocabulary::default();
    let rules = rules::read();
    for rule in &rules {
        let checked = vocabulary.check(&rule.expr).unwrap_or_else(|error| panic!("{}: {error}", rule.name()));
        // A label in a message that the result does not have is rendered empty.
        for text in rule.annotations.values() {
            for rest in text.split("$labels.").skip(1) {
                let label = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                assert!(checked.labels.contains(label), "{}: $labels.{label} is not in the result", rule.name());
            }
        }
        if let Some(name) = &rule.record {
            vocabulary.record(name, checked.labels);
        }
    }
    assert!(rules.iter().any(|rule| rule.alert.is_some()));
}
