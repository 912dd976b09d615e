"""Judging: a contract compiled once, then one Arrow batch after the other.

batch ──► columnar checks ──► doubted values ──► Pydantic, once a distinct value ──► verdict
                              (a rule of the whole row: Pydantic, row by row)
"""

from __future__ import annotations

import datetime
import functools
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from pydantic import BaseModel
from pydantic_core import SchemaValidator, ValidationError

from ferry.contract import document
from ferry.contract.by_column import ColumnJudge, Found
from ferry.contract.by_row import RowJudge
from ferry.contract.carried import is_text
from ferry.contract.columnar_check import Scope
from ferry.contract.columns import ContractColumn, Reading, kinds, read
from ferry.contract.explain import RulePath, explain
from ferry.contract.fingerprint import fingerprint
from ferry.contract.refuse import refuse_contradictions
from ferry.contract.verdict import MASK, Fault, Findings, Verdict
from ferry.errors import DeclarationError

_TYPICAL: tuple[tuple[Callable[[pa.DataType], bool], Any], ...] = (
    (is_text, "1"),
    (pt.is_boolean, True),
    (pt.is_integer, 1),
    (pt.is_floating, 1.5),
    (pt.is_decimal, Decimal("1")),
    (pt.is_date, datetime.date(2020, 1, 1)),
    (pt.is_timestamp, datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)),
)
"""A value of each kind of column that `CompiledContract.unsatisfiable` looks at; other columns are shown as NULL."""


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
        findings = Findings(batch.num_rows)
        if batch.num_rows:
            for rows, codes, faults in self._plan(batch.schema).faults(batch):
                findings.add(rows, codes, faults)
        return findings.verdict()

    def explain(self) -> list[RulePath]:
        """Which way each rule goes, rule by rule."""
        return explain(self._reading)

    def unsatisfiable(self, schema: pa.Schema) -> dict[str, str]:
        """Columns of which no value can pass, going by their types alone: column → what Pydantic says of each.

        A value of each type is shown to the contract. In strict mode a complaint of the type holds for all of them;
        any other complaint is one of that value.
        """
        columns = [
            pa.array([next((value for of, value in _TYPICAL if of(field.type)), None)], field.type)
            for field in schema
        ]
        errors = self.judge(pa.RecordBatch.from_arrays(columns, schema=schema)).errors.to_pylist()
        found: dict[str, list[dict[str, Any]]] = {}
        for error in errors:
            if error["column"] in schema.names and error["value"] is not None:
                found.setdefault(error["column"], []).append(error)
        return {
            column: "; ".join(dict.fromkeys(error["message"] for error in told))
            for column, told in found.items()
            if all(error["rule"].endswith("_type") or error["rule"] == "is_instance_of" for error in told)
        }

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema of a source row; personal columns carry `x-personal`."""
        return document.json_schema(self.model)

    def markdown(self) -> str:
        """The contract as a table for people: columns, rules, and the way each is judged."""
        return document.markdown(self.model, self._reading, self.explain())

    def kinds(self) -> dict[str, frozenset[str]]:
        """Source column → which of `numeric` and `uuid` its type asks for, as such and not as text."""
        return {column.name: kinds(self._reading, column.field) for column in self.fields}

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
        self.extras: list[str] = []
        if reading.row_rules:
            self.judges: list[RowJudge | ColumnJudge] = [RowJudge(model, reading)]
            return
        sources, self.extras = _sources(reading, schema.names)
        self.judges = [
            ColumnJudge(reading, scope, column, sources.get(column.field), schema)
            for column in reading.columns
        ]

    def faults(self, batch: pa.RecordBatch) -> Iterator[Found]:
        for judge in self.judges:
            yield from judge.faults(batch)
        everyone, same = np.arange(batch.num_rows), np.zeros(batch.num_rows, np.int64)
        for name in self.extras:
            yield everyone, same, [[Fault(name, "extra_forbidden", MASK, "Extra inputs are not permitted")]]


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
