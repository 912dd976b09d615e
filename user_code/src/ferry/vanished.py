# pyright: reportAttributeAccessIssue=false
"""Rows that vanished from the source after they were loaded: found when their partition is loaded again.

Each is written down in `ferry.vanished_rows`. It counts as vanished as long as no other partition takes it over: a
row whose date was corrected moves. Nothing is removed unless the entity says `on_vanished: delete`, and then only
what the source, asked by key, no longer has anywhere; `mode: replace_partition` removes it at once.
"""

from contextlib import closing

import pgpq
import psycopg
import pyarrow as pa
import pyarrow.compute as pc  # its functions are made at run time
from psycopg import sql
from psycopg.types.json import Jsonb

from ferry import ledger
from ferry.catalogue import as_text
from ferry.contract.carried import has_broken_text, is_text, python_values
from ferry.errors import PermanentError
from ferry.extract import open_source
from ferry.id_map import forget_deferred
from ferry.loader import Loader
from ferry.stage import Manifest, Stage
from ferry.targets.types import wire_type

ASKED_AT_ONCE = 5_000
STAGED = "staged_keys"


def note(loader: Loader, manifest: Manifest, partition: str) -> None:
    """Write down which rows of a partition were loaded before and are not in its stage now.

    Raises:
        PermanentError: `mode: replace_partition`, and rows of others depend on what would be removed.
    """
    plan, connection = loader.plan, loader.connection
    if not plan.has_map:
        # Which rows they are nobody knows; that there may be some is written down, and `count` says how many.
        connection.execute(
            "insert into ferry.vanished_rows (entity, partition, key) values (%s, %s, '{}') on conflict do nothing",
            (plan.name, partition),
        )
        return
    stage = Stage(loader.settings.stage_root, plan.name, partition)
    schema = pa.schema([plan.schema.field(name).remove_metadata() for name in plan.source_key])
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(f.name), sql.SQL(wire_type(f.type)))  # type: ignore[arg-type]
        for f in schema
    )
    with connection.transaction():
        loader.take_turn()
        connection.execute(
            sql.SQL("create temporary table {} ({}) on commit drop").format(sql.Identifier(STAGED), columns)
        )
        encoder = pgpq.ArrowToPostgresBinaryEncoder(schema)
        statement = sql.SQL("copy {} from stdin (format binary)").format(sql.Identifier("pg_temp", STAGED))
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(encoder.write_header())
            for part in manifest.parts:
                keys = stage.read(manifest, part).select(schema.names).cast(schema)
                for batch in keys.to_batches():
                    copy.write(encoder.write_batch(_held(batch)))
            copy.write(encoder.finish())
        table, place = loader.map, {"entity": plan.name, "partition": partition}
        there = sql.SQL("exists (select from {} s where {})").format(
            sql.Identifier("pg_temp", STAGED),
            sql.SQL(" and ").join(
                sql.SQL("s.{} = m.{}").format(sql.Identifier(name), sql.Identifier(old))
                for name, old in zip(plan.source_key, table.old, strict=True)
            ),
        )
        connection.execute(
            sql.SQL(
                "insert into ferry.vanished_rows (entity, partition, key) select %(entity)s, m.partition, {key}"
                " from {map} m where m.partition = %(partition)s and m.status = 'inserted' and not {there}"
                " on conflict (entity, key) do update set partition = excluded.partition, found_at = now()"
            ).format(key=_key(loader), map=table.identifier, there=there),
            place,
        )
        connection.execute(
            sql.SQL(
                "delete from ferry.vanished_rows v using {map} m where v.entity = %(entity)s and v.key = {key}"
                " and {there}"
            ).format(key=_key(loader), map=table.identifier, there=there),
            place,
        )
        if plan.declaration.mode == "replace_partition":
            gone = [key for key, where in listed(loader) if where == partition]
            try:
                with connection.transaction():
                    if _delete(loader, gone):
                        reopen_others(loader, [partition])
            except psycopg.errors.ForeignKeyViolation as error:
                raise PermanentError(
                    "rows that are no longer in the source cannot be removed",
                    where=f"{plan.name}, {partition}",
                    why=error.diag.message_detail or "",
                    next="Load the entity that refers to them first, or use `mode: upsert`",
                ) from None


def _held(keys: pa.RecordBatch) -> pa.RecordBatch:
    """The keys without text that PostgreSQL cannot hold, in which no row was ever loaded: no UTF-8, or with NUL."""
    for name in keys.schema.names:
        column = keys.column(name)
        if is_text(column.type) and (
            has_broken_text(column) or pc.any(pc.match_substring(column, "\0")).as_py()
        ):
            values = python_values(column)
            keys = keys.filter(
                pa.array([v is None or (isinstance(v, str) and "\0" not in v) for v in values])
            )
    return keys


def reopen_others(loader: Loader, partitions: list[str]) -> None:
    """Let the next load look again at whatever may still have rows that these partitions had last, and now lost.

    That is any other partition with fewer rows in the map than by its ledger: a newer version of the rest came from
    elsewhere.
    """
    if not loader.plan.may_meet:
        return
    short = loader.connection.execute(
        sql.SQL(
            "select l.partition from ferry.ledger l where l.entity = %(entity)s and l.partition <> all(%(gone)s)"
            " group by 1 having sum(inserted + updated + unchanged) > coalesce((select h.rows from"
            " (select m.partition, count(*) as rows from {map} m where m.row_hash is not null and not exists"
            " (select from ferry.vanished_rows v where v.entity = %(entity)s and v.partition = m.partition and"
            " v.key = {key}) group by 1) h where h.partition = l.partition), 0) order by 1"
        ).format(map=loader.map.identifier, key=_key(loader)),
        {"entity": loader.plan.name, "gone": partitions},
    ).fetchall()
    for (partition,) in short:
        ledger.doubt(loader.connection, loader.plan.name, partition)
        ledger.reopen_partition(loader.connection, loader.plan.name, partition)


def count(loader: Loader) -> int:
    """How many rows of an entity vanished; without a map, the rows of the target that no partition accounts for."""
    plan = loader.plan
    if plan.has_map:
        return len(listed(loader))
    row = loader.connection.execute(
        sql.SQL(
            "select case when exists (select from ferry.vanished_rows where entity = %(entity)s) then"
            " (select count(*) from {target} t where not exists (select from {found} f where {on})) -"
            " (select coalesce(sum(inserted + updated + unchanged), 0)"
            " from ferry.ledger where entity = %(entity)s) else 0 end"
        ).format(
            target=plan.target.identifier,
            found=sql.Identifier("ferry", f"found_{plan.name}"),
            on=sql.SQL(" and ").join(
                sql.SQL("f.{0} = t.{0}").format(sql.Identifier(name)) for name in plan.target_key
            ),
        ),
        {"entity": plan.name},
    ).fetchone()
    return max(0, int(row[0])) if row else 0


def listed(loader: Loader) -> list[tuple[list[str], str]]:
    """The vanished rows of an entity, which no other partition took over since: old key as text, and partition."""
    if not loader.plan.has_map:
        return []
    return loader.connection.execute(
        sql.SQL(
            "select v.key, v.partition from ferry.vanished_rows v join {} m on v.key = {} and"
            " m.partition = v.partition and m.status = 'inserted' where v.entity = %s order by 1"
        ).format(loader.map.identifier, _key(loader)),
        (loader.plan.name,),
    ).fetchall()


def remove(loader: Loader) -> tuple[int, int]:
    """Remove vanished rows that the source no longer has anywhere, each with a tombstone in the map.

    Returns:
        How many were removed, and how many have to stay because other rows depend on them.
    """
    keys = [key for key, _ in listed(loader)]
    removed = 0
    with closing(open_source(loader.plans.migration, loader.plan.name, loader.settings)) as source:
        for start in range(0, len(keys), ASKED_AT_ONCE):
            some = keys[start : start + ASKED_AT_ONCE]
            still = source.still_there(loader.plan.name, some)
            removed += _halving(loader, [key for key in some if tuple(key) not in still])
    return removed, len(listed(loader))


def _halving(loader: Loader, keys: list[list[str]]) -> int:
    if not keys:
        return 0
    try:
        with loader.connection.transaction():
            removed = _delete(loader, keys)
            loader.connection.execute("set constraints all immediate")
            return removed
    except psycopg.errors.ForeignKeyViolation:
        if len(keys) == 1:
            return 0
        middle = len(keys) // 2
        return _halving(loader, keys[:middle]) + _halving(loader, keys[middle:])


def _delete(loader: Loader, keys: list[list[str]]) -> int:
    plan, table = loader.plan, loader.map
    gone = sql.SQL("m.status = 'inserted' and {} in (select v.key from ferry.vanished_rows v where v.entity ="
                   " %(entity)s and v.key in (select array(select jsonb_array_elements_text(k)) from"
                   " jsonb_array_elements(%(keys)s) k))").format(_key(loader))  # fmt: skip
    values = {"entity": plan.name, "keys": Jsonb(keys)}
    for edge in plan.later:
        loader.connection.execute(forget_deferred(plan, edge, gone), values)
    on = sql.SQL(" and ").join(
        sql.SQL("t.{} = m.{}").format(sql.Identifier(column), sql.Identifier(new))
        for column, new in zip(plan.target_key, table.new, strict=True)
    )
    removed = loader.connection.execute(
        sql.SQL("delete from {} t using {} m where {} and {}").format(
            plan.target.identifier, table.identifier, on, gone
        ),
        values,
    ).rowcount
    loader.connection.execute(
        sql.SQL("update {} m set status = 'tombstone', row_hash = null where {}").format(
            table.identifier, gone
        ),
        values,
    )
    return removed


def _key(loader: Loader) -> sql.Composed:
    return sql.SQL("array[{}]").format(
        sql.SQL(", ").join(
            as_text(sql.Identifier("m", old), loader.plan.schema.field(name).type)
            for name, old in zip(loader.plan.source_key, loader.map.old, strict=True)
        )
    )
