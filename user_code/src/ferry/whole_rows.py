"""Rows that waited and are rejected after all: kept whole, as they came from the source.

What waits is the row as it will be loaded: without the columns that are dropped, with those that are made. Whoever
repairs a rejected row has to see all of it, so it is read from the stage again, while that still holds what was loaded.
"""

import json
from itertools import groupby

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.types.json import Jsonb

from ferry.arrow import array_of
from ferry.errors import PermanentError
from ferry.kept import NOT_WHOLE, as_rows, dumps
from ferry.loader import Loader
from ferry.stage import Stage
from ferry.targets.postgres.incoming import incoming_fields

AS_SENT = sql.SQL("row || {}::jsonb, row").format(sql.Literal(json.dumps({NOT_WHOLE: []})))
WHOLE = sql.SQL("row, null")


def kept_as(loader: Loader) -> sql.Composable:
    """What `row` and `sent` of a rejected row become, of a waiting row's `row`; call `complete` afterwards."""
    loaded = {field.name for field in incoming_fields(loader.plan)}
    whole = not loader.plan.changes and loaded >= set(loader.plan.schema.names)
    return WHOLE if whole else AS_SENT


def complete(loader: Loader) -> None:
    """Put the rows as they were staged in the place of those that `kept_as` marked, in the caller's transaction.

    A row whose stage is gone, or holds something else by now, stays as it was sent, and marked: it is never replayed.
    """
    if kept_as(loader) is WHOLE:
        return
    connection = loader.connection
    found = connection.execute(
        "select partition, chunk, id, row_no from ferry.rejected_rows where entity = %s and sent is not null"
        " and row ? %s order by partition, chunk, id",
        (loader.plan.name, NOT_WHOLE),
    ).fetchall()
    if not found:
        return
    connection.execute("create temporary table if not exists whole (id bigint, row jsonb) on commit drop")
    for (partition, chunk), rows in groupby(found, key=lambda row: row[:2]):
        if (table := _staged(loader, partition, chunk)) is not None:
            _copy(connection, table, [(id_, number) for _, _, id_, number in rows])
    connection.execute("update ferry.rejected_rows r set row = w.row from whole w where w.id = r.id")
    connection.execute("truncate whole")


def _copy(connection: psycopg.Connection, table: pa.Table, rows: list[tuple[int, int]]) -> None:
    numbers = array_of(np.array([number for _, number in rows], np.int64))
    with connection.cursor() as cursor, cursor.copy("copy whole from stdin") as copy:
        for (id_, _), row in zip(rows, as_rows(table.take(numbers)), strict=True):
            copy.write_row((id_, Jsonb(row, dumps=dumps)))


def _staged(loader: Loader, partition: str, chunk: int) -> pa.Table | None:
    """The part that a chunk was loaded from, if it is still there."""
    stage = Stage(loader.settings.stage_root, loader.plan.name, partition)
    manifest = stage.manifest()
    row = loader.connection.execute(
        "select content_hash from ferry.ledger where entity = %s and partition = %s and chunk = %s",
        (loader.plan.name, partition, chunk),
    ).fetchone()
    part = next((one for one in manifest.parts if one.number == chunk), None) if manifest else None
    if manifest is None or part is None or row is None or row[0] != part.content_hash:
        return None
    try:
        return stage.read(manifest, part)
    except PermanentError:
        return None
