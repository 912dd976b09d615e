"""Foreign keys and secondary indexes that are set aside during a large load and put back, each checked in bulk.

What is set aside is recorded in `ferry.set_aside`, in the transaction that drops it, with the statement that makes it
again. As long as a row stands there, `ferry status` shows it and every settling puts it back; a load that was
killed in between cannot make anybody forget it. Primary keys and unique constraints stay: the load relies on them.
"""

from dataclasses import dataclass

import psycopg
from psycopg import sql

from ferry.errors import PermanentError
from ferry.plan import EntityPlan

RECORD = """
create table if not exists ferry.set_aside (
  entity text not null, target text not null, kind text not null, name text not null, definition text not null,
  since timestamptz not null default now(), primary key (target, name)
)
"""


@dataclass(frozen=True)
class SetAside:
    """One foreign key or index that is not in place: the entity it was set aside for, its kind and name."""

    entity: str
    target: str
    kind: str
    name: str
    definition: str


def set_aside(connection: psycopg.Connection, plan: EntityPlan) -> int:
    """Drop the foreign keys and plain secondary indexes of an entity's target, as its declaration asks.

    Of several that begin together one does it, and the others wait for it.

    Returns:
        How many were dropped; 0 when they are set aside already.
    """
    with connection.transaction():
        # Two that make it at once would fail on one another.
        connection.execute("select pg_advisory_xact_lock(hashtext('ferry.set_aside'))")
        connection.execute(RECORD)
        found = connection.execute(
            "select 'foreign key', conname::text, format('alter table %%s add constraint %%I %%s',"
            " conrelid::regclass, conname, pg_get_constraintdef(oid))"
            " from pg_constraint where conrelid = %(table)s::regclass and contype = 'f'"
            " union all"
            " select 'index', c.relname::text, pg_get_indexdef(i.indexrelid) from pg_index i"
            " join pg_class c on c.oid = i.indexrelid"
            " where i.indrelid = %(table)s::regclass and not i.indisunique and not i.indisexclusion"
            " order by 1, 2",
            {"table": plan.target.identifier.as_string(connection)},
        ).fetchall()
        for kind, name, definition in found:
            connection.execute(
                "insert into ferry.set_aside (entity, target, kind, name, definition) values (%s, %s, %s, %s, %s)",
                (plan.name, plan.target.identifier.as_string(connection), kind, name, definition),
            )
            if kind == "index":
                drop = sql.SQL("drop index {}").format(sql.Identifier(plan.target.schema, name))
            else:
                drop = sql.SQL("alter table {} drop constraint {}").format(
                    plan.target.identifier, sql.Identifier(name)
                )
            connection.execute(drop)
    return len(found)


def waiting(connection: psycopg.Connection) -> list[SetAside]:
    """What is set aside now, foreign keys last: an index makes their check quick."""
    row = connection.execute("select to_regclass('ferry.set_aside')").fetchone()
    if row is None or row[0] is None:
        return []
    return [
        SetAside(*found)
        for found in connection.execute(
            "select entity, target, kind, name, definition from ferry.set_aside order by kind desc, target, name"
        )
    ]


def put_back(connection: psycopg.Connection) -> list[SetAside]:
    """Make everything again that was set aside, one transaction each, and check the rows that are there.

    Raises:
        PermanentError: the rows do not satisfy a foreign key; it stays recorded, the others are in place.
    """
    done = []
    broken: PermanentError | None = None
    for one in waiting(connection):
        try:
            with connection.transaction():
                connection.execute("set local maintenance_work_mem = '256MB'")
                connection.execute(one.definition)  # type: ignore[arg-type] - PostgreSQL wrote it itself
                connection.execute(
                    "delete from ferry.set_aside where target = %s and name = %s", (one.target, one.name)
                )
            done.append(one)
        except psycopg.IntegrityError as error:
            broken = PermanentError(
                f"the {one.kind} {one.name} of {one.target} cannot be put back",
                where=one.entity,
                why=error.diag.message_detail or str(error).splitlines()[0],
                next="Remove or correct the rows that violate it, then run `ferry settle`: it stays on record",
            )
    if broken:
        raise broken
    return done
