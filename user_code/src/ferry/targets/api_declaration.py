"""What can be declared of an API that rows are sent to; errors name the place and what is known there."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ferry.sources.declared import Declared
from ferry.sources.rest_declaration import Rate, Retries, ThrottleRule


class Bulk(Declared):
    """An endpoint that takes many rows at once.

    Attributes:
        path: of the endpoint.
        size: rows of one call.
        items: place of the list in the body; empty when the body is the list.
        results: place of the list in the answer, one result for each item, in the same order.
        error: place of the refusal in a result that has no id.
    """

    path: str
    size: int = Field(default=100, ge=1, le=10_000)
    items: str = "items"
    results: str = "results"
    error: str = "error"


class Find(Declared):
    """How to ask whether a row arrived whose answer was lost, for an API that takes no idempotency key.

    Attributes:
        param: query parameter of the list at `path`.
        field: place in the body in which the row's key is sent, by which `param` finds it.
        records: place of the list in the answer; empty when the answer is the list.
    """

    param: str
    field: str
    records: str = ""


class RestTarget(Declared):
    """One resource of a REST API that rows are sent to.

    Attributes:
        path: `POST` there creates, `{update} path/id` changes, `DELETE path/id` takes back, `GET path/id` reads back.
        id: place of the new id in an answer.
        fields: column → place in the body; a column that is not named goes under its own name.
        wrap: place in the body under which all fields stand.
        update: the method that changes a row.
        idempotency_header: header that carries the request's key: the API answers a repetition as it did before.
        find: for an API without such a header.
        bulk: for an API that takes many rows at once.
        rate, retries, throttled: as for a source.
    """

    path: str
    id: str = "id"
    fields: dict[str, str] = Field(default={})
    wrap: str = ""
    update: Literal["PATCH", "PUT"] = "PATCH"
    idempotency_header: str = ""
    find: Find | None = None
    bulk: Bulk | None = None
    rate: Rate = Rate()
    retries: Retries = Retries()
    throttled: tuple[ThrottleRule, ...] = ()

    @model_validator(mode="after")
    def _never_twice(self) -> RestTarget:
        if bool(self.idempotency_header) == bool(self.find):
            raise ValueError(
                "give `idempotency_header` or `find`: without one of them a lost answer could create a row twice"
            )
        if self.bulk and not self.idempotency_header:
            raise ValueError("`bulk` needs an `idempotency_header`")
        return self


class ShopifyTarget(Declared):
    """Objects of a shop on Shopify that rows become.

    Attributes:
        object: `customers` or `products`.
        fields: column → place in Shopify's input (`firstName`); a column that is not named is not sent.
        namespace, key: of the metafield that holds a row's key; its definition in the shop has the type `id`, whose
            values are unique.
    """

    object: str
    fields: dict[str, str]
    namespace: str = "ferry"
    key: str = "id"


class ApiTarget(Declared):
    """The API behind a journal table: `connection` has its URL and credentials, as for a source."""

    connection: str
    rest: RestTarget | None = None
    shopify: ShopifyTarget | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> ApiTarget:
        if (self.rest is None) == (self.shopify is None):
            raise ValueError("give `rest` or `shopify`")
        return self

    @property
    def label(self) -> str:
        """Where rows go, for people."""
        if self.rest:
            return f"{self.connection}{self.rest.path}"
        return f"{self.connection}/{self.shopify.object if self.shopify else ''}"
