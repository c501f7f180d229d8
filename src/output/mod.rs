//! Output for people: tables, progress bars and colours.

/// Prints a message that is not part of the result to standard error. If nobody can read it, work goes on.
macro_rules! say {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($arg)*);
    }};
}
pub(crate) use say;

use std::{
    fmt::Display,
    sync::atomic::{AtomicBool, Ordering},
};

/// Whether messages other than results are written as JSON log lines.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// From now on, messages other than results are written as JSON log lines.
pub(crate) fn log_is_json() {
    IS_JSON.store(true, Ordering::Relaxed);
}

/// Reports progress: a line on standard error, or in the log if that is JSON.
pub(crate) fn tell(how_far: impl Display) {
    if IS_JSON.load(Ordering::Relaxed) {
        tracing::info!("{how_far}");
    } else {
        say!("{how_far}");
    }
}

pub(crate) mod bar;
pub(crate) mod calendar;
pub(crate) mod page;
pub(crate) mod table;
