"""Where a rebuild's time goes: in the server by statement, from a slow log of all statements, and in both programs by
function, from samples of their stacks."""

import collections
import contextlib
import pathlib
import re
import signal
import subprocess
import time
from collections.abc import Iterator

from .server import Server, rows

ENTRY = re.compile(r"^# Query_time: ([0-9.]+) .*?\n(?:#.*\n)*(?:use .*\n)?SET timestamp=.*\n", re.MULTILINE)


@contextlib.contextmanager
def of_statements(server: Server) -> Iterator[collections.Counter]:
    """Logs every statement meanwhile. At the end, the counter holds the seconds of each kind."""
    connection = server.connect("mysql")
    log = pathlib.Path(server.directory) / "statements.log"
    settings = {"slow_query_log_file": f"'{log}'", "long_query_time": "0", "min_examined_row_limit": "0", "slow_query_log": "1"}
    for name, value in settings.items():
        rows(connection, f"SET GLOBAL {name} = {value}")
    seconds = collections.Counter()
    yield seconds
    rows(connection, "SET GLOBAL slow_query_log = 0")
    rows(connection, "SET GLOBAL long_query_time = DEFAULT")
    text = log.read_text(errors="replace")
    entries = list(ENTRY.finditer(text))
    ends = [entry.start() for entry in entries[1:]] + [len(text)]
    for entry, end in zip(entries, ends):
        seconds[_kind(text[entry.end() : end])] += float(entry[1])
    log.unlink()


@contextlib.contextmanager
def of_functions(file: pathlib.Path) -> Iterator[None]:
    """Samples the stacks of everything that runs meanwhile, for `perf script`."""
    command = ["perf", "record", "--quiet", "--all-cpus", "--call-graph", "fp", "--freq", "499", "--output", file]
    perf = subprocess.Popen(command)
    time.sleep(1)
    yield
    perf.send_signal(signal.SIGINT)
    perf.wait()


def _kind(sql: str) -> str:
    for fact in ("collectedSample", "labReportRelation", "billingInfo"):
        if fact in sql:
            return "facts, locked" if "SHARE MODE" in sql or "FOR SHARE" in sql else "facts"
    if named := re.search(r"-- daymend: (.*)", sql):
        return named[1]
    words = re.sub(r"--.*|/\*.*?\*/", "", sql).split()
    table = next((word for word in words if word.startswith("daymend_")), "")
    return f"{words[0].upper().rstrip(';')} {table}".strip() if words else ""
