"""The command `ferry deliver`: send journals on to the APIs behind them, and hold what is there against them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ferry.declaration import read_migration
from ferry.deliver import Delivered, deliver_all, read_back
from ferry.errors import PermanentError
from ferry.plan import plan_migration
from ferry.settings import read_settings

console = Console()


def deliver(
    entities: Annotated[list[str] | None, typer.Argument(help="entities; all if none is named")] = None,
    defs: Annotated[
        Path | None,
        typer.Option("--defs", envvar="FERRY_DEFS", help="folder of the declarations (default: the shop's)"),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="read every row back and compare it")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """Send what is new or changed to the APIs behind journals; take back there what is gone here."""
    settings = read_settings()
    plans = plan_migration(read_migration(defs or Path(__file__).parent.parent / "shop" / "defs"), settings)
    for name in entities or ():
        plans[name]
    done = deliver_all(plans, settings, "cli", tuple(entities or ()))
    differences = [line for one in done if check for line in read_back(plans, one.entity, settings)[1]]
    if as_json:
        print(json.dumps({"delivered": [asdict(one) for one in done], "differences": differences}))
    else:
        show(done)
        for line in differences[:20]:
            console.print(line, highlight=False)
    if differences:
        raise PermanentError(f"{len(differences)} values over there are not as they were sent")


def show(done: list[Delivered]) -> None:
    """What became of the journals, as a table, and the first refusals."""
    table = Table(title="Delivered", title_justify="left", box=None, pad_edge=False)
    counts = ("created", "updated", "unchanged", "removed", "refused", "held", "waiting")
    for heading in ("entity", *counts):
        table.add_column(heading, justify="left" if heading == "entity" else "right")
    for one in done:
        table.add_row(one.entity, *(f"{getattr(one, name):,}" for name in counts))
    console.print(table)
    for one in done:
        for key, problem in list(one.problems.items())[:10]:
            console.print(f"{one.entity} {key}: {problem}", highlight=False)
