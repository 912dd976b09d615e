"""Keys that occur more than once among the rows of a partition, found in memory that does not grow with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import polars as pl
import pyarrow as pa

KEYS_AT_ONCE = 500_000
_COUNT = "_rows"


def repeated_keys(
    tables: Callable[[], Iterable[pa.Table]], rows: int, key: list[str], updated_at: str | None
) -> pa.Table | None:
    """The repeated keys, in order; None if every key is there once.

    The rows are gone through once for each half million of them: a pass compares the keys that share a hash.

    Args:
        tables: gives the rows from their beginning, with the columns `key` and `updated_at`.
        rows: about how many there are.
        key: the key's columns.
        updated_at: adds the column `latest`, the newest value of a key, or NULL if it is not one row's alone.
    """
    passes, found = max(1, -(-rows // KEYS_AT_ONCE)), []
    for number in range(passes):
        kept = []
        for table in tables():
            frame = cast(pl.DataFrame, pl.from_arrow(table))
            if passes > 1:
                frame = frame.filter(frame.select(key).hash_rows(seed=7) % passes == number)
            kept.append(frame)
        if kept:
            found.append(_repeated(pl.concat(kept), key, updated_at))
    if not sum(frame.height for frame in found):
        return None
    return pl.concat(found).sort(key).to_arrow()


def _repeated(frame: pl.DataFrame, key: list[str], updated_at: str | None) -> pl.DataFrame:
    latest = []
    if updated_at:
        column = pl.col(updated_at)
        is_one = (column.null_count() == 0) & ((column == column.max()).sum() == 1)
        latest = [pl.when(is_one).then(column.max()).otherwise(None).alias("latest")]
    groups = frame.group_by(key).agg(pl.len().alias(_COUNT), *latest)
    return groups.filter(pl.col(_COUNT) > 1).drop(_COUNT)
