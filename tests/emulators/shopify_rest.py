"""The REST side of the emulated shop: rows in pages that a `Link` header leads on to."""

from __future__ import annotations

import base64
import json
import re
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from shopify_shop import SCOPES, Shop


def answer(
    shop: Shop, found: re.Match[str], given: dict[str, list[str]], url: str
) -> tuple[int, Any, dict[str, str]]:
    """Status, body and headers for a call.

    Args:
        shop: the shop.
        found: version, root and, of a count, `/count` of the path.
        given: the query's parameters.
        url: what was called, without a query; the next page is called so too.
    """
    args = {k: v[0] for k, v in given.items()}
    with shop.lock:
        allowed = shop.calls.spend(1)
        used = shop.calls.capacity - int(shop.calls.refill())
    headers = {"X-Shopify-Shop-Api-Call-Limit": f"{used:.0f}/{shop.calls.capacity:.0f}",
               "X-Shopify-API-Version": shop.served(found[1])}  # fmt: skip
    if not allowed:
        return 429, {"errors": "Exceeded calls per second for api client."}, headers | {"Retry-After": "2.0"}
    root = found[2]
    if root not in ("orders", "customers", "products"):
        return 404, {"errors": "Not Found"}, headers
    if SCOPES[root] not in shop.faults.scopes:
        message = f"[API] This action requires merchant approval for {SCOPES[root]} scope."
        return 403, {"errors": message}, headers
    limit = int(args.get("limit", 50))
    if limit > 250:
        return 400, {"errors": {"limit": "must be at most 250"}}, headers
    if "page_info" in args:
        if set(args) - {"page_info", "limit", "fields"}:
            return 400, {"errors": {"page_info": "no other parameter may go with it"}}, headers
        try:
            asked = json.loads(base64.urlsafe_b64decode(args["page_info"]))
        except ValueError:
            return 400, {"errors": {"page_info": "Invalid value."}}, headers
    else:
        known = {"limit", "fields", "status", "created_at_min", "created_at_max", "updated_at_min",
                 "updated_at_max", "order", "since_id"}  # fmt: skip
        if set(args) - known:
            return 400, {"errors": f"unknown parameter {sorted(set(args) - known)}"}, headers
        asked = args | {"last": 0}
    rows = [r for r in shop.visible(root) if _is_within(r, asked)]
    if found[3]:
        return 200, {"count": len(rows)}, headers
    rows.sort(key=lambda r: int(r["legacyResourceId"]))
    rows = [r for r in rows if int(r["legacyResourceId"]) > asked["last"]]
    page = rows[:limit]
    shop.pages += 1
    if len(rows) > limit:
        place = asked | {"last": int(page[-1]["legacyResourceId"])}
        token = base64.urlsafe_b64encode(json.dumps(place).encode()).decode()
        query = urlencode(
            {"page_info": token, "limit": limit} | ({"fields": args["fields"]} if "fields" in args else {})
        )
        headers["Link"] = f'<{url}?{query}>; rel="next"'
    shown = [_shown(root, r) for r in page]
    if "fields" in args:
        names = args["fields"].split(",")
        shown = [{k: r[k] for k in names if k in r} for r in shown]
    return 200, {root: shown}, headers


def _is_within(row: dict[str, Any], asked: dict[str, Any]) -> bool:
    for name, key in (("created_at", "createdAt"), ("updated_at", "updatedAt")):
        at = datetime.fromisoformat(row[key])
        low, high = asked.get(f"{name}_min"), asked.get(f"{name}_max")
        if low and at < datetime.fromisoformat(low):
            return False
        if high and at > datetime.fromisoformat(high):  # both edges belong to the range
            return False
    return True


def _shown(root: str, row: dict[str, Any]) -> dict[str, Any]:
    number = int(row["legacyResourceId"])
    out = {"id": number, "created_at": row["createdAt"], "updated_at": row["updatedAt"],
           "admin_graphql_api_id": row["id"]}  # fmt: skip
    if root == "orders":
        items = [
            {"id": int(i["id"].rsplit("/", 1)[1]), "quantity": i["quantity"], "sku": i["sku"],
             "price": i["originalUnitPriceSet"]["shopMoney"]["amount"]} for i in row["lineItems"]
        ]  # fmt: skip
        customer = row["customer"] and {"id": int(row["customer"]["legacyResourceId"])}
        out |= {"name": row["name"], "email": row["email"], "customer": customer, "currency": row["currencyCode"],
                "total_price": row["totalPriceSet"]["shopMoney"]["amount"], "line_items": items}  # fmt: skip
    elif root == "customers":
        out |= {"email": row["email"], "first_name": row["firstName"], "last_name": row["lastName"]}
    else:
        out |= {"title": row["title"], "handle": row["handle"], "vendor": row["vendor"]}
    return out
