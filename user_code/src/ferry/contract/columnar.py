"""From a Pydantic core schema and an Arrow type to a check over a whole column.

A check answers one question: which values can *not* be accepted at a glance? It may doubt a value that
Pydantic accepts (Pydantic is then asked), and must never pass one that Pydantic rejects. That asymmetry is
what keeps this module small and safe: anything unusual raises `NotColumnar` here and is Pydantic's to judge.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from ferry.contract import carried
from ferry.contract.columnar_check import Check, Doubt, Node, NotColumnar, Scope, all_doubted, no_doubt, only
from ferry.contract.columnar_members import enums, literals, uuids
from ferry.contract.columnar_numbers import decimals, floats, integers, numeric_texts
from ferry.contract.columnar_text import binaries, emails, texts
from ferry.contract.columnar_times import dates, datetimes, durations, times
from ferry.contract.model import is_enum_by_value
from ferry.contract.rules import is_email, length_after, name_of


def check_for(node: Node, dtype: pa.DataType, scope: Scope) -> Check:
    """Compile one schema for arrays of one (plain, see `carried.plain`) Arrow type.

    Raises:
        NotColumnar: outside the closed subset, with the reason.
    """
    if is_enum_by_value(node):
        return enums(node, dtype)
    kind = node["type"]
    if kind not in _COMPILERS:
        raise NotColumnar(_REASONS.get(kind, f"{kind} is outside the columnar subset"))
    return _COMPILERS[kind](node, dtype, scope)


def _leaf(accepts: Callable[[pa.DataType], bool], build: Any, python: str, *known: str) -> Any:
    def compile_leaf(node: Node, dtype: pa.DataType, scope: Scope) -> Check:
        only(node, *known)
        if not accepts(dtype):
            raise NotColumnar(f"the column is {dtype}, the contract says {python}")
        return Check(nulls=False, values=build(node, dtype, scope.config))

    return compile_leaf


def _floating(node: Node, dtype: pa.DataType, scope: Scope) -> Check:
    only(node, "gt", "ge", "lt", "le", "allow_inf_nan")
    if not (pt.is_floating(dtype) or pt.is_integer(dtype)):
        raise NotColumnar(f"the column is {dtype}, the contract says float")
    return Check(nulls=False, values=floats(node, dtype, scope.config))


def _decimal(node: Node, dtype: pa.DataType, scope: Scope) -> Check:
    only(node, "gt", "ge", "lt", "le", "max_digits", "decimal_places", "allow_inf_nan")
    if carried.is_numeric_text(dtype):
        return Check(nulls=False, values=numeric_texts(node, dtype, scope.config))
    if pt.is_decimal128(dtype):
        return Check(nulls=False, values=decimals(node, dtype, scope.config))
    raise NotColumnar(f"the column is {dtype}, the contract says Decimal")


def _list(node: Node, dtype: pa.DataType, scope: Scope) -> Check:
    only(node, "items_schema", "min_length", "max_length", "fail_fast")
    if not carried.is_list(dtype):
        raise NotColumnar(f"the column is {dtype}, the contract says list")
    item_type = dtype.value_type
    plain_item = carried.plain_type(item_type)
    items = check_for(node["items_schema"], plain_item, scope) if "items_schema" in node else None
    shortest, longest = node.get("min_length"), node.get("max_length")

    def lists(array: pa.Array) -> Doubt:
        width = np.int32 if pt.is_list(array.type) else np.int64
        offsets = np.frombuffer(array.buffers()[1], width)[array.offset : array.offset + len(array) + 1]
        lengths = np.diff(offsets)
        doubted = np.zeros(len(array), bool)
        if shortest is not None:
            doubted |= lengths < shortest
        if longest is not None:
            doubted |= lengths > longest
        if items is not None and offsets[-1] > offsets[0]:
            # Children under a NULL list may be there and are looked at too: at worst a needless doubt.
            children = carried.plain(array.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0])))
            bad = items.doubt(children)
            if bad is not None:
                owners = np.searchsorted(offsets, np.flatnonzero(bad) + offsets[0], side="right") - 1
                doubted[owners] = True
        return doubted if doubted.any() else None

    return Check(nulls=False, values=lists)


def _nullable(node: Node, dtype: pa.DataType, scope: Scope) -> Check:
    only(node, "schema")
    if pt.is_null(dtype):
        return Check(nulls=True, values=no_doubt)
    return Check(nulls=True, values=check_for(node["schema"], dtype, scope).values)


def _default(node: Node, dtype: pa.DataType, scope: Scope) -> Check:
    only(
        node, "schema", "default", "default_factory", "default_factory_takes_data", "validate_default",
        "on_error", "copy_default",
    )  # fmt: skip
    if node.get("on_error", "raise") != "raise":
        raise NotColumnar("a default instead of an error")
    return check_for(node["schema"], dtype, scope)


def _union(node: Node, dtype: pa.DataType, scope: Scope) -> Check:
    only(node, "choices", "mode", "auto_collapse")
    reasons, checks = [], []
    for choice in node["choices"]:
        try:
            checks.append(check_for(choice[0] if isinstance(choice, tuple) else choice, dtype, scope))
        except NotColumnar as reason:
            reasons.append(str(reason))
    if not checks:
        raise NotColumnar("; ".join(reasons))

    def by_none(array: pa.Array) -> Doubt:
        doubted: Doubt = np.ones(len(array), bool)
        for check in checks:
            by_one = check.values(array)
            if by_one is None:
                return None
            doubted = doubted & by_one
        return doubted

    return Check(nulls=any(check.nulls for check in checks), values=by_none)


def _all_of(checks: list[Check]) -> Check:
    def by_any(array: pa.Array) -> Doubt:
        doubts = [doubt for check in checks if (doubt := check.values(array)) is not None]
        return functools.reduce(np.logical_or, doubts) if doubts else None

    return Check(nulls=all(check.nulls for check in checks), values=by_any)


def _chain(node: Node, dtype: pa.DataType, scope: Scope) -> Check:
    only(node, "steps")
    return _all_of([check_for(step, dtype, scope) for step in node["steps"]])


def _inner(key: str, *known: str) -> Any:
    def compile_inner(node: Node, dtype: pa.DataType, scope: Scope) -> Check:
        only(node, key, *known)
        return check_for(node[key], dtype, scope)

    return compile_inner


def _reference(node: Node, dtype: pa.DataType, scope: Scope) -> Check:
    only(node, "schema_ref")
    target = scope.definitions[node["schema_ref"]]
    if target["type"] in ("model", "dataclass", "typed-dict"):
        raise NotColumnar(_REASONS["model"])
    return check_for(target, dtype, scope)


def _function_after(node: Node, dtype: pa.DataType, scope: Scope) -> Check:
    only(node, "schema", "function")
    function = node["function"]["function"]
    if is_email(function):
        if not carried.is_text(dtype):
            raise NotColumnar(f"the column is {dtype}, the contract says EmailStr")
        return _all_of([check_for(node["schema"], dtype, scope), Check(nulls=False, values=emails())])
    length = length_after(node)
    if length is not None and carried.is_text(dtype):
        as_text = {"type": "str", **length}
        return _all_of([check_for(node["schema"], dtype, scope), check_for(as_text, dtype, Scope())])
    raise NotColumnar(f"the validator {name_of(function)} is Python code")


_REASONS = {
    "function-before": "a validator is Python code",
    "function-wrap": "a validator is Python code",
    "function-plain": "a validator is Python code",
    "model": "a nested model",
    "dict": "a mapping",
}

_COMPILERS: dict[str, Callable[[Node, pa.DataType, Scope], Check]] = {
    "any": lambda node, _dtype, _scope: (only(node), Check(nulls=True, values=no_doubt))[1],
    "none": lambda _node, dtype, _scope: Check(
        nulls=True, values=no_doubt if pt.is_null(dtype) else all_doubted
    ),
    "int": _leaf(pt.is_integer, integers, "int", "gt", "ge", "lt", "le", "multiple_of"),
    "float": _floating,
    "decimal": _decimal,
    "bool": _leaf(pt.is_boolean, lambda *_: no_doubt, "bool"),
    "str": _leaf(
        carried.is_text,
        texts,
        "str",
        "min_length",
        "max_length",
        "pattern",
        "regex_engine",
        "strip_whitespace",
        "to_lower",
        "to_upper",
    ),
    "bytes": _leaf(
        lambda dtype: pt.is_binary(dtype) or pt.is_large_binary(dtype) or pt.is_fixed_size_binary(dtype),
        binaries,
        "bytes",
        "min_length",
        "max_length",
    ),
    "date": _leaf(pt.is_date32, dates, "date", "gt", "ge", "lt", "le"),
    "datetime": _leaf(
        pt.is_timestamp,
        datetimes,
        "datetime",
        "gt",
        "ge",
        "lt",
        "le",
        "tz_constraint",
        "microseconds_precision",
    ),
    "time": _leaf(
        pt.is_time, times, "time", "gt", "ge", "lt", "le", "tz_constraint", "microseconds_precision"
    ),
    "timedelta": _leaf(
        pt.is_duration, durations, "timedelta", "gt", "ge", "lt", "le", "microseconds_precision"
    ),
    "uuid": uuids,
    "literal": literals,
    "list": _list,
    "nullable": _nullable,
    "default": _default,
    "union": _union,
    "chain": _chain,
    "custom-error": _inner("schema", "custom_error_type", "custom_error_message", "custom_error_context"),
    "lax-or-strict": _inner("strict_schema", "lax_schema"),
    "json-or-python": _inner("python_schema", "json_schema"),
    "definition-ref": _reference,
    "function-after": _function_after,
}
