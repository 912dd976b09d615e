"""Vectorised doubt about values out of a closed list (Enum, Literal) and about UUIDs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from ferry.arrow import array_of, numbers_of, texts
from ferry.contract import carried
from ferry.contract.columnar_check import Check, Doubt, Node, NotColumnar, Scope, no_doubt, only


def enums(node: Node, dtype: pa.DataType) -> Check:
    """An Enum that is judged by the values of its members."""
    return members(set(node["function"]["function"].members), dtype)


def literals(node: Node, dtype: pa.DataType, _: Scope) -> Check:
    """A Literal: text, integers, booleans, NULL."""
    only(node, "expected")
    return members(set(map(_typed, node["expected"])), dtype)


def _typed(value: object) -> tuple[type, object]:
    return type(value), value


def members(expected: set[tuple[type, object]], dtype: pa.DataType) -> Check:
    """Values out of a closed list, each of the very type that the column holds."""
    python: type = type(None)
    if carried.is_text(dtype):
        python = str
    elif pt.is_integer(dtype):
        python = int
    elif pt.is_boolean(dtype):
        python = bool
    if python is type(None):
        if not pt.is_null(dtype):
            raise NotColumnar(f"a closed list of values on a column of {dtype}")
        return Check(nulls=(python, None) in expected, values=no_doubt)
    values = [value for kind, value in expected if kind is python]
    if python is int:
        values = [value for value in values if _fits(value, dtype)]
    if python is str:
        lookup = texts(sorted(values), dtype)  # type: ignore[type-var]
    else:
        lookup = array_of(np.array(sorted(values), dtype.to_pandas_dtype()))  # type: ignore[type-var]

    def outside(array: pa.Array) -> Doubt:
        import pyarrow.compute as pc

        listed = pc.call_function("is_in", [array], pc.SetLookupOptions(lookup))
        return None if listed.true_count == len(array) else ~numbers_of(listed)

    return Check(nulls=(type(None), None) in expected, values=outside)


def _fits(value: Any, dtype: pa.DataType) -> bool:
    limits = np.iinfo(dtype.to_pandas_dtype())
    return limits.min <= value <= limits.max


def uuids(node: Node, dtype: pa.DataType, _: Scope) -> Check:
    """UUIDs as 16 bytes, of one version if the contract names it."""
    only(node, "version")
    if not isinstance(dtype, pa.UuidType):
        raise NotColumnar(f"the column is {dtype}, the contract says UUID")
    version = node.get("version")

    def other_version(array: pa.Array) -> Doubt:
        storage = array.storage
        data = np.frombuffer(storage.buffers()[1], np.uint8).reshape(-1, 16)
        data = data[storage.offset : storage.offset + len(storage)]
        return (data[:, 6] >> 4 != version) | (data[:, 8] >> 6 != 0b10)

    return Check(nulls=False, values=no_doubt if version is None else other_version)
