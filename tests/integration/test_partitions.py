"""Every way of cutting a table, through the whole engine: each row in one partition, none lost, all settled."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ferry.errors import DeclarationError
from ferry.known_keys import discover, register, with_known_keys
from ferry.partition import OTHERS
from small import Small

MONTHS = {"by": "placed_at", "every": "month", "start": "2024-01-01", "end": "2024-03-01"}
BOTH = MONTHS | {"and": {"by": "region", "values": ["north", "south"]}}
# Every region in every month, and NULL in either column and in both.
ORDERS = [
    (number, moment, region)
    for number, (moment, region) in enumerate(
        (
            (m, r)
            for m in ("2023-12-31", "2024-01-15", "2024-02-15", "2024-04-01", None)
            for r in ("north", "south", None)
        ),
        1,
    )
]


def a_shop(
    small: Small, partition: dict[str, Any], rows: list[tuple[int, str | None, str | None]], lines: str
) -> None:
    """Orders cut as asked and their lines cut through them, in whichever database the old shop is."""
    kind = "text" if lines == "sqlite" else "date"
    statements = [
        f"create table orders (id int primary key, placed_at {kind}, region text)",
        "create table lines (id int primary key, order_id int)",
    ]
    values = ", ".join(f"({i}, {_text(m)}, {_text(r)})" for i, m, r in rows)
    statements += [f"insert into orders values {values}", "insert into lines select id * 10, id from orders",
                   "insert into lines select id * 10 + 1, id from orders"]  # fmt: skip
    if lines == "sqlite":
        file = small.migrating.stage.parent / "old.db"
        with sqlite3.connect(file) as old:
            for statement in statements:
                old.execute(statement)
        old.close()
        small.migrating.source_url = f"sqlite:///{file}"
    else:
        small.source(*statements)
    small.target(
        f"create table orders (new_id bigint generated always as identity primary key, placed_at {kind}, region text)",
        "create table lines (new_id bigint generated always as identity primary key, order_id bigint not null"
        " references orders)",
    )
    moment = "str | None" if kind == "text" else "datetime.date | None"
    small.declare("orders", f"id: int; placed_at: {moment}; region: str | None", partition=partition)
    small.declare("lines", "id: int; order_id: int", partition={"through": "orders"},
                  references=[{"column": "order_id", "to": "orders"}])  # fmt: skip


def _text(value: str | None) -> str:
    return "null" if value is None else f"'{value}'"


@pytest.fixture
def small(new_database: Callable[..., str], tmp_path: Path) -> Small:
    """Two empty databases and a folder for declarations."""
    return Small(new_database, tmp_path)


def counted(small: Small, entity: str) -> dict[str, int]:
    """Partition → rows that the ledger has of it."""
    return dict(
        small.rows(
            "select partition, sum(extracted)::int from ferry.ledger where entity = %s group by 1", entity
        )
    )


@pytest.mark.parametrize("source", ["postgres", "sqlite"])
def test_month_and_region_cut_parents_and_children_alike(small: Small, source: str) -> None:
    """Children before their parents and in no order; every row is in the partition that has its month and region,
    NULL with the first of each, a line with its order; all is settled when the last partition is in."""
    a_shop(small, BOTH, ORDERS, source)
    plans = small.migrating.plans()
    keys = plans["lines"].scheme.keys
    assert keys == tuple(f"2024-0{month}|{region}" for month in (1, 2, 3) for region in ("north", "south"))
    wanted = dict.fromkeys(keys, 0)
    for _, moment, region in ORDERS:
        month = max("2024-01", min((moment or "")[:7], "2024-03"))
        wanted[f"{month}|{region or 'north'}"] += 1
    assert not small.migrating.load("lines", reversed(keys), plans).failed
    small.migrating.settle()
    assert small.outcomes("lines") == {"extracted": 30, "waiting": 30}
    assert not small.migrating.load("orders", sorted(keys, key=lambda key: key[::-1])[1:], plans).failed
    small.migrating.settle()
    # One partition of the parents is missing: what refers into it waits, and nothing is decided about it.
    missing = sorted(keys, key=lambda key: key[::-1])[0]
    assert small.outcomes("lines")["waiting"] == 2 * wanted[missing] > 0
    assert not small.migrating.load("orders", [missing], plans).failed
    small.migrating.settle()
    assert small.outcomes("lines") == {"extracted": 30, "inserted": 30}
    assert counted(small, "orders") == {key: n for key, n in wanted.items() if n}
    assert counted(small, "lines") == {key: 2 * n for key, n in wanted.items() if n}


@pytest.mark.parametrize("source", ["postgres", "sqlite"])
def test_a_value_that_is_not_listed_is_rejected_with_its_name(small: Small, source: str) -> None:
    """It comes with the first partition, and so does NULL, which is loaded; the child of what was rejected is, too.
    Once the value is listed, the row is loaded in the partition that it has now."""
    rows: list[tuple[int, str | None, str | None]] = [
        (1, None, "north"),
        (2, None, "south"),
        (3, None, "west"),
        (4, None, None),
    ]
    a_shop(small, {"by": "region", "values": ["north", "south"]}, rows, source)
    small.migrating.load_all()
    assert counted(small, "orders") == {"north": 3, "south": 1}
    assert small.outcomes("orders") == {"extracted": 4, "inserted": 3, "rejected": 1}
    assert small.rejected("orders") == {"3": "outside_partitions"}
    assert small.rejected("lines") == {"30": "parent_rejected", "31": "parent_rejected"}
    ((error,),) = small.rows("select errors->0 from ferry.rejected_rows where entity = 'orders'")
    assert (error["column"], error["value"]) == ("region", "west")
    assert error["message"].endswith("north, south")

    folder = small.migrating.folder / "orders" / "defs.yaml"
    folder.write_text(folder.read_text().replace('"south"]', '"south", "west"]'))
    small.migrating.load_all()
    assert counted(small, "orders") == {"north": 2, "south": 1, "west": 1}
    assert small.outcomes("orders") == {"extracted": 4, "inserted": 1, "unchanged": 3}
    assert small.outcomes("lines")["extracted"] == 8
    assert not small.rejected("lines")


@pytest.mark.parametrize("source", ["postgres", "sqlite"])
def test_discovered_values_become_partitions_and_no_row_waits_for_its_key(small: Small, source: str) -> None:
    """Nothing is known at first, and all rows are loaded as `(others)`; what is found then moves, under the same new
    key, and only then is the migration complete again. What can be no key stays."""
    rows: list[tuple[int, str | None, str | None]] = [
        (1, None, "south"),
        (2, None, "north"),
        (3, None, "a...b"),
        (4, None, None),
        (5, None, "x/../y"),
    ]
    a_shop(small, {"by": "region", "values": "discovered"}, rows, source)
    small.migrating.load_all()
    assert counted(small, "orders") == {OTHERS: 5}
    before = small.rows("select * from ferry.id_map_orders order by old_id")

    settings = small.migrating.settings
    known = discover(small.migrating.plans().migration, settings)
    plans = small.migrating.plans()
    keys = (OTHERS, "north", "south", "x/../y")
    assert plans["orders"].scheme.keys == plans["lines"].scheme.keys == keys
    assert known.known == {("orders", "region"): keys[1:]}
    went = small.migrating.load("orders", ("south", "x/../y", OTHERS), plans)
    assert not went.failed
    assert counted(small, "orders") == {OTHERS: 2, "south": 1, "x/../y": 1}
    went = small.migrating.load("orders", ("north",), plans)
    assert went.outcomes.unchanged == 1
    after = small.rows("select * from ferry.id_map_orders order by old_id")
    assert [row[:2] for row in before] == [row[:2] for row in after]
    # The lines were loaded under the keys of then; a new one is not complete until it is loaded too.
    small.migrating.load_all()
    assert counted(small, "lines") == {OTHERS: 4, "north": 2, "south": 2, "x/../y": 2}
    assert small.outcomes("lines") == {"extracted": 10, "unchanged": 10}


def test_a_registered_key_is_missing_until_it_is_loaded(small: Small) -> None:
    """Somebody names a region that the source does not have yet: children wait until its partition is loaded, too,
    and a key of a listed partition, or one that Dagster keeps for itself, is refused."""
    a_shop(small, MONTHS | {"and": {"by": "region", "values": "discovered"}}, ORDERS[:3], "postgres")
    migration, settings = small.migrating.plans().migration, small.migrating.settings
    register(migration, "lines", ["west", "2024-02|south"], settings)
    assert with_known_keys(migration, settings).known == {("orders", "region"): ("west", "south")}
    assert len(small.migrating.plans()["orders"].scheme.keys) == 3 * 3
    for wrong in ("a|b|c", "a,b"):
        with pytest.raises(DeclarationError, match="can be no partition"):
            register(migration, "orders", [wrong], settings)
    small.migrating.load("lines")
    small.migrating.load("orders", [f"2024-0{month}|{OTHERS}" for month in (1, 2, 3)])
    small.migrating.settle()
    assert small.outcomes("lines")["waiting"] == 2
    small.migrating.load("orders", [f"2024-0{m}|{r}" for m in (1, 2, 3) for r in ("west", "south")])
    small.migrating.settle()
    assert small.outcomes("lines") == {"extracted": 6, "inserted": 6}
