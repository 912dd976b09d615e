"""The command `ferry map`: the new key of an old one, or the whole map as a file."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from ferry.catalogue import connect
from ferry.cli.migration import migration_of
from ferry.cli.options import Defs
from ferry.cli.output import console, errors, print_json
from ferry.errors import DeclarationError
from ferry.plan import plan_migration
from ferry.settings import read_settings


def map_(
    entity: str,
    key: Annotated[list[str] | None, typer.Argument(help="the old key, part by part")] = None,
    export: Annotated[
        Path | None, typer.Option(help="write the whole map to this .parquet or .csv file")
    ] = None,
    defs: Defs = None,
) -> None:
    """Print the new key of an old one, with its status, as JSON; or write the whole map to a file."""
    from ferry import id_map

    if bool(key) == bool(export):
        raise DeclarationError(
            "either one old key or `--export` is needed", where="ferry map", next=f"ferry map {entity} 17"
        )
    settings = read_settings()
    plan = plan_migration(migration_of(defs), settings, only=(entity,))[entity]
    if not plan.has_map:
        raise DeclarationError(f"{entity} keeps no id map", next="Its key in the target is its natural one")
    target = plan.declaration.target.connection
    with connect(settings.url(target), target) as connection:
        entries = id_map.count(connection, plan)
        found = id_map.look_up(connection, plan, tuple(key)) if key and entries else None
    if entries is None:
        raise DeclarationError(f"nothing of {entity} was ever loaded", next=f"ferry run {entity}")
    if export:
        with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
            task = progress.add_task(f"map of {entity}", total=entries)
            written = id_map.export(
                settings.url(target), plan, export, lambda rows: progress.advance(task, rows)
            )
        console.print(f"{written:,} entries written to {export}", soft_wrap=True)
        return None
    if found is None:
        raise DeclarationError(
            f"{entity} has no row with the old key {', '.join(key or ())}", next="ferry rejects, or status"
        )
    return print_json(found)
