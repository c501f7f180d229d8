-- One row per bill, cancelled ones included: rollup.toml decides what counts.
SELECT billing.id                  AS id,
       billing.billTime            AS bill_time,
       billingInfo.organization_id AS organization_id,
       billingInfo.referral_id     AS referral_id,
       billingInfo.branch_id       AS branch_id,
       billing.isCancelled         AS bill_cancelled
FROM billing
LEFT JOIN billingInfo ON billingInfo.billing_id = billing.id
WHERE billing.lab_id = :lab_id
  AND billing.billTime >= :from
  AND billing.billTime < :until
