-- The lab system's source tables on SQLite, as the demo and the tests make them.
-- The reference is the MySQL schema of tests/fixtures/source-schema.mysql.sql.

CREATE TABLE labs (
    id                    INTEGER PRIMARY KEY AUTOINCREMENT,
    labName               TEXT    NOT NULL,
    labTimeZone           TEXT    NULL,
    historicalViewEnabled INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE billing (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    lab_id      INTEGER NOT NULL,
    billTime    TEXT    NOT NULL,
    isCancelled INTEGER NOT NULL DEFAULT 0,
    modified_at TEXT    NOT NULL
);

CREATE INDEX billing_lab_time ON billing (lab_id, billTime);

CREATE TABLE billingInfo (
    billing_id      INTEGER PRIMARY KEY,
    organization_id INTEGER NULL,
    referral_id     INTEGER NULL,
    branch_id       INTEGER NULL
);

CREATE TABLE allTests (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    lab_id        INTEGER NOT NULL,
    testName      TEXT    NOT NULL,
    department_id INTEGER NULL
);

CREATE TABLE labReportRelation (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    billing_id  INTEGER NOT NULL,
    test_id     INTEGER NOT NULL,
    isCancelled INTEGER NOT NULL DEFAULT 0
);

CREATE INDEX report_billing ON labReportRelation (billing_id);

CREATE TABLE collectedSample (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    billing_id    INTEGER NOT NULL,
    sampleType_id INTEGER NOT NULL,
    isAccessed    INTEGER NOT NULL DEFAULT 0
);

CREATE INDEX sample_billing ON collectedSample (billing_id);
