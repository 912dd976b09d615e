"""Ways to read Arrow out of PostgreSQL and to write it back, side by side in one run.

    python benchmarks/paths.py [--rows 1000000] [--rounds 3]

Reads and writes `orders` and `lineitem` of TPC-H in the server of `benchmarks/migration.py` (made at scale 1 if it is
not there). Medians of rows a second go to `out/bench/paths.json`; `docs/adr` says what was chosen.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import adbc_driver_postgresql.dbapi as adbc
import pgpq
import psycopg
import pyarrow as pa
import pyarrow.csv as pc
from migration import DURABLE, fill

from ferry.catalogue import Table, arrow_field, describe
from ferry.sources.postgres_connection import ArrowConnection
from ferry.sources.postgres_values import conform
from ferry.targets.types import wire_type
from shop.demo.server import EmbeddedServer

TABLES = ("orders", "lineitem")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", type=Path, default=Path(tempfile.gettempdir()) / "ferry-bench")
    options = parser.parse_args()
    server = EmbeddedServer(options.home, DURABLE).start()
    fill(server, 1.0)
    url = server.url("tpch")
    speeds: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for name in TABLES:
            with psycopg.connect(url) as connection:
                table = describe(connection, name, "benchmark")
            query = f"select * from {name} limit {options.rows}"
            batches: list[pa.RecordBatch] = []
            for way, read in READERS.items():
                rows, seconds = timed(lambda read=read, q=query, t=table: read(url, q, t))
                speeds.setdefault(f"read {name}: {way}", []).append(rows / seconds)
            arrow = ArrowConnection(url)
            schema = pa.schema([arrow_field(column) for column in table.columns.values()])
            batches = [conform(batch, schema, name) for batch in arrow.stream(query)][1:]
            arrow.close()
            for way, write in WRITERS.items():
                rows, seconds = timed(lambda write=write, b=batches, t=table: write(url, b, t))
                speeds.setdefault(f"write {name}: {way}", []).append(rows / seconds)
    medians = {name: round(statistics.median(found)) for name, found in speeds.items()}
    out = Path("out/bench")
    out.mkdir(parents=True, exist_ok=True)
    (out / "paths.json").write_text(json.dumps(medians, indent=1))
    for name, speed in medians.items():
        print(f"{speed:>12,} rows/s  {name}")


def timed(call: Callable[[], int]) -> tuple[int, float]:
    """Rows and seconds of one call."""
    began = time.monotonic()
    return call(), time.monotonic() - began


def read_adbc(url: str, query: str, table: Table) -> int:
    """ADBC's binary COPY, then the types that Ferry carries (numerics as decimals)."""
    schema = pa.schema([arrow_field(column) for column in table.columns.values()])
    arrow = ArrowConnection(url)
    rows = sum(conform(batch, schema, table.name).num_rows for batch in arrow.stream(query))
    arrow.close()
    return rows


def read_csv(url: str, query: str, table: Table) -> int:
    """`COPY … TO STDOUT (FORMAT csv)` into Arrow's CSV reader."""
    types = {c.name: arrow_field(c).type for c in table.columns.values()}
    with (
        psycopg.connect(url) as connection,
        connection.cursor().copy(f"copy ({query}) to stdout (format csv)") as copy,
    ):
        reader = pc.open_csv(
            pa.PythonFile(_Blocks(iter(copy.read, b""))),
            read_options=pc.ReadOptions(column_names=list(types), block_size=4 << 20),
            parse_options=pc.ParseOptions(newlines_in_values=True),
            convert_options=pc.ConvertOptions(
                column_types=types, strings_can_be_null=True, quoted_strings_can_be_null=False
            ),
        )
        return sum(batch.num_rows for batch in reader)


def read_rows(url: str, query: str, table: Table) -> int:
    """A server-side cursor of psycopg, rows to Arrow."""
    names, rows = list(table.columns), 0
    schema = pa.schema([arrow_field(column) for column in table.columns.values()])
    with psycopg.connect(url) as connection, connection.cursor("reader") as cursor:
        cursor.itersize = 20_000
        cursor.execute(query)
        while found := cursor.fetchmany(20_000):
            columns = zip(*found, strict=True)
            rows += pa.table(
                [pa.array(c, schema.field(n).type) for n, c in zip(names, columns, strict=True)], names
            ).num_rows
    return rows


def write_pgpq(url: str, batches: list[pa.RecordBatch], table: Table) -> int:
    """pgpq's binary encoding into COPY."""
    with _temporary(url, batches, table) as (connection, copy_to):
        encoder = pgpq.ArrowToPostgresBinaryEncoder(batches[0].schema)
        with connection.cursor().copy(f"{copy_to} (format binary)") as copy:
            copy.write(encoder.write_header())
            for batch in batches:
                copy.write(encoder.write_batch(batch))
            copy.write(encoder.finish())
    return sum(batch.num_rows for batch in batches)


def write_csv(url: str, batches: list[pa.RecordBatch], table: Table) -> int:
    """Arrow's CSV writer into COPY."""
    with (
        _temporary(url, batches, table) as (connection, copy_to),
        connection.cursor().copy(f"{copy_to} (format csv)") as copy,
    ):
        for batch in batches:
            block = io.BytesIO()
            pc.write_csv(batch, block, pc.WriteOptions(include_header=False))
            copy.write(block.getbuffer())
    return sum(batch.num_rows for batch in batches)


def write_adbc(url: str, batches: list[pa.RecordBatch], table: Table) -> int:
    """`adbc_ingest` into a temporary table of its own making."""
    with adbc.connect(url) as connection, connection.cursor() as cursor:
        reader = pa.RecordBatchReader.from_batches(batches[0].schema, batches)
        cursor.adbc_ingest(f"written_{table.name}", reader, mode="create", temporary=True)
    return sum(batch.num_rows for batch in batches)


READERS = {"ADBC": read_adbc, "COPY csv, Arrow's reader": read_csv, "psycopg cursor": read_rows}
WRITERS = {"pgpq binary": write_pgpq, "Arrow's csv writer": write_csv, "adbc_ingest": write_adbc}


class _temporary:  # noqa: N801 - used as a function
    def __init__(self, url: str, batches: list[pa.RecordBatch], table: Table) -> None:
        self._connection = psycopg.connect(url)
        columns = ", ".join(f"{f.name} {wire_type(f.type)}" for f in batches[0].schema)
        self._connection.execute(f"create temp table written ({columns})".encode())
        del table

    def __enter__(self) -> tuple[psycopg.Connection, str]:
        return self._connection, "copy written from stdin"

    def __exit__(self, *_: object) -> None:
        self._connection.commit()
        self._connection.close()


class _Blocks(io.RawIOBase):
    """An iterator of blocks as the file that Arrow's reader wants."""

    def __init__(self, blocks: Iterator[bytes | memoryview]) -> None:
        self._blocks, self._rest = blocks, b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts, have = [self._rest], len(self._rest)
        while have < size and (block := next(self._blocks, b"")):
            parts.append(bytes(block))
            have += len(block)
        whole = b"".join(parts)
        self._rest = whole[size:]
        return whole[:size]


if __name__ == "__main__":
    main()
