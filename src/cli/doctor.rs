//! `daymend doctor`.

use std::{error::Error, process::ExitCode, time::Duration};

use clap::Args;

use super::{Exit, Global, database_error, exit_of, print_json};
use crate::{
    clock::Clock,
    db::DbError,
    doctor::{self, Finding, Report, Severity, Site, fixes},
    error::chain,
    output::page::{Ink, has_colour, one_line, paint},
    scheduler::nightly::NightlyAt,
};

/// Options of `daymend doctor`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Print the DDL that keeps faults from coming back, for a DBA to apply, and what each statement would reject
    /// today; nothing is applied
    #[arg(long)]
    print_fixes: bool,

    /// When yesterday should be in the summary: the scheduler's --nightly-at
    #[arg(long, env = "DAYMEND_NIGHTLY_AT", default_value = "04:00 UTC", value_name = "TIME")]
    nightly_at: NightlyAt,

    /// How long runs are kept: the scheduler's --retention; 0s for ever
    #[arg(long, env = "DAYMEND_RETENTION", default_value = "90d", value_name = "TIME", value_parser = humantime::parse_duration)]
    retention: Duration,
}

impl Options {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let rollups = global.rollups()?;
        let db = match global.connect_bare(doctor::connect_options()).await {
            Ok(db) => db,
            Err(error) if !self.print_fixes && error.chain().any(<dyn Error>::is::<DbError>) => {
                let is_refused = database_error(&error).is_some_and(DbError::is_refused);
                let report = Report::unreachable(&chain(error.as_ref()), is_refused);
                return show(global, &report, exit_of(&error));
            }
            Err(error) => return Err(error),
        };
        // By the database's clock, so that errors of this machine's clock show.
        let now = match global.clock() {
            Clock::Fixed(at) => at,
            Clock::System => db.database_now().await?,
        };
        let site = Site {
            db: &db,
            rollups: &rollups,
            now,
            nightly_at: self.nightly_at,
            retention: (!self.retention.is_zero()).then_some(self.retention),
        };
        if self.print_fixes {
            let fixes = fixes::fixes(&site).await?;
            if global.json {
                print_json(&fixes)?;
            } else {
                print!("{}", fixes::script(&fixes));
            }
            return Ok(Exit::Ok.into());
        }
        let report = doctor::examine(&site).await;
        show(global, &report, exit(&report))
    }
}

/// The exit code for a report.
fn exit(report: &Report) -> Exit {
    if report.has(doctor::REACHABLE) {
        return Exit::Unavailable;
    }
    if report.findings.iter().any(|finding| finding.id == doctor::SCHEMA && finding.severity == Severity::Error) {
        return Exit::Schema;
    }
    match report.worst() {
        None | Some(Severity::Note) => Exit::Ok,
        Some(Severity::Warning) => Exit::Drift,
        Some(Severity::Error) => Exit::Failed,
    }
}

fn show(global: &Global, report: &Report, exit: Exit) -> anyhow::Result<ExitCode> {
    if global.json {
        let verdict = verdict(report);
        let mut value = serde_json::to_value(report)?;
        value["verdict"] = verdict.into();
        value["exit_code"] = (exit as u8).into();
        print_json(&value)?;
    } else {
        print!("{}", page(report, has_colour(&std::io::stdout())));
    }
    Ok(exit.into())
}

/// The whole page: the facts, each group with its findings, the verdict.
fn page(report: &Report, colour: bool) -> String {
    let mut page = String::new();
    for fact in &report.facts {
        page += &format!("{:<16}{}\n", fact.name, one_line(&fact.value));
    }
    if !report.facts.is_empty() {
        page.push('\n');
    }
    for (group, looked) in report.groups() {
        let findings: Vec<&Finding> = report.findings.iter().filter(|finding| finding.group == group).collect();
        let skipped = report.skipped.iter().filter(|(of, _)| *of == group).count();
        if looked + skipped + findings.len() == 0 {
            continue;
        }
        let state = match findings.iter().map(|finding| finding.severity).max() {
            Some(severity) => paint(&plural(findings.len(), "finding"), ink(severity), colour),
            None if looked > 0 => paint("ok", Ink::Green, colour),
            None => String::new(),
        };
        let left_out = if skipped > 0 { format!("{skipped} not looked at") } else { String::new() };
        let parts: Vec<&str> =
            [state.as_str(), left_out.as_str()].into_iter().filter(|part| !part.is_empty()).collect();
        page += &format!("{}: {}\n", paint(group, Ink::Bold, colour), parts.join(", "));
        for finding in findings {
            page += &line(finding, colour);
        }
    }
    let worst = report.worst().map_or(Ink::Green, ink);
    page + "\n" + &paint(&verdict(report), worst, colour) + "\n"
}

/// One line: how bad, where, what, and what to do.
fn line(finding: &Finding, colour: bool) -> String {
    let severity = paint(&format!("{:<8}", finding.severity.name()), ink(finding.severity), colour);
    let (place, what, advice) = (one_line(&finding.place), one_line(&finding.what), one_line(&finding.advice));
    let id = paint(&format!("[{}]", finding.id), Ink::Faint, colour);
    format!("  {severity} {place}: {what} → {} {id}\n", paint(&advice, Ink::Bold, colour))
}

fn ink(severity: Severity) -> Ink {
    match severity {
        Severity::Note => Ink::Faint,
        Severity::Warning => Ink::Yellow,
        Severity::Error => Ink::Red,
    }
}

fn plural(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

/// The summary line.
fn verdict(report: &Report) -> String {
    let counts: Vec<String> = [Severity::Error, Severity::Warning, Severity::Note]
        .into_iter()
        .map(|severity| (report.count(severity), severity))
        .filter(|(count, _)| *count > 0)
        .map(|(count, severity)| plural(count, severity.name()))
        .collect();
    let checks = plural(report.checked.len(), "check");
    let left_out = match report.skipped.len() {
        0 => String::new(),
        skipped => format!(", {skipped} more could not look"),
    };
    let worst = report.worst();
    match report.findings.iter().find(|finding| Some(finding.severity) == worst) {
        None => format!("All well: {checks}, nothing found{left_out}."),
        Some(_) if worst == Some(Severity::Note) => {
            format!("All well: {checks}, {} and nothing to do{left_out}.", counts.join(", "))
        }
        Some(first) => format!("{} in {checks}{left_out}. Begin with {}.", counts.join(", "), first.id),
    }
}
