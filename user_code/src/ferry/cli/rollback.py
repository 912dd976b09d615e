"""The command `ferry rollback`: take back what was loaded."""

import dataclasses
from typing import Annotated

import typer

from ferry.cli.migration import known_names, migration_of, seen_in_dagster
from ferry.cli.options import Defs, Entities, Json, Partition
from ferry.cli.output import console, print_json
from ferry.errors import DeclarationError
from ferry.plan import plan_migration
from ferry.settings import read_settings


def rollback(
    entities: Entities = None,
    partition: Partition = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    defs: Defs = None,
    as_json: Json = False,
) -> None:
    """Take back what was loaded; rows that were there before stay, and a reload gives the same keys."""
    from ferry.rollback import roll_back

    settings = read_settings()
    plans = plan_migration(migration_of(defs), settings)
    chosen = known_names(plans, entities)
    keys: tuple[str, ...] = ()
    if partition is not None:
        if not chosen:
            raise DeclarationError(
                "`--partition` needs the entities that it belongs to", next="ferry rollback orders …"
            )
        keys = plans[chosen[0]].scheme.chosen(partition, chosen[0])
    what = f"{', '.join(chosen) or 'everything'}{f', {partition}' if partition else ''}"
    if not yes and not typer.confirm(f"Take back {what}?"):
        raise typer.Exit(1)
    with seen_in_dagster(plans, settings):
        results = roll_back(plans, settings, chosen, keys)
    if as_json:
        return print_json([dataclasses.asdict(result) for result in results])
    for result in results:
        restored = f", {result.restored:,} given back their old values" if result.restored else ""
        console.print(f"{result.entity}: {result.removed:,} rows removed{restored}")
    return None
