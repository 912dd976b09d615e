"""The verdict over one batch: which rows are rejected, and every error in words that people can use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ferry.contract.carried import INVALID_UTF8, Unreadable, shown

ERRORS_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("column", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("value", pa.string()),
        pa.field("message", pa.string(), nullable=False),
        pa.field("path", pa.string()),
    ]
)
"""One line an error: row position in the batch, source column (`*` for a rule of the whole row), Pydantic's
error type, the value (at most 200 characters; `***` when personal), Pydantic's message, and where inside the
value."""

MASK = "***"
WHOLE_ROW = "*"
MOST_ERRORS = 1_000_000
"""Errors kept for one batch; beyond that each row keeps its first few, so a contract of 5,000 columns that
meets the wrong table cannot fill the memory. `Verdict.counts` still counts all."""

# Error types whose message is made of the rule alone, never of the value.
_SAY_NOTHING_OF_THE_VALUE = frozenset(
    {
        "missing",
        "extra_forbidden",
        "is_instance_of",
        "nul_character",
        "enum",
        "literal_error",
        "finite_number",
        "multiple_of",
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
        "string_too_short",
        "string_too_long",
        "string_pattern_mismatch",
        "too_short",
        "too_long",
        "bytes_too_short",
        "bytes_too_long",
        "decimal_max_digits",
        "decimal_max_places",
        "decimal_whole_digits",
        "date_past",
        "date_future",
        "datetime_past",
        "datetime_future",
        "timezone_naive",
        "timezone_aware",
        "uuid_version",
        "none_required",
        "recursion_loop",
    }
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One error before it is laid out: `column` and what `ERRORS_SCHEMA` says of the rest."""

    column: str
    rule: str
    value: str | None
    message: str
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a contract says of one batch.

    Attributes:
        rejected_rows: int64 positions in the batch, ascending, each once.
        errors: `ERRORS_SCHEMA`, ordered by row, then as Pydantic orders them.
        counts: how many rows broke each rule, as `"<column>: <rule>"`.
    """

    rejected_rows: np.ndarray
    errors: pa.Table
    counts: dict[str, int]


def fault_from(
    error: Any, column: str, path: Sequence[Any], *, personal: bool, sees_personal: bool = False
) -> Fault:
    """One of Pydantic's error dictionaries as a fault of a column.

    Args:
        personal: mask the value, and the message if it could repeat the value.
        sees_personal: the rule looked at personal columns too, so its message could repeat one of them.
    """
    value, rule, message = error["input"], error["type"], error["msg"]
    if isinstance(value, Unreadable):
        rule, message = value.rule, value.message
        if personal and rule == INVALID_UTF8:
            message = "Text is not valid UTF-8"
    elif (personal or sees_personal) and not (rule in _SAY_NOTHING_OF_THE_VALUE or rule.endswith("_type")):
        message = withheld(message)
    # The keys of a mapping are data too: of a personal value only positions are told.
    where = _dotted([step for step in path if isinstance(step, int) or not personal])
    if rule == "missing" or isinstance(value, dict):
        value = None
    text = shown(value)
    return Fault(
        column, rule, MASK if personal and text is not None else text, shown(message, 500) or "", where
    )


def withheld(message: str) -> str:
    """What can be said of a personal value's error when the message may repeat the value."""
    email = "value is not a valid email address"
    return email if message.startswith(email) else "The message is withheld: it could repeat a personal value"


def _dotted(path: Sequence[Any]) -> str | None:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".") or None


def none_rejected() -> Verdict:
    """The verdict over a batch in which every row is accepted."""
    return Verdict(np.empty(0, np.int64), ERRORS_SCHEMA.empty_table(), {})


def assemble(found: Iterable[tuple[np.ndarray, np.ndarray, Sequence[Sequence[Fault]]]]) -> Verdict:
    """Lay the errors out in rows.

    Args:
        found: in the order of columns: (positions of rejected rows, for each the index of its faults, the
            distinct lists of faults). Many rows share one list, so nothing is kept a row until here.
    """
    rows: list[np.ndarray] = []
    picks: list[np.ndarray] = []
    faults: list[Fault] = []
    counts: dict[str, int] = {}
    for positions, codes, lists in found:
        starts = np.cumsum([0, *map(len, lists)]) + len(faults)
        faults += [fault for one in lists for fault in one]
        sizes = np.diff(starts)[codes]
        for code, times in zip(*np.unique(codes, return_counts=True), strict=True):
            for rule in {f"{fault.column}: {fault.rule}" for fault in lists[code]}:
                counts[rule] = counts.get(rule, 0) + int(times)
        rows.append(np.repeat(positions, sizes))
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        picks.append(np.repeat(starts[:-1][codes], sizes) + within)
    if not rows:
        return none_rejected()
    row, pick = np.concatenate(rows), np.concatenate(picks)
    order = np.argsort(row, kind="stable")
    row, pick = row[order], pick[order]
    rejected = np.unique(row)
    if len(row) > MOST_ERRORS:
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        first = rank < max(1, MOST_ERRORS // len(rejected))
        row, pick = row[first], pick[first]
    return Verdict(rejected.astype(np.int64), _table(row, pick, faults), counts)


def _table(row: np.ndarray, pick: np.ndarray, faults: list[Fault]) -> pa.Table:
    distinct = pa.table(
        {
            name: pa.array([getattr(fault, name) for fault in faults], pa.string())
            for name in ERRORS_SCHEMA.names[1:]
        }
    ).take(pa.array(pick))
    return pa.Table.from_arrays(
        [pa.array(row, pa.int64()), *(distinct[name].combine_chunks() for name in ERRORS_SCHEMA.names[1:])],
        schema=ERRORS_SCHEMA,
    )
