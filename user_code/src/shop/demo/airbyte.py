"""`make demo-airbyte`: the old shop is synced by an emulated Airbyte, and Ferry migrates what has landed.

The emulator copies real tables and types them as Airbyte does; views in the landing database say what was meant.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg
from psycopg import sql

from ferry.errors import PermanentError
from shop.demo import take_on, told
from shop.demo.__main__ import home_from_environment, scale_from_environment
from shop.demo.databases import create_database, fill_new_shop, prepare
from shop.demo.migrate import DEFS, INSTANCE
from shop.demo.server import EmbeddedServer

OUT = Path("out/demo-airbyte")
LANDING, TARGET, HISTORY = "landing", "shop_from_airbyte", "dagster_airbyte"
# The emulator's client and workspace, which open nothing else.
ACCOUNT = "airbyte+http://client-1:secret-of-client-1@{place}/9924bcd0-99be-453d-ba47-c2c9766f7da5"
NAME = "old_shop"


def declare(home: Path) -> Path:
    """The shop's own declarations, and one connection more beside them; gives their folder."""
    folder = home / "defs"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DEFS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / NAME).mkdir()
    (folder / NAME / "defs.yaml").write_text(
        "type: ferry.components.AirbyteConnection\n"
        "attributes:\n"
        "  account: airbyte\n"
        "  connection: old shop\n"
        "  into: legacy\n"
        "  streams: [customers, products, employees, orders, order_lines]\n"
        "  poll_seconds: 0.5\n"
        '  owners: ["team:data"]\n'
    )
    return folder


def look_through_views(old_url: str, landing_url: str) -> None:
    """Give each landed table a view with the old shop's types and without Airbyte's own columns."""
    with psycopg.connect(old_url) as old, psycopg.connect(landing_url, autocommit=True) as landing:
        columns = old.execute(
            "select c.relname, a.attname, format_type(a.atttypid, a.atttypmod) from pg_attribute a"
            " join pg_class c on c.oid = a.attrelid where c.relnamespace = 'public'::regnamespace"
            " and c.relkind = 'r' and a.attnum > 0 and not a.attisdropped order by 1, a.attnum"
        ).fetchall()
        for table in dict.fromkeys(row[0] for row in columns):
            typed = sql.SQL(", ").join(
                sql.SQL("{}::{}").format(sql.Identifier(name), sql.SQL(type_))  # type: ignore[arg-type]
                for owner, name, type_ in columns
                if owner == table
            )
            landing.execute(
                sql.SQL("create or replace view {} as select {} from {}").format(
                    sql.Identifier("public", table), typed, sql.Identifier("airbyte", table)
                )
            )


def set_up(home: Path, folder: Path) -> str:
    """Make the databases, Dagster's instance and the environment; gives the URL of the old shop."""
    databases = prepare(home.parent, scale_from_environment())
    server = EmbeddedServer(home.parent)
    dagster = home / "dagster"
    if databases.made or not (dagster / "dagster.yaml").exists():
        for name in ("stage", "dagster"):
            shutil.rmtree(home / name, ignore_errors=True)
        for name in (HISTORY, LANDING, TARGET):
            create_database(server, name)
        with psycopg.connect(databases.source_url) as old:
            row = old.execute("select count(distinct id) from customers").fetchone()
        fill_new_shop(server.url(TARGET), row[0] if row else 0)
        dagster.mkdir(parents=True)
        (dagster / "dagster.yaml").write_text(INSTANCE)
    variables = {
        "FERRY_CONNECTIONS__LEGACY": server.url(LANDING),
        "FERRY_CONNECTIONS__CRM": server.url(TARGET),
        "FERRY_STAGE_URI": str(home / "stage"),
        "FERRY_DEFS": str(folder),
        "DAGSTER_HOME": str(dagster),
        "FERRY_DEMO_HISTORY": server.url(HISTORY),
    }
    take_on(home, variables)
    return databases.source_url


def demo(program: Path) -> None:
    """The demo itself; raises `SystemExit(1)` unless every promise held."""
    home = home_from_environment() / "airbyte"
    home.mkdir(parents=True, exist_ok=True)
    print("Airbyte syncs an old shop, Ferry moves it. First the databases are made …", flush=True)
    folder = declare(home)
    old_url = set_up(home, folder)
    landing_url = os.environ["FERRY_CONNECTIONS__LEGACY"]
    command = [sys.executable, str(program), "--port", "0", "--source", old_url, "--destination", landing_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as emulator:
        try:
            line = emulator.stdout.readline() if emulator.stdout else ""
            if not line.startswith("listening on http://"):
                raise PermanentError("the emulator does not start", where=str(program))
            place = line.removeprefix("listening on http://").strip()
            os.environ["FERRY_CONNECTIONS__AIRBYTE"] = ACCOUNT.format(place=place)
            migrate(folder, old_url, landing_url)
        finally:
            emulator.kill()


def migrate(folder: Path, old_url: str, landing_url: str) -> None:
    """Sync, look at what landed through the views, migrate and reconcile; show and keep the report."""
    from ferry.cli.output import console
    from ferry.cli.run import print_report
    from ferry.components.connector_jobs import sync_now
    from ferry.components.run import run_migration

    synced = sync_now(folder, NAME)
    print(f"Airbyte has synced {len(synced)} tables. Ferry migrates what has landed …", flush=True)
    look_through_views(old_url, landing_url)
    report = run_migration(folder, (), None)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "report.json").write_text(json.dumps(report.as_dict(), indent=1))
    print_report(report.as_dict())
    console.print(
        f"Report: {OUT / 'report.json'}\n"
        "Look around: . .demo/airbyte/env && .venv/bin/ferry connectors list\n"
        "Remove everything: make demo-clean",
        highlight=False,
    )
    if not report.kept_every_promise:
        raise SystemExit(1)


def main() -> int:
    """Run the demo; gives the status of the process."""
    return told(lambda: demo(Path(sys.argv[1])))


if __name__ == "__main__":
    sys.exit(main())
