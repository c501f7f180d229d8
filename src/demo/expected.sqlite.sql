-- The summary of one lab by the book: a GROUP BY over the source tables, which shares
-- neither code nor SQL nor calendar with daymend. check.rs and drift.rs go on from here.
WITH bills AS (
    SELECT billing.id, billing.lab_id, daymend_demo.day
    FROM billing
    JOIN daymend_demo ON daymend_demo.billing_id = billing.id
    WHERE billing.lab_id = ? AND billing.isCancelled = 0
),
owned AS (
    SELECT bills.*, 'organization' AS owner, organization_id AS owner_id
    FROM bills JOIN billingInfo ON billing_id = bills.id WHERE organization_id IS NOT NULL
    UNION ALL
    SELECT bills.*, 'referral', referral_id
    FROM bills JOIN billingInfo ON billing_id = bills.id WHERE referral_id IS NOT NULL
    UNION ALL
    SELECT bills.*, 'branch', branch_id
    FROM bills JOIN billingInfo ON billing_id = bills.id WHERE branch_id IS NOT NULL
),
facts (lab_id, day, a, b, event) AS (
    SELECT lab_id, day, owner_id, 0, owner || '_bill'
    FROM owned
    UNION ALL
    SELECT lab_id, day, owner_id, test_id, owner || '_test'
    FROM owned JOIN labReportRelation ON billing_id = owned.id WHERE isCancelled = 0
    UNION ALL
    SELECT lab_id, day, owner_id, sampleType_id, owner || '_sample'
    FROM owned JOIN collectedSample ON billing_id = owned.id
    UNION ALL
    SELECT lab_id, day, owner_id, sampleType_id,
           owner || CASE isAccessed WHEN 1 THEN '_sample_accessed' ELSE '_sample_not_accessed' END
    FROM owned JOIN collectedSample ON billing_id = owned.id WHERE isAccessed IN (0, 1)
    UNION ALL
    SELECT bills.lab_id, day, department_id, test_id, 'department_test'
    FROM bills
    JOIN labReportRelation ON billing_id = bills.id
    JOIN allTests ON allTests.id = test_id
    WHERE isCancelled = 0 AND department_id IS NOT NULL
),
expected (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count) AS (
    SELECT lab_id, day, a, b, event, COUNT(*)
    FROM facts
    GROUP BY lab_id, day, a, b, event
)
