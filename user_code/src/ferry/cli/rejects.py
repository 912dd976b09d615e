"""The command `ferry rejects`: the rejected rows, without what is personal."""

from typing import Annotated, Any

import typer
from psycopg import sql
from rich.table import Table

from ferry import id_map, ledger
from ferry.cli.migration import each_target, migration_of
from ferry.cli.options import Defs, Entities, Json, Key, Reason
from ferry.cli.output import add_row, console, print_json, word_table
from ferry.contract.verdict import MASK
from ferry.plan import EntityPlan, plan_migration
from ferry.settings import read_settings


def rejects(
    entities: Entities = None,
    reason: Reason = None,
    key: Key = None,
    limit: Annotated[int, typer.Option(min=1, help="rows shown for each entity")] = 20,
    defs: Defs = None,
    as_json: Json = False,
) -> None:
    """Show the rejected rows: why, which value, which key."""
    settings = read_settings()
    plans = plan_migration(migration_of(defs), settings, only=tuple(entities or ()))
    shown: list[dict[str, Any]] = []
    counts: dict[str, dict[str, int]] = {}
    for name, connection in each_target(plans, settings, entities):
        if not ledger.is_prepared(connection):
            continue
        counts[name] = ledger.rejections(connection, name)
        rows = connection.execute(
            sql.SQL(
                "select id, entity, partition, key, reason, errors, row, attempts, {} from ferry.rejected_rows r"
                " where entity = %s and (%s::text is null or reason = %s) and (%s::text[] is null or key = %s)"
                " order by id limit %s"
            ).format(id_map.has_rejected(connection, plans[name])),
            (name, reason, reason, key or None, key or [], limit),
        )
        names = ("id", "entity", "partition", "key", "reason", "errors", "row", "attempts", "in_target")
        shown.extend(_masked(dict(zip(names, row, strict=True)), plans[name]) for row in rows)
    if as_json:
        return print_json({"counts": counts, "rows": shown})
    if not shown:
        reasons = sorted({one.partition(":")[0] for found in counts.values() for one in found})
        others = f" Reasons that there are: {', '.join(reasons)}." if reasons else ""
        console.print(f"No rejected row matches.{others}" if others else "No row is rejected.")
        return None
    console.print(rejects_table(shown))
    for name, by_reason in counts.items():
        for why, count in by_reason.items():
            console.print(f"{count:>8,}  {name}: {why}")
    return None


def rejects_table(rows: list[dict[str, Any]]) -> Table:
    """Rejected rows with the first of what is wrong with each."""
    table = word_table("Rejected rows", ("entity", "key", "reason", "column", "value", "message"))
    table.columns[2].no_wrap = True
    for row in rows:
        first = row["errors"][0] if row["errors"] else {}
        cells = (first.get("column"), first.get("value"), first.get("message"))
        column, value, message = (str(cell or "")[:60] for cell in cells)
        message += " (in the target as it was)" if row["in_target"] else ""
        add_row(table, row["entity"], ", ".join(row["key"]), row["reason"], column, value, message)
    return table


def _masked(rejected: dict[str, Any], plan: EntityPlan) -> dict[str, Any]:
    """A rejected row without what is personal; `ferry.rejected_rows` has all of it, under its `id`."""
    key = [
        MASK if name in plan.personal else part
        for name, part in zip(plan.source_key, rejected["key"], strict=True)
    ]
    row = {name: MASK if name in plan.personal and value is not None else value
           for name, value in rejected["row"].items()}  # fmt: skip
    return {**rejected, "key": key, "row": row}
