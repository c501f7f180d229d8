//! An audit on request: compares every day of a plan, and returns a report.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::{
    Plan,
    cause::Cause,
    plan::{self, Range},
    report::{LabReport, Problem, Report},
    scope::{Standing, Subject},
    walk::{Walk, is_of_the_lab},
};
use crate::{
    db::{Db, DbError},
    error::chain,
    rollup::Rollup,
};

/// How to audit.
#[derive(Debug, Clone)]
pub struct Options {
    /// The moment to take as the present: days that are not over by then should have no rows.
    pub as_of: DateTime<Utc>,
    /// Causes that the caller wants ignored.
    pub except: BTreeSet<Cause>,
    /// How many differing rows the report shows individually; the others are only counted.
    pub rows_max: usize,
}

/// Audits the days of a plan. `progress` is called with the number of days done, and how many of them have drifted.
pub async fn run(
    db: &Db,
    rollup: &Rollup,
    plan: &Plan,
    options: &Options,
    mut progress: impl FnMut(u64, u64),
) -> Result<Report, DbError> {
    let mut report =
        Report { as_of: options.as_of, labs: Vec::new(), except: options.except.clone(), rows_held_max: 0 };
    let mut rows_left = options.rows_max;
    let (mut done, mut drifted) = (0, 0);
    for (subject, ranges) in &plan.labs {
        let mut lab = LabReport::new(subject, ranges);
        let mut walk = Walk::new(db, rollup, subject, ranges.clone(), options.as_of);
        loop {
            let step = match walk.next().await {
                Ok(Some(step)) => step,
                Ok(None) => break,
                Err(error) if is_of_the_lab(&error, db).await => {
                    lab.problems.push(Problem { first: None, last: None, why: chain(&error) });
                    break;
                }
                Err(error) => return Err(error),
            };
            let range: Range = (*step.days.start(), *step.days.end());
            report.rows_held_max = report.rows_held_max.max(step.rows_held);
            done += plan::length(&range);
            match step.outcome {
                Ok(findings) => {
                    lab.days_audited += plan::length(&range);
                    let concerning = findings.into_iter().filter(|finding| !options.except.contains(&finding.cause));
                    drifted += lab.add(concerning, &mut rows_left);
                }
                Err(why) => lab.problems.push(Problem { first: Some(range.0), last: Some(range.1), why }),
            }
            progress(done, drifted);
        }
        report.labs.push(lab);
    }
    Ok(report)
}

impl LabReport {
    fn new(subject: &Subject, ranges: &[Range]) -> Self {
        let (time_zone, problem) = match &subject.standing {
            Standing::Kept(zone) => (Some(zone.name()), None),
            Standing::Unusable(why) => (None, Some(why.clone())),
            Standing::Disabled | Standing::Unknown => (None, None),
        };
        let problems = problem.into_iter().map(|why| Problem { first: None, last: None, why }).collect();
        Self {
            lab: subject.lab_id,
            standing: subject.standing.name(),
            time_zone,
            ranges: ranges.to_vec(),
            days_audited: 0,
            days: Vec::new(),
            problems,
        }
    }
}
