//! Calendar days of a time zone, as half-open intervals of UTC instants.
//!
//! A day is `[first instant of its date, first instant of the next date)`, where
//! the first instant of a date is the earliest one whose local date is that date
//! or later. That one rule covers every oddity:
//!
//! - midnight does not exist (Cairo in spring): the day starts when the clocks
//!   have jumped;
//! - midnight exists twice (Havana in autumn): the day starts at the first one;
//! - the clocks go back across midnight (St. John's until 2011: at 00:01): the
//!   minutes that read as the evening before belong to the day that had begun;
//! - a date does not exist (Samoa, 2011-12-30): its interval is empty.
//!
//! Invariant: the days of a zone tile time, so every instant is in exactly one of them. Everything here is pure, and
//! computed by chrono-tz from the compiled-in tz database, never by a database server, whose zone tables may be empty
//! or old.

use chrono::{DateTime, Days, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, TimeZone, Utc};
use chrono_tz::{GapInfo, Tz};

/// The earliest moment that a DATETIME can hold, in UTC.
pub const EARLIEST: NaiveDateTime = match NaiveDate::from_ymd_opt(1000, 1, 1) {
    Some(date) => date.and_time(NaiveTime::MIN),
    None => NaiveDateTime::MIN,
};

/// The first day for which summary rows may exist, right or wrong: a DATE may hold days before [`EARLIEST`].
pub const FIRST_DAY: NaiveDate = match NaiveDate::from_ymd_opt(1, 1, 1) {
    Some(date) => date,
    None => NaiveDate::MIN,
};

/// The last day that a DATE can hold.
pub const LAST_DAY: NaiveDate = match NaiveDate::from_ymd_opt(9999, 12, 31) {
    Some(date) => date,
    None => NaiveDate::MAX,
};

/// A time zone of the tz database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Zone(Tz);

/// Why a lab's time zone cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    /// The lab's time zone is NULL or empty.
    #[error("no time zone is set")]
    Missing,
    /// The name is not an IANA name or alias.
    #[error("time zone {0:?} is unknown (expected an IANA name such as Asia/Kolkata)")]
    Unknown(String),
    /// The lab's row holds a value that cannot be read, with the database's message.
    #[error("its row cannot be read: {0}")]
    Unreadable(String),
}

/// A half-open interval `[from, until)` of UTC instants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// The first instant inside.
    pub from: DateTime<Utc>,
    /// The first instant after the interval.
    pub until: DateTime<Utc>,
}

impl Interval {
    /// Whether the interval is empty: the date does not exist in its zone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.from >= self.until
    }
}

impl Zone {
    /// Universal time.
    pub const UTC: Self = Self(Tz::UTC);

    /// The zone of that IANA name or alias (such as `Asia/Calcutta`).
    pub fn parse(name: Option<&str>) -> Result<Self, ZoneError> {
        match name.map(str::trim) {
            None | Some("") => Err(ZoneError::Missing),
            Some(name) => name.parse().map(Self).map_err(|_| ZoneError::Unknown(name.to_owned())),
        }
    }

    /// The zone's IANA name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name()
    }

    /// The earliest instant whose local date is `date` or later.
    #[must_use]
    pub fn first_instant(&self, date: NaiveDate) -> DateTime<Utc> {
        self.first_instant_at(date, NaiveTime::MIN)
    }

    /// The earliest instant at which the local clock reads `time` on `date`; if the clocks jump over that reading,
    /// the instant after the jump.
    #[must_use]
    pub fn first_instant_at(&self, date: NaiveDate, time: NaiveTime) -> DateTime<Utc> {
        let local = date.and_time(time);
        match self.0.from_local_datetime(&local) {
            MappedLocalTime::Single(at) => at.with_timezone(&Utc),
            MappedLocalTime::Ambiguous(first, second) => first.min(second).with_timezone(&Utc),
            MappedLocalTime::None => GapInfo::new(&local, &self.0)
                .and_then(|gap| gap.end)
                .map_or_else(|| local.and_utc(), |end| end.with_timezone(&Utc)),
        }
    }

    /// The interval of `date`; empty if the date does not exist in this zone.
    #[must_use]
    pub fn day(&self, date: NaiveDate) -> Interval {
        Interval { from: self.first_instant(date), until: self.first_instant(next(date)) }
    }

    /// The date of the one day that `at` belongs to.
    #[must_use]
    pub fn date_of(&self, at: DateTime<Utc>) -> NaiveDate {
        let mut date = at.with_timezone(&self.0).date_naive();
        // The local clock may still read the evening before although the day has begun.
        while self.first_instant(next(date)) <= at {
            date = next(date);
        }
        date
    }

    /// The last date that exists in this zone and whose day is over at `at`.
    #[must_use]
    pub fn yesterday(&self, at: DateTime<Utc>) -> NaiveDate {
        let mut date = previous(self.date_of(at));
        while self.day(date).is_empty() {
            date = previous(date);
        }
        date
    }

    /// Whether the day of `date` is over at `at`.
    #[must_use]
    pub fn is_closed(&self, date: NaiveDate, at: DateTime<Utc>) -> bool {
        self.first_instant(next(date)) <= at
    }

    /// The dates from `first` to `last`, both included, that exist in this zone.
    pub fn dates(&self, first: NaiveDate, last: NaiveDate) -> impl Iterator<Item = NaiveDate> {
        dates(first, last).filter(|date| !self.day(*date).is_empty())
    }
}

/// Every date from `first` to `last`, both included.
pub fn dates(first: NaiveDate, last: NaiveDate) -> impl Iterator<Item = NaiveDate> {
    first.iter_days().take_while(move |date| *date <= last)
}

/// `2026-03-15`, or `2026-03-09 to 2026-03-15`.
#[must_use]
pub fn span(first: NaiveDate, last: NaiveDate) -> String {
    if first == last { first.to_string() } else { format!("{first} to {last}") }
}

/// The first second whose text sorts after `text`, which is not a valid date (`2025-00-00`); `None` if all sort
/// before it.
#[must_use]
pub fn first_behind(text: &str) -> Option<DateTime<Utc>> {
    let timestamp = |day: NaiveDate| day.and_time(NaiveTime::MIN).and_utc().timestamp();
    let (mut from, mut until) = (timestamp(FIRST_DAY), timestamp(next(LAST_DAY)));
    while from < until {
        let middle = from + (until - from) / 2;
        let is_behind = |at: DateTime<Utc>| at.format("%Y-%m-%d %H:%M:%S").to_string().as_str() > text;
        if DateTime::from_timestamp(middle, 0).is_some_and(is_behind) {
            until = middle;
        } else {
            from = middle + 1;
        }
    }
    DateTime::from_timestamp(from, 0).filter(|at| at.date_naive() <= LAST_DAY)
}

/// The date after `date`.
#[must_use]
pub fn next(date: NaiveDate) -> NaiveDate {
    date.succ_opt().unwrap_or(NaiveDate::MAX)
}

/// The date before `date`.
#[must_use]
pub fn previous(date: NaiveDate) -> NaiveDate {
    date.pred_opt().unwrap_or(NaiveDate::MIN)
}

/// The date `days` days after `date`.
#[must_use]
pub fn days_after(date: NaiveDate, days: u32) -> NaiveDate {
    date.checked_add_days(Days::new(u64::from(days))).unwrap_or(NaiveDate::MAX)
}

/// The date `days` days before `date`.
#[must_use]
pub fn days_before(date: NaiveDate, days: u32) -> NaiveDate {
    date.checked_sub_days(Days::new(u64::from(days))).unwrap_or(NaiveDate::MIN)
}
