"""The emulated shop: its rows, its limits, and the faults that it is told to have."""

from __future__ import annotations

import argparse
import random
import re
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from graphql import build_schema
from shopify_schema import SDL

SCOPES = {"orders": "read_orders", "customers": "read_customers", "products": "read_products",
           "productVariants": "read_products"}  # fmt: skip
VERSIONS = ("2025-07", "2025-10", "2026-01", "2026-04")


@dataclass
class Faults:
    """How the shop is told to misbehave; `POST /_control` with the names as JSON keys."""

    throttle_next: int = (
        0  # that many API calls answer 429 (REST) or THROTTLED (GraphQL), whatever the bucket
    )
    error_next: int = 0  # that many calls answer 500
    half_next: int = 0  # that many answers are cut in the middle
    error_every: int = 0  # every n-th call answers 500
    hang_next: float = 0  # the next call waits so many seconds
    drop_row: int = 0  # every n-th row of a connection is left out of its page
    repeat_page: int = 0  # from that page on (counted over all), the page before is served again
    repeat_cursor: bool = False  # the cursor never moves on
    truncate_bulk: int = 0  # so many bytes are missing at the end of a bulk file, on every download
    cut_download: int = 0  # the next n downloads break off in the middle
    drop_bulk_line: int = 0  # that line of a bulk file is missing
    shuffle_bulk: bool = True  # children come anywhere, not after their parents
    put_off_next: int = 0  # that many new orders are put off, as a development store does after five a minute
    lose_mutation: int = 0  # the answer to every n-th mutation never arrives, though it took effect
    no_ranges: bool = False  # downloads ignore Range
    bulk_tail: str = ""  # what stands after the last line of a bulk file
    bulk_seconds: float = 0.3  # how long an operation takes
    bulk_status: str = "COMPLETED"  # how operations end
    skew: float = 0  # seconds that this server's clock is ahead
    bomb: bool = False  # the next API answer unfolds to 100 MB
    no_zone: bool = False  # times have no zone
    null_id: bool = False  # the first row of each page has a null id
    mutate_after: int = 0  # after so many pages one order changes and one appears in the past
    inside_repeats: bool = False  # the cursor of a connection inside an object never moves on
    silent_from: int = 0  # from that GraphQL call on nobody is answered, until this is 0 again
    versions: list[str] = field(default_factory=lambda: list(VERSIONS))
    scopes: list[str] = field(
        default_factory=lambda: ["read_orders", "read_all_orders", "read_customers", "read_products"]
    )


class Bucket:
    """A leaky bucket, kept by this server's clock; `overdrawn` counts what it had to refuse."""

    def __init__(self, capacity: float, rate: float) -> None:
        self.capacity, self.rate = capacity, rate
        self.level, self.at, self.spent, self.overdrawn = capacity, time.monotonic(), 0.0, 0

    def refill(self) -> float:
        """The points there are now."""
        now = time.monotonic()
        self.level, self.at = min(self.capacity, self.level + (now - self.at) * self.rate), now
        return self.level

    def spend(self, cost: float) -> bool:
        """Take points, if they are there."""
        if self.refill() < cost:
            self.overdrawn += 1
            return False
        self.level -= cost
        self.spent += cost
        return True


class Shop:
    """The data and what is known of the callers."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.lock = args, threading.Lock()
        self.schema = build_schema(SDL)
        self.deleted: list[str] = []
        self.uploads: dict[str, bytes | None] = {}
        self.mutations = 0
        self.data = _make_rows(args)
        self.reset()

    def reset(self) -> None:
        """No faults, full buckets, nothing asked yet; the rows stay as they are."""
        self.faults = Faults()
        self.points = Bucket(self.args.points, self.args.points_per_second)
        self.calls = Bucket(self.args.calls, self.args.calls_per_second)
        self.counts: dict[str, int] = {}
        self.pages = self.bulk_bytes = 0
        self.operations: dict[str, dict[str, Any]] = {}
        self.last_connection: dict[str, Any] | None = None

    def tell(self) -> dict[str, Any]:
        """What was asked of this server, for tests."""
        return {
            "requests": dict(self.counts), "total": sum(self.counts.values()), "spent": self.points.spent,
            "overdrawn": self.points.overdrawn, "rest_spent": self.calls.spent, "rest_overdrawn": self.calls.overdrawn,
            "operations": len(self.operations), "bulk_bytes": self.bulk_bytes,
            "rows": {k: len(v) for k, v in self.data.items()}, "pages": self.pages,
            "put_off_next": self.faults.put_off_next,
            "bulk_lines": sum(len(o["answers"]) for o in self.operations.values() if "answers" in o),
        }  # fmt: skip

    def now(self) -> float:
        """This server's clock."""
        return time.time() + self.faults.skew

    def served(self, version: str) -> str:
        """The version of the API that answers when this one is asked for."""
        return version if version in self.faults.versions else self.faults.versions[0]

    def stamp(self) -> str:
        """Now, as Shopify writes it."""
        return _stamp(datetime.fromtimestamp(self.now(), UTC))

    def visible(self, root: str, search: str | None = None) -> list[dict[str, Any]]:
        """The rows that a search finds and the scopes allow.

        Raises:
            PermissionError: the scope is missing.
        """
        if SCOPES[root] not in self.faults.scopes:
            raise PermissionError(
                f"Access denied for {root} field. Required access: `{SCOPES[root]}` access scope."
            )
        ok = _matches(search)
        rows = [r for r in self.data[root] if ok(r)]
        if root == "orders" and "read_all_orders" not in self.faults.scopes:
            limit = _stamp(datetime.fromtimestamp(self.now() - 60 * 86400, UTC))
            rows = [r for r in rows if r["createdAt"] >= limit]
        return rows


_TERM = re.compile(r"(\w+):\s*(>=|<=|>|<|)\s*'?([^'\s]+)'?")


def _matches(search: str | None) -> Any:
    terms = _TERM.findall(search or "")
    names = {"created_at": "createdAt", "updated_at": "updatedAt", "processed_at": "processedAt", "status": None,
             "id": "legacyResourceId"}  # fmt: skip
    for name, _, _ in terms:
        if name not in names:
            raise ValueError(f"Invalid search field for this query: {name}")

    def ok(row: dict[str, Any]) -> bool:
        for name, sign, text in terms:
            key = names[name]
            if key is None:
                continue
            mine, other = row[key], text.replace("+00:00", "Z")
            compare = {
                ">=": mine >= other,
                "<=": mine <= other,
                ">": mine > other,
                "<": mine < other,
                "": mine == other,
            }
            if not compare[sign]:
                return False
        return True

    return ok


def _stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _make_rows(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    chance = random.Random(args.seed)
    begin = datetime(2021, 1, 1, tzinfo=UTC)
    span = timedelta(days=4 * 365)

    def gid(kind: str, number: int) -> str:
        return f"gid://shopify/{kind}/{number}"

    def money(amount: str) -> dict[str, Any]:
        one = {"amount": amount, "currencyCode": "EUR"}
        return {"shopMoney": one, "presentmentMoney": one}

    customers, products, variants, orders, lines = [], [], [], [], []
    for n in range(args.customers):
        number = 9_007_199_254_740_993 + n  # beyond what a double holds
        at = begin + span * (n / max(1, args.customers))
        customers.append({
            "id": gid("Customer", number), "legacyResourceId": str(number), "firstName": f"First{n}",
            "lastName": None if n % 17 == 0 else f"Last{n}", "email": f"c{n}@example.com", "phone": None,
            "defaultEmailAddress": {"emailAddress": f"c{n}@example.com"}, "defaultPhoneNumber": None,
            "state": "ENABLED", "numberOfOrders": "3", "note": None, "tags": ["vip"] if n % 5 == 0 else [],
            "createdAt": _stamp(at), "updatedAt": _stamp(at + timedelta(hours=n % 99)),
        })  # fmt: skip
    for n in range(args.products):
        at = begin + span * (n / max(1, args.products))
        product = {
            "id": gid("Product", 7_000_000 + n), "legacyResourceId": str(7_000_000 + n), "title": f"Thing {n}",
            "handle": f"thing-{n}", "vendor": "Ours", "productType": "thing", "status": "ACTIVE", "tags": [],
            "createdAt": _stamp(at), "updatedAt": _stamp(at), "variants": [],
        }  # fmt: skip
        for p in range(1 + n % 3):
            number = 8_000_000 + n * 10 + p
            product["variants"].append({
                "id": gid("ProductVariant", number), "legacyResourceId": str(number), "title": f"Size {p}",
                "sku": f"T{n}-{p}", "price": f"{n % 90 + 10}.{p}0", "position": p + 1, "product": product,
                "createdAt": _stamp(at), "updatedAt": _stamp(at),
            })  # fmt: skip
        products.append(product)
        variants.extend(product["variants"])
    for n in range(args.orders):
        # Some seconds have many orders, so that an order by time alone is not total.
        at = begin + timedelta(seconds=int(span.total_seconds() * (n // 3 * 3) / max(1, args.orders)))
        number = 5_500_000_000_000 + n * 7
        order = {
            "id": gid("Order", number), "legacyResourceId": str(number), "name": f"#{1000 + n}",
            "email": f"c{n % max(1, args.customers)}@example.com",
            "customer": customers[n % len(customers)] if customers and n % 23 else None, "currencyCode": "EUR",
            "totalPriceSet": money(f"{chance.randrange(100, 99999) / 100:.2f}"), "displayFinancialStatus": "PAID",
            "displayFulfillmentStatus": "FULFILLED", "cancelledAt": None, "processedAt": _stamp(at),
            "createdAt": _stamp(at), "updatedAt": _stamp(at + timedelta(days=1)), "tags": [], "lineItems": [],
        }  # fmt: skip
        for p in range(1 + n % 4 if n else args.most):
            variant = variants[(n + p) % len(variants)] if variants else None
            line = {
                "id": gid("LineItem", number * 1000 + p), "title": "Thing", "sku": variant and variant["sku"],
                "quantity": p + 1, "variant": variant, "product": variant and variant["product"],
                "originalUnitPriceSet": money("12.50"),
            }  # fmt: skip
            order["lineItems"].append(line)
            lines.append(line)
        orders.append(order)
    for n, owner in enumerate(customers + products + orders):
        owner["metafields"] = [
            {"id": gid("Metafield", 30_000_000 + n * 1000 + p), "namespace": "custom", "key": f"old_id_{p}",
             "type": "single_line_text_field", "value": f"{n}.{p}", "createdAt": owner["createdAt"],
             "updatedAt": owner["updatedAt"]}
            for p in range(0 if n % 2 else args.most if n % 60 == 0 else 1)
        ]  # fmt: skip
    return {"orders": orders, "customers": customers, "products": products, "productVariants": variants,
            "lines": lines}  # fmt: skip
