"""Bulk operations of the emulated shop: what a query hands out, and what the lines of a mutation do in time."""

from __future__ import annotations

import hashlib
import json
import random
import time
from typing import Any

from graphql import FieldNode, InlineFragmentNode, graphql_sync, parse, value_from_ast_untyped
from shopify_schema import resolved
from shopify_shop import Shop


def advance(shop: Shop, operation: dict[str, Any], mutation: Any) -> None:
    """Let the lines of a bulk mutation take effect whose time has come; one that fails stops in the middle.

    `mutation` is the root that they are executed on.
    """
    share = min(1.0, (time.monotonic() - operation["begun"]) / max(1e-9, shop.faults.bulk_seconds))
    lines = operation["variables"]
    due = int(len(lines) * share)
    if operation["status"] != "COMPLETED":
        due = min(due, len(lines) // 2)
    for number in range(len(operation["answers"]), due):
        result = graphql_sync(
            shop.schema, operation["query"], mutation, None, lines[number], field_resolver=resolved
        )
        answer: dict[str, Any] = {"data": result.data, "__lineNumber": number}
        if result.errors:
            answer["errors"] = [{"message": error.message} for error in result.errors]
        operation["answers"].append(answer)


def status_of(shop: Shop, operation: dict[str, Any]) -> str:
    """`RUNNING` until its time is over, then how it ends."""
    over = time.monotonic() - operation["begun"] >= shop.faults.bulk_seconds
    if "variables" in operation and operation["status"] == "COMPLETED":
        over = over and len(operation["answers"]) == len(operation["variables"])
    return operation["status"] if over else "RUNNING"


def look(shop: Shop, operation: dict[str, Any], host: str) -> dict[str, Any]:
    """The operation as whoever asks sees it; `host` is the one its result is downloaded from."""
    if operation.get("type") == "MUTATION":
        answers = list(operation["answers"])
        random.Random(2).shuffle(answers)  # they say which line they belong to
        body = "".join(json.dumps(answer) + "\n" for answer in answers).encode()
        operation |= {"lines": len(answers), "roots": len(answers), "body": body}
    status = status_of(shop, operation)
    done = status == "COMPLETED"
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


def bulk_lines(shop: Shop, query: str, *, grouped: bool) -> list[dict[str, Any]]:
    """The lines of a bulk query's result; children come after their parents only if `grouped`.

    Raises:
        ValueError: Shopify would not accept the query.
        PermissionError: the scope is missing.
    """
    document = parse(query)
    top = document.definitions[0].selection_set.selections  # type: ignore[union-attr]
    if len(top) != 1:
        raise ValueError("Bulk queries must have one top-level field")
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
    if (query.count("edges") or query.count("nodes")) > 5:
        raise ValueError("Bulk queries cannot contain more than 5 connections")
    given = {a.name.value: value_from_ast_untyped(a.value) for a in root.arguments}
    walk(shop.visible(root.name.value, given.get("query")), root, None, 0)
    if not grouped:
        random.Random(1).shuffle(lines)
    return lines
