//! The doctor's findings, and how bad they are.

use strum::IntoStaticStr;

use super::{GROUPS, REACHABLE};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[derive(IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; no action is needed.
    Note,
    /// daymend works, but some numbers are wrong, or will be, or something is waiting for an operator.
    Warning,
    /// daymend cannot do its work, or something undoes it.
    Error,
}

impl Severity {
    /// The name that is printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Something that is wrong: what, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The check that found it, such as `grants.narrow`.
    pub id: &'static str,
    /// The group that the check belongs to.
    pub group: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Where: a table, a lab, a setting.
    #[serde(rename = "where")]
    pub place: String,
    /// What is wrong.
    pub what: String,
    /// What to do: a command or a statement, where there is one.
    pub advice: String,
}

/// A plain fact about the site.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Fact {
    /// What it is about, such as the server's version.
    pub name: &'static str,
    /// The value.
    pub value: String,
}

/// The results of all checks.
#[derive(Debug, Default, serde::Serialize)]
pub struct Report {
    /// The findings, in the order of the page.
    pub findings: Vec<Finding>,
    /// The facts.
    pub facts: Vec<Fact>,
    /// The checks that ran, with their group.
    #[serde(serialize_with = "ids")]
    pub checked: Vec<(&'static str, &'static str)>,
    /// The checks that did not run: what they read does not exist or is hidden, or time ran out.
    #[serde(serialize_with = "ids")]
    pub skipped: Vec<(&'static str, &'static str)>,
}

fn ids<S: serde::Serializer>(list: &[(&'static str, &'static str)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(|(_, id)| id))
}

impl Report {
    /// The worst severity; `None` if nothing was found.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    /// How many findings have that severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// Whether a check found something.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.findings.iter().any(|finding| finding.id == id)
    }

    /// Whether a table or a column is missing, so that other checks that read it need not report that too.
    pub(super) fn has_missing_tables(&self) -> bool {
        self.findings.iter().any(|finding| finding.id.starts_with("tables.") && finding.severity == Severity::Error)
    }

    /// The groups of the page, each with how many of its checks ran.
    #[must_use]
    pub fn groups(&self) -> Vec<(&'static str, usize)> {
        let looked = |group| self.checked.iter().filter(|(of, _)| *of == group).count();
        GROUPS.iter().map(|(group, _)| (*group, looked(*group))).collect()
    }

    /// The report for a database that cannot be reached, or rejects the log-in, and why.
    #[must_use]
    pub fn unreachable(why: &str, is_refused: bool) -> Self {
        let advice = if is_refused {
            "check the user, the password and the database's name in --database-url (DAYMEND_DATABASE_URL), from which \
             hosts the user may log in, and what the server lets it do (deploy/mysql/README.md)"
        } else {
            "check --database-url (DAYMEND_DATABASE_URL): that the server runs and the network reaches it, or that the \
             file is there and this user may write it"
        };
        let finding = Finding {
            id: REACHABLE,
            group: GROUPS[0].0,
            severity: Severity::Error,
            place: "database".to_owned(),
            what: why.to_owned(),
            advice: advice.to_owned(),
        };
        let skipped = GROUPS.iter().flat_map(|(group, checks)| checks.iter().map(|check| (*group, check.id)));
        Self { findings: vec![finding], skipped: skipped.collect(), ..Self::default() }
    }
}
