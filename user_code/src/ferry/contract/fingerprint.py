"""A stable hash of what matters in a contract: fields, types, rules and what validators do.

Two contracts with the same fingerprint give the same verdict on every row (under the same Pydantic). White
space, comments, docstrings, the order of fields, class names and memory addresses do not enter; the code of
validators does, with the functions and constants of the same package that it refers to.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import re
import sysconfig
from collections.abc import Callable, Mapping
from enum import Enum
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

from ferry.contract.columns import Reading
from ferry.contract.model import PERSONAL, MemberOf

_NO_MATTER = frozenset(
    {"ref", "metadata", "serialization", "serialization_alias", "serialization_exclude", "computed_fields",
     "model_name", "title", "frozen", "custom_init", "root_model", "generic_origin"}
)  # fmt: skip
_INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


def fingerprint(reading: Reading) -> str:
    """64 hexadecimal digits that change when, and only when, the contract may judge or mask differently."""
    what = {
        "fields": {name: _canonical(node) for name, node in reading.fields.items()},
        "definitions": {_name(ref): _canonical(node) for ref, node in reading.definitions.items()},
        "config": _canonical(reading.config),
        "extra": [
            reading.fields_schema.get("extra_behavior"),
            _canonical(reading.fields_schema.get("extras_schema")),
        ],
        "rows": [_canonical(rule.function) for rule in reading.row_rules if rule.function is not None],
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=repr).encode()).hexdigest()


def function_fingerprint(function: Callable[..., Any]) -> str:
    """64 hexadecimal digits that change when a function, or what it uses of its own package, may do something else."""
    return hashlib.sha256(json.dumps(_canonical(function), sort_keys=True, default=repr).encode()).hexdigest()


def _canonical(thing: Any) -> Any:
    if thing is None or isinstance(thing, (bool, int, str)):
        return thing
    if isinstance(thing, Mapping):
        kept = {
            str(key): _canonical(value)
            for key, value in thing.items()
            if key not in _NO_MATTER and not (key == "cls" and thing.get("type") in ("model", "enum"))
        }
        if isinstance(thing.get("schema_ref"), str):
            kept["schema_ref"] = _name(thing["schema_ref"])
        if isinstance(mark := thing.get("metadata"), Mapping) and mark.get(PERSONAL):
            kept["personal"] = True
        return kept
    if isinstance(thing, (list, tuple)):
        return [_canonical(item) for item in thing]
    if isinstance(thing, (set, frozenset)):
        return sorted(json.dumps(_canonical(item), sort_keys=True) for item in thing)
    if isinstance(thing, Enum):
        return [type(thing.value).__name__, _canonical(thing.value)]
    if isinstance(thing, MemberOf):
        return sorted(f"{kind.__name__} {value!r}" for kind, value in thing.members)
    if isinstance(thing, re.Pattern):
        return ["pattern", thing.pattern, thing.flags]
    if isinstance(thing, functools.partial):
        return ["partial", _canonical(thing.func), _canonical(thing.args), _canonical(thing.keywords)]
    if isinstance(thing, MethodType):
        owner = thing.__self__
        return [_canonical(thing.__func__), getattr(owner, "__qualname__", type(owner).__qualname__)]
    if isinstance(thing, (FunctionType, BuiltinFunctionType)):
        return _function(thing, frozenset())
    if isinstance(thing, type):
        return f"{thing.__module__}.{thing.__qualname__}"
    return _instance(thing)


def _instance(thing: Any) -> Any:
    text = repr(thing)
    call = vars(type(thing)).get("__call__")
    if isinstance(call, FunctionType):
        return [
            type(thing).__qualname__,
            _function(call, frozenset()),
            _canonical(getattr(thing, "__dict__", {})),
        ]
    return f"{type(thing).__qualname__} {re.sub(r' at 0x[0-9a-f]+', '', text)}"


def _name(reference: str) -> str:
    """A reference without the memory addresses that Pydantic puts into it."""
    return re.sub(r":\d+", "", reference)


def _function(function: Callable[..., Any], seen: frozenset[CodeType]) -> Any:
    """What a function does: syntax tree, defaults, closure, and what it uses of its own package."""
    name = f"{function.__module__}.{getattr(function, '__qualname__', '')}"
    code = getattr(function, "__code__", None)
    if code is None or code in seen or code.co_filename.startswith(_INSTALLED):
        return name
    seen = seen | {code}
    cells = [cell.cell_contents for cell in (function.__closure__ or ())]
    return {
        "does": _tree(function, code),
        "defaults": [_canonical(function.__defaults__), _canonical(function.__kwdefaults__)],
        "closure": [_referred(value, function, seen) for value in cells],
        "refers": {
            each: _referred(function.__globals__[each], function, seen)
            for each in sorted(_names(code))
            if each in function.__globals__
        },
    }


def _names(code: CodeType) -> set[str]:
    nested = (const for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*(_names(each) for each in nested))


def _referred(value: Any, by: Callable[..., Any], seen: frozenset[CodeType]) -> Any:
    if isinstance(value, FunctionType):
        same = value.__module__.split(".")[0] == (by.__module__ or "").split(".")[0]
        return _function(value, seen) if same else f"{value.__module__}.{value.__qualname__}"
    if inspect.ismodule(value):
        return value.__name__
    return _canonical(value)


def _tree(function: Callable[..., Any], code: CodeType) -> str:
    """The syntax tree without docstrings; the byte code where there is no source (a console, an `exec`)."""
    try:
        lines, _ = inspect.findsource(code)
        module = ast.parse("".join(lines))
    except (OSError, SyntaxError):
        return f"{code.co_code.hex()} {code.co_consts!r} {code.co_names}"
    found = [node for node in ast.walk(module) if _begins_at(node, function, code.co_firstlineno)]
    for node in found:
        for inner in ast.walk(node):
            _drop_docstring(inner)
            if isinstance(inner, ast.FunctionDef):
                inner.name, inner.returns = "", None
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []
    return " ".join(ast.dump(node) for node in found)


def _begins_at(node: ast.AST, function: Callable[..., Any], line: int) -> bool:
    if isinstance(node, ast.Lambda):
        return function.__name__ == "<lambda>" and node.lineno == line
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        return node.name == function.__name__ and first == line
    return False


def _drop_docstring(node: ast.AST) -> None:
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or not node.body:
        return
    first = node.body[0]
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        node.body = node.body[1:] or [ast.Pass()]
