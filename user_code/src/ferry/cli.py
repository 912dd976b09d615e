"""The command `ferry`: everything that is done to a migration. Each part takes `--json`; none shows a trace."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from ferry import constraints, ledger
from ferry.catalogue import connect
from ferry.cli_connectors import connectors
from ferry.cli_deliver import deliver, show
from ferry.cli_partitions import partitions
from ferry.contract import compile_contract
from ferry.contract.verdict import MASK
from ferry.declaration import Migration, read_migration
from ferry.errors import DeclarationError, FerryError
from ferry.ledger import Outcomes
from ferry.plan import EntityPlan, MigrationPlan, plan_migration
from ferry.settings import Settings, read_settings

if TYPE_CHECKING:
    from ferry.settle import Settled

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Carry related data from an old system into a new one: every row accounted for, exactly once.",
)
Json = Annotated[bool, typer.Option("--json", help="print JSON for scripts")]
Entities = Annotated[list[str] | None, typer.Argument(help="entities; all if none is named")]
Defs = Annotated[
    Path | None,
    typer.Option("--defs", envvar="FERRY_DEFS", help="folder of the declarations (default: the shop's)"),
]
app.add_typer(connectors, name="connectors")
app.command()(deliver)
app.command()(partitions)
console = Console()
errors = Console(stderr=True)


def main() -> None:
    """Run the command; an error becomes one message and exit status 1 (2 for a command that is not understood)."""
    sys.exit(run_guarded(app))


def run_guarded(call: Callable[[], Any]) -> int:
    """Call something and turn what Ferry raises into a message on standard error."""
    try:
        call()
    except FerryError as error:
        if "--json" in sys.argv:
            print(json.dumps(error.as_dict()), file=sys.stderr)
        else:
            errors.print(f"[red]✗[/red] {error}", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        errors.print("Stopped. Run it again; it goes on where the ledger ends.")
        return 130
    return 0


def migration_of(defs: Path | None) -> tuple[Migration, Path]:
    """The declarations in a folder, and the folder."""
    folder = defs or Path(__file__).parent.parent / "shop" / "defs"
    migration = read_migration(folder)
    if not migration.entities:
        raise DeclarationError(
            "this folder declares no entity",
            where=str(folder),
            next="An entity is a folder in it with defs.yaml and contract.py; docs/entities.md shows one",
        )
    return migration, folder


@app.command()
def plan(entities: Entities = None, defs: Defs = None, as_json: Json = False) -> None:
    """Show the order, the references, and which way each rule of the contracts is checked. Writes nothing."""
    migration, _ = migration_of(defs)
    plans = plan_migration(migration, read_settings(), only=tuple(entities or ()))
    if as_json:
        return print_json([describe_plan(plans[name]) for name in plans.order])
    table = Table(title="Plan", title_justify="left", show_lines=True)
    for heading in ("", "entity", "from → to", "partitions", "references"):
        table.add_column(heading)
    for position, name in enumerate(plans.order, 1):
        shown = describe_plan(plans[name])
        references = "\n".join(f"{r['column']} → {r['to']}: {r['strategy']}" for r in shown["references"])
        keys = plans[name].scheme.keys
        cut = f"{len(keys)}: {keys[0]} … {keys[-1]}" if len(keys) > 1 else "1"
        table.add_row(str(position), name, f"{shown['source']}\n→ {shown['target']}", cut, references or "–")
    console.print(table)
    console.print(_rules(plans))
    console.print("Nothing was written. Next: [bold]ferry run[/bold]")
    return None


def _rules(plans: MigrationPlan) -> Table:
    """Each rule of each contract, and which way it is checked."""
    table = Table(title="Rules of the contracts", title_justify="left")
    for heading in ("entity", "column", "rules", "way"):
        table.add_column(heading, overflow="fold")
    for name in plans.order:
        together: dict[tuple[str, str, str], list[str]] = {}
        for path in compile_contract(plans[name].entity.contract).explain():
            together.setdefault((path.column, path.way, path.why), []).append(path.rule)
        for (column, way, why), rules in together.items():
            table.add_row(name, column, escape(", ".join(rules)), f"{way}: {escape(why)}" if why else way)
    return table


def describe_plan(plan: EntityPlan) -> dict[str, Any]:
    """One entity of a plan as plain data."""
    source, target = plan.declaration.source, plan.declaration.target
    return {
        "entity": plan.name,
        "source": f"{source.connection}/{plan.source.label}",
        "target": f"{target.connection}/{plan.target.label}",
        "rows_estimated": plan.source.estimated_rows,
        "partitions": list(plan.scheme.keys),
        "key": {"old": list(plan.source_key), "new": list(plan.target_key), "from": target.key.source},
        "id_map": plan.declaration.id_map,
        "columns": {column.source: column.target for column in plan.columns},
        "dropped": list(plan.declaration.drop),
        "references": [
            {
                "column": ", ".join(edge.source_columns),
                "to": edge.parent,
                "strategy": edge.strategy,
                "why": edge.why,
                "on_missing": edge.reference.on_missing,
            }
            for edge in plan.edges
        ],
        "rules": [dataclasses.asdict(path) for path in compile_contract(plan.entity.contract).explain()],
        "plan_hash": plan.plan_hash,
    }


@app.command()
def run(
    entities: Entities = None,
    partition: Annotated[
        str | None, typer.Option(help="one partition, or a range `1992-01:1992-12`; all if not given")
    ] = None,
    defs: Defs = None,
    as_json: Json = False,
) -> None:
    """Carry the rows, through Dagster, and settle. Exit status 0 only if every promise held."""
    from ferry.components.run import run_migration

    report = run_migration(migration_of(defs)[1], tuple(entities or ()), partition, quiet=as_json)
    if as_json:
        print_json(report.as_dict())
    else:
        print_report(report.as_dict())
    if not report.kept_every_promise:
        raise typer.Exit(1)


@app.command()
def status(
    entities: Entities = None,
    partition: Annotated[str | None, typer.Option(help="one partition, or a range `1992-01:1992-12`")] = None,
    defs: Defs = None,
    as_json: Json = False,
) -> None:
    """Show what the ledger says: rows by outcome, partitions complete, rows that wait."""
    migration, _ = migration_of(defs)
    settings = read_settings()
    plans = plan_migration(migration, settings, only=tuple(entities or ()))
    shown = []
    for name, connection in each_target(plans, settings):
        if entities and name not in entities:
            continue
        scheme, prepared = plans[name].scheme, ledger.is_prepared(connection)
        keys = scheme.chosen(partition, name) if partition and scheme.cuts else scheme.keys
        # Without `--partition` also what was loaded under a declaration that cut otherwise.
        totals = ledger.totals(connection, name, keys if partition else None) if prepared else Outcomes()
        complete = ledger.complete_partitions(connection, name) if prepared else set()
        different = ledger.unreconciled(connection, name) if prepared else {}
        aside = [f"{one.kind} {one.name}" for one in constraints.waiting(connection) if one.entity == name]
        shown.append(
            {
                "entity": name,
                **totals.as_dict(),
                "complete": len(complete & set(keys)),
                "partitions": len(keys),
                "set_aside": aside,
                "not_as_staged": different,
            }
        )
    if as_json:
        return print_json(shown)
    cells = {
        row["entity"]: {
            **{end: f"{row[end]:,}" for end in Outcomes().as_dict()},
            "complete": f"{row['complete']}/{row['partitions']}",
        }
        for row in shown
    }
    for table in number_tables("Ledger", cells, console.width):
        console.print(table)
    for row in shown:
        if row["set_aside"]:
            aside = ", ".join(row["set_aside"])
            console.print(f"{row['entity']}: set aside until `ferry settle`: {aside}", highlight=False)
        for key, rows in row["not_as_staged"].items():
            console.print(
                f"{row['entity']}, {key}: {rows:,} rows were not as staged; what refers to this partition waits"
                " until `ferry reconcile --repair`",
                highlight=False,
            )
    return None


@app.command()
def rejects(
    entities: Entities = None,
    reason: Annotated[str | None, typer.Option(help="only this reason")] = None,
    key: Annotated[
        list[str] | None, typer.Option(help="only the row with this old key; once for each part")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="rows shown for each entity")] = 20,
    defs: Defs = None,
    as_json: Json = False,
) -> None:
    """Show the rejected rows: why, which value, which key."""
    migration, _ = migration_of(defs)
    settings = read_settings()
    plans = plan_migration(migration, settings, only=tuple(entities or ()))
    shown: list[dict[str, Any]] = []
    counts: dict[str, dict[str, int]] = {}
    for name, connection in each_target(plans, settings):
        if not ledger.is_prepared(connection) or (entities and name not in entities):
            continue
        counts[name] = ledger.rejections(connection, name)
        rows = connection.execute(
            "select id, entity, partition, key, reason, errors, row, attempts from ferry.rejected_rows"
            " where entity = %s and (%s::text is null or reason = %s) and (%s::text[] is null or key = %s)"
            " order by id limit %s",
            (name, reason, reason, key or None, key or [], limit),
        )
        names = ("id", "entity", "partition", "key", "reason", "errors", "row", "attempts")
        shown.extend(_masked(dict(zip(names, row, strict=True)), plans[name]) for row in rows)
    if as_json:
        return print_json({"counts": counts, "rows": shown})
    if not shown:
        reasons = sorted({one.partition(":")[0] for found in counts.values() for one in found})
        others = f" Reasons that there are: {', '.join(reasons)}." if reasons else ""
        console.print(
            f"No rejected row matches.{others}" if others else "No row is rejected.", highlight=False
        )
        return None
    table = Table(title="Rejected rows", title_justify="left")
    for heading in ("entity", "key", "reason", "column", "value", "message"):
        table.add_column(heading, overflow="fold")
    for row in shown:
        first = row["errors"][0] if row["errors"] else {}
        cells = (first.get("column"), first.get("value"), first.get("message"))
        table.add_row(
            row["entity"], ", ".join(row["key"]), row["reason"], *(str(c or "")[:60] for c in cells)
        )
    console.print(table)
    for name, by_reason in counts.items():
        for why, count in by_reason.items():
            console.print(f"{count:>8,}  {name}: {why}", highlight=False)
    return None


def _masked(rejected: dict[str, Any], plan: EntityPlan) -> dict[str, Any]:
    """A rejected row without what is personal; `ferry.rejected_rows` has all of it, under its `id`."""
    key = [
        MASK if name in plan.personal else part
        for name, part in zip(plan.source_key, rejected["key"], strict=True)
    ]
    row = {name: MASK if name in plan.personal and value is not None else value
           for name, value in rejected["row"].items()}  # fmt: skip
    return {**rejected, "key": key, "row": row}


@app.command()
def settle(entities: Entities = None, defs: Defs = None, as_json: Json = False) -> None:
    """Load children whose parents have come, and decide about the rest where all parents are complete."""
    from ferry.settle import settle as settle_all

    settings = read_settings()
    plans = plan_migration(migration_of(defs)[0], settings)
    with seen_in_dagster(plans, settings):
        results = settle_all(plans, settings, only=known_names(plans, entities))
    if as_json:
        return print_json([dataclasses.asdict(result) for result in results])
    for result in results:
        console.print(f"{result.entity}: {', '.join(settled_words(result))}", highlight=False)
    return None


def settled_words(result: "Settled") -> list[str]:
    """What settling did to an entity, as a person reads it; what did not happen is left out."""
    counts = {
        "loaded": result.loaded,
        "references filled in": result.linked,
        "parents made up": result.stubs,
        "rejected": sum(result.rejected.values()),
        f"wait for {', '.join(result.waits_for)}": result.waiting,
        "no longer in the source": result.vanished,
        "removed": result.removed,
    }
    return [f"{n:,} {what}" for what, n in counts.items() if n or what == "loaded"]


@app.command()
def replay(
    entities: Entities = None,
    reason: Annotated[str | None, typer.Option(help="only rows rejected for this reason")] = None,
    key: Annotated[
        list[str] | None, typer.Option(help="only the row with this old key; once for each part")
    ] = None,
    defs: Defs = None,
    as_json: Json = False,
) -> None:
    """Judge and load the rejected rows again, then settle their children and deliver what has an API behind it."""
    from ferry.deliver import deliver_all
    from ferry.replay import replay as replay_all
    from ferry.settle import settle as settle_all

    settings = read_settings()
    plans = plan_migration(migration_of(defs)[0], settings)
    chosen = known_names(plans, entities)
    with seen_in_dagster(plans, settings):
        results = replay_all(plans, settings, chosen, reason=reason, key=tuple(key) if key else None)
        settle_all(plans, settings)
        delivered = {one.entity: one for one in deliver_all(plans, settings, "cli")}
    if as_json:
        sent = {name: {"delivered": dataclasses.asdict(one)} for name, one in delivered.items()}
        return print_json([{**dataclasses.asdict(one), **sent.get(one.entity, {})} for one in results])
    for result in results:
        console.print(
            f"{result.entity}: {result.tried:,} tried, {result.loaded:,} loaded, {result.waiting:,} waiting,"
            f" {result.rejected:,} rejected again",
            highlight=False,
        )
    if delivered:
        show(list(delivered.values()))
    return None


@app.command()
def rollback(
    entities: Entities = None,
    partition: Annotated[str | None, typer.Option(help="one partition, or a range `1992-01:1992-12`")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    defs: Defs = None,
    as_json: Json = False,
) -> None:
    """Take back what was loaded; rows that were there before stay, and a reload gives the same keys."""
    from ferry.rollback import roll_back

    settings = read_settings()
    plans = plan_migration(migration_of(defs)[0], settings)
    chosen = known_names(plans, entities)
    keys: tuple[str, ...] = ()
    if partition is not None:
        if not chosen:
            raise DeclarationError(
                "`--partition` needs the entities that it belongs to", next="ferry rollback orders …"
            )
        keys = plans[chosen[0]].scheme.chosen(partition, chosen[0])
    what = f"{', '.join(chosen) or 'everything'}{f', {partition}' if partition else ''}"
    if not yes and not typer.confirm(f"Take back {what}?"):
        raise typer.Exit(1)
    with seen_in_dagster(plans, settings):
        results = roll_back(plans, settings, chosen, keys)
    if as_json:
        return print_json([dataclasses.asdict(result) for result in results])
    for result in results:
        restored = f", {result.restored:,} given back their old values" if result.restored else ""
        console.print(f"{result.entity}: {result.removed:,} rows removed{restored}", highlight=False)
    return None


@contextmanager
def seen_in_dagster(plans: MigrationPlan, settings: Settings) -> Iterator[None]:
    """Evaluate the checks that the block changes, in the instance of `DAGSTER_HOME`, if there is one."""
    if not os.environ.get("DAGSTER_HOME"):
        yield
        return
    from ferry.components.checks import evaluating_checks_at_home

    with evaluating_checks_at_home(plans, settings):
        yield


def known_names(plans: MigrationPlan, entities: list[str] | None) -> tuple[str, ...]:
    """The named entities, each checked to exist."""
    return tuple(plans[name].name for name in entities or ())


@app.command()
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
    plans = plan_migration(migration_of(defs)[0], settings, only=tuple(entities or ()))
    found: list[dict[str, Any]] = []
    with seen_in_dagster(plans, settings):
        for name, result in hold(plans, known_names(plans, entities), settings, repair=repair):
            found.append({"entity": name, **dataclasses.asdict(result), "reconciled": result.reconciled})
            for difference in result.differences if not as_json else ():
                sign = "[red]✗[/red]" if result.different else "put right:"
                console.print(f"{sign} {name}, {result.partition}: {difference}", highlight=False)
    compared, different, repaired = (
        sum(row[count] for row in found) for count in ("compared", "different", "repaired")
    )
    if as_json:
        print_json(found)
    else:
        right = f", {repaired:,} were put right" if repair else ""
        console.print(f"{compared:,} rows compared, {different:,} differ{right}.", highlight=False)
    if different:
        raise typer.Exit(1)


@app.command()
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
    plans = plan_migration(migration_of(defs)[0], settings)
    terms = Terms(by, small, most_passes, quiet, "changed" if only_changed else "everything")
    with seen_in_dagster(plans, settings):
        done = cut_over(plans, settings, terms, "cli", _ignore if as_json else _say)
    if as_json:
        print_json(dataclasses.asdict(done))


def _say(line: str) -> None:
    console.print(line, highlight=False)


def _ignore(_: str) -> None:
    """With `--json`, only the end is printed."""


@app.command(name="map")
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
    plan = plan_migration(migration_of(defs)[0], settings, only=(entity,))[entity]
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
        console.print(f"{written:,} entries written to {export}", highlight=False, soft_wrap=True)
        return None
    if found is None:
        raise DeclarationError(
            f"{entity} has no row with the old key {', '.join(key or ())}", next="ferry rejects, or status"
        )
    return print_json(found)


@contextmanager
def _opened(url: str, connection: str) -> Any:
    with connect(url, connection, autocommit=True) as opened:
        yield opened


def each_target(plans: MigrationPlan, settings: Settings) -> Any:
    """Each planned entity with an open connection to its target."""
    for name in plans.order:
        target = plans[name].declaration.target.connection
        with _opened(settings.url(target), target) as connection:
            yield name, connection


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
            console.print(f"{count:>10,}  {name}: {reason}", highlight=False, soft_wrap=True)
    console.print(f"\nPeak memory {report['peak_rss_mib']:.0f} MiB.", highlight=False)
    for line in report["errors"]:
        errors.print(f"[red]✗[/red] {line}", highlight=False, soft_wrap=True)
    if report["kept_every_promise"]:
        console.print(
            "[green]Every row is accounted for and reconciled.[/green] Next: ferry rejects, ferry status"
        )
    else:
        errors.print("[red]Not every promise held.[/red] Correct what is named above and run it again.")


def report_tables(report: dict[str, Any], width: int) -> list[Table]:
    """The outcomes of a run as tables of at most `width` characters (see `number_tables`)."""
    cells = {
        name: {
            **{end: f"{row[end]:,}" for end in Outcomes().as_dict()},
            "reconciled": "[green]yes[/green]" if row["reconciled"] else "[red]NO[/red]",
            "rows/s": f"{row['rows_per_second']:,}",
            "peak MiB": f"{row['peak_rss_mib']:,.0f}",
        }
        for name, row in report["entities"].items()
    }
    return number_tables(f"{report['rows']:,} rows in {report['seconds']:.1f} s", cells, width)


def number_tables(title: str, cells: dict[str, dict[str, str]], width: int) -> list[Table]:
    """Numbers of entities, name by name: an entity a line, or an entity a column where lines are too long.

    With more entities than columns fit there are several tables, one below the other.
    """
    names, headings = list(cells), list(next(iter(cells.values()), {}))
    widths = {
        heading: max(len(heading), *(len(Text.from_markup(cells[name][heading])) for name in names))
        for heading in headings
    }
    if max(map(len, names), default=0) + sum(widths.values()) + len(headings) < width:
        table = _numbers(title, ["entity", *headings])
        for name, row in cells.items():
            table.add_row(name, *row.values())
        return [table]
    column = max([*map(len, names), *widths.values()], default=0) + 1
    at_once = max(1, (width - max(map(len, headings), default=0) - 1) // column)
    tables = []
    for first in range(0, len(names), at_once):
        shown = names[first : first + at_once]
        table = _numbers(title if not first else None, ["", *shown])
        for heading in headings:
            table.add_row(heading, *(cells[name][heading] for name in shown))
        tables.append(table)
    return tables


def _numbers(title: str | None, headings: list[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position else "left", no_wrap=True)
    return table


def print_json(value: Any) -> None:
    """JSON on standard output; dates and decimals as text."""
    print(
        json.dumps(
            value, default=str, ensure_ascii=False, indent=None if os.environ.get("FERRY_COMPACT") else 1
        )
    )


if __name__ == "__main__":
    main()
