"""Target columns that several references fill, or a reference and the row's own key: tenants, lines, ranks."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ferry.rollback import roll_back
from small import Small


@pytest.fixture
def small(new_database: Callable[..., str], tmp_path: Path) -> Small:
    """Two empty databases and a folder for declarations."""
    return Small(new_database, tmp_path)


def comes_and_goes(small: Small, query: str, expected: list[tuple[object, ...]]) -> None:
    """Loaded, settled, loaded again, taken back and loaded children first: each time the same rows, written once."""
    migrating = small.migrating
    migrating.load_all()
    assert small.rows(query) == expected
    versions = migrating.row_versions("public")
    assert {name: went.different for name, went in migrating.load_all().items() if went.different} == {}
    assert migrating.row_versions("public") == versions
    plans = migrating.plans()
    roll_back(plans, migrating.settings)
    assert small.rows(query) == []
    for name in reversed(plans.order):
        assert not migrating.load(name).failed
    migrating.settle()
    assert small.rows(query) == expected


def test_a_boss_of_the_same_company_whose_key_is_new(small: Small) -> None:
    """The key is the company's new key and a number kept; the reference within the company shares that column."""
    staff = (
        "create table staff (company int, no int, boss int, name text, primary key (company, no){})".format
    )
    small.source(
        "create table companies (id int primary key, name text)", staff(""),
        "insert into companies values (1, 'one'), (2, 'two')",
        "insert into staff values (1, 1, null, 'a'), (1, 2, 3, 'b'), (1, 3, 1, 'c'), (2, 1, 2, 'd'),"
        " (2, 2, null, 'e'), (2, 3, 9, 'orphan'), (3, 1, null, 'nobody')",
    )  # fmt: skip
    small.target(
        "create table companies (id int generated always as identity (start 70) primary key, name text)",
        staff(", foreign key (company) references companies, foreign key (company, boss) references staff"),
    )
    small.declare("companies", "id: int", new_key="id")
    key = ["company", "no"]
    small.declare(
        "staff", "company: int; no: int", key=key, new_key=key, made="natural",
        references=[{"column": ["company", "boss"], "to": "staff"}, {"column": "company", "to": "companies"}],
    )  # fmt: skip
    small.migrating.chunk_rows = 2
    comes_and_goes(small, "select * from staff order by company, no", [
        (70, 1, None, "a"), (70, 2, 3, "b"), (70, 3, 1, "c"), (71, 1, 2, "d"), (71, 2, None, "e"),
    ])  # fmt: skip
    assert small.rejected("staff") == {"2, 3": "missing_parent", "3, 1": "missing_parent"}


@pytest.mark.parametrize("on_missing", ["reject", "set_null"])
def test_two_tables_of_one_tenant_that_need_each_other(small: Small, on_missing: str) -> None:
    """Both keys hold the tenant, and both references share it: inserted together, or NULL first where that may be."""
    needed = "not null" if on_missing == "reject" else ""
    tables = (
        "create table teams (tenant int, no int, captain int {0}, primary key (tenant, no))",
        "create table players (tenant int, no int, team int not null, primary key (tenant, no),"
        " foreign key (tenant, team) references teams deferrable)",
        "alter table teams add foreign key (tenant, captain) references players deferrable",
    )
    small.source(
        *(statement.format(needed).replace(" deferrable", " deferrable initially deferred") for statement in tables),
        "begin; insert into teams values (1, 1, 10), (2, 1, 10);"
        " insert into players values (1, 10, 1), (1, 11, 1), (2, 10, 1); commit",
    )  # fmt: skip
    small.target(*(statement.format(needed) for statement in tables))
    key = ["tenant", "no"]
    captain = {"column": ["tenant", "captain"], "to": "players", "on_missing": on_missing}
    small.declare("teams", "tenant: int; no: int", key=key, new_key=key, made="natural", references=[captain])
    small.declare("players", "tenant: int; no: int", key=key, new_key=key, made="natural",
                  references=[{"column": ["tenant", "team"], "to": "teams"}])  # fmt: skip
    comes_and_goes(
        small,
        "select p.tenant, p.no, team, captain from players p join teams t on (t.tenant, t.no) = (p.tenant, team)"
        " order by 1, 2",
        [(1, 10, 1, 10), (1, 11, 1, 10), (2, 10, 1, 10)],
    )


def test_two_references_that_share_a_column_have_to_agree(small: Small) -> None:
    """A parcel of an order's line: whose line belongs to another order is rejected, and the column is named."""
    small.source(
        "create table orders (id int primary key)",
        "create table lines (id int primary key, order_id int, number int)",
        "create table parcels (id int primary key, order_id int, line_id int)",
        "insert into orders values (1), (2)",
        "insert into lines values (5, 1, 1), (6, 2, 1)",
        "insert into parcels values (1, 1, 5), (2, 1, 6), (3, 2, null), (4, null, 6)",
    )
    small.target(
        "create table orders (id int generated always as identity (start 10) primary key)",
        "create table lines (order_id int references orders, number int, primary key (order_id, number))",
        "create table parcels (id int generated always as identity primary key, order_id int references orders,"
        " number int, foreign key (order_id, number) references lines)",
    )
    small.declare("orders", "id: int", new_key="id")
    small.declare("lines", "id: int", new_key=["order_id", "number"], made="natural", drop=["id"],
                  references=[{"column": "order_id", "to": "orders"}])  # fmt: skip
    small.declare(
        "parcels", "id: int", new_key="id",
        references=[{"column": "order_id", "to": "orders"},
                    {"column": "line_id", "to": "lines", "into": ["order_id", "number"]}],
    )  # fmt: skip
    comes_and_goes(
        small, "select order_id, number from parcels order by 1, 2", [(10, 1), (11, 1), (11, None)]
    )
    refused = small.rows("select key, reason, errors->0->>'column' from ferry.rejected_rows")
    assert refused == [(["2"], "target_refused", "order_id")]
