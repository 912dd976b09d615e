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


class ShopifyBulk(Declared):
    """Rows by bulk mutations instead of one by one.

    Attributes:
        size: rows of one operation.
        poll_seconds: time between two looks at an operation.
    """

    size: int = Field(default=5_000, ge=1, le=50_000)
    poll_seconds: float = Field(default=5.0, gt=0)


class ShopifyTarget(Declared):
    """Objects of a shop on Shopify that rows become.

    Attributes:
        object: `customers`, `products` or `orders`.
        fields: column → place in Shopify's input (`firstName`); a column that is not named is not sent.
        namespace, key: of the metafield that holds a row's key; its definition in the shop has the type `id`, whose
            values are unique.
        bulk: for many rows.
    """

    object: str
    fields: dict[str, str]
    namespace: str = "ferry"
    key: str = "id"
    bulk: ShopifyBulk | None = None


class Within(Declared):
    """Rows that the API takes only inside those of another entity: the lines of an order.

    Attributes:
        entity: the other entity; these rows have a reference to it.
        place: place of the list in the body of one of its rows.
        fields: column → place in an item of the list.
        sorted_by: the column by which the list is sorted.
        incomplete: whether a row to which nothing can be added later (an order of Shopify's) waits until none of
            these is rejected or waiting, or goes without them.
    """

    entity: str
    place: str
    fields: dict[str, str] = Field(default={})
    sorted_by: str = ""
    incomplete: Literal["hold", "send"] = "hold"


class ApiTarget(Declared):
    """The API behind a journal table: `connection` has its URL and credentials, as for a source."""

    connection: str
    rest: RestTarget | None = None
    shopify: ShopifyTarget | None = None
    within: Within | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> ApiTarget:
        if sum(one is not None for one in (self.rest, self.shopify, self.within)) != 1:
            raise ValueError("give one of `rest`, `shopify` and `within`")
        return self

    @property
    def fields(self) -> dict[str, str]:
        """Column → place, as declared."""
        declared = self.rest or self.shopify or self.within
        assert declared is not None
        return declared.fields

    @property
    def label(self) -> str:
        """Where rows go, for people."""
        if self.rest:
            return f"{self.connection}{self.rest.path}"
        if self.within:
            return f"{self.connection}, inside {self.within.entity}"
        return f"{self.connection}/{self.shopify.object if self.shopify else ''}"
