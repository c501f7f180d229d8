-- One row a sample collected for a bill, those of cancelled bills too.
SELECT billing.billTime              AS bill_time,
       billingInfo.organization_id   AS organization_id,
       billingInfo.referral_id       AS referral_id,
       billingInfo.branch_id         AS branch_id,
       collectedSample.sampleType_id AS sample_type_id,
       billing.isCancelled           AS bill_cancelled,
       collectedSample.isAccessed    AS accessed
FROM billing
JOIN collectedSample ON collectedSample.billing_id = billing.id
LEFT JOIN billingInfo ON billingInfo.billing_id = billing.id
WHERE billing.lab_id = :lab_id
  AND billing.billTime >= :from
  AND billing.billTime < :until
