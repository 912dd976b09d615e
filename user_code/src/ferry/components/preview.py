"""The first rows of something, for the UI, without what is nobody's business."""

from collections.abc import Collection

import dagster as dg
import pyarrow as pa

from ferry.contract.carried import python_values
from ferry.contract.verdict import MASK

SHOWN_ROWS = 5


def preview(table: pa.Table, personal: Collection[str]) -> dg.TableMetadataValue:
    """The first rows as a table in the UI; personal values are masked."""
    few = table.slice(0, SHOWN_ROWS)
    columns = [
        _shown(column, name in personal) for name, column in zip(few.column_names, few.columns, strict=True)
    ]
    return dg.MetadataValue.table(
        [dg.TableRecord(dict(zip(few.column_names, row, strict=True))) for row in zip(*columns, strict=True)],
        dg.TableSchema([dg.TableColumn(f.name, str(f.type)) for f in table.schema]),
    )


def _shown(column: pa.ChunkedArray, personal: bool) -> list[str]:
    return [
        "" if value is None else MASK if personal else str(value)[:80]
        for value in python_values(column.combine_chunks())
    ]
