"""A CRM with a REST API that rows are sent to, over a real socket; it loses answers when told to.

    python tests/emulators/crm.py --port 8921

Resources come into being by being written: `POST /v1/<resource>`, `PATCH`, `GET` and `DELETE /v1/<resource>/<id>`,
`GET /v1/<resource>?external_id=…`, `POST /v1/<resource>/batch`. With an `Idempotency-Key` a repetition gets the first
answer again, and the same key with another body is refused. A body's `email` has to be unique and to have an `@`; a
reference (`…_id`) has to exist. `POST /_control` changes how it behaves (see `Faults`), `GET /_control` tells what it
holds.
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from dataclasses import dataclass, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

TOKEN = "crm-token-1"


@dataclass
class Faults:
    """How the CRM is told to misbehave; `POST /_control` with the names as JSON keys."""

    lose_answers: float = 0  # share of writes that take effect and are never answered
    lose_requests: float = 0  # share of writes that are dropped before they take effect
    throttle_next: int = 0  # that many calls answer 429
    error_next: int = 0  # that many calls answer 500
    any_address: bool = False  # whether an address may be without an @
    latency: float = 0  # seconds that each write takes
    per_second: float = (
        0  # writes a second that are allowed; more are counted in `over` and answered with 429
    )


class Crm:
    """What it holds."""

    def __init__(self, seed: int) -> None:
        self.faults, self.lock, self.chance = Faults(), threading.RLock(), random.Random(seed)
        self.rows: dict[str, dict[str, dict[str, Any]]] = {}
        self.answers: dict[str, tuple[str, int, Any]] = {}
        self.counts: dict[str, int] = {}
        self.numbers, self.lost, self.repeated, self.over = 1000, 0, 0, 0
        self.level, self.filled = 0.0, time.monotonic()

    def tell(self) -> dict[str, Any]:
        """What it holds and what was asked of it."""
        return {"rows": self.rows, "requests": self.counts, "lost": self.lost, "repeated": self.repeated,
                "over": self.over}  # fmt: skip

    def within_rate(self) -> bool:
        """Whether one more write is allowed now."""
        if not self.faults.per_second:
            return True
        now = time.monotonic()
        most = max(1.0, self.faults.per_second / 2)
        self.level = min(most, self.level + (now - self.filled) * self.faults.per_second)
        self.filled = now
        if self.level < 1:
            self.over += 1
            return False
        self.level -= 1
        return True

    def create(self, resource: str, body: dict[str, Any]) -> tuple[int, Any]:
        """A new row, or what is wrong with it."""
        problem = self.wrong(resource, body, None)
        if problem:
            return 422, {"error": problem}
        self.numbers += 1
        row = {**body, "id": self.numbers}
        self.rows.setdefault(resource, {})[str(self.numbers)] = row
        return 201, row

    def wrong(self, resource: str, body: dict[str, Any], own: str | None) -> str:
        """What is wrong with a body; '' if nothing is."""
        email = body.get("email")
        if email is not None and "@" not in email and not self.faults.any_address:
            return f"email: {email!r} is no address"
        others = (row for key, row in self.rows.get(resource, {}).items() if key != own)
        if email is not None and any(row.get("email") == email for row in others):
            return f"email: {email!r} is taken"
        known = {key for rows in self.rows.values() for key in rows}
        for name, value in body.items():
            if (
                name.endswith("_id")
                and name != "external_id"
                and value is not None
                and str(value) not in known
            ):
                return f"{name}: there is no {value!r}"
        return ""


class Handler(BaseHTTPRequestHandler):
    """One connection to the CRM."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    crm: Crm

    def log_message(self, *args: Any) -> None:
        """Say nothing on the terminal."""

    def do_GET(self) -> None:
        """Read."""
        self._answer("GET")

    def do_POST(self) -> None:
        """Create, or control."""
        self._answer("POST")

    def do_PATCH(self) -> None:
        """Change."""
        self._answer("PATCH")

    def do_DELETE(self) -> None:
        """Remove."""
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        crm = self.crm
        size = int(self.headers.get("content-length", 0))
        raw = self.rfile.read(size)
        if len(raw) < size:  # whoever sent it died in the middle
            return self._drop()
        body = json.loads(raw or b"{}")
        parts = urlsplit(self.path)
        if parts.path == "/_control":
            if method == "POST":
                known = {f.name for f in fields(Faults)}
                assert set(body) <= known, body
                for name, value in body.items():
                    setattr(crm.faults, name, value)
            with crm.lock:
                return self._send(200, crm.tell())
        writes = method != "GET"
        if writes and crm.faults.latency:
            time.sleep(crm.faults.latency)
        with crm.lock:
            key = f"{method} {parts.path.rstrip('0123456789')}"
            crm.counts[key] = crm.counts.get(key, 0) + 1
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self._send(401, {"error": "unknown token"})
            for name, status in (("throttle_next", 429), ("error_next", 500)):
                if getattr(crm.faults, name):
                    setattr(crm.faults, name, getattr(crm.faults, name) - 1)
                    return self._send(status, {"error": "later"}, {"Retry-After": "0"})
            if writes and not crm.within_rate():
                return self._send(429, {"error": "too fast"}, {"Retry-After": "0.1"})
            if writes and crm.chance.random() < crm.faults.lose_requests:
                return self._drop()
            status, answer = self._once(method, parts.path, dict(parse_qsl(parts.query)), body)
            if writes and crm.chance.random() < crm.faults.lose_answers:
                return self._drop()
        return self._send(status, answer)

    def _once(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        crm, key = self.crm, self.headers.get("Idempotency-Key")
        if method != "POST" or not key:
            return self._route(method, path, query, body)
        text = json.dumps(body, sort_keys=True)
        if key in crm.answers:
            before, status, answer = crm.answers[key]
            crm.repeated += 1
            if before != text:
                return 409, {"error": "this key was used for another request"}
            return status, answer
        status, answer = self._route(method, path, query, body)
        crm.answers[key] = (text, status, answer)
        return status, answer

    def _route(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        crm = self.crm
        steps = path.strip("/").split("/")[1:]
        rows = crm.rows.setdefault(steps[0], {})
        match method, steps[1:]:
            case "POST", []:
                return crm.create(steps[0], body)
            case "POST", ["batch"]:
                return 200, {"results": [crm.create(steps[0], one)[1] for one in body["items"]]}
            case "GET", []:
                return 200, {
                    "data": [r for r in rows.values() if all(str(r.get(k)) == v for k, v in query.items())]
                }
            case _, [key] if key not in rows:
                return 404, {"error": f"there is no {key}"}
            case "GET", [key]:
                return 200, rows[key]
            case "PATCH", [key]:
                problem = crm.wrong(steps[0], body, key)
                if problem:
                    return 422, {"error": problem}
                rows[key] |= body
                return 200, rows[key]
            case "DELETE", [key]:
                del rows[key]
                return 200, {}
            case _:
                return 404, {"error": "no such resource"}

    def _drop(self) -> None:
        self.crm.lost += 1
        self.close_connection = True

    def _send(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """The CRM's server."""

    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An emulated CRM.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8921)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    server = Server((given.host, given.port), type("CrmHandler", (Handler,), {"crm": Crm(given.seed)}))
    print(f"listening on http://{server.server_address[0]}:{server.server_address[1]}", flush=True)
    server.serve_forever()
