"""`make demo-to-shopify`: the old shop moves into a shop on Shopify, emulated, through a journal and bulk mutations."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg

from ferry.errors import PermanentError
from shop.demo import take_on, told
from shop.demo.__main__ import home_from_environment, scale_from_environment
from shop.demo.databases import create_database, prepare
from shop.demo.migrate import INSTANCE
from shop.demo.server import EmbeddedServer
from shop.demo.shopify import TOKEN

DEFS = Path(__file__).parent.parent / "to_shopify"
OUT = Path("out/demo-to-shopify")
JOURNAL, HISTORY = "journal", "dagster_to_shopify"
# An empty shop but for what the emulator needs to begin with, and the limits of the plan Plus.
SHOP = (
    "--orders",
    "1",
    "--customers",
    "1",
    "--products",
    "1",
    "--points",
    "20000",
    "--points-per-second",
    "1000",
)


def set_up(home: Path, url: str) -> None:
    """Make the old shop, an empty journal and Dagster's instance, and the environment that names them all."""
    old = prepare(home.parent, scale_from_environment())
    server = EmbeddedServer(home.parent)
    shutil.rmtree(home, ignore_errors=True)
    for name in (HISTORY, JOURNAL):
        create_database(server, name)
    with psycopg.connect(server.url(JOURNAL)) as connection:
        connection.execute((DEFS / "journal.sql").read_bytes())
    dagster = home / "dagster"
    dagster.mkdir(parents=True)
    (dagster / "dagster.yaml").write_text(INSTANCE)
    variables = {
        "FERRY_CONNECTIONS__LEGACY": old.source_url,
        "FERRY_CONNECTIONS__JOURNAL": server.url(JOURNAL),
        "FERRY_CONNECTIONS__NEW_SHOP": json.dumps({"url": url, "token": TOKEN}),
        "FERRY_STAGE_URI": str(home / "stage"),
        "FERRY_DEFS": str(DEFS),
        "DAGSTER_HOME": str(dagster),
        "FERRY_DEMO_HISTORY": server.url(HISTORY),
    }
    take_on(home, variables)


def migrate() -> None:
    """Migrate, deliver, read all of it back from the shop; raises `SystemExit(1)` unless every promise held."""
    from ferry.cli.deliver import show
    from ferry.cli.output import console
    from ferry.cli.run import print_report
    from ferry.components.run import run_migration
    from ferry.declaration import read_migration
    from ferry.deliver import Delivered, read_back
    from ferry.plan import plan_migration
    from ferry.settings import read_settings

    report = run_migration(DEFS, (), None)
    print_report(report.as_dict())
    done = [Delivered(**one) for one in report.delivered.values()]
    for one in done:
        one.problems = {}
    show(done)
    settings = read_settings()
    plans = plan_migration(read_migration(DEFS), settings)
    looked = [read_back(plans, one.entity, settings, 100) for one in done if one.entity != "order_lines"]
    differences = [line for _, lines in looked for line in lines]
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "report.json").write_text(json.dumps(report.as_dict(), indent=1, default=str))
    console.print(
        f"{sum(count for count, _ in looked)} objects were read back, {len(differences)} values differ.\n"
        f"Report: {OUT / 'report.json'}\n"
        "Look around: . .demo/to-shopify/env && .venv/bin/ferry rejects\n"
        "Remove everything: make demo-clean",
        highlight=False,
    )
    if differences or not report.kept_every_promise:
        raise SystemExit(1)


def demo(program: Path) -> None:
    """The demo itself, with the emulated shop beside it."""
    home = home_from_environment() / "to-shopify"
    print("Ferry demo: an old shop moves into a shop on Shopify. First both are made …", flush=True)
    command = [sys.executable, str(program), "--port", "0", *SHOP]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as emulator:
        try:
            line = emulator.stdout.readline() if emulator.stdout else ""
            if not line.startswith("listening on http://"):
                raise PermanentError("the emulator does not start", where=str(program))
            set_up(home, line.removeprefix("listening on ").strip())
            migrate()
        finally:
            emulator.kill()


def main() -> int:
    """Run the demo; gives the status of the process."""
    os.environ.setdefault("SCALE", "0.002")
    return told(lambda: demo(Path(sys.argv[1])))


if __name__ == "__main__":
    sys.exit(main())
