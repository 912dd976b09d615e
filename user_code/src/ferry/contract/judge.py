"""Judging: a contract compiled once, then one Arrow batch after the other.

batch ──► columnar checks ──► doubted values ──► Pydantic, once a distinct value ──► verdict
                              (a rule of the whole row: Pydantic, row by row)
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel
from pydantic_core import SchemaValidator, ValidationError

from ferry.contract import carried, document
from ferry.contract.carried import INVALID_UTF8, Unreadable
from ferry.contract.columnar import check_for
from ferry.contract.columnar_check import Check, NotColumnar, Scope
from ferry.contract.columns import ContractColumn, Reading, read
from ferry.contract.explain import RulePath, explain
from ferry.contract.fingerprint import fingerprint
from ferry.contract.refuse import refuse_contradictions
from ferry.contract.verdict import (
    MASK,
    WHOLE_ROW,
    Fault,
    Verdict,
    assemble,
    fault_from,
    none_rejected,
)
from ferry.errors import DeclarationError

_ROWS_AT_ONCE = 2_000  # as Python dictionaries: the only part of a batch that is in memory twice
_RAISED = "validator_raised"

Found = tuple[np.ndarray, np.ndarray, Sequence[Sequence[Fault]]]


@functools.lru_cache(maxsize=256)
def compile_contract(model: type[BaseModel]) -> CompiledContract:
    """Compile a Pydantic v2 model, mostly a `Contract`, for judging Arrow batches in strict mode.

    Raises:
        DeclarationError: the model contradicts itself, or has a pattern that could run for ever; the message
            names the field.
    """
    return CompiledContract(model)


class CompiledContract:
    """A contract ready to judge. Immutable to its users and safe to share between threads.

    Attributes:
        model: the Pydantic model.
        fields: the declared columns, in the model's order.
        columns: the names of the source columns that are read.
    """

    def __init__(self, model: type[BaseModel]) -> None:
        """Compile a model; use `compile_contract`, which does it once."""
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise DeclarationError(
                f"{model!r} is no contract",
                next="Inherit from ferry.contract.Contract and declare the columns",
            )
        self.model = model
        self._reading: Reading = read(model)
        refuse_contradictions(model, self._reading)
        self.fields: tuple[ContractColumn, ...] = self._reading.columns
        self.columns: tuple[str, ...] = tuple(column.name for column in self.fields)
        self._scope = Scope(self._reading.config, self._reading.definitions)
        self._plans: dict[tuple[Any, ...], _BatchPlan] = {}
        self._lock = threading.Lock()

    def judge(self, batch: pa.RecordBatch) -> Verdict:
        """Judge every row of a batch: the verdict that Pydantic gives on `batch.to_pylist()` in strict mode.

        Values are looked at as `ferry.contract.carried` says. Rows are only named, never changed.
        """
        if not batch.num_rows:
            return none_rejected()
        return assemble(self._plan(batch.schema).faults(batch))

    def explain(self) -> list[RulePath]:
        """Which way each rule goes, rule by rule."""
        return explain(self._reading)

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema of a source row; personal columns carry `x-personal`."""
        return document.json_schema(self.model)

    def markdown(self) -> str:
        """The contract as a table for people: columns, rules, and the way each is judged."""
        return document.markdown(self.model, self._reading, self.explain())

    def fingerprint(self) -> str:
        """A stable hash of fields, types, rules and what validators do; see `ferry.contract.fingerprint`."""
        return fingerprint(self._reading)

    def _plan(self, schema: pa.Schema) -> _BatchPlan:
        key = (tuple(schema.names), tuple(schema.types))
        plan = self._plans.get(key)
        if plan is None:
            plan = _BatchPlan(self.model, self._reading, self._scope, schema)
            with self._lock:
                if len(self._plans) > 16:  # a source whose columns change with every batch
                    self._plans.clear()
                self._plans[key] = plan
        return plan


class _BatchPlan:
    """How batches of one Arrow schema are judged."""

    def __init__(self, model: type[BaseModel], reading: Reading, scope: Scope, schema: pa.Schema) -> None:
        repeated = (
            {name for name in schema.names if schema.names.count(name) > 1} if _repeats(schema) else set()
        )
        if repeated:
            raise DeclarationError(
                f"a batch has more than one column {', '.join(sorted(repeated))}",
                where=model.__name__,
                next="Give the columns of the source query different names",
            )
        self.validator = model.__pydantic_validator__
        self.reading = reading
        self.personal = {name for column in reading.columns if column.personal for name in column.names}
        self.known = {name for column in reading.columns for name in column.names}
        self.by_row = bool(reading.row_rules)
        ruled = {rule.column for rule in reading.row_rules}
        self.row_ruled = {
            name for column in reading.columns if column.field in ruled for name in column.names
        }
        if self.by_row:
            return
        sources, self.extras = _sources(reading, schema.names)
        self.columns = [
            _ColumnPlan(reading, scope, column, sources.get(column.field), schema)
            for column in reading.columns
        ]

    def faults(self, batch: pa.RecordBatch) -> Iterator[Found]:
        if self.by_row:
            yield from self._row_by_row(batch)
            return
        for column in self.columns:
            yield from column.faults(batch)
        if self.extras:
            everyone = np.arange(batch.num_rows)
            for name in self.extras:
                fault = Fault(name, "extra_forbidden", MASK, "Extra inputs are not permitted")
                yield everyone, np.zeros(batch.num_rows, np.int64), [[fault]]

    def _row_by_row(self, batch: pa.RecordBatch) -> Iterator[Found]:
        names = batch.schema.names
        for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
            part = batch.slice(start, _ROWS_AT_ONCE)
            columns = [carried.python_values(carried.plain(column)) for column in part.columns]
            positions: list[int] = []
            lists: list[list[Fault]] = []
            for position, values in enumerate(zip(*columns, strict=True), start):
                row = dict(zip(names, values, strict=True))
                faults = self._row_faults(row)
                if faults:
                    positions.append(position)
                    lists.append(faults)
            if positions:
                yield np.array(positions), np.arange(len(positions)), lists

    def _row_faults(self, row: dict[str, Any]) -> list[Fault]:
        faults: list[Fault] = []
        try:
            self.validator.validate_python(row, strict=True)
        except ValidationError as error:
            faults = [
                self._row_fault(each) for each in error.errors(include_url=False, include_context=False)
            ]
        except Exception as error:  # whatever a user's validator raises rejects this row alone
            faults = [_raised(WHOLE_ROW, None, error, personal=bool(self.personal))]
        for name, value in row.items():
            broken = isinstance(value, Unreadable) and value.rule == INVALID_UTF8 and name in self.known
            if broken and not any(fault.column == name for fault in faults):
                faults.append(_unreadable(name, value, personal=name in self.personal))
        return faults

    def _row_fault(self, error: Any) -> Fault:
        location = error["loc"]
        column = str(location[0]) if location else WHOLE_ROW
        extra = error["type"] == "extra_forbidden" and column not in self.known
        personal = column in self.personal or extra or (column == WHOLE_ROW and bool(self.personal))
        sees_personal = bool(self.personal) and column in self.row_ruled
        return fault_from(error, column, location[1:], personal=personal, sees_personal=sees_personal)


def _repeats(schema: pa.Schema) -> bool:
    return len(set(schema.names)) < len(schema.names)


def _sources(reading: Reading, names: list[str]) -> tuple[dict[str, str], list[str]]:
    """Which batch column feeds which field, and which columns are forbidden extras: Pydantic is asked itself.

    A copy of the model whose fields accept anything is given a row whose values are the column names.
    """
    fields = {
        name: {**node, "schema": {"type": "default", "schema": {"type": "any"}, "default": None}}
        for name, node in reading.fields.items()
    }
    probe = SchemaValidator({**reading.fields_schema, "fields": fields}, reading.config)  # type: ignore[arg-type]
    row = {name: name for name in names}
    try:
        found, extras = probe.validate_python(row)[0], []
    except ValidationError as error:
        extras = [str(each["loc"][0]) for each in error.errors(include_url=False)]
        found = probe.validate_python({name: name for name in names if name not in set(extras)})[0]
    return {name: source for name, source in found.items() if name in fields and source is not None}, extras


class _ColumnPlan:
    """How one field of the contract is judged in batches of one Arrow schema."""

    def __init__(
        self, reading: Reading, scope: Scope, column: ContractColumn, source: str | None, schema: pa.Schema
    ) -> None:
        self.column = column
        self.source = source
        self.field_schema = {
            **{key: value for key, value in reading.fields_schema.items() if key != "computed_fields"},
            "fields": {column.field: reading.fields[column.field]},
            "extra_behavior": "ignore",
        }
        self.reading = reading
        self.check: Check | None = None
        self.dtype = None
        if source is not None:
            self.dtype = schema.field(source).type
            try:
                self.check = check_for(
                    reading.fields[column.field]["schema"], carried.plain_type(self.dtype), scope
                )
            except NotColumnar:
                self.check = None

    @functools.cached_property
    def validator(self) -> SchemaValidator:
        """Pydantic for this field alone, built when first needed."""
        schema: Any = self.field_schema
        if self.reading.definitions:
            schema = {
                "type": "definitions",
                "schema": schema,
                "definitions": list(self.reading.definitions.values()),
            }
        return SchemaValidator(schema, self.reading.config)  # type: ignore[arg-type]

    def faults(self, batch: pa.RecordBatch) -> Iterator[Found]:
        if self.source is None:
            faults = self._faults_of({}, None)
            if faults:
                yield np.arange(batch.num_rows), np.zeros(batch.num_rows, np.int64), [faults]
            return
        array = carried.plain(batch.column(batch.schema.get_field_index(self.source)))
        positions = np.arange(len(array))
        if self.check is not None and not carried.has_broken_text(array):
            doubt = self.check.doubt(array)
            if doubt is None:
                return
            doubted = np.flatnonzero(doubt)
            if not len(doubted):
                return
            with contextlib.suppress(
                pa.ArrowNotImplementedError
            ):  # lists of views: all rows are shown instead
                array, positions = array.take(pa.array(doubted)), doubted
        codes, values = _distinct(array)
        lists = [self._faults_of({self.source: value}, value) for value in values]
        rejected = np.array([bool(faults) for faults in lists])[codes]
        if rejected.any():
            yield positions[rejected], codes[rejected], lists

    def _faults_of(self, row: dict[str, Any], value: object) -> list[Fault]:
        name, personal = self.source or self.column.name, self.column.personal
        if isinstance(value, Unreadable) and value.rule == INVALID_UTF8:
            return [_unreadable(name, value, personal=personal)]
        try:
            self.validator.validate_python(row, strict=True)
        except ValidationError as error:
            return [
                fault_from(each, name, each["loc"][1:], personal=personal)
                for each in error.errors(include_url=False, include_context=False)
            ]
        except Exception as error:  # whatever a user's validator raises rejects this value alone
            return [_raised(name, value, error, personal=personal)]
        return []


def _unreadable(name: str, value: Unreadable, *, personal: bool) -> Fault:
    message = value.message if not personal else "Text is not valid UTF-8"
    return Fault(name, value.rule, MASK if personal else carried.shown(value.text), message)


def _raised(name: str, value: object, error: Exception, *, personal: bool) -> Fault:
    message = f"The validator itself failed: {type(error).__name__}: {error}"
    text = carried.shown(value)
    if personal:
        message, text = (
            f"The validator itself failed: {type(error).__name__}",
            MASK if text is not None else None,
        )
    return Fault(name, _RAISED, text, carried.shown(message, 500) or "")


def _distinct(array: pa.Array) -> tuple[np.ndarray, list[Any]]:
    """For each row the index of its value, and the distinct values as Python objects (one may be NULL)."""
    storage = array.storage if isinstance(array, pa.ExtensionArray) else array
    if pa.types.is_floating(storage.type) and storage.type != pa.float16():
        # By bits: -0.0 is not 0.0 and one NaN is not another.
        storage = storage.view(pa.int64() if storage.type == pa.float64() else pa.int32())
    try:
        encoded = storage.dictionary_encode(null_encoding="encode")
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowInvalid):
        return np.arange(len(array)), carried.python_values(array)
    values = encoded.dictionary
    if pa.types.is_floating(array.type):
        values = values.view(array.type)
    elif isinstance(array, pa.ExtensionArray):
        values = pa.ExtensionArray.from_storage(array.type, values)
    return encoded.indices.to_numpy(zero_copy_only=False), carried.python_values(values)
