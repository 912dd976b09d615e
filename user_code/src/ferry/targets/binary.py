# pyright: reportAttributeAccessIssue=false
"""Arrow tables as PostgreSQL's binary `COPY`, and whole numbers back out of it."""

import numpy as np
import pgpq
import psycopg
import pyarrow as pa
import pyarrow.compute as pc  # its functions are made at run time
from psycopg import sql

from ferry.arrow import constant

# Encoded, they stay below the size from which the C library asks the system for new pages each time (`ferry.memory`).
_ROWS_AT_ONCE = 4_096


def sent_as(field: pa.Field) -> pa.Field:
    """How a column goes out: dates and timestamps as the numbers that PostgreSQL stores, others as they are."""
    if pa.types.is_timestamp(field.type):
        return pa.field(field.name, pa.int64())
    return pa.field(field.name, pa.int32()) if pa.types.is_date32(field.type) else field


def since_2000(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dates and timestamps counted from 2000 on, as PostgreSQL does.

    Its infinities, and years that Arrow's count from 1970 does not reach, came in wrapped around and go out so: the
    subtraction does not check, and the encoder's own would stop the chunk.
    """
    if pa.types.is_timestamp(column.type):
        return pc.subtract(pc.cast(column, pa.int64()), constant(946_684_800_000_000, pa.int64()))
    if pa.types.is_date32(column.type):
        return pc.subtract(pc.cast(column, pa.int32()), constant(10_957, pa.int32()))
    return column


def copy_in(connection: psycopg.Connection, into: sql.Composable, rows: pa.Table) -> int:
    """`COPY` rows into `into` (a table, or a table and its columns), in the transaction that is open.

    Args:
        connection: the target's.
        into: what follows `copy`; the columns have the types that `sent_as` stands for.
        rows: the columns in the same order, as `sent_as` and `since_2000` made them.

    Returns:
        How many rows the server says it has written.
    """
    encoder = pgpq.ArrowToPostgresBinaryEncoder(rows.schema)
    statement = sql.SQL("copy {} from stdin (format binary)").format(into)
    with connection.cursor() as cursor:
        with cursor.copy(statement) as copy:
            copy.write(encoder.write_header())
            for batch in rows.to_batches(max_chunksize=_ROWS_AT_ONCE):
                copy.write(encoder.write_batch(batch))
            copy.write(encoder.finish())
        return cursor.rowcount


def read_numbers(connection: psycopg.Connection, query: sql.Composed, columns: int) -> list[np.ndarray]:
    """The answer to a query whose columns are all `bigint`, called `n0`, `n1`, … and never NULL.

    The server strings them together: row by row, the client would need more time for them than for the rows they serve.

    Returns:
        An array of int64 for each column.
    """
    together = sql.SQL(", ").join(
        sql.SQL("coalesce(string_agg(int8send({}), ''::bytea), ''::bytea)").format(sql.Identifier(f"n{n}"))
        for n in range(columns)
    )
    answer = connection.execute(
        sql.SQL("select {} from ({}) q").format(together, query), binary=True
    ).fetchone()
    assert answer is not None
    return [np.frombuffer(body, ">i8").astype(np.int64) for body in answer]
