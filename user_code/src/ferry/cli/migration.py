"""What a command works on: the declarations, the entities that are named, and their targets."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg import Connection

from ferry.catalogue import connect
from ferry.declaration import Migration, migration_in
from ferry.errors import DeclarationError
from ferry.plan import MigrationPlan
from ferry.settings import Settings


def folder_of(defs: Path | None) -> Path:
    """The folder of the declarations; the shop's if none is given."""
    return defs or Path(__file__).parents[2] / "shop" / "defs"


def migration_of(defs: Path | None) -> Migration:
    """The declarations in a folder, at least one of an entity."""
    folder = folder_of(defs)
    migration = migration_in(folder)
    if not migration.entities:
        raise DeclarationError(
            "this folder declares no entity",
            where=str(folder),
            next="An entity is a folder in it with defs.yaml and contract.py; docs/entities.md shows one",
        )
    return migration


def known_names(plans: MigrationPlan, entities: list[str] | None) -> tuple[str, ...]:
    """The named entities, each checked to exist."""
    return tuple(plans[name].name for name in entities or ())


def each_target(
    plans: MigrationPlan, settings: Settings, entities: list[str] | None
) -> Iterator[tuple[str, Connection]]:
    """The named entities, all if none is, in the plan's order, each with an open connection to its target."""
    for name in plans.order:
        if not entities or name in entities:
            target = plans[name].declaration.target.connection
            with connect(settings.url(target), target, autocommit=True) as connection:
                yield name, connection


@contextmanager
def seen_in_dagster(plans: MigrationPlan, settings: Settings) -> Iterator[None]:
    """Evaluate the checks that the block changes, in the instance of `DAGSTER_HOME`, if there is one."""
    if not os.environ.get("DAGSTER_HOME"):
        yield
        return
    from ferry.components.checks import evaluating_checks_at_home

    with evaluating_checks_at_home(plans, settings):
        yield
