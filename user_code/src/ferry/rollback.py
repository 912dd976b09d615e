"""Rollback: take back what was loaded, a partition, an entity or everything, and nothing that was there before.

All of it is one transaction in the target: either everything that was asked for is gone, or nothing is. The map keeps
a tombstone for each row, so that a reload gives it the same new key again. A row that another partition has as well, in
an older version, comes back when that one is loaded next.
"""

from dataclasses import dataclass

import numpy as np
import psycopg
from psycopg import sql

from ferry import ledger
from ferry.drift import check_stage
from ferry.errors import FerryError, PermanentError
from ferry.id_map import deferred_table, forget_deferred
from ferry.loader import Loader
from ferry.plan import MigrationPlan
from ferry.settings import Settings
from ferry.stage import Stage
from ferry.targets.errors import told
from ferry.targets.postgres.classify import resolved
from ferry.targets.postgres.hashes import new_key_text
from ferry.targets.postgres.incoming import incoming_table
from ferry.vanished import reopen_others
from ferry.verdict import Judge


@dataclass
class RolledBack:
    """What was taken back of one entity: rows removed, rows of others given their old values back."""

    entity: str
    partitions: int = 0
    removed: int = 0
    restored: int = 0


def roll_back(
    plans: MigrationPlan,
    settings: Settings,
    entities: tuple[str, ...] = (),
    partitions: tuple[str, ...] = (),
) -> list[RolledBack]:
    """Take back entities (all if none is named) or some of their partitions, children first.

    Args:
        plans: the whole plan.
        settings: connections and the staging area.
        entities: whose rows are taken back.
        partitions: only these partitions; with it, `entities` has to name what they belong to.

    Raises:
        PermanentError: rows outside the selection depend on rows in it; they are named and nothing is changed.
    """
    chosen = [name for name in reversed(plans.order) if not entities or name in entities]
    for name in chosen:
        for partition in partitions:
            plans[name].scheme.window(partition, name)
    if not chosen:
        return []
    try:
        with Loader(plans, chosen[0], settings) as first:
            connection = first.connection
            loaders = {chosen[0]: first}
            for name in chosen[1:]:
                loaders[name] = Loader(plans, name, settings).borrow(connection)
            for loader in loaders.values():
                loader.lock(None)
            with connection.transaction():
                connection.execute("set constraints all deferred")
                done = [_entity(loaders[name], settings, partitions) for name in chosen]
                connection.execute("set constraints all immediate")
            return done
    except psycopg.errors.ForeignKeyViolation as error:
        raise _depended_on(error) from None
    except psycopg.Error as error:
        raise told(error, "rollback") from None


def _entity(loader: Loader, settings: Settings, partitions: tuple[str, ...]) -> RolledBack:
    plan, connection = loader.plan, loader.connection
    there = [
        row[0]
        for row in connection.execute(
            "select partition from ferry.ledger where entity = %s union"
            " select partition from ferry.partitions where entity = %s order by 1",
            (plan.name, plan.name),
        )
    ]
    chosen = [partition for partition in there if not partitions or partition in partitions]
    result = RolledBack(plan.name, len(chosen))
    if plan.has_map:
        result.removed = _remove_mapped(loader, chosen)
    else:
        for partition in chosen:
            result.removed += _remove_staged(loader, settings, partition)
    result.restored = _restore(loader, chosen)
    for table in ("ledger", "partitions", "rejected_rows", "waiting_rows", "vanished_rows", "unreconciled"):
        connection.execute(
            sql.SQL("delete from {} where entity = %s and partition = any(%s)").format(
                sql.Identifier("ferry", table)
            ),
            (plan.name, chosen),
        )
    reopen_others(loader, chosen)
    return result


def _remove_mapped(loader: Loader, partitions: list[str]) -> int:
    """Delete the rows that the map says we made, and leave a tombstone for each."""
    plan, table = loader.plan, loader.map
    on = sql.SQL(" and ").join(
        sql.SQL("t.{} = m.{}").format(sql.Identifier(column), sql.Identifier(new))
        for column, new in zip(plan.target_key, table.new, strict=True)
    )
    ours = sql.SQL("m.partition = any(%s) and m.status in ('inserted', 'stub')")
    for edge in plan.later:
        loader.connection.execute(forget_deferred(plan, edge, ours), (partitions,))
    removed = loader.connection.execute(
        sql.SQL("delete from {} t using {} m where {} and {}").format(
            plan.target.identifier, table.identifier, on, ours
        ),
        (partitions,),
    ).rowcount
    loader.connection.execute(
        sql.SQL("update {} m set status = 'tombstone', row_hash = null where {}").format(
            table.identifier, ours
        ),
        (partitions,),
    )
    return removed


def _remove_staged(loader: Loader, settings: Settings, partition: str) -> int:
    """Without a map the stage says which rows are ours: those that were accepted, less what was there before."""
    plan = loader.plan
    stage = Stage(settings.stage_root, plan.name, partition)
    manifest = stage.manifest()
    loaded = ledger.chunk_state(loader.connection, plan.name, partition)
    staged = {part.number: part.content_hash for part in manifest.parts} if manifest else {}
    if manifest is None or any(staged.get(n) != known["content_hash"] for n, known in loaded.items()):
        raise PermanentError(
            "the stage that was loaded is gone, and only it says which rows are ours",
            where=f"{plan.name}, {partition}",
            next=f"Load the partition once more (`ferry run {plan.name} --partition {partition}`), then roll back",
        )
    check_stage(plan, manifest)
    judge, removed = Judge(plan), 0
    for part in manifest.parts:
        table = stage.read(manifest, part)
        verdict = judge.judge(table, stage.duplicates(manifest))
        numbers = np.flatnonzero(verdict.accepted()).astype(np.int64)
        sent = table if verdict.sent is None else verdict.sent
        if not len(numbers):
            continue
        loader.fill(sent, numbers)
        mine = sql.SQL(" and ").join(
            sql.SQL("t.{} = c.{}").format(sql.Identifier(name), sql.Identifier(f"c_{name}"))
            for name in plan.target_key
        )
        before = sql.SQL(" and ").join(
            sql.SQL("f.{0} = t.{0}").format(sql.Identifier(name)) for name in plan.target_key
        )
        removed += loader.connection.execute(
            sql.SQL(
                "delete from {} t using ({}) c where {} and not exists (select from {} f where {})"
            ).format(
                plan.target.identifier,
                resolved(loader.plan),
                mine,
                sql.Identifier("ferry", f"found_{plan.name}"),
                before,
            )
        ).rowcount
        loader.connection.execute(sql.SQL("truncate {}").format(incoming_table(loader.plan)))
    for edge in plan.later:
        on = sql.SQL(" and ").join(
            sql.SQL("t.{} = d.{}").format(sql.Identifier(column), sql.Identifier(new))
            for column, new in zip(plan.target_key, loader.map.new, strict=True)
        )
        loader.connection.execute(
            sql.SQL("delete from {} d where not exists (select from {} t where {})").format(
                deferred_table(plan, edge), plan.target.identifier, on
            )
        )
    return removed


def _restore(loader: Loader, partitions: list[str]) -> int:
    """Give rows that were there before us, and that these partitions changed, the values that they had.

    What another partition made of such a row afterwards stays; that one inherits the value to give back some day.
    """
    plan = loader.plan
    if plan.has_map:
        loader.connection.execute(
            sql.SQL(
                "update {} set row_hash = null where partition = any(%s) and status = 'preserved'"
                " and row_hash is not null"
            ).format(loader.map.identifier),
            (partitions,),
        )
    names = [name for name in plan.written if name not in plan.target_key]
    if not names:
        return 0
    return loader.connection.execute(
        sql.SQL(
            # `kept` numbers the changes of a row that stay: between two of them, those that go share one number.
            "with chain as (select b.id, b.key, b.row, b.partition = any(%(gone)s) as gone,"
            " count(*) filter (where b.partition <> all(%(gone)s)) over (partition by b.key order by b.id) as kept"
            " from ferry.before_images b where b.entity = %(entity)s and exists (select from ferry.before_images g"
            " where g.entity = b.entity and g.key = b.key and g.partition = any(%(gone)s))),"
            " held as (select distinct on (key, kept) key, kept, row from chain where gone order by key, kept, id),"
            " inherited as (update ferry.before_images b set row = h.row from chain c join held h"
            " on h.key = c.key and c.kept = h.kept + 1 where b.id = c.id and not c.gone),"
            " forgotten as (delete from ferry.before_images b using chain c where b.id = c.id and c.gone)"
            " update {target} t set {sets} from held h, lateral jsonb_populate_record(null::{target}, h.row) o"
            " where {key} = h.key and h.kept = (select max(c.kept) from chain c where c.key = h.key)"
        ).format(
            target=plan.target.identifier,
            sets=sql.SQL(", ").join(sql.SQL("{0} = o.{0}").format(sql.Identifier(name)) for name in names),
            key=new_key_text(loader.plan, "t"),
        ),
        {"entity": plan.name, "gone": partitions},
    ).rowcount


def _depended_on(error: psycopg.Error) -> FerryError:
    detail = error.diag.message_detail or str(error).splitlines()[0]
    return PermanentError(
        f"rows of {error.diag.table_name or 'another table'} depend on what would be removed",
        where="rollback",
        why=detail,
        next="Nothing was changed. Roll back those rows as well (their entity, or all), or remove the dependency",
    )
