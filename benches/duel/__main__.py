"""benches/run: every work item, its contenders interleaved, medians at the end."""

import argparse
import os
import pathlib
import platform

from . import data, incumbent, set_based
from .daymend import BINARY, Daymend, fingerprint, timed
from .report import Item, table
from .server import SETTINGS, Server, rows
from .writers import Writers, percentile

ITEMS = ["rebuild", "right", "nightly", "writers", "growth"]
LAB, ZONE = 1, data.ZONES[0]


def main() -> None:
    options = arguments()
    server = Server(pathlib.Path(__file__).parents[2] / "target/bench-data")
    try:
        print(machine(server), flush=True)
        database = data.create(server, "three_labs", len(data.ZONES), options.days)
        incumbent.install(database)
        ours = Daymend(server, "three_labs")
        for name in options.items:
            print(table(WORK[name](server, database, ours, options)), flush=True)
    finally:
        server.stop()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benches/run", description=__doc__)
    parser.add_argument("items", nargs="*", choices=[[], *ITEMS], help=f"of {', '.join(ITEMS)}; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--days", type=int, default=1096, help="of history, at 300 bills a day and lab")
    parser.add_argument("--labs", type=int, default=1000, help="of the nightly repair")
    parser.add_argument("--sqlmesh", action="store_true", help="let SQLMesh restate the days as well")
    parser.add_argument("--short", action="store_true", help="two rounds of 60 days and 60 labs: shows that all of it runs")
    options = parser.parse_args()
    options.items = options.items or ITEMS
    if options.short:
        options.rounds, options.days, options.labs = 2, 60, 60
    return options


def machine(server: Server) -> str:
    version = rows(server.connect("mysql"), "SELECT VERSION()")[0][0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    settings = ", ".join(f"{name}={value}" for name, value in SETTINGS.items())
    size = BINARY.stat().st_size / 2**20
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}; MariaDB {version} ({settings}); "
        f"daymend {size:.1f} MiB; load {os.getloadavg()[0]:.1f} at the start\n"
    )


def rebuild(server, database, ours, options) -> Item:
    """From an empty summary to a lab's whole history."""
    first, last = data.first(options.days), data.LAST
    ways = {
        "daymend": lambda: ours.repair(first, last, LAB),
        "incumbent": lambda: rows(database, f"CALL summary_rebuild({LAB}, '{first}', '{last}')"),
        "one INSERT … SELECT": lambda: set_based.insert(database, LAB, ZONE, last),
        "its SELECT alone": lambda: set_based.select(database, LAB, ZONE, last),
    }
    took, memory, right = {name: [] for name in ways}, 0, None
    for _ in range(options.rounds):
        for name, way in ways.items():
            ours.forget()
            if name == "incumbent" and right is not None:
                pass  # what the last one left is what it has to DELETE
            else:
                rows(database, "TRUNCATE TABLE operation_historical_summary")
            server.settle(database)
            took[name].append(1000 * timed(way) / options.days)
            if name == "its SELECT alone":
                continue
            left = fingerprint(database)
            right = right or left
            if left != right:
                raise SystemExit(f"{name} left {left}, not {right}")
            memory = max(memory, ours.memory)
    notes = [f"{right[0]:,} rows, the same from each of them. A worker's memory: {memory / 1024:.0f} MiB at most."]
    if options.sqlmesh:
        from . import sqlmesh_rival

        took["SQLMesh"], note = sqlmesh_rival.rebuild(server, "three_labs", LAB, ZONE, first, last, options.rounds, right)
        notes.append(note)
    return Item(f"Rebuild from empty: one lab, {options.days} days, two workers", options.days, took, notes)


def right(server, database, ours, options) -> Item:
    """A year that is right already."""
    days = min(options.days, 365)
    first, last = data.first(days), data.LAST
    rows(database, "TRUNCATE TABLE operation_historical_summary")
    ours.forget()
    ours.repair(data.first(options.days), last, LAB)
    ways = {
        "daymend": lambda: ours.repair(first, last, LAB),
        "incumbent": lambda: rows(database, f"CALL summary_days({LAB}, '{first}', '{last}')"),
    }
    took = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            ours.forget()
            server.settle(database)
            took[name].append(1000 * timed(way) / days)
            if name == "daymend" and ours.rows_written() != 0:
                raise SystemExit("daymend wrote rows that were right already")
    return Item(f"Re-repair of {days} days that are right", days, took, ["daymend wrote no row."])


def nightly(server, database, ours, options, labs=None, rivals=True) -> Item:
    """Yesterday, for many labs whose summary is 99 % right."""
    labs = labs or options.labs
    database = data.create(server, "many_labs", labs, 1)
    incumbent.install(database)
    ours = Daymend(server, "many_labs")
    ours.repair(data.LAST, data.LAST)
    rows(database, "CREATE TABLE right_rows AS SELECT * FROM operation_historical_summary")
    wanted = fingerprint(database)
    ways = {"daymend": lambda: ours.repair(data.LAST, data.LAST)}
    if rivals:
        ways["incumbent"] = lambda: rows(database, f"CALL summary_nightly('{data.LAST}')")
    took = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            ours.forget()
            rows(database, "TRUNCATE TABLE operation_historical_summary")
            rows(database, "INSERT INTO operation_historical_summary SELECT * FROM right_rows")
            rows(database, "UPDATE operation_historical_summary SET event_count = event_count + 1 WHERE id % 100 = 0")
            rows(database, "ANALYZE TABLE operation_historical_summary")
            server.settle(database)
            took[name].append(1000 * timed(way) / labs)
            if fingerprint(database) != wanted:
                raise SystemExit(f"{name} left something wrong")
    return Item(f"Nightly repair of one day for {labs:,} labs, 99 % right", labs, took, [f"{wanted[0]:,} rows."])


def writers(server, database, ours, options) -> Item:
    """A rebuild from empty, and users who cancel bills of its days."""
    first, last = data.first(options.days), data.LAST
    bills = len(data.ZONES) * data.BILLS_A_DAY * options.days
    took, notes = {"daymend": []}, ["| | p50 ms | p99 ms | longest |", "|---|---:|---:|---:|"]
    alone, beside = [], []
    for _ in range(options.rounds):
        rows(database, "TRUNCATE TABLE operation_historical_summary")
        ours.forget()
        ours.enqueue(first, last, LAB)
        server.settle(database)
        users = Writers(server, "three_labs", LAB, bills)
        took["daymend"].append(1000 * timed(lambda: ours.work()) / options.days)
        beside.append(users.stop())
        users = Writers(server, "three_labs", LAB, bills)
        users.stopping.wait(took["daymend"][-1] * options.days / 1000)
        alone.append(users.stop())
    for name, rounds in [("daymend off", alone), ("beside the rebuild", beside)]:
        p50, p99, longest = (sorted(percentile(r, p) for r in rounds)[len(rounds) // 2] for p in (50, 99, 100))
        notes.append(f"| {name} | {p50:.2f} | {p99:.2f} | {longest:.1f} |")
    return Item("Writers beside a rebuild from empty", options.days, took, notes)


def growth(server, database, ours, options) -> Item:
    """daymend alone: the time a day must not grow with the history, nor with the labs."""
    took = {}
    for years in [1, 3, 10]:
        days = max(10, options.days * years // 3)
        database = data.create(server, "years", 1, days)
        ours = Daymend(server, "years")
        name = "daymend" if not took else f"{days} days"
        took[name] = []
        for _ in range(options.rounds):
            rows(database, "TRUNCATE TABLE operation_historical_summary")
            ours.forget()
            server.settle(database)
            took[name].append(1000 * timed(lambda: ours.repair(data.first(days), data.LAST, LAB)) / days)
        rows(database, "DROP DATABASE years")
    notes = [f"The first line is {max(10, options.days // 3)} days. Then nightly repairs:", ""]
    for factor in [10, 1]:
        item = nightly(server, database, ours, options, max(10, options.labs // factor), rivals=False)
        notes.append(table(item))
    return Item("Growth: rebuild from empty", options.days, took, notes)


WORK = {"rebuild": rebuild, "right": right, "nightly": nightly, "writers": writers, "growth": growth}

if __name__ == "__main__":
    main()
