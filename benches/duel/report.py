"""Medians, ratios and tables."""

import statistics
import sys
from typing import NamedTuple


class Item(NamedTuple):
    """One work item: what each contender took, round by round, in milliseconds a `unit`."""

    title: str
    unit: str
    took: dict[str, list[float]]
    notes: list[str]


def table(item: Item) -> str:
    """The item as a table of Markdown; the ratio is to the first contender's, round by round."""
    first, ours = next(iter(item.took.items()))
    columns = ["", f"ms a {item.unit}, median", "lowest", "highest", f"times that of {first}"]
    lines = [f"### {item.title}", "", f"| {' | '.join(columns)} |", "|---|---:|---:|---:|---:|"]
    for name, took in item.took.items():
        ratio = statistics.median(theirs / own for theirs, own in zip(took, ours))
        lines.append(f"| {name} | {statistics.median(took):.2f} | {min(took):.2f} | {max(took):.2f} | {ratio:.2f} |")
    return "\n".join([*lines, "", *item.notes, ""])


def progress(item: str, name: str, took: list[float]) -> None:
    """A line to whoever waits, after each measurement."""
    print(f"{item}, round {len(took)}: {name} {took[-1]:.2f}", file=sys.stderr, flush=True)
