"""Rows to a shop on Shopify, each found by an id of our own before it is created a second time.

Each object carries the row's key in a metafield whose values are unique. `customerSet` and `productSet` find it by that
(`customId`), so that a repetition is an update; an order is looked up by it (`orderByIdentifier`) before anything is
repeated.
"""

import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ferry.declaration import nearest
from ferry.errors import DeclarationError, PermanentError, TransientError
from ferry.settings import Settings
from ferry.sources.apis import ShopConnection
from ferry.sources.calls import Answer, Patience, Throttled
from ferry.sources.declared import checked
from ferry.sources.shopify import Shop, judged
from ferry.targets.api_declaration import ShopifyTarget
from ferry.targets.item import Item, Result
from ferry.targets.shopify_bulk import BulkMutations


@dataclass(frozen=True)
class Kind:
    """One kind of object: its GraphQL type, the field that writes it, what can be read back, and what it contains.

    `inside` are the objects that are sent in it, and `alone` the name under which the id of a single one of them is
    known to those that refer to the object.
    """

    name: str
    write: str
    reads: tuple[str, ...]
    inside: str = ""
    alone: str = ""

    @property
    def root(self) -> str:
        """The field that holds the object in an answer."""
        return self.name.lower()


KINDS = {
    "customers": Kind(
        "Customer", "customerSet", ("firstName", "lastName", "email", "phone", "note", "tags")
    ),
    "products": Kind(
        "Product", "productSet", ("title", "handle", "vendor", "productType", "status", "tags"),
        "variants", "variantId",
    ),
    "orders": Kind("Order", "orderCreate", ("email", "note", "tags", "name"), "lineItems"),
}  # fmt: skip
# What `orderUpdate` takes; the rest of an order stays as it was created.
UPDATABLE = (
    "customAttributes",
    "email",
    "metafields",
    "note",
    "phone",
    "poNumber",
    "shippingAddress",
    "tags",
)
ANEW = "to have it sent anew, roll it back with what goes inside it, deliver, and run and deliver again"
# Shopify's own figure for a mutation.
COST = 10
# Objects of one page of a connection; Shopify gives no more.
PAGE = 250
# Limits of one mutation alone (five orders a minute in a development store) are said among its `userErrors`.
PATIENCE = re.compile(r"too many attempts|rate limit|throttled", re.IGNORECASE)


class ShopifyTargetApi:
    """One kind of object of a shop, within the cost limit that all runs of this machine share."""

    def __init__(self, declared: ShopifyTarget, connection: str, settings: Settings, where: str) -> None:
        """Args: the declaration, the connection's name, the settings with its parts, and the place for errors."""
        if declared.object not in KINDS:
            raise DeclarationError(
                f"rows cannot be sent to Shopify's {declared.object}",
                where=f"{where}: target.api.shopify.object",
                next=nearest(declared.object, KINDS, "What can be sent"),
            )
        self.declared, self.kind = declared, KINDS[declared.object]
        parts = settings.parts(connection, f"{where}: target.api.connection")
        had = checked(ShopConnection, parts, f"FERRY_CONNECTIONS__{connection.upper()}")
        patience = Patience(had.attempts, had.patience, had.first_wait, had.longest_wait)
        shop = Shop(
            had.url, had.token.get_secret_value(), settings.state_root, had.version, patience=patience
        )
        self.caller = shop.caller()
        # Where a repetition is no repetition to the shop, one try is one try; what became of it is looked up.
        self.once = replace(shop, patience=replace(patience, attempts=1)).caller()
        self.attempts = patience.attempts
        self.caller.who = self.once.who = "the shop"
        self.bulk = (
            BulkMutations(self.caller, self.once, had.version, declared.bulk.poll_seconds)
            if declared.bulk
            else None
        )

    @property
    def batch(self) -> int:
        """One object a call, or as many as a bulk operation takes."""
        return self.declared.bulk.size if self.declared.bulk else 1

    @property
    def upserts(self) -> bool:
        """Customers and products are set, whether they are there or not."""
        return self.kind.name != "Order"

    @property
    def seals(self) -> bool:
        """The lines of an order stay as they were created."""
        return self.kind.name == "Order"

    def find(self, items: list[Item]) -> list[Result]:
        """Orders that are in the shop already; customers and products are found by the call that sets them."""
        if self.upserts or (self.bulk and items and self.bulk.found(_name(items[0].request))):
            return []
        return [found for item in items if (found := self._found(item)) is not None]

    def create(self, items: list[Item], note: Callable[[str], None]) -> list[Result]:
        """Create objects, or find those that an earlier try created.

        Raises:
            TransientError: patience ended, or a bulk operation broke off; what became of the rows is not known.
            PermanentError: the shop refuses all of them: token, scope, version.
        """
        if self.bulk is None:
            return [self._set(item) if self.upserts else self._create_order(item) for item in items]
        name = _name(items[0].request)
        most = max((self._inside(item) for item in items), default=1)
        lines = [self._variables(item) for item in items]
        answers = self.bulk.run(name, self._text(name, most), lines, items[0].operation, note)
        return [
            self._result(items[number], told, problem) for number, (told, problem) in sorted(answers.items())
        ]

    def update(self, item: Item) -> Result:
        """Bring an order up to date, as far as Shopify lets an order be changed."""
        before = item.taken if item.taken is not None else item.body
        fixed = [name for name in item.body if name not in UPDATABLE and not _same(item.body, before, name)]
        if fixed:
            said = f"Shopify does not change the {', '.join(fixed)} of an order that is there; {ANEW}"
            return Result(item.key, None, said)
        given = {name: value for name, value in item.body.items() if name in UPDATABLE}
        query = "mutation($input: OrderInput!) { done: orderUpdate(input: $input) { userErrors { field message } } }"
        told = self._ask(query, {"input": {"id": item.remote_id, **given}})["done"]
        had = [] if problems(told) or not self.kind.inside else self._pages(item.remote_id or "")
        return Result(item.key, item.remote_id, problems(told), self._also(had))

    def delete(self, remote_id: str) -> None:
        """Delete an object; one that is gone already is gone.

        Raises:
            PermanentError: the shop keeps it, and says why.
        """
        kind = self.kind
        if kind.name == "Order":
            query = "mutation($id: ID!) { done: orderDelete(orderId: $id) { userErrors { field message } } }"
            given: dict[str, Any] = {"id": remote_id}
        else:
            query = (
                f"mutation($input: {kind.name}DeleteInput!) {{"
                f" done: {kind.root}Delete(input: $input) {{ userErrors {{ field message }} }} }}"
            )
            given = {"input": {"id": remote_id}}
        said = problems(self._ask(query, given)["done"])
        if said and self.read(remote_id) is not None:
            raise PermanentError(
                f"the shop does not delete {remote_id}",
                where=f"{kind.root}Delete",
                why=said,
                next="Take back, or delete in the shop, what hangs from it, and deliver again",
            )

    def read(self, remote_id: str) -> dict[str, Any] | None:
        """An object as it is in the shop, None if it is not there."""
        fields = " ".join(self.kind.reads) + (" customer { id }" if self.kind.name == "Order" else "")
        query = f"query($id: ID!) {{ node(id: $id) {{ ... on {self.kind.name} {{ id {fields} }} }} }}"
        return self._ask(query, {"id": remote_id})["node"]

    def named(self, body: dict[str, Any], key: str) -> dict[str, Any]:  # noqa: ARG002 - it goes beside the body
        """The body as it is."""
        return body

    def seen(self, body: dict[str, Any]) -> dict[str, Any]:
        """The fields that the shop shows under the name under which it takes them, and an order's customer."""
        shown = {name: value for name, value in body.items() if name in self.kind.reads}
        associated = (body.get("customer") or {}).get("toAssociate") if self.kind.name == "Order" else None
        return shown | ({"customer": associated} if associated else {})

    def _set(self, item: Item) -> Result:
        text = self._text(_name(item.request), self._inside(item))
        told = self._ask(text, self._variables(item))
        return self._result(item, told[self.kind.write], "")

    def _create_order(self, item: Item) -> Result:
        tries = self.attempts
        while True:
            try:
                text = self._text(_name(item.request), self._inside(item))
                told = self._ask(text, self._variables(item), self.once)
                return self._result(item, told[self.kind.write], "")
            except Throttled:
                raise
            except TransientError:
                tries -= 1
                if tries <= 0:
                    raise
            found = self._found(item)
            if found is not None:
                return found

    def _text(self, name: str, inside: int) -> str:
        """The mutation, with as many of the objects inside as were sent; its name says which request it belongs to."""
        kind = self.kind
        answer = f"id {_inside_fields(kind, inside)}"
        tail = f"{{ {kind.root} {{ {answer} }} userErrors {{ field message }} }} }}"
        if kind.name == "Order":
            return f"mutation {name}($order: OrderCreateOrderInput!) {{ orderCreate(order: $order) {tail}"
        return (
            f"mutation {name}($identifier: {kind.name}SetIdentifiers, $input: {kind.name}SetInput!) {{"
            f" {kind.write}(identifier: $identifier, input: $input) {tail}"
        )

    def _variables(self, item: Item) -> dict[str, Any]:
        own = {"namespace": self.declared.namespace, "key": self.declared.key, "value": item.key}
        if self.kind.name == "Order":
            metafields = [*item.body.get("metafields", []), {**own, "type": "id"}]
            return {"order": {**item.body, "metafields": metafields}}
        return {"identifier": {"customId": own}, "input": self._input(item.body)}

    def _input(self, body: dict[str, Any]) -> dict[str, Any]:
        """The input; the only variant of a product has Shopify's name for that, if it has none."""
        variants = body.get("variants") or []
        if self.kind.name != "Product" or len(variants) != 1 or "optionValues" in variants[0]:
            return body
        option = {"optionName": "Title", "name": "Default Title"}
        return {
            **body,
            "productOptions": [{"name": "Title", "values": [{"name": "Default Title"}]}],
            "variants": [{**variants[0], "optionValues": [option]}],
        }

    def _inside(self, item: Item) -> int:
        return max(1, len(item.body.get(self.kind.inside) or []))

    def _result(self, item: Item, told: dict[str, Any] | None, problem: str) -> Result:
        """What became of a row by the answer to its mutation, or by what was wrong with the mutation."""
        errors = (told or {}).get("userErrors") or []
        if not self.upserts and any("metafields" in (one.get("field") or []) for one in errors):
            found = self._found(item)  # the shop lets no second order have our id
            if found is not None:
                return found
        if any(PATIENCE.search(one["message"]) for one in errors):
            return self._set(item) if self.upserts else self._create_order(item)  # a line of a bulk operation
        problem = problem or problems(told or {})
        made = (told or {}).get(self.kind.root)
        if not problem and not (made or {}).get("id"):
            problem = f"the shop gave no id: {json.dumps(told)}"
        if problem:
            return Result(item.key, None, self.caller.hide(problem)[:500])
        assert made is not None
        return Result(item.key, str(made["id"]), "", self._also(self._inside_of(made)))

    def _found(self, item: Item) -> Result | None:
        own = {"namespace": self.declared.namespace, "key": self.declared.key, "value": item.key}
        query = (
            "query($identifier: OrderIdentifierInput!) { found: orderByIdentifier(identifier: $identifier)"
            f" {{ id {_inside_fields(self.kind, self._inside(item))} }} }}"
        )
        found = self._ask(query, {"identifier": {"customId": own}})["found"]
        return Result(item.key, str(found["id"]), "", self._also(self._inside_of(found))) if found else None

    def _pages(self, remote_id: str, ids: tuple[str, ...] = (), after: str | None = None) -> list[str]:
        """The ids of all that is inside an object, in its order; `ids` are those before the place `after`."""
        query = (
            f"query($id: ID!, $after: String) {{ node(id: $id) {{ ... on {self.kind.name} {{"
            f" {self.kind.inside}(first: {PAGE}, after: $after) {{ {_PAGE_FIELDS} }} }} }} }}"
        )
        found = list(ids)
        while True:
            node = self._ask(query, {"id": remote_id, "after": after})["node"]
            if node is None:
                return []
            page = node[self.kind.inside]
            found += [one["id"] for one in page["nodes"]]
            if not page["pageInfo"]["hasNextPage"]:
                return found
            after = page["pageInfo"]["endCursor"]

    def _inside_of(self, made: dict[str, Any]) -> list[str]:
        """The ids of what is inside an object of an answer; what the answer's page does not hold is asked for."""
        told = made.get(self.kind.inside) if self.kind.inside else None
        if not told:
            return []
        ids, page = tuple(one["id"] for one in told["nodes"]), told["pageInfo"]
        return self._pages(made["id"], ids, page["endCursor"]) if page["hasNextPage"] else list(ids)

    def _also(self, ids: list[str]) -> dict[str, Any]:
        """The ids of what is inside an object, and that of the first under the name by which others refer to it."""
        kind = self.kind
        return ({kind.inside: ids} if ids else {}) | ({kind.alone: ids[0]} if ids and kind.alone else {})

    def _ask(self, query: str, variables: dict[str, Any], caller: Any = None) -> dict[str, Any]:
        body = {"query": query, "variables": variables}
        return (caller or self.caller).call("POST", "graphql.json", json=body, judge=_heard, cost=COST)


def _heard(answer: Answer) -> dict[str, Any]:
    """What an answer says; one that asks for patience among its `userErrors` is throttling."""
    told = judged(answer)
    for done in told.values():
        for one in (done.get("userErrors") if isinstance(done, dict) else None) or []:
            if PATIENCE.search(one["message"]):
                raise Throttled("the shop throttles", where=answer.request, why=one["message"])
    return told


def problems(told: dict[str, Any]) -> str:
    """What an answer says against a row, one sentence after another; empty if nothing."""
    errors = told.get("userErrors") or []
    return "; ".join(": ".join(filter(None, [".".join(e["field"] or []), e["message"]])) for e in errors)


def _name(request: uuid.UUID) -> str:
    return f"ferry_{request.hex}"


_PAGE_FIELDS = "nodes { id } pageInfo { hasNextPage endCursor }"


def _inside_fields(kind: Kind, most: int) -> str:
    return f"{kind.inside}(first: {min(most, PAGE)}) {{ {_PAGE_FIELDS} }}" if kind.inside else ""


def _same(body: dict[str, Any], before: dict[str, Any], name: str) -> bool:
    return json.dumps(body[name], default=str) == json.dumps(before.get(name), default=str)
