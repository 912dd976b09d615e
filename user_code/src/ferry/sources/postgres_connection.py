"""A connection to PostgreSQL that answers in Arrow's record batches."""

from collections.abc import Iterator

import adbc_driver_manager as adbc
import adbc_driver_postgresql
import pyarrow as pa

from ferry.catalogue import SAME_TEXT

BATCH_BYTES = 4 * 2**20
# A database without an encoding holds any bytes: they come as they are, and the contract says which are no text.
_ENCODING = """
select set_config('client_encoding', case current_setting('server_encoding') when 'SQL_ASCII' then 'SQL_ASCII'
                                     else 'UTF8' end, false)
"""


class ArrowConnection:
    """A connection that answers in record batches: the driver without its DB-API, which would import pandas."""

    def __init__(self, url: str) -> None:
        """Open it, in a transaction."""
        self._database = adbc_driver_postgresql.connect(url)
        self._connection = adbc.AdbcConnection(self._database)
        for statement in (SAME_TEXT, _ENCODING):
            for _ in self.stream(statement):
                pass
        self._connection.set_autocommit(False)

    def execute(self, statement: str) -> None:
        """Run a statement that has no result."""
        with adbc.AdbcStatement(self._connection) as prepared:
            prepared.set_sql_query(statement)
            prepared.execute_update()

    def stream(self, query: str) -> Iterator[pa.RecordBatch]:
        """The result, batch after batch; the first one is empty and carries the schema."""
        with adbc.AdbcStatement(self._connection) as prepared:
            prepared.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)})
            prepared.set_sql_query(query)
            handle, _ = prepared.execute_query()
            with pa.RecordBatchReader._import_from_c(handle.address) as reader:
                # Made of nulls: from Python objects, Arrow would look whether they are pandas', and import it.
                empty = [pa.nulls(0, field.type) for field in reader.schema]
                yield pa.RecordBatch.from_arrays(empty, schema=reader.schema)
                yield from reader

    def rollback(self) -> None:
        """End the transaction; what comes next begins one."""
        self._connection.rollback()

    def close(self) -> None:
        """Close connection and driver."""
        self._connection.close()
        self._database.close()


def first_line(error: BaseException) -> str:
    """The first line of what the driver says; those after it show the statement."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
