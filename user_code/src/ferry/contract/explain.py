"""Which way each rule goes: columnar, once a distinct value, or row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from ferry.contract.columnar import check_for
from ferry.contract.columnar_check import NotColumnar, Scope
from ferry.contract.columns import Reading
from ferry.contract.rules import rules_of

Way = Literal["columnar", "distinct values", "row by row"]
Node = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RulePath:
    """The way one rule of a contract is checked.

    Attributes:
        column: source column, or `*` for a rule of the whole row.
        rule: the rule as people read it: `int`, `gt 0`, `pattern ^C-`, `check_total`.
        way: `columnar`, `distinct values` or `row by row`.
        why: the reason, empty for columnar.
    """

    column: str
    rule: str
    way: Way
    why: str


def explain(reading: Reading) -> list[RulePath]:
    """Every rule of a contract and its way, for columns of the Arrow type that the declared type comes in."""
    by_row = ", ".join(rule.name for rule in reading.row_rules)
    paths = [RulePath(rule.column, rule.name, "row by row", rule.why) for rule in reading.row_rules]
    scope = Scope(reading.config, reading.definitions)
    for column in reading.columns:
        schema = reading.fields[column.field]["schema"]
        way, why = _way(schema, scope)
        if by_row:
            way, why = "row by row", f"judged together with {by_row}"
        paths += [RulePath(column.name, rule, way, why) for rule in rules_of(schema, reading.definitions)]
    return paths


def _way(schema: Node, scope: Scope) -> tuple[Way, str]:
    reasons: list[str] = []
    for dtype in _natural_types():
        try:
            check_for(schema, dtype, scope)
        except NotColumnar as reason:
            if "the column is" not in str(reason) and "on a column of" not in str(reason):
                reasons.append(str(reason))
        else:
            return "columnar", ""
    return "distinct values", reasons[0] if reasons else "outside the columnar subset"


def _natural_types() -> list[pa.DataType]:
    scalars = [
        pa.int64(), pa.float64(), pa.decimal128(38, 10), pa.bool_(), pa.string(), pa.binary(), pa.date32(),
        pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.time64("us"), pa.duration("us"), pa.uuid(),
        pa.null(),
    ]  # fmt: skip
    return scalars + [pa.list_(scalar) for scalar in scalars]
