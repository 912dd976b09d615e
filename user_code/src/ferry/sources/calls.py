"""One HTTP call to a source, made so that nothing it answers can hurt: bounded, retried, within its limits.

Answers are bounded after decompression; half answers, time-outs, 5xx and throttling are tried again; messages
carry the request and an excerpt of the answer, never a secret.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import simplejson
import tenacity

from ferry.errors import FerryError, PermanentError, TransientError
from ferry.sources.auth import QueryKey
from ferry.sources.limits import Bucket, Slots

_EXCERPT = 300
_MOVED, _REDIRECTS = (301, 302, 303, 307, 308), 5

# It tells each URL that it calls, keys in queries included.
logging.getLogger("httpx").setLevel(logging.WARNING)


class Throttled(TransientError):  # noqa: N818 - the fact is its name
    """The source asks for patience; `retry_after` seconds if it said how much."""


class Refused(PermanentError):  # noqa: N818 - the fact is its name
    """The other side answered with a status that no repetition changes; `status` is that number."""

    def __init__(self, status: int, what: str, **more: str) -> None:
        self.status = status
        super().__init__(what, **more)


class Auth(Protocol):
    """How requests prove who sends them."""

    def sign(self, request: httpx.Request, now: float) -> None:
        """Put the proof on the request; `now` is the server's clock in epoch seconds, as far as it is known."""
        ...

    def renew(self, now: float) -> bool:
        """After a 401: whether there is new proof worth one more try."""
        ...

    def secrets(self) -> tuple[str, ...]:
        """Texts that must not be seen in any message."""
        ...


@dataclass(frozen=True)
class Answer:
    """A whole answer: `status`, `headers`, `body` (bytes, decompressed) and the request as messages name it."""

    status: int
    headers: httpx.Headers
    body: bytes
    request: str
    excerpt: str

    def json(self) -> Any:
        """The body as JSON, None for HTTP 204; fractional numbers as `Decimal`, whole ones as `int` of any size.

        Raises:
            TransientError: it is not whole JSON (a half answer that nothing else gave away).
            PermanentError: it is not UTF-8, has NaN or Infinity, or is nested beyond reason.
        """
        if "parsed" not in self.__dict__:
            # HTTP 204 says that there is nothing, and not that it got lost.
            self.__dict__["parsed"] = self._parse() if self.body or self.status != 204 else None
        return self.__dict__["parsed"]

    def _parse(self) -> Any:
        try:
            return simplejson.loads(
                self.body.decode("utf-8-sig"), use_decimal=True, parse_constant=_refuse_constant
            )
        except UnicodeDecodeError as error:
            raise PermanentError(
                f"the answer is not UTF-8 (byte {error.start})",
                where=self.request,
                next="Ask the vendor, or give the encoding if the API offers one",
            ) from None
        except (_Constant, RecursionError) as error:
            why = str(error) if isinstance(error, _Constant) else "it is nested too deeply"
            raise PermanentError(
                "the answer is not JSON that a row can come from", where=self.request, why=why
            ) from None
        except ValueError as error:
            raise TransientError(
                "the answer is not whole JSON",
                where=self.request,
                why=f"{error}; it has {len(self.body)} bytes and begins: {self.excerpt}",
                next="It was asked for again; if this stays, look at what the server or a proxy sends",
            ) from None


class _Constant(ValueError):  # noqa: N818
    pass


def _refuse_constant(name: str) -> None:
    raise _Constant(f"it has the value {name}, which JSON does not know")


@dataclass(frozen=True)
class Patience:
    """How long to go on trying.

    Attributes:
        attempts: tries of one call while it fails (5xx, time-outs, half answers).
        seconds: how long to wait out throttling and outages of one call, in all.
        first_wait: seconds before the second try; doubled each time, at most `longest_wait`.
        timeout: seconds without a byte before a try counts as failed.
    """

    attempts: int = 6
    seconds: float = 900.0
    first_wait: float = 0.5
    longest_wait: float = 60.0
    timeout: float = 60.0


class Caller:
    """Sends calls to one origin.

    Args:
        base: URL that relative paths are appended to; the proof is sent to this origin and to no other.
        auth: how to sign; None for an open API.
        bucket: rate limit that is shared by all runs; None for no limit.
        slots: concurrency limit that is shared by all runs.
        feedback: reads the server's bucket from an answer, as arguments of `Bucket.settle`.
        throttled: tells from an answer other than 429 whether it is throttling.
        max_answer: bytes that one answer may have after decompression.
        who: what messages call the other side.
        words: places (`data.message`) at which a refusal that is JSON says in words what is wrong, the best first.
    """

    def __init__(
        self,
        base: str,
        *,
        auth: Auth | None = None,
        bucket: Bucket | None = None,
        slots: Slots | None = None,
        patience: Patience | None = None,
        headers: dict[str, str] | None = None,
        feedback: Callable[[Answer], dict[str, float]] | None = None,
        throttled: Callable[[Answer], bool] | None = None,
        max_answer: int = 64 * 1024 * 1024,
        who: str = "the source",
        words: tuple[str, ...] = (),
    ) -> None:
        self.who, self.words = who, words
        self.base, self.auth, self.bucket, self.slots = base.rstrip("/"), auth, bucket, slots
        self.patience = patience or Patience()
        self.feedback, self.throttled, self.max_answer = feedback, throttled, max_answer
        self.requests = 0
        self.skew = 0.0  # seconds that the server's clock is ahead of ours
        self._client = httpx.Client(
            headers={"accept": "application/json", "accept-encoding": "gzip", **(headers or {})},
            timeout=self.patience.timeout,
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def hide(self, text: str) -> str:
        """A text of the other side without what proves who we are."""
        for secret in self.auth.secrets() if self.auth else ():
            text = text.replace(secret, "***") if secret else text
        return text

    def now(self) -> float:
        """The server's clock, in epoch seconds."""
        return time.time() + self.skew

    def url(self, path: str) -> str:
        """An absolute URL; refuses one that leaves the origin, for the proof would go with it.

        An API behind a proxy may not know that it is called by HTTPS: its links are followed by HTTPS.

        Raises:
            PermanentError: the URL (often a "next page") is on another origin.
        """
        full = path if "://" in path else f"{self.base}/{path.lstrip('/')}"
        if (
            path.startswith("/")
            and urlsplit(self.base).path
            and path.startswith(urlsplit(self.base).path + "/")
        ):
            full = f"{_origin(self.base)}{path}"  # a next URL is often given from the root
        if urlsplit(self.base).scheme == "https" and full.startswith("http://"):
            parts = urlsplit(full)
            if parts.hostname == urlsplit(self.base).hostname and parts.port in (None, 80):
                full = full.replace(f"http://{parts.netloc}", _origin(self.base), 1)
        if _origin(full) != _origin(self.base):
            raise PermanentError(
                f"{self.who} sends us to another host: {_origin(full)}",
                where=self.base,
                why="credentials are sent to the declared host only",
                next="Declare that host if it is the right one",
            )
        return full

    def link(self, url: str) -> str:
        """A link of the server's as it may be kept: within the origin, and without a key that the server repeats."""
        full = self.url(url)
        return self.auth.bare(full) if isinstance(self.auth, QueryKey) else full

    def call(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        json: Any = None,
        headers: dict[str, str] | None = None,
        cost: float | Callable[[], float] = 1.0,
        judge: Callable[[Answer], Any] | None = None,
    ) -> Any:
        """Send until it succeeds or patience ends; gives what `judge` makes of the answer (or the answer).

        Raises:
            PermanentError: refused: credentials, scope, a request that the server does not take.
            TransientError: patience ended; the server's last answer is in the message.
        """
        url = self.url(path)
        renewed = False

        def attempt() -> Any:
            nonlocal renewed
            points = cost() if callable(cost) else cost
            request = self._client.build_request(method, url, params=params, json=json, headers=headers)
            answer = self._send_within_limits(request, points)
            for _ in range(_REDIRECTS):
                elsewhere = answer.headers.get("location") if answer.status in _MOVED else None
                if method != "GET" or elsewhere is None:
                    break
                moved = self.url(str(request.url.join(elsewhere)))
                answer = self._send_within_limits(
                    self._client.build_request(method, moved, headers=headers), points
                )
            if answer.status == 401 and self.auth and not renewed:
                renewed = True
                if self.auth.renew(self.now()):
                    return attempt()
            self._refuse(answer)
            if judge:
                return judge(answer)
            answer.json()  # half an answer is asked for again here, where there is patience
            return answer

        return self._patiently(attempt)

    def download(self, url: str, to: Path) -> None:
        """Fetch a file beside the API (a signed URL, no proof sent), going on from the bytes that `to` has.

        Raises:
            TransientError: it did not arrive whole in the allotted tries.
            PermanentError: the URL is gone or refused.
        """

        def attempt() -> None:
            have = to.stat().st_size if to.exists() else 0
            headers = {"accept-encoding": "identity"} | ({"range": f"bytes={have}-"} if have else {})
            self.requests += 1
            where = f"GET {_plain(url)}"
            with (
                _connection_faults(where),
                self._client.stream("GET", url, headers=headers, follow_redirects=True) as response,
            ):
                if response.status_code == 416:
                    return  # nothing beyond what is here
                if response.status_code not in (200, 206):
                    response.read()
                    self._refuse(self._answer(response, response.content[:4096], where))
                with to.open("ab" if response.status_code == 206 else "wb") as file:
                    for chunk in response.iter_raw():  # as they come: a break keeps what has arrived
                        file.write(chunk)

        self._patiently(attempt)

    def upload(self, url: str, fields: dict[str, str], name: str, body: bytes) -> None:
        """Put a file beside the API (a form as it was prescribed, no proof sent).

        Raises:
            TransientError: it did not arrive in the allotted tries.
            PermanentError: the URL is gone or refuses.
        """

        def attempt() -> None:
            self.requests += 1
            where = f"POST {_plain(url)}"
            with _connection_faults(where):
                response = self._client.post(url, data=fields, files={"file": (name, body, "text/jsonl")})
            self._refuse(self._answer(response, response.content[:4096], where))

        self._patiently(attempt)

    def _patiently(self, attempt: Callable[[], Any]) -> Any:
        began, faults = time.monotonic(), 0

        def enough(state: tenacity.RetryCallState) -> bool:
            nonlocal faults
            error = state.outcome.exception() if state.outcome else None
            faults += not isinstance(error, Throttled)
            asked = (error.retry_after or 0.0) if isinstance(error, TransientError) else 0.0
            is_too_long = time.monotonic() - began + asked > self.patience.seconds
            if isinstance(error, FerryError) and is_too_long and asked > self.patience.longest_wait:
                raise as_permanent(
                    error,
                    what=f"{error.what}, and asks for a pause of {asked:,.0f} seconds",
                    next="Run again after that: what has arrived is kept, and reading goes on there",
                )
            return faults >= self.patience.attempts or time.monotonic() - began >= self.patience.seconds

        back_off = tenacity.wait_random_exponential(
            multiplier=self.patience.first_wait, max=self.patience.longest_wait
        )

        def pause(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.retry_after if isinstance(error, TransientError) else None
            # `Retry-After: 0`, or a moment that has passed, is no reason to ask without end.
            return asked or back_off(state)

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError), stop=enough, wait=pause, reraise=True
        )(attempt)

    def _send_within_limits(self, request: httpx.Request, points: float) -> Answer:
        with self.slots.hold() if self.slots else nullcontext():
            if self.bucket is None:
                return self._send(request)
            ticket = self.bucket.take(points)
            told: dict[str, float] = {}
            try:
                answer = self._send(request)
                told = self.feedback(answer) if self.feedback else {}
            finally:
                self.bucket.settle(ticket, **told)
        return answer

    def _send(self, request: httpx.Request) -> Answer:
        if self.auth:
            self.auth.sign(request, self.now())
        self.requests += 1
        where = f"{request.method} {_plain(str(request.url))}"
        with _connection_faults(where):
            response = self._client.send(request, stream=True)
            try:
                body = self._body(response, where)
            finally:
                response.close()
        self._learn_clock(response)
        return self._answer(response, body, where)

    def _answer(self, response: httpx.Response, body: bytes, where: str) -> Answer:
        excerpt = self.hide(body[: _EXCERPT * 4].decode("utf-8", "replace"))
        return Answer(
            response.status_code, response.headers, body, where, " ".join(excerpt.split())[:_EXCERPT]
        )

    def _body(self, response: httpx.Response, where: str) -> bytes:
        encoding = response.headers.get("content-encoding", "identity").lower().removeprefix("x-")
        if encoding not in ("identity", "gzip", ""):
            raise PermanentError(
                f"the answer is encoded as {encoding!r}, which was not asked for", where=where
            )
        unzip = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
        body = bytearray()
        for chunk in response.iter_raw():
            while chunk:
                # One byte over the limit is enough to know; a bomb is never unfolded further than that.
                room = self.max_answer + 1 - len(body)
                body += unzip.decompress(chunk, room) if unzip else chunk
                if len(body) > self.max_answer:
                    raise PermanentError(
                        f"the answer is larger than {self.max_answer:,} bytes"
                        + (" once decompressed" if unzip else ""),
                        where=where,
                        next="Ask for smaller pages, or raise max_answer_bytes if such answers are right",
                    )
                chunk = (unzip.unconsumed_tail or unzip.unused_data) if unzip else b""
                if unzip and unzip.eof and chunk.strip(b"\0"):
                    unzip = zlib.decompressobj(wbits=31)  # packed in several pieces, one after the other
                elif unzip and unzip.eof:
                    break
        if unzip and not unzip.eof and body:
            raise TransientError("the compressed answer ends in the middle", where=where)
        return bytes(body)

    def _learn_clock(self, response: httpx.Response) -> None:
        told = response.headers.get("date")
        if told:
            try:
                skew = parsedate_to_datetime(told).timestamp() - time.time()
            except (ValueError, TypeError):
                return
            # The header has whole seconds and the way takes time: less than this is no skew.
            self.skew = skew if abs(skew) > 5 else 0.0

    def _said(self, answer: Answer) -> str:
        """What a refusal says in words, or its first bytes."""
        try:
            told = simplejson.loads(answer.body) if self.words else None
        except ValueError:
            told = None
        for place in self.words:
            found: Any = told
            for step in place.split("."):
                found = found.get(step) if isinstance(found, dict) else None
            if isinstance(found, str) and found:
                return self.hide(found)[:_EXCERPT]
        return answer.excerpt

    def _refuse(self, answer: Answer) -> None:
        status = answer.status
        if status == 429 or (status >= 400 and self.throttled is not None and self.throttled(answer)):
            wait = _retry_after(answer, self.now())
            if self.bucket and wait:
                self.bucket.pause(min(wait, self.patience.seconds))
            raise Throttled(
                f"{self.who} throttles (HTTP {status})",
                where=answer.request,
                why=answer.excerpt,
                next="It is asked again after a pause; lower `rate` if another program shares the account",
                retry_after=wait,
            )
        if status < 300 or status == 304:
            return
        if status in _MOVED and "location" in answer.headers:
            raise Refused(
                status,
                f"{self.who} sends us elsewhere (HTTP {status})",
                where=answer.request,
                why=f"to {_plain(answer.headers['location'])}",
                next="Declare that URL if it is the right one",
            )
        what, why = f"{self.who} answers HTTP {status}", self._said(answer)
        if status >= 500 or status in (408, 425):
            raise TransientError(
                what, where=answer.request, why=why, retry_after=_retry_after(answer, self.now())
            )
        raise Refused(status, what, where=answer.request, why=why, next=_NEXT.get(status, _NEXT_ELSE))


_NEXT = {
    401: "Check the credentials of this connection: the source does not accept them",
    402: "The account is frozen or unpaid: ask its owner",
    403: "The credentials are known but lack a permission: grant the scope or role and try again",
    404: "Check the URL, the account and the API version of this connection",
    410: "Check the API version of this connection",
}
_NEXT_ELSE = "Compare the declaration with the vendor's reference; the request is not repeated as it is"


@contextmanager
def _connection_faults(where: str) -> Iterator[None]:
    try:
        yield
    except httpx.TimeoutException as error:
        raise TransientError(f"no answer in time ({type(error).__name__})", where=where) from error
    except httpx.LocalProtocolError as error:
        # Its own words show the header, and the header may be the secret.
        raise PermanentError(
            "the request cannot be sent as it is",
            where=where,
            why="a header has a character that none may have",
            next="Look for a line break or a space at the end of this connection's credentials",
        ) from error
    except httpx.TransportError as error:
        raise TransientError("the connection broke", where=where, why=str(error)) from error
    except zlib.error as error:
        raise TransientError("the compressed answer is damaged", where=where, why=str(error)) from error
    except httpx.InvalidURL as error:
        raise PermanentError("this is no URL", where=where, why=str(error)) from error


def _retry_after(answer: Answer, now: float) -> float | None:
    text = answer.headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError):
        return None


def _origin(url: str) -> str:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    port = "" if parts.port in (None, default) else f":{parts.port}"
    return f"{parts.scheme}://{parts.hostname}{port}"


def _plain(url: str) -> str:
    """The URL for messages: values of its query only where they can be no secret."""
    parts = urlsplit(url)
    shown = []
    for name, value in httpx.QueryParams(parts.query).multi_items():
        harmless = len(value) <= 40 and not any(
            s in name.lower() for s in ("key", "token", "secret", "sig", "pass")
        )
        shown.append(f"{name}={value}" if harmless else f"{name}=…")
    return f"{_origin(url)}{parts.path}" + (f"?{'&'.join(shown)}" if shown else "")


def moment(epoch: float) -> str:
    """An epoch second as ISO 8601 text in UTC."""
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def as_permanent(error: FerryError, **changes: str) -> PermanentError:
    """The same error, for a cause that no retry can change."""
    parts = {"where": error.where, "why": error.why, "next": error.next} | changes
    return PermanentError(parts.pop("what", error.what), **parts)
