-- One row per sample collected for a bill, those of cancelled bills included. LEFT JOIN, as in tests.sql.
SELECT collectedSample.billing_id    AS part_of,
       collectedSample.sampleType_id AS sample_type_id,
       collectedSample.isAccessed    AS accessed
FROM :bills
LEFT JOIN collectedSample ON collectedSample.billing_id = bills.id
