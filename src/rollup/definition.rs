//! Parsing a rollup's folder; every problem is reported in one line, with its file and line number.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::Spanned;

use super::{
    Dimension, EventType, FactKind, NamedSql, Rollup, Summary,
    sql::Problem,
    watch::{self, Watch},
};

/// One problem of a definition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct DefinitionError {
    /// The file's path, as it would be opened.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Spanned<String>,
    summary: Spanned<Summary>,
    facts: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    parts: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    event: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    #[serde(rename = "type")]
    name: Spanned<String>,
    counts: Spanned<String>,
    a: Spanned<DimensionText>,
    b: Spanned<DimensionText>,
    #[serde(default, rename = "where")]
    conditions: BTreeMap<String, Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum DimensionText {
    Constant(i64),
    Column(String),
}

/// The parameters of a fact kind's SELECT, unless it is part of another.
const FACT_PARAMETERS: &[&str] = &["lab_id", "from", "until"];

/// The longest name of a rollup; the width of the column that holds it.
const NAME_LENGTH_MAX: usize = 32;

/// The longest event type; the width of the summary's column.
const EVENT_LENGTH_MAX: usize = 64;

/// Every definition under `dir`: one for each folder that contains a `rollup.toml`.
pub fn load_dir(dir: &Path) -> Vec<Result<Rollup, Vec<DefinitionError>>> {
    let problem =
        |message: String| vec![Err(vec![DefinitionError { file: dir.display().to_string(), line: 1, message }])];
    let mut folders: Vec<PathBuf> = match std::fs::read_dir(dir) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(error) => return problem(format!("cannot be read: {error}")),
    };
    folders.retain(|folder| folder.join("rollup.toml").is_file());
    folders.sort();
    if folders.is_empty() {
        return problem("no folder here has a rollup.toml".to_owned());
    }
    folders.iter().map(|folder| parse(folder, |file| std::fs::read_to_string(folder.join(file)))).collect()
}

/// Parses the definition in `folder`, whose files `read` returns.
pub(super) fn parse(
    folder: &Path,
    read: impl Fn(&str) -> std::io::Result<String>,
) -> Result<Rollup, Vec<DefinitionError>> {
    let mut parser = Parser { folder, errors: Vec::new() };
    match parser.rollup(&read) {
        Some(rollup) if parser.errors.is_empty() => Ok(rollup),
        _ => Err(parser.errors),
    }
}

/// Collects problems while it reads.
struct Parser<'a> {
    folder: &'a Path,
    errors: Vec<DefinitionError>,
}

impl Parser<'_> {
    fn report(&mut self, file: &str, line: usize, message: impl Into<String>) {
        self.errors.push(DefinitionError {
            file: self.folder.join(file).display().to_string(),
            line,
            message: message.into(),
        });
    }

    fn rollup(&mut self, read: &impl Fn(&str) -> std::io::Result<String>) -> Option<Rollup> {
        let text = match read("rollup.toml") {
            Ok(text) => text,
            Err(error) => {
                self.report("rollup.toml", 1, format!("cannot be read: {error}"));
                return None;
            }
        };
        let file: File = match toml::from_str(&text) {
            Ok(file) => file,
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                self.report("rollup.toml", line_of(&text, at), error.message().replace('\n', " "));
                return None;
            }
        };
        self.check_name(&text, &file.name);
        self.check_summary(&text, &file.summary);

        let mut facts = self.facts(read, &text, &file);
        let labs = self.sql(read, "labs.sql", |source| NamedSql::parse("labs.sql", source, &[]));
        let days = self.sql(read, "days.sql", |source| NamedSql::parse("days.sql", source, &["lab_id", "from"]));
        if file.event.is_empty() {
            self.report("rollup.toml", 1, "no [[event]] is defined");
        }
        let mut events: Vec<EventType> = Vec::new();
        for event in &file.event {
            let line = line_of(&text, event.name.span().start);
            if events.iter().any(|known| known.name == *event.name.get_ref()) {
                self.report("rollup.toml", line, format!("the event type {:?} is defined twice", event.name.get_ref()));
            }
            if !(1..=EVENT_LENGTH_MAX).contains(&event.name.get_ref().chars().count()) {
                let name = event.name.get_ref();
                let message = format!("the event type {name:?} has not between 1 and {EVENT_LENGTH_MAX} characters");
                self.report("rollup.toml", line, message);
            }
            if let Some(event) = self.event(&text, &file, &mut facts, event) {
                events.push(event);
            }
        }
        events.sort_by(|one, other| one.name.cmp(&other.name));
        let watch = self.watch(read, &facts);
        Some(Rollup {
            folder: self.folder.to_owned(),
            name: file.name.into_inner(),
            summary: file.summary.into_inner(),
            facts,
            events,
            labs: labs?,
            days: days?,
            watch,
        })
    }

    /// The kinds of facts, each after the one that it is part of.
    fn facts(&mut self, read: &impl Fn(&str) -> std::io::Result<String>, text: &str, file: &File) -> Vec<FactKind> {
        for (name, of) in &file.parts {
            let line = line_of(text, of.span().start);
            let of = of.get_ref();
            if let Some(unknown) = [name, of].into_iter().find(|kind| !file.facts.contains_key(*kind)) {
                self.report("rollup.toml", line, format!("{unknown:?} is not one of [facts]"));
            } else if file.parts.contains_key(of) {
                self.report("rollup.toml", line, format!("{of:?} is part of something itself"));
            } else if !is_identifier(of) {
                self.report("rollup.toml", line, format!("{of:?} is not a name of letters, digits and _"));
            }
        }
        let mut facts: Vec<FactKind> = Vec::new();
        let (parts, whole): (Vec<_>, Vec<_>) = file.facts.iter().partition(|(name, _)| file.parts.contains_key(*name));
        for (name, path) in whole.into_iter().chain(parts) {
            let of = file.parts.get(name).map(Spanned::get_ref);
            // A kind that is unknown, or whose SELECT is broken, is not in `facts`; that has been reported already.
            let part_of = of.and_then(|of| facts.iter().position(|fact| fact.name == *of));
            let path = path.get_ref();
            let sql = self.sql(read, path, |source| match of {
                Some(of) => NamedSql::parse_part(path, source, of),
                None => NamedSql::parse(path, source, FACT_PARAMETERS),
            });
            if let Some(sql) = sql {
                facts.push(FactKind { name: name.clone(), sql, columns: Vec::new(), part_of });
            }
        }
        facts
    }

    fn check_name(&mut self, text: &str, name: &Spanned<String>) {
        let line = line_of(text, name.span().start);
        let value = name.get_ref();
        if !is_identifier(value) || value.len() > NAME_LENGTH_MAX {
            self.report(
                "rollup.toml",
                line,
                format!("{value:?} is not a name of letters, digits and _, at most {NAME_LENGTH_MAX}"),
            );
        }
        if self.folder.file_name().is_some_and(|folder| folder != value.as_str()) {
            self.report("rollup.toml", line, format!("the name {value:?} differs from its folder's"));
        }
    }

    fn check_summary(&mut self, text: &str, summary: &Spanned<Summary>) {
        let start = line_of(text, summary.span().start);
        let s = summary.get_ref();
        let fields = [
            ("table", &s.table),
            ("id", &s.id),
            ("lab", &s.lab),
            ("day", &s.day),
            ("dimension_a", &s.dimension_a),
            ("dimension_b", &s.dimension_b),
            ("event", &s.event),
            ("count", &s.count),
            ("created_at", &s.created_at),
            ("modified_at", &s.modified_at),
        ];
        for (key, value) in fields {
            if !is_identifier(value) {
                let line = text
                    .lines()
                    .skip(start.saturating_sub(1))
                    .position(|line| line.trim_start().starts_with(key))
                    .map_or(start, |offset| start + offset);
                self.report("rollup.toml", line, format!("{key} = {value:?} is not a table or column name"));
            }
        }
    }

    fn sql(
        &mut self,
        read: &impl Fn(&str) -> std::io::Result<String>,
        file: &str,
        parse: impl Fn(&str) -> Result<NamedSql, Problem>,
    ) -> Option<NamedSql> {
        match read(file) {
            Err(error) => self.report(file, 1, format!("cannot be read: {error}")),
            Ok(source) => match parse(&source) {
                Ok(sql) => return Some(sql),
                Err(problem) => self.report(file, problem.line, problem.message),
            },
        }
        None
    }

    fn watch(&mut self, read: &impl Fn(&str) -> std::io::Result<String>, facts: &[FactKind]) -> Option<Watch> {
        match read(watch::FILE).map(|text| watch::parse(&text, facts)) {
            Ok(Ok(watch)) => return Some(watch),
            Ok(Err(problems)) => {
                problems.into_iter().for_each(|(line, message)| self.report(watch::FILE, line, message));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => self.report(watch::FILE, 1, format!("cannot be read: {error}")),
        }
        None
    }

    fn event(&mut self, text: &str, file: &File, facts: &mut [FactKind], event: &Event) -> Option<EventType> {
        let counts = event.counts.get_ref();
        if !file.facts.contains_key(counts) {
            let line = line_of(text, event.counts.span().start);
            self.report("rollup.toml", line, format!("{counts:?} is not one of [facts]"));
            return None;
        }
        // A kind whose SELECT is broken is not in `facts`; that has been reported already.
        let fact = facts.iter().position(|fact| fact.name == *counts)?;
        let mut column = |name: &str, at: usize| {
            if !is_identifier(name) {
                self.report("rollup.toml", line_of(text, at), format!("{name:?} is not a column name"));
            }
            let columns = &mut facts[fact].columns;
            columns.iter().position(|known| known == name).unwrap_or_else(|| {
                columns.push(name.to_owned());
                columns.len() - 1
            })
        };
        let mut dimension = |dimension: &Spanned<DimensionText>| match dimension.get_ref() {
            DimensionText::Constant(value) => Dimension::Constant(*value),
            DimensionText::Column(name) => Dimension::Column(column(name, dimension.span().start)),
        };
        let (a, b) = (dimension(&event.a), dimension(&event.b));
        let conditions =
            event.conditions.iter().map(|(name, value)| (column(name, value.span().start), *value.get_ref())).collect();
        Some(EventType { name: event.name.get_ref().clone(), fact, a, b, conditions })
    }
}

/// Whether `name` may be used in a statement as a table or column name.
pub(crate) fn is_identifier(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The line number, from 1, of a byte of a text.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    text[..at.min(text.len())].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(replace: &str, with: &str) -> Vec<String> {
        let files = super::super::BUILTIN[0].1;
        parse(Path::new("historical_summary"), |file| {
            let (_, text) = files.iter().find(|(known, _)| *known == file).ok_or(std::io::ErrorKind::NotFound)?;
            assert!(file != "rollup.toml" || text.contains(replace), "{replace:?} is not in rollup.toml");
            Ok(if file == "rollup.toml" { text.replacen(replace, with, 1) } else { (*text).to_owned() })
        })
        .err()
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect()
    }

    #[test]
    fn the_builtin_definition_has_the_sixteen_event_types() {
        let rollups = super::super::Rollups::load(None).unwrap();
        let rollup = rollups.get(super::super::HISTORICAL_SUMMARY).unwrap();
        assert_eq!(rollup.events.len(), 16);
        let kinds: Vec<_> = rollup.facts.iter().map(|fact| (fact.name.as_str(), fact.part_of)).collect();
        assert_eq!(kinds, [("bills", None), ("samples", Some(0)), ("tests", Some(0))]);
    }

    #[test]
    fn a_name_needs_no_quotes_in_any_database() {
        for name in ["a", "_a1", "A_b", &"x".repeat(64)] {
            assert!(is_identifier(name), "{name}");
        }
        for no_name in ["", "1a", "a b", "a.b", "a-b", "a`", "\u{e9}", &"x".repeat(65)] {
            assert!(!is_identifier(no_name), "{no_name}");
        }
    }

    #[test]
    fn a_definition_without_events_counts_nothing() {
        let files = super::super::BUILTIN[0].1;
        let (_, text) = files.iter().find(|(file, _)| *file == "rollup.toml").unwrap();
        let events = &text[text.find("[[event]]").unwrap()..];
        let problems = errors(events, "");
        assert!(problems[0].ends_with("rollup.toml:1: no [[event]] is defined"), "{problems:?}");
    }

    #[test]
    fn each_problem_names_its_file_and_line() {
        let cases = [
            ("counts = \"bills\"", "counts = \"bils\"", "rollup.toml:39: \"bils\" is not one of [facts]"),
            (
                "day = \"ordered_at\"",
                "day = \"ordered at\"",
                "rollup.toml:17: day = \"ordered at\" is not a table or column name",
            ),
            ("bills = \"bills.sql\"", "bills = \"bill.sql\"", "bill.sql:1: cannot be read: entity not found"),
            (
                "type = \"referral_bill\"",
                "type = \"organization_bill\"",
                "rollup.toml:45: the event type \"organization_bill\" is defined twice",
            ),
            (
                "type = \"referral_bill\"",
                "type = \"\"",
                "rollup.toml:45: the event type \"\" has not between 1 and 64 characters",
            ),
            (
                "name = \"historical_summary\"",
                "name = \"other\"",
                "rollup.toml:11: the name \"other\" differs from its folder's",
            ),
            ("tests = \"bills\"", "tests = \"bils\"", "rollup.toml:35: \"bils\" is not one of [facts]"),
            ("tests = \"bills\"", "test = \"bills\"", "rollup.toml:35: \"test\" is not one of [facts]"),
            ("tests = \"bills\"", "tests = \"samples\"", "rollup.toml:35: \"samples\" is part of something itself"),
            ("tests = \"bills\"", "", "tests.sql:6: unknown parameter :bills (known: :lab_id, :from, :until)"),
            ("b = 0", "b = \"x; DROP TABLE labs\"", "rollup.toml:41: \"x; DROP TABLE labs\" is not a column name"),
            (
                "[facts]",
                "[fact]",
                "rollup.toml:25: unknown field `fact`, expected one of `name`, `summary`, `facts`, `parts`, `event`",
            ),
        ];
        let long = format!("name = \"{}\"", "x".repeat(33));
        assert!(errors("name = \"historical_summary\"", &long)[0].ends_with("letters, digits and _, at most 32"));
        let short = errors("name = \"historical_summary\"", &long.replacen('x', "", 1));
        assert!(short.len() == 1 && short[0].ends_with("differs from its folder's"), "{short:?}");
        let long = format!("type = \"{}\"", "x".repeat(65));
        assert!(errors("type = \"referral_bill\"", &long)[0].contains("has not between 1 and 64 characters"));
        assert_eq!(errors("type = \"referral_bill\"", &long.replacen('x', "", 1)), Vec::<String>::new());
        for (replace, with, expected) in cases {
            let found = errors(replace, with);
            assert!(found.contains(&format!("historical_summary/{expected}")), "{expected:?} is not among {found:#?}");
        }
    }
}
