-- migrations/mysql/0006_snapshots.sql says what it is for.
CREATE TABLE IF NOT EXISTS daymend_snapshots (
    day         TEXT    NOT NULL PRIMARY KEY,
    state       TEXT    NOT NULL,
    attempt     INTEGER NOT NULL,
    due_us      INTEGER NOT NULL,
    holder      TEXT    NULL,
    name        TEXT    NULL,
    size        INTEGER NULL,
    row_count   INTEGER NULL,
    took_ms     INTEGER NULL,
    finished_at TEXT    NULL,
    error       TEXT    NULL
) WITHOUT ROWID;
