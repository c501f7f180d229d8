-- Marks of late changes, which the triggers of `daymend triggers` append and the scheduler turns
-- into repairs. Nothing is unique but the id, so that no writer ever waits for another. A mark is
-- one of three things: a lab and the time of a bill that came, went or changed; a bill, something
-- of which did; a test of the catalogue, whose bills have to be found.
CREATE TABLE IF NOT EXISTS daymend_dirty (
    id        BIGINT      NOT NULL AUTO_INCREMENT PRIMARY KEY,
    lab_id    BIGINT      NULL,
    bill_time DATETIME(6) NULL,
    bill_id   BIGINT      NULL,
    test_id   BIGINT      NULL,
    marked_at DATETIME(6) NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
