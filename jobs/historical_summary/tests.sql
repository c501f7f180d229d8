-- One row per test ordered on a bill, cancelled ones included. LEFT JOIN makes every database begin with the bills.
SELECT labReportRelation.billing_id  AS part_of,
       labReportRelation.test_id     AS test_id,
       allTests.department_id        AS department_id,
       labReportRelation.isCancelled AS test_cancelled
FROM :bills
LEFT JOIN labReportRelation ON labReportRelation.billing_id = bills.id
LEFT JOIN allTests ON allTests.id = labReportRelation.test_id
