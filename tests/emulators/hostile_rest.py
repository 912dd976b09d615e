"""A REST API of the kind that one meets: every way of paging and of asking who calls, and every way to fail.

    python tests/emulators/hostile_rest.py --port 8902 --items 2000

`GET /items/<paging>` with paging one of link, next_url, cursor, offset, number, keyset, single, each guarded
as `--auth` (or the path `/as/<auth>/items/…`) says; `sort=-updated_at` brings what changed last first, and `single` has
an `ETag`. `GET /count` counts. `POST /token` is the token server.
`POST /_control` changes how it behaves (see `Faults`), `GET /_control` tells what was asked of it.
"""
# The tables of rows and of faults are wide; http.server names the methods.
# ruff: noqa: E501

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import hmac
import json
import re
import threading
import time
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import simplejson

SECRETS = {
    "bearer": "token-of-the-bearer", "user": "reader", "password": "pass-word", "key": "key-of-the-caller",
    "client": "client-1", "secret": "client-secret", "refresh": "refresh-0", "consumer": "consumer-1",
    "consumer_secret": "consumer-secret", "token": "token-1", "token_secret": "token-secret",
}  # fmt: skip


@dataclass
class Faults:
    """How the API is told to misbehave; `POST /_control` with the names as JSON keys."""

    throttle_next: int = 0  # that many calls answer 429
    throttle_as: int = 429  # the status of throttling; with 400 the body says SSS_REQUEST_LIMIT_EXCEEDED
    retry_after: str = "0.1"  # the header: seconds, or `date`
    error_next: int = 0  # that many calls answer 500
    error_every: int = 0
    half_next: int = 0  # that many answers break off, against their Content-Length
    half_json_next: int = 0  # that many answers are half, and look whole to HTTP
    hang_next: float = 0  # the next call waits so long
    token_life: float = 3600  # seconds that tokens live
    forget_tokens: bool = False  # all tokens given so far are refused from now on
    rotate_refresh: bool = False  # each refresh gives a new refresh token, and the old one is dead
    short_page: int = 0  # that page (from 1) has half of its rows, the rest never comes
    skip_page: int = 0  # that page is left out
    repeat_page: int = 0  # that page is the one before once more
    repeat_reversed: bool = False  # and its rows in the opposite order
    endless: bool = False  # there is always a next page, with new rows
    endless_empty: bool = False  # there is always a next page, with no rows
    repeat_cursor_after: int = 0  # after so many pages the cursor goes back to the first
    cursors: int = 0  # cursors that were given under another number have expired
    rename_after: int = 0  # after so many pages `email` is called `mail`
    add_after: int = 0  # after so many pages rows have a new field
    end_as: str = (
        ""  # what a page without rows is: `204`, `404`, `null`; or `false`: the last page's next is that
    )
    moved: str = ""  # pages are found where this says: a prefix of their path
    shift_after: int = 0  # after so many pages a row is put before all others: offsets shift
    bomb: bool = False  # the next answer unfolds to 100 MB
    long_line: int = 0  # the next answer has so many bytes in one value
    other_host: bool = False  # the next page is said to be on another host
    error_with_200: bool = False  # answers are {"error": …} with HTTP 200
    not_json: str = ""  # answers are this text
    skew: float = 0  # seconds that this server's clock is ahead
    latency: float = 0  # seconds that each answer takes


class Api:
    """The rows, and what is known of the callers."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.lock, self.faults = args, threading.Lock(), Faults()
        self.items = make_items(args.items)
        self.reset()

    def reset(self) -> None:
        """As new."""
        self.faults, self.counts, self.pages, self.started = Faults(), {}, 0, time.monotonic()
        self.tokens: dict[str, float] = {}
        self.refresh, self.granted = SECRETS["refresh"], 0
        self.nonces: set[str] = set()
        self.level, self.at, self.allowed, self.refused = float(self.args.burst), time.monotonic(), 0, 0
        self.items = make_items(self.args.items)
        self.in_flight = self.most_in_flight = 0
        self.asked: list[str] = []
        self.first_at = self.last_at = 0.0

    def now(self) -> float:
        """This server's clock."""
        return time.time() + self.faults.skew

    def spend(self) -> bool:
        """One call of the token bucket."""
        if not self.args.rate:
            return True
        now = time.monotonic()
        self.level, self.at = min(self.args.burst, self.level + (now - self.at) * self.args.rate), now
        if self.level < 1:
            self.refused += 1
            return False
        self.level -= 1
        self.allowed += 1
        self.first_at, self.last_at = self.first_at or now, now
        return True

    def tell(self) -> dict[str, Any]:
        """What was asked of this server, for tests."""
        return {
            "requests": dict(self.counts), "total": sum(self.counts.values()), "pages": self.pages,
            "allowed": self.allowed, "busy": self.last_at - self.first_at, "refused": self.refused, "granted": self.granted, "items": len(self.items),
            "most_in_flight": self.most_in_flight, "asked": self.asked[-50:],
        }  # fmt: skip


def make_items(count: int) -> list[dict[str, Any]]:
    """Rows with ids beyond 2**53, exact amounts, nulls, nested lists and times in three ways."""
    begin, items = datetime(2023, 1, 1, tzinfo=UTC), []
    for n in range(count):
        at = begin + timedelta(minutes=7 * n)
        items.append({
            "id": 9_007_199_254_740_993 + n, "name": f"item {n}", "email": None if n % 11 == 0 else f"i{n}@example.com",
            "amount": Decimal(f"{n % 977}.{n % 100:02}"), "active": n % 2 == 0, "created_at": f"{at:%Y-%m-%dT%H:%M:%SZ}",
            "updated_at": f"{at + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}", "made": int(at.timestamp()),
            "owner": {"id": n % 13, "name": "Ünï"}, "lines": [{"no": k + 1, "sku": f"S{k}"} for k in range(n % 3)],
        })  # fmt: skip
    return items


class Handler(BaseHTTPRequestHandler):
    """One connection to the API."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    api: Api

    def log_message(self, *args: Any) -> None:
        """Say nothing on the terminal."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The `Date` header, by this server's clock."""
        return formatdate(self.api.now() if timestamp is None else timestamp, usegmt=True)

    def do_POST(self) -> None:
        """Tokens and control."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/_control":
            return self._control(json.loads(body or b"{}"))
        if self.path == "/token":
            return self._token(dict(parse_qsl(body.decode())))
        return self._send(404, {"error": "not found"})

    def do_GET(self) -> None:
        """Rows, counts, control."""
        if self.path == "/_control":
            return self._send(200, self.api.tell(), plain=True)
        api = self.api
        with api.lock:
            api.in_flight += 1
            api.most_in_flight = max(api.most_in_flight, api.in_flight)
            api.asked.append(self.path)
        if api.faults.latency:
            time.sleep(api.faults.latency)
        with api.lock:  # before the answer leaves: who has it may send the next call at once
            api.in_flight -= 1
        return self._serve()

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        given = dict(parse_qsl(parts.query))
        path, auth = parts.path, self.api.args.auth
        moved = self.api.faults.moved
        if moved and path.startswith("/items/"):
            return self._send(308, None, {"Location": f"{moved}{self.path}"})
        path = path.removeprefix("/v2")
        found = re.fullmatch(r"/as/(\w+)(/.*)", path)
        if found:
            auth, path = found[1], found[2]
        if self._faulted("count" if path == "/count" else "page"):
            return None
        refusal = self._unauthorized(auth, parts, given)
        if refusal:
            return self._send(401, {"error": refusal})
        with self.api.lock:
            allowed = self.api.spend()
            left = int(self.api.level)
        headers = {
            "X-RateLimit-Remaining": str(left),
            "X-Calls": f"{self.api.args.burst - left}/{self.api.args.burst}",
        }
        if not allowed:
            return self._send(429, {"error": "too many requests"}, headers | {"Retry-After": "1"})
        rows = self._chosen(given)
        if path == "/count":
            return self._send(200, {"data": {"count": len(rows)}}, headers)
        if path == "/me":
            return self._send(200, {"data": []}, headers)
        way = path.removeprefix("/items/")
        with self.api.lock:
            self.api.pages += 1
        return self._page(way, rows, given, parts, headers)

    def _chosen(self, given: dict[str, str]) -> list[dict[str, Any]]:
        rows = self.api.items
        for name, field in (("created", "created_at"), ("updated", "updated_at")):
            low, high, last = given.get(f"{name}_min"), given.get(f"{name}_before"), given.get(f"{name}_max")
            if low:
                rows = [r for r in rows if r[field] >= low]
            if high:
                rows = [r for r in rows if r[field] < high]
            if last:
                rows = [r for r in rows if r[field] <= last]
        return (
            sorted(rows, key=lambda r: r["updated_at"], reverse=True)
            if given.get("sort") == "-updated_at"
            else rows
        )

    def _page(
        self, way: str, rows: list[dict[str, Any]], given: dict[str, str], parts: Any, headers: dict[str, str]
    ) -> None:
        api, faults = self.api, self.api.faults
        size = min(int(given.get("limit", 50)), 200)
        if way == "keyset":
            after = int(given.get("since_id", 0))
            rows = sorted((r for r in rows if r["id"] > after), key=lambda r: r["id"])
            at = 0
        elif way == "number":
            at = (int(given.get("page", 1)) - 1) * size
        elif way == "offset":
            at = int(given.get("offset", 0))
        elif way in ("cursor", "link", "next_url"):
            told = base64.urlsafe_b64decode(given.get("cursor", "")).decode()
            if told and int(told.partition(".")[2]) != faults.cursors:
                return self._send(400, {"error": "the cursor has expired"}, headers)
            at = int(told.partition(".")[0] or 0)
        elif way == "single":
            at, size = 0, len(rows)
            headers["ETag"] = tag = f'"{hashlib.sha256(repr(rows).encode()).hexdigest()}"'
            if self.headers.get("If-None-Match") == tag:
                return self._send(304, None, headers)
        else:
            return self._send(404, {"error": "not found"})
        number = at // size + 1 if size else 1
        page, after = rows[at : at + size], at + size
        if faults.short_page == number:
            page = page[: len(page) // 2]
        if faults.skip_page == number:
            page, after = rows[at + size : at + 2 * size], at + 2 * size
        if faults.repeat_page == number and at >= size:
            page = rows[at - size : at]
            page = page[::-1] if faults.repeat_reversed else page
        more = after < len(rows)
        if faults.endless and not more:
            page = page or [dict(rows[-1], id=rows[-1]["id"] + at + k) for k in range(size)]
            more = True
        if faults.endless_empty:
            more = True
        if faults.repeat_cursor_after and number >= faults.repeat_cursor_after:
            after, more = 0, True
        if faults.shift_after and api.pages == faults.shift_after:
            stamp = datetime.fromtimestamp(api.now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            api.items = [dict(api.items[0], id=5, updated_at=stamp, name="late"), *api.items]
        page = [dict(r) for r in page]
        if faults.rename_after and number > faults.rename_after:
            page = [{("mail" if k == "email" else k): v for k, v in r.items()} for r in page]
        if faults.add_after and number > faults.add_after:
            page = [r | {"surprise": 1} for r in page]
        answer: dict[str, Any] = {
            "data": {"items": page},
            "meta": {"total": len(rows), "more": more, "next": None},
        }
        if more and way in ("cursor", "link", "next_url"):
            token = base64.urlsafe_b64encode(f"{after}.{faults.cursors}".encode()).decode()
            answer["meta"]["next"] = token
            query = urlencode({k: v for k, v in given.items() if k != "cursor"} | {"cursor": token})
            host = "http://127.0.0.1:9" if faults.other_host else f"http://{self.headers['Host']}"
            if way == "link":
                headers["Link"] = (
                    f'<{host}{parts.path}?{query}>; rel="next", <{host}{parts.path}>; rel="first"'
                )
                answer["meta"]["next"] = None
            if way == "next_url":
                answer["meta"]["next"] = f"{host if faults.other_host else ''}{parts.path}?{query}"
        headers["X-Total-Count"] = str(len(rows))
        if faults.end_as in ("204", "404") and not page:
            return self._send(int(faults.end_as), None, headers)
        if faults.end_as == "null" and not page:
            answer["data"]["items"] = None
        if faults.end_as == "false":
            answer["meta"] |= {"next": answer["meta"]["next"] or False, "more": str(more).lower()}
        return self._send(200, answer, headers)

    def _faulted(self, kind: str) -> bool:
        api = self.api
        with api.lock:
            api.counts[kind] = api.counts.get(kind, 0) + 1
            faults, due = api.faults, ""
            for name in (
                "hang_next",
                "throttle_next",
                "error_next",
                "half_next",
                "half_json_next",
                "long_line",
                "bomb",
            ):
                if getattr(faults, name):
                    due, value = name, getattr(faults, name)
                    once = name in ("hang_next", "long_line", "bomb")
                    setattr(faults, name, type(value)() if once else value - 1)
                    break
            else:
                if faults.error_every and sum(api.counts.values()) % faults.error_every == 0:
                    due = "error_next"
        if due == "hang_next":
            time.sleep(value)
            self.close_connection = True
        elif due == "throttle_next":
            wait = (
                formatdate(api.now() + 1, usegmt=True) if faults.retry_after == "date" else faults.retry_after
            )
            word = "SSS_REQUEST_LIMIT_EXCEEDED" if faults.throttle_as == 400 else "too many requests"
            self._send(faults.throttle_as, {"error": {"code": word}}, {"Retry-After": wait} if wait else {})
        elif due == "error_next":
            self._send(500, {"error": "internal"})
        elif due in ("half_next", "half_json_next"):
            body = b'{"data": {"items": [{"id": 1, "na'
            self._raw(body, len(body) * (10 if due == "half_next" else 1))
            self.close_connection = due == "half_next"
        elif due == "long_line":
            self._raw(b'{"data": {"items": [{"name": "', value, more=value)
        elif due == "bomb":
            self._raw(
                gzip.compress(b'{"data": "' + b"0" * 100_000_000, 1), None, {"Content-Encoding": "gzip"}
            )
        elif faults.error_with_200:
            due = "error_with_200"
            self._send(200, {"error": {"code": "E17", "message": f"no {SECRETS['bearer']} today"}})
        elif faults.not_json:
            due = "not_json"
            self._raw(faults.not_json.encode("latin-1"), None)
        return bool(due)

    def _unauthorized(self, auth: str, parts: Any, given: dict[str, str]) -> str:
        header = self.headers.get("Authorization", "")
        basic = base64.b64encode(f"{SECRETS['user']}:{SECRETS['password']}".encode()).decode()
        api = self.api
        if auth in ("oauth2", "refresh"):
            if api.faults.forget_tokens:
                with api.lock:
                    api.tokens, api.faults.forget_tokens = {}, False
            until = api.tokens.get(header.removeprefix("Bearer "))
            return "" if until and until > time.monotonic() else "the token is unknown or expired"
        if auth == "oauth1":
            return self._oauth1(header, parts)
        right = {
            "none": True, "bearer": header == f"Bearer {SECRETS['bearer']}", "basic": header == f"Basic {basic}",
            "key_header": self.headers.get("X-Api-Key") == SECRETS["key"], "key_query": given.get("key") == SECRETS["key"],
        }[auth]  # fmt: skip
        return "" if right else f"wrong credentials ({header})"

    def _oauth1(self, header: str, parts: Any) -> str:
        told = {k: unquote(v) for k, v in re.findall(r'(\w+)="([^"]*)"', header)}
        if abs(int(told.get("oauth_timestamp", 0)) - self.api.now()) > 300:
            return "timestamp_refused"
        if told["oauth_nonce"] in self.api.nonces:
            return "nonce_used"
        self.api.nonces.add(told["oauth_nonce"])
        signature, _ = told.pop("oauth_signature"), told.pop("realm", None)
        pairs = sorted((quote(k, "~"), quote(v, "~")) for k, v in [*told.items(), *parse_qsl(parts.query)])
        joined = quote("&".join(f"{k}={v}" for k, v in pairs), "~")
        url = quote(f"http://{self.headers['Host']}{parts.path}", "~")
        key = f"{SECRETS['consumer_secret']}&{SECRETS['token_secret']}"
        made = hmac.new(key.encode(), f"{self.command}&{url}&{joined}".encode(), hashlib.sha256).digest()
        return "" if base64.b64encode(made).decode() == signature else "signature_invalid"

    def _token(self, form: dict[str, str]) -> None:
        api = self.api
        if (form.get("client_id"), form.get("client_secret")) != (SECRETS["client"], SECRETS["secret"]):
            said = f"unknown client {form.get('client_secret')}"
            return self._send(401, {"error": "invalid_client", "error_description": said})
        with api.lock:
            if form["grant_type"] == "refresh_token":
                if form.get("refresh_token") != api.refresh:
                    return self._send(400, {"error": "invalid_grant"})
                if api.faults.rotate_refresh:
                    api.refresh = f"refresh-{api.granted + 1}"
            api.granted += 1
            token = f"access-{api.granted}-{time.monotonic_ns()}"
            api.tokens[token] = time.monotonic() + api.faults.token_life
        answer = {"access_token": token, "token_type": "bearer", "expires_in": api.faults.token_life}
        if form["grant_type"] == "refresh_token" and api.faults.rotate_refresh:
            answer["refresh_token"] = api.refresh
        return self._send(200, answer, plain=True)

    def _control(self, wanted: dict[str, Any]) -> None:
        with self.api.lock:
            if wanted.pop("reset", False):
                self.api.reset()
            if wanted.pop("drain", False):
                self.api.level, self.api.at = 0.0, time.monotonic()
            gone = wanted.pop("remove", [])
            self.api.items = [item for item in self.api.items if item["id"] not in gone]
            known = {f.name for f in fields(Faults)}
            for name, value in wanted.items():
                if name not in known:
                    return self._send(400, {"error": f"no fault {name}"}, plain=True)
                setattr(self.api.faults, name, value)
        return self._send(200, self.api.tell(), plain=True)

    def _raw(
        self, body: bytes, length: int | None, headers: dict[str, str] | None = None, *, more: int = 0
    ) -> None:
        """Bytes as they are; `more` of one sign after them, made as they are sent."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
            for _ in range(more // 2**20):
                self.wfile.write(b"x" * 2**20)
        except OSError:
            self.close_connection = True

    def _send(
        self, status: int, answer: Any, headers: dict[str, str] | None = None, *, plain: bool = False
    ) -> None:
        body = b"" if answer is None else simplejson.dumps(answer, ensure_ascii=False).encode()
        headers = dict(headers or {})
        if not plain and "gzip" in self.headers.get("accept-encoding", "") and len(body) > 500:
            body, headers["Content-Encoding"] = gzip.compress(body, 1), "gzip"
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def serve(argv: list[str] | None = None) -> ThreadingHTTPServer:
    """A server, bound and ready; call `serve_forever`. With `--port 0` the system chooses one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8902)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument(
        "--auth", default="none", help="none, bearer, basic, key_header, key_query, oauth2, oauth1"
    )
    parser.add_argument("--rate", type=float, default=0, help="calls a second that it allows; 0 for no limit")
    parser.add_argument("--burst", type=int, default=10, help="calls that it allows at once")
    args = parser.parse_args(argv)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    return Server((args.host, args.port), type("ApiHandler", (Handler,), {"api": Api(args)}))


if __name__ == "__main__":
    server = serve()
    print(f"listening on http://{server.server_address[0]}:{server.server_address[1]}", flush=True)
    server.serve_forever()
