"""A shop that behaves like Shopify's Admin API, over a real socket.

    python tests/emulators/shopify.py --port 8901 --orders 3000

GraphQL (graphql-core executes it against a schema), bulk operations (queries, and mutations whose lines take effect
one after the other while the operation runs), REST with `Link` pages; cost and leaky buckets; the caps; scopes and
versions. Metafields of the type `id` are unique, an order's lines stay as they were created, and a customer with orders
is not deleted. `POST /_control` changes how it behaves (see `Faults`), `GET
/_control` tells what was asked of it.
"""
# The schema's lines are long, and its methods and arguments are named as Shopify names them.
# ruff: noqa: A002, ARG002, D102, E501, N802, N803

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import json
import random
import re
import threading
import time
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from graphql import FieldNode, InlineFragmentNode, build_schema, graphql_sync, parse, value_from_ast_untyped

_CONNECTIONS = {
    "Order": "CREATED_AT UPDATED_AT PROCESSED_AT ID", "Customer": "CREATED_AT UPDATED_AT NAME ID",
    "Product": "CREATED_AT UPDATED_AT TITLE ID", "ProductVariant": "TITLE SKU POSITION ID",
}  # fmt: skip
_ROOTS = {
    "Order": "orders",
    "Customer": "customers",
    "Product": "products",
    "ProductVariant": "productVariants",
}

SDL = """
scalar DateTime
scalar Decimal
scalar UnsignedInt64
scalar URL
interface Node { id: ID! }
type PageInfo { hasNextPage: Boolean! endCursor: String }
enum CountPrecision { EXACT AT_LEAST }
type Count { count: Int! precision: CountPrecision! }
type MoneyV2 { amount: Decimal! currencyCode: String! }
type MoneyBag { shopMoney: MoneyV2! presentmentMoney: MoneyV2! }
type CustomerEmailAddress { emailAddress: String! }
type CustomerPhoneNumber { phoneNumber: String! }
type AccessScope { handle: String! description: String! }
type AppInstallation { id: ID! accessScopes: [AccessScope!]! }
type ApiVersion { handle: String! supported: Boolean! displayName: String! }
type Shop { id: ID! name: String! myshopifyDomain: String! }
type Metafield implements Node { id: ID! namespace: String! key: String! type: String! value: String!
  createdAt: DateTime! updatedAt: DateTime! }
type Customer implements Node { id: ID! legacyResourceId: UnsignedInt64! firstName: String lastName: String
  email: String phone: String defaultEmailAddress: CustomerEmailAddress defaultPhoneNumber:
      CustomerPhoneNumber
  state: String! numberOfOrders: UnsignedInt64! note: String tags: [String!]! createdAt: DateTime!
      updatedAt: DateTime!
  metafields(first: Int, after: String): MetafieldConnection! }
type LineItem implements Node { id: ID! title: String! sku: String quantity: Int! product: Product
  variant: ProductVariant originalUnitPriceSet: MoneyBag! }
type Order implements Node { id: ID! legacyResourceId: UnsignedInt64! name: String! email: String customer:
Customer
  note: String currencyCode: String! totalPriceSet: MoneyBag! displayFinancialStatus: String displayFulfillmentStatus:
      String!
  cancelledAt: DateTime processedAt: DateTime! createdAt: DateTime! updatedAt: DateTime! tags: [String!]!
  lineItems(first: Int, after: String): LineItemConnection! metafields(first: Int, after: String):
  MetafieldConnection! }
type Product implements Node { id: ID! legacyResourceId: UnsignedInt64! title: String! handle: String! vendor:
String!
  productType: String! status: String! tags: [String!]! createdAt: DateTime! updatedAt: DateTime!
  variants(first: Int, after: String): ProductVariantConnection!
  metafields(first: Int, after: String): MetafieldConnection! }
type ProductVariant implements Node { id: ID! legacyResourceId: UnsignedInt64! title: String! sku: String
  price: Decimal! position: Int! product: Product! createdAt: DateTime! updatedAt: DateTime! }
type BulkOperation implements Node { id: ID! status: String! errorCode: String objectCount: UnsignedInt64!
  rootObjectCount: UnsignedInt64! fileSize: UnsignedInt64 url: URL partialDataUrl: URL query: String!
      type: String!
  createdAt: DateTime! completedAt: DateTime }
type UserError { field: [String!] message: String! }
type BulkPayload { bulkOperation: BulkOperation userErrors: [UserError!]! }
type BulkMutationUserError { field: [String!] message: String! code: String }
type BulkMutationPayload { bulkOperation: BulkOperation userErrors: [BulkMutationUserError!]! }
enum BulkOperationType { QUERY MUTATION }
enum BulkOperationsSortKeys { CREATED_AT COMPLETED_AT }
type BulkOperationConnection { nodes: [BulkOperation!]! }
enum StagedUploadTargetGenerateUploadResource { BULK_MUTATION_VARIABLES FILE IMAGE }
enum StagedUploadHttpMethodType { POST PUT }
input StagedUploadInput { resource: StagedUploadTargetGenerateUploadResource! filename: String! mimeType: String!
  httpMethod: StagedUploadHttpMethodType }
type StagedUploadParameter { name: String! value: String! }
type StagedMediaUploadTarget { url: URL resourceUrl: URL parameters: [StagedUploadParameter!]! }
type StagedUploadsCreatePayload { stagedTargets: [StagedMediaUploadTarget!] userErrors: [UserError!]! }
type Mutation {
  stagedUploadsCreate(input: [StagedUploadInput!]!): StagedUploadsCreatePayload
  bulkOperationRunMutation(mutation: String!, stagedUploadPath: String!, clientIdentifier: String): BulkMutationPayload
  orderCreate(order: OrderCreateOrderInput!, options: OrderCreateOptionsInput): OrderCreatePayload
  orderUpdate(input: OrderInput!): OrderUpdatePayload
  orderDelete(orderId: ID!): OrderDeletePayload bulkOperationRunQuery(query: String!, groupObjects: Boolean! = false): BulkPayload
  bulkOperationCancel(id: ID!): BulkPayload
  customerSet(identifier: CustomerSetIdentifiers, input: CustomerSetInput!): CustomerSetPayload
  customerDelete(input: CustomerDeleteInput!): CustomerDeletePayload
  productSet(identifier: ProductSetIdentifiers, input: ProductSetInput!, synchronous: Boolean! = true): ProductSetPayload
  productDelete(input: ProductDeleteInput!): ProductDeletePayload }
input UniqueMetafieldValueInput { namespace: String key: String! value: String! }
input CustomerSetIdentifiers { customId: UniqueMetafieldValueInput email: String id: ID phone: String }
input ProductSetIdentifiers { customId: UniqueMetafieldValueInput handle: String id: ID }
input CustomerSetInput { firstName: String lastName: String email: String phone: String note: String tags: [String!] }
input ProductSetInput { title: String handle: String vendor: String productType: String status: String tags: [String!]
  productOptions: [OptionSetInput!] variants: [ProductVariantSetInput!] }
input OptionSetInput { name: String values: [OptionValueSetInput!] }
input OptionValueSetInput { name: String }
input VariantOptionValueInput { optionName: String name: String }
input ProductVariantSetInput { optionValues: [VariantOptionValueInput!]! sku: String price: Decimal }
input OrderIdentifierInput { customId: UniqueMetafieldValueInput id: ID }
input MetafieldInput { namespace: String key: String type: String value: String }
input MoneyInput { amount: Decimal! currencyCode: String! }
input MoneyBagInput { shopMoney: MoneyInput! }
input OrderCreateAssociateCustomerAttributesInput { id: ID email: String }
input OrderCreateCustomerInput { toAssociate: OrderCreateAssociateCustomerAttributesInput }
input OrderCreateLineItemInput { variantId: ID productId: ID title: String sku: String quantity: Int! priceSet: MoneyBagInput }
input OrderCreateOrderInput { customer: OrderCreateCustomerInput email: String name: String note: String tags: [String!]
  currency: String processedAt: DateTime financialStatus: String lineItems: [OrderCreateLineItemInput!]
  metafields: [MetafieldInput!] }
input OrderCreateOptionsInput { inventoryBehaviour: String sendReceipt: Boolean }
input OrderInput { id: ID! email: String note: String phone: String poNumber: String tags: [String!] }
input CustomerDeleteInput { id: ID! }
input ProductDeleteInput { id: ID! }
type CustomerSetPayload { customer: Customer userErrors: [UserError!]! }
type ProductSetPayload { product: Product userErrors: [UserError!]! }
type CustomerDeletePayload { deletedCustomerId: ID userErrors: [UserError!]! }
type ProductDeletePayload { deletedProductId: ID userErrors: [UserError!]! }
type OrderCreatePayload { order: Order userErrors: [UserError!]! }
type OrderUpdatePayload { order: Order userErrors: [UserError!]! }
type OrderDeletePayload { deletedId: ID userErrors: [UserError!]! }
"""
for _kind in (*_CONNECTIONS, "LineItem", "Metafield"):
    SDL += (
        f"type {_kind}Edge {{ cursor: String! node: {_kind}! }}\n"
        f"type {_kind}Connection {{ edges: [{_kind}Edge!]! nodes: [{_kind}!]! pageInfo: PageInfo! }}\n"
    )
SDL += "type Query { shop: Shop! node(id: ID!): Node currentAppInstallation: AppInstallation!\n"
SDL += "publicApiVersions: [ApiVersion!]!\n"
SDL += "currentBulkOperation(type: BulkOperationType = QUERY): BulkOperation\n"
SDL += "bulkOperations(first: Int, query: String, sortKey: BulkOperationsSortKeys = CREATED_AT, reverse: Boolean = false):"
SDL += " BulkOperationConnection!\norderByIdentifier(identifier: OrderIdentifierInput!): Order\n"
for _kind, _root in _ROOTS.items():
    SDL += f"{_root}(first: Int, after: String, query: String, sortKey: {_kind}SortKeys = ID, reverse: Boolean = false): {_kind}Connection!\n"
    SDL += f"{_root}Count(query: String, limit: Int = 10000): Count\n"
SDL = (
    SDL.replace("ordersCount", "ordersCount").replace("productVariantsCount", "productVariantsCount") + "}\n"
)
for _kind, _keys in _CONNECTIONS.items():
    SDL += f"enum {_kind}SortKeys {{ {_keys} }}\n"

_SCOPES = {"orders": "read_orders", "customers": "read_customers", "products": "read_products",
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
        self.args, self.lock, self.faults = args, threading.Lock(), Faults()
        self.schema = build_schema(SDL)
        self.points = Bucket(args.points, args.points_per_second)
        self.calls = Bucket(args.calls, args.calls_per_second)
        self.counts: dict[str, int] = {}
        self.pages = 0
        self.operations: dict[str, dict[str, Any]] = {}
        self.last_connection: dict[str, Any] | None = None
        self.bulk_bytes = 0
        self.deleted: list[str] = []
        self.uploads: dict[str, bytes | None] = {}
        self.mutations = 0
        self.data = _make_shop(args)

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


def _make_shop(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    chance = random.Random(args.seed)
    begin = datetime(2021, 1, 1, tzinfo=UTC)
    span = timedelta(days=4 * 365)

    def stamp(at: datetime) -> str:
        return at.strftime("%Y-%m-%dT%H:%M:%SZ")

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
            "createdAt": stamp(at), "updatedAt": stamp(at + timedelta(hours=n % 99)),
        })  # fmt: skip
    for n in range(args.products):
        at = begin + span * (n / max(1, args.products))
        product = {
            "id": gid("Product", 7_000_000 + n), "legacyResourceId": str(7_000_000 + n), "title": f"Thing {n}",
            "handle": f"thing-{n}", "vendor": "Ours", "productType": "thing", "status": "ACTIVE", "tags": [],
            "createdAt": stamp(at), "updatedAt": stamp(at), "variants": [],
        }  # fmt: skip
        for p in range(1 + n % 3):
            number = 8_000_000 + n * 10 + p
            product["variants"].append({
                "id": gid("ProductVariant", number), "legacyResourceId": str(number), "title": f"Size {p}",
                "sku": f"T{n}-{p}", "price": f"{n % 90 + 10}.{p}0", "position": p + 1, "product": product,
                "createdAt": stamp(at), "updatedAt": stamp(at),
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
            "displayFulfillmentStatus": "FULFILLED", "cancelledAt": None, "processedAt": stamp(at),
            "createdAt": stamp(at), "updatedAt": stamp(at + timedelta(days=1)), "tags": [], "lineItems": [],
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


# --- GraphQL
# ---------------------------------------------------------------------------------------------------------

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


class Resolver:
    """Root values: each connection with its filter, order, cursor and cap."""

    def __init__(self, shop: Shop, scopes: list[str], host: str) -> None:
        self._shop, self._scopes, self._host = shop, scopes, host
        for root in _SCOPES:
            setattr(self, root, self._connection(root))
            setattr(self, f"{root}Count", self._count(root))

    def _visible(self, root: str, search: str | None) -> list[dict[str, Any]]:
        if _SCOPES[root] not in self._scopes:
            raise PermissionError(
                f"Access denied for {root} field. Required access: `{_SCOPES[root]}` access scope."
            )
        ok = _matches(search)
        rows = [r for r in self._shop.data[root] if ok(r)]
        if root == "orders" and "read_all_orders" not in self._scopes:
            limit = datetime.fromtimestamp(self._shop.now() - 60 * 86400, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            rows = [r for r in rows if r["createdAt"] >= limit]
        return rows

    def _count(self, root: str) -> Any:
        def count(_info: Any, query: str | None = None, limit: int | None = 10_000) -> dict[str, Any]:
            found = len(self._visible(root, query))
            most = min(limit if limit is not None else self._shop.args.cap + 1, self._shop.args.cap + 1)
            return {"count": min(found, most), "precision": "EXACT" if found < most else "AT_LEAST"}

        return count

    def _connection(self, root: str) -> Any:
        def connection(
            _info: Any,
            first: int | None = None,
            after: str | None = None,
            query: str | None = None,
            sortKey: str = "ID",
            reverse: bool = False,
        ) -> dict[str, Any]:
            faults = self._shop.faults
            if first is None or not 0 < first <= 250:
                raise ValueError("you must provide one of first or last, from 1 to 250")
            sort = {"ID": "id", "SKU": "sku", "TITLE": "title", "POSITION": "position"}.get(
                sortKey, re.sub("_(.)", lambda m: m[1].upper(), sortKey.lower())
            )
            rows = sorted(
                self._visible(root, query),
                key=lambda r: (str(r[sort]), int(r["id"].rsplit("/", 1)[1])),
                reverse=reverse,
            )
            done = 0
            if after is not None:
                try:
                    place = json.loads(base64.b64decode(after))
                    last = (place["value"], place["id"])
                    done = place["n"]
                except (ValueError, KeyError):
                    raise ValueError("Invalid cursor for current pagination sort.") from None
                place = [(str(r[sort]), int(r["id"].rsplit("/", 1)[1])) for r in rows]
                rows = [r for r, at in zip(rows, place, strict=True) if (at < last if reverse else at > last)]
            if done + first > self._shop.args.cap:
                if done >= self._shop.args.cap:
                    raise ValueError(f"Pagination limit of {self._shop.args.cap} objects reached")
                first = self._shop.args.cap - done
            page, more = rows[:first], len(rows) > first
            self._shop.pages += 1
            if faults.mutate_after and self._shop.pages == faults.mutate_after:
                self._mutate()
            cursors = [
                base64.b64encode(
                    json.dumps(
                        {"value": str(r[sort]), "id": int(r["id"].rsplit("/", 1)[1]), "n": done + at + 1}
                    ).encode()
                ).decode()
                for at, r in enumerate(page)
            ]
            if faults.drop_row:
                keep = [at for at in range(len(page)) if (done + at + 1) % faults.drop_row]
                page, kept = [page[at] for at in keep], [cursors[at] for at in keep]
            else:
                kept = cursors
            answer = {
                "edges": [{"node": r, "cursor": c} for r, c in zip(page, kept, strict=True)], "nodes": page,
                "pageInfo": {"hasNextPage": more, "endCursor": cursors[-1] if cursors else None},
            }  # fmt: skip
            if faults.repeat_cursor and after is not None:
                answer["pageInfo"] = {"hasNextPage": True, "endCursor": after}
            if faults.repeat_page and self._shop.pages >= faults.repeat_page and self._shop.last_connection:
                answer = self._shop.last_connection | {"pageInfo": answer["pageInfo"]}
            self._shop.last_connection = answer
            return answer

        return connection

    def _mutate(self) -> None:
        orders = self._shop.data["orders"]
        now = datetime.fromtimestamp(self._shop.now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        orders[0] |= {"email": "changed@example.com", "updatedAt": now}
        late = dict(orders[1]) | {
            "id": "gid://shopify/Order/1", "legacyResourceId": "1", "name": "#late", "updatedAt": now, "lineItems": [],
        }  # fmt: skip
        orders.append(late)

    def shop(self, _info: Any) -> dict[str, Any]:
        return {"id": "gid://shopify/Shop/1", "name": "Emulated", "myshopifyDomain": "emulated.myshopify.com"}

    def currentAppInstallation(self, _info: Any) -> dict[str, Any]:
        scopes = [{"handle": s, "description": s} for s in self._shop.faults.scopes]
        return {"id": "gid://shopify/AppInstallation/1", "accessScopes": scopes}

    def publicApiVersions(self, _info: Any) -> list[dict[str, Any]]:
        return [{"handle": v, "supported": True, "displayName": v} for v in self._shop.faults.versions]

    def node(self, _info: Any, id: str) -> dict[str, Any] | None:
        operation = self._shop.operations.get(id)
        if operation:
            return {"__typename": "BulkOperation", **_look(self._shop, operation, self._host)}
        for root, kind in (("customers", "Customer"), ("products", "Product"), ("orders", "Order")):
            row = next((r for r in self._shop.data[root] if r["id"] == id), None)
            if row:
                return {"__typename": kind, **row}
        return None

    def orderByIdentifier(self, _info: Any, identifier: dict[str, Any]) -> dict[str, Any] | None:
        own = tuple((identifier.get("customId") or {}).values())
        row = next((r for r in self._shop.data["orders"] if own and r.get("customId") == own), None)
        return row if row else None

    def currentBulkOperation(self, _info: Any, type: str = "QUERY") -> dict[str, Any] | None:
        last = [o for o in self._shop.operations.values() if o.get("type", "QUERY") == type][-1:]
        return _look(self._shop, last[0], self._host) if last else None

    def bulkOperations(
        self, _info: Any, first: int | None = None, query: str = "", sortKey: str = "", reverse: bool = False
    ) -> dict[str, Any]:
        found = [o for o in self._shop.operations.values() if o.get("type", "QUERY").lower() in query]
        found = found[::-1] if reverse else found
        return {"nodes": [_look(self._shop, o, self._host) for o in found[:first]]}

    def stagedUploadsCreate(self, _info: Any, input: list[dict[str, Any]]) -> dict[str, Any]:
        targets = []
        for one in input:
            key = f"tmp/1/bulk/{len(self._shop.uploads):08d}/{one['filename']}"
            self._shop.uploads[key] = None
            parameters = [{"name": "key", "value": key}, {"name": "Content-Type", "value": one["mimeType"]},
                          {"name": "policy", "value": "signed"}]  # fmt: skip
            url = f"http://{self._host}/upload/"
            targets.append({"url": url, "resourceUrl": None, "parameters": parameters})
        return {"stagedTargets": targets, "userErrors": []}

    def bulkOperationRunMutation(
        self, _info: Any, mutation: str, stagedUploadPath: str, clientIdentifier: str | None = None
    ) -> dict[str, Any]:
        shop = self._shop

        def no(message: str, code: str | None, *field: str) -> dict[str, Any]:
            problem = {"field": list(field) or None, "message": message, "code": code}
            return {"bulkOperation": None, "userErrors": [problem]}

        mine = [o for o in shop.operations.values() if o.get("type") == "MUTATION"]
        if sum(_status(shop, o) == "RUNNING" for o in mine) >= (5 if self.version >= "2026-01" else 1):
            return no(
                "A bulk mutation operation for this app and shop is already in progress.",
                "OPERATION_IN_PROGRESS",
            )
        body = shop.uploads.get(stagedUploadPath)
        if body is None:
            return no("The JSONL file could not be found.", "NO_SUCH_FILE")
        top = parse(mutation).definitions[0]
        if top.operation.value != "mutation":  # type: ignore[union-attr]
            return no("Invalid operation type. Only `mutation` operations are supported.", "INVALID_MUTATION")
        roots = [one.name.value for one in top.selection_set.selections]  # type: ignore[union-attr]
        if len(roots) != 1:
            return no("You must specify a single top level mutation.", None, "mutation")
        if roots[0].startswith("bulkOperation"):
            return no("You must use an allowed mutation name.", None, "mutation")
        if len(re.findall(r"\bnodes\b|\bedges\b", mutation)) > 1:
            return no("Bulk mutations cannot contain more than 1 connection.", None, "mutation")
        number = f"gid://shopify/BulkOperation/{720_000 + len(shop.operations)}"
        shop.operations[number] = {
            "id": number, "type": "MUTATION", "query": mutation, "begun": time.monotonic(), "answers": [],
            "variables": [json.loads(line) for line in body.splitlines()], "status": shop.faults.bulk_status,
        }  # fmt: skip
        return {"bulkOperation": _look(shop, shop.operations[number], self._host), "userErrors": []}

    def bulkOperationRunQuery(self, _info: Any, query: str, groupObjects: bool = False) -> dict[str, Any]:
        shop = self._shop
        running = [o for o in shop.operations.values() if _status(shop, o) == "RUNNING"]
        places = 5 if self.version >= "2026-01" else 1
        if len(running) >= places:
            message = (
                f"A bulk query operation for this app and shop is already in progress: {running[0]['id']}."
            )
            return {"bulkOperation": None, "userErrors": [{"field": None, "message": message}]}
        try:
            lines = _bulk(self, query, grouped=groupObjects and not shop.faults.shuffle_bulk)
        except (ValueError, PermissionError) as error:
            return {"bulkOperation": None, "userErrors": [{"field": ["query"], "message": str(error)}]}
        number = f"gid://shopify/BulkOperation/{720_000 + len(shop.operations)}"
        body = "".join(json.dumps(line) + "\n" for line in lines).encode() + shop.faults.bulk_tail.encode()
        shop.operations[number] = {
            "id": number, "query": query, "begun": time.monotonic(), "lines": len(lines), "body": body,
            "roots": sum("__parentId" not in line for line in lines), "status": shop.faults.bulk_status,
        }  # fmt: skip
        return {"bulkOperation": _look(shop, shop.operations[number], self._host), "userErrors": []}

    def customerSet(self, _info: Any, input: dict[str, Any], identifier: Any = None) -> dict[str, Any]:
        return self._set("customers", "Customer", "email", identifier or {}, input)

    def productSet(
        self, _info: Any, input: dict[str, Any], identifier: Any = None, synchronous: bool = True
    ) -> dict[str, Any]:
        assert synchronous
        given = {name: value for name, value in input.items() if name not in ("variants", "productOptions")}
        told = self._set("products", "Product", "handle", identifier or {}, given)
        product = told["product"]
        if product is None:
            return told
        asked = input.get("variants") or ([] if product["variants"] else [{"sku": None, "price": "0.00"}])
        for at, one in enumerate(asked):
            if at == len(product["variants"]):
                number = 12_000_000 + len(self._shop.data["productVariants"])
                product["variants"].append({
                    "id": f"gid://shopify/ProductVariant/{number}", "legacyResourceId": str(number), "title": "Default",
                    "position": at + 1, "product": product, "createdAt": product["updatedAt"],
                })  # fmt: skip
                self._shop.data["productVariants"].append(product["variants"][at])
            product["variants"][at] |= {
                "sku": one.get("sku"), "price": one.get("price") or "0.00", "updatedAt": product["updatedAt"]
            }  # fmt: skip
        return {**told, "product": product}

    def orderCreate(self, _info: Any, order: dict[str, Any], options: Any = None) -> dict[str, Any]:
        shop = self._shop

        def no(message: str, *field: str) -> dict[str, Any]:
            return {"order": None, "userErrors": [{"field": ["order", *field], "message": message}]}

        own = next(((m["namespace"], m["key"], m["value"]) for m in order.get("metafields") or []), None)
        if own and any(row.get("customId") == own for row in shop.data["orders"]):
            return no("Value must be unique", "metafields", "0", "value")
        if shop.faults.put_off_next:
            shop.faults.put_off_next -= 1
            return no("Too many attempts. Please try again later.")
        asked = order.get("lineItems") or []
        if not asked:
            return no("Line items must have at least one line item", "lineItems")
        if "@" not in (order.get("email") or "@"):
            return no("Email is invalid", "email")
        who = (order.get("customer") or {}).get("toAssociate", {}).get("id")
        customer = next((c for c in shop.data["customers"] if c["id"] == who), None)
        if who and customer is None:
            return no("Customer does not exist", "customer", "toAssociate", "id")
        number = 13_000_000_000_000 + len(shop.data["orders"]) + len(shop.deleted)
        lines, total = [], 0.0
        for at, one in enumerate(asked):
            variant = next((v for v in shop.data["productVariants"] if v["id"] == one.get("variantId")), None)
            if one.get("variantId") and variant is None:
                return no("Variant does not exist", "lineItems", str(at), "variantId")
            price = (one.get("priceSet") or {}).get("shopMoney") or {
                "amount": variant["price"] if variant else "0.00", "currencyCode": "EUR"}  # fmt: skip
            total += float(price["amount"]) * one["quantity"]
            lines.append({
                "id": f"gid://shopify/LineItem/{number * 1000 + at}", "title": one.get("title") or "Thing",
                "sku": variant and variant["sku"], "quantity": one["quantity"], "variant": variant,
                "product": variant and variant["product"],
                "originalUnitPriceSet": {"shopMoney": price, "presentmentMoney": price},
            })  # fmt: skip
        now = datetime.fromtimestamp(shop.now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        money = {"amount": f"{total:.2f}", "currencyCode": order.get("currency") or "EUR"}
        row = {
            "id": f"gid://shopify/Order/{number}", "legacyResourceId": str(number), "customId": own,
            "name": order.get("name") or f"#{number}", "email": order.get("email"), "note": order.get("note"),
            "customer": customer, "currencyCode": money["currencyCode"], "cancelledAt": None,
            "totalPriceSet": {"shopMoney": money, "presentmentMoney": money}, "displayFinancialStatus": "PENDING",
            "displayFulfillmentStatus": "UNFULFILLED", "processedAt": order.get("processedAt") or now,
            "createdAt": now, "updatedAt": now, "tags": order.get("tags") or [], "lineItems": lines, "metafields": [],
        }  # fmt: skip
        shop.data["orders"].append(row)
        shop.data["lines"].extend(lines)
        return {"order": row, "userErrors": []}

    def orderUpdate(self, _info: Any, input: dict[str, Any]) -> dict[str, Any]:
        row = next((r for r in self._shop.data["orders"] if r["id"] == input["id"]), None)
        if row is None:
            return {"order": None, "userErrors": [{"field": ["id"], "message": "Order does not exist"}]}
        row |= {name: value for name, value in input.items() if name != "id"}
        return {"order": row, "userErrors": []}

    def orderDelete(self, _info: Any, orderId: str) -> dict[str, Any]:
        return self._delete("orders", orderId)

    def customerDelete(self, _info: Any, input: dict[str, Any]) -> dict[str, Any]:
        if any((row["customer"] or {}).get("id") == input["id"] for row in self._shop.data["orders"]):
            message = "Customer can\u2019t be deleted because they have associated orders"
            return {"userErrors": [{"field": ["id"], "message": message}]}
        return self._delete("customers", input["id"])

    def productDelete(self, _info: Any, input: dict[str, Any]) -> dict[str, Any]:
        return self._delete("products", input["id"])

    def _set(
        self, root: str, kind: str, unique: str, identifier: dict[str, Any], given: dict[str, Any]
    ) -> dict[str, Any]:
        """An object found by our own id, or a new one; what has to be unique is."""
        own = tuple((identifier.get("customId") or {}).values()) or None
        rows = self._shop.data[root]
        row = next((r for r in rows if own and r.get("customId") == own), None)
        taken = given.get(unique) is not None and any(
            r is not row and r[unique] == given[unique] for r in rows
        )
        if taken or (unique == "email" and "@" not in (given.get("email") or "@")):
            message = "Email has already been taken" if taken else "Email is invalid"
            problem = {"field": ["input", unique], "message": message}
            return {kind.lower(): None, "userErrors": [problem]}
        now = datetime.fromtimestamp(self._shop.now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if row is None:
            number = 11_000_000_000_000_000 + len(rows) + len(self._shop.deleted)
            row = {
                "id": f"gid://shopify/{kind}/{number}", "legacyResourceId": str(number), "customId": own,
                "firstName": None, "lastName": None, "email": None, "phone": None, "state": "DISABLED", "note": None,
                "numberOfOrders": "0", "defaultEmailAddress": None, "defaultPhoneNumber": None, "tags": [],
                "title": "", "handle": "", "vendor": "", "productType": "", "status": "ACTIVE", "variants": [],
                "createdAt": now,
            }  # fmt: skip
            rows.append(row)
        row |= {**given, "updatedAt": now}
        return {kind.lower(): row, "userErrors": []}

    def _delete(self, root: str, id: str) -> dict[str, Any]:
        rows = self._shop.data[root]
        found = [row for row in rows if row["id"] == id]
        if not found:
            return {"userErrors": [{"field": ["id"], "message": "does not exist"}]}
        rows.remove(found[0])
        self._shop.deleted.append(id)
        return {"userErrors": []}

    version = "2026-01"


def _resolved(source: Any, info: Any, **given: Any) -> Any:
    """A field of an object; a list that is a connection inside it in pages, as the object's own connection is."""
    name = info.field_name
    value = source.get(name) if isinstance(source, dict) else getattr(source, name, None)
    if callable(value):
        return value(info, **given)
    if name not in ("lineItems", "variants", "metafields") or not isinstance(value, list):
        return value
    first, after = given.get("first"), given.get("after")
    if first is None or not 0 < first <= 250:
        raise ValueError("you must provide one of first or last, from 1 to 250")
    begin = 0
    if after is not None:
        last = base64.b64decode(after).decode()
        begin = next((at + 1 for at, one in enumerate(value) if one["id"] == last), -1)
        if begin < 0:
            raise ValueError("Invalid cursor for current pagination sort.")
    page = value[begin : begin + first]
    cursors = [base64.b64encode(one["id"].encode()).decode() for one in page]
    end = after if info.context and info.context.inside_repeats and after else next(reversed(cursors), None)
    return {
        "nodes": page, "edges": [{"node": one, "cursor": c} for one, c in zip(page, cursors, strict=True)],
        "pageInfo": {"hasNextPage": begin + first < len(value), "endCursor": end},
    }  # fmt: skip


def _advance(shop: Shop, operation: dict[str, Any], host: str, version: str) -> None:
    """Let the lines of a bulk mutation take effect whose time has come; one that fails stops in the middle."""
    share = min(1.0, (time.monotonic() - operation["begun"]) / max(1e-9, shop.faults.bulk_seconds))
    lines = operation["variables"]
    due = int(len(lines) * share)
    if operation["status"] != "COMPLETED":
        due = min(due, len(lines) // 2)
    resolver = Resolver(shop, shop.faults.scopes, host)
    resolver.version = version
    for number in range(len(operation["answers"]), due):
        result = graphql_sync(
            shop.schema, operation["query"], resolver, None, lines[number], field_resolver=_resolved
        )
        answer: dict[str, Any] = {"data": result.data, "__lineNumber": number}
        if result.errors:
            answer["errors"] = [{"message": error.message} for error in result.errors]
        operation["answers"].append(answer)


def _status(shop: Shop, operation: dict[str, Any]) -> str:
    over = time.monotonic() - operation["begun"] >= shop.faults.bulk_seconds
    if "variables" in operation and operation["status"] == "COMPLETED":
        over = over and len(operation["answers"]) == len(operation["variables"])
    return operation["status"] if over else "RUNNING"


def _look(shop: Shop, operation: dict[str, Any], host: str) -> dict[str, Any]:
    if operation.get("type") == "MUTATION":
        answers = list(operation["answers"])
        random.Random(2).shuffle(answers)  # they say which line they belong to
        body = "".join(json.dumps(answer) + "\n" for answer in answers).encode()
        operation |= {"lines": len(answers), "roots": len(answers), "body": body}
    status, done = _status(shop, operation), _status(shop, operation) == "COMPLETED"
    signature = hashlib.sha256(operation["id"].encode()).hexdigest()[:24]
    url = f"http://{host}/bulk/{operation['id'].rsplit('/', 1)[1]}?signature={signature}"
    return {
        "id": operation["id"], "status": status, "query": operation["query"], "type": operation.get("type", "QUERY"),
        "errorCode": "INTERNAL_SERVER_ERROR" if status == "FAILED" else None,
        "objectCount": str(operation["lines"] if done else operation["lines"] // 2),
        "rootObjectCount": str(operation["roots"] if done else 0),
        "fileSize": str(len(operation["body"])) if done else None,
        "url": url if done and operation["lines"] else None, "partialDataUrl": None,
        "createdAt": "2026-01-01T00:00:00Z", "completedAt": None,
    }  # fmt: skip


def _bulk(resolver: Resolver, query: str, *, grouped: bool) -> list[dict[str, Any]]:
    document = parse(query)
    top = document.definitions[0].selection_set.selections  # type: ignore[union-attr]
    if len(top) != 1:
        raise ValueError("Bulk queries must have one top-level field")
    connections = [0]
    lines: list[dict[str, Any]] = []

    def nodes(selection: FieldNode) -> Any:
        inner = {f.name.value: f for f in selection.selection_set.selections}
        if "edges" in inner:
            inner = {f.name.value: f for f in inner["edges"].selection_set.selections}
            return inner["node"].selection_set
        return inner["nodes"].selection_set

    def plain(row: dict[str, Any], selections: Any, parent: str | None, depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for one in selections:
            if isinstance(one, InlineFragmentNode):
                out |= plain(row, one.selection_set.selections, parent, depth)
                continue
            name = one.name.value
            if name not in row:
                raise ValueError(f"Field '{name}' doesn't exist")
            value = row[name]
            if name in ("lineItems", "variants", "metafields"):
                walk(value, one, row["id"], depth + 1)
            elif one.selection_set and isinstance(value, dict):
                out[name] = plain(value, one.selection_set.selections, parent, depth)
            else:
                out[name] = value
        return out

    def walk(rows: list[dict[str, Any]], selection: FieldNode, parent: str | None, depth: int) -> None:
        if depth > 2:
            raise ValueError("Bulk queries cannot nest connections deeper than 2")
        for row in rows:
            place = len(lines)
            lines.append({})
            lines[place] = plain(row, nodes(selection).selections, parent, depth)
            if parent is not None:
                lines[place]["__parentId"] = parent

    root = top[0]
    text = str(query)
    connections[0] = text.count("edges") or text.count("nodes")
    if connections[0] > 5:
        raise ValueError("Bulk queries cannot contain more than 5 connections")
    given = {a.name.value: value_from_ast_untyped(a.value) for a in root.arguments}
    walk(resolver._visible(root.name.value, given.get("query")), root, None, 0)
    if not grouped:
        random.Random(1).shuffle(lines)
    return lines


def _cost(document: Any, variables: dict[str, Any]) -> int:
    def of(node: Any, times: int) -> int:
        if not getattr(node, "selection_set", None):
            return 0
        total = 0
        for one in node.selection_set.selections:
            if isinstance(one, InlineFragmentNode):
                total += of(one, times)
                continue
            given = {a.name.value: value_from_ast_untyped(a.value, variables) for a in one.arguments}
            if "first" in given:
                total += times * 2 + of(one, times * int(given["first"] or 0))
            elif one.name.value in ("edges", "pageInfo", "nodes"):
                total += (times if one.name.value == "nodes" else 0) + of(one, times)
            elif one.selection_set:
                total += times + of(one, times)
            elif one.name.value.endswith("Count"):
                total += 10
        return total

    main = document.definitions[0]
    return max(1, of(main, 1)) + (10 if main.operation.value == "mutation" else 0)


# --- HTTP
# ------------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """One connection to the shop."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    shop: Shop

    def log_message(self, *args: Any) -> None:
        """Say nothing on the terminal."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The `Date` header, by this server's clock."""
        return formatdate(self.shop.now() if timestamp is None else timestamp, usegmt=True)

    def do_POST(self) -> None:
        """GraphQL and control."""
        size = int(self.headers.get("content-length", 0))
        body = self.rfile.read(size)
        if len(body) < size:  # whoever sent it died in the middle
            self.close_connection = True
            return None
        if self.path == "/_control":
            return self._control(json.loads(body or b"{}"))
        if self.path == "/upload/":
            return self._upload(body)
        found = re.fullmatch(r"/admin/api/([\w-]+)/graphql\.json", self.path)
        if not found:
            return self._send(404, {"errors": "Not Found"})
        if self._refused("graphql"):
            return None
        with self.shop.lock:
            status, answer = self._graphql(json.loads(body), found[1])
            if json.loads(body)["query"].startswith("mutation"):
                self.shop.mutations += 1
                if (
                    self.shop.faults.lose_mutation
                    and self.shop.mutations % self.shop.faults.lose_mutation == 0
                ):
                    self.close_connection = True
                    return None
        return self._send(status, answer, {"X-Shopify-API-Version": self._served(found[1])})

    def do_GET(self) -> None:
        """REST, bulk results and control."""
        parts = urlsplit(self.path)
        if parts.path == "/_control":
            return self._send(200, self.shop.tell(), counted=False)
        if parts.path.startswith("/bulk/"):
            return self._download(parts)
        if parts.path == "/admin/oauth/access_scopes.json":
            if not self._refused("rest"):
                self._send(200, {"access_scopes": [{"handle": s} for s in self.shop.faults.scopes]})
            return None
        found = re.fullmatch(r"/admin/api/([\w-]+)/(\w+)(/count)?\.json", parts.path)
        if not found:
            return self._send(404, {"errors": "Not Found"})
        if not self._refused("rest"):
            self._rest(found, parse_qs(parts.query))
        return None

    def _control(self, wanted: dict[str, Any]) -> None:
        shop = self.shop
        with shop.lock:
            if wanted.pop("reset", False):
                shop.faults, shop.counts, shop.pages = Faults(), {}, 0
                shop.operations, shop.last_connection, shop.bulk_bytes = {}, None, 0
                shop.points = Bucket(shop.args.points, shop.args.points_per_second)
                shop.calls = Bucket(shop.args.calls, shop.args.calls_per_second)
            known = {f.name for f in fields(Faults)}
            for name, value in wanted.items():
                if name not in known:
                    return self._send(400, {"errors": f"no fault {name}"}, counted=False)
                setattr(shop.faults, name, value)
        return self._send(200, shop.tell(), counted=False)

    def _served(self, version: str) -> str:
        supported = self.shop.faults.versions
        return version if version in supported else supported[0]

    def _refused(self, kind: str) -> bool:
        """Count the call; answer it with a fault or a refusal if one is due."""
        shop = self.shop
        with shop.lock:
            shop.counts[kind] = number = shop.counts.get(kind, 0) + 1
            faults = shop.faults
            due = None
            if faults.hang_next:
                due, pause = "hang", faults.hang_next
                faults.hang_next = 0
            elif faults.throttle_next:
                due, faults.throttle_next = "throttle", faults.throttle_next - 1
            elif faults.error_next:
                due, faults.error_next = "error", faults.error_next - 1
            elif faults.half_next:
                due, faults.half_next = "half", faults.half_next - 1
            elif faults.error_every and number % faults.error_every == 0:
                due = "error"
            elif faults.bomb:
                due, faults.bomb = "bomb", False
        while shop.faults.silent_from and shop.counts.get("graphql", 0) >= shop.faults.silent_from:
            time.sleep(0.02)
        if due == "hang":
            time.sleep(pause)
            self.close_connection = True
        elif due == "error":
            self._send(500, {"errors": "Internal Server Error"})
        elif due == "throttle" and kind == "rest":
            self._send(429, {"errors": "Exceeded 2 calls per second for api client."}, {"Retry-After": "0.2"})
        elif due == "throttle":
            self._send(200, self._throttled(100, forced=True))
        elif due == "half":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "5000")
            self.end_headers()
            self.wfile.write(b'{"data": {"page": {"edges": [{"node": {"id": "gid://shop')
            self.close_connection = True
        elif due == "bomb":
            packed = gzip.compress(b'{"data": "' + b"0" * 100_000_000, 1)
            self.send_response(200)
            for name, value in (("Content-Encoding", "gzip"), ("Content-Length", str(len(packed)))):
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(packed)
            except OSError:
                self.close_connection = True
        if due:
            return True
        if self.headers.get("X-Shopify-Access-Token") != shop.args.token:
            message = "[API] Invalid API key or access token (unrecognized login or wrong password)"
            self._send(401, {"errors": message})
            return True
        return False

    def _throttled(self, cost: float, *, forced: bool = False) -> dict[str, Any]:
        points = self.shop.points
        available = 0 if forced else int(points.refill())
        return {
            "errors": [{"message": "Throttled", "extensions": {"code": "THROTTLED"}}],
            "extensions": {"cost": {
                "requestedQueryCost": min(cost, 10) if forced else cost, "actualQueryCost": None,
                "throttleStatus": {"maximumAvailable": points.capacity, "currentlyAvailable": available,
                                   "restoreRate": points.rate}}},
        }  # fmt: skip

    def _graphql(self, asked: dict[str, Any], version: str) -> tuple[int, dict[str, Any]]:
        shop, variables = self.shop, asked.get("variables") or {}
        try:
            document = parse(asked["query"])
        except Exception as error:
            return 200, {"errors": [{"message": str(error)}]}
        cost = _cost(document, variables)
        if cost > 1000:
            message = f"Query cost is {cost}, which exceeds the single query max cost limit (1000)."
            return 200, {"errors": [{"message": message, "extensions": {
                "code": "MAX_COST_EXCEEDED", "cost": cost, "maxCost": 1000}}]}  # fmt: skip
        if not shop.points.spend(cost):
            return 200, self._throttled(cost)
        resolver = Resolver(shop, shop.faults.scopes, self.headers["Host"])
        resolver.version = self._served(version)
        for operation in shop.operations.values():
            if operation.get("type") == "MUTATION":
                _advance(shop, operation, self.headers["Host"], resolver.version)
        result = graphql_sync(
            shop.schema, asked["query"], resolver, shop.faults, variables, field_resolver=_resolved
        )
        answer: dict[str, Any] = {"data": result.data}
        if result.errors:
            answer["errors"] = [
                {"message": e.message, "path": e.path, "extensions": {
                    "code": "ACCESS_DENIED" if isinstance(e.original_error, PermissionError) else "BAD_REQUEST"}}
                for e in result.errors
            ]  # fmt: skip
            if not result.data:
                answer.pop("data")
        page = (result.data or {}).get("page")
        if page and page["edges"]:
            if shop.faults.no_zone:
                for edge in page["edges"]:
                    edge["node"] |= {k: v.rstrip("Z") for k, v in edge["node"].items() if k == "createdAt"}
            if shop.faults.null_id:
                page["edges"][0]["node"]["id"] = None
        actual = max(1, int(cost * 0.6)) if page else cost
        shop.points.level = min(shop.points.capacity, shop.points.level + cost - actual)
        shop.points.spent -= cost - actual
        answer["extensions"] = {"cost": {
            "requestedQueryCost": cost, "actualQueryCost": actual,
            "throttleStatus": {"maximumAvailable": shop.points.capacity,
                               "currentlyAvailable": int(shop.points.refill()), "restoreRate": shop.points.rate}}}  # fmt: skip
        return 200, answer

    def _rest(self, found: re.Match[str], given: dict[str, list[str]]) -> None:
        shop, args = self.shop, {k: v[0] for k, v in given.items()}
        with shop.lock:
            allowed = shop.calls.spend(1)
            used = shop.calls.capacity - int(shop.calls.refill())
        headers = {"X-Shopify-Shop-Api-Call-Limit": f"{used:.0f}/{shop.calls.capacity:.0f}",
                   "X-Shopify-API-Version": self._served(found[1])}  # fmt: skip
        if not allowed:
            return self._send(
                429, {"errors": "Exceeded calls per second for api client."}, headers | {"Retry-After": "2.0"}
            )
        root = found[2]
        if root not in ("orders", "customers", "products"):
            return self._send(404, {"errors": "Not Found"}, headers)
        if _SCOPES[root] not in shop.faults.scopes:
            message = f"[API] This action requires merchant approval for {_SCOPES[root]} scope."
            return self._send(403, {"errors": message}, headers)
        limit = int(args.get("limit", 50))
        if limit > 250:
            return self._send(400, {"errors": {"limit": "must be at most 250"}}, headers)
        if "page_info" in args:
            if set(args) - {"page_info", "limit", "fields"}:
                return self._send(
                    400, {"errors": {"page_info": "no other parameter may go with it"}}, headers
                )
            try:
                asked = json.loads(base64.urlsafe_b64decode(args["page_info"]))
            except ValueError:
                return self._send(400, {"errors": {"page_info": "Invalid value."}}, headers)
        else:
            known = {"limit", "fields", "status", "created_at_min", "created_at_max", "updated_at_min",
                     "updated_at_max", "order", "since_id"}  # fmt: skip
            if set(args) - known:
                return self._send(400, {"errors": f"unknown parameter {sorted(set(args) - known)}"}, headers)
            asked = args | {"last": 0}
        rows = [r for r in Resolver(shop, shop.faults.scopes, "")._visible(root, None) if _in_rest(r, asked)]
        if found[3]:
            return self._send(200, {"count": len(rows)}, headers)
        rows.sort(key=lambda r: int(r["legacyResourceId"]))
        rows = [r for r in rows if int(r["legacyResourceId"]) > asked["last"]]
        page = rows[:limit]
        shop.pages += 1
        if len(rows) > limit:
            place = asked | {"last": int(page[-1]["legacyResourceId"])}
            token = base64.urlsafe_b64encode(json.dumps(place).encode()).decode()
            query = urlencode(
                {"page_info": token, "limit": limit}
                | ({"fields": args["fields"]} if "fields" in args else {})
            )
            headers["Link"] = f'<http://{self.headers["Host"]}{urlsplit(self.path).path}?{query}>; rel="next"'
        shown = [_rest_row(root, r) for r in page]
        if "fields" in args:
            names = args["fields"].split(",")
            shown = [{k: r[k] for k in names if k in r} for r in shown]
        return self._send(200, {root: shown}, headers)

    def _upload(self, body: bytes) -> None:
        """A form as the storage wants it: the parameters that it gave, then the file, and no token."""
        shop = self.shop
        if "X-Shopify-Access-Token" in self.headers:
            return self._send(400, {"error": "the shop's token was sent to the storage"})
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        form = BytesParser().parsebytes(head + body)
        parts = {part.get_param("name", header="content-disposition"): part for part in form.get_payload()}
        names = list(parts)
        key = parts["key"].get_payload(decode=True).decode() if "key" in parts else ""
        with shop.lock:
            shop.counts["upload"] = shop.counts.get("upload", 0) + 1
            if names[-1:] != ["file"] or key not in shop.uploads or "policy" not in parts:
                return self._send(403, {"error": "AccessDenied"})
            shop.uploads[key] = parts["file"].get_payload(decode=True)
        return self._send(201, {"Key": key})

    def _download(self, parts: Any) -> None:
        shop = self.shop
        operation = next(
            (o for k, o in shop.operations.items() if k.endswith("/" + parts.path.rsplit("/", 1)[1])), None
        )
        if operation is None or "signature=" not in parts.query:
            return self._send(403, {"error": "signature"})
        if "X-Shopify-Access-Token" in self.headers:
            return self._send(400, {"error": "the shop's token was sent to the storage"})
        body = operation["body"]
        with shop.lock:
            shop.counts["download"] = shop.counts.get("download", 0) + 1
            faults = shop.faults
            if faults.drop_bulk_line:
                lines = body.splitlines(keepends=True)
                body = b"".join(lines[: faults.drop_bulk_line - 1] + lines[faults.drop_bulk_line :])
            if faults.truncate_bulk:
                body = body[: -faults.truncate_bulk]
            cut = faults.cut_download > 0
            faults.cut_download -= cut
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        begin = int(asked[1]) if asked and not faults.no_ranges else 0
        if begin and begin >= len(body):
            return self._send(416, {"error": "range"})
        part = body[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        part = part[: len(part) // 2] if cut else part
        shop.bulk_bytes += len(part)
        self.wfile.write(part)
        self.close_connection = cut
        return None

    def _send(
        self, status: int, answer: Any, headers: dict[str, str] | None = None, *, counted: bool = True
    ) -> None:
        body = json.dumps(answer).encode()
        if counted and "gzip" in self.headers.get("accept-encoding", "") and len(body) > 500:
            body = gzip.compress(body, 1)
            headers = {**(headers or {}), "Content-Encoding": "gzip"}
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _in_rest(row: dict[str, Any], asked: dict[str, Any]) -> bool:
    for name, key in (("created_at", "createdAt"), ("updated_at", "updatedAt")):
        at = datetime.fromisoformat(row[key])
        low, high = asked.get(f"{name}_min"), asked.get(f"{name}_max")
        if low and at < datetime.fromisoformat(low):
            return False
        if high and at > datetime.fromisoformat(high):  # both edges belong to the range
            return False
    return True


def _rest_row(root: str, row: dict[str, Any]) -> dict[str, Any]:
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


def serve(argv: list[str] | None = None) -> ThreadingHTTPServer:
    """A server, bound and ready; call `serve_forever`. With `--port 0` the system chooses one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8901)
    parser.add_argument("--token", default="shpat_emulated", help="the access token that it accepts")
    parser.add_argument("--seed", type=int, default=1)
    for name, count in (("customers", 200), ("products", 60), ("orders", 1000)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument(
        "--most", type=int, default=1, help="lines and metafields of the objects that have most"
    )
    parser.add_argument("--cap", type=int, default=25_000, help="objects that one query hands out")
    parser.add_argument("--points", type=float, default=2000)
    parser.add_argument("--points-per-second", type=float, default=100)
    parser.add_argument("--calls", type=float, default=40)
    parser.add_argument("--calls-per-second", type=float, default=2)
    args = parser.parse_args(argv)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    return Server((args.host, args.port), type("ShopHandler", (Handler,), {"shop": Shop(args)}))


if __name__ == "__main__":
    server = serve()
    print(f"listening on http://{server.server_address[0]}:{server.server_address[1]}", flush=True)
    server.serve_forever()
