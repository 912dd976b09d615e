"""What the emulated sync tools share: a server that misbehaves when told to, and syncs that really copy tables."""

from __future__ import annotations

import argparse
import base64
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import psycopg
from psycopg import sql

BATCH = 64 * 1024


@dataclass
class Faults:
    """How the tool is told to misbehave; `POST /_control` with the names as JSON keys."""

    throttle_next: int = 0  # that many calls answer 429
    error_next: int = 0  # that many calls answer 500
    down: bool = False  # every connection is closed without an answer
    drop_answer: str = ""  # the next call like this (`POST /path`) takes effect and is never answered
    forget_tokens: bool = False  # every token given so far is refused
    seconds: float = 0  # how long each stream takes at least
    hold: bool = False  # streams do not end until this is lifted
    fail_stream: str = ""  # a sync fails when it comes to this stream


@dataclass
class Stream:
    """One table of the source and what became of it."""

    name: str
    columns: list[tuple[str, str]]
    rows: int = 0
    bytes: int = 0
    state: str = "PENDING"


@dataclass
class Sync:
    """One sync of a connection; it copies stream after stream in a thread of its own."""

    id: int
    connection: str
    streams: list[Stream]
    began: float = field(default_factory=time.time)
    ended: float = 0.0
    status: str = "running"
    error: str = ""
    log: list[str] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def say(self, line: str) -> None:
        """Write a line of the sync's log."""
        self.log.append(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} {line}")


class Mover:
    """Copies tables of one database's schema into another's, typed as the tool types them."""

    def __init__(
        self, source: str, destination: str, schema: str, types: Callable[[str], str], own: dict[str, str]
    ) -> None:
        """Args: both databases, the schema to write, the tool's type for one of the source's, and its own columns."""
        self.source, self.destination, self.schema, self.types, self.own = (
            source, destination, schema, types, own,
        )  # fmt: skip

    def discover(self) -> list[Stream]:
        """The tables of the source's schema `public`, with their columns and types."""
        with psycopg.connect(self.source) as source:
            rows = source.execute(
                "select c.relname, a.attname, format_type(a.atttypid, a.atttypmod) from pg_attribute a"
                " join pg_class c on c.oid = a.attrelid where c.relnamespace = 'public'::regnamespace"
                " and c.relkind = 'r' and a.attnum > 0 and not a.attisdropped order by 1, a.attnum"
            ).fetchall()
        tables: dict[str, list[tuple[str, str]]] = {}
        for table, column, type_ in rows:
            tables.setdefault(table, []).append((column, type_))
        return [Stream(name, columns) for name, columns in tables.items()]

    def copy(self, stream: Stream, faults: Faults, cancelled: threading.Event) -> None:
        """Copy one table whole; readers see the old rows until the new ones are all there."""
        named = sql.Identifier(self.schema, stream.name)
        columns = sql.SQL(", ").join(sql.Identifier(name) for name, _ in stream.columns)
        typed = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(type_))  # type: ignore[arg-type]
            for name, type_ in [
                *((name, self.types(type_)) for name, type_ in stream.columns), *self.own.items()
            ]
        )  # fmt: skip
        began = time.monotonic()
        with psycopg.connect(self.source) as source, psycopg.connect(self.destination) as destination:
            destination.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(self.schema)))
            destination.execute(sql.SQL("create table if not exists {} ({})").format(named, typed))
            destination.execute(sql.SQL("delete from {}").format(named))
            read = sql.SQL("copy (select {} from {}) to stdout").format(
                columns, sql.Identifier("public", stream.name)
            )
            write = sql.SQL("copy {} ({}) from stdin").format(named, columns)
            with (
                source.cursor() as out,
                destination.cursor() as into,
                into.copy(write) as sink,
                out.copy(read) as rows,
            ):
                for block in rows:
                    if cancelled.is_set():
                        raise Cancelled
                    sink.write(block)
                    stream.bytes += len(block)
                    stream.rows += bytes(block).count(b"\n")
            while faults.hold or time.monotonic() - began < faults.seconds:
                if cancelled.wait(0.02):
                    raise Cancelled


class Cancelled(Exception):  # noqa: N818 - somebody asked for it
    """The sync was told to stop."""


class Tool:
    """The state behind the server: faults, counts, tokens, connections and syncs."""

    def __init__(self, args: argparse.Namespace, mover: Mover) -> None:
        self.args, self.mover, self.lock, self.faults = args, mover, threading.RLock(), Faults()
        self.counts: dict[str, int] = {}
        self.tokens: dict[str, float] = {}
        self.syncs: dict[int, Sync] = {}

    def tell(self) -> dict[str, Any]:
        """What was asked of this server, for tests."""
        syncs = [
            {"id": s.id, "status": s.status, "rows": sum(x.rows for x in s.streams)}
            for s in self.syncs.values()
        ]
        return {"requests": dict(self.counts), "total": sum(self.counts.values()), "syncs": syncs}

    def control(self, wanted: dict[str, Any]) -> str:
        """Take orders; gives what was not understood."""
        known = {f.name for f in fields(Faults)}
        for name, value in wanted.items():
            if name not in known:
                return name
            setattr(self.faults, name, value)
        return ""

    def start(self, connection: str, names: list[str]) -> Sync:
        """Begin a sync of these streams."""
        streams = [stream for stream in self.mover.discover() if stream.name in names]
        sync = Sync(len(self.syncs) + 1, connection, streams)
        self.syncs[sync.id] = sync
        threading.Thread(target=self._run, args=(sync,), daemon=True).start()
        return sync

    def running(self, connection: str) -> Sync | None:
        """The sync of a connection that is under way, if there is one."""
        return next((s for s in self.syncs.values() if s.connection == connection and not s.ended), None)

    def _run(self, sync: Sync) -> None:
        status = "succeeded"
        try:
            for stream in sync.streams:
                stream.state = "RUNNING"
                sync.say(f"INFO source > Starting stream {stream.name}")
                if self.faults.fail_stream == stream.name:
                    raise PermissionError(f"permission denied for table {stream.name}")
                self.mover.copy(stream, self.faults, sync.cancelled)
                stream.state = "COMPLETE"
                sync.say(f"INFO destination > {stream.name}: {stream.rows} records written")
        except Cancelled:
            status = "cancelled"
        except (PermissionError, psycopg.Error) as error:
            status, sync.error = "failed", " ".join(str(error).split())
            sync.say(f"ERROR platform > {sync.error}")
        for stream in sync.streams:
            stream.state = "INCOMPLETE" if stream.state in ("RUNNING", "PENDING") else stream.state
        sync.ended, sync.status = time.time(), status


class Handler(BaseHTTPRequestHandler):
    """One connection to the tool; the tools' own handlers answer in `route`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    tool: Tool

    def log_message(self, *args: Any) -> None:
        """Say nothing on the terminal."""

    def do_GET(self) -> None:
        """Any call."""
        self._answer("GET")

    def do_POST(self) -> None:
        """Any call."""
        self._answer("POST")

    def do_PATCH(self) -> None:
        """Any call."""
        self._answer("PATCH")

    def do_DELETE(self) -> None:
        """Any call."""
        self._answer("DELETE")

    def route(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
        """Status and answer of one call."""
        raise NotImplementedError

    def refused(self, status: int, message: str) -> Any:
        """The body of a refusal, as the tool words it."""
        raise NotImplementedError

    def _answer(self, method: str) -> None:
        tool = self.tool
        size = int(self.headers.get("content-length", 0))
        raw = self.rfile.read(size)
        if len(raw) < size:  # whoever sent it died in the middle
            self.close_connection = True
            return None
        parts = urlsplit(self.path)
        form = "form" in self.headers.get("content-type", "") and parts.path != "/_control"
        body = dict(parse_qsl(raw.decode())) if form else json.loads(raw or b"{}")
        if parts.path == "/_control":
            unknown = tool.control(body) if method == "POST" else ""
            return self.send(400 if unknown else 200, {"error": unknown} if unknown else tool.tell())
        with tool.lock:
            key = f"{method} {parts.path}"
            tool.counts[key] = tool.counts.get(key, 0) + 1
            faults = tool.faults
            if faults.down:
                self.close_connection = True
                return None
            for name, status in (("throttle_next", 429), ("error_next", 500)):
                if getattr(faults, name):
                    setattr(faults, name, getattr(faults, name) - 1)
                    return self.send(status, self.refused(status, "try again later"), {"Retry-After": "0"})
            status, answer = self.route(method, parts.path, dict(parse_qsl(parts.query)), body)
            if faults.drop_answer == key and status < 300:
                faults.drop_answer = ""
                self.close_connection = True
                return None
        return self.send(status, answer)

    def basic(self, user: str, password: str) -> bool:
        """Whether the call carries these credentials."""
        wanted = base64.b64encode(f"{user}:{password}".encode()).decode()
        return self.headers.get("Authorization", "") == f"Basic {wanted}"

    def send(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        """Send JSON."""
        body = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """The tool's server."""

    daemon_threads = True
    request_queue_size = 128


def arguments(description: str, port: int, schema: str) -> argparse.ArgumentParser:
    """The options that both tools have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=port)
    parser.add_argument("--source", required=True, help="URL of the PostgreSQL whose schema public is read")
    parser.add_argument("--destination", required=True, help="URL of the PostgreSQL that is written")
    parser.add_argument("--schema", default=schema, help="the destination's schema")
    return parser


def serve(args: argparse.Namespace, tool: Tool, handler: type[Handler]) -> None:
    """Listen until killed; says where."""
    server = Server((args.host, args.port), type("ToolHandler", (handler,), {"tool": tool}))
    print(f"listening on http://{server.server_address[0]}:{server.server_address[1]}", flush=True)
    server.serve_forever()
