"""Which source answers for a connection."""

from pathlib import Path

import pytest

from ferry.contract import Contract
from ferry.declaration import Entity, EntityDeclaration, Migration
from ferry.errors import DeclarationError
from ferry.extract import open_source
from ferry.settings import Settings
from ferry.sources.postgres import PostgresSource


class Anything(Contract):
    """A row of one column."""

    id: int


def migration() -> Migration:
    """One entity that reads a table of the connection `old`."""
    declaration = EntityDeclaration.model_validate(
        {
            "name": "things",
            "source": {"connection": "old", "table": "things", "key": "id"},
            "contract": "Anything",
            "target": {"connection": "new", "table": "things", "key": {"column": "id"}},
        }
    )
    return Migration({"things": Entity(declaration, Anything, Path("things/defs.yaml"))})


def settings(url: str) -> Settings:
    """Settings with that URL for the connection `old`."""
    return Settings.model_validate({"connections": {"old": url}})


def test_a_postgresql_url_is_read_by_postgresql():
    """Either spelling of the scheme, and a string of the server's own form, lead to the same source."""
    for url in ("postgresql://host/db", "POSTGRES://host/db", "host=somewhere dbname=db"):
        assert isinstance(open_source(migration(), "things", settings(url)), PostgresSource)


def test_a_url_of_another_kind_is_refused_by_name_and_keeps_its_secret():
    """The message has the variable and what URLs begin with, and nothing of what is behind the scheme."""
    with pytest.raises(DeclarationError) as refused:
        open_source(migration(), "things", settings("postgrsql://user:hunter2@host/db"))
    assert "FERRY_CONNECTIONS__OLD" in str(refused.value)
    assert "postgresql" in str(refused.value)
    assert "hunter2" not in str(refused.value)
