//! A lab of a case, and its data in the database.

use std::collections::BTreeMap;

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use daymend::{
    args,
    calendar::{Zone, days_before},
    db::{Mode, Query, instant_text},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    case::{BillCase, EVENTS, Edit, FOREIGN, Ghost, GhostDay, LabCase, Moment, ZONES},
    date, now,
};
use crate::support::{TestDb, lab_system::Bill, oracle::Key};

/// How far from an anchor a bill may lie, in days.
const REACH: u64 = 3;
/// A lab of a case.
pub(super) struct Lab<'a> {
    pub(super) id: i64,
    pub(super) first_bill: i64,
    pub(super) zone: Zone,
    pub(super) tz: Tz,
    pub(super) case: &'a LabCase,
}

impl<'a> Lab<'a> {
    pub(super) fn new(number: i64, case: &'a LabCase) -> Self {
        let name = ZONES[case.zone].0;
        Self {
            id: if case.negative_id { -number } else { number },
            first_bill: number * 1000,
            zone: Zone::parse(Some(name)).unwrap(),
            tz: name.parse().unwrap(),
            case,
        }
    }

    pub(super) fn today(&self) -> NaiveDate {
        now().with_timezone(&self.tz).date_naive()
    }

    pub(super) fn anchors(&self) -> Vec<NaiveDate> {
        ZONES[self.case.zone].1.iter().map(|anchor| date(anchor)).chain([self.today()]).collect()
    }

    pub(super) fn date_near(&self, moment: Moment) -> NaiveDate {
        let anchors = self.anchors();
        anchors[moment.anchor % anchors.len()] + TimeDelta::days(moment.day)
    }

    pub(super) fn at(&self, moment: Moment) -> DateTime<Utc> {
        self.zone.first_instant(self.date_near(moment)) + TimeDelta::microseconds(moment.after_us)
    }

    pub(super) fn bill_id(&self, place: usize) -> i64 {
        self.first_bill + (place % self.case.bills.len()) as i64
    }

    pub(super) async fn insert(&self, db: &TestDb) {
        db.add_lab(self.id, Some(ZONES[self.case.zone].0)).await;
        // Nightly jobs have their own tests, and would also correct yesterday here.
        db.execute("UPDATE labs SET historicalViewEnabled = 0 WHERE id = ?", args![self.id]).await;
        let bills = self.case.bills.iter().enumerate().map(|(place, case)| {
            let BillCase { moment, cancelled, info, tests, samples } = case.clone();
            (self.bill_id(place), self.id, Bill { at: self.at(moment), cancelled, info, tests, samples })
        });
        db.add_bills(&bills.collect::<Vec<_>>()).await;
    }

    pub(super) async fn edit(&self, db: &TestDb) {
        if self.case.bills.is_empty() {
            return;
        }
        for edit in &self.case.edits {
            match edit {
                Edit::ToggleBill(place) => {
                    let sql = "UPDATE billing SET isCancelled = 1 - isCancelled WHERE id = ?";
                    db.execute(sql, args![self.bill_id(*place)]).await;
                }
                Edit::Reassign(place, Some((organization, referral, branch))) => {
                    let sql = "REPLACE INTO billingInfo (billing_id, organization_id, referral_id, branch_id)
                               VALUES (?, ?, ?, ?)";
                    db.execute(sql, args![self.bill_id(*place), *organization, *referral, *branch]).await;
                }
                Edit::LoseInfo(place) | Edit::Reassign(place, None) => {
                    db.execute("DELETE FROM billingInfo WHERE billing_id = ?", args![self.bill_id(*place)]).await;
                }
                Edit::Move(place, moment) => {
                    let sql = "UPDATE billing SET billTime = ? WHERE id = ?";
                    db.execute(sql, args![instant_text(self.at(*moment)), self.bill_id(*place)]).await;
                }
                // Its tests and samples stay behind, and count for nothing.
                Edit::Delete(place) => {
                    db.execute("DELETE FROM billing WHERE id = ?", args![self.bill_id(*place)]).await;
                }
                Edit::ToggleTests(place) => {
                    let sql = "UPDATE labReportRelation SET isCancelled = 1 - isCancelled WHERE billing_id = ?";
                    db.execute(sql, args![self.bill_id(*place)]).await;
                }
                Edit::Accessed(place, accessed) => {
                    let sql = "UPDATE collectedSample SET isAccessed = ? WHERE billing_id = ?";
                    db.execute(sql, args![*accessed, self.bill_id(*place)]).await;
                }
            }
        }
    }

    /// Fills the summary with the correct rows, some of them missing or damaged.
    pub(super) async fn damage(&self, db: &TestDb, right: &Table) {
        let mut random = StdRng::seed_from_u64(self.case.damage);
        let mut rows = vec![(self.id, days_before(self.today(), 1), 1, 0, FOREIGN.to_owned(), 5)];
        for ((_, day, a, b, event), count) in right.iter().filter(|((lab, ..), _)| *lab == self.id) {
            let mut row = (self.id, *day, *a, *b, event.clone(), *count);
            match random.random_range(0..8) {
                0 => continue,
                1 => row.5 += random.random_range(1..4_i64),
                2 => row.5 = random.random_range(-1..1_i64),
                3 => row.1 = days_before(row.1, 1),
                // With MariaDB's collation this has the same key as the correct row.
                4 => row.4 = row.4.to_uppercase(),
                _ => {}
            }
            rows.push(row);
        }
        insert_rows(db, rows).await;
    }

    pub(super) async fn haunt(&self, db: &TestDb, ghosts: &[Ghost]) {
        let rows = ghosts.iter().map(|ghost| {
            let day = match ghost.day {
                GhostDay::Near(moment) => self.date_near(moment),
                GhostDay::Far(day) => date(day),
            };
            (self.id, day, ghost.a, ghost.b, EVENTS[ghost.event].to_owned(), ghost.count)
        });
        insert_rows(db, rows.collect()).await;
    }

    /// Returns the closed days around the anchors as ranges; all bills of closed days are on them.
    pub(super) fn ranges(&self, first_bill: NaiveDate) -> Vec<(NaiveDate, NaiveDate)> {
        let mut ranges: Vec<(NaiveDate, NaiveDate)> = Vec::new();
        let mut anchors = self.anchors();
        anchors.sort_unstable();
        for anchor in anchors {
            let after_last = ranges.last().map_or(first_bill, |(_, last)| *last + Days::new(1));
            let first = (anchor - Days::new(REACH)).max(after_last).max(first_bill);
            let last = (anchor + Days::new(REACH)).min(self.today() - Days::new(1));
            if first <= last {
                ranges.push((first, last));
            }
        }
        ranges
    }
}

pub(super) type Table = BTreeMap<Key, i64>;

async fn insert_rows(db: &TestDb, rows: Vec<(i64, NaiveDate, i64, i64, String, i64)>) {
    let sql = "{insert_ignore} INTO operation_historical_summary
                   (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at)
               VALUES (?, ?, ?, ?, ?, ?, '2026-01-01 00:00:00', '2026-01-01 00:00:00')";
    let mut tx = db.admin.begin(Mode::Write).await.unwrap();
    for (lab, day, a, b, event, count) in rows {
        tx.execute(Query::new("damage", sql), args![lab, day, a, b, event, count]).await.unwrap();
    }
    tx.commit().await.unwrap();
}
