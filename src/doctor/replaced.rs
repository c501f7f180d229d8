//! What daymend takes the place of: the lab system's events, and its delta triggers.
//!
//! Triggers and events that the user has no right to see are left out by the server, without a
//! word; `grants.unseen` says so.

use super::{Chart, Check, Patient, Severity, catalogue, catalogue::Trigger, examples, sql_text};
use crate::{args, db::DbError, statement};

pub(super) const CHECKS: &[Check] = &[
    Check::new("events.migration", Severity::Error, "the old migration event", |p| {
        Box::pin(event(p, "operation_summary_migration_event", "it empties a lab's history before it fills it again"))
    })
    .mysql(),
    Check::new("events.nightly", Severity::Warning, "the old nightly event", |p| {
        Box::pin(event(p, "operation_summary_nightly_event", "it does daymend's work a second time, and loses days"))
    })
    .mysql(),
    Check::new("triggers.delta", Severity::Note, "triggers", |p| Box::pin(triggers(p, false))),
    Check::new("triggers.delta_insert", Severity::Warning, "triggers", |p| Box::pin(triggers(p, true))),
];

statement!(
    EVENTS,
    "doctor events (mysql)",
    "SELECT event_schema, event_name FROM information_schema.events
     WHERE event_schema = DATABASE() AND event_name = ? AND status = 'ENABLED' LIMIT 100"
);

async fn event(patient: &Patient<'_>, name: &str, why: &str) -> Result<Chart, DbError> {
    let mut chart = Chart::default();
    for (schema, name) in patient.read(&EVENTS, args![name], |row| Ok((row.text(0)?, row.text(1)?))).await? {
        let disable = format!("ALTER EVENT {}.{} DISABLE;", catalogue::quoted(&schema), catalogue::quoted(&name));
        chart.find(format!("{schema}.{name}"), format!("is still enabled: {why}"), disable);
    }
    Ok(chart)
}

async fn triggers(patient: &Patient<'_>, on_insert: bool) -> Result<Chart, DbError> {
    let mut chart = Chart::default();
    let (inserting, others): (Vec<_>, Vec<_>) =
        delta_triggers(patient).await?.into_iter().partition(|trigger| trigger.event == "INSERT");
    if on_insert {
        for trigger in inserting {
            chart.find(
                format!("{} on {}", trigger.name, trigger.table),
                "counts newly inserted rows in the summary: one of a closed day may be lost to a recompute of that moment",
                format!("DROP TRIGGER {}; (daymend audit finds late bills)", catalogue::quoted(&trigger.name)),
            );
        }
    } else if !others.is_empty() {
        let names = others.iter().map(|trigger| format!("{} on {}", trigger.name, trigger.table));
        chart.find(
            examples(names),
            "the lab system's triggers write to the summary too: recomputes are exact beside them, but they drift",
            "they may stay; daymend audit finds what has drifted",
        );
    }
    Ok(chart)
}

/// Triggers that write to a summary table, by themselves or through a procedure; daymend's own write
/// to none.
pub(super) async fn delta_triggers(patient: &Patient<'_>) -> Result<Vec<Trigger>, DbError> {
    let mut deltas = Vec::new();
    let triggers = catalogue::triggers(patient).await?;
    for rollup in patient.rollups.iter() {
        let table = &rollup.summary.table;
        let routines: Vec<String> = catalogue::routines(patient, table)
            .await?
            .into_iter()
            .filter(|(_, body)| writes(&sql_text::tokens(body), table))
            .map(|(name, _)| name)
            .collect();
        for trigger in &triggers {
            let tokens = sql_text::tokens(&trigger.body);
            let writes = writes(&tokens, table) || routines.iter().any(|routine| calls(&tokens, routine));
            if writes && !trigger.table.eq_ignore_ascii_case(table) && !deltas.contains(trigger) {
                deltas.push(trigger.clone());
            }
        }
    }
    Ok(deltas)
}

/// Whether a body inserts into a table, updates it or deletes from it.
fn writes(tokens: &[String], table: &str) -> bool {
    const BETWEEN: &[&str] = &[
        "INTO",
        "FROM",
        "IGNORE",
        "LOW_PRIORITY",
        "HIGH_PRIORITY",
        "DELAYED",
        "QUICK",
        "OR",
        "ABORT",
        "FAIL",
        "ROLLBACK",
    ];
    tokens.iter().enumerate().filter(|(_, token)| token.eq_ignore_ascii_case(table)).any(|(at, _)| {
        let mut before = tokens[..at].iter().rev().peekable();
        if before.next_if(|token| *token == ".").is_some() {
            before.next();
        }
        let verb = before.find(|token| !BETWEEN.iter().any(|word| token.eq_ignore_ascii_case(word)));
        verb.is_some_and(|verb| {
            ["INSERT", "REPLACE", "UPDATE", "DELETE"].iter().any(|word| verb.eq_ignore_ascii_case(word))
        })
    })
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

    fn writes_summary(body: &str) -> bool {
        writes(&sql_text::tokens(body), "summary")
    }

    #[test]
    fn only_writes_count() {
        for body in [
            "BEGIN INSERT INTO summary (a) VALUES (1); END",
            "insert ignore into lab.`summary` select 1",
            "UPDATE summary SET n = n - 1",
            "BEGIN IF 1 THEN DELETE FROM summary WHERE a = 1; END IF; END",
            "REPLACE summary VALUES (1)",
            "INSERT OR REPLACE INTO summary VALUES (1)",
        ] {
            assert!(writes_summary(body), "{body}");
        }
        for body in [
            "SELECT n FROM summary",
            "INSERT INTO other SELECT n FROM summary",
            "INSERT INTO daymend_dirty VALUES (NEW.id) -- UPDATE summary",
            "INSERT INTO log VALUES ('UPDATE summary')",
            "UPDATE summary_old SET n = 1",
        ] {
            assert!(!writes_summary(body), "{body}");
        }
    }

    #[test]
    fn a_procedure_may_be_in_between() {
        assert!(calls(&sql_text::tokens("BEGIN CALL lab.bump(NEW.id); END"), "bump"));
        assert!(calls(&sql_text::tokens("CALL `bump`(1)"), "bump"));
        assert!(!calls(&sql_text::tokens("CALL other(bump)"), "bump"));
    }
}
