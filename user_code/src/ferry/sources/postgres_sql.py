"""Pieces of SQL for PostgreSQL: what a table is cut by, which rows a partition has, and the hash of a row."""

from collections.abc import Callable, Sequence
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from ferry.catalogue import Column, Table
from ferry.declaration import Migration, Reference
from ferry.partition import Cut, Scheme, Window, cut_columns, through_path
from ferry.row_hashes import added_up, hash_of_values

HASHES_ROWS = 140_000
"""The first version of a server that can hash a row."""
_HASHED_EXACTLY = (
    "int2",
    "int4",
    "int8",
    "bool",
    "date",
    "timestamp",
    "timestamptz",
    "time",
    "uuid",
    "bytea",
)


def condition(where: str | None, windows: Sequence[Window]) -> sql.Composable:
    """The SQL condition of one partition over `t` and the columns of `cut`, one for each window."""
    parts: list[sql.Composable] = [sql.SQL("({})").format(sql.SQL(where))] if where else []  # type: ignore[arg-type]
    for position, window in enumerate(windows):
        cut = sql.Identifier("cut", f"c{position}")
        bounds: list[sql.Composable] = []
        if window.value is not None:
            bounds.append(sql.SQL("{}::text = {}").format(cut, sql.Literal(window.value)))
        if window.others:
            bounds.append(sql.SQL("{}::text <> all({})").format(cut, _texts(window.others)))
        if window.low is not None:
            bounds.append(sql.SQL("{} >= {}").format(cut, sql.Literal(window.low)))
        if window.high is not None:
            bounds.append(sql.SQL("{} < {}").format(cut, sql.Literal(window.high)))
        if bounds:
            inside = sql.SQL(" and ").join(bounds)
            parts.append(sql.SQL("({} or {} is null)").format(inside, cut) if window.or_null else inside)
    return sql.SQL(" and ").join(parts) if parts else sql.SQL("true")


def _texts(values: Sequence[str]) -> sql.Composable:
    return sql.SQL("{}::text[]").format(sql.Literal(list(values)))


def bucket_of(scheme: Scheme) -> sql.Composable:
    """The number of the key, among those of the scheme, that a row of `relation_of` belongs to."""
    number: sql.Composable = sql.SQL("0")
    for position, cut in enumerate(scheme.cuts):
        one = _window_number(cut, sql.Identifier("cut", f"c{position}"))
        number = sql.SQL("({} * {} + {})").format(number, sql.Literal(len(cut.windows)), one)
    return number


def _window_number(cut: Cut, column: sql.Composable) -> sql.Composable:
    """Which window of a cut holds a value; what is NULL, or in none by name, is in the first."""
    rest = cut.windows[1:]
    if not rest:
        return sql.SQL("0")
    if cut.listed:
        values = _texts([window.value or "" for window in rest])
        return sql.SQL("coalesce(array_position({}, {}::text), 0)").format(values, column)
    lows = [window.low for window in rest]
    bounds = sql.SQL("{}::{}[]").format(sql.Literal(lows), sql.SQL(_bound_type(lows[0])))
    return sql.SQL("coalesce(width_bucket({}::{}, {}), 0)").format(
        column, sql.SQL(_bound_type(lows[0])), bounds
    )


def _bound_type(low: Any) -> LiteralString:
    return "bigint" if isinstance(low, int) else "timestamp"


def relation_of(migration: Migration, name: str, there: Callable[[str], Table]) -> sql.Composable:
    """`table t`, with a lateral or joined `cut` whose c0 (and c1) are the values that it is cut by.

    `there` tells the table of an entity.
    """
    table, partition = there(name), migration[name].declaration.partition
    if partition is None:
        return sql.SQL("{} t").format(table.identifier)
    if partition.through is None:
        # Not a join: names for the columns, which the planner sees through.
        own = sql.SQL(", ").join(
            sql.SQL("t.{} as {}").format(sql.Identifier(column), sql.Identifier(f"c{position}"))
            for position, column in enumerate(cut_columns(migration, name))
        )
        return sql.SQL("{} t cross join lateral (select {}) cut").format(table.identifier, own)
    path = through_path(migration, name)
    reference = _reference(migration, name, path[1])
    return sql.SQL("{} t left join {} cut on {}").format(
        table.identifier, _cut(migration, path[1], there), _joined("t", "cut", reference.column)
    )


def _cut(migration: Migration, name: str, there: Callable[[str], Table]) -> sql.Composable:
    """A subquery (k0, k1, …, c0, …) that gives each key of a parent the values that it is cut by once."""
    entity, table = migration[name].declaration, there(name)
    keys = sql.SQL(", ").join(
        sql.SQL("t.{} as {}").format(sql.Identifier(column), sql.Identifier(f"k{position}"))
        for position, column in enumerate(entity.source.key)
    )
    relation = relation_of(migration, name, there)
    root = through_path(migration, name)[-1]
    cuts = [sql.Identifier(f"c{position}") for position, _ in enumerate(cut_columns(migration, root))]
    if table.is_unique(entity.source.key):
        values = sql.SQL(", ").join(sql.SQL("cut.{}").format(cut) for cut in cuts)
        return sql.SQL("(select {}, {} from {})").format(keys, values, relation)
    values = sql.SQL(", ").join(sql.SQL("min(cut.{0}) as {0}").format(cut) for cut in cuts)
    grouped = sql.SQL(", ").join(sql.Identifier("t", column) for column in entity.source.key)
    return sql.SQL("(select {}, {} from {} group by {})").format(keys, values, relation, grouped)


def _reference(migration: Migration, child: str, parent: str) -> Reference:
    return next(ref for ref in migration[child].declaration.references if ref.to == parent)


def _joined(child: str, parent: str, columns: Sequence[str]) -> sql.Composable:
    return sql.SQL(" and ").join(
        sql.SQL("{} = {}").format(sql.Identifier(child, column), sql.Identifier(parent, f"k{position}"))
        for position, column in enumerate(columns)
    )


def hash_of_rows(connection: psycopg.Connection, table: Table) -> sql.Composable:
    """The sum of the hashes of all rows of `t` as text; NULL where the server cannot hash a row."""
    if connection.info.server_version < HASHES_ROWS:
        return sql.SQL("null::text")
    return sql.SQL("{}::text").format(added_up(row_hash(table)))


def row_hash(table: Table) -> sql.Composable:
    """The 64-bit hash of a row of `t`.

    Values that are equal and not the same (1.0 and 1.00, -0 and 0, text under a collation that ignores case) go in
    so that they differ; so do those of types without a hash function, as text.
    """

    def value(column: Column) -> tuple[sql.Composed, str]:
        exact = column.base_type in _HASHED_EXACTLY or (
            column.base_type == "numeric" and column.scale is not None
        )
        text = column.base_type in ("text", "varchar")
        form = "t.{}" if exact else 't.{} collate "C"' if text else "t.{}::text"
        return sql.SQL(form).format(sql.Identifier(column.name)), column.base_type if exact else "text"

    return hash_of_values(map(value, table.columns.values()))
