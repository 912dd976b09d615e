"""A shop that behaves like Shopify's Admin API, over a real socket.

    python tests/emulators/shopify.py --port 8901 --orders 3000

GraphQL (graphql-core executes it against a schema), bulk operations (queries, and mutations whose lines take effect
one after the other while the operation runs), REST with `Link` pages; cost and leaky buckets; the caps; scopes and
versions. Metafields of the type `id` are unique, an order's lines stay as they were created, and a customer with orders
is not deleted. `POST /_control` changes how it behaves (see `shopify_shop.Faults`), `GET /_control` tells what was
asked of it.
"""
# `http.server` names the methods that answer.

from __future__ import annotations

import argparse
import gzip
import json
import re
import time
from dataclasses import fields
from email.parser import BytesParser
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import shopify_graphql
import shopify_rest
from shopify_shop import Faults, Shop


class Handler(BaseHTTPRequestHandler):
    """One connection to the shop."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    shop: Shop

    def log_message(self, *args: Any) -> None:
        """Say nothing on the terminal."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The `Date` header, by this server's clock."""
        return formatdate(self.shop.now() if timestamp is None else timestamp, usegmt=True)

    def do_POST(self) -> None:
        """GraphQL and control."""
        size = int(self.headers.get("content-length", 0))
        body = self.rfile.read(size)
        if len(body) < size:  # whoever sent it died in the middle
            self.close_connection = True
            return None
        if self.path == "/_control":
            return self._control(json.loads(body or b"{}"))
        if self.path == "/upload/":
            return self._upload(body)
        found = re.fullmatch(r"/admin/api/([\w-]+)/graphql\.json", self.path)
        if not found:
            return self._send(404, {"errors": "Not Found"})
        if self._refused("graphql"):
            return None
        with self.shop.lock:
            asked, lost = json.loads(body), self.shop.faults.lose_mutation
            answer = shopify_graphql.answer(self.shop, asked, found[1], self.headers["Host"])
            if asked["query"].startswith("mutation"):
                self.shop.mutations += 1
                if lost and self.shop.mutations % lost == 0:
                    self.close_connection = True
                    return None
        return self._send(200, answer, {"X-Shopify-API-Version": self.shop.served(found[1])})

    def do_GET(self) -> None:
        """REST, bulk results and control."""
        parts = urlsplit(self.path)
        if parts.path == "/_control":
            return self._send(200, self.shop.tell(), counted=False)
        if parts.path.startswith("/bulk/"):
            return self._download(parts)
        if parts.path == "/admin/oauth/access_scopes.json":
            if not self._refused("rest"):
                self._send(200, {"access_scopes": [{"handle": s} for s in self.shop.faults.scopes]})
            return None
        found = re.fullmatch(r"/admin/api/([\w-]+)/(\w+)(/count)?\.json", parts.path)
        if not found:
            return self._send(404, {"errors": "Not Found"})
        if not self._refused("rest"):
            url = f"http://{self.headers['Host']}{parts.path}"
            self._send(*shopify_rest.answer(self.shop, found, parse_qs(parts.query), url))
        return None

    def _control(self, wanted: dict[str, Any]) -> None:
        shop = self.shop
        with shop.lock:
            if wanted.pop("reset", False):
                shop.reset()
            known = {f.name for f in fields(Faults)}
            for name, value in wanted.items():
                if name not in known:
                    return self._send(400, {"errors": f"no fault {name}"}, counted=False)
                setattr(shop.faults, name, value)
        return self._send(200, shop.tell(), counted=False)

    def _refused(self, kind: str) -> bool:
        """Count the call; answer it with a fault or a refusal if one is due."""
        shop = self.shop
        with shop.lock:
            shop.counts[kind] = number = shop.counts.get(kind, 0) + 1
            faults = shop.faults
            due = None
            if faults.hang_next:
                due, pause = "hang", faults.hang_next
                faults.hang_next = 0
            elif faults.throttle_next:
                due, faults.throttle_next = "throttle", faults.throttle_next - 1
            elif faults.error_next:
                due, faults.error_next = "error", faults.error_next - 1
            elif faults.half_next:
                due, faults.half_next = "half", faults.half_next - 1
            elif faults.error_every and number % faults.error_every == 0:
                due = "error"
            elif faults.bomb:
                due, faults.bomb = "bomb", False
        while shop.faults.silent_from and shop.counts.get("graphql", 0) >= shop.faults.silent_from:
            time.sleep(0.02)
        if due == "hang":
            time.sleep(pause)
            self.close_connection = True
        elif due == "error":
            self._send(500, {"errors": "Internal Server Error"})
        elif due == "throttle" and kind == "rest":
            self._send(429, {"errors": "Exceeded 2 calls per second for api client."}, {"Retry-After": "0.2"})
        elif due == "throttle":
            self._send(200, shopify_graphql.throttled(self.shop, 100, forced=True))
        elif due == "half":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "5000")
            self.end_headers()
            self.wfile.write(b'{"data": {"page": {"edges": [{"node": {"id": "gid://shop')
            self.close_connection = True
        elif due == "bomb":
            packed = gzip.compress(b'{"data": "' + b"0" * 100_000_000, 1)
            self.send_response(200)
            for name, value in (("Content-Encoding", "gzip"), ("Content-Length", str(len(packed)))):
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(packed)
            except OSError:
                self.close_connection = True
        if due:
            return True
        if self.headers.get("X-Shopify-Access-Token") != shop.args.token:
            message = "[API] Invalid API key or access token (unrecognized login or wrong password)"
            self._send(401, {"errors": message})
            return True
        return False

    def _upload(self, body: bytes) -> None:
        """A form as the storage wants it: the parameters that it gave, then the file, and no token."""
        shop = self.shop
        if "X-Shopify-Access-Token" in self.headers:
            return self._send(400, {"error": "the shop's token was sent to the storage"})
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        form = BytesParser().parsebytes(head + body)
        parts = {part.get_param("name", header="content-disposition"): part for part in form.get_payload()}
        names = list(parts)
        key = parts["key"].get_payload(decode=True).decode() if "key" in parts else ""
        with shop.lock:
            shop.counts["upload"] = shop.counts.get("upload", 0) + 1
            if names[-1:] != ["file"] or key not in shop.uploads or "policy" not in parts:
                return self._send(403, {"error": "AccessDenied"})
            shop.uploads[key] = parts["file"].get_payload(decode=True)
        return self._send(201, {"Key": key})

    def _download(self, parts: Any) -> None:
        shop = self.shop
        operation = next(
            (o for k, o in shop.operations.items() if k.endswith("/" + parts.path.rsplit("/", 1)[1])), None
        )
        if operation is None or "signature=" not in parts.query:
            return self._send(403, {"error": "signature"})
        if "X-Shopify-Access-Token" in self.headers:
            return self._send(400, {"error": "the shop's token was sent to the storage"})
        body = operation["body"]
        with shop.lock:
            shop.counts["download"] = shop.counts.get("download", 0) + 1
            faults = shop.faults
            if faults.drop_bulk_line:
                lines = body.splitlines(keepends=True)
                body = b"".join(lines[: faults.drop_bulk_line - 1] + lines[faults.drop_bulk_line :])
            if faults.truncate_bulk:
                body = body[: -faults.truncate_bulk]
            cut = faults.cut_download > 0
            faults.cut_download -= cut
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        begin = int(asked[1]) if asked and not faults.no_ranges else 0
        if begin and begin >= len(body):
            return self._send(416, {"error": "range"})
        part = body[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        part = part[: len(part) // 2] if cut else part
        shop.bulk_bytes += len(part)
        self.wfile.write(part)
        self.close_connection = cut
        return None

    def _send(
        self, status: int, answer: Any, headers: dict[str, str] | None = None, *, counted: bool = True
    ) -> None:
        body = json.dumps(answer).encode()
        if counted and "gzip" in self.headers.get("accept-encoding", "") and len(body) > 500:
            body = gzip.compress(body, 1)
            headers = {**(headers or {}), "Content-Encoding": "gzip"}
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def serve(argv: list[str] | None = None) -> ThreadingHTTPServer:
    """A server, bound and ready; call `serve_forever`. With `--port 0` the system chooses one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8901)
    parser.add_argument("--token", default="shpat_emulated", help="the access token that it accepts")
    parser.add_argument("--seed", type=int, default=1)
    for name, count in (("customers", 200), ("products", 60), ("orders", 1000)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument(
        "--most", type=int, default=1, help="lines and metafields of the objects that have most"
    )
    parser.add_argument("--cap", type=int, default=25_000, help="objects that one query hands out")
    parser.add_argument("--points", type=float, default=2000)
    parser.add_argument("--points-per-second", type=float, default=100)
    parser.add_argument("--calls", type=float, default=40)
    parser.add_argument("--calls-per-second", type=float, default=2)
    args = parser.parse_args(argv)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    return Server((args.host, args.port), type("ShopHandler", (Handler,), {"shop": Shop(args)}))


if __name__ == "__main__":
    server = serve()
    print(f"listening on http://{server.server_address[0]}:{server.server_address[1]}", flush=True)
    server.serve_forever()
