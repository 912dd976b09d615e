"""The first rows of something, for the UI, without what is nobody's business."""

from collections.abc import Collection

import dagster as dg
import pyarrow as pa

from ferry.contract.verdict import MASK

SHOWN_ROWS = 5


def preview(table: pa.Table, personal: Collection[str]) -> dg.TableMetadataValue:
    """The first rows as a table in the UI; personal values are masked."""
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    name: "" if value is None else MASK if name in personal else str(value)[:80]
                    for name, value in row.items()
                }
            )
            for row in table.slice(0, SHOWN_ROWS).to_pylist()
        ],
        dg.TableSchema([dg.TableColumn(f.name, str(f.type)) for f in table.schema]),
    )
