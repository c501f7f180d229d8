//! The lab system's delta triggers, as the first seed document describes them: when a bill is cancelled or restored,
//! they add -1 or +1 to the summary inside the user's own transaction. Like the original ones, they leave rows with a
//! count of zero behind.

use super::{Engine, TestDb};

impl TestDb {
    /// Installs the triggers; all labs are assumed to be at UTC+05:30 (Asia/Kolkata).
    pub async fn install_delta_triggers(&self) {
        let mut body = String::new();
        for owner in ["organization", "referral", "branch"] {
            let a = format!("billingInfo.{owner}_id");
            let info = "FROM billingInfo WHERE billingInfo.billing_id = NEW.id";
            body += &self.delta(&format!("{owner}_bill"), &a, "0", &format!("{info} AND {a} IS NOT NULL"));
            let tests =
                "FROM billingInfo JOIN labReportRelation ON labReportRelation.billing_id = billingInfo.billing_id
                         WHERE billingInfo.billing_id = NEW.id AND labReportRelation.isCancelled = 0";
            let tests = format!("{tests} AND {a} IS NOT NULL");
            body += &self.delta(&format!("{owner}_test"), &a, "labReportRelation.test_id", &tests);
            for (suffix, condition) in
                [("", "1 = 1"), ("_accessed", "isAccessed = 1"), ("_not_accessed", "isAccessed = 0")]
            {
                let samples = format!(
                    "FROM billingInfo JOIN collectedSample ON collectedSample.billing_id = billingInfo.billing_id
                     WHERE billingInfo.billing_id = NEW.id AND {condition} AND {a} IS NOT NULL"
                );
                let event = format!("{owner}_sample{suffix}");
                body += &self.delta(&event, &a, "collectedSample.sampleType_id", &samples);
            }
        }
        let departments = "FROM labReportRelation JOIN allTests ON allTests.id = labReportRelation.test_id
             WHERE labReportRelation.billing_id = NEW.id AND labReportRelation.isCancelled = 0
               AND allTests.department_id IS NOT NULL";
        body += &self.delta("department_test", "allTests.department_id", "labReportRelation.test_id", departments);
        let sql = match self.engine {
            Engine::MariaDb => format!(
                "CREATE TRIGGER billing_delta AFTER UPDATE ON billing FOR EACH ROW
                 BEGIN IF NEW.isCancelled <> OLD.isCancelled THEN {body} END IF; END"
            ),
            Engine::Sqlite => format!(
                "CREATE TRIGGER billing_delta AFTER UPDATE OF isCancelled ON billing FOR EACH ROW
                 WHEN NEW.isCancelled <> OLD.isCancelled BEGIN {body} END"
            ),
        };
        self.execute(&sql, vec![]).await;
    }

    fn delta(&self, event: &str, a: &str, b: &str, from: &str) -> String {
        // A number in GROUP BY would be read as a column's position.
        let group = if b == "0" { a.to_owned() } else { format!("{a}, {b}") };
        let (day, now, upsert) = match self.engine {
            Engine::MariaDb => (
                "DATE(NEW.billTime + INTERVAL 330 MINUTE)",
                "UTC_TIMESTAMP(6)",
                "ON DUPLICATE KEY UPDATE event_count = event_count + VALUES(event_count)",
            ),
            Engine::Sqlite => (
                "date(NEW.billTime, '+330 minutes')",
                "datetime('now')",
                "ON CONFLICT (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type)
                 DO UPDATE SET event_count = event_count + excluded.event_count",
            ),
        };
        format!(
            "INSERT INTO operation_historical_summary
                 (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at)
             SELECT NEW.lab_id, {day}, {a}, {b}, '{event}', (1 - 2 * NEW.isCancelled) * COUNT(*), {now}, {now}
             {from} GROUP BY {group} {upsert};\n"
        )
    }
}
