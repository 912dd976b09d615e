# pyright: reportAttributeAccessIssue=false
"""Parse: read text as the values that a declaration says it holds, before the contract sees them.

Nothing is guessed: without a rule text stays text. A text that its rule cannot read whole is reported as it was, with
its row; the contract then judges what the other columns hold.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc  # its functions are made at run time

from ferry.catalogue import MOST_DIGITS, Column, arrow_field
from ferry.contract.carried import Unreadable, python_values
from ferry.declaration import nearest
from ferry.errors import DeclarationError
from ferry.value_rules import ParseRule

TYPES = {
    "text": "text", "integer": "int8", "float": "float8", "boolean": "bool", "date": "date", "time": "time",
    "timestamp": "timestamp", "timestamptz": "timestamptz", "numeric": "numeric", "json": "json", "jsonb": "jsonb",
}  # fmt: skip
"""What text can be read as, in the words of a declaration, and PostgreSQL's name of it."""
_SHOWN = {"int8": "bigint", "float8": "double precision", "bool": "boolean"}
_NUMERIC = re.compile(r"numeric\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)")
_ISO = {"date": "%Y-%m-%d", "timestamp": "%Y-%m-%dT%H:%M:%S%.f", "time": "%H:%M:%S%.f"}
_LIKE_ISO = {
    "date": r"^\d{4}-\d\d-\d\d$",
    "timestamp": r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?$",
    "time": r"^\d\d:\d\d:\d\d(\.\d{1,6})?$",
}
_ZONE_AT_END = r"(Z|[+-]\d\d:?\d\d)$"


def column_as(name: str, type_: str, where: str, column: Column | None = None) -> Column:
    """A column of a type as declarations write it (`integer`, `numeric(12,2)`), or a `DeclarationError`."""
    match = _NUMERIC.fullmatch(type_)
    word = "numeric" if match else type_
    if word not in TYPES:
        raise DeclarationError(
            f"there is no type {type_!r} to read a value as",
            where=where,
            next=nearest(type_, (*TYPES, "numeric(12,2)"), "The types are"),
        )
    precision, scale = (int(match[1]), int(match[2] or 0)) if match else (None, None)
    if precision is not None and scale is not None and not 0 <= scale <= precision <= MOST_DIGITS:
        raise DeclarationError(
            f"{type_} cannot be", where=where, next=f"Up to {MOST_DIGITS} digits, or `numeric` for any number"
        )
    base = TYPES[word]
    shown = type_ if match else _SHOWN.get(base, base)
    plain = column or Column(name, shown, base, "b", False, False, None, False)
    return replace(
        plain, type=shown, base_type=base, category="b", precision=precision, scale=scale,
        length=None, arrow=None, shape="",
    )  # fmt: skip


@dataclass(frozen=True)
class Read:
    """One column of text, read: the values, NULL where a text could not be, and which rows those are."""

    values: pa.ChunkedArray
    unread: np.ndarray


class Reader:
    """Reads text by one rule; made once, for it checks the rule."""

    def __init__(self, column: Column, rule: ParseRule, where: str) -> None:
        """Args: the column as `column_as` makes it, its rule, and the place in the declaration."""
        self.rule, self.column, self.base = rule, column, column.base_type
        self.arrow = arrow_field(column).type
        if rule.decimal == rule.thousands and self.base != "int8":
            raise DeclarationError("`decimal` and `thousands` are the same character", where=where)
        if rule.format and self.base not in (*_ISO, "timestamptz"):
            raise DeclarationError(f"`format` says nothing of a {rule.type}", where=f"{where}.format")
        if (rule.zone is not None) != (
            self.base == "timestamptz" and not (rule.format and "%z" in rule.format)
        ):
            raise DeclarationError(
                "`zone` goes with `type: timestamptz` whose `format` has no `%z`",
                where=where,
                next="Add `zone: Europe/Berlin`, or `%z` to the format; a timestamp without a zone takes neither",
            )
        if rule.zone is not None:
            try:
                ZoneInfo(rule.zone)
            except (KeyError, ValueError, OSError):
                raise DeclarationError(
                    f"there is no zone {rule.zone!r}",
                    where=f"{where}.zone",
                    next="Write it as `Europe/Berlin`",
                ) from None

    def read(self, text: pa.ChunkedArray) -> Read:
        """Read every text; NULL stays NULL."""
        text, broken = _without_broken(text)
        series = pl.Series(pl.from_arrow(text))
        if self.rule.trim:
            series = series.str.strip_chars()
        none = [*self.rule.null, *([""] if self.rule.empty_is_null else [])]
        if none:
            series = series.set(series.is_in(none).fill_null(False), None)
        values = self._values(series)
        found = values if isinstance(values, pa.Array) else values.to_arrow()
        if self.base == "text":
            found = pc.cast(found, pa.string())
        unread = (series.is_not_null() & pl.Series(pl.from_arrow(pc.is_null(found)))).to_numpy()
        return Read(
            pa.chunked_array([pc.cast(found, self.arrow)]), unread if broken is None else unread | broken
        )

    def _values(self, series: pl.Series) -> pl.Series | pa.Array:
        match self.base:
            case "text":
                return series
            case "int8":
                return self._number(series, r"^[+-]?\d+$").cast(pl.Int64, strict=False)
            case "float8":
                floats = self._number(series, r"^[+-]?\d+(\.\d+)?([eE][+-]?\d+)?$").cast(
                    pl.Float64, strict=False
                )
                return floats.set(floats.is_infinite().fill_null(False), None)
            case "numeric":
                return self._exact(self._number(series, r"^[+-]?\d+(\.\d+)?$"))
            case "bool":
                words = {**dict.fromkeys(self.rule.true, True), **dict.fromkeys(self.rule.false, False)}
                return series.replace_strict(words, default=None, return_dtype=pl.Boolean)
            case "json" | "jsonb":
                return pl.Series([text if _is_json(text) else None for text in series], dtype=pl.String)
            case _:
                return self._moment(series)

    def _number(self, series: pl.Series, like: str) -> pl.Series:
        """Numbers with a point and without separators; NULL where a text is not written as declared."""
        mark, group = re.escape(self.rule.decimal), re.escape(self.rule.thousands)
        if group:
            # A separator stands between groups of three digits, or nowhere.
            rest = "" if self.base == "int8" else rf"(?:{mark}\d+)?(?:[eE][+-]?\d+)?"
            whole = rf"^[+-]?(\d{{1,3}}({group}\d{{3}})+|\d+){rest}$"
            series = series.set(~series.str.contains(whole).fill_null(False), None)
            series = series.str.replace_all(self.rule.thousands, "", literal=True)
        if self.rule.decimal != "." and self.base != "int8":
            series = series.set(series.str.contains(".", literal=True).fill_null(False), None)
            series = series.str.replace_all(self.rule.decimal, ".", literal=True)
        return series.set(~series.str.contains(like).fill_null(False), None)

    def _exact(self, series: pl.Series) -> pa.Array:
        plain = series.str.replace(r"^\+", "")
        precision, scale = self.column.precision, self.column.scale
        if precision is None or scale is None:
            return pc.cast(plain.to_arrow(), pa.string())
        # More places than the type has would have to be rounded; zeros at the end say nothing.
        plain = (
            plain.str.replace(r"(\.\d*?)0+$", "$1")
            .str.replace(r"\.$", "")
            .str.replace(r"^(-?)0+(\d)", "$1$2")
        )
        fits = rf"^-?\d{{1,{max(precision - scale, 1)}}}" + (rf"(\.\d{{1,{scale}}})?$" if scale else "$")
        plain = plain.set(~plain.str.contains(fits).fill_null(False), None)
        if precision == scale:
            plain = plain.set(~plain.str.contains(r"^-?0(\.|$)").fill_null(False), None)
        return pc.cast(pc.cast(plain.to_arrow(), pa.string()), pa.decimal128(precision, scale))

    def _moment(self, series: pl.Series) -> pl.Series:
        kind = "timestamp" if self.base == "timestamptz" else self.base
        if self.rule.format is None:
            series = series.set(~series.str.contains(_LIKE_ISO[kind]).fill_null(False), None)
            series = series.str.replace(" ", "T", literal=True)
        form = self.rule.format or _ISO[kind]
        if "%Y" in form:  # which would read the year 20 where only two digits stand
            series = series.set(~series.str.contains(r"\d{4}").fill_null(False), None)
        zoned = kind == "timestamp" and "%z" in form
        type_ = {"date": pl.Date, "time": pl.Time}.get(kind) or pl.Datetime("us", "UTC" if zoned else None)
        moments = series.str.strptime(type_, form, strict=False)  # type: ignore[arg-type]
        if kind != "time":  # there is no year 0, which PostgreSQL would take for 1 BC
            moments = moments.set((moments.dt.year() == 0).fill_null(False), None)
        if self.rule.zone is not None:
            # An hour that a clock skips, or shows twice, is no moment that could be told.
            moments = moments.dt.replace_time_zone(self.rule.zone, ambiguous="null", non_existent="null")
            moments = moments.dt.convert_time_zone("UTC")
        return moments


def _without_broken(text: pa.ChunkedArray) -> tuple[pa.ChunkedArray, np.ndarray | None]:
    """Text without what is no UTF-8, on which Polars must not look, and where that was; None if nowhere."""
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        values = [value for chunk in text.chunks for value in python_values(chunk)]
        broken = np.array([isinstance(value, Unreadable) for value in values])
        whole = [None if isinstance(value, Unreadable) else value for value in values]
        return pa.chunked_array([pa.array(whole, pa.string())]), broken
    return text, None


def _is_json(text: str | None) -> bool:
    try:
        # Numbers of any length are JSON; `NaN`, which Python would take, is none.
        json.loads(text or "", parse_int=str, parse_float=str, parse_constant=int)
    except (ValueError, RecursionError):
        return False
    return True


class Parser:
    """Reads the columns of one entity for which a rule is declared."""

    def __init__(
        self, schema: pa.Schema, columns: Mapping[str, Column], rules: Mapping[str, ParseRule], where: str
    ) -> None:
        """Args: the staged columns, the same as they are once read, the rules, and the declaration's file."""
        self._readers = {
            name: Reader(columns[name], rule, f"{where}: parse.{name}") for name, rule in rules.items()
        }
        fields = [arrow_field(columns[f.name]) if f.name in rules else f for f in schema]
        self.schema = pa.schema(fields)

    def parse(self, table: pa.Table) -> tuple[pa.Table, list[tuple[str, np.ndarray, ParseRule]]]:
        """The rows with their values read, and for each column with unread text which rows and the rule."""
        unread: list[tuple[str, np.ndarray, ParseRule]] = []
        for name, reader in self._readers.items():
            at = table.column_names.index(name)
            read = reader.read(table.column(name))
            table = table.set_column(at, self.schema.field(name), read.values)
            if read.unread.any():
                unread.append((name, np.flatnonzero(read.unread), reader.rule))
        return table, unread


def check_rules(
    names: Iterable[str], columns: Mapping[str, Column], table: str, key: tuple[str, ...], where: str
) -> None:
    """Refuse rules for columns that hold no text, or that are the key, whose repetitions are looked for as staged."""
    for name in names:
        if name not in columns:
            raise DeclarationError(
                f"{table} has no column {name!r}",
                where=f"{where}: parse",
                next=nearest(name, columns, "Its columns are"),
            )
        if columns[name].base_type not in ("text", "varchar", "bpchar", "name", "json"):
            raise DeclarationError(
                f"{name} is {columns[name].type} and no text to be read", where=f"{where}: parse.{name}"
            )
        if name in key:
            raise DeclarationError(
                f"{name} is the key, and the source looks for repeated keys as they are written there",
                where=f"{where}: parse.{name}",
                next="Read the key in a view, or keep it as text",
            )
