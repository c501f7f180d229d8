"""SQLMesh restating the same days: an incremental model by time range, on the same server.

It keeps a table of its own and its state beside it, deletes a range and inserts it again. Its start-up
(importing it, loading the project, planning) is timed apart from the evaluation of the model."""

import datetime
import json
import pathlib
import subprocess
import sys
import tempfile

from .data import LAST
from .server import Server, rows
from .set_based import history

MODEL = """MODEL (
  name summary.history,
  kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size {batch}),
  start '{first}',
  cron '@daily',
  dialect mysql
);
SELECT lab, CAST(day AS DATE) AS day, a, b, event, n FROM ({history}) AS history WHERE day BETWEEN @start_ds AND @end_ds
"""

CONFIG = """
gateways:
  bench:
    connection: {{type: mysql, host: 127.0.0.1, port: {port}, user: root, password: '', database: {database}}}
    state_connection: {{type: duckdb, database: {directory}/state.db}}
default_gateway: bench
model_defaults: {{dialect: mysql}}
disable_anonymized_analytics: true
"""

# Run by itself, so that its start-up is that of a fresh process.
RUN = """
import json, sys, time
begun = time.monotonic()
from sqlmesh import Context
context = Context(paths=[sys.argv[1]])
loaded = time.monotonic()
again = {"start": sys.argv[2], "end": sys.argv[3], "restate_models": ["summary.history"]}
plan = context.plan_builder(skip_tests=True, **(again if sys.argv[4] == "again" else {})).build()
planned = time.monotonic()
context.apply(plan)
print(json.dumps([planned - begun, time.monotonic() - planned]))
"""


def rebuild(server: Server, database: str, lab: int, zone: str, first: datetime.date, last: datetime.date, rounds: int, right: tuple):
    """Milliseconds a day of each round's evaluation, and a line about the rest."""
    days = (last - first).days + 1
    with tempfile.TemporaryDirectory() as directory:
        project = pathlib.Path(directory)
        (project / "models").mkdir()
        (project / "config.yaml").write_text(CONFIG.format(port=server.port, database=database, directory=directory))
        text = history(lab, zone, str(LAST)).replace("UTC_TIMESTAMP(6)", "NULL")
        (project / "models/history.sql").write_text(MODEL.format(batch=days, first=first, history=text))
        times = [_run(project, first, last, "first" if place == 0 else "again") for place in range(rounds + 1)]
    connection = server.connect(database)
    table = rows(
        connection,
        "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables "
        "WHERE table_name LIKE 'summary__history%' AND table_type = 'BASE TABLE'",
    )
    held = [rows(connection, f"SELECT COUNT(*), SUM(n) FROM {name}")[0] for (name,) in table]
    if right[:2] not in held:
        raise SystemExit(f"SQLMesh left {held}, not {right[:2]}")
    start_up = sorted(start for start, _ in times[1:])[rounds // 2]
    note = f"SQLMesh restates the range in one batch (DELETE, INSERT … SELECT); its start-up, not counted, takes {start_up:.1f} s."
    return [1000 * took / days for _, took in times[1:]], note


def _run(project: pathlib.Path, first: datetime.date, last: datetime.date, which: str) -> tuple[float, float]:
    command = [sys.executable, "-c", RUN, str(project), str(first), str(last), which]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"SQLMesh: {done.stdout[-2000:]}{done.stderr[-3000:]}")
    return tuple(json.loads(done.stdout.strip().splitlines()[-1]))
