-- migrations/mysql/0002_admin.sql says what each is for.

CREATE TABLE IF NOT EXISTS daymend_admin_log (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    at     TEXT    NOT NULL,
    who    TEXT    NOT NULL,
    action TEXT    NOT NULL,
    filter TEXT    NOT NULL,
    jobs   INTEGER NOT NULL
);

CREATE TABLE IF NOT EXISTS daymend_pauses (
    what      TEXT    NOT NULL PRIMARY KEY,
    lab_id    INTEGER NULL,
    paused_at TEXT    NOT NULL,
    paused_by TEXT    NOT NULL
) WITHOUT ROWID;
