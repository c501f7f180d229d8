"""The sixteen event types, written for the rivals from the contract, not from daymend's definition."""

from typing import NamedTuple


class Event(NamedTuple):
    name: str
    a: str
    b: str
    tables: str
    where: str


BILL = "billing JOIN billingInfo ON billingInfo.billing_id = billing.id"
TEST = "JOIN labReportRelation ON labReportRelation.billing_id = billing.id"
SAMPLE = "JOIN collectedSample ON collectedSample.billing_id = billing.id"

MEASURES = [
    ("bill", "0", "", ""),
    ("test", "labReportRelation.test_id", TEST, "AND labReportRelation.isCancelled = 0"),
    ("sample", "collectedSample.sampleType_id", SAMPLE, ""),
    ("sample_accessed", "collectedSample.sampleType_id", SAMPLE, "AND collectedSample.isAccessed = 1"),
    ("sample_not_accessed", "collectedSample.sampleType_id", SAMPLE, "AND collectedSample.isAccessed = 0"),
]

EVENTS = [
    Event(f"{dimension}_{measure}", f"billingInfo.{dimension}_id", b, f"{BILL} {join}", where)
    for dimension in ("organization", "referral", "branch")
    for measure, b, join, where in MEASURES
] + [
    Event(
        "department_test",
        "allTests.department_id",
        "labReportRelation.test_id",
        f"billing {TEST} JOIN allTests ON allTests.id = labReportRelation.test_id",
        "AND labReportRelation.isCancelled = 0",
    )
]

COLUMNS = (
    "lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count, created_at, modified_at"
)
