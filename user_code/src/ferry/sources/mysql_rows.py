"""The rows of a MySQL result, read off the socket by columns.

What makes a driver slow is a Python object for each value. The server sends each value as its length and its bytes:
here only the borders of the rows are found one by one, those of the values for all rows of a block at once.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pymysql
from pymysql import err

BLOCK = 4 * 2**20
"""Bytes of rows that are handed on together; a larger row comes by itself."""
_READ = 256 * 2**10
_HEADER = 4
_MOST = 0xFFFFFF
"""Bytes in one packet; a row of more goes on in the next."""
_LONG = {252: 2, 253: 3, 254: 8}
"""What stands in place of a length that takes that many bytes more."""
_NULL, _END, _ERROR = 251, 254, 255


def stream(connection: "pymysql.Connection[Any]", query: str) -> Iterator[list[pa.Array]]:
    """Send a query and read its rows as they come: for each block of them, the columns as binary arrays.

    The connection is busy until the end; if the rows are left before, it can only be closed.

    Raises:
        pymysql.MySQLError: what the server says, at once or amid the rows.
    """
    connection.query(query, unbuffered=True)
    result, source = connection._result, connection._rfile  # type: ignore[attr-defined]
    # The rows are ours from here on: when the driver lets go of its result, it would read them to the end.
    result.unbuffered_active, result.connection = False, None
    width = result.field_count
    held, ended = bytearray(), False
    while not ended:
        at, starts = 0, []
        while not ended and at < BLOCK:
            at, ended = _borders(held, at, starts)
            if ended or at >= BLOCK:
                break
            more = source.read1(_READ)
            if not more:
                raise err.OperationalError(2013, "the connection was closed while rows were read")
            held += more
        body, held = held, held[at:]
        if starts:
            yield _columns(body, np.array(starts, dtype=np.int64), width)


def _borders(held: bytearray, at: int, starts: list[int]) -> tuple[int, bool]:
    """Find the rows that are whole: their beginnings go to `starts`.

    Returns:
        Where the first row begins that is not whole, and whether there is none to come.
    """
    length = len(held)
    while at + _HEADER < length:
        begin = at + _HEADER
        size = held[at] | held[at + 1] << 8 | held[at + 2] << 16
        if held[begin] == _END and size < 9:
            return at, True
        end = begin + size
        if end > length:
            break
        if held[begin] == _ERROR:
            err.raise_mysql_exception(bytes(held[begin:end]))
        if size == _MOST:
            end = _joined(held, end)
            if not end:
                break
            length = len(held)
        starts.append(begin)
        at = end
    return at, False


def _joined(held: bytearray, end: int) -> int:
    """Take the headers out of a row that goes on at `end`; returns where it ends then, 0 if it is not all there yet."""
    headers, size = [], _MOST
    while size == _MOST:
        if end + _HEADER > len(held):
            return 0
        size = int.from_bytes(held[end : end + 3], "little")
        headers.append(end)
        end += _HEADER + size
    if end > len(held):
        return 0
    for header in reversed(headers):
        del held[header : header + _HEADER]
    return end - _HEADER * len(headers)


def _columns(body: bytearray, at: np.ndarray, width: int) -> list[pa.Array]:
    """Each column of some rows, given where the rows begin."""
    seen, found = np.frombuffer(body, dtype=np.uint8), []
    every_other = np.arange(0, 2 * len(at) - 1, 2)
    for _ in range(width):
        first = seen[at]
        size, begin = first.astype(np.int64), at + 1
        for mark, bytes_ in _LONG.items():
            if len(rows := np.flatnonzero(first == mark)):
                size[rows] = sum(seen[begin[rows] + n].astype(np.int64) << 8 * n for n in range(bytes_))
                begin[rows] += bytes_
        is_null = first == _NULL
        size[is_null] = 0
        at = begin + size
        # Values, and between them what is none: a binary array over the bytes as they lie, of which every other counts.
        borders = np.empty(2 * len(at), dtype=np.int32)
        borders[0::2], borders[1::2] = begin, at
        lying = pa.BinaryArray.from_buffers(
            pa.binary(), 2 * len(at) - 1, [None, pa.py_buffer(borders), pa.py_buffer(body)]
        )
        found.append(lying.take(pa.array(every_other, mask=is_null)))
    return found
