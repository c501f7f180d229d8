"""benches/run: every work item, its contenders interleaved, medians at the end."""

import argparse
import os
import pathlib
import platform
import statistics
import time

from . import builds, daymend, data, incumbent, profile, set_based
from .daymend import Daymend, fingerprint, timed
from .report import Item, progress, table
from .server import SETTINGS, Server, rows
from .writers import Writers, percentile

LAB, ZONE = 1, data.ZONES[0]
INCUMBENT, INCUMBENT_TX = "incumbent", "incumbent, a transaction a day"
SELECT_ALONE, SQLMESH = "its SELECT alone", "SQLMesh"


def main() -> None:
    options = arguments()
    daymend.BINARY = options.binary.resolve()
    server = Server(pathlib.Path(__file__).parents[2] / "target/bench-data", options.server)
    try:
        print(machine(server), flush=True)
        database = data.create(server, "three_labs", len(data.ZONES), options.days)
        incumbent.install(database)
        ours = Daymend(server, "three_labs")
        for name in options.items:
            work = builds.WORK[name](server, options) if options.before else WORK[name](server, database, ours, options)
            print(table(work), flush=True)
    finally:
        server.stop()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benches/run", description=__doc__)
    parser.add_argument("items", nargs="*", choices=[[], *WORK], help=f"of {', '.join(WORK)}; all but flame by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--days", type=int, default=1096, help="of history, at 300 bills a day and lab")
    parser.add_argument("--labs", type=int, default=1000, help="of the nightly repair")
    parser.add_argument("--sqlmesh", action="store_true", help="let SQLMesh restate the days as well")
    parser.add_argument("--binary", type=pathlib.Path, default=daymend.BINARY, help="of daymend")
    parser.add_argument("--before", type=pathlib.Path, help=f"another build of the same schema, in turns with the first ({', '.join(builds.WORK)})")
    parser.add_argument("--server", type=pathlib.Path, help="another mariadbd, such as one with symbols")
    parser.add_argument("--samples", type=pathlib.Path, default="perf.data", help="where flame writes its samples")
    parser.add_argument("--short", action="store_true", help="one round of 14 days and 9 labs: shows that all of it runs")
    options = parser.parse_args()
    options.before = options.before and options.before.resolve()
    options.items = options.items or ([*builds.WORK] if options.before else [name for name in WORK if name != "flame"])
    if options.before and (others := set(options.items) - set(builds.WORK)):
        parser.error(f"--before is not for {', '.join(sorted(others))}")
    if options.short:
        options.rounds, options.days, options.labs = 1, 14, 9
    return options


def machine(server: Server) -> str:
    version = rows(server.connect("mysql"), "SELECT VERSION()")[0][0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    settings = ", ".join(f"{name}={value}" for name, value in SETTINGS.items())
    size = daymend.BINARY.stat().st_size / 2**20
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}; MariaDB {version} ({settings}); "
        f"daymend {size:.1f} MiB; load {os.getloadavg()[0]:.1f} at the start\n"
    )


def rebuild(server, database, ours, options) -> Item:
    """Rebuilds a lab's whole history, into an empty summary; the incumbent begins with a DELETE of the old one."""
    first, last = data.first(options.days), data.LAST
    ways = {
        "daymend": lambda: ours.repair(first, last, LAB),
        INCUMBENT: lambda: rows(database, f"CALL summary_rebuild({LAB}, '{first}', '{last}')"),
        INCUMBENT_TX: lambda: rows(database, f"CALL summary_rebuild_tx({LAB}, '{first}', '{last}')"),
        "incumbent, nothing to DELETE": lambda: rows(database, f"CALL summary_days({LAB}, '{first}', '{last}')"),
        "one INSERT … SELECT": lambda: set_based.insert(database, LAB, ZONE, last),
        SELECT_ALONE: lambda: set_based.select(database, LAB, ZONE, last),
    }
    if options.sqlmesh:
        from .sqlmesh_rival import Rival

        mesh = Rival(server, "three_labs", LAB, ZONE, first, last)
        ways[SQLMESH] = mesh.restate
    took, memory, right = {name: [] for name in ways}, 0, None
    for _ in range(options.rounds):
        for name, way in ways.items():
            ours.forget()
            if name not in (INCUMBENT, INCUMBENT_TX):
                rows(database, "TRUNCATE TABLE operation_historical_summary")
            server.settle(database)
            # The start-up of SQLMesh is not counted.
            took[name].append(1000 * (way() if name == SQLMESH else timed(way)) / options.days)
            progress("rebuild", name, took[name])
            if name == SQLMESH:
                mesh.check(right)
            if name in (SELECT_ALONE, SQLMESH):  # these do not write the summary
                continue
            left = fingerprint(database)
            right = right or left
            if left != right:
                raise SystemExit(f"{name} left {left}, not {right}")
            memory = max(memory, ours.memory)
    notes = [f"{right[0]:,} rows, the same from each of them. A worker's memory: {memory / 1024:.0f} MiB at most."]
    if options.sqlmesh:
        notes.append(mesh.note())
    return Item(f"Rebuild of one lab, {options.days} days, two workers", "day", took, notes)


def right(server, database, ours, options) -> Item:
    """Repairs a year that is right already."""
    days = min(options.days, 365)
    first, last = data.first(days), data.LAST
    rows(database, "TRUNCATE TABLE operation_historical_summary")
    ours.forget()
    ours.repair(data.first(options.days), last, LAB)
    ways = {
        "daymend": lambda: ours.repair(first, last, LAB),
        INCUMBENT: lambda: rows(database, f"CALL summary_days({LAB}, '{first}', '{last}')"),
    }
    took = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            ours.forget()
            server.settle(database)
            took[name].append(1000 * timed(way) / days)
            progress("right", name, took[name])
            if name == "daymend" and ours.rows_written() != 0:
                raise SystemExit("daymend wrote rows that were right already")
    return Item(f"Re-repair of {days} days that are right", "day", took, ["daymend wrote no row."])


def nightly(server, database, ours, options) -> Item:
    """Repairs yesterday for many labs, 99 % right; a lab's rows are stored together, as a recompute writes them."""
    return nightly_of_labs(server, options, "a lab's rows together")


def nightly_scattered(server, database, ours, options) -> Item:
    """The same; the rows of all labs are interleaved, as triggers write them."""
    return nightly_of_labs(server, options, "rows of all labs among each other", data.scatter)


def nightly_of_labs(server, options, how, arrange=None) -> Item:
    database = data.create(server, "many_labs", options.labs, 1)
    incumbent.install(database)
    rivals = {INCUMBENT: lambda: rows(database, f"CALL summary_nightly('{data.LAST}')")}
    took, held = damaged(server, "many_labs", database, options, rivals, arrange)
    took = {name: [1000 * seconds / options.labs for seconds in rounds] for name, rounds in took.items()}
    title = f"Nightly repair of one day for {options.labs:,} labs, 99 % right, {how}"
    return Item(title, "lab", took, [f"{held:,} rows, of which one in a hundred is wrong each time."])


def damaged(server, name, database, options, rivals, arrange=None) -> tuple[dict[str, list[float]], int]:
    """Returns the seconds that each takes to repair every hundredth row, by round, and the number of rows."""
    ours = Daymend(server, name)
    ours.repair(data.LAST, data.LAST)
    if arrange:
        arrange(database)
    rows(database, "ANALYZE TABLE operation_historical_summary")
    wanted = fingerprint(database)
    ways = {"daymend": lambda: ours.repair(data.LAST, data.LAST), **rivals}
    took = {way: [] for way in ways}
    for place in range(options.rounds):
        for way, repair in ways.items():
            ours.forget()
            data.damage(database, place)
            server.settle(database)
            took[way].append(timed(repair))
            progress(f"repair of {name}, seconds", way, took[way])
            if fingerprint(database) != wanted:
                raise SystemExit(f"{way} left something wrong")
    return took, wanted[0]


def writers(server, database, ours, options) -> Item:
    """Rebuilds from empty while users cancel bills of the same days."""
    bills = len(data.ZONES) * data.BILLS_A_DAY * options.days
    took, notes = {"daymend": []}, ["| | p50 ms | p99 ms | longest |", "|---|---:|---:|---:|"]
    alone, beside = [], []
    for _ in range(options.rounds):
        enqueue_from_empty(server, database, ours, options)
        users = Writers(server, "three_labs", LAB, bills)
        took["daymend"].append(1000 * timed(ours.work) / options.days)
        progress("writers", "daymend", took["daymend"])
        beside.append(users.stop())
        users = Writers(server, "three_labs", LAB, bills)
        users.stopping.wait(took["daymend"][-1] * options.days / 1000)
        alone.append(users.stop())
    for name, rounds in [("daymend off", alone), ("beside the rebuild", beside)]:
        p50, p99 = (statistics.median(percentile(times, part) for times in rounds) for part in (50, 99))
        longest = max(max(times) for times in rounds)
        notes.append(f"| {name} | {p50:.2f} | {p99:.2f} | {longest:.1f} |")
    return Item("Writers beside a rebuild from empty", "day", took, notes)


def enqueue_from_empty(server, database, ours, options) -> None:
    """Enqueues a lab's whole history, and empties the summary."""
    rows(database, "TRUNCATE TABLE operation_historical_summary")
    ours.forget()
    ours.enqueue(data.first(options.days), data.LAST, LAB)
    server.settle(database)


def growth_of_days(server, database, ours, options) -> Item:
    """daymend alone: the time per day must not grow with the history."""
    histories, took = {}, {}
    for years in [1, 3, 10]:
        days = max(10, options.days * years // 3)
        histories[f"years_{years}"] = days, data.create(server, f"years_{years}", 1, days)
    for _ in range(options.rounds):
        for name, (days, history) in histories.items():
            one = Daymend(server, name)
            rows(history, "TRUNCATE TABLE operation_historical_summary")
            one.forget()
            server.settle(history)
            rounds = took.setdefault(f"{days:,} days", [])
            rounds.append(1000 * timed(lambda: one.repair(data.first(days), data.LAST, LAB)) / days)
            progress("growth", f"{days} days", rounds)
    for name, (_, history) in histories.items():
        rows(history, f"DROP DATABASE {name}")
    return Item("Growth with the history: rebuild from empty", "day", took, [])


def growth_of_labs(server, database, ours, options) -> Item:
    """daymend alone: the time per lab must not grow with their number."""
    took = {}
    for factor in [0.1, 1, 10]:
        labs = max(5, int(options.labs * factor))
        database = data.create(server, "more_labs", labs, 1, bills_a_day=30)
        seconds, _ = damaged(server, "more_labs", database, options, {})
        took[f"{labs:,} labs"] = [1000 * round / labs for round in seconds["daymend"]]
    rows(database, "DROP DATABASE more_labs")
    return Item("Growth with the labs: nightly repair, 30 bills a lab", "lab", took, [])


def start(server, database, ours, options) -> Item:
    """Measures the time from the start of a worker process to its first claim."""
    first, last = data.first(options.days), data.LAST
    took = []
    for _ in range(options.rounds):
        ours.forget()
        ours.enqueue(first, last, LAB)
        begun = time.time()
        ours.work(1)
        claimed = rows(database, "SELECT UNIX_TIMESTAMP(MIN(claimed_at)) FROM daymend_jobs")[0][0]
        took.append(1000 * (float(claimed) - begun))
        progress("start", "daymend", took)
    return Item("Start of a worker to its first claim", "start", {"daymend": took}, ["By the machine's clock."])


def where(server, database, ours, options) -> Item:
    """Profiles daymend's rebuild by statement."""
    whole, statements = [], []
    for _ in range(options.rounds):
        enqueue_from_empty(server, database, ours, options)
        with profile.of_statements(server) as seconds:
            whole.append(1000 * timed(ours.work) / options.days)
        progress("profile", "daymend", whole)
        statements.append(seconds)
    kinds = {kind: [1000 * seconds[kind] / options.days for seconds in statements] for kind in set().union(*statements)}
    dearest = sorted(kinds, key=lambda kind: statistics.median(kinds[kind]), reverse=True)[:12]
    took = {"all of it": whole} | {kind: kinds[kind] for kind in dearest}
    notes = ["The statements of two workers run side by side, and each is written to a log."]
    return Item("Where a rebuild's time goes: the server's statements", "day", took, notes)


def flame(server, database, ours, options) -> Item:
    """Samples the stacks of daymend and the server during a rebuild."""
    enqueue_from_empty(server, database, ours, options)
    with profile.of_functions(options.samples):
        took = 1000 * timed(ours.work) / options.days
    return Item("Rebuild from empty, sampled", "day", {"daymend": [took]}, [f"The samples are in {options.samples}."])


WORK = {
    "rebuild": rebuild,
    "right": right,
    "nightly": nightly,
    "nightly-scattered": nightly_scattered,
    "writers": writers,
    "growth-days": growth_of_days,
    "growth-labs": growth_of_labs,
    "start": start,
    "profile": where,
    "flame": flame,
}

if __name__ == "__main__":
    main()
