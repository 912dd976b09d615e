# pyright: reportAttributeAccessIssue=false
"""Sums of row hashes: what two sides compare to know that they hold the same rows, in whatever order.

PostgreSQL's hash of a row is itself a sum, of what the values of its columns hash to (each 31 times the one before).
A plain sum over rows therefore stays as it is when two rows swap their values of a column, and would be blind to it.
So every other bit of a hash is turned over before it is added up: that keeps hashes apart, and adding does not undo it.
"""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc  # its functions are made at run time
from psycopg import sql

from ferry.arrow import constant
from ferry.sources.facts import exact_sum

_TURNED = 0x5555_5555_5555_5555

WAY = sql.SQL(
    "getdatabaseencoding() || ' ' || hash_record_extended(row(1::int2, -1::int4, 5000000000::int8, true, 1.50::numeric,"
    " 'text'::text collate \"C\", date '2000-02-29', timestamp '1999-12-31 23:59:59.5',"
    " timestamptz '2000-01-01 00:00:00+01', time '12:30', '6ba7b810-9dad-11d1-80b4-00c04fd430c8'::uuid,"
    " decode('00ff', 'hex')), 0)"
)
"""How a server hashes, as text: of two that say the same, equal rows of `SAME_HASH` types have the same hash."""

SAME_HASH = {
    **dict.fromkeys(("int2", "int4", "int8"), "a whole number"), **dict.fromkeys(("text", "varchar"), "text"),
    **{name: name for name in ("bool", "date", "timestamp", "timestamptz", "time", "uuid", "bytea", "numeric")},
}  # fmt: skip
"""Types whose values a source hashes as the target does, and the kind of them within which that holds."""


@dataclass(frozen=True)
class SourceHashes:
    """The hashes of some rows (int64) as the source computed them, and what its server says to `WAY`."""

    values: pa.ChunkedArray
    way: str


def turned(hash_: sql.Composable) -> sql.Composed:
    """A 64-bit hash as it is added up."""
    return sql.SQL("({} # {})").format(hash_, sql.Literal(_TURNED))


def added_up(hash_: sql.Composable) -> sql.Composed:
    """The sum over hashes, 0 of no row; an aggregate of type `numeric`."""
    return sql.SQL("coalesce(sum({}), 0)").format(turned(hash_))


def sum_of(hashes: pa.ChunkedArray) -> int:
    """The same sum over a column of hashes (int64) that are here."""
    return int(exact_sum(pc.bit_wise_xor(hashes, constant(_TURNED, pa.int64()))) or 0)
