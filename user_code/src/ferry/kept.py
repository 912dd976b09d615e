"""Rows that are kept aside as JSON, so that each value reads back exactly: rejected ones, until they are replayed.

A value is written as PostgreSQL writes it as text. Two kinds cannot be: text that is no UTF-8 and text with NUL, which
JSON in PostgreSQL does not know. They are shown as well as can be, and the row says so under `NOT_WHOLE`: it is never
replayed, only read from the source again.
"""

import datetime
import json
import math
from typing import Any

import pyarrow as pa

from ferry.catalogue import key_text
from ferry.contract.carried import OUT_OF_RANGE, Unreadable, python_values
from ferry.sources.shape import UNFIT

NOT_WHOLE = "#not_whole"


def as_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Each row as a dictionary that `dumps` writes."""
    columns: dict[str, list[Any]] = {}
    broken: dict[int, list[str]] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        values = [value for chunk in column.chunks for value in python_values(chunk)]
        for row, value in enumerate(values):
            # A moment that Python cannot hold is written as PostgreSQL's text, which says all of it.
            unreadable = isinstance(value, Unreadable) and value.rule != OUT_OF_RANGE
            if unreadable or (isinstance(value, str) and "\x00" in value):
                broken.setdefault(row, []).append(name)
        columns[name] = values
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for row, names in broken.items():
        rows[row][NOT_WHOLE] = names
    for row in rows:
        if UNFIT in row and row[UNFIT] is None:  # nothing stood beside the row
            del row[UNFIT]
    return rows


def keys_of(table: pa.Table, names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The key of each row as it is kept aside, also one that is no UTF-8 or no moment that Python knows."""
    columns = (table.column(name).chunks for name in names)
    parts = ([key_text(value) for chunk in chunks for value in python_values(chunk)] for chunks in columns)
    return list(zip(*parts, strict=True))


def dumps(value: Any) -> str:
    """JSON in which every value reads back exactly; NUL shows as U+2400."""
    return json.dumps(_exact(value), ensure_ascii=False, default=_text)


def _exact(value: Any) -> Any:
    match value:
        case str():
            return value.replace("\x00", "\u2400")
        case dict():
            return {key: _exact(one) for key, one in value.items()}
        case list():
            return [_exact(one) for one in value]
        case float() if not math.isfinite(value):
            return str(value).replace("nan", "NaN").replace("inf", "Infinity")
        case _:
            return value


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return str(value)
