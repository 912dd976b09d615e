"""Hashes of rows, computed where the rows are: what two sides compare to know that they hold the same.

Each value is hashed by PostgreSQL's own function for its type, with a seed of its column's own, and the hashes of a
row are laid over each other by exclusive or. PostgreSQL's hash of a whole row (`hash_record_extended`) does not see the
sign of a number; it would make a row anew of the values, which costs as much as their hashes; and as it adds up what
they hash to, a sum of such hashes over rows does not notice when two rows swap a value. The sum of these does.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
from psycopg import sql

from ferry.sources.facts import exact_sum

FORMULA = 2
"""Counts what was meant by the hash of a row so far; hashes of another formula tell nothing here."""

_FUNCTIONS = {
    "int2": "hashint2extended", "int4": "hashint4extended", "int8": "hashint8extended", "float4": "hashfloat4extended",
    "float8": "hashfloat8extended", "text": "hashtextextended", "varchar": "hashtextextended",
    "timestamp": "timestamp_hash_extended", "time": "time_hash_extended", "uuid": "uuid_hash_extended",
}  # fmt: skip
"""Of the types whose function has one name in all versions of PostgreSQL that hash rows."""
_DAY = sql.SQL(
    "hashint4extended(case when isfinite({0}) then {0} - date '2000-01-01'"
    " when {0} = 'infinity' then 2147483647 when {0} = '-infinity' then -2147483648 end, {1})"
)
"""A date by the number that it is."""
_NUMERIC = sql.SQL("hash_numeric_extended({0}, case when {0} < 0 then {2} else {1} end)")
"""A number and its sign, which PostgreSQL leaves out: to it, 1.5 and -1.5 have one hash."""

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


def hash_of_values(values: Iterable[tuple[sql.Composable, str]]) -> sql.Composed:
    """The 64-bit hash of a row of these values, each with the name of its type; never NULL."""
    hashes = [_value_hash(value, type_, number) for number, (value, type_) in enumerate(values)]
    return sql.SQL("({})").format(sql.SQL(" # ").join(hashes))


def _value_hash(value: sql.Composable, type_: str, number: int) -> sql.Composed:
    seed = _bits(f"column {number}")
    if type_ == "date":
        hash_: sql.Composable = _DAY.format(value, seed)
    elif type_ == "numeric":
        hash_ = _NUMERIC.format(value, seed, _bits(f"negative {number}"))
    elif type_ in _FUNCTIONS:
        hash_ = sql.SQL("{}({}, {})").format(sql.SQL(_FUNCTIONS[type_]), value, seed)  # type: ignore[arg-type]
    else:
        return sql.SQL("hash_record_extended(row({}, true), {})").format(value, seed)
    return sql.SQL("coalesce({}, {})").format(hash_, _bits(f"null {number}"))


def _bits(name: str) -> sql.Literal:
    """64 bits for a name. Zero hashes to nearly the seed and NULL to a constant: neither may be a small number."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return sql.Literal(int.from_bytes(digest, "big", signed=True))


_SAMPLE = {
    "int2": "1::int2", "int4": "-1::int4", "int8": "5000000000::int8", "bool": "true", "numeric": "1.50::numeric",
    "text": "'text'::text collate \"C\"", "date": "date '2000-02-29'",
    "timestamp": "timestamp '1999-12-31 23:59:59.5'", "timestamptz": "timestamptz '2000-01-01 00:00:00+01'",
    "time": "time '12:30'", "uuid": "'6ba7b810-9dad-11d1-80b4-00c04fd430c8'::uuid", "bytea": "decode('00ff', 'hex')",
}  # fmt: skip
WAY = sql.SQL("getdatabaseencoding() || ' ' || {}").format(
    hash_of_values((sql.SQL(value), type_) for type_, value in _SAMPLE.items())  # type: ignore[arg-type]
)
"""How a server hashes, as text: of two that say the same, equal rows of `SAME_HASH` types have the same hash."""


def added_up(hash_: sql.Composable) -> sql.Composed:
    """The sum over hashes, 0 of no row; an aggregate of type `numeric`."""
    return sql.SQL("coalesce(sum({}), 0)").format(hash_)


def sum_of(hashes: pa.ChunkedArray) -> int:
    """The same sum over a column of hashes (int64) that are here."""
    return int(exact_sum(hashes) or 0)
