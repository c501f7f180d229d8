-- daymend's own tables; migrations/mysql/0001_queue.sql says what each is for.

CREATE TABLE IF NOT EXISTS daymend_runs (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    rollup       TEXT NOT NULL,
    kind         TEXT NOT NULL CHECK (kind IN ('nightly', 'repair', 'rebuild')),
    state        TEXT NOT NULL CHECK (state IN ('running', 'completed', 'failed', 'cancelled')),
    reason       TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    time_zone    TEXT NULL,
    lab_id       INTEGER NULL,
    first_day    TEXT NULL,
    last_day     TEXT NULL,
    as_of        TEXT NOT NULL,
    event_name   TEXT NOT NULL,
    created_at   TEXT NOT NULL,
    finished_at  TEXT NULL
);

CREATE INDEX IF NOT EXISTS daymend_runs_state ON daymend_runs (state, id);

CREATE TABLE IF NOT EXISTS daymend_jobs (
    id            INTEGER PRIMARY KEY,
    run_id        INTEGER AS (id / 100000000) VIRTUAL,
    kind          TEXT NOT NULL CHECK (kind IN ('nightly', 'repair', 'rebuild')),
    state         TEXT NOT NULL CHECK (state IN ('available', 'running', 'completed', 'discarded', 'cancelled')),
    sort_key      INTEGER NOT NULL,
    rollup        TEXT NOT NULL,
    lab_id        INTEGER NOT NULL,
    day           TEXT NOT NULL,
    attempt       INTEGER NOT NULL DEFAULT 0,
    attempts_max  INTEGER NOT NULL,
    lapses        INTEGER NOT NULL DEFAULT 0,
    worker_id     INTEGER NULL,
    claimed_at    TEXT NULL,
    rows_inserted INTEGER NULL,
    rows_updated  INTEGER NULL,
    rows_deleted  INTEGER NULL,
    error         TEXT NULL,
    running       INTEGER AS (CASE WHEN state = 'running' THEN 1 END) VIRTUAL
);

CREATE INDEX IF NOT EXISTS daymend_jobs_claim ON daymend_jobs (kind, state, sort_key, id);

CREATE UNIQUE INDEX IF NOT EXISTS daymend_jobs_day ON daymend_jobs (lab_id, day, rollup, running);

CREATE TABLE IF NOT EXISTS daymend_attempts (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id     INTEGER NOT NULL,
    attempt    INTEGER NOT NULL,
    worker_id  INTEGER NOT NULL,
    started_at TEXT NULL,
    ended_at   TEXT NOT NULL,
    outcome    TEXT NOT NULL CHECK (outcome IN ('failed', 'lapsed', 'handed_back')),
    error      TEXT NULL
);

CREATE INDEX IF NOT EXISTS daymend_attempts_job ON daymend_attempts (job_id);

CREATE TABLE IF NOT EXISTS daymend_workers (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    name           TEXT NOT NULL,
    version        TEXT NOT NULL,
    started_at     TEXT NOT NULL,
    heartbeat_at   TEXT NOT NULL,
    lease_until_us INTEGER NOT NULL,
    stopped_at     TEXT NULL
);

CREATE TABLE IF NOT EXISTS daymend_labs (
    rollup           TEXT NOT NULL,
    lab_id           INTEGER NOT NULL,
    enqueued_through TEXT NULL,
    time_zone        TEXT NULL,
    PRIMARY KEY (rollup, lab_id)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS daymend_migrations (
    migration_id INTEGER PRIMARY KEY,
    run_id       INTEGER NOT NULL
);

CREATE INDEX IF NOT EXISTS daymend_migrations_run ON daymend_migrations (run_id);

CREATE TABLE IF NOT EXISTS operation_historical_summary (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    lab_id         INTEGER NOT NULL,
    ordered_at     TEXT    NOT NULL,
    dimension_a_id INTEGER NOT NULL DEFAULT 0,
    dimension_b_id INTEGER NOT NULL DEFAULT 0,
    event_type     TEXT    NOT NULL,
    event_count    INTEGER NOT NULL,
    created_at     TEXT    NOT NULL,
    modified_at    TEXT    NOT NULL,
    UNIQUE (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type)
);

CREATE TABLE IF NOT EXISTS operation_event_log (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    event_name TEXT NOT NULL,
    status     TEXT NOT NULL,
    created_at TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS crelio_data_migrations (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    lab_id          INTEGER NOT NULL,
    is_scheduled    INTEGER NOT NULL DEFAULT 0,
    start_date      TEXT    NULL,
    end_date        TEXT    NULL,
    job_status      TEXT    NOT NULL DEFAULT 'Pending',
    time_taken      INTEGER NULL DEFAULT 0,
    initiated_by_id INTEGER NOT NULL,
    migration_type  TEXT    NOT NULL,
    created_at      TEXT    NOT NULL,
    modified_at     TEXT    NOT NULL
);
