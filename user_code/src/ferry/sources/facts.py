# pyright: reportAttributeAccessIssue=false
"""What a source says of its own rows, so that what arrived can be held against it."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc  # its functions are made at run time

from ferry.arrow import numbers_of

ROW_HASH = pa.field("_row_hash", pa.int64(), nullable=False)
"""The column of a row's hash, as the source computes it, beside the row's own columns (`Extraction.hashed`)."""


@dataclass(frozen=True)
class Facts:
    """Row count of one partition and, for each column that can be summed, the exact sum as text (None: no value).

    A PostgreSQL source takes them in the snapshot in which the rows are read. A source that cannot sum leaves
    `sums` empty. `said` has what else it told, for the manifest and for people: objects stated and arrived, requests.
    `fingerprint` changes when a row does; None where the source cannot compute one.
    """

    rows: int
    sums: dict[str, str | None]
    said: dict[str, Any] = field(default_factory=dict)
    fingerprint: str | None = None


def canonical_number(value: Any) -> str:
    """A number as text without trailing zeros, so that sums of two systems can be compared as text."""
    number = Decimal(str(value))
    if not number.is_finite():
        return str(number)
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def summable(type_: pa.DataType) -> bool:
    """Whether a column of this Arrow type is summed."""
    return pa.types.is_integer(type_) or pa.types.is_decimal(type_)


def exact_sum(column: pa.ChunkedArray) -> int | Decimal | None:
    """The sum of a column as a Python number that cannot overflow; None if it holds no value."""
    if pa.types.is_integer(column.type):
        bounds = pc.min_max(column).as_py()
        if bounds["min"] is not None and max(abs(bounds["min"]), abs(bounds["max"])) * len(column) >= 2**62:
            values = numbers_of(column.drop_null()).astype(np.int64)
            return (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())
    return pc.sum(column).as_py()
