"""What happens to a target or a staging area meanwhile: one clear message, nothing lost, and the next run goes on."""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from ferry.cli import app
from ferry.replay import replay
from migrating import Migrating
from shop.demo.databases import create_database
from shop.demo.server import EmbeddedServer
from small import Small

NAMES = "create table names (new_id bigint generated always as identity primary key, name text)"


@pytest.fixture
def small(new_database: Callable[..., str], tmp_path: Path) -> Small:
    """Two empty databases and a folder for declarations."""
    return Small(new_database, tmp_path)


@contextmanager
def a_small_disk() -> Iterator[None]:
    """Processes that are started meanwhile may write no file beyond 17 MiB: more than a segment of PostgreSQL's log."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (17 * 2**20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_target_without_space_is_told_and_the_next_run_goes_on(small: Small, tmp_path: Path) -> None:
    """The target's server can write no more, as on a disk that is full; with more room it takes all rows."""
    server = EmbeddedServer(tmp_path / "server")
    with a_small_disk():
        server.start()
    try:
        create_database(server, "target")
        small.migrating = Migrating(
            small.migrating.source_url, server.url("target"), tmp_path / "defs", tmp_path / "stage"
        )
        fill_up(small)
        said = small.migrating.load("names").failed["all"]
        assert "the target has no space left" in said, said
        whole = small.outcomes("names").get("inserted", 0)
        assert whole < 3000
        for table in ("names", "ferry.id_map_names"):
            assert small.rows(f"select count(*) from {table}") == [(whole,)]
        server.stop()
        server.start()
        went = small.migrating.load("names")
        assert (went.outcomes.inserted, went.different, went.failed) == (3000 - whole, 0, {})
    finally:
        server.remove()


def fill_up(small: Small) -> None:
    """Declare rows that take 24 MB, as they cannot be compressed."""
    small.source(
        "create table names (id int primary key, name text)",
        "insert into names select i, (select string_agg(md5(i || ' ' || j), '') from generate_series(1, 250) j)"
        " from generate_series(1, 3000) i",
    )
    small.target(NAMES)
    small.declare("names", "id: int; name: str")


def test_a_staging_area_without_space_is_told_and_the_next_run_goes_on(small: Small) -> None:
    """A process that may write no file beyond 64 KiB stages nothing, says so, and leaves no part of it behind."""
    small.source(
        "create table names (id int primary key, name text)",
        "insert into names select i, md5(i::text) || md5((-i)::text) from generate_series(1, 20000) i",
    )
    small.target(NAMES)
    small.declare("names", "id: int; name: str")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536));"
        " from ferry.pipeline import carry, PartitionFailed; from ferry.declaration import read_migration;"
        " from ferry.plan import plan_migration; from ferry.settings import read_settings; from pathlib import Path;"
        " settings = read_settings(); plans = plan_migration(read_migration(Path(sys.argv[1])), settings);"
        " events = list(carry(plans, 'names', ('all',), settings));"
        " print([str(e.error) for e in events if isinstance(e, PartitionFailed)][0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(small.migrating.folder)],
        env={**os.environ, **small.migrating.environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "names, all: the staging area cannot be written or read" in done.stdout, done.stderr
    assert "File too large" in done.stdout
    assert "FERRY_STAGE_URI" in done.stdout
    assert [path for path in Path(small.migrating.stage).rglob("*") if path.is_file()] == []
    went = small.migrating.load("names")
    assert (went.outcomes.inserted, went.different, went.failed) == (20_000, 0, {})


def test_a_table_that_somebody_holds_is_told_and_the_next_run_goes_on(small: Small) -> None:
    """Another session has locked the target's table for longer than we wait."""
    small.source("create table names (id int primary key, name text)", "insert into names values (1, 'a')")
    small.target(NAMES)
    small.declare("names", "id: int; name: str")
    impatient = small.migrating.settings.model_copy(update={"lock_timeout_seconds": 0.2})
    small.migrating.__dict__["settings"] = impatient
    with psycopg.connect(small.migrating.target_url) as holder:
        holder.execute("lock table names in share mode")
        said = small.migrating.load("names").failed["all"]
    assert (
        "names, all, chunk 0: somebody else holds a lock. canceling statement due to lock timeout. See"
        in said
    )
    assert small.rows("select count(*) from ferry.id_map_names") == [(0,)]
    assert small.migrating.load("names").outcomes.inserted == 1


def test_a_map_entry_that_somebody_removed_is_made_again_or_told(small: Small) -> None:
    """A row like no other is found in the target and keeps its key, changed meanwhile or not; of twins it is told."""
    small.source(
        "create table names (id int primary key, name text)",
        "insert into names values (1, 'a'), (2, 'b'), (3, 'twin'), (4, 'twin')",
    )
    small.target(NAMES)
    small.declare("names", "id: int; name: str")
    small.migrating.load_all()
    keys = small.rows("select old_id, new_new_id, status::text from ferry.id_map_names order by 1")
    small.target("delete from ferry.id_map_names where old_id < 3")
    small.source("update names set name = 'bb' where id = 2")
    again = small.migrating.load("names")
    assert (again.outcomes.updated, again.outcomes.inserted, again.different) == (1, 0, 0)
    assert small.rows("select old_id, new_new_id, status::text from ferry.id_map_names order by 1") == keys
    small.target("delete from ferry.id_map_names where old_id = 3")
    assert (small.migrating.load("names").failed, small.rows("select count(*) from names")) == ({}, [(4,)])
    small.target("delete from ferry.id_map_names where old_id > 2")
    said = small.migrating.load("names").failed["all"]
    assert "names, all: rows that were loaded have no map entry any more: 3; 4" in said
    (entry,) = re.findall(r"insert into ferry.id_map_names .* values \(…, 'inserted', 'all'\)", said)
    for old, new, _ in keys[2:]:
        small.target(entry.replace("…", f"{old}, {new}"))
    again = small.migrating.load("names")
    assert (again.failed, again.outcomes.inserted, again.outcomes.unchanged) == ({}, 0, 4)
    assert small.rows("select count(*) from names") == [(4,)]


def test_nothing_personal_is_shown_of_rows_that_are_refused(small: Small) -> None:
    """A repeated key, what the target says of a row, a parent that is missing: the value is masked, the row is kept."""
    small.source(
        "create table people (email text, name text, boss text)",
        "insert into people values ('ada@x.org', 'Ada', null), ('ada@x.org', 'Ada', null),"
        " ('bob@x.org', 'Bob', 'eve@x.org'), ('cy@x.org', 'Ada', null), ('dee@x.org', 'Ada', null)",
    )
    small.target(
        "create table people (new_id bigint generated always as identity primary key, email text, name text unique,"
        " boss bigint references people)"
    )
    small.declare(
        "people",
        "email: Annotated[str, Personal()]; name: str; boss: Annotated[str, Personal()] | None",
        key="email",
        columns={"email": "email"},
        references=[{"column": "boss", "to": "people"}],
    )
    contract = small.migrating.folder / "people" / "contract.py"
    contract.write_text(contract.read_text().replace("import Contract", "import Contract, Personal"))
    small.migrating.load_all()
    shown = small.rows("select reason, errors::text from ferry.rejected_rows order by 1")
    assert [reason for reason, _ in shown] == [
        "duplicate_key", "duplicate_key", "missing_parent", "target_refused",
    ]  # fmt: skip
    assert [text for _, text in shown if "@" in text] == []
    assert all("***" in text for reason, text in shown if reason != "target_refused")
    said = CliRunner().invoke(
        app, ["rejects", "--json", "--key", "bob@x.org"], env=small.migrating.environment
    )
    assert [(row["key"], row["row"]) for row in json.loads(said.stdout)["rows"]] == [
        (["***"], {"email": "***", "name": "Bob", "boss": "***"})
    ]
    small.target("alter table people drop constraint people_name_key")
    replay(small.migrating.plans(), small.migrating.settings, reason="target_refused")
    assert ("dee@x.org",) in small.rows("select email from people")


def test_a_source_that_closes_the_connection_is_an_error_and_not_the_end_of_the_process(small: Small) -> None:
    """The driver that reads meets a connection that is gone, and says so; some of its versions abort instead."""
    program = (
        "import os, psycopg\n"
        "from ferry.sources.postgres_connection import ArrowConnection, adbc\n"
        "arrow = ArrowConnection(os.environ['URL'])\n"
        "_, rows = arrow.stream('select pg_backend_pid()')\n"
        "with psycopg.connect(os.environ['URL']) as other:\n"
        "    other.execute('select pg_terminate_backend(%s, 5000)', (rows.column(0)[0].as_py(),))\n"
        "for ask in (lambda: arrow.execute('set local work_mem = 1024'), lambda: list(arrow.stream('select 1'))):\n"
        "    try:\n"
        "        ask()\n"
        "    except adbc.Error as error:\n"
        "        print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "URL": small.migrating.source_url},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()) == (0, ["OperationalError"] * 2), done.stderr
