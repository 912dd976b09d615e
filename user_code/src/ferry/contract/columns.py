"""What a contract reads: Pydantic's core schema of a model, taken apart into columns.

The core schema is the structure that Pydantic validates with, so reading it, rather than annotations, cannot
miss a rule. Where a rule looks at more than one column the model is judged row by row, and
`Reading.row_rules` says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from ferry.contract.model import PERSONAL
from ferry.contract.rules import name_of, rules_of

Node = Mapping[str, Any]

_FUNCTIONS = ("function-before", "function-after", "function-wrap", "function-plain")


@dataclass(frozen=True, slots=True)
class ContractColumn:
    """One field of a contract, as the source's column that it judges.

    Attributes:
        name: the source column: the field's alias, or its name.
        field: the field's name in the model.
        rules: the type and its rules in words: `("decimal", "max_digits 12", "or NULL")`.
        nullable: whether NULL is accepted by the declared type.
        required: whether the column has to be there at all.
        personal: whether its values are masked in errors.
        names: every column name that can feed the field, in the order in which Pydantic looks.
    """

    name: str
    field: str
    rules: tuple[str, ...]
    nullable: bool
    required: bool
    personal: bool
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RowRule:
    """A rule that needs the whole row: where it stands, its name, why, and its Python code, if any."""

    column: str
    name: str
    why: str
    function: Any = None


@dataclass(frozen=True)
class Reading:
    """A model taken apart.

    Attributes:
        fields: Pydantic's `model-field` schemas by field name.
        columns: the same for people and plans, in the model's order.
        fields_schema: the `model-fields` schema that holds them.
        config: Pydantic's core config of the model.
        definitions: schemas that others refer to, by reference.
        row_rules: rules that need whole rows; empty if every column can be judged alone.
    """

    fields: Mapping[str, Node]
    columns: tuple[ContractColumn, ...]
    fields_schema: Node
    config: Mapping[str, Any]
    definitions: Mapping[str, Node]
    row_rules: tuple[RowRule, ...] = field(default=())


def read(model: type[BaseModel]) -> Reading:
    """Take a model's core schema apart."""
    schema: Any = model.__pydantic_core_schema__
    if type(schema).__name__ == "MockCoreSchema":
        model.model_rebuild()
        schema = model.__pydantic_core_schema__
    definitions: dict[str, Node] = {}
    config: Mapping[str, Any] = {}
    row_rules: list[RowRule] = []
    while schema["type"] != "model-fields":
        kind = schema["type"]
        if kind == "definitions":
            definitions.update({node["ref"]: node for node in schema["definitions"]})
        elif kind == "definition-ref":
            schema = definitions[schema["schema_ref"]]
            continue
        elif kind in _FUNCTIONS:
            rule = schema["function"]["function"]
            row_rules.append(RowRule("*", name_of(rule), "a validator of the whole row", rule))
        elif kind == "model":
            config = schema.get("config") or {}
            if schema.get("post_init"):
                row_rules.append(
                    RowRule(
                        "*", schema["post_init"], "runs on the whole row", getattr(model, schema["post_init"])
                    )
                )
            if schema.get("custom_init") or schema.get("root_model"):
                row_rules.append(
                    RowRule("*", model.__name__, "the model has its own __init__ or is a root model")
                )
        schema = schema.get("schema")
        if schema is None or (kind == "model" and schema["type"] not in ("model-fields", *_FUNCTIONS)):
            break
    if schema is None or schema["type"] != "model-fields":
        schema = {"type": "model-fields", "fields": {}}
    fields = schema["fields"]
    if schema.get("extras_schema"):
        row_rules.append(RowRule("*", "extra", "columns that are not declared have a type of their own"))
    for name, node in fields.items():
        row_rules += _needs_the_row(name, node)
    columns = tuple(_column(name, node, model, definitions) for name, node in fields.items())
    return Reading(fields, columns, schema, config, definitions, tuple(row_rules))


def _needs_the_row(name: str, node: Node) -> Iterator[RowRule]:
    if any(len(path) > 1 for path in _paths(node)):
        yield RowRule(name, "alias path", "reads inside another column")
    for inner in walk(node["schema"], into_models=False):
        if inner.get("default_factory_takes_data"):
            yield RowRule(name, "default_factory", "is made from other columns")
        function = inner.get("function")
        if isinstance(function, dict) and function.get("type") == "with-info":
            rule = name_of(function["function"])
            yield RowRule(name, rule, "the validator takes `info` and may look at other columns")


def _paths(node: Node) -> list[list[Any]]:
    alias = node.get("validation_alias")
    if alias is None:
        return []
    if isinstance(alias, str):
        return [[alias]]
    return [path if isinstance(path, list) else [path] for path in ([alias] if _is_path(alias) else alias)]


def _is_path(alias: list[Any]) -> bool:
    return bool(alias) and not isinstance(alias[0], list)


def _column(name: str, node: Node, model: type[BaseModel], definitions: Mapping[str, Node]) -> ContractColumn:
    aliases = tuple(str(path[0]) for path in _paths(node))
    by_name = model.model_config.get("validate_by_name") or model.model_config.get("populate_by_name")
    names = (*aliases, name) if by_name or not aliases else aliases
    return ContractColumn(
        name=names[0],
        field=name,
        rules=tuple(rules_of(node["schema"], definitions)),
        nullable=accepts_null(node["schema"], definitions),
        required=node["schema"]["type"] != "default",
        personal=is_personal(node["schema"], definitions),
        names=tuple(dict.fromkeys(names)),
    )


def walk(node: Any, *, into_models: bool = True) -> Iterator[Node]:
    """Every core schema inside a core schema, itself first."""
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from walk(item, into_models=into_models)
    elif isinstance(node, Mapping):
        if not into_models and node.get("type") in ("model", "dataclass", "typed-dict"):
            return
        if "type" in node:
            yield node
        for key, value in node.items():
            if key not in ("metadata", "config", "default", "expected", "members", "function"):
                yield from walk(value, into_models=into_models)


def kinds(reading: Reading, name: str) -> frozenset[str]:
    """Which of PostgreSQL's `numeric` and `uuid` a field's type asks for, as values of their own and not as text."""
    found = {node["type"] for node in _reached(reading.fields[name]["schema"], reading.definitions)}
    return frozenset(kind for type_, kind in (("decimal", "numeric"), ("uuid", "uuid")) if type_ in found)


def accepts_null(node: Node, definitions: Mapping[str, Node]) -> bool:
    """Whether the declared type accepts NULL, as far as the schema tells without running it."""
    kind = node.get("type")
    if kind in ("nullable", "any", "none"):
        return True
    if kind == "literal":
        return None in node["expected"]
    if kind == "union":
        choices = (choice[0] if isinstance(choice, tuple) else choice for choice in node["choices"])
        return any(accepts_null(choice, definitions) for choice in choices)
    if kind == "definition-ref":
        target = definitions[node["schema_ref"]]
        return target["type"] != "model" and accepts_null(target, definitions)
    return kind in ("default", *_FUNCTIONS) and "schema" in node and accepts_null(node["schema"], definitions)


def is_personal(node: Node, definitions: Mapping[str, Node]) -> bool:
    """Whether `Personal()` stands on a field, on a part of its annotation or inside a model that it nests."""
    return any((inner.get("metadata") or {}).get(PERSONAL) for inner in _reached(node, definitions))


def _reached(node: Node, definitions: Mapping[str, Node]) -> Iterator[Node]:
    """Every schema inside a schema, those that it refers to included."""
    seen: set[str] = set()
    waiting = [node]
    while waiting:
        for inner in walk(waiting.pop()):
            yield inner
            reference = inner.get("schema_ref")
            if reference is not None and reference not in seen:
                seen.add(reference)
                waiting.append(definitions[reference])
