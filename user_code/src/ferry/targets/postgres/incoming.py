"""The temporary table that a chunk's rows are copied into, with the source's columns."""

import uuid

import numpy as np
import pyarrow as pa
from psycopg import sql

from ferry.arrow import array_of
from ferry.catalogue import as_text
from ferry.plan import EntityPlan
from ferry.targets.binary import sent_as, since_2000
from ferry.targets.types import wire_type

# Columns beside the source's: the row's number in its part, and the version 5 UUID of its old key, which the client
# computes. A source may well have a column `row_no`.
ROW, UUID5 = "#row_no", "#uuid5"


def incoming_table(plan: EntityPlan) -> sql.Identifier:
    """The temporary table that rows are copied into."""
    return sql.Identifier("pg_temp", f"incoming_{plan.name}"[:63])


def incoming_fields(plan: EntityPlan) -> tuple[pa.Field, ...]:
    """The source's columns that a load needs, in the order in which they are copied."""
    needed = {*plan.source_key, *(c.source for c in plan.columns)}
    needed |= {name for edge in plan.edges for name in edge.source_columns}
    needed |= set(plan.declaration.match.on) if plan.declaration.match else set()
    needed |= {plan.version} if plan.version else set()
    fields = tuple(field for field in plan.sent if field.name in needed)
    return (
        (*fields, pa.field(UUID5, pa.string())) if plan.declaration.target.key.source == "uuid5" else fields
    )


def create_incoming(plan: EntityPlan) -> sql.Composed:
    """The temporary table; it empties itself at the end of each transaction."""
    columns = [
        sql.SQL("{} {}").format(sql.Identifier(f.name), sql.SQL(wire_type(f.type)))  # type: ignore[arg-type]
        for f in incoming_fields(plan)
    ]
    return sql.SQL("create temporary table if not exists {} ({}) on commit delete rows").format(
        sql.Identifier(f"incoming_{plan.name}"[:63]),
        sql.SQL(", ").join([sql.SQL("{} bigint").format(sql.Identifier(ROW)), *columns]),
    )


def incoming_columns(plan: EntityPlan) -> sql.Composed:
    """The temporary table and its columns, as `COPY` takes them."""
    names = [sql.Identifier(ROW), *(sql.Identifier(f.name) for f in incoming_fields(plan))]
    return sql.SQL("{} ({})").format(incoming_table(plan), sql.SQL(", ").join(names))


def incoming_rows(
    plan: EntityPlan, table: pa.Table, numbers: np.ndarray, shown: np.ndarray | None = None
) -> pa.Table:
    """Rows as `copy_in` takes them into the temporary table.

    Args:
        plan: the entity's.
        table: the rows, with the columns of `EntityPlan.sent`.
        numbers: the positions in it of those that go.
        shown: for each position, the row's number in its part; the position itself if it is None.
    """
    fields = incoming_fields(plan)
    picked = _with_key(plan, table).select([field.name for field in fields])
    if len(numbers) != table.num_rows:
        picked = picked.take(array_of(numbers))
    row = pa.chunked_array([array_of(numbers if shown is None else shown[numbers])])
    schema = pa.schema([pa.field(ROW, pa.int64()), *map(sent_as, fields)])
    return pa.table([row, *map(since_2000, picked.columns)], schema=schema)


def _with_key(plan: EntityPlan, table: pa.Table) -> pa.Table:
    """The rows, with the version 5 UUID of each old key where the target's key is one."""
    key = plan.declaration.target.key
    if key.source != "uuid5":
        return table
    space = key.namespace or uuid.uuid5(uuid.NAMESPACE_URL, f"ferry:{plan.name}")
    old = zip(*(table.column(name).to_pylist() for name in plan.source_key), strict=True)
    made = [str(uuid.uuid5(space, ", ".join(map(str, parts)))) for parts in old]
    return table.append_column(pa.field(UUID5, pa.string()), pa.array(made, pa.string()))


def refill_incoming(plan: EntityPlan) -> sql.Composed:
    """Fill the temporary table from waiting rows; their number is the waiting row's id.

    Parameters: entity, and an array of ids or NULL for all rows of a partition, which comes last.
    """
    return sql.SQL(
        "insert into {} select w.id, {} from ferry.waiting_rows w,"
        " lateral jsonb_populate_record(null::{}, w.row) r where w.entity = %(entity)s"
        " and case when %(ids)s::bigint[] is null then w.partition = %(partition)s else w.id = any(%(ids)s) end"
    ).format(
        incoming_table(plan),
        sql.SQL(", ").join(sql.Identifier("r", f.name) for f in incoming_fields(plan)),
        incoming_table(plan),
    )


def old_key(plan: EntityPlan, alias: str) -> list[sql.Composable]:
    """The columns of a row's old key."""
    return [sql.Identifier(alias, name) for name in plan.source_key]


def old_key_text(plan: EntityPlan, alias: str) -> sql.Composed:
    """The old key of a row as an array of text."""
    return sql.SQL("array[{}]").format(
        sql.SQL(", ").join(
            as_text(sql.Identifier(alias, name), plan.sent.field(name).type) for name in plan.source_key
        )
    )


def incoming_old_keys(plan: EntityPlan) -> sql.Composed:
    """The old keys of the incoming rows, as arrays of text, in their order. Parameter: how many."""
    return sql.SQL("select {} from {} i order by i.{} limit %s").format(
        old_key_text(plan, "i"), incoming_table(plan), sql.Identifier(ROW)
    )
