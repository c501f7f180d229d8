"""Medians, ratios and tables."""

import statistics
import sys
from typing import NamedTuple


class Item(NamedTuple):
    """One work item: the time of each contender by round, in milliseconds per `unit`."""

    title: str
    unit: str
    took: dict[str, list[float]]
    notes: list[str]


def table(item: Item) -> str:
    """Formats the item as a Markdown table. The ratio to the first contender is the median over the rounds."""
    first, ours = next(iter(item.took.items()))
    columns = ["", f"ms a {item.unit}, median", "lowest", "highest", f"times that of {first}"]
    lines = [f"### {item.title}", "", f"| {' | '.join(columns)} |", "|---|---:|---:|---:|---:|"]
    for name, took in item.took.items():
        ratio = statistics.median(theirs / own for theirs, own in zip(took, ours))
        lines.append(f"| {name} | {statistics.median(took):.2f} | {min(took):.2f} | {max(took):.2f} | {ratio:.2f} |")
    return "\n".join([*lines, "", *item.notes, ""])


def progress(item: str, name: str, took: list[float]) -> None:
    """Prints a line after each measurement."""
    print(f"{item}, round {len(took)}: {name} {took[-1]:.2f}", file=sys.stderr, flush=True)
