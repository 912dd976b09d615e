"""The commands `ferry connectors list | refresh | sync`: what the declared sync tools know, and a sync by hand."""

import typer
from rich.table import Table

from ferry.cli.migration import folder_of
from ferry.cli.options import Defs
from ferry.cli.output import console
from ferry.errors import FerryError, PermanentError
from ferry.settings import read_settings

connectors = typer.Typer(
    no_args_is_help=True, help="Connections of Airbyte and Fivetran: list, refresh, sync."
)


@connectors.command("list")
def show(defs: Defs = None) -> None:
    """Show the declared connections, and how old what is known of them is. Asks nobody."""
    from ferry.components.connections import declared_connections, recall

    table = Table(title="Connections", title_justify="left")
    for heading in ("name", "tool", "connection", "streams"):
        table.add_column(heading)
    table.add_column("read from the tool", no_wrap=True)
    settings = read_settings()
    for one in declared_connections(folder_of(defs)):
        kept = recall(settings, one.attributes.name)
        streams = ", ".join(one.keys(settings)) or "not known yet"
        table.add_row(
            one.attributes.name,
            one.label,
            one.attributes.connection,
            streams,
            f"{kept.read_at[:16].replace('T', ' ')} UTC" if kept else "never",
        )
    console.print(table)


@connectors.command()
def refresh(defs: Defs = None) -> None:
    """Ask each tool what its connection holds now; the definitions show it when they are loaded next."""
    from ferry.components.connections import refresh as ask

    failed: list[FerryError] = []
    for name, told in ask(folder_of(defs), read_settings()).items():
        if isinstance(told, FerryError):
            failed.append(told)
        else:
            console.print(
                f"{name}: {len(told.connection.tables)} streams, {told.connection.url}",
                soft_wrap=True,  # an address that is broken over lines cannot be clicked
            )
    if failed:
        raise failed[0] if len(failed) == 1 else PermanentError("; ".join(map(str, failed)))


@connectors.command()
def sync(name: str, defs: Defs = None) -> None:
    """Sync one connection now, through Dagster, and wait for it."""
    from ferry.components.connector_jobs import sync_now

    told = sync_now(folder_of(defs), name)
    tables = (table if rows is None else f"{table} {rows:,} rows" for table, rows in told.items())
    console.print(f"{name}: {', '.join(tables)}")
