//! The whole of it at size, on MariaDB: 120,000 bills, a record as the Support Dashboard would
//! write it, `daymend serve`, and audit queries written by hand.

use std::time::Duration;

use daymend::args;

use crate::support::{
    Engine, TestDb,
    process::{Process, run_ok},
    wait_until,
};

const NOW: &str = "2026-06-15T12:00:00Z";

/// Made-up data, by the server itself.
const DATA: &[&str] = &[
    "INSERT INTO labs (id, labName, labTimeZone, historicalViewEnabled)
     VALUES (1, 'Pune', 'Asia/Kolkata', 1), (2, 'New York', 'America/New_York', 1), (3, 'Cairo', 'Africa/Cairo', 1)",
    "INSERT INTO allTests (id, lab_id, testName, department_id)
     WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 300)
     SELECT n, 1, CONCAT('test ', n), IF(n % 17 = 0, NULL, n % 12) FROM s",
    "INSERT INTO billing (id, lab_id, billTime, isCancelled, modified_at)
     WITH RECURSIVE h (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM h WHERE n < 399),
                    t (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM t WHERE n < 299)
     SELECT h.n * 300 + t.n + 1, 1 + (h.n * 300 + t.n) % 3,
            '2025-06-01' + INTERVAL FLOOR(RAND() * 365 * 86400 * 1000000) MICROSECOND,
            RAND() < 0.05, '2026-06-01'
     FROM h CROSS JOIN t",
    "INSERT INTO billingInfo (billing_id, organization_id, referral_id, branch_id)
     SELECT id, IF(RAND() < 0.1, NULL, FLOOR(POW(RAND(), 2) * 40)), FLOOR(RAND() * 120), FLOOR(RAND() * 6)
     FROM billing WHERE id % 50 <> 0",
    "INSERT INTO labReportRelation (billing_id, test_id, isCancelled)
     SELECT billing.id, 1 + FLOOR(POW(RAND(), 2) * 310), RAND() < 0.04
     FROM billing CROSS JOIN (SELECT 1 AS n UNION SELECT 2 UNION SELECT 3) AS x WHERE RAND() < 0.83",
    "INSERT INTO collectedSample (billing_id, sampleType_id, isAccessed)
     SELECT billing.id, 1 + FLOOR(RAND() * 12), RAND() < 0.8
     FROM billing CROSS JOIN (SELECT 1 AS n UNION SELECT 2) AS x WHERE RAND() < 0.8",
    "ANALYZE TABLE billing, billingInfo, labReportRelation, collectedSample, allTests",
];

/// A day of lab 1 (UTC+05:30 all year), written by hand.
const DAY: &str = "DATE(billing.billTime + INTERVAL 330 MINUTE)";

/// What some event types should count, written by hand: event type, dimensions, and where from.
const AUDITS: &[(&str, &str, &str, &str)] = &[
    (
        "organization_bill",
        "billingInfo.organization_id",
        "0",
        "JOIN billingInfo ON billingInfo.billing_id = billing.id",
    ),
    (
        "referral_test",
        "billingInfo.referral_id",
        "labReportRelation.test_id",
        "JOIN billingInfo ON billingInfo.billing_id = billing.id
         JOIN labReportRelation ON labReportRelation.billing_id = billing.id AND labReportRelation.isCancelled = 0",
    ),
    (
        "department_test",
        "allTests.department_id",
        "labReportRelation.test_id",
        "JOIN labReportRelation ON labReportRelation.billing_id = billing.id AND labReportRelation.isCancelled = 0
         JOIN allTests ON allTests.id = labReportRelation.test_id",
    ),
    (
        "branch_sample_not_accessed",
        "billingInfo.branch_id",
        "collectedSample.sampleType_id",
        "JOIN billingInfo ON billingInfo.billing_id = billing.id
         JOIN collectedSample ON collectedSample.billing_id = billing.id AND collectedSample.isAccessed = 0",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_of_a_large_lab_equals_audit_queries_written_by_hand() {
    let db = TestDb::source_only(Engine::MariaDb).await;
    for sql in DATA {
        db.execute(sql, args![]).await;
    }
    assert!(db.number("SELECT COUNT(*) FROM billing").await >= 100_000);
    run_ok(&db, &["migrate"]);
    let _serve = Process::start(&db, &["--now", NOW, "serve"]);
    db.execute(
        "INSERT INTO crelio_data_migrations
             (lab_id, is_scheduled, job_status, migration_type, initiated_by_id, created_at, modified_at)
         VALUES (1, 1, 'Pending', 'HISTORICAL_SUMMARY', 42, NOW(), NOW())",
        args![],
    )
    .await;
    wait_until("the record to be completed", Duration::from_secs(900), async || {
        db.text("SELECT job_status FROM crelio_data_migrations").await == "Completed"
    })
    .await;
    let record = &db.rows("SELECT start_date, end_date, time_taken FROM crelio_data_migrations", args![]).await[0];
    assert_eq!(record.date(0).unwrap(), "2025-06-01".parse().unwrap());
    assert_eq!(record.date(1).unwrap(), "2026-06-14".parse().unwrap());
    assert!((1..900).contains(&record.int(2).unwrap()), "time_taken is {:?}", record.int(2));
    for status in ["STARTED", "COMPLETED"] {
        let sql = format!(
            "SELECT COUNT(*) FROM operation_event_log WHERE event_name LIKE 'Historical-Summary-Rebuild%' AND status = '{status}'"
        );
        assert_eq!(db.number(&sql).await, 1, "{status}");
    }

    for (event, a, b, from) in AUDITS {
        let expected = format!(
            "SELECT {DAY} AS day, {a} AS a, {b} AS b, COUNT(*) AS count FROM billing {from}
             WHERE billing.lab_id = 1 AND billing.isCancelled = 0 AND {a} IS NOT NULL GROUP BY 1, 2, 3"
        );
        let wrong = db
            .number(&format!(
                "SELECT COUNT(*) FROM ({expected}) AS expected
                 LEFT JOIN operation_historical_summary AS s
                        ON s.lab_id = 1 AND s.ordered_at = day AND s.dimension_a_id = a
                       AND s.dimension_b_id = b AND s.event_type = '{event}' AND s.event_count = count
                 WHERE s.id IS NULL"
            ))
            .await;
        assert_eq!(wrong, 0, "{event}: rows missing or wrong");
        let rows = db.number(&format!("SELECT COUNT(*) FROM ({expected}) AS expected")).await;
        let stored =
            format!("SELECT COUNT(*) FROM operation_historical_summary WHERE lab_id = 1 AND event_type = '{event}'");
        assert!(rows > 1000);
        assert_eq!(db.number(&stored).await, rows, "{event}: ghosts");
    }
}
