"""Rows to a shop on Shopify: `customerSet` and `productSet` find a row by an id of our own before they create it."""

from typing import Any

from ferry.declaration import nearest
from ferry.errors import DeclarationError, PermanentError
from ferry.settings import Settings
from ferry.sources.apis import ShopConnection
from ferry.sources.calls import Patience
from ferry.sources.declared import checked
from ferry.sources.shopify import Shop, judged
from ferry.targets.api_declaration import ShopifyTarget
from ferry.targets.rest import Item, Result, dug, placed

KINDS = {"customers": "Customer", "products": "Product"}
# Shopify's own figure for a mutation.
COST = 10


class ShopifyTargetApi:
    """One kind of object of a shop, within the cost limit that all runs of this machine share.

    Each object carries the row's key in a metafield whose values are unique (`customId`), so a repetition is found by
    the shop itself and becomes an update.
    """

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
        self.caller.who = "the shop"

    @property
    def batch(self) -> int:
        """One object a call."""
        return 1

    def create(self, items: list[Item]) -> list[Result]:
        """Create objects, or find those that an earlier try created: to the shop both are the same call."""
        return [self._set(item) for item in items]

    def update(self, item: Item) -> Result:
        """Bring an object up to date."""
        return self._set(item)

    def delete(self, remote_id: str) -> None:
        """Delete an object; one that is gone already is gone."""
        field = f"{self.kind.lower()}Delete"
        query = (
            f"mutation($input: {self.kind}DeleteInput!) {{"
            f" done: {field}(input: $input) {{ userErrors {{ message }} }} }}"
        )
        self._ask(query, {"input": {"id": remote_id}})

    def read(self, remote_id: str) -> dict[str, Any] | None:
        """An object's declared fields as they are in the shop, None if it is not there."""
        fields = " ".join(dict.fromkeys(place.split(".")[0] for place in self.declared.fields.values()))
        query = f"query($id: ID!) {{ node(id: $id) {{ ... on {self.kind} {{ id {fields} }} }} }}"
        return self._ask(query, {"id": remote_id})["node"]

    def body(self, row: dict[str, Any]) -> dict[str, Any]:
        """The input of a row: its columns at their declared places; a column without a place is not sent."""
        made: dict[str, Any] = {}
        for column, place in self.declared.fields.items():
            if column in row:
                placed(made, place, row[column])
        return made

    def named(self, body: dict[str, Any], key: str) -> dict[str, Any]:  # noqa: ARG002 - the identifier has the key
        """The body as it is."""
        return body

    def _set(self, item: Item) -> Result:
        kind, declared = self.kind, self.declared
        query = (
            f"mutation($identifier: {kind}SetIdentifiers, $input: {kind}SetInput!) {{"
            f" done: {kind.lower()}Set(identifier: $identifier, input: $input) {{"
            f" {kind.lower()} {{ id }} userErrors {{ field message }} }} }}"
        )
        own = {"namespace": declared.namespace, "key": declared.key, "value": item.key}
        told = self._ask(query, {"identifier": {"customId": own}, "input": item.body})["done"]
        problems = [f"{'.'.join(one['field'] or [])}: {one['message']}" for one in told["userErrors"]]
        if problems:
            return Result(item.key, None, "; ".join(problems)[:500])
        found = dug(told, f"{kind.lower()}.id")
        if found is None:
            raise PermanentError("the shop gave no id", where=f"{kind.lower()}Set", why=str(told)[:300])
        return Result(item.key, str(found))

    def _ask(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        body = {"query": query, "variables": variables}
        return self.caller.call("POST", "graphql.json", json=body, judge=judged, cost=COST)
