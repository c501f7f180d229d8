//! The pages of `deploy/runbooks/`, and the alerts of `deploy/prometheus/rules.yml`, as text.

use std::{collections::BTreeMap, fs, path::Path};

/// A page.
#[derive(Debug)]
pub struct Page {
    /// The name of its file, without `.md`.
    pub name: String,
    pub text: String,
    pub blocks: Vec<Block>,
}

/// A fenced block.
#[derive(Debug)]
pub struct Block {
    /// What follows the opening fence.
    pub language: String,
    pub text: String,
}

/// An alert.
#[derive(Debug)]
pub struct Alert {
    pub severity: String,
    /// `at once` where the rule has no `for`.
    pub fires_after: String,
    /// The rule's whole text.
    pub rule: String,
}

/// Reads a file of the repository.
pub fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Reads all pages, including the index, in order of their names.
pub fn pages() -> Vec<Page> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/runbooks");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = files.filter_map(|file| file.strip_suffix(".md").map(str::to_owned)).collect();
    names.sort();
    let page = |name: String| {
        let text = read(&format!("deploy/runbooks/{name}.md"));
        Page { blocks: blocks(&text), name, text }
    };
    names.into_iter().map(page).collect()
}

/// Finds the blocks of a page. Those in a list are indented with it.
pub fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            let indent = line.len() - line.trim_start().len();
            let inside: Vec<&str> = lines
                .by_ref()
                .take_while(|line| line.trim_start() != "```")
                .map(|line| line.get(indent..).unwrap_or_default())
                .collect();
            blocks.push(Block { language: language.to_owned(), text: inside.join("\n") });
        }
    }
    blocks
}

/// Reads the alerts, by name.
pub fn alerts() -> BTreeMap<String, Alert> {
    let rules = read("deploy/prometheus/rules.yml");
    let mut alerts = BTreeMap::new();
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap().trim().to_owned();
        let value = |key: &str| {
            rule.lines().find_map(|line| line.trim().strip_prefix(key)).map(|value| value.trim().to_owned())
        };
        let url = value("runbook_url:").unwrap();
        assert_eq!(url, format!("deploy/runbooks/{name}.md"));
        let fires_after = value("for:").unwrap_or_else(|| "at once".to_owned());
        let severity = value("severity:").unwrap();
        alerts.insert(name, Alert { severity, fires_after, rule: rule.to_owned() });
    }
    alerts
}
