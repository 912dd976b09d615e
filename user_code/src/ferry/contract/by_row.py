"""A contract with a rule of the whole row: Pydantic, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ValidationError

from ferry.contract import carried
from ferry.contract.by_column import Found
from ferry.contract.carried import INVALID_UTF8, Unreadable
from ferry.contract.columns import Reading
from ferry.contract.verdict import WHOLE_ROW, Fault, fault_from, raised, unreadable

_ROWS_AT_ONCE = 2_000  # as Python dictionaries: the only part of a batch that is in memory twice


class RowJudge:
    """Judges whole rows of any Arrow schema."""

    def __init__(self, model: type[BaseModel], reading: Reading) -> None:
        self.validator = model.__pydantic_validator__
        self.personal = {name for column in reading.columns if column.personal for name in column.names}
        self.known = {name for column in reading.columns for name in column.names}
        ruled = {rule.column for rule in reading.row_rules}
        self.row_ruled = {
            name for column in reading.columns if column.field in ruled for name in column.names
        }

    def faults(self, batch: pa.RecordBatch) -> Iterator[Found]:
        """What whole rows get rejected in a batch; each row comes at most once."""
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
            faults = [raised(WHOLE_ROW, None, error, personal=bool(self.personal))]
        for name, value in row.items():
            broken = isinstance(value, Unreadable) and value.rule == INVALID_UTF8 and name in self.known
            if broken and not any(fault.column == name for fault in faults):
                faults.append(unreadable(name, value, personal=name in self.personal))
        return faults

    def _row_fault(self, error: Any) -> Fault:
        location = error["loc"]
        column = str(location[0]) if location else WHOLE_ROW
        extra = error["type"] == "extra_forbidden" and column not in self.known
        personal = column in self.personal or extra or (column == WHOLE_ROW and bool(self.personal))
        sees_personal = bool(self.personal) and column in self.row_ruled
        return fault_from(error, column, location[1:], personal=personal, sees_personal=sees_personal)
