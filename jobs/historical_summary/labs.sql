-- Every lab: its time zone (IANA name or NULL), and whether the nightly run maintains it.
SELECT labs.id                    AS lab_id,
       labs.labTimeZone           AS time_zone,
       labs.historicalViewEnabled AS enabled
FROM labs
