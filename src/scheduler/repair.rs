//! What an operator asks for: the repair of some days.
//!
//! A request becomes a plan first, which `--dry-run` prints and which is otherwise enqueued.
//! Of each lab the span begins with its first bill or row, which is said where it is later than what was asked
//! for. Labs that were named have to have such a day, or nothing is enqueued; where all enabled labs are meant,
//! those without are left out, and said so.

use chrono::{DateTime, NaiveDate, Utc};

use crate::{
    calendar::span,
    db::{Db, DbError, Mode, Tx, retry},
    error::chain,
    queue::JobKind,
    recompute::{shrink::MaxShrink, stored},
    rollup::{
        Rollup,
        source::{self, Lab},
    },
    runs::{self, LabDays, NewRun},
};

/// How many labs a refusal names where none can be repaired.
const EXAMPLES: usize = 3;

/// Which days to repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Days {
    /// These calendar days of each lab, both ends included.
    Range(NaiveDate, NaiveDate),
    /// Of each lab what was yesterday at this moment.
    YesterdayAt(DateTime<Utc>),
}

/// The days to repair of each lab, and the labs left out with the reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Plan {
    /// Each lab with its days, oldest first.
    #[serde(serialize_with = "runs::labs_as_objects")]
    pub labs: LabDays,
    /// Labs that are left out.
    pub left_out: Vec<LeftOut>,
    /// Labs whose days begin later than asked for.
    pub clipped: Vec<Clipped>,
    /// Labs whose Historical View is off, planned because they were named.
    pub disabled: Vec<i64>,
    /// Facts whose day nobody knows, as far as they are named.
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

/// A lab that has neither bills nor rows on the first days that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Clipped {
    /// The lab.
    pub lab: i64,
    /// The day with which it begins.
    pub first_day: NaiveDate,
}

impl Plan {
    fn add(&mut self, lab: i64, days: Found) {
        self.clipped.extend(days.clipped_to.map(|first_day| Clipped { lab, first_day }));
        self.labs.push((lab, days.days));
    }
}

/// The days of a lab.
#[derive(Debug)]
struct Found {
    days: Vec<NaiveDate>,
    /// With which of them it begins, where that is later than asked for.
    clipped_to: Option<NaiveDate>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The request does not fit a lab that was named.
    #[error("{0}")]
    Refused(String),
    /// No lab fits the request.
    #[error("no lab can be repaired: {0}")]
    NoLab(String),
    /// The database.
    #[error("cannot plan the repair")]
    Database(#[from] DbError),
}

/// Plans a repair of `labs`, or of all enabled labs where none is named.
pub async fn plan(db: &Db, rollup: &Rollup, labs: &[i64], days: Days, now: DateTime<Utc>) -> Result<Plan, PlanError> {
    let mut tx = db.begin(Mode::Snapshot).await?;
    let known = source::labs(&mut tx, rollup).await?;
    let mut plan = Plan::default();
    if labs.is_empty() {
        for lab in known.iter().filter(|lab| lab.enabled) {
            match days_of(&mut tx, rollup, lab, days, now).await? {
                Ok(days) => plan.add(lab.id, days),
                Err(why) => plan.left_out.push(LeftOut { lab: lab.id, why }),
            }
        }
        if plan.labs.is_empty() {
            return Err(PlanError::NoLab(why_none(&plan.left_out)));
        }
    } else {
        for id in labs {
            let Some(lab) = known.iter().find(|lab| lab.id == *id) else {
                return Err(PlanError::Refused(format!("lab {id} does not exist")));
            };
            match days_of(&mut tx, rollup, lab, days, now).await? {
                Ok(_) if plan.labs.iter().any(|(known, _)| known == id) => {}
                Ok(days) => {
                    plan.add(*id, days);
                    plan.disabled.extend((!lab.enabled).then_some(lab.id));
                }
                Err(why) => return Err(PlanError::Refused(format!("lab {id}: {why}"))),
            }
        }
    }
    Ok(plan)
}

/// Why no lab can be repaired, by the first of them.
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
    now: DateTime<Utc>,
) -> Result<Result<Found, String>, DbError> {
    let zone = match lab.zone() {
        Ok(zone) => zone,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let (first, last) = match days {
        Days::Range(first, last) => (first, last),
        Days::YesterdayAt(at) => {
            let day = zone.yesterday(at);
            (day, day)
        }
    };
    let yesterday = zone.yesterday(now);
    if last > yesterday {
        return Ok(Err(format!("{last} is not over yet (its last closed day is {yesterday}, in {})", zone.name())));
    }
    // Rows that are too many are removed, wherever they are.
    let row = stored::next_day(tx, rollup, lab.id, first).await?;
    let begin = if row == Some(first) {
        first
    } else {
        let bill = match source::first_fact(tx, rollup, lab.id).await {
            Err(error) if error.is_bad_data() => return Ok(Err(chain(&error))),
            bill => bill?,
        };
        let bill = bill.map(|at| zone.date_of(at));
        let begin = bill.into_iter().chain(row).min().map(|day| day.max(first));
        let Some(begin) = begin.filter(|day| *day <= last) else {
            let why = |bill| format!("{} is before its first bill ({bill})", span(first, last));
            return Ok(Err(bill.map_or_else(|| "it has no bills".to_owned(), why)));
        };
        begin
    };
    let days: Vec<_> = zone.dates(begin, last).collect();
    if days.is_empty() {
        return Ok(Err(format!("{} does not exist in {}", span(begin, last), zone.name())));
    }
    Ok(Ok(Found { days, clipped_to: (begin > first).then_some(begin) }))
}

/// Enqueues a plan as one repair run; its id.
pub async fn enqueue(
    db: &Db,
    rollup: &Rollup,
    plan: &Plan,
    requested_by: &str,
    now: DateTime<Utc>,
    attempts_max: u32,
    max_shrink: MaxShrink,
) -> Result<i64, DbError> {
    let (labs, days) = runs::describe(&plan.labs);
    let run = NewRun {
        rollup: rollup.name.clone(),
        kind: JobKind::Repair,
        reason: format!("repair of {labs}, {days}"),
        requested_by: requested_by.to_owned(),
        time_zone: None,
        lab_id: None,
        as_of: now,
        labs: plan.labs.clone(),
        attempts_max,
        max_shrink,
    };
    retry("enqueue repair", || async {
        let mut tx = db.begin(Mode::Write).await?;
        let id = runs::create(&mut tx, &run).await?;
        tx.commit().await?;
        Ok(id)
    })
    .await
}
