# pyright: reportAttributeAccessIssue=false
"""Rows of a chunk that are kept aside, not in the target: rejected ones, and those that wait for a parent."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc  # its functions are made at run time
from psycopg.types.json import Jsonb

from ferry.arrow import array_of, constant
from ferry.catalogue import key_text
from ferry.kept import as_rows, dumps
from ferry.ledger import Outcomes
from ferry.loader import Loader
from ferry.stage import Part
from ferry.verdict import PartVerdict


def kept_in_target(loader: Loader, partition: str, chunk: int, accepted: np.ndarray) -> np.ndarray:
    """The numbers of a chunk's rows that are in the target: accepted, and neither refused there nor waiting.

    Args:
        loader: of the entity.
        partition: the chunk's.
        chunk: its number.
        accepted: a mask over its rows, by the contract's verdict.
    """
    aside = loader.connection.execute(
        "select row_no from ferry.rejected_rows where entity = %(e)s and partition = %(p)s and chunk = %(c)s"
        " union all"
        " select row_no from ferry.waiting_rows where entity = %(e)s and partition = %(p)s and chunk = %(c)s",
        {"e": loader.plan.name, "p": partition, "c": chunk},
    ).fetchall()
    mask = accepted.copy()
    mask[[number for (number,) in aside]] = False
    return np.flatnonzero(mask).astype(np.int64)


def repeats_as_before(
    loader: Loader, partition: str, part: Part, verdict: PartVerdict, known: Outcomes
) -> bool:
    """Whether the rows of a part that repeat a key are those that did so when it was loaded.

    The others of that key may lie in other parts, so the content of this one does not tell.
    """
    errors = verdict.errors
    numbers = (
        errors.filter(pc.equal(errors.column("reason"), constant("duplicate_key", pa.string())))
        .column("row")
        .to_pylist()
    )
    if not numbers and not known.rejected:
        return True
    kept = loader.connection.execute(
        "select row_no from ferry.rejected_rows where entity = %s and partition = %s and chunk = %s"
        " and reason = 'duplicate_key'",
        (loader.plan.name, partition, part.number),
    ).fetchall()
    return {number for (number,) in kept} == set(numbers)


def forget_aside(
    loader: Loader, partition: str, chunk: int
) -> tuple[dict[tuple[str, ...], int], set[tuple[str, ...]]]:
    """Remove what an earlier load of this chunk kept aside.

    Returns:
        How often each key was rejected, and the keys of all that was kept aside.
    """
    place = (loader.plan.name, partition, chunk)
    waited = loader.connection.execute(
        "delete from ferry.waiting_rows where entity = %s and partition = %s and chunk = %s returning key",
        place,
    ).fetchall()
    gone = loader.connection.execute(
        "delete from ferry.rejected_rows where entity = %s and partition = %s and chunk = %s"
        " returning key, attempts",
        place,
    )
    attempts = {tuple(key): count for key, count in gone}
    return attempts, {*attempts, *(tuple(key) for (key,) in waited)}


def keep_rejected(
    loader: Loader,
    partition: str,
    chunk: int,
    table: pa.Table,
    errors: list[dict[str, Any]],
    attempts: dict[tuple[str, ...], int],
) -> None:
    """Keep rejected rows whole, each with all its errors."""
    by_row: dict[int, list[dict[str, Any]]] = {}
    for error in errors:
        by_row.setdefault(error["row"], []).append(error)
    if not by_row:
        return
    rows = as_rows(table.take(array_of(np.array(list(by_row), np.int64))))
    statement = (
        "copy ferry.rejected_rows (entity, partition, chunk, row_no, key, reason, errors, row, attempts, run_id)"
        " from stdin"
    )
    with loader.connection.cursor() as cursor, cursor.copy(statement) as copy:
        for (number, found), row in zip(by_row.items(), rows, strict=True):
            key = tuple(key_text(row[name]) for name in loader.plan.source_key)
            listed = [{k: v for k, v in error.items() if k not in ("row", "reason")} for error in found]
            copy.write_row(
                (
                    loader.plan.name,
                    partition,
                    chunk,
                    number,
                    list(key),
                    found[0]["reason"],
                    Jsonb(listed, dumps=dumps),
                    Jsonb(row, dumps=dumps),
                    attempts.get(key, 0) + 1,
                    loader.run_id,
                )
            )
