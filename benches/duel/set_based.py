"""The limit: one statement that computes a lab's whole history into an empty table."""

import pymysql

from .events import COLUMNS
from .server import rows

DIMENSIONS = "(SELECT 1 AS place UNION ALL SELECT 2 UNION ALL SELECT 3)"
A = "ELT(dimension.place, billingInfo.organization_id, billingInfo.referral_id, billingInfo.branch_id)"
PREFIX = "ELT(dimension.place, 'organization', 'referral', 'branch')"


def history(lab: int, zone: str, last: str) -> str:
    """One scan a measure, crossed with the dimensions: the fastest set-based way that was found."""
    day = f"DATE(CONVERT_TZ(billing.billTime, 'UTC', '{zone}'))"
    where = f"WHERE billing.lab_id = {lab} AND billing.isCancelled = 0 AND billing.billTime < CONVERT_TZ('{last}' + INTERVAL 1 DAY, '{zone}', 'UTC')"
    bills = "FROM billing JOIN billingInfo ON billingInfo.billing_id = billing.id"
    tests = "JOIN labReportRelation ON labReportRelation.billing_id = billing.id AND labReportRelation.isCancelled = 0"
    samples = "JOIN collectedSample ON collectedSample.billing_id = billing.id"

    def measure(a: str, b: str, name: str, tables: str) -> str:
        return (
            f"SELECT {lab} AS lab, {day} AS day, CAST({a} AS SIGNED) AS a, {b} AS b, {name} AS event, COUNT(*) AS n, "
            f"UTC_TIMESTAMP(6) AS made, UTC_TIMESTAMP(6) AS changed {tables} {where} AND {a} IS NOT NULL GROUP BY day, a, b, event"
        )

    crossed = f"CROSS JOIN {DIMENSIONS} AS dimension"
    state = "CROSS JOIN (SELECT 0 AS split UNION ALL SELECT 1) AS splits"
    named = f"CONCAT({PREFIX}, IF(split = 0, '_sample', IF(isAccessed = 1, '_sample_accessed', '_sample_not_accessed')))"
    return " UNION ALL ".join(
        [
            measure(A, "0", f"CONCAT({PREFIX}, '_bill')", f"{bills} {crossed}"),
            measure(A, "labReportRelation.test_id", f"CONCAT({PREFIX}, '_test')", f"{bills} {tests} {crossed}"),
            measure(A, "collectedSample.sampleType_id", named, f"{bills} {samples} {crossed} {state}"),
            measure(
                "allTests.department_id",
                "labReportRelation.test_id",
                "'department_test'",
                f"FROM billing {tests} JOIN allTests ON allTests.id = labReportRelation.test_id",
            ),
        ]
    )


def insert(connection: pymysql.Connection, lab: int, zone: str, last: str) -> None:
    rows(connection, f"INSERT INTO operation_historical_summary ({COLUMNS}) {history(lab, zone, last)}")


def select(connection: pymysql.Connection, lab: int, zone: str, last: str) -> None:
    """The same without the write: counted, so that the rows need not travel."""
    rows(connection, f"SELECT COUNT(*), SUM(n) FROM ({history(lab, zone, last)}) AS rows_of_it")
