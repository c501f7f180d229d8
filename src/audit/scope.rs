//! Which labs to audit, and over which days.

use chrono::{DateTime, NaiveDate, Utc};

use super::cause::{Cause, Limits};
use crate::{
    calendar::{self, Zone},
    db::{DbError, Tx},
    recompute::stored,
    rollup::{
        Rollup,
        source::{self, Lab},
    },
};

/// What a lab's rows should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// They should equal their source.
    Kept(Zone),
    /// The lab's Historical View is off: rows are not required, and nobody maintains those that exist.
    Disabled,
    /// Nothing can be compared, and why: its time zone is unusable, or its bills cannot be read.
    Unusable(String),
    /// The lab does not exist: there should be no rows.
    Unknown,
}

impl Standing {
    fn of(lab: &Lab) -> Self {
        match lab.zone() {
            _ if !lab.enabled => Self::Disabled,
            Ok(zone) => Self::Kept(zone),
            Err(error) => Self::Unusable(error.to_string()),
        }
    }

    /// The name in JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kept(_) => "kept",
            Self::Disabled => "disabled",
            Self::Unusable(_) => "unusable",
            Self::Unknown => "unknown",
        }
    }

    /// The cause by which every row of the lab is superfluous, if that is so.
    #[must_use]
    pub fn superfluous(&self) -> Option<Cause> {
        match self {
            Self::Disabled => Some(Cause::LabDisabled),
            Self::Unknown => Some(Cause::UnknownLab),
            Self::Kept(_) | Self::Unusable(_) => None,
        }
    }
}

/// A lab to audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The lab.
    pub lab_id: i64,
    /// What its rows should be.
    pub standing: Standing,
    /// Whether any rows are stored.
    pub has_rows: bool,
}

/// Every lab that exists or has stored rows, by id.
pub async fn subjects(tx: &mut Tx, rollup: &Rollup) -> Result<Vec<Subject>, DbError> {
    let known = source::labs(tx, rollup).await?;
    let stored = stored::labs(tx, rollup).await?;
    let has_rows = |lab_id: &i64| stored.binary_search(lab_id).is_ok();
    let subject = |lab: &Lab| Subject { lab_id: lab.id, standing: Standing::of(lab), has_rows: has_rows(&lab.id) };
    let mut subjects: Vec<Subject> = known.iter().map(subject).collect();
    let is_unknown = |lab_id: &&i64| known.binary_search_by_key(*lab_id, |lab| lab.id).is_err();
    let unknown = |lab_id: &i64| Subject { lab_id: *lab_id, standing: Standing::Unknown, has_rows: true };
    subjects.extend(stored.iter().filter(is_unknown).map(unknown));
    subjects.sort_unstable_by_key(|subject| subject.lab_id);
    Ok(subjects)
}

/// The first and the last day for which a lab has, or should have, rows; `None` if there are none.
pub async fn bounds(
    tx: &mut Tx,
    rollup: &Rollup,
    subject: &Subject,
    as_of: DateTime<Utc>,
) -> Result<Option<(NaiveDate, NaiveDate)>, DbError> {
    let stored = match stored::next_day(tx, rollup, subject.lab_id, calendar::FIRST_DAY).await? {
        Some(first) => Some((first, stored::last_day(tx, rollup, subject.lab_id).await?.unwrap_or(first))),
        None => None,
    };
    let Standing::Kept(zone) = subject.standing else {
        return Ok(stored.filter(|_| subject.standing.superfluous().is_some()));
    };
    let limits = limits(tx, rollup, subject.lab_id, zone, as_of).await?;
    let facts = limits.first.filter(|first| *first <= limits.last).map(|first| (first, limits.last));
    Ok(match (facts, stored) {
        (Some(facts), Some(stored)) => Some((facts.0.min(stored.0), facts.1.max(stored.1))),
        (facts, stored) => facts.or(stored),
    })
}

/// The first comparable day from `from` on that has facts or stored rows.
pub(super) async fn next_day(
    tx: &mut Tx,
    rollup: &Rollup,
    subject: &Subject,
    from: NaiveDate,
    as_of: DateTime<Utc>,
) -> Result<Option<NaiveDate>, DbError> {
    let stored = stored::next_day(tx, rollup, subject.lab_id, from).await?;
    let fact = match subject.standing {
        Standing::Kept(zone) => {
            let at = source::next_fact(tx, rollup, subject.lab_id, zone.first_instant(from)).await?;
            // A day that is not over has no rows to compare its facts with.
            at.map(|at| zone.date_of(at)).filter(|day| *day <= zone.yesterday(as_of))
        }
        _ => None,
    };
    Ok(stored.into_iter().chain(fact).min())
}

/// The days for which a lab can have rows.
pub(super) async fn limits(
    tx: &mut Tx,
    rollup: &Rollup,
    lab_id: i64,
    zone: Zone,
    as_of: DateTime<Utc>,
) -> Result<Limits, DbError> {
    let first = source::first_fact(tx, rollup, lab_id).await?;
    Ok(Limits { first: first.map(|at| zone.date_of(at)), last: zone.yesterday(as_of) })
}
