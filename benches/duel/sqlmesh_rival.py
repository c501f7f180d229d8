"""SQLMesh restating the same days: an incremental model by time range, on the same server.

It keeps a table of its own, and its state separately; it deletes a range and inserts it again. Its start-up (importing
it, loading the project, planning) is timed separately from the evaluation of the model."""

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

# Run in a process of its own, so that each start-up is that of a fresh process.
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


class Rival:
    """The model, built once. It is then told to restate the same days again."""

    def __init__(self, server: Server, database: str, lab: int, zone: str, first: datetime.date, last: datetime.date):
        self.connection, self.first, self.last, self.start_ups = server.connect(database), first, last, []
        self.directory = tempfile.TemporaryDirectory()
        self.project = pathlib.Path(self.directory.name)
        (self.project / "models").mkdir()
        (self.project / "config.yaml").write_text(CONFIG.format(port=server.port, database=database, directory=self.project))
        text = history(lab, zone, str(LAST)).replace("UTC_TIMESTAMP(6)", "NULL")
        days = (last - first).days + 1
        (self.project / "models/history.sql").write_text(MODEL.format(batch=days, first=first, history=text))
        self._run("first")

    def restate(self) -> float:
        """Restates the days, and returns the seconds that the evaluation took."""
        start_up, evaluation = self._run("again")
        self.start_ups.append(start_up)
        return evaluation

    def check(self, right: tuple) -> None:
        tables = rows(
            self.connection,
            "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables "
            "WHERE table_name LIKE 'summary__history%' AND table_type = 'BASE TABLE'",
        )
        held = [rows(self.connection, f"SELECT COUNT(*), SUM(n) FROM {name}")[0] for (name,) in tables]
        if right[:2] not in held:
            raise SystemExit(f"SQLMesh left {held}, not {right[:2]}")

    def note(self) -> str:
        start_up = sorted(self.start_ups)[len(self.start_ups) // 2]
        return f"SQLMesh restates the range in one batch (DELETE, INSERT … SELECT); its start-up, not counted, takes {start_up:.1f} s."

    def _run(self, which: str) -> tuple[float, float]:
        command = [sys.executable, "-c", RUN, str(self.project), str(self.first), str(self.last), which]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"SQLMesh: {done.stdout[-2000:]}{done.stderr[-3000:]}")
        return tuple(json.loads(done.stdout.strip().splitlines()[-1]))
