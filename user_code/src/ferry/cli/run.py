"""The command `ferry run`: carry the rows, through Dagster, and the report that ends it."""

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ferry.cli.migration import folder_of, migration_of
from ferry.cli.options import Defs, Entities, Json
from ferry.cli.output import console, errors, number_tables, print_error, print_json
from ferry.ledger import Outcomes
from ferry.start import importing


def run(
    entities: Entities = None,
    partition: Annotated[
        str | None, typer.Option(help="one partition, or a range `1992-01:1992-12`; all if not given")
    ] = None,
    defs: Defs = None,
    as_json: Json = False,
) -> None:
    """Carry the rows, through Dagster, and settle. Exit status 0 only if every promise held."""
    migration_of(defs)  # refuses what says nothing before Dagster is imported
    with importing():
        from ferry.components.run import run_migration

    report = run_migration(folder_of(defs), tuple(entities or ()), partition, quiet=as_json)
    if as_json:
        print_json(report.as_dict())
    else:
        print_report(report.as_dict())
    if not report.kept_every_promise:
        raise typer.Exit(1)


def print_report(report: dict[str, Any]) -> None:
    """What ends a run: the outcomes of each entity, the top reasons for rejection, and what to do next."""
    for table in report_tables(report, console.width):
        console.print(table)
    reasons = [
        (count, name, reason)
        for name, row in report["entities"].items()
        for reason, count in row["rejections"].items()
    ]
    if reasons:
        console.print("\nMost frequent reasons for rejection")
        for count, name, reason in sorted(reasons, reverse=True)[:10]:
            console.print(f"{count:>10,}  {name}: {reason}", soft_wrap=True)
    console.print(f"\nPeak memory {report['peak_rss_mib']:.0f} MiB.")
    for line in report["errors"]:
        print_error(line)
    if report["kept_every_promise"]:
        held = ("Every row is accounted for and reconciled.", "green")
        console.print(Text.assemble(held, " Next: ferry rejects, ferry status"))
    else:
        broken = ("Not every promise held.", "red")
        errors.print(Text.assemble(broken, " Correct what is named above and run it again."))


def report_tables(report: dict[str, Any], width: int) -> list[Table]:
    """The outcomes of a run as tables of at most `width` characters (see `number_tables`)."""
    cells = {
        name: {
            **{end: f"{row[end]:,}" for end in Outcomes().as_dict()},
            "reconciled": "yes" if row["reconciled"] else "NO",
            "rows/s": f"{row['rows_per_second']:,}",
            "peak MiB": f"{row['peak_rss_mib']:,.0f}",
        }
        for name, row in report["entities"].items()
    }
    return number_tables(f"{report['rows']:,} rows in {report['seconds']:.1f} s", cells, width)
