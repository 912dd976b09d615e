"""The command `ferry plan`: the order, the references, and the rules of the contracts."""

import dataclasses
from typing import Any

from rich.markup import escape
from rich.table import Table

from ferry.cli.migration import migration_of
from ferry.cli.options import Defs, Entities, Json
from ferry.cli.output import console, print_json
from ferry.contract import compile_contract
from ferry.plan import EntityPlan, MigrationPlan, plan_migration
from ferry.settings import read_settings


def plan(entities: Entities = None, defs: Defs = None, as_json: Json = False) -> None:
    """Show the order, the references, and which way each rule of the contracts is checked. Writes nothing."""
    plans = plan_migration(migration_of(defs), read_settings(), only=tuple(entities or ()))
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
