"""Rows that need each other: a chain within one table, or a cycle over several, inserted together.

They wait like all rows whose parent has no key yet. Those of them whose parents are all there or wait with them get
their keys ahead in the map, and then go in, an entity a statement, in one transaction: foreign keys within the entity
are checked when the statement ends, those between entities, which the plan saw to be deferrable, at the end.
"""

from typing import Any

import psycopg
from psycopg import sql

from ferry.errors import PermanentError
from ferry.load import REFUSALS, Loader, refusal

# `label` is how `ferry.waiting_rows.missing` writes a parent: its entity, a space, its old key.
NODES = """
create temporary table ahead on commit drop as
select distinct on (label) id, entity, label from (
  select id, entity, entity || ' ' || array_to_string(key, ', ') as label from ferry.waiting_rows
  where entity = any(%s)) w order by label, id desc
"""
NEEDS = """
create temporary table ahead_needs on commit drop as
select a.id, a.label, m.needed from ahead a join ferry.waiting_rows w using (id), unnest(w.missing) m (needed)
"""
INDEXES = """
create unique index on ahead (label); create index on ahead_needs (needed); analyze ahead; analyze ahead_needs
"""
# Who lacks a parent that neither is there nor waits here cannot come, nor can anybody who needs him.
CANNOT = """
with recursive cannot (label) as (
  select n.label from ahead_needs n left join ahead a on a.label = n.needed where a.label is null
  union select n.label from cannot c join ahead_needs n on n.needed = c.label)
delete from ahead a using cannot c where a.label = c.label
"""


def resolve(circle: dict[str, Loader]) -> int:
    """Load every waiting row of these entities whose parents are there or wait here as well.

    Args:
        circle: entity → loader, all over one connection; each entity's `missing` has to be up to date.

    Returns:
        The rows that were loaded.

    Raises:
        PermanentError: the target refuses one of them; as they need each other, none of them is loaded.
    """
    first = next(iter(circle.values()))
    connection, loaded = first.connection, 0
    try:
        with connection.transaction():
            connection.execute("set constraints all deferred")
            connection.execute(NODES, (list(circle),))
            connection.execute(NEEDS)
            connection.execute(INDEXES)
            connection.execute(CANNOT)
            chosen = {
                name: [
                    row[0] for row in connection.execute("select id from ahead where entity = %s", (name,))
                ]
                for name in first.plan.ahead
            }
            for name, ids in chosen.items():
                place = {"entity": name, "partition": "", "ids": ids}
                connection.execute(circle[name].sql.refill(), place)
                connection.execute(circle[name].sql.allocate())
            for name, ids in chosen.items():
                if ids:
                    moved = circle[name].run("", -1, known=True, settling=True)[9]
                    loaded += sum(one["n"] for one in moved)
                    for one in moved:
                        move(circle[name], one)
            connection.execute("set constraints all immediate")
    except REFUSALS as error:
        raise _together(error, tuple(circle)) from None
    return loaded


def move(loader: Loader, moved: dict[str, Any]) -> None:
    """Move `n` rows of a chunk from `waiting` to the outcome they met; the ledger's own constraint checks the sum."""
    column = {"insert": "inserted", "known": "unchanged", "preserved": "preserved"}[moved["outcome"]]
    loader.connection.execute(
        sql.SQL(
            "update ferry.ledger set waiting = waiting - %(n)s, {0} = {0} + %(n)s,"
            " row_hash = row_hash + coalesce(%(hash)s::numeric, 0)"
            " where entity = %(entity)s and partition = %(partition)s and chunk = %(chunk)s"
        ).format(sql.Identifier(column)),
        {**moved, "entity": loader.plan.name},
    )


def _together(error: psycopg.Error, names: tuple[str, ...]) -> PermanentError:
    said = refusal(error)
    return PermanentError(
        "the target refuses a row among those that need each other",
        where=", ".join(names),
        why=f"{said['column']}: {said['message']}" if said["column"] else said["message"],
        next="They wait still. Say in the contract what the target does not take, load again, and settle",
    )
