//! The lab system's data, written the way the lab system writes it.

use chrono::{DateTime, Utc};
use daymend::{args, db::instant_text};

use super::TestDb;

/// One bill with everything that hangs on it.
#[derive(Debug, Clone, Default)]
pub struct Bill {
    pub at: DateTime<Utc>,
    pub cancelled: bool,
    /// (organization, referral, branch); none for a bill without a billingInfo row.
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

    /// Adds a bill under the given id.
    pub async fn add_bill(&self, id: i64, lab_id: i64, bill: &Bill) {
        self.execute(
            "INSERT INTO billing (id, lab_id, billTime, isCancelled, modified_at) VALUES (?, ?, ?, ?, ?)",
            args![id, lab_id, instant_text(bill.at), bill.cancelled, instant_text(bill.at)],
        )
        .await;
        if let Some((organization, referral, branch)) = bill.info {
            self.execute(
                "INSERT INTO billingInfo (billing_id, organization_id, referral_id, branch_id) VALUES (?, ?, ?, ?)",
                args![id, organization, referral, branch],
            )
            .await;
        }
        for (test, cancelled) in &bill.tests {
            self.execute(
                "INSERT INTO labReportRelation (billing_id, test_id, isCancelled) VALUES (?, ?, ?)",
                args![id, *test, *cancelled],
            )
            .await;
        }
        for (sample, accessed) in &bill.samples {
            self.execute(
                "INSERT INTO collectedSample (billing_id, sampleType_id, isAccessed) VALUES (?, ?, ?)",
                args![id, *sample, *accessed],
            )
            .await;
        }
    }

    /// Writes a summary row, right or wrong.
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
