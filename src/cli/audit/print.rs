//! What an audit found, for people and as JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    audit::{
        Sample,
        cause::{Cause, Finding},
        report::{DayReport, LabReport, Report},
    },
    calendar::span,
    cli::Global,
    output::{
        calendar::{self, Cell},
        page::Ink,
        table::{or_dash, table},
    },
    rollup::Rollup,
};

/// Maximum number of lines in the tables of days and of rows.
const LINES_MAX: usize = 40;

/// Maximum number of labs for which a calendar is printed.
const CALENDARS_MAX: usize = 20;

/// A day whose rows could not be compared.
const UNREADABLE: Cell = Cell { letter: '?', ink: Ink::Yellow };

/// Everything, for people.
pub(super) fn report(global: &Global, report: &Report, sample: Option<Sample>) {
    if let Some(sample) = sample {
        println!(
            "{} day(s) chosen at random; to choose the same ones again: --sample {} --seed {}",
            report.days_audited(),
            sample.days,
            sample.seed
        );
    }
    for lab in &report.labs {
        for problem in &lab.problems {
            let days = problem.first.zip(problem.last).map(|(first, last)| format!(", {}", span(first, last)));
            let what = format!("lab {}{} cannot be audited: {}", lab.lab, days.unwrap_or_default(), problem.why);
            global.warn(what);
        }
    }
    if !report.is_clean() {
        calendars(report);
        days(report);
        event_types(report);
        labs(report);
    }
    println!("{}", verdict(report));
}

fn verdict(report: &Report) -> String {
    let labs = report.labs.iter().filter(|lab| lab.days_audited > 0).count();
    let days = report.days_audited();
    if report.is_clean() && days == 0 {
        return "nothing was compared: no day of any lab could be audited".to_owned();
    }
    if report.is_clean() {
        let except: Vec<String> = report.except.iter().map(|cause| cause.title()).collect();
        let except = if except.is_empty() { String::new() } else { format!(" (except for: {})", except.join(", ")) };
        return format!("clean: every row of {days} day(s) of {labs} lab(s) equals its source{except}");
    }
    let drifted = report.labs.iter().filter(|lab| !lab.days.is_empty()).count();
    format!(
        "drift: {} row(s) on {} of {days} day(s), in {drifted} of {labs} lab(s)",
        report.differences(),
        report.days_drifted()
    )
}

fn cell(cause: Cause) -> Cell {
    let (letter, ink) = match cause {
        Cause::Ghost => ('g', Ink::Red),
        Cause::Missing => ('m', Ink::Red),
        Cause::WrongCount => ('c', Ink::Red),
        Cause::WrongDay => ('w', Ink::Magenta),
        Cause::NullDimension => ('n', Ink::Yellow),
        Cause::Duplicate => ('d', Ink::Yellow),
        Cause::OutOfRange => ('o', Ink::Cyan),
        Cause::LabDisabled => ('x', Ink::Blue),
        Cause::UnknownLab => ('u', Ink::Blue),
    };
    Cell { letter, ink }
}

/// The cell of a day: the letter of its most frequent cause, a capital if there are other causes too.
fn cell_of(day: &DayReport) -> Cell {
    let causes = day.causes();
    let most = causes.iter().max_by_key(|(_, count)| **count).map_or(Cause::Ghost, |(cause, _)| *cause);
    let Cell { letter, ink } = cell(most);
    Cell { letter: if causes.len() > 1 { letter.to_ascii_uppercase() } else { letter }, ink }
}

fn calendars(report: &Report) {
    let drifted = || report.labs.iter().filter(|lab| !lab.days.is_empty());
    for lab in drifted().take(CALENDARS_MAX) {
        println!("lab {}{}: {} day(s) drifted", lab.lab, title(lab), lab.days.len());
        let mut special: BTreeMap<_, _> = lab.days.iter().map(|day| (day.day, cell_of(day))).collect();
        for (first, last) in lab.problems.iter().filter_map(|problem| problem.first.zip(problem.last)) {
            special.extend(crate::calendar::dates(first, last).map(|day| (day, UNREADABLE)));
        }
        for line in calendar::lines(&lab.ranges, &special) {
            println!("  {line}");
        }
    }
    if let Some(more @ 1..) = drifted().count().checked_sub(CALENDARS_MAX) {
        println!("and {more} more lab(s) with drift");
    }
    let causes = report.causes().into_keys().map(|cause| format!("{} {cause}", cell(cause).styled()));
    let legend: Vec<String> = causes.collect();
    println!("  {} right   {}   (a capital: other causes as well)\n", calendar::RIGHT.styled(), legend.join("   "));
}

fn title(lab: &LabReport) -> String {
    match lab.time_zone {
        Some(zone) => format!(" ({zone})"),
        None if lab.standing == "disabled" => " (Historical View off)".to_owned(),
        None => format!(" ({})", lab.standing),
    }
}

/// One line per day and cause.
fn days(report: &Report) {
    let mut table = table(&[">lab", "day", "cause", ">rows", "~event types", "~for example"]);
    let days = report.labs.iter().flat_map(|lab| lab.days.iter().map(move |day| (lab.lab, day)));
    let lines: Vec<_> = days
        .flat_map(|(lab, day)| day.causes().into_iter().map(move |(cause, rows)| (lab, day, cause, rows)))
        .collect();
    for (lab, day, cause, rows) in lines.iter().take(LINES_MAX) {
        let example = day.rows.iter().find(|row| row.cause == *cause).map(example);
        table.add_row([
            lab.to_string(),
            day.day.to_string(),
            cause.to_string(),
            rows.to_string(),
            some_of(&day.event_types(Some(*cause))),
            or_dash(example),
        ]);
    }
    println!("{table}");
    if let Some(more @ 1..) = lines.len().checked_sub(LINES_MAX) {
        println!("and {more} more (--json has all of them)");
    }
}

/// The most frequent of some event types.
fn some_of(event_types: &BTreeMap<&str, u64>) -> String {
    let mut sorted: Vec<_> = event_types.iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let mut text: Vec<String> = sorted.iter().take(3).map(|(name, count)| format!("{name} {count}")).collect();
    if sorted.len() > 3 {
        text.push(format!("{} more", sorted.len() - 3));
    }
    text.join(", ")
}

fn example(row: &Finding) -> String {
    let dimension = |value: Option<i64>| value.map_or_else(|| "NULL".to_owned(), |value| value.to_string());
    let what = match (row.stored, row.expected) {
        (Some(stored), Some(expected)) => format!("{stored}, should be {expected}"),
        (Some(stored), None) => format!("{stored}, should not be there"),
        (None, expected) => format!("not there, should be {}", or_dash(expected)),
    };
    format!("{} {}/{}: {what}", row.event_type, dimension(row.dimension_a), dimension(row.dimension_b))
}

fn event_types(report: &Report) {
    let causes: Vec<Cause> = report.causes().into_keys().collect();
    let headings: Vec<String> = causes.iter().map(|cause| format!(">{cause}")).collect();
    let mut headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    headings.insert(0, "event type");
    let mut table = table(&headings);
    let counts = report.counts();
    let names: BTreeSet<&str> = counts.keys().map(|(_, name)| *name).collect();
    for name in names {
        let count = |cause: &Cause| counts.get(&(*cause, name)).map_or_else(String::new, ToString::to_string);
        let cells = std::iter::once(name.to_owned()).chain(causes.iter().map(count));
        table.add_row(cells.collect::<Vec<_>>());
    }
    println!("{table}");
}

fn labs(report: &Report) {
    let mut table = table(&[">lab", "time zone", ">days", ">drifted", ">rows", "~causes"]);
    let drifted = || report.labs.iter().filter(|lab| !lab.days.is_empty());
    for lab in drifted().take(LINES_MAX) {
        let mut causes: BTreeMap<String, u64> = BTreeMap::new();
        for (cause, count) in lab.days.iter().flat_map(DayReport::causes) {
            *causes.entry(cause.title()).or_default() += count;
        }
        table.add_row([
            lab.lab.to_string(),
            or_dash(lab.time_zone),
            lab.days_audited.to_string(),
            lab.days.len().to_string(),
            lab.differences().to_string(),
            causes.iter().map(|(cause, count)| format!("{cause} {count}")).collect::<Vec<_>>().join(", "),
        ]);
    }
    println!("{table}");
    if let Some(more @ 1..) = drifted().count().checked_sub(LINES_MAX) {
        println!("and {more} more lab(s) (--json has all of them)");
    }
}

/// What to do about rows that no recompute can correct.
pub(super) fn beyond_repair(rollup: &Rollup, lab: i64, cause: Cause, rows: u64, days: u64) -> String {
    let s = &rollup.summary;
    let delete = format!("DELETE FROM {} WHERE {} = {lab}", s.table, s.lab);
    let what = match cause {
        Cause::LabDisabled => "its Historical View is off, and a recompute would keep them",
        _ => "there is no such lab, and a job for it would be discarded",
    };
    let instead = match cause {
        Cause::LabDisabled => format!("switch it on and rebuild, or: {delete}"),
        _ => delete,
    };
    format!("lab {lab}: {rows} row(s) on {days} day(s) are not repaired: {what}; {instead}")
}

/// Everything, for machines.
pub(in crate::cli) fn json(report: &Report) -> Value {
    json!({
        "as_of": report.as_of,
        "is_clean": report.is_clean(),
        "is_complete": report.is_complete(),
        "days_audited": report.days_audited(),
        "days_drifted": report.days_drifted(),
        "differences": report.differences(),
        "causes": causes(report.causes()),
        "rows_held_max": report.rows_held_max,
        "labs": report.labs.iter().map(lab).collect::<Vec<_>>(),
    })
}

fn lab(lab: &LabReport) -> Value {
    json!({
        "lab": lab.lab,
        "standing": lab.standing,
        "time_zone": lab.time_zone,
        "days_audited": lab.days_audited,
        "days_drifted": lab.days.len(),
        "differences": lab.differences(),
        "problems": lab.problems,
        "days": lab.days.iter().map(day).collect::<Vec<_>>(),
    })
}

fn day(day: &DayReport) -> Value {
    json!({
        "day": day.day,
        "differences": day.differences(),
        "causes": causes(day.causes()),
        "event_types": day.event_types(None),
        "rows": day.rows,
    })
}

fn causes(counts: BTreeMap<Cause, u64>) -> BTreeMap<&'static str, u64> {
    counts.into_iter().map(|(cause, count)| (cause.name(), count)).collect()
}
