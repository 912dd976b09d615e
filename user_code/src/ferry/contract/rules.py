"""The rules of a contract in words, read from Pydantic's core schema."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from ferry.contract.model import is_enum_by_value, is_text_without_nul

Node = Mapping[str, Any]

_SETTINGS = (
    "gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern", "max_digits",
    "decimal_places", "version", "tz_constraint", "now_op", "strip_whitespace",
)  # fmt: skip


def is_email(function: object) -> bool:
    """Whether this validator is Pydantic's `EmailStr`."""
    owner = getattr(function, "__self__", None)
    return (
        getattr(owner, "__module__", "") == "pydantic.networks"
        and getattr(owner, "__name__", "") == "EmailStr"
    )


def length_after(node: Node) -> dict[str, int] | None:
    """The length that Pydantic checks *after* another validator, as it does for `EmailStr` with a length."""
    function = node["function"]["function"]
    module = getattr(getattr(function, "func", None), "__module__", "")
    if isinstance(function, functools.partial) and module == "pydantic._internal._validators":
        keywords = dict(function.keywords)
        if not function.args and keywords.keys() <= {"min_length", "max_length"}:
            return keywords
    return None


def name_of(function: object) -> str:
    """A validator's name for people: `Order.check_total`."""
    bare = getattr(function, "func", function)
    name = getattr(bare, "__qualname__", type(bare).__qualname__)
    return name.rpartition("<locals>.")[2]


def rules_of(node: Node, definitions: Mapping[str, Node]) -> Iterator[str]:
    """The rules of a schema in words, the type first: `int`, `gt 0`, `or NULL`."""
    kind = node["type"]
    if is_enum_by_value(node):
        yield f"one of {node['function']['function'].expected}"
    elif is_text_without_nul(node):
        yield from rules_of(node["steps"][0], definitions)
        yield "no NUL"
    elif kind in ("nullable", "default"):
        yield from rules_of(node["schema"], definitions)
        yield "or NULL" if kind == "nullable" else "may be absent"
    elif kind.startswith("function-"):
        if "schema" in node:
            yield from rules_of(node["schema"], definitions)
        yield from _of_function(node)
    elif kind == "union":
        choices = [choice[0] if isinstance(choice, tuple) else choice for choice in node["choices"]]
        yield " or ".join(", ".join(rules_of(choice, definitions)) for choice in choices)
    elif kind == "literal":
        yield f"one of {', '.join(map(repr, node['expected']))}"
    elif kind == "list":
        items = rules_of(node["items_schema"], definitions) if "items_schema" in node else []
        yield " of ".join(filter(None, ["list", ", ".join(items)]))
        yield from _settings(node)
    elif kind == "definition-ref":
        target = definitions[node["schema_ref"]]
        yield from [target["cls"].__name__] if "cls" in target else rules_of(target, definitions)
    else:
        yield node["cls"].__name__ if "cls" in node else kind
        yield from _settings(node)


def _of_function(node: Node) -> Iterator[str]:
    function = node["function"]["function"]
    if is_email(function):
        yield "e-mail address"
    elif node["type"] == "function-after" and (length := length_after(node)):
        yield from (f"{rule} {value}" for rule, value in length.items())
    else:
        yield name_of(function)


def _settings(node: Node) -> Iterator[str]:
    for key in _SETTINGS:
        if key in node:
            yield f"{key} {getattr(node[key], 'pattern', node[key])}"
    if node.get("allow_inf_nan") is False:
        yield "finite"
