"""Rollback: what Ferry wrote goes, what was there before stays, and a reload gives the same keys again (P6, P4)."""

import pytest
from psycopg import sql

from ferry.errors import DeclarationError, PermanentError
from ferry.rollback import roll_back
from migrating import Migrating

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
