"""An old shop moves into a shop on Shopify, each row once, one by one and in bulk; against the emulated shop."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from emulators.running import Emulator
from ferry.declaration import read_migration
from ferry.deliver import deliver, deliver_all, read_back
from ferry.errors import TransientError
from ferry.plan import plan_migration
from ferry.replay import replay
from ferry.rollback import roll_back
from ferry.settings import Settings
from small import Small

TOKEN = "shpat_emulated"


@pytest.fixture
def shop() -> Iterator[Emulator]:
    """A shop with five customers of its own."""
    with Emulator(
        "shopify", "--customers", "5", "--orders", "1", "--products", "1", "--points", "9000"
    ) as running:
        yield running


@pytest.fixture
def old(new_database: Callable[..., str], tmp_path: Path) -> Small:
    """Forty customers on their way; one has an address that somebody in the shop has already."""
    small = Small(new_database, tmp_path)
    small.source(
        "create table customers (id int primary key, first text, last text, email text)",
        "insert into customers select n, 'First ' || n, 'Last ' || n, 'old' || n || '@example.org'"
        " from generate_series(1, 40) n",
        "update customers set email = 'c3@example.com' where id = 7",
    )
    small.target(
        "create table customers (ferry_id uuid primary key, first text, last text, email text)",
    )
    small.declare(
        "customers",
        "id: int; first: str; last: str; email: str",
        target_key={"column": "ferry_id", "from": "uuid5"},
    )
    file = small.migrating.folder / "customers" / "defs.yaml"
    document = json.loads(file.read_text())
    fields = {"first": "firstName", "last": "lastName", "email": "email"}
    document["attributes"]["target"]["api"] = {
        "connection": "new_shop",
        "shopify": {"object": "customers", "fields": fields},
    }
    file.write_text(json.dumps(document))
    small.migrating.load("customers")
    return small


def settings(small: Small, shop: Emulator, version: str = "2026-01") -> Settings:
    """The migration's settings with the shop's connection."""
    had = small.migrating.settings
    api = {
        "url": shop.url,
        "token": TOKEN,
        "version": version,
        "first_wait": 0.01,
        "longest_wait": 0.05,
        "attempts": 20,
    }
    connections = {k: v.get_secret_value() for k, v in had.connections.items()}
    return Settings.model_validate(
        {**had.model_dump(), "connections": {**connections, "new_shop": json.dumps(api)}}
    )


def customers(shop: Emulator) -> dict[str, dict[str, Any]]:
    """E-mail address → customer, as the shop has them."""
    query = "{ customers(first: 100) { nodes { id firstName lastName email } } }"
    told = httpx.post(
        f"{shop.url}/admin/api/2026-01/graphql.json",
        json={"query": query},
        headers={"X-Shopify-Access-Token": TOKEN},
    ).json()
    assert "data" in told, told
    nodes = told["data"]["customers"]["nodes"]
    assert len({node["email"] for node in nodes}) == len(nodes)
    return {node["email"]: node for node in nodes}


def test_each_customer_is_created_once_and_what_the_shop_refuses_is_named(old: Small, shop: Emulator) -> None:
    """Lost answers, throttling and errors on the way: 39 new customers, one refusal, the shop's own left alone."""
    shop.control(lose_mutation=4, throttle_next=2, error_next=2)
    plans = plan_migration(read_migration(old.migrating.folder), settings(old, shop))
    done = deliver(plans, "customers", settings(old, shop))
    assert (done.created, done.refused) == (39, 1)
    assert list(done.problems.values()) == ["input.email: Email has already been taken"]
    there = customers(shop)
    assert len(there) == 44
    assert there["c3@example.com"]["firstName"] == "First3"
    pairs = dict(old.rows("select old_id, remote_id from ferry.api_map_customers"))
    assert pairs[1] == there["old1@example.org"]["id"]
    assert read_back(plans, "customers", settings(old, shop)) == (39, [])
    old.source("update customers set last = 'Another' where id = 2")
    old.migrating.load("customers")
    again = deliver(plans, "customers", settings(old, shop))
    assert (again.created, again.updated, again.unchanged) == (0, 1, 38)
    assert customers(shop)["old2@example.org"]["lastName"] == "Another"
    roll_back(plans, settings(old, shop))
    shop.control(lose_mutation=5)
    assert deliver(plans, "customers", settings(old, shop)).removed == 39
    assert set(customers(shop)) == {f"c{n}@example.com" for n in range(5)}


class Moving:
    """A small old shop on its way: customers, products, orders and their lines, which go inside the orders."""

    def __init__(self, small: Small, shop: Emulator, bulk: dict[str, Any]) -> None:
        self.small, self.shop, self.version = small, shop, "2026-01"
        small.source(
            "create table customers (id int primary key, first text, email text)",
            "insert into customers select n, 'First ' || n, 'old' || n || '@example.org' from generate_series(1, 12) n",
            "create table products (id int primary key, title text, sku text, price numeric(10, 2))",
            "insert into products select n, 'Old thing ' || n, 'OLD-' || n, n * 1.25 from generate_series(1, 7) n",
            "create table orders (id int primary key, customer int, email text, note text, placed timestamptz)",
            "insert into orders select n, 1 + n % 12, 'old' || 1 + n % 12 || '@example.org', 'note ' || n,"
            " '2021-03-01T00:00:00Z'::timestamptz + n * interval '1 hour' from generate_series(1, 30) n",
            "create table order_lines (id int primary key, order_id int, line int, product int, pieces int,"
            " price numeric(10, 2), currency text)",
            "insert into order_lines select n * 3 + l, n, 3 - l, 1 + (n + l) % 7, l + 1, 2.50, 'EUR'"
            " from generate_series(1, 30) n, generate_series(0, 2) l where l <= n % 3",
        )
        small.target(
            "create table customers (ferry_id uuid primary key, first text, email text)",
            "create table products (ferry_id uuid primary key, title text, sku text, price numeric(10, 2))",
            "create table orders (ferry_id uuid primary key, customer uuid, email text, note text, placed timestamptz)",
            "create table order_lines (ferry_id uuid primary key, order_id uuid not null, line int, product uuid,"
            " pieces int, price numeric(10, 2), currency text)",
        )
        own = "customers", "id: int; first: str; email: str", {"first": "firstName", "email": "email"}
        self._declare(*own, {"object": "customers", **bulk})
        fields = {"title": "title", "sku": "variants.0.sku", "price": "variants.0.price"}
        product = "products", "id: int; title: str; sku: str; price: decimal.Decimal", fields
        self._declare(*product, {"object": "products", **bulk})
        fields = {
            "customer": "customer.toAssociate.id", "email": "email", "note": "note", "placed": "processedAt"
        }  # fmt: skip
        order = "orders", "id: int; customer: int; email: str; note: str; placed: datetime.datetime", fields
        self._declare(*order, {"object": "orders", **bulk}, customer="customers")
        fields = {
            "product": "variantId", "pieces": "quantity", "price": "priceSet.shopMoney.amount",
            "currency": "priceSet.shopMoney.currencyCode",
        }  # fmt: skip
        line = (
            "order_lines",
            "id: int; order_id: int; line: int; product: int; pieces: Annotated[int, Field(gt=0)];"
            " price: decimal.Decimal; currency: str",
            fields,
        )
        self._declare(*line, None, order_id="orders", product="products")

    def _declare(
        self, name: str, contract: str, fields: dict[str, str], shopify: dict[str, Any] | None, **parents: str
    ) -> None:
        references = [{"column": column, "to": to} for column, to in parents.items()]
        key = {"column": "ferry_id", "from": "uuid5"}
        self.small.declare(name, contract, target_key=key, references=references)
        file = self.small.migrating.folder / name / "defs.yaml"
        document = json.loads(file.read_text())
        api: dict[str, Any] = {"connection": "new_shop"}
        if shopify:
            api["shopify"] = {**shopify, "fields": fields}
        else:
            api["within"] = {"entity": "orders", "place": "lineItems", "fields": fields, "sorted_by": "line"}
        document["attributes"]["target"]["api"] = api
        file.write_text(json.dumps(document))

    @property
    def settings(self) -> Settings:
        """The migration's settings with the shop's connection."""
        return settings(self.small, self.shop, self.version)

    def send(self) -> dict[str, Any]:
        """Load the journals and deliver them."""
        self.small.migrating.load_all()
        plans = self.small.migrating.plans()
        return {one.entity: one for one in deliver_all(plans, self.settings, "test")}

    def start(self) -> subprocess.Popen[bytes]:
        """Deliver in a process of its own, which can be killed."""
        had = self.settings.connections
        variables = {
            f"FERRY_CONNECTIONS__{name.upper()}": one.get_secret_value() for name, one in had.items()
        }
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("ferry")), "deliver"],
            env={**os.environ, **self.small.migrating.environment, **variables},
            stdout=subprocess.DEVNULL,
        )

    def ask(self, query: str) -> Any:
        """What the shop answers to a query."""
        told = httpx.post(
            f"{self.shop.url}/admin/api/2026-01/graphql.json",
            json={"query": query},
            headers={"X-Shopify-Access-Token": TOKEN},
        ).json()
        assert "errors" not in told, told
        return told["data"]

    def orders(self) -> list[dict[str, Any]]:
        """The shop's orders that have a note, with their customers' addresses and their lines' products."""
        nodes = self.ask(
            "{ orders(first: 100) { nodes { id note customer { email } createdAt processedAt } } }"
        )
        found = []
        for one in nodes["orders"]["nodes"]:
            if one["note"] is not None:
                inside = "lineItems(first: 9) { nodes { sku quantity } }"
                lines = self.ask(f'{{ node(id: "{one["id"]}") {{ ... on Order {{ {inside} }} }} }}')["node"]
                pairs = [(line["sku"], line["quantity"]) for line in lines["lineItems"]["nodes"]]
                found.append({**one, "lines": pairs})
        return found

    def is_whole(self) -> None:
        """Every row of the old shop is there once, each order with its customer and its lines in their order."""
        assert len(customers(self.shop)) == 5 + 12
        found = {int(one["note"].split()[1]): one for one in self.orders()}
        assert len(self.orders()) == len(found) == 30
        for n, one in found.items():
            assert one["customer"]["email"] == f"old{1 + n % 12}@example.org"
            assert one["lines"] == [(f"OLD-{1 + (n + at) % 7}", at + 1) for at in (2, 1, 0) if at <= n % 3]
        skus = [
            one["sku"]
            for one in self.ask("{ productVariants(first: 99) { nodes { sku } } }")["productVariants"][
                "nodes"
            ]
        ]
        assert sorted(s for s in skus if s.startswith("OLD-")) == [f"OLD-{n}" for n in range(1, 8)]
        lines = dict(self.small.rows("select old_id, remote_id from ferry.api_map_order_lines"))
        assert len(set(lines.values())) == 60
        assert self.small.rows("select count(*) from ferry.deliveries where state <> 'sent'") == [(0,)]

    def large(self) -> None:
        """Sends one more order, with 260 lines, and sees that each has its id in the map, in its place."""
        self.small.source(
            "insert into orders values (90, 2, 'old3@example.org', 'note 90', now())",
            "insert into order_lines select 1000 + n, 90, 260 - n, 3, 1 + n, 1.00, 'EUR'"
            " from generate_series(0, 259) n",
        )
        self.send()
        found = self.small.rows(
            "select l.old_id, split_part(l.remote_id, '/', 5)::bigint from ferry.api_map_order_lines l"
            " where l.old_id >= 1000 order by 2 desc"
        )
        assert [old for old, _ in found] == list(range(1000, 1260))
        assert found[0][1] - found[-1][1] == 259

    def wait_for(self, told: str, count: int) -> None:
        """Wait until the shop has done something so many times."""
        until = time.monotonic() + 120
        while self.shop.tell()[told] < count:
            assert time.monotonic() < until, self.shop.tell()


@pytest.fixture
def moving(new_database: Callable[..., str], tmp_path: Path, shop: Emulator) -> Moving:
    """The old shop, sent row by row."""
    return Moving(Small(new_database, tmp_path), shop, {})


@pytest.fixture
def in_bulk(new_database: Callable[..., str], tmp_path: Path, shop: Emulator) -> Moving:
    """The old shop, sent by bulk mutations of twenty rows."""
    return Moving(Small(new_database, tmp_path), shop, {"bulk": {"size": 20, "poll_seconds": 0.05}})


def test_orders_come_with_their_customers_and_products_each_once(moving: Moving) -> None:
    """Answers are lost and orders put off (as in a development store) on the way; what Shopify will not change is
    rejected, and comes when the order is sent anew; a rollback takes orders back first.
    """
    moving.shop.control(lose_mutation=5, throttle_next=2, put_off_next=5)
    done = moving.send()
    assert moving.shop.tell()["put_off_next"] == 0
    assert [(name, one.created) for name, one in done.items()] == [
        ("customers", 12), ("products", 7), ("orders", 30), ("order_lines", 0)
    ]  # fmt: skip
    assert done["order_lines"].unchanged == 60
    moving.is_whole()
    assert read_back(moving.small.migrating.plans(), "orders", moving.settings) == (30, [])
    # The note can be changed, the lines cannot; an order that is refused takes its lines along.
    moving.small.source(
        "update orders set note = 'note 4 and more' where id = 4",
        "update order_lines set pieces = 9 where id = 15",
        "insert into orders values (31, 2, 'nowhere', 'note 31', now())",
        "insert into order_lines values (99, 31, 1, 3, 1, 1.00, 'EUR')",
    )
    done = moving.send()
    assert (done["orders"].created, done["orders"].updated, done["orders"].refused) == (0, 1, 2)
    assert "Shopify does not change the lineItems of an order" in "".join(done["orders"].problems.values())
    assert moving.small.rejected("orders") == {"5": "api_refused", "31": "api_refused"}
    assert moving.small.rejected("order_lines") == {"99": "parent_refused"}
    (said,) = moving.small.rows(
        "select errors->0->>'message' from ferry.rejected_rows where entity = 'order_lines'"
    )
    assert said == ("orders 31 is not over there: order.email: Email is invalid",)
    notes = {one["note"]: one["lines"] for one in moving.orders()}
    assert len(notes) == 30
    assert "note 4 and more" in notes
    # The way out that the refusal names: order 5 and its lines come as they are now.
    roll_back(moving.small.migrating.plans(), moving.settings, ("orders", "order_lines"))
    deliver_all(moving.small.migrating.plans(), moving.settings)
    assert moving.orders() == []
    assert moving.send()["orders"].refused == 1
    (five,) = [one["lines"] for one in moving.orders() if one["note"] == "note 5"]
    assert ("OLD-6", 9) in five
    roll_back(moving.small.migrating.plans(), moving.settings)
    removed = {
        one.entity: one.removed for one in deliver_all(moving.small.migrating.plans(), moving.settings)
    }
    assert removed["customers"] == 12
    assert moving.orders() == []
    assert len(customers(moving.shop)) == 5


def test_a_bulk_delivery_that_is_killed_goes_on_with_its_operation(in_bulk: Moving) -> None:
    """SIGKILL while operations run, an operation that fails in the middle, answers that are lost: each row once."""
    in_bulk.small.migrating.load_all()
    in_bulk.shop.control(bulk_seconds=1.5)
    for lines in (3, 22, 45):
        process = in_bulk.start()
        in_bulk.wait_for("bulk_lines", lines)
        process.send_signal(signal.SIGKILL)
        process.wait()
    operations = in_bulk.shop.tell()["operations"]
    in_bulk.shop.control(bulk_seconds=0.2, lose_mutation=2)
    done = {one.entity: one for one in deliver_all(in_bulk.small.migrating.plans(), in_bulk.settings)}
    assert done["orders"].refused == 0
    in_bulk.is_whole()
    # 12 customers, 7 products, 20 and 10 orders: four operations, whatever was killed.
    assert operations <= in_bulk.shop.tell()["operations"] == 4


def test_a_bulk_operation_that_breaks_off_is_finished_by_the_next(in_bulk: Moving) -> None:
    """Half of the lines took effect when it failed: they are found by our own ids, and the rest is sent."""
    in_bulk.version = "2025-10"  # the last that knows its newest operation only
    in_bulk.small.migrating.load_all()
    plans = in_bulk.small.migrating.plans()
    for name in ("customers", "products"):
        deliver(plans, name, in_bulk.settings)
    in_bulk.shop.control(bulk_status="FAILED")
    with pytest.raises(TransientError, match="ended as FAILED"):
        deliver(plans, "orders", in_bulk.settings)
    assert len(in_bulk.orders()) == 10
    in_bulk.shop.control(bulk_status="COMPLETED", drop_bulk_line=3)
    with pytest.raises(TransientError, match="says nothing of 1 of 10 rows"):
        deliver(plans, "orders", in_bulk.settings)
    in_bulk.shop.control(drop_bulk_line=0)
    deliver_all(plans, in_bulk.settings)
    in_bulk.is_whole()
    in_bulk.small.source("update customers set first = 'Another' where id < 9")
    in_bulk.small.migrating.load("customers")
    changed = deliver(plans, "customers", in_bulk.settings)
    assert (changed.created, changed.updated, changed.unchanged) == (0, 8, 4)
    assert customers(in_bulk.shop)["old8@example.org"]["firstName"] == "Another"
    in_bulk.shop.control(put_off_next=3)
    in_bulk.small.source(
        "insert into orders values (91, 3, 'old4@example.org', 'note 91', now())",
        "insert into order_lines values (301, 91, 1, 1, 4, 1.00, 'EUR')",
    )
    in_bulk.large()


def test_an_order_waits_for_lines_that_are_rejected_because_none_can_be_added_later(moving: Moving) -> None:
    """A line that is rejected or waits holds its order back; replay brings both over, and a parent that comes does.

    An order goes without it if that is declared.
    """
    small = moving.small
    small.source(
        "insert into orders values (31, 2, 'old3@example.org', 'note 31', now())",
        "insert into orders values (32, 3, 'old4@example.org', 'note 32', now())",
        "insert into order_lines values (300, 31, 1, 3, 1, 1.00, 'EUR'), (301, 31, 2, 4, 0, 1.00, 'EUR'),"
        " (302, 32, 1, 77, 5, 1.00, 'EUR'), (303, 32, 2, 5, 6, 1.00, 'EUR')",
    )
    plans = small.migrating.plans()
    for name in plans.order:
        small.migrating.load(name)
    for name in ("customers", "products"):
        deliver(plans, name, moving.settings)
    early = deliver(plans, "orders", moving.settings)
    assert (early.created, early.held, early.waiting) == (30, 1, 1)
    done = moving.send()  # settled: line 302 has no product
    assert (done["orders"].created, done["orders"].held) == (0, 2)
    held = {"31": "parent_refused", "32": "parent_refused"}
    assert small.rejected("orders") == held
    lines = {"300": "parent_refused", "301": "contract", "302": "missing_parent", "303": "parent_refused"}
    assert small.rejected("order_lines") == lines
    (said,) = small.rows("select errors->0->>'message' from ferry.rejected_rows where key = '{31}'")
    assert said[0].startswith(
        "order_lines 301 is rejected (contract) and would be missing in it; replay that"
    )
    contract = small.migrating.folder / "order_lines" / "contract.py"
    contract.write_text(contract.read_text().replace("gt=0", "ge=0"))
    small.source("insert into products values (77, 'Late', 'OLD-77', 1.00)")
    replay(small.migrating.plans(), moving.settings)
    assert moving.send()["orders"].created == 2
    found = {one["note"]: one["lines"] for one in moving.orders()}
    assert found["note 31"] == [("OLD-3", 1), ("OLD-4", 0)]
    assert found["note 32"] == [("OLD-77", 5), ("OLD-5", 6)]
    assert small.rejected("orders") == small.rejected("order_lines") == {}
    small.source(
        "insert into orders values (33, 3, 'old4@example.org', 'note 33', now())",
        "insert into order_lines values (304, 33, 1, 2, 8, 1.00, 'EUR'), (305, 33, 2, 78, 9, 1.00, 'EUR')",
    )
    assert moving.send()["orders"].held == 1
    file = contract.with_name("defs.yaml")
    file.write_text(file.read_text().replace('"place": ', '"incomplete": "send", "place": '))
    moving.large()
    assert ("note 33", [("OLD-2", 8)]) in [(one["note"], one["lines"]) for one in moving.orders()]
    assert small.rejected("order_lines") == {"305": "missing_parent"}
