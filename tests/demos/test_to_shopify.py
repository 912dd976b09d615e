"""The ready example: the old shop of the demo moves into an emulated shop on Shopify, in bulk."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import psycopg

from conftest import LEGACY_TEMPLATE
from emulators.running import Emulator
from ferry.deliver import deliver_all, read_back
from migrating import Migrating
from shop.demo.shopify import TOKEN
from shop.demo.to_shopify import DEFS, SHOP


def test_an_order_goes_whole_or_waits(
    shop_templates: tuple[str, str], new_database: Callable[..., str], tmp_path: Path
) -> None:
    """Each order in the shop has as many lines as in the old one; one that lacks a line is held back and is named."""
    assert LEGACY_TEMPLATE in shop_templates
    source, journal = new_database(LEGACY_TEMPLATE), new_database()
    with psycopg.connect(source) as old, psycopg.connect(journal) as new:
        old.execute("delete from orders where id % 40 <> 4")
        old.execute("delete from order_lines where order_id % 40 <> 4")
        lines = Counter(dict(old.execute("select order_id, count(*) from order_lines group by 1").fetchall()))
        new.execute((DEFS / "journal.sql").read_bytes())
    with Emulator("shopify", *SHOP) as shop:
        connections = {"journal": journal, "new_shop": json.dumps({"url": shop.url, "token": TOKEN})}
        moving = Migrating(source, journal, DEFS, tmp_path / "stage", connections=connections)
        moving.load_all()
        plans, settings = moving.plans(), moving.settings
        done = {one.entity: one for one in deliver_all(plans, settings)}
        assert read_back(plans, "orders", settings) == (done["orders"].created, [])
        with psycopg.connect(journal) as new:
            sent = dict(new.execute("select old_id, remote_id from ferry.api_map_orders").fetchall())
            held = new.execute(
                "select count(*), bool_and(errors->0->>'message' like '% and would be missing in it; %')"
                " from ferry.rejected_rows where entity = 'orders' and reason = 'parent_refused'"
            ).fetchone()
        assert held == (done["orders"].held, True)
        assert len(sent) == done["orders"].created > 2 * done["orders"].held > 0
        for old_id, remote_id in list(sent.items())[:20]:
            inside = "name lineItems(first: 50) { nodes { id } }"
            query = f'{{ node(id: "{remote_id}") {{ ... on Order {{ {inside} }} }} }}'
            told = httpx.post(
                f"{shop.url}/admin/api/2026-01/graphql.json",
                json={"query": query},
                headers={"X-Shopify-Access-Token": TOKEN},
            ).json()["data"]["node"]
            assert (told["name"], len(told["lineItems"]["nodes"])) == (f"#{old_id}", lines[old_id])
