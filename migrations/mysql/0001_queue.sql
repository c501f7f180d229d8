-- daymend's own tables. Every statement can be run again: DDL is not transactional in MySQL.

-- A run is what somebody or something asked for: it owns jobs and closes when none is open.
CREATE TABLE IF NOT EXISTS daymend_runs (
    id           BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    rollup       VARCHAR(32)  NOT NULL,
    kind         ENUM('nightly', 'repair', 'rebuild') NOT NULL,
    state        ENUM('running', 'completed', 'failed', 'cancelled') NOT NULL,
    reason       VARCHAR(255) NOT NULL,
    requested_by VARCHAR(100) NOT NULL,
    time_zone    VARCHAR(64)  NULL,           -- of a nightly run
    lab_id       BIGINT       NULL,           -- of a rebuild
    first_day    DATE         NULL,           -- of its jobs
    last_day     DATE         NULL,
    as_of        DATETIME(6)  NOT NULL,       -- what the scheduler thought the time was
    event_name   VARCHAR(255) NOT NULL,       -- in operation_event_log
    created_at   DATETIME(6)  NOT NULL,
    finished_at  DATETIME(6)  NULL,
    KEY daymend_runs_state (state, id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- A job is one (rollup, lab, day). Its id is its run's id times 100,000,000 plus its place
-- in the run, so that a run's jobs are one range of the primary key.
--
-- sort_key orders each (kind, state): while available its turn (small numbers) or the moment
-- it is due again (microseconds since 1970); while running the id of the worker that
-- holds it; in the end the moment it ended. One index serves claim, retry, rescue and prune.
CREATE TABLE IF NOT EXISTS daymend_jobs (
    id            BIGINT       NOT NULL PRIMARY KEY,
    run_id        BIGINT       AS (id DIV 100000000) VIRTUAL,
    kind          ENUM('nightly', 'repair', 'rebuild') NOT NULL,
    state         ENUM('available', 'running', 'completed', 'discarded', 'cancelled') NOT NULL,
    sort_key      BIGINT       NOT NULL,
    rollup        VARCHAR(32)  NOT NULL,
    lab_id        BIGINT       NOT NULL,
    day           DATE         NOT NULL,
    attempt       SMALLINT     NOT NULL DEFAULT 0,
    attempts_max  SMALLINT     NOT NULL,
    lapses        SMALLINT     NOT NULL DEFAULT 0,  -- how often its worker died holding it
    worker_id     BIGINT       NULL,
    claimed_at    DATETIME(6)  NULL,
    rows_inserted INT          NULL,
    rows_updated  INT          NULL,
    rows_deleted  INT          NULL,
    error         VARCHAR(2000) NULL,
    running       TINYINT      AS (IF(state = 'running', 1, NULL)) VIRTUAL,
    KEY daymend_jobs_claim (kind, state, sort_key),
    -- Unique only while running: one (lab, day) never runs twice at once.
    UNIQUE KEY daymend_jobs_day (lab_id, day, rollup, running)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- How attempts ended that did not complete their job. The id is there because some servers
-- refuse a table without a primary key (sql_require_primary_key, Group Replication, Galera).
CREATE TABLE IF NOT EXISTS daymend_attempts (
    id         BIGINT        NOT NULL AUTO_INCREMENT PRIMARY KEY,
    job_id     BIGINT        NOT NULL,
    attempt    SMALLINT      NOT NULL,
    worker_id  BIGINT        NOT NULL,
    started_at DATETIME(6)   NULL,
    ended_at   DATETIME(6)   NOT NULL,
    outcome    ENUM('failed', 'lapsed', 'handed_back') NOT NULL,
    error      VARCHAR(2000) NULL,
    KEY daymend_attempts_job (job_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- A worker process. The id is new for every start (a pod name returns, a boot id never does), and
-- its lease covers every job that it holds, and is lost for good once it has run out.
CREATE TABLE IF NOT EXISTS daymend_workers (
    id             BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name           VARCHAR(255) NOT NULL,
    version        VARCHAR(32)  NOT NULL,
    started_at     DATETIME(6)  NOT NULL,
    heartbeat_at   DATETIME(6)  NOT NULL,
    lease_until_us BIGINT       NOT NULL,     -- microseconds since 1970, the database's clock
    stopped_at     DATETIME(6)  NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- Through which day each lab has been enqueued, and by which zone its history was built.
CREATE TABLE IF NOT EXISTS daymend_labs (
    rollup           VARCHAR(32) NOT NULL,
    lab_id           BIGINT      NOT NULL,
    enqueued_through DATE        NULL,
    time_zone        VARCHAR(64) NULL,        -- when it was first enqueued or last rebuilt
    PRIMARY KEY (rollup, lab_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- Which run carries out a record of crelio_data_migrations.
CREATE TABLE IF NOT EXISTS daymend_migrations (
    migration_id BIGINT NOT NULL PRIMARY KEY,
    run_id       BIGINT NOT NULL,
    KEY daymend_migrations_run (run_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- The lab system's output tables, only where they do not exist.
CREATE TABLE IF NOT EXISTS operation_historical_summary (
    id             BIGINT      NOT NULL AUTO_INCREMENT PRIMARY KEY,
    lab_id         BIGINT      NOT NULL,
    ordered_at     DATE        NOT NULL,
    dimension_a_id BIGINT      NOT NULL DEFAULT 0,
    dimension_b_id BIGINT      NOT NULL DEFAULT 0,
    event_type     VARCHAR(64) NOT NULL,
    event_count    INT         NOT NULL,
    created_at     DATETIME(6) NOT NULL,
    modified_at    DATETIME(6) NOT NULL,
    UNIQUE KEY summary_key (lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type)
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS operation_event_log (
    id         BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    event_name VARCHAR(255) NOT NULL,
    status     VARCHAR(32)  NOT NULL,
    created_at DATETIME(6)  NOT NULL
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS crelio_data_migrations (
    id              BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
    lab_id          BIGINT       NOT NULL,
    is_scheduled    TINYINT(1)   NOT NULL DEFAULT 0,
    start_date      DATE         NULL,
    end_date        DATE         NULL,
    job_status      VARCHAR(100) NOT NULL DEFAULT 'Pending',
    time_taken      INT UNSIGNED NULL DEFAULT 0,
    initiated_by_id BIGINT       NOT NULL,
    migration_type  VARCHAR(200) NOT NULL,
    created_at      DATETIME(6)  NOT NULL,
    modified_at     DATETIME(6)  NOT NULL
) ENGINE = InnoDB;
