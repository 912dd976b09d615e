"""Rollback: what Ferry wrote goes, what was there before stays, and a reload gives the same keys again (P6, P4)."""

from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg import sql

from ferry.errors import DeclarationError, PermanentError
from ferry.rollback import roll_back
from migrating import Migrating
from small import Small

TABLES = ("customers", "products", "staff", "orders", "order_items")


def contents(migrating: Migrating) -> dict[str, set[str]]:
    """Every row of the new shop, whole, as text."""
    with migrating.target() as target:
        return {
            table: {
                row[0]
                for row in target.execute(sql.SQL("select t::text from {} t").format(sql.Identifier(table)))
            }
            for table in TABLES
        }


def pairs(migrating: Migrating, entity: str) -> dict[int, int]:
    """Old key to new key, tombstones included."""
    with migrating.target() as target:
        table = sql.Identifier("ferry", f"id_map_{entity}")
        return {row[0]: row[1] for row in target.execute(sql.SQL("select * from {}").format(table))}


def test_everything_taken_back_leaves_the_new_shop_as_it_was_and_a_reload_gives_the_same_rows(
    by_year: Migrating,
) -> None:
    """Rows that were there before are untouched, and the second migration gives every old key the same new key."""
    before = contents(by_year)
    by_year.load_all()
    full = contents(by_year)
    keys = {name: pairs(by_year, name) for name in ("customers", "employees", "products", "orders")}
    assert full != before
    roll_back(by_year.plans(), by_year.settings)
    assert contents(by_year) == before
    by_year.load_all()
    assert contents(by_year) == full
    for name, found in keys.items():
        again = pairs(by_year, name)
        assert {old: again[old] for old in found} == found


def test_rows_that_others_depend_on_are_not_taken_back(by_year: Migrating) -> None:
    """Customers with orders in the target are refused, the dependent table is named, and nothing has changed."""
    by_year.load_all()
    full = contents(by_year)
    with pytest.raises(PermanentError, match="orders") as refused:
        roll_back(by_year.plans(), by_year.settings, ("customers",))
    assert "Nothing was changed" in str(refused.value)
    assert contents(by_year) == full


def test_one_partition_goes_and_comes_back_while_the_others_stay(by_year: Migrating) -> None:
    """Lines and orders of one year are removed and loaded again; rows of other years are never written."""
    by_year.load_all()
    full = contents(by_year)
    for name in ("order_lines", "orders"):
        done = roll_back(by_year.plans(), by_year.settings, (name,), ("1995",))
        assert [one.partitions for one in done] == [1]
        assert done[0].removed > 0
    left = contents(by_year)
    assert left["orders"] < full["orders"]
    assert left["order_items"] < full["order_items"]
    for name in ("orders", "order_lines"):
        by_year.load(name, ["1995"])
    by_year.settle()
    assert contents(by_year) == full


def test_a_partition_that_does_not_exist_is_refused(by_year: Migrating) -> None:
    """A year outside the range is one message with the range, and no row goes."""
    by_year.load("customers")
    with pytest.raises(DeclarationError, match="there is no partition '2020'"):
        roll_back(by_year.plans(), by_year.settings, ("orders",), ("2020",))


@pytest.mark.parametrize(
    ("id_map", "orders"),
    [("internal", (("abc", "abc"), ("cab", "bca"), ("abca", "cab"))), ("none", (("aba", "ab"),))],
)
def test_a_row_that_several_partitions_changed_holds_what_the_last_of_those_that_stay_made_of_it(
    new_database: Callable[..., str], tmp_path: Path, id_map: str, orders: tuple[tuple[str, str], ...]
) -> None:
    """Whatever is taken back first: the row is as if those partitions had never been, and in the end as it was."""
    small = Small(new_database, tmp_path)
    small.source("create table people (id int, kind text, email text, name text)")
    small.target("create table people (email text primary key, id int, kind text, name text)")
    match = {"match": {"on": ["email"], "then": "update"}} if id_map == "internal" else {}
    small.declare(
        "people", "id: int", new_key="email", made="natural", columns={"id": "id"}, id_map=id_map,
        partition={"by": "kind", "values": ["a", "b", "c"]}, **match,
    )  # fmt: skip
    plans = small.migrating.plans()
    # What was loaded in this order, and what is taken back in this one.
    for loaded, back in orders:
        small.target("drop schema if exists ferry cascade", "truncate people")
        small.target("insert into people values ('ada@x.org', 0, 'theirs', 'Ada')")
        small.source("truncate people")
        for n, kind in enumerate(loaded):
            small.source(
                f"delete from people where kind = '{kind}'",
                f"insert into people values ({ord(kind)}, '{kind}', 'ada@x.org', '{kind}{n}')",
            )
            assert not small.migrating.load("people", (kind,), plans).failed
        for n, kind in enumerate(back):
            roll_back(plans, small.migrating.settings, ("people",), (kind,))
            left = [(one, f"{one}{m}") for m, one in enumerate(loaded) if one not in back[: n + 1]]
            assert small.rows("select kind, name from people") == [[("theirs", "Ada"), *left][-1]], (
                loaded,
                back[: n + 1],
            )
        assert small.rows("select * from ferry.before_images") == []
