"""A table that assets of the user's own keep in a database: part of it replaced at once, and read when asked for.

Nothing here knows maps or the ledger; the tables of the migration itself are loaded by `ferry.load`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, LiteralString

import pgpq
import psycopg
import pyarrow as pa
from psycopg import sql

from ferry.catalogue import NATIVE, Column, Table, arrow_field, connect, describe, quoted
from ferry.errors import PermanentError
from ferry.frames import fit
from ferry.sources.postgres_connection import ArrowConnection
from ferry.sources.postgres_values import conform
from ferry.targets.errors import told
from ferry.targets.types import wire_type

if TYPE_CHECKING:
    import pandas as pd

_INCOMING = sql.Identifier("pg_temp", "incoming")
_ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class Place:
    """A table of a connection, or the rows of it that meet a condition over its columns."""

    url: str
    connection: str
    name: str
    condition: sql.Composable | None = None

    @property
    def where(self) -> sql.Composable:
        """The condition, `true` for the whole table."""
        return self.condition or sql.SQL("true")


class Relation:
    """Rows of a table that are read when they are asked for: whole, in batches, or through a query."""

    def __init__(self, place: Place, where: str = "") -> None:
        """Args: the table and which of its rows, and who asks, for errors."""
        self._place, self._for = place, where or place.name

    @property
    def name(self) -> str:
        """`schema.table`."""
        return self._place.name

    def schema(self) -> pa.Schema:
        """The columns as Arrow types; a type that Arrow has no counterpart for travels as text."""
        with connect(self._place.url, self._place.connection, autocommit=True) as connection:
            table = describe(connection, self._place.name, self._for)
        return pa.schema([arrow_field(column) for column in table.columns.values()])

    def reader(self) -> pa.RecordBatchReader:
        """All rows in batches of about 8 MiB; the statement runs as they are read."""
        schema = self.schema()
        return pa.RecordBatchReader.from_batches(schema, self._batches(schema))

    def to_pandas(self) -> pd.DataFrame:
        """All rows at once."""
        return self.reader().read_all().to_pandas()

    def among(self, column: str, values: Iterable[object]) -> Relation:
        """Those of the rows that have one of some values in a column: what belongs to one piece of another table.

        Each piece asks the database anew, so let the column have an index if there are many.
        """
        condition = sql.SQL("({} and {} = any({}))").format(
            self._place.where, sql.Identifier(column), sql.Literal(list(values))
        )
        return Relation(replace(self._place, condition=condition), self._for)

    def query(self, statement: LiteralString) -> pd.DataFrame:
        """The answer to a statement in which `relation` stands for these rows.

        `relation.query("select customer_id, sum(total_amount) from relation group by 1")` adds up in the database.
        """
        import pandas as pd

        whole = sql.SQL("with relation as (select * from {} where {}) ").format(
            sql.SQL(quoted(self._place.name)),  # type: ignore[arg-type]
            self._place.where,
        ) + sql.SQL(statement)
        with connect(self._place.url, self._place.connection, autocommit=True) as connection:
            try:
                cursor = connection.execute(whole)
                names = [column.name for column in cursor.description or ()]
                return pd.DataFrame(cursor.fetchall(), columns=names)
            except psycopg.Error as error:
                raise told(error, self._for) from None

    def _batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        columns = sql.SQL(", ").join(
            sql.SQL("{}").format(sql.Identifier(f.name))
            if not pa.types.is_string(f.type)
            else sql.SQL("{0}::text as {0}").format(sql.Identifier(f.name))
            for f in schema
        )
        query = sql.SQL("select {} from {} where {}").format(
            columns,
            sql.SQL(quoted(self._place.name)),  # type: ignore[arg-type]
            self._place.where,
        )
        arrow, some = ArrowConnection(self._place.url), False
        try:
            for batch in arrow.stream(query.as_string(None)):
                if batch.num_rows:
                    some = True
                    yield conform(batch, schema, self._for)
            if not some:
                # Columns come even if no rows do.
                yield pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in schema], schema=schema)
        finally:
            arrow.close()


def put(place: Place, tables: Iterable[pa.Table], where: str) -> Table:
    """Put rows in the place of those that meet the condition (all, without one), in one transaction.

    Rows are copied aside as they come, so memory holds one piece at a time and readers see the old rows until the new
    ones are there whole. A table that does not exist is made, with the types of the first piece.

    Args:
        place: the table and which of its rows are replaced.
        tables: the new rows in pieces.
        where: who writes, for errors.

    Returns:
        The table as it stands.

    Raises:
        PermanentError: columns or values do not fit, or a row does not meet the condition; nothing was changed.
    """
    pieces = iter(tables)
    first = next(pieces, None)
    if first is None:
        raise PermanentError(
            "no rows came, not even their columns", where=where, next="Return an empty DataFrame"
        )
    with connect(place.url, place.connection) as connection:
        try:
            table = _existing(connection, place, where) or _create(connection, place, first.schema, where)
            columns = _written(table, first.schema)
            schema = _incoming_schema(columns, first.schema)
            _copy(connection, first, pieces, schema, where)
            _all_inside(connection, place, where)
            # Other writers wait for the short rest of the transaction; readers never do.
            connection.execute(sql.SQL("lock table {} in share row exclusive mode").format(table.identifier))
            connection.execute(sql.SQL("delete from {} where {}").format(table.identifier, place.where))
            connection.execute(_insert(table, columns))
            connection.commit()
        except psycopg.Error as error:
            raise told(error, where) from None
    return table


def _existing(connection: psycopg.Connection, place: Place, where: str) -> Table | None:
    found = connection.execute("select to_regclass(%s)", (quoted(place.name),)).fetchone()
    return describe(connection, place.name, where) if found and found[0] else None


def _create(connection: psycopg.Connection, place: Place, schema: pa.Schema, where: str) -> Table:
    for field in schema:
        if pa.types.is_null(field.type) or pa.types.is_nested(field.type):
            raise PermanentError(
                f"the type of column {field.name!r} cannot be told"
                if pa.types.is_null(field.type)
                else f"column {field.name!r} holds {field.type}, and a table has one value in a place",
                where=where,
                next=f"Give it a type in the asset, or create {place.name} yourself first",
            )
    columns = [
        sql.SQL("{} {}").format(sql.Identifier(f.name), sql.SQL(_declared(f.type)))  # type: ignore[arg-type]
        for f in schema
    ]
    if "." in place.name:
        connection.execute(
            sql.SQL("create schema if not exists {}").format(sql.Identifier(place.name.split(".")[0]))
        )
    connection.execute(
        sql.SQL("create table if not exists {} ({})").format(
            sql.SQL(quoted(place.name)),  # type: ignore[arg-type]
            sql.SQL(", ").join(columns),
        )
    )
    return describe(connection, place.name, where)


def _declared(type_: pa.DataType) -> str:
    return f"numeric({type_.precision}, {type_.scale})" if pa.types.is_decimal(type_) else wire_type(type_)


def _written(table: Table, first: pa.Schema) -> list[Column]:
    """The columns that have to come; those that fill themselves are written only if they come."""
    return [
        column
        for column in table.columns.values()
        if not column.generated
        and (column.name in first.names or not (column.sequence or column.has_default))
    ]


def _incoming_schema(columns: list[Column], first: pa.Schema) -> pa.Schema:
    fields = []
    for column in columns:
        field = arrow_field(column)
        # A numeric without bounds travels as text from a source; here whatever exact number comes is as good.
        if column.base_type == "numeric" and pa.types.is_string(field.type):
            position = first.get_field_index(column.name)
            come = first.field(position).type if position >= 0 else pa.int64()
            field = field.with_type(come if pa.types.is_decimal(come) else pa.decimal128(38, 0))
        fields.append(field)
    return pa.schema(fields)


def _copy(
    connection: psycopg.Connection,
    first: pa.Table,
    others: Iterator[pa.Table],
    schema: pa.Schema,
    where: str,
) -> None:
    columns = [
        sql.SQL("{} {}").format(sql.Identifier(f.name), sql.SQL(wire_type(f.type)))  # type: ignore[arg-type]
        for f in schema
    ]
    connection.execute(
        sql.SQL("create temporary table incoming ({}) on commit drop").format(sql.SQL(", ").join(columns))
    )
    encoder = pgpq.ArrowToPostgresBinaryEncoder(schema)
    statement = sql.SQL("copy {} from stdin (format binary)").format(_INCOMING)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(encoder.write_header())
        piece: pa.Table | None = first
        while piece is not None:
            for batch in fit(piece, schema, where).to_batches(max_chunksize=_ROWS_AT_ONCE):
                copy.write(encoder.write_batch(batch))
            piece = next(others, None)
        copy.write(encoder.finish())


def _all_inside(connection: psycopg.Connection, place: Place, where: str) -> None:
    """A row outside the partition would be there twice when the partition is made again."""
    if place.condition is None:
        return
    row = connection.execute(
        sql.SQL("select count(*) from {} where ({}) is not true").format(_INCOMING, place.condition)
    ).fetchone()
    if row and row[0]:
        raise PermanentError(
            f"{row[0]:,} rows do not belong to the partition that is made",
            where=where,
            why=f"they do not meet {place.condition.as_string(connection)}",
            next="Return the rows of this partition only; nothing was changed",
        )


def _insert(table: Table, columns: list[Column]) -> sql.Composed:
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)
    values: list[Any] = [
        sql.Identifier(column.name)
        if column.base_type in NATIVE or column.base_type == "numeric"
        else sql.SQL("{}::{}").format(sql.Identifier(column.name), sql.SQL(column.type))  # type: ignore[arg-type]
        for column in columns
    ]
    return sql.SQL("insert into {} ({}) select {} from {}").format(
        table.identifier, names, sql.SQL(", ").join(values), _INCOMING
    )
