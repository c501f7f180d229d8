//! Repairs of days, as operators request them.
//!
//! A request first becomes a plan, which `--dry-run` prints and which is otherwise enqueued. For each lab the days
//! begin no earlier than its first bill or row, and end no later than its last day that is over, provided that the
//! last requested day is over in some lab; either limit is reported. A lab that was named must have such days, or
//! nothing is enqueued; if all enabled labs are meant, labs without any are left out, and reported.

use chrono::{DateTime, NaiveDate, Utc};

use super::{JobLimits, LabDays, NewRun};
use crate::{
    calendar::span,
    db::{Db, DbError, Mode, Tx, retry},
    error::chain,
    queue::JobKind,
    recompute::stored,
    rollup::{
        Rollup,
        source::{self, Lab},
    },
};

/// How many labs an error message names if none can be repaired.
const EXAMPLES: usize = 3;

/// Which days to repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Days {
    /// These calendar days of each lab, first and last included.
    Range(NaiveDate, NaiveDate),
    /// For each lab, what was yesterday at this moment.
    YesterdayAt(DateTime<Utc>),
}

/// The days to repair for each lab, and the labs left out, with the reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Plan {
    /// Each lab with its days, oldest first.
    #[serde(serialize_with = "super::labs_as_objects")]
    pub labs: LabDays,
    /// Labs that are left out.
    pub left_out: Vec<LeftOut>,
    /// Labs whose days begin later or end earlier than requested.
    pub clipped: Vec<Clipped>,
    /// Whether some of those are left out because their zone or their first bill cannot be used, and not because they
    /// have nothing to repair.
    #[serde(skip)]
    pub has_unusable: bool,
    /// Labs whose Historical View is off, included because they were named.
    pub disabled: Vec<i64>,
    /// Examples of facts whose day is unknown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

/// A lab that is left out.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LeftOut {
    /// The lab.
    pub lab: i64,
    /// Why.
    pub why: String,
}

/// A lab that has neither bills nor rows on the first requested days, or where the last requested day is not over.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Clipped {
    /// The lab.
    pub lab: i64,
    /// The day on which its repair begins, if later than requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_day: Option<NaiveDate>,
    /// The day on which its repair ends, if earlier than requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_day: Option<NaiveDate>,
}

/// The days to repair of one lab.
#[derive(Debug)]
struct Found {
    days: Vec<NaiveDate>,
    clipped: Option<Clipped>,
}

/// Why a lab has no days to repair.
#[derive(Debug)]
enum NoDays {
    /// There is nothing to repair.
    NotNeeded(String),
    /// Its zone or its first bill cannot be used.
    Unusable(String),
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The request does not fit a named lab.
    #[error("{0}")]
    Refused(String),
    /// No lab fits the request.
    #[error("no lab can be repaired: {0}")]
    NoLab(String),
    /// A database error.
    #[error("cannot plan the repair")]
    Database(#[from] DbError),
}

/// Plans a repair of `labs`, or, if empty, of all enabled labs.
pub async fn plan(db: &Db, rollup: &Rollup, labs: &[i64], days: Days, now: DateTime<Utc>) -> Result<Plan, PlanError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let known = source::labs(&mut tx, rollup).await?;
    let are_named = !labs.is_empty();
    let labs = if are_named { named(&known, labs)? } else { known.iter().filter(|lab| lab.enabled).collect() };
    let zones = labs.iter().filter_map(|lab| lab.zone().ok());
    let over = Over { now, anywhere: zones.map(|zone| zone.yesterday(now)).max() };
    let mut plan = Plan::default();
    for lab in labs {
        match days_of(&mut tx, rollup, lab, days, over).await? {
            Ok(found) => {
                plan.clipped.extend(found.clipped);
                plan.labs.push((lab.id, found.days));
                plan.disabled.extend((!lab.enabled).then_some(lab.id));
            }
            Err(NoDays::NotNeeded(why) | NoDays::Unusable(why)) if are_named => {
                return Err(PlanError::Refused(format!("lab {}: {why}", lab.id)));
            }
            Err(NoDays::NotNeeded(why)) => plan.left_out.push(LeftOut { lab: lab.id, why }),
            Err(NoDays::Unusable(why)) => {
                plan.left_out.push(LeftOut { lab: lab.id, why });
                plan.has_unusable = true;
            }
        }
    }
    if plan.labs.is_empty() {
        return Err(PlanError::NoLab(why_none(&plan.left_out)));
    }
    Ok(plan)
}

/// The labs with these ids, each once.
fn named<'a>(known: &'a [Lab], ids: &[i64]) -> Result<Vec<&'a Lab>, PlanError> {
    let mut labs: Vec<&Lab> = Vec::new();
    for id in ids {
        let lab = known.iter().find(|lab| lab.id == *id);
        let lab = lab.ok_or_else(|| PlanError::Refused(format!("lab {id} does not exist")))?;
        if labs.iter().all(|chosen| chosen.id != lab.id) {
            labs.push(lab);
        }
    }
    Ok(labs)
}

/// Which days are over.
#[derive(Debug, Clone, Copy)]
struct Over {
    now: DateTime<Utc>,
    /// The last day that is over in any of the labs.
    anywhere: Option<NaiveDate>,
}

/// Why no lab can be repaired: the reasons of the first few.
fn why_none(left_out: &[LeftOut]) -> String {
    if left_out.is_empty() {
        return "none is enabled".to_owned();
    }
    let lab = |LeftOut { lab, why }: &LeftOut| format!("lab {lab}: {why}");
    let mut why: Vec<String> = left_out.iter().take(EXAMPLES).map(lab).collect();
    if left_out.len() > EXAMPLES {
        why.push(format!("and {} more labs", left_out.len() - EXAMPLES));
    }
    why.join("; ")
}

async fn days_of(
    tx: &mut Tx,
    rollup: &Rollup,
    lab: &Lab,
    days: Days,
    over: Over,
) -> Result<Result<Found, NoDays>, DbError> {
    let not_needed = |why| Ok(Err(NoDays::NotNeeded(why)));
    let unusable = |why| Ok(Err(NoDays::Unusable(why)));
    let zone = match lab.zone() {
        Ok(zone) => zone,
        Err(error) => return unusable(error.to_string()),
    };
    let (first, last) = match days {
        Days::Range(first, last) => (first, last),
        Days::YesterdayAt(at) => {
            let day = zone.yesterday(at);
            (day, day)
        }
    };
    let yesterday = zone.yesterday(over.now);
    let end = last.min(yesterday);
    if end < last && (end < first || Some(last) > over.anywhere) {
        return not_needed(format!("{last} is not over yet (its last closed day is {yesterday}, in {})", zone.name()));
    }
    // Days with rows are repaired even before the first bill: superfluous rows are removed.
    let row = stored::next_day(tx, rollup, lab.id, first).await?;
    let begin = if row == Some(first) {
        first
    } else {
        let bill = match source::first_fact(tx, rollup, lab.id).await {
            Err(error) if error.is_bad_data() => return unusable(chain(&error)),
            bill => bill?,
        };
        let bill = bill.map(|at| zone.date_of(at));
        let begin = bill.into_iter().chain(row).min().map(|day| day.max(first));
        let Some(begin) = begin.filter(|day| *day <= end) else {
            let why = |bill| format!("{} is before its first bill ({bill})", span(first, end));
            return not_needed(bill.map_or_else(|| "it has no bills".to_owned(), why));
        };
        begin
    };
    let days: Vec<_> = zone.dates(begin, end).collect();
    if days.is_empty() {
        return not_needed(format!("{} does not exist in {}", span(begin, end), zone.name()));
    }
    let (first_day, last_day) = ((begin > first).then_some(begin), (end < last).then_some(end));
    let is_clipped = first_day.or(last_day).is_some();
    Ok(Ok(Found { days, clipped: is_clipped.then_some(Clipped { lab: lab.id, first_day, last_day }) }))
}

/// Enqueues a plan as one repair run; returns its id.
pub async fn enqueue(
    db: &Db,
    rollup: &Rollup,
    plan: &Plan,
    requested_by: &str,
    now: DateTime<Utc>,
    limits: JobLimits,
) -> Result<i64, DbError> {
    let (labs, days) = super::describe(&plan.labs);
    let run = NewRun {
        reason: format!("repair of {labs}, {days}"),
        requested_by: requested_by.to_owned(),
        ..NewRun::new(JobKind::Repair, &rollup.name, now, plan.labs.clone(), limits)
    };
    retry("enqueue repair", || async {
        let mut tx = db.begin(Mode::Write).await?;
        let id = super::create(&mut tx, &run).await?;
        tx.commit().await?;
        Ok(id)
    })
    .await
}
