"""`make demo-shopify`, whole and after a kill."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psycopg
import pytest

from shop.demo.server import EmbeddedServer
from shop.demo.shopify import TARGET

PROGRAM = Path(__file__).parents[1] / "emulators" / "shopify.py"
ORDERS = 300


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where a demo of this test's own is started, and cleared away afterwards."""
    yield tmp_path
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(
            json.loads((tmp_path / "home" / "shopify" / "emulator.json").read_text())["pid"], signal.SIGKILL
        )
    EmbeddedServer(tmp_path / "home").remove()


def demo(place: Path) -> subprocess.Popen[bytes]:
    """Start the demo."""
    environment = {**os.environ, "FERRY_DEMO_HOME": str(place / "home"), "ORDERS": str(ORDERS)}
    command = [sys.executable, "-m", "shop.demo.shopify", str(PROGRAM)]
    return subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.DEVNULL)


def operations(place: Path) -> int:
    """How many bulk operations the shop was asked for so far."""
    with suppress(FileNotFoundError, json.JSONDecodeError, urllib.error.URLError):
        url = json.loads((place / "home" / "shopify" / "emulator.json").read_text())["url"]
        with urllib.request.urlopen(f"{url}/_control", timeout=5) as answer:  # noqa: S310 - our own server
            return json.load(answer)["operations"]
    return 0


def report(place: Path) -> dict[str, Any]:
    """What the demo wrote."""
    return json.loads((place / "out" / "demo-shopify" / "report.json").read_text())


def test_the_demo_goes_on_after_a_kill_and_keeps_every_promise(place: Path) -> None:
    """Killed among the orders and started again: each row of the shop is accounted for, no operation runs twice."""
    first = demo(place)
    until = monotonic() + 120
    while operations(place) < 3:
        assert first.poll() is None, "it ended before it could be killed"
        assert monotonic() < until
        sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()

    assert demo(place).wait(timeout=120) == 0
    told = report(place)
    assert told["kept_every_promise"]
    assert {name: one["extracted"] for name, one in told["entities"].items()} == told["shop"]
    # Of the three that it was killed after, two years were loaded, which a new run looks at again; the third goes on.
    assert told["asked"]["operations"] <= 2 + 4 + 4
    ends = told["entities"]["order_lines"]
    with psycopg.connect(EmbeddedServer(place / "home").url(TARGET)) as target:
        lines = target.execute("select count(*) from order_items join orders using (order_id)").fetchone()
    assert lines == (ends["inserted"] + ends["unchanged"],)
