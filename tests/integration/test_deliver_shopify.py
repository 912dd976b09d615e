"""An old shop's customers become customers of a shop on Shopify, each once; against the emulated shop."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from emulators.running import Emulator
from ferry.declaration import read_migration
from ferry.deliver import deliver, read_back
from ferry.plan import plan_migration
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


def settings(small: Small, shop: Emulator) -> Settings:
    """The migration's settings with the shop's connection."""
    had = small.migrating.settings
    api = {"url": shop.url, "token": TOKEN, "first_wait": 0.01, "longest_wait": 0.05, "attempts": 20}
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
