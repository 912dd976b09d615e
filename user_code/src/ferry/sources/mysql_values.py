# pyright: reportAttributeAccessIssue=false
"""MySQL's types and values: what a column is in PostgreSQL's words, how it is asked for, and what has no counterpart.

MySQL holds dates that no calendar has (`0000-00-00`) and numbers beyond 64 bits with a sign. Such a value is carried
beside its row, which the verdict rejects with the value as MySQL writes it. A column with a rule under `parse` is
read as that text instead, and the rule says what it means.
"""

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc  # its functions are made at run time

from ferry.catalogue import MOST_DIGITS, Column, arrow_field

_INTEGERS = {"tinyint": ("int2", "int2"), "smallint": ("int2", "int4"), "mediumint": ("int4", "int4"),
             "int": ("int4", "int8"), "bigint": ("int8", "int8"), "year": ("int2", "int2")}  # fmt: skip
"""What holds every value: with a sign, and without one (a `bigint unsigned` beyond 63 bits does not fit)."""
_SHOWN = {
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "float4": "real",
    "float8": "double precision",
}
_BYTES = ("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob")
_TEXTS = ("char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set")
_SHAPES = ("geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon",
           "geometrycollection", "geomcollection")  # fmt: skip
_SAME = {"json": "json", "uuid": "uuid", "inet4": "inet", "inet6": "inet", "date": "date"}
UNSIGNED_BEYOND = 2**63


@dataclass(frozen=True)
class Declared:
    """A column as `information_schema` has it: `type` is its first word, `written` all of it; `digits` of a second."""

    name: str
    type: str
    written: str
    not_null: bool
    precision: int | None
    scale: int | None
    length: int | None
    digits: int | None
    is_json: bool

    @property
    def is_unsigned(self) -> bool:
        """Whether it is a number without a sign."""
        return "unsigned" in self.written

    @property
    def may_be_beyond(self) -> bool:
        """Whether it can hold numbers that no `bigint` holds."""
        return self.type == "bigint" and self.is_unsigned

    def asked(self, name: str) -> str:
        """The expression that gives its value in full, `name` being its quoted name."""
        match self.type:
            case "bit":
                return f"lpad(bin({name} + 0), {self.precision}, '0')"
            case "float" | "double":  # by itself a float is shown with six digits
                return f"{name} * 1e0"
            case _:
                return name

    def column(self, *, as_text: bool) -> Column:
        """The column in PostgreSQL's words; a type that it has none for stays as it is, and the plan refuses it."""
        if as_text:
            return self._column("text", "text")
        match self.type:
            case of if of in _INTEGERS:
                base = _INTEGERS[of][self.is_unsigned]
                return self._column(_SHOWN[base], base)
            case "decimal":
                fits = (self.precision or 0) <= MOST_DIGITS
                return self._column(
                    f"numeric({self.precision},{self.scale})", "numeric", precision=self.precision,
                    scale=self.scale, arrow=None if fits else pa.string(),
                )  # fmt: skip
            case "float" | "double":
                base = "float4" if self.type == "float" else "float8"
                return self._column(_SHOWN[base], base)
            case "bit":
                return self._column(f"bit({self.precision})", "bit")
            case "datetime" | "timestamp":
                zone = "without" if self.type == "datetime" else "with"
                base = "timestamp" if self.type == "datetime" else "timestamptz"
                return self._column(f"timestamp({self.digits}) {zone} time zone", base, precision=self.digits)
            case "time":  # up to 838 hours, and below zero: a span and no time of day
                return self._column("interval", "interval")
            case of if self.is_json or of in _SAME:
                base = "json" if self.is_json else _SAME[of]
                return self._column(base, base)
            case "char" | "varchar":
                return self._column(f"character varying({self.length})", "varchar", length=self.length)
            case of if of in _TEXTS:
                return self._column("text", "text")
            case of if of in _BYTES or of in _SHAPES:
                return self._column("bytea", "bytea")
            case of:
                return self._column(of, of)

    def _column(self, shown: str, base: str, **more: Any) -> Column:
        return Column(self.name, shown, base, "b", self.not_null, False, None, False, **more)


@dataclass(frozen=True)
class Carried:
    """The values of a column as they travel, and by row those that do not fit, as MySQL writes them."""

    values: pa.Array
    unfit: dict[int, str]


def carried(column: Column, sent: pa.Array) -> Carried:
    """Values as the server sent them (binary) as those of the column."""
    type_ = arrow_field(column).type
    if pa.types.is_binary(type_):
        return Carried(sent, {})
    if pa.types.is_string(type_):
        return _text(sent, column)
    text = sent.cast(pa.string())
    try:
        if not (pa.types.is_temporal(type_) and pc.any(pc.starts_with(text, "0000")).as_py()):
            return Carried(_cast(text, type_), {})
    except pa.ArrowInvalid:
        pass
    # Rare: value by value, for the block in which there is one that does not fit.
    unfit: dict[int, str] = {}
    found = text.to_pylist()
    for row, value in enumerate(found):
        if value is not None and not _fits(value, type_):
            unfit[row], found[row] = value, None
    return Carried(_cast(pa.array(found, pa.string()), type_), unfit)


def _text(sent: pa.Array, column: Column) -> Carried:
    try:
        text = sent.cast(pa.string())
        return Carried(_short(text) if column.base_type == "interval" else text, {})
    except pa.ArrowInvalid:  # bytes that a rule reads as text, and that are none
        found: list[str | None] = []
        unfit: dict[int, str] = {}
        for row, value in enumerate(sent.to_pylist()):
            try:
                found.append(value and value.decode())
            except UnicodeDecodeError:
                unfit[row] = value.decode("utf-8", "backslashreplace")
                found.append(None)
        return Carried(pa.array(found, pa.string()), unfit)


def _cast(text: pa.Array, type_: pa.DataType) -> pa.Array:
    if pa.types.is_float32(type_):
        return text.cast(pa.float64()).cast(type_)
    if pa.types.is_timestamp(type_):  # the session's zone is UTC
        text = text.cast(pa.timestamp(type_.unit))
    return text.cast(type_)


def _fits(value: str, type_: pa.DataType) -> bool:
    if pa.types.is_integer(type_):
        return int(value) < UNSIGNED_BEYOND
    read: Callable[[str], Any] = (
        datetime.date.fromisoformat if pa.types.is_date(type_) else datetime.datetime.fromisoformat
    )
    try:
        read(value)
    except ValueError:
        return False
    return True


def _short(spans: pa.Array) -> pa.Array:
    """Spans of time as PostgreSQL writes them: without zeros at the end of a fraction."""
    cut = pc.replace_substring_regex(spans, r"(\.\d*?)0+$", r"\1")
    return pc.replace_substring_regex(cut, r"\.$", "")
