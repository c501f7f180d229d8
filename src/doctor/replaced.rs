//! What daymend replaces: the lab system's events, and its delta triggers.
//!
//! The server silently leaves out triggers and events that the user has no privilege to see; `grants.unseen` says so.

use super::{Check, Findings, Severity, Site, catalogue, examples, look};
use crate::{
    args,
    db::{
        DbError, Dialect, Mode,
        scan::{tokens, writes},
    },
    statement,
    triggers::{self, Existing},
};

pub(super) const CHECKS: &[Check] = &[
    Check::new(
        "events.migration",
        Severity::Error,
        "the old migration event",
        look!(event, "operation_summary_migration_event", "it empties a lab's history before it fills it again"),
    )
    .mysql(),
    Check::new(
        "events.nightly",
        Severity::Warning,
        "the old nightly event",
        look!(event, "operation_summary_nightly_event", "it does daymend's work a second time, and loses days"),
    )
    .mysql(),
    Check::new("triggers.delta", Severity::Note, "triggers", look!(triggers, false)),
    Check::new("triggers.delta_insert", Severity::Warning, "triggers", look!(triggers, true)),
];

statement!(
    Doctor: EVENTS,
    "doctor events",
    mysql only: "SELECT event_schema, event_name FROM information_schema.events
         WHERE event_schema = DATABASE() AND event_name = ? AND status = 'ENABLED' LIMIT 100"
);

async fn event(site: &Site<'_>, name: &str, why: &str, findings: &mut Findings) -> Result<(), DbError> {
    for (schema, name) in site.read(&EVENTS, args![name], |row| Ok((row.text(0)?, row.text(1)?))).await? {
        let disable = format!("ALTER EVENT {}.{} DISABLE;", catalogue::quoted(&schema), catalogue::quoted(&name));
        findings.add(format!("{schema}.{name}"), format!("is still enabled: {why}"), disable);
    }
    Ok(())
}

async fn triggers(site: &Site<'_>, on_insert: bool, findings: &mut Findings) -> Result<(), DbError> {
    let (inserting, others): (Vec<_>, Vec<_>) =
        delta_triggers(site).await?.into_iter().partition(|trigger| trigger.event() == "INSERT");
    if on_insert {
        for trigger in inserting {
            findings.add(
                format!("{} on {}", trigger.name, trigger.table),
                "counts inserted rows in the summary: one of a closed day may be lost if that day is recomputed at the \
                 same moment",
                format!("DROP TRIGGER {}; (daymend audit finds late bills)", catalogue::quoted(&trigger.name)),
            );
        }
    } else if !others.is_empty() {
        let names = others.iter().map(|trigger| format!("{} on {}", trigger.name, trigger.table));
        findings.add(
            examples(names),
            "the lab system's triggers write to the summary too: recomputes stay exact, but the triggers' counts drift",
            "they may stay; daymend audit finds what has drifted",
        );
    }
    Ok(())
}

/// Triggers that write to a summary table, directly or through a procedure; daymend's own write to none.
pub(super) async fn delta_triggers(site: &Site<'_>) -> Result<Vec<Existing>, DbError> {
    let mut deltas = Vec::new();
    let mut tx = site.db.begin(Mode::Snapshot).await?;
    let triggers = triggers::list(&mut tx).await?;
    tx.rollback().await?;
    for rollup in site.rollups.iter() {
        let table = &rollup.summary.table;
        let routines: Vec<String> = catalogue::routines(site, table)
            .await?
            .into_iter()
            .filter(|(_, body)| writes(&tokens(body, Some(Dialect::MySql)), table))
            .map(|(name, _)| name)
            .collect();
        for trigger in &triggers {
            let tokens = trigger.tokens();
            let writes = writes(&tokens, table) || routines.iter().any(|routine| calls(&tokens, routine));
            if writes && !trigger.table.eq_ignore_ascii_case(table) && !deltas.contains(trigger) {
                deltas.push(trigger.clone());
            }
        }
    }
    Ok(deltas)
}

/// Whether a body calls a procedure.
fn calls(tokens: &[String], routine: &str) -> bool {
    tokens.iter().enumerate().filter(|(_, token)| token.eq_ignore_ascii_case("CALL")).any(|(at, _)| {
        let name = if tokens.get(at + 2).is_some_and(|dot| dot == ".") { at + 3 } else { at + 1 };
        tokens.get(name).is_some_and(|name| name.eq_ignore_ascii_case(routine))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_procedure_may_be_in_between() {
        let calls_bump = |body| calls(&tokens(body, Some(Dialect::MySql)), "bump");
        assert!(calls_bump("BEGIN CALL lab.bump(NEW.id); END"));
        assert!(calls_bump("CALL `bump`(1)"));
        assert!(!calls_bump("CALL other(bump)"));
    }
}
