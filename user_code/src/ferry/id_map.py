"""Old key → new key: the map of each entity, a table in the target written in the rows' own transaction."""

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pyarrow as pa
from psycopg import sql

from ferry.plan import EdgePlan, EntityPlan
from ferry.sources.postgres import ArrowConnection
from ferry.targets.types import wire_type


@dataclass(frozen=True)
class MapTable:
    """Names and types of the map of one entity."""

    entity: str
    old: tuple[str, ...]
    old_types: tuple[str, ...]
    new: tuple[str, ...]
    new_types: tuple[str, ...]

    @property
    def identifier(self) -> sql.Identifier:
        """The quoted name of the table."""
        return sql.Identifier("ferry", f"id_map_{self.entity}")


def map_table(plan: EntityPlan) -> MapTable:
    """The layout of an entity's map: `old_<column>` as they arrive, `new_<column>` as the target types them."""
    return MapTable(
        plan.name,
        tuple(f"old_{name}" for name in plan.source_key),
        tuple(wire_type(plan.schema.field(name).type) for name in plan.source_key),
        tuple(f"new_{name}" for name in plan.target_key),
        tuple(plan.target.columns[name].type for name in plan.target_key),
    )


def deferred_table(plan: EntityPlan, edge: EdgePlan) -> sql.Identifier:
    """Where references wait that were written as NULL first: one table an edge."""
    return sql.Identifier("ferry", f"deferred_{plan.name}_{'_'.join(edge.target_columns)}"[:63])


def prepare(connection: psycopg.Connection, plan: EntityPlan) -> None:
    """Create the map and the tables of deferred references, if the entity has any and they are not there."""
    table = map_table(plan)
    if plan.has_map:
        columns = [
            sql.SQL("{} {} not null").format(sql.Identifier(name), sql.SQL(type_))  # type: ignore[arg-type]
            for name, type_ in zip(
                (*table.old, *table.new), (*table.old_types, *table.new_types), strict=True
            )
        ]
        connection.execute(
            sql.SQL(
                "create table if not exists {} ({}, status ferry.map_status not null, partition text not null,"
                " row_hash bigint, primary key ({}))"
            ).format(
                table.identifier,
                sql.SQL(", ").join(columns),
                sql.SQL(", ").join(map(sql.Identifier, table.old)),
            )
        )
        # Preserved rows may be shared by several old keys; a key that we made belongs to one.
        connection.execute(
            sql.SQL("create unique index if not exists {} on {} ({}) where status <> 'preserved'").format(
                sql.Identifier(f"id_map_{plan.name}_new"),
                table.identifier,
                sql.SQL(", ").join(map(sql.Identifier, table.new)),
            )
        )
    else:
        # Which rows were there before the first load: they are never rolled back.
        connection.execute(
            sql.SQL("create table if not exists {} as select {} from {}").format(
                sql.Identifier("ferry", f"found_{plan.name}"),
                sql.SQL(", ").join(map(sql.Identifier, plan.target_key)),
                plan.target.identifier,
            )
        )
    for edge in plan.later:
        parent = [
            sql.SQL("{} {} not null").format(
                sql.Identifier(f"parent_{position}"),
                sql.SQL(wire_type(plan.schema.field(name).type)),  # type: ignore[arg-type]
            )
            for position, name in enumerate(edge.source_columns)
        ]
        child = [
            sql.SQL("{} {} not null").format(sql.Identifier(name), sql.SQL(type_))  # type: ignore[arg-type]
            for name, type_ in zip(table.new, table.new_types, strict=True)
        ]
        connection.execute(
            sql.SQL("create table if not exists {} ({}, primary key ({}))").format(
                deferred_table(plan, edge),
                sql.SQL(", ").join([*child, *parent]),
                sql.SQL(", ").join(map(sql.Identifier, table.new)),
            )
        )


def look_up(
    connection: psycopg.Connection, plan: EntityPlan, key: tuple[str, ...]
) -> dict[str, object] | None:
    """The map's row for an old key given as text, or None."""
    table = map_table(plan)
    condition = sql.SQL(" and ").join(
        sql.SQL("{}::text = {}").format(sql.Identifier(name), sql.Literal(value))
        for name, value in zip(table.old, key, strict=True)
    )
    cursor = connection.execute(sql.SQL("select * from {} where {}").format(table.identifier, condition))
    row = cursor.fetchone()
    return dict(zip([c.name for c in cursor.description or ()], row, strict=True)) if row else None


def stream(url: str, plan: EntityPlan) -> Iterator[pa.RecordBatch]:
    """The published map as record batches: `(old_id, new_id)`, or one column for each part of a composite key.

    Tombstones are left out: their rows are not in the target.
    """
    table = map_table(plan)

    def named(side: str, names: tuple[str, ...]) -> list[str]:
        single = len(names) == 1
        return [f"{side}_id" if single else name for name in names]

    columns = ", ".join(
        f'"{name}" as "{shown}"'
        for side, names in (("old", table.old), ("new", table.new))
        for name, shown in zip(names, named(side, names), strict=True)
    )
    arrow = ArrowConnection(url)
    try:
        yield from arrow.stream(
            f"select {columns} from ferry.\"id_map_{plan.name}\" where status <> 'tombstone' order by 1"  # noqa: S608
        )
    finally:
        arrow.close()
