# pyright: reportAttributeAccessIssue=false
"""Values as the driver hands them over, in the types that are declared; what does not fit goes beside its row."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc  # its functions are made at run time

from ferry.arrow import constant
from ferry.catalogue import Column, Table, arrow_field
from ferry.errors import PermanentError
from ferry.sources.shape import UNFIT

_NAN = "nan"
"""How the driver writes the one number that a `numeric(p,s)` holds and a decimal of Arrow does not."""


def may_misfit(column: Column) -> bool:
    """Whether it can be `NaN`, which Arrow's decimals cannot."""
    return pa.types.is_decimal(arrow_field(column).type)


def beside(table: Table) -> dict[str, Column]:
    """The column for values that do not fit, if there can be any."""
    if not any(map(may_misfit, table.columns.values())):
        return {}
    return {UNFIT: Column(UNFIT, "text", "text", "b", False, False, None, False)}


def conform(
    batch: pa.RecordBatch,
    schema: pa.Schema,
    where: str,
    unfit: dict[int, dict[str, str]] | None = None,
) -> pa.RecordBatch:
    """Give the driver's columns the declared Arrow types; only representations change, never values.

    `unfit` takes, by row and column, each `NaN` that a column cannot hold, which is NULL there; without it that is
    an error.
    """
    columns = []
    for position, field in enumerate(schema):
        column = batch.column(position)
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        if column.type != field.type:
            if unfit is not None and pa.types.is_decimal(field.type):
                column = _without_nan(column, field.name, unfit)
            try:
                column = pc.cast(column, field.type, safe=True)
            except pa.ArrowInvalid as error:
                raise PermanentError(
                    f"column {field.name!r} holds a value that its type cannot carry",
                    where=where,
                    why=str(error).splitlines()[0],
                    next="Exclude the value with `source.where`, or read the column as text through a view",
                ) from None
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _without_nan(column: pa.Array, name: str, unfit: dict[int, dict[str, str]]) -> pa.Array:
    is_nan = pc.equal(column, constant(_NAN, pa.string()))
    if not pc.any(is_nan).as_py():
        return column
    for row in np.flatnonzero(pc.fill_null(is_nan, fill_value=False).to_numpy(zero_copy_only=False)).tolist():
        unfit.setdefault(row, {})[name] = "NaN"
    return pc.if_else(is_nan, constant(None, column.type), column)
