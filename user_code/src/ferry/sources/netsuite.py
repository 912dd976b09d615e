"""NetSuite by SuiteQL over REST: total order, keyset or split windows, one limit of calls at a time for all
runs.

Facts: at most 1,000 rows a page and 100,000 a query, whose offset is a multiple of its limit; nulls are
    left out and
values come as text; calls at a time are limited per account over all integrations, and being over is HTTP 429 or,
from RESTlets, HTTP 400 with SSS_REQUEST_LIMIT_EXCEEDED; a call is cut off after 15 minutes. New integrations
cannot use token-based authentication (OAuth 1.0a) from 2027.1: OAuth 2.0 first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import ConfigDict, SecretStr

from ferry.errors import DeclarationError, PermanentError
from ferry.sources import auth as kinds
from ferry.sources.calls import Answer, Auth, Caller, Patience
from ferry.sources.declared import Declared, checked
from ferry.sources.limits import Slots
from ferry.sources.netsuite_declaration import SuiteColumn, SuiteQuery
from ferry.sources.page import LATE, Completeness, Glance, Page, Window, WindowIncomplete
from ferry.sources.reading import Count, Reading, ServerPage, Span, as_instant
from ferry.sources.shape import Field, Shape

CAP = 100_000
_PAGE = 1_000
_PATH = "/services/rest/query/v1/suiteql"
_TOKEN_PATH = "/services/rest/auth/oauth2/v1/token"  # noqa: S105 - a path
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FIRST_ACCOUNT = datetime(1998, 1, 1, tzinfo=UTC)


class CertificateAuth(Declared):
    """OAuth 2.0 client credentials, proved by a certificate (machine to machine)."""

    kind: Literal["certificate"]
    client_id: str
    certificate_id: str
    private_key: SecretStr
    algorithm: Literal["PS256", "PS384", "PS512", "ES256", "ES384", "ES512"] = "PS256"


class TokenAuth(Declared):
    """Token-based authentication (OAuth 1.0a), for integrations that have it already."""

    kind: Literal["tba"]
    consumer_key: str
    consumer_secret: SecretStr
    token: str
    token_secret: SecretStr


class Account(Declared):
    """A NetSuite account, as a connection.

    Attributes:
        account: its id: `1234567` or `1234567_SB1`.
        auth: how to prove who calls.
        url: set for another host than the account's own.
        concurrency: calls at a time that Ferry may have, of the account's limit, over all runs on this
            machine.
        timezone: the zone in which SuiteQL reads and writes this user's times.
    """

    # In the environment an account's id is a number like any other.
    model_config = ConfigDict(coerce_numbers_to_str=True)

    account: str
    auth: CertificateAuth | TokenAuth
    url: str = ""
    concurrency: int = 4
    timezone: str = "UTC"
    patience: float = 1800
    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60

    @property
    def base(self) -> str:
        """The host of the account's REST services."""
        return self.url or f"https://{self.account.lower().replace('_', '-')}.suitetalk.api.netsuite.com"

    def caller(self, state_dir: Path) -> Caller:
        """A caller within the account's limit, which all runs share."""
        name = re.sub(r"\W+", "-", self.account)
        return Caller(
            self.base,
            auth=self._proof(state_dir),
            slots=Slots(state_dir / f"netsuite-{name}-slots", self.concurrency),
            # Longer than the 15 minutes after which NetSuite itself gives up.
            patience=Patience(self.attempts, self.patience, self.first_wait, self.longest_wait, timeout=930),
            headers={"prefer": "transient"},
            throttled=_is_throttling,
        )

    def _proof(self, state_dir: Path) -> Auth:
        if isinstance(self.auth, TokenAuth):
            return kinds.OAuth1(
                self.auth.consumer_key,
                self.auth.consumer_secret.get_secret_value(),
                self.auth.token,
                self.auth.token_secret.get_secret_value(),
                realm=self.account.upper().replace("-", "_"),
            )
        url = f"{self.base}{_TOKEN_PATH}"
        return kinds.certificate(
            url,
            self.auth.client_id,
            self.auth.certificate_id,
            self.auth.private_key.get_secret_value(),
            scope=["rest_webservices"],
            algorithm=self.auth.algorithm,
            store=kinds.store_for(state_dir, url, self.auth.client_id, self.auth.certificate_id),
        )


class NetSuiteSource:
    """The rows of one SuiteQL query.

    Args:
        account: the connection.
        query: what to read.
        state_dir: where runs on this machine share the limit and the token.
        work_dir: a directory that outlives the process.
        unfit: `fail`, or `carry` values that do not fit to the contract.
    """

    def __init__(
        self,
        account: Account,
        query: SuiteQuery,
        *,
        state_dir: Path,
        work_dir: Path | None = None,
        cap: int = CAP,
        page_size: int = _PAGE,
        unfit: str = "fail",
    ) -> None:
        self.account, self.query, self._page_size = account, query, min(page_size, _PAGE)
        self.cap = cap if query.paging == "offset" else None
        self.catches_up = bool(query.modified)
        self.caller = account.caller(state_dir)
        self._zone = ZoneInfo(account.timezone)
        self._fields = [field_of(n, c) for n, c in query.columns.items()]
        self._reading = Reading(
            self,
            key="ferry_id",
            version="ferry_modified" if query.modified else None,
            # Nulls are left out of the rows, so absence proves nothing; what was not asked for cannot come.
            shape=Shape(self._fields, ("*",), omits_nulls=True, unfit=unfit),
            plan=[account.base, query.model_dump(mode="json"), self._page_size],
            work_dir=work_dir,
        )

    @property
    def completeness(self) -> Completeness | None:
        """Rows that SuiteQL counted against rows that arrived."""
        return self._reading.completeness

    def preflight(self) -> None:
        """Ask for one row: account, credentials, role and every column are right, or `PermanentError` says
        not.
        """
        self._ask(f"{self._select(Span())} ORDER BY {self.query.id}", limit=1, offset=0)

    def glance(self, window: Window | None, before: str | None = None) -> Glance | None:  # noqa: ARG002
        """How many rows there are, and when one changed last; None without a column that says so."""
        if not self.query.modified:
            return None
        self._window = window.key if window else self.query.modified
        low, high = (window.start, window.end) if window else (None, None)
        newest = _iso(f"MAX({self.query.modified})", "datetime")
        sql = (
            f"SELECT COUNT(*) AS c, {newest} AS newest FROM {self.query.table}{self._where(Span(low, high))}"  # noqa: S608
        )
        (told,) = self._ask(sql, limit=1, offset=0).json()["items"]
        at = _moment(told.get("newest"), self._zone)
        settled = at is None or at.timestamp() < self.caller.now() - LATE
        return Glance(f"{told['c']} {told.get('newest')}", int(told["c"]), settled)

    def close(self) -> None:
        """Let go of the connections."""
        self.caller.close()

    def read(self, window: Window | None, checkpoint: dict[str, Any] | None) -> Iterator[Page]:
        """Pages of the window, which is on the time of the last change, or on any other expression by its
        key.
        """
        self._window = window.key if window else self.query.modified
        return self._reading.pages(window, checkpoint)

    def spans(self, window: Window | None) -> list[Span]:
        """The window; both edges closed where it may have to be split."""
        low, high = (window.start, window.end) if window else (None, None)
        if isinstance(low, int | str) or isinstance(high, int | str):
            return [Span(low, high)]
        low, high = (None if e is None else self._instant(e) for e in (low, high))
        if self.cap and self.query.modified:
            high = datetime.fromtimestamp(int(self.caller.now()) + 86_400, UTC) if high is None else high
            if low is None:
                # Rows without a time are with those before any account, which need no splitting.
                return [Span(None, _FIRST_ACCOUNT), Span(_FIRST_ACCOUNT, high)]
        return [Span(low, high)]

    def count(self, span: Span) -> Count | None:
        """What SuiteQL counts in the span."""
        sql = f"SELECT COUNT(*) AS c FROM {self.query.table}{self._where(span)}"  # noqa: S608 - declared, no input
        items = self._ask(sql, limit=1, offset=0).json()["items"]
        return Count(int(items[0]["c"]))

    def page(self, span: Span, cursor: Any) -> ServerPage:
        """The page after a key, or at an offset."""
        order, after, offset = self.query.id, None, 0
        if self.query.paging == "keyset":
            after = None if cursor is None else int(cursor)
        else:
            order = ", ".join(e for e in (self.query.modified, self.query.id) if e)
            offset = cursor or 0
        sql = f"{self._select(span, after)} ORDER BY {order}"
        answer = self._ask(sql, limit=self._page_size, offset=offset)
        told = answer.json()
        records = told["items"]
        if self.query.paging == "keyset":
            following = self._last_key(records, after, answer) if told["hasMore"] else None
        else:
            following = offset + self._page_size if told["hasMore"] else None
            if told["hasMore"] and len(records) < self._page_size:
                raise WindowIncomplete(
                    f"a page has {len(records)} of {self._page_size} rows, and there are more",
                    where=answer.request,
                )
        return ServerPage(records, following, f"{answer.request}: {sql[:200]}", len(answer.body))

    def belongs(self, span: Span, record: dict[str, Any]) -> bool:  # noqa: ARG002
        """The condition is half-open as asked."""
        return True

    def _last_key(self, records: list[dict[str, Any]], after: int | None, answer: Answer) -> int:
        try:
            keys = [int(r["ferry_id"]) for r in records]
        except (KeyError, ValueError, TypeError):
            raise PermanentError(
                f"{self.query.id} is not a whole number in each row",
                where=answer.request,
                next="Declare as id a unique whole number",
            ) from None
        steps = zip(
            [after, *keys] if after is not None else keys,
            keys if after is not None else keys[1:],
            strict=False,
        )
        if not keys or any(a >= b for a, b in steps):
            raise WindowIncomplete(
                f"the rows do not come in the order of {self.query.id}, or are empty with more to come",
                where=answer.request,
                next="The window is read again; if it stays, declare a unique id",
            )
        return keys[-1]

    def _select(self, span: Span, after: int | None = None) -> str:
        columns = [f"{self.query.id} AS ferry_id"]
        if self.query.modified:
            columns.append(f"{_iso(self.query.modified, 'datetime')} AS ferry_modified")
        columns += [f"{_iso(f.path, f.type)} AS {f.name}" for f in map(self._sql, self._fields)]
        # Expressions of the declaration, whole numbers and times: no input of others is in it.
        return f"SELECT {', '.join(columns)} FROM {self.query.table}{self._where(span, after)}"  # noqa: S608

    def _sql(self, field: Field) -> Field:
        declared = self.query.columns[field.name]
        sql = declared.sql if isinstance(declared, SuiteColumn) and declared.sql else field.name
        return Field(field.name, field.type, sql)

    def _where(self, span: Span, after: int | None = None) -> str:
        parts = [f"({self.query.where})"] if self.query.where else []
        key = getattr(self, "_window", self.query.modified)
        if key and span.start is not None:
            parts.append(f"{key} >= {self._literal(span.start)}")
        if key and span.end is not None:
            before = f"{key} < {self._literal(span.end)}"
            # What has no value belongs to the first window, or it would belong to none.
            parts.append(before if span.start is not None else f"({before} OR {key} IS NULL)")
        if span.since is not None and self.query.modified:
            since = datetime.fromtimestamp(span.since - LATE, UTC)
            parts.append(f"{self.query.modified} >= {self._literal(since)}")
        if after is not None:
            parts.append(f"{self.query.id} > {after}")
        return f" WHERE {' AND '.join(parts)}" if parts else ""

    def _literal(self, edge: Any) -> str:
        # SuiteQL over REST takes no parameters: whole numbers and times are written by us, text is quoted.
        if isinstance(edge, int):
            return str(edge)
        if isinstance(edge, str):
            return "'" + edge.replace("'", "''") + "'"
        text = self._instant(edge).astimezone(self._zone).strftime("%Y-%m-%d %H:%M:%S")
        return f"TO_TIMESTAMP('{text}', 'YYYY-MM-DD HH24:MI:SS')"

    def _instant(self, edge: Any) -> datetime:
        if isinstance(edge, datetime) and edge.tzinfo:
            return edge.astimezone(UTC)
        # An edge without zone is a wall time of the account.
        return as_instant(edge).replace(tzinfo=self._zone).astimezone(UTC)

    def _ask(self, sql: str, *, limit: int, offset: int) -> Answer:
        def judge(answer: Answer) -> Answer:
            told = answer.json()
            if not isinstance(told, dict) or not isinstance(told.get("items"), list) or "hasMore" not in told:
                raise PermanentError("this is no answer of SuiteQL", where=answer.request, why=answer.excerpt)
            return answer

        # The limit stands in the URL, as OAuth 1.0a signs it.
        return self.caller.call(
            "POST", f"{_PATH}?limit={limit}&offset={offset}", json={"q": sql}, judge=judge
        )


def source(given: dict[str, Any], *, state_dir: Path, work_dir: Path | None = None) -> NetSuiteSource:
    """From a declaration with `account` and `query`; raises `DeclarationError` with each fault and its place."""
    options = {k: given[k] for k in ("cap", "page_size", "unfit") if k in given}
    account = checked(Account, given["account"], "account")
    query = checked(SuiteQuery, given["query"], "query")
    return NetSuiteSource(account, query, state_dir=state_dir, work_dir=work_dir, **options)


def field_of(name: str, declared: SuiteColumn | str) -> Field:
    """How a column of SuiteQL is read: its values come as text, whatever they are."""
    if not _NAME.fullmatch(name):
        raise DeclarationError(
            f"{name!r} is no name for a column", where="columns", next="Use letters, digits and _"
        )
    kind = declared if isinstance(declared, str) else declared.type
    # SuiteQL gives its names back in lower case.
    return Field(name, kind, name.lower(), parse=kind != "text")


def _iso(sql: str, kind: str) -> str:
    if kind == "date":
        return f"TO_CHAR({sql}, 'YYYY-MM-DD')"
    if kind == "datetime":
        return f"TO_CHAR({sql}, 'YYYY-MM-DD HH24:MI:SS')"
    return sql


def _moment(text: str | None, zone: ZoneInfo) -> datetime | None:
    """A time as we asked for it; raises `PermanentError` if the account writes it otherwise."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=zone)
    except ValueError:
        raise PermanentError(
            f"the account writes a time as {text[:40]!r}", why="it was asked for as YYYY-MM-DD HH24:MI:SS"
        ) from None


def _is_throttling(answer: Answer) -> bool:
    words = ("SSS_REQUEST_LIMIT_EXCEEDED", "CONCURRENCY_LIMIT_EXCEEDED", "EXCEEDED_REQUEST_LIMIT")
    return any(word in answer.excerpt for word in words)
