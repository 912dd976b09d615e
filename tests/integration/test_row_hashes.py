"""The hash of a row tells rows apart that differ in a value, in which column has it, or in which row."""

import itertools
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from ferry.row_hashes import added_up, hash_of_values
from ferry.targets.postgres.hashes import HASHED
from shop.demo.server import EmbeddedServer

VALUES = {
    "int2": "0 1 -1 32767", "int4": "0 1 -1 2147483647", "int8": "0 1 -1 9223372036854775807",
    "float4": "0 1.5 NaN -Infinity", "float8": "0 1.5 NaN -Infinity", "numeric": "0 1.5 -1.5 1e40",
    "text": "a b A é", "varchar": "a b A é", "bpchar": "a b A é", "bool": "true false",
    "date": "2000-01-01 1999-12-31 infinity -infinity 5874897-12-31 0001-01-01",
    "timestamp": "2000-01-01 1999-12-31T23:59:59.999999 infinity -infinity",
    "timestamptz": "2000-01-01T00:00+00 2000-01-01T00:00+01 infinity -infinity",
    "time": "00:00 12:30 24:00", "uuid": "6ba7b810-9dad-11d1-80b4-00c04fd430c8 6ba7b810-9dad-11d1-80b4-00c04fd430c9",
    "bytea": r"\x00 \x0000 \xff", "inet": "10.0.0.1 10.0.0.0/8 ::1",
    "cidr": "10.0.0.0/8 10.0.0.0/16 ::/0",
}  # fmt: skip
"""Of each type some values that are not equal, as text without blanks.

Of `numeric`, `NaN` and the infinite ones are left out: to PostgreSQL all of them have one hash.
"""


@pytest.fixture(scope="module")
def connection(server: EmbeddedServer) -> Iterator[psycopg.Connection]:
    """One that asks, and writes nothing."""
    with server.admin() as admin:
        yield admin


def hashed(type_: str) -> sql.Composed:
    """The hash of two columns of a type."""
    return hash_of_values([(sql.SQL("a"), type_), (sql.SQL("b"), type_)])


@pytest.mark.parametrize("type_", HASHED)
def test_rows_that_differ_have_different_hashes(connection: psycopg.Connection, type_: str) -> None:
    """All pairs of values and NULL, in either column; no hash is NULL."""
    values = [None, *VALUES[type_].split()]
    rows = connection.execute(
        sql.SQL("select {} from unnest({v}::{t}[]) a, unnest({v}::{t}[]) b").format(
            hashed(type_), v=sql.Literal(values), t=sql.Identifier(type_)
        )
    ).fetchall()
    assert len({hash_ for (hash_,) in rows} - {None}) == len(values) ** 2


@pytest.mark.parametrize("type_", HASHED)
def test_rows_that_swap_a_value_have_another_sum(connection: psycopg.Connection, type_: str) -> None:
    """Two rows, each with each of two values in its columns, before and after they swap those of the second."""
    for one, other in itertools.combinations([None, *VALUES[type_].split()], 2):
        rows = sql.SQL("select {} from (values (1, {x}::{t}, {x}::{t}), (2, {y}::{t}, {y}::{t})) r(n, a, b)")
        swapped = sql.SQL(
            "select {} from (values (1, {x}::{t}, {y}::{t}), (2, {y}::{t}, {x}::{t})) r(n, a, b)"
        )
        total = added_up(hashed(type_))
        found = [
            connection.execute(
                query.format(total, x=sql.Literal(one), y=sql.Literal(other), t=sql.Identifier(type_))
            ).fetchone()
            for query in (rows, swapped)
        ]
        assert found[0] != found[1], (one, other)


@pytest.mark.parametrize(("type_", "one", "other"), [
    ("numeric", "1.0", "1.00"), ("float8", "0", "-0"), ("timestamptz", "2000-01-01T00:00+00", "2000-01-01T01:00+01"),
])  # fmt: skip
def test_values_that_are_equal_have_one_hash(
    connection: psycopg.Connection, type_: str, one: str, other: str
) -> None:
    """As equality in the target says."""
    query = sql.SQL("select {} from (values ({x}::{t}, null::{t}), ({y}::{t}, null::{t})) r(a, b)").format(
        hashed(type_), x=sql.Literal(one), y=sql.Literal(other), t=sql.Identifier(type_)
    )
    assert len(set(connection.execute(query).fetchall())) == 1
