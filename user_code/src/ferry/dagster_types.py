"""A contract as a `DagsterType`, for users' own pandas, Polars and Arrow assets.

    @asset(dagster_type=Order.dagster_type())
    def orders_from_a_spreadsheet() -> pd.DataFrame: ...

The UI shows the columns with their rules. A frame that breaks the contract fails the run, with counts by rule
and the first offending rows in the failure's metadata; personal values are masked there as everywhere.
"""

from __future__ import annotations

import functools
from typing import Any

import dagster as dg
import pyarrow as pa
from pydantic import BaseModel

from ferry.contract import CompiledContract, compile_contract

_ROWS_AT_ONCE = 65_536
_EXAMPLES = 20


@functools.lru_cache(maxsize=256)
def dagster_type(model: type[BaseModel]) -> dg.DagsterType:
    """The Dagster type of a contract; the same object for the same model, as Dagster wants it.

    Raises:
        DeclarationError: the contract contradicts itself.
    """
    contract = compile_contract(model)

    def check(_: dg.TypeCheckContext, value: object) -> dg.TypeCheck:
        return check_frame(contract, value)

    return dg.DagsterType(
        type_check_fn=check,
        key=f"{model.__module__}.{model.__qualname__}".replace("<locals>.", ""),
        name=model.__name__,
        description=contract.markdown(),
        metadata={
            "dagster/column_schema": column_schema(contract),
            "json_schema": dg.MetadataValue.json(contract.json_schema()),
        },
    )


def column_schema(contract: CompiledContract) -> dg.TableSchema:
    """The contract's columns as the UI shows them: the type, NULL or not, and the other rules."""
    columns = []
    for column in contract.fields:
        kind, *rules = [rule for rule in column.rules if rule not in ("or NULL", "may be absent")]
        constraints = dg.TableColumnConstraints(nullable=column.nullable, other=rules)
        tags = {"personal": ""} if column.personal else None
        columns.append(dg.TableColumn(column.name, type=kind, constraints=constraints, tags=tags))
    return dg.TableSchema(columns)


def check_frame(contract: CompiledContract, value: object) -> dg.TypeCheck:
    """Judge a frame a batch at a time; a failed check says what and how many, and shows the first rows."""
    try:
        table = _as_table(value)
    except (pa.ArrowException, ValueError, TypeError) as error:
        return dg.TypeCheck(
            success=False, description=f"{type(value).__name__} is no table of columns: {error}"
        )
    rejected, counts, examples, start = 0, {}, [], 0
    for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
        verdict = contract.judge(batch)
        rejected += len(verdict.rejected_rows)
        for rule, times in verdict.counts.items():
            counts[rule] = counts.get(rule, 0) + times
        few = verdict.errors.slice(0, max(0, _EXAMPLES - len(examples))).to_pylist()
        examples += [dg.TableRecord({**_shown(error), "row": error["row"] + start}) for error in few]
        start += batch.num_rows
    if not rejected:
        return dg.TypeCheck(success=True, metadata={"dagster/row_count": table.num_rows})
    worst = sorted(counts.items(), key=lambda item: -item[1])
    said = f"{rejected:,} of {table.num_rows:,} rows break the contract {contract.model.__name__}: "
    said += ", ".join(f"{rule} ({times:,})" for rule, times in worst[:5])
    schema = dg.TableSchema([dg.TableColumn("row", "int")] + [dg.TableColumn(name) for name in _SHOWN])
    return dg.TypeCheck(
        success=False,
        description=said,
        metadata={
            "dagster/row_count": table.num_rows,
            "rejected": rejected,
            "rules": dg.MetadataValue.json(dict(worst)),
            "offending_rows": dg.MetadataValue.table(examples, schema),
        },
    )


_SHOWN = ("column", "rule", "value", "message")


def _shown(error: dict[str, Any]) -> dict[str, Any]:
    return {name: error[name] if error[name] is not None else "NULL" for name in _SHOWN}


def _as_table(value: Any) -> pa.Table:
    if isinstance(value, pa.Table):
        return value
    if isinstance(value, pa.RecordBatch):
        return pa.Table.from_batches([value])
    if hasattr(value, "to_arrow"):  # Polars
        return value.to_arrow()
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        return pa.Table.from_pandas(value, preserve_index=False)
    raise TypeError("expected a pandas or Polars DataFrame, a pyarrow Table or a RecordBatch")
