"""The command `ferry plan`: the order, the references, and the rules of the contracts."""

import dataclasses
from typing import Any

from rich.table import Table

from ferry.cli.migration import migration_of
from ferry.cli.options import Defs, Entities, Json
from ferry.cli.output import add_row, console, print_json, word_table
from ferry.contract import compile_contract
from ferry.plan import EntityPlan, plan_migration
from ferry.settings import read_settings
from ferry.verdict import Judge


def plan(entities: Entities = None, defs: Defs = None, as_json: Json = False) -> None:
    """Show the order, the references, and which way each rule of the contracts is checked. Writes nothing."""
    plans = plan_migration(migration_of(defs), read_settings(), only=tuple(entities or ()))
    described = [describe_plan(plans[name]) for name in plans.order]
    if as_json:
        return print_json(described)
    for table in (plan_table(described), rules_table(described)):
        console.print(table)
    for one in described:
        for column, why in one["unsatisfiable"].items():
            console.print(
                f"{one['entity']}.{column}: every value will be rejected, as the source's column has another type than"
                f" the contract asks for: {why}. Change the contract, or read the text with `parse`.",
                style="yellow",
                markup=False,
            )
    console.print("Nothing was written. Next: ferry run")
    return None


def plan_table(described: list[dict[str, Any]]) -> Table:
    """Entities in the order of a run: from where to where, how they are cut, and each reference with its strategy.

    Args:
        described: what `describe_plan` says of each.
    """
    table = Table.grid(padding=(0, 2, 0, 0))
    table.title, table.title_justify = "Plan", "left"
    for _ in range(3):
        table.add_column(overflow="fold")
    for position, one in enumerate(described, 1):
        keys = one["partitions"]
        lines = [f"{one['source']} → {one['target']}"]
        lines += [f"{len(keys):,} partitions: {keys[0]} … {keys[-1]}"] if len(keys) > 1 else []
        lines += [f"{r['column']} → {r['to']}: {r['strategy']}" for r in one["references"]]
        add_row(table, str(position), one["entity"], "\n".join(lines))
    return table


def rules_table(described: list[dict[str, Any]]) -> Table:
    """Each rule of each contract, and which way it is checked."""
    table = word_table("Rules of the contracts", ("entity", "column", "rules", "way"))
    for one in described:
        together: dict[tuple[str, str, str], list[str]] = {}
        for path in one["rules"]:
            together.setdefault((path["column"], path["way"], path["why"]), []).append(path["rule"])
        for (column, way, why), rules in together.items():
            add_row(table, one["entity"], column, ", ".join(rules), f"{way}: {why}" if why else way)
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
        "unsatisfiable": Judge(plan).unsatisfiable(),
        "plan_hash": plan.plan_hash,
    }
