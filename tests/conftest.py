"""One embedded PostgreSQL for a run of the tests, and fresh copies of the demo's databases."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings

from migrating import Migrating, declarations_by_year
from oracle import Oracle
from shop.demo.databases import create_database, drop_database, make_databases
from shop.demo.generator import Generator
from shop.demo.server import OWNER, EmbeddedServer

# How long an example takes says nothing on a machine that does other work as well. Where `CI` is set the same examples
# come every time, so that what does not land is never a matter of luck; everywhere else they are new ones.
settings.register_profile("ferry", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("ferry")

SCALE = float(os.environ.get("FERRY_TEST_SCALE", "0.002"))
LEGACY_TEMPLATE, NEW_SHOP_TEMPLATE = "legacy_template", "new_shop_template"
EMPTY, SPARE = "template1", 4
# What a new database has not: objects that initdb did not make, among them schemas, and settings of its own.
LEFT = """
select (select count(*) from pg_depend where objid >= 16384) + (select count(*) from pg_largeobject_metadata)
  + (select count(*) from pg_namespace where oid >= 16384) + (to_regnamespace('public') is null)::int
  + (select count(*) from pg_db_role_setting s join pg_database d on d.oid = setdatabase
     where datname = current_database())
"""
_numbers = itertools.count(1)
# The files that take longest, by their own seconds. Begun first, no process is left alone with one at the end.
LONGEST = (
    "any_order", "cutover", "any_schema", "reference_graphs", "deliver", "migration", "deliver_shopify", "source_files",
    "references", "io_managers", "fivetran", "dagster", "airbyte", "source_shopify", "source_rest", "bounded_memory",
    "bad_answers", "rollback", "partitions_in_dagster", "delta",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; with `--dist loadfile` the order of files is the order in which they begin."""
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@dataclass(frozen=True)
class Shop:
    """A legacy shop and a new shop that nobody has touched yet; `oracle` says what must become of them.

    After a change of the source, `oracle` is out of date. Another one is
    `Oracle(source_url, before_url, scratch_url)`, with `before_url` a
    `new_database(NEW_SHOP_TEMPLATE)` and `scratch_url` a `new_database()`.
    """

    source_url: str
    target_url: str
    oracle: Oracle

    def source(self) -> psycopg.Connection:
        """A connection to the legacy shop, in autocommit."""
        return psycopg.connect(self.source_url, autocommit=True)

    def target(self) -> psycopg.Connection:
        """A connection to the new shop, in autocommit."""
        return psycopg.connect(self.target_url, autocommit=True)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """The embedded PostgreSQL of this run of the tests."""
    running = EmbeddedServer(tmp_path_factory.mktemp("postgres")).start()
    yield running
    running.remove()


@pytest.fixture(scope="session")
def shop_templates(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The names of a legacy shop and a new shop to copy from; nobody may be connected to them meanwhile."""
    with Generator(tmp_path_factory.mktemp("rows"), SCALE) as rows:
        make_databases(server, rows, SCALE, LEGACY_TEMPLATE, NEW_SHOP_TEMPLATE)
    return LEGACY_TEMPLATE, NEW_SHOP_TEMPLATE


@pytest.fixture(scope="session")
def spare() -> list[str]:
    """Databases that tests have done with and that are empty again: making one costs more than what most do in it."""
    return []


@pytest.fixture
def new_database(server: EmbeddedServer, spare: list[str]) -> Iterator[Callable[..., str]]:
    """`new_database()` makes an empty database, `new_database(template)` a copy; both return its URL."""
    empty: list[str] = []
    copies: list[str] = []

    def make(template: str = EMPTY) -> str:
        name = f"test_{next(_numbers)}"
        if template == EMPTY and spare:
            with server.admin() as admin:
                admin.execute(f"alter database {spare.pop()} rename to {name}".encode())
        else:
            create_database(server, name, template)
        (empty if template == EMPTY else copies).append(name)
        return server.url(name)

    yield make
    for name in empty:
        if len(spare) < SPARE and _is_empty_again(server, name):
            spare.append(name)
        else:
            drop_database(server, name)
    for name in copies:
        drop_database(server, name)


def _is_empty_again(server: EmbeddedServer, name: str) -> bool:
    """Let go of everybody, drop all that the owner made in a database, and say whether it is as it was when new."""
    with server.admin() as admin:
        admin.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s", [name]
        )
    with psycopg.connect(server.url(name, superuser=True), autocommit=True) as connection:
        connection.execute(f"drop owned by {OWNER} cascade".encode())
        return connection.execute(LEFT).fetchone() == (0,)


@pytest.fixture(scope="session")
def oracle(server: EmbeddedServer, shop_templates: tuple[str, str]) -> Oracle:
    """What must come of a migration of the untouched shop."""
    create_database(server, "oracle")
    return Oracle(*(server.url(name) for name in shop_templates), server.url("oracle"))


@contextmanager
def _copied(server: EmbeddedServer, templates: tuple[str, str], oracle: Oracle) -> Iterator[Shop]:
    number = next(_numbers)
    legacy, new_shop = f"legacy_{number}", f"new_shop_{number}"
    for name, template in zip((legacy, new_shop), templates, strict=True):
        create_database(server, name, template)
    yield Shop(server.url(legacy), server.url(new_shop), oracle)
    for name in (legacy, new_shop):
        drop_database(server, name)


@pytest.fixture
def shop(server: EmbeddedServer, shop_templates: tuple[str, str], oracle: Oracle) -> Iterator[Shop]:
    """A shop of this test's own."""
    with _copied(server, shop_templates, oracle) as copy:
        yield copy


@pytest.fixture(scope="module")
def module_shop(server: EmbeddedServer, shop_templates: tuple[str, str], oracle: Oracle) -> Iterator[Shop]:
    """A shop that the tests of one module share, for those that only look at one migration's outcome."""
    with _copied(server, shop_templates, oracle) as copy:
        yield copy


@pytest.fixture
def by_year(shop: Shop, tmp_path: Path) -> Migrating:
    """A migration of a shop of this test's own, orders cut by year: the same rows in fewer partitions."""
    return Migrating(
        shop.source_url, shop.target_url, declarations_by_year(tmp_path / "defs"), tmp_path / "stage"
    )
