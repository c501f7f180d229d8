//! The catalogue of metrics: its names, and its documentation.

use daymend::metrics::{self, Type, catalogue::ALL};

/// The variable that makes the test write the document: `DAYMEND_WRITE_DOCS=1 cargo test --test it metrics::`.
const WRITE: &str = "DAYMEND_WRITE_DOCS";

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");

const INTRODUCTION: &str = "# Metrics\n\n\
    Generated from `src/metrics/catalogue.rs`; a test keeps it true.\n\n\
    *of* says which process has a metric. What the scheduler reads from the database is the same in \
    every replica: take its `max`, never its `sum`. Counters start at zero with each process.\n\n";

#[test]
fn the_documentation_lists_every_metric() {
    let expected = format!("{INTRODUCTION}{}", metrics::markdown());
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(DOCUMENT, &expected).expect("docs/metrics.md");
    }
    let written = std::fs::read_to_string(DOCUMENT).expect("docs/metrics.md");
    assert_eq!(written, expected, "run: {WRITE}=1 cargo test --test it metrics::");
}

#[test]
fn names_follow_the_conventions() {
    let mut names: Vec<&str> = ALL.iter().map(|metric| metric.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ALL.len(), "two metrics have the same name");
    for metric in ALL {
        let name = metric.name;
        assert!(name.starts_with("daymend_"), "{name}");
        assert_eq!(metric.kind == Type::Counter, name.ends_with("_total"), "{name}");
        assert!(!matches!(metric.kind, Type::Histogram(_)) || name.ends_with("_seconds"), "{name}");
        assert!(metric.help.ends_with('.') && metric.help.len() > 20, "{name}: {}", metric.help);
        assert_eq!(metric.labels.contains(&"lab"), name.starts_with("daymend_lab_"), "{name}");
        assert_eq!(name.starts_with("daymend_lab_"), metric.help.starts_with("With --lab-metrics:"), "{name}");
    }
}
