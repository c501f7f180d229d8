//! The clock.
//!
//! Every decision that depends on the time takes a [`Clock`], so that `--now` and the tests can fix it; `clippy.toml`
//! forbids `Utc::now` elsewhere. Leases, backoff and everything else in the queue use the database's clock instead
//! (the `{now}` tokens of [`crate::db::Dialect`]), so that two clocks never mix.

use chrono::{DateTime, Utc};

/// The clock of the scheduler and of the ad-hoc commands.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// The machine's clock.
    System,
    /// One fixed moment (`--now`).
    Fixed(DateTime<Utc>),
}

impl Clock {
    /// The present moment, but not later than `theirs`, another clock's; a fixed moment is returned as it is.
    #[must_use]
    pub fn at_most(&self, theirs: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::System => self.now().min(theirs),
            Self::Fixed(at) => *at,
        }
    }

    /// The present moment, in UTC.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        match self {
            #[expect(clippy::disallowed_methods, reason = "this is the clock")]
            Self::System => Utc::now(),
            Self::Fixed(at) => *at,
        }
    }
}
