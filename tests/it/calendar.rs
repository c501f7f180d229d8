//! Days tile time in every zone of the tz database, and zone names are read as IANA defines them.
//!
//! The rule: the first instant of a date is the earliest instant at which the local clock shows that date or a later
//! one. So, for every zone and every date of 1970 to 2037:
//!
//! - no instant before the first instant of a date shows that date or a later one, without any exception: where the
//!   clocks go back across midnight, the date begins when it is shown first;
//! - an instant of a day shows the day's own date, or, only if the clocks have gone back across midnight since the day
//!   began, the date before;
//! - a date that the clocks skip has an empty day.
//!
//! The check asks the tz database only one question, which always has exactly one answer: the offset from UTC at an
//! instant. It finds the stretches of time with one offset by scanning, and computes the first instant of a date from
//! them. daymend asks the inverse question, which instants a local time stands for, and handles none and two of them.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use chrono::{DateTime, Days, NaiveDate, Offset as _, TimeDelta, TimeZone as _, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use daymend::calendar::{Interval, Zone, ZoneError};

const DAY_SECONDS: i64 = 86_400;

/// The step of the scan. No zone has ever changed its offset twice within three hours.
const SCAN_SECONDS: i64 = 3 * 3600;

const THREADS: usize = 2;

/// A stretch of time with one offset from UTC, in seconds since 1970: `[from, until)`.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    from: i64,
    until: i64,
    offset: i64,
}

fn offset(zone: Tz, at: i64) -> i64 {
    let at = DateTime::from_timestamp(at, 0).unwrap().naive_utc();
    i64::from(zone.offset_from_utc_datetime(&at).fix().local_minus_utc())
}

/// Returns the stretches from a few days before `first` to a few days after `last`.
fn stretches(zone: Tz, first: i64, last: i64) -> Vec<Stretch> {
    let mut at = first - 4 * DAY_SECONDS;
    let mut now = Stretch { from: at, until: at, offset: offset(zone, at) };
    let mut found = Vec::new();
    while at < last + 5 * DAY_SECONDS {
        let next = at + SCAN_SECONDS;
        let then = offset(zone, next);
        if then != now.offset {
            // The first second of the new offset, by bisection.
            let (mut before, mut after) = (at, next);
            while before + 1 < after {
                let middle = before + (after - before) / 2;
                if offset(zone, middle) == now.offset { before = middle } else { after = middle }
            }
            found.push(Stretch { until: after, ..now });
            now = Stretch { from: after, until: after, offset: then };
        }
        at = next;
    }
    found.push(Stretch { until: i64::MAX, ..now });
    found
}

/// Returns the earliest second at which the local clock shows `midnight` or later, and the index of its stretch.
/// Seconds are exact: offsets, and the moments at which they change, are whole seconds.
fn earliest(stretches: &[Stretch], start: usize, midnight: i64) -> (i64, usize) {
    for (place, stretch) in stretches.iter().enumerate().skip(start) {
        let at = stretch.from.max(midnight - stretch.offset);
        if at < stretch.until {
            return (at, place);
        }
    }
    panic!("the last stretch has no end");
}

fn date(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn zone(name: &str) -> Zone {
    Zone::parse(Some(name)).unwrap()
}

fn day(zone_name: &str, day: &str) -> (String, String) {
    let Interval { from, until } = zone(zone_name).day(date(day));
    (from.format("%FT%T").to_string(), until.format("%FT%T").to_string())
}

/// What was counted over a zone's days.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Seen {
    days: u64,
    /// Days that are not 24 hours long.
    odd: u64,
    /// Dates that do not exist.
    empty: u64,
    /// Days during which the local clock shows the date before.
    read_as_the_day_before: u64,
}

fn check_zone(tz: Tz, first: NaiveDate, last: NaiveDate) -> Seen {
    let name = tz.name();
    let zone = zone(name);
    assert_eq!(zone.name(), name);
    let midnight = |date: NaiveDate| date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp();
    let stretches = stretches(tz, midnight(first), midnight(last));
    let instant = |seconds: i64| DateTime::from_timestamp(seconds, 0).unwrap();
    let microsecond = TimeDelta::microseconds(1);
    // This generator is faster than `rand` in an unoptimised build.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64
        ^ name.bytes().fold(0, |sum, byte| u64::wrapping_add(u64::wrapping_mul(sum, 31), u64::from(byte)));
    let mut seen = Seen::default();
    let (mut from, mut place) = earliest(&stretches, 0, midnight(first));
    let mut date = first;
    let mut last_until = instant(from);
    while date <= last {
        let (until, next_place) = earliest(&stretches, place, midnight(date) + DAY_SECONDS);
        let day = zone.day(date);
        assert_eq!(day, Interval { from: instant(from), until: instant(until) }, "{name} {date}");
        assert_eq!(day.from, last_until, "{name} {date}: neither gap nor overlap");
        assert!(day.from <= day.until, "{name} {date}");
        last_until = day.until;
        let local = |at: DateTime<Utc>| at.with_timezone(&tz).date_naive();
        let is_odd = until - from != DAY_SECONDS;
        if day.is_empty() {
            seen.empty += 1;
        } else {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let length_us = u64::try_from((until - from) * 1_000_000).unwrap();
            let between = day.from + TimeDelta::microseconds(i64::try_from(random % length_us).unwrap());
            for at in [day.from, between, day.until - microsecond] {
                assert_eq!(zone.date_of(at), date, "{name} {at}");
            }
            // On the days around a change, check what the clock shows at their bounds and at the change.
            if is_odd || place != next_place {
                assert!(local(day.from) >= date, "{name} {date}: it begins before its date is shown");
                assert!(local(day.from - microsecond) < date, "{name} {date}: its date is shown before it begins");
                assert!(local(day.until - microsecond) <= date, "{name} {date}: it ends after the next is shown");
                let earliest_shown = stretches[place..=next_place]
                    .iter()
                    .filter(|s| s.from < until && s.until > from)
                    .map(|s| local(instant(s.from.max(from))))
                    .min();
                if earliest_shown < Some(date) {
                    let went_back = stretches[place..=next_place].windows(2).any(|s| s[1].offset < s[0].offset);
                    assert!(went_back, "{name} {date}: another date is shown although no clock went back");
                    seen.read_as_the_day_before += 1;
                }
                assert_eq!(zone.yesterday(day.until), date, "{name} {date}");
                assert!(zone.is_closed(date, day.until) && !zone.is_closed(date, day.until - microsecond));
            }
        }
        seen.days += 1;
        seen.odd += u64::from(is_odd);
        (from, place) = (until, next_place);
        date = date + Days::new(1);
    }
    seen
}

#[test]
fn the_days_of_every_zone_tile_time_from_1970_to_2037() {
    let (first, last) = (date("1970-01-01"), date("2037-12-31"));
    let next_zone = AtomicUsize::new(0);
    let check = || {
        let mut seen = Vec::new();
        while let Some(tz) = TZ_VARIANTS.get(next_zone.fetch_add(1, Ordering::Relaxed)) {
            seen.push((tz.name(), check_zone(*tz, first, last)));
        }
        seen
    };
    let seen: Vec<(&str, Seen)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(check)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(seen.len(), TZ_VARIANTS.len());
    assert!(seen.len() > 590, "only {} zones", seen.len());
    let of = |name: &str| seen.iter().find(|(known, _)| *known == name).map(|(_, seen)| *seen).unwrap();
    let days = 68 * 365 + 17;
    // The cases that the check is for did occur.
    assert_eq!(of("Asia/Kolkata"), Seen { days, ..Seen::default() });
    assert_eq!(of("Pacific/Apia").empty, 1);
    assert_eq!(of("Pacific/Kwajalein").empty, 1);
    assert!(of("America/New_York").odd >= 2 * 67);
    assert_eq!(of("America/New_York").read_as_the_day_before, 0);
    // Every autumn from 1987 to 2010 the clocks went back at 00:01, to 23:01 of the day before.
    assert_eq!(of("America/St_Johns").read_as_the_day_before, 24);
    assert_eq!(of("Canada/Newfoundland"), of("America/St_Johns"), "an alias is the same zone");
}

#[test]
fn a_day_without_a_midnight_begins_when_the_clocks_have_jumped() {
    // Cairo, 2026-04-24: 00:00 +02:00 became 01:00 +03:00.
    assert_eq!(day("Africa/Cairo", "2026-04-23"), ("2026-04-22T22:00:00".into(), "2026-04-23T22:00:00".into()));
    assert_eq!(day("Africa/Cairo", "2026-04-24"), ("2026-04-23T22:00:00".into(), "2026-04-24T21:00:00".into()));
}

#[test]
fn a_day_with_two_midnights_begins_at_the_first() {
    // Havana, 2026-11-01: 01:00 -04:00 became 00:00 -05:00.
    assert_eq!(day("America/Havana", "2026-11-01"), ("2026-11-01T04:00:00".into(), "2026-11-02T05:00:00".into()));
    assert_eq!(zone("America/Havana").date_of(at("2026-11-01T05:00:00Z")), date("2026-11-01"));
}

#[test]
fn a_day_may_be_half_an_hour_longer_or_shorter() {
    // Lord Howe goes from +10:30 to +11:00 in October and back in April.
    assert_eq!(day("Australia/Lord_Howe", "2026-04-05"), ("2026-04-04T13:00:00".into(), "2026-04-05T13:30:00".into()));
    assert_eq!(day("Australia/Lord_Howe", "2026-10-04"), ("2026-10-03T13:30:00".into(), "2026-10-04T13:00:00".into()));
}

#[test]
fn a_date_that_does_not_exist_is_empty_and_skipped() {
    for (name, before, missing, after) in [
        ("Pacific/Apia", "2011-12-29", "2011-12-30", "2011-12-31"),
        ("Pacific/Kwajalein", "1993-08-20", "1993-08-21", "1993-08-22"),
    ] {
        let zone = zone(name);
        assert!(zone.day(date(missing)).is_empty(), "{name}");
        assert_eq!(zone.day(date(before)).until, zone.day(date(after)).from, "{name}");
        assert_eq!(zone.dates(date(before), date(after)).collect::<Vec<_>>(), [date(before), date(after)], "{name}");
        assert_eq!(zone.yesterday(zone.day(date(after)).from), date(before), "{name}");
    }
}

#[test]
fn the_minutes_after_the_clocks_went_back_across_midnight_stay_with_the_day_that_had_begun() {
    // St. John's, 2010-11-07: 00:01 -02:30 became 23:01 -03:30 of the 6th.
    let zone = zone("America/St_Johns");
    let begun = at("2010-11-07T02:30:00Z");
    assert_eq!(zone.first_instant(date("2010-11-07")), begun);
    assert_eq!(zone.date_of(begun - TimeDelta::microseconds(1)), date("2010-11-06"));
    let reads_as_the_6th = at("2010-11-07T03:00:00Z");
    assert_eq!(reads_as_the_6th.with_timezone(&Tz::America__St_Johns).date_naive(), date("2010-11-06"));
    assert_eq!(zone.date_of(reads_as_the_6th), date("2010-11-07"));
    assert_eq!(zone.day(date("2010-11-07")).until - begun, TimeDelta::hours(25));
}

#[test]
fn new_york_has_days_of_23_and_25_hours() {
    assert_eq!(day("America/New_York", "2026-03-08"), ("2026-03-08T05:00:00".into(), "2026-03-09T04:00:00".into()));
    assert_eq!(day("America/New_York", "2026-11-01"), ("2026-11-01T04:00:00".into(), "2026-11-02T05:00:00".into()));
}

#[test]
fn aliases_of_zones_are_accepted() {
    for (alias, name) in
        [("Asia/Calcutta", "Asia/Kolkata"), ("US/Eastern", "America/New_York"), ("GB", "Europe/London")]
    {
        let of_alias = zone(alias).day(date("2026-07-01"));
        assert_eq!(of_alias, zone(name).day(date("2026-07-01")), "{alias}");
    }
    assert_eq!(Zone::parse(Some(" Asia/Kolkata ")), Zone::parse(Some("Asia/Kolkata")), "outer spaces do not count");
}

#[test]
fn a_zone_that_is_missing_or_unknown_is_refused_with_a_message_that_says_what_to_write() {
    for missing in [None, Some(""), Some("  ")] {
        let error = Zone::parse(missing).unwrap_err();
        assert_eq!((&error, error.to_string().as_str()), (&ZoneError::Missing, "no time zone is set"));
    }
    for unknown in ["Mars/Olympus_Mons", "asia/kolkata", "+05:30", "IST", "Asia/Kolkata; DROP TABLE labs"] {
        let error = Zone::parse(Some(unknown)).unwrap_err();
        assert_eq!(error, ZoneError::Unknown(unknown.to_owned()));
        let text = error.to_string();
        assert!(text.contains(unknown) && text.contains("expected an IANA name such as Asia/Kolkata"), "{text}");
    }
}

#[test]
fn what_is_no_date_has_a_first_moment_behind_it() {
    let behind = |text| daymend::calendar::first_behind(text).map(|at| at.naive_utc().to_string());
    for (text, moment) in [
        ("0000-00-00", "0001-01-01 00:00:00"),
        ("2025-00-00", "2025-01-01 00:00:00"),
        ("2026-02-31", "2026-03-01 00:00:00"),
        ("2026-12-32", "2027-01-01 00:00:00"),
        // Compared as text, as SQLite sorts it.
        ("2026-03-15T04:00:00", "2026-03-16 00:00:00"),
        ("2026-03-15", "2026-03-15 00:00:00"),
        ("2026-03-15 04:00:00Z", "2026-03-15 04:00:01"),
        ("2026-3-15", "2027-01-01 00:00:00"),
        ("", "0001-01-01 00:00:00"),
    ] {
        assert_eq!(behind(text).as_deref(), Some(moment), "{text}");
    }
    assert_eq!(behind("9999-12-32"), None);
    assert_eq!(behind("yesterday"), None);
}
