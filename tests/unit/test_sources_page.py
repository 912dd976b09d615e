"""docs/sources.md lists every key of a `source` that is no table, and every part of a connection."""

import re
from pathlib import Path

from ferry.sources.apis import ShopConnection
from ferry.sources.declaration import FromFiles, FromNetSuite, FromRest, FromShopify
from ferry.sources.file_declaration import FileStore
from ferry.sources.netsuite import Account
from ferry.sources.rest_declaration import RestConnection, RestResource

PAGE = (Path(__file__).parents[2] / "docs" / "sources.md").read_text("utf-8")


def test_the_keys_of_a_source_are_the_models() -> None:
    """No key is missing from the table, none is listed that no model knows; words and defaults are the models'."""
    table = PAGE[PAGE.index("| key |") : PAGE.index("| connection | parts |")]
    said = {row[0]: row for row in re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", table, re.M)}
    models = (FromShopify, FromNetSuite, FromRest, FromFiles)
    assert set(said) == {name for model in models for name in model.model_fields}
    for model in models:
        for name, field in model.model_fields.items():
            default = field.default
            if isinstance(default, str | int) and default != "":
                assert said[name][2] == f"`{default}`", name


def test_each_part_of_a_connection_is_named() -> None:
    """A part that nobody can find is a part that nobody sets; the rest of NetSuite's is in the model."""
    parts = PAGE[PAGE.index("| connection | parts |") :]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", parts, re.M))
    for kind, model in (("shopify", ShopConnection), ("rest", RestConnection), ("files", FileStore)):
        for name in model.model_fields:
            assert name.upper() in rows[kind], f"{kind}: {name}"
    assert {"ACCOUNT", "AUTH__KIND", "URL", "CONCURRENCY", "TIMEZONE"} <= set(
        re.findall(r"[A-Z_]+", rows["netsuite"])
    )
    assert Account.model_fields.keys() >= {"account", "auth", "url", "concurrency", "timezone"}


def test_a_resource_is_described() -> None:
    """Every word of a REST resource stands on the page."""
    for name in RestResource.model_fields:
        assert re.search(rf"\b{name}\b", PAGE), name
