"""One table, no references: Ferry beside `COPY` of a file, pandas and dlt.

    python benchmarks/copy_orders.py [--scale 1] [--rounds 3]

`orders` of TPC-H goes from one database into a table of another that has its primary key. `COPY` only writes, from a
CSV file that lies there already: it is the limit. pandas reads with `read_sql(chunksize=10000)` and writes with
`to_sql(chunksize=10000)`; dlt reads with its Arrow backend and replaces the table. Ferry stages, judges, loads,
writes its ledger and reconciles.

`COPY` and pandas are timed in this process, which has imported what they need; Ferry and dlt are programs whose start
is in their time. So there are two figures for each way: the whole of what somebody waits for, and the seconds at work,
from the moment on when all that it needs is imported (Ferry: those of the run, as its report says). Medians of both go
to `out/bench/copy_orders.json`.
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
        at_work: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, move in ways.items():
                create_database(server, "target")
                with psycopg.connect(server.url("target")) as connection:
                    connection.execute(TABLE)
                began = time.monotonic()
                told = move()
                seconds[way].append(time.monotonic() - began)
                at_work[way].append(seconds[way][-1] if told is None else told)
                print(f"{way:<8} {seconds[way][-1]:7.2f} s, at work {at_work[way][-1]:7.2f} s", flush=True)
    with psycopg.connect(server.url("tpch")) as connection:
        row = connection.execute("select count(*) from orders").fetchone()
    rows = row[0] if row else 0
    speed = {way: round(rows / statistics.median(found)) for way, found in seconds.items()}
    working = {way: round(rows / statistics.median(found)) for way, found in at_work.items()}
    result = {
        "scale": options.scale,
        "rounds": options.rounds,
        "rows": rows,
        "rows_per_second": speed,
        "of_copy": round(speed["ferry"] / speed["copy"], 3),
        "times_pandas": round(speed["ferry"] / speed["pandas"], 1),
        "times_dlt": round(speed["ferry"] / speed["dlt"], 1),
        "seconds": {way: round(statistics.median(found), 2) for way, found in seconds.items()},
        "at_work": {
            "seconds": {way: round(statistics.median(found), 2) for way, found in at_work.items()},
            "rows_per_second": working,
            "of_copy": round(working["ferry"] / working["copy"], 3),
            "times_pandas": round(working["ferry"] / working["pandas"], 1),
            "times_dlt": round(working["ferry"] / working["dlt"], 1),
        },
    }
    out = Path("out/bench")
    out.mkdir(parents=True, exist_ok=True)
    (out / "copy_orders.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))
    server.stop()


def ways_to_move(server: EmbeddedServer, folder: Path) -> dict[str, Callable[[], float | None]]:
    """Each way as something to call; what starts a program of its own returns the seconds that this was at work."""
    source, target = server.url("tpch"), server.url("target")
    file = folder / "orders.csv"
    with (
        psycopg.connect(source) as connection,
        connection.cursor().copy("copy orders to stdout (format csv)") as copy,
        file.open("wb") as out,
    ):
        out.writelines(copy)

    def copied() -> None:
        with (
            psycopg.connect(target) as connection,
            connection.cursor().copy("copy orders from stdin (format csv)") as copy,
            file.open("rb") as rows,
        ):
            while block := rows.read(1 << 20):
                copy.write(block)

    def by_pandas() -> None:
        old, new = (
            sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
            for url in (source, target)
        )
        with old.connect().execution_options(stream_results=True) as connection:
            for frame in pd.read_sql("select * from orders", connection, chunksize=10_000):
                frame.to_sql("orders", new, if_exists="append", index=False, chunksize=10_000)
        old.dispose()
        new.dispose()

    def by_dlt() -> float:
        environment = {
            **os.environ,
            "RUNTIME__DLTHUB_TELEMETRY": "false",
            "DLT_DATA_DIR": str(folder / "dlt"),
        }
        program = (
            "import sys, time, dlt, sqlalchemy, psycopg2, pyarrow\n"
            "from dlt.sources.sql_database import sql_table\n"
            "began = time.monotonic()\n"
            "old, new, home = sys.argv[1:]\n"
            "table = sql_table(sqlalchemy.create_engine(old), table='orders', schema='public', backend='pyarrow',"
            " chunk_size=50_000)\n"
            "url = sqlalchemy.engine.make_url(new)\n"
            "credentials = {'drivername': 'postgresql', 'database': url.database, 'username': url.username,"
            " 'password': url.password, 'host': 'localhost', 'port': 5432, 'query': dict(url.query)}\n"
            "postgres = dlt.destinations.postgres(credentials)\n"
            "pipeline = dlt.pipeline('orders', destination=postgres, dataset_name='moved',"
            " pipelines_dir=home)\n"
            "pipeline.run(table, write_disposition='replace', loader_file_format='csv')\n"
            "print(f'at work: {time.monotonic() - began}')\n"
        )
        place = folder / f"dlt-{time.monotonic_ns()}"
        done = subprocess.run(
            [sys.executable, "-c", program, source, target, str(place)],
            check=True, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        return float(done.stdout.rpartition("at work: ")[2])

    declarations = only_orders(folder / "defs")

    def by_ferry() -> float:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FERRY_")},
            "FERRY_CONNECTIONS__LEGACY": source,
            "FERRY_CONNECTIONS__CRM": target,
            "FERRY_STAGE_URI": str(folder / f"stage-{time.monotonic_ns()}"),
            "DAGSTER_HOME": "",
        }
        program = Path(sys.executable).with_name("ferry")
        done = subprocess.run(
            [str(program), "run", "--defs", str(declarations), "--json"],
            check=True, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        return json.loads(done.stdout)["seconds"]

    return {"copy": copied, "ferry": by_ferry, "dlt": by_dlt, "pandas": by_pandas}


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
