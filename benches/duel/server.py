"""A private MariaDB server with durable settings and a 2 GiB buffer pool. It ends with this process."""

import contextlib
import getpass
import pathlib
import shutil
import socket
import subprocess
import time

import pymysql

SETTINGS = {
    "innodb-buffer-pool-size": "2G",
    "innodb-log-file-size": "1G",
    "innodb-flush-log-at-trx-commit": "1",
    "innodb-io-capacity": "2000",
    "max-connections": "100",
}


class Server:
    """The server, and connections to it as its administrator."""

    def __init__(self, directory: pathlib.Path, binary: pathlib.Path | None = None):
        self.directory = directory
        binary = binary or pathlib.Path(shutil.which("mariadbd", path="/usr/sbin:/usr/bin"))
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        install = ["mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal"]
        subprocess.run([*install, f"--user={getpass.getuser()}", f"--datadir={directory}/data"], check=True, capture_output=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        options = [f"--{name}={value}" for name, value in SETTINGS.items()]
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", binary, "--no-defaults"]
            + [f"--user={getpass.getuser()}", "--skip-log-bin", "--bind-address=127.0.0.1", f"--port={self.port}"]
            + [f"--datadir={directory}/data", f"--socket={directory}/socket", f"--log-error={directory}/log"]
            + options
        )
        begun = time.monotonic()
        while True:
            with contextlib.suppress(pymysql.err.OperationalError):
                self.connect("mysql").close()
                break
            if self.process.poll() is not None or time.monotonic() - begun > 60:
                raise SystemExit(f"MariaDB did not start: see {directory}/log")
            time.sleep(0.2)
        # The rivals convert time zones in SQL.
        zones = subprocess.run(["mariadb-tzinfo-to-sql", "/usr/share/zoneinfo"], check=True, capture_output=True)
        client = ["mariadb", "--no-defaults", f"--socket={directory}/socket", "--user=root", "mysql"]
        subprocess.run(client, input=zones.stdout, check=True)

    def connect(self, database: str) -> pymysql.Connection:
        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", database=database, autocommit=True, init_command="SET time_zone = '+00:00'"
        )

    def url(self, database: str) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/{database}"

    def settle(self, connection: pymysql.Connection) -> None:
        """Waits until the server has flushed what was written before, for at most two minutes."""
        before = None
        for _ in range(60):
            written = int(rows(connection, "SHOW GLOBAL STATUS LIKE 'Innodb_data_written'")[0][1])
            if before is not None and written - before < 256 * 1024:
                return
            before = written
            time.sleep(2)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def rows(connection: pymysql.Connection, sql: str) -> list[tuple]:
    """Runs one statement, and returns its rows."""
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())
