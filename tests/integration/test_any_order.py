"""Exactly once, in any order: whatever is loaded first, twice, or killed half-way, the settled target is the same."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from asking import wait_for
from conftest import LEGACY_TEMPLATE, NEW_SHOP_TEMPLATE, Shop
from ferry import ledger
from migrating import DECLARATIONS, Migrating, declarations_by_year
from oracle import Oracle
from shop.demo.databases import create_database, drop_database
from shop.demo.server import EmbeddedServer

# Loads one entity, or all in order and then settles, in a process that a test can kill.
PROCESS = """
import sys
from pathlib import Path
from ferry.declaration import read_migration
from ferry.pipeline import carry
from ferry.plan import plan_migration
from ferry.settings import read_settings
settings = read_settings()
plans = plan_migration(read_migration(Path(sys.argv[1])), settings)
for name in sys.argv[2:]:
    for event in carry(plans, name, plans[name].scheme.keys, settings):
        pass
"""
YEARS = [str(year) for year in range(1992, 1999)]


@pytest.fixture
def fresh(
    server: EmbeddedServer, shop_templates: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., "contextmanager[Migrating]"]:  # type: ignore[valid-type]
    """`with fresh() as migrating:` gives a new shop that nobody has touched, cut by year, as often as it is asked."""

    @contextmanager
    def make() -> Iterator[Migrating]:
        create_database(server, "new_shop_fresh", NEW_SHOP_TEMPLATE)
        place = tmp_path_factory.mktemp("fresh")
        folder = declarations_by_year(place / "defs")
        yield Migrating(server.url(LEGACY_TEMPLATE), server.url("new_shop_fresh"), folder, place / "stage")
        drop_database(server, "new_shop_fresh")

    return make


def every_row_is_accounted_for(migrating: Migrating, oracle: Oracle) -> None:
    """The settled ledger has the counts that plain SQL expects, and nothing waits."""
    with migrating.target() as target:
        sums = {
            name: numbers
            for name, *numbers in target.execute(
                "select entity, sum(extracted)::int, sum(inserted + unchanged + updated)::int, sum(preserved)::int,"
                " sum(rejected)::int, sum(waiting)::int from ferry.ledger group by 1"
            )
        }
        assert target.execute("select count(*) from ferry.waiting_rows").fetchone() == (0,)
        kept = dict(
            target.execute("select entity, count(*)::int from ferry.rejected_rows group by 1").fetchall()
        )
    for name, expected in oracle.outcomes().items():
        wanted = [expected.extracted, expected.inserted, expected.preserved, expected.rejected, 0]
        assert sums[name] == wanted, name
        assert kept[name] == expected.rejected, name


def test_partitions_in_reverse_and_children_before_parents(
    shop: Shop, oracle: Oracle, tmp_path: Path
) -> None:
    """The last month first, order lines before orders, orders before customers: rows wait until their parents come."""
    migrating = Migrating(shop.source_url, shop.target_url, DECLARATIONS, tmp_path / "stage")
    plans = migrating.plans()
    for name in reversed(plans.order):
        went = migrating.load(name, reversed(plans[name].scheme.keys), plans)
        assert not went.failed
        if name == "order_lines":
            refusable = oracle.outcomes()[name].rejections["contract"]
            assert went.outcomes.waiting == went.outcomes.extracted - refusable > 10_000
    migrating.settle()
    assert oracle.differences(migrating.target_url) == []
    every_row_is_accounted_for(migrating, oracle)


loads = st.permutations(
    [("customers", ("all",)), ("products", ("all",)), ("employees", ("all",))]
    + [(name, tuple(YEARS[at : at + 2])) for name in ("orders", "order_lines") for at in range(0, 7, 2)]
)


@settings(
    max_examples=4, deadline=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(order=loads, again=st.data(), settled_at=st.integers(0, 11))
def test_any_order_some_twice_gives_the_same_target(
    fresh: Callable[..., "contextmanager[Migrating]"],  # type: ignore[valid-type]
    oracle: Oracle,
    order: list[tuple[str, tuple[str, ...]]],
    again: st.DataObject,
    settled_at: int,
) -> None:
    """Loads drawn in any order, some of them twice, settled once in between: the target and the counts are the same."""
    twice = again.draw(st.lists(st.sampled_from(order), max_size=3))
    for load in twice:
        order.insert(again.draw(st.integers(0, len(order))), load)
    with fresh() as migrating:
        plans = migrating.plans()
        for position, (name, partitions) in enumerate(order):
            went = migrating.load(name, random.Random(position).sample(partitions, len(partitions)), plans)
            assert not went.failed
            if position == settled_at:
                migrating.settle()
        migrating.settle()
        assert oracle.differences(migrating.target_url) == []
        every_row_is_accounted_for(migrating, oracle)


def test_settling_waits_for_parents_that_are_not_complete(by_year: Migrating) -> None:
    """While one month of the parents is missing, nobody's `on_missing` is applied, and nothing is lost."""
    plans = by_year.plans()
    by_year.load("order_lines", plans=plans)
    for name in ("customers", "products", "employees"):
        by_year.load(name, plans=plans)
    by_year.load("orders", YEARS[:-1], plans)
    by_year.settle()
    with by_year.target() as target:
        waiting = target.execute(
            "select count(*), count(*) filter (where partition = '1998') from ferry.waiting_rows"
            " where entity = 'order_lines'"
        ).fetchone()
        reasons = dict(
            target.execute(
                "select reason, count(*) from ferry.rejected_rows where entity = 'order_lines' group by 1"
            ).fetchall()
        )
    assert waiting[0] > waiting[1] > 0
    assert set(reasons) == {"contract"}
    by_year.load("orders", YEARS[-1:], plans)
    by_year.settle()
    with by_year.target() as target:
        assert target.execute("select count(*) from ferry.waiting_rows").fetchone() == (0,)


def kill_at(migrating: Migrating, names: list[str], place: tuple[str, str, int]) -> None:
    """Load entities in a process and kill it when it has written all of a chunk but for the ledger's row.

    The chunk's place in the ledger is taken, so the process waits inside its transaction until it is killed.
    """
    waits = (
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        " and query like 'insert into ferry.ledger%'"
    )
    alive = (
        "select count(*) from pg_stat_activity where datname = current_database()"
        " and application_name = 'ferry crm' and pid <> pg_backend_pid()"
    )
    with migrating.target() as watch, psycopg.connect(migrating.target_url) as holder:
        ledger.prepare(watch)
        holder.execute("insert into ferry.ledger select %s, %s, %s, '', '', '', 0, 0, 0, 0, 0, 0, 0", place)
        process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(migrating.folder), *names],
            env={**os.environ, **migrating.environment},
            stderr=subprocess.PIPE,
        )
        try:
            wait_for(
                "the process waits for the place, or ended",
                lambda: process.poll() is not None or watch.execute(waits).fetchone() != (0,),
                120,
                pause=0.02,
            )
        finally:
            process.kill()
            _, said = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, said.decode()
        holder.rollback()
        wait_for("it is gone", lambda: watch.execute(alive).fetchone() == (0,), 60, pause=0.02)


@pytest.mark.parametrize(
    ("names", "place", "chunk_rows"),
    [
        (["customers"], ("customers", "all", 1), 200),
        (["customers", "employees", "orders"], ("orders", "1994", 2), 200),
        (["order_lines"], ("order_lines", "1993", 3), 400),
    ],
    ids=[
        "in customers, who refer to each other",
        "in the third year of orders",
        "while lines wait for orders",
    ],
)
def test_a_killed_load_is_finished_by_the_next(
    by_year: Migrating, oracle: Oracle, names: list[str], place: tuple[str, str, int], chunk_rows: int
) -> None:
    """SIGKILL inside a chunk's transaction: nothing of that chunk is kept; the next run does the rest."""
    by_year.chunk_rows = chunk_rows
    kill_at(by_year, names, place)
    with by_year.target() as target:
        chunks, in_target, waiting, rejected = target.execute(
            "select count(*)::int, sum(inserted + preserved)::int, sum(waiting)::int, sum(rejected)::int"
            " from ferry.ledger where entity = %s",
            place[:1],
        ).fetchone()
        kept = (
            target.execute(f"select count(*) from ferry.id_map_{place[0]}").fetchone()[0] if in_target else 0,
            *target.execute(
                "select (select count(*) from ferry.waiting_rows where entity = %(e)s),"
                " (select count(*) from ferry.rejected_rows where entity = %(e)s)",
                {"e": place[0]},
            ).fetchone(),
        )
    assert chunks >= place[2]
    assert kept == (in_target, waiting, rejected)
    went = by_year.load_all()
    assert chunks <= went[place[0]].skipped_chunks < went[place[0]].chunks
    assert oracle.differences(by_year.target_url) == []
    every_row_is_accounted_for(by_year, oracle)


def test_two_at_once_load_every_row_once(by_year: Migrating, oracle: Oracle) -> None:
    """Two processes that load the same partitions at the same time do not get in each other's way."""
    by_year.chunk_rows = 101
    for name in ("customers", "employees"):
        by_year.load(name)
    both = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(by_year.folder), "orders"],
            env={**os.environ, **by_year.environment, "FERRY_RETRIES": "4"},
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for process in both:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said.decode()
    by_year.load_all()
    assert oracle.differences(by_year.target_url) == []
    every_row_is_accounted_for(by_year, oracle)
