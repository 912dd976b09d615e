"""The root of Shopify's queries: each connection with its filter, order, cursor and cap."""
# Methods and arguments are named as Shopify names them.
# ruff: noqa: A002, ARG002, D102, N802, N803

from __future__ import annotations

import base64
import json
import re
from typing import Any

from shopify_bulk import look
from shopify_shop import SCOPES, Shop


class Query:
    """What a query may ask for first; `host` is the one that the caller reached this server under."""

    def __init__(self, shop: Shop, host: str) -> None:
        self._shop, self._host = shop, host
        for root in SCOPES:
            setattr(self, root, self._connection(root))
            setattr(self, f"{root}Count", self._count(root))

    def _count(self, root: str) -> Any:
        def count(_info: Any, query: str | None = None, limit: int | None = 10_000) -> dict[str, Any]:
            found = len(self._shop.visible(root, query))
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
                self._shop.visible(root, query),
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
        now = self._shop.stamp()
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
            return {"__typename": "BulkOperation", **look(self._shop, operation, self._host)}
        for root, kind in (("customers", "Customer"), ("products", "Product"), ("orders", "Order")):
            row = next((r for r in self._shop.data[root] if r["id"] == id), None)
            if row:
                return {"__typename": kind, **row}
        return None

    def orderByIdentifier(self, _info: Any, identifier: dict[str, Any]) -> dict[str, Any] | None:
        own = tuple((identifier.get("customId") or {}).values())
        return next((r for r in self._shop.data["orders"] if own and r.get("customId") == own), None)

    def currentBulkOperation(self, _info: Any, type: str = "QUERY") -> dict[str, Any] | None:
        last = [o for o in self._shop.operations.values() if o.get("type", "QUERY") == type][-1:]
        return look(self._shop, last[0], self._host) if last else None

    def bulkOperations(
        self, _info: Any, first: int | None = None, query: str = "", sortKey: str = "", reverse: bool = False
    ) -> dict[str, Any]:
        found = [o for o in self._shop.operations.values() if o.get("type", "QUERY").lower() in query]
        found = found[::-1] if reverse else found
        return {"nodes": [look(self._shop, o, self._host) for o in found[:first]]}
