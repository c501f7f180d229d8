//! The Grafana dashboard as data.

use serde_json::Value;

const DASHBOARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/grafana/daymend.json");

/// A query of a panel.
#[derive(Debug)]
pub struct Query {
    /// The panel's number and title, and the query's letter: for messages.
    pub name: String,
    /// The expression as written, with Grafana's variables.
    pub expr: String,
    /// The template for the names of its series, if there is one.
    pub legend: Option<String>,
}

/// Reads the whole dashboard.
pub fn read() -> Value {
    let text = std::fs::read_to_string(DASHBOARD).unwrap_or_else(|error| panic!("{DASHBOARD}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{DASHBOARD}: {error}"))
}

/// Lists every panel, including those inside rows.
pub fn panels(dashboard: &Value) -> Vec<&Value> {
    let nested = |panel| std::iter::once(panel).chain(list(panel));
    list(dashboard).flat_map(nested).collect()
}

fn list(of: &Value) -> impl Iterator<Item = &Value> {
    of["panels"].as_array().into_iter().flatten()
}

/// Returns a panel's name for messages.
pub fn name(panel: &Value) -> String {
    format!("panel {} \"{}\"", panel["id"], panel["title"].as_str().unwrap_or_default())
}

/// Lists the queries of a panel.
pub fn queries(panel: &Value) -> Vec<Query> {
    let targets = panel["targets"].as_array().into_iter().flatten();
    let query = |target: &Value| Query {
        name: format!("{}, query {}", name(panel), target["refId"]),
        expr: target["expr"].as_str().unwrap_or_default().to_owned(),
        legend: target["legendFormat"].as_str().map(str::to_owned),
    };
    targets.map(query).collect()
}

/// Replaces Grafana's variables in a query, as Grafana would.
pub fn filled_in(expr: &str, rate_interval: &str, range: &str) -> String {
    let query = expr.replace("$__rate_interval", rate_interval).replace("$__range", range).replace("$namespace", ".*");
    assert!(!query.contains('$'), "a variable without a value: {query}");
    query
}
