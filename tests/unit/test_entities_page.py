"""docs/entities.md lists every key of a declaration, with its values and its default, and nothing else."""

import re
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from ferry import declaration, value_rules
from ferry.declaration import EntityDeclaration

PAGE = (Path(__file__).parents[2] / "docs" / "entities.md").read_text("utf-8")
MODELS: dict[str, type[BaseModel]] = {
    "attributes": EntityDeclaration,
    "source": declaration.SourceTable,
    "partition": declaration.Partition,
    "partition.and": declaration.Cut,
    "parse": value_rules.ParseRule,
    "mapping": value_rules.MappingRule,
    "target": declaration.Target,
    "target.key": declaration.TargetKey,
    "references": declaration.Reference,
    "match": declaration.Match,
    "resources": declaration.Resources,
}

MODULES = (declaration.__name__, value_rules.__name__)


def rows(section: str) -> dict[str, tuple[str, str]]:
    """Key → what it may be and its default, as the page says."""
    text = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert text, section
    cells = [re.split(r"(?<!\\)\|", line) for line in text[1].splitlines() if line.startswith("| `")]
    return {row[1].strip(" `"): (row[2].strip(), row[3].strip()) for row in cells}


def literals(annotation: Any) -> list[str]:
    """The words that an annotation lists."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return [word for part in get_args(annotation) for word in literals(part)]
    return []


@pytest.mark.parametrize("section", MODELS)
def test_the_keys_are_the_models(section: str) -> None:
    """No key is missing, none is listed that the model does not know."""
    fields = MODELS[section].model_fields
    assert set(rows(section)) == {field.alias or name for name, field in fields.items()}


@pytest.mark.parametrize("section", MODELS)
def test_values_and_defaults_are_the_models(section: str) -> None:
    """Words that a key may be are all listed, in order; the default is the one that is in force without the key."""
    said = rows(section)
    for name, field in MODELS[section].model_fields.items():
        may_be, default = said[field.alias or name]
        words = literals(field.annotation)
        assert not words or re.findall(r"`(\w+)`", may_be) == words, name
        if field.is_required():
            assert default == "needed", name
            continue
        value = field.get_default(call_default_factory=True)
        assert value is not PydanticUndefined
        plain: dict[Any, str] = {None: "none", "": "the folder's name" if name == "name" else "empty"}
        if isinstance(value, BaseModel):
            wanted = "`{}`"
        elif isinstance(value, dict | tuple):
            wanted = "`{}`" if isinstance(value, dict) else ", ".join(f"`{one}`" for one in value) or "`[]`"
        else:
            wanted = plain.get(value, f"`{value}`")
        assert default == wanted, name


def test_every_model_of_a_declaration_has_its_table() -> None:
    """A model that is added to the language without a table fails here."""
    declared = {
        one
        for one in (*vars(declaration).values(), *vars(value_rules).values())
        if isinstance(one, type) and issubclass(one, BaseModel) and one.__module__ in MODULES
        and not one.__name__.startswith("_")
    }  # fmt: skip
    assert declared == set(MODELS.values())


def test_the_example_is_a_valid_declaration() -> None:
    """Somebody will copy it."""
    block = re.search(r"```yaml\n(.*?)```", PAGE, re.S)
    assert block
    EntityDeclaration.model_validate({"name": "orders", **yaml.safe_load(block[1])["attributes"]})
