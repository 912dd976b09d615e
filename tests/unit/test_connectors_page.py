"""docs/connectors.md lists every key of a connection's declaration with its default, and its example is valid."""

import re
from pathlib import Path
from typing import Any

import yaml

from ferry.components.connections import ConnectionDeclaration

PAGE = (Path(__file__).parents[2] / "docs" / "connectors.md").read_text("utf-8")


def test_the_keys_and_their_defaults_are_the_models() -> None:
    """No key is missing, none is listed that the model does not know, and each default is the one in force."""
    rows = [
        line.split("|")[1:3]
        for line in PAGE.splitlines()
        if line.startswith("| `") and "FERRY" not in line[:12]
    ]
    said = {name: default.strip() for cell, default in rows for name in re.findall(r"`(\w+)`", cell)}
    shown: dict[str, Any] = {
        "name": "the folder's name",
        "streams": "all",
        **dict.fromkeys(("description", "owners", "group", "tags", "follow", "above"), "none"),
    }
    fields = ConnectionDeclaration.model_fields
    wanted = {
        name: "needed" if field.is_required() else shown.get(name, f"`{field.default}`")
        for name, field in fields.items()
    }
    assert {name: said.get(name) for name in wanted} == wanted
    assert set(said) == set(wanted)


def test_the_example_is_a_valid_declaration() -> None:
    """Somebody will copy it."""
    block = re.search(r"```yaml\n(.*?)```", PAGE, re.S)
    assert block
    ConnectionDeclaration.model_validate(yaml.safe_load(block[1])["attributes"])
