//! Late changes: daymend's own triggers, and whether their marks are processed.
//!
//! The server leaves out triggers that the user has no privilege to see: they are not checked then, and
//! `grants.unseen` says so.

use chrono::Duration;

use super::{Check, Findings, Severity, Site, examples, grants, look};
use crate::{
    db::{DbError, Mode},
    scheduler::dirty,
    triggers,
};

pub(super) const CHECKS: &[Check] = &[
    Check::new("triggers.own", Severity::Warning, "daymend's own triggers", look!(own)),
    Check::new("queue.marks", Severity::Warning, "marks of late changes", look!(marks)).of_daymend(),
];

/// How long a mark may wait for a scheduler, which looks every second.
const MARK_MAX: Duration = Duration::minutes(15);

async fn own(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    for watch in site.rollups.iter().filter_map(|rollup| rollup.watch.as_ref()) {
        let tables: Vec<&str> = watch.tables().iter().map(|watched| watched.table).collect();
        if !grants::sees_triggers(site, &tables).await? {
            findings.is_blind = true;
            continue;
        }
        let mut tx = site.db.begin(Mode::Snapshot).await?;
        let wanting = triggers::wanting(&mut tx, watch).await?;
        tx.rollback().await?;
        if !wanting.is_empty() {
            let what = format!(
                "{} of daymend's triggers are missing, or differ from this version's: late changes are not noticed",
                wanting.len()
            );
            findings.add(examples(&wanting), what, "daymend triggers install");
        }
    }
    Ok(())
}

async fn marks(site: &Site<'_>, findings: &mut Findings) -> Result<(), DbError> {
    let mut tx = site.db.begin(Mode::Snapshot).await?;
    let age = Duration::microseconds(dirty::oldest_us(&mut tx).await?.unwrap_or(0));
    tx.rollback().await?;
    if age > MARK_MAX {
        let what = format!("the oldest mark of a late change has waited for {} minutes", age.num_minutes());
        findings.add(
            "daymend_dirty",
            what,
            "start daymend scheduler (or serve); if one runs, its log says why the mark waits",
        );
    }
    Ok(())
}
