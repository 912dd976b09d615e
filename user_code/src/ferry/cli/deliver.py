"""The command `ferry deliver`: send journals on to the APIs behind them, and hold what is there against them."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ferry.cli.migration import known_names, migration_of
from ferry.cli.options import Defs, Entities, Json
from ferry.cli.output import console, number_tables, print_json
from ferry.errors import PermanentError
from ferry.plan import plan_migration
from ferry.settings import read_settings

if TYPE_CHECKING:
    from ferry.deliver import Delivered


def deliver(
    entities: Entities = None,
    defs: Defs = None,
    check: Annotated[bool, typer.Option("--check", help="read every row back and compare it")] = False,
    as_json: Json = False,
) -> None:
    """Send what is new or changed to the APIs behind journals; take back there what is gone here."""
    from ferry.deliver import deliver_all, read_back

    settings = read_settings()
    plans = plan_migration(migration_of(defs), settings)
    done = deliver_all(plans, settings, "cli", known_names(plans, entities))
    differences = [line for one in done if check for line in read_back(plans, one.entity, settings)[1]]
    if as_json:
        print_json({"delivered": [asdict(one) for one in done], "differences": differences})
    else:
        show(done)
        for line in differences[:20]:
            console.print(line)
    if differences:
        raise PermanentError(f"{len(differences)} values over there are not as they were sent")


def show(done: "list[Delivered]") -> None:
    """What became of the journals, as a table, and the first refusals."""
    if not done:
        return console.print("No entity has an API behind its table.")
    counts = ("created", "updated", "unchanged", "removed", "refused", "held", "waiting")
    cells = {one.entity: {name: f"{getattr(one, name):,}" for name in counts} for one in done}
    for table in number_tables("Delivered", cells, console.width):
        console.print(table)
    for one in done:
        for key, problem in list(one.problems.items())[:10]:
            console.print(f"{one.entity} {key}: {problem}")
    return None
