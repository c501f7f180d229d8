//! The dashboard, checked without a server: its layout, and that every query fits the catalogue.
//! `tests/deploy/grafana/run` checks that Grafana accepts it, and `observed` that the queries find data.

use std::{collections::BTreeSet, path::Path};

use daymend::metrics::catalogue::ALL;
use serde_json::Value;

use crate::support::{
    dashboard::{self, filled_in, name, panels, queries},
    rules,
};

/// The metrics that are not on the dashboard, and why.
const NOT_SHOWN: &[(&str, &str)] = &[
    ("daymend_process_start_time_seconds", "only its changes count, and an alert counts them"),
    ("daymend_schema_version", "it says no more than the version does"),
];

const UNITS: [&str; 5] = ["short", "s", "bytes", "percentunit", "suffix:/s"];

#[test]
fn every_query_fits_the_catalogue() {
    let vocabulary = rules::vocabulary();
    let dashboard = dashboard::read();
    let mut shown = BTreeSet::new();
    for panel in panels(&dashboard) {
        let mut labels = BTreeSet::new();
        for query in queries(panel) {
            let expr = filled_in(&query.expr, "5m", "1d");
            let checked = vocabulary.check(&expr).unwrap_or_else(|error| panic!("{}: {error}", query.name));
            for named in query.legend.iter().flat_map(|legend| placeholders(legend)) {
                assert!(checked.labels.contains(&named), "{}: {{{{{named}}}}} is not in the result", query.name);
            }
            assert!(
                query.legend.is_some() || panel["type"] != "timeseries",
                "{}: its series have no legend",
                query.name
            );
            shown.extend(checked.metrics);
            labels.extend(checked.labels);
        }
        for column in renamed(panel) {
            assert!(
                labels.contains(&column) || column.starts_with("Value"),
                "{}: no column {column} in {labels:?}",
                name(panel)
            );
        }
    }
    for metric in ALL {
        let is_exempt = NOT_SHOWN.iter().any(|(name, _)| *name == metric.name);
        assert_ne!(shown.contains(metric.name), is_exempt, "{}: on the dashboard, or in NOT_SHOWN", metric.name);
    }
}

/// Returns the labels that a legend names, as in `{{kind}} p99`.
fn placeholders(legend: &str) -> Vec<String> {
    legend.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0.trim().to_owned())).collect()
}

/// Returns the columns that a table renames.
fn renamed(panel: &Value) -> Vec<String> {
    let transformations = panel["transformations"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names = transformations.iter().filter_map(|each| each["options"]["renameByName"].as_object());
    names.flat_map(|names| names.keys().cloned()).collect()
}

#[test]
fn rates_are_taken_over_the_interval_that_grafana_chooses() {
    // Longer windows, for what happens rarely or should not fluctuate.
    let others = ["[5m]", "[1d]", "[$__range]"];
    let dashboard = dashboard::read();
    for query in panels(&dashboard).into_iter().flat_map(queries) {
        for (at, _) in query.expr.match_indices('[') {
            let rest = &query.expr[at..];
            let window = &rest[..=rest.find(']').unwrap_or(0)];
            assert!(window == "[$__rate_interval]" || others.contains(&window), "{}: {window}", query.name);
        }
    }
}

/// Of several installations, the one that is late must be shown, not hidden by another: the latest moment is taken
/// within each installation, and the worst of them is shown.
#[test]
fn ages_are_those_of_the_worst_installation() {
    let dashboard = dashboard::read();
    let mut ages = 0;
    for query in panels(&dashboard).into_iter().flat_map(queries) {
        // A worker's heartbeat concerns that worker only.
        if query.expr.contains("_timestamp_seconds") && !query.expr.contains("daymend_worker_") {
            ages += 1;
            assert!(query.expr.contains("max by (namespace"), "{}: {}", query.name, query.expr);
            assert!(
                query.expr.starts_with("max") || query.expr.starts_with("min by"),
                "{}: {}",
                query.name,
                query.expr
            );
        }
    }
    assert_eq!(ages, 8);
}

/// A moment or a counter only grows, so the largest of the last values is the latest. Of any other gauge, the last value
/// of a process that is gone would hide a smaller one of the process in its place.
#[test]
fn only_what_grows_outlives_its_process() {
    let dashboard = dashboard::read();
    let mut bridged = 0;
    for query in panels(&dashboard).into_iter().flat_map(queries) {
        for rest in query.expr.split("last_over_time(").skip(1) {
            let metric = rest.split('{').next().unwrap_or_default();
            bridged += 1;
            assert!(
                metric.ends_with("_timestamp_seconds") || metric.ends_with("_total"),
                "{}: {}",
                query.name,
                query.expr
            );
        }
    }
    assert!(bridged > 5, "{bridged}");
}

#[test]
fn every_panel_says_what_it_shows() {
    let dashboard = dashboard::read();
    for panel in panels(&dashboard).into_iter().filter(|panel| panel["type"] != "row") {
        let name = name(panel);
        let text = |at: &str| panel.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        assert!(text("/description").len() > 20 && text("/description").ends_with('.'), "{name}: no description");
        assert!(!queries(panel).is_empty(), "{name}: no query");
        assert_eq!(text("/datasource/uid"), "${datasource}", "{name}");
        assert!(UNITS.contains(&text("/fieldConfig/defaults/unit").as_str()), "{name}: no unit");
        let steps = panel.pointer("/fieldConfig/defaults/thresholds/steps").and_then(Value::as_array);
        let steps = steps.unwrap_or_else(|| panic!("{name}: no thresholds"));
        assert!(steps[0]["value"].is_null(), "{name}: the first threshold has a value");
        assert!(
            steps.windows(2).all(|two| two[0]["value"].as_f64() < two[1]["value"].as_f64()),
            "{name}: thresholds out of order"
        );
    }
}

#[test]
fn links_lead_to_runbooks_of_alerts_that_exist() {
    let dashboard = dashboard::read();
    let mut runbooks: Vec<String> =
        rules::read().into_iter().filter_map(|mut rule| rule.annotations.remove("runbook_url")).collect();
    runbooks.sort();
    let mut links = 0;
    for panel in panels(&dashboard) {
        for link in panel["links"].as_array().into_iter().flatten() {
            let url = link["url"].as_str().unwrap_or_default().replace("${runbooks}", "deploy/runbooks");
            assert!(runbooks.binary_search(&url).is_ok(), "{}: no alert has the runbook {url}", name(panel));
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(&url).is_file(), "{url} is missing");
            links += 1;
        }
    }
    assert!(links > 20, "{links} links");
}

#[test]
fn panels_have_numbers_of_their_own_and_do_not_overlap() {
    let dashboard = dashboard::read();
    let panels = panels(&dashboard);
    let ids: BTreeSet<i64> = panels.iter().filter_map(|panel| panel["id"].as_i64()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels with one id, or one without");
    let mut taken = BTreeSet::new();
    for panel in panels {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().expect("a position"));
        assert!(w > 0 && h > 0 && x + w <= 24, "{}: beyond the grid of 24", name(panel));
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{}: overlaps another panel", name(panel));
        }
    }
}

#[test]
fn it_can_be_left_open() {
    let dashboard = dashboard::read();
    assert_eq!(dashboard["refresh"], "30s");
    assert_eq!(dashboard["time"]["from"], "now-24h");
    assert!(dashboard.get("id").is_none(), "an id belongs to one Grafana only");
    assert!(dashboard["uid"].is_string(), "links to it need a stable uid");
    let text = dashboard.to_string();
    assert!(!text.contains("job=") && !text.contains("job=~"), "the names of scrape jobs are up to the site");
}
