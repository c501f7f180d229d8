//! References between tables: foreign keys of the schema, and those declared in `relations.toml`.
//!
//! ```toml
//! [[reference]]                 # a reference that the schema does not know
//! table = "billingInfo"
//! columns = "billing_id"        # or a list
//! parent = "billing"            # its primary key, unless parent_columns says otherwise
//!
//! [[reference]]                 # one column, several tables: another column says which
//! table = "notes"
//! columns = "owner_id"
//! type_column = "owner_type"
//! parents = { "12" = "clients", "14" = "partners" }
//!
//! [[identity]]                  # which columns say who or what a row is, whatever its id
//! table = "clients"
//! columns = "national_id"       # [] where no unique key of the table identifies anything
//!
//! [facts]                       # from which rows the days follow that have to be recomputed
//! table = "billing"
//! lab = "lab_id"
//! time = "billTime"
//! ```

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use crate::rollup::builtin_files;

/// Columns of one table that hold values of another table's columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The referring table.
    pub table: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// The table referred to.
    pub parent: String,
    /// Its columns; empty for its primary key.
    pub parent_columns: Vec<String>,
    /// Only applies if this column has this value (polymorphic references).
    pub when: Option<(String, String)>,
    /// Whether the database itself enforces it.
    pub is_enforced: bool,
    /// Whether it was declared by a person, rather than only by the schema.
    pub is_declared: bool,
}

impl Reference {
    /// A reference by `parent_id` of one table to the primary key of another.
    #[cfg(test)]
    pub(super) fn simple(table: &str, parent: &str) -> Self {
        Self {
            table: table.to_owned(),
            columns: vec!["parent_id".to_owned()],
            parent: parent.to_owned(),
            parent_columns: Vec::new(),
            when: None,
            is_enforced: false,
            is_declared: true,
        }
    }

    /// As text, such as `notes(owner_id) -> clients`.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}({}) -> {}", self.table, self.columns.join(", "), self.parent)
    }
}

/// The table whose rows tell which (lab, day)s a restore touches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The table that holds the facts' time.
    pub table: String,
    /// The column with the lab's id.
    pub lab: String,
    /// The column with the time (UTC).
    pub time: String,
}

/// Everything that is declared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relations {
    /// References.
    pub references: Vec<Reference>,
    /// By table, the columns that identify a row; an empty list if none do.
    pub identities: BTreeMap<String, Vec<String>>,
    /// Where the days come from.
    pub facts: Option<Facts>,
}

/// Why a file of relations cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RelationsError {
    /// The file cannot be read.
    #[error("{0}: cannot be read")]
    Read(String, #[source] std::io::Error),
    /// The file is not valid TOML, or has unknown entries.
    #[error("{file}:{line}: {message}")]
    Parse {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    reference: Vec<toml::Spanned<ReferenceText>>,
    #[serde(default)]
    identity: Vec<IdentityText>,
    facts: Option<Facts>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReferenceText {
    table: String,
    columns: Names,
    parent: Option<String>,
    parent_columns: Option<Names>,
    type_column: Option<String>,
    #[serde(default)]
    parents: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityText {
    table: String,
    columns: Names,
}

/// One name, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Many(Vec<String>),
}

impl Names {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(name) => vec![name],
            Self::Many(names) => names,
        }
    }
}

impl Relations {
    /// The relations of jobs/: the built-in ones, or those of all folders of `jobs_dir` instead.
    pub fn of_jobs(jobs_dir: Option<&Path>) -> Result<Self, RelationsError> {
        let mut relations = Self::default();
        let Some(dir) = jobs_dir else {
            for (file, text) in builtin_files().filter(|(file, _)| file.ends_with("/relations.toml")) {
                relations.extend(Self::parse(&file, text)?);
            }
            return Ok(relations);
        };
        let unreadable = |error| RelationsError::Read(dir.display().to_string(), error);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(unreadable)? {
            files.push(entry.map_err(unreadable)?.path().join("relations.toml"));
        }
        files.retain(|file| file.is_file());
        files.sort();
        for file in files {
            relations.extend(Self::read(&file)?);
        }
        Ok(relations)
    }

    /// Reads a file.
    pub fn read(file: &Path) -> Result<Self, RelationsError> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| RelationsError::Read(name.clone(), error))?;
        Self::parse(&name, &text)
    }

    /// Parses the text of the file with that name.
    pub fn parse(file: &str, text: &str) -> Result<Self, RelationsError> {
        let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let problem =
            |at: usize, message: String| RelationsError::Parse { file: file.to_owned(), line: line_of(at), message };
        let parsed: File = toml::from_str(text)
            .map_err(|error| problem(error.span().map_or(0, |span| span.start), error.message().replace('\n', " ")))?;
        let mut this = Self { facts: parsed.facts, ..Self::default() };
        for reference in parsed.reference {
            let at = reference.span().start;
            this.references.extend(references(reference.into_inner()).map_err(|message| problem(at, message))?);
        }
        for identity in parsed.identity {
            this.identities.insert(identity.table, identity.columns.into_vec());
        }
        Ok(this)
    }

    /// Whether nothing is declared.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds the declarations of another file; if both declare the same thing, the later one wins.
    pub fn extend(&mut self, other: Self) {
        for reference in other.references {
            self.add(reference);
        }
        self.identities.extend(other.identities);
        self.facts = other.facts.or(self.facts.take());
    }

    /// Adds a reference, unless it is already known; one that the database enforces stays marked as enforced.
    pub fn add(&mut self, reference: Reference) {
        let same = |known: &Reference| {
            known.table == reference.table
                && known.columns == reference.columns
                && known.parent == reference.parent
                && known.when == reference.when
                && (known.parent_columns == reference.parent_columns || reference.parent_columns.is_empty())
        };
        match self.references.iter_mut().find(|known| same(known)) {
            Some(known) => {
                known.is_enforced |= reference.is_enforced;
                known.is_declared |= reference.is_declared;
            }
            None => self.references.push(reference),
        }
    }

    /// Drops declarations that name a table for which `has_table` is false; returns what was dropped.
    pub fn retain_tables(&mut self, has_table: impl Fn(&str) -> bool) -> Vec<String> {
        let mut dropped = Vec::new();
        self.references.retain(|reference| {
            let is_known = has_table(&reference.table) && has_table(&reference.parent);
            if !is_known {
                dropped.push(reference.text());
            }
            is_known
        });
        self.identities.retain(|table, _| {
            let is_known = has_table(table);
            if !is_known {
                dropped.push(format!("the identity of {table}"));
            }
            is_known
        });
        if let Some(facts) = self.facts.take_if(|facts| !has_table(&facts.table)) {
            dropped.push(format!("the facts of {}", facts.table));
        }
        dropped
    }

    /// Every (table, column) that is named.
    pub fn columns(&self) -> impl Iterator<Item = (&str, &str)> {
        let references = self.references.iter().flat_map(|reference| {
            let own = reference.columns.iter().map(|column| (reference.table.as_str(), column.as_str()));
            let parents = reference.parent_columns.iter().map(|column| (reference.parent.as_str(), column.as_str()));
            let when = reference.when.iter().map(|(column, _)| (reference.table.as_str(), column.as_str()));
            own.chain(parents).chain(when)
        });
        let identities = self
            .identities
            .iter()
            .flat_map(|(table, columns)| columns.iter().map(move |column| (table.as_str(), column.as_str())));
        let facts = self.facts.iter().flat_map(|facts| {
            [(facts.table.as_str(), facts.lab.as_str()), (facts.table.as_str(), facts.time.as_str())]
        });
        references.chain(identities).chain(facts)
    }
}

/// One reference, or one for each table if it is polymorphic.
fn references(text: ReferenceText) -> Result<Vec<Reference>, String> {
    let columns = text.columns.into_vec();
    let parent_columns = text.parent_columns.map(Names::into_vec).unwrap_or_default();
    if columns.is_empty() || !parent_columns.is_empty() && parent_columns.len() != columns.len() {
        return Err(format!("columns of {}: one for each of the parent's columns is needed", text.table));
    }
    let to = |parent: String, when| Reference {
        table: text.table.clone(),
        columns: columns.clone(),
        parent,
        parent_columns: parent_columns.clone(),
        when,
        is_enforced: false,
        is_declared: true,
    };
    match (text.parent, text.type_column) {
        (Some(parent), None) if text.parents.is_empty() => Ok(vec![to(parent, None)]),
        (None, Some(column)) if !text.parents.is_empty() => {
            Ok(text.parents.into_iter().map(|(value, parent)| to(parent, Some((column.clone(), value)))).collect())
        }
        _ => Err(format!("{}: either parent, or type_column and parents, is needed", text.table)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_of_every_kind_are_read() {
        let text = r#"
            [[reference]]
            table = "info"
            columns = "bill_id"
            parent = "bill"

            [[reference]]
            table = "words"
            columns = ["owner_id"]
            type_column = "owner_type"
            parents = { client = "clients", "12" = "partners" }

            [[identity]]
            table = "clients"
            columns = "national_id"
        "#;
        let relations = Relations::parse("relations.toml", text).unwrap();
        let texts: Vec<String> = relations.references.iter().map(Reference::text).collect();
        assert_eq!(texts, ["info(bill_id) -> bill", "words(owner_id) -> partners", "words(owner_id) -> clients"]);
        assert_eq!(relations.references[1].when, Some(("owner_type".to_owned(), "12".to_owned())));
        assert_eq!(relations.identities["clients"], ["national_id"]);
    }

    #[test]
    fn problems_name_their_line() {
        let cases = [
            ("[[reference]]\ntable = 'a'\ncolumns = 'b'\n", "r.toml:1: a: either parent, or type_column"),
            (
                "\n[[reference]]\ntable = 'a'\ncolumns = ['b', 'c']\nparent = 'p'\nparent_columns = 'x'\n",
                "r.toml:2: columns of a",
            ),
            ("\n\n[[identty]]\n", "r.toml:3: unknown field `identty`"),
        ];
        for (text, expected) in cases {
            let error = Relations::parse("r.toml", text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_declared_reference_that_the_schema_knows_stays_enforced() {
        let mut relations = Relations::default();
        relations.add(Reference { is_enforced: true, ..Reference::simple("a", "b") });
        relations.add(Reference::simple("a", "b"));
        assert_eq!(relations.references.len(), 1);
        assert!(relations.references[0].is_enforced);
    }
}
