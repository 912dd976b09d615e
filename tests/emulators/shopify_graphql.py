"""The GraphQL side of the emulated shop: a query is executed if its points are there."""

from __future__ import annotations

from typing import Any

from graphql import graphql_sync, parse
from shopify_bulk import advance
from shopify_mutations import Mutation
from shopify_queries import Query
from shopify_schema import cost_of, resolved
from shopify_shop import Shop


def answer(shop: Shop, asked: dict[str, Any], version: str, host: str) -> dict[str, Any]:
    """The body of an answer to a query or a mutation, whose status is 200 whatever became of it.

    Args:
        shop: the shop, whose lock is held.
        asked: the call's body: `query` and perhaps `variables`.
        version: of the API, as it was asked for.
        host: the one that the caller reached this server under.
    """
    variables = asked.get("variables") or {}
    try:
        document = parse(asked["query"])
    except Exception as error:
        return {"errors": [{"message": str(error)}]}
    cost = cost_of(document, variables)
    if cost > 1000:
        message = f"Query cost is {cost}, which exceeds the single query max cost limit (1000)."
        return {"errors": [{"message": message, "extensions": {
            "code": "MAX_COST_EXCEEDED", "cost": cost, "maxCost": 1000}}]}  # fmt: skip
    if not shop.points.spend(cost):
        return throttled(shop, cost)
    mutation = Mutation(shop, host, shop.served(version))
    for operation in shop.operations.values():
        if operation.get("type") == "MUTATION":
            advance(shop, operation, mutation)
    changes = document.definitions[0].operation.value == "mutation"  # type: ignore[union-attr]
    root = mutation if changes else Query(shop, host)
    result = graphql_sync(shop.schema, asked["query"], root, shop.faults, variables, field_resolver=resolved)
    told: dict[str, Any] = {"data": result.data}
    if result.errors:
        told["errors"] = [
            {"message": e.message, "path": e.path, "extensions": {
                "code": "ACCESS_DENIED" if isinstance(e.original_error, PermissionError) else "BAD_REQUEST"}}
            for e in result.errors
        ]  # fmt: skip
        if not result.data:
            told.pop("data")
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
    return told | {"extensions": _spent(shop, cost, actual, int(shop.points.refill()))}


def throttled(shop: Shop, cost: float, *, forced: bool = False) -> dict[str, Any]:
    """The answer to a query whose points are not there, or (`forced`) are said not to be."""
    error = {"message": "Throttled", "extensions": {"code": "THROTTLED"}}
    wanted, available = (min(cost, 10), 0) if forced else (cost, int(shop.points.refill()))
    return {"errors": [error], "extensions": _spent(shop, wanted, None, available)}


def _spent(shop: Shop, wanted: float, actual: float | None, available: int) -> dict[str, Any]:
    bucket = {"maximumAvailable": shop.points.capacity, "currentlyAvailable": available,
              "restoreRate": shop.points.rate}  # fmt: skip
    return {"cost": {"requestedQueryCost": wanted, "actualQueryCost": actual, "throttleStatus": bucket}}
