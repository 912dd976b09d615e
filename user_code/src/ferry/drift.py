"""Drift: the source's columns are no longer what they were. It is told, and nothing is guessed."""

from collections.abc import Mapping

import pyarrow as pa

from ferry.errors import PermanentError
from ferry.plan import EntityPlan
from ferry.stage import Manifest, columns_of


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What became of columns, in words: `city appeared (text); zip vanished; id was integer and is bigint`."""
    parts = [f"{name} appeared ({type_})" for name, type_ in now.items() if name not in before]
    parts += [f"{name} vanished" for name in before if name not in now]
    parts += [
        f"{name} was {type_} and is {now[name]}"
        for name, type_ in before.items()
        if now.get(name, type_) != type_
    ]
    return "; ".join(parts)


def check_source(plan: EntityPlan, schema: pa.Schema, partition: str) -> None:
    """Refuse to read a source whose columns changed after the plan was made."""
    planned = plan.schema
    if schema.names == planned.names and schema.types == planned.types:
        return
    raise PermanentError(
        "the source's columns are not those of the plan",
        where=f"{plan.name}, {partition}",
        why=difference(columns_of(planned), columns_of(schema)) or "they come in another order",
        next="Say in the declaration and the contract what becomes of them (`ferry plan` shows what is missing), reload"
        " the definitions and run it again; nothing of this partition was loaded",
    )


def check_stage(plan: EntityPlan, manifest: Manifest) -> None:
    """Refuse to use what was staged when the source had other columns."""
    changed = difference(manifest.columns, columns_of(plan.schema))
    if changed:
        raise PermanentError(
            "the partition was staged when the source had other columns",
            where=f"{plan.name}, {manifest.partition}",
            why=changed,
            next=f"Read it anew: materialize raw_{plan.name}, or"
            f" `ferry run {plan.name} --partition {manifest.partition}`",
        )
