"""Which column of the source goes where: by its own name, by `columns`, or through a rule of `mapping`."""

from collections.abc import Mapping
from dataclasses import dataclass

from ferry.catalogue import Column, Table
from ferry.declaration import Entity, nearest
from ferry.errors import DeclarationError
from ferry.mapping import MappedColumn
from ferry.sources.shape import UNFIT
from ferry.targets.types import REFUSED, carry


@dataclass(frozen=True)
class ColumnPlan:
    """What goes to a target column, and the exact cast between them ('' for none).

    `source` is a column of `EntityPlan.sent`: the source's own, or one that `mapping` makes. `origins` are the source's
    columns that go into it, and so its lineage.
    """

    source: str
    target: str
    cast: str
    origins: tuple[str, ...]


def plan_columns(
    entity: Entity,
    columns: Mapping[str, Column],
    mapped: tuple[MappedColumn, ...],
    target: Table,
    referring: set[str],
    taken: set[str],
) -> tuple[ColumnPlan, ...]:
    """Find each column its place, and hold the types against each other.

    Args:
        entity: the declaration.
        columns: the source's columns as the contract sees them.
        mapped: the columns that are made.
        target: where the rows go.
        referring: source columns that are references, which are resolved and not carried.
        taken: target columns that take the new keys of references.

    Raises:
        DeclarationError: a column goes nowhere, two go to one place, or a value could change on its way.
    """
    declaration, where = entity.declaration, f"{entity.path}: columns"
    made = declaration.target.key.source not in ("natural", "expression")
    by_rule = {one.target for one in mapped}
    used = {name for one in mapped for name in one.sources}
    carried: dict[str, ColumnPlan] = {}
    for name, column in columns.items():
        # What did not fit its field's type is for the verdict, not for the target.
        if name in declaration.drop or name == UNFIT:
            continue
        # The old key may be kept beside the new one: `columns` names its place, `into` that of the new key.
        if name in referring and declaration.columns.get(name) in (None, *taken):
            continue
        if made and name in declaration.source.key and name not in declaration.columns:
            continue
        into = declaration.target_column(name)
        if name not in declaration.columns and (
            into in by_rule or (name in used and into not in target.columns)
        ):
            if name in used:
                continue
            raise DeclarationError(
                f"the source column {name!r} goes nowhere: {target.label}.{into} is made of others",
                where=f"{entity.path}: mapping.{into}",
                next=f"List {name!r} under `drop`, or use it in the rule",
            )
        if into not in target.columns:
            raise DeclarationError(
                f"the source column {name!r} goes nowhere: {target.label} has no column {into!r}",
                where=where,
                next=f"Map it under `columns` or list it under `drop`. {nearest(into, target.columns, 'Columns')}",
            )
        cast = _cast(column, target, into, f"{where}.{name}", name)
        if into in carried or into in by_rule:
            raise DeclarationError(f"two source columns go to {into!r}", where=where, next="Drop one of them")
        carried[into] = ColumnPlan(name, into, cast, (name,))
    for one in mapped:
        cast = _cast(
            one.column, target, one.target, f"{entity.path}: mapping.{one.target}", "what the rule makes"
        )
        carried[one.target] = ColumnPlan(one.name, one.target, cast, one.sources)
    return tuple(carried.values())


def _cast(column: Column, target: Table, into: str, where: str, what: str) -> str:
    takes = target.columns[into]
    if takes.generated:
        raise DeclarationError(
            f"{target.label}.{into} is computed by the database and cannot be written",
            where=where,
            next="List it under `drop`, or map it to another column",
        )
    cast = carry(column, takes)
    if cast is None:
        refused = REFUSED.get(column.base_type.removeprefix("_"))
        raise DeclarationError(
            f"{what} ({column.type}) cannot be carried exactly into {into} ({takes.type})",
            where=where,
            why=refused or "it could be rounded, cut or read in two ways, and nothing is changed unasked",
            next="List it under `drop`, or read it as text"
            if refused
            else "Give the target a type that holds every value, or say under `mapping` how it is cast",
        )
    return cast
