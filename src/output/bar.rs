//! Progress of long work: a bar on a terminal, plain lines otherwise.

use std::{
    fmt,
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::{page::is_terminal, tell};

/// How often a plain line is printed.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Rows read and their rate.
#[derive(Debug)]
pub(crate) struct Rows {
    bar: ProgressBar,
    title: String,
    is_terminal: bool,
    begun: Instant,
    printed: Instant,
}

impl Rows {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        let title = title.into();
        let is_terminal = is_terminal(&std::io::stderr());
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target).with_prefix(title.clone());
        if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos} rows  {rate}{left}  {msg}") {
            bar.set_style(style.with_key("rate", write_rate).with_key("left", write_left));
        }
        let now = Instant::now();
        Self { bar, title, is_terminal, begun: now, printed: now }
    }

    /// Shows `rows` of about `expected`, which is 0 if unknown.
    pub(crate) fn update(&mut self, rows: u64, expected: u64, what: &str) {
        if expected > 0 {
            self.bar.set_length(expected.max(rows));
        }
        self.bar.set_position(rows);
        self.bar.set_message(what.to_owned());
        if !self.is_terminal && self.printed.elapsed() >= LINE_EVERY {
            self.printed = Instant::now();
            let of = if expected > 0 { format!(" of about {}", expected.max(rows)) } else { String::new() };
            let speed = speed(rows, expected, self.begun.elapsed());
            let what = if what.is_empty() { String::new() } else { format!(", {what}") };
            tell(format_args!("{}: {rows}{of} rows, {speed}{what}", self.title));
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Days or jobs done, their rate and the time left.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    title: String,
    unit: &'static str,
    is_terminal: bool,
    begun: Instant,
    printed: Instant,
}

impl Bar {
    /// A bar that counts `unit`, such as `days`.
    pub(crate) fn new(title: impl Into<String>, unit: &'static str) -> Self {
        let title = title.into();
        let is_terminal = is_terminal(&std::io::stderr());
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target).with_prefix(title.clone());
        let template = format!("{{prefix}} {{wide_bar}} {{pos}}/{{len}} {unit}  {{rate}}{{left}}  {{msg}}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.with_key("rate", write_rate).with_key("left", write_left));
        }
        let now = Instant::now();
        Self { bar, title, unit, is_terminal, begun: now, printed: now }
    }

    pub(crate) fn update(&mut self, ended: u64, total: u64) {
        self.update_noting(ended, total, 0, "");
    }

    /// Like [`update`](Self::update), with the number of them that `note` applies to.
    pub(crate) fn update_noting(&mut self, ended: u64, total: u64, noted: u64, note: &str) {
        self.bar.set_length(total);
        self.bar.set_position(ended);
        if noted > 0 {
            self.bar.set_message(format!("{noted} {note}"));
        }
        if !self.is_terminal && self.printed.elapsed() >= LINE_EVERY {
            self.printed = Instant::now();
            let speed = speed(ended, total, self.begun.elapsed());
            let noted = if note.is_empty() { String::new() } else { format!(", {noted} {note}") };
            tell(format_args!("{}: {ended}/{total} {}, {speed}{noted}", self.title, self.unit));
        }
    }

    /// Removes the bar; returns how many were done, and how long that took.
    pub(crate) fn finish(&self) -> (u64, Duration) {
        self.bar.finish_and_clear();
        (self.bar.position(), self.begun.elapsed())
    }
}

/// The rate, and the estimated time left if that is known.
fn speed(ended: u64, total: u64, elapsed: Duration) -> String {
    let rate = ended as f64 / elapsed.as_secs_f64();
    if ended == 0 {
        return "0 a second".to_owned();
    }
    let left = Duration::from_secs_f64((total.saturating_sub(ended) as f64 / rate).round());
    let left = if total > ended { format!(", {} left", humantime::format_duration(left)) } else { String::new() };
    format!("{} a second{left}", rounded(rate))
}

/// A rate for display: with a decimal only if it is low.
fn rounded(rate: f64) -> String {
    if rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

fn write_rate(state: &ProgressState, to: &mut dyn fmt::Write) {
    let _ = write!(to, "{}/s", rounded(state.per_sec()));
}

/// Writes nothing while the time left is unknown.
fn write_left(state: &ProgressState, to: &mut dyn fmt::Write) {
    if state.pos() > 0 && state.len().is_some() {
        let _ = write!(to, "  {:#} left", HumanDuration(state.eta()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_said_where_it_is_known() {
        let after = Duration::from_secs;
        assert_eq!(speed(0, 189, after(5)), "0 a second");
        assert_eq!(speed(3, 189, after(5)), "0.6 a second, 5m 10s left");
        assert_eq!(speed(3317, 3317, after(10)), "332 a second");
        assert_eq!(speed(3317, 0, after(10)), "332 a second", "nobody knows of how many");
    }
}
