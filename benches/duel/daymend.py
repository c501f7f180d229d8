"""daymend as an operator runs it: a command enqueues jobs, and worker processes run them."""

import datetime
import os
import pathlib
import subprocess
import time

import pymysql

from .data import NOW
from .server import Server, rows

BINARY = pathlib.Path(__file__).parents[2] / "target/release/daymend"
QUEUE = ["daymend_jobs", "daymend_runs", "daymend_attempts", "daymend_workers", "daymend_labs"]


class Daymend:
    def __init__(self, server: Server, database: str, binary: pathlib.Path | None = None):
        self.binary = binary or BINARY
        self.connection = server.connect(database)
        others = {name: value for name, value in os.environ.items() if not name.startswith("DAYMEND_")}
        self.environment = {**others, "DAYMEND_DATABASE_URL": server.url(database)}
        self._run("migrate")

    def _run(self, *arguments: str) -> None:
        command = [self.binary, *arguments]
        subprocess.run(command, env=self.environment, check=True, stdout=subprocess.DEVNULL)

    def forget(self) -> None:
        """Empties the queue's tables, so that every round begins with the same state."""
        for table in QUEUE:
            rows(self.connection, f"TRUNCATE TABLE {table}")

    def enqueue(self, first: datetime.date, last: datetime.date, lab: int | None = None) -> None:
        labs = [] if lab is None else ["--lab", str(lab)]
        self._run("repair", "--now", NOW, "--day", str(first), "--to", str(last), *labs, "--max-shrink", "off")

    def work(self, workers: int = 2) -> int:
        """Runs all jobs, and returns the peak memory of a worker in KiB."""
        command = [self.binary, "worker", "--drain", "--log", "error", "--http-addr", "127.0.0.1:0"]
        processes = [subprocess.Popen(command, env=self.environment) for _ in range(workers)]
        most = 0
        for process in processes:
            _, status, usage = os.wait4(process.pid, 0)
            if status != 0:
                raise SystemExit(f"a worker ended with status {status}")
            most = max(most, usage.ru_maxrss)
        return most

    def rows_written(self) -> int:
        total = "COALESCE(SUM(rows_inserted + rows_updated + rows_deleted), 0)"
        return int(rows(self.connection, f"SELECT {total} FROM daymend_jobs")[0][0])

    def repair(self, first: datetime.date, last: datetime.date, lab: int | None = None) -> None:
        self.enqueue(first, last, lab)
        self.memory = self.work()
        failed = rows(self.connection, "SELECT COUNT(*) FROM daymend_jobs WHERE state <> 'completed'")[0][0]
        if failed:
            raise SystemExit(f"{failed} jobs did not complete")


def timed(work) -> float:
    """Runs `work`, and returns the seconds that it took."""
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def fingerprint(connection: pymysql.Connection) -> tuple:
    """A digest of the summary: every contender has to leave the same."""
    key = "lab_id, ordered_at, dimension_a_id, dimension_b_id, event_type, event_count"
    digest = f"CONV(LEFT(SHA2(CONCAT_WS('/', {key}), 256), 15), 16, 10)"
    sql = f"SELECT COUNT(*), SUM(event_count), SUM(CAST({digest} AS DECIMAL(30, 0))) FROM operation_historical_summary"
    return rows(connection, sql)[0]
