"""A few trials of `make chaos`, and proof that its judgement catches what it is there to catch."""

import random
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from chaos.judgement import judge, pairs
from chaos.trial import LOAD, Arena, arena
from chaos.worker import AFTER, LEDGER_APART, Moment

TRIALS = 20


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """A server of its own, which trials may kill, with a migrated target to start from."""
    with arena(tmp_path_factory.mktemp("chaos"), "load", "rollback") as one:
        yield one


@pytest.mark.timeout(900)
def test_what_is_killed_and_finished_is_as_if_nothing_had_happened(made: Arena) -> None:
    """Process or server killed at a drawn moment: after the same again nothing is lost, doubled or mapped twice."""
    told = [made.trial(seed) for seed in range(TRIALS)]
    assert [(one, one.judgement.said) for one in told if not one.judgement.clean] == []
    assert sum(one.killed for one in told) > TRIALS // 2
    assert {"process", "server"} == {victim for one in told for victim in one.victim.split(", ")}


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("delete from order_items where order_id = (select max(order_id) from orders) and line_number = 1",
         (1, 0, 0)),
        ("insert into products (title, maker, brand, category, size, packaging, list_price, description)"
         " select title, maker, brand, category, size, packaging, list_price, description from products"
         " where product_id = (select max(product_id) from products)",
         (0, 1, 0)),
        ("update order_items set product_id = (select min(new_product_id) from ferry.id_map_products"
         " where new_product_id <> product_id) where order_id = (select max(order_id) from orders)"
         " and line_number = 1",
         (1, 1, 0)),
        ("alter table ferry.id_map_products drop constraint id_map_products_pkey;"
         " insert into ferry.id_map_products select old_id, -1, 'preserved', partition from ferry.id_map_products"
         " where old_id = (select min(old_id) from ferry.id_map_products)",
         (1, 0, 1)),
        ("update ferry.id_map_products set new_product_id = -new_product_id"
         " where old_id = (select min(old_id) from ferry.id_map_products)",
         (1, 0, 1)),
    ],
    ids=["a lost row", "a doubled row", "a wrong parent", "an old key with two new ones", "a pair that changed"],
)  # fmt: skip
def test_the_judgement_counts_one_wrong_row(made: Arena, damage: str, expected: tuple[int, int, int]) -> None:
    """A rightly migrated target is clean; damaged in one row it is not, and the count says how."""
    with made.target("migrated") as job:
        earlier = pairs(job.target_url)
        assert judge(made.oracle, job.target_url, earlier).clean
        with psycopg.connect(job.target_url) as target:
            target.execute(damage.encode())
        found = judge(made.oracle, job.target_url, earlier)
    lost, duplicated, twice = expected
    assert (found.lost, found.duplicated) == (lost, duplicated), found.said
    assert (found.mapped_twice > 0) is (twice > 0), found.said


def test_a_ledger_that_commits_apart_from_the_rows_is_caught(made: Arena) -> None:
    """An engine that is wrong on purpose loses the chunk during which it is killed, and the judgement says so."""
    with made.target("new_shop") as job:
        broken = replace(job, steps=(*LOAD, ("settle",)), broken=LEDGER_APART)
        assert made.strike(broken, "process", Moment("ledger", AFTER, 3), 0, random.Random(1))
        made.whole(replace(broken, broken=""))
        found = judge(made.oracle, job.target_url, {})
    assert found.lost > 0, found.said


def test_a_map_that_is_lost_doubles_rows_and_is_caught(made: Arena) -> None:
    """Without its map and ledger an entity is loaded a second time beside itself, and the judgement says so."""
    with made.target("migrated") as job:
        with psycopg.connect(job.target_url) as target:
            target.execute("truncate ferry.id_map_products")
            target.execute("delete from ferry.ledger where entity = 'products'")
        made.whole(replace(job, steps=(("load", "products"), ("settle",))))
        found = judge(made.oracle, job.target_url, {})
    assert found.duplicated > 40, found.said
