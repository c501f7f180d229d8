//! How far long work is: a bar on a terminal, plain lines otherwise.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a plain line is printed.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Rows read and their rate.
#[derive(Debug)]
pub(crate) struct Rows {
    bar: ProgressBar,
    title: &'static str,
    is_terminal: bool,
    begun: Instant,
    printed: Instant,
}

impl Rows {
    pub(crate) fn new(title: &'static str) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target).with_prefix(title);
        if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos} rows  {per_sec}  {msg}") {
            bar.set_style(style);
        }
        let now = Instant::now();
        Self { bar, title, is_terminal, begun: now, printed: now }
    }

    /// So many rows of about so many; 0 where nobody knows.
    pub(crate) fn update(&mut self, rows: u64, expected: u64, what: &str) {
        if expected > 0 {
            self.bar.set_length(expected.max(rows));
        }
        self.bar.set_position(rows);
        self.bar.set_message(what.to_owned());
        if !self.is_terminal && self.printed.elapsed() >= LINE_EVERY {
            self.printed = Instant::now();
            let rate = rows as f64 / self.begun.elapsed().as_secs_f64();
            say!("{}: {rows} rows, {rate:.0} a second, {what}", self.title);
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Days done, their rate and the time left.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    title: String,
    is_terminal: bool,
    begun: Instant,
    printed: Instant,
}

impl Bar {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        let title = title.into();
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target).with_prefix(title.clone());
        if let Ok(style) =
            ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} days  {per_sec}  {eta} left  {msg}")
        {
            bar.set_style(style);
        }
        let now = Instant::now();
        Self { bar, title, is_terminal, begun: now, printed: now }
    }

    pub(crate) fn update(&mut self, ended: u64, total: u64, discarded: u64) {
        self.update_noting(ended, total, discarded, "discarded");
    }

    /// As [`update`](Self::update), where something else than discarded jobs is worth a note.
    pub(crate) fn update_noting(&mut self, ended: u64, total: u64, noted: u64, note: &str) {
        self.bar.set_length(total);
        self.bar.set_position(ended);
        if noted > 0 {
            self.bar.set_message(format!("{noted} {note}"));
        }
        if !self.is_terminal && self.printed.elapsed() >= LINE_EVERY {
            self.printed = Instant::now();
            let rate = ended as f64 / self.begun.elapsed().as_secs_f64();
            let left = total.saturating_sub(ended) as f64 / rate.max(0.001);
            say!("{}: {ended}/{total} days, {rate:.0} a second, {left:.0} s left, {noted} {note}", self.title);
        }
    }

    /// Takes the bar away; how many days were done, and how long that took.
    pub(crate) fn finish(&self) -> (u64, Duration) {
        self.bar.finish_and_clear();
        (self.bar.position(), self.begun.elapsed())
    }
}
