-- One row a test ordered on a bill, cancelled ones too.
SELECT billing.billTime              AS bill_time,
       billingInfo.organization_id   AS organization_id,
       billingInfo.referral_id       AS referral_id,
       billingInfo.branch_id         AS branch_id,
       labReportRelation.test_id     AS test_id,
       allTests.department_id        AS department_id,
       billing.isCancelled           AS bill_cancelled,
       labReportRelation.isCancelled AS test_cancelled
FROM billing
JOIN labReportRelation ON labReportRelation.billing_id = billing.id
LEFT JOIN billingInfo ON billingInfo.billing_id = billing.id
LEFT JOIN allTests ON allTests.id = labReportRelation.test_id
WHERE billing.lab_id = :lab_id
  AND billing.billTime >= :from
  AND billing.billTime < :until
