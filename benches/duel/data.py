"""A lab system's data: 300 bills a day, 2.5 tests and 1.6 samples per bill, skewed, in order of time."""

import datetime
import pathlib

import pymysql

from .events import COLUMNS
from .server import Server, rows

SCHEMA = pathlib.Path(__file__).parents[2] / "tests/fixtures/source-schema.mysql.sql"
LAST = datetime.date(2026, 6, 14)
NOW = "2026-06-15T23:00:00Z"
ZONES = ["Asia/Kolkata", "America/New_York", "Africa/Cairo"]
BILLS_A_DAY = 300
TESTS = 300
DEPARTMENTS = 12


def create(server: Server, name: str, labs: int, days: int, bills_a_day: int = BILLS_A_DAY) -> pymysql.Connection:
    """Creates a database with this many labs, and with bills on the `days` days up to LAST."""
    admin = server.connect("mysql")
    rows(admin, f"DROP DATABASE IF EXISTS {name}")
    rows(admin, f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    connection = server.connect(name)
    text = "\n".join(line.split("--")[0] for line in SCHEMA.read_text().splitlines())
    for statement in filter(str.strip, text.split(";")):
        rows(connection, statement)
    bills = labs * days * bills_a_day
    tests, samples = bills * 5 // 2, bills * 8 // 5
    # These are days in UTC. A zone's days do not begin at midnight UTC, so a lab's first or last day has fewer bills.
    start = LAST - datetime.timedelta(days=days - 1)
    zone = " ".join(f"WHEN {place} THEN '{zone}'" for place, zone in enumerate(ZONES))
    rows(
        connection,
        "INSERT INTO labs (id, labName, labTimeZone, historicalViewEnabled) "
        f"SELECT seq, 'lab', CASE (seq - 1) % {len(ZONES)} {zone} END, 1 FROM seq_1_to_{labs}",
    )
    rows(
        connection,
        "INSERT INTO allTests (id, lab_id, testName, department_id) "
        f"SELECT seq, 1, 'test', IF(seq % 10 = 0, NULL, seq % {DEPARTMENTS}) FROM seq_1_to_{TESTS}",
    )
    seconds = days * 86400 / bills
    rows(
        connection,
        "INSERT INTO billing (id, lab_id, billTime, isCancelled, modified_at) "
        f"SELECT seq, 1 + seq % {labs}, '{start}' + INTERVAL FLOOR((seq - 1) * {seconds:.9f} * 1000000) MICROSECOND, "
        f"RAND(2) < 0.03, UTC_TIMESTAMP(6) FROM seq_1_to_{bills}",
    )
    rows(
        connection,
        "INSERT INTO billingInfo (billing_id, organization_id, referral_id, branch_id) "
        "SELECT seq, FLOOR(40 * POW(RAND(3), 4)), FLOOR(120 * POW(RAND(4), 4)), FLOOR(6 * POW(RAND(5), 2)) "
        f"FROM seq_1_to_{bills}",
    )
    rows(
        connection,
        "INSERT INTO labReportRelation (billing_id, test_id, isCancelled) "
        f"SELECT 1 + FLOOR((seq - 1) / 2.5), FLOOR(1 + {TESTS} * POW(RAND(7), 3)), RAND(8) < 0.02 "
        f"FROM seq_1_to_{tests}",
    )
    rows(
        connection,
        "INSERT INTO collectedSample (billing_id, sampleType_id, isAccessed) "
        f"SELECT 1 + FLOOR((seq - 1) / 1.6), FLOOR(1 + 12 * RAND(10)), RAND(11) < 0.8 FROM seq_1_to_{samples}",
    )
    for table in ["labs", "allTests", "billing", "billingInfo", "labReportRelation", "collectedSample"]:
        rows(connection, f"ANALYZE TABLE {table}")
    return connection


def scatter(connection: pymysql.Connection) -> None:
    """Rewrites the summary's rows in random order."""
    table = "operation_historical_summary"
    rows(connection, f"CREATE TABLE ordered AS SELECT * FROM {table}")
    rows(connection, f"TRUNCATE TABLE {table}")
    rows(connection, f"INSERT INTO {table} ({COLUMNS}) SELECT {COLUMNS} FROM ordered ORDER BY RAND(12)")
    rows(connection, "DROP TABLE ordered")


def damage(connection: pymysql.Connection, place: int) -> None:
    """Makes every hundredth row of the summary wrong, others at each place."""
    wrong = f"SET event_count = event_count + 1 WHERE id % 100 = {place}"
    rows(connection, f"UPDATE operation_historical_summary {wrong}")


def first(days: int) -> datetime.date:
    return LAST - datetime.timedelta(days=days - 1)
