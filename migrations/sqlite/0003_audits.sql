-- migrations/mysql/0003_audits.sql says what each is for.

CREATE TABLE IF NOT EXISTS daymend_audits (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    rollup         TEXT    NOT NULL,
    night          TEXT    NOT NULL,
    state          TEXT    NOT NULL CHECK (state IN ('running', 'completed')),
    turn           INTEGER NOT NULL DEFAULT 0,
    taken_until_us INTEGER NOT NULL DEFAULT 0,
    spent_ms       INTEGER NOT NULL DEFAULT 0,
    labs_completed INTEGER NOT NULL DEFAULT 0,
    days_audited   INTEGER NOT NULL DEFAULT 0,
    days_drifted   INTEGER NOT NULL DEFAULT 0,
    differences    INTEGER NOT NULL DEFAULT 0,
    run_id         INTEGER NULL,
    started_at     TEXT    NOT NULL,
    finished_at    TEXT    NULL,
    UNIQUE (rollup, night)
);

CREATE TABLE IF NOT EXISTS daymend_audit_days (
    audit_id    INTEGER NOT NULL,
    lab_id      INTEGER NOT NULL,
    day         TEXT    NOT NULL,
    cause       TEXT    NOT NULL,
    differences INTEGER NOT NULL,
    PRIMARY KEY (audit_id, lab_id, day, cause)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS daymend_audit_labs (
    rollup     TEXT    NOT NULL,
    lab_id     INTEGER NOT NULL,
    next_day   TEXT    NULL,
    round_at   TEXT    NULL,
    audited_at TEXT    NULL,
    problem    TEXT    NULL,
    PRIMARY KEY (rollup, lab_id)
) WITHOUT ROWID;
