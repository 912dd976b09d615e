"""`make demo`: prepare both databases, run the whole migration through Dagster, show and keep the report."""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from ferry.start import importing
from shop.demo import told
from shop.demo.__main__ import home_from_environment, scale_from_environment
from shop.demo.databases import Databases, create_database, prepare
from shop.demo.server import EmbeddedServer

DEFS = Path(__file__).parent.parent / "defs"
OUT = Path("out/demo")
HISTORY = "dagster"
# Runs and events in PostgreSQL as on the platform; SQLite takes several times as long for each event.
INSTANCE = """storage:
  custom:
    module: ferry_storage
    class: PooledPostgresStorage
    config: {postgres_url: {env: FERRY_DEMO_HISTORY}}
telemetry: {enabled: false}
nux: {enabled: false}
"""


def environment(home: Path, databases: Databases) -> dict[str, str]:
    """The variables with which `ferry`, `dagster` and `dg` work on the demo."""
    return {
        "FERRY_CONNECTIONS__LEGACY": databases.source_url,
        "FERRY_CONNECTIONS__CRM": databases.target_url,
        "FERRY_STAGE_URI": str(home / "stage"),
        "DAGSTER_HOME": str(home / "dagster"),
    }


def set_up(home: Path) -> Databases:
    """Make databases, instance and environment; what an earlier demo at another scale staged is removed."""
    databases = prepare(home, scale_from_environment())
    server = EmbeddedServer(home)
    dagster = home / "dagster"
    if databases.made or not (dagster / "dagster.yaml").exists():
        for name in ("stage", "dagster"):
            shutil.rmtree(home / name, ignore_errors=True)
        create_database(server, HISTORY)
        dagster.mkdir(parents=True)
        (dagster / "dagster.yaml").write_text(INSTANCE)
    variables = {**environment(home, databases), "FERRY_DEMO_HISTORY": server.url(HISTORY)}
    os.environ.update(variables)
    # For whoever goes on by hand: `. .demo/env`, and then `ferry rejects`.
    shell = home / "env"
    shell.touch(mode=0o600)
    shell.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))
    return databases


def demo() -> None:
    """The demo itself; raises `SystemExit(1)` unless every promise held."""
    print("Ferry demo: an old shop moves into a new one. First its databases are made …", flush=True)
    set_up(home_from_environment())
    # Imported now: the generator of rows needs memory of its own, and is gone by this time.
    with importing():
        from ferry.cli.output import console
        from ferry.cli.run import print_report
        from ferry.components.run import run_migration

    report = run_migration(DEFS, (), None)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "report.json").write_text(json.dumps(report.as_dict(), indent=1))
    print_report(report.as_dict())
    console.print(
        f"Report: {OUT / 'report.json'}\n"
        "Look around: make demo-ui, or: . .demo/env && .venv/bin/ferry rejects\n"
        "Remove everything: make demo-clean",
        highlight=False,
    )
    if not report.kept_every_promise:
        raise SystemExit(1)


def main() -> int:
    """Run the demo; gives the status of the process."""
    return told(demo)


if __name__ == "__main__":
    sys.exit(main())
