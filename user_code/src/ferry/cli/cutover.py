"""The command `ferry cutover`: catch up, settle, reconcile, and sign."""

import dataclasses
from typing import Annotated

import typer

from ferry.cli.migration import migration_of, seen_in_dagster
from ferry.cli.options import Defs, Json
from ferry.cli.output import console, print_json
from ferry.plan import plan_migration
from ferry.settings import read_settings


def cutover(
    by: Annotated[str, typer.Option(help="who signs")],
    small: Annotated[int, typer.Option(min=0, help="rows that a pass may still change")] = 100,
    most_passes: Annotated[int, typer.Option(min=1, help="give up after so many passes")] = 10,
    quiet: Annotated[
        float, typer.Option(min=0, help="seconds in which nothing may change in the source")
    ] = 10,
    only_changed: Annotated[
        bool,
        typer.Option("--only-changed", help="let the last pass read only what updated_at says has changed"),
    ] = False,
    defs: Defs = None,
    as_json: Json = False,
) -> None:
    """Catch up until little is missing, make sure that the source stands still, settle, reconcile, and sign."""
    from ferry.cutover import Terms, cut_over

    settings = read_settings()
    plans = plan_migration(migration_of(defs), settings)
    terms = Terms(by, small, most_passes, quiet, "changed" if only_changed else "everything")
    with seen_in_dagster(plans, settings):
        done = cut_over(plans, settings, terms, "cli", _ignore if as_json else _say)
    if as_json:
        print_json(dataclasses.asdict(done))


def _say(line: str) -> None:
    console.print(line)


def _ignore(_: str) -> None:
    """With `--json`, only the end is printed."""
