"""Replay: send only the rejected rows through again, after the contract, the mapping or the target was mended."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import adbc_driver_manager as adbc
import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.types.json import Jsonb

from ferry.kept import NOT_WHOLE, dumps
from ferry.ledger import OF_THE_PARENT
from ferry.load import load_rows
from ferry.loader import Loader
from ferry.plan import MigrationPlan
from ferry.refused import ask_again
from ferry.settings import Settings
from ferry.sources.postgres_connection import ArrowConnection
from ferry.sources.postgres_values import conform
from ferry.stage import Stage
from ferry.targets.errors import told
from ferry.targets.types import wire_type
from ferry.verdict import Judge

# Rows of one transaction; they are read as Python objects, which a chunk of a load never is.
MOST_ROWS = 5_000


@dataclass
class Replayed:
    """What became of the rejected rows of one entity."""

    entity: str
    tried: int = 0
    loaded: int = 0
    waiting: int = 0
    rejected: int = 0


def replay(
    plans: MigrationPlan,
    settings: Settings,
    entities: tuple[str, ...] = (),
    *,
    reason: str | None = None,
    key: tuple[str, ...] | None = None,
    run_id: str = "",
) -> list[Replayed]:
    """Judge and load rejected rows again, in plan order; call `settle` afterwards for the children that waited.

    Args:
        plans: the whole plan, as it is now.
        settings: connections and the staging area.
        entities: whose rows; all if empty.
        reason: only rows rejected for it.
        key: only the row with this old key, as text.
        run_id: recorded with what is rejected again.
    """
    done = []
    for name in plans.order:
        if not entities or name in entities:
            try:
                with Loader(plans, name, settings, run_id) as loader:
                    loader.lock(None)
                    done.append(_entity(loader, settings, reason, key))
            except (psycopg.Error, adbc.Error) as error:
                raise told(error, name) from None
    return done


def _entity(loader: Loader, settings: Settings, reason: str | None, key: tuple[str, ...] | None) -> Replayed:
    result, judge = Replayed(loader.plan.name), Judge(loader.plan)
    if loader.plan.declaration.target.api:
        with loader.connection.transaction():
            result.tried = result.loaded = ask_again(loader, reason, key)
    for partition, chunk, rows in _batches(loader, reason, key):
        with loader.connection.transaction():
            _chunk(loader, settings, judge, partition, chunk, rows, result)
    return result


def _batches(
    loader: Loader, reason: str | None, key: tuple[str, ...] | None
) -> Iterator[tuple[str, int, pa.Table]]:
    """The rejected rows of each chunk, in batches, each row once, with `#id` and `#row_no` before its columns.

    Those that lack a parent are `settle`'s, or the delivery's; those that could not be kept whole have to be read
    from the source again.
    """
    plan = loader.plan
    places = loader.connection.execute(
        "select partition, chunk, array_agg(id order by id) from ferry.rejected_rows where entity = %s"
        " and reason <> all(%s) and (%s::text is null or reason = %s) and (%s::text[] is null or key = %s)"
        " and not row ? %s group by 1, 2 order by 1, 2",
        (
            plan.name,
            list(OF_THE_PARENT),
            reason,
            reason,
            list(key) if key else None,
            list(key or ()),
            NOT_WHOLE,
        ),
    ).fetchall()
    if not places:
        return
    record = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(f.name), sql.SQL(wire_type(f.type)))  # type: ignore[arg-type]
        for f in plan.schema
    )
    query = sql.SQL(
        'select w.id as "#id", w.row_no as "#row_no", r.* from ferry.rejected_rows w,'
        " lateral jsonb_to_record(w.row) as r({}) where w.id = any({{}}) order by w.id"
    ).format(record)
    schema = pa.schema([pa.field("#id", pa.int64()), pa.field("#row_no", pa.int64()), *plan.schema])
    # Read as a source is: dates and times that Python cannot hold come through as they are.
    rows_of = ArrowConnection(loader.settings.url(plan.declaration.target.connection))
    try:
        for partition, chunk, ids in places:
            for start in range(0, len(ids), MOST_ROWS):
                some = sql.Literal(ids[start : start + MOST_ROWS])
                text = sql.SQL(query.as_string(loader.connection)).format(some).as_string(loader.connection)  # type: ignore[arg-type]
                rows = [conform(batch, schema, plan.name) for batch in rows_of.stream(text)]
                rows_of.rollback()
                yield partition, chunk, pa.Table.from_batches(rows, schema)
    finally:
        with contextlib.suppress(adbc.Error):
            rows_of.close()


def _chunk(
    loader: Loader,
    settings: Settings,
    judge: Judge,
    partition: str,
    chunk: int,
    rows: pa.Table,
    result: Replayed,
) -> None:
    plan = loader.plan
    ids, numbers = rows.column("#id").to_pylist(), rows.column("#row_no").to_pylist()
    table = rows.select(plan.schema.names)
    stage = Stage(settings.stage_root, plan.name, partition)
    manifest = stage.manifest()
    verdict = judge.judge(table, stage.duplicates(manifest) if manifest else None)
    accepted = np.flatnonzero(verdict.accepted()).astype(np.int64)
    sent = table if verdict.sent is None else verdict.sent
    loaded = load_rows(loader, sent, accepted, partition, chunk, numbers=numbers)
    refused: dict[int, list[dict[str, Any]]] = {}
    for error in [*verdict.listed(), *loaded.refused]:
        refused.setdefault(error["row"], []).append(error)
    for number, found in refused.items():
        listed = [{k: v for k, v in error.items() if k not in ("row", "reason")} for error in found]
        loader.connection.execute(
            "update ferry.rejected_rows set reason = %s, errors = %s, attempts = attempts + 1, run_id = %s,"
            " rejected_at = now() where id = %s",
            (found[0]["reason"], Jsonb(listed, dumps=dumps), loader.run_id, ids[number]),
        )
    gone = [id_ for number, id_ in enumerate(ids) if number not in refused]
    loader.connection.execute("delete from ferry.rejected_rows where id = any(%s)", (gone,))
    ends = loaded.outcomes
    loader.connection.execute(
        "update ferry.ledger set rejected = rejected - %s, inserted = inserted + %s, updated = updated + %s,"
        " unchanged = unchanged + %s, preserved = preserved + %s, waiting = waiting + %s, row_hash = row_hash + %s"
        " where entity = %s and partition = %s and chunk = %s",
        (
            len(gone), ends.inserted, ends.updated, ends.unchanged, ends.preserved, ends.waiting, loaded.row_hash,
            plan.name, partition, chunk,
        ),
    )  # fmt: skip
    result.tried += rows.num_rows
    result.waiting += ends.waiting
    result.rejected += len(refused)
    result.loaded += len(gone) - ends.waiting
