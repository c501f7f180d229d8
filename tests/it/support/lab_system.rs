//! The lab system's data, written as the lab system writes it.

use chrono::{DateTime, NaiveDate, Utc};
use daymend::{
    args,
    db::{Mode, Query, instant_text},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::TestDb;

const INSERT_BILL: &str = "INSERT INTO billing (id, lab_id, billTime, isCancelled, modified_at) VALUES (?, ?, ?, ?, ?)";
const INSERT_INFO: &str =
    "INSERT INTO billingInfo (billing_id, organization_id, referral_id, branch_id) VALUES (?, ?, ?, ?)";
const INSERT_TEST: &str = "INSERT INTO labReportRelation (billing_id, test_id, isCancelled) VALUES (?, ?, ?)";
const INSERT_SAMPLE: &str = "INSERT INTO collectedSample (billing_id, sampleType_id, isAccessed) VALUES (?, ?, ?)";

/// A bill with its billingInfo, tests and samples.
#[derive(Debug, Clone, Default)]
pub struct Bill {
    pub at: DateTime<Utc>,
    pub cancelled: bool,
    /// (organization, referral, branch); `None` for a bill without a billingInfo row.
    pub info: Option<(Option<i64>, Option<i64>, Option<i64>)>,
    /// (test, cancelled)
    pub tests: Vec<(i64, bool)>,
    /// (sample type, accessed)
    pub samples: Vec<(i64, bool)>,
}

impl TestDb {
    /// Adds an enabled lab.
    pub async fn add_lab(&self, id: i64, time_zone: Option<&str>) {
        self.execute(
            "INSERT INTO labs (id, labName, labTimeZone, historicalViewEnabled) VALUES (?, ?, ?, 1)",
            args![id, format!("Lab {id}"), time_zone],
        )
        .await;
    }

    /// Adds a test to the catalogue.
    pub async fn add_test(&self, id: i64, department: Option<i64>) {
        self.execute(
            "INSERT INTO allTests (id, lab_id, testName, department_id) VALUES (?, 1, 'test', ?)",
            args![id, department],
        )
        .await;
    }

    /// Adds a bill with the given id.
    pub async fn add_bill(&self, id: i64, lab_id: i64, bill: &Bill) {
        self.add_bills(&[(id, lab_id, bill.clone())]).await;
    }

    /// Adds bills, each with its id and its lab, in one transaction.
    pub async fn add_bills(&self, bills: &[(i64, i64, Bill)]) {
        let mut tx = self.admin.begin(Mode::Write).await.expect("begin");
        for (id, lab_id, bill) in bills {
            let (id, at) = (*id, instant_text(bill.at));
            let row = args![id, *lab_id, at.as_str(), bill.cancelled, at.as_str()];
            tx.execute(Query::new("bill", INSERT_BILL), row).await.expect("a bill");
            if let Some((organization, referral, branch)) = bill.info {
                let row = args![id, organization, referral, branch];
                tx.execute(Query::new("info", INSERT_INFO), row).await.expect("a billingInfo");
            }
            for (test, cancelled) in &bill.tests {
                tx.execute(Query::new("test", INSERT_TEST), args![id, *test, *cancelled]).await.expect("a test");
            }
            for (sample, accessed) in &bill.samples {
                let row = args![id, *sample, *accessed];
                tx.execute(Query::new("sample", INSERT_SAMPLE), row).await.expect("a sample");
            }
        }
        tx.commit().await.expect("commit");
    }

    /// Adds bills to a lab, on average `bills_a_day` for each day of `[first, first + days)`, and the same ones for the
    /// same lab each time. Their ids begin at the lab's id times a million.
    pub async fn fill_lab(&self, lab_id: i64, first: NaiveDate, days: u32, bills_a_day: u32) {
        let mut random = StdRng::seed_from_u64(lab_id.unsigned_abs());
        let mut tx = self.admin.begin(Mode::Write).await.expect("begin");
        for number in 0..i64::from(days * bills_a_day) {
            let id = lab_id * 1_000_000 + number;
            let at = first.and_time(chrono::NaiveTime::MIN).and_utc()
                + chrono::Duration::seconds(random.random_range(0..i64::from(days) * 86400));
            let bill = args![id, lab_id, instant_text(at), random.random_bool(0.1), instant_text(at)];
            tx.execute(Query::new("bill", INSERT_BILL), bill).await.expect("a bill");
            let info = args![id, random.random_range(1..6_i64), random.random_range(1..9_i64), 1_i64];
            tx.execute(Query::new("info", INSERT_INFO), info).await.expect("a billingInfo");
            for _ in 0..2 {
                let test = args![id, random.random_range(1..10_i64), random.random_bool(0.1)];
                tx.execute(Query::new("test", INSERT_TEST), test).await.expect("a test");
            }
            let sample = args![id, random.random_range(1..4_i64), random.random_bool(0.5)];
            tx.execute(Query::new("sample", INSERT_SAMPLE), sample).await.expect("a sample");
        }
        tx.commit().await.expect("commit");
    }

    /// Writes a summary row, correct or not.
    pub async fn add_summary_row(&self, lab_id: i64, day: &str, a: i64, b: i64, event: &str, count: i64) {
        self.execute(
            "INSERT INTO operation_historical_summary
                 (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at)
             VALUES (?, ?, ?, ?, ?, ?, '2026-01-01 00:00:00', '2026-01-01 00:00:00')",
            args![lab_id, day, a, b, event, count],
        )
        .await;
    }
}
