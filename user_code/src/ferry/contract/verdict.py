"""The verdict over one batch: which rows are rejected, and every error in words that people can use."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ferry.arrow import array_of, empty, texts
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
RAISED = "validator_raised"
MOST_ERRORS = 250_000
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


class Fault(NamedTuple):
    """One error before it is laid out: what `ERRORS_SCHEMA` says of it, without the row."""

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
    where = _dotted([step for step in path if isinstance(step, int) or not personal]) if path else None
    if rule == "missing" or isinstance(value, dict):
        value = None
    if personal:
        return Fault(column, rule, None if value is None else MASK, message_of(message), where)
    return Fault(column, rule, shown(value), message_of(message), where)


@functools.lru_cache(maxsize=4096)
def message_of(message: str) -> str:
    """A message that is short enough to be stored a million times; equal ones are one object."""
    return shown(message, 500) or ""


def withheld(message: str) -> str:
    """What can be said of a personal value's error when the message may repeat the value."""
    email = "value is not a valid email address"
    return email if message.startswith(email) else "The message is withheld: it could repeat a personal value"


def _dotted(path: Sequence[Any]) -> str | None:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".") or None


def unreadable(name: str, value: Unreadable, *, personal: bool) -> Fault:
    """The fault of text that is no UTF-8, whatever the contract says of the column."""
    message = value.message if not personal else "Text is not valid UTF-8"
    return Fault(name, value.rule, MASK if personal else shown(value.text), message)


def raised(name: str, value: object, error: Exception, *, personal: bool) -> Fault:
    """The fault of a value on which a user's validator crashed."""
    message = f"The validator itself failed: {type(error).__name__}: {error}"
    text = shown(value)
    if personal:
        message, text = (
            f"The validator itself failed: {type(error).__name__}",
            MASK if text is not None else None,
        )
    return Fault(name, RAISED, text, shown(message, 500) or "")


class Findings:
    """Gathers the errors of one batch in a compact form and lays them out by row.

    Faults come once a distinct value, with the rows that share them; they are turned into Arrow at once, since
    Python objects would take several times the memory.
    """

    def __init__(self, rows: int) -> None:
        self._covered = np.zeros(rows, bool)
        self._rows: list[np.ndarray] = []
        self._picks: list[np.ndarray] = []
        self._faults: list[pa.RecordBatch] = []
        self._counts: dict[str, int] = {}
        self._stored = self._kept = 0

    def add(self, rows: np.ndarray, codes: np.ndarray, lists: Sequence[Sequence[Fault]]) -> None:
        """Take in faults of some rows; for each row its first faults come first.

        Args:
            rows: positions in the batch, each once.
            codes: for each row the index of its faults in `lists`.
            lists: the distinct lists of faults, none of those that rows point at empty.
        """
        used, times = np.unique(codes, return_counts=True)
        for code, count in zip(used.tolist(), times.tolist(), strict=True):
            for rule in {f"{fault.column}: {fault.rule}" for fault in lists[code]}:
                self._counts[rule] = self._counts.get(rule, 0) + count
        room = MOST_ERRORS - self._kept
        if room <= 0:
            fresh = ~self._covered[rows]
            rows, codes = rows[fresh], codes[fresh]
        if not len(rows):
            return
        self._covered[rows] = True
        sizes = np.array([len(one) for one in lists])[codes]
        if sizes.sum() > room:
            sizes = np.minimum(sizes, max(1, room // len(rows)))
        most = np.zeros(len(lists), np.int64)
        np.maximum.at(most, codes, sizes)
        kept = [fault for one, size in zip(lists, most.tolist(), strict=True) for fault in one[:size]]
        starts = np.cumsum([0, *most[:-1].tolist()]) + self._stored
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        self._rows.append(np.repeat(rows, sizes))
        self._picks.append(np.repeat(starts[codes], sizes) + within)
        columns = [texts(column, pa.string()) for column in zip(*kept, strict=True)]
        self._faults.append(pa.RecordBatch.from_arrays(columns, schema=_FAULT_SCHEMA))
        self._stored += len(kept)
        self._kept += len(within)

    def verdict(self) -> Verdict:
        """Everything that was found, ordered by row and within a row as it came."""
        if not self._rows:
            return Verdict(np.empty(0, np.int64), empty(ERRORS_SCHEMA), {})
        row, pick = np.concatenate(self._rows), np.concatenate(self._picks)
        order = np.argsort(row, kind="stable")
        faults = pa.Table.from_batches(self._faults).combine_chunks().take(array_of(pick[order]))
        errors = faults.add_column(
            0, ERRORS_SCHEMA.field("row"), array_of(row[order].astype(np.int64, copy=False))
        )
        return Verdict(np.flatnonzero(self._covered), errors.cast(ERRORS_SCHEMA), self._counts)


_FAULT_SCHEMA = pa.schema([ERRORS_SCHEMA.field(name) for name in ERRORS_SCHEMA.names[1:]])
