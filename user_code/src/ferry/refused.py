"""Refused: a row that its API does not take is a rejected row like any other, and the ledger counts it so.

The row stays in the journal, where it keeps its key; `ferry.rejected_rows` has it as it was staged, with the API's
words. What hangs from it and cannot go without it is rejected for its parent. `replay` takes both from the rejected
rows again, and the next delivery asks the API.
"""

import uuid
from collections import Counter
from typing import Any, LiteralString

import numpy as np
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from ferry import ledger
from ferry.catalogue import as_text, key_text
from ferry.drift import difference
from ferry.kept import NOT_WHOLE, as_rows, dumps, keys_of
from ferry.loader import Loader
from ferry.plan import EntityPlan, MigrationPlan
from ferry.settings import Settings
from ferry.stage import Stage, columns_of
from ferry.targets.postgres.hashes import row_hash
from ferry.verdict import Judge

API, PARENT = "api_refused", "parent_refused"
MOST = 5_000

# Rows that are refused or held beside those that are rejected for it, with whatever one of the two lacks.
_STATES: LiteralString = """
select d.key as sent_as, r.id from (select * from ferry.deliveries where entity = %(entity)s
  and state in ('refused', 'held')) d
full join (select * from ferry.rejected_rows where entity = %(entity)s
  and reason in ('api_refused', 'parent_refused')) r
  on r.errors->0->>'sent_as' = d.key::text
where d.key is null or r.id is null or r.errors->0->>'message' <> d.problem
"""


def account(
    connection: psycopg.Connection, plans: MigrationPlan, name: str, settings: Settings, run_id: str
) -> None:
    """Bring rejected rows and ledger in line with what a delivery has found.

    Args:
        connection: the journal's database.
        plans: the whole plan.
        name: the entity.
        settings: the staging area, where the rows are as they came.
        run_id: recorded with each row.

    Raises:
        TransientError: somebody is loading the entity; what was refused is seen again by the next delivery.
    """
    differ = sql.SQL("select exists ({})").format(sql.SQL(_STATES))
    if connection.execute(differ, {"entity": name}).fetchone() == (False,):
        return
    with Loader(plans, name, settings, run_id) as loader:
        loader.lock(None)
        with loader.connection.transaction():
            _forget(loader)
            _reword(loader)
        while rows := _new(loader):
            with loader.connection.transaction():
                _keep(loader, rows, settings)


def ask_again(loader: Loader, reason: str | None, key: tuple[str, ...] | None) -> int:
    """Let the next delivery ask again for refused rows that could not be kept as staged: they stand in the journal.

    Args:
        loader: holds the entity.
        reason: only rows rejected for it.
        key: only the row with this old key.

    Returns:
        The number of rows.
    """
    gone = loader.connection.execute(
        "delete from ferry.rejected_rows where entity = %s and reason = %s and row ? %s"
        " and coalesce(%s, reason) = reason and coalesce(%s::text[], key) = key"
        " returning partition, chunk, errors->0->>'sent_as'",
        (loader.plan.name, API, NOT_WHOLE, reason, list(key) if key else None),
    ).fetchall()
    _count_as_loaded(loader, gone)
    return len(gone)


def _forget(loader: Loader) -> None:
    """Rows that are over there now count as loaded again."""
    gone = loader.connection.execute(
        sql.SQL(
            "delete from ferry.rejected_rows where id in (select id from ({}) s where s.sent_as is null)"
            " returning partition, chunk, errors->0->>'sent_as'"
        ).format(sql.SQL(_STATES)),
        {"entity": loader.plan.name},
    ).fetchall()
    _count_as_loaded(loader, gone)


def _count_as_loaded(loader: Loader, rows: list[tuple[Any, ...]]) -> None:
    """Move rows (partition, chunk, key in the journal) back in the ledger, and hold them against their stage again."""
    plan = loader.plan
    for (partition, chunk), count in Counter(row[:2] for row in rows).items():
        ledger.count_rejected(loader.connection, plan.name, partition, chunk, -count)
    if rows:
        loader.connection.execute(
            sql.SQL(
                "update {map} m set row_hash = {hash} from {target} t"
                " where t.{key} = m.{new} and t.{key} = any(%s)"
            ).format(
                map=loader.map.identifier,
                hash=row_hash(loader.plan, "t"),
                target=plan.target.identifier,
                key=sql.Identifier(plan.target_key[0]),
                new=sql.Identifier(loader.map.new[0]),
            ),
            ([uuid.UUID(row[2]) for row in rows],),
        )  # fmt: skip


def _reword(loader: Loader) -> None:
    """What the API says otherwise than before."""
    loader.connection.execute(
        "update ferry.rejected_rows r"
        " set reason = case d.state when 'held' then 'parent_refused' else 'api_refused' end,"
        " errors = jsonb_set(r.errors, '{0,message}', to_jsonb(d.problem)), attempts = greatest(d.attempts, 1),"
        " run_id = %(run)s, rejected_at = now() from ferry.deliveries d where r.entity = %(entity)s and"
        " r.reason in ('api_refused', 'parent_refused') and d.entity = r.entity and"
        " d.key::text = r.errors->0->>'sent_as' and d.state in ('refused', 'held') and"
        " r.errors->0->>'message' <> d.problem",
        {"entity": loader.plan.name, "run": loader.run_id},
    )


def _new(loader: Loader) -> list[tuple[Any, ...]]:
    """Some of the rows that are refused and not yet rejected, with old key and partition."""
    plan, table = loader.plan, loader.map
    old = sql.SQL(", ").join(
        as_text(sql.Identifier("m", name), plan.sent.field(key).type)
        for name, key in zip(table.old, plan.source_key, strict=True)
    )
    return loader.connection.execute(
        sql.SQL(
            "select d.key::text, array[{old}], m.partition, d.state, d.problem, d.attempts from ({states}) s"
            " join ferry.deliveries d on d.entity = %(entity)s and d.key = s.sent_as join {map} m"
            " on m.{new} = d.key where s.id is null and exists (select from ferry.ledger l"
            " where l.entity = %(entity)s and l.partition = m.partition) order by m.partition, d.key limit {most}"
        ).format(
            old=old,
            states=sql.SQL(_STATES),
            map=table.identifier,
            new=sql.Identifier(table.new[0]),
            most=sql.Literal(MOST),
        ),
        {"entity": plan.name},
    ).fetchall()


def _keep(loader: Loader, rows: list[tuple[Any, ...]], settings: Settings) -> None:
    """Keep refused rows as they were staged, and count them as rejected where they were counted as loaded."""
    name, connection = loader.plan.name, loader.connection
    for partition in dict.fromkeys(row[2] for row in rows):
        some = [row for row in rows if row[2] == partition]
        chunks = ledger.chunk_state(connection, name, partition)
        staged = _staged(loader, settings, partition, {tuple(row[1]) for row in some}, chunks)
        counts: dict[int, int] = {}
        with connection.cursor() as cursor:
            for sent_as, old, _, state, problem, attempts in some:
                chunk, number, row = staged.get(tuple(old)) or (
                    min(chunks),
                    -1,
                    {**dict(zip(loader.plan.source_key, old, strict=True)), NOT_WHOLE: []},
                )
                key = [key_text(row[one]) for one in loader.plan.source_key]
                counts[chunk] = counts.get(chunk, 0) + 1
                error = {"column": "", "rule": "parent" if state == "held" else "api", "value": None,
                         "message": problem, "sent_as": sent_as}  # fmt: skip
                cursor.execute(
                    "insert into ferry.rejected_rows (entity, partition, chunk, row_no, key, reason, errors, row,"
                    " attempts, run_id) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                    (
                        name, partition, chunk, number, key, PARENT if state == "held" else API,
                        Jsonb([error], dumps=dumps), Jsonb(row, dumps=dumps), max(attempts, 1), loader.run_id,
                    ),
                )  # fmt: skip
        for chunk, count in counts.items():
            ledger.count_rejected(connection, name, partition, chunk, count)
    # What is rejected is no part of what a partition is held against: without a hash the map's entry is left out.
    connection.execute(
        sql.SQL("update {} set row_hash = null where {} = any(%s)").format(
            loader.map.identifier, sql.Identifier(loader.map.new[0])
        ),
        ([uuid.UUID(row[0]) for row in rows],),
    )


def _staged(
    loader: Loader,
    settings: Settings,
    partition: str,
    wanted: set[tuple[str, ...]],
    chunks: dict[int, dict[str, Any]],
) -> dict[tuple[str, ...], tuple[int, int, dict[str, Any]]]:
    """Old key → chunk, row number and row, for those of the rows that are staged as they were loaded."""
    plan: EntityPlan = loader.plan
    stage = Stage(settings.stage_root, plan.name, partition)
    manifest = stage.manifest()
    if manifest is None or difference(manifest.columns, columns_of(plan.schema)):
        return {}
    judge, duplicates = Judge(plan), stage.duplicates(manifest)
    found: dict[tuple[str, ...], tuple[int, int, dict[str, Any]]] = {}
    for part in manifest.parts:
        if part.number not in chunks or chunks[part.number]["content_hash"] != part.content_hash:
            continue
        table = stage.read(manifest, part)
        verdict = judge.judge(table, duplicates)
        sent = table if verdict.sent is None else verdict.sent
        keys = keys_of(sent, plan.source_key)
        places = [int(n) for n in np.flatnonzero(verdict.accepted()) if keys[n] in wanted]
        for number, row in zip(places, as_rows(table.take(places)), strict=True):
            found[keys[number]] = (part.number, number, row)
    return found
