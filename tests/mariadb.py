"""A MariaDB server of the tests' own, from Debian's package `mariadb-server-core`."""

import getpass
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pymysql

TABLES = Path("/usr/share/mysql")
USER, PASSWORD = "ferry", "s3cret %/@: ü"


class MariaDb:
    """One server in a folder of its own, reached by TCP; `url` is for Ferry, `run` for the tests."""

    def __init__(self) -> None:
        program = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")
        assert program, "MariaDB is missing: `make test` installs it, or: apt-get install mariadb-server-core"
        # A socket's path may be no longer than 107 characters, which those of pytest's folders can be.
        self._folder = Path(tempfile.mkdtemp(prefix="mariadb-"))
        common = [
            program, "--no-defaults", f"--datadir={self._folder / 'data'}", f"--user={getpass.getuser()}",
            f"--tmpdir={self._folder}", "--innodb-log-file-size=8M", "--innodb-buffer-pool-size=16M",
        ]  # fmt: skip
        (self._folder / "data").mkdir()
        before = "create database mysql;\nuse mysql;\nset @auth_root_socket = null;\n"
        files = (TABLES / "mysql_system_tables.sql", TABLES / "mysql_system_tables_data.sql")
        first = before + "".join(file.read_text() for file in files)
        subprocess.run([*common, "--bootstrap"], input=first, text=True, check=True, capture_output=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._log = (self._folder / "log").open("w")
        self._process = subprocess.Popen(
            [
                *common, "--bind-address=127.0.0.1", f"--port={self.port}", "--skip-name-resolve",
                f"--socket={self._folder / 'socket'}", "--innodb-flush-log-at-trx-commit=0",
            ],
            stdout=self._log, stderr=self._log,
        )  # fmt: skip
        root = self._root()
        with root.cursor() as cursor:
            cursor.execute("create user %s@'127.0.0.1' identified by %s", (USER, PASSWORD))
            cursor.execute("grant all on *.* to %s@'127.0.0.1'", (USER,))
        root.close()

    def _root(self) -> "pymysql.Connection[Any]":
        until = time.monotonic() + 120
        while True:
            try:
                return pymysql.connect(unix_socket=str(self._folder / "socket"), user="root")
            except pymysql.OperationalError:
                said = (self._folder / "log").read_text()
                assert self._process.poll() is None, said
                assert time.monotonic() < until, said
                time.sleep(0.05)

    def url(self, database: str) -> str:
        """The URL of a database, the password's odd characters escaped."""
        return f"mysql://{USER}:s3cret%20%25%2F%40%3A%20%C3%BC@127.0.0.1:{self.port}/{database}"

    def run(self, database: str, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements in a database and return the rows of the last; modes forbid nothing."""
        with (
            pymysql.connect(
                host="127.0.0.1", port=self.port, user=USER, password=PASSWORD.encode(), database=database,  # type: ignore[arg-type]
                charset="utf8mb4", autocommit=True, sql_mode="", init_command="set time_zone = '+00:00'",
            ) as connection,
            connection.cursor() as cursor,
        ):  # fmt: skip
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def create(self, database: str) -> str:
        """An empty database; one of that name is dropped. Returns its URL."""
        self.run(
            "mysql",
            f"drop database if exists `{database}`",
            f"create database `{database}` character set utf8mb4",
        )
        return self.url(database)

    def stop(self) -> None:
        """End the server at once and remove its folder."""
        self._process.kill()
        self._process.wait()
        self._log.close()
        shutil.rmtree(self._folder)
