"""The root of Shopify's mutations: objects set, created and deleted, and bulk operations begun."""
# Methods and arguments are named as Shopify names them.
# ruff: noqa: A002, ARG002, D102, N802, N803

from __future__ import annotations

import json
import re
import time
from typing import Any

from graphql import parse
from shopify_bulk import bulk_lines, look, status_of
from shopify_shop import Shop


class Mutation:
    """What a mutation may do; `version` is the one of the API that the caller is served."""

    def __init__(self, shop: Shop, host: str, version: str) -> None:
        self._shop, self._host, self._version = shop, host, version

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
        if sum(status_of(shop, o) == "RUNNING" for o in mine) >= (5 if self._version >= "2026-01" else 1):
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
        return {"bulkOperation": look(shop, shop.operations[number], self._host), "userErrors": []}

    def bulkOperationRunQuery(self, _info: Any, query: str, groupObjects: bool = False) -> dict[str, Any]:
        shop = self._shop
        running = [o for o in shop.operations.values() if status_of(shop, o) == "RUNNING"]
        places = 5 if self._version >= "2026-01" else 1
        if len(running) >= places:
            message = (
                f"A bulk query operation for this app and shop is already in progress: {running[0]['id']}."
            )
            return {"bulkOperation": None, "userErrors": [{"field": None, "message": message}]}
        try:
            lines = bulk_lines(shop, query, grouped=groupObjects and not shop.faults.shuffle_bulk)
        except (ValueError, PermissionError) as error:
            return {"bulkOperation": None, "userErrors": [{"field": ["query"], "message": str(error)}]}
        number = f"gid://shopify/BulkOperation/{720_000 + len(shop.operations)}"
        body = "".join(json.dumps(line) + "\n" for line in lines).encode() + shop.faults.bulk_tail.encode()
        shop.operations[number] = {
            "id": number, "query": query, "begun": time.monotonic(), "lines": len(lines), "body": body,
            "roots": sum("__parentId" not in line for line in lines), "status": shop.faults.bulk_status,
        }  # fmt: skip
        return {"bulkOperation": look(shop, shop.operations[number], self._host), "userErrors": []}

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
        now = shop.stamp()
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
        now = self._shop.stamp()
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
