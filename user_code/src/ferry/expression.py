"""SQL expressions over the columns of a row, computed for a whole batch by DuckDB in this process.

An expression sees the source's columns and nothing else: no files, no network, no other rows.
"""

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from ferry.errors import DeclarationError

_OTHER_ROWS = re.compile(r"\bover\s*\(|\bover\s+\w|\bselect\b", re.IGNORECASE)
_TOLD = 100
"""Rows of a part whose own error is looked up; the others are told the first one's."""


class Expression:
    """An expression over rows of one schema; bound, and its type known, before anything is read."""

    def __init__(self, text: str, schema: pa.Schema, where: str) -> None:
        """Bind it; raises `DeclarationError` if it cannot be, or looks at other rows."""
        self.text = text
        empty = schema.empty_table()
        nothing = pa.table([pa.nulls(2, f.type) for f in schema], schema=schema)
        if _OTHER_ROWS.search(_outside_quotes(text)):
            raise _refused("it looks at other rows, and a part has only some of them", where)
        try:
            self.type: pa.DataType = self._value(empty).type
            alone = len(self._value(nothing)) == 2
        except _duckdb().Error as error:
            raise _refused(_first(error), where) from None
        if not alone:
            raise _refused("it looks at other rows, and a part has only some of them", where)
        self.columns = tuple(name for name in schema.names if self._needs(empty, name))

    def values(self, table: pa.Table) -> tuple[pa.ChunkedArray, dict[int, str]]:
        """The value of each row, and for rows that have none the error."""
        table = table.select(self.columns or table.column_names[:1])
        try:
            return self._value(table), {}
        except _duckdb().Error as error:
            first = _first(error)
        # `try` gives NULL instead of an error; whether a NULL is an error the second column tells.
        values, known = self._run(table, f"try(({self.text})), try(({self.text}) is null)")
        wrong = [row for row, one in enumerate(known.is_null().to_pylist()) if one]
        errors = dict.fromkeys(wrong, first)
        for row in wrong[:_TOLD]:
            try:
                self._value(table.slice(row, 1))
            except _duckdb().Error as error:
                errors[row] = _first(error)
        return values, errors

    def _needs(self, empty: pa.Table, name: str) -> bool:
        """Whether the expression cannot be bound without a column."""
        rest = empty.drop_columns([name]) if empty.num_columns > 1 else pa.table({"": pa.nulls(0)})
        try:
            self._value(rest)
        except _duckdb().Error:
            return True
        return False

    def _value(self, table: pa.Table) -> pa.ChunkedArray:
        return self._run(table, f"({self.text})")[0]

    def _run(self, table: pa.Table, what: str) -> list[pa.ChunkedArray]:
        with _connection() as connection:
            connection.register("batch", table)
            found = connection.sql(f"select {what} from batch").to_arrow_table()  # noqa: S608 - it reaches this batch alone
            return found.columns


def words(text: str) -> str:
    """An expression without what does not matter in it: white space outside of quotes."""
    parts = re.split(r"('(?:[^']|'')*'|\"(?:[^\"]|\"\")*\")", text)
    return "".join(part if at % 2 else re.sub(r"\s+", " ", part) for at, part in enumerate(parts)).strip()


def _outside_quotes(text: str) -> str:
    return re.sub(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"", "''", text)


@functools.cache
def _duckdb() -> Any:
    import duckdb

    return duckdb


@contextmanager
def _connection() -> Iterator[Any]:
    """A connection in memory that reaches nothing outside of it; times are those of UTC."""
    connection = _duckdb().connect(":memory:", config={"threads": 1})
    try:
        connection.execute(
            "set timezone = 'UTC'; set enable_external_access = false; set memory_limit = '256MB'"
        )
        connection.execute("set lock_configuration = true")
        yield connection
    finally:
        connection.close()


def _refused(why: str, where: str) -> DeclarationError:
    return DeclarationError(
        "the expression cannot be computed",
        where=where,
        why=why,
        next="It is SQL over the columns of one row, as DuckDB knows it",
    )


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
