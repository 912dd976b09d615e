"""Refusing a contract that no row can satisfy, or whose check could run for ever, before anything is read."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any

from pydantic import BaseModel
from pydantic_core import SchemaValidator, ValidationError

from ferry.contract.backtracking import cost_of
from ferry.contract.columns import ContractColumn, Reading, walk
from ferry.contract.rules import length_after
from ferry.errors import DeclarationError

Node = Mapping[str, Any]

_SIZELESS = frozenset({"int", "float", "bool", "decimal", "date", "datetime", "time", "timedelta", "uuid"})
_MOST_STEPS = 10**8  # of Python's regular expressions for one value: about a second


def refuse_contradictions(model: type[BaseModel], reading: Reading) -> None:
    """Look at every rule of a contract.

    Raises:
        DeclarationError: naming each field with a contradiction or a pattern without a bound on its time.
    """
    found = []
    for column in reading.columns:
        schema = reading.fields[column.field]["schema"]
        found += [f"{column.field}: {what}" for what in _in_field(column, schema, reading)]
    for reference, definition in reading.definitions.items():
        name = reference.partition(":")[0].rpartition(".")[2]
        if definition.get("cls") is not model:
            found += [f"{name}: {what}" for node in walk(definition) for what in _in_node(node)]
    if found:
        raise DeclarationError(
            f"the contract contradicts itself or cannot be judged in bounded time: {'; '.join(found)}",
            where=f"{model.__module__}.{model.__qualname__}",
            next="Correct these rules; nothing was read or written",
        )


def _in_field(column: ContractColumn, schema: Node, reading: Reading) -> Iterator[str]:
    for node in walk(schema):
        yield from _in_node(node)
    if schema["type"] == "default" and "default" in schema:
        yield from _bad_default(column, schema, reading)


def _bad_default(column: ContractColumn, schema: Node, reading: Reading) -> Iterator[str]:
    default = schema["default"]
    inner: Any = {
        "type": "model-fields",
        "fields": {column.field: {"type": "model-field", "schema": schema["schema"]}},
    }
    if reading.definitions:
        inner = {"type": "definitions", "schema": inner, "definitions": list(reading.definitions.values())}
    try:
        SchemaValidator(inner, reading.config).validate_python({column.field: default}, strict=True)  # type: ignore[arg-type]
    except ValidationError as error:
        because = error.errors(include_url=False, include_context=False)[0]["msg"]
        yield f"its own rules do not accept the default {default!r} ({because})"
    except Exception as error:  # whatever a user's validator raises
        yield f"its own rules do not accept the default {default!r} ({type(error).__name__}: {error})"


def _in_node(node: Node) -> Iterator[str]:
    kind = node["type"]
    yield from _empty_range(node)
    if node.get("min_length", 0) > node.get("max_length", node.get("min_length", 0)):
        yield f"min_length {node['min_length']} is more than max_length {node['max_length']}"
    if kind == "decimal":
        yield from _impossible_digits(node)
    if kind == "literal" and not node["expected"]:
        yield "a Literal without values"
    if kind == "is-instance" and isinstance(node["cls"], type) and issubclass(node["cls"], Enum):
        yield f"the Enum {node['cls'].__name__} has no members"  # what Pydantic makes of one without
    if kind == "function-after" and length_after(node) and node["schema"]["type"] in _SIZELESS:
        yield f"{node['schema']['type']} has no length"
    if kind == "str" and node.get("pattern") is not None:
        yield from _endless(node)


def _empty_range(node: Node) -> Iterator[str]:
    lows = [(node[rule], rule) for rule in ("ge", "gt") if node.get(rule) is not None]
    highs = [(node[rule], rule) for rule in ("le", "lt") if node.get(rule) is not None]
    for bound, rule in lows + highs:
        if bound != bound:  # NaN is the one value that differs from itself
            yield f"no value is {rule} NaN"
    for low, above in lows:
        for high, below in highs:
            open_ends = (above == "gt") + (below == "lt")
            try:
                empty = low > high or (low == high and open_ends > 0)
                empty = empty or (node["type"] == "int" and high - low < open_ends)
                factor = node.get("multiple_of")
                if node["type"] == "int" and factor and not empty:
                    first = -(-(low + (above == "gt")) // factor) * factor
                    empty = not {"le": operator.le, "lt": operator.lt}[below](first, high)
            except TypeError:
                yield f"{above} {low} and {below} {high} cannot be compared: only one has a zone"
                continue
            if empty:
                what = f"multiple of {factor}" if factor else "value"
                yield f"no {what} is both {above} {low} and {below} {high}"


def _impossible_digits(node: Node) -> Iterator[str]:
    digits, places = node.get("max_digits"), node.get("decimal_places")
    if digits is None:
        return
    if places is not None and places > digits:
        yield f"decimal_places {places} is more than max_digits {digits}"
        return
    top = Decimal(10) ** (digits - (places or 0))
    for rule in ("ge", "gt"):
        if rule in node and node[rule] >= top:
            yield f"{rule} {node[rule]} needs more digits than max_digits {digits} allows"
    for rule in ("le", "lt"):
        if rule in node and node[rule] <= -top:
            yield f"{rule} {node[rule]} needs more digits than max_digits {digits} allows"


def _endless(node: Node) -> Iterator[str]:
    """Rust's regular expressions take time in proportion to the text; Python's may not."""
    pattern = node["pattern"]
    if isinstance(pattern, str) and node.get("regex_engine", "rust-regex") != "python-re":
        return
    text, flags = (pattern, 0) if isinstance(pattern, str) else (pattern.pattern, pattern.flags)
    growth, why = cost_of(text, flags)
    longest = node.get("max_length")
    linear = "write it as a plain string without look-around, which runs in linear time"
    if growth is None:
        yield f"the pattern {text} can backtrack for ever in Python's regular expressions ({why}); {linear}"
    elif growth > 1 and (longest is None or longest**growth > _MOST_STEPS):
        most = int(_MOST_STEPS ** (1 / growth))
        yield (
            f"the pattern {text} takes up to n**{growth} steps for a text of length n in Python's regular "
            f"expressions; give the field a max_length of at most {most}, or {linear}"
        )
