# pyright: reportAttributeAccessIssue=false
"""Mapping: target columns that are made of source columns, between the contract and the load.

Arrow goes in, Arrow comes out, a column for each rule. What a rule makes has a type that is known before anything is
read, so the plan holds it against the target like any column of the source. A row for which a rule makes nothing is
rejected with the values that it was to be made of; no value becomes NULL by itself.
"""

import csv
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc  # its functions are made at run time

from ferry.catalogue import NATIVE, Column, Table, arrow_field, column_of
from ferry.contract.fingerprint import function_fingerprint
from ferry.declaration import fingerprint, nearest
from ferry.errors import DeclarationError
from ferry.expression import Expression, words
from ferry.json_path import JsonPath
from ferry.parse import TYPES, Reader, column_as
from ferry.value_rules import MappingRule, ParseRule

Failures = dict[int, tuple[str, str]]
"""Row → the rule that made nothing of it, and why."""
Make = Callable[[pa.Table], tuple[pa.ChunkedArray, Failures]]


@dataclass(frozen=True)
class MappedColumn:
    """A target column that a rule makes: what comes out, in PostgreSQL's words, and the source columns that go in."""

    target: str
    column: Column
    sources: tuple[str, ...]
    make: Make
    code: str

    @property
    def name(self) -> str:
        """The column's name among the rows that are loaded; no source column has such a one."""
        return f"={self.target}"

    @property
    def field(self) -> pa.Field:
        """How its values travel."""
        return arrow_field(replace(self.column, name=self.name))


def plan_mapping(
    rules: Mapping[str, MappingRule], columns: Mapping[str, Column], target: Table, path: Path
) -> tuple[MappedColumn, ...]:
    """Make each rule ready and find out the type of what it makes.

    Args:
        rules: target column → rule.
        columns: the source's columns as the contract sees them.
        target: where the rows go.
        path: the declaration; `mapping.py` and tables for `lookup` lie beside it.

    Raises:
        DeclarationError: a column, file or function that is not there, a literal that does not fit, an expression
            that cannot be.
    """
    return tuple(_plan_one(name, rule, columns, target, path) for name, rule in rules.items())


def map_rows(
    mapped: Iterable[MappedColumn], table: pa.Table
) -> tuple[pa.Table, list[tuple[MappedColumn, Failures]]]:
    """The rows with the made columns after their own, and what could not be made of which rows."""
    failed: list[tuple[MappedColumn, Failures]] = []
    made = table
    for one in mapped:
        values, failures = one.make(table)
        if failures:
            failed.append((one, failures))
        made = made.append_column(one.field, _as(values, one.field.type))
    return made, failed


def _plan_one(
    name: str, rule: MappingRule, columns: Mapping[str, Column], target: Table, path: Path
) -> MappedColumn:
    where = f"{path}: mapping.{name}"
    into = column_of(target, name, where)
    for source in (*rule.source, *rule.concat):
        if source not in columns:
            raise DeclarationError(
                f"the source has no column {source!r}",
                where=where,
                next=nearest(source, columns, "Its columns are"),
            )
    if rule.expression is not None:
        expression = Expression(rule.expression, _schema(columns), f"{where}.expression")
        column, sources = _column_of_type(name, expression.type, f"{where}.expression"), expression.columns
        make = _computed(expression)
    elif rule.python is not None:
        function = _function(path, rule.python, f"{where}.python")
        sources = rule.source or tuple(columns)
        seen = _schema({source: columns[source] for source in sources})
        column = _returned(name, function, seen, f"{where}.python")
        make = _called(function, seen, arrow_field(column).type)
    elif rule.concat:
        column, sources, make = _text(name), rule.concat, _joined(rule.concat, rule.separator)
        _check_text(columns, rule.concat, f"{where}.concat")
    elif rule.constant is not None:
        column, sources = _like(into), ()
        make = _constant(_literal(rule.constant, column, f"{where}.constant"))
    else:
        (source,) = sources = rule.source
        if rule.lookup is not None:
            column = _text(name) if rule.cast else _like(into)
            table = _table(rule.lookup, path, f"{where}.lookup")
            literals = {old: _literal(new, column, f"{where}.lookup.{old}") for old, new in table.items()}
            other = (
                rule.otherwise
                if rule.otherwise is None
                else _literal(rule.otherwise, column, f"{where}.otherwise")
            )
            make = _looked_up(source, literals, other, arrow_field(column).type)
        elif rule.split is not None and rule.part is not None:
            column, make = _text(name), _part(source, rule.split, rule.part)
        elif rule.json_path is not None:
            column, make = _text(name), _dug(source, JsonPath(rule.json_path, f"{where}.json"))
        else:
            column, make = columns[source], lambda rows: (rows.column(source), {})
        if rule.lookup or rule.split or rule.json_path:
            _check_text(columns, (source,), f"{where}.from")
    if rule.cast is not None:
        to = column_as(name, rule.cast, f"{where}.cast")
        make, column = _cast(make, Reader(to, ParseRule(type=rule.cast), f"{where}.cast"), column.type), to
    if rule.default is not None:
        make = _filled(make, _literal(rule.default, column, f"{where}.default"))
    return MappedColumn(name, replace(column, name=name), tuple(sources), make, code_of(rule, path, where))


def code_of(rule: MappingRule, path: Path, where: str) -> str:
    """Changes when a rule may make something else: with its words, its lookup table or what its function does."""
    code: list[Any] = [rule.model_dump(mode="json", exclude={"expression"}), words(rule.expression or "")]
    if isinstance(rule.lookup, str):
        code.append(_table(rule.lookup, path, f"{where}.lookup"))
    if rule.python is not None:
        code.append(function_fingerprint(_function(path, rule.python, f"{where}.python")))
    return fingerprint(code)


def _schema(columns: Mapping[str, Column]) -> pa.Schema:
    return pa.schema([arrow_field(column) for column in columns.values()])


def _text(name: str) -> Column:
    return Column(name, "text", "text", "b", False, False, None, False)


def _like(into: Column) -> Column:
    """What a literal for a target column is: its very type, or text."""
    return _text(into.name) if into.base_type in ("text", "varchar", "name") else into


def _literal(text: str | None, column: Column, where: str) -> pa.Scalar:
    """A value of the declaration as one of a column's type; refused if it is none."""
    type_, base = arrow_field(column).type, column.base_type
    if text is None or (type_ == pa.string() and base != "numeric"):
        return pa.scalar(text, type_)
    word = _WORDS.get(base, base)
    if base == "numeric" and type_ != pa.string():
        word = f"numeric({column.precision},{column.scale})"
    rule = ParseRule(type=word, format="%Y-%m-%dT%H:%M:%S%.f%z" if base == "timestamptz" else None)
    reader = Reader(column_as(column.name, word, where), rule, where)
    read = reader.read(pa.chunked_array([pa.array([text], pa.string())]))
    try:
        if not read.unread[0]:
            return pc.cast(read.values, type_)[0]
    except pa.ArrowInvalid:
        pass
    raise DeclarationError(f"{text!r} is no {column.type}", where=where)


_WORDS = {base: word for word, base in TYPES.items()} | {
    "int2": "integer",
    "int4": "integer",
    "float4": "float",
}


def _column_of_type(name: str, type_: pa.DataType, where: str) -> Column:
    """What PostgreSQL would call an Arrow type."""
    if pa.types.is_decimal(type_):
        return column_as(name, f"numeric({type_.precision},{type_.scale})", where)
    if pa.types.is_timestamp(type_):
        type_ = pa.timestamp("us", "UTC" if type_.tz else None)
    wider = {pa.int8(): pa.int16(), pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64()}
    same = {
        pa.large_string(): pa.string(),
        pa.string_view(): pa.string(),
        pa.large_binary(): pa.binary(),
        **wider,
    }
    type_ = same.get(type_, type_)
    found = next((base for base, native in NATIVE.items() if native == type_), None)
    if found is None:
        raise DeclarationError(
            f"what comes out is {type_}, which no column takes",
            where=where,
            next="Cast it: cast(… as varchar)",
        )
    return Column(name, _NAMES.get(found, found), found, "b", False, False, None, False)


_NAMES = {"int2": "smallint", "int4": "integer", "int8": "bigint", "float4": "real", "float8": "double precision",
          "bool": "boolean"}  # fmt: skip


def _as(values: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    if isinstance(values, pa.Array):
        values = pa.chunked_array([values])
    return values if values.type == type_ else pc.cast(values, type_)


def _check_text(columns: Mapping[str, Column], names: Iterable[str], where: str) -> None:
    for name in names:
        kind = arrow_field(columns[name]).type
        if not (pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
            raise DeclarationError(
                f"{name} is {columns[name].type}, which can be written as text in more than one way",
                where=where,
                next="Say how with an `expression`: strftime(…), printf(…)",
            )


def _strings(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return _as(values, pa.string())


def _computed(expression: Expression) -> Make:
    def make(rows: pa.Table) -> tuple[pa.ChunkedArray, Failures]:
        values, errors = expression.values(rows)
        return values, {row: ("expression", why) for row, why in errors.items()}

    return make


def _joined(names: tuple[str, ...], separator: str) -> Make:
    def make(rows: pa.Table) -> tuple[pa.ChunkedArray, Failures]:
        parts = [_strings(rows.column(name)) for name in names]
        text = pc.binary_join_element_wise(*parts, separator, null_handling="skip")
        empty = parts[0].is_null()
        for part in parts[1:]:
            empty = pc.and_(empty, part.is_null())
        return pc.if_else(empty, pa.scalar(None, pa.string()), text), {}

    return make


def _constant(value: pa.Scalar) -> Make:
    return lambda rows: (pa.chunked_array([pa.repeat(value, rows.num_rows)]), {})


def _looked_up(source: str, table: dict[str, pa.Scalar], other: pa.Scalar | None, type_: pa.DataType) -> Make:
    keys = pa.array(list(table), pa.string())
    values = pa.array([value.as_py() for value in table.values()], type_)

    def make(rows: pa.Table) -> tuple[pa.ChunkedArray, Failures]:
        given = _strings(rows.column(source))
        at = pc.index_in(given, keys)
        found = _as(pc.take(values, at), type_)
        unknown = pc.and_(at.is_null(), given.is_valid())
        if other is not None:
            return pc.if_else(unknown, other, found), {}
        return found, dict.fromkeys(_where(unknown), ("lookup", "the lookup table does not have it"))

    return make


def _part(source: str, separator: str, part: int) -> Make:
    def make(rows: pa.Table) -> tuple[pa.ChunkedArray, Failures]:
        given = rows.column(source)
        split = pl.Series(pl.from_arrow(_strings(given))).str.split(separator)
        found = _as(pa.chunked_array([split.list.get(part - 1, null_on_oob=True).to_arrow()]), pa.string())
        lacking = pc.and_(found.is_null(), given.is_valid())
        return found, dict.fromkeys(_where(lacking), ("split", f"there is no part {part}"))

    return make


def _dug(source: str, path: JsonPath) -> Make:
    def make(rows: pa.Table) -> tuple[pa.ChunkedArray, Failures]:
        found: list[str | None] = []
        failures: Failures = {}
        for row, text in enumerate(rows.column(source).to_pylist()):
            try:
                found.append(None if text is None else path.find(text))
            except ValueError as error:
                found.append(None)
                failures[row] = ("json", str(error))
        return pa.chunked_array([pa.array(found, pa.string())]), failures

    return make


def _cast(make: Make, reader: Reader, found: str) -> Make:
    def cast(rows: pa.Table) -> tuple[pa.ChunkedArray, Failures]:
        values, failures = make(rows)
        read = reader.read(_strings(values))
        wrong = (int(row) for row in np.flatnonzero(read.unread))
        return read.values, {
            **dict.fromkeys(wrong, ("cast", f"{found} is no {reader.rule.type} here")), **failures,
        }  # fmt: skip

    return cast


def _filled(make: Make, value: pa.Scalar) -> Make:
    def fill(rows: pa.Table) -> tuple[pa.ChunkedArray, Failures]:
        values, failures = make(rows)
        if "split" in {rule for rule, _ in failures.values()}:
            failures = {row: failure for row, failure in failures.items() if failure[0] != "split"}
        return pc.fill_null(_as(values, value.type), value), failures

    return fill


def _where(mask: pa.ChunkedArray) -> list[int]:
    return np.flatnonzero(mask.to_numpy()).tolist()


def _table(given: dict[str, str | None] | str, path: Path, where: str) -> dict[str, str | None]:
    """A lookup table, inline or in a file with two columns and a heading."""
    if not isinstance(given, str):
        return given
    file = path.parent / given
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.reader(lines))[1:]
    except (OSError, UnicodeDecodeError) as error:
        raise DeclarationError(
            "the lookup table cannot be read", where=f"{where}: {file}", why=str(error)
        ) from None
    table: dict[str, str | None] = {}
    for number, row in enumerate(rows, 2):
        if len(row) != 2 or row[0] in table:
            fault = (
                f"{row[0]!r} stands there twice" if len(row) == 2 else f"{len(row)} columns instead of two"
            )
            raise DeclarationError("the lookup table is not clear", where=f"{file}:{number}", why=fault)
        table[row[0]] = row[1]
    return table


def _function(path: Path, name: str, where: str) -> Callable[[pa.RecordBatch], Any]:
    """The function of that name in `mapping.py` beside the declaration."""
    file = path.parent / "mapping.py"
    if not file.exists():
        raise DeclarationError(
            f"there is no {file.name} beside it", where=where, next=f"Write {name} in {file}"
        )
    module_name = f"ferry_mappings.{fingerprint(str(file.resolve()))}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise DeclarationError("the file cannot be imported", where=str(file))
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise DeclarationError(
            "the mapping does not import", where=str(file), why=f"{type(error).__name__}: {error}"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise DeclarationError(
            f"{file.name} has no function {name!r}", where=where, next=nearest(name, functions, "It has")
        )
    return found


def _returned(name: str, function: Callable[..., Any], seen: pa.Schema, where: str) -> Column:
    """The type of what a function returns, found by giving it no rows."""
    try:
        values = function(pa.RecordBatch.from_pylist([], schema=seen))
    except Exception as error:
        raise DeclarationError(
            "the function fails on a batch without rows",
            where=where,
            why=f"{type(error).__name__}: {error}",
            next="It is called so once, to learn the type of what it returns",
        ) from error
    if not isinstance(values, pa.Array | pa.ChunkedArray):
        raise DeclarationError(
            f"the function returns {type(values).__name__}",
            where=where,
            next="Return an Arrow array, a value a row",
        )
    return _column_of_type(name, values.type, where)


def _called(function: Callable[..., Any], seen: pa.Schema, type_: pa.DataType) -> Make:
    def call(rows: pa.Table) -> tuple[list[pa.ChunkedArray], Failures]:
        """Halve the rows until those on which the function fails are alone."""
        batch = (
            rows.combine_chunks().to_batches()[0]
            if rows.num_rows
            else pa.RecordBatch.from_pylist([], schema=seen)
        )
        try:
            values = function(batch)
            if len(values) != rows.num_rows:
                raise ValueError(f"{len(values)} values for {rows.num_rows} rows")
            return [_as(values, type_)], {}
        except Exception as error:
            if rows.num_rows <= 1:
                return [pa.chunked_array([pa.nulls(rows.num_rows, type_)])], {
                    row: ("python", f"{type(error).__name__}: {error}") for row in range(rows.num_rows)
                }
        middle = rows.num_rows // 2
        (left, wrong), (right, more) = call(rows.slice(0, middle)), call(rows.slice(middle))
        return [*left, *right], wrong | {middle + row: why for row, why in more.items()}

    def make(rows: pa.Table) -> tuple[pa.ChunkedArray, Failures]:
        parts, failures = call(rows.select(seen.names))
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks], type_), failures

    return make
