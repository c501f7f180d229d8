-- The daily snapshot: a row a day. `due_us` (microseconds since 1970) is when it may be taken, and
-- while it is taken, when whoever takes it counts as dead.
CREATE TABLE IF NOT EXISTS daymend_snapshots (
    day         DATE          NOT NULL PRIMARY KEY,
    state       VARCHAR(16)   NOT NULL,
    attempt     INT           NOT NULL,
    due_us      BIGINT        NOT NULL,
    holder      VARCHAR(100)  NULL,
    name        VARCHAR(32)   NULL,
    size        BIGINT        NULL,
    row_count   BIGINT        NULL,
    took_ms     BIGINT        NULL,
    finished_at DATETIME(6)   NULL,
    error       VARCHAR(1000) NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
