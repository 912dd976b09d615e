"""An embedded PostgreSQL from a Python wheel: one directory, a Unix socket, passwords, no port, no Docker."""

import fcntl
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from ferry.errors import PermanentError
from shop.demo.account import Account, binaries_for, installation, place_for, server_account

SUPERUSER = "postgres"
OWNER = "shop"

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    # Dagster opens a connection for each query. Iterations make guessing a weak password slow; these are random.
    "scram_iterations": "1",
    "shared_buffers": "256MB",
    "work_mem": "32MB",
    "maintenance_work_mem": "128MB",
    "max_wal_size": "4GB",
    # One machine, rehearsal data: what a killed process leaves behind must be whole, what a power cut leaves
    # need not be. Commits therefore still reach the operating system, which outlives the process.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "on",
    # Rows that are copied into a table made in the same transaction skip the log.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    # A container's /dev/shm is often 64 MB, too small for parallel plans.
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


@dataclass(frozen=True)
class Identity:
    """What has to stay the same between two starts; kept in `server.json`, readable by its owner alone."""

    place: str
    sockets: str
    superuser_password: str
    owner_password: str


class EmbeddedServer:
    """One PostgreSQL server whose files live in `home` (or where `server.json` in it says).

    The server outlives the process that started it. Only its owner and root can reach the socket, and every
    connection needs a password that was drawn at random for this home. `settings` go over those of the demo.
    """

    def __init__(self, home: Path, settings: dict[str, str] | None = None) -> None:
        self.home = home.resolve()
        self._settings = settings or {}
        self._file = self.home / "server.json"

    def start(self) -> "EmbeddedServer":
        """Start the server if it does not run yet, after a crash too; make it on the first call."""
        self.home.mkdir(parents=True, exist_ok=True)
        with self._locked():
            account = server_account()
            identity = self._identity() or self._new_identity(account)
            place = Path(identity.place)
            binaries = binaries_for(account, place, installation())
            if not (place / "data" / "PG_VERSION").exists():
                self._initialise(account, identity, binaries)
            if self._pid(place) is None:
                self._launch(account, identity, binaries)
        return self

    def stop(self, *, mode: str = "fast") -> bool:
        """Stop the server and say whether it ran; after `immediate` the next start recovers."""
        identity = self._identity()
        if identity is None:
            return False
        with self._locked():
            place = Path(identity.place)
            pid = self._pid(place)
            if pid is None:
                return False
            account = server_account()
            stopped = account.run(
                binaries_for(account, place, installation()) / "pg_ctl",
                *("-D", place / "data", "-m", mode, "-w", "-t", "60", "stop"),
                cwd=place,
            )
            if stopped.returncode and psutil.pid_exists(pid):
                raise self._failure("PostgreSQL did not stop", place, stopped.stdout)
        return True

    def exists(self) -> bool:
        """Whether `start` was ever called for this home."""
        return self._identity() is not None

    def running(self) -> bool:
        """Whether a server of this home runs now."""
        identity = self._identity()
        return identity is not None and self._pid(Path(identity.place)) is not None

    def pid(self) -> int | None:
        """The server's process, or None when it does not run."""
        identity = self._identity()
        return None if identity is None else self._pid(Path(identity.place))

    def remove(self) -> None:
        """Stop the server and remove its data, its socket and its secrets; its account stays."""
        identity = self._identity()
        if identity is None:
            return
        self.stop(mode="immediate")
        for directory in (identity.place, identity.sockets):
            shutil.rmtree(directory, ignore_errors=True)
        self._file.unlink(missing_ok=True)

    def url(self, database: str, *, superuser: bool = False) -> str:
        """A libpq URL of one database for its owner (no superuser), or for the server's superuser."""
        identity = self._identity()
        if identity is None:
            raise PermanentError("there is no server yet", where=str(self.home), next="Start it first")
        user = SUPERUSER if superuser else OWNER
        password = identity.superuser_password if superuser else identity.owner_password
        return f"postgresql://{user}:{password}@/{quote(database)}?host={quote(identity.sockets, safe='')}"

    def admin(self) -> psycopg.Connection:
        """A superuser's connection in autocommit, as CREATE DATABASE needs it."""
        return psycopg.connect(self.url("postgres", superuser=True), autocommit=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.home / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _identity(self) -> Identity | None:
        try:
            return Identity(**json.loads(self._file.read_text()))
        except FileNotFoundError:
            return None

    def _new_identity(self, account: Account) -> Identity:
        identity = Identity(
            place=str(place_for(account, self.home)),
            # A socket's path may have 107 characters at most, and a checkout can lie deeper than that.
            sockets=tempfile.mkdtemp(prefix="ferry-", dir="/tmp"),
            superuser_password=secrets.token_urlsafe(18),
            owner_password=secrets.token_urlsafe(18),
        )
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as out:
            json.dump(asdict(identity), out)
        return identity

    def _initialise(self, account: Account, identity: Identity, binaries: Path) -> None:
        place = Path(identity.place)
        data = place / "data"
        shutil.rmtree(data, ignore_errors=True)
        account.own(place)
        password_file = place / "password"
        password_file.write_text(identity.superuser_password)
        account.own(place)
        try:
            made = account.run(
                binaries / "initdb",
                *("--pgdata", data, "--username", SUPERUSER, "--pwfile", password_file),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--no-sync", "--no-instructions"),
                *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"),
                cwd=place,
            )
        finally:
            password_file.unlink()
        if made.returncode:
            raise self._failure("PostgreSQL's data directory could not be made", place, made.stdout)

    def _launch(self, account: Account, identity: Identity, binaries: Path) -> None:
        place, sockets = Path(identity.place), Path(identity.sockets)
        data, log = place / "data", place / "postgres.log"
        account.own(place)
        account.own(sockets)
        with (data / "postgresql.auto.conf").open("w") as conf:
            for name, value in {
                **SETTINGS,
                **self._settings,
                "unix_socket_directories": str(sockets),
            }.items():
                conf.write(f"{name} = '{value}'\n")
        account.own(data)
        # A server that was killed leaves locks behind, and PostgreSQL honours them as long as any process has
        # their number. `_pid` found that it is not this server; only its orphans are left to wait for.
        end_orphans(data)
        for lock in (data / "postmaster.pid", *sockets.glob(".s.PGSQL.*")):
            lock.unlink(missing_ok=True)
        started = account.run(
            binaries / "pg_ctl", "-D", data, "-l", log, "-w", "-t", "60", "-s", "start", cwd=place
        )
        if started.returncode:
            said = log.read_text(errors="replace")[-1500:] if log.exists() else started.stdout
            raise self._failure("PostgreSQL did not start", place, said)
        with self.admin() as connection:
            role = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [OWNER]).fetchone()
            if role is None:
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                        sql.Identifier(OWNER), sql.Literal(identity.owner_password)
                    )
                )

    def _pid(self, place: Path) -> int | None:
        """The process of `postmaster.pid`, if it is alive and really this server."""
        with suppress(FileNotFoundError, ValueError, IndexError, psutil.NoSuchProcess):
            pid = int((place / "data" / "postmaster.pid").read_text().splitlines()[0])
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE and str(place / "data") in process.cmdline():
                return pid
        return None

    def _failure(self, what: str, place: Path, said: str) -> PermanentError:
        return PermanentError(
            what,
            where=str(place),
            why=" ".join(said.split())[-600:],
            next="See postgres.log there, or remove everything with `make demo-clean` and start again",
        )


def end_orphans(data: Path, patience: float = 2) -> None:
    """End the backends that a killed server left behind, which still hold its memory and its files.

    They are the processes that work in the data directory. Idle ones notice and go by themselves; one that is
    busy with a long statement is killed after `patience` seconds.
    """
    orphans = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == str(data):
                orphans.append(process)
    for process in psutil.wait_procs(orphans, timeout=patience)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
            process.wait(patience)
