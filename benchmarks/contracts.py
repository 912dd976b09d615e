"""Contracts: rows a second of a compiled contract, and of Pydantic row by row, in one run.

Run `python benchmarks/contracts.py [--rows 1000000] [--json]`. The model has nine columns, among them a
pattern, an Enum and a Decimal; batches have 65,536 rows, as they come from an extract. Each figure is the
median of five runs after one to warm up. `row by row` is `model.model_validate(row, strict=True)` over
`batch.to_pylist()`, with the conversion to dictionaries and without.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import statistics
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from enum import Enum
from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, EmailStr, Field, ValidationError

from ferry.contract import Contract, compile_contract

BATCH = 65_536
PYDANTIC_ROWS = 100_000
EPOCH = dt.datetime(1992, 1, 1)


class Status(Enum):
    """What an order can be."""

    OPEN = "open"
    PAID = "paid"
    SHIPPED = "shipped"
    CANCELLED = "cancelled"


def is_known_country(code: str) -> str:
    """A rule in Python, as a user would write it."""
    if code not in {"DE", "FR", "NL", "PL", "SE"}:
        raise ValueError("unknown country")
    return code


class Order(Contract):
    """Nine columns."""

    id: Annotated[int, Field(gt=0)]
    customer_id: Annotated[int, Field(gt=0)]
    number: Annotated[str, Field(pattern=r"^[A-Z]{2}-\d{9}$")]
    status: Status
    total: Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=2)]
    placed_at: Annotated[dt.datetime, Field(ge=EPOCH)]
    shipped_on: dt.date | None
    priority: Annotated[int, Field(ge=1, le=5)]
    comment: Annotated[str, Field(max_length=80)] | None


class OrderWithEmail(Order):
    """The same and an e-mail address."""

    email: EmailStr


class OrderWithValidator(Order):
    """The same and a column with a validator in Python."""

    country: Annotated[str, AfterValidator(is_known_country)]


def batches(rows: int, faults: float = 0.0, numeric: str = "decimal128") -> Iterator[pa.RecordBatch]:
    """Rows of `Order` and the two columns more; a part of them with a bad number."""
    random = np.random.default_rng(20)
    for start in range(0, rows, BATCH):
        size = min(BATCH, rows - start)
        cents = random.integers(0, 10**8, size)
        numbers = np.char.add("AB-", np.char.zfill(random.integers(0, 10**9, size).astype(str), 9))
        numbers[random.random(size) < faults] = "nonsense"
        total = pa.array(cents).cast(pa.decimal128(19, 0)).cast(pa.decimal128(21, 2))
        if numeric == "text":
            opaque = pa.opaque(pa.string(), "numeric", "PostgreSQL")
            total = pa.ExtensionArray.from_storage(opaque, total.cast(pa.string()))
        day = random.integers(8035, 10_500, size)
        yield pa.record_batch(
            {
                "id": np.arange(start + 1, start + size + 1),
                "customer_id": random.integers(1, 10**6, size),
                "number": pa.array(numbers),
                "status": pa.array(random.choice([status.value for status in Status], size)),
                "total": total,
                "placed_at": pa.array(day * 86_400 * 10**6, pa.timestamp("us")),
                "shipped_on": pa.array(day.astype(np.int32), pa.int32(), mask=random.random(size) < 0.1).cast(
                    pa.date32()
                ),
                "priority": random.integers(1, 6, size).astype(np.int16),
                "comment": pa.array(
                    np.char.add("careful with order ", numbers), mask=random.random(size) < 0.2
                ),
                "email": pa.array(np.char.add(random.integers(0, 10**6, size).astype(str), "@example.com")),
                "country": pa.array(random.choice(["DE", "FR", "NL", "PL", "SE"], size)),
            }
        )


def rate(rows: int, work: Callable[[], object], runs: int = 5) -> int:
    """Rows a second: the median of some runs after one that does not count."""
    work()
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return round(rows / statistics.median(seconds))


def row_by_row(model: type[Contract], rows: list[dict[str, object]]) -> int:
    """What one would write without a compiled contract; returns how many rows were rejected."""
    rejected = 0
    for row in rows:
        try:
            model.model_validate(row, strict=True)
        except ValidationError:
            rejected += 1
    return rejected


def measure(rows: int) -> dict[str, int | float]:
    """Every figure, in rows a second, and how many times faster than Pydantic the compiled contract is."""
    clean = list(batches(rows))
    few = pa.Table.from_batches(clean).slice(0, PYDANTIC_ROWS)
    dictionaries = few.to_pylist()

    def judging(model: type[Contract], over: list[pa.RecordBatch]) -> int:
        contract = compile_contract(model)
        return rate(sum(batch.num_rows for batch in over), lambda: [contract.judge(batch) for batch in over])

    one_percent, all_bad = list(batches(rows, 0.01)), list(batches(PYDANTIC_ROWS, 1.0))
    figures: dict[str, int | float] = {
        "compiled, nine columns": judging(Order, clean),
        "compiled, numeric as PostgreSQL's text": judging(Order, list(batches(rows, numeric="text"))),
        "compiled, and an e-mail address": judging(OrderWithEmail, clean),
        "compiled, and a validator in Python": judging(OrderWithValidator, clean),
        "compiled, 1 % rejected": judging(Order, one_percent),
        "compiled, all rejected": judging(Order, all_bad),
        "Pydantic row by row": rate(len(dictionaries), lambda: row_by_row(Order, few.to_pylist()), 3),
        "Pydantic row by row, dictionaries ready": rate(
            len(dictionaries), lambda: row_by_row(Order, dictionaries), 3
        ),
    }
    figures["times as fast as row by row"] = round(
        figures["compiled, nine columns"] / figures["Pydantic row by row"], 1
    )
    return figures


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args()
    figures = measure(arguments.rows)
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        print(f"{name:45} {figure:>12,}")


if __name__ == "__main__":
    main()
