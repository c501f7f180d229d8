-- What operators did to the queue: who, when, to which jobs, and how many there were.
CREATE TABLE IF NOT EXISTS daymend_admin_log (
    id     BIGINT        NOT NULL AUTO_INCREMENT PRIMARY KEY,
    at     DATETIME(6)   NOT NULL,
    who    VARCHAR(100)  NOT NULL,
    action VARCHAR(32)   NOT NULL,
    filter VARCHAR(1000) NOT NULL,
    jobs   BIGINT        NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;

-- What is not claimed for now: a kind of jobs ('kind:rebuild'), or a lab ('lab:7').
CREATE TABLE IF NOT EXISTS daymend_pauses (
    what      VARCHAR(64)  NOT NULL PRIMARY KEY,
    lab_id    BIGINT       NULL,
    paused_at DATETIME(6)  NOT NULL,
    paused_by VARCHAR(100) NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
