"""Users at the same time: each cancels or restores a bill of the recomputed days, and commits."""

import datetime
import random
import threading
import time

from .server import Server


class Writers:
    """Two users, each of whom cancels a bill about every 5 ms until told to stop."""

    def __init__(self, server: Server, database: str, lab: int, bills: int):
        self.latencies: list[float] = []
        self.stopping = threading.Event()
        arguments = [(server, database, lab, bills, seed) for seed in range(2)]
        self.threads = [threading.Thread(target=self._cancel, args=args, daemon=True) for args in arguments]
        for thread in self.threads:
            thread.start()

    def _cancel(self, server: Server, database: str, lab: int, bills: int, seed: int) -> None:
        connection, chance, changes = server.connect(database), random.Random(seed), 0
        with connection.cursor() as cursor:
            while changes == 0 or not self.stopping.is_set():
                bill = chance.randrange(1, bills)
                sql = "UPDATE billing SET isCancelled = 1 - isCancelled, modified_at = %s WHERE id = %s AND lab_id = %s"
                begun = time.monotonic()
                changed = cursor.execute(sql, (datetime.datetime.now(datetime.UTC), bill, lab))
                if changed:
                    changes += 1
                    self.latencies.append(time.monotonic() - begun)
                    time.sleep(chance.random() / 100)

    def stop(self) -> list[float]:
        """Stops the users, and returns how long each transaction took, in milliseconds, sorted."""
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        return sorted(1000 * latency for latency in self.latencies)


def percentile(latencies: list[float], percent: float) -> float:
    return latencies[min(len(latencies) - 1, int(len(latencies) * percent / 100))]
