"""An account that behaves like NetSuite's SuiteQL over REST, over a real socket.

    python tests/emulators/netsuite.py --port 8903 --key-file /tmp/key.pem

OAuth 2.0 with a signed assertion, and token-based OAuth 1.0a; pages of at most 1,000, offsets that are
multiples of the limit, 100,000 rows a query; values as text, nulls left out; a limit of calls at a time. An
order that is not total is shuffled anew for every page, as it may be there. `POST /_control` changes how it
behaves (see `Faults`), `GET /_control` tells what was asked of it.
"""
# http.server names the methods; the hash only shuffles rows.
# ruff: noqa: S324

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import re
import sqlite3
import threading
import time
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ACCOUNT, CLIENT, CERTIFICATE = "TSTDRV1234", "client-of-the-integration", "certificate-1"
TBA = {"consumer_key": "consumer-1", "consumer_secret": "consumer-secret", "token": "token-1",
       "token_secret": "token-secret"}  # fmt: skip
_SUITEQL, _TOKEN = "/services/rest/query/v1/suiteql", "/services/rest/auth/oauth2/v1/token"


@dataclass
class Faults:
    """How the account is told to misbehave; `POST /_control` with the names as JSON keys."""

    throttle_next: int = 0  # that many calls are over the limit
    throttle_as: int = 429  # its status; with 400 the body is a RESTlet's
    error_next: int = 0  # that many calls answer 500
    half_next: int = 0  # that many answers break off
    token_life: float = 3600
    forget_tokens: bool = False
    drop_row: int = 0  # every n-th row is left out of its page
    change_after: int = 0  # after so many pages a row changes
    appear_after: int = 0  # after so many pages a row appears
    skew: float = 0  # seconds that this server's clock is ahead
    latency: float = 0  # seconds that each query takes
    times: str = ""  # how times are written, whatever was asked for


class Account:
    """The tables, and what is known of the callers."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.lock = args, threading.Lock()
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.public = key.public_key()
        pem = serialization.PrivateFormat.PKCS8
        text = key.private_bytes(serialization.Encoding.PEM, pem, serialization.NoEncryption())
        if args.key_file:
            Path(args.key_file).write_bytes(text)
        self.reset()

    def reset(self) -> None:
        """As new."""
        self.faults, self.counts, self.pages = Faults(), {}, 0
        self.tokens: dict[str, float] = {}
        self.granted = self.refused = self.in_flight = self.most_in_flight = 0
        self.nonces: set[str] = set()
        self.db = _tables(self.args)
        self.db.create_function("TO_CHAR", 2, self._to_char)

    def now(self) -> float:
        """This server's clock."""
        return time.time() + self.faults.skew

    def _to_char(self, value: str | None, form: str) -> str | None:
        if value is None:
            return None
        names = {"YYYY": "%Y", "MM": "%m", "DD": "%d", "HH24": "%H", "MI": "%M", "SS": "%S"}
        asked = re.sub("|".join(names), lambda m: names[m[0]], form)
        return datetime.fromisoformat(value).strftime(self.faults.times or asked)

    def tell(self) -> dict[str, Any]:
        """What was asked of this server, for tests."""
        return {
            "requests": dict(self.counts), "total": sum(self.counts.values()), "pages": self.pages,
            "granted": self.granted, "refused": self.refused, "most_in_flight": self.most_in_flight,
            "rows": self.db.execute('SELECT count(*) FROM "transaction"').fetchone()[0],
        }  # fmt: skip


def _tables(args: argparse.Namespace) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", check_same_thread=False)
    db.create_function("TO_TIMESTAMP", 2, lambda text, _form: text)
    db.create_function("TO_DATE", 2, lambda text, _form: f"{text} 00:00:00")
    db.create_function("CHANCE", 2, lambda a, b: hashlib.md5(f"{a}/{b}".encode()).hexdigest())
    db.execute(
        'CREATE TABLE "transaction" (id INTEGER PRIMARY KEY, tranid TEXT, type TEXT, entity INTEGER, trandate TEXT,'
        " foreigntotal TEXT, memo TEXT, posting TEXT, lastmodifieddate TEXT)"
    )
    begin = datetime(2022, 1, 1, tzinfo=UTC)
    rows = []
    for n in range(args.rows):
        at = begin + timedelta(minutes=n // 7 * 7)  # seven rows to a minute: time alone is no total order
        number = 9_007_199_254_740_993 + n * 3
        rows.append((
            number, f"SO{n}", "SalesOrd", n % 97, f"{at:%Y-%m-%d 00:00:00}", f"{n}.{n % 100:02}",
            None if n % 3 else f"memo ü {n}", "T" if n % 2 else "F",
            None if n < args.undated else f"{at:%Y-%m-%d %H:%M:%S}",
        ))  # fmt: skip
    db.executemany('INSERT INTO "transaction" VALUES (?,?,?,?,?,?,?,?,?)', rows)
    return db


class Handler(BaseHTTPRequestHandler):
    """One connection to the account."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    account: Account

    def log_message(self, *args: Any) -> None:
        """Say nothing on the terminal."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The `Date` header, by this server's clock."""
        return formatdate(self.account.now() if timestamp is None else timestamp, usegmt=True)

    def do_GET(self) -> None:
        """Control only: SuiteQL is asked by POST."""
        if self.path == "/_control":
            return self._send(200, self.account.tell())
        return self._error(405, "METHOD_NOT_ALLOWED", "GET is not allowed")

    def do_POST(self) -> None:
        """Queries, tokens, control."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = urlsplit(self.path)
        if parts.path == "/_control":
            return self._control(json.loads(body or b"{}"))
        if parts.path == _TOKEN:
            return self._token(dict(parse_qsl(body.decode())))
        if parts.path != _SUITEQL:
            return self._error(404, "NOT_FOUND", "no such resource")
        account = self.account
        with account.lock:
            account.counts["suiteql"] = account.counts.get("suiteql", 0) + 1
            account.in_flight += 1
            account.most_in_flight = max(account.most_in_flight, account.in_flight)
            over = account.in_flight > account.args.concurrency
        time.sleep(account.faults.latency)
        with account.lock:  # before the answer leaves: who has it may send the next call at once
            account.in_flight -= 1
        if self._faulted(over=over):
            return None
        refusal = self._unauthorized(parts)
        if refusal:
            return self._error(401, "INVALID_LOGIN", refusal)
        if self.headers.get("Prefer") != "transient":
            return self._error(
                400, "INVALID_HEADER", "The required request header 'Prefer' is missing or invalid"
            )
        return self._suiteql(json.loads(body)["q"], dict(parse_qsl(parts.query)))

    def _suiteql(self, sql: str, given: dict[str, str]) -> None:
        account = self.account
        limit, offset = int(given.get("limit", 1000)), int(given.get("offset", 0))
        if not 0 < limit <= 1000:
            return self._error(400, "INVALID_PARAMETER", "limit must be between 1 and 1000")
        if offset % limit:
            return self._error(400, "INVALID_PARAMETER", "offset must be divisible by limit")
        if offset >= account.args.cap:
            return self._error(
                400, "INVALID_PARAMETER", f"at most {account.args.cap} rows can be had of one query"
            )
        sql = re.sub(r"\btransaction\b", '"transaction"', sql)
        with account.lock:
            account.pages += 1
            faults = account.faults
            if account.pages in (faults.change_after, faults.appear_after):
                self._move()
            # What the order leaves open is in another order each time.
            shaken = f"{sql}, CHANCE(id, {account.pages})" if re.search(r"\bORDER BY\b", sql) else (
                sql if "COUNT(" in sql else f"{sql} ORDER BY CHANCE(id, {account.pages})"
            )  # fmt: skip
            try:
                found = account.db.execute(f"SELECT count(*) FROM ({sql})").fetchone()[0]
                cursor = account.db.execute(f"{shaken} LIMIT {limit} OFFSET {offset}")
            except sqlite3.Error as error:
                return self._error(
                    400, "USER_ERROR", f"Invalid search query. Detailed unprocessed description: {error}"
                )
            names = [d[0].lower() for d in cursor.description]
            rows = cursor.fetchall()
        items = [
            {"links": [], **{n: str(v) for n, v in zip(names, row, strict=True) if v is not None}}
            for row in rows
        ]
        if faults.drop_row and len(items) > 1:
            items = [i for at, i in enumerate(items, 1) if at % faults.drop_row]
        found = min(found, account.args.cap)
        return self._send(200, {
            "links": [], "count": len(items), "hasMore": offset + limit < found, "items": items, "offset": offset,
            "totalResults": found,
        })  # fmt: skip

    def _move(self) -> None:
        account, db = self.account, self.account.db
        now = datetime.fromtimestamp(account.now(), UTC).strftime("%Y-%m-%d %H:%M:%S")
        if account.pages == account.faults.change_after:
            change = 'UPDATE "transaction" SET memo = ?, lastmodifieddate = ? WHERE tranid = ?'
            db.execute(change, ("changed", now, "SO1"))
        if account.pages == account.faults.appear_after:
            row = (7, "SO-late", "SalesOrd", 1, "2022-01-01 00:00:00", "1.00", None, "T", now)
            db.execute('INSERT INTO "transaction" VALUES (?,?,?,?,?,?,?,?,?)', row)

    def _faulted(self, *, over: bool) -> bool:
        account = self.account
        with account.lock:
            faults, due = account.faults, ""
            for name in ("throttle_next", "error_next", "half_next"):
                if getattr(faults, name):
                    due = name
                    setattr(faults, name, getattr(faults, name) - 1)
                    break
            if over and not due:
                due = "throttle_next"
                account.refused += 1
        if due == "throttle_next" and faults.throttle_as == 400:
            message = "Request limit exceeded."
            self._send(400, {"error": {"code": "SSS_REQUEST_LIMIT_EXCEEDED", "message": message}})
        elif due == "throttle_next":
            self._error(
                429, "CONCURRENCY_LIMIT_EXCEEDED", "Concurrent request limit exceeded. Request blocked."
            )
        elif due == "error_next":
            self._error(500, "UNEXPECTED_ERROR", "An unexpected error occurred.")
        elif due == "half_next":
            self.send_response(200)
            self.send_header("Content-Length", "9999")
            self.end_headers()
            self.wfile.write(b'{"links": [], "count": 1000, "items": [{"id": "1')
            self.close_connection = True
        return bool(due)

    def _unauthorized(self, parts: Any) -> str:
        account, header = self.account, self.headers.get("Authorization", "")
        if header.startswith("Bearer "):
            with account.lock:
                if account.faults.forget_tokens:
                    account.tokens, account.faults.forget_tokens = {}, False
            until = account.tokens.get(header.removeprefix("Bearer "))
            return "" if until and until > time.monotonic() else "Invalid login attempt."
        told = {k: unquote(v) for k, v in re.findall(r'(\w+)="([^"]*)"', header)}
        if told.get("realm") != ACCOUNT:
            return "realm"
        if told.get("oauth_signature_method") != "HMAC-SHA256":
            return "signature method"
        if abs(int(told.get("oauth_timestamp", 0)) - account.now()) > 300:
            return "timestamp"
        with account.lock:
            if told["oauth_nonce"] in account.nonces:
                return "nonce"
            account.nonces.add(told["oauth_nonce"])
        signature, _ = told.pop("oauth_signature"), told.pop("realm")
        pairs = sorted((quote(k, "~"), quote(v, "~")) for k, v in [*told.items(), *parse_qsl(parts.query)])
        joined = quote("&".join(f"{k}={v}" for k, v in pairs), "~")
        url = quote(f"http://{self.headers['Host']}{parts.path}", "~")
        key = f"{TBA['consumer_secret']}&{TBA['token_secret']}"
        made = hmac.new(key.encode(), f"POST&{url}&{joined}".encode(), hashlib.sha256).digest()
        return "" if base64.b64encode(made).decode() == signature else "signature"

    def _token(self, form: dict[str, str]) -> None:
        account = self.account
        try:
            assertion = form["client_assertion"]
            kid = jwt.get_unverified_header(assertion)["kid"]
            claims = jwt.decode(
                assertion, account.public, ["PS256"], audience=f"http://{self.headers['Host']}{_TOKEN}",
                options={"verify_exp": False, "verify_iat": False},
            )  # fmt: skip
            right = (
                kid == CERTIFICATE and claims["iss"] == CLIENT and 0 < claims["exp"] - claims["iat"] < 3600
                and "rest_webservices" in claims["scope"] and abs(claims["iat"] - account.now()) < 300
                and form["grant_type"] == "client_credentials"
            )  # fmt: skip
        except (KeyError, jwt.PyJWTError):
            right = False
        if not right:
            return self._send(400, {"error": "invalid_request"})
        with account.lock:
            account.granted += 1
            token = f"token-{account.granted}-{time.monotonic_ns()}"
            account.tokens[token] = time.monotonic() + account.faults.token_life
        life = account.faults.token_life
        return self._send(200, {"access_token": token, "expires_in": str(int(life)), "token_type": "bearer"})

    def _control(self, wanted: dict[str, Any]) -> None:
        account = self.account
        with account.lock:
            if wanted.pop("reset", False):
                account.reset()
            known = {f.name for f in fields(Faults)}
            for name, value in wanted.items():
                if name not in known:
                    return self._send(400, {"error": f"no fault {name}"})
                setattr(account.faults, name, value)
        return self._send(200, account.tell())

    def _error(self, status: int, code: str, detail: str) -> None:
        return self._send(status, {
            "type": "https://www.w3.org/Protocols/rfc2616/rfc2616-sec10.html", "title": "error", "status": status,
            "o:errorDetails": [{"detail": detail, "o:errorCode": code}],
        })  # fmt: skip

    def _send(self, status: int, answer: Any) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.oracle.resource+json; type=collection")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve(argv: list[str] | None = None) -> ThreadingHTTPServer:
    """A server, bound and ready; call `serve_forever`. With `--port 0` the system chooses one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8903)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--undated", type=int, default=0, help="rows that have no time of their last change")
    parser.add_argument("--cap", type=int, default=100_000, help="rows that one query hands out")
    parser.add_argument("--concurrency", type=int, default=5, help="calls at a time that the account allows")
    parser.add_argument("--key-file", default="", help="where to write the private key that it accepts")
    args = parser.parse_args(argv)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    return Server((args.host, args.port), type("AccountHandler", (Handler,), {"account": Account(args)}))


if __name__ == "__main__":
    server = serve()
    print(f"listening on http://{server.server_address[0]}:{server.server_address[1]}", flush=True)
    server.serve_forever()
