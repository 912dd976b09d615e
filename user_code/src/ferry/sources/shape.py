"""From JSON-like records to Arrow, nothing coerced: a value either is what its field declares, or it is said.

Without declared fields the types are taken from the rows: `bool`, `int`, `number` (the exact text of a number),
`text` and `json`; a column that is later something else stops the read with the row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa

from ferry.errors import DeclarationError, PermanentError
from ferry.sources.page import canonical

UNFIT = "_unfit"
_MISSING = object()
_DECIMAL = re.compile(r"decimal\((\d+),\s*(\d+)\)")
_ARROW: dict[str, pa.DataType] = {
    "text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "json": pa.string(),
    "number": pa.string(), "date": pa.date32(), "timestamp": pa.timestamp("us", tz="UTC"),
    "datetime": pa.timestamp("us"), "binary": pa.binary(), "null": pa.null(),
}  # fmt: skip
_PYTHON: dict[str, set[type]] = {
    "text": {str}, "int": {int}, "float": {float}, "bool": {bool}, "binary": {bytes}, "null": set(),
    "date": {date}, "timestamp": {datetime}, "datetime": {datetime},
}  # fmt: skip
_INT = re.compile(r"-?(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class Field:
    """One column of a source.

    Attributes:
        name: the column.
        type: `text`, `int` (64 bits), `decimal(p,s)`, `number` (its exact text), `float`, `bool`, `json` (any
            value as JSON text), `date`, `timestamp` (has a zone), `datetime` (has none), `binary`.
        path: where in the record, dotted (`customer.id`); a leading `^` for each level up, to a parent.
        parse: whether text is parsed as the type: a declared rule, not a coercion. ISO 8601 dates and
            times are always read, because JSON has no other way to write them.
    """

    name: str
    type: str
    path: str = ""
    parse: bool = False

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type of the column."""
        if match := _DECIMAL.fullmatch(self.type):
            return pa.decimal128(int(match[1]), int(match[2]))
        if self.type not in _ARROW:
            known = ", ".join(sorted(_ARROW)) + ", decimal(p,s)"
            raise DeclarationError(
                f"there is no type {self.type!r}", where=f"fields.{self.name}", next=f"Use {known}"
            )
        return _ARROW[self.type]

    def steps(self) -> tuple[int, list[str]]:
        """How many levels up, then which keys down."""
        path = self.path or self.name
        up = len(path) - len(path.lstrip("^"))
        return up, path.lstrip("^").lstrip(".").split(".")


@dataclass
class Shape:
    """Makes batches of records.

    Args:
        fields: the columns; None takes them from the rows.
        ignore: top-level names of a record that go nowhere, declared; `*` for all others.
        omits_nulls: the source leaves nulls out, so an absent name means null (NetSuite's SuiteQL does so).
        unfit: what to do with a value that is not of its field's type: `fail`, or `carry`: the cell is
            null and a last column `_unfit` holds a JSON object of column to value, for the contract to reject
            the row.
    """

    fields: list[Field] | None = None
    ignore: tuple[str, ...] = ()
    omits_nulls: bool = False
    unfit: str = "fail"
    _seen: set[str] = field(default_factory=set)
    _inferred: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """What was learned from earlier pages, for the checkpoint."""
        return {"seen": sorted(self._seen), "inferred": self._inferred}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on with what was learned before."""
        self._seen, self._inferred = set(saved["seen"]), dict(saved["inferred"])

    def schema(self) -> pa.Schema:
        """The columns as known now; constant from the start when fields are declared."""
        fields = [pa.field(f.name, f.arrow) for f in self._fields()]
        return pa.schema([*fields, pa.field(UNFIT, pa.string())] if self.unfit == "carry" else fields)

    def batch(self, records: list[Any], where: str, parents: list[list[Any]] | None = None) -> pa.RecordBatch:
        """Records as one batch.

        Args:
            records: dicts.
            where: the place for messages: the request, or file and first line.
            parents: for each record its ancestors, nearest first, for paths with `^`.

        Raises:
            PermanentError: a record is no object, has an undeclared name, lost a declared one, or has a value
                that is not of its type (unless such values are carried).
        """
        for at, record in enumerate(records):
            if not isinstance(record, dict):
                raise PermanentError(
                    f"record {at + 1} is no object but {type(record).__name__}",
                    where=where,
                    why=_show(record),
                    next="Check the record path in the declaration",
                )
        self._compare_names(records, where)
        unfit: dict[int, dict[str, Any]] = {}
        columns = []
        for one in self._fields():
            values = _dig(one, records, parents)
            columns.append(self._column(one, values, where, unfit))
        if self.unfit == "carry":
            texts = [canonical(unfit[at]) if at in unfit else None for at in range(len(records))]
            columns.append(pa.array(texts, pa.string()))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema())

    def columns(self, given: dict[str, pa.Array], where: str) -> pa.RecordBatch:
        """Columns of text, as files have them, as one batch: parsed where that is declared, otherwise as they
        are.

        Raises:
            PermanentError: a column is missing or not declared, or a value is not of its type.
        """
        if self.fields is None:
            kept = {name: values for name, values in given.items() if name not in self.ignore}
            return pa.RecordBatch.from_arrays(list(kept.values()), names=list(kept))
        self._compare_columns(list(given), where)
        unfit: dict[int, dict[str, Any]] = {}
        columns = []
        for one in self.fields:
            values = given[one.path or one.name]
            is_text = one.type == "text"
            columns.append(values if is_text else self._column(one, values.to_pylist(), where, unfit))
        if self.unfit == "carry":
            rows = len(columns[0]) if columns else 0
            columns.append(
                pa.array([canonical(unfit[at]) if at in unfit else None for at in range(rows)], pa.string())
            )
        return pa.RecordBatch.from_arrays(columns, schema=self.schema())

    def typed(self, batch: pa.RecordBatch, where: str) -> pa.RecordBatch:
        """A batch that has its own types: the declared columns of it, narrower types of a kind widened exactly.

        Raises:
            PermanentError: a column is missing, not declared, or of another type.
        """
        if self.fields is None:
            return batch.select([name for name in batch.schema.names if name not in self.ignore])
        self._compare_columns(batch.schema.names, where)
        columns = [self._widened(one, batch.column(one.path or one.name), where) for one in self.fields]
        if self.unfit == "carry":
            columns.append(pa.nulls(batch.num_rows, pa.string()))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema())

    def _widened(self, one: Field, values: pa.Array, where: str) -> pa.Array:
        if values.type == one.arrow:
            return values
        if _widens(values.type, one.arrow):
            try:
                return values.cast(one.arrow)
            except pa.ArrowInvalid as error:
                why = str(error).splitlines()[0]
                raise PermanentError(
                    f"column {one.name} has a value that {one.type} cannot hold", where=where, why=why
                ) from None
        raise PermanentError(
            f"column {one.name} is {values.type}, and {one.arrow} is declared",
            where=where,
            next=f"Declare {one.name} as the file has it; the mapping converts",
        )

    def _compare_columns(self, names: list[str], where: str) -> None:
        wanted = [f.path or f.name for f in self.fields or []]
        unknown = [] if "*" in self.ignore else [n for n in names if n not in wanted and n not in self.ignore]
        missing = [n for n in wanted if n not in names]
        if unknown or missing:
            parts = [
                f"{what}: {', '.join(n)}" for what, n in (("undeclared", unknown), ("missing", missing)) if n
            ]
            raise PermanentError(
                f"the columns are not the declared ones ({'; '.join(parts)})",
                where=where,
                next="Declare them under fields, or under ignore if they go nowhere",
            )

    def _fields(self) -> list[Field]:
        if self.fields is not None:
            return self.fields
        return [Field(name, kind) for name, kind in self._inferred.items()]

    def _compare_names(self, records: list[dict[str, Any]], where: str) -> None:
        present: set[str] = set().union(*(r.keys() for r in records)) if records else set()
        if self.fields is None:
            self._infer(records, present, where)
        elif "*" not in self.ignore:
            known = {down[0] for up, down in (f.steps() for f in self.fields) if not up}
            unknown = present - known - set(self.ignore)
            if unknown:
                raise PermanentError(
                    f"rows have undeclared fields: {', '.join(sorted(unknown))}",
                    where=where,
                    why="the source's schema is not, or no longer, what the declaration says",
                    next="Declare them under fields, or under ignore if they go nowhere",
                )
        gone = (self._seen - present) if records and not self.omits_nulls else set()
        if self.fields is not None:
            gone &= {f.steps()[1][0] for f in self.fields}
        if gone:
            raise PermanentError(
                f"fields are gone from the rows: {', '.join(sorted(gone))}",
                where=where,
                why="earlier pages of this window had them",
                next="Ask what changed at the source; then change the declaration and read the window again",
            )
        self._seen |= present

    def _infer(self, records: list[dict[str, Any]], present: set[str], where: str) -> None:
        for name in [k for k in dict.fromkeys(k for r in records for k in r) if k in present]:
            if name in self.ignore:
                continue
            before = self._inferred.get(name, "null")
            kinds = {_kind(r[name]) for r in records if r.get(name) is not None} | ({before} - {"null"})
            if before == "null" and kinds == {"int", "number"}:
                kinds = {"number"}
            if before == "number":
                kinds.discard("int")
            if len(kinds) > 1:
                raise PermanentError(
                    f"field {name} is not of one type: {', '.join(sorted(kinds))}",
                    where=where,
                    next=f"Declare it under fields ({name}: json takes anything)",
                )
            self._inferred[name] = kinds.pop() if kinds else "null"

    def _column(
        self, one: Field, values: list[Any], where: str, unfit: dict[int, dict[str, Any]]
    ) -> pa.Array:
        fitted = fit(one, values)
        try:
            return pa.array(fitted, one.arrow)
        except (pa.ArrowException, TypeError, OverflowError, ValueError):
            pass
        for at, value in enumerate(fitted):
            if value is None:
                continue
            try:
                if isinstance(value, Unfit):
                    raise TypeError
                pa.scalar(value, one.arrow)
            except (pa.ArrowException, TypeError, OverflowError, ValueError):
                original = values[at]
                if self.unfit != "carry":
                    raise PermanentError(
                        f"record {at + 1}: {one.name} is {_show(original)}, which is not {one.type}",
                        where=where,
                        next=f"Correct the declaration of {one.name} ({_hint(one, original)}), or the source",
                    ) from None
                unfit.setdefault(at, {})[one.name] = original
                fitted[at] = None
        return pa.array(fitted, one.arrow)


def _widens(there: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether every value of a type, or none at all, is exactly one of the wanted type; Arrow's cast says which."""
    kind = pa.types
    if kind.is_dictionary(there):
        return _widens(there.value_type, wanted) or there.value_type == wanted
    if kind.is_decimal(there) and kind.is_decimal(wanted):
        whole = there.precision - there.scale <= wanted.precision - wanted.scale
        return whole and there.scale <= wanted.scale
    if kind.is_timestamp(there) and kind.is_timestamp(wanted):
        return (there.tz is None) == (wanted.tz is None)
    if kind.is_floating(there) and kind.is_floating(wanted):
        return there.bit_width <= wanted.bit_width
    texts, blobs = (kind.is_string, kind.is_large_string, kind.is_string_view), (kind.is_large_binary,)
    return (
        (kind.is_integer(there) and kind.is_integer(wanted))
        or (any(one(there) for one in texts) and kind.is_string(wanted))
        or (any(one(there) for one in blobs) and kind.is_binary(wanted))
        or (kind.is_date(there) and kind.is_date(wanted))
    )


class Unfit:
    """Stands for a value that is not of its field's type."""


_UNFIT = Unfit()


def fit(one: Field, values: list[Any]) -> list[Any]:
    """The values as Arrow takes them for the field's type; `Unfit` where a value is of another type."""
    kinds = set(map(type, values)) - {type(None)}
    if one.type == "json":
        return [None if v is None else canonical(v) for v in values]
    if not one.parse and kinds <= _PYTHON.get(one.type, set()) and one.type not in ("timestamp", "datetime"):
        return list(values)
    return [None if v is None else _fit(one, v) for v in values]


def _fit(one: Field, value: Any) -> Any:
    kind, is_text = one.type, isinstance(value, str)
    if one.parse and is_text:
        parsed = _parse(kind, value)
        return _UNFIT if parsed is None else parsed
    if kind == "number" and isinstance(value, int | Decimal) and not isinstance(value, bool):
        return str(value)
    if kind.startswith("decimal") and isinstance(value, int | Decimal) and not isinstance(value, bool):
        return Decimal(value)
    if kind == "float" and isinstance(value, float | Decimal | int) and not isinstance(value, bool):
        return float(value)
    if kind in ("date", "timestamp", "datetime"):
        return _moment(kind, value)
    return value if type(value) in _PYTHON.get(kind, set()) else _UNFIT


def _moment(kind: str, value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value) if kind == "date" else datetime.fromisoformat(value)
        except ValueError:
            return _UNFIT
    if kind == "date":
        return value if type(value) is date else _UNFIT
    # A time without zone is no instant, and a time with one is no local time: neither is guessed.
    fits = isinstance(value, datetime) and (value.tzinfo is not None) == (kind == "timestamp")
    return value if fits else _UNFIT


def _parse(kind: str, text: str) -> Any:
    try:
        if kind == "int":
            return int(text) if _INT.fullmatch(text) else None
        if kind.startswith("decimal"):
            number = Decimal(text)
            return number if number.is_finite() else None
        if kind == "number":
            return text if Decimal(text).is_finite() else None
        if kind == "float":
            return float(text)
    except (InvalidOperation, ValueError):
        return None
    if kind == "bool":
        return {"true": True, "false": False, "T": True, "F": False}.get(text)
    if kind == "text":
        return text
    moment = _moment(kind, text)
    return None if moment is _UNFIT else moment


def _dig(one: Field, records: list[Any], parents: list[list[Any]] | None) -> list[Any]:
    up, down = one.steps()
    if not up and len(down) == 1:
        name = down[0]
        return [r.get(name) for r in records]
    starts: Iterable[Any] = (
        records if not up else [p[up - 1] if len(p) >= up else None for p in parents or []]
    )
    return [dig(start, down) for start in starts]


def dig(value: Any, down: Iterable[str]) -> Any:
    """Follow names (and, in lists, positions) down; None where the way ends."""
    for step in down:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else "number"
    if isinstance(value, dict | list):
        return "json"
    if isinstance(value, datetime):
        return "timestamp" if value.tzinfo else "datetime"
    kinds: dict[type, str] = {Decimal: "number", str: "text", float: "float", date: "date", bytes: "binary"}
    return kinds.get(type(value), "json")


def _show(value: Any) -> str:
    text = canonical(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _hint(one: Field, value: Any) -> str:
    if isinstance(value, str) and not one.parse and one.type not in ("date", "timestamp", "datetime"):
        return "parse: true if the source writes it as text"
    return f"its value would be {_kind(value)}"
