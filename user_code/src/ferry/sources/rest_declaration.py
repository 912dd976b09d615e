"""What can be declared of a REST API; the errors name the place and what is known there."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, model_validator

from ferry.sources.declared import Declared, FieldSpec, PlainUrl, checked, columns_of
from ferry.sources.shape import Field as Column


class BearerAuth(Declared):
    """A token that does not change."""

    kind: Literal["bearer"]
    token: SecretStr


class BasicAuth(Declared):
    """A user and a password."""

    kind: Literal["basic"]
    user: str
    password: SecretStr


class ApiKeyAuth(Declared):
    """A key in a header or in the query."""

    kind: Literal["api_key"]
    name: str
    value: SecretStr
    place: Literal["header", "query"] = "header"


class OAuth2Auth(Declared):
    """OAuth 2.0: with a refresh token when there is one, with client credentials otherwise."""

    kind: Literal["oauth2"]
    token_url: str
    client_id: str
    client_secret: SecretStr
    refresh_token: SecretStr | None = None
    scope: str = ""


class OAuth1Auth(Declared):
    """OAuth 1.0a, each request signed."""

    kind: Literal["oauth1"]
    consumer_key: str
    consumer_secret: SecretStr
    token: str
    token_secret: SecretStr
    realm: str | None = None
    method: Literal["HMAC-SHA256", "HMAC-SHA1"] = "HMAC-SHA256"


AnyAuth = Annotated[
    BearerAuth | BasicAuth | ApiKeyAuth | OAuth2Auth | OAuth1Auth, Field(discriminator="kind")
]


class Paging(Declared):
    """How one page leads to the next.

    Attributes:
        by: `link` (header with rel=next), `next_url` (a URL in the answer), `cursor` (a value in the
            answer that goes into `param`), `offset`, `number` (of the page), `keyset` (the last row's key
            goes into `param`), or `none`.
        param: query parameter of the cursor, offset, number or key.
        size: rows to ask for; `size_param` is its parameter.
        next: path in the answer to the URL or cursor.
        more: path to a boolean that says whether there is a next page.
        total: path to the number of all rows of the query, or `header:X-Total-Count`.
        first: number of the first page.
        key: path of the key in a row, for `keyset`.
        end: a status that means, after the first page, that there are no more (404 of some).
    """

    by: Literal["link", "next_url", "cursor", "offset", "number", "keyset", "none"] = "none"
    param: str = ""
    size: int = 100
    size_param: str = ""
    next: str = ""
    more: str = ""
    total: str = ""
    first: int = 1
    key: str = "id"
    end: int | None = Field(default=None, ge=400, lt=500)


class WindowParams(Declared):
    """How a window is asked for.

    Attributes:
        start, end: query parameters of the edges.
        format: `iso` (UTC, with Z), `date`, `epoch`, `epoch_ms`, or a strftime format; `key` for keys as
            they are.
        end_is: whether the API counts the end as inside. Rows on the end are then left to the next window.
        field: path of the windowed value in a row; needed when the end is inclusive.
    """

    start: str
    end: str
    format: str = "iso"
    end_is: Literal["exclusive", "inclusive"] = "exclusive"
    field: str = ""


class Counting(Declared):
    """Where the API says how many rows a window has: a path, and the value in its answer."""

    path: str
    value: str = "count"


class Changes(Declared):
    """How to ask for what changed since an instant: the second look at a source that moves while it is read."""

    since: str
    format: str = "iso"
    overlap: float = 120


class Unchanged(Declared):
    """What shows, without reading it, that a window is as it was: it is not read again then.

    Attributes:
        by: `newest`: how many rows there are and when one changed last; `etag`: the API answers 304 when the one answer
            that has the whole window is as it was.
        params: query parameters that bring the row first that changed last (`{sort: -updated_at, limit: 1}`).
        value: path to the time of its last change in the answer (`data.0.updated_at`).
    """

    by: Literal["newest", "etag"]
    params: dict[str, str | int | bool] = Field(default={})
    value: str = ""


class Rate(Declared):
    """What the API allows.

    Attributes:
        requests, seconds: so many requests in so many seconds.
        burst: requests that may be sent at once after a rest.
        used_header: header with `used/limit`, as Shopify's `X-Shopify-Shop-Api-Call-Limit`.
        remaining_header, reset_header: headers with what is left, and when it is filled again: seconds from now,
            or an epoch second.
        concurrency: calls at a time, over all runs on this machine.
    """

    requests: float = 0
    seconds: float = 1
    burst: float = 1
    used_header: str = ""
    remaining_header: str = ""
    reset_header: str = ""
    concurrency: int = 0


class Retries(Declared):
    """How long to go on: tries of a failing call, and seconds to wait out throttling and outages."""

    attempts: int = 6
    patience: float = 900
    first_wait: float = 0.5
    longest_wait: float = 60
    timeout: float = 60


class ThrottleRule(Declared):
    """An answer that means throttling though its status is not 429."""

    status: int
    contains: str


class RestResource(Declared):
    """One resource of a REST API: everything that may stand in a declaration.

    Attributes:
        path: of the resource.
        records: path to the list of objects in the answer (empty when the answer is the list);
            `orders[].lines[]` unfolds the lists inside, whose objects are then the rows.
        key: path, or paths, of the key of the objects that the pages bring.
        version: path of what grows when an object changes.
        params: query parameters of each first request.
        fields: the columns; without, they are taken from the rows.
        ignore: names in a row that go nowhere; `*` for all that are not declared.
        cap: objects that one query hands out at most; windows split before it.
        unchanged: what shows that a window need not be read again; it needs a count, or an answer that is the whole.
    """

    path: str
    records: str = ""
    key: str | list[str] | None = None
    version: str | None = None
    params: dict[str, str | int | bool] = Field(default={})
    paging: Paging = Paging()
    window: WindowParams | None = None
    count: Counting | None = None
    changes: Changes | None = None
    unchanged: Unchanged | None = None
    rate: Rate = Rate()
    retries: Retries = Retries()
    throttled: tuple[ThrottleRule, ...] = ()
    fields: dict[str, FieldSpec | str] | None = None
    ignore: tuple[str, ...] = ()
    omits_nulls: bool = False
    cap: int | None = None
    max_answer_bytes: int = 64 * 1024 * 1024

    @model_validator(mode="after")
    def _tells_changes(self) -> RestResource:
        how = self.unchanged
        if how and how.by == "etag" and self.paging.by != "none":
            raise ValueError(
                "`unchanged: {by: etag}` goes with `paging: {by: none}`: the tag is one answer's"
            )
        if how and how.by == "newest" and not (how.value and (self.count or self.paging.total)):
            raise ValueError("`unchanged: {by: newest}` needs `value`, and `count` or `paging.total`")
        return self


class RestConnection(Declared):
    """A REST API: everything that a connection has.

    Attributes:
        url: base URL; credentials are sent to its host only.
        auth: how to prove who calls.
        headers: sent with each call.
    """

    url: PlainUrl
    auth: AnyAuth | None = None
    headers: dict[str, str] = Field(default={})


class RestDeclaration(RestConnection, RestResource):
    """A REST API and one resource of it; `unfit`: `fail`, or `carry` values that do not fit (see `Shape`)."""

    unfit: Literal["fail", "carry"] = "fail"

    @classmethod
    def parse(cls, given: dict[str, Any], where: str = "source") -> RestDeclaration:
        """From a declaration's mapping; raises `DeclarationError` with each fault and its place."""
        return checked(cls, given, where)

    def columns(self) -> list[Column] | None:
        """The declared columns."""
        return columns_of(self.fields)
