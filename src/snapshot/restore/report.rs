//! The report of a plan, or of a restore, for people and machines.

use serde::Serialize;

use super::{
    Context,
    candidates::{Candidate, Count, State},
    emptied::{self, Emptied},
    stale::{self, Stale},
};
use crate::{
    error::chain,
    snapshot::{
        SnapshotError,
        cells::{self, Cells},
    },
};

/// Rows of a table in the same state for the same reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The table.
    pub table: String,
    /// The state.
    pub state: State,
    /// The reason; may be empty.
    pub reason: String,
    /// How many rows.
    pub rows: i64,
    /// The first of them.
    pub samples: Vec<Sample>,
}

/// One row of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// Its key in the snapshot.
    pub key: String,
    /// The key of the live row that it became, that replaces it, or that is in its way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<String>,
    /// More detail.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// The live row to be shown beside a candidate.
fn live(candidate: &Candidate) -> Option<&Cells> {
    candidate.holder.as_ref().filter(|holder| match candidate.state {
        State::Missing | State::Deferred => false,
        State::Restored => **holder != candidate.key,
        _ => true,
    })
}

/// The whole report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The groups; tables are in the order in which they are restored.
    pub groups: Vec<Group>,
    /// Rows that still exist, but have lost what they referred to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub emptied: Vec<Emptied>,
    /// Rows that still exist, but refer to rows by keys that they do not have any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stale: Vec<Stale>,
    /// Whether those rows could not be determined.
    #[serde(skip)]
    pub is_loss_unknown: bool,
    /// Further remarks.
    pub remarks: Vec<String>,
}

impl Report {
    /// Reads the report from the working file, with up to `samples` samples per group.
    pub async fn read(context: &Context, samples: usize) -> Result<Self, SnapshotError> {
        let mut counts = context.work.counts().await?;
        counts.retain(|count| context.chosen[count.table]);
        let order: Vec<usize> = context.groups.iter().flat_map(|group| group.tables.iter().copied()).collect();
        counts.sort_by_key(|count| (order.iter().position(|table| *table == count.table), count.state));
        let mut groups = Vec::new();
        for Count { table, state, reason, rows } in counts {
            let is_plain = matches!(state, State::Missing | State::Restored) && reason.is_empty();
            let limit = if is_plain { samples.min(3) } else { samples };
            let found = context.work.first(table, state, &reason, limit).await?;
            let samples = found
                .into_iter()
                .map(|candidate| Sample {
                    key: cells::show_key(&candidate.key),
                    live: live(&candidate).map(|key| cells::show_key(key)),
                    detail: candidate.detail,
                })
                .collect();
            groups.push(Group { table: context.shapes[table].table.clone(), state, reason, rows, samples });
        }
        let mut remarks = context.remarks.clone();
        // What was done, or would be done, has to be reported even if this fails.
        let (emptied, stale) = (emptied::find(context).await, stale::find(context).await);
        let errors: Vec<&SnapshotError> = emptied.as_ref().err().into_iter().chain(stale.as_ref().err()).collect();
        let is_loss_unknown = !errors.is_empty();
        for error in errors {
            remarks.push(format!("which rows have lost their references is unknown: {}", chain(error)));
        }
        let (emptied, stale) = (emptied.unwrap_or_default(), stale.unwrap_or_default());
        Ok(Self { groups, emptied, stale, is_loss_unknown, remarks })
    }

    /// How many rows are in a state.
    #[must_use]
    pub fn rows(&self, state: State) -> i64 {
        self.groups.iter().filter(|group| group.state == state).map(|group| group.rows).sum()
    }

    /// Whether nothing is left to do, for a restore or for a person: rows that were entered again, or deleted on
    /// purpose, are settled.
    #[must_use]
    pub fn is_whole(&self, context: &Context) -> bool {
        self.rows(State::Missing) + self.rows(State::Deferred) + self.quarantined() == 0
            && self.emptied.is_empty()
            && self.stale.is_empty()
            && !self.is_loss_unknown
            && context.tables_lost == 0
    }

    /// How many rows a person has to decide about.
    #[must_use]
    pub fn quarantined(&self) -> i64 {
        self.groups.iter().filter(|group| group.state.is_quarantined()).map(|group| group.rows).sum()
    }

    /// The tables with how many of their rows are in each state, in the order of the groups.
    #[must_use]
    pub fn tables(&self) -> Vec<(String, Vec<(State, i64)>)> {
        let mut tables: Vec<(String, Vec<(State, i64)>)> = Vec::new();
        for group in &self.groups {
            if tables.last().is_none_or(|(name, _)| *name != group.table) {
                tables.push((group.table.clone(), Vec::new()));
            }
            let Some((_, states)) = tables.last_mut() else { continue };
            match states.iter_mut().find(|(state, _)| *state == group.state) {
                Some((_, rows)) => *rows += group.rows,
                None => states.push((group.state, group.rows)),
            }
        }
        tables
    }
}
