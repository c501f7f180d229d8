"""Two builds of daymend in turns, by the clock and in CPU: what a change costs, or brings."""

import os
import resource
import statistics
from collections.abc import Callable

from . import data
from .daymend import Daymend, fingerprint, timed
from .report import Item, progress
from .server import Server, rows

LAB = 1
BUILDS = "daymend", "the build before"


def rebuild(server, options) -> Item:
    """Rebuilds a lab's whole history, into an empty summary."""
    database, (ours, _) = builds = prepared(server, options, "three_labs")

    def empty(_round: int) -> None:
        rows(database, "TRUNCATE TABLE operation_historical_summary")

    work = (data.first(options.days), data.LAST, LAB)
    empty(0)
    ours.repair(*work)
    return compared(server, builds, options, f"Rebuild of {options.days} days", ("day", options.days), empty, work)


def right(server, options) -> Item:
    """Repairs days that are right already."""
    builds = prepared(server, options, "three_labs")
    work = (data.first(options.days), data.LAST, LAB)
    builds[1][0].repair(*work)
    return compared(server, builds, options, f"{options.days} right days", ("day", options.days), lambda _: None, work)


def nightly(server, options, arrange: Callable | None = None) -> Item:
    """Repairs yesterday for many labs, 99 % right."""
    data.create(server, "many_labs", options.labs, 1)
    database, (ours, _) = builds = prepared(server, options, "many_labs")
    work = (data.LAST, data.LAST)
    ours.repair(*work)
    if arrange:
        arrange(database)
    rows(database, "ANALYZE TABLE operation_historical_summary")
    title = f"Nightly repair of {options.labs} labs" + (", rows of all labs among each other" if arrange else "")
    return compared(server, builds, options, title, ("lab", options.labs), lambda place: data.damage(database, place), work)


def prepared(server: Server, options, name: str):
    """A connection to the database, and both builds on it."""
    return server.connect(name), [Daymend(server, name, binary) for binary in (None, options.before)]


def compared(server: Server, builds, options, title: str, per: tuple[str, int], arrange: Callable, work: tuple) -> Item:
    """Has both do the work in turns; both have to leave what is there now."""
    database, builds = builds
    wanted, (unit, count) = fingerprint(database), per
    took, cpu = {name: [] for name in BUILDS}, {name: [] for name in BUILDS}
    for place in range(options.rounds):
        # Whoever is first in a round is second in the next.
        for name, build in sorted(zip(BUILDS, builds), reverse=place % 2 == 1):
            build.forget()
            arrange(place)
            server.settle(database)
            before = seconds_of_cpu(server)
            took[name].append(1000 * timed(lambda: build.repair(*work)) / count)
            cpu[name].append([1000 * (now - then) / count for now, then in zip(seconds_of_cpu(server), before)])
            progress(title, name, took[name])
            if fingerprint(database) != wanted:
                raise SystemExit(f"{name} left something else")
    medians = {name: " + ".join(f"{statistics.median(part):.2f}" for part in zip(*cpu[name])) for name in BUILDS}
    notes = ["CPU of the server + daymend: " + "; ".join(f"{name} {medians[name]} ms a {unit}" for name in BUILDS) + "."]
    return Item(title, unit, took, notes)


def seconds_of_cpu(server: Server) -> tuple[float, float]:
    """The CPU that the server, and the processes that have ended, have used so far."""
    stat = open(f"/proc/{server.process.pid}/stat").read().rsplit(")", 1)[1].split()
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"), ended.ru_utime + ended.ru_stime


WORK = {
    "rebuild": rebuild,
    "right": right,
    "nightly": nightly,
    "nightly-scattered": lambda server, options: nightly(server, options, data.scatter),
}
