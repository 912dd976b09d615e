"""`make demo-shopify`: a shop on Shopify, emulated by a server of its own, moves into a new shop through Dagster.

Killed in the middle and started again it goes on: the server outlives it, and what had arrived is not asked for twice.
"""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import psycopg

from ferry.errors import DeclarationError, PermanentError
from shop.demo import take_on, told
from shop.demo.__main__ import home_from_environment
from shop.demo.databases import create_database
from shop.demo.migrate import INSTANCE
from shop.demo.server import EmbeddedServer

DEFS = Path(__file__).parent.parent / "shopify"
OUT = Path("out/demo-shopify")
TARGET, HISTORY = "shop_from_shopify", "dagster_shopify"
TOKEN = "shpat_emulated"  # noqa: S105 - the emulator's, which opens nothing else
ORDERS = 3000
# What each entity is called in the emulator's own account of its rows.
ROOTS = {"customers": "customers", "products": "products", "orders": "orders", "order_lines": "lines"}


class ShopServer:
    """The emulator as a process that outlives this one; it is found again by what is written beside its data."""

    def __init__(self, program: Path, home: Path, orders: int) -> None:
        """Args: the emulator's program, the demo's folder, and how many orders the shop has."""
        self._program, self._file, self._orders = program, home / "emulator.json", orders
        self.url = ""

    def start(self) -> "ShopServer":
        """Start it, or find the one that runs."""
        known = json.loads(self._file.read_text()) if self._file.exists() else {}
        if known.get("orders") == self._orders and self._is_alive(known):
            self.url = known["url"]
            return self
        self.stop()
        # A new server takes the place of the old one under its address, so that checkpoints stay good.
        port = known["url"].rsplit(":", 1)[1] if known else "0"
        process = self._launch(port) or self._launch("0")
        if process is None:
            raise PermanentError("the emulator does not start", where=str(self._program))
        known = {"pid": process.pid, "url": self.url, "orders": self._orders}
        self._file.write_text(json.dumps(known))
        return self

    def stop(self) -> None:
        """End it, if it runs; its address is remembered."""
        known = json.loads(self._file.read_text()) if self._file.exists() else {}
        if self._is_alive(known):
            os.kill(known["pid"], signal.SIGTERM)

    def tell(self) -> dict[str, Any]:
        """How many rows the shop has and what was asked of it, by its own account."""
        with urllib.request.urlopen(f"{self.url}/_control", timeout=30) as answer:  # noqa: S310 - our own server
            return json.load(answer)

    def _launch(self, port: str) -> "subprocess.Popen[str] | None":
        shop = ("--orders", str(self._orders), "--customers", str(self._orders // 5), "--products", "120")
        plenty = ("--points", "20000", "--points-per-second", "1000")  # as the plan Plus has it
        process = subprocess.Popen(
            [sys.executable, str(self._program), "--port", port, *shop, *plenty],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        line = process.stdout.readline() if process.stdout else ""
        if not line.startswith("listening on "):
            process.wait()
            return None
        self.url = line.removeprefix("listening on ").strip()
        return process

    def _is_alive(self, known: dict[str, Any]) -> bool:
        if not known or not psutil.pid_exists(known["pid"]):
            return False
        try:
            return str(self._program) in psutil.Process(known["pid"]).cmdline()
        except psutil.Error:
            return False


def orders_from_environment() -> int:
    """$ORDERS as a number, 3000 when it is not set."""
    given = os.environ.get("ORDERS") or str(ORDERS)
    if not given.isdigit() or int(given) < 10:
        raise DeclarationError(
            f"this is no number of orders: {given!r}", where="ORDERS", next=f"Try ORDERS={ORDERS}"
        )
    return int(given)


def set_up(home: Path, url: str) -> None:
    """Make the new shop and Dagster's instance unless they are there, and the environment that names both."""
    server = EmbeddedServer(home.parent).start()
    dagster = home / "dagster"
    if not (dagster / "dagster.yaml").exists():
        create_database(server, HISTORY)
        create_database(server, TARGET)
        with psycopg.connect(server.url(TARGET)) as connection:
            connection.execute((DEFS / "new_shop.sql").read_bytes())
        dagster.mkdir(parents=True, exist_ok=True)
        (dagster / "dagster.yaml").write_text(INSTANCE)
    variables = {
        "FERRY_CONNECTIONS__SHOP": json.dumps({"url": url, "token": TOKEN, "poll": 0.1}),
        "FERRY_CONNECTIONS__CRM": server.url(TARGET),
        "FERRY_STAGE_URI": str(home / "stage"),
        "FERRY_DEFS": str(DEFS),
        "DAGSTER_HOME": str(dagster),
        "FERRY_DEMO_HISTORY": server.url(HISTORY),
    }
    take_on(home, variables)


def demo(program: Path) -> None:
    """The demo itself; raises `SystemExit(1)` unless every promise held and every row of the shop was read."""
    home = home_from_environment() / "shopify"
    home.mkdir(parents=True, exist_ok=True)
    print("Ferry demo: a shop on Shopify moves into a new one. First both are made …", flush=True)
    shop = ShopServer(program.resolve(), home, orders_from_environment()).start()
    set_up(home, shop.url)
    from ferry.cli.output import console
    from ferry.cli.run import print_report
    from ferry.components.run import run_migration

    report = run_migration(DEFS, (), None)
    said, told = shop.tell(), report.as_dict()
    told["shop"] = {entity: said["rows"][root] for entity, root in ROOTS.items()}
    told["asked"] = {"calls": said["requests"], "operations": said["operations"], "pages": said["pages"]}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "report.json").write_text(json.dumps(told, indent=1))
    print_report(told)
    console.print(
        f"Report: {OUT / 'report.json'}\n"
        "Look around: . .demo/shopify/env && .venv/bin/ferry rejects\n"
        "Remove everything: make demo-clean",
        highlight=False,
    )
    missing = {
        entity: f"{one.outcomes.extracted} of {told['shop'][entity]}"
        for entity, one in report.entities.items()
        if one.outcomes.extracted != told["shop"][entity]
    }
    if missing:
        console.print(f"Not every row of the shop was read: {missing}", highlight=False)
    if missing or not report.kept_every_promise:
        raise SystemExit(1)
    shop.stop()


def main() -> int:
    """Run the demo; gives the status of the process."""
    return told(lambda: demo(Path(sys.argv[1])))


if __name__ == "__main__":
    sys.exit(main())
