"""Tables as assets of the user's own hand them over, whole or in pieces, brought to a schema without any change.

Dagster takes no generator as an asset's value and no `Iterator[…]` as an annotation; `Frames` is both.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ferry.errors import DeclarationError, PermanentError

if TYPE_CHECKING:
    # Every run imports this module, few have to do with pandas, and it takes as long as half of Dagster.
    import pandas as pd

BATCH_ROWS = 65_536
"""Rows that are in memory at a time, if an asset reads or writes in pieces."""


class Frames:
    """DataFrames that come one after the other, once: `return Frames(build(month) for month in months)`.

    As the annotation of an input it asks for the rows in pieces of a few thousand.
    """

    def __init__(self, frames: Iterable[pd.DataFrame]) -> None:
        """Args: the frames, all with the same columns; a generator keeps memory small."""
        self._frames = frames

    def __iter__(self) -> Iterator[pd.DataFrame]:
        """Frame after frame."""
        return iter(self._frames)


def tables_of(value: object, where: str) -> Iterator[pa.Table]:
    """The rows of whatever an asset returned, in Arrow tables of at most `BATCH_ROWS` rows.

    Args:
        value: a pandas or Polars DataFrame, `Frames` or another iterable of DataFrames, an Arrow table, record batch
            or reader of batches.
        where: the asset, for errors.
    """
    empty: pa.Table | None = None
    some = False
    for piece in _pieces(value, where):
        # A piece without rows knows no types in pandas; it counts only if it is all that comes.
        if not piece.num_rows:
            empty = piece
        for start in range(0, piece.num_rows, BATCH_ROWS):
            some = True
            yield _plain(piece.slice(start, BATCH_ROWS), where)
    if empty is not None and not some:
        yield _plain(empty, where)


def fit(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """The table with exactly the columns and types of `schema`; values are carried exactly or not at all.

    Raises:
        PermanentError: a column is missing or not wanted, or a value would have to be changed.
    """
    have, want = set(table.column_names), set(schema.names)
    if have != want:
        told = [f"there is no column for {name!r}" for name in sorted(have - want)]
        told += [f"nothing comes for the column {name!r}" for name in sorted(want - have)]
        raise PermanentError(
            "the columns are not those that are kept", where=where, why="; ".join(told), next=_NEXT
        )
    columns = [_exactly(table.column(field.name), field, where) for field in schema]
    return pa.table(columns, schema=schema)


_NEXT = (
    "Return the columns that are there, or drop what is kept of this asset and materialize all of it again"
)


def _pieces(value: object, where: str) -> Iterator[pa.Table]:
    if isinstance(value, pa.Table):
        yield value
    elif isinstance(value, pa.RecordBatch):
        yield pa.Table.from_batches([value])
    elif (pandas := sys.modules.get("pandas")) and isinstance(value, pandas.DataFrame):
        yield pa.Table.from_pandas(value, preserve_index=False)
    elif hasattr(value, "to_arrow"):  # Polars
        yield value.to_arrow()  # type: ignore[union-attr]
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes | dict):
        for one in value:
            yield from _pieces(one, where)
    else:
        raise DeclarationError(
            f"a {type(value).__name__} cannot be kept as a table",
            where=where,
            next="Return a DataFrame, `Frames(…)` of several, an Arrow table or a RecordBatchReader",
        )


def _plain(table: pa.Table, where: str) -> pa.Table:
    """The table in the types that every place can keep: microseconds, text and whole numbers of one kind each."""
    fields = [pa.field(field.name, _plain_type(field.type)) for field in table.schema]
    columns = [_cast(table.column(f.name), f, where) for f in fields]
    return pa.table(columns, schema=pa.schema(fields))


def _plain_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(type_):
        return _plain_type(type_.value_type)
    if pa.types.is_decimal(type_):
        # Pandas has no precision: the digits of the first piece say nothing about the next.
        return pa.decimal128(38, type_.scale)
    if pa.types.is_timestamp(type_):
        return pa.timestamp("us", "UTC" if type_.tz else None)
    if pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_large_binary(type_) or pa.types.is_fixed_size_binary(type_):
        return pa.binary()
    if pa.types.is_date(type_):
        return pa.date32()
    if pa.types.is_time(type_):
        return pa.time64("us")
    if pa.types.is_unsigned_integer(type_):
        return pa.decimal128(20, 0) if type_ == pa.uint64() else pa.int64()
    return pa.float32() if pa.types.is_float16(type_) else type_


def _exactly(column: pa.ChunkedArray, field: pa.Field, where: str) -> pa.ChunkedArray:
    have, want = column.type, field.type
    if have == want or pa.types.is_null(have):
        return _cast(column, field, where)
    whole, exact = pa.types.is_integer, pa.types.is_decimal
    allowed = (
        # Integers that have gaps are floating point in pandas; Arrow refuses a fraction.
        (whole(want) and (whole(have) or exact(have) or pa.types.is_floating(have)))
        or (pa.types.is_float64(want) and (whole(have) or pa.types.is_floating(have)))
        or (exact(want) and (whole(have) or exact(have)))
        or (pa.types.is_timestamp(want) and pa.types.is_timestamp(have) and bool(want.tz) == bool(have.tz))
    )
    if not allowed:
        raise PermanentError(
            f"column {field.name!r} comes as {have} and is kept as {want}",
            where=where,
            why="turning one into the other could change a value",
            next=_NEXT,
        )
    if exact(want) and whole(have):
        column = pc.cast(column, pa.decimal128(19, 0))
    return _cast(column, field, where)


def _cast(column: pa.ChunkedArray, field: pa.Field, where: str) -> pa.ChunkedArray:
    if column.type == field.type:
        return column
    try:
        return pc.cast(column, field.type, safe=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise PermanentError(
            f"column {field.name!r} holds a value that {field.type} cannot carry exactly",
            where=where,
            why=str(error).splitlines()[0],
            next="Round or convert it in the asset, where everybody can see it",
        ) from None
