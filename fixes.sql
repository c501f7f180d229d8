-- From daymend doctor --print-fixes. daymend itself applies none of this.
-- A statement behind "First:" is a comment until that is done: then print this again.
-- Each may rewrite its table: choose a quiet hour, or use gh-ost or pt-online-schema-change.

-- summary.negative: nothing keeps event_count from falling below zero; SQLite cannot alter a column, so the table is written anew.
-- Would refuse today: nothing.
PRAGMA legacy_alter_table = ON;
BEGIN IMMEDIATE;
ALTER TABLE `operation_historical_summary` RENAME TO `operation_historical_summary_before`;
CREATE TABLE `operation_historical_summary` (
    `id` INTEGER PRIMARY KEY AUTOINCREMENT,
    `lab_id` INTEGER NOT NULL,
    `ordered_at` TEXT NOT NULL,
    `dimension_a_id` INTEGER NOT NULL DEFAULT 0,
    `dimension_b_id` INTEGER NOT NULL DEFAULT 0,
    `event_type` TEXT NOT NULL,
    `event_count` INTEGER NOT NULL CHECK (`event_count` >= 0),
    `created_at` TEXT NOT NULL,
    `modified_at` TEXT NOT NULL,
    UNIQUE (`lab_id`, `ordered_at`, `dimension_a_id`, `dimension_b_id`, `event_type`)
);
INSERT OR ROLLBACK INTO `operation_historical_summary` (`id`, `lab_id`, `ordered_at`, `dimension_a_id`, `dimension_b_id`, `event_type`, `event_count`, `created_at`, `modified_at`)
SELECT `id`, `lab_id`, `ordered_at`, `dimension_a_id`, `dimension_b_id`, `event_type`, `event_count`, `created_at`, `modified_at` FROM `operation_historical_summary_before`;
DROP TABLE `operation_historical_summary_before`;
COMMIT;
PRAGMA legacy_alter_table = OFF;
