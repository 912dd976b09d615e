"""Reports over loaded rows of several GB: the shop's pandas assets, through both IO managers, under 512 MiB.

    python benchmarks/reports.py [--gigabytes 0.25 5]

The shop is migrated small, then its customers, their map and their orders are grown by SQL until the orders' table has
the size. All assets of the group `reports` run as a job of the shop's own code location, in a process that the kernel
holds to 512 MiB, where this account may set that. `order_history` reads and writes every order whole. Figures go to
`out/bench/reports.json`; it takes a quarter of an hour and 30 GB of disk, which are given back.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
from limited import run_limited

from shop.demo.databases import Databases
from shop.demo.migrate import environment
from shop.demo.server import EmbeddedServer

LIMIT_MIB = 512
STEP = """
insert into customers (customer_id, full_name, email, market_segment, credit) overriding system value
  select c + n, 'Customer ' || c + n, 'customer.' || c + n || '@grown.example', 'BUILDING', 0
    from (select max(customer_id) c from customers) _, generate_series(1, 100000) n;
insert into ferry.id_map_customers (old_id, new_customer_id, status, partition)
  select o + n, c + n, 'inserted', 'whole'
    from (select max(old_id) o from ferry.id_map_customers) _, (select max(customer_id) - 100000 c from customers) __,
         generate_series(1, 100000) n;
insert into orders (order_id, customer_id, state, total_amount, priority, ordered_on, remark) overriding system value
  select o + 1 + n, c + 1 + n / 10, 'F', n * 1.07, '3-MEDIUM', timestamp '1992-01-01' + n * interval '3 minutes',
         md5(n::text) || ' left at the back door'
    from (select max(order_id) o from orders) _, (select max(customer_id) - 100000 c from customers) __,
         generate_series(0, 999999) n;
"""
RUN = """
import json, time
import dagster as dg
from ferry.memory import peak_mib
from shop.definitions import defs

job = dg.define_asset_job("reports", dg.AssetSelection.groups("reports"))
began = time.monotonic()
result = dg.Definitions.merge(defs(), dg.Definitions(jobs=[job])).resolve_job_def("reports").execute_in_process()
made = {
    event.asset_key.to_user_string(): {
        "rows": event.materialization.metadata["dagster/row_count"].value,
        "bytes": event.materialization.metadata["bytes"].value,
        "seconds": event.materialization.metadata["seconds"].value,
    }
    for event in result.get_asset_materialization_events()
}
print(json.dumps({"made": made, "seconds": round(time.monotonic() - began), "peak_rss_mib": round(peak_mib(), 1)}))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.25, 5.0])
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="ferry-bench-reports-"))
    server = EmbeddedServer(home)
    try:
        migrate(home)
        databases = Databases(server.url("legacy"), server.url("new_shop"))
        found = {}
        for gigabytes in sorted(options.gigabytes):
            grow(server, gigabytes)
            found[f"{gigabytes:g}"] = report(home, databases)
            print(f"{gigabytes:g} GB: {found[f'{gigabytes:g}']}", flush=True)
        out = Path("out/bench")
        out.mkdir(parents=True, exist_ok=True)
        (out / "reports.json").write_text(json.dumps({"limit_mib": LIMIT_MIB, "gigabytes": found}, indent=1))
    finally:
        server.remove()
        shutil.rmtree(home)


def migrate(home: Path) -> None:
    """The demo, at a hundredth of its largest size: tables, map and ledger as Ferry makes them."""
    variables = {**os.environ, "FERRY_DEMO_HOME": str(home), "SCALE": "0.01"}
    subprocess.run(
        [sys.executable, "-m", "shop.demo.migrate"],
        check=True,
        cwd=home,
        env=variables,
        stdout=subprocess.DEVNULL,
    )


def grow(server: EmbeddedServer, gigabytes: float) -> None:
    """Add customers with ten orders each until the orders' table alone has that many GB."""
    with psycopg.connect(server.url("new_shop", superuser=True), autocommit=True) as connection:
        # The references are right as they are made; looking each one up would take most of the time.
        connection.execute("set session_replication_role = replica")
        while size(connection) < gigabytes * 1e9:
            connection.execute(STEP)
        connection.execute("vacuum (analyze) orders, customers, ferry.id_map_customers")


def size(connection: psycopg.Connection) -> int:
    """Bytes of the orders' table, without its indexes."""
    row = connection.execute("select pg_relation_size('orders')").fetchone()
    assert row is not None
    return row[0]


def report(home: Path, databases: Databases) -> dict[str, object]:
    """Run the job; rows and bytes of each report, seconds, peak, and whether the limit was enforced."""
    variables = {**os.environ, **environment(home, databases), "DAGSTER_HOME": ""}
    began = time.monotonic()
    done, limited = run_limited([sys.executable, "-c", RUN], LIMIT_MIB, variables)
    answer = json.loads(done.stdout.splitlines()[-1])
    return {**answer, "with start": round(time.monotonic() - began), "limited": limited}


if __name__ == "__main__":
    main()
