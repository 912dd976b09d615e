"""The contract as a document: JSON Schema for programs, a table for people."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema

from ferry.contract.columns import Reading
from ferry.contract.explain import RulePath


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema of a source row, by source column; personal columns carry `x-personal: true`.

    A model with a type that JSON Schema cannot say (an arbitrary class) gives title and description alone.
    """
    try:
        return model.model_json_schema(by_alias=True, mode="validation")
    except PydanticInvalidForJsonSchema as error:
        return {"title": model.__name__, "description": model.__doc__ or "", "x-not-expressible": str(error)}


def markdown(model: type[BaseModel], reading: Reading, paths: list[RulePath]) -> str:
    """A table with one line a column: its rules, whether it is personal, and which way it is judged."""
    ways: dict[str, set[str]] = {}
    for path in paths:
        ways.setdefault(path.column, set()).add(path.way)
    lines = [(model.__doc__ or "").strip(), "", "| column | rules | judged |", "| --- | --- | --- |"]
    for column in reading.columns:
        mark = " (personal)" if column.personal else ""
        rules = ", ".join(column.rules).replace("|", "\\|")
        lines.append(f"| `{column.name}`{mark} | {rules} | {', '.join(sorted(ways[column.name]))} |")
    lines += [
        f"| the whole row | {rule.name} | row by row |" for rule in reading.row_rules if rule.column == "*"
    ]
    return "\n".join(lines).strip()
