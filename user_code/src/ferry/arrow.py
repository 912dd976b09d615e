"""Arrow's arrays and constants from numbers and text and back, by their bytes.

`pa.array`, `pa.scalar` and every function that is given a Python object instead of either look whether that is
pandas', `to_numpy` goes the way to pandas as well, and each imports it for that: a quarter of a second of CPU, while
the first rows of a run wait.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def array_of(numbers: np.ndarray) -> pa.Array:
    """The same numbers, or bools, without NULL; numbers are not copied."""
    if numbers.dtype == np.bool_:
        type_, body = pa.bool_(), np.packbits(numbers, bitorder="little")
    else:
        type_, body = pa.from_numpy_dtype(numbers.dtype), np.ascontiguousarray(numbers)
    return pa.Array.from_buffers(type_, len(numbers), [None, pa.py_buffer(body)])


def numbers_of(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """The numbers, or bools, of a column without NULL."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    array = chunks[0] if len(chunks) == 1 else pa.concat_arrays([pa.nulls(0, column.type), *chunks])
    if not len(array):
        return np.empty(0, array.type.to_pandas_dtype())
    start, end, body = array.offset, array.offset + len(array), array.buffers()[1]
    if pa.types.is_boolean(array.type):
        bits = np.unpackbits(np.frombuffer(body, np.uint8), count=end, bitorder="little")
        return bits[start:].view(np.bool_)
    return np.frombuffer(body, array.type.to_pandas_dtype())[start:end]


def texts(values: Sequence[str | None], type_: pa.DataType) -> pa.Array:
    """Some texts, or NULL, as an array of a type of text."""
    bodies = [(value or "").encode() for value in values]
    ends = np.cumsum([0, *map(len, bodies)], dtype=np.int32)
    there = (
        np.packbits([value is not None for value in values], bitorder="little") if None in values else None
    )
    buffers = [
        there if there is None else pa.py_buffer(there),
        pa.py_buffer(ends),
        pa.py_buffer(b"".join(bodies)),
    ]
    return pa.Array.from_buffers(pa.string(), len(bodies), buffers).cast(type_)


def constant(value: int | str | None, type_: pa.DataType) -> pa.Scalar:
    """One value of a type: NULL, text, or a number of a type that numpy has as well."""
    if value is None:
        return pa.nulls(1, type_)[0]
    if isinstance(value, str):
        return texts([value], type_)[0]
    return array_of(np.array([value], type_.to_pandas_dtype()))[0]


def empty(schema: pa.Schema) -> pa.Table:
    """A table without rows."""
    return pa.Table.from_batches([], schema)


def first_rows(table: pa.Table, rows: int) -> pa.Table:
    """A copy of the first rows: a slice would keep the whole table in memory."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.slice(0, rows))
    return pa.ipc.open_stream(sink.getvalue()).read_all()
