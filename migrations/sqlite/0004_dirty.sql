-- migrations/mysql/0004_dirty.sql says what it is for. Nothing but the id is constrained: SQLite has
-- no handlers, and a mark that is refused would fail the user's own statement.

CREATE TABLE IF NOT EXISTS daymend_dirty (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    lab_id    INTEGER NULL,
    bill_time TEXT    NULL,
    bill_id   INTEGER NULL,
    test_id   INTEGER NULL,
    marked_at TEXT    NULL
);
