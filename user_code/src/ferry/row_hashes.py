# pyright: reportAttributeAccessIssue=false
"""Sums of row hashes: what two sides compare to know that they hold the same rows, in whatever order.

PostgreSQL's hash of a row is itself a sum, of what the values of its columns hash to (each 31 times the one before).
A plain sum over rows therefore stays as it is when two rows swap their values of a column, and would be blind to it.
So every other bit of a hash is turned over before it is added up: that keeps hashes apart, and adding does not undo it.
"""

import pyarrow as pa
import pyarrow.compute as pc  # its functions are made at run time
from psycopg import sql

from ferry.arrow import constant
from ferry.sources.facts import exact_sum

_TURNED = 0x5555_5555_5555_5555


def turned(hash_: sql.Composable) -> sql.Composed:
    """A 64-bit hash as it is added up."""
    return sql.SQL("({} # {})").format(hash_, sql.Literal(_TURNED))


def added_up(hash_: sql.Composable) -> sql.Composed:
    """The sum over hashes, 0 of no row; an aggregate of type `numeric`."""
    return sql.SQL("coalesce(sum({}), 0)").format(turned(hash_))


def sum_of(hashes: pa.ChunkedArray) -> int:
    """The same sum over a column of hashes (int64) that are here."""
    return int(exact_sum(pc.bit_wise_xor(hashes, constant(_TURNED, pa.int64()))) or 0)
