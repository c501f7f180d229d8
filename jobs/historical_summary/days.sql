-- The first moment at or after :from at which the lab has facts; NULL if there is none.
SELECT MIN(billing.billTime) AS bill_time
FROM billing
WHERE billing.lab_id = :lab_id
  AND billing.billTime >= :from
