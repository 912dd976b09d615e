"""One table, no references: Ferry beside `COPY` of a file, pandas and dlt.

    python benchmarks/copy_orders.py [--scale 1] [--rounds 3]

`orders` of TPC-H goes from one database into a table of another that has its primary key. `COPY` only writes, from a
CSV file that lies there already: it is the limit. pandas reads with `read_sql(chunksize=10000)` and writes with
`to_sql(chunksize=10000)`; dlt reads with its Arrow backend and replaces the table. Ferry stages, judges, loads,
writes its ledger and reconciles.

Each way is timed in a process that has imported what it needs (for Ferry: Dagster and its storage as well), from the
call until everything is done. Beside that stands the command `ferry run` as somebody would type it, its start included.
Medians go to `out/bench/copy_orders.json`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psycopg
import sqlalchemy
import yaml
from migration import DURABLE, TPCH, fill

from shop.demo.databases import create_database
from shop.demo.server import EmbeddedServer

TABLE = (
    "create table orders (o_orderkey bigint primary key, o_custkey bigint not null, o_orderstatus text not null,"
    " o_totalprice numeric(15, 2) not null, o_orderdate date not null, o_orderpriority text not null,"
    " o_clerk text not null, o_shippriority int not null, o_comment text not null)"
)

DLT = """
import sys, time, dlt, sqlalchemy, psycopg2, pyarrow
from dlt.sources.sql_database import sql_table
old, new, home = sys.argv[1:]
began = time.monotonic()
engine = sqlalchemy.create_engine(old)
table = sql_table(engine, table="orders", schema="public", backend="pyarrow", chunk_size=50_000)
url = sqlalchemy.engine.make_url(new)
credentials = {"drivername": "postgresql", "database": url.database, "username": url.username,
               "password": url.password, "host": "localhost", "port": 5432, "query": dict(url.query)}
pipeline = dlt.pipeline(
    "orders", destination=dlt.destinations.postgres(credentials), dataset_name="moved", pipelines_dir=home
)
pipeline.run(table, write_disposition="replace", loader_file_format="csv")
print(f"seconds: {time.monotonic() - began}")
"""
FERRY = """
import sys, time
from pathlib import Path
from ferry.start import importing
with importing():
    import dagster
    from ferry.components.run import run_migration
    with dagster.DagsterInstance.ephemeral():
        pass  # Its storage is imported with the first one.
began = time.monotonic()
report = run_migration(Path(sys.argv[1]), (), None, quiet=True)
seconds = time.monotonic() - began
assert report.kept_every_promise, report.as_dict()
print(f"seconds: {seconds}")
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", type=Path, default=Path(tempfile.gettempdir()) / "ferry-bench")
    options = parser.parse_args()
    server = EmbeddedServer(options.home, DURABLE).start()
    fill(server, options.scale)
    with tempfile.TemporaryDirectory() as folder:
        ways = ways_to_move(server, Path(folder))
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, move in ways.items():
                create_database(server, "target")
                with psycopg.connect(server.url("target")) as connection:
                    connection.execute(TABLE)
                with server.admin() as admin:
                    admin.execute("checkpoint")  # so that no way pays for the one before
                seconds[way].append(move())
                print(f"{way:<9} {seconds[way][-1]:7.2f} s", flush=True)
    with psycopg.connect(server.url("tpch")) as connection:
        row = connection.execute("select count(*) from orders").fetchone()
    rows = row[0] if row else 0
    median = {way: statistics.median(found) for way, found in seconds.items()}
    speed = {way: round(rows / found) for way, found in median.items()}
    result = {
        "scale": options.scale,
        "rounds": options.rounds,
        "rows": rows,
        "seconds": {way: round(found, 2) for way, found in median.items()},
        "rows_per_second": speed,
        "of_copy": round(speed["ferry"] / speed["copy"], 3),
        "times_pandas": round(speed["ferry"] / speed["pandas"], 1),
        "times_dlt": round(speed["ferry"] / speed["dlt"], 1),
        "command_of_copy": round(speed["ferry run"] / speed["copy"], 3),
        "command_times_pandas": round(speed["ferry run"] / speed["pandas"], 1),
        "command_times_dlt": round(speed["ferry run"] / speed["dlt"], 1),
        "raw": {way: [round(one, 2) for one in found] for way, found in seconds.items()},
    }
    out = Path("out/bench")
    out.mkdir(parents=True, exist_ok=True)
    (out / "copy_orders.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))
    server.stop()


def ways_to_move(server: EmbeddedServer, folder: Path) -> dict[str, Callable[[], float]]:
    """Each way as something to call, which returns the seconds that it took."""
    source, target = server.url("tpch"), server.url("target")
    file = folder / "orders.csv"
    with (
        psycopg.connect(source) as connection,
        connection.cursor().copy("copy orders to stdout (format csv)") as copy,
        file.open("wb") as out,
    ):
        out.writelines(copy)

    def copied() -> float:
        began = time.monotonic()
        with (
            psycopg.connect(target) as connection,
            connection.cursor().copy("copy orders from stdin (format csv)") as copy,
            file.open("rb") as rows,
        ):
            while block := rows.read(1 << 20):
                copy.write(block)
        return time.monotonic() - began

    def by_pandas() -> float:
        began = time.monotonic()
        old, new = (
            sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
            for url in (source, target)
        )
        with old.connect().execution_options(stream_results=True) as connection:
            for frame in pd.read_sql("select * from orders", connection, chunksize=10_000):
                frame.to_sql("orders", new, if_exists="append", index=False, chunksize=10_000)
        old.dispose()
        new.dispose()
        return time.monotonic() - began

    def by_dlt() -> float:
        told = run([sys.executable, "-c", DLT, source, target, str(folder / f"dlt-{time.monotonic_ns()}")],
                   RUNTIME__DLTHUB_TELEMETRY="false", DLT_DATA_DIR=str(folder / "dlt"))  # fmt: skip
        return float(told.rpartition("seconds: ")[2])

    declarations = only_orders(folder / "defs")

    def staged_anew() -> dict[str, str]:
        return {
            "FERRY_CONNECTIONS__LEGACY": source,
            "FERRY_CONNECTIONS__CRM": target,
            "FERRY_STAGE_URI": str(folder / f"stage-{time.monotonic_ns()}"),
            "DAGSTER_HOME": "",
        }

    def by_ferry() -> float:
        told = run([sys.executable, "-c", FERRY, str(declarations)], **staged_anew())
        return float(told.rpartition("seconds: ")[2])

    def by_command() -> float:
        program = Path(sys.executable).with_name("ferry")
        began = time.monotonic()
        run([str(program), "run", "--defs", str(declarations), "--json"], **staged_anew())
        return time.monotonic() - began

    return {"copy": copied, "ferry": by_ferry, "ferry run": by_command, "dlt": by_dlt, "pandas": by_pandas}


def run(command: list[str], **settings: str) -> str:
    """What a program prints, run with these environment variables and none of Ferry's from outside."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("FERRY_")}
    done = subprocess.run(command, check=True, env={**outside, **settings}, stdout=subprocess.PIPE, text=True)
    return done.stdout


def only_orders(folder: Path) -> Path:
    """The declaration of `orders` with its natural key and without its reference."""
    place = folder / "orders"
    place.mkdir(parents=True)
    (place / "contract.py").write_text((TPCH / "defs" / "orders" / "contract.py").read_text())
    document = yaml.safe_load((TPCH / "defs" / "orders" / "defs.yaml").read_text())
    attributes = document["attributes"]
    del attributes["references"]
    attributes["id_map"] = "none"
    attributes["target"]["key"] = {"column": "o_orderkey", "from": "natural"}
    (place / "defs.yaml").write_text(yaml.safe_dump(document))
    return folder


if __name__ == "__main__":
    main()
