-- What the standing audit remembers. Its state is one row a lab, never one a day.

-- A slice of the history, audited in one night. The row is taken by compare-and-set (turn),
-- under a lease that its holder extends as it goes on.
CREATE TABLE IF NOT EXISTS daymend_audits (
    id             BIGINT      NOT NULL AUTO_INCREMENT PRIMARY KEY,
    rollup         VARCHAR(32) NOT NULL,
    night          DATE        NOT NULL,
    state          ENUM('running', 'completed') NOT NULL,
    turn           BIGINT      NOT NULL DEFAULT 0,  -- how often it was taken
    taken_until_us BIGINT      NOT NULL DEFAULT 0,  -- microseconds since 1970, the database's clock
    spent_ms       BIGINT      NOT NULL DEFAULT 0,  -- of the budget
    labs_completed BIGINT      NOT NULL DEFAULT 0,  -- labs whose round ended
    days_audited   BIGINT      NOT NULL DEFAULT 0,
    days_drifted   BIGINT      NOT NULL DEFAULT 0,
    differences    BIGINT      NOT NULL DEFAULT 0,  -- rows
    run_id         BIGINT      NULL,                -- the repair of what it found
    started_at     DATETIME(6) NOT NULL,
    finished_at    DATETIME(6) NULL,
    UNIQUE KEY daymend_audits_night (rollup, night)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- The drift that a slice found.
CREATE TABLE IF NOT EXISTS daymend_audit_days (
    audit_id    BIGINT      NOT NULL,
    lab_id      BIGINT      NOT NULL,
    day         DATE        NOT NULL,
    cause       VARCHAR(32) NOT NULL,
    differences BIGINT      NOT NULL,
    PRIMARY KEY (audit_id, lab_id, day, cause)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- How far the standing audit has come with each lab. A round is one pass over its history.
CREATE TABLE IF NOT EXISTS daymend_audit_labs (
    rollup     VARCHAR(32)  NOT NULL,
    lab_id     BIGINT       NOT NULL,
    next_day   DATE         NULL,      -- where the round goes on; NULL where one has to begin
    round_at   DATETIME(6)  NULL,      -- when the round began that is under way, or was the last
    audited_at DATETIME(6)  NULL,      -- when the last round began that has ended: every day is audited since
    problem    VARCHAR(500) NULL,      -- what could not be compared in it
    PRIMARY KEY (rollup, lab_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
