"""The command `ferry partitions`: which there are and how far each is, and new ones where they are discovered."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from ferry import ledger
from ferry.catalogue import connect
from ferry.cli.migration import migration_of
from ferry.cli.options import Defs, Entities, Json
from ferry.cli.output import console, print_json
from ferry.errors import DeclarationError
from ferry.known_keys import discover, register, with_known_keys
from ferry.ledger import Outcomes
from ferry.partition import scheme_of
from ferry.settings import read_settings


def partitions(
    entities: Entities = None,
    find: Annotated[bool, typer.Option("--discover", help="ask the sources for new values first")] = False,
    add: Annotated[
        list[str] | None,
        typer.Option(help="make a value known that the source does not have yet; repeatable"),
    ] = None,
    defs: Defs = None,
    as_json: Json = False,
) -> None:
    """Show the partitions of entities: whether each is complete, and its rows by outcome."""
    settings = read_settings()
    migration = migration_of(defs)
    names = [migration[name].name for name in entities or migration.entities]
    if add and len(names) != 1:
        raise DeclarationError(
            "`--add` needs the one entity it is for", next="ferry partitions orders --add west"
        )
    migration = (discover if find else with_known_keys)(migration, settings, names)
    if add:
        migration = register(migration, names[0], add, settings)
    shown: list[dict[str, object]] = []
    for name in names:
        target = migration[name].declaration.target.connection
        with connect(settings.url(target), target, autocommit=True) as connection:
            there = ledger.is_prepared(connection)
            complete = ledger.complete_partitions(connection, name) if there else set()
            counts = ledger.by_partition(connection, name) if there else {}
        shown += [
            {
                "entity": name,
                "partition": key,
                "complete": key in complete,
                **asdict(counts.get(key, Outcomes())),
            }
            for key in scheme_of(migration, name).keys
        ]
    if as_json:
        return print_json(shown)
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("entity", "partition", "complete", *asdict(Outcomes())):
        table.add_column(
            heading, justify="left" if heading in ("entity", "partition") else "right", no_wrap=True
        )
    for row in shown:
        table.add_row(*(("yes" if v else "–") if isinstance(v, bool) else f"{v:,}" if isinstance(v, int) else str(v)
                        for v in row.values()))  # fmt: skip
    console.print(table)
    return None
