//! `deploy/prometheus/rules.yml` as data.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::promql::Vocabulary;

/// The file of recording rules and alerts.
pub const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus/rules.yml");

#[derive(Debug, Deserialize)]
struct File {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

/// A recording rule or an alert.
#[derive(Debug, Deserialize)]
pub struct Rule {
    pub record: Option<String>,
    pub alert: Option<String>,
    pub expr: String,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

impl Rule {
    /// Returns its name, whichever kind it is.
    pub fn name(&self) -> &str {
        self.record.as_deref().or(self.alert.as_deref()).expect("a rule records, or is an alert")
    }
}

/// Reads all rules, in order.
pub fn read() -> Vec<Rule> {
    let text = std::fs::read_to_string(RULES).unwrap_or_else(|error| panic!("{RULES}: {error}"));
    let file: File = serde_norway::from_str(&text).unwrap_or_else(|error| panic!("{RULES}: {error}"));
    file.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// Returns the names that queries may use once the rules are loaded; rules that are invalid themselves are left out.
pub fn vocabulary() -> Vocabulary {
    let mut vocabulary = Vocabulary::default();
    for rule in read() {
        if let (Some(name), Ok(checked)) = (&rule.record, vocabulary.check(&rule.expr)) {
            vocabulary.record(name, checked.labels);
        }
    }
    vocabulary
}
