//! When a day should be in the summary.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};

use crate::calendar::Zone;

/// When a day should be in the summary: `04:00 UTC`, or `01:30 local`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NightlyAt {
    /// At this time in UTC, every day, for the day that is then yesterday in each zone.
    Utc(NaiveTime),
    /// At this time on the lab's own clock.
    Local(NaiveTime),
}

impl FromStr for NightlyAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?} is not a time such as \"04:00 UTC\" or \"01:30 local\"");
        let (time, zone) = text.trim().split_once(' ').ok_or_else(expected)?;
        let time = NaiveTime::parse_from_str(time, "%H:%M").map_err(|_| expected())?;
        match zone.trim() {
            zone if zone.eq_ignore_ascii_case("utc") => Ok(Self::Utc(time)),
            zone if zone.eq_ignore_ascii_case("local") => Ok(Self::Local(time)),
            _ => Err(expected()),
        }
    }
}

impl fmt::Display for NightlyAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Utc(time) => write!(f, "{} UTC", time.format("%H:%M")),
            Self::Local(time) => write!(f, "{} local", time.format("%H:%M")),
        }
    }
}

impl NightlyAt {
    /// When the old nightly event ran.
    pub const DEFAULT: Self = Self::Utc(match NaiveTime::from_hms_opt(4, 0, 0) {
        Some(time) => time,
        None => NaiveTime::MIN,
    });

    /// The last day of `zone` that should be in the summary at `now`.
    #[must_use]
    pub fn due_day(&self, zone: Zone, now: DateTime<Utc>) -> NaiveDate {
        match self {
            Self::Utc(time) => {
                let today = now.date_naive().and_time(*time).and_utc();
                let tick = if today <= now { today } else { today - Days::new(1) };
                zone.yesterday(tick)
            }
            Self::Local(time) => {
                let today = zone.date_of(now);
                let at = zone.first_instant_at(today, *time);
                if at <= now {
                    zone.yesterday(now)
                } else {
                    zone.yesterday(zone.first_instant(today) - chrono::Duration::nanoseconds(1))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_policy_is_refused() {
        for text in ["4", "04:00", "25:00 UTC", "04:00 CET", ""] {
            assert!(text.parse::<NightlyAt>().is_err(), "{text:?}");
        }
    }
}
