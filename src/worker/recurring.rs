//! Errors that come back again and again.

use std::time::{Duration, Instant};

/// How often in a row, and for how long, an error has to come back before waiting for its end is given up.
const TIMES_MIN: u32 = 3;
const TIME_MIN: Duration = Duration::from_secs(5);

/// How often in a row something has failed for the same kind of reason, and since when.
#[derive(Debug, Default)]
pub(super) struct Recurring {
    /// How often.
    pub(super) times: u32,
    first: Option<Instant>,
}

impl Recurring {
    /// Counts an error; returns whether it has come back often enough, and for long enough, not to go away by itself.
    pub(super) fn add(&mut self) -> bool {
        self.times += 1;
        let first = *self.first.get_or_insert_with(Instant::now);
        self.times >= TIMES_MIN && first.elapsed() >= TIME_MIN
    }
}
