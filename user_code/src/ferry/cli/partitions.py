"""The command `ferry partitions`: which there are and how far each is, and new ones where they are discovered."""

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from ferry import ledger
from ferry.catalogue import connect
from ferry.cli.migration import migration_of
from ferry.cli.options import Defs, Entities, Json
from ferry.cli.output import add_row, console, number_table, number_widths, print_json
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
    shown: list[dict[str, Any]] = []
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
    for name in names:
        console.print(partition_table(name, [row for row in shown if row["entity"] == name], console.width))
    return None


def partition_table(entity: str, rows: list[dict[str, Any]], width: int) -> Table:
    """The partitions of an entity, a line each; where lines are too long, without the ends that no row has met."""
    ends = [*Outcomes().as_dict()]
    cells = {
        row["partition"]: {
            "complete": "yes" if row["complete"] else "–",
            **{end: f"{row[end]:,}" for end in ends},
        }
        for row in rows
    }
    headings = ["complete", *ends]
    room = width - max(map(len, [entity, *cells]))
    if sum(number_widths(cells, headings).values()) + len(headings) > room:
        headings = [one for one in headings if one == "complete" or any(row[one] for row in rows)]
    table = number_table(None, [entity, *headings])
    # A key that is longer than what the numbers leave goes on in the next line.
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    for key, row in cells.items():
        add_row(table, key, *(row[heading] for heading in headings))
    return table
