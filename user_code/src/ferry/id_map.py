"""Old key → new key: the map of each entity, a table in the target written in the rows' own transaction."""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import adbc_driver_manager as adbc
import psycopg
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from psycopg import sql

from ferry.catalogue import as_text
from ferry.declaration import fingerprint
from ferry.edges import EdgePlan
from ferry.errors import DeclarationError, PermanentError, TransientError
from ferry.plan import EntityPlan
from ferry.sources.postgres_connection import ArrowConnection
from ferry.targets.postgres.hashes import first_row_hash, row_hash
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
        tuple(wire_type(plan.sent.field(name).type) for name in plan.source_key),
        tuple(f"new_{name}" for name in plan.target_key),
        tuple(plan.target.columns[name].type for name in plan.target_key),
    )


def deferred_table(plan: EntityPlan, edge: EdgePlan) -> sql.Identifier:
    """Where references wait that were written as NULL first: one table an edge."""
    return sql.Identifier("ferry", _deferred(plan, edge))


def _deferred(plan: EntityPlan, edge: EdgePlan) -> str:
    """The table's name. Its end tells apart what PostgreSQL would cut to one name, or what reads alike once joined."""
    name = f"deferred_{plan.name}_{'_'.join(edge.target_columns)}".encode()[:54].decode(errors="ignore")
    return f"{name}_{fingerprint([plan.name, *edge.target_columns])[:8]}"


def forget_deferred(plan: EntityPlan, edge: EdgePlan, gone: sql.Composable) -> sql.Composed:
    """Forget the references that wait for rows whose entry `m` of the map meets a condition."""
    table = map_table(plan)
    return sql.SQL("delete from {} d using {} m where {} and {}").format(
        deferred_table(plan, edge),
        table.identifier,
        sql.SQL(" and ").join(sql.SQL("d.{0} = m.{0}").format(sql.Identifier(new)) for new in table.new),
        gone,
    )


def prepare(connection: psycopg.Connection, plan: EntityPlan) -> None:
    """Create the map and the tables of deferred references, if the entity has any and they are not there."""
    table = map_table(plan)
    if plan.has_map:
        # To ask whether an index is there, `create index if not exists` waits for whoever loads.
        if not _exists(connection, table.identifier):
            _create(connection, table)
        elif _has_old_hashes(connection, table):
            connection.execute(_hash_anew(plan, table))
            connection.execute(sql.SQL("comment on table {} is null").format(table.identifier))
        if plan.version:
            _keep_versions(connection, plan, table)
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
        _prepare_deferred(connection, plan, edge, table)


def _exists(connection: psycopg.Connection, table: sql.Identifier) -> bool:
    """Whether there is such a table; an index may have its name, and is none."""
    name = table.as_string(connection)
    query = "select from pg_class where oid = to_regclass(%s) and relkind = 'r'"
    return connection.execute(query, (name,)).fetchone() is not None


def _has_old_hashes(connection: psycopg.Connection, table: MapTable) -> bool:
    """Whether an earlier version has made the hashes, and nobody has made them anew (`ledger.SCHEMA`)."""
    query = "select obj_description(to_regclass(%s), 'pg_class')"
    row = connection.execute(query, (table.identifier.as_string(connection),)).fetchone()
    return row == ("hashes until version 6",)


def _hash_anew(plan: EntityPlan, table: MapTable) -> sql.Composed:
    """Give rows that are as the map says their new hash; an entry that somebody has made untrue stays so."""
    return sql.SQL("update {} m set row_hash = {} from {} t where {} and m.row_hash = {}").format(
        table.identifier,
        row_hash(plan, "t"),
        plan.target.identifier,
        sql.SQL(" and ").join(
            sql.SQL("m.{} = t.{}").format(sql.Identifier(new), sql.Identifier(name))
            for new, name in zip(table.new, plan.target_key, strict=True)
        ),
        first_row_hash(plan, "t"),
    )


def _create(connection: psycopg.Connection, table: MapTable) -> None:
    # The map of `x` has an index `id_map_x_pkey`, and an earlier version made `id_map_x_new`: names of maps as well.
    connection.execute(
        sql.SQL("alter index if exists {} rename to {}").format(
            table.identifier, sql.Identifier(f"key_{fingerprint(['key', table.entity])[:16]}")
        )
    )
    columns = [
        sql.SQL("{} {} not null").format(sql.Identifier(name), sql.SQL(type_))  # type: ignore[arg-type]
        for name, type_ in zip((*table.old, *table.new), (*table.old_types, *table.new_types), strict=True)
    ]
    connection.execute(
        sql.SQL(
            "create table {} ({}, status ferry.map_status not null, partition text not null, row_hash bigint,"
            " primary key ({}))"
        ).format(
            table.identifier,
            sql.SQL(", ").join(columns),
            sql.SQL(", ").join(map(sql.Identifier, table.old)),
        )
    )
    # Preserved rows may be shared by several old keys; a key that we made belongs to one.
    connection.execute(
        sql.SQL("create unique index {} on {} ({}) where status <> 'preserved'").format(
            sql.Identifier(f"new_key_{fingerprint([table.entity])[:16]}"),
            table.identifier,
            sql.SQL(", ").join(map(sql.Identifier, table.new)),
        )
    )


def _prepare_deferred(
    connection: psycopg.Connection, plan: EntityPlan, edge: EdgePlan, table: MapTable
) -> None:
    """Create the table of one deferred reference; what an earlier version has kept under a shorter name is in it."""
    deferred = deferred_table(plan, edge)
    if _exists(connection, deferred):
        return
    before = f"deferred_{plan.name}_{'_'.join(edge.target_columns)}"[:63]
    connection.execute(
        sql.SQL("alter table if exists {} rename to {}").format(
            sql.Identifier("ferry", before), sql.Identifier(_deferred(plan, edge))
        )
    )
    parent = [
        sql.SQL("{} {} not null").format(
            sql.Identifier(f"parent_{position}"),
            sql.SQL(wire_type(plan.sent.field(name).type)),  # type: ignore[arg-type]
        )
        for position, name in enumerate(edge.source_columns)
    ]
    child = [
        sql.SQL("{} {} not null").format(sql.Identifier(name), sql.SQL(type_))  # type: ignore[arg-type]
        for name, type_ in zip(table.new, table.new_types, strict=True)
    ]
    connection.execute(
        sql.SQL("create table if not exists {} ({}, primary key ({}))").format(
            deferred,
            sql.SQL(", ").join([*child, *parent]),
            sql.SQL(", ").join(map(sql.Identifier, table.new)),
        )
    )


def _keep_versions(connection: psycopg.Connection, plan: EntityPlan, table: MapTable) -> None:
    """The column for the version of each row; adding it waits for whoever loads, so only where it is not there."""
    there = connection.execute(
        "select from pg_attribute where attrelid = %s::regclass and attname = 'version' and not attisdropped",
        (table.identifier.as_string(connection),),
    ).fetchone()
    if there is None:
        connection.execute(
            sql.SQL("alter table {} add column version {}").format(
                table.identifier,
                sql.SQL(wire_type(plan.sent.field(str(plan.version)).type)),  # type: ignore[arg-type]
            )
        )


def count(connection: psycopg.Connection, plan: EntityPlan) -> int | None:
    """The number of entries, None if nothing of the entity was ever loaded."""
    table = map_table(plan).identifier
    if not _exists(connection, table):
        return None
    row = connection.execute(sql.SQL("select count(*) from {}").format(table)).fetchone()
    return row[0] if row else None


def refresh_statistics(connection: psycopg.Connection, plan: EntityPlan) -> None:
    """Let the planner know how large a map has become; the server's own analysis comes when it comes."""
    row = connection.execute(
        "select pg_stat_get_mod_since_analyze(c) > greatest(1000, 0.2 * pg_stat_get_live_tuples(c))"
        " from cast(to_regclass(%s) as oid) c",
        (map_table(plan).identifier.as_string(connection),),
    ).fetchone()
    if row and row[0]:
        connection.execute(sql.SQL("analyze {}").format(map_table(plan).identifier))


def look_up(
    connection: psycopg.Connection, plan: EntityPlan, key: tuple[str, ...]
) -> dict[str, object] | None:
    """The map's row for an old key given as text, or None.

    Raises:
        DeclarationError: the key has another number of parts.
    """
    table = map_table(plan)
    if len(key) != len(table.old):
        raise DeclarationError(
            f"the old key of {plan.name} has {len(table.old)} parts, and {len(key)} are given",
            where=plan.name,
            next=f"Give {', '.join(plan.source_key)}, in this order",
        )
    condition = sql.SQL(" and ").join(
        sql.SQL("{} in ({}::text, {})").format(
            sql.Literal(value),
            sql.Identifier(old),
            as_text(sql.Identifier(old), plan.sent.field(name).type),
        )
        for name, old, value in zip(plan.source_key, table.old, key, strict=True)
    )
    cursor = connection.execute(sql.SQL("select * from {} where {}").format(table.identifier, condition))
    row = cursor.fetchone()
    return dict(zip([c.name for c in cursor.description or ()], row, strict=True)) if row else None


def has_rejected(connection: psycopg.Connection, plan: EntityPlan) -> sql.Composable:
    """SQL: whether the target has the row `r` of `ferry.rejected_rows`, which was loaded before it was rejected.

    Without a map nobody knows, and what an API has refused lies in its journal as it should.
    """
    table = map_table(plan)
    if not plan.has_map or not _exists(connection, table.identifier):
        return sql.SQL("false")
    same = []
    for position, (name, old, type_) in enumerate(
        zip(plan.source_key, table.old, table.old_types, strict=True), 1
    ):
        part, entry = sql.SQL("r.key[{}]").format(position), sql.SQL("m.{}").format(sql.Identifier(old))
        if pa.types.is_integer(plan.sent.field(name).type):
            # As what it is in the map, so that its index is asked; NULL and whatever else is no number has no entry.
            number = sql.SQL("case when {0} ~ '^-?[0-9]+$' then {0}::{1} end").format(part, sql.SQL(type_))  # type: ignore[arg-type]
            same.append(sql.SQL("{} = {}").format(entry, number))
        elif pa.types.is_string(plan.sent.field(name).type):
            same.append(sql.SQL("{} = {}").format(entry, part))
        else:
            same.append(sql.SQL("{} = {}").format(as_text(entry, plan.sent.field(name).type), part))
    return sql.SQL(
        "(r.reason <> 'api_refused' and exists (select from {} m where {} and m.status in ('inserted', 'preserved')))"
    ).format(table.identifier, sql.SQL(" and ").join(same))


def stream(url: str, plan: EntityPlan) -> Iterator[pa.RecordBatch]:
    """The published map as record batches: `(old_id, new_id)`, or one column for each part of a composite key.

    Tombstones are left out: their rows are not in the target.
    """
    table = map_table(plan)

    def named(side: str, names: tuple[str, ...]) -> list[str]:
        single = len(names) == 1
        return [f"{side}_id" if single else name for name in names]

    columns = sql.SQL(", ").join(
        sql.SQL("{} as {}").format(sql.Identifier(name), sql.Identifier(shown))
        for side, names in (("old", table.old), ("new", table.new))
        for name, shown in zip(names, named(side, names), strict=True)
    )
    query = sql.SQL("select {} from {} where status <> 'tombstone' order by 1").format(
        columns, table.identifier
    )
    yield from _batches(url, query)


def export(url: str, plan: EntityPlan, path: Path, tell: Callable[[int], None]) -> int:
    """Write a map to a file, batch after batch: the old key, the new key, status and partition of every entry.

    The file is there when it is whole, and not before; one that stood there until then is replaced.

    Args:
        url: the target's.
        plan: the entity.
        path: ends with `.parquet` or `.csv`.
        tell: is called with the number of entries of each batch that was written.

    Returns:
        The number of entries.

    Raises:
        DeclarationError: another ending, or no such folder.
        PermanentError: the file cannot be written.
        TransientError: the target broke off.
    """
    writers = {".parquet": _parquet, ".csv": pa_csv.CSVWriter}
    if path.suffix not in writers:
        raise DeclarationError(
            f"a map cannot be written as {path.suffix or 'a file without an ending'!r}",
            where=str(path),
            next="Let the name end with .parquet or .csv",
        )
    if not path.parent.is_dir():
        raise DeclarationError("there is no such folder", where=str(path.parent))
    table, rows = map_table(plan), 0
    columns = sql.SQL(", ").join(map(sql.Identifier, (*table.old, *table.new)))
    query = sql.SQL("select {}, status::text, partition from {} order by {}").format(
        columns, table.identifier, sql.SQL(", ").join(map(sql.Identifier, table.old))
    )
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        batches = _batches(url, query)
        first = next(batches)
        with writers[path.suffix](partial, first.schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
                rows += batch.num_rows
                tell(batch.num_rows)
        partial.replace(path)
    except adbc.Error as error:
        raise TransientError(
            "the target broke off",
            where=str(path),
            why=str(error).splitlines()[0],
            next="Nothing was written",
        ) from None
    except OSError as error:
        raise PermanentError(
            "the map cannot be written",
            where=str(path),
            why=error.strerror or str(error),
            next="Nothing is left there. Make room, or write it elsewhere",
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return rows


def _parquet(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="zstd")


def _batches(url: str, query: sql.Composed) -> Iterator[pa.RecordBatch]:
    arrow = ArrowConnection(url)
    try:
        yield from arrow.stream(query.as_string(None))
    finally:
        with contextlib.suppress(adbc.Error):
            arrow.close()
