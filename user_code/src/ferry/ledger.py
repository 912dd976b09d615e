"""The ledger: what was loaded, from which stage, under which plan. It lives in the target and commits with the rows.

Schema `ferry` of the target database. A re-execution trusts these tables and nothing else.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from ferry.errors import PermanentError, PromiseBroken, TransientError

VERSION = 6
"""Of the tables below; what an earlier one made is brought up to it, statement by statement, and nothing is lost."""

SCHEMA: LiteralString = """
create schema if not exists ferry;
create table if not exists ferry.about (version int not null);
insert into ferry.about select 0 where not exists (select from ferry.about);
do $$ begin
  create type ferry.map_status as enum ('inserted', 'preserved', 'stub', 'tombstone');
exception when duplicate_object then null; end $$;
create table if not exists ferry.ledger (
  entity text not null, partition text not null, chunk int not null,
  stage_id text not null, content_hash text not null, plan_hash text not null,
  extracted bigint not null, inserted bigint not null, updated bigint not null, unchanged bigint not null,
  preserved bigint not null, rejected bigint not null, waiting bigint not null,
  row_hash numeric not null default 0, run_id text not null default '', loaded_at timestamptz not null default now(),
  primary key (entity, partition, chunk),
  constraint accounted_for
    check (extracted = inserted + updated + unchanged + preserved + rejected + waiting)
);
create table if not exists ferry.partitions (
  entity text not null, partition text not null, stage_id text not null, content_hash text not null,
  plan_hash text not null, taken_at timestamptz not null, rows bigint not null, chunks int not null,
  run_id text not null default '', completed_at timestamptz not null default now(),
  primary key (entity, partition)
);
create table if not exists ferry.rejected_rows (
  id bigint generated always as identity primary key,
  entity text not null, partition text not null, chunk int not null, row_no bigint not null,
  key text[] not null, reason text not null, errors jsonb not null, row jsonb not null,
  attempts int not null default 1, run_id text not null default '', rejected_at timestamptz not null default now()
);
-- The row as it would have been loaded, of one that waited; `row` is what came from the source.
alter table ferry.rejected_rows add column if not exists sent jsonb;
create index if not exists rejected_rows_place on ferry.rejected_rows (entity, partition, chunk);
create index if not exists rejected_rows_key on ferry.rejected_rows (entity, key);
create table if not exists ferry.waiting_rows (
  id bigint generated always as identity primary key,
  entity text not null, partition text not null, chunk int not null, row_no bigint not null,
  key text[] not null, missing text[] not null, row jsonb not null,
  run_id text not null default '', since timestamptz not null default now()
);
create index if not exists waiting_rows_place on ferry.waiting_rows (entity, partition, chunk);
create index if not exists waiting_rows_key on ferry.waiting_rows (entity, key);
create table if not exists ferry.vanished_rows (
  entity text not null, partition text not null, key text[] not null, found_at timestamptz not null default now(),
  primary key (entity, key)
);
create table if not exists ferry.unreconciled (
  entity text not null, partition text not null, rows bigint not null, run_id text not null default '',
  found_at timestamptz not null default now(), primary key (entity, partition)
);
create table if not exists ferry.before_images (
  entity text not null, partition text not null, key text[] not null, row jsonb not null
);
-- What a row held before a partition changed it; several may do so, one after the other.
alter table ferry.before_images add column if not exists id bigint generated always as identity;
alter table ferry.before_images drop constraint if exists before_images_pkey;
create index if not exists before_images_key on ferry.before_images (entity, key, id);
create table if not exists ferry.partition_keys (
  id bigint generated always as identity primary key,
  entity text not null, by text not null, key text not null, registered_at timestamptz not null default now(),
  unique (entity, by, key)
);
create or replace function ferry.differ(name text, value anyelement) returns anyelement language plpgsql as $$
begin raise exception 'two references lead to parents with different keys there' using column = name; end $$;
-- Until version 6 rows had other hashes: where nothing but a sum is kept, each row is looked at again; a map gets new
-- ones before it is used (`id_map.prepare`).
update ferry.ledger l set plan_hash = '' from ferry.about where version < 6
  and to_regclass(format('ferry.%I', 'id_map_' || l.entity)) is null;
do $$ declare map regclass; begin
  for map in select c.oid from ferry.about, pg_class c join pg_attribute on c.oid = attrelid and attname = 'row_hash'
    where version < 6 and relnamespace = 'ferry'::regnamespace and relkind = 'r' and starts_with(relname, 'id_map_')
  loop execute format('comment on table %s is %L', map, 'hashes until version 6'); end loop;
end $$;
comment on schema ferry is 'Bookkeeping of a migration: ledger, id maps, rejected and waiting rows';
"""

READ: LiteralString = """
select r.sent, b.id from ferry.ledger, ferry.partitions, ferry.rejected_rows r, ferry.waiting_rows, ferry.vanished_rows,
  ferry.unreconciled, ferry.before_images b, ferry.partition_keys limit 0
"""
"""Fails where a table or a column is missing that an earlier version did not have."""


OF_THE_PARENT = ("missing_parent", "parent_rejected", "parent_refused")
"""Reasons of rows that were rejected, or are held back, for want of their parent."""


@dataclass
class Outcomes:
    """How many rows of a chunk, partition or entity met which end; the list is closed (promise P1)."""

    extracted: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    preserved: int = 0
    rejected: int = 0
    waiting: int = 0

    def add(self, other: "Outcomes") -> None:
        """Add another's counts to these."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))

    def check(self, where: str) -> None:
        """Raise `PromiseBroken` unless every row is accounted for."""
        ends = self.inserted + self.updated + self.unchanged + self.preserved + self.rejected + self.waiting
        if self.extracted != ends:
            raise PromiseBroken(
                f"{self.extracted} rows came and {ends} are accounted for",
                where=where,
                why=", ".join(f"{k} {v}" for k, v in asdict(self).items()),
                next="Nothing of this chunk was kept. Report it: this is a fault of Ferry, not of the data",
            )

    def as_dict(self) -> dict[str, int]:
        """The counts by name, in the order of the accounting line."""
        return asdict(self)

    def reject(self, rows: int) -> None:
        """Count rows as rejected that were counted as loaded: an API has refused them afterwards."""
        self.rejected += rows
        for name in ("inserted", "updated", "unchanged", "preserved"):
            taken = min(rows, getattr(self, name))
            setattr(self, name, getattr(self, name) - taken)
            rows -= taken

    def as_seen_again(self) -> "Outcomes":
        """The outcome of a chunk that was loaded before and is skipped now."""
        return Outcomes(
            self.extracted, 0, 0, self.inserted + self.updated + self.unchanged, self.preserved, self.rejected,
            self.waiting,
        )  # fmt: skip


def prepare(connection: psycopg.Connection) -> None:
    """Create the schema `ferry` if it is not there; many processes may do it at once."""
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtext('ferry.schema'))")
        if _version(connection) < VERSION:
            try:
                connection.execute(SCHEMA)
                connection.execute("update ferry.about set version = %s", (VERSION,))
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction) as error:
                raise PermanentError(
                    "the bookkeeping schema `ferry` cannot be created in the target",
                    where=str(connection.info.dbname),
                    why=str(error).splitlines()[0],
                    next="grant create on database … to this user, or create schema ferry and give it to the user",
                ) from None


def _version(connection: psycopg.Connection) -> int:
    try:
        row = connection.execute("select to_regclass('ferry.about')").fetchone()
        if row is None or row[0] is None:
            return 0
        row = connection.execute("select version from ferry.about").fetchone()
    except psycopg.errors.InsufficientPrivilege as error:
        raise PermanentError(
            "this user may not read the bookkeeping of the migration",
            where=f"schema ferry of {connection.info.dbname}",
            why=str(error).splitlines()[0],
            next=f"grant usage on schema ferry to {connection.info.user}; grant select on all tables in schema ferry"
            f" to {connection.info.user}",
        ) from None
    return row[0] if row else 0


def is_prepared(connection: psycopg.Connection) -> bool:
    """Whether a migration has ever written into this target.

    What an earlier version left is brought up to this one, except by somebody who may read alone.

    Raises:
        PermanentError: the user may not read it, or it lacks what is read here, and the user may not bring it up.
    """
    version = _version(connection)
    if 0 < version < VERSION:
        try:
            prepare(connection)
        except PermanentError as error:
            _check_readable(connection, version, error.why)
    return version > 0


def _check_readable(connection: psycopg.Connection, version: int, why: str) -> None:
    try:
        connection.execute(READ)
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        raise PermanentError(
            f"the bookkeeping in the target is of an earlier version of Ferry ({version}, this one is {VERSION})",
            where=f"schema ferry of {connection.info.dbname}",
            why=f"{str(error).splitlines()[0]}, and this user may not bring it up to date: {why}",
            next="Call `ferry status` once as the user that loads; nothing that is written there is lost",
        ) from None


def chunk_state(connection: psycopg.Connection, entity: str, partition: str) -> dict[int, dict[str, Any]]:
    """Chunk number → content hash, plan hash, outcomes and sum of row hashes as loaded last."""
    rows = connection.execute(
        "select chunk, content_hash, plan_hash, stage_id, extracted, inserted, updated, unchanged, preserved,"
        " rejected, waiting, row_hash from ferry.ledger where entity = %s and partition = %s",
        (entity, partition),
    )
    return {
        row[0]: {
            "content_hash": row[1],
            "plan_hash": row[2],
            "stage_id": row[3],
            "outcomes": Outcomes(*row[4:11]),
            "row_hash": row[11],
        }
        for row in rows
    }


def record_chunk(
    connection: psycopg.Connection,
    *,
    entity: str,
    partition: str,
    chunk: int,
    stage_id: str,
    content_hash: str,
    plan_hash: str,
    outcomes: Outcomes,
    row_hash: Any,
    run_id: str,
) -> None:
    """Write the ledger's row of a chunk, in the transaction that loaded it."""
    connection.execute(
        "insert into ferry.ledger (entity, partition, chunk, stage_id, content_hash, plan_hash, extracted, inserted,"
        " updated, unchanged, preserved, rejected, waiting, row_hash, run_id)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " on conflict (entity, partition, chunk) do update set stage_id = excluded.stage_id,"
        " content_hash = excluded.content_hash, plan_hash = excluded.plan_hash, extracted = excluded.extracted,"
        " inserted = excluded.inserted, updated = excluded.updated, unchanged = excluded.unchanged,"
        " preserved = excluded.preserved, rejected = excluded.rejected, waiting = excluded.waiting,"
        " row_hash = excluded.row_hash, run_id = excluded.run_id, loaded_at = now()",
        (
            entity, partition, chunk, stage_id, content_hash, plan_hash, *outcomes.as_dict().values(), row_hash,
            run_id,
        ),
    )  # fmt: skip


def close_partition(
    connection: psycopg.Connection,
    *,
    entity: str,
    partition: str,
    stage_id: str,
    content_hash: str,
    plan_hash: str,
    taken_at: str,
    rows: int,
    chunks: int,
    run_id: str,
) -> None:
    """Declare a partition complete: forget chunks that the new stage no longer has, check the sum, write the row."""
    with connection.transaction():
        place = (entity, partition, chunks)
        for table in ("ledger", "rejected_rows", "waiting_rows"):
            connection.execute(
                sql.SQL("delete from {} where entity = %s and partition = %s and chunk >= %s").format(
                    sql.Identifier("ferry", table)
                ),
                place,
            )
        row = connection.execute(
            "select coalesce(sum(extracted), 0)::bigint, count(*), count(*) filter (where plan_hash = '')"
            " from ferry.ledger where entity = %s and partition = %s",
            (entity, partition),
        ).fetchone()
        assert row is not None
        if row[:2] != (rows, chunks):
            raise PromiseBroken(
                f"the stage has {rows} rows in {chunks} chunks, the ledger {row[0]} in {row[1]}",
                where=f"{entity}, {partition}",
                next="Run the partition again: each row is held against the target, and the ledger written anew",
            )
        if row[2]:
            raise TransientError(
                "rows of it may be gone from the target again",
                where=f"{entity}, {partition}",
                why="another partition had newer versions of them, and lost them while this one was loaded",
                next="The next try looks at every row",
            )
        connection.execute(
            "insert into ferry.partitions (entity, partition, stage_id, content_hash, plan_hash, taken_at, rows,"
            " chunks, run_id) values (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
            " on conflict (entity, partition) do update set stage_id = excluded.stage_id,"
            " content_hash = excluded.content_hash, plan_hash = excluded.plan_hash, taken_at = excluded.taken_at,"
            " rows = excluded.rows, chunks = excluded.chunks, run_id = excluded.run_id, completed_at = now()",
            (entity, partition, stage_id, content_hash, plan_hash, taken_at, rows, chunks, run_id),
        )


def is_torn(connection: psycopg.Connection, entity: str, partition: str) -> bool:
    """Whether chunks were loaded after the partition was complete, by a run that did not complete it again.

    They may be of a stage that nobody has any more.
    """
    row = connection.execute(
        "select from ferry.ledger join ferry.partitions using (entity, partition)"
        " where entity = %s and partition = %s and loaded_at > completed_at limit 1",
        (entity, partition),
    ).fetchone()
    return row is not None


def reopen_partition(connection: psycopg.Connection, entity: str, partition: str) -> None:
    """Take back that a partition is complete: children whose parents it may lack go on waiting."""
    connection.execute(
        "delete from ferry.partitions where entity = %s and partition = %s", (entity, partition)
    )


def doubt(connection: psycopg.Connection, entity: str, partition: str) -> None:
    """Let the next load hold every row of a partition against the target, whatever was loaded before."""
    connection.execute(
        "update ferry.ledger set plan_hash = '' where entity = %s and partition = %s", (entity, partition)
    )


def reconciled(
    connection: psycopg.Connection, entity: str, partition: str, different: int, run_id: str
) -> None:
    """Keep what holding a partition against its stage has found: while rows differ, rows that refer to it wait."""
    if different:
        connection.execute(
            "insert into ferry.unreconciled (entity, partition, rows, run_id) values (%s, %s, %s, %s)"
            " on conflict (entity, partition) do update set rows = excluded.rows, run_id = excluded.run_id,"
            " found_at = now()",
            (entity, partition, different, run_id),
        )
    else:
        connection.execute(
            "delete from ferry.unreconciled where entity = %s and partition = %s", (entity, partition)
        )


def unreconciled(connection: psycopg.Connection, entity: str) -> dict[str, int]:
    """Partition → rows that were not as staged when it was last held against its stage."""
    return dict(
        connection.execute(
            "select partition, rows from ferry.unreconciled where entity = %s", (entity,)
        ).fetchall()
    )


def complete_partitions(connection: psycopg.Connection, entity: str) -> set[str]:
    """The partitions of an entity that were loaded to their end and found as they were staged."""
    return {
        row[0]
        for row in connection.execute(
            "select partition from ferry.partitions p where entity = %s and not exists"
            " (select from ferry.unreconciled u where u.entity = p.entity and u.partition = p.partition)",
            (entity,),
        )
    }


def by_partition(connection: psycopg.Connection, entity: str) -> dict[str, Outcomes]:
    """Partition → the ledger's sums over its chunks; partitions without a chunk are not there."""
    sums = ", ".join(f"sum({one.name})::bigint" for one in fields(Outcomes))
    rows = connection.execute(
        sql.SQL("select partition, {} from ferry.ledger where entity = %s group by 1").format(
            sql.SQL(sums)  # type: ignore[arg-type]
        ),
        (entity,),
    )
    return {row[0]: Outcomes(*row[1:]) for row in rows}


def examples(
    connection: psycopg.Connection, entity: str, partition: str, most: int = 5
) -> dict[str, list[tuple[str, str]]]:
    """Old keys of the first rows of a partition that met an end: with their reason if they were `rejected`, with the
    parents that they lack if they are `waiting`, and with what became of the parent if they are `orphans`."""
    found = {}
    for end, query in _EXAMPLES.items():
        values = {"entity": entity, "partition": partition, "most": most, "reasons": list(OF_THE_PARENT)}
        found[end] = connection.execute(query, values).fetchall()
    return found


_ONE_OF: LiteralString = " where entity = %(entity)s and partition = %(partition)s"
_FIRST: LiteralString = " order by id limit %(most)s"
_KEY_OF: LiteralString = "select array_to_string(key, ', '), "
_EXAMPLES: dict[str, LiteralString] = {
    "rejected": _KEY_OF + "reason from ferry.rejected_rows" + _ONE_OF + _FIRST,
    "waiting": _KEY_OF + "array_to_string(missing, ', ') from ferry.waiting_rows" + _ONE_OF + _FIRST,
    "orphans": _KEY_OF
    + "errors->0->>'message' from ferry.rejected_rows"
    + _ONE_OF
    + " and reason = any(%(reasons)s)"
    + _FIRST,
}


def orphans(connection: psycopg.Connection, entity: str) -> dict[str, int]:
    """Partition → rows that were rejected for want of their parent; partitions without one are not there."""
    return dict(
        connection.execute(
            "select partition, count(*) from ferry.rejected_rows where entity = %s and reason = any(%s) group by 1",
            (entity, list(OF_THE_PARENT)),
        ).fetchall()
    )


def totals(
    connection: psycopg.Connection, entity: str, partitions: tuple[str, ...] | None = None
) -> Outcomes:
    """The ledger's sums over an entity or some of its partitions."""
    row = connection.execute(
        "select coalesce(sum(extracted), 0)::bigint, coalesce(sum(inserted), 0)::bigint,"
        " coalesce(sum(updated), 0)::bigint, coalesce(sum(unchanged), 0)::bigint,"
        " coalesce(sum(preserved), 0)::bigint, coalesce(sum(rejected), 0)::bigint, coalesce(sum(waiting), 0)::bigint"
        " from ferry.ledger where entity = %s and (%s::text[] is null or partition = any(%s))",
        (entity, list(partitions) if partitions else None, list(partitions or ())),
    ).fetchone()
    assert row is not None
    return Outcomes(*row)


def rejections(
    connection: psycopg.Connection, entity: str, partitions: tuple[str, ...] | None = None
) -> dict[str, int]:
    """Reason → rows; a contract's reasons are told apart by column and rule."""
    return {
        row[0]: row[1]
        for row in connection.execute(
            "select case when reason in ('contract', 'target_refused')"
            " then reason || ': ' || coalesce(errors->0->>'column', '') || ': ' || coalesce(errors->0->>'rule', '')"
            " else reason end, count(*) from ferry.rejected_rows"
            " where entity = %s and (%s::text[] is null or partition = any(%s)) group by 1 order by 2 desc, 1",
            (entity, list(partitions) if partitions else None, list(partitions or ())),
        )
    }


def count_rejected(
    connection: psycopg.Connection, entity: str, partition: str, chunk: int, rows: int
) -> None:
    """Count rows of a chunk as rejected that were counted as loaded (see `Outcomes.reject`); below 0, the reverse."""
    connection.execute(
        "update ferry.ledger set rejected = rejected + %(n)s, inserted = inserted - least(%(n)s, inserted),"
        " updated = updated - least(greatest(%(n)s - inserted, 0), updated),"
        " unchanged = unchanged - least(greatest(%(n)s - inserted - updated, 0), unchanged),"
        " preserved = preserved - greatest(%(n)s - inserted - updated - unchanged, 0)"
        " where entity = %(entity)s and partition = %(partition)s and chunk = %(chunk)s",
        {"n": rows, "entity": entity, "partition": partition, "chunk": chunk},
    )


def lock(connection: psycopg.Connection, entity: str, partition: str | None, seconds: float) -> None:
    """Hold a partition (or, with None, the whole entity) until the session ends.

    Loads of different partitions go side by side; whoever wants the whole entity waits for all of them.

    Raises:
        TransientError: somebody else holds it for longer than `seconds`.
    """
    shared = "_shared" if partition is not None else ""
    connection.execute(sql.SQL("set lock_timeout = {}").format(sql.Literal(int(seconds * 1000))))
    try:
        connection.execute(
            sql.SQL("select pg_advisory_lock{}(hashtextextended(%s, 0))").format(sql.SQL(shared)),
            (f"ferry {entity}",),
        )
        if partition is not None:
            connection.execute(
                "select pg_advisory_lock(hashtextextended(%s, 1))", (f"ferry {entity} {partition}",)
            )
    except psycopg.errors.LockNotAvailable:
        raise TransientError(
            "somebody else is loading it",
            where=f"{entity}, {partition or 'all partitions'}",
            why=f"its lock was not free within {seconds:g} s",
            next="Wait for the other run, or stop it; this one then goes on where the ledger ends",
        ) from None


def take_turn(connection: psycopg.Connection, entity: str) -> None:
    """Hold, until the transaction ends, what partitions that may bring the same row hold one after the other.

    Whoever looks whether another partition has a row in a newer version, or takes such a row away, sees all or nothing
    of what the others do.
    """
    connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 3))", (f"ferry {entity}",))


def unlock(connection: psycopg.Connection) -> None:
    """Let go of every lock that `lock` took on this connection."""
    connection.execute("select pg_advisory_unlock_all()")
