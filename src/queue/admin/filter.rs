//! Selecting jobs.

use std::fmt;

use chrono::NaiveDate;

use crate::{
    db::{Arg, repeat},
    queue::{JobKind, JobState, ids_of},
};

/// Jobs that match every field that is set; if none is, all jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Jobs of this run.
    pub run: Option<i64>,
    /// Jobs of one of these labs.
    pub labs: Vec<i64>,
    /// Jobs for this day or a later one.
    pub from: Option<NaiveDate>,
    /// Jobs for this day or an earlier one.
    pub to: Option<NaiveDate>,
    /// Jobs in this state.
    pub state: Option<JobState>,
    /// Jobs of this kind.
    pub kind: Option<JobKind>,
    /// Jobs whose error contains this text, ignoring case.
    pub error: Option<String>,
}

impl Filter {
    /// Whether it selects all jobs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The same filter, restricted to one run.
    #[must_use]
    pub fn of_run(&self, run: i64) -> Self {
        Self { run: Some(run), ..self.clone() }
    }

    /// The filter as a condition on `daymend_jobs`, and its arguments. The text is made of
    /// fixed fragments; every value is bound.
    pub(super) fn condition(&self) -> (String, Vec<Arg>) {
        let mut parts = vec!["1 = 1".to_owned()];
        let mut args = Vec::new();
        if let Some(run) = self.run {
            let (first, last) = ids_of(run);
            parts.push("id BETWEEN ? AND ?".to_owned());
            args.extend([Arg::Int(first), Arg::Int(last)]);
        }
        if !self.labs.is_empty() {
            parts.push(format!("lab_id IN ({})", repeat("?", self.labs.len())));
            args.extend(self.labs.iter().map(|lab| Arg::Int(*lab)));
        }
        let mut part = |text: &str, arg: Option<Arg>| {
            if let Some(arg) = arg {
                parts.push(text.to_owned());
                args.push(arg);
            }
        };
        part("day >= ?", self.from.map(Arg::from));
        part("day <= ?", self.to.map(Arg::from));
        part("state = ?", self.state.map(|state| state.name().into()));
        part("kind = ?", self.kind.map(|kind| kind.name().into()));
        part("LOWER(error) LIKE LOWER(?) ESCAPE '!'", self.error.as_deref().map(contains));
        (parts.join(" AND "), args)
    }
}

/// The LIKE pattern for text that contains `needle`.
fn contains(needle: &str) -> Arg {
    let escaped = needle.replace('!', "!!").replace('%', "!%").replace('_', "!_");
    Arg::Text(format!("%{escaped}%"))
}

impl fmt::Display for Filter {
    /// Formats the filter as it would be written on the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let mut part = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                parts.push(format!("--{name} {value}"));
            }
        };
        part("run", self.run.map(|run| run.to_string()));
        for lab in &self.labs {
            part("lab", Some(lab.to_string()));
        }
        part("from", self.from.map(|day| day.to_string()));
        part("to", self.to.map(|day| day.to_string()));
        part("state", self.state.map(|state| state.name().to_owned()));
        part("kind", self.kind.map(|kind| kind.name().to_owned()));
        part("error", self.error.as_ref().map(|error| format!("{error:?}")));
        f.write_str(if parts.is_empty() { "--all" } else { "" })?;
        f.write_str(&parts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_reads_as_it_would_be_written() {
        let filter = Filter { run: Some(3), labs: vec![1, 2], error: Some("a \"b\"".to_owned()), ..Filter::default() };
        assert_eq!(filter.to_string(), r#"--run 3 --lab 1 --lab 2 --error "a \"b\"""#);
        assert_eq!(Filter::default().to_string(), "--all");
    }

    #[test]
    fn values_are_bound_and_wildcards_are_plain_text() {
        let filter = Filter { error: Some("100%_'!".to_owned()), ..Filter::default() };
        let (text, args) = filter.condition();
        assert!(!text.contains("100"), "{text}");
        assert_eq!(args, [Arg::Text("%100!%!_'!!%".to_owned())]);
    }
}
