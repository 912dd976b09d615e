"""The command `ferry reconcile`: hold the target against what was staged."""

import dataclasses
from typing import Annotated, Any

import typer
from rich.text import Text

from ferry.cli.migration import known_names, migration_of, seen_in_dagster
from ferry.cli.options import Defs, Entities, Json
from ferry.cli.output import CROSS, console, print_json
from ferry.plan import plan_migration
from ferry.settings import read_settings


def reconcile(
    entities: Entities = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="put right what differs, from the stage; keys stay")
    ] = False,
    defs: Defs = None,
    as_json: Json = False,
) -> None:
    """Hold the whole target against what was staged, and name every key that differs."""
    from ferry.pipeline import hold

    settings = read_settings()
    plans = plan_migration(migration_of(defs), settings, only=tuple(entities or ()))
    found: list[dict[str, Any]] = []
    with seen_in_dagster(plans, settings):
        for name, result in hold(plans, known_names(plans, entities), settings, repair=repair):
            found.append({"entity": name, **dataclasses.asdict(result), "reconciled": result.reconciled})
            for difference in result.differences if not as_json else ():
                sign = CROSS if result.different else "put right:"
                console.print(
                    Text.assemble(sign, f" {name}, {result.partition}: {difference}"), soft_wrap=True
                )
    compared, different, repaired = (
        sum(row[count] for row in found) for count in ("compared", "different", "repaired")
    )
    if as_json:
        print_json(found)
    else:
        right = f", {repaired:,} were put right" if repair else ""
        console.print(f"{compared:,} rows compared, {different:,} differ{right}.")
    if different:
        raise typer.Exit(1)
