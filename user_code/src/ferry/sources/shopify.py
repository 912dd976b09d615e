"""Shopify's Admin API: GraphQL pages within the cost limit, with the scopes and the version checked
beforehand.

Facts: GraphQL hands out at most 25,000 objects of one query and counts no further than 25,001; its limit is a bucket
of points whose level comes with each answer; being throttled is HTTP 200 with an error of code THROTTLED.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ferry.errors import DeclarationError, PermanentError, TransientError
from ferry.sources.auth import Header
from ferry.sources.calls import Answer, Caller, Patience, Refused, Throttled, moment
from ferry.sources.limits import Bucket
from ferry.sources.page import LATE, Completeness, Glance, Page, Window, WindowIncomplete, digest
from ferry.sources.reading import Count, Reading, ServerPage, Span, as_instant
from ferry.sources.shape import Field, Shape, dig
from ferry.sources.shopify_inside import FEW, Inside

CAP = 25_000
_MAX_COST = 1_000
_FIRST_SHOP = datetime(2006, 1, 1, tzinfo=UTC)
_NODES = "nodes { %s } pageInfo { hasNextPage endCursor }"


@dataclass(frozen=True)
class Shop:
    """One shop, as a connection.

    Attributes:
        url: `https://name.myshopify.com`.
        token: the Admin API access token.
        version: the API version; quarterly, each supported for at least 12 months.
        state_dir: where all runs on this machine share the shop's rate limit.
        points, points_per_second: what is assumed of the bucket until the first answer states it.
    """

    url: str
    token: str = field(repr=False)
    state_dir: Path
    version: str = "2026-01"
    points: float = 1_000
    points_per_second: float = 50
    patience: Patience = field(default_factory=Patience)

    def caller(self) -> Caller:
        """A caller of this shop's API, within the limit that all runs share."""
        name = re.sub(r"\W+", "-", self.url.split("://")[-1])
        bucket = Bucket(
            self.state_dir / f"shopify-{name}.json", capacity=self.points, per_second=self.points_per_second
        )
        return Caller(
            f"{self.url.rstrip('/')}/admin/api/{self.version}",
            auth=Header("X-Shopify-Access-Token", self.token, self.token),
            bucket=bucket,
            patience=self.patience,
            feedback=_throttle_status,
        )


@dataclass(frozen=True)
class ShopifyEntity:
    """What is read of a shop.

    Attributes:
        root: the connection it starts from (`orders`).
        fields: columns; their paths are GraphQL fields from the object, `^…` from its parent.
        child: the connection inside the root whose objects are the rows (`lineItems`).
        kind: the GraphQL type of the rows, as in their ids: `gid://shopify/<kind>/…`.
        owner: the type of the root's objects, where the rows are inside them.
        touches_owner: whether a change of a child changes when its owner changed last.
        scopes: what the token must be allowed.
        counts: the query that counts the root; None if the API has none.
        windows: filters that a window can be on, with the sort key that goes with each.
        version: the path of the time of the last change.
        filter: a search that always applies.
    """

    root: str
    kind: str
    fields: list[Field]
    scopes: tuple[str, ...]
    child: str | None = None
    owner: str = ""
    touches_owner: bool = True
    counts: str | None = None
    windows: dict[str, str] = field(default_factory=dict)
    version: str | None = "updatedAt"
    filter: str = ""

    def selection(self, level: int = 0) -> str:
        """The GraphQL selection for the fields of this level: 0 is the row, 1 its parent."""
        paths = [f.steps() for f in self.fields]
        tree: dict[str, Any] = {"id": {}}
        for down in [down for up, down in paths if up == level] + (
            [self.version.split(".")] if self.version and not level and not self.child else []
        ):
            if down == ["__parentId"]:
                continue
            here = tree
            for step in down:
                here = here.setdefault(step, {})
        return _selection(tree)

    def points_a_row(self) -> int:
        """The most that one row can cost: one point for itself and for each object inside it."""
        return 1 + self.selection().count("{")

    def points_an_object(self) -> int:
        """The most that one object of the root can cost, with the children that come with it."""
        if not self.child:
            return self.points_a_row()
        return 3 + self.selection(1).count("{") + FEW * self.points_a_row()


class ShopifySource:
    """An entity of a shop, page by page; for years of history prefer `ferry.sources.shopify_bulk`.

    With `child`, the pages are of the objects above and the rows are what is inside them, read to its end. Counts, keys
    and the second look at what changed are of these objects.
    """

    def __init__(
        self,
        shop: Shop,
        entity: ShopifyEntity,
        *,
        work_dir: Path | None = None,
        page_size: int = 250,
        cap: int = CAP,
        unfit: str = "fail",
    ) -> None:
        self.shop, self.entity, self.cap = shop, entity, cap
        self.caller = shop.caller()
        version = "updatedAt" if entity.child else entity.version
        self.catches_up = version == "updatedAt"
        self._sizes = {
            "objects": _affordable(page_size, entity.points_an_object()),
            "inside": _affordable(250, entity.points_a_row()),
        }
        self._cost: dict[tuple[str, int], float] = {}
        self._window_key = ""
        self._work_dir = work_dir or Path(tempfile.mkdtemp(prefix="ferry-"))
        self._plan = [
            shop.url, shop.version, entity.root, entity.child, entity.filter, [vars(f) for f in entity.fields]
        ]  # fmt: skip
        self._inside = Inside(entity.child, self._children) if entity.child else None
        self._reading = Reading(
            self,
            key="id",
            version=version,
            shape=Shape(entity.fields, ignore=("*",), unfit=unfit),
            plan=self._plan,
            work_dir=self._work_dir,
            unfold=self._inside.unfold if self._inside else None,
        )

    @property
    def completeness(self) -> Completeness | None:
        """Objects counted by Shopify against objects that arrived."""
        return self._reading.completeness

    def preflight(self) -> None:
        """Check token, scopes and version.

        Raises:
            PermanentError: the token is refused, a scope is missing, or the version is not what the shop
                answers.
        """
        check_access(self.caller, self.shop, self.entity)

    def glance(self, window: Window | None, before: str | None = None) -> Glance | None:  # noqa: ARG002
        """What Shopify counts in the window, and when one of it changed last."""
        return glance(self.caller, self.entity, window)

    def close(self) -> None:
        """Let go of the connections."""
        self.caller.close()

    def read(self, window: Window | None, checkpoint: dict[str, Any] | None) -> Iterator[Page]:
        """Pages of the window; it is split wherever it comes near the 25,000 objects that a query hands out."""
        search(self.entity, window)
        self._window_key = window.key if window else next(iter(self.entity.windows), "")
        pages = self._reading.pages(window, checkpoint)
        if self._inside is None:
            return pages
        of = digest([self._plan, window.as_dict() if window else None])
        self._inside.open(self._work_dir / f"inside-{of}.jsonl", fresh=checkpoint is None)
        return _then(pages, self._inside.forget)

    def spans(self, window: Window | None) -> list[Span]:
        """One span, both of its edges closed so that it can be split."""
        start, end = (window.start, window.end) if window else (None, None)
        if not self._window_key:
            return [Span()]
        closed = datetime.fromtimestamp(int(self.caller.now()) + 1, UTC) if end is None else as_instant(end)
        return [Span(_FIRST_SHOP if start is None else as_instant(start), closed)]

    def count(self, span: Span) -> Count | None:
        """What Shopify counts in the span; not exact when it stops counting."""
        if not self.entity.counts:
            return None
        query = (
            "query($query: String, $limit: Int) "
            f"{{ c: {self.entity.counts}(query: $query, limit: $limit) {{ count precision }} }}"
        )
        told = self.graphql(query, {"query": self._search(span), "limit": self.cap + 1}, cost=20)["c"]
        exact = told.get("precision", "EXACT") == "EXACT" and told["count"] <= self.cap
        return Count(told["count"], exact)

    def page(self, span: Span, cursor: Any) -> ServerPage:
        """One page of the connection, in the order of the window's key."""
        if self._inside is None:
            return self._objects(span, cursor)
        return self._inside.whole(digest([span.as_json(), cursor]), lambda: self._objects(span, cursor))

    def _objects(self, span: Span, cursor: Any) -> ServerPage:
        sort = self.entity.windows.get(self._window_key)
        order = f", sortKey: {sort}" if sort else ""
        selected = self.entity.selection()
        if self.entity.child:
            selected = (
                f"{self.entity.selection(1)} updatedAt {self.entity.child}(first: {FEW}) {{ {_NODES} }}"
                % (selected)
            )
        query = (
            "query($first: Int!, $after: String, $query: String) { page: "
            f"{self.entity.root}(first: $first, after: $after, query: $query{order}) "
            f"{{ edges {{ node {{ {selected} }} }} pageInfo {{ hasNextPage endCursor }} }} }}"
        )
        variables = {"after": cursor, "query": self._search(span)}
        data, answer = self._page("objects", self.entity.points_an_object(), query, variables)
        told = data["page"]
        more = dig(told, ["pageInfo", "hasNextPage"])
        following = dig(told, ["pageInfo", "endCursor"]) if more else None
        if more and following is None:
            raise TransientError("there is a next page but no cursor to it", where=answer.request)
        records = [e["node"] for e in told["edges"]]
        return ServerPage(
            records, following, f"{answer.request} {self.entity.root} after {cursor}", len(answer.body)
        )

    def _children(self, of: str, after: str) -> tuple[dict[str, Any], str, int]:
        """The page after a cursor of what is inside one object."""
        query = (
            "query($id: ID!, $first: Int!, $after: String) { node(id: $id) { ... on "
            f"{self.entity.owner} {{ inside: {self.entity.child}(first: $first, after: $after) {{ {_NODES} }} }} }} }}"
        ) % self.entity.selection()
        data, answer = self._page("inside", self.entity.points_a_row(), query, {"id": of, "after": after})
        where = f"{answer.request} {of} {self.entity.child} after {after}"
        if not data["node"]:
            raise WindowIncomplete(
                f"{of} went away while what is inside it was read",
                where=where,
                next="The window is read again from its beginning",
            )
        return data["node"]["inside"], where, len(answer.body)

    def _page(
        self, what: str, points: int, query: str, variables: dict[str, Any]
    ) -> tuple[dict[str, Any], Answer]:
        """A page as large as Shopify's price for one query allows."""
        while True:
            first = self._sizes[what]
            try:
                return self._query(
                    query, {**variables, "first": first}, 10.0 + first * points, learn=(what, first)
                )
            except _TooCostly:
                if first == 1:
                    raise
                self._sizes[what] = first // 2

    def belongs(self, span: Span, record: dict[str, Any]) -> bool:  # noqa: ARG002
        """Shopify's search is half-open as asked."""
        return True

    def graphql(
        self, query: str, variables: dict[str, Any] | None = None, *, cost: float = 10
    ) -> dict[str, Any]:
        """The data of one query."""
        return self._query(query, variables or {}, cost)[0]

    def _query(
        self, query: str, variables: dict[str, Any], cost: float, learn: tuple[str, int] | None = None
    ) -> tuple[dict[str, Any], Answer]:
        def judge(answer: Answer) -> tuple[dict[str, Any], Answer]:
            asked = dig(answer.json(), ["extensions", "cost", "requestedQueryCost"])
            if learn is not None and asked is not None:
                self._cost[learn] = float(asked)
            return judged(answer), answer

        return self.caller.call(
            "POST", "graphql.json", json={"query": query, "variables": variables}, judge=judge,
            cost=lambda: self._cost.get(learn, cost) if learn is not None else cost,
        )  # fmt: skip

    def _search(self, span: Span) -> str:
        parts = [self.entity.filter] if self.entity.filter else []
        if self._window_key and span.start is not None and span.end is not None:
            low, high = (moment(as_instant(e).timestamp()) for e in (span.start, span.end))
            parts += [f"{self._window_key}:>='{low}'", f"{self._window_key}:<'{high}'"]
        if span.since is not None:
            parts.append(f"updated_at:>='{moment(span.since - LATE)}'")
        return " AND ".join(parts)


def _affordable(wanted: int, points: int) -> int:
    return max(1, min(wanted, 250, (_MAX_COST - 10) // points))


def _then(pages: Iterator[Page], after: Callable[[], None]) -> Iterator[Page]:
    yield from pages
    after()


class _TooCostly(PermanentError):  # noqa: N818
    pass


def judged(answer: Answer) -> dict[str, Any]:
    """The data of a GraphQL answer; its errors as ours, for they come with HTTP 200.

    Raises:
        Throttled: the bucket is empty.
        PermanentError: the query is refused: a scope is missing, a field does not exist, it costs too much.
        TransientError: the shop failed inside.
    """
    told = answer.json()
    if not isinstance(told, dict):
        raise TransientError("this is no GraphQL answer", where=answer.request, why=answer.excerpt)
    errors = told.get("errors")
    if not errors:
        if told.get("data") is None:
            raise TransientError(
                "the answer has neither data nor errors", where=answer.request, why=answer.excerpt
            )
        return told["data"]
    if isinstance(errors, str):
        raise PermanentError("the shop refuses", where=answer.request, why=errors)
    codes = {dig(e, ["extensions", "code"]) for e in errors if isinstance(e, dict)}
    why = "; ".join(str(e.get("message", e)) if isinstance(e, dict) else str(e) for e in errors)[:400]
    if "THROTTLED" in codes:
        raise Throttled("the shop throttles", where=answer.request, why=why, retry_after=_refill_time(told))
    if "MAX_COST_EXCEEDED" in codes:
        raise _TooCostly("one query costs more than Shopify allows", where=answer.request, why=why)
    if codes & {"INTERNAL_SERVER_ERROR", "TIMEOUT", "SERVICE_UNAVAILABLE"}:
        raise TransientError("the shop failed inside", where=answer.request, why=why)
    hint = "Grant the scope to the app and install it again" if "ACCESS_DENIED" in codes else (
        "Compare the fields of the declaration with the reference of this API version"
    )  # fmt: skip
    if "ACCESS_DENIED" in codes:
        raise PermanentError("the shop refuses the query", where=answer.request, why=why, next=hint)
    raise Refused(answer.status, "the shop refuses the query", where=answer.request, why=why, next=hint)


def glance(caller: Caller, entity: ShopifyEntity, window: Window | None) -> Glance | None:
    """How many objects a window has and when one changed last.

    None where Shopify does not count so far, or where what is inside changes without its object.
    """
    if not entity.counts or "updated_at" not in entity.windows or not entity.touches_owner:
        return None
    query = (
        f"query($query: String, $limit: Int) {{ c: {entity.counts}(query: $query, limit: $limit) {{ count precision }}"
        f" newest: {entity.root}(first: 1, query: $query, sortKey: UPDATED_AT, reverse: true)"
        " { edges { node { updatedAt } } } }"
    )
    variables = {"query": search(entity, window), "limit": CAP + 1}
    body = {"query": query, "variables": variables}
    told = caller.call("POST", "graphql.json", json=body, judge=judged, cost=20)
    if told["c"].get("precision", "EXACT") != "EXACT" or told["c"]["count"] > CAP:
        return None
    newest = next((edge["node"]["updatedAt"] for edge in told["newest"]["edges"]), None)
    is_settled = newest is None or datetime.fromisoformat(newest).timestamp() < caller.now() - LATE
    return Glance(f"{told['c']['count']} {newest}", told["c"]["count"], is_settled)


def search(entity: ShopifyEntity, window: Window | None) -> str:
    """A window in the words of Shopify's search; raises `DeclarationError` if the entity has none on that key."""
    parts = [entity.filter] if entity.filter else []
    if window:
        if window.key not in entity.windows:
            known = ", ".join(entity.windows) or "none"
            raise DeclarationError(f"{entity.root} has no window on {window.key}", next=f"It has: {known}")
        for sign, edge in ((">=", window.start), ("<", window.end)):
            if edge is not None:
                parts.append(f"{window.key}:{sign}'{moment(as_instant(edge).timestamp())}'")
    return " AND ".join(parts)


def check_access(caller: Caller, shop: Shop, entity: ShopifyEntity) -> None:
    """Raise `PermanentError` unless token, scopes and API version are those that the migration needs."""
    answer, granted = _scopes(caller)
    served = answer.headers.get("x-shopify-api-version")
    if served and served != shop.version:
        raise PermanentError(
            f"the shop answers with API version {served}, not {shop.version}",
            where=shop.url,
            why="it serves another version when the one asked for is not, or no longer, supported",
            next="Set a supported version and compare the fields with its reference",
        )
    # Writing implies reading.
    missing = [
        s for s in entity.scopes if s not in granted and s.replace("read_", "write_", 1) not in granted
    ]
    if missing:
        more = (
            " Without read_all_orders Shopify shows the orders of the last 60 days only, and no error."
            if "read_all_orders" in missing
            else ""
        )
        raise PermanentError(
            f"the token lacks {', '.join(missing)}",
            where=f"{shop.url}, {entity.root}",
            why=f"it has {', '.join(sorted(granted)) or 'no scope'}.{more}",
            next="Grant the scope in the app's configuration and install the app again",
        )


def _scopes(caller: Caller) -> tuple[Answer, set[str]]:
    query = "{ currentAppInstallation { accessScopes { handle } } }"
    answer: Answer = caller.call(
        "POST", "graphql.json", json={"query": query}, cost=1, judge=_unless_throttled
    )
    handles = dig(answer.json(), ["data", "currentAppInstallation", "accessScopes"])
    if handles is not None:
        return answer, {h["handle"] for h in handles}
    root = caller.base.split("/admin/")[0]
    listed = caller.call("GET", f"{root}/admin/oauth/access_scopes.json", cost=1)
    return answer, {h["handle"] for h in listed.json()["access_scopes"]}


def _unless_throttled(answer: Answer) -> Answer:
    with contextlib.suppress(PermanentError):  # an app that may not ask about itself is asked the other way
        judged(answer)
    return answer


def _throttle_status(answer: Answer) -> dict[str, float]:
    if answer.status != 200:
        return {}
    try:
        cost = dig(answer.json(), ["extensions", "cost"]) or {}
    except (PermanentError, TransientError):
        return {}
    status = cost.get("throttleStatus") or {}
    told = {
        "available": status.get("currentlyAvailable"),
        "capacity": status.get("maximumAvailable"),
        "per_second": status.get("restoreRate"),
        "spent": cost.get("actualQueryCost"),
    }
    return {k: float(v) for k, v in told.items() if v is not None}


def _refill_time(told: dict[str, Any]) -> float:
    cost = dig(told, ["extensions", "cost"]) or {}
    status = cost.get("throttleStatus") or {}
    try:
        lacking = float(cost["requestedQueryCost"]) - float(status["currentlyAvailable"])
        return max(0.05, lacking / float(status["restoreRate"]))
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return 1.0


def _selection(tree: dict[str, Any]) -> str:
    return " ".join(f"{name} {{ {_selection(sub)} }}" if sub else name for name, sub in tree.items())


def _fields(**types: str) -> list[Field]:
    columns = []
    for name, spec in types.items():
        kind, _, path = spec.partition(" ")
        columns.append(Field(name, kind.rstrip("!"), path or name, parse=kind.endswith("!")))
    return columns


_MONEY = "decimal(20,6)! {}.shopMoney.amount"

CUSTOMERS = ShopifyEntity(
    root="customers", kind="Customer", scopes=("read_customers",), counts="customersCount",
    windows={"updated_at": "UPDATED_AT", "created_at": "CREATED_AT"},
    fields=_fields(
        id="text", email="text defaultEmailAddress.emailAddress", first_name="text firstName",
        last_name="text lastName", phone="text defaultPhoneNumber.phoneNumber", state="text",
        number_of_orders="int! numberOfOrders", note="text", tags="json",
        created_at="timestamp createdAt", updated_at="timestamp updatedAt",
    ),
)  # fmt: skip

ORDERS = ShopifyEntity(
    root="orders", kind="Order", scopes=("read_orders", "read_all_orders"), counts="ordersCount",
    windows={"created_at": "CREATED_AT", "updated_at": "UPDATED_AT"},
    fields=_fields(
        id="text", name="text", customer_id="text customer.id", email="text", currency="text currencyCode",
        total=_MONEY.format("totalPriceSet"), financial_status="text displayFinancialStatus",
        fulfillment_status="text displayFulfillmentStatus", cancelled_at="timestamp cancelledAt",
        processed_at="timestamp processedAt", created_at="timestamp createdAt", updated_at="timestamp updatedAt",
    ),
)  # fmt: skip

PRODUCTS = ShopifyEntity(
    root="products", kind="Product", scopes=("read_products",), counts="productsCount",
    windows={"updated_at": "UPDATED_AT", "created_at": "CREATED_AT"},
    fields=_fields(
        id="text", title="text", handle="text", vendor="text", product_type="text productType", status="text",
        tags="json", created_at="timestamp createdAt", updated_at="timestamp updatedAt",
    ),
)  # fmt: skip

VARIANTS = ShopifyEntity(
    root="productVariants", kind="ProductVariant", scopes=("read_products",), counts="productVariantsCount",
    windows={}, fields=_fields(
        id="text", product_id="text product.id", title="text", sku="text", price="decimal(20,6)!",
        position="int", created_at="timestamp createdAt", updated_at="timestamp updatedAt",
    ),
)  # fmt: skip

LINE_ITEMS = ShopifyEntity(
    root="orders", child="lineItems", kind="LineItem", owner="Order", version=None,
    scopes=("read_orders", "read_all_orders"), counts="ordersCount", windows=ORDERS.windows,
    fields=_fields(
        id="text", order_id="text ^id", order_created_at="timestamp ^createdAt", product_id="text product.id",
        variant_id="text variant.id", title="text", sku="text", quantity="int",
        price=_MONEY.format("originalUnitPriceSet"),
    ),
)  # fmt: skip


def metafields(of: ShopifyEntity) -> ShopifyEntity:
    """The metafields of another entity's objects."""
    return replace(
        of, child="metafields", kind="Metafield", owner=of.kind, touches_owner=False, version=None,
        fields=_fields(
            id="text", owner_id="text ^id", namespace="text", key="text", type="text", value="text",
            created_at="timestamp createdAt", updated_at="timestamp updatedAt",
        ),
    )  # fmt: skip


ENTITIES = {
    "customers": CUSTOMERS, "orders": ORDERS, "line_items": LINE_ITEMS, "products": PRODUCTS, "variants": VARIANTS,
    "customer_metafields": metafields(CUSTOMERS), "order_metafields": metafields(ORDERS),
    "product_metafields": metafields(PRODUCTS),
}  # fmt: skip
