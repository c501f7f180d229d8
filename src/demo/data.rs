//! Making up the lab system's data: six labs, and a year of bills for each.
//!
//! Bills are made on each lab's own clock, directly with chrono-tz, and the day that the clock showed is kept in
//! `daymend_demo`: the final check must not rely on [`crate::calendar`], which is one of the things it checks.

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeZone as _, Utc};
use chrono_tz::Tz;
use rand::{RngExt as _, rngs::StdRng};

use crate::{
    args,
    db::{Arg, DbError, Query, Tx, instant_text, repeat},
};

/// How many days of bills each lab has.
pub(super) const DAYS: u64 = 365;

/// The maximum number of placeholders in one statement; SQLite allows 32,766.
const PLACEHOLDERS_MAX: usize = 3_000;

/// Every day has a bill at these times of the lab's clock, and two if the clock shows a time twice: the edges of the
/// day, and an hour that clock changes often skip or repeat.
const EDGES: [(u32, u32, u32, u32); 3] = [(0, 0, 0, 0), (1, 30, 0, 0), (23, 59, 59, 999_999)];

/// A lab of the demo.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lab {
    pub(super) id: i64,
    pub(super) name: &'static str,
    /// The value of its `labTimeZone`.
    pub(super) time_zone: &'static str,
    /// The clock its bills are made by; `None` if `time_zone` is not a zone.
    pub(super) clock: Option<Tz>,
}

/// The labs, in interesting zones: half-hour offsets, a midnight that does not exist (Cairo), a half-hour clock
/// change (Lord Howe), the far side of the date line (Apia).
pub(super) const LABS: [Lab; 6] = [
    lab(1, "Kolkata", "Asia/Kolkata", Some(Tz::Asia__Kolkata)),
    lab(2, "New York", "America/New_York", Some(Tz::America__New_York)),
    lab(3, "Cairo", "Africa/Cairo", Some(Tz::Africa__Cairo)),
    lab(4, "Lord Howe Island", "Australia/Lord_Howe", Some(Tz::Australia__Lord_Howe)),
    lab(5, "Apia", "Pacific/Apia", Some(Tz::Pacific__Apia)),
    // A typical typo.
    lab(6, "Kolkata annex", "Asia/Kolkatta", None),
];

const fn lab(id: i64, name: &'static str, time_zone: &'static str, clock: Option<Tz>) -> Lab {
    Lab { id, name, time_zone, clock }
}

impl Lab {
    /// The first and the last day of its bills: a year, ending yesterday on its clock.
    pub(super) fn history(&self, now: DateTime<Utc>) -> (NaiveDate, NaiveDate) {
        let today = now.with_timezone(&self.clock.unwrap_or(Tz::UTC)).date_naive();
        (today - Days::new(DAYS), today - Days::new(1))
    }

    /// Adds the lab, its catalogue of tests, and its bills; returns the number of bills.
    pub(super) async fn fill(&self, tx: &mut Tx, rng: &mut StdRng, now: DateTime<Utc>) -> Result<usize, DbError> {
        let lab = args![self.id, self.name, self.time_zone, true];
        insert(tx, "labs (id, labName, labTimeZone, historicalViewEnabled)", 4, &lab).await?;
        insert(tx, "allTests (id, lab_id, testName, department_id)", 4, &self.catalogue()).await?;
        let mut bills = Bills::new(*self);
        let (first, last) = self.history(now);
        for day in first.iter_days().take_while(|day| *day <= last) {
            bills.add_day(rng, day);
        }
        bills.insert(tx).await?;
        Ok(bills.made)
    }

    /// Forty tests; every tenth has no department.
    fn catalogue(&self) -> Vec<Arg> {
        let department = |test: i64| (test % 10 != 0).then_some(test % 7 + 1);
        (1..=40)
            .flat_map(|test| args![self.id * 1_000 + test, self.id, format!("Test {test}"), department(test)])
            .collect()
    }
}

/// The rows of a lab's bills, as arguments for one table each.
#[derive(Debug)]
struct Bills {
    lab: Lab,
    made: usize,
    billing: Vec<Arg>,
    days: Vec<Arg>,
    info: Vec<Arg>,
    tests: Vec<Arg>,
    samples: Vec<Arg>,
}

impl Bills {
    fn new(lab: Lab) -> Self {
        let rows = Vec::new;
        Self { lab, made: 0, billing: rows(), days: rows(), info: rows(), tests: rows(), samples: rows() }
    }

    fn add_day(&mut self, rng: &mut StdRng, day: NaiveDate) {
        for (hour, minute, second, microsecond) in EDGES {
            self.add_at(rng, day, NaiveTime::from_hms_micro_opt(hour, minute, second, microsecond));
        }
        // Most of the others come between seven in the morning and nine at night.
        for _ in 0..rng.random_range(16..36) {
            let hour = if rng.random_bool(0.8) { rng.random_range(7..21) } else { rng.random_range(0..24) };
            let (minute, second) = (rng.random_range(0..60), rng.random_range(0..60));
            let microsecond = if rng.random_bool(0.5) { rng.random_range(0..1_000_000) } else { 0 };
            self.add_at(rng, day, NaiveTime::from_hms_micro_opt(hour, minute, second, microsecond));
        }
    }

    /// Adds a bill at each moment when the lab's clock reads `time` on `day`: none if the clocks jump over it, two if
    /// they go back across it.
    fn add_at(&mut self, rng: &mut StdRng, day: NaiveDate, time: Option<NaiveTime>) {
        let Some(time) = time else { return };
        let read = self.lab.clock.unwrap_or(Tz::UTC).from_local_datetime(&day.and_time(time));
        let second = read.latest().filter(|second| Some(*second) != read.earliest());
        for at in read.earliest().into_iter().chain(second) {
            self.add(rng, day, at.to_utc());
        }
    }

    fn add(&mut self, rng: &mut StdRng, day: NaiveDate, at: DateTime<Utc>) {
        self.made += 1;
        let id = self.lab.id * 1_000_000 + self.made as i64;
        let at = instant_text(at);
        self.billing.extend(args![id, self.lab.id, at.as_str(), rng.random_bool(0.04), at.as_str()]);
        if self.lab.clock.is_some() {
            self.days.extend(args![id, day]);
        }
        if rng.random_bool(0.98) {
            let organization = rng.random_bool(0.9).then(|| skewed(rng, 12));
            let referral = rng.random_bool(0.6).then(|| skewed(rng, 20));
            self.info.extend(args![id, organization, referral, skewed(rng, 3)]);
        }
        for _ in 0..rng.random_range(1..=4) {
            // A few tests are in no catalogue, as if somebody had removed them since.
            let test = if rng.random_bool(0.99) { skewed(rng, 40) } else { 999 };
            self.tests.extend(args![id, self.lab.id * 1_000 + test, rng.random_bool(0.03)]);
        }
        for _ in 0..rng.random_range(1..=2) {
            self.samples.extend(args![id, skewed(rng, 6), rng.random_bool(0.85)]);
        }
    }

    async fn insert(&self, tx: &mut Tx) -> Result<(), DbError> {
        insert(tx, "billing (id, lab_id, billTime, isCancelled, modified_at)", 5, &self.billing).await?;
        insert(tx, "daymend_demo (billing_id, day)", 2, &self.days).await?;
        insert(tx, "billingInfo (billing_id, organization_id, referral_id, branch_id)", 4, &self.info).await?;
        insert(tx, "labReportRelation (billing_id, test_id, isCancelled)", 3, &self.tests).await?;
        insert(tx, "collectedSample (billing_id, sampleType_id, isAccessed)", 3, &self.samples).await
    }
}

/// A number from 1 to `max`, low ones being more likely: a few organizations bring most bills.
fn skewed(rng: &mut StdRng, max: i64) -> i64 {
    let ceiling = rng.random_range(1..=max);
    rng.random_range(1..=ceiling)
}

/// Inserts rows of `columns` values each, many per statement.
async fn insert(tx: &mut Tx, into: &str, columns: usize, values: &[Arg]) -> Result<(), DbError> {
    let row = format!("({})", repeat("?", columns));
    for values in values.chunks(PLACEHOLDERS_MAX / columns * columns) {
        let sql = format!("INSERT INTO {into} VALUES {}", repeat(&row, values.len() / columns));
        tx.execute(Query::new(into, sql), values.to_vec()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;
    use crate::calendar::Zone;

    #[test]
    fn the_clocks_day_is_the_calendars_day_for_every_bill() {
        let now = "2026-11-21T04:30:00Z".parse().unwrap();
        for lab in LABS.iter().filter(|lab| lab.clock.is_some()) {
            let zone = Zone::parse(Some(lab.time_zone)).unwrap();
            let mut bills = Bills::new(*lab);
            let (first, last) = lab.history(now);
            assert_eq!(last, zone.yesterday(now));
            for day in first.iter_days().take_while(|day| *day <= last) {
                bills.add_day(&mut StdRng::seed_from_u64(1), day);
            }
            for (bill, day) in bills.billing.chunks(5).zip(bills.days.chunks(2)) {
                let Arg::Text(at) = &bill[2] else { panic!("{bill:?}") };
                let at = chrono::NaiveDateTime::parse_from_str(at, "%Y-%m-%d %H:%M:%S%.f").unwrap().and_utc();
                assert_eq!(Arg::from(zone.date_of(at)), day[1], "{at} in {}", lab.time_zone);
            }
        }
    }

    #[test]
    fn a_time_that_the_clock_shows_twice_gets_two_bills_and_one_that_it_skips_none() {
        let made = |lab: Lab, day: &str, time: &str| {
            let mut bills = Bills::new(lab);
            bills.add_at(&mut StdRng::seed_from_u64(1), day.parse().unwrap(), time.parse().ok());
            bills.made
        };
        let [_, new_york, cairo, lord_howe, ..] = LABS;
        assert_eq!(made(new_york, "2026-11-01", "01:30:00"), 2);
        assert_eq!(made(cairo, "2026-04-24", "00:00:00"), 0);
        assert_eq!(made(cairo, "2026-10-29", "23:59:59.999999"), 2);
        assert_eq!(made(lord_howe, "2026-04-05", "01:30:00"), 2);
        assert_eq!(made(lord_howe, "2026-04-05", "01:29:59"), 1);
    }
}
