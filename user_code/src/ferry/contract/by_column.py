"""One column of a contract: checked at a glance, then Pydantic once for each distinct value in doubt."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic_core import SchemaValidator, ValidationError

from ferry.arrow import array_of, numbers_of
from ferry.contract import carried
from ferry.contract.carried import INVALID_UTF8, Unreadable
from ferry.contract.columnar import check_for
from ferry.contract.columnar_check import Check, NotColumnar, Scope
from ferry.contract.columns import ContractColumn, Reading
from ferry.contract.verdict import Fault, fault_from, raised, unreadable

Found = tuple[np.ndarray, np.ndarray, Sequence[Sequence[Fault]]]
"""Positions of rejected rows, for each the index of its faults, and the distinct lists of faults."""

_VALUES_AT_ONCE = 2_000  # as Python objects
_FAULTS_OF_ONE_VALUE = 1_000  # a list of a million wrong items needs no million errors


class ColumnJudge:
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
        """What this column gets rejected in a batch; each row comes at most once."""
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
            with contextlib.suppress(pa.ArrowNotImplementedError):  # lists of views: all rows are shown
                array, positions = array.take(array_of(doubted)), doubted
        codes, distinct = _distinct(array)
        for start in range(0, len(distinct), _VALUES_AT_ONCE):
            part = distinct.slice(start, _VALUES_AT_ONCE)
            lists = [self._faults_of({self.source: value}, value) for value in carried.python_values(part)]
            bad = np.zeros(len(distinct), bool)
            bad[start : start + len(part)] = [bool(faults) for faults in lists]
            rejected = np.flatnonzero(bad[codes])
            if len(rejected):
                yield positions[rejected], codes[rejected] - start, lists

    def _faults_of(self, row: dict[str, Any], value: object) -> list[Fault]:
        name, personal = self.source or self.column.name, self.column.personal
        if isinstance(value, Unreadable) and value.rule == INVALID_UTF8:
            return [unreadable(name, value, personal=personal)]
        try:
            self.validator.validate_python(row, strict=True)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False)[:_FAULTS_OF_ONE_VALUE]
            return [fault_from(each, name, each["loc"][1:], personal=personal) for each in errors]
        except Exception as error:  # whatever a user's validator raises rejects this value alone
            return [raised(name, value, error, personal=personal)]
        return []


def _distinct(array: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """For each row the index of its value, and the distinct values, of which one may be NULL."""
    storage = array.storage if isinstance(array, pa.ExtensionArray) else array
    if pa.types.is_floating(storage.type) and storage.type != pa.float16():
        # By bits: -0.0 is not 0.0 and one NaN is not another.
        storage = storage.view(pa.int64() if storage.type == pa.float64() else pa.int32())
    try:
        encoded = storage.dictionary_encode(null_encoding="encode")
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowInvalid):
        return np.arange(len(array)), array
    values = encoded.dictionary
    if pa.types.is_floating(array.type):
        values = values.view(array.type)
    elif isinstance(array, pa.ExtensionArray):
        values = pa.ExtensionArray.from_storage(array.type, values)
    return numbers_of(encoded.indices), values
