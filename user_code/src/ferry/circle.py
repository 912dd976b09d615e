"""Rows that need each other: a chain within one table, or a cycle over several, inserted together.

They wait like all rows whose parent has no key yet. Those of them whose parents are all there or wait with them get
their keys ahead in the map, and then go in, an entity a statement, in one transaction: foreign keys within the entity
are checked when the statement ends, those between entities, which the plan saw to be deferrable, at the end.
"""

from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from ferry.errors import PermanentError
from ferry.kept import dumps
from ferry.loader import Loader
from ferry.targets.errors import REFUSALS, refusal
from ferry.targets.postgres.entries import allocate_keys
from ferry.targets.postgres.incoming import incoming_table, refill_incoming
from ferry.targets.postgres.waiting import note_missing
from ferry.whole_rows import complete, kept_as

# `label` is how `ferry.waiting_rows.missing` writes a parent: its entity, a space, its old key.
NODES = """
create temporary table ahead on commit drop as
select distinct on (label) id, entity, label from (
  select id, entity, entity || ' ' || key::text as label from ferry.waiting_rows
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


def resolve(circle: dict[str, Loader], as_null: dict[str, frozenset[int]]) -> dict[str, int]:
    """Load every waiting row of these entities whose parents are there or wait here as well.

    A row that the target refuses is rejected alone; what needs it goes on waiting, and the others come.

    Args:
        circle: entity → loader, all over one connection.
        as_null: of each entity the positions of references that are left empty where their parent is missing.

    Returns:
        The rows that were loaded, by entity.

    Raises:
        PermanentError: the target refuses them together, and none of them alone.
    """
    connection = next(iter(circle.values())).connection
    while True:
        try:
            with connection.transaction():
                chosen = _choose(circle, as_null)
                return _insert(circle, chosen, as_null)
        except REFUSALS as error:
            with connection.transaction(force_rollback=True):
                refused = _refused(circle, _choose(circle, as_null), as_null)
            if not refused:
                raise _together(error, circle) from None
            for name, waiting, said in refused:
                refuse(circle[name], waiting, said)


def _choose(circle: dict[str, Loader], as_null: dict[str, frozenset[int]]) -> dict[str, list[int]]:
    """The waiting rows that can come, by entity in the order of inserting; each has its new key in the map now."""
    connection = next(iter(circle.values())).connection
    connection.execute("set constraints all deferred")
    for name, one in circle.items():
        # A row of another partition, loaded a moment ago, may be what these waited for.
        connection.execute(refill_incoming(one.plan), {"entity": name, "partition": "", "ids": _waiting(one)})
        connection.execute(note_missing(one.plan, as_null[name]))
        connection.execute(sql.SQL("truncate {}").format(incoming_table(one.plan)))
    connection.execute(NODES, (list(circle),))
    connection.execute(NEEDS)
    connection.execute(INDEXES)
    connection.execute(CANNOT)
    chosen = {
        name: [row[0] for row in connection.execute("select id from ahead where entity = %s", (name,))]
        for name in next(iter(circle.values())).plan.ahead
    }
    for name, ids in chosen.items():
        connection.execute(refill_incoming(circle[name].plan), {"entity": name, "partition": "", "ids": ids})
        connection.execute(allocate_keys(circle[name].plan))
        connection.execute(sql.SQL("truncate {}").format(incoming_table(circle[name].plan)))
    return chosen


def _waiting(loader: Loader) -> list[int]:
    query = "select id from ferry.waiting_rows where entity = %s"
    return [row[0] for row in loader.connection.execute(query, (loader.plan.name,))]


def _insert(
    circle: dict[str, Loader], chosen: dict[str, list[int]], as_null: dict[str, frozenset[int]]
) -> dict[str, int]:
    loaded = dict.fromkeys(circle, 0)
    for name, ids in chosen.items():
        if ids:
            for one in _run(circle[name], ids, as_null[name]):
                loaded[name] += one["n"]
                move(circle[name], one)
    next(iter(circle.values())).connection.execute("set constraints all immediate")
    return loaded


def _run(loader: Loader, ids: list[int], as_null: frozenset[int]) -> list[dict[str, Any]]:
    loader.connection.execute(
        refill_incoming(loader.plan), {"entity": loader.plan.name, "partition": "", "ids": ids}
    )
    return loader.run("", -1, known=True, settling=True, as_null=as_null)[9]


def _refused(
    circle: dict[str, Loader], chosen: dict[str, list[int]], as_null: dict[str, frozenset[int]]
) -> list[tuple[str, int, dict[str, Any]]]:
    """Those of the rows that the target does not take, found by halving: entity, id and what the target said.

    Foreign keys tell nothing here, as half of the rows lacks the other half.
    """
    found: list[tuple[str, int, dict[str, Any]]] = []
    for name, ids in chosen.items():
        todo = [ids]
        while todo:
            some = todo.pop()
            try:
                with circle[name].connection.transaction(force_rollback=True):
                    if some:
                        _run(circle[name], some, as_null[name])
            except psycopg.errors.ForeignKeyViolation:
                continue
            except REFUSALS as error:
                if len(some) == 1:
                    found.append((name, some[0], refusal(error, circle[name].plan)))
                else:
                    middle = len(some) // 2
                    todo += [some[:middle], some[middle:]]
    return found


def refuse(loader: Loader, waiting: int, said: dict[str, Any]) -> None:
    """Reject the one waiting row that the target does not take."""
    with loader.connection.transaction():
        loader.connection.execute(
            sql.SQL(
                "with gone as (delete from ferry.waiting_rows where id = %s returning *), moved as (update"
                " ferry.ledger l set waiting = waiting - 1, rejected = rejected + 1 from gone where l.entity ="
                " gone.entity and l.partition = gone.partition and l.chunk = gone.chunk)"
                " insert into ferry.rejected_rows (entity, partition, chunk, row_no, key, reason, errors, row, sent,"
                " run_id) select entity, partition, chunk, row_no, key, 'target_refused', %s, {}, %s from gone"
            ).format(kept_as(loader)),
            (waiting, Jsonb([said], dumps=dumps), loader.run_id),
        )
        complete(loader)


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


def _together(error: psycopg.Error, circle: dict[str, Loader]) -> PermanentError:
    said = refusal(error, next(iter(circle.values())).plan)
    return PermanentError(
        "the target refuses rows that need each other, and none of them alone",
        where=", ".join(circle),
        why=f"{said['column']}: {said['message']}" if said["column"] else said["message"],
        next="They wait still. Say in the contract what the target does not take, load again, and settle",
    )
