"""SQLite's values: a column's declared type says what is meant, a value may be of any kind all the same.

A value that is not what its column declares is `MISFIT`: it is carried beside its row, which the verdict rejects with
the value as it was. Nothing is made to fit, since SQLite itself has no rule by which it could be.
"""

import datetime
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from ferry.catalogue import MOST_DIGITS, Column

MISFIT = object()
"""Stands for a value that is not of its column's type."""

_DIGITS = re.compile(r"(?:NUMERIC|DECIMAL|NUMBER)\s*\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?")


def column(name: str, declared: str, *, not_null: bool) -> Column:
    """The column in PostgreSQL's words: dates and booleans by their names, the rest by SQLite's affinity."""
    type_ = declared.upper().strip()
    precision = scale = None
    if match := _DIGITS.fullmatch(type_):
        precision, scale = int(match[1]), int(match[2] or 0)
        fits = 0 <= scale <= precision <= MOST_DIGITS
        shown, base = (f"numeric({precision},{scale})", "numeric") if fits else ("numeric", "numeric")
        precision, scale = (precision, scale) if fits else (None, None)
    elif type_ in ("BOOLEAN", "BOOL"):
        shown, base = "boolean", "bool"
    elif type_ == "DATE":
        shown, base = "date", "date"
    elif type_ in ("DATETIME", "TIMESTAMP"):
        shown, base = "timestamp without time zone", "timestamp"
    elif "INT" in type_:
        shown, base = "bigint", "int8"
    elif not type_ or any(word in type_ for word in ("CHAR", "CLOB", "TEXT")):
        shown, base = "text", "text"
    elif "BLOB" in type_:
        shown, base = "bytea", "bytea"
    elif any(word in type_ for word in ("REAL", "FLOA", "DOUB")):
        shown, base = "double precision", "float8"
    else:
        shown, base = "numeric", "numeric"
    return Column(name, shown, base, "b", not_null, False, None, False, precision, scale)


def fitting(of: Column) -> Callable[[Any], Any]:
    """A function from a value of SQLite to the column's own, or to `MISFIT`; None stays None."""
    base = of.base_type
    if base == "numeric":
        return _exact(of.precision, of.scale)
    return _FITTING[base]


def _text(value: Any) -> Any:
    if type(value) is not str:
        return None if value is None else MISFIT
    try:
        value.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8, as `decoded` let them through
        return MISFIT
    return value


def _boolean(value: Any) -> Any:
    return value if value is None else bool(value) if type(value) is int and value in (0, 1) else MISFIT


def _date(value: Any) -> Any:
    if value is None or (isinstance(value, str) and _DATE.fullmatch(value)):
        try:
            return value and datetime.date.fromisoformat(value)
        except ValueError:
            return MISFIT
    return MISFIT


def _moment(value: Any) -> Any:
    if isinstance(value, str) and (_DATE.fullmatch(value) or _MOMENT.fullmatch(value)):
        try:
            return datetime.datetime.fromisoformat(value)
        except ValueError:
            return MISFIT
    return None if value is None else MISFIT


def _of(kind: type) -> Callable[[Any], Any]:
    return lambda value: value if value is None or type(value) is kind else MISFIT


_FITTING: dict[str, Callable[[Any], Any]] = {
    "int8": _of(int), "float8": _of(float), "bytea": _of(bytes), "text": _text, "bool": _boolean, "date": _date,
    "timestamp": _moment,
}  # fmt: skip


def _exact(precision: int | None, scale: int | None) -> Callable[[Any], Any]:
    """Whole numbers, and the shortest number that SQLite's own floating point value is read back from."""

    def fit(value: Any) -> Any:
        if value is None:
            return None
        if type(value) not in (int, float):
            return MISFIT
        try:
            number = Decimal(repr(value))
        except InvalidOperation:
            return MISFIT
        if not number.is_finite():
            return MISFIT
        if precision is None or scale is None:
            return format(number, "f")
        places = -int(number.normalize().as_tuple().exponent)
        return number if places <= scale and number.adjusted() < precision - scale else MISFIT

    return fit


def decoded(body: bytes) -> str:
    """Text as SQLite gives it, which may be no UTF-8."""
    return body.decode("utf-8", "surrogateescape")


def shown(value: Any) -> Any:
    """A value that does not fit, as JSON and people can read it."""
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return str(value) if isinstance(value, float) else value
