"""Shopify and NetSuite as sources of a whole migration, against servers that keep to their rules."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from emulators.netsuite import ACCOUNT, TBA
from emulators.running import Emulator
from ferry.stage import Stage
from small import Small

TOKEN = "shpat_emulated"
ORDERS, ROWS = 400, 2500
PATIENCE = {"attempts": 3, "patience": 20, "first_wait": 0.02, "longest_wait": 0.2}


@pytest.fixture
def small(new_database: Callable[..., str], tmp_path: Path) -> Small:
    """A migration of this test's own."""
    return Small(new_database, tmp_path)


@pytest.fixture(scope="module")
def shop_server() -> Iterator[Emulator]:
    """A shop for all tests of this module."""
    plenty = (
        "--points",
        "20000",
        "--points-per-second",
        "10000",
        "--calls",
        "400",
        "--calls-per-second",
        "100",
    )
    with Emulator("shopify", "--orders", str(ORDERS), "--customers", "80", *plenty) as emulator:
        yield emulator


@pytest.fixture
def shopify(shop_server: Emulator, small: Small) -> Emulator:
    """The same as new, and known to the migration."""
    shop_server.control(reset=True)
    small.migrating.connections["shop"] = {"url": shop_server.url, "token": TOKEN, "poll": 0.05, **PATIENCE}
    return shop_server


@pytest.fixture(scope="module")
def account_server() -> Iterator[Emulator]:
    """An account for all tests of this module, seven of whose rows were never changed."""
    with Emulator("netsuite", "--rows", str(ROWS), "--undated", "7") as emulator:
        yield emulator


@pytest.fixture
def netsuite(account_server: Emulator, small: Small) -> Emulator:
    """The same as new, and known to the migration."""
    account_server.control(reset=True)
    small.migrating.connections["erp"] = {
        "account": ACCOUNT, "auth": {"kind": "tba", **TBA}, "url": account_server.url, **PATIENCE,
    }  # fmt: skip
    return account_server


YEARS = {"by": "created_at", "every": "year", "start": "2021-01-01", "end": "2024-12-31"}


def declare_shop(small: Small, via: str = "bulk") -> None:
    """Customers, orders and their lines, with references, into tables of their own."""
    at = "datetime.datetime"
    one = {"connection": "shop", "via": via}
    small.target(
        "create table customers (new_id bigint generated always as identity primary key, id text unique, email text,"
        " created_at timestamptz)",
        "create table orders (new_id bigint generated always as identity primary key, id text unique,"
        " customer_id bigint references customers, name text, total numeric(20, 6), created_at timestamptz)",
        "create table lines (new_id bigint generated always as identity primary key, id text unique,"
        " order_id bigint not null references orders, sku text, quantity bigint, price numeric(20, 6))",
    )
    fields = {"id": "text", "created_at": {"type": "timestamp", "path": "createdAt"}}
    small.declare(
        "customers", f"id: str; email: str | None; created_at: {at}", partition=YEARS, columns={"id": "id"},
        source=one | {"shopify": "customers", "fields": fields | {"email": "text"}},
    )  # fmt: skip
    money = {"type": "decimal(20,6)", "path": "totalPriceSet.shopMoney.amount", "parse": True}
    customer = {"type": "text", "path": "customer.id"}
    small.declare(
        "orders", f"id: str; customer_id: str | None; name: str; total: decimal.Decimal; created_at: {at}",
        partition=YEARS, columns={"id": "id"}, references=[{"column": "customer_id", "to": "customers"}],
        source=one | {"shopify": "orders",
                      "fields": fields | {"customer_id": customer, "name": "text", "total": money}},
    )  # fmt: skip
    small.declare(
        "lines", "id: str; order_id: str; sku: str | None; quantity: int; price: decimal.Decimal",
        partition={"through": "orders"}, columns={"id": "id"}, references=[{"column": "order_id", "to": "orders"}],
        source=one | {"shopify": "line_items"},
        drop=["order_created_at", "product_id", "variant_id", "title"],
    )  # fmt: skip


@pytest.mark.parametrize("via", ["bulk", "pages"])
def test_a_shop_moves_with_all_its_references(small: Small, shopify: Emulator, via: str) -> None:
    """Every order and line of the shop is there once, at its customer's and its order's new key, with every cent."""
    declare_shop(small, via)
    went = small.migrating.load_all()
    there = shopify.tell()["rows"]
    assert {name: one.outcomes.inserted for name, one in went.items()} == {
        "customers": there["customers"], "orders": there["orders"], "lines": there["lines"],
    }  # fmt: skip
    assert not any(one.different for one in went.values())
    # The emulator's own rule: order n belongs to customer n % 80, has 1 + n % 4 lines, and each 23rd has no customer.
    base, first = 9_007_199_254_740_993, 5_500_000_000_000
    wanted = [
        (f"#{1000 + n}", None if n % 23 == 0 else f"gid://shopify/Customer/{base + n % 80}", 1 + n % 4)
        for n in range(ORDERS)
    ]
    found = small.rows(
        "select o.name, c.id, count(l.id)::int from orders o left join customers c on c.new_id = o.customer_id"
        " join lines l on l.order_id = o.new_id group by o.id, o.name, c.id order by o.id"
    )
    assert found == wanted
    assert small.rows("select min(id) from orders") == [(f"gid://shopify/Order/{first}",)]
    said = Stage(small.migrating.settings.stage_root, "orders", "2022").manifest()
    assert said is not None
    assert said.said["stated"] == said.said["arrived"] == said.rows


def test_a_truncated_bulk_result_fails_its_window_and_no_other_state_moves(
    small: Small, shopify: Emulator
) -> None:
    """Nothing is staged or loaded, the message says what is wrong, and the next run begins a new operation."""
    declare_shop(small)
    shopify.control(truncate_bulk=200)
    went = small.migrating.load("customers")
    assert len(went.failed) == 4
    assert "the file is truncated" in went.failed["2021"]
    assert small.rows("select count(*) from customers") == [(0,)]
    assert Stage(small.migrating.settings.stage_root, "customers", "2021").manifest() is None
    shopify.control(reset=True)
    assert small.migrating.load("customers").outcomes.inserted == 80


def test_a_scope_that_is_missing_is_said_before_anything_is_read(small: Small, shopify: Emulator) -> None:
    """Without `read_all_orders` Shopify would show the last 60 days and no error."""
    declare_shop(small)
    shopify.control(scopes=["read_orders", "read_customers"])
    failed = small.migrating.load("orders", ["2021"]).failed["2021"]
    assert "read_all_orders" in failed
    assert TOKEN not in failed
    assert shopify.tell()["operations"] == 0


def declare_account(small: Small, paging: str, every: str) -> None:
    """Transactions by the time of their last change."""
    small.target(
        "create table transactions (new_id bigint generated always as identity primary key, id numeric unique,"
        " tranid text, total numeric(15, 2), memo text, changed timestamp)"
    )
    columns = {
        "id": "decimal(20,0)", "tranid": "text", "memo": "text",
        "total": {"type": "decimal(15,2)", "sql": "foreigntotal"},
        "changed": {"type": "datetime", "sql": "lastmodifieddate"},
    }  # fmt: skip
    small.declare(
        "transactions",
        "id: decimal.Decimal; tranid: str; total: decimal.Decimal; memo: str | None; changed: datetime.datetime | None",
        source={"connection": "erp", "updated_at": "changed",
                "netsuite": {"table": "transaction", "columns": columns, "paging": paging}},
        partition={"by": "changed", "every": every, "start": "2022-01-01", "end": "2022-01-03"},
        columns={"id": "id"},
    )  # fmt: skip


@pytest.mark.parametrize("paging", ["keyset", "offset"])
def test_an_account_arrives_row_for_row(small: Small, netsuite: Emulator, paging: str) -> None:
    """Windows of a day, and rows that were never changed in the first of them: nothing twice, nothing left out."""
    declare_account(small, paging, "day")
    went = small.migrating.load("transactions")
    assert not went.failed
    assert went.outcomes.inserted == ROWS
    begin = datetime(2022, 1, 1, tzinfo=UTC)
    wanted: list[tuple[Any, ...]] = [
        (
            Decimal(9_007_199_254_740_993 + n * 3), f"SO{n}", Decimal(f"{n}.{n % 100:02}"),
            None if n % 3 else f"memo ü {n}",
            None if n < 7 else (begin + timedelta(minutes=n // 7 * 7)).replace(tzinfo=None),
        )
        for n in range(ROWS)
    ]  # fmt: skip
    assert small.rows("select id, tranid, total, memo, changed from transactions order by id") == wanted


def test_a_row_that_an_account_drops_from_a_page_fails_the_window(small: Small, netsuite: Emulator) -> None:
    """SuiteQL counted more than it handed out: no row of that window is loaded."""
    declare_account(small, "keyset", "year")
    netsuite.control(drop_row=400)
    assert "arrived" in small.migrating.load("transactions").failed["2022"]
    assert small.rows("select count(*) from transactions") == [(0,)]
