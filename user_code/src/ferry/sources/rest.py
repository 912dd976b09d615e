"""Any REST API by declaration: auth, paging, windows, rate limit and retries; see `RestDeclaration`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from ferry.errors import DeclarationError, PermanentError, TransientError
from ferry.sources import auth as kinds
from ferry.sources.calls import Answer, Auth, Caller, Patience, Refused, moment
from ferry.sources.limits import Bucket, Slots
from ferry.sources.page import LATE, Completeness, Edge, Glance, Page, Window
from ferry.sources.reading import Count, Reading, ServerPage, Span, as_instant
from ferry.sources.rest_declaration import (
    AnyAuth,
    ApiKeyAuth,
    BasicAuth,
    BearerAuth,
    OAuth1Auth,
    OAuth2Auth,
    RestDeclaration,
)
from ferry.sources.shape import Shape, dig


class RestSource:
    """One resource of a REST API.

    Args:
        declaration: what the API and the resource are like.
        state_dir: where runs on this machine share the rate limit and the tokens.
        work_dir: a directory that outlives the process, for the keys seen in an unfinished read.
    """

    def __init__(
        self, declaration: RestDeclaration, *, state_dir: Path, work_dir: Path | None = None
    ) -> None:
        self.declared = declared = declaration
        self.cap, self.catches_up = declared.cap, declared.changes is not None
        self.caller = caller_of(declared, state_dir)
        root, *inner = _record_steps(declared.records)
        self._records, self._inner = root, inner
        self._reading = Reading(
            self,
            key=declared.key,
            version=declared.version,
            shape=Shape(declared.columns(), declared.ignore, declared.omits_nulls, declared.unfit),
            plan=declared.model_dump(mode="json", exclude={"auth", "rate", "retries", "max_answer_bytes"}),
            work_dir=work_dir,
            unfold=self._unfold if inner else None,
        )
        if self.cap and not declared.key:
            raise DeclarationError("an API with a cap needs a key", where=declared.url, next="Declare key")

    @property
    def completeness(self) -> Completeness | None:
        """Objects that the API counted against objects that arrived."""
        return self._reading.completeness

    def preflight(self) -> None:
        """Ask for one page's worth of the resource: the URL, the credentials and the record path are right.

        Raises:
            PermanentError: they are not.
        """
        params = dict(self.declared.params)
        if self.declared.paging.size_param:
            params[self.declared.paging.size_param] = 1
        self._list(self.caller.call("GET", self.declared.path, params=params))

    def glance(self, window: Window | None, before: str | None = None) -> Glance | None:
        """What is declared under `unchanged`: the count and the newest change, or the answer's tag."""
        how, span = self.declared.unchanged, self.spans(window)[0]
        if how is None:
            return None
        headers = {"if-none-match": before} if how.by == "etag" and before else {}
        answer: Answer = self.caller.call(
            "GET", self.declared.path, params=self._filters(span) | how.params, headers=headers, judge=lambda a: a
        )  # fmt: skip
        if how.by == "etag":
            tag = before if answer.status == 304 else answer.headers.get("etag")
            return Glance(tag) if tag else None
        count = self.count(span)
        rows = count.objects if count else self._total(answer)
        newest = dig(answer.json(), how.value.split("."))
        at = _instant(newest, self.declared.window.format if self.declared.window else "iso")
        if rows is None or (at is None and rows):
            raise PermanentError(
                f"the answer has no time at {how.value!r}, or no count of the rows",
                where=answer.request,
                why=answer.excerpt,
                next="Correct `unchanged` in the declaration, or leave it out",
            )
        return Glance(f"{rows} {newest}", rows, at is None or at.timestamp() < self.caller.now() - LATE)

    def close(self) -> None:
        """Let go of the connections."""
        self.caller.close()

    def read(self, window: Window | None, checkpoint: dict[str, Any] | None) -> Iterator[Page]:
        """Pages of the window."""
        if window and self.declared.window is None:
            raise DeclarationError(
                f"{self.declared.path} has no window",
                next="Declare window: {start: …, end: …}, or do not partition it",
            )
        return self._reading.pages(window, checkpoint)

    def spans(self, window: Window | None) -> list[Span]:
        """The window; times as instants, an open end at the server's now if the API has a cap."""
        if window is None:
            return [Span()]
        if isinstance(window.start, int | str) or isinstance(window.end, int | str):
            return [Span(window.start, window.end)]
        low, high = (None if e is None else as_instant(e) for e in (window.start, window.end))
        if high is None and self.cap:
            high = datetime.fromtimestamp(int(self.caller.now()) + 1, UTC)
        return [Span(low, high)]

    def count(self, span: Span) -> Count | None:
        """What the API's count says, if one is declared."""
        counting = self.declared.count
        if counting is None:
            return None
        answer = self.caller.call("GET", counting.path, params=self._filters(span))
        found = _whole(dig(answer.json(), counting.value.split(".")))
        if found is None:
            raise PermanentError(
                f"the count has no number at {counting.value!r}", where=answer.request, why=answer.excerpt
            )
        return Count(found)

    def page(self, span: Span, cursor: Any) -> ServerPage:
        """The page at the cursor: a URL, or what goes into the paging parameter."""
        paging = self.declared.paging
        if isinstance(cursor, dict) and "url" in cursor:
            answer: Answer = self.caller.call("GET", cursor["url"])
        else:
            params = self._filters(span) | ({paging.size_param: paging.size} if paging.size_param else {})
            if paging.by == "number":
                params[paging.param] = cursor["at"] if cursor else paging.first
            elif paging.by == "offset":
                params[paging.param] = cursor["at"] if cursor else 0
            elif cursor is not None:
                params[paging.param] = cursor["at"]
            try:
                answer = self.caller.call("GET", self.declared.path, params=params)
            except Refused as error:
                if cursor is not None and error.status == paging.end:
                    return ServerPage([], None, error.where, 0)
                if cursor is not None and error.status == 404:
                    error.next = (
                        "If that is how this API says that there are no more pages: paging: {end: 404}"
                    )
                raise
        records = self._list(answer)
        total = self._total(answer)
        given = (cursor or {}).get("given", 0) + len(records)
        following = self._next(answer, records, cursor or {}, given, total)
        return ServerPage(records, following, answer.request, len(answer.body), total)

    def belongs(self, span: Span, record: dict[str, Any]) -> bool:
        """Whether the row is in the half-open window; a value that is no time is left to the contract."""
        declared = self.declared.window
        if declared is None or not declared.field:
            return True
        value = dig(record, declared.field.split("."))
        at = _instant(value, declared.format)
        if at is None:
            return True
        low, high = span.start, span.end
        return not (isinstance(low, datetime) and at < low) and not (
            isinstance(high, datetime) and at >= high
        )

    def _filters(self, span: Span) -> dict[str, Any]:
        params: dict[str, Any] = dict(self.declared.params)
        window, changes = self.declared.window, self.declared.changes
        if window:
            for name, edge in ((window.start, span.start), (window.end, span.end)):
                if edge is not None and name:
                    params[name] = _written(edge, window.format)
        if span.since is not None and changes:
            since = datetime.fromtimestamp(span.since - changes.overlap, UTC)
            params[changes.since] = _written(since, changes.format)
        return params

    def _list(self, answer: Answer) -> list[dict[str, Any]]:
        told = answer.json()
        found = dig(told, self._records) if self._records else told
        around = dig(told, self._records[:-1]) if self._records else None
        is_null = found is None and isinstance(around, dict) and self._records[-1] in around
        if answer.status == 204 or (is_null and not (told.get("error") or told.get("errors"))):
            return []  # nothing, or null where the list would stand
        if not isinstance(found, list):
            raise PermanentError(
                f"the answer has no list at {'.'.join(self._records) or 'its top'}",
                where=answer.request,
                why=f"it is {answer.excerpt}",
                next="Check records in the declaration, and whether this is an error that came with HTTP 200",
            )
        for at, record in enumerate(found):
            if not isinstance(record, dict):
                raise PermanentError(
                    f"record {at + 1} is no object but {type(record).__name__}",
                    where=answer.request,
                    next="Check records in the declaration",
                )
        return found

    def _total(self, answer: Answer) -> int | None:
        path = self.declared.paging.total
        if not path:
            return None
        if path.startswith("header:"):
            return _whole(answer.headers.get(path.removeprefix("header:")))
        return _whole(dig(answer.json(), path.split(".")))

    def _next(
        self,
        answer: Answer,
        records: list[dict[str, Any]],
        cursor: dict[str, Any],
        given: int,
        total: int | None,
    ) -> dict[str, Any] | None:
        paging = self.declared.paging
        more = dig(answer.json(), paging.more.split(".")) if paging.more else None
        if isinstance(more, str):
            more = more.lower() not in ("false", "0", "no", "")
        if paging.by == "none" or (more is not None and not more):
            return None
        if paging.by == "link":
            link = next_link(answer.headers.get("link", ""))
            return self._url(answer, link) if link else self._no_way(answer, more)
        told = dig(answer.json(), paging.next.split(".")) if paging.next else None
        told = None if told is False else told
        if paging.by == "next_url":
            if told is not None and not isinstance(told, str):
                raise PermanentError(
                    f"the next URL is {told!r}", where=answer.request, next="Check paging.next"
                )
            return self._url(answer, told) if told else self._no_way(answer, more)
        if paging.by == "cursor":
            if told in (None, ""):
                return self._no_way(answer, more)
            return {"at": told if isinstance(told, int | str) else str(told)}
        # These three end with an empty page, or when as many rows as there are have come: a short page alone
        # proves nothing.
        if not records or (total is not None and given >= total and not more):
            return None
        if paging.by == "keyset":
            return {"at": self._last_key(answer, records), "given": given}
        step = 1 if paging.by == "number" else len(records)
        begin = paging.first if paging.by == "number" else 0
        return {"at": cursor.get("at", begin) + step, "given": given}

    def _no_way(self, answer: Answer, more: Any) -> None:
        if more:
            raise TransientError("there is a next page but no way to it", where=answer.request)

    def _last_key(self, answer: Answer, records: list[dict[str, Any]]) -> Any:
        keys = [dig(r, self.declared.paging.key.split(".")) for r in records]
        # Numbers that are written as text are in the order of numbers.
        if all(isinstance(key, str) and key.isdecimal() for key in keys):
            order: list[Any] = [int(key) for key in keys]
        else:
            order = keys
        is_mixed = len({isinstance(key, str) for key in keys}) > 1
        if None in keys or is_mixed or any(a >= b for a, b in pairwise(order)):
            raise PermanentError(
                "the rows do not come in the order of their key",
                where=answer.request,
                why="paging by keyset needs them so, or rows are lost",
                next="Ask the API for this order (params), or declare another paging",
            )
        return keys[-1]

    def _url(self, answer: Answer, link: str) -> dict[str, Any]:
        # Relative to what was asked, as RFC 8288 has it.
        asked = str(httpx.URL(answer.request.split(" ", 1)[1]).copy_with(query=None))
        return {"url": self.caller.link(str(httpx.URL(asked).join(link)))}

    def _unfold(self, record: dict[str, Any]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
        level: list[tuple[dict[str, Any], list[Any]]] = [(record, [])]
        for steps in self._inner:
            level = [(child, [one, *above]) for one, above in level for child in dig(one, steps) or []]
        yield from level


def caller_of(declared: RestDeclaration, state_dir: Path) -> Caller:
    """What sends the calls to a declared API, within the limits that all runs of this machine share."""
    rate, host = declared.rate, re.sub(r"\W+", "-", urlsplit(declared.url).netloc)
    bucket = None
    if rate.requests:
        # One request less at once than allowed: two that left apart may arrive together.
        burst = max(1.0, rate.burst - 1)
        bucket = Bucket(
            state_dir / f"rest-{host}.json", capacity=burst, per_second=rate.requests / rate.seconds
        )
    slots = Slots(state_dir / f"rest-{host}-slots", rate.concurrency) if rate.concurrency else None

    def throttled(answer: Answer) -> bool:
        return any(r.status == answer.status and r.contains in answer.excerpt for r in declared.throttled)

    def feedback(answer: Answer) -> dict[str, float]:
        used = re.fullmatch(r"\s*([\d.]+)\s*/\s*([\d.]+)\s*", answer.headers.get(rate.used_header or "-", ""))
        if used:
            return {"available": max(0.0, float(used[2]) - float(used[1]) - 1), "capacity": float(used[2])}
        left = _number(answer.headers.get(rate.remaining_header or "-"))
        reset = _number(answer.headers.get(rate.reset_header or "-"))
        if bucket and left is not None and left < 1 and reset is not None:
            reset = reset / 1000 if reset > 100_000_000_000 else reset  # some have milliseconds
            wait = reset - caller.now() if reset > 1_000_000_000 else reset
            bucket.pause(min(max(0.0, wait), 3600.0))
        return {}

    caller = Caller(
        declared.url,
        auth=proof(declared.auth, state_dir),
        bucket=bucket,
        slots=slots,
        patience=Patience(
            declared.retries.attempts,
            declared.retries.patience,
            declared.retries.first_wait,
            declared.retries.longest_wait,
            declared.retries.timeout,
        ),
        headers=declared.headers,
        feedback=feedback,
        throttled=throttled if declared.throttled else None,
        max_answer=declared.max_answer_bytes,
    )
    return caller


def proof(declared: AnyAuth | None, state_dir: Path) -> Auth | None:
    """The declared way to authenticate; tokens that are fetched are kept in `state_dir`."""
    match declared:
        case None:
            return None
        case BearerAuth():
            return kinds.bearer(declared.token.get_secret_value())
        case BasicAuth():
            return kinds.basic(declared.user, declared.password.get_secret_value())
        case ApiKeyAuth(place="query"):
            return kinds.QueryKey(declared.name, declared.value.get_secret_value())
        case ApiKeyAuth():
            return kinds.Header(declared.name, declared.value.get_secret_value())
        case OAuth1Auth():
            return kinds.OAuth1(
                declared.consumer_key,
                declared.consumer_secret.get_secret_value(),
                declared.token,
                declared.token_secret.get_secret_value(),
                realm=declared.realm,
                method=declared.method,
            )
        case OAuth2Auth():
            secret = declared.client_secret.get_secret_value()
            if declared.refresh_token:
                token = declared.refresh_token.get_secret_value()
                # A new declared token (somebody consented again) has a store of its own.
                store = kinds.store_for(state_dir, declared.token_url, declared.client_id, token)
                return kinds.refresh_token(declared.token_url, declared.client_id, secret, token, store=store)
            store = kinds.store_for(state_dir, declared.token_url, declared.client_id, declared.scope)
            return kinds.client_credentials(
                declared.token_url, declared.client_id, secret, scope=declared.scope, store=store
            )


def _record_steps(records: str) -> list[list[str]]:
    """`a.b[].c[]` as [["a", "b"], ["c"]]: the first list is what pages bring, the others are inside."""
    parts = [p.strip(".") for p in records.split("[]")]
    steps = [p.split(".") if p else [] for p in parts]
    return steps[:-1] if len(steps) > 1 and not steps[-1] else steps


_PARAMETER = r';\s*([\w!#$&+\-.^`|~*]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*)))?'
_LINK = re.compile(rf"<([^>]*)>((?:\s*{_PARAMETER})*)")


def next_link(header: str) -> str | None:
    """The URL whose relations have `next` among them, as RFC 8288 writes a `Link` header; None if there is none."""
    for url, parameters, *_ in _LINK.findall(header):
        given = re.findall(_PARAMETER, parameters)
        # Only the first `rel` of a link counts.
        relations = next((quoted or bare for name, quoted, bare in given if name.lower() == "rel"), "")
        if "next" in relations.lower().split():
            return str(url).strip()
    return None


def _written(edge: Edge, form: str) -> Any:
    if isinstance(edge, int | str) or form == "key":
        return edge
    at = as_instant(edge)
    match form:
        case "iso":
            return moment(at.timestamp())
        case "date":
            return at.date().isoformat()
        case "epoch":
            return int(at.timestamp())
        case "epoch_ms":
            return int(at.timestamp() * 1000)
    return at.strftime(form)


def _instant(value: Any, form: str) -> datetime | None:
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError, OSError):  # beyond all years
            return datetime.fromtimestamp(float(value) / (1000 if form == "epoch_ms" else 1), UTC)
        return None
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    return as_instant(at) if isinstance(at, date) else None


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and value.strip().isdigit():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
