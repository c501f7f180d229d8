//! Rollup definitions: business rules as data.
//!
//! A definition is a folder of `jobs/`: `rollup.toml` names the summary table and its event types, and a few SELECTs
//! read labs and facts. The built-in ones are compiled in; `--jobs-dir` reads others from disk. [`definition`] parses
//! and checks them, [`source`] and [`facts`] run the SELECTs, and [`aggregate`] counts facts into summary rows;
//! [`watch`] says which changes of the source matter.
//!
//! Invariants: identifiers only get into SQL from a checked definition; what counts is decided here, from flags,
//! never by a WHERE in SQL, so that a recompute also reads and locks the facts that do not count.

pub mod aggregate;
pub mod definition;
pub mod facts;
pub mod misfit;
pub mod source;
mod sql;
pub mod watch;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

pub use definition::{DefinitionError, load_dir};
pub use sql::NamedSql;
pub(crate) use sql::Table;

/// A rollup: a summary table and how its rows follow from facts.
#[derive(Debug, Clone)]
pub struct Rollup {
    /// Where its files are; for built-in ones, below `jobs/`.
    pub folder: PathBuf,
    /// The name of its folder and of its jobs.
    pub name: String,
    /// The table that holds the counts.
    pub summary: Summary,
    /// The kinds of facts, each after the one that it is part of.
    pub facts: Vec<FactKind>,
    /// The event types, by name, in the order of the summary's unique key; each refers to the fact kind it counts by
    /// its index in `facts`.
    pub events: Vec<EventType>,
    /// Every lab with its time zone.
    pub labs: NamedSql,
    /// The first time, at or after a given one, at which a lab has facts.
    pub days: NamedSql,
    /// What to watch for late changes; `None` if the folder has no `watch.toml`.
    pub watch: Option<watch::Watch>,
}

/// The summary table and its columns, as checked identifiers.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "each field is the name of the column it names")]
pub struct Summary {
    pub table: String,
    pub id: String,
    pub lab: String,
    pub day: String,
    pub dimension_a: String,
    pub dimension_b: String,
    pub event: String,
    pub count: String,
    pub created_at: String,
    pub modified_at: String,
}

/// A kind of facts: one SELECT that returns one row per fact.
#[derive(Debug, Clone)]
pub struct FactKind {
    /// Its name in `rollup.toml`.
    pub name: String,
    /// The SELECT.
    pub sql: NamedSql,
    /// The columns that event types use, dimensions as well as flags; for a part, also those of the fact that it is
    /// part of.
    pub columns: Vec<String>,
    /// The kind that its facts are part of, by its index in [`Rollup::facts`]: a test is part of a bill.
    pub part_of: Option<usize>,
}

/// One event type: which facts it counts, and for which pair of dimensions.
#[derive(Debug, Clone)]
pub struct EventType {
    /// The value of the summary's event column.
    pub name: String,
    /// Which of [`Rollup::facts`] it counts.
    pub fact: usize,
    /// The first dimension.
    pub a: Dimension,
    /// The second dimension.
    pub b: Dimension,
    /// The columns (indexes into [`FactKind::columns`]) that must have these values.
    pub conditions: Vec<(usize, i64)>,
}

/// Where a dimension's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dimension {
    /// A column of the fact, by its index in [`FactKind::columns`].
    Column(usize),
    /// The same number for every fact.
    Constant(i64),
}

impl Rollup {
    /// The columns that the parts of a kind of facts use; some of them may be columns of that kind.
    fn columns_of_parts(&self, kind: usize) -> impl Iterator<Item = &str> {
        let parts = self.facts.iter().filter(move |fact| fact.part_of == Some(kind));
        parts.flat_map(|fact| fact.columns.iter().map(String::as_str))
    }

    /// Whether facts of another kind are part of those of this one.
    fn has_parts(&self, kind: usize) -> bool {
        self.facts.iter().any(|fact| fact.part_of == Some(kind))
    }

    /// The index of an event type in `events`.
    #[must_use]
    pub fn event(&self, name: &str) -> Option<usize> {
        self.events.binary_search_by(|event| event.name.as_str().cmp(name)).ok()
    }

    /// The same rollup with every fact counted, including cancelled ones.
    #[must_use]
    pub fn without_conditions(&self) -> Self {
        let mut rollup = self.clone();
        rollup.events.iter_mut().for_each(|event| event.conditions.clear());
        rollup
    }
}

/// The definitions that are compiled in.
const BUILTIN: &[(&str, &[(&str, &str)])] = &[(
    "historical_summary",
    &[
        ("rollup.toml", include_str!("../../jobs/historical_summary/rollup.toml")),
        ("labs.sql", include_str!("../../jobs/historical_summary/labs.sql")),
        ("days.sql", include_str!("../../jobs/historical_summary/days.sql")),
        ("bills.sql", include_str!("../../jobs/historical_summary/bills.sql")),
        ("tests.sql", include_str!("../../jobs/historical_summary/tests.sql")),
        ("samples.sql", include_str!("../../jobs/historical_summary/samples.sql")),
        ("watch.toml", include_str!("../../jobs/historical_summary/watch.toml")),
        ("relations.toml", include_str!("../../jobs/historical_summary/relations.toml")),
    ],
)];

/// The files of the built-in definitions: each path, relative to the directory of all definitions, and its text.
pub fn builtin_files() -> impl Iterator<Item = (String, &'static str)> {
    BUILTIN.iter().flat_map(|(name, files)| files.iter().map(move |(file, text)| (format!("{name}/{file}"), *text)))
}

/// The name of the one rollup that the nightly run and migration records are for.
pub const HISTORICAL_SUMMARY: &str = "historical_summary";

/// All rollups this process knows.
#[derive(Debug, Clone)]
pub struct Rollups(Vec<Rollup>);

impl Rollup {
    /// All of its SELECTs.
    pub(crate) fn selects(&self) -> impl Iterator<Item = &NamedSql> {
        self.facts.iter().map(|facts| &facts.sql).chain([&self.labs, &self.days])
    }

    /// The tables that its SELECTs read, each once.
    pub(crate) fn source_tables(&self) -> BTreeSet<String> {
        self.selects().flat_map(NamedSql::tables).map(|table| table.name).collect()
    }

    /// The path of one of its files, for messages.
    pub(crate) fn path(&self, file: &str) -> String {
        self.folder.join(file).display().to_string()
    }

    /// The tables that it reads and the one that it writes, each once.
    #[must_use]
    pub fn tables(&self) -> Vec<String> {
        let mut tables = self.source_tables();
        tables.insert(self.summary.table.clone());
        tables.into_iter().collect()
    }
}

impl Rollups {
    /// The built-in definitions, or those of `jobs_dir` instead.
    ///
    /// Reports every problem of every definition, not just the first.
    pub fn load(jobs_dir: Option<&Path>) -> Result<Self, Vec<DefinitionError>> {
        let loaded: Vec<Result<Rollup, Vec<DefinitionError>>> = match jobs_dir {
            Some(dir) => load_dir(dir),
            None => BUILTIN
                .iter()
                .map(|(name, files)| {
                    definition::parse(Path::new(name), |file| {
                        files
                            .iter()
                            .find(|(known, _)| *known == file)
                            .map(|(_, text)| (*text).to_owned())
                            .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))
                    })
                })
                .collect(),
        };
        let mut rollups = Vec::new();
        let mut errors = Vec::new();
        for result in loaded {
            match result {
                Ok(rollup) => rollups.push(rollup),
                Err(found) => errors.extend(found),
            }
        }
        if errors.is_empty() { Ok(Self(rollups)) } else { Err(errors) }
    }

    /// The rollup of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Rollup> {
        self.0.iter().find(|rollup| rollup.name == name)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Rollup> {
        self.0.iter()
    }
}
