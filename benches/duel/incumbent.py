"""What daymend replaces, as the first seed document describes it: stored procedures that run sixteen
`INSERT … SELECT … GROUP BY … ON DUPLICATE KEY UPDATE` per day, after a DELETE in a rebuild.

Where the document leaves doubts, the incumbent gets the better choice: static statements for one lab, an IN list
(which can use the index) for the labs of a zone, and half-open days (`23:59:59` would lose the last second's bills).
The document mentions no transaction, so each statement commits by itself. Procedures whose names end in `_tx` rebuild
with a transaction per day, which the incumbent could have had."""

import pymysql

from .events import COLUMNS, EVENTS
from .server import rows


def _statement(event, labs: str, day: str, start: str, end: str) -> str:
    return (
        f"INSERT INTO operation_historical_summary ({COLUMNS}) "
        f"SELECT billing.lab_id, {day}, {event.a}, {event.b}, '{event.name}', COUNT(*), UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) "
        f"FROM {event.tables} "
        f"WHERE billing.lab_id {labs} AND billing.billTime >= {start} AND billing.billTime < {end} "
        f"AND billing.isCancelled = 0 AND {event.a} IS NOT NULL {event.where} "
        f"GROUP BY billing.lab_id, {event.a}{'' if event.b == '0' else ', ' + event.b} "
        "ON DUPLICATE KEY UPDATE event_count = VALUES(event_count), modified_at = VALUES(modified_at)"
    )


def install(connection: pymysql.Connection) -> None:
    static = "; ".join(_statement(event, "= p_lab", "p_day", "p_start", "p_end") for event in EVENTS)
    dynamic = "".join(
        "SET @sql = CONCAT("
        + repr(_statement(event, "IN (#) ", "?", "?", "?")).replace("#", "', p_labs, '").replace('"', "'")
        + "); PREPARE day FROM @sql; EXECUTE day USING @day, @start, @end; DEALLOCATE PREPARE day; "
        for event in _quoted()
    )
    procedures = {
        "group": "(p_labs LONGTEXT, p_day DATE, p_start DATETIME(6), p_end DATETIME(6)) "
        f"BEGIN SET @day = p_day, @start = p_start, @end = p_end; {dynamic}END",
        "nightly": "(p_day DATE) BEGIN "
        "DECLARE done INT DEFAULT 0; DECLARE zone VARCHAR(64); DECLARE labs_of LONGTEXT; "
        "DECLARE zones CURSOR FOR SELECT labTimeZone, GROUP_CONCAT(id) FROM labs "
        "WHERE historicalViewEnabled = 1 GROUP BY labTimeZone; "
        "DECLARE CONTINUE HANDLER FOR NOT FOUND SET done = 1; "
        "SET SESSION group_concat_max_len = 10000000; "
        "OPEN zones; next_zone: LOOP FETCH zones INTO zone, labs_of; "
        "IF done THEN LEAVE next_zone; END IF; "
        "CALL summary_group(labs_of, p_day, CONVERT_TZ(p_day, zone, 'UTC'), "
        "CONVERT_TZ(p_day + INTERVAL 1 DAY, zone, 'UTC')); END LOOP; CLOSE zones; END",
    }
    for end, begin, commit in [("", "", ""), ("_tx", "START TRANSACTION; ", "COMMIT; ")]:
        procedures |= {
            f"day{end}": "(p_lab BIGINT, p_day DATE, p_start DATETIME(6), p_end DATETIME(6)) "
            f"BEGIN {begin}{static}; {commit}END",
            f"days{end}": "(p_lab BIGINT, p_first DATE, p_last DATE) BEGIN "
            "DECLARE zone VARCHAR(64); DECLARE d DATE DEFAULT p_first; "
            "SELECT labTimeZone INTO zone FROM labs WHERE id = p_lab; "
            f"WHILE d <= p_last DO CALL summary_day{end}"
            "(p_lab, d, CONVERT_TZ(d, zone, 'UTC'), CONVERT_TZ(d + INTERVAL 1 DAY, zone, 'UTC')); "
            "SET d = d + INTERVAL 1 DAY; END WHILE; END",
            f"rebuild{end}": "(p_lab BIGINT, p_first DATE, p_last DATE) BEGIN "
            "DELETE FROM operation_historical_summary WHERE lab_id = p_lab; "
            f"CALL summary_days{end}(p_lab, p_first, p_last); END",
        }
    for name, definition in procedures.items():
        rows(connection, f"DROP PROCEDURE IF EXISTS summary_{name}")
        rows(connection, f"CREATE PROCEDURE summary_{name}{definition}")


def _quoted():
    """The events, quoted for use inside a SQL string."""
    return [event._replace(name=f"'{event.name}'") for event in EVENTS]
