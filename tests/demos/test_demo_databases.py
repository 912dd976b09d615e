"""The demo's databases: made once, found again, safe from other users, whole after a crash."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from asking import wait_for
from shop.demo.databases import Databases, prepare
from shop.demo.server import EmbeddedServer

SCALE = 0.001
ENDLESS = "SELECT count(*) FROM generate_series(1, 100000000000)"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home that tests share; whoever needs the databases in it, as they are when new, calls `prepare`."""
    home = tmp_path_factory.mktemp("shared") / "home"
    yield home
    EmbeddedServer(home).remove()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """An empty home for a server of the test's own, which is stopped and removed at the end."""
    yield tmp_path / "home"
    EmbeddedServer(tmp_path / "home").remove()


def contents(url: str) -> dict[str, tuple[int, str]]:
    """Row count and content hash of each table of a database."""
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchall()
        return {
            table: connection.execute(
                f"SELECT count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM {table} AS t".encode()
            ).fetchone()  # type: ignore[misc]
            for (table,) in tables
        }


def command(home: Path, *words: str, scale: str = str(SCALE)) -> subprocess.CompletedProcess[str]:
    """Run `python -m shop.demo …` on a home."""
    return subprocess.run(
        [sys.executable, "-m", "shop.demo", *words],
        env={**os.environ, "FERRY_DEMO_HOME": str(home), "SCALE": scale},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_second_call_finds_what_the_first_one_made(shared: Path) -> None:
    """What happened to the databases since is still there; another scale starts anew."""
    first = prepare(shared, SCALE)
    with psycopg.connect(first.target_url) as target:
        target.execute("UPDATE customers SET loyalty_points = 77 WHERE customer_id = 1")
    assert prepare(shared, SCALE) == Databases(first.source_url, first.target_url, made=False)
    with psycopg.connect(first.target_url) as target:
        assert target.execute("SELECT loyalty_points FROM customers WHERE customer_id = 1").fetchone() == (
            77,
        )
    assert prepare(shared, SCALE / 2).made
    with psycopg.connect(first.target_url) as target:
        assert target.execute("SELECT loyalty_points FROM customers WHERE customer_id = 1").fetchone() == (1,)


def test_the_same_scale_gives_the_same_rows(shared: Path, tmp_path: Path) -> None:
    """Rows and dirt hold no chance and no clock: two servers get equal databases."""
    one = prepare(shared, SCALE)
    other_home = tmp_path / "other"
    try:
        other = prepare(other_home, SCALE)
        assert contents(one.source_url) == contents(other.source_url)
        assert contents(one.target_url) == contents(other.target_url)
    finally:
        EmbeddedServer(other_home).remove()


def test_a_half_made_pair_is_made_again(shared: Path) -> None:
    """Databases that an interrupted call left without the mark of completeness are not taken for good."""
    made = prepare(shared, SCALE)
    whole = contents(made.source_url)
    with psycopg.connect(made.source_url, autocommit=True) as source:
        source.execute("COMMENT ON DATABASE legacy IS NULL")
        source.execute("DELETE FROM order_lines")
    assert prepare(shared, SCALE).made
    assert contents(made.source_url) == whole


def test_directories_above_keep_their_permissions(tmp_path: Path) -> None:
    """A home inside a closed directory works, and the directory stays closed."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    above = [closed, *closed.parents]
    modes = [directory.stat().st_mode for directory in above]
    server = EmbeddedServer(closed / "home")
    try:
        server.start()
        with server.admin() as admin:
            assert admin.execute("SHOW server_encoding").fetchone() == ("UTF8",)
            (data,) = admin.execute("SHOW data_directory").fetchone()
            (sockets,) = admin.execute("SHOW unix_socket_directories").fetchone()
        assert [directory.stat().st_mode for directory in above] == modes
        assert {Path(place).stat().st_mode & 0o777 for place in (data, sockets)} == {0o700}
    finally:
        server.remove()
    assert not Path(data).exists()
    assert not Path(sockets).exists()


def test_nobody_enters_without_the_password(shared: Path) -> None:
    """Neither role can be used with a wrong password or with none, and each home draws its own."""
    server = EmbeddedServer(shared).start()
    url = server.url("postgres")
    password = url.split(":")[2].split("@")[0]
    for wrong in (url.replace(password, "postgres"), url.replace(f":{password}", "")):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(wrong)
    with psycopg.connect(url) as connection:
        assert connection.execute("SHOW is_superuser").fetchone() == ("off",)
    assert (shared / "server.json").stat().st_mode & 0o077 == 0


def test_a_killed_server_starts_again_with_all_that_was_committed(shared: Path) -> None:
    """SIGKILL during a long statement: the next start ends the orphan and loses nothing."""
    server = EmbeddedServer(shared).start()
    busy = server.admin()
    with server.admin() as admin:
        admin.execute("CREATE TABLE kept AS SELECT 1 AS one")
        endless = threading.Thread(target=_endless, args=[busy])
        endless.start()
        running = "SELECT count(*) FROM pg_stat_activity WHERE query = %s AND state = 'active'"
        wait_for("it runs", lambda: admin.execute(running, [ENDLESS]).fetchone() == (1,), 60, pause=0.02)
        os.kill(server.pid(), signal.SIGKILL)
    server.start()
    endless.join()
    with server.admin() as admin:
        assert admin.execute("SELECT one FROM kept").fetchone() == (1,)


def _endless(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.OperationalError):
        connection.execute(ENDLESS)


def test_a_pid_file_that_names_a_stranger_is_not_believed(shared: Path) -> None:
    """After a reboot the old number may be any process's; it is not taken for the server, nor harmed."""
    server = EmbeddedServer(shared).start()
    with server.admin() as admin:
        (data,) = admin.execute("SHOW data_directory").fetchone()
    lines = (Path(data) / "postmaster.pid").read_text().splitlines()
    assert server.stop()
    (Path(data) / "postmaster.pid").write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    assert not server.running()
    with server.start().admin() as admin:
        assert admin.execute("SELECT 1").fetchone() == (1,)
    assert server.pid() != os.getpid()


def test_the_command_prints_urls_for_psql_and_cleans_up(home: Path) -> None:
    """`databases`, `stop`, `start` and `clean` answer in JSON; afterwards nothing is left."""
    urls = json.loads(command(home, "databases").stdout)
    assert list(urls) == ["source_url", "target_url"]
    with psycopg.connect(urls["source_url"]) as source:
        (orders,) = source.execute("SELECT count(*) FROM orders").fetchone()
    assert orders == 1500
    assert json.loads(command(home, "stop").stdout) == {"stopped": True}
    assert json.loads(command(home, "start").stdout)["source_url"] == urls["source_url"]
    assert json.loads(command(home, "clean").stdout) == {"removed": str(home)}
    assert not home.exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(urls["source_url"])


@pytest.mark.parametrize(
    ("scale", "said"),
    [("many", "SCALE: the scale is not a number: 'many'"), ("-1", "SCALE: the scale is -1")],
)
def test_a_useless_scale_is_refused(home: Path, scale: str, said: str) -> None:
    """One line that names the setting, a non-zero status, no stack trace, and nothing is started."""
    refused = command(home, "databases", scale=scale)
    assert refused.returncode == 1
    assert refused.stderr.startswith(said)
    assert len(refused.stderr.splitlines()) == 1
    assert not EmbeddedServer(home).exists()


def test_clean_leaves_other_directories_alone(tmp_path: Path) -> None:
    """A home that holds somebody's files and no server is not removed."""
    (tmp_path / "thesis.txt").write_text("years of work")
    assert command(tmp_path, "clean").returncode == 1
    assert (tmp_path / "thesis.txt").exists()
