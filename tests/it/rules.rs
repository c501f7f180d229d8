//! The rules for Prometheus, checked without a server: `promtool` accepts them, their own tests pass, and every query
//! fits the catalogue. `observed` loads them into a real one.

use std::{path::Path, process::Command};

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
