"""Shopify's REST Admin API, legacy since 2024-10, for shops whose apps still use it: ready declarations.

Pages follow the `Link` header, whose `page_info` admits no other filter; the edges of a window are both
inside, so rows on its end are left to the next one; the limit is a leaky bucket whose level comes with each
answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ferry.errors import DeclarationError
from ferry.sources.rest import RestSource
from ferry.sources.rest_declaration import RestDeclaration
from ferry.sources.shopify import Shop

_TIMES = {"created_at": "timestamp", "updated_at": "timestamp"}
_ENTITIES: dict[str, dict[str, Any]] = {
    "customers": {
        "path": "customers", "records": "customers",
        "fields": {"id": "int", "email": "text", "first_name": "text", "last_name": "text", **_TIMES},
    },
    "orders": {
        "path": "orders", "records": "orders", "params": {"status": "any"},
        "fields": {
            "id": "int", "name": "text", "email": "text", "customer_id": {"type": "int", "path": "customer.id"},
            "currency": "text", "total_price": {"type": "decimal(20,6)", "parse": True}, **_TIMES,
        },
    },
    "line_items": {
        "path": "orders", "records": "orders[].line_items[]", "params": {"status": "any"},
        "fields": {
            "id": "int", "order_id": {"type": "int", "path": "^id"}, "sku": "text", "quantity": "int",
            "price": {"type": "decimal(20,6)", "parse": True},
        },
    },
    "products": {
        "path": "products", "records": "products",
        "fields": {"id": "int", "title": "text", "handle": "text", "vendor": "text", **_TIMES},
    },
}  # fmt: skip


def shopify_rest(
    shop: Shop,
    entity: str,
    *,
    window: str = "created_at",
    work_dir: Path | None = None,
    calls: float = 40,
    calls_per_second: float = 2,
    unfit: str = "fail",
) -> RestSource:
    """One of `customers`, `orders`, `line_items`, `products` by REST.

    Args:
        shop: the connection.
        entity: what to read.
        window: what windows are on: `created_at` or `updated_at`.
        work_dir: a directory that outlives the process.
        calls, calls_per_second: the plan's bucket: 40 and 2, Advanced 80 and 4, Plus 400 and 20.
        unfit: `fail`, or `carry` values that do not fit to the contract.
    """
    if entity not in _ENTITIES:
        raise DeclarationError(f"there is no {entity!r} by REST", next=f"There are: {', '.join(_ENTITIES)}")
    declared = dict(_ENTITIES[entity])
    path = declared.pop("path")
    declaration = {
        "url": f"{shop.url.rstrip('/')}/admin/api/{shop.version}",
        "path": f"/{path}.json",
        "key": "id",
        "version": "updated_at",
        "auth": {"kind": "api_key", "name": "X-Shopify-Access-Token", "value": shop.token},
        "paging": {"by": "link", "size": 250, "size_param": "limit"},
        "window": {"start": f"{window}_min", "end": f"{window}_max", "end_is": "inclusive", "field": window},
        "count": {"path": f"/{path}/count.json", "value": "count"},
        "changes": {"since": "updated_at_min"},
        "rate": {
            "requests": calls_per_second, "burst": calls, "used_header": "X-Shopify-Shop-Api-Call-Limit",
        },
        "retries": {
            "attempts": shop.patience.attempts, "patience": shop.patience.seconds,
            "first_wait": shop.patience.first_wait, "longest_wait": shop.patience.longest_wait,
            "timeout": shop.patience.timeout,
        },
        "ignore": ["*"],
        "unfit": unfit,
    }  # fmt: skip
    return RestSource(
        RestDeclaration.parse(declaration | declared), state_dir=shop.state_dir, work_dir=work_dir
    )
