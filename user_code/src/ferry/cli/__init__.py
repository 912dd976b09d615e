"""The command `ferry`: everything that is done to a migration. `ferry plan` lives in `plan.py`, and so on.

Most commands take `--json`; none shows a trace.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import psycopg
import typer

from ferry.cli import (
    connectors,
    cutover,
    deliver,
    map,  # noqa: A004 - as the command is called
    partitions,
    plan,
    reconcile,
    rejects,
    replay,
    rollback,
    run,
    settle,
    status,
)
from ferry.cli.output import errors, print_error
from ferry.errors import FerryError, PermanentError, TransientError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Carry related data from an old system into a new one: every row accounted for, exactly once.",
)
app.command()(plan.plan)
app.command()(run.run)
app.command()(status.status)
app.command()(partitions.partitions)
app.command()(rejects.rejects)
app.command()(replay.replay)
app.command()(settle.settle)
app.command()(reconcile.reconcile)
app.command()(deliver.deliver)
app.command()(rollback.rollback)
app.command()(cutover.cutover)
app.command("map")(map.map_)
app.add_typer(connectors.connectors, name="connectors")


def main() -> None:
    """Run the command; an error becomes one message and exit status 1 (2 for a command that is not understood)."""
    sys.exit(run_guarded(app))


def run_guarded(call: Callable[[], Any]) -> int:
    """Call something and turn what Ferry raises into a message on standard error."""
    try:
        call()
    except FerryError as error:
        return _refuse(error)
    except psycopg.Error as error:
        kind = TransientError if isinstance(error, psycopg.OperationalError) else PermanentError
        why = str(error).partition("\nLINE ")[0].replace("\n", " ")
        return _refuse(kind("the database did not do what was asked of it", why=why))
    except KeyboardInterrupt:
        errors.print("Stopped. Run it again; it goes on where the ledger ends.")
        return 130
    return 0


def _refuse(error: FerryError) -> int:
    if "--json" in sys.argv:
        print(json.dumps(error.as_dict()), file=sys.stderr)
    else:
        print_error(error)
    return 1
