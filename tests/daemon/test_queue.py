"""How many runs read from a source at a time: with a real queue and daemon, by a server that counts its readers."""

import os
import re
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from asking import wait_for
from serving import Served, serving
from small import Small

QUEUED = """telemetry: {enabled: false}
nux: {enabled: false}
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config: {dequeue_interval_seconds: 1}
run_monitoring: {enabled: true, poll_interval_seconds: 1, free_slots_after_run_end_seconds: 1}
"""
READERS = ("one", "two", "three", "four")


class Source:
    """An API that answers nobody until it is told to, and knows who waits: by the entity that asks."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.waiting: list[str] = []
        self.most = 0
        self._lock = threading.Lock()
        source = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.strip("/").partition("?")[0]
                with source._lock:
                    source.waiting.append(name)
                    source.most = max(source.most, len(source.waiting))
                alive = True
                while alive and not source.open.wait(0.05):
                    # A reader that was killed has hung up.
                    readable, _, _ = select.select([self.connection], [], [], 0)
                    alive = not readable or bool(self.connection.recv(1, socket.MSG_PEEK))
                with source._lock:
                    source.waiting.remove(name)
                if alive:
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(b'[{"id": 1}]')

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def source() -> Iterator[Source]:
    """The API."""
    made = Source()
    yield made
    made.open.set()
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def small(new_database: Callable[..., str], source: Source, tmp_path: Path) -> Small:
    """Four entities that read from the API, and one that reads from a database."""
    made = Small(new_database, tmp_path)
    made.migrating.connections["api"] = {"url": source.url}
    made.source("create table quick (id int primary key)")
    for name in (*READERS, "quick"):
        made.target(f"create table {name} (id bigint primary key)")
        rest = {"path": f"/{name}", "fields": {"id": "int"}, "paging": {"by": "none"}}
        made.declare(
            name, "id: int", made="natural", new_key="id", columns={"id": "id"},
            source={} if name == "quick" else {"connection": "api", "key": "id", "rest": rest},
        )  # fmt: skip
    return made


@pytest.fixture
def served(small: Small, tmp_path: Path) -> Iterator[Served]:
    """Webserver, daemon and queue over it."""
    with serving(small.migrating, tmp_path / "dagster", daemon=True, instance=QUEUED) as running:
        yield running


def test_a_source_has_no_more_readers_than_its_pool(served: Served, source: Source) -> None:
    """Four runs and two slots: two read, two stay in the queue, which others pass. One is killed: its slot goes to the
    last, which has priority over the third. Never do more than two read."""

    def launch(name: str, **tags: str) -> str:
        assets = (f"raw_{name}", f"loaded_{name}", f"validated_{name}")
        return served.launch(*assets, location=served.location, tags=tags)

    def readers(count: int) -> list[str]:
        return wait_for(
            f"{count} read", lambda: source.waiting if len(source.waiting) == count else None, 120, pause=0.1
        )

    limited = served.graphql('mutation { setConcurrencyLimit(concurrencyKey: "api", limit: 2) }')
    assert limited == {"setConcurrencyLimit": True}
    *begin, third, last = READERS
    runs = {name: launch(name) for name in begin}
    first = list(readers(2))
    runs |= {third: launch(third), last: launch(last, **{"dagster/priority": "5"})}
    served.succeeded(launch("quick"))
    assert source.waiting == first
    assert {served.run(runs[name])["status"] for name in (third, last)} == {"QUEUED"}

    messages = "\n".join(served.messages(runs[first[0]]))
    found = re.search(r"Started process for run \(pid: (\d+)\)", messages)
    assert found, messages
    os.kill(int(found[1]), signal.SIGKILL)
    assert served.finished(runs[first[0]])["status"] == "FAILURE"
    wait_for("another one reads", lambda: len(source.waiting) == 2 and first[0] not in source.waiting, 200)
    assert set(source.waiting) == {first[1], last}
    assert served.run(runs[third])["status"] == "QUEUED"
    source.open.set()
    for name in READERS:
        if name != first[0]:
            served.succeeded(runs[name])
    assert source.most == 2
